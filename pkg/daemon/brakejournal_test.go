package daemon_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestBrakeOnFullJournalDisk: while checks come from many connections the journal's disk fills, and then an agent is braked. That goes through.
// With room again no check is allowed that begins after the brake, nor was one before at a revision at which the suspension stands. The brake is
// recorded with its reason, late; and so is, in its time, the dry run before.
func TestBrakeOnFullJournalDisk(t *testing.T) {
	var full atomic.Bool
	files := fillable(&full)
	store := harness.Embedded(t)
	s := furnished(t, harness.Start(t, daemon.Config{Engine: store}.JournalOn(files)))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	brakes := deputyv1.NewBrakeServiceClient(s.Admin)
	brake := func(dry bool, reason string) *deputyv1.BrakeResponse {
		return must(brakes.Brake(ctx, &deputyv1.BrakeRequest{Target: &deputyv1.BrakeRequest_AgentId{AgentId: "bot"}, Reason: reason, DryRun: dry}))
	}
	if reach := brake(true, "looked first").GetWouldStop(); reach.GetSessions() != 1 {
		t.Fatalf("it would stop %v", reach)
	}
	const connections, before, after = 6, 10, 5
	var braked atomic.Bool
	var warm, workers sync.WaitGroup
	last := make([]*deputyv1.ZedToken, connections)
	warm.Add(connections)
	for i := range connections {
		permissions := deputyv1.NewPermissionsServiceClient(harness.Dial(t, s.Addr().String(), harness.ServiceKey))
		workers.Go(func() {
			ready := sync.OnceFunc(warm.Done)
			defer ready()
			for n, refused := 0, 0; refused < after; n++ {
				if n == before {
					ready()
				}
				late := braked.Load()
				a, err := permissions.CheckPermission(ctx, s.question(nil))
				switch allowed := a.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION; {
				case status.Code(err) == codes.Unavailable: // the journal is full
				case err != nil:
					t.Error(err)
					return
				case allowed && late:
					t.Error("a check that began after the brake is allowed")
					return
				case allowed:
					last[i] = a.GetCheckedAt()
				case late:
					refused++
				}
			}
		})
	}
	warm.Wait()
	full.Store(true)
	by, err := brakes.Brake(ctx, &deputyv1.BrakeRequest{Target: &deputyv1.BrakeRequest_AgentId{AgentId: "bot"}, Reason: "it runs away"})
	braked.Store(true)
	full.Store(false)
	workers.Wait()
	if err != nil || by.GetSessionsEnded() != 1 || !by.GetComplete() {
		t.Fatalf("the brake answers %v, %v", by, err)
	}
	stands := func(at *authzed.ZedToken) bool {
		stream := must(authzed.NewPermissionsServiceClient(s.Engine()).ReadRelationships(ctx, &authzed.ReadRelationshipsRequest{
			Consistency:        &authzed.Consistency{Requirement: &authzed.Consistency_AtExactSnapshot{AtExactSnapshot: at}},
			RelationshipFilter: &authzed.RelationshipFilter{ResourceType: "agent", OptionalResourceId: "bot", OptionalRelation: "suspended"},
		}))
		_, err := stream.Recv()
		return err == nil
	}
	if !stands(plainToken(t, by.GetWrittenAt())) {
		t.Error("the suspension does not stand where it was written, so this test sees nothing")
	}
	for i, at := range last {
		if at == nil || stands(plainToken(t, at)) {
			t.Errorf("connection %d was allowed last at %v, where the suspension stands", i, at)
		}
	}
	var found []string
	reader := must(journal.OpenReader(journal.ReaderConfig{Dir: daemon.JournalDir(store.Dir)}))
	must(reader.Query(ctx, &journal.Query{Kinds: []deputyv1.RecordKind{deputyv1.RecordKind_RECORD_KIND_BRAKE}}, nil, func(f journal.Found) (bool, error) {
		if f.Record.GetStage() != deputyv1.RecordStage_RECORD_STAGE_BEGUN {
			found = append(found, fmt.Sprint(f.Record.GetAgentId(), " ", f.Record.GetGivenReason(), " ", f.Record.GetLate()))
		}
		return true, nil
	}))
	if want := "[bot looked first false bot it runs away true]"; fmt.Sprint(found) != want {
		t.Errorf("of brakes the journal has %v, want %s", found, want)
	}
}

// plainToken is SpiceDB's token of a sealed one, which is 10 bytes, that token, and 16 bytes.
func plainToken(t *testing.T, sealed *deputyv1.ZedToken) *authzed.ZedToken {
	t.Helper()
	all := must(base64.RawURLEncoding.DecodeString(sealed.GetToken()))
	return &authzed.ZedToken{Token: string(all[10 : len(all)-16])}
}
