package facts

import (
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Marked selects the sessions or the delegations, by type, that have the active mark: what may be live.
func Marked(objectType string) authz.Filter {
	return authz.Filter{Resource: authz.Object{Type: objectType}, Relation: relActive, SubjectType: objectType}
}

// Named selects the sessions or the delegations, by type, whose agent is known: all but what was purged.
func Named(objectType string) authz.Filter {
	return authz.Filter{Resource: authz.Object{Type: objectType}, Relation: RelationAgent, SubjectType: authz.TypeAgent}
}

// Over reports whether a session or a delegation can never act again as far as its own marks go: it was stopped, or its time
// was up at now. One that has no mark although its time is not up is not over: perhaps it is being imported, or started.
func (l Life) Over(issued Issued, now time.Time) bool {
	return l.Stopped || l.Known && !l.Active && !issued.Until.After(now)
}

// Since is since when what is over has been over, at the latest: since its time was up, or since it was seen to be over. It is zero where
// neither is known.
func (l Life) Since(issued Issued, now time.Time) time.Time {
	since := l.Seen
	if up := issued.Until; !up.IsZero() && !up.After(now) && (since.IsZero() || up.Before(since)) {
		since = up
	}
	return since
}

// MustBeOver holds while a session or a delegation is over by its own marks, as it was read.
func (l Life) MustBeOver(o authz.Object) authz.MustHold {
	switch {
	case l.Purged:
		return authz.MustHold{Filter: authz.Filter{Resource: o, Relation: relPurged}, Exists: true}
	case l.Stopped:
		return authz.MustHold{Filter: authz.Filter{Resource: o, Relation: tombstone(o.Type)}, Exists: true}
	default:
		return authz.MustHold{Filter: authz.Filter{Resource: o, Relation: relActive}}
	}
}

// MustBeUnused holds unless a session or a delegation with the id was purged.
func MustBeUnused(o authz.Object) authz.MustHold {
	return authz.MustHold{Filter: authz.Filter{Resource: o, Relation: relPurged}}
}

// See is the write which notes when a session or a delegation was seen to be over.
func See(o authz.Object, now time.Time) authz.Update {
	seen := mark(o, relOver)
	seen.Caveat, seen.CaveatContext = caveatIssued, issuedContext(Issued{At: now})
	return authz.Update{Operation: authz.Touch, Relationship: seen}
}

// Purge is the write that leaves nothing of a session or a delegation but the tombstone, which comes first: rels are all relationships of
// it, and those of its scope. The one that Named selects comes last, so that a caller that was interrupted finds the rest again.
func Purge(o authz.Object, rels []authz.Relationship) []authz.Update {
	updates := []authz.Update{{Operation: authz.Touch, Relationship: mark(o, relPurged)}}
	var last []authz.Update
	for _, rel := range rels {
		switch {
		case rel.Resource == o && rel.Relation == relPurged:
		case rel.Resource == o && rel.Relation == RelationAgent:
			last = append(last, remove(rel))
		default:
			updates = append(updates, remove(rel))
		}
	}
	return append(updates, last...)
}
