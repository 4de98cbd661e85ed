package journal

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestNamedPipes puts a named pipe, and a directory, in the place of each file of a journal: it is refused at once with the name of the file, or not
// needed. Nothing waits for it.
func TestNamedPipes(t *testing.T) {
	t.Parallel()
	cfg := testConfig(nil)
	cfg.Dir, cfg.QuotaBytes = filepath.Join(t.TempDir(), "journal"), 1<<20
	j := open(t, cfg)
	for i := range 600 {
		add(t, j, Refuse, numbered(i))
	}
	sealed(t, j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	var files []string
	if err := filepath.WalkDir(cfg.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	put := map[string]func(string) error{
		"a named pipe": func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a directory":  func(path string) error { return os.Mkdir(path, 0o700) },
		"a loop":       func(path string) error { return os.Symlink(path, path) },
	}
	refused := 0
	for _, path := range files {
		for what, put := range put {
			copied := filepath.Join(t.TempDir(), "journal")
			if err := os.CopyFS(copied, os.DirFS(cfg.Dir)); err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(cfg.Dir, path)
			if err != nil {
				t.Fatal(err)
			}
			at := filepath.Join(copied, name)
			if err := os.Remove(at); err != nil {
				t.Fatal(err)
			}
			if err := put(at); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				cfg := cfg
				cfg.Dir = copied
				opened, err := Open(cfg)
				if err == nil {
					err = opened.Close()
				}
				done <- err
			}()
			select {
			case err := <-done:
				if err == nil {
					continue
				}
				refused++
				if !strings.Contains(err.Error(), filepath.Base(name)) {
					t.Errorf("%s for %s is refused with %v, which does not name it", what, name, err)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s for %s is waited for", what, name)
			}
		}
	}
	if refused < 6 {
		t.Errorf("of %d files only %d were refused", len(files), refused)
	}
}
