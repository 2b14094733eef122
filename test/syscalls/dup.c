/* dup(2), dup2(2), dup3(2), close_range where it exists. */
#include "tap.h"

TEST(dup)
{
	tap_write_file("f", "abcdef");
	int fd = open("f", O_RDONLY), d = dup(fd);
	char c;
	CHECK_EQ(d, fd + 1);
	read(fd, &c, 1);
	CHECK_EQ(lseek(d, 0, SEEK_CUR), 1);
	close(fd);
	CHECK_EQ(read(d, &c, 1), 1);
	CHECK_EQ(c, 'b');
	close(d);
	CHECK_ERRNO(dup(d), EBADF);
	CHECK_ERRNO(dup(-1), EBADF);
}

TEST(dup2)
{
	int p[2], fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	pipe(p);
	CHECK_EQ(dup2(fd, 50), 50);
	CHECK_EQ(fcntl(50, F_GETFD), 0);
	CHECK_EQ(dup2(fd, fd), fd);
	CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC); /* nothing happened to it */
	CHECK_EQ(dup2(fd, p[1]), p[1]); /* closes the pipe's only writer */
	char c;
	CHECK_EQ(read(p[0], &c, 1), 0);
	CHECK_ERRNO(dup2(-1, 50), EBADF);
	CHECK_OK(fcntl(50, F_GETFD)); /* a failure leaves the target open */
	CHECK_ERRNO(dup2(fd, -1), EBADF);
	CHECK_ERRNO(dup2(999, 999), EBADF);
	struct rlimit r;
	getrlimit(RLIMIT_NOFILE, &r);
	CHECK_ERRNO(dup2(fd, r.rlim_cur), EBADF);
	close(50);
	close(p[0]);
	close(p[1]);
	close(fd);
}

TEST(dup3)
{
	int fd = open("/dev/null", O_RDWR);
	CHECK_EQ(dup3(fd, 60, O_CLOEXEC), 60);
	CHECK_EQ(fcntl(60, F_GETFD), FD_CLOEXEC);
	CHECK_EQ(dup3(fd, 60, 0), 60);
	CHECK_EQ(fcntl(60, F_GETFD), 0);
	CHECK_ERRNO(dup3(fd, fd, 0), EINVAL);
	CHECK_ERRNO(dup3(fd, 61, O_NONBLOCK), EINVAL);
	CHECK_ERRNO(dup3(-1, 61, 0), EBADF);
	close(60);
	close(fd);
}

TEST(table_full)
{
	IN_CHILD
	{
		struct rlimit r;
		getrlimit(RLIMIT_NOFILE, &r);
		r.rlim_cur = 20;
		CHECK_OK(setrlimit(RLIMIT_NOFILE, &r));
		int last = -1, fd;
		while ((fd = dup(1)) >= 0)
			last = fd;
		CHECK_EQ(errno, EMFILE);
		CHECK_EQ(last, 19);
		CHECK_ERRNO(open("/dev/null", O_RDONLY), EMFILE);
		int p[2];
		CHECK_ERRNO(pipe(p), EMFILE);
		CHECK_ERRNO(socket(AF_UNIX, SOCK_STREAM, 0), EMFILE);
		close(10);
		CHECK_ERRNO(pipe(p), EMFILE); /* one is not enough, and it is not lost */
		CHECK_EQ(dup(1), 10);
	}
}
