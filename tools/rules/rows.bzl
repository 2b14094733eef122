"""Which package may import which: the one table of the tree's rows.

A package imports only from its own row and from rows above it. The macro
go_library in go.bzl refuses any other import when a BUILD file is loaded, and
//tools/lint reads the same table and looks at the Go sources. Tests may
import anything.

An entry is a package, or with /... a package and all below it; the longest
entry that fits a package counts. A package that no entry fits is refused: to
add one is to say where it stands.
"""

ROWS = [
    ("facts", [
        "pkg/abi/linux",
    ]),
    ("tools", [
        "pkg/bits",
        "pkg/clock",
        "pkg/control",
        "pkg/locks",
        "pkg/netstack/...",
        "pkg/p9/...",
        "pkg/rangemap",
        "pkg/sched",
        "pkg/seccomp/...",
        "pkg/trim",
        "pkg/usermem",
        "pkg/waiter",
    ]),
    ("machine", [
        "pkg/ring0/...",
        "pkg/sentry/arch",
        "pkg/sentry/cpuid",
        "pkg/sentry/memfile",
        "pkg/sentry/platform/...",
    ]),
    ("memory", [
        "pkg/sentry/hostfd",
        "pkg/sentry/memmap",
        "pkg/sentry/mm",
        "pkg/sentry/pagestore",
    ]),
    ("objects", [
        "pkg/sentry/asyncio",
        "pkg/sentry/auth",
        "pkg/sentry/callfilter",
        "pkg/sentry/fs/...",
        "pkg/sentry/futex",
        "pkg/sentry/ipc",
        "pkg/sentry/kernbuf",
        "pkg/sentry/ktime",
        "pkg/sentry/limits",
        "pkg/sentry/namespaces",
        "pkg/sentry/pids",
        "pkg/sentry/signals",
        "pkg/sentry/socket/...",
        "pkg/sentry/throttle",
        "pkg/sentry/timers",
        "pkg/sentry/tracing",
        "pkg/sentry/usage",
        "pkg/sentry/vfs/...",
    ]),
    ("processes", [
        "pkg/sentry/executable",
        "pkg/sentry/fs/cgroup",
        "pkg/sentry/fs/proc",
        "pkg/sentry/fs/sysfs",
        "pkg/sentry/kernel",
        "pkg/sentry/kernel/kerneltest",
        "pkg/sentry/loader",
        "pkg/sentry/vdso/...",
    ]),
    ("calls", [
        "pkg/sentry/syscalls/...",
    ]),
    ("assembly", [
        "pkg/gofer",
        "pkg/sentry/boot/...",
    ]),
    ("programs", [
        "runsc/...",
        "test/platform-test/...",
    ]),
    # Outside the house: imports what it likes; no room imports it.
    ("outside", [
        "images/...",
        "test/...",
        "tools/...",
    ]),
]

def row_of(package):
    """Returns the number of the row of a package, -1 if it has none."""
    best, row = -1, -1
    for i, (_, entries) in enumerate(ROWS):
        for e in entries:
            tree = e[:-len("/...")] if e.endswith("/...") else None
            if package == e or (tree and (package + "/").startswith(tree + "/")):
                if len(e) > best:
                    best, row = len(e), i
    return row
