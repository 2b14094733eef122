package gofer

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/fs/overlay"
	"vitrine/pkg/sentry/fs/tmpfs"
)

// TestUnderAnOverlay is what a container's root is: a tree that is only read, under one in memory.
func TestUnderAnOverlay(t *testing.T) {
	for seed := range uint64(10) {
		dir, twin := fstest.HostDir(t), fstest.HostDir(t)
		for _, d := range []string{dir, twin} {
			os.MkdirAll(filepath.Join(d, "d/e"), 0o755)
			os.Mkdir(filepath.Join(d, "f"), 0o755)
			os.WriteFile(filepath.Join(d, "d/a"), []byte("content of the host"), 0o644)
			os.WriteFile(filepath.Join(d, "f/g"), make([]byte, 9000), 0o600)
		}
		tr := serve(t, dir, p9.AllExtensions, Options{ReadOnly: true})
		o := tmpfs.Options{Mode: unix.S_IFDIR | 0o755}
		o.Memory, o.Account = fstest.Memory(t, 0)
		fs, err := overlay.New(tr.fs, auth.NewRoot(auth.NewRootUserNamespace()), o)
		if err != nil {
			t.Fatal(err)
		}
		fstest.Run(t, randomBytes(seed, 2000), inWords{fstest.New(fs), false}, inWords{fstest.Host{Dir: twin}, false}, fstest.Options{NoHoles: true, NoDirLinks: true})
	}
}
