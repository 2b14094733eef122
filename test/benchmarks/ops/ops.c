// Ops times one operation of the kernel it runs on, in short batches, and
// prints the 10th percentile of the batches: nanoseconds per operation, or
// bytes per second for those that move data.
//
//   ops [-r ROOT] [-d DIR] [-t TMPFS] [-m MILLISECONDS] [-c N] OPERATION [ARGUMENT...]
//
// -r changes the root directory first, so that what runs natively sees the same
// files as the container; -d and -t are directories to write in, opened before.
// The one of -d is then /var/tmp as well.
// With -c nothing is timed: ops prepares, says "ready", waits for a byte, does
// the operation N times, says "done" and waits again, so that somebody else can
// count what happens in between.
// The 10th percentile, because a batch that was disturbed says nothing of the
// mechanism, and the minimum may be luck.
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *dir;   // of -d, as it is named in the root directory
static int dirfd = -1;    // of -d
static int tmpfd = -1;    // of -t
static int zerofd;        // /dev/zero, which ROOT may not have
static char **args;       // what follows the operation
static long budget = 150; // milliseconds of measuring

static uint64_t now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static void must(int ok, const char *what) {
  if (!ok) err(1, "%s", what);
}

// A batch does n operations and returns the nanoseconds that they took.
typedef uint64_t batch(long n);

#define LOOP(body)               \
  do {                           \
    uint64_t start = now();      \
    for (long i = 0; i < n; i++) { \
      body;                      \
    }                            \
    return now() - start;        \
  } while (0)

// Calls without work.

static uint64_t op_getpid(long n) { LOOP(syscall(SYS_getpid)); }

static uint64_t op_getpid_inline(long n) {
  LOOP({
    long r = SYS_getpid;
    __asm__ volatile("syscall" : "+a"(r) : : "rcx", "r11", "memory");
  });
}

static uint64_t op_read(long n) {
  char c;
  LOOP(must(read(zerofd, &c, 1) == 1, "read"));
}

static uint64_t op_clock_syscall(long n) {
  struct timespec ts;
  LOOP(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts));
}

static uint64_t op_clock_vdso(long n) {
  struct timespec ts;
  LOOP(clock_gettime(CLOCK_MONOTONIC, &ts));
}

static uint64_t op_yield(long n) { LOOP(sched_yield()); }

static uint64_t op_nanosleep(long n) {
  struct timespec ts = {0, 50000};
  LOOP(nanosleep(&ts, NULL));
}

// Hand-overs between threads and processes: one operation is there and back.

static _Atomic uint32_t *word;

static void word_wait(uint32_t old) {
  while (atomic_load(word) == old) syscall(SYS_futex, word, FUTEX_WAIT, old, NULL, NULL, 0);
}

static void word_set(uint32_t v) {
  atomic_store(word, v);
  syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void *futex_peer(void *unused) {
  for (; !unused;) {
    word_wait(0);
    word_set(0);
  }
  return NULL;
}

static uint64_t op_futex(long n) {
  static _Atomic uint32_t w;
  if (!word) {
    // On two CPUs the threads may be so quick that neither ever sleeps, which
    // is another thing to measure.
    cpu_set_t may, one;
    must(!sched_getaffinity(0, sizeof may, &may), "sched_getaffinity");
    int cpu = 0;
    while (!CPU_ISSET(cpu, &may)) cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    must(!sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
    word = &w;
    pthread_t t;
    must(!pthread_create(&t, NULL, futex_peer, NULL), "pthread_create");
  }
  LOOP(word_set(1); word_wait(1));
}

static uint64_t op_futex_wake(long n) {
  static _Atomic uint32_t nobody;
  LOOP(must(!syscall(SYS_futex, &nobody, FUTEX_WAKE, 1, NULL, NULL, 0), "futex"));
}

// echo starts a process that sends back on out each byte that comes from in.
// It ends when the other ends are closed, which are not its own.
static void echo(int in, int out, int other, int another) {
  pid_t pid = fork();
  must(pid >= 0, "fork");
  if (pid) return;
  close(other);
  close(another);
  char c;
  while (read(in, &c, 1) == 1) must(write(out, &c, 1) == 1, "write");
  _exit(0);
}

static uint64_t op_pipe(long n) {
  static int there[2], back[2];
  char c = 0;
  if (!there[1]) {
    must(!pipe(there) && !pipe(back), "pipe");
    echo(there[0], back[1], there[1], back[0]);
    close(there[0]);
  }
  LOOP(must(write(there[1], &c, 1) == 1 && read(back[0], &c, 1) == 1, "pipe"));
}

static uint64_t op_unix(long n) {
  static int s[2];
  char c = 0;
  if (!s[0]) {
    must(!socketpair(AF_UNIX, SOCK_STREAM, 0, s), "socketpair");
    echo(s[1], s[1], s[0], -1);
    close(s[1]);
  }
  LOOP(must(write(s[0], &c, 1) == 1 && read(s[0], &c, 1) == 1, "socket"));
}

// Threads and processes.

static void *thread(void *p) { return p; }

static uint64_t op_thread(long n) {
  LOOP({
    pthread_t t;
    must(!pthread_create(&t, NULL, thread, NULL), "pthread_create");
    pthread_join(t, NULL);
  });
}

static void reap(pid_t pid) {
  int status;
  must(waitpid(pid, &status, 0) == pid, "waitpid");
  if (status) errx(1, "a child ended with status %#x", status);
}

// Many threads that all want to run: each does a fixed amount of work.

enum { CROWD = 200, ROUNDS = 1000, STEPS = 500 };

static pthread_barrier_t barrier;
static long rounds;

// compute takes about half a microsecond.
static uint32_t compute(uint32_t x) {
  for (int i = 0; i < STEPS; i++) {
    x = x * 1664525 + 1013904223;
    __asm__ volatile("" : "+r"(x));
  }
  return x;
}

static void *crowd_reads(void *unused) {
  uint32_t x = 0;
  char c;
  (void)unused;
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  for (long i = 0; i < rounds; i++) {
    must(read(zerofd, &c, 1) == 1, "read");
    x = compute(x + c);
  }
  return NULL;
}

static void *crowd_yields(void *unused) {
  uint32_t x = 0;
  (void)unused;
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  for (long i = 0; i < rounds; i++) {
    sched_yield();
    x = compute(x);
  }
  return NULL;
}

static uint64_t crowd(void *(*member)(void *), long n) {
  pthread_t threads[CROWD];
  rounds = n ? ROUNDS : 1;
  must(!(errno = pthread_barrier_init(&barrier, NULL, CROWD + 1)), "pthread_barrier_init");
  for (int i = 0; i < CROWD; i++) {
    must(!(errno = pthread_create(&threads[i], NULL, member, NULL)), "pthread_create");
  }
  pthread_barrier_wait(&barrier); // all are there
  uint64_t start = now();
  pthread_barrier_wait(&barrier);
  for (int i = 0; i < CROWD; i++) pthread_join(threads[i], NULL);
  uint64_t took = now() - start;
  pthread_barrier_destroy(&barrier);
  return took;
}

static uint64_t op_crowd_reads(long n) { return crowd(crowd_reads, n); }
static uint64_t op_crowd_yields(long n) { return crowd(crowd_yields, n); }

static uint64_t op_fork(long n) {
  LOOP({
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (!pid) _exit(0);
    reap(pid);
  });
}

// spawn runs a command, with what it prints thrown away.
static void spawn(char **argv) {
  pid_t pid = fork();
  must(pid >= 0, "fork");
  if (!pid) {
    execv(argv[0], argv);
    err(1, "%s", argv[0]);
  }
  reap(pid);
}

static uint64_t op_exec(long n) {
  static char *argv[] = {"/bin/true", NULL};
  LOOP(spawn(argv));
}

static int output = -1; // where commands print

static uint64_t op_command(long n) {
  if (output < 0) {
    must((output = memfd_create("output", 0)) >= 0, "memfd_create");
    must(dup2(output, 1) == 1, "dup2");
  }
  must(!ftruncate(output, 0), "ftruncate");
  lseek(output, 0, SEEK_SET);
  LOOP(spawn(args));
}

// A build: C files with a header each, compiled by make, linked and run.

enum { UNITS = 100 };

static void write_file(const char *name, const char *text, int length) {
  int fd = open(name, O_CREAT | O_TRUNC | O_WRONLY, 0644);
  must(fd >= 0 && write(fd, text, length) == length && !close(fd), name);
}

// project writes the sources to the working directory.
static void project(void) {
  char name[32], text[16 << 10];
  int length;
  for (int i = 0; i < UNITS; i++) {
    length = snprintf(text, sizeof text,
        "#ifndef UNIT%1$d_H\n#define UNIT%1$d_H\n"
        "struct item%1$d {\n  struct item%1$d *left, *right;\n  long key;\n  char name[24];\n};\n"
        "long unit%1$d(long seed);\n#endif\n", i);
    snprintf(name, sizeof name, "unit%d.h", i);
    write_file(name, text, length);
    length = snprintf(text, sizeof text,
        "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include \"unit%1$d.h\"\n"
        "static struct item%1$d *insert(struct item%1$d *t, long key) {\n"
        "  if (!t) {\n"
        "    if (!(t = calloc(1, sizeof *t))) abort();\n"
        "    t->key = key;\n"
        "    snprintf(t->name, sizeof t->name, \"%%lx\", key);\n"
        "  } else if (key < t->key) {\n    t->left = insert(t->left, key);\n"
        "  } else if (key > t->key) {\n    t->right = insert(t->right, key);\n  }\n"
        "  return t;\n}\n"
        "static long sum(const struct item%1$d *t) {\n"
        "  return t ? (long)strlen(t->name) + sum(t->left) + sum(t->right) : 0;\n}\n"
        "static void drop(struct item%1$d *t) {\n"
        "  if (!t) return;\n  drop(t->left);\n  drop(t->right);\n  free(t);\n}\n"
        "static int order(const void *a, const void *b) {\n"
        "  long x = *(const long *)a, y = *(const long *)b;\n  return (x > y) - (x < y);\n}\n"
        "long unit%1$d(long seed) {\n"
        "  long keys[64];\n  struct item%1$d *t = NULL;\n"
        "  for (int i = 0; i < 64; i++) keys[i] = seed = (seed * 25214903917 + %1$d) & 0xffffff;\n"
        "  for (int i = 0; i < 64; i++) t = insert(t, keys[i]);\n"
        "  qsort(keys, 64, sizeof *keys, order);\n"
        "  long s = sum(t) + keys[0] %% 7;\n"
        "  drop(t);\n  return s;\n}\n", i);
    snprintf(name, sizeof name, "unit%d.c", i);
    write_file(name, text, length);
  }
  length = snprintf(text, sizeof text, "#include <stdio.h>\n");
  for (int i = 0; i < UNITS; i++) length += snprintf(text + length, sizeof text - length, "#include \"unit%d.h\"\n", i);
  length += snprintf(text + length, sizeof text - length, "int main(void) {\n  long s = 0;\n");
  for (int i = 0; i < UNITS; i++) length += snprintf(text + length, sizeof text - length, "  s += unit%d(s + %d);\n", i, i);
  length += snprintf(text + length, sizeof text - length, "  printf(\"%%ld\\n\", s);\n  return s <= 0;\n}\n");
  write_file("main.c", text, length);
  length = snprintf(text, sizeof text,
      "objects := $(patsubst %%.c,%%.o,$(wildcard *.c))\n"
      "result: program\n\t./program >$@\n"
      "program: $(objects)\n\tgcc -o $@ $^\n"
      "main.o: $(wildcard *.h)\n"
      "unit%%.o: unit%%.c unit%%.h\n\tgcc -O1 -Wall -c -o $@ $<\n"
      "%%.o: %%.c\n\tgcc -O1 -Wall -c -o $@ $<\n");
  write_file("Makefile", text, length);
}

// op_build's batch of 0 prepares: one of the files is compiled then, so that
// the compiler itself has been read.
static uint64_t op_build(long n) {
  static char *one[] = {"/usr/bin/make", "-s", "unit0.o", NULL};
  static char *all[] = {"/usr/bin/make", "-s", "-j4", "result", NULL};
  if (!n) {
    if (access("/usr/bin/make", X_OK) || access("/usr/bin/gcc", X_OK)) errx(3, "the image has no make and gcc");
    char here[] = "build-XXXXXX";
    must(!chdir(dir) && mkdtemp(here) && !chdir(here), dir);
    must(!setenv("TMPDIR", ".", 1), "setenv");
    project();
    spawn(one);
    must(!unlink("unit0.o"), "unit0.o");
    return 0;
  }
  uint64_t start = now();
  spawn(all);
  uint64_t took = now() - start;
  struct stat st;
  must(!stat("result", &st) && st.st_size > 1, "result");
  return took;
}

// Memory.

enum { PAGE = 4096, REGION = 4096 };

static char *map(size_t size) {
  char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(p != MAP_FAILED, "mmap");
  return p;
}

static uint64_t op_mmap(long n) {
  LOOP({
    char *p = map(1 << 20);
    for (long off = 0; off < 1 << 20; off += PAGE) p[off] = 1;
    must(!munmap(p, 1 << 20), "munmap");
  });
}

// The two of page faults touch each page of a fresh region, in two orders; main
// divides.
static int order[REGION];

static uint64_t touch(long n) {
  uint64_t sum = 0;
  for (long i = 0; i < n; i++) {
    char *p = map(REGION * PAGE);
    uint64_t start = now();
    for (long j = 0; j < REGION; j++) p[order[j] * PAGE] = 1;
    sum += now() - start;
    munmap(p, REGION * PAGE);
  }
  return sum;
}

static uint64_t op_fault_sequential(long n) {
  for (int i = 0; i < REGION; i++) order[i] = i;
  return touch(n);
}

static uint64_t op_fault_random(long n) {
  srandom(1);
  for (int i = 0; i < REGION; i++) {
    int j = random() % (i + 1);
    order[i] = order[j];
    order[j] = i;
  }
  return touch(n);
}

// Signals.

static volatile sig_atomic_t got;

static void handler(int sig) {
  (void)sig;
  got++;
}

static uint64_t op_signal(long n) {
  static int set;
  if (!set++) signal(SIGUSR1, handler);
  pid_t pid = getpid(), tid = gettid();
  long want = got + n;
  uint64_t start = now();
  for (long i = 0; i < n; i++) tgkill(pid, tid, SIGUSR1);
  uint64_t took = now() - start;
  if (got != want) errx(1, "%ld signals were lost", want - got);
  return took;
}

// Files.

enum { FILES = 1000 };
static char *files[FILES];
static int nfiles;

static int collect(const char *path, const struct stat *st, int type, struct FTW *ftw) {
  (void)st;
  (void)ftw;
  if (type == FTW_F && nfiles < FILES) files[nfiles++] = strdup(path);
  return nfiles == FILES;
}

static uint64_t op_stat(long n) {
  static int next;
  struct stat st;
  if (!nfiles) {
    nftw("/usr", collect, 16, FTW_PHYS);
    if (nfiles < FILES) errx(1, "/usr has only %d files", nfiles);
    for (int i = 0; i < nfiles; i++) must(!stat(files[i], &st), files[i]);
  }
  LOOP(must(!stat(files[next++ % FILES], &st), "stat"));
}

static uint64_t op_open(long n) {
  char buf[PAGE];
  LOOP({
    int fd = open("/etc/debian_version", O_RDONLY);
    must(fd >= 0, "/etc/debian_version");
    must(read(fd, buf, sizeof buf) > 0, "read");
    close(fd);
  });
}

static uint64_t create(int dir, long n) {
  LOOP({
    int fd = openat(dir, "created", O_CREAT | O_EXCL | O_WRONLY, 0644);
    must(fd >= 0, "create");
    close(fd);
    must(!unlinkat(dir, "created", 0), "unlink");
  });
}

static uint64_t op_create_root(long n) { return create(dirfd, n); }
static uint64_t op_create_tmpfs(long n) { return create(tmpfd, n); }

static uint64_t op_pread(long n) {
  static int fd = -1;
  static long pages;
  char buf[PAGE];
  if (fd < 0) {
    // The largest file that every Debian with python3 has.
    must((fd = open("/usr/bin/python3.11", O_RDONLY)) >= 0, "/usr/bin/python3.11");
    struct stat st;
    must(!fstat(fd, &st), "fstat");
    pages = st.st_size / PAGE;
    for (long i = 0; i < pages; i++) must(pread(fd, buf, PAGE, i * PAGE) == PAGE, "pread");
    srandom(1);
  }
  LOOP(must(pread(fd, buf, PAGE, random() % pages * PAGE) == PAGE, "pread"));
}

// Sequential data, 1 MiB a call.

enum { BIG = 256 << 20, CHUNK = 1 << 20 };

static uint64_t big_write(int dir) {
  static char *buf;
  if (!buf) {
    buf = map(CHUNK);
    memset(buf, 'x', CHUNK);
  }
  int fd = openat(dir, "big", O_CREAT | O_TRUNC | O_WRONLY, 0644);
  must(fd >= 0, "big");
  uint64_t start = now();
  for (long off = 0; off < BIG; off += CHUNK) must(write(fd, buf, CHUNK) == CHUNK, "write");
  uint64_t took = now() - start;
  close(fd);
  return took;
}

static uint64_t big_read(int dir) {
  static int written;
  static char *buf;
  if (!written++) {
    big_write(dir);
    buf = map(CHUNK);
    memset(buf, 'x', CHUNK);
  }
  int fd = openat(dir, "big", O_RDONLY);
  must(fd >= 0, "big");
  uint64_t start = now();
  for (long off = 0; off < BIG; off += CHUNK) must(read(fd, buf, CHUNK) == CHUNK, "read");
  uint64_t took = now() - start;
  close(fd);
  return took;
}

static uint64_t op_write_root(long n) {
  (void)n;
  return big_write(dirfd);
}
static uint64_t op_write_tmpfs(long n) {
  (void)n;
  return big_write(tmpfd);
}
static uint64_t op_read_root(long n) {
  (void)n;
  return big_read(dirfd);
}
static uint64_t op_read_tmpfs(long n) {
  (void)n;
  return big_read(tmpfd);
}

static const struct operation {
  const char *name;
  batch *batch;
  long parts; // operations that a batch of 1 is, or bytes
  // ONCE: never more than one in a batch. SINGLE: only one at all, prepared by a
  // batch of 0.
  enum { NANOSECONDS, BYTES, ONCE, SINGLE } kind;
} operations[] = {
    {"getpid", op_getpid, 1, NANOSECONDS},
    {"getpid-inline", op_getpid_inline, 1, NANOSECONDS},
    {"read", op_read, 1, NANOSECONDS},
    {"clock-syscall", op_clock_syscall, 1, NANOSECONDS},
    {"clock-vdso", op_clock_vdso, 1, NANOSECONDS},
    {"yield", op_yield, 1, NANOSECONDS},
    {"nanosleep", op_nanosleep, 1, NANOSECONDS},
    {"futex", op_futex, 1, NANOSECONDS},
    {"futex-wake", op_futex_wake, 1, NANOSECONDS},
    {"pipe", op_pipe, 1, NANOSECONDS},
    {"unix", op_unix, 1, NANOSECONDS},
    {"thread", op_thread, 1, NANOSECONDS},
    {"crowd-reads", op_crowd_reads, 1, SINGLE},
    {"crowd-yields", op_crowd_yields, 1, SINGLE},
    {"build", op_build, 1, SINGLE},
    {"fork", op_fork, 1, NANOSECONDS},
    {"exec", op_exec, 1, NANOSECONDS},
    {"command", op_command, 1, ONCE},
    {"mmap", op_mmap, 1, NANOSECONDS},
    {"fault-sequential", op_fault_sequential, REGION, ONCE},
    {"fault-random", op_fault_random, REGION, ONCE},
    {"signal", op_signal, 1, NANOSECONDS},
    {"stat", op_stat, 1, NANOSECONDS},
    {"open", op_open, 1, NANOSECONDS},
    {"create-root", op_create_root, 1, NANOSECONDS},
    {"create-tmpfs", op_create_tmpfs, 1, NANOSECONDS},
    {"pread", op_pread, 1, NANOSECONDS},
    {"write-root", op_write_root, BIG, BYTES},
    {"read-root", op_read_root, BIG, BYTES},
    {"write-tmpfs", op_write_tmpfs, BIG, BYTES},
    {"read-tmpfs", op_read_tmpfs, BIG, BYTES},
};

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double measure(const struct operation *op) {
  enum { MAX = 4096, MIN = 5, BATCH = 1000000 /* ns */ };
  static double samples[MAX];
  int count = 0;
  long n = 1;

  if (op->kind == SINGLE) {
    op->batch(0);
    return op->batch(1);
  }
  // The first one prepares; then batches grow to about a millisecond.
  op->batch(1);
  if (op->kind == NANOSECONDS) {
    while (n < 1 << 20 && op->batch(n) < BATCH / 2) n *= 2;
  }
  uint64_t end = now() + budget * 1000000ull;
  do {
    samples[count++] = (double)op->batch(n) / n;
  } while (count < MAX && (count < MIN || now() < end));

  qsort(samples, count, sizeof *samples, ascending);
  double took = samples[count / 10];
  return op->kind == BYTES ? op->parts / took * 1e9 : took / op->parts;
}

// count does n operations between two bytes from standard input.
static void count(const struct operation *op, int out, long n) {
  char c;
  n = (n + op->parts - 1) / op->parts;
  op->batch(1);
  op->batch(n / 10 + 1); // what happens only to the first ones, such as rewriting of code
  dprintf(out, "ready\n");
  must(read(0, &c, 1) == 1, "standard input");
  op->batch(n);
  dprintf(out, "done\n");
  must(read(0, &c, 1) == 1, "standard input");
}

int main(int argc, char **argv) {
  const char *root = NULL;
  long counted = 0;
  int c;
  while ((c = getopt(argc, argv, "+r:d:t:m:c:")) != -1) {
    switch (c) {
      case 'r':
        root = optarg;
        break;
      case 'd':
        dir = optarg;
        must((dirfd = open(optarg, O_RDONLY | O_DIRECTORY)) >= 0, optarg);
        break;
      case 't':
        must((tmpfd = open(optarg, O_RDONLY | O_DIRECTORY)) >= 0, optarg);
        break;
      case 'm':
        budget = atol(optarg);
        break;
      case 'c':
        counted = atol(optarg);
        break;
      default:
        return 2;
    }
  }
  if (optind == argc) errx(2, "no operation");
  must((zerofd = open("/dev/zero", O_RDONLY)) >= 0, "/dev/zero");
  if (root) {
    must(!unshare(CLONE_NEWNS) && !mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "mount namespace");
    must(!chdir(root), root);
    if (dir) must(!mount(dir, "var/tmp", NULL, MS_BIND, NULL), dir);
    must(!chroot(".") && !chdir("/"), root);
    dir = "/var/tmp";
  }
  args = argv + optind + 1;
  for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
    const struct operation *op = &operations[i];
    if (strcmp(op->name, argv[optind])) continue;
    int out = dup(1);
    if (counted > 0) {
      count(op, out, counted);
    } else {
      dprintf(out, "%.2f\n", measure(op));
    }
    if (dirfd >= 0) unlinkat(dirfd, "big", 0);
    if (tmpfd >= 0) unlinkat(tmpfd, "big", 0);
    return 0;
  }
  errx(2, "no operation %s", argv[optind]);
}
