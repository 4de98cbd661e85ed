package spicedb

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/authzed/authzed-go/pkg/requestmeta"
	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
)

// The requests of a caller with bounds are judged here, each type of request by itself; a type that has no judgement is refused. What lies
// outside of the bounds is answered as what does not exist, and the engine gives that answer: where an object does not exist for the caller,
// because it is absent or another tenant's, the engine is asked about an id that no object has. So schema errors, wildcards and everything else
// are answered as they are for an absent object. A type that is outside, or unknown, is answered here in SpiceDB's words. A trace would show the
// graph outside, and is refused.
//
// A confined caller's check is judged at the revision at which it is answered, and so is a read that is not paged. SpiceDB takes a cursor only
// with the consistency of the first page, so a paged read keeps its own: an object that moved to another tenant during the call, or since the
// first page, can still be read by the caller that had it.

// maxBulk is how many items SpiceDB takes in a bulk check.
const maxBulk = 1000

// confine judges a request of a caller with bounds, and makes of it what the engine is asked. Writes are judged by their guards.
func (c *call) confine(ctx context.Context, request proto.Message) error {
	if len(metadata.ValueFromIncomingContext(ctx, string(requestmeta.RequestDebugInformation))) > 0 {
		return outOfBounds("", "a trace shows what lies outside of the caller's bounds; ask without "+string(requestmeta.RequestDebugInformation))
	}
	switch r := request.(type) {
	case *v1.CheckPermissionRequest:
		return c.confineCheck(ctx, r)
	case *v1.CheckBulkPermissionsRequest:
		return confineBulk(ctx, c, r.GetWithTracing(), r.GetItems(), &r.Consistency,
			func(item *v1.CheckBulkPermissionsRequestItem, no *rpcstatus.Status) proto.Message {
				return &v1.CheckBulkPermissionsPair{Request: item, Response: &v1.CheckBulkPermissionsPair_Error{Error: no}}
			})
	case *v1.BulkCheckPermissionRequest:
		return confineBulk(ctx, c, false, r.GetItems(), &r.Consistency, //nolint:staticcheck // it is served
			func(item *v1.BulkCheckPermissionRequestItem, no *rpcstatus.Status) proto.Message {
				return &v1.BulkCheckPermissionPair{Request: item, Response: &v1.BulkCheckPermissionPair_Error{Error: no}}
			})
	case *v1.ReadRelationshipsRequest:
		return c.confineRead(ctx, r)
	case *v1.LookupResourcesRequest:
		return c.confineLookupResources(ctx, r)
	case *v1.LookupSubjectsRequest:
		return c.confineLookupSubjects(ctx, r)
	case *v1.WriteRelationshipsRequest, *v1.DeleteRelationshipsRequest, *v1.ImportBulkRelationshipsRequest, *v1.BulkImportRelationshipsRequest:
		return nil // by its guard
	case *v1.ReadSchemaRequest, *v1.ReflectSchemaRequest, *v1.ComputablePermissionsRequest, *v1.DependentRelationsRequest, *v1.DiffSchemaRequest,
		*v1.ExperimentalReflectSchemaRequest, *v1.ExperimentalComputablePermissionsRequest, *v1.ExperimentalDependentRelationsRequest,
		*v1.ExperimentalDiffSchemaRequest:
		if c.rights.Bounds.Objects.All() {
			return nil
		}
		return outOfBounds("", "the schema shows all types of objects, and the caller is bound to some")
	case *v1.WriteSchemaRequest:
		if c.rights.Bounds.Objects.All() && !c.rights.Bounds.Confined() {
			return nil
		}
	}
	return outOfBounds("", "this method reaches all of the graph, and the caller is bound to a part")
}

// missingType returns the first type of the objects that the schema does not have; "" where it has all.
func missingType(schema *authz.Schema, objects ...*v1.ObjectReference) string {
	for _, o := range objects {
		if name := o.GetObjectType(); named(name) && schema.Types[name] == nil {
			return name
		}
	}
	return ""
}

// named reports whether a name can be a type's. SpiceDB refuses any other before it looks.
func named(objectType string) bool { return objectType != "" && possibleName.MatchString(objectType) }

// hide has the engine asked for what exists of the objects, and for ids that no object has instead of the others.
func (c *call) hide(s *scope, objects ...*v1.ObjectReference) {
	for _, o := range objects {
		if at := objectOf(o); askable(at) && !s.has(at) {
			o.ObjectId = c.absent(at)
			if c.hidden == nil {
				c.hidden = map[string]string{}
			}
			c.hidden[o.GetObjectId()] = at.ID
		}
	}
}

// askable reports whether SpiceDB looks for an object. It refuses any other before that, and so is asked for it.
func askable(o authz.Object) bool { return named(o.Type) && authz.IsStoredID(o.ID) }

// absent returns an id that no object has, another one for each object. It cannot be guessed, so that nobody writes one.
func (c *call) absent(o authz.Object) string {
	mac := c.seals.mac("absent", o.String())
	return hex.EncodeToString(mac[:])
}

// freshness is where the objects of a request are looked up.
func freshness(of *v1.Consistency) authz.Freshness {
	switch r := of.GetRequirement().(type) {
	case *v1.Consistency_AtExactSnapshot:
		return authz.Freshness{Exactly: authz.Revision{Token: r.AtExactSnapshot.GetToken()}}
	case *v1.Consistency_AtLeastAsFresh:
		return authz.Freshness{AtLeast: authz.Revision{Token: r.AtLeastAsFresh.GetToken()}}
	default:
		return authz.Freshness{}
	}
}

// at makes a request ask at the revision at which its objects were looked up, if they were.
func (s *scope) at(of **v1.Consistency) {
	if s.snap != nil && !s.snap.Revision().IsZero() {
		*of = &v1.Consistency{Requirement: &v1.Consistency_AtExactSnapshot{AtExactSnapshot: &v1.ZedToken{Token: s.snap.Revision().ZedToken()}}}
	}
}

// confineTo has the engine asked for what exists of the objects, at the revision at which that is so.
func (c *call) confineTo(ctx context.Context, of **v1.Consistency, objects ...*v1.ObjectReference) error {
	named := make([]authz.Object, len(objects))
	for i, o := range objects {
		named[i] = objectOf(o)
	}
	s, err := c.lookUp(ctx, freshness(*of), named)
	if err != nil {
		return err
	}
	c.hide(s, objects...)
	s.at(of)
	return nil
}

// unknownType answers the name of a type that does not exist for the caller.
func (c *call) unknownType(ctx context.Context, name string, written bool) error {
	return c.withWhatThereIs(ctx, noType(name).Err(), written)
}

func (c *call) confineCheck(ctx context.Context, r *v1.CheckPermissionRequest) error {
	if r.GetWithTracing() {
		return noTrace()
	}
	schema, err := c.schema(ctx)
	if err != nil {
		return schemaFailure(ctx, err)
	}
	if missing := missingType(schema, r.GetResource(), r.GetSubject().GetObject()); missing != "" {
		return c.unknownType(ctx, missing, false)
	}
	return c.confineTo(ctx, &r.Consistency, r.GetResource(), r.GetSubject().GetObject())
}

func noTrace() error {
	return outOfBounds("with_tracing", "a trace shows what lies outside of the caller's bounds; ask without")
}

// bulkItem is an item of the two bulk checks.
type bulkItem interface {
	proto.Message
	GetResource() *v1.ObjectReference
	GetSubject() *v1.SubjectReference
}

// confineBulk judges a bulk check. An item that names a type which does not exist for the caller is answered here, with the pair that
// answers makes; the engine is asked something else in its place.
func confineBulk[I bulkItem](
	ctx context.Context, c *call, traced bool, items []I, of **v1.Consistency, answers func(I, *rpcstatus.Status) proto.Message,
) error {
	switch {
	case traced:
		return noTrace()
	case len(items) > maxBulk:
		return unsound("items", fmt.Sprintf("are %d, more than %d", len(items), maxBulk))
	}
	schema, err := c.schema(ctx)
	if err != nil {
		return schemaFailure(ctx, err)
	}
	var objects []*v1.ObjectReference
	c.pairs = map[int]proto.Message{}
	for i, item := range items {
		missing := missingType(schema, item.GetResource(), item.GetSubject().GetObject())
		if missing == "" {
			objects = append(objects, item.GetResource(), item.GetSubject().GetObject())
			continue
		}
		c.pairs[i] = answers(proto.CloneOf(item), noType(missing).Proto())
		if err := proto.Unmarshal(c.nothing(i), item); err != nil {
			return failure(codes.Internal, "INTERNAL", "", "the item cannot be left out")
		}
	}
	return c.confineTo(ctx, of, objects...)
}

// nothing is the encoding of item i of either bulk check that asks for what is not.
func (c *call) nothing(i int) []byte {
	id := c.absent(authz.Object{ID: strconv.Itoa(i)})
	return encodingOf(&v1.CheckBulkPermissionsRequestItem{
		Resource: &v1.ObjectReference{ObjectType: authz.TypeTenant, ObjectId: id}, Permission: "access",
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: authz.TypeUser, ObjectId: id}},
	}, nil)
}

// confineRead judges a read: of an exact object by a confined caller, and by others of a type, with an id or the beginning of one where
// they are bound to some. Of the rows that come, those beyond are dropped, so that the door counts the limit.
func (c *call) confineRead(ctx context.Context, r *v1.ReadRelationshipsRequest) error {
	f := r.GetRelationshipFilter()
	if err := c.confineFilter(ctx, f, "relationship_filter", false); err != nil {
		return err
	}
	if f.GetOptionalResourceId() != "" {
		o, at := &v1.ObjectReference{ObjectType: f.GetResourceType(), ObjectId: f.GetOptionalResourceId()}, r.GetConsistency()
		if err := c.confineTo(ctx, &at, o); err != nil {
			return err
		}
		f.OptionalResourceId = o.GetObjectId()
		if r.GetOptionalLimit() == 0 && r.GetOptionalCursor() == nil {
			r.Consistency = at
		}
	}
	c.rows, r.OptionalLimit = r.GetOptionalLimit(), 0
	return nil
}

// within returns an answer to a caller with bounds, nil where it holds a row of which an object does not exist for the caller, and whether the
// caller wants more. The rows are those of one object for a confined caller, so that mostly each has one object that is new, its subject.
func (c *call) within(ctx context.Context, answer []byte) (whole []byte, more bool, err error) {
	if c.route.path != v1.PermissionsService_ReadRelationships_FullMethodName {
		return answer, true, nil
	}
	var row v1.ReadRelationshipsResponse
	if err := proto.Unmarshal(answer, &row); err != nil {
		return nil, true, nil //nolint:nilerr // what cannot be read here, no caller can read
	}
	resource, subject := objectOf(row.GetRelationship().GetResource()), objectOf(row.GetRelationship().GetSubject().GetObject())
	if c.scope != nil && len(c.scope.known) >= maxKnown {
		clear(c.scope.known)
	}
	s, err := c.lookUp(ctx, authz.Freshness{}, []authz.Object{resource, subject})
	switch {
	case err != nil:
		return nil, false, err
	case !s.exists(resource) || !s.exists(subject):
		return nil, true, nil
	}
	c.rows-- // of a read without a limit it never comes to 0
	return answer, c.rows != 0, nil
}

// isRun reports whether an object is a delegation or a session: whether it exists stands in its relationships.
func isRun(o authz.Object) bool { return o.Type == authz.TypeDelegation || o.Type == authz.TypeSession }

// admits reports whether the bounds alone let an object exist; "*" stands for all of a type. Delegations and sessions are admitted only where
// all are: see isRun.
func (c *call) admits(o authz.Object) bool {
	if o.ID == "*" || isRun(o) {
		return covers(c.rights.Bounds, o.Type)
	}
	s := scope{bounds: c.rights.Bounds}
	decided, exists := s.byBounds(o)
	return !decided || exists
}

// lists reports whether all objects of a type exist for the caller. For a confined one, those of no type do.
func (c *call) lists(objectType string) bool {
	return !c.rights.Bounds.Confined() && covers(c.rights.Bounds, objectType)
}

// covers reports whether all objects of a type lie within, but for their tenants.
func covers(b *authz.Bounds, objectType string) bool {
	switch objectType {
	case authz.TypeTenant:
		return !b.Confined()
	case authz.TypeAgent:
		return b.Agents.All()
	case authz.TypeUser, authz.TypeService:
		return b.HasPrincipals(objectType)
	case authz.TypeDelegation, authz.TypeSession:
		return b.Agents.All() && b.AllPrincipals()
	default:
		return b.HasType(objectType) && b.IDs.All()
	}
}

// confineFilter judges a filter. all says that it may match nothing beyond, as what is deleted, or what a write is conditional on; of what
// is read, rows beyond are dropped.
func (c *call) confineFilter(ctx context.Context, f *v1.RelationshipFilter, field string, all bool) error {
	schema, err := c.schema(ctx)
	if err != nil {
		return schemaFailure(ctx, err)
	}
	resource, subject := filtered(f)
	for _, o := range []authz.Object{resource, subject} {
		if named(o.Type) && schema.Types[o.Type] == nil {
			return c.unknownType(ctx, o.Type, true)
		}
	}
	switch {
	case resource.Type == "":
		return outOfBounds(field, "names no resource type, and so may reach beyond the caller's bounds")
	case resource.ID == "" && c.rights.Bounds.Confined():
		return outOfBounds(field, "names no resource id, and the caller is bound to tenants: it reads and writes the relationships of one object at a time")
	case resource.ID == "" && !c.lists(resource.Type) && !c.begins(f):
		return outOfBounds(field, "reaches beyond the caller's bounds: name an id, or the beginning of one, that lies within")
	case !all:
		return nil
	}
	s, err := c.lookUp(ctx, authz.Freshness{}, []authz.Object{resource, subject})
	switch {
	case err != nil:
		return err
	case s.placed[resource]: // it is new, and no relationship is stored that the filter could match
		return nil
	case resource.ID != "" && !s.exists(resource):
		return outOfBounds(field, authz.Show(resource)+" does not exist for the caller")
	case subject.ID == "" && c.rights.Bounds.Confined():
		return outOfBounds(field, "names no subject, and the caller is bound to tenants: name the type and the id of one that exists for it")
	case subject.ID != "" && !s.exists(subject):
		return outOfBounds(field, "the subject "+authz.Show(subject)+" does not exist for the caller")
	case subject.ID == "" && subject.Type != "" && !c.lists(subject.Type):
		return outOfBounds(field, "names subjects beyond the caller's bounds: name one that lies within")
	}
	return nil
}

// confinePreconditions judges what a write of a caller with bounds is conditional on: relationships that exist for it, by their resource and
// their subject.
func (c *call) confinePreconditions(ctx context.Context, preconditions []*v1.Precondition) error {
	var objects []authz.Object
	for _, p := range preconditions {
		resource, subject := filtered(p.GetFilter())
		objects = append(objects, resource, subject)
	}
	if _, err := c.lookUp(ctx, authz.Freshness{}, objects); err != nil { // at once, not one after the other
		return err
	}
	for i, p := range preconditions {
		if err := c.confineFilter(ctx, p.GetFilter(), fmt.Sprintf("optional_preconditions[%d].filter", i), true); err != nil {
			return err
		}
	}
	return nil
}

// listsAll reports whether the caller is bound to tenants only.
func (c *call) listsAll() bool {
	b := c.rights.Bounds
	return b.Agents.All() && b.AllPrincipals() && b.Objects.All() && b.IDs.All()
}

// begins reports whether a filter names the beginning of the ids of a type of the domain, within.
func (c *call) begins(f *v1.RelationshipFilter) bool {
	return !authz.IsCore(f.GetResourceType()) && f.GetOptionalResourceIdPrefix() != "" && c.rights.Bounds.IDs.Match(f.GetOptionalResourceIdPrefix())
}

func beyond(o authz.Object) string {
	return authz.Show(o) + " lies outside of the caller's bounds"
}

// confineLookupResources judges a lookup, whose caller is bound to no tenants.
func (c *call) confineLookupResources(ctx context.Context, r *v1.LookupResourcesRequest) error {
	if err := c.confineList(ctx, "resource_object_type", r.GetResourceObjectType(), r.GetSubject().GetObject()); err != nil {
		return err
	}
	return c.confineTo(ctx, &r.Consistency, r.GetSubject().GetObject())
}

// confineLookupSubjects judges a lookup, whose caller is bound to no tenants.
func (c *call) confineLookupSubjects(ctx context.Context, r *v1.LookupSubjectsRequest) error {
	if err := c.confineList(ctx, "subject_object_type", r.GetSubjectObjectType(), r.GetResource()); err != nil {
		return err
	}
	return c.confineTo(ctx, &r.Consistency, r.GetResource())
}

// confineList judges a list of all objects of a type, about another object.
func (c *call) confineList(ctx context.Context, field, listed string, about *v1.ObjectReference) error {
	schema, err := c.schema(ctx)
	if err != nil {
		return schemaFailure(ctx, err)
	}
	if missing := missingType(schema, &v1.ObjectReference{ObjectType: listed}, about); missing != "" {
		return c.unknownType(ctx, missing, false)
	}
	if c.rights.Bounds.Confined() || named(listed) && !c.lists(listed) {
		return outOfBounds(field, "lists objects beyond the caller's bounds")
	}
	return nil
}

// confineRelationship judges a relationship that is written, as far as the bounds alone say. looked says that what they leave open is
// looked up afterwards.
func (c *call) confineRelationship(schema *authz.Schema, r *v1.Relationship, field string, looked bool) error {
	resource, subject := objectOf(r.GetResource()), objectOf(r.GetSubject().GetObject())
	for _, o := range []authz.Object{resource, subject} {
		if _, err := known(schema, o.Type, ""); err != nil {
			return failure(codes.FailedPrecondition, authz.ReasonUnknownType, field, err.Error())
		}
		later := looked && isRun(o) && o.ID != "*"
		if (askable(o) || o.ID == "*") && !c.admits(o) && !later {
			return outOfBounds(field, beyond(o))
		}
	}
	if authz.IsCore(resource.Type) && c.rights.Bounds.Confined() {
		return outOfBounds(field, "writes to the core types, which are about all tenants, and the caller is bound to some")
	}
	return nil
}

// confineWrite judges a write of a caller with bounds: each of its resources exists for the caller, or is new and placed by the write, and
// what its subjects and preconditions name does. The refusal is the same for what another tenant has and for what nobody has. An object can move
// to another tenant between the judgement and the write, which takes an organizer; the write then counts as one from before the move.
func (c *call) confineWrite(ctx context.Context, schema *authz.Schema, req *v1.WriteRelationshipsRequest, feeding []int) error {
	var objects []authz.Object
	for _, u := range req.GetUpdates() {
		objects = append(objects, objectOf(u.GetRelationship().GetResource()), objectOf(u.GetRelationship().GetSubject().GetObject()))
	}
	s, err := c.lookUp(ctx, authz.Freshness{}, objects)
	if err != nil {
		return err
	}
	// judged are the updates that take it that an object is new.
	var judged []int
	for _, i := range feeding {
		o := objectOf(req.GetUpdates()[i].GetRelationship().GetResource())
		if !s.has(o) {
			s.placed[o] = true
		}
		if s.placed[o] || !c.rights.Feeds {
			judged = append(judged, i)
		}
	}
	for i, u := range req.GetUpdates() {
		field := fmt.Sprintf("updates[%d]", i)
		if o := objectOf(u.GetRelationship().GetResource()); !s.exists(o) {
			return outOfBounds(field, authz.Show(o)+" does not exist for the caller; place a new object in the write that names it first")
		}
		if o := objectOf(u.GetRelationship().GetSubject().GetObject()); !s.exists(o) && !takesFrom(u) {
			return outOfBounds(field, "the subject "+authz.Show(o)+" does not exist for the caller")
		}
	}
	if err := c.confinePreconditions(ctx, req.GetOptionalPreconditions()); err != nil || len(judged) == 0 {
		return err
	}
	return c.place(ctx, schema, req, judged, s)
}

// takesFrom reports whether an update takes from a user, a service or an agent what it has been given, which may have left the tenants since.
// The answer does not tell whether it had anything.
func takesFrom(u *v1.RelationshipUpdate) bool {
	subject := u.GetRelationship().GetSubject()
	switch subject.GetObject().GetObjectType() {
	case authz.TypeUser, authz.TypeService, authz.TypeAgent:
		return u.GetOperation() == v1.RelationshipUpdate_OPERATION_DELETE && plain(subject.GetOptionalRelation()) == ""
	}
	return false
}

// filtered returns what a filter names; "" for what it leaves open.
func filtered(f *v1.RelationshipFilter) (resource, subject authz.Object) {
	of := f.GetOptionalSubjectFilter()
	return authz.Object{Type: f.GetResourceType(), ID: f.GetOptionalResourceId()}, authz.Object{Type: of.GetSubjectType(), ID: of.GetOptionalSubjectId()}
}
