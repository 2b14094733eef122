package ipc

import (
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
)

func actor() *Actor {
	return &Actor{Creds: auth.NewRoot(auth.NewRootUserNamespace()), PID: 1, Now: 1000}
}

func TestIdentifiersAreNotUsedAgainAtOnce(t *testing.T) {
	ns, a := NewNamespace(), actor()
	seen := map[int32]bool{}
	for range 1000 {
		id, err := ns.MsgGet(a, Private, Create|0o600)
		if err != nil {
			t.Fatal(err)
		}
		if seen[id] || id < 0 {
			t.Fatalf("identifier %d after %d others", id, len(seen))
		}
		seen[id] = true
		if err := ns.MsgRemove(a, id); err != nil {
			t.Fatal(err)
		}
		if _, err := ns.Queue(id); err != unix.EINVAL {
			t.Fatalf("a removed queue: %v", err)
		}
	}
}

func TestIdentifiersStayPositive(t *testing.T) {
	ns, a := NewNamespace(), actor()
	for i := range 1<<16 + 2 {
		id, err := ns.MsgGet(a, Private, Create|0o600)
		if err != nil || id < 0 {
			t.Fatalf("queue %d: %d, %v", i, id, err)
		}
		if err := ns.MsgRemove(a, id); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOwnersMayChangeReadersMayLook(t *testing.T) {
	ns, a := NewNamespace(), actor()
	id, err := ns.SemGet(a, Private, 2, Create|0o640)
	if err != nil {
		t.Fatal(err)
	}
	as := func(uid auth.KUID, gid auth.KGID) *Actor {
		c := a.Creds.Fork()
		c.EUID, c.EGID, c.Groups = uid, gid, nil
		c.Effective, c.Permitted = 0, 0
		return &Actor{Creds: c, PID: 2, Now: 1000}
	}
	if err := ns.SemSet(a, id, 5, 6, 0o640); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name         string
		a            *Actor
		look, change error
	}{
		{"owner", as(5, 9), nil, nil},
		{"group", as(9, 6), nil, unix.EPERM},
		{"other", as(9, 9), unix.EACCES, unix.EPERM},
	} {
		if _, err := ns.SemStat(c.a, id, false); err != c.look {
			t.Errorf("%s looks: %v, want %v", c.name, err, c.look)
		}
		if err := ns.SemSet(c.a, id, 5, 6, 0o640); err != c.change {
			t.Errorf("%s changes: %v, want %v", c.name, err, c.change)
		}
	}
	if _, err := ns.SemStat(a, 0, true); err != nil {
		t.Errorf("by index: %v", err)
	}
	if _, err := ns.SemStat(a, 1, true); err != unix.EINVAL {
		t.Errorf("by an index without a set: %v", err)
	}
}
