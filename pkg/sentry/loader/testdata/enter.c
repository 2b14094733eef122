// Puts an image of an address space in place and jumps into it, as the last
// part of execve(2) would. Usage: enter FILE ENTRY STACK. FILE holds records of
// three 64-bit words (address, length, access) and so many bytes of content.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void all(int fd, void *to, size_t n) {
	for (char *p = to; n > 0;) {
		ssize_t got = read(fd, p, n);
		if (got <= 0)
			_exit(120);
		p += got;
		n -= got;
	}
}

int main(int argc, char **argv) {
	if (argc != 4)
		return 121;
	int fd = open(argv[1], O_RDONLY);
	uint64_t r[3];
	while (read(fd, r, sizeof r) == sizeof r) {
		void *at = (void *)r[0];
		if (mmap(at, r[1], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != at) {
			perror("mmap");
			return 122;
		}
		all(fd, at, r[1]);
		if (mprotect(at, r[1], (int)r[2]) != 0) {
			perror("mprotect");
			return 123;
		}
	}
	close(fd);
	uint64_t entry = strtoull(argv[2], 0, 0), stack = strtoull(argv[3], 0, 0);
	__asm__ volatile("mov %0, %%rsp; xor %%edx, %%edx; xor %%ebp, %%ebp; jmp *%1" : : "r"(stack), "r"(entry) : "memory");
	__builtin_unreachable();
}
