// Package gofer serves trees of host files over 9P to one sandbox, and locks its own process up for that.
//
// # Types to know
//
// [Tree] is one attach point: a descriptor of a directory (or of one file) and whether it may be changed. It is a p9.Attacher.
// [EnterJail] takes everything else away from the process; the program is runsc/gofer.
//
// # Names and files
//
// A file the client holds is an O_PATH descriptor. A name is always one component, looked up with openat2(2) from
// its directory's descriptor under RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS, so that no
// link is followed and nothing outside the tree is reached whatever anybody renames meanwhile. No path of more
// than one component is ever used and ".." is never looked up.
//
// An O_PATH descriptor cannot be read. To open its file, the server goes through the descriptor's entry in
// /proc/self/fd, which is the file itself and not its name: there is no moment in which a rename could put
// another file in its place. In the jail, where no proc is mounted, the working directory is a detached copy
// of /proc/self/fd, from which there is no way up.
//
// Only regular files and directories are opened. FIFOs, sockets and devices are never opened on the host: the
// Sentry has its own, and an open of a FIFO could wait for ever.
//
// # Owners and modes
//
// Permission checks are the Sentry's: the server acts for all users of the container and overrides. New files
// get the owner the client asks for. A chown that the host refuses, as it does in a user
// namespace with one id, is an error the client sees; nothing is pretended. The process must run with umask 0.
//
// # What it does not do
//
// Device nodes are not made (but for 0/0, overlayfs's whiteout); extended attributes are those of users, and
// security.capability to read; no change notifications; no connections to the host's Unix sockets.
//
// Locks: Tree.mu and directory.mu are both last: nothing is taken under them.
package gofer
