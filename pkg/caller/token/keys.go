package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// What a set of keys can be at most.
const (
	maxKeySet = 1 << 20
	maxKeys   = 100
	// RSA keys with fewer bits can be broken (RFC 7518, section 3.3), and those with more take long to verify with.
	minRSA, maxRSA = 2048, 8192
)

// key is one key of an issuer that signatures can be verified with. It is immutable.
type key struct {
	id     string
	public crypto.PublicKey
	// algorithm is the one that the issuer states for it, or empty.
	algorithm string
	// digest is one of the public key and the algorithm.
	digest [sha256.Size]byte
}

// keySet is what an issuer published. It is immutable.
type keySet struct {
	keys map[string]*key
	// at is when it was asked for.
	at time.Time
}

// readKeys reads a JWK Set (RFC 7517, section 5). What signatures cannot be verified with is left out, as section 5 wants it: keys of kinds that
// are not known, keys for encryption, secret and private ones, and those without an id. It fails where nothing is left.
func readKeys(text []byte) (map[string]*key, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, errors.New("the keys are not a JWK Set, a JSON object with an array \"keys\"")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("the issuer has %d keys; it can have %d", len(set.Keys), maxKeys)
	}
	keys := map[string]*key{}
	for _, raw := range set.Keys {
		var jwk jose.JSONWebKey
		if jwk.UnmarshalJSON(raw) != nil || jwk.KeyID == "" || len(jwk.KeyID) > maxText || jwk.Use != "" && jwk.Use != "sig" || !usable(jwk.Key) {
			continue
		}
		if _, twice := keys[jwk.KeyID]; twice {
			return nil, fmt.Errorf("two keys have the id %.100q, so that a token does not say which of them it is signed with", jwk.KeyID)
		}
		thumbprint, err := jwk.Thumbprint(crypto.SHA256)
		if err != nil {
			continue
		}
		keys[jwk.KeyID] = &key{
			id: jwk.KeyID, public: jwk.Key, algorithm: jwk.Algorithm, digest: sha256.Sum256(append(thumbprint, jwk.Algorithm...)),
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("none of the issuer's %d keys can verify signatures: such a key has a \"kid\", is public, and is RSA with "+
			"%d to %d bits, EC or Ed25519", len(set.Keys), minRSA, maxRSA)
	}
	return keys, nil
}

// usable reports whether signatures can be verified with a key.
func usable(k any) bool {
	switch k := k.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSA && k.N.BitLen() <= maxRSA
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	default:
		return false
	}
}

// fits reports whether the key is one for an algorithm (RFC 7518, section 3).
func (k *key) fits(algorithm string) bool {
	if k.algorithm != "" && k.algorithm != algorithm {
		return false
	}
	switch of := k.public.(type) {
	case *rsa.PublicKey:
		return algorithm[:2] == "RS" || algorithm[:2] == "PS"
	case *ecdsa.PublicKey:
		return of.Curve == map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[algorithm]
	case ed25519.PublicKey:
		return algorithm == string(jose.EdDSA)
	default:
		return false
	}
}
