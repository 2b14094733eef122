/* mremap(2). */
#include "tap.h"
#define PAGE 4096UL
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static int fails(void *r)
{
	return r == MAP_FAILED ? -1 : 0;
}

TEST(shrink_and_grow)
{
	char *m = mmap(NULL, 4 * PAGE, RW, ANON, -1, 0);
	m[0] = 1, m[PAGE] = 2;
	CHECK(mremap(m, 4 * PAGE, 2 * PAGE, 0) == m);
	CHECK_EQ(FAULT_LOAD(m + 2 * PAGE), SIGSEGV);
	CHECK(mremap(m, 2 * PAGE, 4 * PAGE, 0) == m); /* the place is still free */
	CHECK_EQ(m[PAGE], 2);
	CHECK_EQ(m[3 * PAGE], 0);
	mremap(m, 4 * PAGE, 2 * PAGE, 0);
	/* Something in the way: ENOMEM in place, a move when allowed. */
	mmap(m + 2 * PAGE, PAGE, PROT_NONE, ANON | MAP_FIXED, -1, 0);
	CHECK_ERRNO(fails(mremap(m, 2 * PAGE, 4 * PAGE, 0)), ENOMEM);
	char *n = mremap(m, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE);
	CHECK(n != MAP_FAILED && n != m);
	CHECK_EQ(n[0], 1);
	CHECK_EQ(n[PAGE], 2);
	CHECK_EQ(n[3 * PAGE], 0);
	CHECK_EQ(FAULT_LOAD(m), SIGSEGV);
	munmap(m, 3 * PAGE), munmap(n, 4 * PAGE);
}

TEST(fixed)
{
	char *m = mmap(NULL, 2 * PAGE, RW, ANON, -1, 0), *t = mmap(NULL, 4 * PAGE, RW, ANON, -1, 0);
	m[PAGE] = 3;
	t[0] = 9;
	CHECK(mremap(m, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, t) == t);
	CHECK_EQ(t[0], 0);
	CHECK_EQ(t[PAGE], 3);
	CHECK_EQ(FAULT_LOAD(m), SIGSEGV);
	CHECK_ERRNO(fails(mremap(t, PAGE, PAGE, MREMAP_FIXED, m)), EINVAL); /* needs MAYMOVE */
	CHECK_ERRNO(fails(mremap(t, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, t + PAGE)), EINVAL);
	CHECK_ERRNO(fails(mremap(t, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, m + 1)), EINVAL);
	munmap(t, 4 * PAGE);
}

TEST(errors)
{
	char *m = mmap(NULL, 4 * PAGE, RW, ANON, -1, 0);
	CHECK_ERRNO(fails(mremap(m + 1, PAGE, PAGE, 0)), EINVAL);
	CHECK_ERRNO(fails(mremap(m, PAGE, 0, 0)), EINVAL);
	CHECK_ERRNO(fails(mremap(m, PAGE, PAGE, 0x40)), EINVAL);
	CHECK_ERRNO(fails(mremap(m, 0, PAGE, MREMAP_MAYMOVE)), EINVAL); /* only for shared ones */
	munmap(m + PAGE, PAGE);
	CHECK_ERRNO(fails(mremap(m + PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE)), EFAULT);
	CHECK_ERRNO(fails(mremap(m, 4 * PAGE, 5 * PAGE, MREMAP_MAYMOVE)), EFAULT); /* across a hole */
	munmap(m, 4 * PAGE);
}

TEST(shared_file_keeps_its_place)
{
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	ftruncate(fd, 4 * PAGE);
	pwrite(fd, "one", 3, PAGE);
	pwrite(fd, "three", 5, 3 * PAGE);
	char *m = mmap(NULL, PAGE, RW, MAP_SHARED, fd, PAGE);
	char *n = mremap(m, PAGE, 3 * PAGE, MREMAP_MAYMOVE);
	CHECK(n != MAP_FAILED);
	CHECK_STR(n, "one");
	CHECK_STR(n + 2 * PAGE, "three"); /* what grows is the file, further on */
	/* An old size of 0 makes a second mapping of a shared one. */
	char *twin = mremap(n, 0, PAGE, MREMAP_MAYMOVE);
	CHECK(twin != MAP_FAILED && twin != n);
	twin[0] = 'O';
	CHECK_EQ(n[0], 'O');
	munmap(twin, PAGE), munmap(n, 3 * PAGE);
	close(fd);
}

TEST(keeps_protection_and_private_pages)
{
	char *m = mmap(NULL, PAGE, RW, ANON, -1, 0);
	m[5] = 5;
	mprotect(m, PAGE, PROT_READ);
	char *n = mremap(m, PAGE, 64 * PAGE, MREMAP_MAYMOVE);
	CHECK(n != MAP_FAILED);
	CHECK_EQ(n[5], 5);
	CHECK_EQ(FAULT_STORE(n + 63 * PAGE), SIGSEGV);
	IN_CHILD
	{
		CHECK_EQ(n[5], 5);
		char *o = mremap(n, 64 * PAGE, 128 * PAGE, MREMAP_MAYMOVE);
		CHECK_EQ(o[5], 5);
	}
	munmap(n, 64 * PAGE);
}
