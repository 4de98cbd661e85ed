package confinement

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// answer is all that a caller gets: trees of maps, lists, texts and times.
type answer struct {
	Code, Message string
	Details, Body []any
	Trailer       any
	Pages         int
	// messages are those of all pages.
	messages []proto.Message
}

// method is a method that can be asked.
type method struct {
	full                   string
	in, out                protoreflect.MessageType
	fromClient, fromServer bool
}

func methodOf(full string) (method, error) {
	name := strings.Replace(strings.TrimPrefix(full, "/"), "/", ".", 1)
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return method{}, err
	}
	of, ok := found.(protoreflect.MethodDescriptor)
	if !ok {
		return method{}, fmt.Errorf("%s is no method", name)
	}
	in, err := protoregistry.GlobalTypes.FindMessageByName(of.Input().FullName())
	if err != nil {
		return method{}, err
	}
	out, err := protoregistry.GlobalTypes.FindMessageByName(of.Output().FullName())
	return method{full, in, out, of.IsStreamingClient(), of.IsStreamingServer()}, err
}

// call sends one request, and returns the messages that come back.
func (m method) call(ctx context.Context, conn *grpc.ClientConn, req proto.Message) (answers []proto.Message, trailer metadata.MD, err error) {
	if !m.fromClient && !m.fromServer {
		resp := m.out.New().Interface()
		var header metadata.MD
		if err := conn.Invoke(ctx, m.full, req, resp, grpc.Trailer(&trailer), grpc.Header(&header)); err != nil {
			return nil, metadata.Join(header, trailer), err
		}
		return []proto.Message{resp}, metadata.Join(header, trailer), nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: m.fromServer, ClientStreams: m.fromClient}, m.full)
	if err != nil {
		return nil, nil, err
	}
	if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, nil, err
	}
	for {
		resp := m.out.New().Interface()
		if err := stream.RecvMsg(resp); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return answers, stream.Trailer(), err
		}
		answers = append(answers, resp)
		if !m.fromServer || strings.HasSuffix(m.full, "/WatchPermission") { // a watch of what is allowed has no end
			return answers, stream.Trailer(), nil
		}
	}
}

// mostReasons is about how many reasons an explanation has at most; which ones it has then depends on the order of minted ids.
const mostReasons = 10

// maxPages is more than anything has here.
const maxPages = 100

// ask asks, and follows cursors to the end.
func (m method) ask(ctx context.Context, conn *grpc.ClientConn, req proto.Message) answer {
	var a answer
	for req != nil && a.Pages < maxPages {
		messages, trailer, err := m.call(ctx, conn, req)
		a.Pages++
		st := status.Convert(err)
		a.Code, a.Message, a.Trailer = st.Code().String(), st.Message(), trailerTree(trailer)
		for _, d := range st.Proto().GetDetails() {
			detail, err := d.UnmarshalNew()
			if err != nil {
				a.Details = append(a.Details, d.String())
				continue
			}
			a.Details = append(a.Details, tree(detail.ProtoReflect()))
		}
		for _, one := range messages {
			a.messages = append(a.messages, one)
			a.Body = append(a.Body, tree(one.ProtoReflect()))
		}
		req = following(req, messages, err)
	}
	return a
}

// following is the request for the next page, nil at the end.
func following(req proto.Message, messages []proto.Message, err error) proto.Message {
	if err != nil || len(messages) == 0 {
		return nil
	}
	last := messages[len(messages)-1].ProtoReflect()
	at := func(m protoreflect.Message, name string) protoreflect.Message {
		f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
		if f == nil || f.Message() == nil || f.IsList() || !m.Has(f) {
			return nil
		}
		return m.Get(f).Message()
	}
	next := at(last, "next")
	if end := at(last, "end"); end != nil {
		next = at(end, "next")
	}
	again := proto.Clone(req).ProtoReflect()
	fields := again.Descriptor().Fields()
	if next == nil {
		if f := fields.ByName("optional_limit"); f != nil && again.Has(f) && uint64(len(messages)) >= again.Get(f).Uint() {
			next = at(last, "after_result_cursor")
		}
	}
	if next == nil {
		return nil
	}
	for _, name := range []string{"cursor", "optional_cursor"} {
		if f := fields.ByName(protoreflect.Name(name)); f != nil {
			again.Set(f, protoreflect.ValueOfMessage(next))
		}
	}
	for _, name := range []string{"consistency", "session_token"} {
		if f := fields.ByName(protoreflect.Name(name)); f != nil {
			again.Clear(f)
		}
	}
	return again.Interface()
}

// trailerTree are the metadata of an answer, without those of gRPC itself and what is minted for each.
func trailerTree(md metadata.MD) any {
	out := map[string]any{}
	for k, v := range md {
		switch k {
		case "content-type", "grpc-status-details-bin": // the details are compared by themselves
		case "x-request-id":
			out[k] = "an id"
		default:
			out[k] = strings.Join(v, ",")
		}
	}
	return out
}

// tree is a message without what is minted anew for each answer: tokens, cursors and the ids of decisions. Lists whose order is that of
// minted ids are put in order when they are compared.
func tree(m protoreflect.Message) any {
	switch of := m.Interface().(type) {
	case *timestamppb.Timestamp:
		return of.AsTime()
	case *anypb.Any:
		if inner, err := of.UnmarshalNew(); err == nil {
			return tree(inner.ProtoReflect())
		}
	}
	switch m.Descriptor().Name() {
	case "ZedToken", "Cursor":
		return "a token"
	case "ContextualizedCaveat":
		m = forgetRevision(m)
	case "Relationship":
		m = forgetEnd(m)
	case "Record":
		m = forgetServer(m)
	}
	out := map[string]any{}
	trace, isTrace := m.Interface().(*deputyv1.CheckTrace)
	if isTrace {
		out["foreign"] = fmt.Sprint(foreign(trace))
	}
	why, isExplanation := m.Interface().(*deputyv1.CheckExplanation)
	if isExplanation && !ofEvaluator(why.GetReason()) {
		return map[string]any{"outcome": why.GetOutcome().String(), "foreign": fmt.Sprint(strings.Contains(why.String(), other))} // it is made of a trace, see below
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(f.Name())
		switch {
		case isTrace && f.IsList(): // SpiceDB asks a union's parts at once, and its trace has those that came in before the first yes
		case name == "decision_id":
			out[name] = "an id"
		case name == "arguments_hash": // each server has a key of its own
			out[name] = "a digest"
		case f.IsMap():
			inner := map[string]any{}
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				inner[k.String()] = value(f.MapValue(), v)
				return true
			})
			out[name] = inner
		case f.IsList():
			var inner []any
			for i := range v.List().Len() {
				inner = append(inner, value(f, v.List().Get(i)))
			}
			out[name] = inner
			if name == "reasons" && len(inner) >= mostReasons {
				inner = []any{"many reasons"}
			}
			if name != "pairs" && (f.Message() != nil || name == "reasons" || name == "relationships") {
				out[name] = unordered(inner)
			}
		default:
			out[name] = value(f, v)
		}
		return true
	})
	return out
}

// ofEvaluator reports whether a reason is the evaluator's, and not made of a trace, which has members alone.
func ofEvaluator(r *deputyv1.Reason) bool {
	return r.GetKind() != deputyv1.ReasonKind_REASON_KIND_MEMBER || slices.ContainsFunc(r.GetChildren(), ofEvaluator)
}

// foreign reports whether a part of a trace is of something of the other tenant's.
func foreign(t *deputyv1.CheckTrace) bool {
	return slices.ContainsFunc(t.GetChildren(), func(part *deputyv1.CheckTrace) bool {
		return strings.HasPrefix(part.GetResource().GetObjectId(), other) || foreign(part)
	})
}

// forgetRevision takes out the revision at which a frozen session started.
func forgetRevision(m protoreflect.Message) protoreflect.Message {
	caveat, ok := proto.Clone(m.Interface()).(*v1.ContextualizedCaveat)
	if !ok || caveat.GetCaveatName() != "baseline" {
		return m
	}
	delete(caveat.GetContext().GetFields(), "revision")
	return caveat.ProtoReflect()
}

// forgetServer takes out of a record what is of its server, and of its time: which one of all records it is, which is documented, keyed digests,
// and a digest of the request, which holds ids.
func forgetServer(m protoreflect.Message) protoreflect.Message {
	record, ok := proto.Clone(m.Interface()).(*deputyv1.Record)
	if !ok {
		return m
	}
	record.Sequence, record.Begun, record.Time, record.Latency = 0, nil, 0, 0
	record.Revision, record.Head, record.ContextHash, record.RequestHash, record.AboutDecision = "", "", nil, nil, ""
	return record.ProtoReflect()
}

// forgetEnd takes out when a session ends, of the relationship that says so: SpiceDB's API tells that of the session as a whole, which is
// documented. The lifecycle's answers tell when the caller's part does, and are compared.
func forgetEnd(m protoreflect.Message) protoreflect.Message {
	row, ok := proto.Clone(m.Interface()).(*v1.Relationship)
	if !ok || row.GetResource().GetObjectType() != "session" || row.GetRelation() != "active" {
		return m
	}
	row.OptionalExpiresAt = nil
	return row.ProtoReflect()
}

// unordered is a list whose order says nothing.
type unordered []any

func value(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	if f.Message() != nil {
		return tree(v.Message())
	}
	return fmt.Sprint(v.Interface())
}

// pairs is the bijection between what the two servers minted.
type pairs struct {
	toB, toA map[string]string
	// foreign are ids of the other tenant's, which nobody here may get.
	foreign map[string]bool
}

var (
	minted  = regexp.MustCompile(`[0-9a-f]{32}`)
	origin  = regexp.MustCompile(`deputy/[0-9a-f-]{36}/journal/[0-9a-f]{16}`) // of a journal
	instant = regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?Z| [+-]\d{4} UTC)?`)
)

// learn notes that two ids are of the same thing.
func (p *pairs) learn(a, b string) { p.toB[a], p.toA[b] = b, a }

// translate replaces what the first server minted by what the second did.
func (p *pairs) translate(m protoreflect.Message) { replace(m, p.text) }

// rename replaces a part of all texts of a message.
func rename(m protoreflect.Message, from, to string) {
	replace(m, func(s string) string { return strings.ReplaceAll(s, from, to) })
}

// replace replaces the texts of a message.
func replace(m protoreflect.Message, by func(string) string) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				switch {
				case f.Message() != nil:
					replace(v.List().Get(i).Message(), by)
				case f.Kind() == protoreflect.StringKind:
					v.List().Set(i, protoreflect.ValueOfString(by(v.List().Get(i).String())))
				}
			}
		case f.Message() != nil:
			replace(v.Message(), by)
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(by(v.String())))
		}
		return true
	})
}

func (p *pairs) text(s string) string {
	if b, known := p.toB[s]; known {
		return b
	}
	return minted.ReplaceAllStringFunc(s, func(a string) string {
		if b, known := p.toB[a]; known {
			return b
		}
		return a
	})
}

// far is how far apart two times may be that were now.
const far = 20 * time.Second

// compare returns where two answers differ; empty where they do not.
func (p *pairs) compare(at string, a, b any) string {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s: %v and %v", at, a, b)
		}
		keys := slices.Collect(maps.Keys(a))
		for k := range b {
			if _, both := a[k]; !both {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		for _, k := range keys {
			if d := p.compare(at+"."+k, a[k], b[k]); d != "" {
				return d
			}
		}
		return ""
	case unordered:
		b, ok := b.(unordered)
		if !ok || len(a) != len(b) {
			return fmt.Sprintf("%s: %s and %s", at, p.show(a, true), p.show(b, false))
		}
		return p.compareLists(at, p.sorted(a, true), p.sorted(b, false))
	case []any:
		list, ok := b.([]any)
		if !ok && (len(a) > 0 || b != nil) || len(a) != len(list) {
			return fmt.Sprintf("%s: %s and %s", at, p.show(a, true), p.show(b, false))
		}
		return p.compareLists(at, a, list)
	case time.Time:
		if b, ok := b.(time.Time); !ok || a.Sub(b).Abs() > far {
			return fmt.Sprintf("%s: %v and %v", at, a, b)
		}
		return ""
	case string:
		if b, ok := b.(string); ok {
			return p.compareText(at, a, b)
		}
	}
	if a != nil || b != nil {
		return fmt.Sprintf("%s: %v and %v", at, a, b)
	}
	return ""
}

func (p *pairs) compareLists(at string, a, b []any) string {
	for i := range a {
		if d := p.compare(fmt.Sprintf("%s[%d]", at, i), a[i], b[i]); d != "" {
			return d
		}
	}
	return ""
}

func (p *pairs) compareText(at, a, b string) string {
	ids, others := minted.FindAllString(a, -1), minted.FindAllString(b, -1)
	plain := func(s string) string {
		return origin.ReplaceAllString(instant.ReplaceAllString(minted.ReplaceAllString(s, "ID"), "TIME"), "JOURNAL")
	}
	if plain(a) != plain(b) || len(ids) != len(others) {
		return fmt.Sprintf("%s: %q and %q", at, a, b)
	}
	for i, id := range ids {
		to, known := p.toB[id]
		_, taken := p.toA[others[i]]
		switch {
		case id == others[i] && !known && !taken, known && to == others[i]:
		case !known && !taken && !p.foreign[id]:
			p.learn(id, others[i])
		default:
			return fmt.Sprintf("%s: %q and %q name different things", at, a, b)
		}
	}
	return ""
}

// sorted puts a list in an order that does not depend on what was minted.
func (p *pairs) sorted(list []any, first bool) []any {
	return slices.SortedStableFunc(slices.Values(list), func(x, y any) int { return strings.Compare(p.show(x, first), p.show(y, first)) })
}

// show is a value as a text, with what the second server minted as the first one has it, times left out.
func (p *pairs) show(v any, first bool) string {
	switch v := v.(type) {
	case map[string]any:
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, k+":"+p.show(v[k], first))
		}
		return "{" + strings.Join(parts, " ") + "}"
	case unordered:
		return p.show(p.sorted(v, first), first)
	case []any:
		var parts []string
		for _, one := range v {
			parts = append(parts, p.show(one, first))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case string:
		return minted.ReplaceAllStringFunc(v, func(id string) string {
			if a, known := p.toA[id]; known && !first {
				return a
			}
			if _, known := p.toB[id]; known && first {
				return id
			}
			return "?"
		})
	default:
		return "…"
	}
}
