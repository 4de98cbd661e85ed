package decision_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestRevocationRacesChecks: while checks are under way, a delegation is revoked. No check that starts
// after the revocation was acknowledged allows, nor does one at the very revision of the revocation.
// More than 1,000 checks on each engine.
func TestRevocationRacesChecks(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		const rounds, checks = 10, 104
		var allowed, refused atomic.Int64
		for round := range rounds {
			d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
			c := under(d).view("document:plan")
			w.allow(c)
			// Unrelated writes keep the head revision moving, so that a shared look-up would show.
			noise, quiet := context.WithCancel(t.Context())
			var noisy sync.WaitGroup
			noisy.Go(func() {
				for i := 0; noise.Err() == nil; i++ {
					_, _ = harness.Update(noise, s.Admin, v1.RelationshipUpdate_OPERATION_TOUCH, fmt.Sprintf("document:n%d#tenant@tenant:acme", i%50))
				}
			})
			var revoked atomic.Bool
			var work sync.WaitGroup
			for range 8 {
				work.Go(func() {
					for range checks / 8 {
						after := revoked.Load()
						resp, err := w.Permissions().CheckPermission(t.Context(), c.CheckPermissionRequest)
						switch {
						case err != nil:
							t.Errorf("round %d: %v", round, err)
						case resp.GetPermissionship() == has && after:
							t.Errorf("round %d: allowed though the revocation had been acknowledged", round)
						case resp.GetPermissionship() == has:
							allowed.Add(1)
						default:
							refused.Add(1)
						}
					}
				})
			}
			acknowledged, err := w.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: d.GetDelegationId()})
			w.ok(err)
			revoked.Store(true)
			w.deny(c, byActor)
			w.deny(under(d).view("document:plan").at(acknowledged.GetWrittenAt()), byActor)
			work.Wait()
			quiet()
			noisy.Wait()
		}
		t.Logf("%d allowed before, %d refused", allowed.Load(), refused.Load())
		if refused.Load() == 0 {
			t.Error("no check came after a revocation, so nothing was tested")
		}
	})
}

// TestEveryBrakeIsSeenByTheNextCheck: whatever stops something is seen at once, and by a session that
// goes on with its last token.
func TestEveryBrakeIsSeenByTheNextCheck(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true})
		suspend := func(who string) func() error {
			return func() error {
				_, err := w.Principals().Suspend(t.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref(who)})
				return err
			}
		}
		resume := func(who string) func() error {
			return func() error {
				_, err := w.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(who)})
				return err
			}
		}
		for _, b := range []struct {
			name        string
			brake, undo func() error
		}{
			{"user", suspend("user:alice"), resume("user:alice")},
			{"tenant", suspend("tenant:acme"), resume("tenant:acme")},
			{"agent", func() error {
				_, err := w.Agents().SuspendAgent(t.Context(), &deputyv1.SuspendAgentRequest{AgentId: "bot"})
				return err
			}, func() error {
				_, err := w.Agents().ResumeAgent(t.Context(), &deputyv1.ResumeAgentRequest{AgentId: "bot"})
				return err
			}},
			{"session", nil, nil},
			{"delegation", func() error {
				_, err := w.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: d.GetDelegationId()})
				return err
			}, nil},
		} {
			t.Run(b.name, func(t *testing.T) {
				w := &world{t, s}
				run := w.start(target(d))
				if b.brake == nil {
					b.brake = func() error {
						_, err := w.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: run.GetSessionId()})
						return err
					}
				}
				c := inSession(run).view("document:plan")
				last := w.allow(c).GetCheckedAt()
				for range 2 { // stopping twice succeeds
					w.ok(b.brake())
				}
				w.deny(c, byActor)
				w.deny(c.after(last), byActor)
				if b.undo == nil {
					return
				}
				w.ok(b.undo())
				w.allow(inSession(run).view("document:plan"))
			})
		}
	})
}

// TestExactSnapshot: a group of checks sees one picture, but who may not act any more does not act in
// it either.
func TestExactSnapshot(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true})
		run := w.start(target(d))
		plan, both := inSession(run).view("document:plan"), func() check { return inSession(run).view("document:both") }
		at := w.allow(plan).GetCheckedAt()
		s.Delete(t, "document:both#reader@user:alice")
		w.deny(both(), byObject)
		resp := w.allow(both().at(at))
		if resp.GetCheckedAt().GetToken() != at.GetToken() {
			t.Error("an answer at a snapshot names another one")
		}
		items := []*deputyv1.CheckBulkPermissionsRequestItem{{
			AgentId: "bot", Via: &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: run.GetSessionId()},
			Resource: harness.Ref("document:both"), Permission: "view",
		}}
		bulk, err := w.Permissions().CheckBulkPermissions(t.Context(), &deputyv1.CheckBulkPermissionsRequest{Items: items, Consistency: both().at(at).GetConsistency()})
		w.ok(err)
		if bulk.GetPairs()[0].GetItem().GetPermissionship() != has {
			t.Errorf("bulk at the snapshot: %v", bulk)
		}
		// A permission granted later is not in the picture.
		s.Touch(t, "document:late#tenant@tenant:acme", "document:late#reader@user:alice", "document:late#reader@agent:bot")
		w.allow(inSession(run).view("document:late"))
		w.deny(inSession(run).view("document:late").at(at), byObject)
		// The actor is judged now as well.
		_, err = w.Principals().Suspend(t.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref("user:alice")})
		w.ok(err)
		w.deny(both().at(at), byActor)
		_, err = w.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref("user:alice")})
		w.ok(err)
		w.allow(both().at(at))
		_, err = w.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: run.GetSessionId()})
		w.ok(err)
		w.deny(both().at(at), byActor)
		// Nor does a snapshot from before it could act make an actor act.
		later := w.start(target(d))
		_, err = w.Permissions().CheckPermission(t.Context(), inSession(later).view("document:plan").at(at).CheckPermissionRequest)
		w.fails(err, codes.NotFound, "SESSION_NOT_FOUND", "")
	})
}

// TestSnapshotGrowsTooOld: a snapshot is refused once it is older than the limit, and asking at it does
// not make it younger.
func TestSnapshotGrowsTooOld(t *testing.T) {
	cfg := inMemory()
	cfg.SnapshotMaxAge = 2 * time.Second
	w := newWorld(t, harness.Start(t, cfg))
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	c := under(d).view("document:plan")
	at := w.allow(c).GetCheckedAt()
	started, answered := time.Now(), 0
	for {
		resp, err := w.Permissions().CheckPermission(t.Context(), c.at(at).CheckPermissionRequest)
		if err != nil {
			w.fails(err, codes.OutOfRange, "SNAPSHOT_TOO_OLD", "consistency.at_exact_snapshot")
			break
		}
		answered++
		at = resp.GetCheckedAt()
		if time.Since(started) > 30*time.Second {
			t.Fatal("a snapshot that is asked at stays young")
		}
	}
	if answered == 0 {
		t.Error("the snapshot was never answered at")
	}
}

// TestSessionReadsItsOwnWrites: what was written through any door is seen by the next check, at
// revisions that never go back.
func TestSessionReadsItsOwnWrites(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true})
		run := w.start(target(d))
		var last *deputyv1.ZedToken
		for i := range 20 {
			object := fmt.Sprintf("document:own%d", i)
			w.deny(inSession(run).view(object).after(last), byObject)
			s.Touch(t, object+"#tenant@tenant:acme", object+"#reader@user:alice", object+"#reader@agent:bot")
			resp := w.allow(inSession(run).view(object).after(last))
			last = resp.GetCheckedAt()
			s.Delete(t, object+"#reader@user:alice")
			w.deny(inSession(run).view(object).after(last), byObject)
		}
	})
}

// TestStaleAnswersAreOptIn: what is asked for as stale may be, and never lies before its bound.
func TestStaleAnswersAreOptIn(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		written := w.allow(under(d).view("document:plan")).GetCheckedAt()
		c := under(d).view("document:plan")
		c.Consistency = &deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtLeastAsFresh{AtLeastAsFresh: written}}
		w.allow(c)
		c.Consistency = &deputyv1.Consistency{Requirement: &deputyv1.Consistency_MinimizeLatency{MinimizeLatency: true}}
		w.allow(c.after(written))
		for field, bad := range map[string]*deputyv1.Consistency{
			"consistency":                  {},
			"consistency.fully_consistent": {Requirement: &deputyv1.Consistency_FullyConsistent{}},
			"consistency.minimize_latency": {Requirement: &deputyv1.Consistency_MinimizeLatency{}},
		} {
			c.Consistency = bad
			_, err := w.Permissions().CheckPermission(t.Context(), c.CheckPermissionRequest)
			w.fails(err, codes.InvalidArgument, "INVALID_FIELD", field)
		}
	})
}

// TestTwoBounds: beside a session's token, that of at_least_as_fresh is a bound too. An answer is at least as fresh as both, whichever is the later one,
// and a token of another history is refused in either place.
func TestTwoBounds(t *testing.T) {
	other := newWorld(t, harness.Start(t, inMemory()))
	foreign := other.allow(under(other.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})).view("document:plan")).GetCheckedAt()
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		ask := func(session, atLeast *deputyv1.ZedToken) check {
			c := under(d).view("document:plan").after(session)
			c.Consistency = &deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtLeastAsFresh{AtLeastAsFresh: atLeast}}
			return c
		}
		before := w.allow(under(d).view("document:plan")).GetCheckedAt()
		for range 10 {
			s.Delete(t, "document:plan#reader@user:alice")
			after := w.deny(under(d).view("document:plan"), byObject).GetCheckedAt()
			w.deny(ask(before, after), byObject)
			w.deny(ask(after, before), byObject)
			s.Touch(t, "document:plan#reader@user:alice")
			before = w.allow(under(d).view("document:plan")).GetCheckedAt()
			w.allow(ask(after, before))
			w.allow(ask(before, after))
		}
		if strings.HasSuffix(t.Name(), "remote") {
			return // SpiceDB alone can read the tokens there, and takes a foreign one for a wish for the head
		}
		for name, c := range map[string]check{
			"the session's": ask(foreign, before), "the other one": ask(before, foreign), "both": ask(foreign, foreign),
			"the only one": ask(nil, foreign), "the session's, alone": under(d).view("document:plan").after(foreign),
		} {
			_, err := w.Permissions().CheckPermission(t.Context(), c.CheckPermissionRequest)
			if status.Code(err) != codes.OutOfRange {
				t.Errorf("%s is of another history: %v, want OUT_OF_RANGE", name, err)
			}
		}
	})
}

// TestFrozenSessions: what is granted after the start does not count, what is taken away does, and a
// part that was passed on from it is bound to its baseline too.
func TestFrozenSessions(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true})
		frozen := w.startWith(&deputyv1.StartSessionRequest{Targets: []*deputyv1.SessionTarget{target(d)}, Frozen: true})
		if !frozen.GetFrozen() {
			t.Error("it does not say that it is frozen")
		}
		w.allow(inSession(frozen).view("document:plan"))
		s.Touch(t, "document:late#tenant@tenant:acme", "document:late#reader@user:alice", "document:late#reader@agent:bot", "document:late#reader@agent:sub", "document:plan#reader@agent:sub")
		free := w.start(target(d))
		w.allow(inSession(free).view("document:late"))
		w.deny(inSession(frozen).view("document:late"), byObject)
		if got := w.gates(inSession(frozen).view("document:late")); len(got) != 1 || got[0] != deputyv1.Gate_GATE_BASELINE {
			t.Errorf("refused by %v, want the baseline alone", got)
		}
		// Passed on: sub could read the plan only after the start, so that not even it gets through.
		part := w.delegate(&deputyv1.CreateDelegationRequest{
			AgentId: "sub", ParentDelegationId: frozen.GetLeaves()[0].GetDelegationId(), Unscoped: true, AllowDirect: true,
		})
		w.deny(under(part).view("document:late"), byObject)
		w.deny(under(part).view("document:plan"), byObject)
		fresh := w.startWith(&deputyv1.StartSessionRequest{Targets: []*deputyv1.SessionTarget{target(d)}, Frozen: true})
		scoped := w.delegate(&deputyv1.CreateDelegationRequest{
			AgentId: "sub", ParentDelegationId: fresh.GetLeaves()[0].GetDelegationId(), AllowDirect: true,
			Scope: []*deputyv1.ScopeGrant{{Resource: harness.Ref("document:plan"), Relation: "reader"}},
		})
		w.allow(under(scoped).view("document:plan"))
		w.deny(under(scoped).view("document:late"), byObject)
		// It ends with the session that it was passed on from.
		_, err := w.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: fresh.GetSessionId()})
		w.ok(err)
		w.deny(under(scoped).view("document:plan"), byActor)
		// What is taken away is gone at once.
		s.Delete(t, "document:plan#reader@user:alice")
		w.deny(inSession(frozen).view("document:plan"), byObject)
		// A task scope of a frozen session holds at its own baseline.
		tasked := w.startWith(&deputyv1.StartSessionRequest{Frozen: true, Targets: []*deputyv1.SessionTarget{{
			DelegationId: d.GetDelegationId(), Scope: []*deputyv1.ScopeGrant{{Resource: harness.Ref("document:both"), Relation: "reader"}},
		}}})
		w.allow(inSession(tasked).view("document:both"))
		w.deny(inSession(tasked).view("document:late"), byObject)
	})
}

// TestFrozenSessionsEndWithinRetention: a session whose start would be forgotten does not start, and is
// not renewed.
func TestFrozenSessionsEndWithinRetention(t *testing.T) {
	cfg := inMemory()
	cfg.Engine.Retention = 2 * time.Hour
	w := newWorld(t, harness.Start(t, cfg))
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, Ttl: durationpb.New(24 * time.Hour)})
	_, err := w.Sessions().StartSession(t.Context(), &deputyv1.StartSessionRequest{
		AgentId: "bot", Targets: []*deputyv1.SessionTarget{target(d)}, Frozen: true, Ttl: durationpb.New(3 * time.Hour),
	})
	w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "ttl")
	run := w.startWith(&deputyv1.StartSessionRequest{Targets: []*deputyv1.SessionTarget{target(d)}, Frozen: true})
	_, err = w.Sessions().RenewSession(t.Context(), &deputyv1.RenewSessionRequest{SessionId: run.GetSessionId(), Ttl: durationpb.New(2 * time.Hour)})
	w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "ttl")
	renewed, err := w.Sessions().RenewSession(t.Context(), &deputyv1.RenewSessionRequest{SessionId: run.GetSessionId(), Ttl: durationpb.New(90 * time.Minute)})
	w.ok(err)
	if !renewed.GetSession().GetExpiresAt().AsTime().After(run.GetExpiresAt().AsTime()) {
		t.Error("renewing did not move the end")
	}
}

// TestEngineThatDoesNotAnswer: the caller gets UNAVAILABLE before its own deadline, and never an allow.
func TestEngineThatDoesNotAnswer(t *testing.T) {
	remote := harness.Remote(t)
	stall := harness.Between(t, &remote)
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: remote}))
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	c := under(d).view("document:plan")
	w.allow(c)
	stall.Hold()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := w.Permissions().CheckPermission(ctx, c.CheckPermissionRequest)
	if ctx.Err() != nil {
		t.Error("the answer came after the caller's deadline")
	}
	w.fails(err, codes.Unavailable, "ENGINE_UNAVAILABLE", "")
	if strings.Contains(err.Error(), "write") {
		t.Errorf("a check, which writes nothing, speaks of a write: %v", err)
	}
	_, err = w.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: d.GetDelegationId()})
	if err == nil {
		t.Error("a revocation that did not happen was acknowledged")
	} else if !strings.Contains(err.Error(), "Whether a write was made is not known") {
		t.Errorf("a revocation that may have happened does not say so: %v", err)
	}
	stall.Release()
	w.allow(c)
	stall.Cut()
	_, err = w.Permissions().CheckPermission(t.Context(), c.CheckPermissionRequest)
	w.fails(err, codes.Unavailable, "ENGINE_UNAVAILABLE", "")
	if strings.Contains(err.Error(), "write") {
		t.Errorf("a check, which writes nothing, speaks of a write: %v", err)
	}
}

// TestDrain: a server that is told to stop finishes the calls under way and takes no new ones.
func TestDrain(t *testing.T) {
	s := harness.Start(t, inMemory())
	w := newWorld(t, s)
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	c := under(d).view("document:plan")
	var work sync.WaitGroup
	begun := make(chan struct{}, 64)
	for range 8 {
		work.Go(func() {
			for {
				resp, err := w.Permissions().CheckPermission(t.Context(), c.CheckPermissionRequest)
				if err != nil {
					if statusOf(err) != codes.Unavailable {
						t.Errorf("while draining: %v", err)
					}
					return
				}
				if resp.GetPermissionship() != has {
					t.Errorf("while draining: %v", resp)
				}
				select {
				case begun <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 32 {
		<-begun
	}
	s.Stop()
	select {
	case <-s.Stopped:
	case <-time.After(30 * time.Second):
		t.Fatal("the server does not stop")
	}
	work.Wait()
	if _, err := w.Permissions().CheckPermission(t.Context(), c.CheckPermissionRequest); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a stopped server answers: %v", err)
	}
}
