package auth

import "golang.org/x/sys/unix"

// Program is the owner and mode of a file that is executed, the mode zero where the
// mount forbids set-user-ID and set-group-ID.
type Program struct {
	Mode uint32
	UID  KUID
	GID  KGID
}

// Exec returns the credentials after execve(2) of p: set-user-ID and set-group-ID
// (unless no_new_privs forbids them), and the rules of capabilities(7),
// "Transformation of capabilities during execve()", for files without capabilities of
// their own. secure is AT_SECURE.
func (old *Credentials) Exec(p Program) (c *Credentials, secure bool) {
	c = old.Fork()
	ns := c.UserNS
	if !c.NoNewPrivs && ns.MapsUID(p.UID) && ns.MapsGID(p.GID) {
		if p.Mode&unix.S_ISUID != 0 {
			c.EUID = p.UID
		}
		if p.Mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID|unix.S_IXGRP {
			c.EGID = p.GID
		}
	}
	c.SUID, c.FSUID = c.EUID, c.EUID
	c.SGID, c.FSGID = c.EGID, c.EGID
	var fileP, fileI CapSet
	fileE := false
	privileged := false
	root, hasRoot := ns.KUID(0)
	if hasRoot && c.SecureBits&SecbitNoRoot == 0 {
		if c.EUID == root || c.RUID == root {
			fileP, fileI = AllCaps, AllCaps
		}
		fileE = c.EUID == root
		privileged = c.EUID == root && old.EUID != root
	}
	changed := c.EUID != old.RUID || c.EGID != old.RGID
	if c.EUID != old.EUID || c.EGID != old.EGID {
		c.Ambient = 0
	}
	c.Permitted = old.Inheritable&fileI | fileP&old.Bounding | c.Ambient
	c.Effective = c.Ambient
	if fileE {
		c.Effective = c.Permitted
	}
	c.SecureBits &^= SecbitKeepCaps
	return c, changed && (c.EUID != c.RUID || c.EGID != c.RGID) || privileged && c.RUID != root
}
