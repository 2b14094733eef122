/* fuzz.c: an application that does whatever it can to its kernel.
 *
 *   fuzz SEED SECONDS [MODE...]
 *
 * Workers are forked one after the other (two at a time), each with a seed of its own, and do what their mode says
 * with random arguments until they die or their time is over:
 *
 *   calls      threads make random system calls with random and half-valid arguments
 *   code       random bytes are executed with random registers
 *   frames     signal handlers return with damaged frames
 *   memory     mappings, protections and moves of memory under the threads that use it, its own text too
 *   signals    timers and threads signal each other at any time, into system calls and faults
 *
 * The program succeeds if it is still there at the end: what must not happen, happens to the kernel below it.
 *
 * Never run it on a kernel that matters: it is root there. It refuses unless the host's name is "hostile".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/ucontext.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* xorshift64*: one state per thread. */
static __thread uint64_t state;

static uint64_t rnd(void) {
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 2685821657736338717ull;
}

static uint64_t below(uint64_t n) { return rnd() % n; }

enum { AREAS = 6, AREA = 16 * 4096 };
static char *areas[AREAS];
static int fds[64];
static int nfds;
static pid_t self;
static int quiet;

static const char *const names[] = {
	"/", ".", "..", "", "/tmp", "/tmp/a", "/tmp/b", "/tmp/d", "/tmp/d/e", "/tmp/l", "/dev/null", "/dev/zero", "/dev/full",
	"/dev/ptmx", "/dev/tty", "/dev/pts/0", "/proc", "/proc/self", "/proc/self/mem", "/proc/self/maps", "/proc/self/fd",
	"/proc/self/exe", "/proc/self/fd/0", "/proc/self/status", "/proc/mounts", "/proc/self/oom_score_adj", "/proc/self/task",
	"/sys", "/dev", "/dev/shm", "/dev/shm/x", "/bin/sh", "/bin/true", "/bin/true/x", "/etc/passwd", "/nonesuch", "//tmp//./d/../a",
	"a", "d/e", "tmpfs", "proc", "overlay", "user.x", "security.capability", "trusted.x", "system.posix_acl_access", "/tmp/f", "/tmp/s",
};

static void *pointer(void) {
	char *a = areas[below(AREAS)];
	switch (below(12)) {
	case 0: return NULL;
	case 1: return (void *)rnd();
	case 2: return (void *)(0x7fffffffffffull - below(8192));
	case 3: return (void *)(0xffff800000000000ull + below(1 << 20));
	case 4: return a + AREA - below(16);
	case 5: return a + below(AREA);
	case 6: return (void *)names[below(sizeof names / sizeof *names)];
	case 7: return (void *)&names[below(sizeof names / sizeof *names)];
	case 8: return (void *)((uintptr_t)&pointer & ~4095ull);
	default: return a + below(AREA / 64) * 64;
	}
}

static uint64_t value(void) {
	static const uint64_t edges[] = {
		0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 65, 127, 128, 255, 256, 511, 512, 1023, 1024, 4095, 4096, 4097, 65535, 65536,
		0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x7fffffffffffffff, 0x8000000000000000, -1, -2, -100, -4096, -4095, 1ull << 47, (1ull << 47) - 4096,
		1 << 20, 1 << 24, 1 << 30, 0x541b, 0x5401, 0x5413, 0x540e, 0x80000 };
	switch (below(10)) {
	case 0: return rnd();
	case 1: return rnd() >> below(64);
	case 2: return 1ull << below(64);
	case 3: return (1ull << below(32)) | (1ull << below(32));
	case 4: return below(16);
	case 5: return fds[below(nfds)];
	case 6: return (uint64_t)pointer();
	case 7: return edges[below(sizeof edges / sizeof *edges)];
	case 8: return below(4096);
	default: return fds[below(nfds)];
	}
}

static void scribble(void) {
	char *a = areas[below(AREAS - 1)];
	uint64_t *p = (uint64_t *)(a + below(AREA / 8 - 64) * 8);
	for (unsigned n = below(64), i = 0; i < n; i++) {
		uint64_t v = value();
		if (below(3) == 0) { ((uint32_t *)p)[i] = v; } else { p[i] = v; }
	}
	if (below(4) == 0) { strcpy((char *)p, names[below(sizeof names / sizeof *names)]); }
}

/* harmless says whether the call may be made: nothing that ends or stops the fuzzer itself. */
static int harmless(long nr, uint64_t *a) {
	switch (nr) {
	case SYS_exit: case SYS_exit_group: return below(2000) == 0;
	case SYS_pause: case SYS_rt_sigreturn: return 0;
	case SYS_vfork: return 0; /* the child would return on the parent's stack */
	case SYS_fork: return below(20) == 0;
	case SYS_clone: /* never a child on the parent's stack in the same memory */
		a[0] &= ~(uint64_t)(CLONE_VM | CLONE_VFORK | CLONE_THREAD | CLONE_SIGHAND | CLONE_PARENT);
		return below(20) == 0;
	case 435: return below(2); /* clone3 */
	case SYS_kill: case SYS_tkill: case SYS_rt_sigqueueinfo: case SYS_setpgid: case SYS_process_vm_readv: case SYS_process_vm_writev:
	case SYS_ptrace: case SYS_prlimit64: case 434: case SYS_sched_setaffinity: case SYS_sched_setscheduler: case SYS_sched_setparam: case SYS_kcmp: {
		int which = nr == SYS_ptrace ? 1 : 0;
		if (below(4)) { a[which] = below(2) ? (uint64_t)self : (uint64_t)syscall(SYS_gettid); }
		if ((int)a[which] == 1 || (int)a[which] < 0 || a[which] == (uint64_t)getppid()) { return 0; }
		if (nr == SYS_kill && (int)a[0] == 0) { a[1] = 0; }
		return 1;
	}
	case SYS_tgkill: case SYS_rt_tgsigqueueinfo:
		a[0] = self;
		return 1;
	case SYS_setpriority: return (int)a[0] == 0 && (int)a[1] == 0;
	case SYS_setrlimit: return (int)a[0] != RLIMIT_CPU;
	case SYS_execve: case SYS_execveat: return below(50) == 0;
	case SYS_alarm: case SYS_setitimer: return 1;
	}
	return 1;
}

static long call(long nr, uint64_t *a) {
	register uint64_t r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
	long ret;
	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return ret;
}

static void random_call(void) {
	uint64_t a[6];
	long nr = below(8) ? below(336) : below(600);
	for (int i = 0; i < 6; i++) { a[i] = below(3) ? value() : (uint64_t)pointer(); }
	/* Most calls begin with a descriptor or a name. */
	switch (below(4)) {
	case 0: a[0] = fds[below(nfds)]; break;
	case 1: a[0] = (uint64_t)names[below(sizeof names / sizeof *names)]; break;
	}
	if (below(4) == 0) { a[1] = (uint64_t)names[below(sizeof names / sizeof *names)]; }
	if (!harmless(nr, a)) { return; }
	if (nr == SYS_mmap || nr == SYS_mremap || nr == SYS_munmap || nr == SYS_mprotect || nr == SYS_madvise || nr == SYS_shmat) {
		/* Aim at the areas most of the time: otherwise the text is soon gone. */
		if (below(8)) { a[0] = (uint64_t)areas[below(AREAS)] + below(16) * 4096; a[1] = below(16) * 4096; }
		if (nr == SYS_mremap && below(8)) { a[4] = (uint64_t)areas[below(AREAS)]; }
	}
	if (nr == SYS_brk && below(8)) { a[0] = 0; }
	if (quiet == 2) { dprintf(2, "%d %ld(%lx, %lx, %lx, %lx, %lx, %lx)\n", (int)syscall(SYS_gettid), nr, a[0], a[1], a[2], a[3], a[4], a[5]); }
	long ret = call(nr, a);
	if (nr == SYS_fork || nr == SYS_clone || nr == 435) {
		if (ret == 0) {
			for (int i = below(50); i > 0; i--) { uint64_t b[6] = {value(), value(), value(), value(), value(), value()}; long n = below(336);
				if (n != SYS_fork && n != SYS_clone && harmless(n, b)) { call(n, b); } }
			_exit(0);
		}
	}
	if (ret >= 3 && ret < 4096 && below(4) == 0 && fcntl(ret, F_GETFD) >= 0) { fds[below(64) < 32 ? below(nfds) : below(nfds)] = ret; }
	if (ret >= 64 && ret < 100000 && below(4)) { close(ret); }
}

static void add(int fd) {
	if (fd >= 0 && nfds < 64) { fds[nfds++] = fd; }
}

static void furnish(void) {
	int p[2];
	struct sockaddr_un { short f; char p[108]; } un = {AF_UNIX, "/tmp/s"};
	for (int i = 0; i < AREAS; i++) {
		areas[i] = mmap(NULL, AREA, PROT_READ | PROT_WRITE | (i == 2 ? PROT_EXEC : 0), (i & 1 ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);
		if (areas[i] == MAP_FAILED) { _exit(0); }
		for (int j = 0; j < AREA / 8; j += 16) { ((uint64_t *)areas[i])[j] = rnd() >> below(64); }
	}
	munmap(areas[3] + AREA / 2, 4096);
	mprotect(areas[4], 4096, PROT_READ);
	mprotect(areas[4] + 8192, 4096, PROT_NONE);
	mkdir("/tmp/d", 0777);
	symlink("/tmp/l", "/tmp/l");
	mkfifo("/tmp/f", 0666);
	add(open("/tmp/a", O_RDWR | O_CREAT, 0666));
	add(open("/tmp/b", O_RDWR | O_CREAT | O_APPEND, 0666));
	add(open("/tmp", O_RDONLY | O_DIRECTORY));
	add(open("/", O_RDONLY | O_DIRECTORY));
	add(open("/tmp/d", O_PATH));
	add(open("/dev/null", O_RDWR));
	add(open("/dev/zero", O_RDWR));
	add(open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK));
	add(open("/tmp/f", O_RDWR | O_NONBLOCK));
	add(open("/proc/self/mem", O_RDWR));
	add(open("/proc/self/maps", O_RDONLY));
	add(open("/proc/self", O_RDONLY | O_DIRECTORY));
	add(open("/bin/sh", O_RDONLY));
	if (pipe2(p, O_NONBLOCK) == 0) { add(p[0]); add(p[1]); }
	if (pipe(p) == 0) { add(p[0]); add(p[1]); }
	for (int t = SOCK_STREAM; t <= SOCK_SEQPACKET; t++) { if (socketpair(AF_UNIX, t | SOCK_NONBLOCK, 0, p) == 0) { add(p[0]); add(p[1]); } }
	for (int t = SOCK_STREAM; t <= SOCK_DGRAM; t++) { add(socket(AF_UNIX, t | SOCK_NONBLOCK, 0)); add(socket(AF_INET, t | SOCK_NONBLOCK, 0)); add(socket(AF_INET6, t | SOCK_NONBLOCK, 0)); }
	add(socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, 0));
	int l = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	unlink("/tmp/s");
	bind(l, (void *)&un, sizeof un);
	listen(l, 5);
	add(l);
	add(eventfd(0, EFD_NONBLOCK));
	add(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
	add(inotify_init1(IN_NONBLOCK));
	sigset_t set;
	sigfillset(&set);
	add(syscall(SYS_signalfd4, -1, &set, 8, O_NONBLOCK));
	add(memfd_create("m", MFD_ALLOW_SEALING));
	int e = epoll_create1(0);
	add(e);
	add(epoll_create1(0));
	for (int i = 0; i < nfds; i++) {
		struct epoll_event ev = {.events = rnd(), .data.fd = i};
		epoll_ctl(e, EPOLL_CTL_ADD, fds[i], &ev);
	}
	if (nfds == 0) { fds[nfds++] = 0; }
}

/* After a fault or a signal the thread goes on where it last said. */
static __thread sigjmp_buf landing;
static __thread volatile int landed;

static void on_signal(int sig) {
	(void)sig;
	if (landed) { siglongjmp(landing, 1); }
}

static void handle(void (*f)(int), int flags) {
	struct sigaction sa = {.sa_handler = f, .sa_flags = flags};
	sigfillset(&sa.sa_mask);
	static const int all[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS, SIGALRM, SIGUSR1, SIGUSR2, SIGPIPE, SIGVTALRM, SIGPROF, SIGIO, SIGXFSZ, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++) { sigaction(all[i], &sa, NULL); }
}

static void altstack(void) {
	stack_t ss = {.ss_sp = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), .ss_size = 65536};
	sigaltstack(&ss, NULL);
}

static void *caller(void *seed) {
	state = (uint64_t)seed | 1;
	altstack();
	for (;;) {
		if (sigsetjmp(landing, 1) == 0) {
			landed = 1;
			for (;;) {
				if (below(4) == 0) { scribble(); }
				random_call();
			}
		}
		if (below(8) == 0) { handle(on_signal, SA_ONSTACK); }
	}
	return NULL;
}

static void *jumper(void *seed) {
	state = (uint64_t)seed | 1;
	altstack();
	uint8_t *code = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t regs[16];
	for (;;) {
		mprotect(code, 8192, PROT_READ | PROT_WRITE | PROT_EXEC);
		uint8_t *p = code + below(4096 + 64);
		for (int i = 0; i < 64; i++) { p[i] = rnd(); }
		/* No random system calls from here: they are the other mode's, with its exceptions. Everything that begins
		 * with 0f 05, 0f 34 and cd 80 is defused, unless the number is a harmless one. */
		for (int i = 0; i < 63; i++) { if (p[i] == 0x0f && (p[i + 1] == 0x05 || p[i + 1] == 0x34)) { p[i] = 0x90; } if (p[i] == 0xcd) { p[i] = 0xcc; } }
		static const struct { uint8_t n, b[12]; } special[] = {
			{2, {0x0f, 0x0b}}, {1, {0xf4}}, {1, {0xcc}}, {1, {0xf1}}, {2, {0xcd, 0x03}}, {2, {0xcd, 0x04}}, {2, {0xcd, 0xff}}, {2, {0x0f, 0x34}}, {2, {0x0f, 0x01}},
			{3, {0x0f, 0x01, 0xd0}}, {3, {0x0f, 0x01, 0xf9}}, {2, {0x0f, 0xa2}}, {2, {0x0f, 0x31}}, {2, {0x0f, 0x33}}, {1, {0x9d}}, {1, {0xcf}}, {2, {0x48, 0xcf}}, {1, {0xcb}},
			{2, {0x0f, 0x07}}, {3, {0x48, 0x0f, 0x07}}, {3, {0x0f, 0x22, 0xc0}}, {2, {0x0f, 0x30}}, {2, {0x0f, 0x32}}, {1, {0xfa}}, {1, {0xfb}}, {2, {0x8e, 0xd8}}, {2, {0x8e, 0xe0}}, {2, {0x8e, 0xe8}},
			{2, {0x8e, 0xd0}}, {3, {0x0f, 0x00, 0xd8}}, {5, {0xf3, 0x48, 0x0f, 0xae, 0xd0}}, {5, {0xf3, 0x48, 0x0f, 0xae, 0xd8}}, {4, {0x0f, 0xae, 0x07}}, {3, {0x0f, 0xae, 0x2f}}, {3, {0x0f, 0xae, 0x0f}}, {3, {0x0f, 0xae, 0x17}},
			{4, {0xc7, 0xf8, 0, 0}}, {2, {0x0f, 0x05}}, {9, {0x9c, 0x48, 0x81, 0x0c, 0x24, 0, 1, 0, 0}}, {1, {0xec}}, {1, {0xee}}, {2, {0xf7, 0xf0}}, {2, {0xcd, 0x80}} };
		int k = below(sizeof special / sizeof *special);
		int at = below(32);
		if (special[k].n == 2 && special[k].b[0] == 0x0f && special[k].b[1] == 0x05) {
			/* mov $getpid,%eax; syscall */
			uint8_t s[] = {0xb8, 39, 0, 0, 0, 0x0f, 0x05};
			memcpy(p + at, s, sizeof s);
		} else if (special[k].b[0] == 0xcd && special[k].b[1] == 0x80) {
			uint8_t s[] = {0xb8, 20, 0, 0, 0, 0xcd, 0x80};
			memcpy(p + at, s, sizeof s);
		} else {
			memcpy(p + at, special[k].b, special[k].n);
		}
		for (int i = 0; i < 16; i++) { regs[i] = value(); }
		uint64_t sp = below(3) ? (uint64_t)areas[0] + AREA / 2 : value();
		volatile uint64_t flags = below(2) ? 0x202 : (rnd() & 0x254dd5) | 2;
		uint64_t ip = below(8) ? (uint64_t)p : value();
		if (below(4) == 0) { mprotect(code, 8192, below(8)); }
		if (quiet == 3) { dprintf(2, "ip %lx sp %lx flags %lx code", ip, sp, flags); for (int i = 0; i < 64; i++) { dprintf(2, " %02x", p[i]); } dprintf(2, "\n"); }
		if (sigsetjmp(landing, 1) == 0) {
			landed = 1;
			struct itimerval t = {.it_value = {0, 20000}};
			setitimer(ITIMER_REAL, &t, NULL);
			static __thread struct { uint64_t sp, ip, flags; } to;
			to.sp = sp, to.ip = ip, to.flags = flags;
			if ((int64_t)ip < 0 || ip >> 47 || below(2)) {
				/* By a signal frame of our own, the only way to a RIP that is no address. */
				struct { uint64_t ret; ucontext_t uc; } *f = (void *)(areas[1] + 4096);
				mprotect(areas[1], AREA, PROT_READ | PROT_WRITE);
				memset(f, 0, sizeof *f);
				greg_t *g = f->uc.uc_mcontext.gregs;
				for (int i = 0; i < 16; i++) { g[i] = regs[i]; }
				g[REG_RSP] = sp, g[REG_RIP] = ip, g[REG_EFL] = flags;
				g[REG_CSGSFS] = below(4) ? 0x002b000000000033 : rnd() >> below(64);
				if (below(4) == 0) { f->uc.uc_flags = rnd(); }
				if (below(4) == 0) { f->uc.uc_mcontext.fpregs = pointer(); }
				if (below(8) == 0) { f->uc.uc_stack.ss_sp = pointer(); f->uc.uc_stack.ss_size = value(); f->uc.uc_stack.ss_flags = value(); }
				__asm__ volatile("mov %0, %%rsp; mov $15, %%eax; syscall" : : "r"(&f->uc) : "memory");
			} else {
				__asm__ volatile(
					"mov %0, %%rcx\n\t"
					"mov 8(%%rcx), %%rax\n\t" "mov 16(%%rcx), %%rbx\n\t" "mov %%rax, -8(%%rsp)\n\t"
					"push %%rbx\n\t" "popfq\n\t" "mov (%%rcx), %%rsp\n\t" "mov %%rax, %%rcx\n\t" "jmp *%%rcx\n\t"
					: : "r"(&to) : "memory", "rax", "rbx", "rcx");
			}
		}
		__asm__ volatile("cld");
		/* Segments as the C library wants them. */
		__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss" : : "r"(0x2b));
	}
	return NULL;
}

static void on_damaged(int sig, siginfo_t *si, void *v) {
	(void)sig, (void)si;
	ucontext_t *uc = v;
	switch (below(6)) {
	case 0: uc->uc_mcontext.gregs[below(NGREG)] = value(); break;
	case 1: uc->uc_mcontext.fpregs = below(2) ? pointer() : NULL; break;
	case 2:
		if (uc->uc_mcontext.fpregs) {
			uint32_t *p = (uint32_t *)uc->uc_mcontext.fpregs;
			for (int i = below(64); i > 0; i--) { p[below(2) ? below(832 / 4) : 460 / 4 + below(40)] = rnd() >> below(32); }
		}
		break;
	case 3: uc->uc_mcontext.gregs[REG_EFL] = rnd(); break;
	case 4: uc->uc_flags = rnd() >> below(64); break;
	case 5: memset(&uc->uc_sigmask, rnd(), 8); break;
	}
}

static void *damaged(void *seed) {
	state = (uint64_t)seed | 1;
	altstack();
	struct sigaction sa = {.sa_sigaction = on_damaged, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	sigaction(SIGUSR1, &sa, NULL);
	sigaction(SIGUSR2, &sa, NULL);
	for (;;) {
		if (sigsetjmp(landing, 1) == 0) {
			landed = 1;
			for (;;) { syscall(SYS_tgkill, self, syscall(SYS_gettid), below(2) ? SIGUSR1 : SIGUSR2); }
		}
	}
	return NULL;
}

extern char __executable_start, etext;

static void *mover(void *seed) {
	state = (uint64_t)seed | 1;
	altstack();
	for (;;) {
		if (sigsetjmp(landing, 1) == 0) {
			landed = 1;
			for (;;) {
				char *a = areas[below(AREAS)] + below(16) * 4096;
				size_t n = (1 + below(16)) * 4096;
				switch (below(16)) {
				case 0: mmap(a, n, below(8), MAP_FIXED | MAP_ANONYMOUS | (below(2) ? MAP_SHARED : MAP_PRIVATE), -1, 0); break;
				case 1: mmap(a, n, below(8), MAP_FIXED | (below(2) ? MAP_SHARED : MAP_PRIVATE), fds[below(nfds)], below(64) * 4096); break;
				case 2: munmap(a, n); break;
				case 3: mprotect(a, n, below(8)); break;
				case 4: (void)!mremap(a, n, (1 + below(16)) * 4096, MREMAP_MAYMOVE | MREMAP_FIXED, areas[below(AREAS)] + below(16) * 4096); break;
				case 5: madvise(a, n, below(26)); break;
				case 6: (void)!ftruncate(fds[0], below(1 << 18)); break;
				case 7: if (below(64) == 0) { mprotect(&__executable_start, &etext - &__executable_start, PROT_READ | PROT_WRITE | PROT_EXEC); } break;
				case 8: if (below(256) == 0) { char *t = &__executable_start + below(&etext - &__executable_start); *t = rnd(); } break;
				case 9: (void)!write(fds[below(nfds)], a, n); break;
				case 10: (void)!read(fds[0], a, n); break;
				case 11: { pid_t c = fork(); if (c == 0) { for (int i = 0; i < 20; i++) { areas[below(AREAS)][below(AREA)]++; } _exit(0); } if (c > 0) { waitpid(c, NULL, 0); } break; }
				case 12: mlock(a, n); munlock(a, n); break;
				case 13: msync(a, n, below(8)); break;
				default: for (int i = 0; i < 50; i++) { areas[below(AREAS)][below(AREA)] += i; } break;
				}
			}
		}
	}
	return NULL;
}

static pthread_t threads[4];

static void *signaller(void *seed) {
	state = (uint64_t)seed | 1;
	altstack();
	struct timespec ts = {0, 100000};
	for (;;) {
		if (sigsetjmp(landing, 1) == 0) {
			landed = 1;
			for (;;) {
				syscall(SYS_tgkill, self, self + below(5), below(2) ? 1 + below(64) : SIGUSR1);
				switch (below(8)) {
				case 0: nanosleep(&ts, NULL); break;
				case 1: { struct itimerval t = {{0, below(1000)}, {0, below(1000)}}; setitimer(below(3), &t, NULL); break; }
				case 2: { sigset_t s; memset(&s, rnd(), sizeof s); sigdelset(&s, SIGSEGV); struct timespec z = {0, 1000}; sigtimedwait(&s, NULL, &z); break; }
				case 3: { timer_t id; struct sigevent ev = {.sigev_notify = below(5), .sigev_signo = 1 + below(64), .sigev_value.sival_int = 1}; if (syscall(SYS_timer_create, below(12), &ev, &id) == 0) { struct itimerspec t = {{0, 5000}, {0, 5000}}; syscall(SYS_timer_settime, *(int *)&id, 0, &t, NULL); } break; }
				case 4: handle(on_signal, SA_ONSTACK | (below(2) ? SA_RESTART : 0) | (below(2) ? SA_NODEFER : 0)); break;
				case 5: { struct pollfd p[3] = {{fds[below(nfds)], POLLIN, 0}, {fds[below(nfds)], POLLOUT, 0}, {fds[below(nfds)], POLLPRI, 0}}; poll(p, 3, below(3)); break; }
				case 6: { pid_t c = fork(); if (c == 0) { raise(1 + below(64)); _exit(1); } if (c > 0) { waitpid(c, NULL, below(2) ? 0 : WNOHANG); } break; }
				}
			}
		}
	}
	return NULL;
}

static const struct { const char *name; void *(*f)(void *); int threads; } modes[] = {
	{"calls", caller, 3}, {"code", jumper, 1}, {"frames", damaged, 2}, {"memory", mover, 3}, {"signals", signaller, 3},
};
enum { MODES = sizeof modes / sizeof *modes };

static void worker(int mode, uint64_t seed) {
	state = seed | 1;
	self = getpid();
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	struct rlimit files = {256, 256}, core = {0, 0}, processes = {200, 200}, size = {64 << 20, 64 << 20}, as = {1 << 30, 1 << 30};
	setrlimit(RLIMIT_NOFILE, &files);
	setrlimit(RLIMIT_CORE, &core);
	setrlimit(RLIMIT_NPROC, &processes);
	setrlimit(RLIMIT_FSIZE, &size);
	setrlimit(RLIMIT_AS, &as);
	furnish();
	if (below(2)) { if (setgid(1000) | setuid(1000)) { _exit(0); } }
	handle(on_signal, SA_ONSTACK | SA_NODEFER);
	for (int i = 1; i < modes[mode].threads; i++) { pthread_create(&threads[i], NULL, modes[mode].f, (void *)rnd()); }
	modes[mode].f((void *)rnd());
}

int main(int argc, char **argv) {
	struct utsname u;
	if (uname(&u) || strcmp(u.nodename, "hostile")) {
		fprintf(stderr, "fuzz: this is no sandbox made for it (host name \"hostile\")\n");
		return 2;
	}
	if (argc < 3) { return 2; }
	state = strtoull(argv[1], NULL, 0) * 2654435761u + 1;
	int64_t seconds = atoi(argv[2]);
	quiet = getenv("SHOW") ? atoi(getenv("SHOW")) : 1;
	struct timespec start, now;
	clock_gettime(CLOCK_MONOTONIC, &start);
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	int running = 0;
	pid_t pids[2] = {0};
	struct timespec born[2];
	long workers = 0, died[128] = {0};
	for (;;) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		int over = now.tv_sec - start.tv_sec >= seconds;
		for (int i = 0; i < 2; i++) {
			if (pids[i] == 0 && !over) {
				int mode = rnd() % MODES;
				if (argc > 3) {
					const char *want = argv[3 + rnd() % (argc - 3)];
					for (mode = 0; mode < MODES && strcmp(modes[mode].name, want); mode++) {}
					if (mode == MODES) { return 2; }
				}
				uint64_t seed = rnd();
				pid_t p = fork();
				if (p == 0) {
					sigprocmask(SIG_UNBLOCK, &all, NULL);
					worker(mode, seed);
					_exit(0);
				}
				if (p > 0) { pids[i] = p, born[i] = now, running++, workers++; }
			}
			if (pids[i] && (over || now.tv_sec - born[i].tv_sec >= 3)) { kill(-pids[i], SIGKILL); kill(pids[i], SIGKILL); }
		}
		int status;
		pid_t p;
		while ((p = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
			for (int i = 0; i < 2; i++) {
				if (pids[i] == p) {
					pids[i] = 0, running--;
					kill(-p, SIGKILL);
					died[WIFSIGNALED(status) ? WTERMSIG(status) & 127 : 0]++;
				}
			}
		}
		if (over && running == 0) { break; }
		struct timespec t = {0, 10000000}, left;
		sigset_t child;
		sigemptyset(&child);
		sigaddset(&child, SIGCHLD);
		(void)left;
		sigtimedwait(&child, NULL, &t);
	}
	printf("%ld workers:", workers);
	for (int i = 0; i < 128; i++) { if (died[i]) { printf(" %s%d: %ld", i ? "signal " : "exit ", i, died[i]); } }
	printf("\n");
	return 0;
}
