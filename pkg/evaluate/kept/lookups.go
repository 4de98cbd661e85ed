package kept

import (
	"context"
	"crypto/rand"
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

// The lookups of authzed.api.v1. They list the objects, or subjects, for which a check answers yes or conditionally, each once and in the order of
// ids; SpiceDB's lookups differ from its own checks in places. Where a check fails, the list ends with its error, after all results.

// errLimit ends a lookup that has sent as many results as the request asks for.
var errLimit = errors.New("limit")

// maxLookupLimit is the highest limit that SpiceDB takes.
const maxLookupLimit = 1000

// LookupResources answers authzed.api.v1's method of that name; ok is as for CheckPermission. Its cursors are of SpiceDB's format, and hold
// the last id.
func (g *Graph) LookupResources(
	ctx context.Context, req *v1.LookupResourcesRequest, send func(*v1.LookupResourcesResponse) error,
) (ok bool, err error) {
	// SpiceDB bounds the caveat context of checks, and not that of this.
	if req.GetOptionalLimit() > maxLookupLimit || !plain(&v1.ObjectReference{ObjectId: "any"}, req.GetSubject(), nil) {
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
	ctx, turn, err := take(ctx, g.lookups)
	if err != nil {
		return true, err
	}
	defer turn.leave()
	at, token, ok := g.pin(ctx, consistency)
	if !ok {
		return false, nil
	}
	defer at.Close()
	anything := &v1.ObjectReference{ObjectType: req.GetResourceObjectType(), ObjectId: "any"}
	check := checkOf(anything, req.GetPermission(), req.GetSubject(), req.GetContext())
	holder := evaluate.Holder{Permission: check.Resource.Relation, Subject: check.Subject}
	candidates, err := at.program.ResourceCandidates(check.Resource.ObjectType, holder)
	if err != nil {
		return false, nil // SpiceDB says what the schema does not have
	}
	l := g.begin(ctx, at, token, check, int(req.GetOptionalLimit()), after)
	l.of = func(id string) evaluate.Check {
		c := check
		c.Resource.ObjectID = id
		return c
	}
	l.ids = func(from string) ([]string, error) {
		ids, _, err := at.ObjectIDs(check.Resource.ObjectType, from, absentScan)
		return ids, err
	}
	l.narrow(candidates, after)
	w := at.program.Walk(at.Snapshot)
	defer w.Close()
	err = w.ResourcesAmong(ctx, candidates, l.of, func(f evaluate.Found) error {
		return l.each(f, func(a evaluate.Answer) error {
			next, err := cursor.EncodeFromDispatchCursorSections(
				[]string{lookupCursor, f.ID}, call, at.Revision(), datalayer.NoSchemaHashInLegacyMode, nil)
			if err != nil {
				return err
			}
			permissionship, missing := lookupOf(a)
			found := &v1.LookupResourcesResponse{
				LookedUpAt: token, ResourceObjectId: f.ID, Permissionship: permissionship, PartialCaveatInfo: missing, AfterResultCursor: next,
			}
			return turn.without(ctx, func() error { return send(found) })
		})
	})
	l.sampleRest(err)
	return true, l.end(err)
}

// lookupCursor tells a cursor of these lookups from one of SpiceDB's.
const lookupCursor = "after"

// hashOf returns a hash of a request without its cursor, limit and consistency: a cursor is good for requests with the same hash.
func hashOf(req *v1.LookupResourcesRequest) string {
	encoded, _ := proto.MarshalOptions{Deterministic: true}.Marshal(&v1.LookupResourcesRequest{ // it was decoded from as much
		ResourceObjectType: req.GetResourceObjectType(), Permission: req.GetPermission(), Subject: req.GetSubject(), Context: req.GetContext(),
	})
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:16])
}

// pinned returns a consistency that asks for a cursor's revision, which is the revision of the whole lookup.
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

// LookupSubjects answers authzed.api.v1's method of that name; ok is as for CheckPermission. A wildcard comes last, with all subjects that it does
// not hold for.
func (g *Graph) LookupSubjects(
	ctx context.Context, req *v1.LookupSubjectsRequest, send func(*v1.LookupSubjectsResponse) error,
) (ok bool, err error) {
	anybody := &v1.SubjectReference{
		Object:           &v1.ObjectReference{ObjectType: req.GetSubjectObjectType(), ObjectId: "any"},
		OptionalRelation: req.GetOptionalSubjectRelation(),
	}
	if req.GetOptionalConcreteLimit() > 0 || req.GetOptionalCursor() != nil || !plain(req.GetResource(), anybody, req.GetContext()) {
		return false, nil // SpiceDB refuses it
	}
	ctx, turn, err := take(ctx, g.lookups)
	if err != nil {
		return true, err
	}
	defer turn.leave()
	at, token, ok := g.pin(ctx, req.GetConsistency())
	if !ok {
		return false, nil
	}
	defer at.Close()
	check := checkOf(req.GetResource(), req.GetPermission(), anybody, req.GetContext())
	kind := evaluate.SubjectKind{Type: check.Subject.ObjectType, Relation: req.GetOptionalSubjectRelation()}
	if kind.Relation == tuple.Ellipsis {
		kind.Relation = ""
	}
	candidates, err := at.program.SubjectCandidates(check.Resource, kind)
	if err != nil {
		return false, nil // SpiceDB says what the schema does not have
	}
	l := g.begin(ctx, at, token, check, 0, "")
	l.of = func(id string) evaluate.Check {
		c := check
		c.Subject.ObjectID = id
		return c
	}
	l.ids = func(from string) ([]string, error) {
		ids, _, err := at.NamedIDs(kind.Type, kind.Relation, from, absentScan)
		return ids, err
	}
	if at.program.AdmitsEverybody(check.Resource, kind) {
		l.watch()
	}
	l.narrow(candidates, "")
	w := at.program.Walk(at.Snapshot)
	defer w.Close()
	answer := func(f evaluate.Found, except []evaluate.Found) error {
		return turn.without(ctx, func() error { return send(subjectResponse(token, f, except)) })
	}
	everybody, err := w.SubjectsAmong(ctx, candidates, check.Resource, kind, check.Context, func(f evaluate.Found) error {
		return l.each(f, func(a evaluate.Answer) error { return answer(evaluate.Found{ID: f.ID, Answer: a}, nil) })
	})
	l.sampleRest(err)
	if err == nil {
		everybody.Answer = l.everybody(everybody)
	}
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

// lookupOf puts an answer into the words of SpiceDB's lookups. It must not be a failure.
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
	ctx   context.Context //nolint:containedctx // of one call
	graph *Graph
	at    *Pinned
	token authz.Revision
	// doubtful says that the permission is distrusted, and compared that verification takes part: each result is given to it.
	doubtful, compared bool
	// of is the check of an id.
	of func(id string) evaluate.Check
	// ids reads, from one on, the ids that the lookup could have found; nil where those that it leaves out are not verified.
	ids func(from string) ([]string, error)
	// part is the part of the lookup since ids that it left out were last given to verification.
	part span
	// watched are subjects that are given to verification if the answer has a wildcard and does not name them; see watch.
	watched map[string]bool
	// limit is how many are sent; 0 is no limit.
	limit, sent int
	// failed is the first error of a check.
	failed error
}

// begin begins a lookup after an id, "" for all, of the permission that a check is about.
func (g *Graph) begin(ctx context.Context, at *Pinned, token *v1.ZedToken, check evaluate.Check, limit int, after string) *lookup {
	doubtful := g.verifier.distrusts(permissionName{check.Resource.ObjectType, check.Resource.Relation})
	return &lookup{
		ctx: ctx, graph: g, at: at, token: authz.Revision{Token: token.GetToken()}, limit: limit,
		doubtful: doubtful, compared: doubtful || g.verifier.share > 0, part: span{begin: behind(after)},
	}
}

// narrow makes candidates begin after an id. Where the permission is distrusted, all ids are candidates.
func (l *lookup) narrow(c *evaluate.Candidates, after string) {
	if l.doubtful {
		c.TakeAll()
	}
	if after != "" {
		c.After(after)
	}
}

// each sends a result, unless a stricter answer holds. A share of the results is verified.
func (l *lookup) each(f evaluate.Found, send func(evaluate.Answer) error) error {
	a := f.Answer
	if l.compared {
		a = l.compare(l.of(f.ID), a)
		delete(l.watched, f.ID)
		if l.part.found = append(l.part.found, f.ID); len(l.part.found) == absentScan {
			l.part.end = f.ID
			l.sampleLeftOut()
		}
	}
	switch a.Outcome {
	case authz.Yes, authz.Conditional:
	case authz.Failed:
		if l.failed == nil {
			l.failed = a.Err
		}
		return nil
	default:
		return nil
	}
	if err := l.ctx.Err(); err != nil { // it is looked at for each, because a client may take them slowly
		return err
	}
	if err := send(a); err != nil {
		return sending{err}
	}
	if l.sent++; l.sent == l.limit {
		return errLimit
	}
	return nil
}

// compare returns the answer that holds, the stricter one where the permission is distrusted, and gives a share of them to verification.
func (l *lookup) compare(c evaluate.Check, a evaluate.Answer) evaluate.Answer {
	checks, answers := []evaluate.Check{c}, []evaluate.Answer{a}
	l.graph.verify(l.ctx, l.at.Snapshot, l.token, checks, answers)
	return answers[0]
}

// watch chooses a few subjects for verification. A lookup with a wildcard says of every subject that it does not name that the wildcard holds for it.
func (l *lookup) watch() {
	read := l.ids
	l.ids = nil
	if !l.graph.verifier.draws() {
		return
	}
	ids, err := read(string(rand.Text()[0] | 0x20)) // a letter, or a digit: most ids begin with one
	if err == nil && len(ids) == 0 {
		ids, err = read("")
	}
	if err != nil {
		l.graph.verifier.skipped.Inc()
		return
	}
	l.watched = map[string]bool{}
	for _, id := range ids[:min(maxAbsent, len(ids))] {
		l.watched[id] = true
	}
	delete(l.watched, tuple.PublicWildcard)
}

// everybody returns the answer that a wildcard gives, and gives it to verification: as the check of a subject that nothing names, of the subjects
// that are excluded, and of those that are watched.
func (l *lookup) everybody(w evaluate.Wildcard) evaluate.Answer {
	if !l.compared {
		return w.Answer
	}
	for _, e := range w.Except {
		delete(l.watched, e.ID)
		if e.Outcome == authz.No {
			l.compare(l.of(e.ID), e.Answer)
		}
	}
	for id := range l.watched {
		a := answered{at: l.at.Revision(), token: l.token, checks: []evaluate.Check{l.of(id)}, answers: []evaluate.Answer{w.Answer}}
		l.graph.verifier.enqueue(a.own())
	}
	if w.Outcome == authz.No || w.Outcome == authz.Failed {
		return w.Answer
	}
	return l.compare(l.of(rand.Text()), w.Answer)
}

// sampleLeftOut gives some of the ids that the part left out to verification, and begins the next part.
func (l *lookup) sampleLeftOut() {
	if l.ids != nil && l.graph.verifier.draws() {
		l.graph.verifier.sampleLeftOut(answered{at: l.at.Revision(), token: l.token}, l.part, l.ids, func(id string) []evaluate.Check {
			c := l.of(id)
			c.Context = cloneMap(c.Context)
			return []evaluate.Check{c}
		})
	}
	l.part = span{begin: behind(l.part.end)}
}

// behind returns where ids go on behind one; "" is before all. No id has so small a character.
func behind(id string) string {
	if id == "" {
		return ""
	}
	return id + "\x01"
}

// sampleRest is sampleLeftOut for the last part, after a walk that ended with an error or without.
func (l *lookup) sampleRest(err error) {
	switch {
	case err == nil:
		l.sampleLeftOut()
	case errors.Is(err, errLimit) && len(l.part.found) > 0:
		l.part.end = l.part.found[len(l.part.found)-1]
		l.sampleLeftOut()
	}
}

// sending is an error of sending a result: the caller's, and not the lookup's.
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
