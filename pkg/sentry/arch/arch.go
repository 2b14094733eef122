// Package arch knows the processor: registers, floating-point state, the
// system-call convention and the signal frame.
//
// State is all of a task's processor state: Registers, in ptrace(2)'s layout,
// and the vector state as an XSAVE image in the standard format. Whatever an
// application puts into either, Registers.Sanitize and SanitizeFP turn it into
// something that the host accepts; a platform calls them before it loads a
// state. PushSignalFrame and PopSignalFrame are the delivery of a signal and
// rt_sigreturn(2), in the very layout that Linux uses.
//
// Nothing here locks: a State belongs to the goroutine of its task. While the
// task runs, its platform may hold newer vector registers than State.FP; see
// platform.Context.PullFP.
//
// The package doesn't offer debug registers, 32-bit code or AMX.
package arch
