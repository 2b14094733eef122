package vfs

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of path_resolution(7).
const (
	PathMax     = 4096
	NameMax     = 255
	maxSymlinks = 40
)

// WalkFlags change how a path is resolved. The Resolve flags are those of
// openat2(2).
type WalkFlags uint32

const (
	// FollowFinal follows a symbolic link in the last component.
	FollowFinal WalkFlags = 1 << iota
	// WantDirectory fails with ENOTDIR unless the path leads to a directory.
	WantDirectory
	// AllowEmpty lets the empty path mean the start (AT_EMPTY_PATH).
	AllowEmpty
	ResolveNoXDev
	ResolveNoMagicLinks
	ResolveNoSymlinks
	ResolveBeneath
	ResolveInRoot
)

// FSView is from where paths are resolved: a task's root and where relative
// paths start.
type FSView struct {
	Root  Path
	Start Path
	// Recent is where the last walk of the same task led, or nil.
	Recent *Recent
}

// walker is one resolution under way.
type walker struct {
	ctx   Context
	view  FSView
	flags WalkFlags
	cur   Path
	links int
	// anywhere: permissions to search don't matter.
	anywhere bool
	// recent is where the walk is noted, nil if it can't be: see recent.go.
	recent *Recent
	moves  uint64
	base   Path // where path begins
}

// Resolve returns the place that path leads to. It doesn't keep path: the caller
// may have it in memory that it uses again.
func Resolve(ctx Context, view FSView, path string, flags WalkFlags) (Path, error) {
	w := walker{ctx: ctx, view: view, flags: flags}
	if err := w.begin(path); err != nil {
		return Path{}, err
	}
	if path == "" {
		return w.cur, w.wantDir(w.cur)
	}
	all := path
	path = w.ahead(path)
	for {
		name, rest, slash := nextComponent(path)
		if name == "" { // only slashes
			return w.cur, w.wantDir(w.cur)
		}
		last := rest == ""
		if last && !slash && w.recent != nil {
			w.note(all[:len(all)-len(name)])
		}
		follow := !last || slash || flags&FollowFinal != 0
		target, err := w.step(name, follow)
		if err != nil {
			return Path{}, err
		}
		if target != "" {
			if err := w.redirect(target); err != nil {
				return Path{}, err
			}
			path = target
			if slash || !last {
				path += "/" + rest
			}
			if strings.Trim(path, "/") == "" {
				return w.cur, w.wantDir(w.cur)
			}
			continue
		}
		if last {
			if slash {
				if !w.cur.Dentry.isDir {
					return Path{}, unix.ENOTDIR
				}
			}
			return w.cur, w.wantDir(w.cur)
		}
		path = rest
	}
}

// Parent is the directory of a path's last component.
type Parent struct {
	Dir  Path
	Name string // "." or ".." or "" (the root) where the path ends so
	// Slash: the path ends in a slash, so that the name must be, or become,
	// a directory.
	Slash bool
}

// ResolveParent resolves all of path but its last component.
func ResolveParent(ctx Context, view FSView, path string, flags WalkFlags) (Parent, error) {
	w := walker{ctx: ctx, view: view, flags: flags}
	if err := w.begin(path); err != nil {
		return Parent{}, err
	}
	return w.parent(path)
}

func (w *walker) parent(path string) (Parent, error) {
	all := path
	path = w.ahead(path)
	for {
		name, rest, slash := nextComponent(path)
		if rest == "" {
			if !slash && w.recent != nil {
				w.note(all[:len(all)-len(name)])
			}
			if err := w.maySearch(w.cur); err != nil {
				return Parent{}, err
			}
			if len(name) > NameMax {
				return Parent{}, unix.ENAMETOOLONG
			}
			return Parent{Dir: w.cur, Name: name, Slash: slash}, nil
		}
		target, err := w.step(name, true)
		if err != nil {
			return Parent{}, err
		}
		if target != "" {
			if err := w.redirect(target); err != nil {
				return Parent{}, err
			}
			path = target + "/" + rest
			if slash && rest == "" {
				path += "/"
			}
			continue
		}
		path = rest
	}
}

// nextComponent splits the first name off path. slash reports whether slashes
// came right behind it; they are not part of rest.
func nextComponent(path string) (name, rest string, slash bool) {
	i := 0
	for i < len(path) && path[i] == '/' {
		i++
	}
	path = path[i:]
	j := strings.IndexByte(path, '/')
	if j < 0 {
		return path, "", false
	}
	name, rest = path[:j], path[j:]
	k := 0
	for k < len(rest) && rest[k] == '/' {
		k++
	}
	return name, rest[k:], true
}

// begin places the walker at the start of path.
func (w *walker) begin(path string) error {
	if path == "" && w.flags&AllowEmpty == 0 {
		return unix.ENOENT
	}
	if len(path) >= PathMax {
		return unix.ENAMETOOLONG
	}
	c := w.ctx.Credentials()
	w.anywhere = c.HasRootCap(unix.CAP_DAC_READ_SEARCH) || c.HasRootCap(unix.CAP_DAC_OVERRIDE)
	w.cur = w.view.Start
	if w.flags&ResolveInRoot != 0 {
		w.view.Root = w.view.Start
	}
	if path != "" && path[0] == '/' {
		if w.flags&ResolveBeneath != 0 {
			return unix.EXDEV
		}
		w.cur = w.view.Root
	}
	w.begins()
	return nil
}

// redirect goes on from where a symbolic link's target starts.
func (w *walker) redirect(target string) error {
	w.recent = nil
	if target[0] == '/' {
		if w.flags&ResolveBeneath != 0 {
			return unix.EXDEV
		}
		if w.flags&ResolveNoXDev != 0 && w.cur.Mount != w.view.Root.Mount {
			return unix.EXDEV
		}
		w.cur = w.view.Root
	}
	return nil
}

func (w *walker) wantDir(p Path) error {
	if w.flags&WantDirectory != 0 && !p.Dentry.isDir {
		return unix.ENOTDIR
	}
	return nil
}

// maySearch checks that p is a directory that may be searched.
func (w *walker) maySearch(p Path) error {
	if !p.Dentry.isDir {
		return unix.ENOTDIR
	}
	if w.anywhere {
		return nil
	}
	a := BorrowAttr()
	defer a.Return()
	if err := p.Inode().Attributes(w.ctx, a); err != nil {
		return err
	}
	return CheckPermission(w.ctx.Credentials(), a, MayExec)
}

// step goes to name in the current directory. Where that is a symbolic link
// to be followed it stays in the directory, and returns the target.
func (w *walker) step(name string, follow bool) (string, error) {
	if err := w.maySearch(w.cur); err != nil {
		return "", err
	}
	switch name {
	case ".":
		return "", nil
	case "..":
		w.recent = nil
		return "", w.up()
	}
	if len(name) > NameMax {
		return "", unix.ENAMETOOLONG
	}
	var err error
	d := w.cur.Dentry.cached(name)
	if d == nil {
		w.recent = nil
		if d, err = w.cur.Dentry.lookupSlow(w.ctx, strings.Clone(name)); err != nil {
			return "", err
		}
	} else if d.inode == nil {
		return "", unix.ENOENT
	}
	next := Path{w.cur.Mount, d}
	if covered := w.cur.Mount.ns.cover(next); covered != next {
		w.recent = nil
		if w.flags&ResolveNoXDev != 0 {
			return "", unix.EXDEV
		}
		next = covered
	}
	if !next.Dentry.isLink || !follow {
		w.cur = next
		return "", nil
	}
	link := next.Inode().(Link)
	if w.links++; w.links > maxSymlinks || w.flags&ResolveNoSymlinks != 0 {
		return "", unix.ELOOP
	}
	if magic, ok := link.(MagicLink); ok {
		if w.flags&ResolveNoMagicLinks != 0 {
			return "", unix.ELOOP
		}
		if w.flags&(ResolveBeneath|ResolveInRoot) != 0 {
			return "", unix.EXDEV
		}
		w.cur, err = magic.Target(w.ctx)
		return "", err
	}
	target, err := link.Readlink(w.ctx)
	if err == nil && target == "" {
		err = unix.ENOENT
	}
	return target, err
}

// up goes to the parent directory, across mounts, but not above the root.
func (w *walker) up() error {
	p := w.cur
	for {
		if p == w.view.Root || w.flags&ResolveBeneath != 0 && p == w.view.Start {
			if w.flags&ResolveBeneath != 0 {
				return unix.EXDEV
			}
			return nil
		}
		if p.Dentry != p.Mount.root {
			break
		}
		q, ok := above(p)
		if !ok {
			return nil
		}
		if w.flags&ResolveNoXDev != 0 {
			return unix.EXDEV
		}
		p = q
	}
	parent := p.Dentry.Parent()
	if parent == nil {
		return nil
	}
	w.cur = p.Mount.ns.cover(Path{p.Mount, parent})
	return nil
}
