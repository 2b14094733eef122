/* epoll(7): level, edge, one-shot, nested, exclusive; what epoll_ctl refuses. */
#include "tap.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static int add(int ep, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event e = {.events = events, .data.u64 = data};
	return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
}
static int mod(int ep, int fd, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.u64 = fd};
	return epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
}
/* ready polls without waiting: the one event's mask, 0 for none, -n for n events. */
static long ready(int ep)
{
	struct epoll_event e[8];
	int n = epoll_wait(ep, e, 8, 0);
	return n == 1 ? (long)e[0].events : -n;
}

TEST(level)
{
	int ep = epoll_create1(EPOLL_CLOEXEC), p[2];
	CHECK_EQ(fcntl(ep, F_GETFD), FD_CLOEXEC);
	pipe(p);
	CHECK_OK(add(ep, p[0], EPOLLIN, 42));
	CHECK_EQ(ready(ep), 0);
	write(p[1], "x", 1);
	struct epoll_event e;
	CHECK_EQ(epoll_wait(ep, &e, 1, -1), 1);
	CHECK_EQ(e.events, EPOLLIN);
	CHECK_EQ(e.data.u64, 42);
	CHECK_EQ(ready(ep), EPOLLIN); /* still ready, still reported */
	char c;
	read(p[0], &c, 1);
	CHECK_EQ(ready(ep), 0);
	close(p[1]);
	CHECK_EQ(ready(ep), EPOLLHUP); /* unasked */
	close(p[0]);
	CHECK_EQ(ready(ep), 0); /* the last descriptor closed: gone from the set */
	close(ep);
}

TEST(edge)
{
	int ep = epoll_create1(0), p[2];
	char c;
	pipe(p);
	add(ep, p[0], EPOLLIN | EPOLLET, 0);
	write(p[1], "a", 1);
	CHECK_EQ(ready(ep), EPOLLIN);
	CHECK_EQ(ready(ep), 0);
	write(p[1], "b", 1); /* each arrival is an edge, though it was readable before */
	CHECK_EQ(ready(ep), EPOLLIN);
	read(p[0], &c, 1);
	CHECK_EQ(ready(ep), 0); /* reading a part is none */
	CHECK_OK(mod(ep, p[0], EPOLLIN | EPOLLET));
	CHECK_EQ(ready(ep), EPOLLIN); /* a modification looks again */
	CHECK_EQ(ready(ep), 0);
	int ev = eventfd(0, 0);
	add(ep, ev, EPOLLOUT | EPOLLIN | EPOLLET, 1);
	CHECK_EQ(ready(ep), EPOLLOUT);
	eventfd_write(ev, 1);
	CHECK_EQ(ready(ep), EPOLLIN | EPOLLOUT);
	CHECK_EQ(ready(ep), 0);
	eventfd_write(ev, 1);
	CHECK_EQ(ready(ep), EPOLLIN | EPOLLOUT);
	close(ev), close(p[0]), close(p[1]), close(ep);
}

TEST(oneshot)
{
	int ep = epoll_create1(0), p[2];
	pipe(p);
	add(ep, p[0], EPOLLIN | EPOLLONESHOT, 0);
	write(p[1], "a", 1);
	CHECK_EQ(ready(ep), EPOLLIN);
	CHECK_EQ(ready(ep), 0);
	write(p[1], "b", 1);
	CHECK_EQ(ready(ep), 0);
	CHECK_OK(mod(ep, p[0], EPOLLIN | EPOLLONESHOT));
	CHECK_EQ(ready(ep), EPOLLIN);
	close(p[1]);
	CHECK_EQ(ready(ep), 0); /* disarmed: not even a hang-up */
	close(p[0]), close(ep);
}

TEST(control_errors)
{
	int ep = epoll_create1(0), p[2];
	pipe(p);
	CHECK_ERRNO(epoll_create1(77), EINVAL);
	CHECK_ERRNO(epoll_create(0), EINVAL);
	CHECK_OK(add(ep, p[0], EPOLLIN, 0));
	CHECK_ERRNO(add(ep, p[0], EPOLLIN, 0), EEXIST);
	CHECK_ERRNO(mod(ep, p[1], EPOLLIN), ENOENT);
	CHECK_ERRNO(epoll_ctl(ep, EPOLL_CTL_DEL, p[1], NULL), ENOENT);
	CHECK_ERRNO(add(ep, ep, EPOLLIN, 0), EINVAL);
	CHECK_ERRNO(add(p[0], p[1], EPOLLIN, 0), EINVAL); /* not an epoll */
	CHECK_ERRNO(add(-1, p[1], EPOLLIN, 0), EBADF);
	CHECK_ERRNO(add(ep, 900, EPOLLIN, 0), EBADF);
	struct epoll_event e;
	CHECK_ERRNO(epoll_ctl(ep, 99, p[0], &e), EINVAL);
	CHECK_ERRNO(syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, p[1], NULL), EFAULT);
	tap_write_file("f", "");
	int fd = open("f", O_RDWR), dir = open(".", O_RDONLY);
	CHECK_ERRNO(add(ep, fd, EPOLLIN, 0), EPERM); /* regular files have no poll */
	CHECK_ERRNO(add(ep, dir, EPOLLIN, 0), EPERM);
	CHECK_OK(epoll_ctl(ep, EPOLL_CTL_DEL, p[0], NULL));
	CHECK_ERRNO(epoll_wait(ep, &e, 0, 0), EINVAL);
	CHECK_ERRNO(syscall(SYS_epoll_wait, ep, &e, -1, 0), EINVAL);
	CHECK_ERRNO(epoll_wait(p[0], &e, 1, 0), EINVAL);
	CHECK_ERRNO(epoll_wait(-1, &e, 1, 0), EBADF);
	write(p[1], "x", 1);
	add(ep, p[0], EPOLLIN, 0);
	CHECK_ERRNO(syscall(SYS_epoll_wait, ep, (void *)8, 1, 0), EFAULT);
	CHECK_EQ(ready(ep), EPOLLIN); /* and the event is not lost */
	char c;
	CHECK_ERRNO(read(ep, &c, 1), EINVAL);
	close(fd), close(dir), close(p[0]), close(p[1]), close(ep);
}

TEST(duplicates_are_keys_of_their_own)
{
	int ep = epoll_create1(0), p[2];
	pipe(p);
	int d = dup(p[0]);
	CHECK_OK(add(ep, p[0], EPOLLIN, 1));
	CHECK_OK(add(ep, d, EPOLLIN, 2));
	write(p[1], "x", 1);
	CHECK_EQ(ready(ep), -2);
	/* Closing one descriptor does not remove it while the description lives (epoll(7), Q6). */
	close(p[0]);
	CHECK_EQ(ready(ep), -2);
	CHECK_ERRNO(epoll_ctl(ep, EPOLL_CTL_DEL, p[0], NULL), EBADF);
	close(d);
	CHECK_EQ(ready(ep), 0);
	close(p[1]), close(ep);
}

TEST(nested)
{
	int outer = epoll_create1(0), inner = epoll_create1(0), p[2];
	pipe(p);
	add(inner, p[0], EPOLLIN, 0);
	CHECK_OK(add(outer, inner, EPOLLIN, 0));
	CHECK_EQ(ready(outer), 0);
	write(p[1], "x", 1);
	CHECK_EQ(ready(outer), EPOLLIN);
	struct pollfd f = {outer, POLLIN, 0};
	CHECK_EQ(poll(&f, 1, 0), 1);
	CHECK_ERRNO(add(inner, outer, EPOLLIN, 0), ELOOP);
	/* Chains stop at five levels. */
	int chain[8], made = 0;
	chain[0] = outer;
	for (int i = 1; i < 8; i++) {
		chain[i] = epoll_create1(0);
		if (add(chain[i], chain[i - 1], EPOLLIN, 0) != 0) {
			CHECK_EQ(errno == ELOOP || errno == EINVAL, 1);
			break;
		}
		made++;
	}
	CHECK(made >= 2 && made <= 4);
	close(p[0]), close(p[1]);
	for (int fd = 3; fd < 30; fd++)
		close(fd);
}

TEST(fair_rotation)
{
	/* With room for one event, ready descriptors take turns. */
	int ep = epoll_create1(0), seen = 0;
	for (int i = 0; i < 4; i++)
		add(ep, eventfd(1, 0), EPOLLIN, i);
	for (int i = 0; i < 4; i++) {
		struct epoll_event e;
		epoll_wait(ep, &e, 1, 0);
		seen |= 1 << e.data.u32;
	}
	CHECK_EQ(seen, 15);
	for (int fd = 3; fd < 10; fd++)
		close(fd);
}

TEST(exclusive)
{
	int ep = epoll_create1(0), p[2];
	pipe(p);
	if (add(ep, p[0], EPOLLIN | EPOLLEXCLUSIVE, 0) == -1 && errno == EINVAL)
		SKIP("EPOLLEXCLUSIVE is newer than 4.4");
	CHECK_ERRNO(mod(ep, p[0], EPOLLIN), EINVAL); /* may not be modified */
	write(p[1], "x", 1);
	CHECK_EQ(ready(ep), EPOLLIN);
	CHECK_ERRNO(add(ep, p[1], EPOLLOUT | EPOLLEXCLUSIVE | EPOLLONESHOT, 0), EINVAL);
	int other = epoll_create1(0);
	CHECK_ERRNO(add(ep, other, EPOLLIN | EPOLLEXCLUSIVE, 0), EINVAL);
	close(other), close(p[0]), close(p[1]), close(ep);
}

static volatile sig_atomic_t caught;
static void on_signal(int sig)
{
	caught = sig;
}

TEST(pwait)
{
	int ep = epoll_create1(0);
	sigset_t blocked, none;
	struct epoll_event e;
	sigemptyset(&none);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	signal(SIGUSR1, on_signal);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	kill(getpid(), SIGUSR1);
	CHECK_EQ(epoll_wait(ep, &e, 1, 1), 0);
	CHECK_EQ(caught, 0);
	CHECK_ERRNO(epoll_pwait(ep, &e, 1, -1, &none), EINTR);
	CHECK_EQ(caught, SIGUSR1);
	CHECK_ERRNO(syscall(SYS_epoll_pwait, ep, &e, 1, 0, &none, 7), EINVAL);
	close(ep);
}

TEST(wakes_up_and_fork_shares)
{
	int ep = epoll_create1(0), p[2];
	pipe(p);
	add(ep, p[0], EPOLLIN, 0);
	pid_t child = tap_fork();
	if (child == 0) {
		struct epoll_event e;
		_exit(epoll_wait(ep, &e, 1, -1) == 1 ? 0 : 1);
	}
	write(p[1], "x", 1);
	CHECK_EQ(tap_reap(child), 0);
	IN_CHILD
	{
		epoll_ctl(ep, EPOLL_CTL_DEL, p[0], NULL); /* the set is the description's */
	}
	CHECK_EQ(ready(ep), 0);
	close(p[0]), close(p[1]), close(ep);
}
