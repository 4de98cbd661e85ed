package decision_test

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

const (
	active  = deputyv1.LifecycleState_LIFECYCLE_STATE_ACTIVE
	stopped = deputyv1.LifecycleState_LIFECYCLE_STATE_STOPPED
)

// TestVouching: only a caller that may vouch creates a delegation without a parent; one that may not passes on parts.
func TestVouching(t *testing.T) {
	t.Parallel()
	eachConfined(t, func(c *confined) {
		root := &deputyv1.CreateDelegationRequest{AgentId: "own", Principal: subject("user:alice"), TenantId: "acme", Unscoped: true, Ttl: hour}
		_, err := c.of(c.delegator).CreateDelegation(c.Context(), root)
		c.fails(err, codes.PermissionDenied, "OUT_OF_BOUNDS", "")
		_, err = c.of(c.voucher).CreateDelegation(c.Context(), root)
		c.ok(err)
		_, err = c.of(c.delegator).CreateDelegation(c.Context(), &deputyv1.CreateDelegationRequest{
			AgentId: "own", ParentDelegationId: c.direct.GetDelegationId(), Unscoped: true,
		})
		c.ok(err)
	})
}

// TestSharedAreNotSuspended: who is bound to a tenant neither suspends nor resumes an agent or a principal that other tenants have too,
// and reads what it can do instead; a right that another tenant took away does not count. Its own it suspends and resumes.
func TestSharedAreNotSuspended(t *testing.T) {
	t.Parallel()
	eachConfined(t, func(c *confined) {
		suspendAgent := func(id string) error {
			_, err := c.of(c.responder).SuspendAgent(c.Context(), &deputyv1.SuspendAgentRequest{AgentId: id})
			return err
		}
		suspend := func(who string) error {
			_, err := c.of(c.responder).Suspend(c.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref(who)})
			return err
		}
		before := c.everything()
		err := suspendAgent("bot")
		c.fails(err, codes.PermissionDenied, "OUT_OF_BOUNDS", "")
		for _, instead := range []string{"agent:bot", "revoke its delegations", "responder"} {
			if !strings.Contains(err.Error(), instead) {
				c.Errorf("the refusal does not say %q: %v", instead, err)
			}
		}
		c.fails(suspend("user:dave"), codes.PermissionDenied, "OUT_OF_BOUNDS", "")
		_, err = c.of(c.governor).ResumeAgent(c.Context(), &deputyv1.ResumeAgentRequest{AgentId: "bot"})
		c.fails(err, codes.PermissionDenied, "OUT_OF_BOUNDS", "")
		_, err = c.of(c.governor).Resume(c.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref("user:dave")})
		c.fails(err, codes.PermissionDenied, "OUT_OF_BOUNDS", "")
		_, err = c.of(c.responder).ResumeAgent(c.Context(), &deputyv1.ResumeAgentRequest{AgentId: "own"})
		c.fails(err, codes.PermissionDenied, "ROLE_REQUIRED", "")
		if !slices.Equal(before, c.everything()) {
			c.Error("a refused call was written")
		}
		c.Delete(c.T, "tenant:globex#agent@agent:bot", "tenant:globex#member@user:dave")
		c.ok(suspend("user:dave"))
		view := inSession(c.run).view("document:plan")
		c.allow(view)
		c.ok(suspendAgent("bot"))
		c.deny(view, byActor)
		_, err = c.of(c.governor).ResumeAgent(c.Context(), &deputyv1.ResumeAgentRequest{AgentId: "bot"})
		c.ok(err)
		c.allow(view)
		c.ok(suspend("tenant:acme"))
		c.deny(view, byActor)
		_, err = c.of(c.governor).Resume(c.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref("tenant:acme")})
		c.ok(err)
		c.allow(view)
	})
}

// TestSessionBeyondBounds: of a session that acts in another tenant too, a confined caller sees its own part, renews nothing, and ends
// just that part; the other goes on.
func TestSessionBeyondBounds(t *testing.T) {
	t.Parallel()
	eachConfined(t, func(c *confined) {
		own := c.delegate(&deputyv1.CreateDelegationRequest{Principal: subject("user:dave"), Unscoped: true, Ttl: durationpb.New(20 * time.Minute)})
		run := c.start(target(own), target(c.theirs))
		c.Touch(c.T, "document:plan#reader@user:dave")
		ours := inSession(run).actingFor("user:dave").in("acme").view("document:plan")
		beyond := inSession(run).actingFor("user:dave").in("globex").view("document:foreign")
		c.allow(ours)
		c.allow(beyond)
		get := func(of lifecycleOf) *deputyv1.Session {
			c.Helper()
			resp, err := of.GetSession(c.Context(), &deputyv1.GetSessionRequest{SessionId: run.GetSessionId()})
			c.ok(err)
			return resp.GetSession()
		}
		seen := get(c.of(c.delegator))
		if len(seen.GetLeaves()) != 1 || seen.GetLeaves()[0].GetTenantId() != "acme" || seen.GetState() != active ||
			!seen.GetExpiresAt().AsTime().Equal(own.GetExpiresAt().AsTime()) {
			c.Errorf("a confined caller sees %v", seen)
		}
		if all := get(c.of(c.Service)); !all.GetExpiresAt().AsTime().After(own.GetExpiresAt().AsTime()) {
			c.Errorf("others see %v", all)
		}
		listed, err := c.of(c.delegator).ListSessions(c.Context(), &deputyv1.ListSessionsRequest{AgentId: "bot"})
		c.ok(err)
		if len(listed.GetSessions()) != 2 || strings.Contains(listed.String(), "globex") {
			c.Errorf("a confined caller lists %v", listed)
		}
		_, err = c.of(c.delegator).RenewSession(c.Context(), &deputyv1.RenewSessionRequest{SessionId: run.GetSessionId()})
		c.fails(err, codes.PermissionDenied, "OUT_OF_BOUNDS", "")
		for range 2 { // ending an ended one succeeds
			_, err = c.of(c.responder).EndSession(c.Context(), &deputyv1.EndSessionRequest{SessionId: run.GetSessionId()})
			c.ok(err)
			c.deny(ours, byActor)
			c.allow(beyond)
		}
		if seen := get(c.of(c.delegator)); seen.GetState() != stopped || seen.GetExpiresAt() != nil {
			c.Errorf("its part of the session has ended, and it sees %v", seen)
		}
		if seen := get(c.of(c.Service)); seen.GetState() != active || len(seen.GetLeaves()) != 2 {
			c.Errorf("others see %v", seen)
		}
		listed, err = c.of(c.delegator).ListSessions(c.Context(), &deputyv1.ListSessionsRequest{AgentId: "bot"})
		c.ok(err)
		if len(listed.GetSessions()) != 1 {
			c.Errorf("it lists %v among the sessions that go on", listed)
		}
	})
}

// TestListsAreTheTenants: lists of a confined caller hold what is its tenant's, and say that they are complete by that alone, however
// much of others comes behind; pages of one come to the same.
func TestListsAreTheTenants(t *testing.T) {
	t.Parallel()
	eachConfined(t, func(c *confined) {
		for range 5 {
			d := c.delegate(&deputyv1.CreateDelegationRequest{Principal: subject("user:dave"), TenantId: "globex", Unscoped: true})
			c.start(target(d))
		}
		of := c.of(c.delegator)
		page := func(limit uint32, next func(limit uint32, from *deputyv1.Cursor) (ids []string, complete bool, cursor *deputyv1.Cursor)) []string {
			c.Helper()
			var all []string
			for from := (*deputyv1.Cursor)(nil); ; {
				ids, complete, cursor := next(limit, from)
				if all = append(all, ids...); complete {
					return all
				}
				if len(ids) != int(limit) || cursor == nil {
					c.Fatalf("a page of %d holds %v, and goes on with %v", limit, ids, cursor)
				}
				from = cursor
			}
		}
		for name, list := range map[string]struct {
			want []string
			next func(limit uint32, from *deputyv1.Cursor) ([]string, bool, *deputyv1.Cursor)
		}{
			// "off" is suspended, and so comes last.
			"agents": {[]string{"bot", "own", "sub", "off"}, func(limit uint32, from *deputyv1.Cursor) (ids []string, _ bool, _ *deputyv1.Cursor) {
				resp, err := of.ListAgents(c.Context(), &deputyv1.ListAgentsRequest{Limit: limit, Cursor: from})
				c.ok(err)
				for _, a := range resp.GetAgents() {
					ids = append(ids, a.GetAgentId())
				}
				return ids, resp.GetComplete(), resp.GetNext()
			}},
			"delegations": {sorted(c.direct.GetDelegationId(), c.set.GetDelegationId(), c.run.GetLeaves()[0].GetDelegationId()),
				func(limit uint32, from *deputyv1.Cursor) (ids []string, _ bool, _ *deputyv1.Cursor) {
					resp, err := of.ListDelegations(c.Context(), &deputyv1.ListDelegationsRequest{AgentId: "bot", IncludeLeaves: true, Limit: limit, Cursor: from})
					c.ok(err)
					for _, d := range resp.GetDelegations() {
						ids = append(ids, d.GetDelegationId())
					}
					return ids, resp.GetComplete(), resp.GetNext()
				}},
			"sessions": {[]string{c.run.GetSessionId()}, func(limit uint32, from *deputyv1.Cursor) (ids []string, _ bool, _ *deputyv1.Cursor) {
				resp, err := of.ListSessions(c.Context(), &deputyv1.ListSessionsRequest{AgentId: "bot", Limit: limit, Cursor: from})
				c.ok(err)
				for _, s := range resp.GetSessions() {
					ids = append(ids, s.GetSessionId())
				}
				return ids, resp.GetComplete(), resp.GetNext()
			}},
		} {
			if got := page(uint32(len(list.want)), list.next); !slices.Equal(got, list.want) {
				c.Errorf("%s: one page holds %v, want %v", name, got, list.want)
			}
			if ids, complete, _ := list.next(uint32(len(list.want)), nil); !complete || len(ids) != len(list.want) {
				c.Errorf("%s: a page with all of it, %v, is not complete", name, ids)
			}
			if got := page(1, list.next); !slices.Equal(got, list.want) {
				c.Errorf("%s: pages of one hold %v, want %v", name, got, list.want)
			}
		}
	})
}

func sorted(ids ...string) []string { slices.Sort(ids); return ids }

// TestCursorsAreTheCallers: a cursor is opened for the caller that it was given to and nobody else, and cannot be read: where a list
// stopped tells of what others have.
func TestCursorsAreTheCallers(t *testing.T) {
	t.Parallel()
	eachConfined(t, func(c *confined) {
		var foreign []string
		for range 4 {
			d := c.delegate(&deputyv1.CreateDelegationRequest{Principal: subject("user:dave"), TenantId: "globex", Unscoped: true})
			foreign = append(foreign, d.GetDelegationId())
		}
		r := &deputyv1.ListDelegationsRequest{AgentId: "bot", Limit: 1}
		others, err := c.Delegations().ListDelegations(c.Context(), r)
		c.ok(err)
		own, err := c.of(c.delegator).ListDelegations(c.Context(), r)
		c.ok(err)
		for _, taken := range []*deputyv1.Cursor{others.GetNext(), own.GetNext()} {
			r.Cursor = taken
			_, err = c.of(c.voucher).ListDelegations(c.Context(), r)
			c.fails(err, codes.InvalidArgument, "INVALID_TOKEN", "cursor")
			read, err := base64.RawURLEncoding.DecodeString(taken.GetToken())
			c.ok(err)
			for _, told := range append(foreign, `"k"`, "bot") {
				if strings.Contains(string(read), told) {
					c.Errorf("the cursor tells %s: %q", told, read)
				}
			}
		}
		_, err = c.of(c.delegator).ListDelegations(c.Context(), r)
		c.ok(err)
	})
}

// TestKeysAreTheCallers: an idempotency key is a caller's own: with the same one, two callers make two delegations and two sessions,
// whatever they ask for, and neither reads that the key was used.
func TestKeysAreTheCallers(t *testing.T) {
	t.Parallel()
	eachConfined(t, func(c *confined) {
		create := &deputyv1.CreateDelegationRequest{
			AgentId: "bot", Principal: subject("user:alice"), TenantId: "acme", Unscoped: true, Ttl: hour, IdempotencyKey: "k",
		}
		start := &deputyv1.StartSessionRequest{AgentId: "bot", Targets: []*deputyv1.SessionTarget{target(c.direct)}, IdempotencyKey: "k"}
		made := map[string]string{}
		for _, conn := range []lifecycleOf{c.of(c.Service), c.of(c.Admin), c.of(c.voucher), c.of(c.governor)} {
			first, err := conn.CreateDelegation(c.Context(), create)
			c.ok(err)
			again, err := conn.CreateDelegation(c.Context(), create)
			c.ok(err)
			run, err := conn.StartSession(c.Context(), start)
			c.ok(err)
			rerun, err := conn.StartSession(c.Context(), start)
			c.ok(err)
			if first.GetDelegation().GetDelegationId() != again.GetDelegation().GetDelegationId() ||
				run.GetSession().GetSessionId() != rerun.GetSession().GetSessionId() {
				c.Error("a retry made another one")
			}
			for _, id := range []string{first.GetDelegation().GetDelegationId(), run.GetSession().GetSessionId()} {
				if made[id] != "" {
					c.Errorf("two callers made %s with one key", id)
				}
				made[id] = "made"
			}
			create.AllowDirect, start.Frozen = !create.AllowDirect, !start.Frozen // the next asks for something else
		}
		create.AllowDirect, start.Frozen = false, false
		_, err := c.of(c.governor).CreateDelegation(c.Context(), create)
		c.fails(err, codes.AlreadyExists, "IDEMPOTENCY_KEY_REUSED", "")
		_, err = c.of(c.governor).StartSession(c.Context(), start)
		c.fails(err, codes.AlreadyExists, "IDEMPOTENCY_KEY_REUSED", "")
	})
}

// TestOwnersOfOthersAreNotTold: of an agent's owners a confined caller reads those that are its tenant's.
func TestOwnersOfOthersAreNotTold(t *testing.T) {
	t.Parallel()
	eachConfined(t, func(c *confined) {
		for name, want := range map[string][]string{"delegator": {"carol"}, "nobody bound": {"carol", "mallory"}} {
			conn := c.delegator
			if name != "delegator" {
				conn = c.Service
			}
			got, err := c.of(conn).GetAgent(c.Context(), &deputyv1.GetAgentRequest{AgentId: "own"})
			c.ok(err)
			if !slices.Equal(got.GetAgent().GetOwnerIds(), want) {
				c.Errorf("%s reads %v, want the owners %v", name, got, want)
			}
			listed, err := c.of(conn).ListAgents(c.Context(), &deputyv1.ListAgentsRequest{})
			c.ok(err)
			for _, a := range listed.GetAgents() {
				if a.GetAgentId() == "own" && !slices.Equal(a.GetOwnerIds(), want) {
					c.Errorf("%s lists %v, want the owners %v", name, a, want)
				}
			}
		}
	})
}

// TestBoundsOnActors: bounds on agents and on the types of principals hold in every tenant.
func TestBoundsOnActors(t *testing.T) {
	t.Parallel()
	ofSub := bound("of-sub", bounded(func(b *authz.Bounds) { b.Agents = authz.NamesOf("sub") }), asAdmin)
	ofServices := bound("of-services", bounded(func(b *authz.Bounds) { b.Principals = authz.NamesOf("service") }), asAdmin)
	eachConfined(t, func(c *confined) {
		part := c.delegate(&deputyv1.CreateDelegationRequest{AgentId: "sub", ParentDelegationId: c.direct.GetDelegationId(), Unscoped: true})
		c.Touch(c.T, "tenant:acme#member@service:nightly")
		forService := c.delegate(&deputyv1.CreateDelegationRequest{
			Principal: subject("service:nightly"), GrantedBy: harness.Ref("user:alice"), Unscoped: true,
		})
		run := c.start(target(c.set, "user:alice", "service:nightly"))
		get := func(of lifecycleOf, d *deputyv1.Delegation) (*deputyv1.Delegation, error) {
			resp, err := of.GetDelegation(c.Context(), &deputyv1.GetDelegationRequest{DelegationId: d.GetDelegationId()})
			return resp.GetDelegation(), err
		}
		of := c.of(c.as("of-sub"))
		got, err := get(of, part)
		c.ok(err)
		if got.GetParentDelegationId() != "" || got.GetGrantedBy() != nil || got.GetAgentId() != "sub" {
			c.Errorf("an agent outside, and what it passed on, are told: %v", got)
		}
		_, err = get(of, c.direct)
		c.fails(err, codes.NotFound, "DELEGATION_NOT_FOUND", "")
		_, err = of.GetAgent(c.Context(), &deputyv1.GetAgentRequest{AgentId: "bot"})
		c.fails(err, codes.NotFound, "AGENT_NOT_FOUND", "")
		_, err = of.SuspendAgent(c.Context(), &deputyv1.SuspendAgentRequest{AgentId: "bot"})
		c.fails(err, codes.NotFound, "AGENT_NOT_FOUND", "")
		_, err = of.RegisterAgent(c.Context(), &deputyv1.RegisterAgentRequest{AgentId: "newcomer", OwnerIds: []string{"carol"}})
		c.fails(err, codes.PermissionDenied, "OUT_OF_BOUNDS", "")
		_, err = of.GetSession(c.Context(), &deputyv1.GetSessionRequest{SessionId: run.GetSessionId()})
		c.fails(err, codes.NotFound, "SESSION_NOT_FOUND", "")
		listed, err := of.ListAgents(c.Context(), &deputyv1.ListAgentsRequest{Limit: 1})
		c.ok(err)
		if len(listed.GetAgents()) != 1 || listed.GetAgents()[0].GetAgentId() != "sub" || !listed.GetComplete() {
			c.Errorf("it lists %v", listed)
		}
		_, err = of.SuspendAgent(c.Context(), &deputyv1.SuspendAgentRequest{AgentId: "sub"})
		c.ok(err)
		adoptions := deputyv1.NewAdoptionServiceClient(c.as("of-sub"))
		_, err = adoptions.ConfirmAdoption(c.Context(), &deputyv1.ConfirmAdoptionRequest{Adoptions: []*deputyv1.Adoption{{Object: harness.Ref("user:gina")}}})
		c.fails(err, codes.PermissionDenied, "OUT_OF_BOUNDS", "")
		review, err := adoptions.ReviewAdoption(c.Context(), &deputyv1.ReviewAdoptionRequest{})
		c.ok(err)
		_, err = review.Recv()
		c.fails(err, codes.PermissionDenied, "OUT_OF_BOUNDS", "")

		of = c.of(c.as("of-services"))
		_, err = get(of, c.direct)
		c.fails(err, codes.NotFound, "DELEGATION_NOT_FOUND", "")
		_, err = get(of, forService)
		c.ok(err)
		session, err := of.GetSession(c.Context(), &deputyv1.GetSessionRequest{SessionId: run.GetSessionId()})
		c.ok(err)
		if l := session.GetSession().GetLeaves(); len(l) != 1 || l[0].GetPrincipal().GetObjectType() != "service" || l[0].GetParentDelegationId() != "" {
			c.Errorf("it sees the leaves %v", l)
		}
		for _, who := range []string{"user:alice", "user:absent"} {
			_, err = of.CreateDelegation(c.Context(), &deputyv1.CreateDelegationRequest{
				AgentId: "own", ParentDelegationId: forService.GetDelegationId(), Principal: subject(who), Unscoped: true,
			})
			c.fails(err, codes.InvalidArgument, "INVALID_FIELD", "principal")
			_, err = of.StartSession(c.Context(), &deputyv1.StartSessionRequest{
				AgentId: "bot", Targets: []*deputyv1.SessionTarget{target(forService, who)},
			})
			c.fails(err, codes.InvalidArgument, "INVALID_FIELD", "targets[0].principals[0]")
		}
		_, err = of.Suspend(c.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref("user:alice")})
		c.fails(err, codes.NotFound, "PRINCIPAL_NOT_FOUND", "")
		_, err = of.CreateDelegation(c.Context(), &deputyv1.CreateDelegationRequest{
			AgentId: "bot", Principal: subject("user:alice"), TenantId: "acme", Unscoped: true, Ttl: hour,
		})
		c.fails(err, codes.FailedPrecondition, "NOT_ACTIVE", "")
		_, err = of.CreateDelegation(c.Context(), &deputyv1.CreateDelegationRequest{
			AgentId: "bot", Principal: subject("service:nightly"), GrantedBy: harness.Ref("user:alice"), TenantId: "acme", Unscoped: true, Ttl: hour,
		})
		c.ok(err)
		_, err = of.Suspend(c.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref("service:nightly")})
		c.ok(err)
	}, ofSub, ofServices)
}

// TestSetsWithinBounds: a delegation for a set exists for a caller whose bounds have the types of all that the set can hold, and for no
// other, to the lifecycle, to decisions and at SpiceDB's API alike. What was passed on from one that does not exist is a part of nothing.
func TestSetsWithinBounds(t *testing.T) {
	t.Parallel()
	var callers []*caller.Caller
	exists := map[string]string{"user": "admin", "service": "", "user service": "admin member"}
	for types := range exists {
		callers = append(callers, bound("of "+types, bounded(func(b *authz.Bounds) { b.Principals = authz.NamesOf(strings.Fields(types)...) }),
			asDelegator, deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_WRITER))
	}
	eachConfined(t, func(c *confined) {
		who := map[string]string{"admin": "user:carol", "member": "user:alice"}
		_, err := c.Principals().Resume(c.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref("user:carol")})
		c.ok(err)
		c.Touch(c.T, "document:plan#reader@user:carol")
		sets, parts := map[string]*deputyv1.Delegation{}, map[string]*deputyv1.Delegation{}
		for set := range who {
			sets[set] = c.delegate(&deputyv1.CreateDelegationRequest{
				AgentId: "own", Principal: subject("tenant:acme#" + set), GrantedBy: harness.Ref("user:carol"), Unscoped: true, AllowDirect: true,
			})
			parts[set] = c.delegate(&deputyv1.CreateDelegationRequest{
				AgentId: "sub", ParentDelegationId: sets[set].GetDelegationId(), Principal: subject(who[set]), Unscoped: true,
			})
		}
		c.Touch(c.T, "document:plan#reader@agent:own")
		for types, there := range exists {
			conn := c.as("of " + types)
			for set, d := range sets {
				want, id := slices.Contains(strings.Fields(there), set), d.GetDelegationId()
				told := func(how string, got bool) {
					if got != want {
						c.Errorf("to a caller of %q the delegation for %ss exists by %s: %t", types, set, how, got)
					}
				}
				found := func(how string, err error) {
					if err != nil && reasonOf(err) != "DELEGATION_NOT_FOUND" {
						c.Errorf("%s of %ss by a caller of %q: %v", how, set, types, err)
					}
					told(how, err == nil)
				}
				_, err := c.of(conn).GetDelegation(c.Context(), &deputyv1.GetDelegationRequest{DelegationId: id})
				found("GetDelegation", err)
				list, err := c.of(conn).ListDelegations(c.Context(), &deputyv1.ListDelegationsRequest{AgentId: "own"})
				c.ok(err)
				told("ListDelegations", slices.ContainsFunc(list.GetDelegations(), func(d *deputyv1.Delegation) bool { return d.GetDelegationId() == id }))
				check := &deputyv1.CheckPermissionRequest{
					AgentId: "own", OnBehalfOf: harness.Ref(who[set]), TenantId: "acme", Resource: harness.Ref("document:plan"), Permission: "view",
				}
				decision, err := deputyv1.NewPermissionsServiceClient(conn).CheckPermission(c.Context(), check)
				c.ok(err)
				told("CheckPermission", decision.GetPermissionship() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION)
				one, err := next(deputyv1.NewPermissionsServiceClient(conn).LookupResources(c.Context(), &deputyv1.LookupResourcesRequest{
					AgentId: "own", OnBehalfOf: harness.Ref(who[set]), TenantId: "acme", ResourceObjectType: "document", Permission: "view",
				}))
				c.ok(err)
				told("LookupResources", one.GetResource() != nil)
				check.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: id}
				_, err = deputyv1.NewPermissionsServiceClient(conn).CheckPermission(c.Context(), check)
				if strings.Contains(types, "user") {
					found("CheckPermission of it", err)
				}
				rows, err := v1.NewPermissionsServiceClient(conn).ReadRelationships(c.Context(), &v1.ReadRelationshipsRequest{
					RelationshipFilter: &v1.RelationshipFilter{ResourceType: "delegation", OptionalResourceId: id, OptionalRelation: "tenant"},
				})
				c.ok(err)
				_, err = rows.Recv()
				told("ReadRelationships", err == nil)
				if !strings.Contains(types, "user") {
					continue
				}
				part, err := c.of(conn).GetDelegation(c.Context(), &deputyv1.GetDelegationRequest{DelegationId: parts[set].GetDelegationId()})
				c.ok(err)
				told("its part", part.GetDelegation().GetParentDelegationId() == id)
			}
		}
	}, callers...)
}

// TestPrefixesOfScopes: an object whose id begins with none of a caller's prefixes is not there to be granted, whether it exists or not.
func TestPrefixesOfScopes(t *testing.T) {
	t.Parallel()
	prefixed := bound("prefixed", bounded(func(b *authz.Bounds) { b.IDs = authz.PrefixesOf("pl") }), asDelegator)
	eachConfined(t, func(c *confined) {
		grant := func(id string) error {
			_, err := c.of(c.as("prefixed")).CreateDelegation(c.Context(), &deputyv1.CreateDelegationRequest{
				AgentId: "bot", Principal: subject("user:alice"), TenantId: "acme", Ttl: hour,
				Scope: []*deputyv1.ScopeGrant{{Resource: harness.Ref("document:" + id), Relation: "reader"}},
			})
			return err
		}
		c.ok(grant("plan"))
		c.fails(grant("both"), codes.InvalidArgument, "INVALID_FIELD", "scope[0].resource")
		if outside, absent := toTheByte(nil, grant("both"), "both"), toTheByte(nil, grant("nowhere"), "nowhere"); outside != absent {
			c.Errorf("outside it answers\n%s\nabout what does not exist\n%s", outside, absent)
		}
	}, prefixed)
}
