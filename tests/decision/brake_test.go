package decision_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// What a brake stops, in requests.

func brakeAgent(id string) *deputyv1.BrakeRequest {
	return &deputyv1.BrakeRequest{Target: &deputyv1.BrakeRequest_AgentId{AgentId: id}, Reason: "a test"}
}

func brakePrincipal(who string) *deputyv1.BrakeRequest {
	return &deputyv1.BrakeRequest{Target: &deputyv1.BrakeRequest_Principal{Principal: harness.Ref(who)}, Reason: "a test"}
}

func brakeTenant(id string) *deputyv1.BrakeRequest {
	return &deputyv1.BrakeRequest{Target: &deputyv1.BrakeRequest_TenantId{TenantId: id}, Reason: "a test"}
}

func brakeSession(s *deputyv1.Session) *deputyv1.BrakeRequest {
	return &deputyv1.BrakeRequest{Target: &deputyv1.BrakeRequest_SessionId{SessionId: s.GetSessionId()}, Reason: "a test"}
}

func brakeDelegation(d *deputyv1.Delegation) *deputyv1.BrakeRequest {
	return &deputyv1.BrakeRequest{Target: &deputyv1.BrakeRequest_DelegationId{DelegationId: d.GetDelegationId()}, Reason: "a test"}
}

// brakes are a server's brakes, of an admin.
func (w *world) brakes() deputyv1.BrakeServiceClient { return deputyv1.NewBrakeServiceClient(w.Admin) }

// braked applies a brake until it is complete, and returns the first answer with what all came to.
func (w *world) braked(r *deputyv1.BrakeRequest) *deputyv1.BrakeResponse {
	w.Helper()
	out, err := w.brakes().Brake(w.Context(), r)
	w.ok(err)
	if out.GetWrittenAt() == nil || out.GetComplete() != (out.GetNext() == nil) || out.GetWouldStop() != nil {
		w.Errorf("a brake answers %v", out)
	}
	r = proto.CloneOf(r)
	for next := out; !next.GetComplete(); {
		r.Cursor = next.GetNext()
		next, err = w.brakes().Brake(w.Context(), r)
		w.ok(err)
		out.SessionsEnded += next.GetSessionsEnded()
		out.DelegationsRevoked += next.GetDelegationsRevoked()
	}
	return out
}

// wouldStop asks what a brake would stop, and sees that it changes nothing.
func (w *world) wouldStop(r *deputyv1.BrakeRequest) *deputyv1.BrakeReach {
	w.Helper()
	r = proto.CloneOf(r)
	r.DryRun = true
	out, err := w.brakes().Brake(w.Context(), r)
	w.ok(err)
	if out.GetWrittenAt() != nil || out.GetSessionsEnded()+out.GetDelegationsRevoked() != 0 {
		w.Errorf("a dry run answers %v", out)
	}
	return out.GetWouldStop()
}

// runaway is bot at work in acme: directly for alice, in a session for alice and bob, and through sub, to which it passed a part on.
type runaway struct {
	*world

	// alices and all are delegations to bot, from alice, and from carol for all members; passed is what bot passed on to sub.
	alices, all, passed *deputyv1.Delegation
	// shared is a session of bot's for alice and bob, and subs one of sub's for alice.
	shared, subs *deputyv1.Session
}

// newRunaway puts bot to work in a world.
func newRunaway(w *world) *runaway {
	w.Helper()
	r := &runaway{world: w}
	r.Touch(w.T, "document:plan#reader@agent:sub")
	r.alices = r.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	r.all = r.delegate(&deputyv1.CreateDelegationRequest{Principal: subject("tenant:acme#member"), GrantedBy: harness.Ref("user:carol"), Unscoped: true})
	r.passed = r.delegate(&deputyv1.CreateDelegationRequest{AgentId: "sub", ParentDelegationId: r.alices.GetDelegationId(), Unscoped: true, AllowDirect: true})
	r.shared = r.start(target(r.all, "user:alice", "user:bob"))
	r.subs = r.startWith(&deputyv1.StartSessionRequest{AgentId: "sub", Targets: []*deputyv1.SessionTarget{target(r.passed)}})
	return r
}

// The six ways in which something acts.
func (r *runaway) direct() check { return under(r.alices).view("document:plan") }
func (r *runaway) forAlice() check {
	return inSession(r.shared).actingFor("user:alice").view("document:plan")
}
func (r *runaway) forBob() check {
	return inSession(r.shared).actingFor("user:bob").view("document:bobs")
}
func (r *runaway) bySub() check   { return under(r.passed).view("document:plan") }
func (r *runaway) subsRun() check { return inSession(r.subs).view("document:plan") }
func (r *runaway) ways() []check {
	return []check{r.direct(), r.forAlice(), r.forBob(), r.bySub(), r.subsRun()}
}
func (r *runaway) allows() []string { return r.allowed(r.ways()...) }

// allowed returns which of the ways are allowed: their places.
func (r *runaway) allowed(ways ...check) []string {
	r.Helper()
	var out []string
	for i, c := range ways {
		if r.decide(c).GetPermissionship() == has {
			out = append(out, []string{"direct", "alice", "bob", "sub", "subs"}[i])
		}
	}
	return out
}

// resume resumes what a brake suspended.
func (r *runaway) resume(name string) {
	r.Helper()
	kind, id, _ := strings.Cut(name, ":")
	if kind == "agent" {
		_, err := r.Agents().ResumeAgent(r.Context(), &deputyv1.ResumeAgentRequest{AgentId: id})
		r.ok(err)
		return
	}
	_, err := r.Principals().Resume(r.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(name)})
	r.ok(err)
}

// TestBrake: a brake stops what it names and all below it; a dry run says the same before, and changes nothing; what is resumed begins anew,
// with what people granted, and nothing of what was begun before goes on.
func TestBrake(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		newWorld(t, s)
		everything := []string{"direct", "alice", "bob", "sub", "subs"}
		for name, c := range map[string]struct {
			brake func(*runaway) *deputyv1.BrakeRequest
			// resume is what lets it go again; then again is allowed, and until then left is.
			resume      string
			left, again []string
			// reach is what a dry run counts: agents, sessions, delegations.
			reach [3]uint64
			// ended and revoked are what the brake counts.
			ended, revoked uint64
		}{
			"an agent": {
				brake: func(*runaway) *deputyv1.BrakeRequest { return brakeAgent("bot") }, resume: "agent:bot",
				again: []string{"direct"}, reach: [3]uint64{2, 2, 3}, ended: 1, revoked: 1,
			},
			"the agent below": {
				brake: func(*runaway) *deputyv1.BrakeRequest { return brakeAgent("sub") }, resume: "agent:sub",
				left: []string{"direct", "alice", "bob"}, again: []string{"direct", "alice", "bob", "sub"}, reach: [3]uint64{1, 1, 1}, ended: 1,
			},
			"a principal": {
				brake: func(*runaway) *deputyv1.BrakeRequest { return brakePrincipal("user:alice") }, resume: "user:alice",
				left: []string{"bob"}, again: []string{"direct", "bob"}, reach: [3]uint64{2, 2, 2}, ended: 1, revoked: 2,
			},
			"a tenant": {
				brake: func(*runaway) *deputyv1.BrakeRequest { return brakeTenant("acme") }, resume: "tenant:acme",
				again: []string{"direct"}, reach: [3]uint64{2, 2, 3}, ended: 2, revoked: 1,
			},
			"a session": {
				brake: func(r *runaway) *deputyv1.BrakeRequest { return brakeSession(r.shared) },
				left:  []string{"direct", "sub", "subs"}, reach: [3]uint64{1, 1, 0}, ended: 1,
			},
			"a delegation": {
				brake: func(r *runaway) *deputyv1.BrakeRequest { return brakeDelegation(r.alices) },
				left:  []string{"alice", "bob"}, reach: [3]uint64{2, 1, 2}, revoked: 1,
			},
		} {
			t.Run(name, func(t *testing.T) {
				r := newRunaway(&world{t, s})
				defer r.clear()
				if got := r.allows(); !slices.Equal(got, everything) {
					t.Fatalf("at first %v act", got)
				}
				request := c.brake(r)
				would := r.wouldStop(request)
				if got := [3]uint64{would.GetAgents(), would.GetSessions(), would.GetDelegations()}; got != c.reach || !would.GetComplete() ||
					len(would.GetAgentIds()) != int(c.reach[0]) || len(would.GetFirstSessions()) != int(c.reach[1]) ||
					len(would.GetFirstDelegations()) != int(c.reach[2]) {
					t.Errorf("it would stop %v, want %v", would, c.reach)
				}
				if got := r.allows(); !slices.Equal(got, everything) {
					t.Errorf("after a dry run %v act", got)
				}
				by := r.braked(request)
				if by.GetSessionsEnded() != c.ended || by.GetDelegationsRevoked() != c.revoked || by.GetUnnamed() {
					t.Errorf("it ended %d sessions, and revoked %d delegations: %v", by.GetSessionsEnded(), by.GetDelegationsRevoked(), by)
				}
				if got := r.allows(); !slices.Equal(got, c.left) {
					t.Errorf("after the brake %v act, want %v", got, c.left)
				}
				again := r.braked(request)
				if again.GetSessionsEnded()+again.GetDelegationsRevoked() != 0 {
					t.Errorf("the second brake stops %v", again)
				}
				if c.resume == "" {
					return
				}
				r.resume(c.resume)
				if got := r.allows(); !slices.Equal(got, c.again) {
					t.Errorf("after %s is resumed %v act, want %v", c.resume, got, c.again)
				}
			})
		}
	})
}

// clear ends what is left, so that the next case counts its own.
func (r *runaway) clear() {
	for _, s := range []*deputyv1.Session{r.shared, r.subs} {
		_, err := r.Sessions().EndSession(r.Context(), &deputyv1.EndSessionRequest{SessionId: s.GetSessionId()})
		r.ok(err)
	}
	for _, d := range []*deputyv1.Delegation{r.alices, r.all, r.passed} {
		_, err := r.Delegations().RevokeDelegation(r.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: d.GetDelegationId()})
		r.ok(err)
	}
}

// TestSuspendedPassesNothingOn: nothing is passed on by an agent that is suspended, for a principal that is, or in a tenant that is: it would be
// live once that is resumed.
func TestSuspendedPassesNothingOn(t *testing.T) {
	r := newRunaway(newWorld(t, harness.Start(t, inMemory())))
	for _, name := range []string{"agent:bot", "user:alice", "tenant:acme"} {
		request := brakeAgent("bot")
		if kind, id, _ := strings.Cut(name, ":"); kind == "user" {
			request = brakePrincipal(name)
		} else if kind == "tenant" {
			request = brakeTenant(id)
		}
		r.braked(request)
		_, err := r.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
			AgentId: "sub", ParentDelegationId: r.alices.GetDelegationId(), Unscoped: true, AllowDirect: true,
		})
		r.fails(err, codes.FailedPrecondition, "NOT_ACTIVE", "")
		r.resume(name)
		r.delegate(&deputyv1.CreateDelegationRequest{AgentId: "sub", ParentDelegationId: r.alices.GetDelegationId(), Unscoped: true, AllowDirect: true})
	}
}

// TestBrakeInput: a brake names one thing that can be, and a reason; the other calls that narrow take a reason.
func TestBrakeInput(t *testing.T) {
	w := newWorld(t, harness.Start(t, inMemory()))
	change := func(r *deputyv1.BrakeRequest, to func(*deputyv1.BrakeRequest)) *deputyv1.BrakeRequest {
		to(r)
		return r
	}
	for _, c := range []struct {
		r     *deputyv1.BrakeRequest
		field string
	}{
		{&deputyv1.BrakeRequest{Reason: "why"}, "target"},
		{brakeAgent(""), "agent_id"},
		{brakeTenant("*"), "tenant_id"},
		{brakePrincipal(""), "principal.object_type"},
		{brakePrincipal("tenant:acme"), "principal.object_type"},
		{brakeSession(&deputyv1.Session{SessionId: "a b"}), "session_id"},
		{brakeDelegation(&deputyv1.Delegation{}), "delegation_id"},
		{change(brakeAgent("bot"), func(r *deputyv1.BrakeRequest) { r.Reason = "" }), "reason"},
		{change(brakeAgent("bot"), func(r *deputyv1.BrakeRequest) { r.Reason = strings.Repeat("x", 513) }), "reason"},
		{change(brakeAgent("bot"), func(r *deputyv1.BrakeRequest) { r.Reason = "two\nlines" }), "reason"},
		{change(brakeAgent("bot"), func(r *deputyv1.BrakeRequest) { r.Reason = "a\u202etrick" }), "reason"},
	} {
		_, err := w.brakes().Brake(t.Context(), c.r)
		w.fails(err, codes.InvalidArgument, "INVALID_FIELD", c.field)
	}
	_, err := w.brakes().Brake(t.Context(), change(brakeAgent("bot"), func(r *deputyv1.BrakeRequest) { r.Cursor = &deputyv1.Cursor{Token: "x"} }))
	w.fails(err, codes.InvalidArgument, "INVALID_TOKEN", "cursor")
	_, err = w.brakes().Brake(t.Context(), change(brakeAgent("bot"), func(r *deputyv1.BrakeRequest) { r.DryRun, r.Cursor = true, &deputyv1.Cursor{Token: "x"} }))
	w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "cursor")
	_, err = w.brakes().Brake(t.Context(), brakeSession(&deputyv1.Session{SessionId: "00"}))
	w.fails(err, codes.NotFound, "SESSION_NOT_FOUND", "")
	_, err = w.brakes().Brake(t.Context(), brakeDelegation(&deputyv1.Delegation{DelegationId: "00"}))
	w.fails(err, codes.NotFound, "DELEGATION_NOT_FOUND", "")
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	run := w.start(target(d))
	calls := func(reason string) []error {
		_, agent := w.Agents().SuspendAgent(t.Context(), &deputyv1.SuspendAgentRequest{AgentId: "bot", Reason: reason})
		_, principal := w.Principals().Suspend(t.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref("user:alice"), Reason: reason})
		_, session := w.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: run.GetSessionId(), Reason: reason})
		_, delegation := w.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: d.GetDelegationId(), Reason: reason})
		return []error{agent, principal, session, delegation}
	}
	for _, err := range calls("two\nlines") {
		w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "reason")
	}
	w.allow(inSession(run).view("document:plan"))
	for _, err := range calls("said") {
		w.ok(err)
	}
	if out := w.braked(brakeAgent("nobody-knows")); !out.GetUnnamed() {
		t.Errorf("a brake of an id that nothing names answers %v", out)
	}
}

// TestBrakePages: a brake of what has more below it than one page of the engine's goes through all of it, and ends each thing once.
func TestBrakePages(t *testing.T) {
	w := newWorld(t, harness.Start(t, inMemory()))
	const runs = 450
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true})
	var sessions []*deputyv1.Session
	for range runs {
		sessions = append(sessions, w.start(target(d)))
	}
	_, err := w.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: sessions[0].GetSessionId()})
	w.ok(err)
	would := w.wouldStop(brakeAgent("bot"))
	// On a busy machine it ends before it has seen all, and says so.
	n, of := would.GetSessions(), would.GetDelegations()
	if n > runs-1 || of > 1 || would.GetComplete() && (n != runs-1 || of != 1) || len(would.GetFirstSessions()) != 20 {
		t.Errorf("it would stop %d sessions and %d delegations, and shows %d", would.GetSessions(), would.GetDelegations(), len(would.GetFirstSessions()))
	}
	if by := w.braked(brakeAgent("bot")); by.GetSessionsEnded() != runs-1 || by.GetDelegationsRevoked() != 0 {
		t.Errorf("the brake ended %v", by)
	}
	w.resumeAgent("bot")
	left, err := w.Sessions().ListSessions(t.Context(), &deputyv1.ListSessionsRequest{AgentId: "bot"})
	if err != nil || len(left.GetSessions()) != 0 {
		t.Errorf("%d sessions are left: %v", len(left.GetSessions()), err)
	}
	w.deny(inSession(sessions[runs-1]).view("document:plan"), byActor)
	if fmt.Sprint(w.start(target(d)).GetState()) == "" {
		t.Error("no other session starts")
	}
}

func (w *world) resumeAgent(id string) {
	w.Helper()
	_, err := w.Agents().ResumeAgent(w.Context(), &deputyv1.ResumeAgentRequest{AgentId: id})
	w.ok(err)
}

// TestConfinedBrake: what reaches into a tenant outside is not braked by a caller with bounds, and a dry run says so; of a session it stops the
// caller's part, and nothing else.
func TestConfinedBrake(t *testing.T) {
	t.Parallel()
	eachConfined(t, func(c *confined) {
		brakes := deputyv1.NewBrakeServiceClient(c.responder)
		before := c.everything()
		for _, request := range []*deputyv1.BrakeRequest{brakeAgent("bot"), brakePrincipal("user:dave")} {
			for _, dry := range []bool{true, false} {
				request.DryRun = dry
				_, err := brakes.Brake(t.Context(), request)
				c.fails(err, codes.PermissionDenied, authz.ReasonOutOfBounds, "")
			}
		}
		if !slices.Equal(before, c.everything()) {
			t.Error("a brake that is refused has written")
		}
		both := c.start(target(c.direct), target(c.theirs))
		ours := inSession(both).actingFor("user:alice").in("acme").view("document:plan")
		c.allow(ours)
		request := brakeSession(both)
		request.DryRun = true
		would, err := brakes.Brake(t.Context(), request)
		c.ok(err)
		if reach := would.GetWouldStop(); reach.GetSessions() != 1 || len(reach.GetFirstSessions()) != 1 || len(reach.GetFirstSessions()[0].GetLeaves()) != 1 {
			t.Errorf("it would stop %v", reach)
		}
		c.allow(ours)
		_, err = brakes.Brake(t.Context(), brakeSession(both))
		c.ok(err)
		c.deny(ours, byActor)
		for _, leaf := range both.GetLeaves() {
			got, err := c.Delegations().GetDelegation(t.Context(), &deputyv1.GetDelegationRequest{DelegationId: leaf.GetDelegationId()})
			c.ok(err)
			if revoked := got.GetDelegation().GetState() == deputyv1.LifecycleState_LIFECYCLE_STATE_STOPPED; revoked != (leaf.GetTenantId() == "acme") {
				t.Errorf("the part in %s is %s", leaf.GetTenantId(), got.GetDelegation().GetState())
			}
		}
		run, err := c.Sessions().GetSession(t.Context(), &deputyv1.GetSessionRequest{SessionId: both.GetSessionId()})
		c.ok(err)
		if run.GetSession().GetState() != deputyv1.LifecycleState_LIFECYCLE_STATE_ACTIVE {
			t.Errorf("the session is %s", run.GetSession().GetState())
		}
	})
}
