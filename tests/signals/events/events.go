// Package events makes security event tokens as an identity provider's transmitter does: for the tests, and for the page about signals. It shares
// no code with the server that reads them.
package events

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// The beginnings of the URIs of events.
const (
	CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
	RISC = "https://schemas.openid.net/secevent/risc/event-type/"
	SSF  = "https://schemas.openid.net/secevent/ssf/event-type/"
)

// URI is the URI of an event by its name.
func URI(name string) string {
	switch name {
	case "account-disabled", "account-enabled", "account-purged":
		return RISC + name
	case "verification", "stream-updated":
		return SSF + name
	default:
		return CAEP + name
	}
}

// Signer has a key, under the id "one", and signs tokens with ES256.
type Signer struct{ key *ecdsa.PrivateKey }

// NewSigner makes one with a key of its own.
func NewSigner() (*Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return &Signer{key}, err
}

// ReadSigner reads the key that Save wrote.
func ReadSigner(path string) (*Signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no key in PEM")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	return &Signer{key}, err
}

// Save writes the key.
func (s *Signer) Save(path string) error {
	der, err := x509.MarshalECPrivateKey(s.key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// Keys are the public key, as a JWK Set.
func (s *Signer) Keys() ([]byte, error) {
	return json.MarshalIndent(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{
		Key: s.key.Public(), KeyID: "one", Algorithm: string(jose.ES256), Use: "sig",
	}}}, "", "  ")
}

// Claims are those of a token.
type Claims map[string]any

// Sign signs claims as a token of a type.
func (s *Signer) Sign(typ string, claims Claims) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.key, KeyID: "one"}},
		(&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(text)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// Token signs a security event token.
func (s *Signer) Token(claims Claims) (string, error) { return s.Sign("secevent+jwt", claims) }

// Event is claims of a token with one event.
func Event(issuer, audience, jti, name string, subject any, payload map[string]any) Claims {
	if payload == nil {
		payload = map[string]any{}
	}
	return Claims{
		"iss": issuer, "aud": audience, "jti": jti, "iat": time.Now().Unix(), "sub_id": subject, "events": map[string]any{URI(name): payload},
	}
}

// Subject is an identifier in the format iss_sub.
func Subject(issuer, sub string) map[string]any {
	return map[string]any{"format": "iss_sub", "iss": issuer, "sub": sub}
}

// Opaque is an identifier in the format opaque.
func Opaque(id string) map[string]any { return map[string]any{"format": "opaque", "id": id} }

// Complex is a subject of several members.
func Complex(members map[string]any) map[string]any {
	members["format"] = "complex"
	return members
}

// Answer is what a receiver says to a push.
type Answer struct {
	Status int
	// Err and Description are RFC 8935's.
	Err         string `json:"err"`
	Description string `json:"description"`
	// RetryAfter is the header of that name.
	RetryAfter string `json:"-"`
}

// Push sends a token to a receiver (RFC 8935), with a bearer token of the transmitter's.
func Push(client *http.Client, url, bearer, token string) (Answer, error) {
	r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader([]byte(token)))
	if err != nil {
		return Answer{}, err
	}
	r.Header.Set("Content-Type", "application/secevent+jwt")
	r.Header.Set("Accept", "application/json")
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	return Send(client, r)
}

// Send sends a request, and reads its answer.
func Send(client *http.Client, r *http.Request) (Answer, error) {
	got, err := client.Do(r)
	if err != nil {
		return Answer{}, err
	}
	text, err := io.ReadAll(io.LimitReader(got.Body, 1<<20))
	if err = errors.Join(err, got.Body.Close()); err != nil {
		return Answer{}, err
	}
	a := Answer{Status: got.StatusCode, RetryAfter: got.Header.Get("Retry-After")}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &a); err != nil {
			return a, fmt.Errorf("the answer %q: %w", text, err)
		}
	}
	return a, nil
}
