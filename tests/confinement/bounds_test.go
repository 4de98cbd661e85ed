package confinement

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// The ids of a drawn world say where things lie: they begin with the tenant, or with "both" for what is in both tenants, and go on with "in" or "out",
// within the bounds on agents and ids or outside. Nothing that lies within depends on what lies outside: what it depends on is decided by
// rows that the caller need not see, and then there is no world without those to compare with.
const (
	boundDomain = `
caveat office(hour int, closes int) {
	hour < closes
}

definition crew {}

definition group {
	relation tenant: tenant
	relation member: user | service | agent | crew
}

definition folder {
	relation tenant: tenant | tenant with office
	relation reader: user | service | group#member | tenant#member | agent | delegation
	permission view = reader
}

definition document {
	relation folder: folder
	relation reader: user | user:* | service | group#member | tenant#member | agent | delegation
	relation limited: user with office
	relation banned: user
	permission tenant = folder->tenant
	permission view = (reader + limited + folder->view) - banned
	permission edit = reader
}

definition tool {
	relation reader: user | service | agent | delegation
	permission view = reader
}
`
	// boundNote is a type outside the bounds on types.
	boundNote = `
definition note {
	relation tenant: tenant
	relation reader: user | service | agent | delegation
	permission view = reader
	permission read = reader
}
`
)

// boundary is one kind of bounds.
type boundary struct {
	name   string
	change func(*authz.Bounds)
	// confined says that it is bound to tenants.
	confined bool
	// outside reports whether something lies outside, by its type and id, and whether a delegation does.
	outside func(objectType, id string) bool
	lost    func(grant) bool
}

func sideOut(id string) bool { return strings.Contains(id, "-out-") }

func isDomain(objectType string) bool {
	return slices.Contains([]string{"document", "folder", "group", "note"}, objectType)
}

// boundaries are the kinds of bounds, each of the others without one on tenants, and all of them together.
func boundaries() []boundary {
	all := []boundary{
		{
			"tenants", func(b *authz.Bounds) { b.Tenants = authz.NamesOf(own) }, true,
			func(objectType, id string) bool {
				// What is in both is in two tenants, in one that is not certain, or in none.
				return strings.HasPrefix(id, other) || strings.HasPrefix(id, "lonely") || isDomain(objectType) && strings.HasPrefix(id, "both-")
			},
			func(g grant) bool { return g.tenant == other },
		},
		{
			"agents", func(b *authz.Bounds) { b.Agents = authz.NamesOf(agentsWithin()...) }, false,
			func(objectType, id string) bool { return objectType == "agent" && sideOut(id) },
			func(g grant) bool { return sideOut(g.agent) },
		},
		{
			"principals", func(b *authz.Bounds) { b.Principals = authz.NamesOf("user") }, false,
			func(objectType, _ string) bool { return objectType == "service" },
			func(g grant) bool { return strings.HasPrefix(g.principal, "service:") || g.relation == "member" },
		},
		{
			"types", func(b *authz.Bounds) { b.Objects = authz.NamesOf("document", "folder", "group", "tool") }, false,
			func(objectType, _ string) bool { return objectType == "note" },
			func(grant) bool { return false },
		},
		{
			"ids", func(b *authz.Bounds) { b.IDs = authz.PrefixesOf("acme-in-", "globex-in-", "both-in-", "nowhere-in-") }, false,
			func(objectType, id string) bool { return (isDomain(objectType) || objectType == "tool") && sideOut(id) },
			func(grant) bool { return false },
		},
	}
	whole := boundary{"all of them", func(*authz.Bounds) {}, true, func(string, string) bool { return false }, func(grant) bool { return false }}
	for _, one := range all {
		before := whole
		whole.change = func(b *authz.Bounds) { before.change(b); one.change(b) }
		whole.outside = func(objectType, id string) bool { return before.outside(objectType, id) || one.outside(objectType, id) }
		whole.lost = func(g grant) bool { return before.lost(g) || one.lost(g) }
	}
	return append(all, whole)
}

func agentsWithin() (names []string) {
	for _, place := range []string{own, other, "both", "nowhere"} {
		names = append(names, place+"-in-bot", place+"-in-sub")
	}
	return append(names, leaver)
}

// leaver is an agent that the own tenant had when it was given a delegation there, and has no more: the delegation exists for those who are bound to the
// tenant, and the agent does not.
const leaver = "leaver-in-bot"

// boundWorld is a world on a server that holds all of it.
type boundWorld struct {
	*rand.Rand
	s      *harness.Server
	grants []grant
}

func (w *boundWorld) pick(of ...string) string { return of[w.IntN(len(of))] }

func (w *boundWorld) chance(percent int) bool { return w.IntN(100) < percent }

// startBound starts a server that knows the callers of all boundaries.
func startBound(t *testing.T, domain string) *harness.Server {
	t.Helper()
	cfg := daemon.Config{
		Engine: harness.Embedded(t), GlobalTypes: []string{"tool"},
		PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
	}
	for _, b := range boundaries() {
		cfg.Callers = append(cfg.Callers, one(b.name, own, func(of *authz.Bounds) {
			of.Tenants = authz.AllNames()
			b.change(of)
		}, checker, auditor))
	}
	s := harness.Start(t, cfg)
	s.WriteSchema(t, schema.Core+domain)
	return s
}

// drawWorld draws a world on a server of its own.
func drawWorld(t *testing.T, n uint64) *boundWorld {
	t.Helper()
	w := &boundWorld{Rand: rand.New(rand.NewPCG(n, 16)), s: startBound(t, boundDomain+boundNote)}
	rows := map[string]bool{}
	row := func(format string, args ...any) { rows[fmt.Sprintf(format, args...)] = true }
	for _, user := range []string{"user:both-u1", "user:both-u2"} {
		row("%s#active@%s", user, user)
	}
	for _, x := range []string{own, other} {
		row("tenant:%[1]s#active@tenant:%[1]s", x)
		for _, u := range []string{"user:" + x + "-u1", "user:" + x + "-u2", "user:" + x + "-u3", "service:" + x + "-s1", "service:" + x + "-s2"} {
			row("%s#active@%s", u, u)
			row("tenant:%s#member@%s", x, u)
			if strings.HasPrefix(u, "service:") {
				row("%s#owner@user:%s-u1", u, x)
			}
		}
		row("tenant:%[1]s#admin@user:%[1]s-u1", x)
		row("tenant:%s#member@user:both-u1", x)
		row("tenant:%s#member@user:both-u2", x)
		if w.chance(50) {
			row("tenant:%s#admin@user:both-u1", x)
		}
		for _, side := range []string{"in", "out"} {
			for _, bot := range []string{x + "-" + side + "-bot", x + "-" + side + "-sub", "both-" + side + "-bot", "both-" + side + "-sub"} {
				row("tenant:%s#agent@agent:%s", x, bot)
			}
		}
	}
	for _, x := range []string{own, other, "both"} {
		for _, side := range []string{"in", "out"} {
			for _, bot := range []string{"bot", "sub"} {
				owner := x + "-u1"
				_, err := w.s.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: x + "-" + side + "-" + bot, OwnerIds: []string{owner}})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	row("tenant:%s#agent@agent:%s", own, leaver)
	if _, err := w.s.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: leaver, OwnerIds: []string{"both-u1"}}); err != nil {
		t.Fatal(err)
	}
	w.touch(t, rows)
	w.consent(t, grant{tenant: own, agent: leaver, principal: "user:both-u1"}, "user:both-u1", "")
	w.run(t, w.grants[0])
	w.act(t)
	w.s.Delete(t, "tenant:"+own+"#agent@agent:"+leaver)
	if w.chance(50) {
		row("user:%[1]s-u3#suspended@user:%[1]s-u3", own)
	}
	w.objects(row)
	w.touch(t, rows)
	return w
}

func (w *boundWorld) touch(t *testing.T, rows map[string]bool) {
	t.Helper()
	var list []string
	for r := range rows {
		list = append(list, r)
	}
	slices.Sort(list)
	for chunk := range slices.Chunk(list, 200) {
		w.s.Touch(t, chunk...)
	}
	clear(rows)
}

// act draws what agents act under.
func (w *boundWorld) act(t *testing.T) {
	t.Helper()
	for _, x := range []string{own, other} {
		for range 16 {
			side := w.pick("in", "out")
			g := grant{tenant: x, agent: w.pick(x, "both") + "-" + side + "-bot"}
			var granter string
			switch w.IntN(6) {
			case 0:
				g.principal, granter = "service:"+x+w.pick("-s1", "-s2"), "user:"+x+"-u1"
			case 1:
				g.principal, g.relation, granter = "tenant:"+x, w.pick("member", "admin"), "user:"+x+"-u1"
			default:
				g.principal = "user:" + w.pick(x+"-u1", x+"-u2", x+"-u3", "both-u1", "both-u2")
				granter = g.principal
			}
			w.consent(t, g, granter, "")
			root := w.grants[len(w.grants)-1]
			if root.relation == "" && w.chance(40) { // a part, of another agent on the same side
				part := root
				part.agent = w.pick(x, "both") + "-" + side + "-sub"
				w.consent(t, part, "agent:"+root.agent, root.delegation)
			}
			if root.relation == "member" { // its sessions would be parts of what lies outside
				continue
			}
			if w.chance(50) {
				w.run(t, root)
			}
			if w.chance(10) {
				if _, err := w.s.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: root.delegation}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// consent creates a delegation, as a part if it has a parent. It may be one that the server refuses, then there is none.
func (w *boundWorld) consent(t *testing.T, g grant, granter, parent string) {
	t.Helper()
	r := &deputyv1.CreateDelegationRequest{
		AgentId: g.agent, Principal: &deputyv1.SubjectReference{Object: harness.Ref(g.principal), OptionalRelation: g.relation}, TenantId: g.tenant,
		GrantedBy: harness.Ref(granter), ParentDelegationId: parent, Unscoped: w.chance(60), AllowDirect: w.chance(70), Ttl: durationpb.New(20 * time.Hour),
	}
	if parent != "" {
		r.Ttl, r.AllowDirect = durationpb.New(10*time.Hour), false
	}
	if !r.GetUnscoped() {
		for i := range 1 + w.IntN(3) {
			r.Scope = append(r.Scope, &deputyv1.ScopeGrant{
				Resource: harness.Ref(fmt.Sprintf("tool:%s-%s-t%d", g.tenant, w.pick("in", "out"), 1+i)), Relation: "reader",
			})
		}
	}
	d, err := w.s.Delegations().CreateDelegation(t.Context(), r)
	if err != nil {
		t.Fatalf("%v: %v", r, err)
	}
	g.delegation = d.GetDelegation().GetDelegationId()
	w.grants = append(w.grants, g)
}

// run starts a session of a delegation, if that can have one.
func (w *boundWorld) run(t *testing.T, root grant) {
	t.Helper()
	target := &deputyv1.SessionTarget{DelegationId: root.delegation}
	g := root
	if root.relation != "" {
		g.principal, g.relation = "user:"+root.tenant+"-u1", ""
		target.Principals = []*deputyv1.ObjectReference{harness.Ref(g.principal)}
	}
	started, err := w.s.Sessions().StartSession(t.Context(), &deputyv1.StartSessionRequest{
		AgentId: root.agent, Targets: []*deputyv1.SessionTarget{target}, Ttl: durationpb.New(5 * time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	g.delegation, g.session = "", started.GetSession().GetSessionId()
	w.grants = append(w.grants, g)
	for _, l := range started.GetSession().GetLeaves() {
		leaf := g
		leaf.session, leaf.delegation = "", l.GetDelegationId()
		w.grants = append(w.grants, leaf)
	}
	if w.chance(15) {
		if _, err := w.s.Sessions().EndSession(t.Context(), &deputyv1.EndSessionRequest{SessionId: g.session}); err != nil {
			t.Fatal(err)
		}
	}
}

// holder draws somebody of a tenant who may be given something.
func (w *boundWorld) holder(x string) string {
	switch w.IntN(8) {
	case 0:
		return "service:" + x + w.pick("-s1", "-s2")
	case 1, 2, 3:
		return "agent:" + w.pick(x, "both") + "-" + w.pick("in", "out") + "-" + w.pick("bot", "sub")
	case 4:
		for range 20 {
			if g := w.grants[w.IntN(len(w.grants))]; g.tenant == x && g.delegation != "" {
				return "delegation:" + g.delegation
			}
		}
	}
	return "user:" + w.pick(x+"-u1", x+"-u2", x+"-u3", "both-u1", "both-u2")
}

// objects draws the domain objects of each tenant, and on each side, which lead to none of the others.
func (w *boundWorld) objects(row func(format string, args ...any)) {
	for _, x := range []string{own, other} {
		for _, side := range []string{"in", "out"} {
			at := x + "-" + side
			row("group:%s-g1#tenant@tenant:%s", at, x)
			for range 3 {
				if h := w.holder(x); !strings.HasPrefix(h, "delegation:") {
					row("group:%s-g1#member@%s", at, h)
				}
			}
			for f := 1; f <= 2; f++ {
				row("folder:%s-f%d#tenant@tenant:%s", at, f, x)
				if w.chance(50) {
					row("folder:%[1]s-f%[2]d#reader@group:%[1]s-g1#member", at, f)
				}
				for range 3 {
					row("folder:%s-f%d#reader@%s", at, f, w.holder(x))
				}
			}
			for d := 1; d <= 8; d++ {
				doc := fmt.Sprintf("document:%s-d%d", at, d)
				row("%s#folder@folder:%s-f%d", doc, at, 1+w.IntN(2))
				if w.chance(15) {
					row("%s#reader@group:%s-g1#member", doc, at)
				}
				if w.chance(15) {
					row("%s#reader@user:*", doc)
				}
				if w.chance(20) {
					row("%s#banned@user:%s", doc, w.pick(x+"-u1", "both-u1"))
				}
				if w.chance(20) {
					row(`%s#limited@user:both-u1[office:{"closes":18}]`, doc)
				}
				for range 4 {
					row("%s#reader@%s", doc, w.holder(x))
				}
				for _, holder := range []string{
					"agent:" + x + "-in-bot", "agent:both-in-bot", "agent:" + x + "-out-bot", "agent:both-out-bot",
					"user:" + x + "-u1", "user:" + x + "-u2", "user:both-u1", "user:both-u2",
				} {
					if w.chance(60) {
						row("%s#reader@%s", doc, holder)
					}
				}
			}
			for n := 1; n <= 3; n++ {
				row("note:%s-n%d#tenant@tenant:%s", at, n, x)
				for range 5 {
					row("note:%s-n%d#reader@%s", at, n, w.holder(x))
				}
			}
		}
	}
	// What objects within name and what gives nothing to anybody that a question is about: a lookup of users finds all of them, so that the groups
	// outside have members of a type that is never asked for.
	row("tenant:lonely#active@tenant:lonely")
	row("tenant:lonely#member@user:lonely-u1")
	for _, x := range []string{own, other} {
		row("group:%s-out-g2#tenant@tenant:%s", x, x)
		row("group:%s-out-g2#member@crew:lonely", x)
		for d := 1; d <= 8; d += 2 {
			row("document:%s-in-d%d#reader@tenant:lonely#member", x, d)
			row("document:%s-in-d%d#reader@group:%s-out-g2#member", x, 1+d, x)
		}
	}
	row(`folder:both-in-maybe#tenant@tenant:%s[office:{"closes":18}]`, own)
	row("folder:both-in-maybe#reader@user:lonely-u1")
	row("document:%s-in-d3#folder@folder:both-in-maybe", own)
	row("document:both-in-maybe#folder@folder:both-in-maybe")
	row("document:both-in-maybe#reader@user:both-u1")
	row("document:both-in-maybe#reader@agent:both-in-bot")
	// Of two tenants, and of none: these exist for no caller that is bound to tenants.
	row("document:both-in-two#folder@folder:%s-in-f1", own)
	row("document:both-in-two#folder@folder:%s-in-f1", other)
	row("document:both-in-none#reader@user:both-u1")
	for _, doc := range []string{"document:both-in-two", "document:both-in-none"} {
		row("%s#reader@user:both-u1", doc)
		row("%s#reader@agent:both-in-bot", doc)
	}
}

// within are the rows that name nothing that lies outside.
func (w *boundWorld) within(rows []*v1.Relationship, b boundary) []*v1.Relationship {
	lost := map[string]bool{}
	for _, g := range w.grants {
		if b.lost(g) {
			lost["delegation:"+g.delegation], lost["session:"+g.session] = true, true
		}
	}
	outside := func(o *v1.ObjectReference) bool {
		return lost[o.GetObjectType()+":"+o.GetObjectId()] || b.outside(o.GetObjectType(), o.GetObjectId())
	}
	return slices.DeleteFunc(slices.Clone(rows), func(r *v1.Relationship) bool {
		return outside(r.GetResource()) || outside(r.GetSubject().GetObject()) || b.confined && r.GetResource().GetObjectId() == leaver
	})
}

// question draws a question about what lies within or outside, by one of the methods that decide, look up, filter and explain.
func (w *boundWorld) question() (full string, req proto.Message) {
	g := w.grants[w.IntN(len(w.grants))]
	place := w.pick(g.tenant, g.tenant, g.tenant, g.tenant, own, other, "nowhere")
	at := place + "-" + w.pick("in", "in", "out")
	of := func(kind string) string {
		if kind == "document" && w.chance(10) {
			return w.pick("both-in-two", "both-in-none", "both-in-maybe")
		}
		return fmt.Sprintf("%s-%s%d", at, kind[:1], 1+w.IntN(map[string]int{"document": 9, "folder": 2, "group": 1}[kind]+3))
	}
	kind := func() string {
		return w.pick("document", "document", "document", "document", "document", "folder", "tool", "note", "group")
	}
	object := func() string { k := kind(); return k + ":" + of(k) }
	permission := func() string {
		return w.pick("view", "view", "view", "view", "view", "view", "edit", "reader", "read", "tenant")
	}
	var forWhom *deputyv1.ObjectReference
	if w.chance(50) || g.relation != "" || g.session+g.delegation == "" {
		forWhom = harness.Ref(g.principal)
		if g.relation != "" || w.chance(20) {
			forWhom = harness.Ref("user:" + w.pick(g.tenant+"-u1", g.tenant+"-u2", "both-u1", "nowhere-u1"))
		}
		if w.chance(10) {
			forWhom = harness.Ref("service:" + g.tenant + "-s1")
		}
	}
	tenant := w.pick("", g.tenant, g.tenant, own, other, "nowhere")
	agent := g.agent
	if w.chance(8) {
		agent = w.pick(own, other, "both", "nowhere") + "-" + w.pick("in", "out") + "-" + w.pick("bot", "sub")
	}
	alone := w.chance(30)
	if alone {
		forWhom, tenant = harness.Ref(g.principal), g.tenant
		if g.relation != "" {
			forWhom = harness.Ref("user:" + w.pick(g.tenant+"-u1", "both-u1"))
		}
	}
	var given *structpb.Struct
	if w.chance(30) {
		given = &structpb.Struct{Fields: map[string]*structpb.Value{"hour": structpb.NewNumberValue(float64(w.IntN(24)))}}
	}
	limit := []uint32{0, 1, 2, 3, 100}[w.IntN(5)]
	head := &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}
	raw := func(text string) *v1.ObjectReference {
		objectType, id, _ := strings.Cut(text, ":")
		return &v1.ObjectReference{ObjectType: objectType, ObjectId: id}
	}
	somebody := func() *v1.SubjectReference {
		name := w.pick("user:both-u1", "user:both-u2", "user:"+place+"-u1", "agent:"+at+"-bot", "agent:both-in-bot", "service:"+place+"-s1")
		return &v1.SubjectReference{Object: raw(name)}
	}
	const permissions, spicedb = "/deputy.v1.PermissionsService/", "/authzed.api.v1.PermissionsService/"
	check := &deputyv1.CheckPermissionRequest{
		AgentId: agent, OnBehalfOf: forWhom, TenantId: tenant, Resource: harness.Ref(object()), Permission: permission(), Context: given,
	}
	switch {
	case alone:
	case g.session != "":
		check.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: g.session}
	default:
		check.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: g.delegation}
	}
	switch w.IntN(14) {
	case 0:
		return permissions + "CheckPermission", check
	case 1, 2:
		return permissions + "ExplainPermission", &deputyv1.ExplainPermissionRequest{Check: check}
	case 3, 4:
		r := &deputyv1.FilterResourcesRequest{
			AgentId: agent, OnBehalfOf: forWhom, TenantId: tenant, ResourceObjectType: kind(), Permission: permission(), Context: given,
		}
		switch {
		case alone:
		case g.session != "":
			r.Via = &deputyv1.FilterResourcesRequest_SessionId{SessionId: g.session}
		default:
			r.Via = &deputyv1.FilterResourcesRequest_DelegationId{DelegationId: g.delegation}
		}
		for range 1 + w.IntN(12) {
			r.ResourceObjectIds = append(r.ResourceObjectIds, of(r.GetResourceObjectType()))
		}
		return permissions + "FilterResources", r
	case 5, 6:
		r := &deputyv1.LookupResourcesRequest{
			AgentId: agent, OnBehalfOf: forWhom, TenantId: tenant, ResourceObjectType: kind(), Permission: permission(), Context: given, Limit: limit,
		}
		switch {
		case alone:
		case g.session != "":
			r.Via = &deputyv1.LookupResourcesRequest_SessionId{SessionId: g.session}
		default:
			r.Via = &deputyv1.LookupResourcesRequest_DelegationId{DelegationId: g.delegation}
		}
		return permissions + "LookupResources", r
	case 7, 8:
		r := &deputyv1.LookupAgentsRequest{Resource: harness.Ref(object()), Permission: permission(), Context: given, Limit: limit}
		if w.chance(40) {
			r.OnBehalfOf = forWhom
		}
		return permissions + "LookupAgents", r
	case 9, 10, 11:
		r := &deputyv1.ReadReachRequest{WithObjects: w.chance(60), WithGrants: w.chance(60), Context: given}
		switch {
		case alone:
			r.Of = &deputyv1.ReadReachRequest_AgentId{AgentId: agent}
		case g.session != "":
			r.Of = &deputyv1.ReadReachRequest_SessionId{SessionId: g.session}
		default:
			r.Of = &deputyv1.ReadReachRequest_DelegationId{DelegationId: g.delegation}
		}
		if w.chance(25) {
			r.OnBehalfOf = forWhom
		}
		if w.chance(25) {
			r.TenantId = tenant
		}
		if w.chance(30) {
			r.ResourceObjectTypes = []string{kind()}
		}
		if w.chance(30) {
			r.Permissions = []string{permission()}
		}
		return "/deputy.v1.ReachService/ReadReach", r
	case 12:
		return w.pick(spicedb + "CheckPermission"), &v1.CheckPermissionRequest{
			Consistency: head, Resource: raw(object()), Permission: permission(), Subject: somebody(), Context: given,
		}
	default:
		if w.chance(50) {
			return spicedb + "LookupResources", &v1.LookupResourcesRequest{
				Consistency: head, ResourceObjectType: kind(), Permission: permission(), Subject: somebody(), Context: given, OptionalLimit: limit,
			}
		}
		return spicedb + "LookupSubjects", &v1.LookupSubjectsRequest{
			Consistency: head, Resource: raw(object()), Permission: permission(), SubjectObjectType: w.pick("user", "agent", "service", "delegation"), Context: given,
		}
	}
}

// TestBoundsAreAbsence: whatever a caller's bounds are on, the answers that it gets, with their order, counts, pages and errors, are those of a server
// that holds nothing of what lies outside. DEPUTY_CONFINEMENT_SEED draws the same worlds and questions again.
func TestBoundsAreAbsence(t *testing.T) {
	const worlds, questions = 3, 1000
	n := seed(t)
	t.Logf("DEPUTY_CONFINEMENT_SEED=%d", n)
	answered := map[string]int{}
	for i := range uint64(worlds) {
		w := drawWorld(t, n+i)
		rows := rowsOf(t, w.s)
		for _, b := range boundaries() {
			domain := boundDomain
			if !b.outside("note", "") {
				domain += boundNote
			}
			absent := startBound(t, domain)
			write(t, absent, w.within(rows, b))
			p := pairs{toB: map[string]string{}, toA: map[string]string{}}
			whole, part := harness.Dial(t, w.s.Addr().String(), keyOf(b.name)), harness.Dial(t, absent.Addr().String(), keyOf(b.name))
			failures := 0
			for range questions / len(boundaries()) {
				full, req := w.question()
				m, err := methodOf(full)
				if err != nil {
					t.Fatal(err)
				}
				if w.chance(50) { // what was found for others is kept
					m.ask(t.Context(), w.s.Admin, req)
				}
				got, want := m.ask(t.Context(), whole, req), m.ask(t.Context(), part, req)
				if text := fmt.Sprint(got.messages); len(got.Body) > 1 || strings.Contains(text, "HAS_PERMISSION") || strings.Contains(text, "allowed_object_ids") {
					answered[full]++
				}
				if d := differ(p, got, want); d != "" {
					t.Errorf("world %d, bounds on %s: %s of\n%v\ndiffers from that of a server without what lies outside in %s", i, b.name, full, req, d)
					if failures++; failures == 5 {
						break
					}
				}
			}
		}
	}
	for _, full := range []string{"PermissionsService/LookupResources", "PermissionsService/LookupAgents", "ReachService/ReadReach", "PermissionsService/FilterResources"} {
		if answered["/deputy.v1."+full] == 0 {
			t.Errorf("no %s was answered with anything", full)
		}
	}
	t.Log(answered)
}

// differ returns where two answers differ, in their order too.
func differ(p pairs, a, b answer) string {
	for _, d := range []string{
		p.compare("code", a.Code, b.Code), p.compare("message", a.Message, b.Message), p.compare("details", a.Details, b.Details),
		p.compare("pages", fmt.Sprint(a.Pages), fmt.Sprint(b.Pages)), p.compare("body", a.Body, b.Body), p.compare("metadata", a.Trailer, b.Trailer),
	} {
		if d != "" {
			return d + fmt.Sprintf("\n%s %q and %s %q", a.Code, a.Message, b.Code, b.Message)
		}
	}
	return ""
}
