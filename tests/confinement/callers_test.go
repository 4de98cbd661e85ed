package confinement

import (
	"crypto/sha256"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

const (
	checker   = deputyv1.Role_ROLE_CHECKER
	delegator = deputyv1.Role_ROLE_DELEGATOR
	writer    = deputyv1.Role_ROLE_WRITER
	organizer = deputyv1.Role_ROLE_ORGANIZER
	responder = deputyv1.Role_ROLE_RESPONDER
	auditor   = deputyv1.Role_ROLE_AUDITOR
	admin     = deputyv1.Role_ROLE_ADMIN
)

// keyOf is the preshared key of a caller.
func keyOf(name string) string { return "the-preshared-key-of-" + name }

func one(name, tenant string, change func(*authz.Bounds), roles ...deputyv1.Role) *caller.Caller {
	b := *authz.Unbounded()
	b.Tenants = authz.NamesOf(tenant)
	if change != nil {
		change(&b)
	}
	return &caller.Caller{
		Name: name, Roles: caller.RolesOf(roles...), Bounds: &b, SpiceDB: authz.AllNames(),
		Credentials: []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte(keyOf(name)))}},
	}
}

// prefixed bounds a caller that writes: object ids are one namespace, and an id that the other tenant has taken is refused.
func prefixed(b *authz.Bounds) { b.IDs = authz.PrefixesOf(own + "-") }

// confined are the callers that are bound to the one tenant.
func confined() []*caller.Caller {
	return []*caller.Caller{
		one("checker", own, nil, checker),
		one("checker-of-bots", own, func(b *authz.Bounds) { b.Agents = authz.NamesOf("acme-sub", "both-bot", "globex-bot") }, checker, auditor),
		one("checker-of-folders", own, func(b *authz.Bounds) { b.Objects = authz.NamesOf("folder", "group") }, checker, auditor, delegator),
		one("checker-of-users", own, func(b *authz.Bounds) {
			b.Principals = authz.NamesOf("user")
			b.IDs = authz.PrefixesOf("acme-d1", "acme-f", "globex-d2", "nowhere-d2")
		}, checker, auditor, delegator),
		one("auditor", own, nil, auditor),
		one("delegator", own, prefixed, delegator),
		one("delegator-of-parts", own, func(b *authz.Bounds) { prefixed(b); b.Vouch = false }, delegator, checker),
		one("writer", own, prefixed, writer),
		one("writer-of-folders", own, func(b *authz.Bounds) { prefixed(b); b.Objects = authz.NamesOf("folder", "document") }, writer, checker),
		one("organizer", own, prefixed, organizer),
		one("responder", own, nil, responder),
		one("admin", own, prefixed, admin),
	}
}

// callers are all callers of a server, one of the other tenant's among them, whose requests go to the first server alone.
func callers() []*caller.Caller {
	all := confined()
	for _, c := range all {
		c.Name = "acme-" + c.Name
		c.Credentials[0].Key = sha256.Sum256([]byte(keyOf(c.Name)))
	}
	return append(all, one("globex-delegator", other, nil, delegator))
}
