//go:build unix

package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestPurgeKill kills a server in the middle of a purge, again and again, while others that are over are made. Whatever was purged by then is
// gone whole or answers as what is over, nothing that was over acts, and lists of what is live are exact. After a purge that comes to its end
// nothing of it is left, and no idempotency key leads to a session that was.
func TestPurgeKill(t *testing.T) {
	const rounds, ended = 3, 150
	dir := t.TempDir()
	server := start(t, dir)
	server.people(t)
	var live, over []string
	for round := range rounds {
		for i := range ended {
			over = append(over, server.run(t, fmt.Sprintf("key-%d-%d", round, i)))
		}
		live = append(live, server.run(t, fmt.Sprintf("live-%d", round)))
		server.end(t, over[len(over)-ended:])
		server.purgeUntilKilled(t)
		server = start(t, dir)
		t.Logf("round %d: of %d sessions that had ended %d were purged at the kill", round, len(over), server.tombstones(t))
		server.hasLive(t, live)
		for _, id := range over {
			if answer, err := server.ask(t, id); err == nil && answer == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
				t.Errorf("after a kill the session %s, which had ended, is allowed", id)
			}
		}
	}
	server.purge(t)
	server.hasLive(t, live)
	ctx, cancel := server.context(t)
	defer cancel()
	sessions := deputyv1.NewSessionsServiceClient(server.conn)
	for i, id := range over {
		if _, err := sessions.GetSession(ctx, &deputyv1.GetSessionRequest{SessionId: id}); status.Code(err) != codes.NotFound {
			t.Errorf("the session %s, which was purged, reads as %v", id, err)
		}
		again, err := sessions.StartSession(ctx, server.starts(t, fmt.Sprintf("key-%d-%d", i/ended, i%ended)))
		if status.Code(err) != codes.AlreadyExists {
			t.Errorf("the key of a session that was purged starts %v, %v", again, err)
		}
	}
	left, err := server.count(ctx, &v1.RelationshipFilter{ResourceType: "session", OptionalRelation: "agent"})
	if err != nil || left != len(live) {
		t.Errorf("%d sessions are left, %v; want %d", left, err, len(live))
	}
	for _, id := range live {
		if answer, err := server.ask(t, id); err != nil || answer != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
			t.Errorf("a live session is answered %s, %v", answer, err)
		}
	}
	server.kill(t)
}

// starts asks for a session of bot's for alice.
func (s *serving) starts(t *testing.T, key string) *deputyv1.StartSessionRequest {
	t.Helper()
	ctx, cancel := s.context(t)
	defer cancel()
	found, err := deputyv1.NewDelegationsServiceClient(s.conn).ListDelegations(ctx, &deputyv1.ListDelegationsRequest{AgentId: "bot"})
	if err != nil || len(found.GetDelegations()) != 1 {
		t.Fatalf("bot has %v, %v", found, err)
	}
	return &deputyv1.StartSessionRequest{
		AgentId: "bot", IdempotencyKey: key, Targets: []*deputyv1.SessionTarget{{DelegationId: found.GetDelegations()[0].GetDelegationId()}},
	}
}

// run starts a session, and returns its id.
func (s *serving) run(t *testing.T, key string) string {
	t.Helper()
	ctx, cancel := s.context(t)
	defer cancel()
	started, err := deputyv1.NewSessionsServiceClient(s.conn).StartSession(ctx, s.starts(t, key))
	if err != nil {
		t.Fatal(err)
	}
	return started.GetSession().GetSessionId()
}

// end ends sessions.
func (s *serving) end(t *testing.T, ids []string) {
	t.Helper()
	ctx, cancel := s.context(t)
	defer cancel()
	for _, id := range ids {
		if _, err := deputyv1.NewSessionsServiceClient(s.conn).EndSession(ctx, &deputyv1.EndSessionRequest{SessionId: id}); err != nil {
			t.Fatal(err)
		}
	}
}

// purgeUntilKilled has the server purge all that is over, and kills it once the first tombstone stands.
func (s *serving) purgeUntilKilled(t *testing.T) {
	t.Helper()
	ctx, cancel := s.context(t)
	defer cancel()
	before := s.tombstones(t)
	done := make(chan error, 1)
	go func() { done <- s.purgeAll(ctx) }()
	for s.tombstones(t) == before {
		if ctx.Err() != nil {
			t.Fatalf("nothing is purged; the server's log:\n%s", s.Log())
		}
	}
	s.kill(t)
	<-done // how it ended does not matter
}

// tombstones counts the sessions that were purged.
func (s *serving) tombstones(t *testing.T) int {
	t.Helper()
	ctx, cancel := s.context(t)
	defer cancel()
	n, err := s.count(ctx, &v1.RelationshipFilter{ResourceType: "session", OptionalRelation: "purged"})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// count counts relationships, at the head.
func (s *serving) count(ctx context.Context, of *v1.RelationshipFilter) (n int, err error) {
	stream, err := s.permissions().ReadRelationships(ctx, &v1.ReadRelationshipsRequest{
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}, RelationshipFilter: of,
	})
	for err == nil {
		if _, err = stream.Recv(); err == nil {
			n++
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// purge purges all that is over.
func (s *serving) purge(t *testing.T) {
	t.Helper()
	ctx, cancel := s.context(t)
	defer cancel()
	if err := s.purgeAll(ctx); err != nil {
		t.Fatal(err)
	}
}

func (s *serving) purgeAll(ctx context.Context) error {
	request := &deputyv1.PurgeRequest{OlderThan: durationpb.New(0)}
	for {
		did, err := deputyv1.NewRetentionServiceClient(s.conn).Purge(ctx, request)
		if err != nil || did.GetComplete() {
			return err
		}
		request.Cursor = did.GetNext()
	}
}

// hasLive compares the list of live sessions with what there should be.
func (s *serving) hasLive(t *testing.T, want []string) {
	t.Helper()
	ctx, cancel := s.context(t)
	defer cancel()
	found, err := deputyv1.NewSessionsServiceClient(s.conn).ListSessions(ctx, &deputyv1.ListSessionsRequest{AgentId: "bot", Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, one := range found.GetSessions() {
		got = append(got, one.GetSessionId())
	}
	slices.Sort(got)
	if !slices.Equal(got, slices.Sorted(slices.Values(want))) || !found.GetComplete() {
		t.Errorf("live are %v, want %v", got, want)
	}
}

// ask checks in a session.
func (s *serving) ask(t *testing.T, session string) (deputyv1.Permissionship, error) {
	t.Helper()
	ctx, cancel := s.context(t)
	defer cancel()
	a, err := deputyv1.NewPermissionsServiceClient(s.conn).CheckPermission(ctx, &deputyv1.CheckPermissionRequest{
		AgentId: "bot", Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: session}, Resource: harness.Ref("document:known-1"), Permission: "view",
	})
	return a.GetPermissionship(), err
}
