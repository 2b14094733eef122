/* wait4(2), waitid(2), exit(2), exit_group(2). */
#include "tap.h"

static pid_t exiting(int code)
{
	pid_t pid = tap_fork();
	if (pid == 0)
		_exit(code);
	return pid;
}
static pid_t waiting(void)
{
	pid_t pid = tap_fork();
	if (pid == 0)
		for (;;)
			pause();
	return pid;
}

TEST(status)
{
	int status;
	pid_t pid = exiting(300); /* only eight bits get through */
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, (300 & 255) << 8);
	pid = waiting();
	CHECK_EQ(waitpid(pid, &status, WNOHANG), 0);
	kill(pid, SIGTERM);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, SIGTERM);
	CHECK_ERRNO(waitpid(pid, &status, 0), ECHILD);
	CHECK_ERRNO(waitpid(-1, &status, WNOHANG), ECHILD);
	CHECK_ERRNO(waitpid(-1, &status, 0x1000), EINVAL);
	CHECK_ERRNO(syscall(SYS_wait4, INT_MIN, NULL, 0, NULL), ESRCH);
	CHECK_ERRNO(waitpid(getpid(), NULL, 0), ECHILD);
	pid = exiting(1);
	CHECK_EQ(syscall(SYS_wait4, pid, NULL, 0, NULL), pid); /* the status may be left out */
	pid = tap_fork();
	if (pid == 0) {
		struct rlimit none = {0, 0};
		setrlimit(RLIMIT_CORE, &none);
		raise(SIGQUIT);
	}
	waitpid(pid, &status, 0);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGQUIT && !WCOREDUMP(status));
}

TEST(which_child)
{
	pid_t a = exiting(1), b = exiting(2);
	int status;
	CHECK_EQ(waitpid(b, &status, 0), b);
	CHECK_EQ(WEXITSTATUS(status), 2);
	CHECK_EQ(wait(&status), a);
	struct tap_gate g = tap_gate_new();
	pid_t c = tap_fork();
	if (c == 0) {
		setpgid(0, 0);
		tap_gate_open(g);
		_exit(4);
	}
	tap_gate_wait(g);
	pid_t d = exiting(5);
	CHECK_EQ(waitpid(-c, &status, 0), c); /* of that process group */
	CHECK_ERRNO(waitpid(-c, &status, 0), ECHILD);
	CHECK_EQ(waitpid(0, &status, 0), d); /* of the caller's */
	tap_gate_free(g);
}

TEST(waitid)
{
	siginfo_t i;
	pid_t pid = exiting(9);
	memset(&i, 0xff, sizeof i);
	CHECK_OK(waitid(P_PID, pid, &i, WEXITED | WNOWAIT));
	CHECK_EQ(i.si_signo, SIGCHLD);
	CHECK_EQ(i.si_code, CLD_EXITED);
	CHECK_EQ(i.si_pid, pid);
	CHECK_EQ(i.si_uid, 0);
	CHECK_EQ(i.si_status, 9);
	CHECK_EQ(i.si_errno, 0);
	CHECK_OK(waitid(P_ALL, 0, &i, WEXITED)); /* WNOWAIT left it there */
	CHECK_EQ(i.si_status, 9);
	CHECK_ERRNO(waitid(P_PID, pid, &i, WEXITED), ECHILD);
	pid = waiting();
	i.si_pid = 77, i.si_signo = 77;
	CHECK_EQ(waitid(P_PID, pid, &i, WEXITED | WNOHANG), 0);
	CHECK_EQ(i.si_pid, 0); /* nothing yet: cleared */
	CHECK_EQ(i.si_signo, 0);
	kill(pid, SIGKILL);
	CHECK_OK(waitid(P_PID, pid, &i, WEXITED));
	CHECK_EQ(i.si_code, CLD_KILLED);
	CHECK_EQ(i.si_status, SIGKILL);
	CHECK_ERRNO(waitid(P_ALL, 0, &i, 0), EINVAL);
	CHECK_ERRNO(waitid(P_ALL, 0, &i, WNOHANG), EINVAL);
	CHECK_ERRNO(waitid(77, 0, &i, WEXITED), EINVAL);
	CHECK_ERRNO(waitid(P_PID, 0, &i, WEXITED), EINVAL);
	pid = exiting(1);
	CHECK_EQ(waitid(P_PID, pid, NULL, WEXITED), 0);
}

TEST(stop_and_continue)
{
	int status;
	siginfo_t i;
	pid_t pid = waiting();
	kill(pid, SIGSTOP);
	CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
	CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	CHECK_EQ(waitpid(pid, &status, WUNTRACED | WNOHANG), 0); /* told once */
	kill(pid, SIGCONT);
	CHECK_EQ(waitpid(pid, &status, WCONTINUED), pid);
	CHECK(WIFCONTINUED(status));
	CHECK_EQ(status, 0xffff);
	setpgid(pid, 0); /* in an orphaned group, as below a first process, SIGTSTP does nothing */
	kill(pid, SIGTSTP);
	CHECK_OK(waitid(P_PID, pid, &i, WSTOPPED));
	CHECK_EQ(i.si_code, CLD_STOPPED);
	CHECK_EQ(i.si_status, SIGTSTP);
	kill(pid, SIGCONT);
	CHECK_OK(waitid(P_PID, pid, &i, WCONTINUED | WNOWAIT));
	CHECK_EQ(i.si_code, CLD_CONTINUED);
	CHECK_EQ(i.si_status, SIGCONT);
	CHECK_OK(waitid(P_PID, pid, &i, WCONTINUED));
	/* SIGKILL works on a stopped process. */
	kill(pid, SIGSTOP);
	waitpid(pid, &status, WUNTRACED);
	kill(pid, SIGKILL);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, SIGKILL);
}

/* A process that is stopped on its way out of a call goes on as it was. */
TEST(stop_and_continue_often)
{
	int stops = 0, continues = 0;
	for (int k = 0; k < 100; k++) {
		pid_t pid = waiting();
		for (int j = 0; j < 4; j++) {
			siginfo_t i = {0};
			kill(pid, SIGSTOP);
			waitid(P_PID, pid, &i, WSTOPPED | WEXITED | WNOWAIT);
			stops += i.si_code == CLD_STOPPED;
			waitid(P_PID, pid, &i, WSTOPPED | WNOHANG);
			kill(pid, SIGCONT);
			waitid(P_PID, pid, &i, WCONTINUED | WEXITED | WNOWAIT);
			continues += i.si_code == CLD_CONTINUED;
			waitid(P_PID, pid, &i, WCONTINUED | WNOHANG);
		}
		kill(pid, SIGKILL);
		tap_reap(pid);
	}
	CHECK_EQ(stops, 400);
	CHECK_EQ(continues, 400);
}

TEST(usage)
{
	struct rusage u, before, after;
	getrusage(RUSAGE_CHILDREN, &before);
	pid_t pid = tap_fork();
	if (pid == 0) {
		struct rusage mine;
		do /* burn some time that is surely counted */
			getrusage(RUSAGE_SELF, &mine);
		while (mine.ru_utime.tv_usec + mine.ru_stime.tv_usec < 20000 && mine.ru_utime.tv_sec == 0);
		_exit(0);
	}
	int status;
	CHECK_EQ(wait4(pid, &status, 0, &u), pid);
	CHECK(u.ru_utime.tv_usec + u.ru_stime.tv_usec + 1000000 * u.ru_utime.tv_sec >= 10000);
	CHECK(u.ru_maxrss > 0);
	getrusage(RUSAGE_CHILDREN, &after);
	CHECK(after.ru_utime.tv_sec * 1000000 + after.ru_utime.tv_usec + after.ru_stime.tv_usec >
	      before.ru_utime.tv_sec * 1000000 + before.ru_utime.tv_usec + before.ru_stime.tv_usec);
	pid = exiting(0);
	siginfo_t i;
	CHECK_EQ(syscall(SYS_waitid, P_PID, pid, &i, WEXITED, &u), 0); /* the kernel's fifth argument */
}

TEST(ignored_children_reap_themselves)
{
	signal(SIGCHLD, SIG_IGN);
	exiting(1);
	exiting(2);
	CHECK_ERRNO(wait(NULL), ECHILD); /* waits for the last to end, then says so */
	struct sigaction a = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
	sigaction(SIGCHLD, &a, NULL);
	exiting(1);
	CHECK_ERRNO(wait(NULL), ECHILD);
	signal(SIGCHLD, SIG_DFL);
}

static void *exit_group_in_thread(void *arg)
{
	syscall(SYS_exit_group, (int)(intptr_t)arg);
	return NULL;
}
static void *forks(void *arg)
{
	pid_t *pid = arg;
	*pid = exiting(6);
	return NULL;
}
static void *waits(void *arg)
{
	int status = -1;
	waitpid((intptr_t)arg, &status, 0);
	return (void *)(intptr_t)WEXITSTATUS(status);
}
static void *waits_for_its_own(void *arg)
{
	return (void *)(intptr_t)(waitpid((intptr_t)arg, NULL, __WNOTHREAD) == -1 ? -errno : 0);
}
static void *only_leaves(void *arg)
{
	struct tap_gate *g = arg;
	tap_gate_wait(*g);
	syscall(SYS_exit_group, 12);
	return NULL;
}

TEST(threads)
{
	int status;
	pthread_t t;
	CHILD_STATUS(status)
	{
		pthread_create(&t, NULL, exit_group_in_thread, (void *)11);
		for (;;)
			pause();
	}
	CHECK_EQ(WEXITSTATUS(status), 11);
	/* The leader ends alone: the process goes on as long as one thread does. */
	struct tap_gate g = tap_gate_new();
	pid_t pid = tap_fork();
	if (pid == 0) {
		pthread_create(&t, NULL, only_leaves, &g);
		syscall(SYS_exit, 5);
	}
	CHECK_EQ(waitpid(pid, &status, WNOHANG), 0);
	CHECK_OK(kill(pid, 0));
	tap_gate_open(g);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(WEXITSTATUS(status), 12);
	/* Any thread may wait for another's child ... */
	pid_t child;
	pthread_create(&t, NULL, forks, &child);
	pthread_join(t, NULL);
	/* (its own when that one is gone: a thread's children go to another of the process) */
	CHECK_EQ(waitpid(child, &status, __WNOTHREAD), child);
	CHECK_EQ(WEXITSTATUS(status), 6);
	child = exiting(8);
	void *got;
	pthread_create(&t, NULL, waits, (void *)(intptr_t)child);
	pthread_join(t, &got);
	CHECK_EQ((intptr_t)got, 8);
	child = exiting(8);
	pthread_create(&t, NULL, waits_for_its_own, (void *)(intptr_t)child);
	pthread_join(t, &got);
	CHECK_EQ((intptr_t)got, -ECHILD); /* ... unless told not to */
	tap_reap(child);
	tap_gate_free(g);
}
