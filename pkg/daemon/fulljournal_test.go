package daemon_test

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/statuses"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// fillable is the file system with a disk that takes no writes while it is full.
func fillable(full *atomic.Bool) vfs.FS {
	return errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.ENOSPC
		}
		return nil
	}))
}

// TestFullJournalDisk: while the journal's disk is full nothing is decided, read or written, and the engine is not asked to write; what takes access
// away goes through, takes effect, and is recorded, late; with room again all is as before.
func TestFullJournalDisk(t *testing.T) {
	var full atomic.Bool
	files := fillable(&full)
	store := harness.Embedded(t)
	s := harness.Start(t, daemon.Config{Engine: store}.JournalOn(files))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s.WriteSchema(t, schema.Core+"\ndefinition document {\n\trelation tenant: tenant\n\trelation reader: user | agent | delegation\n\tpermission view = reader\n}\n")
	for _, who := range []string{"user:alice", "user:carol", "tenant:acme"} {
		_, err := s.Principals().Resume(ctx, &deputyv1.ResumeRequest{Principal: harness.Ref(who)})
		must(err)
	}
	for _, agent := range []string{"bot", "other"} {
		_, err := s.Agents().RegisterAgent(ctx, &deputyv1.RegisterAgentRequest{AgentId: agent, OwnerIds: []string{"carol"}})
		must(err)
	}
	s.Touch(t, "tenant:acme#member@user:alice", "tenant:acme#agent@agent:bot", "tenant:acme#agent@agent:other", "document:plan#tenant@tenant:acme",
		"document:plan#reader@user:alice", "document:plan#reader@agent:bot", "document:plan#reader@agent:other")
	delegate := func(agent string) string {
		made, err := s.Delegations().CreateDelegation(ctx, &deputyv1.CreateDelegationRequest{
			AgentId: agent, Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice")}, TenantId: "acme", Unscoped: true, AllowDirect: true,
			Ttl: durationpb.New(time.Hour),
		})
		must(err)
		return made.GetDelegation().GetDelegationId()
	}
	revoked := delegate("bot")
	delegate("other")
	started, err := s.Sessions().StartSession(ctx, &deputyv1.StartSessionRequest{
		AgentId: "bot", Targets: []*deputyv1.SessionTarget{{DelegationId: revoked}}, Ttl: durationpb.New(time.Hour),
	})
	must(err)
	session := started.GetSession().GetSessionId()
	check := func(agent string) (*deputyv1.CheckPermissionResponse, error) {
		return s.Permissions().CheckPermission(ctx, &deputyv1.CheckPermissionRequest{
			AgentId: agent, OnBehalfOf: harness.Ref("user:alice"), TenantId: "acme", Resource: harness.Ref("document:plan"), Permission: "view",
		})
	}
	spice := v1.NewPermissionsServiceClient(s.Admin)
	head := func() string {
		got, err := v1.NewSchemaServiceClient(s.Engine()).ReadSchema(ctx, &v1.ReadSchemaRequest{})
		must(err)
		return got.GetReadAt().GetToken()
	}
	// calls are those that are refused; of two streams the first message does not come.
	calls := map[string]func() error{
		"a decision": func() error { _, err := check("other"); return err },
		"a decision in the process": func() error {
			alice, _ := authz.NewUser("alice")
			_, err := s.Decide(ctx, authz.Case{
				Agent: "other", Tenant: "acme", Principal: alice, Resource: authz.Object{Type: "document", ID: "plan"}, Permission: "view",
			}, authz.Freshness{})
			if authz.KindOf(err) == authz.Unavailable {
				return statuses.New(codes.Unavailable, authz.ReasonJournalUnavailable, "", "").Err()
			}
			return err
		},
		"a lookup": func() error {
			stream, err := s.Audit().LookupAgents(ctx, &deputyv1.LookupAgentsRequest{Resource: harness.Ref("document:plan"), Permission: "view"})
			must(err)
			_, err = stream.Recv()
			return err
		},
		"a read": func() error {
			_, err := s.Agents().GetAgent(ctx, &deputyv1.GetAgentRequest{AgentId: "bot"})
			return err
		},
		"a bad read": func() error { _, err := s.Agents().GetAgent(ctx, &deputyv1.GetAgentRequest{}); return err },
		"a refused call": func() error {
			_, err := deputyv1.NewStoreServiceClient(s.Service).Compact(ctx, &deputyv1.CompactRequest{})
			return err
		},
		"SpiceDB's check": func() error {
			_, err := spice.CheckPermission(ctx, &v1.CheckPermissionRequest{
				Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: "plan"}, Permission: "view",
				Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
			})
			return err
		},
		"a read of relationships": func() error {
			stream, err := spice.ReadRelationships(ctx, &v1.ReadRelationshipsRequest{RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document"}})
			must(err)
			_, err = stream.Recv()
			return err
		},
		"a write of relationships": func() error {
			_, err := harness.Update(ctx, s.Admin, v1.RelationshipUpdate_OPERATION_TOUCH, "document:new#reader@user:alice")
			return err
		},
		"a write of the schema": func() error {
			_, err := v1.NewSchemaServiceClient(s.Admin).WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: schema.Core})
			return err
		},
		"resuming": func() error {
			_, err := s.Agents().ResumeAgent(ctx, &deputyv1.ResumeAgentRequest{AgentId: "bot"})
			return err
		},
		"an import": func() error {
			stream, err := spice.ImportBulkRelationships(ctx)
			must(err)
			_ = stream.Send(&v1.ImportBulkRelationshipsRequest{Relationships: []*v1.Relationship{{
				Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: "imported"}, Relation: "reader",
				Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
			}}})
			_, err = stream.CloseAndRecv()
			return err
		},
	}
	if a, err := check("bot"); err != nil || a.GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
		t.Fatalf("the bot is answered %v, %v", a, err)
	}

	full.Store(true)
	before := head()
	for name, call := range calls {
		err := call()
		if status.Code(err) != codes.Unavailable || statuses.Info(status.Convert(err)).GetReason() != authz.ReasonJournalUnavailable {
			t.Errorf("%s ends with %v, want UNAVAILABLE/JOURNAL_UNAVAILABLE", name, err)
		}
	}
	if head() != before {
		t.Error("something was written, and nothing says so")
	}
	_, err = s.Sessions().EndSession(ctx, &deputyv1.EndSessionRequest{SessionId: session})
	must(err)
	_, err = s.Delegations().RevokeDelegation(ctx, &deputyv1.RevokeDelegationRequest{DelegationId: revoked})
	must(err)
	_, err = s.Agents().SuspendAgent(ctx, &deputyv1.SuspendAgentRequest{AgentId: "other"})
	must(err)
	_, err = s.Principals().Suspend(ctx, &deputyv1.SuspendRequest{Principal: harness.Ref("user:carol")})
	must(err)

	full.Store(false)
	// With room again it is answered again, and what was taken away is gone.
	for _, agent := range []string{"bot", "other"} {
		var a *deputyv1.CheckPermissionResponse
		for {
			if a, err = check(agent); status.Code(err) != codes.Unavailable || ctx.Err() != nil {
				break
			}
		}
		if err != nil || a.GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION {
			t.Errorf("%s is answered %v, %v", agent, a, err)
		}
	}
	for name, call := range calls {
		if err := call(); status.Code(err) == codes.Unavailable {
			t.Errorf("%s ends with %v, and there is room", name, err)
		}
	}
	reader, err := journal.OpenReader(journal.ReaderConfig{Dir: daemon.JournalDir(store.Dir)})
	must(err)
	ended, late := map[string]int{}, 0
	_, err = reader.Query(ctx, &journal.Query{}, nil, func(f journal.Found) (bool, error) {
		if f.Record.GetStage() == deputyv1.RecordStage_RECORD_STAGE_ENDED && f.Record.GetCode() == 0 {
			ended[f.Record.GetMethod()]++
		}
		if f.Record.GetLate() {
			late++
		}
		return true, nil
	})
	must(err)
	for _, method := range []string{
		"SessionsService/EndSession", "DelegationsService/RevokeDelegation", "AgentsService/SuspendAgent", "PrincipalsService/Suspend",
	} {
		if ended["deputy.v1."+method] != 1 {
			t.Errorf("%s went through, and has %d records of its end", method, ended["deputy.v1."+method])
		}
	}
	if late == 0 {
		t.Error("no record is marked as late")
	}
}
