package jsonrpc

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// ID is the id of a request: a text or a whole number. The zero ID is none. IDs can be compared with ==.
type ID struct {
	kind Kind
	text string
}

// maxID is the length of an id.
const maxID = 256

// TextID returns a text as an id.
func TextID(s string) ID { return ID{String, s} }

// IsZero reports whether there is no id.
func (id ID) IsZero() bool { return id.kind == Null }

// Value returns the id as a value; null for none.
func (id ID) Value() Value { return Value{kind: id.kind, text: id.text} }

// String returns the id as JSON.
func (id ID) String() string { return id.Value().String() }

// IDOf reads an id.
func IDOf(v Value) (ID, bool) {
	switch v.kind {
	case String:
		return ID{String, v.text}, len(v.text) <= maxID
	case Number:
		n, err := strconv.ParseFloat(v.text, 64)
		return ID{Number, v.text}, err == nil && n == math.Trunc(n) && math.Abs(n) <= maxWhole
	default:
		return ID{}, false
	}
}

// Message is one message. Exactly one of its forms holds: a request has an ID and a Method, a notification a Method alone, an answer an ID and
// either Result or Failure. A failure may come without an ID.
type Message struct {
	ID      ID
	Method  string
	Params  Value
	Result  Value
	Failure Value
}

// IsRequest reports whether the message asks for an answer.
func (m *Message) IsRequest() bool { return m.Method != "" && !m.ID.IsZero() }

// IsNotification reports whether the message asks for no answer, and is none.
func (m *Message) IsNotification() bool { return m.Method != "" && m.ID.IsZero() }

// IsAnswer reports whether the message answers a request.
func (m *Message) IsAnswer() bool { return m.Method == "" }

// Append appends the message as JSON on one line, without its end.
func (m *Message) Append(b []byte) []byte {
	members := []Member{{"jsonrpc", Text("2.0")}}
	if !m.ID.IsZero() {
		members = append(members, Member{"id", m.ID.Value()})
	}
	switch {
	case m.Method != "":
		members = append(members, Member{"method", Text(m.Method)})
		if m.Params.kind == Object {
			members = append(members, Member{"params", m.Params})
		}
	case m.Failure.kind == Object:
		if m.ID.IsZero() {
			members = append(members, Member{"id", Value{}})
		}
		members = append(members, Member{"error", m.Failure})
	default:
		members = append(members, Member{"result", m.Result})
	}
	return ObjectOf(members...).Append(b)
}

// Fail returns the answer to a request that failed.
func Fail(id ID, code int, message string) *Message {
	return &Message{ID: id, Failure: ObjectOf(Member{"code", Whole(int64(code))}, Member{"message", Text(message)})}
}

// Parse reads one message. Batches, and members of the envelope that JSON-RPC does not have, are refused. Errors are *Problem.
func Parse(text []byte, rules Rules) (*Message, error) {
	p := parser{rules: rules}
	v, err := p.all(text)
	if err != nil {
		return nil, err
	}
	m, wrong := envelope(v)
	if wrong = cmp.Or(p.broken, wrong); wrong == "" {
		return m, nil
	}
	return nil, refusal(v, wrong)
}

// AroundID cuts the text of a message, which Parse accepts, into what is before its id and what is behind it. A text with the same before and behind
// is the same message with another id. It returns false for a message without an id.
func AroundID(text []byte) (before, behind []byte, ok bool) {
	decode := jsontext.NewDecoder(bytes.NewBuffer(text))
	if _, err := decode.ReadToken(); err != nil {
		return nil, nil, false
	}
	for decode.PeekKind() == '"' {
		name, err := decode.ReadToken()
		if err != nil {
			return nil, nil, false
		}
		isID := name.String() == "id"
		value, err := decode.ReadValue()
		if err != nil {
			return nil, nil, false
		}
		if isID {
			end := int(decode.InputOffset())
			return text[:end-len(value)], text[end:], true
		}
	}
	return nil, nil, false
}

// refusal is the problem of a message that is JSON. Its id is the only member that any program could take for the id.
func refusal(v Value, wrong string) *Problem {
	p := &Problem{Code: CodeInvalidRequest, Message: wrong}
	ids, methods := 0, 0
	for _, m := range v.members {
		switch Fold(m.Name) {
		case Fold("id"):
			ids++
			p.ID, _ = IDOf(m.Value)
		case Fold("method"):
			methods++
		}
	}
	if ids != 1 {
		p.ID = ID{}
	}
	p.Request = ids > 0 && methods > 0
	return p
}

// envelope reads what is around a message's content. wrong says why it is none.
func envelope(v Value) (m *Message, wrong string) {
	switch v.kind {
	case Object:
	case Array:
		return nil, "the message is a batch; send each message by itself"
	default:
		return nil, fmt.Sprintf("the message has to be an object, not %s", v.kind)
	}
	m = &Message{}
	has := map[string]Value{}
	for _, member := range v.members {
		switch member.Name {
		case "jsonrpc", "id", "method", "params", "result", "error":
			has[member.Name] = member.Value
		default:
			return nil, fmt.Sprintf("the message has %s; it can have jsonrpc, id, method, params, result and error", shown(member.Name))
		}
	}
	if version, ok := has["jsonrpc"].Text(); !ok || version != "2.0" {
		return nil, `jsonrpc has to be "2.0"`
	}
	id, hasID := has["id"]
	_, failed := has["error"]
	if hasID && (id.kind != Null || !failed) {
		if m.ID, hasID = IDOf(id); !hasID {
			return nil, fmt.Sprintf("id has to be a whole number, or a text of at most %d bytes", maxID)
		}
	}
	return m, m.content(has)
}

// content reads what a message is about.
func (m *Message) content(has map[string]Value) (wrong string) {
	method, asks := has["method"]
	params, hasParams := has["params"]
	result, succeeded := has["result"]
	failure, failed := has["error"]
	switch {
	case asks && (succeeded || failed), succeeded && failed, !asks && hasParams, !asks && !succeeded && !failed:
		return "the message has to be one of a request, a notification and an answer"
	case asks:
		name, ok := method.Text()
		if !ok || name == "" {
			return "method has to be a text that is not empty"
		}
		if hasParams && params.kind != Object {
			return "params has to be an object, not " + params.kind.String()
		}
		m.Method, m.Params = name, params
	case succeeded:
		if m.ID.IsZero() {
			return "an answer has to have the id of its request"
		}
		if result.kind != Object {
			return "result has to be an object, not " + result.kind.String()
		}
		m.Result = result
	default:
		_, isText := failure.At("message").Text()
		_, isNumber := failure.At("code").Digits()
		if !isText || !isNumber {
			return "error has to be an object with a code and a message"
		}
		m.Failure = failure
	}
	return ""
}
