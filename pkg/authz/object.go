package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The object types of the core schema (schema/core.zed). Deputy's own services write them.
const (
	TypeUser       = "user"
	TypeService    = "service"
	TypeAgent      = "agent"
	TypeTenant     = "tenant"
	TypeDelegation = "delegation"
	TypeSession    = "session"
)

// CoreTypes lists the object types of the core schema.
var CoreTypes = []string{TypeUser, TypeService, TypeAgent, TypeTenant, TypeDelegation, TypeSession}

// IsCore reports whether a type is one of the core schema.
func IsCore(objectType string) bool { return slices.Contains(CoreTypes, objectType) }

// ActsForPrincipal reports whether objects of a type act under Deputy's rule, for somebody: agents and delegations.
func ActsForPrincipal(objectType string) bool {
	return objectType == TypeAgent || objectType == TypeDelegation
}

// AgentID is the id of an object of type agent, encoded.
type AgentID string

// TenantID is the id of an object of type tenant, encoded.
type TenantID string

// DelegationID is the id of an object of type delegation.
type DelegationID string

// SessionID is the id of an object of type session.
type SessionID string

// Object returns the agent as an object.
func (id AgentID) Object() Object { return Object{TypeAgent, string(id)} }

// Object returns the tenant as an object.
func (id TenantID) Object() Object { return Object{TypeTenant, string(id)} }

// Object returns the delegation as an object.
func (id DelegationID) Object() Object { return Object{TypeDelegation, string(id)} }

// Object returns the session as an object.
func (id SessionID) Object() Object { return Object{TypeSession, string(id)} }

// Object is one node of the graph: a type of the schema and an encoded id. The zero Object names
// nothing.
type Object struct {
	Type string
	ID   string
}

// String returns "type:id" with the id as it is stored.
func (o Object) String() string { return o.Type + ":" + o.ID }

// IsZero reports whether the object names nothing.
func (o Object) IsZero() bool { return o == Object{} }

// Subject is the right-hand side of a relationship or of a check: an object, or all subjects that
// have a relation to it.
type Subject struct {
	Object
	// Relation is empty for the object itself.
	Relation string
}

// String returns "type:id" or "type:id#relation".
func (s Subject) String() string {
	if s.Relation == "" {
		return s.Object.String()
	}
	return s.Object.String() + "#" + s.Relation
}

// Principal is on whose behalf an agent acts: a user or a service.
type Principal struct{ Object }

// NewPrincipal returns the object as a principal, and whether it may be one: only a user or a service
// with a concrete id.
func NewPrincipal(o Object) (Principal, bool) {
	if (o.Type != TypeUser && o.Type != TypeService) || o.ID == "" || o.ID == "*" {
		return Principal{}, false
	}
	return Principal{o}, true
}

// Relationship is one edge of the graph as the engine stores it.
type Relationship struct {
	Resource Object
	Relation string
	Subject  Subject
	// Caveat is the caveat's name, or empty.
	Caveat string
	// CaveatContext is what was stored with the caveat: JSON values.
	CaveatContext map[string]any
	// ExpiresAt is zero for a relationship that does not expire.
	ExpiresAt time.Time
}

// String returns the relationship in SpiceDB's notation, without caveat context.
func (r Relationship) String() string {
	s := r.Resource.String() + "#" + r.Relation + "@" + r.Subject.String()
	if r.Caveat != "" {
		s += "[" + r.Caveat + "]"
	}
	if !r.ExpiresAt.IsZero() {
		s += "[expiration:" + r.ExpiresAt.UTC().Format(time.RFC3339Nano) + "]"
	}
	return s
}

// Limits on ids, in bytes.
const (
	// MaxIDBytes is SpiceDB's limit on a stored object id.
	MaxIDBytes = 1024
	// MaxOutsideIDBytes is the limit on an id from outside, in UTF-8, before it is encoded.
	MaxOutsideIDBytes = 512
)

// escape starts an encoded id, and an escaped byte within one.
const escape = '='

// storedPrefix is before a stored id that EncodeID does not come to by encoding, where it is shown or named.
const storedPrefix = "=stored:"

// EncodeID maps an identity from outside (an ordinary id, an email address, a SPIFFE id, a URL)
// injectively into SpiceDB's object-id alphabet [a-zA-Z0-9/_|\-=+].
//
// An id that lies in the alphabet and does not start with "=" is kept. Any other is "=" followed by
// the id with every byte outside [a-zA-Z0-9/_|\-+] as "=" and two upper-case hex digits: so
// "alice@example.com" becomes "=alice=40example=2Ecom". It refuses empty ids, "*", invalid UTF-8, and ids of more
// than MaxOutsideIDBytes bytes, or of more than MaxIDBytes once encoded, where a character that is not of the alphabet takes
// three bytes for each of its own.
//
// It also refuses ids that look like another one: with a blank at an end, with a space other than U+0020, or with a
// character that nobody sees, such as a control character, a zero-width space, a variation selector or a Hangul filler. Ids that
// differ in letters that look alike, or in whether an accent is a character of its own, are different ids.
//
// Others may store ids that nothing is encoded to, such as "=41", or "=2A", or one of a thousand letters. Those are
// named by "=stored:" and the id as it is stored, and no others are: "=stored:alice" is an id like any other, and not
// alice. So no two ids from outside are one stored id, and every stored id has a name.
func EncodeID(outside string) (string, error) {
	if stored, ok := strings.CutPrefix(outside, storedPrefix); ok && IsStoredID(stored) && !encodes(stored) {
		return stored, nil
	}
	return encode(outside)
}

// encode is EncodeID for ids that are encoded.
func encode(outside string) (string, error) {
	switch {
	case outside == "":
		return "", errors.New("is empty")
	case outside == "*":
		return "", errors.New(`must name one object, not "*"`)
	case len(outside) > MaxOutsideIDBytes:
		return "", fmt.Errorf("is %d bytes long, more than %d", len(outside), MaxOutsideIDBytes)
	case !utf8.ValidString(outside):
		return "", errors.New("is not valid UTF-8")
	}
	plain := outside[0] != escape
	if outside[0] == ' ' || outside[len(outside)-1] == ' ' {
		return "", errors.New("begins or ends with a blank")
	}
	for _, r := range outside {
		switch {
		case isInvisible(r):
			return "", fmt.Errorf("contains the invisible character %U", r)
		case r != ' ' && unicode.Is(unicode.Zs, r):
			return "", fmt.Errorf("contains the space %U; the only space in an id is U+0020", r)
		}
		plain = plain && (r == escape || passes(r))
	}
	if plain {
		return outside, nil
	}
	encoded := escapeID(outside)
	if len(encoded) > MaxIDBytes {
		return "", fmt.Errorf("takes %d bytes where it is stored, more than %d: each byte of a character other than letters and digits "+
			"of ASCII and /_|-+ takes three", len(encoded), MaxIDBytes)
	}
	return encoded, nil
}

// isInvisible reports whether nobody sees a character: what Unicode has for control and formatting, what it says is ignored
// where it is shown, and the Braille pattern without a dot.
func isInvisible(r rune) bool {
	return !unicode.IsGraphic(r) || unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) || r == '\u2800'
}

// DecodeID is the inverse of EncodeID: no two stored ids are shown as one, and EncodeID makes of what is shown the stored
// id again. A stored id that EncodeID does not come to by encoding is shown behind "=stored:", so that "=41" is not taken
// for the id "=41" from outside, which is stored as "==3D41". What cannot be a stored id is returned as it is, "*" among
// it.
func DecodeID(stored string) string {
	if stored == "" || stored[0] != escape && len(stored) <= MaxOutsideIDBytes {
		return stored
	}
	if outside, ok := decode(stored); ok {
		return outside
	}
	if !IsStoredID(stored) {
		return stored
	}
	return storedPrefix + stored
}

// encodes reports whether a stored id is what an id from outside is encoded to.
func encodes(stored string) bool {
	_, ok := decode(stored)
	return ok
}

// decode returns what is encoded to a stored id, if anything is.
func decode(stored string) (outside string, ok bool) {
	outside = stored
	if stored != "" && stored[0] == escape {
		if outside, ok = unescapeID(stored[1:]); !ok {
			return "", false
		}
	}
	// What begins like the name of a stored id may be one.
	back, err := EncodeID(outside)
	return outside, err == nil && back == stored
}

// unescapeID is the inverse of escapeID, without the escape at the beginning; ok is false for what escapeID does not
// make.
func unescapeID(rest string) (outside string, ok bool) {
	var b strings.Builder
	for len(rest) > 0 {
		if rest[0] != escape {
			b.WriteByte(rest[0])
			rest = rest[1:]
			continue
		}
		if len(rest) < 3 {
			return "", false
		}
		hi, lo := strings.IndexByte(hexDigits, rest[1]), strings.IndexByte(hexDigits, rest[2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		b.WriteByte(byte(hi<<4 | lo)) //nolint:gosec // two hex digits
		rest = rest[3:]
	}
	return b.String(), true
}

// IsStoredID reports whether the engine can hold an id: 1 to MaxIDBytes bytes of [a-zA-Z0-9/_|\-=+].
func IsStoredID(id string) bool {
	for i := range len(id) {
		if c := id[i]; c != escape && !passes(rune(c)) {
			return false
		}
	}
	return id != "" && len(id) <= MaxIDBytes
}

const hexDigits = "0123456789ABCDEF"

// passes reports whether a character stands for itself in an encoded id.
func passes(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.ContainsRune("/_|-+", c)
}

func escapeID(outside string) string {
	var b strings.Builder
	b.WriteByte(escape)
	for i := range len(outside) {
		c := outside[i]
		if passes(rune(c)) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte(escape)
		b.WriteByte(hexDigits[c>>4])
		b.WriteByte(hexDigits[c&0xf])
	}
	return b.String()
}
