package call

import "unsafe"

// first returns the first n bytes of the room as a string.
func first(room *[256]byte, n int) string {
	// SAFETY: n is at most the length. The bytes change only when the next path is
	// put there, and by then nobody has the string (peek).
	return unsafe.String(&room[0], n)
}
