/* mount(2), umount2(2), in a mount namespace of its own. */
#include "tap.h"
#include <sys/mount.h>

#define PRIVATE                                                                                    \
	(unshare(CLONE_NEWNS) == 0 &&                                                              \
	 (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 || errno == EINVAL)) /* EINVAL: a chroot */
#define NEED_MOUNT()                                                                               \
	if (!tap_capable(21))                                                                      \
	SKIP("needs CAP_SYS_ADMIN")

TEST(tmpfs)
{
	NEED_MOUNT();
	mkdir("m", 0755);
	tap_write_file("m/under", "");
	IN_CHILD
	{
		CHECK(PRIVATE);
		CHECK_OK(mount("none", "m", "tmpfs", 0, "mode=0700,size=1m"));
		struct stat st, up;
		stat("m", &st);
		stat(".", &up);
		CHECK(st.st_dev != up.st_dev);
		CHECK_EQ(st.st_mode & 07777, 0700);
		CHECK_ERRNO(access("m/under", F_OK), ENOENT);
		CHECK_OK(tap_write_file("m/f", "x"));
		CHECK_ERRNO(rename("m/f", "f"), EXDEV);
		CHECK_ERRNO(link("m/f", "f"), EXDEV);
		CHECK_ERRNO(rmdir("m"), EBUSY);
		CHECK_ERRNO(rename("m", "n"), EBUSY);
		int fd = open("m/big", O_RDWR | O_CREAT, 0600);
		CHECK_ERRNO(fallocate(fd, 0, 0, 2 << 20), ENOSPC);
		CHECK_ERRNO(umount("m"), EBUSY); /* an open file */
		close(fd);
		CHECK_OK(umount("m"));
		CHECK_OK(access("m/under", F_OK));
		CHECK_ERRNO(umount("m"), EINVAL);
	}
	CHECK_OK(access("m/under", F_OK));
}

TEST(flags)
{
	NEED_MOUNT();
	mkdir("m", 0755);
	IN_CHILD
	{
		CHECK(PRIVATE);
		mount("none", "m", "tmpfs", 0, NULL);
		tap_write_file("m/prog", "#!/x\n");
		chmod("m/prog", 0755);
		mknod("m/null", S_IFCHR | 0666, 0x103);
		CHECK_OK(mount(NULL, "m", NULL, MS_REMOUNT | MS_RDONLY | MS_NOEXEC | MS_NODEV, NULL));
		CHECK_ERRNO(open("m/new", O_CREAT | O_RDWR, 0600), EROFS);
		CHECK_ERRNO(open("m/prog", O_RDWR), EROFS);
		CHECK_ERRNO(unlink("m/prog"), EROFS);
		CHECK_ERRNO(chmod("m/prog", 0700), EROFS);
		CHECK_ERRNO(access("m/prog", W_OK), EROFS);
		CHECK_ERRNO(mkdir("m/d", 0700), EROFS);
		CHECK_ERRNO(mkdir("m/prog", 0700), EEXIST); /* existence is told first */
		CHECK_ERRNO(execl("m/prog", "prog", NULL), EACCES);
		CHECK_ERRNO(open("m/null", O_RDONLY), EACCES);
		int fd = open("m/prog", O_RDONLY);
		CHECK(fd >= 0);
		CHECK_OK(mount(NULL, "m", NULL, MS_REMOUNT, NULL));
		CHECK_OK(tap_write_file("m/new", ""));
	}
}

TEST(bind)
{
	NEED_MOUNT();
	mkdir("a", 0755);
	mkdir("b", 0755);
	tap_write_file("a/f", "inside");
	tap_write_file("file", "other");
	IN_CHILD
	{
		char buf[16];
		CHECK(PRIVATE);
		CHECK_OK(mount("a", "b", NULL, MS_BIND, NULL));
		CHECK_OK(access("b/f", F_OK));
		tap_write_file("b/g", "");
		CHECK_OK(access("a/g", F_OK));
		/* One file system, and still no link from one mount to the other. */
		CHECK_ERRNO(link("a/f", "b/h"), EXDEV);
		CHECK_OK(mount(NULL, "b", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
		CHECK_ERRNO(open("b/f", O_RDWR), EROFS);
		int fd = open("a/f", O_RDWR); /* only that mount is read-only */
		CHECK(fd >= 0);
		close(fd);
		CHECK_OK(umount("b"));
		CHECK_OK(mount("a/f", "file", NULL, MS_BIND, NULL)); /* a file on a file */
		tap_read_file("file", buf, sizeof buf);
		CHECK_STR(buf, "inside");
		CHECK_ERRNO(unlink("file"), EBUSY);
		CHECK_OK(umount("file"));
		CHECK_ERRNO(mount("a", "file", NULL, MS_BIND, NULL), ENOTDIR);
		CHECK_ERRNO(mount("file", "a", NULL, MS_BIND, NULL), ENOTDIR);
		CHECK_ERRNO(mount("none", "b", NULL, MS_BIND, NULL), ENOENT);
	}
}

TEST(move_detach_stack)
{
	NEED_MOUNT();
	mkdir("a", 0755);
	mkdir("b", 0755);
	IN_CHILD
	{
		CHECK(PRIVATE);
		mount("none", "a", "tmpfs", 0, NULL);
		tap_write_file("a/f", "");
		CHECK_OK(mount("a", "b", NULL, MS_MOVE, NULL));
		CHECK_OK(access("b/f", F_OK));
		CHECK_ERRNO(access("a/f", F_OK), ENOENT);
		CHECK_OK(mount("none", "b", "tmpfs", 0, NULL)); /* stacked on top */
		CHECK_ERRNO(access("b/f", F_OK), ENOENT);
		CHECK_OK(umount("b"));
		CHECK_OK(access("b/f", F_OK));
		int fd = open("b/f", O_RDWR);
		CHECK_OK(umount2("b", MNT_DETACH)); /* lazily, with a file open */
		CHECK_ERRNO(access("b/f", F_OK), ENOENT);
		CHECK_EQ(write(fd, "x", 1), 1);
		close(fd);
		CHECK_ERRNO(umount2("b", 0x40000000), EINVAL);
		symlink("a", "l");
		mount("none", "a", "tmpfs", 0, NULL);
		CHECK_ERRNO(umount2("l", UMOUNT_NOFOLLOW), EINVAL);
		CHECK_OK(umount("l"));
	}
}

TEST(errors)
{
	NEED_MOUNT();
	mkdir("m", 0755);
	IN_CHILD
	{
		CHECK(PRIVATE);
		CHECK_ERRNO(mount("none", "m", "nosuchfs", 0, NULL), ENODEV);
		CHECK_ERRNO(mount("none", "gone", "tmpfs", 0, NULL), ENOENT);
		CHECK_ERRNO(mount("none", "m", "tmpfs", 0, "bogus=1"), EINVAL);
		CHECK_ERRNO(mount(NULL, "m", NULL, MS_REMOUNT, NULL), EINVAL); /* not a mount point */
		CHECK_ERRNO(mount("none", "m", NULL, 0, NULL), EINVAL);
		CHECK_ERRNO(umount("gone"), ENOENT);
		CHECK_ERRNO(syscall(SYS_mount, "none", (void *)8, "tmpfs", 0, NULL), EFAULT);
		tap_become(12345, 12345);
		CHECK_ERRNO(mount("none", "m", "tmpfs", 0, NULL), EPERM);
		CHECK_ERRNO(umount("m"), EPERM);
	}
}
