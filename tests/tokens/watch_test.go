package tokens

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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

// TestWatchThatCouldNotBeginAnyMore: a watch ends once the same question would be refused because of the agent's token, or for want of one. Others go on.
func TestWatchThatCouldNotBeginAnyMore(t *testing.T) {
	t.Parallel()
	const (
		actors = `, actors: {audiences: ["https://deputy.example.com"], agent: "{act.sub}", principal: "user:{sub}"}`
		bound  = "agents: [{id: bot, actor_token: required}]"
	)
	for name, test := range map[string]struct {
		// after is what the callers file says from then on: of the issuer, and of agents.
		after, agents string
		rotates       bool
		// with and without are the reasons for which the watch with a token ends, and the one without; "" goes on.
		with, without string
	}{
		"the agent is bound to its token": {after: actors, agents: bound, without: required},
		"the issuer names no agents":      {with: invalid},
		"the server has another name":     {after: `, actors: {audiences: [other], agent: "{act.sub}", principal: "user:{sub}"}`, with: invalid},
		"the agent has another name":      {after: `, actors: {audiences: ["https://deputy.example.com"], agent: "x/{act.sub}", principal: "user:{sub}"}`, with: mismatch},
		"the key is withdrawn":            {after: actors, rotates: true, with: invalid},
		"another agent is bound":          {after: actors, agents: "agents: [{id: helper, actor_token: required}]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			issuer, file := harness.NewIssuer(t), filepath.Join(dir, "callers.yaml")
			issuer.Known(t, dir)
			write := func(of, agents string) {
				t.Helper()
				text := fmt.Sprintf("issuers: [{issuer: https://login.example.com, audiences: [callers], algorithms: [ES256], jwks_file: jwks.json%s}]\n%s\ncallers: []\n",
					of, agents)
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(actors, "")
			s := harness.Start(t, daemon.Config{
				Engine: engine.Config{Kind: engine.Memory}, CallersPath: file,
				PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
			})
			session := furnish(t, s)
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
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
				if first, err := stream.Recv(); err != nil || first.GetDecision().GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
					t.Fatal(first, err)
				}
				return stream
			}
			with, without := watch(issuer.ActorToken(t, "bot", "alice")), watch("")
			write(test.after, test.agents)
			if err := s.Reload(); err != nil {
				t.Fatal(err)
			}
			if test.rotates {
				harness.NewIssuer(t).Known(t, dir)
			}
			for _, one := range []struct {
				stream grpc.ServerStreamingClient[deputyv1.WatchPermissionResponse]
				ends   string
			}{{with, test.with}, {without, test.without}} {
				var err error
				for beats := 0; err == nil && (one.ends != "" && beats < 20 || beats < 3); beats++ {
					_, err = one.stream.Recv()
				}
				if one.ends == "" && err != nil || one.ends != "" && err == nil {
					t.Errorf("%v, want the reason %q", err, one.ends)
				} else if one.ends != "" {
					is(t, err, codes.PermissionDenied, one.ends, "actor_token")
				}
			}
		})
	}
}
