/* /dev/null, zero, full, random, urandom, tty; /dev/fd and friends. */
#include "tap.h"
#include <sys/sysmacros.h>

static int dev(const char *path, int major, int minor)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(major, minor);
}

TEST(numbers)
{
	CHECK(dev("/dev/null", 1, 3));
	CHECK(dev("/dev/zero", 1, 5));
	CHECK(dev("/dev/full", 1, 7));
	CHECK(dev("/dev/random", 1, 8));
	CHECK(dev("/dev/urandom", 1, 9));
	CHECK(dev("/dev/tty", 5, 0));
}

TEST(null)
{
	char c = 7;
	int fd = open("/dev/null", O_RDWR);
	CHECK_EQ(read(fd, &c, 1), 0);
	CHECK_EQ(write(fd, "abc", 3), 3);
	CHECK_EQ(syscall(SYS_write, fd, 8, 3), 3); /* does not even look */
	CHECK_ERRNO(ftruncate(fd, 0), EINVAL);
	close(fd);
	fd = open("/dev/null", O_WRONLY | O_TRUNC | O_CREAT, 0600);
	CHECK(fd >= 0);
	close(fd);
}

TEST(zero_and_full)
{
	char buf[5000];
	memset(buf, 1, sizeof buf);
	int fd = open("/dev/zero", O_RDWR), zero = 1;
	CHECK_EQ(read(fd, buf, sizeof buf), sizeof buf);
	for (size_t i = 0; i < sizeof buf; i++)
		zero = zero && buf[i] == 0;
	CHECK(zero);
	CHECK_EQ(write(fd, buf, 10), 10);
	CHECK_EQ(pread(fd, buf, 10, 1 << 20), 10);
	close(fd);
	fd = open("/dev/full", O_RDWR);
	CHECK_EQ(read(fd, buf, 10), 10);
	CHECK_ERRNO(write(fd, buf, 10), ENOSPC);
	close(fd);
}

TEST(random)
{
	unsigned char a[32] = {0}, b[32] = {0};
	int fd = open("/dev/urandom", O_RDWR);
	CHECK_EQ(read(fd, a, 32), 32);
	CHECK_EQ(read(fd, b, 32), 32);
	CHECK(memcmp(a, b, 32) != 0);
	CHECK_EQ(write(fd, a, 32), 32);
	close(fd);
	fd = open("/dev/random", O_RDONLY | O_NONBLOCK);
	ssize_t n = read(fd, a, 8);
	CHECK(n > 0 || errno == EAGAIN);
	close(fd);
}

TEST(made_by_hand)
{
	/* A device node works wherever it stands (unless the mount says nodev). */
	if (mknod("null", S_IFCHR | 0666, makedev(1, 3)) != 0)
		SKIP("needs CAP_MKNOD");
	int fd = open("null", O_RDWR);
	if (fd == -1 && (errno == EACCES || errno == EPERM))
		SKIP("/tmp is mounted nodev");
	char c;
	CHECK_EQ(read(fd, &c, 1), 0);
	close(fd);
	CHECK_OK(mknod("nodriver", S_IFCHR | 0666, makedev(200, 200)));
	CHECK_ERRNO(open("nodriver", O_RDWR), ENXIO);
}

TEST(descriptors)
{
	char buf[64], path[64];
	tap_write_file("f", "abc");
	int fd = open("f", O_RDONLY);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(path, buf, sizeof buf - 1);
	CHECK(n > 2);
	buf[n] = 0;
	CHECK_STR(strrchr(buf, '/'), "/f");
	unlink("f");
	n = readlink(path, buf, sizeof buf - 1);
	buf[n > 0 ? n : 0] = 0;
	CHECK(strstr(buf, "/f (deleted)") != NULL);
	close(fd);
	CHECK_ERRNO(readlink(path, buf, sizeof buf), ENOENT);
	int p[2];
	pipe(p);
	snprintf(path, sizeof path, "/proc/self/fd/%d", p[0]);
	n = readlink(path, buf, sizeof buf - 1);
	buf[n > 0 ? n : 0] = 0;
	CHECK(strncmp(buf, "pipe:[", 6) == 0);
	close(p[0]), close(p[1]);
}
