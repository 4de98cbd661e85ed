package rpc

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/delegate"
	"github.com/deputyauth/deputy/pkg/facts"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

type agents struct {
	deputyv1.UnimplementedAgentsServiceServer
	border
}

func agentID(given string) (authz.AgentID, error) {
	name, err := id("agent_id", given)
	return authz.AgentID(name), err
}

// RegisterAgent makes an agent known.
func (s *agents) RegisterAgent(ctx context.Context, r *deputyv1.RegisterAgentRequest) (*deputyv1.RegisterAgentResponse, error) {
	agent, err := agentID(r.GetAgentId())
	if err != nil {
		return nil, err
	}
	owners, err := ownerIDs("owner_ids", r.GetOwnerIds())
	if err != nil {
		return nil, err
	}
	register := s.delegate(ctx).Register
	if r.GetAdopt() {
		register = s.delegate(ctx).AdoptAgent
	}
	a, rev, err := register(ctx, agent, owners, r.GetIdempotencyKey())
	if err != nil {
		return nil, err
	}
	return &deputyv1.RegisterAgentResponse{
		Agent: agentProto(a.Agent), WrittenAt: s.token(ctx, rev), UnnamedOwnerIds: ids(a.Unnamed),
	}, nil
}

// ownerIDs reads the users who answer for an agent.
func ownerIDs(field string, given []string) ([]authz.Object, error) {
	owners := make([]authz.Object, len(given))
	for i, one := range given {
		owner, err := id(fmt.Sprintf("%s[%d]", field, i), one)
		if err != nil {
			return nil, err
		}
		owners[i] = authz.Object{Type: authz.TypeUser, ID: owner}
	}
	return owners, nil
}

// ids are the ids of objects, decoded.
func ids(objects []authz.Object) []string {
	var out []string
	for _, o := range objects {
		out = append(out, authz.DecodeID(o.ID))
	}
	return out
}

// GetAgent reads one agent.
func (s *agents) GetAgent(ctx context.Context, r *deputyv1.GetAgentRequest) (*deputyv1.GetAgentResponse, error) {
	agent, err := agentID(r.GetAgentId())
	if err != nil {
		return nil, err
	}
	a, rev, err := s.delegate(ctx).Agent(ctx, agent)
	if err != nil {
		return nil, err
	}
	return &deputyv1.GetAgentResponse{Agent: agentProto(a), ReadAt: s.token(ctx, rev)}, nil
}

// ListAgents lists the registered agents.
func (s *agents) ListAgents(ctx context.Context, r *deputyv1.ListAgentsRequest) (*deputyv1.ListAgentsResponse, error) {
	// The list goes through the tenants of a confined caller: a place in it is none once they are others.
	page, err := openPage(ctx, s.border, &deputyv1.ListAgentsRequest{}, r, boundTenants(ctx)...)
	if err != nil {
		return nil, err
	}
	found, err := s.delegate(ctx).Agents(ctx, page.from, page.limit)
	if err != nil {
		return nil, err
	}
	out := &deputyv1.ListAgentsResponse{Complete: found.Next == nil, ReadAt: s.Sealer.token(found.At, page.stamp)}
	for _, a := range found.Items {
		out.Agents = append(out.Agents, agentProto(a))
	}
	out.Next, err = page.next(found.Next)
	return out, err
}

// boundTenants are the tenants that the caller of a call is bound to; none where it is bound to none.
func boundTenants(ctx context.Context) []string {
	if within := caller.Of(ctx).Bounds; within != nil {
		return within.Tenants.List()
	}
	return nil
}

// SuspendAgent stops an agent.
func (s *agents) SuspendAgent(ctx context.Context, r *deputyv1.SuspendAgentRequest) (*deputyv1.SuspendAgentResponse, error) {
	agent, err := agentID(r.GetAgentId())
	if err != nil {
		return nil, err
	}
	if err := givenReason(r.GetReason(), false); err != nil {
		return nil, err
	}
	was, rev, err := s.delegate(ctx).Suspend(ctx, agent.Object())
	if err != nil {
		return nil, err
	}
	return &deputyv1.SuspendAgentResponse{WrittenAt: s.token(ctx, rev), Unnamed: !was.Named}, nil
}

// ResumeAgent lets an agent act again.
func (s *agents) ResumeAgent(ctx context.Context, r *deputyv1.ResumeAgentRequest) (*deputyv1.ResumeAgentResponse, error) {
	agent, err := agentID(r.GetAgentId())
	if err != nil {
		return nil, err
	}
	is, rev, err := s.delegate(ctx).Resume(ctx, agent.Object())
	if err != nil {
		return nil, err
	}
	return &deputyv1.ResumeAgentResponse{
		WrittenAt: s.token(ctx, rev), State: state(facts.Life{Known: true, Active: is.Active}),
	}, nil
}

func agentProto(a facts.Agent) *deputyv1.Agent {
	return &deputyv1.Agent{AgentId: authz.DecodeID(string(a.ID)), OwnerIds: ids(a.Owners), State: state(a.Life)}
}

type principals struct {
	deputyv1.UnimplementedPrincipalsServiceServer
	border
}

// standing reads whom to stop or let go.
func standing(o *deputyv1.ObjectReference) (authz.Object, error) {
	if o == nil {
		return authz.Object{}, authz.FieldErrorf("principal", "is required")
	}
	return user("principal", o, authz.TypeUser, authz.TypeService, authz.TypeTenant)
}

// Suspend stops agents from acting for a user or a service, or in a tenant.
func (s *principals) Suspend(ctx context.Context, r *deputyv1.SuspendRequest) (*deputyv1.SuspendResponse, error) {
	who, err := standing(r.GetPrincipal())
	if err != nil {
		return nil, err
	}
	if err := givenReason(r.GetReason(), false); err != nil {
		return nil, err
	}
	was, rev, err := s.delegate(ctx).Suspend(ctx, who)
	if err != nil {
		return nil, err
	}
	return &deputyv1.SuspendResponse{WrittenAt: s.token(ctx, rev), Unnamed: !was.Named}, nil
}

// Resume lets agents act for it.
func (s *principals) Resume(ctx context.Context, r *deputyv1.ResumeRequest) (*deputyv1.ResumeResponse, error) {
	who, err := standing(r.GetPrincipal())
	if err != nil {
		return nil, err
	}
	was, rev, err := s.delegate(ctx).Resume(ctx, who)
	if err != nil {
		return nil, err
	}
	return &deputyv1.ResumeResponse{WrittenAt: s.token(ctx, rev), Unnamed: !was.Named}, nil
}

// listRequest is what the requests of all lists have in common.
type listRequest interface {
	proto.Message
	GetLimit() uint32
	GetCursor() *deputyv1.Cursor
}

// page is where a list goes on and how it is sealed.
type page struct {
	border
	from  delegate.Place
	limit int
	sum   [16]byte
	// stamp is the moment of the list's revision.
	stamp time.Time
}

// openPage reads a list's limit and cursor. bare is the request without them, and parts are what its places depend on besides.
func openPage(ctx context.Context, b border, bare proto.Message, r listRequest, parts ...string) (page, error) {
	out := page{border: b}
	var err error
	if out.limit, err = limit(r.GetLimit(), defaultList, maxList); err != nil {
		return out, err
	}
	if out.sum, err = digest(ctx, bare, parts...); err != nil {
		return out, err
	}
	out.stamp, err = b.Sealer.place(out.sum, r.GetCursor(), &out.from, b.Now())
	return out, err
}

// next seals where the list goes on; nil at its end.
func (p page) next(place *delegate.Place) (*deputyv1.Cursor, error) {
	if place == nil {
		return nil, nil //nolint:nilnil // the list has ended
	}
	return p.Sealer.cursor(p.sum, p.stamp, place)
}
