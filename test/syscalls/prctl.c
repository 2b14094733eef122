/* prctl(2). */
#include "tap.h"

TEST(name)
{
	char n[17] = "", comm[32];
	CHECK_OK(prctl(PR_SET_NAME, "a-rather-long-name"));
	CHECK_OK(prctl(PR_GET_NAME, n));
	CHECK_STR(n, "a-rather-long-n"); /* 15 bytes and a zero */
	tap_read_file("/proc/self/comm", comm, sizeof comm);
	CHECK_STR(comm, "a-rather-long-n\n");
	CHECK_OK(tap_write_file("/proc/self/comm", "other"));
	prctl(PR_GET_NAME, n);
	CHECK_STR(n, "other");
	CHECK_ERRNO(prctl(PR_SET_NAME, 8), EFAULT);
}

TEST(pdeathsig)
{
	int sig = 77;
	CHECK_OK(prctl(PR_GET_PDEATHSIG, &sig));
	CHECK_EQ(sig, 0);
	CHECK_ERRNO(prctl(PR_SET_PDEATHSIG, 65), EINVAL);
	struct tap_gate ready = tap_gate_new(), dead = tap_gate_new();
	IN_CHILD
	{
		if (tap_fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGTERM);
			prctl(PR_GET_PDEATHSIG, &sig);
			close(dead.fd[0]);
			tap_gate_open(ready);
			for (;;)
				pause();
		}
		close(dead.fd[1]);
		tap_gate_wait(ready);
	}
	close(dead.fd[1]);
	char c;
	CHECK_EQ(read(dead.fd[0], &c, 1), 0); /* ended with its parent: the pipe is closed */
	prctl(PR_SET_PDEATHSIG, SIGUSR1);
	IN_CHILD
	{
		prctl(PR_GET_PDEATHSIG, &sig);
		CHECK_EQ(sig, 0); /* cleared for a child */
	}
	prctl(PR_SET_PDEATHSIG, 0);
	tap_gate_free(ready);
	close(dead.fd[0]);
}

TEST(subreaper)
{
	int on = 77;
	CHECK_OK(prctl(PR_GET_CHILD_SUBREAPER, &on));
	CHECK_EQ(on, 0);
	CHECK_OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
	prctl(PR_GET_CHILD_SUBREAPER, &on);
	CHECK_EQ(on, 1);
	struct tap_gate go = tap_gate_new();
	pid_t middle = tap_fork();
	if (middle == 0) {
		prctl(PR_GET_CHILD_SUBREAPER, &on);
		if (on != 0)
			_exit(1); /* not inherited */
		if (tap_fork() == 0) {
			tap_gate_wait(go);
			_exit(44);
		}
		_exit(0);
	}
	CHECK_EQ(tap_reap(middle), 0);
	tap_gate_open(go);
	int status = 0;
	CHECK(wait(&status) > 0); /* the grandchild came to us */
	CHECK_EQ(WEXITSTATUS(status), 44);
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	tap_gate_free(go);
}

TEST(dumpable_and_no_new_privs)
{
	CHECK_EQ(prctl(PR_GET_DUMPABLE), 1);
	IN_CHILD
	{
		CHECK_OK(prctl(PR_SET_DUMPABLE, 0));
		CHECK_EQ(prctl(PR_GET_DUMPABLE), 0);
		CHECK_ERRNO(prctl(PR_SET_DUMPABLE, 2), EINVAL);
		CHECK_OK(prctl(PR_SET_DUMPABLE, 1));
		CHECK_OK(syscall(SYS_setresuid, -1, 12345, -1));
		CHECK(prctl(PR_GET_DUMPABLE) != 1); /* a change of ids takes it away */
	}
	CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
	CHECK_ERRNO(prctl(PR_SET_NO_NEW_PRIVS, 2, 0, 0, 0), EINVAL);
	CHECK_ERRNO(prctl(PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0), EINVAL);
	IN_CHILD
	{
		CHECK_OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
		CHECK_ERRNO(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL); /* there is no way back */
		IN_CHILD
		{
			CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
		}
	}
}

TEST(various)
{
	CHECK_ERRNO(prctl(9999, 0, 0, 0, 0), EINVAL);
	CHECK_EQ(prctl(PR_GET_TIMING), PR_TIMING_STATISTICAL);
	CHECK_ERRNO(prctl(PR_SET_TIMING, PR_TIMING_TIMESTAMP), EINVAL);
	int slack = prctl(PR_GET_TIMERSLACK);
	CHECK(slack > 0);
	IN_CHILD
	{
		CHECK_OK(prctl(PR_SET_TIMERSLACK, 12345));
		CHECK_EQ(prctl(PR_GET_TIMERSLACK), 12345);
		prctl(PR_SET_TIMERSLACK, 0); /* back to the default */
		CHECK(prctl(PR_GET_TIMERSLACK) > 0);
	}
	int *tid = NULL;
	int r = prctl(PR_GET_TID_ADDRESS, &tid);
	CHECK((r == 0 && tid != NULL) || errno == EINVAL); /* needs CONFIG_CHECKPOINT_RESTORE */
}
