package person

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// Consent says how people consent by tokens of an issuer. The zero Consent is none: see Issuer.Check.
type Consent struct {
	// Audiences are the names that this server has at the issuer for these tokens: one of them has to be in a token's "aud".
	Audiences []string
	// Types are the "typ" that these tokens may have; none means token.DefaultType.
	Types []string
	// Scope is what a scope begins with by which a token consents: "deputy:delegate". Empty where no scope does.
	Scope string
	// Details is the type of the authorization details by which a token consents: "deputy_delegation". Empty where none do.
	Details string
	// Clients are the clients (client_id or azp) that people consent with; none means any.
	Clients []string
}

// What a consent can name at most.
const (
	maxGrants = 500
	maxTTL    = 10 * 365 * 24 * time.Hour
)

// terms reads what a token consents to: exactly one delegation. Errors go on after the words that name the token.
func (c *Consent) terms(claims members) (*caller.Consent, error) {
	var found []*caller.Consent
	if c.Details != "" && claims.Has("authorization_details") {
		some, err := c.fromDetails(claims.Raw("authorization_details"))
		if err != nil {
			return nil, fmt.Errorf(`has "authorization_details" that %w`, err)
		}
		found = append(found, some...)
	}
	if c.Scope != "" {
		scopes, err := claims.Scopes()
		if err != nil {
			return nil, err
		}
		for _, one := range scopes {
			rest, is := strings.CutPrefix(one, c.Scope)
			if !is || rest != "" && rest[0] != ':' {
				continue
			}
			terms, err := parseScope(rest)
			if err != nil {
				return nil, fmt.Errorf("has the scope %.200q, which %w", one, err)
			}
			found = append(found, terms)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("consents to nothing: it has no %s", c.forms())
	default:
		return nil, fmt.Errorf("consents to %d delegations, and one is all that a token is good for", len(found))
	}
}

// forms is what a token consents by, in words.
func (c *Consent) forms() string {
	scope, details := fmt.Sprintf("scope that begins with %q", c.Scope+":"), fmt.Sprintf("authorization_details of the type %q", c.Details)
	switch {
	case c.Details == "":
		return scope
	case c.Scope == "":
		return details
	default:
		return details + ", and no " + scope
	}
}

// members are the claims of a token.
type members interface {
	Has(name string) bool
	Raw(name string) json.RawMessage
	Scopes() ([]string, error)
}

// details are authorization details of our type. RFC 9396 gives "type" and "locations" their meaning, and leaves the rest to the type.
type details struct {
	Type        string   `json:"type"`
	Locations   []string `json:"locations"`
	Agent       string   `json:"agent"`
	Tenant      string   `json:"tenant"`
	Scope       []string `json:"scope"`
	Unscoped    bool     `json:"unscoped"`
	AllowDirect bool     `json:"allow_direct"`
	TTL         *int64   `json:"ttl"`
}

// fromDetails reads the authorization details that are of our type. The error goes on after the words that name them.
func (c *Consent) fromDetails(raw json.RawMessage) ([]*caller.Consent, error) {
	var all []json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil || all == nil {
		return nil, errors.New("are no array")
	}
	var found []*caller.Consent
	for _, one := range all {
		var of struct {
			Type *string `json:"type"`
		}
		if err := json.Unmarshal(one, &of); err != nil || of.Type == nil {
			return nil, errors.New(`have an element without a "type"`)
		}
		if *of.Type != c.Details {
			continue
		}
		terms, err := c.fromDetail(one)
		if err != nil {
			return nil, fmt.Errorf("are of the type %q, and whose element %w", c.Details, err)
		}
		found = append(found, terms)
	}
	return found, nil
}

func (c *Consent) fromDetail(raw json.RawMessage) (*caller.Consent, error) {
	// encoding/json takes names in any case for one, and this does not.
	var names map[string]json.RawMessage
	if err := json.Unmarshal(raw, &names); err != nil {
		return nil, errors.New("is no object")
	}
	for name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("has the member %.100q, which is not known; the members are %s", name, strings.Join(known, ", "))
		}
	}
	var d details
	if err := json.Unmarshal(raw, &d); err != nil {
		wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
		if !ok {
			return nil, errors.New("cannot be read")
		}
		return nil, fmt.Errorf("has a %s that is a %s", wrong.Field, wrong.Value)
	}
	if d.Locations != nil && !slices.ContainsFunc(d.Locations, func(one string) bool { return slices.Contains(c.Audiences, one) }) {
		return nil, fmt.Errorf("is not for this server: its locations have none of %q", c.Audiences)
	}
	terms := &caller.Consent{Unscoped: d.Unscoped, AllowDirect: d.AllowDirect}
	if err := name(terms, d.Agent, d.Tenant); err != nil {
		return nil, err
	}
	for _, one := range d.Scope {
		if err := grant(terms, one); err != nil {
			return nil, err
		}
	}
	if d.TTL != nil {
		if err := lasts(terms, *d.TTL); err != nil {
			return nil, err
		}
	}
	return terms, nil
}

// known are the members of details.
var known = []string{"type", "locations", "agent", "tenant", "scope", "unscoped", "allow_direct", "ttl"}

// parseScope reads what follows the beginning of a scope: ":AGENT:TENANT", and then ":unscoped", ":direct", ":ttl=SECONDS" and ":on=GRANT", in any
// order. Each part is percent-encoded where it has a colon, a percent sign or what a scope cannot have. The error goes on after "which".
func parseScope(rest string) (*caller.Consent, error) {
	parts := strings.Split(strings.TrimPrefix(rest, ":"), ":")
	if len(parts) < 2 {
		return nil, errors.New("names no agent and tenant: it has to go on with :AGENT:TENANT")
	}
	for i, part := range parts {
		var err error
		if parts[i], err = url.PathUnescape(part); err != nil {
			return nil, fmt.Errorf("has the part %.100q, in which a percent sign is not followed by two hex digits", part)
		}
	}
	terms := &caller.Consent{}
	if err := name(terms, parts[0], parts[1]); err != nil {
		return nil, err
	}
	var once []string
	for _, part := range parts[2:] {
		key, value, valued := strings.Cut(part, "=")
		if key != "on" && slices.Contains(once, key) {
			return nil, fmt.Errorf("says %s twice", key)
		}
		once = append(once, key)
		switch {
		case key == "unscoped" && !valued:
			terms.Unscoped = true
		case key == "direct" && !valued:
			terms.AllowDirect = true
		case key == "ttl" && valued:
			seconds, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("has the ttl %.50q, which is no number of seconds", value)
			}
			if err := lasts(terms, seconds); err != nil {
				return nil, err
			}
		case key == "on" && valued:
			if err := grant(terms, value); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("has the part %.100q, which is not known; the parts after agent and tenant are unscoped, direct, ttl=SECONDS and on=GRANT", part)
		}
	}
	return terms, nil
}

// name sets the agent and the tenant, by ids as callers know them.
func name(terms *caller.Consent, agent, tenant string) error {
	var err error
	if terms.Agent, err = authz.NewAgentID(agent); err != nil {
		return fmt.Errorf("names no agent: its id %w", unencoded(agent))
	}
	if terms.Tenant, err = authz.NewTenantID(tenant); err != nil {
		return fmt.Errorf("names no tenant: its id %w", unencoded(tenant))
	}
	return nil
}

// unencoded is why an id is none, to go on after the words that name it.
func unencoded(id string) error {
	_, err := authz.EncodeID(id)
	return err
}

// grant adds a grant, as TYPE:ID#RELATION with the id as callers know it.
func grant(terms *caller.Consent, text string) error {
	objectType, rest, typed := strings.Cut(text, ":")
	at := strings.LastIndexByte(rest, '#')
	if !typed || objectType == "" || at < 1 || at == len(rest)-1 {
		return fmt.Errorf("has the grant %.200q, which is not of the form document:plan#reader", text)
	}
	id, err := authz.EncodeID(rest[:at])
	if err != nil {
		return fmt.Errorf("has the grant %.200q, whose id %w", text, err)
	}
	if len(terms.Scope) == maxGrants {
		return fmt.Errorf("has more than %d grants", maxGrants)
	}
	terms.Scope = append(terms.Scope, caller.Grant{Resource: authz.Object{Type: objectType, ID: id}, Relation: rest[at+1:]})
	return nil
}

// lasts sets how long the delegation may last.
func lasts(terms *caller.Consent, seconds int64) error {
	if seconds < 1 || seconds > int64(maxTTL/time.Second) {
		return fmt.Errorf("has a ttl of %d s; it can be 1 to %d", seconds, int64(maxTTL/time.Second))
	}
	terms.TTL = time.Duration(seconds) * time.Second
	return nil
}
