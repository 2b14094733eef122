package pids

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/tty"
)

type (
	namespace = Namespace[*task, *process]
	ids       = IDs[*task, *process]
	group     = Group[*task, *process]
	session   = Session[*task, *process]
)

var (
	_ tty.Session = (*session)(nil)
	_ tty.Group   = (*group)(nil)
)

// task and process are as little of a kernel as there may be.
type task struct {
	ids ids
	p   *process
}

type process struct {
	leader *task
	parent *process
	group  *group
	ended  bool
	sent   []unix.Signal
}

func (p *process) join(g *group) {
	g.Join(p)
	p.group = g
}

// system is the owner.
type system struct {
	t    *testing.T
	mu   locks.RWMutex[locks.Tasks]
	root *namespace
}

func (*system) Leads(t *task) (*process, bool) { return t.p, t.p.leader == t }
func (*system) ParentGroup(p *process) (*group, bool) {
	if p.parent == nil {
		return nil, p.ended
	}
	return p.parent.group, p.ended
}
func (s *system) SignalGroup(g *group, sig unix.Signal) {
	for _, p := range g.Members() {
		s.SignalProcess(p, sig)
	}
}
func (*system) SignalProcess(p *process, sig unix.Signal) { p.sent = append(p.sent, sig) }

func newSystem(t *testing.T) *system {
	s := &system{t: t}
	s.root = NewRoot(s, &s.mu, auth.NewRootUserNamespace(), 1)
	return s
}

func (s *system) child(ns *namespace) *namespace {
	s.t.Helper()
	n, err := ns.NewChild(ns.UserNS, ns.Inode+1)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// thread makes a task in ns, of p or of a process of its own where that is nil.
func (s *system) thread(ns *namespace, p *process) *task {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := ns.Allocate(Chosen{})
	if err != nil {
		s.t.Fatal(err)
	}
	t := &task{i, p}
	if p == nil {
		t.p = &process{leader: t}
		ns.SetInit(t.p)
	}
	t.ids.Remember(t)
	return t
}

// process makes a process in parent's group, or in a session of its own.
func (s *system) process(ns *namespace, parent *process) *process {
	s.t.Helper()
	p := s.thread(ns, nil).p
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.parent = parent; parent == nil {
		p.join(NewSession(p, p.leader.ids))
	} else {
		p.join(parent.group)
	}
	return p
}

func TestNumbersAreSeenFromTheirNamespaceAndAbove(t *testing.T) {
	s := newSystem(t)
	a := s.child(s.root)
	b, other := s.child(a), s.child(a)
	first := s.thread(s.root, nil)
	second := s.thread(a, nil)
	third := s.thread(b, nil)
	for _, c := range []struct {
		t    *task
		ns   *namespace
		want int32
	}{
		{first, s.root, 1}, {first, a, 0}, {second, s.root, 2}, {second, a, 1}, {second, b, 0},
		{third, s.root, 3}, {third, a, 2}, {third, b, 1}, {third, other, 0},
	} {
		if got := c.t.ids.In(c.ns); got != c.want {
			t.Errorf("%v at level %d is %d, want %d", c.t.ids.num, c.ns.Level, got, c.want)
		}
		if c.want != 0 && c.ns.Task(c.want) != c.t {
			t.Errorf("number %d at level %d is somebody else's", c.want, c.ns.Level)
		}
	}
	if third.ids.Own() != 1 || third.ids.Root() != 3 {
		t.Errorf("own %d, root %d", third.ids.Own(), third.ids.Root())
	}
	if !s.root.Contains(b) || !a.Contains(a) || b.Contains(a) || b.Contains(other) {
		t.Error("which namespace is in which")
	}
	if a.InitHeld() != second.p || s.root.InitHeld() != first.p {
		t.Error("who is init")
	}
	if !third.ids.Forget(third) || third.ids.Forget(third) {
		t.Error("forgotten once is forgotten")
	}
	if b.Task(1) != nil || a.Task(2) != nil || s.root.Task(3) != nil || s.root.Task(2) != second {
		t.Error("the wrong ones are forgotten")
	}
}

func TestNamespacesNestOnlySoDeep(t *testing.T) {
	s := newSystem(t)
	ns, levels := s.root, 1
	for ; ; levels++ {
		n, err := ns.NewChild(ns.UserNS, 0)
		if err == unix.ENOSPC {
			break
		}
		if err != nil || levels > maxLevels {
			t.Fatalf("level %d: %v", levels, err)
		}
		ns = n
	}
	if levels != maxLevels {
		t.Errorf("%d levels", levels)
	}
}

func TestNumbersBeginAgainAndSkipWhatIsTaken(t *testing.T) {
	s := newSystem(t)
	init := s.process(s.root, nil)
	s.root.SetLastPID(reserved - 1)
	leader := s.process(s.root, nil) // has 300, as its group and session do
	member := s.process(s.root, leader)
	s.mu.Lock()
	leader.leader.ids.Forget(leader.leader)
	leader.group.Leave(leader)
	s.mu.Unlock()
	s.root.SetLastPID(Max - 2)
	for _, want := range []int32{Max - 1, reserved + 2} {
		if got := s.thread(s.root, init).ids.Root(); got != want {
			t.Errorf("the next number is %d, want %d", got, want)
		}
		if got := s.root.LastPID(); got != want {
			t.Errorf("the last one is said to be %d, not %d", got, want)
		}
	}
	s.mu.Lock()
	member.group.Leave(member)
	s.mu.Unlock()
	if s.root.ProcessGroup(reserved) != nil {
		t.Error("an empty group is there")
	}
	s.root.SetLastPID(reserved - 1)
	if got := s.thread(s.root, init).ids.Root(); got != reserved {
		t.Errorf("with the session gone its number isn't given out: %d", got)
	}
}

func TestLimitsHoldBelow(t *testing.T) {
	s := newSystem(t)
	a := s.child(s.root)
	s.root.SetLimit(2)
	s.thread(s.root, nil)
	last := s.thread(a, nil)
	allocate := func(ns *namespace) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, err := ns.Allocate(Chosen{})
		return err
	}
	for _, ns := range []*namespace{s.root, a} {
		if err := allocate(ns); err != unix.EAGAIN {
			t.Errorf("one too many at level %d: %v", ns.Level, err)
		}
	}
	s.mu.Lock()
	last.ids.Forget(last)
	a.Close()
	s.mu.Unlock()
	if err := allocate(a); err != unix.ENOMEM {
		t.Errorf("in a namespace without init: %v", err)
	}
	if err := allocate(s.root); err != nil {
		t.Errorf("where there is room again: %v", err)
	}
}

func TestNumbersAreChosen(t *testing.T) {
	s := newSystem(t)
	root := auth.NewRoot(s.root.UserNS)
	nobody := root.Fork()
	nobody.Effective = 0
	a := s.child(s.root)
	allocate := func(ns *namespace, by *auth.Credentials, n ...int32) (ids, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return ns.Allocate(Chosen{n, by})
	}
	s.thread(s.root, nil)
	for _, c := range []struct {
		ns   *namespace
		by   *auth.Credentials
		n    []int32
		want error
	}{
		{s.root, root, []int32{0}, unix.EINVAL},
		{s.root, root, []int32{Max}, unix.EINVAL},
		{s.root, root, []int32{5, 5}, unix.EINVAL},
		{s.root, root, []int32{1}, unix.EEXIST},
		{s.root, nobody, []int32{5}, unix.EPERM},
		{s.root, nobody, []int32{-5}, unix.EINVAL},
		{a, root, []int32{2}, unix.EINVAL}, // there is no init
		{a, root, []int32{1, 1}, unix.EEXIST},
		{a, root, []int32{1, 5, 5}, unix.EINVAL},
	} {
		if _, err := allocate(c.ns, c.by, c.n...); err != c.want {
			t.Errorf("%d at level %d: %v, want %v", c.n, c.ns.Level, err, c.want)
		}
	}
	if i, err := allocate(a, root, 1, 700); err != nil || i.Own() != 1 || i.Root() != 700 {
		t.Errorf("in both namespaces: %d, %d, %v", i.Own(), i.Root(), err)
	}
	if i, err := allocate(a, root, 1); err != nil || i.Own() != 1 || i.Root() != 2 {
		t.Errorf("in one namespace: %d, %d, %v", i.Own(), i.Root(), err)
	}
	s.root.SetLimit(1)
	if _, err := allocate(s.root, root, 9); err != unix.EAGAIN {
		t.Errorf("one too many: %v", err)
	}
}

// A thread that execs while it isn't the leader has the process's number then.
func TestExecTakesNumbersOver(t *testing.T) {
	s := newSystem(t)
	p := s.process(s.child(s.root), nil)
	o := s.thread(p.leader.ids.NS, p)
	if n := s.root.ProcessCount(); n != 1 || len(s.root.Tasks()) != 2 {
		t.Errorf("%d processes, %d tasks", n, len(s.root.Tasks()))
	}
	s.mu.Lock()
	o.ids.Forget(o)
	p.leader.ids.Forget(p.leader)
	o.ids.Become(&p.leader.ids)
	p.leader = o
	o.ids.Remember(o)
	s.mu.Unlock()
	if o.ids.Own() != 1 || o.ids.Root() != 1 || s.root.Task(1) != o || s.root.Task(2) != nil || s.root.ThreadGroup(1) != p {
		t.Errorf("it is %d, and %d at the root", o.ids.Own(), o.ids.Root())
	}
	if s.root.ThreadGroup(2) != nil {
		t.Error("its old number is a process")
	}
}

func TestGroupsAreOrphanedWithoutAParentInTheSession(t *testing.T) {
	s := newSystem(t)
	shell := s.process(s.root, nil)
	job := s.process(s.root, shell)
	if !shell.group.Orphaned() {
		t.Error("a group whose members' parents are in it is not orphaned")
	}
	move := func(p *process, g *group) {
		s.mu.Lock()
		defer s.mu.Unlock()
		p.group.Leave(p)
		p.join(g)
	}
	s.mu.Lock()
	g := shell.group.Session().NewGroup(job.leader.ids)
	s.mu.Unlock()
	move(job, g)
	if g.Orphaned() || g.Session() != shell.group.Session() || !g.In(shell.group.Session()) {
		t.Error("a job of a shell is orphaned")
	}
	if id := g.ID(s.root); id != job.leader.ids.Root() || s.root.ProcessGroup(id) != g {
		t.Errorf("the group's number is %d", id)
	}
	job.ended = true
	if !g.Orphaned() {
		t.Error("a group of who has ended isn't orphaned")
	}
	job.ended = false
	s.mu.Lock()
	apart := NewSession(job, job.leader.ids)
	s.mu.Unlock()
	move(job, apart)
	if !apart.Orphaned() {
		t.Error("a parent in another session looks after a group")
	}
	if apart.Session().Leader() != job || apart.Session().ID(s.root) != job.leader.ids.Root() {
		t.Error("who leads the new session")
	}
}

func TestSignalsGoToMembersAndLeaders(t *testing.T) {
	s := newSystem(t)
	leader := s.process(s.root, nil)
	member := s.process(s.root, leader)
	stranger := s.process(s.root, nil)
	leader.group.Signal(unix.SIGTTIN)
	leader.group.Session().SignalLeader(unix.SIGHUP)
	s.mu.Lock()
	leader.group.Session().LeaderEnds()
	s.mu.Unlock()
	leader.group.Session().SignalLeader(unix.SIGCONT)
	if !slices.Equal(leader.sent, []unix.Signal{unix.SIGTTIN, unix.SIGHUP}) || !slices.Equal(member.sent, []unix.Signal{unix.SIGTTIN}) || stranger.sent != nil {
		t.Errorf("sent %v, %v, %v", leader.sent, member.sent, stranger.sent)
	}
}

func TestSessionsHaveOneTerminal(t *testing.T) {
	s := newSystem(t)
	leader := s.process(s.root, nil)
	ses := leader.group.Session()
	one, two := new(tty.TTY), new(tty.TTY)
	if ses.Terminal() != nil {
		t.Error("a new session has a terminal")
	}
	if err := ses.SetTerminal(one); err != nil || ses.Terminal() != one {
		t.Errorf("the first: %v", err)
	}
	if err := ses.SetTerminal(two); err != unix.EPERM {
		t.Errorf("a second: %v", err)
	}
	ses.ClearTerminal(two)
	if ses.Terminal() != one {
		t.Error("another's loss took it away")
	}
	s.mu.Lock()
	told := ses.LeaderEnds()
	s.mu.Unlock()
	if told != one {
		t.Error("who is to be told of the leader's end")
	}
	ses.ClearTerminal(one)
	if err := ses.SetTerminal(two); err != unix.EPERM || ses.Terminal() != nil {
		t.Errorf("without a leader: %v", err)
	}
}
