package actor

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/deputyauth/deputy/pkg/caller/token"
)

// Issuer says how an issuer's tokens name agents. The zero Issuer is none: see Check.
type Issuer struct {
	// Issuer is the "iss" of its tokens. A token.Issuer of that name has its keys.
	Issuer string
	// Audiences are the names that this server has at the issuer for agents' tokens. A caller can have names of its own besides, under which tokens that
	// it was given are taken from it, and from nobody else.
	Audiences []string
	// Types are the "typ" that agents' tokens may have; none means token.DefaultType.
	Types []string
	// Agent, Principal and Tenant make ids of claims. Agent is required; a token says nothing of what the others leave out.
	Agent, Principal, Tenant Template
	// MaxDepth is how many actors a token may name, the one that acts included; 0 means DefaultDepth.
	MaxDepth int
}

// How many actors a token may name, one inside the other.
const (
	DefaultDepth = 4
	MaxDepth     = 8
)

// Check refuses what agents cannot be known by. Errors are *token.IssuerError.
func (i Issuer) Check() error {
	bad := func(key, format string, args ...any) error {
		return &token.IssuerError{Key: key, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case i.Agent.IsZero():
		return bad("agent", "is missing: write which claim names the agent, such as {act.sub}")
	case i.MaxDepth < 0 || i.MaxDepth > MaxDepth:
		return bad("max_depth", "is %d; it can be 1 to %d", i.MaxDepth, MaxDepth)
	}
	if err := token.CheckNames("audiences", i.Audiences); err != nil {
		return err
	}
	return token.CheckTypes(i.Types, "does not prove that an agent acts")
}

// complete returns the issuer with what it leaves out.
func (i Issuer) complete() Issuer {
	if len(i.Types) == 0 {
		i.Types = []string{token.DefaultType}
	}
	if i.MaxDepth == 0 {
		i.MaxDepth = DefaultDepth
	}
	return i
}

// Mapped is a template of an issuer, of its agents' tokens or of its people's.
type Mapped struct {
	Issuer   string
	Template Template
}

// Templates lists the issuer's templates.
func (i Issuer) Templates() []Mapped {
	var all []Mapped
	for _, t := range []Template{i.Agent, i.Principal, i.Tenant} {
		if !t.IsZero() {
			all = append(all, Mapped{i.Issuer, t})
		}
	}
	return all
}

// Conflict refuses templates of different issuers that could come to one id. The error names both, and stands by itself.
func Conflict(all []Mapped) error {
	for n, one := range all {
		for _, other := range all[:n] {
			if one.Issuer == other.Issuer || !Overlap(one.Template, other.Template) {
				continue
			}
			return fmt.Errorf("the issuers %s and %s could make one id: the %s of the one is %q, and of the other %q. Begin each with a text of its own that does "+
				"not begin the other, such as acme/", other.Issuer, one.Issuer, one.Template.kind, other.Template, one.Template)
		}
	}
	return nil
}

// actorsOf reads the actors of a token, the one that acts first; none where it names none. It refuses more than most.
func actorsOf(claims *token.Claims, most int) ([]*token.Claims, error) {
	var all []*token.Claims
	for from := claims; from.Has("act"); {
		if len(all) == most {
			return nil, token.Refused(`names more than %d actors, one in the other ("act"), which is as many as are accepted of its issuer`, most)
		}
		next, err := from.Object("act")
		if err != nil {
			return nil, token.Refused(`has no usable "act": it %w`, err)
		}
		all = append(all, next)
		from = next
	}
	return all, nil
}

// optional returns a text that a token can have, cut to what a record holds of it.
func optional(from *token.Claims, name string) (string, error) {
	if !from.Has(name) || isNull(from.Raw(name)) {
		return "", nil
	}
	text, err := from.Text(name)
	if err != nil {
		return "", token.Refused("has no usable %q: it %w", name, err)
	}
	if len(text) > maxRecorded {
		text = strings.ToValidUTF8(text[:maxRecorded], "") + "…"
	}
	return text, nil
}

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

// maxRecorded is how much of a text of a token is recorded, in bytes.
const maxRecorded = 256
