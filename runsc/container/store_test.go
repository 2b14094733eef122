package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whoever owns the directory of states could exchange them.
func TestStoreMustBeTheCallers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to give a directory away")
	}
	dir := t.TempDir()
	own, others, link := filepath.Join(dir, "own"), filepath.Join(dir, "others"), filepath.Join(dir, "link")
	for _, d := range []string{own, others} {
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(others, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	try := func(root string) error {
		e, err := (&Store{Root: root}).add("c")
		if err == nil {
			e.file.Close()
		}
		return err
	}
	if err := try(own); err != nil {
		t.Error(err)
	}
	if err := try(others); err == nil || !strings.Contains(err.Error(), "is not a directory of user 0's") {
		t.Errorf("another's directory: %v", err)
	}
	for _, to := range []string{others, own} {
		os.Remove(link)
		os.RemoveAll(filepath.Join(to, "c"))
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
		if err := try(link); (err != nil) != (to == others) {
			t.Errorf("a link to %s: %v", to, err)
		}
	}
	if left, _ := os.ReadDir(others); len(left) != 0 {
		t.Errorf("left there: %v", left)
	}
}
