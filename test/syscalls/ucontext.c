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

/*
 * Signals whose calls (tgkill, rt_sigreturn) are made often from the same place: a sandbox may have another way for
 * those, and for the vector state in their frames.
 */
enum { OFTEN = 100 };

static void send_itself(int sig)
{
	syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), sig);
}

static char *fp_image(ucontext_t *u)
{
	return (char *)u->uc_mcontext.fpregs;
}

/* An image of XSAVE, with the marks that say so (asm/sigcontext.h); else that of FXSAVE. */
static int extended(const char *fp)
{
	uint32_t magic, size;
	memcpy(&magic, fp + 464, 4);
	memcpy(&size, fp + 480, 4);
	if (magic != 0x46505853)
		return 0;
	memcpy(&magic, fp + size, 4);
	return magic == 0x46505845;
}

static int wide; /* the width of the vector registers in bytes */
static volatile int depth, unmarked, handled;

/* fill_vectors sets registers 1, 2 and, where there are so many, 17 and a mask; same_vectors compares. */
static inline __attribute__((always_inline)) void fill_vectors(const uint64_t v[8])
{
	if (wide == 64)
		__asm__ volatile("vmovdqu64 (%0), %%zmm1; vmovdqu64 (%0), %%zmm2; vmovdqu64 (%0), %%zmm17; kmovq 8(%0), %%k3" ::"r"(v)
				 : "memory", "xmm1", "xmm2");
	else if (wide == 32)
		__asm__ volatile("vmovdqu (%0), %%ymm1; vmovdqu (%0), %%ymm2" ::"r"(v) : "memory", "xmm1", "xmm2");
	else
		__asm__ volatile("movdqu (%0), %%xmm1; movdqu (%0), %%xmm2" ::"r"(v) : "memory", "xmm1", "xmm2");
}
static inline __attribute__((always_inline)) int same_vectors(const uint64_t v[8])
{
	uint64_t out[3][8], mask = v[1];
	memcpy(out[0], v, 64), memcpy(out[1], v, 64), memcpy(out[2], v, 64);
	if (wide == 64)
		__asm__ volatile("vmovdqu64 %%zmm1, (%0); vmovdqu64 %%zmm2, 64(%0); vmovdqu64 %%zmm17, 128(%0); kmovq %%k3, (%1)" ::"r"(out),
				 "r"(&mask)
				 : "memory");
	else if (wide == 32)
		__asm__ volatile("vmovdqu %%ymm1, (%0); vmovdqu %%ymm2, 64(%0)" ::"r"(out) : "memory");
	else
		__asm__ volatile("movdqu %%xmm1, (%0); movdqu %%xmm2, 64(%0)" ::"r"(out) : "memory");
	return !memcmp(out[0], v, 64) && !memcmp(out[1], v, 64) && !memcmp(out[2], v, 64) && mask == v[1];
}

/* The call itself, with nothing in between that might use vector registers. */
static inline __attribute__((always_inline)) int survives(pid_t pid, pid_t tid, int sig, const uint64_t v[8])
{
	long ret;
	fill_vectors(v);
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"((long)SYS_tgkill), "D"((long)pid), "S"((long)tid), "d"((long)sig)
			 : "rcx", "r11", "memory");
	return same_vectors(v) && ret == 0;
}

static void vectors(uint64_t v[8], uint64_t seed)
{
	for (int i = 0; i < 8; i++)
		v[i] = (seed + 1) * 0x9e3779b97f4a7c15 + (uint64_t)i * 0x0101010101010101;
}

static pid_t mypid, mytid;
static volatile int broken;

static void deeper(int sig, siginfo_t *i, void *context)
{
	uint64_t v[8], zero[8] = {0};
	(void)i;
	if (!same_vectors(zero)) /* a handler starts with nothing in them */
		broken |= 1;
	unmarked += !extended(fp_image(context));
	handled++;
	vectors(v, (uint64_t)(handled + 7));
	if (depth++ < 2 && !survives(mypid, mytid, sig, v))
		broken |= 2;
	vectors(v, (uint64_t)(handled + 99));
	fill_vectors(v);
	depth--;
}

TEST(vectors_over_many_signals)
{
	struct sigaction a = {.sa_sigaction = deeper, .sa_flags = SA_SIGINFO | SA_NODEFER};
	__builtin_cpu_init();
	wide = __builtin_cpu_supports("avx512bw") ? 64 : __builtin_cpu_supports("avx2") ? 32 : 16;
	mypid = getpid(), mytid = (pid_t)syscall(SYS_gettid);
	sigaction(SIGUSR1, &a, NULL);
	int lost = 0;
	for (int i = 0; i < OFTEN; i++) {
		uint64_t v[8];
		vectors(v, (uint64_t)i);
		lost += !survives(mypid, mytid, SIGUSR1, v);
	}
	CHECK_EQ(lost, 0);
	CHECK_EQ(broken, 0);
	CHECK_EQ(unmarked, 0);
	CHECK_EQ(handled, 3 * OFTEN);
}

/* Two at once: the second handler's frame is written before the first has run. */
TEST(vectors_over_signals_at_once)
{
	struct sigaction a = {.sa_sigaction = deeper, .sa_flags = SA_SIGINFO};
	sigset_t both, old;
	int lost = 0;
	depth = 2, handled = 0, broken = 0; /* no further ones */
	sigaction(SIGUSR1, &a, NULL);
	sigaction(SIGUSR2, &a, NULL);
	sigemptyset(&both);
	sigaddset(&both, SIGUSR1);
	sigaddset(&both, SIGUSR2);
	for (int i = 0; i < OFTEN; i++) {
		uint64_t v[8];
		long ret, mask = 0;
		sigprocmask(SIG_BLOCK, &both, &old);
		send_itself(SIGUSR1);
		send_itself(SIGUSR2);
		vectors(v, (uint64_t)i);
		fill_vectors(v);
		__asm__ volatile("mov $8, %%r10\n\tsyscall" /* rt_sigprocmask: nothing is blocked */
				 : "=a"(ret)
				 : "a"(14L), "D"(2L), "S"(&mask), "d"(0L)
				 : "rcx", "r10", "r11", "memory");
		lost += !same_vectors(v) || ret != 0;
	}
	depth = 0;
	CHECK_EQ(lost, 0);
	CHECK_EQ(broken, 0);
	CHECK_EQ(handled, 2 * OFTEN);
}

static volatile int forgery;
static char *elsewhere;

static void forge_vectors(int sig, siginfo_t *i, void *context)
{
	ucontext_t *u = context;
	char *fp = fp_image(u);
	uint32_t size;
	(void)sig, (void)i;
	memcpy(&size, fp + 480, 4);
	switch (forgery) {
	case 1: /* bits of MXCSR that there are not */
		memset(fp + 24, 0xff, 4);
		break;
	case 2: /* parts of the state that there are not */
		memset(fp + 512, 0xff, 8);
		break;
	case 3: /* the compacted form */
		fp[520 + 7] = (char)0x80;
		break;
	case 4: /* nothing is there */
		u->uc_mcontext.fpregs = (fpregset_t)elsewhere;
		break;
	case 5: /* nowhere */
		u->uc_mcontext.fpregs = (fpregset_t)0x8000000000000000;
		break;
	case 6: /* in the kernel */
		u->uc_mcontext.fpregs = (fpregset_t)0xffffffff81000000;
		break;
	case 10: /* no marks: the first 512 bytes count */
		memset(fp + 464, 0, 4);
		break;
	case 11: /* a copy at another place */
		memcpy(elsewhere, fp, size + 4);
		u->uc_mcontext.fpregs = (fpregset_t)elsewhere;
		break;
	case 12: /* no state: all is reset */
		u->uc_mcontext.fpregs = NULL;
		break;
	case 13: /* the SSE registers are as at first */
		fp[512] &= ~2;
		break;
	}
}

TEST(forged_vectors)
{
	struct rlimit none = {0, 0};
	setrlimit(RLIMIT_CORE, &none);
	size_t page = 4096;
	elsewhere = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(elsewhere + 2 * page, 2 * page, PROT_NONE);
	for (int f = 1; f <= 6; f++) {
		int status;
		CHILD_STATUS(status)
		{
			forgery = 0;
			install(SIGUSR1, forge_vectors);
			for (int i = 0; i < OFTEN; i++)
				send_itself(SIGUSR1);
			elsewhere += 2 * page;
			forgery = f;
			send_itself(SIGUSR1);
		}
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	}
	install(SIGUSR1, forge_vectors);
	mypid = getpid(), mytid = (pid_t)syscall(SYS_gettid);
	wide = 16;
	for (int round = 0; round < OFTEN; round++) {
		uint64_t v[8];
		int ok = 1;
		vectors(v, (uint64_t)round);
		for (forgery = 10; forgery <= 11; forgery++)
			ok &= survives(mypid, mytid, SIGUSR1, v);
		for (forgery = 12; forgery <= 13; forgery++)
			ok &= !survives(mypid, mytid, SIGUSR1, v);
		if (!ok || round == OFTEN - 1)
			CHECK(ok);
	}
	munmap(elsewhere, 4 * page);
}

/* A stack that has room for a frame, but not for its vector state. */
static volatile unsigned long segv_rsp, segv_mask, usr_ran;
static void segv_seen(int sig, siginfo_t *i, void *context)
{
	ucontext_t *u = context;
	(void)sig, (void)i;
	segv_rsp = (unsigned long)u->uc_mcontext.gregs[REG_RSP];
	segv_mask = sigismember(&u->uc_sigmask, SIGUSR1);
}
static void usr_seen(int sig)
{
	(void)sig;
	usr_ran++;
}

TEST(no_room_for_vectors)
{
	size_t page = 4096, n = 8;
	char *stack = mmap(NULL, n * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t s = {.ss_sp = stack, .ss_size = n * page};
	struct sigaction a = {.sa_handler = usr_seen, .sa_flags = SA_ONSTACK};
	struct sigaction b = {.sa_sigaction = segv_seen, .sa_flags = SA_SIGINFO};
	sigaction(SIGUSR1, &a, NULL);
	sigaction(SIGSEGV, &b, NULL);
	CHECK_OK(sigaltstack(&s, NULL));
	for (int i = 0; i < OFTEN; i++)
		send_itself(SIGUSR1);
	CHECK_EQ(usr_ran, OFTEN);
	/* Pages that went come back as they are needed. */
	for (int i = 0; i < OFTEN; i++) {
		madvise(stack, n * page, MADV_DONTNEED);
		send_itself(SIGUSR1);
	}
	CHECK_EQ(usr_ran, 2 * OFTEN);
	mprotect(stack + (n - 1) * page, page, PROT_READ);
	segv_mask = 2;
	send_itself(SIGUSR1);
	CHECK_EQ(usr_ran, 2 * OFTEN);
	CHECK_EQ(segv_mask, 0); /* what the first handler would have blocked isn't */
	CHECK(segv_rsp > (unsigned long)&s - 65536 && segv_rsp < (unsigned long)&s + 65536);
	s.ss_flags = SS_DISABLE;
	sigaltstack(&s, NULL);
	munmap(stack, n * page);
	signal(SIGSEGV, SIG_DFL);
}

/* Threads that sleep for each other keep their registers. */
enum { RING = 6, TURNS = 500 };
static volatile uint32_t turn[RING];

static inline __attribute__((always_inline)) int keeps(long op, volatile uint32_t *word, const uint64_t v[8])
{
	long ret;
	fill_vectors(v);
	__asm__ volatile("xor %%r10d, %%r10d\n\tsyscall"
			 : "=a"(ret)
			 : "a"((long)SYS_futex), "D"(word), "S"(op), "d"(op) /* the value, and how many */
			 : "rcx", "r10", "r11", "memory");
	return same_vectors(v);
}
static void *takes_turns(void *arg)
{
	long me = (long)arg;
	intptr_t bad = 0;
	for (int i = 0; i < TURNS; i++) {
		uint64_t v[8];
		vectors(v, (uint64_t)(me * TURNS + i));
		while (turn[me] == 0)
			bad += !keeps(0, &turn[me], v); /* FUTEX_WAIT, while it is zero */
		turn[me] = 0;
		turn[(me + 1) % RING] = 1;
		bad += !keeps(1, &turn[(me + 1) % RING], v); /* FUTEX_WAKE, one */
	}
	return (void *)bad;
}

TEST(vectors_of_threads_that_take_turns)
{
	__builtin_cpu_init();
	wide = __builtin_cpu_supports("avx512bw") ? 64 : __builtin_cpu_supports("avx2") ? 32 : 16;
	pthread_t t[RING];
	intptr_t bad = 0;
	for (long i = 0; i < RING; i++)
		pthread_create(&t[i], NULL, takes_turns, (void *)i);
	turn[0] = 1;
	syscall(SYS_futex, &turn[0], 1, 1, NULL, NULL, 0);
	for (int i = 0; i < RING; i++) {
		void *r;
		pthread_join(t[i], &r);
		bad += (intptr_t)r;
	}
	CHECK_EQ(bad, 0);
}
