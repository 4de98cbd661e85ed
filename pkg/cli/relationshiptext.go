package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"go.yaml.in/yaml/v3"
)

// maxLineBytes is the longest line that is read: two ids of SpiceDB's greatest length and a caveat
// context of its greatest size fit many times.
const maxLineBytes = 1 << 20

// relationshipReader reads relationships as text, one a line:
//
//	document:plan#viewer@user:alice
//	document:plan#viewer@group:staff#member[during:{"from":9}][expiration:2027-01-01T00:00:00Z]
//
// Blank lines, and lines that start with "//", say nothing. It is not safe for concurrent use.
type relationshipReader struct {
	name    string
	scanner *bufio.Scanner
	// line is the number of the line that was read last; the first is 1.
	line int
}

// newRelationshipReader reads from r; name stands in errors. A name that ends in .yaml or .yml is a
// SpiceDB validation file, of which the block "relationships" is read.
func newRelationshipReader(name string, r io.Reader) (*relationshipReader, error) {
	first := 0
	if ending := filepath.Ext(name); ending == ".yaml" || ending == ".yml" {
		block, line, err := relationshipsBlock(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		r, first = strings.NewReader(block), line-1
	}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 64<<10), maxLineBytes)
	return &relationshipReader{name: name, scanner: scanner, line: first}, nil
}

// next returns the next relationship, or io.EOF. Its errors start with file:line.
func (r *relationshipReader) next() (*authzed.Relationship, error) {
	for r.scanner.Scan() {
		r.line++
		text := strings.TrimSpace(r.scanner.Text())
		if text == "" || strings.HasPrefix(text, "//") {
			continue
		}
		relationship, err := tuple.ParseV1Rel(text)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %q: %w (wants TYPE:ID#RELATION@TYPE:ID)", r.name, r.line, shorten(text), err)
		}
		return relationship, nil
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

// shorten cuts text for a message.
func shorten(text string) string {
	const most = 120
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

// relationshipsBlock returns the block "relationships" of a validation file, and the number of its
// first line. SpiceDB's own decoder is not used because it parses the rest of the file too, and counts
// lines differently.
func relationshipsBlock(r io.Reader) (block string, line int, err error) {
	var document map[string]yaml.Node
	if err := yaml.NewDecoder(r).Decode(&document); err != nil && !errors.Is(err, io.EOF) {
		return "", 0, fmt.Errorf("is not a SpiceDB validation file: %w", err)
	}
	node, found := document["relationships"]
	if !found || node.Kind != yaml.ScalarNode {
		return "", 0, errors.New(`has no text block "relationships"`)
	}
	if node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		// The text of a block starts on the line below its "|".
		return node.Value, node.Line + 1, nil
	}
	return node.Value, node.Line, nil
}

// relationshipText returns a relationship as newRelationshipReader reads it. The same relationship is
// always the same text, so that two exports can be compared: SpiceDB's own function takes its JSON from
// protojson, which varies blanks from build to build.
func relationshipText(r *authzed.Relationship) (string, error) {
	var b strings.Builder
	b.WriteString(tuple.V1StringRelationshipWithoutCaveatOrExpiration(r))
	if caveat := r.GetOptionalCaveat(); caveat.GetCaveatName() != "" {
		b.WriteString("[" + caveat.GetCaveatName())
		if len(caveat.GetContext().GetFields()) > 0 {
			var context bytes.Buffer
			encoder := json.NewEncoder(&context)
			encoder.SetEscapeHTML(false)
			if err := encoder.Encode(caveat.GetContext().AsMap()); err != nil {
				return "", fmt.Errorf("caveat context of %s: %w", tuple.V1StringRelationshipWithoutCaveatOrExpiration(r), err)
			}
			b.WriteString(":" + strings.TrimSpace(context.String()))
		}
		b.WriteString("]")
	}
	if expires := r.GetOptionalExpiresAt(); expires != nil {
		b.WriteString("[expiration:" + expires.AsTime().UTC().Format(time.RFC3339Nano) + "]")
	}
	return b.String(), nil
}
