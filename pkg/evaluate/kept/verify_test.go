package kept

import (
	"context"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/evaluate"
	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/store"
)

// verified opens a graph over a world, with SpiceDB's engine, all of whose answers are verified.
func verified(t *testing.T, w *world) *Graph {
	t.Helper()
	e, err := engine.Over(t.Context(), engine.Config{Kind: engine.Embedded}, w.Store)
	if err != nil {
		t.Fatal(err)
	}
	g := Open(Config{Engine: e, Store: w.Store, API: e.Conn(), Failure: engine.Failure, VerifySample: 1, Log: zap.NewNop()})
	t.Cleanup(func() {
		g.Close()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// view asks whether a user views the document.
func (g *Graph) view(t *testing.T, user string) authz.Answer {
	t.Helper()
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	answers, err := snap.Check(t.Context(), []authz.Query{{
		Resource: authz.Object{Type: "document", ID: "plan"}, Permission: "view",
		Subject: authz.Subject{Object: authz.Object{Type: "user", ID: user}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return answers[0]
}

// mistake makes the evaluator take the schema in force for another one.
func (g *Graph) mistake(t *testing.T, text string) {
	t.Helper()
	other := compiled(t, text)
	read, err := schema.Read(other.ObjectDefinitions)
	if err != nil {
		t.Fatal(err)
	}
	p, err := evaluate.Compile(read, other.CaveatDefinitions)
	if err != nil {
		t.Fatal(err)
	}
	(*g.evaluator.programs.made.Load())[0].was = p
}

// figure reads a counter.
func figure(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// counted waits until something was counted.
func counted(t *testing.T, c prometheus.Counter) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); figure(t, c) == 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("nothing was counted")
		}
	}
}

const documents = `definition user {}

	caveat late(hour int) { hour > 17 }
	definition document {
		relation viewer: user | user with late
		relation banned: user
		permission view = viewer - banned
	}`

// TestVerify: a difference is found, and from then on the stricter answer holds, whichever of both it is.
func TestVerify(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		// wrong is what the evaluator takes the permission for.
		wrong string
		user  string
		// before is its wrong answer, and after what holds once that was found.
		before, after authz.Outcome
	}{
		{"too much", "viewer", "mallory", authz.Yes, authz.No},
		{"too little", "nil", "alice", authz.No, authz.No},
		{"a condition is lost", "nil", "carol", authz.No, authz.No},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, documents, "document:plan#viewer@user:alice document:plan#viewer@user:mallory document:plan#banned@user:mallory document:plan#viewer@user:carol[late]")
			g := verified(t, w)
			if got := g.view(t, "bob"); got.Outcome != authz.No {
				t.Fatalf("bob: %+v", got)
			}
			counted(t, g.verifier.verified)
			if g.Degraded() {
				t.Fatal("it is degraded before anything differed")
			}
			g.mistake(t, strings.Replace(documents, "view = viewer - banned", "view = "+c.wrong, 1))
			if got := g.view(t, c.user); got.Outcome != c.before {
				t.Fatalf("%s before: %+v", c.user, got)
			}
			counted(t, g.verifier.differences)
			if !g.Degraded() {
				t.Error("it is not degraded")
			}
			if got := g.view(t, c.user); got.Outcome != c.after {
				t.Errorf("%s after: %+v", c.user, got)
			}
		})
	}
}

// gated is a real engine that is asked at an exact revision, as verification asks, only once it is let go. It hands on with which
// contexts it is asked then.
type gated struct {
	*engine.Engine
	open  <-chan struct{}
	asked chan<- map[string]any
}

func (g gated) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	if f.Exactly.IsZero() {
		return g.Engine.Snapshot(ctx, f)
	}
	select {
	case <-g.open:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	snap, err := g.Engine.Snapshot(ctx, f)
	return gatedSnapshot{snap, g.asked}, err
}

type gatedSnapshot struct {
	authz.Snapshot
	asked chan<- map[string]any
}

func (s gatedSnapshot) Check(ctx context.Context, queries []authz.Query) ([]authz.Answer, error) {
	s.asked <- queries[0].Context
	return s.Snapshot.Check(ctx, queries)
}

// TestVerifyKeepsNothingOfTheCallers: what a caller does with its context once it has the answer does not change what is verified.
func TestVerifyKeepsNothingOfTheCallers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `definition user {}
	caveat late(hour int, days list<int>, more map<int>) { hour > 17 && 3 in days && more.a == 1 }
	definition document {
		relation viewer: user with late
		permission view = viewer
	}`, "document:plan#viewer@user:carol[late]")
	e, err := engine.Over(t.Context(), engine.Config{Kind: engine.Embedded}, w.Store)
	if err != nil {
		t.Fatal(err)
	}
	open, asked := make(chan struct{}), make(chan map[string]any, again)
	g := Open(Config{Engine: gated{e, open, asked}, Store: w.Store, Failure: engine.Failure, VerifySample: 1, Log: zap.NewNop()})
	t.Cleanup(func() {
		g.Close()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	given := func() map[string]any {
		return map[string]any{"hour": 18.0, "days": []any{3.0}, "more": map[string]any{"a": 1.0}}
	}
	callers := given()
	answers, err := snap.Check(t.Context(), []authz.Query{{
		Resource: authz.Object{Type: "document", ID: "plan"}, Permission: "view",
		Subject: authz.Subject{Object: authz.Object{Type: "user", ID: "carol"}}, Context: callers,
	}})
	if err != nil || answers[0].Outcome != authz.Yes {
		t.Fatalf("%+v, %v", answers, err)
	}
	callers["hour"], callers["days"].([]any)[0], callers["more"].(map[string]any)["a"] = 3.0, 9.0, 2.0
	close(open)
	if got := <-asked; !reflect.DeepEqual(got, given()) {
		t.Errorf("SpiceDB is asked with %v, not with %v", got, given())
	}
}

// TestVerifyLists: a list of subjects that differs is found, and from then on there is none.
func TestVerifyLists(t *testing.T) {
	t.Parallel()
	const schema = `definition tenant {}
		definition folder {
			relation tenant: tenant
		}
		definition document {
			relation folder: folder
			relation second: tenant
			permission tenant = folder->tenant + second
		}`
	w := newWorld(t, schema, "document:plan#folder@folder:f folder:f#tenant@tenant:acme document:plan#second@tenant:other")
	g := verified(t, w)
	tenants := func() ([]authz.SubjectAnswer, error) {
		snap, err := g.Snapshot(t.Context(), authz.Freshness{})
		if err != nil {
			t.Fatal(err)
		}
		return snap.Subjects(t.Context(), authz.Object{Type: "document", ID: "plan"}, "tenant", "tenant", nil, 100)
	}
	if got, err := tenants(); err != nil || len(got) != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
	counted(t, g.verifier.verified)
	if g.Degraded() {
		t.Fatal("it is degraded before anything differed")
	}
	g.mistake(t, strings.Replace(schema, " + second", "", 1))
	if got, err := tenants(); err != nil || len(got) != 1 {
		t.Fatalf("got %v, %v", got, err)
	}
	counted(t, g.verifier.differences)
	if got, err := tenants(); err == nil {
		t.Errorf("got %v after a difference was found", got)
	}
}

// TestVerifyTolerates: an error of SpiceDB's, where the evaluator has an answer, is no difference.
func TestVerifyTolerates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `definition user {}
		definition group {
			relation member: user | group#member
		}
		definition document {
			relation group: group
			relation viewer: user
			permission view = group->member & viewer
		}`, `group:a#member@group:b#member group:b#member@group:a#member document:plan#group@group:a`)
	g := verified(t, w)
	if got := g.view(t, "bob"); got.Outcome != authz.No {
		t.Fatalf("got %+v", got)
	}
	// SpiceDB answers the one or the other.
	counted(t, g.verifier.verified)
	if n := figure(t, g.verifier.differences); n != 0 || g.Degraded() {
		t.Errorf("%v differences", n)
	}
}

// TestLeftToSpiceDB: what SpiceDB would refuse, or traces, is not answered here.
func TestLeftToSpiceDB(t *testing.T) {
	t.Parallel()
	// A token of another store may name a revision that this one could read.
	foreign := verified(t, newWorld(t, documents, "document:plan#viewer@user:alice"))
	g := verified(t, newWorld(t, documents, "document:plan#viewer@user:alice"))
	request := func() *v1.CheckPermissionRequest {
		return &v1.CheckPermissionRequest{
			Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: "plan"}, Permission: "view",
			Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
		}
	}
	if got, ok, err := g.CheckPermission(t.Context(), request()); !ok || err != nil ||
		got.GetPermissionship() != v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION || got.GetCheckedAt().GetToken() == "" {
		t.Fatalf("got %v, %v, %v", got, ok, err)
	}
	elsewhere, err := foreign.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*v1.CheckPermissionRequest){
		"a trace":               func(r *v1.CheckPermissionRequest) { r.WithTracing = true },
		"no id":                 func(r *v1.CheckPermissionRequest) { r.Resource.ObjectId = "" },
		"an id that is none":    func(r *v1.CheckPermissionRequest) { r.Subject.Object.ObjectId = "a b" },
		"a wildcard":            func(r *v1.CheckPermissionRequest) { r.Subject.Object.ObjectId = "*" },
		"an unknown type":       func(r *v1.CheckPermissionRequest) { r.Resource.ObjectType = "nothing" },
		"an unknown permission": func(r *v1.CheckPermissionRequest) { r.Permission = "nothing" },
		"an unknown subject":    func(r *v1.CheckPermissionRequest) { r.Subject.Object.ObjectType = "nothing" },
		"an unknown relation":   func(r *v1.CheckPermissionRequest) { r.Subject.OptionalRelation = "nothing" },
		"a token that is none":  func(r *v1.CheckPermissionRequest) { r.Consistency = exactly("x") },
		"another store's token": func(r *v1.CheckPermissionRequest) { r.Consistency = exactly(elsewhere.Revision().Token) },
		"a freshness that is not": func(r *v1.CheckPermissionRequest) {
			r.Consistency = &v1.Consistency{Requirement: &v1.Consistency_AtLeastAsFresh{AtLeastAsFresh: &v1.ZedToken{Token: "x"}}}
		},
	} {
		r := request()
		change(r)
		if got, ok, err := g.CheckPermission(t.Context(), r); ok {
			t.Errorf("%s was answered: %v, %v", name, got, err)
		}
	}
	traced := metadata.NewIncomingContext(t.Context(), metadata.Pairs(traceKey, "1"))
	if _, ok, _ := g.CheckPermission(traced, request()); ok {
		t.Error("a trace by metadata was not left to SpiceDB")
	}
}

// TestAtLeastAsFresh: where the cheapest revision lies far behind the head, one that is named as a lower bound is
// seen all the same.
func TestAtLeastAsFresh(t *testing.T) {
	t.Parallel()
	w := newWorldIn(t, store.Config{Quantization: time.Hour}, documents, "document:plan#viewer@user:alice")
	g := verified(t, w)
	request := &v1.CheckPermissionRequest{
		Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: "plan"}, Permission: "view",
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "bob"}},
	}
	sees := func() {
		t.Helper()
		if got, ok, err := g.CheckPermission(t.Context(), request); !ok || err != nil ||
			got.GetPermissionship() != v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION {
			t.Errorf("got %v, %v, %v", got, ok, err)
		}
	}
	w.write(t, "document:plan#viewer@user:bob")
	head, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	request.Consistency = &v1.Consistency{Requirement: &v1.Consistency_AtLeastAsFresh{AtLeastAsFresh: &v1.ZedToken{Token: head.Revision().Token}}}
	sees()
	request.Consistency = &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}
	sees()
}

// TestTrace: a caller that asks for a trace gets SpiceDB's.
func TestTrace(t *testing.T) {
	t.Parallel()
	g := verified(t, newWorld(t, documents, "document:plan#viewer@user:alice"))
	snap, err := g.Snapshot(t.Context(), authz.Freshness{})
	if err != nil {
		t.Fatal(err)
	}
	answers, err := snap.Check(t.Context(), []authz.Query{{
		Resource: authz.Object{Type: "document", ID: "plan"}, Permission: "view",
		Subject: authz.Subject{Object: authz.Object{Type: "user", ID: "alice"}}, Explain: &authz.Explaining{Trace: true},
	}})
	if err != nil || answers[0].Outcome != authz.Yes || answers[0].Explanation.Reason == nil || answers[0].Explanation.Trace == nil {
		t.Errorf("got %+v, %v", answers, err)
	}
}

func exactly(token string) *v1.Consistency {
	return &v1.Consistency{Requirement: &v1.Consistency_AtExactSnapshot{AtExactSnapshot: &v1.ZedToken{Token: token}}}
}
