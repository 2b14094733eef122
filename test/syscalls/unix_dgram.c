/* unix(7): datagram sockets; sendmsg, recvmmsg, SO_ options. */
#include "tap.h"
#include <sys/un.h>

static struct sockaddr_un at(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strncpy(a.sun_path, path, sizeof a.sun_path - 1);
	return a;
}
#define ADDR(a) ((struct sockaddr *)&(a))

TEST(datagrams)
{
	struct sockaddr_un a = at("a"), b = at("b"), from;
	socklen_t n = sizeof from;
	char buf[16];
	int s = socket(AF_UNIX, SOCK_DGRAM, 0), t = socket(AF_UNIX, SOCK_DGRAM, 0);
	bind(s, ADDR(a), sizeof a), bind(t, ADDR(b), sizeof b);
	CHECK_EQ(sendto(s, "one", 3, 0, ADDR(b), sizeof b), 3);
	CHECK_EQ(sendto(s, "", 0, 0, ADDR(b), sizeof b), 0);
	CHECK_EQ(recvfrom(t, buf, 16, 0, ADDR(from), &n), 3);
	CHECK_STR(from.sun_path, "a");
	CHECK_EQ(recv(t, buf, 16, MSG_DONTWAIT), 0);
	CHECK_ERRNO(recv(t, buf, 16, MSG_DONTWAIT), EAGAIN);
	CHECK_ERRNO(send(s, "x", 1, 0), ENOTCONN);
	CHECK_OK(connect(s, ADDR(b), sizeof b));
	CHECK_EQ(send(s, "two", 3, 0), 3);
	CHECK_EQ(recv(t, buf, 2, MSG_TRUNC), 3);
	struct sockaddr_un none = at("none");
	CHECK_ERRNO(sendto(t, "x", 1, 0, ADDR(none), sizeof none), ENOENT);
	/* A connected peer takes nothing from others. */
	int u = socket(AF_UNIX, SOCK_DGRAM, 0);
	CHECK_ERRNO(sendto(u, "x", 1, 0, ADDR(a), sizeof a), EPERM);
	CHECK_ERRNO(listen(s, 1), EOPNOTSUPP);
	CHECK_ERRNO(accept(s, NULL, NULL), EOPNOTSUPP);
	close(t);
	CHECK_ERRNO(send(s, "x", 1, 0), ECONNREFUSED);
	int st = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK_ERRNO(connect(st, ADDR(a), sizeof a), EPROTOTYPE);
	struct sockaddr un = {.sa_family = AF_UNSPEC};
	CHECK_OK(connect(s, &un, sizeof un)); /* dissolves it */
	CHECK_ERRNO(send(s, "x", 1, 0), ENOTCONN);
	close(s), close(u), close(st);
}

TEST(messages)
{
	int s[2];
	char a[4] = "", b[8] = "";
	socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
	struct iovec out[] = {{"ab", 2}, {"cdef", 4}}, in[] = {{a, 3}, {b, 8}};
	struct msghdr m = {.msg_iov = out, .msg_iovlen = 2}, r = {.msg_iov = in, .msg_iovlen = 2, .msg_flags = 99};
	CHECK_EQ(sendmsg(s[0], &m, 0), 6);
	CHECK_EQ(recvmsg(s[1], &r, 0), 6);
	CHECK_STR(a, "abc");
	CHECK_STR(b, "def");
	CHECK_EQ(r.msg_flags, 0);
	struct mmsghdr many[3] = {{.msg_hdr = m}, {.msg_hdr = m}, {.msg_hdr = m}};
	CHECK_EQ(sendmmsg(s[0], many, 3, 0), 3);
	CHECK_EQ(many[2].msg_len, 6);
	struct iovec one[3] = {{b, 8}, {b, 8}, {b, 2}};
	struct mmsghdr got[4] = {0};
	for (int i = 0; i < 3; i++)
		got[i].msg_hdr.msg_iov = &one[i], got[i].msg_hdr.msg_iovlen = 1;
	CHECK_EQ(recvmmsg(s[1], got, 3, MSG_DONTWAIT, NULL), 3);
	CHECK_EQ(got[0].msg_len, 6);
	CHECK_EQ(got[2].msg_len, 2);
	CHECK(got[2].msg_hdr.msg_flags & MSG_TRUNC);
	CHECK_ERRNO(recvmmsg(s[1], got, 3, MSG_DONTWAIT, NULL), EAGAIN);
	m.msg_iovlen = IOV_MAX + 1;
	CHECK_ERRNO(sendmsg(s[0], &m, 0), EMSGSIZE);
	CHECK_ERRNO(syscall(SYS_sendmsg, s[0], 8, 0), EFAULT);
	static char big[1 << 20];
	CHECK_ERRNO(send(s[0], big, sizeof big, 0), EMSGSIZE);
	close(s[0]), close(s[1]);
}

TEST(options)
{
	int s[2], v = 0;
	socklen_t n = sizeof v;
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	CHECK_OK(getsockopt(s[0], SOL_SOCKET, SO_TYPE, &v, &n));
	CHECK_EQ(v, SOCK_STREAM);
	CHECK_EQ(n, 4);
	getsockopt(s[0], SOL_SOCKET, SO_DOMAIN, &v, &n);
	CHECK_EQ(v, AF_UNIX);
	getsockopt(s[0], SOL_SOCKET, SO_PROTOCOL, &v, &n);
	CHECK_EQ(v, 0);
	getsockopt(s[0], SOL_SOCKET, SO_ERROR, &v, &n);
	CHECK_EQ(v, 0);
	getsockopt(s[0], SOL_SOCKET, SO_ACCEPTCONN, &v, &n);
	CHECK_EQ(v, 0);
	v = 20000;
	CHECK_OK(setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &v, sizeof v));
	getsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &v, &n);
	CHECK_EQ(v, 40000); /* doubled */
	v = 1;
	CHECK_OK(setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &v, sizeof v));
	getsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &v, &n);
	CHECK(v > 1000); /* there is a least */
	struct ucred c;
	n = sizeof c;
	CHECK_OK(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &c, &n));
	CHECK_EQ(c.pid, getpid());
	CHECK_EQ(c.uid, 0);
	CHECK_EQ(n, 12);
	n = 2;
	v = 0;
	CHECK_OK(getsockopt(s[0], SOL_SOCKET, SO_TYPE, &v, &n)); /* cut to what there is room for */
	CHECK_EQ(n, 2);
	n = -1;
	CHECK_ERRNO(getsockopt(s[0], SOL_SOCKET, SO_TYPE, &v, &n), EINVAL);
	n = 4;
	CHECK_ERRNO(getsockopt(s[0], SOL_SOCKET, 9999, &v, &n), ENOPROTOOPT);
	CHECK_ERRNO(getsockopt(s[0], 6, 1, &v, &n), EOPNOTSUPP);
	CHECK_ERRNO(setsockopt(s[0], SOL_SOCKET, SO_PASSCRED, &v, 2), EINVAL);
	struct timeval t = {0, 1000}, got;
	CHECK_OK(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
	n = sizeof got;
	getsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &got, &n);
	CHECK(got.tv_sec == 0 && got.tv_usec >= 1000);
	char ch;
	CHECK_ERRNO(read(s[0], &ch, 1), EAGAIN); /* after a while */
	t.tv_usec = 2000000;
	CHECK_ERRNO(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t), EDOM);
	close(s[0]), close(s[1]);
}

TEST(full_queue)
{
	int s[2];
	char buf[1000] = "";
	socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
	fcntl(s[0], F_SETFL, O_NONBLOCK);
	int sent = 0;
	while (send(s[0], buf, sizeof buf, 0) > 0)
		sent++;
	CHECK_EQ(errno, EAGAIN);
	CHECK(sent >= 1);
	struct pollfd f = {s[0], POLLOUT, 0};
	CHECK_EQ(poll(&f, 1, 0), 0);
	for (int i = 0; i < sent; i++)
		recv(s[1], buf, sizeof buf, 0);
	CHECK_EQ(poll(&f, 1, 0), 1);
	CHECK_EQ(send(s[0], buf, 10, 0), 10);
	close(s[0]), close(s[1]);
}
