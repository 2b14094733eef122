/* proc(5): the files of a process, and the system's. */
#include "tap.h"

static char buf[200000];
static char *file(const char *path)
{
	return tap_read_file(path, buf, sizeof buf) < 0 ? NULL : buf;
}
/* field finds "Name:\tvalue" in a status file. */
static char *field(const char *text, const char *name)
{
	static char value[256];
	char key[64];
	snprintf(key, sizeof key, "\n%s:", name);
	const char *at = strstr(text, key);
	if (!at && strncmp(text, key + 1, strlen(key + 1)) == 0)
		at = text - 1;
	if (!at)
		return NULL;
	at += strlen(key);
	at += strspn(at, " \t");
	snprintf(value, sizeof value, "%.*s", (int)strcspn(at, "\n"), at);
	return value;
}

TEST(self)
{
	char want[32], link[64];
	snprintf(want, sizeof want, "%d", getpid());
	ssize_t n = readlink("/proc/self", link, sizeof link - 1);
	link[n > 0 ? n : 0] = 0;
	CHECK_STR(link, want);
	n = readlink("/proc/thread-self", link, sizeof link - 1);
	link[n > 0 ? n : 0] = 0;
	snprintf(want, sizeof want, "%d/task/%d", getpid(), getpid());
	CHECK_STR(link, want);
	n = readlink("/proc/self/exe", buf, sizeof buf - 1);
	buf[n > 0 ? n : 0] = 0;
	CHECK_STR(buf, tap_self);
	char cwd[PATH_MAX];
	getcwd(cwd, sizeof cwd);
	n = readlink("/proc/self/cwd", buf, sizeof buf - 1);
	buf[n > 0 ? n : 0] = 0;
	CHECK_STR(buf, cwd);
	n = readlink("/proc/self/root", buf, sizeof buf - 1);
	buf[n > 0 ? n : 0] = 0;
	CHECK_STR(buf, "/");
	CHECK_ERRNO(access("/proc/999999", F_OK), ENOENT);
	CHECK_ERRNO(mkdir("/proc/x", 0700), ENOENT);
}

/* A file that is about itself, and two that are about each other. */
TEST(fdinfo_of_fdinfo)
{
	CHECK_EQ(dup2(0, 100), 100);
	CHECK_EQ(dup2(0, 101), 101);
	int a = open("/proc/self/fdinfo/100", O_RDONLY), b = open("/proc/self/fdinfo/101", O_RDONLY);
	CHECK(a >= 0 && b >= 0);
	CHECK_EQ(dup2(a, 100), 100);
	CHECK(read(a, buf, sizeof buf) > 0);
	CHECK_EQ(lseek(a, 0, SEEK_SET), 0);
	CHECK_EQ(dup2(a, 101), 101);
	CHECK_EQ(dup2(b, 100), 100);
	CHECK(read(a, buf, sizeof buf) > 0);
	CHECK(read(b, buf, sizeof buf) > 0);
	close(a);
	close(b);
	close(100);
	close(101);
}

TEST(stat)
{
	int pid, ppid, pgrp, sid;
	char comm[32], state;
	prctl(PR_SET_NAME, "a) (b"); /* parsers must look for the last parenthesis */
	CHECK(file("/proc/self/stat") != NULL);
	char *close_paren = strrchr(buf, ')');
	REQUIRE(close_paren != NULL);
	CHECK_EQ(sscanf(buf, "%d (%31[^\n]", &pid, comm), 2);
	CHECK_EQ(pid, getpid());
	CHECK(strncmp(comm, "a) (b)", 6) == 0);
	CHECK_EQ(sscanf(close_paren + 2, "%c %d %d %d", &state, &ppid, &pgrp, &sid), 4);
	CHECK_EQ(state, 'R');
	CHECK_EQ(ppid, getppid());
	CHECK_EQ(pgrp, getpgrp());
	CHECK_EQ(sid, getsid(0));
	int fields = 2;
	for (char *c = close_paren + 1; *c; c++)
		fields += *c == ' ';
	CHECK(fields >= 52);
	long size, resident;
	CHECK(file("/proc/self/statm") && sscanf(buf, "%ld %ld", &size, &resident) == 2);
	CHECK(size >= resident && resident > 0);
}

TEST(status)
{
	char want[64];
	prctl(PR_SET_NAME, "proctest");
	REQUIRE(file("/proc/self/status") != NULL);
	CHECK_STR(field(buf, "Name"), "proctest");
	snprintf(want, sizeof want, "%d", getpid());
	CHECK_STR(field(buf, "Pid"), want);
	CHECK_STR(field(buf, "Tgid"), want);
	snprintf(want, sizeof want, "%d", getppid());
	CHECK_STR(field(buf, "PPid"), want);
	CHECK_STR(field(buf, "State"), "R (running)");
	CHECK_STR(field(buf, "Uid"), "0\t0\t0\t0");
	CHECK_STR(field(buf, "Threads"), "1");
	CHECK_STR(field(buf, "TracerPid"), "0");
	CHECK(field(buf, "VmSize") != NULL && strstr(field(buf, "VmSize"), "kB"));
	CHECK(field(buf, "VmRSS") != NULL);
	CHECK(field(buf, "CapEff") != NULL && strlen(field(buf, "CapEff")) == 16);
	CHECK(field(buf, "Cpus_allowed_list") != NULL);
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	sigprocmask(SIG_BLOCK, &s, NULL);
	signal(SIGUSR2, SIG_IGN);
	raise(SIGUSR1);
	file("/proc/self/status");
	CHECK_STR(field(buf, "SigBlk"), "0000000000000200");
	CHECK_STR(field(buf, "SigPnd"), "0000000000000200");
	CHECK(field(buf, "SigIgn") && strtoull(field(buf, "SigIgn"), NULL, 16) & 0x800);
	CHECK(field(buf, "SigCgt") && strtoull(field(buf, "SigCgt"), NULL, 16) & 0x2000); /* the watchdog */
	pid_t z = tap_fork();
	if (z == 0)
		_exit(0);
	siginfo_t i;
	waitid(P_PID, z, &i, WEXITED | WNOWAIT);
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/status", z);
	CHECK(file(path) != NULL);
	CHECK_STR(field(buf, "State"), "Z (zombie)");
	CHECK(field(buf, "VmSize") == NULL); /* no memory any more */
	tap_reap(z);
	CHECK(file(path) == NULL);
}

TEST(maps)
{
	char line[128];
	char *m = mmap(NULL, 3 * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(m + 4096, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
	tap_write_file("mapped", "x");
	int fd = open("mapped", O_RDWR);
	char *f = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	REQUIRE(file("/proc/self/maps") != NULL);
	snprintf(line, sizeof line, "%lx-%lx rwxp 00000000 00:00 0", (long)m + 4096, (long)m + 8192);
	CHECK(strstr(buf, line) != NULL);
	snprintf(line, sizeof line, "%lx-%lx rw-s 00000000 ", (long)f, (long)f + 4096);
	char *at = strstr(buf, line);
	CHECK(at != NULL);
	CHECK(at && strstr(at, "/mapped\n") != NULL);
	CHECK(strstr(buf, "[stack]") != NULL);
	CHECK(strstr(buf, "[heap]") != NULL || sbrk(0) != NULL);
	unsigned long lo, hi, last = 0, sorted = 1;
	for (char *l = buf; l && *l; l = strchr(l, '\n') ? strchr(l, '\n') + 1 : NULL) {
		if (sscanf(l, "%lx-%lx", &lo, &hi) != 2)
			break;
		sorted = sorted && lo >= last && hi > lo;
		last = hi;
	}
	CHECK(sorted);
	CHECK(file("/proc/self/smaps") == NULL || strstr(buf, "Rss:") != NULL);
	munmap(m, 3 * 4096), munmap(f, 4096);
	close(fd);
}

TEST(cmdline_and_environ)
{
	CHECK(file("/proc/self/cmdline") != NULL);
	CHECK(buf[0] != 0);
	ssize_t n = tap_read_file("/proc/self/environ", buf, sizeof buf);
	CHECK(n >= 0);
	CHECK(file("/proc/self/comm") != NULL);
	CHECK(file("/proc/self/auxv") != NULL);
	pid_t z = tap_fork();
	if (z == 0)
		_exit(0);
	siginfo_t i;
	waitid(P_PID, z, &i, WEXITED | WNOWAIT);
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/cmdline", z);
	CHECK_EQ(tap_read_file(path, buf, sizeof buf), 0); /* empty for a zombie */
	tap_reap(z);
}

TEST(fd_directory)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC), seen = 0, n = -1;
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	while ((e = readdir(d)))
		seen += atoi(e->d_name) == fd && e->d_name[0] != '.';
	closedir(d);
	CHECK_EQ(seen, 1);
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	CHECK(file(path) != NULL);
	unsigned long flags = 0;
	CHECK(field(buf, "flags") && sscanf(field(buf, "flags"), "%lo", &flags) == 1);
	CHECK_EQ(flags & O_CLOEXEC, O_CLOEXEC);
	CHECK(field(buf, "pos") != NULL);
	struct stat st;
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	lstat(path, &st);
	CHECK(S_ISLNK(st.st_mode));
	CHECK_EQ(st.st_mode & 0700, 0500); /* read and search for a read-only descriptor */
	close(fd);
	d = opendir("/proc/self/task");
	n = 0;
	while ((e = readdir(d)))
		n += e->d_name[0] != '.';
	closedir(d);
	CHECK_EQ(n, 1);
}

TEST(mounts)
{
	CHECK(file("/proc/self/mounts") != NULL);
	CHECK(strstr(buf, " / ") != NULL);
	CHECK(strstr(buf, " /proc proc ") != NULL);
	CHECK(file("/proc/mounts") != NULL);
	CHECK(file("/proc/self/mountinfo") != NULL);
	int id, parent, major, minor;
	char root[256], point[256];
	CHECK_EQ(sscanf(buf, "%d %d %d:%d %255s %255s", &id, &parent, &major, &minor, root, point), 6);
	CHECK(strstr(buf, " - ") != NULL);
}

TEST(memory)
{
	/* /proc/self/mem reads and writes past protection. */
	volatile char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	m[0] = 'a';
	mprotect((void *)m, 4096, PROT_READ);
	int fd = open("/proc/self/mem", O_RDWR);
	REQUIRE(fd >= 0);
	char c = 0;
	CHECK_EQ(pread(fd, &c, 1, (off_t)m), 1);
	CHECK_EQ(c, 'a');
	CHECK_ERRNO(pread(fd, &c, 1, 8), EIO);
	munmap((void *)m, 4096);
	close(fd);
}

TEST(system_files)
{
	CHECK(file("/proc/version") && strncmp(buf, "Linux version ", 14) == 0);
	CHECK(file("/proc/uptime") != NULL);
	double up = -1, idle = -1;
	CHECK_EQ(sscanf(buf, "%lf %lf", &up, &idle), 2);
	CHECK(file("/proc/meminfo") && strstr(buf, "MemTotal:"));
	CHECK(strstr(buf, "MemFree:") != NULL && strstr(buf, "MemAvailable:") != NULL);
	CHECK(file("/proc/stat") && strncmp(buf, "cpu ", 4) == 0);
	CHECK(strstr(buf, "btime ") != NULL);
	CHECK(file("/proc/cpuinfo") && strstr(buf, "processor"));
	CHECK(file("/proc/loadavg") != NULL);
	CHECK(file("/proc/filesystems") && strstr(buf, "tmpfs"));
	CHECK(file("/proc/sys/kernel/ostype") && strcmp(buf, "Linux\n") == 0);
	CHECK(file("/proc/sys/kernel/osrelease") != NULL);
	CHECK(file("/proc/sys/kernel/pid_max") && atoi(buf) > 300);
	CHECK(file("/proc/sys/kernel/cap_last_cap") && atoi(buf) >= 36);
	CHECK(file("/proc/sys/kernel/random/uuid") && strlen(buf) == 37);
	CHECK(file("/proc/sys/vm/overcommit_memory") != NULL);
	CHECK(file("/proc/sys/fs/pipe-max-size") && atoi(buf) >= 4096);
	CHECK(file("/proc/self/limits") && strstr(buf, "Max open files"));
	CHECK(file("/proc/self/oom_score_adj") != NULL);
	CHECK(file("/proc/self/cgroup") != NULL);
}
