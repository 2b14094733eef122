/*
 * System calls from an instruction that has called often, which a sandbox may have replaced: whatever it
 * does, registers, flags, signals, debuggers and the program's own view of its code stay as they are.
 */
#define TAP_ROLES
#include "tap.h"
#include <asm/prctl.h>
#include <cpuid.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <ucontext.h>

enum { OFTEN = 200 };

/* Two functions of the form that C libraries and Go have: syscall; cmp $-4096 or $-4095, %rax. They take the
 * number and three arguments and return rax; the flags behind the cmp go to flags_after. */
static unsigned long flags_after;
__attribute__((used)) static unsigned long *flags_at = &flags_after;
#define CALLER(name, compare)                                                                      \
	__asm__(".text\n.p2align 6\n" #name ":\n"                                                  \
		"mov %rdi, %rax\n mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n"              \
		#name "_site: syscall\n" #name "_cmp: cmp $-" #compare ", %rax\n"                  \
		#name "_behind: pushfq\n pop %rcx\n mov flags_at(%rip), %rdx\n mov %rcx, (%rdx)\n ret\n" \
		#name "_end:\n");                                                                  \
	extern char name##_site[], name##_cmp[], name##_behind[], name##_end[];                    \
	long name(long nr, ...)
CALLER(call4096, 4096);
CALLER(call4095, 4095);

/* The other form: the number is loaded right before. plain_getpgrp takes the flags to have then. */
#define PLAIN(name, nr, before)                                                                    \
	__asm__(".text\n.p2align 6\n" #name ":\n" before #name "_mov: mov $" #nr ", %eax\n"       \
		#name "_site: syscall\n" #name "_behind: pushfq\n pop %rcx\n"                        \
		"mov flags_at(%rip), %rdx\n mov %rcx, (%rdx)\n ret\n");                            \
	extern char name##_mov[], name##_site[], name##_behind[];                                  \
	long name(long, ...)
PLAIN(plain_getpgrp, 111, "push %rdi\n popfq\n");
PLAIN(plain_getuid, 102, "");
PLAIN(plain_read, 0, "xor %r10d, %r10d\n");

/* What compilers make of a call in the middle of a function: the number comes from another register. Also the
 * form with a number for all of rax. They take the number, three arguments and, with before, the flags to have then. */
#define MOVED(name, before, instruction)                                                           \
	__asm__(".text\n.p2align 6\n" #name ":\n"                                                  \
		"mov %rdi, %r9\n mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n" before \
		#name "_mov: " instruction "\n" #name "_site: syscall\n" #name "_behind: pushfq\n"  \
		"pop %rcx\n mov flags_at(%rip), %rdx\n mov %rcx, (%rdx)\n ret\n");                 \
	extern char name##_mov[], name##_site[], name##_behind[];                                  \
	long name(long nr, ...)
MOVED(moved, "push %r8\n popfq\n", "mov %r9, %rax");
MOVED(moved_half, "push %r8\n popfq\n", "mov %r9d, %eax");
MOVED(wide_getpgrp, "push %r8\n popfq\n", "movq $111, %rax");
MOVED(stepped, "", "mov %r9, %rax"); /* a step over popfq leaves the trap flag */

/* jump_compare goes to a cmp with this in rax. */
long jump_compare(long rax, void *cmp);
__asm__(".text\njump_compare: mov %rdi, %rax\n jmp *%rsi\n");

enum { STATUS_FLAGS = 0x8d5 };

static unsigned long compare_flags(long a, long b)
{
	unsigned long f;
	__asm__("cmp %2, %1\n pushfq\n pop %0" : "=r"(f) : "r"(a), "r"(b) : "cc");
	return f & STATUS_FLAGS;
}

TEST(flags)
{
	int wrong = 0;
	for (int i = 0; i < OFTEN; i++) {
		long r = call4096(SYS_getpgrp);
		wrong += r != getpgrp() || (flags_after & STATUS_FLAGS) != compare_flags(r, -4096);
		r = call4095(SYS_getpgrp);
		wrong += r != getpgrp() || (flags_after & STATUS_FLAGS) != compare_flags(r, -4095);
		r = call4096(SYS_close, -1L);
		wrong += r != -EBADF || (flags_after & STATUS_FLAGS) != compare_flags(r, -4096);
		r = call4095(-5L);
		wrong += r != -ENOSYS || (flags_after & STATUS_FLAGS) != compare_flags(r, -4095);
		r = call4095(SYS_brk, 0L);
		wrong += r <= 0 || (flags_after & STATUS_FLAGS) != compare_flags(r, -4095);
	}
	CHECK_EQ(wrong, 0);
}

TEST(flags_that_stay)
{
	int wrong = 0;
	for (int i = 0; i < OFTEN; i++)
		for (int set = 0; set < 64; set++) {
			unsigned long f = 0x202 | (set & 1) | (set & 2) << 1 | (set & 4) << 2 | (set & 8) << 3 |
					  (set & 16) << 3 | (set & 32) << 6;
			wrong += plain_getpgrp(f) != getpgrp() || flags_after != f;
			if (i > 50)
				break;
		}
	CHECK_EQ(wrong, 0);
	wrong = 0;
	for (int i = 0; i < OFTEN; i++) {
		plain_getpgrp(0x202 | 0x400);
		wrong += flags_after != (0x202 | 0x400);
		__asm__ volatile("cld");
	}
	CHECK_EQ(wrong, 0);
}

TEST(numbers_from_registers)
{
	int wrong = 0;
	for (int i = 0; i < OFTEN; i++) {
		unsigned long f = 0x202 | (i & 1) | (i & 2) << 1 | (i & 4) << 2 | (i & 8) << 3 | (i & 16) << 3 | (i & 32) << 6;
		wrong += moved(SYS_getpgrp, 0L, 0L, 0L, f) != getpgrp() || flags_after != f;
		wrong += moved(SYS_getpid, 0L, 0L, 0L, f) != getpid() || flags_after != f;
		wrong += moved(SYS_close, -1L, 0L, 0L, f) != -EBADF || flags_after != f;
		wrong += moved(-7L, 0L, 0L, 0L, f) != -ENOSYS || flags_after != f;
		wrong += moved(1L << 32 | SYS_getpid, 0L, 0L, 0L, f) != moved_half(1L << 32 | SYS_getpid, 0L, 0L, 0L, f);
		wrong += moved_half(SYS_getpgrp, 0L, 0L, 0L, f) != getpgrp() || flags_after != f;
		wrong += moved_half(SYS_close, -1L, 0L, 0L, f) != -EBADF || flags_after != f;
		wrong += wide_getpgrp(0L, 0L, 0L, 0L, f) != getpgrp() || flags_after != f;
	}
	CHECK_EQ(wrong, 0);
	IN_CHILD
	{
		struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
		struct sock_fprog prog = {1, all};
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		REQUIRE_OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog));
		for (int i = 0; i < OFTEN; i++)
			wrong += moved(SYS_getpid, 0L, 0L, 0L, 0x202L) != getpid();
		CHECK_EQ(wrong, 0);
	}
}

TEST(jump_to_the_call)
{
	for (int i = 0; i < OFTEN; i++)
		plain_getpgrp(0x202), moved(SYS_getpgrp, 0L, 0L, 0L, 0x202L), wide_getpgrp(0L, 0L, 0L, 0L, 0x202L);
	int wrong = 0;
	for (int i = 0; i < OFTEN; i++) {
		wrong += jump_compare(SYS_getpid, plain_getpgrp_site) != getpid() || plain_getpgrp(0x202) != getpgrp();
		wrong += jump_compare(SYS_getpid, moved_site) != getpid() || moved(SYS_getpgrp, 0L, 0L, 0L, 0x202L) != getpgrp();
		wrong += jump_compare(SYS_getpid, wide_getpgrp_site) != getpid();
	}
	CHECK_EQ(wrong, 0);
}

TEST(jump_to_the_comparison)
{
	static const long values[] = {0,  1,	 -1,	    -4095,    -4096,	 -4097,	       15,
				      16, 4096, LONG_MAX, LONG_MIN, 0x7fffff, 0xfffff000, 0xffffffff};
	for (int i = 0; i < OFTEN; i++) {
		call4096(SYS_getpid);
		call4095(SYS_getpid);
	}
	int wrong = 0;
	for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
		wrong += jump_compare(values[i], call4096_cmp) != values[i];
		wrong += (flags_after & STATUS_FLAGS) != compare_flags(values[i], -4096);
		wrong += jump_compare(values[i], call4095_cmp) != values[i];
		wrong += (flags_after & STATUS_FLAGS) != compare_flags(values[i], -4095);
	}
	CHECK_EQ(wrong, 0);
}

/* What a call may change are rax, rcx and r11. in and out: r8-r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp
 * afterwards, flags before and after (at the instruction). */
struct registers {
	unsigned long r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, flags;
};
#define REGISTERS(name, call)                                                                      \
	__asm__(".text\n.p2align 6\n" #name ":\n"                                                  \
		"push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n push %rsi\n"  \
		"mov %rsp, saved_rsp(%rip)\n"                                                      \
		"mov %rdi, %rsp\n" /* nothing below the stack pointer may be needed either */      \
		"mov 0(%rsp), %r8\n mov 8(%rsp), %r9\n mov 16(%rsp), %r10\n mov 24(%rsp), %r11\n"  \
		"mov 32(%rsp), %r12\n mov 40(%rsp), %r13\n mov 48(%rsp), %r14\n mov 56(%rsp), %r15\n" \
		"mov 64(%rsp), %rdi\n mov 72(%rsp), %rsi\n mov 80(%rsp), %rbp\n mov 88(%rsp), %rbx\n" \
		"mov 96(%rsp), %rdx\n mov 104(%rsp), %rax\n mov 112(%rsp), %rcx\n"                 \
		"pushq 128(%rsp)\n popfq\n" call                                                   \
		"mov %rsp, after_rsp(%rip)\n mov saved_rsp(%rip), %rsp\n"                          \
		"push %rcx\n mov 8(%rsp), %rcx\n" /* out */                                        \
		"mov %r8, 0(%rcx)\n mov %r9, 8(%rcx)\n mov %r10, 16(%rcx)\n mov %r11, 24(%rcx)\n"  \
		"mov %r12, 32(%rcx)\n mov %r13, 40(%rcx)\n mov %r14, 48(%rcx)\n mov %r15, 56(%rcx)\n" \
		"mov %rdi, 64(%rcx)\n mov %rsi, 72(%rcx)\n mov %rbp, 80(%rcx)\n mov %rbx, 88(%rcx)\n" \
		"mov %rdx, 96(%rcx)\n mov %rax, 104(%rcx)\n"                                       \
		"pushfq\n pop %rax\n mov %rax, 128(%rcx)\n cld\n"                                 \
		"mov after_rsp(%rip), %rax\n mov %rax, 120(%rcx)\n"                                \
		"pop %rax\n mov %rax, 112(%rcx)\n"                                                 \
		"pop %rsi\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"); \
	extern char name##_behind[];                                                               \
	void name(struct registers *in, struct registers *out)
REGISTERS(call_registers, "syscall\n call_registers_behind: cmp $-4095, %rax\n");
REGISTERS(plain_registers, "mov $39, %eax\n syscall\n plain_registers_behind:\n");
__asm__(".data\nsaved_rsp: .quad 0\nafter_rsp: .quad 0\n.text\n");

static int registers_wrong(long nr, long a, long b, long c, unsigned long flags, long result)
{
	static struct {
		unsigned long below[16];
		struct registers in;
	} s;
	struct registers *in = &s.in, out;
	memset(&s, 0x5a, sizeof s);
	for (int i = 0; i < 17; i++)
		((unsigned long *)in)[i] = 0x1111111111111111UL * i + 77;
	in->rax = nr, in->rdi = a, in->rsi = b, in->rdx = c;
	in->flags = flags;
	int wrong = 0;
	if (nr == SYS_getpid) {
		in->rax = 4711; /* which isn't needed */
		plain_registers(in, &out);
		wrong += out.rcx != (unsigned long)plain_registers_behind || (long)out.rax != result;
		wrong += (out.flags & 0xcd5) != (flags & 0xcd5);
		for (int i = 0; i < 13; i++)
			wrong += i != 3 && ((unsigned long *)in)[i] != ((unsigned long *)&out)[i];
		wrong += out.rsp != (unsigned long)in;
		in->rax = nr;
	}
	call_registers(in, &out);
	for (int i = 0; i < 13; i++)
		wrong += i != 3 && ((unsigned long *)in)[i] != ((unsigned long *)&out)[i];
	wrong += (long)out.rax != result;
	wrong += out.rcx != (unsigned long)call_registers_behind;
	/* Linux leaves the flags in r11; those that the cmp sets are nobody's business. */
	wrong += (out.r11 & 0x700) != (flags & 0x700);
	wrong += (out.flags & 0x400) != (flags & 0x400);
	wrong += out.rsp != (unsigned long)in;
	for (int i = 0; i < 14; i++) /* the last is what pushed the flags */
		wrong += s.below[i] != 0x5a5a5a5a5a5a5a5a;
	return wrong;
}

TEST(registers)
{
	int wrong = 0;
	for (int i = 0; i < OFTEN; i++) {
		wrong += registers_wrong(SYS_getpid, 1, 2, 3, 0x202, getpid());
		wrong += registers_wrong(SYS_close, -1, 2, 3, 0x202 | STATUS_FLAGS | 0x400, -EBADF);
	}
	CHECK_EQ(wrong, 0);
}

/* --- clocks --- */

static long long ns_of(const struct timespec *t) { return t->tv_sec * 1000000000LL + t->tv_nsec; }

/* by_form makes a call by either form of instruction. */
static long by_form(int form, long nr, long a, void *b)
{
	return form ? moved(nr, a, b, 0L, 0x202L) : call4095(nr, a, b);
}

TEST(clocks)
{
	static const int ids[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE,
				  CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_TAI};
	for (int i = 0; i < OFTEN; i++) {
		struct timespec t;
		by_form(0, SYS_clock_gettime, CLOCK_MONOTONIC, &t), by_form(1, SYS_clock_gettime, CLOCK_MONOTONIC, &t);
	}
	for (int form = 0; form < 2; form++) {
		int wrong = 0;
		for (size_t k = 0; k < sizeof ids / sizeof *ids; k++) {
			struct timespec t[3], res, res2;
			int coarse = ids[k] == CLOCK_REALTIME_COARSE || ids[k] == CLOCK_MONOTONIC_COARSE;
			for (int i = 0; i < 50; i++) {
				/* Between two readings by the library, which may have another way. */
				memset(t, 0xff, sizeof t);
				wrong += clock_gettime(ids[k], &t[0]) != 0;
				wrong += by_form(form, SYS_clock_gettime, ids[k], &t[1]) != 0;
				wrong += clock_gettime(ids[k], &t[2]) != 0;
				wrong += ns_of(&t[0]) > ns_of(&t[1]) || ns_of(&t[1]) > ns_of(&t[2]);
				wrong += t[1].tv_nsec < 0 || t[1].tv_nsec >= 1000000000;
			}
			wrong += by_form(form, SYS_clock_getres, ids[k], &res) != 0 || clock_getres(ids[k], &res2) != 0;
			wrong += ns_of(&res) != ns_of(&res2) || (coarse ? res.tv_nsec < 1000000 : res.tv_nsec > 1000000);
			wrong += by_form(form, SYS_clock_getres, ids[k], NULL) != 0;
			if (wrong) {
				CHECK_EQ(ids[k], -1);
				break;
			}
		}
		CHECK_EQ(wrong, 0);
		struct timespec t[2];
		struct timeval v;
		time_t now, stored;
		for (int i = 0; i < OFTEN; i++) {
			clock_gettime(CLOCK_REALTIME, &t[0]);
			wrong += by_form(form, SYS_gettimeofday, (long)&v, NULL) != 0;
			clock_gettime(CLOCK_REALTIME, &t[1]);
			long long us = v.tv_sec * 1000000LL + v.tv_usec;
			wrong += us < ns_of(&t[0]) / 1000 || us > ns_of(&t[1]) / 1000 || v.tv_usec < 0 || v.tv_usec >= 1000000;
			/* The coarse clock is what time(2) goes by. */
			clock_gettime(CLOCK_REALTIME_COARSE, &t[0]);
			now = by_form(form, SYS_time, (long)&stored, NULL);
			clock_gettime(CLOCK_REALTIME, &t[1]);
			wrong += now != stored || now < t[0].tv_sec || now > t[1].tv_sec;
			now = by_form(form, SYS_time, 0, NULL);
			wrong += now < t[0].tv_sec || now > t[1].tv_sec + 1;
			wrong += by_form(form, SYS_sched_yield, 0, NULL) != 0;
		}
		CHECK_EQ(wrong, 0);
		struct timezone zone = {1, 1};
		CHECK_EQ(by_form(form, SYS_gettimeofday, 0, &zone), 0);
		CHECK_EQ(by_form(form, SYS_gettimeofday, (long)&v, &zone), 0);
		CHECK_EQ(zone.tz_dsttime, 0);
		CHECK_EQ(by_form(form, SYS_gettimeofday, 0, NULL), 0);
		CHECK_EQ(by_form(form, SYS_clock_gettime, CLOCK_PROCESS_CPUTIME_ID, &t[0]), 0);
		CHECK_EQ(by_form(form, SYS_clock_gettime, 1L << 32 | CLOCK_MONOTONIC, &t[0]), 0);
		CHECK_EQ(by_form(form, SYS_clock_gettime, 12, &t[0]), -EINVAL);
		CHECK_EQ(by_form(form, SYS_clock_gettime, 10, &t[0]), -EINVAL);
		CHECK_EQ(by_form(form, SYS_clock_gettime, -1 & 0xffff, &t[0]), -EINVAL);
		CHECK_EQ(by_form(form, SYS_clock_getres, 77, &t[0]), -EINVAL);
	}
	int wrong_registers = 0;
	for (int i = 0; i < OFTEN; i++) {
		struct timespec t;
		wrong_registers += registers_wrong(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&t, 3, 0x202, 0);
		wrong_registers += registers_wrong(SYS_clock_gettime, CLOCK_MONOTONIC, 8, 3, 0x202, -EFAULT);
		wrong_registers += registers_wrong(SYS_sched_yield, 1, 2, 3, 0x202, 0);
	}
	CHECK_EQ(wrong_registers, 0);
}

/* Where the answer can't be written the error is the system call's, and where it can for the first time it is. */
TEST(clocks_to_nowhere)
{
	unsigned char *p = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(p + 4096, 4096, PROT_READ);
	munmap(p + 8192, 4096);
	struct timespec t;
	for (int i = 0; i < OFTEN; i++)
		by_form(0, SYS_clock_gettime, CLOCK_MONOTONIC, &t), by_form(1, SYS_clock_gettime, CLOCK_MONOTONIC, &t);
	static const unsigned long nowhere[] = {8, 1UL << 47, (1UL << 47) - 4096, (1UL << 47) - 4104, (1UL << 47) - 8, 1UL << 63, -8UL,
						0x7ffffc000000 - 16, 0x7ffffc000000 - 8, 0x7ffffc003000, 0x7fffff000000, 0x7fffff080000};
	for (int form = 0; form < 2; form++) {
		for (int i = 0; i < 60; i++) {
			unsigned char *q = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			struct timespec *fresh = (void *)(q + 64);
			if (by_form(form, SYS_clock_gettime, CLOCK_MONOTONIC, fresh) != 0 || fresh->tv_sec == 0) {
				CHECK_NAMED(0, "a page that was never touched gets the time");
				break;
			}
			munmap(q, 4096);
		}
		for (size_t i = 0; i < sizeof nowhere / sizeof *nowhere; i++) {
			int wrong = by_form(form, SYS_clock_gettime, CLOCK_MONOTONIC, (void *)nowhere[i]) != -EFAULT;
			wrong += by_form(form, SYS_gettimeofday, (long)nowhere[i], NULL) != -EFAULT;
			wrong += by_form(form, SYS_time, (long)nowhere[i], NULL) != -EFAULT;
			wrong += by_form(form, SYS_clock_getres, CLOCK_MONOTONIC, (void *)nowhere[i]) != -EFAULT;
			if (wrong) {
				CHECK_EQ(nowhere[i], 0);
				break;
			}
		}
		CHECK_EQ(by_form(form, SYS_clock_gettime, CLOCK_MONOTONIC, NULL), -EFAULT);
		CHECK_EQ(by_form(form, SYS_clock_gettime, CLOCK_MONOTONIC, p + 4096), -EFAULT);
		CHECK_EQ(by_form(form, SYS_clock_gettime, CLOCK_MONOTONIC, p + 4096 - 8), -EFAULT);
		CHECK_EQ(by_form(form, SYS_clock_gettime, CLOCK_MONOTONIC, p + 8192), -EFAULT);
		CHECK_EQ(by_form(form, SYS_time, (long)(p + 8192 - 4), NULL), -EFAULT);
	}
	/* What a child has changed isn't the parent's. */
	struct timespec *shared = (void *)p;
	by_form(1, SYS_clock_gettime, CLOCK_MONOTONIC, shared);
	struct timespec before = *shared;
	IN_CHILD
	{
		CHECK_EQ(by_form(1, SYS_clock_gettime, CLOCK_MONOTONIC, shared), 0);
		CHECK(ns_of(shared) > ns_of(&before));
	}
	CHECK_MEM(shared, &before, sizeof before);
	munmap(p, 8192);
}

/* --- processors --- */

/* on_processor is the number that getcpu(2) gives by either form, or -1. */
static int on_processor(int form)
{
	unsigned cpu = 99999, node = 99999;
	return by_form(form, SYS_getcpu, (long)&cpu, &node) == 0 && node < 1024 ? (int)cpu : -1;
}

static int place(pid_t tid, int cpu)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	return sched_setaffinity(tid, sizeof one, &one);
}

TEST(processors)
{
	cpu_set_t all;
	REQUIRE_OK(sched_getaffinity(0, sizeof all, &all));
	for (int form = 0; form < 2; form++) {
		int wrong = 0;
		for (int i = 0; i < OFTEN; i++) {
			int cpu = on_processor(form);
			wrong += cpu < 0 || !CPU_ISSET(cpu, &all);
			cpu = sched_getcpu(); /* by the vDSO */
			wrong += cpu < 0 || !CPU_ISSET(cpu, &all);
			wrong += by_form(form, SYS_getcpu, 0, NULL) != 0;
		}
		CHECK_EQ(wrong, 0);
		for (int c = 0, n = 0; c < CPU_SETSIZE && n < 8; c++)
			if (CPU_ISSET(c, &all)) {
				n++;
				CHECK_OK(place(0, c));
				for (int i = 0; i < OFTEN; i++)
					wrong += on_processor(form) != c || sched_getcpu() != c;
			}
		CHECK_EQ(wrong, 0);
		sched_setaffinity(0, sizeof all, &all);
		unsigned char *p = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int i = 0; i < OFTEN; i++) {
			CHECK_EQ(munmap(p + 4096, 4096), 0);
			int there = p[4092] = 77;
			wrong += by_form(form, SYS_getcpu, (long)(p + 4096), p) != -EFAULT;
			wrong += by_form(form, SYS_getcpu, (long)p, p + 4096) != -EFAULT;
			wrong += by_form(form, SYS_getcpu, 0, p + 4093) != -EFAULT || p[4092] != there;
			wrong += by_form(form, SYS_getcpu, (1L << 47) - 2, NULL) != -EFAULT;
			wrong += by_form(form, SYS_getcpu, 0x7ffffc000000, NULL) != -EFAULT;
			wrong += by_form(form, SYS_getcpu, 0, (void *)-8) != -EFAULT;
			mmap(p + 4096, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
			wrong += by_form(form, SYS_getcpu, (long)(p + 4096 + 8), p + 4096 + 12) != 0;
			if (wrong || i > 20)
				break;
		}
		CHECK_EQ(wrong, 0);
		munmap(p, 2 * 4096);
	}
	int wrong = 0, cpu, node;
	for (int i = 0; i < OFTEN; i++) {
		wrong += registers_wrong(SYS_getcpu, (long)&cpu, (long)&node, 3, 0x202 | STATUS_FLAGS, 0);
		wrong += registers_wrong(SYS_getcpu, (long)&cpu, 8, 3, 0x202 | STATUS_FLAGS, -EFAULT);
	}
	CHECK_EQ(wrong, 0);
}

struct moved_about {
	pid_t tid;
	long at; /* where it was put, with the number of the move; -1 during one, -2 at the end */
	long wrong, asked;
};
static void *tell_processor(void *arg)
{
	struct moved_about *m = arg;
	for (int i = 0; i < OFTEN; i++)
		on_processor(i & 1);
	__atomic_store_n(&m->tid, gettid(), __ATOMIC_SEQ_CST);
	for (long before; (before = __atomic_load_n(&m->at, __ATOMIC_SEQ_CST)) != -2;) {
		int cpu[2] = {on_processor(0), on_processor(1)};
		if (before >= 0 && __atomic_load_n(&m->at, __ATOMIC_SEQ_CST) == before) {
			m->wrong += cpu[0] != before % CPU_SETSIZE || cpu[1] != before % CPU_SETSIZE;
			__atomic_add_fetch(&m->asked, 1, __ATOMIC_SEQ_CST);
		}
	}
	return NULL;
}

/* Who is in a loop meanwhile says where somebody else has put him. */
TEST(processors_by_another)
{
	cpu_set_t all;
	struct moved_about m = {.at = -1};
	pthread_t t;
	REQUIRE_OK(sched_getaffinity(0, sizeof all, &all));
	pthread_create(&t, NULL, tell_processor, &m);
	while (__atomic_load_n(&m.tid, __ATOMIC_SEQ_CST) == 0)
		sched_yield();
	int failed = 0, cpu = 0;
	for (long move = 0; move < 20; move++) {
		do
			cpu = (cpu + 1) % CPU_SETSIZE;
		while (!CPU_ISSET(cpu, &all));
		__atomic_store_n(&m.at, -1, __ATOMIC_SEQ_CST);
		failed += place(m.tid, cpu) != 0;
		long asked = __atomic_load_n(&m.asked, __ATOMIC_SEQ_CST);
		__atomic_store_n(&m.at, move * CPU_SETSIZE + cpu, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&m.asked, __ATOMIC_SEQ_CST) < asked + 20)
			sched_yield();
	}
	__atomic_store_n(&m.at, -2, __ATOMIC_SEQ_CST);
	pthread_join(t, NULL);
	CHECK_EQ(failed, 0);
	CHECK_EQ(m.wrong, 0);
}

static int yield_turn;
static void *yielding(void *arg)
{
	int me = (int)(long)arg;
	for (int i = 0; i < 300; i++) {
		while (__atomic_load_n(&yield_turn, __ATOMIC_SEQ_CST) % 3 != me)
			call4095(SYS_sched_yield);
		__atomic_add_fetch(&yield_turn, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* Threads that wait for each other by yielding get on. */
TEST(threads_that_yield)
{
	pthread_t t[3];
	for (int i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, yielding, (void *)(long)i);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	CHECK_EQ(yield_turn, 900);
}

/* --- vector registers --- */

static int have_avx, have_avx512;
static void look_for_vectors(void)
{
	unsigned a, b, c, d, lo = 0, hi;
	if (__get_cpuid(1, &a, &b, &c, &d) && c & 1 << 27)
		__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
		have_avx = (lo & 6) == 6;
		have_avx512 = (lo & 0xe6) == 0xe6 && b & 1 << 16;
	}
}

/* vectors_wrong loads all vector registers with a pattern of seed, makes the call through call4095, and
 * compares them. */
__attribute__((noinline)) static int vectors_wrong(int seed, long nr, long a, long b, long c, long want)
{
	static __thread unsigned char in[32 * 64] __attribute__((aligned(64))), out[32 * 64] __attribute__((aligned(64)));
	unsigned mxcsr = 0x1f80 | (seed & 3) << 13, mxcsr_after;
	unsigned short cw = 0x37f & ~((seed & 1) << 10), cw_after, one = seed;
	unsigned long mask = 0x123456789abcdef * (seed + 1), mask_after = mask;
	double st = 0;
	int size = have_avx512 ? 64 : have_avx ? 32 : 16, count = have_avx512 ? 32 : 16;
	for (size_t i = 0; i < sizeof in; i++)
		in[i] = seed + i * 7 + (i >> 8);
	memset(out, 0, sizeof out);
	/* Finding them may be a call (-fPIC), which changes registers. */
	unsigned char *from = in, *to = out;
	__asm__ volatile("" : "+r"(from), "+r"(to));
	register long rax __asm__("rax") = nr;
	register long rdi __asm__("rdi") = a;
	register long rsi __asm__("rsi") = b;
	register long rdx __asm__("rdx") = c;
#define EACH16(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define EACH32(X) EACH16(X) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)
#define LOAD_XMM(n) "movdqa " #n "*64(%[in]), %%xmm" #n "\n"
#define STORE_XMM(n) "movdqa %%xmm" #n ", " #n "*64(%[out])\n"
#define LOAD_YMM(n) "vmovdqa " #n "*64(%[in]), %%ymm" #n "\n"
#define STORE_YMM(n) "vmovdqa %%ymm" #n ", " #n "*64(%[out])\n"
#define LOAD_ZMM(n) "vmovdqa64 " #n "*64(%[in]), %%zmm" #n "\n"
#define STORE_ZMM(n) "vmovdqa64 %%zmm" #n ", " #n "*64(%[out])\n"
#define AROUND(load, store)                                                                        \
	__asm__ volatile("ldmxcsr %[mx]\n fldcw %[cw]\n filds %[one]\n" load                       \
			 "vector_site_%=: syscall\n cmp $-4095, %%rax\n" store                     \
			 "fstpl %[st]\n fnstcw %[cwa]\n fninit\n stmxcsr %[mxa]\n"                 \
			 : "+r"(rax), [cwa] "=m"(cw_after), [mxa] "=m"(mxcsr_after), [st] "=m"(st), \
			   [mka] "+m"(mask_after)                                                  \
			 : "r"(rdi), "r"(rsi), "r"(rdx), [in] "r"(from), [out] "r"(to), [mx] "m"(mxcsr),  \
			   [cw] "m"(cw), [one] "m"(one), [mk] "m"(mask)                            \
			 : "rcx", "r11", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",  \
			   "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")
	if (have_avx512)
		AROUND(EACH32(LOAD_ZMM) "kmovq %[mk], %%k5\n", EACH32(STORE_ZMM) "kmovq %%k5, %[mka]\n vzeroupper\n");
	else if (have_avx)
		AROUND(EACH16(LOAD_YMM), EACH16(STORE_YMM) "vzeroupper\n");
	else
		AROUND(EACH16(LOAD_XMM), EACH16(STORE_XMM));
	long result = rax;
	unsigned normal = 0x1f80;
	__asm__ volatile("ldmxcsr %0" : : "m"(normal));
	int wrong = 0;
	for (int i = 0; i < count; i++)
		wrong += memcmp(in + i * 64, out + i * 64, size) != 0;
	wrong += (mxcsr_after & ~0x3f) != mxcsr;
	wrong += cw_after != cw || st != (short)one;
	wrong += mask_after != mask;
	wrong += result != want;
	return wrong;
}

TEST(vector_registers)
{
	look_for_vectors();
	int wrong = 0;
	for (int i = 0; i < OFTEN; i++)
		wrong += vectors_wrong(i, SYS_getpgrp, 0, 0, 0, getpgrp());
	CHECK_EQ(wrong, 0);
}

TEST(vector_registers_over_sleeps)
{
	look_for_vectors();
	struct timespec t = {0, 1000};
	int wrong = 0;
	for (int i = 0; i < OFTEN; i++)
		wrong += vectors_wrong(i, SYS_nanosleep, (long)&t, 0, 0, 0);
	CHECK_EQ(wrong, 0);
	/* The registers at their first values, too. */
	for (int i = 0; i < OFTEN; i++) {
		unsigned long sum[2] = {1, 1};
		__asm__ volatile("pxor %%xmm6, %%xmm6\n xor %%edi, %%edi\n mov $3, %%eax\n syscall\n movdqu %%xmm6, %0"
				 : "=m"(sum)
				 :
				 : "rax", "rdi", "rcx", "r11", "xmm6", "memory");
		wrong += sum[0] != 0 || sum[1] != 0;
		if (i == 0)
			open("/dev/null", O_RDONLY);
	}
	CHECK_EQ(wrong, 0);
}

/* --- signals --- */

extern char __executable_start[], etext[];
static volatile int signals, strange_places;
static void on_signal(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)info;
	ucontext_t *u = context;
	unsigned long rip = u->uc_mcontext.gregs[REG_RIP];
	signals++;
	/* Within this program, or the vDSO; never behind the start of an instruction's replacement. */
	if (rip >= (unsigned long)etext && rip < 0x7f0000000000)
		strange_places++;
	if (rip > (unsigned long)plain_getpgrp_mov && rip < (unsigned long)plain_getpgrp_behind && rip != (unsigned long)plain_getpgrp_site)
		strange_places++;
	if (rip > (unsigned long)call4095_site && rip < (unsigned long)call4095_behind && rip != (unsigned long)call4095_cmp)
		strange_places++;
	if (rip > (unsigned long)moved_mov && rip < (unsigned long)moved_behind && rip != (unsigned long)moved_site)
		strange_places++;
	/* From the same places. */
	unsigned long flags = flags_after;
	call4095(SYS_getpgrp);
	plain_getpgrp(0x202);
	moved(SYS_getpgrp, 0L, 0L, 0L, 0x202L);
	flags_after = flags;
}

static void tick(int usec)
{
	struct itimerval t = {{0, usec}, {0, usec}};
	setitimer(ITIMER_REAL, &t, NULL);
}

TEST(interruptions)
{
	look_for_vectors();
	struct sigaction a = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART}, old;
	sigaction(SIGALRM, &a, &old);
	signals = strange_places = 0;
	long pid = getpid(), pgrp = getpgrp(), wrong = 0, n = 0;
	tick(300);
	while (signals < 300 && n < 10000000) {
		wrong += call4095(SYS_getpid) != pid;
		wrong += call4096(SYS_close, -1L) != -EBADF;
		wrong += plain_getpgrp(0x202 | (n & 1)) != pgrp || flags_after != (0x202 | (n & 1));
		wrong += moved(SYS_getpid, 0L, 0L, 0L, 0x202 | (n & 1)) != pid || flags_after != (0x202 | (n & 1));
		wrong += moved_half(SYS_close, -1L, 0L, 0L, 0x202 | (n & 1)) != -EBADF || flags_after != (0x202 | (n & 1));
		struct timespec t = {-1, -1};
		wrong += by_form(n & 1, SYS_clock_gettime, CLOCK_MONOTONIC, &t) != 0 || t.tv_nsec < 0;
		wrong += registers_wrong(SYS_clock_gettime, CLOCK_REALTIME, (long)&t, 3, 0x202, 0);
		wrong += registers_wrong(SYS_getpid, 1, 2, 3, 0x202, pid);
		if (n++ % 16 == 0)
			wrong += vectors_wrong(n, SYS_getpid, 0, 0, 0, pid);
	}
	tick(0);
	CHECK_EQ(wrong, 0);
	CHECK_EQ(strange_places, 0);
	CHECK(signals >= 300);
	sigaction(SIGALRM, &old, NULL);
	alarm(TAP_SECONDS);
}

static int restart_pipe[2];
static void on_restart(int sig)
{
	(void)sig;
	if (signals++ > 3 && restart_pipe[1] >= 0)
		write(restart_pipe[1], "x", 1);
}

static long read_somehow(int how, char *c)
{
	switch (how % 3) {
	case 0:
		return call4095(SYS_read, restart_pipe[0], c, 1L);
	case 1:
		return plain_read(restart_pipe[0], c, 1L);
	default:
		return moved(SYS_read, (long)restart_pipe[0], c, 1L, 0x202L);
	}
}

TEST(restarted_calls)
{
	struct sigaction a = {.sa_handler = on_restart, .sa_flags = SA_RESTART}, old;
	sigaction(SIGALRM, &a, &old);
	REQUIRE_OK(pipe(restart_pipe));
	signals = 0;
	char c;
	for (int i = 0; i < OFTEN; i++)
		plain_read(-1), call4095(SYS_read, -1L), moved(SYS_read, -1L, 0L, 0L, 0x202L);
	tick(1000);
	for (int i = 0; i < 40; i++)
		if (read_somehow(i, &c) != 1) {
			CHECK_NAMED(0, "a read is restarted");
			break;
		}
	tick(0);
	CHECK(signals >= 40);
	a.sa_flags = 0;
	sigaction(SIGALRM, &a, NULL);
	int spare = restart_pipe[1];
	restart_pipe[1] = -1;
	fcntl(restart_pipe[0], F_SETFL, O_NONBLOCK);
	while (read(restart_pipe[0], &c, 1) == 1)
		;
	fcntl(restart_pipe[0], F_SETFL, 0);
	tick(1000);
	for (int i = 0; i < 40; i++)
		if (read_somehow(i, &c) != -EINTR) {
			CHECK_NAMED(0, "a read is interrupted");
			break;
		}
	tick(0);
	close(restart_pipe[0]);
	close(spare);
	sigaction(SIGALRM, &old, NULL);
	alarm(TAP_SECONDS);
}

/* --- code in memory of our own --- */

/* At offset at of page p: a copy of call4095 that leaves the flags alone. */
static const unsigned char small_call[] = {
	0x48, 0x89, 0xf8,		    /* mov %rdi, %rax */
	0x48, 0x89, 0xf7,		    /* mov %rsi, %rdi */
	0x0f, 0x05,			    /* syscall */
	0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, /* cmp $-4095, %rax */
	0xc3,				    /* ret */
};
enum { SMALL_SITE = 6 };
typedef long (*small_fn)(long nr, ...);

static small_fn put_code(unsigned char *p, size_t at)
{
	memcpy(p + at, small_call, sizeof small_call);
	return (small_fn)(p + at);
}

static unsigned char *code_page(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void often(small_fn f)
{
	for (int i = 0; i < OFTEN; i++)
		f(SYS_getpgrp);
}

struct hammer {
	small_fn f;
	int *stop;
	long calls, wrong;
};
static void *hammer(void *arg)
{
	struct hammer *h = arg;
	long tid = gettid();
	do {
		h->wrong += h->f(SYS_gettid) != tid;
		h->calls++;
	} while (h->calls < 300 || !__atomic_load_n(h->stop, __ATOMIC_SEQ_CST));
	return NULL;
}

TEST(threads_at_one_place)
{
	long wrong = 0;
	for (int round = 0; round < 12; round++) {
		unsigned char *p = code_page();
		struct hammer h[3];
		pthread_t t[3];
		int stop = 1;
		put_code(p, 64), put_code(p, 4096 - 32);
		mprotect(p, 4096, PROT_READ | PROT_EXEC);
		for (int i = 0; i < 3; i++) {
			h[i] = (struct hammer){(small_fn)(p + (i == 2 ? 4096 - 32 : 64)), &stop, 0, 0};
			pthread_create(&t[i], NULL, hammer, &h[i]);
		}
		for (int i = 0; i < 3; i++) {
			pthread_join(t[i], NULL);
			wrong += h[i].wrong;
		}
		munmap(p, 4096);
	}
	CHECK_EQ(wrong, 0);
}

TEST(code_that_is_changed)
{
	unsigned char *p = code_page();
	small_fn f = put_code(p, 0), g = put_code(p, 128);
	mprotect(p, 4096, PROT_READ | PROT_EXEC);
	for (int round = 0; round < 3; round++) {
		often(f), often(g);
		CHECK_OK(mprotect(p, 4096, PROT_READ | PROT_WRITE));
		CHECK_MEM(p, small_call, sizeof small_call);
		CHECK_MEM(p + 128, small_call, sizeof small_call);
		/* mov $42+round, %eax; ret in its place */
		memcpy(p + SMALL_SITE, (unsigned char[]){0xb8, 42 + round, 0, 0, 0, 0xc3}, 6);
		mprotect(p, 4096, PROT_READ | PROT_EXEC);
		CHECK_EQ(f(SYS_getpgrp), 42 + round);
		CHECK_EQ(g(SYS_getpgrp), getpgrp());
		mprotect(p, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
		put_code(p, 0);
		CHECK_EQ(f(SYS_getpgrp), getpgrp());
		often(f);
		mprotect(p, 4096, PROT_READ | PROT_EXEC);
	}
	/* Other memory, and other code, at the same place. */
	often(f), often(g);
	p = mmap(p, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	memcpy(p, (unsigned char[]){0xb8, 7, 0, 0, 0, 0xc3}, 6);
	mprotect(p, 4096, PROT_READ | PROT_EXEC);
	CHECK_EQ(f(SYS_getpgrp), 7);
	CHECK_OK(munmap(p, 4096));
	CHECK_EQ(FAULT_CALL(p), SIGSEGV);
}

TEST(code_that_moves)
{
	unsigned char *p = code_page(), *q = code_page();
	small_fn f = put_code(p, 256);
	mprotect(p, 4096, PROT_READ | PROT_EXEC);
	often(f);
	REQUIRE(mremap(p, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, q) == q);
	f = (small_fn)(q + 256);
	CHECK_MEM(q + 256, small_call, sizeof small_call);
	CHECK_EQ(f(SYS_getpgrp), getpgrp());
	often(f);
	CHECK_EQ(f(SYS_getpgrp), getpgrp());
	CHECK_EQ(FAULT_CALL(p + 256), SIGSEGV);
	CHECK_OK(madvise(q, 4096, MADV_DONTNEED));
	CHECK_EQ(q[256], 0);
	munmap(q, 4096);
}

TEST(own_code_is_read_as_it_was)
{
	unsigned char before[64], after[64];
	size_t n = call4095_end - (char *)call4095;
	REQUIRE(n <= sizeof before);
	unsigned char *p = code_page();
	small_fn f = put_code(p, 0);
	mprotect(p, 4096, PROT_READ | PROT_EXEC);
	often(f);
	/* At a system call's hands. */
	int fd = open("/proc/self/mem", O_RDWR), pipe_[2];
	REQUIRE(fd >= 0);
	REQUIRE_OK(pipe(pipe_));
	CHECK_EQ(pread(fd, after, sizeof small_call, (off_t)(long)p), sizeof small_call);
	CHECK_MEM(after, small_call, sizeof small_call);
	CHECK_EQ(write(pipe_[1], p, sizeof small_call), sizeof small_call);
	CHECK_EQ(read(pipe_[0], after, sizeof after), sizeof small_call);
	CHECK_MEM(after, small_call, sizeof small_call);
	struct iovec to = {after, sizeof small_call}, from = {p, sizeof small_call};
	memset(after, 0, sizeof after);
	CHECK_EQ(process_vm_readv(getpid(), &to, 1, &from, 1, 0), sizeof small_call);
	CHECK_MEM(after, small_call, sizeof small_call);
	/* The program's own, before and after. */
	for (int i = 0; i < OFTEN; i++)
		call4095(SYS_getpgrp);
	CHECK_EQ(pread(fd, before, n, (off_t)(long)call4095), (ssize_t)n);
	CHECK_MEM(before + (call4095_site - (char *)call4095), "\x0f\x05\x48\x3d\x01\xf0\xff\xff", 8);
	/* A write by force: mov $99, %eax; ret. */
	CHECK_EQ(pwrite(fd, "\xb8\x63\0\0\0\xc3", 6, (off_t)(long)(p + SMALL_SITE)), 6);
	CHECK_EQ(f(SYS_getpgrp), 99);
	CHECK_EQ(pwrite(fd, small_call, sizeof small_call, (off_t)(long)p), sizeof small_call);
	often(f);
	CHECK_EQ(f(SYS_getpgrp), getpgrp());
	CHECK_EQ(pwrite(fd, "\xb8\x62\0\0\0\xc3", 6, (off_t)(long)(p + SMALL_SITE)), 6);
	CHECK_EQ(f(SYS_getpgrp), 98);
	close(fd);
	close(pipe_[0]), close(pipe_[1]);
	munmap(p, 4096);
}

/* jump_target returns where p jumps to, or 0 where it doesn't. */
static unsigned long jump_target(unsigned char *p)
{
	int distance;
	if (p[0] != 0xe9)
		return 0;
	memcpy(&distance, p + 1, 4);
	return (unsigned long)p + 5 + distance;
}

/* If a sandbox has put something somewhere, the program may have that place. */
TEST(nothing_is_in_the_way)
{
	unsigned char *p = code_page(), vec;
	small_fn f = put_code(p, 0x740);
	mprotect(p, 4096, PROT_READ | PROT_EXEC);
	often(f);
	unsigned long t = jump_target(p + 0x740 + SMALL_SITE) & -4096L;
	CHECK_EQ(f(SYS_getpgrp), getpgrp());
	if (t == 0)
		return; /* nobody has replaced the instruction, and nothing is anywhere */
	CHECK_ERRNO(mincore((void *)t, 4096, &vec), ENOMEM);
	CHECK_ERRNO(msync((void *)t, 4096, MS_ASYNC), ENOMEM);
	CHECK_ERRNO(mprotect((void *)t, 4096, PROT_READ), ENOMEM);
	CHECK_OK(munmap((void *)t, 4096));
	CHECK_EQ(f(SYS_getpgrp), getpgrp());
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long from, to;
	int found = 0;
	for (char line[512]; fgets(line, sizeof line, maps);)
		found += sscanf(line, "%lx-%lx", &from, &to) == 2 && from <= t && t < to;
	fclose(maps);
	CHECK_EQ(found, 0);
	for (int round = 0; round < 4; round++) {
		struct hammer h[2];
		pthread_t threads[2];
		int stop = 0;
		for (int i = 0; i < 2; i++) {
			h[i] = (struct hammer){f, &stop, 0, 0};
			pthread_create(&threads[i], NULL, hammer, &h[i]);
		}
		often(f);
		t = jump_target(p + 0x740 + SMALL_SITE) & -4096L;
		unsigned char *q = NULL;
		if (t != 0) {
			q = mmap((void *)t, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
			CHECK_EQ((unsigned long)q, t);
			CHECK(q[0] == 0 && memcmp(q, q + 1, 4095) == 0);
			memset(q, 0xcc, 4096);
			small_fn g = put_code(q, 512);
			CHECK_EQ(g(SYS_getpgrp), getpgrp());
			often(g);
			CHECK_EQ(g(SYS_getpgrp), getpgrp());
		}
		often(f);
		__atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
		for (int i = 0; i < 2; i++) {
			pthread_join(threads[i], NULL);
			CHECK_EQ(h[i].wrong, 0);
		}
		if (q)
			munmap(q, 4096);
		/* Other places of the sandbox's choosing are taken as well. */
	}
	munmap(p, 4096);
}

/* --- processes --- */

TEST(fork_and_exec)
{
	unsigned char *p = code_page();
	small_fn f = put_code(p, 0), g = put_code(p, 512);
	mprotect(p, 4096, PROT_READ | PROT_EXEC);
	often(f);
	for (int i = 0; i < 5; i++) {
		IN_CHILD
		{
			int wrong = f(SYS_getpid) != getpid();
			for (int j = 0; j < OFTEN; j++)
				wrong += f(SYS_getpid) != getpid() || g(SYS_getpid) != getpid() || call4096(SYS_getpid) != getpid();
			CHECK_EQ(wrong, 0);
			mprotect(p, 4096, PROT_READ | PROT_WRITE);
			memset(p, 0xc3, 4096);
		}
		often(i % 2 ? f : g);
		CHECK_EQ(f(SYS_getpid), getpid());
		CHECK_EQ(g(SYS_getpid), getpid());
	}
	pid_t pid = fork();
	if (pid == 0) {
		execl("/proc/self/exe", "rewrite", "--again", NULL);
		_exit(2);
	}
	CHECK_EQ(tap_reap(pid), 0);
	/* The call itself from such a place, where two return. */
	for (int i = 0; i < 30; i++) {
		pid = call4095(SYS_fork);
		if (pid == 0) {
			call4095(SYS_exit_group, call4095(SYS_getpgrp) == 0L);
		}
		if (tap_reap(pid) != 0)
			CHECK_NAMED(0, "a child of fork ends well");
	}
	munmap(p, 4096);
}

static int vm_child(void *arg)
{
	long *ids = arg;
	ids[0] = call4095(SYS_getpid);
	ids[1] = call4095(SYS_gettid);
	ids[2] = call4095(SYS_getppid);
	return 0;
}

TEST(who_one_is)
{
	long pid = getpid(), ids[3];
	for (int i = 0; i < OFTEN; i++) {
		call4095(SYS_getpid), call4095(SYS_gettid), call4095(SYS_getppid), call4095(SYS_getuid);
		call4095(SYS_geteuid), call4095(SYS_getgid), call4095(SYS_getegid), call4095(SYS_getpgrp);
	}
	static char stack[65536] __attribute__((aligned(16)));
	static const int flags[] = {CLONE_VM | SIGCHLD, CLONE_VM | CLONE_VFORK | SIGCHLD};
	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 20; j++) {
			memset(ids, 0, sizeof ids);
			pid_t child = clone(vm_child, stack + sizeof stack, flags[i], ids);
			tap_reap(child);
			if (ids[0] != child || ids[1] != child || ids[2] != pid || call4095(SYS_getpid) != pid || call4095(SYS_gettid) != pid) {
				CHECK_NAMED(0, "a child in the same memory is another process");
				break;
			}
		}
	CHECK_EQ(call4095(SYS_getpid), pid);
	IN_CHILD
	{
		CHECK_EQ(call4095(SYS_getpid), getpid());
		CHECK(getpid() != pid);
		CHECK_EQ(call4095(SYS_getppid), pid);
		setpgid(0, 0);
		CHECK_EQ(call4095(SYS_getpgrp), getpid());
		CHECK_OK(tap_become(1234, 1235));
		CHECK_EQ(call4095(SYS_getuid), 1234);
		CHECK_EQ(call4095(SYS_geteuid), 1234);
		CHECK_EQ(call4095(SYS_getgid), 1235);
		CHECK_EQ(call4095(SYS_getegid), 1235);
	}
	/* Whose parent ends. */
	struct tap_gate up = tap_gate_new();
	IN_CHILD
	{
		pid_t middle = getpid();
		if (fork() == 0) {
			for (int i = 0; i < OFTEN; i++)
				call4095(SYS_getppid);
			tap_gate_open(up);
			while (call4095(SYS_getppid) == middle)
				;
			tap_gate_open(up);
			_exit(0);
		}
		tap_gate_wait(up);
	}
	CHECK(tap_gate_wait(up));
	tap_gate_free(up);
}

static void *thread_ids(void *arg)
{
	long *wrong = arg;
	long tid = gettid(), pid = getpid();
	for (int i = 0; i < OFTEN; i++) {
		*wrong += call4095(SYS_gettid) != tid || call4095(SYS_getpid) != pid;
		if (i % 10 == 0)
			sched_yield();
	}
	return NULL;
}

TEST(threads_know_themselves)
{
	long wrong[6] = {0};
	pthread_t t[6];
	for (int i = 0; i < 6; i++)
		pthread_create(&t[i], NULL, thread_ids, &wrong[i]);
	for (int i = 0; i < 6; i++) {
		pthread_join(t[i], NULL);
		CHECK_EQ(wrong[i], 0);
	}
}

static int tap_role(int argc, char **argv, char **envp)
{
	(void)argc, (void)argv, (void)envp;
	int wrong = 0;
	for (int i = 0; i < OFTEN; i++)
		wrong += call4095(SYS_getpid) != getpid();
	return wrong != 0;
}

/* --- debuggers --- */

TEST(traced)
{
	for (int i = 0; i < OFTEN; i++)
		call4095(SYS_getpgrp);
	pid_t pid = tap_fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		int wrong = 0;
		for (int i = 0; i < OFTEN; i++)
			wrong += call4095(SYS_getpid) != getpid() || plain_read(-1) != -EBADF ||
				 stepped(SYS_close, -1L) != -EBADF;
		raise(SIGSTOP);
		for (int i = 0; i < 5; i++)
			wrong += call4095(SYS_getpid) != getpid() || plain_read(-1) != -EBADF ||
				 stepped(SYS_close, -1L) != -EBADF;
		_exit(wrong);
	}
	int status, at_site = 0, at_cmp = 0, at_behind = 0, inside = 0, elsewhere = 0, plain[3] = {0}, from[3] = {0};
	waitpid(pid, &status, 0);
	REQUIRE(WIFSTOPPED(status));
	errno = 0;
	CHECK_EQ(ptrace(PTRACE_PEEKTEXT, pid, call4095_site, 0), 0xfffff0013d48050f);
	unsigned long last = 0;
	for (int i = 0; i < 20000 && at_behind < 3; i++) {
		ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
		waitpid(pid, &status, 0);
		if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
			break;
		unsigned long rip = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, regs.rip), 0);
		if (rip == (unsigned long)plain_read_mov)
			plain[0]++;
		else if (rip == (unsigned long)plain_read_site)
			plain[1] += last == (unsigned long)plain_read_mov &&
				    ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, regs.rax), 0) == SYS_read;
		else if (rip == (unsigned long)plain_read_behind)
			plain[2] += last == (unsigned long)plain_read_site;
		else if (rip > (unsigned long)plain_read_mov && rip < (unsigned long)plain_read_behind)
			inside++;
		if (rip == (unsigned long)stepped_mov)
			from[0]++;
		else if (rip == (unsigned long)stepped_site)
			from[1] += last == (unsigned long)stepped_mov &&
				   ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, regs.rax), 0) == SYS_close;
		else if (rip == (unsigned long)stepped_behind)
			from[2] += last == (unsigned long)stepped_site;
		else if (rip > (unsigned long)stepped_mov && rip < (unsigned long)stepped_behind)
			inside++;
		if (rip == (unsigned long)call4095_site)
			at_site++;
		else if (rip == (unsigned long)call4095_cmp)
			at_cmp += last == (unsigned long)call4095_site;
		else if (rip == (unsigned long)call4095_behind)
			at_behind += last == (unsigned long)call4095_cmp;
		else if (rip > (unsigned long)call4095_site && rip < (unsigned long)call4095_behind)
			inside++;
		if (rip >= (unsigned long)etext && rip < 0x7f0000000000)
			elsewhere++;
		last = rip;
	}
	CHECK_EQ(at_site, 3);
	CHECK_EQ(at_cmp, 3);
	CHECK_EQ(at_behind, 3);
	CHECK(plain[0] >= 2 && plain[1] == plain[0] && plain[2] == plain[0]);
	CHECK(from[0] >= 2 && from[1] == from[0] && from[2] == from[0]);
	CHECK_EQ(inside, 0);
	CHECK_EQ(elsewhere, 0);
	/* A breakpoint there. */
	long text = ptrace(PTRACE_PEEKTEXT, pid, call4095_site, 0);
	CHECK_OK(ptrace(PTRACE_POKETEXT, pid, call4095_site, (text & ~0xffL) | 0xcc));
	ptrace(PTRACE_CONT, pid, 0, 0);
	waitpid(pid, &status, 0);
	CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
	CHECK_EQ(ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, regs.rip), 0), (long)call4095_site + 1);
	CHECK_OK(ptrace(PTRACE_POKETEXT, pid, call4095_site, text));
	CHECK_OK(ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, regs.rip), call4095_site));
	ptrace(PTRACE_CONT, pid, 0, 0);
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(calls_of_a_tracee)
{
	for (int i = 0; i < OFTEN; i++)
		call4095(SYS_getuid);
	pid_t pid = tap_fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		for (int i = 0; i < OFTEN; i++)
			call4095(SYS_getuid);
		_exit(call4095(SYS_getuid) != 4711);
	}
	int status, calls = 0, wrong = 0;
	waitpid(pid, &status, 0);
	for (int stops = 0; stops < 4000; stops++) {
		ptrace(PTRACE_SYSCALL, pid, 0, 0);
		waitpid(pid, &status, 0);
		if (!WIFSTOPPED(status))
			break;
		struct user_regs_struct r;
		ptrace(PTRACE_GETREGS, pid, 0, &r);
		if (r.rip != (unsigned long)call4095_cmp || r.orig_rax != SYS_getuid)
			continue;
		if (r.rax == (unsigned long)-ENOSYS)
			calls++;
		else if (calls == OFTEN + 1)
			ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, regs.rax), 4711);
		wrong += r.rcx != r.rip;
	}
	CHECK_EQ(calls, OFTEN + 1);
	CHECK_EQ(wrong, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* --- what else a system call depends on --- */

static volatile unsigned long call_address;
static void on_sigsys(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	call_address = (unsigned long)info->si_call_addr;
	signals++;
}

TEST(filters)
{
	for (int i = 0; i < OFTEN; i++)
		call4095(SYS_getpgrp), call4095(SYS_getuid);
	IN_CHILD
	{
		struct sock_filter code[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpgrp, 0, 1),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getuid, 0, 1),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP | 5),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		};
		struct sock_fprog prog = {sizeof code / sizeof *code, code};
		struct sigaction a = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};
		sigaction(SIGSYS, &a, NULL);
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		REQUIRE_OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog));
		int wrong = 0;
		signals = 0;
		for (int i = 0; i < OFTEN; i++) {
			wrong += call4095(SYS_getpgrp) != -77;
			call4095(SYS_getuid);
			wrong += signals != i + 1 || call_address != (unsigned long)call4095_cmp;
		}
		CHECK_EQ(wrong, 0);
	}
}

struct filtered {
	struct tap_gate ready;
	long filtered;
};
static void *until_filtered(void *arg)
{
	struct filtered *f = arg;
	for (int i = 0; i < OFTEN; i++)
		call4095(SYS_getuid);
	tap_gate_open(f->ready);
	while (call4095(SYS_getuid) != -77 || plain_getuid(0) != -77)
		;
	f->filtered = 1;
	return NULL;
}

/* Who is in a loop meanwhile sees a filter that comes. */
TEST(filter_for_all_threads)
{
	IN_CHILD
	{
		struct filtered f = {tap_gate_new(), 0};
		pthread_t t;
		for (int i = 0; i < OFTEN; i++)
			plain_getuid(0);
		pthread_create(&t, NULL, until_filtered, &f);
		tap_gate_wait(f.ready);
		struct sock_filter code[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getuid, 0, 1),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		};
		struct sock_fprog prog = {sizeof code / sizeof *code, code};
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		REQUIRE_OK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog));
		CHECK_EQ(call4095(SYS_getuid), -77);
		pthread_join(t, NULL);
		CHECK_EQ(f.filtered, 1);
	}
}

TEST(base_of_gs)
{
	static unsigned long words[8] = {41, 42, 43};
	unsigned long got = 1, base;
	CHECK_OK(syscall(SYS_arch_prctl, ARCH_GET_GS, &base));
	CHECK_EQ(base, 0);
	REQUIRE_OK(syscall(SYS_arch_prctl, ARCH_SET_GS, words));
	int wrong = 0;
	for (int i = 0; i < OFTEN; i++) {
		wrong += call4095(SYS_getpgrp) != getpgrp() || call4096(SYS_getpgrp) != getpgrp();
		wrong += moved(SYS_getpgrp, 0L, 0L, 0L, 0x202L) != getpgrp();
		__asm__ volatile("mov %%gs:8, %0" : "=r"(got));
		wrong += got != 42;
		wrong += registers_wrong(SYS_getpid, 1, 2, 3, 0x202, getpid());
	}
	CHECK_EQ(wrong, 0);
	CHECK_OK(syscall(SYS_arch_prctl, ARCH_GET_GS, &base));
	CHECK_EQ(base, (unsigned long)words);
	IN_CHILD
	{
		__asm__ volatile("mov %%gs:16, %0" : "=r"(got));
		CHECK_EQ(got, 43);
	}
	CHECK_OK(syscall(SYS_arch_prctl, ARCH_SET_GS, 0));
	for (int i = 0; i < OFTEN; i++)
		wrong += call4095(SYS_getpgrp) != getpgrp();
	/* A null selector takes the base with it. */
	__asm__ volatile("mov %0, %%gs" : : "r"(0));
	for (int i = 0; i < OFTEN; i++)
		wrong += call4095(SYS_getpgrp) != getpgrp();
	CHECK_EQ(wrong, 0);
	CHECK_OK(syscall(SYS_arch_prctl, ARCH_GET_GS, &base));
	CHECK_EQ(base, 0);
}

/* A trap flag that the program sets itself. */
static volatile unsigned long step_rips[16];
static volatile int steps;
static void on_trap(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)info;
	ucontext_t *u = context;
	if (steps < 16)
		step_rips[steps] = u->uc_mcontext.gregs[REG_RIP];
	steps++;
}
long step_call(long nr);
extern char step_first[], step_site[], step_behind[], step_end[];
__asm__(".text\n.p2align 6\nstep_call: mov %rdi, %rax\n test %rsi, %rsi\n jz step_site\n"
	"pushfq\n orl $0x100, (%rsp)\n popfq\n step_first: nop\n"
	"step_site: syscall\n cmp $-4095, %rax\n step_behind: nop\n step_end:\n"
	"pushfq\n andl $~0x100, (%rsp)\n popfq\n ret\n");

TEST(trap_flag)
{
	struct sigaction a = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO}, old;
	sigaction(SIGTRAP, &a, &old);
	long (*call)(long, long) = (void *)step_call;
	for (int i = 0; i < OFTEN; i++)
		call(SYS_getpgrp, 0);
	steps = 0;
	CHECK_EQ(call(SYS_getpgrp, 1), getpgrp());
	/* Whether there is a trap between the two instructions is the kernel's choice. */
	int i = 0;
	CHECK_EQ(step_rips[i], (unsigned long)step_site);
	i++;
	if (step_rips[i] == (unsigned long)step_site + 2)
		i++;
	CHECK_EQ(step_rips[i], (unsigned long)step_behind);
	CHECK_EQ(step_rips[i + 1], (unsigned long)step_end);
	CHECK(steps < 10);
	sigaction(SIGTRAP, &old, NULL);
}
