/* flock(2): locks of open file descriptions. */
#include "tap.h"
#include <sys/file.h>

TEST(conflicts)
{
	int a = open("f", O_RDWR | O_CREAT, 0644), b = open("f", O_RDONLY);
	CHECK_OK(flock(a, LOCK_EX | LOCK_NB));
	CHECK_ERRNO(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
	CHECK_ERRNO(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
	CHECK_OK(flock(a, LOCK_SH)); /* conversion */
	CHECK_OK(flock(b, LOCK_SH | LOCK_NB));
	CHECK_ERRNO(flock(a, LOCK_EX | LOCK_NB), EWOULDBLOCK);
	/* A failed conversion has lost the old lock: it is not atomic. */
	CHECK_OK(flock(b, LOCK_EX | LOCK_NB));
	CHECK_OK(flock(b, LOCK_UN));
	CHECK_OK(flock(b, LOCK_UN));
	CHECK_OK(flock(a, LOCK_EX | LOCK_NB));
	int d = dup(a);
	CHECK_OK(flock(d, LOCK_EX | LOCK_NB)); /* the same description */
	close(a);
	CHECK_ERRNO(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
	close(d);
	CHECK_OK(flock(b, LOCK_EX | LOCK_NB));
	close(b);
}

TEST(errors)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644), p[2];
	CHECK_ERRNO(flock(-1, LOCK_EX), EBADF);
	CHECK_ERRNO(flock(fd, 0), EINVAL);
	CHECK_ERRNO(flock(fd, LOCK_NB), EINVAL);
	CHECK_ERRNO(flock(fd, LOCK_EX | LOCK_SH), EINVAL);
	pipe(p);
	CHECK_OK(flock(p[0], LOCK_EX | LOCK_NB)); /* any kind of file will do */
	int dir = open(".", O_RDONLY);
	CHECK_OK(flock(dir, LOCK_EX | LOCK_NB));
	int path = open("f", O_PATH);
	CHECK_ERRNO(flock(path, LOCK_EX | LOCK_NB), EBADF);
	close(fd);
	close(p[0]);
	close(p[1]);
	close(dir);
	close(path);
}

TEST(independent_of_record_locks)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	CHECK_OK(flock(fd, LOCK_EX));
	IN_CHILD
	{
		struct flock l = {.l_type = F_WRLCK};
		int b = open("f", O_RDWR);
		CHECK_OK(fcntl(b, F_SETLK, &l));
	}
	close(fd);
}

TEST(fork_shares_and_waits)
{
	int fd = open("f", O_RDWR | O_CREAT, 0644);
	struct tap_gate gone = tap_gate_new();
	flock(fd, LOCK_EX);
	pid_t child = tap_fork();
	if (child == 0) {
		tap_gate_wait(gone);
		flock(fd, LOCK_UN); /* unlocks for the parent as well */
		_exit(0);
	}
	int b = open("f", O_RDWR);
	CHECK_ERRNO(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
	tap_gate_open(gone);
	CHECK_OK(flock(b, LOCK_EX)); /* waits for the child */
	CHECK_EQ(tap_reap(child), 0);
	tap_gate_free(gone);
	close(b);
	close(fd);
}
