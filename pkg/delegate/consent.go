package delegate

import (
	"context"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// Consent is what a person has agreed to, by a token of the person's own that was verified: one delegation, for one agent, in one tenant. What
// it does not name the person has not agreed to. A delegation may be less than the Consent, and never more.
type Consent struct {
	// Token identifies the token, which is used up by the delegation.
	Token facts.Consent
	// Person is whose token it is: a user, who is the principal of the delegation and grants it.
	Person authz.Object
	// Agent and Tenant are those of the delegation.
	Agent  authz.AgentID
	Tenant authz.TenantID
	// Scope is what a scope can grant at most.
	Scope []facts.Grant
	// Unscoped says that the delegation may reach all that its agent does, or any scope.
	Unscoped bool
	// AllowDirect says that the agent may act without a session.
	AllowDirect bool
	// TTL is how long the delegation may last; 0 means as long as the token.
	TTL time.Duration
	// Until is when the token ends, and with it the delegation at the latest.
	Until time.Time
}

// complete says what a request for a delegation leaves out and the person's token names.
func (c *Consent) complete(s *Spec) {
	if s.Principal == (authz.Subject{}) {
		s.Principal = authz.Subject{Object: c.Person}
	}
	if s.GrantedBy.IsZero() {
		s.GrantedBy = c.Person
	}
	if s.Tenant == "" {
		s.Tenant = c.Tenant
	}
}

// covers refuses a request that asks for more than the person has agreed to. Errors: Denied with the field that asks for more.
func (c *Consent) covers(s *Spec, now time.Time) error {
	switch {
	case s.Parent != "":
		return authz.FieldErrorf("consent_token", "is for a delegation that a person grants, and a part of one is granted by that delegation's "+
			"agent: leave out either consent_token or parent_delegation_id")
	case c.Token == "" || c.Person.Type != authz.TypeUser || c.Person.ID == "" || c.Agent == "" || c.Tenant == "":
		return notConsented("consent_token", "does not say who agrees to what")
	case !c.Until.After(now):
		return notConsented("consent_token", "ended at %s: ask the person for another one", c.Until.UTC().Format(time.RFC3339))
	}
	person := authz.Subject{Object: c.Person}
	switch {
	case s.Principal != person:
		return notConsented("principal", "is not %s, the person of the consent_token", authz.Show(c.Person))
	case s.GrantedBy != c.Person:
		return notConsented("granted_by", "is not %s, the person of the consent_token", authz.Show(c.Person))
	case s.Agent != c.Agent:
		return notConsented("agent_id", "is not %s, which the consent_token names", authz.Show(c.Agent.Object()))
	case s.Tenant != c.Tenant:
		return notConsented("tenant_id", "is not %s, which the consent_token names", authz.Show(c.Tenant.Object()))
	case s.Unscoped && !c.Unscoped:
		return notConsented("unscoped", "is more than the consent_token agrees to: name a scope")
	case s.AllowDirect && !c.AllowDirect:
		return notConsented("allow_direct", "is more than the consent_token agrees to")
	case s.TTL > 0 && c.TTL > 0 && s.TTL > c.TTL:
		return notConsented("ttl", "is longer than the %s that the consent_token agrees to", c.TTL)
	case s.TTL > 0 && now.Add(s.TTL).After(c.Until):
		return notConsented("ttl", "goes beyond the end of the consent_token, at %s: leave it out to end with the token", c.Until.UTC().Format(time.RFC3339))
	}
	for _, g := range s.Scope {
		if !c.Unscoped && !slices.Contains(c.Scope, g) {
			return notConsented("scope", "names %s#%s, which the consent_token does not", authz.Show(g.Resource), g.Relation)
		}
	}
	return nil
}

// until is when a delegation ends at the latest that is created now and does not say it itself.
func (c *Consent) until(now time.Time) time.Time {
	end := c.Until
	for _, most := range []time.Duration{c.TTL, MaxTTL} {
		if at := now.Add(most); most > 0 && at.Before(end) {
			end = at
		}
	}
	return end
}

func notConsented(field, format string, args ...any) error {
	err := authz.FieldErrorf(field, format, args...)
	err.Kind, err.Reason = authz.Denied, authz.ReasonNotConsented
	return err
}

// used reports whether a token was used.
func (v *view) used(ctx context.Context, token facts.Consent) (bool, error) {
	rels, err := v.read(ctx, token.UsedFilter())
	return len(rels) > 0, err
}

func consentUsed() error {
	return authz.Errorf(authz.Exists, authz.ReasonConsentUsed, "the consent_token was used already, and one delegation is all that it is good for: "+
		"ask the person for another one")
}
