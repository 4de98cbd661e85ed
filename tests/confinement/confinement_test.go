package confinement

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// weights says how often a method is asked, 1 where it says nothing.
var weights = map[string]int{
	"CheckPermission": 12, "WatchPermission": 6, "CheckBulkPermissions": 4, "ExplainPermission": 8, "LookupResources": 6, "LookupAgents": 6, "FilterResources": 6, "ReadReach": 6,
	"CreateDelegation": 10, "GetDelegation": 6, "ListDelegations": 8, "RevokeDelegation": 2,
	"StartSession": 8, "GetSession": 6, "ListSessions": 6, "RenewSession": 4, "EndSession": 2,
	"GetAgent": 4, "ListAgents": 4, "Brake": 2, "SuspendAgent": 1, "ResumeAgent": 3, "Suspend": 1, "Resume": 3,
	"QueryRecords": 3, "WriteRelationships": 14, "ReadRelationships": 8, "BulkCheckPermission": 4, "DeleteRelationships": 2,
}

// TestConfinement asks two servers at random, of which one holds the two tenants and the other one the own tenant alone.
// DEPUTY_CONFINEMENT_SEED draws the same requests again.
func TestConfinement(t *testing.T) {
	t.Parallel()
	for name, requests := range map[string]int{"embedded": 10_000, "memory": 1_000, "postgres": 300} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, harness.Engines()[name], requests)
		})
	}
}

// seed is the run's, new each time unless it is given.
func seed(t *testing.T) uint64 {
	t.Helper()
	if given := os.Getenv("DEPUTY_CONFINEMENT_SEED"); given != "" {
		n, err := strconv.ParseUint(given, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return uint64(time.Now().UnixNano())
}

// contest is the two servers with what is drawn for them.
type contest struct {
	t    *testing.T
	a, b *harness.Server
	*drawing
	pairs
	// connections by caller, the first server's and the second's.
	to map[string][2]*grpc.ClientConn
	// seeded is what is written anew from time to time.
	seeded []*v1.Relationship
	// foreign are what agents act under in the other tenant.
	noise []grant
	// beyond are the sessions that reach into both tenants.
	beyond map[string]bool
	// tokens and cursors of the second server, by those of the first.
	counts, fine, exceptions map[string]int
}

func open(t *testing.T, engine func(testing.TB) engine.Config, n uint64) *contest {
	t.Helper()
	start := func() *harness.Server {
		return harness.Start(t, daemon.Config{
			Engine: engine(t), Callers: callers(), GlobalTypes: []string{"tool"}, SnapshotMaxAge: time.Hour,
			PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
		})
	}
	c := &contest{
		t: t, a: start(), b: start(), to: map[string][2]*grpc.ClientConn{}, beyond: map[string]bool{},
		pairs:  pairs{toB: map[string]string{}, toA: map[string]string{}, foreign: map[string]bool{}},
		counts: map[string]int{}, fine: map[string]int{}, exceptions: map[string]int{},
	}
	c.drawing = &drawing{
		Rand: rand.New(rand.NewPCG(n, 14)), grants: fill(t, c.a),
		head: c.a.SlowEngine(), tokens: map[protoreflect.FullName][]string{}, cursors: map[protoreflect.FullName][]string{},
	}
	rows := alone(rowsOf(t, c.a))
	c.b.WriteSchema(t, schema.Core+domain)
	write(t, c.b, rows)
	c.seeded = restored(rows)
	ids := map[string]bool{}
	for _, r := range rows {
		ids[r.GetResource().GetObjectId()] = true
	}
	for _, g := range c.grants {
		c.beyond[g.session] = c.beyond[g.session] || g.beyond
		for _, id := range []string{g.delegation, g.session} {
			switch {
			case id == "":
			case ids[id]:
				c.learn(id, id)
			default:
				c.foreign[id] = true
			}
		}
		if g.tenant == other {
			c.noise = append(c.noise, g)
		}
	}
	delete(c.beyond, "")
	for _, one := range callers() {
		c.to[one.Name] = [2]*grpc.ClientConn{
			harness.Dial(t, c.a.Addr().String(), keyOf(one.Name)), harness.Dial(t, c.b.Addr().String(), keyOf(one.Name)),
		}
	}
	return c
}

func run(t *testing.T, engine func(testing.TB) engine.Config, requests int) {
	n := seed(t)
	t.Logf("DEPUTY_CONFINEMENT_SEED=%d", n)
	c := open(t, engine, n)
	all := methods(t)
	var drawn []method
	for _, m := range all {
		w := max(1, weights[m.full[strings.LastIndexByte(m.full, '/')+1:]])
		drawn = append(drawn, slices.Repeat([]method{m}, w)...)
	}
	names := slices.Sorted(maps.Keys(c.to))
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, own) })
	entitled := entitlements(all)
	c.began = time.Now()
	failures := c.rows()
	for i := range requests {
		switch {
		case i%250 == 249:
			c.restore()
		case i%25 == 24:
			c.disturb()
		}
		c.apart = i >= requests/10*9
		m := drawn[c.IntN(len(drawn))]
		name := names[c.IntN(len(names))]
		if of := entitled[m.full]; len(of) > 0 && c.chance(90) {
			name = of[c.IntN(len(of))]
		}
		req := c.request(m.in)
		if d := c.ask(m, name, req); d != "" {
			t.Errorf("request %d, %s by %s of\n%v\ndiffers in %s", i, m.full, name, req, d)
			if failures++; failures == 20 {
				t.Fatal("that many differ; DEPUTY_CONFINEMENT_SEED=" + strconv.FormatUint(n, 10))
			}
		}
	}
	c.report(all)
}

// rows asks of each object of the own tenant for all of its rows, whole and page by page, and makes a write conditional on each of them. It returns
// how many answers differ. Random requests name too many things at once to come by each.
func (c *contest) rows() (failures int) {
	c.t.Helper()
	ask := func(full, name string, req proto.Message) {
		m, err := methodOf("/authzed.api.v1.PermissionsService/" + full)
		if err != nil {
			c.t.Fatal(err)
		}
		if d := c.ask(m, name, req); d != "" {
			failures++
			c.t.Errorf("%s by %s of\n%v\ndiffers in %s", full, name, req, d)
		}
	}
	head := &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}
	kept := &v1.RelationshipUpdate{Operation: v1.RelationshipUpdate_OPERATION_TOUCH, Relationship: tuple.ToV1Relationship(tuple.MustParse("document:acme-d4#reader@user:acme-cat"))}
	mine := map[string]bool{}
	for _, r := range rowsOf(c.t, c.b) {
		mine[r.GetResource().String()] = true
	}
	for _, r := range rowsOf(c.t, c.a) {
		of := r.GetResource()
		if _, beyond := mine[of.String()]; !beyond {
			continue
		}
		filter := &v1.RelationshipFilter{ResourceType: of.GetObjectType(), OptionalResourceId: of.GetObjectId()}
		if mine[of.String()] {
			mine[of.String()] = false // once
			for _, limit := range []uint32{0, 2} {
				ask("ReadRelationships", "acme-auditor", &v1.ReadRelationshipsRequest{Consistency: head, RelationshipFilter: filter, OptionalLimit: limit})
			}
			ask("ReadRelationships", "acme-checker-of-bots", &v1.ReadRelationshipsRequest{Consistency: head, RelationshipFilter: filter})
		}
		exact := &v1.RelationshipFilter{
			ResourceType: of.GetObjectType(), OptionalResourceId: of.GetObjectId(), OptionalRelation: r.GetRelation(),
			OptionalSubjectFilter: &v1.SubjectFilter{
				SubjectType: r.GetSubject().GetObject().GetObjectType(), OptionalSubjectId: r.GetSubject().GetObject().GetObjectId(),
			},
		}
		for _, f := range []*v1.RelationshipFilter{exact, {ResourceType: of.GetObjectType(), OptionalResourceId: of.GetObjectId(), OptionalRelation: r.GetRelation()}} {
			ask("WriteRelationships", "acme-organizer", &v1.WriteRelationshipsRequest{
				Updates:               []*v1.RelationshipUpdate{kept},
				OptionalPreconditions: []*v1.Precondition{{Operation: v1.Precondition_OPERATION_MUST_MATCH, Filter: f}},
			})
		}
	}
	return failures
}

// methods are those of both APIs, by name.
func methods(t *testing.T) []method {
	t.Helper()
	var all []method
	for _, full := range slices.Sorted(maps.Keys(caller.Methods())) {
		if !strings.HasPrefix(full, "/deputy.v1.") && !strings.HasPrefix(full, "/authzed.api.v1.") {
			continue
		}
		m, err := methodOf(full)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// entitlements are the confined callers that may call a method.
func entitlements(all []method) map[string][]string {
	out := map[string][]string{}
	for _, m := range all {
		for _, one := range callers() {
			if strings.HasPrefix(one.Name, own) && one.May(caller.MethodOf(m.full)) == nil {
				out[m.full] = append(out[m.full], one.Name)
			}
		}
	}
	return out
}

// ask sends a request to both servers, and returns where the answers differ.
func (c *contest) ask(m method, name string, req proto.Message) string {
	ctx := c.t.Context()
	short := strings.TrimPrefix(m.full, "/")
	if c.excepted(req) {
		c.exceptions[short]++
		return ""
	}
	twin := proto.Clone(req)
	c.translate(twin.ProtoReflect())
	var a, b answer
	c.both(func() { a = m.ask(ctx, c.to[name][0], req) }, func() { b = m.ask(ctx, c.to[name][1], twin) })
	if c.apart && strings.HasPrefix(string(m.in.Descriptor().Name()), "List") {
		a.Pages, b.Pages = 0, 0
	}
	c.counts[short]++
	if a.Code == "OK" {
		c.fine[short]++
	}
	for _, one := range a.messages {
		if r, ok := one.(*deputyv1.CheckPermissionResponse); ok {
			c.fine[short+" "+strings.ToLower(strings.TrimPrefix(r.GetPermissionship().String(), "PERMISSIONSHIP_"))]++
		}
	}
	for _, d := range []string{
		c.compare("code", a.Code, b.Code), c.compare("message", a.Message, b.Message), c.compare("details", a.Details, b.Details),
		c.compare("pages", fmt.Sprint(a.Pages), fmt.Sprint(b.Pages)), c.compare("body", c.whole(m, a.Body), c.whole(m, b.Body)),
		c.compare("metadata", a.Trailer, b.Trailer),
	} {
		if d != "" {
			return d + fmt.Sprintf("\n%s %q and %s %q", a.Code, a.Message, b.Code, b.Message)
		}
	}
	for i := range a.messages {
		if i < len(b.messages) {
			c.gather(a.messages[i].ProtoReflect(), b.messages[i].ProtoReflect())
		}
	}
	return ""
}

// whole is what all pages hold together, in no order where it streams.
func (c *contest) whole(m method, body []any) any {
	if m.fromServer {
		// Where each page ends is told by how many there are. One that time has ended can go on in the middle of a party, which it repeats.
		var party any
		return unordered(slices.DeleteFunc(body, func(one any) bool {
			f, _ := one.(map[string]any)
			repeated := f["party"] != nil && reflect.DeepEqual(f["party"], party)
			if f["party"] != nil {
				party = f["party"]
			}
			return f["end"] != nil || repeated
		}))
	}
	joined := map[string]any{}
	for _, page := range body {
		fields, _ := page.(map[string]any)
		for k, v := range fields {
			list, isList := v.(unordered)
			before, _ := joined[k].(unordered)
			switch {
			case isList:
				joined[k] = append(before, list...)
			case k != "next" && k != "complete":
				joined[k] = v
			}
		}
	}
	return joined
}

// gather keeps of the answers what later requests name: tokens, cursors, delegations and sessions.
func (c *contest) gather(a, b protoreflect.Message) {
	switch a.Descriptor().Name() {
	case "ZedToken", "Cursor":
		f := a.Descriptor().Fields().ByName("token")
		x, y := a.Get(f).String(), b.Get(f).String()
		if _, known := c.toB[x]; known || x == "" || y == "" {
			return
		}
		c.toB[x] = y
		of, list := a.Descriptor().ParentFile().Package(), c.tokens
		if a.Descriptor().Name() == "Cursor" {
			list = c.cursors
		}
		if list[of] = append(list[of], x); len(list[of]) > 20 {
			list[of] = list[of][1:]
		}
		return
	}
	switch of := a.Interface().(type) {
	case *deputyv1.Delegation:
		if of.GetSessionId() == "" {
			c.meet(grant{
				agent: of.GetAgentId(), principal: of.GetPrincipal().GetObject().GetObjectType() + ":" + of.GetPrincipal().GetObject().GetObjectId(),
				relation: of.GetPrincipal().GetOptionalRelation(), tenant: of.GetTenantId(), delegation: of.GetDelegationId(),
			})
		}
	case *deputyv1.Session:
		for _, l := range of.GetLeaves() {
			c.meet(grant{
				agent: of.GetAgentId(), principal: l.GetPrincipal().GetObjectType() + ":" + l.GetPrincipal().GetObjectId(),
				tenant: l.GetTenantId(), session: of.GetSessionId(),
			})
		}
	}
	a.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() != nil && !f.IsList() && !f.IsMap() && b.Has(f) {
			c.gather(v.Message(), b.Get(f).Message())
		}
		return true
	})
}

func (c *contest) meet(g grant) {
	if !slices.Contains(c.grants, g) && !c.beyond[g.session] {
		c.grants = append(c.grants, g)
	}
}

// restore makes active again what requests suspended, and writes back what they took away.
func (c *contest) restore() {
	restore := func(s *harness.Server) func() {
		return func() {
			write(c.t, s, c.seeded)
			_, err := v1.NewPermissionsServiceClient(s.Admin).WriteRelationships(c.t.Context(), &v1.WriteRelationshipsRequest{Updates: tombstones()})
			if err != nil {
				c.t.Error(err)
			}
		}
	}
	c.both(restore(c.a), restore(c.b))
}

// both does two things at once, one on each server.
func (c *contest) both(a, b func()) {
	var group sync.WaitGroup
	group.Go(b)
	a()
	group.Wait()
}

// disturb changes something in the other tenant, on the server that has it.
func (c *contest) disturb() {
	ctx := c.t.Context()
	user := "user:" + c.pick("globex-ann", "globex-ben", "both-dan")
	switch c.IntN(4) {
	case 0:
		c.fresh++
		doc := fmt.Sprintf("document:globex-n%d", c.fresh)
		c.a.Touch(c.t, doc+"#folder@folder:globex-f1", doc+"#reader@"+user, doc+"#reader@agent:both-bot")
	case 1:
		d, err := deputyv1.NewDelegationsServiceClient(c.to["globex-delegator"][0]).CreateDelegation(ctx, &deputyv1.CreateDelegationRequest{
			AgentId: c.pick("globex-bot", "both-bot"), Principal: &deputyv1.SubjectReference{Object: harness.Ref(user)}, TenantId: other,
			GrantedBy: harness.Ref(user), Unscoped: true, AllowDirect: true, Ttl: durationpb.New(time.Hour), IdempotencyKey: fmt.Sprintf("key-%d", c.IntN(c.keys+50)),
		})
		if err == nil {
			id := d.GetDelegation().GetDelegationId()
			c.foreign[id] = true
			c.grants = append(c.grants, grant{agent: d.GetDelegation().GetAgentId(), principal: user, tenant: other, delegation: id})
		}
	case 2:
		g := c.noise[c.IntN(len(c.noise))]
		s, err := deputyv1.NewSessionsServiceClient(c.to["globex-delegator"][0]).StartSession(ctx, &deputyv1.StartSessionRequest{
			AgentId: g.agent, Targets: []*deputyv1.SessionTarget{{DelegationId: g.delegation}}, Ttl: durationpb.New(time.Hour),
			IdempotencyKey: fmt.Sprintf("key-%d", c.IntN(c.keys+50)),
		})
		if err == nil {
			id := s.GetSession().GetSessionId()
			c.foreign[id] = true
			c.grants = append(c.grants, grant{agent: g.agent, principal: g.principal, tenant: other, session: id})
		}
	case 3:
		bot := "agent:" + c.pick("globex-bot", "globex-sub")
		c.a.Touch(c.t, bot+"#suspended@"+bot)
		c.a.Delete(c.t, bot+"#suspended@"+bot)
		c.a.Touch(c.t, fmt.Sprintf("document:globex-d%d#reader@%s", 1+c.IntN(12), user))
	}
}

// report says what was asked, and fails where a method was never answered.
func (c *contest) report(all []method) {
	for kind, n := range c.fine {
		if strings.Contains(kind, " ") {
			c.t.Logf("%-70s %5d", kind, n)
		}
	}
	for _, m := range all {
		short := strings.TrimPrefix(m.full, "/")
		c.t.Logf("%-70s %5d asked, %5d fine, %d left out", short, c.counts[short], c.fine[short], c.exceptions[short])
	}
}

// excepted reports whether a request is about rights that reach beyond the tenant. What is documented of these shows one bit of the other
// tenants: that there are any. It names an agent or a principal that is in both tenants, or a session with leaves in both.
func (c *contest) excepted(req proto.Message) bool {
	switch r := req.(type) {
	case *deputyv1.SuspendAgentRequest:
		return strings.HasPrefix(r.GetAgentId(), "both-")
	case *deputyv1.ResumeAgentRequest:
		return strings.HasPrefix(r.GetAgentId(), "both-")
	case *deputyv1.SuspendRequest:
		return strings.HasPrefix(r.GetPrincipal().GetObjectId(), "both-")
	case *deputyv1.ResumeRequest:
		return strings.HasPrefix(r.GetPrincipal().GetObjectId(), "both-")
	case *deputyv1.RenewSessionRequest:
		return c.beyond[r.GetSessionId()]
	case *deputyv1.EndSessionRequest:
		return c.beyond[r.GetSessionId()]
	case *deputyv1.BrakeRequest:
		// What a tenant has of a session that reaches beyond ends by itself, and what it has of another with the session.
		parts := !r.GetDryRun() && r.GetTenantId() != ""
		// Which ones a dry run shows first depends on their ids.
		return parts || r.GetDryRun() && c.apart || c.beyond[r.GetSessionId()] || strings.HasPrefix(r.GetAgentId(), "both-") ||
			strings.HasPrefix(r.GetPrincipal().GetObjectId(), "both-")
	default:
		return false
	}
}
