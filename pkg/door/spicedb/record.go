package spicedb

import (
	"strings"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// asks tells what records the call what a message of the caller's asks, before anything in it is made what the engine is asked.
func (c *call) asks(request proto.Message) {
	if c.recording == nil {
		return
	}
	about, given := asked(request)
	c.updates += uint64(len(about.GetRelationships()))
	if len(about.GetRelationships()) > mostRecorded {
		about.Relationships = about.GetRelationships()[:mostRecorded]
	}
	if c.about == nil {
		c.about, c.given = proto.CloneOf(about), given
	}
	c.recording.Asks(request, about, given)
}

// mostRecorded is how many relationships a record names at most.
const mostRecorded = 100

// question is a check, or an item of a bulk check.
type question interface {
	GetResource() *v1.ObjectReference
	GetPermission() string
	GetSubject() *v1.SubjectReference
	GetContext() *structpb.Struct
}

// asked is a record of what a request names, with its caveat context.
func asked(request proto.Message) (*deputyv1.Record, *structpb.Struct) {
	r := &deputyv1.Record{}
	switch m := request.(type) {
	case question: // CheckPermission
		return questioned(m)
	case *v1.ExpandPermissionTreeRequest:
		nameObject(r, m.GetResource())
		r.Permission = m.GetPermission()
	case *v1.LookupResourcesRequest:
		r.ResourceType, r.Permission = m.GetResourceObjectType(), m.GetPermission()
		nameSubject(r, m.GetSubject())
		return r, m.GetContext()
	case *v1.LookupSubjectsRequest:
		nameObject(r, m.GetResource())
		r.Permission, r.Subject = m.GetPermission(), withRelation(m.GetSubjectObjectType(), m.GetOptionalSubjectRelation())
		return r, m.GetContext()
	case *v1.ReadRelationshipsRequest:
		nameFilter(r, m.GetRelationshipFilter())
	case *v1.DeleteRelationshipsRequest:
		nameFilter(r, m.GetRelationshipFilter())
	case *v1.ExportBulkRelationshipsRequest:
		nameFilter(r, m.GetOptionalRelationshipFilter())
	case *v1.BulkExportRelationshipsRequest:
		nameFilter(r, m.GetOptionalRelationshipFilter())
	case *v1.ExperimentalRegisterRelationshipCounterRequest:
		nameFilter(r, m.GetRelationshipFilter())
	case *v1.WriteRelationshipsRequest:
		for _, u := range m.GetUpdates() {
			operation := strings.ToLower(strings.TrimPrefix(u.GetOperation().String(), "OPERATION_"))
			r.Relationships = append(r.Relationships, operation+" "+written(u.GetRelationship()))
		}
		if len(m.GetUpdates()) == 1 { // then that is what it is about
			relationship := m.GetUpdates()[0].GetRelationship()
			nameObject(r, relationship.GetResource())
			r.Permission = relationship.GetRelation()
			nameSubject(r, relationship.GetSubject())
		}
	case *v1.ImportBulkRelationshipsRequest:
		created(r, m.GetRelationships())
	case *v1.BulkImportRelationshipsRequest:
		created(r, m.GetRelationships())
	case interface {
		GetDefinitionName() string
		GetRelationName() string
	}:
		r.ResourceType, r.Permission = m.GetDefinitionName(), m.GetRelationName()
	case interface {
		GetDefinitionName() string
		GetPermissionName() string
	}:
		r.ResourceType, r.Permission = m.GetDefinitionName(), m.GetPermissionName()
	}
	return r, nil
}

// questioned is a record of what a check names.
func questioned(q question) (*deputyv1.Record, *structpb.Struct) {
	r := &deputyv1.Record{Permission: q.GetPermission()}
	nameObject(r, q.GetResource())
	nameSubject(r, q.GetSubject())
	return r, q.GetContext()
}

// created says what an import writes.
func created(r *deputyv1.Record, relationships []*v1.Relationship) {
	for _, one := range relationships {
		r.Relationships = append(r.Relationships, "create "+written(one))
	}
}

// nameObject names an object, by the id that callers of deputy.v1 know it by.
func nameObject(r *deputyv1.Record, o *v1.ObjectReference) {
	r.ResourceType, r.ResourceId = o.GetObjectType(), authz.DecodeID(o.GetObjectId())
}

// nameSubject names a subject, and where it is an agent, a delegation, or a principal, that too.
func nameSubject(r *deputyv1.Record, s *v1.SubjectReference) {
	if s.GetObject() == nil {
		return
	}
	kind, id := s.GetObject().GetObjectType(), s.GetObject().GetObjectId()
	r.Subject = withRelation(kind+":"+id, s.GetOptionalRelation())
	if s.GetOptionalRelation() == "" {
		nameActor(r, kind, id)
	}
}

// nameActor names an object that can act, or be acted for.
func nameActor(r *deputyv1.Record, kind, id string) {
	switch kind {
	case "agent":
		r.AgentId = authz.DecodeID(id)
	case "delegation":
		r.DelegationId = id
	case "user", "service":
		r.PrincipalType, r.PrincipalId = kind, authz.DecodeID(id)
	}
}

// nameFilter names what a filter does.
func nameFilter(r *deputyv1.Record, f *v1.RelationshipFilter) {
	r.ResourceType, r.ResourceId, r.Permission = f.GetResourceType(), authz.DecodeID(f.GetOptionalResourceId()), f.GetOptionalRelation()
	of := f.GetOptionalSubjectFilter()
	switch id := of.GetOptionalSubjectId(); {
	case of == nil:
	case id == "":
		r.Subject = withRelation(of.GetSubjectType(), of.GetOptionalRelation().GetRelation())
	default:
		r.Subject = withRelation(of.GetSubjectType()+":"+id, of.GetOptionalRelation().GetRelation())
		if of.GetOptionalRelation().GetRelation() == "" {
			nameActor(r, of.GetSubjectType(), id)
		}
	}
}

func withRelation(of, relation string) string {
	if relation == "" {
		return of
	}
	return of + "#" + relation
}

// written is a relationship in SpiceDB's notation, but for the context of its caveat, which no record shows.
func written(r *v1.Relationship) string {
	of := r.GetSubject().GetObject()
	text := r.GetResource().GetObjectType() + ":" + r.GetResource().GetObjectId() + "#" + r.GetRelation() + "@" +
		withRelation(of.GetObjectType()+":"+of.GetObjectId(), r.GetSubject().GetOptionalRelation())
	if caveat := r.GetOptionalCaveat().GetCaveatName(); caveat != "" {
		text += "[" + caveat + "]"
	}
	if until := r.GetOptionalExpiresAt(); until != nil {
		text += "[expiration:" + until.AsTime().UTC().Format(time.RFC3339Nano) + "]"
	}
	return text
}

// recorded is what is recorded of the answers of a method.
type recorded struct {
	// output is the type of the answer where there is one; nil for streams, of whose messages items are counted: the elements of that list, 0 for
	// one each. token is the field that has the revision, 0 for none.
	output       protoreflect.MessageType
	items, token protowire.Number
	// evaluated says that the answer as a whole is evaluated; that of a check says so for each item.
	evaluated bool
}

// evaluated lists the methods whose answers are evaluated as a whole.
var evaluated = map[string]bool{
	"PermissionsService/LookupResources":      true,
	"PermissionsService/LookupSubjects":       true,
	"PermissionsService/ExpandPermissionTree": true,
}

// answerOf returns what is recorded of the answers of a method.
func answerOf(key string, m protoreflect.MethodDescriptor, split *split) (r recorded) {
	r.evaluated = evaluated[key]
	if !m.IsStreamingServer() {
		r.output = messageType(m.Output())
	}
	for i := range m.Output().Fields().Len() {
		switch f := m.Output().Fields().Get(i); {
		case f.Message() == nil:
		case f.Message().FullName() == tokenType:
			r.token = f.Number()
		case f.IsList() && r.items == 0 && (r.output != nil || split != nil):
			r.items = f.Number()
		}
	}
	return r
}

// records tells what records the call what a message of the answer has, as it came (raw), and as it leaves.
func (c *call) records(raw, leaves []byte, by deputyv1.Evaluator) {
	if c.recording == nil {
		return
	}
	told, revision := c.route.told, ""
	if told.evaluated {
		c.recording.Evaluated(by)
	}
	if told.token != 0 {
		revision = string(valueOf(valueOf(raw, told.token), textOf))
	}
	results := uint64(1)
	if told.items != 0 {
		results = elements(leaves, told.items)
	}
	if told.output == nil {
		c.recording.Answers(results, 0, revision)
		return
	}
	answer := told.output.New().Interface()
	if proto.Unmarshal(leaves, answer) != nil {
		c.recording.Answers(0, 0, revision)
		return
	}
	switch m := answer.(type) {
	case *v1.CheckPermissionResponse:
		results = 0
		c.item(c.about, c.given, m, by)
	case *v1.CheckBulkPermissionsResponse:
		results = 0
		for _, pair := range m.GetPairs() {
			about, given := questioned(pair.GetRequest())
			failed(about, pair.GetError())
			c.item(about, given, pair.GetItem(), by)
		}
	case *v1.BulkCheckPermissionResponse:
		results = 0
		for _, pair := range m.GetPairs() {
			about, given := questioned(pair.GetRequest())
			failed(about, pair.GetError())
			c.item(about, given, pair.GetItem(), by)
		}
	case *v1.WriteRelationshipsResponse:
		results = c.updates
	case *v1.DeleteRelationshipsResponse:
		results = m.GetRelationshipsDeletedCount()
	case interface{ GetNumLoaded() uint64 }:
		results = m.GetNumLoaded()
	}
	c.recording.Answers(results, 0, revision)
}

// checked is the answer to a check.
type checked interface {
	GetPermissionship() v1.CheckPermissionResponse_Permissionship
	GetPartialCaveatInfo() *v1.PartialCaveatInfo
}

// item tells of the answer to one check; one that failed has said so already.
func (c *call) item(about *deputyv1.Record, given *structpb.Struct, answer checked, by deputyv1.Evaluator) {
	if about == nil {
		about = &deputyv1.Record{}
	}
	if about.GetCode() == 0 {
		about.Evaluator = by
		about.MissingContext = answer.GetPartialCaveatInfo().GetMissingRequiredContext()
		switch answer.GetPermissionship() {
		case v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION:
			about.Answer = deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
		case v1.CheckPermissionResponse_PERMISSIONSHIP_CONDITIONAL_PERMISSION:
			about.Answer = deputyv1.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION
		default:
			about.Answer = deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION
		}
	}
	c.recording.Item(about, given)
}

// failed says that an item failed, if it did.
func failed(about *deputyv1.Record, with *rpcstatus.Status) {
	if with != nil {
		about.Code, about.Reason = with.GetCode(), statuses.Info(status.FromProto(with)).GetReason()
	}
}

// elements counts the elements of a list of messages. The encoding is sound, up to where it is not.
func elements(encoding []byte, list protowire.Number) (n uint64) {
	for len(encoding) > 0 {
		number, wire, tag := protowire.ConsumeTag(encoding)
		if tag < 0 {
			return n
		}
		size := protowire.ConsumeFieldValue(number, wire, encoding[tag:])
		if size < 0 {
			return n
		}
		if number == list {
			n++
		}
		encoding = encoding[tag+size:]
	}
	return n
}
