package tree

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// MaxCheckpoint is how long a checkpoint may be, in bytes.
const MaxCheckpoint = 1 << 16

// Checkpoint is what a C2SP tlog-checkpoint says: a log, and what it was when it had so many records.
//
//	deputy/STORE/journal/NODE                      the origin
//	20852163                                       the size
//	CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=   the root
//
//	— deputy/STORE/journal/NODE Az3grlgt…          a signature, or more
type Checkpoint struct {
	// Origin names the log.
	Origin string
	// Size is how many records it had.
	Size uint64
	// Root is the root of the tree over them.
	Root tlog.Hash
}

// text is what is signed.
func (c Checkpoint) text() string { return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root) }

// Sign returns the checkpoint as a signed note.
func (c Checkpoint) Sign(signer note.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.text()}, signer) //nolint:wrapcheck // it says that signing failed
}

// ErrSignature says that a checkpoint was not signed with the key of its log.
var ErrSignature = errors.New("it is not signed with the key of the journal")

// ParseCheckpoint returns what a checkpoint says that the log's key signed, and how many other signatures it has, which are not looked at.
// Nothing of it is read before it is verified. Errors: ErrSignature, and whatever is not written as a checkpoint is: each has one text.
func ParseCheckpoint(b []byte, verifier note.Verifier) (c Checkpoint, others int, err error) {
	if len(b) > MaxCheckpoint {
		return Checkpoint{}, 0, fmt.Errorf("it is longer than %d bytes", MaxCheckpoint)
	}
	n, err := openNote(b, verifier)
	if err != nil {
		return Checkpoint{}, 0, err
	}
	if c, err = parseText(n.Text); err != nil {
		return Checkpoint{}, 0, err
	}
	if c.Origin != verifier.Name() {
		return Checkpoint{}, 0, fmt.Errorf("it is of the log %q, not of %q", c.Origin, verifier.Name())
	}
	return c, len(n.UnverifiedSigs), nil
}

// OpenNote returns the text of a signed note that has one signature, the key's. Errors: ErrSignature, and it is not written as notes are.
func OpenNote(b []byte, verifier note.Verifier) (string, error) {
	n, err := openNote(b, verifier)
	if err != nil {
		return "", err
	}
	if len(n.UnverifiedSigs) > 0 {
		return "", errors.New("it has signatures of other keys")
	}
	return n.Text, nil
}

// openNote opens a note that the key signed, once. Other signatures are not verified.
func openNote(b []byte, verifier note.Verifier) (*note.Note, error) {
	n, err := note.Open(b, note.VerifierList(verifier))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	// Open passes over a second signature of the same key.
	if len(n.Sigs) != 1 || !canonical(b, 1+len(n.UnverifiedSigs)) {
		return nil, errors.New("its signatures are not written as they are made")
	}
	return n, nil
}

// parseText parses what is signed, and takes nothing but what Checkpoint.text makes.
func parseText(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] == "" {
		return Checkpoint{}, errors.New("it does not have three lines")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return Checkpoint{}, errors.New("its second line is not a size")
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return Checkpoint{}, errors.New("its third line is not a root")
	}
	c := Checkpoint{Origin: lines[0], Size: uint64(size), Root: root} //nolint:gosec // compared below
	if size < 0 || c.text() != text {
		return Checkpoint{}, errors.New("it is not written as checkpoints are")
	}
	return c, nil
}

// canonical reports whether there are so many lines of signatures, each as base64 makes it: it leaves bits of its last character unused, and
// Go's reads over them.
func canonical(b []byte, count int) bool {
	split := strings.LastIndex(string(b), "\n\n")
	if split < 0 {
		return false
	}
	signatures := string(b[split+2:])
	lines := strings.SplitAfter(signatures, "\n")
	if len(lines) != count+1 || lines[count] != "" {
		return false
	}
	for _, line := range lines[:count] {
		name, signature, found := strings.Cut(strings.TrimPrefix(line, "— "), " ")
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(signature, "\n"))
		if !found || err != nil || line != "— "+name+" "+base64.StdEncoding.EncodeToString(raw)+"\n" {
			return false
		}
	}
	return true
}

// Cosignature is the signature of a witness under a checkpoint, C2SP tlog-cosignature.
const (
	cosignatureType   = 4
	cosignatureHeader = 8
)

// VerifyCosignature returns the line of a witness's signature under a checkpoint, among those that the witness answered, and when it
// signed, in seconds since 1970. witness is its key in the notation of C2SP signed-note, of an Ed25519 cosignature. Errors: there is no such
// line, or it does not verify.
func VerifyCosignature(checkpoint []byte, lines string, witness string) (line string, time uint64, err error) {
	v, err := ParseWitnessKey(witness)
	if err != nil {
		return "", 0, err
	}
	text, _, found := strings.Cut(string(checkpoint), "\n\n")
	if !found {
		return "", 0, errors.New("the checkpoint is not a signed note")
	}
	for line := range strings.Lines(lines) {
		name, signature, found := strings.Cut(strings.TrimPrefix(line, "— "), " ")
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(signature, "\n"))
		if !found || err != nil || name != v.name || len(raw) < 4 || binary.BigEndian.Uint32(raw) != v.hash {
			continue
		}
		if line != "— "+name+" "+base64.StdEncoding.EncodeToString(raw)+"\n" {
			return "", 0, errors.New("the witness's signature is not written as it is made")
		}
		time, ok := v.verify(text+"\n", raw[4:])
		if !ok {
			return "", 0, errors.New("the witness's signature does not verify")
		}
		return line, time, nil
	}
	return "", 0, fmt.Errorf("there is no signature of the witness %s", v.name)
}
