package judge

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
	"github.com/deputyauth/deputy/pkg/facts"
)

// notebook is a snapshot that keeps notes on what it has.
type notebook struct {
	authz.Snapshot
	pages map[authz.Filter]*noted
}

type noted struct {
	rels []authz.Relationship
	note authz.Note
	over bool
}

func (n *notebook) page(f authz.Filter) *noted {
	p := n.pages[f]
	if p == nil {
		n.write(f)
		p = n.pages[f]
	}
	return p
}

// write replaces what matches a filter.
func (n *notebook) write(f authz.Filter, rels ...authz.Relationship) {
	if n.pages == nil {
		n.pages = map[authz.Filter]*noted{}
	}
	if was := n.pages[f]; was != nil {
		was.over = true
	}
	p := &noted{rels: rels}
	p.note.Of = p
	n.pages[f] = p
}

func (n *notebook) ReadNoted(_ context.Context, f authz.Filter) ([]authz.Relationship, *authz.Note, error) {
	p := n.page(f)
	return p.rels, &p.note, nil
}

func (n *notebook) Stands(note *authz.Note) bool {
	p, ok := note.Of.(*noted)
	return ok && !p.over
}

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// mark is a relationship of an object to itself, that lasts for a while, or for ever.
func mark(o authz.Object, relation string, lasts time.Duration) authz.Relationship {
	r := link(o, relation, o)
	if lasts > 0 {
		r.ExpiresAt = begin.Add(lasts)
	}
	return r
}

func link(o authz.Object, relation string, to authz.Object) authz.Relationship {
	return authz.Relationship{Resource: o, Relation: relation, Subject: authz.Subject{Object: to}}
}

func issued(r authz.Relationship) authz.Relationship {
	r.Caveat = "issued"
	return r
}

// TestNotedFacts: what was read before is not read again, and is never taken for what holds after an expiration, or
// before it.
func TestNotedFacts(t *testing.T) {
	t.Parallel()
	object := authz.SessionID("s1").Object()
	n := &notebook{}
	n.write(facts.Object(object), mark(object, "active", time.Hour), issued(link(object, "agent", authz.AgentID("bot").Object())),
		mark(object, "unfrozen", 0))
	live := func(after time.Duration) bool {
		t.Helper()
		s, err := newBook(n, begin.Add(after)).session(t.Context(), "s1")
		if err != nil {
			t.Fatal(err)
		}
		return s.Live()
	}
	for _, step := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {time.Hour - 1, true}, {time.Hour, false}, {2 * time.Hour, false}, {time.Minute, true}, {time.Hour, false}} {
		if got := live(step.after); got != step.want {
			t.Errorf("after %v the session is live: %v, want %v", step.after, got, step.want)
		}
	}
	live(0)
	page := n.page(facts.Object(object))
	before := page.note.Load()
	live(time.Minute)
	if page.note.Load() != before {
		t.Error("what was noted is read again")
	}
}

// TestDossier: a candidate's facts are gathered once, and again when anything that they rest on was written or expired,
// or somebody else asks.
func TestDossier(t *testing.T) {
	t.Parallel()
	alice := authz.Object{Type: authz.TypeUser, ID: "alice"}
	bot, acme := authz.AgentID("bot").Object(), authz.TenantID("acme").Object()
	session, root, part := authz.SessionID("s1").Object(), authz.DelegationID("d1").Object(), authz.DelegationID("l1").Object()
	granted := func(d authz.Object, by authz.Object, lasts time.Duration) []authz.Relationship {
		return []authz.Relationship{
			mark(d, "active", lasts), link(d, "agent", bot), link(d, "principal", alice), link(d, "tenant", acme),
			issued(link(d, "granted_by", by)),
		}
	}
	n := &notebook{}
	pages := map[string]struct {
		of   authz.Filter
		rels []authz.Relationship
	}{
		"session": {facts.Object(session), []authz.Relationship{
			mark(session, "active", 4*time.Hour), mark(session, "unfrozen", 0), issued(link(session, "agent", bot)),
		}},
		"root":      {facts.Object(root), granted(root, alice, 3*time.Hour)},
		"leaf":      {facts.Object(part), append(granted(part, bot, 2*time.Hour), link(part, "parent", root), link(part, "session", session))},
		"agent":     {facts.Object(bot), []authz.Relationship{issued(mark(bot, "active", 0)), link(bot, "owner", alice)}},
		"principal": {facts.StandingFilter(alice), []authz.Relationship{mark(alice, "active", 0)}},
		"tenant":    {facts.StandingFilter(acme), []authz.Relationship{mark(acme, "active", 0)}},
	}
	for _, p := range pages {
		n.write(p.of, p.rels...)
	}
	one := leaf{"l1", authz.Principal{Object: alice}, "acme"}
	question := authz.Case{Agent: "bot", Session: "s1"}
	ask := func(c authz.Case, l leaf, after time.Duration) (f decide.Facts, read int) {
		t.Helper()
		b := newBook(n, begin.Add(after))
		f, err := b.candidate(t.Context(), c, l)
		if err != nil {
			t.Fatal(err)
		}
		want, err := newBook(n, begin.Add(after)).gather(t.Context(), c, l)
		if err != nil || !reflect.DeepEqual(f, want) {
			t.Errorf("%+v after %v, from a dossier:\n got %+v\nwant %+v, %v", c, after, f, want, err)
		}
		return f, len(b.read)
	}
	if f, reads := ask(question, one, 0); reads != len(pages) || !f.Session.Live() {
		t.Errorf("at first %d pages are read, want %d", reads, len(pages))
	}
	if _, reads := ask(question, one, time.Minute); reads != 1 {
		t.Errorf("the second time %d pages are read, want 1", reads)
	}
	for name, p := range pages {
		n.write(p.of, p.rels[1:]...)
		ask(question, one, time.Minute)
		ask(question, one, time.Minute)
		n.write(p.of, p.rels...)
		if f, _ := ask(question, one, time.Minute); f.Session == nil || !f.Session.Live() || !f.Standing.Tenant.Live() {
			t.Errorf("with %s as it was: %+v", name, f)
		}
	}
	for _, after := range []time.Duration{time.Minute, 2*time.Hour - 1, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour, time.Minute} {
		ask(question, one, after)
	}
	for _, other := range []struct {
		c authz.Case
		l leaf
	}{
		{authz.Case{Agent: "other", Session: "s1"}, one}, {authz.Case{Agent: "bot"}, one}, {question, leaf{"l1", one.principal, "globex"}},
		{question, leaf{"l1", authz.Principal{Object: authz.Object{Type: authz.TypeUser, ID: "bob"}}, "acme"}},
	} {
		ask(question, one, time.Minute)
		ask(other.c, other.l, time.Minute)
	}
}
