/* futex(2): waiting, waking, requeueing, wake_op, timeouts, priority inheritance, robust lists. */
#include "tap.h"
#include <linux/futex.h>

static long futex(volatile int *word, int op, int value, const void *timeout, volatile int *word2, int value3)
{
	return syscall(SYS_futex, word, op, value, timeout, word2, value3);
}

static volatile int word, word2, started;

TEST(immediate_results)
{
	struct timespec t = {0, 1000000};
	word = 5;
	CHECK_ERRNO(futex(&word, FUTEX_WAIT, 4, NULL, NULL, 0), EAGAIN);
	CHECK_ERRNO(futex(&word, FUTEX_WAIT, 5, &t, NULL, 0), ETIMEDOUT);
	CHECK_ERRNO(futex(&word, FUTEX_WAIT_PRIVATE, 5, &t, NULL, 0), ETIMEDOUT);
	CHECK_EQ(futex(&word, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
	CHECK_ERRNO(futex((int *)((char *)&word + 1), FUTEX_WAKE, 1, NULL, NULL, 0), EINVAL); /* alignment */
	CHECK_ERRNO(futex((int *)16, FUTEX_WAIT, 0, &t, NULL, 0), EFAULT);
	CHECK_ERRNO(futex(&word, 99, 0, NULL, NULL, 0), ENOSYS);
	t.tv_nsec = 1000000000;
	CHECK_ERRNO(futex(&word, FUTEX_WAIT, 5, &t, NULL, 0), EINVAL);
	t = (struct timespec){-1, 0};
	CHECK_ERRNO(futex(&word, FUTEX_WAIT, 5, &t, NULL, 0), EINVAL);
	/* FUTEX_WAIT takes a duration, FUTEX_WAIT_BITSET a point in time. */
	t = (struct timespec){1, 0};
	CHECK_ERRNO(futex(&word, FUTEX_WAIT_BITSET, 5, &t, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
	CHECK_ERRNO(futex(&word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 5, &t, NULL, 1), ETIMEDOUT);
	CHECK_ERRNO(futex(&word, FUTEX_WAIT_BITSET, 5, &t, NULL, 0), EINVAL);
	CHECK_ERRNO(futex(&word, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0), EINVAL);
	CHECK_ERRNO(futex(&word, FUTEX_WAKE | FUTEX_CLOCK_REALTIME, 1, NULL, NULL, 0), ENOSYS);
}

struct waiter {
	pthread_t thread;
	volatile int *word;
	int bits;
	long result;
};
static void *waits(void *arg)
{
	struct waiter *w = arg;
	__atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
	do
		w->result = futex(w->word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, w->bits);
	while (w->result == -1 && errno == EAGAIN);
	return NULL;
}
static void launch(struct waiter *w, int n, volatile int *on)
{
	started = 0;
	for (int i = 0; i < n; i++) {
		w[i].word = on;
		if (!w[i].bits)
			w[i].bits = -1;
		pthread_create(&w[i].thread, NULL, waits, &w[i]);
	}
}
/* drain wakes (or requeues) until n waiters were counted: that they wait is seen by the count itself. */
static int wake_exactly(volatile int *on, int n)
{
	int woken = 0;
	while (woken < n) {
		int r = futex(on, FUTEX_WAKE_PRIVATE, n - woken, NULL, NULL, 0);
		if (r < 0)
			break;
		woken += r;
		if (r == 0)
			sched_yield();
	}
	return woken;
}

TEST(wake)
{
	struct waiter w[4] = {0};
	word = 0;
	launch(w, 4, &word);
	CHECK_EQ(wake_exactly(&word, 1), 1);
	CHECK_EQ(wake_exactly(&word, 3), 3);
	for (int i = 0; i < 4; i++) {
		pthread_join(w[i].thread, NULL);
		CHECK_EQ(w[i].result, 0);
	}
	CHECK_EQ(futex(&word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0), 0);
}

TEST(bitset)
{
	struct waiter w[2] = {{.bits = 1}, {.bits = 2}};
	word = 0;
	launch(w, 2, &word);
	while (futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 10, NULL, NULL, 2) != 1)
		sched_yield();
	pthread_join(w[1].thread, NULL); /* the second, whichever came first */
	CHECK_EQ(w[1].result, 0);
	CHECK_EQ(futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 10, NULL, NULL, 4), 0);
	while (futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 10, NULL, NULL, 1) != 1)
		sched_yield();
	pthread_join(w[0].thread, NULL);
	CHECK_EQ(w[0].result, 0);
}

TEST(requeue)
{
	struct waiter w[3] = {0};
	word = word2 = 0;
	launch(w, 3, &word);
	CHECK_ERRNO(futex(&word, FUTEX_CMP_REQUEUE_PRIVATE, 0, (void *)10, &word2, 77), EAGAIN);
	int moved = 0;
	while (moved < 3) {
		int r = futex(&word, FUTEX_CMP_REQUEUE_PRIVATE, 0, (void *)10, &word2, 0);
		if (r < 0)
			break;
		moved += r;
	}
	CHECK_EQ(moved, 3);
	CHECK_EQ(futex(&word, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0), 0);
	CHECK_EQ(futex(&word2, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0), 1);
	/* One woken, the rest moved back: the sum is returned. */
	CHECK_EQ(futex(&word2, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)10, &word, 0), 2);
	CHECK_EQ(futex(&word, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0), 1);
	for (int i = 0; i < 3; i++)
		pthread_join(w[i].thread, NULL);
	CHECK_EQ(futex(&word, FUTEX_REQUEUE_PRIVATE, 1, (void *)1, &word2, 0), 0);
	CHECK_ERRNO(futex(&word, FUTEX_CMP_REQUEUE_PRIVATE, -1, (void *)1, &word2, 0), EINVAL);
}

TEST(wake_op)
{
	struct waiter a[1] = {0}, b[1] = {0};
	word = word2 = 0;
	launch(a, 1, &word);
	launch(b, 1, &word2);
	int woken = 0;
	while (woken < 2) {
		int old = word2;
		/* *word2 += 1; wake 1 on word; and 1 on word2 when the old value was >= 0 */
		int r = futex(&word, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &word2,
			      FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_GE, 0));
		if (r < 0 || word2 != old + 1)
			break;
		woken += r;
		if (woken < 2)
			word2 = 0; /* it may not be waiting yet: let its check pass */
	}
	CHECK_EQ(woken, 2);
	pthread_join(a->thread, NULL), pthread_join(b->thread, NULL);
	word2 = 12;
	CHECK_EQ(futex(&word, FUTEX_WAKE_OP, 1, (void *)1, &word2, FUTEX_OP(FUTEX_OP_SET, 7, FUTEX_OP_CMP_EQ, 0)), 0);
	CHECK_EQ(word2, 7);
	futex(&word, FUTEX_WAKE_OP, 1, (void *)1, &word2, FUTEX_OP(FUTEX_OP_OR, 8, FUTEX_OP_CMP_EQ, 0));
	CHECK_EQ(word2, 15);
	futex(&word, FUTEX_WAKE_OP, 1, (void *)1, &word2, FUTEX_OP(FUTEX_OP_ANDN, 3, FUTEX_OP_CMP_EQ, 0));
	CHECK_EQ(word2, 12);
	futex(&word, FUTEX_WAKE_OP, 1, (void *)1, &word2, FUTEX_OP(FUTEX_OP_XOR, 5, FUTEX_OP_CMP_EQ, 0));
	CHECK_EQ(word2, 9);
	futex(&word, FUTEX_WAKE_OP, 1, (void *)1, &word2,
	      FUTEX_OP((FUTEX_OP_OR | FUTEX_OP_OPARG_SHIFT), 6, FUTEX_OP_CMP_EQ, 0));
	CHECK_EQ(word2, 64 | 9);
}

TEST(between_processes)
{
	/* Without FUTEX_PRIVATE_FLAG the key is the page, wherever it is mapped. */
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	ftruncate(fd, 4096);
	volatile int *a = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	pid_t child = tap_fork();
	if (child == 0) {
		volatile int *b = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		while (*b == 0)
			futex(b, FUTEX_WAIT, 0, NULL, NULL, 0);
		_exit(*b);
	}
	*a = 6;
	futex(a, FUTEX_WAKE, 1, NULL, NULL, 0);
	CHECK_EQ(WEXITSTATUS(tap_reap(child)), 6);
	munmap((void *)a, 4096);
	close(fd);
	/* The same for anonymous shared memory at one address; a private page is not shared. */
	a = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	child = tap_fork();
	if (child == 0) {
		while (*a == 0)
			futex(a, FUTEX_WAIT, 0, NULL, NULL, 0);
		_exit(*a);
	}
	*a = 7;
	futex(a, FUTEX_WAKE, 1, NULL, NULL, 0);
	CHECK_EQ(WEXITSTATUS(tap_reap(child)), 7);
	munmap((void *)a, 4096);
}

static void *takes_pi(void *arg)
{
	long r = futex(arg, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0);
	int mine = (*(volatile int *)arg & FUTEX_TID_MASK) == syscall(SYS_gettid);
	futex(arg, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0);
	return (void *)(intptr_t)(r == 0 && mine);
}

TEST(pi)
{
	word = 0;
	if (futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0) == -1 && errno == ENOSYS)
		SKIP("no priority-inheritance futexes");
	CHECK_EQ(word & FUTEX_TID_MASK, getpid());
	CHECK_ERRNO(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0), EDEADLK);
	CHECK_ERRNO(futex(&word, FUTEX_TRYLOCK_PI_PRIVATE, 0, NULL, NULL, 0), EDEADLK);
	pthread_t t;
	void *ok = NULL;
	pthread_create(&t, NULL, takes_pi, (void *)&word);
	while (!(*(volatile int *)&word & FUTEX_WAITERS))
		sched_yield(); /* the waiter sets the bit */
	CHECK_OK(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
	pthread_join(t, &ok);
	CHECK_EQ((intptr_t)ok, 1);
	CHECK_EQ(word, 0);
	CHECK_ERRNO(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0), EPERM);
	word = 0x3ffffff0; /* an owner that does not exist */
	CHECK_ERRNO(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0), ESRCH);
}

TEST(robust_list)
{
	/* The kernel marks what a dead thread held (set_robust_list(2)). */
	struct node {
		struct robust_list list;
		volatile int lock;
	} *n = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	IN_CHILD
	{
		static struct robust_list_head head;
		head.list.next = &n->list;
		n->list.next = &head.list;
		head.futex_offset = offsetof(struct node, lock);
		CHECK_OK(syscall(SYS_set_robust_list, &head, sizeof head));
		n->lock = syscall(SYS_gettid) | FUTEX_WAITERS;
		struct robust_list_head *got;
		size_t size;
		CHECK_OK(syscall(SYS_get_robust_list, 0, &got, &size));
		CHECK(got == &head && size == sizeof head);
	}
	CHECK_EQ((unsigned)n->lock, FUTEX_OWNER_DIED | FUTEX_WAITERS);
	CHECK_ERRNO(syscall(SYS_set_robust_list, n, 5), EINVAL);
	CHECK_ERRNO(syscall(SYS_get_robust_list, 999999, n, n), ESRCH);
	munmap(n, 4096);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static volatile long counter;
static void *counts(void *arg)
{
	for (int i = 0; i < 2000; i++) {
		pthread_mutex_lock(&mutex);
		counter++;
		pthread_mutex_unlock(&mutex);
	}
	return arg;
}

TEST(contended_counter)
{
	pthread_t t[4];
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, counts, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	CHECK_EQ(counter, 8000);
}
