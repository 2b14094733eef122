// Package dev has the devices that a system can't do without (null(4), full(4),
// random(4)), a registry of drivers by number, and the usual contents of /dev.
//
// A Registry is the device half of vfs.SpecialFiles: whoever has a driver
// registers it for its numbers before the first task runs. Terminals register
// theirs (package tty, package devpts).
//
// What it doesn't do: block devices (there are none: ENXIO), /dev/mem and the
// like, hotplug.
//
// Locking: Registry.mu is a leaf. Devices have no state.
package dev

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/vfs"
)

// Driver opens devices.
type Driver interface {
	// OpenDevice returns what an open file of the device does, or a file of
	// its own in place of the one at p, as vfs.SpecialFiles says.
	OpenDevice(ctx vfs.Context, p vfs.Path, rdev uint64, flags uint32) (impl any, other *vfs.File, err error)
}

// DriverFunc is a function as a Driver.
type DriverFunc func(ctx vfs.Context, p vfs.Path, rdev uint64, flags uint32) (any, *vfs.File, error)

// OpenDevice implements Driver.
func (f DriverFunc) OpenDevice(ctx vfs.Context, p vfs.Path, rdev uint64, flags uint32) (any, *vfs.File, error) {
	return f(ctx, p, rdev, flags)
}

// Registry finds drivers of character devices. The zero Registry is empty.
// Safe for concurrent use.
type Registry struct {
	mu     locks.RWMutex[locks.Leaf]
	exact  map[uint64]Driver
	majors map[uint32]Driver
}

// Register makes d the driver of one device.
func (r *Registry) Register(major, minor uint32, d Driver) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.exact == nil {
		r.exact = map[uint64]Driver{}
	}
	r.exact[unix.Mkdev(major, minor)] = d
}

// RegisterMajor makes d the driver of all devices with a major number that have
// none of their own.
func (r *Registry) RegisterMajor(major uint32, d Driver) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.majors == nil {
		r.majors = map[uint32]Driver{}
	}
	r.majors[major] = d
}

// OpenDevice does what vfs.SpecialFiles says.
func (r *Registry) OpenDevice(ctx vfs.Context, p vfs.Path, block bool, rdev uint64, flags uint32) (any, *vfs.File, error) {
	if block {
		return nil, nil, unix.ENXIO
	}
	r.mu.RLock()
	d := r.exact[rdev]
	if d == nil {
		d = r.majors[unix.Major(rdev)]
	}
	r.mu.RUnlock()
	if d == nil {
		return nil, nil, unix.ENXIO
	}
	return d.OpenDevice(ctx, p, rdev, flags)
}

// Numbers of the devices here (Documentation/admin-guide/devices.txt).
const (
	memMajor = 1
	ttyMajor = 5

	nullMinor    = 3
	zeroMinor    = 5
	fullMinor    = 7
	randomMinor  = 8
	urandomMinor = 9

	ttyMinor     = 0
	consoleMinor = 1
	ptmxMinor    = 2
)

// Device is a node in /dev.
type Device struct {
	// Path is relative to /dev; directories in it are made.
	Path string
	// Mode has the type and permissions.
	Mode     uint32
	Rdev     uint64
	UID, GID uint32
}

// DefaultDevices are those of the OCI runtime specification (config-linux.md,
// "Default Devices"); ptmx is a link, see Links.
func DefaultDevices() []Device {
	char := func(path string, major, minor uint32) Device {
		return Device{Path: path, Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(major, minor)}
	}
	return []Device{
		char("null", memMajor, nullMinor),
		char("zero", memMajor, zeroMinor),
		char("full", memMajor, fullMinor),
		char("random", memMajor, randomMinor),
		char("urandom", memMajor, urandomMinor),
		char("tty", ttyMajor, ttyMinor),
	}
}

// Console is the node of the console.
func Console() Device {
	return Device{Path: "console", Mode: unix.S_IFCHR | 0o620, Rdev: unix.Mkdev(ttyMajor, consoleMinor), GID: 5}
}

// Links are the symbolic links of the OCI runtime specification ("/dev symbolic
// links").
func Links() map[string]string {
	return map[string]string{
		"fd":     "/proc/self/fd",
		"stdin":  "/proc/self/fd/0",
		"stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2",
		"ptmx":   "pts/ptmx",
	}
}
