package source

import (
	"fmt"
	"slices"
	"strings"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/dslshape"
	"github.com/authzed/spicedb/pkg/schemadsl/lexer"

	"github.com/deputyauth/deputy/pkg/schema"
)

// Place is where something is written.
type Place struct {
	// Position is its first character, comments left out.
	Position
	// End is right after its last character.
	End Position
	// Doc is the comment above it, without the comment's signs and without lines for tools
	// ("lint:", "spicedb-ignore-warning:"); "" if there is none.
	Doc string
	// Partial is the partial that it is written in, "" for a member that stands in a definition itself.
	Partial string
	// Comments are the lines of the comments above it, signs removed, blank ones left out.
	Comments []Comment
}

// Comment is a line of a comment.
type Comment struct {
	Position
	Text string
}

// Member returns where a relation or permission of a type is written. It has none if it is not in the
// schema, or came with the added core.
func (s *Schema) Member(of schema.Name) (Place, bool) {
	found, ok := s.index.members[of]
	return found.Place, ok
}

// Type returns where a definition is written.
func (s *Schema) Type(objectType string) (Place, bool) {
	found, ok := s.index.types[objectType]
	return found.Place, ok
}

// Caveat returns where a caveat is written.
func (s *Schema) Caveat(name string) (Place, bool) {
	found, ok := s.index.caveats[name]
	return found.Place, ok
}

// Within returns where a part of a member is written: p is a position that SpiceDB's compiler has left
// on it, such as an operand's. Without one it is where the member itself is written; unknown for members
// without a place.
func (s *Schema) Within(of schema.Name, p *core.SourcePosition) Position {
	found, ok := s.index.members[of]
	if !ok || p == nil {
		return found.Position
	}
	//nolint:gosec // positions are smaller than MaxBytes
	return found.text.lineColumn(int(p.GetZeroIndexedLineNumber()), int(p.GetZeroIndexedColumnPosition()))
}

// MixesOperators reports whether operators stand side by side in a permission that SpiceDB does not take in the order in which one
// reads them: + comes before & and -, and & before -. What adds first and takes away then, aaa + bbb - ccc, reads as it is.
func (s *Schema) MixesOperators(of schema.Name) bool {
	found, ok := s.index.members[of]
	if !ok {
		return false
	}
	// The operator that was met, at each depth of parentheses.
	met := []lexer.TokenType{lexer.TokenTypeError}
	for _, k := range newText("", found.text.content[found.start:found.end]).tokens() {
		switch last := len(met) - 1; k.kind {
		case lexer.TokenTypeLeftParen:
			met = append(met, lexer.TokenTypeError)
		case lexer.TokenTypeRightParen:
			met = met[:last]
		case lexer.TokenTypePlus, lexer.TokenTypeMinus, lexer.TokenTypeAnd:
			before := met[last]
			if before != lexer.TokenTypeError && before != k.kind && (before != lexer.TokenTypePlus || k.kind != lexer.TokenTypeMinus) {
				return true
			}
			met[last] = k.kind
		default:
		}
	}
	return false
}

// index says where things are written.
type index struct {
	types, caveats map[string]written
	members        map[schema.Name]written
	partials       map[string]partial
}

// written is a place with the text that it is in.
type written struct {
	Place
	text       *text
	start, end int
}

type partial struct {
	text *text
	node *node
}

// newIndex finds the places in texts that compile. Twice the same partial, or the same member of a
// type, is an error: the compiler lets both pass.
func newIndex(texts []*text) (index, error) {
	x := index{types: map[string]written{}, caveats: map[string]written{}, members: map[schema.Name]written{}, partials: map[string]partial{}}
	trees := make([]*node, len(texts))
	for i, t := range texts {
		trees[i] = t.tree()
		for _, n := range trees[i].below() {
			if n.kind != dslshape.NodeTypePartial {
				continue
			}
			name := n.strings[dslshape.NodePartialPredicateName]
			if first, ok := x.partials[name]; ok {
				return x, &Error{t.position(n.start()), fmt.Sprintf("partial %s is defined twice, first at %s", name, first.text.position(first.node.start()))}
			}
			x.partials[name] = partial{t, n}
		}
	}
	for i, t := range texts {
		for _, n := range trees[i].below() {
			switch n.kind {
			case dslshape.NodeTypeCaveatDefinition:
				x.caveats[n.strings[dslshape.NodeCaveatDefinitionPredicateName]] = write(t, n, "")
			case dslshape.NodeTypeDefinition:
				name := n.strings[dslshape.NodeDefinitionPredicateName]
				x.types[name] = write(t, n, "")
				for _, m := range n.below() {
					if err := x.add(name, t, m, t.position(m.start()), ""); err != nil {
						return x, err
					}
				}
			default:
				// Flags, imports and partials define no type.
			}
		}
	}
	return x, nil
}

// add notes a member of a type, or the members of the partial that n refers to. at is where the
// definition itself names it.
func (x *index) add(objectType string, t *text, n *node, at Position, within string) error {
	if n.kind == dslshape.NodeTypePartialReference {
		name := n.strings[dslshape.NodePartialReferencePredicateName]
		from := x.partials[name]
		for _, m := range from.node.below() {
			if err := x.add(objectType, from.text, m, at, name); err != nil {
				return err
			}
		}
		return nil
	}
	name := n.strings[dslshape.NodePredicateName]
	key := schema.Name{Type: objectType, Member: name}
	if first, ok := x.members[key]; ok {
		return &Error{at, fmt.Sprintf("%s has %s twice, first at %s", objectType, name, first.Position)}
	}
	x.members[key] = write(t, n, within)
	return nil
}

// write describes where a node is written.
func write(t *text, n *node, within string) written {
	place := Place{Position: t.position(n.start()), End: t.position(n.end()), Partial: within, Comments: t.comments(n)}
	var doc []string
	for _, c := range place.Comments {
		if !strings.HasPrefix(c.Text, "lint:") && !strings.HasPrefix(c.Text, "spicedb-ignore-warning:") {
			doc = append(doc, c.Text)
		}
	}
	place.Doc = strings.Join(doc, "\n")
	return written{place, t, n.start(), n.end()}
}

// comments returns the lines of the comments before a node. The parser returns their texts, not their places;
// but between them and the node there is nothing but blanks.
func (t *text) comments(n *node) []Comment {
	raw := n.comments()
	var found []Comment
	end := n.start()
	for _, comment := range slices.Backward(raw) {
		end = strings.LastIndex(t.content[:end], comment)
		if end < 0 {
			return found
		}
		found = append(t.commentAt(comment, end), found...)
	}
	return found
}

// commentAt returns the lines of the raw comment at an offset.
func (t *text) commentAt(raw string, offset int) []Comment {
	var lines []Comment
	for line := range strings.Lines(raw) {
		if said := strings.TrimSpace(strings.TrimLeft(strings.TrimSuffix(strings.TrimSpace(line), "*/"), "/* \t")); said != "" {
			lines = append(lines, Comment{t.position(offset + strings.Index(line, said)), said})
		}
		offset += len(line)
	}
	return lines
}

// Comments returns the lines of all comments, wherever they stand: those in caveats and between operands
// too. Signs are removed, blank lines left out.
func (s *Schema) Comments() []Comment {
	var found []Comment
	for _, t := range s.texts {
		for _, k := range t.tokens() {
			if k.comment() {
				found = append(found, t.commentAt(k.value, k.start)...)
			}
		}
	}
	return found
}
