package decision_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestRacingWriters: of writers that contradict each other at most one gets through, and what a
// revocation, an end or a suspension overtakes does not act afterwards.
func TestRacingWriters(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		newWorld(t, s)
		rounds := 8
		if s.SlowEngine() {
			rounds = 4
		}
		t.Run("registering one id", func(t *testing.T) {
			for round := range rounds {
				id := fmt.Sprintf("racer%d", round)
				var won, lost atomic.Int64
				together(4, func(n int) {
					_, err := s.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: id, OwnerIds: []string{fmt.Sprintf("owner%d", n)}})
					switch statusOf(err) {
					case codes.OK:
						won.Add(1)
					case codes.AlreadyExists, codes.Aborted:
						lost.Add(1)
					default:
						t.Error(err)
					}
				})
				got, err := s.Agents().GetAgent(t.Context(), &deputyv1.GetAgentRequest{AgentId: id})
				if err != nil || won.Load() != 1 || len(got.GetAgent().GetOwnerIds()) != 1 {
					t.Errorf("%d of 4 registered %v, %v", won.Load(), got, err)
				}
			}
		})
		t.Run("revoking while sessions start and parts are passed on", func(t *testing.T) {
			w := &world{t, s}
			s.Touch(t, "document:plan#reader@agent:sub")
			for range rounds {
				d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
				var mu sync.Mutex
				var made []check
				add := func(c check) {
					mu.Lock()
					defer mu.Unlock()
					made = append(made, c)
				}
				together(5, func(n int) {
					switch n {
					case 0:
						if _, err := s.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: d.GetDelegationId()}); err != nil {
							t.Error(err)
						}
					case 1, 2:
						resp, err := s.Sessions().StartSession(t.Context(), &deputyv1.StartSessionRequest{AgentId: "bot", Targets: []*deputyv1.SessionTarget{target(d)}, Frozen: n == 2})
						if refusedWell(t, err) {
							add(inSession(resp.GetSession()))
						}
					default:
						resp, err := s.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{AgentId: "sub", ParentDelegationId: d.GetDelegationId(), Unscoped: true, AllowDirect: true})
						if refusedWell(t, err) {
							add(under(resp.GetDelegation()))
						}
					}
				})
				for _, c := range made {
					w.deny(c.view("document:plan"), byActor)
				}
			}
		})
		t.Run("ending while renewing", func(t *testing.T) {
			w := &world{t, s}
			d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true})
			for range rounds {
				run := w.start(target(d))
				together(4, func(n int) {
					if n == 0 {
						if _, err := s.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: run.GetSessionId()}); err != nil {
							t.Error(err)
						}
						return
					}
					_, err := s.Sessions().RenewSession(t.Context(), &deputyv1.RenewSessionRequest{SessionId: run.GetSessionId()})
					refusedWell(t, err)
				})
				w.deny(inSession(run).view("document:plan"), byActor)
				got, err := s.Sessions().GetSession(t.Context(), &deputyv1.GetSessionRequest{SessionId: run.GetSessionId()})
				w.ok(err)
				if got.GetSession().GetState() != deputyv1.LifecycleState_LIFECYCLE_STATE_STOPPED {
					t.Errorf("the session is %s", got.GetSession().GetState())
				}
			}
		})
		t.Run("one idempotency key", func(t *testing.T) {
			for round := range rounds {
				key := fmt.Sprintf("key %d", round)
				var mu sync.Mutex
				ids := map[string]bool{}
				together(4, func(int) {
					resp, err := s.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
						AgentId: "bot", Principal: subject("user:alice"), TenantId: "acme", Unscoped: true, Ttl: hour, IdempotencyKey: key,
					})
					if refusedWell(t, err) {
						mu.Lock()
						defer mu.Unlock()
						ids[resp.GetDelegation().GetDelegationId()] = true
					}
				})
				if len(ids) != 1 {
					t.Errorf("one key made %d delegations", len(ids))
				}
			}
		})
	})
}

// together runs n functions at once and waits for them.
func together(n int, run func(int)) {
	var ready, done sync.WaitGroup
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			ready.Wait()
			run(i)
		})
	}
	done.Wait()
}

// refusedWell reports whether there is no error, and fails the test for one that a loser of a race
// should not get.
func refusedWell(t *testing.T, err error) bool {
	t.Helper()
	switch statusOf(err) {
	case codes.OK:
		return true
	case codes.FailedPrecondition, codes.Aborted:
	default:
		t.Errorf("the loser of a race gets %v", err)
	}
	return false
}

// TestIdempotency: a retry returns what the first try made; the same key for something else is refused.
func TestIdempotency(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		create := &deputyv1.CreateDelegationRequest{AgentId: "bot", Principal: subject("user:alice"), TenantId: "acme", Unscoped: true, Ttl: hour, IdempotencyKey: "k1"}
		first, err := w.Delegations().CreateDelegation(t.Context(), create)
		w.ok(err)
		again, err := w.Delegations().CreateDelegation(t.Context(), create)
		w.ok(err)
		if first.GetDelegation().GetDelegationId() != again.GetDelegation().GetDelegationId() {
			t.Error("a retry made another delegation")
		}
		create.AllowDirect = true
		_, err = w.Delegations().CreateDelegation(t.Context(), create)
		w.fails(err, codes.AlreadyExists, "IDEMPOTENCY_KEY_REUSED", "")
		create.AllowDirect, create.Principal = false, subject("user:bob")
		_, err = w.Delegations().CreateDelegation(t.Context(), create)
		w.fails(err, codes.AlreadyExists, "IDEMPOTENCY_KEY_REUSED", "")
		for _, frozen := range []bool{false, true} {
			start := &deputyv1.StartSessionRequest{AgentId: "bot", Targets: []*deputyv1.SessionTarget{target(first.GetDelegation())}, Frozen: frozen, IdempotencyKey: fmt.Sprint("s", frozen)}
			one, err := w.Sessions().StartSession(t.Context(), start)
			w.ok(err)
			two, err := w.Sessions().StartSession(t.Context(), start)
			w.ok(err)
			if one.GetSession().GetSessionId() != two.GetSession().GetSessionId() || two.GetSession().GetFrozen() != frozen {
				t.Errorf("a retry made %v of %v", two, one)
			}
			w.allow(inSession(two.GetSession()).view("document:plan"))
			start.Frozen = !frozen
			_, err = w.Sessions().StartSession(t.Context(), start)
			w.fails(err, codes.AlreadyExists, "IDEMPOTENCY_KEY_REUSED", "")
		}
		register := &deputyv1.RegisterAgentRequest{AgentId: "fresh", OwnerIds: []string{"carol", "alice"}, IdempotencyKey: "a1"}
		for range 2 {
			_, err = w.Agents().RegisterAgent(t.Context(), register)
			w.ok(err)
		}
		register.OwnerIds = []string{"mallory"}
		_, err = w.Agents().RegisterAgent(t.Context(), register)
		w.fails(err, codes.AlreadyExists, "ALREADY_EXISTS", "")
	})
}

// TestSessionsOfSeveral: a session for two principals in two tenants acts for each alone, and has to be
// told for whom.
func TestSessionsOfSeveral(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		all := w.delegate(&deputyv1.CreateDelegationRequest{Principal: subject("tenant:acme#member"), GrantedBy: harness.Ref("user:carol"), Unscoped: true})
		daves := w.delegate(&deputyv1.CreateDelegationRequest{Principal: subject("user:dave"), TenantId: "globex", Unscoped: true})
		run := w.start(target(all, "user:alice", "user:bob"), target(daves))
		if len(run.GetLeaves()) != 3 {
			t.Fatalf("leaves %v", run.GetLeaves())
		}
		w.allow(inSession(run).actingFor("user:alice").view("document:plan"))
		w.deny(inSession(run).actingFor("user:bob").view("document:plan"), byObject)
		w.allow(inSession(run).actingFor("user:bob").view("document:bobs"))
		w.allow(inSession(run).actingFor("user:dave").view("document:foreign"))
		w.allow(inSession(run).in("globex").view("document:foreign"))
		// Alice may read the foreign document as well, but the session does not act for her there.
		w.deny(inSession(run).actingFor("user:alice").in("globex").view("document:foreign"), byActor)
		w.deny(inSession(run).actingFor("user:alice").view("document:foreign"), byObject)
		w.deny(inSession(run).actingFor("user:carol").view("document:both"), byActor)
		_, err := w.Permissions().CheckPermission(t.Context(), inSession(run).view("document:plan").CheckPermissionRequest)
		w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "on_behalf_of")
		_, err = w.Permissions().CheckPermission(t.Context(), inSession(run).in("acme").view("document:plan").CheckPermissionRequest)
		w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "on_behalf_of")
		// Another agent that quotes it is not told that much.
		w.deny(inSession(run).by("sub").view("document:plan"), byActor)
		// One who leaves the tenant is not acted for any more.
		s.Delete(t, "tenant:acme#member@user:bob")
		w.deny(inSession(run).actingFor("user:bob").view("document:bobs"), byActor)
		w.allow(inSession(run).actingFor("user:alice").view("document:plan"))
	})
}

// TestTooManyCandidates: more than sixteen delegations that could decide are not weighed.
func TestTooManyCandidates(t *testing.T) {
	w := newWorld(t, harness.Start(t, inMemory()))
	c := func() check { return asAgent("bot").actingFor("user:alice").in("acme").view("document:plan") }
	for range 16 {
		w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	}
	// What others granted, to others, elsewhere or as a session's, is no candidate.
	w.delegate(&deputyv1.CreateDelegationRequest{Principal: subject("user:bob"), Unscoped: true, AllowDirect: true})
	w.delegate(&deputyv1.CreateDelegationRequest{AgentId: "sub", Unscoped: true, AllowDirect: true})
	w.delegate(&deputyv1.CreateDelegationRequest{TenantId: "globex", Unscoped: true, AllowDirect: true})
	w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true})
	w.delegate(&deputyv1.CreateDelegationRequest{Principal: subject("tenant:acme#admin"), GrantedBy: harness.Ref("user:carol"), Unscoped: true, AllowDirect: true})
	w.allow(c())
	last := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	_, err := w.Permissions().CheckPermission(t.Context(), c().CheckPermissionRequest)
	w.fails(err, codes.FailedPrecondition, "TOO_MANY_CANDIDATES", "")
	_, err = w.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: last.GetDelegationId()})
	w.ok(err)
	w.allow(c())
}

// TestDepthAtCreation: a chain of eight is the deepest, the session's leaf included.
func TestDepthAtCreation(t *testing.T) {
	w := newWorld(t, harness.Start(t, inMemory()))
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	for i := 2; i <= 8; i++ {
		agent := fmt.Sprintf("link%d", i)
		_, err := w.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: agent, OwnerIds: []string{"carol"}})
		w.ok(err)
		w.Touch(t, "tenant:acme#agent@agent:"+agent, "document:plan#reader@agent:"+agent)
		d = w.delegate(&deputyv1.CreateDelegationRequest{AgentId: agent, ParentDelegationId: d.GetDelegationId(), Unscoped: true, AllowDirect: true})
	}
	resp := w.allow(under(d).view("document:plan"))
	if len(resp.GetAgentChain()) != 8 {
		t.Errorf("the chain is %v", resp.GetAgentChain())
	}
	_, err := w.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{AgentId: "sub", ParentDelegationId: d.GetDelegationId(), Unscoped: true})
	w.fails(err, codes.FailedPrecondition, "TOO_DEEP", "")
	_, err = w.Sessions().StartSession(t.Context(), &deputyv1.StartSessionRequest{AgentId: d.GetAgentId(), Targets: []*deputyv1.SessionTarget{target(d)}})
	w.fails(err, codes.FailedPrecondition, "TOO_DEEP", "")
}

// TestLists: every page of every list, each thing once, in a stable order.
func TestLists(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		var want []string
		for range 7 {
			want = append(want, w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true}).GetDelegationId())
		}
		revoked := want[3]
		_, err := w.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: revoked})
		w.ok(err)
		live := slices.DeleteFunc(slices.Clone(want), func(id string) bool { return id == revoked })
		keep, err := w.Delegations().GetDelegation(t.Context(), &deputyv1.GetDelegationRequest{DelegationId: live[0]})
		w.ok(err)
		var sessions []string
		for range 5 {
			sessions = append(sessions, w.start(target(keep.GetDelegation())).GetSessionId())
		}
		_, err = w.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: sessions[0]})
		w.ok(err)
		for name, r := range map[string]*deputyv1.ListDelegationsRequest{
			"agent": {AgentId: "bot"}, "principal": {Principal: subject("user:alice")}, "tenant": {TenantId: "acme"},
		} {
			r.Limit = 2
			if got := w.listDelegations(r); !same(got, live) {
				t.Errorf("by %s: %v, want %v", name, got, live)
			}
			r.IncludeInactive = true
			if got := w.listDelegations(r); !same(got, want) {
				t.Errorf("by %s with inactive ones: %v, want %v", name, got, want)
			}
			r.IncludeInactive, r.IncludeLeaves = false, true
			if got := w.listDelegations(r); len(got) != len(live)+5 {
				t.Errorf("by %s with leaves: %d, want %d", name, len(got), len(live)+5)
			}
		}
		if got := w.listDelegations(&deputyv1.ListDelegationsRequest{ParentDelegationId: live[0], IncludeLeaves: true, Limit: 2}); len(got) != 5 {
			t.Errorf("by parent: %v", got)
		}
		for inactive, want := range map[bool]int{false: 4, true: 5} {
			r := &deputyv1.ListSessionsRequest{AgentId: "bot", Limit: 2, IncludeInactive: inactive}
			var got []string
			for {
				resp, err := w.Sessions().ListSessions(t.Context(), r)
				w.ok(err)
				for _, one := range resp.GetSessions() {
					got = append(got, one.GetSessionId())
				}
				if resp.GetComplete() {
					break
				}
				r.Cursor = resp.GetNext()
			}
			if len(got) != want || !slices.IsSorted(got) {
				t.Errorf("sessions, inactive %t: %v", inactive, got)
			}
		}
		_, err = w.Agents().SuspendAgent(t.Context(), &deputyv1.SuspendAgentRequest{AgentId: "bot"})
		w.ok(err)
		var got []string
		r := &deputyv1.ListAgentsRequest{Limit: 1}
		for {
			resp, err := w.Agents().ListAgents(t.Context(), r)
			w.ok(err)
			for _, a := range resp.GetAgents() {
				got = append(got, a.GetAgentId()+" "+a.GetState().String())
			}
			if resp.GetComplete() {
				break
			}
			r.Cursor = resp.GetNext()
		}
		if !slices.Equal(got, []string{"sub LIFECYCLE_STATE_ACTIVE", "bot LIFECYCLE_STATE_STOPPED"}) {
			t.Errorf("agents %v", got)
		}
	})
}

// listDelegations goes through all pages.
func (w *world) listDelegations(r *deputyv1.ListDelegationsRequest) []string {
	w.Helper()
	r.Cursor = nil
	var out []string
	for {
		resp, err := w.Delegations().ListDelegations(w.Context(), r)
		w.ok(err)
		for _, d := range resp.GetDelegations() {
			out = append(out, d.GetDelegationId())
		}
		if resp.GetComplete() {
			return out
		}
		r.Cursor = resp.GetNext()
	}
}

func same(got, want []string) bool {
	want = slices.Clone(want)
	slices.Sort(want)
	return slices.Equal(got, want)
}

// TestTimesAreShown: a delegation and a session say when they were made and when they end, a session
// never ends after its delegations, and a decision not after either.
func TestTimesAreShown(t *testing.T) {
	w := newWorld(t, harness.Start(t, inMemory()))
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, Ttl: durationpb.New(10 * time.Minute)})
	run := w.start(target(d))
	if !run.GetExpiresAt().AsTime().Equal(d.GetExpiresAt().AsTime()) || run.GetStartedAt() == nil || d.GetCreatedAt() == nil {
		t.Errorf("%v of %v", run, d)
	}
	got, err := w.Sessions().GetSession(t.Context(), &deputyv1.GetSessionRequest{SessionId: run.GetSessionId()})
	w.ok(err)
	if leaf := got.GetSession().GetLeaves()[0]; leaf.GetParentDelegationId() != d.GetDelegationId() || leaf.GetPrincipal().GetObjectId() != "alice" {
		t.Errorf("its leaf is %v", leaf)
	}
	if until := w.allow(inSession(run).view("document:plan")).GetValidUntil().AsTime(); until.After(d.GetExpiresAt().AsTime()) {
		t.Errorf("valid until %s", until)
	}
	_, err = w.Sessions().GetSession(t.Context(), &deputyv1.GetSessionRequest{SessionId: "00"})
	if status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

// TestConditional: what is missing is named, a no beats it, and what is given decides.
func TestConditional(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		resp := w.decide(under(d).view("document:daily"))
		if resp.GetPermissionship() != conditional || !slices.Equal(resp.GetMissingContext(), []string{"hour"}) || resp.GetValidUntil() != nil {
			t.Errorf("without context: %v", resp)
		}
		w.allow(under(d).view("document:daily").with(map[string]any{"hour": 10}))
		w.deny(under(d).view("document:daily").with(map[string]any{"hour": 20}), byObject)
		s.Touch(t, "document:daily#tenant@tenant:globex")
		w.deny(under(d).view("document:daily"), byObject)
	})
}
