package usage

import "sync/atomic"

// publish is p.Store(v) without its locked instruction, for a p that only the caller
// stores to: on amd64 stores are seen in their order as they are.
//
//go:noescape
func publish(p *atomic.Int64, v int64)
