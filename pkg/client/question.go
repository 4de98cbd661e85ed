package client

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Actor is who acts where there is no session.
type Actor struct {
	// Agent is the agent's id.
	Agent string
	// Delegation is the delegation to act under. Empty: those of the agent's that were created with
	// allow_direct are weighed, each alone.
	Delegation string
}

// Principal is on whose behalf an agent acts. The zero Principal leaves it to the session or the
// delegation, where that has no choice.
type Principal struct{ objectType, id string }

// User is a person as a principal.
func User(id string) Principal { return Principal{"user", id} }

// Service is a scheduled or background job as a principal.
func Service(id string) Principal { return Principal{"service", id} }

// String returns "user:alice".
func (p Principal) String() string { return p.objectType + ":" + p.id }

// Resource is the object of a question. The zero Resource names nothing, and the server refuses it.
type Resource struct{ objectType, id string }

// Object is an object of a type of the schema. Its id is what the application knows it by; the server
// encodes it.
func Object(objectType, id string) Resource { return Resource{objectType, id} }

// String returns "document:plan".
func (r Resource) String() string { return r.objectType + ":" + r.id }

// Context is context for caveats: nil, bool, numbers, string, []byte, []any and map[string]any.
type Context map[string]any

// Question is one case of a bulk check.
type Question struct {
	// Principal is on whose behalf; zero where the session leaves no choice.
	Principal Principal
	// Tenant is the tenant's id; empty where the session leaves no choice.
	Tenant string
	// Resource is the object.
	Resource Resource
	// Permission is a permission or a relation of the object's type.
	Permission string
	// Context is context for caveats.
	Context Context
}

// Answer is what a Question of a bulk check came to. The zero Answer refuses.
type Answer struct {
	// Decision is the answer; it refuses where Err is set.
	Decision
	// Err is what was wrong with this question alone, as a gRPC status.
	Err error
}

// item is the question as it goes over the wire, still without who acts.
func (q Question) item() (*deputyv1.CheckBulkPermissionsRequestItem, error) {
	item := &deputyv1.CheckBulkPermissionsRequestItem{
		TenantId:   q.Tenant,
		Resource:   &deputyv1.ObjectReference{ObjectType: q.Resource.objectType, ObjectId: q.Resource.id},
		Permission: q.Permission,
	}
	if q.Principal != (Principal{}) {
		item.OnBehalfOf = &deputyv1.ObjectReference{ObjectType: q.Principal.objectType, ObjectId: q.Principal.id}
	}
	if len(q.Context) > 0 {
		var err error
		if item.Context, err = structpb.NewStruct(q.Context); err != nil {
			return nil, fmt.Errorf("client: caveat context: %w", err)
		}
	}
	return item, nil
}

// merge makes one context of several.
func merge(contexts []Context) Context {
	merged := Context{}
	for _, c := range contexts {
		maps.Copy(merged, c)
	}
	return merged
}

// check asks one question.
func (c *Client) check(
	ctx context.Context, item *deputyv1.CheckBulkPermissionsRequestItem, at *deputyv1.Consistency, token *deputyv1.ZedToken,
) (Decision, error) {
	request := &deputyv1.CheckPermissionRequest{
		AgentId:      item.GetAgentId(),
		OnBehalfOf:   item.GetOnBehalfOf(),
		TenantId:     item.GetTenantId(),
		Resource:     item.GetResource(),
		Permission:   item.GetPermission(),
		Context:      item.GetContext(),
		Consistency:  at,
		SessionToken: token,
	}
	switch via := item.GetVia().(type) {
	case *deputyv1.CheckBulkPermissionsRequestItem_SessionId:
		request.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: via.SessionId}
	case *deputyv1.CheckBulkPermissionsRequestItem_DelegationId:
		request.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: via.DelegationId}
	}
	response, err := c.Permissions.CheckPermission(ctx, request)
	if err != nil {
		return Decision{}, err
	}
	return Decision{response}, nil
}

// checkAll asks several questions at one revision, which it returns beside the answers.
func (c *Client) checkAll(
	ctx context.Context, questions []Question, sessionID, agentID string, at *deputyv1.Consistency, token *deputyv1.ZedToken,
) ([]Answer, *deputyv1.ZedToken, error) {
	request := &deputyv1.CheckBulkPermissionsRequest{Consistency: at, SessionToken: token}
	for i, q := range questions {
		item, err := q.item()
		if err != nil {
			return nil, nil, fmt.Errorf("question %d: %w", i, err)
		}
		item.AgentId = agentID
		item.Via = &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: sessionID}
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

// itemError turns the failure of one item into the status that a call would have failed with.
func itemError(e *deputyv1.ErrorStatus) error {
	// gRPC prints codes that it does not know.
	code := codes.Code(max(e.GetCode(), 0))
	if code == codes.OK {
		code = codes.Unknown
	}
	return withReason(status.New(code, e.GetMessage()), e.GetReason())
}
