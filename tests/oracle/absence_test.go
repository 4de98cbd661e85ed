package oracle_test

import (
	"errors"
	"io"
	"slices"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"pgregory.net/rapid"

	"github.com/deputyauth/deputy/tests/oracle"
)

// core are the object types of core.zed.
var core = []string{"user", "service", "agent", "tenant", "delegation", "session"}

// export reads all of a world's relationships from the server.
func (w *world) export() []*v1.Relationship {
	w.t.Helper()
	var filters []*v1.RelationshipFilter
	for _, typ := range append([]string{"group", "folder", "document"}, core[:4]...) {
		filters = append(filters, &v1.RelationshipFilter{ResourceType: typ, OptionalResourceIdPrefix: w.prefix})
	}
	// The server mints these ids: they do not start with the world's prefix.
	for id := range w.state.Delegations {
		filters = append(filters, &v1.RelationshipFilter{ResourceType: "delegation", OptionalResourceId: id})
	}
	for id := range w.state.Sessions {
		filters = append(filters, &v1.RelationshipFilter{ResourceType: "session", OptionalResourceId: id})
	}
	var all []*v1.Relationship
	for _, f := range filters {
		stream, err := w.deputy.graph.ReadRelationships(w.ctx, &v1.ReadRelationshipsRequest{
			RelationshipFilter: f,
			Consistency:        &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
		})
		if err != nil {
			w.t.Fatalf("read: %v", err)
		}
		for {
			r, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				w.t.Fatalf("read: %v", err)
			}
			all = append(all, r.Relationship)
		}
	}
	return all
}

// put writes or deletes relationships as they are.
func put(w *world, d *deputy, operation v1.RelationshipUpdate_Operation, rels ...*v1.Relationship) {
	w.t.Helper()
	for part := range slices.Chunk(rels, 500) {
		request := &v1.WriteRelationshipsRequest{}
		for _, r := range part {
			request.Updates = append(request.Updates, &v1.RelationshipUpdate{Operation: operation, Relationship: r})
		}
		if _, err := d.graph.WriteRelationships(w.ctx, request); err != nil {
			w.t.Fatalf("write: %v", err)
		}
	}
}

// eventful draws a world as Deputy's services write it, with sessions, sub-delegations and some that were
// suspended, revoked, ended or have run out since.
func eventful(rt *rapid.T, t *testing.T, d *deputy) *random {
	r := newRandom(rt, t.Context(), d, size{tenants: 2, users: 3, services: 2, agents: 3, groups: 1, folders: 2, documents: 2})
	for range 3 + r.below(4) {
		r.drawDelegation()
		r.drawSession()
	}
	for range r.below(4) {
		r.drawChange()
	}
	// Stop one of each kind, mostly, and leave the others going.
	for _, o := range []oracle.Object{r.users[2], r.services[1], r.tenants[1], r.agents[2]} {
		if r.chance(70) {
			r.suspend(o)
		}
	}
	if len(r.runs) > 0 && r.chance(70) {
		r.world.end(pick(r, r.runs))
	}
	if len(r.grants) > 0 && r.chance(70) {
		r.revoke(pick(r, r.grants))
	}
	return r
}

// denied returns drawn questions that are refused, each with principal and tenant: without them, less in
// the graph can turn a question that was too vague into one that is not.
func (r *random) denied(n int) []oracle.Question {
	var questions []oracle.Question
	for _, q := range r.drawQuestions(n) {
		if q.Principal != (oracle.Object{}) && q.Tenant != "" {
			questions = append(questions, q)
		}
	}
	answers := r.compare(questions)
	var denied []oracle.Question
	for i, a := range answers {
		if a.Failure == oracle.NoFailure && a.Verdict == oracle.Denied {
			denied = append(denied, questions[i])
		}
	}
	return denied
}

// stillDenied asserts that questions which were refused are not allowed, on a server that may be another
// one than the world's. An error is no allow.
func (r *random) stillDenied(d *deputy, questions []oracle.Question, missing func() string) {
	r.rt.Helper()
	w := *r.world
	w.deputy = d
	answers, _ := w.askAll(questions)
	for i, q := range questions {
		if answers[i].Verdict != oracle.Denied {
			w.fail("refused before, now "+answers[i].Verdict.String()+" without "+missing(), q)
		}
	}
}

// TestAbsenceNarrows takes what Deputy's services have written and deletes, through authzed.api.v1, one
// relationship of the core's types after the other: tombstones, marks, links, memberships. What was
// refused is refused without it as well.
//
// This says nothing about graphs that no service writes, such as a delegation with two parents, which
// lacks one of them afterwards and is well-formed; nor about what the domain itself takes away with an
// exclusion, or the tenant that an object says it belongs to.
func TestAbsenceNarrows(t *testing.T) {
	d := openDeputy(t, domain)
	deleted := map[string]int{}
	try(t, 10, func(rt *rapid.T) {
		r := eventful(rt, t, d)
		questions := r.denied(60)
		if len(questions) == 0 {
			return
		}
		for _, rel := range r.export() {
			// Each kind is deleted at least once in every world, the rest now and then.
			if kind := rel.Resource.ObjectType + "#" + rel.Relation; !slices.Contains(core, rel.Resource.ObjectType) || deleted[kind] > 0 && !r.chance(20) {
				continue
			} else {
				deleted[kind]++
			}
			put(r.world, d, v1.RelationshipUpdate_OPERATION_DELETE, rel)
			r.stillDenied(d, questions, rel.String)
			put(r.world, d, v1.RelationshipUpdate_OPERATION_TOUCH, rel)
		}
	})
	t.Logf("deleted: %v", deleted)
	for _, kind := range []string{
		"user#active", "user#suspended", "service#active", "service#owner", "tenant#active", "tenant#suspended", "tenant#admin",
		"tenant#member", "tenant#agent", "agent#active", "agent#suspended", "agent#owner", "delegation#active", "delegation#revoked",
		"delegation#agent", "delegation#principal", "delegation#tenant", "delegation#granted_by", "delegation#parent",
		"delegation#session", "delegation#unscoped", "delegation#allow_direct", "session#active", "session#ended", "session#agent",
		"session#delegation", "session#unfrozen", "session#baseline",
	} {
		if deleted[kind] == 0 && chosenChecks == "" {
			t.Errorf("no %s was ever deleted: the worlds no longer have one", kind)
		}
	}
}

// TestHalfAnImportOpensNothing imports a random half of a world into a server that is empty: what was
// refused with the whole is refused with the half. What the domain takes away by an exclusion, and what
// says to which tenant an object belongs, is imported whole.
func TestHalfAnImportOpensNothing(t *testing.T) {
	d := openDeputy(t, domain)
	var whole tally
	try(t, 15, func(rt *rapid.T) {
		r := eventful(rt, t, d)
		questions := r.denied(60)
		all := r.export()
		fresh, shut, err := startDeputy(domain)
		if err != nil {
			rt.Fatalf("%v", err)
		}
		defer func() {
			if err := shut(); err != nil {
				rt.Errorf("%v", err)
			}
		}()
		keep := 30 + r.below(68)
		for range 3 {
			var half, left []*v1.Relationship
			for _, rel := range all {
				kind := rel.Resource.ObjectType + "#" + rel.Relation
				if slices.Contains([]string{"folder#tenant", "document#folder", "folder#banned", "document#banned"}, kind) || r.chance(keep) {
					half = append(half, rel)
				} else {
					left = append(left, rel)
				}
			}
			put(r.world, fresh, v1.RelationshipUpdate_OPERATION_TOUCH, half...)
			r.stillDenied(fresh, questions, func() string { return (&v1.WriteRelationshipsRequest{Updates: updates(left)}).String() })
			put(r.world, fresh, v1.RelationshipUpdate_OPERATION_DELETE, half...)
		}
		// The whole of it is worth something there: sessions that are not frozen go on.
		put(r.world, fresh, v1.RelationshipUpdate_OPERATION_TOUCH, all...)
		w := *r.world
		w.deputy = fresh
		answers, _ := w.askAll(r.drawQuestions(60))
		for _, a := range answers {
			whole.add([]oracle.Answer{a.Answer})
		}
	})
	whole.wantAll(t, "HAS_PERMISSION UNSPECIFIED")
}

// updates wraps relationships for a message.
func updates(rels []*v1.Relationship) []*v1.RelationshipUpdate {
	var all []*v1.RelationshipUpdate
	for _, r := range rels {
		all = append(all, &v1.RelationshipUpdate{Relationship: r})
	}
	return all
}
