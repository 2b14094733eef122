/*
 * Where wait(2), exit(2), fork(2) and job control meet: what a sleeper must not miss, whatever the order.
 * Each case does the same thing many times over; a wake-up that gets lost leaves it hanging.
 */
#define TAP_ROLES
#include "tap.h"

/* Who has waited for a child has its SIGCHLD: it is sent before the child can be waited for. */
TEST(sigchld_comes_before_the_status)
{
	sigset_t chld, old;
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, &old);
	int missing = 0, other = 0;
	for (int i = 0; i < 400; i++) {
		pid_t pid = tap_fork();
		if (pid == 0)
			_exit(0);
		if (i % 2)
			while (waitpid(pid, NULL, WNOHANG) == 0)
				;
		else
			waitpid(pid, NULL, 0);
		siginfo_t info;
		struct timespec none = {0, 0};
		if (sigtimedwait(&chld, &info, &none) != SIGCHLD)
			missing++;
		else if (info.si_pid != pid)
			other++;
	}
	CHECK_EQ(missing, 0);
	CHECK_EQ(other, 0);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

/* The same for a child that has stopped. */
TEST(sigchld_comes_before_the_stop)
{
	sigset_t chld, old;
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, &old);
	pid_t pid = tap_fork();
	if (pid == 0)
		for (;;)
			pause();
	int missing = 0;
	for (int i = 0; i < 300; i++) {
		struct timespec none = {0, 0};
		int status;
		kill(pid, SIGSTOP);
		waitpid(pid, &status, WUNTRACED);
		missing += sigtimedwait(&chld, NULL, &none) != SIGCHLD;
		kill(pid, SIGCONT);
		waitpid(pid, &status, WCONTINUED);
		while (sigtimedwait(&chld, NULL, &(struct timespec){20, 0}) != SIGCHLD)
			;
	}
	CHECK_EQ(missing, 0);
	kill(pid, SIGKILL);
	tap_reap(pid);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

static void reap_all(int sig)
{
	(void)sig;
	int saved = errno;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	errno = saved;
}

/* sigsuspend(2) sleeps until the child has been told of, with SIGCHLD blocked in between. */
TEST(sigsuspend_until_the_child_is_gone)
{
	struct sigaction act = {.sa_handler = reap_all}, was;
	sigset_t chld, old;
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, &old);
	sigaction(SIGCHLD, &act, &was);
	int rounds = 0;
	for (int i = 0; i < 300; i++) {
		pid_t pid = tap_fork();
		if (pid == 0) {
			sigprocmask(SIG_SETMASK, &old, NULL);
			pause();
			_exit(1);
		}
		kill(pid, SIGTERM);
		while (kill(pid, 0) == 0)
			sigsuspend(&old);
		rounds++;
	}
	CHECK_EQ(rounds, 300);
	sigaction(SIGCHLD, &was, NULL);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

/* A child that answers bytes, with more threads that do nothing. */
static void *idle(void *fd)
{
	char c;
	while (read(*(int *)fd, &c, 1) != 0)
		;
	return NULL;
}

static pid_t answering(int threads, int *ask, int *answer, pid_t *tids)
{
	int to[2], from[2];
	if (pipe(to) != 0 || pipe(from) != 0)
		return -1;
	pid_t pid = tap_fork();
	if (pid == 0) {
		close(to[1]);
		close(from[0]);
		static int never[2];
		pipe(never);
		pthread_t t;
		for (int i = 0; i < threads; i++)
			pthread_create(&t, NULL, idle, &never[0]);
		char c;
		while (read(to[0], &c, 1) == 1)
			write(from[1], &c, 1);
		_exit(0);
	}
	close(to[0]);
	close(from[1]);
	*ask = to[1];
	*answer = from[0];
	if (tids) {
		char c, path[64];
		write(*ask, "a", 1); /* once it answers it has its threads */
		read(*answer, &c, 1);
		snprintf(path, sizeof path, "/proc/%d/task", pid);
		DIR *d = opendir(path);
		struct dirent *e;
		int n = 0;
		while (d && n <= threads && (e = readdir(d)))
			if (e->d_name[0] != '.')
				tids[n++] = atoi(e->d_name);
		if (d)
			closedir(d);
	}
	return pid;
}

static void stop_and_continue(int threads)
{
	int ask, answer, answers = 0;
	pid_t pid = answering(threads, &ask, &answer, NULL);
	REQUIRE(pid > 0);
	for (int i = 0; i < 500; i++) {
		char c = 'x';
		if (i % 3 == 0)
			write(ask, &c, 1);
		kill(pid, SIGSTOP);
		if (i % 7 == 0)
			waitpid(pid, NULL, WUNTRACED);
		kill(pid, SIGCONT); /* it runs, however far the stop has got */
		if (i % 3 != 0)
			write(ask, &c, 1);
		answers += read(answer, &c, 1) == 1;
	}
	CHECK_EQ(answers, 500);
	close(ask);
	close(answer);
	CHECK_EQ(tap_reap(pid), 0);
}
TEST(sigcont_right_after_sigstop) { stop_and_continue(0); }
TEST(sigcont_right_after_sigstop_with_threads) { stop_and_continue(3); }

/* Threads that each take a stop signal stop the process once. */
TEST(stops_of_two_threads)
{
	int ask, answer, answers = 0, stops = 0, continuations = 0;
	pid_t tid[4] = {0};
	pid_t pid = answering(3, &ask, &answer, tid);
	REQUIRE(pid > 0);
	for (int i = 0; i < 300; i++) {
		int status;
		for (int j = 0; j < 4; j++)
			syscall(SYS_tgkill, pid, tid[j], SIGSTOP);
		stops += waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status);
		kill(pid, SIGCONT);
		continuations += waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status);
		char c = 'x';
		write(ask, &c, 1);
		answers += read(answer, &c, 1) == 1;
	}
	CHECK_EQ(stops, 300);
	CHECK_EQ(continuations, 300);
	CHECK_EQ(answers, 300);
	close(ask);
	close(answer);
	CHECK_EQ(tap_reap(pid), 0);
}

/* A stopped process, or one that is stopping, dies of SIGKILL. */
TEST(sigkill_right_after_sigstop)
{
	int killed = 0;
	for (int i = 0; i < 200; i++) {
		int ask, answer, status;
		pid_t pid = answering(i % 3, &ask, &answer, NULL);
		kill(pid, SIGSTOP);
		if (i % 5 == 0)
			waitpid(pid, &status, WUNTRACED);
		kill(pid, SIGKILL);
		killed += waitpid(pid, &status, 0) == pid && WIFSIGNALED(status);
		close(ask);
		close(answer);
	}
	CHECK_EQ(killed, 200);
}

/* kill(2) to a process group gets those, too, that its members are just making. */
TEST(nobody_escapes_from_a_group)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	int ends = 0;
	for (int i = 0; i < 60; i++) {
		int alive[2];
		struct tap_gate g = tap_gate_new();
		pipe(alive);
		pid_t leader = tap_fork();
		if (leader == 0) {
			setpgid(0, 0);
			alarm(0); /* who escapes shows */
			for (int n = 0; n < 2; n++)
				if (fork() == 0)
					for (int k = 0;; k++) { /* runs away from the signal */
						if (k == 3)
							tap_gate_open(g);
						if (fork() != 0)
							_exit(0);
					}
			pause();
			_exit(1);
		}
		close(alive[1]);
		tap_gate_wait(g);
		kill(-leader, SIGKILL);
		char c;
		ends += read(alive[0], &c, 1) == 0; /* the end comes with the last of them */
		close(alive[0]);
		tap_gate_free(g);
		while (waitpid(-1, NULL, 0) > 0)
			;
	}
	CHECK_EQ(ends, 60);
	prctl(PR_SET_CHILD_SUBREAPER, 0);
}

/* execve(2) and exit_group(2) end threads wherever they sleep. */
static int sleep_pipe[2];
static void *sleeps(void *arg)
{
	static int word;
	char c;
	struct timespec long_time = {1000, 0};
	switch ((long)arg % 6) {
	case 0: read(sleep_pipe[0], &c, 1); break;
	case 1: syscall(SYS_futex, &word, 0, 0, NULL, NULL, 0); break;
	case 2: nanosleep(&long_time, NULL); break;
	case 3: poll(NULL, 0, -1); break;
	case 4: wait(NULL); pause(); break;
	case 5: for (;;) ; break;
	}
	return NULL;
}
static void *execs(void *arg)
{
	char *argv[] = {tap_self, "--bye", NULL};
	(void)arg;
	execve(tap_self, argv, environ);
	_exit(99);
}
static int tap_role(int argc, char **argv, char **envp)
{
	(void)argc, (void)argv, (void)envp;
	return 42;
}

TEST(threads_end_wherever_they_sleep)
{
	int ends = 0;
	for (int i = 0; i < 60; i++) {
		pid_t pid = tap_fork();
		if (pid == 0) {
			pthread_t t;
			pipe(sleep_pipe);
			for (long j = 0; j < 6; j++)
				pthread_create(&t, NULL, sleeps, (void *)(j + i));
			switch (i % 3) {
			case 0: execs(NULL); break;
			case 1: pthread_create(&t, NULL, execs, NULL); pause(); break;
			case 2: _exit(42);
			}
		}
		int status = tap_reap(pid);
		ends += WIFEXITED(status) && WEXITSTATUS(status) == 42;
	}
	CHECK_EQ(ends, 60);
}

/* A parent that has seen the exec, by a file that it closes, is too late for setpgid(2). */
TEST(setpgid_after_exec)
{
	int late = 0;
	char *argv[] = {tap_self, "--bye", NULL};
	for (int i = 0; i < 60; i++) {
		int p[2];
		char c;
		pipe2(p, O_CLOEXEC);
		pid_t pid = tap_fork();
		if (pid == 0) {
			execve(tap_self, argv, environ);
			_exit(99);
		}
		close(p[1]);
		read(p[0], &c, 1);
		late += setpgid(pid, pid) == -1 && (errno == EACCES || errno == ESRCH);
		tap_reap(pid);
		close(p[0]);
	}
	CHECK_EQ(late, 60);
}

/* Two threads that wait for children of either: each child is told once, and ECHILD comes in the end. */
static void *waits(void *count)
{
	while (wait(NULL) > 0)
		__atomic_add_fetch((int *)count, 1, __ATOMIC_SEQ_CST);
	return NULL;
}
TEST(threads_share_their_children)
{
	int count = 0;
	for (int i = 0; i < 50; i++) {
		struct tap_gate g = tap_gate_new();
		for (int j = 0; j < 4; j++)
			if (tap_fork() == 0) {
				if (j == 0)
					tap_gate_wait(g);
				_exit(0);
			}
		pthread_t a, b;
		pthread_create(&a, NULL, waits, &count);
		pthread_create(&b, NULL, waits, &count);
		tap_gate_open(g);
		pthread_join(a, NULL);
		pthread_join(b, NULL);
		tap_gate_free(g);
	}
	CHECK_EQ(count, 200);
}
