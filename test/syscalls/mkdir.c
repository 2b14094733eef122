/* mkdir(2), rmdir(2), mknod(2), getdents64(2) and readdir's rules. */
#include "tap.h"
#include <sys/sysmacros.h>

TEST(mkdir)
{
	struct stat st;
	CHECK_OK(mkdir("d", 0777));
	stat("d", &st);
	CHECK_EQ(st.st_mode & 07777, 0755);
	CHECK_ERRNO(mkdir("d", 0755), EEXIST);
	CHECK_ERRNO(mkdir(".", 0755), EEXIST);
	CHECK_ERRNO(mkdir("/", 0755), EEXIST);
	CHECK_ERRNO(mkdir("none/d", 0755), ENOENT);
	CHECK_ERRNO(mkdir("", 0755), ENOENT);
	tap_write_file("f", "");
	CHECK_ERRNO(mkdir("f", 0755), EEXIST);
	CHECK_ERRNO(mkdir("f/d", 0755), ENOTDIR);
	symlink("nowhere", "l");
	CHECK_ERRNO(mkdir("l", 0755), EEXIST); /* a dangling link is not followed */
	CHECK_OK(mkdir("e/", 0755));
	CHECK_OK(mkdirat(AT_FDCWD, "at", 0700));
	CHECK_ERRNO(mkdirat(-5, "at2", 0700), EBADF);
	CHECK_ERRNO(mkdir("d/../none/..", 0700), ENOENT);
}

TEST(rmdir)
{
	mkdir("d", 0755);
	mkdir("d/e", 0755);
	tap_write_file("f", "");
	symlink("d/e", "l");
	CHECK_ERRNO(rmdir("d"), ENOTEMPTY);
	CHECK_ERRNO(rmdir("f"), ENOTDIR);
	CHECK_ERRNO(rmdir("none"), ENOENT);
	CHECK_ERRNO(rmdir("."), EINVAL);
	CHECK_ERRNO(rmdir("d/e/."), EINVAL);
	CHECK_ERRNO(rmdir("d/e/.."), ENOTEMPTY);
	CHECK_ERRNO(rmdir("l"), ENOTDIR);
	CHECK_ERRNO(rmdir("l/"), ENOTDIR);
	CHECK_ERRNO(rmdir("/"), EBUSY);
	CHECK_OK(rmdir("d/e"));
	CHECK_OK(rmdir("d/"));
}

TEST(removed_working_directory)
{
	char buf[64];
	mkdir("d", 0755);
	IN_CHILD
	{
		chdir("d");
		CHECK_OK(rmdir("../d"));
		CHECK_ERRNO(syscall(SYS_getcwd, buf, sizeof buf), ENOENT);
		CHECK_ERRNO(open("f", O_CREAT | O_RDWR, 0600), ENOENT);
		CHECK_ERRNO(mkdir("g", 0700), ENOENT);
		CHECK_OK(access(".", F_OK));
		CHECK_OK(chdir(".."));
	}
}

TEST(mknod)
{
	struct stat st;
	CHECK_OK(mknod("f", S_IFREG | 0644, 0));
	stat("f", &st);
	CHECK(S_ISREG(st.st_mode));
	CHECK_OK(mknod("f0", 0644, 0)); /* no type is a regular file */
	stat("f0", &st);
	CHECK(S_ISREG(st.st_mode));
	CHECK_OK(mknod("p", S_IFIFO | 0644, 0));
	CHECK_OK(mknod("s", S_IFSOCK | 0644, 0));
	stat("s", &st);
	CHECK(S_ISSOCK(st.st_mode));
	CHECK_ERRNO(open("s", O_RDWR), ENXIO);
	CHECK_ERRNO(mknod("f", S_IFREG | 0644, 0), EEXIST);
	CHECK_ERRNO(mknod("d", S_IFDIR | 0755, 0), EPERM);
	CHECK_ERRNO(mknod("x", S_IFLNK | 0755, 0), EINVAL);
	CHECK_ERRNO(mknod("x", 0170000 | 0755, 0), EINVAL);
	IN_CHILD
	{
		chmod(".", 0777);
		tap_become(12345, 12345);
		CHECK_ERRNO(mknod("c", S_IFCHR | 0644, makedev(1, 3)), EPERM);
		CHECK_OK(mknod("p2", S_IFIFO | 0644, 0));
	}
}

struct entry {
	uint64_t ino;
	int64_t off;
	uint16_t len;
	uint8_t type;
	char name[];
} __attribute__((packed));

/* Records of both calls are as long as their names need, which end in a NUL whatever
 * was in memory before. */
TEST(getdents_lengths)
{
	char buf[4096], path[64];
	mkdir("d", 0755);
	for (int i = 1; i <= 24; i++) {
		snprintf(path, sizeof path, "d/%.*s", i, "abcdefghijklmnopqrstuvwxyz");
		mkdir(path, 0755);
	}
	for (int old = 0; old < 2; old++) {
		for (int round = 0; round < 2; round++) { /* twice: a list may be kept */
			int fd = open("d", O_RDONLY | O_DIRECTORY), seen = 0, wrong = 0;
			memset(buf, 'x', sizeof buf);
			long n = syscall(old ? SYS_getdents : SYS_getdents64, fd, buf, sizeof buf);
			for (long at = 0; at < n;) {
				struct entry *e = (void *)(buf + at);
				const char *name = old ? (char *)&e->type : e->name;
				uint8_t type = old ? (uint8_t)buf[at + e->len - 1] : e->type;
				size_t length = strlen(name);
				seen += *name != '.';
				wrong += e->len != (20 + length + 7) / 8 * 8 || type != DT_DIR;
				wrong += *name != '.' && strncmp(name, "abcdefghijklmnopqrstuvwxyz", length);
				at += e->len;
			}
			CHECK_EQ(seen, 24);
			CHECK_EQ(wrong, 0);
			close(fd);
		}
	}
}

TEST(getdents)
{
	char buf[4096];
	mkdir("d", 0755);
	for (int i = 0; i < 50; i++) {
		snprintf(buf, sizeof buf, "d/file-%d", i);
		tap_write_file(buf, "");
	}
	mkdir("d/dir", 0755);
	symlink("x", "d/link");
	int fd = open("d", O_RDONLY | O_DIRECTORY), count = 0, dots = 0, dirs = 0, links = 0, whole = 1;
	long n;
	while ((n = syscall(SYS_getdents64, fd, buf, 512)) > 0) {
		for (long at = 0; at < n;) {
			struct entry *e = (void *)(buf + at);
			count++;
			whole = whole && e->len % 8 == 0 && e->ino != 0 && at + e->len <= n;
			dots += strcmp(e->name, ".") == 0 || strcmp(e->name, "..") == 0;
			dirs += e->type == DT_DIR;
			links += e->type == DT_LNK;
			at += e->len;
		}
	}
	CHECK_EQ(n, 0);
	CHECK_EQ(count, 54);
	CHECK_EQ(dots, 2);
	CHECK(dirs == 3 || dirs == 0); /* DT_UNKNOWN is allowed */
	CHECK(links == 1 || links == 0);
	CHECK(whole);
	CHECK_EQ(syscall(SYS_getdents64, fd, buf, 512), 0);
	CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
	CHECK_ERRNO(syscall(SYS_getdents64, fd, buf, 10), EINVAL); /* no entry fits */
	CHECK(syscall(SYS_getdents64, fd, buf, 512) > 0);
	/* An entry's d_off resumes after it. */
	struct entry *first = (void *)buf;
	char second[256];
	struct entry *next = (void *)(buf + first->len);
	snprintf(second, sizeof second, "%s", next->name);
	CHECK_EQ(lseek(fd, first->off, SEEK_SET), first->off);
	syscall(SYS_getdents64, fd, buf, 512);
	CHECK_STR(((struct entry *)buf)->name, second);
	/* SYS_getdents has the type in the last byte of the record. */
	lseek(fd, 0, SEEK_SET);
	n = syscall(SYS_getdents, fd, buf, sizeof buf);
	CHECK(n > 0);
	uint16_t len = *(uint16_t *)(buf + 16);
	CHECK_EQ(buf[len - 1] == DT_UNKNOWN ? DT_UNKNOWN : buf[len - 1],
		 buf[18] == '.' ? DT_DIR : buf[len - 1]);
	close(fd);
	fd = open("d/file-0", O_RDONLY);
	CHECK_ERRNO(syscall(SYS_getdents64, fd, buf, sizeof buf), ENOTDIR);
	close(fd);
	CHECK_ERRNO(syscall(SYS_getdents64, -1, buf, sizeof buf), EBADF);
}

TEST(removal_while_reading)
{
	mkdir("d", 0755);
	char name[32];
	for (int i = 0; i < 30; i++) {
		snprintf(name, sizeof name, "d/%d", i);
		tap_write_file(name, "");
	}
	DIR *d = opendir("d");
	struct dirent *e;
	int removed = 0;
	while ((e = readdir(d)))
		if (e->d_name[0] != '.') {
			snprintf(name, sizeof name, "d/%.8s", e->d_name);
			removed += unlink(name) == 0;
		}
	closedir(d);
	CHECK_EQ(removed, 30); /* entries that stayed are seen exactly once */
	CHECK_OK(rmdir("d"));
}
