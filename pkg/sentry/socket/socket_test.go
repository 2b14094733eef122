package socket

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

func TestControlMessagesAreSplit(t *testing.T) {
	whole := append(unix.UnixRights(3, 4, 5), unix.UnixRights(6)...)
	got, err := ParseControl(whole)
	if err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
	if fds := Descriptors(got[0].Data); len(fds) != 3 || fds[2] != 5 || got[1].Level != unix.SOL_SOCKET || got[1].Type != unix.SCM_RIGHTS {
		t.Errorf("%v", got)
	}
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"short header", whole[:15], nil},
		{"length too short", append([]byte{15}, whole[1:]...), unix.EINVAL},
		{"length too long", append([]byte{200}, whole[1:]...), unix.EINVAL},
	} {
		if _, err := ParseControl(c.b); err != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestControlWriterCutsWhatDoesntFit(t *testing.T) {
	for _, c := range []struct {
		room, files, written int
		truncated            bool
	}{{0, 0, 0, true}, {15, 0, 0, true}, {16, 0, 16, true}, {20, 1, 20, true}, {28, 3, 28, false}, {100, 21, 32, false}} {
		w := NewControlWriter(c.room)
		if n := w.FileRoom(); n != c.files {
			t.Errorf("room %d: %d files", c.room, n)
		}
		w.PutDescriptors([]int32{1, 2, 3})
		if len(w.Buf) != c.written || w.Truncated != c.truncated {
			t.Errorf("room %d: %d bytes, truncated %v", c.room, len(w.Buf), w.Truncated)
		}
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add(unix.UnixRights(1, 2))
	f.Add(make([]byte, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := ParseControl(b)
		if err != nil {
			return
		}
		total := 0
		w := NewControlWriter(len(b) + 8)
		for _, m := range all {
			total += controlHeader + len(m.Data)
			w.Put(m.Level, m.Type, m.Data)
			Descriptors(m.Data)
			ParseCredentials(m.Data)
		}
		if total > len(b) || w.Truncated {
			t.Errorf("%d bytes of messages in a buffer of %d", total, len(b))
		}
		again, err := ParseControl(w.Buf)
		if err != nil || len(again) != len(all) {
			t.Fatalf("written anew: %v, %d messages of %d", err, len(again), len(all))
		}
		for i := range all {
			if !bytes.Equal(all[i].Data, again[i].Data) {
				t.Error("data changed")
			}
		}
	})
}

func FuzzParseUnixAddress(f *testing.F) {
	f.Add([]byte{1, 0, '/', 'a', 0, 'x'})
	f.Add([]byte{1, 0, 0, 'a'})
	f.Add([]byte{1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseUnixAddress(b)
		if err != nil {
			return
		}
		again, err := ParseUnixAddress(a.Bytes())
		if len(b) == unixAddressSize && !a.Abstract { // the NUL that Linux adds too
			return
		}
		if err != nil || again != a {
			t.Errorf("%q became %+v, %v", b, again, err)
		}
	})
}
