package decision_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestSameKeyAtOnce: calls at the same time with one idempotency key all get the one thing that was made, whichever of
// them made it, and it works.
func TestSameKeyAtOnce(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true})
		start := func(frozen bool) func(context.Context, string) (proto.Message, error) {
			return func(ctx context.Context, key string) (proto.Message, error) {
				resp, err := w.Sessions().StartSession(ctx, &deputyv1.StartSessionRequest{
					AgentId: "bot", Targets: []*deputyv1.SessionTarget{target(d)}, Frozen: frozen, IdempotencyKey: key,
				})
				return resp.GetSession(), err
			}
		}
		for name, call := range map[string]func(context.Context, string) (proto.Message, error){
			"frozen session": start(true),
			"session":        start(false),
			"delegation": func(ctx context.Context, key string) (proto.Message, error) {
				resp, err := w.Delegations().CreateDelegation(ctx, &deputyv1.CreateDelegationRequest{
					AgentId: "bot", Principal: subject("user:alice"), TenantId: "acme", Unscoped: true, AllowDirect: true, Ttl: hour, IdempotencyKey: key,
				})
				return resp.GetDelegation(), err
			},
			"agent": func(ctx context.Context, key string) (proto.Message, error) {
				resp, err := w.Agents().RegisterAgent(ctx, &deputyv1.RegisterAgentRequest{AgentId: "made-" + key, OwnerIds: []string{"carol"}, IdempotencyKey: key})
				return resp.GetAgent(), err
			},
		} {
			t.Run(name, func(t *testing.T) {
				w := &world{t, s}
				rounds := 12
				if s.SlowEngine() {
					rounds = 4
				}
				for round := range rounds {
					const callers = 4
					var (
						made  [callers]proto.Message
						errs  [callers]error
						work  sync.WaitGroup
						ready = make(chan struct{})
					)
					for i := range callers {
						work.Go(func() {
							<-ready
							made[i], errs[i] = call(t.Context(), fmt.Sprintf("%s %d", name, round))
						})
					}
					close(ready)
					work.Wait()
					for i := range callers {
						w.ok(errs[i])
						if !proto.Equal(made[i], made[0]) {
							t.Fatalf("round %d: one call gets\n%s\nand another\n%s", round, prototext.Format(made[0]), prototext.Format(made[i]))
						}
					}
					if run, ok := made[0].(*deputyv1.Session); ok {
						w.allow(inSession(run).view("document:plan"))
					}
				}
			})
		}
	})
}
