package authz

import (
	"context"
	"slices"
	"strings"
	"time"
)

// Revision is a point in the engine's history, opaque. The zero Revision names none.
//
// An engine whose history may be another one tomorrow, as a database's is after a failover that lost writes, counts its revisions anew there, so
// that the same ZedToken may name two states. Where that is known, a revision says which history it is of; see InHistory.
type Revision struct {
	// Token is SpiceDB's ZedToken, or a ZedToken with a history before it. It is kept and sealed as it is.
	Token string
}

// IsZero reports whether the revision names no point.
func (r Revision) IsZero() bool { return r.Token == "" }

// ofHistory stands between a history and a ZedToken. A ZedToken is base64, which has no such character.
const ofHistory = "@"

// InHistory returns the revision that a ZedToken names in a history, which is a text without "@"; an empty one names none.
func InHistory(history, zedToken string) Revision {
	if history == "" || zedToken == "" {
		return Revision{Token: zedToken}
	}
	return Revision{Token: history + ofHistory + zedToken}
}

// NoHistory marks a revision of which it is not known what history it is of. It is good nowhere.
const NoHistory = "-"

// Histories says which history an engine's revisions are of, where it may become another one.
type Histories interface {
	// History is the history as far as is known. It asks where nothing is known yet. Errors: Unavailable.
	History(ctx context.Context) (string, error)
	// HistoryNow asks which history it is. What was answered between two questions with the same answer is of that history. Errors: Unavailable.
	HistoryNow(ctx context.Context) (string, error)
}

// History is the history that the revision names, or "".
func (r Revision) History() string {
	history, _, found := strings.Cut(r.Token, ofHistory)
	if !found {
		return ""
	}
	return history
}

// ZedToken is SpiceDB's token, without the history.
func (r Revision) ZedToken() string {
	_, token, found := strings.Cut(r.Token, ofHistory)
	if !found {
		return r.Token
	}
	return token
}

// Freshness chooses the revision of a snapshot. The zero value is the head revision.
type Freshness struct {
	// Exactly asks for this revision and no other.
	Exactly Revision
	// AtLeast is a lower bound. Alone it permits an older revision than the head; see Stale.
	AtLeast Revision
	// Also is a second lower bound, beside AtLeast. Which of two is the later one only the engine can tell.
	Also Revision
	// Stale permits the engine's cheapest revision, up to its quantization interval behind the head,
	// though never before AtLeast and Also.
	Stale bool
	// Moment has relationships expire by this moment and not by the clock, together with Exactly, for a caller that asks what was
	// answered then. An engine that cannot leaves it out of account; see Momentary.
	Moment time.Time
}

// Bounds returns the lower bounds that there are.
func (f Freshness) Bounds() []Revision {
	return slices.DeleteFunc([]Revision{f.AtLeast, f.Also}, Revision.IsZero)
}

// Momentary is a Snapshot that heeds Freshness.Moment. Its answers have no traces then.
type Momentary interface {
	// Moment is the moment by which relationships expire; zero stands for the clock's.
	Moment() time.Time
}

// Dated is a Snapshot of something that is kept up to date with what is elsewhere, and may be behind it.
type Dated interface {
	// FreshAt is a moment at which the snapshot's revision was known to be the newest.
	FreshAt() time.Time
}

// Elsewhere is a Snapshot that may be answered by another evaluator than its graph's, as that of a follower is by the database that it follows.
type Elsewhere interface {
	// Elsewhere reports whether it is.
	Elsewhere() bool
}

// Graph is the engine behind decisions. It is safe for concurrent use.
type Graph interface {
	// Snapshot pins a revision. Errors: OutOfRange for a revision that is gone, foreign or in the
	// future, Unavailable when the engine does not answer.
	Snapshot(ctx context.Context, f Freshness) (Snapshot, error)
	// Write applies updates atomically where every precondition holds, and returns the revision at
	// which they are visible; a Snapshot taken afterwards sees them. Errors: Precondition where one
	// does not hold, Exists for a Create of what exists, Aborted where it may be tried again.
	Write(ctx context.Context, updates []Update, preconditions []MustHold) (Revision, error)
	// Retention is how far back a revision can be read.
	Retention() time.Duration
	// ClockOffset is how long after a write a head revision may still lie before it, because the
	// engine's clocks differ; 0 where the head is exact.
	ClockOffset() time.Duration
}

// Snapshot reads the graph at one revision. It is safe for concurrent use and needs no closing.
type Snapshot interface {
	// Revision is the revision that everything is read at.
	Revision() Revision
	// Schema is the schema in force at the revision.
	Schema(ctx context.Context) (*Schema, error)
	// Read returns the relationships that match each filter: as many lists as filters. Expired ones
	// are left out by the engine's clock; the caller compares the rest with its own.
	Read(ctx context.Context, filters ...Filter) ([][]Relationship, error)
	// Page returns up to limit relationships that match, in a stable order after the cursor, and the
	// cursor to go on with, which holds only for the same filter and limit; "" means that there are no
	// more.
	Page(ctx context.Context, f Filter, limit int, cursor string) ([]Relationship, string, error)
	// Check answers each query: as many answers as queries, in order. A query that fails by itself
	// has an answer with Outcome Failed; an error is the failure of the whole call.
	Check(ctx context.Context, queries []Query) ([]Answer, error)
	// Subjects returns subjects of a type that have the permission on the resource, wildcards included: at most limit, whichever, which is
	// at least 1. Fewer than limit are all that there are. It looks for no more than limit, so that an error of another subject may not be told.
	Subjects(ctx context.Context, resource Object, permission, subjectType string, given map[string]any, limit int) ([]SubjectAnswer, error)
	// Resources returns some candidates of a type, at most limit, after the cursor of one that an earlier call with the same limit
	// returned: each resource on which all holders have their permissions, conditionally or not, is among them. Others may be
	// too, and some engines name one twice: what holds of a candidate is for a check to say. next is the cursor to go on
	// with, also where there is no candidate; "" means that no others follow.
	Resources(ctx context.Context, r Reachable, limit int, cursor string) (found []Resource, next string, err error)
}

// Stamp says which relationships were read and at which revision. An engine that makes stamps, and only that one, can tell by
// it whether they are the same at another revision. It is immutable.
type Stamp struct {
	// Of is which of its copies of the graph the engine has read; later ones have higher numbers. 0 where it has one graph.
	Of uint64
	// At is the revision, as the engine counts them.
	At uint64
	// Slots are where the engine notes writes of the relationships.
	Slots []uint32
}

// Filter selects relationships. Empty fields select all; at least Resource.Type or Subject has to be
// given.
type Filter struct {
	// Resource selects by type and, if given, by id.
	Resource Object
	// Relation selects by relation.
	Relation string
	// SubjectType and SubjectID select by subject.
	SubjectType string
	SubjectID   string
	// SubjectRelation selects by the subject's relation; "" selects any.
	SubjectRelation string
	// Limit is for Snapshot.Read without Resource.ID: at most so many are returned, whichever, and at most a thousand; 0 is no limit.
	Limit int
}

// Query is one check: has the subject the permission on the resource?
type Query struct {
	Resource   Object
	Permission string
	Subject    Subject
	// Only asks instead whether the subject is the one and only object of its type that has the
	// permission, unconditionally and by no wildcard. Snapshot.Check does not answer it; see
	// Snapshot.Subjects.
	Only bool
	// Explain asks for an explanation; nil asks for none.
	Explain *Explaining
	// Context is caveat context: JSON values.
	Context map[string]any
}

// Text returns the query in SpiceDB's notation, ids decoded.
func (q Query) Text() string {
	if q.Only {
		return Show(q.Resource) + "#" + q.Permission + " is " + ShowSubject(q.Subject) + " and no other"
	}
	return Show(q.Resource) + "#" + q.Permission + "@" + ShowSubject(q.Subject)
}

// Show returns an object with its id decoded, for people.
func Show(o Object) string { return o.Type + ":" + DecodeID(o.ID) }

// ShowSubject returns a subject with its id decoded, for people.
func ShowSubject(s Subject) string {
	if s.Relation == "" {
		return Show(s.Object)
	}
	return Show(s.Object) + "#" + s.Relation
}

// Answer is what a Query came to. The zero value is No.
type Answer struct {
	Outcome Outcome
	// Missing names the caveat context that was not given, sorted and each once, when Conditional.
	Missing []string
	// Err is set when Outcome is Failed.
	Err error
	// Explanation is set where one was asked for and the engine has one.
	Explanation *Explanation
}

// SubjectAnswer is one subject that a resource's permission names.
type SubjectAnswer struct {
	// ID is the subject's id, or "*".
	ID string
	// Conditional tells that it holds under a caveat.
	Conditional bool
}

// SubjectsAnswer is what Snapshot.Subjects returns for one resource.
type SubjectsAnswer struct {
	Subjects []SubjectAnswer
	Err      error
}

// Reachable asks for the resources of a type on which each of several holders has a permission. There is one at least.
type Reachable struct {
	ResourceType string
	// Holders are in no order, but an engine that looks at one of them alone takes the first.
	Holders []Holder
	Context map[string]any
}

// Holder is a subject with the permission that it has.
type Holder struct {
	Permission string
	Subject    Subject
}

// Resource is a candidate of Snapshot.Resources.
type Resource struct {
	ID string
	// After is the cursor to go on with behind it.
	After string
}

// Operation is what an Update does. The zero value is not valid.
type Operation uint8

// The operations, as in authzed.api.v1.
const (
	_ Operation = iota
	// Create fails if the relationship exists.
	Create
	// Touch writes the relationship whether or not it exists.
	Touch
	// Delete removes the relationship if it exists.
	Delete
)

// Update is one change of a write.
type Update struct {
	Operation    Operation
	Relationship Relationship
}

// MustHold is a condition on a write, judged in the same transaction.
type MustHold struct {
	Filter Filter
	// Exists says whether a match has to exist, or must not. The engine does not see expired rows.
	Exists bool
}

// Schema is what decisions and guards need to know of the schema at a revision. It is immutable.
type Schema struct {
	// CoreDifference says how the core definitions differ from core.zed; empty when they do not.
	// While they differ, every decision refuses.
	CoreDifference string
	// Types holds every object type.
	Types map[string]*Type
	// Text is the schema as SpiceDB writes it; empty where the engine did not have to read it.
	Text string
	// Parameters returns the parameters, by name, of all caveats that may stand on a relationship which the evaluation of
	// a type's relation or permission reads, whatever the object. It is safe for concurrent use; its result is to be read
	// only. A schema without it knows no caveats.
	Parameters func(objectType, member string) map[string][]Parameter
	// Admits returns the kinds of subjects that a relation admits, as a schema writes them: "user", "group#member", "user:* with
	// office_hours". It is safe for concurrent use. A schema without it does not know them.
	Admits func(objectType, relation string) []string
}

// Parameter is a parameter of a caveat.
type Parameter struct {
	// Caveat is the caveat's name, and Type the parameter's type as a schema writes it.
	Caveat, Type string
	// Fits reports whether a JSON value can be one of its type.
	Fits func(value any) bool
}

// Type is one object type of the schema.
type Type struct {
	Name string
	// Members maps each relation and permission to whether it is a permission.
	Members map[string]bool
	// Permissions names those of them that are permissions, in the order in which the schema writes them.
	Permissions []string
	// UnsafeShape names a relation ("type#relation") in which a caveat or an expiration stands beside a
	// userset of the same type, a shape that SpiceDB evaluates wrongly: one of this type, or of another
	// that evaluating this one leads to. Empty where there is none.
	UnsafeShape string
	// Stray names a relation ("type#relation") that evaluating this type reads, and of which SpiceDB would count
	// relationships that have expired: the relation admits no expiration, but holds relationships with one. A
	// schema write past Deputy can do that. Empty where there is none.
	Stray string
	// FeedsTenant holds the relations of this type that the tenant of any type is computed from.
	FeedsTenant map[string]bool
	// FeedsAgents holds the relationships of this type, by relation and kind of subject, that can change what an
	// agent or a delegation reaches: directly, because the set that is their subject can contain one, or because
	// an arrow follows them to objects on which one can hold something.
	FeedsAgents map[Edge]bool
	// Delegable holds the relations of this type that admit a delegation as their subject.
	Delegable map[string]bool
}

// Edge is a kind of relationship of a type: its relation, and its subject's type and relation.
type Edge struct {
	Relation, SubjectType string
	// SubjectRelation is empty for the object itself and for a wildcard.
	SubjectRelation string
}

// Feeds reports whether a relationship with that relation and subject can change what an agent or a delegation
// reaches, or in which tenant an object lies.
func (t *Type) Feeds(relation string, subject Subject) bool {
	return t.FeedsTenant[relation] || t.FeedsAgents[Edge{relation, subject.Type, subject.Relation}]
}

// TenantMember is the relation or permission of a type that says which tenants an object belongs to.
const TenantMember = "tenant"

// TenantSafe reports whether the type says which tenant its objects belong to.
func (t *Type) TenantSafe() bool { _, ok := t.Members[TenantMember]; return ok }
