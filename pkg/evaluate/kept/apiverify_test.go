package kept

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate"
	"github.com/deputyauth/deputy/pkg/statuses"
	"github.com/deputyauth/deputy/pkg/turns"
)

// open is a schema of documents that a wildcard may open.
const open = `definition user {}

	definition document {
		relation viewer: user | user:*
		relation banned: user
		permission view = viewer - banned
	}`

// ofUser is a lookup of the documents that alice views, and ofPlan one of the users who view the plan.
func ofUser() *v1.LookupResourcesRequest {
	return &v1.LookupResourcesRequest{
		ResourceObjectType: "document", Permission: "view", Consistency: head(),
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
	}
}

func ofPlan() *v1.LookupSubjectsRequest {
	return &v1.LookupSubjectsRequest{
		Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: "plan"}, Permission: "view", SubjectObjectType: "user", Consistency: head(),
	}
}

// TestLookupsOfTheAPIAreVerified has lookups be wrong: SpiceDB finds what they name too much, and what they leave out.
func TestLookupsOfTheAPIAreVerified(t *testing.T) {
	t.Parallel()
	resources := func(g *Graph) error {
		_, err := g.LookupResources(context.Background(), ofUser(), func(*v1.LookupResourcesResponse) error { return nil })
		return err
	}
	subjects := func(g *Graph) error {
		_, err := g.LookupSubjects(context.Background(), ofPlan(), func(*v1.LookupSubjectsResponse) error { return nil })
		return err
	}
	// pages are lookups that go on behind one another.
	pages := func(g *Graph) error {
		req := ofUser()
		req.OptionalLimit = 1
		for range 3 {
			if _, err := g.LookupResources(context.Background(), req, func(r *v1.LookupResourcesResponse) error {
				req.OptionalCursor = r.GetAfterResultCursor()
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	}
	const rows = "document:plan#viewer@user:alice document:other#viewer@user:bob document:late#viewer@user:alice document:late#banned@user:alice " +
		"document:quay#viewer@user:alice"
	var many strings.Builder
	for i := range 150 {
		fmt.Fprintf(&many, "document:d%03d#viewer@user:alice document:plan#viewer@user:u%03d ", i, i)
	}
	for _, c := range []struct {
		name, rows, wrong string
		ask               func(*Graph) error
		// alike says that there is no difference.
		alike bool
	}{
		{"resources", rows, "", resources, true},
		{"pages of resources", rows, "", pages, true},
		{"many resources", many.String(), "", resources, true},
		{"an object is left out", rows, "nil", resources, false},
		{"an object too much", rows, "viewer", resources, false},
		{"subjects", rows, "", subjects, true},
		{"many subjects", many.String(), "", subjects, true},
		{"a subject is left out", rows, "nil", subjects, false},
		{"a subject too much", rows + " document:plan#banned@user:alice", "viewer", subjects, false},
		{"a wildcard", "document:plan#viewer@user:* document:plan#banned@user:bob", "", subjects, true},
		{"a wildcard is left out", "document:plan#viewer@user:* document:other#viewer@user:bob", "nil", subjects, false},
		{"an exception is left out", "document:plan#viewer@user:* document:plan#banned@user:bob", "viewer", subjects, false},
		{"a wildcard is refused", "document:plan#viewer@user:* document:plan#viewer@user:bob", "viewer - viewer", subjects, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, open, c.rows)
			g := verified(t, w)
			if err := c.ask(g); err != nil {
				t.Fatal(err)
			}
			if c.wrong != "" {
				g.mistake(t, strings.Replace(open, "viewer - banned", c.wrong, 1))
			}
			// Which of what is left out is looked at is drawn.
			for deadline := time.Now().Add(60 * time.Second); figure(t, g.verifier.differences) == 0; {
				if err := c.ask(g); err != nil {
					t.Fatal(err)
				}
				if c.alike && figure(t, g.verifier.verified) >= 40 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("no difference is found, of %v that were verified", figure(t, g.verifier.verified))
				}
			}
			if g.Degraded() == c.alike {
				t.Errorf("degraded: %v", g.Degraded())
			}
		})
	}
}

// TestDoubtfulLookupTakesAll: a lookup of a permission that is distrusted goes through everything, and the stricter answer holds.
func TestDoubtfulLookupTakesAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, open, "document:plan#viewer@user:alice document:other#viewer@user:bob document:last#viewer@user:alice")
	g := verified(t, w)
	candidates := func() []string {
		at, token, ok := g.pin(t.Context(), head())
		if !ok {
			t.Fatal("the head cannot be read")
		}
		defer at.Close()
		check := checkOf(&v1.ObjectReference{ObjectType: "document", ObjectId: "any"}, "view", ofUser().GetSubject(), nil)
		c, err := at.program.ResourceCandidates("document", evaluate.Holder{Permission: "view", Subject: check.Subject})
		if err != nil {
			t.Fatal(err)
		}
		g.begin(t.Context(), at, token, check, 0, "").narrow(c, "last")
		ids, _, err := c.Next(t.Context(), at.Snapshot, 10)
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	if got := candidates(); !slices.Equal(got, []string{"plan"}) {
		t.Errorf("candidates are %v", got)
	}
	g.verifier.distrust(permissionName{"document", "view"})
	if got := candidates(); !slices.Equal(got, []string{"other", "plan"}) {
		t.Errorf("candidates are %v", got)
	}
	g.mistake(t, strings.Replace(open, "viewer - banned", "viewer", 1))
	w.write(t, "document:plan#banned@user:alice")
	var found []string
	ok, err := g.LookupResources(t.Context(), ofUser(), func(r *v1.LookupResourcesResponse) error {
		found = append(found, r.GetResourceObjectId())
		return nil
	})
	if !ok || err != nil || !slices.Equal(found, []string{"last"}) {
		t.Errorf("the stricter answer is %v, %v, %v", found, ok, err)
	}
	who, err := g.viewers(t)
	if err != nil || len(who) > 0 {
		t.Errorf("the stricter answer is %v, %v", who, err)
	}
}

// viewers are who views the plan.
func (g *Graph) viewers(t *testing.T) (who []string, err error) {
	t.Helper()
	ok, err := g.LookupSubjects(t.Context(), ofPlan(), func(r *v1.LookupSubjectsResponse) error {
		who = append(who, r.GetSubject().GetSubjectObjectId())
		return nil
	})
	if !ok {
		t.Fatal("it is left to SpiceDB")
	}
	return who, err
}

// TestTreesAreVerified: a tree that differs from SpiceDB's is found, and from then on SpiceDB is asked for trees of the permission.
func TestTreesAreVerified(t *testing.T) {
	t.Parallel()
	w := newWorld(t, open, "document:plan#viewer@user:alice document:plan#viewer@user:* document:plan#banned@user:bob")
	g := verified(t, w)
	ask := func() (left bool) {
		t.Helper()
		_, ok, err := g.ExpandPermissionTree(t.Context(), &v1.ExpandPermissionTreeRequest{
			Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: "plan"}, Permission: "view", Consistency: head(),
		})
		if err != nil {
			t.Fatal(err)
		}
		return !ok
	}
	ask()
	counted(t, g.verifier.verified)
	if g.Degraded() || ask() {
		t.Fatal("the same tree is taken for another")
	}
	g.mistake(t, strings.Replace(open, "viewer - banned", "banned - viewer", 1))
	ask()
	counted(t, g.verifier.differences)
	if !g.Degraded() || !ask() {
		t.Error("a tree that differs goes on to be answered")
	}
}

// TestTreesAreBounded: a tree that is too large, or leads in a circle, is an error, at once.
func TestTreesAreBounded(t *testing.T) {
	t.Parallel()
	var ladder, wide strings.Builder
	for i := range 40 {
		for _, to := range []string{"l", "r"} {
			fmt.Fprintf(&ladder, "folder:l%d#parent@folder:%s%d folder:r%d#parent@folder:%s%d ", i, to, i+1, i, to, i+1)
		}
	}
	for i := range 3000 {
		fmt.Fprintf(&wide, "folder:wide#member@user:u%d ", i)
	}
	w := newWorld(t, `definition user {}
		definition folder {
			relation parent: folder
			relation member: user
			permission view = member + parent->view
		}`, "folder:a#parent@folder:b folder:b#parent@folder:a "+ladder.String()+wide.String())
	g := verified(t, w)
	for id, want := range map[string]codes.Code{"a": codes.FailedPrecondition, "l0": codes.ResourceExhausted, "l25": codes.ResourceExhausted, "wide": codes.OK, "r30": codes.OK} {
		resp, ok, err := g.ExpandPermissionTree(t.Context(), &v1.ExpandPermissionTreeRequest{
			Resource: &v1.ObjectReference{ObjectType: "folder", ObjectId: id}, Permission: "view", Consistency: head(),
		})
		if !ok || status.Code(err) != want {
			t.Errorf("folder:%s: %v, %v, want %v", id, ok, err, want)
		}
		if id == "wide" {
			users := map[string]bool{}
			for _, s := range resp.GetTreeRoot().GetIntermediate().GetChildren()[0].GetLeaf().GetSubjects() {
				users[s.GetObject().GetObjectId()] = true
			}
			if len(users) != 3000 {
				t.Errorf("%d users are listed", len(users))
			}
		}
	}
}

// TestLookupsTakeTurns: so many lookups are under way at once, and another one waits until one of them has ended, or gives up.
func TestLookupsTakeTurns(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: lookups that are too large, again and again")
	}
	t.Parallel()
	w := newWorld(t, open, "document:plan#viewer@user:alice")
	g := verified(t, w)
	g.lookups = turns.New("lookups", 1)
	_, taken, err := take(t.Context(), g.lookups)
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if ok, err := g.LookupSubjects(ctx, ofPlan(), nil); !ok || status.Code(err) != codes.Canceled {
		t.Errorf("who has left does not wait: %v, %v", ok, err)
	}
	ok, err := g.LookupSubjects(t.Context(), ofPlan(), nil)
	if !ok || status.Code(err) != codes.ResourceExhausted || statuses.Info(status.Convert(err)).GetReason() != authz.ReasonBusy ||
		statuses.RetryAfter(status.Convert(err)) == 0 {
		t.Errorf("another lookup does not wait: %v, %v", ok, err)
	}
	taken.leave()
	if who, err := g.viewers(t); err != nil || !slices.Equal(who, []string{"alice"}) {
		t.Errorf("afterwards: %v, %v", who, err)
	}
}

// TestOneCallerHoldsNotAll: while one caller has 200 lookups, or trees, under way or waiting, another caller's are answered, and at once.
func TestOneCallerHoldsNotAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, open, "document:plan#viewer@user:alice")
	g := verified(t, w)
	modest := authz.WithCaller(t.Context(), "modest")
	for name, one := range map[string]struct {
		of   *turns.Set
		call func() error
	}{
		"LookupSubjects": {g.lookups, func() error {
			_, err := g.LookupSubjects(modest, ofPlan(), func(*v1.LookupSubjectsResponse) error { return nil })
			return err
		}},
		"LookupResources": {g.lookups, func() error {
			_, err := g.LookupResources(modest, ofUser(), func(*v1.LookupResourcesResponse) error { return nil })
			return err
		}},
		"ExpandPermissionTree": {g.trees, func() error {
			_, _, err := g.ExpandPermissionTree(modest, &v1.ExpandPermissionTreeRequest{Resource: ofPlan().GetResource(), Permission: "view"})
			return err
		}},
	} {
		greedy, stop := context.WithCancel(authz.WithCaller(t.Context(), "greedy"))
		var calls sync.WaitGroup
		var has atomic.Int64
		for range 200 {
			calls.Go(func() {
				_, turn, err := take(greedy, one.of)
				if err != nil {
					return
				}
				has.Add(1)
				<-greedy.Done()
				turn.leave()
			})
		}
		for has.Load() < one.of.Most() {
			runtime.Gosched()
		}
		began := time.Now()
		if err := one.call(); err != nil {
			t.Errorf("%s beside 200 calls of another caller: %v", name, err)
		}
		if took := time.Since(began); took > turnTime/2 {
			t.Errorf("%s beside 200 calls of another caller took %v", name, took)
		}
		stop()
		calls.Wait()
		if free := one.of.Free(); free != one.of.All() {
			t.Errorf("%s: %d turns of %d are free afterwards", name, free, one.of.All())
		}
	}
}

// TestSlowClientsKeepNoTurns: lookups whose clients do not read do not keep others from looking up.
func TestSlowClientsKeepNoTurns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, open, "document:plan#viewer@user:alice")
	g := verified(t, w)
	g.lookups = turns.New("lookups", 1)
	began, goOn := make(chan struct{}), make(chan struct{})
	var slow errgroup.Group
	wait := func() {
		began <- struct{}{}
		<-goOn
	}
	slow.Go(func() error {
		_, err := g.LookupResources(context.Background(), ofUser(), func(*v1.LookupResourcesResponse) error { wait(); return nil })
		return err
	})
	<-began
	slow.Go(func() error {
		_, err := g.LookupSubjects(context.Background(), ofPlan(), func(*v1.LookupSubjectsResponse) error { wait(); return nil })
		return err
	})
	<-began
	if who, err := g.viewers(t); err != nil || !slices.Equal(who, []string{"alice"}) {
		t.Errorf("beside lookups that are not read: %v, %v", who, err)
	}
	close(goOn)
	if err := slow.Wait(); err != nil {
		t.Error(err)
	}
	if n := g.lookups.All() - g.lookups.Free(); n != 0 {
		t.Errorf("%d turns are taken after all has ended", n)
	}
}
