package delegate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	"github.com/deputyauth/deputy/pkg/facts"
)

// ofAcme is what exists for a caller that is bound to acme.
func ofAcme() *authz.Bounds {
	b := authz.Unbounded()
	b.Tenants = authz.NamesOf("acme")
	return b
}

// shared is office with acme's agents, and with globex, where bot and mallory are.
func shared(t *testing.T) (d, raced *delegate.Delegate, graph *interposed) {
	t.Helper()
	d, raced, graph = office(t)
	for _, o := range []authz.Object{authz.TenantID("globex").Object(), user("mallory")} {
		if _, _, err := d.Resume(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		tenant, relation string
		subject          authz.Object
	}{
		{"acme", "agent", authz.AgentID("bot").Object()}, {"acme", "agent", authz.AgentID("sub").Object()},
		{"globex", "agent", authz.AgentID("bot").Object()}, {"globex", "member", user("mallory")},
	} {
		tuple(t, graph.Engine, authz.Touch, authz.TypeTenant, row.tenant, row.relation, row.subject)
	}
	return d, raced, graph
}

// root is a delegation of alice's for bot in acme.
func root() delegate.Spec {
	return delegate.Spec{Agent: "bot", Principal: authz.Subject{Object: alice.Object}, Tenant: "acme", Unscoped: true, TTL: time.Hour}
}

// TestNobodyHasNothing: for a Delegate without a caller, or without bounds, nothing exists and nothing is written.
func TestNobodyHasNothing(t *testing.T) {
	t.Parallel()
	d, _, graph := shared(t)
	own, _, err := d.Create(t.Context(), root())
	if err != nil {
		t.Fatal(err)
	}
	run, _, err := d.StartSession(t.Context(), delegate.Start{Agent: "bot", Targets: []delegate.Target{{Delegation: own.ID}}})
	if err != nil {
		t.Fatal(err)
	}
	unwritten := failing{Graph: graph.Engine, writes: errors.New("something was written")}
	bare := delegate.New(unwritten, []byte("a key for tests of 32 bytes ...."), time.Hour, time.Now)
	for name, nobody := range map[string]*delegate.Delegate{
		"New alone": bare, "nil bounds": bare.For("someone", nil), "zero bounds": bare.For("someone", &authz.Bounds{}),
	} {
		ctx := t.Context()
		for call, c := range map[string]struct {
			do   func() error
			want authz.Kind
		}{
			"Create":         {func() error { _, _, err := nobody.Create(ctx, root()); return err }, authz.Denied},
			"Create a part":  {func() error { _, _, err := nobody.Create(ctx, delegate.Spec{Agent: "sub", Parent: own.ID}); return err }, authz.NotFound},
			"Delegation":     {func() error { _, _, err := nobody.Delegation(ctx, own.ID); return err }, authz.NotFound},
			"Revoke":         {func() error { _, err := nobody.Revoke(ctx, own.ID); return err }, authz.NotFound},
			"Register":       {func() error { _, _, err := nobody.Register(ctx, "new", people[:1], ""); return err }, authz.Denied},
			"AdoptAgent":     {func() error { _, _, err := nobody.AdoptAgent(ctx, "new", people[:1], ""); return err }, authz.Denied},
			"Agent":          {func() error { _, _, err := nobody.Agent(ctx, "bot"); return err }, authz.NotFound},
			"Suspend agent":  {func() error { _, _, err := nobody.Suspend(ctx, authz.AgentID("bot").Object()); return err }, authz.NotFound},
			"Suspend user":   {func() error { _, _, err := nobody.Suspend(ctx, alice.Object); return err }, authz.NotFound},
			"Suspend tenant": {func() error { _, _, err := nobody.Suspend(ctx, people[3]); return err }, authz.NotFound},
			"Resume":         {func() error { _, _, err := nobody.Resume(ctx, authz.AgentID("bot").Object()); return err }, authz.NotFound},
			"StartSession": {func() error {
				_, _, err := nobody.StartSession(ctx, delegate.Start{Agent: "bot", Targets: []delegate.Target{{Delegation: own.ID}}})
				return err
			}, authz.NotFound},
			"Session": {func() error { _, _, err := nobody.Session(ctx, run.ID); return err }, authz.NotFound},
			"Renew":   {func() error { _, _, err := nobody.Renew(ctx, run.ID, 0); return err }, authz.NotFound},
			"End":     {func() error { _, err := nobody.End(ctx, run.ID); return err }, authz.NotFound},
			"Review": {func() error {
				_, _, err := nobody.Review(ctx, nil, delegate.ReviewPlace{}, 1, func(delegate.Candidate) error { return nil })
				return err
			}, authz.Denied},
			"Adopt": {func() error { _, _, err := nobody.Adopt(ctx, []delegate.Adoption{{Object: alice.Object}}); return err }, authz.Denied},
		} {
			if err := c.do(); authz.KindOf(err) != c.want {
				t.Errorf("%s, %s: %v", name, call, err)
			}
		}
		agents, err := nobody.Agents(ctx, delegate.Place{}, 10)
		if err != nil || len(agents.Items) > 0 || agents.Next != nil {
			t.Errorf("%s lists the agents %+v, %v", name, agents, err)
		}
		sessions, err := nobody.Sessions(ctx, "bot", true, delegate.Place{}, 10)
		if err != nil || len(sessions.Items) > 0 || sessions.Next != nil {
			t.Errorf("%s lists the sessions %+v, %v", name, sessions, err)
		}
		ofBot := delegate.Choice{By: authz.Subject{Object: authz.AgentID("bot").Object()}, Agent: "bot", Inactive: true, Leaves: true}
		list, err := nobody.Delegations(ctx, ofBot, delegate.Place{}, 10)
		if err != nil || len(list.Items) > 0 || list.Next != nil {
			t.Errorf("%s lists the delegations %+v, %v", name, list, err)
		}
	}
}

// TestWhatExistsIsJudgedAgain: a confined caller's write is refused when its tenant loses the agent or the principal between its look and
// its write; what narrows is not.
func TestWhatExistsIsJudgedAgain(t *testing.T) {
	dismiss := func(relation string, subject authz.Object) func(*interposed) {
		return func(g *interposed) { tuple(t, g.Engine, authz.Delete, authz.TypeTenant, "acme", relation, subject) }
	}
	noBot, noSub, noAlice := dismiss("agent", authz.AgentID("bot").Object()), dismiss("agent", authz.AgentID("sub").Object()), dismiss("member", alice.Object)
	type scene struct {
		raced *delegate.Delegate
		own   facts.Delegation
		run   delegate.Running
	}
	ctx := t.Context()
	for name, c := range map[string]struct {
		write   func(*scene) error
		dismiss func(*interposed)
		narrows bool
	}{
		"root, agent":     {write: func(s *scene) error { _, _, err := s.raced.Create(ctx, root()); return err }, dismiss: noBot},
		"root, principal": {write: func(s *scene) error { _, _, err := s.raced.Create(ctx, root()); return err }, dismiss: noAlice},
		"part, agent": {write: func(s *scene) error {
			_, _, err := s.raced.Create(ctx, delegate.Spec{Agent: "sub", Parent: s.own.ID, Unscoped: true})
			return err
		}, dismiss: noSub},
		"session, agent": {write: func(s *scene) error {
			_, _, err := s.raced.StartSession(ctx, delegate.Start{Agent: "bot", Targets: []delegate.Target{{Delegation: s.own.ID}}})
			return err
		}, dismiss: noBot},
		"renewal, agent": {write: func(s *scene) error { _, _, err := s.raced.Renew(ctx, s.run.ID, 0); return err }, dismiss: noBot},
		"resume, agent": {write: func(s *scene) error {
			_, _, err := s.raced.Resume(ctx, authz.AgentID("sub").Object())
			return err
		}, dismiss: noSub},
		"suspend, agent": {write: func(s *scene) error {
			_, _, err := s.raced.Suspend(ctx, authz.AgentID("sub").Object())
			return err
		}, dismiss: noSub, narrows: true},
		"revoke": {write: func(s *scene) error { _, err := s.raced.Revoke(ctx, s.own.ID); return err }, dismiss: noBot, narrows: true},
		"end":    {write: func(s *scene) error { _, err := s.raced.End(ctx, s.run.ID); return err }, dismiss: noBot, narrows: true},
	} {
		t.Run(name, func(t *testing.T) {
			d, raced, graph := shared(t)
			s := &scene{raced: raced.For("of-acme", ofAcme())}
			var err error
			if s.own, _, err = d.Create(t.Context(), root()); err != nil {
				t.Fatal(err)
			}
			if s.run, _, err = d.StartSession(t.Context(), delegate.Start{Agent: "bot", Targets: []delegate.Target{{Delegation: s.own.ID}}}); err != nil {
				t.Fatal(err)
			}
			if !c.narrows {
				if err := c.write(s); err != nil {
					t.Fatalf("undisturbed: %v", err)
				}
			}
			graph.before = func() { c.dismiss(graph) }
			switch err := c.write(s); {
			case c.narrows && err != nil:
				t.Errorf("what narrows is stopped: %v", err)
			case !c.narrows && authz.KindOf(err) != authz.Precondition:
				t.Errorf("got %v, want a precondition that does not hold", err)
			}
		})
	}
}

// TestExistenceGoesByDeputysClock: a tenant that has an agent until a time that is over by Deputy's clock does not have it, whether or
// not the engine still shows the relationship; so it neither makes the agent exist nor keeps another tenant from suspending it.
func TestExistenceGoesByDeputysClock(t *testing.T) {
	t.Parallel()
	_, _, graph := shared(t)
	for tenant, length := range map[authz.TenantID]time.Duration{"acme": 3 * time.Hour, "globex": time.Hour} {
		_, err := graph.Engine.Write(t.Context(), []authz.Update{{Operation: authz.Touch, Relationship: authz.Relationship{
			Resource: tenant.Object(), Relation: "agent", Subject: authz.Subject{Object: authz.AgentID("bot").Object()},
			ExpiresAt: time.Now().Add(length),
		}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	ahead := func(by time.Duration) *delegate.Delegate {
		clock := func() time.Time { return time.Now().Add(by) }
		return delegate.New(graph.Engine, []byte("a key for tests of 32 bytes ...."), time.Hour, clock).For("of-acme", ofAcme())
	}
	bot := authz.AgentID("bot").Object()
	if _, _, err := ahead(0).Suspend(t.Context(), bot); authz.KindOf(err) != authz.Denied {
		t.Errorf("while both have it: %v", err)
	}
	if _, _, err := ahead(4*time.Hour).Suspend(t.Context(), bot); authz.KindOf(err) != authz.NotFound {
		t.Errorf("once neither has it: %v", err)
	}
	if _, _, err := ahead(2*time.Hour).Suspend(t.Context(), bot); err != nil {
		t.Errorf("once globex's has ended: %v", err)
	}
}

// unanswering is a graph in which the tenants of an object cannot be found out.
type unanswering struct {
	authz.Graph
	err error
}

// Snapshot is the graph's, without answers.
func (u unanswering) Snapshot(ctx context.Context, at authz.Freshness) (authz.Snapshot, error) {
	snap, err := u.Graph.Snapshot(ctx, at)
	return unansweringSnapshot{snap, u.err}, err
}

type unansweringSnapshot struct {
	authz.Snapshot
	err error
}

// Schema is the snapshot's with a type of documents.
func (s unansweringSnapshot) Schema(ctx context.Context) (*authz.Schema, error) {
	schema, err := s.Snapshot.Schema(ctx)
	if err != nil {
		return nil, err
	}
	with := *schema
	with.Types = map[string]*authz.Type{"document": {
		Name: "document", Members: map[string]bool{"tenant": false, "reader": false}, Delegable: map[string]bool{"reader": true},
	}}
	return &with, nil
}

// Subjects fails.
func (s unansweringSnapshot) Subjects(context.Context, authz.Object, string, string, map[string]any, int) ([]authz.SubjectAnswer, error) {
	return nil, s.err
}

// TestTenantsThatCannotBeComputed: an object whose tenants cannot be computed is answered as one that does not exist; an engine that
// fails is not.
func TestTenantsThatCannotBeComputed(t *testing.T) {
	t.Parallel()
	_, _, graph := shared(t)
	for _, c := range []struct {
		err  error
		want authz.Kind
	}{
		{authz.Errorf(authz.Precondition, authz.ReasonEngineRefused, "too deep"), authz.Invalid},
		{authz.Errorf(authz.Invalid, authz.ReasonInvalidField, "no such caveat"), authz.Invalid},
		{authz.Errorf(authz.Exhausted, authz.ReasonTooLarge, "too many"), authz.Invalid},
		{authz.Errorf(authz.Exhausted, authz.ReasonBusy, "busy"), authz.Exhausted},
		{authz.Errorf(authz.Unavailable, authz.ReasonEngineUnavailable, "gone"), authz.Unavailable},
		{errors.New("a bug"), authz.Internal},
	} {
		d := delegate.New(unanswering{graph.Engine, c.err}, []byte("a key for tests of 32 bytes ...."), time.Hour, time.Now)
		spec := root()
		spec.Unscoped, spec.Scope = false, []facts.Grant{{Resource: authz.Object{Type: "document", ID: "plan"}, Relation: "reader"}}
		if _, _, err := d.For("of-acme", ofAcme()).Create(t.Context(), spec); authz.KindOf(err) != c.want {
			t.Errorf("%v: %v", c.err, err)
		}
	}
}

// TestManyTenants: a caller that is bound to very many tenants finds what any of them has.
func TestManyTenants(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	_, _, graph := shared(t)
	names := []string{"zeta"}
	for i := range 300 {
		names = append(names, fmt.Sprintf("tenant%03d", i))
	}
	tuple(t, graph.Engine, authz.Touch, authz.TypeTenant, "zeta", "agent", authz.AgentID("sub").Object())
	tuple(t, graph.Engine, authz.Touch, authz.TypeTenant, "tenant150", "agent", authz.AgentID("bot").Object())
	tuple(t, graph.Engine, authz.Touch, authz.TypeTenant, "tenant150", "agent", authz.AgentID("sub").Object())
	b := authz.Unbounded()
	b.Tenants = authz.NamesOf(names...)
	d := delegate.New(graph.Engine, nil, time.Hour, time.Now).For("of-many", b)
	if _, _, err := d.Agent(t.Context(), "sub"); err != nil {
		t.Error(err)
	}
	var ids []authz.AgentID
	for place := new(delegate.Place); place != nil; { // a page ends also for its time
		page, err := d.Agents(t.Context(), *place, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.Items {
			ids = append(ids, a.ID)
		}
		place = page.Next
	}
	if !slices.Equal(ids, []authz.AgentID{"bot", "sub"}) {
		t.Errorf("it lists %v", ids)
	}
	// One tenant beyond is found behind however many within.
	var within []authz.Update
	for _, name := range names {
		within = append(within, authz.Update{Operation: authz.Touch, Relationship: authz.Relationship{
			Resource: authz.TenantID(name).Object(), Relation: "agent", Subject: authz.Subject{Object: authz.AgentID("sub").Object()},
		}})
	}
	if _, err := graph.Engine.Write(t.Context(), within, nil); err != nil {
		t.Fatal(err)
	}
	sub := authz.AgentID("sub").Object()
	tuple(t, graph.Engine, authz.Delete, authz.TypeTenant, "acme", "agent", sub)
	for _, beyond := range []string{"", "aaa", "tenant150a", "zzz"} {
		if beyond != "" {
			tuple(t, graph.Engine, authz.Touch, authz.TypeTenant, beyond, "agent", sub)
		}
		for what, do := range map[string]func(context.Context, authz.Object) (authz.Revision, error){
			"suspends": func(ctx context.Context, o authz.Object) (authz.Revision, error) {
				_, at, err := d.Suspend(ctx, o)
				return at, err
			},
			"resumes": func(ctx context.Context, o authz.Object) (authz.Revision, error) {
				_, at, err := d.Resume(ctx, o)
				return at, err
			},
		} {
			if _, err := do(t.Context(), sub); (beyond != "") != (authz.KindOf(err) == authz.Denied) || beyond == "" && err != nil {
				t.Errorf("beside %q it %s: %v", beyond, what, err)
			}
		}
		if beyond != "" {
			tuple(t, graph.Engine, authz.Delete, authz.TypeTenant, beyond, "agent", sub)
		}
	}
}

// TestUnboundedCallersPayNothing: what a caller that is bound to tenants costs in reads, one that is not bound does not.
func TestUnboundedCallersPayNothing(t *testing.T) {
	t.Parallel()
	d, _, graph := shared(t)
	own, _, err := d.Create(t.Context(), root())
	if err != nil {
		t.Fatal(err)
	}
	run, _, err := d.StartSession(t.Context(), delegate.Start{Agent: "bot", Targets: []delegate.Target{{Delegation: own.ID}}})
	if err != nil {
		t.Fatal(err)
	}
	reads := &counted{Graph: graph.Engine}
	d = delegate.New(reads, []byte("a key for tests of 32 bytes ...."), time.Hour, time.Now)
	for name, c := range map[string]struct {
		do              func(*delegate.Delegate) error
		unbound, ofAcme int64
	}{
		"Create":     {func(d *delegate.Delegate) error { _, _, err := d.Create(t.Context(), root()); return err }, 3, 6},
		"Delegation": {func(d *delegate.Delegate) error { _, _, err := d.Delegation(t.Context(), own.ID); return err }, 1, 1},
		"Agent":      {func(d *delegate.Delegate) error { _, _, err := d.Agent(t.Context(), "bot"); return err }, 1, 4},
		"Session":    {func(d *delegate.Delegate) error { _, _, err := d.Session(t.Context(), run.ID); return err }, 2, 2},
		"End":        {func(d *delegate.Delegate) error { _, err := d.End(t.Context(), run.ID); return err }, 1, 2},
		"Suspend":    {func(d *delegate.Delegate) error { _, _, err := d.Suspend(t.Context(), alice.Object); return err }, 0, 2},
		"Resume":     {func(d *delegate.Delegate) error { _, _, err := d.Resume(t.Context(), alice.Object); return err }, 0, 2},
		"StartSession": {func(d *delegate.Delegate) error {
			_, _, err := d.StartSession(t.Context(), delegate.Start{Agent: "bot", Targets: []delegate.Target{{Delegation: own.ID}}})
			return err
		}, 3, 6},
	} {
		for caller, want := range map[string]int64{"unbound": c.unbound, "of-acme": c.ofAcme} {
			within := authz.Unbounded()
			if caller == "of-acme" {
				within = ofAcme()
			}
			reads.reads.Store(0)
			if err := c.do(d.For(caller, within)); err != nil {
				t.Errorf("%s, %s: %v", name, caller, err)
			}
			if got := reads.reads.Load(); got != want {
				t.Errorf("%s, %s: %d objects are read, want %d", name, caller, got, want)
			}
		}
		if name == "Suspend" {
			if _, _, err := d.For("unbound", authz.Unbounded()).Resume(t.Context(), alice.Object); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestListsSpendTheirBudgetOnTheTenants: beside very many rows of another tenant a page of a confined caller ends after a bounded number
// of reads, and what is its own is found in the end.
func TestListsSpendTheirBudgetOnTheTenants(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	d, _, graph := shared(t)
	own, _, err := d.Create(t.Context(), root())
	if err != nil {
		t.Fatal(err)
	}
	var updates []authz.Update
	for i := range 900 {
		id := authz.DelegationID(fmt.Sprintf("%05d", i))
		for relation, subject := range map[string]authz.Object{"agent": authz.AgentID("bot").Object(), "tenant": authz.TenantID("globex").Object()} {
			updates = append(updates, authz.Update{Operation: authz.Touch, Relationship: authz.Relationship{
				Resource: id.Object(), Relation: relation, Subject: authz.Subject{Object: subject},
			}})
		}
	}
	for part := range 2 {
		if _, err := graph.Engine.Write(t.Context(), updates[part*900:(part+1)*900], nil); err != nil {
			t.Fatal(err)
		}
	}
	reads := &counted{Graph: graph.Engine}
	lists := delegate.New(reads, nil, time.Hour, time.Now).For("of-acme", ofAcme())
	lists.SetListReads(300)
	calls, found := 0, 0
	for place := (delegate.Place{}); ; calls++ {
		reads.reads.Store(0)
		l, err := lists.Delegations(t.Context(), delegate.Choice{By: authz.Subject{Object: authz.AgentID("bot").Object()}, Agent: "bot"}, place, 1)
		if err != nil {
			t.Fatal(err)
		}
		if n := reads.reads.Load(); n > 301 {
			t.Errorf("a page reads %d objects", n)
		}
		for _, one := range l.Items {
			if one.ID != own.ID {
				t.Errorf("it lists %+v", one)
			}
			found++
		}
		if l.Next == nil {
			break
		}
		if place = *l.Next; calls > 20 {
			t.Fatal("it does not end")
		}
	}
	if calls < 2 || found != 1 {
		t.Errorf("its own delegation is listed %d times in %d calls", found, calls+1)
	}
}

// TestSessionOfAnAgentOutside: a session whose agent lies outside does not exist, even where its leaf would.
func TestSessionOfAnAgentOutside(t *testing.T) {
	t.Parallel()
	d, _, graph := shared(t)
	own, _, err := d.Create(t.Context(), root())
	if err != nil {
		t.Fatal(err)
	}
	_, err = graph.Engine.Write(t.Context(), []authz.Update{
		{Operation: authz.Touch, Relationship: authz.Relationship{
			Resource: authz.SessionID("odd").Object(), Relation: "agent", Subject: authz.Subject{Object: authz.AgentID("sub").Object()}, Caveat: "issued",
		}},
		{Operation: authz.Touch, Relationship: authz.Relationship{
			Resource: authz.SessionID("odd").Object(), Relation: "delegation", Subject: authz.Subject{Object: own.ID.Object()}, Caveat: "leaf",
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Session(t.Context(), "odd"); err != nil {
		t.Errorf("to a caller without bounds: %v", err)
	}
	b := authz.Unbounded()
	b.Agents = authz.NamesOf("bot")
	if _, _, err := d.For("of-bot", b).Session(t.Context(), "odd"); authz.KindOf(err) != authz.NotFound {
		t.Errorf("to a caller of bot's: %v", err)
	}
}

// TestListsByWhatIsOutside: a list by what does not exist for the caller is empty and complete at once, however much others have of it.
func TestListsByWhatIsOutside(t *testing.T) {
	t.Parallel()
	d, _, graph := shared(t)
	spec := root()
	spec.Tenant, spec.Principal = "globex", authz.Subject{Object: user("mallory")}
	theirs, _, err := d.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, _, err := d.Create(t.Context(), delegate.Spec{Agent: "sub", Parent: theirs.ID, Unscoped: true}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := d.Create(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	b := ofAcme()
	b.Agents, b.Principals = authz.NamesOf("sub"), authz.NamesOf("service")
	lists := delegate.New(graph.Engine, nil, time.Hour, time.Now).For("bound", b)
	lists.SetListReads(1) // so that a page which looks at what others have is not complete
	globex := authz.TenantID("globex")
	for name, c := range map[string]delegate.Choice{
		"tenant":    {By: authz.Subject{Object: globex.Object()}, Tenant: globex},
		"agent":     {By: authz.Subject{Object: authz.AgentID("bot").Object()}, Agent: "bot"},
		"principal": {By: spec.Principal, AsPrincipal: true, Principal: spec.Principal},
		"set":       {By: authz.Subject{Object: globex.Object(), Relation: "member"}, AsPrincipal: true, Principal: authz.Subject{Object: globex.Object(), Relation: "member"}},
		"parent":    {By: authz.Subject{Object: theirs.ID.Object()}, Parent: theirs.ID},
	} {
		l, err := lists.Delegations(t.Context(), c, delegate.Place{}, 10)
		if err != nil || len(l.Items) > 0 || l.Next != nil || l.At.IsZero() {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
	l, err := lists.Sessions(t.Context(), "bot", true, delegate.Place{}, 10)
	if err != nil || l.Next != nil {
		t.Errorf("sessions: %+v, %v", l, err)
	}
}

// TestAgentsOfOthersAreNotWalked: a confined caller's list of agents is complete at once, however many agents others have.
func TestAgentsOfOthersAreNotWalked(t *testing.T) {
	t.Parallel()
	_, _, graph := shared(t)
	var updates []authz.Update
	for i := range 450 {
		id := authz.AgentID(fmt.Sprintf("%05d", i)).Object()
		for _, rel := range []authz.Relationship{
			{Resource: id, Relation: "active", Subject: authz.Subject{Object: id}, Caveat: "issued"},
			{Resource: authz.TenantID("globex").Object(), Relation: "agent", Subject: authz.Subject{Object: id}},
		} {
			updates = append(updates, authz.Update{Operation: authz.Touch, Relationship: rel})
		}
	}
	if _, err := graph.Engine.Write(t.Context(), updates, nil); err != nil {
		t.Fatal(err)
	}
	lists := delegate.New(graph.Engine, nil, time.Hour, time.Now).For("of-acme", ofAcme())
	lists.SetListReads(50)
	l, err := lists.Agents(t.Context(), delegate.Place{}, 10)
	if err != nil || len(l.Items) != 2 || l.Next != nil {
		t.Errorf("it lists %+v, %v", l, err)
	}
}

// TestPartOfASession: what a caller is told of a session that acts beyond its bounds is what it is told of one with its leaves alone: when
// it ends, whether it has, and whether it is among the live ones.
func TestPartOfASession(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: much work of one goroutine")
	}
	t.Parallel()
	d, _, graph := shared(t)
	start := time.Now()
	at := func(after time.Duration) *delegate.Delegate {
		clock := func() time.Time { return start.Add(after) }
		return delegate.New(graph.Engine, []byte("a key for tests of 32 bytes ...."), 10*time.Hour, clock)
	}
	target := func(of delegate.Spec, who authz.Object, tenant authz.TenantID, ttl time.Duration) delegate.Target {
		of.Principal.Object, of.Tenant, of.TTL = who, tenant, ttl
		made, _, err := at(0).For("service", authz.Unbounded()).Create(t.Context(), of)
		if err != nil {
			t.Fatal(err)
		}
		return delegate.Target{Delegation: made.ID}
	}
	for name, c := range map[string]struct {
		own    []time.Duration
		theirs time.Duration
		ttl    time.Duration
		frozen bool
	}{
		"theirs lasts longer":            {own: []time.Duration{time.Hour}, theirs: 5 * time.Hour, ttl: 3 * time.Hour},
		"theirs is over before":          {own: []time.Duration{5 * time.Hour}, theirs: time.Hour, ttl: 3 * time.Hour},
		"both last longer than it":       {own: []time.Duration{5 * time.Hour}, theirs: 6 * time.Hour, ttl: 3 * time.Hour},
		"both are over before it":        {own: []time.Duration{time.Hour}, theirs: 2 * time.Hour, ttl: 9 * time.Hour},
		"two of its own":                 {own: []time.Duration{time.Hour, 2 * time.Hour}, theirs: 5 * time.Hour, ttl: 9 * time.Hour},
		"frozen, theirs lasts longer":    {own: []time.Duration{time.Hour}, theirs: 5 * time.Hour, ttl: 3 * time.Hour, frozen: true},
		"frozen, both last longer":       {own: []time.Duration{5 * time.Hour}, theirs: 6 * time.Hour, ttl: 3 * time.Hour, frozen: true},
		"frozen, two of its own, longer": {own: []time.Duration{time.Hour, 2 * time.Hour}, theirs: 5 * time.Hour, ttl: 3 * time.Hour, frozen: true},
	} {
		var targets []delegate.Target
		for i, ttl := range c.own {
			targets = append(targets, target(root(), []authz.Object{alice.Object, user("carol")}[i], "acme", ttl))
		}
		begin := func(targets ...delegate.Target) authz.SessionID {
			s, _, err := at(0).For("service", authz.Unbounded()).StartSession(t.Context(),
				delegate.Start{Agent: "bot", Targets: targets, TTL: c.ttl, Frozen: c.frozen})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return s.ID
		}
		alone := begin(targets...)
		shared := begin(append(targets, target(root(), user("mallory"), "globex", c.theirs))...)
		for after := time.Duration(0); after < 10*time.Hour; after += 30 * time.Minute {
			of := at(after).For("of-acme", ofAcme())
			seen := func(id authz.SessionID) string {
				s, _, err := of.Session(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				list, err := of.Sessions(t.Context(), "bot", false, delegate.Place{}, 100)
				if err != nil {
					t.Fatal(err)
				}
				live := slices.ContainsFunc(list.Items, func(r delegate.Running) bool { return r.ID == id })
				return fmt.Sprintf("%+v, frozen %t, %d leaves, listed %t", s.Life, !s.Unfrozen, len(s.Leaves), live)
			}
			if got, want := seen(shared), seen(alone); got != want {
				t.Errorf("%s, after %s:\n%s\nand with its own part alone:\n%s", name, after, got, want)
			}
		}
		for _, id := range []authz.SessionID{alone, shared} {
			if _, err := d.End(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	}
}
