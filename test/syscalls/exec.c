/* execve(2), execveat(2): arguments, what survives, scripts, errors. */
#define TAP_ROLES
#include "tap.h"
#include <sys/auxv.h>

extern char **environ;

static int tap_role(int argc, char **argv, char **envp)
{
	if (strcmp(argv[1], "--args") == 0) { /* prints its arguments and environment to descriptor 9 */
		dprintf(9, "argc=%d", argc);
		for (int i = 0; i < argc; i++)
			dprintf(9, " [%s]", argv[i]);
		for (; *envp; envp++)
			dprintf(9, " {%s}", *envp);
		return 0;
	}
	if (strcmp(argv[1], "--state") == 0) { /* what an exec kept */
		struct sigaction a;
		sigset_t mask, pending;
		stack_t s;
		sigprocmask(SIG_SETMASK, NULL, &mask);
		sigpending(&pending);
		sigaction(SIGUSR1, NULL, &a);
		int usr1 = a.sa_handler == SIG_DFL;
		sigaction(SIGUSR2, NULL, &a);
		int usr2 = a.sa_handler == SIG_IGN;
		sigaltstack(NULL, &s);
		char comm[32] = "";
		prctl(PR_GET_NAME, comm);
		dprintf(9, "pid=%d usr1=%d usr2=%d hup=%d pend=%d alt=%d cloexec=%d open=%d comm=%s umask=%o", getpid(),
			usr1, usr2, sigismember(&mask, SIGHUP), sigismember(&pending, SIGHUP),
			s.ss_flags == SS_DISABLE, fcntl(20, F_GETFD) == -1, fcntl(21, F_GETFD) == 0, comm,
			umask(0));
		return 0;
	}
	if (strcmp(argv[1], "--auxv") == 0) {
		dprintf(9, "page=%lu secure=%lu uid=%lu random=%d phdr=%d execfn=%s platform=%s", getauxval(AT_PAGESZ),
			getauxval(AT_SECURE), getauxval(AT_UID), getauxval(AT_RANDOM) != 0,
			getauxval(AT_PHDR) != 0, (char *)getauxval(AT_EXECFN), (char *)getauxval(AT_PLATFORM));
		return 0;
	}
	if (strcmp(argv[1], "--exit") == 0)
		return atoi(argv[2]);
	return 99;
}

/* run executes path in a child with descriptor 9 as its voice and returns what it said. */
static char said[70000];
static int run(const char *path, char **argv, char **envp)
{
	int p[2], status;
	pipe(p);
	pid_t child = tap_fork();
	if (child == 0) {
		dup2(p[1], 9);
		execve(path, argv, envp);
		_exit(errno);
	}
	close(p[1]);
	size_t n = 0;
	ssize_t r;
	while (n < sizeof said - 1 && (r = read(p[0], said + n, sizeof said - 1 - n)) > 0)
		n += r;
	said[n] = 0;
	close(p[0]);
	status = tap_reap(child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(arguments)
{
	char *argv[] = {"zero", "--args", "a b", "", "c", NULL}, *envp[] = {"A=1", "NOEQUALS", "", NULL};
	CHECK_EQ(run(tap_self, argv, envp), 0);
	CHECK_STR(said, "argc=5 [zero] [--args] [a b] [] [c] {A=1} {NOEQUALS} {}");
	char *none[] = {"zero", "--args", NULL};
	CHECK_EQ(run(tap_self, none, NULL), 0); /* Linux: a null envp is an empty one */
	CHECK_STR(said, "argc=2 [zero] [--args]");
	char *bye[] = {"x", "--exit", "42", NULL};
	CHECK_EQ(run(tap_self, bye, environ), 42);
}

static void handler(int sig)
{
	(void)sig;
}

TEST(what_survives)
{
	char want[256], *argv[] = {"x", "--state", NULL};
	int p[2];
	pipe(p);
	pid_t child = tap_fork();
	if (child == 0) {
		sigset_t set;
		sigemptyset(&set);
		sigaddset(&set, SIGHUP);
		sigprocmask(SIG_BLOCK, &set, NULL);
		kill(getpid(), SIGHUP);
		signal(SIGUSR1, handler);
		signal(SIGUSR2, SIG_IGN);
		stack_t s = {.ss_sp = malloc(65536), .ss_size = 65536};
		sigaltstack(&s, NULL);
		prctl(PR_SET_NAME, "before");
		umask(0123);
		dup2(p[1], 9), dup2(p[1], 21), dup3(p[1], 20, O_CLOEXEC);
		symlink(tap_self, "a-name-that-is-long");
		execve("a-name-that-is-long", argv, environ);
		_exit(1);
	}
	close(p[1]);
	ssize_t n = read(p[0], said, sizeof said - 1);
	said[n > 0 ? n : 0] = 0;
	tap_reap(child);
	/* Handlers go back to the default, ignored stays ignored; mask and pending stay; the
	 * alternate stack goes; comm becomes the name it was called by, cut to 15 bytes. */
	snprintf(want, sizeof want,
		 "pid=%d usr1=1 usr2=1 hup=1 pend=1 alt=1 cloexec=1 open=1 comm=a-name-that-is- umask=123", child);
	CHECK_STR(said, want);
	close(p[0]);
}

TEST(auxiliary_vector)
{
	char *argv[] = {"x", "--auxv", NULL}, want[PATH_MAX + 128];
	CHECK_EQ(run(tap_self, argv, environ), 0);
	snprintf(want, sizeof want, "page=4096 secure=0 uid=0 random=1 phdr=1 execfn=%s platform=x86_64", tap_self);
	CHECK_STR(said, want);
}

static void script(const char *name, const char *text, int mode)
{
	tap_write_file(name, text);
	chmod(name, mode);
}

TEST(scripts)
{
	char line[PATH_MAX + 64], want[2 * PATH_MAX + 64], *argv[] = {"ignored", "one", NULL}, *envp[] = {NULL};
	snprintf(line, sizeof line, "#!%s --args\nrest\n", tap_self);
	script("s", line, 0755);
	CHECK_EQ(run("./s", argv, envp), 0);
	snprintf(want, sizeof want, "argc=4 [%s] [--args] [./s] [one]", tap_self);
	CHECK_STR(said, want);
	/* One argument at most, blanks inside it and all; those around are dropped. */
	snprintf(line, sizeof line, "#! \t%s   --args  b \t c  \n", tap_self);
	script("s2", line, 0755);
	CHECK_EQ(run("./s2", argv, envp), 99);
	snprintf(line, sizeof line, "#!%s --args", tap_self); /* no newline needed */
	script("s3", line, 0755);
	CHECK_EQ(run("./s3", argv, envp), 0);
	/* A script may be another's interpreter. */
	char here[512];
	getcwd(here, sizeof here - 8);
	snprintf(line, sizeof line, "#!%s/s\n", here);
	script("s4", line, 0755);
	CHECK_EQ(run("./s4", argv, envp), 0);
	snprintf(want, sizeof want, "argc=5 [%s] [--args] [%s/s] [./s4] [one]", tap_self, here);
	CHECK_STR(said, want);
	/* The nesting ends after five. */
	char name[16];
	for (int i = 5; i < 10; i++) {
		snprintf(line, sizeof line, "#!%s/s%d\n", here, i - 1);
		snprintf(name, sizeof name, "s%d", i);
		script(name, line, 0755);
	}
	CHECK_EQ(run("./s9", argv, envp), ELOOP);
	script("bad", "#!/none/such\n", 0755);
	CHECK_EQ(run("./bad", argv, envp), ENOENT);
	script("empty", "#!\n", 0755);
	CHECK_EQ(run("./empty", argv, envp), ENOEXEC);
}

TEST(errors)
{
	char *argv[] = {"x", NULL};
	script("plain", "not a program\n", 0755);
	CHECK_EQ(run("./plain", argv, environ), ENOEXEC);
	script("zero", "", 0755);
	CHECK_EQ(run("./zero", argv, environ), ENOEXEC);
	script("noexec", "#!/bin/sh\n", 0644);
	CHECK_EQ(run("./noexec", argv, environ), EACCES);
	mkdir("d", 0755);
	CHECK_EQ(run("./d", argv, environ), EACCES);
	CHECK_EQ(run("./none", argv, environ), ENOENT);
	CHECK_EQ(run("./plain/x", argv, environ), ENOTDIR);
	CHECK_EQ(run("", argv, environ), ENOENT);
	script("elf", "\177ELF\2\1\1", 0755);
	CHECK_EQ(run("./elf", argv, environ), ENOEXEC);
	symlink("loop", "loop");
	CHECK_EQ(run("./loop", argv, environ), ELOOP);
	CHECK_ERRNO(syscall(SYS_execve, (void *)8, argv, environ), EFAULT);
	CHECK_ERRNO(syscall(SYS_execve, tap_self, (void *)8, environ), EFAULT);
	char *wild[] = {"x", (char *)8, NULL};
	CHECK_ERRNO(syscall(SYS_execve, tap_self, wild, environ), EFAULT);
	/* One string may have 32 pages with its zero (MAX_ARG_STRLEN). */
	char *big = malloc(32 * 4096 + 1);
	memset(big, 'b', 32 * 4096);
	big[32 * 4096] = 0;
	char *huge[] = {"x", "--exit", "0", big, NULL};
	CHECK_EQ(run(tap_self, huge, environ), E2BIG);
	big[32 * 4096 - 1] = 0;
	CHECK_EQ(run(tap_self, huge, environ), 0);
	/* All together: a quarter of the stack limit. */
	char **many = calloc(100, sizeof *many);
	many[0] = "x";
	for (int i = 1; i < 99; i++)
		many[i] = big;
	IN_CHILD
	{
		struct rlimit r;
		getrlimit(RLIMIT_STACK, &r);
		r.rlim_cur = 8 << 20;
		setrlimit(RLIMIT_STACK, &r);
		CHECK_ERRNO(execve(tap_self, many, environ), E2BIG);
	}
	int fd = open("busy", O_RDWR | O_CREAT, 0755);
	write(fd, "#!/x\n", 5);
	CHECK_EQ(run("./busy", argv, environ), ETXTBSY);
	close(fd);
	CHECK_EQ(run("./busy", argv, environ), ENOENT);
	free(big), free(many);
}

TEST(execveat)
{
	char *argv[] = {"x", "--exit", "17", NULL}, *dir = strdup(tap_self), *base = strrchr(dir, '/');
	int status;
	*base++ = 0;
	int d = open(*dir ? dir : "/", O_RDONLY | O_DIRECTORY), fd = open(tap_self, O_RDONLY | O_CLOEXEC);
	CHILD_STATUS(status)
	{
		syscall(SYS_execveat, d, base, argv, environ, 0);
	}
	CHECK_EQ(WEXITSTATUS(status), 17);
	CHILD_STATUS(status)
	{
		syscall(SYS_execveat, fd, "", argv, environ, AT_EMPTY_PATH);
	}
	CHECK_EQ(WEXITSTATUS(status), 17);
	CHECK_ERRNO(syscall(SYS_execveat, fd, "", argv, environ, 0), ENOENT);
	CHECK_ERRNO(syscall(SYS_execveat, -5, "x", argv, environ, 0), EBADF);
	CHECK_ERRNO(syscall(SYS_execveat, d, base, argv, environ, 0x40000000), EINVAL);
	symlink(tap_self, "l");
	CHECK_ERRNO(syscall(SYS_execveat, AT_FDCWD, "l", argv, environ, AT_SYMLINK_NOFOLLOW), ELOOP);
	/* A script by a descriptor that exec closes: its interpreter could not open it. */
	char line[PATH_MAX + 64];
	snprintf(line, sizeof line, "#!%s --args\n", tap_self);
	script("s", line, 0755);
	int s = open("s", O_RDONLY | O_CLOEXEC);
	CHECK_ERRNO(syscall(SYS_execveat, s, "", argv, environ, AT_EMPTY_PATH), ENOENT);
	close(s), close(fd), close(d);
	free(dir);
}

static void *idle(void *arg)
{
	for (;;)
		pause();
	return arg;
}
static void *executes(void *arg)
{
	char *argv[] = {"x", "--state", NULL};
	execve(tap_self, argv, environ);
	return arg;
}

TEST(threads_end_and_the_pid_stays)
{
	int p[2];
	pipe(p);
	pid_t child = tap_fork();
	if (child == 0) {
		pthread_t t;
		dup2(p[1], 9);
		for (int i = 0; i < 3; i++)
			pthread_create(&t, NULL, idle, NULL);
		pthread_create(&t, NULL, executes, NULL); /* not the leader */
		for (;;)
			pause();
	}
	close(p[1]);
	char want[32];
	ssize_t n = read(p[0], said, sizeof said - 1);
	said[n > 0 ? n : 0] = 0;
	snprintf(want, sizeof want, "pid=%d ", child);
	CHECK(strncmp(said, want, strlen(want)) == 0);
	CHECK_EQ(tap_reap(child), 0);
	close(p[0]);
}

TEST(setuid_program)
{
	/* Copy ourselves, make it set-uid: the ids change, and AT_SECURE with them. */
	int in = open(tap_self, O_RDONLY), out = open("copy", O_WRONLY | O_CREAT, 0755);
	char *buf = malloc(1 << 20);
	ssize_t n;
	while ((n = read(in, buf, 1 << 20)) > 0)
		write(out, buf, n);
	close(in), close(out);
	chown("copy", 4321, 4322);
	chmod("copy", 06755);
	char *argv[] = {"x", "--auxv", NULL};
	IN_CHILD
	{
		CHECK_EQ(run("./copy", argv, environ), 0);
		CHECK(strstr(said, "secure=1 uid=0 ") != NULL);
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		CHECK_EQ(run("./copy", argv, environ), 0);
		CHECK(strstr(said, "secure=0 uid=0 ") != NULL);
	}
	free(buf);
}
