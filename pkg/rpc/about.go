package rpc

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
)

// What a record holds of a request at most: a caller that sends nonsense is recorded too, and does not choose how long that is.
const (
	maxRecordedName = 1100
	// maxRefusedName is what it holds of a name where the call came to nothing: as much as an id of the contract may have.
	maxRefusedName           = 512
	maxRecordedReason        = 2048
	maxRecordedMethod        = 256
	maxRecordedRelationships = 100
	maxRecordedText          = 24 << 10
)

// bound shortens what a caller wrote to what a record may hold of it.
func bound(r *journal.Record) {
	boundNames(r, maxRecordedName)
	r.GivenReason = cut(r.GetGivenReason(), maxRecordedReason)
	room := maxRecordedText
	for i, text := range r.GetRelationships() {
		if room -= len(text); room < 0 || i == maxRecordedRelationships {
			r.Relationships = r.GetRelationships()[:i]
			break
		}
	}
}

// boundNames shortens the names in a record.
func boundNames(r *journal.Record, most int) {
	for _, name := range []*string{
		&r.AgentId, &r.PrincipalType, &r.PrincipalId, &r.TenantId, &r.SessionId, &r.DelegationId, &r.ResourceType, &r.ResourceId,
		&r.Permission, &r.Subject, &r.AboutDecision,
	} {
		*name = cut(*name, most)
	}
	if c := r.GetToolCall(); c != nil {
		c.Server, c.Method, c.Name = cut(c.GetServer(), maxToolWord), cut(c.GetMethod(), maxToolWord), cut(c.GetName(), maxToolName)
	}
}

// cut returns the beginning of a text that is too long, marked as such.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// aboutOf is a record of what a request of deputy.v1 names, by the names of its fields, with its caveat context.
func aboutOf(request proto.Message) (*journal.Record, *structpb.Struct) {
	if about, ok := request.(interface {
		GetCheck() *deputyv1.CheckPermissionRequest
	}); ok && about.GetCheck() != nil {
		return aboutOf(about.GetCheck())
	}
	r := &journal.Record{}
	name(&r.AgentId, request, "agent_id")
	name(&r.TenantId, request, "tenant_id")
	name(&r.SessionId, request, "session_id")
	name(&r.DelegationId, request, "delegation_id", "parent_delegation_id")
	name(&r.Permission, request, "permission")
	name(&r.ResourceType, request, "resource_object_type")
	name(&r.GivenReason, request, "reason")
	name(&r.AboutDecision, request, "decision_id")
	if about, ok := request.(interface{ GetSignalId() string }); ok && r.GetGivenReason() != "" {
		r.GivenReason += " (signal " + about.GetSignalId() + ")"
	}
	if about, ok := request.(interface{ GetToolCall() *deputyv1.ToolCall }); ok {
		r.ToolCall = about.GetToolCall()
	}
	if about, ok := request.(interface {
		GetRefusal() deputyv1.ToolRefusal
	}); ok {
		r.ToolRefusal = about.GetRefusal()
	}
	if dry, ok := request.(interface{ GetDryRun() bool }); ok {
		r.DryRun = dry.GetDryRun()
	}
	var object deputyv1.ObjectReference
	if one(&object, request, "resource", "objects") {
		r.ResourceType, r.ResourceId = object.GetObjectType(), object.GetObjectId()
	}
	if one(&object, request, "on_behalf_of", "principal") {
		r.PrincipalType, r.PrincipalId = object.GetObjectType(), object.GetObjectId()
	}
	var subject deputyv1.SubjectReference
	if one(&subject, request, "principal") {
		of := subject.GetObject()
		r.PrincipalType, r.PrincipalId = of.GetObjectType(), of.GetObjectId()
		if relation := subject.GetOptionalRelation(); relation != "" {
			r.Subject = of.GetObjectType() + ":" + of.GetObjectId() + "#" + relation
		}
	}
	if r.GetPrincipalType() == "tenant" && r.GetTenantId() == "" {
		r.TenantId = r.GetPrincipalId()
	}
	var target deputyv1.SessionTarget
	if one(&target, request, "targets") {
		r.DelegationId = target.GetDelegationId()
		if for1 := target.GetPrincipals(); len(for1) == 1 {
			r.PrincipalType, r.PrincipalId = for1[0].GetObjectType(), for1[0].GetObjectId()
		}
	}
	var adopted deputyv1.Adoption
	if one(&adopted, request, "adoptions") {
		r.ResourceType, r.ResourceId = adopted.GetObject().GetObjectType(), adopted.GetObject().GetObjectId()
	}
	var given structpb.Struct
	if one(&given, request, "context") {
		return r, &given
	}
	return r, nil
}

// madeOf is a record of what an answer of deputy.v1 names that is one agent, one delegation or one session: nil for any other.
func madeOf(answer proto.Message) *journal.Record {
	var agent deputyv1.Agent
	var delegation deputyv1.Delegation
	var session deputyv1.Session
	var signal deputyv1.Signal
	if received, ok := answer.(*deputyv1.ReceiveSignalResponse); ok {
		return receivedRecord(received)
	}
	switch {
	case one(&agent, answer, "agent"):
		return &journal.Record{AgentId: agent.GetAgentId()}
	case one(&delegation, answer, "delegation"):
		r, _ := aboutOf(&delegation)
		return r
	case one(&session, answer, "session"):
		r := &journal.Record{SessionId: session.GetSessionId(), AgentId: session.GetAgentId()}
		for i, leaf := range session.GetLeaves() {
			whom, tenant := leaf.GetPrincipal(), leaf.GetTenantId()
			if i == 0 {
				r.PrincipalType, r.PrincipalId, r.TenantId = whom.GetObjectType(), whom.GetObjectId(), tenant
			}
			if r.GetPrincipalType() != whom.GetObjectType() || r.GetPrincipalId() != whom.GetObjectId() {
				r.PrincipalType, r.PrincipalId = "", ""
			}
			if r.GetTenantId() != tenant {
				r.TenantId = ""
			}
		}
		return r
	case one(&signal, answer, "signal"):
		r, _ := aboutOf(&signal)
		return r
	default:
		return nil
	}
}

// name sets a text to the first of the fields that the message has set.
func name(into *string, m proto.Message, fields ...protoreflect.Name) {
	for _, field := range fields {
		f := m.ProtoReflect().Descriptor().Fields().ByName(field)
		if f != nil && f.Kind() == protoreflect.StringKind && !f.IsList() && m.ProtoReflect().Has(f) {
			*into = m.ProtoReflect().Get(f).String()
			return
		}
	}
}

// one sets a message to the first of the fields that is of its type and holds one: a list with more names nothing alone.
func one(into, m proto.Message, fields ...protoreflect.Name) bool {
	for _, field := range fields {
		f := m.ProtoReflect().Descriptor().Fields().ByName(field)
		if f == nil || f.Message() == nil || f.IsMap() || f.Message().FullName() != into.ProtoReflect().Descriptor().FullName() ||
			!m.ProtoReflect().Has(f) {
			continue
		}
		value := m.ProtoReflect().Get(f)
		if f.IsList() {
			if value.List().Len() != 1 {
				continue
			}
			value = value.List().Get(0)
		}
		proto.Reset(into)
		proto.Merge(into, value.Message().Interface())
		return true
	}
	return false
}

// answered says what an answer of deputy.v1 has: the elements of its list, or the one thing that it is; whether it is a failed result of a
// stream; and its sealed token.
func answered(m proto.Message) (results, failed uint64, token string) {
	switch m := m.(type) { // their lists are not what they did
	case *deputyv1.BrakeResponse:
		if would := m.GetWouldStop(); would != nil {
			return would.GetSessions() + would.GetDelegations(), 0, ""
		}
		return m.GetSessionsEnded() + m.GetDelegationsRevoked(), 0, m.GetWrittenAt().GetToken()
	case *deputyv1.FilterResourcesResponse:
		results = uint64(len(m.GetAllowedObjectIds()) + len(m.GetConditional()))
		return results, uint64(len(m.GetFailed())), m.GetCheckedAt().GetToken()
	case *deputyv1.ReadReachResponse: // its counts count the objects; a party is none
		count := m.GetCount()
		return count.GetHas() + count.GetConditional(), count.GetFailed(), m.GetEnd().GetLookedUpAt().GetToken()
	case *deputyv1.ReceiveSignalResponse:
		return m.GetSessionsEnded() + m.GetDelegationsRevoked(), 0, m.GetWrittenAt().GetToken()
	case *deputyv1.ApplySignalResponse:
		return m.GetSessionsEnded() + m.GetDelegationsRevoked(), 0, m.GetWrittenAt().GetToken()
	case *deputyv1.PurgeResponse:
		return m.GetSessions() + m.GetDelegations(), 0, m.GetReadAt().GetToken()
	}
	fields := m.ProtoReflect().Descriptor().Fields()
	results = 1
	if result := m.ProtoReflect().Descriptor().Oneofs().ByName("result"); result != nil {
		switch f := m.ProtoReflect().WhichOneof(result); {
		case f == nil:
		case f.Name() == "failed":
			return 0, 1, ""
		case f.Name() == "end":
			_, _, token = answered(m.ProtoReflect().Get(f).Message().Interface())
			return 0, 0, token
		}
		return 1, 0, ""
	}
	for i := range fields.Len() {
		switch f := fields.Get(i); {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			results = uint64(m.ProtoReflect().Get(f).List().Len()) //nolint:gosec // not negative
		case token == "" && m.ProtoReflect().Has(f):
			if found, ok := m.ProtoReflect().Get(f).Message().Interface().(*deputyv1.ZedToken); ok {
				token = found.GetToken()
			}
		}
	}
	return results, 0, token
}
