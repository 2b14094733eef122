/* lseek(2), with SEEK_DATA and SEEK_HOLE. */
#include "tap.h"

TEST(whence)
{
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	write(fd, "0123456789", 10);
	CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10);
	CHECK_EQ(lseek(fd, 3, SEEK_SET), 3);
	CHECK_EQ(lseek(fd, 4, SEEK_CUR), 7);
	CHECK_EQ(lseek(fd, -2, SEEK_CUR), 5);
	CHECK_EQ(lseek(fd, -4, SEEK_END), 6);
	CHECK_EQ(lseek(fd, 100, SEEK_END), 110);
	CHECK_ERRNO(lseek(fd, -1, SEEK_SET), EINVAL);
	CHECK_ERRNO(lseek(fd, -111, SEEK_CUR), EINVAL);
	CHECK_ERRNO(lseek(fd, -11, SEEK_END), EINVAL);
	CHECK_ERRNO(lseek(fd, 0, 99), EINVAL);
	CHECK_ERRNO(lseek(fd, 0, -1), EINVAL);
	CHECK_EQ(lseek(fd, 0, SEEK_CUR), 110); /* failures move nothing */
	struct stat st;
	fstat(fd, &st);
	CHECK_EQ(st.st_size, 10); /* seeking past the end does not grow the file */
	close(fd);
	CHECK_ERRNO(lseek(fd, 0, SEEK_SET), EBADF);
}

TEST(unseekable)
{
	int p[2], s[2];
	pipe(p);
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	CHECK_ERRNO(lseek(p[0], 0, SEEK_CUR), ESPIPE);
	CHECK_ERRNO(lseek(p[1], 0, SEEK_END), ESPIPE);
	CHECK_ERRNO(lseek(s[0], 0, SEEK_SET), ESPIPE);
	close(p[0]);
	close(p[1]);
	close(s[0]);
	close(s[1]);
	/* /dev/null accepts any seek and stays at 0 (null_lseek). */
	int fd = open("/dev/null", O_RDWR);
	CHECK_EQ(lseek(fd, 1234, SEEK_SET), 0);
	close(fd);
}

TEST(data_and_hole)
{
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	char page[4096];
	memset(page, 'x', sizeof page);
	/* hole [0,1M), data [1M,1M+4K), hole up to 2M */
	pwrite(fd, page, sizeof page, 1 << 20);
	ftruncate(fd, 2 << 20);
	off_t data = lseek(fd, 0, SEEK_DATA);
	CHECK(data >= 0 && data <= 1 << 20);
	off_t hole = lseek(fd, 1 << 20, SEEK_HOLE);
	CHECK(hole >= (1 << 20) + 4096 && hole <= 2 << 20);
	CHECK_EQ(lseek(fd, 1 << 20, SEEK_DATA), 1 << 20);
	CHECK_EQ(lseek(fd, (1 << 20) + 7, SEEK_DATA), (1 << 20) + 7);
	/* There is a hole at the very end of every file, and nothing from the end on. */
	CHECK_ERRNO(lseek(fd, 2 << 20, SEEK_DATA), ENXIO);
	CHECK_ERRNO(lseek(fd, 2 << 20, SEEK_HOLE), ENXIO);
	CHECK_ERRNO(lseek(fd, -1, SEEK_DATA), ENXIO);
	CHECK_ERRNO(lseek(fd, -1, SEEK_HOLE), ENXIO);
	close(fd);
	tap_write_file("g", "abc");
	fd = open("g", O_RDONLY);
	CHECK_EQ(lseek(fd, 0, SEEK_HOLE), 3);
	CHECK_EQ(lseek(fd, 1, SEEK_DATA), 1);
	CHECK_ERRNO(lseek(fd, 3, SEEK_DATA), ENXIO);
	close(fd);
}
