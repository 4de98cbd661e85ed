package bench

import (
	"fmt"
	"math/rand/v2"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
)

const (
	// depth is how deep the deep trees are.
	depth = 30
	// documentsOfShape is how many documents a shape has. insiders is how many users may view them and
	// have a session; as many have a session and may not.
	documentsOfShape, insiders = 1000, 32
	// noCliff is how much of the rate in the graph "folders", which is 4 deep, a shape has to keep: what is
	// seven times as deep may take several times as long, not a hundred times.
	noCliff = 0.2
)

// shape is a graph that is hard in one way: a tenant of its own, named after it, whose documents lie in
// one folder.
type shape struct {
	name, what string
	// top is the folder that the agent may view, bottom that of the documents.
	top, bottom string
	// granted is what an insider has.
	granted string
	rels    []string
}

// wide has one group, which may view the folder.
func wide(members int) shape {
	s := shape{name: "wide", what: fmt.Sprintf("a group of %d", members), top: "wide-folder", bottom: "wide-folder", granted: "group:wide#member"}
	s.relf("folder:wide-folder#viewer@group:wide#member")
	for i := range members - insiders {
		s.relf("group:wide#member@user:wide-other-%d", i)
	}
	return s
}

// deep has folders in a line; who may view the topmost may view the documents in the lowest.
func deep() shape {
	s := shape{name: "deep", what: fmt.Sprintf("folders %d deep", depth), top: "deep-folder-0", bottom: fmt.Sprintf("deep-folder-%d", depth-1), granted: "folder:deep-folder-0#viewer"}
	for i := range depth - 1 {
		s.relf("folder:deep-folder-%d#parent@folder:deep-folder-%d", i+1, i)
	}
	return s
}

// nested has groups in a line; the members of the lowest may view the folder.
func nested() shape {
	s := shape{name: "nested", what: fmt.Sprintf("groups %d deep", depth), top: "nested-folder", bottom: "nested-folder", granted: fmt.Sprintf("group:nested-%d#member", depth-1)}
	s.relf("folder:nested-folder#viewer@group:nested-0#member")
	for i := range depth - 1 {
		s.relf("group:nested-%d#member@group:nested-%d#member", i, i+1)
	}
	return s
}

func (s *shape) relf(format string, args ...any) {
	s.rels = append(s.rels, fmt.Sprintf(format, args...))
}

// governed are the users of a shape, insiders first.
func (s *shape) governed() governed {
	g := governed{tenant: s.name, agent: s.name + "-agent"}
	for i := range 2 * insiders {
		g.users = append(g.users, fmt.Sprintf("%s-user-%d", s.name, i))
	}
	return g
}

// settle adds what every shape has: the tenant, the agent's view of everything, the insiders, the documents.
func (s *shape) settle() {
	who := s.governed()
	s.relf("tenant:%s#agent@agent:%s", who.tenant, who.agent)
	s.relf("folder:%s#viewer@agent:%s", s.top, who.agent)
	s.relf("folder:%s#tenant@tenant:%s", s.bottom, who.tenant)
	for i, user := range who.users {
		s.relf("tenant:%s#member@user:%s", who.tenant, user)
		if i < insiders {
			s.relf("%s@user:%s", s.granted, user)
		}
	}
	for i := range documentsOfShape {
		s.relf("document:%s-document-%d#folder@folder:%s", s.name, i, s.bottom)
	}
}

// messages are a shape's relationships as they travel.
func (s *shape) messages(t testing.TB) (all []*v1.ImportBulkRelationshipsRequest) {
	t.Helper()
	current := &v1.ImportBulkRelationshipsRequest{}
	for _, text := range s.rels {
		r, err := tuple.ParseV1Rel(text)
		if err != nil {
			t.Fatal(err)
		}
		current.Relationships = append(current.Relationships, r)
		if len(current.GetRelationships()) == 1000 {
			all = append(all, current)
			current = &v1.ImportBulkRelationshipsRequest{}
		}
	}
	return append(all, current)
}

// TestShapes measures decisions in graphs that are wide and deep, on a server of their own, beside the bare
// call and those in the graph "folders".
func TestShapes(t *testing.T) {
	all := []shape{wide(scaled(100_000, 1_000)), deep(), nested()}
	tenants := make([]governed, len(all))
	for i := range all {
		all[i].settle()
		tenants[i] = all[i].governed()
	}
	d := startDeputy(t, t.TempDir())
	d.prepare(t, tenants)
	for i := range all {
		if err := importAll(t.Context(), d.checks.client, all[i].messages(t)); err != nil {
			t.Fatal(err)
		}
	}
	byShape := map[int][]agentRun{}
	for _, run := range d.begin(t, tenants) {
		byShape[run.number] = append(byShape[run.number], run)
	}
	plain, plainRuns := startSmall(t, sized(scaled(87_300, 5_000)))
	limit, _ := startLimit(t, plain, cold(plainRuns), leg{"tenant", tenant(0), "access", "user", user(0, 1)})
	bare := contender{name: bareName, ask: decide(limit, cold(plainRuns))}
	folders := contender{name: deputyName + ", the graph folders", ask: decide(plain.decisions, cold(plainRuns))}
	contenders := []contender{bare, folders}
	for i, s := range all {
		c := contender{name: deputyName + ", " + s.what, ask: decide(d.decisions, func(r *rand.Rand) question {
			n := r.IntN(len(byShape[i]))
			return question{byShape[i][n], fmt.Sprintf("%s-document-%d", s.name, r.IntN(documentsOfShape))}
		})}
		agree(t, 20, []contender{bare, c})
		contenders = append(contenders, c)
	}
	r := contest(t, "decisions by shape", 32, scaled(3, 1), contenders)
	for _, c := range contenders[2:] {
		atLeast(t, "decisions by shape, 32 workers: "+c.name+" / the graph folders", r.over(c.name, folders.name), "", noCliff)
	}
}
