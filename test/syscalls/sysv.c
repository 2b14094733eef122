/* System V IPC (sysvipc(7)): shared memory, semaphores, message queues. */
#include "tap.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#define NEED(id)                                                                                   \
	if ((id) == -1 && errno == ENOSYS)                                                         \
	SKIP("no System V IPC")

TEST(shm)
{
	int id = shmget(IPC_PRIVATE, 5000, IPC_CREAT | 0600);
	NEED(id);
	char *a = shmat(id, NULL, 0);
	REQUIRE(a != (void *)-1);
	struct shmid_ds d;
	CHECK_OK(shmctl(id, IPC_STAT, &d));
	CHECK_EQ(d.shm_segsz, 5000);
	CHECK_EQ(d.shm_nattch, 1);
	CHECK_EQ(d.shm_cpid, getpid());
	CHECK_EQ(d.shm_perm.mode & 0777, 0600);
	a[0] = 1;
	IN_CHILD
	{
		a[0] = 2; /* attached through the fork */
		shmctl(id, IPC_STAT, &d);
		CHECK_EQ(d.shm_nattch, 2);
		char *b = shmat(id, NULL, SHM_RDONLY);
		CHECK_EQ(b[0], 2);
		CHECK_EQ(FAULT_STORE(b), SIGSEGV);
	}
	CHECK_EQ(a[0], 2);
	CHECK_OK(shmctl(id, IPC_RMID, NULL));
	a[4096] = 3; /* lives until the last detach */
	CHECK_OK(shmctl(id, IPC_STAT, &d));
	CHECK(d.shm_perm.mode & SHM_DEST);
	CHECK_OK(shmdt(a));
	CHECK_ERRNO(shmctl(id, IPC_STAT, &d), EINVAL);
	CHECK_ERRNO(shmdt(a), EINVAL);
	CHECK_ERRNO((long)shmat(id, NULL, 0), EINVAL);
	CHECK_ERRNO(shmget(IPC_PRIVATE, 0, IPC_CREAT | 0600), EINVAL);
}

TEST(identifiers_are_not_used_again_at_once)
{
	int first = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
	NEED(first);
	CHECK_OK(msgctl(first, IPC_RMID, NULL));
	int second = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
	CHECK(second >= 0 && second != first);
	CHECK_ERRNO(msgctl(first, IPC_RMID, NULL), EINVAL);
	CHECK_OK(msgctl(second, IPC_RMID, NULL));
}

TEST(shm_keys)
{
	key_t key = 0x56545000 + getpid();
	int id = shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0600);
	NEED(id);
	CHECK_EQ(shmget(key, 4096, 0), id);
	CHECK_EQ(shmget(key, 100, 0), id);
	CHECK_ERRNO(shmget(key, 8192, 0), EINVAL); /* larger than it is */
	CHECK_ERRNO(shmget(key, 4096, IPC_CREAT | IPC_EXCL), EEXIST);
	CHECK_ERRNO(shmget(key + 0x100000, 4096, 0), ENOENT);
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_ERRNO(shmget(key, 4096, 0600), EACCES);
		CHECK_ERRNO(shmctl(id, IPC_RMID, NULL), EPERM);
		CHECK_ERRNO((long)shmat(id, NULL, 0), EACCES);
	}
	char *want = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(want, 8192);
	CHECK(shmat(id, want, 0) == want);
	CHECK_ERRNO((long)shmat(id, want + 1, 0), EINVAL);
	CHECK_ERRNO((long)shmat(id, want, 0), EINVAL); /* taken */
	CHECK(shmat(id, want, SHM_REMAP) == want);
	shmdt(want);
	CHECK_OK(shmctl(id, IPC_RMID, NULL));
	CHECK_ERRNO(shmget(key, 4096, 0), ENOENT);
}

static int op(int id, int num, int n, int flags)
{
	struct sembuf b = {num, n, flags};
	return semop(id, &b, 1);
}

TEST(sem)
{
	int id = semget(IPC_PRIVATE, 3, IPC_CREAT | 0600);
	NEED(id);
	CHECK_OK(semctl(id, 0, SETVAL, 2));
	CHECK_EQ(semctl(id, 0, GETVAL), 2);
	CHECK_OK(op(id, 0, -1, 0));
	CHECK_EQ(semctl(id, 0, GETVAL), 1);
	CHECK_ERRNO(op(id, 0, -2, IPC_NOWAIT), EAGAIN);
	CHECK_ERRNO(op(id, 0, 0, IPC_NOWAIT), EAGAIN); /* waits for zero */
	CHECK_OK(op(id, 1, 0, IPC_NOWAIT));
	CHECK_EQ(semctl(id, 0, GETPID), getpid());
	/* All or nothing. */
	struct sembuf both[] = {{0, -1, IPC_NOWAIT}, {1, -1, IPC_NOWAIT}};
	CHECK_ERRNO(semop(id, both, 2), EAGAIN);
	CHECK_EQ(semctl(id, 0, GETVAL), 1);
	unsigned short all[3] = {4, 5, 6};
	CHECK_OK(semctl(id, 0, SETALL, all));
	memset(all, 0, sizeof all);
	CHECK_OK(semctl(id, 0, GETALL, all));
	CHECK(all[0] == 4 && all[2] == 6);
	CHECK_ERRNO(op(id, 3, 1, 0), EFBIG);
	CHECK_ERRNO(op(id, 0, 32767, 0), ERANGE);
	CHECK_ERRNO(semctl(id, 3, GETVAL), EINVAL);
	CHECK_ERRNO(semctl(id, 0, SETVAL, 32768), ERANGE);
	CHECK_ERRNO(semop(id, both, 0), EINVAL);
	struct timespec t = {0, 1000000};
	struct sembuf much = {0, -100, 0};
	CHECK_ERRNO(semtimedop(id, &much, 1, &t), EAGAIN);
	/* SEM_UNDO gives back at exit. */
	IN_CHILD
	{
		CHECK_OK(op(id, 0, -3, SEM_UNDO));
		CHECK_EQ(semctl(id, 0, GETVAL), 1);
	}
	CHECK_EQ(semctl(id, 0, GETVAL), 4);
	/* A waiter is released by a change, and told of removal. */
	semctl(id, 0, SETVAL, 0);
	pid_t child = tap_fork();
	if (child == 0)
		_exit(op(id, 0, -1, 0) == 0 ? 0 : 1);
	while (semctl(id, 0, GETNCNT) != 1)
		sched_yield();
	op(id, 0, 1, 0);
	CHECK_EQ(tap_reap(child), 0);
	child = tap_fork();
	if (child == 0)
		_exit(op(id, 0, -1, 0) == -1 && errno == EIDRM ? 0 : 1);
	while (semctl(id, 0, GETNCNT) != 1)
		sched_yield();
	CHECK_OK(semctl(id, 0, IPC_RMID));
	CHECK_EQ(tap_reap(child), 0);
	CHECK_ERRNO(op(id, 0, 1, 0), EINVAL);
}

TEST(msg)
{
	struct {
		long type;
		char text[16];
	} m = {1, "one"}, r;
	int q = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
	NEED(q);
	CHECK_OK(msgsnd(q, &m, 4, 0));
	m.type = 3, strcpy(m.text, "three");
	CHECK_OK(msgsnd(q, &m, 6, 0));
	m.type = 2, strcpy(m.text, "two");
	CHECK_OK(msgsnd(q, &m, 4, 0));
	CHECK_EQ(msgrcv(q, &r, 16, 3, 0), 6); /* of that type */
	CHECK_STR(r.text, "three");
	CHECK_EQ(msgrcv(q, &r, 16, -2, 0), 4); /* the lowest type up to 2 */
	CHECK_EQ(r.type, 1);
	CHECK_ERRNO(msgrcv(q, &r, 2, 0, 0), E2BIG);
	CHECK_EQ(msgrcv(q, &r, 2, 0, MSG_NOERROR), 2);
	CHECK_ERRNO(msgrcv(q, &r, 16, 0, IPC_NOWAIT), ENOMSG);
	m.type = 0;
	CHECK_ERRNO(msgsnd(q, &m, 4, 0), EINVAL);
	m.type = 5;
	CHECK_OK(msgsnd(q, &m, 0, 0)); /* an empty text */
	CHECK_EQ(msgrcv(q, &r, 16, 4, MSG_EXCEPT), 0);
	struct msqid_ds d;
	CHECK_OK(msgctl(q, IPC_STAT, &d));
	CHECK_EQ(d.msg_qnum, 0);
	d.msg_qbytes = 16;
	CHECK_OK(msgctl(q, IPC_SET, &d));
	CHECK_OK(msgsnd(q, &m, 10, 0));
	CHECK_ERRNO(msgsnd(q, &m, 10, IPC_NOWAIT), EAGAIN);
	pid_t child = tap_fork();
	if (child == 0)
		_exit(msgsnd(q, &m, 10, 0) == 0 ? 0 : 1); /* waits for room */
	CHECK_EQ(msgrcv(q, &r, 16, 0, 0), 10);
	CHECK_EQ(msgrcv(q, &r, 16, 0, 0), 10);
	CHECK_EQ(tap_reap(child), 0);
	CHECK_OK(msgctl(q, IPC_RMID, NULL));
	CHECK_ERRNO(msgsnd(q, &m, 1, 0), EINVAL);
}
