/* getppid(2): who the parent is while it lives, and from when on it is another. */
#define TAP_ROLES
#include "tap.h"

/* More than the calls of one instruction after which a sandbox may treat it otherwise. */
enum { OFTEN = 200, THREADS = 4 };

/* The call in two forms, each at one place: with a comparison behind it, and with its number right before it. */
long compared(long nr);
__asm__(".text\n.p2align 6\ncompared: mov %rdi, %rax\n syscall\n cmp $-4095, %rax\n jae 1f\n ret\n1: or $-1, %rax\n ret\n");
long plain(void);
__asm__(".text\n.p2align 6\nplain: mov $110, %eax\n syscall\n ret\n");

/* parent asks in each form, and in libc's, which agree: nothing happens to the parent meanwhile. */
static long parent_now(void)
{
	long p = plain();
	return compared(SYS_getppid) == p && getppid() == p ? p : -1;
}

static int often_not(long want)
{
	int wrong = 0;
	for (int i = 0; i < OFTEN; i++)
		wrong += parent_now() != want;
	return wrong;
}

/* What a family shares: the reaper, who is this program, a middle process, and the middle's child. */
struct family {
	pid_t reaper, middle, child;
	int asking; /* threads that have asked OFTEN times */
	int gone;   /* the reaper has waited for the middle */
	int wrong;
	int seen; /* threads that know their new parent */
	int in_handler;
};
static struct family *family;

static int get(int *at) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }
static void set(int *at, int v) { __atomic_store_n(at, v, __ATOMIC_SEQ_CST); }
static void add(int *at, int v) { __atomic_add_fetch(at, v, __ATOMIC_SEQ_CST); }

static void *ask(void *unused)
{
	(void)unused;
	struct family *f = family;
	add(&f->wrong, often_not(f->middle));
	add(&f->asking, 1);
	/* Once somebody has waited for the middle nobody is its child any more. */
	for (int last = 0; !last;) {
		last = get(&f->gone);
		long p = compared(SYS_getppid), q = plain();
		add(&f->wrong, (p != f->middle && p != f->reaper) || (q != f->reaper && (last || p == f->reaper)));
	}
	add(&f->wrong, often_not(f->reaper));
	add(&f->seen, 1);
	return NULL;
}

static void on_parents_death(int sig)
{
	(void)sig;
	family->in_handler = plain();
}

enum { ASK = 1, ASK_BY_THREADS = THREADS };

/* child is the life of the middle's child, which asks by so many threads. */
static void child(int threads)
{
	pthread_t t[THREADS];
	family->child = getpid();
	struct sigaction a = {.sa_handler = on_parents_death};
	sigaction(SIGUSR1, &a, NULL);
	prctl(PR_SET_PDEATHSIG, SIGUSR1);
	for (int i = 1; i < threads; i++)
		pthread_create(&t[i], NULL, ask, NULL);
	ask(NULL);
	for (int i = 1; i < threads; i++)
		pthread_join(t[i], NULL);
	_exit(0);
}

static void until_asking(int threads)
{
	while (get(&family->asking) < threads)
		sched_yield();
}

static void *exit_all(void *unused)
{
	(void)unused;
	_exit(7);
}
static void *exit_later(void *leader)
{
	pthread_join(*(pthread_t *)leader, NULL);
	return NULL;
}

static void by_exit(void) { _exit(7); }
static void by_kill(void)
{
	for (;;)
		pause();
}
static void by_fault(void)
{
	struct rlimit none = {0, 0};
	setrlimit(RLIMIT_CORE, &none);
	signal(SIGSEGV, SIG_DFL);
	*(volatile int *)8 = 1;
}
static void by_thread(void)
{
	pthread_t t;
	pthread_create(&t, NULL, exit_all, NULL);
	for (;;)
		pause();
}
static void by_last_thread(void)
{
	static pthread_t me, t;
	me = pthread_self();
	pthread_create(&t, NULL, exit_later, &me);
	pthread_exit(NULL);
}
static void by_exec(void) { execl("/proc/self/exe", "parent", "--exit", NULL); }

static int tap_role(int argc, char **argv, char **envp)
{
	(void)argv, (void)envp;
	return argc > 1 ? 7 : 1;
}

static const struct way {
	const char *name;
	void (*end)(void);
} ways[] = {
	{"it exits", by_exit},
	{"it is killed", by_kill},
	{"it faults", by_fault},
	{"another thread exits", by_thread},
	{"its last thread ends, the first having ended before", by_last_thread},
	{"what it has execed exits", by_exec},
};

static void new_family(void)
{
	memset(family, 0, sizeof *family);
	family->reaper = getpid();
}

/* fork_middle makes the middle, whose number both write. */
static pid_t fork_middle(void)
{
	pid_t pid = tap_fork();
	family->middle = pid == 0 ? getpid() : pid;
	return pid;
}

/* after ends the middle, if need be, and looks what the child has seen. */
static void after(const char *name, int threads, int sig)
{
	char text[100];
	struct family *f = family;
	until_asking(threads);
	if (sig != 0)
		kill(f->middle, sig);
	tap_reap(f->middle);
	set(&f->gone, 1);
	CHECK_EQ(tap_reap(f->child), 0);
	snprintf(text, sizeof text, "%d threads know their parent when %s", threads, name);
	CHECK_NAMED(f->wrong == 0 && f->seen == threads, text);
	CHECK_EQ(f->in_handler, f->reaper);
}

static void begin(void)
{
	if (family == NULL)
		family = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	REQUIRE_OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
}

TEST(parent_ends)
{
	begin();
	for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++)
		for (int threads = ASK; threads <= ASK_BY_THREADS; threads += ASK_BY_THREADS - ASK) {
			new_family();
			if (fork_middle() == 0) {
				if (tap_fork() == 0)
					child(threads);
				until_asking(threads);
				ways[i].end();
				_exit(1);
			}
			after(ways[i].name, threads, ways[i].end == by_kill ? SIGKILL : 0);
		}
}

/* A child of vfork(2) lives on, in what was its parent's memory. */
TEST(vfork_parent_is_killed)
{
	begin();
	for (int i = 0; i < 5; i++) {
		new_family();
		if (fork_middle() == 0) {
			if (vfork() == 0)
				child(ASK);
			_exit(1);
		}
		after("it is killed in vfork", ASK, SIGKILL);
	}
}

TEST(vfork_child)
{
	static volatile int wrong;
	pid_t me = getpid(), above = getppid();
	for (int i = 0; i < 10; i++) {
		wrong = -1;
		pid_t pid = vfork();
		if (pid == 0) {
			wrong = often_not(me);
			_exit(0);
		}
		CHECK_EQ(tap_reap(pid), 0);
		CHECK_EQ(wrong, 0);
		CHECK_EQ(often_not(above), 0);
	}
}

TEST(double_fork)
{
	begin();
	for (int i = 0; i < 5; i++) {
		new_family();
		if (fork_middle() == 0) {
			if (tap_fork() == 0)
				child(ASK);
			until_asking(ASK);
			_exit(0);
		}
		after("it has forked twice", ASK, 0);
	}
}

/* The nearest subreaper above inherits, and the next one in turn. */
TEST(subreapers)
{
	begin();
	pid_t top = getpid();
	int *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t inner = tap_fork();
	if (inner == 0) {
		inner = getpid();
		prctl(PR_SET_CHILD_SUBREAPER, 1);
		pid_t middle = tap_fork();
		if (middle == 0) {
			middle = getpid();
			if (tap_fork() == 0) {
				at[3] = getpid();
				at[2] = often_not(middle);
				for (int step = 1; step <= 2; step++) {
					set(&at[0], step);
					while (get(&at[1]) != step)
						parent_now();
					at[2] += often_not(step == 1 ? inner : top);
				}
				_exit(0);
			}
			while (get(&at[0]) != 1)
				sched_yield();
			_exit(0);
		}
		tap_reap(middle);
		set(&at[1], 1);
		while (get(&at[0]) != 2)
			sched_yield();
		_exit(0);
	}
	CHECK_EQ(tap_reap(inner), 0);
	set(&at[1], 2);
	CHECK_EQ(tap_reap(at[3]), 0);
	CHECK_EQ(at[2], 0);
	munmap(at, 4096);
}

/* A thread that ends has PR_SET_PDEATHSIG sent, though the process is the parent as before. */
static void *fork_and_end(void *unused)
{
	(void)unused;
	if (tap_fork() == 0)
		child(ASK);
	until_asking(ASK);
	return NULL;
}

TEST(parent_thread_ends)
{
	begin();
	new_family();
	if (fork_middle() == 0) {
		pthread_t t;
		pthread_create(&t, NULL, fork_and_end, NULL);
		pthread_join(t, NULL);
		while (get(&family->in_handler) == 0)
			sched_yield();
		if (get(&family->in_handler) != getpid())
			add(&family->wrong, 1);
		set(&family->in_handler, family->reaper);
		_exit(0);
	}
	after("a thread of it ends before", ASK, 0);
}

/* A child made with CLONE_PARENT is the grandparent's. */
TEST(clone_parent)
{
	begin();
	int *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t top = getpid();
	at[1] = -1;
	pid_t middle = tap_fork();
	if (middle == 0) {
		long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
		if (pid == 0) {
			int wrong = often_not(top);
			set(&at[2], 1);
			while (get(&at[3]) == 0)
				wrong += parent_now() != top;
			at[1] = wrong + often_not(top);
			_exit(0);
		}
		at[0] = pid;
		while (get(&at[2]) == 0)
			sched_yield();
		_exit(0);
	}
	CHECK_EQ(tap_reap(middle), 0);
	set(&at[3], 1);
	CHECK_EQ(tap_reap(at[0]), 0);
	CHECK_EQ(at[1], 0);
	munmap(at, 4096);
}

/* The first process of a PID namespace has no parent that it could name, and inherits its orphans. */
TEST(pid_namespace)
{
	if (!tap_capable(21))
		SKIP("needs CAP_SYS_ADMIN");
	begin();
	int *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t middle = tap_fork();
	if (middle == 0) {
		long init = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
		if (init == 0) {
			int wrong = often_not(0);
			set(&at[2], 1);
			while (get(&at[3]) == 0)
				wrong += parent_now() != 0;
			wrong += often_not(0); /* whoever it is now */
			new_family();
			if (fork_middle() == 0) {
				wrong = often_not(1);
				if (tap_fork() == 0)
					child(ASK_BY_THREADS);
				until_asking(ASK_BY_THREADS);
				_exit(wrong);
			}
			wrong += tap_reap(family->middle);
			set(&family->gone, 1);
			wrong += tap_reap(family->child) + family->wrong + (family->in_handler != 1);
			at[1] = wrong;
			_exit(0);
		}
		at[0] = init;
		at[1] = -1;
		while (get(&at[2]) == 0)
			sched_yield();
		_exit(0);
	}
	CHECK_EQ(tap_reap(middle), 0);
	set(&at[3], 1);
	CHECK_EQ(tap_reap(at[0]), 0);
	CHECK_EQ(at[1], 0);
	munmap(at, 4096);
}
