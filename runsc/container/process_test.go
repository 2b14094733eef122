package container

import (
	"fmt"
	"os"
	"testing"
)

// A pid that a container's process has had says nothing once the process has ended:
// it may be another's.
func TestPathOfAProcessThatHasThePidSince(t *testing.T) {
	s := &Store{Root: t.TempDir()}
	me := identify(os.Getpid())
	add := func(id string, p ProcessID) {
		t.Helper()
		e, err := s.add(id)
		if err != nil {
			t.Fatal(err)
		}
		defer e.unlock()
		if err := e.save(&State{ID: id, Sandbox: id, Sentry: p, Complete: true}); err != nil {
			t.Fatal(err)
		}
	}
	path := fmt.Sprintf("/proc/%d/ns/ipc", me.PID)
	add("before", ProcessID{me.PID, me.Start - 1})
	if c := s.containerOfPath(path); c != nil {
		t.Errorf("%s is of container %s, whose process has ended", path, c.State.ID)
	}
	add("now", me)
	if c := s.containerOfPath(path); c == nil || c.State.ID != "now" {
		t.Errorf("%s is of container %v, and not of the one whose process lives", path, c)
	}
	if id := s.SandboxOfPath(path); id != "now" {
		t.Errorf("%s is of sandbox %q", path, id)
	}
}
