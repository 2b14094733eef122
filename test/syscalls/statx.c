/* statx(2), newer than 4.4: skipped where the call is missing. */
#include "tap.h"
#include <sys/sysmacros.h>

TEST(agrees_with_stat)
{
	struct statx x;
	struct stat st;
	tap_write_file("f", "abc");
	if (syscall(SYS_statx, AT_FDCWD, "f", 0, STATX_BASIC_STATS, &x) == -1 && errno == ENOSYS)
		SKIP("statx is newer than 4.4");
	stat("f", &st);
	CHECK_EQ(x.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
	CHECK_EQ(x.stx_size, st.st_size);
	CHECK_EQ(x.stx_mode, st.st_mode);
	CHECK_EQ(x.stx_ino, st.st_ino);
	CHECK_EQ(x.stx_nlink, st.st_nlink);
	CHECK_EQ(x.stx_mtime.tv_sec, st.st_mtim.tv_sec);
	CHECK_EQ(x.stx_mtime.tv_nsec, st.st_mtim.tv_nsec);
	CHECK_EQ(makedev(x.stx_dev_major, x.stx_dev_minor), st.st_dev);
	int fd = open("f", O_RDONLY);
	CHECK_OK(syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_SIZE, &x));
	CHECK_EQ(x.stx_size, 3);
	close(fd);
}

TEST(flags_and_errors)
{
	struct statx x;
	tap_write_file("f", "abc");
	if (syscall(SYS_statx, AT_FDCWD, "f", 0, STATX_BASIC_STATS, &x) == -1 && errno == ENOSYS)
		SKIP("statx is newer than 4.4");
	symlink("f", "l");
	CHECK_OK(syscall(SYS_statx, AT_FDCWD, "l", AT_SYMLINK_NOFOLLOW, STATX_TYPE, &x));
	CHECK(S_ISLNK(x.stx_mode));
	CHECK_OK(syscall(SYS_statx, AT_FDCWD, "l", AT_STATX_FORCE_SYNC, STATX_TYPE, &x));
	CHECK(S_ISREG(x.stx_mode));
	CHECK_ERRNO(syscall(SYS_statx, AT_FDCWD, "f", AT_STATX_SYNC_TYPE, STATX_TYPE, &x), EINVAL);
	CHECK_ERRNO(syscall(SYS_statx, AT_FDCWD, "f", 0, 0x80000000, &x), EINVAL); /* STATX__RESERVED */
	CHECK_ERRNO(syscall(SYS_statx, AT_FDCWD, "none", 0, STATX_TYPE, &x), ENOENT);
	CHECK_ERRNO(syscall(SYS_statx, -5, "f", 0, STATX_TYPE, &x), EBADF);
	CHECK_ERRNO(syscall(SYS_statx, AT_FDCWD, "f", 0, STATX_TYPE, (void *)8), EFAULT);
	CHECK_ERRNO(syscall(SYS_statx, AT_FDCWD, "", 0, STATX_TYPE, &x), ENOENT);
}
