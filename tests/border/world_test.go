//go:build linux

package border

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/process"
)

// keys are what each role sends. A role without a key has "".
var keys = map[string]string{"nobody": "", "wrong": "not-a-key", "service": harness.ServiceKey, "admin": harness.AdminKey}

// keyOf returns a role's key, nil if it is no role.
func keyOf(role string) *string {
	if key, ok := keys[role]; ok {
		return &key
	}
	return nil
}

// domain stands beside the core. Type vault, tenant kept and everything of agent keeper are what the fixed decisions are made
// of: no dictionary of the fuzzer has them.
const domain = `
caveat office_hours(hour int) {
	hour >= 9 && hour < 17
}

caveat listed(allowed list<string>, name string, at timestamp, from ipaddress) {
	name in allowed && at > timestamp("2020-01-01T00:00:00Z") && from.in_cidr("10.0.0.0/8")
}

definition group {
	relation tenant: tenant
	relation member: user | service | group#member
}

definition folder {
	relation tenant: tenant
	relation parent: folder
	relation reader: user | service | group#member | tenant#member | agent | delegation
	relation banned: user | agent
	permission view = (reader + parent->view) - banned
}

definition document {
	relation folder: folder
	relation reader: user | service | group#member | agent | delegation
	relation by_day: user with office_hours | agent with office_hours | delegation with office_hours
	relation listed: user with listed | agent with listed
	relation until: user with expiration | agent with expiration
	permission tenant = folder.all(tenant)
	permission view = reader + by_day + listed + until + folder->view
	permission edit = view & reader
}

definition ring {
	relation tenant: tenant
	relation editor: user | agent | ring#viewer
	relation direct: ring#editor
	permission viewer = direct + editor
}

definition vault {
	relation tenant: tenant
	relation opener: user | agent | delegation
	permission open = opener
}
`

// people are acted for, and so are the tenants.
var people = []string{
	"user:alice", "user:bob", "user:carol", "user:dave", "user:keeper", "service:nightly", "tenant:acme", "tenant:globex", "tenant:kept",
}

// rows are the world's relationships beside what the lifecycle writes.
var rows = []string{
	"tenant:acme#member@user:alice", "tenant:acme#member@user:bob", "tenant:acme#member@user:dave", "tenant:acme#member@service:nightly",
	"tenant:acme#admin@user:carol", "tenant:globex#admin@user:dave", "tenant:acme#agent@agent:bot", "tenant:acme#agent@agent:sub",
	"tenant:globex#agent@agent:bot", "service:nightly#owner@user:alice",
	"group:staff#tenant@tenant:acme", "group:staff#member@user:alice", "group:all#tenant@tenant:acme", "group:all#member@group:staff#member",
	"folder:home#tenant@tenant:acme", "folder:home#reader@group:all#member", "folder:home#reader@agent:bot", "folder:home#reader@agent:sub",
	"folder:sub#tenant@tenant:acme", "folder:sub#parent@folder:home", "folder:sub#banned@user:bob",
	"folder:away#tenant@tenant:globex", "folder:away#reader@user:dave", "folder:away#reader@agent:bot",
	"document:plan#folder@folder:home", "document:plan#reader@user:alice", "document:plan#reader@agent:bot",
	"document:bobs#folder@folder:home", "document:bobs#reader@user:bob", "document:deep#folder@folder:sub",
	"document:daily#folder@folder:home", "document:daily#by_day@user:alice[office_hours]", "document:daily#by_day@agent:bot[office_hours]",
	`document:listed#folder@folder:home`, `document:listed#listed@user:alice[listed:{"allowed":["a","b"]}]`,
	"document:away#folder@folder:away",
	"ring:1#tenant@tenant:acme", "ring:1#editor@ring:1#viewer", "ring:1#direct@ring:1#editor",
	"tenant:kept#member@user:keeper", "tenant:kept#agent@agent:keeper", "vault:gold#tenant@tenant:kept",
	"vault:gold#opener@user:keeper", "vault:gold#opener@agent:keeper", "vault:shut#tenant@tenant:kept", "vault:shut#opener@user:keeper",
}

// world is a server with the prepared graph.
type world struct {
	*process.Server
	dir string
	// conns are well-behaved clients by role.
	conns map[string]*grpc.ClientConn
	// minted are values that the server made, by the name that they have in an input's text: session0, delegation0, token0.
	// Those of one kind have one length.
	minted map[string]string
	// keptSession and keptDelegation are the fixed decisions'.
	keptSession, keptDelegation string
	// before is what the fixed decisions came to at first, and baseline what the server took then.
	before   string
	baseline usage
}

// serve starts a server on an empty directory and prepares its world.
func serve(ctx context.Context, dir, engine string) (*world, error) {
	w := &world{dir: dir, conns: map[string]*grpc.ClientConn{}, minted: map[string]string{}}
	args := []string{
		"--addr", "127.0.0.1:0", "--metrics-addr", "127.0.0.1:0", "--engine", engine,
		"--token-key-file", filepath.Join(dir, "token.key"), "--shutdown-grace", "5s",
	}
	if engine == "embedded" {
		args = append(args, "--data-dir", filepath.Join(dir, "data"))
	} else {
		args = append(args, "--journal-dir", filepath.Join(dir, "journal"))
	}
	var err error
	w.Server, err = process.Start(process.Config{
		Dir: dir, Log: filepath.Join(dir, "serve.log"), Args: args,
		Env: map[string]string{"DEPUTY_PRESHARED_KEY": harness.ServiceKey, "DEPUTY_ADMIN_PRESHARED_KEY": harness.AdminKey},
	})
	if err != nil {
		return nil, err
	}
	for role, key := range keys {
		if w.conns[role], err = harness.Connect(w.Addr, key); err != nil {
			return nil, errors.Join(err, w.end())
		}
	}
	if err := w.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("preparing: %w", err), w.end())
	}
	return w, nil
}

// end kills the server and removes what it kept.
func (w *world) end() error {
	for _, c := range w.conns {
		_ = c.Close()
	}
	return errors.Join(w.Kill(), os.RemoveAll(filepath.Join(w.dir, "data")))
}

// restore writes schema and rows, and lets everybody act, as if nothing had happened since.
func (w *world) restore(ctx context.Context) error {
	if err := w.found(ctx); err != nil {
		return err
	}
	return w.furnish(ctx)
}

// found writes the schema and lets people and tenants act.
func (w *world) found(ctx context.Context) error {
	admin := w.conns["admin"]
	if _, err := v1.NewSchemaServiceClient(admin).WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: schema.Core + domain}); err != nil {
		return err
	}
	for _, who := range people {
		if _, err := deputyv1.NewPrincipalsServiceClient(admin).Resume(ctx, &deputyv1.ResumeRequest{Principal: harness.Ref(who)}); err != nil {
			return fmt.Errorf("%s: %w", who, err)
		}
	}
	return nil
}

// furnish writes the rows.
func (w *world) furnish(ctx context.Context) error {
	_, err := harness.Update(ctx, w.conns["admin"], v1.RelationshipUpdate_OPERATION_TOUCH, rows...)
	return err
}

func (w *world) prepare(ctx context.Context) error {
	if err := w.found(ctx); err != nil {
		return err
	}
	for id, owner := range map[string]string{"bot": "carol", "sub": "carol", "keeper": "keeper"} {
		req := &deputyv1.RegisterAgentRequest{AgentId: id, OwnerIds: []string{owner}}
		if _, err := deputyv1.NewAgentsServiceClient(w.conns["admin"]).RegisterAgent(ctx, req); err != nil {
			return err
		}
	}
	if err := w.furnish(ctx); err != nil {
		return err
	}
	for i, d := range []struct {
		agent, principal, tenant string
		direct                   bool
	}{
		{"bot", "user:alice", "acme", false},
		{"bot", "user:bob", "acme", true},
		{"bot", "user:dave", "globex", true},
		{"sub", "service:nightly", "acme", true},
		{"keeper", "user:keeper", "kept", true},
	} {
		delegation, session, err := w.delegate(ctx, d.agent, d.principal, d.tenant, d.direct)
		if err != nil {
			return err
		}
		if d.agent == "keeper" {
			w.keptDelegation, w.keptSession = delegation, session
			continue
		}
		w.minted["delegation"+strconv.Itoa(i)], w.minted["session"+strconv.Itoa(i)] = delegation, session
	}
	// One token of each kind: deputy.v1's and SpiceDB's.
	resp, err := w.permissions("service").CheckPermission(ctx, w.fixed()[0])
	if err != nil {
		return err
	}
	w.minted["token0"] = resp.GetCheckedAt().GetToken()
	if w.minted["zedtoken0"], err = harness.Update(ctx, w.conns["admin"], v1.RelationshipUpdate_OPERATION_TOUCH, rows[0]); err != nil {
		return err
	}
	// What is asked first takes what stays: connections, caches, workers.
	for range 20 {
		if w.before, err = w.decisions(ctx); err == nil {
			err = w.wellBehaved(ctx)
		}
		if err != nil {
			return err
		}
	}
	w.baseline, err = w.usage(ctx)
	return err
}

func (w *world) permissions(role string) deputyv1.PermissionsServiceClient {
	return deputyv1.NewPermissionsServiceClient(w.conns[role])
}

// delegate makes a delegation and a session under it.
func (w *world) delegate(ctx context.Context, agent, principal, tenant string, direct bool) (delegation, session string, err error) {
	service := w.conns["service"]
	req := &deputyv1.CreateDelegationRequest{
		AgentId: agent, Principal: &deputyv1.SubjectReference{Object: harness.Ref(principal)}, TenantId: tenant, Unscoped: true,
		AllowDirect: direct, Ttl: durationpb.New(20 * time.Hour),
	}
	if strings.HasPrefix(principal, "service:") {
		req.GrantedBy = harness.Ref("user:alice")
	}
	d, err := deputyv1.NewDelegationsServiceClient(service).CreateDelegation(ctx, req)
	if err != nil {
		return "", "", err
	}
	delegation = d.GetDelegation().GetDelegationId()
	s, err := deputyv1.NewSessionsServiceClient(service).StartSession(ctx, &deputyv1.StartSessionRequest{
		AgentId: agent, Targets: []*deputyv1.SessionTarget{{DelegationId: delegation}}, Ttl: durationpb.New(19 * time.Hour),
	})
	return delegation, s.GetSession().GetSessionId(), err
}

// fixed are the decisions that no fuzzing with less than an admin's key may change.
func (w *world) fixed() []*deputyv1.CheckPermissionRequest {
	question := func(object string) *deputyv1.CheckPermissionRequest {
		return &deputyv1.CheckPermissionRequest{AgentId: "keeper", Resource: harness.Ref(object), Permission: "open"}
	}
	inSession, under, alone := question("vault:gold"), question("vault:gold"), question("vault:gold")
	inSession.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: w.keptSession}
	under.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: w.keptDelegation}
	alone.OnBehalfOf, alone.TenantId = harness.Ref("user:keeper"), "kept"
	shut, absent, other := question("vault:shut"), question("vault:absent"), question("vault:gold")
	shut.Via, absent.Via = inSession.GetVia(), under.GetVia()
	other.Via, other.OnBehalfOf, other.TenantId = inSession.GetVia(), harness.Ref("user:alice"), "kept"
	return []*deputyv1.CheckPermissionRequest{inSession, under, alone, shut, absent, other}
}

// decisions asks the fixed decisions and writes down the answers.
func (w *world) decisions(ctx context.Context) (string, error) {
	var b strings.Builder
	for _, q := range w.fixed() {
		resp, err := w.permissions("service").CheckPermission(ctx, q)
		if err != nil {
			return "", fmt.Errorf("the fixed decision %v: %w", q, err)
		}
		fmt.Fprintln(&b, resp.GetPermissionship(), resp.GetRefusedBy())
	}
	return b.String(), nil
}

// wellBehaved is a client that does everything right: it has to be served.
func (w *world) wellBehaved(ctx context.Context) error {
	service, admin := w.conns["service"], w.conns["admin"]
	if resp, err := healthv1.NewHealthClient(w.conns["nobody"]).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
		return fmt.Errorf("health: %w", err)
	} else if resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		return fmt.Errorf("health says %v", resp.GetStatus())
	}
	if _, err := deputyv1.NewSessionsServiceClient(service).GetSession(ctx, &deputyv1.GetSessionRequest{SessionId: w.keptSession}); err != nil {
		return fmt.Errorf("GetSession: %w", err)
	}
	if _, err := v1.NewSchemaServiceClient(service).ReadSchema(ctx, &v1.ReadSchemaRequest{}); err != nil {
		return fmt.Errorf("ReadSchema: %w", err)
	}
	rows, err := v1.NewPermissionsServiceClient(admin).ReadRelationships(ctx, &v1.ReadRelationshipsRequest{
		RelationshipFilter: &v1.RelationshipFilter{ResourceType: "vault"},
		Consistency:        &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
	})
	if err == nil {
		_, err = rows.Recv()
	}
	if err != nil {
		return fmt.Errorf("ReadRelationships: %w", err)
	}
	item, err := v1.NewPermissionsServiceClient(service).CheckPermission(ctx, &v1.CheckPermissionRequest{
		Resource: &v1.ObjectReference{ObjectType: "vault", ObjectId: "gold"}, Permission: "open",
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "keeper"}}, Context: &structpb.Struct{},
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
	})
	if err != nil || item.GetPermissionship() != v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION {
		return fmt.Errorf("SpiceDB's CheckPermission: %v, %w", item.GetPermissionship(), err)
	}
	return nil
}

// value returns a minted value; one that this world does not have is a text like it.
func (w *world) value(name string) string {
	if v, ok := w.minted[name]; ok {
		return v
	}
	return strings.TrimRight(name, "0123456789") + "-that-is-not-there"
}

// findMinted returns where the first minted value stands in bytes, its name and its length; without one, where the bytes end.
func (w *world) findMinted(b []byte) (at int, name string, length int) {
	at = len(b)
	for n, v := range w.minted {
		if i := bytes.Index(b, []byte(v)); i >= 0 && (i < at || i == at && n < name) {
			at, name, length = i, n, len(v)
		}
	}
	return at, name, length
}

// usage is what a process takes.
type usage struct {
	// resident and peak are bytes of memory, now and at most since the last ResetPeak.
	resident, peak          int64
	goroutines, descriptors float64
}

// usage measures the server.
func (w *world) usage(ctx context.Context) (usage, error) {
	figures, err := w.Figures(ctx)
	if err != nil {
		return usage{}, err
	}
	u := usage{goroutines: figures["go_goroutines"], descriptors: figures["process_open_fds"]}
	u.resident, u.peak = w.Memory()
	return u, nil
}
