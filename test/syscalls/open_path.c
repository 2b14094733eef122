/* O_PATH descriptors (open(2)): a place in the tree, not an open file. */
#include "tap.h"

TEST(refuses_io)
{
	char c;
	struct stat st;
	tap_write_file("f", "abc");
	int fd = open("f", O_PATH);
	REQUIRE(fd >= 0);
	CHECK_ERRNO(read(fd, &c, 1), EBADF);
	CHECK_ERRNO(write(fd, &c, 1), EBADF);
	CHECK_ERRNO(lseek(fd, 0, SEEK_SET), EBADF);
	CHECK_ERRNO(ftruncate(fd, 0), EBADF);
	CHECK_ERRNO(fchmod(fd, 0600), EBADF);
	CHECK_ERRNO(fchown(fd, 0, 0), EBADF);
	CHECK_ERRNO(fsync(fd), EBADF);
	CHECK_ERRNO(ioctl(fd, FIONREAD, &c), EBADF);
	CHECK_ERRNO(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0, EBADF);
	CHECK_OK(fstat(fd, &st)); /* since 3.6 */
	CHECK_EQ(st.st_size, 3);
	CHECK_EQ(fcntl(fd, F_GETFL), O_PATH);
	int d = dup(fd);
	CHECK(d >= 0);
	CHECK_EQ(fcntl(d, F_GETFL), O_PATH);
	CHECK_OK(fcntl(d, F_SETFD, FD_CLOEXEC));
	CHECK_ERRNO(fcntl(d, F_SETFL, 0), EBADF);
	close(d);
	CHECK_OK(close(fd));
}

TEST(other_flags_are_ignored)
{
	tap_write_file("f", "abc");
	int fd = open("f", O_PATH | O_TRUNC | O_RDWR | O_APPEND | O_CLOEXEC);
	REQUIRE(fd >= 0);
	CHECK_EQ(fcntl(fd, F_GETFL), O_PATH);
	CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	struct stat st;
	fstat(fd, &st);
	CHECK_EQ(st.st_size, 3);
	close(fd);
	CHECK_ERRNO(open("none", O_PATH | O_CREAT, 0600), ENOENT);
	CHECK_ERRNO(open("f", O_PATH | O_DIRECTORY), ENOTDIR);
}

TEST(symlink_itself)
{
	char buf[16] = "";
	struct stat st;
	symlink("target", "l");
	int fd = open("l", O_PATH | O_NOFOLLOW);
	REQUIRE(fd >= 0);
	fstat(fd, &st);
	CHECK(S_ISLNK(st.st_mode));
	CHECK_EQ(readlinkat(fd, "", buf, sizeof buf), 6);
	CHECK_STR(buf, "target");
	close(fd);
	CHECK_ERRNO(open("l", O_PATH), ENOENT);
	tap_write_file("f", "");
	fd = open("f", O_PATH);
	CHECK_ERRNO(readlinkat(fd, "", buf, sizeof buf), ENOENT);
	close(fd);
}

TEST(as_directory)
{
	mkdir("d", 0755);
	tap_write_file("d/f", "x");
	int dir = open("d", O_PATH);
	REQUIRE(dir >= 0);
	int fd = openat(dir, "f", O_RDONLY);
	CHECK(fd >= 0);
	close(fd);
	char buf[64];
	CHECK_ERRNO(syscall(SYS_getdents64, dir, buf, sizeof buf), EBADF);
	CHECK_OK(fchdir(dir)); /* since 3.5 */
	CHECK_OK(access("f", F_OK));
	close(dir);
}

TEST(reopen_through_proc)
{
	char path[64], buf[8] = "";
	tap_write_file("f", "abc");
	int fd = open("f", O_PATH);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int re = open(path, O_RDWR);
	REQUIRE(re >= 0);
	CHECK_EQ(read(re, buf, 8), 3);
	CHECK_STR(buf, "abc");
	/* The new description works after the name is gone. */
	unlink("f");
	int again = open(path, O_RDONLY);
	CHECK(again >= 0);
	close(again);
	close(re);
	close(fd);
}

TEST(empty_path)
{
	struct stat st;
	tap_write_file("f", "abc");
	int fd = open("f", O_PATH);
	CHECK_OK(fstatat(fd, "", &st, AT_EMPTY_PATH));
	CHECK_EQ(st.st_size, 3);
	CHECK_OK(fchownat(fd, "", 0, 0, AT_EMPTY_PATH));
	CHECK_OK(linkat(fd, "", AT_FDCWD, "g", AT_EMPTY_PATH));
	fstat(fd, &st);
	CHECK_EQ(st.st_nlink, 2);
	CHECK_ERRNO(fstatat(fd, "", &st, 0), ENOENT);
	close(fd);
}

TEST(needs_no_read_permission)
{
	tap_write_file("f", "abc");
	chmod("f", 0);
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_ERRNO(open("f", O_RDONLY), EACCES);
		CHECK(open("f", O_PATH) >= 0);
	}
}
