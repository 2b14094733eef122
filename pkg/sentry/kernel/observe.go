package kernel

import (
	"fmt"
	"io"

	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/usage"
)

// What others may see of a task: this is for /proc.

// Children lists the task's children in the order of their birth: processes made
// by this thread, or by any where t leads its thread group and the maker has
// gone.
func (t *Task) Children() []*ThreadGroup {
	t.k.tree.RLock()
	defer t.k.tree.RUnlock()
	var all []*ThreadGroup
	for _, c := range t.tg.children {
		if c.parentTask == t || t == t.tg.leader && (c.parentTask == nil || c.parentTask.dead) {
			all = append(all, c)
		}
	}
	return all
}

// ExitSignal is what the parent gets when the process ends; zero for none.
func (tg *ThreadGroup) ExitSignal() signals.Signal {
	tg.k.tree.RLock()
	defer tg.k.tree.RUnlock()
	return tg.exitSignal
}

// TotalUsage is what all tasks have used since the start, those that are gone
// included.
func (k *Kernel) TotalUsage() usage.Resources {
	k.tree.RLock()
	defer k.tree.RUnlock()
	sum := k.deadUsage
	for t := range k.RootPIDNS.TasksHeld() {
		if !t.dead {
			sum.Add(t.usage.Read())
		}
	}
	return sum
}

// BootID is the random number that stands for this run of the sandbox, as
// /proc/sys/kernel/random/boot_id shows it.
func (k *Kernel) BootID() string {
	k.bootOnce.Do(func() { k.bootID = k.UUID() })
	return k.bootID
}

// UUID returns a new random UUID (RFC 9562, version 4) as text.
func (k *Kernel) UUID() string {
	var b [16]byte
	if _, err := io.ReadFull(k.Random, b[:]); err != nil {
		k.Logf("no random bytes for a UUID: %v", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
