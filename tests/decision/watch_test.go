package decision_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// watchEvery is the shortest interval that a watch can have.
const watchEvery = 250 * time.Millisecond

// watching is a watch that has begun.
type watching struct {
	w      *world
	first  *deputyv1.CheckPermissionResponse
	stream grpc.ServerStreamingClient[deputyv1.WatchPermissionResponse]
}

// watch begins a watch, which lasts until the test ends.
func (w *world) watch(c check) *watching {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	w.Cleanup(cancel)
	stream, err := w.Permissions().WatchPermission(ctx, &deputyv1.WatchPermissionRequest{
		Check: c.CheckPermissionRequest, Interval: durationpb.New(watchEvery), Heartbeat: durationpb.New(time.Second),
	})
	w.ok(err)
	first, err := stream.Recv()
	w.ok(err)
	if first.GetDecision() == nil {
		w.Fatalf("a watch begins with %v", first)
	}
	return &watching{w, first.GetDecision(), stream}
}

// next waits for a heartbeat, which is nil, or for the end.
func (g *watching) next() *deputyv1.CheckPermissionResponse {
	g.w.Helper()
	got, err := g.stream.Recv()
	if err != nil {
		g.w.Fatalf("instead of a message: %v", err)
	}
	if got.GetEnded() == nil && got.GetHolds() == nil {
		g.w.Fatalf("the next message is %v", got)
	}
	return got.GetEnded()
}

// ends waits for the end, and for that of the stream.
func (g *watching) ends() *deputyv1.CheckPermissionResponse {
	g.w.Helper()
	for {
		ended := g.next()
		if ended == nil {
			continue
		}
		if more, err := g.stream.Recv(); !errors.Is(err, io.EOF) {
			g.w.Errorf("behind the end come %v, %v", more, err)
		}
		return ended
	}
}

// TestWatchEnds: whatever ends a permission, its watch ends within an interval, by the decision that a check comes to from then on, and not before.
func TestWatchEnds(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		suspend := func(who string) func() {
			return func() {
				_, err := s.Principals().Suspend(t.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref(who)})
				w.ok(err)
			}
		}
		resume := func(who string) func() {
			return func() {
				_, err := s.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(who)})
				w.ok(err)
			}
		}
		direct := func() *deputyv1.Delegation {
			return w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		}
		plan := func(c check) check { return c.actingFor("user:alice").in("acme").view("document:plan") }
		var made *deputyv1.Delegation
		var session *deputyv1.Session
		var soon time.Time
		for _, story := range []struct {
			name string
			// begin returns what is watched; end ends it, and undo makes the world what it was.
			begin     func() check
			end, undo func()
			side      deputyv1.RefusedBy
		}{
			{
				"the delegation is revoked",
				func() check { made = direct(); return plan(under(made)) },
				func() {
					_, err := s.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: made.GetDelegationId()})
					w.ok(err)
				},
				nil, byActor,
			},
			{
				"the only delegation of an agent that names none is revoked",
				func() check {
					made = w.delegate(&deputyv1.CreateDelegationRequest{AgentId: "sub", Unscoped: true, AllowDirect: true})
					s.Touch(t, "document:plan#reader@agent:sub")
					return plan(asAgent("sub"))
				},
				func() {
					_, err := s.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: made.GetDelegationId()})
					w.ok(err)
				},
				nil, byActor,
			},
			{
				"the session is ended",
				func() check { session = w.start(target(direct())); return plan(inSession(session)) },
				func() {
					_, err := s.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: session.GetSessionId()})
					w.ok(err)
				},
				nil, byActor,
			},
			{
				"the delegation of a frozen session is revoked",
				func() check {
					made = direct()
					return plan(inSession(w.startWith(&deputyv1.StartSessionRequest{Targets: []*deputyv1.SessionTarget{target(made)}, Frozen: true})))
				},
				func() {
					_, err := s.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: made.GetDelegationId()})
					w.ok(err)
				},
				nil, byActor,
			},
			{
				"the agent is suspended",
				func() check { return plan(under(direct())) },
				func() {
					_, err := s.Agents().SuspendAgent(t.Context(), &deputyv1.SuspendAgentRequest{AgentId: "bot"})
					w.ok(err)
				},
				func() {
					_, err := s.Agents().ResumeAgent(t.Context(), &deputyv1.ResumeAgentRequest{AgentId: "bot"})
					w.ok(err)
				}, byActor,
			},
			{"the principal is suspended", func() check { return plan(under(direct())) }, suspend("user:alice"), resume("user:alice"), byActor},
			{"the tenant is suspended", func() check { return plan(under(direct())) }, suspend("tenant:acme"), resume("tenant:acme"), byActor},
			{
				"a relationship is removed",
				func() check { return plan(under(direct())) },
				func() { s.Delete(t, "document:plan#reader@user:alice") },
				func() { s.Touch(t, "document:plan#reader@user:alice") }, byObject,
			},
			{
				"a relationship gets a condition",
				func() check { return plan(under(direct())) },
				func() {
					s.Touch(t, "document:plan#by_day@user:alice[office_hours]")
					s.Delete(t, "document:plan#reader@user:alice")
				},
				func() {
					s.Touch(t, "document:plan#reader@user:alice")
					s.Delete(t, "document:plan#by_day@user:alice")
				}, deputyv1.RefusedBy_REFUSED_BY_UNSPECIFIED,
			},
			{
				"the schema changes",
				func() check { return plan(under(direct())) },
				func() {
					s.WriteSchema(t, schema.Core+strings.Replace(domain, "permission view = reader + by_day", "permission view = by_day", 1))
				},
				func() { s.WriteSchema(t, schema.Core+domain) }, byObject,
			},
			{
				"the delegation expires",
				func() check {
					made = w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true, Ttl: durationpb.New(2 * time.Second)})
					return plan(under(made))
				},
				func() { soon = made.GetExpiresAt().AsTime() },
				nil, byActor,
			},
			{
				"a membership expires that nothing tells of",
				func() check {
					soon = time.Now().Add(2 * time.Second)
					s.Touch(t, "tenant:acme#member@user:alice[expiration:"+soon.UTC().Format(time.RFC3339Nano)+"]")
					return plan(under(direct()))
				},
				func() {},
				func() { s.Touch(t, "tenant:acme#member@user:alice") }, byActor,
			},
		} {
			soon = time.Time{}
			c := story.begin()
			if story.name == "the delegation expires" {
				soon = made.GetExpiresAt().AsTime()
			}
			g := w.watch(c)
			if g.first.GetPermissionship() != has {
				t.Errorf("%s: the watch begins with %v\n%s", story.name, g.first, w.why(c))
				continue
			}
			if soon.IsZero() && g.next() != nil {
				t.Errorf("%s: the watch ended before", story.name)
			}
			story.end()
			from := soon
			if soon.IsZero() {
				from = time.Now()
			}
			ended := g.ends()
			took := time.Since(from)
			t.Logf("%s: told after %v", story.name, took.Round(time.Millisecond))
			// The bound itself is measured in tests/load. Here the machine may be slow.
			if took > watchEvery+3*time.Second || took < -100*time.Millisecond {
				t.Errorf("%s: told %v after it happened", story.name, took)
			}
			if ended.GetPermissionship() == has || ended.GetRefusedBy() != story.side {
				t.Errorf("%s: ended by %v, want %s", story.name, ended, story.side)
			}
			again := w.decide(c)
			if again.GetPermissionship() != ended.GetPermissionship() || again.GetRefusedBy() != ended.GetRefusedBy() {
				t.Errorf("%s: a check answers %v, and the watch ended by %v", story.name, again, ended)
			}
			if ended.GetDecisionId() == "" || ended.GetDecisionId() == g.first.GetDecisionId() || ended.GetCheckedAt().GetToken() == "" {
				t.Errorf("%s: ended by %v, after %v", story.name, ended, g.first)
			}
			if story.undo != nil {
				story.undo()
			}
		}
	})
}

// TestWatchGoesOn: a watch goes on while the permission holds, whatever else is written, and says so. A session that is renewed moves its end.
func TestWatchGoesOn(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		session := w.startWith(&deputyv1.StartSessionRequest{
			Targets: []*deputyv1.SessionTarget{target(w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true}))}, Ttl: durationpb.New(2 * time.Second),
		})
		g := w.watch(inSession(session).view("document:plan"))
		renewed, err := s.Sessions().RenewSession(t.Context(), &deputyv1.RenewSessionRequest{SessionId: session.GetSessionId(), Ttl: durationpb.New(4 * time.Second)})
		w.ok(err)
		end := renewed.GetSession().GetExpiresAt().AsTime()
		if !end.After(g.first.GetValidUntil().AsTime()) {
			t.Fatalf("the session ends at %v, and ended at %v before", end, g.first.GetValidUntil().AsTime())
		}
		for i := 0; time.Now().Before(end.Add(-time.Second)); i++ {
			s.Touch(t, "document:bobs#reader@agent:sub")
			if ended := g.next(); ended != nil {
				t.Fatalf("the watch ended by %v, %v before the session's end", ended, time.Until(end))
			}
			s.Delete(t, "document:bobs#reader@agent:sub")
		}
		g.ends()
		if time.Now().Before(end) {
			t.Errorf("the watch ended %v before the session", time.Until(end))
		}
	})
}

// refusing is a graph that gives no answer now and then, and tells of each that it does not give.
type refusing struct {
	authz.Graph
	now     atomic.Bool
	refused chan struct{}
}

func (r *refusing) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	if !r.now.Load() {
		return r.Graph.Snapshot(ctx, f)
	}
	select {
	case r.refused <- struct{}{}:
	default:
	}
	return nil, context.DeadlineExceeded
}

// TestWatchWithoutAnAnswer: where the engine gives no answer for a moment, a watch goes on; where it gives none for longer, the watch ends with a status.
func TestWatchWithoutAnAnswer(t *testing.T) {
	remote := harness.Remote(t)
	wire := harness.Between(t, &remote)
	refuses := &refusing{refused: make(chan struct{}, 3)}
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: remote, JudgeOver: func(graph authz.Graph) authz.Graph {
		refuses.Graph = graph
		return refuses
	}}))
	c := under(w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})).view("document:plan")
	told := w.watch(c)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	untold, err := w.Permissions().WatchPermission(ctx, &deputyv1.WatchPermissionRequest{
		Check: c.CheckPermissionRequest, Interval: durationpb.New(watchEvery),
	})
	w.ok(err)
	_, err = untold.Recv()
	w.ok(err)
	refuses.now.Store(true)
	for range cap(refuses.refused) {
		select {
		case <-refuses.refused:
		case <-ctx.Done():
			t.Fatal("while the engine gives no answer, the watches are not renewed")
		}
	}
	refuses.now.Store(false)
	for range 3 {
		if ended := told.next(); ended != nil {
			t.Fatalf("the engine did not answer for a moment, and the watch ended by %v", ended)
		}
	}
	wire.Hold()
	began := time.Now()
	got, err := untold.Recv()
	if took := time.Since(began); got != nil || took > watchEvery+6*time.Second {
		t.Errorf("%v, %v after the engine's last answer", got, took)
	}
	w.fails(err, codes.Unavailable, "ENGINE_UNAVAILABLE", "")
	for {
		if got, err = told.stream.Recv(); err != nil {
			break
		}
		if got.GetHolds() == nil || time.Since(began) > watchEvery+6*time.Second {
			t.Fatalf("%v, %v after the engine's last answer", got, time.Since(began))
		}
	}
	w.fails(err, codes.Unavailable, "ENGINE_UNAVAILABLE", "")
	wire.Release()
	w.allow(c)
}

// TestWatchRefused: what is refused, or is only allowed with more context, is told once, and nothing is watched. What is wrong with the request is
// an error.
func TestWatchRefused(t *testing.T) {
	s := harness.Start(t, daemon.Config{Engine: harness.Embedded(t)})
	w := newWorld(t, s)
	own := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	for what, want := range map[string]deputyv1.Permissionship{"document:bobs": no, "document:none": no, "document:daily": conditional} {
		g := w.watch(under(own).view(what))
		if g.first.GetPermissionship() != want {
			t.Errorf("%s: %v", what, g.first)
		}
		if more, err := g.stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: behind a refusal come %v, %v", what, more, err)
		}
	}
	ask := under(own).view("document:plan")
	for name, r := range map[string]struct {
		request       *deputyv1.WatchPermissionRequest
		code          codes.Code
		reason, field string
	}{
		"no question":           {&deputyv1.WatchPermissionRequest{}, codes.InvalidArgument, "INVALID_FIELD", "check"},
		"an interval too short": {&deputyv1.WatchPermissionRequest{Check: ask.CheckPermissionRequest, Interval: durationpb.New(249 * time.Millisecond)}, codes.InvalidArgument, "INVALID_FIELD", "interval"},
		"an interval too long":  {&deputyv1.WatchPermissionRequest{Check: ask.CheckPermissionRequest, Interval: durationpb.New(61 * time.Second)}, codes.InvalidArgument, "INVALID_FIELD", "interval"},
		"a heartbeat too short": {&deputyv1.WatchPermissionRequest{Check: ask.CheckPermissionRequest, Heartbeat: durationpb.New(time.Millisecond)}, codes.InvalidArgument, "INVALID_FIELD", "heartbeat"},
		"a consistency": {
			&deputyv1.WatchPermissionRequest{Check: under(own).view("document:plan").at(w.decide(ask).GetCheckedAt()).CheckPermissionRequest},
			codes.InvalidArgument, "INVALID_FIELD", "check.consistency",
		},
		"an unknown permission": {
			&deputyv1.WatchPermissionRequest{Check: &deputyv1.CheckPermissionRequest{
				AgentId: "bot", Via: ask.GetVia(), Resource: ask.GetResource(), Permission: "fly",
			}}, codes.InvalidArgument, "UNKNOWN_PERMISSION", "permission",
		},
	} {
		stream, err := s.Permissions().WatchPermission(t.Context(), r.request)
		w.ok(err)
		got, err := stream.Recv()
		if got != nil {
			t.Errorf("%s: %v", name, got)
		}
		w.fails(err, r.code, r.reason, r.field)
	}
}
