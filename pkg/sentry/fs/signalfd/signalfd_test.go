package signalfd

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/sentry/vfs/vfstest"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// process has one thread, reader, and signals for others.
type process struct {
	arrivals waiter.Queue
	others   signals.Set
	reader   reader
}

func (p *process) SignalArrivals() *waiter.Queue { return &p.arrivals }
func (p *process) QueuedSignals() signals.Set    { return p.others | p.reader.QueuedSignals() }

type reader struct {
	*vfstest.Context
	p       *process
	waiting []signals.Info
}

func (r *reader) SignalProcess() Process { return r.p }

func (r *reader) QueuedSignals() (s signals.Set) {
	for i := range r.waiting {
		s |= signals.SetOf(signals.Signal(r.waiting[i].Signo))
	}
	return s
}

func (r *reader) TakeSignal(set signals.Set) (signals.Info, bool) {
	for i, info := range r.waiting {
		if set.Has(signals.Signal(info.Signo)) {
			r.waiting = append(r.waiting[:i:i], r.waiting[i+1:]...)
			return info, true
		}
	}
	return signals.Info{}, false
}

func newProcess() *process {
	p := &process{}
	p.reader = reader{Context: vfstest.NewContext(), p: p}
	return p
}

func read(f *vfs.File, ctx vfs.Context, n int) ([]byte, error) {
	p := make([]byte, n)
	b := usermem.BytesBuffer(p)
	got, err := f.Read(ctx, &b)
	return p[:max(got, 0)], err
}

func TestReadTakesTheReadersSignals(t *testing.T) {
	p := newProcess()
	f := New(p, signals.SetOf(10, 12), unix.O_NONBLOCK, p.reader.Credentials())
	if _, err := read(f, &p.reader, signalInfoSize); err != unix.EAGAIN {
		t.Errorf("nothing there: %v", err)
	}
	for _, s := range []int32{12, 15, 10} {
		i := signals.Info{Signo: s, Code: signals.CodeUser}
		i.SetPID(40 + s)
		p.reader.waiting = append(p.reader.waiting, i)
	}
	if _, err := read(f, &p.reader, signalInfoSize-1); err != unix.EINVAL {
		t.Errorf("too little room: %v", err)
	}
	b, err := read(f, &p.reader, 3*signalInfoSize)
	if err != nil || len(b) != 2*signalInfoSize {
		t.Fatalf("%d bytes, %v; want two signals", len(b), err)
	}
	for i, want := range []uint32{12, 10} {
		r := b[i*signalInfoSize:]
		if signo, pid := binary.LittleEndian.Uint32(r), binary.LittleEndian.Uint32(r[12:]); signo != want || pid != 40+want {
			t.Errorf("signal %d from %d, want %d from %d", signo, pid, want, 40+want)
		}
	}
	if len(p.reader.waiting) != 1 {
		t.Error("a signal that isn't in the mask was taken")
	}
	if _, err := read(f, vfstest.NewContext(), signalInfoSize); err != unix.EINVAL {
		t.Errorf("no thread: %v", err)
	}
}

func TestReadinessDependsOnWhoAsks(t *testing.T) {
	p, q := newProcess(), newProcess()
	f := New(p, signals.SetOf(10), 0, p.reader.Credentials())
	s := Of(f)
	p.others = signals.SetOf(10)
	for _, c := range []struct {
		what string
		w    waiter.Waitable
		want waiter.Mask
	}{
		{"the process, for another thread", s, waiter.Readable},
		{"the thread", s.For(&p.reader), 0},
		{"another process", s.For(&q.reader), 0},
	} {
		if got := c.w.Readiness(waiter.In | waiter.Out); got != c.want&waiter.In {
			t.Errorf("%s: %v, want %v", c.what, got, c.want&waiter.In)
		}
	}
	q.reader.waiting = []signals.Info{{Signo: 10}}
	if s.For(&q.reader).Readiness(waiter.In) == 0 {
		t.Error("another process with a signal of its own: not ready")
	}
}

func TestANewMaskIsToldToBoth(t *testing.T) {
	p, q := newProcess(), newProcess()
	s := Of(New(p, 0, 0, p.reader.Credentials()))
	told := map[*process]*waiter.ChannelListener{}
	for _, w := range []*process{p, q} {
		l := waiter.NewChannelListener()
		told[w] = &l
		s.For(&w.reader).EventRegister(&waiter.Entry{Mask: waiter.In, Listener: l})
	}
	s.SetMask(q, signals.SetOf(10, 9))
	if s.Mask() != signals.SetOf(10) {
		t.Errorf("mask %#x", s.Mask())
	}
	for _, w := range []*process{p, q} {
		select {
		case <-*told[w]:
		default:
			t.Error("a reader wasn't told")
		}
	}
}
