package facts

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Lists find live sessions and delegations by relationships that expire with them and are deleted when they are stopped:
//
//	session:s#listed@agent:a               while s is live
//	delegation:d#listed@agent:a            while d is live, unless a session minted it
//	delegation:d#listed@tenant:t
//	delegation:d#listed@delegation:parent
//	delegation:d#listed_for@user:u         or a service, or a set
//
// Each is read for the id in it alone. What the session or delegation is, and whether it is live, its own facts say. So one
// too many is harmless, and one too few hides a session or delegation, and never shows one.
//
// An older Deputy wrote none, and neither does somebody who writes facts past Deputy's services. Of whether all that is live is listed
// keeps account:
//
//	delegation:=all#indexed@delegation:=all       Deputy has gone through all and listed what was not
//	delegation:=all#indexed@delegation:=29571234  in that minute since 1970 facts were written otherwise
//
// Lists go by what is listed where there is the first and none of the second. Otherwise they read everything, as they did before.

// all stands for all delegations and sessions. No delegation has this id: ids are minted in hexadecimal.
var all = authz.Object{Type: authz.TypeDelegation, ID: "=all"}

// unsettled is for how many minutes a write that was noted may not have been committed, and clocks may differ.
const unsettled = 2

// IndexFilter selects what Indexed reads.
func IndexFilter() authz.Filter { return authz.Filter{Resource: all, Relation: relIndexed} }

// Indexed reports whether all that is live is listed.
func Indexed(rels []authz.Relationship) bool { return len(rels) == 1 && rels[0].Subject.Object == all }

// NotIndexed is the write which notes that facts are written otherwise than by Delegation and Session, at a time.
func NotIndexed(now time.Time) []authz.Update {
	note := mark(all, relIndexed)
	note.Subject.ID = "=" + strconv.FormatInt(minute(now), 10)
	return []authz.Update{{Operation: authz.Touch, Relationship: note}}
}

// MakeIndexed is the write after everything was listed that was live when rels were read. It is not ready, and to be asked for again, while
// something may be being written that rels note.
func MakeIndexed(rels []authz.Relationship, now time.Time) (updates []authz.Update, ready bool) {
	updates = []authz.Update{{Operation: authz.Touch, Relationship: mark(all, relIndexed)}}
	for _, rel := range rels {
		if rel.Subject.Object == all {
			continue
		}
		if at, err := strconv.ParseInt(strings.TrimPrefix(rel.Subject.ID, "="), 10, 64); err == nil && at+unsettled > minute(now) {
			return nil, false
		}
		if len(updates) < maxNotes {
			updates = append(updates, remove(rel))
		}
	}
	return updates, true
}

// maxNotes is the most updates of MakeIndexed.
const maxNotes = 1000

func minute(t time.Time) int64 { return t.Unix() / 60 }

// listing is how lists find the delegation.
func (d *Delegation) listing() []authz.Relationship {
	if d.Session != "" {
		return nil
	}
	subjects := []authz.Subject{{Object: d.Agent.Object()}, {Object: d.Tenant.Object()}}
	if d.Parent != "" {
		subjects = append(subjects, authz.Subject{Object: d.Parent.Object()})
	}
	return append(listing(d.ID.Object(), relListed, d.Until, subjects...), listing(d.ID.Object(), relListedFor, d.Until, d.Principal)...)
}

// listing is how lists find the session.
func (s *Session) listing() []authz.Relationship {
	return listing(s.ID.Object(), relListed, s.Until, authz.Subject{Object: s.Agent.Object()})
}

// listing returns the relationships of an object to subjects, as far as they are known, that expire.
func listing(o authz.Object, relation string, until time.Time, subjects ...authz.Subject) []authz.Relationship {
	var rels []authz.Relationship
	for _, s := range subjects {
		if s.ID != "" {
			rels = append(rels, authz.Relationship{Resource: o, Relation: relation, Subject: s, ExpiresAt: until})
		}
	}
	return rels
}

// List is the write that lists a live delegation, without what there is already among its relationships.
func (d *Delegation) List(rels []authz.Relationship) []authz.Update {
	return missing(d.listing(), rels)
}

// List is the write that lists a live session, and notes until when it lasts, without what there is already among its relationships.
func (s *Session) List(rels []authz.Relationship) []authz.Update {
	updates := missing(s.listing(), rels)
	if !s.Issued.Until.Equal(s.Until) {
		noted := *s
		noted.Issued.Until = s.Until
		updates = append(updates, authz.Update{Operation: authz.Touch, Relationship: noted.agent()})
	}
	return updates
}

// missing creates those of the wanted that there are not. It never touches one, which a renewal may have moved meanwhile.
func missing(wanted, rels []authz.Relationship) []authz.Update {
	var updates []authz.Update
	for _, w := range wanted {
		there := func(r authz.Relationship) bool { return r.Relation == w.Relation && r.Subject == w.Subject }
		if !slices.ContainsFunc(rels, there) {
			updates = append(updates, authz.Update{Operation: authz.Create, Relationship: w})
		}
	}
	return updates
}

// LiveFilter is ListFilter for live delegations that no session minted, where all that is live is listed.
func LiveFilter(subject authz.Subject, asPrincipal bool) authz.Filter {
	f := ListFilter(subject, asPrincipal)
	f.Relation = relListed
	if asPrincipal {
		f.Relation = relListedFor
	}
	return f
}

// LiveSessionFilter is SessionListFilter for live sessions, where all that is live is listed.
func LiveSessionFilter(id authz.AgentID) authz.Filter {
	f := SessionListFilter(id)
	f.Relation = relListed
	return f
}

// MakesLive reports whether a relationship of that relation can make a session or a delegation live.
func MakesLive(resourceType, relation string) bool {
	return relation == relActive && (resourceType == authz.TypeSession || resourceType == authz.TypeDelegation)
}
