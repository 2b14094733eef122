// Package kernel has tasks and the tree of processes that they are organised in: how
// they are born (clone, exec), run (the loop over the platform), get signals, wait for
// each other and end. Their numbers, process groups and sessions are package pids'.
//
// A Task is a thread of a sched.Scheduler, a coroutine where the platform permits, whose state lives in the struct: between two runs of
// application code, and at every place where it sleeps (Block), all of it is in
// memory.
//
// Three kinds of lock, in this order:
//
//   - Kernel.tree: who is whose parent, child, tracer, thread; exit states;
//     all of package pids. Taken for writing by fork, exit, wait, setpgid and the like.
//   - ThreadGroup.signals.mu: pending signals, masks, job-control state of one
//     thread group; two are never held together.
//   - leaves: Task.mu (what other tasks may read: name, credentials,
//     file tables), vfs.FSContext.mu, namespaces.UTS.mu.
//
// Memory-manager and VFS locks are taken with none of these held, but for the
// leaves of the VFS. Those of the VFS, and futex buckets, may be held when these
// are taken: proc looks tasks up. Wait queues come after: what is told of an
// event sends no signal itself (package asyncio).
//
// What a task does to itself needs no lock: registers, blocking state, its own
// pointers (only the task changes them, under Task.mu, so that it may read them
// without).
package kernel
