package mapping

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// Source is a file of mappings with the places of its parts, for programs that judge the file itself.
type Source struct {
	// Name is the file as it was named, File what it says, and Map what it means.
	Name string
	File File
	Map  *Map

	places map[string]place
	lines  []string
}

// place is where a part of a file is written.
type place struct{ line, column int }

// OpenSource reads a file of mappings, with the places of its parts. Errors are those of Open.
func OpenSource(path string) (*Source, error) {
	text, err := ReadFile(path, MaxBytes)
	if err != nil {
		return nil, err
	}
	return Read(path, text)
}

// Read reads the text of a file of mappings, with the places of its parts. Errors are those of Decode.
func Read(name string, text []byte) (*Source, error) {
	m, err := Decode(name, text)
	if err != nil {
		return nil, err
	}
	s := &Source{Name: name, Map: m, places: map[string]place{}, lines: strings.Split(string(text), "\n")}
	if err := DecodeStrictly(name, text, &s.File, ""); err != nil {
		return nil, err
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, unreadable(name, err, "", nil)
	}
	for _, document := range root.Content {
		s.walk("", document)
	}
	return s, nil
}

// walk notes the places of what is written in a node. It does not follow aliases: what they stand for has the place of the alias.
func (s *Source) walk(at string, node *yaml.Node) {
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := node.Content[i], node.Content[i+1]
			inner := key.Value
			if at != "" {
				inner = at + "." + key.Value
			}
			s.places[inner] = place{key.Line, key.Column}
			s.walk(inner, value)
		}
	case yaml.SequenceNode:
		for i, item := range node.Content {
			inner := at + "[" + strconv.Itoa(i) + "]"
			s.places[inner] = place{item.Line, item.Column}
			s.walk(inner, item)
		}
	default: // a scalar or an alias, whose place is known
	}
}

// Place returns the line and the column, from 1 on, of a part of the file, or of the nearest part around it. 0 and 0: the file does not have it.
func (s *Source) Place(at string) (line, column int) {
	for ; at != ""; at = around(at) {
		if p, found := s.places[at]; found {
			return p.line, p.column
		}
	}
	return 0, 0
}

// Comments returns the comments at a part of the file and at those around it, the nearest first: the one at the end of the line on which a part
// begins, and those on lines of their own right above it.
func (s *Source) Comments(at string) (comments []string) {
	for ; at != ""; at = around(at) {
		p, found := s.places[at]
		if !found || p.line > len(s.lines) {
			continue
		}
		if _, comment, found := strings.Cut(s.lines[p.line-1], " #"); found {
			comments = append(comments, comment)
		}
		for above := p.line - 2; above >= 0 && strings.HasPrefix(strings.TrimSpace(s.lines[above]), "#"); above-- {
			comments = append(comments, s.lines[above])
		}
	}
	return comments
}

// around is the part that a part lies in, or "".
func around(at string) string {
	return at[:max(0, strings.LastIndexAny(at, ".["))]
}

// Parts are the parts of the file that a call or an answer can use, such as "tools.read_file", "tools.read_file.checks[0]",
// "tools.read_file.ignore[0]" and "tools.read_file.results[0]". What is undecided is not among them.
func (m *Map) Parts() []string { return slices.Clone(m.parts) }

// uses are the parts of an action.
func (a *action) uses() []string {
	parts := []string{a.at}
	for _, of := range []struct {
		name  string
		count int
	}{{"checks", len(a.checks)}, {"ignore", len(a.ignore)}, {"results", len(a.results)}} {
		for i := range of.count {
			parts = append(parts, fmt.Sprintf("%s.%s[%d]", a.at, of.name, i))
		}
	}
	return parts
}

// Used returns those of Parts that a call uses: its tool, prompt or resource, the checks that ask something, and the ignored arguments that it
// has.
func (c *Call) Used() []string {
	a := c.action
	used := []string{a.at}
	for i, one := range a.checks {
		if one.Object != "" || slices.ContainsFunc(slices.Concat(one.parts, one.reads), func(p path) bool { return present(p, c.Arguments) }) {
			used = append(used, fmt.Sprintf("%s.checks[%d]", a.at, i))
		}
	}
	for i, p := range a.ignore {
		if present(p, c.Arguments) {
			used = append(used, fmt.Sprintf("%s.ignore[%d]", a.at, i))
		}
	}
	return used
}

// present reports whether a value has something at a path.
func present(p path, v jsonrpc.Value) bool {
	for i, s := range p {
		if s.each {
			return slices.ContainsFunc(v.Elements(), func(e jsonrpc.Value) bool { return present(p[i+1:], e) })
		}
		var found bool
		if v, found = v.Get(s.name); !found {
			return false
		}
	}
	return true
}

// Covers reports whether an argument at one path, as a file writes it, is the one at another or lies in it.
func Covers(outer, inner string) bool {
	p, one := parsePath(outer)
	q, two := parsePath(inner)
	return one && two && q.within(p)
}

// Writable reports whether a file can name an argument.
func Writable(name string) bool {
	_, ok := parsePath(name)
	return ok && !strings.ContainsAny(name, ".[]\r")
}
