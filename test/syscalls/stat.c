/* stat(2), lstat(2), fstat(2), fstatat(2): what each kind of file reports. */
#include "tap.h"
#include <sys/sysmacros.h>

TEST(regular)
{
	struct stat a, b;
	tap_write_file("f", "0123456789");
	CHECK_OK(stat("f", &a));
	CHECK_EQ(a.st_size, 10);
	CHECK_EQ(a.st_uid, 0);
	CHECK_EQ(a.st_gid, 0);
	CHECK(a.st_blksize > 0);
	CHECK(a.st_ino != 0);
	int fd = open("f", O_RDONLY);
	CHECK_OK(fstat(fd, &b));
	CHECK_EQ(a.st_ino, b.st_ino);
	CHECK_EQ(a.st_dev, b.st_dev);
	close(fd);
	link("f", "g");
	CHECK_OK(stat("g", &b));
	CHECK_EQ(a.st_ino, b.st_ino);
	CHECK_EQ(b.st_nlink, 2);
}

TEST(symlinks)
{
	struct stat st;
	tap_write_file("f", "0123456789");
	symlink("f", "l");
	CHECK_OK(stat("l", &st));
	CHECK(S_ISREG(st.st_mode));
	CHECK_OK(lstat("l", &st));
	CHECK_EQ(st.st_mode, S_IFLNK | 0777);
	CHECK_EQ(st.st_size, 1);
	CHECK_OK(fstatat(AT_FDCWD, "l", &st, AT_SYMLINK_NOFOLLOW));
	CHECK(S_ISLNK(st.st_mode));
	symlink("nowhere", "dl");
	CHECK_ERRNO(stat("dl", &st), ENOENT);
	CHECK_OK(lstat("dl", &st));
}

TEST(kinds)
{
	struct stat st;
	int p[2], s[2];
	mkdir("d", 0755);
	stat("d", &st);
	CHECK_EQ(st.st_mode, S_IFDIR | 0755);
	CHECK_EQ(st.st_nlink, 2);
	mkdir("d/e", 0755);
	stat("d", &st);
	CHECK_EQ(st.st_nlink, 3);
	CHECK_OK(mkfifo("fifo", 0640));
	stat("fifo", &st);
	CHECK_EQ(st.st_mode, S_IFIFO | 0640);
	pipe(p);
	fstat(p[0], &st);
	CHECK(S_ISFIFO(st.st_mode));
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	fstat(s[0], &st);
	CHECK(S_ISSOCK(st.st_mode));
	stat("/dev/null", &st);
	CHECK(S_ISCHR(st.st_mode));
	CHECK_EQ(st.st_rdev, makedev(1, 3));
	close(p[0]);
	close(p[1]);
	close(s[0]);
	close(s[1]);
}

TEST(errors)
{
	struct stat st;
	tap_write_file("f", "");
	CHECK_ERRNO(stat("none", &st), ENOENT);
	CHECK_ERRNO(stat("f/x", &st), ENOTDIR);
	CHECK_ERRNO(stat("f/", &st), ENOTDIR);
	CHECK_ERRNO(stat("", &st), ENOENT);
	CHECK_ERRNO(fstat(-1, &st), EBADF);
	CHECK_ERRNO(syscall(SYS_newfstatat, AT_FDCWD, "f", &st, 0x40000000), EINVAL);
	CHECK_ERRNO(syscall(SYS_newfstatat, -5, "f", &st, 0), EBADF);
	CHECK_ERRNO(syscall(SYS_stat, NULL, &st), EFAULT);
	CHECK_ERRNO(syscall(SYS_stat, "f", NULL), EFAULT);
	symlink("l", "l");
	CHECK_ERRNO(stat("l", &st), ELOOP);
}

static int same(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static int after(struct timespec a, struct timespec b)
{
	return a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec > b.tv_nsec);
}

/* long_ago sets atime and mtime back, so that any update shows without waiting. */
static void long_ago(const char *path)
{
	struct timespec t[2] = {{1000, 0}, {1000, 0}};
	utimensat(AT_FDCWD, path, t, 0);
}

TEST(times)
{
	struct stat a, b;
	tap_write_file("f", "abc");
	long_ago("f");
	stat("f", &a);
	CHECK_EQ(a.st_mtime, 1000);
	CHECK(a.st_ctime > 1000);
	int fd = open("f", O_RDWR);
	write(fd, "x", 1);
	fstat(fd, &b);
	CHECK(b.st_mtime > 1000);
	CHECK(!after(a.st_ctim, b.st_ctim));
	CHECK_EQ(b.st_atime, 1000);
	/* A write of nothing changes nothing. */
	long_ago("f");
	write(fd, "", 0);
	fstat(fd, &b);
	CHECK_EQ(b.st_mtime, 1000);
	/* ftruncate(2) marks mtime even when the size stays; so does chmod for ctime alone. */
	ftruncate(fd, b.st_size);
	fstat(fd, &b);
	CHECK(b.st_mtime > 1000);
	long_ago("f");
	chmod("f", 0600);
	fstat(fd, &b);
	CHECK_EQ(b.st_mtime, 1000);
	close(fd);
	/* A directory's mtime follows its entries. */
	mkdir("d", 0755);
	long_ago("d");
	tap_write_file("d/f", "");
	stat("d", &b);
	CHECK(b.st_mtime > 1000);
	long_ago("d");
	unlink("d/f");
	stat("d", &b);
	CHECK(b.st_mtime > 1000);
	CHECK(same(b.st_mtim, b.st_ctim));
}
