/* readv(2), writev(2), preadv(2), pwritev(2), preadv2(2). */
#include "tap.h"
#define N 10

TEST(scatter_gather)
{
	char a[4] = "", b[4] = "", c[8] = "";
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	struct iovec out[] = {{"abc", 3}, {"", 0}, {"defg", 4}, {"h", 1}};
	CHECK_EQ(writev(fd, out, 4), 8);
	lseek(fd, 0, SEEK_SET);
	struct iovec in[] = {{a, 3}, {b, 3}, {c, 8}};
	CHECK_EQ(readv(fd, in, 3), 8);
	CHECK_MEM(a, "abc", 3);
	CHECK_MEM(b, "def", 3);
	CHECK_MEM(c, "gh", 2);
	CHECK_EQ(readv(fd, in, 3), 0);
	CHECK_EQ(preadv(fd, in, 2, 2), 6);
	CHECK_MEM(a, "cde", 3);
	CHECK_EQ(pwritev(fd, out, 1, 5), 3);
	CHECK_EQ(preadv(fd, in, 3, 0), 8);
	CHECK_MEM(c, "bc", 2);
	CHECK_EQ(lseek(fd, 0, SEEK_CUR), 8);
	close(fd);
}

TEST(limits)
{
	char c = 0;
	static struct iovec many[IOV_MAX + 1];
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	for (int i = 0; i <= IOV_MAX; i++)
		many[i] = (struct iovec){&c, 1};
	CHECK_EQ(writev(fd, many, IOV_MAX), IOV_MAX);
	CHECK_ERRNO(writev(fd, many, IOV_MAX + 1), EINVAL);
	CHECK_ERRNO(syscall(SYS_writev, fd, many, -1L), EINVAL);
	CHECK_EQ(writev(fd, many, 0), 0);
	CHECK_EQ(syscall(SYS_writev, fd, NULL, 0), 0);
	/* A length above SSIZE_MAX is an error before anything is written. */
	struct iovec bad[] = {{&c, 1}, {&c, (size_t)-1}};
	CHECK_ERRNO(writev(fd, bad, 2), EINVAL);
	CHECK_EQ(lseek(fd, 0, SEEK_END), IOV_MAX);
	close(fd);
}

TEST(errors)
{
	char c = 0;
	struct iovec v = {&c, 1};
	int p[2];
	pipe(p);
	CHECK_ERRNO(readv(-1, &v, 1), EBADF);
	CHECK_ERRNO(preadv(p[0], &v, 1, 0), ESPIPE);
	CHECK_ERRNO(pwritev(p[1], &v, 1, 0), ESPIPE);
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	CHECK_ERRNO(preadv(fd, &v, 1, -1), EINVAL);
	CHECK_ERRNO(syscall(SYS_readv, fd, (void *)8, 1), EFAULT);
	struct iovec wild = {(void *)8, 1};
	CHECK_ERRNO(writev(fd, &wild, 1), EFAULT);
	/* A good segment before a bad one is written: a short count. */
	struct iovec half[] = {{"ab", 2}, {(void *)8, 1}};
	CHECK_EQ(writev(p[1], half, 1), 2);
	close(fd);
	close(p[0]);
	close(p[1]);
}

TEST(preadv2)
{
	char buf[N];
	struct iovec v = {buf, N};
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	write(fd, "0123456789", 10);
	lseek(fd, 3, SEEK_SET);
	ssize_t n = syscall(SYS_preadv2, fd, &v, 1, -1L, 0, 0);
	if (n == -1 && errno == ENOSYS)
		SKIP("preadv2 is newer than 4.4");
	CHECK_EQ(n, 7); /* offset -1: use and move the file offset */
	CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10);
	CHECK_EQ(syscall(SYS_preadv2, fd, &v, 1, 2L, 0, 0), 8);
	CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10);
	CHECK_ERRNO(syscall(SYS_preadv2, fd, &v, 1, -2L, -1L, 0), EINVAL);
	CHECK_ERRNO(syscall(SYS_preadv2, fd, &v, 1, 0L, 0, 0x40000000), EOPNOTSUPP);
	CHECK_ERRNO(syscall(SYS_pwritev2, fd, &v, 1, 0L, 0, 0x40000000), EOPNOTSUPP);
	struct iovec w = {"XY", 2};
	CHECK_EQ(syscall(SYS_pwritev2, fd, &w, 1, 0L, 0, 2 /* RWF_DSYNC */), 2);
	CHECK_EQ(pread(fd, buf, 3, 0), 3);
	CHECK_MEM(buf, "XY2", 3);
	close(fd);
}
