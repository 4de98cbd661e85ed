package delegate_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	"github.com/deputyauth/deputy/pkg/facts"
)

// unvouched is what exists for a caller that may not vouch.
func unvouched() *authz.Bounds {
	b := authz.Unbounded()
	b.Vouch = false
	return b
}

// agreed is what alice has agreed to by a token.
func agreed(id string) *delegate.Consent {
	return &delegate.Consent{
		Token: facts.NewConsent("https://login.example.com", id), Person: alice.Object, Agent: "bot", Tenant: "acme", Unscoped: true,
		Until: time.Now().Add(time.Hour),
	}
}

// TestConsentBinds: what a person has agreed to is what a delegation can be at most, also for a caller that may vouch.
func TestConsentBinds(t *testing.T) {
	vouching, _, graph := shared(t)
	plan := facts.Grant{Resource: authz.Object{Type: "paper", ID: "plan"}, Relation: "reader"}
	other := facts.Grant{Resource: authz.Object{Type: "paper", ID: "other"}, Relation: "reader"}
	bare := func(c *delegate.Consent) { c.Unscoped = false }
	for name, c := range map[string]struct {
		agrees func(*delegate.Consent)
		asks   func(*delegate.Spec)
		reason string
	}{
		"all that it names":        {asks: func(s *delegate.Spec) { s.Unscoped = true }},
		"what it leaves out":       {asks: func(s *delegate.Spec) { s.Principal, s.Tenant = authz.Subject{}, "" }},
		"a shorter time":           {asks: func(s *delegate.Spec) { s.TTL = time.Minute }},
		"a scope instead of all":   {asks: func(s *delegate.Spec) { s.Scope = []facts.Grant{plan} }},
		"the scope":                {agrees: func(c *delegate.Consent) { c.Unscoped, c.Scope = false, []facts.Grant{other, plan} }, asks: func(s *delegate.Spec) { s.Scope = []facts.Grant{plan} }},
		"nothing":                  {agrees: bare, asks: func(*delegate.Spec) {}},
		"direct":                   {agrees: func(c *delegate.Consent) { c.AllowDirect = true }, asks: func(s *delegate.Spec) { s.AllowDirect = true }},
		"unscoped, unasked":        {agrees: bare, asks: func(s *delegate.Spec) { s.Unscoped = true }, reason: authz.ReasonNotConsented},
		"direct, unasked":          {asks: func(s *delegate.Spec) { s.AllowDirect = true }, reason: authz.ReasonNotConsented},
		"a scope, unasked":         {agrees: bare, asks: func(s *delegate.Spec) { s.Scope = []facts.Grant{plan} }, reason: authz.ReasonNotConsented},
		"more scope":               {agrees: func(c *delegate.Consent) { c.Unscoped, c.Scope = false, []facts.Grant{plan} }, asks: func(s *delegate.Spec) { s.Scope = []facts.Grant{plan, other} }, reason: authz.ReasonNotConsented},
		"another agent":            {asks: func(s *delegate.Spec) { s.Agent = "sub" }, reason: authz.ReasonNotConsented},
		"another tenant":           {asks: func(s *delegate.Spec) { s.Tenant = "globex" }, reason: authz.ReasonNotConsented},
		"another person":           {asks: func(s *delegate.Spec) { s.Principal = authz.Subject{Object: user("carol")} }, reason: authz.ReasonNotConsented},
		"another grantor":          {asks: func(s *delegate.Spec) { s.GrantedBy = user("carol") }, reason: authz.ReasonNotConsented},
		"a service of the person":  {asks: func(s *delegate.Spec) { s.Principal = authz.Subject{Object: people[2]} }, reason: authz.ReasonNotConsented},
		"all members":              {asks: func(s *delegate.Spec) { s.Principal = authz.Subject{Object: people[3], Relation: "member"} }, reason: authz.ReasonNotConsented},
		"longer than the token":    {asks: func(s *delegate.Spec) { s.TTL = 2 * time.Hour }, reason: authz.ReasonNotConsented},
		"longer than it says":      {agrees: func(c *delegate.Consent) { c.TTL = time.Minute }, asks: func(s *delegate.Spec) { s.TTL = 2 * time.Minute }, reason: authz.ReasonNotConsented},
		"after its end":            {agrees: func(c *delegate.Consent) { c.Until = time.Now() }, asks: func(*delegate.Spec) {}, reason: authz.ReasonNotConsented},
		"a part of another":        {asks: func(s *delegate.Spec) { s.Parent = "0123" }, reason: authz.ReasonInvalidField},
		"by nobody":                {agrees: func(c *delegate.Consent) { c.Person = authz.Object{} }, asks: func(*delegate.Spec) {}, reason: authz.ReasonNotConsented},
		"by a service":             {agrees: func(c *delegate.Consent) { c.Person = people[2] }, asks: func(s *delegate.Spec) { s.Principal = authz.Subject{} }, reason: authz.ReasonNotConsented},
		"by a token without an id": {agrees: func(c *delegate.Consent) { c.Token = "" }, asks: func(*delegate.Spec) {}, reason: authz.ReasonNotConsented},
	} {
		for bounds, d := range map[string]*delegate.Delegate{
			"without vouch": delegate.New(graph.Engine, []byte("key"), time.Hour, time.Now).For("desk", unvouched()), "with vouch": vouching,
		} {
			consent := agreed(name + bounds)
			if c.agrees != nil {
				c.agrees(consent)
			}
			spec := delegate.Spec{Agent: "bot", Principal: authz.Subject{Object: alice.Object}, Tenant: "acme", Consent: consent}
			c.asks(&spec)
			made, _, err := d.Create(t.Context(), spec)
			if reasonOf(err) != c.reason {
				t.Errorf("%s, %s: %v, want the reason %q", name, bounds, err, c.reason)
			}
			if err != nil {
				continue
			}
			if made.GrantedBy != alice.Object || made.Principal.Object != alice.Object || made.Until.After(consent.Until) {
				t.Errorf("%s, %s: %+v", name, bounds, made)
			}
			if _, _, err := d.Create(t.Context(), spec); reasonOf(err) != authz.ReasonConsentUsed {
				t.Errorf("%s, %s, again: %v", name, bounds, err)
			}
		}
	}
}

func reasonOf(err error) string {
	var e *authz.Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Reason
}

// TestConsentIsUsedOnce: of many that use one token at once, with and without keys of their own, one creates a delegation. Those who come later
// create none either: not by another server's key, nor another caller, nor after the delegation was revoked and purged.
func TestConsentIsUsedOnce(t *testing.T) {
	d, _, graph := shared(t)
	var made, used, other atomic.Int32
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			spec := delegate.Spec{Agent: "bot", Unscoped: true, Consent: agreed("once")}
			if i%2 == 0 {
				spec.Key = fmt.Sprint(i)
			}
			by := delegate.New(graph.Engine, []byte(fmt.Sprint("key ", i%3)), time.Hour, time.Now).For(fmt.Sprint("desk", i%4), unvouched())
			for {
				switch _, _, err := by.Create(t.Context(), spec); {
				case err == nil:
					made.Add(1)
				case authz.KindOf(err) == authz.Aborted:
					continue
				case reasonOf(err) == authz.ReasonConsentUsed:
					used.Add(1)
				default:
					other.Add(1)
					t.Error(err)
				}
				return
			}
		})
	}
	all.Wait()
	if made.Load() != 1 || used.Load() != 31 {
		t.Fatalf("%d were made, and %d were told that the token was used, of 32", made.Load(), used.Load())
	}
	list, err := d.Delegations(t.Context(), delegate.Choice{By: authz.Subject{Object: alice.Object}, AsPrincipal: true}, delegate.Place{}, 10)
	if err != nil || len(list.Items) != 1 {
		t.Fatal(list, err)
	}
	if _, err := d.Revoke(t.Context(), list.Items[0].ID); err != nil {
		t.Fatal(err)
	}
	later := delegate.New(graph.Engine, []byte("key"), time.Hour, func() time.Time { return time.Now().Add(2 * time.Hour) }).For("", authz.Unbounded())
	if p, _, err := later.Purge(t.Context(), delegate.Purging{}, delegate.Place{}); err != nil || p.Delegations != 1 {
		t.Fatal(p, err)
	}
	for _, key := range []string{"", "another"} {
		_, _, err = d.Create(t.Context(), delegate.Spec{Agent: "bot", Unscoped: true, Consent: agreed("once"), Key: key})
		if reasonOf(err) != authz.ReasonConsentUsed {
			t.Errorf("after the delegation was purged: %v", err)
		}
	}
}

// TestConsentThatCameToNothing: a try that failed does not use the token up.
func TestConsentThatCameToNothing(t *testing.T) {
	d, _, _ := shared(t)
	bot := authz.AgentID("bot").Object()
	if _, _, err := d.Suspend(t.Context(), bot); err != nil {
		t.Fatal(err)
	}
	spec := delegate.Spec{Agent: "bot", Unscoped: true, Consent: agreed("later")}
	if _, _, err := d.Create(t.Context(), spec); reasonOf(err) != authz.ReasonNotActive {
		t.Fatal(err)
	}
	if _, _, err := d.Resume(t.Context(), bot); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Create(t.Context(), spec); err != nil {
		t.Error(err)
	}
}

// TestConsentAndKey: a retry with the same key and the same token returns what the first try made, however late it comes. A key with another token
// is a key that was used for another request, and a token with another key is one that was used.
func TestConsentAndKey(t *testing.T) {
	d, _, graph := shared(t)
	now := time.Now()
	clock := func() time.Time { return now }
	desk := delegate.New(graph.Engine, []byte("key"), time.Hour, clock).For("desk", unvouched())
	spec := delegate.Spec{Agent: "bot", Unscoped: true, TTL: 59 * time.Minute, Consent: agreed("one"), Key: "k"}
	first, _, err := desk.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(10 * time.Minute) // from then on, 59 minutes go beyond the token
	again, _, err := desk.Create(t.Context(), spec)
	if err != nil || again.ID != first.ID || !again.Until.Equal(first.Until) {
		t.Errorf("a retry: %+v, %v, and first %+v", again, err, first)
	}
	less := spec
	less.TTL = time.Minute
	for name, c := range map[string]struct {
		by     *delegate.Delegate
		change func(*delegate.Spec)
		want   string
	}{
		"the key with another token":    {desk, func(s *delegate.Spec) { s.Consent = agreed("two") }, authz.ReasonIdempotencyConflict},
		"the key without a token":       {d.For("desk", authz.Unbounded()), func(s *delegate.Spec) { s.Consent, s.Principal.Object, s.Tenant = nil, alice.Object, "acme" }, ""},
		"the token with another key":    {desk, func(s *delegate.Spec) { s.Key = "l" }, authz.ReasonConsentUsed},
		"the token without a key":       {desk, func(s *delegate.Spec) { s.Key = "" }, authz.ReasonConsentUsed},
		"both for something else":       {desk, func(s *delegate.Spec) { s.Unscoped = false }, authz.ReasonConsentUsed},
		"both, of another caller":       {desk.For("other", unvouched()), func(*delegate.Spec) {}, authz.ReasonConsentUsed},
		"another caller, another token": {desk.For("other", unvouched()), func(s *delegate.Spec) { s.Consent = agreed("three") }, ""},
	} {
		asks := less
		c.change(&asks)
		if _, _, err := c.by.Create(t.Context(), asks); reasonOf(err) != c.want {
			t.Errorf("%s: %v, want the reason %q", name, err, c.want)
		}
	}
}

// TestConsentIsNeverExceeded: of random requests with random consents each delegation that is made is no more than the person agreed to, as it is
// stored, and each request that asks for no more is granted. What is more is said here again, by the fields of what was stored.
func TestConsentIsNeverExceeded(t *testing.T) {
	d, _, graph := shared(t)
	d = d.For("desk", unvouched())
	tuple(t, graph.Engine, authz.Touch, authz.TypeTenant, "globex", "member", alice.Object)
	tuple(t, graph.Engine, authz.Touch, authz.TypeTenant, "globex", "agent", authz.AgentID("sub").Object())
	r := rand.New(rand.NewPCG(17, 2))
	grants := func() (some []facts.Grant) {
		for _, id := range []string{"a", "b", "c"} {
			if r.IntN(2) == 0 {
				some = append(some, facts.Grant{Resource: authz.Object{Type: "paper", ID: id}, Relation: "reader"})
			}
		}
		return some
	}
	flip := func() bool { return r.IntN(2) == 0 }
	agents, tenants, persons := []authz.AgentID{"bot", "sub"}, []authz.TenantID{"acme", "globex"}, []authz.Object{user("alice"), user("carol")}
	var granted, refused int
	for i := range 600 {
		c := agreed(fmt.Sprint("random ", i))
		c.Agent, c.Tenant, c.Person = agents[r.IntN(2)], tenants[r.IntN(2)], persons[r.IntN(2)]
		c.Unscoped, c.AllowDirect, c.Scope = flip(), flip(), grants()
		c.TTL = time.Duration(r.IntN(3)) * time.Minute
		s := delegate.Spec{Agent: c.Agent, Consent: c}
		if r.IntN(8) == 0 {
			s.Agent = agents[r.IntN(2)]
		}
		if flip() {
			s.Tenant = c.Tenant
			if r.IntN(8) == 0 {
				s.Tenant = tenants[r.IntN(2)]
			}
		}
		if flip() {
			s.Principal.Object = c.Person
			if r.IntN(8) == 0 {
				s.Principal.Object = persons[r.IntN(2)]
			}
		}
		if flip() {
			s.AllowDirect = flip()
		}
		if s.Unscoped = flip(); !s.Unscoped {
			s.Scope = grants()
		}
		if flip() {
			s.TTL = time.Duration(1+r.IntN(3)) * time.Minute
		}
		asksMore := s.Agent != c.Agent || s.Tenant != "" && s.Tenant != c.Tenant || s.Principal.ID != "" && s.Principal.Object != c.Person ||
			s.AllowDirect && !c.AllowDirect || s.Unscoped && !c.Unscoped || c.TTL > 0 && s.TTL > c.TTL ||
			!c.Unscoped && slices.ContainsFunc(s.Scope, func(g facts.Grant) bool { return !slices.Contains(c.Scope, g) })
		before := time.Now()
		made, _, err := d.Create(t.Context(), s)
		if asksMore != (reasonOf(err) == authz.ReasonNotConsented) || !asksMore && err != nil {
			t.Fatalf("%+v with %+v (more: %v): %v", s, c, asksMore, err)
		}
		if err != nil {
			refused++
			continue
		}
		granted++
		stored, _, err := d.Delegation(t.Context(), made.ID)
		if err != nil {
			t.Fatal(err)
		}
		snap, err := graph.Snapshot(t.Context(), authz.Freshness{})
		if err != nil {
			t.Fatal(err)
		}
		scoped, err := snap.Read(t.Context(), authz.Filter{Resource: authz.Object{Type: "paper"}, SubjectType: authz.TypeDelegation, SubjectID: string(made.ID)})
		if err != nil {
			t.Fatal(err)
		}
		within := stored.Agent == c.Agent && stored.Tenant == c.Tenant && stored.Principal == authz.Subject{Object: c.Person} && stored.GrantedBy == c.Person &&
			stored.Parent == "" && (c.Unscoped || !stored.Unscoped) && (c.AllowDirect || !stored.AllowDirect) && !stored.Until.After(c.Until) &&
			(c.TTL == 0 || !stored.Until.After(before.Add(c.TTL+10*time.Second)))
		for _, rel := range scoped[0] {
			within = within && (c.Unscoped || slices.Contains(c.Scope, facts.Grant{Resource: rel.Resource, Relation: rel.Relation}))
		}
		if !within || len(scoped[0]) != len(s.Scope) {
			t.Fatalf("%+v was made with the scope %+v, of %+v", stored, scoped[0], c)
		}
	}
	if granted < 50 || refused < 50 {
		t.Errorf("%d were granted and %d refused: that says little", granted, refused)
	}
}
