package judge

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// TestPermitHoldsAsLongAsItIsAllowed: whatever was written and whatever has expired, a permit holds after Renew exactly if a judge that decides for the
// first time allows, and ends by the decision that such a judge makes. Where nothing that matters has changed, nothing is decided again.
func TestPermitHoldsAsLongAsItIsAllowed(t *testing.T) {
	t.Parallel()
	now := time.Now()
	clock := func() time.Time { return now }
	g := newGovernedBy(t, clock)
	graph := g.Graph // unobserved, because that does not say until when answers hold
	j := New(graph, nil, clock)
	r := rand.New(rand.NewPCG(56, 78))
	rels := g.core(t)
	write := func(op authz.Operation, one authz.Relationship) {
		t.Helper()
		if _, err := g.Write(t.Context(), []authz.Update{{Operation: op, Relationship: one}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	plan := func(relation, who string) authz.Relationship { return rel("document:plan", relation, who) }
	var cases []authz.Case
	for _, kind := range []string{"a user", "a service", "a set"} {
		cases = append(cases, g.cases[kind]...)
	}
	people := []string{"user:alice", "service:nightly", "agent:bot", "agent:aide"}
	// broken puts right what was taken away.
	var broken []func()
	permits := make([]*Permit, len(cases))
	fresh := func(c authz.Case) authz.Decision {
		t.Helper()
		results, _, err := New(graph, nil, clock).Decide(t.Context(), By{Within: authz.Unbounded()}, Questions(c), authz.Freshness{}, false)
		if err != nil || results[0].Err != nil {
			t.Fatal(err, results[0].Err)
		}
		results[0].Decision.ID = ""
		return results[0].Decision
	}
	ended, held, decided, byTime, quiet := 0, 0, 0, 0, 0
	for step := range 800 {
		for i, c := range cases {
			if permits[i] != nil {
				continue
			}
			p, err := j.Permit(t.Context(), By{Within: authz.Unbounded()}, c, authz.Freshness{})
			if err != nil {
				t.Fatal(err)
			}
			if p.Holds() {
				permits[i] = p
			}
		}
		timeOnly := false
		switch n := r.IntN(16); {
		case n <= 3:
			now, timeOnly = now.Add(time.Duration(1+r.IntN(200))*time.Millisecond), true
		case n == 4 && len(broken) < 3:
			one := rels[r.IntN(len(rels))]
			if !one.ExpiresAt.IsZero() {
				soon := one
				soon.ExpiresAt = now.Add(time.Duration(200+r.IntN(1000)) * time.Millisecond)
				write(authz.Touch, soon)
				broken = append(broken, func() { write(authz.Touch, one) })
				break
			}
			if one.Resource.Type == authz.TypeSession || one.Resource.Type == authz.TypeDelegation {
				if r.IntN(3) > 0 { // most of it ends all that is asked
					continue
				}
			}
			write(authz.Delete, one)
			broken = append(broken, func() { write(authz.Touch, one) })
		case n == 5 && len(broken) < 3:
			stop := authz.Relationship{Resource: rels[r.IntN(len(rels))].Resource}
			stop.Subject.Object = stop.Resource
			stop.Relation = map[string]string{authz.TypeDelegation: "revoked", authz.TypeSession: "ended"}[stop.Resource.Type]
			if stop.Relation == "" {
				stop.Relation = "suspended"
			}
			write(authz.Touch, stop)
			broken = append(broken, func() { write(authz.Delete, stop) })
		case n == 6 && len(broken) < 3: // a membership, or a grant, that is there for a while
			who := people[r.IntN(len(people))]
			one := rel("tenant:acme", "member", who)
			if one.Subject.Type == authz.TypeAgent {
				one.Relation = "agent"
			}
			whole := one
			one.ExpiresAt = now.Add(time.Duration(1+r.IntN(500)) * time.Millisecond)
			write(authz.Touch, one)
			broken = append(broken, func() { write(authz.Touch, whole) })
		case n == 7 && len(broken) < 3:
			who := people[r.IntN(len(people))]
			one := plan("lent", who)
			one.ExpiresAt = now.Add(time.Duration(1+r.IntN(500)) * time.Millisecond)
			write(authz.Touch, one)
			write(authz.Delete, plan("reader", who))
			broken = append(broken, func() { write(authz.Touch, plan("reader", who)) })
		case n <= 10 && len(broken) > 0:
			i := r.IntN(len(broken))
			broken[i]()
			broken = append(broken[:i], broken[i+1:]...)
		case n >= 11 && n <= 12:
			write(authz.Touch, rel("document:other", "reader", "user:alice"))
		default:
			timeOnly = true // nothing at all
		}
		var some []*Permit
		for _, p := range permits {
			if p != nil {
				some = append(some, p)
			}
		}
		again := j.Renew(t.Context(), some)
		decided += again
		if timeOnly && again < len(some) {
			quiet++
		}
		for i, p := range permits {
			if p == nil {
				continue
			}
			want := fresh(cases[i])
			if p.Holds() != (want.Permissionship == authz.HasPermission) || p.Unsure() != nil {
				t.Fatalf("step %d: the permit of %+v holds: %v, %v, and a judge says %+v", step, cases[i], p.Holds(), p.Unsure(), want)
			}
			held++
			if p.Holds() {
				if got := p.Decision(); !got.ValidUntil.Equal(want.ValidUntil) {
					t.Fatalf("step %d: the permit of %+v is valid until %v, and a judge says %v", step, cases[i], got.ValidUntil, want.ValidUntil)
				}
				continue
			}
			got, err := p.End(t.Context())
			if got.ID = ""; err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
				t.Fatalf("step %d: the permit of %+v ended by\n%+v, %v, and a judge says\n%+v", step, cases[i], got, err, want)
			}
			permits[i] = nil
			ended++
			if timeOnly {
				byTime++
			}
		}
	}
	t.Logf("%d permits ended, %d by time alone; of %d renewals %d were decided", ended, byTime, held, decided)
	if ended < 200 || byTime < 50 || quiet < 150 {
		t.Errorf("%d permits ended, %d by time alone; in %d steps without a write something was not decided again", ended, byTime, quiet)
	}
}

// TestPermitIsNotDecidedForNothing: while nothing is written and nothing expires, permits of what names a session or a delegation are not
// decided again, but for those of a frozen session.
func TestPermitIsNotDecidedForNothing(t *testing.T) {
	t.Parallel()
	now := time.Now()
	clock := func() time.Time { return now }
	g := newGovernedBy(t, clock)
	j := New(g.Graph, nil, clock)
	for kind, cases := range g.cases {
		for i, c := range cases {
			p, err := j.Permit(t.Context(), By{Within: authz.Unbounded()}, c, authz.Freshness{})
			if err != nil || !p.Holds() {
				t.Fatal(p, err)
			}
			always := c.Session == "" && c.Delegation == "" || i == len(cases)-1
			j.Renew(t.Context(), []*Permit{p})
			for range 5 {
				now = now.Add(time.Second)
				if again := j.Renew(t.Context(), []*Permit{p}); (again > 0) != always {
					t.Errorf("for %s, %+v: decided again %d times", kind, c, again)
				}
			}
			if now = now.Add(decideAgainAfter); j.Renew(t.Context(), []*Permit{p}) != 1 {
				t.Errorf("for %s, %+v: not decided again after %v", kind, c, decideAgainAfter)
			}
		}
	}
}

// TestPermitEndsWithWhatWasKept: a permit ends at the moment at which its session or delegation does, to the nanosecond, also where the decision
// before was made of facts that were kept.
func TestPermitEndsWithWhatWasKept(t *testing.T) {
	t.Parallel()
	now := time.Now()
	clock := func() time.Time { return now }
	g := newGovernedBy(t, clock)
	j := New(g.Graph, nil, clock)
	began := now
	for kind, cases := range g.cases {
		for _, c := range cases {
			now = began
			p, err := j.Permit(t.Context(), By{Within: authz.Unbounded()}, c, authz.Freshness{})
			if err != nil || !p.Holds() {
				t.Fatal(p, err)
			}
			d := p.Decision()
			now = d.ValidUntil.Add(-time.Second)
			for range 2 { // the first one keeps the facts
				touch(t, g, rel("document:other", "reader", "user:alice"))
				if j.Renew(t.Context(), []*Permit{p}) != 1 || !p.Holds() {
					t.Fatalf("for %s, %+v: it ended before, or was not decided again", kind, c)
				}
			}
			now = d.ValidUntil.Add(-time.Nanosecond)
			if j.Renew(t.Context(), []*Permit{p}); !p.Holds() {
				t.Errorf("for %s, %+v: it ended a nanosecond before", kind, c)
			}
			now = d.ValidUntil
			if j.Renew(t.Context(), []*Permit{p}); p.Holds() {
				t.Errorf("for %s, %+v: it holds when it is over", kind, c)
			}
		}
	}
}
