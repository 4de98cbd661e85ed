package caller

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Signals say which security events a caller may transmit, and how it names those that they are about. A caller without them transmits none.
type Signals struct {
	// Issuer is the "iss" of its tokens, one of the issuers whose keys the server has.
	Issuer string
	// Audiences are the names that this server has at the transmitter: one of them has to be in a token's "aud".
	Audiences []string
	// Kinds are the events that take effect at once: some of SignalKinds. Others that would take access away wait for a person.
	Kinds authz.Names
	// MaxSubjects is how many live sessions and delegations an event about a whole tenant may stop; one that would stop more waits for a person.
	MaxSubjects int
	// Subjects are what the members of a subject name here: "user", "tenant". What is not among them is not looked at.
	Subjects map[string]SubjectName
}

// SignalKinds are the events that can take access away.
var SignalKinds = []string{"account-disabled", "credential-change", "risk-level-change", "session-revoked", "token-claims-change"}

// SubjectTypes are the types that a member of a subject can name.
var SubjectTypes = []string{authz.TypeUser, authz.TypeService, authz.TypeAgent, authz.TypeTenant, authz.TypeSession}

// The bounds of Signals.
const (
	// DefaultMaxSubjects is MaxSubjects where nothing is said.
	DefaultMaxSubjects = 100
	// MostSubjects is the highest MaxSubjects.
	MostSubjects = 10_000
	// MaxSubjectMembers is how many members of a subject can be named.
	MaxSubjectMembers = 16
)

// SubjectName says what a member of a subject names: the object of a type whose id is the prefix and the transmitter's identifier.
type SubjectName struct {
	Type, Prefix string
}

// placeholder stands for the transmitter's identifier.
const placeholder = "{id}"

// ParseSubjectName reads "user:{id}" or "tenant:okta-{id}". The identifier stands at the end, so that two identifiers are never one id. The
// error goes on after the words that name the text.
func ParseSubjectName(text string) (SubjectName, error) {
	objectType, rest, typed := strings.Cut(text, ":")
	prefix, ends := strings.CutSuffix(rest, placeholder)
	switch {
	case !typed || !ends || strings.ContainsAny(prefix, "{}"):
		return SubjectName{}, fmt.Errorf("is %q; write a type, a beginning if there is one, and %s for the transmitter's identifier, such as user:%[2]s "+
			"or tenant:okta-%[2]s", text, placeholder)
	case !slices.Contains(SubjectTypes, objectType):
		return SubjectName{}, fmt.Errorf("has the type %q; a signal can be about %s", objectType, strings.Join(SubjectTypes, ", "))
	}
	if _, err := authz.EncodeID(prefix + "x"); err != nil {
		return SubjectName{}, fmt.Errorf("has a beginning that no id can have: it %w", err)
	}
	return SubjectName{objectType, prefix}, nil
}

// EventToken is what a verified security event token (RFC 8417) says.
type EventToken struct {
	// Issuer and ID are its "iss" and "jti", which name it.
	Issuer, ID string
	// Audiences are its "aud".
	Audiences []string
	// Issued is its "iat", and Happened its "toe", zero where it has none.
	Issued, Happened time.Time
	// Leeway is how far the issuer's clock and this server's may differ.
	Leeway time.Duration
	// Subject is its "sub_id", nil where it has none.
	Subject json.RawMessage
	// Events are its events by URI: one or more.
	Events map[string]json.RawMessage
	// Digest is the SHA-256 digest of the payload as it was signed.
	Digest [32]byte
}
