package loader

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// hostFS opens the host's files as the native exec of the same path would.
type hostFS struct{}

func (hostFS) OpenExec(path string) (File, error) {
	if path == "" {
		return nil, unix.ENOENT
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return nil, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	if !st.Mode().IsRegular() {
		return nil, unix.EACCES
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return &memFile{data: data}, nil
}

// native runs path on the host and says how it went: "E..." for an errno of
// execve(2), "runs" for a program that ends with status 0, or its signal.
func native(t *testing.T, path string, argv, envv []string) string {
	t.Helper()
	// Environment in the child must be exactly envv.
	cmd := &exec.Cmd{Path: path, Args: argv, Env: append([]string{}, envv...)}
	err := cmd.Run()
	var errno syscall.Errno
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "runs"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	case errors.As(err, &exit):
		if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
			return unix.SignalName(ws.Signal())
		}
		return exit.String()
	}
	t.Fatalf("running %s: %v", path, err)
	return ""
}

// ours loads path into a fake memory and says the same: Map's errors end the
// task with SIGSEGV.
func ours(t *testing.T, path string, argv, envv []string, stack uint64) string {
	t.Helper()
	f, err := hostFS{}.OpenExec(path)
	if err != nil {
		return unix.ErrnoName(err.(unix.Errno))
	}
	p, err := Prepare(Args{File: f, Path: path, Opener: hostFS{}, Argv: argv, Envv: envv, StackLimit: stack})
	if err != nil {
		var errno unix.Errno
		if !errors.As(err, &errno) {
			t.Fatalf("Prepare: %v is no errno", err)
		}
		return unix.ErrnoName(errno)
	}
	m := newFakeMemory()
	img, err := p.Map(Target{Memory: m, UserRange: testRange, Random: seededRandom()})
	if err != nil {
		return "SIGSEGV"
	}
	code := make([]byte, len(exitCode))
	if v := m.find(img.Entry); v == nil || !v.opts.Prot.Effective().Has(4) {
		return "SIGSEGV"
	}
	if _, err := m.CopyIn(img.Entry, code); err != nil {
		return "SIGBUS"
	}
	if !bytes.Equal(code, exitCode) {
		return "SIGSEGV" // zeros are an instruction that stores to address 0
	}
	return "runs"
}

type oracleCase struct {
	name string
	data []byte
	argv []string
	envv []string
}

func oracleCases(dir string) []oracleCase {
	var cs []oracleCase
	add := func(name string, data []byte) { cs = append(cs, oracleCase{name: name, data: data}) }
	script := func(name, line string) { add("script/"+name, []byte(line)) }
	elf := func(name string, im *image) { add("elf/"+name, im.bytes()) }
	good := filepath.Join(dir, "good")

	add("empty", nil)
	add("text", []byte("echo hello\n"))
	add("one byte", []byte("#"))
	add("zeros", make([]byte, 4096))
	add("random", bytes.Repeat([]byte{0xa7, 0x31}, 700))

	script("plain", "#!"+good+"\n")
	script("no newline", "#!"+good)
	script("blanks", "#! \t "+good+" \t \n")
	script("argument", "#!"+good+" one two\n")
	script("nothing", "#!")
	script("only newline", "#!\n")
	script("only blanks", "#!   \t \n")
	script("only blanks no newline", "#!"+strings.Repeat(" ", 300))
	script("blanks to the edge", "#!"+strings.Repeat(" ", 254))
	script("nul first", "#!\x00"+good+"\n")
	script("nul after name", "#!"+good+"\x00junk\n")
	script("nul in argument", "#!"+good+" a\x00b\n")
	script("carriage return", "#!"+good+"\r\n")
	script("missing", "#!/nonexistent/interpreter\n")
	script("directory", "#!/tmp\n")
	script("not executable", "#!"+filepath.Join(dir, "plain")+"\n")
	script("itself", "#!"+filepath.Join(dir, "prog")+"\n")
	script("to text", "#!"+filepath.Join(dir, "text")+"\n")
	for n := 1; n <= 7; n++ {
		script(fmt.Sprintf("chain of %d", n), "#!"+filepath.Join(dir, fmt.Sprintf("chain%d", n-1))+"\n")
	}
	// Names around the edge of the 256 bytes that are looked at.
	for n := 248; n <= 260; n++ {
		name := good
		for len(name)+2 < n {
			name = "/" + name
		}
		script(fmt.Sprintf("name ends at %d", n), "#!"+name)
		script(fmt.Sprintf("name ends at %d newline", n), "#!"+name+"\n")
		script(fmt.Sprintf("name ends at %d argument", n), "#!"+name+" arg arg\n")
		script(fmt.Sprintf("argument across %d", n), "#!"+good+" "+strings.Repeat("a", n-len(good)-3)+"\n")
	}

	for _, k := range []struct {
		name string
		im   *image
	}{{"exec", newImage(etExec)}, {"dyn", newImage(etDyn)}} {
		im := k.im
		e := func(name string, change func(*image)) { elf(k.name+"/"+name, im.with(change)) }
		e("good", func(*image) {})
		e("magic", func(i *image) { i.patch = func(b []byte) { b[3] = 'G' } })
		e("class 32", func(i *image) { i.patch = func(b []byte) { b[4] = 1 } })
		e("big endian", func(i *image) { i.patch = func(b []byte) { b[5] = 2 } })
		e("version", func(i *image) { i.patch = func(b []byte) { b[6] = 9; b[20] = 9 } })
		e("relocatable", func(i *image) { i.kind = 1 })
		e("core", func(i *image) { i.kind = 4 })
		e("aarch64", func(i *image) { i.machine = 183 })
		e("phentsize", func(i *image) { i.phentsize = 32 })
		e("phnum 0", func(i *image) { i.phnum = 0 })
		e("phnum 1170", func(i *image) { i.phnum = 1170; i.size = 0x20000 })
		e("phnum 1171", func(i *image) { i.phnum = 1171; i.size = 0x20000 })
		e("phnum 65535", func(i *image) { i.phnum = 65535; i.size = 0x1000000 })
		e("phdrs beyond the end", func(i *image) { i.phoff = 0x1000 - 20 })
		e("phdrs far", func(i *image) { i.phoff = 0x20000000 })
		e("phoff negative", func(i *image) { i.phoff = 1 << 63 })
		e("phoff max", func(i *image) { i.phoff = ^uint64(0) - 8 })
		e("phdrs on second page", func(i *image) { i.size = 0x3000; i.phoff = 0x1fe0 })
		e("cut in header", func(i *image) { i.size = 40 })
		e("cut after header", func(i *image) { i.size = 64 })
		e("cut in phdrs", func(i *image) { i.size = 80 })
		e("cut after phdrs", func(i *image) { i.size = 120 })
		e("filesz > memsz", func(i *image) { i.phdrs[0].memsz = 0x800 })
		e("memsz huge", func(i *image) { i.phdrs[0].memsz = 1 << 62 })
		e("memsz 2^47", func(i *image) { i.phdrs[0].memsz = 1 << 47 })
		e("both huge", func(i *image) { i.phdrs[0].memsz = ^uint64(0); i.phdrs[0].filesz = ^uint64(0) })
		e("filesz wraps", func(i *image) { i.phdrs[0].memsz = ^uint64(0) - 100; i.phdrs[0].filesz = ^uint64(0) - 200 })
		e("vaddr kernel", func(i *image) { i.phdrs[0].vaddr = 0xffffffff80000000 })
		e("vaddr at the end", func(i *image) { i.phdrs[0].vaddr = 0x7fffffffe000 })
		e("vaddr skewed", func(i *image) { i.phdrs[0].vaddr += 0x10 })
		e("offset skewed", func(i *image) { i.phdrs[0].offset = 0x10 })
		e("offset huge", func(i *image) { i.phdrs[0].offset = 1 << 62 })
		e("offset negative", func(i *image) { i.phdrs[0].offset = ^uint64(0xfff) })
		e("entry kernel", func(i *image) { i.entry = 0xffffffff80000000 })
		e("bss", func(i *image) { i.phdrs[0].memsz = 0x5000 })
		e("align odd", func(i *image) { i.phdrs[0].align = 3 })
		e("align 2M", func(i *image) { i.phdrs[0].align = 2 << 20 })
		e("align huge", func(i *image) { i.phdrs[0].align = 1 << 63 })
		e("two segments", func(i *image) {
			d := i.phdrs[0]
			d.vaddr, d.flags = i.base+0x1000, pfRead|pfWrite
			i.phdrs = append(i.phdrs, d)
		})
		e("segments overlap", func(i *image) { i.phdrs = append(i.phdrs, i.phdrs[0]) })
		e("segments out of order", func(i *image) {
			d := i.phdrs[0]
			d.vaddr, d.flags = i.base+0x10000, pfRead|pfWrite
			i.phdrs = []phdr{d, i.phdrs[0]}
		})
		e("second bad", func(i *image) {
			d := i.phdrs[0]
			d.vaddr, d.filesz = i.base+0x1000, d.memsz+1
			i.phdrs = append(i.phdrs, d)
		})
		e("bss only", func(i *image) {
			i.phdrs = append(i.phdrs, phdr{kind: ptLoad, flags: pfRead | pfWrite, vaddr: i.base + 0x10000, memsz: 0x3000, align: 0x1000})
		})
		e("bss only, first", func(i *image) {
			i.phdrs = append([]phdr{{kind: ptLoad, flags: pfRead | pfWrite, vaddr: i.base, memsz: 0x3000, align: 0x1000}},
				i.phdrs...)
			i.phdrs[1].vaddr += 0x10000
			i.entry += 0x10000
		})
		e("empty segment", func(i *image) {
			i.phdrs = append(i.phdrs, phdr{kind: ptLoad, flags: pfRead, vaddr: i.base + 0x20000, align: 0x1000})
		})
		e("writable beyond the end of file", func(i *image) {
			i.phdrs = append(i.phdrs, phdr{kind: ptLoad, flags: pfRead | pfWrite, vaddr: i.base + 0x10000, offset: 0x10000, filesz: 0x10, memsz: 0x20, align: 0x1000})
		})
		e("read-only beyond the end of file", func(i *image) {
			i.phdrs = append(i.phdrs, phdr{kind: ptLoad, flags: pfRead, vaddr: i.base + 0x10000, offset: 0x10000, filesz: 0x10, memsz: 0x20, align: 0x1000})
		})
		e("no segments", func(i *image) { i.phdrs[0].kind = 0 })
		e("stack executable", func(i *image) { i.phdrs = append(i.phdrs, phdr{kind: ptGNUStack, flags: 7}) })
		e("gnu property junk", func(i *image) {
			i.phdrs = append(i.phdrs, phdr{kind: 0x12345678, offset: 1 << 40, filesz: 1 << 40})
		})

		interp := func(path string) func(*image) { return func(i *image) { i.interp = path } }
		e("interp", interp(filepath.Join(dir, "interp")+"\x00"))
		e("interp itself static", interp(good+"\x00"))
		e("interp missing", interp("/nonexistent/ld.so\x00"))
		e("interp directory", interp("/tmp\x00"))
		e("interp not executable", interp(filepath.Join(dir, "plain")+"\x00"))
		e("interp without nul", interp(good))
		e("interp one byte", interp("\x00"))
		e("interp empty", interp("\x00\x00"))
		e("interp nul inside", interp(filepath.Join(dir, "interp")+"\x00junk\x00"))
		e("interp too long", func(i *image) {
			i.interp = good + "\x00"
			i.patch = func(b []byte) {
				binaryPut64(b[elfHeaderSize+phdrSize+32:], 4097)
			}
		})
		e("interp beyond the end", func(i *image) {
			i.interp = good + "\x00"
			i.patch = func(b []byte) { binaryPut64(b[elfHeaderSize+phdrSize+8:], 0xff0) }
		})
		e("interp at a negative offset", func(i *image) {
			i.interp = good + "\x00"
			i.patch = func(b []byte) { binaryPut64(b[elfHeaderSize+phdrSize+8:], 1<<63) }
		})
		for _, bad := range []string{"text", "empty", "short", "cutphdrs", "aarch64", "rel", "noload", "badload"} {
			e("interp "+bad, interp(filepath.Join(dir, bad)+"\x00"))
		}
	}

	long := func(n int) string { return strings.Repeat("x", n) }
	many := func(n, size int) (l []string) {
		for range n {
			l = append(l, long(size))
		}
		return l
	}
	prog := newImage(etExec).bytes()
	cs = append(cs,
		oracleCase{"args/longest", prog, []string{long(MaxArgLen - 1)}, nil},
		oracleCase{"args/too long", prog, []string{long(MaxArgLen)}, nil},
		oracleCase{"args/environment too long", prog, []string{"a"}, []string{"A=" + long(MaxArgLen)}},
		oracleCase{"args/too long beats ENOEXEC", []byte("text"), []string{long(MaxArgLen)}, nil},
		oracleCase{"args/many", prog, many(15, 100000), nil},
		oracleCase{"args/many pointers", prog, many(220000, 1), nil},
		oracleCase{"args/too many pointers", prog, many(300000, 1), nil},
		oracleCase{"args/none", prog, nil, nil},
	)
	return cs
}

func binaryPut64(b []byte, v uint64) {
	for i := range 8 {
		b[i] = byte(v >> (8 * i))
	}
}

// TestExecGoesAsOnTheHost runs each file on the host and loads it here.
func TestExecGoesAsOnTheHost(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, data []byte, mode os.FileMode) {
		t.Helper()
		// A new file each time: the old one may still be executed by a
		// child that was forked while it was open for writing (ETXTBSY).
		path := filepath.Join(dir, name)
		os.Remove(path)
		if err := os.WriteFile(path, data, mode); err != nil {
			t.Fatal(err)
		}
	}
	good := newImage(etExec).bytes()
	put("good", good, 0o755)
	put("interp", newImage(etDyn).bytes(), 0o755)
	put("plain", good, 0o644)
	put("text", bytes.Repeat([]byte("text\n"), 100), 0o755)
	put("empty", nil, 0o755)
	put("short", good[:63], 0o755)
	put("cutphdrs", good[:100], 0o755)
	put("aarch64", newImage(etDyn).with(func(i *image) { i.machine = 183 }).bytes(), 0o755)
	put("rel", newImage(etDyn).with(func(i *image) { i.kind = 1 }).bytes(), 0o755)
	put("noload", newImage(etDyn).with(func(i *image) { i.phdrs[0].kind = 0 }).bytes(), 0o755)
	put("badload", newImage(etDyn).with(func(i *image) { i.phdrs[0].memsz = 1 }).bytes(), 0o755)
	put("chain0", good, 0o755)
	for n := 1; n < 8; n++ {
		put(fmt.Sprintf("chain%d", n), []byte("#!"+filepath.Join(dir, fmt.Sprintf("chain%d", n-1))+"\n"), 0o755)
	}
	var rl unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_STACK, &rl); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "prog")
	for _, c := range oracleCases(dir) {
		put("prog", c.data, 0o755)
		argv := c.argv
		if argv == nil && c.name != "args/none" {
			argv = []string{path}
		}
		want := native(t, path, argv, c.envv)
		got := ours(t, path, argv, c.envv, rl.Cur)
		if got != want {
			t.Errorf("%s: got %s, the host says %s", c.name, got, want)
		}
	}
}
