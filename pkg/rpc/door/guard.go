package door

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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
//   - in a relation that the tenant of anything is computed from.
//
// A delete is judged by what its filter could match, not by what it would match now. Preconditions are
// reads, and reads are free. Limits, partial deletion and transaction metadata change nothing about what
// is touched. Of an admin nothing else is asked.
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
		if d.cfg.IsAdmin(ctx) {
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
			return status.Error(codes.Internal, "the request is of another type than its method's")
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
		return failure(codes.FailedPrecondition, authz.ReasonCoreSchema, "schema",
			"the core definitions differ from core.zed: "+model.CoreDifference)
	}
	return nil
}

func (d *Door) judgeWrite(ctx context.Context, _ int, req *v1.WriteRelationshipsRequest) error {
	schema, err := d.cfg.Schema(ctx)
	if err != nil {
		return schemaFailure(ctx, err)
	}
	for i, update := range req.GetUpdates() {
		if err := judgeRelationship(schema, update.GetRelationship(), "updates", i); err != nil {
			return err
		}
	}
	return nil
}

func (d *Door) judgeImport(ctx context.Context, n int, req *v1.ImportBulkRelationshipsRequest) error {
	return d.judgeLoad(ctx, n, req.GetRelationships())
}

func (d *Door) judgeBulkImport(ctx context.Context, n int, req *v1.BulkImportRelationshipsRequest) error {
	return d.judgeLoad(ctx, n, req.GetRelationships())
}

func (d *Door) judgeLoad(ctx context.Context, n int, relationships []*v1.Relationship) error {
	schema, err := d.cfg.Schema(ctx)
	if err != nil {
		return schemaFailure(ctx, err)
	}
	list := fmt.Sprintf("messages[%d].relationships", n)
	for i, r := range relationships {
		if err := judgeRelationship(schema, r, list, i); err != nil {
			return err
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

// judgeRelationship judges item i of a list of relationships.
func judgeRelationship(schema *authz.Schema, r *v1.Relationship, list string, i int) error {
	field := func() string { return fmt.Sprintf("%s[%d]", list, i) }
	resourceType := r.GetResource().GetObjectType()
	switch {
	case isCore(resourceType):
		return forAdmins(field(), "write to the core types")
	case isGrantee(r.GetSubject().GetObject().GetObjectType()):
		return forAdmins(field(), "write relationships whose subject is an agent or a delegation")
	}
	t, err := known(schema, resourceType, r.GetRelation())
	if err != nil {
		return failure(codes.FailedPrecondition, authz.ReasonUnknownType, field(), err.Error())
	}
	if t.FeedsTenant[r.GetRelation()] {
		return forAdmins(field(), "write a relation that a tenant is computed from")
	}
	return nil
}

// judgeFilter judges all that a filter could match. What it says of ids, and of the subject's relation,
// does not come into it.
func judgeFilter(schema *authz.Schema, f *v1.RelationshipFilter, field string) error {
	subjectType := f.GetOptionalSubjectFilter().GetSubjectType()
	switch {
	case f.GetResourceType() == "":
		return forAdmins(field, "delete without a resource type")
	case isCore(f.GetResourceType()):
		return forAdmins(field, "delete from the core types")
	case subjectType == "":
		// The model of a schema does not say which relations admit agents.
		return forAdmins(field, "delete without a subject type, because that takes grants to agents and delegations too")
	case isGrantee(subjectType):
		return forAdmins(field, "delete relationships whose subject is an agent or a delegation")
	}
	t, err := known(schema, f.GetResourceType(), f.GetOptionalRelation())
	if err != nil {
		return failure(codes.FailedPrecondition, authz.ReasonUnknownType, field, err.Error())
	}
	if t.FeedsTenant[f.GetOptionalRelation()] || f.GetOptionalRelation() == "" && len(t.FeedsTenant) > 0 {
		return forAdmins(field, "delete from a relation that a tenant is computed from")
	}
	return nil
}

func forAdmins(field, what string) error {
	return failure(codes.PermissionDenied, authz.ReasonAdminOnly, field, "only an admin may "+what)
}

func isCore(objectType string) bool { return slices.Contains(authz.CoreTypes, objectType) }

// isGrantee reports whether a subject of the type acts under Deputy's rule.
func isGrantee(objectType string) bool {
	return objectType == authz.TypeAgent || objectType == authz.TypeDelegation
}

// known returns the type, which must have the member unless that is "".
func known(schema *authz.Schema, objectType, member string) (*authz.Type, error) {
	t, ok := schema.Types[objectType]
	if !ok {
		return nil, fmt.Errorf("the schema has no type %q", objectType)
	}
	if _, ok := t.Members[member]; !ok && member != "" {
		return nil, fmt.Errorf("the schema's type %s has no relation %q", objectType, member)
	}
	return t, nil
}
