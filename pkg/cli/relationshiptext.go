package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/authzed/spicedb/pkg/tuple"
	"go.yaml.in/yaml/v3"

	"github.com/deputyauth/deputy/pkg/notation"
)

// maxLineBytes is the longest line that is read: two ids of SpiceDB's greatest length and a caveat
// context of its greatest size fit many times.
const maxLineBytes = 1 << 20

// relationshipReader reads relationships as text, one a line, as pkg/notation has them. Blank lines, and
// lines that start with "//", say nothing. It is not safe for concurrent use.
type relationshipReader struct {
	name    string
	scanner *bufio.Scanner
	// line is the number of the line that was read last; the first is 1. A file's lines begin in column
	// indent + 1.
	line, indent int
}

// textRelationship is a relationship with where it was read.
type textRelationship struct {
	tuple.Relationship
	text string
	// line and column say where its text begins, from 1.
	line, column int
}

// newRelationshipReader reads from r; name stands in errors. A name that ends in .yaml or .yml is a
// SpiceDB validation file, of which the block "relationships" is read.
func newRelationshipReader(name string, r io.Reader) (*relationshipReader, error) {
	first, indent := 0, 0
	if ending := filepath.Ext(name); ending == ".yaml" || ending == ".yml" {
		block, line, column, err := relationshipsBlock(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		r, first, indent = strings.NewReader(block), line-1, column-1
	}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 64<<10), maxLineBytes)
	return &relationshipReader{name: name, scanner: scanner, line: first, indent: indent}, nil
}

// next returns the next relationship, or io.EOF. Its errors start with file:line:column.
func (r *relationshipReader) next() (*textRelationship, error) {
	for r.scanner.Scan() {
		r.line++
		line := r.scanner.Text()
		text := strings.TrimSpace(line)
		if text == "" || strings.HasPrefix(text, "//") {
			continue
		}
		before, _, _ := strings.Cut(line, text)
		at := &textRelationship{text: text, line: r.line, column: r.indent + utf8.RuneCountInString(before) + 1}
		var err error
		if at.Relationship, err = notation.Parse(text); err != nil {
			return nil, r.failure(at, notation.ColumnOf(err), err)
		}
		return at, nil
	}
	switch err := r.scanner.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("%s:%d: is longer than %d bytes", r.name, r.line+1, maxLineBytes)
	case err != nil:
		return nil, fmt.Errorf("%s:%d: %w", r.name, r.line+1, err)
	default:
		return nil, io.EOF
	}
}

// failure is what is wrong with a relationship, from a character of its text on, counted from 1.
func (r *relationshipReader) failure(at *textRelationship, column int, err error) error {
	return fmt.Errorf("%s:%d:%d: %w", r.name, at.line, at.column+column-1, err)
}

// relationshipsBlock returns the block "relationships" of a validation file, and where it begins. SpiceDB's
// own decoder is not used because it parses the rest of the file too, and counts lines differently.
func relationshipsBlock(r io.Reader) (block string, line, column int, err error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return "", 0, 0, err
	}
	var document map[string]yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return "", 0, 0, fmt.Errorf("is not a SpiceDB validation file: %w", err)
	}
	node, found := document["relationships"]
	if !found || node.Kind != yaml.ScalarNode {
		return "", 0, 0, errors.New(`has no text block "relationships"`)
	}
	if node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
		return node.Value, node.Line, node.Column, nil
	}
	// The text of a block starts on the line below its "|", and is indented as its first line that is not blank.
	indent := 0
	for i, l := range strings.Split(string(text), "\n") {
		if trimmed := strings.TrimLeft(l, " "); i >= node.Line && strings.TrimSpace(l) != "" {
			indent = len(l) - len(trimmed)
			break
		}
	}
	return node.Value, node.Line + 1, indent + 1, nil
}
