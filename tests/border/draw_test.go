//go:build linux

package border

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/schema"
)

// draw makes messages: mostly what could be meant, of the world's words.
type draw struct {
	*rand.Rand
	world *world
	// now is what timestamps lie around.
	now time.Time
	// learned are tokens, cursors and ids that answers had, the last ones.
	learned map[string][]string
	// budget is about how many bytes the message under way may still grow.
	budget int
	// ends is set while a message is drawn that ends what it names: the world's first three delegations and sessions live on,
	// so that there is something to decide about.
	ends bool
}

// oneIn is true once in n times.
func (d *draw) oneIn(n int) bool { return d.IntN(n) == 0 }

func pick[T any](d *draw, from []T) T { return from[d.IntN(len(from))] }

// objects are what there is, and some that are not there.
var objects = []string{
	"user:alice", "user:bob", "user:carol", "user:dave", "service:nightly", "tenant:acme", "tenant:globex", "agent:bot", "agent:sub",
	"group:staff", "group:all", "folder:home", "folder:sub", "folder:away", "document:plan", "document:bobs", "document:deep",
	"document:daily", "document:listed", "document:away", "document:nowhere", "ring:1", "user:*", "user:nobody", "nothing:x",
}

// words are the values that fields of a name usually have.
var words = map[string][]string{
	"type":       {"user", "service", "tenant", "agent", "delegation", "session", "group", "folder", "document", "ring", "nothing"},
	"id":         {"alice", "bob", "carol", "plan", "bobs", "deep", "daily", "home", "sub", "acme", "bot", "1", "x1", "x2", "x3"},
	"agent":      {"bot", "sub", "nobody", "bot2", "bot3"},
	"tenant":     {"acme", "globex", "nowhere"},
	"owner":      {"carol", "alice", "nobody"},
	"permission": {"view", "edit", "viewer", "tenant", "access", "reader", "member", "nothing"},
	"relation":   {"reader", "member", "folder", "parent", "by_day", "until", "listed", "editor", "direct", "tenant", "agent", "banned", "..."},
	"caveat":     {"office_hours", "listed", "issued", "nothing"},
	"counter":    {"counter1", "counter2"},
	"key":        {"key1", "key2", "key3"},
	"service":    {"", "deputy.v1.PermissionsService", "deputy.evaluator", "authzed.api.v1.PermissionsService", "nothing"},
	"symbol":     {"deputy.v1.PermissionsService", "authzed.api.v1.Relationship", "grpc.health.v1.Health", "nothing.at.All"},
	"file":       {"deputy/v1/core.proto", "authzed/api/v1/core.proto", "google/protobuf/struct.proto", "nothing.proto"},
	"schema": {
		schema.Core + domain, schema.Core, "definition user {}", "definition x { relation a: x#a | user; permission b = a - b }",
		"caveat c(x int) { x > 1 && }", schema.Core + domain + "\ndefinition extra { relation tenant: tenant }", "definition \x00 {", "use partial\n",
	},
}

// nasty are values that nothing expects.
var nasty = []string{
	"", "*", " ", "=41", "a:b", "a#b@c", "../../etc/passwd", "\x00", "\u202e\ufeff", "é", "user:alice", "%s%d%n", "${x}", "'; --",
	strings.Repeat("a", 129), strings.Repeat("a", 1025), strings.Repeat("\u754c", 500), "_", "-", "/", "|", "A", "1", "tenant#member", "...",
}

// kindOf returns which words a string field has.
func kindOf(name string) string {
	switch {
	case strings.Contains(name, "session_id"):
		return "$session"
	case strings.Contains(name, "delegation_id"):
		return "$delegation"
	case strings.Contains(name, "token"), strings.Contains(name, "cursor"):
		return "$token"
	}
	for _, one := range []struct{ part, kind string }{
		{"agent", "agent"},
		{"tenant", "tenant"},
		{"owner", "owner"},
		{"type", "type"},
		{"definition", "type"},
		{"permission", "permission"},
		{"relation", "relation"},
		{"caveat", "caveat"},
		{"counter", "counter"},
		{"name", "counter"},
		{"key", "key"},
		{"schema", "schema"},
		{"symbol", "symbol"},
		{"file", "file"},
		{"service", "service"},
		{"id", "id"},
	} {
		if strings.Contains(name, one.part) {
			return one.kind
		}
	}
	return "id"
}

// text draws a string for a field.
func (d *draw) text(field protoreflect.FieldDescriptor) string {
	switch n := d.IntN(100); {
	case n < 6:
		return pick(d, nasty)
	case n < 7 && d.budget > 0:
		length := 1 << d.IntN(18)
		d.budget -= length
		return strings.Repeat("a", length)
	}
	kind := kindOf(string(field.Name()))
	if strings.Contains(string(field.Parent().FullName()), "grpc.health") {
		kind = "service"
	}
	switch kind {
	case "$session", "$delegation":
		return d.mintedLike(kind[1:])
	case "$token":
		if strings.HasPrefix(string(field.Parent().FullName()), "authzed.") != d.oneIn(5) {
			return d.mintedLike("zedtoken")
		}
		return d.mintedLike("token")
	}
	return pick(d, words[kind])
}

// mintedLike draws a value of those that the server made, early or in this run.
func (d *draw) mintedLike(kind string) string {
	// As much is drawn whatever was learned.
	early, digit, late := d.oneIn(2), d.IntN(4), d.Uint32()
	if d.ends {
		early, digit = early && d.learned[kind] == nil, 3
	}
	if known := d.learned[kind]; len(known) > 0 && !early {
		if value := known[late%uint32(len(known))]; !d.ends || !slices.Contains(slices.Collect(maps.Values(d.world.minted)), value) {
			return value
		}
	}
	if strings.HasSuffix(kind, "token") {
		digit = 0
	}
	return d.world.value(kind + strconv.Itoa(digit))
}

// message draws a message of a type.
func (d *draw) message(md protoreflect.MessageDescriptor, depth int) protoreflect.Message {
	mt, err := protoregistry.GlobalTypes.FindMessageByName(md.FullName())
	if err != nil {
		panic(err) // every registered method has registered messages
	}
	m := mt.New()
	if known := d.wellKnown(md.FullName()); known != nil {
		return known
	}
	d.budget -= 8
	fields := md.Fields()
	oneofs := map[protoreflect.OneofDescriptor]protoreflect.FieldDescriptor{}
	for i := range md.Oneofs().Len() {
		if o := md.Oneofs().Get(i); !d.oneIn(6) {
			oneofs[o] = o.Fields().Get(d.IntN(o.Fields().Len()))
		}
	}
	for i := range fields.Len() {
		f := fields.Get(i)
		rare := strings.Contains(string(f.Name()), "cursor") || f.Name() == "consistency"
		if o := f.ContainingOneof(); o != nil && oneofs[o] != f || d.oneIn(5) || depth > 8 || rare && !d.oneIn(3) {
			continue
		}
		switch {
		case f.IsMap():
			value := m.Mutable(f).Map()
			for range d.IntN(3) {
				value.Set(d.scalar(f.MapKey()).MapKey(), d.value(f.MapValue(), depth))
			}
		case f.IsList():
			list := m.Mutable(f).List()
			for range d.count() {
				list.Append(d.value(f, depth))
			}
		default:
			m.Set(f, d.value(f, depth))
		}
	}
	d.cohere(m)
	return m
}

// count draws how many items a list has.
func (d *draw) count() int {
	switch n := d.IntN(100); {
	case n < 90:
		return d.IntN(4)
	case n < 98:
		return min(20, max(0, d.budget/8))
	default:
		return min(1001, max(0, d.budget/8))
	}
}

func (d *draw) value(f protoreflect.FieldDescriptor, depth int) protoreflect.Value {
	if f.Message() != nil {
		return protoreflect.ValueOfMessage(d.message(f.Message(), depth+1))
	}
	return d.scalar(f)
}

func (d *draw) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	number := pick(d, []int64{0, 0, 1, 2, 10, 100, 1000, 1001, 100_000, -1, math.MaxInt32, math.MaxInt64, math.MinInt64})
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(d.oneIn(2))
	case protoreflect.EnumKind:
		if d.oneIn(12) {
			return protoreflect.ValueOfEnum(protoreflect.EnumNumber(number))
		}
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(d.IntN(f.Enum().Values().Len())).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(number))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(number))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(number)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(number))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(d.float()))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(d.float())
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(d.text(f)))
	default:
		return protoreflect.ValueOfString(d.text(f))
	}
}

func (d *draw) float() float64 {
	return pick(d, []float64{0, 1, 10, -1, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, 12.5, 1e300})
}

// wellKnown draws Google's messages, and references, which as a whole make sense.
func (d *draw) wellKnown(name protoreflect.FullName) protoreflect.Message {
	switch name {
	case "google.protobuf.Struct":
		return d.context().ProtoReflect()
	case "google.protobuf.Duration":
		if d.oneIn(8) {
			return (&durationpb.Duration{Seconds: pick(d, []int64{-1, math.MaxInt64, 315_576_000_001}), Nanos: pick(d, []int32{-1, 2e9, 1})}).ProtoReflect()
		}
		return durationpb.New(pick(d, []time.Duration{0, time.Nanosecond, time.Second, time.Minute, time.Hour, 24 * time.Hour})).ProtoReflect()
	case "google.protobuf.Timestamp":
		if d.oneIn(8) {
			return (&timestamppb.Timestamp{Seconds: pick(d, []int64{-1, math.MaxInt64, math.MinInt64}), Nanos: pick(d, []int32{-1, 2e9, 1})}).ProtoReflect()
		}
		return timestamppb.New(d.now.Add(pick(d, []time.Duration{-time.Hour, time.Second, time.Hour}))).ProtoReflect()
	}
	return nil
}

// context draws the context of a caveat.
func (d *draw) context() *structpb.Struct {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for range d.IntN(4) {
		name := pick(d, []string{"hour", "allowed", "name", "at", "from", "x", "", "key", "until"})
		s.Fields[name] = d.contextValue(0)
	}
	return s
}

func (d *draw) contextValue(depth int) *structpb.Value {
	switch d.IntN(9) {
	case 0:
		return structpb.NewNullValue()
	case 1:
		return structpb.NewBoolValue(true)
	case 2:
		return structpb.NewStringValue(pick(d, []string{"a", "10.1.2.3", "2026-01-01T00:00:00Z", "1e400", "", strings.Repeat("9", 400)}))
	case 3, 4:
		if depth > 60 {
			return &structpb.Value{}
		}
		list := &structpb.ListValue{}
		for range 1 + d.IntN(2) {
			list.Values = append(list.Values, d.contextValue(depth+1))
		}
		return structpb.NewListValue(list)
	case 5:
		if depth > 60 {
			return structpb.NewNullValue()
		}
		return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"a": d.contextValue(depth + 1)}})
	case 6:
		return &structpb.Value{}
	default:
		return structpb.NewNumberValue(d.float())
	}
}

// cohere makes fields that belong together fit, mostly.
func (d *draw) cohere(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	set := func(name protoreflect.Name, value string) {
		if f := fields.ByName(name); f != nil && f.Kind() == protoreflect.StringKind && !f.IsList() {
			m.Set(f, protoreflect.ValueOfString(value))
		}
	}
	if fields.ByName("object_type") != nil && fields.ByName("object_id") != nil && !d.oneIn(6) {
		kind, id, _ := strings.Cut(pick(d, objects), ":")
		set("object_type", kind)
		set("object_id", id)
	}
	if fields.ByName("optional_relation") != nil && !d.oneIn(4) {
		set("optional_relation", "")
	}
	if fields.ByName("via") == nil && m.Descriptor().Oneofs().ByName("via") != nil && !d.oneIn(4) {
		// Who acts in the world: the number is that of its delegation and session.
		number := d.IntN(4)
		actor := []struct{ agent, principal, tenant string }{
			{"bot", "user:alice", "acme"},
			{"bot", "user:bob", "acme"},
			{"bot", "user:dave", "globex"},
			{"sub", "service:nightly", "acme"},
		}[number]
		set("agent_id", actor.agent)
		set("tenant_id", actor.tenant)
		switch digit := string("0123"[number]); d.IntN(3) {
		case 0:
			set("session_id", d.world.value("session"+digit))
		case 1:
			set("delegation_id", d.world.value("delegation"+digit))
		}
		if f := fields.ByName("on_behalf_of"); f != nil {
			kind, id, _ := strings.Cut(actor.principal, ":")
			who := m.Mutable(f).Message()
			who.Set(who.Descriptor().Fields().ByName("object_type"), protoreflect.ValueOfString(kind))
			who.Set(who.Descriptor().Fields().ByName("object_id"), protoreflect.ValueOfString(id))
		}
	}
}

// request draws a message of a method's, encoded.
func (d *draw) request(m method) []byte {
	d.budget, d.ends = 1<<18, m.Name() == "EndSession" || m.Name() == "RevokeDelegation"
	message := d.seed(m)
	if message == nil || d.oneIn(2) {
		message = d.message(m.Input(), 0).Interface()
	} else if !d.oneIn(3) {
		message = proto.Clone(message) // parts of it may be one
		for range 1 + d.IntN(3) {
			d.redraw(message.ProtoReflect())
		}
	}
	b, err := proto.MarshalOptions{AllowPartial: true, Deterministic: true}.Marshal(message)
	if err != nil {
		return nil // a string that is no UTF-8; spoil makes those too
	}
	return b
}

// learn keeps what an answer's first message has of tokens, cursors and ids.
func (d *draw) learn(m method, b []byte) {
	mt, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
	if err != nil {
		return
	}
	answer := mt.New()
	if proto.Unmarshal(b, answer.Interface()) == nil {
		d.learnFrom(answer, 0)
	}
}

func (d *draw) learnFrom(m protoreflect.Message, depth int) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() == protoreflect.StringKind && !f.IsList():
			kind, minted := strings.CutPrefix(kindOf(string(f.Name())), "$")
			if kind == "token" && strings.HasPrefix(string(m.Descriptor().FullName()), "authzed.") {
				kind = "zedtoken"
			}
			if text := v.String(); minted && text != d.world.keptSession && text != d.world.keptDelegation {
				d.learned[kind] = append(d.learned[kind], text)
				if known := d.learned[kind]; len(known) > 16 {
					d.learned[kind] = known[1:]
				}
			}
		case f.Message() != nil && !f.IsMap() && depth < 5:
			if !f.IsList() {
				d.learnFrom(v.Message(), depth+1)
			} else if v.List().Len() > 0 {
				d.learnFrom(v.List().Get(0).Message(), depth+1)
			}
		}
		return true
	})
}
