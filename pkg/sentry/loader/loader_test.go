package loader

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/usermem"
)

func target(m Memory) Target {
	return Target{Memory: m, UserRange: testRange, Random: seededRandom()}
}

func mustLoad(t *testing.T, a Args, tg Target) Image {
	t.Helper()
	img, err := Load(a, tg)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// stackOf reads back what a program finds on its stack.
func stackOf(t *testing.T, m *fakeMemory, sp usermem.Addr) (argv, envv []string, auxv []mm.AuxvEntry) {
	t.Helper()
	word := func() uint64 {
		t.Helper()
		v, err := usermem.CopyInUint64(m, sp)
		if err != nil {
			t.Fatalf("reading the stack at %#x: %v", sp, err)
		}
		sp += 8
		return v
	}
	list := func() (l []string) {
		for p := word(); p != 0; p = word() {
			s, err := usermem.CopyInString(m, usermem.Addr(p), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			l = append(l, s)
		}
		return l
	}
	argc := word()
	argv = list()
	if uint64(len(argv)) != argc {
		t.Fatalf("argc is %d, argv has %d strings", argc, len(argv))
	}
	envv = list()
	for {
		a := mm.AuxvEntry{Type: word(), Value: word()}
		auxv = append(auxv, a)
		if a.Type == atNull {
			return argv, envv, auxv
		}
	}
}

func TestStackHoldsWhatTheABISays(t *testing.T) {
	interp := &memFile{data: newImage(etDyn).bytes()}
	prog := &memFile{data: newImage(etDyn).with(func(i *image) { i.interp = "/ld.so\x00" }).bytes()}
	m := newFakeMemory()
	tg := target(m)
	tg.Credentials = Credentials{UID: 1, EUID: 2, GID: 3, EGID: 4, Secure: true}
	tg.CPU = CPUFeatures{HWCap: 0xabc, HWCap2: 2, MinSigStackSize: 3000}
	tg.VDSO = &VDSO{Mappable: &memFile{data: make([]byte, 0x3000)}, DataSize: 0x1000, CodeSize: 0x2000}
	argv, envv := []string{"prog", "", "last argument"}, []string{"A=b", "C="}
	img := mustLoad(t, Args{
		File: prog, Path: "/bin/a-rather-long-name", Opener: memFS{"/ld.so": interp},
		Argv: argv, Envv: envv, StackLimit: 8 << 20,
	}, tg)

	if img.StackPointer%16 != 0 {
		t.Errorf("stack pointer %#x is not aligned", img.StackPointer)
	}
	gotArgv, gotEnvv, auxv := stackOf(t, m, img.StackPointer)
	if strings.Join(gotArgv, "|") != strings.Join(argv, "|") || strings.Join(gotEnvv, "|") != strings.Join(envv, "|") {
		t.Errorf("argv %q, envv %q", gotArgv, gotEnvv)
	}
	if len(auxv) != len(m.auxv) || len(auxv) != maxAuxv {
		t.Errorf("auxv has %d entries on the stack and %d in the memory manager, want %d", len(auxv), len(m.auxv), maxAuxv)
	}
	pie, ld := m.aux(atPhdr)-elfHeaderSize, m.aux(atBase)
	for kind, want := range map[uint64]uint64{
		atSysinfoEHdr: uint64(img.VDSO), atHWCap: 0xabc, atPagesz: 4096, atClkTck: 100,
		atPhent: 56, atPhnum: 2, atFlags: 0, atEntry: pie + codeOffset,
		atUID: 1, atEUID: 2, atGID: 3, atEGID: 4, atSecure: 1, atHWCap2: 2, atMinSigStkSz: 3000,
	} {
		if got := m.aux(kind); got != want {
			t.Errorf("auxv type %d is %#x, want %#x", kind, got, want)
		}
	}
	for kind, want := range map[uint64]string{atPlatform: "x86_64", atExecFn: "/bin/a-rather-long-name"} {
		if got, err := usermem.CopyInString(m, usermem.Addr(m.aux(kind)), 100); err != nil || got != want {
			t.Errorf("auxv type %d points to %q, %v; want %q", kind, got, err, want)
		}
	}
	var rnd [16]byte
	if _, err := m.CopyIn(usermem.Addr(m.aux(atRandom)), rnd[:]); err != nil || rnd[0] != 0x5a || rnd[15] != 0x5a {
		t.Errorf("AT_RANDOM points to %x, %v", rnd, err)
	}
	if uint64(img.Entry) != ld+codeOffset {
		t.Errorf("entry is %#x, the interpreter is at %#x", img.Entry, ld)
	}
	for name, a := range map[string]struct {
		at   usermem.Addr
		file *memFile
	}{"program": {usermem.Addr(pie), prog}, "interpreter": {usermem.Addr(ld), interp}} {
		if v := m.find(a.at); v == nil || v.opts.Mappable != a.file {
			t.Errorf("%s is not at %#x", name, a.at)
		}
	}
	args := make([]byte, m.args.Len())
	m.CopyIn(m.args.Start, args)
	env := make([]byte, m.env.Len())
	m.CopyIn(m.env.Start, env)
	if string(args) != "prog\x00\x00last argument\x00" || string(env) != "A=b\x00C=\x00" {
		t.Errorf("recorded ranges hold %q and %q", args, env)
	}
	if img.Comm != "a-rather-long-n" || img.Interpreter != "/ld.so" || img.Opened {
		t.Errorf("image is %+v", img)
	}
	if v := m.find(img.VDSO - 1); v == nil || v.opts.Name != "[vvar]" || v.opts.Prot != usermem.Read {
		t.Errorf("no [vvar] below the vDSO: %+v", v)
	}
	if m.brk < usermem.Addr(pie)+0x1000 || !m.brk.PageAligned() {
		t.Errorf("break is %#x, program at %#x", m.brk, pie)
	}
	if interp.refs != 0 {
		t.Errorf("interpreter has %d references left", interp.refs)
	}
}

func TestLayoutWithoutRandomness(t *testing.T) {
	a := Args{File: &memFile{data: newImage(etDyn).with(func(i *image) { i.interp = "/ld.so\x00" }).bytes()}, Path: "/p",
		Opener: memFS{"/ld.so": {data: newImage(etDyn).bytes()}}, Argv: []string{"p"}, StackLimit: 8 << 20}
	m := newFakeMemory()
	tg := target(m)
	tg.NoRandom = true
	mustLoad(t, a, tg)
	// As setarch -R shows on amd64.
	if got := m.aux(atPhdr) - elfHeaderSize; got != 0x555555554000 {
		t.Errorf("program is at %#x, want 0x555555554000", got)
	}
	if got := m.vmas[len(m.vmas)-1].End; got != 0x7ffffffff000 {
		t.Errorf("stack ends at %#x, want 0x7ffffffff000", got)
	}
	if got := m.brk; got != 0x555555555000 {
		t.Errorf("break is at %#x, want 0x555555555000", got)
	}
	other := newFakeMemory()
	mustLoad(t, a, target(other))
	if m.aux(atPhdr) == other.aux(atPhdr) || m.brk == other.brk || m.stackStart == other.stackStart {
		t.Error("the random layout is the fixed one")
	}
}

func TestBssIsZeroAndWritable(t *testing.T) {
	im := newImage(etExec)
	im.size = 0x3000
	im.phdrs = append(im.phdrs, phdr{kind: ptLoad, flags: pfRead | pfWrite, vaddr: 0x402000, offset: 0x2000, filesz: 0x123, memsz: 0x4000, align: 0x1000})
	im.patch = func(b []byte) {
		for i := range b[0x2000:] {
			b[0x2000+i] = 0xee
		}
	}
	m := newFakeMemory()
	mustLoad(t, Args{File: &memFile{data: im.bytes()}, Path: "/p", Argv: []string{"p"}, StackLimit: 8 << 20}, target(m))
	b := make([]byte, 0x4000)
	if _, err := m.CopyIn(0x402000, b); err != nil {
		t.Fatal(err)
	}
	for i, c := range b {
		if want := map[bool]byte{true: 0xee}[i < 0x123]; c != want {
			t.Fatalf("byte %#x of the segment is %#x, want %#x", i, c, want)
		}
	}
	if _, err := m.CopyOut(0x405fff, []byte{1}); err != nil {
		t.Errorf("end of bss: %v", err)
	}
	if m.find(0x406000) != nil {
		t.Error("something is mapped behind bss")
	}
}

func TestScriptReplacesFirstArgument(t *testing.T) {
	prog := &memFile{data: newImage(etExec).bytes()}
	fs := memFS{"/sh": prog, "/mid": {data: []byte("#! /sh -x  y \n")}}
	script := &memFile{data: []byte("#!/mid\n")}
	m := newFakeMemory()
	img := mustLoad(t, Args{File: script, Path: "./s", Opener: fs, Argv: []string{"zero", "one"}, StackLimit: 8 << 20}, target(m))
	argv, _, _ := stackOf(t, m, img.StackPointer)
	if got := strings.Join(argv, "|"); got != "/sh|-x  y|/mid|./s|one" {
		t.Errorf("argv is %s", got)
	}
	if img.Comm != "s" || !img.Opened || img.File != File(prog) {
		t.Errorf("image is %+v", img)
	}
	if prog.refs != 1 || fs["/mid"].refs != 0 {
		t.Errorf("references: program %d, middle %d", prog.refs, fs["/mid"].refs)
	}
	if _, err := Prepare(Args{File: script, Path: "/dev/fd/3", PathInaccessible: true, Opener: fs, StackLimit: 8 << 20}); err != unix.ENOENT {
		t.Errorf("script by a close-on-exec descriptor: %v, want ENOENT", err)
	}
}

func TestFilesAreReleasedOnErrors(t *testing.T) {
	bad := &memFile{data: newImage(etExec).with(func(i *image) { i.phdrs[0].memsz = 1 }).bytes()}
	ld := &memFile{data: newImage(etDyn).bytes()}
	dyn := &memFile{data: newImage(etDyn).with(func(i *image) { i.interp = "/ld\x00"; i.phdrs[0].memsz = 1 }).bytes()}
	text := &memFile{data: []byte("text")}
	noMap := &memFile{data: newImage(etExec).bytes(), unmapped: true}
	fs := memFS{"/bad": bad, "/dyn": dyn, "/text": text, "/ld": ld, "/nomap": noMap}
	for name := range fs {
		_, err := Load(Args{File: &memFile{data: []byte("#!" + name)}, Path: "/s", Opener: fs, StackLimit: 8 << 20}, target(newFakeMemory()))
		if name != "/ld" && err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ld.Release() // of the run that went well
	for name, f := range fs {
		if f.refs != 0 {
			t.Errorf("%s has %d references left", name, f.refs)
		}
	}
	p, err := Prepare(Args{File: &memFile{data: []byte("#!/good")}, Path: "/s", StackLimit: 8 << 20,
		Opener: memFS{"/good": ld}})
	if err != nil {
		t.Fatal(err)
	}
	if p.Release(); ld.refs != 0 {
		t.Errorf("Release leaves %d references", ld.refs)
	}
}

func TestCopyInStringsIsBounded(t *testing.T) {
	m := newFakeMemory()
	m.MMap(mm.MMapOpts{Addr: 0x100000, Length: 0x1000000, Prot: usermem.ReadWrite, Fixed: true})
	put := func(at usermem.Addr, v uint64) { usermem.CopyOutUint64(m, at, v) }
	m.CopyOut(0x200000, []byte("hello\x00"))
	put(0x100000, 0x200000)
	put(0x100008, 0x200006)
	space := uint64(1000)
	got, err := CopyInStrings(m, 0x100000, &space)
	if err != nil || len(got) != 2 || got[0] != "hello" || got[1] != "" || space != 1000-16-7 {
		t.Errorf("got %q, %v, %d bytes of space left", got, err, space)
	}
	// An array without end, all of one string.
	for a := usermem.Addr(0x300000); a < 0x400000; a += 8 {
		put(a, 0x200000)
	}
	space = ArgSpace(0)
	if _, err := CopyInStrings(m, 0x300000, &space); err != unix.E2BIG {
		t.Errorf("array without end: %v, want E2BIG", err)
	}
	m.CopyOut(0x500000, []byte(strings.Repeat("x", MaxArgLen)))
	put(0x100000, 0x500000)
	space = ArgSpace(8 << 20)
	if _, err := CopyInStrings(m, 0x100000, &space); err != unix.E2BIG {
		t.Errorf("string of %d bytes: %v, want E2BIG", MaxArgLen, err)
	}
	for _, bad := range []usermem.Addr{0x8, ^usermem.Addr(7), 0x10fffffc} {
		if _, err := CopyInStrings(m, bad, &space); err != unix.EFAULT {
			t.Errorf("array at %#x: %v, want EFAULT", bad, err)
		}
	}
}

// FuzzLoad loads arbitrary bytes as a program whose interpreters are arbitrary bytes,
// too. Any errno is right; a panic, a lost reference or something
// mapped outside of the user range is not.
func FuzzLoad(f *testing.F) {
	ld := newImage(etDyn).bytes()
	for _, c := range oracleCases("/d") {
		if len(c.data) <= 16<<10 {
			f.Add(c.data, ld)
			f.Add([]byte("#!/d/good arg\n"), c.data)
		}
	}
	dyn := newImage(etDyn).with(func(i *image) { i.interp = "/ld\x00" }).bytes()
	f.Add(dyn, ld)
	f.Fuzz(func(t *testing.T, prog, interp []byte) {
		other := &memFile{data: interp}
		m := newFakeMemory()
		img, err := Load(Args{File: &memFile{data: prog}, Path: "/prog", Opener: anyPath{other}, Argv: []string{"a"}, StackLimit: 8 << 20}, target(m))
		if img.Opened {
			other.Release()
		}
		if other.refs != 0 {
			t.Errorf("%d references left after %v", other.refs, err)
		}
		if err != nil {
			var errno unix.Errno
			if !errors.As(err, &errno) {
				t.Errorf("error %v is no errno", err)
			}
			return
		}
		if img.Entry >= testRange.End {
			t.Errorf("entry %#x is outside of the user range", img.Entry)
		}
	})
}

// anyPath opens one file by every name.
type anyPath struct{ f *memFile }

func (a anyPath) OpenExec(string) (File, error) {
	a.f.refs++
	return a.f, nil
}

func BenchmarkLoadDynamic(b *testing.B) {
	fs := memFS{"/ld.so": {data: newImage(etDyn).bytes()}}
	a := Args{File: &memFile{data: newImage(etDyn).with(func(i *image) { i.interp = "/ld.so\x00" }).bytes()},
		Path: "/bin/true", Opener: fs, Argv: []string{"true"}, Envv: []string{"PATH=/bin"}, StackLimit: 8 << 20}
	b.ReportAllocs()
	for b.Loop() {
		p, err := Prepare(a)
		if err != nil {
			b.Fatal(err)
		}
		p.Release()
	}
}
