package proc

import (
	"bytes"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/pseudo"
	"vitrine/pkg/sentry/vfs"
)

// NetReporter is what a namespaces.Net's Stack implements that has something
// to show in /proc/net. ReportNet appends to b what follows the header of the
// file called name ("tcp", "dev", ...), in Linux's format, and reports whether it
// knows the file.
type NetReporter interface {
	ReportNet(ctx vfs.Context, name string, b *bytes.Buffer) bool
}

// netFiles are the names in /proc/net and their headers.
var netFiles = []struct{ name, header string }{
	{"arp", "IP address       HW type     Flags       HW address            Mask     Device\n"},
	{"dev", "Inter-|   Receive                                                |  Transmit\n" +
		" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"},
	{"if_inet6", ""},
	{"igmp", "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"},
	{"ipv6_route", ""},
	{"netlink", "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"},
	{"netstat", ""},
	{"packet", "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"},
	{"protocols", "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re sp bi br ha uh gp em\n"},
	{"raw", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"},
	{"raw6", "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"},
	{"route", padded("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT", 127)},
	{"snmp", ""},
	{"snmp6", ""},
	{"sockstat", ""},
	{"tcp", padded("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", 149)},
	{"tcp6", "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"},
	{"udp", padded("   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops", 127)},
	{"udp6", "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"},
	{"unix", "Num       RefCount Protocol Flags    Type St Inode Path\n"},
	{"wireless", "Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE\n" +
		" face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22\n"},
}

// padded fills a header up to the width of its table's lines, as Linux does.
func padded(s string, width int) string {
	b := []byte(s)
	for len(b) < width {
		b = append(b, ' ')
	}
	return string(b) + "\n"
}

// netDir is /proc/PID/net.
type netDir struct{ subDir }

// Lookup implements vfs.Directory.
func (d *netDir) Lookup(_ vfs.Context, name string) (vfs.Inode, error) {
	for i, f := range netFiles {
		if f.name == name {
			m := d.s.meta(classNet, uint64(i), unix.S_IFREG|0o444)
			m.Owner = nil
			return &taskFile{pseudo.File{Meta: m.Meta(), Generate: d.s.netFile(f.name, f.header)}}, nil
		}
	}
	return nil, unix.ENOENT
}

func (s subject) netFile(name, header string) pseudo.Generator {
	return pseudo.Whole(func(ctx vfs.Context, b *bytes.Buffer) error {
		t, err := s.task()
		if err != nil {
			return err
		}
		b.WriteString(header)
		if n := t.Namespaces(); n != nil && n.Net != nil {
			if r, ok := n.Net.Stack.(NetReporter); ok {
				r.ReportNet(ctx, name, b)
			}
		}
		return nil
	})
}

// Open implements vfs.Inode.
func (d *netDir) Open(_ vfs.Context, p vfs.Path, _ uint32) (any, error) {
	return pseudo.OpenDir(p, d.Ino, d), nil
}

// List implements pseudo.Lister.
func (d *netDir) List(_ vfs.Context, cookie int64, emit func(vfs.DirEntry) bool) error {
	for i := cookie - pseudo.FirstCookie; i < int64(len(netFiles)); i++ {
		if !emit(vfs.DirEntry{Name: netFiles[i].name, Ino: d.s.ino(classNet, uint64(i)), Type: unix.DT_REG, Next: i + pseudo.FirstCookie + 1}) {
			break
		}
	}
	return nil
}
