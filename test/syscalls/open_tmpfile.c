/* O_TMPFILE (open(2)): an unnamed file that linkat(2) may give a name. */
#include "tap.h"

static int unnamed(int flags)
{
	return open(".", O_TMPFILE | flags, 0600);
}

TEST(nameless)
{
	struct stat st;
	int fd = unnamed(O_RDWR);
	if (fd == -1 && errno == EOPNOTSUPP)
		SKIP("the file system of /tmp has no O_TMPFILE");
	REQUIRE(fd >= 0);
	fstat(fd, &st);
	CHECK_EQ(st.st_nlink, 0);
	CHECK_EQ(st.st_mode, S_IFREG | 0600);
	CHECK_EQ(write(fd, "abc", 3), 3);
	DIR *d = opendir(".");
	int entries = 0;
	while (readdir(d))
		entries++;
	closedir(d);
	CHECK_EQ(entries, 2);
	close(fd);
}

TEST(errors)
{
	int fd = unnamed(O_RDWR);
	if (fd == -1 && errno == EOPNOTSUPP)
		SKIP("the file system of /tmp has no O_TMPFILE");
	close(fd);
	CHECK_ERRNO(unnamed(O_RDONLY), EINVAL);
	tap_write_file("f", "");
	CHECK_ERRNO(open("f", O_TMPFILE | O_RDWR, 0600), ENOTDIR);
	CHECK_ERRNO(open("none", O_TMPFILE | O_RDWR, 0600), ENOENT);
	/* __O_TMPFILE without O_DIRECTORY is refused. */
	CHECK_ERRNO(open(".", (O_TMPFILE & ~O_DIRECTORY) | O_RDWR, 0600), EINVAL);
}

TEST(link_it)
{
	char path[64], buf[8] = "";
	struct stat st;
	int fd = unnamed(O_RDWR);
	if (fd == -1 && errno == EOPNOTSUPP)
		SKIP("the file system of /tmp has no O_TMPFILE");
	write(fd, "abc", 3);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	CHECK_OK(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
	fstat(fd, &st);
	CHECK_EQ(st.st_nlink, 1);
	tap_read_file("named", buf, sizeof buf);
	CHECK_STR(buf, "abc");
	close(fd);
	/* With O_EXCL it stays nameless for ever. */
	fd = unnamed(O_RDWR | O_EXCL);
	REQUIRE(fd >= 0);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	CHECK_ERRNO(linkat(AT_FDCWD, path, AT_FDCWD, "named2", AT_SYMLINK_FOLLOW), ENOENT);
	CHECK_ERRNO(linkat(fd, "", AT_FDCWD, "named2", AT_EMPTY_PATH), ENOENT);
	close(fd);
	/* A file whose last name was removed cannot come back. */
	fd = open("gone", O_CREAT | O_RDWR, 0600);
	unlink("gone");
	CHECK_ERRNO(linkat(fd, "", AT_FDCWD, "back", AT_EMPTY_PATH), ENOENT);
	close(fd);
}
