/* memfd_create(2) with seals (fcntl F_ADD_SEALS), and POSIX shared memory in /dev/shm. */
#include "tap.h"

TEST(basics)
{
	char link[64], buf[8] = "";
	int fd = memfd_create("glass", MFD_CLOEXEC);
	REQUIRE(fd >= 0);
	CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	CHECK_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
	CHECK_EQ(write(fd, "abc", 3), 3);
	CHECK_EQ(pread(fd, buf, 8, 0), 3);
	struct stat st;
	fstat(fd, &st);
	CHECK_EQ(st.st_nlink, 0);
	CHECK(S_ISREG(st.st_mode));
	CHECK_EQ(st.st_size, 3);
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	char name[64];
	ssize_t n = readlink(link, name, sizeof name - 1);
	name[n > 0 ? n : 0] = 0;
	CHECK_STR(name, "/memfd:glass (deleted)");
	CHECK_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SEAL);
	CHECK_ERRNO(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
	int ro = open(link, O_RDONLY);
	CHECK(ro >= 0);
	CHECK_ERRNO(write(ro, "x", 1), EBADF);
	close(ro), close(fd);
	CHECK_ERRNO(memfd_create("x", 0x8000), EINVAL);
	CHECK_ERRNO(syscall(SYS_memfd_create, 8, 0), EFAULT);
	memset(buf, 0, sizeof buf);
	char longname[300];
	memset(longname, 'n', sizeof longname);
	longname[250] = 0;
	CHECK_ERRNO(memfd_create(longname, 0), EINVAL);
	longname[249] = 0;
	CHECK(memfd_create(longname, 0) >= 0);
}

TEST(seals)
{
	int fd = memfd_create("s", MFD_ALLOW_SEALING);
	ftruncate(fd, 8192);
	CHECK_EQ(fcntl(fd, F_GET_SEALS), 0);
	CHECK_OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
	CHECK_ERRNO(ftruncate(fd, 4096), EPERM);
	CHECK_OK(ftruncate(fd, 12288));
	CHECK_OK(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
	CHECK_ERRNO(ftruncate(fd, 16384), EPERM);
	CHECK_ERRNO(pwrite(fd, "x", 1, 12288), EPERM);
	CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
	char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK_ERRNO(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY); /* a writable mapping */
	munmap(m, 4096);
	CHECK_OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
	CHECK_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	CHECK_ERRNO(pwrite(fd, "x", 1, 0), EPERM);
	CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM);
	m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(m != MAP_FAILED);
	munmap(m, 4096);
	CHECK_ERRNO(fallocate(fd, 3, 0, 4096), EPERM); /* no hole either */
	CHECK_OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
	CHECK_ERRNO(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), EPERM);
	close(fd);
	fd = memfd_create("t", MFD_ALLOW_SEALING);
	CHECK_ERRNO(fcntl(fd, F_ADD_SEALS, 0x8000), EINVAL);
	char link[64];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	int ro = open(link, O_RDONLY);
	CHECK_ERRNO(fcntl(ro, F_ADD_SEALS, F_SEAL_WRITE), EPERM); /* needs write access */
	close(ro), close(fd);
	fd = open("/dev/null", O_RDWR);
	CHECK_ERRNO(fcntl(fd, F_GET_SEALS), EINVAL);
	close(fd);
}

TEST(mapped_and_passed_on)
{
	int fd = memfd_create("m", 0);
	ftruncate(fd, 4096);
	int *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	IN_CHILD
	{
		int *n = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		*n = 99;
	}
	CHECK_EQ(*m, 99);
	close(fd);
	*m = 5;
	CHECK_EQ(*m, 5);
	munmap(m, 4096);
}

TEST(posix_shm)
{
	char name[64];
	snprintf(name, sizeof name, "/tap-%d", getpid());
	int fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
	if (fd == -1)
		SKIP("no /dev/shm");
	CHECK_OK(ftruncate(fd, 4096));
	char *a = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int again = shm_open(name, O_RDWR, 0);
	CHECK(again >= 0);
	char *b = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
	a[7] = 7;
	CHECK_EQ(b[7], 7);
	CHECK_ERRNO(shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
	CHECK_OK(shm_unlink(name));
	CHECK_ERRNO(shm_open(name, O_RDWR, 0), ENOENT);
	b[8] = 8;
	CHECK_EQ(a[8], 8);
	munmap(a, 4096), munmap(b, 4096);
	close(fd), close(again);
}
