/* rename(2), renameat(2), renameat2(2). */
#include "tap.h"
#include <linux/fs.h>

static ino_t inode(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0 ? st.st_ino : 0;
}

TEST(files)
{
	tap_write_file("a", "A");
	tap_write_file("b", "B");
	ino_t ia = inode("a");
	CHECK_OK(rename("a", "b"));
	CHECK_EQ(inode("b"), ia);
	CHECK_ERRNO(access("a", F_OK), ENOENT);
	CHECK_OK(rename("b", "b"));
	/* Two names of one file: nothing happens and both stay. */
	link("b", "c");
	CHECK_OK(rename("b", "c"));
	CHECK_EQ(inode("b"), inode("c"));
	CHECK_ERRNO(rename("none", "x"), ENOENT);
	CHECK_ERRNO(rename("b", "none/x"), ENOENT);
	CHECK_ERRNO(rename("b", "c/x"), ENOTDIR);
	CHECK_ERRNO(rename("b", ""), ENOENT);
	CHECK_ERRNO(rename("b", "new/"), ENOTDIR);
	CHECK_ERRNO(rename(".", "x"), EBUSY);
	CHECK_ERRNO(rename("b", ".."), EBUSY);
}

TEST(open_target_survives)
{
	char c = 0;
	tap_write_file("a", "A");
	tap_write_file("b", "B");
	int fd = open("b", O_RDONLY);
	CHECK_OK(rename("a", "b"));
	CHECK_EQ(read(fd, &c, 1), 1);
	CHECK_EQ(c, 'B');
	struct stat st;
	fstat(fd, &st);
	CHECK_EQ(st.st_nlink, 0);
	close(fd);
}

TEST(directories)
{
	mkdir("d", 0755);
	mkdir("d/sub", 0755);
	mkdir("empty", 0755);
	mkdir("full", 0755);
	tap_write_file("full/f", "");
	tap_write_file("f", "");
	CHECK_ERRNO(rename("d", "d/sub/x"), EINVAL);
	CHECK_ERRNO(rename("d", "d/x"), EINVAL);
	CHECK_ERRNO(rename("d/sub", "d"), ENOTEMPTY);
	CHECK_ERRNO(rename("f", "empty"), EISDIR);
	CHECK_ERRNO(rename("d", "f"), ENOTDIR);
	CHECK_ERRNO(rename("d", "full") == -1 && (errno == ENOTEMPTY || errno == EEXIST) ? -1 : 0, errno);
	struct stat st;
	stat("d", &st);
	CHECK_EQ(st.st_nlink, 3);
	CHECK_OK(rename("d/sub", "empty"));
	stat("d", &st);
	CHECK_EQ(st.st_nlink, 2);
	ino_t top = inode(".");
	CHECK_OK(rename("empty", "d/moved"));
	CHECK_EQ(inode("d/moved/.."), inode("d"));
	CHECK_OK(rename("d/moved", "moved"));
	CHECK_EQ(inode("moved/.."), top);
	CHECK_OK(rename("moved/", "m2/"));
}

TEST(symlinks)
{
	tap_write_file("f", "F");
	symlink("f", "l");
	CHECK_OK(rename("l", "l2"));
	struct stat st;
	lstat("l2", &st);
	CHECK(S_ISLNK(st.st_mode));
	tap_write_file("g", "G");
	CHECK_OK(rename("g", "l2")); /* replaces the link, not its target */
	lstat("l2", &st);
	CHECK(S_ISREG(st.st_mode));
	CHECK_OK(access("f", F_OK));
}

TEST(renameat2)
{
	tap_write_file("a", "A");
	tap_write_file("b", "B");
	mkdir("d", 0755);
	tap_write_file("d/f", "");
	ino_t a = inode("a"), b = inode("b"), d = inode("d");
	CHECK_ERRNO(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
	CHECK_OK(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE));
	CHECK_EQ(inode("c"), a);
	CHECK_OK(syscall(SYS_renameat2, AT_FDCWD, "c", AT_FDCWD, "b", RENAME_EXCHANGE));
	CHECK_EQ(inode("c"), b);
	CHECK_EQ(inode("b"), a);
	CHECK_OK(syscall(SYS_renameat2, AT_FDCWD, "c", AT_FDCWD, "d", RENAME_EXCHANGE));
	CHECK_EQ(inode("c"), d);
	CHECK_OK(access("c/f", F_OK));
	CHECK_ERRNO(syscall(SYS_renameat2, AT_FDCWD, "b", AT_FDCWD, "none", RENAME_EXCHANGE), ENOENT);
	CHECK_ERRNO(syscall(SYS_renameat2, AT_FDCWD, "b", AT_FDCWD, "x",
			    RENAME_EXCHANGE | RENAME_NOREPLACE), EINVAL);
	CHECK_ERRNO(syscall(SYS_renameat2, AT_FDCWD, "b", AT_FDCWD, "x", 0x80), EINVAL);
	CHECK_ERRNO(syscall(SYS_renameat2, -5, "b", AT_FDCWD, "x", 0), EBADF);
}

TEST(permissions)
{
	mkdir("mine", 0755);
	chown("mine", 12345, 12345);
	mkdir("mine/d", 0755);
	mkdir("other", 0755);
	tap_write_file("other/f", "");
	tap_write_file("mine/f", "");
	mkdir("mine/e", 0755);
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_ERRNO(rename("other/f", "mine/x"), EACCES);
		CHECK_ERRNO(rename("mine/f", "other/x"), EACCES);
		CHECK_OK(rename("mine/f", "mine/g"));
		/* Moving a directory to a new parent changes its "..": it must be writable. */
		CHECK_ERRNO(rename("mine/d", "mine/e/d"), EACCES);
		CHECK_OK(rename("mine/d", "mine/d2"));
	}
}
