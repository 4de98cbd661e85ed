package wire

import (
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

func typeOf(m proto.Message) Type { return TypeOf(m.ProtoReflect().Descriptor()) }

// enc encodes a field that holds bytes.
func enc(number protowire.Number, value ...byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
}

// tag encodes the beginning of a field.
func tag(number protowire.Number, wire protowire.Type) []byte {
	return protowire.AppendTag(nil, number, wire)
}

func encoded(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nested is a context of so many levels.
func nested(levels int) *structpb.Struct {
	v := structpb.NewStringValue("x")
	for range levels {
		v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{"a": v}}
}

func TestInspectRefuses(t *testing.T) {
	check := &deputyv1.CheckPermissionRequest{}
	bulk := &deputyv1.CheckBulkPermissionsRequest{}
	one := tag(999, protowire.VarintType)
	one = append(one, 1)
	for name, c := range map[string]struct {
		of       proto.Message
		encoding []byte
		path     string
		number   int
		message  string
	}{
		"unknown at the top":             {check, one, "", 999, "the request has no field with the number 999"},
		"unknown in a message":           {check, enc(fieldOf(check, "resource"), one...), "resource", 999, "resource has no field with the number 999"},
		"unknown in the third item":      {bulk, slices.Concat(enc(1), enc(1), enc(1, one...)), "items[2]", 999, ""},
		"unknown deep in an item":        {bulk, slices.Concat(enc(1), enc(1, enc(fieldOf(&deputyv1.CheckBulkPermissionsRequestItem{}, "resource"), one...)...)), "items[1].resource", 999, ""},
		"unknown in a context":           {check, enc(fieldOf(check, "context"), enc(1, slices.Concat(enc(1, 'k'), enc(2, one...))...)...), "context.fields[0].value", 999, ""},
		"unknown in an entry":            {check, enc(fieldOf(check, "context"), enc(1, one...)...), "context.fields[0]", 999, ""},
		"unknown group":                  {check, []byte{0x93, 0x3f, 0x94, 0x3f}, "", 1010, ""},
		"a group for a message":          {&v1.ReadRelationshipsRequest{}, append(tag(2, protowire.StartGroupType), tag(2, protowire.EndGroupType)...), "", 2, ""},
		"a number for a string":          {check, append(tag(fieldOf(check, "permission"), protowire.VarintType), 1), "", int(fieldOf(check, "permission")), ""},
		"a string for a number":          {&deputyv1.ListAgentsRequest{}, enc(fieldOf(&deputyv1.ListAgentsRequest{}, "limit"), 'x'), "", int(fieldOf(&deputyv1.ListAgentsRequest{}, "limit")), ""},
		"a group that ends as another's": {&v1.ReadRelationshipsRequest{}, []byte{0x12, 0x04, 0x93, 0x03, 0x9c, 0x03}, "relationship_filter", 0, ""},
		"an end without a group":         {check, tag(1, protowire.EndGroupType), "", 0, ""},
		"a group without an end":         {check, tag(1, protowire.StartGroupType), "", 0, ""},
		"field zero":                     {check, []byte{0x00, 0x01}, "", 0, ""},
		"field out of range":             {check, []byte{0xf8, 0xff, 0xff, 0xff, 0xff, 0x01, 0x01}, "", 0, ""},
		"a tag without a value":          {check, tag(1, protowire.BytesType), "", 0, ""},
		"longer than it is":              {check, []byte{0x0a, 0x7f, 'x'}, "", 0, ""},
		"a length that wraps":            {check, append(tag(1, protowire.BytesType), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01), "", 0, ""},
		"a varint of eleven bytes":       {&deputyv1.ListAgentsRequest{}, append(tag(1, protowire.VarintType), slices.Repeat([]byte{0x80}, 11)...), "", 0, ""},
		"wire type seven":                {check, []byte{0x0f}, "", 0, ""},
		"packed numbers that break off":  {&v1.WatchRequest{}, enc(fieldOf(&v1.WatchRequest{}, "optional_update_kinds"), 1, 0x93), "", 0, "the request is malformed"},
		"no number": {
			check, encoded(t, &deputyv1.CheckPermissionRequest{Context: &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewNumberValue(math.NaN())}}}),
			"context.fields[0].value", 0, "",
		},
		"infinite": {
			check, encoded(t, &deputyv1.CheckPermissionRequest{Context: &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewNumberValue(math.Inf(-1))}}}),
			"context.fields[0].value", 0, "",
		},
		"a value of no kind": {
			check, encoded(t, &deputyv1.CheckPermissionRequest{Context: &structpb.Struct{Fields: map[string]*structpb.Value{"a": {}}}}),
			"context.fields[0].value", 0, "",
		},
		"an entry without its value": {check, enc(fieldOf(check, "context"), enc(1, enc(1, 'k')...)...), "context.fields[0]", 0, ""},
		"too deep":                   {check, encoded(t, &deputyv1.CheckPermissionRequest{Context: nested(60)}), "context", 0, "context is nested deeper than 100 levels"},
		"thousands of levels":        {check, enc(fieldOf(check, "context"), deep(5000)...), "context", 0, ""},
		"too many items":             {bulk, slices.Repeat(enc(1), 1001), "items", 1, "items has more than 1000 elements"},
		"too many of a context's":    {check, enc(fieldOf(check, "context"), slices.Repeat(enc(1, enc(2, 0x08, 0)...), 1001)...), "context.fields", 1, ""},
	} {
		_, err := typeOf(c.of).Inspect(c.encoding, 1000)
		fault, ok := errors.AsType[*Fault](err)
		if !ok || fault.Path != c.path || fault.Number != c.number || c.message != "" && fault.Error() != c.message {
			t.Errorf("%s: got %v, want field %d in %q, %q", name, err, c.number, c.path, c.message)
		}
	}
}

func fieldOf(m proto.Message, name protoreflect.Name) protowire.Number {
	return m.ProtoReflect().Descriptor().Fields().ByName(name).Number()
}

// deep is the encoding of a struct that is nested so often in itself.
func deep(levels int) (inner []byte) {
	for range levels {
		inner = enc(1, enc(2, enc(5, inner...)...)...)
	}
	return inner
}

// TestInspectTakesOddForms: what is merely unusual passes, and Google's decoder reads it.
func TestInspectTakesOddForms(t *testing.T) {
	read := &v1.ReadRelationshipsRequest{}
	filter := fieldOf(read, "relationship_filter")
	for name, b := range map[string][]byte{
		"empty":                    nil,
		"a message in two halves":  slices.Concat(enc(filter, enc(1, 'a', 'b')...), enc(filter, enc(2, 'c')...)),
		"a field twice":            slices.Concat(enc(filter), enc(filter, enc(1, 'a')...)),
		"an overlong length":       slices.Concat(tag(filter, protowire.BytesType), []byte{0x80, 0x80, 0x00}),
		"an overlong tag":          {byte(filter<<3) | 2 | 0x80, 0x00, 0x00},
		"an overlong number":       append(tag(fieldOf(read, "optional_limit"), protowire.VarintType), 0x85, 0x80, 0x00),
		"a number beyond its type": append(tag(fieldOf(read, "optional_limit"), protowire.VarintType), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01),
	} {
		if _, err := typeOf(read).Inspect(b, 10); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := proto.Unmarshal(b, read); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTolerantInspection passes over what a type does not have, and bounds it all the same.
func TestTolerantInspection(t *testing.T) {
	b := slices.Concat([]byte{0x93, 0x3f, 0x94, 0x3f}, enc(999, 'x'), append(tag(1, protowire.VarintType), 1))
	if _, _, err := typeOf(&deputyv1.ObjectReference{}).inspect(b, 10, true); err != nil {
		t.Error(err)
	}
	if _, _, err := typeOf(&deputyv1.ObjectReference{}).inspect([]byte{0x93, 0x3f, 0x9c, 0x3f}, 10, true); err == nil {
		t.Error("a group that ends as another's passed")
	}
}

// TestInspectCountsItems: what a call has of items is what its outermost lists have, and not what is within those.
func TestInspectCountsItems(t *testing.T) {
	check := &deputyv1.CheckPermissionRequest{AgentId: "bot", Context: nested(3)}
	item := &deputyv1.CheckBulkPermissionsRequestItem{AgentId: "bot", Context: nested(3)}
	for name, test := range map[string]struct {
		message proto.Message
		want    int
	}{
		"one question":     {check, 0},
		"three questions":  {&deputyv1.CheckBulkPermissionsRequest{Items: []*deputyv1.CheckBulkPermissionsRequestItem{item, item, item}}, 3},
		"lists in an item": {&deputyv1.ExplainPermissionRequest{Check: check}, 0},
	} {
		if _, items, err := typeOf(test.message).inspect(encoded(t, test.message), 10, false); err != nil || items != test.want {
			t.Errorf("%s: %d items, want %d (%v)", name, items, test.want, err)
		}
	}
}

// expensive are messages that take much more than their encodings.
func expensive(t testing.TB) map[string]proto.Message {
	t.Helper()
	bulk, imported, written := &deputyv1.CheckBulkPermissionsRequest{}, &v1.ImportBulkRelationshipsRequest{}, &v1.WriteRelationshipsRequest{}
	list, fields := &structpb.ListValue{}, map[string]*structpb.Value{}
	for i := range 20_000 {
		bulk.Items = append(bulk.Items, &deputyv1.CheckBulkPermissionsRequestItem{})
		imported.Relationships = append(imported.Relationships, &v1.Relationship{
			Resource: &v1.ObjectReference{ObjectType: "a", ObjectId: "b"}, Relation: "c", Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "d", ObjectId: "e"}},
		})
		written.Updates = append(written.Updates, &v1.RelationshipUpdate{Relationship: &v1.Relationship{OptionalCaveat: &v1.ContextualizedCaveat{Context: &structpb.Struct{}}}})
		list.Values = append(list.Values, structpb.NewBoolValue(true))
		fields[string(rune('a'+i%26))+string(rune(0x1000+i))] = structpb.NewNumberValue(1)
	}
	file := &descriptorpb.SourceCodeInfo_Location{}
	for range 500_000 {
		file.Path = append(file.Path, 1)
	}
	return map[string]proto.Message{
		"empty items": bulk, "an import": imported, "contexts": written, "a list": list, "a map": &structpb.Struct{Fields: fields},
		"packed numbers": file,
	}
}

// TestInspectCountsWhatDecodingTakes compares the count with what the decoder allocates.
func TestInspectCountsWhatDecodingTakes(t *testing.T) {
	for name, m := range expensive(t) {
		b := encoded(t, m)
		counted, err := typeOf(m).Inspect(b, 1_000_000)
		if err != nil {
			t.Fatal(err)
		}
		into := m.ProtoReflect().New().Interface()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		if err := proto.Unmarshal(b, into); err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		took := int(after.HeapAlloc) - int(before.HeapAlloc)
		runtime.KeepAlive(into)
		if took > counted || took < counted/5 {
			t.Errorf("%s: counted %d bytes, decoding took %d", name, counted, took)
		}
	}
}

// FuzzInspect: whatever passes, Google's decoder reads it, unless for a string that is not UTF-8, and finds no field that it does not
// know.
func FuzzInspect(f *testing.F) {
	types := []proto.Message{
		&v1.WriteRelationshipsRequest{}, &v1.ReadRelationshipsRequest{}, &v1.WatchRequest{}, &deputyv1.CheckPermissionRequest{},
		&deputyv1.StartSessionRequest{}, &descriptorpb.SourceCodeInfo_Location{}, &durationpb.Duration{},
	}
	f.Add(uint8(1), []byte{0x12, 0x04, 0x93, 0x03, 0x9c, 0x03})
	f.Add(uint8(2), []byte{0x1a, 0x04, 0x93, 0x03, 0x9c, 0x03})
	f.Add(uint8(3), encoded(f, &deputyv1.CheckPermissionRequest{Context: nested(3), Resource: &deputyv1.ObjectReference{ObjectType: "a"}}))
	f.Add(uint8(5), encoded(f, &descriptorpb.SourceCodeInfo_Location{Path: []int32{1, 2, -1}}))
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		m := types[int(which)%len(types)]
		counted, err := typeOf(m).Inspect(b, 1000)
		into := m.ProtoReflect().New().Interface()
		decode := proto.Unmarshal(b, into)
		switch {
		case err != nil:
			return
		case decode != nil && !strings.Contains(decode.Error(), "UTF-8"):
			t.Fatalf("%x passed, and cannot be decoded: %v", b, decode)
		case decode == nil && counted < proto.Size(into)/2:
			t.Fatalf("%x: counted %d bytes of %d", b, counted, proto.Size(into))
		}
		if decode == nil && hasUnknown(into.ProtoReflect()) {
			t.Fatalf("%x passed, with unknown fields: %v", b, into)
		}
	})
}

// hasUnknown reports whether the message, or one within it, has fields that its type does not.
func hasUnknown(m protoreflect.Message) bool {
	found := len(m.GetUnknown()) > 0
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap():
			value.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				found = found || field.MapValue().Message() != nil && hasUnknown(v.Message())
				return !found
			})
		case field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				found = found || hasUnknown(value.List().Get(i).Message())
			}
		default:
			found = found || hasUnknown(value.Message())
		}
		return !found
	})
	return found
}

// BenchmarkInspect is what every decision pays: compare with BenchmarkDecode, which it paid before.
func BenchmarkInspect(b *testing.B) {
	encoding, of := encoded(b, question()), typeOf(question())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := of.Inspect(encoding, 1000); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecode is what Google's decoder takes of the same.
func BenchmarkDecode(b *testing.B) {
	encoding := encoded(b, question())
	b.ReportAllocs()
	for b.Loop() {
		if err := proto.Unmarshal(encoding, &deputyv1.CheckPermissionRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}

func question() *deputyv1.CheckPermissionRequest {
	return &deputyv1.CheckPermissionRequest{
		AgentId: "triage-bot", OnBehalfOf: &deputyv1.ObjectReference{ObjectType: "user", ObjectId: "alice@example.com"}, TenantId: "acme",
		Resource: &deputyv1.ObjectReference{ObjectType: "document", ObjectId: "quarterly-plan"}, Permission: "view",
		Context: &structpb.Struct{Fields: map[string]*structpb.Value{"amount": structpb.NewNumberValue(3)}},
	}
}
