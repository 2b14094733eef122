/* splice(2), tee(2), vmsplice(2), sendfile(2), copy_file_range(2). */
#include "tap.h"
#include <sys/sendfile.h>

TEST(splice)
{
	int p[2], q[2];
	char buf[32];
	tap_write_file("in", "0123456789");
	int in = open("in", O_RDONLY), out = open("out", O_RDWR | O_CREAT, 0600);
	pipe(p), pipe(q);
	CHECK_EQ(splice(in, NULL, p[1], NULL, 4, 0), 4);
	CHECK_EQ(lseek(in, 0, SEEK_CUR), 4);
	loff_t off = 8;
	CHECK_EQ(splice(in, &off, p[1], NULL, 100, 0), 2);
	CHECK_EQ(off, 10);
	CHECK_EQ(lseek(in, 0, SEEK_CUR), 4);
	CHECK_EQ(splice(in, &off, p[1], NULL, 100, 0), 0); /* end of file */
	CHECK_EQ(splice(p[0], NULL, q[1], NULL, 3, 0), 3);
	CHECK_EQ(read(q[0], buf, 32), 3);
	CHECK_MEM(buf, "012", 3);
	CHECK_EQ(splice(p[0], NULL, out, NULL, 100, 0), 3);
	CHECK_EQ(pread(out, buf, 32, 0), 3);
	CHECK_MEM(buf, "389", 3);
	CHECK_ERRNO(splice(p[0], NULL, out, NULL, 1, SPLICE_F_NONBLOCK), EAGAIN);
	CHECK_ERRNO(splice(in, NULL, out, NULL, 1, 0), EINVAL); /* one side must be a pipe */
	CHECK_ERRNO(splice(p[0], &off, out, NULL, 1, 0), ESPIPE);
	CHECK_ERRNO(splice(p[0], NULL, p[1], NULL, 1, 0), EINVAL); /* the same pipe */
	CHECK_ERRNO(splice(-1, NULL, p[1], NULL, 1, 0), EBADF);
	CHECK_ERRNO(splice(in, NULL, p[0], NULL, 1, 0), EBADF);
	CHECK_ERRNO(splice(in, NULL, p[1], NULL, 1, 0x80), EINVAL);
	CHECK_EQ(splice(in, NULL, p[1], NULL, 0, 0), 0);
	int app = open("out", O_WRONLY | O_APPEND);
	write(p[1], "x", 1);
	CHECK_ERRNO(splice(p[0], NULL, app, NULL, 1, 0), EINVAL);
	close(p[1]);
	read(p[0], buf, 32);
	CHECK_EQ(splice(p[0], NULL, out, NULL, 1, 0), 0); /* no writers: end */
	close(app), close(p[0]), close(q[0]), close(q[1]), close(in), close(out);
}

TEST(tee)
{
	int p[2], q[2];
	char buf[8];
	pipe(p), pipe(q);
	write(p[1], "abcd", 4);
	CHECK_EQ(tee(p[0], q[1], 3, 0), 3);
	CHECK_EQ(read(q[0], buf, 8), 3);
	CHECK_MEM(buf, "abc", 3);
	CHECK_EQ(read(p[0], buf, 8), 4); /* not consumed */
	CHECK_ERRNO(tee(p[0], q[1], 1, SPLICE_F_NONBLOCK), EAGAIN);
	CHECK_ERRNO(tee(p[0], p[1], 1, 0), EINVAL);
	int n = open("/dev/null", O_RDWR);
	CHECK_ERRNO(tee(n, p[1], 1, 0), EINVAL);
	close(n), close(p[0]), close(p[1]), close(q[0]), close(q[1]);
}

TEST(vmsplice)
{
	int p[2];
	char buf[8];
	pipe(p);
	struct iovec v[2] = {{"abc", 3}, {"de", 2}};
	CHECK_EQ(vmsplice(p[1], v, 2, 0), 5);
	CHECK_EQ(read(p[0], buf, 8), 5);
	CHECK_MEM(buf, "abcde", 5);
	int n = open("/dev/null", O_RDWR);
	CHECK_ERRNO(vmsplice(n, v, 2, 0), EBADF);
	close(n), close(p[0]), close(p[1]);
}

TEST(sendfile)
{
	char buf[32];
	int p[2];
	tap_write_file("in", "0123456789");
	int in = open("in", O_RDONLY), out = open("out", O_RDWR | O_CREAT, 0600);
	CHECK_EQ(sendfile(out, in, NULL, 4), 4);
	CHECK_EQ(lseek(in, 0, SEEK_CUR), 4);
	off_t off = 7;
	CHECK_EQ(sendfile(out, in, &off, 100), 3);
	CHECK_EQ(off, 10);
	CHECK_EQ(lseek(in, 0, SEEK_CUR), 4);
	CHECK_EQ(sendfile(out, in, &off, 100), 0);
	CHECK_EQ(pread(out, buf, 32, 0), 7);
	CHECK_MEM(buf, "0123789", 7);
	pipe(p);
	off = 0;
	CHECK_EQ(sendfile(p[1], in, &off, 3), 3);
	CHECK_EQ(read(p[0], buf, 32), 3);
	CHECK_MEM(buf, "012", 3);
	CHECK_ERRNO(sendfile(in, in, NULL, 1), EBADF); /* not writable */
	CHECK_ERRNO(sendfile(out, -1, NULL, 1), EBADF);
	off = -1;
	CHECK_ERRNO(sendfile(out, in, &off, 1), EINVAL);
	off = 0;
	CHECK_ERRNO(sendfile(out, p[0], &off, 1), ESPIPE);
	int app = open("out", O_WRONLY | O_APPEND);
	CHECK_ERRNO(sendfile(app, in, NULL, 1), EINVAL);
	CHECK_ERRNO(syscall(SYS_sendfile, out, in, (void *)8, 1), EFAULT);
	close(app), close(p[0]), close(p[1]), close(in), close(out);
}

TEST(copy_file_range)
{
	char buf[32];
	tap_write_file("in", "0123456789");
	int in = open("in", O_RDONLY), out = open("out", O_RDWR | O_CREAT, 0600);
	loff_t a = 2, b = 5;
	long n = syscall(SYS_copy_file_range, in, &a, out, &b, 3, 0);
	if (n == -1 && errno == ENOSYS)
		SKIP("copy_file_range is newer than 4.4");
	CHECK_EQ(n, 3);
	CHECK_EQ(a, 5);
	CHECK_EQ(b, 8);
	CHECK_EQ(pread(out, buf, 32, 0), 8);
	CHECK_MEM(buf, "\0\0\0\0\0" "234", 8);
	CHECK_EQ(syscall(SYS_copy_file_range, in, NULL, out, NULL, 100, 0), 10);
	CHECK_EQ(syscall(SYS_copy_file_range, in, NULL, out, NULL, 100, 0), 0);
	CHECK_ERRNO(syscall(SYS_copy_file_range, in, NULL, out, NULL, 1, 1), EINVAL);
	CHECK_ERRNO(syscall(SYS_copy_file_range, out, NULL, in, NULL, 1, 0), EBADF);
	CHECK_ERRNO(syscall(SYS_copy_file_range, -1, NULL, out, NULL, 1, 0), EBADF);
	int dir = open(".", O_RDONLY), p[2];
	CHECK_ERRNO(syscall(SYS_copy_file_range, dir, NULL, out, NULL, 1, 0), EISDIR);
	pipe(p);
	CHECK_ERRNO(syscall(SYS_copy_file_range, p[0], NULL, out, NULL, 1, 0), EINVAL);
	close(p[0]), close(p[1]), close(dir), close(in), close(out);
}
