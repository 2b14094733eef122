package lint

import (
	"fmt"
	"regexp"
	"strings"
)

// A Row is a line of the table of rows: packages at one height of the house.
type Row struct {
	Name    string
	Entries []string // packages, or trees ending in /...
}

// Rows is the table, from the first row, which imports no other, to the last,
// which stands outside the house.
type Rows []Row

var (
	rowLine   = regexp.MustCompile(`^    \("([a-z]+)", \[$`)
	entryLine = regexp.MustCompile(`^        "([^"]+)",$`)
)

// ParseRows reads the table out of tools/rules/rows.bzl, which is Bazel's own.
// It knows the one layout that the file has, and refuses any other.
func ParseRows(bzl string) (Rows, error) {
	var rows Rows
	inside := false
	for n, line := range strings.Split(bzl, "\n") {
		switch {
		case line == "ROWS = [":
			inside = true
		case !inside:
		case line == "]":
			if len(rows) == 0 {
				return nil, fmt.Errorf("line %d: the table is empty", n+1)
			}
			return rows, nil
		case rowLine.MatchString(line):
			rows = append(rows, Row{Name: rowLine.FindStringSubmatch(line)[1]})
		case entryLine.MatchString(line) && len(rows) > 0:
			r := &rows[len(rows)-1]
			r.Entries = append(r.Entries, entryLine.FindStringSubmatch(line)[1])
		case line == "    ]),", strings.HasPrefix(strings.TrimSpace(line), "#"):
		default:
			return nil, fmt.Errorf("line %d is neither a row nor an entry: %q", n+1, line)
		}
	}
	return nil, fmt.Errorf("no table ROWS, or no end to it")
}

// Of returns the number of the row in which the package at a directory stands,
// and false if no entry fits it. The longest entry that fits counts.
func (rows Rows) Of(dir string) (int, bool) {
	best, row := -1, -1
	for i, r := range rows {
		for _, e := range r.Entries {
			tree, isTree := strings.CutSuffix(e, "/...")
			fits := dir == e || isTree && strings.HasPrefix(dir+"/", tree+"/")
			if fits && len(e) > best {
				best, row = len(e), i
			}
		}
	}
	return row, row >= 0
}

// Outside reports whether a row is the last one, of what is not part of the
// house: tests of the whole, tools, images.
func (rows Rows) Outside(row int) bool { return row == len(rows)-1 }
