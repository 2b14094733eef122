/*
 * Signals that come while somebody is about to sleep, is just waking up, or takes another one. Each case does
 * the same thing many times over; a signal that gets lost leaves it hanging.
 */
#include "tap.h"
#include <linux/futex.h>
#include <sys/signalfd.h>

static sigset_t set_of(int a, int b)
{
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, a);
	if (b)
		sigaddset(&s, b);
	return s;
}

static volatile int handled;
static void count(int sig)
{
	(void)sig;
	__atomic_add_fetch(&handled, 1, __ATOMIC_SEQ_CST);
}

TEST(sigsuspend_and_a_timer)
{
	sigset_t s = set_of(SIGALRM, 0), old;
	struct sigaction act = {.sa_handler = count}, was;
	sigprocmask(SIG_BLOCK, &s, &old);
	sigaction(SIGALRM, &act, &was);
	handled = 0;
	struct itimerval often = {{0, 300}, {0, 300}}, off = {{0, 0}, {0, 0}};
	setitimer(ITIMER_REAL, &often, NULL);
	for (int i = 0; i < 500; i++)
		sigsuspend(&old);
	CHECK(handled >= 500);
	setitimer(ITIMER_REAL, &off, NULL);
	handled = 0;
	for (int i = 0; i < 300; i++) { /* each comes at another place of the call */
		struct itimerval once = {{0, 0}, {0, 1 + i}};
		setitimer(ITIMER_REAL, &once, NULL);
		sigsuspend(&old);
	}
	/* The last of the periodic ones may have been pending. */
	CHECK(handled == 300);
	setitimer(ITIMER_REAL, &off, NULL);
	struct timespec none = {0, 0};
	while (sigtimedwait(&s, NULL, &none) > 0)
		;
	sigaction(SIGALRM, &was, NULL);
	sigprocmask(SIG_SETMASK, &old, NULL);
	alarm(TAP_SECONDS);
}

/* Timers raise signals like others: who polls a signalfd hears of them. */
TEST(signalfd_and_timers)
{
	sigset_t s = set_of(SIGUSR1, SIGRTMIN), old;
	sigprocmask(SIG_BLOCK, &s, &old);
	int fd = signalfd(-1, &s, 0), polled = 0, got = 0;
	timer_t id[2];
	for (int i = 0; i < 2; i++) {
		struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = i ? SIGRTMIN : SIGUSR1};
		REQUIRE_OK(timer_create(CLOCK_MONOTONIC, &e, &id[i]));
	}
	for (int i = 0; i < 100; i++) {
		struct itimerspec once = {{0, 0}, {0, 1000 + 20000 * i}};
		timer_settime(id[i % 2], 0, &once, NULL);
		struct pollfd p = {fd, POLLIN, 0};
		if (i % 4 < 2)
			polled += poll(&p, 1, -1) == 1;
		else
			polled++;
		struct signalfd_siginfo info;
		got += read(fd, &info, sizeof info) == (int)sizeof info;
	}
	CHECK_EQ(polled, 100);
	CHECK_EQ(got, 100);
	timer_delete(id[0]);
	timer_delete(id[1]);
	close(fd);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

/* ppoll(2) and pselect(2) sleep with the mask in place, or not at all. */
TEST(ppoll_with_a_mask)
{
	sigset_t s = set_of(SIGUSR1, 0), old;
	struct sigaction act = {.sa_handler = count}, was;
	sigprocmask(SIG_BLOCK, &s, &old);
	sigaction(SIGUSR1, &act, &was);
	struct tap_gate g = tap_gate_new();
	pid_t parent = getpid(), pid = tap_fork();
	if (pid == 0) {
		close(g.fd[1]);
		while (tap_gate_wait(g))
			kill(parent, SIGUSR1);
		_exit(0);
	}
	int interrupted = 0;
	handled = 0;
	for (int i = 0; i < 500; i++) {
		struct timespec limit = {20, 0};
		tap_gate_open(g);
		int r = i % 2 ? ppoll(NULL, 0, &limit, &old) : pselect(0, NULL, NULL, NULL, &limit, &old);
		interrupted += r == -1 && errno == EINTR;
	}
	CHECK_EQ(interrupted, 500);
	CHECK_EQ(handled, 500);
	tap_gate_free(g);
	CHECK_EQ(tap_reap(pid), 0);
	sigaction(SIGUSR1, &was, NULL);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

/* Two threads that wake each other with signals, as fast as they can. */
struct pair {
	pid_t tid[2];
	int rounds;
};
static void *ponders(void *arg)
{
	struct pair *p = arg;
	sigset_t s = set_of(SIGUSR1, 0);
	siginfo_t info;
	p->tid[1] = syscall(SYS_gettid);
	syscall(SYS_tgkill, getpid(), p->tid[0], SIGUSR2);
	for (int i = 0; i < p->rounds; i++) {
		sigwaitinfo(&s, &info);
		syscall(SYS_tgkill, getpid(), p->tid[0], SIGUSR2);
	}
	return NULL;
}
TEST(threads_answer_with_signals)
{
	sigset_t s = set_of(SIGUSR1, SIGUSR2), mine = set_of(SIGUSR2, 0), old;
	sigprocmask(SIG_BLOCK, &s, &old);
	struct pair p = {{syscall(SYS_gettid), 0}, 2000};
	pthread_t t;
	pthread_create(&t, NULL, ponders, &p);
	int got = 0;
	siginfo_t info;
	struct timespec limit = {20, 0};
	for (int i = 0; i <= p.rounds; i++) {
		got += sigtimedwait(&mine, &info, &limit) == SIGUSR2;
		if (i < p.rounds)
			syscall(SYS_tgkill, getpid(), p.tid[1], SIGUSR1);
	}
	CHECK_EQ(got, p.rounds + 1);
	pthread_join(t, NULL);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

/* Of two signals for the process, sigwait(3) takes one: the other is for whoever doesn't block it. */
struct taker {
	struct tap_gate go, ready;
	int taken;
};
static void *takes_one(void *arg)
{
	struct taker *k = arg;
	sigset_t s = set_of(SIGUSR1, SIGUSR2);
	siginfo_t info;
	while (tap_gate_wait(k->go)) {
		tap_gate_open(k->ready);
		sigwaitinfo(&s, &info);
		__atomic_add_fetch(&k->taken, 1, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&handled, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}
static void *sleeps_open(void *arg)
{
	sigset_t s = set_of(SIGUSR1, SIGUSR2);
	struct tap_gate *g = arg;
	pthread_sigmask(SIG_UNBLOCK, &s, NULL);
	tap_gate_wait(*g);
	return NULL;
}
TEST(what_sigwait_leaves)
{
	sigset_t s = set_of(SIGUSR1, SIGUSR2), old;
	struct sigaction act = {.sa_handler = count, .sa_flags = SA_RESTART}, was[2];
	sigprocmask(SIG_BLOCK, &s, &old);
	sigaction(SIGUSR1, &act, &was[0]);
	sigaction(SIGUSR2, &act, &was[1]);
	struct taker k = {tap_gate_new(), tap_gate_new(), 0};
	struct tap_gate end = tap_gate_new();
	pthread_t a, b;
	pthread_create(&a, NULL, takes_one, &k);
	pthread_create(&b, NULL, sleeps_open, &end);
	handled = 0;
	for (int i = 0; i < 300; i++) {
		tap_gate_open(k.go);
		tap_gate_wait(k.ready);
		kill(getpid(), SIGUSR1);
		kill(getpid(), SIGUSR2);
		/* The taker needs one to go on; where both had handlers it gets another. */
		while (__atomic_load_n(&k.taken, __ATOMIC_SEQ_CST) == i || __atomic_load_n(&handled, __ATOMIC_SEQ_CST) < 2 * (i + 1)) {
			/* In this order: the taker counts itself before what it has taken. */
			if (__atomic_load_n(&handled, __ATOMIC_SEQ_CST) >= 2 * (i + 1) && __atomic_load_n(&k.taken, __ATOMIC_SEQ_CST) == i) {
				handled = 2 * (i + 1) - 1;
				pthread_kill(a, SIGUSR1);
			}
			sched_yield();
		}
		handled = 2 * (i + 1);
	}
	CHECK_EQ(k.taken, 300);
	close(k.go.fd[1]);
	tap_gate_open(end);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	sigaction(SIGUSR1, &was[0], NULL);
	sigaction(SIGUSR2, &was[1], NULL);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

/* A wait that is over as its time runs out leaves nothing for the next one, which has time. */
static int word;
static long futex(int op, int val, const struct timespec *limit)
{
	return syscall(SYS_futex, &word, op | FUTEX_PRIVATE_FLAG, val, limit, NULL, 0);
}
static void *wakes(void *stop)
{
	while (!__atomic_load_n((int *)stop, __ATOMIC_SEQ_CST)) {
		__atomic_add_fetch(&word, 1, __ATOMIC_SEQ_CST);
		futex(FUTEX_WAKE, 1, NULL);
	}
	return NULL;
}
TEST(time_outs_end_their_own_wait)
{
	int stop = 0, early = 0;
	pthread_t t;
	pthread_create(&t, NULL, wakes, &stop);
	for (int i = 0; i < 3000; i++) {
		struct timespec little = {0, 1000 + i % 60 * 1000}, much = {30, 0};
		futex(FUTEX_WAIT, __atomic_load_n(&word, __ATOMIC_SEQ_CST), &little);
		if (futex(FUTEX_WAIT, __atomic_load_n(&word, __ATOMIC_SEQ_CST), &much) == -1 && errno == ETIMEDOUT)
			early++;
	}
	CHECK_EQ(early, 0);
	__atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
	pthread_join(t, NULL);
}

/* A reader that is interrupted all the time misses no byte. */
TEST(bytes_and_signals_at_once)
{
	struct sigaction act = {.sa_handler = count}, was;
	sigaction(SIGUSR1, &act, &was);
	int p[2];
	REQUIRE_OK(pipe(p));
	pid_t parent = getpid(), pid = tap_fork();
	if (pid == 0) {
		close(p[0]);
		for (int i = 0; i < 2000; i++) {
			kill(parent, SIGUSR1);
			write(p[1], "x", 1);
		}
		_exit(0);
	}
	close(p[1]);
	int got = 0;
	char c;
	for (;;) {
		int n = read(p[0], &c, 1);
		if (n == 1)
			got++;
		else if (n == 0 || errno != EINTR)
			break;
	}
	CHECK_EQ(got, 2000);
	CHECK_EQ(tap_reap(pid), 0);
	close(p[0]);
	sigaction(SIGUSR1, &was, NULL);
}

/* A periodic timer whose signal was dropped while it waited goes on. */
TEST(dropped_signal_of_a_periodic_timer)
{
	sigset_t s = set_of(SIGRTMIN, 0), old;
	struct sigaction ignore = {.sa_handler = SIG_IGN}, act = {.sa_handler = count}, was;
	sigaction(SIGRTMIN, &act, &was);
	sigprocmask(SIG_BLOCK, &s, &old);
	timer_t id;
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
	REQUIRE_OK(timer_create(CLOCK_MONOTONIC, &e, &id));
	struct itimerspec often = {{0, 1000000}, {0, 1000000}};
	timer_settime(id, 0, &often, NULL);
	sigset_t pending;
	do
		sigpending(&pending);
	while (!sigismember(&pending, SIGRTMIN));
	sigaction(SIGRTMIN, &ignore, NULL);
	sigpending(&pending);
	sigaction(SIGRTMIN, &act, NULL);
	struct timespec limit = {20, 0};
	CHECK_EQ(sigtimedwait(&s, NULL, &limit), SIGRTMIN);
	timer_delete(id);
	while (limit.tv_sec = 0, sigtimedwait(&s, NULL, &limit) > 0)
		;
	sigprocmask(SIG_SETMASK, &old, NULL);
	sigaction(SIGRTMIN, &was, NULL);
}
