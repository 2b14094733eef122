// Package lint checks the source tree for what the compiler and go vet let
// pass and this house does not.
//
// [Check] reads all Go and assembly files of a tree and returns the [Problem]s
// it finds:
//
//   - an import, other than in a test, of a package from a row further down,
//     as the table in tools/rules/rows.bzl has it, or a package without a row;
//   - an import of another module, in a room of the house and other than in a
//     test, that is not one of the few that the Sentry may be linked with;
//   - an import of unsafe in a file whose name doesn't say so (NAME_unsafe.go,
//     with _GOARCH or _test before the ending where needed), or a use of it in
//     a declaration without a comment SAFETY: that says why it holds. Sizeof,
//     Offsetof and Alignof are constants, and need none;
//   - assembly in a room of the house in a file not named NAME_GOARCH.s, or
//     without such a comment;
//   - a postponement, such as TODO(name) or FIXME(name), without its owner's name;
//   - a Go file that gofmt would change;
//   - a package with a name that says nothing, or without a package comment;
//   - a test that no rule of its BUILD file has, or one whose imports from this
//     tree one of its rules lacks.
//
// Files are read whatever their build constraints. Directories named testdata,
// and those whose names begin with a dot, an underscore or bazel-, are not.
//
// The tests of this package run the check over this tree, and see to it that
// the BUILD files and deps.bzl are what tools/gazelle would write.
package lint

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Problem is one thing to put right.
type Problem struct {
	File string // relative to the root of the tree
	Line int    // from 1, or 0 for the file as a whole
	Text string
}

func (p Problem) String() string { return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text) }

// Modules lists what rooms of the house may import beside the standard library.
var Modules = []string{
	"github.com/google/btree",
	"github.com/opencontainers/runtime-spec",
	"golang.org/x/sys",
}

// programs is the name of the row of programs, which may import other modules.
const programs = "programs"

var (
	unsafeFile   = regexp.MustCompile(`_unsafe(_[a-z0-9]+)?(_test)?\.go$`)
	assemblyFile = regexp.MustCompile(`_(amd64|arm64)\.[sS]$`)
	ownerless    = regexp.MustCompile(`\b(TODO|FIXME)\b($|[^(]|\([^a-z])`)
	saysNothing  = regexp.MustCompile(`^(util|utils|common|misc|helper|helpers)(_test)?$`)
)

// A checker collects the problems of one tree.
type checker struct {
	tree     fs.FS
	module   string
	rows     Rows
	fset     *token.FileSet
	packages map[string]*pkg // by directory
	problems []Problem
}

// A pkg is what is remembered of a directory with Go files that are not tests.
type pkg struct {
	file       string // the first one
	documented bool
}

// Check reads the tree of a module and returns its problems, in the order of
// the files. The error is of reading, or of a file that doesn't parse.
func Check(tree fs.FS, module string, rows Rows) ([]Problem, error) {
	c := &checker{tree: tree, module: module, rows: rows, fset: token.NewFileSet(), packages: make(map[string]*pkg)}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			base := d.Name()
			if name != "." && (base[0] == '.' || base[0] == '_' || base == "testdata" || strings.HasPrefix(base, "bazel-")) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		switch path.Ext(name) {
		case ".go":
			return c.goFile(name)
		case ".s", ".S":
			return c.assembly(name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, p := range c.packages {
		if !p.documented {
			c.problems = append(c.problems, Problem{p.file, 1, "no file of the package has a package comment"})
		}
	}
	slices.SortFunc(c.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return c.problems, nil
}

func (c *checker) report(pos token.Pos, format string, args ...any) {
	p := c.fset.Position(pos)
	c.problems = append(c.problems, Problem{p.Filename, p.Line, fmt.Sprintf(format, args...)})
}

func (c *checker) goFile(name string) error {
	src, err := fs.ReadFile(c.tree, name)
	if err != nil {
		return err
	}
	f, err := parser.ParseFile(c.fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if formatted, err := format.Source(src); err == nil && !bytes.Equal(src, formatted) {
		c.problems = append(c.problems, Problem{name, 0, "not as gofmt writes it"})
	}
	if saysNothing.MatchString(f.Name.Name) {
		c.report(f.Name.Pos(), "package %s: the name does not say what it is about", f.Name.Name)
	}
	for _, g := range f.Comments {
		for _, line := range g.List {
			if ownerless.MatchString(line.Text) {
				c.report(line.Pos(), "a TODO without its owner")
			}
		}
	}
	dir := path.Dir(name)
	isTest := strings.HasSuffix(name, "_test.go")
	if isTest {
		c.rulesOf(f, name)
	} else {
		p := c.packages[dir]
		if p == nil {
			p = &pkg{file: name}
			c.packages[dir] = p
			if _, ok := c.rows.Of(dir); !ok {
				c.report(f.Name.Pos(), "package %s has no row: give it one in tools/rules/rows.bzl", dir)
			}
		}
		p.documented = p.documented || f.Doc != nil
	}
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
		}
		if imported == "unsafe" {
			c.unsafe(f, spec, name)
		} else if !isTest {
			c.imports(spec, dir, imported)
		}
	}
	return nil
}

// rulesOf checks the Bazel rules of a test. Gazelle sees to them, but for those that say
// "keep" and those that have the same files as another.
func (c *checker) rulesOf(f *ast.File, name string) {
	dir := path.Dir(name)
	build, err := fs.ReadFile(c.tree, path.Join(dir, "BUILD.bazel"))
	if err != nil {
		return // no tree of Bazel's
	}
	found := false
	for rule := range strings.SplitSeq(string(build), "\n)") {
		if !strings.Contains(rule, strconv.Quote(path.Base(name))) {
			continue
		}
		found = true
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			target, ok := strings.CutPrefix(imported, c.module+"/")
			if ok && target != dir && !strings.Contains(rule, `"//`+target+`"`) && !strings.Contains(rule, `"//`+target+`:`) {
				c.report(spec.Pos(), "a rule of this test in BUILD.bazel lacks //%s", target)
			}
		}
	}
	if !found {
		c.report(f.Name.Pos(), "no rule of the directory's BUILD.bazel has this test")
	}
}

// imports checks one import of a package in dir.
func (c *checker) imports(spec *ast.ImportSpec, dir, imported string) {
	row, ok := c.rows.Of(dir)
	if !ok {
		return // reported with the package
	}
	if target, ok := strings.CutPrefix(imported, c.module+"/"); ok {
		if tr, ok := c.rows.Of(target); ok && tr > row {
			c.report(spec.Pos(), "%s (row %d, %s) imports %s (row %d, %s): a package imports only from its own row and those above",
				dir, row, c.rows[row].Name, target, tr, c.rows[tr].Name)
		}
		return
	}
	if c.rows.Outside(row) || c.rows[row].Name == programs || !strings.Contains(strings.Split(imported, "/")[0], ".") {
		return
	}
	for _, m := range Modules {
		if imported == m || strings.HasPrefix(imported, m+"/") {
			return
		}
	}
	c.report(spec.Pos(), "%s imports %s: the house is linked with the standard library, %s alone", dir, imported, strings.Join(Modules, ", "))
}

// unsafe checks a file that imports unsafe.
func (c *checker) unsafe(f *ast.File, spec *ast.ImportSpec, name string) {
	if !unsafeFile.MatchString(name) {
		c.report(spec.Pos(), "unsafe is imported in a file not named *_unsafe.go")
	}
	for _, d := range f.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.IMPORT {
			continue
		}
		if use := firstUnsafe(d); use.IsValid() && !saysSafety(f, d) {
			c.report(use, "unsafe in a declaration without a comment SAFETY: that says why it holds")
		}
	}
}

// firstUnsafe returns the place of the first use of package unsafe in a
// declaration that is not a constant.
func firstUnsafe(d ast.Decl) token.Pos {
	use := token.NoPos
	ast.Inspect(d, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || use.IsValid() {
			return !use.IsValid()
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == "unsafe" {
			switch sel.Sel.Name {
			case "Sizeof", "Offsetof", "Alignof":
			default:
				use = sel.Pos()
			}
		}
		return true
	})
	return use
}

// saysSafety reports whether a declaration has a comment SAFETY: in it or
// before it.
func saysSafety(f *ast.File, d ast.Decl) bool {
	start := d.Pos()
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Doc != nil {
			start = d.Doc.Pos()
		}
	case *ast.GenDecl:
		if d.Doc != nil {
			start = d.Doc.Pos()
		}
	}
	for _, g := range f.Comments {
		if g.Pos() < start || g.Pos() > d.End() {
			continue
		}
		for _, line := range g.List {
			if strings.Contains(line.Text, "SAFETY: ") {
				return true
			}
		}
	}
	return false
}

// assembly checks an assembly file of the house; tests of the whole and tools
// have theirs as they like.
func (c *checker) assembly(name string) error {
	row, ok := c.rows.Of(path.Dir(name))
	if ok && c.rows.Outside(row) {
		return nil
	}
	src, err := fs.ReadFile(c.tree, name)
	if err != nil {
		return err
	}
	if !assemblyFile.MatchString(name) {
		c.problems = append(c.problems, Problem{name, 0, "assembly in a file not named *_amd64.s"})
	}
	if !bytes.Contains(src, []byte("SAFETY: ")) {
		c.problems = append(c.problems, Problem{name, 0, "assembly without a comment SAFETY: that says why it holds"})
	}
	return nil
}
