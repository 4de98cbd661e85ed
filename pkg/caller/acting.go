package caller

import (
	"context"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Actors verifies the tokens of agents. It is safe for concurrent use.
type Actors interface {
	// Verify returns what an agent's token says, once it is found to be valid now, and to be for this server or for one of the audiences, which are the
	// names of the caller that sends it. What it returns is not to be changed. Errors: Denied (ACTOR_TOKEN_INVALID) with what is wrong with the
	// token, which does not show it; Unavailable where its issuer's keys cannot be had; Exhausted where too many are being verified.
	Verify(ctx context.Context, token string, audiences []string) (*Actor, error)
}

// Actor is what an agent's token says. It is immutable.
type Actor struct {
	// Agent is the agent that acts.
	Agent authz.AgentID
	// Principal and Tenant are for whom, and where; zero where its issuer's tokens do not say that.
	Principal authz.Principal
	Tenant    authz.TenantID
	// AgentName, PrincipalName and TenantName are their ids as callers know them.
	AgentName, PrincipalName, TenantName string
	// Scope has the scopes of the token, with blanks between them; empty where it has none, or nobody can tell which. They give no rights.
	Scope string
	// Ends is when the token ends.
	Ends time.Time
	// Evidence is what is recorded of the token.
	Evidence *authz.ActorToken
}

// ActorToken says how a caller sends agents' tokens.
type ActorToken struct {
	// Required says that it names no agent that acts without a token of that agent.
	Required bool
	// Audiences are names of the caller itself: it may send tokens that were made for it.
	Audiences []string
}

// covers reports whether it lets through all that was let through.
func (a ActorToken) covers(was ActorToken) bool {
	return (was.Required || !a.Required) && !slices.ContainsFunc(was.Audiences, func(name string) bool { return !slices.Contains(a.Audiences, name) })
}

// Acting says how agents prove that they act. The zero Acting takes no token, and asks for none.
type Acting struct {
	// Tokens verifies the agents' tokens; nil where no issuer makes any.
	Tokens Actors
	// Agents act with a token only, by stored id, and Prefixes are those whose ids begin so, as callers know them.
	Agents   authz.Names
	Prefixes authz.Prefixes
}

// Requires reports whether an agent acts with a token only.
func (a Acting) Requires(agent authz.AgentID) bool {
	return a.Agents.Has(string(agent)) || a.Prefixes.Match(string(agent))
}

// Asks reports whether there is an agent that acts with a token only.
func (a Acting) Asks() bool {
	return !a.Agents.None() || !a.Prefixes.None()
}
