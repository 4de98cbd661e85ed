package journal

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"math"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// ErrNoCheckpoint says that a journal has no checkpoint, or none yet that reaches a record.
var ErrNoCheckpoint = errors.New("no checkpoint of the journal reaches this record yet")

const (
	// sealTime is how long a proof waits for the next checkpoint, which comes every second, and sealLook how often it looks.
	sealTime = 5 * time.Second
	sealLook = 50 * time.Millisecond
)

// Checkpoint is the newest checkpoint of a journal, as it lies in its directory.
type Checkpoint struct {
	tree.Checkpoint
	// Text is the checkpoint, a C2SP signed note.
	Text []byte
	// Verifier is the key that verifies it, in the notation of C2SP signed-note. It comes from the same directory: somebody who changed the one could
	// change the other.
	Verifier string
}

// Checkpoint returns the newest checkpoint. Errors: ErrNoCheckpoint, one that is not signed with the journal's key, and those of reading.
func (r *Reader) Checkpoint() (*Checkpoint, error) {
	text, err := tree.ReadFile(r.fs, r.fs.PathJoin(r.dir, "checkpoint"), tree.MaxCheckpoint)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, ErrNoCheckpoint
	}
	if err != nil {
		return nil, fmt.Errorf("journal: cannot read the checkpoint: %w", err)
	}
	key, err := tree.ReadFile(r.fs, r.fs.PathJoin(r.dir, "verifier.key"), tree.MaxCheckpoint)
	if err != nil {
		return nil, fmt.Errorf("journal: cannot read the key that verifies checkpoints: %w", err)
	}
	c := &Checkpoint{Text: text, Verifier: strings.TrimSuffix(string(key), "\n")}
	verifier, err := note.NewVerifier(c.Verifier)
	if err != nil {
		return nil, fmt.Errorf("journal: the file %s does not hold a key: %w", r.fs.PathJoin(r.dir, "verifier.key"), err)
	}
	if c.Checkpoint, _, err = tree.ParseCheckpoint(text, verifier); err != nil {
		return nil, fmt.Errorf("journal: the checkpoint in %s: %w", r.dir, err)
	}
	return c, nil
}

// Prove returns a C2SP tlog-proof that a record stands in the journal that its newest checkpoint names. It waits a little for a
// checkpoint that reaches the record, which comes every second where a server writes the journal. Errors: ErrNoRecord, ErrNoCheckpoint, and those of reading.
func (r *Reader) Prove(ctx context.Context, sequence uint64) ([]byte, error) {
	end, err := r.End()
	if err != nil {
		return nil, err
	}
	if sequence >= end || sequence < r.First() {
		return nil, ErrNoRecord
	}
	c, err := r.sealed(ctx, sequence)
	if err != nil {
		return nil, err
	}
	t, err := r.Tree(c.Size)
	if err != nil {
		return nil, err
	}
	proof, err := t.Proof(sequence, c.Size, c.Text)
	if err != nil {
		return nil, fmt.Errorf("journal: the tree in %s: %w", r.dir, err)
	}
	return proof, nil
}

// Tree returns the tree over as many records, some of which may be in no bundle yet. Errors: there are fewer, and those of reading.
func (r *Reader) Tree(size uint64) (*tree.Tree, error) {
	for {
		first, bundles := r.saved()
		t, err := tree.Open(r.fs, r.dir, first*tree.Width, math.MaxUint64)
		if err != nil {
			return nil, fmt.Errorf("journal: the tree in %s: %w", r.dir, err)
		}
		if t.Size() >= size {
			return t, nil
		}
		next, err := r.newSegments().Read(t.Size(), size, func(_ uint64, record []byte) error { return t.Add(record) })
		if err == nil && next == size {
			return t, nil
		}
		if err == nil {
			err = fmt.Errorf("record %d is missing", next)
		}
		if moved, lookErr := r.moved(max(bundles, t.Saved()/tree.Width)); lookErr != nil || !moved {
			return nil, fmt.Errorf("journal: %s does not have all that its checkpoint is over: %w", r.dir, errors.Join(err, lookErr))
		}
	}
}

// sealed returns the newest checkpoint that reaches a record.
func (r *Reader) sealed(ctx context.Context, sequence uint64) (*Checkpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, sealTime)
	defer cancel()
	for {
		c, err := r.Checkpoint()
		if err == nil && c.Size > sequence {
			return c, nil
		}
		if err != nil && !errors.Is(err, ErrNoCheckpoint) {
			return nil, err
		}
		if rest(ctx, sealLook) != nil {
			return nil, ErrNoCheckpoint
		}
	}
}
