package index

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/encoding/protowire"
)

// Term is what a record is found by: a hash of a field and its value.
type Term uint64

// Field is a field of records that they can be found by.
type Field byte

// The fields. Their numbers are part of the format.
const (
	Agent Field = iota + 1
	Principal
	Tenant
	Resource
	Permission
	Caller
	Answer
	Gate
	Session
	Delegation
	Kind
	// Tool is the name in a record's call of a tool.
	Tool
)

// Of returns the term of a field that is a text.
func Of(field Field, value string) Term { return term(field, nil, []byte(value)) }

// OfObject returns the term of a field that is a type and an id.
func OfObject(field Field, kind, id string) Term { return term(field, []byte(kind), []byte(id)) }

// OfNumber returns the term of a field that is a number.
func OfNumber(field Field, value int32) Term {
	return term(field, nil, binary.LittleEndian.AppendUint64(nil, uint64(value))) //nolint:gosec // any bits will do
}

// term hashes a field, a type, which has no zero byte, and a value.
func term(field Field, kind, value []byte) Term {
	var room [128]byte
	b := append(room[:0], byte(field))
	b = append(b, kind...)
	b = append(b, 0)
	b = append(b, value...)
	return Term(xxhash.Sum64(b))
}

// Fields of deputy.v1.Record, by number.
const (
	fieldTime          = 2
	fieldKind          = 3
	fieldCaller        = 5
	fieldAgent         = 7
	fieldChain         = 8
	fieldPrincipalType = 9
	fieldPrincipalID   = 10
	fieldTenant        = 11
	fieldSession       = 12
	fieldDelegation    = 13
	fieldResourceType  = 14
	fieldResourceID    = 15
	fieldPermission    = 16
	fieldAnswer        = 18
	fieldGate          = 19
	fieldPersonal      = 36
	fieldToolCall      = 53
)

// fieldToolName is a field of deputy.v1.ToolCall.
const fieldToolName = 3

// texts are the fields that are a term by themselves, and numbers the same of those that are numbers.
var (
	texts = [...]Field{
		fieldCaller: Caller, fieldAgent: Agent, fieldChain: Agent, fieldTenant: Tenant, fieldSession: Session,
		fieldDelegation: Delegation, fieldPermission: Permission,
	}
	numbers = [...]Field{fieldKind: Kind, fieldAnswer: Answer, fieldGate: Gate}
)

// Seen is what the index needs of a record.
type Seen struct {
	// Terms are what it is found by, some of them perhaps twice.
	Terms []Term
	// Time is when its call began, in nanoseconds since 1970.
	Time int64
	// Sealed says that some of it is sealed for a person, so that terms are missing.
	Sealed bool
}

// See reads what the index needs of an encoded record, without decoding all of it. It returns false for what is no record. The room of s.Terms
// is used again.
func (s *Seen) See(record []byte) bool {
	*s = Seen{Terms: s.Terms[:0]}
	var of objects
	for b := record; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch kind {
		case protowire.BytesType:
			value, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return false
			}
			b = b[n:]
			s.text(number, value, &of)
		case protowire.VarintType:
			value, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return false
			}
			b = b[n:]
			if int(number) < len(numbers) && numbers[number] != 0 && value != 0 {
				s.Terms = append(s.Terms, OfNumber(numbers[number], int32(value))) //nolint:gosec // as protobuf has enums
			}
		default:
			n := protowire.ConsumeFieldValue(number, kind, b)
			if n < 0 {
				return false
			}
			if number == fieldTime && kind == protowire.Fixed64Type {
				s.Time = int64(binary.LittleEndian.Uint64(b)) //nolint:gosec // as protobuf has sfixed64
			}
			b = b[n:]
		}
	}
	if len(of.principalID) > 0 {
		s.Terms = append(s.Terms, term(Principal, of.principalType, of.principalID))
	}
	if len(of.resourceID) > 0 {
		s.Terms = append(s.Terms, term(Resource, of.resourceType, of.resourceID))
	}
	return true
}

// objects are the objects of a record, whose types and ids are fields of their own and one term together.
type objects struct{ principalType, principalID, resourceType, resourceID []byte }

// text takes a field that is text or a message.
func (s *Seen) text(number protowire.Number, value []byte, of *objects) {
	switch {
	case int(number) < len(texts) && texts[number] != 0:
		if len(value) > 0 {
			s.Terms = append(s.Terms, term(texts[number], nil, value))
		}
	case number == fieldPrincipalType:
		of.principalType = value
	case number == fieldPrincipalID:
		of.principalID = value
	case number == fieldResourceType:
		of.resourceType = value
	case number == fieldResourceID:
		of.resourceID = value
	case number == fieldPersonal:
		s.Sealed = len(value) > 0
	case number == fieldToolCall:
		if name := inner(value, fieldToolName); len(name) > 0 {
			s.Terms = append(s.Terms, term(Tool, nil, name))
		}
	}
}

// inner returns a text of an encoded message; nil where there is none.
func inner(message []byte, field protowire.Number) (text []byte) {
	for b := message; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return text
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return text
		}
		if number == field && kind == protowire.BytesType {
			text, _ = protowire.ConsumeBytes(b)
		}
		b = b[n:]
	}
	return text
}

// Query says which records are looked for. The zero Query looks for all.
type Query struct {
	// All are conditions that hold together: of each, a record has one of the terms at least.
	All [][]Term
	// From and Until bound when calls began, in nanoseconds since 1970: at From or later, and before Until. 0 is no bound.
	From, Until int64
}

// within reports whether a span of time, its ends included, overlaps with what is asked for.
func (q *Query) within(first, last int64) bool {
	return (q.From == 0 || last >= q.From) && (q.Until == 0 || first < q.Until)
}

// May reports whether a record can be one of those that are looked for, as far as its terms tell.
func (q *Query) May(s *Seen) bool {
	if !q.within(s.Time, s.Time) {
		return false
	}
	for _, either := range q.All {
		if !has(s.Terms, either) {
			return false
		}
	}
	return true
}

func has(terms, either []Term) bool {
	for _, t := range terms {
		if slices.Contains(either, t) {
			return true
		}
	}
	return false
}

// noTime is the span of no record.
const (
	noFirst = math.MaxInt64
	noLast  = math.MinInt64
)
