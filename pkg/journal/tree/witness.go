package tree

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// WitnessKey is the key of a witness that cosigns with Ed25519, C2SP tlog-cosignature.
type WitnessKey struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

// Name is the witness's name.
func (w *WitnessKey) Name() string { return w.name }

// ParseWitnessKey parses the key of a witness, in the notation of C2SP signed-note: its name, the hash of its key, and the key, with plus
// signs between them. golang.org/x/mod/sumdb/note knows only the keys of logs, whose type is 1.
func ParseWitnessKey(vkey string) (*WitnessKey, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	hash, encoded, _ := strings.Cut(rest, "+")
	sum, hashErr := strconv.ParseUint(hash, 16, 32)
	key, keyErr := base64.StdEncoding.DecodeString(encoded)
	if name == "" || len(hash) != 8 || hashErr != nil || keyErr != nil {
		return nil, errors.New("the key of a witness is written NAME+HASH+KEY, as it prints it itself")
	}
	if len(key) != 1+ed25519.PublicKeySize || key[0] != cosignatureType {
		return nil, fmt.Errorf("the key of the witness %s is not one of Ed25519 cosignatures, the type %d", name, cosignatureType)
	}
	digest := sha256.Sum256(append([]byte(name+"\n"), key...))
	if binary.BigEndian.Uint32(digest[:]) != uint32(sum) {
		return nil, fmt.Errorf("the key of the witness %s does not have the hash that is written with it", name)
	}
	return &WitnessKey{name: name, hash: uint32(sum), key: key[1:]}, nil
}

// verify verifies a cosignature under the text of a checkpoint, and returns the time that it is of.
func (w *WitnessKey) verify(text string, signature []byte) (time uint64, ok bool) {
	if len(signature) != cosignatureHeader+ed25519.SignatureSize {
		return 0, false
	}
	time = binary.BigEndian.Uint64(signature)
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", time, text)
	return time, ed25519.Verify(w.key, []byte(message), signature[cosignatureHeader:])
}
