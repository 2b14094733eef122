/* Which calls start again after a handler with SA_RESTART and which fail with EINTR (signal(7)).
 *
 * No sleeping: an interval timer signals over and over, so it hits the wait sooner or later. With
 * SA_RESTART the handler ends the wait itself at its third visit, through a descriptor. */
#include "tap.h"
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/un.h>

static volatile sig_atomic_t visits;
static volatile int wake_fd = -1, wake_limit;
static void on_alarm(int sig)
{
	(void)sig;
	if (++visits == wake_limit && wake_fd >= 0) {
		uint64_t one = 1;
		write(wake_fd, &one, 8);
	}
}
static void start(int flags, int limit)
{
	struct sigaction a = {.sa_handler = on_alarm, .sa_flags = flags};
	struct itimerval every = {{0, 3000}, {0, 3000}};
	visits = 0;
	wake_limit = limit;
	sigaction(SIGALRM, &a, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}
static void stop(void)
{
	struct itimerval off = {{0, 0}, {0, 0}};
	int saved = errno;
	setitimer(ITIMER_REAL, &off, NULL);
	signal(SIGALRM, tap_watchdog);
	alarm(TAP_SECONDS);
	errno = saved;
}

/* INTERRUPTED: without SA_RESTART the call gives EINTR. */
#define INTERRUPTED(call)                                                                          \
	do {                                                                                       \
		wake_fd = -1;                                                                      \
		start(0, 0);                                                                       \
		long long r = (call);                                                              \
		stop();                                                                            \
		CHECK_NAMED(r == -1 && errno == EINTR, #call " fails with EINTR");                 \
		CHECK_NAMED(visits >= 1, #call ": the handler ran");                               \
	} while (0)
/* ALWAYS_INTERRUPTED: nor does it start again with SA_RESTART. */
#define ALWAYS_INTERRUPTED(call)                                                                   \
	do {                                                                                       \
		INTERRUPTED(call);                                                                 \
		wake_fd = -1;                                                                      \
		start(SA_RESTART, 0);                                                              \
		long long r = (call);                                                              \
		stop();                                                                            \
		CHECK_NAMED(r == -1 && errno == EINTR, #call " fails with EINTR despite SA_RESTART"); \
	} while (0)
/* RESTARTED: with SA_RESTART it goes on until the handler's third visit writes to fd. */
#define RESTARTED(call, fd, want)                                                                  \
	do {                                                                                       \
		wake_fd = (fd);                                                                    \
		start(SA_RESTART, 3);                                                              \
		long long r = (call);                                                              \
		stop();                                                                            \
		CHECK_NAMED(r == (want), #call " starts again");                                   \
		CHECK_NAMED(visits >= 3, #call ": the handler ran three times");                   \
	} while (0)

TEST(read_pipe)
{
	int p[2];
	char buf[8];
	pipe(p);
	INTERRUPTED(read(p[0], buf, 8));
	RESTARTED(read(p[0], buf, 8), p[1], 8);
	close(p[0]), close(p[1]);
}

TEST(write_pipe)
{
	static char big[65536];
	int p[2];
	pipe(p);
	write(p[1], big, 65536);
	INTERRUPTED(write(p[1], big, 10));
	read(p[0], big, 4096);
	/* With something written already the count is returned, SA_RESTART or not. */
	start(SA_RESTART, 0);
	ssize_t n = write(p[1], big, 8192);
	stop();
	CHECK_EQ(n, 4096);
	close(p[0]), close(p[1]);
}

TEST(eventfd_read)
{
	int fd = eventfd(0, 0);
	uint64_t v;
	INTERRUPTED(read(fd, &v, 8));
	RESTARTED(read(fd, &v, 8), fd, 8);
	close(fd);
}

TEST(sockets)
{
	int s[2];
	char buf[8];
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	INTERRUPTED(recv(s[0], buf, 8, 0));
	RESTARTED(recv(s[0], buf, 8, 0), s[1], 8);
	struct msghdr m = {0};
	struct iovec v = {buf, 8};
	m.msg_iov = &v, m.msg_iovlen = 1;
	INTERRUPTED(recvmsg(s[0], &m, 0));
	RESTARTED(recvmsg(s[0], &m, 0), s[1], 8);
	int l = socket(AF_UNIX, SOCK_STREAM, 0);
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "listen"};
	bind(l, (void *)&a, sizeof a);
	listen(l, 1);
	INTERRUPTED(accept(l, NULL, NULL));
	/* A receive timeout makes it EINTR even with SA_RESTART (signal(7)). */
	struct timeval t = {100, 0};
	setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
	ALWAYS_INTERRUPTED(recv(s[0], buf, 8, 0));
	close(s[0]), close(s[1]), close(l);
}

TEST(polling)
{
	int p[2], ep = epoll_create1(0);
	pipe(p);
	struct pollfd f = {p[0], POLLIN, 0};
	struct epoll_event e = {.events = EPOLLIN};
	struct timespec t;
	fd_set set;
	epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e);
	ALWAYS_INTERRUPTED(poll(&f, 1, -1));
	ALWAYS_INTERRUPTED(poll(&f, 1, 100000));
	ALWAYS_INTERRUPTED((t = (struct timespec){100, 0}, ppoll(&f, 1, &t, NULL)));
	ALWAYS_INTERRUPTED(epoll_wait(ep, &e, 1, -1));
	FD_ZERO(&set);
	FD_SET(p[0], &set);
	ALWAYS_INTERRUPTED(select(p[0] + 1, &set, NULL, NULL, NULL));
	FD_SET(p[0], &set);
	ALWAYS_INTERRUPTED(pselect(p[0] + 1, &set, NULL, NULL, NULL, NULL));
	close(ep), close(p[0]), close(p[1]);
}

TEST(waiting_for_children)
{
	int p[2];
	pipe(p);
	pid_t child = tap_fork();
	if (child == 0) {
		char c;
		read(p[0], &c, 1);
		_exit(0);
	}
	siginfo_t i;
	INTERRUPTED(waitpid(child, NULL, 0));
	INTERRUPTED(waitid(P_PID, child, &i, WEXITED));
	RESTARTED(waitpid(child, NULL, 0), p[1], child);
	close(p[0]), close(p[1]);
}

TEST(sleeping)
{
	struct timespec t = {100, 0}, left = {0, 0};
	ALWAYS_INTERRUPTED(nanosleep(&t, &left));
	CHECK(left.tv_sec >= 50 && left.tv_sec < 100);
	left = (struct timespec){0, 0};
	errno = 0;
	start(SA_RESTART, 0);
	int r = clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &left);
	stop();
	CHECK_EQ(r, EINTR); /* returned, not set in errno */
	CHECK(left.tv_sec >= 50 && left.tv_sec < 100);
	struct timespec far;
	clock_gettime(CLOCK_MONOTONIC, &far);
	far.tv_sec += 1000;
	left = (struct timespec){1, 2};
	start(SA_RESTART, 0);
	r = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &far, &left);
	stop();
	CHECK_EQ(r, EINTR);
	CHECK_EQ(left.tv_nsec, 2); /* untouched for absolute times */
	ALWAYS_INTERRUPTED(pause());
	sigset_t s;
	siginfo_t i;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	sigprocmask(SIG_BLOCK, &s, NULL);
	ALWAYS_INTERRUPTED(sigwaitinfo(&s, &i));
}

TEST(futex)
{
	int word = 0;
	struct timespec t = {100, 0};
	INTERRUPTED(syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL));
	/* With a timeout it is restarted by restart_syscall(2) when no handler runs; a handler ends it. */
	ALWAYS_INTERRUPTED(syscall(SYS_futex, &word, FUTEX_WAIT, 0, &t));
}

TEST(locks)
{
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	struct tap_gate ready = tap_gate_new();
	int p[2];
	pipe(p);
	pid_t child = tap_fork();
	if (child == 0) {
		struct flock l = {.l_type = F_WRLCK};
		int own = open("f", O_RDWR);
		fcntl(own, F_SETLK, &l);
		flock(own, LOCK_EX);
		tap_gate_open(ready);
		char c;
		read(p[0], &c, 1);
		_exit(0);
	}
	tap_gate_wait(ready);
	struct flock l = {.l_type = F_WRLCK};
	INTERRUPTED(fcntl(fd, F_SETLKW, &l));
	INTERRUPTED(flock(fd, LOCK_EX));
	RESTARTED(flock(fd, LOCK_EX), p[1], 0);
	tap_reap(child);
	close(fd), close(p[0]), close(p[1]);
	tap_gate_free(ready);
}

TEST(ipc)
{
	int sem = semget(IPC_PRIVATE, 1, 0600), q = msgget(IPC_PRIVATE, 0600);
	if (sem == -1 && errno == ENOSYS)
		SKIP("no System V IPC");
	struct sembuf down = {0, -1, 0};
	struct {
		long type;
		char text[8];
	} m;
	ALWAYS_INTERRUPTED(semop(sem, &down, 1));
	ALWAYS_INTERRUPTED(msgrcv(q, &m, 8, 0, 0));
	semctl(sem, 0, IPC_RMID);
	msgctl(q, IPC_RMID, NULL);
}

TEST(inotify_and_fifo)
{
	int fd = inotify_init();
	char buf[64];
	INTERRUPTED(read(fd, buf, 64));
	close(fd);
	mkfifo("p", 0600);
	INTERRUPTED(open("p", O_RDONLY));
	INTERRUPTED(open("p", O_WRONLY));
}

static volatile sig_atomic_t stops;

TEST(stop_and_continue_do_not_interrupt)
{
	/* A stop and SIGCONT without a handler: the sleep goes on, epoll_wait and friends on old
	 * kernels excepted (signal(7)). */
	struct tap_gate up = tap_gate_new();
	int p[2];
	pipe(p);
	pid_t child = tap_fork();
	if (child == 0) {
		char c;
		tap_gate_open(up);
		_exit(read(p[0], &c, 1) == 1 ? 0 : 1);
	}
	tap_gate_wait(up);
	int status;
	for (int i = 0; i < 5; i++) {
		kill(child, SIGSTOP);
		waitpid(child, &status, WUNTRACED);
		stops += WIFSTOPPED(status);
		kill(child, SIGCONT);
		waitpid(child, &status, WCONTINUED);
	}
	CHECK_EQ(stops, 5);
	write(p[1], "x", 1);
	CHECK_EQ(tap_reap(child), 0);
	close(p[0]), close(p[1]);
	tap_gate_free(up);
}

TEST(several_handlers_one_restart)
{
	/* Signals whose handlers mix: any without SA_RESTART makes it EINTR only if it comes first. */
	int p[2];
	char buf[8];
	pipe(p);
	wake_fd = p[1];
	start(SA_RESTART, 5);
	ssize_t n = read(p[0], buf, 8);
	stop();
	CHECK_EQ(n, 8);
	CHECK(visits >= 5);
	close(p[0]), close(p[1]);
}

static void nothing(int sig)
{
	(void)sig;
}

TEST(what_comes_with_a_signal_counts)
{
	/* A call that can answer does, though a signal came too: who dies sends SIGCHLD, and the wait for it still tells of
	 * it; a byte written before kill(2) is read. EINTR is for calls that have nothing to say. */
	struct sigaction a = { .sa_handler = nothing }; /* without SA_RESTART */
	int p[2], back[2], sent[2], eintr = 0;
	char c;
	CHECK_OK(sigaction(SIGCHLD, &a, NULL));
	for (int i = 0; i < 200; i++) {
		pid_t child = fork();
		if (child == 0)
			_exit(0);
		while (waitpid(child, NULL, 0) == -1)
			eintr++;
	}
	CHECK_EQ(eintr, 0);
	signal(SIGCHLD, SIG_DFL);

	CHECK_OK(sigaction(SIGUSR1, &a, NULL));
	pipe(p);
	pipe(back);
	pipe(sent);
	pid_t parent = getpid(), child = fork();
	if (child == 0) {
		close(back[1]);
		while (read(back[0], &c, 1) == 1) {
			if (write(p[1], "x", 1) != 1)
				_exit(1);
			kill(parent, SIGUSR1);
			if (write(sent[1], "x", 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	close(back[0]);
	int failed = 0;
	for (int i = 0; i < 300; i++) {
		struct pollfd f = { .fd = p[0], .events = POLLIN };
		fd_set set;
		FD_ZERO(&set);
		FD_SET(p[0], &set);
		if (write(back[1], "x", 1) != 1)
			break;
		if (i % 3 == 0)
			failed += poll(&f, 1, 10000) != 1;
		else if (i % 3 == 1)
			failed += select(p[0] + 1, &set, NULL, NULL, NULL) != 1;
		failed += read(p[0], &c, 1) != 1;
		while (read(sent[0], &c, 1) == -1) /* so that no signal comes later than its byte */
			;
	}
	CHECK_EQ(failed, 0);
	close(back[1]);
	close(sent[0]);
	close(sent[1]);
	CHECK_EQ(tap_reap(child), 0);
	close(p[0]);
	close(p[1]);
}
