/* pidfd_open(2), pidfd_send_signal(2), CLONE_PIDFD, waitid(2) with P_PIDFD: processes by descriptors. */
#include "tap.h"
#include <sys/epoll.h>

enum { NR_PIDFD_SEND_SIGNAL = 424, NR_PIDFD_OPEN = 434, NR_CLONE3 = 435, BY_PIDFD = 3 };
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif

static int pidfd_open_(pid_t pid, unsigned flags) { return syscall(NR_PIDFD_OPEN, pid, flags); }
static int pidfd_send(int fd, int sig, siginfo_t *info, unsigned flags)
{
	return syscall(NR_PIDFD_SEND_SIGNAL, fd, sig, info, flags);
}
static int wait_pidfd(int fd, siginfo_t *info, int options)
{
	return syscall(SYS_waitid, BY_PIDFD, fd, info, options, NULL);
}

struct args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};
static long clone3(struct args *a) { return syscall(NR_CLONE3, a, sizeof *a); }

#define NEED_PIDFD()                                                                               \
	if (pidfd_open_(-1, 0) == -1 && errno == ENOSYS)                                           \
	SKIP("needs pidfd_open")

static int readable(int fd, int timeout)
{
	struct pollfd p = {fd, POLLIN, 0};
	int n;
	while ((n = poll(&p, 1, timeout)) == -1 && errno == EINTR)
		;
	return n == 1 && (p.revents & POLLIN);
}
static int ready(int ep, struct epoll_event *e, int timeout)
{
	int n;
	while ((n = epoll_wait(ep, e, 1, timeout)) == -1 && errno == EINTR)
		;
	return n;
}

static int lowest_free(void)
{
	int fd = dup(1);
	close(fd);
	return fd;
}

TEST(of_a_new_child)
{
	NEED_PIDFD();
	struct tap_gate g = tap_gate_new();
	int fd = -1, tid = -1, expected = lowest_free();
	struct args a = {.flags = CLONE_PIDFD | CLONE_PARENT_SETTID, .pidfd = (uintptr_t)&fd, .parent_tid = (uintptr_t)&tid,
			 .exit_signal = SIGCHLD};
	long pid = clone3(&a);
	if (pid == 0) {
		tap_gate_wait(g);
		_exit(fcntl(expected, F_GETFD) == -1 && errno == EBADF ? 5 : 1); /* it is the parent's alone */
	}
	REQUIRE(pid > 0);
	CHECK_EQ(fd, expected);
	CHECK_EQ(tid, pid);
	CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	CHECK_EQ(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR);
	CHECK(!readable(fd, 0));
	siginfo_t info = {0};
	CHECK_EQ(wait_pidfd(fd, &info, WEXITED | WNOHANG), 0);
	CHECK_EQ(info.si_pid, 0);
	char c;
	CHECK_ERRNO(read(fd, &c, 1), EINVAL);
	CHECK_ERRNO(write(fd, &c, 1), EINVAL);
	tap_gate_open(g);
	CHECK(readable(fd, -1));
	CHECK_EQ(wait_pidfd(fd, &info, WEXITED | WNOWAIT), 0);
	CHECK_EQ(info.si_pid, pid);
	CHECK_EQ(info.si_status, 5);
	CHECK_OK(pidfd_send(fd, 0, NULL, 0)); /* a zombie */
	CHECK_OK(pidfd_send(fd, SIGTERM, NULL, 0));
	CHECK_EQ(wait_pidfd(fd, &info, WEXITED), 0);
	CHECK_EQ(info.si_status, 5);
	CHECK(readable(fd, 0));
	CHECK_ERRNO(pidfd_send(fd, 0, NULL, 0), ESRCH);
	CHECK_ERRNO(wait_pidfd(fd, &info, WEXITED), ECHILD);
	CHECK_OK(close(fd));
	tap_gate_free(g);
}

TEST(by_clone)
{
	NEED_PIDFD();
	int fd = -1;
	long pid = syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, &fd, 0, 0);
	if (pid == 0)
		_exit(3);
	siginfo_t info = {0};
	CHECK_EQ(wait_pidfd(fd, &info, WEXITED), 0);
	CHECK_EQ(info.si_pid, pid);
	CHECK_EQ(info.si_status, 3);
	close(fd);
	CHECK_ERRNO(syscall(SYS_clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, 0, &fd, 0, 0), EINVAL);
	CHECK_ERRNO(syscall(SYS_clone, CLONE_PIDFD | CLONE_DETACHED | SIGCHLD, 0, &fd, 0, 0), EINVAL);
	int before = lowest_free();
	CHECK_ERRNO(syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, 8, 0, 0), EFAULT);
	CHECK_EQ(lowest_free(), before);
	CHECK_ERRNO(waitpid(-1, NULL, __WALL), ECHILD);
	struct args a = {.flags = CLONE_PIDFD | CLONE_PARENT_SETTID, .pidfd = (uintptr_t)&fd, .parent_tid = (uintptr_t)&fd};
	CHECK_ERRNO(clone3(&a), EINVAL);
	IN_CHILD
	{
		struct rlimit none = {0, 0};
		setrlimit(RLIMIT_NOFILE, &none);
		CHECK_ERRNO(syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, &fd, 0, 0), EMFILE);
		CHECK_ERRNO(waitpid(-1, NULL, __WALL), ECHILD);
	}
}

static void *sleep_on(void *gate)
{
	tap_gate_wait(*(struct tap_gate *)gate);
	return NULL;
}

TEST(open)
{
	NEED_PIDFD();
	int fd = pidfd_open_(getpid(), 0);
	CHECK(fd >= 0);
	CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	CHECK(!readable(fd, 0));
	close(fd);
	fd = pidfd_open_(getppid(), O_NONBLOCK);
	if (getppid() != 0) {
		CHECK(fd >= 0);
		CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
		close(fd);
	}
	CHECK_ERRNO(pidfd_open_(0, 0), EINVAL);
	CHECK_ERRNO(pidfd_open_(-1, 0), EINVAL);
	CHECK_ERRNO(pidfd_open_(INT_MAX, 0), ESRCH);
	CHECK_ERRNO(pidfd_open_(getpid(), 1), EINVAL);
	CHECK_ERRNO(pidfd_open_(getpid(), O_CLOEXEC), EINVAL);
}

TEST(leader_ends_first)
{
	NEED_PIDFD();
	struct tap_gate g = tap_gate_new();
	pid_t pid = tap_fork();
	if (pid == 0) {
		pthread_t t;
		pthread_create(&t, NULL, sleep_on, &g);
		syscall(SYS_exit, 0);
	}
	int fd = pidfd_open_(pid, 0);
	char path[64], state = 0;
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	while (state != 'Z') { /* the first thread */
		FILE *f = fopen(path, "r");
		if (f == NULL || fscanf(f, "%*d %*s %c", &state) != 1)
			state = 'Z';
		if (f)
			fclose(f);
		sched_yield();
	}
	CHECK(!readable(fd, 0));
	tap_gate_open(g);
	CHECK(readable(fd, -1));
	CHECK_EQ(tap_reap(pid), 0);
	close(fd);
	tap_gate_free(g);
}

static volatile int got, got_code, got_value;
static void on_signal(int sig, siginfo_t *info, void *context)
{
	(void)context;
	got = sig;
	got_code = info->si_code;
	got_value = info->si_value.sival_int;
}

TEST(signals)
{
	NEED_PIDFD();
	struct sigaction a = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
	sigaction(SIGUSR1, &a, NULL);
	int me = pidfd_open_(getpid(), 0);
	CHECK_OK(pidfd_send(me, SIGUSR1, NULL, 0));
	CHECK_EQ(got, SIGUSR1);
	CHECK_EQ(got_code, SI_USER);
	siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};
	info.si_value.sival_int = 4711;
	CHECK_OK(pidfd_send(me, SIGUSR1, &info, 0));
	CHECK_EQ(got_code, SI_QUEUE);
	CHECK_EQ(got_value, 4711);
	CHECK_ERRNO(pidfd_send(me, SIGUSR2, &info, 0), EINVAL); /* which of them? */
	CHECK_ERRNO(pidfd_send(me, SIGUSR1, (void *)8, 0), EFAULT);
	CHECK_OK(pidfd_send(me, 0, NULL, 0));
	CHECK_ERRNO(pidfd_send(me, 65, NULL, 0), EINVAL);
	CHECK_ERRNO(pidfd_send(me, 0, NULL, 1 << 20), EINVAL);
	CHECK_ERRNO(pidfd_send(999, 0, NULL, 0), EBADF);
	CHECK_ERRNO(pidfd_send(1, 0, NULL, 0), EBADF);
	struct tap_gate g = tap_gate_new();
	pid_t pid = tap_fork();
	if (pid == 0) {
		tap_gate_wait(g);
		_exit(0);
	}
	int fd = pidfd_open_(pid, 0);
	info.si_code = SI_USER;
	CHECK_ERRNO(pidfd_send(fd, SIGUSR1, &info, 0), EPERM);
	IN_CHILD
	{
		CHECK_OK(tap_become(1234, 1234));
		CHECK_ERRNO(pidfd_send(fd, SIGKILL, NULL, 0), EPERM);
		CHECK_ERRNO(wait_pidfd(fd, NULL, WEXITED), ECHILD); /* somebody else's */
	}
	CHECK_OK(pidfd_send(fd, SIGKILL, NULL, 0));
	CHECK_EQ(tap_reap(pid), SIGKILL);
	CHECK_ERRNO(pidfd_send(fd, SIGKILL, NULL, 0), ESRCH);
	close(fd);
	close(me);
	tap_gate_free(g);
}

/* A number that belongs to another by now isn't the process. */
TEST(waiting)
{
	NEED_PIDFD();
	siginfo_t info;
	struct tap_gate g = tap_gate_new();
	pid_t other = tap_fork();
	if (other == 0)
		_exit(1);
	pid_t pid = tap_fork();
	if (pid == 0) {
		tap_gate_wait(g);
		_exit(2);
	}
	int fd = pidfd_open_(pid, O_NONBLOCK);
	CHECK_ERRNO(wait_pidfd(fd, &info, WEXITED), EAGAIN);
	info.si_pid = 1;
	CHECK_EQ(wait_pidfd(fd, &info, WEXITED | WNOHANG), 0);
	CHECK_EQ(info.si_pid, 0);
	CHECK_ERRNO(wait_pidfd(fd, &info, 0), EINVAL);
	CHECK_ERRNO(wait_pidfd(-1, &info, WEXITED), EINVAL);
	CHECK_ERRNO(wait_pidfd(999, &info, WEXITED), EBADF);
	CHECK_ERRNO(wait_pidfd(1, &info, WEXITED), EBADF);
	tap_gate_open(g);
	CHECK(readable(fd, -1));
	CHECK_EQ(wait_pidfd(fd, &info, WEXITED), 0);
	CHECK_EQ(info.si_pid, pid);
	CHECK_EQ(info.si_status, 2);
	CHECK_EQ(tap_reap(other), 1 << 8);
	CHECK_ERRNO(wait_pidfd(fd, &info, WEXITED), ECHILD);
	close(fd);
	tap_gate_free(g);
}

static void *end_by_and_by(void *gate)
{
	tap_gate_open(*(struct tap_gate *)gate);
	return NULL;
}

/* Who sleeps in poll(2) or epoll_wait(2) wakes; also for a child that nobody waits for. */
TEST(readiness)
{
	NEED_PIDFD();
	for (int ignored = 0; ignored < 2; ignored++) {
		signal(SIGCHLD, ignored ? SIG_IGN : SIG_DFL);
		for (int i = 0; i < 20; i++) {
			struct tap_gate g = tap_gate_new();
			pid_t pid = tap_fork();
			if (pid == 0) {
				tap_gate_wait(g);
				_exit(0);
			}
			int fd = pidfd_open_(pid, 0), ep = epoll_create1(0);
			struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
			pthread_t t;
			int good = epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e) == 0 && ready(ep, &e, 0) == 0;
			pthread_create(&t, NULL, end_by_and_by, &g);
			good = good && (i & 1 ? ready(ep, &e, -1) == 1 && e.data.fd == fd : readable(fd, -1));
			pthread_join(t, NULL);
			good = good && (e.events & EPOLLIN);
			if (!ignored)
				good = good && tap_reap(pid) == 0;
			else
				good = good && readable(fd, -1);
			close(fd);
			close(ep);
			tap_gate_free(g);
			if (!good || i == 19)
				CHECK_NAMED(good, ignored ? "a child that is not waited for" : "a child");
			if (!good)
				break;
		}
	}
	signal(SIGCHLD, SIG_DFL);
}
