/* credentials(7): setuid(2), setresuid(2), setreuid(2), setgroups(2), setfsuid(2). */
#include "tap.h"
#include <sys/fsuid.h>

/* libc broadcasts id changes to all threads; the kernel's calls are per thread. */
static int ids(uid_t r, uid_t e, uid_t s)
{
	uid_t a, b, c;
	return syscall(SYS_getresuid, &a, &b, &c) == 0 && a == r && b == e && c == s;
}
static int gids(gid_t r, gid_t e, gid_t s)
{
	gid_t a, b, c;
	return syscall(SYS_getresgid, &a, &b, &c) == 0 && a == r && b == e && c == s;
}

TEST(root)
{
	CHECK(ids(0, 0, 0));
	IN_CHILD
	{
		CHECK_OK(syscall(SYS_setuid, 1000)); /* from root all three change */
		CHECK(ids(1000, 1000, 1000));
		CHECK_ERRNO(syscall(SYS_setuid, 0), EPERM);
		CHECK_OK(syscall(SYS_setuid, 1000));
	}
	IN_CHILD
	{
		CHECK_OK(syscall(SYS_setgid, 1000));
		CHECK(gids(1000, 1000, 1000));
		CHECK_OK(syscall(SYS_setgid, 5)); /* still root */
	}
	IN_CHILD
	{
		CHECK_ERRNO(syscall(SYS_setuid, -1), EINVAL);
		CHECK_ERRNO(syscall(SYS_setgid, -1), EINVAL);
		CHECK_ERRNO(syscall(SYS_getresuid, 8, 8, 8), EFAULT);
	}
}

TEST(temporarily)
{
	IN_CHILD
	{
		CHECK_OK(syscall(SYS_setresuid, -1, 1000, -1));
		CHECK(ids(0, 1000, 0));
		CHECK_EQ(syscall(SYS_geteuid), 1000);
		CHECK_EQ(syscall(SYS_getuid), 0);
		CHECK(!tap_capable(21)); /* effective capabilities go with effective uid 0 */
		CHECK_ERRNO(syscall(SYS_setresuid, -1, 5, -1), EPERM);
		CHECK_OK(syscall(SYS_setresuid, -1, 0, -1));
		CHECK(tap_capable(6)); /* and come back, from the permitted set */
		CHECK_OK(syscall(SYS_setresuid, 1, 2, 3));
		CHECK(ids(1, 2, 3));
		CHECK_OK(syscall(SYS_setresuid, 3, 1, 2)); /* any order of one's own */
		CHECK_ERRNO(syscall(SYS_setresuid, 0, -1, -1), EPERM);
	}
	IN_CHILD
	{
		/* setreuid: the saved id follows the effective one when the real is set. */
		CHECK_OK(syscall(SYS_setreuid, 10, 20));
		CHECK(ids(10, 20, 20));
		CHECK_OK(syscall(SYS_setreuid, -1, 10));
		CHECK(ids(10, 10, 20));
		CHECK_OK(syscall(SYS_setreuid, -1, 20));
		CHECK(ids(10, 20, 20));
		CHECK_OK(syscall(SYS_setuid, 10)); /* not root: only the effective one */
		CHECK(ids(10, 10, 20));
	}
	IN_CHILD
	{
		CHECK_OK(syscall(SYS_setregid, 10, 20));
		CHECK(gids(10, 20, 20));
		CHECK_OK(syscall(SYS_setresgid, 7, 8, 9));
		CHECK(gids(7, 8, 9));
	}
}

TEST(groups)
{
	IN_CHILD
	{
		gid_t set[] = {30, 10, 20, 10}, got[8];
		CHECK_OK(syscall(SYS_setgroups, 4, set));
		CHECK_EQ(getgroups(0, NULL), 4);
		CHECK_EQ(getgroups(8, got), 4);
		CHECK(got[0] == 10 && got[3] == 30); /* the kernel sorts them */
		CHECK_ERRNO(syscall(SYS_getgroups, 2, got), EINVAL);
		CHECK_ERRNO(syscall(SYS_getgroups, -1, got), EINVAL);
		CHECK_ERRNO(syscall(SYS_setgroups, 65537, set), EINVAL);
		CHECK_ERRNO(syscall(SYS_setgroups, 4, 8), EFAULT);
		CHECK_OK(syscall(SYS_setgroups, 0, NULL));
		CHECK_EQ(getgroups(8, got), 0);
		syscall(SYS_setresuid, 1000, 1000, 1000);
		CHECK_ERRNO(syscall(SYS_setgroups, 1, set), EPERM);
	}
}

TEST(fsuid)
{
	tap_write_file("f", "");
	chmod("f", 0600);
	IN_CHILD
	{
		CHECK_EQ(syscall(SYS_setfsuid, 12345), 0); /* returns the old one, always */
		CHECK_EQ(syscall(SYS_setfsuid, -1), 12345);
		CHECK_ERRNO(open("f", O_RDONLY), EACCES);
		CHECK_OK(kill(getpid(), 0));
		umask(0);
		chmod(".", 0777);
		CHECK_ERRNO(chmod(".", 0777), EPERM); /* not the owner of it now */
		CHECK_EQ(syscall(SYS_setfsuid, 0), 12345);
		CHECK(open("f", O_RDONLY) >= 0);
		CHECK_EQ(syscall(SYS_setfsgid, 77), 0);
		int fd = open("g", O_CREAT | O_RDWR, 0600);
		struct stat st;
		fstat(fd, &st);
		CHECK_EQ(st.st_gid, 77);
		CHECK_OK(syscall(SYS_setresuid, -1, 55, -1)); /* it follows the effective id */
		CHECK_EQ(syscall(SYS_setfsuid, -1), 55);
	}
}

TEST(new_files_belong_to_the_creator)
{
	mkdir("d", 0777);
	chmod("d", 0777);
	IN_CHILD
	{
		struct stat st;
		tap_become(12345, 12346);
		CHECK_OK(tap_write_file("d/f", ""));
		stat("d/f", &st);
		CHECK_EQ(st.st_uid, 12345);
		CHECK_EQ(st.st_gid, 12346);
		CHECK_OK(mkdir("d/e", 0755));
		CHECK_OK(symlink("x", "d/l"));
		lstat("d/l", &st);
		CHECK_EQ(st.st_uid, 12345);
	}
}
