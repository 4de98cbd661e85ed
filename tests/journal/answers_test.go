package journal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// answer is what a client received.
type answer struct {
	caller, method string
	request        proto.Message
	messages       []proto.Message
	err            error
	// stopped says that the client went before the end.
	stopped bool
}

// descriptor is the method that was called.
func descriptor(t testing.TB, method string) protoreflect.MethodDescriptor {
	t.Helper()
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(method, "/", ".")))
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	m, ok := found.(protoreflect.MethodDescriptor)
	if !ok {
		t.Fatalf("%s is no method", method)
	}
	return m
}

func message(t testing.TB, of protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	found, err := protoregistry.GlobalTypes.FindMessageByName(of.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return found.New().Interface()
}

// invoke makes a call, and notes what comes of it. Of an endless stream it takes what comes while it changes something, and goes.
func invoke(t testing.TB, conn grpc.ClientConnInterface, by, method, request string, change func()) *answer {
	t.Helper()
	m := descriptor(t, method)
	a := &answer{caller: by, method: method, request: message(t, m.Input())}
	if err := protojson.Unmarshal([]byte(request), a.request); err != nil {
		t.Fatalf("%s %s: %v", method, request, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		got := message(t, m.Output())
		if a.err = conn.Invoke(ctx, "/"+method, a.request, got); a.err == nil {
			a.messages = append(a.messages, got)
		}
		return a
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: m.IsStreamingClient()}, "/"+method)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(a.request); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(method, "WatchService/Watch") {
		done := make(chan struct{})
		defer func() { <-done }()
		changing, stop := context.WithCancel(ctx)
		defer stop()
		go func() {
			defer close(done)
			for changing.Err() == nil {
				change()
			}
		}()
	}
	for {
		got := message(t, m.Output())
		if err := stream.RecvMsg(got); err != nil {
			if !errors.Is(err, io.EOF) {
				a.err = err
			}
			return a
		}
		a.messages = append(a.messages, got)
		if strings.HasSuffix(method, "/Watch") {
			a.stopped = true
			return a
		}
	}
}

// reason is the reason of an error's ErrorInfo.
func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// judge compares the records of one call with its answer: as many as there have to be, of equal content.
func (a *answer) judge(records []*deputyv1.Record) (problems []string) {
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	effect := caller.MethodOf("/" + a.method).Effect
	if effect == deputyv1.Effect_EFFECT_NONE {
		if len(records) > 0 {
			wrong("%d records, want none", len(records))
		}
		return problems
	}
	for _, r := range records {
		if r.GetCaller() != a.caller || r.GetMethod() != a.method {
			wrong("a record is of %s by %q", r.GetMethod(), r.GetCaller())
		}
		if r.GetTime() == 0 || r.GetLatency() < 0 {
			wrong("a record has the time %d and the latency %d", r.GetTime(), r.GetLatency())
		}
	}
	for _, r := range records {
		if problem := toolOf(a.request, a.err == nil, r); problem != "" {
			wrong("%s", problem)
		}
	}
	begun := slices.IndexFunc(records, func(r *deputyv1.Record) bool { return r.GetStage() == deputyv1.RecordStage_RECORD_STAGE_BEGUN })
	ends := records
	if begun >= 0 {
		if begun != 0 {
			wrong("the beginning is record %d of the call", begun)
		}
		ends = records[1:]
	}
	for _, r := range ends {
		want := deputyv1.RecordStage_RECORD_STAGE_WHOLE
		if begun >= 0 {
			want = deputyv1.RecordStage_RECORD_STAGE_ENDED
			if r.GetBegun() != records[0].GetSequence() {
				wrong("an end belongs to %d, want %d", r.GetBegun(), records[0].GetSequence())
			}
		}
		if r.GetStage() != want {
			wrong("stage %s, want %s", r.GetStage(), want)
		}
	}
	if pairs := pairsOf(a); a.err == nil && len(pairs) > 0 {
		if len(ends) != len(pairs) {
			wrong("%d records for %d items", len(ends), len(pairs))
			return problems
		}
		for i, want := range pairs {
			compareAnswer(want, ends[i], wrong)
		}
		return problems
	}
	if len(ends) != 1 {
		wrong("%d records of how it was answered, want 1", len(ends))
		return problems
	}
	end := ends[0]
	want := &deputyv1.Record{Code: int32(status.Code(a.err)), Reason: reason(a.err)}
	if a.stopped { // what the client's going looks like to the server is not compared
		want.Code, want.Reason = end.GetCode(), end.GetReason()
	}
	if end.GetCode() != want.GetCode() || end.GetReason() != want.GetReason() {
		wrong("code %d and reason %q, want %d and %q", end.GetCode(), end.GetReason(), want.GetCode(), want.GetReason())
	}
	if len(a.messages) > 0 && !a.stopped {
		if results, failed := results(a.request, a.messages); end.GetResults() != results || end.GetFailed() != failed {
			wrong("%d results and %d that failed, want %d and %d", end.GetResults(), end.GetFailed(), results, failed)
		}
	}
	streams := descriptorStreams(a.method)
	switch changes := effect == deputyv1.Effect_EFFECT_WRITES || effect == deputyv1.Effect_EFFECT_NARROWS; {
	case changes && a.err == nil && begun < 0:
		wrong("nothing says that a write began")
	case !changes && begun >= 0 != (streams && len(a.messages) > 0):
		wrong("whether it began apart is %t", begun >= 0)
	}
	return problems
}

// toolOf compares the call of a tool that a request names with the one in a record of it.
func toolOf(request proto.Message, answered bool, r *deputyv1.Record) (problem string) {
	var asked *deputyv1.ToolCall
	if of, ok := request.(interface{ GetToolCall() *deputyv1.ToolCall }); ok && !strings.HasSuffix(r.GetMethod(), "QueryRecords") {
		asked = of.GetToolCall()
	}
	got := r.GetToolCall()
	digest := got.GetArgumentsHash()
	switch {
	case (got == nil) != (asked == nil) && answered:
		return fmt.Sprintf("the record has the call %v, and the request %v", got, asked)
	case len(got.GetServer()) > 131 || len(got.GetMethod()) > 131 || len(got.GetName()) > 259 || len(digest) > 16:
		return "the record holds more of a call than it may"
	case len(digest) > 0 && bytes.Contains(asked.GetArgumentsHash(), digest):
		return "the record holds the digest of the arguments as it was sent, so that they can be guessed"
	case !answered:
		return ""
	case got.GetServer() != asked.GetServer() || got.GetMethod() != asked.GetMethod() || got.GetName() != asked.GetName() ||
		len(digest) > 0 != (len(asked.GetArgumentsHash()) > 0):
		return fmt.Sprintf("the record has the call %v, and the request %v", got, asked)
	}
	if of, ok := request.(*deputyv1.RecordToolRefusalRequest); ok &&
		(r.GetToolRefusal() != of.GetRefusal() || r.GetKind() != deputyv1.RecordKind_RECORD_KIND_UNASKED || r.GetAgentId() != of.GetAgentId()) {
		return fmt.Sprintf("the record is %v, and the request %v", r, of)
	}
	return ""
}

func descriptorStreams(method string) bool {
	found, _ := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(method, "/", ".")))
	m, ok := found.(protoreflect.MethodDescriptor)
	return ok && m.IsStreamingServer()
}

// pairsOf is what an answer that decides says, as records have it; nil for one that does not.
func pairsOf(a *answer) []*deputyv1.Record {
	if len(a.messages) != 1 {
		return nil
	}
	switch m := a.messages[0].(type) {
	case *deputyv1.CheckPermissionResponse:
		return []*deputyv1.Record{decided(m)}
	case *deputyv1.WatchPermissionResponse:
		return []*deputyv1.Record{decided(m.GetDecision())}
	case *deputyv1.ExplainPermissionResponse:
		return []*deputyv1.Record{decided(m.GetDecision())}
	case *deputyv1.CheckBulkPermissionsResponse:
		out := []*deputyv1.Record{}
		for _, pair := range m.GetPairs() {
			r := decided(pair.GetItem())
			if failed := pair.GetError(); failed != nil {
				r = &deputyv1.Record{Code: failed.GetCode(), Reason: failed.GetReason()}
			} else {
				r.AgentId, r.ResourceId = pair.GetRequest().GetAgentId(), pair.GetRequest().GetResource().GetObjectId()
			}
			out = append(out, r)
		}
		return out
	case *v1.CheckPermissionResponse:
		r := &deputyv1.Record{Answer: spiceAnswer(m.GetPermissionship()), MissingContext: m.GetPartialCaveatInfo().GetMissingRequiredContext()}
		if asked, ok := a.request.(*v1.CheckPermissionRequest); ok {
			r.ResourceId = asked.GetResource().GetObjectId()
		}
		return []*deputyv1.Record{r}
	case *v1.CheckBulkPermissionsResponse:
		out := []*deputyv1.Record{}
		for _, pair := range m.GetPairs() {
			r := &deputyv1.Record{ResourceId: pair.GetRequest().GetResource().GetObjectId()}
			if failed := pair.GetError(); failed != nil {
				r.Code, r.Reason = failed.GetCode(), reason(status.FromProto(failed).Err())
			} else {
				r.Answer = spiceAnswer(pair.GetItem().GetPermissionship())
				r.MissingContext = pair.GetItem().GetPartialCaveatInfo().GetMissingRequiredContext()
			}
			out = append(out, r)
		}
		return out
	case *v1.BulkCheckPermissionResponse:
		out := []*deputyv1.Record{}
		for _, pair := range m.GetPairs() {
			r := &deputyv1.Record{ResourceId: pair.GetRequest().GetResource().GetObjectId()}
			if failed := pair.GetError(); failed != nil {
				r.Code, r.Reason = failed.GetCode(), reason(status.FromProto(failed).Err())
			} else {
				r.Answer = spiceAnswer(pair.GetItem().GetPermissionship())
				r.MissingContext = pair.GetItem().GetPartialCaveatInfo().GetMissingRequiredContext()
			}
			out = append(out, r)
		}
		return out
	}
	return nil
}

func spiceAnswer(p v1.CheckPermissionResponse_Permissionship) deputyv1.Permissionship {
	switch p {
	case v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION:
		return deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
	case v1.CheckPermissionResponse_PERMISSIONSHIP_CONDITIONAL_PERMISSION:
		return deputyv1.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION
	default:
		return deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION
	}
}

// decided is what a decision shows of its record.
func decided(m *deputyv1.CheckPermissionResponse) *deputyv1.Record {
	return &deputyv1.Record{
		Answer: m.GetPermissionship(), MissingContext: m.GetMissingContext(), PrincipalId: m.GetPrincipal().GetObjectId(),
		TenantId: m.GetTenantId(), AgentChain: m.GetAgentChain(), DelegationId: m.GetDelegationId(), AboutDecision: m.GetDecisionId(),
	}
}

// compareAnswer compares what an answer shows with its record.
func compareAnswer(want, got *deputyv1.Record, wrong func(string, ...any)) {
	if got.GetCode() != want.GetCode() || got.GetReason() != want.GetReason() || got.GetAnswer() != want.GetAnswer() ||
		!slices.Equal(got.GetMissingContext(), want.GetMissingContext()) {
		wrong("the record says %s %v, code %d %q, and the answer %s %v, code %d %q", got.GetAnswer(), got.GetMissingContext(), got.GetCode(),
			got.GetReason(), want.GetAnswer(), want.GetMissingContext(), want.GetCode(), want.GetReason())
	}
	for _, one := range []struct{ what, got, want string }{
		{"principal", got.GetPrincipalId(), want.GetPrincipalId()}, {"tenant", got.GetTenantId(), want.GetTenantId()},
		{"delegation", got.GetDelegationId(), want.GetDelegationId()}, {"agents", fmt.Sprint(got.GetAgentChain()), fmt.Sprint(want.GetAgentChain())},
		{"agent", got.GetAgentId(), want.GetAgentId()}, {"object", got.GetResourceId(), want.GetResourceId()},
	} {
		if one.want != "" && one.want != "[]" && one.got != one.want {
			wrong("the record's %s is %q, and the answer's %q", one.what, one.got, one.want)
		}
	}
	if want.GetCode() == 0 && (got.GetRevision() == "" || got.GetEvaluator() == 0) {
		wrong("the record has the revision %q and the evaluator %s", got.GetRevision(), got.GetEvaluator())
	}
}

// results counts what the messages of an answer have: the elements of the list of each, or the one thing that it is.
func results(request proto.Message, messages []proto.Message) (n, failed uint64) {
	for _, m := range messages {
		switch m := m.(type) {
		case *v1.WriteRelationshipsResponse:
			if asked, ok := request.(*v1.WriteRelationshipsRequest); ok {
				n += uint64(len(asked.GetUpdates()))
			}
		case *deputyv1.QueryRecordsResponse:
			n += count(m.GetRecord() != nil)
		case *deputyv1.BrakeResponse:
			n += m.GetSessionsEnded() + m.GetDelegationsRevoked() + m.GetWouldStop().GetSessions() + m.GetWouldStop().GetDelegations()
		case *deputyv1.PurgeResponse:
			n += m.GetSessions() + m.GetDelegations()
		case *v1.CheckBulkPermissionsResponse, *v1.BulkCheckPermissionResponse: // of no items
		case *deputyv1.ConfirmAdoptionResponse:
			n += uint64(len(m.GetAdopted()))
		case *deputyv1.LookupResourcesResponse:
			n, failed = n+count(m.GetResource() != nil), failed+count(m.GetFailed() != nil)
		case *deputyv1.LookupAgentsResponse:
			n, failed = n+count(m.GetAgent() != nil), failed+count(m.GetFailed() != nil)
		case *deputyv1.ReadReachResponse:
			n, failed = n+m.GetCount().GetHas()+m.GetCount().GetConditional(), failed+m.GetCount().GetFailed()
		case *deputyv1.FilterResourcesResponse:
			n += uint64(len(m.GetAllowedObjectIds())) + uint64(len(m.GetConditional()))
			failed += uint64(len(m.GetFailed()))
		case *deputyv1.ReviewAdoptionResponse:
			n += count(m.GetCandidate() != nil)
		case *deputyv1.ListSignalsResponse:
			n += uint64(len(m.GetSignals()))
		case *deputyv1.ListSessionsResponse:
			n += uint64(len(m.GetSessions()))
		case *deputyv1.ListDelegationsResponse:
			n += uint64(len(m.GetDelegations()))
		case *deputyv1.ListAgentsResponse:
			n += uint64(len(m.GetAgents()))
		case *deputyv1.ReadPageResponse:
			n += uint64(len(m.GetRelationships()))
		case *deputyv1.ReadRowsResponse:
			n += uint64(len(m.GetRelationships()))
		case *deputyv1.ReadBucketResponse:
			n += uint64(len(m.GetRelationships()))
		case *deputyv1.ReadDigestsResponse:
			n += uint64(len(m.GetDigests()))
		case *v1.ExportBulkRelationshipsResponse:
			n += uint64(len(m.GetRelationships()))
		case *v1.BulkExportRelationshipsResponse:
			n += uint64(len(m.GetRelationships()))
		case *v1.ImportBulkRelationshipsResponse:
			n += m.GetNumLoaded()
		case *v1.BulkImportRelationshipsResponse:
			n += m.GetNumLoaded()
		case *v1.DeleteRelationshipsResponse:
			n += m.GetRelationshipsDeletedCount()
		case *v1.ReflectSchemaResponse:
			n += uint64(len(m.GetDefinitions()))
		case *v1.ExperimentalReflectSchemaResponse:
			n += uint64(len(m.GetDefinitions()))
		case *v1.ComputablePermissionsResponse:
			n += uint64(len(m.GetPermissions()))
		case *v1.ExperimentalComputablePermissionsResponse:
			n += uint64(len(m.GetPermissions()))
		case *v1.DependentRelationsResponse:
			n += uint64(len(m.GetRelations()))
		case *v1.ExperimentalDependentRelationsResponse:
			n += uint64(len(m.GetRelations()))
		case *v1.DiffSchemaResponse:
			n += uint64(len(m.GetDiffs()))
		case *v1.ExperimentalDiffSchemaResponse:
			n += uint64(len(m.GetDiffs()))
		default:
			n++
		}
	}
	return n, failed
}

func count(is bool) uint64 {
	if is {
		return 1
	}
	return 0
}
