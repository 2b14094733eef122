/* What /proc tells of locks, System V IPC, pages and I/O (proc(5)). */
#include "tap.h"
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/shm.h>

static char text[1 << 20];

/* slurp reads a file whole. */
static const char *slurp(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t n = 0;
	ssize_t got;
	while (fd >= 0 && n < sizeof text - 1 && (got = read(fd, text + n, sizeof text - 1 - n)) > 0)
		n += got;
	text[n] = 0;
	close(fd);
	return text;
}

/* line returns the line of a file that has all of what, or NULL. */
static char *line(const char *path, const char *what, const char *what2)
{
	slurp(path);
	for (char *l = strtok(text, "\n"); l != NULL; l = strtok(NULL, "\n"))
		if (strstr(l, what) != NULL && strstr(l, what2) != NULL)
			return l;
	return NULL;
}

/* from returns what of a line begins with what, or "". */
static const char *from(const char *l, const char *what)
{
	const char *at = l == NULL ? NULL : strstr(l, what);
	return at == NULL ? "" : at;
}

TEST(locks)
{
	int fd = open("f", O_RDWR | O_CREAT, 0600);
	struct stat st;
	CHECK_OK(fstat(fd, &st));
	char ino[64];
	int pid;
	snprintf(ino, sizeof ino, ":%lu ", (unsigned long)st.st_ino);
	CHECK(line("/proc/locks", ino, "") == NULL);
	CHECK_OK(flock(fd, LOCK_EX));
	char *l = line("/proc/locks", ino, "FLOCK");
	CHECK_EQ(sscanf(from(l, "FLOCK"), "FLOCK  ADVISORY  WRITE %d ", &pid), 1);
	CHECK_EQ(pid, getpid());
	CHECK_STR(from(l, " 0 "), " 0 EOF");
	struct flock r = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};
	CHECK_OK(fcntl(fd, F_SETLK, &r));
	l = line("/proc/locks", ino, "POSIX");
	CHECK_EQ(sscanf(from(l, "POSIX"), "POSIX  ADVISORY  READ %d ", &pid), 1);
	CHECK_EQ(pid, getpid());
	CHECK_STR(from(l, " 10 14"), " 10 14");
	struct flock o = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100};
	CHECK_OK(fcntl(fd, F_OFD_SETLK, &o));
	l = line("/proc/locks", ino, "OFDLCK");
	CHECK(strncmp(from(l, "OFDLCK"), "OFDLCK ADVISORY  WRITE -1 ", 26) == 0);
	CHECK_STR(from(l, " 100 EOF"), " 100 EOF");
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	CHECK(line(path, "lock:\t", "FLOCK  ADVISORY  WRITE") != NULL);
	CHECK(line(path, "lock:\t", "POSIX  ADVISORY  READ ") != NULL);
	CHECK(line(path, "lock:\t", "OFDLCK ADVISORY  WRITE") != NULL);
	int other = open("f", O_RDONLY);
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", other);
	CHECK(line(path, "lock:\t", "FLOCK") == NULL); /* another description's */
	CHECK(line(path, "lock:\t", "POSIX") == NULL); /* locked through the other, too */
	CHECK_OK(close(other)); /* takes the process's record locks with it */
	CHECK(line("/proc/locks", ino, "POSIX") == NULL);
	CHECK(line("/proc/locks", ino, "FLOCK") != NULL);
	CHECK_OK(close(fd));
	CHECK(line("/proc/locks", ino, "") == NULL);
}

/* row returns the line of a list of sysvipc whose second word is id. */
static const char *row(const char *path, int id)
{
	int key, it;
	slurp(path);
	for (char *l = strtok(text, "\n"); l != NULL; l = strtok(NULL, "\n"))
		if (sscanf(l, "%d %d", &key, &it) == 2 && it == id)
			return l;
	return "";
}

TEST(system_v)
{
	int shm = shmget(IPC_PRIVATE, 5000, IPC_CREAT | 0640);
	if (shm == -1 && errno == ENOSYS)
		SKIP("no System V IPC");
	int sem = semget(IPC_PRIVATE, 3, IPC_CREAT | 0600), msg = msgget(IPC_PRIVATE, IPC_CREAT | 0660);
	CHECK(shm >= 0 && sem >= 0 && msg >= 0);
	char *a = shmat(shm, NULL, 0);
	a[0] = 1;
	struct {
		long kind;
		char body[7];
	} m = {1, "seven"};
	CHECK_OK(msgsnd(msg, &m, 7, 0));
	CHECK_STR(strtok((char *)slurp("/proc/sysvipc/shm"), "\n"),
		  "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime  "
		  "    dtime      ctime                   rss                  swap");
	int key, id;
	unsigned perms, uid, gid, cuid, cgid;
	unsigned long size, attached, atime, dtime, ctime, rss, swap;
	int cpid, lpid;
	CHECK_EQ(sscanf(row("/proc/sysvipc/shm", shm), "%d %d %o %lu %d %d %lu %u %u %u %u %lu %lu %lu %lu %lu", &key, &id,
			&perms, &size, &cpid, &lpid, &attached, &uid, &gid, &cuid, &cgid, &atime, &dtime, &ctime, &rss, &swap),
		 16);
	CHECK_EQ(key, 0);
	CHECK_EQ(perms, 0640);
	CHECK_EQ(size, 5000);
	CHECK_EQ(cpid, getpid());
	CHECK_EQ(lpid, getpid());
	CHECK_EQ(attached, 1);
	CHECK_EQ(uid, geteuid());
	CHECK_EQ(cgid, getegid());
	CHECK(atime != 0 && dtime == 0 && ctime != 0);
	CHECK(rss >= 4096);
	CHECK_EQ(strlen(row("/proc/sysvipc/shm", shm)), 169);
	CHECK_STR(strtok((char *)slurp("/proc/sysvipc/sem"), "\n"),
		  "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime");
	unsigned long sems, otime;
	CHECK_EQ(sscanf(row("/proc/sysvipc/sem", sem), "%d %d %o %lu %u %u %u %u %lu %lu", &key, &id, &perms, &sems, &uid, &gid,
			&cuid, &cgid, &otime, &ctime),
		 10);
	CHECK_EQ(perms, 0600);
	CHECK_EQ(sems, 3);
	CHECK(otime == 0 && ctime != 0);
	CHECK_STR(strtok((char *)slurp("/proc/sysvipc/msg"), "\n"),
		  "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      "
		  "rtime      ctime");
	unsigned long bytes, count, stime, rtime;
	CHECK_EQ(sscanf(row("/proc/sysvipc/msg", msg), "%d %d %o %lu %lu %d %d %u %u %u %u %lu %lu %lu", &key, &id, &perms,
			&bytes, &count, &cpid, &lpid, &uid, &gid, &cuid, &cgid, &stime, &rtime, &ctime),
		 14);
	CHECK_EQ(bytes, 7);
	CHECK_EQ(count, 1);
	CHECK_EQ(cpid, getpid());
	CHECK_EQ(lpid, 0);
	CHECK(stime != 0 && rtime == 0);
	CHECK_OK(shmctl(shm, IPC_RMID, NULL));
	CHECK_EQ(sscanf(row("/proc/sysvipc/shm", shm), "%d %d %o", &key, &id, &perms), 3);
	CHECK_EQ(perms, 01640); /* goes with the last detach */
	CHECK_OK(shmdt(a));
	CHECK_STR(row("/proc/sysvipc/shm", shm), "");
	CHECK_OK(semctl(sem, 0, IPC_RMID));
	CHECK_OK(msgctl(msg, IPC_RMID, NULL));
	CHECK_STR(row("/proc/sysvipc/sem", sem), "");
	CHECK_STR(row("/proc/sysvipc/msg", msg), "");
}

TEST(forced_removal_of_shared_memory)
{
	IN_CHILD
	{
		if (unshare(CLONE_NEWIPC) != 0) {
			CHECK_EQ(errno, EPERM);
			return;
		}
		int kept = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
		CHECK(kept >= 0);
		pid_t maker = tap_fork();
		if (maker == 0)
			_exit(shmget(0x4711, 4096, IPC_CREAT | 0600) < 0);
		CHECK_EQ(tap_reap(maker), 0);
		CHECK_OK(shmget(0x4711, 0, 0)); /* outlives who made it */
		CHECK_STR(slurp("/proc/sys/kernel/shm_rmid_forced"), "0\n");
		CHECK_OK(tap_write_file("/proc/sys/kernel/shm_rmid_forced", "1"));
		CHECK_STR(slurp("/proc/sys/kernel/shm_rmid_forced"), "1\n");
		CHECK_ERRNO(shmget(0x4711, 0, 0), ENOENT);
		struct shmid_ds d;
		CHECK_OK(shmctl(kept, IPC_STAT, &d)); /* who made it lives */
		maker = tap_fork();
		if (maker == 0)
			_exit(shmget(0x4712, 4096, IPC_CREAT | 0600) < 0);
		CHECK_EQ(tap_reap(maker), 0);
		CHECK_ERRNO(shmget(0x4712, 0, 0), ENOENT);
		char *a = shmat(kept, NULL, 0);
		CHECK(a != (void *)-1);
		CHECK_OK(shmdt(a));
		CHECK_ERRNO(shmctl(kept, IPC_STAT, &d), EINVAL);
	}
}

TEST(last_pid)
{
	IN_CHILD
	{
		if (unshare(CLONE_NEWPID) != 0) {
			CHECK_EQ(errno, EPERM);
			return;
		}
		pid_t init = tap_fork();
		if (init == 0) {
			int fd = open("/proc/sys/kernel/ns_last_pid", O_RDWR);
			if (fd < 0 && errno == ENOENT) {
				tap_case = "last_pid: no checkpointing here";
				_exit(0);
			}
			CHECK_EQ(write(fd, "4711", 4), 4);
			pid_t next = tap_fork();
			if (next == 0)
				_exit(0);
			CHECK_EQ(next, 4712);
			tap_reap(next);
			char b[16] = "";
			CHECK(pread(fd, b, sizeof b - 1, 0) > 0);
			CHECK_STR(b, "4712\n");
			tap_become(12345, 12345);
			CHECK_ERRNO(pwrite(fd, "9", 1, 0), EPERM);
			tap_child_exit();
		}
		CHECK_EQ(tap_reap(init), 0);
	}
}

static uint64_t page_entry(int fd, void *p)
{
	uint64_t e = 0;
	CHECK_EQ(pread(fd, &e, 8, (uintptr_t)p / 4096 * 8), 8);
	return e;
}

TEST(pagemap)
{
	IN_CHILD
	{
		tap_become(12345, 12345);
		prctl(PR_SET_DUMPABLE, 1);
		int fd = open("/proc/self/pagemap", O_RDONLY);
		REQUIRE(fd >= 0);
		/* far apart: neighbours of a page may be made with it */
		size_t far = 64 << 20;
		char *p = mmap(NULL, 3 * far, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		char *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		madvise(p, 3 * far, MADV_NOHUGEPAGE);
		p[0] = p[2 * far] = s[0] = 1;
		CHECK_EQ(page_entry(fd, p) >> 61, 4); /* present; not swapped, not shared */
		CHECK_EQ(page_entry(fd, p) & ((1ul << 55) - 1), 0); /* no frame for the unprivileged */
		CHECK_EQ(page_entry(fd, p + far), 0);
		CHECK_EQ(page_entry(fd, p + 2 * far) >> 61, 4);
		CHECK_EQ(page_entry(fd, p + 3 * far - 4096), 0);
		static uint64_t all[10000]; /* more than one page of entries */
		CHECK_EQ(pread(fd, all, sizeof all, (uintptr_t)(p - 4096) / 4096 * 8), sizeof all);
		CHECK_EQ(all[1] >> 61, 4);
		CHECK_EQ(all[9999], 0);
		uint64_t e[2];
		CHECK_EQ(page_entry(fd, s) >> 61, 5); /* present, of shared memory */
		CHECK_OK(munmap(p, 3 * far));
		CHECK_EQ(page_entry(fd, p), 0);
		CHECK_ERRNO(pread(fd, e, 8, 4), EINVAL);
		CHECK_ERRNO(pread(fd, e, 7, 0), EINVAL);
		CHECK_EQ(pread(fd, e, 8, (1ul << 47) / 512), 0);
		CHECK_EQ(pread(fd, e, 8, 1ul << 60), 0);
		CHECK_ERRNO(syscall(SYS_pread64, fd, 8, 8, (uintptr_t)s / 4096 * 8), EFAULT);
		CHECK_ERRNO(open("/proc/self/pagemap", O_WRONLY), EACCES);
		CHECK_ERRNO(open("/proc/1/pagemap", O_RDONLY), EACCES);
	}
}

static long hwm(void)
{
	long n = -1;
	char *l = line("/proc/self/status", "VmHWM:", "");
	if (l != NULL)
		sscanf(l, "VmHWM: %ld", &n);
	return n;
}

TEST(clear_refs)
{
	size_t big = 64 << 20;
	char *p = mmap(NULL, big, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	CHECK_OK(munmap(p, big));
	long before = hwm();
	CHECK(before >= (long)(big >> 10));
	int fd = open("/proc/self/clear_refs", O_WRONLY);
	REQUIRE(fd >= 0);
	CHECK_EQ(write(fd, "1\n", 2), 2);
	CHECK(hwm() >= (long)(big >> 10));
	CHECK_EQ(write(fd, "5", 1), 1);
	CHECK(hwm() < before - (32 << 10));
	CHECK_ERRNO(write(fd, "0", 1), EINVAL);
	CHECK_ERRNO(write(fd, "6", 1), EINVAL);
	CHECK_ERRNO(write(fd, "x", 1), EINVAL);
	struct stat st;
	CHECK_OK(fstat(fd, &st));
	CHECK_EQ(st.st_mode, S_IFREG | 0200);
	close(fd);
}

struct io {
	unsigned long rchar, wchar, syscr, syscw;
};

/* counts reads /proc/self/io with one read(2), whose length it returns. */
static ssize_t counts(struct io *io)
{
	char b[512];
	memset(io, 0, sizeof *io);
	int fd = open("/proc/self/io", O_RDONLY);
	ssize_t n = read(fd, b, sizeof b - 1);
	close(fd);
	b[n > 0 ? n : 0] = 0;
	return sscanf(b, "rchar: %lu\nwchar: %lu\nsyscr: %lu\nsyscw: %lu\n", &io->rchar, &io->wchar, &io->syscr, &io->syscw) == 4
		       ? n
		       : -1;
}

TEST(io)
{
	if (access("/proc/self/io", F_OK) != 0)
		SKIP("no I/O accounting");
	int fd = open("f", O_RDWR | O_CREAT, 0600), out = open("g", O_RDWR | O_CREAT, 0600);
	struct io a, b;
	char buf[1000] = "";
	struct iovec v[2] = {{buf, 30}, {buf + 30, 20}};
	ssize_t n = counts(&a);
	write(fd, buf, 1000);
	pwrite(fd, buf, 100, 0);
	writev(fd, v, 2);
	counts(&b);
	CHECK(n > 0);
	CHECK_EQ(b.wchar - a.wchar, 1150);
	CHECK_EQ(b.syscw - a.syscw, 3);
	CHECK_EQ(b.rchar - a.rchar, n);
	CHECK_EQ(b.syscr - a.syscr, 1);
	n = counts(&a);
	pread(fd, buf, 200, 0);
	preadv(fd, v, 2, 0);
	read(fd, buf, 10); /* at the end: nothing, but a call */
	lseek(fd, 0, SEEK_SET);
	counts(&b);
	CHECK_EQ(b.rchar - a.rchar, n + 250);
	CHECK_EQ(b.syscr - a.syscr, 4);
	CHECK_EQ(b.wchar, a.wchar);
	n = counts(&a);
	sendfile(out, fd, NULL, 500);
	counts(&b);
	CHECK_EQ(b.rchar - a.rchar, n + 500);
	CHECK_EQ(b.wchar - a.wchar, 500);
	CHECK_EQ(b.syscr - a.syscr, 2);
	CHECK_EQ(b.syscw - a.syscw, 1);
	n = counts(&a);
	pid_t pid = tap_fork();
	if (pid == 0) {
		write(out, buf, 77);
		_exit(0);
	}
	tap_reap(pid);
	counts(&b);
	CHECK_EQ(b.wchar - a.wchar, 77); /* what children did that were waited for */
	CHECK_EQ(b.syscw - a.syscw, 1);
	close(fd);
	close(out);
}
