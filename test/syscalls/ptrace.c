/* ptrace(2): what a debugger and strace need. */
#include "tap.h"
#include <elf.h>
#include <sys/ptrace.h>
#include <sys/user.h>

static long variable = 0x1122334455667788;

static int stopped(pid_t pid)
{
	int status = -1;
	waitpid(pid, &status, __WALL);
	return WIFSTOPPED(status) ? status >> 8 : -status - 1; /* the stop signal and the event above it */
}

TEST(traceme)
{
	pid_t pid = tap_fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		raise(SIGUSR1); /* the tracer swallows it */
		_exit(variable == 42 ? 0 : 1);
	}
	CHECK_EQ(stopped(pid), SIGSTOP);
	errno = 0;
	CHECK_EQ(ptrace(PTRACE_PEEKDATA, pid, &variable, 0), 0x1122334455667788);
	CHECK_OK(ptrace(PTRACE_POKEDATA, pid, &variable, 42));
	CHECK_EQ(variable, 0x1122334455667788); /* ours is another copy */
	CHECK_ERRNO(ptrace(PTRACE_PEEKDATA, pid, 8, 0), EIO);
	struct user_regs_struct r;
	CHECK_OK(ptrace(PTRACE_GETREGS, pid, 0, &r));
	CHECK_EQ(r.cs, 0x33);
	CHECK_EQ(r.rip, ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, regs.rip), 0));
	siginfo_t i;
	CHECK_OK(ptrace(PTRACE_GETSIGINFO, pid, 0, &i));
	CHECK_EQ(i.si_signo, SIGSTOP);
	CHECK_EQ(i.si_code, SI_TKILL);
	struct user_fpregs_struct fp;
	CHECK_OK(ptrace(PTRACE_GETFPREGS, pid, 0, &fp));
	struct user_regs_struct r2;
	struct iovec v = {&r2, sizeof r2};
	CHECK_OK(ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &v));
	CHECK_EQ(v.iov_len, sizeof r2);
	CHECK(memcmp(&r, &r2, sizeof r) == 0);
	CHECK_OK(ptrace(PTRACE_CONT, pid, 0, 0));
	CHECK_EQ(stopped(pid), SIGUSR1);
	CHECK_OK(ptrace(PTRACE_CONT, pid, 0, 0));
	CHECK_EQ(stopped(pid), -1); /* exit status 0 */
	CHECK_ERRNO(ptrace(PTRACE_CONT, pid, 0, 0), ESRCH);
}

TEST(syscall_stops)
{
	pid_t pid = tap_fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		long r = syscall(SYS_getppid);
		syscall(SYS_getuid);
		_exit(r == 77 ? 0 : 1);
	}
	struct user_regs_struct r;
	stopped(pid);
	CHECK_OK(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL));
	do {
		ptrace(PTRACE_SYSCALL, pid, 0, 0);
		CHECK_EQ(stopped(pid), SIGTRAP | 0x80);
		ptrace(PTRACE_GETREGS, pid, 0, &r);
	} while (r.orig_rax != SYS_getppid);
	CHECK_EQ(r.rax, -ENOSYS); /* at the entry */
	ptrace(PTRACE_SYSCALL, pid, 0, 0);
	CHECK_EQ(stopped(pid), SIGTRAP | 0x80);
	ptrace(PTRACE_GETREGS, pid, 0, &r);
	CHECK_EQ(r.rax, getpid());
	r.rax = 77; /* another result */
	CHECK_OK(ptrace(PTRACE_SETREGS, pid, 0, &r));
	ptrace(PTRACE_SYSCALL, pid, 0, 0);
	stopped(pid);
	ptrace(PTRACE_GETREGS, pid, 0, &r);
	CHECK_EQ(r.orig_rax, SYS_getuid);
	r.orig_rax = -1; /* no call at all */
	ptrace(PTRACE_SETREGS, pid, 0, &r);
	ptrace(PTRACE_SYSCALL, pid, 0, 0);
	stopped(pid);
	ptrace(PTRACE_GETREGS, pid, 0, &r);
	CHECK_EQ(r.rax, -ENOSYS);
	ptrace(PTRACE_CONT, pid, 0, 0);
	CHECK_EQ(stopped(pid), -1);
}

TEST(single_step)
{
	pid_t pid = tap_fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		_exit(5);
	}
	struct user_regs_struct r;
	stopped(pid);
	unsigned long last = 0;
	int moved = 0, traps = 0;
	for (int i = 0; i < 12; i++) {
		ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
		traps += stopped(pid) == SIGTRAP;
		ptrace(PTRACE_GETREGS, pid, 0, &r);
		moved += r.rip != last;
		last = r.rip;
	}
	CHECK_EQ(traps, 12);
	CHECK(moved >= 11);
	siginfo_t i;
	ptrace(PTRACE_GETSIGINFO, pid, 0, &i);
	CHECK_EQ(i.si_code, TRAP_TRACE);
	CHECK_OK(ptrace(PTRACE_CONT, pid, 0, 0));
	CHECK_EQ(stopped(pid), -(5 << 8) - 1);
}

static void (*volatile called)(void *) = tap_load; /* keeps it from being inlined */

TEST(breakpoint_in_code)
{
	/* Writing int3 into read-only text works through ptrace, and copies the page. */
	pid_t pid = tap_fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		called(&variable);
		_exit(0);
	}
	stopped(pid);
	long code = ptrace(PTRACE_PEEKTEXT, pid, tap_load, 0);
	CHECK_OK(ptrace(PTRACE_POKETEXT, pid, tap_load, (code & ~0xffL) | 0xcc));
	called(&variable); /* ours is whole */
	ptrace(PTRACE_CONT, pid, 0, 0);
	CHECK_EQ(stopped(pid), SIGTRAP);
	struct user_regs_struct r;
	ptrace(PTRACE_GETREGS, pid, 0, &r);
	CHECK_EQ(r.rip, (unsigned long)tap_load + 1);
	CHECK_EQ(r.rdi, (unsigned long)&variable);
	ptrace(PTRACE_POKETEXT, pid, tap_load, code);
	r.rip--;
	ptrace(PTRACE_SETREGS, pid, 0, &r);
	ptrace(PTRACE_CONT, pid, 0, 0);
	CHECK_EQ(stopped(pid), -1);
}

static pid_t idle(void)
{
	struct tap_gate g = tap_gate_new();
	pid_t pid = tap_fork();
	if (pid == 0) {
		tap_gate_open(g);
		for (;;)
			pause();
	}
	tap_gate_wait(g);
	tap_gate_free(g);
	return pid;
}

TEST(attach_and_detach)
{
	pid_t pid = idle();
	char path[64], buf[2048];
	CHECK_OK(ptrace(PTRACE_ATTACH, pid, 0, 0));
	CHECK_EQ(stopped(pid), SIGSTOP);
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	tap_read_file(path, buf, sizeof buf);
	char want[32];
	snprintf(want, sizeof want, "TracerPid:\t%d\n", getpid());
	CHECK(strstr(buf, want) != NULL);
	CHECK(strstr(buf, "State:\tt (tracing stop)") != NULL);
	CHECK_ERRNO(ptrace(PTRACE_ATTACH, pid, 0, 0), EPERM); /* one tracer */
	CHECK_OK(ptrace(PTRACE_DETACH, pid, 0, 0));
	CHECK_ERRNO(ptrace(PTRACE_CONT, pid, 0, 0), ESRCH);
	CHECK_OK(ptrace(PTRACE_SEIZE, pid, 0, 0)); /* does not stop it */
	CHECK_ERRNO(ptrace(PTRACE_CONT, pid, 0, 0), ESRCH);
	CHECK_OK(ptrace(PTRACE_INTERRUPT, pid, 0, 0));
	CHECK_EQ(stopped(pid), SIGTRAP | PTRACE_EVENT_STOP << 8);
	/* A signal given on leaving an event stop is dropped; on leaving a signal's stop it counts. */
	CHECK_OK(ptrace(PTRACE_DETACH, pid, 0, SIGTERM));
	CHECK_OK(ptrace(PTRACE_ATTACH, pid, 0, 0));
	CHECK_EQ(stopped(pid), SIGSTOP);
	CHECK_OK(ptrace(PTRACE_DETACH, pid, 0, SIGTERM));
	CHECK_EQ(tap_reap(pid), SIGTERM);
	CHECK_ERRNO(ptrace(PTRACE_ATTACH, 999999, 0, 0), ESRCH);
	CHECK_ERRNO(ptrace(PTRACE_ATTACH, getpid(), 0, 0), EPERM);
	CHECK_ERRNO(ptrace(PTRACE_CONT, getpid(), 0, 0), ESRCH);
	pid = idle();
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_ERRNO(ptrace(PTRACE_ATTACH, pid, 0, 0), EPERM);
	}
	kill(pid, SIGKILL);
	tap_reap(pid);
}

TEST(events)
{
	pid_t pid = tap_fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		pid_t child = fork();
		if (child == 0)
			_exit(3);
		waitpid(child, NULL, 0);
		_exit(4);
	}
	unsigned long message = 0;
	stopped(pid);
	CHECK_OK(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEFORK | PTRACE_O_TRACEEXIT));
	CHECK_ERRNO(ptrace(PTRACE_SETOPTIONS, pid, 0, 0x40000000), EINVAL);
	ptrace(PTRACE_CONT, pid, 0, 0);
	CHECK_EQ(stopped(pid), SIGTRAP | PTRACE_EVENT_FORK << 8);
	CHECK_OK(ptrace(PTRACE_GETEVENTMSG, pid, 0, &message));
	pid_t child = message;
	CHECK_EQ(stopped(child), SIGSTOP); /* traced from birth */
	ptrace(PTRACE_CONT, pid, 0, 0);
	ptrace(PTRACE_CONT, child, 0, 0);
	CHECK_EQ(stopped(child), SIGTRAP | PTRACE_EVENT_EXIT << 8);
	ptrace(PTRACE_GETEVENTMSG, child, 0, &message);
	CHECK_EQ(message, 3 << 8);
	ptrace(PTRACE_CONT, child, 0, 0);
	CHECK_EQ(stopped(child), -(3 << 8) - 1); /* told to the tracer, then to the parent */
	int event = stopped(pid);
	if (event == SIGCHLD) {
		ptrace(PTRACE_CONT, pid, 0, SIGCHLD);
		event = stopped(pid);
	}
	CHECK_EQ(event, SIGTRAP | PTRACE_EVENT_EXIT << 8);
	ptrace(PTRACE_CONT, pid, 0, 0);
	CHECK_EQ(stopped(pid), -(4 << 8) - 1);
}

TEST(exec_stop)
{
	pid_t pid = tap_fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		dup2(open("/dev/null", O_RDWR), 1);
		execl(tap_self, "x", "no-such-case", NULL);
		_exit(1);
	}
	CHECK_EQ(stopped(pid), SIGTRAP); /* after a successful exec */
	struct user_regs_struct r;
	ptrace(PTRACE_GETREGS, pid, 0, &r);
	CHECK_EQ(r.rax, 0);
	CHECK_OK(ptrace(PTRACE_KILL, pid, 0, 0));
	CHECK_EQ(stopped(pid), -SIGKILL - 1);
}

/* PTRACE_GET_SYSCALL_INFO is of Linux 5.3. */
struct call_info {
	uint8_t op, pad[3];
	uint32_t arch;
	uint64_t ip, sp;
	union {
		struct {
			uint64_t nr, args[6];
		} entry;
		struct {
			int64_t value;
			uint8_t is_error;
		} exit;
	};
};

static long call_info(pid_t pid, size_t size, struct call_info *i)
{
	if (i != NULL)
		memset(i, 0xee, sizeof *i);
	return ptrace(0x420e, pid, size, i);
}

TEST(syscall_info)
{
	pid_t pid = tap_fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		syscall(SYS_close, -7, 11, 12, 13, 14, 15);
		_exit(0);
	}
	CHECK_EQ(stopped(pid), SIGSTOP);
	struct call_info i;
	long n = call_info(pid, sizeof i, &i);
	if (n == -1 && errno == EIO) {
		kill(pid, SIGKILL);
		tap_reap(pid);
		SKIP("Linux 5.3");
	}
	CHECK_EQ(n, 24);
	CHECK_EQ(i.op, 0); /* no stop of a call */
	CHECK_EQ(i.arch, 0xc000003e);
	CHECK_OK(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
	for (int k = 0; k < 20; k++) { /* what libc does before */
		ptrace(PTRACE_SYSCALL, pid, 0, 0);
		if (stopped(pid) != (SIGTRAP | 0x80) || call_info(pid, sizeof i, &i) < 0 ||
		    (i.op == 1 && i.entry.nr == SYS_close))
			break;
	}
	CHECK_EQ(i.op, 1);
	CHECK_EQ(call_info(pid, sizeof i, &i), 80);
	CHECK_EQ(i.entry.nr, SYS_close);
	CHECK_EQ((int)i.entry.args[0], -7);
	for (int k = 1; k < 6; k++)
		CHECK_EQ(i.entry.args[k], 10 + k);
	struct user_regs_struct r;
	CHECK_OK(ptrace(PTRACE_GETREGS, pid, 0, &r));
	CHECK_EQ(i.ip, r.rip);
	CHECK_EQ(i.sp, r.rsp);
	CHECK_EQ(call_info(pid, 8, &i), 80); /* what there is, not what was written */
	CHECK_EQ(i.op, 1);
	CHECK_EQ(i.ip, 0xeeeeeeeeeeeeeeeeul);
	unsigned long message = 0;
	CHECK_OK(ptrace(PTRACE_GETEVENTMSG, pid, 0, &message));
	CHECK_EQ(message, 1);
	ptrace(PTRACE_SYSCALL, pid, 0, 0);
	CHECK_EQ(stopped(pid), SIGTRAP | 0x80);
	CHECK_EQ(call_info(pid, sizeof i, &i), 33);
	CHECK_EQ(i.op, 2);
	CHECK_EQ(i.exit.value, -EBADF);
	CHECK_EQ(i.exit.is_error, 1);
	CHECK_ERRNO(call_info(pid, sizeof i, NULL), EFAULT);
	kill(pid, SIGKILL);
	CHECK_EQ(tap_reap(pid), SIGKILL);
	CHECK_ERRNO(call_info(pid, sizeof i, &i), ESRCH);
}
