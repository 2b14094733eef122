/* brk(2) and the growing stack. */
#include "tap.h"
#define PAGE 4096UL

static uintptr_t kbrk(uintptr_t at)
{
	return syscall(SYS_brk, at); /* the kernel returns the break, old or new, never -1 */
}

TEST(brk)
{
	uintptr_t start = kbrk(0);
	CHECK(start != 0);
	CHECK_EQ(kbrk(0), start);
	CHECK_EQ(kbrk(start + 3 * PAGE), start + 3 * PAGE);
	char *p = (char *)start;
	CHECK_EQ(FAULT_STORE(p + 3 * PAGE - 1), 0);
	CHECK_EQ(p[2 * PAGE], 0);
	memset(p, 5, 3 * PAGE);
	CHECK_EQ(kbrk(start), start);
	uintptr_t page = (start + PAGE - 1) & ~(PAGE - 1);
	CHECK_EQ(FAULT_LOAD((char *)page), SIGSEGV);
	kbrk(start + 3 * PAGE);
	CHECK_EQ(*(char *)page, 0); /* fresh pages */
	CHECK_EQ(kbrk(start + 100), start + 100); /* any byte */
	CHECK_EQ(kbrk(start), start);
	/* Nonsense leaves it where it was. */
	CHECK_EQ(kbrk(1), start);
	CHECK_EQ(kbrk(~0UL), start);
	CHECK_EQ(kbrk(start + (1UL << 46)), start);
	/* It stops at another mapping. */
	void *wall = mmap((void *)(page + 4 * PAGE), PAGE, PROT_READ,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	CHECK_EQ(kbrk(page + 5 * PAGE), start);
	munmap(wall, PAGE);
	IN_CHILD
	{
		CHECK_EQ(kbrk(0), start);
		struct rlimit r = {PAGE, PAGE};
		setrlimit(RLIMIT_DATA, &r);
		CHECK_EQ(kbrk(start + (64 << 20)), start);
	}
}

__attribute__((noinline)) static int deep(int n)
{
	volatile char frame[8192];
	frame[0] = n;
	frame[8191] = n;
	return n == 0 ? 0 : deep(n - 1) + (frame[0] == (char)n);
}

TEST(stack_grows)
{
	CHECK_EQ(deep(500), 500); /* 4 MiB */
	char maps[65536], *line;
	tap_read_file("/proc/self/maps", maps, sizeof maps);
	line = strstr(maps, "[stack]");
	CHECK(line != NULL);
}

static volatile sig_atomic_t overflow_code;
static sigjmp_buf out;
static void on_overflow(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	overflow_code = info->si_code;
	siglongjmp(out, 1);
}

__attribute__((noinline)) static int endless(int n)
{
	volatile char frame[4096];
	frame[n % 4096] = n;
	return n < 0 ? 0 : endless(n + 1) + frame[0];
}

TEST(overflow_is_a_segv_on_the_alternate_stack)
{
	IN_CHILD
	{
		struct rlimit r;
		getrlimit(RLIMIT_STACK, &r);
		r.rlim_cur = 1 << 20; /* asked at the time of the fault */
		setrlimit(RLIMIT_STACK, &r);
		stack_t s = {.ss_sp = malloc(65536), .ss_size = 65536};
		sigaltstack(&s, NULL);
		struct sigaction action = {.sa_sigaction = on_overflow, .sa_flags = SA_SIGINFO | SA_ONSTACK};
		sigaction(SIGSEGV, &action, NULL);
		if (sigsetjmp(out, 1) == 0)
			endless(0);
		CHECK(overflow_code == SEGV_MAPERR || overflow_code == SEGV_ACCERR);
	}
}

TEST(overflow_without_one_kills)
{
	int status;
	CHILD_STATUS(status)
	{
		struct rlimit r;
		getrlimit(RLIMIT_STACK, &r);
		r.rlim_cur = 1 << 20;
		setrlimit(RLIMIT_STACK, &r);
		signal(SIGSEGV, tap_watchdog); /* no stack to run it on: killed */
		endless(0);
	}
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}
