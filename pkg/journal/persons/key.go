package persons

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"sync"
)

const (
	tagSize = 16
	keySize = 32
	// Overhead is how much longer than a text it is when it is sealed, in bytes.
	Overhead = 12 + 16
)

// ErrErased is what is returned for a key that is not there: it was destroyed, or is in no copy of the file.
var ErrErased = errors.New("the person's key is not there: it was destroyed")

// Tag names the key of a person in a tenant. Without the secret it says nothing.
type Tag [tagSize]byte

// Person is somebody that a key is for: a user, in a tenant. Without Type and ID it is the tenant itself, whose key seals what is nobody's
// else.
type Person struct{ Tenant, Type, ID string }

// Key is a person's key. It is safe for concurrent use.
type Key struct {
	tag    Tag
	secret [keySize]byte
}

// Tag is the key's name.
func (k *Key) Tag() Tag { return k.tag }

// Seal appends to dst a text, sealed with AES-256-GCM under a random nonce, which comes first. What is beside is authenticated with it.
func (k *Key) Seal(dst, text, beside []byte) []byte {
	aead := k.aead()
	start := len(dst)
	dst = append(dst, make([]byte, aead.NonceSize())...)
	nonce := dst[start:]
	_, _ = rand.Read(nonce) // never fails, see crypto/rand
	return aead.Seal(dst, nonce, text, beside)
}

// Open returns the text that Seal has sealed, with what was beside. Errors: it was not sealed so.
func (k *Key) Open(sealed, beside []byte) ([]byte, error) {
	aead := k.aead()
	if len(sealed) < aead.NonceSize() {
		return nil, errors.New("what is sealed is too short")
	}
	text, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], beside)
	if err != nil {
		return nil, errors.New("it was not sealed with this key, or is not as it was")
	}
	return text, nil
}

func (k *Key) aead() cipher.AEAD {
	block, err := aes.NewCipher(k.secret[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has the right block
	}
	return aead
}

// Digest returns a digest of parts for a purpose, which nobody can compute without the key. Parts that are divided otherwise have another digest.
func (k *Key) Digest(purpose string, parts ...string) []byte {
	h := hmac.New(sha256.New, k.secret[:])
	write(h, purpose)
	for _, part := range parts {
		write(h, part)
	}
	return h.Sum(nil)
}

// write writes a text with its length.
func write(h hash.Hash, text string) {
	var length [8]byte
	binary.LittleEndian.PutUint64(length[:], uint64(len(text)))
	_, _ = h.Write(length[:])
	_, _ = h.Write([]byte(text))
}

// crypto is what is derived from the secret. It is safe for concurrent use.
type crypto struct {
	// wrap seals keys.
	wrap cipher.AEAD
	// macs are HMACs that make tags.
	macs sync.Pool
}

// minSecret is how long the secret has to be, in bytes.
const minSecret = 32

func newCrypto(secret []byte) (*crypto, error) {
	if len(secret) < minSecret {
		return nil, fmt.Errorf("persons: the secret has %d bytes and needs %d", len(secret), minSecret)
	}
	var keys [2][]byte
	for i, purpose := range [2]string{"the sealing of keys", "the tags of keys"} {
		var err error
		if keys[i], err = hkdf.Key(sha256.New, secret, nil, "deputy persons: "+purpose, sha256.Size); err != nil {
			return nil, fmt.Errorf("persons: %w", err)
		}
	}
	return &crypto{
		wrap: (&Key{secret: [keySize]byte(keys[0])}).aead(),
		macs: sync.Pool{New: func() any { return hmac.New(sha256.New, keys[1]) }},
	}, nil
}

// mac returns a tag of parts.
func (c *crypto) mac(parts ...string) Tag {
	h, _ := c.macs.Get().(hash.Hash)
	defer c.macs.Put(h)
	h.Reset()
	for _, part := range parts {
		write(h, part)
	}
	var sum [sha256.Size]byte
	return Tag(h.Sum(sum[:0])[:tagSize])
}

// tag names the key of a person in a tenant.
func (c *crypto) tag(p Person) Tag { return c.mac("tenant", p.Tenant, p.Type, p.ID) }

// person is what the keys of a person in all tenants have in common.
func (c *crypto) person(p Person) Tag { return c.mac("person", p.Type, p.ID) }
