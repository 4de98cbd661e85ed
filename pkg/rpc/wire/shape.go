package wire

import (
	"math"
	"reflect"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// shape is what Inspect has to know of a message's type. Shapes are immutable once TypeOf has returned.
type shape struct {
	// bytes is what one decoded message takes, without what its strings, lists and messages take.
	bytes int
	// low holds the fields by number where the numbers are small, which they nearly always are; high the rest.
	low  []*field
	high map[protowire.Number]*field
	// names holds the fields by the names that they have in JSON: their own, and the contract's.
	names map[string]*field
	// kind says what JSON its type has instead of an object of its fields.
	kind jsonKind
	// value says that it is google.protobuf.Value.
	value bool
	// needs is the number of a field that has to be there: of a map's entry, a Value; 0 for most.
	needs protowire.Number
}

// field is one field of a message.
type field struct {
	name string
	// json is its name in JSON.
	json string
	// mapped says that it is a map, whose message is an entry.
	mapped bool
	// wire is how the field, or one element of a list, is encoded.
	wire protowire.Type
	// packable says that a list's elements may come together as bytes; elem is then what each of them takes.
	packable bool
	list     bool
	elem     int
	// finite says that it is a Value's number.
	finite bool
	// binary says that it holds bytes, which JSON has in base64.
	binary bool
	// message is the type of a message, nil for a scalar.
	message *shape
}

// Costs of a decoded message, in bytes. They are close enough to count by, and none is too low.
const (
	pointerBytes = 8
	// boxBytes is what a scalar takes that stands by itself: in a oneof, or as an optional field.
	boxBytes = 16
	// entryBytes is what an entry of a map takes, with a map's spare room, apart from its key and value.
	entryBytes = 112
	// unknownType is what a message takes whose Go type is not linked in; it is never decoded into another.
	unknownType = 512
)

// lowest is the highest number of a field that is looked up in a list.
const lowest = 64

func (s *shape) field(n protowire.Number) *field {
	if n >= 0 && int(n) < len(s.low) {
		return s.low[n]
	}
	return s.high[n]
}

// valueType is what a google.protobuf.Struct holds.
const valueType = "google.protobuf.Value"

// shapes makes shapes, each type's once.
type shapes map[protoreflect.FullName]*shape

func (all shapes) of(d protoreflect.MessageDescriptor) *shape {
	if s, ok := all[d.FullName()]; ok {
		return s
	}
	s := &shape{bytes: goBytes(d), value: d.FullName() == valueType, names: map[string]*field{}, kind: jsonKinds[d.FullName()]}
	all[d.FullName()] = s // first: a type may contain itself
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		f := &field{name: string(fd.Name()), list: fd.IsList() || fd.IsMap(), wire: wireType(fd.Kind()), mapped: fd.IsMap()}
		s.names[fd.JSONName()], s.names[string(fd.Name())] = f, f
		f.json = fd.JSONName()
		if d.IsMapEntry() && fd.Message() != nil && fd.Message().FullName() == valueType {
			s.needs = fd.Number()
		}
		f.binary = fd.Kind() == protoreflect.BytesKind
		f.finite = s.value && fd.Kind() == protoreflect.DoubleKind
		if fd.Message() != nil {
			f.message = all.of(fd.Message())
			f.elem = pointerBytes
		} else {
			f.elem = elemBytes(fd.Kind())
			f.packable = fd.IsList() && f.wire != protowire.BytesType
		}
		if n := int(fd.Number()); n < lowest {
			for len(s.low) <= n {
				s.low = append(s.low, nil)
			}
			s.low[n] = f
		} else {
			if s.high == nil {
				s.high = map[protowire.Number]*field{}
			}
			s.high[fd.Number()] = f
		}
	}
	return s
}

// goBytes returns the size of a message's struct.
func goBytes(d protoreflect.MessageDescriptor) int {
	if d.IsMapEntry() {
		return entryBytes
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return unknownType
	}
	size := reflect.TypeOf(t.Zero().Interface()).Elem().Size()
	if size > math.MaxInt16 {
		return math.MaxInt16
	}
	return int(size) + boxBytes // one oneof's box, or an allocator's rounding
}

func wireType(k protoreflect.Kind) protowire.Type {
	switch k {
	case protoreflect.BoolKind, protoreflect.EnumKind, protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Uint32Kind,
		protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Uint64Kind:
		return protowire.VarintType
	case protoreflect.Sfixed32Kind, protoreflect.Fixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Sfixed64Kind, protoreflect.Fixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.GroupKind:
		return protowire.StartGroupType
	default:
		return protowire.BytesType
	}
}

// elemBytes is what one scalar takes in a list.
func elemBytes(k protoreflect.Kind) int {
	switch k {
	case protoreflect.BoolKind:
		return 1
	case protoreflect.EnumKind, protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Uint32Kind,
		protoreflect.Sfixed32Kind, protoreflect.Fixed32Kind, protoreflect.FloatKind:
		return 4
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Uint64Kind,
		protoreflect.Sfixed64Kind, protoreflect.Fixed64Kind, protoreflect.DoubleKind:
		return 8
	default:
		return 24
	}
}
