/* grow.c: an application that makes its kernel's memory grow by one kind of object, as far as it goes.
 *
 *   grow [-w] [-t SECONDS] KIND...
 *
 * For each KIND a child makes objects until the kernel refuses, or kills it, or its time (20 seconds) is over, and keeps
 * them meanwhile, then all is removed, from /tmp and /dev/shm too; a line says how far it came:
 *
 *   KIND COUNT ERRNO|"killed by N"|"time"
 *
 * With -w children wait when they have made what they can, all of them until standard input ends. Without KINDs it
 * lists them.
 *
 * Never run it on a kernel that matters: it is root there. It refuses unless the host's name is "hostile".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

/* What a child has in common with its parent. */
static struct shared {
	volatile long count;
	volatile int err;
	volatile int done;
} *shared;

static struct timespec start;
static int told = -1; /* closed when a kind has been grown */

static int seconds = 20;

static int late(void) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec - start.tv_sec >= seconds;
}

/* One more, or the end: to be the condition of a loop. */
static int made(int ok) {
	if (!ok) {
		shared->err = errno;
		return 0;
	}
	shared->count++;
	return !(shared->count % 64 == 0 && late());
}

static char text[65536];

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at) {
	(void)st, (void)kind, (void)at;
	remove(path);
	return 0;
}

/* What kinds leave in directories, but for "deep", and of System V IPC. */
static void remove_all(void) {
	for (int i = 0; i < 1 << 15; i++) {
		struct msqid_ds q;
		struct shmid_ds m;
		struct semid_ds s;
		int id;
		if ((id = msgctl(i, MSG_STAT, &q)) >= 0)
			msgctl(id, IPC_RMID, NULL);
		if ((id = shmctl(i, SHM_STAT, (void *)&m)) >= 0)
			shmctl(id, IPC_RMID, NULL);
		if ((id = semctl(i, 0, SEM_STAT, &s)) >= 0)
			semctl(id, 0, IPC_RMID);
	}
	nftw("/dev/shm", remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
	nftw("/tmp", remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static void in_new_dir(void) {
	char dir[] = "/dev/shm/growXXXXXX", other[] = "/tmp/growXXXXXX";
	if (mkdtemp(dir) ? chdir(dir) : !mkdtemp(other) || chdir(other))
		exit(2);
}

/* A name of length n that differs for each i. */
static char *name(long i, int n) {
	static char b[4096];
	memset(b, 'n', sizeof b);
	b[snprintf(b, 20, "%016lx", i)] = 'n';
	b[n] = 0;
	return b;
}

/* Empty files with names of length n. */
static void named_files(int n) {
	for (long i = 0;; i++) {
		int fd = open(name(i, n), O_CREAT | O_EXCL | O_WRONLY, 0600);
		if (!made(fd >= 0))
			return;
		close(fd);
	}
}

static void files(void) {
	in_new_dir();
	named_files(16);
}

static void dirs(void) {
	in_new_dir();
	for (long i = 0; made(mkdir(name(i, 16), 0700) == 0); i++)
		;
}

static void names(void) {
	in_new_dir();
	close(open("a", O_CREAT | O_WRONLY, 0600));
	for (long i = 0; made(link("a", name(i, 255)) == 0); i++)
		;
}

static void symlinks(void) {
	in_new_dir();
	memset(text, 't', 4095);
	text[4095] = 0;
	for (long i = 0; made(symlink(text, name(i, 16)) == 0); i++)
		;
}

static void xattrs(void) {
	in_new_dir();
	for (long i = 0;; i++) {
		close(open(name(i, 16), O_CREAT | O_WRONLY, 0600));
		for (int k = 0; k < 16; k++) {
			char a[64];
			snprintf(a, sizeof a, "trusted.%d", k);
			if (!made(setxattr(name(i, 16), a, text, 4000, 0) == 0))
				return;
		}
	}
}

static void rootfiles(void) {
	char dir[] = "/tmp/growXXXXXX";
	if (!mkdtemp(dir) || chdir(dir))
		exit(2);
	named_files(255);
}

static void deep(void) {
	in_new_dir();
	for (long i = 0; made(mkdir("d", 0700) == 0); i++)
		if (!made(chdir("d") == 0))
			return;
}

static void absent(void) {
	struct stat st;
	char p[300];
	for (long i = 0;; i++) {
		snprintf(p, sizeof p, "/usr/%s", name(i, 255));
		errno = 0;
		if (!made(stat(p, &st) < 0 && errno == ENOENT))
			return;
	}
}

static void shmabsent(void) {
	struct stat st;
	in_new_dir();
	for (long i = 0;; i++) {
		errno = 0;
		if (!made(stat(name(i, 255), &st) < 0 && errno == ENOENT))
			return;
	}
}

static void holes(void) {
	int fd = memfd_create("holes", 0);
	for (long i = 0; made(pwrite(fd, "x", 1, i * 8192) == 1); i++)
		;
}

/* Every other page of memory, by a kind that touches one. */
static void every_other(void (*touch)(volatile char *)) {
	for (;;) {
		char *p = mmap(NULL, 1 << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (!made(p != MAP_FAILED))
			return;
		for (long i = 0; i < 1 << 30; i += 8192) {
			touch(p + i);
			if (!made(1))
				return;
		}
	}
}

static void write_one(volatile char *p) { *p = 1; }
static void read_one(volatile char *p) { (void)*p; }

static void anonholes(void) { every_other(write_one); }
static void zeros(void) { every_other(read_one); } /* pages that are only read */

static void vmas(void) {
	for (;;) {
		char *p = mmap(NULL, 1 << 24, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (!made(p != MAP_FAILED))
			return;
		for (long i = 0; i < 1 << 24; i += 8192)
			if (!made(mprotect(p + i, 4096, PROT_READ | PROT_WRITE) == 0))
				return;
	}
}

static int forked(void (*f)(void)) { /* children that go on with f, and wait */
	pid_t pid = fork();
	if (pid == 0) {
		close(told);
		f();
		for (;;)
			pause();
	}
	return pid > 0;
}

static void manyvmas(void) { /* of many processes */
	vmas();
	for (;;)
		if (!made(forked(vmas)))
			return;
}

static void maps(void) { /* /proc/self/maps, begun to be read by many */
	struct rlimit r = {1 << 20, 1 << 20};
	setrlimit(RLIMIT_NOFILE, &r);
	vmas();
	if (late())
		start.tv_sec += seconds;
	for (;;) {
		int fd = open("/proc/self/maps", O_RDONLY);
		char b;
		if (!made(fd >= 0 && read(fd, &b, 1) == 1))
			return;
	}
}

static void tasks(void) {
	for (;;) {
		pid_t pid = fork();
		if (pid == 0) {
			close(told);
			for (;;)
				pause();
		}
		if (!made(pid > 0))
			return;
	}
}

static void zombies(void) {
	for (;;) {
		pid_t pid = fork();
		if (pid == 0)
			_exit(0);
		if (!made(pid > 0))
			return;
	}
}

static void most_files(void) {
	struct rlimit r = {1 << 20, 1 << 20};
	if (setrlimit(RLIMIT_NOFILE, &r)) {
		getrlimit(RLIMIT_NOFILE, &r);
		r.rlim_cur = r.rlim_max;
		setrlimit(RLIMIT_NOFILE, &r);
	}
}

static void fdtable(void) {
	most_files();
	dup2(0, (1 << 20) - 1);
}

static void fdtables(void) {
	most_files();
	while (made(forked(fdtable)))
		;
}

static void eventfds_once(void) {
	most_files();
	while (made(eventfd(0, 0) >= 0))
		;
}

static void eventfds(void) {
	most_files();
	eventfds_once();
	while (made(forked(eventfds_once)))
		;
}

static void openfiles(void) {
	most_files();
	while (made(open("/dev/null", O_RDONLY) >= 0))
		;
}

static void opendirs(void) { /* a large directory, listed by many */
	in_new_dir();
	for (long i = 0; i < 5000; i++)
		close(open(name(i, 255), O_CREAT | O_WRONLY, 0600));
	most_files();
	for (;;) {
		int fd = open(".", O_RDONLY | O_DIRECTORY);
		if (!made(fd >= 0 && syscall(SYS_getdents64, fd, text, 1024) > 0))
			return;
	}
}

static void opendirsroot(void) {
	char dir[] = "/tmp/growXXXXXX";
	if (!mkdtemp(dir) || chdir(dir))
		exit(2);
	for (long i = 0; i < 5000; i++)
		close(open(name(i, 255), O_CREAT | O_WRONLY, 0600));
	most_files();
	for (;;) {
		int fd = open(".", O_RDONLY | O_DIRECTORY);
		if (!made(fd >= 0 && syscall(SYS_getdents64, fd, text, 1024) > 0))
			return;
	}
}

static void opendirsgofer(void) {
	most_files();
	for (;;) {
		int fd = open("/usr/lib/x86_64-linux-gnu", O_RDONLY | O_DIRECTORY);
		if (!made(fd >= 0 && syscall(SYS_getdents64, fd, text, 1024) > 0))
			return;
	}
}

static void pipes(void) {
	most_files();
	for (;;) {
		int p[2];
		if (!made(pipe2(p, O_NONBLOCK) == 0))
			return;
		if (!made(write(p[1], text, 65536) > 0))
			return;
	}
}

static void bigpipes(void) {
	most_files();
	for (;;) {
		int p[2];
		if (!made(pipe2(p, O_NONBLOCK) == 0))
			return;
		fcntl(p[1], F_SETPIPE_SZ, 1 << 20);
		for (int i = 0; i < 16; i++)
			if (!made(write(p[1], text, 65536) > 0))
				return;
	}
}

static void packets(void) { /* pipes in packet mode, of bytes */
	most_files();
	for (;;) {
		int p[2];
		if (!made(pipe2(p, O_NONBLOCK | O_DIRECT) == 0))
			return;
		fcntl(p[1], F_SETPIPE_SZ, 1 << 20);
		while (write(p[1], text, 1) > 0)
			made(1);
		if (late())
			return;
	}
}

/* Pairs of sockets, each as full as it gets of messages of n bytes. */
static void full_pairs(int type, size_t n) {
	most_files();
	for (;;) {
		int p[2];
		if (!made(socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, p) == 0))
			return;
		int big = 1 << 30;
		setsockopt(p[0], SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
		if (type == SOCK_STREAM)
			setsockopt(p[0], SOL_SOCKET, SO_SNDBUF, &big, sizeof big);
		while (send(p[0], text, n, 0) >= 0)
			made(1);
		if (errno != EAGAIN) {
			made(0);
			return;
		}
		if (late())
			return;
	}
}

static void streams(void) { full_pairs(SOCK_STREAM, 65536); }
static void datagrams(void) { full_pairs(SOCK_DGRAM, 0); }

static void flight(int nest) {
	most_files();
	int inner = eventfd(0, 0);
	for (;;) {
		int p[2];
		if (!made(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p) == 0))
			return;
		int fds[253];
		for (int i = 0; i < 253; i++)
			fds[i] = inner;
		char control[CMSG_SPACE(sizeof fds)];
		struct iovec iov = {"x", 1};
		struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof fds);
		memcpy(CMSG_DATA(c), fds, sizeof fds);
		int n = 0;
		while (sendmsg(p[0], &m, 0) == 1) {
			n++;
			if (!made(1))
				return;
		}
		if (n == 0 && errno != EAGAIN) {
			made(0);
			return;
		}
		if (nest) { /* all that is only in the message */
			close(inner);
			close(p[0]);
			inner = p[1];
		}
	}
}

static void rights(void) { flight(0); }
static void nested(void) { flight(1); }

static void listeners(void) {
	in_new_dir();
	most_files();
	for (int n = 0;; n++) {
		struct sockaddr_un_ {
			unsigned short family;
			char path[108];
		} a = {AF_UNIX, ""};
		int len = snprintf(a.path + 1, 100, "grow%d", n) + 3;
		int l = socket(AF_UNIX, SOCK_STREAM, 0);
		if (!made(l >= 0 && bind(l, (void *)&a, len) == 0 && listen(l, 1 << 30) == 0))
			return;
		for (int i = 0; i < 100000; i++) {
			int s = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
			if (s < 0) {
				made(0);
				return;
			}
			if (connect(s, (void *)&a, len)) {
				close(s);
				break;
			}
			close(s);
			if (!made(1))
				return;
		}
	}
}

/* Queues that are full of messages of n bytes. */
static void full_queues(size_t n) {
	for (;;) {
		int q = msgget(IPC_PRIVATE, 0600);
		if (!made(q >= 0))
			return;
		struct { long type; char b[8192]; } m = {1, ""};
		while (msgsnd(q, &m, n, IPC_NOWAIT) == 0 && !late())
			made(1);
	}
}

static void messages(void) { full_queues(0); } /* none longer than a byte */
static void longmessages(void) { full_queues(8192); }

static void semaphores(void) {
	for (int n = 32000; n > 0;) {
		int s = semget(IPC_PRIVATE, n, 0600);
		if (s < 0 && n > 1) {
			n /= 2;
			continue;
		}
		if (!made(s >= 0))
			return;
	}
}

static void undos(void) {
	for (;;) {
		int s = semget(IPC_PRIVATE, 1000, 0600);
		if (!made(s >= 0))
			return;
		for (int i = 0; i < 1000; i++) {
			struct sembuf op = {i, 1, SEM_UNDO};
			if (!made(semop(s, &op, 1) == 0))
				return;
		}
	}
}

static void segments(void) {
	while (made(shmget(IPC_PRIVATE, 4096, 0600) >= 0))
		;
}

static void events(void) {
	in_new_dir();
	most_files();
	for (;;) {
		int in = inotify_init1(IN_NONBLOCK);
		if (!made(in >= 0 && inotify_add_watch(in, ".", IN_ALL_EVENTS) >= 0))
			return;
		for (int i = 0; i < 20000; i++) {
			int fd = open(name(i & 1, 255), O_CREAT | O_WRONLY, 0600);
			close(fd);
			if (late())
				return;
		}
	}
}

static void watches(void) {
	in_new_dir();
	most_files();
	for (int i = 0; i < 1000; i++)
		mkdir(name(i, 16), 0700);
	for (;;) {
		int in = inotify_init1(IN_NONBLOCK);
		if (!made(in >= 0))
			return;
		for (int i = 0; i < 1000; i++)
			if (!made(inotify_add_watch(in, name(i, 16), IN_ALL_EVENTS) >= 0))
				return;
	}
}

static void epolls(void) {
	most_files();
	int fds[500];
	for (int i = 0; i < 500; i++)
		fds[i] = eventfd(1, 0);
	for (;;) {
		int ep = epoll_create1(0);
		if (!made(ep >= 0))
			return;
		for (int i = 0; i < 500; i++) {
			struct epoll_event e = {.events = EPOLLIN};
			if (!made(epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &e) == 0))
				return;
		}
	}
}

static void timers(void) {
	struct sigevent e = {.sigev_notify = SIGEV_NONE};
	struct itimerspec v = {{0, 0}, {1000000, 0}};
	timer_t t;
	while (made(timer_create(CLOCK_MONOTONIC, &e, &t) == 0 && timer_settime(t, 0, &v, NULL) == 0))
		;
}

static void manytimers(void) {
	struct rlimit r = {RLIM_INFINITY, RLIM_INFINITY};
	setrlimit(RLIMIT_SIGPENDING, &r);
	timers();
}

static void signals(void) {
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	struct rlimit r = {RLIM_INFINITY, RLIM_INFINITY};
	setrlimit(RLIMIT_SIGPENDING, &r);
	union sigval v = {.sival_int = 1};
	while (made(sigqueue(getpid(), SIGRTMIN, v) == 0))
		;
}

static void locks(void) {
	in_new_dir();
	int fd = open("a", O_CREAT | O_RDWR, 0600);
	for (long i = 0;; i++) {
		struct flock l = {.l_type = F_WRLCK, .l_start = i * 2, .l_len = 1};
		if (!made(fcntl(fd, F_SETLK, &l) == 0))
			return;
	}
}

static void mounts(void) {
	mkdir("/tmp/m", 0700);
	unshare(CLONE_NEWNS); /* for them to go with the process */
	while (made(mount("none", "/tmp/m", "tmpfs", 0, NULL) == 0))
		;
}

static void binds(void) { /* twice as many each time */
	unshare(CLONE_NEWNS);
	mkdir("/tmp/b", 0700);
	mkdir("/tmp/b/c", 0700);
	mount("/tmp/b", "/tmp/b", NULL, MS_BIND, NULL);
	for (int i = 0;; i++)
		if (!made(mount("/tmp/b", "/tmp/b/c", NULL, MS_BIND | MS_REC, NULL) == 0))
			return;
}

static void mountspaces(void) {
	mkdir("/tmp/m", 0700);
	for (int i = 0; i < 1000; i++)
		mount("none", "/tmp/m", "tmpfs", 0, NULL);
	most_files();
	for (;;) {
		if (!made(unshare(CLONE_NEWNS) == 0))
			return;
		if (!made(open("/proc/self/ns/mnt", O_RDONLY) >= 0))
			return;
	}
}

static void spaces(int flag, const char *path) {
	most_files();
	for (;;) {
		if (!made(unshare(flag) == 0))
			return;
		if (!made(open(path, O_RDONLY) >= 0))
			return;
	}
}

static void utsspaces(void) { spaces(CLONE_NEWUTS, "/proc/self/ns/uts"); }
static void ipcspaces(void) { spaces(CLONE_NEWIPC, "/proc/self/ns/ipc"); }
static void netspaces(void) { spaces(CLONE_NEWNET, "/proc/self/ns/net"); }

/* A filter of 4096 instructions that allows all. */
static struct sock_fprog long_filter(void) {
	static struct sock_filter f[4096];
	for (int i = 0; i < 4095; i++)
		f[i] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_IMM, i);
	f[4095] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return (struct sock_fprog){4096, f};
}

static void filters(void) {
	struct sock_fprog p = long_filter();
	for (;;)
		if (!made(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p) == 0))
			return;
}

static void filter_once(void) {
	struct sock_fprog p = long_filter();
	/* which answers at once, for calls to stay quick */
	p.filter[0] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	for (int i = 0; i < 7; i++)
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p);
}

static void taskfilters(void) {
	while (made(forked(filter_once)))
		;
}

static void group_once(void) {
	static gid_t g[65536];
	for (int i = 0; i < 65536; i++)
		g[i] = i;
	syscall(SYS_setgroups, 65536, g);
}

static void groups(void) {
	while (made(forked(group_once)))
		;
}

static void arguments(void) { /* of children that sleep */
	char **argv = calloc(1000, sizeof *argv);
	argv[0] = "sleep", argv[1] = "1000000";
	memset(text, 'x', 65000);
	for (int i = 2; i < 20; i++)
		argv[i] = text;
	for (;;) {
		pid_t pid = fork();
		if (pid == 0) {
			execve("/proc/self/exe", (char *[]){"grow", "=", NULL}, argv);
			_exit(1);
		}
		if (!made(pid > 0))
			return;
	}
}

static void ptys(void) {
	most_files();
	for (;;) {
		int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
		if (!made(fd >= 0))
			return;
		memset(text, 'x', 4096);
		for (int i = 0; i < 20; i++)
			if (write(fd, text, 4096) <= 0)
				break;
	}
}

static void memfds(void) {
	most_files();
	memset(text, 'x', 240);
	text[240] = 0;
	while (made(memfd_create(text, 0) >= 0))
		;
}

static void mappedfiles(void) { /* of closed descriptors */
	in_new_dir();
	for (long i = 0;; i++) {
		int fd = open(name(i, 16), O_CREAT | O_RDWR, 0600);
		if (!made(fd >= 0 && ftruncate(fd, 4096) == 0))
			return;
		if (!made(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED))
			return;
		close(fd);
	}
}

static void users(void) {
	most_files();
	for (;;) { /* siblings: user namespaces nest 32 deep only */
		int p[2];
		char b;
		if (pipe(p))
			return;
		pid_t pid = fork();
		if (pid == 0) {
			close(told);
			b = unshare(CLONE_NEWUSER) ? errno : 0;
			while (write(p[1], &b, 1) == 1) /* once: it is the reader's turn then */
				pause();
			_exit(1); /* no memory for a byte */
		}
		close(p[1]);
		char path[64];
		snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
		int ok = pid > 0 && read(p[0], &b, 1) == 1 && (errno = b) == 0 && open(path, O_RDONLY) >= 0;
		if (pid > 0) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
		}
		close(p[0]);
		if (!made(ok))
			return;
	}
}

static void seminits(void) { /* descriptors of one file, each with a lock */
	in_new_dir();
	most_files();
	for (;;) {
		int fd = open("a", O_CREAT | O_RDWR, 0600);
		if (!made(fd >= 0 && flock(fd, LOCK_SH) == 0))
			return;
	}
}

static void sockets(void) {
	most_files();
	while (made(socket(AF_UNIX, SOCK_STREAM, 0) >= 0))
		;
}

static void threads_stack(void) { /* threads that sleep */
	for (;;) {
		char *stack = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (!made(stack != MAP_FAILED))
			return;
		int pid = clone((int (*)(void *))(void *)pause, stack + 8192, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, NULL);
		if (!made(pid > 0))
			return;
	}
}

static const struct {
	const char *name;
	void (*grow)(void);
} kinds[] = {
	{"files", files}, {"dirs", dirs}, {"names", names}, {"symlinks", symlinks}, {"xattrs", xattrs}, {"rootfiles", rootfiles}, {"deep", deep},
	{"absent", absent}, {"shmabsent", shmabsent}, {"holes", holes}, {"anonholes", anonholes}, {"zeros", zeros}, {"vmas", vmas}, {"manyvmas", manyvmas},
	{"maps", maps}, {"tasks", tasks}, {"threads", threads_stack}, {"zombies", zombies}, {"fdtables", fdtables}, {"openfiles", openfiles}, {"eventfds", eventfds},
	{"opendirs", opendirs}, {"opendirsroot", opendirsroot}, {"opendirsgofer", opendirsgofer}, {"pipes", pipes}, {"bigpipes", bigpipes}, {"packets", packets},
	{"streams", streams}, {"datagrams", datagrams}, {"rights", rights}, {"nested", nested}, {"listeners", listeners}, {"sockets", sockets}, {"messages", messages},
	{"longmessages", longmessages}, {"semaphores", semaphores}, {"undos", undos}, {"segments", segments}, {"events", events},
	{"watches", watches}, {"epolls", epolls}, {"timers", timers}, {"manytimers", manytimers}, {"signals", signals}, {"locks", locks},
	{"flocks", seminits}, {"mounts", mounts}, {"binds", binds}, {"mountspaces", mountspaces}, {"utsspaces", utsspaces}, {"ipcspaces", ipcspaces}, {"netspaces", netspaces},
	{"users", users}, {"filters", filters}, {"taskfilters", taskfilters}, {"groups", groups}, {"arguments", arguments}, {"ptys", ptys},
	{"memfds", memfds}, {"mappedfiles", mappedfiles},
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

int main(int argc, char **argv) {
	int keep = 0;
	struct utsname u;
	if (argc == 2 && !strcmp(argv[1], "="))
		for (;;)
			pause();
	if (argc > 1 && !strcmp(argv[1], "-w"))
		keep = 1, argv++, argc--;
	if (argc > 2 && !strcmp(argv[1], "-t"))
		seconds = atoi(argv[2]), argv += 2, argc -= 2;
	if (argc < 2) {
		for (int i = 0; i < KINDS; i++)
			puts(kinds[i].name);
		return 0;
	}
	if (uname(&u) || strcmp(u.nodename, "hostile")) {
		fprintf(stderr, "grow: the host's name isn't hostile\n");
		return 2;
	}
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	shared->err = -1;
	for (int a = 1; a < argc; a++) {
		void (*grow)(void) = NULL;
		for (int i = 0; i < KINDS; i++)
			if (!strcmp(kinds[i].name, argv[a]))
				grow = kinds[i].grow;
		if (!grow) {
			fprintf(stderr, "grow: no kind %s\n", argv[a]);
			return 2;
		}
		shared->count = shared->err = shared->done = 0;
		int p[2];
		if (pipe(p))
			return 2;
		clock_gettime(CLOCK_MONOTONIC, &start);
		pid_t pid = fork();
		if (pid == 0) {
			setpgid(0, 0);
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(p[0]);
			fcntl(p[1], F_SETFD, FD_CLOEXEC);
			told = p[1];
			grow();
			shared->done = 1;
			close(p[1]); /* not by a byte: there may be no memory left for one */
			for (;;)
				pause();
		}
		close(p[1]);
		char b;
		read(p[0], &b, 1);
		close(p[0]);
		int st = 0;
		if (!shared->done)
			waitpid(pid, &st, 0);
		if (WIFSIGNALED(st))
			printf("%s %ld killed by %d\n", argv[a], shared->count, WTERMSIG(st));
		else
			printf("%s %ld %s\n", argv[a], shared->count, shared->err ? strerrorname_np(shared->err) : "time");
		fflush(stdout);
		if (!keep) {
			kill(-pid, SIGKILL);
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
			while (waitpid(-pid, NULL, 0) > 0)
				;
			remove_all();
		}
	}
	while (keep && read(0, text, sizeof text) > 0)
		;
	if (keep)
		kill(0, SIGKILL);
	return 0;
}
