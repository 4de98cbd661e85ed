package spicedb

import (
	"context"
	"fmt"
	"maps"
	"slices"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
)

const (
	// maxParents is how many stored objects a write can place others under.
	maxParents = 100
	// maxPreconditions is SpiceDB's own limit on a write. Each object that is placed takes two.
	maxPreconditions = 1000
	// parallelLooks is how many look-ups of one write are under way at once.
	parallelLooks = 8
)

// placing is a write that places objects: it writes relationships which decide in which tenant an object lies, or
// which let agents and delegations reach it.
//
// An organizer may do that at any time. A writer may do it for an object that is new, because that is what services
// do all day, and a new object cannot widen what an agent reaches of the rest: no stored relationship names it, as a
// resource or as a subject, and all that it is placed under lies in exactly one and the same tenant. That it is
// new is a precondition of the write itself. Its parents may move at the same time, which takes an organizer: then
// the object moves along, as if it had been placed before.
//
// A relationship that is stored already, just as it is written, is left out of the write, on condition that it is still
// there, with whatever caveat: a service that repeats a write whose answer was lost gets an answer.
type placing struct {
	snap   authz.Snapshot
	schema *authz.Schema
	req    *v1.WriteRelationshipsRequest
	// of holds, by object, the updates that place it.
	of map[authz.Object][]int
	// stored holds the objects of those that relationships name already.
	stored map[authz.Object]bool
	// tenants holds the one tenant of each object that was asked for; "" while it is being computed.
	tenants map[authz.Object]string
	parents int
}

// place judges the updates that place objects, and adds to the request what keeps the judgement true. It returns
// the first update that takes an organizer, as the refusal. s is what exists for a caller with bounds, at the snapshot that is looked
// at here too if there is one; nil for others.
func (c *call) place(ctx context.Context, schema *authz.Schema, req *v1.WriteRelationshipsRequest, updates []int, s *scope) error {
	p := &placing{
		schema: schema, req: req,
		of: map[authz.Object][]int{}, stored: map[authz.Object]bool{}, tenants: map[authz.Object]string{},
	}
	if c.cfg.Snapshot == nil {
		return p.refuse(updates[0], "writing it", "this server does not know where objects lie")
	}
	var err error
	if s != nil && s.snap != nil {
		p.snap = s.snap
	} else if p.snap, err = c.cfg.Snapshot(ctx, authz.Freshness{}); err != nil {
		return schemaFailure(ctx, err)
	}
	for _, i := range updates {
		object := objectOf(req.GetUpdates()[i].GetRelationship().GetResource())
		p.of[object] = append(p.of[object], i)
	}
	objects := slices.SortedFunc(maps.Keys(p.of), func(a, b authz.Object) int { return p.of[a][0] - p.of[b][0] })
	if n := 2*len(objects) + len(req.GetOptionalPreconditions()); n > maxPreconditions {
		return failure(codes.InvalidArgument, authz.ReasonInvalidField, "updates", fmt.Sprintf(
			"places %d objects, which takes %d preconditions with the request's own, more than %d; split the write", len(objects), n, maxPreconditions))
	}
	if err := p.look(ctx, objects); err != nil {
		return err
	}
	var repeated []int
	for _, object := range objects {
		if !p.stored[object] {
			if _, err := p.tenant(ctx, object, p.of[object][0]); err != nil {
				return err
			}
			req.OptionalPreconditions = append(req.OptionalPreconditions,
				&v1.Precondition{Operation: v1.Precondition_OPERATION_MUST_NOT_MATCH, Filter: &v1.RelationshipFilter{
					ResourceType: object.Type, OptionalResourceId: object.ID,
				}},
				&v1.Precondition{Operation: v1.Precondition_OPERATION_MUST_NOT_MATCH, Filter: &v1.RelationshipFilter{
					OptionalSubjectFilter: &v1.SubjectFilter{SubjectType: object.Type, OptionalSubjectId: object.ID},
				}})
			continue
		}
		// What another tenant has is not compared with what is written, only refused.
		foreign := s != nil && !s.has(object)
		for _, i := range p.of[object] {
			if foreign {
				return p.taken(i, object)
			}
			same, err := p.repeats(ctx, i)
			if err != nil {
				return err
			}
			if !same {
				return p.taken(i, object)
			}
			repeated = append(repeated, i)
			req.OptionalPreconditions = append(req.OptionalPreconditions, &v1.Precondition{
				Operation: v1.Precondition_OPERATION_MUST_MATCH, Filter: filterOf(req.GetUpdates()[i].GetRelationship()),
			})
		}
	}
	if n := len(req.GetOptionalPreconditions()); n > maxPreconditions {
		return failure(codes.InvalidArgument, authz.ReasonInvalidField, "updates", fmt.Sprintf(
			"places objects and repeats %d relationships, which takes %d preconditions, more than %d; split the write", len(repeated), n, maxPreconditions))
	}
	p.leaveOut(repeated)
	return nil
}

// refuse refuses update i.
func (p *placing) refuse(i int, what, instead string) error {
	r := p.req.GetUpdates()[i].GetRelationship()
	return failure(codes.PermissionDenied, authz.ReasonRoleRequired, fmt.Sprintf("updates[%d]", i), fmt.Sprintf(
		"%s#%s decides a tenant, or what agents reach: %s takes the role %s; %s", r.GetResource().GetObjectType(), r.GetRelation(), what, organizer, instead))
}

// taken refuses update i because its object is none that is new. Ids are one namespace: it may be another tenant's.
func (p *placing) taken(i int, object authz.Object) error {
	return p.refuse(i, fmt.Sprintf("placing %s, which relationships name already,", authz.Show(object)), "place an object in the write that names it first")
}

// graphFailure returns the status for a look-up that failed. What the engine refuses to look up cannot be written.
func (p *placing) graphFailure(ctx context.Context, err error) error {
	if kind := authz.KindOf(err); kind == authz.Invalid || kind == authz.Precondition {
		return failure(codes.InvalidArgument, authz.ReasonInvalidField, "updates", "an object's id is malformed, or its tenant cannot be computed")
	}
	return schemaFailure(ctx, err)
}

// look finds out which of the objects a stored relationship names.
func (p *placing) look(ctx context.Context, objects []authz.Object) error {
	found := make([]bool, 2*len(objects))
	outer := ctx
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelLooks)
	for i, object := range objects {
		for j, f := range []authz.Filter{{Resource: object}, {SubjectType: object.Type, SubjectID: object.ID}} {
			group.Go(func() (err error) {
				defer authz.Recover("door.look", &err)
				rels, _, err := p.snap.Page(ctx, f, 1, "")
				found[2*i+j] = len(rels) > 0
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return p.graphFailure(outer, err)
	}
	for i, object := range objects {
		p.stored[object] = found[2*i] || found[2*i+1]
	}
	return nil
}

// tenant returns the one tenant in which an object lies, or will lie once it is placed. Update i names the object.
func (p *placing) tenant(ctx context.Context, object authz.Object, i int) (string, error) {
	if known, ok := p.tenants[object]; ok {
		if known == "" {
			return "", p.refuse(i, "placing objects under each other", "each object needs a parent that lies in a tenant")
		}
		return known, nil
	}
	p.tenants[object] = ""
	var (
		one string
		err error
	)
	updates, placed := p.of[object]
	switch {
	case object.Type == authz.TypeTenant:
		one = object.ID
		if one == "*" {
			err = p.refuse(i, "naming all tenants at once", "name one")
		}
	case placed && !p.stored[object]:
		for _, j := range updates {
			of, failed := p.tenant(ctx, objectOf(p.req.GetUpdates()[j].GetRelationship().GetSubject().GetObject()), j)
			if failed != nil {
				return "", failed
			}
			if one != "" && of != one {
				return "", p.refuse(j, fmt.Sprintf("placing %s in two tenants", authz.Show(object)), "place it under parents of one tenant")
			}
			one = of
		}
	default:
		one, err = p.storedTenant(ctx, object, i)
	}
	if err != nil {
		return "", err
	}
	p.tenants[object] = one
	return one, nil
}

// storedTenant returns the one tenant of an object that is stored.
func (p *placing) storedTenant(ctx context.Context, object authz.Object, i int) (string, error) {
	refuse := func(why string) error {
		return p.refuse(i, fmt.Sprintf("placing an object under %s, which %s,", authz.Show(object), why), "place it under an object that lies in exactly one tenant")
	}
	if p.parents++; p.parents > maxParents {
		return "", failure(codes.InvalidArgument, authz.ReasonInvalidField, fmt.Sprintf("updates[%d]", i), fmt.Sprintf(
			"is under one stored object more than the %d that a write can place objects under; split the write", maxParents))
	}
	t, err := known(p.schema, object.Type, "")
	if err != nil {
		return "", failure(codes.FailedPrecondition, authz.ReasonUnknownType, fmt.Sprintf("updates[%d]", i), err.Error())
	}
	switch {
	case object.ID == "*":
		return "", refuse("stands for all objects of its type")
	case !t.TenantSafe():
		return "", refuse("is of a type without a tenant")
	}
	id, err := tenantOf(ctx, p.snap, object)
	switch {
	case err != nil:
		return "", p.graphFailure(ctx, err)
	case id == "":
		return "", refuse("does not lie in exactly one tenant")
	}
	return id, nil
}

// tenantOf returns the one tenant in which a stored object lies; "" where it does not lie in exactly one, or only under a condition.
func tenantOf(ctx context.Context, snap authz.Snapshot, object authz.Object) (string, error) {
	subjects, err := snap.Subjects(ctx, object, authz.TenantMember, authz.TypeTenant, nil, 2)
	if err != nil || len(subjects) != 1 || subjects[0].Conditional || subjects[0].ID == "*" {
		return "", err
	}
	return subjects[0].ID, nil
}

// repeats reports whether update i touches a relationship that is stored just as the update has it.
func (p *placing) repeats(ctx context.Context, i int) (bool, error) {
	u := p.req.GetUpdates()[i]
	if u.GetOperation() != v1.RelationshipUpdate_OPERATION_TOUCH {
		return false, nil
	}
	want := u.GetRelationship()
	subject := want.GetSubject()
	lists, err := p.snap.Read(ctx, authz.Filter{
		Resource: objectOf(want.GetResource()), Relation: want.GetRelation(),
		SubjectType: subject.GetObject().GetObjectType(), SubjectID: subject.GetObject().GetObjectId(),
	})
	if err != nil {
		return false, p.graphFailure(ctx, err)
	}
	return slices.ContainsFunc(lists[0], func(r authz.Relationship) bool {
		if r.Subject.Relation != plain(subject.GetOptionalRelation()) || r.Caveat != want.GetOptionalCaveat().GetCaveatName() {
			return false
		}
		if at := want.GetOptionalExpiresAt(); at == nil != r.ExpiresAt.IsZero() || at != nil && !at.AsTime().Equal(r.ExpiresAt) {
			return false
		}
		// A caveat's context is compared only where there is none: to write another one takes an organizer.
		return len(r.CaveatContext) == 0 && len(want.GetOptionalCaveat().GetContext().GetFields()) == 0
	}), nil
}

// filterOf is the filter that matches one relationship, whatever its caveat and expiration are.
func filterOf(r *v1.Relationship) *v1.RelationshipFilter {
	subject := r.GetSubject()
	return &v1.RelationshipFilter{
		ResourceType: r.GetResource().GetObjectType(), OptionalResourceId: r.GetResource().GetObjectId(), OptionalRelation: r.GetRelation(),
		OptionalSubjectFilter: &v1.SubjectFilter{
			SubjectType: subject.GetObject().GetObjectType(), OptionalSubjectId: subject.GetObject().GetObjectId(),
			OptionalRelation: &v1.SubjectFilter_RelationFilter{Relation: plain(subject.GetOptionalRelation())},
		},
	}
}

// leaveOut takes updates out of the request. A request that has none left deletes a relationship that never is.
func (p *placing) leaveOut(repeated []int) {
	if len(repeated) == 0 {
		return
	}
	var rest []*v1.RelationshipUpdate
	for i, u := range p.req.GetUpdates() {
		if !slices.Contains(repeated, i) {
			rest = append(rest, u)
		}
	}
	if len(rest) == 0 {
		nobody := &v1.ObjectReference{ObjectType: authz.TypeTenant, ObjectId: "-"}
		rest = append(rest, &v1.RelationshipUpdate{Operation: v1.RelationshipUpdate_OPERATION_DELETE, Relationship: &v1.Relationship{
			Resource: nobody, Relation: "suspended", Subject: &v1.SubjectReference{Object: proto.CloneOf(nobody)},
		}})
	}
	p.req.Updates = rest
}

func objectOf(o *v1.ObjectReference) authz.Object {
	return authz.Object{Type: o.GetObjectType(), ID: o.GetObjectId()}
}
