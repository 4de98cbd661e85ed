package certificate

import (
	"crypto/sha256"
	"crypto/x509"
	"sync/atomic"
	"time"

	"github.com/deputyauth/deputy/pkg/caller"
)

// Trust is the authorities in force, which can be replaced while connections are open. It is safe for concurrent use. The zero Trust
// believes nobody.
type Trust struct {
	inForce atomic.Pointer[Authorities]
}

// InForce returns the authorities in force; nil before the first are.
func (t *Trust) InForce() *Authorities { return t.inForce.Load() }

// Replace puts authorities in force. Calls whose messages come afterwards are judged by them, on open connections too.
func (t *Trust) Replace(a *Authorities) { t.inForce.Store(a) }

// Presented is the certificates that the client of one connection presented. It implements caller.Certificate: a verdict is kept until the
// authorities are replaced, or a certificate of the chain expires, so that a call costs no signature. It is safe for concurrent use.
type Presented struct {
	trust *Trust
	chain []*x509.Certificate
	last  atomic.Pointer[verdict]
}

// NewPresented returns what a client presented, its own certificate first.
func NewPresented(trust *Trust, chain []*x509.Certificate) *Presented {
	return &Presented{trust: trust, chain: chain}
}

// Verify is caller.Certificate's.
func (p *Presented) Verify(now time.Time) (caller.Identity, error) {
	by, v := p.trust.InForce(), p.last.Load()
	if !v.holds(by, now) {
		v = by.verify(p.chain, now)
		p.last.Store(v)
	}
	return v.says, v.err
}

// Authorities is caller.Certificate's.
func (p *Presented) Authorities() any { return p.trust.InForce() }

// Digest is caller.Certificate's.
func (p *Presented) Digest() [sha256.Size]byte { return sha256.Sum256(p.chain[0].Raw) }
