/* timerfd_create(2). */
#include "tap.h"
#include <sys/timerfd.h>

static int64_t take(int fd)
{
	uint64_t v = 0;
	return read(fd, &v, 8) == 8 ? (int64_t)v : -1;
}

TEST(one_shot)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	REQUIRE(fd >= 0);
	CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	struct itimerspec set = {{0, 0}, {0, 2000000}}, got;
	CHECK_OK(timerfd_settime(fd, 0, &set, NULL));
	CHECK_EQ(take(fd), 1); /* waits */
	CHECK_OK(timerfd_gettime(fd, &got));
	CHECK_EQ(got.it_value.tv_sec, 0);
	CHECK_EQ(got.it_value.tv_nsec, 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	CHECK_ERRNO(take(fd), EAGAIN);
	close(fd);
}

TEST(interval_and_gettime)
{
	int fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
	struct itimerspec set = {{3, 5}, {1000, 0}}, got;
	CHECK_OK(timerfd_settime(fd, 0, &set, &got));
	CHECK_EQ(got.it_value.tv_sec, 0);
	CHECK_OK(timerfd_gettime(fd, &got));
	CHECK(got.it_value.tv_sec >= 900 && got.it_value.tv_sec <= 1000);
	CHECK_EQ(got.it_interval.tv_sec, 3);
	CHECK_EQ(got.it_interval.tv_nsec, 5);
	CHECK_ERRNO(take(fd), EAGAIN);
	struct itimerspec off = {{0, 0}, {0, 0}};
	CHECK_OK(timerfd_settime(fd, 0, &off, &got));
	CHECK_EQ(got.it_interval.tv_sec, 3);
	CHECK_OK(timerfd_gettime(fd, &got));
	CHECK_EQ(got.it_value.tv_sec, 0);
	/* Several expirations are counted up. */
	fcntl(fd, F_SETFL, 0);
	struct itimerspec fast = {{0, 1000000}, {0, 1}};
	timerfd_settime(fd, 0, &fast, NULL);
	int64_t sum = 0;
	while (sum < 4) {
		int64_t n = take(fd);
		if (n < 1)
			break;
		sum += n;
	}
	CHECK(sum >= 4);
	close(fd);
}

TEST(absolute)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);
	struct itimerspec past = {{0, 0}, {0, 1}};
	CHECK_OK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &past, NULL));
	CHECK_EQ(take(fd), 1); /* a time gone by fires at once */
	close(fd);
}

TEST(poll)
{
	int fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK);
	REQUIRE(fd >= 0);
	struct pollfd f = {fd, POLLIN | POLLOUT, 0};
	CHECK_EQ(poll(&f, 1, 0), 0); /* never writable */
	struct itimerspec set = {{0, 0}, {0, 1000}};
	timerfd_settime(fd, 0, &set, NULL);
	CHECK_EQ(poll(&f, 1, -1), 1);
	CHECK_EQ(f.revents, POLLIN);
	/* Setting it again forgets the expirations not read. */
	set.it_value.tv_sec = 1000;
	timerfd_settime(fd, 0, &set, NULL);
	CHECK_EQ(poll(&f, 1, 0), 0);
	close(fd);
}

TEST(errors)
{
	CHECK_ERRNO(timerfd_create(99, 0), EINVAL);
	CHECK_ERRNO(timerfd_create(CLOCK_PROCESS_CPUTIME_ID, 0), EINVAL);
	CHECK_ERRNO(timerfd_create(CLOCK_MONOTONIC, 0x40000000), EINVAL);
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), n = open("/dev/null", O_RDWR);
	struct itimerspec set = {{0, 0}, {0, 1000000000}};
	char buf[8];
	CHECK_ERRNO(timerfd_settime(fd, 0, &set, NULL), EINVAL);
	set.it_value = (struct timespec){-1, 0};
	CHECK_ERRNO(timerfd_settime(fd, 0, &set, NULL), EINVAL);
	set.it_value = (struct timespec){1, 0};
	CHECK_ERRNO(timerfd_settime(fd, 8, &set, NULL), EINVAL);
	CHECK_ERRNO(timerfd_settime(n, 0, &set, NULL), EINVAL);
	CHECK_ERRNO(timerfd_settime(-1, 0, &set, NULL), EBADF);
	CHECK_ERRNO(timerfd_gettime(n, &set), EINVAL);
	CHECK_ERRNO(syscall(SYS_timerfd_settime, fd, 0, (void *)8, NULL), EFAULT);
	CHECK_ERRNO(read(fd, buf, 4), EINVAL);
	CHECK_ERRNO(write(fd, buf, 8), EINVAL);
	close(n);
	close(fd);
}
