package epoll

import (
	"encoding/binary"
	"math/rand"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/fs/eventfd"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/sentry/vfs/vfstest"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

func word(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// TestEpollDoesWhatLinuxDoes runs random calls on epoll instances, some inside
// each other, and eventfds, of the host's and of ours, and compares results.
func TestEpollDoesWhatLinuxDoes(t *testing.T) {
	ctx := vfstest.NewContext()
	for seed := int64(0); seed < 150; seed++ {
		rng := rand.New(rand.NewSource(seed))
		const nEvent, nEpoll = 5, 2
		var fds [nEvent + nEpoll]int
		var files [nEvent + nEpoll]*vfs.File
		for i := range fds {
			if i < nEvent {
				fds[i], _ = unix.Eventfd(0, unix.EFD_NONBLOCK)
				files[i], _ = eventfd.New(0, unix.EFD_NONBLOCK, ctx.Cred)
			} else {
				fds[i], _ = unix.EpollCreate1(0)
				files[i] = New(ctx.Cred)
			}
		}
		for step := 0; step < 120; step++ {
			target := rng.Intn(len(fds))
			ep := nEvent + rng.Intn(nEpoll)
			switch op := rng.Intn(6); op {
			case 0, 1:
				ctl := []int{unix.EPOLL_CTL_ADD, unix.EPOLL_CTL_ADD, unix.EPOLL_CTL_MOD, unix.EPOLL_CTL_DEL, 9}[rng.Intn(5)]
				ev := []uint32{unix.EPOLLIN, unix.EPOLLIN | unix.EPOLLOUT, 0, unix.EPOLLIN | edge, unix.EPOLLIN | oneshot,
					unix.EPOLLIN | exclusive, unix.EPOLLIN | unix.EPOLLRDHUP | exclusive}[rng.Intn(7)]
				hev := unix.EpollEvent{Events: ev, Fd: int32(step), Pad: 7}
				herr := unix.EpollCtl(fds[ep], ctl, fds[target], &hev)
				err := Of(files[ep]).Control(ctl, int32(target), files[target], Event{ev, uint64(step) | 7<<32})
				if (herr == nil) != (err == nil) || herr != nil && herr != err {
					t.Fatalf("seed %d step %d: ctl(%d, %d, %d, %#x) = %v; Linux %v", seed, step, ep, ctl, target, ev, err, herr)
				}
			case 2:
				if target < nEvent {
					v := []uint64{1, 1<<64 - 2}[rng.Intn(2)]
					unix.Write(fds[target], word(v))
					b := usermem.BytesBuffer(word(v))
					files[target].Write(ctx, &b)
				}
			case 3:
				if target < nEvent {
					var p [8]byte
					unix.Read(fds[target], p[:])
					b := usermem.BytesBuffer(p[:])
					files[target].Read(ctx, &b)
				}
			default:
				const room = nEvent + nEpoll
				hevs := make([]unix.EpollEvent, room)
				hn, _ := unix.EpollWait(fds[ep], hevs, 0)
				evs := make([]Event, room)
				n := Of(files[ep]).Wait(evs)
				var want []Event
				for _, e := range hevs[:max(hn, 0)] {
					want = append(want, Event{e.Events, uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32})
				}
				got := evs[:n]
				// The order is nobody's promise.
				byData := func(a, b Event) int { return int(int64(a.Data) - int64(b.Data)) }
				slices.SortFunc(want, byData)
				slices.SortFunc(got, byData)
				if !slices.Equal(got, want) {
					t.Fatalf("seed %d step %d: wait(%d, %d) = %v; Linux %v", seed, step, ep, room, got, want)
				}
			}
		}
		for i := range fds {
			unix.Close(fds[i])
			files[i].DecRef()
		}
	}
	if n := total.Load(); n != 0 {
		t.Errorf("%d items left", n)
	}
}

// TestNestingIsLimitedAsOnLinux builds random webs of instances.
func TestNestingIsLimitedAsOnLinux(t *testing.T) {
	ctx := vfstest.NewContext()
	refused := 0
	for seed := int64(0); seed < 60; seed++ {
		rng := rand.New(rand.NewSource(seed))
		var fds [9]int
		var files [9]*vfs.File
		for i := range fds {
			fds[i], _ = unix.EpollCreate1(0)
			files[i] = New(ctx.Cred)
		}
		for step := 0; step < 60; step++ {
			a, b := rng.Intn(len(fds)), rng.Intn(len(fds))
			op := unix.EPOLL_CTL_ADD
			if rng.Intn(4) == 0 {
				op = unix.EPOLL_CTL_DEL
			}
			herr := unix.EpollCtl(fds[a], op, fds[b], &unix.EpollEvent{Events: unix.EPOLLIN})
			err := Of(files[a]).Control(op, int32(b), files[b], Event{Events: unix.EPOLLIN})
			if (herr == nil) != (err == nil) || herr != nil && herr != err {
				t.Fatalf("seed %d step %d: op %d on %d in %d: %v; Linux %v", seed, step, op, b, a, err, herr)
			}
			if err == unix.ELOOP {
				refused++
			}
		}
		for i := range fds {
			unix.Close(fds[i])
			files[i].DecRef()
		}
	}
	if refused == 0 {
		t.Error("the test never came to ELOOP")
	}
}

func TestFileThatIsClosedLeavesTheSet(t *testing.T) {
	ctx := vfstest.NewContext()
	epf := New(ctx.Cred)
	ep := Of(epf)
	f, _ := eventfd.New(1, 0, ctx.Cred)
	f.IncRef() // a duplicate
	ep.Control(unix.EPOLL_CTL_ADD, 3, f, Event{unix.EPOLLIN, 1})
	f.DecRef()
	var evs [2]Event
	if n := ep.Wait(evs[:]); n != 1 {
		t.Errorf("%d events while a duplicate is open", n)
	}
	f.DecRef()
	if n := ep.Wait(evs[:]); n != 0 || len(ep.Watches()) != 0 {
		t.Errorf("%d events of a closed file", n)
	}
	epf.DecRef()
}

func TestLittleRoomStarvesNobody(t *testing.T) {
	ctx := vfstest.NewContext()
	epf := New(ctx.Cred)
	defer epf.DecRef()
	for i := 0; i < 3; i++ {
		f, _ := eventfd.New(1, 0, ctx.Cred)
		defer f.DecRef()
		Of(epf).Control(unix.EPOLL_CTL_ADD, int32(i), f, Event{unix.EPOLLIN, uint64(i)})
	}
	seen := map[uint64]int{}
	for i := 0; i < 6; i++ {
		var e [1]Event
		Of(epf).Wait(e[:])
		seen[e[0].Data]++
	}
	if len(seen) != 3 || seen[0] != 2 || seen[1] != 2 {
		t.Errorf("events by file: %v", seen)
	}
}

func TestFilesThatDontPollAreRefused(t *testing.T) {
	ctx := vfstest.NewContext()
	epf := New(ctx.Cred)
	defer epf.DecRef()
	f := anon.NewFile("[test]", nil, 0, ctx.Cred)
	defer f.DecRef()
	if err := Of(epf).Control(unix.EPOLL_CTL_ADD, 3, f, Event{}); err != unix.EPERM {
		t.Error(err)
	}
}

// TestExclusiveEventsGoToWhoWaits: an instance that nobody waits for must not
// swallow the event.
func TestExclusiveEventsGoToWhoWaits(t *testing.T) {
	ctx := vfstest.NewContext()
	f, _ := eventfd.New(0, 0, ctx.Cred)
	var eps [3]*vfs.File
	for i := range eps {
		eps[i] = New(ctx.Cred)
		defer eps[i].DecRef()
		Of(eps[i]).Control(unix.EPOLL_CTL_ADD, 3, f, Event{unix.EPOLLIN | exclusive, 0})
	}
	var ch [3]waiter.ChannelListener
	for i := 1; i < 3; i++ {
		ch[i] = waiter.NewChannelListener()
		eps[i].EventRegister(&waiter.Entry{Listener: ch[i], Mask: waiter.In, Exclusive: true})
	}
	eventfd.Of(f).Signal(1)
	if len(ch[1])+len(ch[2]) != 1 {
		t.Errorf("%d and %d wake-ups, want one", len(ch[1]), len(ch[2]))
	}
}

func TestConcurrentUse(t *testing.T) {
	ctx := vfstest.NewContext()
	outer, inner := New(ctx.Cred), New(ctx.Cred)
	Of(outer).Control(unix.EPOLL_CTL_ADD, 1, inner, Event{unix.EPOLLIN | edge, 0})
	var wg sync.WaitGroup
	run := func(f func(i int)) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; i < 3000; i++ {
				f(i)
			}
		}()
	}
	stable, _ := eventfd.New(0, 0, ctx.Cred)
	Of(inner).Control(unix.EPOLL_CTL_ADD, 9, stable, Event{unix.EPOLLIN, 0})
	for w := 0; w < 2; w++ {
		run(func(i int) {
			f, _ := eventfd.New(0, 0, ctx.Cred)
			Of(inner).Control(unix.EPOLL_CTL_ADD, int32(100+w), f, Event{unix.EPOLLIN, 0})
			eventfd.Of(f).Signal(1)
			if i%2 == 0 {
				Of(inner).Control(unix.EPOLL_CTL_DEL, int32(100+w), f, Event{})
			}
			f.DecRef()
		})
	}
	run(func(int) { eventfd.Of(stable).Signal(1) })
	run(func(int) {
		var p [8]byte
		b := usermem.BytesBuffer(p[:])
		stable.Read(ctx, &b)
	})
	run(func(int) { var e [4]Event; Of(inner).Wait(e[:]) })
	run(func(int) { var e [4]Event; Of(outer).Wait(e[:]) })
	wg.Wait()
	eventfd.Of(stable).Signal(1)
	var e [8]Event
	if n := Of(inner).Wait(e[:]); n != 1 {
		t.Errorf("%d events in the end", n)
	}
	outer.DecRef()
	inner.DecRef()
	stable.DecRef()
	if n := total.Load(); n != 0 {
		t.Errorf("%d items left", n)
	}
}

func BenchmarkWaitWithManyIdleFiles(b *testing.B) {
	ctx := vfstest.NewContext()
	ep := Of(New(ctx.Cred))
	var f *vfs.File
	for i := 0; i < 10000; i++ {
		f, _ = eventfd.New(0, 0, ctx.Cred)
		ep.Control(unix.EPOLL_CTL_ADD, int32(i), f, Event{unix.EPOLLIN, 0})
	}
	e := eventfd.Of(f)
	var evs [4]Event
	b.ReportAllocs()
	for b.Loop() {
		e.Signal(1)
		ep.Wait(evs[:])
	}
}
