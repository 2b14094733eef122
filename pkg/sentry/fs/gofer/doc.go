// Package gofer is the file system whose files are the host's, served by a gofer over 9P2000.L (package p9).
//
// # Types to know
//
//   - [New] attaches to a tree and returns a vfs.Filesystem. Its policy says whether the tree is ours alone
//     (everything known is kept and believed) or shared (names and attributes are asked for again).
//   - An inode is a file of the tree; a directory, a link and a regular file add what these can do. The table
//     of a filesystem finds the inode of a qid as long as anybody uses it, so that hard links and dentries that
//     were dropped and looked up again lead to the same inode.
//   - A node is the inode's state: attributes, fid, descriptors. It outlives the inode by a moment: when the
//     collector takes an inode, its node gives back what it holds on the gofer's side. Nothing in a node leads
//     to its own inode.
//
// # What costs a message
//
// A lookup costs one, which brings the attributes and no fid. Listing a directory brings the attributes of its
// entries, and in a tree that is ours the lookups that follow cost nothing, those of missing names neither. Opening a
// regular file costs one message, which walks, opens and donates a descriptor; the descriptor stays for those who
// open the file next, until it is the longest unused of too many. Reads, writes, mappings, truncations and
// the attributes of a file that was written go to the descriptor. Fids are walked when something needs them, and given back
// many at a time. With a peer without extensions all works through plain messages.
//
// # Trust
//
// The gofer may be dead or wrong: what it sends is checked, answers that make no sense are EIO, and nothing waits
// longer than the socket takes to break.
//
// # Locks
//
// File system operations come with the VFS's dentry locks. Then: symlink.mu; node.writeMu (held over writes to the file and
// changes of its size, and so while application memory is touched); node.fetchMu (held while a fid or a descriptor is asked for; one at a time);
// inode.mapMu (mappings; taken from the memory manager too, and held when it is told to let pages go); node.mu
// (descriptors); directory.listMu (the listing); filesystem.mu (table, queues, fids). node.attrMu is a leaf.
// No message is sent under the last five.
//
// # What it doesn't do
//
// Record locks of the host, change notifications, O_TMPFILE, RENAME_EXCHANGE; no devices, FIFOs or sockets of
// the host are opened: their nodes appear, and what opens is the Sentry's own.
package gofer
