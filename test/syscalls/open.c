/* open(2), openat(2), creat(2): creation, truncation, append, and what each flag refuses. */
#include "tap.h"

TEST(creat)
{
	struct stat st;
	int fd = open("f", O_RDWR | O_CREAT, 0666);
	REQUIRE(fd >= 0);
	CHECK_EQ(write(fd, "hello", 5), 5);
	REQUIRE_OK(fstat(fd, &st));
	CHECK_EQ(st.st_mode, S_IFREG | 0644); /* umask 022 */
	CHECK_EQ(st.st_size, 5);
	CHECK_EQ(st.st_nlink, 1);
	close(fd);
	CHECK_ERRNO(open("nothere", O_RDONLY), ENOENT);
	CHECK_ERRNO(open("nodir/f", O_CREAT | O_RDWR, 0600), ENOENT);
	CHECK_ERRNO(open("f/x", O_RDONLY), ENOTDIR);
	CHECK_ERRNO(open("", O_RDONLY), ENOENT);
}

TEST(mode_does_not_bind_the_creator)
{
	/* The mode of a new file counts for later opens, not for this descriptor. */
	int fd = open("m", O_RDWR | O_CREAT, 0000);
	REQUIRE(fd >= 0);
	CHECK_EQ(write(fd, "x", 1), 1);
	close(fd);
	struct stat st;
	stat("m", &st);
	CHECK_EQ(st.st_mode & 07777, 0);
	umask(0);
	fd = open("s", O_RDWR | O_CREAT, 07777);
	fstat(fd, &st);
	CHECK_EQ(st.st_mode & 07777, 07777);
	close(fd);
}

TEST(excl)
{
	int fd = open("f", O_CREAT | O_EXCL | O_RDWR, 0600);
	REQUIRE(fd >= 0);
	close(fd);
	CHECK_ERRNO(open("f", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
	REQUIRE_OK(symlink("dangling", "l"));
	CHECK_ERRNO(open("l", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
	/* Without O_EXCL the dangling link's target is created. */
	fd = open("l", O_CREAT | O_RDWR, 0600);
	CHECK(fd >= 0);
	close(fd);
	CHECK_OK(access("dangling", F_OK));
	CHECK_ERRNO(open(".", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
}

TEST(trunc)
{
	struct stat st;
	tap_write_file("f", "0123456789");
	int fd = open("f", O_WRONLY | O_TRUNC);
	REQUIRE(fd >= 0);
	fstat(fd, &st);
	CHECK_EQ(st.st_size, 0);
	close(fd);
	tap_write_file("f", "0123456789");
	/* O_RDONLY|O_TRUNC is unspecified by POSIX; Linux truncates. */
	fd = open("f", O_RDONLY | O_TRUNC);
	CHECK(fd >= 0);
	fstat(fd, &st);
	CHECK_EQ(st.st_size, 0);
	close(fd);
}

TEST(append)
{
	char buf[32];
	tap_write_file("f", "one");
	int fd = open("f", O_RDWR | O_APPEND);
	REQUIRE(fd >= 0);
	CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
	CHECK_EQ(write(fd, "two", 3), 3);
	CHECK_EQ(lseek(fd, 0, SEEK_CUR), 6);
	lseek(fd, 0, SEEK_SET);
	CHECK_EQ(write(fd, "3", 1), 1);
	/* pwrite(2), BUGS: with O_APPEND the offset is ignored. */
	CHECK_EQ(pwrite(fd, "4", 1, 0), 1);
	CHECK_EQ(lseek(fd, 0, SEEK_CUR), 7);
	tap_read_file("f", buf, sizeof buf);
	CHECK_STR(buf, "onetwo34");
	close(fd);
}

TEST(nofollow)
{
	tap_write_file("f", "x");
	symlink("f", "l");
	CHECK_ERRNO(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
	int fd = open("f", O_RDONLY | O_NOFOLLOW);
	CHECK(fd >= 0);
	close(fd);
	/* Only the last component matters. */
	mkdir("d", 0755);
	tap_write_file("d/f", "y");
	symlink("d", "ld");
	fd = open("ld/f", O_RDONLY | O_NOFOLLOW);
	CHECK(fd >= 0);
	close(fd);
	CHECK_ERRNO(open("ld", O_RDONLY | O_NOFOLLOW | O_DIRECTORY), ENOTDIR);
	/* A trailing slash follows the link. */
	fd = open("ld/", O_RDONLY | O_NOFOLLOW);
	CHECK(fd >= 0);
	close(fd);
	symlink("loop2", "loop1");
	symlink("loop1", "loop2");
	CHECK_ERRNO(open("loop1", O_RDONLY), ELOOP);
}

TEST(directory)
{
	tap_write_file("f", "x");
	mkdir("d", 0755);
	CHECK_ERRNO(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
	int fd = open("d", O_RDONLY | O_DIRECTORY);
	REQUIRE(fd >= 0);
	char c;
	CHECK_ERRNO(read(fd, &c, 1), EISDIR);
	CHECK_ERRNO(write(fd, &c, 1), EBADF);
	close(fd);
	CHECK_ERRNO(open("d", O_WRONLY), EISDIR);
	CHECK_ERRNO(open("d", O_RDWR), EISDIR);
	CHECK_ERRNO(open("d", O_RDONLY | O_CREAT, 0644), EISDIR);
	CHECK_ERRNO(open("d/", O_RDONLY | O_CREAT, 0644), EISDIR);
	CHECK_ERRNO(open("new/", O_RDWR | O_CREAT, 0644), EISDIR);
	CHECK_ERRNO(open("f/", O_RDONLY), ENOTDIR);
}

TEST(access_mode)
{
	char c;
	tap_write_file("f", "abc");
	int fd = open("f", O_RDONLY);
	CHECK_ERRNO(write(fd, "x", 1), EBADF);
	CHECK_ERRNO(ftruncate(fd, 0), EINVAL);
	close(fd);
	fd = open("f", O_WRONLY);
	CHECK_ERRNO(read(fd, &c, 1), EBADF);
	close(fd);
	/* Access mode 3 asks for both permissions and gives neither; only ioctl works. */
	fd = open("f", 3);
	REQUIRE(fd >= 0);
	CHECK_ERRNO(read(fd, &c, 1), EBADF);
	CHECK_ERRNO(write(fd, &c, 1), EBADF);
	CHECK_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, 3);
	close(fd);
}

TEST(cloexec_and_lowest)
{
	int a = open("/dev/null", O_RDONLY | O_CLOEXEC), b = open("/dev/null", O_RDONLY);
	CHECK_EQ(fcntl(a, F_GETFD), FD_CLOEXEC);
	CHECK_EQ(fcntl(b, F_GETFD), 0);
	CHECK_EQ(b, a + 1);
	close(a);
	int c = open("/dev/null", O_RDONLY);
	CHECK_EQ(c, a); /* the lowest free number */
	close(b);
	close(c);
	CHECK_ERRNO(close(c), EBADF);
	CHECK_ERRNO(close(-1), EBADF);
}

TEST(openat)
{
	mkdir("d", 0755);
	tap_write_file("d/f", "x");
	tap_write_file("g", "x");
	int dir = open("d", O_RDONLY | O_DIRECTORY), file = open("g", O_RDONLY);
	int fd = openat(dir, "f", O_RDONLY);
	CHECK(fd >= 0);
	close(fd);
	fd = openat(dir, "../g", O_RDONLY);
	CHECK(fd >= 0);
	close(fd);
	fd = openat(-1, "/dev/null", O_RDONLY); /* absolute: the descriptor is not looked at */
	CHECK(fd >= 0);
	close(fd);
	fd = openat(AT_FDCWD, "g", O_RDONLY);
	CHECK(fd >= 0);
	close(fd);
	CHECK_ERRNO(openat(-1, "f", O_RDONLY), EBADF);
	CHECK_ERRNO(openat(file, "f", O_RDONLY), ENOTDIR);
	CHECK_ERRNO(openat(dir, "", O_RDONLY), ENOENT);
	/* A removed directory holds nothing and takes nothing. */
	unlink("d/f");
	rmdir("d");
	CHECK_ERRNO(openat(dir, "f", O_RDWR | O_CREAT, 0600), ENOENT);
	fd = openat(dir, ".", O_RDONLY);
	CHECK(fd >= 0);
	close(fd);
	close(dir);
	close(file);
}

TEST(names)
{
	char name[NAME_MAX + 2], path[PATH_MAX + 2];
	memset(name, 'n', sizeof name);
	name[NAME_MAX + 1] = 0;
	CHECK_ERRNO(open(name, O_RDWR | O_CREAT, 0600), ENAMETOOLONG);
	name[NAME_MAX] = 0;
	int fd = open(name, O_RDWR | O_CREAT, 0600);
	CHECK(fd >= 0);
	close(fd);
	/* A path may have PATH_MAX bytes with its zero. */
	for (int i = 0; i < PATH_MAX; i += 2)
		memcpy(path + i, "./", 2);
	path[PATH_MAX] = 0;
	CHECK_ERRNO(open(path, O_RDONLY), ENAMETOOLONG);
	path[PATH_MAX - 1] = 0;
	fd = open(path, O_RDONLY);
	CHECK(fd >= 0);
	close(fd);
}

TEST(permissions)
{
	tap_write_file("secret", "x");
	chmod("secret", 0600);
	mkdir("closed", 0700);
	tap_write_file("closed/f", "x");
	mkdir("readonly", 0755);
	IN_CHILD
	{
		CHECK_OK(tap_become(12345, 12345));
		CHECK_ERRNO(open("secret", O_RDONLY), EACCES);
		CHECK_ERRNO(open("closed/f", O_RDONLY), EACCES);
		CHECK_ERRNO(open("readonly/new", O_CREAT | O_RDWR, 0600), EACCES);
		CHECK_ERRNO(open("secret", O_RDONLY | O_TRUNC), EACCES);
		/* ... but existence is seen where the directory may be searched. */
		CHECK_ERRNO(open("readonly/none", O_RDONLY), ENOENT);
	}
}

TEST(noatime_is_for_owners)
{
	tap_write_file("f", "x");
	chmod("f", 0644);
	int fd = open("f", O_RDONLY | O_NOATIME);
	CHECK(fd >= 0);
	close(fd);
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_ERRNO(open("f", O_RDONLY | O_NOATIME), EPERM);
	}
}

TEST(text_busy)
{
	int fd = open(tap_self, O_WRONLY);
	int seen = errno;
	if (fd == -1 && (seen == EROFS || seen == EACCES))
		SKIP("the program is on a read-only file system");
	CHECK_NAMED(fd == -1 && seen == ETXTBSY, "a running program is not open for writing");
	if (fd >= 0)
		close(fd);
}

TEST(two_opens_have_two_offsets)
{
	char c[2];
	tap_write_file("f", "ab");
	int a = open("f", O_RDONLY), b = open("f", O_RDONLY), d = dup(a);
	read(a, c, 1);
	CHECK_EQ(lseek(a, 0, SEEK_CUR), 1);
	CHECK_EQ(lseek(b, 0, SEEK_CUR), 0);
	CHECK_EQ(lseek(d, 0, SEEK_CUR), 1);
	close(a);
	close(b);
	close(d);
}

TEST(creat_call)
{
	tap_write_file("f", "abc");
	int fd = creat("f", 0600);
	REQUIRE(fd >= 0);
	CHECK_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_WRONLY);
	CHECK_EQ(lseek(fd, 0, SEEK_END), 0);
	close(fd);
	CHECK_ERRNO(creat(".", 0600), EISDIR);
}
