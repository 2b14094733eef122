/* madvise(2), msync(2), mincore(2), mlock(2), mlockall(2). */
#include "tap.h"
#define PAGE 4096UL
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

TEST(dontneed)
{
	char *m = mmap(NULL, 3 * PAGE, RW, ANON, -1, 0);
	memset(m, 7, 3 * PAGE);
	CHECK_OK(madvise(m + PAGE, PAGE, MADV_DONTNEED));
	CHECK_EQ(m[0], 7);
	CHECK_EQ(m[PAGE], 0); /* zero at once, not some day */
	CHECK_EQ(m[2 * PAGE], 7);
	munmap(m, 3 * PAGE);
	tap_write_file("f", "file");
	int fd = open("f", O_RDWR);
	m = mmap(NULL, PAGE, RW, MAP_PRIVATE, fd, 0);
	m[0] = 'F';
	CHECK_OK(madvise(m, PAGE, MADV_DONTNEED));
	CHECK_EQ(m[0], 'f'); /* private changes are gone */
	munmap(m, PAGE);
	m = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);
	m[0] = 'G';
	madvise(m, PAGE, MADV_DONTNEED);
	CHECK_EQ(m[0], 'G'); /* shared ones are the file's */
	munmap(m, PAGE);
	m = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	m[0] = 5;
	madvise(m, PAGE, MADV_DONTNEED);
	CHECK_EQ(m[0], 5);
	CHECK_OK(madvise(m, PAGE, MADV_REMOVE)); /* this one punches */
	CHECK_EQ(m[0], 0);
	munmap(m, PAGE);
	close(fd);
}

TEST(dontfork)
{
	char *m = mmap(NULL, 2 * PAGE, RW, ANON, -1, 0);
	m[0] = m[PAGE] = 1;
	CHECK_OK(madvise(m, PAGE, MADV_DONTFORK));
	IN_CHILD
	{
		CHECK_EQ(FAULT_LOAD(m), SIGSEGV);
		CHECK_EQ(m[PAGE], 1);
	}
	CHECK_OK(madvise(m, PAGE, MADV_DOFORK));
	IN_CHILD
	{
		CHECK_EQ(m[0], 1);
	}
	munmap(m, 2 * PAGE);
}

TEST(advice_and_errors)
{
	char *m = mmap(NULL, 3 * PAGE, RW, ANON, -1, 0);
	int hints[] = {MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTDUMP, MADV_DODUMP};
	for (unsigned i = 0; i < sizeof hints / sizeof *hints; i++)
		CHECK_OK(madvise(m, 3 * PAGE, hints[i]));
	CHECK_ERRNO(madvise(m + 1, PAGE, MADV_NORMAL), EINVAL);
	CHECK_ERRNO(madvise(m, PAGE, 12345), EINVAL);
	CHECK_OK(madvise(m, 0, MADV_DONTNEED));
	CHECK_ERRNO(madvise(m, -PAGE, MADV_DONTNEED), EINVAL);
	munmap(m + PAGE, PAGE);
	m[2 * PAGE] = 1;
	CHECK_ERRNO(madvise(m, 3 * PAGE, MADV_DONTNEED), ENOMEM);
	CHECK_EQ(m[2 * PAGE], 0); /* done all the same, past the hole too */
	munmap(m, 3 * PAGE);
}

TEST(mincore)
{
	unsigned char v[3] = {0xff, 0xff, 0xff};
	char *m = mmap(NULL, 3 * PAGE, RW, ANON, -1, 0);
	m[PAGE] = 1;
	CHECK_OK(mincore(m, 3 * PAGE, v));
	CHECK_EQ(v[1] & 1, 1);
	CHECK_ERRNO(mincore(m + 1, PAGE, v), EINVAL);
	CHECK_ERRNO(syscall(SYS_mincore, m, PAGE, 8), EFAULT);
	munmap(m + PAGE, PAGE);
	CHECK_ERRNO(mincore(m, 3 * PAGE, v), ENOMEM);
	munmap(m, 3 * PAGE);
}

TEST(msync)
{
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	ftruncate(fd, 2 * PAGE);
	char *m = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0);
	m[0] = 1;
	CHECK_OK(msync(m, PAGE, MS_SYNC));
	CHECK_OK(msync(m, PAGE, MS_ASYNC | MS_INVALIDATE));
	CHECK_OK(msync(m, PAGE, 0)); /* Linux allows neither */
	CHECK_ERRNO(msync(m, PAGE, MS_SYNC | MS_ASYNC), EINVAL);
	CHECK_ERRNO(msync(m, PAGE, 8), EINVAL);
	CHECK_ERRNO(msync(m + 1, PAGE, MS_SYNC), EINVAL);
	munmap(m + PAGE, PAGE);
	CHECK_ERRNO(msync(m, 2 * PAGE, MS_SYNC), ENOMEM);
	munmap(m, PAGE);
	close(fd);
}

TEST(mlock)
{
	char *m = mmap(NULL, 3 * PAGE, RW, ANON, -1, 0);
	CHECK_OK(mlock(m, PAGE));
	CHECK_OK(mlock(m + 5, 1));
	CHECK_OK(munlock(m, PAGE));
	CHECK_OK(munlock(m, PAGE));
	CHECK_OK(mlock(m, 0));
	CHECK_ERRNO(mlock(m, -PAGE), EINVAL);
	long r = syscall(SYS_mlock2, m, PAGE, 1 /* MLOCK_ONFAULT */);
	CHECK(r == 0 || errno == ENOSYS); /* 4.4 */
	r = syscall(SYS_mlock2, m, PAGE, 8);
	CHECK(r == -1 && (errno == EINVAL || errno == ENOSYS));
	munmap(m + PAGE, PAGE);
	CHECK_ERRNO(mlock(m, 3 * PAGE), ENOMEM);
	munmap(m, 3 * PAGE);
	CHECK_ERRNO(mlockall(0), EINVAL);
	CHECK_ERRNO(mlockall(0x100), EINVAL);
	CHECK_OK(munlockall());
}

TEST(mlock_limit)
{
	IN_CHILD
	{
		struct rlimit none = {0, 0}, small = {2 * PAGE, 2 * PAGE};
		char *m = mmap(NULL, 4 * PAGE, RW, ANON, -1, 0);
		setrlimit(RLIMIT_MEMLOCK, &small);
		tap_become(12345, 12345);
		CHECK_OK(mlock(m, 2 * PAGE));
		CHECK_ERRNO(mlock(m, 4 * PAGE), ENOMEM);
		munlock(m, 2 * PAGE);
		setrlimit(RLIMIT_MEMLOCK, &none);
		CHECK_ERRNO(mlock(m, PAGE), EPERM);
		char *l = mmap(NULL, PAGE, RW, ANON | MAP_LOCKED, -1, 0);
		CHECK(l == MAP_FAILED && errno == EPERM);
	}
}
