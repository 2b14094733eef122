/* uname(2), sethostname(2), sysinfo(2), getrandom(2), getcpu(2), personality(2), priorities, scheduling. */
#include "tap.h"
#include <sys/personality.h>
#include <sys/random.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

TEST(uname)
{
	struct utsname u;
	int major = 0, minor = 0;
	CHECK_OK(uname(&u));
	CHECK_STR(u.sysname, "Linux");
	CHECK_STR(u.machine, "x86_64");
	CHECK_EQ(sscanf(u.release, "%d.%d", &major, &minor), 2);
	CHECK(major > 4 || (major == 4 && minor >= 4));
	CHECK_ERRNO(syscall(SYS_uname, 8), EFAULT);
}

TEST(hostname)
{
	if (!tap_capable(21))
		SKIP("needs CAP_SYS_ADMIN");
	struct utsname before, u;
	uname(&before);
	IN_CHILD
	{
		CHECK_OK(unshare(CLONE_NEWUTS));
		CHECK_OK(sethostname("glass", 5));
		uname(&u);
		CHECK_STR(u.nodename, "glass");
		CHECK_OK(setdomainname("case", 4));
		uname(&u);
		CHECK_STR(u.domainname, "case");
		char buf[80];
		tap_read_file("/proc/sys/kernel/hostname", buf, sizeof buf);
		CHECK_STR(buf, "glass\n");
		CHECK_ERRNO(syscall(SYS_sethostname, "x", 65), EINVAL);
		CHECK_ERRNO(syscall(SYS_sethostname, "x", -1), EINVAL);
		CHECK_ERRNO(syscall(SYS_sethostname, 8, 4), EFAULT);
		CHECK_OK(sethostname("", 0));
		tap_become(12345, 12345);
		CHECK_ERRNO(sethostname("x", 1), EPERM);
	}
	uname(&u);
	CHECK_STR(u.nodename, before.nodename);
}

TEST(sysinfo)
{
	struct sysinfo s;
	CHECK_OK(sysinfo(&s));
	CHECK(s.uptime > 0 || s.uptime == 0);
	CHECK(s.totalram > 0);
	CHECK(s.freeram <= s.totalram);
	CHECK(s.procs > 0);
	CHECK(s.mem_unit > 0);
	CHECK_ERRNO(syscall(SYS_sysinfo, 8), EFAULT);
}

TEST(getrandom)
{
	unsigned char a[64] = {0}, b[64] = {0};
	CHECK_EQ(getrandom(a, 64, 0), 64);
	CHECK_EQ(getrandom(b, 64, GRND_NONBLOCK), 64);
	CHECK(memcmp(a, b, 64) != 0);
	CHECK_EQ(getrandom(a, 16, GRND_RANDOM | GRND_NONBLOCK) > 0 || errno == EAGAIN, 1);
	CHECK_EQ(syscall(SYS_getrandom, a, 0, 0), 0);
	CHECK_ERRNO(syscall(SYS_getrandom, a, 8, 0x100), EINVAL);
	CHECK_ERRNO(syscall(SYS_getrandom, 8, 8, 0), EFAULT);
}

TEST(getcpu)
{
	unsigned cpu = 99999, node = 99999;
	CHECK_OK(syscall(SYS_getcpu, &cpu, &node, NULL));
	CHECK(cpu < 8192);
	CHECK(node < 1024);
	CHECK_OK(syscall(SYS_getcpu, NULL, NULL, NULL));
	CHECK_ERRNO(syscall(SYS_getcpu, 8, NULL, NULL), EFAULT);
}

TEST(affinity)
{
	cpu_set_t set, one, got;
	CHECK_OK(sched_getaffinity(0, sizeof set, &set));
	int n = CPU_COUNT(&set), first = 0;
	CHECK(n >= 1);
	while (!CPU_ISSET(first, &set))
		first++;
	IN_CHILD
	{
		CPU_ZERO(&one);
		CPU_SET(first, &one);
		CHECK_OK(sched_setaffinity(0, sizeof one, &one));
		CHECK_OK(sched_getaffinity(0, sizeof got, &got));
		CHECK(CPU_EQUAL(&one, &got));
		IN_CHILD
		{
			sched_getaffinity(0, sizeof got, &got);
			CHECK(CPU_EQUAL(&one, &got));
		}
		CPU_ZERO(&one);
		CHECK_ERRNO(sched_setaffinity(0, sizeof one, &one), EINVAL);
		CHECK_ERRNO(sched_setaffinity(999999, sizeof set, &set), ESRCH);
		CHECK_ERRNO(syscall(SYS_sched_setaffinity, 0, 8, 8), EFAULT);
	}
	/* The kernel's call returns the bytes it wrote. */
	long r = syscall(SYS_sched_getaffinity, 0, sizeof set, &set);
	CHECK(r >= 8 && r % 8 == 0);
	CHECK_ERRNO(syscall(SYS_sched_getaffinity, 0, 3, &set), EINVAL); /* whole longs */
	CHECK_ERRNO(syscall(SYS_sched_getaffinity, 999999, sizeof set, &set), ESRCH);
}

TEST(policy)
{
	struct sched_param p = {0}, q = {77};
	CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
	CHECK_OK(sched_getparam(0, &q));
	CHECK_EQ(q.sched_priority, 0);
	CHECK_EQ(sched_get_priority_max(SCHED_OTHER), 0);
	CHECK_EQ(sched_get_priority_max(SCHED_FIFO), 99);
	CHECK_EQ(sched_get_priority_min(SCHED_RR), 1);
	CHECK_ERRNO(sched_get_priority_max(99), EINVAL);
	IN_CHILD
	{
		CHECK_OK(sched_setscheduler(0, SCHED_BATCH, &p));
		CHECK_EQ(sched_getscheduler(0), SCHED_BATCH);
		CHECK_OK(sched_setscheduler(0, SCHED_IDLE, &p));
		p.sched_priority = 5;
		CHECK_ERRNO(sched_setscheduler(0, SCHED_OTHER, &p), EINVAL);
		CHECK_ERRNO(sched_setscheduler(0, 99, &p), EINVAL);
		CHECK_ERRNO(sched_setscheduler(-1, SCHED_OTHER, &p), EINVAL);
		CHECK_ERRNO(sched_getscheduler(999999), ESRCH);
		CHECK_ERRNO(sched_getparam(0, NULL), EINVAL);
	}
	CHECK_OK(sched_yield());
	struct timespec t;
	CHECK_OK(sched_rr_get_interval(0, &t));
}

TEST(priority)
{
	errno = 0;
	int first = getpriority(PRIO_PROCESS, 0); /* the tests may run under nice(1) */
	CHECK(first >= 0 && first <= 19 && errno == 0);
	IN_CHILD
	{
		int to = first < 5 ? 5 : first;
		CHECK_OK(setpriority(PRIO_PROCESS, 0, to));
		CHECK_EQ(getpriority(PRIO_PROCESS, 0), to);
		CHECK_EQ(syscall(SYS_getpriority, PRIO_PROCESS, 0), 20 - to); /* the kernel returns 20 - nice */
		CHECK_OK(setpriority(PRIO_PROCESS, getpid(), 100)); /* clamped */
		CHECK_EQ(getpriority(PRIO_PROCESS, 0), 19);
		CHECK_EQ(nice(0), 19);
		CHECK_ERRNO(setpriority(99, 0, 5), EINVAL);
		CHECK_ERRNO(getpriority(99, 0), EINVAL);
		CHECK_ERRNO(setpriority(PRIO_PROCESS, 999999, 5), ESRCH);
		IN_CHILD
		{
			CHECK_EQ(getpriority(PRIO_PROCESS, 0), 19);
			tap_become(12345, 12345);
			struct rlimit r = {0, 0};
			setrlimit(RLIMIT_NICE, &r);
			CHECK_ERRNO(setpriority(PRIO_PROCESS, 0, 0), EACCES);
		}
	}
}

TEST(personality)
{
	int now = personality(0xffffffff);
	CHECK(now >= 0);
	IN_CHILD
	{
		CHECK_EQ(personality(now | ADDR_NO_RANDOMIZE), now); /* returns the old one */
		CHECK_EQ(personality(0xffffffff), now | ADDR_NO_RANDOMIZE);
		IN_CHILD
		{
			CHECK_EQ(personality(0xffffffff), now | ADDR_NO_RANDOMIZE);
		}
	}
}

TEST(ioprio)
{
	long r = syscall(SYS_ioprio_get, 1, 0);
	if (r == -1 && errno == ENOSYS)
		SKIP("no ioprio_get");
	CHECK(r >= 0);
	CHECK_ERRNO(syscall(SYS_ioprio_get, 99, 0), EINVAL);
	CHECK_ERRNO(syscall(SYS_ioprio_get, 1, 999999), ESRCH);
}

TEST(membarrier)
{
	long known = syscall(SYS_membarrier, 0, 0);
	CHECK(known > 0 && (known & 1)); /* MEMBARRIER_CMD_GLOBAL, the first there was */
	CHECK_OK(syscall(SYS_membarrier, 1, 0));
	CHECK_ERRNO(syscall(SYS_membarrier, 1, 0x100), EINVAL);
	CHECK_ERRNO(syscall(SYS_membarrier, 1 << 30, 0), EINVAL);
}
