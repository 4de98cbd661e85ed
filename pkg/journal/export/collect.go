package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/tree"
	"github.com/deputyauth/deputy/pkg/journal/verify"
)

// Collected is a journal that was copied.
type Collected struct {
	// Origin is its name, and Dir where the copy is.
	Origin, Dir string
	// Report is what verifying the copy came to.
	Report *verify.Report
}

// origins are the names that can be a path: those that journals are given.
var origins = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)

// Collect verifies the journal in a directory, copies it below another one, under its origin, and verifies the copy. A server may be writing it. A
// copy that is there is brought up to date, and has to be contained in what is there now: a node that was set back to an earlier state is found so.
// Of a journal that is not as it was written nothing is copied, so that the copy from before stays as evidence; Dir is empty then. key verifies
// its checkpoints; empty means the one in the directory. Errors: it could not be copied or verified; what is wrong with it is in the report.
func Collect(ctx context.Context, from, into, key string) (*Collected, error) {
	r, err := journal.OpenReader(journal.ReaderConfig{Dir: from})
	if err != nil {
		return nil, err
	}
	if !origins.MatchString(r.Origin()) {
		return nil, fmt.Errorf("journal: the name %q of the journal in %s cannot be a path", r.Origin(), from)
	}
	c := &Collected{Origin: r.Origin(), Dir: filepath.Join(into, filepath.FromSlash(r.Origin()))}
	before, err := tree.ReadFile(tree.Disk, filepath.Join(c.Dir, "checkpoint"), tree.MaxCheckpoint)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err //nolint:wrapcheck // it names the file
	}
	// The key of the copy is the one that was trusted first.
	if known, err := os.ReadFile(filepath.Join(c.Dir, "verifier.key")); err == nil && key == "" {
		key = strings.TrimSpace(string(known))
	}
	if c.Report, err = verify.Run(ctx, verify.Options{Dir: from, Key: key, Checkpoint: before}); err != nil || len(c.Report.Problems) > 0 {
		c.Dir = ""
		return c, err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err //nolint:wrapcheck // it names the directory
	}
	// A record that leaves the segments meanwhile is in the tiles by then, and what the checkpoint names is in either.
	for _, part := range []string{"origin", "verifier.key", "minimum", "checkpoint", "checkpoint.witnessed", "segments", "tile", "index"} {
		if err := copyAll(ctx, filepath.Join(from, part), filepath.Join(c.Dir, part), part == "tile"); err != nil {
			return nil, err
		}
	}
	c.Report, err = verify.Run(ctx, verify.Options{Dir: c.Dir, Key: key, Checkpoint: before})
	return c, err
}

// copyAll copies a file, or all files of a directory; those that are gone meanwhile are left out. final files never change, and are not copied
// twice.
func copyAll(ctx context.Context, from, to string, final bool) error {
	kept := map[string]bool{}
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err //nolint:wrapcheck // it names the file
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err //nolint:wrapcheck // it names the file
		}
		target := filepath.Join(to, name)
		kept[target] = true
		if entry.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		if !entry.Type().IsRegular() || strings.HasSuffix(path, ".new") {
			return nil
		}
		if _, err := os.Stat(target); err == nil && final {
			return nil
		}
		if err := copyFile(path, target); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil || final {
		return err //nolint:wrapcheck // it names the file
	}
	// Segments and parts of the index that are gone there are here in another form.
	err = filepath.WalkDir(to, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || kept[path] {
			return err
		}
		return os.Remove(path) //nolint:gosec // the operator names the directory
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err //nolint:wrapcheck // it names the file
}

// copyFile copies a file, which appears once it is whole.
func copyFile(from, to string) error {
	in, err := os.Open(from) //nolint:gosec // the operator names the directory
	if err != nil {
		return err //nolint:wrapcheck // it names the file
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // likewise
	if err != nil {
		return err //nolint:wrapcheck // it names the file
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	return os.Rename(to+".new", to) //nolint:wrapcheck // it names the file
}
