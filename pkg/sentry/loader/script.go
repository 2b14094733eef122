package loader

import "bytes"

// scriptHead is how much of a file is looked at for its "#!" line
// (BINPRM_BUF_SIZE): execve(2), "Interpreter scripts".
const scriptHead = 256

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// skipBlanks returns the index of the first byte of b from i on, and up to last,
// that is not a blank, or -1.
func skipBlanks(b []byte, i, last int) int {
	for ; i <= last; i++ {
		if !isBlank(b[i]) {
			return i
		}
	}
	return -1
}

// findEnd returns the index of the first blank or NUL in b[i..last], or -1.
func findEnd(b []byte, i, last int) int {
	for ; i <= last; i++ {
		if isBlank(b[i]) || b[i] == 0 {
			return i
		}
	}
	return -1
}

// cString cuts b at its first NUL.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// parseScript takes the first scriptHead bytes of a file that begins with "#!",
// zero-filled where the file is shorter, and returns the interpreter and its one
// optional argument. A line that does not end within them is good as long as the
// interpreter's name does. It reports false for what is ENOEXEC.
func parseScript(b []byte) (name, arg string, hasArg, ok bool) {
	last := len(b) - 1
	end := bytes.IndexByte(b, '\n')
	if nul := bytes.IndexByte(b, 0); nul >= 0 && nul < end {
		end = -1 // a line ends at a NUL, too
	}
	if end < 0 {
		start := skipBlanks(b, 2, last)
		if start < 0 || findEnd(b, start, last) < 0 {
			return "", "", false, false
		}
		end = last
	}
	// Only the "#!" itself stops this; it is not blank.
	for isBlank(b[end-1]) {
		end--
	}
	start := skipBlanks(b, 2, end)
	if start < 0 || start == end {
		return "", "", false, false
	}
	sep := findEnd(b, start, end)
	if sep < 0 || b[sep] == 0 || sep >= end {
		return cString(b[start:end]), "", false, true
	}
	argStart := skipBlanks(b, sep, end)
	if argStart < 0 {
		return cString(b[start:sep]), "", false, true
	}
	return cString(b[start:sep]), cString(b[argStart:max(end, argStart)]), true, true
}
