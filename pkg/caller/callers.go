package caller

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Verifier verifies tokens of configured issuers. It is safe for concurrent use.
type Verifier interface {
	// Verify returns what a token says, once it is found to be valid now. Errors: Unauthenticated with what is wrong with the token, which
	// does not show it; Unavailable where its issuer's keys cannot be had.
	Verify(ctx context.Context, token string) (Token, error)
}

// EventVerifier verifies security event tokens. It is safe for concurrent use.
type EventVerifier interface {
	// VerifyEvents returns what a token of an issuer says, once its signature is found to be valid. Errors: Invalid with what is wrong with the
	// token, which does not show it, under a reason that begins with SIGNAL; Unavailable where the issuer's keys cannot be had.
	VerifyEvents(ctx context.Context, issuer, token string) (EventToken, error)
}

// Token is what a verified token says.
type Token struct {
	// Issuer and Subject are its iss and sub.
	Issuer, Subject string
	// Expires is when it ends, the issuer's leeway included.
	Expires time.Time
}

// Certificate is the client certificate that a connection was made with. It is safe for concurrent use.
type Certificate interface {
	// Verify returns what the certificate says, once it is found to be valid now, by the authorities that are in force now: a connection can
	// outlive both. Errors: Unauthenticated with what is wrong with the certificate.
	Verify(now time.Time) (Identity, error)
	// Authorities are those in force, to be compared and no more: others are not equal.
	Authorities() any
	// Digest is the SHA-256 digest of the certificate in DER, by which a token names the certificate that it is bound to (RFC 8705).
	Digest() [sha256.Size]byte
}

// Certified is the credentials.AuthInfo of a connection that can have been made with a client certificate.
type Certified interface {
	// ClientCertificate is that certificate, nil where the client presented none.
	ClientCertificate() Certificate
}

// Identity is what a verified certificate says of its holder.
type Identity struct {
	// SPIFFE is its SPIFFE id. Where there is one, DNS names count for nothing.
	SPIFFE string
	// DNS are its DNS names.
	DNS []string
}

// Book is the callers of a server at one time. It is immutable and safe for concurrent use. The zero Book, and nil, know nobody.
type Book struct {
	// Callers in the order in which they were given.
	Callers []*Caller
	// Acting says how agents prove that they act. It is set before the book is in force.
	Acting Acting
	// People knows people by their own tokens; nil where no issuer's say whose they are. It is set before the book is in force.
	People People

	keys     map[[sha256.Size]byte]entry
	spiffe   map[string]entry
	dns      map[string]entry
	subjects map[subject]entry
	// people are the callers that stand for all people of an issuer.
	people map[string]entry
	tokens Verifier
}

// entry is a credential with whose it is.
type entry struct {
	caller  *Caller
	expires time.Time
}

type subject struct{ issuer, name string }

// NewBook returns the book of the callers. tokens may be nil where no credential is a token's. It fails where two callers have one name or
// one credential, and where a caller has no name, or one that figures use or the server itself.
func NewBook(callers []*Caller, tokens Verifier) (*Book, error) {
	b := &Book{
		Callers: callers, tokens: tokens,
		keys: map[[sha256.Size]byte]entry{}, spiffe: map[string]entry{}, dns: map[string]entry{}, subjects: map[subject]entry{},
		people: map[string]entry{},
	}
	names := map[string]bool{}
	for _, c := range callers {
		switch {
		case c.Name == "":
			return nil, errors.New("a caller has no name")
		case c.Name == NobodyName || c.Name == OtherName:
			return nil, fmt.Errorf("no caller can be named %q: figures count others under that name; choose another one", c.Name)
		case !c.preshared && (c.Name == ServiceName || c.Name == AdminName || c.Name == InProcessName):
			return nil, fmt.Errorf("no caller can be named %q: the server has one of that name itself; choose another name", c.Name)
		case names[c.Name]:
			return nil, fmt.Errorf("two callers are named %q", c.Name)
		}
		if err := c.checkPersonal(); err != nil {
			return nil, err
		}
		names[c.Name] = true
		for _, one := range c.Credentials {
			if err := b.add(c, one); err != nil {
				return nil, err
			}
		}
	}
	return b, nil
}

// add adds a credential, which no other caller may have.
func (b *Book) add(c *Caller, one Credential) error {
	switch e := (entry{c, one.Expires}); {
	case one.Key != [sha256.Size]byte{}:
		return put(b.keys, one.Key, e, one.ID)
	case one.SPIFFE != "":
		// Certificates are known by the one form that this is.
		if id, err := spiffeid.FromString(one.SPIFFE); err != nil || id.String() != one.SPIFFE {
			return fmt.Errorf("the credential %q of %s: %q is no SPIFFE id, such as spiffe://example.org/billing", one.ID, c.Name, one.SPIFFE)
		}
		return put(b.spiffe, one.SPIFFE, e, one.ID)
	case one.DNS != "":
		if one.DNS != strings.ToLower(one.DNS) {
			return fmt.Errorf("the credential %q of %s: the DNS name %q has to be in lower case", one.ID, c.Name, one.DNS)
		}
		return put(b.dns, one.DNS, e, one.ID)
	case one.Issuer != "" && one.Subject != "":
		return put(b.subjects, subject{one.Issuer, one.Subject}, e, one.ID)
	case one.Issuer != "" && one.People:
		return put(b.people, one.Issuer, e, one.ID)
	default:
		return fmt.Errorf("the credential %q of %s names nothing that proves anything", one.ID, c.Name)
	}
}

// checkPersonal refuses the role self where a call would not say which person calls, and beside what is not one person's.
func (c *Caller) checkPersonal() error {
	switch {
	case c.Roles&selfRoles == 0:
		if slices.ContainsFunc(c.Credentials, func(one Credential) bool { return one.People }) {
			return fmt.Errorf("the caller %s has a credential for all people of an issuer, which takes the role self", c.Name)
		}
		return nil
	case !c.Personal():
		return fmt.Errorf("the caller %s has the role self with others: a person calls for itself alone, so give the other roles to another caller", c.Name)
	case c.Bounds != nil && c.Bounds.Vouch:
		return fmt.Errorf("the caller %s has the role self and may vouch: a person vouches for nobody, and consents by a token", c.Name)
	}
	for _, one := range c.Credentials {
		if one.Issuer == "" {
			return fmt.Errorf("the credential %q of %s is no token's: the role self is for people, who call with tokens of their own", one.ID, c.Name)
		}
	}
	return nil
}

func put[K comparable](to map[K]entry, key K, e entry, id string) error {
	if was, taken := to[key]; taken {
		return fmt.Errorf("the credential %q of %s is one of %s already: a credential proves one caller", id, e.caller.Name, was.caller.Name)
	}
	to[key] = e
	return nil
}

// CheckPeople refuses a caller that is Personal with tokens of an issuer that does not say which person a token is of.
func (b *Book) CheckPeople() error {
	for _, c := range b.Callers {
		for _, one := range c.Credentials {
			if c.Personal() && (b.People == nil || !b.People.Knows(one.Issuer)) {
				return fmt.Errorf("the credential %q of %s is of the issuer %q, which does not say which person a token is of, and the role self is for people",
					one.ID, c.Name, one.Issuer)
			}
		}
	}
	return nil
}

// Holder returns the caller that has a credential, and nil where none has.
func (b *Book) Holder(one Credential) *Caller {
	switch {
	case b == nil:
		return nil
	case one.Key != [sha256.Size]byte{}:
		return b.keys[one.Key].caller
	case one.SPIFFE != "":
		return b.spiffe[one.SPIFFE].caller
	case one.DNS != "":
		return b.dns[one.DNS].caller
	case one.People:
		return b.people[one.Issuer].caller
	default:
		return b.subjects[subject{one.Issuer, one.Subject}].caller
	}
}

// Proof is what a call brings to prove whose it is.
type Proof struct {
	// Bearer is the one bearer token of its metadata, and Bearers how many authorization values there are.
	Bearer  string
	Bearers int
	// Certificate is the client certificate of its connection, nil without.
	Certificate Certificate
}

// ProofOf returns what a call brings.
func ProofOf(ctx context.Context) Proof {
	var p Proof
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	p.Bearers = len(values)
	if len(values) == 1 {
		if scheme, token, ok := strings.Cut(values[0], " "); ok && strings.EqualFold(scheme, "bearer") {
			p.Bearer = token
		}
	}
	p.Certificate = certificateOf(ctx)
	return p
}

// certificateOf returns the client certificate of a call's connection, nil without.
func certificateOf(ctx context.Context) Certificate {
	if from, found := peer.FromContext(ctx); found {
		if info, ok := from.AuthInfo.(Certified); ok {
			return info.ClientCertificate()
		}
	}
	return nil
}

// Identify returns whose a call is. A bearer token decides where there is one, so that a wrong one is never made up for by a certificate.
// Errors: Unauthenticated where the proof is none, Unavailable where it cannot be told.
func (b *Book) Identify(ctx context.Context, p Proof, now time.Time) (*Caller, error) {
	if b == nil {
		return nil, unknown()
	}
	switch {
	case p.Bearers > 1:
		return nil, authz.Errorf(authz.Unauthenticated, authz.ReasonUnauthenticated, "the call brings %d authorization values; send one", p.Bearers)
	case p.Bearers == 1:
		return b.bearer(ctx, p.Bearer, now)
	case p.Certificate != nil:
		return b.certificate(p.Certificate, now)
	default:
		return nil, unknown()
	}
}

func (b *Book) bearer(ctx context.Context, token string, now time.Time) (*Caller, error) {
	if token == "" {
		return nil, unknown()
	}
	if e, known := b.keys[sha256.Sum256([]byte(token))]; known {
		return e.at(now)
	}
	if b.tokens == nil || strings.Count(token, ".") != 2 {
		return nil, unknown()
	}
	said, err := b.tokens.Verify(ctx, token)
	if err != nil {
		return nil, err
	}
	// That it is valid, and what it says, its sender knows: it is told which of it is no caller here.
	of, known := b.subjects[subject{said.Issuer, said.Subject}]
	if !known {
		of = b.people[said.Issuer]
	}
	c, err := of.at(now)
	if err != nil {
		return nil, nobodys("the token is valid, and its subject %.200q at the issuer %.200q is no caller of this server", said.Subject, said.Issuer)
	}
	if !c.Personal() {
		return c, nil
	}
	if b.People == nil {
		return nil, unknown()
	}
	person, err := b.People.Person(ctx, token)
	if err != nil {
		return nil, err
	}
	return c.For(person), nil
}

// certificate finds the caller of a client certificate, by its SPIFFE id, else by its DNS names, which have to be one caller's.
func (b *Book) certificate(presented Certificate, now time.Time) (*Caller, error) {
	says, err := presented.Verify(now)
	if err != nil {
		return nil, err
	}
	if says.SPIFFE != "" {
		c, err := b.spiffe[says.SPIFFE].at(now)
		if err != nil {
			return nil, nobodys("the client certificate is valid, and its SPIFFE id %.300s is no caller of this server", says.SPIFFE)
		}
		return c, nil
	}
	var found *Caller
	for _, name := range says.DNS {
		switch c, err := b.dns[strings.ToLower(name)].at(now); {
		case err != nil || c == found:
		case found != nil:
			return nil, nobodys("the client certificate is valid, and its DNS names, %s, are those of several callers of this server", shown(says.DNS))
		default:
			found = c
		}
	}
	switch {
	case found != nil:
		return found, nil
	case len(says.DNS) == 0:
		return nil, nobodys("the client certificate is valid, and has neither a SPIFFE id nor a DNS name, by which callers are known")
	default:
		return nil, nobodys("the client certificate is valid, and none of its DNS names, %s, is a caller of this server", shown(says.DNS))
	}
}

// VerifyEvents returns what a security event token of an issuer says. Errors: those of EventVerifier.
func (b *Book) VerifyEvents(ctx context.Context, issuer, token string) (EventToken, error) {
	if verifier, ok := b.tokens.(EventVerifier); ok {
		return verifier.VerifyEvents(ctx, issuer, token)
	}
	return EventToken{}, authz.Errorf(authz.Invalid, authz.ReasonSignalIssuer, "the server knows no keys of the issuer %.200q", issuer)
}

func (e entry) at(now time.Time) (*Caller, error) {
	if e.caller == nil || !e.expires.IsZero() && !now.Before(e.expires) {
		return nil, unknown()
	}
	return e.caller, nil
}

// unknown says no more than that the proof is none.
func unknown() error { return (*Caller)(nil).May(&Method{}) }

// Nobodys is why a proof that is valid is no caller's.
type Nobodys struct{ says string } //nolint:errname // as file.Problem

// Error says what the proof says, in its own words.
func (n *Nobodys) Error() string { return n.says }

// nobodys returns what is said of a proof that is valid and no caller's.
func nobodys(format string, args ...any) error {
	says := &Nobodys{fmt.Sprintf(format, args...)}
	err := authz.Errorf(authz.Unauthenticated, authz.ReasonUnauthenticated, "%s; ask its operator to add a caller with that credential", says.says)
	err.Err = says
	return err
}

// shown is some DNS names, for a message.
func shown(names []string) string {
	const most = 5
	more := ""
	if len(names) > most {
		names, more = names[:most], " and others"
	}
	return fmt.Sprintf("%.100q%s", names, more)
}

// Callers is the book in force, which can be replaced while calls are under way. It is safe for concurrent use. The zero Callers know nobody.
type Callers struct {
	// Now is the clock that credentials expire by; nil means time.Now.
	Now func() time.Time

	book atomic.Pointer[Book]
	// mu guards replaced, which is nil until somebody waits.
	mu       sync.Mutex
	replaced chan struct{}
}

// NewCallers returns callers of a book.
func NewCallers(b *Book) *Callers {
	c := &Callers{}
	c.book.Store(b)
	return c
}

// Book is the book in force.
func (c *Callers) Book() *Book { return c.book.Load() }

// Replace puts another book in force. Calls whose messages come afterwards are judged by it.
func (c *Callers) Replace(b *Book) {
	c.book.Store(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replaced != nil {
		close(c.replaced)
		c.replaced = nil
	}
}

// Replaced returns a channel that is closed once another book is in force than at the time of the call. To miss none, ask for the channel
// before the book.
func (c *Callers) Replaced() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replaced == nil {
		c.replaced = make(chan struct{})
	}
	return c.replaced
}

// Identify returns whose a call is, by the book in force.
func (c *Callers) Identify(ctx context.Context) (*Caller, error) {
	return c.book.Load().Identify(ctx, ProofOf(ctx), c.now())
}

func (c *Callers) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// Basis is what a call is judged by at one time.
type Basis struct {
	book        *Book
	authorities any
	at          time.Time
}

// Basis returns what a call is judged by now. It is to be asked for before Identify, so that it is never newer than what that goes by.
func (c *Callers) Basis(ctx context.Context) Basis {
	b := Basis{book: c.Book(), at: c.now()}
	if presented := certificateOf(ctx); presented != nil {
		b.authorities = presented.Authorities()
	}
	return b
}

// Holds reports whether the same callers and authorities are in force now, and less time than patience has passed: a credential expires, and an
// issuer withdraws a key, under one basis.
func (b Basis) Holds(now Basis, patience time.Duration) bool {
	return b.book == now.book && b.authorities == now.authorities && now.at.Sub(b.at) < patience
}
