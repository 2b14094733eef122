/* read(2), write(2), pread(2), pwrite(2): counts, offsets, holes, errors. */
#include "tap.h"

TEST(counts_and_offsets)
{
	char buf[16];
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	CHECK_EQ(write(fd, "0123456789", 10), 10);
	CHECK_EQ(read(fd, buf, 16), 0);
	lseek(fd, 4, SEEK_SET);
	CHECK_EQ(read(fd, buf, 16), 6);
	CHECK_MEM(buf, "456789", 6);
	CHECK_EQ(pread(fd, buf, 3, 2), 3);
	CHECK_MEM(buf, "234", 3);
	CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10);
	CHECK_EQ(pwrite(fd, "XY", 2, 1), 2);
	CHECK_EQ(pread(fd, buf, 16, 0), 10);
	CHECK_MEM(buf, "0XY3456789", 10);
	CHECK_EQ(pread(fd, buf, 16, 10), 0);
	CHECK_EQ(pread(fd, buf, 16, 1000), 0);
	close(fd);
}

TEST(holes_read_as_zero)
{
	char buf[8] = "zzzzzzz";
	struct stat st;
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	CHECK_EQ(pwrite(fd, "end", 3, 100000), 3);
	fstat(fd, &st);
	CHECK_EQ(st.st_size, 100003);
	CHECK(st.st_blocks * 512 < 100003);
	CHECK_EQ(pread(fd, buf, 8, 50000), 8);
	CHECK_MEM(buf, "\0\0\0\0\0\0\0\0", 8);
	close(fd);
}

TEST(zero_length)
{
	char c;
	tap_write_file("f", "x");
	int fd = open("f", O_RDWR);
	CHECK_EQ(read(fd, &c, 0), 0);
	CHECK_EQ(write(fd, &c, 0), 0);
	CHECK_EQ(syscall(SYS_read, fd, NULL, 0), 0);
	CHECK_EQ(syscall(SYS_write, fd, NULL, 0), 0);
	/* The access mode comes first, even for nothing. */
	close(fd);
	fd = open("f", O_RDONLY);
	CHECK_ERRNO(write(fd, &c, 0), EBADF);
	close(fd);
}

TEST(errors)
{
	char c = 0;
	int p[2];
	CHECK_ERRNO(read(-1, &c, 1), EBADF);
	CHECK_ERRNO(read(1000, &c, 1), EBADF);
	CHECK_ERRNO(write(-1, &c, 1), EBADF);
	tap_write_file("f", "x");
	int fd = open("f", O_RDWR);
	CHECK_ERRNO(pread(fd, &c, 1, -1), EINVAL);
	CHECK_ERRNO(pwrite(fd, &c, 1, -1), EINVAL);
	CHECK_ERRNO(syscall(SYS_read, fd, (void *)1, 1), EFAULT);
	CHECK_ERRNO(syscall(SYS_write, fd, (void *)1, 1), EFAULT);
	CHECK_ERRNO(syscall(SYS_read, fd, &c, (size_t)-1), EFAULT);
	close(fd);
	pipe(p);
	CHECK_ERRNO(pread(p[0], &c, 1, 0), ESPIPE);
	CHECK_ERRNO(pwrite(p[1], &c, 1, 0), ESPIPE);
	CHECK_ERRNO(read(p[1], &c, 1), EBADF);
	CHECK_ERRNO(write(p[0], &c, 1), EBADF);
	close(p[0]);
	close(p[1]);
}

TEST(partial_faults)
{
	/* What is copied before a bad page counts; only a copy of nothing is EFAULT. */
	char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(m + 4096, 4096);
	memset(m, 'a', 4096);
	int p[2];
	pipe(p);
	CHECK_EQ(write(p[1], "0123456789", 10), 10);
	ssize_t n = read(p[0], m + 4096 - 4, 10);
	CHECK(n == 4 || (n == -1 && errno == EFAULT));
	CHECK_MEM(m + 4092, "0123", 4);
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	write(fd, "0123456789", 10);
	n = pread(fd, m + 4096 - 4, 10, 0);
	CHECK_EQ(n, 4);
	n = pwrite(fd, m + 4096 - 4, 10, 0);
	CHECK(n == 4 || (n == -1 && errno == EFAULT));
	close(fd);
	close(p[0]);
	close(p[1]);
	munmap(m, 4096);
}

TEST(large)
{
	size_t n = 3 << 20;
	unsigned char *a = malloc(n), *b = calloc(1, n);
	for (size_t i = 0; i < n; i++)
		a[i] = i * 7 + (i >> 12);
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	CHECK_EQ(write(fd, a, n), (ssize_t)n);
	CHECK_EQ(pread(fd, b, n, 0), (ssize_t)n);
	CHECK(memcmp(a, b, n) == 0);
	CHECK_EQ(pread(fd, b, n, n - 5), 5);
	close(fd);
	free(a);
	free(b);
}

TEST(beyond_the_largest_offset)
{
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	char c = 0;
	/* offset + count overflows: EINVAL (rw_verify_area) or EFBIG from the file system. */
	CHECK(pwrite(fd, &c, 1, LLONG_MAX) == -1 && (errno == EINVAL || errno == EFBIG));
	CHECK(pread(fd, &c, 1, LLONG_MAX) <= 0);
	close(fd);
}

TEST(unlinked_file_lives_on)
{
	char buf[4] = "";
	struct stat st;
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	unlink("f");
	CHECK_EQ(write(fd, "abc", 3), 3);
	CHECK_EQ(pread(fd, buf, 3, 0), 3);
	CHECK_STR(buf, "abc");
	fstat(fd, &st);
	CHECK_EQ(st.st_nlink, 0);
	close(fd);
}
