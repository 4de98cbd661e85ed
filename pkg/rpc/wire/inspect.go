package wire

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// MaxDepth is how deep messages may be nested in each other, the outermost not counted: what decoders of protobuf in other
// languages allow by default. A level of a google.protobuf.Struct takes up to three.
const MaxDepth = 100

// Type is a message's type, ready to inspect encodings. It is immutable.
type Type struct{ shape *shape }

// TypeOf prepares a message's type.
func TypeOf(d protoreflect.MessageDescriptor) Type { return Type{shapes{}.of(d)} }

// Fault says why an encoding is refused.
type Fault struct { //nolint:errname // it is the fault that a caller is told of; an error is what carries it
	// Path is the message or list at fault, in proto notation from the outermost message on ("items[3].resource"); empty for the
	// outermost message itself.
	Path string
	// Number is the field's number; 0 where no field is at fault.
	Number int
	// Message says of that message what is wrong, for a person: "has no field with the number 9".
	Message string
	// whole says that the fault is of the whole field of the outermost message, so that its place within does not matter.
	whole bool
}

// Error returns the whole sentence.
func (f *Fault) Error() string {
	if f.Path == "" {
		return "the request " + f.Message
	}
	return f.Path + " " + f.Message
}

// Inspect reads the encoding of a message of the type and returns about how many bytes the decoded message takes.
// It refuses, with a *Fault: what is no encoding of a message, fields that the type, or the type of a message
// within, does not have, known fields of another wire type, groups, nesting beyond MaxDepth, and a list of more than
// items elements. In a google.protobuf.Value it refuses what cannot be written as JSON, because SpiceDB panics where it writes one into
// an error: numbers that are not finite, and values without a kind. It makes nothing. Strings are not checked for UTF-8; decoding does that.
func (t Type) Inspect(encoding []byte, items int) (decoded int, err error) {
	decoded, _, err = t.inspect(encoding, items, false)
	return decoded, err
}

// inspect is Inspect; tolerant passes over fields that a type does not have. It also returns how many elements the lists of the outermost message
// have together.
func (t Type) inspect(encoding []byte, items int, tolerant bool) (decoded, elements int, err error) {
	s := scan{items: items, tolerant: tolerant}
	if fault := s.message(t.shape, encoding, 0); fault != nil {
		return 0, 0, fault
	}
	return s.bytes, s.outermost, nil
}

type scan struct {
	items    int
	tolerant bool
	bytes    int
	// outermost is how many elements the lists of the outermost message have.
	outermost int
}

// message inspects one message, depth levels within the outermost.
func (s *scan) message(of *shape, b []byte, depth int) *Fault {
	if depth > MaxDepth {
		return &Fault{Message: fmt.Sprintf("is nested deeper than %d levels", MaxDepth), whole: true}
	}
	s.bytes += of.bytes
	elements, needed := 0, of.needs != 0
	for at := 0; at < len(b); {
		number, wire, n := protowire.ConsumeTag(b[at:])
		if n < 0 {
			return malformed()
		}
		start, f := at, of.field(number)
		at += n
		needed = needed && number != of.needs
		var v []byte // what bytes hold; most fields are some
		if wire == protowire.BytesType {
			v, n = protowire.ConsumeBytes(b[at:])
		} else {
			n = protowire.ConsumeFieldValue(number, wire, b[at:])
		}
		if n < 0 {
			return malformed()
		}
		at += n
		switch {
		case f == nil && s.tolerant:
			s.bytes += n
		case f == nil:
			return &Fault{Number: int(number), Message: fmt.Sprintf("has no field with the number %d", number)}
		case wire == protowire.BytesType && f.wire == wire:
			if f.message == nil {
				s.bytes += len(v) + pointerBytes
			} else if fault := s.message(f.message, v, depth+1); fault != nil {
				return within(fault, f, number, b[:start])
			}
			elements += s.grow(f, 1)
		case wire == f.wire && wire != protowire.StartGroupType:
			if f.finite && !isFinite(b[at-8:at]) {
				return &Fault{Message: "is a number that is not finite, which JSON has no word for"}
			}
			elements += s.grow(f, 1)
		case f.packable && wire == protowire.BytesType:
			packed := count(f.wire, v)
			if packed < 0 {
				return malformed()
			}
			elements += s.grow(f, packed)
		case s.tolerant:
			s.bytes += n
		default:
			return &Fault{Number: int(number), Message: fmt.Sprintf("has the field with the number %d, %s, as wire type %d instead of %d",
				number, f.name, wire, f.wire)}
		}
	}
	if depth == 0 {
		s.outermost = elements
	}
	return s.whole(of, b, needed, elements)
}

// whole judges a message whose fields were found sound. needed says that it lacks the field that it needs.
func (s *scan) whole(of *shape, b []byte, needed bool, elements int) *Fault {
	if of.value && len(b) == 0 || needed {
		return &Fault{Message: "has no kind: a null has to be said"}
	}
	if elements > s.items {
		return s.longList(of, b)
	}
	return nil
}

// grow counts what elements of a list take beside what is in them. Lists grow by up to as much again. What is no list
// has no elements.
func (s *scan) grow(f *field, elements int) int {
	if !f.list {
		return 0
	}
	s.bytes += 2 * f.elem * elements
	return elements
}

// longList finds the list that has too many elements, in a message that was found sound, if it is one.
func (s *scan) longList(of *shape, b []byte) *Fault {
	counts := map[protowire.Number]int{}
	for at := 0; at < len(b); {
		number, wire, n := protowire.ConsumeTag(b[at:])
		at += n
		n = protowire.ConsumeFieldValue(number, wire, b[at:])
		f, elements := of.field(number), 1
		if f != nil && f.packable && wire == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b[at:])
			elements = count(f.wire, v)
		}
		at += n
		if f == nil || !f.list {
			continue
		}
		if counts[number] += elements; counts[number] > s.items {
			return &Fault{Path: f.name, Number: int(number), Message: fmt.Sprintf("has more than %d elements", s.items)}
		}
	}
	return nil
}

// count returns how many scalars of a wire type come together in packed bytes, or -1 if the bytes are none.
func count(wire protowire.Type, packed []byte) (n int) {
	for len(packed) > 0 {
		size := protowire.ConsumeFieldValue(1, wire, packed)
		if size < 0 {
			return -1
		}
		packed = packed[size:]
		n++
	}
	return n
}

// isFinite reports whether the encoding of a double is that of a number.
func isFinite(b []byte) bool {
	v := math.Float64frombits(binary.LittleEndian.Uint64(b))
	return !math.IsNaN(v) && !math.IsInf(v, 0)
}

func malformed() *Fault { return &Fault{Message: "is malformed"} }

// maxPath is how long a path gets, in bytes.
const maxPath = 256

// within adds to a fault's path the field that it was found in. before is what came before it in the same message.
func within(fault *Fault, f *field, number protowire.Number, before []byte) *Fault {
	step := f.name
	if f.list {
		index := 0
		for at := 0; at < len(before); {
			n, wire, size := protowire.ConsumeTag(before[at:])
			at += size
			if n == number {
				index++
			}
			at += protowire.ConsumeFieldValue(n, wire, before[at:])
		}
		step = fmt.Sprintf("%s[%d]", f.name, index)
	}
	switch {
	case fault.whole:
		fault.Path = ""
	case len(fault.Path) > maxPath:
		fault.Path = "…" // the outer part is enough to find it
	}
	if fault.Path != "" {
		step += "." + fault.Path
	}
	fault.Path = step
	return fault
}
