// Package arch knows the processor: registers, floating-point state, the
// system-call convention and the signal frame.
package arch
