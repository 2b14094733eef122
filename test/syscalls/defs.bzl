"""Syscall tests: one C program, run on the host's Linux and in the sandbox."""

# One target per platform of this list, NAME_<platform>.
PLATFORMS = [
    "ptrace",
    "systrap",
]

def syscall_test(name, platforms = PLATFORMS, size = "small", tags = []):
    """Builds NAME.c statically and makes a test of each way to run it.

    Args:
      name: the program, NAME.c; the tests are NAME_native and NAME_<platform>.
      platforms: the sandbox's platforms to run it on.
      size: of the tests.
      tags: added to every variant.
    """
    native.cc_binary(
        name = name + "_bin",
        testonly = True,
        srcs = [
            name + ".c",
            "tap.h",
        ],
        copts = [
            "-O1",
            "-U_FORTIFY_SOURCE",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pthread",
        ],
        linkopts = [
            "-static",
            "-pthread",
        ],
        visibility = ["//test:__subpackages__"],
    )

    # Bazel's sandbox maps only uid 0 and mounts much read-only: local.
    native.sh_test(
        name = name + "_native",
        size = size,
        srcs = ["tap-run"],
        args = ["$(location :%s_bin)" % name],
        data = [":%s_bin" % name],
        tags = tags + ["local"],
    )
    for platform in platforms:
        native.sh_test(
            name = name + "_" + platform,
            size = size,
            srcs = ["tap-run"],
            args = [
                "$(location //runsc)",
                "--platform=" + platform,
                "do",
                "--",
                "$(location :%s_bin)" % name,
            ],
            data = [
                ":%s_bin" % name,
                "//runsc",
                "//runsc/gofer",
                "//runsc/sentry",
            ],
            # A sandbox inside a sandbox is not what is tested.
            tags = tags + ["local", platform],
        )

def lockcheck_test(name, platforms = PLATFORMS):
    """Makes NAME_lockcheck_<platform>: the program in a sandbox that checks its locks."""
    for platform in platforms:
        native.sh_test(
            name = name + "_lockcheck_" + platform,
            size = "small",
            srcs = ["tap-run"],
            args = [
                "$(location :lockcheck_runsc)",
                "--platform=" + platform,
                "do",
                "--",
                "$(location :%s_bin)" % name,
            ],
            data = [
                ":%s_bin" % name,
                ":lockcheck_gofer",
                ":lockcheck_runsc",
                ":lockcheck_sentry",
            ],
            tags = ["local", platform, "lockcheck"],
        )
