package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// deputy is a Deputy server in a process of its own.
type deputy struct {
	service, admin *grpc.ClientConn
	decisions      deputyv1.PermissionsServiceClient
	// checks is its authzed.api.v1.
	checks spicedb
}

// startDeputy starts a server over a data directory.
func startDeputy(t testing.TB, dir string) deputy {
	t.Helper()
	return dialDeputy(t, start(t, served{Kind: "deputy", Dir: dir}))
}

func dialDeputy(t testing.TB, addr string) deputy {
	t.Helper()
	service, admin := harness.Dial(t, addr, harness.ServiceKey), harness.Dial(t, addr, harness.AdminKey)
	return deputy{
		service: service, admin: admin, decisions: deputyv1.NewPermissionsServiceClient(service),
		checks: spicedb{v1.NewPermissionsServiceClient(admin)},
	}
}

// usersPerRun is for how many users of each tenant there is a session.
const usersPerRun = 10

// startSmall starts Deputy over the graph, with sessions in all its tenants.
func startSmall(t *testing.T, g graph) (deputy, []agentRun) {
	t.Helper()
	d := startDeputy(t, t.TempDir())
	return d, d.settle(t, g)
}

// settle loads the graph, and starts sessions in all its tenants.
func (d deputy) settle(t testing.TB, g graph) []agentRun {
	t.Helper()
	tenants := make([]governed, g.tenants)
	for i := range tenants {
		tenants[i] = of(i, usersPerRun)
	}
	d.prepare(t, tenants)
	importGraph(t, d.checks.client, g)
	return d.begin(t, tenants)
}

// governed is an agent in a tenant, and users there that it acts for, a session each.
type governed struct {
	tenant, agent string
	users         []string
}

// of returns a tenant of the graph with some users; the first of its agents sees its whole tree.
func of(t, users int) governed {
	g := governed{tenant: tenant(t), agent: agent(t, 0)}
	for i := range users {
		g.users = append(g.users, user(t, 1+i))
	}
	return g
}

// prepare writes the schema and registers the agents. It comes before the graph is there: an id that has
// left any trace is taken.
func (d deputy) prepare(t testing.TB, all []governed) {
	t.Helper()
	if _, err := v1.NewSchemaServiceClient(d.admin).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: schemaText()}); err != nil {
		t.Fatal(err)
	}
	agents := deputyv1.NewAgentsServiceClient(d.admin)
	each(t, all, func(g governed) error {
		_, err := agents.RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: g.agent, OwnerIds: []string{g.users[0]}})
		return err
	})
}

// each does something for all, several at a time.
func each[T any](t testing.TB, all []T, do func(T) error) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(16)
	for _, one := range all {
		group.Go(func() error { return do(one) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// agentRun is a session of an agent for a user.
type agentRun struct {
	number                                   int // of what the tenants were given as
	tenant, agent, user, session, delegation string
}

// begin starts the sessions.
func (d deputy) begin(t testing.TB, all []governed) []agentRun {
	t.Helper()
	principals := deputyv1.NewPrincipalsServiceClient(d.admin)
	var runs []*agentRun
	for i, g := range all {
		for _, user := range g.users {
			runs = append(runs, &agentRun{number: i, tenant: g.tenant, agent: g.agent, user: user})
		}
	}
	each(t, all, func(g governed) error {
		_, err := principals.Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref("tenant:" + g.tenant)})
		return err
	})
	each(t, runs, func(r *agentRun) error { return d.run(t.Context(), r) })
	begun := make([]agentRun, len(runs))
	for i, r := range runs {
		begun[i] = *r
	}
	return begun
}

// run starts one session, of a delegation that its user grants.
func (d deputy) run(ctx context.Context, r *agentRun) error {
	user := harness.Ref("user:" + r.user)
	return d.runUnder(ctx, r, user, &deputyv1.SubjectReference{Object: user}, user)
}

// runUnder starts one session for a principal, of a delegation for it, or for a set that it is in, granted by the object that may grant that.
func (d deputy) runUnder(
	ctx context.Context, r *agentRun, principal *deputyv1.ObjectReference, granted *deputyv1.SubjectReference, by *deputyv1.ObjectReference,
) error {
	if _, err := deputyv1.NewPrincipalsServiceClient(d.admin).Resume(ctx, &deputyv1.ResumeRequest{Principal: principal}); err != nil {
		return err
	}
	created, err := deputyv1.NewDelegationsServiceClient(d.service).CreateDelegation(ctx, &deputyv1.CreateDelegationRequest{
		AgentId: r.agent, TenantId: r.tenant, Unscoped: true, Ttl: durationpb.New(time.Hour), Principal: granted, GrantedBy: by,
	})
	if err != nil {
		return err
	}
	r.delegation = created.GetDelegation().GetDelegationId()
	started, err := deputyv1.NewSessionsServiceClient(d.service).StartSession(ctx, &deputyv1.StartSessionRequest{
		AgentId: r.agent, Ttl: durationpb.New(time.Hour),
		Targets: []*deputyv1.SessionTarget{{DelegationId: r.delegation, Principals: []*deputyv1.ObjectReference{principal}}},
	})
	r.session = started.GetSession().GetSessionId()
	return err
}

// consented starts sessions like the given ones, for the same users, each of a delegation that an admin grants for all
// members of the tenant.
func (d deputy) consented(t testing.TB, runs []agentRun) []agentRun {
	return d.again(t, runs, func(r *agentRun) error {
		members := &deputyv1.SubjectReference{Object: harness.Ref("tenant:" + r.tenant), OptionalRelation: "member"}
		return d.runUnder(t.Context(), r, harness.Ref("user:"+r.user), members, harness.Ref("user:"+user(r.number, 0)))
	})
}

// scheduled starts sessions like the given ones, each for a service that views the tenant's whole tree, of a delegation
// that its owner grants.
func (d deputy) scheduled(t testing.TB, runs []agentRun) []agentRun {
	return d.again(t, runs, func(r *agentRun) error {
		name := "nightly-" + r.user
		var updates []*v1.RelationshipUpdate
		for _, text := range []string{
			fmt.Sprintf("service:%s#owner@user:%s", name, r.user), fmt.Sprintf("tenant:%s#member@service:%s", r.tenant, name),
			fmt.Sprintf("folder:%s#viewer@service:%s", folder(r.number, 0), name),
		} {
			updates = append(updates, tuple.MustUpdateToV1RelationshipUpdate(tuple.Touch(tuple.MustParse(text))))
		}
		if _, err := d.checks.client.WriteRelationships(t.Context(), &v1.WriteRelationshipsRequest{Updates: updates}); err != nil {
			return err
		}
		service := harness.Ref("service:" + name)
		return d.runUnder(t.Context(), r, service, &deputyv1.SubjectReference{Object: service}, harness.Ref("user:"+r.user))
	})
}

// again starts a session for each of the given ones' tenants, agents and users.
func (d deputy) again(t testing.TB, runs []agentRun, start func(*agentRun) error) []agentRun {
	t.Helper()
	begun := slices.Clone(runs)
	places := make([]*agentRun, len(begun))
	for i := range begun {
		places[i] = &begun[i]
	}
	each(t, places, start)
	return begun
}

// question is one that a decision answers: may the run's agent view the document?
type question struct {
	agentRun
	document string
}

// drawing draws a question.
type drawing func(r *rand.Rand) question

// cold draws uniformly from all documents of the runs' tenants, which are the graph's first.
func cold(runs []agentRun) drawing {
	return func(r *rand.Rand) question {
		run := runs[r.IntN(len(runs))]
		return question{run, document(run.number, r.IntN(documentsPerTenant))}
	}
}

// hot draws from a few of the questions.
func hot(draw drawing, n int) drawing {
	few := make([]question, n)
	r := rand.New(rand.NewPCG(3, 3))
	for i := range few {
		few[i] = draw(r)
	}
	return func(r *rand.Rand) question { return few[r.IntN(n)] }
}

func (q question) request() *deputyv1.CheckPermissionRequest {
	return &deputyv1.CheckPermissionRequest{
		AgentId: q.agent, Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: q.session},
		Resource: &deputyv1.ObjectReference{ObjectType: "document", ObjectId: q.document}, Permission: "view",
	}
}

// decide asks for one decision a call.
func decide(client deputyv1.PermissionsServiceClient, draw drawing) asking {
	return func(ctx context.Context, r *rand.Rand) (bool, error) {
		answer, err := client.CheckPermission(ctx, draw(r).request())
		return answer.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION, err
	}
}

// bulk asks for n decisions a call, and returns whether all were yes.
func bulk(client deputyv1.PermissionsServiceClient, n int, draw drawing) asking {
	return func(ctx context.Context, r *rand.Rand) (bool, error) {
		request := &deputyv1.CheckBulkPermissionsRequest{}
		for range n {
			q := draw(r).request()
			request.Items = append(request.Items, &deputyv1.CheckBulkPermissionsRequestItem{
				AgentId: q.GetAgentId(), Via: &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: q.GetSessionId()},
				Resource: q.GetResource(), Permission: q.GetPermission(),
			})
		}
		answer, err := client.CheckBulkPermissions(ctx, request)
		if err != nil {
			return false, err
		}
		yes := len(answer.GetPairs()) == n
		for _, pair := range answer.GetPairs() {
			if failed := pair.GetError(); failed != nil {
				return false, fmt.Errorf("a decision failed: %s", failed)
			}
			yes = yes && pair.GetItem().GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
		}
		return yes, nil
	}
}

// legs asks a peer for what a decision takes there, in one call: the document for the user and for the
// agent, the tenant for each.
func legs(p peer, draw drawing) asking {
	return func(ctx context.Context, r *rand.Rand) (bool, error) {
		q := draw(r)
		return p.all(ctx,
			leg{"document", q.document, "view", "user", q.user}, leg{"document", q.document, "view", "agent", q.agent},
			leg{"tenant", q.tenant, "access", "user", q.user}, leg{"tenant", q.tenant, "access", "agent", q.agent},
		)
	}
}

// check asks a peer for one leg.
func check(p peer, draw func(r *rand.Rand) leg) asking {
	return func(ctx context.Context, r *rand.Rand) (bool, error) { return p.check(ctx, draw(r)) }
}

// views draws a check of a document for a user, uniformly random.
func (g graph) views(r *rand.Rand) leg {
	tenant := r.IntN(g.tenants)
	return leg{"document", document(tenant, r.IntN(documentsPerTenant)), "view", "user", user(tenant, r.IntN(usersPerTenant))}
}

// members draws a check of a direct membership: the graph has 100 a tenant.
func (g graph) members(r *rand.Rand) leg {
	t := r.IntN(g.tenants)
	return leg{"tenant", tenant(t), "access", "user", user(t, r.IntN(usersPerTenant))}
}

// startLimit starts the bare server, which answers with what Deputy answers to a question of these with yes.
func startLimit(t testing.TB, d deputy, draw drawing, l leg) (deputyv1.PermissionsServiceClient, peer) {
	t.Helper()
	var decision *deputyv1.CheckPermissionResponse
	r := rand.New(rand.NewPCG(5, 5))
	for decision.GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
		var err error
		if decision, err = d.decisions.CheckPermission(t.Context(), draw(r).request()); err != nil {
			t.Fatal(err)
		}
	}
	check, err := d.checks.client.CheckPermission(t.Context(), &v1.CheckPermissionRequest{Resource: l.ref(), Permission: l.permission, Subject: l.subjectRef()})
	if err != nil {
		t.Fatal(err)
	}
	conn := harness.Dial(t, start(t, served{Kind: "bare", Decision: wire(t, decision), Check: wire(t, check)}), harness.ServiceKey)
	return deputyv1.NewPermissionsServiceClient(conn), spicedb{v1.NewPermissionsServiceClient(conn)}
}
