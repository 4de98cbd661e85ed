package persons

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"hash/crc32"
)

const (
	magic = "deputy persons 1"
	// slotSize is how long a slot is, and the rest where its parts begin.
	slotSize    = 128
	personAt    = tagSize
	nonceAt     = personAt + tagSize
	keyAt       = nonceAt + 12
	keyEnd      = keyAt + keySize + 16
	slotSum     = slotSize - 4
	wholeTagEnd = nonceAt
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// slot is what a slot of the file holds.
type slot [slotSize]byte

// sum completes a slot.
func (s *slot) sum() {
	binary.LittleEndian.PutUint32(s[slotSum:], crc32.Checksum(s[:slotSum], castagnoli))
}

// sound reports whether a slot is as it was written.
func (s *slot) sound() bool {
	return crc32.Checksum(s[:slotSum], castagnoli) == binary.LittleEndian.Uint32(s[slotSum:])
}

// empty reports whether a slot is nobody's.
func (s *slot) empty() bool { return *s == slot{} }

func (s *slot) tag() Tag    { return Tag(s[:tagSize]) }
func (s *slot) person() Tag { return Tag(s[personAt:wholeTagEnd]) }

// header is slot 0.
func (c *crypto) header() *slot {
	s := new(slot)
	copy(s[:], magic)
	check := c.mac("file")
	copy(s[personAt:], check[:])
	s.sum()
	return s
}

// checkHeader refuses a slot 0 that is not the one of a file for this secret.
func (c *crypto) checkHeader(s *slot) error {
	switch {
	case !bytes.HasPrefix(s[:], []byte(magic)) || !s.sound():
		return errors.New("it does not begin as a file of persons' keys does")
	case *s != *c.header():
		return errors.New("it was made with another secret than the one in secret.key: put both files back from the same copy")
	}
	return nil
}

// fill makes a slot with a new key for a person.
func (c *crypto) fill(tag, person Tag) (*slot, *Key) {
	s, k := new(slot), &Key{tag: tag}
	_, _ = rand.Read(k.secret[:]) // never fails, see crypto/rand
	copy(s[:], tag[:])
	copy(s[personAt:], person[:])
	_, _ = rand.Read(s[nonceAt:keyAt])
	c.wrap.Seal(s[keyAt:keyAt], s[nonceAt:keyAt], k.secret[:], s[:wholeTagEnd])
	s.sum()
	return s, k
}

// open returns the key in a slot, which is sound.
func (c *crypto) open(s *slot) (*Key, error) {
	k := &Key{tag: s.tag()}
	if _, err := c.wrap.Open(k.secret[:0], s[nonceAt:keyAt], s[keyAt:keyEnd], s[:wholeTagEnd]); err != nil {
		return nil, errors.New("a key in it was not sealed with the secret in secret.key")
	}
	return k, nil
}
