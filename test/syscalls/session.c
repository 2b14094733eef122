/* Process groups and sessions: setpgid(2), setsid(2), getpgid(2), getsid(2), orphaned groups. */
#include "tap.h"

TEST(setsid)
{
	IN_CHILD
	{
		pid_t old = getsid(0);
		CHECK_EQ(setsid(), getpid());
		CHECK_EQ(getsid(0), getpid());
		CHECK_EQ(getpgrp(), getpid());
		CHECK(getsid(0) != old);
		CHECK_ERRNO(setsid(), EPERM); /* already a group leader */
		CHECK_ERRNO(setpgid(0, 0), EPERM); /* a session leader stays */
		CHECK_ERRNO(open("/dev/tty", O_RDWR), ENXIO); /* no terminal */
		IN_CHILD
		{
			CHECK_EQ(getsid(0), getppid());
			CHECK_EQ(getpgrp(), getppid());
			CHECK_OK(setpgid(0, 0));
			CHECK_EQ(getpgrp(), getpid());
			CHECK_OK(setpgid(0, 0));
			CHECK_ERRNO(setsid(), EPERM); /* a group leader now */
			CHECK_OK(setpgid(0, getppid()));
			CHECK(setsid() == getpid());
		}
	}
}

TEST(setpgid_of_children)
{
	struct tap_gate hold = tap_gate_new();
	IN_CHILD
	{
		setsid();
		pid_t a = tap_fork();
		if (a == 0) {
			tap_gate_wait(hold);
			_exit(0);
		}
		pid_t b = tap_fork();
		if (b == 0) {
			tap_gate_wait(hold);
			_exit(0);
		}
		CHECK_OK(setpgid(a, a));
		CHECK_OK(setpgid(b, a));
		CHECK_EQ(getpgid(b), a);
		CHECK_ERRNO(setpgid(b, 999999), EPERM); /* no such group in the session */
		CHECK_ERRNO(setpgid(b, -1), EINVAL);
		CHECK_ERRNO(setpgid(-1, 0), EINVAL);
		CHECK_ERRNO(setpgid(999999, 0), ESRCH);
		CHECK_ERRNO(setpgid(getppid(), 0), ESRCH); /* neither self nor child */
		CHECK_OK(kill(-a, 0));
		CHECK_OK(setpgid(b, 0));
		CHECK_EQ(getpgid(b), b);
		tap_gate_open(hold);
		tap_gate_open(hold);
		tap_reap(a), tap_reap(b);
		CHECK_ERRNO(kill(-a, 0), ESRCH); /* the group is gone with its last member */
		CHECK_ERRNO(getpgid(a), ESRCH);
	}
	CHECK_ERRNO(getpgid(999999), ESRCH);
	CHECK_ERRNO(getsid(999999), ESRCH);
	CHECK_ERRNO(getpgid(-1), ESRCH);
	CHECK_EQ(getpgid(0), getpgrp());
	CHECK_EQ(getpgid(getpid()), getpgrp());
	tap_gate_free(hold);
}

TEST(after_exec_and_other_sessions)
{
	struct tap_gate ready = tap_gate_new(), hold = tap_gate_new();
	pid_t other = tap_fork();
	if (other == 0) {
		setsid();
		tap_gate_open(ready);
		tap_gate_wait(hold);
		_exit(0);
	}
	tap_gate_wait(ready);
	CHECK_ERRNO(setpgid(other, getpgrp()), EPERM); /* in another session */
	CHECK_EQ(getsid(other), other);
	IN_CHILD
	{
		CHECK_ERRNO(setpgid(0, other), EPERM);
	}
	tap_gate_open(hold);
	tap_reap(other);
	/* A child that has executed is out of reach: EACCES. */
	int p[2];
	pipe2(p, O_CLOEXEC);
	pid_t child = tap_fork();
	if (child == 0) {
		tap_gate_free(hold);
		dup2(open("/dev/null", O_RDWR), 1);
		execl(tap_self, "session", "no-such-case", NULL);
		_exit(1);
	}
	close(p[1]);
	char c;
	CHECK_EQ(read(p[0], &c, 1), 0); /* closed by the exec */
	int r = setpgid(child, child);
	CHECK(r == -1 && (errno == EACCES || errno == ESRCH));
	tap_reap(child);
	close(p[0]);
	tap_gate_free(ready), tap_gate_free(hold);
}

static volatile sig_atomic_t hups, conts;
static void count(int sig)
{
	if (sig == SIGHUP)
		hups++;
	else
		conts++;
}

TEST(orphaned_group_is_told)
{
	/* When a group with a stopped member becomes orphaned, it gets SIGHUP and SIGCONT
	 * (setpgid(2), exit(3)). */
	struct tap_gate result = tap_gate_new(), ready = tap_gate_new();
	IN_CHILD
	{
		prctl(PR_SET_CHILD_SUBREAPER, 1); /* so that the orphan comes to us */
		pid_t middle = tap_fork();
		if (middle == 0) {
			setsid();
			pid_t stopped = tap_fork();
			if (stopped == 0) {
				setpgid(0, 0);
				signal(SIGHUP, count);
				signal(SIGCONT, count);
				raise(SIGSTOP);
				char got[2] = {hups, conts};
				write(result.fd[1], got, 2);
				_exit(0);
			}
			int status;
			waitpid(stopped, &status, WUNTRACED);
			_exit(WIFSTOPPED(status) ? 0 : 1);
		}
		CHECK_EQ(tap_reap(middle), 0);
		char got[2] = {0, 0};
		CHECK_EQ(read(result.fd[0], got, 2), 2);
		CHECK_EQ(got[0], 1);
		CHECK_EQ(got[1], 1);
		wait(NULL);
	}
	tap_gate_free(result), tap_gate_free(ready);
}

TEST(orphaned_group_does_not_stop)
{
	/* SIGTSTP, SIGTTIN and SIGTTOU do not stop a member of an orphaned group; SIGSTOP does. */
	IN_CHILD
	{
		pid_t leader = tap_fork();
		if (leader == 0) {
			setsid(); /* a session of its own: orphaned by definition */
			raise(SIGTSTP);
			raise(SIGTTIN);
			_exit(33);
		}
		int status = 0;
		CHECK_EQ(waitpid(leader, &status, WUNTRACED), leader);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 33);
	}
}

TEST(children_of_a_containers_init_stop)
{
	/* A shell that is the first process of a PID namespace has job control: only the host's own init doesn't count as
	 * the parent that keeps a group from being an orphan. */
	int status;
	IN_CHILD
	{
		if (unshare(CLONE_NEWPID) == -1)
			_exit(errno == EPERM ? 0 : 1);
		pid_t init = fork();
		if (init == 0) {
			setsid();
			pid_t job = fork();
			if (job == 0) {
				setpgid(0, 0);
				for (;;)
					pause();
			}
			setpgid(job, job);
			kill(job, SIGTSTP);
			for (int i = 0; i < 500; i++) {
				if (waitpid(job, &status, WUNTRACED | WNOHANG) == job)
					_exit(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP ? 17 : 2);
				usleep(10000);
			}
			_exit(3);
		}
		CHECK_EQ(waitpid(init, &status, 0), init);
		CHECK_EQ(WEXITSTATUS(status), 17);
	}
}
