/* Threads as libc uses them, and the calls below: set_tid_address(2), arch_prctl(2), gettid(2). */
#include "tap.h"
#include <asm/prctl.h>
#include <linux/futex.h>
#include <semaphore.h>

static void *identity(void *arg)
{
	return (void *)((intptr_t)arg * 2);
}

TEST(create_and_join)
{
	pthread_t t[20];
	intptr_t sum = 0;
	for (intptr_t i = 0; i < 20; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, identity, (void *)i), 0);
	for (int i = 0; i < 20; i++) {
		void *r;
		pthread_join(t[i], &r);
		sum += (intptr_t)r;
	}
	CHECK_EQ(sum, 380);
	for (int i = 0; i < 300; i++) { /* stacks and ids are used again */
		pthread_t one;
		if (pthread_create(&one, NULL, identity, NULL) != 0 || pthread_join(one, NULL) != 0) {
			CHECK_NAMED(0, "300 threads one after the other");
			return;
		}
	}
	CHECK_NAMED(1, "300 threads one after the other");
}

/* Two threads by turns, each of whom has what nobody else knows in registers alone during its calls: neither goes
 * back to what it was, and none is woken for nothing. */
enum { ROUNDS = 3000 };
static int turn;

/* futex_keeping makes a call with i in each register that there is room in, and returns whether it is there
 * afterwards. A function would have registers of its caller on the stack, which doesn't go back. */
static inline __attribute__((always_inline)) int futex_keeping(unsigned long i, int op, int value)
{
	unsigned long kept = i, moved;
	register unsigned long r8 __asm__("r8") = i, r9 __asm__("r9") = i, r12 __asm__("r12") = i, r13 __asm__("r13") = i,
			       r14 __asm__("r14") = i, r15 __asm__("r15") = i;
	register void *timeout __asm__("r10") = NULL;
	__asm__ volatile("movq %[kept], %%xmm3\n mov $202, %%eax\n syscall\n movq %%xmm3, %[moved]"
			 : [moved] "=b"(moved), "+r"(r8), "+r"(r9), "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15)
			 : [kept] "m"(kept), "D"(&turn), "S"(op), "d"(value), "r"(timeout)
			 : "rax", "rcx", "r11", "xmm3", "memory");
	return r8 == kept && r9 == kept && r12 == kept && r13 == kept && r14 == kept && r15 == kept && moved == kept;
}

/* take_turns does one side's rounds, and returns how many were wrong; the first ends them for both. */
static inline __attribute__((always_inline)) intptr_t take_turns(int me, int first)
{
	static volatile intptr_t wrong;
	unsigned long call = 0;
	for (int i = 0; i < ROUNDS && !wrong; i++) {
		if (i > 0 || !first)
			while (__atomic_load_n(&turn, __ATOMIC_SEQ_CST) != me && !wrong)
				wrong += !futex_keeping(++call << 1 | me, FUTEX_WAIT_PRIVATE, !me);
		__atomic_store_n(&turn, !me, __ATOMIC_SEQ_CST);
		wrong += !futex_keeping(++call << 1 | me, FUTEX_WAKE_PRIVATE, 1);
	}
	return wrong;
}

static void *second_of_two(void *unused) { return (void *)(take_turns(1, 0) + (intptr_t)unused); }

TEST(by_turns)
{
	IN_CHILD /* that has threads for the first time */
	{
		pthread_t t;
		void *wrong;
		alarm(20);
		CHECK_EQ(pthread_create(&t, NULL, second_of_two, NULL), 0);
		CHECK_EQ(take_turns(0, 1), 0);
		pthread_join(t, &wrong);
		CHECK_EQ((intptr_t)wrong, 0);
	}
}

static __thread int local = 5;
static void *uses_local(void *arg)
{
	int before = local;
	local = (int)(intptr_t)arg;
	sched_yield();
	return (void *)(intptr_t)(before == 5 && local == (int)(intptr_t)arg);
}

TEST(thread_local)
{
	pthread_t t[8];
	int good = 1;
	for (intptr_t i = 0; i < 8; i++)
		pthread_create(&t[i], NULL, uses_local, (void *)(i + 10));
	for (int i = 0; i < 8; i++) {
		void *r;
		pthread_join(t[i], &r);
		good = good && r;
	}
	CHECK(good);
	CHECK_EQ(local, 5);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int stage;
static void *ping(void *arg)
{
	int me = (int)(intptr_t)arg;
	pthread_mutex_lock(&mutex);
	for (int i = 0; i < 200; i++) {
		while (stage % 2 != me)
			pthread_cond_wait(&cond, &mutex);
		stage++;
		pthread_cond_broadcast(&cond);
	}
	pthread_mutex_unlock(&mutex);
	return NULL;
}

TEST(condition)
{
	pthread_t a, b;
	pthread_create(&a, NULL, ping, (void *)0);
	pthread_create(&b, NULL, ping, (void *)1);
	pthread_join(a, NULL), pthread_join(b, NULL);
	CHECK_EQ(stage, 400);
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_nsec += 1000000;
	if (t.tv_nsec >= 1000000000)
		t.tv_sec++, t.tv_nsec -= 1000000000;
	pthread_mutex_lock(&mutex);
	CHECK_EQ(pthread_cond_timedwait(&cond, &mutex, &t), ETIMEDOUT);
	pthread_mutex_unlock(&mutex);
}

static pthread_barrier_t barrier;
static volatile int arrived;
static void *meets(void *arg)
{
	intptr_t bad = 0, serial = 0;
	(void)arg;
	for (int i = 1; i <= 20; i++) {
		__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
		serial += pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD;
		bad += arrived < i * 3;
		pthread_barrier_wait(&barrier);
	}
	return (void *)(bad * 1000 + serial);
}

TEST(barrier)
{
	pthread_t t[3];
	intptr_t sum = 0;
	pthread_barrier_init(&barrier, NULL, 3);
	for (int i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, meets, NULL);
	for (int i = 0; i < 3; i++) {
		void *r;
		pthread_join(t[i], &r);
		sum += (intptr_t)r;
	}
	CHECK_EQ(sum, 20);
}

static volatile int cleaned;
static void cleanup(void *arg)
{
	cleaned = (int)(intptr_t)arg;
}
static void *cancelled(void *arg)
{
	char c;
	pthread_cleanup_push(cleanup, (void *)7);
	read(*(int *)arg, &c, 1);
	pthread_cleanup_pop(0);
	return NULL;
}

TEST(cancel)
{
	int p[2];
	pthread_t t;
	void *r;
	pipe(p);
	pthread_create(&t, NULL, cancelled, &p[0]);
	CHECK_EQ(pthread_cancel(t), 0);
	pthread_join(t, &r);
	CHECK(r == PTHREAD_CANCELED);
	CHECK(cleaned == 7 || cleaned == 0); /* it may not have got that far */
	close(p[0]), close(p[1]);
}

static sem_t sem;
static void *posts(void *arg)
{
	for (int i = 0; i < 50; i++)
		sem_post(&sem);
	return arg;
}

TEST(semaphore_and_rwlock)
{
	pthread_t t;
	sem_init(&sem, 0, 0);
	pthread_create(&t, NULL, posts, NULL);
	for (int i = 0; i < 50; i++)
		sem_wait(&sem);
	pthread_join(t, NULL);
	CHECK_ERRNO(sem_trywait(&sem), EAGAIN);
	pthread_rwlock_t rw = PTHREAD_RWLOCK_INITIALIZER;
	CHECK_EQ(pthread_rwlock_rdlock(&rw), 0);
	CHECK_EQ(pthread_rwlock_tryrdlock(&rw), 0);
	CHECK_EQ(pthread_rwlock_trywrlock(&rw), EBUSY);
}

static void *tells_ids(void *arg)
{
	long *ids = arg;
	ids[0] = syscall(SYS_getpid), ids[1] = syscall(SYS_gettid);
	ids[2] = syscall(SYS_set_tid_address, NULL) == ids[1]; /* returns the caller's id */
	static int word;
	syscall(SYS_set_tid_address, &word);
	char name[64], comm[32] = "";
	prctl(PR_SET_NAME, "worker");
	snprintf(name, sizeof name, "/proc/self/task/%ld/comm", ids[1]);
	tap_read_file(name, comm, sizeof comm);
	ids[3] = strcmp(comm, "worker\n") == 0;
	return NULL;
}

TEST(ids)
{
	/* The thread changes its clear-tid address, so it must not be joined by libc: leave it. */
	IN_CHILD
	{
		static long ids[4];
		pthread_t t;
		pthread_create(&t, NULL, tells_ids, ids);
		while (*(volatile long *)&ids[3] == 0)
			sched_yield();
		CHECK_EQ(ids[0], getpid());
		CHECK(ids[1] != getpid());
		CHECK_EQ(ids[2], 1);
		char comm[32];
		prctl(PR_GET_NAME, comm);
		CHECK(strcmp(comm, "worker") != 0); /* names belong to threads */
	}
	CHECK_EQ(syscall(SYS_set_tid_address, NULL), syscall(SYS_gettid));
}

TEST(arch_prctl)
{
	unsigned long fs = 0, gs = 1, direct;
	CHECK_OK(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs));
	__asm__("mov %%fs:0, %0" : "=r"(direct));
	CHECK_EQ(fs, direct); /* the ABI keeps the base at offset 0 */
	static unsigned long area[4] = {0x1234, 0x5678};
	CHECK_OK(syscall(SYS_arch_prctl, ARCH_SET_GS, area));
	CHECK_OK(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs));
	CHECK_EQ(gs, (unsigned long)area);
	__asm__ volatile("mov %%gs:8, %0" : "=r"(direct));
	CHECK_EQ(direct, 0x5678);
	sched_yield();
	__asm__ volatile("mov %%gs:0, %0" : "=r"(direct));
	CHECK_EQ(direct, 0x1234);
	IN_CHILD
	{
		__asm__ volatile("mov %%gs:0, %0" : "=r"(direct));
		CHECK_EQ(direct, 0x1234);
	}
	CHECK_ERRNO(syscall(SYS_arch_prctl, 0x9999, &fs), EINVAL);
	CHECK_ERRNO(syscall(SYS_arch_prctl, ARCH_SET_GS, 1UL << 63), EPERM);
	CHECK_ERRNO(syscall(SYS_arch_prctl, ARCH_GET_FS, 8), EFAULT);
	CHECK_OK(syscall(SYS_arch_prctl, ARCH_SET_GS, 0));
}

TEST(membarrier)
{
	long r = syscall(SYS_membarrier, 0 /* QUERY */, 0);
	if (r == -1 && errno == ENOSYS)
		SKIP("no membarrier");
	CHECK(r >= 0);
	if (r & 1)
		CHECK_OK(syscall(SYS_membarrier, 1 /* SHARED, GLOBAL */, 0));
	CHECK_ERRNO(syscall(SYS_membarrier, 0x40000000, 0), EINVAL);
}
