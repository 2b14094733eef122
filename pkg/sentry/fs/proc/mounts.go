package proc

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/pseudo"
	"vitrine/pkg/sentry/vfs"
)

// mounts returns a Generator of a line for each mount that can be seen from the
// subject's root. The position is the index in the list of mounts.
func (s subject) mounts(line func(b *bytes.Buffer, i *vfs.MountInfo, point string)) pseudo.Generator {
	return func(_ vfs.Context, b *bytes.Buffer, at int64) (int64, error) {
		t, err := s.task()
		if err != nil {
			return 0, err
		}
		ns, fs := t.Namespaces(), t.FS()
		if ns == nil || fs == nil {
			return 0, unix.EINVAL
		}
		root := fs.Root()
		all := ns.Mount.Mounts()
		for i := at; i < int64(len(all)); i++ {
			if b.Len() >= pseudo.PartSize {
				return i, nil
			}
			if point, ok := vfs.PathName(root, all[i].Point); ok {
				line(b, &all[i], point)
			}
		}
		return pseudo.Done, nil
	}
}

// unprintable are the bytes that stand as octal codes in fields of mounts.
const unprintable = " \t\n\\#"

// mountOptions returns the options of a mount, without those of its file system.
// ro says that nothing can be written.
func mountOptions(m *vfs.Mount, ro bool) string {
	var b strings.Builder
	b.WriteString("rw")
	if ro {
		b.Reset()
		b.WriteString("ro")
	}
	f := m.Flags()
	for _, o := range []struct {
		bit  vfs.MountFlags
		name string
	}{
		{vfs.MountNoSUID, ",nosuid"}, {vfs.MountNoDev, ",nodev"}, {vfs.MountNoExec, ",noexec"},
		{vfs.MountNoAtime, ",noatime"}, {vfs.MountNoDirAtime, ",nodiratime"}, {vfs.MountRelatime, ",relatime"},
	} {
		if f&o.bit != 0 {
			b.WriteString(o.name)
		}
	}
	return b.String()
}

// source is the device of a mount, which must not be empty in a line of fields.
func source(m *vfs.Mount) string {
	if m.Source == "" {
		return "none"
	}
	return escape(m.Source, unprintable)
}

// mountsLine is a line of /proc/PID/mounts: fstab(5).
func mountsLine(b *bytes.Buffer, i *vfs.MountInfo, point string) {
	m := i.Mount
	fs := m.Filesystem()
	fmt.Fprintf(b, "%s %s %s %s%s 0 0\n", source(m), escape(point, " \t\n\\"), escape(fs.Type, unprintable),
		mountOptions(m, m.ReadOnly()), fs.Options)
}

// mountinfoLine is a line of /proc/PID/mountinfo (proc(5)).
func mountinfoLine(b *bytes.Buffer, i *vfs.MountInfo, point string) {
	m := i.Mount
	fs := m.Filesystem()
	super := "rw"
	if fs.ReadOnly {
		super = "ro"
	}
	fmt.Fprintf(b, "%d %d %d:%d %s %s %s - %s %s %s%s\n", m.ID, i.ParentID, unix.Major(fs.Dev), unix.Minor(fs.Dev),
		escape(i.Root, " \t\n\\"), escape(point, " \t\n\\"), mountOptions(m, m.Flags()&vfs.MountReadOnly != 0),
		escape(fs.Type, unprintable), source(m), super, fs.Options)
}

// mountstatsLine is a line of /proc/PID/mountstats.
func mountstatsLine(b *bytes.Buffer, i *vfs.MountInfo, point string) {
	m := i.Mount
	fmt.Fprintf(b, "device %s mounted on %s with fstype %s\n", source(m), escape(point, " \t\n\\"), escape(m.Filesystem().Type, unprintable))
}
