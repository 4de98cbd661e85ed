package verify

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// files are what lies in a journal's directory.
type files struct {
	// bundles are the numbers of bundles, and levels those of the tiles of each level, in order.
	bundles []uint64
	levels  map[int][]uint64
	// segments are the first records of the segments, in order.
	segments []uint64
	// foreign are those that are not part of a journal.
	foreign []string
}

// known are the files of a journal that lie in its directory itself, and beside are directories and files that belong there, and prove nothing.
var (
	known  = []string{"origin", "verifier.key", "checkpoint", "checkpoint.witnessed", "minimum"}
	beside = []string{"lock", "reserve", "index", "callers"}
)

// folders are the directories of a journal. Others are not looked into: a link may lead anywhere.
var folders = regexp.MustCompile(`^(segments|tile|tile/(entries|[0-7])(/x[0-9]{3}){0,6})$`)

// list lists a journal's directory.
func list(fs vfs.FS, dir string) (*files, error) {
	f := &files{levels: map[int][]uint64{}}
	if err := f.walk(fs, dir, ""); err != nil {
		return nil, err
	}
	slices.Sort(f.bundles)
	slices.Sort(f.segments)
	for _, numbers := range f.levels {
		slices.Sort(numbers)
	}
	slices.Sort(f.foreign)
	return f, nil
}

// walk sorts the files under a directory, whose path in the journal's is prefix.
func (f *files) walk(fs vfs.FS, dir, prefix string) error {
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("cannot list %s: %w", dir, err)
	}
	for _, name := range names {
		path := prefix + name
		if unfinished(path) {
			continue
		}
		if prefix == "" && (slices.Contains(known, name) || slices.Contains(beside, name)) {
			continue
		}
		if level, n, ok := tree.ParsePath(path); ok && level < 0 {
			f.bundles = append(f.bundles, n)
			continue
		} else if ok {
			f.levels[level] = append(f.levels[level], n)
			continue
		}
		if first, ok := segment(path); ok {
			f.segments = append(f.segments, first)
			continue
		}
		below := fs.PathJoin(dir, name)
		info, err := fs.Stat(below)
		switch {
		case err != nil:
			return fmt.Errorf("cannot read %s: %w", below, err)
		case info.IsDir() && folders.MatchString(path):
			err = f.walk(fs, below, path+"/")
		default:
			f.foreign = append(f.foreign, path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unfinished reports whether a path is of a file of a journal that a process is about to write, or has not finished.
func unfinished(path string) bool {
	finished, ok := strings.CutSuffix(path, ".new")
	_, _, isTile := tree.ParsePath(finished)
	_, isSegment := segment(finished)
	return ok && (isTile || isSegment || slices.Contains(known, finished))
}

// segment is the first record of the segment that a path is of; false for other paths.
func segment(path string) (uint64, bool) {
	name, ok := strings.CutPrefix(path, "segments/")
	first, err := strconv.ParseUint(name, 10, 64)
	return first, ok && err == nil && journal.SegmentName(first) == name
}

// segmentOf is the name of the segment that has a record.
func (f *files) segmentOf(sequence uint64) string {
	i, found := slices.BinarySearch(f.segments, sequence)
	if !found {
		i--
	}
	return journal.SegmentName(f.segments[max(i, 0)])
}

// has reports whether a tile is there.
func (f *files) has(level int, n uint64) bool {
	_, found := slices.BinarySearch(f.levels[level], n)
	return found
}
