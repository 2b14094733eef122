package kernel

import (
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/vfs"
)

var _ socket.Context = (*Task)(nil)

// Network, View, Umask, Process, ProcessID and FileLimit implement
// socket.Context.
func (t *Task) Network() *socket.Namespace { return &t.namespaces.Net.Sockets }
func (t *Task) View() vfs.FSView {
	v := t.fs.View()
	v.Recent = &t.recent
	return v
}
func (t *Task) Umask() uint32     { return t.fs.Umask() }
func (t *Task) Process() any      { return t.tg }
func (t *Task) FileLimit() uint64 { return t.tg.Limits().Soft(limits.OpenFiles) }
func (t *Task) ProcessID(p any) int32 {
	if tg, ok := p.(*ThreadGroup); ok {
		return tg.ids.In(t.ids.NS)
	}
	return 0
}
