/* inotify(7). */
#include "tap.h"
#include <sys/inotify.h>

/* next takes events one at a time from a buffer and prints them into text: "mask:name". */
static char buffer[4096] __attribute__((aligned(8)));
static ssize_t have, at;
static struct inotify_event *next(int fd)
{
	if (at >= have) {
		at = 0;
		have = read(fd, buffer, sizeof buffer);
		if (have <= 0)
			return NULL;
	}
	struct inotify_event *e = (void *)(buffer + at);
	at += sizeof *e + e->len;
	return e;
}
static uint32_t mask(int fd)
{
	struct inotify_event *e = next(fd);
	return e ? e->mask : 0;
}

TEST(file_events)
{
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	REQUIRE(fd >= 0);
	have = at = 0;
	CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	tap_write_file("f", "abc");
	int wd = inotify_add_watch(fd, "f", IN_ALL_EVENTS);
	CHECK_EQ(wd, 1);
	CHECK_ERRNO(read(fd, buffer, sizeof buffer), EAGAIN);
	int f = open("f", O_RDWR);
	struct inotify_event *e = next(fd);
	CHECK(e && e->mask == IN_OPEN);
	CHECK(e && e->wd == wd && e->len == 0 && e->cookie == 0);
	char c;
	read(f, &c, 1);
	CHECK_EQ(mask(fd), IN_ACCESS);
	write(f, "x", 1);
	CHECK_EQ(mask(fd), IN_MODIFY);
	fchmod(f, 0600);
	CHECK_EQ(mask(fd), IN_ATTRIB);
	ftruncate(f, 0);
	CHECK_EQ(mask(fd), IN_MODIFY);
	close(f);
	CHECK_EQ(mask(fd), IN_CLOSE_WRITE);
	f = open("f", O_RDONLY);
	close(f);
	CHECK_EQ(mask(fd), IN_OPEN);
	CHECK_EQ(mask(fd), IN_CLOSE_NOWRITE);
	rename("f", "g");
	CHECK_EQ(mask(fd), IN_MOVE_SELF);
	unlink("g");
	CHECK_EQ(mask(fd), IN_ATTRIB); /* the link count */
	CHECK_EQ(mask(fd), IN_DELETE_SELF);
	CHECK_EQ(mask(fd), IN_IGNORED);
	CHECK_EQ(mask(fd), 0);
	CHECK_ERRNO(inotify_rm_watch(fd, wd), EINVAL);
	close(fd);
}

TEST(directory_events)
{
	int fd = inotify_init1(IN_NONBLOCK);
	have = at = 0;
	mkdir("d", 0755);
	int wd = inotify_add_watch(fd, "d", IN_CREATE | IN_DELETE | IN_MOVE | IN_MODIFY | IN_DELETE_SELF);
	tap_write_file("d/one", "x");
	struct inotify_event *e = next(fd);
	CHECK(e && e->mask == IN_CREATE);
	CHECK_STR(e ? e->name : NULL, "one");
	CHECK(e && e->len % 16 == 0 && e->len >= 4);
	CHECK_EQ(mask(fd), IN_MODIFY);
	mkdir("d/sub", 0755);
	CHECK_EQ(mask(fd), IN_CREATE | IN_ISDIR);
	rename("d/one", "d/two");
	e = next(fd);
	CHECK(e && e->mask == IN_MOVED_FROM && strcmp(e->name, "one") == 0);
	uint32_t cookie = e ? e->cookie : 0;
	e = next(fd);
	CHECK(e && e->mask == IN_MOVED_TO && strcmp(e->name, "two") == 0);
	CHECK(e && cookie != 0 && e->cookie == cookie);
	rename("d/two", "out");
	CHECK_EQ(mask(fd), IN_MOVED_FROM);
	link("out", "d/back");
	CHECK_EQ(mask(fd), IN_CREATE);
	unlink("d/back");
	CHECK_EQ(mask(fd), IN_DELETE);
	rmdir("d/sub");
	CHECK_EQ(mask(fd), IN_DELETE | IN_ISDIR);
	rmdir("d");
	CHECK_EQ(mask(fd), IN_DELETE_SELF);
	e = next(fd);
	CHECK(e && e->mask == IN_IGNORED && e->wd == wd);
	close(fd);
}

TEST(watch_flags)
{
	int fd = inotify_init1(IN_NONBLOCK);
	have = at = 0;
	tap_write_file("f", "");
	symlink("f", "l");
	int wd = inotify_add_watch(fd, "f", IN_OPEN);
	CHECK_EQ(inotify_add_watch(fd, "l", IN_MODIFY), wd); /* the same inode: replaces the mask */
	close(open("f", O_RDONLY));
	CHECK_EQ(mask(fd), 0);
	CHECK_EQ(inotify_add_watch(fd, "f", IN_OPEN | IN_MASK_ADD), wd);
	close(open("f", O_RDONLY));
	CHECK_EQ(mask(fd), IN_OPEN);
	CHECK(inotify_add_watch(fd, "l", IN_OPEN | IN_DONT_FOLLOW) != wd);
	CHECK_ERRNO(inotify_add_watch(fd, "f", IN_OPEN | IN_ONLYDIR), ENOTDIR);
	CHECK_OK(inotify_rm_watch(fd, wd));
	CHECK_EQ(mask(fd), IN_IGNORED);
	wd = inotify_add_watch(fd, "f", IN_OPEN | IN_ONESHOT);
	close(open("f", O_RDONLY));
	CHECK_EQ(mask(fd), IN_OPEN);
	CHECK_EQ(mask(fd), IN_IGNORED);
	CHECK(wd > 1); /* numbers are not used again */
	close(fd);
}

TEST(errors_and_queue)
{
	int fd = inotify_init1(IN_NONBLOCK), n = open("/dev/null", O_RDWR), bytes = -1;
	have = at = 0;
	CHECK_ERRNO(inotify_init1(0x40000000), EINVAL);
	CHECK_ERRNO(inotify_add_watch(fd, "none", IN_OPEN), ENOENT);
	CHECK_ERRNO(inotify_add_watch(fd, ".", 0), EINVAL);
	CHECK_ERRNO(inotify_add_watch(n, ".", IN_OPEN), EINVAL);
	CHECK_ERRNO(inotify_add_watch(-1, ".", IN_OPEN), EBADF);
	CHECK_ERRNO(inotify_rm_watch(fd, 99), EINVAL);
	CHECK_ERRNO(inotify_rm_watch(n, 1), EINVAL);
	tap_write_file("f", "");
	inotify_add_watch(fd, "f", IN_OPEN | IN_MODIFY);
	/* Identical neighbours in the queue are merged. */
	int f = open("f", O_WRONLY);
	write(f, "a", 1);
	write(f, "b", 1);
	CHECK_OK(ioctl(fd, FIONREAD, &bytes));
	CHECK_EQ(bytes, 2 * (int)sizeof(struct inotify_event));
	CHECK_ERRNO(read(fd, buffer, 8), EINVAL);
	CHECK_EQ(read(fd, buffer, 20), 16); /* whole events only */
	struct pollfd p = {fd, POLLIN, 0};
	CHECK_EQ(poll(&p, 1, 0), 1);
	CHECK_EQ(mask(fd), IN_MODIFY);
	CHECK_EQ(poll(&p, 1, 0), 0);
	close(f);
	close(n);
	close(fd);
}
