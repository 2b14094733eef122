/* symlink(2), readlink(2), and how paths go through links. */
#include "tap.h"

TEST(readlink)
{
	char buf[16];
	memset(buf, 'z', sizeof buf);
	CHECK_OK(symlink("some/where", "l"));
	CHECK_EQ(readlink("l", buf, sizeof buf), 10);
	CHECK_MEM(buf, "some/wherezz", 12); /* no zero is added */
	CHECK_EQ(readlink("l", buf, 4), 4); /* cut silently */
	CHECK_ERRNO(syscall(SYS_readlink, "l", buf, 0), EINVAL);
	CHECK_ERRNO(syscall(SYS_readlink, "l", buf, -1), EINVAL);
	CHECK_ERRNO(readlink("none", buf, 4), ENOENT);
	tap_write_file("f", "");
	CHECK_ERRNO(readlink("f", buf, 4), EINVAL);
	CHECK_ERRNO(readlink(".", buf, 4), EINVAL);
	CHECK_ERRNO(syscall(SYS_readlink, "l", (void *)8, 4), EFAULT);
	int d = open(".", O_RDONLY);
	CHECK_EQ(readlinkat(d, "l", buf, sizeof buf), 10);
	close(d);
	CHECK_ERRNO(readlinkat(-5, "l", buf, sizeof buf), EBADF);
}

TEST(symlink)
{
	tap_write_file("f", "");
	CHECK_ERRNO(symlink("x", "f"), EEXIST);
	CHECK_ERRNO(symlink("", "e"), ENOENT);
	CHECK_ERRNO(symlink("x", ""), ENOENT);
	CHECK_ERRNO(symlink("x", "none/l"), ENOENT);
	CHECK_ERRNO(symlink("x", "f/l"), ENOTDIR);
	CHECK_ERRNO(symlink("x", "new/"), ENOENT);
	char *huge = malloc(PATH_MAX + 1);
	memset(huge, 'h', PATH_MAX);
	huge[PATH_MAX] = 0;
	CHECK_ERRNO(symlink(huge, "h"), ENAMETOOLONG);
	huge[PATH_MAX - 1] = 0;
	/* PATH_MAX - 1 is the most; some file systems stop one page's worth earlier. */
	CHECK(symlink(huge, "h") == 0 || errno == ENAMETOOLONG);
	CHECK_OK(symlinkat("x", AT_FDCWD, "at"));
	CHECK_ERRNO(symlinkat("x", -5, "at2"), EBADF);
	free(huge);
}

TEST(chains)
{
	char name[8], target[8];
	tap_write_file("l0", "end");
	/* 40 links are followed, the 41st is ELOOP (MAXSYMLINKS). */
	for (int i = 1; i <= 41; i++) {
		snprintf(target, sizeof target, "l%d", i - 1);
		snprintf(name, sizeof name, "l%d", i);
		symlink(target, name);
	}
	CHECK_OK(access("l1", F_OK));
	CHECK_OK(access("l40", F_OK));
	CHECK_ERRNO(access("l41", F_OK), ELOOP);
	/* The count is for the whole path, not for one component. */
	symlink(".", "dot");
	char path[256] = "";
	for (int i = 0; i < 40; i++)
		strcat(path, "dot/");
	CHECK_OK(access(path, F_OK));
	strcat(path, "dot/l0");
	CHECK_ERRNO(access(path, F_OK), ELOOP);
}

TEST(resolution)
{
	char buf[64];
	mkdir("d", 0755);
	mkdir("d/e", 0755);
	tap_write_file("d/f", "inside");
	tap_write_file("f", "outside");
	symlink("d/e", "le");
	tap_read_file("le/../f", buf, sizeof buf); /* ".." is of the target */
	CHECK_STR(buf, "inside");
	symlink("../f", "d/up");
	tap_read_file("d/up", buf, sizeof buf);
	CHECK_STR(buf, "outside");
	symlink("d/e/", "slash");
	CHECK_OK(access("slash", F_OK));
	symlink("f/", "fslash");
	CHECK_ERRNO(access("fslash", F_OK), ENOTDIR);
	snprintf(buf, sizeof buf, "%s", tap_dir);
	symlink(buf, "abs");
	CHECK_OK(access("abs", F_OK));
	CHECK_OK(access("/../../..", F_OK)); /* above the root is the root */
}
