/* setitimer(2), alarm(2), timer_create(2). */
#include "tap.h"
#include <sys/timex.h>

static volatile sig_atomic_t ticks;
static siginfo_t info;
static void tick(int sig, siginfo_t *i, void *context)
{
	(void)sig, (void)context;
	info = *i;
	ticks++;
}
static void catch(int sig)
{
	struct sigaction a = {.sa_sigaction = tick, .sa_flags = SA_SIGINFO};
	ticks = 0;
	sigaction(sig, &a, NULL);
}
static void wait_ticks(int n)
{
	sigset_t block, old;
	sigfillset(&block);
	sigprocmask(SIG_SETMASK, &block, &old);
	while (ticks < n)
		sigsuspend(&old);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

TEST(itimer_real)
{
	struct itimerval set = {{0, 0}, {1000, 5}}, got;
	catch(SIGALRM);
	alarm(0);
	CHECK_OK(setitimer(ITIMER_REAL, &set, NULL));
	CHECK_OK(getitimer(ITIMER_REAL, &got));
	CHECK(got.it_value.tv_sec >= 900 && got.it_value.tv_sec <= 1000);
	unsigned left = alarm(500); /* one timer for both */
	CHECK(left >= 900 && left <= 1001);
	left = alarm(0);
	CHECK(left >= 400 && left <= 500);
	CHECK_EQ(alarm(0), 0);
	set = (struct itimerval){{0, 1000}, {0, 1000}};
	setitimer(ITIMER_REAL, &set, NULL);
	wait_ticks(3);
	CHECK_EQ(info.si_code, SI_KERNEL);
	set = (struct itimerval){{0, 0}, {0, 0}};
	CHECK_OK(setitimer(ITIMER_REAL, &set, &got));
	CHECK_EQ(got.it_interval.tv_usec, 1000);
	CHECK_ERRNO(setitimer(77, &set, NULL), EINVAL);
	CHECK_ERRNO(getitimer(77, &got), EINVAL);
	set.it_value.tv_usec = 1000000;
	CHECK_ERRNO(setitimer(ITIMER_REAL, &set, NULL), EINVAL);
	CHECK_ERRNO(syscall(SYS_getitimer, ITIMER_REAL, 8), EFAULT);
}

TEST(itimer_virtual)
{
	struct itimerval set = {{0, 0}, {0, 10000}};
	catch(SIGVTALRM);
	CHECK_OK(setitimer(ITIMER_VIRTUAL, &set, NULL));
	for (volatile long i = 0; ticks == 0; i++)
		;
	CHECK_EQ(ticks, 1);
	catch(SIGPROF);
	CHECK_OK(setitimer(ITIMER_PROF, &set, NULL));
	for (volatile long i = 0; ticks == 0; i++)
		;
	CHECK_EQ(ticks, 1);
}

TEST(posix_timer)
{
	timer_t t;
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 99};
	struct itimerspec set = {{0, 0}, {0, 1000000}}, got;
	catch(SIGRTMIN);
	CHECK_OK(timer_create(CLOCK_MONOTONIC, &e, &t));
	CHECK_OK(timer_gettime(t, &got));
	CHECK_EQ(got.it_value.tv_sec + got.it_value.tv_nsec, 0);
	CHECK_OK(timer_settime(t, 0, &set, NULL));
	wait_ticks(1);
	CHECK_EQ(info.si_code, SI_TIMER);
	CHECK_EQ(info.si_value.sival_int, 99);
	CHECK_EQ(timer_getoverrun(t), 0);
	set = (struct itimerspec){{7, 8}, {1000, 0}};
	CHECK_OK(timer_settime(t, 0, &set, &got));
	CHECK_EQ(got.it_interval.tv_sec, 0);
	CHECK_OK(timer_gettime(t, &got));
	CHECK_EQ(got.it_interval.tv_sec, 7);
	CHECK(got.it_value.tv_sec >= 900 && got.it_value.tv_sec <= 1000);
	set = (struct itimerspec){{0, 0}, {0, 1}};
	CHECK_OK(timer_settime(t, TIMER_ABSTIME, &set, NULL)); /* in the past */
	wait_ticks(2);
	CHECK_OK(timer_delete(t));
	CHECK_ERRNO(syscall(SYS_timer_gettime, 12345, &got), EINVAL);
	CHECK_ERRNO(syscall(SYS_timer_delete, 12345), EINVAL);
}

TEST(overrun)
{
	timer_t t;
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
	struct itimerspec set = {{0, 500000}, {0, 500000}}, got;
	sigset_t s;
	siginfo_t i;
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &s, NULL);
	timer_create(CLOCK_MONOTONIC, &e, &t);
	timer_settime(t, 0, &set, NULL);
	struct timespec pause = {0, 20000000};
	nanosleep(&pause, NULL); /* at least 20 ms: many periods, one queued signal */
	CHECK_EQ(sigwaitinfo(&s, &i), SIGRTMIN);
	CHECK(i.si_overrun > 10);
	CHECK(timer_getoverrun(t) > 10);
	timer_gettime(t, &got);
	CHECK_EQ(got.it_interval.tv_nsec, 500000);
	timer_delete(t);
}

TEST(notify_kinds_and_errors)
{
	timer_t t;
	struct sigevent e = {.sigev_notify = SIGEV_NONE};
	CHECK_OK(timer_create(CLOCK_REALTIME, &e, &t));
	struct itimerspec set = {{0, 0}, {1000, 0}}, got;
	timer_settime(t, 0, &set, NULL);
	timer_gettime(t, &got);
	CHECK(got.it_value.tv_sec >= 900);
	timer_delete(t);
	int id = -1;
	CHECK_OK(syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, &id)); /* SIGALRM by default */
	catch(SIGALRM);
	set = (struct itimerspec){{0, 0}, {0, 1}};
	CHECK_OK(syscall(SYS_timer_settime, id, 0, &set, NULL));
	wait_ticks(1);
	CHECK_EQ(info.si_signo, SIGALRM);
	CHECK_EQ(info.si_value.sival_int, id); /* the timer's number */
	set.it_value.tv_nsec = 1000000000;
	CHECK_ERRNO(syscall(SYS_timer_settime, id, 0, &set, NULL), EINVAL);
	CHECK_OK(syscall(SYS_timer_delete, id));
	CHECK_ERRNO(syscall(SYS_timer_delete, id), EINVAL);
	CHECK_ERRNO(syscall(SYS_timer_create, 99, NULL, &id), EINVAL);
	struct sigevent bad = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = 65};
	CHECK_ERRNO(syscall(SYS_timer_create, CLOCK_MONOTONIC, &bad, &id), EINVAL);
	bad = (struct sigevent){.sigev_notify = 99};
	CHECK_ERRNO(syscall(SYS_timer_create, CLOCK_MONOTONIC, &bad, &id), EINVAL);
	CHECK_ERRNO(syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, 8), EFAULT);
	/* Timers are not inherited. */
	syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, &id);
	IN_CHILD
	{
		CHECK_ERRNO(syscall(SYS_timer_delete, id), EINVAL);
	}
	syscall(SYS_timer_delete, id);
}

TEST(thread_target)
{
	int id = -1;
	struct {
		union sigval value;
		int signo, notify, tid;
		char pad[64];
	} e = {.signo = SIGRTMIN + 1, .notify = 4 /* SIGEV_THREAD_ID */, .tid = getpid()};
	catch(SIGRTMIN + 1);
	CHECK_OK(syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &id));
	struct itimerspec set = {{0, 0}, {0, 1}};
	syscall(SYS_timer_settime, id, 0, &set, NULL);
	wait_ticks(1);
	CHECK_EQ(info.si_code, SI_TIMER);
	syscall(SYS_timer_delete, id);
	e.tid = 999999;
	CHECK_ERRNO(syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &id), EINVAL);
}

TEST(cpu_timer)
{
	timer_t t;
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 2};
	struct itimerspec set = {{0, 0}, {0, 10000000}};
	catch(SIGRTMIN + 2);
	CHECK_OK(timer_create(CLOCK_PROCESS_CPUTIME_ID, &e, &t));
	CHECK_OK(timer_settime(t, 0, &set, NULL));
	for (volatile long i = 0; ticks == 0; i++)
		;
	CHECK_EQ(info.si_code, SI_TIMER);
	timer_delete(t);
}
