package caller_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// token verifies as one subject.
type token struct{}

// Verify is caller.Verifier's.
func (token) Verify(context.Context, string) (caller.Token, error) {
	return caller.Token{Issuer: "https://login.example.com", Subject: "nightly"}, nil
}

// certificate says what it is.
type certificate caller.Identity

// Verify is caller.Certificate's.
func (c certificate) Verify(time.Time) (caller.Identity, error) { return caller.Identity(c), nil }

// Authorities is caller.Certificate's.
func (certificate) Authorities() any { return nil }

// Digest is caller.Certificate's.
func (certificate) Digest() [sha256.Size]byte { return [sha256.Size]byte{} }

// TestValidAndNobodys: a proof that is valid and no caller's is told what it says, and one that is no proof is told nothing.
func TestValidAndNobodys(t *testing.T) {
	t.Parallel()
	book, err := caller.NewBook([]*caller.Caller{
		{Name: "one", Credentials: []caller.Credential{{ID: "d", DNS: "one.example.org"}}},
		{Name: "two", Credentials: []caller.Credential{{ID: "d", DNS: "two.example.org"}}},
	}, token{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		proof    caller.Proof
		nobodys  bool
		contains string
	}{
		{caller.Proof{Bearer: "a.b.c", Bearers: 1}, true, `its subject "nightly" at the issuer "https://login.example.com" is no caller`},
		{caller.Proof{Certificate: certificate{SPIFFE: "spiffe://example.org/x"}}, true, "its SPIFFE id spiffe://example.org/x is no caller"},
		{caller.Proof{Certificate: certificate{DNS: []string{"x.example.org"}}}, true, `none of its DNS names, ["x.example.org"], is a caller`},
		{caller.Proof{Certificate: certificate{DNS: []string{"one.example.org", "two.example.org"}}}, true, "are those of several callers"},
		{caller.Proof{Certificate: certificate{}}, true, "neither a SPIFFE id nor a DNS name"},
		{caller.Proof{Bearer: "key", Bearers: 1}, false, "a valid credential is required"},
		{caller.Proof{}, false, "a valid credential is required"},
	} {
		c, err := book.Identify(t.Context(), test.proof, time.Now())
		if _, nobodys := errors.AsType[*caller.Nobodys](err); c != nil || nobodys != test.nobodys || authz.KindOf(err) != authz.Unauthenticated ||
			!strings.Contains(err.Error(), test.contains) {
			t.Errorf("%+v: %v, %v; want %q", test.proof, c, err, test.contains)
		}
	}
}
