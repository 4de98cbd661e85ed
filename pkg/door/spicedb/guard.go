package spicedb

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
)

// guard judges message n (from 0) of a call that writes. A nil error lets it pass; what goes upstream is the encoding of
// what was judged.
//
// It lets no caller write a schema whose core differs from core.zed. Only an admin may write, delete or load
// relationships on an object of a core type. What only an organizer may do, and an admin: write, delete or load relationships
//
//   - whose subject is an agent or a delegation, also "agent:*" and "agent:bot#owner",
//   - in a relation that the tenant of anything is computed from,
//   - through which an agent or a delegation can reach anything: whose subject is a set that can contain
//     one, or which an arrow follows to where one can hold something.
//
// Of the last two, every writer may write those that place a new object; see placing. A delete is judged by what its
// filter could match, not by what it would match now. Preconditions are reads, which the caller's bounds are for (see scope). Limits,
// partial deletion and transaction metadata change nothing about what is touched.
//
// A write is judged by a schema that was in force after the write arrived; SpiceDB commits it under the
// schema in force then, and offers no way to tie the two. That leaves one hole: while an admin's schema
// write makes an existing relation feed tenant, a write to that relation, judged before, can commit
// after. The admin has to look at what stands in the relation anyway, because services could write it
// until then; the look has to come when the calls that were under way have ended. New types and
// relations have no such hole, because what the schema does not know is refused here, not by SpiceDB.
type guard func(ctx context.Context, c *call, n int, request proto.Message) error

// unlessFree has the messages of all callers judged but of those that may write everything.
func unlessFree[M proto.Message](judge func(*call, context.Context, int, M) error) guard {
	judged := everybody(judge)
	return func(ctx context.Context, c *call, n int, request proto.Message) error {
		if c.rights.Core && !c.bound {
			return nil
		}
		return judged(ctx, c, n, request)
	}
}

// everybody has all messages judged.
func everybody[M proto.Message](judge func(*call, context.Context, int, M) error) guard {
	return func(ctx context.Context, c *call, n int, request proto.Message) error {
		typed, ok := request.(M)
		if !ok {
			return failure(codes.Internal, "INTERNAL", "", "the request is of another type than its method's")
		}
		return judge(c, ctx, n, typed)
	}
}

// schema returns the schema in force, of the types that exist for the caller.
func (c *call) schema(ctx context.Context) (*authz.Schema, error) {
	schema, err := c.cfg.Schema(ctx)
	if err != nil {
		return nil, err
	}
	return schema.Within(c.rights.Bounds), nil
}

// judgeSchema refuses a schema that changes the core. Whether SpiceDB takes the rest is up to it.
func (c *call) judgeSchema(_ context.Context, _ int, req *v1.WriteSchemaRequest) error {
	model, err := c.cfg.Model(req.GetSchema())
	if err != nil {
		message := "the schema does not compile"
		if known, ok := errors.AsType[*authz.Error](err); ok {
			message = known.Message
		}
		return failure(codes.InvalidArgument, authz.ReasonInvalidField, "schema", message)
	}
	if model.CoreDifference != "" {
		return failure(codes.FailedPrecondition, authz.ReasonCoreSchema, "schema", model.WrongCore())
	}
	return nil
}

func (c *call) judgeWrite(ctx context.Context, _ int, req *v1.WriteRelationshipsRequest) error {
	schema, err := c.schema(ctx)
	if err != nil {
		return schemaFailure(ctx, err)
	}
	var feeding []int
	for i, update := range req.GetUpdates() {
		r := update.GetRelationship()
		feeds, err := c.judgeRelationship(schema, r, updatesField, i)
		switch {
		case err != nil:
			return err
		case !feeds:
		case update.GetOperation() == v1.RelationshipUpdate_OPERATION_CREATE, update.GetOperation() == v1.RelationshipUpdate_OPERATION_TOUCH:
			feeding = append(feeding, i)
		case !c.rights.Feeds:
			return needs(organizer, fmt.Sprintf("updates[%d]", i), "deleting a relationship of "+r.GetResource().GetObjectType()+"#"+r.GetRelation()+
				", which decides a tenant, or what agents reach")
		}
	}
	switch {
	case c.bound:
		return c.confineWrite(ctx, schema, req, feeding)
	case len(feeding) == 0, c.rights.Feeds:
		return nil
	}
	return c.place(ctx, schema, req, feeding, nil)
}

func (c *call) judgeImport(ctx context.Context, n int, req *v1.ImportBulkRelationshipsRequest) error {
	return c.judgeLoad(ctx, n, req.GetRelationships())
}

func (c *call) judgeBulkImport(ctx context.Context, n int, req *v1.BulkImportRelationshipsRequest) error {
	return c.judgeLoad(ctx, n, req.GetRelationships())
}

// judgeLoad judges a part of an import. An import has no preconditions, so that it cannot place objects.
func (c *call) judgeLoad(ctx context.Context, n int, relationships []*v1.Relationship) error {
	schema, err := c.schema(ctx)
	if err != nil {
		return schemaFailure(ctx, err)
	}
	if c.rights.Bounds.Confined() {
		return outOfBounds("", "an import has no preconditions, and the caller is bound to tenants; write relationships instead")
	}
	list := fmt.Sprintf("messages[%d].relationships", n)
	for i, r := range relationships {
		feeds, err := c.judgeRelationship(schema, r, list, i)
		if err != nil {
			return err
		}
		if feeds && !c.rights.Feeds {
			return needs(organizer, fmt.Sprintf("%s[%d]", list, i), "importing a relationship of "+r.GetResource().GetObjectType()+"#"+r.GetRelation()+
				", which decides a tenant, or what agents reach; WriteRelationships places new objects")
		}
	}
	return nil
}

func (c *call) judgeDelete(ctx context.Context, _ int, req *v1.DeleteRelationshipsRequest) error {
	schema, err := c.schema(ctx)
	if err != nil {
		return schemaFailure(ctx, err)
	}
	if c.bound {
		if err := c.confineFilter(ctx, req.GetRelationshipFilter(), "relationship_filter", true); err != nil {
			return err
		}
		if err := c.confinePreconditions(ctx, req.GetOptionalPreconditions()); err != nil {
			return err
		}
		if f := req.GetRelationshipFilter(); f.GetOptionalSubjectFilter().GetSubjectType() == "" && !c.listsAll() || c.rights.Bounds.Confined() {
			return outOfBounds("relationship_filter", "may match relationships beyond the caller's bounds; name a type of subjects within")
		}
	}
	return c.judgeFilter(schema, req.GetRelationshipFilter(), "relationship_filter")
}

// judgeRelationship judges item i of a list of relationships. feeds says that the relationship decides in which tenant
// objects lie, or what agents and delegations reach: it takes an organizer, except where it places a new object.
func (c *call) judgeRelationship(schema *authz.Schema, r *v1.Relationship, list string, i int) (feeds bool, err error) {
	field := func() string { return fmt.Sprintf("%s[%d]", list, i) }
	resourceType := r.GetResource().GetObjectType()
	if c.bound {
		if err := c.confineRelationship(schema, r, field(), list == updatesField); err != nil {
			return false, err
		}
	}
	switch {
	case authz.IsCore(resourceType):
		if !c.rights.Core {
			return false, needs(admin, field(), "writing to the core types")
		}
		return false, nil
	case authz.ActsForPrincipal(r.GetSubject().GetObject().GetObjectType()):
		if !c.rights.Feeds {
			return false, needs(organizer, field(), "writing relationships whose subject is an agent or a delegation")
		}
	}
	t, err := known(schema, resourceType, r.GetRelation())
	if err != nil {
		return false, failure(codes.FailedPrecondition, authz.ReasonUnknownType, field(), err.Error())
	}
	if authz.ActsForPrincipal(r.GetSubject().GetObject().GetObjectType()) {
		return false, nil // an organizer grants it, whatever it feeds
	}
	return t.Feeds(r.GetRelation(), authz.Subject{Object: objectOf(r.GetSubject().GetObject()), Relation: plain(r.GetSubject().GetOptionalRelation())}), nil
}

// plain returns the relation of a subject, "" for the object itself however that is written.
func plain(relation string) string {
	if relation == "..." {
		return ""
	}
	return relation
}

// judgeFilter judges all that a filter could match. What it says of ids does not come into it.
func (c *call) judgeFilter(schema *authz.Schema, f *v1.RelationshipFilter, field string) error {
	subjectType := f.GetOptionalSubjectFilter().GetSubjectType()
	switch {
	case c.rights.Core:
		return nil
	case f.GetResourceType() == "":
		return needs(admin, field, "deleting without a resource type, which takes from the core types too")
	case authz.IsCore(f.GetResourceType()):
		return needs(admin, field, "deleting from the core types")
	case c.rights.Feeds:
		return nil
	case subjectType == "":
		// The model of a schema does not say which relations admit agents.
		return needs(organizer, field, "deleting without a subject type, because that takes grants to agents and delegations too")
	case authz.ActsForPrincipal(subjectType):
		return needs(organizer, field, "deleting relationships whose subject is an agent or a delegation")
	}
	t, err := known(schema, f.GetResourceType(), f.GetOptionalRelation())
	if err != nil {
		return failure(codes.FailedPrecondition, authz.ReasonUnknownType, field, err.Error())
	}
	if t.FeedsTenant[f.GetOptionalRelation()] || f.GetOptionalRelation() == "" && len(t.FeedsTenant) > 0 {
		return needs(organizer, field, "deleting from a relation that a tenant is computed from")
	}
	of := f.GetOptionalSubjectFilter().GetOptionalRelation()
	for e := range t.FeedsAgents {
		if (f.GetOptionalRelation() == "" || f.GetOptionalRelation() == e.Relation) && subjectType == e.SubjectType &&
			(of == nil || plain(of.GetRelation()) == e.SubjectRelation) {
			return needs(organizer, field, "deleting from "+t.Name+"#"+e.Relation+", through which agents reach objects (name a relation and a kind of "+
				"subject that they do not)")
		}
	}
	return nil
}

// updatesField is the field of a write that lists what it writes.
const updatesField = "updates"

// The roles that a write can lack.
const (
	admin     = "admin"
	organizer = "organizer"
)

// needs refuses what takes a role that the caller has not.
func needs(role, field, what string) error {
	return failure(codes.PermissionDenied, authz.ReasonRoleRequired, field, what+" takes the role "+role)
}

// known returns the type, which must have the member unless that is "". Its error says what there is.
func known(schema *authz.Schema, objectType, member string) (*authz.Type, error) {
	t, ok := schema.Types[objectType]
	if !ok {
		return nil, errors.New("type " + schema.NoType(objectType)) //nolint:err113 // it is a message
	}
	if _, ok := t.Members[member]; !ok && member != "" {
		return nil, errors.New("relation " + t.NoRelation(member)) //nolint:err113 // it is a message
	}
	return t, nil
}
