package client

import (
	"context"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// FilterQuery asks on which of many objects of a type an agent may act.
type FilterQuery struct {
	// Agent, Session and Delegation say who acts, as in a Question. A Session fills them in.
	Agent, Session, Delegation string
	// Principal and Tenant are on whose behalf and where, as in a Question.
	Principal Principal
	Tenant    string
	// Type is the type of the objects, and Permission a permission or relation of it.
	Type, Permission string
	// Context is context for caveats.
	Context Context
	// ActorToken is the agent's own token, as in a Question.
	ActorToken string
}

// Filtered are the objects of a filter on which an agent may act. The zero Filtered allows none.
type Filtered struct {
	// Allowed are the ids of the objects on which the agent may act, in the order of the question. An id that was asked about twice is there twice.
	Allowed []string
	// Conditional are those whose answer depends on context that was not given: nothing may be done to them yet.
	Conditional []ConditionalObject
	// Failed are those of which there is no answer: nothing may be done to them.
	Failed []FailedObject
	// ActorRefused says that every object is refused, whichever it is, because of the session, the delegation or the agent's registration.
	ActorRefused bool
	// At is the revision of the answer; nil for the zero Filtered.
	At *deputyv1.ZedToken
}

// ConditionalObject is an object whose answer depends on context that was not given.
type ConditionalObject struct {
	// ID is the object's id, and Missing names the fields of context.
	ID      string
	Missing []string
}

// FailedObject is an object of which there is no answer.
type FailedObject struct {
	// ID is the object's id, and Err what a check answers, as a gRPC status.
	ID  string
	Err error
}

// FilterResources decides on which of the objects with the ids an agent may act, all at the head revision: a revocation that was acknowledged is seen. For
// each object it answers what Check does, in less time than CheckBulk; what is refused is left out. The server takes 10,000 ids at once, of 4 MiB
// together. An error means that there is no answer, and the Filtered beside it allows nothing.
func (c *Client) FilterResources(ctx context.Context, q FilterQuery, ids ...string) (Filtered, error) {
	return c.filter(ctx, q, ids, nil, nil)
}

// FilterResources decides on which of the objects with the ids the session's agent may act; see Client.FilterResources.
func (s *Session) FilterResources(ctx context.Context, q FilterQuery, ids ...string) (Filtered, error) {
	sent := s.Token()
	found, err := s.filter(ctx, q, ids, nil, sent)
	s.advance(sent, found.At)
	return found, err
}

// FilterResources is like Session.FilterResources, at the snapshot's revision.
func (s *Snapshot) FilterResources(ctx context.Context, q FilterQuery, ids ...string) (Filtered, error) {
	return s.session.filter(ctx, q, ids, s.at, nil)
}

// filter filters in the session's name.
func (s *Session) filter(ctx context.Context, q FilterQuery, ids []string, at *deputyv1.Consistency, token *deputyv1.ZedToken) (Filtered, error) {
	if q.Agent != "" || q.Session != "" || q.Delegation != "" {
		return Filtered{}, errOwnActor
	}
	q.Agent, q.Session = s.agentID, s.id
	return s.client.filter(ctx, q, ids, at, token)
}

// filter asks the server.
func (c *Client) filter(ctx context.Context, q FilterQuery, ids []string, at *deputyv1.Consistency, token *deputyv1.ZedToken) (Filtered, error) {
	request := &deputyv1.FilterResourcesRequest{
		AgentId: q.Agent, TenantId: q.Tenant, ResourceObjectType: q.Type, ResourceObjectIds: ids, Permission: q.Permission,
		Consistency: at, SessionToken: token, ActorToken: q.ActorToken,
	}
	switch {
	case q.Session != "" && q.Delegation != "":
		return Filtered{}, errTwoWays
	case q.Session != "":
		request.Via = &deputyv1.FilterResourcesRequest_SessionId{SessionId: q.Session}
	case q.Delegation != "":
		request.Via = &deputyv1.FilterResourcesRequest_DelegationId{DelegationId: q.Delegation}
	}
	var err error
	if request.OnBehalfOf, err = q.Principal.one(); err != nil {
		return Filtered{}, err
	}
	if request.Context, err = q.Context.proto(); err != nil {
		return Filtered{}, err
	}
	response, err := c.Permissions.FilterResources(ctx, request)
	if err != nil {
		return Filtered{}, err
	}
	found := Filtered{
		Allowed: response.GetAllowedObjectIds(), At: response.GetCheckedAt(),
		ActorRefused: response.GetRefusedBy() == deputyv1.RefusedBy_REFUSED_BY_ACTOR,
	}
	for _, one := range response.GetConditional() {
		found.Conditional = append(found.Conditional, ConditionalObject{one.GetObjectId(), one.GetMissingContext()})
	}
	for _, one := range response.GetFailed() {
		found.Failed = append(found.Failed, FailedObject{one.GetObjectId(), itemError(one.GetError())})
	}
	return found, nil
}
