/*
 * tap.h: everything a syscall test needs besides libc.
 *
 * A program is one family of calls. It defines cases with TEST(name) { ... }, which run in the order
 * they are written, each in the same process, in a scratch directory of its own under /tmp that is
 * removed at the end. Every check prints one TAP line, written with a single write(2):
 *
 *     ok 3 - excl: open("f", O_CREAT | O_EXCL) fails with EEXIST
 *     not ok 4 - excl: st.st_size == 5 # open.c:31 got 0, want 5 (errno 2 ENOENT)
 *
 * and the plan "1..N" comes last, so that a program that dies early is noticed. The exit status is 1
 * when a check failed. The counters live in shared memory: a forked child may check things as well
 * and its lines are counted with the parent's; IN_CHILD also makes the parent check how it ended.
 *
 * Linux is the oracle: what is checked here passed on a real kernel. Do not check what depends on
 * time, on the order in which two processes run, on being pid 1 or not, or on the host's set-up;
 * SKIP with a reason where a call newer than Linux 4.4 or a privilege is missing.
 */
#ifndef TAP_H
#define TAP_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TAP_FN static __attribute__((unused))
#define TAP_SECONDS 60

struct tap_counters {
	int checks;
	int failed;
};

static struct tap_counters tap_private, *tap_count = &tap_private;
static int tap_failed_here; /* failures of this process alone: a child's exit status */
static const char *tap_case = "main";
static char tap_self[PATH_MAX]; /* path of this program, for tests that execute it again */
static char tap_dir[64];        /* the scratch directory, absolute */

struct tap_test {
	const char *name;
	void (*run)(void);
};
static struct tap_test tap_tests[200];
static int tap_ntests;

/* TEST defines one case. Constructors of one file run in the order they are written. */
#define TEST(id)                                                                                   \
	static void t_##id(void);                                                                  \
	__attribute__((constructor)) static void tap_add_##id(void)                                \
	{                                                                                          \
		tap_tests[tap_ntests++] = (struct tap_test){#id, t_##id};                          \
	}                                                                                          \
	static void t_##id(void)

TAP_FN void tap_put(const char *line, size_t n)
{
	while (n > 0) {
		ssize_t w = write(STDOUT_FILENO, line, n);
		if (w < 0) {
			if (errno == EINTR)
				continue;
			return;
		}
		line += w;
		n -= w;
	}
}

__attribute__((format(printf, 1, 2))) TAP_FN void tap_line(const char *format, ...)
{
	char line[1024];
	va_list ap;
	va_start(ap, format);
	int n = vsnprintf(line, sizeof line - 1, format, ap);
	va_end(ap);
	if (n > (int)sizeof line - 2)
		n = sizeof line - 2;
	for (int i = 0; i < n; i++)
		if (line[i] == '\n')
			line[i] = ' ';
	line[n++] = '\n';
	tap_put(line, n);
}

/* tap_report prints one result; more is what a failure wants to tell. errno survives. */
__attribute__((format(printf, 5, 6))) TAP_FN int tap_report(int ok, const char *file, int line,
							    const char *name, const char *more, ...)
{
	int saved = errno;
	char clean[400], text[400];
	size_t n = 0;
	for (const char *c = name; *c != 0 && n < sizeof clean - 1; c++)
		clean[n++] = *c == '#' ? '=' : *c;
	clean[n] = 0;
	int number = __atomic_add_fetch(&tap_count->checks, 1, __ATOMIC_SEQ_CST);
	if (ok) {
		tap_line("ok %d - %s: %s", number, tap_case, clean);
	} else {
		va_list ap;
		va_start(ap, more);
		vsnprintf(text, sizeof text, more, ap);
		va_end(ap);
		const char *base = strrchr(file, '/');
		const char *errname = strerrorname_np(saved);
		tap_line("not ok %d - %s: %s # %s:%d %s (errno %d %s)", number, tap_case, clean,
			 base ? base + 1 : file, line, text, saved, errname ? errname : "?");
		__atomic_add_fetch(&tap_count->failed, 1, __ATOMIC_SEQ_CST);
		tap_failed_here++;
	}
	errno = saved;
	return ok;
}

/* CHECK: the condition holds. All the check macros yield whether they passed. */
#define CHECK(cond) tap_report(!!(cond), __FILE__, __LINE__, #cond, "is false")

/* CHECK_NAMED says in words what the condition means. */
#define CHECK_NAMED(cond, name) tap_report(!!(cond), __FILE__, __LINE__, name, "%s is false", #cond)

/* CHECK_OK: the call did not return -1. */
#define CHECK_OK(expr)                                                                             \
	({                                                                                         \
		errno = 0;                                                                         \
		long long tap_r = (long long)(expr);                                               \
		tap_report(tap_r != -1, __FILE__, __LINE__, #expr " succeeds", "got -1");          \
	})

/* CHECK_ERRNO: the call returned -1 with this errno. */
#define CHECK_ERRNO(expr, want)                                                                    \
	({                                                                                         \
		errno = 0;                                                                         \
		long long tap_r = (long long)(expr);                                               \
		tap_report(tap_r == -1 && errno == (want), __FILE__, __LINE__,                     \
			   #expr " fails with " #want, "got %lld", tap_r);                         \
	})

#define CHECK_EQ(a, b)                                                                             \
	({                                                                                         \
		long long tap_a = (long long)(a), tap_b = (long long)(b);                          \
		tap_report(tap_a == tap_b, __FILE__, __LINE__, #a " == " #b,                       \
			   "got %lld (%#llx), want %lld (%#llx)", tap_a, tap_a, tap_b, tap_b);     \
	})

#define CHECK_STR(a, b)                                                                            \
	({                                                                                         \
		const char *tap_a = (a), *tap_b = (b);                                             \
		tap_report(tap_a && tap_b && strcmp(tap_a, tap_b) == 0, __FILE__, __LINE__,        \
			   #a " equals " #b, "got \"%s\", want \"%s\"", tap_a ? tap_a : "NULL",    \
			   tap_b ? tap_b : "NULL");                                                \
	})

#define CHECK_MEM(a, b, n)                                                                         \
	tap_report(memcmp((a), (b), (n)) == 0, __FILE__, __LINE__, #a " holds " #b, "bytes differ")

/* REQUIRE ends the case when what the rest of it builds on failed. */
#define REQUIRE(cond)                                                                              \
	do {                                                                                       \
		if (!CHECK(cond))                                                                  \
			return;                                                                    \
	} while (0)
#define REQUIRE_OK(expr)                                                                           \
	do {                                                                                       \
		if (!CHECK_OK(expr))                                                               \
			return;                                                                    \
	} while (0)

/* SKIP ends the case and says what it would have needed. */
#define SKIP(reason)                                                                               \
	do {                                                                                       \
		tap_line("ok %d - %s # SKIP %s",                                                   \
			 __atomic_add_fetch(&tap_count->checks, 1, __ATOMIC_SEQ_CST), tap_case,    \
			 reason);                                                                  \
		return;                                                                            \
	} while (0)

/* --- children --- */

TAP_FN pid_t tap_fork(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		tap_failed_here = 0;
		alarm(TAP_SECONDS / 2); /* alarms are not inherited */
	}
	return pid;
}

/* tap_reap waits for one child and returns its wait status, or -1. */
TAP_FN int tap_reap(pid_t pid)
{
	int status = -1;
	while (waitpid(pid, &status, 0) == -1)
		if (errno != EINTR)
			return -1;
	return status;
}

TAP_FN void tap_child_exit(void)
{
	_exit(tap_failed_here > 0 ? 111 : 0);
}

TAP_FN pid_t tap_check_child(pid_t pid, const char *file, int line)
{
	int status = tap_reap(pid);
	tap_report(status == 0, file, line, "the child ends well", "wait status %#x", status);
	return -1;
}

TAP_FN pid_t tap_store_child(pid_t pid, int *status)
{
	*status = tap_reap(pid);
	return -1;
}

TAP_FN pid_t tap_no_fork(const char *file, int line)
{
	tap_report(0, file, line, "fork", "failed");
	return -2;
}

/* IN_CHILD { body }: runs the body in a child, waits, and checks that it exited with 0. The body may
 * check things itself; it must not return from the function. */
#define IN_CHILD                                                                                   \
	for (pid_t tap_p = tap_fork();                                                             \
	     tap_p != -2 && (tap_p >= 0 || (tap_p = tap_no_fork(__FILE__, __LINE__)) != -2);       \
	     tap_p = tap_p == 0 ? (tap_child_exit(), -2)                                           \
				: (tap_check_child(tap_p, __FILE__, __LINE__), -2))                \
		if (tap_p == 0)

/* CHILD_STATUS(status) { body }: the same, with the wait status stored instead of checked. */
#define CHILD_STATUS(status)                                                                       \
	for (pid_t tap_p = ((status) = -1, tap_fork());                                                          \
	     tap_p != -2 && (tap_p >= 0 || (tap_p = tap_no_fork(__FILE__, __LINE__)) != -2);       \
	     tap_p = tap_p == 0 ? (tap_child_exit(), -2) : (tap_store_child(tap_p, &(status)), -2)) \
		if (tap_p == 0)

/* tap_become gives up root for good: every capability goes with the user id. */
TAP_FN int tap_become(uid_t uid, gid_t gid)
{
	if (syscall(SYS_setgroups, 0, NULL) != 0 || syscall(SYS_setresgid, gid, gid, gid) != 0)
		return -1;
	return syscall(SYS_setresuid, uid, uid, uid);
}

/* tap_capable tells whether the calling thread has a capability in its effective set. */
TAP_FN int tap_capable(int cap)
{
	struct {
		uint32_t version;
		int pid;
	} header = {0x20080522, 0};
	struct {
		uint32_t effective, permitted, inheritable;
	} data[2];
	if (syscall(SYS_capget, &header, data) != 0)
		return 0;
	return data[cap / 32].effective >> (cap % 32) & 1;
}

/* --- waiting without sleeping: a byte through a pipe --- */

struct tap_gate {
	int fd[2];
};
TAP_FN struct tap_gate tap_gate_new(void)
{
	struct tap_gate g;
	if (pipe2(g.fd, O_CLOEXEC) != 0)
		g.fd[0] = g.fd[1] = -1;
	return g;
}
TAP_FN void tap_gate_open(struct tap_gate g)
{
	while (write(g.fd[1], "g", 1) == -1 && errno == EINTR)
		;
}
TAP_FN int tap_gate_wait(struct tap_gate g)
{
	char c;
	ssize_t n;
	while ((n = read(g.fd[0], &c, 1)) == -1 && errno == EINTR)
		;
	return n == 1;
}
TAP_FN void tap_gate_free(struct tap_gate g)
{
	close(g.fd[0]);
	close(g.fd[1]);
}

/* --- files --- */

TAP_FN int tap_write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0)
		return -1;
	size_t n = strlen(text);
	ssize_t w = write(fd, text, n);
	close(fd);
	return w == (ssize_t)n ? 0 : -1;
}

/* tap_read_file reads up to size-1 bytes and ends them with a zero; returns the length or -1. */
TAP_FN ssize_t tap_read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	size_t n = 0;
	ssize_t r;
	while (n < size - 1 && (r = read(fd, buf + n, size - 1 - n)) > 0)
		n += r;
	buf[n] = 0;
	close(fd);
	return n;
}

TAP_FN void tap_remove_tree(const char *path)
{
	struct stat st;
	if (lstat(path, &st) != 0)
		return;
	if (S_ISDIR(st.st_mode)) {
		DIR *d = opendir(path);
		struct dirent *e;
		while (d && (e = readdir(d))) {
			char sub[PATH_MAX];
			if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
				continue;
			snprintf(sub, sizeof sub, "%s/%s", path, e->d_name);
			tap_remove_tree(sub);
		}
		if (d)
			closedir(d);
		rmdir(path);
	} else {
		unlink(path);
	}
}

/* --- faults --- */

static sigjmp_buf tap_fault_jump;
static volatile siginfo_t tap_fault_info;

TAP_FN void tap_on_fault(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	memcpy((void *)&tap_fault_info, info, sizeof *info);
	siglongjmp(tap_fault_jump, 1);
}

/* tap_fault runs f(arg) and returns the signal it raised (0 for none); tap_fault_info has the rest. */
__attribute__((noinline)) TAP_FN int tap_fault(void (*f)(void *), void *arg)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
	struct sigaction old[5], action = {.sa_sigaction = tap_on_fault, .sa_flags = SA_SIGINFO};
	memset((void *)&tap_fault_info, 0, sizeof tap_fault_info);
	for (int i = 0; i < 5; i++)
		sigaction(signals[i], &action, &old[i]);
	if (sigsetjmp(tap_fault_jump, 1) == 0)
		f(arg);
	for (int i = 0; i < 5; i++)
		sigaction(signals[i], &old[i], NULL);
	return tap_fault_info.si_signo;
}
TAP_FN void tap_load(void *p)
{
	(void)*(volatile char *)p;
}
TAP_FN void tap_store(void *p)
{
	*(volatile char *)p = 1;
}
TAP_FN void tap_call(void *p)
{
	((void (*)(void))p)();
}
#define FAULT_LOAD(p) tap_fault(tap_load, (void *)(p))
#define FAULT_STORE(p) tap_fault(tap_store, (void *)(p))
#define FAULT_CALL(p) tap_fault(tap_call, (void *)(p))

/* --- the program --- */

#ifdef TAP_ROLES
/* A program that executes itself again defines tap_role, called when argv[1] starts with "--". */
static int tap_role(int argc, char **argv, char **envp);
#endif

TAP_FN void tap_watchdog(int sig)
{
	(void)sig;
	static const char text[] = "Bail out! the watchdog ended the program\n";
	tap_put(text, sizeof text - 1);
	_exit(112);
}

/* tap_reset gives every case the same start, whatever the one before it did. */
TAP_FN void tap_reset(void)
{
	sigset_t none;
	sigemptyset(&none);
	for (int sig = 1; sig < NSIG; sig++)
		if (sig != SIGALRM && sig != SIGKILL && sig != SIGSTOP && sig != 32 && sig != 33) {
			signal(sig, SIG_IGN); /* drops what is pending */
			signal(sig, SIG_DFL);
		}
	struct itimerval off = {{0, 0}, {0, 0}};
	setitimer(ITIMER_REAL, &off, NULL);
	signal(SIGALRM, tap_watchdog);
	sigprocmask(SIG_SETMASK, &none, NULL);
	umask(022);
	alarm(TAP_SECONDS);
}

int main(int argc, char **argv, char **envp)
{
	(void)envp;
	ssize_t n = readlink("/proc/self/exe", tap_self, sizeof tap_self - 1);
	if (n > 0)
		tap_self[n] = 0;
	else if (!realpath(argv[0], tap_self))
		snprintf(tap_self, sizeof tap_self, "%s", argv[0]);
#ifdef TAP_ROLES
	if (argc > 1 && strncmp(argv[1], "--", 2) == 0)
		return tap_role(argc, argv, envp);
#endif
	for (int fd = 3; fd < 256; fd++)
		close(fd);
	if (getpid() == 1) {
		/* Init adopts orphans and survives its own signals. Be its child; namespaces.c tests init. */
		pid_t child = fork(), ended;
		int status = 0;
		while (child > 0 && (ended = wait(&status)) != child)
			if (ended == -1 && errno != EINTR)
				return 2;
		if (child > 0)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
	void *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared != MAP_FAILED)
		tap_count = shared;
	char made[sizeof tap_dir];
	for (int i = 0; i < 1000; i++) {
		snprintf(made, sizeof made, "/tmp/syscalls-%d-%d", (int)getpid(), i);
		if (mkdir(made, 0755) == 0) {
			strcpy(tap_dir, made);
			break;
		}
	}
	if (tap_dir[0] == 0 || chmod(tap_dir, 0755) != 0 || chdir(tap_dir) != 0) {
		tap_line("Bail out! no scratch directory under /tmp: %s", strerror(errno));
		return 2;
	}
	pid_t me = getpid();
	for (int i = 0; i < tap_ntests; i++) {
		if (argc > 1 && strcmp(argv[1], tap_tests[i].name) != 0)
			continue;
		tap_case = tap_tests[i].name;
		tap_reset();
		char sub[sizeof tap_dir + 16];
		snprintf(sub, sizeof sub, "%s/%d", tap_dir, i);
		if (mkdir(sub, 0755) != 0 || chdir(sub) != 0)
			tap_report(0, __FILE__, __LINE__, "scratch directory", "failed");
		tap_tests[i].run();
	}
	if (getpid() != me)
		_exit(113);
	tap_reset();
	chdir("/");
	tap_remove_tree(tap_dir);
	tap_line("1..%d", tap_count->checks);
	return tap_count->failed > 0;
}

#endif
