/* truncate(2), ftruncate(2), fallocate(2). */
#include "tap.h"
#include <linux/falloc.h>

static off_t size(int fd)
{
	struct stat st;
	return fstat(fd, &st) == 0 ? st.st_size : -1;
}

TEST(truncate)
{
	char buf[8];
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	write(fd, "0123456789", 10);
	CHECK_OK(ftruncate(fd, 4));
	CHECK_EQ(size(fd), 4);
	CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10); /* the offset stays */
	CHECK_OK(ftruncate(fd, 8));
	CHECK_EQ(pread(fd, buf, 8, 0), 8);
	CHECK_MEM(buf, "0123\0\0\0\0", 8); /* what was cut does not come back */
	CHECK_OK(truncate("f", 100000));
	CHECK_EQ(size(fd), 100000);
	CHECK_OK(truncate("f", 0));
	CHECK_EQ(size(fd), 0);
	CHECK_ERRNO(ftruncate(fd, -1), EINVAL);
	CHECK_ERRNO(truncate("f", -1), EINVAL);
	CHECK_ERRNO(truncate("none", 0), ENOENT);
	CHECK_ERRNO(truncate(".", 0), EISDIR);
	CHECK_ERRNO(truncate("f/x", 0), ENOTDIR);
	CHECK_ERRNO(ftruncate(-1, 0), EBADF);
	int d = open(".", O_RDONLY), p[2];
	CHECK_ERRNO(ftruncate(d, 0), EINVAL);
	pipe(p);
	CHECK_ERRNO(ftruncate(p[1], 0), EINVAL);
	mkfifo("p", 0600);
	CHECK_ERRNO(truncate("p", 0), EINVAL);
	close(d);
	close(p[0]);
	close(p[1]);
	close(fd);
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_ERRNO(truncate("f", 0), EACCES);
	}
}

TEST(cut_inside_a_page_clears_the_rest)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	char page[4096], buf[4096];
	memset(page, 'x', sizeof page);
	write(fd, page, sizeof page);
	ftruncate(fd, 100);
	ftruncate(fd, 4096);
	CHECK_EQ(pread(fd, buf, 4096, 0), 4096);
	CHECK(buf[99] == 'x' && buf[100] == 0 && buf[4095] == 0);
	/* ... and so it does for a mapping of it. */
	char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	memset(m, 'y', 4096);
	ftruncate(fd, 10);
	CHECK_EQ(m[9], 'y');
	CHECK_EQ(m[10], 0);
	munmap(m, 4096);
	close(fd);
}

TEST(fallocate)
{
	struct stat st;
	char buf[8];
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	if (fallocate(fd, 0, 0, 65536) == -1 && errno == EOPNOTSUPP)
		SKIP("the file system of /tmp has no fallocate");
	CHECK_EQ(size(fd), 65536);
	fstat(fd, &st);
	CHECK(st.st_blocks >= 65536 / 512);
	CHECK_OK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 65536, 65536));
	CHECK_EQ(size(fd), 65536);
	write(fd, "0123456789", 10);
	CHECK_OK(fallocate(fd, 0, 0, 10));
	CHECK_EQ(pread(fd, buf, 2, 0), 2);
	CHECK_MEM(buf, "01", 2); /* data is kept */
	CHECK_OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2, 4));
	CHECK_EQ(pread(fd, buf, 8, 0), 8);
	CHECK_MEM(buf, "01\0\0\0\0" "67", 8);
	CHECK_ERRNO(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4), EOPNOTSUPP);
	CHECK_ERRNO(fallocate(fd, 0x4000, 0, 4), EOPNOTSUPP);
	CHECK_ERRNO(fallocate(fd, 0, -1, 4), EINVAL);
	CHECK_ERRNO(fallocate(fd, 0, 0, 0), EINVAL);
	CHECK_ERRNO(fallocate(fd, 0, 0, -4), EINVAL);
	CHECK_ERRNO(fallocate(fd, 0, LLONG_MAX, 4), EFBIG);
	close(fd);
	CHECK_ERRNO(fallocate(fd, 0, 0, 4), EBADF);
	fd = open("f", O_RDONLY);
	CHECK_ERRNO(fallocate(fd, 0, 0, 4), EBADF);
	close(fd);
	int p[2];
	pipe(p);
	CHECK_ERRNO(fallocate(p[1], 0, 0, 4), ESPIPE);
	close(p[0]);
	close(p[1]);
	fd = open("/dev/null", O_RDWR);
	CHECK_ERRNO(fallocate(fd, 0, 0, 4), ENODEV);
	close(fd);
}
