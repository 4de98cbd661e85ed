package rpc

import (
	"context"
	"crypto/sha256"
	"strings"
	"unicode"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
)

// The longest words of a call of a tool, in bytes.
const (
	maxToolWord = 128
	maxToolName = 256
)

// toolCall reads the call of a tool for which a question is asked; left out it is nil. A caller passes on there what its agents wrote.
func toolCall(field string, c *deputyv1.ToolCall) (*authz.ToolCall, error) {
	if c == nil {
		return nil, nil //nolint:nilnil // most questions are asked for no call of a tool
	}
	for _, one := range []struct {
		name, text  string
		least, most int
	}{{".server", c.GetServer(), 1, maxToolWord}, {".method", c.GetMethod(), 1, maxToolWord}, {".name", c.GetName(), 0, maxToolName}} {
		switch n := len(one.text); {
		case n < one.least:
			return nil, authz.FieldErrorf(field+one.name, "is required")
		case n > one.most:
			return nil, authz.FieldErrorf(field+one.name, "has %d bytes, more than %d", n, one.most)
		case strings.ContainsFunc(one.text, unicode.IsControl):
			return nil, authz.FieldErrorf(field+one.name, "has a control character")
		}
	}
	if n := len(c.GetArgumentsHash()); n != 0 && n != sha256.Size {
		return nil, authz.FieldErrorf(field+".arguments_hash", "has %d bytes; a SHA-256 digest has %d", n, sha256.Size)
	}
	return &authz.ToolCall{Server: c.GetServer(), Method: c.GetMethod(), Name: c.GetName(), Arguments: c.GetArgumentsHash()}, nil
}

// askedTool checks a call of a tool that records are asked for by.
func askedTool(c *deputyv1.ToolCall) error {
	if len(c.GetServer()) > maxToolWord || len(c.GetMethod()) > maxToolWord || len(c.GetName()) > maxToolName {
		return authz.FieldErrorf("tool_call", "has a word that is longer than any in a record: a server and a method have at most %d bytes, and a name %d",
			maxToolWord, maxToolName)
	}
	if n := len(c.GetArgumentsHash()); n != 0 && n != journal.ArgumentsDigest && n != sha256.Size {
		return authz.FieldErrorf("tool_call.arguments_hash", "has %d bytes; the SHA-256 digest of arguments has %d, and that of a record %d", n, sha256.Size,
			journal.ArgumentsDigest)
	}
	return nil
}

// RecordToolRefusal records what the request says: that is the whole of it, and the gate does it as for every call. Nothing is looked up, so that what
// lies outside the caller's bounds is refused by its name.
func (p *permissions) RecordToolRefusal(ctx context.Context, r *deputyv1.RecordToolRefusalRequest) (*deputyv1.RecordToolRefusalResponse, error) {
	agent, err := id("agent_id", r.GetAgentId())
	if err != nil {
		return nil, err
	}
	switch via := r.GetVia().(type) {
	case *deputyv1.RecordToolRefusalRequest_SessionId:
		if _, err := mintedID("session_id", via.SessionId); err != nil {
			return nil, err
		}
	case *deputyv1.RecordToolRefusalRequest_DelegationId:
		if _, err := mintedID("delegation_id", via.DelegationId); err != nil {
			return nil, err
		}
	}
	whom, err := principal("on_behalf_of", r.GetOnBehalfOf())
	if err != nil {
		return nil, err
	}
	tenant, err := optionalID("tenant_id", r.GetTenantId())
	if err != nil {
		return nil, err
	}
	called, err := toolCall("tool_call", r.GetToolCall())
	if err != nil {
		return nil, err
	}
	if called == nil {
		return nil, authz.FieldErrorf("tool_call", "is required")
	}
	if _, known := deputyv1.ToolRefusal_name[int32(r.GetRefusal())]; !known || r.GetRefusal() == 0 {
		return nil, authz.FieldErrorf("refusal", "is required, and has to be known to this server")
	}
	b := caller.Of(ctx).Bounds
	for _, one := range []struct {
		field   string
		outside bool
	}{
		{"agent_id", !b.HasAgent(authz.AgentID(agent))}, {"tenant_id", tenant != "" && !b.HasTenant(authz.TenantID(tenant))},
		{"on_behalf_of", !whom.IsZero() && !b.HasPrincipal(whom)},
	} {
		if one.outside {
			return nil, &authz.Error{Kind: authz.Denied, Reason: authz.ReasonOutOfBounds, Field: one.field, Message: "lies outside the bounds of the caller"}
		}
	}
	return &deputyv1.RecordToolRefusalResponse{}, nil
}
