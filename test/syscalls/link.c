/* link(2), linkat(2), unlink(2), unlinkat(2). */
#include "tap.h"

TEST(link)
{
	struct stat a, b;
	tap_write_file("f", "abc");
	CHECK_OK(link("f", "g"));
	stat("f", &a);
	stat("g", &b);
	CHECK_EQ(a.st_ino, b.st_ino);
	CHECK_EQ(b.st_nlink, 2);
	CHECK_OK(unlink("f"));
	stat("g", &b);
	CHECK_EQ(b.st_nlink, 1);
	CHECK_ERRNO(link("none", "h"), ENOENT);
	CHECK_ERRNO(link("g", "g"), EEXIST);
	CHECK_ERRNO(link("g", "g/x"), ENOTDIR);
	CHECK_ERRNO(link("g", "none/x"), ENOENT);
	CHECK_ERRNO(link("g", ""), ENOENT);
	mkdir("d", 0755);
	CHECK_ERRNO(link("d", "e"), EPERM);
	CHECK_ERRNO(link("g", "d"), EEXIST);
	CHECK_ERRNO(link("g", "h/"), ENOENT);
}

TEST(link_and_symlinks)
{
	struct stat st;
	tap_write_file("f", "abc");
	symlink("f", "l");
	/* link(2) does not follow on Linux; linkat(2) does when told. */
	CHECK_OK(link("l", "l2"));
	lstat("l2", &st);
	CHECK(S_ISLNK(st.st_mode));
	CHECK_OK(linkat(AT_FDCWD, "l", AT_FDCWD, "f2", AT_SYMLINK_FOLLOW));
	lstat("f2", &st);
	CHECK(S_ISREG(st.st_mode));
	CHECK_ERRNO(linkat(AT_FDCWD, "l", AT_FDCWD, "f3", 0x40000000), EINVAL);
	CHECK_ERRNO(link("f", "l"), EEXIST);
	symlink("hole", "dangling");
	CHECK_ERRNO(link("f", "dangling"), EEXIST);
}

TEST(unlink)
{
	mkdir("d", 0755);
	tap_write_file("f", "");
	CHECK_ERRNO(unlink("d"), EISDIR); /* Linux's answer; POSIX says EPERM */
	CHECK_ERRNO(unlink("none"), ENOENT);
	CHECK_ERRNO(unlink("f/"), ENOTDIR);
	CHECK_ERRNO(unlink("f/x"), ENOTDIR);
	CHECK_ERRNO(unlink(""), ENOENT);
	CHECK_ERRNO(unlink("d/"), EISDIR);
	symlink("f", "l");
	CHECK_OK(unlink("l"));
	CHECK_OK(access("f", F_OK));
	CHECK_OK(unlink("f"));
	CHECK_ERRNO(access("f", F_OK), ENOENT);
}

TEST(unlinkat)
{
	mkdir("d", 0755);
	tap_write_file("d/f", "");
	mkdir("d/e", 0755);
	int d = open("d", O_RDONLY);
	CHECK_ERRNO(unlinkat(d, "e", 0), EISDIR);
	CHECK_ERRNO(unlinkat(d, "f", AT_REMOVEDIR), ENOTDIR);
	CHECK_ERRNO(unlinkat(d, "f", 1), EINVAL);
	CHECK_OK(unlinkat(d, "e", AT_REMOVEDIR));
	CHECK_OK(unlinkat(d, "f", 0));
	CHECK_ERRNO(unlinkat(d, "f", 0), ENOENT);
	CHECK_ERRNO(unlinkat(-5, "f", 0), EBADF);
	close(d);
}

TEST(sticky)
{
	mkdir("t", 0777);
	chmod("t", 01777);
	tap_write_file("t/roots", "");
	tap_write_file("t/mine", "");
	chown("t/mine", 12345, 12345);
	mkdir("ro", 0755);
	tap_write_file("ro/f", "");
	chmod("ro/f", 0666);
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_ERRNO(unlink("t/roots"), EPERM);
		CHECK_ERRNO(rename("t/roots", "t/x"), EPERM);
		CHECK_OK(unlink("t/mine"));
		CHECK_ERRNO(unlink("ro/f"), EACCES); /* the directory decides, not the file */
		CHECK_ERRNO(unlink("ro/none"), ENOENT);
	}
}
