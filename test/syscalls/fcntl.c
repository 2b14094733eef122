/* fcntl(2): descriptors, status flags, owners, pipe size. Locks have programs of their own. */
#include "tap.h"

TEST(dupfd)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	int a = fcntl(fd, F_DUPFD, 100);
	CHECK_EQ(a, 100);
	CHECK_EQ(fcntl(a, F_GETFD), 0);
	int b = fcntl(fd, F_DUPFD, 100);
	CHECK_EQ(b, 101);
	int c = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	CHECK_EQ(c, fd + 1);
	CHECK_EQ(fcntl(c, F_GETFD), FD_CLOEXEC);
	CHECK_ERRNO(fcntl(fd, F_DUPFD, -1), EINVAL);
	CHECK_ERRNO(fcntl(fd, F_DUPFD, 1 << 30), EINVAL);
	CHECK_ERRNO(fcntl(-1, F_DUPFD, 0), EBADF);
	close(a);
	close(b);
	close(c);
	close(fd);
}

TEST(fd_flags)
{
	int fd = open("/dev/null", O_RDWR), d = dup(fd);
	CHECK_OK(fcntl(fd, F_SETFD, FD_CLOEXEC));
	CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	CHECK_EQ(fcntl(d, F_GETFD), 0); /* the flag is the descriptor's, not the description's */
	CHECK_OK(fcntl(fd, F_SETFD, 0xfe));
	CHECK_EQ(fcntl(fd, F_GETFD), 0); /* only bit 0 is kept */
	CHECK_ERRNO(fcntl(-1, F_GETFD), EBADF);
	CHECK_ERRNO(fcntl(fd, 9999), EINVAL);
	CHECK_OK(ioctl(fd, FIOCLEX));
	CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	CHECK_OK(ioctl(fd, FIONCLEX));
	CHECK_EQ(fcntl(fd, F_GETFD), 0);
	close(fd);
	close(d);
}

TEST(status_flags)
{
	tap_write_file("f", "");
	int fd = open("f", O_RDWR | O_APPEND), d = dup(fd), on = 1;
	/* The kernel sets O_LARGEFILE for every 64-bit open, where glibc calls it 0. */
	CHECK_EQ(fcntl(fd, F_GETFL) & ~0100000, O_RDWR | O_APPEND);
	CHECK_EQ(fcntl(fd, F_GETFL) & 0100000, 0100000);
	CHECK_OK(fcntl(fd, F_SETFL, O_NONBLOCK));
	CHECK_EQ(fcntl(d, F_GETFL) & ~0100000, O_RDWR | O_NONBLOCK); /* shared by duplicates */
	CHECK_OK(fcntl(fd, F_SETFL, O_WRONLY | O_TRUNC | O_CREAT));
	CHECK_EQ(fcntl(fd, F_GETFL) & ~0100000, O_RDWR); /* mode and creation flags do not change */
	CHECK_OK(ioctl(fd, FIONBIO, &on));
	CHECK_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	on = 0;
	CHECK_OK(ioctl(fd, FIONBIO, &on));
	CHECK_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
	CHECK_OK(fcntl(fd, F_SETFL, O_NOATIME));
	CHECK_EQ(fcntl(fd, F_GETFL) & O_NOATIME, O_NOATIME);
	close(d);
	close(fd);
	fd = open("f", O_RDONLY | O_SYNC | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	CHECK_EQ(fcntl(fd, F_GETFL) & ~0100000, O_RDONLY | O_SYNC | O_NONBLOCK | O_NOFOLLOW);
	close(fd);
}

TEST(setfl_append_takes_effect)
{
	char buf[16];
	tap_write_file("f", "abc");
	int fd = open("f", O_WRONLY);
	fcntl(fd, F_SETFL, O_APPEND);
	CHECK_EQ(write(fd, "d", 1), 1);
	fcntl(fd, F_SETFL, 0);
	lseek(fd, 0, SEEK_SET);
	CHECK_EQ(write(fd, "A", 1), 1);
	close(fd);
	tap_read_file("f", buf, sizeof buf);
	CHECK_STR(buf, "Abcd");
}

TEST(owner)
{
	int p[2];
	socketpair(AF_UNIX, SOCK_STREAM, 0, p);
	CHECK_EQ(fcntl(p[0], F_GETOWN), 0);
	CHECK_OK(fcntl(p[0], F_SETOWN, getpid()));
	CHECK_EQ(fcntl(p[0], F_GETOWN), getpid());
	struct f_owner_ex ex = {F_OWNER_TID, getpid()}, got;
	CHECK_OK(fcntl(p[0], F_SETOWN_EX, &ex));
	CHECK_OK(fcntl(p[0], F_GETOWN_EX, &got));
	CHECK_EQ(got.type, F_OWNER_TID);
	CHECK_EQ(got.pid, getpid());
	ex.type = 77;
	CHECK_ERRNO(fcntl(p[0], F_SETOWN_EX, &ex), EINVAL);
	CHECK_EQ(fcntl(p[0], F_GETSIG), 0);
	CHECK_OK(fcntl(p[0], F_SETSIG, SIGRTMIN));
	CHECK_EQ(fcntl(p[0], F_GETSIG), SIGRTMIN);
	CHECK_ERRNO(fcntl(p[0], F_SETSIG, 65), EINVAL);
	close(p[0]);
	close(p[1]);
}

static volatile int io_signals, io_fd;
static void on_io(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	io_signals++;
	io_fd = info->si_fd;
}

TEST(async)
{
	int p[2];
	struct sigaction action = {.sa_sigaction = on_io, .sa_flags = SA_SIGINFO};
	sigaction(SIGRTMIN, &action, NULL);
	socketpair(AF_UNIX, SOCK_STREAM, 0, p);
	fcntl(p[0], F_SETOWN, getpid());
	fcntl(p[0], F_SETSIG, SIGRTMIN);
	CHECK_OK(fcntl(p[0], F_SETFL, O_ASYNC | O_NONBLOCK));
	CHECK_EQ(fcntl(p[0], F_GETFL) & O_ASYNC, O_ASYNC);
	CHECK_EQ(write(p[1], "x", 1), 1);
	CHECK(io_signals >= 1); /* queued to this very thread before write returned */
	CHECK_EQ(io_fd, p[0]);
	close(p[0]);
	close(p[1]);
}

TEST(pipe_size)
{
	int p[2];
	pipe(p);
	CHECK_EQ(fcntl(p[0], F_GETPIPE_SZ), 65536);
	CHECK_EQ(fcntl(p[0], F_SETPIPE_SZ, 5000), 8192); /* a power of two of pages */
	CHECK_EQ(fcntl(p[1], F_GETPIPE_SZ), 8192);
	CHECK_EQ(fcntl(p[0], F_SETPIPE_SZ, 1), 4096);
	fcntl(p[1], F_SETFL, O_NONBLOCK);
	char buf[4096] = "";
	CHECK_EQ(write(p[1], buf, 4096), 4096);
	CHECK_ERRNO(write(p[1], buf, 1), EAGAIN);
	CHECK_EQ(fcntl(p[0], F_SETPIPE_SZ, 8192), 8192);
	CHECK_EQ(write(p[1], buf, 4096), 4096);
	CHECK_ERRNO(fcntl(p[0], F_SETPIPE_SZ, 4096), EBUSY);
	int fd = open("/dev/null", O_RDWR);
	CHECK_ERRNO(fcntl(fd, F_GETPIPE_SZ), EBADF);
	close(fd);
	close(p[0]);
	close(p[1]);
}
