// Package stub makes the processes that application code runs in.
//
// A stub is a tiny position-independent program (image_amd64.s), not a fork of
// the Sentry: no Go runtime is in it. Its bytes are taken out of the Sentry's
// own binary and wrapped into an ELF file in memory. Before the jail is up the
// Sentry starts one process from it, the factory, which gives up its
// capabilities and all its memory but one page of code and one for messages,
// puts a seccomp filter on, and then does three things on request: it clones a
// stub, takes a descriptor, and closes one.
//
// Stubs are forks of the factory: their address space holds the code, a
// command page that only the Sentry writes, and memory for the stub's threads,
// all above UserEnd. All share one table of descriptors with the factory, so that
// a descriptor need be handed over only once (Factory.Take). What a new stub
// does is the platform's: its Program brings code, the handler of signals and
// the rows of the filter. All signals are blocked at first.
//
// Types: Factory makes Processes. Process is one stub: its id, its region of
// the control file (command page and threads' memory as the Sentry sees them).
// Mappings is what a stub has mapped, and what it is still to map.
//
// A stub is at the mercy of the application in it, for they share an address
// space. What must not be forged is therefore kept in registers or in the
// command page, which the stub maps read-only; what is in the threads' memory is
// the application's word about itself and nothing more.
//
// Locks: Factory.mu guards the socket and the regions; it is a leaf.
package stub

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/seccomp"
)

// regionSize is what one stub has of the control file.
const regionSize = cmdSize + slotsSize

// maxStubs bounds how many stubs there are at a time.
const maxStubs = 8192

// ErrTooMany says that maxStubs stubs are there.
var ErrTooMany = errors.New("stub: too many address spaces")

// Factory is the process that makes stubs. Its methods are safe for concurrent use.
type Factory struct {
	pid     int
	control int

	taken sync.Map // of the Sentry's descriptors to the factory's

	mu     locks.Mutex[locks.StubFactory]
	socket int
	free   []region // that are not in use
	next   int64    // the first region that was never used
}

// Program is a platform's part of the stub.
type Program struct {
	// Rows is what it calls on the host; the factory's own are added. Default
	// is for all other calls; zero ends the process.
	Rows    []seccomp.Row
	Default seccomp.Action
	// Code is put at PlatformCode, at most CodeBase+CodeSize-PlatformCode bytes.
	// A new stub starts at its first byte, with the address of a page for
	// messages in RBX and its region in R12, and writes a reply of three words
	// to Socket: its process id, the id of another thread or zero, and R12.
	Code []byte
	// Handler is the address of the handler of Signals. It runs on the
	// alternate stack (sigaltstack(2)) with no signal blocked, and what it
	// returns to is itself.
	Handler uint64
	Signals []unix.Signal
}

// Start makes the factory. It is called before the Sentry gives up what it
// may do on the host, and with the user id that it will keep: a tracer must
// have its tracee's ids.
func Start(prog *Program) (*Factory, error) {
	filter, err := seccomp.Assemble(&seccomp.Filter{Rows: append(rows[:len(rows):len(rows)], prog.Rows...), Default: prog.Default, Foreign: prog.Default})
	if err != nil {
		return nil, err
	}
	img, err := buildImage(prog, filter)
	if err != nil {
		return nil, err
	}
	image, err := memfd("vitrine-stub", int64(len(img)), img)
	if err != nil {
		return nil, err
	}
	defer unix.Close(image)
	control, err := memfd("vitrine-stub-control", maxStubs*regionSize, nil)
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		unix.Close(control)
		return nil, fmt.Errorf("a socket for the stub factory: %w", err)
	}
	defer unix.Close(pair[1])
	f := &Factory{control: control, socket: pair[0]}
	// High numbers: the child puts them at 0, 1 and 2, in this order.
	var high [3]int
	for i, fd := range []int{pair[1], image, control} {
		high[i], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 10)
		if err != nil {
			break
		}
		defer unix.Close(high[i])
	}
	if err == nil {
		f.pid, err = startFactory(high[0], high[1], high[2])
	}
	if err == nil {
		unix.Close(pair[1])
		unix.Close(high[0])
		_, err = f.reply()
	}
	if err != nil {
		unix.Close(control)
		unix.Close(pair[0])
		return nil, fmt.Errorf("starting the stub factory: %w", err)
	}
	return f, nil
}

// memfd makes a file in memory that can't shrink, so that nobody can make its
// mapping fault.
func memfd(name string, size int64, contents []byte) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("memfd_create: %w", err)
	}
	seals := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if contents != nil {
		seals |= unix.F_SEAL_WRITE
		_, err = unix.Pwrite(fd, contents, 0)
	} else {
		err = unix.Ftruncate(fd, size)
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("a memfd for %s: %w", name, err)
	}
	return fd, nil
}

// Close ends the factory and with it all stubs.
func (f *Factory) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.socket < 0 {
		return
	}
	unix.Close(f.socket)
	unix.Close(f.control)
	f.socket = -1
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(f.pid, &status, unix.WALL, nil); err != unix.EINTR {
			return
		}
	}
}

// region is a stub's part of the control file.
type region struct {
	offset int64
	memory []byte // as the Sentry maps it, or nil
}

type reply struct {
	value, second, region int64
}

// request sends one request. Caller holds f.mu.
func (f *Factory) request(op, arg uint64, oob []byte) error {
	var b [requestSize]byte
	binary.LittleEndian.PutUint64(b[0:], op)
	binary.LittleEndian.PutUint64(b[8:], arg)
	for {
		err := unix.Sendmsg(f.socket, b[:], oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

// reply receives one answer. Caller holds f.mu.
func (f *Factory) reply() (reply, error) { return f.receive(0) }

func (f *Factory) receive(flags int) (reply, error) {
	var b [replySize]byte
	for {
		n, _, err := unix.Recvfrom(f.socket, b[:], flags)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return reply{}, err
		}
		if n != replySize {
			return reply{}, errors.New("the stub factory has ended")
		}
		break
	}
	r := reply{
		int64(binary.LittleEndian.Uint64(b[0:])),
		int64(binary.LittleEndian.Uint64(b[8:])),
		int64(binary.LittleEndian.Uint64(b[16:])),
	}
	if r.value < 0 {
		return r, unix.Errno(-r.value)
	}
	return r, nil
}

// Take gives the factory and all stubs, those that exist as well, the Sentry's
// descriptor fd and returns its number there. It asks only once per fd.
func (f *Factory) Take(fd int) (int, error) {
	if n, ok := f.taken.Load(fd); ok {
		return n.(int), nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n, ok := f.taken.Load(fd); ok {
		return n.(int), nil
	}
	if err := f.request(opTake, 0, unix.UnixRights(fd)); err != nil {
		return 0, fmt.Errorf("handing a descriptor to the stubs: %w", err)
	}
	r, err := f.reply()
	if err != nil {
		return 0, fmt.Errorf("handing a descriptor to the stubs: %w", err)
	}
	f.taken.Store(fd, int(r.value))
	return int(r.value), nil
}

// Forget closes what Take made of fd. Mappings stay.
func (f *Factory) Forget(fd int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.taken.LoadAndDelete(fd)
	if !ok {
		return
	}
	if f.request(opClose, uint64(n.(int)), nil) == nil {
		f.reply()
	}
}

// Process is one stub.
type Process struct {
	// Leader is the process id and the id of the first thread, Second what the
	// stub said besides.
	Leader, Second int

	region int64
	// memory is the region as the Sentry maps it.
	memory []byte
}

// NewProcess makes a stub. What prepare writes to its memory is there from its
// first instruction on.
func (f *Factory) NewProcess(prepare func(*Process)) (*Process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.takeRegion()
	if err != nil {
		return nil, err
	}
	if r.memory == nil {
		r.memory, err = unix.Mmap(f.control, r.offset, regionSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			f.free = append(f.free, r)
			return nil, fmt.Errorf("mapping a stub's control area: %w", err)
		}
	}
	p := &Process{region: r.offset, memory: r.memory}
	prepare(p)
	if err = f.request(opClone, uint64(r.offset), nil); err == nil {
		p.Leader, p.Second, err = f.born()
	}
	if err != nil {
		f.recycle(r)
		return nil, fmt.Errorf("making a stub: %w", err)
	}
	return p, nil
}

// born waits for what the factory says of the stub that it was asked for, and what
// that says itself, unless it ends before: the host may have no memory for it, or end
// it. Caller holds f.mu.
func (f *Factory) born() (leader, second int, err error) {
	first, err := f.reply()
	if err != nil {
		return 0, 0, err
	}
	flags := 0
	if first.second == fromFactory {
		pidfd, err := unix.PidfdOpen(int(first.value), 0)
		if err == nil {
			wait := []unix.PollFd{{Fd: int32(f.socket), Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
			for err = unix.EINTR; err == unix.EINTR; {
				_, err = unix.Ppoll(wait, nil, nil)
			}
			unix.Close(pidfd)
		}
		if err != nil && err != unix.ESRCH {
			return 0, 0, err
		}
		flags = unix.MSG_DONTWAIT // if it has ended, it may have spoken before
	}
	other, err := f.receive(flags)
	if err == unix.EAGAIN {
		return 0, 0, errors.New("it ended as it began")
	}
	if other.second == fromFactory {
		other = first
	}
	return int(other.value), int(other.second), err
}

func (f *Factory) takeRegion() (region, error) {
	if n := len(f.free); n > 0 {
		r := f.free[n-1]
		f.free = f.free[:n-1]
		return r, nil
	}
	if f.next == maxStubs*regionSize {
		return region{}, ErrTooMany
	}
	f.next += regionSize
	return region{offset: f.next - regionSize}, nil
}

// maxWarm is how many regions without a stub keep their memory.
const maxWarm = 16

// Recycle takes back what a stub that has ended had of the control file, of
// which the first commands bytes of the command page and the first slots bytes of the
// threads' memory were used. The caller makes sure that the process is gone.
func (f *Factory) Recycle(p *Process, commands, slots int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.memory == nil {
		return
	}
	r := region{p.region, p.memory}
	p.memory = nil
	if f.socket >= 0 && len(f.free) < maxWarm && commands+slots <= 1<<16 {
		// The next stub is another application's.
		clear(r.memory[:commands])
		clear(r.memory[cmdSize : cmdSize+slots])
		f.free = append(f.free, r)
		return
	}
	f.recycle(r)
}

// recycle gives a region's memory back. Caller holds f.mu.
func (f *Factory) recycle(r region) {
	unix.Munmap(r.memory)
	if f.socket < 0 {
		return
	}
	unix.Fallocate(f.control, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.offset, regionSize)
	f.free = append([]region{{offset: r.offset}}, f.free...)
}

// Commands is the command page, which the stub can only read.
func (p *Process) Commands() []byte { return p.memory[:cmdSize:cmdSize] }

// Slots is the threads' memory, which the application can write as well.
func (p *Process) Slots() []byte { return p.memory[cmdSize:] }
