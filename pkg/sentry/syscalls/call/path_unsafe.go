package call

import "unsafe"

// first returns the first n bytes as a string.
func (r *pathRoom) first(n int) string {
	// SAFETY: n is at most the length. The bytes change only when somebody else
	// gets the room, and by then nobody has the string (peek).
	return unsafe.String(&r[0], n)
}
