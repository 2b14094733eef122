package proc

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/pseudo"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/pids"
	"vitrine/pkg/sentry/vfs"
)

// setting is a file of /proc/sys.
type setting struct {
	path string
	// get is the value, without a newline.
	get func(p *procfs, ctx vfs.Context) string
	// set, if not nil, makes it writable; value has no newline.
	set func(p *procfs, ctx vfs.Context, value string) error
	// mode is 0444, or 0644 with set, if zero.
	mode uint32
}

func fixed(v string) func(*procfs, vfs.Context) string {
	return func(*procfs, vfs.Context) string { return v }
}

func number(v int) func(*procfs, vfs.Context) string { return fixed(strconv.Itoa(v)) }

// threadsMax is kernel.threads-max: pids bound it first.
const threadsMax = pids.Max

// settings are what /proc/sys has, with Linux's defaults where they describe what
// the Sentry does too.
var settings = []setting{
	{path: "kernel/ostype", get: fixed("Linux")},
	{path: "kernel/osrelease", get: fixed(kernel.Release)},
	{path: "kernel/version", get: fixed(kernel.Version)},
	{path: "kernel/pid_max", get: number(pids.Max)},
	{path: "kernel/ns_last_pid", mode: 0o666, get: func(p *procfs, ctx vfs.Context) string {
		if t := p.callerTask(ctx); t != nil {
			return strconv.Itoa(int(t.PIDNamespace().LastPID()))
		}
		return "0"
	}, set: setLastPID},
	{path: "kernel/threads-max", get: number(threadsMax)},
	{path: "kernel/cap_last_cap", get: number(auth.LastCap)},
	{path: "kernel/ngroups_max", get: number(65536)},
	{path: "kernel/core_pattern", get: fixed("core")},
	{path: "kernel/core_uses_pid", get: number(0)},
	{path: "kernel/core_pipe_limit", get: number(0)},
	{path: "kernel/dmesg_restrict", get: number(0)},
	{path: "kernel/kptr_restrict", get: number(1)},
	{path: "kernel/perf_event_paranoid", get: number(2)},
	{path: "kernel/printk", get: fixed("4\t4\t1\t7")},
	{path: "kernel/randomize_va_space", get: number(2)},
	{path: "kernel/tainted", get: number(0)},
	{path: "kernel/overflowuid", get: number(int(auth.Overflow))},
	{path: "kernel/overflowgid", get: number(int(auth.Overflow))},
	{path: "kernel/panic", get: number(0)},
	{path: "kernel/modules_disabled", get: number(1)},
	{path: "kernel/unprivileged_bpf_disabled", get: number(2)},
	{path: "kernel/sched_child_runs_first", get: number(0)},
	{path: "kernel/random/boot_id", get: func(p *procfs, _ vfs.Context) string { return p.k.BootID() }},
	{path: "kernel/random/uuid", get: func(p *procfs, _ vfs.Context) string { return p.k.UUID() }},
	{path: "kernel/random/entropy_avail", get: number(256)},
	{path: "kernel/random/poolsize", get: number(256)},
	{path: "kernel/seccomp/actions_avail", get: fixed("kill_process kill_thread trap errno trace log allow")},
	{path: "vm/overcommit_memory", get: number(0)},
	{path: "vm/overcommit_ratio", get: number(50)},
	{path: "vm/overcommit_kbytes", get: number(0)},
	{path: "vm/max_map_count", get: number(65530)},
	{path: "vm/mmap_min_addr", get: number(65536)},
	{path: "vm/swappiness", get: number(60)},
	{path: "vm/nr_hugepages", get: number(0)},
	{path: "vm/dirty_ratio", get: number(20)},
	{path: "vm/dirty_background_ratio", get: number(10)},
	{path: "vm/min_free_kbytes", get: number(0)},
	{path: "vm/panic_on_oom", get: number(0)},
	{path: "vm/vfs_cache_pressure", get: number(100)},
	{path: "fs/file-max", get: fixed("9223372036854775807")},
	{path: "fs/file-nr", get: func(p *procfs, _ vfs.Context) string {
		return fmt.Sprintf("%d\t0\t9223372036854775807", p.openFiles())
	}},
	{path: "fs/nr_open", get: number(1 << 20)},
	{path: "fs/pipe-max-size", get: number(1 << 20)},
	{path: "fs/pipe-user-pages-hard", get: number(0)},
	{path: "fs/pipe-user-pages-soft", get: number(16384)},
	{path: "fs/mount-max", get: number(100000)},
	{path: "fs/protected_hardlinks", get: number(0)},
	{path: "fs/protected_symlinks", get: number(0)},
	{path: "fs/protected_fifos", get: number(0)},
	{path: "fs/protected_regular", get: number(0)},
	{path: "fs/suid_dumpable", get: number(0)},
	{path: "fs/lease-break-time", get: number(45)},
	{path: "fs/aio-max-nr", get: number(65536)},
	{path: "fs/aio-nr", get: number(0)},
	{path: "fs/inotify/max_queued_events", get: number(16384)},
	{path: "fs/inotify/max_user_instances", get: number(128)},
	{path: "fs/inotify/max_user_watches", get: number(65536)},
	{path: "fs/epoll/max_user_watches", get: number(1 << 20)},
	{path: "fs/mqueue/msg_default", get: number(10)},
	{path: "fs/mqueue/msg_max", get: number(10)},
	{path: "fs/mqueue/msgsize_default", get: number(8192)},
	{path: "fs/mqueue/msgsize_max", get: number(8192)},
	{path: "fs/mqueue/queues_max", get: number(256)},
	{path: "net/core/somaxconn", get: number(4096)},
	{path: "net/core/rmem_default", get: number(212992)},
	{path: "net/core/rmem_max", get: number(212992)},
	{path: "net/core/wmem_default", get: number(212992)},
	{path: "net/core/wmem_max", get: number(212992)},
	{path: "net/core/netdev_max_backlog", get: number(1000)},
	{path: "net/ipv4/ip_local_port_range", get: fixed("32768\t60999")},
	{path: "net/ipv4/ip_local_reserved_ports", get: fixed("")},
	{path: "net/ipv4/ip_forward", get: number(0)},
	{path: "net/ipv4/ip_nonlocal_bind", get: number(0)},
	{path: "net/ipv4/tcp_fin_timeout", get: number(60)},
	{path: "net/ipv4/tcp_keepalive_time", get: number(7200)},
	{path: "net/ipv4/tcp_keepalive_intvl", get: number(75)},
	{path: "net/ipv4/tcp_keepalive_probes", get: number(9)},
	{path: "net/ipv4/tcp_max_syn_backlog", get: number(128)},
	{path: "net/ipv4/tcp_retries2", get: number(15)},
	{path: "net/ipv4/tcp_syn_retries", get: number(6)},
	{path: "net/ipv4/tcp_sack", get: number(1)},
	{path: "net/ipv4/tcp_timestamps", get: number(1)},
	{path: "net/ipv4/tcp_window_scaling", get: number(1)},
	{path: "net/ipv4/tcp_rmem", get: fixed("4096\t131072\t6291456")},
	{path: "net/ipv4/tcp_wmem", get: fixed("4096\t16384\t4194304")},
	{path: "net/ipv4/tcp_congestion_control", get: fixed("reno")},
	{path: "net/ipv4/tcp_available_congestion_control", get: fixed("reno")},
	{path: "net/ipv4/tcp_allowed_congestion_control", get: fixed("reno")},
	{path: "net/unix/max_dgram_qlen", get: number(10)},
}

// setLastPID is for the superuser of the caller's pid namespace.
func setLastPID(p *procfs, ctx vfs.Context, value string) error {
	t := p.callerTask(ctx)
	if t == nil || !ctx.Credentials().HasCapIn(unix.CAP_SYS_ADMIN, t.PIDNamespace().UserNS) {
		return unix.EPERM
	}
	n, err := parseNumber(value, 0, pids.Max-1)
	if err == nil {
		t.PIDNamespace().SetLastPID(int32(n))
	}
	return err
}

// fillSys puts the settings into /proc/sys.
func (p *procfs) fillSys(root *pseudo.Dir) {
	for i := range settings {
		p.putSetting(root, &settings[i])
	}
	for i := range sysctls {
		s := sysctls[i].setting()
		p.putSetting(root, &s)
	}
}

func (p *procfs) putSetting(root *pseudo.Dir, s *setting) {
	mode := s.mode
	if mode == 0 {
		mode = 0o444
		if s.set != nil {
			mode = 0o644
		}
	}
	f := p.build.PutFile(root, s.path, mode, pseudo.Whole(func(ctx vfs.Context, b *bytes.Buffer) error {
		b.WriteString(s.get(p, ctx))
		b.WriteByte('\n')
		return nil
	}))
	if s.set == nil {
		f.Check = pseudo.ReadOnly
		return
	}
	f.Store = func(ctx vfs.Context, data []byte) error {
		v, _, _ := strings.Cut(string(data), "\x00")
		v, _, _ = strings.Cut(v, "\n")
		return s.set(p, ctx, v)
	}
}

// openFiles counts the descriptors of all processes.
func (p *procfs) openFiles() (n int) {
	seen := map[*vfs.FDTable]bool{}
	for _, t := range p.k.RootPIDNS.Tasks() {
		if f := t.SharedFDs(); f != nil && !seen[f] {
			seen[f] = true
			n += f.Len()
		}
	}
	return n
}
