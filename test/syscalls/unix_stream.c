/* unix(7): stream and seqpacket sockets: bind, listen, accept, shutdown, MSG_ flags. */
#include "tap.h"
#include <sys/un.h>

static struct sockaddr_un at(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strncpy(a.sun_path, path, sizeof a.sun_path - 1);
	return a;
}
#define ADDR(a) ((struct sockaddr *)&(a))

TEST(connect_and_accept)
{
	struct sockaddr_un a = at("sock"), got;
	socklen_t n;
	char buf[16];
	int l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK_EQ(fcntl(l, F_GETFD), FD_CLOEXEC);
	CHECK_OK(bind(l, ADDR(a), sizeof a));
	struct stat st;
	stat("sock", &st);
	CHECK(S_ISSOCK(st.st_mode));
	int c = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK_ERRNO(connect(c, ADDR(a), sizeof a), ECONNREFUSED); /* bound, not listening */
	CHECK_OK(listen(l, 5));
	CHECK_OK(connect(c, ADDR(a), sizeof a)); /* before anyone accepts */
	CHECK_EQ(write(c, "hello", 5), 5);
	n = sizeof got;
	int s = accept4(l, ADDR(got), &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
	CHECK(s >= 0);
	CHECK_EQ(n, sizeof(sa_family_t)); /* the client has no name */
	CHECK(fcntl(s, F_GETFL) & O_NONBLOCK);
	CHECK_EQ(read(s, buf, 16), 5);
	CHECK_ERRNO(read(s, buf, 16), EAGAIN);
	n = sizeof got;
	CHECK_OK(getpeername(c, ADDR(got), &n));
	CHECK_STR(got.sun_path, "sock");
	CHECK_EQ(n, offsetof(struct sockaddr_un, sun_path) + 5);
	n = sizeof got;
	CHECK_OK(getsockname(s, ADDR(got), &n));
	CHECK_STR(got.sun_path, "sock");
	n = 4; /* cut, and told how long it is */
	CHECK_OK(getsockname(s, ADDR(got), &n));
	CHECK_EQ(n, offsetof(struct sockaddr_un, sun_path) + 5);
	CHECK_ERRNO(connect(c, ADDR(a), sizeof a), EISCONN);
	close(l);
	CHECK_EQ(write(c, "x", 1), 1); /* the connection outlives the listener */
	int d = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK_ERRNO(connect(d, ADDR(a), sizeof a), ECONNREFUSED);
	unlink("sock");
	CHECK_ERRNO(connect(d, ADDR(a), sizeof a), ENOENT);
	close(c), close(s), close(d);
}

TEST(bind_errors)
{
	struct sockaddr_un a = at("sock");
	int s = socket(AF_UNIX, SOCK_STREAM, 0), t = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK_OK(bind(s, ADDR(a), sizeof a));
	CHECK_ERRNO(bind(t, ADDR(a), sizeof a), EADDRINUSE);
	struct sockaddr_un b = at("other");
	CHECK_ERRNO(bind(s, ADDR(b), sizeof b), EINVAL); /* has a name already */
	struct sockaddr_un none = at("nodir/x");
	CHECK_ERRNO(bind(t, ADDR(none), sizeof none), ENOENT);
	a.sun_family = AF_INET;
	CHECK_ERRNO(bind(t, ADDR(a), sizeof a), EINVAL);
	CHECK_ERRNO(bind(t, ADDR(b), sizeof b + 1), EINVAL);
	CHECK_ERRNO(bind(t, ADDR(b), 1), EINVAL);
	CHECK_ERRNO(bind(-1, ADDR(b), sizeof b), EBADF);
	CHECK_ERRNO(bind(0x7fff, ADDR(b), sizeof b), EBADF);
	int fd = open("/dev/null", O_RDWR);
	CHECK_ERRNO(bind(fd, ADDR(b), sizeof b), ENOTSOCK);
	CHECK_ERRNO(listen(fd, 1), ENOTSOCK);
	CHECK_ERRNO(listen(t, 1), EINVAL); /* no name */
	CHECK_ERRNO(accept(s, NULL, NULL), EINVAL); /* not listening */
	CHECK_ERRNO(socket(AF_UNIX, 99, 0), EINVAL);
	CHECK_ERRNO(socket(AF_UNIX, SOCK_STREAM, 99), EPROTONOSUPPORT);
	CHECK_ERRNO(socket(9999, SOCK_STREAM, 0), EAFNOSUPPORT);
	CHECK_ERRNO(write(t, "x", 1), ENOTCONN);
	char c;
	CHECK_ERRNO(read(t, &c, 1), EINVAL); /* not connected: EINVAL for unix streams */
	CHECK_ERRNO(shutdown(t, 9), EINVAL);
	close(fd), close(s), close(t);
}

TEST(abstract)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int n = snprintf(a.sun_path + 1, 100, "tap-%d", getpid()), l = socket(AF_UNIX, SOCK_STREAM, 0);
	socklen_t len = offsetof(struct sockaddr_un, sun_path) + 1 + n;
	CHECK_OK(bind(l, ADDR(a), len));
	CHECK_OK(listen(l, 1));
	int c = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK_OK(connect(c, ADDR(a), len));
	CHECK_ERRNO(connect(socket(AF_UNIX, SOCK_STREAM, 0), ADDR(a), len + 1), ECONNREFUSED); /* the length counts */
	int t = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK_ERRNO(bind(t, ADDR(a), len), EADDRINUSE);
	close(l);
	CHECK_OK(bind(t, ADDR(a), len)); /* free with its last descriptor */
	int u = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK_OK(bind(u, ADDR(a), sizeof(sa_family_t))); /* autobind: five hex digits */
	len = sizeof a;
	getsockname(u, ADDR(a), &len);
	CHECK_EQ(len, sizeof(sa_family_t) + 6);
	CHECK_EQ(a.sun_path[0], 0);
	for (int fd = 3; fd < 12; fd++)
		close(fd);
}

TEST(shutdown)
{
	int s[2];
	char buf[8];
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	write(s[0], "abc", 3);
	CHECK_OK(shutdown(s[0], SHUT_WR));
	CHECK_EQ(read(s[1], buf, 8), 3);
	CHECK_EQ(read(s[1], buf, 8), 0);
	CHECK_ERRNO(send(s[0], "x", 1, MSG_NOSIGNAL), EPIPE);
	CHECK_EQ(write(s[1], "back", 4), 4); /* the other way still works */
	CHECK_EQ(read(s[0], buf, 8), 4);
	CHECK_OK(shutdown(s[1], SHUT_RD));
	CHECK_EQ(read(s[1], buf, 8), 0);
	close(s[1]);
	CHECK_EQ(read(s[0], buf, 8), 0);
	close(s[0]);
	/* Unread data at close resets the peer. */
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	write(s[0], "abc", 3);
	close(s[1]);
	CHECK_ERRNO(read(s[0], buf, 8), ECONNRESET);
	CHECK_EQ(read(s[0], buf, 8), 0);
	signal(SIGPIPE, SIG_IGN);
	CHECK_ERRNO(write(s[0], "x", 1), EPIPE);
	close(s[0]);
}

TEST(message_flags)
{
	int s[2];
	char buf[16];
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	CHECK_ERRNO(recv(s[0], buf, 8, MSG_DONTWAIT), EAGAIN);
	send(s[1], "abcdef", 6, 0);
	CHECK_EQ(recv(s[0], buf, 3, MSG_PEEK), 3);
	CHECK_EQ(recv(s[0], buf, 16, MSG_PEEK), 6);
	int n = 0;
	CHECK_OK(ioctl(s[0], FIONREAD, &n));
	CHECK_EQ(n, 6);
	CHECK_EQ(recv(s[0], buf, 4, MSG_WAITALL), 4);
	pid_t child = tap_fork();
	if (child == 0) {
		send(s[1], "ghij", 4, 0);
		send(s[1], "kl", 2, 0);
		_exit(0);
	}
	CHECK_EQ(recv(s[0], buf, 8, MSG_WAITALL), 8); /* over several sends */
	CHECK_MEM(buf, "efghijkl", 8);
	tap_reap(child);
	struct sockaddr_un a = at("x");
	CHECK_ERRNO(sendto(s[0], "x", 1, 0, ADDR(a), sizeof a), EISCONN);
	CHECK_EQ(send(s[0], "", 0, 0), 0);
	CHECK_ERRNO(recv(s[1], buf, 8, MSG_DONTWAIT), EAGAIN); /* an empty send is nothing */
	close(s[0]), close(s[1]);
}

TEST(seqpacket)
{
	int s[2];
	char buf[16];
	CHECK_OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s));
	send(s[0], "abcdef", 6, 0);
	send(s[0], "gh", 2, 0);
	CHECK_EQ(recv(s[1], buf, 3, 0), 3); /* the rest of the record is dropped */
	CHECK_EQ(recv(s[1], buf, 16, 0), 2);
	send(s[0], "abcdef", 6, 0);
	CHECK_EQ(recv(s[1], buf, 3, MSG_TRUNC | MSG_PEEK), 6); /* the real length */
	struct iovec v = {buf, 3};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	CHECK_EQ(recvmsg(s[1], &m, 0), 3);
	CHECK(m.msg_flags & MSG_TRUNC);
	CHECK_EQ(send(s[0], "", 0, 0), 0);
	CHECK_EQ(recv(s[1], buf, 16, MSG_DONTWAIT), 0); /* an empty record is one */
	close(s[0]);
	CHECK_EQ(recv(s[1], buf, 16, 0), 0);
	close(s[1]);
	CHECK_ERRNO(socketpair(AF_UNIX, SOCK_STREAM, 5, s), EPROTONOSUPPORT);
	CHECK_ERRNO(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, 8), EFAULT);
}

TEST(backlog)
{
	struct sockaddr_un a = at("sock");
	int l = socket(AF_UNIX, SOCK_STREAM, 0), made = 0, c = -1;
	bind(l, ADDR(a), sizeof a);
	listen(l, 2);
	for (int i = 0; i < 10; i++) {
		c = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		if (connect(c, ADDR(a), sizeof a) != 0)
			break;
		made++;
	}
	CHECK_EQ(errno, EAGAIN);
	CHECK_EQ(made, 3); /* one more than asked for */
	int s = accept(l, NULL, NULL);
	CHECK(s >= 0);
	CHECK_OK(connect(c, ADDR(a), sizeof a));
	for (int fd = 3; fd < 20; fd++)
		close(fd);
}

TEST(path_permission)
{
	struct sockaddr_un a = at("sock");
	int l = socket(AF_UNIX, SOCK_STREAM, 0);
	umask(077);
	bind(l, ADDR(a), sizeof a);
	struct stat st;
	stat("sock", &st);
	CHECK_EQ(st.st_mode & 0777, 0700);
	listen(l, 1);
	IN_CHILD
	{
		tap_become(12345, 12345);
		int c = socket(AF_UNIX, SOCK_STREAM, 0);
		CHECK_ERRNO(connect(c, ADDR(a), sizeof a), EACCES); /* write permission is asked */
	}
	close(l);
}
