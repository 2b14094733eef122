package vfs_test

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/sentry/vfs/vfstest"
)

// A walk with a head start leads where one without does, whatever happens to
// directories, links and mounts in between.
func TestWalksAheadLeadToTheSamePlace(t *testing.T) {
	newFS := func() *vfs.Filesystem {
		mem, account := fstest.Memory(t, 0)
		fs, err := tmpfs.New(tmpfs.Options{Memory: mem, Account: account, Mode: unix.S_IFDIR | 0o755})
		if err != nil {
			t.Fatal(err)
		}
		return fs
	}
	r := rand.New(rand.NewSource(1))
	ctx := vfstest.NewContext()
	root := ctx.Cred
	nobody := *root
	nobody.FSUID, nobody.EUID, nobody.Effective = 1000, 1000, 0
	ns := vfs.NewMountNamespace(newFS(), "test", 0)
	var recent vfs.Recent
	start := ns.Root()
	// Few names, so that paths meet.
	path := func() string {
		var b strings.Builder
		if r.Intn(2) == 0 {
			b.WriteString("/")
		}
		for i := r.Intn(4); ; i-- {
			b.WriteString([]string{"a", "b", "c", "a", "b", "..", ".", "link"}[r.Intn(8)])
			if i == 0 {
				break
			}
			b.WriteString([]string{"/", "/", "/", "//"}[r.Intn(4)])
		}
		if r.Intn(8) == 0 {
			b.WriteString("/")
		}
		return b.String()
	}
	met := 0
	for step := range 40_000 {
		plain := vfs.FSView{Root: ns.Root(), Start: start}
		view := plain
		view.Recent = &recent
		p := path()
		switch r.Intn(40) {
		case 0, 1, 2, 3:
			vfs.Mkdir(ctx, view, p, []uint32{0o755, 0o755, 0o700}[r.Intn(3)])
		case 4:
			vfs.Rmdir(ctx, view, p)
		case 5, 6:
			vfs.Rename(ctx, view, p, view, path(), []uint32{0, 0, unix.RENAME_EXCHANGE}[r.Intn(3)])
		case 7:
			vfs.Symlink(ctx, view, path(), p)
			vfs.Unlink(ctx, view, path())
		case 8:
			at, err := vfs.Resolve(ctx, plain, p, vfs.FollowFinal)
			if err == nil && len(ns.Mounts()) < 6 {
				ns.MountAt(at, newFS(), "test", 0)
			}
		case 9:
			if mounts := ns.Mounts(); len(mounts) > 1 {
				m := mounts[1+r.Intn(len(mounts)-1)].Mount
				if err := ns.Unmount(vfs.Path{Mount: m, Dentry: m.Root()}, true); err != nil {
					t.Fatal(err)
				}
				start = ns.Root()
			}
		case 10:
			if at, err := vfs.Resolve(ctx, plain, p, vfs.FollowFinal|vfs.WantDirectory); err == nil {
				start = at
			}
		case 11:
			if at, err := vfs.Resolve(ctx, plain, p, vfs.FollowFinal); err == nil {
				at.Inode().SetAttributes(ctx, &vfs.SetAttr{Mask: vfs.SetMode, Mode: []uint32{0o700, 0o755}[r.Intn(2)]})
			}
		}
		for range 2 {
			flags := []vfs.WalkFlags{0, vfs.FollowFinal, vfs.WantDirectory, vfs.ResolveNoSymlinks, vfs.ResolveInRoot, vfs.ResolveBeneath}[r.Intn(6)]
			ctx.Cred = []*auth.Credentials{root, root, &nobody}[r.Intn(3)]
			want, wantErr := vfs.Resolve(ctx, plain, p, flags)
			got, err := vfs.Resolve(ctx, view, p, flags)
			if got != want || err != wantErr {
				t.Fatalf("step %d: %q, flags %#x: %v, %v; want %v, %v", step, p, flags, name(got), err, name(want), wantErr)
			}
			if err == nil && strings.Contains(strings.Trim(p, "/"), "/") {
				met++
			}
			wantParent, wantErr := vfs.ResolveParent(ctx, plain, p, 0)
			gotParent, err := vfs.ResolveParent(ctx, view, p, 0)
			if gotParent != wantParent || err != wantErr {
				t.Fatalf("step %d: parent of %q: %v, %v; want %v, %v", step, p, gotParent, err, wantParent, wantErr)
			}
			p = path()
		}
		ctx.Cred = root
	}
	if met < 1000 {
		t.Errorf("only %d walks led anywhere", met)
	}
}

func name(p vfs.Path) string {
	if p.Dentry == nil {
		return "nothing"
	}
	n, _ := vfs.PathName(vfs.Path{}, p)
	return fmt.Sprintf("%s in mount %d", n, p.Mount.ID)
}
