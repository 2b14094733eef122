/* namespaces(7): unshare(2), setns(2), clone flags; pid 1 of a PID namespace. */
#include "tap.h"
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>

#define NEED_ADMIN()                                                                               \
	if (!tap_capable(21))                                                                      \
	SKIP("needs CAP_SYS_ADMIN")

static pid_t clone_ns(int flags)
{
	pid_t pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0) {
		tap_failed_here = 0;
		alarm(TAP_SECONDS / 2);
	}
	return pid;
}

TEST(pid_numbers)
{
	NEED_ADMIN();
	pid_t init = clone_ns(CLONE_NEWPID);
	if (init == 0) {
		CHECK_EQ(getpid(), 1);
		CHECK_EQ(getppid(), 0); /* the parent is outside */
		CHECK_EQ(syscall(SYS_gettid), 1);
		pid_t child = tap_fork();
		if (child == 0)
			_exit(getpid() == 2 && getppid() == 1 ? 0 : 1);
		CHECK_EQ(child, 2);
		CHECK_EQ(tap_reap(child), 0);
		CHECK_ERRNO(kill(3, 0), ESRCH);
		CHECK_EQ(setsid(), 1);
		tap_child_exit();
	}
	CHECK(init > 1);
	CHECK_EQ(tap_reap(init), 0);
}

TEST(init_adopts)
{
	NEED_ADMIN();
	pid_t init = clone_ns(CLONE_NEWPID);
	if (init == 0) {
		struct tap_gate go = tap_gate_new();
		pid_t middle = tap_fork();
		if (middle == 0) {
			if (tap_fork() == 0) {
				tap_gate_wait(go);
				_exit(getppid() == 1 ? 9 : 1);
			}
			_exit(0);
		}
		CHECK_EQ(tap_reap(middle), 0);
		tap_gate_open(go);
		int status = 0;
		CHECK_EQ(waitpid(-1, &status, 0), 3);
		CHECK_EQ(WEXITSTATUS(status), 9);
		tap_child_exit();
	}
	CHECK_EQ(tap_reap(init), 0);
}

static volatile sig_atomic_t caught;
static void on_signal(int sig)
{
	caught = sig;
}

TEST(init_and_signals)
{
	NEED_ADMIN();
	struct tap_gate ready = tap_gate_new();
	pid_t init = clone_ns(CLONE_NEWPID);
	if (init == 0) {
		/* From inside, init gets only signals it has a handler for. */
		kill(1, SIGKILL);
		kill(1, SIGTERM);
		pid_t child = tap_fork();
		if (child == 0) {
			kill(1, SIGKILL);
			kill(1, SIGINT);
			_exit(0);
		}
		CHECK_EQ(tap_reap(child), 0);
		signal(SIGUSR1, on_signal);
		kill(1, SIGUSR1);
		CHECK_EQ(caught, SIGUSR1);
		tap_gate_open(ready);
		for (;;)
			pause();
	}
	tap_gate_wait(ready);
	int status;
	kill(init, SIGTERM); /* ignored from outside as well, without a handler */
	CHECK_EQ(waitpid(init, &status, WNOHANG), 0);
	kill(init, SIGKILL); /* but this works */
	CHECK_EQ(tap_reap(init), SIGKILL);
	tap_gate_free(ready);
}

/* What init blocks waits for it, as for anybody: it may be read or waited for, as
 * init programs do that have no handlers. */
TEST(init_takes_what_it_blocks)
{
	NEED_ADMIN();
	pid_t init = clone_ns(CLONE_NEWPID);
	if (init == 0) {
		sigset_t s;
		sigemptyset(&s);
		sigaddset(&s, SIGCHLD);
		sigaddset(&s, SIGTERM);
		sigaddset(&s, SIGHUP);
		sigprocmask(SIG_BLOCK, &s, NULL);
		int fd = signalfd(-1, &s, SFD_CLOEXEC | SFD_NONBLOCK);
		pid_t child = tap_fork();
		if (child == 0) {
			kill(1, SIGTERM);
			_exit(3);
		}
		struct signalfd_siginfo i = {0};
		struct pollfd f = {fd, POLLIN, 0};
		unsigned seen = 0;
		while (seen != (1u << SIGCHLD | 1u << SIGTERM)) {
			CHECK_EQ(poll(&f, 1, 10000), 1);
			REQUIRE(read(fd, &i, sizeof i) == sizeof i);
			seen |= 1u << i.ssi_signo;
			if (i.ssi_signo == SIGTERM)
				CHECK_EQ(i.ssi_pid, child);
		}
		CHECK_EQ(tap_reap(child), 3 << 8);
		kill(1, SIGHUP);
		sigset_t pending;
		CHECK_OK(sigpending(&pending));
		CHECK(sigismember(&pending, SIGHUP));
		sigprocmask(SIG_UNBLOCK, &s, NULL); /* nobody handles it: it is gone */
		CHECK_OK(sigpending(&pending));
		CHECK(!sigismember(&pending, SIGHUP));
		tap_child_exit();
	}
	CHECK_EQ(tap_reap(init), 0);
}

TEST(end_of_init_kills_all)
{
	NEED_ADMIN();
	int p[2];
	pipe(p);
	pid_t init = clone_ns(CLONE_NEWPID);
	if (init == 0) {
		struct tap_gate up = tap_gate_new();
		for (int i = 0; i < 3; i++)
			if (tap_fork() == 0) {
				setsid();
				tap_gate_open(up);
				for (;;)
					pause();
			}
		for (int i = 0; i < 3; i++)
			tap_gate_wait(up);
		_exit(4);
	}
	close(p[1]);
	CHECK_EQ(WEXITSTATUS(tap_reap(init)), 4);
	char c;
	CHECK_EQ(read(p[0], &c, 1), 0); /* nobody holds the pipe any more */
	close(p[0]);
}

TEST(unshare_pid)
{
	NEED_ADMIN();
	IN_CHILD
	{
		pid_t me = getpid();
		CHECK_OK(unshare(CLONE_NEWPID));
		CHECK_EQ(getpid(), me); /* only children are inside */
		pid_t first = tap_fork();
		if (first == 0)
			_exit(getpid() == 1 ? 0 : 1);
		CHECK_EQ(tap_reap(first), 0);
		CHECK_ERRNO(fork(), ENOMEM); /* init is gone: nothing can be born there */
	}
}

TEST(proc_of_a_pid_namespace)
{
	NEED_ADMIN();
	mkdir("proc", 0755);
	pid_t init = clone_ns(CLONE_NEWPID | CLONE_NEWNS);
	if (init == 0) {
		char link[16] = "";
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
		CHECK_OK(mount("proc", "proc", "proc", 0, NULL));
		CHECK_EQ(readlink("proc/self", link, sizeof link - 1), 1);
		CHECK_STR(link, "1");
		CHECK_OK(access("proc/1/status", F_OK));
		CHECK_ERRNO(access("proc/2", F_OK), ENOENT);
		umount("proc");
		tap_child_exit();
	}
	CHECK_EQ(tap_reap(init), 0);
}

TEST(uts_and_setns)
{
	NEED_ADMIN();
	struct utsname u;
	int fd = open("/proc/self/ns/uts", O_RDONLY);
	REQUIRE(fd >= 0);
	IN_CHILD
	{
		struct stat a, b;
		char before[80];
		uname(&u);
		strcpy(before, u.nodename);
		fstat(fd, &a);
		CHECK_OK(unshare(CLONE_NEWUTS));
		stat("/proc/self/ns/uts", &b);
		CHECK(a.st_ino != b.st_ino);
		uname(&u);
		CHECK_STR(u.nodename, before); /* a copy at first */
		sethostname("inside", 6);
		CHECK_ERRNO(setns(fd, CLONE_NEWNET), EINVAL); /* not that kind */
		CHECK_OK(setns(fd, CLONE_NEWUTS));
		uname(&u);
		CHECK_STR(u.nodename, before);
		stat("/proc/self/ns/uts", &b);
		CHECK_EQ(a.st_ino, b.st_ino);
		CHECK_ERRNO(setns(-1, 0), EBADF);
		CHECK_ERRNO(setns(open("/dev/null", O_RDONLY), 0), EINVAL);
		char link[64];
		ssize_t n = readlink("/proc/self/ns/uts", link, sizeof link - 1);
		link[n > 0 ? n : 0] = 0;
		CHECK(strncmp(link, "uts:[", 5) == 0);
	}
	close(fd);
}

TEST(mount_namespace)
{
	NEED_ADMIN();
	mkdir("m", 0755);
	pid_t child = clone_ns(CLONE_NEWNS);
	if (child == 0) {
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
		CHECK_OK(mount("none", "m", "tmpfs", 0, NULL));
		tap_write_file("m/f", "");
		tap_child_exit();
	}
	CHECK_EQ(tap_reap(child), 0);
	CHECK_ERRNO(access("m/f", F_OK), ENOENT);
}

TEST(user_namespace)
{
	IN_CHILD
	{
		pid_t pid = getpid();
		if (unshare(CLONE_NEWUSER) != 0) {
			CHECK_NAMED(errno == EPERM || errno == EINVAL || errno == ENOSPC || errno == EUSERS,
				    "user namespaces are not allowed here");
		} else {
			CHECK_EQ(getuid(), 65534); /* unmapped */
			CHECK(tap_capable(21)); /* all capabilities inside */
			CHECK_EQ(getpid(), pid);
			CHECK_OK(tap_write_file("/proc/self/uid_map", "0 0 1"));
			CHECK_EQ(getuid(), 0);
			CHECK_ERRNO(tap_write_file("/proc/self/uid_map", "0 0 1"), EPERM); /* once */
		}
	}
}

TEST(errors)
{
	CHECK_OK(unshare(0));
	CHECK_ERRNO(unshare(0x1), EINVAL);
	IN_CHILD
	{
		CHECK_OK(unshare(CLONE_FS | CLONE_FILES));
		tap_become(12345, 12345);
		CHECK_ERRNO(unshare(CLONE_NEWUTS), EPERM);
		CHECK_ERRNO(syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0), EPERM);
	}
}
