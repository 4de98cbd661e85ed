// Package facts reads and writes the core facts of the graph: the one room that knows the shapes of
// schema/core.zed. It is pure; relationships come in and go out as values.
//
// One means one: what the schema admits only once (a delegation's agent, its tenant, its parent, a
// session's agent) must be there once. A fact that appears twice, or with a subject, a wildcard, a
// relation or a caveat that Deputy would not have written, makes the object malformed, and a malformed
// object does not act.
//
// Life marks: what may act carries `active`, whose subject is the object itself, and no tombstone.
// Stopping deletes the mark and writes the tombstone; either refuses.
package facts

import (
	"fmt"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Names of core.zed.
const (
	relActive      = "active"
	relSuspended   = "suspended"
	relRevoked     = "revoked"
	relEnded       = "ended"
	relOwner       = "owner"
	relPrincipal   = "principal"
	relTenant      = "tenant"
	relGrantedBy   = "granted_by"
	relParent      = "parent"
	relSession     = "session"
	relUnscoped    = "unscoped"
	relAllowDirect = "allow_direct"
	relDelegation  = "delegation"
	relUnfrozen    = "unfrozen"
	relBaseline    = "baseline"
	relListed      = "listed"
	relListedFor   = "listed_for"
	relOver        = "over"
	relPurged      = "purged"
	relIndexed     = "indexed"

	// RelationMember and RelationAdmin are the relations of a tenant that a delegation for a set may
	// name, and RelationAgent that of its agents; PermissionAccess is what acting in it takes.
	RelationMember   = "member"
	RelationAdmin    = "admin"
	RelationAgent    = "agent"
	PermissionAccess = "access"

	caveatIssued   = "issued"
	caveatLeaf     = "leaf"
	caveatBaseline = "baseline"
)

// Life is whether an object may act as far as its own marks go. The zero Life may not.
type Life struct {
	// Active tells that the mark is there and has not expired.
	Active bool
	// Until is when the mark expires; zero where it does not.
	Until time.Time
	// Stopped tells that there is a tombstone.
	Stopped bool
	// Purged tells that it was purged: there is a tombstone, and nothing else is known of it, whatever else the graph holds.
	Purged bool
	// Seen is when it was first seen to be over; zero where that was not noted.
	Seen time.Time
	// Malformed says what Deputy would not have written; empty where all is as it should be.
	Malformed string
	// Known tells that the graph holds anything at all about the object.
	Known bool
	// ambiguous tells that something which the schema admits once is there more than once.
	ambiguous bool
}

// aside takes a relationship that says nothing of whether the object may act, or that it was purged, and reports whether it did.
func (r *reader) aside(rel authz.Relationship) bool {
	switch rel.Relation {
	case relListed, relListedFor, relIndexed:
	case relOver:
		r.life.Seen = readIssued(rel.CaveatContext).At
	case relPurged:
		// Whatever its shape, a tombstone refuses.
		r.life.Stopped, r.life.Purged = true, true
	default:
		return false
	}
	return true
}

// Live reports whether the object may act as far as its own marks go.
func (l Life) Live() bool { return l.Known && l.Active && !l.Stopped && l.Malformed == "" }

// Stoppable reports whether there is anything to stop: the object may act, or might once it is well-formed.
func (l Life) Stoppable() bool { return l.Known && !l.Stopped && (l.Active || l.Malformed != "") }

// Issued is what the issued caveat carries.
type Issued struct {
	At, Until time.Time
	// KeyDigest identifies the idempotency key of the creating call, or is empty.
	KeyDigest string
}

// reader collects the facts of one object and notes the first thing that is wrong with them.
type reader struct {
	self authz.Object
	now  time.Time
	life *Life
	// seen are the relations that were met, each as often as it was.
	seen []string
}

func newReader(self authz.Object, now time.Time, life *Life) *reader {
	return &reader{self: self, now: now, life: life, seen: make([]string, 0, 8)}
}

// malformedf notes what is wrong, unless something was wrong before.
func (r *reader) malformedf(format string, args ...any) {
	if r.life.Malformed == "" {
		r.life.Malformed = fmt.Sprintf(format, args...)
	}
}

// shape says what a relation may hold.
type shape struct {
	// types are the subject types; a subject relation is part of the name ("tenant#member"). The
	// word "self" stands for the object itself.
	types []string
	// caveat is the only caveat that may be on it, or empty for none.
	caveat string
	// expires permits an expiration.
	expires bool
	// many permits more than one.
	many bool
}

// self is the shape of a mark.
var self = shape{types: []string{"self"}}

// admit checks one relationship against its shape, and returns false where it does not count: it has
// expired by the reader's clock, or it is malformed.
func (r *reader) admit(rel authz.Relationship, s shape) bool {
	if !rel.ExpiresAt.IsZero() && !rel.ExpiresAt.After(r.now) {
		return false
	}
	if !s.admits(rel, r.self) {
		r.malformedf("%s is not of a kind that Deputy writes", rel)
		return false
	}
	again := slices.Contains(r.seen, rel.Relation)
	r.seen = append(r.seen, rel.Relation)
	if !s.many && again {
		r.life.ambiguous = true
		r.malformedf("it has more than one %s", rel.Relation)
		return false
	}
	return true
}

func (s shape) admits(rel authz.Relationship, object authz.Object) bool {
	if rel.Subject.ID == "*" || rel.Caveat != s.caveat || (!rel.ExpiresAt.IsZero() && !s.expires) {
		return false
	}
	kind := rel.Subject.Type
	if rel.Subject.Relation != "" {
		kind += "#" + rel.Subject.Relation
	}
	for _, t := range s.types {
		if t == kind || t == "self" && rel.Subject.Object == object && rel.Subject.Relation == "" {
			return true
		}
	}
	return false
}

// alive notes the active mark.
func (r *reader) alive(rel authz.Relationship) {
	r.life.Active = true
	r.life.Until = rel.ExpiresAt
}

// Object selects all facts of one core object.
func Object(o authz.Object) authz.Filter { return authz.Filter{Resource: o} }

// Naming selects all relationships that name an object: as their resource, and as their subject.
func Naming(o authz.Object) []authz.Filter {
	return []authz.Filter{{Resource: o}, {SubjectType: o.Type, SubjectID: o.ID}}
}

// mark is a relationship whose subject is the object itself.
func mark(o authz.Object, relation string) authz.Relationship {
	return authz.Relationship{Resource: o, Relation: relation, Subject: authz.Subject{Object: o}}
}

// remove is the update that deletes a relationship, whatever its caveat and its expiration.
func remove(r authz.Relationship) authz.Update {
	bare := authz.Relationship{Resource: r.Resource, Relation: r.Relation, Subject: r.Subject}
	return authz.Update{Operation: authz.Delete, Relationship: bare}
}

// exactly selects one relationship.
func exactly(r authz.Relationship) authz.Filter {
	relation := r.Subject.Relation
	return authz.Filter{
		Resource: r.Resource, Relation: r.Relation,
		SubjectType: r.Subject.Type, SubjectID: r.Subject.ID, SubjectRelation: relation,
	}
}

func must(r authz.Relationship) authz.MustHold {
	return authz.MustHold{Filter: exactly(r), Exists: true}
}
func mustNot(r authz.Relationship) authz.MustHold { return authz.MustHold{Filter: exactly(r)} }

func issuedContext(i Issued) map[string]any {
	return map[string]any{"at": stamp(i.At), "until": stamp(i.Until), "key": i.KeyDigest}
}

func readIssued(m map[string]any) Issued {
	return Issued{At: readStamp(m["at"]), Until: readStamp(m["until"]), KeyDigest: text(m["key"])}
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func readStamp(v any) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text(v))
	if err != nil {
		return time.Time{}
	}
	return t
}

func text(v any) string {
	s, ok := v.(string)
	if !ok {
		return ""
	}
	return s
}
