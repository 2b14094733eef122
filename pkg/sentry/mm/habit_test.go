package mm

import (
	"testing"

	"vitrine/pkg/usermem"
)

// accessOf is what the address space lets the application do at a.
func accessOf(m *MemoryManager, a usermem.Addr) (access usermem.Access) {
	m.as.(*fakeSpace).each(usermem.AddrRange{Start: a, End: a + pageSize}, func(_ uint64, p fakePage) { access = p.access })
	return access
}

func TestForkPreparesWhatEarlierForksTouched(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	defer m.DecUsers()
	const pages = 40
	a := mustMap(t, m, MMapOpts{Length: pages * pageSize, Private: true})
	page := func(n int) usermem.Addr { return a + usermem.Addr(n*pageSize) }
	for i := range pages {
		touch(t, m, page(i), true, byte(i))
	}
	const parents, childs, both, read, other = 3, 9, 15, 21, 30
	for round := range 4 {
		c, err := m.Fork()
		if err != nil {
			t.Fatal(err)
		}
		check(t, m)
		check(t, c)
		ready := round >= 2 // the second fork has seen the first, from then on it stays
		for _, p := range []struct {
			m    *MemoryManager
			page int
			want usermem.Access
		}{
			{m, parents, usermem.ReadWrite}, {m, both, usermem.ReadWrite}, {m, other, usermem.Read},
			{c, parents, usermem.ReadWrite}, {c, childs, usermem.ReadWrite}, {c, both, usermem.ReadWrite}, {c, read, usermem.Read},
		} {
			if got := accessOf(p.m, page(p.page)); ready && got != p.want {
				t.Errorf("round %d: page %d of %s is mapped %v, want %v", round, p.page, map[bool]string{true: "the parent", false: "the child"}[p.m == m], got, p.want)
			}
		}
		if ready && accessOf(c, page(other)) == usermem.ReadWrite {
			t.Errorf("round %d: a page that nobody touched is copied", round)
		}
		b := byte(100 + round)
		for _, n := range []int{parents, both} {
			touch(t, m, page(n), true, b)
		}
		for _, n := range []int{childs, both} {
			touch(t, c, page(n), true, b+50)
		}
		wantByte(t, c, page(read), read)
		wantByte(t, m, page(childs), childs)
		wantByte(t, m, page(both), b)
		wantByte(t, c, page(both), b+50)
		want := byte(parents)
		if round > 0 {
			want = b - 1
		}
		wantByte(t, c, page(parents), want)
		check(t, m)
		check(t, c)
		c.DecUsers()
	}
}

func TestForkPreparesWhatItsCallerNames(t *testing.T) {
	for _, alone := range []bool{true, false} {
		e := newEnv(t, 0)
		m := e.newMM(t, Options{})
		a := mustMap(t, m, MMapOpts{Length: 4 * pageSize, Private: true})
		ro := mustMap(t, m, MMapOpts{Length: 4 * pageSize, Private: true, Prot: usermem.Read})
		for i := range usermem.Addr(4) {
			touch(t, m, a+i*pageSize, true, 1)
			touch(t, m, ro+i*pageSize, false, 0)
		}
		if !alone {
			m.IncUsers() // a thread, which may write at any time
		}
		c, err := m.Fork(Touch{a + pageSize + 17, true}, Touch{Addr: ro}, Touch{ro + pageSize, true}, Touch{0x1000, true})
		if err != nil {
			t.Fatal(err)
		}
		check(t, m)
		check(t, c)
		want := usermem.ReadWrite
		if !alone {
			want = usermem.Read
		}
		if got := accessOf(c, a+pageSize); got != want {
			t.Errorf("alone %v: the child's page is mapped %v", alone, got)
		}
		if got := accessOf(m, a+pageSize); got != want {
			t.Errorf("alone %v: the parent's page is mapped %v", alone, got)
		}
		if got := accessOf(c, ro); got != usermem.Read {
			t.Errorf("alone %v: the child's page for reading is mapped %v", alone, got)
		}
		touch(t, m, a+pageSize, true, 2)
		wantByte(t, c, a+pageSize, 1)
		touch(t, c, a+pageSize, true, 3)
		wantByte(t, m, a+pageSize, 2)
		c.DecUsers()
		m.DecUsers()
		if !alone {
			m.DecUsers()
		}
	}
}

// Pages that are prepared in vain don't become more and more.
func TestHabitIsBounded(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	defer m.DecUsers()
	const pages = 3 * maxHabit
	a := mustMap(t, m, MMapOpts{Length: pages * pageSize, Private: true})
	for i := range usermem.Addr(pages) {
		touch(t, m, a+i*pageSize, true, 1)
	}
	for i := range 2 * forgetForks {
		c, err := m.Fork()
		if err != nil {
			t.Fatal(err)
		}
		touch(t, c, a+usermem.Addr(i*7%pages*pageSize), true, 2)
		if n := len(m.habit.touched); n > maxHabit {
			t.Fatalf("%d pages are remembered", n)
		}
		if used, max := e.acct.Usage(), uint64(pages+maxHabit+2)*pageSize; used > max {
			t.Fatalf("%d bytes are in use after %d forks, want %d at most", used, i+1, max)
		}
		c.DecUsers()
		if used := e.acct.Usage(); used != pages*pageSize {
			t.Fatalf("%d bytes are in use by the parent after %d forks", used, i+1)
		}
	}
}
