# A program of several files: compiled, linked to a library of its own, run.
mkdir /tmp/prog && cd /tmp/prog
cat >Makefile <<'END'
CFLAGS = -O2 -Wall -fPIC -g
prog: main.o libcalc.so
	$(CC) -o $@ main.o -L. -lcalc -lm -lpthread -Wl,-rpath,'$$ORIGIN'
static: main.o fib.o sort.o
	$(CC) -static -o $@ $^ -lm -lpthread
libcalc.so: fib.o sort.o
	$(CC) -shared -o $@ $^
%.o: %.c calc.h
	$(CC) $(CFLAGS) -c -o $@ $<
clean:
	rm -f *.o *.so prog static
.PHONY: clean
END
cat >calc.h <<'END'
long fib(int n);
void sort(int *a, int n);
END
cat >fib.c <<'END'
#include "calc.h"
long fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
END
cat >sort.c <<'END'
#include <stdlib.h>
#include "calc.h"
static int less(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
void sort(int *a, int n) { qsort(a, n, sizeof *a, less); }
END
cat >main.c <<'END'
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include "calc.h"
static void *work(void *p) { *(long *)p = fib(*(long *)p); return NULL; }
static sigjmp_buf env;
static void on_segv(int sig) { siglongjmp(env, sig); }
static _Thread_local int local = 5;
int main(int argc, char **argv) {
	pthread_t t[4]; long n[4];
	for (int i = 0; i < 4; i++) { n[i] = 20 + i; pthread_create(&t[i], NULL, work, &n[i]); }
	for (int i = 0; i < 4; i++) { pthread_join(t[i], NULL); printf("%ld\n", n[i]); }
	int a[1000]; for (int i = 0; i < 1000; i++) a[i] = i * 7919 % 1000;
	sort(a, 1000); printf("%d %d %.10f\n", a[0], a[999], sin(1));
	signal(SIGSEGV, on_segv);
	int s = sigsetjmp(env, 1);
	if (!s) *(volatile int *)16 = 1;
	printf("caught %s, %d arguments, %d\n", strsignal(s), argc - 1, local);
	FILE *f = fopen("/nonexistent", "r"); printf("%p %s\n", (void *)f, strerror(errno));
	return a[3];
}
END
make -j2 >log 2>&1; echo "make $?"; LC_ALL=C sort log
./prog a b; echo $?
make static; ./static; echo $?
ldd prog | sed 's/ (0x.*//'
touch fib.c; make; make; make clean; ls
printf 'int main() { return x; }\n' >bad.c; gcc bad.c; echo $?
echo '#include <stdio.h>
int main(void) { int *p = 0; puts("before"); fflush(stdout); return *p; }' >crash.c; exec 3>&2 2>/dev/null; gcc -o crash crash.c && ./crash; echo $?; exec 2>&3
nm -D libcalc.so 2>/dev/null; objdump -d static | wc -l >/dev/null; echo 'int x;' | gcc -S -xc -o - - | head -5
