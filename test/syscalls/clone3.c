/* clone3(2): clone(2) with its arguments in a structure, and what only that can be asked. */
#include "tap.h"
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <spawn.h>
#include <sys/mount.h>

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000UL
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000UL
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif

enum { OFTEN = 200, NR_CLONE3 = 435 };

struct args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
	uint64_t set_tid, set_tid_size; /* Linux 5.5 */
	uint64_t cgroup;		/* Linux 5.7 */
	uint64_t later[1024];
};
enum { FIRST = 64, WITH_TIDS = 80, WITH_CGROUP = 88 };

static long clone3(struct args *a, size_t size) { return syscall(NR_CLONE3, a, size); }

/* on_stack makes a call whose child runs body(arg, the first stack pointer) and exits with what it returns. */
long on_stack(struct args *a, size_t size, int (*body)(void *, char *), void *arg);
__asm__(".text\n.p2align 4\non_stack: mov %rdx, %r8\n mov %rcx, %r9\n mov $435, %eax\n syscall\n test %rax, %rax\n"
	" jz 1f\n ret\n1: xor %ebp, %ebp\n mov %r9, %rdi\n mov %rsp, %rsi\n call *%r8\n mov %eax, %edi\n mov $60, %eax\n"
	" syscall\n hlt\n");

static char stack[4][65536] __attribute__((aligned(16)));
static void use_stack(struct args *a, int i)
{
	a->stack = (uintptr_t)stack[i];
	a->stack_size = sizeof stack[i];
}

static int missing(void)
{
	return syscall(NR_CLONE3, NULL, 0) == -1 && errno == ENOSYS;
}
#define NEED_CLONE3()                                                                              \
	if (missing())                                                                             \
	SKIP("needs clone3")

/* refused is the errno of a call that makes no child, or 0 (having waited for it). */
static int refused(struct args *a, size_t size)
{
	long pid = clone3(a, size);
	if (pid == 0)
		_exit(0);
	if (pid > 0)
		waitpid(pid, NULL, __WALL);
	return pid < 0 ? errno : 0;
}

TEST(fork)
{
	NEED_CLONE3();
	struct args a = {.exit_signal = SIGCHLD};
	pid_t me = getpid();
	long pid = clone3(&a, FIRST);
	if (pid == 0)
		_exit(getppid() == me && getpid() != me ? 5 : 1);
	CHECK(pid > 0);
	CHECK_EQ(tap_reap(pid), 5 << 8);
}

TEST(sizes)
{
	NEED_CLONE3();
	struct args a = {.exit_signal = SIGCHLD};
	CHECK_EQ(refused(&a, FIRST), 0);
	CHECK_EQ(refused(&a, FIRST + 4), 0);
	CHECK_EQ(refused(&a, WITH_TIDS), 0);
	CHECK_EQ(refused(&a, WITH_CGROUP), 0);
	CHECK_EQ(refused(&a, 4096), 0);
	CHECK_EQ(refused(&a, FIRST - 1), EINVAL);
	CHECK_EQ(refused(&a, 0), EINVAL);
	CHECK_EQ(refused(NULL, 0), EINVAL);
	CHECK_EQ(refused(&a, 4097), E2BIG);
	CHECK_EQ(refused(NULL, 4097), E2BIG);
	CHECK_EQ(refused(NULL, FIRST), EFAULT);
	CHECK_EQ(refused(NULL, WITH_CGROUP + 8), EFAULT);
	a.later[500] = 1;
	CHECK_EQ(refused(&a, 4096), E2BIG);
	CHECK_EQ(refused(&a, WITH_CGROUP + 500 * 8), 0); /* up to there it is zero */
	a.later[0] = 1;
	CHECK_EQ(refused(&a, WITH_CGROUP + 1), E2BIG);
	/* What is behind the size isn't looked at. */
	a.set_tid = a.set_tid_size = a.cgroup = ~0UL;
	CHECK_EQ(refused(&a, FIRST), 0);
	char *end = (char *)mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + 4096;
	munmap(end, 4096);
	struct args ok = {.exit_signal = SIGCHLD};
	memcpy(end - FIRST, &ok, FIRST);
	CHECK_EQ(refused((struct args *)(end - FIRST), FIRST), 0);
	CHECK_EQ(refused((struct args *)(end - FIRST), WITH_TIDS), EFAULT);
}

static int status_of(pid_t pid, int options)
{
	int status = -1;
	return waitpid(pid, &status, options) == pid ? status : -1;
}

TEST(exit_signals)
{
	NEED_CLONE3();
	static const uint64_t bad[] = {65, 255, 256 | SIGCHLD, 1UL << 32 | SIGCHLD, ~0UL};
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
		CHECK_EQ(refused(&(struct args){.exit_signal = bad[i]}, FIRST), EINVAL);
	CHECK_EQ(refused(&(struct args){.exit_signal = SIGCHLD, .flags = CLONE_PARENT}, FIRST), EINVAL);
	struct args thread = {.flags = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD, .exit_signal = SIGCHLD};
	use_stack(&thread, 0);
	CHECK_EQ(refused(&thread, FIRST), EINVAL);
	struct args a = {.exit_signal = 0};
	long pid = clone3(&a, FIRST);
	if (pid == 0)
		_exit(3);
	CHECK_ERRNO(waitpid(pid, NULL, 0), ECHILD);
	CHECK_EQ(status_of(pid, __WCLONE), 3 << 8);
	signal(SIGRTMAX, SIG_IGN);
	a.exit_signal = 64;
	pid = clone3(&a, FIRST);
	if (pid == 0)
		_exit(3);
	CHECK_EQ(status_of(pid, __WALL), 3 << 8);
}

TEST(flags)
{
	NEED_CLONE3();
	static const uint64_t bad[] = {
		SIGCHLD, 1, 0x40, CLONE_DETACHED, 1UL << 34, 1UL << 63, CLONE_SIGHAND, CLONE_VM | CLONE_THREAD,
		CLONE_VM | CLONE_SIGHAND | CLONE_CLEAR_SIGHAND, CLONE_NEWNS | CLONE_FS, CLONE_NEWUSER | CLONE_FS,
	};
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
		CHECK_EQ(refused(&(struct args){.flags = bad[i]}, FIRST), EINVAL);
	CHECK_EQ(refused(&(struct args){.flags = CLONE_IO | CLONE_UNTRACED | CLONE_SYSVSEM, .exit_signal = SIGCHLD}, FIRST), 0);
}

struct stack_seen {
	char *pointer;
	int value;
};
static int see_stack(void *arg, char *pointer)
{
	struct stack_seen *s = arg;
	s->pointer = pointer;
	return ++s->value & 0x7f;
}

TEST(stacks)
{
	NEED_CLONE3();
	struct args a = {.exit_signal = SIGCHLD, .flags = CLONE_VM};
	use_stack(&a, 1);
	struct stack_seen seen = {NULL, 6};
	CHECK_EQ(tap_reap(on_stack(&a, FIRST, see_stack, &seen)), 7 << 8);
	CHECK(seen.pointer == stack[2]);
	/* Without shared memory, too; and any size. */
	a.flags = 0;
	a.stack_size = 4096 + 16;
	CHECK_EQ(tap_reap(on_stack(&a, FIRST, see_stack, &seen)), 8 << 8);
	CHECK(seen.pointer == stack[2]);
	a.flags = CLONE_VM | CLONE_VFORK;
	CHECK_EQ(tap_reap(on_stack(&a, FIRST, see_stack, &seen)), 8 << 8);
	CHECK(seen.pointer == stack[1] + 4096 + 16);
	/* Both or none of them. */
	CHECK_EQ(refused(&(struct args){.exit_signal = SIGCHLD, .stack = (uintptr_t)stack[0]}, FIRST), EINVAL);
	CHECK_EQ(refused(&(struct args){.exit_signal = SIGCHLD, .stack_size = 4096}, FIRST), EINVAL);
	/* All of it is where an application's memory can be. */
	static const uint64_t bad[][2] = {{(uintptr_t)stack, 1UL << 47}, {1UL << 63, 4096}, {4096, ~0UL - 100}, {0x7ffffffff000, 8192}};
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
		CHECK_EQ(refused(&(struct args){.exit_signal = SIGCHLD, .stack = bad[i][0], .stack_size = bad[i][1]}, FIRST), EINVAL);
}

/* One instruction makes many calls. */
TEST(often)
{
	NEED_CLONE3();
	struct args a = {.exit_signal = SIGCHLD, .flags = CLONE_VM};
	struct stack_seen seen = {NULL, 0};
	int wrong = 0;
	for (int i = 0; i < OFTEN; i++) {
		use_stack(&a, i % 4);
		a.stack_size -= 16 * (i % 7);
		wrong += tap_reap(on_stack(&a, FIRST, see_stack, &seen)) != ((i + 1) & 0x7f) << 8;
		wrong += seen.pointer != stack[i % 4] + a.stack_size || seen.value != i + 1;
	}
	CHECK_EQ(wrong, 0);
	a = (struct args){.exit_signal = SIGCHLD};
	for (int i = 0; i < OFTEN; i++) {
		long pid = clone3(&a, FIRST);
		if (pid == 0)
			_exit(i & 0x7f);
		wrong += tap_reap(pid) != (i & 0x7f) << 8;
	}
	CHECK_EQ(wrong, 0);
}

static int first_pid(void *arg, char *pointer)
{
	(void)pointer;
	pid_t *ids = arg;
	ids[2] = ids[1];
	ids[3] = syscall(SYS_gettid);
	ids[4] = syscall(SYS_getpid);
	return 0;
}

TEST(thread)
{
	NEED_CLONE3();
	static pid_t ids[5]; /* parent's, child's, as the child found that, what it is, and whose */
	struct args a = {
		.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID |
			 CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID,
		.parent_tid = (uintptr_t)&ids[0],
		.child_tid = (uintptr_t)&ids[1],
	};
	use_stack(&a, 0);
	ids[1] = -1;
	long tid = on_stack(&a, FIRST, first_pid, ids);
	REQUIRE(tid > 0);
	pid_t seen;
	while ((seen = *(volatile pid_t *)&ids[1]) != 0)
		syscall(SYS_futex, &ids[1], FUTEX_WAIT, seen, NULL);
	CHECK_EQ(ids[0], tid);
	CHECK_EQ(ids[2], tid);
	CHECK_EQ(ids[3], tid);
	CHECK_EQ(ids[4], getpid());
	CHECK(tid != getpid());
}

static int thread_area(void *arg, char *pointer)
{
	(void)pointer;
	long value;
	__asm__ volatile("mov %%fs:16, %0" : "=r"(value));
	return value == *(long *)arg ? 9 : 1;
}

TEST(thread_areas)
{
	NEED_CLONE3();
	static long area[4] = {0, 0, 4711}, want = 4711;
	struct args a = {.flags = CLONE_VM | CLONE_SETTLS, .exit_signal = SIGCHLD, .tls = (uintptr_t)area};
	use_stack(&a, 0);
	CHECK_EQ(tap_reap(on_stack(&a, FIRST, thread_area, &want)), 9 << 8);
	a.tls = 1UL << 63;
	CHECK_EQ(refused(&a, FIRST), EPERM);
}

static void handler(int sig) { (void)sig; }

static int handlers_are_cleared(void *arg, char *pointer)
{
	(void)arg, (void)pointer;
	struct sigaction now;
	sigaction(SIGUSR1, NULL, &now);
	int good = now.sa_handler == SIG_DFL && (now.sa_flags & (SA_RESTART | SA_NODEFER)) == 0;
	sigaction(SIGRTMIN + 1, NULL, &now);
	good = good && now.sa_handler == SIG_DFL;
	sigaction(SIGUSR2, NULL, &now);
	return good && now.sa_handler == SIG_IGN ? 0 : 1;
}

TEST(clear_sighand)
{
	NEED_CLONE3();
	struct sigaction with = {.sa_handler = handler, .sa_flags = SA_RESTART | SA_NODEFER}, now;
	sigaction(SIGUSR1, &with, NULL);
	sigaction(SIGRTMIN + 1, &with, NULL);
	signal(SIGUSR2, SIG_IGN);
	for (int vm = 0; vm < 2; vm++) {
		struct args a = {.flags = CLONE_CLEAR_SIGHAND | (vm ? CLONE_VM | CLONE_VFORK : 0), .exit_signal = SIGCHLD};
		use_stack(&a, 0);
		CHECK_EQ(tap_reap(on_stack(&a, FIRST, handlers_are_cleared, NULL)), 0);
		sigaction(SIGUSR1, NULL, &now);
		CHECK(now.sa_handler == handler);
	}
}

/* A number that was somebody's a moment ago, and so most likely is free. */
static pid_t free_number(void)
{
	pid_t pid = fork();
	if (pid == 0)
		_exit(0);
	tap_reap(pid);
	return pid;
}

static void choose(struct args *a, pid_t *tids, size_t n)
{
	a->set_tid = (uintptr_t)tids;
	a->set_tid_size = n;
}

TEST(chosen_numbers)
{
	NEED_CLONE3();
	if (!tap_capable(21))
		SKIP("needs CAP_SYS_ADMIN");
	pid_t tids[34] = {0};
	struct args a = {.exit_signal = SIGCHLD};
	choose(&a, tids, 1);
	int good = 0;
	for (int i = 0; i < 20 && good == 0; i++) {
		tids[0] = free_number();
		long pid = clone3(&a, WITH_TIDS);
		if (pid == 0)
			_exit(getpid() == tids[0] ? 7 : 1);
		if (pid == -1 && errno == EEXIST)
			continue; /* somebody else has taken it */
		good = pid == tids[0] && tap_reap(pid) == 7 << 8;
	}
	CHECK(good);
	tids[0] = getpid();
	CHECK_EQ(refused(&a, WITH_TIDS), EEXIST);
	pid_t group = fork(); /* a number that only a process group has */
	if (group == 0) {
		setpgid(0, 0);
		if (fork() == 0) {
			pause();
			_exit(0);
		}
		_exit(0);
	}
	tap_reap(group);
	tids[0] = group;
	CHECK_EQ(refused(&a, WITH_TIDS), EEXIST);
	kill(-group, SIGKILL);
	static const pid_t bad[] = {0, -1, INT_MIN, INT_MAX, 1 << 22};
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		tids[0] = bad[i];
		CHECK_EQ(refused(&a, WITH_TIDS), EINVAL);
	}
	tids[0] = free_number();
	choose(&a, tids, 33); /* more than namespaces can be nested */
	CHECK_EQ(refused(&a, WITH_TIDS), EINVAL);
	choose(&a, tids, 32); /* more than there are */
	CHECK_EQ(refused(&a, WITH_TIDS), EINVAL);
	choose(&a, tids, 0);
	CHECK_EQ(refused(&a, WITH_TIDS), EINVAL);
	choose(&a, NULL, 1);
	CHECK_EQ(refused(&a, WITH_TIDS), EINVAL);
	choose(&a, (pid_t *)8, 1);
	CHECK_EQ(refused(&a, WITH_TIDS), EFAULT);
	choose(&a, NULL, 0);
	CHECK_EQ(refused(&a, WITH_TIDS), 0);
	IN_CHILD
	{
		tids[0] = free_number();
		choose(&a, tids, 1);
		CHECK_OK(tap_become(1234, 1234));
		CHECK_EQ(refused(&a, WITH_TIDS), EPERM);
		tids[0] = 0;
		CHECK_EQ(refused(&a, WITH_TIDS), EINVAL);
	}
}

TEST(chosen_numbers_in_namespaces)
{
	NEED_CLONE3();
	if (!tap_capable(21))
		SKIP("needs CAP_SYS_ADMIN");
	pid_t tids[2] = {2, 0};
	struct args a = {.exit_signal = SIGCHLD, .flags = CLONE_NEWPID};
	choose(&a, tids, 1);
	CHECK_EQ(refused(&a, WITH_TIDS), EINVAL); /* the first is 1 */
	tids[0] = 1;
	CHECK_EQ(refused(&a, WITH_TIDS), 0);
	choose(&a, tids, 2);
	tids[1] = getpid();
	CHECK_EQ(refused(&a, WITH_TIDS), EEXIST);
	int good = 0;
	for (int i = 0; i < 20 && good == 0; i++) {
		tids[1] = free_number();
		long pid = clone3(&a, WITH_TIDS);
		if (pid == 0) {
			pid_t inner[1] = {42};
			struct args b = {.exit_signal = SIGCHLD};
			choose(&b, inner, 1);
			pid = clone3(&b, WITH_TIDS);
			if (pid == 0)
				_exit(getpid() == 42 && getppid() == 1 ? 7 : 1);
			int status = tap_reap(pid);
			_exit(getpid() == 1 && pid == 42 && status == 7 << 8 ? 6 : 1);
		}
		if (pid == -1 && errno == EEXIST)
			continue;
		good = pid == tids[1] && tap_reap(pid) == 6 << 8;
	}
	CHECK(good);
	/* A number may be chosen for a thread as well. */
	static volatile pid_t ids[5];
	struct args t = {
		.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_CHILD_CLEARTID,
		.child_tid = (uintptr_t)&ids[1],
	};
	use_stack(&t, 0);
	choose(&t, tids, 1);
	ids[1] = -1;
	long tid = -1;
	for (int i = 0; i < 20 && tid == -1; i++) {
		tids[0] = free_number();
		tid = on_stack(&t, WITH_TIDS, first_pid, (void *)ids);
	}
	REQUIRE(tid > 0);
	pid_t seen;
	while ((seen = ids[1]) != 0)
		syscall(SYS_futex, &ids[1], FUTEX_WAIT, seen, NULL);
	CHECK_EQ(tid, tids[0]);
	CHECK_EQ(ids[3], tids[0]);
}

TEST(into_cgroup)
{
	NEED_CLONE3();
	if (!tap_capable(21))
		SKIP("needs CAP_SYS_ADMIN");
	IN_CHILD
	{
		struct args a = {.exit_signal = SIGCHLD, .flags = CLONE_INTO_CGROUP};
		REQUIRE_OK(unshare(CLONE_NEWNS));
		REQUIRE_OK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
		mkdir("groups", 0755);
		REQUIRE_OK(mount("none", "groups", "cgroup2", 0, NULL));
		a.cgroup = open("groups", O_PATH);
		int e = refused(&a, WITH_CGROUP);
		CHECK(e == 0 || e == EROFS); /* a sandbox's group may be for reading only */
		a.cgroup = open("groups/cgroup.procs", O_RDONLY);
		CHECK_EQ(refused(&a, WITH_CGROUP), EBADF);
	}
}

TEST(into_what_is_no_cgroup)
{
	NEED_CLONE3();
	struct args a = {.exit_signal = SIGCHLD, .flags = CLONE_INTO_CGROUP};
	a.cgroup = 9999;
	CHECK_EQ(refused(&a, WITH_CGROUP), EBADF);
	a.cgroup = open(".", O_RDONLY | O_DIRECTORY);
	CHECK_EQ(refused(&a, WITH_CGROUP), EBADF);
	close(a.cgroup);
	a.cgroup = 0x80000000;
	CHECK_EQ(refused(&a, WITH_CGROUP), EINVAL);
	a.cgroup = 0;
	CHECK_EQ(refused(&a, WITH_TIDS), EINVAL);
	/* Without the flag it isn't looked at. */
	a = (struct args){.exit_signal = SIGCHLD, .cgroup = ~0UL};
	CHECK_EQ(refused(&a, WITH_CGROUP), 0);
}

static void *add_one(void *p)
{
	return (char *)p + 1;
}

TEST(filtered)
{
	NEED_CLONE3();
	IN_CHILD
	{
		struct sock_filter code[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NR_CLONE3, 0, 1),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		};
		struct sock_fprog prog = {sizeof code / sizeof *code, code};
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		REQUIRE_OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog));
		CHECK_EQ(refused(&(struct args){.exit_signal = SIGCHLD}, FIRST), ENOSYS);
		pthread_t t; /* by clone(2), then */
		void *r = NULL;
		CHECK_EQ(pthread_create(&t, NULL, add_one, NULL), 0);
		pthread_join(t, &r);
		CHECK(r == (void *)1);
	}
}

TEST(used_by_libc)
{
	pid_t pid;
	char *argv[] = {"true", NULL}, *none[] = {NULL};
	signal(SIGUSR1, handler);
	CHECK_EQ(posix_spawn(&pid, "/bin/true", NULL, NULL, argv, none), 0);
	CHECK_EQ(tap_reap(pid), 0);
	CHECK_EQ(posix_spawn(&pid, "/nowhere", NULL, NULL, argv, none), ENOENT);
	int wrong = 0;
	for (int i = 0; i < OFTEN; i++) {
		pthread_t t;
		void *r = NULL;
		wrong += pthread_create(&t, NULL, add_one, (void *)(intptr_t)i) != 0 || pthread_join(t, &r) != 0;
		wrong += r != (void *)(intptr_t)(i + 1);
	}
	CHECK_EQ(wrong, 0);
}
