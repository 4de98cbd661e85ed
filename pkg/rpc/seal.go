package rpc

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Sealer seals what callers hand back: SpiceDB's own tokens and cursors are unsigned, and believed.
// A seal is, in unpadded URL base64:
//
//	+---------+------+------------------+---------+---------------------------+
//	| version | kind | issued, unix ns  | payload | HMAC-SHA256 of all before |
//	| 1 byte  | 1    | 8, big endian    | n       | 16, truncated             |
//	+---------+------+------------------+---------+---------------------------+
//
// The payload of a token is the engine's token. A cursor is encrypted besides, because a place tells of rows that do not exist for the
// caller: where they are, and how many were passed over. It is, with XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) and a random nonce,
//
//	+---------+------+------------------+----------+-----------------------------+
//	| version | kind | issued, unix ns  | nonce    | a place as JSON, encrypted, |
//	| 1 byte  | 1    | 8, big endian    | 24 bytes | with its tag of 16 bytes    |
//	+---------+------+------------------+----------+-----------------------------+
//
// and opens for the request of the caller, and the datastore, that it belongs to: the additional data is all before the nonce, and a digest
// of those (16 bytes). A Sealer is safe for concurrent use.
type Sealer struct {
	key []byte
	// cursors encrypts cursors.
	cursors cipher.AEAD
	// hashes are keyed already, which is half of the work of a short text's seal.
	hashes sync.Pool
	// datastore is the id of the one that cursors are places in.
	datastore string
}

const (
	sealVersion = 1
	sealToken   = 1
	sealCursor  = 3 // 2 was one that could be read
	sealHead    = 10
	sealMAC     = 16
	maxSealed   = 16 << 10
)

// CheckSecret refuses a secret that is too short for a Sealer.
func CheckSecret(secret []byte) error {
	if len(secret) < 32 {
		return fmt.Errorf("the token key has %d bytes, fewer than 32", len(secret))
	}
	return nil
}

// NewSealer returns a Sealer whose key is derived from the secret, which is at least 32 bytes long.
//
// datastore is the id of the one behind the server, or "" where that is not known: a cursor of another one is not opened, because its
// engine could not tell that the place is none of its own.
func NewSealer(secret []byte, datastore string) (*Sealer, error) {
	if err := CheckSecret(secret); err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "deputy.v1 tokens and cursors", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("cannot derive the sealing key: %w", err)
	}
	cursorKey, err := hkdf.Key(sha256.New, secret, nil, "deputy.v1 cursors, encrypted", chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("cannot derive the key of cursors: %w", err)
	}
	cursors, err := chacha20poly1305.NewX(cursorKey)
	if err != nil {
		return nil, fmt.Errorf("cannot make the cipher of cursors: %w", err)
	}
	return &Sealer{key: key, cursors: cursors, datastore: datastore}, nil
}

func (s *Sealer) seal(kind byte, at time.Time, payload []byte) string {
	b := append(head(kind, at, len(payload)+sealMAC), payload...)
	mac := s.mac(b)
	return base64.RawURLEncoding.EncodeToString(append(b, mac[:]...))
}

// head is what begins a seal, with room for more bytes.
func head(kind byte, at time.Time, more int) []byte {
	b := make([]byte, sealHead, sealHead+more)
	b[0], b[1] = sealVersion, kind
	binary.BigEndian.PutUint64(b[2:], uint64(at.UnixNano()))
	return b
}

// issued reads the moment of a head.
func issued(b []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(b[2:sealHead]))) //nolint:gosec // see head
}

// mac returns the seal of b.
func (s *Sealer) mac(b []byte) (mac [sealMAC]byte) {
	h, ok := s.hashes.Get().(hash.Hash)
	if !ok {
		h = hmac.New(sha256.New, s.key)
	}
	defer s.hashes.Put(h)
	h.Reset()
	h.Write(b)
	var sum [sha256.Size]byte
	copy(mac[:], h.Sum(sum[:0]))
	return mac
}

// decodeSeal returns the bytes of a seal, or false for what cannot be one of that kind.
func decodeSeal(kind byte, text string) ([]byte, bool) {
	if len(text) > maxSealed {
		return nil, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return b, err == nil && len(b) >= sealHead+sealMAC && b[0] == sealVersion && b[1] == kind
}

// open returns what was sealed, or false for anything that this Sealer did not seal as that kind.
func (s *Sealer) open(kind byte, text string) (at time.Time, payload []byte, ok bool) {
	b, ok := decodeSeal(kind, text)
	if !ok {
		return time.Time{}, nil, false
	}
	body := b[:len(b)-sealMAC]
	mac := s.mac(body)
	if !hmac.Equal(b[len(body):], mac[:]) {
		return time.Time{}, nil, false
	}
	return issued(body), body[sealHead:], true
}

// token seals a revision that was the newest at the given moment.
func (s *Sealer) token(r authz.Revision, at time.Time) *deputyv1.ZedToken {
	return &deputyv1.ZedToken{Token: s.seal(sealToken, at, []byte(r.Token))}
}

// revision opens a token.
func (s *Sealer) revision(field string, t *deputyv1.ZedToken) (authz.Revision, time.Time, error) {
	at, payload, ok := s.open(sealToken, t.GetToken())
	if !ok {
		return authz.Revision{}, time.Time{}, &authz.Error{
			Kind: authz.Invalid, Reason: authz.ReasonInvalidToken, Field: field,
			Message: "is not a token that this deployment issued",
		}
	}
	return authz.Revision{Token: string(payload)}, at, nil
}

// within is the engine's token in a sealed one; "" where there is none.
func (s *Sealer) within(token string) string {
	if s == nil || token == "" {
		return ""
	}
	_, payload, _ := s.open(sealToken, token)
	return string(payload)
}

// cursor seals a place for the request with the digest.
func (s *Sealer) cursor(digest [16]byte, at time.Time, place any) (*deputyv1.Cursor, error) {
	plain, err := json.Marshal(place)
	if err != nil {
		return nil, fmt.Errorf("cannot encode a cursor: %w", err)
	}
	b := head(sealCursor, at, s.cursors.NonceSize()+len(plain)+s.cursors.Overhead())
	belongs := s.belongs(b, digest)
	b = b[:len(b)+s.cursors.NonceSize()]
	_, _ = rand.Read(b[sealHead:])                      // never fails, see crypto/rand
	b = s.cursors.Seal(b, b[sealHead:], plain, belongs) //nolint:gosec // the nonce was just drawn
	return &deputyv1.Cursor{Token: base64.RawURLEncoding.EncodeToString(b)}, nil
}

// belongs is what a cursor with the head is bound to: the request with the digest, to the datastore.
func (s *Sealer) belongs(head []byte, digest [16]byte) []byte {
	sum := sha256.Sum256(append(digest[:], s.datastore...))
	return slices.Concat(head, sum[:16])
}

// place opens a cursor of the request with the digest, and returns the moment that it was sealed with;
// none leaves the place as it is, and the moment is now.
func (s *Sealer) place(digest [16]byte, c *deputyv1.Cursor, place any, now time.Time) (time.Time, error) {
	if c.GetToken() == "" {
		return now, nil
	}
	plain, err := []byte(nil), error(nil)
	b, ok := decodeSeal(sealCursor, c.GetToken())
	if ok = ok && len(b) >= sealHead+s.cursors.NonceSize(); ok {
		nonce, sealed := b[sealHead:sealHead+s.cursors.NonceSize()], b[sealHead+s.cursors.NonceSize():]
		plain, err = s.cursors.Open(nil, nonce, sealed, s.belongs(b[:sealHead], digest))
	}
	if !ok || err != nil {
		return now, &authz.Error{
			Kind: authz.Invalid, Reason: authz.ReasonInvalidToken, Field: "cursor",
			Message: "is not a cursor that this deployment issued to this caller for this request",
		}
	}
	if err := json.Unmarshal(plain, place); err != nil {
		return now, fmt.Errorf("cannot decode a cursor: %w", err)
	}
	return issued(b), nil
}
