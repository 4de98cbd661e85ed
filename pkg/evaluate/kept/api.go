package kept

import (
	"cmp"
	"context"
	"errors"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/authzed/spicedb/pkg/zedtoken"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
	"github.com/deputyauth/deputy/pkg/statuses"
	"github.com/deputyauth/deputy/pkg/store"
)

// SpiceDB's default limits of a request.
const (
	maxContext   = 4096 // bytes of caveat context
	maxObjectID  = 1024
	maxBulkItems = 1000
)

// CheckPermission answers authzed.api.v1's method of that name. ok is false for a request that is left to SpiceDB: one for a trace, and one that
// SpiceDB refuses, so that the error is SpiceDB's own.
func (g *Graph) CheckPermission(ctx context.Context, req *v1.CheckPermissionRequest) (resp *v1.CheckPermissionResponse, ok bool, err error) {
	if req.GetWithTracing() || wantsTrace(ctx) || !plain(req.GetResource(), req.GetSubject(), req.GetContext()) {
		return nil, false, nil
	}
	at, token, ok := g.pin(ctx, req.GetConsistency())
	if !ok {
		return nil, false, nil
	}
	defer at.Close()
	check := checkOf(req.GetResource(), req.GetPermission(), req.GetSubject(), req.GetContext())
	if err := at.program.Resolve(&check); err != nil {
		return nil, false, nil
	}
	w := at.program.Walk(at.Snapshot)
	defer w.Close()
	answer := g.answer(ctx, w, at.Snapshot, authz.Revision{Token: token.GetToken()}, []evaluate.Check{check})[0]
	if answer.Err != nil {
		return nil, true, statusOf(answer.Err).Err()
	}
	permissionship, missing := permissionshipOf(answer)
	return &v1.CheckPermissionResponse{CheckedAt: token, Permissionship: permissionship, PartialCaveatInfo: missing}, true, nil
}

// CheckBulkPermissions answers authzed.api.v1's method of that name; ok is as for CheckPermission. An item
// that cannot be answered has its own error.
func (g *Graph) CheckBulkPermissions(
	ctx context.Context, req *v1.CheckBulkPermissionsRequest,
) (resp *v1.CheckBulkPermissionsResponse, ok bool, err error) {
	if req.GetWithTracing() || wantsTrace(ctx) || len(req.GetItems()) == 0 || len(req.GetItems()) > maxBulkItems {
		return nil, false, nil
	}
	checks := make([]evaluate.Check, len(req.GetItems()))
	for i, item := range req.GetItems() {
		if !plain(item.GetResource(), item.GetSubject(), item.GetContext()) {
			return nil, false, nil
		}
		checks[i] = checkOf(item.GetResource(), item.GetPermission(), item.GetSubject(), item.GetContext())
	}
	at, token, ok := g.pin(ctx, req.GetConsistency())
	if !ok {
		return nil, false, nil
	}
	defer at.Close()
	w := at.program.Walk(at.Snapshot)
	defer w.Close()
	answers := g.answer(ctx, w, at.Snapshot, authz.Revision{Token: token.GetToken()}, checks)
	if err := ctx.Err(); err != nil {
		return nil, true, statusOf(err).Err()
	}
	resp = &v1.CheckBulkPermissionsResponse{CheckedAt: token, Pairs: make([]*v1.CheckBulkPermissionsPair, len(checks))}
	for i, item := range req.GetItems() {
		pair := &v1.CheckBulkPermissionsPair{Request: item}
		resp.Pairs[i] = pair
		if answers[i].Err != nil {
			pair.Response = &v1.CheckBulkPermissionsPair_Error{Error: statusOf(answers[i].Err).Proto()}
			continue
		}
		permissionship, missing := permissionshipOf(answers[i])
		pair.Response = &v1.CheckBulkPermissionsPair_Item{Item: &v1.CheckBulkPermissionsResponseItem{
			Permissionship: permissionship, PartialCaveatInfo: missing,
		}}
	}
	return resp, true, nil
}

// traceKey is the metadata by which SpiceDB's older clients ask for a trace.
const traceKey = "io.spicedb.requestdebuginfo"

func wantsTrace(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, traceKey)) > 0
}

// plain reports whether SpiceDB takes the ids and the context of a check, which it looks at before anything else.
func plain(resource *v1.ObjectReference, subject *v1.SubjectReference, given *structpb.Struct) bool {
	return isID(resource.GetObjectId()) && isID(subject.GetObject().GetObjectId()) && (given == nil || proto.Size(given) <= maxContext)
}

// isID reports whether SpiceDB accepts a text as the id of one object.
func isID(id string) bool {
	if id == "" || len(id) > maxObjectID {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '/', c == '_', c == '|', c == '-', c == '=', c == '+':
		default:
			return false
		}
	}
	return true
}

func checkOf(resource *v1.ObjectReference, permission string, subject *v1.SubjectReference, given *structpb.Struct) evaluate.Check {
	c := evaluate.Check{
		Resource: tuple.ObjectAndRelation{ObjectType: resource.GetObjectType(), ObjectID: resource.GetObjectId(), Relation: permission},
		Subject: tuple.ObjectAndRelation{
			ObjectType: subject.GetObject().GetObjectType(), ObjectID: subject.GetObject().GetObjectId(),
			Relation: cmp.Or(subject.GetOptionalRelation(), tuple.Ellipsis),
		},
	}
	if given != nil {
		c.Context = given.AsMap()
	}
	return c
}

// pin opens the revision that a request asks for. ok is false where that cannot be read.
func (g *Graph) pin(ctx context.Context, c *v1.Consistency) (at *Pinned, token *v1.ZedToken, ok bool) {
	revision, ok := g.evaluator.revision(ctx, c)
	if !ok {
		return nil, nil, false
	}
	text, err := g.token(ctx, revision)
	if err != nil {
		return nil, nil, false
	}
	if at, err = g.evaluator.At(revision); err != nil {
		return nil, nil, false
	}
	return at, &v1.ZedToken{Token: text}, true
}

func (e *Evaluator) revision(ctx context.Context, c *v1.Consistency) (at store.Revision, ok bool) {
	decode := func(token *v1.ZedToken) (store.Revision, bool) {
		decoded, err := zedtoken.DecodeRevision(token, e.store)
		if err != nil || decoded.Status != zedtoken.StatusValid {
			return 0, false
		}
		at, ok := decoded.Revision.(store.Revision)
		return at, ok
	}
	newest := e.store.OptimizedRevision
	var atLeast store.Revision
	switch r := c.GetRequirement().(type) {
	case nil, *v1.Consistency_MinimizeLatency:
	case *v1.Consistency_FullyConsistent:
		newest = e.store.HeadRevision
	case *v1.Consistency_AtLeastAsFresh:
		if atLeast, ok = decode(r.AtLeastAsFresh); !ok {
			return 0, false
		}
	case *v1.Consistency_AtExactSnapshot:
		return decode(r.AtExactSnapshot)
	default:
		return 0, false
	}
	found, err := newest(ctx)
	if err != nil {
		return 0, false
	}
	at, ok = found.Revision.(store.Revision)
	return max(at, atLeast), ok
}

// permissionshipOf puts an answer into SpiceDB's words. It must not be a failure.
func permissionshipOf(a evaluate.Answer) (v1.CheckPermissionResponse_Permissionship, *v1.PartialCaveatInfo) {
	switch a.Outcome {
	case authz.Yes:
		return v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION, nil
	case authz.Conditional:
		return v1.CheckPermissionResponse_PERMISSIONSHIP_CONDITIONAL_PERMISSION, &v1.PartialCaveatInfo{MissingRequiredContext: a.Missing}
	default:
		return v1.CheckPermissionResponse_PERMISSIONSHIP_NO_PERMISSION, nil
	}
}

// statusOf returns the status of an error. An error without one is internal, and its text is not passed on.
func statusOf(err error) *status.Status {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return statuses.New(codes.DeadlineExceeded, authz.ReasonEngineUnavailable, "", "the deadline passed before the answer was complete")
	case errors.Is(err, context.Canceled):
		return statuses.New(codes.Canceled, "", "", "the call was cancelled")
	}
	if st := statuses.Within(err); st != nil {
		return st
	}
	return statuses.New(codes.Internal, "INTERNAL", "", "it could not be answered")
}
