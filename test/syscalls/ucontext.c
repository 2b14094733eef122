/* What a handler sees of, and may do to, the interrupted thread: registers, mask, FP state. */
#include "tap.h"
#include <ucontext.h>

static volatile unsigned long seen[8];
static void look(int sig, siginfo_t *i, void *context)
{
	ucontext_t *u = context;
	greg_t *g = u->uc_mcontext.gregs;
	(void)sig, (void)i;
	seen[0] = g[REG_RBX], seen[1] = g[REG_R12], seen[2] = g[REG_R13], seen[3] = g[REG_R15];
	seen[4] = g[REG_RSP], seen[5] = g[REG_CSGSFS] & 0xffff, seen[6] = g[REG_EFL];
	g[REG_RBX] = 0x1111, g[REG_R12] = 0x2222;
}
static void install(int sig, void (*f)(int, siginfo_t *, void *))
{
	struct sigaction a = {.sa_sigaction = f, .sa_flags = SA_SIGINFO};
	sigaction(sig, &a, NULL);
}

TEST(registers)
{
	unsigned long rbx = 0xaaaabbbbcccc, r12 = 0x1234567890, r13 = 0xdeadbeefcafe, r15 = 0x77, rsp, after_rsp;
	install(SIGTRAP, look);
	__asm__ volatile("mov %%rsp, %4\n\t"
			 "mov %0, %%rbx; mov %1, %%r12; mov %2, %%r13; mov %3, %%r15\n\t"
			 "stc\n\t"
			 "int3\n\t"
			 "mov %%rbx, %0; mov %%r12, %1; mov %%r13, %2; mov %%r15, %3\n\t"
			 "mov %%rsp, %5"
			 : "+m"(rbx), "+m"(r12), "+m"(r13), "+m"(r15), "=m"(rsp), "=m"(after_rsp)
			 :
			 : "rbx", "r12", "r13", "r15", "memory", "cc");
	CHECK_EQ(seen[0], 0xaaaabbbbcccc);
	CHECK_EQ(seen[1], 0x1234567890);
	CHECK_EQ(seen[2], 0xdeadbeefcafe);
	CHECK_EQ(seen[3], 0x77);
	CHECK_EQ(seen[4], rsp);
	CHECK_EQ(seen[5], 0x33); /* the user code segment */
	CHECK(seen[6] & 1); /* carry */
	CHECK_EQ(rbx, 0x1111); /* what the handler wrote */
	CHECK_EQ(r12, 0x2222);
	CHECK_EQ(r13, 0xdeadbeefcafe);
	CHECK_EQ(r15, 0x77);
	CHECK_EQ(rsp, after_rsp);
}

static void damage(int sig, siginfo_t *i, void *context)
{
	(void)sig, (void)i, (void)context;
	__asm__ volatile("pxor %%xmm0, %%xmm0; pxor %%xmm7, %%xmm7; pxor %%xmm15, %%xmm15; fninit; fldz" :::"xmm0",
			 "xmm7", "xmm15");
	unsigned csr = 0x7f80; /* another rounding */
	__asm__ volatile("ldmxcsr %0" ::"m"(csr));
}

TEST(fp_state_survives_a_handler)
{
	uint64_t in[2] = {0x1122334455667788, 0x99aabbccddeeff00}, out[6] = {0};
	unsigned csr = 0;
	double top = 0;
	install(SIGTRAP, damage);
	__asm__ volatile("movups %4, %%xmm0; movups %4, %%xmm7; movups %4, %%xmm15\n\t"
			 "fninit; fldpi\n\t"
			 "int3\n\t"
			 "movups %%xmm0, %0; movups %%xmm7, %1; movups %%xmm15, %2\n\t"
			 "stmxcsr %3\n\t"
			 "fstpl %5"
			 : "=m"(*(uint64_t(*)[2]) & out[0]), "=m"(*(uint64_t(*)[2]) & out[2]),
			   "=m"(*(uint64_t(*)[2]) & out[4]), "=m"(csr)
			 : "m"(in), "m"(top)
			 : "xmm0", "xmm7", "xmm15", "memory");
	CHECK_EQ(out[0], in[0]);
	CHECK_EQ(out[1], in[1]);
	CHECK_EQ(out[2], in[0]);
	CHECK_EQ(out[5], in[1]);
	CHECK_EQ(csr, 0x1f80);
	CHECK(top > 3.14 && top < 3.15);
}

static volatile unsigned entry_csr, entry_cw;
static void entry(int sig, siginfo_t *i, void *context)
{
	unsigned csr;
	unsigned short cw;
	ucontext_t *u = context;
	(void)sig, (void)i;
	__asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(csr), "=m"(cw));
	entry_csr = csr, entry_cw = cw;
	if (u->uc_mcontext.fpregs)
		u->uc_mcontext.fpregs->_xmm[3].element[0] = 0xfeedface;
}

TEST(fp_state_in_the_frame)
{
	unsigned mine = 0x3f80, normal = 0x1f80, out = 0;
	install(SIGTRAP, entry);
	__asm__ volatile("ldmxcsr %1\n\tpxor %%xmm3, %%xmm3\n\tint3\n\tmovd %%xmm3, %0\n\tldmxcsr %2"
			 : "=m"(out)
			 : "m"(mine), "m"(normal)
			 : "xmm3", "memory");
	CHECK_EQ(out, 0xfeedface); /* the handler's change is loaded on return */
	CHECK_EQ(entry_cw, 0x37f);
	CHECK(entry_csr == 0x1f80 || entry_csr == 0x3f80); /* the x86-64 handler starts with the thread's or clean */
}

static void change_mask(int sig, siginfo_t *i, void *context)
{
	ucontext_t *u = context;
	(void)sig, (void)i;
	sigaddset(&u->uc_sigmask, SIGUSR2);
	sigaddset(&u->uc_sigmask, SIGKILL);
}

TEST(mask_in_the_frame)
{
	sigset_t now;
	install(SIGUSR1, change_mask);
	raise(SIGUSR1);
	sigprocmask(SIG_SETMASK, NULL, &now);
	CHECK(sigismember(&now, SIGUSR2)); /* sigreturn takes the frame's mask */
	CHECK(!sigismember(&now, SIGKILL));
	CHECK(!sigismember(&now, SIGUSR1));
}

static void landing(void)
{
	_exit(55);
}
static void redirect(int sig, siginfo_t *i, void *context)
{
	ucontext_t *u = context;
	(void)sig, (void)i;
	u->uc_mcontext.gregs[REG_RIP] = (greg_t)landing;
	u->uc_mcontext.gregs[REG_RSP] = ((u->uc_mcontext.gregs[REG_RSP] - 256) & ~15L) - 8;
}

TEST(redirected)
{
	int status;
	CHILD_STATUS(status)
	{
		install(SIGSEGV, redirect);
		*(volatile char *)8 = 1;
	}
	CHECK_EQ(WEXITSTATUS(status), 55);
}

static void break_frame(int sig, siginfo_t *i, void *context)
{
	ucontext_t *u = context;
	(void)sig, (void)i;
	u->uc_mcontext.gregs[REG_RIP] = 0x8000000000000000;
}
static void forge(int sig, siginfo_t *i, void *context)
{
	ucontext_t *u = context;
	(void)sig, (void)i;
	/* The privileged flags do not get in: IOPL, NT. */
	u->uc_mcontext.gregs[REG_EFL] |= 0x3000 | 0x4000 | 1;
}

TEST(hostile_frames)
{
	int status;
	struct rlimit none = {0, 0};
	setrlimit(RLIMIT_CORE, &none);
	CHILD_STATUS(status)
	{
		install(SIGUSR1, break_frame);
		raise(SIGUSR1);
	}
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	install(SIGUSR1, forge);
	raise(SIGUSR1);
	unsigned long flags;
	__asm__ volatile("pushfq; pop %0" : "=r"(flags));
	CHECK_EQ(flags & 0x7000, 0);
	/* rt_sigreturn with no frame at all. */
	CHILD_STATUS(status)
	{
		__asm__ volatile("xor %%esp, %%esp; mov $15, %%eax; syscall" ::: "memory");
	}
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

TEST(red_zone)
{
	/* 128 bytes below the stack pointer belong to the interrupted function. */
	long ok = 0;
	install(SIGTRAP, damage);
	__asm__ volatile("mov $0x5a5a5a, %%rax; mov %%rax, -8(%%rsp); mov %%rax, -128(%%rsp)\n\t"
			 "int3\n\t"
			 "cmp %%rax, -8(%%rsp); jne 1f\n\t"
			 "cmp %%rax, -128(%%rsp); jne 1f\n\t"
			 "movq $1, %0\n"
			 "1:"
			 : "+r"(ok)::"rax", "memory", "cc");
	CHECK_EQ(ok, 1);
}

static void *spins(void *arg)
{
	/* Holds a value in registers over many context switches and checks it. */
	uint64_t want[2] = {(uintptr_t)arg * 0x0101010101010101, ~(uintptr_t)arg}, got[2];
	intptr_t bad = 0;
	for (int i = 0; i < 300; i++) {
		__asm__ volatile("movups %1, %%xmm9\n\tmov $24, %%eax\n\tsyscall\n\tmovups %%xmm9, %0"
				 : "=m"(got)
				 : "m"(want)
				 : "xmm9", "rax", "rcx", "r11", "memory");
		bad += got[0] != want[0] || got[1] != want[1];
	}
	return (void *)bad;
}

TEST(fp_state_over_switches)
{
	pthread_t t[4];
	intptr_t bad = 0;
	for (long i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, spins, (void *)(i + 1));
	for (int i = 0; i < 4; i++) {
		void *r;
		pthread_join(t[i], &r);
		bad += (intptr_t)r;
	}
	CHECK_EQ(bad, 0);
}

TEST(syscall_registers)
{
	/* syscall changes rcx, r11 and rax only. */
	unsigned long ok = 0;
	__asm__ volatile("mov $1, %%rdi; mov $2, %%rsi; mov $3, %%rdx; mov $4, %%r10; mov $5, %%r8; mov $6, %%r9\n\t"
			 "mov $39, %%eax\n\tsyscall\n\t"
			 "cmp $1, %%rdi; jne 1f; cmp $2, %%rsi; jne 1f; cmp $3, %%rdx; jne 1f\n\t"
			 "cmp $4, %%r10; jne 1f; cmp $5, %%r8; jne 1f; cmp $6, %%r9; jne 1f\n\t"
			 "movq $1, %0\n1:"
			 : "+r"(ok)::"rax", "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r10", "r11", "cc", "memory");
	CHECK_EQ(ok, 1);
}

TEST(fp_state_over_fork)
{
	uint64_t in[2] = {0xabcdef, 0x123456}, out[2];
	long pid;
	__asm__ volatile("movups %2, %%xmm11\n\tmov $57, %%eax\n\tsyscall\n\tmovups %%xmm11, %0"
			 : "=m"(out), "=a"(pid)
			 : "m"(in)
			 : "xmm11", "rcx", "r11", "memory");
	if (pid == 0)
		_exit(out[0] == in[0] && out[1] == in[1] ? 0 : 1);
	CHECK_EQ(out[0], in[0]);
	CHECK_EQ(tap_reap(pid), 0);
}
