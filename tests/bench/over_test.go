package bench

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestOver measures the list of an agent's live sessions beside sessions that are over: half of them were ended, half have
// expired; and how fast they are purged.
func TestOver(t *testing.T) {
	s := harness.Start(t, daemon.Config{Engine: engine.Config{Kind: engine.Embedded, Dir: t.TempDir()}})
	s.WriteSchema(t, schema.Core)
	c := s.InProcess().Client()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, who := range []string{"user:alice", "tenant:acme"} {
		_, err := c.Principals.Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(who)})
		ok(err)
	}
	few, many := scaled(10, 10), scaled(100_000, 200)
	for agent, over := range map[string]int{"few": few, "many": many} {
		_, err := c.Agents.RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: agent, OwnerIds: []string{"alice"}})
		ok(err)
		granted, err := c.Delegations.CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
			AgentId: agent, Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice")}, TenantId: "acme", Unscoped: true,
			Ttl: durationpb.New(time.Hour),
		})
		ok(err)
		ok(runs(t.Context(), c, agent, granted.GetDelegation().GetDelegationId(), over))
	}
	list := func(agent string) time.Duration {
		began := time.Now()
		found, err := c.Sessions.ListSessions(t.Context(), &deputyv1.ListSessionsRequest{AgentId: agent})
		took := time.Since(began)
		ok(err)
		if n := len(found.GetSessions()); n != 1 || !found.GetComplete() {
			t.Fatalf("%d sessions are listed, complete: %t", n, found.GetComplete())
		}
		return took
	}
	typical := func(agent string) float64 {
		times := make([]time.Duration, scaled(201, 3))
		for i := range times {
			times[i] = list(agent)
		}
		slices.Sort(times)
		return float64(times[len(times)/2].Microseconds())
	}
	beside := func(n int) string { return fmt.Sprintf("a list of one live session beside %d that are over", n) }
	a, b := typical("few"), typical("many")
	add(t, beside(few), a, "µs")
	add(t, beside(many), b, "µs")
	began, purged := time.Now(), uint64(0)
	for r := (&deputyv1.PurgeRequest{OlderThan: durationpb.New(0)}); ; {
		did, err := c.Retention.Purge(t.Context(), r)
		ok(err)
		purged += did.GetSessions()
		if r.Cursor = did.GetNext(); r.Cursor == nil {
			break
		}
	}
	if purged != uint64(few+many) {
		t.Errorf("%d sessions were purged, not %d", purged, few+many)
	}
	add(t, "purging sessions with their leaves", float64(purged)/time.Since(began).Seconds(), "/s")
}

// runs starts one session that lives, and many that do not.
func runs(ctx context.Context, c *client.Client, agent, delegation string, over int) error {
	start := func(ttl time.Duration) (string, error) {
		r := &deputyv1.StartSessionRequest{AgentId: agent, Targets: []*deputyv1.SessionTarget{{DelegationId: delegation}}}
		if ttl > 0 {
			r.Ttl = durationpb.New(ttl)
		}
		run, err := c.Sessions.StartSession(ctx, r)
		return run.GetSession().GetSessionId(), err
	}
	if _, err := start(0); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for i := range over {
		group.Go(func() error {
			if i%2 == 0 {
				_, err := start(time.Millisecond)
				return err
			}
			id, err := start(0)
			if err == nil {
				_, err = c.Sessions.EndSession(ctx, &deputyv1.EndSessionRequest{SessionId: id})
			}
			return err
		})
	}
	return group.Wait()
}
