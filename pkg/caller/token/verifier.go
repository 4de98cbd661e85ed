package token

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// Options are what a Verifier has besides its issuers.
type Options struct {
	// Now is the clock that tokens and keys are judged by; nil means time.Now.
	Now func() time.Time
	// Log is told when keys cannot be had; nil means that nobody is.
	Log *zap.Logger

	// transport is how issuers are asked; nil means over the network.
	transport http.RoundTripper
}

// Verifier verifies the tokens of its issuers; it is a caller.Verifier. It is safe for concurrent use.
//
// A token that was verified before costs a digest and a look into a map, until it ends, or its key is not among its issuer's any more. Of the
// others at most half of the processors verify signatures, so that a flood of tokens that prove nothing leaves the rest to other calls;
// all that can be refused without a signature is.
type Verifier struct {
	options Options
	sources map[string]*source
	before  cache[verified]
	turns   turns
	closing sync.Once
}

var (
	_ caller.Verifier      = (*Verifier)(nil)
	_ caller.EventVerifier = (*Verifier)(nil)
)

// Open returns a verifier of the issuers' tokens, of none where there are no issuers. It reads the files with keys, so that one that is wrong is
// found, and begins to ask for the keys at URLs, without waiting: until they are there, Verify waits for them. Errors name the issuer and,
// where it is the Issuer that is wrong, are *IssuerError. ctx bounds the opening only. Close ends it.
func Open(ctx context.Context, issuers []Issuer, o Options) (*Verifier, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return (&Verifier{options: o}).Reopen(ctx, issuers)
}

// Reopen returns another verifier, with the options of v and other issuers. It goes on with the keys of those issuers that stay as they are, so
// that nothing is asked for anew; it does not know which tokens v has verified. v works on, and is to be closed when no more calls
// begin with it.
func (v *Verifier) Reopen(ctx context.Context, issuers []Issuer) (*Verifier, error) {
	if len(issuers) > MaxIssuers {
		return nil, fmt.Errorf("there are %d issuers; there can be %d", len(issuers), MaxIssuers)
	}
	next := &Verifier{options: v.options, sources: map[string]*source{}, turns: newTurns()}
	fail := func(i Issuer, err error) (*Verifier, error) {
		next.Close()
		return nil, fmt.Errorf("the issuer %q: %w", i.Issuer, err)
	}
	for _, issuer := range issuers {
		if err := issuer.Check(); err != nil {
			return fail(issuer, err)
		}
		if next.sources[issuer.Issuer] != nil {
			return fail(issuer, &IssuerError{Key: "issuer", Message: "is there twice"})
		}
		issuer = issuer.complete()
		if has := v.sources[issuer.Issuer]; has != nil && has.issuer.equal(issuer) && has.share() {
			next.sources[issuer.Issuer] = has
			continue
		}
		s := newSource(issuer, v.options)
		if issuer.JWKSFile != "" {
			if err := s.load(ctx); err != nil {
				s.stop()
				return fail(issuer, &IssuerError{Key: "jwks_file", Message: fmt.Sprintf("cannot be used: %v", err)})
			}
		}
		next.sources[issuer.Issuer] = s
		go s.refresh()
	}
	return next, nil
}

// Close stops asking for keys, but for those that a verifier uses that was made by Reopen, and waits until nothing runs any more. Calls that
// still verify go on with the keys that there are.
func (v *Verifier) Close() {
	v.closing.Do(func() {
		for _, s := range v.sources {
			s.release()
		}
	})
}

// Verify is caller.Verifier's. Its errors are Exhausted, too, where too many tokens are being verified.
func (v *Verifier) Verify(ctx context.Context, raw string) (caller.Token, error) {
	digest := sha256.Sum256([]byte(raw))
	now := v.options.Now()
	if known := v.before.get(digest); known != nil && known.current(now) {
		return known.told(ctx)
	}
	signed, from, k, err := v.signed(ctx, raw, nil)
	if err != nil {
		return caller.Token{}, err
	}
	found, err := from.issuer.claims(signed)
	if err != nil {
		return caller.Token{}, err
	}
	found.source, found.key = from, k
	if err := found.now(v.options.Now(), from.issuer.Leeway, from.issuer.Leeway); err != nil {
		return caller.Token{}, err
	}
	v.before.put(digest, &found)
	return found.told(ctx)
}

// signed reads a token and verifies its issuer, its type and its signature; nothing else of it. types are the "typ" that an issuer's tokens may have,
// none for an issuer whose tokens are not accepted; nil stands for those that prove who calls.
func (v *Verifier) signed(ctx context.Context, raw string, types map[string][]string) (unverified, *source, *key, error) {
	fail := func(err error) (unverified, *source, *key, error) { return unverified{}, nil, nil, err }
	t, err := parse(raw, maxToken)
	if err != nil {
		return fail(err)
	}
	from := v.sources[t.issuer]
	if from == nil || types != nil && len(types[t.issuer]) == 0 {
		return fail(refuse(`has an "iss" that is none of this server's issuers`))
	}
	accepted := from.issuer.Types
	if types != nil {
		accepted = types[t.issuer]
	}
	k, err := v.proven(ctx, t, from, accepted)
	if err != nil {
		return fail(err)
	}
	return t, from, k, nil
}

// proven verifies that a token is of one of the types, and is signed with a key of the issuer. It returns the key.
func (v *Verifier) proven(ctx context.Context, t unverified, from *source, types []string) (*key, error) {
	if err := from.issuer.admits(t, types); err != nil {
		return nil, err
	}
	k, err := from.key(ctx, t.kid)
	if err != nil {
		return nil, err
	}
	if !k.fits(t.algorithm) {
		return nil, refuse("is signed with the algorithm %q, which the issuer's key %.100q is not for", t.algorithm, t.kid)
	}
	return k, v.turns.do(ctx, func() error { return t.signedBy(k) })
}

// current reports whether the token is valid still, and its key still is among its issuer's.
func (p *proof) current(now time.Time) bool {
	k := p.source.current(now).keys[p.key.id]
	return k != nil && k.digest == p.key.digest && p.now(now, 0, 0) == nil
}

func (i Issuer) equal(other Issuer) bool {
	return i.Issuer == other.Issuer && slices.Equal(i.Audiences, other.Audiences) && slices.Equal(i.Algorithms, other.Algorithms) &&
		slices.Equal(i.Types, other.Types) && i.JWKSURL == other.JWKSURL && i.JWKSFile == other.JWKSFile && i.Leeway == other.Leeway &&
		i.Stale == other.Stale && i.LoopbackHTTP == other.LoopbackHTTP && i.OtherPurposes == other.OtherPurposes
}

// cacheHalf is half of how many tokens a cache has at most.
const cacheHalf = 5000

// cache has the tokens that were verified last, by digest. When its younger half is full, it becomes the older one, and what was not asked for
// since it was is forgotten.
type cache[T any] struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]*T
}

func (c *cache[T]) get(digest [sha256.Size]byte) *T {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.young[digest]
	if v == nil {
		if v = c.old[digest]; v != nil {
			c.putLocked(digest, v)
		}
	}
	return v
}

func (c *cache[T]) put(digest [sha256.Size]byte, v *T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(digest, v)
}

func (c *cache[T]) putLocked(digest [sha256.Size]byte, v *T) {
	if c.young == nil || len(c.young) >= cacheHalf {
		c.young, c.old = map[[sha256.Size]byte]*T{}, c.young
	}
	c.young[digest] = v
}

// maxTurns is how many calls wait to have a signature verified.
const maxTurns = 1024

// turns bound how many signatures are verified at once.
type turns struct {
	busy    chan struct{}
	waiting atomic.Int32
}

func newTurns() turns { return turns{busy: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))} }

// do does something in its turn.
func (t *turns) do(ctx context.Context, verify func() error) error {
	select {
	case t.busy <- struct{}{}:
	default:
		if err := t.wait(ctx); err != nil {
			return err
		}
	}
	defer func() { <-t.busy }()
	return verify()
}

// wait waits for a turn.
func (t *turns) wait(ctx context.Context) error {
	defer t.waiting.Add(-1)
	if t.waiting.Add(1) > maxTurns {
		return authz.Errorf(authz.Exhausted, authz.ReasonBusy, "too many tokens are being verified; try again")
	}
	select {
	case t.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return authz.Errorf(authz.Exhausted, authz.ReasonBusy, "the token was not verified within the call's time; try again")
	}
}
