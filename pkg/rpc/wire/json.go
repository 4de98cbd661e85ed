package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/deputyauth/deputy/pkg/authz"
)

// jsonKind is what JSON a type of message has.
type jsonKind int

const (
	// anObject is an object of the type's fields.
	anObject jsonKind = iota
	// aStruct is an object of any keys, aList an array of anything, and aValue anything.
	aStruct
	aList
	aValue
	// aText is a string.
	aText
	// unread are types whose JSON depends on what other types there are. None is in a request of Deputy's.
	unread
)

// jsonKinds are the types whose JSON is no object of their fields.
var jsonKinds = map[protoreflect.FullName]jsonKind{
	"google.protobuf.Struct": aStruct, "google.protobuf.ListValue": aList, valueType: aValue,
	"google.protobuf.Timestamp": aText, "google.protobuf.Duration": aText, "google.protobuf.FieldMask": aText,
	"google.protobuf.Any": unread, "google.protobuf.BoolValue": unread, "google.protobuf.BytesValue": unread,
	"google.protobuf.DoubleValue": unread, "google.protobuf.FloatValue": unread, "google.protobuf.Int32Value": unread,
	"google.protobuf.Int64Value": unread, "google.protobuf.StringValue": unread, "google.protobuf.UInt32Value": unread,
	"google.protobuf.UInt64Value": unread,
}

// decodeJSON is Decode of a message that is written as JSON.
func (m *Message) decodeJSON(into proto.Message) error {
	err := protojson.UnmarshalOptions{DiscardUnknown: m.tolerant, RecursionLimit: MaxDepth + 2}.Unmarshal(m.bytes, into)
	if err == nil {
		return nil
	}
	// The decoder's words name the place and the wrong word. Their blanks are not always the same.
	text := strings.TrimSpace(strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto:"))
	text = strings.TrimPrefix(text, "syntax error ")
	if wrong := wrongValue.FindStringSubmatch(text); wrong != nil {
		at, kind, field, value := wrong[1], wrong[2], wrong[3], wrong[4]
		wants := wantedJSON(kind)
		if names := enumNames(into.ProtoReflect().Descriptor(), field, map[protoreflect.FullName]bool{}); kind == "enum" && len(names) > 0 {
			wants = "one of " + strings.Join(names, ", ")
		}
		return authz.Errorf(authz.Invalid, authz.ReasonInvalidField, "%s is %.80s at %s, and has to be %s", field, value, at, wants)
	}
	if wrong := wrongText.FindStringSubmatch(text); wrong != nil {
		return authz.Errorf(authz.Invalid, authz.ReasonInvalidField, "the request has %.80s at %s, and has to have %s there", wrong[3], wrong[1],
			map[string]string{"Duration": `a duration such as "3600s"`, "Timestamp": `a time such as "2026-11-24T05:19:56Z"`}[wrong[2]])
	}
	return authz.Errorf(authz.Invalid, authz.ReasonInvalidField, "the request cannot be read as JSON of its type: %s", text)
}

var (
	// wrongValue is what the decoder says of a value of another kind than its field's, and wrongText of a text that is no duration or time.
	wrongValue = regexp.MustCompile(`^\((line \d+:\d+)\): invalid value for (\w+) field (\w+): (.*)$`)
	wrongText  = regexp.MustCompile(`^\((line \d+:\d+)\): invalid google\.protobuf\.(Duration|Timestamp) value (.*)$`)
)

// enumNames are the names that a field takes, of a message or of one in it; none where there is no such field of an enum.
func enumNames(of protoreflect.MessageDescriptor, field string, seen map[protoreflect.FullName]bool) (names []string) {
	if seen[of.FullName()] {
		return nil
	}
	seen[of.FullName()] = true
	for i := range of.Fields().Len() {
		fd := of.Fields().Get(i)
		if enum := fd.Enum(); enum != nil && fd.JSONName() == field {
			for k := range enum.Values().Len() {
				names = append(names, string(enum.Values().Get(k).Name()))
			}
			return names
		}
		if inner := fd.Message(); inner != nil {
			if names = enumNames(inner, field, seen); len(names) > 0 {
				return names
			}
		}
	}
	return nil
}

// wantedJSON says what JSON a field of a kind has, as protobuf calls the kind.
func wantedJSON(kind string) string {
	switch kind {
	case "string":
		return "a string"
	case "bytes":
		return "a string in base64"
	case "bool":
		return "true or false"
	case "enum":
		return "a name that the API has for it"
	case "float", "double":
		return "a number"
	case "uint32", "uint64", "fixed32", "fixed64":
		return "a whole number from 0 on that fits into " + kind[len(kind)-2:] + " bits"
	default:
		return "a whole number that fits into " + kind[len(kind)-2:] + " bits"
	}
}

// inspectJSON is inspect for a message that is written as JSON, and counts what inspect counts for the same message.
func (t Type) inspectJSON(text []byte, items int, tolerant bool) (decoded, elements int, err error) {
	s := jsonScan{scan: scan{items: items, tolerant: tolerant}, from: json.NewDecoder(bytes.NewReader(text))}
	s.from.UseNumber()
	first, fault := s.next()
	if fault == nil {
		fault = s.message(t.shape, first, 0)
	}
	if fault == nil {
		if _, err := s.from.Token(); !errors.Is(err, io.EOF) {
			fault = &Fault{Message: fmt.Sprintf("has more than one JSON value: the second begins behind byte %d", s.from.InputOffset())}
		}
	}
	if fault != nil {
		return 0, 0, fault
	}
	return s.bytes, s.outermost, nil
}

// jsonScan reads the words of a JSON text once, beside the shape of its type. It makes nothing of them.
type jsonScan struct {
	scan
	from *json.Decoder
}

// next is the next word.
func (s *jsonScan) next() (json.Token, *Fault) {
	word, err := s.from.Token()
	if err == nil {
		return word, nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, &Fault{Message: "is no JSON: it ends too early", whole: true}
	}
	return nil, &Fault{Message: fmt.Sprintf("is no JSON: %v, behind byte %d", err, s.from.InputOffset()), whole: true}
}

// tooDeep refuses what is nested too deep.
func tooDeep(depth int) *Fault {
	if depth > MaxDepth {
		return &Fault{Message: fmt.Sprintf("is nested deeper than %d levels", MaxDepth), whole: true}
	}
	return nil
}

// message inspects one message whose first word was read.
func (s *jsonScan) message(of *shape, first json.Token, depth int) *Fault {
	if fault := tooDeep(depth); fault != nil {
		return fault
	}
	s.bytes += of.bytes
	switch of.kind {
	case aStruct:
		return s.pairs(of, first, depth)
	case aList:
		return s.values(of, first, depth)
	case aValue:
		return s.value(of, first, depth)
	case aText:
		if _, ok := first.(string); !ok {
			return &Fault{Message: "has to be a string"}
		}
		return nil
	case unread:
		return &Fault{Message: "has a type that is not taken as JSON: send the message in protobuf's encoding"}
	case anObject:
	}
	if first != json.Delim('{') {
		return &Fault{Message: "has to be a JSON object"}
	}
	most, all := &Fault{}, 0
	for s.from.More() {
		key, fault := s.key()
		if fault != nil {
			return fault
		}
		f := of.names[key]
		if f == nil {
			if !s.tolerant {
				return of.unknown(key)
			}
			if fault := s.pass(depth); fault != nil {
				return fault
			}
			continue
		}
		elements, fault := s.content(f, depth)
		if fault != nil {
			return fault
		}
		if all += elements; elements > s.items && most.Path == "" {
			most = &Fault{Path: f.name, Message: fmt.Sprintf("has more than %d elements", s.items)}
		}
	}
	if depth == 0 {
		s.outermost = all
	}
	if most.Path != "" {
		return most
	}
	return s.end()
}

// unknown says that a type has no field of a name, and which it has.
func (of *shape) unknown(key string) *Fault {
	const most = 20
	var has []string
	for _, name := range slices.Sorted(maps.Keys(of.names)) {
		if of.names[name].json == name {
			has = append(has, name)
		}
	}
	switch {
	case len(has) == 0:
		return &Fault{Message: fmt.Sprintf("has no field %.80q, and takes none", key)}
	case len(has) > most:
		has = append(has[:most], "…")
	}
	return &Fault{Message: fmt.Sprintf("has no field %.80q; it has %s", key, strings.Join(has, ", "))}
}

// key is the next key of an object.
func (s *jsonScan) key() (string, *Fault) {
	word, fault := s.next()
	if fault != nil {
		return "", fault
	}
	key, _ := word.(string) // the decoder takes no other key
	return key, nil
}

// end takes the end of an object or an array whose last element was read.
func (s *jsonScan) end() *Fault {
	_, fault := s.next()
	return fault
}

// content inspects what a field has, and returns how many elements that is, 0 for what is no list.
func (s *jsonScan) content(f *field, depth int) (elements int, fault *Fault) {
	first, fault := s.next()
	if fault != nil {
		return 0, fault
	}
	switch {
	case first == nil && (f.list || f.message == nil || f.message.kind != aValue):
		return 0, nil // null is a field that is not there, but for a Value
	case f.mapped:
		elements, fault = s.entries(f, first, depth)
	case f.list:
		elements, fault = s.list(f, first, depth)
	default:
		fault = s.one(f, first, depth)
		fault = f.in(fault)
	}
	return elements, fault
}

// one inspects one value of a field.
func (s *jsonScan) one(f *field, first json.Token, depth int) *Fault {
	if f.message != nil {
		return s.message(f.message, first, depth+1)
	}
	switch word := first.(type) {
	case json.Delim:
		return &Fault{Message: "has to be one value, not an object or an array"}
	case string:
		switch {
		case f.binary:
			s.bytes += base64.RawStdEncoding.DecodedLen(len(strings.TrimRight(word, "="))) + pointerBytes
		case f.wire == protowire.BytesType:
			s.bytes += len(word) + pointerBytes
		}
	}
	return nil
}

// list inspects the elements of a list.
func (s *jsonScan) list(f *field, first json.Token, depth int) (elements int, fault *Fault) {
	if first != json.Delim('[') {
		return 0, f.in(&Fault{Message: "has to be a JSON array"})
	}
	for s.from.More() {
		word, fault := s.next()
		if fault == nil {
			fault = s.one(f, word, depth)
		}
		if fault != nil {
			return 0, f.at(fault, elements)
		}
		elements += s.grow(f, 1)
	}
	return elements, s.end()
}

// entries inspects the entries of a map.
func (s *jsonScan) entries(f *field, first json.Token, depth int) (elements int, fault *Fault) {
	if first != json.Delim('{') {
		return 0, f.in(&Fault{Message: "has to be a JSON object"})
	}
	for s.from.More() {
		key, fault := s.key()
		if fault == nil {
			fault = tooDeep(depth + 1)
		}
		if fault != nil {
			return 0, f.at(fault, elements)
		}
		s.bytes += f.message.bytes + len(key) + pointerBytes
		word, fault := s.next()
		if fault == nil {
			fault = s.one(f.message.field(2), word, depth+1)
		}
		if fault != nil {
			return 0, f.at(fault, elements)
		}
		elements += s.grow(f, 1)
	}
	return elements, s.end()
}

// pairs inspects a Struct, which is a map.
func (s *jsonScan) pairs(of *shape, first json.Token, depth int) *Fault {
	elements, fault := s.entries(of.field(1), first, depth)
	if fault == nil && elements > s.items {
		return &Fault{Message: fmt.Sprintf("has more than %d elements", s.items)}
	}
	return fault
}

// values inspects a list of Values.
func (s *jsonScan) values(of *shape, first json.Token, depth int) *Fault {
	elements, fault := s.list(of.field(1), first, depth)
	if fault == nil && elements > s.items {
		return &Fault{Message: fmt.Sprintf("has more than %d elements", s.items)}
	}
	return fault
}

// The numbers of a Value's fields that hold messages.
const valueStruct, valueList = 5, 6

// value inspects anything.
func (s *jsonScan) value(of *shape, first json.Token, depth int) *Fault {
	switch word := first.(type) {
	case string:
		s.bytes += len(word) + pointerBytes
	case json.Number:
		if v, err := strconv.ParseFloat(string(word), 64); err != nil || math.IsInf(v, 0) {
			return &Fault{Message: fmt.Sprintf("is the number %.40s, which is too large for a caveat context", word)}
		}
	case json.Delim:
		if word == '{' {
			return s.message(of.field(valueStruct).message, first, depth+1)
		}
		return s.message(of.field(valueList).message, first, depth+1)
	}
	return nil
}

// pass passes over a value that nobody reads.
func (s *jsonScan) pass(depth int) *Fault {
	open := 0
	for {
		before := s.from.InputOffset()
		word, fault := s.next()
		if fault != nil {
			return fault
		}
		s.bytes += int(s.from.InputOffset() - before)
		switch word {
		case json.Delim('{'), json.Delim('['):
			if open++; open+depth > MaxDepth {
				return tooDeep(open + depth)
			}
		case json.Delim('}'), json.Delim(']'):
			open--
		}
		if open == 0 {
			return nil
		}
	}
}

// in adds to a fault's path the field that it was found in.
func (f *field) in(fault *Fault) *Fault { return fault.under(f.name) }

// at adds to a fault's path the element that it was found in.
func (f *field) at(fault *Fault, index int) *Fault {
	return fault.under(fmt.Sprintf("%s[%d]", f.name, index))
}

// under adds a step to a fault's path, from the outermost message on.
func (f *Fault) under(step string) *Fault {
	switch {
	case f == nil || f.whole:
		return f
	case f.Path == "":
		f.Path = step
	case len(f.Path) > maxPath:
		f.Path = step + ".…"
	default:
		f.Path = step + "." + f.Path
	}
	return f
}
