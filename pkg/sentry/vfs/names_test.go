package vfs

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

func TestNamesAgreeWithAMap(t *testing.T) {
	dir := newDentry(nil, nil, "", nil)
	model := map[string]*Dentry{}
	r := rand.New(rand.NewPCG(1, 2))
	for step := range 20000 {
		// The number of names goes up and down, to nothing too.
		name := fmt.Sprint(r.IntN(1 + step/50%40*5))
		switch old := model[name]; {
		case old != nil && r.IntN(3) > 0:
			if !dir.children.take(dir, old) {
				t.Fatalf("step %d: %q wasn't there", step, name)
			}
			delete(model, name)
		case old == nil:
			c := newChild(dir, name, nil)
			dir.children.put(c)
			model[name] = c
		}
		if got := dir.children.find(dir, name); got != model[name] {
			t.Fatalf("step %d: find(%q) = %p, want %p", step, name, got, model[name])
		}
	}
	seen := 0
	dir.children.each(func(c *Dentry) {
		seen++
		if model[c.Name()] != c {
			t.Errorf("each came by %q, which has gone", c.Name())
		}
	})
	if seen != len(model) || dir.children.n != seen {
		t.Errorf("%d names in the table, which counts %d; want %d", seen, dir.children.n, len(model))
	}
	for _, c := range model {
		dir.children.take(dir, c)
	}
	if got := dir.children.find(dir, "1"); got != nil || dir.children.n != 0 {
		t.Errorf("a table without names has %v", got)
	}
}

// A dentry that goes from one directory and name to others is never found where
// it has not been.
func TestNamesAreReadWhileTheyChange(t *testing.T) {
	a, b := newDentry(nil, nil, "a", nil), newDentry(nil, nil, "b", nil)
	stay := newChild(a, "stay", nil)
	a.children.put(stay)
	moving := newChild(a, "here", nil)
	a.children.put(moving)
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !done.Load() {
				if c := a.children.find(a, "stay"); c != nil && c != stay {
					t.Error("another dentry has the name")
				}
				if c := a.children.find(a, "there"); c != nil {
					t.Error("found by the name that it has elsewhere")
				}
				if c := b.children.find(b, "here"); c != nil {
					t.Error("found in the directory where it is called otherwise")
				}
			}
		})
	}
	for i := range 20000 {
		a.children.take(a, moving)
		moving.at.Store(&place{b, "there"})
		b.children.put(moving)
		c := newChild(a, fmt.Sprint(i), nil)
		a.children.put(c)
		if i%100 == 99 {
			a.children.each(func(c *Dentry) {
				if c != stay {
					a.children.take(a, c)
				}
			})
		}
		b.children.take(b, moving)
		moving.at.Store(&place{a, "here"})
		a.children.put(moving)
	}
	done.Store(true)
	wg.Wait()
}

// What went with its directory isn't counted for ever: once that were as many as may
// be cached, each new name would have the whole tree searched.
func TestReclaimCountsAnew(t *testing.T) {
	fs := &Filesystem{}
	fs.root = newDentry(fs, nil, "", nil)
	directory := func(name string) *Dentry {
		d := newChild(fs.root, name, nil)
		d.isDir = true
		fs.root.insert(d)
		d.insert(newChild(d, "missing", nil))
		return d
	}
	for range 10 {
		fs.root.forget(directory("goes"))
	}
	directory("stays")
	fs.Reclaim()
	if got := fs.cached.Load(); got != 1 {
		t.Errorf("%d are counted, and one is there", got)
	}
}

// A tree of more directories than may be cached isn't searched for each new name.
func TestReclaimThatFreesNothingIsNotRepeated(t *testing.T) {
	fs := &Filesystem{}
	fs.root = newDentry(fs, nil, "", nil)
	add := func(i int) {
		d := newChild(fs.root, fmt.Sprint(i), nil)
		d.isDir = true
		fs.root.mu.Lock()
		fs.root.insert(d)
		fs.root.mu.Unlock()
	}
	for i := range maxCached {
		add(i)
	}
	fs.Reclaim()
	fs.kept.CompareAndSwap(maxCached, maxCached+1) // another reclaim would count anew
	for i := range 100 {
		add(maxCached + i)
	}
	for fs.reclaiming.Load() {
		runtime.Gosched()
	}
	if got := fs.kept.Load(); got != maxCached+1 {
		t.Errorf("it was searched again: %d directories", got)
	}
}
