package decision_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// lookup is the request that asks what a way of acting reaches.
func lookup(c check, limit uint32) *deputyv1.LookupResourcesRequest {
	r := &deputyv1.LookupResourcesRequest{
		AgentId: c.GetAgentId(), OnBehalfOf: c.GetOnBehalfOf(), TenantId: c.GetTenantId(),
		ResourceObjectType: "document", Permission: "view", Context: c.GetContext(), Limit: limit,
	}
	switch via := c.GetVia().(type) {
	case *deputyv1.CheckPermissionRequest_SessionId:
		r.Via = &deputyv1.LookupResourcesRequest_SessionId{SessionId: via.SessionId}
	case *deputyv1.CheckPermissionRequest_DelegationId:
		r.Via = &deputyv1.LookupResourcesRequest_DelegationId{DelegationId: via.DelegationId}
	}
	return r
}

// piece reads one stream of a lookup.
func (w *world) piece(r *deputyv1.LookupResourcesRequest) (found []*deputyv1.ReachedResource, failed []*deputyv1.FailedResource, end *deputyv1.LookupEnd, err error) {
	w.Helper()
	stream, err := w.Permissions().LookupResources(w.Context(), r)
	w.ok(err)
	for {
		resp, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return found, failed, end, nil
		case err != nil:
			return found, failed, end, err
		case resp.GetEnd() != nil:
			end = resp.GetEnd()
		case resp.GetFailed() != nil:
			failed = append(failed, resp.GetFailed())
		default:
			found = append(found, resp.GetResource())
		}
	}
}

// TestActorIsJudgedNow: whatever it is that lets an actor act, apart from any object, has to be there now, also at a
// snapshot, and for what a lookup's cursor goes on with.
func TestActorIsJudgedNow(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		everybody := []string{"user:alice", "user:dave", "service:nightly", "agent:bot", "agent:sub"}
		for _, object := range []string{"document:one", "document:two", "document:three"} {
			s.Touch(t, object+"#tenant@tenant:acme")
			for _, who := range everybody {
				s.Touch(t, object+"#reader@"+who)
			}
		}
		own := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		part := w.delegate(&deputyv1.CreateDelegationRequest{AgentId: "sub", ParentDelegationId: own.GetDelegationId(), Unscoped: true, AllowDirect: true})
		all := w.delegate(&deputyv1.CreateDelegationRequest{
			Principal: subject("tenant:acme#member"), GrantedBy: harness.Ref("user:carol"), Unscoped: true, AllowDirect: true,
		})
		nightly := w.delegate(&deputyv1.CreateDelegationRequest{
			Principal: subject("service:nightly"), GrantedBy: harness.Ref("user:alice"), Unscoped: true, AllowDirect: true,
		})
		frozen := w.startWith(&deputyv1.StartSessionRequest{Targets: []*deputyv1.SessionTarget{target(own)}, Frozen: true})
		for name, c := range map[string]struct {
			acting func() check
			gone   string
		}{
			"the principal's membership":           {func() check { return under(own) }, "tenant:acme#member@user:alice"},
			"the agent's access":                   {func() check { return under(own) }, "tenant:acme#agent@agent:bot"},
			"the access of the agent it came from": {func() check { return under(part) }, "tenant:acme#agent@agent:bot"},
			"the access of a service":              {func() check { return under(nightly) }, "tenant:acme#member@service:nightly"},
			"membership in the set":                {func() check { return under(all).actingFor("user:dave") }, "tenant:acme#member@user:dave"},
			"the grantor's administration":         {func() check { return under(all).actingFor("user:dave") }, "tenant:acme#admin@user:carol"},
			"the grantor's ownership":              {func() check { return under(nightly) }, "service:nightly#owner@user:alice"},
			"the agent's owner":                    {func() check { return under(own) }, "agent:bot#owner@user:carol"},
			"membership in a frozen session":       {func() check { return inSession(frozen) }, "tenant:acme#member@user:alice"},
			"membership, by agent alone":           {func() check { return asAgent("bot").actingFor("user:alice").in("acme") }, "tenant:acme#member@user:alice"},
		} {
			t.Run(name, func(t *testing.T) {
				w := &world{t, s}
				at := w.allow(c.acting().view("document:one")).GetCheckedAt()
				w.allow(c.acting().view("document:two").at(at))
				r := lookup(c.acting(), 1)
				found, _, end, err := w.piece(r)
				w.ok(err)
				if len(found) != 1 || end.GetComplete() {
					t.Fatalf("found %v, %v", found, end)
				}
				s.Delete(t, c.gone)
				defer s.Touch(t, c.gone)
				w.deny(c.acting().view("document:two").at(at), byActor)
				r.Cursor = end.GetNext()
				if found, failed, end, err := w.piece(r); err != nil || len(found)+len(failed) > 0 || !end.GetComplete() {
					t.Errorf("a cursor from before goes on with %v, %v, %v, %v", found, failed, end, err)
				}
			})
		}
	})
}

// TestLookupCursorGrowsTooOld: a lookup is not gone on with for longer than a snapshot lasts, and going on with it does
// not make it younger.
func TestLookupCursorGrowsTooOld(t *testing.T) {
	cfg := inMemory()
	cfg.SnapshotMaxAge = 2 * time.Second
	w := newWorld(t, harness.Start(t, cfg))
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	r := lookup(under(d), 1)
	_, _, end, err := w.piece(r)
	w.ok(err)
	agents := &deputyv1.LookupAgentsRequest{Resource: harness.Ref("document:plan"), Permission: "view", Limit: 1}
	w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	first, err := w.agentsEnd(agents)
	w.ok(err)
	r.Cursor, agents.Cursor = end.GetNext(), first.GetNext()
	if r.GetCursor() == nil || agents.GetCursor() == nil {
		t.Fatalf("no cursors: %v, %v", end, first)
	}
	var last *deputyv1.ZedToken
	for began, refused := time.Now(), 0; refused < 2; {
		if time.Since(began) > 30*time.Second {
			t.Fatal("a cursor that is gone on with stays young")
		}
		refused = 0
		if _, _, end, err := w.piece(r); err != nil {
			w.fails(err, codes.OutOfRange, "SNAPSHOT_TOO_OLD", "cursor")
			refused++
		} else {
			last = end.GetLookedUpAt()
		}
		if _, err := w.agentsEnd(agents); err != nil {
			w.fails(err, codes.OutOfRange, "SNAPSHOT_TOO_OLD", "cursor")
			refused++
		}
	}
	if last == nil {
		t.Fatal("the cursor was never gone on with")
	}
	_, err = w.Permissions().CheckPermission(t.Context(), under(d).view("document:plan").at(last).CheckPermissionRequest)
	w.fails(err, codes.OutOfRange, "SNAPSHOT_TOO_OLD", "consistency.at_exact_snapshot")
}

// agentsEnd reads one stream of a lookup of agents and returns its end.
func (w *world) agentsEnd(r *deputyv1.LookupAgentsRequest) (*deputyv1.LookupEnd, error) {
	w.Helper()
	stream, err := w.Audit().LookupAgents(w.Context(), r)
	w.ok(err)
	for {
		resp, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if resp.GetEnd() != nil {
			return resp.GetEnd(), nil
		}
	}
}

// TestPagesOfAListKeepTheirMoment: going on with a list does not make its revision younger. It is no answer to act on, so
// it may be gone on with for as long as the revision can be read.
func TestPagesOfAListKeepTheirMoment(t *testing.T) {
	cfg := inMemory()
	cfg.SnapshotMaxAge = time.Nanosecond
	w := newWorld(t, harness.Start(t, cfg))
	for range 2 {
		w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	}
	first, err := w.Delegations().ListDelegations(t.Context(), &deputyv1.ListDelegationsRequest{AgentId: "bot", Limit: 1})
	w.ok(err)
	second, err := w.Delegations().ListDelegations(t.Context(), &deputyv1.ListDelegationsRequest{AgentId: "bot", Limit: 1, Cursor: first.GetNext()})
	w.ok(err)
	if first.GetReadAt().GetToken() != second.GetReadAt().GetToken() {
		t.Error("the second page of a list names another moment than the first")
	}
}
