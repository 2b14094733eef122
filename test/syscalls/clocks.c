/* clock_gettime(2), clock_getres(2), nanosleep(2), clock_nanosleep(2), gettimeofday(2), time(2), times(2),
 * getrusage(2), adjtimex(2) to read; the vDSO against the calls. */
#include "tap.h"
#include <elf.h>
#include <sys/auxv.h>
#include <sys/times.h>
#include <sys/timex.h>

static int64_t ns(struct timespec t)
{
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static int64_t now(int clock)
{
	struct timespec t;
	return syscall(SYS_clock_gettime, clock, &t) == 0 ? ns(t) : -1;
}

TEST(clocks)
{
	static const int ids[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE,
				  CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID,
				  CLOCK_THREAD_CPUTIME_ID};
	struct timespec r;
	for (unsigned i = 0; i < sizeof ids / sizeof *ids; i++) {
		int64_t a = now(ids[i]), b = now(ids[i]);
		CHECK_NAMED(a >= 0 && b >= a, "a clock reads and does not go back");
		CHECK_OK(clock_getres(ids[i], &r));
		CHECK(r.tv_sec == 0 && r.tv_nsec >= 1);
	}
	CHECK_ERRNO(syscall(SYS_clock_gettime, 99, &r), EINVAL);
	CHECK_ERRNO(syscall(SYS_clock_getres, 99, &r), EINVAL);
	CHECK_ERRNO(syscall(SYS_clock_gettime, CLOCK_REALTIME, 8), EFAULT);
	CHECK_OK(syscall(SYS_clock_getres, CLOCK_REALTIME, NULL));
	CHECK(now(CLOCK_BOOTTIME) >= now(CLOCK_MONOTONIC) - 1000000);
	CHECK(now(CLOCK_REALTIME) > 1500000000LL * 1000000000); /* after 2017 */
	struct timespec bad = {0, 1000000000};
	CHECK_ERRNO(syscall(SYS_clock_settime, CLOCK_REALTIME, &bad), EINVAL);
	CHECK_ERRNO(syscall(SYS_clock_settime, CLOCK_MONOTONIC, &r), EINVAL);
}

TEST(agreement)
{
	struct timeval tv;
	struct timezone tz;
	int64_t a = now(CLOCK_REALTIME);
	CHECK_OK(syscall(SYS_gettimeofday, &tv, &tz));
	int64_t b = now(CLOCK_REALTIME), t = tv.tv_sec * 1000000000LL + tv.tv_usec * 1000LL;
	CHECK(t >= a - 1000 && t <= b);
	CHECK_OK(syscall(SYS_gettimeofday, NULL, NULL));
	time_t s;
	time_t s2 = syscall(SYS_time, &s);
	CHECK_EQ(s, s2);
	CHECK(s >= a / 1000000000 - 1 && s <= now(CLOCK_REALTIME) / 1000000000 + 1);
	CHECK_ERRNO(syscall(SYS_gettimeofday, 8, NULL), EFAULT);
	/* libc goes through the vDSO where there is one: it must tell the same time. */
	struct timespec v;
	a = now(CLOCK_MONOTONIC);
	clock_gettime(CLOCK_MONOTONIC, &v);
	b = now(CLOCK_MONOTONIC);
	CHECK(ns(v) >= a && ns(v) <= b);
	a = now(CLOCK_REALTIME);
	clock_gettime(CLOCK_REALTIME, &v);
	b = now(CLOCK_REALTIME);
	CHECK(ns(v) >= a && ns(v) <= b);
}

/* vdso finds a function in the vDSO's dynamic symbols. */
static void *vdso(const char *name)
{
	uintptr_t base = getauxval(AT_SYSINFO_EHDR);
	if (!base)
		return NULL;
	Elf64_Ehdr *h = (void *)base;
	Elf64_Phdr *p = (void *)(base + h->e_phoff);
	uintptr_t load = 0;
	Elf64_Dyn *d = NULL;
	for (int i = 0; i < h->e_phnum; i++) {
		if (p[i].p_type == PT_LOAD && load == 0)
			load = base - p[i].p_vaddr;
		if (p[i].p_type == PT_DYNAMIC)
			d = (void *)(base + p[i].p_offset);
	}
	Elf64_Sym *sym = NULL;
	const char *str = NULL;
	for (; d && d->d_tag; d++) {
		if (d->d_tag == DT_SYMTAB)
			sym = (void *)(load + d->d_un.d_ptr);
		if (d->d_tag == DT_STRTAB)
			str = (void *)(load + d->d_un.d_ptr);
	}
	/* The string table follows the symbols in every vDSO there is. */
	for (Elf64_Sym *s = sym; s && str && (const char *)s < str; s++)
		if (s->st_name && s->st_shndx && strcmp(str + s->st_name, name) == 0)
			return (void *)(load + s->st_value);
	return NULL;
}

TEST(vdso)
{
	if (!getauxval(AT_SYSINFO_EHDR))
		SKIP("no vDSO in the auxiliary vector");
	CHECK(memcmp((void *)getauxval(AT_SYSINFO_EHDR), "\177ELF", 4) == 0);
	int (*gettime)(int, struct timespec *) = vdso("__vdso_clock_gettime");
	int (*timeofday)(struct timeval *, void *) = vdso("__vdso_gettimeofday");
	time_t (*vtime)(time_t *) = vdso("__vdso_time");
	int (*cpu)(unsigned *, unsigned *, void *) = vdso("__vdso_getcpu");
	CHECK(gettime && timeofday && vtime && cpu);
	if (!gettime || !timeofday || !vtime || !cpu)
		return;
	struct timespec t;
	int64_t a = now(CLOCK_MONOTONIC);
	CHECK_EQ(gettime(CLOCK_MONOTONIC, &t), 0);
	CHECK(ns(t) >= a && ns(t) <= now(CLOCK_MONOTONIC));
	CHECK_EQ(gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0); /* falls back to the call */
	CHECK_EQ(gettime(99, &t), -EINVAL);
	struct timeval tv;
	CHECK_EQ(timeofday(&tv, NULL), 0);
	time_t s = vtime(NULL);
	CHECK(s >= tv.tv_sec - 1 && s <= tv.tv_sec + 1);
	unsigned c = 9999;
	CHECK_EQ(cpu(&c, NULL, NULL), 0);
	CHECK(c < 4096);
}

TEST(nanosleep)
{
	struct timespec t = {0, 3000000}, left = {5, 5};
	int64_t a = now(CLOCK_MONOTONIC);
	CHECK_OK(nanosleep(&t, &left));
	CHECK(now(CLOCK_MONOTONIC) - a >= 3000000);
	CHECK_EQ(left.tv_sec, 5); /* written only when interrupted */
	t.tv_nsec = 1000000000;
	CHECK_ERRNO(nanosleep(&t, NULL), EINVAL);
	t = (struct timespec){-1, 0};
	CHECK_ERRNO(nanosleep(&t, NULL), EINVAL);
	CHECK_ERRNO(syscall(SYS_nanosleep, 8, NULL), EFAULT);
	t = (struct timespec){0, 0};
	CHECK_OK(nanosleep(&t, NULL));
	clock_gettime(CLOCK_MONOTONIC, &t);
	int64_t goal = ns(t) + 2000000;
	t = (struct timespec){goal / 1000000000, goal % 1000000000};
	CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL), 0);
	CHECK(now(CLOCK_MONOTONIC) >= goal);
	t = (struct timespec){1, 0};
	CHECK_EQ(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL), 0); /* long ago */
	CHECK_EQ(clock_nanosleep(99, 0, &t, NULL), EINVAL);
	CHECK_EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &t, NULL), EINVAL);
	CHECK_ERRNO(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC_RAW, 0, &t, NULL), EOPNOTSUPP);
}

TEST(cpu_time)
{
	int64_t a = now(CLOCK_PROCESS_CPUTIME_ID), t = now(CLOCK_THREAD_CPUTIME_ID);
	struct rusage before, after;
	struct tms tm;
	getrusage(RUSAGE_SELF, &before);
	while (now(CLOCK_PROCESS_CPUTIME_ID) - a < 30000000)
		;
	CHECK(now(CLOCK_THREAD_CPUTIME_ID) - t >= 25000000);
	CHECK_OK(getrusage(RUSAGE_SELF, &after));
	int64_t used = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000LL + after.ru_utime.tv_usec -
		       before.ru_utime.tv_usec + (after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000LL +
		       after.ru_stime.tv_usec - before.ru_stime.tv_usec;
	CHECK(used >= 20000);
	CHECK(times(&tm) != -1);
	CHECK(tm.tms_utime + tm.tms_stime >= 1);
	CHECK_EQ(sysconf(_SC_CLK_TCK), 100);
	CHECK_OK(getrusage(RUSAGE_THREAD, &after));
	CHECK_ERRNO(getrusage(77, &after), EINVAL);
	CHECK_ERRNO(syscall(SYS_getrusage, RUSAGE_SELF, 8), EFAULT);
	clockid_t c;
	CHECK_EQ(clock_getcpuclockid(0, &c), 0);
	CHECK(now(c) >= a);
}

TEST(adjtimex_reads)
{
	struct timex x = {.modes = 0};
	int r = adjtimex(&x);
	if (r == -1 && errno == ENOSYS)
		SKIP("no adjtimex");
	CHECK(r >= 0 && r <= 5);
	CHECK(x.tick >= 9000 && x.tick <= 11000);
}
