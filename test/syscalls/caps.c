/* capabilities(7): capget(2), capset(2), PR_CAPBSET_*, PR_SET_KEEPCAPS, securebits, ambient. */
#include "tap.h"
#include <linux/capability.h>
#include <linux/securebits.h>

struct sets {
	uint32_t e, p, i;
};
static struct __user_cap_header_struct v3(int pid)
{
	return (struct __user_cap_header_struct){_LINUX_CAPABILITY_VERSION_3, pid};
}
static int get(uint64_t *e, uint64_t *p, uint64_t *i)
{
	struct __user_cap_header_struct h = v3(0);
	struct sets d[2];
	if (syscall(SYS_capget, &h, d) != 0)
		return -1;
	*e = d[0].e | (uint64_t)d[1].e << 32, *p = d[0].p | (uint64_t)d[1].p << 32;
	*i = d[0].i | (uint64_t)d[1].i << 32;
	return 0;
}
static int set(uint64_t e, uint64_t p, uint64_t i)
{
	struct __user_cap_header_struct h = v3(0);
	struct sets d[2] = {{e, p, i}, {e >> 32, p >> 32, i >> 32}};
	return syscall(SYS_capset, &h, d);
}
#define BIT(c) (1ULL << (c))

TEST(versions)
{
	struct __user_cap_header_struct h = {0x1234, 0};
	struct sets d[2];
	CHECK_ERRNO(syscall(SYS_capget, &h, d), EINVAL);
	CHECK_EQ(h.version, _LINUX_CAPABILITY_VERSION_3); /* tells what it prefers */
	h.version = 0;
	CHECK_OK(syscall(SYS_capget, &h, NULL)); /* asking that way is no error */
	CHECK_EQ(h.version, _LINUX_CAPABILITY_VERSION_3);
	h = v3(999999);
	CHECK_ERRNO(syscall(SYS_capget, &h, d), ESRCH);
	h = v3(-1);
	CHECK_ERRNO(syscall(SYS_capget, &h, d), EINVAL);
	h = v3(0);
	CHECK_ERRNO(syscall(SYS_capget, &h, 8), EFAULT);
	CHECK_ERRNO(syscall(SYS_capget, 8, d), EFAULT);
	pid_t child = tap_fork();
	if (child == 0)
		for (;;)
			pause();
	h = v3(child);
	CHECK_OK(syscall(SYS_capget, &h, d));
	CHECK_ERRNO(syscall(SYS_capset, &h, d), EPERM); /* only one's own */
	kill(child, SIGKILL);
	tap_reap(child);
}

TEST(drop)
{
	uint64_t e, p, i;
	IN_CHILD
	{
		CHECK_OK(get(&e, &p, &i));
		CHECK(e & BIT(CAP_CHOWN));
		tap_write_file("f", "");
		CHECK_OK(chown("f", 5, 5));
		CHECK_OK(set(e & ~BIT(CAP_CHOWN), p, i)); /* set aside */
		CHECK_ERRNO(chown("f", 6, 6), EPERM);
		CHECK_OK(set(e, p, i));
		CHECK_OK(chown("f", 6, 6));
		CHECK_OK(set(e & ~BIT(CAP_CHOWN), p & ~BIT(CAP_CHOWN), i)); /* for good */
		CHECK_ERRNO(set(e, p, i), EPERM);
		CHECK_ERRNO(set(e, p & ~BIT(CAP_CHOWN), i), EPERM); /* effective beyond permitted */
		CHECK_ERRNO(chown("f", 7, 7), EPERM);
		CHECK_EQ(getuid(), 0);
	}
	IN_CHILD
	{
		chmod(".", 0700);
		get(&e, &p, &i);
		set(e & ~(BIT(CAP_DAC_OVERRIDE) | BIT(CAP_DAC_READ_SEARCH)), p, i);
		tap_write_file("g", "");
		chmod("g", 0);
		CHECK_ERRNO(open("g", O_RDONLY), EACCES); /* root without it is a user like others */
		set((e & ~BIT(CAP_DAC_OVERRIDE)) | BIT(CAP_DAC_READ_SEARCH), p, i);
		CHECK(open("g", O_RDONLY) >= 0);
		CHECK_ERRNO(open("g", O_WRONLY), EACCES);
	}
}

TEST(uid_changes)
{
	uint64_t e, p, i;
	IN_CHILD
	{
		syscall(SYS_setresuid, 1000, 1000, 1000);
		get(&e, &p, &i);
		CHECK_EQ(e | p, 0);
	}
	IN_CHILD
	{
		CHECK_EQ(prctl(PR_GET_KEEPCAPS), 0);
		CHECK_OK(prctl(PR_SET_KEEPCAPS, 1));
		CHECK_EQ(prctl(PR_GET_KEEPCAPS), 1);
		CHECK_ERRNO(prctl(PR_SET_KEEPCAPS, 2), EINVAL);
		syscall(SYS_setresuid, 1000, 1000, 1000);
		get(&e, &p, &i);
		CHECK_EQ(e, 0);
		CHECK(p != 0); /* permitted is kept, effective is not */
		CHECK_OK(set(BIT(CAP_SETUID), p, i));
		CHECK_OK(syscall(SYS_setresuid, 5, 5, 5));
	}
}

TEST(bounding_set)
{
	CHECK_EQ(prctl(PR_CAPBSET_READ, CAP_CHOWN), 1);
	CHECK_ERRNO(prctl(PR_CAPBSET_READ, 63), EINVAL);
	IN_CHILD
	{
		CHECK_OK(prctl(PR_CAPBSET_DROP, CAP_CHOWN));
		CHECK_EQ(prctl(PR_CAPBSET_READ, CAP_CHOWN), 0);
		CHECK(tap_capable(CAP_CHOWN)); /* still held until the next exec */
		CHECK_ERRNO(prctl(PR_CAPBSET_DROP, 63), EINVAL);
		tap_become(1000, 1000);
		CHECK_ERRNO(prctl(PR_CAPBSET_DROP, CAP_KILL), EPERM);
	}
	CHECK_EQ(prctl(PR_CAPBSET_READ, CAP_CHOWN), 1);
}

TEST(securebits)
{
	uint64_t e, p, i;
	CHECK_EQ(prctl(PR_GET_SECUREBITS), 0);
	IN_CHILD
	{
		CHECK_OK(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED));
		syscall(SYS_setresuid, 1000, 1000, 1000);
		get(&e, &p, &i);
		CHECK(e != 0 && p != 0); /* no change of sets with the ids */
		CHECK_ERRNO(prctl(PR_SET_SECUREBITS, 0), EPERM); /* locked */
		CHECK_ERRNO(prctl(PR_SET_SECUREBITS, 0x4000), EPERM);
	}
	IN_CHILD
	{
		tap_become(1000, 1000);
		CHECK_ERRNO(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT), EPERM);
	}
}

TEST(ambient)
{
	uint64_t e, p, i;
	int r = prctl(47 /* PR_CAP_AMBIENT, 4.3 */, 1 /* IS_SET */, CAP_KILL, 0, 0);
	if (r == -1 && errno == EINVAL)
		SKIP("no ambient capabilities");
	CHECK_EQ(r, 0);
	IN_CHILD
	{
		CHECK_ERRNO(prctl(47, 2 /* RAISE */, CAP_KILL, 0, 0), EPERM); /* must be inheritable too */
		get(&e, &p, &i);
		CHECK_OK(set(e, p, i | BIT(CAP_KILL)));
		CHECK_OK(prctl(47, 2, CAP_KILL, 0, 0));
		CHECK_EQ(prctl(47, 1, CAP_KILL, 0, 0), 1);
		CHECK_OK(set(e, p, i)); /* losing inheritable loses ambient */
		CHECK_EQ(prctl(47, 1, CAP_KILL, 0, 0), 0);
		CHECK_OK(prctl(47, 4 /* CLEAR_ALL */, 0, 0, 0));
		CHECK_ERRNO(prctl(47, 1, 63, 0, 0), EINVAL);
		CHECK_ERRNO(prctl(47, 9, CAP_KILL, 0, 0), EINVAL);
	}
}
