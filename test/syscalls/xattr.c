/* xattr(7): setxattr(2), getxattr(2), listxattr(2), removexattr(2). */
#include "tap.h"
#include <sys/xattr.h>

static int unsupported(void)
{
	/* user.* needs a file system that has it; trusted.* is in tmpfs of any age (with CAP_SYS_ADMIN). */
	return setxattr("f", "trusted.t", "x", 1, 0) == -1 && (errno == ENOTSUP || errno == EPERM);
}

TEST(set_get_list)
{
	char buf[256];
	tap_write_file("f", "");
	if (unsupported())
		SKIP("no trusted extended attributes here");
	CHECK_EQ(getxattr("f", "trusted.t", buf, sizeof buf), 1);
	CHECK_EQ(buf[0], 'x');
	CHECK_OK(setxattr("f", "trusted.t", "longer", 6, 0));
	CHECK_EQ(getxattr("f", "trusted.t", NULL, 0), 6); /* asks the size */
	CHECK_ERRNO(getxattr("f", "trusted.t", buf, 5), ERANGE);
	CHECK_ERRNO(getxattr("f", "trusted.none", buf, 5), ENODATA);
	CHECK_ERRNO(setxattr("f", "trusted.t", "y", 1, XATTR_CREATE), EEXIST);
	CHECK_ERRNO(setxattr("f", "trusted.u", "y", 1, XATTR_REPLACE), ENODATA);
	CHECK_OK(setxattr("f", "trusted.u", "", 0, XATTR_CREATE));
	CHECK_EQ(getxattr("f", "trusted.u", buf, sizeof buf), 0);
	ssize_t n = listxattr("f", buf, sizeof buf);
	CHECK(n >= 20);
	CHECK(n > 0 && memmem(buf, n, "trusted.t", 10) && memmem(buf, n, "trusted.u", 10));
	CHECK_EQ(listxattr("f", NULL, 0), n);
	CHECK_ERRNO(listxattr("f", buf, 3), ERANGE);
	CHECK_OK(removexattr("f", "trusted.t"));
	CHECK_ERRNO(removexattr("f", "trusted.t"), ENODATA);
	int fd = open("f", O_RDWR);
	CHECK_OK(fsetxattr(fd, "trusted.v", "v", 1, 0));
	CHECK_EQ(fgetxattr(fd, "trusted.v", buf, sizeof buf), 1);
	CHECK(flistxattr(fd, buf, sizeof buf) > 0);
	CHECK_OK(fremovexattr(fd, "trusted.v"));
	close(fd);
	symlink("f", "l");
	CHECK_OK(lsetxattr("l", "trusted.link", "z", 1, 0));
	CHECK_ERRNO(getxattr("l", "trusted.link", buf, 1), ENODATA);
	CHECK_EQ(lgetxattr("l", "trusted.link", buf, 1), 1);
	CHECK_OK(link("f", "g"));
	CHECK_EQ(getxattr("g", "trusted.u", buf, 1), 0); /* of the inode */
}

TEST(errors)
{
	char buf[16];
	tap_write_file("f", "");
	CHECK_ERRNO(setxattr("none", "user.t", "x", 1, 0), ENOENT);
	CHECK_ERRNO(getxattr("none", "user.t", buf, 1), ENOENT);
	CHECK_ERRNO(fgetxattr(-1, "user.t", buf, 1), EBADF);
	CHECK_ERRNO(setxattr("f", "user.t", "x", 1, 4), EINVAL);
	CHECK_ERRNO(setxattr("f", "nonsense.t", "x", 1, 0), EOPNOTSUPP);
	CHECK_ERRNO(setxattr("f", "nodot", "x", 1, 0), EOPNOTSUPP);
	char name[300];
	memset(name, 'n', sizeof name);
	memcpy(name, "user.", 5);
	name[256] = 0;
	CHECK_ERRNO(setxattr("f", name, "x", 1, 0), ERANGE); /* XATTR_NAME_MAX is 255 */
	CHECK_ERRNO(setxattr("f", "", "x", 1, 0), ERANGE);
	CHECK_ERRNO(syscall(SYS_setxattr, "f", "user.t", "x", 65537, 0), E2BIG);
	CHECK_ERRNO(syscall(SYS_getxattr, "f", NULL, buf, 1), EFAULT);
}

TEST(permissions)
{
	tap_write_file("f", "");
	if (unsupported())
		SKIP("no trusted extended attributes here");
	IN_CHILD
	{
		char buf[64];
		tap_become(12345, 12345);
		/* To those without CAP_SYS_ADMIN trusted.* does not exist. */
		CHECK_ERRNO(getxattr("f", "trusted.t", buf, 1), ENODATA);
		CHECK_ERRNO(setxattr("f", "trusted.t", "x", 1, 0), EPERM);
		ssize_t n = listxattr("f", buf, sizeof buf);
		CHECK(n >= 0 && !memmem(buf, n, "trusted", 7));
	}
}

TEST(user_namespace_rules)
{
	tap_write_file("f", "");
	if (setxattr("f", "user.t", "x", 1, 0) == -1 && errno == EOPNOTSUPP)
		SKIP("the file system of /tmp has no user.* attributes");
	symlink("f", "l");
	mkfifo("p", 0600);
	mkdir("t", 01777);
	CHECK_ERRNO(lsetxattr("l", "user.t", "x", 1, 0), EPERM); /* files and directories only */
	CHECK_ERRNO(setxattr("p", "user.t", "x", 1, 0), EPERM);
	chmod("f", 0644);
	IN_CHILD
	{
		char c;
		tap_become(12345, 12345);
		CHECK_EQ(getxattr("f", "user.t", &c, 1), 1);
		CHECK_ERRNO(setxattr("f", "user.t", "y", 1, 0), EACCES);
	}
}

TEST(access_control_lists)
{
	/* What acl_set_file(3) sends for mode 0644: three entries. A file system takes it and changes the mode, or has no
	 * such lists; cp -a and tar stop with an error at any other answer. */
	static const unsigned char acl[] = { 2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255,
					     32, 0, 4, 0, 255, 255, 255, 255 };
	char buf[64];
	tap_write_file("f", "");
	chmod("f", 0600);
	int r = setxattr("f", "system.posix_acl_access", acl, sizeof acl, 0), err = errno;
	struct stat st;
	CHECK_OK(stat("f", &st));
	if (r == 0) {
		CHECK_EQ(st.st_mode & 07777, 0644);
		CHECK_ERRNO(getxattr("f", "system.posix_acl_access", buf, sizeof buf), ENODATA); /* the mode says it all */
	} else {
		CHECK_EQ(err, EOPNOTSUPP);
		CHECK_EQ(st.st_mode & 07777, 0600);
		CHECK_ERRNO(getxattr("f", "system.posix_acl_access", buf, sizeof buf), EOPNOTSUPP);
		CHECK_ERRNO(removexattr("f", "system.posix_acl_access"), EOPNOTSUPP);
	}
	CHECK_ERRNO(setxattr("f", "system.other", "x", 1, 0), EOPNOTSUPP);
}
