package mapping

import (
	"slices"
	"strconv"
	"strings"

	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// path is where an argument lies: name.member, or list[].member for every element.
type path []step

// step is a member, or an element of the list that the steps before lead to.
type step struct {
	name string
	// each stands for every element, and index, from 1 on, for one.
	each  bool
	index int
}

func parsePath(text string) (path, bool) {
	var p path
	for part := range strings.SplitSeq(text, ".") {
		name, lists := part, 0
		for strings.HasSuffix(name, "[]") {
			name, lists = strings.TrimSuffix(name, "[]"), lists+1
		}
		if name == "" || strings.ContainsAny(name, "[] \t\n") {
			return nil, false
		}
		p = append(p, step{name: name})
		for range lists {
			p = append(p, step{each: true})
		}
	}
	return p, true
}

// String returns the path as it is written. An element is counted from 0, as programs do.
func (p path) String() string {
	var b strings.Builder
	for i, s := range p {
		switch {
		case s.each:
			b.WriteString("[]")
		case s.index > 0:
			b.WriteString("[" + strconv.Itoa(s.index-1) + "]")
		default:
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.name)
		}
	}
	return b.String()
}

// within reports whether the path is another one or lies in it.
func (p path) within(other path) bool {
	return len(p) >= len(other) && slices.Equal(p[:len(other)], other)
}

// list is the path up to its last list, or nil.
func (p path) list() path {
	for i, s := range slices.Backward(p) {
		if s.each {
			return p[:i+1]
		}
	}
	return nil
}

// oneList reports whether all paths that lead into lists lead into the same, or one into a list of another's elements.
func oneList(paths []path) bool {
	var longest path
	for _, p := range paths {
		if l := p.list(); len(l) > len(longest) {
			longest = l
		}
	}
	return !slices.ContainsFunc(paths, func(p path) bool { return !longest.within(p.list()) })
}

// get follows a path that has no step for every element.
func (p path) get(v jsonrpc.Value) (jsonrpc.Value, bool) {
	for _, s := range p {
		if s.index > 0 {
			if s.index > len(v.Elements()) {
				return jsonrpc.Value{}, false
			}
			v = v.Elements()[s.index-1]
			continue
		}
		var found bool
		if v, found = v.Get(s.name); !found {
			return v, false
		}
	}
	return v, true
}

// set returns a value with another one in the place of the path, which is there.
func (p path) set(v, to jsonrpc.Value) jsonrpc.Value {
	if len(p) == 0 {
		return to
	}
	if at := p[0].index; at > 0 {
		elements := slices.Clone(v.Elements())
		elements[at-1] = p[1:].set(elements[at-1], to)
		return jsonrpc.List(elements)
	}
	inner, _ := v.Get(p[0].name)
	return v.With(p[0].name, p[1:].set(inner, to))
}

// each returns the path with one element in the place of every element of its first list.
func (p path) each(list path, element int) path {
	if !p.within(list) {
		return p
	}
	p = slices.Clone(p)
	p[len(list)-1] = step{index: element + 1}
	return p
}

// first is the path up to its first list, the list's step included, or nil.
func (p path) first() path {
	for i, s := range p {
		if s.each {
			return p[:i+1]
		}
	}
	return nil
}
