/* CPUID answers the same wherever the instruction is, and leaves alone what it doesn't give. A sandbox may answer
 * those in a program's own code otherwise than by executing them. */
#include "tap.h"
#include <link.h>
#include <ucontext.h>

struct regs {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, r8, r15, flags;
};
typedef void form(struct regs *);

/* A form is a function that loads registers, executes CPUID with other instructions around it, and stores the registers. */
#define FORM(name, after) \
	form name; \
	extern const char name##_end[]; \
	__asm__(".text\n.p2align 6\n" #name ":\n push %rbx\n push %rbp\n push %r15\n mov %rdi, %rbp\n" \
		"mov 8(%rbp), %rbx\n mov 24(%rbp), %rdx\n mov 32(%rbp), %rsi\n mov 40(%rbp), %rdi\n" \
		"mov 48(%rbp), %r8\n mov 56(%rbp), %r15\n pushq 64(%rbp)\n popfq\n" \
		"mov 0(%rbp), %rax\n mov 16(%rbp), %rcx\n cpuid\n" after \
		"mov %rax, 0(%rbp)\n mov %rbx, 8(%rbp)\n mov %rcx, 16(%rbp)\n mov %rdx, 24(%rbp)\n" \
		"mov %rsi, 32(%rbp)\n mov %rdi, 40(%rbp)\n mov %r8, 48(%rbp)\n mov %r15, 56(%rbp)\n" \
		"pushfq\n popq 64(%rbp)\n pop %r15\n pop %rbp\n pop %rbx\n ret\n" #name "_end:\n")

FORM(nothing, "");
FORM(moves, "mov %eax, %esi\n mov %ebx, %edi\n");
FORM(wide, "lea 0x100(%r8), %r8\n");
FORM(constant, "movl $0x12345678, %r8d\n");
FORM(arithmetic, "mov %eax, %esi\n and $0x1f, %esi\n");
FORM(another, "cpuid\n nop\n nop\n nop\n");
FORM(jump, "jmp 1f\n ud2\n 1:\n");
FORM(entered, "mov %eax, %esi\n jmp 2f\n 1: mov %ebx, %edi\n jmp 3f\n 2: jmp 1b\n 3:\n");
/* The same as moves, by way of a cell that is relative to the instruction. */
static volatile uint64_t cell __asm__("cpuid_cell");
FORM(relative, "mov %rax, cpuid_cell(%rip)\n mov cpuid_cell(%rip), %rsi\n mov %ebx, %edi\n");

/* file_offset says where the bytes of a function are in the program's file. */
static int on_object(struct dl_phdr_info *o, size_t size, void *arg)
{
	(void)size;
	uint64_t *at = arg;
	for (int i = 0; i < o->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &o->dlpi_phdr[i];
		uint64_t start = o->dlpi_addr + p->p_vaddr;
		if (p->p_type == PT_LOAD && *at >= start && *at < start + p->p_filesz) {
			*at = *at - start + p->p_offset;
			return 1;
		}
	}
	return 0;
}

/* in_other_memory returns a form with the bytes that the file has, in memory that nobody has looked at. */
static form *in_other_memory(form *f, const char *end)
{
	static char *room;
	if (!room)
		room = mmap(NULL, 65536, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t at = (uintptr_t)f;
	if (room == MAP_FAILED || dl_iterate_phdr(on_object, &at) != 1)
		return NULL;
	int fd = open("/proc/self/exe", O_RDONLY);
	ssize_t length = end - (const char *)f;
	if (pread(fd, room, length, at) != length)
		return NULL;
	close(fd);
	form *copy = (form *)room;
	room += 256;
	return copy;
}

static const uint32_t leaves[] = {
	0, 1, 2, 3, 4, 5, 6, 7, 9, 0xa, 0xb, 0xd, 0xf, 0x10, 0x12, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1f, 0x20,
	0x40000000, 0x40000001, 0x7fffffff, 0x80000000, 0x80000001, 0x80000002, 0x80000003, 0x80000004, 0x80000005,
	0x80000006, 0x80000007, 0x80000008, 0x80000009, 0x8000001d, 0xffffffff,
};
static const uint32_t indices[] = {0, 1, 2, 3, 4, 5, 8, 9, 10, 15, 16, 0x10000000, 0x7fffffff, 0xffffffff};
/* CF, PF, AF, ZF, SF and OF, each alone and all. */
static const uint64_t flagsets[] = {0x202, 0x203, 0x206, 0x212, 0x242, 0x282, 0xa02, 0xad7};

/* Some answers say on which CPU they were given. A sandbox may move all the same. */
static void stay_on_a_cpu(void)
{
	cpu_set_t all, one;
	sched_getaffinity(0, sizeof all, &all);
	CPU_ZERO(&one);
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &all)) {
			CPU_SET(i, &one);
			break;
		}
	sched_setaffinity(0, sizeof one, &one);
}

static int differences(form *f, form *reference)
{
	int n = 0, compared = 0;
	for (size_t i = 0; i < sizeof leaves / sizeof *leaves; i++)
		for (size_t j = 0; j < sizeof indices / sizeof *indices; j++, compared++) {
			struct regs a = {0xdead00000000 | leaves[i], 0x1111222233334444, 0xbeef00000000 | indices[j],
					 0x5555666677778888, 0x9999aaaabbbbcccc, 0xddddeeeeffff0000, 0x123456789abcdef0,
					 0x0fedcba987654321, flagsets[compared % (sizeof flagsets / sizeof *flagsets)]};
			/* The same, but for what the CPU says of itself, should it change in between. */
			int same = 0;
			for (int tries = 0; tries < 100 && !same; tries++) {
				struct regs b = a, c = a;
				f(&b);
				reference(&c);
				same = memcmp(&b, &c, sizeof b) == 0;
			}
			n += !same;
		}
	return n;
}

#define CHECK_FORM(f) \
	do { \
		form *copy = in_other_memory(f, f##_end); \
		if (CHECK(copy != NULL)) \
			CHECK_EQ(differences(f, copy), 0); \
	} while (0)

TEST(same_as_in_other_memory)
{
	stay_on_a_cpu();
	CHECK_FORM(nothing);
	CHECK_FORM(moves);
	CHECK_FORM(wide);
	CHECK_FORM(constant);
	CHECK_FORM(arithmetic);
	CHECK_FORM(another);
	CHECK_FORM(jump);
	CHECK_FORM(entered);
}

TEST(relative_addresses_behind_it)
{
	struct regs a = {4, 0, 1, 0, 0, 0, 0, 0, 0x202}, b = a;
	relative(&a);
	moves(&b);
	CHECK_EQ(memcmp(&a, &b, sizeof a), 0);
	CHECK_EQ(cell, a.rax);
}

static volatile int steps;
static void on_trap(int sig, siginfo_t *si, void *context)
{
	(void)sig, (void)si, (void)context;
	steps++;
}

TEST(single_steps)
{
	struct sigaction a = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO}, old;
	sigaction(SIGTRAP, &a, &old);
	struct regs stepped = {4, 0, 1, 0, 0, 0, 0, 0, 0x302}, whole = {4, 0, 1, 0, 0, 0, 0, 0, 0x202};
	moves(&stepped);
	__asm__ volatile("sub $128, %%rsp\n pushfq\n andl $~0x100, (%%rsp)\n popfq\n add $128, %%rsp" ::: "memory", "cc");
	sigaction(SIGTRAP, &old, NULL);
	moves(&whole);
	CHECK_EQ(stepped.flags & 0x100, 0x100);
	stepped.flags &= ~0x100ul;
	CHECK_EQ(memcmp(&stepped, &whole, sizeof whole), 0);
	CHECK(steps > 15);
}

TEST(fork_and_protection)
{
	struct regs before = {2, 0, 0, 0, 0, 0, 0, 0, 0x202}, after = before;
	moves(&before);
	/* Code that is made writable and back is still the same code. */
	char *page = (char *)((uintptr_t)moves & ~4095ul);
	CHECK_EQ(mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
	page[0] = *(volatile char *)page;
	CHECK_EQ(mprotect(page, 8192, PROT_READ | PROT_EXEC), 0);
	int status;
	CHILD_STATUS(status)
	{
		moves(&after);
		_exit(memcmp(&before, &after, sizeof before) != 0);
	}
	CHECK_EQ(status, 0);
	moves(&after);
	CHECK_EQ(memcmp(&before, &after, sizeof before), 0);
}
