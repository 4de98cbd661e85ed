package oracle_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/oracle"
)

// failer is what a world needs of a *testing.T or a *rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Logf(format string, args ...any)
}

// world is a part of a server's graph that has nothing to do with any other part, kept twice: in the
// server and as the oracle's state. All its ids start with its own prefix.
type world struct {
	t      failer
	ctx    context.Context //nolint:containedctx // a world lives as long as its test
	deputy *deputy
	prefix string
	state  *oracle.State
	// pending are relationships to be written by flush.
	pending []*v1.RelationshipUpdate
	// grants are the delegations in the order in which they were created, runs the sessions.
	grants, runs []string
}

// worlds counts worlds, for their prefixes.
var worlds atomic.Int64

// newWorld returns an empty world on a server.
func newWorld(ctx context.Context, t failer, d *deputy) *world {
	return &world{t: t, ctx: ctx, deputy: d, prefix: fmt.Sprintf("w%d-", worlds.Add(1)), state: oracle.NewState()}
}

// object returns an object of the world: its id is the prefix and a name.
func (w *world) object(typ, name string) oracle.Object {
	return oracle.Object{Type: typ, ID: w.prefix + name}
}

// The domain and its core facts, written through authzed.api.v1. Each has its effect in the server with
// the next flush.

// touch writes one relationship, with a caveat or an expiration.
func (w *world) touch(resource oracle.Object, relation string, subject oracle.Subject, caveat *v1.ContextualizedCaveat, until time.Time) {
	w.pending = append(w.pending, &v1.RelationshipUpdate{
		Operation:    v1.RelationshipUpdate_OPERATION_TOUCH,
		Relationship: relationship(resource, relation, subject, caveat, until),
	})
}

// remove deletes one relationship.
func (w *world) remove(resource oracle.Object, relation string, subject oracle.Subject) {
	w.pending = append(w.pending, &v1.RelationshipUpdate{
		Operation:    v1.RelationshipUpdate_OPERATION_DELETE,
		Relationship: relationship(resource, relation, subject, nil, time.Time{}),
	})
}

// relationship returns one in authzed.api.v1's terms.
func relationship(resource oracle.Object, relation string, subject oracle.Subject, caveat *v1.ContextualizedCaveat, until time.Time) *v1.Relationship {
	r := &v1.Relationship{
		Resource:       &v1.ObjectReference{ObjectType: resource.Type, ObjectId: resource.ID},
		Relation:       relation,
		Subject:        &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: subject.Type, ObjectId: subject.ID}, OptionalRelation: subject.Relation},
		OptionalCaveat: caveat,
	}
	if !until.IsZero() {
		r.OptionalExpiresAt = timestamppb.New(until)
	}
	return r
}

// flush writes what is pending, as one change.
func (w *world) flush() {
	w.t.Helper()
	// One change names a relationship once: the last word counts.
	latest := map[string]*v1.RelationshipUpdate{}
	var order []string
	for _, u := range w.pending {
		key := fmt.Sprint(u.Relationship.Resource, u.Relationship.Relation, u.Relationship.Subject)
		if latest[key] == nil {
			order = append(order, key)
		}
		latest[key] = u
	}
	w.pending = nil
	var updates []*v1.RelationshipUpdate
	for _, key := range order {
		updates = append(updates, latest[key])
	}
	for part := range slices.Chunk(updates, 500) {
		if _, err := w.deputy.graph.WriteRelationships(w.ctx, &v1.WriteRelationshipsRequest{Updates: part}); err != nil {
			w.t.Fatalf("write: %v", err)
		}
	}
}

// caveat returns a condition as SpiceDB stores it.
func caveat(c oracle.Condition) *v1.ContextualizedCaveat {
	var name string
	fields := map[string]any{}
	switch {
	case c.Cap > 0:
		name, fields["cap"] = "within", c.Cap
	case c.Region != "":
		name, fields["wanted"] = "located", c.Region
	default:
		return nil
	}
	context, err := structpb.NewStruct(fields)
	if err != nil {
		panic(err)
	}
	return &v1.ContextualizedCaveat{CaveatName: name, Context: context}
}

// grant writes an edge of the domain.
func (w *world) grant(resource oracle.Object, relation string, subject oracle.Subject, c oracle.Condition) {
	w.state.Edges[oracle.Edge{Resource: resource, Relation: relation, Subject: subject}] = c
	w.touch(resource, relation, subject, caveat(c), time.Time{})
}

// ungrant deletes an edge of the domain.
func (w *world) ungrant(e oracle.Edge) {
	delete(w.state.Edges, e)
	w.remove(e.Resource, e.Relation, e.Subject)
}

// stand gives somebody a relation to a tenant until a time, or for ever.
func (w *world) stand(tenant oracle.Object, relation string, who oracle.Object, until time.Time) {
	w.state.Standing[oracle.Standing{Tenant: tenant.ID, Relation: relation, Who: who}] = until
	w.touch(tenant, relation, oracle.Subject{Object: who}, nil, until)
}

// leave ends somebody's relation to a tenant.
func (w *world) leave(s oracle.Standing) {
	delete(w.state.Standing, s)
	w.remove(oracle.Object{Type: "tenant", ID: s.Tenant}, s.Relation, oracle.Subject{Object: s.Who})
}

// own makes a user an owner of a service.
func (w *world) own(service, user oracle.Object) {
	if w.state.Owners[service] == nil {
		w.state.Owners[service] = map[string]bool{}
	}
	w.state.Owners[service][user.ID] = true
	w.touch(service, "owner", oracle.Subject{Object: user}, nil, time.Time{})
}

// disown takes a user's ownership away.
func (w *world) disown(what, user oracle.Object) {
	delete(w.state.Owners[what], user.ID)
	w.remove(what, "owner", oracle.Subject{Object: user})
}

// enlist marks a user, a service or a tenant as active, as an import does.
func (w *world) enlist(o oracle.Object) {
	w.state.Active[o] = true
	w.touch(o, "active", oracle.Subject{Object: o}, nil, time.Time{})
}

// expire lets a delegation or a session have run out a while ago.
func (w *world) expire(o oracle.Object) {
	past := time.Now().Add(-time.Minute)
	switch o.Type {
	case "delegation":
		d := w.state.Delegations[o.ID]
		d.Until = past
		w.state.Delegations[o.ID] = d
		if d.Direct {
			w.touch(o, "allow_direct", d.Principal, nil, past)
		}
	case "session":
		s := w.state.Sessions[o.ID]
		s.Until = past
		w.state.Sessions[o.ID] = s
	}
	w.touch(o, "active", oracle.Subject{Object: o}, nil, past)
}

// What Deputy's own services do.

// register makes an agent known.
func (w *world) register(agent oracle.Object, owners ...oracle.Object) {
	w.t.Helper()
	request := &deputyv1.RegisterAgentRequest{AgentId: agent.ID}
	w.state.Owners[agent] = map[string]bool{}
	for _, o := range owners {
		request.OwnerIds = append(request.OwnerIds, o.ID)
		w.state.Owners[agent][o.ID] = true
	}
	if _, err := w.deputy.agents.RegisterAgent(w.ctx, request); err != nil {
		w.t.Fatalf("register %s: %v", agent, err)
	}
	w.state.Active[agent] = true
}

// suspend stops an agent, a user, a service or a tenant.
func (w *world) suspend(o oracle.Object) {
	w.t.Helper()
	var err error
	if o.Type == "agent" {
		_, err = w.deputy.agents.SuspendAgent(w.ctx, &deputyv1.SuspendAgentRequest{AgentId: o.ID})
	} else {
		_, err = w.deputy.principals.Suspend(w.ctx, &deputyv1.SuspendRequest{Principal: reference(o)})
	}
	if err != nil {
		w.t.Fatalf("suspend %s: %v", o, err)
	}
	delete(w.state.Active, o)
	w.state.Suspended[o] = true
}

// resume lets it go on.
func (w *world) resume(o oracle.Object) {
	w.t.Helper()
	var err error
	if o.Type == "agent" {
		_, err = w.deputy.agents.ResumeAgent(w.ctx, &deputyv1.ResumeAgentRequest{AgentId: o.ID})
	} else {
		_, err = w.deputy.principals.Resume(w.ctx, &deputyv1.ResumeRequest{Principal: reference(o)})
	}
	if err != nil {
		w.t.Fatalf("resume %s: %v", o, err)
	}
	delete(w.state.Suspended, o)
	w.state.Active[o] = true
}

// reference returns an object in deputy.v1's terms.
func reference(o oracle.Object) *deputyv1.ObjectReference {
	if o == (oracle.Object{}) {
		return nil
	}
	return &deputyv1.ObjectReference{ObjectType: o.Type, ObjectId: o.ID}
}

// scopeGrant is a grant to a delegation.
type scopeGrant struct {
	resource oracle.Object
	relation string
}

// grants returns them in deputy.v1's terms.
func grants(scope []scopeGrant) []*deputyv1.ScopeGrant {
	var all []*deputyv1.ScopeGrant
	for _, g := range scope {
		all = append(all, &deputyv1.ScopeGrant{Resource: reference(g.resource), Relation: g.relation})
	}
	return all
}

// delegate creates a delegation, and returns its id, or the server's refusal. want says what it is to be;
// its id, its end and its granted_by, where that goes without saying, come from the server.
func (w *world) delegate(want oracle.Delegation, ttl time.Duration, scope ...scopeGrant) (string, error) {
	w.t.Helper()
	request := &deputyv1.CreateDelegationRequest{
		AgentId:            want.Agent,
		Principal:          &deputyv1.SubjectReference{Object: reference(want.Principal.Object), OptionalRelation: want.Principal.Relation},
		TenantId:           want.Tenant,
		ParentDelegationId: want.Parent,
		Scope:              grants(scope),
		Unscoped:           want.Unscoped,
		AllowDirect:        want.Direct,
		Ttl:                durationpb.New(ttl),
	}
	if want.Parent == "" {
		request.GrantedBy = reference(want.GrantedBy)
	}
	response, err := w.deputy.delegations.CreateDelegation(w.ctx, request)
	if err != nil {
		return "", err
	}
	got := response.Delegation
	want.ID, want.Until, want.Active = got.DelegationId, got.ExpiresAt.AsTime(), true
	if want.Parent != "" {
		want.GrantedBy = oracle.Object{Type: "agent", ID: w.state.Delegations[want.Parent].Agent}
	}
	if granted := (oracle.Object{Type: got.GrantedBy.GetObjectType(), ID: got.GrantedBy.GetObjectId()}); granted != want.GrantedBy {
		w.t.Errorf("delegation granted by %s, want %s", granted, want.GrantedBy)
	}
	w.state.Delegations[want.ID] = want
	w.grants = append(w.grants, want.ID)
	for _, g := range scope {
		w.state.Edges[oracle.Edge{Resource: g.resource, Relation: g.relation, Subject: subject("delegation", want.ID)}] = oracle.Condition{}
	}
	return want.ID, nil
}

// ttl is how long a delegation may hold: two hours for a root, and less than all that it is a part of.
func (w *world) ttl(parent string) time.Duration {
	least := 2*time.Hour + time.Minute
	for id := parent; id != ""; id = w.state.Delegations[id].Parent {
		least = min(least, time.Until(w.state.Delegations[id].Until))
	}
	return max(least-time.Minute, time.Minute)
}

// mustDelegate creates a delegation that nothing speaks against.
func (w *world) mustDelegate(want oracle.Delegation, scope ...scopeGrant) string {
	w.t.Helper()
	id, err := w.delegate(want, w.ttl(want.Parent), scope...)
	if err != nil {
		w.t.Fatalf("delegate: %v", err)
	}
	return id
}

// subject returns an object as a subject.
func subject(typ, id string) oracle.Subject {
	return oracle.Subject{Object: oracle.Object{Type: typ, ID: id}}
}

// target is one delegation that a session is started under.
type target struct {
	delegation string
	principals []oracle.Object
	scope      []scopeGrant
}

// start starts a session, and returns its id, or the server's refusal.
func (w *world) start(agent string, frozen bool, targets ...target) (string, error) {
	w.t.Helper()
	request := &deputyv1.StartSessionRequest{AgentId: agent, Frozen: frozen}
	scopes := map[string][]scopeGrant{}
	for _, target := range targets {
		wire := &deputyv1.SessionTarget{DelegationId: target.delegation, Scope: grants(target.scope)}
		for _, p := range target.principals {
			wire.Principals = append(wire.Principals, reference(p))
		}
		request.Targets = append(request.Targets, wire)
		scopes[target.delegation] = target.scope
	}
	response, err := w.deputy.sessions.StartSession(w.ctx, request)
	if err != nil {
		return "", err
	}
	session := response.Session
	started := oracle.Session{ID: session.SessionId, Agent: agent, Active: true, Until: session.ExpiresAt.AsTime()}
	for _, leaf := range session.Leaves {
		parent := w.state.Delegations[leaf.ParentDelegationId]
		w.state.Delegations[leaf.DelegationId] = oracle.Delegation{
			ID:        leaf.DelegationId,
			Agent:     agent,
			Principal: subject(leaf.Principal.ObjectType, leaf.Principal.ObjectId),
			Tenant:    parent.Tenant,
			GrantedBy: oracle.Object{Type: "agent", ID: agent},
			Parent:    parent.ID,
			Session:   started.ID,
			Unscoped:  len(scopes[parent.ID]) == 0,
			Active:    true,
			Until:     parent.Until,
		}
		if leaf.TenantId != parent.Tenant {
			w.t.Errorf("leaf in tenant %s, want %s", leaf.TenantId, parent.Tenant)
		}
		for _, g := range scopes[parent.ID] {
			w.state.Edges[oracle.Edge{Resource: g.resource, Relation: g.relation, Subject: subject("delegation", leaf.DelegationId)}] = oracle.Condition{}
		}
		started.Leaves = append(started.Leaves, leaf.DelegationId)
	}
	w.state.Sessions[started.ID] = started
	if frozen {
		started.Baseline = w.state.Clone()
		w.state.Sessions[started.ID] = started
	}
	w.runs = append(w.runs, started.ID)
	return started.ID, nil
}

// mustStart starts a session that nothing speaks against.
func (w *world) mustStart(agent string, frozen bool, targets ...target) string {
	w.t.Helper()
	id, err := w.start(agent, frozen, targets...)
	if err != nil {
		w.t.Fatalf("start: %v", err)
	}
	return id
}

// revoke revokes a delegation.
func (w *world) revoke(id string) {
	w.t.Helper()
	if _, err := w.deputy.delegations.RevokeDelegation(w.ctx, &deputyv1.RevokeDelegationRequest{DelegationId: id}); err != nil {
		w.t.Fatalf("revoke: %v", err)
	}
	d := w.state.Delegations[id]
	d.Active, d.Revoked = false, true
	w.state.Delegations[id] = d
}

// end ends a session.
func (w *world) end(id string) {
	w.t.Helper()
	if _, err := w.deputy.sessions.EndSession(w.ctx, &deputyv1.EndSessionRequest{SessionId: id}); err != nil {
		w.t.Fatalf("end: %v", err)
	}
	s := w.state.Sessions[id]
	s.Active, s.Ended = false, true
	w.state.Sessions[id] = s
}

// refused reports whether an error is one with which the server may refuse to create something.
func refused(err error) bool {
	return slices.Contains([]codes.Code{codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied, codes.NotFound}, status.Code(err))
}
