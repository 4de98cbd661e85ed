package signal

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// about finds out what an event is about: its "sub_id" (RFC 9493), and of a complex one (SSF 1.0, section 3) the members that have a name here. A
// member that is missing is a wildcard, which the bounds of the transmitter narrow. A member without a name here, such as a device, would narrow
// the subject in a way that nobody can follow: beside a user or an agent it is not looked at, so that the event is about all of theirs.
func (r *Reading) about(t caller.EventToken, by *caller.Signals) (waits string, err error) {
	members, err := subjects(t.Subject)
	if err != nil {
		return "", err
	}
	var person, agent, tenant, session authz.Object
	var unnamed []string
	for _, name := range slices.Sorted(maps.Keys(members)) {
		as, named := by.Subjects[name]
		if !named {
			unnamed = append(unnamed, name)
			continue
		}
		id, err := identifier(name, members[name], t.Issuer)
		if err != nil {
			return "", err
		}
		to := map[string]*authz.Object{authz.TypeAgent: &agent, authz.TypeTenant: &tenant, authz.TypeSession: &session}[as.Type]
		if to == nil {
			to = &person
		}
		one := authz.Object{Type: as.Type, ID: as.Prefix + id}
		if as.Type == authz.TypeSession {
			if !authz.IsStoredID(one.ID) {
				return "", invalid(`names in "%s" a session whose id is malformed`, name)
			}
		} else if one.ID, err = authz.EncodeID(one.ID); err != nil {
			return "", invalid(`has a "%s" whose id %v`, name, err)
		}
		if !to.IsZero() && *to != one {
			return "", invalid("names two different subjects of one kind, %s and %s", authz.Show(*to), authz.Show(one))
		}
		*to = one
	}
	r.Tenant = authz.TenantID(tenant.ID)
	switch {
	case !session.IsZero() && (r.Act == End || person.IsZero() && agent.IsZero()):
		r.Target = session
	case !person.IsZero() && !agent.IsZero():
		r.Target = person
		waits = "it is about " + authz.Show(agent) + " acting for " + authz.Show(person) + ", and to apply it would stop all agents that act for " +
			authz.Show(person)
	case !person.IsZero():
		r.Target = person
	case !agent.IsZero():
		r.Target = agent
	case !tenant.IsZero():
		r.Target = tenant
		if len(unnamed) > 0 {
			waits = "it names " + strings.Join(unnamed, ", ") + ", which means nothing here, and to apply it would stop the whole tenant"
		}
	default:
		return "", invalid("is about nothing that has a name here: its transmitter's subjects name %s, and it has %s",
			strings.Join(slices.Sorted(maps.Keys(by.Subjects)), ", "), strings.Join(unnamed, ", "))
	}
	return waits, nil
}

// maxMembers is how many members a complex subject can have.
const maxMembers = 16

// subjects returns the members of a subject. One that is not complex is the user.
func subjects(raw json.RawMessage) (map[string]json.RawMessage, error) {
	members, err := object("sub_id", raw)
	if err != nil {
		return nil, err
	}
	switch format := word(raw, "format"); {
	case format == "":
		return nil, invalid(`has a "sub_id" without a "format"`)
	case format != "complex":
		return map[string]json.RawMessage{"user": raw}, nil
	}
	delete(members, "format")
	if len(members) == 0 || len(members) > maxMembers {
		return nil, invalid(`has a complex "sub_id" with %d members; it can have 1 to %d`, len(members), maxMembers)
	}
	return members, nil
}

func object(name string, raw json.RawMessage) (members map[string]json.RawMessage, err error) {
	if json.Unmarshal(raw, &members) != nil || members == nil {
		return nil, invalid("has no usable %q: it is not there, or is no object", name)
	}
	return members, nil
}

// identifier reads the identifier of a subject (RFC 9493, section 3.2). What is no identity is refused: an address can belong to somebody else
// tomorrow, and another issuer could give it to anybody.
func identifier(name string, raw json.RawMessage, issuer string) (string, error) {
	members, err := object(name, raw)
	if err != nil {
		return "", err
	}
	var field string
	switch format := word(raw, "format"); format {
	case "iss_sub":
		field = "sub"
		if by := word(raw, "iss"); by != issuer {
			return "", invalid(`names in "%s" a subject of the issuer %.200q; it can name subjects of its own issuer`, name, by)
		}
	case "opaque":
		field = "id"
	case "uri":
		field = "uri"
	case "aliases":
		return alias(name, members["identifiers"], issuer)
	default:
		return "", invalid(`names its "%s" in the format %.100q, which is no identity here; the formats are iss_sub, opaque, uri and aliases`, name, format)
	}
	id := word(raw, field)
	if id == "" {
		return "", invalid(`has a "%s" without a "%s"`, name, field)
	}
	return id, nil
}

// alias reads a list of identifiers of one subject: those of them that are identities have to be the same one.
func alias(name string, raw json.RawMessage, issuer string) (string, error) {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil || len(list) > maxMembers {
		return "", invalid(`has a "%s" whose identifiers are no list of up to %d`, name, maxMembers)
	}
	found := ""
	for _, one := range list {
		if word(one, "format") == "aliases" {
			return "", invalid(`has a "%s" with aliases in aliases`, name)
		}
		id, err := identifier(name, one, issuer)
		switch {
		case err != nil: // another one may be an identity
		case found != "" && found != id:
			return "", invalid(`has a "%s" with the identities %.100q and %.100q, which are different subjects here`, name, found, id)
		default:
			found = id
		}
	}
	if found == "" {
		return "", invalid(`has a "%s" none of whose identifiers is an identity here`, name)
	}
	return found, nil
}
