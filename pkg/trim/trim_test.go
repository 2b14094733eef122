package trim

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// mapping is one of the program's, with its resident kilobytes.
type mapping struct {
	span
	rss int
}

// readOnly returns the mappings of this program's file that can't be written.
func readOnly(t *testing.T) (all []mapping) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if start, end, ok := strings.Cut(f[0], "-"); ok {
			if ours = f[len(f)-1] == exe && f[1][1] != 'w'; ours {
				s, _ := strconv.ParseUint(start, 16, 64)
				e, _ := strconv.ParseUint(end, 16, 64)
				all = append(all, mapping{span: span{s, e}})
			}
		} else if ours && f[0] == "Rss:" {
			all[len(all)-1].rss, _ = strconv.Atoi(f[1])
		}
	}
	return all
}

func TestProgramDropsWhatCannotBeWritten(t *testing.T) {
	spans := fixed()
	before := readOnly(t)
	if len(spans) != len(before) {
		t.Fatalf("segments %x, mappings %x", spans, before)
	}
	for i, m := range before {
		if spans[i] != m.span {
			t.Errorf("segment %x is mapped at %x", spans[i], m.span)
		}
	}
	Program()
	sum := func(ms []mapping) (kb int) {
		for _, m := range ms {
			kb += m.rss
		}
		return kb
	}
	// Reading smaps brings some of it back, but not what testing began with.
	if b, a := sum(before), sum(readOnly(t)); a >= b {
		t.Errorf("%d KiB were resident, and %d still are", b, a)
	}
}
