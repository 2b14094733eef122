/* utimensat(2), futimens, utimes(2), utime(2). */
#include "tap.h"
#include <utime.h>

static struct stat look(const char *path)
{
	struct stat st;
	memset(&st, 0, sizeof st);
	lstat(path, &st);
	return st;
}

TEST(set)
{
	tap_write_file("f", "");
	struct timespec t[2] = {{1000, 111111111}, {2000, 222222222}};
	CHECK_OK(utimensat(AT_FDCWD, "f", t, 0));
	struct stat st = look("f");
	CHECK_EQ(st.st_atim.tv_sec, 1000);
	CHECK_EQ(st.st_atim.tv_nsec, 111111111);
	CHECK_EQ(st.st_mtim.tv_sec, 2000);
	CHECK_EQ(st.st_mtim.tv_nsec, 222222222);
	CHECK(st.st_ctim.tv_sec > 2000);
	t[0].tv_nsec = UTIME_OMIT;
	t[1] = (struct timespec){-5, 0}; /* before 1970 */
	CHECK_OK(utimensat(AT_FDCWD, "f", t, 0));
	st = look("f");
	CHECK_EQ(st.st_atim.tv_sec, 1000);
	CHECK_EQ(st.st_mtim.tv_sec, -5);
	t[0].tv_nsec = UTIME_NOW;
	t[1].tv_nsec = UTIME_OMIT;
	CHECK_OK(utimensat(AT_FDCWD, "f", t, 0));
	st = look("f");
	CHECK(st.st_atim.tv_sec > 2000);
	CHECK_EQ(st.st_mtim.tv_sec, -5);
	CHECK_OK(utimensat(AT_FDCWD, "f", NULL, 0));
	CHECK(look("f").st_mtim.tv_sec > 2000);
	int fd = open("f", O_RDONLY);
	struct timespec u[2] = {{7, 0}, {8, 0}};
	CHECK_OK(futimens(fd, u));
	CHECK_EQ(look("f").st_mtim.tv_sec, 8);
	close(fd);
	struct timeval v[2] = {{10, 5}, {20, 6}};
	CHECK_OK(utimes("f", v));
	CHECK_EQ(look("f").st_mtim.tv_nsec, 6000);
	struct utimbuf b = {30, 40};
	CHECK_OK(syscall(SYS_utime, "f", &b));
	CHECK_EQ(look("f").st_mtim.tv_sec, 40);
	CHECK_EQ(look("f").st_atim.tv_sec, 30);
}

TEST(links_and_errors)
{
	tap_write_file("f", "");
	symlink("f", "l");
	struct timespec t[2] = {{1, 0}, {2, 0}};
	CHECK_OK(utimensat(AT_FDCWD, "l", t, AT_SYMLINK_NOFOLLOW));
	CHECK_EQ(look("l").st_mtim.tv_sec, 2);
	CHECK(look("f").st_mtim.tv_sec > 2);
	CHECK_OK(utimensat(AT_FDCWD, "l", t, 0));
	CHECK_EQ(look("f").st_mtim.tv_sec, 2);
	CHECK_ERRNO(utimensat(AT_FDCWD, "none", t, 0), ENOENT);
	CHECK_ERRNO(utimensat(AT_FDCWD, "f", t, 0x40000000), EINVAL);
	CHECK_ERRNO(syscall(SYS_utimensat, -5, "f", t, 0), EBADF);
	CHECK_ERRNO(syscall(SYS_utimensat, AT_FDCWD, "f", (void *)8, 0), EFAULT);
	t[0].tv_nsec = 1000000000;
	CHECK_ERRNO(utimensat(AT_FDCWD, "f", t, 0), EINVAL);
	/* Both omitted succeeds and touches nothing, even of a missing file. */
	t[0].tv_nsec = t[1].tv_nsec = UTIME_OMIT;
	CHECK_OK(utimensat(AT_FDCWD, "none", t, 0));
	struct timeval v[2] = {{1, 1000000}, {1, 0}};
	CHECK_ERRNO(utimes("f", v), EINVAL);
}

TEST(permissions)
{
	tap_write_file("writable", "");
	chmod("writable", 0666);
	tap_write_file("closed", "");
	IN_CHILD
	{
		tap_become(12345, 12345);
		struct timespec t[2] = {{1, 0}, {2, 0}}, now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}},
				half[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
		CHECK_OK(utimensat(AT_FDCWD, "writable", NULL, 0)); /* "now" needs only write */
		CHECK_OK(utimensat(AT_FDCWD, "writable", now, 0));
		CHECK_ERRNO(utimensat(AT_FDCWD, "writable", t, 0), EPERM);
		CHECK_ERRNO(utimensat(AT_FDCWD, "writable", half, 0), EPERM);
		CHECK_ERRNO(utimensat(AT_FDCWD, "closed", NULL, 0), EACCES);
	}
}
