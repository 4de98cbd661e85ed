package facts_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// rel reads "type:id#relation@type:id" or "...@type:id#relation", with "[caveat]" or an expiration
// relative to now in brackets behind it.
func rel(t *testing.T, text string) authz.Relationship {
	t.Helper()
	body, trait, _ := strings.Cut(strings.TrimSuffix(text, "]"), "[")
	left, right, ok := strings.Cut(body, "@")
	if !ok {
		t.Fatalf("no subject in %q", text)
	}
	resource, relation, _ := strings.Cut(left, "#")
	object := func(s string) authz.Object {
		kind, id, _ := strings.Cut(s, ":")
		return authz.Object{Type: kind, ID: id}
	}
	subject, subjectRelation, _ := strings.Cut(right, "#")
	out := authz.Relationship{
		Resource: object(resource), Relation: relation,
		Subject: authz.Subject{Object: object(subject), Relation: subjectRelation},
	}
	if d, err := time.ParseDuration(trait); err == nil {
		out.ExpiresAt = now.Add(d)
		return out
	}
	out.Caveat = trait
	switch trait {
	case "leaf":
		out.CaveatContext = map[string]any{"principal": "user:alice", "tenant": "acme"}
	case "baseline":
		out.CaveatContext = map[string]any{"revision": "r1", "at": now.Format(time.RFC3339)}
	case "issued":
		out.CaveatContext = map[string]any{"at": now.Format(time.RFC3339), "key": "k"}
	}
	return out
}

func rels(t *testing.T, lines []string) []authz.Relationship {
	t.Helper()
	out := make([]authz.Relationship, len(lines))
	for i, l := range lines {
		out[i] = rel(t, l)
	}
	return out
}

// wellFormed is a delegation that Deputy wrote, ready to be bent.
func wellFormed() []string {
	return []string{
		"delegation:d1#active@delegation:d1[1h]",
		"delegation:d1#agent@agent:bot",
		"delegation:d1#principal@user:alice",
		"delegation:d1#tenant@tenant:acme",
		"delegation:d1#granted_by@user:alice[issued]",
		"delegation:d1#unscoped@delegation:d1",
		"delegation:d1#allow_direct@user:alice[1h]",
	}
}

// TestWithin: a delegation lies within bounds that have its tenant, its agent and its principal's type, each once; a session within those
// that have its agent.
func TestWithin(t *testing.T) {
	narrow := func(change func(*authz.Bounds)) *authz.Bounds {
		b := authz.Unbounded()
		change(b)
		return b
	}
	acme := narrow(func(b *authz.Bounds) { b.Tenants = authz.NamesOf("acme") })
	globex := narrow(func(b *authz.Bounds) { b.Tenants = authz.NamesOf("globex") })
	bot := narrow(func(b *authz.Bounds) { b.Agents = authz.NamesOf("bot") })
	other := narrow(func(b *authz.Bounds) { b.Agents = authz.NamesOf("other") })
	users := narrow(func(b *authz.Bounds) { b.Principals = authz.NamesOf("user") })
	services := narrow(func(b *authz.Bounds) { b.Principals = authz.NamesOf("service") })
	all := map[string]*authz.Bounds{
		"acme": acme, "globex": globex, "bot": bot, "other": other, "users": users, "services": services, "all": authz.Unbounded(), "none": {}, "nil": nil,
	}
	bent := func(from, to string, more ...string) []string {
		var lines []string
		for _, l := range wellFormed() {
			if l == from {
				l = to
			}
			if l != "" {
				lines = append(lines, l)
			}
		}
		return append(lines, more...)
	}
	for name, c := range map[string]struct {
		lines []string
		in    string
	}{
		"plain":           {wellFormed(), "acme bot users all"},
		"of two tenants":  {bent("", "", "delegation:d1#tenant@tenant:globex"), "all"},
		"of two agents":   {bent("", "", "delegation:d1#agent@agent:other"), "all"},
		"of no tenant":    {bent("delegation:d1#tenant@tenant:acme", ""), "bot users all"},
		"for all members": {bent("delegation:d1#principal@user:alice", "delegation:d1#principal@tenant:acme#member"), "acme bot all"},
		"for all admins":  {bent("delegation:d1#principal@user:alice", "delegation:d1#principal@tenant:acme#admin"), "acme bot users all"},
		"for a service":   {bent("delegation:d1#principal@user:alice", "delegation:d1#principal@service:nightly"), "acme bot services all"},
		"revoked":         {bent("delegation:d1#active@delegation:d1[1h]", "delegation:d1#revoked@delegation:d1"), "acme bot users all"},
	} {
		d := facts.ReadDelegation("d1", rels(t, c.lines), now)
		for of, b := range all {
			if got, want := d.Within(b), slices.Contains(strings.Fields(c.in), of); got != want {
				t.Errorf("%s: within %s is %t, want %t", name, of, got, want)
			}
		}
	}
	s := facts.ReadSession("s1", rels(t, []string{"session:s1#agent@agent:bot[issued]", "session:s1#unfrozen@session:s1"}), now)
	two := facts.ReadSession("s1", rels(t, []string{"session:s1#agent@agent:bot[issued]", "session:s1#agent@agent:other[issued]"}), now)
	if !s.Within(bot) || s.Within(other) || s.Within(nil) || two.Within(bot) || !two.Within(authz.Unbounded()) {
		t.Errorf("sessions: %+v, %+v", s, two)
	}
}

func TestDelegation(t *testing.T) {
	d := facts.ReadDelegation("d1", rels(t, wellFormed()), now)
	if !d.Live() || d.Malformed != "" {
		t.Fatalf("not live: %+v", d)
	}
	if d.Agent != "bot" || d.Principal.String() != "user:alice" || d.Tenant != "acme" || !d.Unscoped || !d.AllowDirect ||
		!d.Until.Equal(now.Add(time.Hour)) || !d.Issued.At.Equal(now) {
		t.Errorf("read %+v", d)
	}
}

// TestWritesReadBack: what Write and Activate write is what Read reads.
func TestWritesReadBack(t *testing.T) {
	d := facts.Delegation{
		ID: "d1", Agent: "bot", Principal: authz.Subject{Object: authz.TenantID("acme").Object(), Relation: facts.RelationMember},
		Tenant: "acme", GrantedBy: authz.Object{Type: authz.TypeUser, ID: "carol"}, Parent: "d0", Session: "s1",
		Unscoped: true, AllowDirect: true, Life: facts.Life{Known: true, Active: true, Until: now.Add(time.Hour)},
		Issued: facts.Issued{At: now, Until: now.Add(time.Hour), KeyDigest: "k"},
	}
	var written []authz.Relationship
	for _, u := range d.Write(nil) {
		written = append(written, u.Relationship)
	}
	if got := facts.ReadDelegation("d1", written, now); got != d {
		t.Errorf("read back\n%+v, want\n%+v", got, d)
	}
	s := facts.Session{
		ID: "s1", Agent: "bot", Baseline: authz.Revision{Token: "r1"}, BaselineAt: now, Issued: d.Issued, Life: d.Life,
		Leaves: []facts.Leaf{{Delegation: "l1", Principal: authz.Principal{Object: authz.Object{Type: authz.TypeUser, ID: "alice"}}, Tenant: "acme"}},
	}
	written = nil
	for _, u := range append(s.Write(), s.Activate()...) {
		same := func(r authz.Relationship) bool { return r.Relation == u.Relationship.Relation && r.Subject == u.Relationship.Subject }
		written = append(slices.DeleteFunc(written, same), u.Relationship)
	}
	got := facts.ReadSession("s1", written, now)
	if got.Malformed != "" || got.Life != s.Life || got.Baseline != s.Baseline || !got.BaselineAt.Equal(now) || got.Leaves[0] != s.Leaves[0] || got.Issued != s.Issued {
		t.Errorf("read back\n%+v, want\n%+v", got, s)
	}
}

// TestDelegationThatDoesNotAct: each line more, or less, and the delegation is not live.
func TestDelegationThatDoesNotAct(t *testing.T) {
	for _, less := range wellFormed()[:5] {
		var lines []string
		for _, l := range wellFormed() {
			if l != less {
				lines = append(lines, l)
			}
		}
		if d := facts.ReadDelegation("d1", rels(t, lines), now); d.Live() {
			t.Errorf("live without %s", less)
		}
	}
	for _, more := range []string{
		"delegation:d1#revoked@delegation:d1",
		"delegation:d1#revoked@user:anybody",
		"delegation:d1#agent@agent:other",
		"delegation:d1#principal@user:bob",
		"delegation:d1#tenant@tenant:globex",
		"delegation:d1#granted_by@user:bob[issued]",
		"delegation:d1#active@delegation:d2",
		"delegation:d1#unscoped@delegation:d2",
		"delegation:d1#allow_direct@user:bob",
		"delegation:d1#session@session:s1",
		"delegation:d1#parent@tenant:acme",
		"delegation:d1#unheard_of@user:alice",
	} {
		if d := facts.ReadDelegation("d1", rels(t, append(wellFormed(), more)), now); d.Live() {
			t.Errorf("live with %s", more)
		}
	}
	two := append(wellFormed(), "delegation:d1#parent@delegation:d0")
	if d := facts.ReadDelegation("d1", rels(t, two), now); !d.Live() || d.Parent != "d0" {
		t.Fatalf("with one parent: %+v", d)
	}
	if d := facts.ReadDelegation("d1", rels(t, append(two, "delegation:d1#parent@delegation:d9")), now); d.Live() {
		t.Error("live with two parents")
	}
	for at, bent := range map[int]string{
		0: "delegation:d1#active@delegation:d1[-1s]",
		1: "delegation:d1#agent@agent:*",
		2: "delegation:d1#principal@tenant:globex#member",
		3: "delegation:d1#tenant@tenant:acme[somebody_elses]",
		4: "delegation:d1#granted_by@user:alice",
	} {
		// Without the mark that repeats the principal, which would refuse first.
		lines := wellFormed()[:6]
		lines[at] = bent
		if d := facts.ReadDelegation("d1", rels(t, lines), now); d.Live() {
			t.Errorf("live with %s", bent)
		}
	}
}

func TestSessionThatDoesNotAct(t *testing.T) {
	well := []string{
		"session:s1#active@session:s1[1h]",
		"session:s1#agent@agent:bot[issued]",
		"session:s1#delegation@delegation:l1[leaf]",
		"session:s1#unfrozen@session:s1",
	}
	s := facts.ReadSession("s1", rels(t, well), now)
	if !s.Live() || !s.Holds("l1") || s.Holds("l2") || s.Leaves[0].Principal.String() != "user:alice" {
		t.Fatalf("read %+v", s)
	}
	for _, more := range []string{
		"session:s1#ended@session:s1",
		"session:s1#agent@agent:other[issued]",
		"session:s1#baseline@session:s1[baseline]",
		"session:s1#unfrozen@session:s2",
		"session:s1#delegation@delegation:l2",
	} {
		if s := facts.ReadSession("s1", rels(t, append(well, more)), now); s.Live() {
			t.Errorf("live with %s", more)
		}
	}
	for _, drop := range []int{0, 1, 3} {
		lines := append(append([]string{}, well[:drop]...), well[drop+1:]...)
		if s := facts.ReadSession("s1", rels(t, lines), now); s.Live() {
			t.Errorf("live without %s", well[drop])
		}
	}
	frozen := append(append([]string{}, well[:3]...), "session:s1#baseline@session:s1[baseline]")
	if s := facts.ReadSession("s1", rels(t, frozen), now); !s.Live() || s.Baseline.Token != "r1" {
		t.Errorf("frozen: %+v", s)
	}
	if s := facts.ReadSession("s1", rels(t, append(well[:3:3], "session:s1#baseline@session:s1")), now); s.Live() {
		t.Error("live with a baseline that names nothing")
	}
}

func TestStandingAndAgent(t *testing.T) {
	user := authz.Object{Type: authz.TypeUser, ID: "alice"}
	for lines, want := range map[string]bool{
		"":                             false,
		"user:alice#active@user:alice": true,
		"user:alice#active@user:bob":   false,
		"user:alice#active@user:*":     false,
		"user:alice#active@user:alice user:alice#suspended@user:alice": false,
		"user:alice#suspended@user:alice":                              false,
	} {
		if got := facts.ReadStanding(user, rels(t, strings.Fields(lines)), now).Live(); got != want {
			t.Errorf("%q: live %t, want %t", lines, got, want)
		}
	}
	for lines, want := range map[string]bool{
		"agent:bot#active@agent:bot[issued] agent:bot#owner@user:alice":                              true,
		"agent:bot#active@agent:bot agent:bot#owner@user:alice":                                      false,
		"agent:bot#active@agent:bot[issued] agent:bot#owner@user:*":                                  false,
		"agent:bot#owner@user:alice":                                                                 false,
		"agent:bot#active@agent:bot[issued] agent:bot#owner@user:alice agent:bot#suspended@user:any": false,
	} {
		a := facts.ReadAgent("bot", rels(t, strings.Fields(lines)), now)
		if got := a.Live() && len(a.Owners) > 0; got != want {
			t.Errorf("%q: live %t, want %t", lines, got, want)
		}
	}
}

// TestHolds: only the direct tuple counts, while it has not expired.
func TestHolds(t *testing.T) {
	for line, want := range map[string]bool{
		"tenant:acme#admin@user:carol":           true,
		"tenant:acme#admin@user:carol[1h]":       true,
		"tenant:acme#admin@user:carol[-1h]":      false,
		"tenant:acme#admin@user:carol[caveated]": false,
	} {
		if got := facts.Holds(rels(t, []string{line}), now); got != want {
			t.Errorf("%s holds: %t, want %t", line, got, want)
		}
	}
	if facts.Holds(nil, now) {
		t.Error("nothing holds")
	}
}
