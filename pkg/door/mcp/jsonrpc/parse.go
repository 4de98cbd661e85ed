package jsonrpc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
)

// Rules say what Parse accepts.
type Rules struct {
	// Bytes is the length of a message, Depth how deep values lie in each other, and Values how many there are.
	Bytes, Depth, Values int
	// FoldDepth is down to which depth the names of an object have to differ in more than upper and lower case. The message itself is at depth 1.
	FoldDepth int
	// Exact asks that everything means the same to every parser: numbers are kept in the one form that JavaScript prints, whole numbers
	// beyond 2^53 are refused, and so are the character U+0000 and the name __proto__.
	Exact bool
}

// FromClient are the rules for what comes from an agent: it is judged, and it is hostile.
func FromClient() Rules {
	return Rules{Bytes: 4 << 20, Depth: 64, Values: 100_000, FoldDepth: math.MaxInt, Exact: true}
}

// FromServer are the rules for what comes from a server. Its data is its own: a map in it may have the names a and A, and a number any
// digits. Names that the protocol knows are at depth 1 and 2.
func FromServer() Rules {
	return Rules{Bytes: 16 << 20, Depth: 128, Values: 200_000, FoldDepth: 2}
}

// Weight returns about how many bytes of memory the text of a message takes at most while the message is read, parsed and written again.
func Weight(text []byte) int {
	var w Weigher
	return w.Add(text)
}

// Weigher is Weight for a text that comes in parts. It counts what may begin a value, and reads nothing. A line's end ends a string, which has none in
// JSON, so that nothing before a line hides what is in it. The zero value is at the beginning of a text.
type Weigher struct{ inString, escaped bool }

// Add returns the weight of the next part.
func (w *Weigher) Add(part []byte) int {
	const perByte, perValue = 4, 150
	values := 0
	for _, c := range part {
		switch {
		case c == '\n':
			*w = Weigher{}
		case w.escaped:
			w.escaped = false
		case w.inString:
			w.inString, w.escaped = c != '"', c == '\\'
		case c == '"':
			w.inString = true
		case c == ',' || c == '[' || c == '{':
			values++
		}
	}
	return perByte*len(part) + perValue*values
}

// The codes of JSON-RPC errors.
const (
	CodeParse          = -32700
	CodeInvalidRequest = -32600
	CodeNoMethod       = -32601
	CodeInvalidParams  = -32602
	CodeInternal       = -32603
)

// Problem is why a message was refused.
type Problem struct { //nolint:errname // as in pkg/fixture
	// Code is the code of the JSON-RPC error.
	Code int
	// Message says what is wrong. It quotes nothing of the message but names.
	Message string
	// ID is the message's, where it has one beyond doubt. The zero ID is none.
	ID ID
	// Request says that the message asks for an answer.
	Request bool
}

// Error returns the message.
func (p *Problem) Error() string { return p.Message }

// ParseValue reads one JSON value. Errors are *Problem.
func ParseValue(text []byte, rules Rules) (Value, error) {
	p := parser{rules: rules}
	v, err := p.all(text)
	if err == nil && p.broken != "" {
		err = &Problem{Code: CodeInvalidRequest, Message: p.broken}
	}
	if err != nil {
		return Value{}, err
	}
	return v, nil
}

// parser reads one value.
type parser struct {
	rules  Rules
	decode *jsontext.Decoder
	values int
	// broken is the first rule that the value breaks although it is JSON. It is read to its end all the same, so that the id of a refused
	// request is known.
	broken string
}

// all reads a whole text.
func (p *parser) all(text []byte) (Value, error) {
	if len(text) > p.rules.Bytes {
		return Value{}, &Problem{Code: CodeInvalidRequest, Message: fmt.Sprintf("the message has more than %d bytes", p.rules.Bytes)}
	}
	p.decode = jsontext.NewDecoder(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true)) // it reads a Buffer in place; duplicates are found by name
	v, err := p.value(1)
	if err == nil {
		if _, more := p.decode.ReadToken(); !errors.Is(more, io.EOF) {
			err = &Problem{Code: CodeParse, Message: "something follows the message on its line"}
		}
	}
	if _, ours := errors.AsType[*Problem](err); err == nil || ours {
		return v, err
	}
	problem := &Problem{Code: CodeParse, Message: "the message is not valid JSON"}
	if at, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		problem.Message = fmt.Sprintf("the message is not valid JSON in UTF-8: byte %d", at.ByteOffset+1)
	}
	return Value{}, problem
}

// breaksf notes a rule that is broken.
func (p *parser) breaksf(format string, args ...any) {
	if p.broken == "" {
		p.broken = fmt.Sprintf(format, args...)
	}
}

func (p *parser) value(depth int) (Value, error) {
	if p.values++; p.values > p.rules.Values {
		return Value{}, &Problem{Code: CodeInvalidRequest, Message: fmt.Sprintf("the message has more than %d values", p.rules.Values)}
	}
	if depth > p.rules.Depth {
		return Value{}, &Problem{Code: CodeInvalidRequest, Message: fmt.Sprintf("the message has values more than %d deep", p.rules.Depth)}
	}
	token, err := p.decode.ReadToken()
	if err != nil {
		return Value{}, err
	}
	switch token.Kind() {
	case 't', 'f':
		return Truth(token.Bool()), nil
	case '0':
		return p.number(token.String()), nil
	case '"':
		s := token.String()
		if p.rules.Exact && strings.ContainsRune(s, 0) {
			p.breaksf("a text holds the character U+0000, at which some programs take it to end")
		}
		return Text(s), nil
	case '[':
		return p.list(depth)
	case '{':
		return p.object(depth)
	default: // null: at a value's place the decoder gives nothing else
		return Value{}, nil
	}
}

func (p *parser) list(depth int) (Value, error) {
	var elements []Value
	for p.decode.PeekKind() != ']' {
		e, err := p.value(depth + 1)
		if err != nil {
			return Value{}, err
		}
		elements = append(elements, e)
	}
	_, err := p.decode.ReadToken()
	return List(elements), err
}

func (p *parser) object(depth int) (Value, error) {
	var members []Member
	var seen map[string]string
	for p.decode.PeekKind() != '}' {
		token, err := p.decode.ReadToken()
		if err != nil {
			return Value{}, err
		}
		name := token.String()
		if seen == nil {
			seen = map[string]string{}
		}
		p.name(name, depth, seen)
		v, err := p.value(depth + 1)
		if err != nil {
			return Value{}, err
		}
		members = append(members, Member{name, v})
	}
	_, err := p.decode.ReadToken()
	return ObjectOf(members...), err
}

// name judges a name of an object, whose other names are in seen.
func (p *parser) name(name string, depth int, seen map[string]string) {
	key := name
	if depth <= p.rules.FoldDepth {
		key = Fold(name)
	}
	other, found := seen[key]
	switch {
	case found && other == name:
		p.breaksf("an object has the name %s twice", shown(name))
	case found:
		p.breaksf("an object has the names %s and %s, which some programs take for the same", shown(other), shown(name))
	case strings.ContainsRune(name, 0):
		p.breaksf("the name %s holds the character U+0000", shown(name))
	case p.rules.Exact && name == "__proto__":
		p.breaksf("an object has the name __proto__, which JavaScript may take for the object's own prototype")
	}
	seen[key] = name
}

// maxWhole is the largest whole number up to which JavaScript has all of them.
const maxWhole = 1<<53 - 1

// number judges a number. Where it has to be exact it is kept in the form of RFC 8785, which is JavaScript's.
func (p *parser) number(digits string) Value {
	if !p.rules.Exact {
		return Value{kind: Number, text: digits}
	}
	f, err := strconv.ParseFloat(digits, 64)
	switch {
	case err != nil || math.IsInf(f, 0):
		p.breaksf("a number is out of the range that programs agree on")
		return Value{}
	case f == math.Trunc(f) && math.Abs(f) > maxWhole:
		p.breaksf("a whole number is beyond 2^53, where some programs round it; pass it as a text")
	}
	canonical := jsontext.Value(digits)
	if err := canonical.Canonicalize(); err != nil {
		p.breaksf("a number has no form that programs agree on")
		return Value{}
	}
	return Value{kind: Number, text: string(canonical)}
}

// Fold returns the same text for all names that differ only in upper and lower case, as Unicode folds it: also "ſ" and "s".
func Fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		return least
	}, name)
}

// shown is a name in a message.
func shown(name string) string {
	const most = 64
	if len(name) > most {
		return fmt.Sprintf("of %d bytes", len(name))
	}
	return strconv.Quote(name)
}
