// Package vfs is what all file systems share: open files, descriptors, the
// dentry cache, mounts, the resolution of paths, permissions.
//
// A file system provides Inodes; an Inode that is a directory is a Directory;
// what Inode.Open returns can do some of Reader, ReaderAt, DirReader, Ioctler
// and so on, found by assertion. Everything that POSIX says once for all file
// systems is done here, so that a file system is only about how it stores
// things.
//
// The dentry cache is the fast way: a stat of a cached name asks no file system
// but for attributes. How long it may believe itself is the file system's
// CachePolicy. Dentries, inodes and mounts are left to the garbage collector;
// only Files are counted, because closing has effects.
//
// Files never block by themselves: they return EAGAIN, and whoever called waits
// through waiter.Waitable. The exception is opening a FIFO, through
// Context.Block.
//
// Lock order: Filesystem.renameMu; Dentry.mu (an ancestor's first; two
// unrelated directories only under renameMu); MountNamespace.mu; File.offMu;
// then whatever the file system has. FDTable.mu, File.mu and InodeBase.mu are
// leaves.
//
// What it doesn't do: mount propagation (all mounts are private), quotas, ACLs,
// file handles.
package vfs
