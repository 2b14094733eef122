package proc

import (
	"bytes"
	"fmt"

	"vitrine/pkg/sentry/fs/pseudo"
	"vitrine/pkg/sentry/ipc"
	"vitrine/pkg/sentry/vfs"
)

// fillSysVIPC puts sysvipc(7)'s lists into /proc/sysvipc: the objects of the
// reader's IPC namespace, with ids as its user namespace has them.
func (p *procfs) fillSysVIPC(root *pseudo.Dir) {
	for _, l := range []struct {
		name, header string
		rows         func(ns *ipc.Namespace, b *bytes.Buffer, ids func(*ipc.Permissions) string)
	}{
		{"shm", "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n", shmRows},
		{"sem", "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n", semRows},
		{"msg", "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n", msgRows},
	} {
		p.build.PutFile(root, "sysvipc/"+l.name, 0o444, pseudo.Whole(func(ctx vfs.Context, b *bytes.Buffer) error {
			b.WriteString(l.header)
			n := p.namespaces(ctx)
			if n == nil {
				return nil
			}
			user := ctx.Credentials().UserNS
			l.rows(n.IPC.SystemV(), b, func(o *ipc.Permissions) string {
				return fmt.Sprintf("%5d %5d %5d %5d", user.UID(o.UID), user.GID(o.GID), user.UID(o.CUID), user.GID(o.CGID))
			})
			return nil
		}))
	}
}

func shmRows(ns *ipc.Namespace, b *bytes.Buffer, ids func(*ipc.Permissions) string) {
	all, _ := ns.Segments()
	for _, s := range all {
		fmt.Fprintf(b, "%10d %10d  %4o %21d %5d %5d  %5d %s %10d %10d %10d %21d %21d\n", s.Key, s.ID, s.Mode, s.Size, s.Created, s.Last,
			s.Attached, ids(&s.Permissions), s.ATime, s.DTime, s.CTime, s.Resident*pageSize, 0)
	}
}

func semRows(ns *ipc.Namespace, b *bytes.Buffer, ids func(*ipc.Permissions) string) {
	all, _, _ := ns.Sets()
	for _, s := range all {
		fmt.Fprintf(b, "%10d %10d  %4o %10d %s %10d %10d\n", s.Key, s.ID, s.Mode, s.Count, ids(&s.Permissions), s.OTime, s.CTime)
	}
}

func msgRows(ns *ipc.Namespace, b *bytes.Buffer, ids func(*ipc.Permissions) string) {
	all, _ := ns.Queues()
	for _, q := range all {
		fmt.Fprintf(b, "%10d %10d  %4o  %10d %10d %5d %5d %s %10d %10d %10d\n", q.Key, q.ID, q.Mode, q.Bytes, q.Messages,
			q.Sender, q.Receiver, ids(&q.Permissions), q.STime, q.RTime, q.CTime)
	}
}
