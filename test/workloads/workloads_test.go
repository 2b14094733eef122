// Package workloads runs real programs in the sandbox and, in a chroot of the
// same tree, on the host, and compares what they print.
//
// In debian/ and busybox/ stand scripts, each a test: the shell of that image
// runs it with an empty /tmp, once inside, once outside, and standard output,
// standard error and the exit status have to be the same. A script keeps what
// differs by nature, such as pids and times, out of its output.
// busybox/commands has one script per line.
//
// The host's side has what a container gets: namespaces of its own, the same
// capabilities, limits, environment and mounts, and an overlay over the image,
// so that nothing is left of what it writes.
//
// The tests need root, and build the images they run (see vitrine/images).
package workloads

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vitrine/images"
)

// patience bounds one run of one script: what takes longer hangs.
const patience = 60 * time.Second

var (
	// runsc is the program, with sentry and gofer beside it.
	runsc string
	// platform is what runs application code.
	platform = "ptrace"
	// unable is why nothing can run here.
	unable string
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if os.Getuid() != 0 {
			unable = "workloads run in containers and in a chroot, which needs root"
			return m.Run()
		}
		if p := os.Getenv("PLATFORM"); p != "" {
			platform = p
		}
		dir, err := os.MkdirTemp("", "vitrine-workloads-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		for name, pkg := range map[string]string{"runsc": "vitrine/runsc", "sentry": "vitrine/runsc/sentry", "gofer": "vitrine/runsc/gofer"} {
			to := filepath.Join(dir, name)
			// Bazel has built them, and says where; they have to stand side by side.
			if built := os.Getenv(strings.ToUpper(name)); built != "" {
				program, err := os.ReadFile(filepath.Join(os.Getenv("TEST_SRCDIR"), os.Getenv("TEST_WORKSPACE"), built))
				if err == nil {
					err = os.WriteFile(to, program, 0o755)
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					return 1
				}
				continue
			}
			if out, err := exec.Command("go", "build", "-o", to, pkg).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "building %s: %v\n%s", pkg, err, out)
				return 1
			}
		}
		runsc = filepath.Join(dir, "runsc")
		return m.Run()
	}())
}

// result is what a script did.
type result struct {
	stdout, stderr string
	code           int
}

// run runs a command to its end.
func run(t *testing.T, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s didn't end within %v; it had printed\n%s%s", name, patience, &stdout, &stderr)
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// image is a root file system to run scripts in.
type image struct {
	name, root, shell string
}

func open(t *testing.T, name, shell string) *image {
	t.Helper()
	if unable != "" {
		t.Skip(unable)
	}
	root, err := images.Root(name)
	if err != nil {
		t.Fatal(err)
	}
	return &image{name, root, shell}
}

// bundle writes a bundle for a script, and returns its directory and name.
func (i *image) bundle(t *testing.T, terminal bool, args ...string) (dir, id string) {
	t.Helper()
	dir = t.TempDir()
	spec := images.Spec(i.root, args...)
	spec.Process.Terminal = terminal
	if err := images.WriteBundle(dir, spec); err != nil {
		t.Fatal(err)
	}
	return dir, "workload"
}

// flags are those of runsc with its state in a directory of this test.
func flags(dir string, more ...string) []string {
	return append([]string{"--root", filepath.Join(dir, "state"), "--platform", platform}, more...)
}

// sandboxed runs a script in a container.
func (i *image) sandboxed(t *testing.T, script string) result {
	t.Helper()
	dir, id := i.bundle(t, false, i.shell, "-c", script)
	// Where it hung this ends it; otherwise there is nothing to delete.
	defer func() { exec.Command(runsc, flags(dir, "delete", "--force", id)...).Run() }()
	return run(t, runsc, flags(dir, "run", "--bundle", dir, id)...)
}

// chroot is what the host does around a script: $1 is the tree, $2 and those
// that follow the command.
const chroot = `set -e
root=$1; shift
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir="$root",upperdir=/mnt/upper,workdir=/mnt/work none /mnt/root
cd /mnt/root
mount -t proc -o nosuid,noexec,nodev proc proc
mount -t sysfs -o ro sysfs sys
for d in null zero full random urandom tty; do cp -a /dev/$d /mnt/work; done
mount -t tmpfs -o mode=755 tmpfs dev
for d in null zero full random urandom tty; do cp -a /mnt/work/$d dev; done
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 shm dev/shm
hostname vitrine
ulimit -Sn 1024
ulimit -Hn 4096
exec setsid -w setpriv --no-new-privs --inh-caps -all --bounding-set -all,+audit_write,+chown,+dac_override,+fowner,+fsetid,+kill,+mknod,+net_bind_service,+net_raw,+setfcap,+setgid,+setpcap,+setuid,+sys_chroot \
	env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=xterm chroot . "$@"`

// native runs a script on the host.
func (i *image) native(t *testing.T, script string) result {
	t.Helper()
	return run(t, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net", "--propagation", "private",
		"bash", "-c", chroot, "chroot", i.root, i.shell, "-c", script)
}

// compare runs a script on both sides.
func (i *image) compare(t *testing.T, script string) {
	t.Helper()
	want, got := i.native(t, script), i.sandboxed(t, script)
	if want.code != got.code {
		t.Errorf("exit status %d, on the host %d", got.code, want.code)
	}
	difference(t, "standard output", want.stdout, got.stdout)
	difference(t, "standard error", want.stderr, got.stderr)
}

// difference fails the test with the lines, as diff(1) finds them, in which two
// texts differ.
func difference(t *testing.T, what, host, sandbox string) {
	t.Helper()
	if host == sandbox {
		return
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"host": host, "sandbox": sandbox} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("diff", "host", "sandbox")
	cmd.Dir = dir
	out, _ := cmd.Output()
	if len(out) > 4000 {
		out = append(out[:4000], "..."...)
	}
	t.Errorf("%s: < on the host, > in the sandbox\n%s", what, out)
}

// scripts runs each script of a directory.
func (i *image) scripts(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(i.name, "*.sh"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in %s", i.name)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".sh"), func(t *testing.T) {
			script, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			i.compare(t, string(script))
		})
	}
}

func TestDebian(t *testing.T) { open(t, "debian", "bash").scripts(t) }

func TestBusybox(t *testing.T) {
	i := open(t, "busybox", "sh")
	commands, err := os.ReadFile("busybox/commands")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(commands), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		name, _, _ := strings.Cut(line, ";")
		t.Run(name, func(t *testing.T) { i.compare(t, "cd /tmp; seq 1000 >n\n"+line) })
	}
}
