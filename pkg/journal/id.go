package journal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// MinSecret is how long the secret of a journal has to be, in bytes.
const MinSecret = 32

// IDs makes the ids of decisions and finds the records that they stand for. An id is one block of AES-256 over the journal's tag and the
// record's sequence, in hexadecimal: a reader with the secret finds the record without an index. To all others ids are random, so that
// they tell nothing of how much is decided. It is safe for concurrent use.
type IDs struct{ block cipher.Block }

// NewIDs returns the ids under a secret, which all nodes of a deployment share.
func NewIDs(secret []byte) (*IDs, error) {
	key, err := derive(secret, "the ids of decisions")
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return &IDs{block}, nil
}

// Tag is what an id has of the origin of a journal.
func Tag(origin string) [8]byte {
	sum := sha256.Sum256([]byte(origin))
	return [8]byte(sum[:8])
}

// Of returns the id of a record of the journal with a tag.
func (i *IDs) Of(tag [8]byte, sequence uint64) string {
	var b [aes.BlockSize]byte
	copy(b[:8], tag[:])
	binary.BigEndian.PutUint64(b[8:], sequence)
	i.block.Encrypt(b[:], b[:])
	return hex.EncodeToString(b[:])
}

// IsID reports whether a text has the form of a decision's id: 32 hexadecimal digits. Whether there is such a decision is another question.
func IsID(text string) bool {
	id, err := hex.DecodeString(text)
	return err == nil && len(id) == aes.BlockSize
}

// Find returns the tag of the journal that has the record, and its sequence; false for a text that is no id. One that was made up has a tag
// that no journal has.
func (i *IDs) Find(id string) (tag [8]byte, sequence uint64, ok bool) {
	var b [aes.BlockSize]byte
	if len(id) != hex.EncodedLen(len(b)) {
		return tag, 0, false
	}
	if _, err := hex.Decode(b[:], []byte(id)); err != nil {
		return tag, 0, false
	}
	i.block.Decrypt(b[:], b[:])
	copy(tag[:], b[:8])
	return tag, binary.BigEndian.Uint64(b[8:]), true
}

// derive returns the 32 bytes of a secret that are for one purpose.
func derive(secret []byte, purpose string) ([]byte, error) {
	if len(secret) < MinSecret {
		return nil, errors.New("journal: the secret is too short")
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "deputy journal: "+purpose, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return key, nil
}
