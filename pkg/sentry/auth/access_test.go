package auth

import (
	"testing"

	"golang.org/x/sys/unix"
)

// user returns credentials with uid and gid for all ids, and no capabilities.
func user(ns *UserNamespace, id uint32) *Credentials {
	c := NewRoot(ns)
	c.RUID, c.EUID, c.SUID, c.FSUID = KUID(id), KUID(id), KUID(id), KUID(id)
	c.RGID, c.EGID, c.SGID, c.FSGID = KGID(id), KGID(id), KGID(id), KGID(id)
	c.Permitted, c.Effective = 0, 0
	return c
}

// with returns c changed by f.
func with(c *Credentials, f func(c *Credentials)) *Credentials {
	n := c.Fork()
	f(n)
	return n
}

// spaces returns a user namespace, and one below it that user 5 has made.
func spaces(t *testing.T) (root, below *UserNamespace) {
	t.Helper()
	root = NewRootUserNamespace()
	below, err := user(root, 5).NewUserNamespace()
	if err != nil {
		t.Fatal(err)
	}
	return root, below
}

func TestAccessIsForTheSameUserWithAllCapabilities(t *testing.T) {
	root, below := spaces(t)
	five := user(root, 5)
	ptracer := with(five, func(c *Credentials) { c.Effective = CapOf(unix.CAP_SYS_PTRACE) })
	for _, c := range []struct {
		name     string
		c, v     *Credentials
		real, fs bool
	}{
		{"the same", five, five, true, true},
		{"another user", five, user(root, 6), false, false},
		{"set-user-id", five, with(five, func(v *Credentials) { v.EUID = 6 }), false, false},
		{"saved user", five, with(five, func(v *Credentials) { v.SUID = 6 }), false, false},
		{"real user", five, with(five, func(v *Credentials) { v.RUID = 6 }), false, false},
		{"set-group-id", five, with(five, func(v *Credentials) { v.EGID = 6 }), false, false},
		{"saved group", five, with(five, func(v *Credentials) { v.SGID = 6 }), false, false},
		{"file-system user", with(five, func(c *Credentials) { c.FSUID = 6 }), five, true, false},
		{"file-system group", with(five, func(c *Credentials) { c.FSGID = 6 }), five, true, false},
		{"more capable", five, with(five, func(v *Credentials) { v.Permitted = CapOf(unix.CAP_CHOWN) }), false, false},
		{"as capable, permitted", with(five, func(c *Credentials) { c.Permitted = CapOf(unix.CAP_CHOWN) }),
			with(five, func(v *Credentials) { v.Permitted = CapOf(unix.CAP_CHOWN) }), true, false},
		{"by capability", ptracer, user(root, 6), true, true},
		{"in a namespace below", five, user(below, 5), true, true}, // whose owner has all capabilities in it
		{"in a namespace below, of another", user(root, 6), user(below, 6), false, false},
		{"in a namespace above", NewRoot(below), user(root, 0), false, false},
	} {
		for ids, want := range map[AccessIDs]bool{RealIDs: c.real, FSIDs: c.fs} {
			if got := c.c.MayAccess(c.v, ids, func() bool { return true }); got != want {
				t.Errorf("%s, ids %d: %v, want %v", c.name, ids, got, want)
			}
		}
	}
	if five.MayAccess(five, RealIDs, func() bool { return false }) {
		t.Error("what isn't dumpable is looked into by its user")
	}
	if !ptracer.MayAccess(five, RealIDs, func() bool { return false }) {
		t.Error("what isn't dumpable isn't looked into by capability")
	}
}

func TestSignalsAreForRealAndSavedUsers(t *testing.T) {
	root, below := spaces(t)
	five, six := user(root, 5), user(root, 6)
	for _, c := range []struct {
		name string
		c, v *Credentials
		want bool
	}{
		{"the same", five, five, true},
		{"another", five, six, false},
		{"real to saved", with(six, func(c *Credentials) { c.RUID = 5 }), with(six, func(v *Credentials) { v.RUID, v.EUID, v.SUID = 7, 7, 5 }), true},
		{"effective to real", with(six, func(c *Credentials) { c.EUID = 5 }), with(six, func(v *Credentials) { v.RUID, v.SUID = 5, 7 }), true},
		{"to effective only", five, with(six, func(v *Credentials) { v.EUID = 5 }), false},
		{"by capability", with(five, func(c *Credentials) { c.Effective = CapOf(unix.CAP_KILL) }), six, true},
		{"the same user, in another namespace", user(below, 6), six, false},
		{"the owner of a namespace", five, user(below, 6), true},
	} {
		if got := c.c.MaySignal(c.v); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestWhoEntersAUserNamespaceIsAbleThere(t *testing.T) {
	root, below := spaces(t)
	c := with(user(root, 5), func(c *Credentials) { c.SecureBits, c.Ambient, c.Inheritable = SecbitNoRoot, 1, 1 })
	n := c.Enter(below)
	if !n.HasCapIn(unix.CAP_SYS_ADMIN, below) || n.HasCapIn(unix.CAP_SYS_ADMIN, root) {
		t.Error("the wrong capabilities")
	}
	if n.SecureBits != 0 || n.Ambient != 0 || n.Inheritable != 0 || n.RUID != 5 {
		t.Errorf("it is %+v", n)
	}
	if c.UserNS != root || c.Effective != 0 {
		t.Error("the old credentials have changed")
	}
}
