/* clone(2): what each flag shares. */
#include "tap.h"
#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>

static char stack[8][65536] __attribute__((aligned(16)));
static volatile int value;

static int set_value(void *arg)
{
	value = (int)(intptr_t)arg;
	return 3;
}

static int status_of(pid_t pid, int flags)
{
	int status = -1;
	waitpid(pid, &status, flags);
	return status;
}

TEST(vm)
{
	value = 1;
	pid_t child = clone(set_value, stack[1], SIGCHLD, (void *)2);
	CHECK(child > 0);
	CHECK_EQ(WEXITSTATUS(status_of(child, 0)), 3);
	CHECK_EQ(value, 1);
	child = clone(set_value, stack[1], CLONE_VM | SIGCHLD, (void *)2);
	CHECK_EQ(WEXITSTATUS(status_of(child, 0)), 3);
	CHECK_EQ(value, 2);
	child = clone(set_value, stack[1], CLONE_VM | CLONE_VFORK | SIGCHLD, (void *)3);
	CHECK_EQ(value, 3); /* CLONE_VFORK: it has ended before we run */
	status_of(child, 0);
}

static int use_files(void *arg)
{
	int fd = open("/dev/null", O_RDONLY);
	if (fd != 100)
		dup2(fd, 100);
	(void)arg;
	return 0;
}

TEST(files)
{
	pid_t child = clone(use_files, stack[1], CLONE_VM | SIGCHLD, NULL);
	status_of(child, 0);
	CHECK_ERRNO(fcntl(100, F_GETFD), EBADF);
	child = clone(use_files, stack[1], CLONE_VM | CLONE_FILES | SIGCHLD, NULL);
	status_of(child, 0);
	CHECK_OK(fcntl(100, F_GETFD));
	for (int fd = 3; fd <= 100; fd++)
		close(fd);
}

static int use_fs(void *arg)
{
	umask(0111);
	return chdir(arg);
}

TEST(fs)
{
	struct stat a, b;
	mkdir("d", 0755);
	stat(".", &a);
	pid_t child = clone(use_fs, stack[1], SIGCHLD, "d");
	CHECK_EQ(status_of(child, 0), 0);
	stat(".", &b);
	CHECK_EQ(a.st_ino, b.st_ino);
	child = clone(use_fs, stack[1], CLONE_FS | SIGCHLD, "d");
	CHECK_EQ(status_of(child, 0), 0);
	stat(".", &b);
	CHECK(a.st_ino != b.st_ino);
	CHECK_EQ(umask(022), 0111);
}

static void handler(int sig)
{
	(void)sig;
}
static int use_handlers(void *arg)
{
	signal(SIGUSR1, arg);
	return 0;
}

TEST(sighand)
{
	struct sigaction a;
	pid_t child = clone(use_handlers, stack[1], CLONE_VM | SIGCHLD, handler);
	status_of(child, 0);
	sigaction(SIGUSR1, NULL, &a);
	CHECK(a.sa_handler == SIG_DFL);
	child = clone(use_handlers, stack[1], CLONE_VM | CLONE_SIGHAND | SIGCHLD, handler);
	status_of(child, 0);
	sigaction(SIGUSR1, NULL, &a);
	CHECK(a.sa_handler == handler);
}

static int tell_parent(void *arg)
{
	*(volatile int *)arg = getppid();
	return 0;
}

TEST(parent_flag_and_exit_signal)
{
	volatile int *told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	IN_CHILD
	{
		pid_t top = getpid();
		IN_CHILD
		{
			/* CLONE_PARENT: a sibling, not a child. */
			pid_t sibling = clone(tell_parent, stack[1], CLONE_PARENT | SIGCHLD, (void *)told);
			CHECK(sibling > 0);
			CHECK_ERRNO(waitpid(sibling, NULL, __WALL), ECHILD);
		}
		CHECK(waitpid(-1, NULL, 0) > 0);
		CHECK_EQ(*told, top);
	}
	/* No exit signal: only __WALL or __WCLONE waits for it. */
	pid_t child = clone(set_value, stack[1], 0, (void *)9);
	CHECK_ERRNO(waitpid(child, NULL, 0), ECHILD);
	int status = 0;
	CHECK_EQ(waitpid(child, &status, __WCLONE), child);
	CHECK_EQ(WEXITSTATUS(status), 3);
	signal(SIGUSR2, SIG_IGN);
	child = clone(set_value, stack[1], SIGUSR2, (void *)9);
	CHECK_EQ(waitpid(child, &status, __WALL), child);
}

static volatile int child_saw;
static pid_t child_tid_at_start;
static int look_tid(void *arg)
{
	child_saw = *(volatile pid_t *)arg;
	child_tid_at_start = syscall(SYS_gettid);
	return 0;
}

TEST(tid_flags)
{
	static pid_t parent_tid, child_tid;
	pid_t child = clone(look_tid, stack[1], CLONE_VM | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD,
			    &child_tid, &parent_tid, NULL, &child_tid);
	status_of(child, 0);
	CHECK_EQ(parent_tid, child);
	CHECK_EQ(child_saw, child);
	CHECK_EQ(child_tid_at_start, child);
	/* CLONE_CHILD_CLEARTID: zeroed and woken on exit, when the memory is shared. */
	child_tid = 77;
	child = clone(look_tid, stack[1], CLONE_VM | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD, &child_tid,
		      NULL, NULL, &child_tid);
	pid_t seen;
	while ((seen = *(volatile pid_t *)&child_tid) != 0)
		syscall(SYS_futex, &child_tid, FUTEX_WAIT, seen, NULL);
	CHECK_EQ(child_tid, 0);
	status_of(child, 0);
	/* Not shared: the parent's copy stays. */
	child_tid = 77;
	child = clone(set_value, stack[1], CLONE_CHILD_CLEARTID | SIGCHLD, (void *)1, NULL, NULL, &child_tid);
	status_of(child, 0);
	CHECK_EQ(child_tid, 77);
}

static volatile int thread_ids[4], release;
static int thread_body(void *arg)
{
	(void)arg;
	thread_ids[0] = syscall(SYS_getpid);
	thread_ids[1] = syscall(SYS_gettid);
	thread_ids[2] = syscall(SYS_getppid);
	syscall(SYS_exit, 0);
	return 0;
}

TEST(thread)
{
	static pid_t tid;
	int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
	tid = -1;
	pid_t t = clone(thread_body, stack[1], flags | CLONE_CHILD_CLEARTID, NULL, NULL, NULL, &tid);
	CHECK(t > 0 && t != getpid());
	pid_t seen;
	while ((seen = *(volatile pid_t *)&tid) != 0)
		syscall(SYS_futex, &tid, FUTEX_WAIT, seen, NULL);
	CHECK_EQ(thread_ids[0], getpid());
	CHECK_EQ(thread_ids[1], t);
	CHECK_EQ(thread_ids[2], getppid());
	CHECK_ERRNO(waitpid(t, NULL, __WALL), ECHILD); /* threads are not waited for */
}

TEST(errors)
{
	/* Straight to the kernel: a null child stack means the caller's. */
	CHECK_ERRNO(syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0), EINVAL);
	CHECK_ERRNO(syscall(SYS_clone, CLONE_THREAD | CLONE_VM, 0, 0, 0, 0), EINVAL);
	CHECK_ERRNO(syscall(SYS_clone, CLONE_NEWNS | CLONE_FS | SIGCHLD, 0, 0, 0, 0), EINVAL);
	CHECK_ERRNO(syscall(SYS_clone, CLONE_NEWPID | CLONE_THREAD | CLONE_VM | CLONE_SIGHAND, 0, 0, 0, 0), EINVAL);
	CHECK_ERRNO(clone(set_value, NULL, SIGCHLD, NULL), EINVAL); /* glibc's own check */
	/* A bad address for CLONE_PARENT_SETTID is ignored. */
	long child = syscall(SYS_clone, CLONE_PARENT_SETTID | SIGCHLD, 0, 8, 0, 0);
	if (child == 0)
		_exit(0);
	CHECK(child == -1 || child > 0);
	if (child > 0)
		tap_reap(child);
}

TEST(tls)
{
	/* CLONE_SETTLS gives the child its FS base. */
	static char area[4096] __attribute__((aligned(64)));
	*(void **)area = area;
	volatile unsigned long *base = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	long child = syscall(SYS_clone, CLONE_SETTLS | SIGCHLD, 0, 0, 0, area);
	if (child == 0) {
		unsigned long fs;
		__asm__ volatile("mov %%fs:0, %0" : "=r"(fs));
		*base = fs;
		__asm__ volatile("syscall" ::"a"(SYS_exit_group), "D"(0) : "rcx", "r11", "memory");
		__builtin_unreachable();
	}
	CHECK_EQ(tap_reap(child), 0);
	CHECK_EQ(*base, (unsigned long)area);
}

/* The lowest byte of the flags is the exit signal. One that is no signal is taken and tells nothing. */
TEST(exit_signal_that_is_none)
{
	for (int sig = 65; sig < 256; sig += 10) {
		pid_t child = syscall(SYS_clone, sig, 0, 0, 0, 0);
		if (child == 0)
			_exit(4);
		CHECK(child > 0);
		CHECK_ERRNO(waitpid(child, NULL, 0), ECHILD);
		CHECK_EQ(WEXITSTATUS(status_of(child, __WCLONE)), 4);
	}
}
