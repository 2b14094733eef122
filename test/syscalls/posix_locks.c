/* Record locks of processes (fcntl F_SETLK) and of open file descriptions (F_OFD_SETLK). */
#include "tap.h"

static int lock(int fd, int cmd, int type, off_t start, off_t len)
{
	struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
	return fcntl(fd, cmd, &l);
}

/* probe returns the pid F_GETLK names, 0 when the range is free. */
static pid_t probe(int fd, int type, off_t start, off_t len)
{
	struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
	if (fcntl(fd, F_GETLK, &l) != 0)
		return -2;
	return l.l_type == F_UNLCK ? 0 : l.l_pid;
}

TEST(conflicts)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	pid_t me = getpid();
	CHECK_OK(lock(fd, F_SETLK, F_WRLCK, 10, 10));
	CHECK_EQ(probe(fd, F_WRLCK, 0, 0), 0); /* one's own locks do not conflict */
	IN_CHILD
	{
		CHECK_EQ(probe(fd, F_RDLCK, 10, 1), me); /* locks are not inherited */
		CHECK_ERRNO(lock(fd, F_SETLK, F_RDLCK, 19, 5), EAGAIN);
		CHECK_OK(lock(fd, F_SETLK, F_WRLCK, 20, 5));
		CHECK_OK(lock(fd, F_SETLK, F_WRLCK, 0, 10));
		CHECK_ERRNO(lock(fd, F_SETLK, F_WRLCK, 0, 0), EAGAIN); /* 0: to the end */
	}
	CHECK_EQ(probe(fd, F_WRLCK, 0, 0), 0); /* and go with the process */
	close(fd);
}

TEST(shared_then_split)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};
	CHECK_OK(lock(fd, F_SETLK, F_RDLCK, 0, 100));
	CHECK_OK(lock(fd, F_SETLK, F_WRLCK, 40, 20)); /* upgrade the middle */
	CHECK_OK(lock(fd, F_SETLK, F_UNLCK, 50, 5));
	IN_CHILD
	{
		CHECK_OK(lock(fd, F_SETLK, F_RDLCK, 0, 40));
		CHECK_ERRNO(lock(fd, F_SETLK, F_RDLCK, 40, 1), EAGAIN);
		CHECK_OK(lock(fd, F_SETLK, F_WRLCK, 50, 5));
		CHECK_ERRNO(lock(fd, F_SETLK, F_WRLCK, 99, 1), EAGAIN);
		CHECK_OK(lock(fd, F_SETLK, F_WRLCK, 100, 1));
		l.l_start = 45;
		CHECK_OK(fcntl(fd, F_GETLK, &l));
		CHECK_EQ(l.l_type, F_WRLCK);
		CHECK_EQ(l.l_start, 40);
		CHECK_EQ(l.l_len, 10);
		CHECK_EQ(l.l_whence, SEEK_SET);
	}
	close(fd);
}

TEST(any_close_releases)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	lock(fd, F_SETLK, F_WRLCK, 0, 0);
	int other = open("f", O_RDONLY);
	close(other); /* the famous trap: closing any descriptor of the file drops the locks */
	IN_CHILD
	{
		CHECK_OK(lock(fd, F_SETLK, F_WRLCK, 0, 0));
	}
	close(fd);
}

TEST(whence_and_negative_length)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	ftruncate(fd, 100);
	lseek(fd, 50, SEEK_SET);
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_CUR, .l_start = 0, .l_len = -10};
	CHECK_OK(fcntl(fd, F_SETLK, &l)); /* covers 40..49 */
	IN_CHILD
	{
		CHECK_OK(lock(fd, F_SETLK, F_WRLCK, 30, 10));
		CHECK_ERRNO(lock(fd, F_SETLK, F_WRLCK, 40, 1), EAGAIN);
		CHECK_OK(lock(fd, F_SETLK, F_WRLCK, 50, 1));
	}
	l = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_END, .l_start = -5, .l_len = 5};
	CHECK_OK(fcntl(fd, F_SETLK, &l));
	l.l_start = -200;
	CHECK_ERRNO(fcntl(fd, F_SETLK, &l), EINVAL);
	CHECK_ERRNO(lock(fd, F_SETLK, F_WRLCK, -1, 1), EINVAL);
	CHECK_ERRNO(lock(fd, F_SETLK, F_WRLCK, 5, -10), EINVAL);
	CHECK_ERRNO(lock(fd, F_SETLK, 99, 0, 1), EINVAL);
	CHECK_ERRNO(lock(fd, F_SETLK, F_WRLCK, LLONG_MAX, LLONG_MAX), EOVERFLOW);
	CHECK_ERRNO(lock(-1, F_SETLK, F_WRLCK, 0, 1), EBADF);
	close(fd);
	fd = open("f", O_RDONLY);
	CHECK_ERRNO(lock(fd, F_SETLK, F_WRLCK, 0, 1), EBADF);
	CHECK_OK(lock(fd, F_SETLK, F_RDLCK, 0, 1));
	CHECK_ERRNO(syscall(SYS_fcntl, fd, F_SETLK, 8), EFAULT);
	close(fd);
	fd = open("f", O_WRONLY);
	CHECK_ERRNO(lock(fd, F_SETLK, F_RDLCK, 0, 1), EBADF);
	close(fd);
}

TEST(waiting)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	struct tap_gate locked = tap_gate_new(), release = tap_gate_new();
	pid_t holder = tap_fork();
	if (holder == 0) {
		lock(fd, F_SETLK, F_WRLCK, 0, 10);
		tap_gate_open(locked);
		tap_gate_wait(release);
		_exit(0); /* the exit unlocks */
	}
	tap_gate_wait(locked);
	CHECK_ERRNO(lock(fd, F_SETLK, F_WRLCK, 5, 1), EAGAIN);
	tap_gate_open(release);
	CHECK_OK(lock(fd, F_SETLKW, F_WRLCK, 5, 1));
	CHECK_EQ(tap_reap(holder), 0);
	tap_gate_free(locked);
	tap_gate_free(release);
	close(fd);
}

TEST(deadlock)
{
	/* Two processes that each wait for the other: the second to wait gets EDEADLK. */
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	struct tap_gate ready = tap_gate_new();
	lock(fd, F_SETLK, F_WRLCK, 0, 1);
	pid_t child = tap_fork();
	if (child == 0) {
		lock(fd, F_SETLK, F_WRLCK, 1, 1);
		tap_gate_open(ready);
		int r = lock(fd, F_SETLKW, F_WRLCK, 0, 1);
		_exit(r == 0 ? 0 : errno == EDEADLK ? 1 : 2);
	}
	tap_gate_wait(ready);
	int r = lock(fd, F_SETLKW, F_WRLCK, 1, 1), e = errno;
	if (r == -1)
		lock(fd, F_SETLK, F_UNLCK, 0, 1); /* let the child have it */
	int status = tap_reap(child);
	CHECK_NAMED((r == -1 && e == EDEADLK && WEXITSTATUS(status) == 0) ||
			    (r == 0 && WEXITSTATUS(status) == 1),
		    "exactly one of the two gets EDEADLK");
	close(fd);
}

TEST(ofd)
{
	int a = open("f", O_RDWR | O_CREAT, 0644), b = open("f", O_RDWR);
	CHECK_OK(lock(a, F_OFD_SETLK, F_WRLCK, 0, 10));
	CHECK_ERRNO(lock(b, F_OFD_SETLK, F_WRLCK, 5, 1), EAGAIN); /* conflicts in one process */
	CHECK_OK(lock(b, F_OFD_SETLK, F_WRLCK, 10, 1));
	struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
	CHECK_OK(fcntl(b, F_OFD_GETLK, &l));
	CHECK_EQ(l.l_type, F_WRLCK);
	CHECK_EQ(l.l_pid, -1); /* owned by a description, not a process */
	CHECK_EQ(l.l_len, 10);
	CHECK_ERRNO(lock(b, F_SETLK, F_RDLCK, 0, 1), EAGAIN);
	IN_CHILD
	{
		CHECK_OK(lock(a, F_OFD_SETLK, F_WRLCK, 0, 10)); /* shared over fork */
	}
	CHECK_ERRNO(lock(b, F_OFD_SETLK, F_WRLCK, 0, 1), EAGAIN); /* still held: the description lives */
	int c = open("f", O_RDWR);
	close(c);
	CHECK_ERRNO(lock(b, F_OFD_SETLK, F_WRLCK, 0, 1), EAGAIN);
	int d = dup(a);
	close(a);
	CHECK_ERRNO(lock(b, F_OFD_SETLK, F_WRLCK, 0, 1), EAGAIN);
	close(d); /* the last descriptor */
	CHECK_OK(lock(b, F_OFD_SETLK, F_WRLCK, 0, 1));
	l = (struct flock){.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1, .l_pid = 5};
	CHECK_ERRNO(fcntl(b, F_OFD_SETLK, &l), EINVAL); /* l_pid must be 0 */
	close(b);
}
