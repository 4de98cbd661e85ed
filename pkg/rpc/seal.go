package rpc

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"sync"
	"time"

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
// The payload of a token is the engine's token; that of a cursor is a digest of the request, and of the
// datastore, that it belongs to (16 bytes) and a place as JSON. A Sealer is safe for concurrent use.
type Sealer struct {
	key []byte
	// hashes are keyed already, which is half of the work of a short text's seal.
	hashes sync.Pool
	// datastore is the id of the one that cursors are places in.
	datastore string
}

const (
	sealVersion = 1
	sealToken   = 1
	sealCursor  = 2
	sealHead    = 10
	sealMAC     = 16
	maxSealed   = 16 << 10
)

// NewSealer returns a Sealer whose key is derived from the secret, which is at least 32 bytes long.
//
// datastore is the id of the one behind the server, or "" where that is not known: a cursor of another one is not opened, because its
// engine could not tell that the place is none of its own.
func NewSealer(secret []byte, datastore string) (*Sealer, error) {
	if len(secret) < 32 {
		return nil, fmt.Errorf("the token key has %d bytes, fewer than 32", len(secret))
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "deputy.v1 tokens and cursors", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("cannot derive the sealing key: %w", err)
	}
	return &Sealer{key: key, datastore: datastore}, nil
}

func (s *Sealer) seal(kind byte, at time.Time, payload []byte) string {
	b := make([]byte, sealHead, sealHead+len(payload)+sealMAC)
	b[0], b[1] = sealVersion, kind
	binary.BigEndian.PutUint64(b[2:], uint64(at.UnixNano()))
	b = append(b, payload...)
	mac := s.mac(b)
	return base64.RawURLEncoding.EncodeToString(append(b, mac[:]...))
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

// open returns what was sealed, or false for anything that this Sealer did not seal as that kind.
func (s *Sealer) open(kind byte, text string) (at time.Time, payload []byte, ok bool) {
	if len(text) > maxSealed {
		return time.Time{}, nil, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < sealHead+sealMAC {
		return time.Time{}, nil, false
	}
	body := b[:len(b)-sealMAC]
	mac := s.mac(body)
	if !hmac.Equal(b[len(body):], mac[:]) || body[0] != sealVersion || body[1] != kind {
		return time.Time{}, nil, false
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(body[2:]))), body[sealHead:], true //nolint:gosec // see seal
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

// cursor seals a place for the request with the digest.
func (s *Sealer) cursor(digest [16]byte, at time.Time, place any) (*deputyv1.Cursor, error) {
	b, err := json.Marshal(place)
	if err != nil {
		return nil, fmt.Errorf("cannot encode a cursor: %w", err)
	}
	digest = s.within(digest)
	return &deputyv1.Cursor{Token: s.seal(sealCursor, at, append(digest[:], b...))}, nil
}

// within is the digest of a request to the datastore.
func (s *Sealer) within(digest [16]byte) [16]byte {
	sum := sha256.Sum256(append(digest[:], s.datastore...))
	return [16]byte(sum[:16])
}

// place opens a cursor of the request with the digest, and returns the moment that it was sealed with;
// none leaves the place as it is, and the moment is now.
func (s *Sealer) place(digest [16]byte, c *deputyv1.Cursor, place any, now time.Time) (time.Time, error) {
	if c.GetToken() == "" {
		return now, nil
	}
	at, payload, ok := s.open(sealCursor, c.GetToken())
	if !ok || len(payload) < len(digest) || [16]byte(payload[:16]) != s.within(digest) {
		return now, &authz.Error{
			Kind: authz.Invalid, Reason: authz.ReasonInvalidToken, Field: "cursor",
			Message: "is not a cursor that this deployment issued for this request",
		}
	}
	if err := json.Unmarshal(payload[16:], place); err != nil {
		return now, fmt.Errorf("cannot decode a cursor: %w", err)
	}
	return at, nil
}
