package follow

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/store"
)

// Promoted is what became of a copy.
type Promoted struct {
	// Position is the state of the authority that the copy had reached. What the authority has acknowledged after Position.At may be missing.
	Position Position
	// Store is the new store's id, and Relationships about how many relationships it has.
	Store         string
	Relationships uint64
}

// ErrMoved says that a copy was promoted and is at the place that it was moved to, but that the file system did not say that the move is on the disk.
// Nothing else is missing. After a crash of the machine the store is at one of the two places; if it is a copy still, Promote may be called again.
var ErrMoved = errors.New("the copy is promoted, and was moved, but whether the move is on the disk is not known")

// ErrPromoted says that the place to promote to has a promoted copy already.
var ErrPromoted = errors.New("a copy was promoted to it already")

// ErrOccupied says that the place to promote to is not free, and ErrElsewhere that it is on another file system than the copy.
var (
	ErrOccupied  = errors.New("it is there already, and the place to promote to must not exist")
	ErrElsewhere = errors.New("it is on another file system than the copy, which can only be moved on the same one")
)

// Promote makes the newest complete copy in a follower's directory, which no follower may have open, a store of its own, and moves it to a place that
// does not exist, on the same file system. The store gets an id of its own, so that what names the authority's revisions cannot name
// its revisions.
//
// The move is one step, and the last one. With each error but ErrMoved and ErrPromoted the copy is where it was, complete, and at most its store has
// another id, which says nothing to a follower: Promote may be called again, and a follower may be started.
//
// Errors: ErrOccupied and ErrElsewhere, about the place.
//
// fits says whether a position is one of an authority whose copy may be promoted. Errors: ErrNoCopy, ErrMoved, ErrPromoted where there is no copy and
// the place has one that was promoted, those of store.Open, and fits'.
func Promote(dir, to string, config store.Config, fits func(Position) error) (Promoted, error) {
	files := cmp.Or[vfs.FS](config.FS, vfs.Default)
	promoted, from, err := promotable(files, dir, config)
	if errors.Is(err, ErrNoCopy) && wasPromoted(files, to, config) {
		err = fmt.Errorf("%w: it is in %s; start a server over it", ErrPromoted, to)
	}
	if err != nil {
		return Promoted{}, fmt.Errorf("follow: cannot promote the copy in %s: %w", dir, err)
	}
	if err := fits(promoted.Position); err != nil {
		return Promoted{}, fmt.Errorf("follow: cannot promote the copy in %s: %w", dir, err)
	}
	if _, err := files.Stat(to); !errors.Is(err, fs.ErrNotExist) {
		return Promoted{}, fmt.Errorf("follow: cannot promote the copy in %s to %s: %w", dir, to, ErrOccupied)
	}
	if promoted.Store, err = store.Rename(from, config); err != nil {
		return Promoted{}, err
	}
	// The program that made the directory of the place may not have synced that; where it cannot be done, nothing is worse than before.
	_ = syncDir(files, files.PathDir(files.PathDir(to)))
	switch err := files.Rename(from, to); {
	case errors.Is(err, syscall.EXDEV):
		return Promoted{}, fmt.Errorf("follow: the copy is in %s, as it was, because it cannot be moved to %s: %w: "+
			"name a place there, or copy the directory %s there first (%w)", from, to, ErrElsewhere, dir, err)
	case err != nil:
		return Promoted{}, fmt.Errorf("follow: the copy is in %s, as it was, because it cannot be moved to %s: %w", from, to, err)
	}
	if err := errors.Join(syncDir(files, files.PathDir(to)), syncDir(files, files.PathDir(from))); err != nil {
		return promoted, fmt.Errorf("%w: it is in %s, and was in %s: %w", ErrMoved, to, from, err)
	}
	return promoted, nil
}

// wasPromoted reports whether a directory has a promoted copy: a store that has the mark of a complete one.
func wasPromoted(files vfs.FS, dir string, config store.Config) bool {
	if _, err := files.Stat(dir); err != nil {
		return false // a store would be made
	}
	r, err := openReplica(dir, 0, config)
	if err != nil {
		return false
	}
	complete := r.mark.Loading == nil
	return r.store.Close() == nil && complete
}

// promotable opens the newest complete copy, to see whether it can be read, and says where it is.
func promotable(files vfs.FS, dir string, config store.Config) (Promoted, string, error) {
	numbers, _, err := copiesIn(files, dir)
	if err != nil {
		return Promoted{}, "", err
	}
	for _, n := range numbers {
		at := copyDir(files, dir, n)
		r, err := openReplica(at, n, config)
		if errors.Is(err, errNoMark) {
			continue // it ended before its first commit
		}
		if err != nil {
			return Promoted{}, "", err
		}
		figures, err := r.store.Figures()
		if err := errors.Join(err, r.store.Close()); err != nil {
			return Promoted{}, "", err
		}
		if r.mark.Loading == nil {
			return Promoted{Position: r.mark.Position, Relationships: figures.Relationships}, at, nil
		}
	}
	return Promoted{}, "", ErrNoCopy
}

// syncDir has the names in a directory be on the disk.
func syncDir(files vfs.FS, dir string) error {
	d, err := files.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
