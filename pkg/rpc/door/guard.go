package door

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
// What it protects, whoever asks: a schema whose core differs from core.zed is not written. What only
// an admin may do: write the schema and counters; and write, delete or load relationships
//
//   - on an object of a core type,
//   - whose subject is an agent or a delegation, also "agent:*" and "agent:bot#owner",
//   - in a relation that the tenant of anything is computed from,
//   - through which an agent or a delegation can reach anything: whose subject is a set that can contain
//     one, or which an arrow follows to where one can hold something.
//
// Of the last two, everybody may write those that place a new object; see placing. A delete is judged by what its
// filter could match, not by what it would match now. Preconditions are reads, and reads are free. Limits, partial
// deletion and transaction metadata change nothing about what is touched. Of an admin nothing else is asked.
//
// A write is judged by a schema that was in force after the write arrived; SpiceDB commits it under the
// schema in force then, and offers no way to tie the two. That leaves one hole: while an admin's schema
// write makes an existing relation feed tenant, a write to that relation, judged before, can commit
// after. The admin has to look at what stands in the relation anyway, because services could write it
// until then; the look has to come when the calls that were under way have ended. New types and
// relations have no such hole, because what the schema does not know is refused here, not by SpiceDB.
type guard func(ctx context.Context, d *Door, n int, request proto.Message) error

// unlessAdmin has the messages of all but admins judged.
func unlessAdmin[M proto.Message](judge func(*Door, context.Context, int, M) error) guard {
	judged := everybody(judge)
	return func(ctx context.Context, d *Door, n int, request proto.Message) error {
		if d.cfg.Rights(ctx).Core {
			return nil
		}
		return judged(ctx, d, n, request)
	}
}

// everybody has all messages judged.
func everybody[M proto.Message](judge func(*Door, context.Context, int, M) error) guard {
	return func(ctx context.Context, d *Door, n int, request proto.Message) error {
		typed, ok := request.(M)
		if !ok {
			return failure(codes.Internal, "INTERNAL", "", "the request is of another type than its method's")
		}
		return judge(d, ctx, n, typed)
	}
}

// judgeSchema refuses a schema that changes the core. Whether SpiceDB takes the rest is up to it.
func (d *Door) judgeSchema(_ context.Context, _ int, req *v1.WriteSchemaRequest) error {
	model, err := d.cfg.Model(req.GetSchema())
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

func (d *Door) judgeWrite(ctx context.Context, _ int, req *v1.WriteRelationshipsRequest) error {
	schema, err := d.cfg.Schema(ctx)
	if err != nil {
		return schemaFailure(ctx, err)
	}
	var places []int
	for i, update := range req.GetUpdates() {
		r := update.GetRelationship()
		feeds, err := judgeRelationship(schema, r, "updates", i)
		switch {
		case err != nil:
			return err
		case !feeds:
		case update.GetOperation() == v1.RelationshipUpdate_OPERATION_CREATE, update.GetOperation() == v1.RelationshipUpdate_OPERATION_TOUCH:
			places = append(places, i)
		default:
			return forAdmins(fmt.Sprintf("updates[%d]", i), "delete a relationship of "+r.GetResource().GetObjectType()+"#"+r.GetRelation()+
				", which decides a tenant, or what agents reach")
		}
	}
	if len(places) == 0 {
		return nil
	}
	return d.place(ctx, schema, req, places)
}

func (d *Door) judgeImport(ctx context.Context, n int, req *v1.ImportBulkRelationshipsRequest) error {
	return d.judgeLoad(ctx, n, req.GetRelationships())
}

func (d *Door) judgeBulkImport(ctx context.Context, n int, req *v1.BulkImportRelationshipsRequest) error {
	return d.judgeLoad(ctx, n, req.GetRelationships())
}

// judgeLoad judges a part of an import. An import has no preconditions, so that it cannot place objects.
func (d *Door) judgeLoad(ctx context.Context, n int, relationships []*v1.Relationship) error {
	schema, err := d.cfg.Schema(ctx)
	if err != nil {
		return schemaFailure(ctx, err)
	}
	list := fmt.Sprintf("messages[%d].relationships", n)
	for i, r := range relationships {
		feeds, err := judgeRelationship(schema, r, list, i)
		if err != nil {
			return err
		}
		if feeds {
			return forAdmins(fmt.Sprintf("%s[%d]", list, i), "import a relationship of "+r.GetResource().GetObjectType()+"#"+r.GetRelation()+
				", which decides a tenant, or what agents reach; WriteRelationships places new objects")
		}
	}
	return nil
}

func (d *Door) judgeDelete(ctx context.Context, _ int, req *v1.DeleteRelationshipsRequest) error {
	schema, err := d.cfg.Schema(ctx)
	if err != nil {
		return schemaFailure(ctx, err)
	}
	return judgeFilter(schema, req.GetRelationshipFilter(), "relationship_filter")
}

// judgeRelationship judges item i of a list of relationships. feeds says that the relationship decides in which tenant
// objects lie, or what agents and delegations reach: only an admin may write it, except where it places a new object.
func judgeRelationship(schema *authz.Schema, r *v1.Relationship, list string, i int) (feeds bool, err error) {
	field := func() string { return fmt.Sprintf("%s[%d]", list, i) }
	resourceType := r.GetResource().GetObjectType()
	switch {
	case authz.IsCore(resourceType):
		return false, forAdmins(field(), "write to the core types")
	case authz.ActsForPrincipal(r.GetSubject().GetObject().GetObjectType()):
		return false, forAdmins(field(), "write relationships whose subject is an agent or a delegation")
	}
	t, err := known(schema, resourceType, r.GetRelation())
	if err != nil {
		return false, failure(codes.FailedPrecondition, authz.ReasonUnknownType, field(), err.Error())
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
func judgeFilter(schema *authz.Schema, f *v1.RelationshipFilter, field string) error {
	subjectType := f.GetOptionalSubjectFilter().GetSubjectType()
	switch {
	case f.GetResourceType() == "":
		return forAdmins(field, "delete without a resource type")
	case authz.IsCore(f.GetResourceType()):
		return forAdmins(field, "delete from the core types")
	case subjectType == "":
		// The model of a schema does not say which relations admit agents.
		return forAdmins(field, "delete without a subject type, because that takes grants to agents and delegations too")
	case authz.ActsForPrincipal(subjectType):
		return forAdmins(field, "delete relationships whose subject is an agent or a delegation")
	}
	t, err := known(schema, f.GetResourceType(), f.GetOptionalRelation())
	if err != nil {
		return failure(codes.FailedPrecondition, authz.ReasonUnknownType, field, err.Error())
	}
	if t.FeedsTenant[f.GetOptionalRelation()] || f.GetOptionalRelation() == "" && len(t.FeedsTenant) > 0 {
		return forAdmins(field, "delete from a relation that a tenant is computed from")
	}
	of := f.GetOptionalSubjectFilter().GetOptionalRelation()
	for e := range t.FeedsAgents {
		if (f.GetOptionalRelation() == "" || f.GetOptionalRelation() == e.Relation) && subjectType == e.SubjectType &&
			(of == nil || plain(of.GetRelation()) == e.SubjectRelation) {
			return forAdmins(field, "delete from "+t.Name+"#"+e.Relation+", through which agents reach objects; name a relation and a kind of subject that they do not")
		}
	}
	return nil
}

func forAdmins(field, what string) error {
	return failure(codes.PermissionDenied, authz.ReasonRoleRequired, field, "only an admin may "+what)
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
