package decision_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// deep nests a value n levels deep.
func deep(n int) map[string]any {
	v := map[string]any{"hour": 10.0}
	for range n - 1 {
		v = map[string]any{"in": v}
	}
	return v
}

// TestBadInput: each gets a status that names the field, and none an answer.
func TestBadInput(t *testing.T) {
	w := newWorld(t, harness.Start(t, inMemory()))
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	good := func() check { return under(d).view("document:plan") }
	w.allow(good())
	for name, c := range map[string]struct {
		bend          func(*deputyv1.CheckPermissionRequest)
		code          codes.Code
		reason, field string
	}{
		"no agent":        {func(r *deputyv1.CheckPermissionRequest) { r.AgentId = "" }, codes.InvalidArgument, "INVALID_FIELD", "agent_id"},
		"all agents":      {func(r *deputyv1.CheckPermissionRequest) { r.AgentId = "*" }, codes.InvalidArgument, "INVALID_FIELD", "agent_id"},
		"control":         {func(r *deputyv1.CheckPermissionRequest) { r.AgentId = "a\x00b" }, codes.InvalidArgument, "INVALID_FIELD", "agent_id"},
		"long":            {func(r *deputyv1.CheckPermissionRequest) { r.AgentId = strings.Repeat("a", 513) }, codes.InvalidArgument, "INVALID_FIELD", "agent_id"},
		"no resource":     {func(r *deputyv1.CheckPermissionRequest) { r.Resource = nil }, codes.InvalidArgument, "INVALID_FIELD", "resource"},
		"empty resource":  {func(r *deputyv1.CheckPermissionRequest) { r.Resource.ObjectId = "" }, codes.InvalidArgument, "INVALID_FIELD", "resource.object_id"},
		"all resources":   {func(r *deputyv1.CheckPermissionRequest) { r.Resource.ObjectId = "*" }, codes.InvalidArgument, "INVALID_FIELD", "resource.object_id"},
		"no type":         {func(r *deputyv1.CheckPermissionRequest) { r.Resource.ObjectType = "" }, codes.InvalidArgument, "INVALID_FIELD", "resource.object_type"},
		"malformed type":  {func(r *deputyv1.CheckPermissionRequest) { r.Resource.ObjectType = "Document!" }, codes.InvalidArgument, "INVALID_FIELD", "resource.object_type"},
		"unknown type":    {func(r *deputyv1.CheckPermissionRequest) { r.Resource.ObjectType = "spaceship" }, codes.InvalidArgument, "UNKNOWN_TYPE", "resource.object_type"},
		"no permission":   {func(r *deputyv1.CheckPermissionRequest) { r.Permission = "" }, codes.InvalidArgument, "INVALID_FIELD", "permission"},
		"malformed perm.": {func(r *deputyv1.CheckPermissionRequest) { r.Permission = "view; drop" }, codes.InvalidArgument, "INVALID_FIELD", "permission"},
		"unknown perm.":   {func(r *deputyv1.CheckPermissionRequest) { r.Permission = "launch" }, codes.InvalidArgument, "UNKNOWN_PERMISSION", "permission"},
		"agent principal": {func(r *deputyv1.CheckPermissionRequest) { r.OnBehalfOf = harness.Ref("agent:bot") }, codes.InvalidArgument, "INVALID_FIELD", "on_behalf_of.object_type"},
		"all principals":  {func(r *deputyv1.CheckPermissionRequest) { r.OnBehalfOf = harness.Ref("user:*") }, codes.InvalidArgument, "INVALID_FIELD", "on_behalf_of.object_id"},
		"all tenants":     {func(r *deputyv1.CheckPermissionRequest) { r.TenantId = "*" }, codes.InvalidArgument, "INVALID_FIELD", "tenant_id"},
		"empty session": {func(r *deputyv1.CheckPermissionRequest) {
			r.Via = &deputyv1.CheckPermissionRequest_SessionId{}
		}, codes.InvalidArgument, "INVALID_FIELD", "session_id"},
		"malformed session": {func(r *deputyv1.CheckPermissionRequest) {
			r.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: "no such/thing?"}
		}, codes.InvalidArgument, "INVALID_FIELD", "session_id"},
		"unknown session": {func(r *deputyv1.CheckPermissionRequest) {
			r.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: strings.Repeat("0", 32)}
		}, codes.NotFound, "SESSION_NOT_FOUND", ""},
		"unknown delegation": {func(r *deputyv1.CheckPermissionRequest) {
			r.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: strings.Repeat("0", 32)}
		}, codes.NotFound, "DELEGATION_NOT_FOUND", ""},
		"nothing named": {func(r *deputyv1.CheckPermissionRequest) { r.Via = nil }, codes.InvalidArgument, "INVALID_FIELD", "on_behalf_of"},
		"no tenant named": {func(r *deputyv1.CheckPermissionRequest) {
			r.Via, r.OnBehalfOf = nil, harness.Ref("user:alice")
		}, codes.InvalidArgument, "INVALID_FIELD", "tenant_id"},
		"huge context": {func(r *deputyv1.CheckPermissionRequest) {
			r.Context = structOf(map[string]any{"x": strings.Repeat("y", 5000)})
		}, codes.InvalidArgument, "INVALID_FIELD", "context"},
		"rounded number": {func(r *deputyv1.CheckPermissionRequest) {
			r.Context = structOf(map[string]any{"x": []any{map[string]any{"amount": float64(1 << 53)}}})
		}, codes.InvalidArgument, "INVALID_FIELD", "context"},
		"blank at an end":    {func(r *deputyv1.CheckPermissionRequest) { r.AgentId += " " }, codes.InvalidArgument, "INVALID_FIELD", "agent_id"},
		"another space":      {func(r *deputyv1.CheckPermissionRequest) { r.TenantId += "\u00a0x" }, codes.InvalidArgument, "INVALID_FIELD", "tenant_id"},
		"variation selector": {func(r *deputyv1.CheckPermissionRequest) { r.Resource.ObjectId += "\ufe0f" }, codes.InvalidArgument, "INVALID_FIELD", "resource.object_id"},
		"deep context":       {func(r *deputyv1.CheckPermissionRequest) { r.Context = structOf(deep(18)) }, codes.InvalidArgument, "INVALID_FIELD", "context"},
		"very deep context": {func(r *deputyv1.CheckPermissionRequest) {
			v := structpb.NewNullValue()
			for range 900 {
				v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
			}
			r.Context = &structpb.Struct{Fields: map[string]*structpb.Value{"x": v}}
		}, codes.InvalidArgument, "INVALID_FIELD", "context"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{t, w.Server}
			r := good().CheckPermissionRequest
			c.bend(r)
			resp, err := w.Permissions().CheckPermission(t.Context(), r)
			if resp.GetPermissionship() == has {
				t.Fatal("allowed")
			}
			w.fails(err, c.code, c.reason, c.field)
		})
	}
	// Context within the limits, that no caveat wants, does no harm.
	w.allow(good().with(deep(16)))
	// A wrong type of a field that a caveat wants fails, and does not allow.
	bad := inSession(w.start(target(d))).view("document:daily").with(map[string]any{"hour": "ten"})
	_, err := w.Permissions().CheckPermission(t.Context(), bad.CheckPermissionRequest)
	if err == nil {
		t.Error("a string was taken for an hour")
	}
}

func structOf(m map[string]any) *structpb.Struct {
	s, err := structpb.NewStruct(m)
	if err != nil {
		panic(err)
	}
	return s
}

// TestBulkWithBadItems: a bad item fails by itself, among good ones that are answered in order.
func TestBulkWithBadItems(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
		item := func(object, permission string) *deputyv1.CheckBulkPermissionsRequestItem {
			return &deputyv1.CheckBulkPermissionsRequestItem{
				AgentId: "bot", Via: &deputyv1.CheckBulkPermissionsRequestItem_DelegationId{DelegationId: d.GetDelegationId()},
				Resource: harness.Ref(object), Permission: permission,
			}
		}
		unknown := item("document:plan", "view")
		unknown.Via = &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: "00"}
		star := item("document:*", "view")
		resp, err := w.Permissions().CheckBulkPermissions(t.Context(), &deputyv1.CheckBulkPermissionsRequest{Items: []*deputyv1.CheckBulkPermissionsRequestItem{
			item("document:plan", "view"), item("document:plan", "launch"), item("document:bobs", "view"), unknown,
			item("note:n1", "view"), star, {}, item("document:daily", "view"), item("document:both", "view"),
		}})
		w.ok(err)
		want := []any{has, "UNKNOWN_PERMISSION permission", no, "SESSION_NOT_FOUND ", "NOT_TENANT_SAFE ", "INVALID_FIELD resource.object_id", "INVALID_FIELD agent_id", conditional, has}
		if len(resp.GetPairs()) != len(want) {
			t.Fatalf("%d pairs for %d items", len(resp.GetPairs()), len(want))
		}
		for i, pair := range resp.GetPairs() {
			var got any = pair.GetItem().GetPermissionship()
			if e := pair.GetError(); e != nil {
				got = e.GetReason() + " " + e.GetField()
				if e.GetCode() == 0 || e.GetMessage() == "" {
					t.Errorf("item %d fails with %v", i, e)
				}
			}
			if got != want[i] {
				t.Errorf("item %d: %v, want %v (%v)", i, got, want[i], pair)
			}
			if pair.GetItem() != nil && pair.GetItem().GetCheckedAt().GetToken() != resp.GetCheckedAt().GetToken() {
				t.Errorf("item %d is decided at another revision", i)
			}
		}
		for _, n := range []int{0, 1001} {
			_, err = w.Permissions().CheckBulkPermissions(t.Context(), &deputyv1.CheckBulkPermissionsRequest{Items: make([]*deputyv1.CheckBulkPermissionsRequestItem, n)})
			w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "items")
		}
	})
}

// TestOutsideIdentities: emails, SPIFFE ids and URLs are ids like any other, and come back as they went
// in; what looks like an encoded id is another identity.
func TestOutsideIdentities(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		w := newWorld(t, s)
		const who, bot, what = "zoë@example.com", "spiffe://prod.example/ns/agents/bot", "https://example.com/a?b=c#d"
		_, err := w.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: bot, OwnerIds: []string{who}})
		w.ok(err)
		got, err := w.Agents().GetAgent(t.Context(), &deputyv1.GetAgentRequest{AgentId: bot})
		w.ok(err)
		if a := got.GetAgent(); a.GetAgentId() != bot || a.GetOwnerIds()[0] != who {
			t.Errorf("registered as %v", a)
		}
		person := &deputyv1.ObjectReference{ObjectType: "user", ObjectId: who}
		_, err = w.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: person})
		w.ok(err)
		s.Touch(t,
			"tenant:acme#member@user:=zo=C3=AB=40example=2Ecom", "tenant:acme#agent@agent:=spiffe=3A//prod=2Eexample/ns/agents/bot",
			"document:=https=3A//example=2Ecom/a=3Fb=3Dc=23d#tenant@tenant:acme",
			"document:=https=3A//example=2Ecom/a=3Fb=3Dc=23d#reader@user:=zo=C3=AB=40example=2Ecom",
			"document:=https=3A//example=2Ecom/a=3Fb=3Dc=23d#reader@agent:=spiffe=3A//prod=2Eexample/ns/agents/bot",
		)
		d := w.delegate(&deputyv1.CreateDelegationRequest{
			AgentId: bot, Principal: &deputyv1.SubjectReference{Object: person}, Unscoped: true, AllowDirect: true,
		})
		c := under(d)
		c.Resource = &deputyv1.ObjectReference{ObjectType: "document", ObjectId: what}
		resp := w.allow(c)
		if resp.GetPrincipal().GetObjectId() != who || resp.GetAgentChain()[0] != bot {
			t.Errorf("decided for %v", resp)
		}
		reached, _ := w.reach(under(d))
		if len(reached) != 1 || reached[0].GetResource().GetObjectId() != what {
			t.Errorf("reaches %v", reached)
		}
		c.OnBehalfOf = &deputyv1.ObjectReference{ObjectType: "user", ObjectId: "=zo=C3=AB=40example=2Ecom"}
		w.deny(c, byActor)
	})
}

// TestBadLifecycleInput: what the writing services refuse.
func TestBadLifecycleInput(t *testing.T) {
	w := newWorld(t, harness.Start(t, inMemory()))
	d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true})
	base := func() *deputyv1.CreateDelegationRequest {
		return &deputyv1.CreateDelegationRequest{AgentId: "bot", Principal: subject("user:alice"), TenantId: "acme", Ttl: hour, Unscoped: true}
	}
	grant := func(object, relation string) []*deputyv1.ScopeGrant {
		return []*deputyv1.ScopeGrant{{Resource: harness.Ref(object), Relation: relation}}
	}
	for name, c := range map[string]struct {
		bend          func(*deputyv1.CreateDelegationRequest)
		code          codes.Code
		reason, field string
	}{
		"unknown agent":      {func(r *deputyv1.CreateDelegationRequest) { r.AgentId = "nobody" }, codes.NotFound, "AGENT_NOT_FOUND", ""},
		"no principal":       {func(r *deputyv1.CreateDelegationRequest) { r.Principal = nil }, codes.InvalidArgument, "INVALID_FIELD", "principal"},
		"agent as principal": {func(r *deputyv1.CreateDelegationRequest) { r.Principal = subject("agent:sub") }, codes.InvalidArgument, "INVALID_FIELD", "principal"},
		"set of agents":      {func(r *deputyv1.CreateDelegationRequest) { r.Principal = subject("tenant:acme#agent") }, codes.InvalidArgument, "INVALID_FIELD", "principal"},
		"all members, granted by a member": {func(r *deputyv1.CreateDelegationRequest) {
			r.Principal, r.GrantedBy = subject("tenant:acme#member"), harness.Ref("user:alice")
		}, codes.FailedPrecondition, "NOT_ENTITLED", ""},
		"all members, granted by another tenant's admin": {func(r *deputyv1.CreateDelegationRequest) {
			r.Principal, r.GrantedBy = subject("tenant:acme#member"), harness.Ref("user:mallory")
		}, codes.FailedPrecondition, "NOT_ENTITLED", ""},
		"all members, granted by nobody": {func(r *deputyv1.CreateDelegationRequest) { r.Principal = subject("tenant:acme#member") }, codes.InvalidArgument, "INVALID_FIELD", "granted_by"},
		"service, granted by no owner": {func(r *deputyv1.CreateDelegationRequest) {
			r.Principal, r.GrantedBy = subject("service:nightly"), harness.Ref("user:bob")
		}, codes.FailedPrecondition, "NOT_ENTITLED", ""},
		"unknown user":       {func(r *deputyv1.CreateDelegationRequest) { r.Principal = subject("user:stranger") }, codes.FailedPrecondition, "NOT_ACTIVE", ""},
		"unknown tenant":     {func(r *deputyv1.CreateDelegationRequest) { r.TenantId = "nowhere" }, codes.FailedPrecondition, "NOT_ACTIVE", ""},
		"no ttl":             {func(r *deputyv1.CreateDelegationRequest) { r.Ttl = nil }, codes.InvalidArgument, "INVALID_FIELD", "ttl"},
		"negative ttl":       {func(r *deputyv1.CreateDelegationRequest) { r.Ttl = durationpb.New(-time.Hour) }, codes.InvalidArgument, "INVALID_FIELD", "ttl"},
		"endless ttl":        {func(r *deputyv1.CreateDelegationRequest) { r.Ttl = durationpb.New(200_000 * time.Hour) }, codes.InvalidArgument, "INVALID_FIELD", "ttl"},
		"scope and unscoped": {func(r *deputyv1.CreateDelegationRequest) { r.Scope = grant("document:plan", "reader") }, codes.InvalidArgument, "INVALID_FIELD", "unscoped"},
		"scope on a core type": {func(r *deputyv1.CreateDelegationRequest) {
			r.Unscoped, r.Scope = false, grant("delegation:d1", "parent")
		}, codes.InvalidArgument, "INVALID_FIELD", "scope[0]"},
		"scope on a tenant": {func(r *deputyv1.CreateDelegationRequest) {
			r.Unscoped, r.Scope = false, grant("document:plan", "tenant")
		}, codes.InvalidArgument, "INVALID_FIELD", "scope[0]"},
		"scope by a permission": {func(r *deputyv1.CreateDelegationRequest) {
			r.Unscoped, r.Scope = false, grant("document:plan", "view")
		}, codes.InvalidArgument, "UNKNOWN_PERMISSION", "scope[0].relation"},
		"scope that takes a caveat": {func(r *deputyv1.CreateDelegationRequest) {
			r.Unscoped, r.Scope = false, grant("document:plan", "by_day")
		}, codes.InvalidArgument, "INVALID_FIELD", "scope[0]"},
		"scope on an unknown type": {func(r *deputyv1.CreateDelegationRequest) { r.Unscoped, r.Scope = false, grant("ship:s1", "reader") }, codes.InvalidArgument, "UNKNOWN_TYPE", "scope[0].resource.object_type"},
		"same grant twice": {func(r *deputyv1.CreateDelegationRequest) {
			r.Unscoped, r.Scope = false, append(grant("document:plan", "reader"), grant("document:plan", "reader")...)
		}, codes.InvalidArgument, "INVALID_FIELD", "scope[1]"},
		"long key":       {func(r *deputyv1.CreateDelegationRequest) { r.IdempotencyKey = strings.Repeat("k", 129) }, codes.InvalidArgument, "INVALID_FIELD", "idempotency_key"},
		"unknown parent": {func(r *deputyv1.CreateDelegationRequest) { r.ParentDelegationId = "00" }, codes.NotFound, "DELEGATION_NOT_FOUND", ""},
		"own part": {func(r *deputyv1.CreateDelegationRequest) {
			r.ParentDelegationId, r.Ttl = d.GetDelegationId(), nil
		}, codes.InvalidArgument, "INVALID_FIELD", "agent_id"},
		"part that is more": {func(r *deputyv1.CreateDelegationRequest) {
			r.AgentId, r.ParentDelegationId, r.Ttl, r.AllowDirect = "sub", d.GetDelegationId(), nil, true
		}, codes.InvalidArgument, "INVALID_FIELD", "allow_direct"},
		"part that is longer": {func(r *deputyv1.CreateDelegationRequest) {
			r.AgentId, r.ParentDelegationId, r.Ttl = "sub", d.GetDelegationId(), durationpb.New(2*time.Hour)
		}, codes.InvalidArgument, "INVALID_FIELD", "ttl"},
		"part elsewhere": {func(r *deputyv1.CreateDelegationRequest) {
			r.AgentId, r.ParentDelegationId, r.Ttl, r.TenantId = "sub", d.GetDelegationId(), nil, "globex"
		}, codes.InvalidArgument, "INVALID_FIELD", "tenant_id"},
		"part by another": {func(r *deputyv1.CreateDelegationRequest) {
			r.AgentId, r.ParentDelegationId, r.Ttl, r.GrantedBy = "sub", d.GetDelegationId(), nil, harness.Ref("user:alice")
		}, codes.FailedPrecondition, "NOT_ENTITLED", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{t, w.Server}
			r := base()
			c.bend(r)
			_, err := w.Delegations().CreateDelegation(t.Context(), r)
			w.fails(err, c.code, c.reason, c.field)
		})
	}
	other, err := w.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: "sub", Principal: subject("user:alice"), TenantId: "acme", Unscoped: true, Ttl: hour,
	})
	w.ok(err)
	leaf := w.start(target(d)).GetLeaves()[0]
	for name, c := range map[string]struct {
		r             *deputyv1.StartSessionRequest
		code          codes.Code
		reason, field string
	}{
		"no targets":         {&deputyv1.StartSessionRequest{AgentId: "bot"}, codes.InvalidArgument, "INVALID_FIELD", "targets"},
		"unknown agent":      {&deputyv1.StartSessionRequest{AgentId: "nobody", Targets: []*deputyv1.SessionTarget{target(d)}}, codes.NotFound, "AGENT_NOT_FOUND", ""},
		"another's":          {&deputyv1.StartSessionRequest{AgentId: "bot", Targets: []*deputyv1.SessionTarget{target(other.GetDelegation())}}, codes.NotFound, "DELEGATION_NOT_FOUND", ""},
		"unknown delegation": {&deputyv1.StartSessionRequest{AgentId: "bot", Targets: []*deputyv1.SessionTarget{{DelegationId: "00"}}}, codes.NotFound, "DELEGATION_NOT_FOUND", ""},
		"a leaf":             {&deputyv1.StartSessionRequest{AgentId: "bot", Targets: []*deputyv1.SessionTarget{{DelegationId: leaf.GetDelegationId()}}}, codes.InvalidArgument, "INVALID_FIELD", "targets[0].delegation_id"},
		"principal twice":    {&deputyv1.StartSessionRequest{AgentId: "bot", Targets: []*deputyv1.SessionTarget{target(d, "user:alice", "user:alice")}}, codes.InvalidArgument, "INVALID_FIELD", "targets[0].principals"},
		"empty principal":    {&deputyv1.StartSessionRequest{AgentId: "bot", Targets: []*deputyv1.SessionTarget{target(d, "nonsense")}}, codes.InvalidArgument, "INVALID_FIELD", "targets[0].principals[0].object_type"},
		"too long":           {&deputyv1.StartSessionRequest{AgentId: "bot", Targets: []*deputyv1.SessionTarget{target(d)}, Ttl: durationpb.New(48 * time.Hour)}, codes.InvalidArgument, "INVALID_FIELD", "ttl"},
	} {
		t.Run("session: "+name, func(t *testing.T) {
			w := &world{t, w.Server}
			_, err := w.Sessions().StartSession(t.Context(), c.r)
			w.fails(err, c.code, c.reason, c.field)
		})
	}
	_, err = w.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: "ownerless"})
	w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "owner_ids")
	_, err = w.Agents().ResumeAgent(t.Context(), &deputyv1.ResumeAgentRequest{AgentId: "ghost"})
	w.fails(err, codes.NotFound, "AGENT_NOT_FOUND", "")
	_, err = w.Principals().Suspend(t.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref("agent:bot")})
	w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "principal.object_type")
	_, err = w.Principals().Suspend(t.Context(), &deputyv1.SuspendRequest{})
	w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "principal")
	_, err = w.Delegations().ListDelegations(t.Context(), &deputyv1.ListDelegationsRequest{})
	w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "agent_id")
	_, err = w.Delegations().ListDelegations(t.Context(), &deputyv1.ListDelegationsRequest{AgentId: "bot", Limit: 1001})
	w.fails(err, codes.InvalidArgument, "INVALID_FIELD", "limit")
	_, err = w.Delegations().ListDelegations(t.Context(), &deputyv1.ListDelegationsRequest{AgentId: "bot", Cursor: &deputyv1.Cursor{Token: "x"}})
	w.fails(err, codes.InvalidArgument, "INVALID_TOKEN", "cursor")
}
