/* process_vm_readv(2), process_vm_writev(2), kcmp(2). */
#include "tap.h"
#include <linux/kcmp.h>

static char text[32] = "parent";

static pid_t idle(uid_t uid)
{
	struct tap_gate g = tap_gate_new();
	pid_t pid = tap_fork();
	if (pid == 0) {
		strcpy(text, "child's own text");
		if (uid)
			tap_become(uid, uid);
		tap_gate_open(g);
		for (;;)
			pause();
	}
	tap_gate_wait(g);
	tap_gate_free(g);
	return pid;
}

TEST(read_and_write)
{
	pid_t pid = idle(0);
	char a[4] = "", b[16] = "";
	struct iovec local[] = {{a, 3}, {b, 15}}, remote[] = {{text, 7}, {text + 8, 4}}, wild = {(void *)8, 4};
	ssize_t n = process_vm_readv(pid, local, 2, remote, 2, 0);
	if (n == -1 && errno == ENOSYS) {
		kill(pid, SIGKILL);
		tap_reap(pid);
		SKIP("no process_vm_readv");
	}
	CHECK_EQ(n, 11);
	CHECK_STR(a, "chi");
	CHECK_MEM(b, "ld'sown ", 8);
	struct iovec out = {"X", 1};
	CHECK_EQ(process_vm_writev(pid, &out, 1, remote, 1, 0), 1);
	process_vm_readv(pid, local, 1, remote, 1, 0);
	CHECK_EQ(a[0], 'X');
	CHECK_STR(text, "parent");
	CHECK_ERRNO(process_vm_readv(pid, local, 1, &wild, 1, 0), EFAULT);
	struct iovec half[] = {{text, 2}, {(void *)8, 4}};
	CHECK_EQ(process_vm_readv(pid, local, 2, half, 2, 0), 2); /* a partial transfer counts */
	CHECK_ERRNO(process_vm_readv(pid, local, 1, remote, 1, 1), EINVAL);
	CHECK_ERRNO(process_vm_readv(999999, local, 1, remote, 1, 0), ESRCH);
	CHECK_ERRNO(process_vm_readv(pid, local, IOV_MAX + 1, remote, 1, 0), EINVAL);
	CHECK_EQ(process_vm_readv(pid, local, 0, remote, 1, 0), 0);
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_ERRNO(process_vm_readv(pid, local, 1, remote, 1, 0), EPERM);
	}
	kill(pid, SIGKILL);
	tap_reap(pid);
}

TEST(kcmp)
{
	int fd = open("/dev/null", O_RDONLY), d = dup(fd), other = open("/dev/null", O_RDONLY);
	long r = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, fd, d);
	if (r == -1 && (errno == ENOSYS || errno == EPERM))
		SKIP("no kcmp");
	CHECK_EQ(r, 0);
	r = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, fd, other);
	CHECK(r == 1 || r == 2);
	pid_t pid = idle(0);
	CHECK_EQ(syscall(SYS_kcmp, getpid(), pid, KCMP_FILE, fd, fd), 0); /* inherited */
	CHECK(syscall(SYS_kcmp, getpid(), pid, KCMP_VM, 0, 0) > 0);
	CHECK(syscall(SYS_kcmp, getpid(), pid, KCMP_FILES, 0, 0) > 0);
	CHECK_EQ(syscall(SYS_kcmp, pid, pid, KCMP_VM, 0, 0), 0);
	CHECK_ERRNO(syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, fd, 900), EBADF);
	CHECK_ERRNO(syscall(SYS_kcmp, getpid(), getpid(), 99, 0, 0), EINVAL);
	CHECK_ERRNO(syscall(SYS_kcmp, getpid(), 999999, KCMP_VM, 0, 0), ESRCH);
	kill(pid, SIGKILL);
	tap_reap(pid);
	close(fd), close(d), close(other);
}
