package images

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func busybox(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("building an image needs root")
	}
	if _, err := exec.LookPath("busybox"); err != nil {
		t.Skip("needs busybox-static: run tools/setup test")
	}
	root, err := Root("busybox")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestBusyboxRootRunsAShell(t *testing.T) {
	root := busybox(t)
	out, err := exec.Command("chroot", root, "/bin/sh", "-c", "id -un && echo a b | awk '{print $2}' && ls -d /dev /proc /run /sys /tmp").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, want := string(out), "root\nb\n/dev\n/proc\n/run\n/sys\n/tmp\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

func TestEveryAppletIsThere(t *testing.T) {
	root := busybox(t)
	out, err := exec.Command(filepath.Join(root, "bin/busybox"), "--list-full").Output()
	if err != nil {
		t.Fatal(err)
	}
	applets := strings.Fields(string(out))
	if len(applets) < 100 {
		t.Errorf("busybox lists %d applets only", len(applets))
	}
	for _, a := range applets {
		if _, err := os.Lstat(filepath.Join(root, a)); err != nil && a != "linuxrc" {
			t.Error(err)
		}
	}
}

func TestArchiveIsTheTree(t *testing.T) {
	root := busybox(t)
	out, err := exec.Command("tar", "--compare", "--file", filepath.Join(filepath.Dir(root), "root.tar"), "-C", root).CombinedOutput()
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		// The archive's times are all zero.
		if line != "" && !strings.HasSuffix(line, "Mod time differs") {
			t.Errorf("%s (%v)", line, err)
		}
	}
}

func TestSameRecipeSameDirectory(t *testing.T) {
	if a, b := busybox(t), busybox(t); a != b {
		t.Errorf("%s, then %s", a, b)
	}
}

func TestUnknownImageIsRefusedByName(t *testing.T) {
	for _, name := range []string{"slackware", "../images/busybox", ""} {
		if root, err := Root(name); err == nil || !strings.Contains(err.Error(), "busybox debian") {
			t.Errorf("%q: %s, %v; want an error that lists the images", name, root, err)
		}
	}
}

func TestBundleIsWhatWasAsked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a/b")
	want := Spec("/r", "sh", "-c", "echo \"two\nlines\" \\ é")
	if err := WriteBundle(dir, want); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	got := new(specs.Spec)
	if err := json.Unmarshal(b, got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read back %s", b)
	}
}
