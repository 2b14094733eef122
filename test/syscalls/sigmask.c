/* sigprocmask(2), sigpending(2), sigsuspend(2), sigtimedwait(2), sigqueue(3), real-time signals. */
#include "tap.h"

static volatile sig_atomic_t order[64], seen;
static volatile int values[64];
static void record(int sig, siginfo_t *i, void *context)
{
	(void)context;
	values[seen] = i->si_value.sival_int;
	order[seen++] = sig;
}
static void install(int sig)
{
	struct sigaction a = {.sa_sigaction = record, .sa_flags = SA_SIGINFO};
	sigfillset(&a.sa_mask);
	sigaction(sig, &a, NULL);
}
static sigset_t set1(int a)
{
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, a);
	return s;
}

TEST(mask)
{
	sigset_t all, old, usr1 = set1(SIGUSR1), usr2 = set1(SIGUSR2);
	sigfillset(&all);
	CHECK_OK(sigprocmask(SIG_SETMASK, &all, NULL));
	sigprocmask(SIG_SETMASK, NULL, &old);
	CHECK(!sigismember(&old, SIGKILL) && !sigismember(&old, SIGSTOP)); /* cannot be blocked */
	CHECK(sigismember(&old, SIGTERM));
	sigprocmask(SIG_SETMASK, &usr1, NULL);
	CHECK_OK(sigprocmask(SIG_BLOCK, &usr2, &old));
	CHECK(sigismember(&old, SIGUSR1) && !sigismember(&old, SIGUSR2));
	CHECK_OK(sigprocmask(SIG_UNBLOCK, &usr1, NULL));
	sigprocmask(SIG_SETMASK, NULL, &old);
	CHECK(!sigismember(&old, SIGUSR1) && sigismember(&old, SIGUSR2));
	CHECK_ERRNO(sigprocmask(77, &usr1, NULL), EINVAL);
	CHECK_OK(sigprocmask(77, NULL, &old)); /* without a set, how does not matter */
	CHECK_ERRNO(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &usr1, NULL, 4), EINVAL);
	CHECK_ERRNO(syscall(SYS_rt_sigprocmask, SIG_BLOCK, (void *)8, NULL, 8), EFAULT);
	CHECK_ERRNO(syscall(SYS_rt_sigpending, &old, 16), EINVAL);
}

TEST(pending_and_unblock)
{
	sigset_t usr1 = set1(SIGUSR1), p;
	seen = 0;
	install(SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	kill(getpid(), SIGUSR1);
	kill(getpid(), SIGUSR1); /* standard signals do not queue */
	CHECK_EQ(seen, 0);
	sigpending(&p);
	CHECK(sigismember(&p, SIGUSR1));
	CHECK(!sigismember(&p, SIGUSR2));
	sigprocmask(SIG_UNBLOCK, &usr1, NULL);
	CHECK_EQ(seen, 1); /* delivered before sigprocmask returned */
	sigpending(&p);
	CHECK(sigisemptyset(&p));
}

TEST(realtime_order)
{
	sigset_t all;
	sigfillset(&all);
	seen = 0;
	for (int i = 0; i < 4; i++)
		install(SIGRTMIN + i);
	install(SIGUSR1);
	sigprocmask(SIG_BLOCK, &all, NULL);
	sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 1});
	sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 2});
	sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 3});
	sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 4});
	sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 5});
	kill(getpid(), SIGUSR1);
	/* sigtimedwait takes the lowest number, first come first served within one. */
	siginfo_t i;
	struct timespec zero = {0, 0};
	int want_sig[] = {SIGUSR1, SIGRTMIN, SIGRTMIN + 1, SIGRTMIN + 1, SIGRTMIN + 2, SIGRTMIN + 2};
	int want_value[] = {-1, 4, 2, 5, 1, 3}, good = 1;
	for (int n = 0; n < 6; n++) {
		int sig = sigtimedwait(&all, &i, &zero);
		good = good && sig == want_sig[n] && (n == 0 || i.si_value.sival_int == want_value[n]);
	}
	CHECK(good);
	CHECK_ERRNO(sigtimedwait(&all, &i, &zero), EAGAIN);
	/* Handlers stack up lowest first; with every signal blocked inside, lowest runs first. */
	for (int n = 0; n < 3; n++)
		sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = n});
	sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 9});
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	CHECK_EQ(seen, 4);
	CHECK_EQ(order[0], SIGRTMIN + 1);
	CHECK_EQ(values[1], 0);
	CHECK_EQ(values[2], 1);
	CHECK_EQ(values[3], 2);
}

TEST(sigwait)
{
	sigset_t usr1 = set1(SIGUSR1), chld = set1(SIGCHLD);
	siginfo_t i;
	int sig = 0;
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	kill(getpid(), SIGUSR1);
	CHECK_EQ(sigwaitinfo(&usr1, &i), SIGUSR1);
	CHECK_EQ(i.si_code, SI_USER);
	CHECK_EQ(i.si_pid, getpid());
	kill(getpid(), SIGUSR1);
	CHECK_EQ(sigwait(&usr1, &sig), 0);
	CHECK_EQ(sig, SIGUSR1);
	pid_t child = tap_fork();
	if (child == 0) {
		kill(getppid(), SIGUSR1);
		_exit(0);
	}
	CHECK_EQ(sigwaitinfo(&usr1, &i), SIGUSR1); /* waits */
	CHECK_EQ(i.si_pid, child);
	CHECK_EQ(sigwaitinfo(&chld, &i), SIGCHLD); /* though its default is to be ignored */
	tap_reap(child);
	struct timespec bad = {0, -1};
	CHECK_ERRNO(sigtimedwait(&usr1, &i, &bad), EINVAL);
	CHECK_ERRNO(syscall(SYS_rt_sigtimedwait, &usr1, &i, NULL, 7), EINVAL);
	CHECK_ERRNO(syscall(SYS_rt_sigtimedwait, (void *)8, &i, NULL, 8), EFAULT);
	/* Another signal's handler ends the wait. */
	seen = 0;
	install(SIGUSR2);
	child = tap_fork();
	if (child == 0) {
		kill(getppid(), SIGUSR2);
		_exit(0);
	}
	sigset_t now = usr1;
	while (seen == 0) {
		int r = sigwaitinfo(&now, &i);
		if (r != -1 || errno != EINTR)
			break;
	}
	CHECK_EQ(seen, 1);
	tap_reap(child);
}

TEST(sigsuspend)
{
	sigset_t usr1 = set1(SIGUSR1), none, now;
	sigemptyset(&none);
	seen = 0;
	install(SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	kill(getpid(), SIGUSR1);
	CHECK_ERRNO(sigsuspend(&none), EINTR);
	CHECK_EQ(seen, 1);
	sigprocmask(SIG_SETMASK, NULL, &now);
	CHECK(sigismember(&now, SIGUSR1)); /* the old mask is back */
	CHECK_ERRNO(syscall(SYS_rt_sigsuspend, &none, 4), EINVAL);
	CHECK_ERRNO(syscall(SYS_rt_sigsuspend, (void *)8, 8), EFAULT);
	pid_t child = tap_fork();
	if (child == 0) {
		kill(getppid(), SIGUSR1);
		_exit(0);
	}
	sigset_t chld = none;
	CHECK_ERRNO(sigsuspend(&chld), EINTR);
	CHECK_EQ(seen, 2);
	tap_reap(child);
}

TEST(queue_rules)
{
	siginfo_t i;
	memset(&i, 0, sizeof i);
	i.si_signo = SIGUSR1;
	i.si_code = SI_QUEUE;
	i.si_value.sival_int = 5;
	seen = 0;
	install(SIGUSR1);
	CHECK_OK(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &i));
	CHECK_EQ(seen, 1);
	CHECK_EQ(values[0], 5);
	CHECK_OK(syscall(SYS_rt_tgsigqueueinfo, getpid(), getpid(), SIGUSR1, &i));
	CHECK_EQ(seen, 2);
	CHECK_OK(syscall(SYS_rt_sigqueueinfo, getpid(), 0, &i)); /* signal 0 probes */
	CHECK_ERRNO(syscall(SYS_rt_sigqueueinfo, getpid(), 65, &i), EINVAL);
	CHECK_ERRNO(syscall(SYS_rt_sigqueueinfo, 999999, SIGUSR1, &i), ESRCH);
	CHECK_ERRNO(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, (void *)8), EFAULT);
	CHECK_ERRNO(syscall(SYS_rt_tgsigqueueinfo, getpid(), -1, SIGUSR1, &i), EINVAL);
	/* To another process the kernel's own codes may not be forged. */
	pid_t child = tap_fork();
	if (child == 0)
		for (;;)
			pause();
	i.si_code = SI_USER;
	CHECK_ERRNO(syscall(SYS_rt_sigqueueinfo, child, SIGUSR1, &i), EPERM);
	i.si_code = SI_TKILL;
	CHECK_ERRNO(syscall(SYS_rt_sigqueueinfo, child, SIGUSR1, &i), EPERM);
	i.si_code = 1;
	CHECK_ERRNO(syscall(SYS_rt_sigqueueinfo, child, SIGUSR1, &i), EPERM);
	kill(child, SIGKILL);
	tap_reap(child);
	/* RLIMIT_SIGPENDING bounds the queue of real-time signals. */
	IN_CHILD
	{
		struct rlimit r = {0, 0};
		sigset_t rt = set1(SIGRTMIN);
		tap_become(54321, 54321); /* of a user with nothing else queued */
		sigprocmask(SIG_BLOCK, &rt, NULL);
		setrlimit(RLIMIT_SIGPENDING, &r);
		CHECK_ERRNO(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 1}), EAGAIN);
		CHECK_OK(kill(getpid(), SIGRTMIN)); /* kill goes through, without its details */
	}
}
