/* fork(2), vfork(2): what is copied, what is shared, what is not inherited. */
#include "tap.h"
#include <sys/times.h>

TEST(ids)
{
	pid_t me = getpid();
	struct tap_gate g = tap_gate_new();
	pid_t child = tap_fork();
	if (child == 0) {
		pid_t pair[2] = {getpid(), getppid()};
		write(g.fd[1], pair, sizeof pair);
		_exit(7);
	}
	pid_t pair[2];
	CHECK_EQ(read(g.fd[0], pair, sizeof pair), (int)sizeof pair);
	CHECK_EQ(pair[0], child);
	CHECK_EQ(pair[1], me);
	int status = tap_reap(child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	CHECK_ERRNO(waitpid(child, &status, 0), ECHILD);
	CHECK_EQ(syscall(SYS_gettid), me);
	tap_gate_free(g);
}

TEST(descriptors)
{
	char c;
	tap_write_file("f", "abcdef");
	int fd = open("f", O_RDONLY);
	IN_CHILD
	{
		CHECK_EQ(read(fd, &c, 1), 1);
		int extra = open("f", O_RDONLY);
		CHECK(extra >= 0);
		close(fd);
	}
	CHECK_EQ(lseek(fd, 0, SEEK_CUR), 1); /* one offset */
	CHECK_EQ(read(fd, &c, 1), 1);
	CHECK_EQ(c, 'b');
	CHECK_ERRNO(fcntl(fd + 1, F_GETFD), EBADF); /* two tables */
	close(fd);
}

static void handler(int sig)
{
	(void)sig;
}

TEST(attributes)
{
	sigset_t set, got;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGUSR1, handler);
	signal(SIGHUP, SIG_IGN);
	kill(getpid(), SIGUSR2);
	umask(057);
	struct itimerval it = {{0, 0}, {1000, 0}};
	setitimer(ITIMER_VIRTUAL, &it, NULL);
	pid_t pg = getpgrp(), sid = getsid(0);
	IN_CHILD
	{
		struct sigaction a;
		sigprocmask(SIG_SETMASK, NULL, &got);
		CHECK(sigismember(&got, SIGUSR2));
		sigpending(&got);
		CHECK(!sigismember(&got, SIGUSR2)); /* pending signals stay behind */
		sigaction(SIGUSR1, NULL, &a);
		CHECK(a.sa_handler == handler);
		sigaction(SIGHUP, NULL, &a);
		CHECK(a.sa_handler == SIG_IGN);
		CHECK_EQ(umask(0), 057);
		struct itimerval now;
		getitimer(ITIMER_VIRTUAL, &now);
		CHECK_EQ(now.it_value.tv_sec, 0); /* so do timers */
		CHECK_EQ(getpgrp(), pg);
		CHECK_EQ(getsid(0), sid);
		struct tms t;
		times(&t);
		CHECK_EQ(t.tms_cutime, 0);
	}
	struct itimerval off = {{0, 0}, {0, 0}};
	setitimer(ITIMER_VIRTUAL, &off, NULL);
}

TEST(from_a_thread_only_one_goes)
{
	IN_CHILD
	{
		char buf[2048];
		tap_read_file("/proc/self/status", buf, sizeof buf);
		CHECK(strstr(buf, "\nThreads:\t1\n") != NULL);
	}
}

TEST(vfork)
{
	/* The child runs in the parent's memory and the parent waits until it is gone. */
	static volatile int shared = 1;
	pid_t child = vfork();
	if (child == 0) {
		shared = 2;
		_exit(5);
	}
	CHECK_EQ(shared, 2);
	int status = tap_reap(child);
	CHECK_EQ(WEXITSTATUS(status), 5);
	/* An exec ends the wait as well; a failed one does not. */
	child = vfork();
	if (child == 0) {
		execl("./none", "none", NULL);
		_exit(errno == ENOENT ? 6 : 1);
	}
	status = tap_reap(child);
	CHECK_EQ(WEXITSTATUS(status), 6);
	/* A killed child ends it, too. */
	child = vfork();
	if (child == 0) {
		kill(getpid(), SIGKILL);
		_exit(0);
	}
	status = tap_reap(child);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

TEST(many)
{
	pid_t pids[50];
	int sum = 0, distinct = 1;
	for (int i = 0; i < 50; i++) {
		pids[i] = tap_fork();
		if (pids[i] == 0)
			_exit(i);
	}
	for (int i = 0; i < 50; i++) {
		for (int j = 0; j < i; j++)
			distinct = distinct && pids[i] != pids[j];
		sum += WEXITSTATUS(tap_reap(pids[i]));
	}
	CHECK_EQ(sum, 49 * 50 / 2);
	CHECK(distinct);
}

TEST(reparenting)
{
	/* A child whose parent ends gets another one. */
	struct tap_gate up = tap_gate_new(), go = tap_gate_new();
	pid_t middle = tap_fork();
	if (middle == 0) {
		pid_t parent = getpid();
		if (tap_fork() == 0) {
			tap_gate_wait(go);
			int changed = getppid() != parent;
			write(up.fd[1], &changed, sizeof changed);
			_exit(0);
		}
		_exit(0);
	}
	CHECK_EQ(tap_reap(middle), 0);
	tap_gate_open(go);
	int changed = 0;
	read(up.fd[0], &changed, sizeof changed);
	CHECK_EQ(changed, 1);
	tap_gate_free(up), tap_gate_free(go);
}
