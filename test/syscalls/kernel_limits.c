/* Limits of what a process may make its kernel hold: RLIMIT_SIGPENDING, descriptors in flight, max_map_count,
 * descriptors, pipes. */
#include "tap.h"

static int count_pending(int signo)
{
	sigset_t set;
	siginfo_t info;
	int n = 0;
	sigemptyset(&set);
	sigaddset(&set, signo);
	while (sigtimedwait(&set, &info, &(struct timespec){0, 0}) == signo)
		n++;
	return n;
}

static void block(int signo)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, signo);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

/* A user of whom there is nothing yet: the limit counts signals of all of a user's processes. */
static void become_somebody(void)
{
	if (getuid() == 0)
		CHECK_OK(setuid(54321));
}

TEST(queued_signals_end_at_the_limit)
{
	IN_CHILD {
		block(SIGRTMIN);
		become_somebody();
		CHECK_OK(setrlimit(RLIMIT_SIGPENDING, &(struct rlimit){10, 10}));
		int n = 0;
		while (n < 1000 && sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = n}) == 0)
			n++;
		CHECK(n > 0 && n <= 10);
		CHECK_ERRNO(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 1}), EAGAIN);
		/* Without a value nothing is refused, and what has no room is lost. */
		int sent = 0;
		while (sent < 1000 && kill(getpid(), SIGRTMIN) == 0)
			sent++;
		CHECK_EQ(sent, 1000);
		CHECK_EQ(count_pending(SIGRTMIN), n);
	}
}

TEST(one_signal_of_kill_waits_beyond_the_limit)
{
	IN_CHILD {
		block(SIGRTMIN + 1);
		become_somebody();
		CHECK_OK(setrlimit(RLIMIT_SIGPENDING, &(struct rlimit){0, 0}));
		CHECK_ERRNO(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 1}), EAGAIN);
		for (int i = 0; i < 5; i++)
			CHECK_OK(kill(getpid(), SIGRTMIN + 1));
		CHECK_EQ(count_pending(SIGRTMIN + 1), 1);
	}
}

TEST(timers_end_at_the_limit_of_signals)
{
	IN_CHILD {
		become_somebody();
		CHECK_OK(setrlimit(RLIMIT_SIGPENDING, &(struct rlimit){5, 5}));
		struct sigevent e = {.sigev_notify = SIGEV_NONE};
		int n = 0;
		int id, last = -1;
		while (n < 100 && syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &id) == 0)
			n++, last = id;
		CHECK(n > 0 && n <= 5);
		CHECK_ERRNO(syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &id), EAGAIN);
		CHECK_OK(syscall(SYS_timer_delete, last));
		CHECK_OK(syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &id));
	}
}

TEST(mappings_end_at_max_map_count)
{
	IN_CHILD {
		long max = 65530;
		char *p = mmap(NULL, (2 * max + 10) * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		CHECK(p != MAP_FAILED);
		long n = 0;
		while (n < 2 * max && mprotect(p + n * 4096, 4096, PROT_READ) == 0)
			n += 2;
		CHECK_EQ(errno, ENOMEM);
		CHECK(n > max - 1000 && n <= max);
	}
}

TEST(descriptors_end_at_their_limit)
{
	IN_CHILD {
		CHECK_OK(setrlimit(RLIMIT_NOFILE, &(struct rlimit){64, 64}));
		while (dup(0) >= 0)
			;
		CHECK_EQ(errno, EMFILE);
		CHECK_ERRNO(socket(AF_UNIX, SOCK_STREAM, 0), EMFILE);
		int p[2];
		CHECK_OK(close(63));
		CHECK_ERRNO(pipe(p), EMFILE);
		CHECK_EQ(dup(0), 63);
	}
}

TEST(descriptors_in_flight_end_at_the_limit_of_descriptors)
{
	IN_CHILD {
		become_somebody();
		CHECK_OK(setrlimit(RLIMIT_NOFILE, &(struct rlimit){64, 64}));
		int p[2];
		CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p));
		char control[CMSG_SPACE(sizeof(int))];
		struct iovec iov = {"x", 1};
		struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &p[0], sizeof(int));
		int n = 0;
		while (n < 1000 && sendmsg(p[0], &m, 0) == 1)
			n++;
		CHECK_EQ(errno, ETOOMANYREFS);
		CHECK(n >= 64 && n <= 66);
	}
}

TEST(a_pipe_grows_to_the_limit_of_the_unprivileged)
{
	IN_CHILD {
		int p[2];
		CHECK_OK(pipe(p));
		become_somebody();
		CHECK_EQ(fcntl(p[1], F_SETPIPE_SZ, 1 << 20), 1 << 20);
		CHECK_ERRNO(fcntl(p[1], F_SETPIPE_SZ, (1 << 20) + 1), EPERM);
		CHECK_ERRNO(fcntl(p[1], F_SETPIPE_SZ, -1), EINVAL);
	}
}
