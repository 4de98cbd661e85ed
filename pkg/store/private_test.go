//go:build unix

package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestFilesArePrivate: nobody but their owner reads a store's files, also where the directory was made for everybody, and where
// files of an earlier version were.
func TestFilesArePrivate(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, dir string){
		"a new directory": func(*testing.T, string) {},
		"one that was there": func(t *testing.T, dir string) {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		},
		"an earlier version's": func(t *testing.T, dir string) {
			s, err := Open(dir, Config{})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for path := range modes(t, dir) {
				if err := os.Chmod(path, 0o755); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "graph")
			prepare(t, dir)
			s, err := Open(dir, Config{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.ReadyState(context.Background()); err != nil {
				t.Fatal(err)
			}
			if err := s.db.Flush(); err != nil {
				t.Fatal(err)
			}
			// The store works in the background, and a file has its mode a moment after it was made.
			eventually(t, "nobody else reads a file", func() bool {
				found := modes(t, dir)
				open := 0
				for _, mode := range found {
					if mode.Perm()&0o077 != 0 {
						open++
					}
				}
				return len(found) > 5 && open == 0
			})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// modes returns the modes of a directory and of all that is in it.
func modes(t *testing.T, dir string) map[string]fs.FileMode {
	t.Helper()
	found := map[string]fs.FileMode{}
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil { // a file may go while we look
			var info fs.FileInfo
			if info, err = os.Stat(path); err == nil {
				found[path] = info.Mode()
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}
