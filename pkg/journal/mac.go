package journal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// macSize is how long the MAC of a frame is, in bytes.
const macSize = 16

// macAt is where the MAC of a frame begins.
const macAt = 8

// macKey derives the key of the MACs of one journal's frames from its secret, so that a frame of another journal under the same secret does not
// fit.
func macKey(secret []byte, origin string) ([]byte, error) {
	return derive(secret, "the records of "+origin)
}

// frameMAC computes the MACs of a journal's frames: HMAC-SHA256 (RFC 2104), of which the first 16 bytes are taken, over the length of the record
// and the record. Each frame has one of its own, so that whatever a crash leaves of a segment can be checked. It is not safe for concurrent use.
type frameMAC struct {
	hash hash.Hash
	sum  [sha256.Size]byte
}

// newFrameMAC returns what computes MACs under a key of macKey.
func newFrameMAC(key []byte) *frameMAC { return &frameMAC{hash: hmac.New(sha256.New, key)} }

// of returns the MAC of a frame. It is good until the next call.
func (m *frameMAC) of(frame []byte) []byte {
	m.hash.Reset()
	_, _ = m.hash.Write(frame[:4]) // never fails, see hash.Hash
	_, _ = m.hash.Write(frame[frameHeader:])
	return m.hash.Sum(m.sum[:0])[:macSize]
}

// seal fills in the MACs and the sums of frames, whose lengths and sequences are right.
func (m *frameMAC) seal(frames []byte) {
	for len(frames) > 0 {
		frame := frameOf(frames)
		copy(frame[macAt:frameHeader], m.of(frame))
		binary.LittleEndian.PutUint32(frame[4:], frameSum(frame))
		frames = frames[len(frame):]
	}
}

// fits reports whether a frame has the MAC that it has to have.
func (m *frameMAC) fits(frame []byte) bool { return hmac.Equal(frame[macAt:frameHeader], m.of(frame)) }
