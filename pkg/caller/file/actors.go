package file

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/actor"
)

// MaxAgents is how many agents can be bound to act with a token.
const MaxAgents = 10_000

// required is the only thing that actor_token can say.
const required = "required"

// actors reads how an issuer's tokens name agents; nothing where n is nil.
func (d *decoder) actors(n *yaml.Node, issuer string) error {
	if n == nil {
		return nil
	}
	f, err := d.mapping(n, "actors", []string{"agent"}, "audiences", "types", "principal", "tenant", "max_depth")
	if err != nil {
		return err
	}
	i := actor.Issuer{Issuer: issuer}
	for key, to := range map[string]*[]string{"audiences": &i.Audiences, "types": &i.Types} {
		if f[key] != nil {
			if *to, err = d.texts(f[key], key, nil); err != nil {
				return err
			}
		}
	}
	for _, one := range []struct {
		kind actor.Kind
		to   *actor.Template
	}{{actor.Agent, &i.Agent}, {actor.Principal, &i.Principal}, {actor.Tenant, &i.Tenant}} {
		if err := d.template(f[one.kind.String()], one.kind, one.to, issuer); err != nil {
			return err
		}
	}
	if f["max_depth"] != nil {
		if i.MaxDepth, err = d.number(f["max_depth"], "max_depth"); err != nil {
			return err
		}
	}
	if err := i.Check(); err != nil {
		return d.atKey(n, err, f)
	}
	if len(i.Audiences) == 0 {
		d.unnamed = n
	}
	d.content.Actors = append(d.content.Actors, i)
	return nil
}

// template reads a template of an issuer, which must not come to an id of another issuer's; nothing where n is nil.
func (d *decoder) template(n *yaml.Node, kind actor.Kind, to *actor.Template, issuer string) error {
	if n == nil {
		return nil
	}
	text, err := d.text(n, kind.String())
	if err != nil {
		return err
	}
	if *to, err = actor.ParseTemplate(kind, text); err != nil {
		return d.problem(n, "%s %v", kind, err)
	}
	mapped := actor.Mapped{Issuer: issuer, Template: *to}
	if err := actor.Conflict(append(slices.Clone(d.mapped), mapped)); err != nil {
		return d.problem(n, "%v", err)
	}
	d.mapped = append(d.mapped, mapped)
	return nil
}

// agents reads which agents act with a token only.
func (d *decoder) agents(n *yaml.Node) error {
	if n == nil {
		return nil
	}
	list, err := d.elements(n, "agents", MaxAgents)
	if err != nil {
		return err
	}
	var ids, prefixes []string
	for _, one := range list {
		f, err := d.mapping(one, "an element of agents", []string{"actor_token"}, "id", "prefix")
		if err != nil {
			return err
		}
		if err := d.required(f["actor_token"]); err != nil {
			return err
		}
		switch has := f.names("id", "prefix"); {
		case len(has) != 1:
			return d.problem(one, "an element of agents names one agent by its id, or several by the prefix of their ids: write one of id and prefix")
		case has[0] == "id":
			text, err := d.text(f["id"], "id")
			if err != nil {
				return err
			}
			stored, err := storedID(authz.TypeAgent)(text)
			if err != nil {
				return d.problem(f["id"], "id: %v", err)
			}
			ids = append(ids, stored)
		default:
			text, err := d.text(f["prefix"], "prefix")
			if err != nil {
				return err
			}
			if err := checkPrefix(text); err != nil {
				return d.problem(f["prefix"], "prefix: %v", err)
			}
			prefixes = append(prefixes, text)
		}
		if len(d.content.Actors) == 0 {
			return d.problem(one, "no issuer has actors, so that no token could prove that the agent acts: add actors to one of the issuers")
		}
	}
	d.content.Agents, d.content.Prefixes = authz.NamesOf(ids...), authz.PrefixesOf(prefixes...)
	return nil
}

// required reads the word required.
func (d *decoder) required(n *yaml.Node) error {
	text, err := d.text(n, "actor_token")
	if err == nil && text != required {
		err = d.problem(n, "actor_token is %s; it can be %s, or be left out", quoted(text), required)
	}
	return err
}

// actorToken reads how a caller sends agents' tokens.
func (d *decoder) actorToken(f fields) (of caller.ActorToken, err error) {
	for _, key := range f.names("actor_token", "actor_audiences") {
		if len(d.content.Actors) == 0 {
			return of, d.problem(f[key], "no issuer has actors, so that no agent's token is accepted: add actors to one of the issuers, or leave %s out", key)
		}
	}
	if n := f["actor_token"]; n != nil {
		if err := d.required(n); err != nil {
			return of, err
		}
		of.Required = true
	}
	if n := f["actor_audiences"]; n != nil {
		of.Audiences, err = d.texts(n, "actor_audiences", func(name string) error {
			if len(name) > maxSubject {
				return fmt.Errorf("a name is longer than %d bytes", maxSubject)
			}
			return nil
		})
	}
	return of, err
}
