/* Exceptions of the processor as signals: SIGFPE, SIGILL, SIGTRAP, SIGSEGV, and what si_code says. */
#include "tap.h"
#include <cpuid.h>
#include <ucontext.h>

static void divide(void *arg)
{
	(void)arg;
	__asm__ volatile("xor %%ecx, %%ecx; xor %%edx, %%edx; mov $1, %%eax; div %%ecx" ::: "eax", "ecx", "edx", "cc");
}
static void overflow(void *arg)
{
	(void)arg;
	__asm__ volatile("mov $0x80000000, %%eax; cdq; mov $-1, %%ecx; idiv %%ecx" ::: "eax", "ecx", "edx");
}
static void ud2(void *arg)
{
	(void)arg;
	__asm__ volatile("ud2");
}
static void hlt(void *arg)
{
	(void)arg;
	__asm__ volatile("hlt");
}
static void cli(void *arg)
{
	(void)arg;
	__asm__ volatile("cli");
}
static void in_port(void *arg)
{
	(void)arg;
	__asm__ volatile("inb $0x80, %%al" ::: "eax");
}
static void int3(void *arg)
{
	(void)arg;
	__asm__ volatile("int3");
}
static void int_n(void *arg)
{
	(void)arg;
	__asm__ volatile("int $0x20");
}
static void bad_segment(void *arg)
{
	(void)arg;
	__asm__ volatile("mov %0, %%es" ::"r"(0x4321));
}
static void unaligned_sse(void *arg)
{
	__asm__ volatile("movaps (%0), %%xmm0" ::"r"((char *)arg + 1) : "xmm0");
}
static void sse_divide(void *arg)
{
	volatile float zero = 0, one = 1;
	unsigned csr, old;
	(void)arg;
	__asm__ volatile("stmxcsr %0" : "=m"(old));
	csr = old & ~0x200u; /* unmask division by zero */
	__asm__ volatile("ldmxcsr %0" ::"m"(csr));
	zero = one / zero;
	__asm__ volatile("ldmxcsr %0" ::"m"(old));
}
static void x87_divide(void *arg)
{
	unsigned short cw, old;
	(void)arg;
	__asm__ volatile("fninit; fnstcw %0" : "=m"(old));
	cw = old & ~4;
	__asm__ volatile("fldcw %0; fld1; fldz; fdivrp; fwait; fninit" ::"m"(cw));
}
static void single_step(void *arg)
{
	(void)arg;
	__asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq; nop; nop" ::: "memory", "cc");
}

TEST(arithmetic)
{
	CHECK_EQ(tap_fault(divide, NULL), SIGFPE);
	CHECK_EQ(tap_fault_info.si_code, FPE_INTDIV);
	CHECK(tap_fault_info.si_addr != NULL);
	CHECK_EQ(tap_fault(overflow, NULL), SIGFPE);
	CHECK_EQ(tap_fault_info.si_code, FPE_INTDIV);
	CHECK_EQ(tap_fault(sse_divide, NULL), SIGFPE);
	CHECK_EQ(tap_fault_info.si_code, FPE_FLTDIV);
	unsigned csr = 0x1f80; /* the jump out of the handler did not put it back */
	__asm__ volatile("ldmxcsr %0" ::"m"(csr));
	CHECK_EQ(tap_fault(x87_divide, NULL), SIGFPE);
	CHECK_EQ(tap_fault_info.si_code, FPE_FLTDIV);
	__asm__ volatile("fninit");
}

TEST(illegal)
{
	CHECK_EQ(tap_fault(ud2, NULL), SIGILL);
	CHECK_EQ(tap_fault_info.si_code, ILL_ILLOPN);
	CHECK(tap_fault_info.si_addr != NULL);
	CHECK_EQ(*(unsigned short *)tap_fault_info.si_addr, 0x0b0f); /* points at the instruction */
}

TEST(privileged)
{
	/* General protection: SIGSEGV, SI_KERNEL, no address. */
	CHECK_EQ(tap_fault(hlt, NULL), SIGSEGV);
	CHECK_EQ(tap_fault_info.si_code, SI_KERNEL);
	CHECK(tap_fault_info.si_addr == NULL);
	CHECK_EQ(tap_fault(cli, NULL), SIGSEGV);
	CHECK_EQ(tap_fault(in_port, NULL), SIGSEGV);
	CHECK_EQ(tap_fault(int_n, NULL), SIGSEGV);
	CHECK_EQ(tap_fault(bad_segment, NULL), SIGSEGV);
	static char aligned[64] __attribute__((aligned(16)));
	CHECK_EQ(tap_fault(unaligned_sse, aligned), SIGSEGV);
	CHECK_EQ(tap_fault_info.si_code, SI_KERNEL);
}

TEST(breakpoints)
{
	CHECK_EQ(tap_fault(int3, NULL), SIGTRAP);
	CHECK_EQ(tap_fault_info.si_code, SI_KERNEL); /* int3 has no TRAP_BRKPT on x86 */
	CHECK_EQ(tap_fault(single_step, NULL), SIGTRAP);
	CHECK_EQ(tap_fault_info.si_code, TRAP_TRACE);
	CHECK(tap_fault_info.si_addr != NULL);
}

static volatile int traps;
static volatile unsigned long trap_number, trap_error, rip;
static void skip(int sig, siginfo_t *i, void *context)
{
	ucontext_t *u = context;
	(void)i;
	traps++;
	trap_number = u->uc_mcontext.gregs[REG_TRAPNO];
	trap_error = u->uc_mcontext.gregs[REG_ERR];
	rip = u->uc_mcontext.gregs[REG_RIP];
	if (sig == SIGILL)
		u->uc_mcontext.gregs[REG_RIP] += 2;
}

TEST(numbers)
{
	struct sigaction a = {.sa_sigaction = skip, .sa_flags = SA_SIGINFO};
	sigaction(SIGILL, &a, NULL);
	sigaction(SIGTRAP, &a, NULL);
	traps = 0;
	ud2(NULL); /* the handler steps over it */
	CHECK_EQ(traps, 1);
	CHECK_EQ(trap_number, 6);
	CHECK_EQ(trap_error, 0);
	int3(NULL); /* continues after it by itself */
	CHECK_EQ(traps, 2);
	CHECK_EQ(trap_number, 3);
	CHECK_EQ(*(unsigned char *)(rip - 1), 0xcc);
}

TEST(cpuid_and_rdtsc)
{
	unsigned a = 0, b = 0, c = 0, d = 0, lo, hi;
	CHECK(__get_cpuid(1, &a, &b, &c, &d));
	CHECK(d & 1 << 26); /* SSE2, as every x86-64 has */
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	uint64_t first = (uint64_t)hi << 32 | lo;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	CHECK(((uint64_t)hi << 32 | lo) >= first);
	if (c & 1 << 27) { /* OSXSAVE: XCR0 can be read, and has x87 and SSE */
		__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
		CHECK_EQ(lo & 3, 3);
	}
	int tsc = 0;
	CHECK_OK(prctl(PR_GET_TSC, &tsc));
	CHECK_EQ(tsc, PR_TSC_ENABLE);
}

TEST(killed_by)
{
	int status;
	struct rlimit none = {0, 0};
	setrlimit(RLIMIT_CORE, &none);
	CHILD_STATUS(status)
	{
		ud2(NULL);
	}
	CHECK_EQ(WTERMSIG(status), SIGILL);
	CHILD_STATUS(status)
	{
		int3(NULL);
	}
	CHECK_EQ(WTERMSIG(status), SIGTRAP);
	CHILD_STATUS(status)
	{
		divide(NULL);
	}
	CHECK_EQ(WTERMSIG(status), SIGFPE);
}

TEST(old_entry_points)
{
	/* int $0x80 is the 32-bit table: 20 is getpid there. Where it is not offered it is a fault. */
	long r = 20;
	struct sigaction a = {.sa_sigaction = tap_on_fault, .sa_flags = SA_SIGINFO}, old;
	sigaction(SIGSEGV, &a, &old);
	if (sigsetjmp(tap_fault_jump, 1) == 0) {
		__asm__ volatile("int $0x80" : "+a"(r)::"r8", "r9", "r10", "r11", "memory");
		CHECK(r == getpid() || r == -ENOSYS);
	} else {
		CHECK_EQ(tap_fault_info.si_code, SI_KERNEL);
	}
	sigaction(SIGSEGV, &old, NULL);
}

TEST(vsyscall_page)
{
	/* Calls into the page are emulated when the kernel still has it; reading it may be refused. */
	long (*vtime)(time_t *) = (void *)0xffffffffff600400;
	struct sigaction a = {.sa_sigaction = tap_on_fault, .sa_flags = SA_SIGINFO}, old;
	sigaction(SIGSEGV, &a, &old);
	if (sigsetjmp(tap_fault_jump, 1) == 0) {
		long t = vtime(NULL), now = time(NULL);
		CHECK(t <= now + 1 && t >= now - 1000);
	} else {
		CHECK_NAMED(tap_fault_info.si_addr == (void *)0xffffffffff600400, "no vsyscall page: a fault there");
	}
	sigaction(SIGSEGV, &old, NULL);
}
