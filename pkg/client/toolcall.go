package client

import (
	"context"
	"errors"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// ToolCall is a call of a tool, or of what else a server offers to agents, such as an MCP server: a question that is asked for one is recorded with
// it. The zero ToolCall is none.
type ToolCall struct {
	// Server is the name of the server, and Method the method that was called, such as "tools/call": 1 to 128 bytes each.
	Server, Method string
	// Name is the name of the tool or the prompt, at most 256 bytes; empty where the method names neither.
	Name string
	// Arguments is the SHA-256 digest of the arguments, or empty. The journal has a keyed digest of it. In a RecordQuery it can be that of a record, too.
	Arguments string
}

// proto is the call as it goes over the wire; nil for none.
func (c ToolCall) proto() *deputyv1.ToolCall {
	if c == (ToolCall{}) {
		return nil
	}
	out := &deputyv1.ToolCall{Server: c.Server, Method: c.Method, Name: c.Name}
	if c.Arguments != "" {
		out.ArgumentsHash = []byte(c.Arguments)
	}
	return out
}

// ToolRefusal is why a program refused a call of a tool by itself. The zero ToolRefusal is none, and the server refuses it.
type ToolRefusal = deputyv1.ToolRefusal

// The refusals.
const (
	// ToolUnmapped: nothing says which objects the tool, the prompt or the resource is about.
	ToolUnmapped = deputyv1.ToolRefusal_TOOL_REFUSAL_UNMAPPED
	// ToolArguments: an argument is missing, is of the wrong kind, leads where it must not, or nothing says what it may be.
	ToolArguments = deputyv1.ToolRefusal_TOOL_REFUSAL_ARGUMENTS
	// ToolNotApproved: the tools of the server are not those that were approved.
	ToolNotApproved = deputyv1.ToolRefusal_TOOL_REFUSAL_NOT_APPROVED
)

// errTwoTools refuses questions that one bulk check cannot be asked for.
var errTwoTools = errors.New("client: the questions of a bulk check are asked for different calls of tools: ask for each call by itself")

// toolCallOf is the call of a tool that all questions are asked for.
func toolCallOf(questions []Question) (*deputyv1.ToolCall, error) {
	if len(questions) == 0 {
		return nil, nil //nolint:nilnil // none
	}
	for _, q := range questions {
		if q.ToolCall != questions[0].ToolCall {
			return nil, errTwoTools
		}
	}
	return questions[0].ToolCall.proto(), nil
}

// RecordToolRefusal records that the program has refused a call of a tool by itself, without a decision. The question says who acts, and which call
// that was; its object and its permission are left out. It allows nothing. With an error the refusal is not recorded.
func (c *Client) RecordToolRefusal(ctx context.Context, q Question, why ToolRefusal) error {
	of, err := q.request()
	if err != nil {
		return err
	}
	request := &deputyv1.RecordToolRefusalRequest{
		AgentId: of.GetAgentId(), OnBehalfOf: of.GetOnBehalfOf(), TenantId: of.GetTenantId(), ToolCall: of.GetToolCall(), Refusal: why,
		ActorToken: of.GetActorToken(),
	}
	switch via := of.GetVia().(type) {
	case *deputyv1.CheckPermissionRequest_SessionId:
		request.Via = &deputyv1.RecordToolRefusalRequest_SessionId{SessionId: via.SessionId}
	case *deputyv1.CheckPermissionRequest_DelegationId:
		request.Via = &deputyv1.RecordToolRefusalRequest_DelegationId{DelegationId: via.DelegationId}
	}
	_, err = c.Permissions.RecordToolRefusal(ctx, request)
	return err
}
