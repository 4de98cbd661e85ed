package actor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Kind is what a template makes ids of.
type Kind uint8

// The kinds.
const (
	// Agent is the agent that acts.
	Agent Kind = iota + 1
	// Principal is on whose behalf it acts. Its templates begin with the type: "user:" or "service:".
	Principal
	// Tenant is the tenant that it acts in.
	Tenant
)

// String returns the name of the kind, as the file of callers has it.
func (k Kind) String() string {
	return map[Kind]string{Agent: "agent", Principal: "principal", Tenant: "tenant"}[k]
}

// Template makes the id of an agent, a principal or a tenant of the claims of a token: a text with the names of claims in braces, such as
// "idp/{act.sub}". The zero Template makes none.
//
// It is injective: Parse reads the values of the claims back from the id. With one claim the value stands in the id as it is. With several, each
// is separated from the next by a text that begins with a punctuation mark, and those marks and "%" are written in the values as "%" and two hex
// digits: "{oid}@{tid}" makes "a%40b@c" of "a@b" and "c". It is immutable, and safe for concurrent use.
type Template struct {
	kind Kind
	text string
	// objectType is of the objects that the ids are of.
	objectType string
	// first is the text before the first claim, without the type, and all of the text where there is no claim.
	first  string
	fields []field
	// reserved are the bytes that values do not have in the id; empty where there is one claim.
	reserved string
}

// field is a claim, and the text that follows it.
type field struct {
	claim string
	then  string
}

// Bounds of templates.
const (
	maxTemplate = 256
	maxFields   = 4
	maxClaim    = 128
)

// ParseTemplate reads a template. The error goes on after the name of the kind.
func ParseTemplate(kind Kind, text string) (Template, error) {
	t := Template{kind: kind, text: text, objectType: kind.String()}
	if text == "" {
		return t, fmt.Errorf("is empty")
	}
	if len(text) > maxTemplate {
		return t, fmt.Errorf("has %d bytes; it can have %d", len(text), maxTemplate)
	}
	rest := text
	if kind == Principal {
		var typed bool
		if t.objectType, rest, typed = strings.Cut(text, ":"); !typed || t.objectType != authz.TypeUser && t.objectType != authz.TypeService {
			return t, fmt.Errorf("is %q, which does not begin with the type of the principal: write user:… or service:…, such as user:{sub}", text)
		}
	} else if without, typed := strings.CutPrefix(text, t.objectType+":"); typed {
		return t, fmt.Errorf("is %q; write it without the type: %s", text, without)
	}
	literal, rest, more := strings.Cut(rest, "{")
	t.first = literal
	for more {
		var f field
		var closed bool
		if f.claim, rest, closed = strings.Cut(rest, "}"); !closed {
			return t, fmt.Errorf("is %q, in which a { is not closed", text)
		}
		if err := checkClaim(f.claim); err != nil {
			return t, err
		}
		f.then, rest, more = strings.Cut(rest, "{")
		t.fields = append(t.fields, f)
	}
	return t.checked()
}

// checked returns the template with what its values must not have. It refuses one that could make one id of different claims, or none at all.
func (t Template) checked() (Template, error) {
	if strings.ContainsRune(t.first, '}') || slices.ContainsFunc(t.fields, func(f field) bool { return strings.ContainsRune(f.then, '}') }) {
		return t, fmt.Errorf("is %q, in which a } closes nothing", t.text)
	}
	if len(t.fields) > maxFields {
		return t, fmt.Errorf("names %d claims; it can name %d", len(t.fields), maxFields)
	}
	if len(t.fields) == 0 && t.kind != Tenant {
		return t, fmt.Errorf("is %q, which names no claim, so that all tokens of the issuer would be one %s's: write one such as {sub}", t.text, t.kind)
	}
	for i, f := range t.fields[:max(0, len(t.fields)-1)] {
		if f.then == "" || !separates(f.then[0]) {
			return t, fmt.Errorf("is %q, in which nothing separates {%s} from {%s}, so that different claims could make one id: put a text between them that "+
				"begins with one of %s", t.text, f.claim, t.fields[i+1].claim, separators)
		}
		t.reserved += f.then[:1]
	}
	if t.reserved != "" {
		t.reserved += "%"
	}
	var sample strings.Builder
	sample.WriteString(t.first)
	for _, f := range t.fields {
		sample.WriteString("a" + f.then) // as with any value
	}
	literal := sample.String()
	if strings.HasPrefix(literal, "=") {
		return t, fmt.Errorf(`is %q; no id of a template begins with "=", which begins the names of ids as they are stored`, t.text)
	}
	if _, err := authz.EncodeID(literal); err != nil {
		return t, fmt.Errorf("is %q, whose ids cannot be used: an id %w", t.text, err)
	}
	return t, nil
}

// separators are the marks that texts between claims begin with: those that stand in no escape.
const separators = "- . _ ~ : / | , ; @ + ! # = & $"

func separates(b byte) bool { return b != ' ' && strings.IndexByte(separators, b) >= 0 }

// unfit are claims that do not name anybody, or that an issuer does not answer for, with the reason.
var unfit = map[string]string{
	"exp": "is a time", "nbf": "is a time", "iat": "is a time", "auth_time": "is a time",
	"aud": "says whom the token is for", "jti": "names the token, and not who acts", "txn": "names a transaction, and not who acts",
	"nonce": "names a login, and not who acts", "sid": "names a login, and not who acts", "cnf": "is a proof, and names nobody",
	"scope": "says what a token may be used for, and names nobody", "scp": "says what a token may be used for, and names nobody",
	"may_act": "says who may become the actor, and not who is", "sub_profile": "says what kind of actor it is, and not which",
}

// changeable are claims that people can choose or that pass from one person to another.
var changeable = []string{
	"email", "emails", "mail", "preferred_username", "username", "user_name", "name", "given_name", "family_name", "middle_name", "nickname", "upn",
	"unique_name", "verified_primary_email", "verified_secondary_email", "phone_number", "address", "picture", "profile", "website", "display_name", "login_hint",
}

// checkClaim refuses a claim that is no identity. The error goes on after the name of the kind.
func checkClaim(name string) error {
	in, inner := "", name
	if of, nested := strings.CutPrefix(name, "act."); nested {
		in, inner = "act.", of
	}
	switch {
	case inner == "" || len(name) > maxClaim || strings.ContainsFunc(inner, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }):
		return fmt.Errorf("names the claim %.200q; a claim is named as {sub}, or {act.sub} for one of the actor's", name)
	case inner == "act" && in == "":
		return fmt.Errorf("names the claim act, which is an object: name one of its members, such as {act.sub}")
	case in != "" && (inner == "act" || strings.HasPrefix(inner, "act.")):
		return fmt.Errorf("names the claim %s, which is of an earlier actor: those are recorded, and are nobody's identity (RFC 8693, section 4.1)", name)
	case slices.Contains(changeable, inner):
		return fmt.Errorf("names the claim %s, which people can change or pass on, so that it would name another person tomorrow: use one that the issuer "+
			"never gives away again, such as {%ssub}", name, in)
	}
	if why, found := unfit[inner]; found {
		return fmt.Errorf("names the claim %s, which %s", name, why)
	}
	return nil
}

// IsZero reports whether it is the zero Template.
func (t Template) IsZero() bool { return t.kind == 0 }

// String returns the template as it is written.
func (t Template) String() string { return t.text }

// ObjectType is the type of the objects whose ids it makes.
func (t Template) ObjectType() string { return t.objectType }

// OfActor reports whether it names a claim of the actor's ("act.sub").
func (t Template) OfActor() bool {
	return slices.ContainsFunc(t.fields, func(f field) bool { return strings.HasPrefix(f.claim, "act.") })
}

// names reports whether it names a claim.
func (t Template) names(claim string) bool {
	return slices.ContainsFunc(t.fields, func(f field) bool { return f.claim == claim })
}

// Texts are the claims of a token, or of an actor in it, as *token.Claims has them.
type Texts interface {
	// Text returns a claim that is a text and not empty. The error goes on after the words that name the claim.
	Text(name string) (string, error)
}

// Render makes the id, as callers know it, of the claims of a token and of its actor, which is nil where the token has none. It refuses a token
// that lacks a claim, or whose claims make no id. The error goes on after the words that name the token.
func (t Template) Render(claims, actor Texts) (string, error) {
	var id strings.Builder
	id.WriteString(t.first)
	for _, f := range t.fields {
		from, name := claims, f.claim
		if inner, nested := strings.CutPrefix(f.claim, "act."); nested {
			from, name = actor, inner
		}
		if from == nil {
			return "", fmt.Errorf("has no %q, of which the %s is made: it is missing", f.claim, t.kind)
		}
		value, err := from.Text(name)
		if err != nil {
			return "", fmt.Errorf("has no usable %q, of which the %s is made: it %w", f.claim, t.kind, err)
		}
		t.write(&id, value)
		id.WriteString(f.then)
	}
	if strings.HasPrefix(id.String(), "=") {
		return "", fmt.Errorf(`has a %s whose id would begin with "=", which no id of a token does`, t.kind)
	}
	return id.String(), nil
}

// write writes a value, with the bytes that separate escaped.
func (t Template) write(id *strings.Builder, value string) {
	if t.reserved == "" {
		id.WriteString(value)
		return
	}
	for i := range len(value) {
		if b := value[i]; strings.IndexByte(t.reserved, b) >= 0 {
			fmt.Fprintf(id, "%%%02X", b)
		} else {
			id.WriteByte(b)
		}
	}
}

// Parse reads back the values of the claims that an id was made of, in the order of the template; false where it was made of none.
func (t Template) Parse(id string) ([]string, bool) {
	rest, found := strings.CutPrefix(id, t.first)
	if !found || strings.HasPrefix(id, "=") {
		return nil, false
	}
	values := make([]string, 0, len(t.fields))
	for i, f := range t.fields {
		var value string
		if i == len(t.fields)-1 {
			value, found = strings.CutSuffix(rest, f.then)
			rest = ""
		} else if value, rest, found = strings.Cut(rest, f.then[:1]); found {
			rest, found = strings.CutPrefix(rest, f.then[1:])
		}
		if !found {
			return nil, false
		}
		if value, found = t.unescape(value); !found || value == "" {
			return nil, false
		}
		values = append(values, value)
	}
	return values, rest == ""
}

// unescape is the inverse of write: false for what write does not come to.
func (t Template) unescape(written string) (string, bool) {
	if t.reserved == "" {
		return written, true
	}
	var value strings.Builder
	for i := 0; i < len(written); i++ {
		b := written[i]
		switch {
		case b != '%' && strings.IndexByte(t.reserved, b) >= 0:
			return "", false
		case b != '%':
			value.WriteByte(b)
		default:
			at := slices.IndexFunc([]byte(t.reserved), func(r byte) bool { return strings.HasPrefix(written[i:], fmt.Sprintf("%%%02X", r)) })
			if at < 0 {
				return "", false
			}
			value.WriteByte(t.reserved[at])
			i += 2
		}
	}
	return value.String(), true
}

// Overlap reports whether two templates of different issuers could come to one id: if the text before the first claim of one begins with that of the
// other. Two that name no claim overlap where they are the same.
func Overlap(a, b Template) bool {
	if a.IsZero() || b.IsZero() || a.objectType != b.objectType {
		return false
	}
	switch {
	case len(a.fields) == 0 && len(b.fields) == 0:
		return a.first == b.first
	case len(a.fields) == 0:
		return strings.HasPrefix(a.first, b.first)
	case len(b.fields) == 0:
		return strings.HasPrefix(b.first, a.first)
	default:
		return strings.HasPrefix(a.first, b.first) || strings.HasPrefix(b.first, a.first)
	}
}
