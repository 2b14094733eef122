package usermem

// Move is the built-in copy for what may be large: a file's data on its way to
// the application. From moveMin bytes on, what doesn't overlap is read in several
// places at once: a processor fetches ahead within a page, so that each place is
// a stream of its own for it, and more of the memory's bandwidth is used than by
// one page after the other. It doesn't bypass the caches, as the built-in copy does
// from 1 MiB on: it is for what is about to be read. The built-in copy is quicker
// for what isn't, as the pages of a file that is written.
func Move(dst, src []byte) int {
	n := min(len(dst), len(src))
	done := 0
	if n >= moveMin {
		done = moveBlocks(&dst[0], &src[0], n)
	}
	return done + copy(dst[done:n], src[done:n])
}

// moveMin is where moveBlocks is worth its start.
const moveMin = 128 << 10
