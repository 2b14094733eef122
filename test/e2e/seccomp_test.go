package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"vitrine/pkg/abi/linux"
)

// typicalProfile is one of the shape that engines send: what isn't named gets
// EPERM; nearly all calls are named, and some depend on arguments.
func typicalProfile(without ...string) object {
	dangerous := append(strings.Fields(`acct add_key bpf clock_settime clone clone3 delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick
		init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages
		open_by_handle_at open_tree perf_event_open personality pivot_root quotactl reboot request_key set_mempolicy setns settimeofday socket swapon
		swapoff umount2 unshare uselib userfaultfd ustat vhangup`), without...)
	var names array
	for _, n := range append(slices.Clone(linux.SyscallNames[:450]), "_llseek", "chown32", "socketcall", "frobnicate") {
		if n != "" && !slices.Contains(dangerous, n) {
			names = append(names, n)
		}
	}
	allow := func(name string, arg object) object {
		return object{"names": array{name}, "action": "SCMP_ACT_ALLOW", "args": array{arg}}
	}
	return object{"defaultAction": "SCMP_ACT_ERRNO", "architectures": array{"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"}, "syscalls": array{
		object{"names": names, "action": "SCMP_ACT_ALLOW"},
		allow("personality", object{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}),
		allow("personality", object{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}),
		allow("personality", object{"index": 0, "value": 0xffffffff, "op": "SCMP_CMP_EQ"}),
		allow("socket", object{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}),
		allow("clone", object{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}),
		object{"names": array{"clone3"}, "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
	}}
}

func TestSeccompProfiles(t *testing.T) {
	profile := func(action string, more object, rules ...any) object {
		p := object{"defaultAction": action, "syscalls": rules}
		for k, v := range more {
			p[k] = v
		}
		return p
	}
	rule := func(name, action string, more object) object {
		r := object{"names": array{name}, "action": action}
		for k, v := range more {
			r[k] = v
		}
		return r
	}
	for _, test := range []struct {
		name    string
		profile object
		process object // changes of it
		script  string
		stdout  string // regular expressions for all of it
		stderr  string
		code    int
	}{
		{name: "none", script: "grep -E 'Seccomp|NoNew' /proc/self/status", stdout: "NoNewPrivs:\t0\nSeccomp:\t0\n"},
		{name: "typical", profile: typicalProfile(), script: "grep -E 'Seccomp|NoNew' /proc/self/status; mkdir /new; ls -d /new", stdout: "NoNewPrivs:\t0\nSeccomp:\t2\n/new\n"},
		{name: "without new privileges", profile: typicalProfile(), process: object{"noNewPrivileges": true}, script: "grep -E 'Seccomp:|NoNew' /proc/self/status", stdout: "NoNewPrivs:\t1\nSeccomp:\t2\n"},
		{name: "another user", profile: typicalProfile(), process: object{"user": object{"uid": 5, "gid": 5}, "capabilities": object{}}, script: "grep -E 'Seccomp:|NoNew' /proc/self/status", stdout: "NoNewPrivs:\t0\nSeccomp:\t2\n"},
		{name: "calls that aren't named", profile: typicalProfile("mkdir", "mkdirat"), script: "mkdir /new; mount -t tmpfs t /data", code: 1,
			stderr: "mkdir: can't create directory '/new': Operation not permitted\nmount: (permission denied \\(are you root\\?\\)|mounting t on /data failed: Operation not permitted)\n"},
		{name: "an argument", profile: typicalProfile(), script: "linux64 echo 64; linux32 echo 32; linux64 -R echo R", code: 1,
			stdout: "64\n32\n", stderr: "linux64: personality\\(0x40000\\): Operation not permitted\n"},
		{name: "flags of clone", profile: typicalProfile(), script: "true & wait; unshare -u true", stderr: "unshare: unshare\\(.*\\): Operation not permitted\n", code: 1},
		{name: "errno", profile: profile("SCMP_ACT_ALLOW", nil, rule("mkdir", "SCMP_ACT_ERRNO", object{"errnoRet": 28}), rule("rmdir", "SCMP_ACT_ERRNO", nil)),
			script: "mkdir /new; rmdir /data", stderr: "mkdir: .*: No space left on device\nrmdir: .*: Operation not permitted\n", code: 1},
		{name: "a killed process", profile: profile("SCMP_ACT_ALLOW", nil, rule("mkdir", "SCMP_ACT_KILL_PROCESS", nil)), script: "mkdir /new; echo $?", stdout: "159\n", stderr: "Bad system call\n"},
		{name: "a trap", profile: profile("SCMP_ACT_ALLOW", nil, rule("mkdir", "SCMP_ACT_TRAP", nil)), script: "mkdir /new; echo $?", stdout: "159\n", stderr: "Bad system call\n"},
		{name: "a killed thread", profile: profile("SCMP_ACT_LOG", nil, rule("mkdir", "SCMP_ACT_KILL", nil)), script: "exec mkdir /new", code: 159},
		{name: "a tracer that isn't there", profile: profile("SCMP_ACT_ALLOW", nil, rule("mkdir", "SCMP_ACT_TRACE", nil)), script: "mkdir /new", stderr: "mkdir: .*: Function not implemented\n", code: 1},
		{name: "needless", profile: profile("SCMP_ACT_ALLOW", object{"flags": array{"SECCOMP_FILTER_FLAG_SPEC_ALLOW"}, "architectures": array{"SCMP_ARCH_ARM"}}), script: "true"},

		{name: "an action", profile: profile("SCMP_ACT_ALLOW", nil, rule("mkdir", "SCMP_ACT_NOTIFY", nil)), code: 1,
			stderr: "runsc: config.json: linux.seccomp.syscalls\\[0\\].action \"SCMP_ACT_NOTIFY\" is not supported\n"},
		{name: "a flag", profile: profile("SCMP_ACT_ALLOW", object{"flags": array{"SECCOMP_FILTER_FLAG_LOG"}}), code: 1,
			stderr: "runsc: config.json: linux.seccomp.flags\\[0\\] \"SECCOMP_FILTER_FLAG_LOG\" is not supported\n"},
		{name: "an operator", profile: profile("SCMP_ACT_ALLOW", nil, rule("mkdir", "SCMP_ACT_LOG", object{"args": array{object{"index": 0, "value": 1, "op": "LIKE"}}})), code: 1,
			stderr: "runsc: config.json: linux.seccomp.syscalls\\[0\\].args\\[0\\].op \"LIKE\" is unknown\n"},
		{name: "an architecture", profile: profile("SCMP_ACT_ALLOW", object{"architectures": array{"VAX"}}), code: 1, stderr: "runsc: config.json: linux.seccomp.architectures\\[0\\] \"VAX\" is unknown\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := realHouse(t)
			h.ociSpec(test.script, func(_, p, l object) {
				if test.profile != nil {
					l["seccomp"] = test.profile
				}
				for k, v := range test.process {
					p[k] = v
				}
			})
			h.run("run", "c").expect(t, test.code, test.stdout, test.stderr)
		})
	}
}

// What exec starts runs under the container's profile, and may not be rid of it.
func TestSeccompOfFurtherProcesses(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("exec sleep 1000", func(_, _, l object) { l["seccomp"] = typicalProfile("mkdir", "mkdirat") })
	h.must("run", "--detach", "c")
	const script = "grep -E 'Seccomp|NoNew' /proc/self/status; mkdir /new"
	want := "NoNewPrivs:\t%d\nSeccomp:\t2\n"
	for _, x := range []struct {
		flags     []string
		noNewPriv int
	}{{nil, 0}, {[]string{"--no-new-privs"}, 1}, {[]string{"--user", "7"}, 0}} {
		args := append(append([]string{"exec"}, x.flags...), "c", "sh", "-c", script)
		if r := h.run(args...); r.stdout != fmt.Sprintf(want, x.noNewPriv) || !strings.Contains(r.stderr, "Operation not permitted") || r.code != 1 {
			t.Errorf("%v: %+v", args, r)
		}
	}
}
