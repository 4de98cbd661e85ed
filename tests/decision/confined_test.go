package decision_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// confined is a world with callers that are bound to the tenant acme, but for what they may call.
type confined struct {
	*world
	// delegator passes on parts, voucher creates delegations too, responder narrows, governor is an admin.
	delegator, voucher, responder, governor *grpc.ClientConn
	// direct and set are delegations of bot's in acme, and of globex's theirs, as are the sessions.
	direct, set, theirs *deputyv1.Delegation
	run, theirRun       *deputyv1.Session
}

// bound is a caller with a key that is its name.
func bound(name string, bounds *authz.Bounds, roles ...caller.Role) *caller.Caller {
	return &caller.Caller{
		Name: name, Roles: caller.RolesOf(roles...), Bounds: bounds, SpiceDB: authz.AllNames(),
		Credentials: []caller.Credential{{ID: "k", Key: sha256.Sum256([]byte("key of " + name))}},
	}
}

// bounded is unbounded but for what narrow changes.
func bounded(narrow func(*authz.Bounds)) *authz.Bounds {
	b := authz.Unbounded()
	narrow(b)
	return b
}

const (
	asDelegator = deputyv1.Role_ROLE_DELEGATOR
	asResponder = deputyv1.Role_ROLE_RESPONDER
	asAdmin     = deputyv1.Role_ROLE_ADMIN
)

// eachConfined runs the case on engines that differ in how they read, with more callers if any.
func eachConfined(t *testing.T, run func(*confined), more ...*caller.Caller) {
	t.Helper()
	acme := bounded(func(b *authz.Bounds) { b.Tenants, b.Vouch = authz.NamesOf("acme"), false })
	vouching := bounded(func(b *authz.Bounds) { b.Tenants = authz.NamesOf("acme") })
	callers := append([]*caller.Caller{
		bound("delegator", acme, asDelegator), bound("voucher", vouching, asDelegator),
		bound("responder", acme, asResponder), bound("governor", vouching, asAdmin),
	}, more...)
	for _, engine := range []string{"embedded", "memory", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			s := harness.Start(t, daemon.Config{
				Engine: harness.Engines()[engine](t), Callers: callers,
				PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
			})
			run(newConfined(t, s))
		})
	}
}

// as connects as a caller.
func (c *confined) as(name string) *grpc.ClientConn {
	c.Helper()
	return harness.Dial(c.T, c.Addr().String(), "key of "+name)
}

// newConfined is newWorld with more that is acme's or globex's alone.
func newConfined(t *testing.T, s *harness.Server) *confined {
	t.Helper()
	c := &confined{world: newWorld(t, s)}
	c.delegator, c.voucher, c.responder, c.governor = c.as("delegator"), c.as("voucher"), c.as("responder"), c.as("governor")
	for _, who := range []string{"user:gus", "service:robot"} {
		_, err := s.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(who)})
		c.ok(err)
	}
	for id, owners := range map[string][]string{"own": {"carol", "mallory"}, "off": {"carol"}, "foreign": {"mallory"}, "foreign-off": {"mallory"}} {
		_, err := s.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: id, OwnerIds: owners})
		c.ok(err)
	}
	s.Touch(t,
		"tenant:acme#agent@agent:own", "tenant:acme#agent@agent:off", "tenant:globex#agent@agent:foreign",
		"tenant:globex#agent@agent:foreign-off", "tenant:globex#agent@agent:foreign-raw",
		"tenant:globex#member@user:gina", "tenant:globex#member@user:gus", "tenant:globex#member@service:robot",
		"service:robot#owner@user:mallory", "service:robot#owner@user:alice", "service:nightly#owner@user:mallory",
		"document:two#tenant@tenant:acme", "document:two#tenant@tenant:globex", "document:half#reader@user:alice",
	)
	ofForeign := c.delegate(&deputyv1.CreateDelegationRequest{AgentId: "foreign", Principal: subject("user:mallory"), TenantId: "globex", Unscoped: true})
	c.startWith(&deputyv1.StartSessionRequest{AgentId: "foreign", Targets: []*deputyv1.SessionTarget{target(ofForeign)}})
	for _, id := range []string{"off", "foreign-off"} {
		_, err := s.Agents().SuspendAgent(t.Context(), &deputyv1.SuspendAgentRequest{AgentId: id})
		c.ok(err)
	}
	_, err := s.Principals().Suspend(t.Context(), &deputyv1.SuspendRequest{Principal: harness.Ref("user:gus")})
	c.ok(err)
	c.direct = c.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
	c.set = c.delegate(&deputyv1.CreateDelegationRequest{
		Principal: subject("tenant:acme#member"), GrantedBy: harness.Ref("user:carol"), Unscoped: true,
	})
	c.theirs = c.delegate(&deputyv1.CreateDelegationRequest{Principal: subject("user:dave"), TenantId: "globex", Unscoped: true})
	c.run, c.theirRun = c.start(target(c.direct)), c.start(target(c.theirs))
	return c
}

// toTheByte is an answer to the byte, without tokens, and with the id that was asked for replaced.
func toTheByte(resp proto.Message, err error, id string) string {
	if err != nil {
		resp = status.Convert(err).Proto()
	} else {
		resp = proto.CloneOf(resp)
		clearTokens(resp.ProtoReflect())
	}
	return strings.ReplaceAll(prototext.Format(resp), id, "ID")
}

// clearTokens takes the tokens off a response: they tell a revision, which is the server's.
func clearTokens(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if f.Message() != nil && f.Message().FullName() == "deputy.v1.ZedToken" {
			m.Clear(f)
		}
		return true
	})
}

// call is a method's call about something.
type call func(conn *grpc.ClientConn, about string) (proto.Message, error)

// TestForeignIsAbsentToTheLifecycle: whatever a confined caller asks of the lifecycle about what is another tenant's, it is answered to
// the byte as about what does not exist, and nothing is written. About what is its own tenant's it succeeds.
func TestForeignIsAbsentToTheLifecycle(t *testing.T) {
	t.Parallel()
	eachConfined(t, func(c *confined) {
		ctx := c.Context()
		delegations, sessions := deputyv1.NewDelegationsServiceClient, deputyv1.NewSessionsServiceClient
		agents, principals := deputyv1.NewAgentsServiceClient, deputyv1.NewPrincipalsServiceClient
		create := func(ask func(r *deputyv1.CreateDelegationRequest, about string)) call {
			return func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				r := &deputyv1.CreateDelegationRequest{AgentId: "own", Principal: subject("user:alice"), TenantId: "acme", Unscoped: true, Ttl: hour}
				ask(r, about)
				return delegations(conn).CreateDelegation(ctx, r)
			}
		}
		part := func(ask func(r *deputyv1.CreateDelegationRequest, about string)) call {
			return func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				r := &deputyv1.CreateDelegationRequest{AgentId: "own", ParentDelegationId: c.set.GetDelegationId(), Unscoped: true}
				ask(r, about)
				return delegations(conn).CreateDelegation(ctx, r)
			}
		}
		start := func(ask func(r *deputyv1.StartSessionRequest, about string)) call {
			return func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				r := &deputyv1.StartSessionRequest{AgentId: "bot", Targets: []*deputyv1.SessionTarget{target(c.direct)}}
				ask(r, about)
				return sessions(conn).StartSession(ctx, r)
			}
		}
		list := func(ask func(r *deputyv1.ListDelegationsRequest, about string)) call {
			return func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				r := &deputyv1.ListDelegationsRequest{IncludeInactive: true, IncludeLeaves: true}
				ask(r, about)
				return delegations(conn).ListDelegations(ctx, r)
			}
		}
		brake := func(ask func(r *deputyv1.BrakeRequest, about string)) call {
			return func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				r := &deputyv1.BrakeRequest{Reason: "a test"}
				ask(r, about)
				return deputyv1.NewBrakeServiceClient(conn).Brake(ctx, r)
			}
		}
		suspend := func(conn *grpc.ClientConn, about string) (proto.Message, error) {
			return principals(conn).Suspend(ctx, &deputyv1.SuspendRequest{Principal: harness.Ref(about)})
		}
		resume := func(conn *grpc.ClientConn, about string) (proto.Message, error) {
			return principals(conn).Resume(ctx, &deputyv1.ResumeRequest{Principal: harness.Ref(about)})
		}
		foreignAgents := []string{"foreign", "foreign-off", "foreign-raw"}
		foreignUsers := []string{"user:mallory", "user:gina", "user:gus"}
		grant := func(about string) []*deputyv1.ScopeGrant {
			return []*deputyv1.ScopeGrant{{Resource: harness.Ref(about), Relation: "reader"}}
		}
		const notFound, notActive, invalid = codes.NotFound, codes.FailedPrecondition, codes.InvalidArgument
		foreignDocuments := []string{"document:foreign", "document:two", "document:half", "note:any"}
		for _, rule := range []struct {
			name    string
			by      *grpc.ClientConn
			call    call
			own     []string
			foreign []string
			absent  string
			code    codes.Code
			reason  string
		}{
			{"GetAgent", c.delegator, func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				return agents(conn).GetAgent(ctx, &deputyv1.GetAgentRequest{AgentId: about})
			}, []string{"own", "bot", "off"}, foreignAgents, "absent", notFound, "AGENT_NOT_FOUND"},
			{"a root for an agent", c.voucher, create(func(r *deputyv1.CreateDelegationRequest, about string) { r.AgentId = about }),
				[]string{"own", "bot"}, foreignAgents, "absent", notFound, "AGENT_NOT_FOUND"},
			{"a part for an agent", c.delegator, part(func(r *deputyv1.CreateDelegationRequest, about string) { r.AgentId = about }),
				[]string{"own", "sub"}, foreignAgents, "absent", notFound, "AGENT_NOT_FOUND"},
			{"a session of an agent", c.delegator, start(func(r *deputyv1.StartSessionRequest, about string) { r.AgentId = about }),
				[]string{"bot"}, foreignAgents, "absent", notFound, "AGENT_NOT_FOUND"},
			{"ListSessions", c.delegator, func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				return sessions(conn).ListSessions(ctx, &deputyv1.ListSessionsRequest{AgentId: about, IncludeInactive: true})
			}, []string{"own", "bot"}, foreignAgents, "absent", codes.OK, ""},
			{"ListDelegations of an agent", c.delegator, list(func(r *deputyv1.ListDelegationsRequest, about string) { r.AgentId = about }),
				[]string{"own", "bot"}, foreignAgents, "absent", codes.OK, ""},
			{"SuspendAgent", c.responder, func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				return agents(conn).SuspendAgent(ctx, &deputyv1.SuspendAgentRequest{AgentId: about})
			}, []string{"own"}, foreignAgents, "absent", notFound, "AGENT_NOT_FOUND"},
			{"ResumeAgent", c.governor, func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				return agents(conn).ResumeAgent(ctx, &deputyv1.ResumeAgentRequest{AgentId: about})
			}, []string{"own", "off"}, foreignAgents, "absent", notFound, "AGENT_NOT_FOUND"},

			{"a root of a user", c.voucher, create(func(r *deputyv1.CreateDelegationRequest, about string) { r.Principal = subject(about) }),
				[]string{"user:alice", "user:dave"}, foreignUsers, "user:absent", notActive, "NOT_ACTIVE"},
			{"a root of a service", c.voucher, create(func(r *deputyv1.CreateDelegationRequest, about string) {
				r.Principal, r.GrantedBy = subject(about), harness.Ref("user:alice")
			}), []string{"service:nightly"}, []string{"service:robot"}, "service:absent", notActive, "NOT_ACTIVE"},
			{"a root granted by an owner", c.voucher, create(func(r *deputyv1.CreateDelegationRequest, about string) {
				r.Principal, r.GrantedBy = subject("service:nightly"), harness.Ref(about)
			}), []string{"user:alice"}, foreignUsers, "user:absent", notActive, "NOT_ENTITLED"},
			{"a root granted by an admin", c.voucher, create(func(r *deputyv1.CreateDelegationRequest, about string) {
				r.Principal, r.GrantedBy = subject("tenant:acme#member"), harness.Ref(about)
			}), []string{"user:carol"}, foreignUsers, "user:absent", notActive, "NOT_ENTITLED"},
			{"a part for a user", c.delegator, part(func(r *deputyv1.CreateDelegationRequest, about string) { r.Principal = subject(about) }),
				[]string{"user:alice"}, foreignUsers, "user:absent", invalid, "INVALID_FIELD"},
			{"a session for a user", c.delegator, start(func(r *deputyv1.StartSessionRequest, about string) {
				r.Targets = []*deputyv1.SessionTarget{target(c.set, about)}
			}), []string{"user:alice", "service:nightly"}, foreignUsers, "user:absent", invalid, "INVALID_FIELD"},
			{"ListDelegations of a user", c.delegator, list(func(r *deputyv1.ListDelegationsRequest, about string) { r.Principal = subject(about) }),
				[]string{"user:alice", "user:dave"}, foreignUsers, "user:absent", codes.OK, ""},
			{"Suspend a user", c.responder, suspend, []string{"user:bob", "user:alice"}, foreignUsers, "user:absent", notFound, "PRINCIPAL_NOT_FOUND"},
			{"Resume a user", c.governor, resume, []string{"user:bob", "user:alice"}, foreignUsers, "user:absent", notFound, "PRINCIPAL_NOT_FOUND"},
			{"Suspend a service", c.responder, suspend, []string{"service:nightly"}, []string{"service:robot"}, "service:absent", notFound, "PRINCIPAL_NOT_FOUND"},
			{"Resume a service", c.governor, resume, []string{"service:nightly"}, []string{"service:robot"}, "service:absent", notFound, "PRINCIPAL_NOT_FOUND"},

			{"a root in a tenant", c.voucher, create(func(r *deputyv1.CreateDelegationRequest, about string) { r.TenantId = about }),
				[]string{"acme"}, []string{"globex"}, "absent", notActive, "NOT_ACTIVE"},
			{"a root for a tenant's members", c.voucher, create(func(r *deputyv1.CreateDelegationRequest, about string) {
				r.Principal, r.GrantedBy = subject("tenant:"+about+"#admin"), harness.Ref("user:carol")
			}), []string{"acme"}, []string{"globex"}, "absent", invalid, "INVALID_FIELD"},
			{"ListDelegations of a tenant", c.delegator, list(func(r *deputyv1.ListDelegationsRequest, about string) { r.TenantId = about }),
				[]string{"acme"}, []string{"globex"}, "absent", codes.OK, ""},
			{"ListDelegations of a tenant's members", c.delegator, list(func(r *deputyv1.ListDelegationsRequest, about string) {
				r.Principal = subject("tenant:" + about + "#member")
			}), []string{"acme"}, []string{"globex"}, "absent", codes.OK, ""},
			{"Suspend a tenant", c.responder, suspend, []string{"tenant:acme"}, []string{"tenant:globex"}, "tenant:absent", notFound, "PRINCIPAL_NOT_FOUND"},
			{"Resume a tenant", c.governor, resume, []string{"tenant:acme"}, []string{"tenant:globex"}, "tenant:absent", notFound, "PRINCIPAL_NOT_FOUND"},

			{"a root within a scope", c.voucher, create(func(r *deputyv1.CreateDelegationRequest, about string) { r.Unscoped, r.Scope = false, grant(about) }),
				[]string{"document:plan"}, foreignDocuments, "document:absent", invalid, "INVALID_FIELD"},
			{"a part within a scope", c.delegator, part(func(r *deputyv1.CreateDelegationRequest, about string) { r.Unscoped, r.Scope = false, grant(about) }),
				[]string{"document:plan"}, foreignDocuments, "document:absent", invalid, "INVALID_FIELD"},
			{"a session within a scope", c.delegator, start(func(r *deputyv1.StartSessionRequest, about string) { r.Targets[0].Scope = grant(about) }),
				[]string{"document:plan"}, foreignDocuments, "document:absent", invalid, "INVALID_FIELD"},

			{"GetDelegation", c.delegator, func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				return delegations(conn).GetDelegation(ctx, &deputyv1.GetDelegationRequest{DelegationId: about})
			}, []string{c.direct.GetDelegationId()}, []string{c.theirs.GetDelegationId()}, "absent", notFound, "DELEGATION_NOT_FOUND"},
			{"a part of a delegation", c.delegator, part(func(r *deputyv1.CreateDelegationRequest, about string) { r.ParentDelegationId = about }),
				[]string{c.direct.GetDelegationId()}, []string{c.theirs.GetDelegationId()}, "absent", notFound, "DELEGATION_NOT_FOUND"},
			{"a session under a delegation", c.delegator, start(func(r *deputyv1.StartSessionRequest, about string) { r.Targets[0].DelegationId = about }),
				[]string{c.direct.GetDelegationId()}, []string{c.theirs.GetDelegationId()}, "absent", notFound, "DELEGATION_NOT_FOUND"},
			{"ListDelegations of a parent", c.delegator, list(func(r *deputyv1.ListDelegationsRequest, about string) { r.ParentDelegationId = about }),
				[]string{c.direct.GetDelegationId()}, []string{c.theirs.GetDelegationId()}, "absent", codes.OK, ""},
			{"GetSession", c.delegator, func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				return sessions(conn).GetSession(ctx, &deputyv1.GetSessionRequest{SessionId: about})
			}, []string{c.run.GetSessionId()}, []string{c.theirRun.GetSessionId()}, "absent", notFound, "SESSION_NOT_FOUND"},
			{"RenewSession", c.delegator, func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				return sessions(conn).RenewSession(ctx, &deputyv1.RenewSessionRequest{SessionId: about})
			}, []string{c.run.GetSessionId()}, []string{c.theirRun.GetSessionId()}, "absent", notFound, "SESSION_NOT_FOUND"},
			{"EndSession", c.responder, func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				return sessions(conn).EndSession(ctx, &deputyv1.EndSessionRequest{SessionId: about})
			}, []string{c.run.GetSessionId()}, []string{c.theirRun.GetSessionId()}, "absent", notFound, "SESSION_NOT_FOUND"},
			{"RevokeDelegation", c.delegator, func(conn *grpc.ClientConn, about string) (proto.Message, error) {
				return delegations(conn).RevokeDelegation(ctx, &deputyv1.RevokeDelegationRequest{DelegationId: about})
			}, []string{c.direct.GetDelegationId()}, []string{c.theirs.GetDelegationId()}, "absent", notFound, "DELEGATION_NOT_FOUND"},

			{"SuspendAgent by a brake", c.responder, brake(func(r *deputyv1.BrakeRequest, about string) {
				r.Target = &deputyv1.BrakeRequest_AgentId{AgentId: about}
			}), []string{"own"}, foreignAgents, "absent", notFound, "AGENT_NOT_FOUND"},
			{"Suspend a user by a brake", c.responder, brake(func(r *deputyv1.BrakeRequest, about string) {
				r.Target = &deputyv1.BrakeRequest_Principal{Principal: harness.Ref(about)}
			}), []string{"user:bob", "user:alice"}, foreignUsers, "user:absent", notFound, "PRINCIPAL_NOT_FOUND"},
			{"Suspend a tenant by a brake", c.responder, brake(func(r *deputyv1.BrakeRequest, about string) {
				r.Target = &deputyv1.BrakeRequest_TenantId{TenantId: about}
			}), []string{"acme"}, []string{"globex"}, "absent", notFound, "PRINCIPAL_NOT_FOUND"},
			{"a brake of a session", c.responder, brake(func(r *deputyv1.BrakeRequest, about string) {
				r.Target = &deputyv1.BrakeRequest_SessionId{SessionId: about}
			}), []string{c.run.GetSessionId()}, []string{c.theirRun.GetSessionId()}, "absent", notFound, "SESSION_NOT_FOUND"},
			{"a brake of a delegation", c.responder, brake(func(r *deputyv1.BrakeRequest, about string) {
				r.Target = &deputyv1.BrakeRequest_DelegationId{DelegationId: about}
			}), []string{c.direct.GetDelegationId()}, []string{c.theirs.GetDelegationId()}, "absent", notFound, "DELEGATION_NOT_FOUND"},
			{"a dry run of a brake", c.responder, brake(func(r *deputyv1.BrakeRequest, about string) {
				r.Target, r.DryRun = &deputyv1.BrakeRequest_AgentId{AgentId: about}, true
			}), []string{"own"}, foreignAgents, "absent", notFound, "AGENT_NOT_FOUND"},
		} {
			before := c.everything()
			resp, err := rule.call(rule.by, rule.absent)
			if rule.code != codes.OK || err != nil {
				c.failsFor(rule.name, err, rule.code, rule.reason)
			}
			want := toTheByte(resp, err, rule.absent)
			for _, foreign := range rule.foreign {
				resp, err := rule.call(rule.by, foreign)
				if got := toTheByte(resp, err, foreign); got != want {
					c.Errorf("%s: about %s it answers\n%s\nabout what does not exist\n%s", rule.name, foreign, got, want)
				}
			}
			if after := c.everything(); !slices.Equal(before, after) {
				c.Errorf("%s: what exists for others was written to", rule.name)
			}
			for _, own := range rule.own {
				if _, err := rule.call(rule.by, own); err != nil {
					c.Errorf("%s: about %s, its own, it fails: %v", rule.name, own, err)
				}
			}
			if rule.name == "SuspendAgent" || strings.HasPrefix(rule.name, "Suspend ") {
				c.again()
			}
		}
	})
}

// again resumes what a rule has suspended.
func (c *confined) again() {
	c.Helper()
	_, err := c.Server.Agents().ResumeAgent(c.Context(), &deputyv1.ResumeAgentRequest{AgentId: "own"})
	c.ok(err)
	for _, who := range []string{"user:alice", "user:bob", "service:nightly", "tenant:acme"} {
		_, err := c.Principals().Resume(c.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(who)})
		c.ok(err)
	}
}

// failsFor is fails without a field, naming the rule.
func (c *confined) failsFor(rule string, err error, code codes.Code, reason string) {
	c.Helper()
	if got := reasonOf(err); status.Code(err) != code || got != reason {
		c.Errorf("%s: got %v, reason %q; want %s, reason %q", rule, err, got, code, reason)
	}
}

// reasonOf is the reason that an error carries.
func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// everything is every relationship of the graph, but for the server's own note of what it has listed.
func (c *confined) everything() []string {
	c.Helper()
	stream, err := v1.NewPermissionsServiceClient(c.Admin).ExportBulkRelationships(c.Context(), &v1.ExportBulkRelationshipsRequest{
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}},
	})
	c.ok(err)
	var all []string
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			slices.Sort(all)
			return all
		}
		c.ok(err)
		for _, rel := range resp.GetRelationships() {
			if rel.GetRelation() == "indexed" {
				continue
			}
			all = append(all, fmt.Sprint(rel.GetResource(), rel.GetRelation(), rel.GetSubject(), rel.GetOptionalExpiresAt()))
		}
	}
}

// TestTypesOutsideAreUnknown: a scope on a type that lies outside is answered as one on a type that the schema does not have, and the
// message names neither.
func TestTypesOutsideAreUnknown(t *testing.T) {
	t.Parallel()
	notes := bound("notes", bounded(func(b *authz.Bounds) { b.Objects = authz.NamesOf("note") }), asDelegator)
	eachConfined(t, func(c *confined) {
		ask := func(kind string) error {
			_, err := c.of(c.as("notes")).CreateDelegation(c.Context(), &deputyv1.CreateDelegationRequest{
				AgentId: "bot", Principal: subject("user:alice"), TenantId: "acme", Ttl: hour,
				Scope: []*deputyv1.ScopeGrant{{Resource: harness.Ref(kind + ":plan"), Relation: "reader"}},
			})
			return err
		}
		outside, absent := toTheByte(nil, ask("document"), "document"), toTheByte(nil, ask("documexx"), "documexx")
		if outside != absent || strings.Contains(outside, "risky") || !strings.Contains(outside, "note") {
			c.Errorf("a type outside is answered\n%s\none that does not exist\n%s", outside, absent)
		}
		c.ok(ask("note"))
	}, notes)
}

// lifecycleOf are the clients of one caller.
type lifecycleOf struct {
	deputyv1.DelegationsServiceClient
	deputyv1.SessionsServiceClient
	deputyv1.AgentsServiceClient
	deputyv1.PrincipalsServiceClient
}

func (c *confined) of(conn *grpc.ClientConn) lifecycleOf {
	return lifecycleOf{
		deputyv1.NewDelegationsServiceClient(conn), deputyv1.NewSessionsServiceClient(conn),
		deputyv1.NewAgentsServiceClient(conn), deputyv1.NewPrincipalsServiceClient(conn),
	}
}
