package confinement

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// domain has a type of each kind: nested, with a caveat, a caveat that can fail, an expiration, a wildcard and an exclusion, of no tenant but
// global, and of no tenant at all.
const domain = `
caveat office(hour int, closes int) {
	hour < closes
}

caveat share(part int, of int) {
	part / of > 0
}

definition group {
	relation tenant: tenant
	relation member: user | service | agent
}

definition folder {
	relation tenant: tenant
	relation reader: user | service | group#member | agent | delegation
	permission view = reader
}

definition document {
	relation folder: folder
	relation reader: user | user:* | service | group#member | agent | delegation
	relation timed: user with expiration
	relation limited: user with office
	relation shared: user with share
	relation banned: user
	permission tenant = folder->tenant
	permission view = (reader + timed + limited + shared + folder->view) - banned
	permission edit = reader
}

definition tool {
	relation holder: user | service | agent | delegation
	permission use = holder
}

definition note {
	relation reader: user | agent
	permission view = reader
}
`

// The tenants: own is the confined callers', and other is what they must not learn of.
const (
	own   = "acme"
	other = "globex"
)

// grant is what a request names together: a delegation, or a session's leaf.
type grant struct {
	agent, principal, relation, tenant, delegation, session string
	// beyond says that it is a session with a leaf in the other tenant too.
	beyond bool
}

// fill writes the two tenants through the API to a server, and returns what agents act under.
func fill(t *testing.T, s *harness.Server) []grant {
	t.Helper()
	ctx := t.Context()
	s.WriteSchema(t, schema.Core+domain)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var rows []string
	row := func(format string, args ...any) {
		if r := fmt.Sprintf(format, args...); !slices.Contains(rows, r) {
			rows = append(rows, r)
		}
	}
	for _, x := range []string{own, other} {
		for _, u := range []string{x + "-ann", x + "-ben", x + "-cat", "both-dan", "both-eve"} {
			row("user:%s#active@user:%s", u, u)
			row("tenant:%s#member@user:%s", x, u)
		}
		row("service:%[1]s-svc#active@service:%[1]s-svc", x)
		row("service:%[1]s-svc#owner@user:%[1]s-ann", x)
		row("tenant:%[1]s#member@service:%[1]s-svc", x)
		row("tenant:%[1]s#active@tenant:%[1]s", x)
		row("tenant:%[1]s#admin@user:%[1]s-ann", x)
		row("tenant:%[1]s#member@user:%[1]s-gone[expiration:2020-01-01T00:00:00Z]", x)
		for _, bot := range []string{x + "-bot", x + "-sub", "both-bot"} {
			row("tenant:%s#agent@agent:%s", x, bot)
		}
		row("group:%[1]s-g1#tenant@tenant:%[1]s", x)
		row("group:%[1]s-g1#member@user:%[1]s-ben", x)
		row("group:%[1]s-g1#member@user:both-dan", x)
		row("group:%[1]s-g1#member@agent:%[1]s-bot", x)
		for f := 1; f <= 3; f++ {
			row("folder:%[1]s-f%[2]d#tenant@tenant:%[1]s", x, f)
			row("folder:%[1]s-f%[2]d#reader@group:%[1]s-g1#member", x, f)
			row("folder:%[1]s-f%[2]d#reader@agent:both-bot", x, f)
		}
		for d := 1; d <= 12; d++ {
			doc := fmt.Sprintf("document:%s-d%d", x, d)
			row("%s#folder@folder:%s-f%d", doc, x, 1+d%3)
			row("%s#reader@agent:%s-bot", doc, x)
			row("%s#reader@agent:%s-sub", doc, x)
			switch d % 6 {
			case 0:
				row("%s#reader@user:*", doc)
				row("%s#banned@user:both-eve", doc)
			case 1:
				row("%s#timed@user:%s-ann[expiration:2099-01-01T00:00:00Z]", doc, x)
			case 2:
				row(`%s#limited@user:both-dan[office:{"closes":18}]`, doc)
			case 3:
				row(`%s#shared@user:%s-ben[share:{"of":0}]`, doc, x)
			case 4:
				row("%s#reader@user:%s-cat", doc, x)
				row("%s#reader@service:%s-svc", doc, x)
			}
		}
		row("note:%s-n1#reader@user:both-dan", x)
	}
	// What an admin without bounds grants across tenants: rows of the own objects that name what is the other one's. Nobody of the own tenant
	// gets anything by them.
	row("group:%[1]s-g2#tenant@tenant:%[1]s", other)
	row("group:%[1]s-g2#member@user:%[1]s-ann", other)
	row("document:%s-d1#reader@group:%s-g2#member", own, other)
	row("document:%s-d2#reader@user:%s-cat", own, other)
	row("folder:%s-f1#reader@agent:%s-bot", own, other)
	row("group:%s-g1#member@service:%s-svc", own, other)
	row("agent:both-bot#owner@user:%s-ann", other)
	// Of a global type, and so everybody's.
	row("tool:%s-t1#holder@user:both-dan", own)
	row("tool:%s-t1#holder@agent:both-bot", own)
	// In two tenants, and so in nobody's.
	row("document:%s-two#folder@folder:%s-f1", other, own)
	row("document:%s-two#folder@folder:%s-f1", other, other)
	row("document:%s-two#reader@user:both-dan", other)
	row("document:%s-two#reader@agent:both-bot", other)
	for _, bot := range []string{own + "-bot", own + "-sub", other + "-bot", other + "-sub", "both-bot"} {
		owner := "both-dan"
		if x, _, _ := strings.Cut(bot, "-"); x != "both" {
			owner = x + "-ann"
		}
		_, err := s.Agents().RegisterAgent(ctx, &deputyv1.RegisterAgentRequest{AgentId: bot, OwnerIds: []string{owner}})
		ok(err)
	}
	for chunk := range slices.Chunk(rows, 100) {
		s.Touch(t, chunk...)
	}
	var grants []grant
	create := func(g grant, r *deputyv1.CreateDelegationRequest) grant {
		r.AgentId, r.TenantId = g.agent, g.tenant
		switch {
		case r.GetParentDelegationId() != "":
			r.Ttl = durationpb.New(10 * time.Hour)
		case r.GetTtl() == nil:
			r.Ttl = durationpb.New(20 * time.Hour)
		}
		r.Principal = &deputyv1.SubjectReference{Object: harness.Ref(g.principal), OptionalRelation: g.relation}
		d, err := s.Delegations().CreateDelegation(ctx, r)
		ok(err)
		g.delegation = d.GetDelegation().GetDelegationId()
		grants = append(grants, g)
		return g
	}
	both := map[string]grant{}
	for _, x := range []string{own, other} {
		ann := harness.Ref("user:" + x + "-ann")
		for i, user := range []string{x + "-ann", x + "-ben", x + "-cat", "both-dan", "both-eve"} {
			bot := []string{x + "-bot", "both-bot"}[i%2]
			create(grant{agent: bot, principal: "user:" + user, tenant: x}, &deputyv1.CreateDelegationRequest{
				GrantedBy: harness.Ref("user:" + user), Unscoped: i != 1, AllowDirect: i != 2,
				Scope: map[bool][]*deputyv1.ScopeGrant{true: {{Resource: harness.Ref("document:" + x + "-d4"), Relation: "reader"}}}[i == 1],
			})
		}
		create(grant{agent: x + "-bot", principal: "service:" + x + "-svc", tenant: x}, &deputyv1.CreateDelegationRequest{GrantedBy: ann, Unscoped: true, AllowDirect: true})
		dan := create(grant{agent: "both-bot", principal: "user:both-dan", tenant: x}, &deputyv1.CreateDelegationRequest{GrantedBy: harness.Ref("user:both-dan"), Unscoped: true})
		both[x] = dan
		create(grant{agent: x + "-sub", principal: "user:both-dan", tenant: x}, &deputyv1.CreateDelegationRequest{
			GrantedBy: harness.Ref("agent:both-bot"), ParentDelegationId: dan.delegation, AllowDirect: false,
			Scope: []*deputyv1.ScopeGrant{{Resource: harness.Ref("folder:" + x + "-f1"), Relation: "reader"}},
		})
		set := create(grant{agent: x + "-bot", principal: "tenant:" + x, relation: "member", tenant: x}, &deputyv1.CreateDelegationRequest{GrantedBy: ann, Unscoped: true})
		revoked := create(grant{agent: x + "-bot", principal: "user:" + x + "-cat", tenant: x}, &deputyv1.CreateDelegationRequest{GrantedBy: harness.Ref("user:" + x + "-cat"), Unscoped: true})
		_, err := s.Delegations().RevokeDelegation(ctx, &deputyv1.RevokeDelegationRequest{DelegationId: revoked.delegation})
		ok(err)
		for i := range 3 {
			user := []string{"user:" + x + "-ann", "user:" + x + "-ben", "user:both-dan"}[i]
			started, err := s.Sessions().StartSession(ctx, &deputyv1.StartSessionRequest{
				AgentId: x + "-bot", Targets: []*deputyv1.SessionTarget{{DelegationId: set.delegation, Principals: []*deputyv1.ObjectReference{harness.Ref(user)}}},
				Ttl: durationpb.New(10 * time.Hour),
			})
			ok(err)
			grants = append(grants, grant{agent: x + "-bot", principal: user, tenant: x, session: started.GetSession().GetSessionId()})
			if i == 1 {
				_, err := s.Sessions().EndSession(ctx, &deputyv1.EndSessionRequest{SessionId: started.GetSession().GetSessionId()})
				ok(err)
			}
		}
	}
	s.Touch(t, fmt.Sprintf("document:%s-d5#reader@delegation:%s", own, both[other].delegation))
	brief := create(grant{agent: "both-bot", principal: "user:both-dan", tenant: own}, &deputyv1.CreateDelegationRequest{
		GrantedBy: harness.Ref("user:both-dan"), Unscoped: true, Ttl: durationpb.New(5 * time.Hour),
	})
	for _, own := range []string{both[own].delegation, brief.delegation} { // the own part ends with the session, or before
		started, err := s.Sessions().StartSession(ctx, &deputyv1.StartSessionRequest{
			AgentId: "both-bot", Targets: []*deputyv1.SessionTarget{{DelegationId: own}, {DelegationId: both[other].delegation}},
			Ttl: durationpb.New(10 * time.Hour),
		})
		ok(err)
		for _, l := range started.GetSession().GetLeaves() {
			grants = append(grants, grant{
				agent: "both-bot", principal: "user:both-dan", tenant: l.GetTenantId(), session: started.GetSession().GetSessionId(), beyond: true,
			})
		}
	}
	return grants
}

// rowsOf reads all relationships of a server.
func rowsOf(t *testing.T, s *harness.Server) []*v1.Relationship {
	t.Helper()
	stream, err := v1.NewPermissionsServiceClient(s.Admin).ExportBulkRelationships(t.Context(), &v1.ExportBulkRelationshipsRequest{
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var rows []*v1.Relationship
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return rows
		}
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, resp.GetRelationships()...)
	}
}

// alone leaves out of two tenants' relationships all that is the other one's. A session that loses leaves ends with the last of the others.
func alone(rows []*v1.Relationship) []*v1.Relationship {
	foreign := map[string]bool{}
	key := func(o *v1.ObjectReference) string { return o.GetObjectType() + ":" + o.GetObjectId() }
	for _, r := range rows {
		if r.GetResource().GetObjectType() == "delegation" && r.GetRelation() == "tenant" && r.GetSubject().GetObject().GetObjectId() == other {
			foreign[key(r.GetResource())] = true
		}
	}
	others := func(o *v1.ObjectReference) bool { return foreign[key(o)] || strings.HasPrefix(o.GetObjectId(), other) }
	ends, last, leaves := map[string]time.Time{}, map[string]time.Time{}, map[string]int{}
	for _, r := range rows {
		if r.GetResource().GetObjectType() == "delegation" && r.GetRelation() == "active" {
			ends[key(r.GetResource())] = r.GetOptionalExpiresAt().AsTime()
		}
	}
	for _, r := range rows {
		if r.GetResource().GetObjectType() == "session" && r.GetRelation() == "delegation" && !others(r.GetSubject().GetObject()) {
			of := key(r.GetResource())
			leaves[of]++
			if end := ends[key(r.GetSubject().GetObject())]; end.After(last[of]) {
				last[of] = end
			}
		}
	}
	for _, r := range rows {
		of := key(r.GetResource())
		if r.GetResource().GetObjectType() == "session" && r.GetRelation() == "active" && leaves[of] > 0 && last[of].Before(r.GetOptionalExpiresAt().AsTime()) {
			r.OptionalExpiresAt = timestamppb.New(last[of])
		}
	}
	return slices.DeleteFunc(slices.Clone(rows), func(r *v1.Relationship) bool {
		return others(r.GetResource()) || others(r.GetSubject().GetObject()) ||
			r.GetResource().GetObjectType() == "session" && leaves[key(r.GetResource())] == 0
	})
}

// write touches relationships as an admin.
func write(t *testing.T, s *harness.Server, rows []*v1.Relationship) {
	t.Helper()
	for chunk := range slices.Chunk(rows, 500) {
		req := &v1.WriteRelationshipsRequest{}
		for _, r := range chunk {
			req.Updates = append(req.Updates, &v1.RelationshipUpdate{Operation: v1.RelationshipUpdate_OPERATION_TOUCH, Relationship: r})
		}
		if _, err := v1.NewPermissionsServiceClient(s.Admin).WriteRelationships(t.Context(), req); err != nil {
			t.Error(err)
		}
	}
}

// restored are the relationships that are written anew from time to time, because requests take them away: all but delegations and
// sessions, whose tombstones stay.
func restored(rows []*v1.Relationship) []*v1.Relationship {
	return slices.DeleteFunc(slices.Clone(rows), func(r *v1.Relationship) bool {
		kind := r.GetResource().GetObjectType()
		return kind == "delegation" || kind == "session" || r.GetSubject().GetObject().GetObjectType() == "delegation"
	})
}

// tombstones are those that restoring takes away.
func tombstones() []*v1.RelationshipUpdate {
	var updates []*v1.RelationshipUpdate
	for _, o := range []string{"tenant:acme", "user:acme-ann", "user:acme-ben", "user:acme-cat", "service:acme-svc", "agent:acme-bot", "agent:acme-sub"} {
		updates = append(updates, &v1.RelationshipUpdate{
			Operation: v1.RelationshipUpdate_OPERATION_DELETE, Relationship: tuple.ToV1Relationship(tuple.MustParse(o + "#suspended@" + o)),
		})
	}
	return updates
}
