"""go_library and go_test as this tree uses them; gazelle writes them by these names."""

load("@io_bazel_rules_go//go:def.bzl", _go_library = "go_library", _go_test = "go_test")
load(":rows.bzl", "ROWS", "row_of")

def _labels(deps):
    """The labels in deps, those in the branches of a select too."""

    # A select can't be looked into but by its text, where labels stand in quotes.
    return [s for s in str(deps).split("\"") if s.startswith("//")]

def go_library(name, deps = [], **kwargs):
    """rules_go's go_library, which imports only what the table of rows permits."""
    package = native.package_name()
    row = row_of(package)
    if row < 0:
        fail("//%s has no row: give it one in //tools/rules:rows.bzl" % package)
    for label in _labels(deps):
        dep = label[2:].split(":")[0]
        dep_row = row_of(dep)
        if dep_row > row:
            fail("//%s (row %d, %s) imports //%s (row %d, %s): a package imports only from its own row and those above" %
                 (package, row, ROWS[row][0], dep, dep_row, ROWS[dep_row][0]))
    _go_library(name = name, deps = deps, **kwargs)

# What a variant changes. Race detection needs cgo and a standard library of
# its own; the lock checks come along there, so that both cost one more build.
_VARIANTS = {
    "lockcheck": {"gotags": ["lockcheck"]},
    "race": {"gotags": ["lockcheck"], "race": "on", "pure": "off", "static": "off"},
}

def go_test(name, variants = [], tags = [], **kwargs):
    """rules_go's go_test, with further tests that are the same one built otherwise.

    Args:
      name: the name; a variant's is NAME_VARIANT.
      variants: of "lockcheck" (with the lockcheck tag, see //pkg/locks) and
        "race" (with the race detector and the lockcheck tag).
      tags: as always.
      **kwargs: as for rules_go's go_test.
    """
    _go_test(name = name, tags = tags, **kwargs)
    for v in variants:
        if v not in _VARIANTS:
            fail("there is no variant %s of a test, but %s" % (v, ", ".join(_VARIANTS.keys())))
        attrs = dict(kwargs)
        attrs.update(_VARIANTS[v])
        _go_test(name = name + "_" + v, tags = tags + [v], **attrs)
