//go:build linux

package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// domain stands beside the core.
const domain = `
definition document {
	relation tenant: tenant
	relation reader: user | agent | delegation
	permission view = reader
}
`

// extra is what the schema has besides, every other time that it is written.
const extra = `
definition draft {
	relation tenant: tenant
	relation author: user | agent
	permission view = author
}
`

// lanes is how many of each kind of load run beside each other, each with a user, an agent and documents of its own.
const lanes = 2

// patience bounds each call.
const patience = 30 * time.Second

// load is what is done to a server. It is safe for concurrent use.
type load struct {
	service, admin *grpc.ClientConn
	provider       *provider

	mu sync.Mutex
	// done counts calls by what they were.
	done map[string]int
	// wrong are answers that the model contradicts and errors that it does not expect; more is how many are not listed.
	wrong []string
	more  int
}

// mostWrong is how many wrongs are listed.
const mostWrong = 20

func (l *load) faultf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wrong) == mostWrong {
		l.more++
		return
	}
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// call makes a call, counts it, and takes every error for a fault, but that the load ends. Aborted is a lost race with
// another writer, which may try again.
func (l *load) call(ctx context.Context, name string, do func(context.Context) error) bool {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := do(bounded)
	for tries := 1; status.Code(err) == codes.Aborted && tries < 5; tries++ {
		err = do(bounded)
	}
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		l.faultf("%s: %v", name, err)
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done[name]++
	return true
}

// every does something at a pace until the load ends.
func every(ctx context.Context, pace time.Duration, do func(n int)) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do(n)
		}
	}
}

// prepare writes schema, people, agents and documents.
func (l *load) prepare(ctx context.Context) error {
	if _, err := v1.NewSchemaServiceClient(l.admin).WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: schema.Core + domain}); err != nil {
		return err
	}
	for _, kind := range []string{"runner", "granter", "stopper", "toggler", "signaled"} {
		for lane := range lanes {
			name := fmt.Sprintf("%s%d", kind, lane)
			req := &deputyv1.RegisterAgentRequest{AgentId: name, OwnerIds: []string{"root"}}
			if _, err := deputyv1.NewAgentsServiceClient(l.admin).RegisterAgent(ctx, req); err != nil {
				return err
			}
			if _, err := deputyv1.NewPrincipalsServiceClient(l.admin).Resume(ctx, &deputyv1.ResumeRequest{Principal: harness.Ref("user:" + name)}); err != nil {
				return err
			}
			if _, err := harness.Update(ctx, l.admin, v1.RelationshipUpdate_OPERATION_TOUCH,
				"tenant:acme#member@user:"+name, "tenant:acme#agent@agent:"+name,
				"document:"+name+"#tenant@tenant:acme", "document:"+name+"#reader@user:"+name, "document:"+name+"#reader@agent:"+name,
			); err != nil {
				return err
			}
		}
	}
	_, err := deputyv1.NewPrincipalsServiceClient(l.admin).Resume(ctx, &deputyv1.ResumeRequest{Principal: harness.Ref("tenant:acme")})
	return err
}

// run loads the server until ctx ends.
func (l *load) run(ctx context.Context) {
	var all sync.WaitGroup
	for lane := range lanes {
		all.Go(func() { l.sessions(ctx, fmt.Sprintf("runner%d", lane)) })
		all.Go(func() { l.delegations(ctx, fmt.Sprintf("granter%d", lane)) })
		all.Go(func() { l.suspensions(ctx, fmt.Sprintf("stopper%d", lane)) })
		all.Go(func() { l.signals(ctx, fmt.Sprintf("signaled%d", lane)) })
		all.Go(func() { l.rows(ctx, fmt.Sprintf("toggler%d", lane)) })
		all.Go(func() { l.imports(ctx, lane) })
		all.Go(func() { l.watch(ctx) })
	}
	all.Go(func() { l.schemas(ctx) })
	all.Wait()
}

// expect asks for a decision and compares it.
func (l *load) expect(ctx context.Context, about string, want bool, q *deputyv1.CheckPermissionRequest) {
	var resp *deputyv1.CheckPermissionResponse
	if !l.call(ctx, "check "+about, func(ctx context.Context) (err error) {
		resp, err = deputyv1.NewPermissionsServiceClient(l.service).CheckPermission(ctx, q)
		return err
	}) {
		return
	}
	if got := resp.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION; got != want {
		l.faultf("%s: %v by %v, want allowed %v; asked %v", about, resp.GetPermissionship(), resp.GetRefusedBy(), want, q)
	}
}

// question is about a lane's own document.
func question(name string) *deputyv1.CheckPermissionRequest {
	return &deputyv1.CheckPermissionRequest{AgentId: name, Resource: harness.Ref("document:" + name), Permission: "view"}
}

func inSession(name, session string) *deputyv1.CheckPermissionRequest {
	q := question(name)
	q.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: session}
	return q
}

func under(name, delegation string) *deputyv1.CheckPermissionRequest {
	q := question(name)
	q.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: delegation}
	return q
}

func alone(name string) *deputyv1.CheckPermissionRequest {
	q := question(name)
	q.OnBehalfOf, q.TenantId = harness.Ref("user:"+name), "acme"
	return q
}

// delegate creates a delegation of the lane's user to its agent.
func (l *load) delegate(ctx context.Context, name string) (id string, ok bool) {
	ok = l.call(ctx, "create delegation", func(ctx context.Context) error {
		resp, err := deputyv1.NewDelegationsServiceClient(l.service).CreateDelegation(ctx, &deputyv1.CreateDelegationRequest{
			AgentId: name, Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:" + name)}, TenantId: "acme", Unscoped: true,
			AllowDirect: true, Ttl: durationpb.New(12 * time.Hour),
		})
		id = resp.GetDelegation().GetDelegationId()
		return err
	})
	return id, ok
}

// sessions starts sessions, asks in them in every way, and ends them.
func (l *load) sessions(ctx context.Context, name string) {
	delegation, ok := l.delegate(ctx, name)
	if !ok {
		return
	}
	permissions, sessions := deputyv1.NewPermissionsServiceClient(l.service), deputyv1.NewSessionsServiceClient(l.service)
	every(ctx, 250*time.Millisecond, func(n int) {
		var session *deputyv1.Session
		if !l.call(ctx, "start session", func(ctx context.Context) error {
			resp, err := sessions.StartSession(ctx, &deputyv1.StartSessionRequest{
				AgentId: name, Targets: []*deputyv1.SessionTarget{{DelegationId: delegation}}, Ttl: durationpb.New(time.Hour),
			})
			session = resp.GetSession()
			return err
		}) {
			return
		}
		id := session.GetSessionId()
		l.expect(ctx, "in a session", true, inSession(name, id))
		other := inSession(name, id)
		other.Resource = harness.Ref("document:nowhere")
		l.expect(ctx, "of nothing", false, other)
		l.call(ctx, "bulk check", func(ctx context.Context) error {
			item := &deputyv1.CheckBulkPermissionsRequestItem{
				AgentId: name, Resource: harness.Ref("document:" + name), Permission: "view",
				Via: &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: id},
			}
			resp, err := permissions.CheckBulkPermissions(ctx, &deputyv1.CheckBulkPermissionsRequest{
				Items: []*deputyv1.CheckBulkPermissionsRequestItem{item, item, item},
			})
			for _, pair := range resp.GetPairs() {
				if pair.GetItem().GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
					l.faultf("bulk: %v", pair)
				}
			}
			return err
		})
		l.call(ctx, "renew session", func(ctx context.Context) error {
			_, err := sessions.RenewSession(ctx, &deputyv1.RenewSessionRequest{SessionId: id, Ttl: durationpb.New(2 * time.Hour)})
			return err
		})
		if n%4 == 0 {
			l.explain(ctx, inSession(name, id))
			l.lookups(ctx, name, id)
		}
		if l.call(ctx, "end session", func(ctx context.Context) error {
			_, err := sessions.EndSession(ctx, &deputyv1.EndSessionRequest{SessionId: id})
			return err
		}) {
			l.expect(ctx, "in an ended session", false, inSession(name, id))
		}
		// As much is deleted as was created.
		for _, leaf := range session.GetLeaves() {
			l.purge(ctx, "delegation:"+leaf.GetDelegationId())
		}
		l.purge(ctx, "session:"+id)
	})
}

// explain asks for the gates.
func (l *load) explain(ctx context.Context, q *deputyv1.CheckPermissionRequest) {
	l.call(ctx, "explain", func(ctx context.Context) error {
		_, err := deputyv1.NewPermissionsServiceClient(l.admin).ExplainPermission(ctx, &deputyv1.ExplainPermissionRequest{Check: q})
		return err
	})
}

// lookups looks up in every direction.
func (l *load) lookups(ctx context.Context, name, session string) {
	l.call(ctx, "lookup resources", func(ctx context.Context) error {
		stream, err := deputyv1.NewPermissionsServiceClient(l.service).LookupResources(ctx, &deputyv1.LookupResourcesRequest{
			AgentId: name, Via: &deputyv1.LookupResourcesRequest_SessionId{SessionId: session}, ResourceObjectType: "document", Permission: "view",
		})
		found := false
		return drain(err, stream, func(r *deputyv1.LookupResourcesResponse) {
			found = found || r.GetResource().GetResource().GetObjectId() == name
			if end := r.GetEnd(); end != nil && !found {
				l.faultf("lookup resources of %s: its document is missing", name)
			}
		})
	})
	l.call(ctx, "lookup agents", func(ctx context.Context) error {
		stream, err := deputyv1.NewPermissionsServiceClient(l.admin).LookupAgents(ctx, &deputyv1.LookupAgentsRequest{
			Resource: harness.Ref("document:" + name), Permission: "view",
		})
		return drain(err, stream, func(*deputyv1.LookupAgentsResponse) {})
	})
	subject := &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: name}}
	l.call(ctx, "SpiceDB's lookup resources", func(ctx context.Context) error {
		stream, err := v1.NewPermissionsServiceClient(l.service).LookupResources(ctx, &v1.LookupResourcesRequest{
			ResourceObjectType: "document", Permission: "view", Subject: subject,
		})
		return drain(err, stream, func(*v1.LookupResourcesResponse) {})
	})
	l.call(ctx, "SpiceDB's lookup subjects", func(ctx context.Context) error {
		stream, err := v1.NewPermissionsServiceClient(l.service).LookupSubjects(ctx, &v1.LookupSubjectsRequest{
			Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: name}, Permission: "view", SubjectObjectType: "user",
		})
		return drain(err, stream, func(*v1.LookupSubjectsResponse) {})
	})
}

// drain reads a stream to its end.
func drain[T any](err error, stream interface{ Recv() (*T, error) }, take func(*T)) error {
	for err == nil {
		var message *T
		if message, err = stream.Recv(); err == nil {
			take(message)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// purge deletes all rows of an object that is over, as an admin may.
func (l *load) purge(ctx context.Context, object string) {
	kind, id, _ := strings.Cut(object, ":")
	l.call(ctx, "purge", func(ctx context.Context) error {
		_, err := v1.NewPermissionsServiceClient(l.admin).DeleteRelationships(ctx, &v1.DeleteRelationshipsRequest{
			RelationshipFilter: &v1.RelationshipFilter{ResourceType: kind, OptionalResourceId: id},
		})
		return err
	})
}

// delegations creates delegations, acts under them and without naming them, and revokes them.
func (l *load) delegations(ctx context.Context, name string) {
	every(ctx, 400*time.Millisecond, func(int) {
		id, ok := l.delegate(ctx, name)
		if !ok {
			return
		}
		l.expect(ctx, "under a delegation", true, under(name, id))
		l.expect(ctx, "by agent alone", true, alone(name))
		if l.call(ctx, "revoke delegation", func(ctx context.Context) error {
			_, err := deputyv1.NewDelegationsServiceClient(l.service).RevokeDelegation(ctx, &deputyv1.RevokeDelegationRequest{DelegationId: id})
			return err
		}) {
			l.expect(ctx, "under a revoked delegation", false, under(name, id))
			l.expect(ctx, "by agent alone, revoked", false, alone(name))
		}
		l.purge(ctx, "delegation:"+id)
	})
}

// suspensions suspends and resumes an agent.
func (l *load) suspensions(ctx context.Context, name string) {
	id, ok := l.delegate(ctx, name)
	if !ok {
		return
	}
	agents := deputyv1.NewAgentsServiceClient(l.admin)
	every(ctx, 500*time.Millisecond, func(int) {
		if l.call(ctx, "suspend agent", func(ctx context.Context) error {
			_, err := agents.SuspendAgent(ctx, &deputyv1.SuspendAgentRequest{AgentId: name})
			return err
		}) {
			l.expect(ctx, "of a suspended agent", false, under(name, id))
		}
		if l.call(ctx, "resume agent", func(ctx context.Context) error {
			_, err := agents.ResumeAgent(ctx, &deputyv1.ResumeAgentRequest{AgentId: name})
			return err
		}) {
			l.expect(ctx, "of a resumed agent", true, under(name, id))
		}
	})
}

// rows toggles a row, and reads what was there a moment ago.
func (l *load) rows(ctx context.Context, name string) {
	id, ok := l.delegate(ctx, name)
	if !ok {
		return
	}
	row := "document:" + name + "#reader@user:" + name
	every(ctx, 300*time.Millisecond, func(int) {
		token := ""
		if !l.call(ctx, "delete a row", func(ctx context.Context) (err error) {
			token, err = harness.Update(ctx, l.admin, v1.RelationshipUpdate_OPERATION_DELETE, row)
			return err
		}) {
			return
		}
		l.expect(ctx, "without the row", false, under(name, id))
		if l.call(ctx, "touch a row", func(ctx context.Context) error {
			_, err := harness.Update(ctx, l.admin, v1.RelationshipUpdate_OPERATION_TOUCH, row)
			return err
		}) {
			l.expect(ctx, "with the row", true, under(name, id))
		}
		if n := l.count(ctx, name, token); n != 0 && n != -1 {
			l.faultf("at the revision that the row was deleted at there are %d of it", n)
		}
	})
}

// count reads how many users read a document at a revision; -1 if it cannot be read.
func (l *load) count(ctx context.Context, name, token string) (n int) {
	if !l.call(ctx, "read at an older revision", func(ctx context.Context) error {
		n = 0
		stream, err := v1.NewPermissionsServiceClient(l.admin).ReadRelationships(ctx, &v1.ReadRelationshipsRequest{
			Consistency: &v1.Consistency{Requirement: &v1.Consistency_AtExactSnapshot{AtExactSnapshot: &v1.ZedToken{Token: token}}},
			RelationshipFilter: &v1.RelationshipFilter{
				ResourceType: "document", OptionalResourceId: name, OptionalRelation: "reader",
				OptionalSubjectFilter: &v1.SubjectFilter{SubjectType: "user"},
			},
		})
		return drain(err, stream, func(*v1.ReadRelationshipsResponse) { n++ })
	}) {
		return -1
	}
	return n
}

// rowsOfImport is how many relationships one import makes.
const rowsOfImport = 3000

// imports loads documents, exports them and deletes them.
func (l *load) imports(ctx context.Context, lane int) {
	permissions := v1.NewPermissionsServiceClient(l.admin)
	every(ctx, 3*time.Second, func(n int) {
		prefix := fmt.Sprintf("bulk%d-%d-", lane, n)
		filter := &v1.RelationshipFilter{ResourceType: "document", OptionalResourceIdPrefix: prefix}
		if !l.call(ctx, "import", func(ctx context.Context) error {
			stream, err := permissions.ImportBulkRelationships(ctx)
			if err != nil {
				return err
			}
			var all []*v1.Relationship
			for i := range rowsOfImport {
				all = append(all, &v1.Relationship{
					Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: fmt.Sprintf("%s%d", prefix, i)}, Relation: "tenant",
					Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "tenant", ObjectId: "acme"}},
				})
			}
			for part := range slices.Chunk(all, rowsOfImport/4) {
				if err := stream.Send(&v1.ImportBulkRelationshipsRequest{Relationships: part}); err != nil {
					break // CloseAndRecv says why
				}
			}
			_, err = stream.CloseAndRecv()
			return err
		}) {
			return
		}
		exported := 0
		if l.call(ctx, "export", func(ctx context.Context) error {
			exported = 0
			stream, err := permissions.ExportBulkRelationships(ctx, &v1.ExportBulkRelationshipsRequest{
				OptionalRelationshipFilter: filter,
				Consistency:                &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
			})
			return drain(err, stream, func(r *v1.ExportBulkRelationshipsResponse) { exported += len(r.GetRelationships()) })
		}) && exported != rowsOfImport {
			l.faultf("an export has %d of %d imported relationships", exported, rowsOfImport)
		}
		l.call(ctx, "delete an import", func(ctx context.Context) error {
			_, err := permissions.DeleteRelationships(ctx, &v1.DeleteRelationshipsRequest{RelationshipFilter: filter})
			return err
		})
	})
}

// watchAgain is how long a watch is held before it is opened again from where it was.
const watchAgain = time.Minute

// watch holds watches open.
func (l *load) watch(ctx context.Context) {
	var at *v1.ZedToken
	for ctx.Err() == nil {
		// It is cancelled here, so that this side knows first.
		held, cancel := context.WithCancel(ctx)
		again := time.AfterFunc(watchAgain, cancel)
		stream, err := v1.NewWatchServiceClient(l.admin).Watch(held, &v1.WatchRequest{OptionalStartCursor: at})
		err = drain(err, stream, func(r *v1.WatchResponse) {
			at = r.GetChangesThrough()
			l.mu.Lock()
			l.done["watched revisions"]++
			l.mu.Unlock()
		})
		over := held.Err() != nil
		again.Stop()
		cancel()
		if !over {
			l.faultf("watch: %v", err)
			return
		}
	}
}

// schemas writes the schema, with and without a part.
func (l *load) schemas(ctx context.Context) {
	every(ctx, 5*time.Second, func(n int) {
		text := schema.Core + domain
		if n%2 == 0 {
			text += extra
		}
		l.call(ctx, "write schema", func(ctx context.Context) error {
			_, err := v1.NewSchemaServiceClient(l.admin).WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: text})
			return err
		})
	})
}
