/* seccomp(2): strict mode, filters, their actions and inheritance. */
#include "tap.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#define LOAD(f) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, f))
#define RET(v) BPF_STMT(BPF_RET | BPF_K, (v))
/* ON: for this call number do that; otherwise go on. */
#define ON(number, action) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), RET(action)

static int install(struct sock_filter *f, int n)
{
	struct sock_fprog p = {n, f};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return -1;
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &p);
}
#define INSTALL(...)                                                                               \
	({                                                                                         \
		struct sock_filter f[] = {__VA_ARGS__};                                            \
		install(f, sizeof f / sizeof *f);                                                  \
	})

TEST(strict)
{
	int status;
	CHILD_STATUS(status)
	{
		if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0) != 0)
			syscall(SYS_exit, 1);
		write(1, "", 0); /* read, write, exit and sigreturn are left */
		syscall(SYS_exit, 7);
	}
	CHECK_EQ(WEXITSTATUS(status), 7);
	CHILD_STATUS(status)
	{
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0);
		syscall(SYS_getpid);
		syscall(SYS_exit, 1);
	}
	CHECK_EQ(WTERMSIG(status), SIGKILL);
	CHECK_EQ(prctl(PR_GET_SECCOMP), 0);
}

TEST(errno_action)
{
	IN_CHILD
	{
		CHECK_OK(INSTALL(LOAD(arch), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
				 RET(SECCOMP_RET_KILL), LOAD(nr), ON(SYS_getppid, SECCOMP_RET_ERRNO | 99),
				 ON(SYS_chdir, SECCOMP_RET_ERRNO | 0), RET(SECCOMP_RET_ALLOW)));
		CHECK_ERRNO(syscall(SYS_getppid), 99);
		CHECK_EQ(syscall(SYS_chdir, "/nowhere"), 0); /* errno 0: pretended success */
		CHECK(syscall(SYS_getpid) > 0);
		CHECK_EQ(prctl(PR_GET_SECCOMP), 2);
		IN_CHILD
		{
			CHECK_ERRNO(syscall(SYS_getppid), 99); /* inherited */
		}
		/* Several filters: the most severe answer holds. */
		CHECK_OK(INSTALL(LOAD(nr), ON(SYS_getppid, SECCOMP_RET_ALLOW), ON(SYS_getuid, SECCOMP_RET_ERRNO | 5),
				 RET(SECCOMP_RET_ALLOW)));
		CHECK_ERRNO(syscall(SYS_getppid), 99);
		CHECK_ERRNO(syscall(SYS_getuid), 5);
		char buf[2048];
		tap_read_file("/proc/self/status", buf, sizeof buf);
		CHECK(strstr(buf, "Seccomp:\t2\n") != NULL);
	}
}

TEST(arguments)
{
	IN_CHILD
	{
		/* Low halves of arguments decide: lseek with whence SEEK_END is refused. */
		CHECK_OK(INSTALL(LOAD(nr), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_lseek, 0, 3), LOAD(args[2]),
				 ON(SEEK_END, SECCOMP_RET_ERRNO | EACCES), RET(SECCOMP_RET_ALLOW)));
		int fd = open("f", O_CREAT | O_RDWR, 0600);
		CHECK_EQ(lseek(fd, 5, SEEK_SET), 5);
		CHECK_ERRNO(lseek(fd, 0, SEEK_END), EACCES);
	}
}

static volatile siginfo_t info;
static void on_sys(int sig, siginfo_t *i, void *context)
{
	(void)sig, (void)context;
	memcpy((void *)&info, i, sizeof info);
}

TEST(trap)
{
	IN_CHILD
	{
		struct sigaction a = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
		sigaction(SIGSYS, &a, NULL);
		CHECK_OK(INSTALL(LOAD(nr), ON(SYS_getppid, SECCOMP_RET_TRAP | 123), RET(SECCOMP_RET_ALLOW)));
		syscall(SYS_getppid);
		CHECK_EQ(info.si_signo, SIGSYS);
		CHECK_EQ(info.si_code, 1 /* SYS_SECCOMP */);
		CHECK_EQ(info.si_errno, 123);
		CHECK_EQ(info.si_syscall, SYS_getppid);
		CHECK_EQ(info.si_arch, AUDIT_ARCH_X86_64);
		CHECK(info.si_call_addr != NULL);
	}
}

TEST(kill)
{
	int status;
	struct rlimit none = {0, 0};
	setrlimit(RLIMIT_CORE, &none);
	CHILD_STATUS(status)
	{
		INSTALL(LOAD(nr), ON(SYS_getppid, SECCOMP_RET_KILL), RET(SECCOMP_RET_ALLOW));
		syscall(SYS_getppid);
	}
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

TEST(errors)
{
	struct sock_filter ok[] = {RET(SECCOMP_RET_ALLOW)}, bad[] = {BPF_STMT(0xffff, 0)}, noreturn[] = {LOAD(nr)},
			   jump[] = {BPF_JUMP(BPF_JMP | BPF_JA, 100, 0, 0), RET(SECCOMP_RET_ALLOW)},
			   odd[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 3), RET(SECCOMP_RET_ALLOW)};
	IN_CHILD
	{
		CHECK_ERRNO(install(bad, 1), EINVAL);
		CHECK_ERRNO(install(noreturn, 1), EINVAL);
		CHECK_ERRNO(install(jump, 2), EINVAL);
		CHECK_ERRNO(install(odd, 2), EINVAL);
		CHECK_ERRNO(install(ok, 0), EINVAL);
		CHECK_ERRNO(install(ok, 5000), EINVAL);
		CHECK_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, 8), EFAULT);
		CHECK_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0x8000, NULL), EINVAL);
		CHECK_ERRNO(syscall(SYS_seccomp, 99, 0, NULL), EINVAL);
		CHECK_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, NULL), EINVAL);
	}
	IN_CHILD
	{
		struct sock_fprog p = {1, ok};
		tap_become(12345, 12345);
		CHECK_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &p), EACCES); /* needs no_new_privs */
		CHECK_OK(install(ok, 1));
		CHECK_ERRNO(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0), EINVAL);
	}
}
