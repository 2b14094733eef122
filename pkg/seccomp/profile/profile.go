// Package profile reads the system call profile of an OCI runtime spec,
// linux.seccomp of config-linux.md, as a table of package seccomp for x86-64.
//
// [Translate] does the work. What the spec leaves to libseccomp is as runc and
// libseccomp have it, because profiles were written for them:
//
//   - Names that aren't known here are left out: a profile names calls of all
//     architectures, and of kernels to come.
//   - A rule without args decides for its calls whatever rules with args say of
//     them. Of several without args the first counts; of several with args, the
//     first that fits. (Where rules with args contradict each other, libseccomp
//     goes by an order of its own.)
//   - Two conditions on one argument are alternatives, each a rule of its own.
//   - A rule that says what the default says is left out.
//   - Where the default refuses, calls that are younger than the youngest that the
//     profile names fail with ENOSYS in place of the default: who wrote the profile
//     didn't know them, and a C library that tries a new call expects that answer
//     of an old kernel.
//
// Architectures other than x86-64 may be named and don't matter: there is no other
// way into the kernel of a sandbox.
//
// What isn't there is refused by its name: SCMP_ACT_NOTIFY with its listener, and
// the flags that change where the kernel logs and how it waits for a listener.
package profile

import (
	"fmt"
	"math"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"vitrine/pkg/abi/linux"
	"vitrine/pkg/seccomp"
)

// actions by name. Those that takeErrno lists carry a number.
var actions = map[specs.LinuxSeccompAction]seccomp.Action{
	specs.ActKill: seccomp.KillThread, specs.ActKillThread: seccomp.KillThread, specs.ActKillProcess: seccomp.KillProcess,
	specs.ActTrap: seccomp.Trap, specs.ActErrno: seccomp.Errno(0), specs.ActTrace: seccomp.Trace,
	specs.ActAllow: seccomp.Allow, specs.ActLog: seccomp.Log,
}

var takeErrno = []specs.LinuxSeccompAction{specs.ActErrno, specs.ActTrace}

// refusing are the default actions that keep calls from being made.
var refusing = []specs.LinuxSeccompAction{specs.ActKill, specs.ActKillThread, specs.ActKillProcess, specs.ActTrap, specs.ActErrno}

// architectures are those of the spec.
var architectures = []specs.Arch{
	specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32,
	specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390,
	specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB,
}

// flagTSYNC is older than the spec's list of flags.
const flagTSYNC specs.LinuxSeccompFlag = "SECCOMP_FILTER_FLAG_TSYNC"

// flags that can be held: a container's first process has no other threads to put
// under the filter, and mitigations of the processor are the host's.
var flags = []specs.LinuxSeccompFlag{flagTSYNC, specs.LinuxSeccompFlagSpecAllow}

// operators make a check of a condition.
var operators = map[specs.LinuxSeccompOperator]func(*specs.LinuxSeccompArg) seccomp.Check{
	specs.OpNotEqual: func(a *specs.LinuxSeccompArg) seccomp.Check { return seccomp.NotEqual(int(a.Index), a.Value) },
	specs.OpEqualTo:  func(a *specs.LinuxSeccompArg) seccomp.Check { return seccomp.Equal(int(a.Index), a.Value) },
	specs.OpLessThan: func(a *specs.LinuxSeccompArg) seccomp.Check {
		if a.Value == 0 {
			return seccomp.OneOf(int(a.Index)) // nothing is less
		}
		return seccomp.AtMost(int(a.Index), a.Value-1)
	},
	specs.OpLessEqual:    func(a *specs.LinuxSeccompArg) seccomp.Check { return seccomp.AtMost(int(a.Index), a.Value) },
	specs.OpGreaterEqual: func(a *specs.LinuxSeccompArg) seccomp.Check { return seccomp.AtLeast(int(a.Index), a.Value) },
	specs.OpGreaterThan: func(a *specs.LinuxSeccompArg) seccomp.Check {
		if a.Value == math.MaxUint64 {
			return seccomp.OneOf(int(a.Index)) // nothing is greater
		}
		return seccomp.AtLeast(int(a.Index), a.Value+1)
	},
	specs.OpMaskedEqual: func(a *specs.LinuxSeccompArg) seccomp.Check {
		return seccomp.Masked(int(a.Index), a.Value, a.ValueTwo)
	},
}

// Features lists what a profile may ask for, for the features command, sorted.
func Features() (actionNames, operatorNames, archs, knownFlags, supportedFlags []string) {
	for a := range actions {
		actionNames = append(actionNames, string(a))
	}
	for o := range operators {
		operatorNames = append(operatorNames, string(o))
	}
	for _, f := range flags {
		supportedFlags = append(supportedFlags, string(f))
	}
	knownFlags = append(slices.Clone(supportedFlags), string(specs.LinuxSeccompFlagLog), string(specs.LinuxSeccompFlagWaitKillableRecv))
	for _, list := range [][]string{actionNames, operatorNames, knownFlags, supportedFlags} {
		slices.Sort(list)
	}
	return actionNames, operatorNames, []string{string(specs.ArchX86_64)}, knownFlags, supportedFlags
}

// Translate makes a table of a profile. An error begins with the field below
// linux.seccomp: ".defaultAction is missing".
func Translate(p *specs.LinuxSeccomp) (*seccomp.Filter, error) {
	if p.DefaultAction == "" {
		return nil, fmt.Errorf(".defaultAction is missing")
	}
	other, err := action(p.DefaultAction, p.DefaultErrnoRet, ".defaultAction", ".defaultErrnoRet")
	if err != nil {
		return nil, err
	}
	for i, a := range p.Architectures {
		if !slices.Contains(architectures, a) {
			return nil, fmt.Errorf(".architectures[%d] %q is unknown", i, a)
		}
	}
	for i, f := range p.Flags {
		if !slices.Contains(flags, f) {
			return nil, fmt.Errorf(".flags[%d] %q is not supported", i, f)
		}
	}
	if p.ListenerPath != "" || p.ListenerMetadata != "" {
		return nil, fmt.Errorf(".listenerPath and .listenerMetadata are not supported")
	}
	t := translation{other: other, numbers: make(map[string]uint32, len(linux.SyscallNames))}
	for n, name := range linux.SyscallNames {
		if name != "" {
			t.numbers[name] = uint32(n)
		}
	}
	for i := range p.Syscalls {
		if err := t.add(&p.Syscalls[i]); err != nil {
			return nil, fmt.Errorf(".syscalls[%d]%w", i, err)
		}
	}
	return t.filter(slices.Contains(refusing, p.DefaultAction)), nil
}

// action reads an action with its number.
func action(name specs.LinuxSeccompAction, number *uint, field, numberField string) (seccomp.Action, error) {
	a, ok := actions[name]
	if !ok {
		return 0, fmt.Errorf("%s %q is not supported", field, name)
	}
	if !slices.Contains(takeErrno, name) {
		if number != nil {
			return 0, fmt.Errorf("%s has no meaning with %s", numberField, name)
		}
		return a, nil
	}
	data := uint(unix.EPERM)
	if number != nil {
		data = *number
	}
	if data > math.MaxUint16 {
		return 0, fmt.Errorf("%s %d is above 65535", numberField, data)
	}
	return a | seccomp.Action(data), nil
}

// rules are those of one call.
type rules struct {
	always seccomp.Action // of the rule without args; 0 if there is none
	rows   []seccomp.Row
}

type translation struct {
	other   seccomp.Action
	numbers map[string]uint32
	rules   [len(linux.SyscallNames)]rules // by number
	highest uint32                         // that is named, and known
	named   bool
}

// add takes a rule in. Errors begin with a field of it.
func (t *translation) add(s *specs.LinuxSyscall) error {
	if len(s.Names) == 0 {
		return fmt.Errorf(".names is empty")
	}
	a, err := action(s.Action, s.ErrnoRet, ".action", ".errnoRet")
	if err != nil {
		return err
	}
	var checks []seccomp.Check
	var seen [6]bool
	alternatives := false
	for i := range s.Args {
		arg := &s.Args[i]
		make, ok := operators[arg.Op]
		if !ok {
			return fmt.Errorf(".args[%d].op %q is unknown", i, arg.Op)
		}
		if arg.Index >= uint(len(seen)) {
			return fmt.Errorf(".args[%d].index %d is above 5", i, arg.Index)
		}
		alternatives = alternatives || seen[arg.Index]
		seen[arg.Index] = true
		checks = append(checks, make(arg))
	}
	for i, name := range s.Names {
		if name == "" {
			return fmt.Errorf(".names[%d] is empty", i)
		}
		number, ok := t.numbers[name]
		if !ok {
			continue
		}
		t.highest, t.named = max(t.highest, number), true
		if a == t.other {
			continue
		}
		r := &t.rules[number]
		switch {
		case len(checks) == 0 && r.always == 0:
			r.always = a
		case alternatives:
			for _, c := range checks {
				r.rows = append(r.rows, seccomp.Row{Number: number, Checks: []seccomp.Check{c}, Action: a})
			}
		case len(checks) > 0:
			r.rows = append(r.rows, seccomp.Row{Number: number, Checks: checks, Action: a})
		}
	}
	return nil
}

// filter is the table of all rules.
func (t *translation) filter(refuses bool) *seccomp.Filter {
	f := &seccomp.Filter{Default: t.other, Rows: make([]seccomp.Row, 0, len(t.rules))}
	for number := range t.rules {
		r := &t.rules[number]
		if r.always != 0 {
			f.Rows = append(f.Rows, seccomp.Row{Number: uint32(number), Action: r.always})
			continue
		}
		f.Rows = append(f.Rows, r.rows...)
	}
	// Calls of x32 don't exist in a sandbox.
	f.Foreign = seccomp.Errno(unix.ENOSYS)
	if refuses && t.named {
		f.Beyond = seccomp.Errno(unix.ENOSYS)
		if r := &t.rules[t.highest]; r.always == 0 && r.rows == nil {
			f.Rows = append(f.Rows, seccomp.Row{Number: t.highest, Action: t.other})
		}
	}
	return f
}
