package mm

// What the Sentry keeps for mappings and runs of pages is charged to the account by
// many at a time, so that it costs next to nothing. The first ones are in what a
// process costs.

const (
	// What a mapping and a run of pages take of the Sentry's own memory, in bytes.
	vmaCost  = 256
	areaCost = 96
	// How many are paid at a time, or free.
	vmasAtOnce, freeVMAs   = 64, 64
	areasAtOnce, freeAreas = 256, 256
)

// roomFor reports whether there may be more mappings than now, and has them paid. mu
// is held.
func (m *MemoryManager) roomFor(more int) bool {
	n := m.vmas.Len() + more
	return more == 0 || n <= MaxMappings && m.payVMAs(n)
}

// payVMAs pays for n mappings, if there is room. mu is held.
func (m *MemoryManager) payVMAs(n int) bool {
	if n <= m.paidVMAs {
		return true
	}
	more := (n-m.paidVMAs-1)/vmasAtOnce*vmasAtOnce + vmasAtOnce
	if m.acct.Charge(int64(more)*vmaCost) != nil {
		return false
	}
	m.paidVMAs += more
	return true
}

// payAreas pays for the runs of pages that there are. That is never refused: what is in
// them has been paid. pageMu is held.
func (m *MemoryManager) payAreas() {
	if n := m.areas.Len(); n > m.paidAreas {
		more := (n-m.paidAreas-1)/areasAtOnce*areasAtOnce + areasAtOnce
		m.acct.ChargeAlways(int64(more) * areaCost)
		m.paidAreas += more
	}
}

// payLess takes back what is paid for far more mappings than there are. mu is held.
func (m *MemoryManager) payLess() {
	if least := max(m.vmas.Len(), freeVMAs); m.paidVMAs-least >= 4*vmasAtOnce {
		less := (m.paidVMAs - least) / vmasAtOnce * vmasAtOnce
		m.acct.Uncharge(int64(less) * vmaCost)
		m.paidVMAs -= less
	}
	if m.paidAreas == freeAreas {
		return
	}
	m.pageMu.Lock()
	defer m.pageMu.Unlock()
	if least := max(m.areas.Len(), freeAreas); m.paidAreas-least >= 4*areasAtOnce {
		less := (m.paidAreas - least) / areasAtOnce * areasAtOnce
		m.acct.Uncharge(int64(less) * areaCost)
		m.paidAreas -= less
	}
}

// payNothing takes all back. mu and pageMu are held.
func (m *MemoryManager) payNothing() {
	m.acct.Uncharge(m.overhead())
	m.paidVMAs, m.paidAreas = freeVMAs, freeAreas
}

func (m *MemoryManager) overhead() int64 {
	return int64(m.paidVMAs-freeVMAs)*vmaCost + int64(m.paidAreas-freeAreas)*areaCost
}

// Overhead returns how much of the Sentry's own memory the account is charged for the
// address space, in bytes, beyond what any costs.
func (m *MemoryManager) Overhead() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	m.pageMu.RLock()
	defer m.pageMu.RUnlock()
	return m.overhead()
}
