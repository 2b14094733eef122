package p9

import (
	"bytes"
	"reflect"
	"testing"
)

// newMessages makes an empty message of each type that has one.
var newMessages = map[uint8]func() message{
	typeRlerror:      func() message { return new(Rlerror) },
	typeTstatfs:      func() message { return new(Tstatfs) },
	typeRstatfs:      func() message { return new(Rstatfs) },
	typeTlopen:       func() message { return new(Tlopen) },
	typeRlopen:       func() message { return new(Rlopen) },
	typeTlcreate:     func() message { return new(Tlcreate) },
	typeRlcreate:     func() message { return new(Rlcreate) },
	typeTsymlink:     func() message { return new(Tsymlink) },
	typeRsymlink:     func() message { return new(Rsymlink) },
	typeTmknod:       func() message { return new(Tmknod) },
	typeRmknod:       func() message { return new(Rmknod) },
	typeTrename:      func() message { return new(Trename) },
	typeTreadlink:    func() message { return new(Treadlink) },
	typeRreadlink:    func() message { return new(Rreadlink) },
	typeTgetattr:     func() message { return new(Tgetattr) },
	typeRgetattr:     func() message { return new(Rgetattr) },
	typeTsetattr:     func() message { return new(Tsetattr) },
	typeTxattrwalk:   func() message { return new(Txattrwalk) },
	typeRxattrwalk:   func() message { return new(Rxattrwalk) },
	typeTxattrcreate: func() message { return new(Txattrcreate) },
	typeTreaddir:     func() message { return new(Treaddir) },
	typeRreaddir:     func() message { return new(Rreaddir) },
	typeTfsync:       func() message { return new(Tfsync) },
	typeTlock:        func() message { return new(Tlock) },
	typeRlock:        func() message { return new(Rlock) },
	typeTgetlock:     func() message { return new(Tgetlock) },
	typeRgetlock:     func() message { return new(Rgetlock) },
	typeTlink:        func() message { return new(Tlink) },
	typeTmkdir:       func() message { return new(Tmkdir) },
	typeRmkdir:       func() message { return new(Rmkdir) },
	typeTrenameat:    func() message { return new(Trenameat) },
	typeTunlinkat:    func() message { return new(Tunlinkat) },
	typeTversion:     func() message { return new(Tversion) },
	typeRversion:     func() message { return new(Rversion) },
	typeTauth:        func() message { return new(Tauth) },
	typeTattach:      func() message { return new(Tattach) },
	typeRattach:      func() message { return new(Rattach) },
	typeTflush:       func() message { return new(Tflush) },
	typeTwalk:        func() message { return new(Twalk) },
	typeRwalk:        func() message { return new(Rwalk) },
	typeTread:        func() message { return new(Tread) },
	typeRread:        func() message { return new(Rread) },
	typeTwrite:       func() message { return new(Twrite) },
	typeRwrite:       func() message { return new(Rwrite) },
	typeTclunk:       func() message { return new(Tclunk) },
	typeTremove:      func() message { return new(Tremove) },
	typeTwalkgetattr: func() message { return new(Twalkgetattr) },
	typeRwalkgetattr: func() message { return new(Rwalkgetattr) },
	typeTopenfd:      func() message { return new(Topenfd) },
	typeRopenfd:      func() message { return new(Ropenfd) },
	typeTmake:        func() message { return new(Tmake) },
	typeRmake:        func() message { return new(Rmake) },
	typeTclunks:      func() message { return new(Tclunks) },
	typeTlist:        func() message { return new(Tlist) },
	typeRlist:        func() message { return new(Rlist) },
}

// newMessage gives an empty message of a type, or nil.
func newMessage(kind uint8) message {
	if f := newMessages[kind]; f != nil {
		return f()
	}
	return nil
}

// fill puts something that isn't zero into every field of a message.
func fill(v reflect.Value, n *uint64) {
	*n++
	switch v.Kind() {
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(*n % 200)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("text" + string(rune('a'+*n%26)))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 3, 3))
		for i := range 3 {
			fill(v.Index(i), n)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	}
}

func TestMessagesComeBackAsTheyWent(t *testing.T) {
	kinds := 0
	for kind := range 256 {
		m := newMessage(uint8(kind))
		if m == nil {
			continue
		}
		kinds++
		var n uint64
		fill(reflect.ValueOf(m).Elem(), &n)
		if g, ok := m.(*Rgetattr); ok {
			g.Attr.Dev, g.Attr.Ino = 0, 0 // not in the older layout
		}
		out := coder{}
		m.wire(&out)
		if out.bad {
			t.Errorf("%T does not encode", m)
		}
		back := newMessage(uint8(kind))
		in := coder{buf: out.buf, dec: true}
		back.wire(&in)
		if in.end() != nil || !reflect.DeepEqual(m, back) {
			t.Errorf("%T: sent %+v, got %+v", m, m, back)
		}
		for cut := range out.buf {
			in := coder{buf: out.buf[:cut], dec: true}
			newMessage(uint8(kind)).wire(&in)
			if _, mayBeShort := m.(*Tfsync); in.end() == nil && !(mayBeShort && cut == 4) {
				t.Errorf("%T of %d bytes was taken at %d", m, len(out.buf), cut)
			}
		}
	}
	if kinds != 55 {
		t.Errorf("%d kinds of message", kinds)
	}
}

func TestVersionStrings(t *testing.T) {
	for _, c := range []struct {
		s    string
		want Extensions
		ok   bool
	}{
		{"9P2000.L", 0, true},
		{"9P2000.L+walk+openfd+make+plus+clunks+list", AllExtensions, true},
		{"9P2000.L+future+plus", ExtPlus, true},
		{"9P2000.L+", 0, true},
		{"9P2000.L++walk", ExtWalk, true},
		{"9P2000.Lx", 0, false}, {"9P2000", 0, false}, {"9P2000.u", 0, false}, {"", 0, false},
	} {
		if got, ok := parseVersion(c.s); got != c.want || ok != c.ok {
			t.Errorf("%q: %v, %v", c.s, got, ok)
		}
	}
	if s := versionString(AllExtensions); s != "9P2000.L+walk+openfd+make+plus+clunks+list" {
		t.Error(s)
	}
}

// FuzzCodec: whatever decodes, encodes to what decodes to the same; nothing panics or grows beyond its message.
func FuzzCodec(f *testing.F) {
	for kind := range 256 {
		if m := newMessage(uint8(kind)); m != nil {
			var n uint64
			fill(reflect.ValueOf(m).Elem(), &n)
			out := coder{}
			m.wire(&out)
			f.Add(uint8(kind), out.buf)
			f.Add(uint8(kind), out.buf[:len(out.buf)/2])
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		m := newMessage(kind)
		if m == nil {
			return
		}
		in := coder{buf: body, dec: true}
		m.wire(&in)
		if in.end() != nil {
			return
		}
		first := coder{}
		m.wire(&first)
		if first.bad {
			t.Fatalf("%+v decodes but does not encode", m)
		}
		again := newMessage(kind)
		in = coder{buf: first.buf, dec: true}
		again.wire(&in)
		second := coder{}
		again.wire(&second)
		if in.end() != nil || !bytes.Equal(first.buf, second.buf) {
			t.Fatalf("%+v became %+v", m, again)
		}
	})
}
