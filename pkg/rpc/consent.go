package rpc

import (
	"context"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/delegate"
	"github.com/deputyauth/deputy/pkg/facts"
)

// consent returns what a person agrees to by a token, nil without one, and notes the token for the records. Nothing behind this knows the token
// itself. Errors: those of caller.People.
func (b border) consent(ctx context.Context, token string) (*delegate.Consent, error) {
	if token == "" {
		return nil, nil //nolint:nilnil // no token is no consent
	}
	people := b.Callers.Book().People
	if people == nil {
		return nil, authz.FieldErrorf("consent_token", "is not accepted: nobody consents by tokens here, because no issuer in the file of callers says how")
	}
	c, err := people.Consent(ctx, token)
	if err != nil {
		return nil, err
	}
	out := &delegate.Consent{
		Token: facts.NewConsent(c.Issuer, c.ID), Person: c.Person.Object, Agent: c.Agent, Tenant: c.Tenant, Unscoped: c.Unscoped, AllowDirect: c.AllowDirect,
		TTL: c.TTL, Until: c.Ends,
	}
	for _, g := range c.Scope {
		out.Scope = append(out.Scope, facts.Grant{Resource: g.Resource, Relation: g.Relation})
	}
	RecordingOf(ctx).consented(c.Issuer, out.Token)
	return out, nil
}
