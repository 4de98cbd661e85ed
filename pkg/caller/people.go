package caller

import (
	"context"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// People knows people by their own tokens. It is safe for concurrent use.
type People interface {
	// Person returns whose token it is, of one that Verifier has found to be valid for the call. Errors: Unauthenticated with why the token is no
	// person's own.
	Person(ctx context.Context, token string) (authz.Principal, error)
	// Consent returns what a person consents to by a token, once it is found to be valid now. What it returns is not to be changed. Errors: Denied
	// (CONSENT_TOKEN_INVALID) with what is wrong with the token, which does not show it; Unavailable where its issuer's keys cannot be had;
	// Exhausted where too many are being verified.
	Consent(ctx context.Context, token string) (*Consent, error)
	// Knows reports whether the tokens of an issuer say which person's they are.
	Knows(issuer string) bool
}

// Consent is what a person agrees to by a token: one delegation. What it does not name the person has not agreed to. It is immutable.
type Consent struct {
	// Issuer and ID are the token's iss and jti.
	Issuer, ID string
	// Person is whose token it is: a user.
	Person authz.Principal
	// Agent and Tenant are those of the delegation.
	Agent  authz.AgentID
	Tenant authz.TenantID
	// Scope is what a scope can grant at most.
	Scope []Grant
	// Unscoped says that the delegation may reach all that its agent does, and AllowDirect that the agent may act without a session.
	Unscoped, AllowDirect bool
	// TTL is how long the delegation may last; 0 means as long as the token.
	TTL time.Duration
	// Ends is when the token ends.
	Ends time.Time
}

// Grant is one thing that a delegation's scope reaches: an object, and the relation to it.
type Grant struct {
	Resource authz.Object
	Relation string
}
