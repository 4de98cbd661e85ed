package wire

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// TestInspectJSONRefuses: what is wrong with a message is named, with the place, the wrong word, and what there is instead.
func TestInspectJSONRefuses(t *testing.T) {
	check, bulk := &deputyv1.CheckPermissionRequest{}, &deputyv1.CheckBulkPermissionsRequest{}
	for name, c := range map[string]struct {
		of      proto.Message
		text    string
		says    string
		message string
	}{
		"nothing":                     {check, ``, "the request is no JSON: it ends too early", ""},
		"half":                        {check, `{"agentId":`, "the request is no JSON: it ends too early", ""},
		"no JSON":                     {check, `agentId=bot`, "the request is no JSON: ", ""},
		"two values":                  {check, `{} {}`, "the request has more than one JSON value", ""},
		"no object":                   {check, `[]`, "the request has to be a JSON object", ""},
		"a string":                    {check, `"x"`, "the request has to be a JSON object", ""},
		"unknown at the top":          {check, `{"agnetId":"bot"}`, `the request has no field "agnetId"; it has actorToken, agentId, consistency, context,`, ""},
		"another case":                {check, `{"AgentId":"bot"}`, `the request has no field "AgentId"; it has`, ""},
		"unknown in a message":        {check, `{"resource":{"type":"document"}}`, `resource has no field "type"; it has objectId, objectType`, ""},
		"unknown in the third item":   {bulk, `{"items":[{},{},{"x":1}]}`, `items[2] has no field "x"`, ""},
		"unknown deep in an item":     {bulk, `{"items":[{},{"resource":{"x":1}}]}`, `items[1].resource has no field "x"`, ""},
		"a list for a message":        {check, `{"resource":[]}`, "resource has to be a JSON object", ""},
		"a message for a list":        {bulk, `{"items":{}}`, "items has to be a JSON array", ""},
		"a message for a string":      {check, `{"permission":{}}`, "permission has to be one value, not an object or an array", ""},
		"no string for a time":        {&deputyv1.StartSessionRequest{}, `{"ttl":60}`, "ttl has to be a string", ""},
		"an infinite number":          {check, `{"context":{"a":1e999}}`, "context.fields[0] is the number 1e999", ""},
		"too deep":                    {check, `{"context":{"a":` + strings.Repeat("[", 60) + strings.Repeat("]", 60) + `}}`, "the request is nested deeper than 100 levels", ""},
		"thousands of levels":         {check, `{"context":{"a":` + strings.Repeat(`{"a":`, 5000) + `1` + strings.Repeat("}", 5001) + `}`, "the request is nested deeper than 100 levels", ""},
		"too many items":              {bulk, `{"items":[` + strings.Repeat("{},", 1000) + `{}]}`, "items has more than 1000 elements", ""},
		"too many of a context's":     {check, `{"context":{"a":[` + strings.Repeat("1,", 1000) + `1]}}`, "context.fields[0] has more than 1000 elements", ""},
		"a number that is no enum":    {&deputyv1.QueryRecordsRequest{}, `{"kinds":["RECORD_KIND_X"]}`, "", `kinds is "RECORD_KIND_X" at line 1:11, and has to be one of RECORD_KIND_UNSPECIFIED, RECORD_KIND_`},
		"a field twice":               {check, `{"agentId":"a","agent_id":"b"}`, "", "duplicate field"},
		"a number for a string":       {check, `{"agentId":7}`, "", "agentId is 7 at line 1:12, and has to be a string"},
		"a string for a switch":       {&deputyv1.StartSessionRequest{}, `{"frozen":"yes"}`, "", `frozen is "yes" at line 1:11, and has to be true or false`},
		"a number below zero":         {&deputyv1.ListAgentsRequest{}, `{"limit":-1}`, "", "limit is -1 at line 1:10, and has to be a whole number from 0 on that fits into 32 bits"},
		"deep in a message":           {check, `{"resource":{"objectId":true}}`, "", "objectId is true at line 1:25, and has to be a string"},
		"both of one":                 {check, `{"sessionId":"a","delegationId":"b"}`, "", "oneof"},
		"a null in a list":            {bulk, `{"items":[null]}`, "items[0] has to be a JSON object", ""},
		"a string that is not UTF-8":  {check, "{\"agentId\":\"\xff\"}", "", "UTF-8"},
		"half of a surrogate":         {check, `{"agentId":"\ud800"}`, "", ""},
		"a key of a context twice":    {check, `{"context":{"a":1,"a":2}}`, "", "duplicate"},
		"a number that overflows":     {&deputyv1.ListAgentsRequest{}, `{"limit":4294967296}`, "", "limit is 4294967296 at line 1:10, and has to be a whole number"},
		"a number with a fraction":    {&deputyv1.ListAgentsRequest{}, `{"limit":1.5}`, "", "limit is 1.5 at line 1:10, and has to be a whole number"},
		"a duration without its unit": {&deputyv1.StartSessionRequest{}, `{"ttl":"60"}`, "", `the request has "60" at line 1:8, and has to have a duration such as "3600s" there`},
	} {
		_, _, err := typeOf(c.of).inspectJSON([]byte(c.text), 1000, false)
		if c.says != "" {
			fault, ok := errors.AsType[*Fault](err)
			if !ok || !strings.HasPrefix(fault.Error(), c.says) {
				t.Errorf("%s: got %v, want %q", name, err, c.says)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: the scan refuses it: %v", name, err)
		}
		err = (&Message{bytes: []byte(c.text), json: true}).Decode(c.of.ProtoReflect().New().Interface())
		if authz.KindOf(err) != authz.Invalid || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s: got %v, want %q", name, err, c.message)
		}
	}
}

// TestInspectJSONCountsAsInspect: a message takes as much, and is refused for as much, whichever way it is written.
func TestInspectJSONCountsAsInspect(t *testing.T) {
	const seed = 18
	r := rand.New(rand.NewPCG(seed, seed))
	kinds := []proto.Message{
		&deputyv1.CheckPermissionRequest{}, &deputyv1.CheckBulkPermissionsRequest{}, &deputyv1.StartSessionRequest{}, &deputyv1.CreateDelegationRequest{},
		&deputyv1.QueryRecordsRequest{}, &deputyv1.FilterResourcesRequest{}, &deputyv1.BrakeRequest{}, &deputyv1.ReadReachRequest{},
	}
	refused := 0
	for i := range 3000 {
		m := kinds[i%len(kinds)].ProtoReflect().New()
		draw(r, m, 4)
		text, err := protojson.MarshalOptions{UseProtoNames: i%2 == 0}.Marshal(m.Interface())
		if err != nil {
			t.Fatal(err)
		}
		of := typeOf(m.Interface())
		decoded, elements, want := of.inspect(encoded(t, m.Interface()), 2, false)
		decodedJSON, elementsJSON, got := of.inspectJSON(text, 2, false)
		if fmt.Sprint(got != nil) != fmt.Sprint(want != nil) {
			t.Fatalf("%s: as JSON %v, in protobuf's encoding %v", text, got, want)
		}
		if want != nil {
			refused++
			continue
		}
		if decoded != decodedJSON || elements != elementsJSON {
			t.Fatalf("%s: as JSON it takes %d and has %d elements, in protobuf's encoding %d and %d", text, decodedJSON, elementsJSON, decoded, elements)
		}
		back := m.New().Interface()
		if err := (&Message{bytes: text, json: true}).Decode(back); err != nil || !proto.Equal(back, m.Interface()) {
			t.Fatalf("%s: decoded as %v, %v", text, back, err)
		}
	}
	if refused < 100 || refused > 2900 {
		t.Errorf("%d of 3000 messages were refused: the test draws too alike", refused)
	}
}

// draw sets some fields of a message to values that are not their zero: those protobuf's encoding leaves out, as JSON does.
func draw(r *rand.Rand, m protoreflect.Message, levels int) {
	if s, ok := m.Interface().(*structpb.Struct); ok {
		s.Fields = map[string]*structpb.Value{}
		for i := range r.IntN(4) {
			s.Fields[fmt.Sprintf("key-%d", i)] = drawValue(r, levels)
		}
		return
	}
	switch m.Descriptor().FullName() {
	case "google.protobuf.Timestamp", "google.protobuf.Duration":
		m.Set(m.Descriptor().Fields().ByName("seconds"), protoreflect.ValueOfInt64(int64(r.IntN(1000)+1)))
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case r.IntN(3) == 0 || f.IsMap() || f.Message() != nil && levels == 0:
		case f.IsList():
			list := m.Mutable(f).List()
			for range r.IntN(4) {
				if f.Message() != nil {
					draw(r, list.AppendMutable().Message(), levels-1)
				} else {
					list.Append(scalar(r, f))
				}
			}
		case f.Message() != nil:
			draw(r, m.Mutable(f).Message(), levels-1)
		default:
			m.Set(f, scalar(r, f))
		}
	}
}

func drawValue(r *rand.Rand, levels int) *structpb.Value {
	switch kind := r.IntN(6); {
	case kind == 0:
		return structpb.NewNullValue()
	case kind == 1:
		return structpb.NewNumberValue(float64(r.IntN(1000)) / 8)
	case kind == 2 || levels == 0:
		return structpb.NewStringValue(strings.Repeat("é\"\\", r.IntN(4)))
	case kind == 3:
		return structpb.NewBoolValue(r.IntN(2) == 0)
	case kind == 4:
		list := &structpb.ListValue{}
		for range r.IntN(4) {
			list.Values = append(list.Values, drawValue(r, levels-1))
		}
		return structpb.NewListValue(list)
	default:
		s := &structpb.Struct{}
		draw(r, s.ProtoReflect(), levels-1)
		return structpb.NewStructValue(s)
	}
}

func scalar(r *rand.Rand, f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(r.IntN(f.Enum().Values().Len()-1) + 1).Number())
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strings.Repeat("aé\n", r.IntN(9)+1))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("x"))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(r.IntN(99) + 1))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(r.IntN(99) + 1))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(r.IntN(99) + 1))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(r.IntN(99) + 1))
	default:
		panic("the test draws no " + f.Kind().String())
	}
}

// FuzzInspectJSON: what the scan lets pass and the decoder takes is within the limits of protobuf's encoding, and takes no more than was counted;
// and the scan refuses nothing that the decoder takes, but for its limits.
func FuzzInspectJSON(f *testing.F) {
	for _, seed := range []string{
		`{"agentId":"bot","resource":{"objectType":"document","objectId":"plan"},"context":{"a":[1,{"b":null}]}}`, `{"items":[{},{"context":{}}]}`,
		`{"kinds":[1,"RECORD_KIND_READ"],"from":"2026-11-24T05:19:56Z","limit":"7"}`, `{"context":null,"agent_id":null}`, `{"a":`, `[]`, `{"items":[null]}`,
	} {
		f.Add([]byte(seed))
	}
	kinds := []proto.Message{&deputyv1.CheckPermissionRequest{}, &deputyv1.CheckBulkPermissionsRequest{}, &deputyv1.QueryRecordsRequest{}, &deputyv1.StartSessionRequest{}}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, kind := range kinds {
			of := typeOf(kind)
			decoded, elements, refused := of.inspectJSON(text, 1000, false)
			m := kind.ProtoReflect().New().Interface()
			if err := (&Message{bytes: text, json: true}).Decode(m); err != nil {
				continue
			}
			if refused != nil {
				if !strings.Contains(refused.Error(), "nested deeper") && !strings.Contains(refused.Error(), "elements") {
					t.Errorf("%s is refused, and the decoder takes it: %v", text, refused)
				}
				continue
			}
			takes, has, err := of.inspect(encoded(t, m), 1000, false)
			if err != nil || takes > decoded || has != elements {
				t.Errorf("%s takes %d and has %d elements, and %d and %d were counted: %v", text, takes, has, decoded, elements, err)
			}
		}
	})
}
