/* Ancillary data of unix sockets: SCM_RIGHTS, SCM_CREDENTIALS (unix(7), cmsg(3)). */
#include "tap.h"
#include <sys/un.h>

union control {
	char bytes[CMSG_SPACE(8 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
	struct cmsghdr align;
};

static ssize_t send_fds(int sock, const int *fds, int n)
{
	union control c;
	struct iovec v = {"f", 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = CMSG_SPACE(n * sizeof(int))};
	memset(&c, 0, sizeof c);
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(h), fds, n * sizeof(int));
	return sendmsg(sock, &m, 0);
}
/* receive returns how many descriptors came, with at most room for them. */
static int receive(int sock, int *fds, size_t room, int flags, int *msg_flags)
{
	union control c;
	char byte;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = room};
	if (recvmsg(sock, &m, flags) < 0)
		return -1;
	if (msg_flags)
		*msg_flags = m.msg_flags;
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	if (!h || h->cmsg_type != SCM_RIGHTS)
		return 0;
	int n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(fds, CMSG_DATA(h), n * sizeof(int));
	return n;
}

TEST(rights)
{
	int s[2], got[8], flags = 0;
	char buf[8] = "";
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	tap_write_file("f", "abc");
	int fd = open("f", O_RDONLY);
	CHECK_EQ(send_fds(s[0], &fd, 1), 1);
	close(fd); /* in flight it lives on */
	unlink("f");
	CHECK_EQ(receive(s[1], got, CMSG_SPACE(8 * sizeof(int)), 0, &flags), 1);
	CHECK_EQ(flags & MSG_CTRUNC, 0);
	CHECK_EQ(fcntl(got[0], F_GETFD), 0);
	CHECK_EQ(read(got[0], buf, 8), 3);
	int two[] = {got[0], s[0]};
	CHECK_EQ(send_fds(s[0], two, 2), 1);
	int both[8];
	CHECK_EQ(receive(s[1], both, CMSG_SPACE(8 * sizeof(int)), MSG_CMSG_CLOEXEC, NULL), 2);
	CHECK_EQ(fcntl(both[0], F_GETFD), FD_CLOEXEC);
	CHECK_EQ(lseek(both[0], 0, SEEK_CUR), 3); /* the same description */
	/* Too little room: cut, told, and the rest closed. */
	int p[2];
	pipe(p);
	int three[] = {p[1], p[1], p[1]};
	send_fds(s[0], three, 3);
	close(p[1]);
	CHECK_EQ(receive(s[1], got, CMSG_LEN(sizeof(int)), 0, &flags), 1);
	CHECK(flags & MSG_CTRUNC);
	close(got[0]);
	CHECK_EQ(read(p[0], buf, 1), 0); /* no writer is left */
	int bad = 900;
	CHECK_ERRNO(send_fds(s[0], &bad, 1), EBADF);
	for (int i = 3; i < 20; i++)
		close(i);
}

TEST(rights_are_not_read_over)
{
	/* read(2) drops them; a stream read stops after a message that has some. */
	int s[2], p[2], got[8];
	char buf[8];
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	pipe(p);
	write(s[0], "ab", 2);
	send_fds(s[0], &p[1], 1);
	write(s[0], "cd", 2);
	close(p[1]);
	CHECK_EQ(read(s[1], buf, 8), 3); /* "ab" and "f" */
	CHECK_EQ(read(p[0], buf, 1), 0); /* the descriptor was closed */
	CHECK_EQ(read(s[1], buf, 8), 2);
	/* Peeking gives a descriptor each time. */
	send_fds(s[0], &s[0], 1);
	CHECK_EQ(receive(s[1], got, CMSG_SPACE(4), MSG_PEEK, NULL), 1);
	close(got[0]);
	CHECK_EQ(receive(s[1], got, CMSG_SPACE(4), 0, NULL), 1);
	close(got[0]);
	close(s[0]), close(s[1]), close(p[0]);
}

TEST(dead_cycle)
{
	/* A socket sent through itself and closed: nothing to see, it must just not hang or leak. */
	for (int i = 0; i < 50; i++) {
		int s[2];
		socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
		send_fds(s[0], s, 2);
		close(s[0]), close(s[1]);
	}
	CHECK_NAMED(1, "fifty cycles of sockets in flight");
}

TEST(credentials)
{
	int s[2], on = 1;
	union control c;
	char byte;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c};
	socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
	CHECK_OK(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
	write(s[0], "x", 1);
	CHECK_EQ(recvmsg(s[1], &m, 0), 1);
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	REQUIRE(h && h->cmsg_type == SCM_CREDENTIALS);
	struct ucred u;
	memcpy(&u, CMSG_DATA(h), sizeof u);
	CHECK_EQ(u.pid, getpid());
	CHECK_EQ(u.uid, 0);
	IN_CHILD
	{
		/* What one says of oneself is checked. */
		tap_become(12345, 12346);
		memset(&c, 0, sizeof c);
		m.msg_controllen = CMSG_SPACE(sizeof u);
		h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_CREDENTIALS, h->cmsg_len = CMSG_LEN(sizeof u);
		u = (struct ucred){getpid(), 12345, 12346};
		memcpy(CMSG_DATA(h), &u, sizeof u);
		CHECK_EQ(sendmsg(s[0], &m, 0), 1);
		u.uid = 0;
		memcpy(CMSG_DATA(h), &u, sizeof u);
		CHECK_ERRNO(sendmsg(s[0], &m, 0), EPERM);
		u.uid = 12345, u.pid = 1;
		memcpy(CMSG_DATA(h), &u, sizeof u);
		CHECK_ERRNO(sendmsg(s[0], &m, 0), getpid() == 1 ? 0 : EPERM);
	}
	m.msg_controllen = sizeof c;
	CHECK_EQ(recvmsg(s[1], &m, 0), 1);
	memcpy(&u, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof u);
	CHECK_EQ(u.uid, 12345);
	CHECK_EQ(u.gid, 12346);
	memset(&c, 0, sizeof c);
	h = &c.align;
	h->cmsg_level = SOL_SOCKET, h->cmsg_type = 99, h->cmsg_len = CMSG_LEN(4);
	m.msg_controllen = CMSG_SPACE(4);
	CHECK_ERRNO(sendmsg(s[0], &m, 0), EINVAL);
	h->cmsg_type = SCM_RIGHTS, h->cmsg_len = 3;
	CHECK_ERRNO(sendmsg(s[0], &m, 0), EINVAL);
	close(s[0]), close(s[1]);
}
