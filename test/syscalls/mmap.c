/* mmap(2), munmap(2): anonymous and file mappings, placement, errors. */
#include "tap.h"
#define PAGE 4096UL
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static char *map(size_t n)
{
	return mmap(NULL, n, RW, ANON, -1, 0);
}
static int fails(void *r)
{
	return r == MAP_FAILED ? -1 : 0;
}

TEST(anonymous)
{
	char *m = map(3 * PAGE);
	REQUIRE(m != MAP_FAILED);
	CHECK_EQ((uintptr_t)m % PAGE, 0);
	int zero = 1;
	for (size_t i = 0; i < 3 * PAGE; i++)
		zero = zero && m[i] == 0;
	CHECK(zero);
	m[0] = m[2 * PAGE] = 1;
	CHECK_OK(munmap(m + PAGE, PAGE)); /* a hole in the middle */
	CHECK_EQ(FAULT_LOAD(m + PAGE), SIGSEGV);
	CHECK_EQ(tap_fault_info.si_code, SEGV_MAPERR);
	CHECK(tap_fault_info.si_addr == m + PAGE);
	CHECK_EQ(m[2 * PAGE], 1);
	CHECK_OK(munmap(m, 3 * PAGE)); /* holes do not matter */
	CHECK_OK(munmap(m, 3 * PAGE));
	CHECK_EQ(FAULT_STORE(m), SIGSEGV);
	/* The length is rounded up. */
	m = map(1);
	CHECK_EQ(FAULT_STORE(m + PAGE - 1), 0);
	CHECK_OK(munmap(m, 1));
}

TEST(errors)
{
	tap_write_file("f", "abc");
	int fd = open("f", O_RDONLY), wr = open("f", O_WRONLY), dir = open(".", O_RDONLY), p[2];
	pipe(p);
	CHECK_ERRNO(fails(mmap(NULL, 0, RW, ANON, -1, 0)), EINVAL);
	CHECK_ERRNO(fails(mmap(NULL, PAGE, RW, MAP_ANONYMOUS, -1, 0)), EINVAL); /* no type */
	CHECK_ERRNO(fails(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0)), EBADF);
	CHECK_ERRNO(fails(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, wr, 0)), EACCES);
	CHECK_ERRNO(fails(mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0)), EACCES);
	CHECK_ERRNO(fails(mmap(NULL, PAGE, RW, MAP_SHARED, wr, 0)), EACCES);
	CHECK_ERRNO(fails((void *)syscall(SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, fd, 1L)), EINVAL);
	CHECK_ERRNO(fails(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, dir, 0)), ENODEV);
	CHECK_ERRNO(fails(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, p[0], 0)), ENODEV);
	CHECK_ERRNO(fails(mmap((void *)1, PAGE, RW, ANON | MAP_FIXED, -1, 0)), EINVAL);
	CHECK_ERRNO(fails(mmap(NULL, ~0UL - PAGE, RW, ANON, -1, 0)), ENOMEM);
	CHECK_ERRNO(fails(mmap((void *)(0x7fffffffffff & ~(PAGE - 1)), 2 * PAGE, RW, ANON | MAP_FIXED, -1, 0)),
		    ENOMEM);
	CHECK_ERRNO(fails(mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE, fd, ~(off_t)(PAGE - 1) & LLONG_MAX)),
		    EOVERFLOW);
	CHECK_ERRNO(munmap((void *)1, PAGE), EINVAL);
	CHECK_ERRNO(munmap((void *)PAGE, 0), EINVAL);
	CHECK_ERRNO(munmap((void *)PAGE, ~0UL), EINVAL);
	/* A read-only descriptor does for a private writable mapping. */
	char *m = mmap(NULL, PAGE, RW, MAP_PRIVATE, fd, 0);
	CHECK(m != MAP_FAILED);
	close(fd), close(wr), close(dir), close(p[0]), close(p[1]);
	CHECK_MEM(m, "abc", 3); /* the mapping outlives the descriptor */
	munmap(m, PAGE);
}

TEST(placement)
{
	char *m = map(8 * PAGE);
	munmap(m, 8 * PAGE);
	/* A hint is followed when the place is free ... */
	CHECK(mmap(m, PAGE, RW, ANON, -1, 0) == m);
	/* ... and rounded down when not aligned, ignored when taken. */
	CHECK(mmap(m + 2 * PAGE + 5, PAGE, RW, ANON, -1, 0) == m + 2 * PAGE);
	char *other = mmap(m, PAGE, RW, ANON, -1, 0);
	CHECK(other != MAP_FAILED && other != m);
	munmap(other, PAGE);
	/* MAP_FIXED replaces what is there. */
	m[0] = 5;
	CHECK(mmap(m, 4 * PAGE, RW, ANON | MAP_FIXED, -1, 0) == m);
	CHECK_EQ(m[0], 0);
	char *n = mmap(m, PAGE, RW, ANON | 0x100000 /* MAP_FIXED_NOREPLACE, 4.17 */, -1, 0);
	if (n == MAP_FAILED)
		CHECK_EQ(errno, EEXIST);
	else
		CHECK(n != m); /* older kernels take it for a hint */
	n = mmap(m + 4 * PAGE, PAGE, RW, ANON | 0x100000, -1, 0);
	CHECK(n == m + 4 * PAGE);
	munmap(m, 5 * PAGE);
	n = mmap(NULL, PAGE, RW, ANON | MAP_32BIT, -1, 0);
	CHECK(n != MAP_FAILED && (uintptr_t)n < 1UL << 31);
	munmap(n, PAGE);
}

TEST(private_file)
{
	char buf[8];
	tap_write_file("f", "0123456789");
	int fd = open("f", O_RDWR);
	char *m = mmap(NULL, PAGE, RW, MAP_PRIVATE, fd, 0);
	CHECK_MEM(m, "0123456789", 10);
	CHECK_EQ(m[10], 0); /* the rest of the last page reads as zero */
	m[0] = 'X';
	pread(fd, buf, 1, 0);
	CHECK_EQ(buf[0], '0');
	munmap(m, PAGE);
	close(fd);
}

TEST(shared_file)
{
	char buf[16];
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	ftruncate(fd, 3 * PAGE);
	char *a = mmap(NULL, 3 * PAGE, RW, MAP_SHARED, fd, 0);
	char *b = mmap(NULL, PAGE, RW, MAP_SHARED, fd, PAGE);
	strcpy(a + PAGE, "through a");
	CHECK_STR(b, "through a"); /* two mappings of one page */
	pread(fd, buf, 10, PAGE);
	CHECK_STR(buf, "through a"); /* and read(2) sees it at once */
	pwrite(fd, "by write", 9, PAGE);
	CHECK_STR(b, "by write");
	CHECK_OK(msync(a, 3 * PAGE, MS_SYNC));
	munmap(a, 3 * PAGE), munmap(b, PAGE);
	pread(fd, buf, 9, PAGE);
	CHECK_STR(buf, "by write");
	close(fd);
}

TEST(past_the_end)
{
	tap_write_file("f", "abc");
	int fd = open("f", O_RDWR);
	char *m = mmap(NULL, 3 * PAGE, RW, MAP_SHARED, fd, 0);
	REQUIRE(m != MAP_FAILED);
	CHECK_EQ(FAULT_LOAD(m + 100), 0);
	CHECK_EQ(FAULT_LOAD(m + PAGE), SIGBUS);
	CHECK_EQ(tap_fault_info.si_code, BUS_ADRERR);
	CHECK(tap_fault_info.si_addr == m + PAGE);
	CHECK_EQ(FAULT_STORE(m + 2 * PAGE + 7), SIGBUS);
	CHECK(tap_fault_info.si_addr == m + 2 * PAGE + 7);
	/* A syscall on such a page gets EFAULT, no signal. */
	int n = open("/dev/zero", O_RDWR);
	CHECK_ERRNO(read(n, m + PAGE, 1), EFAULT);
	ftruncate(fd, 2 * PAGE); /* growing makes it valid */
	CHECK_EQ(FAULT_STORE(m + PAGE), 0);
	ftruncate(fd, PAGE);
	CHECK_EQ(FAULT_LOAD(m + PAGE), SIGBUS);
	/* Private copies of pages that were cut off go as well. */
	ftruncate(fd, 2 * PAGE);
	char *p = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, fd, 0);
	p[PAGE] = 1;
	ftruncate(fd, 0);
	CHECK_EQ(FAULT_LOAD(p + PAGE), SIGBUS);
	munmap(p, 2 * PAGE), munmap(m, 3 * PAGE);
	close(n), close(fd);
}

TEST(shared_over_fork)
{
	int *shared = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int *private = mmap(NULL, PAGE, RW, ANON, -1, 0);
	*shared = *private = 1;
	IN_CHILD
	{
		CHECK_EQ(*shared, 1);
		CHECK_EQ(*private, 1);
		*shared = *private = 2;
	}
	CHECK_EQ(*shared, 2);
	CHECK_EQ(*private, 1);
	munmap(shared, PAGE), munmap(private, PAGE);
}

TEST(copy_on_write)
{
	/* Both sides write after the fork, some pages before, some after; each keeps its own. */
	size_t pages = 64;
	char *m = map(pages * PAGE);
	for (size_t i = 0; i < pages; i++)
		m[i * PAGE] = i + 1;
	struct tap_gate go = tap_gate_new();
	pid_t child = tap_fork();
	if (child == 0) {
		for (size_t i = 0; i < pages; i += 2)
			m[i * PAGE] = -1;
		tap_gate_wait(go);
		int good = 1;
		for (size_t i = 0; i < pages; i++)
			good = good && m[i * PAGE] == (i % 2 ? (char)(i + 1) : -1);
		_exit(good ? 0 : 1);
	}
	for (size_t i = 0; i < pages; i += 3)
		m[i * PAGE] = 100;
	tap_gate_open(go);
	CHECK_EQ(tap_reap(child), 0);
	int good = 1;
	for (size_t i = 0; i < pages; i++)
		good = good && m[i * PAGE] == (i % 3 ? (char)(i + 1) : 100);
	CHECK(good);
	/* A grandchild sees its parent's pages, not its grandparent's. */
	IN_CHILD
	{
		m[PAGE] = 77;
		IN_CHILD
		{
			CHECK_EQ(m[PAGE], 77);
			CHECK_EQ(m[0], 100);
		}
	}
	CHECK_EQ(m[PAGE], 2);
	munmap(m, pages * PAGE);
	tap_gate_free(go);
}

TEST(kernel_writes_break_sharing)
{
	/* A read(2) into a shared-after-fork page must copy it first. */
	char *m = map(PAGE);
	strcpy(m, "old");
	int fd;
	tap_write_file("f", "new");
	fd = open("f", O_RDONLY);
	IN_CHILD
	{
		CHECK_EQ(read(fd, m, 4), 3);
		CHECK_STR(m, "new");
	}
	CHECK_STR(m, "old");
	CHECK_EQ(read(fd, m, 0), 0);
	close(fd);
	munmap(m, PAGE);
}

TEST(dev_zero_and_limits)
{
	int fd = open("/dev/zero", O_RDWR);
	char *m = mmap(NULL, PAGE, RW, MAP_PRIVATE, fd, 0);
	CHECK(m != MAP_FAILED && m[5] == 0);
	CHECK_EQ(FAULT_STORE(m), 0);
	munmap(m, PAGE);
	m = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);
	CHECK(m != MAP_FAILED);
	munmap(m, PAGE);
	close(fd);
	/* PROT_NONE reservations of any size are free. */
	m = mmap(NULL, 1UL << 40, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
	CHECK(m != MAP_FAILED);
	CHECK_EQ(FAULT_LOAD(m + (1UL << 39)), SIGSEGV);
	CHECK_EQ(tap_fault_info.si_code, SEGV_ACCERR);
	CHECK_OK(munmap(m, 1UL << 40));
	m = mmap(NULL, 4 * PAGE, RW, ANON | MAP_POPULATE, -1, 0);
	CHECK(m != MAP_FAILED && m[PAGE] == 0);
	munmap(m, 4 * PAGE);
}
