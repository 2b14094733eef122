/* kill(2), tkill(2), tgkill(2): targets and permission; stopping and continuing. */
#include "tap.h"

static pid_t idle(uid_t uid)
{
	struct tap_gate g = tap_gate_new();
	pid_t pid = tap_fork();
	if (pid == 0) {
		if (uid)
			tap_become(uid, uid);
		tap_gate_open(g);
		for (;;)
			pause();
	}
	tap_gate_wait(g);
	tap_gate_free(g);
	return pid;
}
static void finish(pid_t pid)
{
	kill(pid, SIGKILL);
	tap_reap(pid);
}

TEST(errors)
{
	CHECK_OK(kill(getpid(), 0));
	CHECK_ERRNO(kill(getpid(), 65), EINVAL);
	CHECK_ERRNO(kill(getpid(), -1), EINVAL);
	CHECK_ERRNO(kill(999999, 0), ESRCH);
	CHECK_ERRNO(kill(-999999, 0), ESRCH);
	CHECK_ERRNO(kill(INT_MIN, 0), ESRCH);
	CHECK_ERRNO(syscall(SYS_tkill, 0, SIGUSR1), EINVAL);
	CHECK_ERRNO(syscall(SYS_tkill, -1, SIGUSR1), EINVAL);
	CHECK_ERRNO(syscall(SYS_tkill, 999999, 0), ESRCH);
	CHECK_ERRNO(syscall(SYS_tgkill, getpid(), 0, SIGUSR1), EINVAL);
	CHECK_ERRNO(syscall(SYS_tgkill, 0, getpid(), SIGUSR1), EINVAL);
	pid_t other = idle(0);
	CHECK_ERRNO(syscall(SYS_tgkill, getpid(), other, SIGUSR1), ESRCH); /* not in that group */
	CHECK_OK(syscall(SYS_tgkill, other, other, 0));
	CHECK_OK(syscall(SYS_tkill, other, 0));
	finish(other);
	CHECK_ERRNO(kill(other, 0), ESRCH);
	/* A zombie may still be signalled. */
	pid_t z = tap_fork();
	if (z == 0)
		_exit(0);
	siginfo_t i;
	waitid(P_PID, z, &i, WEXITED | WNOWAIT);
	CHECK_OK(kill(z, SIGTERM));
	tap_reap(z);
}

TEST(permission)
{
	pid_t roots = idle(0), same = idle(12345), other = idle(12346);
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_ERRNO(kill(roots, 0), EPERM);
		CHECK_ERRNO(kill(roots, SIGTERM), EPERM);
		CHECK_OK(kill(same, 0));
		CHECK_ERRNO(kill(other, SIGKILL), EPERM);
		CHECK_ERRNO(syscall(SYS_tkill, other, SIGTERM), EPERM);
		CHECK_ERRNO(kill(999999, SIGTERM), ESRCH);
		CHECK_OK(kill(same, SIGTERM));
	}
	int status = tap_reap(same);
	CHECK_EQ(status, SIGTERM);
	finish(roots), finish(other);
}

TEST(sigcont_within_the_session)
{
	pid_t roots = idle(0);
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_OK(kill(roots, SIGCONT)); /* allowed to anyone in the session */
		setsid();
		CHECK_ERRNO(kill(roots, SIGCONT), EPERM);
	}
	finish(roots);
}

TEST(real_or_saved_uid)
{
	/* The sender's real or effective uid must equal the target's real or saved one. */
	struct tap_gate g = tap_gate_new();
	pid_t target = tap_fork();
	if (target == 0) {
		syscall(SYS_setresuid, 12345, 12346, 12347);
		tap_gate_open(g);
		for (;;)
			pause();
	}
	tap_gate_wait(g);
	uid_t uids[] = {12345, 12346, 12347};
	int want[] = {0, EPERM, 0};
	for (int i = 0; i < 3; i++)
		IN_CHILD
		{
			tap_become(uids[i], 1);
			int r = kill(target, 0) == 0 ? 0 : errno;
			CHECK_EQ(r, want[i]);
		}
	finish(target);
	tap_gate_free(g);
}

static volatile sig_atomic_t count;
static void counts(int sig)
{
	(void)sig;
	count++;
}

TEST(groups)
{
	struct tap_gate ready = tap_gate_new(), ended = tap_gate_new();
	count = 0;
	pid_t leader = tap_fork();
	if (leader == 0) {
		setpgid(0, 0);
		for (int i = 0; i < 3; i++)
			if (tap_fork() == 0) {
				tap_gate_open(ready);
				for (;;)
					pause();
			}
		for (int i = 0; i < 3; i++)
			tap_gate_wait(ready);
		tap_gate_open(ended);
		int killed = 0, status;
		signal(SIGTERM, SIG_IGN);
		tap_gate_open(ended);
		while (wait(&status) > 0)
			killed += status == SIGTERM;
		_exit(killed);
	}
	tap_gate_wait(ended), tap_gate_wait(ended);
	CHECK_OK(kill(-leader, SIGTERM));
	CHECK_EQ(WEXITSTATUS(tap_reap(leader)), 3);
	/* 0 is the caller's own group. */
	IN_CHILD
	{
		setpgid(0, 0);
		signal(SIGUSR1, counts);
		CHECK_OK(kill(0, SIGUSR1));
		CHECK_EQ(count, 1);
		CHECK_OK(killpg(0, SIGUSR1));
		CHECK_EQ(count, 2);
	}
	tap_gate_free(ready), tap_gate_free(ended);
}

TEST(stop_signals_and_cont_cancel_each_other)
{
	sigset_t s, p;
	int status;
	sigemptyset(&s);
	sigaddset(&s, SIGTSTP);
	sigaddset(&s, SIGCONT);
	IN_CHILD
	{
		sigprocmask(SIG_BLOCK, &s, NULL);
		raise(SIGTSTP);
		sigpending(&p);
		CHECK(sigismember(&p, SIGTSTP));
		raise(SIGCONT);
		sigpending(&p);
		CHECK(!sigismember(&p, SIGTSTP)); /* SIGCONT discards stop signals */
		CHECK(sigismember(&p, SIGCONT));
		raise(SIGTSTP);
		sigpending(&p);
		CHECK(!sigismember(&p, SIGCONT)); /* and the other way round */
	}
	/* SIGCONT continues even when blocked; signals wait while stopped; SIGKILL does not. */
	pid_t pid = tap_fork();
	if (pid == 0) {
		sigprocmask(SIG_BLOCK, &s, NULL);
		raise(SIGSTOP);
		_exit(4);
	}
	CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
	CHECK(WIFSTOPPED(status));
	kill(pid, SIGUSR1);
	CHECK_EQ(waitpid(pid, &status, WNOHANG), 0);
	kill(pid, SIGCONT);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, SIGUSR1); /* the one that waited */
}

static void *thread_waits(void *arg)
{
	sigset_t s;
	int sig;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	*(volatile pid_t *)arg = syscall(SYS_gettid);
	sigwait(&s, &sig);
	return (void *)(intptr_t)sig;
}

TEST(threads)
{
	/* A signal to one thread is its own; one to the process goes to any that takes it. */
	sigset_t s, p;
	pthread_t t;
	static volatile pid_t tid;
	void *got = NULL;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &s, NULL);
	pthread_create(&t, NULL, thread_waits, (void *)&tid);
	while (tid == 0)
		sched_yield();
	syscall(SYS_tgkill, getpid(), tid, SIGUSR1);
	pthread_join(t, &got);
	CHECK_EQ((intptr_t)got, SIGUSR1);
	sigpending(&p);
	CHECK(!sigismember(&p, SIGUSR1));
	tid = 0;
	pthread_create(&t, NULL, thread_waits, (void *)&tid);
	kill(getpid(), SIGUSR1);
	pthread_join(t, &got);
	CHECK_EQ((intptr_t)got, SIGUSR1);
	/* Who has joined a thread may still see it for a moment. */
	while (syscall(SYS_tgkill, getpid(), tid, 0) == 0)
		sched_yield();
	CHECK_ERRNO(syscall(SYS_tgkill, getpid(), tid, 0), ESRCH);
}

/* kill(-1) doesn't mind those it may not signal, kill(-pgid) does. */
TEST(all_of_others)
{
	struct tap_gate g = tap_gate_new();
	pid_t other = tap_fork();
	if (other == 0) {
		setpgid(0, 0);
		tap_gate_open(g);
		pause();
		_exit(0);
	}
	tap_gate_wait(g);
	IN_CHILD
	{
		CHECK_OK(tap_become(65534, 65534));
		CHECK_OK(kill(-1, 0));
		CHECK_ERRNO(kill(-other, 0), EPERM);
	}
	kill(other, SIGKILL);
	tap_reap(other);
	tap_gate_free(g);
}
