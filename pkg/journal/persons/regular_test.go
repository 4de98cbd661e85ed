package persons

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestNamedPipe puts a named pipe in the place of the keys: it is refused by name, and not waited for.
func TestNamedPipe(t *testing.T) {
	t.Parallel()
	for _, readOnly := range []bool{true, false} {
		dir := t.TempDir()
		if err := syscall.Mkfifo(filepath.Join(dir, FileName), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(Config{Dir: dir, Secret: make([]byte, 32), ReadOnly: readOnly})
		if err == nil || !strings.Contains(err.Error(), FileName+" is no regular file") {
			t.Errorf("a named pipe is opened with %v", err)
		}
	}
}
