package tree

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// proofHeader begins a C2SP tlog-proof.
const proofHeader = "c2sp.org/tlog-proof@v1\n"

// MaxProof is how long a proof may be, in bytes.
const MaxProof = MaxCheckpoint + 1<<13

// Proof returns a C2SP tlog-proof that a record is in the log that a checkpoint names. checkpoint is the signed note, which goes into the
// proof as it is, and size the size that it says. Errors: ErrAbsent where the checkpoint is older than the record, ErrPruned, and those of reading.
func (t *Tree) Proof(index, size uint64, checkpoint []byte) ([]byte, error) {
	hashes, err := t.Prove(index, size)
	if err != nil {
		return nil, err
	}
	b := fmt.Appendf([]byte(proofHeader), "index %d\n", index)
	for _, h := range hashes {
		b = append(b, h.String()+"\n"...)
	}
	return append(append(b, '\n'), checkpoint...), nil
}

// CheckProof checks a C2SP tlog-proof of a record, and returns where the record stands and in which checkpoint. verifier is the key of the log.
// Errors: the proof does not prove it.
func CheckProof(proof, record []byte, verifier note.Verifier) (index uint64, c Checkpoint, err error) {
	if len(proof) > MaxProof {
		return 0, Checkpoint{}, fmt.Errorf("the proof is longer than %d bytes", MaxProof)
	}
	head, checkpoint, found := bytes.Cut(proof, []byte("\n\n"))
	rest, isProof := strings.CutPrefix(string(head)+"\n", proofHeader)
	if !found || !isProof {
		return 0, Checkpoint{}, errors.New("it is not a C2SP tlog-proof")
	}
	if c, _, err = ParseCheckpoint(checkpoint, verifier); err != nil {
		return 0, Checkpoint{}, fmt.Errorf("the checkpoint of the proof: %w", err)
	}
	lines := strings.Split(strings.TrimSuffix(rest, "\n"), "\n")
	if strings.HasPrefix(lines[0], "extra ") {
		lines = lines[1:]
	}
	if len(lines) == 0 {
		return 0, Checkpoint{}, errors.New("the proof has no index")
	}
	text, isIndex := strings.CutPrefix(lines[0], "index ")
	n, err := strconv.ParseInt(text, 10, 64)
	if !isIndex || err != nil || n < 0 || strconv.FormatInt(n, 10) != text {
		return 0, Checkpoint{}, errors.New("the proof has no index")
	}
	hashes := make(tlog.RecordProof, len(lines)-1)
	for i, line := range lines[1:] {
		if hashes[i], err = tlog.ParseHash(line); err != nil || hashes[i].String() != line {
			return 0, Checkpoint{}, errors.New("a line of the proof is not a hash")
		}
	}
	index = uint64(n)
	if index >= c.Size {
		return 0, Checkpoint{}, errors.New("the proof is of a record that its checkpoint does not reach")
	}
	if err := tlog.CheckRecord(hashes, int64(c.Size), c.Root, n, tlog.RecordHash(record)); err != nil { //nolint:gosec // below 2^63
		return 0, Checkpoint{}, fmt.Errorf("the record is not the one that is proven: %w", err)
	}
	return index, c, nil
}
