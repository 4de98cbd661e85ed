package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/structpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Principal is on whose behalf an agent acts: a user or a service, or, of a delegation alone, all members or admins of a tenant. The zero
// Principal is nobody; a question leaves it to the session or the delegation then, where that has no choice.
type Principal struct{ objectType, id, relation string }

// User is a person as a principal.
func User(id string) Principal { return Principal{"user", id, ""} }

// Service is a scheduled or background job as a principal.
func Service(id string) Principal { return Principal{"service", id, ""} }

// TenantMembers are all members of a tenant, as the principals of a delegation.
func TenantMembers(tenant string) Principal { return Principal{"tenant", tenant, "member"} }

// TenantAdmins are all admins of a tenant, as the principals of a delegation.
func TenantAdmins(tenant string) Principal { return Principal{"tenant", tenant, "admin"} }

// String returns "user:alice", or "tenant:acme#member".
func (p Principal) String() string {
	text := p.objectType + ":" + p.id
	if p.relation != "" {
		text += "#" + p.relation
	}
	return text
}

// one is the principal as an object; nil for nobody. A set is an error, because as an object it would be something else.
func (p Principal) one() (*deputyv1.ObjectReference, error) {
	switch {
	case p == Principal{}:
		return nil, nil //nolint:nilnil // nobody
	case p.relation != "":
		return nil, fmt.Errorf("client: %s are many principals, and one is needed: a user or a service", p)
	}
	return &deputyv1.ObjectReference{ObjectType: p.objectType, ObjectId: p.id}, nil
}

// subject is the principal as a subject; nil for nobody.
func (p Principal) subject() *deputyv1.SubjectReference {
	if p == (Principal{}) {
		return nil
	}
	return &deputyv1.SubjectReference{
		Object: &deputyv1.ObjectReference{ObjectType: p.objectType, ObjectId: p.id}, OptionalRelation: p.relation,
	}
}

// principalOf is the principal that an answer names.
func principalOf(o *deputyv1.ObjectReference) Principal {
	return Principal{o.GetObjectType(), o.GetObjectId(), ""}
}

// Resource is the object of a question. The zero Resource names nothing, and the server refuses it.
type Resource struct{ objectType, id string }

// Object is an object of a type of the schema. Its id is what the application knows it by; the server
// encodes it.
func Object(objectType, id string) Resource { return Resource{objectType, id} }

// Type is the object's type.
func (r Resource) Type() string { return r.objectType }

// ID is the object's id, as the application knows it.
func (r Resource) ID() string { return r.id }

// String returns "document:plan".
func (r Resource) String() string { return r.objectType + ":" + r.id }

func (r Resource) proto() *deputyv1.ObjectReference {
	return &deputyv1.ObjectReference{ObjectType: r.objectType, ObjectId: r.id}
}

// resourceOf is the object that an answer names.
func resourceOf(o *deputyv1.ObjectReference) Resource {
	return Resource{o.GetObjectType(), o.GetObjectId()}
}

// Context is context for caveats: nil, bool, numbers, string, []byte, []any and map[string]any.
type Context map[string]any

// proto is the context as it goes over the wire; nil for none.
func (c Context) proto() (*structpb.Struct, error) {
	if len(c) == 0 {
		return nil, nil //nolint:nilnil // no context
	}
	s, err := structpb.NewStruct(c)
	if err != nil {
		return nil, fmt.Errorf("client: caveat context: %w", err)
	}
	return s, nil
}

// Question asks: may this agent, acting for this principal, in this tenant, do this to this object? The zero Question asks nothing, and is
// refused with an error.
type Question struct {
	// Agent is the id of the agent that acts. A Session fills it in.
	Agent string
	// Session is the id of the session that it acts in, and Delegation that of a delegation that was created to be used directly. One
	// of them, or neither: then the agent's delegations of that kind are weighed, each alone. A Session fills it in.
	Session, Delegation string
	// Principal is on whose behalf; zero where the session or delegation leaves no choice.
	Principal Principal
	// Tenant is the tenant's id; empty where the session or delegation leaves no choice.
	Tenant string
	// Resource is the object.
	Resource Resource
	// Permission is a permission or a relation of the object's type.
	Permission string
	// Context is context for caveats.
	Context Context
	// ActorToken is the agent's own token, which proves that it acts, and for whom; empty for none. What it says may be left out above.
	ActorToken string
	// ToolCall is the call of a tool for which the question is asked; zero for none. It is recorded, and has no part in the decision. The questions of a
	// bulk check are asked for the same one.
	ToolCall ToolCall
}

// errTwoWays refuses what names a session and a delegation.
var errTwoWays = errors.New("client: an agent acts in a session or under a delegation: name one of them")

// request is the question as it goes over the wire.
func (q Question) request() (*deputyv1.CheckPermissionRequest, error) {
	r := &deputyv1.CheckPermissionRequest{
		AgentId: q.Agent, TenantId: q.Tenant, Resource: q.Resource.proto(), Permission: q.Permission, ActorToken: q.ActorToken,
		ToolCall: q.ToolCall.proto(),
	}
	switch {
	case q.Session != "" && q.Delegation != "":
		return nil, errTwoWays
	case q.Session != "":
		r.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: q.Session}
	case q.Delegation != "":
		r.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: q.Delegation}
	}
	var err error
	if r.OnBehalfOf, err = q.Principal.one(); err != nil {
		return nil, err
	}
	r.Context, err = q.Context.proto()
	return r, err
}

// item is the question as one of a bulk check.
func (q Question) item() (*deputyv1.CheckBulkPermissionsRequestItem, error) {
	r, err := q.request()
	if err != nil {
		return nil, err
	}
	item := &deputyv1.CheckBulkPermissionsRequestItem{
		AgentId: r.GetAgentId(), OnBehalfOf: r.GetOnBehalfOf(), TenantId: r.GetTenantId(), Resource: r.GetResource(),
		Permission: r.GetPermission(), Context: r.GetContext(), ActorToken: r.GetActorToken(),
	}
	switch via := r.GetVia().(type) {
	case *deputyv1.CheckPermissionRequest_SessionId:
		item.Via = &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: via.SessionId}
	case *deputyv1.CheckPermissionRequest_DelegationId:
		item.Via = &deputyv1.CheckBulkPermissionsRequestItem_DelegationId{DelegationId: via.DelegationId}
	}
	return item, nil
}

// Answer is what a Question of a bulk check came to. The zero Answer refuses.
type Answer struct {
	// Decision is the answer; it refuses where Err is set.
	Decision
	// Err is what was wrong with this question alone, as a gRPC status.
	Err error
}

// Check decides one question at the head revision: a revocation that was acknowledged is seen. An error means that there is no answer, and the
// Decision beside it refuses.
func (c *Client) Check(ctx context.Context, q Question) (Decision, error) {
	return c.check(ctx, q, nil, nil)
}

// CheckBulk decides several questions at one revision, the head's: as many answers as questions, in order. A
// question that is wrong fails by itself. The server takes 1,000 at once.
func (c *Client) CheckBulk(ctx context.Context, questions ...Question) ([]Answer, error) {
	answers, _, err := c.checkBulk(ctx, questions, nil, nil)
	return answers, err
}

// maxBulk is how many questions the server takes at once.
const maxBulk = 1000

// CheckAll is CheckBulk for any number of questions, which are asked in calls of 1,000. All are judged at one revision, the head's of the first call; and
// that what the agent acts under is live, at the newest one of each call too. Where one of the calls fails there is no answer to any question.
func (c *Client) CheckAll(ctx context.Context, questions ...Question) ([]Answer, error) {
	all := make([]Answer, 0, len(questions))
	var at *deputyv1.Consistency
	for part := range slices.Chunk(questions, maxBulk) {
		answers, token, err := c.checkBulk(ctx, part, at, nil)
		if err != nil {
			return nil, err
		}
		if all = append(all, answers...); len(all) < len(questions) && token.GetToken() == "" {
			return nil, errors.New("client: the server does not say at which revision it answers, so that more cannot be asked at the same one")
		}
		at = &deputyv1.Consistency{Requirement: &deputyv1.Consistency_AtExactSnapshot{AtExactSnapshot: token}}
	}
	return all, nil
}

// Explain decides one question and says how every condition came out. It takes an auditor, and is no answer to act on.
func (c *Client) Explain(ctx context.Context, q Question) (*deputyv1.ExplainPermissionResponse, error) {
	request, err := q.request()
	if err != nil {
		return nil, err
	}
	return c.Permissions.ExplainPermission(ctx, &deputyv1.ExplainPermissionRequest{Check: request})
}

// check asks one question.
func (c *Client) check(ctx context.Context, q Question, at *deputyv1.Consistency, token *deputyv1.ZedToken) (Decision, error) {
	request, err := q.request()
	if err != nil {
		return Decision{}, err
	}
	request.Consistency, request.SessionToken = at, token
	response, err := c.Permissions.CheckPermission(ctx, request)
	if err != nil {
		return Decision{}, err
	}
	return Decision{response}, nil
}

// checkBulk asks several questions at one revision, which it returns beside the answers.
func (c *Client) checkBulk(
	ctx context.Context, questions []Question, at *deputyv1.Consistency, token *deputyv1.ZedToken,
) ([]Answer, *deputyv1.ZedToken, error) {
	called, err := toolCallOf(questions)
	if err != nil {
		return nil, nil, err
	}
	request := &deputyv1.CheckBulkPermissionsRequest{Consistency: at, SessionToken: token, ToolCall: called}
	for i, q := range questions {
		item, err := q.item()
		if err != nil {
			return nil, nil, fmt.Errorf("question %d: %w", i, err)
		}
		request.Items = append(request.Items, item)
	}
	response, err := c.Permissions.CheckBulkPermissions(ctx, request)
	if err != nil {
		return nil, nil, err
	}
	if got := len(response.GetPairs()); got != len(questions) {
		return nil, nil, fmt.Errorf("client: %d answers to %d questions", got, len(questions))
	}
	answers := make([]Answer, len(questions))
	for i, pair := range response.GetPairs() {
		answers[i] = answer(pair)
	}
	return answers, response.GetCheckedAt(), nil
}

// errNoAnswer is the error of an answer that is neither a decision nor a failure.
var errNoAnswer = errors.New("client: an answer of a kind that this version does not know")

// answer reads one pair of a bulk check.
func answer(pair *deputyv1.CheckBulkPermissionsPair) Answer {
	switch response := pair.GetResponse().(type) {
	case *deputyv1.CheckBulkPermissionsPair_Item:
		return Answer{Decision: Decision{response.Item}}
	case *deputyv1.CheckBulkPermissionsPair_Error:
		return Answer{Err: itemError(response.Error)}
	default:
		return Answer{Err: errNoAnswer}
	}
}
