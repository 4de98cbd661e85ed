package daemon_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestBrakeOnFullStoreDisk: while checks come from many connections the disk of the store has no room left, and an agent is braked. The brake says
// that it was not written, and so it is: the suspension stands at no revision. With a little room it goes through, and from then on no check is
// allowed, nor was one before at a revision at which the suspension stands.
func TestBrakeOnFullStoreDisk(t *testing.T) {
	const plenty, tight, nothing = 10_000, 200, 60
	disk := &tightDisk{FS: vfs.Default}
	disk.mebibytes.Store(plenty)
	s := furnished(t, harness.Start(t, daemon.Config{Engine: harness.Embedded(t)}.On(disk)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	brakes := deputyv1.NewBrakeServiceClient(s.Admin)
	brake := func() (*deputyv1.BrakeResponse, error) {
		return brakes.Brake(ctx, &deputyv1.BrakeRequest{Target: &deputyv1.BrakeRequest_AgentId{AgentId: "bot"}, Reason: "it runs away"})
	}
	stands := func(at *authzed.ZedToken) bool {
		consistency := &authzed.Consistency{Requirement: &authzed.Consistency_FullyConsistent{FullyConsistent: true}}
		if at != nil {
			consistency.Requirement = &authzed.Consistency_AtExactSnapshot{AtExactSnapshot: at}
		}
		stream := must(authzed.NewPermissionsServiceClient(s.Engine()).ReadRelationships(ctx, &authzed.ReadRelationshipsRequest{
			Consistency:        consistency,
			RelationshipFilter: &authzed.RelationshipFilter{ResourceType: "agent", OptionalResourceId: "bot", OptionalRelation: "suspended"},
		}))
		_, err := stream.Recv()
		return err == nil
	}
	const connections, after = 4, 5
	var braked atomic.Bool
	var allowed atomic.Int64
	var workers sync.WaitGroup
	last := make([]*deputyv1.ZedToken, connections)
	for i := range connections {
		permissions := deputyv1.NewPermissionsServiceClient(harness.Dial(t, s.Addr().String(), harness.ServiceKey))
		workers.Go(func() {
			for refused := 0; refused < after; {
				late := braked.Load()
				a, err := permissions.CheckPermission(ctx, s.question(nil))
				switch {
				case err != nil:
					t.Error(err)
					return
				case a.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION && late:
					t.Error("a check that began after the brake is allowed")
					return
				case a.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION:
					last[i] = a.GetCheckedAt()
					allowed.Add(1)
				case late:
					refused++
				}
			}
		})
	}
	more := func() { // until each connection has been allowed again
		for until := allowed.Load() + 3*connections; allowed.Load() < until && ctx.Err() == nil; runtime.Gosched() {
		}
	}
	more()
	disk.mebibytes.Store(nothing)
	// The disk is not asked at each write, so that the store takes some more. Each is about another user: to resume one again writes nothing.
	for fresh := 0; ; fresh++ {
		_, err := s.Principals().Resume(ctx, &deputyv1.ResumeRequest{Principal: harness.Ref(fmt.Sprintf("user:fresh-%d", fresh))})
		if status.Code(err) == codes.ResourceExhausted {
			break
		}
		if err != nil || ctx.Err() != nil {
			t.Fatalf("after %d writes: %v", fresh, err)
		}
	}
	if by, err := brake(); status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() == "" {
		t.Errorf("without room the brake answers %v, %v", by, err)
	}
	if stands(nil) {
		t.Error("a brake that was refused stands")
	}
	more()
	disk.mebibytes.Store(tight)
	by, err := brake()
	braked.Store(true)
	workers.Wait()
	if err != nil || by.GetSessionsEnded() != 1 || !by.GetComplete() {
		t.Fatalf("with a little room the brake answers %v, %v", by, err)
	}
	if !stands(plainToken(t, by.GetWrittenAt())) {
		t.Error("the suspension does not stand where it was written, so this test sees nothing")
	}
	for i, at := range last {
		if at == nil || stands(plainToken(t, at)) {
			t.Errorf("connection %d was allowed last at %v, where the suspension stands", i, at)
		}
	}
}
