package isolation

import (
	"context"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/tests/oracle"
)

// rows are what a graph holds at a revision, by resource and relation, read plainly and not with the code that decisions are made
// with, so that a mistake there is not made here too.
type rows map[authz.Object]map[string][]authz.Relationship

func readRows(ctx context.Context, at authz.Snapshot) (rows, error) {
	all, err := at.Read(ctx, authz.Filter{})
	if err != nil {
		return nil, err
	}
	r := rows{}
	for _, rel := range all[0] {
		if r[rel.Resource] == nil {
			r[rel.Resource] = map[string][]authz.Relationship{}
		}
		r[rel.Resource][rel.Relation] = append(r[rel.Resource][rel.Relation], rel)
	}
	return r, nil
}

// one returns the only subject of a relation; ok is false if there is none, or another.
func (r rows) one(o authz.Object, relation string) (s authz.Subject, ok bool) {
	all := r[o][relation]
	if len(all) != 1 || all[0].Subject.ID == tuple.PublicWildcard {
		return authz.Subject{}, false
	}
	return all[0].Subject, true
}

// marked reports whether an object carries a mark: a relation whose one subject is the object itself.
func (r rows) marked(o authz.Object, relation string) bool {
	s, ok := r.one(o, relation)
	return ok && s == authz.Subject{Object: o}
}

// optional reports what stands in a relation that may be empty; ok is false if it is not, and not as it has to be.
func (r rows) optional(o authz.Object, relation string, is func(authz.Subject) bool) (s authz.Subject, there, ok bool) {
	if len(r[o][relation]) == 0 {
		return s, false, true
	}
	s, ok = r.one(o, relation)
	return s, true, ok && (is == nil || is(s))
}

// read returns what the oracle has to know of a graph. Its baselines are read at their own revisions.
func (g *graph) read(ctx context.Context, at authz.Snapshot) (*oracle.State, error) {
	r, err := readRows(ctx, at)
	if err != nil {
		return nil, err
	}
	s := oracle.NewState()
	s.Globals = g.suite.File.Globals
	s.Ask = g.asker(ctx, at)
	for o, relations := range r {
		self := func(s authz.Subject) bool { return s == authz.Subject{Object: o} }
		switch o.Type {
		case authz.TypeUser, authz.TypeService, authz.TypeAgent, authz.TypeTenant:
			s.Active[object(o)], s.Suspended[object(o)] = r.marked(o, "active"), len(relations["suspended"]) > 0
			for _, owner := range relations["owner"] {
				if s.Owners[object(o)] == nil {
					s.Owners[object(o)] = map[string]bool{}
				}
				s.Owners[object(o)][owner.Subject.ID] = true
			}
			for relation := range relations {
				for _, rel := range relations[relation] {
					if o.Type == authz.TypeTenant {
						s.Standing[oracle.Standing{Tenant: o.ID, Relation: relation, Who: object(rel.Subject.Object)}] = rel.ExpiresAt
					}
				}
			}
			if o.Type == authz.TypeTenant {
				s.Edges[oracle.Edge{Resource: object(o), Subject: oracle.Subject{Object: object(o)}}] = oracle.Condition{} // so that it is known
			}
		case authz.TypeDelegation:
			d := oracle.Delegation{ID: o.ID, Revoked: len(relations["revoked"]) > 0, Until: forever}
			agent, hasAgent := r.one(o, "agent")
			principal, hasPrincipal := r.one(o, "principal")
			tenant, hasTenant := r.one(o, "tenant")
			grantor, hasGrantor := r.one(o, "granted_by")
			parent, hasParent, soundParent := r.optional(o, "parent", nil)
			session, hasSession, soundSession := r.optional(o, "session", nil)
			_, unscoped, soundScope := r.optional(o, "unscoped", self)
			_, direct, soundDirect := r.optional(o, "allow_direct", func(s authz.Subject) bool { return s == principal })
			d.Agent, d.Tenant, d.GrantedBy, d.Parent, d.Session = agent.ID, tenant.ID, object(grantor.Object), parent.ID, session.ID
			d.Principal = oracle.Subject{Object: object(principal.Object), Relation: principal.Relation}
			d.Unscoped, d.Direct = unscoped, direct
			d.Active = r.marked(o, "active") && hasAgent && hasPrincipal && hasTenant && hasGrantor && soundParent && soundSession &&
				soundScope && soundDirect && (!hasSession || hasParent)
			s.Delegations[o.ID] = d
		case authz.TypeSession:
			session := oracle.Session{ID: o.ID, Ended: len(relations["ended"]) > 0, Until: forever}
			agent, hasAgent := r.one(o, "agent")
			for _, leaf := range relations["delegation"] {
				session.Leaves = append(session.Leaves, leaf.Subject.ID)
			}
			_, frozen, soundFrozen := r.optional(o, "baseline", self)
			_, unfrozen, soundUnfrozen := r.optional(o, "unfrozen", self)
			session.Agent = agent.ID
			session.Active = r.marked(o, "active") && hasAgent && soundFrozen && soundUnfrozen && frozen != unfrozen
			if frozen {
				token, _ := relations["baseline"][0].CaveatContext["revision"].(string)
				if session.Baseline, err = g.baseline(ctx, token); err != nil {
					return nil, err
				}
			}
			s.Sessions[o.ID] = session
		}
	}
	return s, nil
}

// baseline is the state at the revision at which a frozen session started.
func (g *graph) baseline(ctx context.Context, token string) (*oracle.State, error) {
	if s := g.baselines[token]; s != nil {
		return s, nil
	}
	at, err := g.Snapshot(ctx, authz.Freshness{Exactly: authz.Revision{Token: token}})
	if err != nil {
		return nil, err
	}
	s, err := g.read(ctx, at)
	g.baselines[token] = s
	return s, err
}

func object(o authz.Object) oracle.Object { return oracle.Object{Type: o.Type, ID: o.ID} }

// asker answers checks with the graph's evaluator, each once.
func (g *graph) asker(ctx context.Context, at authz.Snapshot) func(oracle.Object, string, oracle.Object) oracle.Truth {
	type check struct {
		resource oracle.Object
		member   string
		who      oracle.Object
	}
	known := map[check]authz.Outcome{}
	return func(resource oracle.Object, member string, who oracle.Object) oracle.Truth {
		c := check{resource, member, who}
		outcome, ok := known[c]
		if !ok {
			answers, err := at.Check(ctx, []authz.Query{{
				Resource: authz.Object(resource), Permission: member, Subject: authz.Subject{Object: authz.Object(who)},
			}})
			outcome = authz.Failed
			if err == nil {
				outcome = answers[0].Outcome
			}
			known[c] = outcome
		}
		switch outcome {
		case authz.Yes:
			return oracle.Yes
		case authz.Conditional:
			return oracle.Truth{Missing: oracle.MissingAmount} // whatever it is that is missing
		case authz.No:
		default:
			g.failed = true
		}
		return oracle.No
	}
}
