package certificate_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller/certificate"
	"github.com/deputyauth/deputy/tests/harness"
)

const billing = "spiffe://example.org/billing"

func authorities(of ...*harness.Authority) *certificate.Authorities {
	var all []*x509.Certificate
	for _, a := range of {
		all = append(all, a.Certificate)
	}
	return certificate.NewAuthorities(all, x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("example.org"), all))
}

// TestZeroTrust: nobody is believed before there are authorities, nor where there are none.
func TestZeroTrust(t *testing.T) {
	chain := []*x509.Certificate{harness.NewAuthority(t, "some").Issue(t, harness.ForURI(billing)).Leaf}
	var trust certificate.Trust
	for what, by := range map[string]*certificate.Authorities{"nil": nil, "zero": {}, "none": certificate.NewAuthorities(nil)} {
		trust.Replace(by)
		for _, certificates := range [][]*x509.Certificate{chain, nil} {
			if says, err := certificate.NewPresented(&trust, certificates).Verify(time.Now()); err == nil || says.SPIFFE != "" {
				t.Errorf("%s: got %+v, %v", what, says, err)
			}
		}
	}
}

// TestPresented: a verdict holds for as long as the authorities that gave it, and the certificates of the chain, whichever ends first.
func TestPresented(t *testing.T) {
	now := time.Now()
	root := harness.NewAuthority(t, "root")
	below := root.Intermediate(t, "below", harness.Valid(now.Add(-time.Hour), now.Add(10*time.Minute)))
	for what, test := range map[string]struct {
		change func(*x509.Certificate)
		says   string
	}{
		"a SPIFFE id": {harness.ForURI(billing), billing}, "a DNS name": {harness.ForName("billing.example.org"), "billing.example.org"},
	} {
		through := []*x509.Certificate{below.Issue(t, test.change).Leaf, below.Certificate}
		straight := []*x509.Certificate{root.Issue(t, test.change, harness.Valid(now.Add(-time.Hour), now.Add(20*time.Minute))).Leaf}
		var trust certificate.Trust
		first := authorities(root)
		trust.Replace(first)
		one, other := certificate.NewPresented(&trust, straight), certificate.NewPresented(&trust, through)
		for _, step := range []struct {
			what          string
			by            *certificate.Authorities
			at            time.Duration
			one, other    bool
			saysOfRefusal string
		}{
			{"at first", first, 0, true, true, ""},
			{"again", first, time.Minute, true, true, ""},
			{"by other authorities", authorities(harness.NewAuthority(t, "root")), 2 * time.Minute, false, false, "not signed by an authority"},
			{"by the first and another", authorities(harness.NewAuthority(t, "another"), root), 3 * time.Minute, true, true, ""},
			{"once the intermediate authority has expired", first, 11 * time.Minute, true, false, "valid at another time only"},
			{"once all have expired", authorities(root), 21 * time.Minute, false, false, "valid at another time only"},
		} {
			trust.Replace(step.by)
			for which, p := range map[string]*certificate.Presented{"straight": one, "through": other} {
				want := map[string]bool{"straight": step.one, "through": step.other}[which]
				for range 2 {
					says, err := p.Verify(now.Add(step.at))
					if got := says.SPIFFE + strings.Join(says.DNS, ","); (err == nil) != want || want && got != test.says || !want && got != "" {
						t.Errorf("%s, %s, %s: got %q, %v", what, which, step.what, got, err)
					}
					if err != nil && (authz.KindOf(err) != authz.Unauthenticated || !strings.Contains(err.Error(), step.saysOfRefusal)) {
						t.Errorf("%s, %s, %s: got %v", what, which, step.what, err)
					}
				}
			}
		}
	}
}

// BenchmarkVerify is what a certificate costs each call.
func BenchmarkVerify(b *testing.B) {
	root := harness.NewAuthority(b, "root")
	var trust certificate.Trust
	trust.Replace(authorities(root))
	p := certificate.NewPresented(&trust, []*x509.Certificate{root.Issue(b, harness.ForURI(billing)).Leaf})
	now := time.Now()
	for b.Loop() {
		if _, err := p.Verify(now); err != nil {
			b.Fatal(err)
		}
	}
}
