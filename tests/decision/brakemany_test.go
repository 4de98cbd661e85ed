package decision_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestBrakeOfManySessions: an agent with 10,000 live sessions is stopped by the first write, before any of them has ended, and each call of the
// brake ends a bounded part of them in bounded time.
func TestBrakeOfManySessions(t *testing.T) {
	const runs = 10_000
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: harness.Embedded(t)}))
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	first := w.start(target(d))
	w.copies(first, runs-1)
	would := w.wouldStop(brakeAgent("bot"))
	if n := would.GetSessions(); n > runs || would.GetComplete() && n != runs {
		t.Errorf("it would stop %d sessions, complete %t", n, would.GetComplete())
	}

	w.allow(inSession(&deputyv1.Session{SessionId: fmt.Sprintf("%032x", runs-1), AgentId: "bot"}).view("document:plan"))

	began := time.Now()
	var refused, returned time.Duration
	var calls sync.WaitGroup
	var by *deputyv1.BrakeResponse
	calls.Go(func() {
		var err error
		if by, err = w.brakes().Brake(t.Context(), brakeAgent("bot")); err != nil {
			t.Error(err)
		}
		returned = time.Since(began)
	})
	for refused == 0 && time.Since(began) < 30*time.Second {
		resp, err := w.Permissions().CheckPermission(t.Context(), inSession(first).view("document:plan").CheckPermissionRequest)
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetPermissionship() == no {
			refused = time.Since(began)
		}
	}
	calls.Wait()
	request, ended, parts := brakeAgent("bot"), by.GetSessionsEnded(), 1
	for !by.GetComplete() {
		request = proto.CloneOf(request)
		request.Cursor = by.GetNext()
		part := time.Now()
		var err error
		by, err = w.brakes().Brake(t.Context(), request)
		w.ok(err)
		if took := time.Since(part); took > 20*time.Second {
			t.Errorf("a part took %s", took)
		}
		ended += by.GetSessionsEnded()
		parts++
	}
	t.Logf("the first check was refused after %s; the first of %d calls returned after %s, all after %s", refused, parts, returned, time.Since(began))
	if refused == 0 || refused >= returned {
		t.Errorf("the first check was refused after %s, and the call returned after %s", refused, returned)
	}
	if ended != runs {
		t.Errorf("%d sessions ended, of %d", ended, runs)
	}
	w.resumeAgent("bot")
	w.deny(inSession(first).view("document:plan"), byActor)
	w.deny(inSession(&deputyv1.Session{SessionId: fmt.Sprintf("%032x", runs-1), AgentId: "bot"}).view("document:plan"), byActor)
	w.allow(under(d).view("document:plan"))
}

// copies imports copies of a session with one leaf, as a restore does: their ids are numbers from 1 on.
func (w *world) copies(of *deputyv1.Session, n int) {
	w.Helper()
	leaf := of.GetLeaves()[0].GetDelegationId()
	var rows []*v1.Relationship
	for kind, id := range map[string]string{"session": of.GetSessionId(), "delegation": leaf} {
		stream, err := v1.NewPermissionsServiceClient(w.Admin).ReadRelationships(w.Context(), &v1.ReadRelationshipsRequest{
			Consistency:        &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
			RelationshipFilter: &v1.RelationshipFilter{ResourceType: kind, OptionalResourceId: id},
		})
		w.ok(err)
		for {
			next, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			w.ok(err)
			rows = append(rows, next.GetRelationship())
		}
	}
	const atOnce = 2000 // an import has a bound
	for from := 0; from < n; from += atOnce {
		w.load(of, leaf, rows, from, min(from+atOnce, n), n)
	}
}

// load imports some of the copies.
func (w *world) load(of *deputyv1.Session, leaf string, rows []*v1.Relationship, from, until, n int) {
	w.Helper()
	load, err := v1.NewPermissionsServiceClient(w.Admin).ImportBulkRelationships(w.Context())
	w.ok(err)
	for i := from; i < until; i++ {
		renamed := map[string]string{of.GetSessionId(): fmt.Sprintf("%032x", i+1), leaf: fmt.Sprintf("%032x", n+i+1)}
		request := &v1.ImportBulkRelationshipsRequest{}
		for _, row := range rows {
			row = proto.CloneOf(row)
			for _, o := range []*v1.ObjectReference{row.GetResource(), row.GetSubject().GetObject()} {
				if id, ok := renamed[o.GetObjectId()]; ok {
					o.ObjectId = id
				}
			}
			request.Relationships = append(request.Relationships, row)
		}
		if load.Send(request) != nil {
			break // CloseAndRecv says why
		}
	}
	_, err = load.CloseAndRecv()
	w.ok(err)
}

// TestBrakeAtRandom: in graphs at random, after a brake nothing acts that stood on what it is about, and everything else acts as before; after a
// resume nothing acts that was begun below it. What stands on what is known from how the graph was made.
func TestBrakeAtRandom(t *testing.T) {
	t.Parallel()
	for n := range uint64(10) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			g := newGrown(t, rand.New(rand.NewPCG(n, 15)))
			brake := g.draw()
			before := g.acting()
			if len(before) == 0 {
				t.Fatal("nothing acts")
			}
			g.braked(brake.request)
			for i, one := range g.actors {
				acts, want := g.acts(one.check), slices.Contains(before, i) && !one.on[brake.name]
				if acts != want {
					t.Errorf("after the brake of %s, %s acts: %t, want %t; it stands on %v", brake.name, one.name, acts, want, one.on)
				}
			}
			if brake.resume == "" {
				return
			}
			(&runaway{world: g.world}).resume(brake.resume)
			for i, one := range g.actors {
				acts, want := g.acts(one.check), slices.Contains(before, i) && (!one.on[brake.name] || !one.begun[brake.name])
				if acts != want {
					t.Errorf("after the resume of %s, %s acts: %t, want %t; it stands on %v, and was begun under %v", brake.name, one.name, acts, want, one.on, one.begun)
				}
			}
		})
	}
}

// grown is a graph at random.
type grown struct {
	*world
	*rand.Rand

	actors []actor
}

// actor is a way to act.
type actor struct {
	name  string
	check check
	// on is everything that it stands on: agents, the principal, the tenant, delegations and a session. begun are those of them whose brake
	// ends it for good: a session ends with its agent's brake, and what is passed on with its grantor's; both with their principal's and tenant's.
	on, begun map[string]bool
	// depth is how many delegations there are, and delegation the last one.
	depth      int
	delegation *deputyv1.Delegation
	agent      string
	session    bool
}

// stands makes a set.
func stands(on map[string]bool, more ...string) map[string]bool {
	out := map[string]bool{}
	for name := range on {
		out[name] = true
	}
	for _, name := range more {
		out[name] = true
	}
	return out
}

var grownAgents = []string{"bot", "sub", "three", "four"}

func newGrown(t *testing.T, r *rand.Rand) *grown {
	t.Helper()
	g := &grown{world: newWorld(t, harness.Start(t, inMemory())), Rand: r}
	for _, id := range grownAgents[2:] {
		_, err := g.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: id, OwnerIds: []string{"carol"}})
		g.ok(err)
	}
	var rows []string
	for _, tenant := range []string{"acme", "globex"} {
		rows = append(rows, "document:of-"+tenant+"#tenant@tenant:"+tenant, "document:of-"+tenant+"#reader@user:alice", "document:of-"+tenant+"#reader@user:dave",
			"tenant:"+tenant+"#member@user:alice", "tenant:"+tenant+"#member@user:dave")
		for _, id := range grownAgents {
			rows = append(rows, "tenant:"+tenant+"#agent@agent:"+id, "document:of-"+tenant+"#reader@agent:"+id)
		}
	}
	_, err := harness.Update(t.Context(), g.Admin, v1.RelationshipUpdate_OPERATION_TOUCH, rows...)
	g.ok(err)
	for range 4 {
		g.root()
	}
	for range 16 {
		g.grow()
	}
	return g
}

func (g *grown) one(of ...string) string { return of[g.IntN(len(of))] }

// root has a user let an agent act.
func (g *grown) root() {
	who, tenant, agent := g.one("user:alice", "user:dave"), g.one("acme", "globex"), g.one(grownAgents...)
	d := g.delegate(&deputyv1.CreateDelegationRequest{AgentId: agent, Principal: subject(who), TenantId: tenant, Unscoped: true, AllowDirect: true})
	name := "delegation:" + d.GetDelegationId()
	g.actors = append(g.actors, actor{
		name: name, check: under(d).view("document:of-" + tenant), on: stands(nil, name, "agent:"+agent, who, "tenant:"+tenant),
		begun: map[string]bool{name: true}, depth: 1, delegation: d, agent: agent,
	})
}

// grow starts a session under something, or has it passed on.
func (g *grown) grow() {
	from := g.actors[g.IntN(len(g.actors))]
	if from.depth >= 6 || from.session {
		return
	}
	tenant := from.delegation.GetTenantId()
	who := from.delegation.GetPrincipal().GetObject()
	own := []string{who.GetObjectType() + ":" + who.GetObjectId(), "tenant:" + tenant}
	if g.IntN(2) == 0 {
		s := g.startWith(&deputyv1.StartSessionRequest{AgentId: from.agent, Targets: []*deputyv1.SessionTarget{target(from.delegation)}, Frozen: g.IntN(4) == 0})
		name := "session:" + s.GetSessionId()
		leaf, err := g.Delegations().GetDelegation(g.Context(), &deputyv1.GetDelegationRequest{DelegationId: s.GetLeaves()[0].GetDelegationId()})
		g.ok(err)
		ran := actor{
			name: name, check: inSession(s).view("document:of-" + tenant), on: stands(from.on, name), depth: from.depth + 1,
			begun: stands(stands(from.begun, name, "agent:"+from.agent), own...), delegation: leaf.GetDelegation(), agent: from.agent, session: true,
		}
		g.actors = append(g.actors, ran)
		from = ran
	}
	agent := g.one(grownAgents...)
	if agent == from.agent {
		return
	}
	d := g.delegate(&deputyv1.CreateDelegationRequest{AgentId: agent, ParentDelegationId: from.delegation.GetDelegationId(), Unscoped: true, AllowDirect: true})
	name := "delegation:" + d.GetDelegationId()
	g.actors = append(g.actors, actor{
		name: name, check: under(d).view("document:of-" + tenant), on: stands(from.on, name, "agent:"+agent), depth: from.depth + 1,
		begun: stands(stands(from.begun, name, "agent:"+from.agent), own...), delegation: d, agent: agent,
	})
}

// drawn is a brake.
type drawn struct {
	request      *deputyv1.BrakeRequest
	name, resume string
}

// draw draws a brake.
func (g *grown) draw() drawn {
	switch of := g.actors[g.IntN(len(g.actors))]; g.IntN(4) {
	case 0:
		name := "agent:" + of.agent
		return drawn{brakeAgent(of.agent), name, name}
	case 1:
		name := g.one("user:alice", "user:dave")
		return drawn{brakePrincipal(name), name, name}
	case 2:
		tenant := of.delegation.GetTenantId()
		return drawn{brakeTenant(tenant), "tenant:" + tenant, "tenant:" + tenant}
	default:
		if of.session {
			return drawn{&deputyv1.BrakeRequest{
				Target: &deputyv1.BrakeRequest_SessionId{SessionId: of.check.GetSessionId()}, Reason: "a test",
			}, of.name, ""}
		}
		return drawn{brakeDelegation(of.delegation), of.name, ""}
	}
}

// acting are those that act now.
func (g *grown) acting() []int {
	var out []int
	for i, one := range g.actors {
		if g.acts(one.check) {
			out = append(out, i)
		}
	}
	return out
}

func (g *grown) acts(c check) bool { return g.decide(c).GetPermissionship() == has }
