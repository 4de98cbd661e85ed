package certificate

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// Authorities are those that client certificates are verified by at one time. They are immutable and safe for concurrent use. The zero
// Authorities, and nil, believe nobody.
type Authorities struct {
	names   *x509.CertPool
	bundles *x509bundle.Set
	// subjects are all of them, once each.
	subjects []*x509.Certificate
}

// NewAuthorities returns authorities. Those for names vouch for DNS names, and a bundle for the SPIFFE ids of its trust domain. A SPIFFE id
// of a trust domain without a bundle is refused, no matter which authority signed it.
func NewAuthorities(names []*x509.Certificate, bundles ...*x509bundle.Bundle) *Authorities {
	a := &Authorities{names: x509.NewCertPool(), bundles: x509bundle.NewSet()}
	add := func(authority *x509.Certificate) {
		if !slices.ContainsFunc(a.subjects, authority.Equal) {
			a.subjects = append(a.subjects, authority)
		}
	}
	for _, authority := range names {
		a.names.AddCert(authority)
		add(authority)
	}
	for _, bundle := range bundles {
		a.bundles.Add(bundle.Clone())
		for _, authority := range bundle.X509Authorities() {
			add(authority)
		}
	}
	return a
}

// All lists the authorities, each once.
func (a *Authorities) All() []*x509.Certificate {
	if a == nil {
		return nil
	}
	return slices.Clone(a.subjects)
}

// Verify returns what a chain of certificates, the client's own first, says at a time. Errors: Unauthenticated.
func (a *Authorities) Verify(chain []*x509.Certificate, now time.Time) (caller.Identity, error) {
	found := a.verify(chain, now)
	return found.says, found.err
}

// verdict is what was found of a chain of certificates.
type verdict struct {
	// by are the authorities that it was found by.
	by   *Authorities
	says caller.Identity
	// from and until are the span in which the chain that was verified is valid.
	from, until time.Time
	err         error
}

// holds reports whether the verdict is the one that these authorities would give at a time. A refusal holds for as long as they do: no
// certificate that was refused once is looked at again for each call that is made with it.
func (v *verdict) holds(by *Authorities, now time.Time) bool {
	return v != nil && v.by == by && (v.err != nil || !now.Before(v.from) && !now.After(v.until))
}

func (a *Authorities) verify(chain []*x509.Certificate, now time.Time) *verdict {
	v := &verdict{by: a}
	var chains [][]*x509.Certificate
	switch {
	case len(chain) == 0:
		v.err = refused("there is none")
		return v
	case a == nil || len(a.subjects) == 0:
		v.err = refused("this server trusts no authority") // crypto/x509 would take the system's for none
		return v
	case isSPIFFE(chain[0]):
		id, verified, err := x509svid.Verify(chain, a.bundles, x509svid.WithTime(now))
		if err != nil {
			v.err = explained(chain[0], err)
			return v
		}
		v.says.SPIFFE, chains = id.String(), verified
	default:
		intermediates := x509.NewCertPool()
		for _, one := range chain[1:] {
			intermediates.AddCert(one)
		}
		verified, err := chain[0].Verify(x509.VerifyOptions{
			Roots: a.names, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if err != nil {
			v.err = explained(chain[0], err)
			return v
		}
		v.says.DNS, chains = chain[0].DNSNames, verified
	}
	// Of several ways to an authority the one that is valid longest counts.
	for _, verified := range chains {
		if from, until := span(verified); forClients(verified) && until.After(v.until) {
			v.from, v.until = from, until
		}
	}
	if v.until.IsZero() {
		v.says, v.err = caller.Identity{}, refused("it is not for TLS clients: its extended key usage lacks clientAuth")
	}
	return v
}

// isSPIFFE reports whether a certificate claims a SPIFFE id. Such a one is never taken for a holder of DNS names.
func isSPIFFE(leaf *x509.Certificate) bool {
	for _, uri := range leaf.URIs {
		if uri.Scheme == "spiffe" {
			return true
		}
	}
	return false
}

// forClients reports whether no certificate of a chain is kept from TLS clients. x509svid.Verify does not look: it is for both sides. So both
// kinds are looked at here, as crypto/x509 does for one usage.
func forClients(chain []*x509.Certificate) bool {
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageAny, x509.ExtKeyUsageClientAuth}
	for _, one := range chain {
		if len(one.ExtKeyUsage)+len(one.UnknownExtKeyUsage) > 0 && !slices.ContainsFunc(one.ExtKeyUsage, func(usage x509.ExtKeyUsage) bool {
			return slices.Contains(client, usage)
		}) {
			return false
		}
	}
	return true
}

// span is when all certificates of a chain are valid.
func span(chain []*x509.Certificate) (from, until time.Time) {
	for i, one := range chain {
		if one.NotBefore.After(from) {
			from = one.NotBefore
		}
		if i == 0 || one.NotAfter.Before(until) {
			until = one.NotAfter
		}
	}
	return from, until
}

// explained says what a client can do about a certificate that was not verified. It names no authority.
func explained(leaf *x509.Certificate, err error) error {
	var (
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return refused("it, or an authority of it, is valid at another time only: its own is from " +
			leaf.NotBefore.UTC().Format(time.RFC3339) + " to " + leaf.NotAfter.UTC().Format(time.RFC3339))
	case isSPIFFE(leaf) && len(leaf.URIs) != 1:
		return refused("it has several URIs, and a SPIFFE id stands alone")
	case errors.As(err, &unknown):
		return refused("it is not signed by an authority that this server trusts")
	case isSPIFFE(leaf):
		return refused("it is no X.509-SVID of a trust domain that this server trusts")
	default:
		return refused("it is not valid")
	}
}

func refused(why string) error {
	return authz.Errorf(authz.Unauthenticated, authz.ReasonUnauthenticated,
		"the client certificate of this connection is refused: %s; connect again with another one", why)
}

// Claims is what a certificate that was not verified says of its holder, for a log: its SPIFFE id, else its DNS names.
func Claims(leaf *x509.Certificate) string {
	says := fmt.Sprintf("%q", leaf.DNSNames)
	if isSPIFFE(leaf) {
		says = fmt.Sprintf("%q", leaf.URIs)
	}
	return fmt.Sprintf("%.500s", says)
}
