package executable

import (
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/vfs"
)

var _ mm.Executable = (*Kept)(nil)

const program = "#!/interpreter\n"

// tree has a file system in memory with a few files to run, or not.
func tree(t *testing.T) *fstest.VFS {
	t.Helper()
	memory, acct := fstest.Memory(t, 0)
	fs, err := tmpfs.New(tmpfs.Options{Memory: memory, Account: acct, Mode: unix.S_IFDIR | 0o755})
	if err != nil {
		t.Fatal(err)
	}
	v := fstest.New(fs)
	for name, mode := range map[string]uint32{"/run": 0o755, "/hidden": 0o711, "/data": 0o644, "/setuid": 0o4755} {
		f, err := v.Open(name, unix.O_CREAT|unix.O_WRONLY, mode)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(program); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if err := v.Mkdir("/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := v.Symlink("run", "/link"); err != nil {
		t.Fatal(err)
	}
	return v
}

func open(t *testing.T, v *fstest.VFS, path string) (*File, error) {
	t.Helper()
	p, err := v.Resolve(path, false)
	if err != nil {
		t.Fatal(err)
	}
	return Open(v.Ctx, p)
}

func TestOnlyRegularFilesWithPermissionAreRun(t *testing.T) {
	v := tree(t)
	for path, want := range map[string]error{
		"/run": nil, "/hidden": nil, "/setuid": nil, "/data": unix.EACCES, "/dir": unix.EACCES, "/link": unix.ELOOP,
	} {
		f, err := open(t, v, path)
		if err != want {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
		if err == nil {
			f.Release()
		}
	}
	o := Opener{v.Ctx, v.View()}
	f, err := o.OpenExec("/link")
	if err != nil {
		t.Fatalf("by a link that is followed: %v", err)
	}
	defer f.Release()
	b := make([]byte, 99)
	if n, err := f.ReadAt(b, 2); err != nil || string(b[:n]) != program[2:] {
		t.Errorf("it reads %q, %v", b[:n], err)
	}
	if _, err := o.OpenExec("/none"); err != unix.ENOENT {
		t.Errorf("what isn't there: %v", err)
	}
	if f, err := o.OpenExec("/data"); err != unix.EACCES || f != nil {
		t.Errorf("what may not be run: %v, %v", f, err)
	}
}

func TestWhatIsRunIsNotWritten(t *testing.T) {
	v := tree(t)
	f, err := open(t, v, "/run")
	if err != nil {
		t.Fatal(err)
	}
	write := func() error {
		w, err := v.Open("/run", unix.O_WRONLY, 0)
		if err == nil {
			w.Close()
		}
		return err
	}
	k := Keep(f)
	if at, err := v.Resolve("/run", false); err != nil || k.Path() != at {
		t.Errorf("it is at %v, want %v, %v", k.Path(), at, err)
	}
	k.IncRef()
	k.DecRef()
	if err := write(); err != unix.ETXTBSY {
		t.Errorf("written while it is kept: %v", err)
	}
	k.DecRef()
	if err := write(); err != nil {
		t.Errorf("written later: %v", err)
	}

	w, err := v.Open("/run", unix.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, v, "/run"); err != unix.ETXTBSY {
		t.Errorf("run while it is written: %v", err)
	}
	w.Close()
}

func TestMountFlagsAndModesCount(t *testing.T) {
	v := tree(t)
	f, err := open(t, v, "/setuid")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	mount := v.NS.Root().Mount
	if m := f.Program().Mode; m&unix.S_ISUID == 0 {
		t.Errorf("mode %o", m)
	}
	mount.SetFlags(vfs.MountNoSUID)
	if m := f.Program().Mode; m != 0 {
		t.Errorf("mode %o with nosuid", m)
	}
	mount.SetFlags(vfs.MountNoExec)
	if _, err := open(t, v, "/run"); err != unix.EACCES {
		t.Errorf("with noexec: %v", err)
	}
	mount.SetFlags(0)

	h, err := open(t, v, "/hidden")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Release()
	nobody := v.Ctx.Credentials().Fork()
	nobody.FSUID, nobody.FSGID = auth.KUID(5), auth.KGID(5)
	nobody.Permitted, nobody.Effective = 0, 0
	if h.Readable(nobody) || !f.Readable(nobody) || !h.Readable(v.Ctx.Credentials()) {
		t.Error("readable by the wrong ones")
	}
}

// A program that is replaced by a rename, as upgrades do, is there at any time.
func TestAProgramIsFoundWhileItIsReplaced(t *testing.T) {
	moments := 0
	for ; ; moments++ {
		v := tree(t)
		ctx := &fstest.Overtaken{Context: v.Ctx, N: moments, Then: func() {
			if err := v.Rename("/hidden", "/run", 0); err != nil {
				t.Error(err)
			}
		}}
		f, err := Opener{ctx, v.View()}.OpenExec("/link")
		if err != nil {
			t.Errorf("moment %d: %v", moments, err)
		} else {
			f.Release()
		}
		if ctx.Early() {
			break
		}
	}
	if moments == 0 {
		t.Error("nobody asked for credentials")
	}
}
