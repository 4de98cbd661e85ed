package token

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Issuer is an issuer of tokens, with how its tokens are verified. The zero Issuer is none: see Check.
type Issuer struct {
	// Issuer is the "iss" of its tokens, compared as it stands.
	Issuer string `json:"issuer" yaml:"issuer"`
	// Audiences are the names that this server has at the issuer: one of them has to be in a token's "aud". They are of tokens that prove who calls:
	// there can be none where OtherPurposes is set.
	Audiences []string `json:"audiences" yaml:"audiences"`
	// Algorithms are those that its tokens may be signed with: some of Algorithms.
	Algorithms []string `json:"algorithms" yaml:"algorithms"`
	// Types are the "typ" that its tokens may have in their header; none means DefaultType. PlainType stands for a token that says no more than
	// that it is one, and for one without a "typ".
	Types []string `json:"types,omitempty" yaml:"types,omitempty"`
	// JWKSURL is where its keys are, an https URL. Without it and JWKSFile, the issuer is asked (OpenID Connect Discovery).
	JWKSURL string `json:"jwks_url,omitempty" yaml:"jwks_url,omitempty"`
	// JWKSFile is a file with its keys, which is read again when it changes.
	JWKSFile string `json:"jwks_file,omitempty" yaml:"jwks_file,omitempty"`
	// Leeway is how far the issuer's clock and this server's may differ, at most MaxLeeway; 0 means DefaultLeeway.
	Leeway time.Duration `json:"leeway,omitempty" yaml:"leeway,omitempty"`
	// Stale is for how long the last keys are used while the issuer gives none, MinStale to MaxStale; 0 means DefaultStale.
	Stale time.Duration `json:"stale,omitempty" yaml:"stale,omitempty"`

	// OtherPurposes says that tokens of the issuer are read for something else than who calls: see Reader.
	OtherPurposes bool `json:"-" yaml:"-"`
	// LoopbackHTTP lets keys come over plain HTTP from this machine. It is for tests, and no setting.
	LoopbackHTTP bool `json:"-" yaml:"-"`
}

// What an Issuer leaves out, and how far its times may go.
const (
	DefaultType   = "at+jwt"
	PlainType     = "JWT"
	DefaultLeeway = 30 * time.Second
	MaxLeeway     = time.Minute
	DefaultStale  = time.Hour
	MinStale      = 10 * time.Minute
	MaxStale      = 24 * time.Hour
)

// MaxIssuers is how many issuers a Verifier can have.
const MaxIssuers = 64

// Algorithms are those that an Issuer can name. There is none of a shared secret (HS256), because a server that verifies such a token can
// also make one.
var Algorithms = []string{
	string(jose.RS256), string(jose.RS384), string(jose.RS512), string(jose.PS256), string(jose.PS384), string(jose.PS512),
	string(jose.ES256), string(jose.ES384), string(jose.ES512), string(jose.EdDSA),
}

// IssuerError says what is wrong with an Issuer.
type IssuerError struct {
	// Key is the field at fault, as the file of callers names it: "jwks_url".
	Key string
	// Message goes on after the key.
	Message string
}

// Error returns the key and the message.
func (e *IssuerError) Error() string { return e.Key + " " + e.Message }

// Check refuses what tokens cannot be verified by. It reads no file and asks nobody. Errors are *IssuerError.
func (i Issuer) Check() error {
	bad := func(key, format string, args ...any) error {
		return &IssuerError{Key: key, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case i.Issuer == "":
		return bad("issuer", `is missing: write the "iss" that the issuer's tokens have, such as https://login.example.com`)
	case len(i.Issuer) > maxText:
		return bad("issuer", "has %d bytes; it can have %d", len(i.Issuer), maxText)
	case len(i.Audiences) == 0 && !i.OtherPurposes:
		return bad("audiences", `is missing: write the names, one or more, that this server has at the issuer. A token is accepted only if its "aud" has one of `+
			"them, so that no token for another service is accepted here")
	case len(i.Algorithms) == 0:
		return bad("algorithms", "is missing: write those that the issuer signs with, some of %s", strings.Join(Algorithms, ", "))
	case i.JWKSURL != "" && i.JWKSFile != "":
		return bad("jwks_file", "and jwks_url are both set: an issuer's keys come from one place")
	case i.Leeway < 0 || i.Leeway > MaxLeeway:
		return bad("leeway", "is %s; it can be up to %s", i.Leeway, MaxLeeway)
	case i.Stale != 0 && (i.Stale < MinStale || i.Stale > MaxStale):
		return bad("stale", "is %s; it can be %s to %s", i.Stale, MinStale, MaxStale)
	}
	for _, name := range i.Algorithms {
		switch {
		case slices.Contains(Algorithms, name):
		case name == "none":
			return bad("algorithms", `has "none": a token without a signature proves nothing; the algorithms are %s`, strings.Join(Algorithms, ", "))
		case strings.HasPrefix(name, "HS"):
			return bad("algorithms", "has %q, which signs with a shared secret: anyone who can verify such a token can also make one. The algorithms are %s", name,
				strings.Join(Algorithms, ", "))
		default:
			return bad("algorithms", "has %q; the algorithms are %s", name, strings.Join(Algorithms, ", "))
		}
	}
	if err := CheckNames("audiences", i.Audiences); err != nil {
		return err
	}
	if err := CheckTypes(i.Types, "does not prove who calls"); err != nil {
		return err
	}
	switch {
	case i.JWKSURL != "":
		if _, err := i.address(i.JWKSURL); err != nil {
			return bad("jwks_url", "%v", err)
		}
	case i.JWKSFile == "":
		if u, err := i.address(i.Issuer); err != nil || u.RawQuery != "" || u.Fragment != "" {
			return bad("jwks_url", "is missing, and so is jwks_file: set one of them, because the issuer cannot be asked where its keys are unless it is an https URL")
		}
	}
	return nil
}

// CheckNames refuses a list that has too many names, or one that no token has. Errors are *IssuerError about the key.
func CheckNames(key string, names []string) error {
	if len(names) > maxNames {
		return &IssuerError{Key: key, Message: fmt.Sprintf("has %d names; it can have %d", len(names), maxNames)}
	}
	if slices.ContainsFunc(names, func(name string) bool { return name == "" || len(name) > maxText }) {
		return &IssuerError{Key: key, Message: fmt.Sprintf("has a name that is empty or has more than %d bytes", maxText)}
	}
	return nil
}

// notIdentities are types of tokens that do not say who somebody is, with what they are.
var notIdentities = map[string]string{
	eventType: "says that something has happened", "logout+jwt": "ends a login", "dpop+jwt": "proves that a client has a key",
	"oauth-id-jag+jwt": "is for an authorization server, which makes a token of it",
}

// CheckTypes refuses types ("typ") by which no token says who somebody is. The words go on after "such a token …, and", and say what it is not good
// for. Errors are *IssuerError about the key "types".
func CheckTypes(types []string, words string) error {
	if err := CheckNames("types", types); err != nil {
		return err
	}
	for _, name := range types {
		switch what := notIdentities[mediaType(name)]; {
		case what != "":
			return &IssuerError{Key: "types", Message: fmt.Sprintf("has %q: such a token %s, and %s", name, what, words)}
		case mediaType(name) == "":
			return &IssuerError{
				Key: "types", Message: fmt.Sprintf("has %q, whose name is empty; write %q for a token that says no more than that it is one", name, PlainType),
			}
		}
	}
	return nil
}

// address reads a URL that keys may come from.
func (i Issuer) address(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil:
		return nil, fmt.Errorf("is %q, which is no URL of a host without a password; write one such as https://login.example.com/keys", text)
	case !i.mayAsk(u):
		return nil, fmt.Errorf("is %q; keys that decide who may call come over https only", text)
	}
	return u, nil
}

// mayAsk reports whether keys may come from a URL.
func (i Issuer) mayAsk(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || i.LoopbackHTTP && u.Scheme == "http" && ip != nil && ip.IsLoopback()
}

// complete returns the issuer with what it leaves out.
func (i Issuer) complete() Issuer {
	if len(i.Types) == 0 {
		i.Types = []string{DefaultType}
	}
	if i.Leeway == 0 {
		i.Leeway = DefaultLeeway
	}
	if i.Stale == 0 {
		i.Stale = DefaultStale
	}
	return i
}

// mediaType returns a "typ" as it is compared: RFC 7515, section 4.1.9, lets "application/" be left out, and media types know no case.
func mediaType(typ string) string {
	return strings.TrimPrefix(strings.ToLower(typ), "application/")
}

// maxText is how long an "iss", a "sub" and other texts of a token can be, in bytes, and maxNames how many audiences and types an issuer has.
const (
	maxText  = 1024
	maxNames = 16
)
