/* mprotect(2), and what SIGSEGV tells (sigaction(2)). */
#include "tap.h"
#include <ucontext.h>
#define PAGE 4096UL
#define RW (PROT_READ | PROT_WRITE)

static char *map(size_t pages, int prot)
{
	return mmap(NULL, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

TEST(read_only)
{
	char *m = map(1, RW);
	m[0] = 9;
	CHECK_OK(mprotect(m, PAGE, PROT_READ));
	CHECK_EQ(FAULT_LOAD(m), 0);
	CHECK_EQ(FAULT_STORE(m + 123), SIGSEGV);
	CHECK_EQ(tap_fault_info.si_code, SEGV_ACCERR);
	CHECK(tap_fault_info.si_addr == m + 123);
	CHECK_OK(mprotect(m, PAGE, RW));
	CHECK_EQ(FAULT_STORE(m + 123), 0);
	CHECK_EQ(m[0], 9);
	CHECK_OK(mprotect(m, PAGE, PROT_NONE));
	CHECK_EQ(FAULT_LOAD(m), SIGSEGV);
	CHECK_EQ(tap_fault_info.si_code, SEGV_ACCERR);
	CHECK_OK(mprotect(m, PAGE, PROT_READ));
	CHECK_EQ(m[0], 9);
	munmap(m, PAGE);
}

TEST(execution)
{
	char *m = map(1, RW);
	m[0] = (char)0xc3; /* ret */
	CHECK_EQ(FAULT_CALL(m), SIGSEGV);
	CHECK_EQ(tap_fault_info.si_code, SEGV_ACCERR);
	CHECK(tap_fault_info.si_addr == m);
	CHECK_OK(mprotect(m, PAGE, PROT_READ | PROT_EXEC));
	CHECK_EQ(FAULT_CALL(m), 0);
	CHECK_EQ(FAULT_STORE(m), SIGSEGV);
	CHECK_OK(mprotect(m, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC));
	m[0] = (char)0x90, m[1] = (char)0xc3;
	CHECK_EQ(FAULT_CALL(m), 0);
	CHECK_OK(mprotect(m, PAGE, PROT_WRITE)); /* write implies read on this processor */
	CHECK_EQ(FAULT_LOAD(m), 0);
	CHECK_OK(mprotect(m, PAGE, PROT_EXEC));
	CHECK_EQ(FAULT_CALL(m), 0);
	munmap(m, PAGE);
}

TEST(part_of_a_mapping)
{
	char *m = map(5, RW);
	memset(m, 7, 5 * PAGE);
	CHECK_OK(mprotect(m + PAGE, 3 * PAGE, PROT_READ));
	CHECK_OK(mprotect(m + 2 * PAGE, 1, PROT_NONE)); /* rounded up */
	CHECK_EQ(FAULT_STORE(m), 0);
	CHECK_EQ(FAULT_STORE(m + PAGE), SIGSEGV);
	CHECK_EQ(FAULT_LOAD(m + 2 * PAGE), SIGSEGV);
	CHECK_EQ(FAULT_LOAD(m + 3 * PAGE), 0);
	CHECK_EQ(FAULT_STORE(m + 4 * PAGE), 0);
	CHECK_OK(mprotect(m, 5 * PAGE, RW));
	CHECK_EQ(m[3 * PAGE], 7);
	CHECK_ERRNO(mprotect(m + 1, PAGE, RW), EINVAL);
	CHECK_OK(mprotect(m, 0, RW));
	CHECK_ERRNO(mprotect(m, PAGE, 0x100), EINVAL);
	/* With a hole, the pages before it have changed when ENOMEM comes back. */
	munmap(m + 2 * PAGE, PAGE);
	CHECK_ERRNO(mprotect(m, 5 * PAGE, PROT_READ), ENOMEM);
	CHECK_EQ(FAULT_STORE(m), SIGSEGV);
	CHECK_EQ(FAULT_STORE(m + 4 * PAGE), 0);
	munmap(m, 5 * PAGE);
}

TEST(file_permissions)
{
	tap_write_file("f", "abc");
	int fd = open("f", O_RDONLY);
	char *s = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	char *p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	CHECK_ERRNO(mprotect(s, PAGE, RW), EACCES); /* the descriptor was read-only */
	CHECK_OK(mprotect(p, PAGE, RW));
	CHECK_EQ(FAULT_STORE(p), 0);
	munmap(s, PAGE), munmap(p, PAGE);
	close(fd);
}

TEST(system_calls_obey)
{
	char *m = map(2, RW);
	int fd = open("/dev/zero", O_RDONLY), p[2];
	pipe(p);
	mprotect(m, PAGE, PROT_READ);
	CHECK_ERRNO(read(fd, m, 10), EFAULT);
	CHECK_EQ(write(p[1], m, 10), 10);
	mprotect(m, PAGE, PROT_NONE);
	CHECK_ERRNO(write(p[1], m, 10), EFAULT);
	close(fd), close(p[0]), close(p[1]);
	munmap(m, 2 * PAGE);
}

static char *guarded;
static volatile int repaired;
static volatile unsigned long error_code, trap, cr2;
static void repair(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;
	(void)sig;
	error_code = u->uc_mcontext.gregs[REG_ERR];
	trap = u->uc_mcontext.gregs[REG_TRAPNO];
	cr2 = u->uc_mcontext.gregs[REG_CR2];
	if (info->si_addr >= (void *)guarded && info->si_addr < (void *)(guarded + PAGE))
		repaired++;
	mprotect(guarded, PAGE, RW);
}

TEST(repair_and_retry)
{
	/* What a garbage collector does: the handler opens the page and the instruction runs again. */
	struct sigaction action = {.sa_sigaction = repair, .sa_flags = SA_SIGINFO};
	guarded = map(1, PROT_READ);
	sigaction(SIGSEGV, &action, NULL);
	for (int i = 0; i < 20; i++) {
		mprotect(guarded, PAGE, PROT_READ);
		*(volatile int *)(guarded + 8) += 1;
	}
	CHECK_EQ(*(int *)(guarded + 8), 20);
	CHECK_EQ(repaired, 20);
	CHECK_EQ(trap, 14); /* page fault */
	CHECK_EQ(error_code & 6, 6); /* a write, from user mode */
	CHECK_EQ(cr2, (unsigned long)guarded + 8);
	mprotect(guarded, PAGE, PROT_NONE);
	CHECK_EQ(*(volatile int *)(guarded + 8), 20);
	CHECK_EQ(error_code & 6, 4);
	munmap(guarded, PAGE);
}

TEST(noncanonical)
{
	/* Such an address is a general protection fault, which has no address to tell. */
	CHECK_EQ(FAULT_LOAD((char *)0x8000000000000000), SIGSEGV);
	CHECK_EQ(tap_fault_info.si_code, SI_KERNEL);
	CHECK(tap_fault_info.si_addr == NULL);
	CHECK_EQ(FAULT_LOAD((char *)0xffffffff80000000), SIGSEGV); /* the kernel's half */
	CHECK_EQ(tap_fault_info.si_code, SEGV_MAPERR);
	CHECK_EQ(FAULT_LOAD(NULL), SIGSEGV);
	CHECK_EQ(tap_fault_info.si_code, SEGV_MAPERR);
	CHECK(tap_fault_info.si_addr == NULL);
	CHECK_EQ(FAULT_CALL((char *)0x10), SIGSEGV);
	CHECK(tap_fault_info.si_addr == (void *)0x10);
}
