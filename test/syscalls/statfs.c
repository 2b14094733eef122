/* statfs(2), fstatfs(2), sync(2), fsync(2), fdatasync(2), syncfs(2), sync_file_range(2), posix_fadvise(2), readahead(2). */
#include "tap.h"
#include <sys/vfs.h>

TEST(statfs)
{
	struct statfs a, b;
	CHECK_OK(statfs(".", &a));
	CHECK(a.f_bsize > 0);
	CHECK(a.f_namelen == 255);
	CHECK(a.f_bfree <= a.f_blocks || a.f_blocks == 0);
	CHECK(a.f_type != 0);
	tap_write_file("f", "");
	int fd = open("f", O_RDONLY);
	CHECK_OK(fstatfs(fd, &b));
	CHECK_EQ(a.f_type, b.f_type);
	close(fd);
	CHECK_OK(statfs("/proc", &a));
	CHECK_EQ(a.f_type, 0x9fa0);
	CHECK_ERRNO(statfs("none", &a), ENOENT);
	CHECK_ERRNO(statfs("f/x", &a), ENOTDIR);
	CHECK_ERRNO(fstatfs(-1, &a), EBADF);
	CHECK_ERRNO(syscall(SYS_statfs, ".", (void *)8), EFAULT);
	int p[2];
	pipe(p);
	CHECK_OK(fstatfs(p[0], &a));
	CHECK_EQ(a.f_type, 0x50495045); /* PIPEFS_MAGIC */
	close(p[0]), close(p[1]);
}

TEST(sync)
{
	int fd = open("f", O_RDWR | O_CREAT, 0600), p[2], dir = open(".", O_RDONLY);
	pipe(p);
	write(fd, "x", 1);
	CHECK_OK(fsync(fd));
	CHECK_OK(fdatasync(fd));
	CHECK_OK(fsync(dir));
	CHECK_ERRNO(fsync(p[0]), EINVAL);
	CHECK_ERRNO(fdatasync(p[0]), EINVAL);
	CHECK_ERRNO(fsync(-1), EBADF);
	CHECK_ERRNO(syncfs(-1), EBADF);
	CHECK_OK(sync_file_range(fd, 0, 1, SYNC_FILE_RANGE_WRITE));
	CHECK_ERRNO(sync_file_range(fd, 0, 1, 0x80), EINVAL);
	CHECK_ERRNO(sync_file_range(fd, -1, 1, 0), EINVAL);
	CHECK_ERRNO(sync_file_range(p[0], 0, 1, 0), ESPIPE);
	close(dir), close(p[0]), close(p[1]), close(fd);
}

TEST(advice)
{
	int fd = open("f", O_RDWR | O_CREAT, 0600), p[2];
	pipe(p);
	/* posix_fadvise returns the error instead of setting errno. */
	CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL), 0);
	CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	CHECK_EQ(posix_fadvise(fd, 0, 0, 99), EINVAL);
	CHECK_EQ(posix_fadvise(fd, 0, -1, POSIX_FADV_NORMAL), EINVAL);
	CHECK_EQ(posix_fadvise(-1, 0, 0, POSIX_FADV_NORMAL), EBADF);
	CHECK_EQ(posix_fadvise(p[0], 0, 0, POSIX_FADV_NORMAL), ESPIPE);
	CHECK_EQ(readahead(fd, 0, 4096), 0);
	CHECK_ERRNO(readahead(-1, 0, 4096), EBADF);
	CHECK_ERRNO(readahead(p[0], 0, 4096), EINVAL);
	close(p[0]), close(p[1]), close(fd);
}
