/* pipe(2), pipe2(2), SIGPIPE, and named pipes (fifo(7)). */
#include "tap.h"

TEST(basics)
{
	int p[2];
	char buf[16];
	CHECK_OK(pipe(p));
	CHECK_EQ(p[1], p[0] + 1);
	CHECK_EQ(fcntl(p[0], F_GETFL) & O_ACCMODE, O_RDONLY);
	CHECK_EQ(fcntl(p[1], F_GETFL) & O_ACCMODE, O_WRONLY);
	CHECK_EQ(write(p[1], "abc", 3), 3);
	CHECK_EQ(write(p[1], "def", 3), 3);
	int n = 0;
	CHECK_OK(ioctl(p[0], FIONREAD, &n));
	CHECK_EQ(n, 6);
	CHECK_EQ(read(p[0], buf, 4), 4);
	CHECK_MEM(buf, "abcd", 4);
	CHECK_EQ(read(p[0], buf, 16), 2); /* what is there, not more */
	close(p[1]);
	CHECK_EQ(read(p[0], buf, 16), 0);
	CHECK_EQ(read(p[0], buf, 16), 0);
	close(p[0]);
	CHECK_ERRNO(syscall(SYS_pipe, (void *)8), EFAULT);
	CHECK_ERRNO(pipe2(p, 0x40000000), EINVAL);
}

TEST(pipe2)
{
	int p[2];
	char c;
	CHECK_OK(pipe2(p, O_CLOEXEC | O_NONBLOCK));
	CHECK_EQ(fcntl(p[0], F_GETFD), FD_CLOEXEC);
	CHECK_EQ(fcntl(p[1], F_GETFD), FD_CLOEXEC);
	CHECK(fcntl(p[0], F_GETFL) & O_NONBLOCK);
	CHECK(fcntl(p[1], F_GETFL) & O_NONBLOCK);
	CHECK_ERRNO(read(p[0], &c, 1), EAGAIN);
	close(p[0]);
	close(p[1]);
}

TEST(capacity)
{
	static char big[100000];
	int p[2];
	pipe2(p, O_NONBLOCK);
	CHECK_EQ(write(p[1], big, sizeof big), 65536); /* a partial write of a large one */
	CHECK_ERRNO(write(p[1], "x", 1), EAGAIN);
	CHECK_EQ(read(p[0], big, 1), 1);
	/* PIPE_BUF or less is all or nothing. One byte was read, a page must be free. */
	CHECK_ERRNO(write(p[1], big, PIPE_BUF), EAGAIN);
	CHECK_EQ(read(p[0], big, 4096), 4096);
	CHECK_EQ(write(p[1], big, PIPE_BUF), PIPE_BUF);
	close(p[0]);
	close(p[1]);
}

static volatile sig_atomic_t sigpipes;
static void on_sigpipe(int sig)
{
	(void)sig;
	sigpipes++;
}

TEST(sigpipe)
{
	int p[2], status;
	pipe(p);
	close(p[0]);
	CHILD_STATUS(status)
	{
		write(p[1], "x", 1);
	}
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE);
	signal(SIGPIPE, SIG_IGN);
	CHECK_ERRNO(write(p[1], "x", 1), EPIPE);
	signal(SIGPIPE, on_sigpipe);
	CHECK_ERRNO(write(p[1], "x", 1), EPIPE);
	CHECK_EQ(sigpipes, 1);
	CHECK_EQ(write(p[1], "", 0), 0); /* nothing to write: no signal */
	CHECK_EQ(sigpipes, 1);
	close(p[1]);
}

TEST(blocking_writer)
{
	static char big[200000];
	int p[2];
	pipe(p);
	pid_t child = tap_fork();
	if (child == 0) {
		close(p[0]);
		for (size_t i = 0; i < sizeof big; i++)
			big[i] = i % 251;
		_exit(write(p[1], big, sizeof big) == sizeof big ? 0 : 1);
	}
	close(p[1]);
	size_t got = 0;
	ssize_t n;
	int good = 1;
	char buf[5000];
	while ((n = read(p[0], buf, sizeof buf)) > 0)
		for (ssize_t i = 0; i < n; i++, got++)
			good = good && buf[i] == (char)(got % 251);
	CHECK_EQ(got, sizeof big);
	CHECK(good);
	CHECK_EQ(tap_reap(child), 0);
	close(p[0]);
}

TEST(packets)
{
	/* O_DIRECT makes a packet pipe: one read takes one write, the rest of it is lost. */
	int p[2];
	char buf[16];
	CHECK_OK(pipe2(p, O_DIRECT));
	write(p[1], "abc", 3);
	write(p[1], "defgh", 5);
	CHECK_EQ(read(p[0], buf, 16), 3);
	CHECK_EQ(read(p[0], buf, 2), 2);
	fcntl(p[0], F_SETFL, O_NONBLOCK);
	CHECK_ERRNO(read(p[0], buf, 16), EAGAIN);
	close(p[0]);
	close(p[1]);
}

TEST(fifo_open)
{
	CHECK_OK(mkfifo("p", 0600));
	CHECK_ERRNO(open("p", O_WRONLY | O_NONBLOCK), ENXIO); /* no reader */
	int r = open("p", O_RDONLY | O_NONBLOCK);
	CHECK(r >= 0);
	char c;
	CHECK_EQ(read(r, &c, 1), 0); /* no writer: end of file, not EAGAIN */
	int w = open("p", O_WRONLY | O_NONBLOCK);
	CHECK(w >= 0);
	CHECK_ERRNO(read(r, &c, 1), EAGAIN);
	CHECK_EQ(write(w, "x", 1), 1);
	CHECK_EQ(read(r, &c, 1), 1);
	write(w, "y", 1);
	close(w);
	CHECK_EQ(read(r, &c, 1), 1); /* data outlives the writer */
	CHECK_EQ(read(r, &c, 1), 0);
	close(r);
	int rw = open("p", O_RDWR); /* Linux: does not block */
	CHECK(rw >= 0);
	CHECK_EQ(write(rw, "z", 1), 1);
	CHECK_EQ(read(rw, &c, 1), 1);
	CHECK_ERRNO(lseek(rw, 0, SEEK_SET), ESPIPE);
	close(rw);
}

TEST(fifo_rendezvous)
{
	char buf[8] = "";
	mkfifo("p", 0600);
	pid_t child = tap_fork();
	if (child == 0) {
		int w = open("p", O_WRONLY); /* waits for the reader */
		_exit(write(w, "hi", 2) == 2 ? 0 : 1);
	}
	int r = open("p", O_RDONLY); /* waits for the writer */
	CHECK_EQ(read(r, buf, 8), 2);
	CHECK_EQ(read(r, buf, 8), 0);
	CHECK_EQ(tap_reap(child), 0);
	close(r);
}

TEST(reopen_through_proc)
{
	int p[2];
	char path[64], c;
	pipe(p);
	snprintf(path, sizeof path, "/proc/self/fd/%d", p[0]);
	int w = open(path, O_WRONLY); /* the other end, from the reader's name */
	CHECK(w >= 0);
	CHECK_EQ(write(w, "q", 1), 1);
	CHECK_EQ(read(p[0], &c, 1), 1);
	close(w);
	close(p[0]);
	close(p[1]);
}

TEST(reopen_without_the_other_side)
{
	/* A FIFO would wait, or refuse; what bash gives for <(true) mustn't. */
	int p[2];
	char path[64], c;
	pipe(p);
	CHECK_EQ(write(p[1], "x", 1), 1);
	close(p[1]);
	snprintf(path, sizeof path, "/proc/self/fd/%d", p[0]);
	int r = open(path, O_RDONLY);
	CHECK(r >= 0);
	CHECK_EQ(read(r, &c, 1), 1);
	CHECK_EQ(read(r, &c, 1), 0);
	struct pollfd f = { .fd = r, .events = POLLIN };
	CHECK_EQ(poll(&f, 1, 0), 1);
	CHECK_EQ(f.revents, POLLHUP); /* no writer is to come */
	close(r);
	close(p[0]);
	pipe(p);
	close(p[0]);
	snprintf(path, sizeof path, "/proc/self/fd/%d", p[1]);
	int w = open(path, O_WRONLY | O_NONBLOCK);
	CHECK(w >= 0);
	signal(SIGPIPE, SIG_IGN);
	CHECK_ERRNO(write(w, "x", 1), EPIPE);
	close(w);
	CHECK_OK(w = open(path, O_WRONLY));
	close(w);
	close(p[1]);
}
