package daemon_test

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// tightDisk is the operating system's file system with as much room as a test says.
type tightDisk struct {
	vfs.FS
	mebibytes atomic.Uint64
}

func (d *tightDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.mebibytes.Load() << 20, TotalBytes: 1 << 40}, nil
}

// TestNearlyFullDiskStopsAgents: on a disk with too little room for other writes whatever takes access away is written, and the
// next decision refuses; what gives access is refused. With less room than even that may take, all writes are.
func TestNearlyFullDiskStopsAgents(t *testing.T) {
	const plenty, tight, nothing = 10_000, 200, 60
	ctx := context.Background() // beyond the test, for the server
	disk := &tightDisk{FS: vfs.Default}
	disk.mebibytes.Store(plenty)
	d, err := daemon.Open(ctx, daemon.Config{
		Engine: engine.Config{Kind: engine.Embedded, Dir: t.TempDir(), CacheBytes: 8 << 20}, AdminPresharedKeys: []string{adminKey},
	}.On(disk), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	serving, stop := context.WithCancel(ctx)
	go func() { served <- d.Serve(serving) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	c := must(client.Dial(d.Addr().String(), client.WithPresharedKey(adminKey), client.WithInsecure()))
	t.Cleanup(func() { _ = c.Close() })
	furnish(ctx, c)
	ref := func(kind, id string) *deputyv1.ObjectReference {
		return &deputyv1.ObjectReference{ObjectType: kind, ObjectId: id}
	}
	suspend := func(kind, id string) error {
		_, err := c.Principals.Suspend(ctx, &deputyv1.SuspendRequest{Principal: ref(kind, id)})
		return err
	}
	resume := func(kind, id string) error {
		_, err := c.Principals.Resume(ctx, &deputyv1.ResumeRequest{Principal: ref(kind, id)})
		return err
	}
	brake := func(b client.Brake) error {
		b.Reason = "a test"
		_, err := c.Brake(ctx, b)
		return err
	}
	plain := authzed.NewPermissionsServiceClient(c.Conn())
	reader := &authzed.Relationship{
		Resource: object("document:plan"), Relation: "reader", Subject: &authzed.SubjectReference{Object: object("user:alice")},
	}
	write := func(op authzed.RelationshipUpdate_Operation) error {
		_, err := plain.WriteRelationships(ctx, &authzed.WriteRelationshipsRequest{
			Updates: []*authzed.RelationshipUpdate{{Operation: op, Relationship: reader}},
		})
		return err
	}
	touch := func() error { return write(authzed.RelationshipUpdate_OPERATION_TOUCH) }
	n := 0
	fresh := func() error {
		n++
		_, err := plain.WriteRelationships(ctx, &authzed.WriteRelationshipsRequest{Updates: []*authzed.RelationshipUpdate{{
			Operation: authzed.RelationshipUpdate_OPERATION_TOUCH,
			Relationship: &authzed.Relationship{
				Resource: object(fmt.Sprintf("document:fresh%d", n)), Relation: "reader",
				Subject: &authzed.SubjectReference{Object: object("user:alice")},
			},
		}}})
		return err
	}
	alice, _ := authz.NewPrincipal(authz.Object{Type: authz.TypeUser, ID: "alice"})
	var delegation, session string
	for _, step := range []struct {
		name         string
		narrow, back func() error
		// elsewhere says that it is about somebody else than the session is.
		elsewhere bool
		// ends says that the session ends with it, so that it does not act once access is given back.
		ends bool
	}{
		{name: "EndSession", narrow: func() error {
			_, err := c.Sessions.EndSession(ctx, &deputyv1.EndSessionRequest{SessionId: session})
			return err
		}},
		{name: "RevokeDelegation", narrow: func() error {
			_, err := c.Delegations.RevokeDelegation(ctx, &deputyv1.RevokeDelegationRequest{DelegationId: delegation})
			return err
		}},
		{name: "SuspendAgent", narrow: func() error {
			_, err := c.Agents.SuspendAgent(ctx, &deputyv1.SuspendAgentRequest{AgentId: "bot"})
			return err
		}, back: func() error {
			_, err := c.Agents.ResumeAgent(ctx, &deputyv1.ResumeAgentRequest{AgentId: "bot"})
			return err
		}},
		{name: "Brake an agent", narrow: func() error { return brake(client.Brake{Agent: "bot"}) }, back: func() error {
			_, err := c.ResumeAgent(ctx, "bot")
			return err
		}, ends: true},
		{name: "Brake a user", narrow: func() error { return brake(client.Brake{Principal: client.User("alice")}) },
			back: func() error { return resume("user", "alice") }, ends: true},
		{name: "Brake a tenant", narrow: func() error { return brake(client.Brake{Tenant: "acme"}) },
			back: func() error { return resume("tenant", "acme") }, ends: true},
		{name: "Brake a session", narrow: func() error { return brake(client.Brake{Session: session}) }},
		{name: "Brake a delegation", narrow: func() error { return brake(client.Brake{Delegation: delegation}) }},
		{name: "Suspend a user", narrow: func() error { return suspend("user", "alice") }, back: func() error { return resume("user", "alice") }},
		{name: "Suspend a tenant", narrow: func() error { return suspend("tenant", "acme") }, back: func() error { return resume("tenant", "acme") }},
		{name: "Suspend a service", narrow: func() error { return suspend("service", "nightly") },
			back: func() error { return resume("service", "nightly") }, elsewhere: true},
		{name: "DeleteRelationships", narrow: func() error {
			_, err := plain.DeleteRelationships(ctx, &authzed.DeleteRelationshipsRequest{RelationshipFilter: &authzed.RelationshipFilter{
				ResourceType: "document", OptionalResourceId: "plan", OptionalRelation: "reader",
				OptionalSubjectFilter: &authzed.SubjectFilter{SubjectType: "user", OptionalSubjectId: "alice"},
			}})
			return err
		}, back: touch},
		{name: "WriteRelationships that deletes", narrow: func() error { return write(authzed.RelationshipUpdate_OPERATION_DELETE) }, back: touch},
	} {
		t.Run(step.name, func(t *testing.T) {
			disk.mebibytes.Store(plenty)
			named, started := entrust(ctx, c, "alice")
			delegation, session = named, started
			decides := func(want authz.Permissionship) {
				t.Helper()
				got, err := d.Decide(ctx, authz.Case{
					Agent: "bot", Session: authz.SessionID(started), Principal: alice, Tenant: "acme",
					Resource: authz.Object{Type: "document", ID: "plan"}, Permission: "view",
				}, authz.Freshness{})
				if err != nil || got.Permissionship != want {
					t.Errorf("the decision is %v, not %v: %v", got.Permissionship, want, err)
				}
			}
			refuses := func(call func() error, what string) {
				t.Helper()
				if err := call(); status.Code(err) != codes.ResourceExhausted {
					t.Errorf("%s got %v", what, err)
				}
			}
			decides(authz.HasPermission)
			disk.mebibytes.Store(nothing)
			for deadline := time.Now().Add(time.Minute); fresh() == nil; runtime.Gosched() { // the disk is not asked at each write
				if time.Now().After(deadline) {
					t.Fatal("writes are never refused")
				}
			}
			refuses(step.narrow, "with nothing left it")
			decides(authz.HasPermission)
			disk.mebibytes.Store(tight)
			refuses(func() error {
				_, err := c.Sessions.StartSession(ctx, &deputyv1.StartSessionRequest{
					AgentId: "bot", Targets: []*deputyv1.SessionTarget{{DelegationId: delegation}},
				})
				return err
			}, "starting another session")
			if err := step.narrow(); err != nil {
				t.Fatalf("it was refused: %v", err)
			}
			if !step.elsewhere {
				decides(authz.NoPermission)
			}
			if err := step.narrow(); err != nil {
				t.Errorf("once more it was refused: %v", err)
			}
			if step.back != nil {
				refuses(step.back, "giving access back")
				disk.mebibytes.Store(plenty)
				if err := step.back(); err != nil {
					t.Fatal(err)
				}
				want := authz.HasPermission
				if step.ends {
					want = authz.NoPermission
				}
				decides(want)
			}
		})
	}
}
