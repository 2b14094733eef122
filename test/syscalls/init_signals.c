/* Signals to the first process of a pid namespace (pid_namespaces(7)): those that it has no handler for don't reach
 * it, whoever sends them, but they wait where it blocks them, and what it does itself can end it. */
#include "tap.h"

/* Runs body as the init of a namespace and returns how it ended, or -1 without the right to. */
static int as_init(void (*body)(void))
{
	int status = -1;
	pid_t outer = fork();
	if (outer == 0) {
		if (unshare(CLONE_NEWPID))
			_exit(77);
		pid_t pid = fork();
		if (pid == 0) {
			signal(SIGALRM, SIG_DFL); /* the watchdog's */
			body();
			_exit(42);
		}
		int st;
		if (waitpid(pid, &st, 0) != pid)
			_exit(1);
		_exit(WIFSIGNALED(st) ? 100 + WTERMSIG(st) : WEXITSTATUS(st));
	}
	waitpid(outer, &status, 0);
	return WEXITSTATUS(status) == 77 ? -1 : WEXITSTATUS(status);
}

#define AS_INIT(body, want)                                                                        \
	do {                                                                                       \
		int as = as_init(body);                                                            \
		if (as == -1)                                                                      \
			SKIP("needs CAP_SYS_ADMIN");                                               \
		else                                                                               \
			CHECK_EQ(as, want);                                                        \
	} while (0)

static void kills_itself(void)
{
	for (int s = 1; s < 32; s++)
		if (s != SIGCHLD && s != SIGCONT)
			kill(getpid(), s);
}

static void raises(void)
{
	syscall(SYS_tkill, syscall(SYS_gettid), SIGTERM);
}

static void has_an_alarm(void)
{
	struct itimerval v = {{0, 0}, {0, 1000}};
	struct timespec t = {0, 50000000};
	setitimer(ITIMER_REAL, &v, NULL);
	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

static void writes_too_much(void)
{
	struct rlimit r = {1, 1};
	int fd = open("file", O_CREAT | O_WRONLY, 0600);
	setrlimit(RLIMIT_FSIZE, &r);
	if (write(fd, "xx", 2) != 1 || write(fd, "x", 1) != -1 || errno != EFBIG)
		_exit(1);
}

static void writes_to_nobody(void)
{
	int p[2];
	if (pipe(p) || close(p[0]))
		_exit(1);
	if (write(p[1], "x", 1) != -1 || errno != EPIPE)
		_exit(2);
}

static void faults(void)
{
	*(volatile int *)8 = 1;
}

static void aborts(void)
{
	abort();
}

static void waits_for_what_it_blocks(void)
{
	sigset_t set;
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &set, NULL);
	kill(getpid(), SIGTERM);
	if (sigtimedwait(&set, &info, &(struct timespec){0, 0}) != SIGTERM)
		_exit(1);
	if (fork() == 0) {
		kill(1, SIGTERM);
		sigqueue(1, SIGRTMIN, (union sigval){.sival_int = 5});
		_exit(0);
	}
	wait(NULL);
	if (sigtimedwait(&set, &info, &(struct timespec){0, 0}) != SIGTERM)
		_exit(2);
	if (sigtimedwait(&set, &info, &(struct timespec){0, 0}) != SIGRTMIN || info.si_value.sival_int != 5)
		_exit(3);
	/* What it doesn't take has no effect when it stops blocking it. */
	kill(getpid(), SIGTERM);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static volatile int got;

static void handler(int s)
{
	got = s;
}

static void handles(void)
{
	signal(SIGTERM, handler);
	kill(getpid(), SIGTERM);
	if (got != SIGTERM)
		_exit(1);
}

static void is_hung_up_on(void)
{
	/* The child's group is orphaned with a stopped member when the child's parent leaves; init's own is too. */
	setpgid(0, 0);
	pid_t pid = fork();
	if (pid == 0) {
		if (fork() == 0) {
			raise(SIGSTOP);
			_exit(0);
		}
		struct timespec t = {0, 20000000};
		nanosleep(&t, NULL);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
}

TEST(what_it_has_no_handler_for) { AS_INIT(kills_itself, 42); }
TEST(what_its_thread_sends_itself) { AS_INIT(raises, 42); }
TEST(an_alarm) { AS_INIT(has_an_alarm, 42); }
TEST(a_file_too_large) { AS_INIT(writes_too_much, 42); }
TEST(a_pipe_without_readers) { AS_INIT(writes_to_nobody, 42); }
TEST(what_it_blocks_waits) { AS_INIT(waits_for_what_it_blocks, 42); }
TEST(what_it_handles) { AS_INIT(handles, 42); }
TEST(an_orphaned_group) { AS_INIT(is_hung_up_on, 42); }
TEST(its_own_faults_end_it) { AS_INIT(faults, 100 + SIGSEGV); }
TEST(abort_ends_it) { CHECK(as_init(aborts) != 42); }
