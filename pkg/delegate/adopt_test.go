package delegate_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
)

// TestReviewsAreBounded: a candidate that more names than a digest covers is listed and refused, and a graph that names more
// than a review keeps in memory is reviewed by name only.
func TestReviewsAreBounded(t *testing.T) {
	_, _, graph := office(t)
	var updates []authz.Update
	for i := range 30 {
		updates = append(updates, authz.Update{Operation: authz.Touch, Relationship: authz.Relationship{
			Resource: authz.TenantID(fmt.Sprintf("tenant%02d", i)).Object(), Relation: "member",
			Subject: authz.Subject{Object: authz.Object{Type: authz.TypeUser, ID: "zoe"}},
		}})
	}
	if _, err := graph.Engine.Write(t.Context(), updates, nil); err != nil {
		t.Fatal(err)
	}
	d := delegate.New(graph.Engine, nil, time.Hour, time.Now).For("service", authz.Unbounded())
	zoe := authz.Object{Type: authz.TypeUser, ID: "zoe"}
	look := func(objects ...authz.Object) (found []delegate.Candidate, err error) {
		_, next, err := d.Review(t.Context(), objects, delegate.ReviewPlace{}, 100, func(c delegate.Candidate) error {
			found = append(found, c)
			return nil
		})
		if err == nil && next != nil {
			t.Error("it is not complete")
		}
		return found, err
	}
	one, err := look(zoe)
	if err != nil || len(one) != 1 || one[0].Digest == "" || one[0].Naming.Total != 30 || len(one[0].Naming.First) != 20 {
		t.Fatalf("%+v, %v", one, err)
	}
	d.SetReviewBounds(200_000, 29)
	if one, err = look(zoe); err != nil || len(one) != 1 || one[0].Digest != "" || !strings.Contains(one[0].Refusal, "more than") {
		t.Errorf("beyond what a digest covers: %+v, %v", one, err)
	}
	if _, _, err := d.Adopt(t.Context(), []delegate.Adoption{{Object: zoe}}); authz.KindOf(err) != authz.Precondition {
		t.Errorf("without a digest: %v", err)
	}
	d.SetReviewBounds(20, 100)
	if _, err := look(); authz.KindOf(err) != authz.Exhausted {
		t.Errorf("beyond what a review keeps: %v", err)
	}
	if _, err := look(zoe); err != nil {
		t.Errorf("by name: %v", err)
	}
	// A review whose caller has no time left still says where to go on.
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(time.Hour))
	defer cancel()
	_, next, err := d.Review(ctx, []authz.Object{zoe}, delegate.ReviewPlace{}, 0, func(delegate.Candidate) error { return nil })
	if err != nil || next == nil {
		t.Errorf("with a limit of 0: %v, %v", next, err)
	}
}

// TestAdoptingIsJudgedAgain: what is suspended between the last look and the write is not activated.
func TestAdoptingIsJudgedAgain(t *testing.T) {
	d, raced, graph := office(t)
	zoe, scribe := user("zoe"), authz.AgentID("scribe").Object()
	for _, o := range []authz.Object{zoe, scribe} {
		relation := "member"
		if o == scribe {
			relation = "agent"
		}
		tuple(t, graph.Engine, authz.Touch, "tenant", "acme", relation, o)
	}
	var asked []delegate.Adoption
	_, _, err := d.Review(t.Context(), []authz.Object{zoe, scribe}, delegate.ReviewPlace{}, 2, func(c delegate.Candidate) error {
		a := delegate.Adoption{Object: c.Object, Digest: c.Digest}
		if c.Object == scribe {
			a.Owners = []authz.Object{user("carol")}
		}
		asked = append(asked, a)
		return nil
	})
	if err != nil || len(asked) != 2 {
		t.Fatalf("%v, %v", asked, err)
	}
	graph.before = func() {
		if _, _, err := d.Suspend(context.Background(), zoe); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := raced.Adopt(t.Context(), asked); authz.KindOf(err) != authz.Precondition {
		t.Errorf("a user that was suspended meanwhile: %v", err)
	}
	graph.before = func() {
		if _, _, err := d.Suspend(context.Background(), scribe); err != nil {
			t.Fatal(err)
		}
	}
	owners := []authz.Object{user("carol")}
	if _, _, err := raced.AdoptAgent(t.Context(), "scribe", owners, ""); authz.KindOf(err) != authz.Exists {
		t.Errorf("an agent that was suspended meanwhile: %v", err)
	}
	if a, _, err := d.Agent(t.Context(), "scribe"); err != nil || !a.Stopped || a.Active {
		t.Errorf("it is %+v, %v", a, err)
	}
}

// TestReviewsAreFewAtOnce: while as many reviews are under way as there is memory for, another one is refused, and later it is not.
func TestReviewsAreFewAtOnce(t *testing.T) {
	t.Parallel()
	d, _, graph := office(t)
	tuple(t, graph.Engine, authz.Touch, "tenant", "acme", "member", user("dora"))
	review := func(send func(delegate.Candidate) error) error {
		_, _, err := d.Review(t.Context(), nil, delegate.ReviewPlace{}, 10, send)
		return err
	}
	var nest func(depth int) error
	nest = func(depth int) error {
		if depth == 4 {
			if _, _, err := d.Review(authz.WithCaller(t.Context(), "another"), nil, delegate.ReviewPlace{}, 10, func(delegate.Candidate) error {
				return nil
			}); err != nil {
				t.Errorf("a review of another caller, while one has as many as it can have: %v", err)
			}
		}
		if depth == 10 {
			t.Error("ten reviews are under way")
			return nil
		}
		var inner error
		if err := review(func(delegate.Candidate) error {
			inner = nest(depth + 1)
			return inner
		}); inner == nil && err != nil {
			return err
		}
		if depth == 0 && authz.KindOf(inner) != authz.Exhausted {
			t.Errorf("%v, want that there is no room", inner)
		}
		return inner
	}
	if err := nest(0); authz.KindOf(err) != authz.Exhausted {
		t.Errorf("%v, want that there is no room", err)
	}
	if err := review(func(delegate.Candidate) error { return nil }); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
