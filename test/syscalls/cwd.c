/* chdir(2), fchdir(2), getcwd(2), chroot(2). */
#include "tap.h"

static long raw_getcwd(char *buf, size_t n)
{
	return syscall(SYS_getcwd, buf, n);
}

TEST(chdir)
{
	char here[256], buf[256];
	CHECK(raw_getcwd(here, sizeof here) == (long)strlen(here) + 1); /* counts the zero */
	mkdir("d", 0755);
	mkdir("d/e", 0755);
	tap_write_file("f", "");
	symlink("d/e", "l");
	CHECK_OK(chdir("l"));
	raw_getcwd(buf, sizeof buf);
	strcat(here, "/d/e");
	CHECK_STR(buf, here); /* the real path, without the link */
	CHECK_OK(chdir("../.."));
	CHECK_ERRNO(chdir("f"), ENOTDIR);
	CHECK_ERRNO(chdir("none"), ENOENT);
	CHECK_ERRNO(chdir(""), ENOENT);
	int d = open("d", O_RDONLY), f = open("f", O_RDONLY);
	CHECK_OK(fchdir(d));
	CHECK_ERRNO(fchdir(f), ENOTDIR);
	CHECK_ERRNO(fchdir(-1), EBADF);
	CHECK_ERRNO(raw_getcwd(buf, 4), ERANGE);
	CHECK_ERRNO(raw_getcwd(buf, 0), ERANGE);
	CHECK_ERRNO(raw_getcwd((void *)8, 256), EFAULT);
	rename("../d", "../moved"); /* the directory is held, not its name */
	raw_getcwd(buf, sizeof buf);
	CHECK_STR(strrchr(buf, '/'), "/moved");
	close(d), close(f);
}

TEST(fork_copies)
{
	char before[256], after[256];
	mkdir("d", 0755);
	getcwd(before, sizeof before);
	IN_CHILD
	{
		CHECK_OK(chdir("d"));
	}
	getcwd(after, sizeof after);
	CHECK_STR(before, after);
}

TEST(search_permission)
{
	mkdir("d", 0700);
	mkdir("x", 0711);
	tap_write_file("x/f", "");
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_ERRNO(chdir("d"), EACCES);
		CHECK_OK(chdir("x"));
		CHECK_ERRNO(open(".", O_RDONLY), EACCES); /* may be searched, not listed */
		CHECK_OK(access("f", F_OK));
	}
}

TEST(chroot)
{
	char buf[256];
	mkdir("root", 0755);
	mkdir("root/in", 0755);
	tap_write_file("root/in/f", "inner");
	tap_write_file("outer", "outer");
	int outside = open(".", O_RDONLY);
	IN_CHILD
	{
		CHECK_OK(chroot("root"));
		/* chroot does not move the working directory, which is now outside. */
		CHECK_OK(access("outer", F_OK));
		CHECK(raw_getcwd(buf, sizeof buf) > 0);
		CHECK(strncmp(buf, "(unreachable)/", 14) == 0);
		CHECK_OK(chdir("/"));
		raw_getcwd(buf, sizeof buf);
		CHECK_STR(buf, "/");
		CHECK_OK(access("/in/f", F_OK));
		CHECK_ERRNO(access("../outer", F_OK), ENOENT);
		CHECK_ERRNO(access("/tmp", F_OK), ENOENT);
		symlink("/in/f", "abs");
		tap_read_file("abs", buf, sizeof buf);
		CHECK_STR(buf, "inner"); /* absolute links start at the process's root */
		CHECK_OK(fchdir(outside)); /* the classic way out, for root */
		CHECK_OK(access("outer", F_OK));
	}
	IN_CHILD
	{
		CHECK_ERRNO(chroot("none"), ENOENT);
		CHECK_ERRNO(chroot("outer"), ENOTDIR);
		tap_become(12345, 12345);
		CHECK_ERRNO(chroot("root"), EPERM);
	}
	close(outside);
}
