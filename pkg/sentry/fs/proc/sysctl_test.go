package proc

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
)

func TestSysctlsOfNamespaces(t *testing.T) {
	m := newMachine(t, Options{})
	k := m.task.Kernel()
	fresh := func() *kernel.Namespaces {
		return &kernel.Namespaces{UTS: k.NewUTSNamespace(k.RootUserNS, "h", "d"), IPC: k.NewIPCNamespace(k.RootUserNS), Net: k.NewNetNamespace(k.RootUserNS, nil)}
	}
	for _, s := range sysctls {
		n := fresh()
		was := s.show(n)
		// As Linux writes them, and as it begins.
		if host, err := os.ReadFile("/proc/sys/" + s.path); err == nil && s.kind != UTSNamespace && len(strings.Fields(string(host))) != len(strings.Fields(was)) {
			t.Errorf("%s is %q, the host's %q", s.path, was, host)
		}
		dotted := strings.ReplaceAll(s.path, "/", ".")
		if SysctlDiffers(n, dotted, strings.ReplaceAll(was, "\t", "  ")) {
			t.Errorf("%s differs from itself", dotted)
		}
		value := strings.TrimSpace(strings.Repeat("7 ", len(strings.Fields(was))))
		if s.path == "kernel/shm_rmid_forced" {
			value = "1" // on or off
		}
		if err := SetSysctl(k, n, dotted, value); err != nil {
			t.Errorf("%s: %v", dotted, err)
		}
		if got := s.show(n); !same(got, value) {
			t.Errorf("%s is %q after %q", dotted, got, value)
		}
		if other := s.show(fresh()); other != was {
			t.Errorf("%s of another namespace is %q", dotted, other)
		}
		if s.kind == UTSNamespace {
			continue
		}
		for _, bad := range []string{"", "x", "-1 -1 -1 -1", "1 2 3 4 5", "99999999999999999999999"} {
			if err := SetSysctl(k, n, dotted, bad); !errors.Is(err, unix.EINVAL) {
				t.Errorf("%s=%q: %v", dotted, bad, err)
			}
		}
	}
	for _, c := range []struct {
		name, value string
		want        error
	}{{"net.core.somaxconn", "4096", nil}, {"net.core.somaxconn", "1", ErrFixed}, {"net.no.such", "1", ErrNoSysctl}, {"../../etc/passwd", "1", ErrNoSysctl}} {
		if err := SetSysctl(k, fresh(), c.name, c.value); !errors.Is(err, c.want) {
			t.Errorf("%s=%s: %v, want %v", c.name, c.value, err, c.want)
		}
	}
}
