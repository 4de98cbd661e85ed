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

// thriving draws a world in which much is allowed, as Deputy's services write it: delegations passed on
// from session to session, frozen and not. It returns the questions that are allowed there. Each names
// its principal and tenant: without, less in the graph can turn a question that was too vague into one
// that is not.
func thriving(t *testing.T, rt *rapid.T, d *deputy) (*random, []oracle.Question) {
	r := newRandom(t.Context(), rt, d, size{tenants: 2, users: 2, services: 1, agents: 3, groups: 1, folders: 2, documents: 2})
	for range 5 + r.below(4) {
		r.drawDelegation()
		r.drawSession()
	}
	var questions []oracle.Question
	for _, q := range r.drawQuestions(120) {
		if q.Principal != (oracle.Object{}) && q.Tenant != "" {
			questions = append(questions, q)
		}
	}
	allowed, _ := r.split(questions)
	return r, allowed
}

// split compares questions, and sorts those that have an answer into allowed, conditionally or not, and
// denied.
func (r *random) split(questions []oracle.Question) (allowed, denied []oracle.Question) {
	for i, a := range r.compare(questions) {
		switch {
		case a.Failure != oracle.NoFailure:
		case a.Verdict == oracle.Denied:
			denied = append(denied, questions[i])
		default:
			allowed = append(allowed, questions[i])
		}
	}
	return allowed, denied
}

// causes are what makes a question that was allowed a refused one: for this one reason.
var causes = []func(*random, oracle.Question, []oracle.Delegation){
	func(r *random, q oracle.Question, _ []oracle.Delegation) { r.suspend(q.Principal) },
	func(r *random, q oracle.Question, _ []oracle.Delegation) {
		r.suspend(oracle.Object{Type: "tenant", ID: q.Tenant})
	},
	func(r *random, _ oracle.Question, chain []oracle.Delegation) {
		r.suspend(oracle.Object{Type: "agent", ID: pick(r, chain).Agent})
	},
	func(r *random, _ oracle.Question, chain []oracle.Delegation) { r.revoke(pick(r, chain).ID) },
	func(r *random, _ oracle.Question, chain []oracle.Delegation) {
		r.expire(oracle.Object{Type: "delegation", ID: pick(r, chain).ID})
	},
	func(r *random, q oracle.Question, chain []oracle.Delegation) {
		if sessions := behind(q, chain); len(sessions) > 0 {
			r.world.end(pick(r, sessions))
		}
	},
	func(r *random, q oracle.Question, chain []oracle.Delegation) {
		if sessions := behind(q, chain); len(sessions) > 0 {
			r.expire(oracle.Object{Type: "session", ID: pick(r, sessions)})
		}
	},
	func(r *random, q oracle.Question, _ []oracle.Delegation) {
		r.leave(oracle.Standing{Tenant: q.Tenant, Relation: "member", Who: q.Principal})
		if q.Principal.Type == "user" {
			r.leave(oracle.Standing{Tenant: q.Tenant, Relation: "admin", Who: q.Principal})
		}
	},
	func(r *random, q oracle.Question, chain []oracle.Delegation) {
		r.leave(oracle.Standing{Tenant: q.Tenant, Relation: "agent", Who: oracle.Object{Type: "agent", ID: pick(r, chain).Agent}})
	},
	func(r *random, _ oracle.Question, chain []oracle.Delegation) {
		// The user who granted it may not any more.
		root := chain[0]
		r.leave(oracle.Standing{Tenant: root.Tenant, Relation: "admin", Who: root.GrantedBy})
		if root.Principal.Type == "service" {
			r.disown(root.Principal.Object, root.GrantedBy)
		}
	},
	func(r *random, q oracle.Question, _ []oracle.Delegation) {
		// The principal has nothing on the object any more.
		for _, e := range r.edges() {
			if e.Subject.Object == q.Principal || e.Subject.ID == "*" || e.Subject.Relation != "" {
				r.ungrant(e)
			}
		}
	},
}

// behind returns the sessions that a question and its chain depend on.
func behind(q oracle.Question, chain []oracle.Delegation) []string {
	var sessions []string
	for _, d := range chain {
		if d.Session != "" {
			sessions = append(sessions, d.Session)
		}
	}
	if q.Session != "" && !slices.Contains(sessions, q.Session) {
		sessions = append(sessions, q.Session)
	}
	return sessions
}

// refuse lets one thing happen that refuses at least one of the questions, most of the time, and returns
// those that are refused and those that are still allowed. One way is that more is granted than was when
// frozen sessions started.
func (r *random) refuse(allowed []oracle.Question) (refused, still []oracle.Question) {
	if frozen := r.frozen(); len(frozen) > 0 && r.chance(20) {
		for _, o := range slices.Concat(r.folders, r.documents) {
			for _, p := range slices.Concat(r.principals(), r.agents) {
				r.grant(o, "editor", oracle.Subject{Object: p}, oracle.Condition{})
			}
		}
		r.flush()
		var questions []oracle.Question
		for _, session := range frozen {
			d := r.state.Delegations[pick(r, r.state.Sessions[session].Leaves)]
			for _, o := range slices.Concat(r.folders, r.documents) {
				questions = append(questions, oracle.Question{
					Agent: d.Agent, Session: session, Principal: d.Principal.Object, Tenant: d.Tenant, Resource: o, Permission: "edit",
				})
			}
		}
		_, refused = r.split(questions)
		return refused, allowed
	}
	q := pick(r, allowed)
	for _, a := range r.compare([]oracle.Question{q}) {
		pick(r, causes)(r, q, r.state.Chain(a.Delegation))
		r.flush()
	}
	still, refused = r.split(allowed)
	return refused, still
}

// frozen returns the frozen sessions.
func (r *random) frozen() []string {
	var frozen []string
	for _, id := range r.runs {
		if r.state.Sessions[id].Baseline != nil {
			frozen = append(frozen, id)
		}
	}
	return frozen
}

// involved returns the objects of the core that a question's answer depends on.
func (r *random) involved(q oracle.Question) map[oracle.Object]bool {
	objects := map[oracle.Object]bool{
		q.Principal: true, {Type: "tenant", ID: q.Tenant}: true, {Type: "agent", ID: q.Agent}: true, {Type: "session", ID: q.Session}: q.Session != "",
	}
	var last []string
	switch {
	case q.Session != "":
		last = r.state.Sessions[q.Session].Leaves
	case q.Delegation != "":
		last = []string{q.Delegation}
	default:
		for id, d := range r.state.Delegations {
			if d.Agent == q.Agent && d.Direct {
				last = append(last, id)
			}
		}
	}
	for _, id := range last {
		for _, d := range r.state.Chain(id) {
			objects[oracle.Object{Type: "delegation", ID: d.ID}] = true
			objects[oracle.Object{Type: "agent", ID: d.Agent}] = true
			objects[oracle.Object{Type: "session", ID: d.Session}] = d.Session != ""
			objects[d.Principal.Object] = true
		}
	}
	return objects
}

// stillDenied asserts that questions which were refused are not allowed, on a server that may be another
// one than the world's. An error is no allow.
func (r *random) stillDenied(d *deputy, questions []oracle.Question, missing func() string) {
	r.rt.Helper()
	if len(questions) == 0 {
		return
	}
	w := *r.world
	w.deputy = d
	answers, _ := w.askAll(questions)
	for i, q := range questions {
		if answers[i].Verdict != oracle.Denied {
			w.fail("refused before, now "+answers[i].Verdict.String()+" without "+missing(), q)
		}
	}
}

// TestAbsenceNarrows takes what Deputy's services have written, lets one thing happen that refuses what
// was allowed, and then deletes, through authzed.api.v1, one relationship of the core's types after the
// other: tombstones, marks, links, memberships. What is refused is refused without it as well.
//
// This says nothing about graphs that no service writes, such as a delegation with two parents, which
// lacks one of them afterwards and is well-formed; nor about what the domain itself takes away with an
// exclusion, or the tenant that an object says it belongs to.
func TestAbsenceNarrows(t *testing.T) {
	d := openDeputy(t, domain)
	deleted := map[string]int{}
	try(t, 10, func(rt *rapid.T) {
		r, allowed := thriving(t, rt, d)
		for range 3 {
			if len(allowed) == 0 {
				return
			}
			var refused []oracle.Question
			refused, allowed = r.refuse(allowed)
			if len(refused) == 0 {
				continue
			}
			one := pick(r, refused)
			involved := r.involved(one)
			for _, rel := range r.export() {
				// What has nothing to do with it is deleted now and then.
				object := oracle.Object{Type: rel.Resource.ObjectType, ID: rel.Resource.ObjectId}
				if !slices.Contains(core, object.Type) || !involved[object] && !r.chance(2) {
					continue
				}
				deleted[object.Type+"#"+rel.Relation]++
				put(r.world, d, v1.RelationshipUpdate_OPERATION_DELETE, rel)
				r.stillDenied(d, append([]oracle.Question{one}, refused[:min(len(refused), 6)]...), rel.String)
				put(r.world, d, v1.RelationshipUpdate_OPERATION_TOUCH, rel)
			}
		}
	})
	t.Logf("deleted: %v", deleted)
	for _, kind := range []string{
		"user#active", "tenant#active", "tenant#member", "tenant#agent", "agent#active", "agent#owner", "delegation#active",
		"delegation#agent", "delegation#principal", "delegation#tenant", "delegation#granted_by", "delegation#parent",
		"delegation#session", "delegation#unscoped", "delegation#allow_direct", "session#active", "session#agent",
		"session#delegation", "session#unfrozen", "session#baseline",
	} {
		if deleted[kind] == 0 && chosenChecks == "" {
			t.Errorf("no %s was ever deleted: the worlds no longer have one", kind)
		}
	}
	tombstones := 0
	for _, kind := range []string{"user#suspended", "service#suspended", "tenant#suspended", "agent#suspended", "delegation#revoked", "session#ended"} {
		tombstones += deleted[kind]
	}
	if tombstones == 0 && chosenChecks == "" {
		t.Error("no tombstone was ever deleted: the worlds no longer have one")
	}
}

// TestHalfAnImportOpensNothing imports a random half of a world into a server that is empty: what was
// refused with the whole is refused with the half. What the domain takes away by an exclusion, and what
// says to which tenant an object belongs, is imported whole.
func TestHalfAnImportOpensNothing(t *testing.T) {
	d := openDeputy(t, domain)
	var whole tally
	try(t, 15, func(rt *rapid.T) {
		r, allowed := thriving(t, rt, d)
		var questions []oracle.Question
		for range 2 {
			if len(allowed) > 0 {
				var refused []oracle.Question
				refused, allowed = r.refuse(allowed)
				questions = append(questions, refused...)
			}
		}
		_, questions = r.split(questions)
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
		for range 8 {
			// From a half to nearly all of it; or all but a few, and one in two of what takes something
			// away while it is there.
			keep, unfair := 50+r.below(48), r.chance(70)
			var half, left []*v1.Relationship
			for _, rel := range all {
				likely := keep
				switch kind := rel.Resource.ObjectType + "#" + rel.Relation; {
				case slices.Contains([]string{"folder#tenant", "document#folder", "folder#banned", "document#banned"}, kind):
					likely = 100
				case unfair && slices.Contains([]string{"suspended", "revoked", "ended", "baseline"}, rel.Relation):
					likely = 50
				case unfair:
					likely = 99
				}
				if r.chance(likely) {
					half = append(half, rel)
				} else {
					left = append(left, rel)
				}
			}
			put(r.world, fresh, v1.RelationshipUpdate_OPERATION_TOUCH, half...)
			r.stillDenied(fresh, questions, func() string { return (&v1.WriteRelationshipsRequest{Updates: updates(left)}).String() })
			put(r.world, fresh, v1.RelationshipUpdate_OPERATION_DELETE, half...)
		}
		// The whole of it is worth something there: what does not depend on where a session started.
		put(r.world, fresh, v1.RelationshipUpdate_OPERATION_TOUCH, all...)
		w := *r.world
		w.deputy = fresh
		answers, _ := w.askAll(allowed)
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
