package profile

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vitrine/pkg/abi/linux"
	"vitrine/pkg/seccomp"
)

// parse reads a profile as config.json has it.
func parse(t testing.TB, text string) *specs.LinuxSeccomp {
	t.Helper()
	p := &specs.LinuxSeccomp{}
	if err := json.Unmarshal([]byte(text), p); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return p
}

func assemble(t testing.TB, p *specs.LinuxSeccomp) []unix.SockFilter {
	t.Helper()
	f, err := Translate(p)
	if err != nil {
		t.Fatal(err)
	}
	program, err := seccomp.Assemble(f)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// answer runs a program on a call (Documentation/networking/filter.rst).
func answer(t testing.TB, program []unix.SockFilter, number uint32, args ...uint64) seccomp.Action {
	t.Helper()
	words := make([]uint32, 16)
	words[0], words[1] = number, unix.AUDIT_ARCH_X86_64
	for i, a := range args {
		words[4+2*i], words[5+2*i] = uint32(a), uint32(a>>32)
	}
	var a uint32
	for pc := 0; pc < len(program); pc++ {
		in := program[pc]
		taken := false
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = words[in.K/4]
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return seccomp.Action(in.K)
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			taken = a == in.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			taken = a > in.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			taken = a >= in.K
		default:
			t.Fatalf("instruction %#x", in.Code)
		}
		if taken {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
	t.Fatal("ran off the program's end")
	return 0
}

func TestTranslate(t *testing.T) {
	errno := func(e unix.Errno) seccomp.Action { return seccomp.Errno(e) }
	type call struct {
		number uint32
		args   []uint64
		want   seccomp.Action
	}
	args := func(a ...uint64) []uint64 { return a }
	const deny = `"defaultAction":"SCMP_ACT_ERRNO"`
	rule := func(names, rest string) string {
		return `"syscalls":[{"names":[` + names + `],` + rest + `}]`
	}
	condition := func(op string, value, two uint64) string {
		return deny + "," + rule(`"read","open_tree_attr"`, fmt.Sprintf(`"action":"SCMP_ACT_ALLOW","args":[{"index":2,"value":%d,"valueTwo":%d,"op":"%s"}]`, value, two, op))
	}
	const big = 1<<32 | 5
	for _, test := range []struct {
		name, profile string
		calls         []call
	}{
		{"default alone", deny, []call{{0, nil, errno(unix.EPERM)}, {466, nil, errno(unix.EPERM)}}},
		{"default with a number", deny + `,"defaultErrnoRet":38`, []call{{0, nil, errno(unix.ENOSYS)}}},
		{"names", deny + "," + rule(`"read","frobnicate","close","socketcall","ppoll"`, `"action":"SCMP_ACT_ALLOW"`),
			[]call{{0, nil, seccomp.Allow}, {1, nil, errno(unix.EPERM)}, {3, nil, seccomp.Allow}, {271, nil, seccomp.Allow}}},
		{"younger than all that is named", deny + "," + rule(`"ppoll"`, `"action":"SCMP_ACT_ALLOW"`),
			[]call{{270, nil, errno(unix.EPERM)}, {272, nil, errno(unix.ENOSYS)}, {439, nil, errno(unix.ENOSYS)}, {5000, nil, errno(unix.ENOSYS)}}},
		{"the youngest is as the default", deny + `,"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"},{"names":["openat2"],"action":"SCMP_ACT_ERRNO"}]`,
			[]call{{0, nil, seccomp.Allow}, {272, nil, errno(unix.EPERM)}, {437, nil, errno(unix.EPERM)}, {438, nil, errno(unix.ENOSYS)}}},
		{"a default that allows", `"defaultAction":"SCMP_ACT_ALLOW",` + rule(`"read"`, `"action":"SCMP_ACT_ERRNO"`), []call{{0, nil, errno(unix.EPERM)}, {439, nil, seccomp.Allow}}},
		{"x32", `"defaultAction":"SCMP_ACT_ALLOW"`, []call{{1 << 30, nil, errno(unix.ENOSYS)}}},
		{"actions", `"defaultAction":"SCMP_ACT_LOG","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL"},{"names":["write"],"action":"SCMP_ACT_KILL_THREAD"},
			{"names":["open"],"action":"SCMP_ACT_KILL_PROCESS"},{"names":["close"],"action":"SCMP_ACT_TRAP"},{"names":["stat"],"action":"SCMP_ACT_TRACE"},
			{"names":["fstat"],"action":"SCMP_ACT_TRACE","errnoRet":7},{"names":["lstat"],"action":"SCMP_ACT_ALLOW"},{"names":["poll"],"action":"SCMP_ACT_ERRNO","errnoRet":9}]`,
			[]call{{0, nil, seccomp.KillThread}, {1, nil, seccomp.KillThread}, {2, nil, seccomp.KillProcess}, {3, nil, seccomp.Trap}, {4, nil, seccomp.Trace | 1},
				{5, nil, seccomp.Trace | 7}, {6, nil, seccomp.Allow}, {7, nil, errno(unix.EBADF)}, {8, nil, seccomp.Log}}},

		{"equal", condition("SCMP_CMP_EQ", big, 0), []call{{0, args(0, 0, big), seccomp.Allow}, {0, args(0, 0, 5), errno(unix.EPERM)}, {0, args(big, big, 0), errno(unix.EPERM)}}},
		{"not equal", condition("SCMP_CMP_NE", big, 0), []call{{0, args(0, 0, big), errno(unix.EPERM)}, {0, args(0, 0, 5), seccomp.Allow}, {0, args(0, 0, 2<<32|5), seccomp.Allow}}},
		{"less", condition("SCMP_CMP_LT", big, 0), []call{{0, args(0, 0, big), errno(unix.EPERM)}, {0, args(0, 0, big-1), seccomp.Allow}, {0, args(0, 0, 2<<32), errno(unix.EPERM)}}},
		{"less than nothing", condition("SCMP_CMP_LT", 0, 0), []call{{0, nil, errno(unix.EPERM)}}},
		{"at most", condition("SCMP_CMP_LE", big, 0), []call{{0, args(0, 0, big), seccomp.Allow}, {0, args(0, 0, big+1), errno(unix.EPERM)}}},
		{"at least", condition("SCMP_CMP_GE", big, 0), []call{{0, args(0, 0, big), seccomp.Allow}, {0, args(0, 0, big-1), errno(unix.EPERM)}, {0, args(0, 0, 2<<32), seccomp.Allow}}},
		{"greater", condition("SCMP_CMP_GT", big, 0), []call{{0, args(0, 0, big), errno(unix.EPERM)}, {0, args(0, 0, big+1), seccomp.Allow}}},
		{"greater than all", condition("SCMP_CMP_GT", 1<<64-1, 0), []call{{0, args(0, 0, 1<<64-1), errno(unix.EPERM)}}},
		{"masked", condition("SCMP_CMP_MASKED_EQ", 0xf0_0000_00f0, 0x10_0000_0020), []call{{0, args(0, 0, 0xf10_ffff_ff2f), seccomp.Allow}, {0, args(0, 0, 0x20), errno(unix.EPERM)}}},
		{"all conditions", deny + "," + rule(`"read"`, `"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]`),
			[]call{{0, args(1, 2), seccomp.Allow}, {0, args(1, 3), errno(unix.EPERM)}, {0, args(0, 2), errno(unix.EPERM)}}},
		{"two conditions on one argument", deny + "," + rule(`"read"`, `"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]`),
			[]call{{0, args(1), seccomp.Allow}, {0, args(2), seccomp.Allow}, {0, args(3), errno(unix.EPERM)}}},
		{"the first that fits", deny + `,"syscalls":[{"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":22,"args":[{"index":0,"value":16,"op":"SCMP_CMP_EQ"},{"index":2,"value":9,"op":"SCMP_CMP_EQ"}]},
			{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":2,"value":9,"op":"SCMP_CMP_NE"}]},{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":16,"op":"SCMP_CMP_NE"}]}]`,
			[]call{{41, args(16, 3, 9), errno(unix.EINVAL)}, {41, args(16, 3, 0), seccomp.Allow}, {41, args(2, 1, 9), seccomp.Allow}}},
		{"a rule without args decides", deny + `,"syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},{"names":["read"],"action":"SCMP_ACT_ALLOW"},
			{"names":["read"],"action":"SCMP_ACT_TRAP"}]`, []call{{0, args(1), seccomp.Allow}}},
		{"what is needless", `"flags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_SPEC_ALLOW"],"architectures":["SCMP_ARCH_ARM","SCMP_ARCH_X32"],` + deny, []call{{0, nil, errno(unix.EPERM)}}},
	} {
		program := assemble(t, parse(t, "{"+test.profile+"}"))
		for _, c := range test.calls {
			if got := answer(t, program, c.number, c.args...); got != c.want {
				t.Errorf("%s: call %d%v gives %#x, want %#x", test.name, c.number, c.args, got, c.want)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	rule := func(s string) string {
		return `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG"},{` + s + `}]}`
	}
	for profile, want := range map[string]string{
		`{}`:                                  ".defaultAction is missing",
		`{"defaultAction":"SCMP_ACT_NOTIFY"}`: `.defaultAction "SCMP_ACT_NOTIFY" is not supported`,
		`{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":1}`:                                  ".defaultErrnoRet has no meaning with SCMP_ACT_ALLOW",
		`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":65536}`:                              ".defaultErrnoRet 65536 is above 65535",
		`{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_VAX"]}`: `.architectures[1] "SCMP_ARCH_VAX" is unknown`,
		`{"defaultAction":"SCMP_ACT_ERRNO","flags":["SECCOMP_FILTER_FLAG_LOG"]}`:                  `.flags[0] "SECCOMP_FILTER_FLAG_LOG" is not supported`,
		`{"defaultAction":"SCMP_ACT_ERRNO","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}`:   `.flags[0] "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" is not supported`,
		`{"defaultAction":"SCMP_ACT_ERRNO","listenerPath":"/s"}`:                                  ".listenerPath and .listenerMetadata are not supported",
		rule(`"names":[],"action":"SCMP_ACT_LOG"`):                                                ".syscalls[1].names is empty",
		rule(`"names":["read",""],"action":"SCMP_ACT_LOG"`):                                       ".syscalls[1].names[1] is empty",
		rule(`"names":["read"],"action":"SCMP_ACT_X"`):                                            `.syscalls[1].action "SCMP_ACT_X" is not supported`,
		rule(`"names":["read"]`): `.syscalls[1].action "" is not supported`,
		rule(`"names":["read"],"action":"SCMP_ACT_KILL","errnoRet":1`):                                                          ".syscalls[1].errnoRet has no meaning with SCMP_ACT_KILL",
		rule(`"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":0,"op":"SCMP_CMP_EQ"},{"index":6,"op":"SCMP_CMP_EQ"}]`): ".syscalls[1].args[1].index 6 is above 5",
		rule(`"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":0,"op":"EQ"}]`):                                         `.syscalls[1].args[0].op "EQ" is unknown`,
	} {
		if _, err := Translate(parse(t, profile)); err == nil || err.Error() != want {
			t.Errorf("%s: error is %v, want %s", profile, err, want)
		}
	}
}

// typical is a profile of the shape that engines send: a list of nearly all names,
// those of other architectures among them, and a dozen rules besides.
func typical(t testing.TB) *specs.LinuxSeccomp {
	dangerous := strings.Fields(`acct add_key bpf clock_settime clone clone3 create_module delete_module fanotify_init finit_module fsconfig fsmount fsopen
		fspick get_kernel_syms init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr
		move_mount move_pages nfsservctl open_by_handle_at open_tree perf_event_open personality pivot_root process_vm_readv process_vm_writev ptrace
		query_module quotactl quotactl_fd reboot request_key set_mempolicy setns settimeofday socket swapon swapoff sysfs _sysctl umount2 unshare uselib
		userfaultfd ustat vhangup vserver`)
	names := strings.Fields("_llseek chown32 fcntl64 socketcall arm_fadvise64_64 sigreturn mmap2")
	for _, n := range linux.SyscallNames[:450] {
		if n != "" && !slices.Contains(dangerous, n) {
			names = append(names, n)
		}
	}
	p := parse(t, `{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[
		{"names":["ptrace","process_vm_readv","process_vm_writev"],"action":"SCMP_ACT_ALLOW"},
		{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":40,"op":"SCMP_CMP_NE"}]},
		{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"}]},
		{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
		{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":131072,"op":"SCMP_CMP_EQ"}]},
		{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":4294967295,"op":"SCMP_CMP_EQ"}]},
		{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]},
		{"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}`)
	p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: names, Action: specs.ActAllow})
	return p
}

// An engine's profile takes a program of a few hundred bytes, not of kilobytes.
func TestTypicalProfileIsSmall(t *testing.T) {
	program := assemble(t, typical(t))
	t.Logf("%d instructions", len(program))
	if len(program) > 160 {
		t.Errorf("%d instructions", len(program))
	}
	for _, c := range []struct {
		number uint32
		arg    uint64
		want   seccomp.Action
	}{{unix.SYS_GETPID, 0, seccomp.Allow}, {unix.SYS_MOUNT, 0, seccomp.Errno(unix.EPERM)}, {unix.SYS_CLONE, unix.CLONE_VM, seccomp.Allow},
		{unix.SYS_CLONE, unix.CLONE_NEWUSER, seccomp.Errno(unix.EPERM)}, {unix.SYS_CLONE3, 0, seccomp.Errno(unix.ENOSYS)},
		{unix.SYS_SOCKET, 40, seccomp.Errno(unix.EPERM)}, {unix.SYS_SOCKET, 2, seccomp.Allow}, {unix.SYS_CACHESTAT, 0, seccomp.Errno(unix.ENOSYS)}} {
		if got := answer(t, program, c.number, c.arg); got != c.want {
			t.Errorf("call %d(%d): %#x, want %#x", c.number, c.arg, got, c.want)
		}
	}
}

func TestFeatures(t *testing.T) {
	actions, operators, archs, known, supported := Features()
	for _, list := range [][]string{actions, operators, archs, known, supported} {
		if len(list) == 0 || !slices.IsSorted(list) {
			t.Errorf("%q", list)
		}
	}
}

// A profile may be anything, and an accepted one has a program that ends.
func FuzzTranslate(f *testing.F) {
	b, err := json.Marshal(typical(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, uint32(1), uint64(2))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW"}`), uint32(0), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, number uint32, arg uint64) {
		p := &specs.LinuxSeccomp{}
		if json.Unmarshal(b, p) != nil {
			return
		}
		filter, err := Translate(p)
		if err != nil {
			return
		}
		program, err := seccomp.Assemble(filter)
		if err == nil {
			answer(t, program, number, arg, arg, arg, arg, arg, arg)
		} else if err != seccomp.ErrTooLong {
			t.Error(err)
		}
	})
}

func BenchmarkTranslate(b *testing.B) {
	p := typical(b)
	for b.Loop() {
		assemble(b, p)
	}
}
