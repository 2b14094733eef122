/* sigaction(2): flags, masks in handlers, what is ignored by default. */
#include "tap.h"

static volatile sig_atomic_t count, depth, max_depth, last, on_stack_ok, blocked_self, blocked_other;
static siginfo_t info;
static char *stack_low, *stack_high;

static void reset(void)
{
	count = depth = max_depth = last = 0;
}
static void simple(int sig)
{
	count++;
	last = sig;
}
static void nested(int sig)
{
	count++;
	depth++;
	if (depth > max_depth)
		max_depth = depth;
	if (count < 3)
		raise(sig);
	depth--;
}
static void full(int sig, siginfo_t *i, void *context)
{
	sigset_t now;
	char here;
	(void)context;
	info = *i;
	count++;
	on_stack_ok = &here > stack_low && &here < stack_high;
	sigprocmask(SIG_SETMASK, NULL, &now);
	blocked_self = sigismember(&now, sig);
	blocked_other = sigismember(&now, SIGUSR2);
}
static void install(int sig, void (*f)(int), int flags)
{
	struct sigaction a = {.sa_handler = f, .sa_flags = flags};
	sigemptyset(&a.sa_mask);
	sigaction(sig, &a, NULL);
}

TEST(errors)
{
	struct sigaction a = {.sa_handler = simple}, old;
	CHECK_ERRNO(sigaction(SIGKILL, &a, NULL), EINVAL);
	CHECK_ERRNO(sigaction(SIGSTOP, &a, NULL), EINVAL);
	CHECK_OK(sigaction(SIGKILL, NULL, &old));
	CHECK_ERRNO(sigaction(0, &a, NULL), EINVAL);
	CHECK_ERRNO(sigaction(65, &a, NULL), EINVAL);
	CHECK_ERRNO(syscall(SYS_rt_sigaction, SIGUSR1, NULL, &old, 4), EINVAL);
	CHECK_ERRNO(syscall(SYS_rt_sigaction, SIGUSR1, (void *)8, NULL, 8), EFAULT);
	sigemptyset(&a.sa_mask);
	sigaddset(&a.sa_mask, SIGUSR2);
	sigaddset(&a.sa_mask, SIGKILL);
	a.sa_flags = SA_RESTART | SA_NODEFER;
	CHECK_OK(sigaction(SIGUSR1, &a, NULL));
	CHECK_OK(sigaction(SIGUSR1, NULL, &old));
	CHECK(old.sa_handler == simple);
	CHECK_EQ(old.sa_flags & (SA_RESTART | SA_NODEFER | SA_SIGINFO), SA_RESTART | SA_NODEFER);
	CHECK(sigismember(&old.sa_mask, SIGUSR2));
	CHECK(!sigismember(&old.sa_mask, SIGKILL)); /* dropped silently */
}

TEST(delivery_before_kill_returns)
{
	reset();
	install(SIGUSR1, simple, 0);
	kill(getpid(), SIGUSR1);
	CHECK_EQ(count, 1);
	raise(SIGUSR1);
	CHECK_EQ(count, 2);
	syscall(SYS_tkill, getpid(), SIGUSR1);
	CHECK_EQ(count, 3);
}

TEST(deferred_and_nodefer)
{
	reset();
	install(SIGUSR1, nested, 0);
	raise(SIGUSR1);
	CHECK_EQ(count, 3);
	CHECK_EQ(max_depth, 1);
	reset();
	install(SIGUSR1, nested, SA_NODEFER);
	raise(SIGUSR1);
	CHECK_EQ(count, 3);
	CHECK_EQ(max_depth, 3);
}

TEST(resethand)
{
	struct sigaction old;
	reset();
	install(SIGUSR1, simple, SA_RESETHAND);
	raise(SIGUSR1);
	CHECK_EQ(count, 1);
	sigaction(SIGUSR1, NULL, &old);
	CHECK(old.sa_handler == SIG_DFL);
	int status;
	CHILD_STATUS(status)
	{
		raise(SIGUSR1);
	}
	CHECK_EQ(status, SIGUSR1);
}

TEST(siginfo_and_masks)
{
	reset();
	struct sigaction a = {.sa_sigaction = full, .sa_flags = SA_SIGINFO};
	sigemptyset(&a.sa_mask);
	sigaddset(&a.sa_mask, SIGUSR2);
	sigaction(SIGUSR1, &a, NULL);
	kill(getpid(), SIGUSR1);
	CHECK_EQ(info.si_signo, SIGUSR1);
	CHECK_EQ(info.si_code, SI_USER);
	CHECK_EQ(info.si_pid, getpid());
	CHECK_EQ(info.si_uid, 0);
	CHECK_EQ(info.si_errno, 0);
	CHECK(blocked_self && blocked_other);
	sigset_t now;
	sigprocmask(SIG_SETMASK, NULL, &now);
	CHECK(!sigismember(&now, SIGUSR1) && !sigismember(&now, SIGUSR2));
	syscall(SYS_tgkill, getpid(), getpid(), SIGUSR1);
	CHECK_EQ(info.si_code, SI_TKILL);
	sigqueue(getpid(), SIGUSR1, (union sigval){.sival_ptr = (void *)0x123456789a});
	CHECK_EQ(info.si_code, SI_QUEUE);
	CHECK(info.si_ptr == (void *)0x123456789a);
	a.sa_flags |= SA_NODEFER;
	sigaction(SIGUSR1, &a, NULL);
	raise(SIGUSR1);
	CHECK(!blocked_self && blocked_other);
}

TEST(alternate_stack)
{
	stack_t s = {.ss_size = 65536}, old;
	s.ss_sp = malloc(s.ss_size);
	stack_low = s.ss_sp, stack_high = stack_low + s.ss_size;
	CHECK_OK(sigaltstack(NULL, &old));
	CHECK_EQ(old.ss_flags, SS_DISABLE);
	CHECK_OK(sigaltstack(&s, &old));
	CHECK_OK(sigaltstack(NULL, &old));
	CHECK_EQ(old.ss_flags, 0);
	CHECK(old.ss_sp == s.ss_sp);
	CHECK_EQ(old.ss_size, 65536);
	struct sigaction a = {.sa_sigaction = full, .sa_flags = SA_SIGINFO};
	sigaction(SIGUSR1, &a, NULL);
	raise(SIGUSR1);
	CHECK(!on_stack_ok);
	a.sa_flags |= SA_ONSTACK;
	sigaction(SIGUSR1, &a, NULL);
	raise(SIGUSR1);
	CHECK(on_stack_ok);
	IN_CHILD
	{
		raise(SIGUSR1);
		CHECK(on_stack_ok); /* inherited over fork */
	}
	stack_t small = {.ss_sp = s.ss_sp, .ss_size = 100}, odd = s, off = {.ss_flags = SS_DISABLE};
	CHECK_ERRNO(sigaltstack(&small, NULL), ENOMEM);
	odd.ss_flags = 0x40;
	CHECK_ERRNO(sigaltstack(&odd, NULL), EINVAL);
	CHECK_ERRNO(syscall(SYS_sigaltstack, (void *)8, NULL), EFAULT);
	CHECK_OK(sigaltstack(&off, NULL));
	raise(SIGUSR1);
	CHECK(!on_stack_ok);
	free(s.ss_sp);
}

static volatile int change_error, seen_flags;
static void changes_stack(int sig)
{
	stack_t now, off = {.ss_flags = SS_DISABLE};
	(void)sig;
	sigaltstack(NULL, &now);
	seen_flags = now.ss_flags;
	change_error = sigaltstack(&off, NULL) == -1 ? errno : 0;
}

TEST(stack_in_use_is_not_changed)
{
	stack_t s = {.ss_size = 65536}, off = {.ss_flags = SS_DISABLE};
	s.ss_sp = malloc(s.ss_size);
	sigaltstack(&s, NULL);
	install(SIGUSR1, changes_stack, SA_ONSTACK);
	raise(SIGUSR1);
	CHECK_EQ(change_error, EPERM);
	CHECK_EQ(seen_flags, SS_ONSTACK);
	sigaltstack(&off, NULL);
	free(s.ss_sp);
}

TEST(defaults)
{
	static const int ignored[] = {SIGCHLD, SIGURG, SIGWINCH, SIGCONT};
	static const int fatal[] = {SIGHUP, SIGINT, SIGUSR1, SIGALRM, SIGTERM, SIGPROF, SIGIO, SIGPWR, 16 /* SIGSTKFLT */,
				    SIGVTALRM};
	struct rlimit none = {0, 0};
	int status;
	for (unsigned i = 0; i < sizeof ignored / sizeof *ignored; i++) {
		CHILD_STATUS(status)
		{
			signal(ignored[i], SIG_DFL);
			raise(ignored[i]);
		}
		CHECK_EQ(status, 0);
	}
	for (unsigned i = 0; i < sizeof fatal / sizeof *fatal; i++) {
		CHILD_STATUS(status)
		{
			signal(fatal[i], SIG_DFL);
			raise(fatal[i]);
		}
		CHECK_EQ(status, fatal[i]);
	}
	CHILD_STATUS(status)
	{
		setrlimit(RLIMIT_CORE, &none);
		signal(SIGABRT, SIG_IGN); /* abort(3) ends even so */
		abort();
	}
	CHECK_EQ(WTERMSIG(status), SIGABRT);
	/* A fault that is ignored or blocked kills all the same. */
	CHILD_STATUS(status)
	{
		setrlimit(RLIMIT_CORE, &none);
		signal(SIGSEGV, SIG_IGN);
		*(volatile char *)1 = 1;
	}
	CHECK_EQ(WTERMSIG(status), SIGSEGV);
	CHILD_STATUS(status)
	{
		sigset_t all;
		setrlimit(RLIMIT_CORE, &none);
		sigfillset(&all);
		sigprocmask(SIG_SETMASK, &all, NULL);
		signal(SIGSEGV, simple);
		*(volatile char *)1 = 1;
	}
	CHECK_EQ(WTERMSIG(status), SIGSEGV);
	/* But ignored, when sent by kill, it is ignored. */
	CHILD_STATUS(status)
	{
		signal(SIGSEGV, SIG_IGN);
		raise(SIGSEGV);
	}
	CHECK_EQ(status, 0);
}

TEST(setting_to_ignore_drops_pending)
{
	sigset_t s, pending;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	sigaddset(&s, SIGCHLD);
	reset();
	install(SIGUSR1, simple, 0);
	sigprocmask(SIG_BLOCK, &s, NULL);
	raise(SIGUSR1);
	install(SIGUSR1, SIG_IGN, 0);
	install(SIGUSR1, simple, 0);
	sigprocmask(SIG_UNBLOCK, &s, NULL);
	CHECK_EQ(count, 0);
	/* A blocked signal stays pending though ignored: the action may change before it is unblocked. */
	sigprocmask(SIG_BLOCK, &s, NULL);
	install(SIGUSR1, SIG_IGN, 0);
	raise(SIGUSR1);
	sigpending(&pending);
	CHECK(sigismember(&pending, SIGUSR1));
	install(SIGUSR1, simple, 0);
	sigprocmask(SIG_UNBLOCK, &s, NULL);
	CHECK_EQ(count, 1);
}

TEST(child_signals)
{
	reset();
	struct sigaction a = {.sa_sigaction = full, .sa_flags = SA_SIGINFO | SA_RESTART};
	sigaction(SIGCHLD, &a, NULL);
	pid_t pid = tap_fork();
	if (pid == 0)
		_exit(21);
	tap_reap(pid);
	CHECK_EQ(count, 1);
	CHECK_EQ(info.si_code, CLD_EXITED);
	CHECK_EQ(info.si_pid, pid);
	CHECK_EQ(info.si_status, 21);
	int status;
	pid = tap_fork();
	if (pid == 0)
		for (;;)
			pause();
	kill(pid, SIGSTOP);
	waitpid(pid, &status, WUNTRACED);
	CHECK_EQ(count, 2);
	CHECK_EQ(info.si_code, CLD_STOPPED);
	CHECK_EQ(info.si_status, SIGSTOP);
	kill(pid, SIGCONT);
	waitpid(pid, &status, WCONTINUED);
	/* wait sees the continuation when SIGCONT is sent; the signal comes when the child runs again. */
	while (count < 3)
		sched_yield();
	CHECK_EQ(count, 3);
	CHECK_EQ(info.si_code, CLD_CONTINUED);
	a.sa_flags |= SA_NOCLDSTOP;
	sigaction(SIGCHLD, &a, NULL);
	kill(pid, SIGSTOP);
	waitpid(pid, &status, WUNTRACED);
	CHECK_EQ(count, 3);
	kill(pid, SIGKILL);
	tap_reap(pid);
	CHECK_EQ(count, 4);
	CHECK_EQ(info.si_code, CLD_KILLED);
	CHECK_EQ(info.si_status, SIGKILL);
	a.sa_flags = SA_SIGINFO | SA_NOCLDWAIT;
	sigaction(SIGCHLD, &a, NULL);
	pid = tap_fork();
	if (pid == 0)
		_exit(1);
	while (wait(NULL) != -1 || errno == EINTR)
		;
	CHECK_EQ(count, 5); /* no zombie, but Linux sends the signal */
}
