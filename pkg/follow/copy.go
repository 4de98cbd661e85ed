package follow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/store"
)

// A mark is what a copy says of itself, in each of its commits. Its text is JSON, so that an operator can read it.
type mark struct {
	// Format is markFormat. A copy with another one is loaded anew.
	Format int `json:"format"`
	// Position is the state that the copy is of.
	Position Position `json:"position"`
	// Loading is set while the copy is not yet all of the position; see load.go.
	Loading *loading `json:"loading,omitempty"`
}

const markFormat = 2

// loading is how far a load is.
type loading struct {
	// Next is where the next page begins; see State.Page.
	Next string `json:"next,omitempty"`
	// Paged says that there is no other page.
	Paged bool `json:"paged,omitempty"`
	// Relationships is how many the pages so far have.
	Relationships uint64 `json:"relationships"`
	// Early says that relationships may be there that no page has covered yet.
	Early bool `json:"early,omitempty"`
	// Torn says that a part of what has changed since the position is there, and the rest is not.
	Torn bool `json:"torn,omitempty"`
}

// replica is one copy: a store with its mark. Its fields are guarded by its follower's turn, but for holders.
type replica struct {
	dir    string
	number int
	store  *store.Store
	// mark is what is on the disk, and text how it is written there.
	mark mark
	text []byte
	at   reached

	// holders is how many read it, distrusted that it is not to be read any more. The follower's mu guards both.
	holders    int
	distrusted bool
}

// reached is a position that a copy has reached, and the local revision that is the copy of it. It may be later than the mark's: then nothing has
// changed between the two.
type reached struct {
	position Position
	local    store.Revision
}

// errNoMark says that a store is no copy, or one of a version that wrote another mark.
var errNoMark = errors.New("follow: the store has no mark that this version reads")

// openReplica opens a copy that is there.
func openReplica(dir string, number int, config store.Config) (*replica, error) {
	opened, err := store.Open(dir, config)
	if err != nil {
		return nil, err
	}
	r := &replica{dir: dir, number: number, store: opened}
	if err := r.readMark(); err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	return r, nil
}

func (r *replica) readMark() error {
	head, err := r.store.Head()
	if err != nil {
		return err
	}
	text, found, err := r.store.Mark(head)
	if err != nil {
		return err
	}
	var m mark
	if !found || json.Unmarshal(text, &m) != nil || m.Format != markFormat {
		return errNoMark
	}
	r.mark, r.text, r.at = m, text, reached{m.Position, head}
	return nil
}

// commit writes changes to the copy, with a mark that holds once they are written; see marked.
func (r *replica) commit(ctx context.Context, m mark, c *Changes) error {
	return r.marked(ctx, m, func(ctx context.Context, follows, text []byte) (store.Revision, error) {
		return r.store.WriteMarked(context.WithoutCancel(ctx), follows, text, func(_ context.Context, tx datastore.ReadWriteTransaction) error {
			return write(ctx, tx, c)
		})
	})
}

// fill writes relationships to the copy, of which some may be there already, with a mark; see marked.
func (r *replica) fill(ctx context.Context, m mark, rels []tuple.Relationship, some bool) error {
	return r.marked(ctx, m, func(ctx context.Context, follows, text []byte) (store.Revision, error) {
		return r.store.Fill(ctx, follows, text, rels, some)
	})
}

// marked has the copy written to, with a mark that holds once it is written. What is written is gathered until ctx ends; the commit does not end with
// it, because then nobody would know whether it took place. Where that is not known for another reason, a later commit that builds on the wrong mark is
// refused, and the mark is read again.
func (r *replica) marked(ctx context.Context, m mark, write func(ctx context.Context, follows, text []byte) (store.Revision, error)) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("follow: the mark: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	local, err := write(ctx, r.text, text)
	if errors.Is(err, store.ErrMark) {
		err = errors.Join(err, r.readMark())
	}
	if errors.Is(err, store.ErrTooLarge) {
		err = fmt.Errorf("%w: %w", ErrTooMany, err) // however few they are: no later try has fewer
	}
	if err != nil {
		return fmt.Errorf("follow: writing to the copy: %w", err)
	}
	r.mark, r.text, r.at = m, text, reached{m.Position, local}
	return nil
}

// apply brings the copy to the position that changes lead to. They must begin where the copy is. Where nothing has changed, the position is
// written down only if the one on the disk is older than that.
func (r *replica) apply(ctx context.Context, changes *Changes, older time.Duration) error {
	if changes.Empty() && changes.To.At.Sub(r.mark.Position.At) < older {
		r.at.position = changes.To
		return nil
	}
	return r.commit(ctx, mark{Format: markFormat, Position: changes.To}, changes)
}

// write writes changes in one transaction.
func write(ctx context.Context, tx datastore.ReadWriteTransaction, c *Changes) error {
	if err := tx.LegacyDeleteCaveats(ctx, c.DeletedCaveats); err != nil {
		return err
	}
	// Their relationships were deleted by the authority, or are still there.
	if err := tx.LegacyDeleteNamespaces(ctx, c.DeletedTypes, datastore.DeleteNamespacesOnly); err != nil {
		return err
	}
	if err := tx.LegacyWriteCaveats(ctx, c.Definitions.Caveats); err != nil {
		return err
	}
	if err := tx.LegacyWriteNamespaces(ctx, c.Definitions.Types...); err != nil {
		return err
	}
	for _, name := range c.DeletedCounters {
		if err := tx.UnregisterCounter(ctx, name); err != nil {
			return err
		}
	}
	for _, counter := range c.Definitions.Counters {
		if err := tx.RegisterCounter(ctx, counter.Name, counter.Filter); err != nil {
			return err
		}
	}
	updates := make([]tuple.RelationshipUpdate, 0, len(c.Deleted)+len(c.Written))
	for _, rel := range c.Deleted {
		updates = append(updates, tuple.Delete(rel))
	}
	for _, rel := range c.Written {
		updates = append(updates, tuple.Touch(rel))
	}
	for part := range slices.Chunk(updates, writtenAtOnce) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := tx.WriteRelationships(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// writtenAtOnce is after how many relationships it is looked whether the writing is still wanted.
const writtenAtOnce = 4096

// What is on the disk. A follower's directory holds the copy that is served, those that somebody still reads, and one that is being made, and nothing
// else: what cannot be removed when it is not needed any more is removed before the next copy is begun, and by the next start.

// left are copies that were to be removed and are still there. It is safe for concurrent use.
type left struct {
	mu sync.Mutex
	// closed are the directories of those that nothing uses any more, open is how many others there are.
	closed []string
	open   int
}

// maxOpen is how many copies that could not be closed there may be for another one to be begun.
const maxOpen = 2

// note notes a copy by the error of closing it.
func (l *left) note(dir string, closing error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(closing, store.ErrStillOpen) {
		l.open++
		return
	}
	l.closed = append(l.closed, dir)
}

// clear removes what it can, and refuses another copy where there are too many.
func (l *left) clear(remove func(dir string) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	l.closed = slices.DeleteFunc(l.closed, func(dir string) bool {
		failed := remove(dir)
		if failed != nil && !errors.Is(failed, fs.ErrNotExist) {
			err = errors.Join(err, failed)
			return false
		}
		return true
	})
	if err == nil && l.open >= maxOpen {
		err = fmt.Errorf("follow: %d copies that are not needed any more are still in use, so that no other one is made: start this server again", l.open)
	}
	return err
}

// drop closes a copy and removes it. One that cannot be closed is left for the next start: something may still write to its files.
func (f *Follower) drop(r *replica) error {
	err := r.store.Close()
	if errors.Is(err, store.ErrStillOpen) {
		f.left.note(r.dir, err)
		return err
	}
	// A store that has failed says so once more when it is closed.
	if r.store.Failed() != nil {
		err = nil
	}
	removed := f.remove(r.dir)
	if removed != nil {
		f.left.note(r.dir, nil)
	}
	return errors.Join(err, removed)
}

// abandon removes the copy that is being made, if there is one: it is not needed, because the one that is served follows. The turn is held.
func (f *Follower) abandon() {
	if f.half != nil {
		half := f.half
		f.half = nil
		f.bury(half)
	}
}
