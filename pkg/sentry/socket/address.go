package socket

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// MaxAddress is sizeof(struct sockaddr_storage).
const MaxAddress = 128

// AddressFamily returns the family of a sockaddr; EINVAL if it is too short to
// have one.
func AddressFamily(addr []byte) (int, error) {
	if len(addr) < 2 {
		return 0, unix.EINVAL
	}
	return int(binary.LittleEndian.Uint16(addr)), nil
}

// UnixAddress is a decoded sockaddr_un. An Abstract name may hold any bytes; an
// address without a name is "unnamed".
type UnixAddress struct {
	Name     string
	Abstract bool
}

const unixAddressSize = 110 // sizeof(struct sockaddr_un)

// ParseUnixAddress decodes a sockaddr_un: EINVAL if it is too short, too long or
// of another family. An address that ends behind the family is unnamed.
func ParseUnixAddress(addr []byte) (UnixAddress, error) {
	family, err := AddressFamily(addr)
	if err != nil || len(addr) > unixAddressSize || family != unix.AF_UNIX {
		return UnixAddress{}, unix.EINVAL
	}
	name := addr[2:]
	switch {
	case len(name) == 0:
		return UnixAddress{}, nil
	case name[0] == 0:
		return UnixAddress{string(name[1:]), true}, nil
	}
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	return UnixAddress{Name: string(name)}, nil
}

// Unnamed reports whether a has no name.
func (a UnixAddress) Unnamed() bool { return a.Name == "" && !a.Abstract }

// Bytes returns a as a sockaddr_un of the length that Linux gives it.
func (a UnixAddress) Bytes() []byte {
	b := []byte{unix.AF_UNIX, 0}
	switch {
	case a.Abstract:
		b = append(append(b, 0), a.Name...)
	case a.Name != "":
		b = append(append(b, a.Name...), 0)
	}
	return b
}
