/* chmod(2), chown(2), umask(2) and their relatives. */
#include "tap.h"

static unsigned mode_of(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0 ? st.st_mode & 07777 : 0xffff;
}

TEST(chmod)
{
	tap_write_file("f", "");
	CHECK_OK(chmod("f", 04751));
	CHECK_EQ(mode_of("f"), 04751);
	CHECK_OK(chmod("f", 0170600)); /* type bits are ignored */
	CHECK_EQ(mode_of("f"), 0600);
	int fd = open("f", O_RDONLY);
	CHECK_OK(fchmod(fd, 0640));
	CHECK_EQ(mode_of("f"), 0640);
	close(fd);
	CHECK_OK(fchmodat(AT_FDCWD, "f", 0611, 0));
	CHECK_EQ(mode_of("f"), 0611);
	symlink("f", "l");
	CHECK_OK(chmod("l", 0700));
	CHECK_EQ(mode_of("f"), 0700);
	CHECK_EQ(mode_of("l"), 0777);
	CHECK_ERRNO(chmod("none", 0600), ENOENT);
	CHECK_ERRNO(fchmod(-1, 0600), EBADF);
	CHECK_ERRNO(chmod("f/x", 0600), ENOTDIR);
}

TEST(chmod_permission)
{
	tap_write_file("f", "");
	tap_write_file("mine", "");
	chown("mine", 12345, 777);
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_ERRNO(chmod("f", 0666), EPERM);
		CHECK_OK(chmod("mine", 0644));
		/* S_ISGID goes silently when the caller is not in the file's group. */
		CHECK_OK(chmod("mine", 02755));
		CHECK_EQ(mode_of("mine"), 0755);
		CHECK_OK(chmod("mine", 04755));
		CHECK_EQ(mode_of("mine"), 04755);
	}
}

TEST(chown)
{
	struct stat st;
	tap_write_file("f", "");
	CHECK_OK(chown("f", 5, 6));
	stat("f", &st);
	CHECK_EQ(st.st_uid, 5);
	CHECK_EQ(st.st_gid, 6);
	CHECK_OK(chown("f", -1, 7));
	stat("f", &st);
	CHECK_EQ(st.st_uid, 5);
	CHECK_EQ(st.st_gid, 7);
	CHECK_OK(chown("f", 8, -1));
	stat("f", &st);
	CHECK_EQ(st.st_uid, 8);
	CHECK_EQ(st.st_gid, 7);
	symlink("f", "l");
	CHECK_OK(lchown("l", 9, 9));
	stat("f", &st);
	CHECK_EQ(st.st_uid, 8);
	lstat("l", &st);
	CHECK_EQ(st.st_uid, 9);
	CHECK_OK(chown("l", 10, 10));
	stat("f", &st);
	CHECK_EQ(st.st_uid, 10);
	CHECK_ERRNO(chown("none", 1, 1), ENOENT);
	CHECK_ERRNO(fchown(-1, 1, 1), EBADF);
	CHECK_ERRNO(fchownat(AT_FDCWD, "f", 1, 1, 0x40000000), EINVAL);
}

TEST(chown_clears_setid)
{
	tap_write_file("f", "");
	chmod("f", 06755);
	chown("f", 5, 5);
	CHECK_EQ(mode_of("f"), 0755);
	/* S_ISGID without group execution was mandatory locking, and stays (when root does it). */
	chmod("f", 06644);
	chown("f", 6, 6);
	CHECK_EQ(mode_of("f"), 02644);
	mkdir("d", 0755);
	chmod("d", 06755);
	chown("d", 5, 5);
	CHECK_EQ(mode_of("d"), 06755); /* directories keep both */
}

TEST(write_clears_setid)
{
	tap_write_file("f", "abc");
	chmod("f", 06777);
	chown("f", 12345, 12345);
	chmod("f", 06777);
	IN_CHILD
	{
		tap_become(12346, 12346);
		int fd = open("f", O_WRONLY);
		CHECK(fd >= 0);
		CHECK_EQ(write(fd, "x", 1), 1);
		CHECK_EQ(mode_of("f"), 0777);
	}
}

TEST(chown_permission)
{
	tap_write_file("f", "");
	tap_write_file("mine", "");
	chown("mine", 12345, 12345);
	IN_CHILD
	{
		gid_t groups[] = {20};
		syscall(SYS_setgroups, 1, groups);
		syscall(SYS_setresgid, 12345, 12345, 12345);
		syscall(SYS_setresuid, 12345, 12345, 12345);
		CHECK_ERRNO(chown("f", 12345, -1), EPERM);
		CHECK_ERRNO(chown("mine", 0, -1), EPERM);
		CHECK_ERRNO(chown("mine", -1, 0), EPERM);
		CHECK_OK(chown("mine", -1, 20));
		CHECK_OK(chown("mine", 12345, -1));
		CHECK_OK(chown("mine", -1, -1));
	}
}

TEST(umask)
{
	CHECK_EQ(umask(0777), 022);
	CHECK_EQ(umask(07777), 0777); /* only the permission bits are kept */
	CHECK_EQ(umask(027), 0777);
	int fd = open("f", O_CREAT | O_RDWR, 0666);
	close(fd);
	CHECK_EQ(mode_of("f"), 0640);
	mkdir("d", 0777);
	CHECK_EQ(mode_of("d"), 0750);
	mkfifo("p", 0666);
	CHECK_EQ(mode_of("p"), 0640);
	umask(0);
	mkdir("t", 01777);
	CHECK_EQ(mode_of("t"), 01777);
	IN_CHILD
	{
		umask(077);
	}
	CHECK_EQ(umask(022), 0);
}

TEST(setgid_directory)
{
	struct stat st;
	mkdir("d", 0755);
	chown("d", 0, 77);
	chmod("d", 02755);
	tap_write_file("d/f", "");
	stat("d/f", &st);
	CHECK_EQ(st.st_gid, 77);
	mkdir("d/e", 0755);
	stat("d/e", &st);
	CHECK_EQ(st.st_gid, 77);
	CHECK_EQ(st.st_mode & 07777, 02755);
}
