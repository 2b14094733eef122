package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
	"vitrine/runsc/spec"
)

// ErrNotExist is the error of Load for a container that isn't there.
var ErrNotExist = errors.New("container does not exist")

const (
	stateFile  = "state.json"
	socketFile = "control.sock"
	exitFile   = "exit"
)

// State is what is kept on disk of a container.
type State struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Owner       int               `json:"owner"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Terminal    bool              `json:"terminal,omitempty"`
	// Sandbox is the ID of the sandbox's root container: ID itself, or
	// another whose sentry holds this container too.
	Sandbox string `json:"sandbox"`
	// Sentry serves the sandbox; Gofer this container.
	Sentry ProcessID `json:"sentry"`
	Gofer  ProcessID `json:"gofer"`
	// Waiter is the process whose pid stands for a container that is not the
	// sandbox's root: it ends with the container's exit status.
	Waiter ProcessID `json:"waiter,omitzero"`
	// Complete is set when the container has been created: until then a
	// living sentry means that it is being created.
	Complete bool `json:"complete,omitempty"`
	// Cgroups are the directories made for it, and removed with it.
	Cgroups []string `json:"cgroups,omitempty"`
	// Hooks that still have to run.
	Hooks *specs.Hooks `json:"hooks,omitempty"`
	// Process holds what exec takes from the container by default.
	Process *specs.Process `json:"process,omitempty"`
	// Limits are those that the sentry holds or shows, as last set.
	Limits control.Resources `json:"limits"`
}

// ProcessID names a process of the host for as long as the host is up: its pid
// and when it started, in clock ticks since boot.
type ProcessID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// identify returns the ProcessID of a process that exists.
func identify(pid int) ProcessID {
	st, _ := readStat(pid)
	return ProcessID{pid, st.start}
}

// Alive says whether the process still runs. A zombie doesn't; but one whose first
// thread alone has ended does, as a sentry that is killed does until all of its PID
// namespace has ended (pid_namespaces(7)).
func (p ProcessID) Alive() bool {
	st, err := readStat(p.PID)
	return p.PID > 0 && err == nil && st.start == p.Start && (st.state != 'Z' && st.state != 'X' || st.threads > 1)
}

// stat is what is known of a process by /proc/PID/stat.
type stat struct {
	state   byte
	threads int
	start   uint64
}

// readStat reads state, num_threads and starttime of /proc/PID/stat (proc(5), fields
// 3, 20 and 22).
func readStat(pid int) (st stat, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The name, field 2, may hold anything; it ends with the last ")".
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	st.state = fields[0][0]
	if _, err = fmt.Sscan(fields[17], &st.threads); err == nil {
		_, err = fmt.Sscan(fields[19], &st.start)
	}
	return st, err
}

// Store is a directory of containers' states: one directory for each, locked
// with flock(2) by whoever changes it. Its methods may be used by any number
// of processes at once.
type Store struct{ Root string }

func (s *Store) dir(id string) string { return filepath.Join(s.Root, id) }

// entry is the locked directory of a container.
type entry struct {
	path string
	file *os.File
}

// add makes the directory of a new container and locks it.
func (s *Store) add(id string) (*entry, error) {
	if err := spec.ValidateID(id); err != nil {
		return nil, err
	}
	path := s.dir(id)
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(s.Root, 0o700); err != nil {
			return nil, fmt.Errorf("--root: %w", err)
		}
		err = os.Mkdir(path, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("container %q exists already", id)
	}
	if err != nil {
		return nil, fmt.Errorf("--root: %w", err)
	}
	// A directory below /tmp may be somebody else's trap, and so may one that a
	// symbolic link leads to.
	var st unix.Stat_t
	if err := unix.Stat(s.Root, &st); err != nil || int(st.Uid) != os.Geteuid() {
		unix.Rmdir(path)
		return nil, fmt.Errorf("--root %s is not a directory of user %d's", s.Root, os.Geteuid())
	}
	return s.lock(id)
}

// lockAndLoad locks an existing container and returns what is stored of it.
func (s *Store) lockAndLoad(id string) (*entry, *Container, error) {
	e, err := s.lock(id)
	if err != nil {
		return nil, nil, err
	}
	c, err := s.Load(id)
	if err != nil {
		e.unlock()
		return nil, nil, err
	}
	return e, c, nil
}

// lock waits for the lock of an existing container, for as long as what is killed may
// take to end: a hook of another command may hang.
func (s *Store) lock(id string) (*entry, error) {
	if err := spec.ValidateID(id); err != nil {
		return nil, err
	}
	f, err := os.Open(s.dir(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notExist(id)
	}
	if err != nil {
		return nil, err
	}
	fd := int(f.Fd())
	if err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		locked := make(chan error, 1)
		go func() {
			err := unix.Flock(fd, unix.LOCK_EX)
			for err == unix.EINTR {
				err = unix.Flock(fd, unix.LOCK_EX)
			}
			locked <- err
			runtime.KeepAlive(f)
		}()
		select {
		case err = <-locked:
		case <-time.After(patience):
			// The file stays open for the one that waits; this process is about to end.
			return nil, fmt.Errorf("container %q is in the hands of another command, which creates, starts, changes or deletes it and has not ended within %v", id, patience)
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking container %q: %w", id, err)
	}
	e := &entry{path: s.dir(id), file: f}
	// It may have been removed, and even made again, meanwhile.
	var locked, named unix.Stat_t
	if unix.Fstat(int(f.Fd()), &locked) != nil || unix.Stat(e.path, &named) != nil || locked.Ino != named.Ino {
		f.Close()
		return nil, notExist(id)
	}
	return e, nil
}

func notExist(id string) error { return fmt.Errorf("container %q: %w", id, ErrNotExist) }

func (e *entry) unlock() { e.file.Close() }

// save writes the state in one step: readers see the old one or the new one.
func (e *entry) save(s *State) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	temporary := filepath.Join(e.path, "."+stateFile)
	if err := os.WriteFile(temporary, b, 0o600); err != nil {
		return fmt.Errorf("saving the state: %w", err)
	}
	return os.Rename(temporary, filepath.Join(e.path, stateFile))
}

// remove removes the directory. The lock is still held.
func (e *entry) remove() error {
	for _, name := range []string{stateFile, "." + stateFile, socketFile, exitFile} {
		unix.Unlink(filepath.Join(e.path, name))
	}
	if err := unix.Rmdir(e.path); err == nil || err == unix.ENOENT {
		return nil
	}
	return os.RemoveAll(e.path)
}

// Load reads a container's state, without its lock.
func (s *Store) Load(id string) (*Container, error) {
	if err := spec.ValidateID(id); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(s.dir(id), stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(s.dir(id)); err == nil {
			// Its creator is about to write the state, or was killed before.
			return &Container{store: s, State: State{ID: id, Sandbox: id}}, nil
		}
		return nil, notExist(id)
	}
	if err != nil {
		return nil, err
	}
	c := &Container{store: s}
	if err := json.Unmarshal(b, &c.State); err != nil {
		return nil, fmt.Errorf("state of container %q: %w", id, err)
	}
	return c, nil
}

// List loads all containers, by ID. One that goes meanwhile is left out, and so is
// one whose state can't be read, which is part of the error then.
func (s *Store) List() ([]*Container, error) {
	entries, err := os.ReadDir(s.Root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []*Container
	var failures []error
	for _, e := range entries {
		if spec.ValidateID(e.Name()) != nil || !e.IsDir() {
			continue
		}
		c, err := s.Load(e.Name())
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			failures = append(failures, err)
			continue
		}
		all = append(all, c)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].State.ID < all[j].State.ID })
	return all, errors.Join(failures...)
}
