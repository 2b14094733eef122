package usermem

import "golang.org/x/sys/cpu"

var hasAVX = cpu.X86.HasAVX && cpu.X86.HasOSXSAVE

// moveBlocks copies as many whole blocks of 36 KiB as n bytes have, and returns
// how many bytes that are; zero where the two ranges overlap.
func moveBlocks(dst, src *byte, n int) int {
	if !hasAVX {
		return 0
	}
	return moveBlocksAVX(dst, src, n)
}

//go:noescape
func moveBlocksAVX(dst, src *byte, n int) int
