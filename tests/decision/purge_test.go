package decision_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// purge purges what has been over for an age, and returns the sum.
func (w *world) purge(r *deputyv1.PurgeRequest) *deputyv1.PurgeResponse {
	w.Helper()
	sum := &deputyv1.PurgeResponse{}
	for {
		did, err := deputyv1.NewRetentionServiceClient(w.Admin).Purge(w.Context(), r)
		w.ok(err)
		sum.Sessions += did.GetSessions()
		sum.Delegations += did.GetDelegations()
		sum.Noted += did.GetNoted()
		if did.GetComplete() {
			return sum
		}
		r.Cursor = did.GetNext()
	}
}

// live lists the live sessions of an agent.
func (w *world) live(agent string) (ids []string) {
	w.Helper()
	found, err := w.Sessions().ListSessions(w.Context(), &deputyv1.ListSessionsRequest{AgentId: agent})
	w.ok(err)
	for _, s := range found.GetSessions() {
		ids = append(ids, s.GetSessionId())
	}
	return ids
}

// TestPurge: what was purged is as if it had never been, but its id and its idempotency key lead to nothing again; what is live stays.
func TestPurge(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		all := &deputyv1.PurgeRequest{OlderThan: durationpb.New(0)}
		root := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		revoked := w.delegate(&deputyv1.CreateDelegationRequest{
			Scope: []*deputyv1.ScopeGrant{{Resource: harness.Ref("document:plan"), Relation: "reader"}}, AllowDirect: true,
		})
		part := w.delegate(&deputyv1.CreateDelegationRequest{AgentId: "sub", ParentDelegationId: revoked.GetDelegationId(), Unscoped: true})
		w.allow(under(revoked).view("document:plan"))
		kept := w.start(target(root))
		ends := &deputyv1.StartSessionRequest{AgentId: "bot", Targets: []*deputyv1.SessionTarget{target(root)}, IdempotencyKey: "once"}
		ended := w.startWith(ends)
		_, err := w.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: ended.GetSessionId()})
		w.ok(err)
		_, err = w.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: revoked.GetDelegationId()})
		w.ok(err)
		if did := w.purge(&deputyv1.PurgeRequest{OlderThan: durationpb.New(0), DryRun: true}); did.GetSessions() != 1 || did.GetDelegations() != 3 {
			t.Errorf("it would purge %v", did)
		}
		w.deny(inSession(ended).view("document:plan"), byActor)
		if did := w.purge(&deputyv1.PurgeRequest{OlderThan: hour}); did.GetSessions()+did.GetDelegations() != 0 || did.GetNoted() == 0 {
			t.Errorf("what has been over for a moment is purged, or not noted: %v", did)
		}
		// The leaf of the ended session, the revoked delegation and its part.
		if did := w.purge(all); did.GetSessions() != 1 || did.GetDelegations() != 3 {
			t.Errorf("it purged %v", did)
		}
		_, err = w.Sessions().GetSession(t.Context(), &deputyv1.GetSessionRequest{SessionId: ended.GetSessionId()})
		w.fails(err, codes.NotFound, authz.ReasonSessionNotFound, "")
		for _, d := range []*deputyv1.Delegation{revoked, part} {
			_, err = w.Delegations().GetDelegation(t.Context(), &deputyv1.GetDelegationRequest{DelegationId: d.GetDelegationId()})
			w.fails(err, codes.NotFound, authz.ReasonDelegationNotFound, "")
		}
		w.deny(inSession(ended).view("document:plan"), byActor)
		w.deny(under(revoked).view("document:plan"), byActor)
		w.deny(under(revoked).actingFor("user:alice").in("acme").view("document:plan"), byActor)
		_, err = w.Sessions().StartSession(t.Context(), ends)
		w.fails(err, codes.AlreadyExists, authz.ReasonIdempotencyConflict, "")
		_, err = w.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: ended.GetSessionId()})
		w.fails(err, codes.NotFound, authz.ReasonSessionNotFound, "")
		w.allow(inSession(kept).view("document:plan"))
		w.allow(asAgent("bot").actingFor("user:alice").in("acme").view("document:plan"))
		if found := w.live("bot"); len(found) != 1 || found[0] != kept.GetSessionId() {
			t.Errorf("live are %v", found)
		}
		_, err = w.Sessions().RenewSession(t.Context(), &deputyv1.RenewSessionRequest{SessionId: kept.GetSessionId()})
		w.ok(err)
		if did := w.purge(all); did.GetSessions()+did.GetDelegations()+did.GetNoted() != 0 {
			t.Errorf("the second time it purged %v", did)
		}
		if !s.IsRemote() {
			// A client that writes facts past the services finds what is live listed all the same, and what was purged dead.
			s.Touch(t, "session:"+ended.GetSessionId()+"#agent@agent:bot[issued:{\"at\":\"2026-01-01T00:00:00Z\"}]",
				"session:"+ended.GetSessionId()+"#unfrozen@session:"+ended.GetSessionId(),
				"session:"+ended.GetSessionId()+"#active@session:"+ended.GetSessionId()+"[expiration:2100-01-01T00:00:00Z]")
			w.deny(inSession(ended).view("document:plan"), byActor)
			if found := w.live("bot"); len(found) != 1 {
				t.Errorf("live are %v", found)
			}
		}
	})
}

// TestPurgeRequests: bad requests are refused by name.
func TestPurgeRequests(t *testing.T) {
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: harness.Embedded(t)}))
	client := deputyv1.NewRetentionServiceClient(w.Admin)
	for _, test := range []struct {
		request *deputyv1.PurgeRequest
		reason  string
		field   string
	}{
		{&deputyv1.PurgeRequest{}, authz.ReasonInvalidField, "older_than"},
		{&deputyv1.PurgeRequest{OlderThan: durationpb.New(-time.Second)}, authz.ReasonInvalidField, "older_than"},
		{&deputyv1.PurgeRequest{OlderThan: hour, Cursor: &deputyv1.Cursor{Token: "forged"}}, authz.ReasonInvalidToken, "cursor"},
	} {
		_, err := client.Purge(t.Context(), test.request)
		w.fails(err, codes.InvalidArgument, test.reason, test.field)
	}
}

// TestManyEndedRuns: an agent decides alone, and is found, however many of its sessions are over, where the principal has very
// many delegations.
func TestManyEndedRuns(t *testing.T) {
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: harness.Embedded(t)}))
	root := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	for range 520 {
		w.delegate(&deputyv1.CreateDelegationRequest{AgentId: "sub", Unscoped: true, AllowDirect: true})
		run := w.start(target(root))
		_, err := w.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: run.GetSessionId()})
		w.ok(err)
	}
	alone := asAgent("bot").actingFor("user:alice").in("acme").view("document:plan")
	for {
		// The server lists what is live soon after its schema was written.
		_, err := w.Permissions().CheckPermission(t.Context(), alone.CheckPermissionRequest)
		if err == nil {
			break
		}
		w.fails(err, codes.FailedPrecondition, authz.ReasonTooManyCandidates, "")
	}
	if by := w.allow(alone); by.GetDelegationId() != root.GetDelegationId() {
		t.Errorf("it was decided by %v", by)
	}
}

// TestPurgeAfter: a server that is told to purges by itself.
func TestPurgeAfter(t *testing.T) {
	w := newWorld(t, harness.Start(t, daemon.Config{Engine: harness.Embedded(t), PurgeAfter: time.Millisecond}))
	root := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true})
	short := w.startWith(&deputyv1.StartSessionRequest{
		Targets: []*deputyv1.SessionTarget{target(root)}, Ttl: durationpb.New(time.Millisecond),
	})
	ask := &deputyv1.GetSessionRequest{SessionId: short.GetSessionId()}
	for statusOf(second(w.Sessions().GetSession(t.Context(), ask))) != codes.NotFound {
		if t.Context().Err() != nil {
			t.Fatal("the session is still there")
		}
	}
	if _, err := w.Delegations().GetDelegation(t.Context(), &deputyv1.GetDelegationRequest{DelegationId: root.GetDelegationId()}); err != nil {
		t.Errorf("a live delegation is gone: %v", err)
	}
}

// TestPurgedLinkIsExplained: what stands on a delegation that was purged, as between two parts of a walk, or that is not there, refuses, and its
// explanation says why: of what was purged it says nothing else, since nothing else is known.
func TestPurgedLinkIsExplained(t *testing.T) {
	w := newWorld(t, harness.Start(t, inMemory()))
	root := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	part := w.delegate(&deputyv1.CreateDelegationRequest{AgentId: "sub", ParentDelegationId: root.GetDelegationId(), Unscoped: true, AllowDirect: true})
	w.Touch(t, "document:plan#reader@agent:sub")
	asked := under(part).view("document:plan")
	w.allow(asked)
	refused := func() (said []string) {
		t.Helper()
		w.deny(asked, byActor)
		explained, err := w.Audit().ExplainPermission(t.Context(), &deputyv1.ExplainPermissionRequest{Check: asked.CheckPermissionRequest})
		w.ok(err)
		for _, gate := range explained.GetCandidates()[0].GetGates() {
			for _, c := range gate.GetConditions() {
				if c.GetOutcome() != deputyv1.Outcome_OUTCOME_YES {
					said = append(said, c.GetCondition()+": "+c.GetDetail())
				}
			}
		}
		return said
	}
	const broken = "the chain leads to a root: it leads to a delegation that is not there"
	name := "delegation:" + root.GetDelegationId()
	w.Touch(t, name+"#purged@"+name)
	want := []string{broken, "delegation " + root.GetDelegationId() + " is live: it was purged", "document:plan#view@" + name + ": "}
	if said := refused(); !slices.Equal(said, want) {
		t.Errorf("on a delegation that was purged:\n%s\nwant\n%s", strings.Join(said, "\n"), strings.Join(want, "\n"))
	}
	_, err := v1.NewPermissionsServiceClient(w.Admin).DeleteRelationships(t.Context(), &v1.DeleteRelationshipsRequest{
		RelationshipFilter: &v1.RelationshipFilter{ResourceType: "delegation", OptionalResourceId: root.GetDelegationId()},
	})
	w.ok(err)
	absent := "delegation " + root.GetDelegationId() + " is live: the graph does not know it"
	if said := refused(); !slices.Contains(said, broken) || !slices.Contains(said, absent) {
		t.Errorf("on a delegation that is not there:\n%s", strings.Join(said, "\n"))
	}
}

// TestConfinedPurge: a caller that is bound to a tenant purges nothing, not even of its own tenant, and counts nothing: how much is over
// in other tenants is theirs.
func TestConfinedPurge(t *testing.T) {
	t.Parallel()
	eachConfined(t, func(c *confined) {
		_, err := c.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: c.run.GetSessionId()})
		c.ok(err)
		for name, conn := range map[string]*grpc.ClientConn{"an admin of acme": c.governor, "a responder of acme": c.responder} {
			for _, dry := range []bool{true, false} {
				did, err := deputyv1.NewRetentionServiceClient(conn).Purge(t.Context(), &deputyv1.PurgeRequest{OlderThan: durationpb.New(0), DryRun: dry})
				if status.Code(err) != codes.PermissionDenied || did != nil {
					t.Errorf("%s, dry %t: %v, %v", name, dry, did, err)
				}
			}
		}
		if _, err := c.Sessions().GetSession(t.Context(), &deputyv1.GetSessionRequest{SessionId: c.run.GetSessionId()}); err != nil {
			t.Errorf("the session that ended reads as %v", err)
		}
		if did := c.purge(&deputyv1.PurgeRequest{OlderThan: durationpb.New(0)}); did.GetSessions() != 1 {
			t.Errorf("without bounds it purged %v", did)
		}
	})
}

func second[T any](_ T, err error) error { return err }
