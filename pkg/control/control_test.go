package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fillValue gives every field of v a value that is not zero.
func fillValue(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("s", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(-int64(*n))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := 0; i < 2; i++ {
			fillValue(v.Index(i), n)
		}
	case reflect.Array:
		for i := 0; i < v.Len(); i++ {
			fillValue(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("k"), reflect.ValueOf("v"))
	case reflect.Pointer:
		if v.Type() == reflect.TypeFor[*os.File]() {
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		fillValue(v.Elem(), n)
	case reflect.Struct:
		for i := 0; i < v.NumField(); i++ {
			fillValue(v.Field(i), n)
		}
	default:
		panic(v.Kind())
	}
}

// Every field of every type on the wire survives it: a field that code()
// forgets is found here.
func TestEveryFieldCrossesTheWire(t *testing.T) {
	for _, v := range []coded{
		&CreateArgs{}, &ExecArgs{}, &ContainerState{}, &Stats{}, &processList{}, &idList{},
		&WaitStatus{}, &Error{}, &processRef{}, &pidResult{},
	} {
		n := 0
		fillValue(reflect.ValueOf(v).Elem(), &n)
		if c, ok := v.(*CreateArgs); ok {
			c.Init.ExtraFiles = nil // descriptors go another way
		}
		if e, ok := v.(*ExecArgs); ok {
			e.Process.ExtraFiles = nil
		}
		got := reflect.New(reflect.TypeOf(v).Elem()).Interface().(coded)
		body := marshal(v)
		if err := unmarshal(body, got); err != nil {
			t.Errorf("%T: %v", v, err)
		}
		if !reflect.DeepEqual(got, v) {
			t.Errorf("%T: got %+v, want %+v", v, got, v)
		}
		for i := range body {
			if err := unmarshal(body[:i], got); err == nil {
				t.Errorf("%T: no error for %d of %d bytes", v, i, len(body))
			}
		}
		if err := unmarshal(append(body, 0), got); err == nil {
			t.Errorf("%T: no error for a trailing byte", v)
		}
	}
}

// A runsc and a sentry of different builds find out by the version: it has to change
// with what is on the wire.
func TestVersionChangesWithTheWire(t *testing.T) {
	sum := crc32.NewIEEE()
	for _, v := range []coded{
		&CreateArgs{}, &ExecArgs{}, &ContainerState{}, &Stats{}, &processList{}, &idList{},
		&WaitStatus{}, &Error{}, &processRef{}, &pidResult{}, &update{},
	} {
		n := 0
		fillValue(reflect.ValueOf(v).Elem(), &n)
		sum.Write(marshal(v))
	}
	const version, want = 0x5654_0003, 0x48f7978a
	if wireVersion != version || sum.Sum32() != want {
		t.Errorf("version %#x has the sum %#x, and version %#x had %#x: a change of types needs a new version, and its sum here", wireVersion, sum.Sum32(), version, want)
	}
}

// fake is a Sandbox that writes to what it is given.
type fake struct {
	Sandbox
	waiting   chan struct{}
	cancelled chan struct{}
	created   *CreateArgs
}

func (f *fake) Create(a *CreateArgs) error {
	if a.ID == "bad" {
		return fmt.Errorf("creating: %w", &Error{KindExecNotFound, "no such program"})
	}
	f.created = a
	a.Init.Stdio[1].WriteString("out")
	a.Init.ExtraFiles[len(a.Init.ExtraFiles)-1].WriteString("extra")
	a.Mounts[1].Gofer.WriteString("gofer")
	if a.Init.Stdio[0] != nil || a.Mounts[0].Gofer != nil {
		return errors.New("a descriptor in a wrong place")
	}
	return nil
}

func (f *fake) Wait(ctx context.Context, id string, pid int32) (WaitStatus, error) {
	if pid == 7 {
		return WaitStatus{Signal: 9}, nil
	}
	close(f.waiting)
	<-ctx.Done()
	close(f.cancelled)
	return WaitStatus{}, ctx.Err()
}

func (f *fake) Exec(a *ExecArgs) (int32, error) { return 42, nil }

func (f *fake) State(id string) (ContainerState, error) {
	return ContainerState{}, errors.New("plain")
}

func serve(t *testing.T, s Sandbox) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), strings.Repeat("long", 40)[:100], "sock")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- NewServer(s).Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestDescriptorsArriveInTheirPlaces(t *testing.T) {
	f := &fake{}
	c := serve(t, f)
	var readers []*os.File
	pipe := func() *os.File {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		readers = append(readers, r)
		return w
	}
	a := &CreateArgs{ID: "a", Mounts: make([]Mount, 2)}
	a.Init.Stdio[1] = pipe()
	a.Mounts[1].Gofer = pipe()
	for range 300 { // more than one message takes
		a.Init.ExtraFiles = append(a.Init.ExtraFiles, pipe())
	}
	if err := c.Create(a); err != nil {
		t.Fatal(err)
	}
	for i, want := range map[int]string{0: "out", 1: "gofer", 2: "", 301: "extra"} {
		// At the end of the file: all copies of the other end are closed.
		got, err := io.ReadAll(readers[i])
		if err != nil || string(got) != want {
			t.Errorf("pipe %d: %q, %v; want %q", i, got, err, want)
		}
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	c := serve(t, &fake{})
	err := c.Create(&CreateArgs{ID: "bad"})
	if ErrorKind(err) != KindExecNotFound || ExitCode(err) != 127 || err.Error() != "creating: no such program" {
		t.Errorf("got %v of kind %s", err, ErrorKind(err))
	}
	_, err = c.State("x")
	if ErrorKind(err) != KindInternal || err.Error() != "plain" {
		t.Errorf("got %v of kind %s", err, ErrorKind(err))
	}
}

func TestWaitEndsWithItsConnection(t *testing.T) {
	f := &fake{waiting: make(chan struct{}), cancelled: make(chan struct{})}
	c := serve(t, f)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error)
	go func() {
		_, err := c.Wait(ctx, "a", 1)
		result <- err
	}()
	<-f.waiting
	// Another request meanwhile takes another connection.
	if s, err := c.Wait(context.Background(), "a", 7); err != nil || s.Code() != 137 {
		t.Errorf("got %+v, %v", s, err)
	}
	cancel()
	<-f.cancelled
	if err := <-result; err != context.Canceled {
		t.Errorf("got %v", err)
	}
	if pid, err := c.Exec(&ExecArgs{}); pid != 42 || err != nil {
		t.Errorf("Exec after a cancelled Wait: %d, %v", pid, err)
	}
}

func TestNoSentryIsTold(t *testing.T) {
	_, err := Dial(filepath.Join(t.TempDir(), "none"))
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v", err)
	}
}

func FuzzFrame(f *testing.F) {
	var buf bytes.Buffer
	a := &CreateArgs{ID: "x", Mounts: []Mount{{Destination: "/proc", Type: "proc"}}, Sysctls: map[string]string{"a": "b"}}
	there, _ := present(a.files())
	buf.Write(marshal(&withFiles{there, a}))
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		got := &CreateArgs{}
		w := &withFiles{value: got}
		if unmarshal(b, w) == nil {
			fill(got, w.there, nil)
			again := &CreateArgs{}
			if err := unmarshal(marshal(got), again); err != nil {
				t.Fatal(err)
			}
		}
		unmarshal(b, &processList{})
		unmarshal(b, &Error{})
	})
}
