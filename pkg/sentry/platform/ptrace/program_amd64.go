package ptrace

// The pieces of program_amd64.s. pieceAddrs stores their addresses, in the order
// of their places.
//
//go:noescape
func pieceAddrs(p *[5]uintptr)
