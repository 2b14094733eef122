package processes

import (
	"slices"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/usermem"
)

var identityRows = []call.Row{
	call.Full(unix.SYS_GETUID, "getuid", call.Args0(getuid)),
	call.Full(unix.SYS_GETEUID, "geteuid", call.Args0(geteuid)),
	call.Full(unix.SYS_GETGID, "getgid", call.Args0(getgid)),
	call.Full(unix.SYS_GETEGID, "getegid", call.Args0(getegid)),
	call.Full(unix.SYS_GETRESUID, "getresuid", call.Args3(getresuid)),
	call.Full(unix.SYS_GETRESGID, "getresgid", call.Args3(getresgid)),
	call.Full(unix.SYS_SETUID, "setuid", call.Args1(setuid)),
	call.Full(unix.SYS_SETGID, "setgid", call.Args1(setgid)),
	call.Full(unix.SYS_SETREUID, "setreuid", call.Args2(setreuid)),
	call.Full(unix.SYS_SETREGID, "setregid", call.Args2(setregid)),
	call.Full(unix.SYS_SETRESUID, "setresuid", call.Args3(setresuid)),
	call.Full(unix.SYS_SETRESGID, "setresgid", call.Args3(setresgid)),
	call.Full(unix.SYS_SETFSUID, "setfsuid", call.Args1(setfsuid)),
	call.Full(unix.SYS_SETFSGID, "setfsgid", call.Args1(setfsgid)),
	call.Full(unix.SYS_GETGROUPS, "getgroups", call.Args2(getgroups)),
	call.Full(unix.SYS_SETGROUPS, "setgroups", call.Args2(setgroups)),
	call.Full(unix.SYS_CAPGET, "capget", call.Args2(capget)),
	call.Full(unix.SYS_CAPSET, "capset", call.Args2(capset)),
}

func getuid(t *kernel.Task) (uint64, error) {
	c := t.Credentials()
	return uint64(c.UserNS.UID(c.RUID)), nil
}

func geteuid(t *kernel.Task) (uint64, error) {
	c := t.Credentials()
	return uint64(c.UserNS.UID(c.EUID)), nil
}

func getgid(t *kernel.Task) (uint64, error) {
	c := t.Credentials()
	return uint64(c.UserNS.GID(c.RGID)), nil
}

func getegid(t *kernel.Task) (uint64, error) {
	c := t.Credentials()
	return uint64(c.UserNS.GID(c.EGID)), nil
}

func putThree(t *kernel.Task, to [3]usermem.Addr, v [3]uint32) (uint64, error) {
	for i, a := range to {
		if err := usermem.CopyOutUint32(t.MM(), a, v[i]); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func getresuid(t *kernel.Task, r, e, s usermem.Addr) (uint64, error) {
	c := t.Credentials()
	ns := c.UserNS
	return putThree(t, [3]usermem.Addr{r, e, s}, [3]uint32{ns.UID(c.RUID), ns.UID(c.EUID), ns.UID(c.SUID)})
}

func getresgid(t *kernel.Task, r, e, s usermem.Addr) (uint64, error) {
	c := t.Credentials()
	ns := c.UserNS
	return putThree(t, [3]usermem.Addr{r, e, s}, [3]uint32{ns.GID(c.RGID), ns.GID(c.EGID), ns.GID(c.SGID)})
}

// setUIDs puts new uids in place, with what they do to capabilities.
func setUIDs(t *kernel.Task, r, e, s auth.KUID) {
	old := t.Credentials()
	n := old.Fork()
	n.RUID, n.EUID, n.SUID, n.FSUID = r, e, s, e
	n.FixupUIDs(old)
	if n.EUID != old.EUID {
		t.MM().SetDumpable(0)
	}
	t.SetCredentials(n)
}

func setGIDs(t *kernel.Task, r, e, s auth.KGID) {
	old := t.Credentials()
	n := old.Fork()
	n.RGID, n.EGID, n.SGID, n.FSGID = r, e, s, e
	if n.EGID != old.EGID {
		t.MM().SetDumpable(0)
	}
	t.SetCredentials(n)
}

func setuid(t *kernel.Task, id uint32) (uint64, error) {
	k, err := call.KUID(t, id)
	if err != nil || id == auth.NoID {
		return 0, unix.EINVAL
	}
	c := t.Credentials()
	switch {
	case c.HasCap(unix.CAP_SETUID):
		setUIDs(t, k, k, k)
	case k == c.RUID || k == c.SUID:
		setUIDs(t, c.RUID, k, c.SUID)
	default:
		return 0, unix.EPERM
	}
	return 0, nil
}

func setgid(t *kernel.Task, id uint32) (uint64, error) {
	k, err := call.KGID(t, id)
	if err != nil || id == auth.NoID {
		return 0, unix.EINVAL
	}
	c := t.Credentials()
	switch {
	case c.HasCap(unix.CAP_SETGID):
		setGIDs(t, k, k, k)
	case k == c.RGID || k == c.SGID:
		setGIDs(t, c.RGID, k, c.SGID)
	default:
		return 0, unix.EPERM
	}
	return 0, nil
}

func setreuid(t *kernel.Task, rid, eid uint32) (uint64, error) {
	c := t.Credentials()
	r, err := call.KUID(t, rid)
	if err != nil {
		return 0, err
	}
	e, err := call.KUID(t, eid)
	if err != nil {
		return 0, err
	}
	privileged := c.HasCap(unix.CAP_SETUID)
	nr, ne, ns := c.RUID, c.EUID, c.SUID
	if rid != auth.NoID {
		if nr = r; !privileged && r != c.RUID && r != c.EUID {
			return 0, unix.EPERM
		}
	}
	if eid != auth.NoID {
		if ne = e; !privileged && e != c.RUID && e != c.EUID && e != c.SUID {
			return 0, unix.EPERM
		}
	}
	if rid != auth.NoID || eid != auth.NoID && ne != c.RUID {
		ns = ne
	}
	setUIDs(t, nr, ne, ns)
	return 0, nil
}

func setregid(t *kernel.Task, rid, eid uint32) (uint64, error) {
	c := t.Credentials()
	r, err := call.KGID(t, rid)
	if err != nil {
		return 0, err
	}
	e, err := call.KGID(t, eid)
	if err != nil {
		return 0, err
	}
	privileged := c.HasCap(unix.CAP_SETGID)
	nr, ne, ns := c.RGID, c.EGID, c.SGID
	if rid != auth.NoID {
		if nr = r; !privileged && r != c.RGID && r != c.EGID {
			return 0, unix.EPERM
		}
	}
	if eid != auth.NoID {
		if ne = e; !privileged && e != c.RGID && e != c.EGID && e != c.SGID {
			return 0, unix.EPERM
		}
	}
	if rid != auth.NoID || eid != auth.NoID && ne != c.RGID {
		ns = ne
	}
	setGIDs(t, nr, ne, ns)
	return 0, nil
}

func setresuid(t *kernel.Task, rid, eid, sid uint32) (uint64, error) {
	c := t.Credentials()
	ids := [3]auth.KUID{c.RUID, c.EUID, c.SUID}
	old := ids
	for i, id := range [3]uint32{rid, eid, sid} {
		k, err := call.KUID(t, id)
		if err != nil {
			return 0, err
		}
		if id == auth.NoID {
			continue
		}
		if !c.HasCap(unix.CAP_SETUID) && !slices.Contains(old[:], k) {
			return 0, unix.EPERM
		}
		ids[i] = k
	}
	setUIDs(t, ids[0], ids[1], ids[2])
	return 0, nil
}

func setresgid(t *kernel.Task, rid, eid, sid uint32) (uint64, error) {
	c := t.Credentials()
	ids := [3]auth.KGID{c.RGID, c.EGID, c.SGID}
	old := ids
	for i, id := range [3]uint32{rid, eid, sid} {
		k, err := call.KGID(t, id)
		if err != nil {
			return 0, err
		}
		if id == auth.NoID {
			continue
		}
		if !c.HasCap(unix.CAP_SETGID) && !slices.Contains(old[:], k) {
			return 0, unix.EPERM
		}
		ids[i] = k
	}
	setGIDs(t, ids[0], ids[1], ids[2])
	return 0, nil
}

func setfsuid(t *kernel.Task, id uint32) (uint64, error) {
	c := t.Credentials()
	was := uint64(c.UserNS.UID(c.FSUID))
	k, err := call.KUID(t, id)
	if err != nil || id == auth.NoID {
		return was, nil
	}
	if k == c.RUID || k == c.EUID || k == c.SUID || k == c.FSUID || c.HasCap(unix.CAP_SETUID) {
		n := c.Fork()
		n.FSUID = k
		n.FixupFSUID(c)
		t.SetCredentials(n)
	}
	return was, nil
}

func setfsgid(t *kernel.Task, id uint32) (uint64, error) {
	c := t.Credentials()
	was := uint64(c.UserNS.GID(c.FSGID))
	k, err := call.KGID(t, id)
	if err != nil || id == auth.NoID {
		return was, nil
	}
	if k == c.RGID || k == c.EGID || k == c.SGID || k == c.FSGID || c.HasCap(unix.CAP_SETGID) {
		n := c.Fork()
		n.FSGID = k
		t.SetCredentials(n)
	}
	return was, nil
}

func getgroups(t *kernel.Task, n int32, a usermem.Addr) (uint64, error) {
	c := t.Credentials()
	if n < 0 {
		return 0, unix.EINVAL
	}
	if n == 0 {
		return uint64(len(c.Groups)), nil
	}
	if int(n) < len(c.Groups) {
		return 0, unix.EINVAL
	}
	var w call.Writer
	for _, g := range c.Groups {
		w.U32(c.UserNS.GID(g))
	}
	return uint64(len(c.Groups)), w.To(t, a)
}

func setgroups(t *kernel.Task, n int32, a usermem.Addr) (uint64, error) {
	c := t.Credentials()
	if !c.HasCap(unix.CAP_SETGID) || c.UserNS.SetgroupsDenied() {
		return 0, unix.EPERM
	}
	if n < 0 || n > 65536 {
		return 0, unix.EINVAL
	}
	raw := make([]byte, 4*n)
	if _, err := t.MM().CopyIn(a, raw); err != nil {
		return 0, err
	}
	groups := make([]auth.KGID, 0, n)
	for i := range int(n) {
		k, ok := c.UserNS.KGID(call.U32(raw[4*i:]))
		if !ok {
			return 0, unix.EINVAL
		}
		groups = append(groups, k)
	}
	slices.Sort(groups)
	if len(groups) > 32 {
		if err := memfile.ChargeFor(c.Account, &groups[0], int64(4*n)); err != nil {
			return 0, err
		}
	}
	f := c.Fork()
	f.Groups = groups
	t.SetCredentials(f)
	return 0, nil
}

// Versions of capget(2)'s header, and how many words of each set they have.
var capVersions = map[uint32]int{0x19980330: 1, 0x20071026: 2, 0x20080522: 2}

// capHeader reads the header. ok is false where the version is unknown: the
// preferred one has been written, as Linux does.
func capHeader(t *kernel.Task, hdr usermem.Addr) (words int, pid call.PID, ok bool, err error) {
	var b [8]byte
	if _, err := t.MM().CopyIn(hdr, b[:]); err != nil {
		return 0, 0, false, err
	}
	words, ok = capVersions[call.U32(b[:])]
	if !ok {
		err = usermem.CopyOutUint32(t.MM(), hdr, 0x20080522)
	}
	return words, call.PID(call.U32(b[4:])), ok, err
}

func capget(t *kernel.Task, hdr, data usermem.Addr) (uint64, error) {
	words, pid, ok, err := capHeader(t, hdr)
	if err != nil {
		return 0, err
	}
	if !ok {
		if data == 0 {
			return 0, nil
		}
		return 0, unix.EINVAL
	}
	if pid < 0 {
		return 0, unix.EINVAL
	}
	o := t
	if pid != 0 {
		if o = t.PIDNamespace().Task(int32(pid)); o == nil {
			return 0, unix.ESRCH
		}
	}
	if data == 0 {
		return 0, nil
	}
	c := o.Credentials()
	var w call.Writer
	for i := range words {
		for _, s := range []auth.CapSet{c.Effective, c.Permitted, c.Inheritable} {
			w.U32(uint32(s >> (32 * i)))
		}
	}
	return 0, w.To(t, data)
}

func capset(t *kernel.Task, hdr, data usermem.Addr) (uint64, error) {
	words, pid, ok, err := capHeader(t, hdr)
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, unix.EINVAL
	}
	if pid != 0 && int32(pid) != t.TID(t.PIDNamespace()) {
		return 0, unix.EPERM
	}
	raw := make([]byte, 12*words)
	if _, err := t.MM().CopyIn(data, raw); err != nil {
		return 0, err
	}
	var e, p, i auth.CapSet
	for w := range words {
		e |= auth.CapSet(call.U32(raw[12*w:])) << (32 * w)
		p |= auth.CapSet(call.U32(raw[12*w+4:])) << (32 * w)
		i |= auth.CapSet(call.U32(raw[12*w+8:])) << (32 * w)
	}
	e, p, i = e&auth.AllCaps, p&auth.AllCaps, i&auth.AllCaps
	c := t.Credentials()
	// capabilities(7), "Programmatically adjusting capability sets".
	if !c.HasCap(unix.CAP_SETPCAP) && i&^(c.Inheritable|c.Permitted) != 0 ||
		i&^(c.Inheritable|c.Bounding) != 0 || p&^c.Permitted != 0 || e&^p != 0 {
		return 0, unix.EPERM
	}
	n := c.Fork()
	n.Effective, n.Permitted, n.Inheritable = e, p, i
	n.Ambient &= p & i
	t.SetCredentials(n)
	return 0, nil
}
