//go:build unix

package smallfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/deputyauth/deputy/pkg/smallfile"
)

// TestRead: a regular file up to the bound is read, and nothing else is waited for.
func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	text := []byte("a secret")
	if err := os.WriteFile(at("file"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", at("link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(at("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path  string
		most  int
		wrong string
	}{
		{at("file"), len(text), ""},
		{at("link"), len(text), ""},
		{at("file"), len(text) - 1, "has more than 7 bytes"},
		{at("pipe"), 10, "is no regular file"},
		{dir, 10, "is no regular file"},
		{os.DevNull, 10, "is no regular file"},
		{at("none"), 10, "no such file"},
	} {
		got, err := smallfile.Read(test.path, test.most)
		if test.wrong == "" {
			if err != nil || !bytes.Equal(got, text) {
				t.Errorf("%s: got %q, %v", test.path, got, err)
			}
			continue
		}
		if wrong, ok := errors.AsType[*fs.PathError](err); !ok || wrong.Path != test.path || !strings.Contains(err.Error(), test.wrong) || got != nil {
			t.Errorf("%s: got %q, %v; want %q", test.path, got, err, test.wrong)
		}
	}
}
