package jsonrpc

import (
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Kind is what a value is.
type Kind uint8

// The kinds of values. The zero Kind is that of null.
const (
	Null Kind = iota
	Bool
	Number
	String
	Array
	Object
)

// String returns what messages call a kind: "a list".
func (k Kind) String() string {
	switch k {
	case Bool:
		return "true or false"
	case Number:
		return "a number"
	case String:
		return "a text"
	case Array:
		return "a list"
	case Object:
		return "an object"
	default:
		return "null"
	}
}

// Value is a JSON value. The zero Value is null. A Value is immutable, and safe for concurrent use.
type Value struct {
	kind Kind
	// text is a text, the digits of a number, or "true"; and the JSON of a packed value, which has no elements and no members.
	text     string
	elements []Value
	members  []Member
}

// Member is one member of an object.
type Member struct {
	Name  string
	Value Value
}

// Text returns a text as a value.
func Text(s string) Value { return Value{kind: String, text: s} }

// Truth returns true or false as a value.
func Truth(b bool) Value { return Value{kind: Bool, text: strconv.FormatBool(b)} }

// Whole returns a whole number as a value.
func Whole(n int64) Value { return Value{kind: Number, text: strconv.FormatInt(n, 10)} }

// List returns a list as a value. It keeps the slice.
func List(elements []Value) Value { return Value{kind: Array, elements: elements} }

// ObjectOf returns an object as a value, in the order of its members, whose names are all different. It keeps the slice.
func ObjectOf(members ...Member) Value { return Value{kind: Object, members: members} }

// Packed returns a list or an object as one that is only to be written: its JSON is made once, and takes less memory than the value does. Nothing is to
// be looked up in it, for it seems empty. Any other value is returned as it is.
func (v Value) Packed() Value {
	if v.kind != Array && v.kind != Object {
		return v
	}
	return Value{kind: v.kind, text: string(v.Append(nil))}
}

// Kind is what the value is.
func (v Value) Kind() Kind { return v.kind }

// Text returns a text; "" and false where the value is none.
func (v Value) Text() (string, bool) { return v.textOf(String) }

// Digits returns a number as it is written in JSON; "" and false where the value is none.
func (v Value) Digits() (string, bool) { return v.textOf(Number) }

// Truth returns whether the value is true; false and false where it is neither true nor false.
func (v Value) Truth() (value, ok bool) { return v.kind == Bool && v.text == "true", v.kind == Bool }

func (v Value) textOf(kind Kind) (string, bool) {
	if v.kind != kind {
		return "", false
	}
	return v.text, true
}

// Elements returns the elements of a list, nil where the value is none. The slice is not to be changed.
func (v Value) Elements() []Value { return v.elements }

// Members returns the members of an object in their order, nil where the value is none. The slice is not to be changed.
func (v Value) Members() []Member { return v.members }

// Get returns a member of an object: null and false where there is no such member, or the value is no object.
func (v Value) Get(name string) (Value, bool) {
	for _, m := range v.members {
		if m.Name == name {
			return m.Value, true
		}
	}
	return Value{}, false
}

// At goes from member to member; null where one is missing.
func (v Value) At(names ...string) Value {
	for _, name := range names {
		v, _ = v.Get(name)
	}
	return v
}

// With returns the object with a member set, in its place or at the end. A value that is no object becomes one.
func (v Value) With(name string, value Value) Value {
	members := slices.Clone(v.members)
	for i := range members {
		if members[i].Name == name {
			members[i].Value = value
			return ObjectOf(members...)
		}
	}
	return ObjectOf(append(members, Member{name, value})...)
}

// Without returns the object without a member.
func (v Value) Without(name string) Value {
	if _, found := v.Get(name); !found {
		return v
	}
	return ObjectOf(slices.DeleteFunc(slices.Clone(v.members), func(m Member) bool { return m.Name == name })...)
}

// Any returns the value as package encoding/json would: nil, bool, float64, string, []any and map[string]any.
func (v Value) Any() any {
	switch v.kind {
	case Bool:
		return v.text == "true"
	case Number:
		f, _ := strconv.ParseFloat(v.text, 64) // it is in range, see Rules.Exact; else it is infinite
		return f
	case String:
		return v.text
	case Array:
		all := make([]any, len(v.elements))
		for i, e := range v.elements {
			all[i] = e.Any()
		}
		return all
	case Object:
		all := make(map[string]any, len(v.members))
		for _, m := range v.members {
			all[m.Name] = m.Value.Any()
		}
		return all
	default:
		return nil
	}
}

// Append appends the value as JSON on one line.
func (v Value) Append(b []byte) []byte {
	packed := v.text != "" && (v.kind == Array || v.kind == Object)
	switch {
	case packed:
		return append(b, v.text...)
	case v.kind == Array && len(v.elements) > 0:
		b = slices.Grow(b, v.room())
	}
	switch v.kind {
	case Bool, Number:
		return append(b, v.text...)
	case String:
		return quote(b, v.text)
	case Array:
		b = append(b, '[')
		for i, e := range v.elements {
			if i > 0 {
				b = append(b, ',')
			}
			b = e.Append(b)
		}
		return append(b, ']')
	case Object:
		b = append(b, '{')
		for i, m := range v.members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(quote(b, m.Name), ':')
			b = m.Value.Append(b)
		}
		return append(b, '}')
	default:
		return append(b, "null"...)
	}
}

// room is how many bytes the elements of a list take that are packed.
func (v Value) room() (n int) {
	for _, e := range v.elements {
		if e.kind == Array || e.kind == Object {
			n += len(e.text) + 1
		}
	}
	return n
}

// String returns the value as JSON.
func (v Value) String() string { return string(v.Append(nil)) }

func quote(b []byte, s string) []byte {
	// What was parsed is UTF-8. In a text of the guard's own a replacement character stands for what is not, and nothing is lost that counts.
	b, _ = jsontext.AppendQuote(b, s)
	return b
}
