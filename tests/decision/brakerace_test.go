package decision_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestNothingActsPastABrake: while checks come from many connections, on every node that shares the engine, a call takes away what they stand
// on. A check that begins once that call has returned refuses. And no check is ever allowed at a revision at which the call's tombstone
// stands: that is looked up with SpiceDB's own read, at the revision of the last check that each connection was allowed.
func TestNothingActsPastABrake(t *testing.T) {
	for name, nodes := range map[string]int{"embedded": 1, "postgres": 2} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.Engines()[name](t)
			servers := make([]*harness.Server, nodes)
			for i := range servers {
				servers[i] = harness.Start(t, daemon.Config{Engine: cfg})
			}
			newWorld(t, servers[0])
			rounds := 3
			if cfg.Kind == engine.Postgres {
				rounds = 1
			}
			for call, stop := range stops {
				t.Run(call, func(t *testing.T) {
					for range rounds {
						r := newRunaway(&world{t, servers[0]})
						race(r, servers, stop)
						r.resume("agent:bot")
						r.resume("user:alice")
						r.resume("tenant:acme")
						r.clear()
					}
				})
			}
		})
	}
}

// stops are the calls that take away what r.forAlice stands on, with the tombstone that each of them writes.
var stops = map[string]func(context.Context, *runaway) (tombstone string, err error){
	"SuspendAgent": func(ctx context.Context, r *runaway) (string, error) {
		_, err := r.Agents().SuspendAgent(ctx, &deputyv1.SuspendAgentRequest{AgentId: "bot"})
		return "agent:bot#suspended", err
	},
	"Suspend": func(ctx context.Context, r *runaway) (string, error) {
		_, err := r.Principals().Suspend(ctx, &deputyv1.SuspendRequest{Principal: harness.Ref("user:alice")})
		return "user:alice#suspended", err
	},
	"EndSession": func(ctx context.Context, r *runaway) (string, error) {
		_, err := r.Sessions().EndSession(ctx, &deputyv1.EndSessionRequest{SessionId: r.shared.GetSessionId()})
		return "session:" + r.shared.GetSessionId() + "#ended", err
	},
	"RevokeDelegation": func(ctx context.Context, r *runaway) (string, error) {
		_, err := r.Delegations().RevokeDelegation(ctx, &deputyv1.RevokeDelegationRequest{DelegationId: r.all.GetDelegationId()})
		return "delegation:" + r.all.GetDelegationId() + "#revoked", err
	},
	"Brake an agent": func(ctx context.Context, r *runaway) (string, error) {
		_, err := r.brakes().Brake(ctx, brakeAgent("bot"))
		return "agent:bot#suspended", err
	},
	"Brake a principal": func(ctx context.Context, r *runaway) (string, error) {
		_, err := r.brakes().Brake(ctx, brakePrincipal("user:alice"))
		return "user:alice#suspended", err
	},
	"Brake a tenant": func(ctx context.Context, r *runaway) (string, error) {
		_, err := r.brakes().Brake(ctx, brakeTenant("acme"))
		return "tenant:acme#suspended", err
	},
}

// race has connections to all servers check while a call stops what they stand on.
func race(r *runaway, servers []*harness.Server, stop func(context.Context, *runaway) (string, error)) {
	r.Helper()
	const each, before, after = 4, 10, 5
	ctx := r.Context()
	var stopped atomic.Bool
	var warm, workers sync.WaitGroup
	last := make([]*deputyv1.ZedToken, each*len(servers))
	warm.Add(len(last))
	for i := range last {
		conn := harness.Dial(r.T, servers[i%len(servers)].Addr().String(), harness.ServiceKey)
		permissions := deputyv1.NewPermissionsServiceClient(conn)
		workers.Go(func() {
			ready := sync.OnceFunc(warm.Done)
			defer ready()
			for n, refused := 0, 0; refused < after; n++ {
				if n == before {
					ready()
				}
				late := stopped.Load()
				resp, err := permissions.CheckPermission(ctx, r.forAlice().CheckPermissionRequest)
				switch {
				case err != nil:
					r.Error(err)
					return
				case resp.GetPermissionship() == has && late:
					r.Error("a check that began after the call had returned is allowed")
					return
				case resp.GetPermissionship() == has:
					last[i] = resp.GetCheckedAt()
				case late:
					refused++
				}
			}
		})
	}
	warm.Wait()
	tombstone, err := stop(ctx, r)
	stopped.Store(true)
	workers.Wait()
	r.ok(err)
	if r.stands(nil, tombstone) == 0 {
		r.Errorf("%s does not stand, so this test sees nothing", tombstone)
	}
	for i, at := range last {
		if at == nil {
			r.Errorf("connection %d was never allowed", i)
		} else if r.stands(at, tombstone) > 0 {
			r.Errorf("a check was allowed at a revision at which %s stands", tombstone)
		}
	}
}

// stands reads whether a tombstone, "type:id#relation", stands at the revision of a token; nil is the head.
func (r *runaway) stands(at *deputyv1.ZedToken, tombstone string) (found int) {
	r.Helper()
	var kind, id, relation string
	if _, err := fmt.Sscanf(spaced(tombstone), "%s %s %s", &kind, &id, &relation); err != nil {
		r.Fatal(err)
	}
	consistency := &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}
	if at != nil {
		// A sealed token is: 10 bytes, SpiceDB's token, and 16 bytes.
		sealed, err := base64.RawURLEncoding.DecodeString(at.GetToken())
		r.ok(err)
		consistency.Requirement = &v1.Consistency_AtExactSnapshot{AtExactSnapshot: &v1.ZedToken{Token: string(sealed[10 : len(sealed)-16])}}
	}
	stream, err := v1.NewPermissionsServiceClient(r.Admin).ReadRelationships(r.Context(), &v1.ReadRelationshipsRequest{
		Consistency:        consistency,
		RelationshipFilter: &v1.RelationshipFilter{ResourceType: kind, OptionalResourceId: id, OptionalRelation: relation},
	})
	return count(r.T, stream, err)
}

// spaced is "type id relation".
func spaced(tombstone string) string {
	out := []byte(tombstone)
	for i, c := range out {
		if c == ':' || c == '#' {
			out[i] = ' '
		}
	}
	return string(out)
}
