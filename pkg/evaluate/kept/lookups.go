package kept

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/cursor"
	"github.com/authzed/spicedb/pkg/datalayer"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
	"github.com/deputyauth/deputy/pkg/store"
)

// The lookups of authzed.api.v1. They list what a check says yes to, or conditionally, each once and in the order of ids, where SpiceDB's
// differ from its own checks. An object or a subject whose check is an error ends a list with that error, after all others.

// errLimit ends a lookup that has sent as many as the request wants.
var errLimit = errors.New("limit")

// LookupResources answers authzed.api.v1's method of that name; ok is as for CheckPermission. Its cursors are of SpiceDB's format, and hold
// the last id.
func (g *Graph) LookupResources(
	ctx context.Context, req *v1.LookupResourcesRequest, send func(*v1.LookupResourcesResponse) error,
) (ok bool, err error) {
	if !plain(&v1.ObjectReference{ObjectId: "any"}, req.GetSubject(), req.GetContext()) {
		return false, nil
	}
	call := hashOf(req)
	consistency, after := req.GetConsistency(), ""
	if c := req.GetOptionalCursor(); c != nil {
		place, _, err := cursor.DecodeToDispatchCursor(c, call)
		if err != nil || len(place.GetSections()) != 2 || place.GetSections()[0] != lookupCursor {
			return false, nil
		}
		after = place.GetSections()[1]
		if consistency, ok = g.pinned(ctx, c); !ok {
			return false, nil
		}
	}
	at, token, ok := g.pin(ctx, consistency)
	if !ok {
		return false, nil
	}
	defer at.Close()
	check := checkOf(&v1.ObjectReference{ObjectType: req.GetResourceObjectType(), ObjectId: "any"}, req.GetPermission(), req.GetSubject(), req.GetContext())
	if err := at.program.Resolve(&check); err != nil {
		return false, nil
	}
	l := lookup{graph: g, token: authz.Revision{Token: token.GetToken()}, at: at, limit: int(req.GetOptionalLimit())}
	of := func(id string) evaluate.Check {
		c := check
		c.Resource.ObjectID = id
		return c
	}
	holder := evaluate.Holder{Permission: check.Resource.Relation, Subject: check.Subject}
	err = at.Lookup(ctx, check.Resource.ObjectType, holder, check.Context, after, func(f evaluate.Found) error {
		return l.each(ctx, of(f.ID), f.Answer, func(a evaluate.Answer) error {
			next, err := cursor.EncodeFromDispatchCursorSections(
				[]string{lookupCursor, f.ID}, call, at.Revision(), datalayer.NoSchemaHashInLegacyMode, nil)
			if err != nil {
				return err
			}
			permissionship, missing := lookupOf(a)
			return send(&v1.LookupResourcesResponse{
				LookedUpAt: token, ResourceObjectId: f.ID, Permissionship: permissionship, PartialCaveatInfo: missing, AfterResultCursor: next,
			})
		})
	})
	return true, l.end(err)
}

// lookupCursor tells a cursor of these lookups from one of SpiceDB's.
const lookupCursor = "after"

// hashOf returns what a cursor is for: the request but for its cursor, limit and consistency.
func hashOf(req *v1.LookupResourcesRequest) string {
	encoded, _ := proto.MarshalOptions{Deterministic: true}.Marshal(&v1.LookupResourcesRequest{ // it was decoded from as much
		ResourceObjectType: req.GetResourceObjectType(), Permission: req.GetPermission(), Subject: req.GetSubject(), Context: req.GetContext(),
	})
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:16])
}

// pinned returns the consistency of a cursor's revision, which is that of the whole lookup.
func (g *Graph) pinned(ctx context.Context, c *v1.Cursor) (*v1.Consistency, bool) {
	decoded, err := cursor.Decode(c)
	if err != nil {
		return nil, false
	}
	revision, err := g.evaluator.store.RevisionFromString(decoded.GetV1().GetRevision())
	if err != nil {
		return nil, false
	}
	at, ok := revision.(store.Revision)
	if !ok {
		return nil, false
	}
	token, err := g.token(ctx, at)
	if err != nil {
		return nil, false
	}
	return &v1.Consistency{Requirement: &v1.Consistency_AtExactSnapshot{AtExactSnapshot: &v1.ZedToken{Token: token}}}, true
}

// LookupSubjects answers authzed.api.v1's method of that name; ok is as for CheckPermission. A wildcard comes last, with all whom it does
// not hold for.
func (g *Graph) LookupSubjects(
	ctx context.Context, req *v1.LookupSubjectsRequest, send func(*v1.LookupSubjectsResponse) error,
) (ok bool, err error) {
	anybody := &v1.SubjectReference{
		Object:           &v1.ObjectReference{ObjectType: req.GetSubjectObjectType(), ObjectId: "any"},
		OptionalRelation: req.GetOptionalSubjectRelation(),
	}
	if req.GetOptionalConcreteLimit() > 0 || req.GetOptionalCursor() != nil || !plain(req.GetResource(), anybody, req.GetContext()) {
		return false, nil // SpiceDB says what it does not do
	}
	at, token, ok := g.pin(ctx, req.GetConsistency())
	if !ok {
		return false, nil
	}
	defer at.Close()
	check := checkOf(req.GetResource(), req.GetPermission(), anybody, req.GetContext())
	if err := at.program.Resolve(&check); err != nil {
		return false, nil
	}
	l := lookup{graph: g, token: authz.Revision{Token: token.GetToken()}, at: at}
	of := func(id string) evaluate.Check {
		c := check
		c.Subject.ObjectID = id
		return c
	}
	answer := func(f evaluate.Found, except []evaluate.Found) error {
		return send(subjectResponse(token, f, except))
	}
	kind := evaluate.SubjectKind{Type: check.Subject.ObjectType, Relation: req.GetOptionalSubjectRelation()}
	if kind.Relation == tuple.Ellipsis {
		kind.Relation = ""
	}
	everybody, err := at.List(ctx, check.Resource, kind, check.Context, "", func(f evaluate.Found) error {
		return l.each(ctx, of(f.ID), f.Answer, func(a evaluate.Answer) error { return answer(evaluate.Found{ID: f.ID, Answer: a}, nil) })
	})
	if err := l.end(err); err != nil || req.GetWildcardOption() == v1.LookupSubjectsRequest_WILDCARD_OPTION_EXCLUDE_WILDCARDS {
		return true, err
	}
	switch everybody.Outcome {
	case authz.Failed:
		return true, statusOf(everybody.Err).Err()
	case authz.Yes, authz.Conditional:
		return true, answer(evaluate.Found{ID: tuple.PublicWildcard, Answer: everybody.Answer}, everybody.Except)
	default:
		return true, nil
	}
}

// subjectResponse puts a subject into SpiceDB's words, in the older fields as well.
func subjectResponse(token *v1.ZedToken, f evaluate.Found, except []evaluate.Found) *v1.LookupSubjectsResponse {
	subject := resolved(f)
	r := &v1.LookupSubjectsResponse{
		LookedUpAt: token, Subject: subject,
		//nolint:staticcheck // SpiceDB fills in the older fields too
		SubjectObjectId: subject.GetSubjectObjectId(), Permissionship: subject.GetPermissionship(), PartialCaveatInfo: subject.GetPartialCaveatInfo(),
	}
	for _, e := range except {
		// An exception that depends on what is missing, or of which nothing can be said, may be none: it is named all the same.
		out := resolved(e)
		if out.GetPermissionship() != v1.LookupPermissionship_LOOKUP_PERMISSIONSHIP_CONDITIONAL_PERMISSION {
			out.Permissionship = v1.LookupPermissionship_LOOKUP_PERMISSIONSHIP_HAS_PERMISSION
		}
		r.ExcludedSubjects = append(r.ExcludedSubjects, out)
		r.ExcludedSubjectIds = append(r.ExcludedSubjectIds, out.GetSubjectObjectId()) //nolint:staticcheck // as above
	}
	return r
}

func resolved(f evaluate.Found) *v1.ResolvedSubject {
	permissionship, missing := lookupOf(f.Answer)
	return &v1.ResolvedSubject{SubjectObjectId: f.ID, Permissionship: permissionship, PartialCaveatInfo: missing}
}

// lookupOf puts an answer that is no failure into the words of SpiceDB's lookups.
func lookupOf(a evaluate.Answer) (v1.LookupPermissionship, *v1.PartialCaveatInfo) {
	switch a.Outcome {
	case authz.Yes:
		return v1.LookupPermissionship_LOOKUP_PERMISSIONSHIP_HAS_PERMISSION, nil
	case authz.Conditional:
		return v1.LookupPermissionship_LOOKUP_PERMISSIONSHIP_CONDITIONAL_PERMISSION, &v1.PartialCaveatInfo{MissingRequiredContext: a.Missing}
	default:
		return v1.LookupPermissionship_LOOKUP_PERMISSIONSHIP_UNSPECIFIED, nil
	}
}

// lookup is one lookup's progress.
type lookup struct {
	graph *Graph
	at    *Snapshot
	token authz.Revision
	// limit is how many are sent; 0 is no limit.
	limit, sent int
	// failed is the first error of a check.
	failed error
}

// each sends a result, unless a stricter answer holds for it. Some of them are verified.
func (l *lookup) each(ctx context.Context, c evaluate.Check, a evaluate.Answer, send func(evaluate.Answer) error) error {
	checks, answers := []evaluate.Check{c}, []evaluate.Answer{a}
	l.graph.verifier.stricter(ctx, l.token, checks, answers)
	l.graph.verifier.sample(answered{at: l.at.Revision(), token: l.token, checks: checks, answers: answers})
	switch a = answers[0]; a.Outcome {
	case authz.Yes, authz.Conditional:
	case authz.Failed:
		if l.failed == nil {
			l.failed = a.Err
		}
		return nil
	default:
		return nil
	}
	if err := send(a); err != nil {
		return sending{err}
	}
	if l.sent++; l.sent == l.limit {
		return errLimit
	}
	return nil
}

// sending is an error of whoever is sent to.
type sending struct{ error }

// end returns what a lookup ends with.
func (l *lookup) end(err error) error {
	var theirs sending
	switch {
	case errors.As(err, &theirs):
		return theirs.error
	case err != nil && !errors.Is(err, errLimit):
		return statusOf(err).Err()
	case l.failed != nil:
		return statusOf(l.failed).Err()
	default:
		return nil
	}
}
