package tokens

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestWatchEndsWithItsToken: a watch that an agent's token began ends when the token does, with a status, because the permission itself has not ended.
// Until then each message says so. A watch of the same permission without a token goes on.
func TestWatchEndsWithItsToken(t *testing.T) {
	t.Parallel()
	issuer := harness.NewIssuer(t)
	s := harness.Start(t, daemon.Config{
		Engine: engine.Config{Kind: engine.Memory}, Issuers: []token.Issuer{issuer.Known(t, t.TempDir())}, Actors: []actor.Issuer{issuer.Actors(t)},
		PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
	})
	session := furnish(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	watch := func(raw string) grpc.ServerStreamingClient[deputyv1.WatchPermissionResponse] {
		stream, err := s.Permissions().WatchPermission(ctx, &deputyv1.WatchPermissionRequest{
			Check: &deputyv1.CheckPermissionRequest{
				AgentId: "bot", ActorToken: raw, Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: session},
				Resource: harness.Ref("document:plan"), Permission: "view",
			},
			Heartbeat: durationpb.New(time.Second),
		})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	ends := time.Now().Truncate(time.Second).Add(4 * time.Second)
	without := watch("")
	with := watch(issuer.Sign(t, token.DefaultType, issuer.Claims("alice", map[string]any{
		"act": map[string]any{"sub": "bot"}, "exp": ends.Unix(),
	})))
	messages := 0
	for ; ; messages++ {
		m, err := with.Recv()
		if err != nil {
			if at := time.Now(); at.Before(ends) {
				t.Errorf("%v, at %s; the token ends at %s", err, at, ends)
			}
			is(t, err, codes.PermissionDenied, invalid, "actor_token")
			break
		}
		until := m.GetHolds().GetValidUntil()
		if messages == 0 {
			until = m.GetDecision().GetValidUntil()
		}
		if m.GetEnded() != nil || !until.AsTime().Equal(ends) {
			t.Errorf("%v; want that the permission holds until %s", m, ends)
		}
	}
	if messages < 2 {
		t.Errorf("%d messages came before the end; want the decision and a heartbeat", messages)
	}
	for {
		m, err := without.Recv()
		if err != nil || m.GetEnded() != nil {
			t.Fatalf("the watch without a token ends: %v, %v", m, err)
		}
		if until := m.GetHolds().GetValidUntil(); until != nil && time.Now().After(ends.Add(time.Second)) {
			break
		}
	}
}
