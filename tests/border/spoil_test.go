//go:build linux

package border

import (
	"bytes"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// spoiling changes a message of a type on the wire.
type spoiling struct {
	name string
	do   func(d *draw, md protoreflect.MessageDescriptor, b []byte) []byte
}

var spoilings = []spoiling{
	{"changed bytes", func(d *draw, _ protoreflect.MessageDescriptor, b []byte) []byte {
		b = slices.Clone(b)
		for range 1 + d.IntN(4) {
			if len(b) > 0 {
				b[d.IntN(len(b))] = byte(d.Uint32())
			}
		}
		return b
	}},
	{"truncated", func(d *draw, _ protoreflect.MessageDescriptor, b []byte) []byte { return b[:d.IntN(len(b)+1)] }},
	{"inserted bytes", func(d *draw, _ protoreflect.MessageDescriptor, b []byte) []byte {
		junk := make([]byte, 1+d.IntN(8))
		for i := range junk {
			junk[i] = byte(d.Uint32())
		}
		return slices.Insert(slices.Clone(b), d.IntN(len(b)+1), junk...)
	}},
	{"fields doubled", func(d *draw, _ protoreflect.MessageDescriptor, b []byte) []byte {
		fields := split(b)
		if len(fields) == 0 {
			return b
		}
		return append(slices.Clone(b), bytes.Repeat(pick(d, fields), 1+d.IntN(50))...)
	}},
	{"fields out of order", func(d *draw, _ protoreflect.MessageDescriptor, b []byte) []byte {
		fields := split(b)
		d.Shuffle(len(fields), func(i, k int) { fields[i], fields[k] = fields[k], fields[i] })
		return bytes.Join(fields, nil)
	}},
	{"a group that another field ends", func(d *draw, md protoreflect.MessageDescriptor, b []byte) []byte {
		num := d.fieldNumber(md)
		b = protowire.AppendTag(slices.Clone(b), num, protowire.StartGroupType)
		return protowire.AppendTag(b, num+1, protowire.EndGroupType)
	}},
	{"a group", func(d *draw, md protoreflect.MessageDescriptor, b []byte) []byte {
		num := d.fieldNumber(md)
		return protowire.AppendGroup(protowire.AppendTag(slices.Clone(b), num, protowire.StartGroupType), num, b)
	}},
	{"a group without end", func(d *draw, md protoreflect.MessageDescriptor, b []byte) []byte {
		return protowire.AppendTag(slices.Clone(b), d.fieldNumber(md), protowire.StartGroupType)
	}},
	{"the end of no group", func(d *draw, md protoreflect.MessageDescriptor, b []byte) []byte {
		return protowire.AppendTag(slices.Clone(b), d.fieldNumber(md), protowire.EndGroupType)
	}},
	{"groups within groups", func(d *draw, md protoreflect.MessageDescriptor, b []byte) []byte {
		depth, num := 10<<d.IntN(12), d.fieldNumber(md)
		b = append(slices.Clone(b), bytes.Repeat(protowire.AppendTag(nil, num, protowire.StartGroupType), depth)...)
		return append(b, bytes.Repeat(protowire.AppendTag(nil, num, protowire.EndGroupType), depth)...)
	}},
	{"messages within messages", func(d *draw, md protoreflect.MessageDescriptor, b []byte) []byte {
		num := d.fieldNumber(md)
		inner := slices.Clone(b)
		for range 10 << d.IntN(9) {
			inner = protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), inner)
			if len(inner) > 1<<18 {
				break
			}
		}
		return inner
	}},
	{"a deep value", func(d *draw, md protoreflect.MessageDescriptor, b []byte) []byte {
		// A google.protobuf.Value in a list in a value and so on, wherever there is a context.
		for i := range md.Fields().Len() {
			f := md.Fields().Get(i)
			if f.Message() == nil || f.Message().FullName() != "google.protobuf.Struct" {
				continue
			}
			value := []byte{0x20, 1}
			for range 100 << d.IntN(5) {
				list := protowire.AppendBytes([]byte{0x0a}, value) // ListValue.values
				value = protowire.AppendBytes([]byte{0x32}, list)  // Value.list_value
			}
			entry := protowire.AppendBytes([]byte{0x0a, 1, 'a', 0x12}, value)
			content := protowire.AppendBytes([]byte{0x0a}, entry) // Struct.fields
			return protowire.AppendBytes(protowire.AppendTag(slices.Clone(b), f.Number(), protowire.BytesType), content)
		}
		return b
	}},
	{"an overlong varint", func(d *draw, md protoreflect.MessageDescriptor, b []byte) []byte {
		b = slices.Clone(b)
		if d.oneIn(2) {
			b = protowire.AppendTag(b, d.fieldNumber(md), protowire.VarintType)
		}
		b = append(b, bytes.Repeat([]byte{pick(d, []byte{0x80, 0xff})}, 1+d.IntN(20))...)
		return append(b, pick(d, []byte{0, 1, 0x7f}))
	}},
	{"a length beyond the end", func(d *draw, md protoreflect.MessageDescriptor, b []byte) []byte {
		b = protowire.AppendTag(slices.Clone(b), d.fieldNumber(md), protowire.BytesType)
		return protowire.AppendVarint(b, pick(d, []uint64{1, 1 << 20, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1<<63 - 1, 1 << 63, 1<<64 - 1}))
	}},
	{"unknown fields", func(d *draw, _ protoreflect.MessageDescriptor, b []byte) []byte {
		b = slices.Clone(b)
		for range 1 + d.IntN(4) {
			b = protowire.AppendVarint(b, uint64(pick(d, []uint32{0, 99, 1000, 19_000, 1<<29 - 1}))<<3|uint64(d.IntN(8)))
			b = append(b, pick(d, [][]byte{{1}, {0}, {4, 1, 2, 3, 4}, make([]byte, 8)})...)
		}
		return b
	}},
	{"wrong wire types", func(d *draw, md protoreflect.MessageDescriptor, b []byte) []byte {
		b = slices.Clone(b)
		for range 1 + d.IntN(3) {
			b = protowire.AppendVarint(b, uint64(d.fieldNumber(md))<<3|uint64(d.IntN(8)))
			b = append(b, pick(d, [][]byte{{1}, {4, 1, 2, 3, 4}, make([]byte, 8)})...)
		}
		return b
	}},
	{"no UTF-8", func(d *draw, md protoreflect.MessageDescriptor, b []byte) []byte {
		for i := range md.Fields().Len() {
			if f := md.Fields().Get(i); f.Kind() == protoreflect.StringKind && d.oneIn(2) {
				b = protowire.AppendTag(slices.Clone(b), f.Number(), protowire.BytesType)
				return protowire.AppendBytes(b, pick(d, [][]byte{{0xff}, {0xc0, 0x80}, {0xed, 0xa0, 0x80}, {0xf4, 0x90, 0x80, 0x80}, {'a', 0xe7}}))
			}
		}
		return b
	}},
	{"a huge string", func(d *draw, md protoreflect.MessageDescriptor, b []byte) []byte {
		b = protowire.AppendTag(slices.Clone(b), d.fieldNumber(md), protowire.BytesType)
		return protowire.AppendBytes(b, bytes.Repeat([]byte{'a'}, 1<<(12+d.IntN(10))))
	}},
}

// split returns a message's fields, as far as it can be read.
func split(b []byte) (fields [][]byte) {
	for len(b) > 0 {
		_, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return append(fields, b)
		}
		fields = append(fields, b[:n])
		b = b[n:]
	}
	return fields
}

// fieldNumber is one of the message's, or another.
func (d *draw) fieldNumber(md protoreflect.MessageDescriptor) protowire.Number {
	if n := md.Fields().Len(); n > 0 && !d.oneIn(4) {
		return md.Fields().Get(d.IntN(n)).Number()
	}
	return protowire.Number(1 + d.IntN(60))
}

// spoil changes a message in one place, here or in a message within. It says how.
func (d *draw) spoil(md protoreflect.MessageDescriptor, b []byte) (_ []byte, how string) {
	if !d.oneIn(3) {
		if out, how, found := d.spoilWithin(md, b); found {
			return out, how
		}
	}
	s := pick(d, spoilings)
	return s.do(d, md, b), s.name
}

// spoilWithin changes one of the messages within, and makes the lengths around it right.
func (d *draw) spoilWithin(md protoreflect.MessageDescriptor, b []byte) (_ []byte, how string, found bool) {
	fields := split(b)
	for _, i := range d.Perm(len(fields)) {
		num, typ, n := protowire.ConsumeTag(fields[i])
		if n < 0 || typ != protowire.BytesType {
			continue
		}
		f := md.Fields().ByNumber(num)
		content, used := protowire.ConsumeBytes(fields[i][n:])
		if f == nil || f.Message() == nil || used < 0 {
			continue
		}
		inner, how := d.spoil(f.Message(), content)
		fields[i] = protowire.AppendBytes(protowire.AppendTag(nil, num, typ), inner)
		return bytes.Join(fields, nil), how + " in " + string(f.Name()), true
	}
	// An empty message within is one too.
	for i := range md.Fields().Len() {
		if f := md.Fields().Get(i); f.Message() != nil && d.oneIn(3) {
			inner, how := d.spoil(f.Message(), nil)
			return protowire.AppendBytes(protowire.AppendTag(slices.Clone(b), f.Number(), protowire.BytesType), inner), how + " in " + string(f.Name()), true
		}
	}
	return b, "", false
}

// emptyItems adds very many empty items of a list, or the empty message that a field holds.
func (d *draw) emptyItems(md protoreflect.MessageDescriptor, most int) (chunk, bool) {
	for _, i := range d.Perm(md.Fields().Len()) {
		if f := md.Fields().Get(i); f.IsList() && f.Kind() != protoreflect.BytesKind || f.Message() != nil && d.oneIn(3) {
			item := append(protowire.AppendTag(nil, f.Number(), protowire.BytesType), 0)
			return chunk{bytes: item, repeat: most >> d.IntN(6)}, true
		}
	}
	return chunk{}, false
}
