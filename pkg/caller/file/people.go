package file

import (
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/person"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// people reads how an issuer's tokens name people, and how people consent by them; nothing where n is nil.
func (d *decoder) people(n *yaml.Node, issuer string) error {
	if n == nil {
		return nil
	}
	f, err := d.mapping(n, "people", []string{"principal"}, "tenant", "consent")
	if err != nil {
		return err
	}
	i := person.Issuer{Issuer: issuer}
	if err := d.template(f["principal"], actor.Principal, &i.Principal, issuer); err != nil {
		return err
	}
	if err := d.template(f["tenant"], actor.Tenant, &i.Tenant, issuer); err != nil {
		return err
	}
	var inner fields
	if f["consent"] != nil {
		if inner, i.Consent, err = d.consent(f["consent"]); err != nil {
			return err
		}
	}
	if err := i.Check(); err != nil {
		return d.atKey(n, err, f, inner)
	}
	if i.Consent != nil && len(i.Consent.Clients) == 0 && slices.ContainsFunc(d.content.Actors, func(a actor.Issuer) bool {
		return a.Issuer == issuer && !a.Agent.OfActor()
	}) {
		return d.problem(f["consent"], "the issuer's agents are named by claims of the token itself, so that an agent's own token could consent: write clients, "+
			"the clients that people consent with")
	}
	d.content.People = append(d.content.People, i)
	return nil
}

// consent reads how people consent, and returns the keys that it was read from.
func (d *decoder) consent(n *yaml.Node) (fields, *person.Consent, error) {
	f, err := d.mapping(n, "consent", []string{"audiences"}, "types", "scope", "details", "clients")
	if err != nil {
		return nil, nil, err
	}
	c := &person.Consent{}
	for key, to := range map[string]*[]string{"audiences": &c.Audiences, "types": &c.Types, "clients": &c.Clients} {
		if f[key] != nil {
			if *to, err = d.texts(f[key], key, nil); err != nil {
				return nil, nil, err
			}
		}
	}
	for key, to := range map[string]*string{"scope": &c.Scope, "details": &c.Details} {
		if f[key] != nil {
			if *to, err = d.text(f[key], key); err != nil {
				return nil, nil, err
			}
		}
	}
	return f, c, nil
}

// all reads a credential that stands for all people of an issuer.
func (d *decoder) all(issuer, people *yaml.Node) (string, bool, error) {
	from, err := d.from(issuer)
	if err != nil {
		return "", false, err
	}
	text, err := d.text(people, "people")
	if err == nil && text != AllPeople {
		err = d.problem(people, "people is %s; it can be %s, or be left out", quoted(text), AllPeople)
	}
	return from, true, err
}

// personal refuses the role self where a call would not say which person calls, and beside what is not one person's.
func (d *decoder) personal(f fields, c *caller.Caller) error {
	self := caller.RolesOf(deputyv1.Role_ROLE_SELF)
	if c.Roles&self == 0 {
		if slices.ContainsFunc(c.Credentials, func(one caller.Credential) bool { return one.People }) {
			return d.problem(f["credentials"], "a credential for all people of an issuer takes the role self; %s has %s", c.Name, c.Roles)
		}
		return nil
	}
	if c.Roles != self {
		return d.problem(f["roles"], "a person calls for itself alone, so the role self stands alone; give the other roles to another caller than %s", c.Name)
	}
	for _, key := range []string{"vouch", "authzed_api", "actor_token", "actor_audiences"} {
		if f[key] != nil {
			return d.problem(f[key], "%s is nothing for the role self, which reads and ends what agents may do for the person that calls; leave it out", key)
		}
	}
	if !c.Bounds.HasPrincipals(authz.TypeUser) {
		return d.problem(f["principals"], "a person is a user, and no user exists for %s; leave principals out", c.Name)
	}
	for _, one := range c.Credentials {
		if one.Issuer == "" {
			return d.problem(f["credentials"], "the credential %s is no token's; the role self is for people, who call with tokens of their own: write issuer, with "+
				"people or subject", one.ID)
		}
		if !slices.ContainsFunc(d.content.People, func(i person.Issuer) bool { return i.Issuer == one.Issuer }) {
			return d.problem(f["credentials"], "the issuer %s of the credential %s does not say which person a token is of; write people at the issuer, with "+
				"principal: user:{sub}", quoted(one.Issuer), one.ID)
		}
	}
	return nil
}
