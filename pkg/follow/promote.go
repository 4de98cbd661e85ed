package follow

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

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

// Promote makes the newest complete copy in a follower's directory, which no follower may have open, a store of its own, and moves it to a place that
// does not exist, on the same file system. The store gets an id of its own, so that what names the authority's revisions cannot name
// its revisions. Where it fails before the end, the copy is as it was, and Promote may be called again.
//
// fits says whether a position is one of an authority whose copy may be promoted. Errors: ErrNoCopy, those of store.Open, and fits'.
func Promote(dir, to string, config store.Config, fits func(Position) error) (Promoted, error) {
	files := cmp.Or[vfs.FS](config.FS, vfs.Default)
	promoted, from, err := promotable(files, dir, config)
	if err != nil {
		return Promoted{}, fmt.Errorf("follow: cannot promote the copy in %s: %w", dir, err)
	}
	if err := fits(promoted.Position); err != nil {
		return Promoted{}, fmt.Errorf("follow: cannot promote the copy in %s: %w", dir, err)
	}
	if _, err := files.Stat(to); !errors.Is(err, fs.ErrNotExist) {
		return Promoted{}, fmt.Errorf("follow: cannot promote the copy in %s: %s is there already; name a place that does not exist", dir, to)
	}
	if promoted.Store, err = store.Rename(from, config); err != nil {
		return Promoted{}, err
	}
	if err := moveDir(files, from, to); err != nil {
		return Promoted{}, fmt.Errorf("follow: the copy cannot be moved from %s to %s: %w", from, to, err)
	}
	return promoted, nil
}

// promotable opens the newest complete copy, to see whether it can be read, and says where it is.
func promotable(files vfs.FS, dir string, config store.Config) (Promoted, string, error) {
	names, err := files.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Promoted{}, "", err
	}
	var numbers []int
	for _, name := range names {
		if n, err := strconv.Atoi(strings.TrimPrefix(name, copyPrefix)); err == nil && n > 0 && name == copyPrefix+strconv.Itoa(n) {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for _, n := range slices.Backward(numbers) {
		at := files.PathJoin(dir, copyPrefix+strconv.Itoa(n))
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

// moveDir moves a directory, so that a crash leaves it at one of the two places.
func moveDir(files vfs.FS, from, to string) error {
	if err := files.Rename(from, to); err != nil {
		return err
	}
	for _, parent := range []string{files.PathDir(to), files.PathDir(from)} {
		d, err := files.OpenDir(parent)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return err
		}
	}
	return nil
}
