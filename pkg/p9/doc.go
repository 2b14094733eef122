// Package p9 speaks 9P2000.L, the file protocol between a container's file server and the Sentry: a client, a
// server, and the codec both use. docs/9p.md describes the protocol's extensions as they go over the wire.
//
// # Types to know
//
//   - [Client] is one end of a connection, [Fid] a file the client holds on the other end. Their methods are
//     the protocol's messages; every error they return is a unix.Errno.
//   - [Serve] answers one connection out of an [Attacher]'s tree of [Node] values. A node is what it can do:
//     further abilities ([Directory], [Donor], [Linker], ...) are found by assertion, and a message whose
//     ability is missing gets EOPNOTSUPP.
//   - The structs named T... and R... are the messages. One method of each, wire, both encodes and decodes
//     it, so that the two directions cannot disagree.
//
// # The way of a message
//
// A caller of the client encodes its request into a buffer of its call and sends it with one sendmsg(2). If
// nobody is reading the socket it reads itself, with recvmsg(2), and leaves as soon as its own answer came:
// an uncontended call is one sendmsg, one recvmsg, and no goroutine switch. Answers for others are handed to
// them on the way; a reader that leaves appoints one of those still waiting.
//
// The server reads requests in a loop and answers on the spot. It starts a goroutine only for a call that may
// wait long (fsync), or when further requests have already arrived behind the one at hand, and
// never more than a fixed number.
//
// # Locks
//
// Client: sendMu (whole messages onto the socket) and mu (tags, reader's role) are never held together; mu is never
// held across a system call. Server: session.mu (fids, requests under way) and fid.mu (open state of one fid;
// held across the node's calls only where they change that state), the same for an attribute that is written to a fid, and
// sendMu (whole answers onto the socket). session.mu comes last; the others are not held together.
//
// # What it does not do
//
// No authentication (Tauth is refused: both ends of the socket are given by the one who starts them), no
// other dialects, no change notifications, no walk to ".." in sessions with extensions, no connecting to the host's Unix sockets.
package p9
