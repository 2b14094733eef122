/* access(2), faccessat(2): the answer is for the real ids. */
#include "tap.h"

TEST(root)
{
	tap_write_file("f", "");
	chmod("f", 0);
	CHECK_OK(access("f", F_OK));
	CHECK_OK(access("f", R_OK | W_OK));
	/* Root may execute only what someone may execute. */
	CHECK_ERRNO(access("f", X_OK), EACCES);
	chmod("f", 0001);
	CHECK_OK(access("f", X_OK));
	mkdir("d", 0);
	CHECK_OK(access("d", R_OK | W_OK | X_OK));
	CHECK_ERRNO(access("none", F_OK), ENOENT);
	CHECK_ERRNO(access("f", 8), EINVAL);
	CHECK_ERRNO(access("f/x", F_OK), ENOTDIR);
}

TEST(classes)
{
	tap_write_file("f", "");
	chown("f", 12345, 12346);
	chmod("f", 0421);
	IN_CHILD
	{
		tap_become(12345, 12346); /* the owner's bits count, though the group has more */
		CHECK_OK(access("f", R_OK));
		CHECK_ERRNO(access("f", W_OK), EACCES);
		CHECK_ERRNO(access("f", X_OK), EACCES);
	}
	IN_CHILD
	{
		tap_become(12347, 12346);
		CHECK_OK(access("f", W_OK));
		CHECK_ERRNO(access("f", R_OK), EACCES);
	}
	IN_CHILD
	{
		tap_become(12347, 12347);
		CHECK_OK(access("f", X_OK));
		CHECK_ERRNO(access("f", R_OK | X_OK), EACCES);
	}
	IN_CHILD
	{
		gid_t extra[] = {12346};
		CHECK_OK(syscall(SYS_setgroups, 1, extra));
		syscall(SYS_setresgid, 5, 5, 5);
		syscall(SYS_setresuid, 12347, 12347, 12347);
		CHECK_OK(access("f", W_OK)); /* a supplementary group is as good */
	}
}

TEST(real_ids)
{
	tap_write_file("f", "");
	chmod("f", 0600);
	IN_CHILD
	{
		CHECK_OK(syscall(SYS_setresuid, 12345, 0, 0));
		CHECK_ERRNO(access("f", R_OK), EACCES);
		CHECK(open("f", O_RDONLY) >= 0); /* the effective ids still open it */
		long r = syscall(SYS_faccessat2, AT_FDCWD, "f", R_OK, AT_EACCESS);
		CHECK(r == 0 || errno == ENOSYS);
	}
	IN_CHILD
	{
		CHECK_OK(syscall(SYS_setresuid, 0, 12345, 0));
		CHECK_OK(access("f", R_OK));
		CHECK_ERRNO(open("f", O_RDONLY), EACCES);
	}
}

TEST(at)
{
	mkdir("d", 0755);
	tap_write_file("d/f", "");
	int d = open("d", O_RDONLY);
	CHECK_OK(syscall(SYS_faccessat, d, "f", F_OK));
	CHECK_ERRNO(syscall(SYS_faccessat, d, "g", F_OK), ENOENT);
	CHECK_ERRNO(syscall(SYS_faccessat, -5, "f", F_OK), EBADF);
	CHECK_ERRNO(syscall(SYS_faccessat, d, NULL, F_OK), EFAULT);
	symlink("nowhere", "l");
	CHECK_ERRNO(access("l", F_OK), ENOENT);
	close(d);
}
