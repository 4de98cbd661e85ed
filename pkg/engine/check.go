package engine

import (
	"cmp"
	"context"
	"slices"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
)

// bulkSize is how many checks go out in one request.
const bulkSize = 1000

// Check answers every query at the snapshot; see authz.Snapshot.
//
// SpiceDB evaluates items of one request that differ only in their resource together, and there a
// conditional item can make another one of its chunk conditional (v1.56.2, arrows with .all), and one that
// fails has all of its chunk fail. So a conditional answer or a failure out of such a group is asked for
// again, alone.
func (s *snapshot) Check(ctx context.Context, queries []authz.Query) ([]authz.Answer, error) {
	answers := make([]authz.Answer, 0, len(queries))
	for chunk := range slices.Chunk(queries, bulkSize) {
		part, err := s.bulk(ctx, chunk)
		if err != nil {
			return nil, err
		}
		if err := s.askAlone(ctx, chunk, part); err != nil {
			return nil, err
		}
		answers = append(answers, part...)
	}
	return answers, nil
}

// askAlone asks again for each conditional or failed answer that shared its evaluation with another resource.
func (s *snapshot) askAlone(ctx context.Context, queries []authz.Query, answers []authz.Answer) error {
	type shape struct {
		resourceType, permission string
		subject                  authz.Subject
	}
	of := func(q authz.Query) shape { return shape{q.Resource.Type, q.Permission, q.Subject} }
	resources := map[shape]map[string]bool{}
	for _, q := range queries {
		if resources[of(q)] == nil {
			resources[of(q)] = map[string]bool{}
		}
		resources[of(q)][q.Resource.ID] = true
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelReads)
	for i := range answers {
		alone := answers[i].Outcome == authz.Conditional || answers[i].Outcome == authz.Failed && !engineFailed(answers[i].Err)
		if !alone || len(resources[of(queries[i])]) < 2 {
			continue
		}
		group.Go(func() error {
			return authz.Safely("engine.Check", func() error {
				alone, err := s.bulk(ctx, queries[i:i+1])
				if err == nil {
					answers[i] = alone[0]
				}
				return err
			})
		})
	}
	return group.Wait()
}

// engineFailed reports whether an item failed because the engine did not answer, and not for what it is about.
func engineFailed(err error) bool {
	switch authz.KindOf(err) {
	case authz.Unavailable, authz.Canceled, authz.Deadline, authz.Exhausted:
		return true
	default:
		return false
	}
}

// bulk sends one bulk request and checks that it was answered item by item.
func (s *snapshot) bulk(ctx context.Context, queries []authz.Query) ([]authz.Answer, error) {
	const op = "engine.Check"
	req := &v1.CheckBulkPermissionsRequest{
		Consistency: s.exact,
		Items:       make([]*v1.CheckBulkPermissionsRequestItem, len(queries)),
	}
	for i, q := range queries {
		given, err := structProto(q.Context)
		if err != nil {
			return nil, err
		}
		req.Items[i] = &v1.CheckBulkPermissionsRequestItem{
			Resource:   objectProto(q.Resource),
			Permission: q.Permission,
			Subject:    subjectProto(q.Subject),
			Context:    given,
		}
		req.WithTracing = req.GetWithTracing() || q.Explain != nil
	}
	resp, err := v1.NewPermissionsServiceClient(s.engine.conn).CheckBulkPermissions(s.engine.ownCall(ctx), req)
	if err != nil {
		return nil, Failure(op, err)
	}
	pairs := resp.GetPairs()
	if len(pairs) != len(queries) {
		return nil, &authz.Error{Op: op, Message: "the engine answered another number of checks than it was asked"}
	}
	answers := make([]authz.Answer, len(pairs))
	for i, pair := range pairs {
		answers[i] = answer(pair)
	}
	return answers, nil
}

// answer reads one pair. Whatever is not plainly an answer is a failure.
func answer(pair *v1.CheckBulkPermissionsPair) authz.Answer {
	if st := pair.GetError(); st != nil {
		return authz.Answer{Outcome: authz.Failed, Err: Failure("engine.Check", status.FromProto(st).Err())}
	}
	item := pair.GetItem()
	var out authz.Answer
	switch item.GetPermissionship() {
	case v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION:
		out.Outcome = authz.Yes
	case v1.CheckPermissionResponse_PERMISSIONSHIP_NO_PERMISSION:
		out.Outcome = authz.No
	case v1.CheckPermissionResponse_PERMISSIONSHIP_CONDITIONAL_PERMISSION:
		out.Outcome = authz.Conditional
		out.Missing = authz.Distinct(item.GetPartialCaveatInfo().GetMissingRequiredContext())
	default:
		out.Outcome = authz.Failed
		out.Err = &authz.Error{Op: "engine.Check", Message: "the engine gave an answer that is none"}
	}
	if traced := trace(item.GetDebugTrace().GetCheck()); traced != nil {
		out.Explanation = &authz.Explanation{Outcome: out.Outcome, Missing: out.Missing, Trace: traced}
	}
	return out
}

// trace converts SpiceDB's check trace, in an order that is always the same; nil stays nil.
func trace(t *v1.CheckDebugTrace) *authz.Trace {
	if t == nil {
		return nil
	}
	out := &authz.Trace{
		Resource:     authz.Object{Type: t.GetResource().GetObjectType(), ID: t.GetResource().GetObjectId()},
		Permission:   t.GetPermission(),
		IsPermission: t.GetPermissionType() == v1.CheckDebugTrace_PERMISSION_TYPE_PERMISSION,
		Subject: authz.Subject{
			Object:   authz.Object{Type: t.GetSubject().GetObject().GetObjectType(), ID: t.GetSubject().GetObject().GetObjectId()},
			Relation: t.GetSubject().GetOptionalRelation(),
		},
		Caveat: t.GetCaveatEvaluationInfo().GetCaveatName(),
	}
	switch t.GetResult() {
	case v1.CheckDebugTrace_PERMISSIONSHIP_HAS_PERMISSION:
		out.Outcome = authz.Yes
	case v1.CheckDebugTrace_PERMISSIONSHIP_CONDITIONAL_PERMISSION:
		out.Outcome = authz.Conditional
	default:
		out.Outcome = authz.No
	}
	for _, sub := range t.GetSubProblems().GetTraces() {
		out.Children = append(out.Children, *trace(sub))
	}
	// SpiceDB dispatches them at a time, and lists them as they come.
	slices.SortStableFunc(out.Children, func(a, b authz.Trace) int {
		return cmp.Or(cmp.Compare(a.Permission, b.Permission), cmp.Compare(a.Resource.Type, b.Resource.Type), cmp.Compare(a.Resource.ID, b.Resource.ID),
			cmp.Compare(a.Subject.Type, b.Subject.Type), cmp.Compare(a.Subject.ID, b.Subject.ID), cmp.Compare(a.Subject.Relation, b.Subject.Relation))
	})
	return out
}

// Write applies updates; see authz.Graph.
func (e *Engine) Write(ctx context.Context, updates []authz.Update, preconditions []authz.MustHold) (authz.Revision, error) {
	req := &v1.WriteRelationshipsRequest{}
	for _, u := range updates {
		rel, err := relationshipProto(u.Relationship)
		if err != nil {
			return authz.Revision{}, Failure("engine.Write", err)
		}
		req.Updates = append(req.Updates, &v1.RelationshipUpdate{Operation: operation(u.Operation), Relationship: rel})
	}
	for _, p := range preconditions {
		op := v1.Precondition_OPERATION_MUST_NOT_MATCH
		if p.Exists {
			op = v1.Precondition_OPERATION_MUST_MATCH
		}
		req.OptionalPreconditions = append(req.OptionalPreconditions, &v1.Precondition{Operation: op, Filter: filterProto(p.Filter)})
	}
	resp, err := v1.NewPermissionsServiceClient(e.conn).WriteRelationships(ctx, req)
	if err != nil {
		return authz.Revision{}, Failure("engine.Write", err)
	}
	at := authz.Revision{Token: resp.GetWrittenAt().GetToken()}
	if e.followed != nil {
		e.followed.wrote(at)
	}
	return at, nil
}

func operation(o authz.Operation) v1.RelationshipUpdate_Operation {
	switch o {
	case authz.Create:
		return v1.RelationshipUpdate_OPERATION_CREATE
	case authz.Touch:
		return v1.RelationshipUpdate_OPERATION_TOUCH
	case authz.Delete:
		return v1.RelationshipUpdate_OPERATION_DELETE
	default:
		return v1.RelationshipUpdate_OPERATION_UNSPECIFIED
	}
}
