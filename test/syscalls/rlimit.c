/* getrlimit(2), setrlimit(2), prlimit(2), and what each limit does. */
#include "tap.h"

TEST(get_and_set)
{
	struct rlimit r, old, set;
	for (int i = 0; i < RLIM_NLIMITS; i++)
		CHECK_OK(getrlimit(i, &r));
	CHECK_ERRNO(getrlimit(RLIM_NLIMITS, &r), EINVAL);
	CHECK_ERRNO(syscall(SYS_getrlimit, RLIMIT_NOFILE, 8), EFAULT);
	IN_CHILD
	{
		set = (struct rlimit){100, 200};
		CHECK_OK(setrlimit(RLIMIT_NOFILE, &set));
		getrlimit(RLIMIT_NOFILE, &r);
		CHECK(r.rlim_cur == 100 && r.rlim_max == 200);
		set = (struct rlimit){300, 200};
		CHECK_ERRNO(setrlimit(RLIMIT_NOFILE, &set), EINVAL);
		tap_become(12345, 12345);
		set = (struct rlimit){200, 200};
		CHECK_OK(setrlimit(RLIMIT_NOFILE, &set));
		set = (struct rlimit){200, 201};
		CHECK_ERRNO(setrlimit(RLIMIT_NOFILE, &set), EPERM);
		set = (struct rlimit){50, 50};
		CHECK_OK(setrlimit(RLIMIT_NOFILE, &set));
		IN_CHILD
		{
			getrlimit(RLIMIT_NOFILE, &r);
			CHECK_EQ(r.rlim_cur, 50);
		}
	}
	pid_t child = tap_fork();
	if (child == 0)
		for (;;)
			pause();
	set = (struct rlimit){64, 128};
	CHECK_OK(prlimit(child, RLIMIT_NOFILE, &set, &old));
	CHECK_OK(prlimit(child, RLIMIT_NOFILE, NULL, &r));
	CHECK(r.rlim_cur == 64 && r.rlim_max == 128);
	CHECK_ERRNO(prlimit(999999, RLIMIT_NOFILE, NULL, &r), ESRCH);
	CHECK_ERRNO(prlimit(child, RLIM_NLIMITS, NULL, &r), EINVAL);
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_ERRNO(prlimit(child, RLIMIT_NOFILE, NULL, &r), EPERM);
	}
	kill(child, SIGKILL);
	tap_reap(child);
}

static volatile sig_atomic_t xfsz;
static void on_xfsz(int sig)
{
	(void)sig;
	xfsz++;
}

TEST(fsize)
{
	int status;
	IN_CHILD
	{
		struct rlimit r = {10, 10};
		int fd = open("f", O_RDWR | O_CREAT, 0600), got[6], e[3];
		signal(SIGXFSZ, on_xfsz);
		setrlimit(RLIMIT_FSIZE, &r);
		/* No checks here: standard output may be a file. */
		got[0] = write(fd, "0123456789abc", 13); /* as much as fits */
		got[1] = write(fd, "x", 1), e[0] = errno;
		got[2] = ftruncate(fd, 11), e[1] = errno;
		got[3] = pwrite(fd, "ab", 2, 8);
		got[4] = ftruncate(fd, 10);
		r = (struct rlimit){RLIM_INFINITY, RLIM_INFINITY};
		_exit(got[0] == 10 && got[1] == -1 && e[0] == EFBIG && got[2] == -1 && e[1] == EFBIG && got[3] == 2 &&
				      got[4] == 0 && xfsz == 2
			      ? 0
			      : 1);
	}
	CHILD_STATUS(status)
	{
		struct rlimit r = {10, 10}, none = {0, 0};
		setrlimit(RLIMIT_CORE, &none);
		int fd = open("g", O_RDWR | O_CREAT, 0600);
		setrlimit(RLIMIT_FSIZE, &r);
		pwrite(fd, "x", 1, 10);
	}
	CHECK_EQ(WTERMSIG(status), SIGXFSZ);
}

TEST(address_space)
{
	IN_CHILD
	{
		struct rlimit r = {256 << 20, 256 << 20};
		CHECK_OK(setrlimit(RLIMIT_AS, &r));
		void *m = mmap(NULL, 512 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(m == MAP_FAILED && errno == ENOMEM);
		m = mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(m != MAP_FAILED);
		m = mremap(m, 64 << 20, 512 << 20, MREMAP_MAYMOVE);
		CHECK(m == MAP_FAILED && errno == ENOMEM);
	}
}

TEST(nproc)
{
	IN_CHILD
	{
		struct rlimit r = {2, 2};
		struct tap_gate g = tap_gate_new();
		setrlimit(RLIMIT_NPROC, &r);
		tap_become(23456, 23456); /* a user with no other processes */
		pid_t a = fork();
		if (a == 0) {
			tap_gate_wait(g);
			_exit(0);
		}
		CHECK(a > 0);
		CHECK_ERRNO(fork(), EAGAIN);
		tap_gate_open(g);
		tap_reap(a);
		a = fork();
		if (a == 0)
			_exit(0);
		CHECK(a > 0);
		tap_reap(a);
	}
}

TEST(cpu)
{
	int status;
	CHILD_STATUS(status)
	{
		/* The soft limit signals; 0 counts as one second. Use the hard one at once: SIGKILL. */
		struct rlimit r = {1, 1};
		setrlimit(RLIMIT_CPU, &r);
		for (;;)
			;
	}
	CHECK(WIFSIGNALED(status) && (WTERMSIG(status) == SIGKILL || WTERMSIG(status) == SIGXCPU));
}

TEST(nice_and_shown)
{
	char buf[4096];
	IN_CHILD
	{
		struct rlimit r = {123, 456};
		setrlimit(RLIMIT_NOFILE, &r);
		tap_read_file("/proc/self/limits", buf, sizeof buf);
		char *line = strstr(buf, "Max open files");
		unsigned long soft = 0, hard = 0;
		CHECK(line && sscanf(line + 14, "%lu %lu", &soft, &hard) == 2);
		CHECK(soft == 123 && hard == 456);
	}
}
