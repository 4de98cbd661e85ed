package caller

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// saying is a verifier for which every token but the one "a.wrong.one" says the same.
type saying Token

// Verify is Verifier's.
func (s saying) Verify(_ context.Context, token string) (Token, error) {
	if token == "a.wrong.one" {
		return Token{}, authz.Errorf(authz.Unavailable, "", "the issuer's keys cannot be had")
	}
	return Token(s), nil
}

// certificate is one that says the same at any time, or fails.
type certificate struct {
	says Identity
	err  error
}

// Verify is Certificate's.
func (c certificate) Verify(time.Time) (Identity, error) { return c.says, c.err }

// Authorities is Certificate's.
func (certificate) Authorities() any { return nil }

// Digest is Certificate's.
func (certificate) Digest() [sha256.Size]byte { return [sha256.Size]byte{} }

func keyed(id, key string) Credential { return Credential{ID: id, Key: sha256.Sum256([]byte(key))} }

// named is a caller with credentials.
func named(name string, credentials ...Credential) *Caller {
	return &Caller{Name: name, Credentials: credentials}
}

// TestIdentify: one bearer token decides alone where there is one; else a certificate does, by its SPIFFE id where it has one.
func TestIdentify(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ending := keyed("old", "ending")
	ending.Expires = now
	lasting := keyed("new", "lasting")
	lasting.Expires = now.Add(1)
	gone := Credential{ID: "gone", SPIFFE: "spiffe://example.org/gone", Expires: now}
	b, err := NewBook([]*Caller{
		named("keys", keyed("k", "key"), keyed("j", "a.b.c"), ending, lasting),
		named("tokens", Credential{ID: "t", Issuer: "https://login.example.com", Subject: "billing"}),
		named("ids", Credential{ID: "s", SPIFFE: "spiffe://example.org/billing"}, gone),
		named("names", Credential{ID: "d", DNS: "billing.example.com"}, Credential{ID: "e", DNS: "b.example.com"}),
		named("others", Credential{ID: "o", DNS: "audit.example.com"}),
		named("empty", keyed("e", "")),
	}, saying{Issuer: "https://login.example.com", Subject: "billing"})
	if err != nil {
		t.Fatal(err)
	}
	strangers, err := NewBook(b.Callers, saying{Issuer: "https://login.example.com", Subject: "another"})
	if err != nil {
		t.Fatal(err)
	}
	without, err := NewBook(b.Callers, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := certificate{says: Identity{SPIFFE: "spiffe://example.org/billing", DNS: []string{"audit.example.com"}}}
	named := func(names ...string) Certificate { return certificate{says: Identity{DNS: names}} }
	bad := certificate{err: authz.Errorf(authz.Unauthenticated, authz.ReasonUnauthenticated, "the certificate is over")}
	for name, c := range map[string]struct {
		book  *Book
		proof Proof
		want  string
	}{
		"nothing":                             {b, Proof{}, ""},
		"a key":                               {b, Proof{Bearers: 1, Bearer: "key"}, "keys"},
		"a key that looks like a token":       {b, Proof{Bearers: 1, Bearer: "a.b.c"}, "keys"},
		"a key before a certificate":          {b, Proof{Bearers: 1, Bearer: "key", Certificate: id}, "keys"},
		"a key in a book that is nil":         {nil, Proof{Bearers: 1, Bearer: "key"}, ""},
		"a key in the zero book":              {&Book{}, Proof{Bearers: 1, Bearer: "key"}, ""},
		"a certificate in the zero book":      {&Book{}, Proof{Certificate: id}, ""},
		"a key that ends now":                 {b, Proof{Bearers: 1, Bearer: "ending"}, ""},
		"a key that ends next":                {b, Proof{Bearers: 1, Bearer: "lasting"}, "keys"},
		"an unknown key":                      {b, Proof{Bearers: 1, Bearer: "other"}, ""},
		"an unknown key beside a certificate": {b, Proof{Bearers: 1, Bearer: "other", Certificate: id}, ""},
		"an empty key beside a certificate":   {b, Proof{Bearers: 1, Certificate: id}, ""},
		"two keys":                            {b, Proof{Bearers: 2, Bearer: "key", Certificate: id}, ""},
		"a token":                             {b, Proof{Bearers: 1, Bearer: "x.y.z", Certificate: id}, "tokens"},
		"a token of nobody's":                 {strangers, Proof{Bearers: 1, Bearer: "x.y.z"}, ""},
		"a token where none is taken":         {without, Proof{Bearers: 1, Bearer: "x.y.z", Certificate: id}, ""},
		"a SPIFFE id before names":            {b, Proof{Certificate: id}, "ids"},
		"a SPIFFE id that ends now":           {b, Proof{Certificate: certificate{says: Identity{SPIFFE: gone.SPIFFE}}}, ""},
		"a foreign SPIFFE id beside a name": {b, Proof{Certificate: certificate{says: Identity{
			SPIFFE: "spiffe://example.org/x", DNS: []string{"billing.example.com"},
		}}}, ""},
		"a name":                  {b, Proof{Certificate: named("x.example.com", "Billing.Example.com")}, "names"},
		"two names of one":        {b, Proof{Certificate: named("billing.example.com", "b.example.com")}, "names"},
		"names of two":            {b, Proof{Certificate: named("billing.example.com", "audit.example.com")}, ""},
		"names of nobody's":       {b, Proof{Certificate: named("x.example.com")}, ""},
		"a certificate of nobody": {b, Proof{Certificate: named()}, ""},
		"a bad certificate":       {b, Proof{Certificate: bad}, ""},
	} {
		who, err := c.book.Identify(t.Context(), c.proof, now)
		switch {
		case c.want == "" && (who != nil || authz.KindOf(err) != authz.Unauthenticated || reasonOf(err) != authz.ReasonUnauthenticated):
			t.Errorf("%s: %v, %v, want nobody", name, who, err)
		case c.want != "" && (err != nil || who.Name != c.want):
			t.Errorf("%s: %v, %v, want %s", name, who, err, c.want)
		}
	}
	if who, err := b.Identify(t.Context(), Proof{Bearers: 1, Bearer: "a.wrong.one", Certificate: id}, now); who != nil || authz.KindOf(err) != authz.Unavailable {
		t.Errorf("a token that cannot be verified now: %v, %v", who, err)
	}
}

// TestNewBookRefuses: what would make a proof ambiguous, or a caller one that cannot be told apart, is no book.
func TestNewBookRefuses(t *testing.T) {
	t.Parallel()
	subject := Credential{ID: "t", Issuer: "https://login.example.com", Subject: "s"}
	for name, c := range map[string]struct {
		callers []*Caller
		want    string
	}{
		"no name":              {[]*Caller{named("")}, "no name"},
		"the name of nobody":   {[]*Caller{named(NobodyName)}, `"nobody"`},
		"the name of others":   {[]*Caller{named(OtherName)}, `"other"`},
		"one name twice":       {[]*Caller{named("a"), named("b"), named("a")}, `two callers are named "a"`},
		"one key of two":       {[]*Caller{named("a", keyed("k", "x")), named("b", keyed("l", "x"))}, `"l" of b is one of a already`},
		"one key twice":        {[]*Caller{named("a", keyed("k", "x"), keyed("l", "x"))}, `"l" of a is one of a already`},
		"one SPIFFE id of two": {[]*Caller{named("a", Credential{SPIFFE: "spiffe://e.org/x"}), named("b", Credential{SPIFFE: "spiffe://e.org/x"})}, "of b is one of a"},
		"one DNS name of two":  {[]*Caller{named("a", Credential{DNS: "x"}), named("b", Credential{DNS: "x"})}, "of b is one of a"},
		"one subject of two":   {[]*Caller{named("a", subject), named("b", subject)}, "of b is one of a"},
		"no SPIFFE id":         {[]*Caller{named("a", Credential{ID: "s", SPIFFE: "https://e.org/x"})}, "is no SPIFFE id"},
		"another form of one":  {[]*Caller{named("a", Credential{ID: "s", SPIFFE: "SPIFFE://E.org/x"})}, "is no SPIFFE id"},
		"upper case":           {[]*Caller{named("a", Credential{ID: "d", DNS: "X.example.com"})}, "lower case"},
		"an empty credential":  {[]*Caller{named("a", Credential{ID: "e"})}, "proves anything"},
		"an issuer alone":      {[]*Caller{named("a", Credential{ID: "e", Issuer: subject.Issuer})}, "proves anything"},
		"a subject alone":      {[]*Caller{named("a", Credential{ID: "e", Subject: "s"})}, "proves anything"},
	} {
		if b, err := NewBook(c.callers, nil); b != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want it refused with %s", name, b, err, c.want)
		}
	}
	own := subject
	own.Issuer = "https://other.example.com"
	a, b := named("a", keyed("k", "x"), subject), named("b", keyed("k", "y"), own)
	book, err := NewBook([]*Caller{a, b}, nil)
	if err != nil {
		t.Fatal(errors.Join(err, errors.New("one subject of two issuers is two")))
	}
	for _, one := range []*Caller{a, b} {
		for _, c := range one.Credentials {
			if book.Holder(c) != one || (*Book)(nil).Holder(c) != nil {
				t.Errorf("%s of %s is %v's", c.ID, one.Name, book.Holder(c))
			}
		}
	}
}

// knowing knows the people of one issuer: alice, by any of their tokens.
type knowing string

// Person is People's.
func (knowing) Person(context.Context, string) (authz.Principal, error) {
	return authz.Principal{Object: authz.Object{Type: authz.TypeUser, ID: "alice"}}, nil
}

// Consent is People's.
func (knowing) Consent(context.Context, string) (*Consent, error) { return nil, errors.ErrUnsupported }

// Knows is People's.
func (k knowing) Knows(issuer string) bool { return issuer == string(k) }

// TestPersonal: a caller that stands for people has that role alone, no vouch and only tokens, of issuers that say whose they are. A call of its is
// the person's, for whom others do not exist, and nobody's where nobody says which person calls.
func TestPersonal(t *testing.T) {
	t.Parallel()
	const issuer = "https://login.example.com"
	everybody := Credential{ID: "p", Issuer: issuer, People: true}
	with := func(change func(*Caller), credentials ...Credential) *Caller {
		c := named("people", credentials...)
		c.Roles, c.Bounds = selfRoles, authz.Unbounded()
		c.Bounds.Vouch = false
		if change != nil {
			change(c)
		}
		return c
	}
	for name, c := range map[string]struct {
		caller *Caller
		want   string
	}{
		"people without the role": {with(func(c *Caller) { c.Roles = RolesOf(deputyv1.Role_ROLE_CHECKER) }, everybody), "takes the role self"},
		"another role besides":    {with(func(c *Caller) { c.Roles |= RolesOf(deputyv1.Role_ROLE_CHECKER) }, everybody), "has the role self with others"},
		"it may vouch":            {with(func(c *Caller) { c.Bounds.Vouch = true }, everybody), "may vouch"},
		"a key":                   {with(nil, everybody, keyed("k", "x")), `"k" of people is no token's`},
		"a certificate":           {with(nil, Credential{ID: "s", SPIFFE: "spiffe://e.org/x"}), `"s" of people is no token's`},
	} {
		if b, err := NewBook([]*Caller{c.caller}, nil); b != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want it refused with %s", name, b, err, c.want)
		}
	}
	b, err := NewBook([]*Caller{with(nil, everybody)}, saying{Issuer: issuer, Subject: "any"})
	if err != nil {
		t.Fatal(err)
	}
	call := func() (*Caller, error) {
		return b.Identify(t.Context(), Proof{Bearer: "a.b.c", Bearers: 1}, time.Now())
	}
	if c, err := call(); c != nil || authz.KindOf(err) != authz.Unauthenticated {
		t.Errorf("where nobody knows people, a call is %v's, %v", c, err)
	}
	if err := b.CheckPeople(); err == nil || !strings.Contains(err.Error(), "does not say which person") {
		t.Errorf("where nobody knows people: %v", err)
	}
	b.People = knowing("https://other.example.com")
	if err := b.CheckPeople(); err == nil || !strings.Contains(err.Error(), issuer) {
		t.Errorf("where another issuer's people are known: %v", err)
	}
	b.People = knowing(issuer)
	if err := b.CheckPeople(); err != nil {
		t.Error(err)
	}
	c, err := call()
	if err != nil {
		t.Fatal(err)
	}
	for who, exists := range map[string]bool{"alice": true, "bob": false} {
		if p := (authz.Principal{Object: authz.Object{Type: authz.TypeUser, ID: who}}); c.Bounds.HasPrincipal(p) != exists {
			t.Errorf("for alice %s exists: %v", who, !exists)
		}
	}
}

// TestReplace: calls are judged by the book in force, and those that wait hear of every replacement since they asked.
func TestReplace(t *testing.T) {
	t.Parallel()
	next, err := NewBook([]*Caller{named("a", keyed("k", "x"))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var c Callers
	if who, err := c.Identify(t.Context()); who != nil || authz.KindOf(err) != authz.Unauthenticated {
		t.Errorf("the zero Callers know %v, %v", who, err)
	}
	first, second := c.Replaced(), c.Replaced()
	c.Replace(next)
	for _, replaced := range []<-chan struct{}{first, second} {
		select {
		case <-replaced:
		default:
			t.Error("a replacement is not heard of")
		}
	}
	select {
	case <-c.Replaced():
		t.Error("a replacement is heard of that was none")
	default:
	}
	if c.Book() != next {
		t.Error("another book is in force")
	}
}
