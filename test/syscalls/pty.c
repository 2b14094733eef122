/* pty(7), termios(3), tty_ioctl(4): line discipline, signals, sessions, hang-up. */
#include "tap.h"
#include <termios.h>

/* open_pair gives master and slave with the driver's default settings. */
static int open_pair(int *slave)
{
	int m = posix_openpt(O_RDWR | O_NOCTTY);
	if (m < 0 || grantpt(m) != 0 || unlockpt(m) != 0)
		return -1;
	*slave = open(ptsname(m), O_RDWR | O_NOCTTY);
	return m;
}
#define PAIR(m, s)                                                                                 \
	int s = -1, m = open_pair(&s);                                                             \
	if (m < 0 || s < 0)                                                                        \
	SKIP("no pseudo-terminals here")
static ssize_t got(int fd, char *buf)
{
	ssize_t n = read(fd, buf, 255);
	buf[n > 0 ? n : 0] = 0;
	return n;
}

TEST(pair)
{
	int n = -1, lock = -1;
	char buf[256];
	PAIR(m, s);
	CHECK(isatty(m) && isatty(s));
	CHECK_OK(ioctl(m, TIOCGPTN, &n));
	snprintf(buf, sizeof buf, "/dev/pts/%d", n);
	CHECK_STR(ptsname(m), buf);
	struct stat st;
	fstat(s, &st);
	CHECK(S_ISCHR(st.st_mode));
	CHECK_EQ(st.st_rdev >> 8 & 0xfff, 136);
	int m2 = posix_openpt(O_RDWR | O_NOCTTY);
	CHECK_OK(ioctl(m2, TIOCGPTLCK, &lock));
	CHECK_EQ(lock, 1);
	CHECK_ERRNO(open(ptsname(m2), O_RDWR | O_NOCTTY), EIO); /* still locked */
	close(m2);
	CHECK_ERRNO(ioctl(open("/dev/null", O_RDWR), TCGETS, buf), ENOTTY);
	close(m), close(s);
}

TEST(output_and_echo)
{
	char buf[256];
	PAIR(m, s);
	CHECK_EQ(write(s, "a\nb", 3), 3);
	CHECK_EQ(got(m, buf), 4);
	CHECK_STR(buf, "a\r\nb"); /* ONLCR */
	CHECK_EQ(write(m, "x\r", 2), 2); /* as typed: ICRNL makes a newline of it */
	CHECK_EQ(got(s, buf), 2);
	CHECK_STR(buf, "x\n");
	CHECK_EQ(got(m, buf), 3); /* the echo */
	CHECK_STR(buf, "x\r\n");
	struct termios t;
	tcgetattr(s, &t);
	t.c_lflag &= ~ECHO;
	CHECK_OK(tcsetattr(s, TCSANOW, &t));
	write(m, "quiet\n", 6);
	got(s, buf);
	fcntl(m, F_SETFL, O_NONBLOCK);
	CHECK_ERRNO(read(m, buf, 9), EAGAIN);
	close(m), close(s);
}

TEST(canonical)
{
	char buf[256];
	PAIR(m, s);
	fcntl(s, F_SETFL, O_NONBLOCK);
	write(m, "ab", 2);
	CHECK_ERRNO(read(s, buf, 9), EAGAIN); /* no line yet */
	write(m, "c\177d\n", 4); /* DEL erases the c */
	CHECK_EQ(got(s, buf), 4);
	CHECK_STR(buf, "abd\n");
	write(m, "junk\025kept\n", 10); /* ^U kills the line */
	CHECK_EQ(got(s, buf), 5);
	CHECK_STR(buf, "kept\n");
	write(m, "one\ntwo\n", 8);
	CHECK_EQ(got(s, buf), 4); /* one line a read */
	CHECK_EQ(read(s, buf, 2), 2); /* part of a line leaves the rest */
	CHECK_EQ(got(s, buf), 2);
	write(m, "end\004", 4); /* ^D gives what there is */
	CHECK_EQ(got(s, buf), 3);
	write(m, "\004", 1);
	CHECK_EQ(got(s, buf), 0); /* and at the start of a line end of file */
	CHECK_ERRNO(read(s, buf, 9), EAGAIN); /* only once */
	write(m, "a\026\004b\n", 5); /* ^V takes the next literally */
	CHECK_EQ(got(s, buf), 4);
	CHECK_STR(buf, "a\004b\n");
	int n = -1;
	write(m, "12345\n", 6);
	/* Linux hands what the master wrote to the line discipline in a work queue. read(2) and poll(2)
	 * of the slave wait for that queue, FIONREAD does not. */
	struct pollfd f = {s, POLLIN, 0};
	CHECK_EQ(poll(&f, 1, -1), 1);
	CHECK_OK(ioctl(s, FIONREAD, &n));
	CHECK_EQ(n, 6);
	CHECK_OK(tcflush(s, TCIFLUSH));
	CHECK_ERRNO(read(s, buf, 9), EAGAIN);
	CHECK_ERRNO(ioctl(s, TCFLSH, 99), EINVAL);
	close(m), close(s);
}

TEST(raw)
{
	char buf[256];
	struct termios t;
	PAIR(m, s);
	tcgetattr(s, &t);
	CHECK(t.c_lflag & ICANON && t.c_lflag & ECHO && t.c_lflag & ISIG && t.c_oflag & OPOST && t.c_iflag & ICRNL);
	CHECK_EQ(t.c_cc[VINTR], 3);
	CHECK_EQ(t.c_cc[VEOF], 4);
	CHECK_EQ(t.c_cc[VERASE], 0177);
	cfmakeraw(&t);
	CHECK_OK(tcsetattr(s, TCSANOW, &t));
	write(m, "a\003\r\004", 4);
	CHECK_EQ(got(s, buf), 4); /* nothing is special */
	CHECK_MEM(buf, "a\003\r\004", 4);
	write(s, "x\n", 2);
	CHECK_EQ(got(m, buf), 2);
	t.c_cc[VMIN] = 0, t.c_cc[VTIME] = 0;
	tcsetattr(s, TCSANOW, &t);
	CHECK_EQ(read(s, buf, 9), 0); /* MIN and TIME 0: what there is, at once */
	t.c_cc[VTIME] = 1;
	tcsetattr(s, TCSANOW, &t);
	CHECK_EQ(read(s, buf, 9), 0); /* after a tenth of a second */
	t.c_cc[VMIN] = 3, t.c_cc[VTIME] = 0;
	tcsetattr(s, TCSANOW, &t);
	write(m, "ab", 2);
	struct pollfd f = {s, POLLIN, 0};
	CHECK_EQ(poll(&f, 1, 0), 0); /* fewer than MIN */
	write(m, "c", 1);
	CHECK_EQ(poll(&f, 1, 0), 1);
	CHECK_EQ(got(s, buf), 3);
	close(m), close(s);
}

TEST(winsize)
{
	struct winsize w = {24, 80, 0, 0}, g;
	PAIR(m, s);
	CHECK_OK(ioctl(m, TIOCGWINSZ, &g));
	CHECK_EQ(g.ws_row, 0);
	CHECK_OK(ioctl(m, TIOCSWINSZ, &w));
	CHECK_OK(ioctl(s, TIOCGWINSZ, &g));
	CHECK(g.ws_row == 24 && g.ws_col == 80);
	CHECK_ERRNO(ioctl(s, TIOCGWINSZ, 8), EFAULT);
	close(m), close(s);
}

TEST(hang_up)
{
	char buf[256];
	PAIR(m, s);
	struct pollfd f = {m, POLLIN, 0};
	write(s, "last", 4);
	close(s);
	CHECK_EQ(got(m, buf), 4); /* what was written before is still read */
	CHECK_ERRNO(read(m, buf, 9), EIO); /* no slave open: EIO, not end of file */
	CHECK_EQ(poll(&f, 1, 0), 1);
	CHECK(f.revents & POLLHUP);
	s = open(ptsname(m), O_RDWR | O_NOCTTY); /* it may be opened again */
	CHECK(s >= 0);
	close(m);
	CHECK_EQ(read(s, buf, 9), 0); /* the slave sees end of file */
	CHECK_ERRNO(write(s, "x", 1), EIO);
	f.fd = s;
	poll(&f, 1, 0);
	CHECK(f.revents & POLLHUP);
	close(s);
}

static volatile sig_atomic_t caught;
static void on_signal(int sig)
{
	caught = sig;
}

TEST(controlling_terminal)
{
	PAIR(m0, s0);
	close(m0); /* the child's must be the last one */
	close(s0);
	IN_CHILD
	{
		int s, m = open_pair(&s);
		CHECK_ERRNO(ioctl(s, TIOCSCTTY, 0), EPERM); /* not a session leader */
		CHECK_ERRNO(tcgetpgrp(s), ENOTTY); /* not our terminal */
		setsid();
		CHECK_OK(ioctl(s, TIOCSCTTY, 0));
		CHECK_EQ(tcgetpgrp(s), getpid());
		CHECK_EQ(tcgetsid(s), getpid());
		CHECK_EQ(tcgetsid(m), getpid());
		int tty = open("/dev/tty", O_RDWR);
		CHECK(tty >= 0);
		CHECK_ERRNO(tcsetpgrp(s, 999999), ESRCH);
		CHECK_ERRNO(tcsetpgrp(s, -1), EINVAL);
		signal(SIGINT, on_signal), signal(SIGQUIT, on_signal), signal(SIGTSTP, on_signal);
		signal(SIGWINCH, on_signal);
		write(m, "\003", 1);
		while (caught != SIGINT)
			sched_yield();
		CHECK_EQ(caught, SIGINT);
		write(m, "\034", 1);
		while (caught != SIGQUIT)
			sched_yield();
		CHECK_EQ(caught, SIGQUIT);
		write(m, "\032", 1);
		while (caught != SIGTSTP)
			sched_yield();
		CHECK_EQ(caught, SIGTSTP);
		struct winsize w = {10, 10, 0, 0};
		ioctl(m, TIOCSWINSZ, &w);
		while (caught != SIGWINCH)
			sched_yield();
		CHECK_EQ(caught, SIGWINCH);
		signal(SIGHUP, on_signal);
		close(m); /* the last master: SIGHUP to the session leader */
		while (caught != SIGHUP)
			sched_yield();
		CHECK_EQ(caught, SIGHUP);
	}
}

TEST(background_job)
{
	PAIR(m, s);
	close(m); /* each child needs the last one to be its own */
	close(s);
	IN_CHILD
	{
		int slave, master = open_pair(&slave), status;
		setsid();
		ioctl(slave, TIOCSCTTY, 0);
		struct tap_gate go = tap_gate_new();
		pid_t job = tap_fork();
		if (job == 0) {
			char c;
			setpgid(0, 0);
			tap_gate_wait(go);
			read(slave, &c, 1); /* SIGTTIN stops us; in the foreground it goes on */
			_exit(c);
		}
		setpgid(job, job);
		tap_gate_open(go);
		CHECK_EQ(waitpid(job, &status, WUNTRACED), job);
		CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTIN);
		CHECK_OK(tcsetpgrp(slave, job));
		CHECK_EQ(tcgetpgrp(slave), job);
		kill(job, SIGCONT);
		write(master, "A\n", 2);
		CHECK_EQ(waitpid(job, &status, 0), job);
		CHECK_EQ(WEXITSTATUS(status), 'A');
		/* We are in the background now: tcsetpgrp needs SIGTTOU out of the way. */
		signal(SIGTTOU, SIG_IGN);
		CHECK_OK(tcsetpgrp(slave, getpgrp()));
		/* TOSTOP makes background writes stop; without it they pass. */
		signal(SIGTTOU, SIG_DFL);
		job = tap_fork();
		if (job == 0) {
			setpgid(0, 0);
			write(slave, "w", 1);
			struct termios t;
			tcgetattr(slave, &t);
			t.c_lflag |= TOSTOP;
			signal(SIGTTOU, SIG_IGN);
			tcsetattr(slave, TCSANOW, &t);
			signal(SIGTTOU, SIG_DFL);
			write(slave, "w", 1);
			_exit(0);
		}
		CHECK_EQ(waitpid(job, &status, WUNTRACED), job);
		CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTOU);
		kill(job, SIGKILL);
		waitpid(job, &status, 0);
		signal(SIGHUP, SIG_IGN);
		CHECK_OK(ioctl(slave, TIOCNOTTY));
		CHECK_ERRNO(open("/dev/tty", O_RDWR), ENXIO);
	}
}

/* Both directions have an end, and in raw mode nothing is lost before it. */
static long fill(int fd, size_t size)
{
	static char b[4096];
	long done = 0;
	memset(b, 'x', sizeof b);
	for (int i = 0; i < 100000; i++) {
		ssize_t n = write(fd, b, size);
		if (n < 0)
			return errno == EAGAIN ? done : -1;
		done += n;
	}
	return -2;
}
static long drain(int fd, long much)
{
	static char b[4096];
	long done = 0;
	while (done < much) {
		struct pollfd p = {fd, POLLIN, 0};
		if (poll(&p, 1, 5000) != 1)
			break;
		ssize_t n = read(fd, b, sizeof b);
		if (n <= 0)
			break;
		done += n;
	}
	return done;
}
TEST(full)
{
	PAIR(m, s);
	fcntl(m, F_SETFL, O_RDWR | O_NONBLOCK);
	fcntl(s, F_SETFL, O_RDWR | O_NONBLOCK);
	/* A line without an end: what doesn't fit is dropped, and still a writer finds no room at times. */
	CHECK(fill(m, 4096) >= 4095);
	tcflush(m, TCIOFLUSH);
	close(s);
	close(m);
	for (size_t size = 1; size <= 4096; size *= 64) {
		PAIR(m, s);
		fcntl(m, F_SETFL, O_RDWR | O_NONBLOCK);
		fcntl(s, F_SETFL, O_RDWR | O_NONBLOCK);
		struct termios t;
		tcgetattr(s, &t);
		cfmakeraw(&t);
		tcsetattr(s, TCSANOW, &t);
		long n = fill(m, size);
		CHECK(n >= 4095);
		CHECK_EQ(drain(s, n), n);
		n = fill(s, size);
		CHECK(n >= 4096);
		CHECK_EQ(drain(m, n), n);
		CHECK_EQ(drain(s, 0), 0);
		close(s);
		close(m);
	}
}
