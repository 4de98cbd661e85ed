package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestOpenRefuses opens directories that are no store of this version's. Nothing in them is touched.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	o, files, _ := kill(t)
	newer := description{format: Format + 41, id: "an id", state: stateReady}.text()
	for _, c := range []struct {
		name  string
		files image
		// says is what the message has, in words that an operator understands.
		says string
		is   error
	}{
		{"a newer format", files.with(formatFile, []byte(newer)), fmt.Sprintf("has format %d, and this version reads formats up to %d", Format+41, Format), nil},
		{"a newer format's other words", files.with(formatFile, []byte("deputy store\nformat 7\ncolour blue\n")), "has format 7", nil},
		{"somebody's papers", image{"letter.txt": []byte("Dear")}, "holds other files (letter.txt)", nil},
		{"a database without a name", files.with(formatFile, nil), "holds other files", nil},
		{"a name without a database", image{formatFile: files[formatFile]}, "restore a backup", ErrDamaged},
		{"no name at all", files.with(formatFile, []byte{}), "DEPUTY is not readable", ErrDamaged},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fs := c.files.restore(t)
			s, err := Open(ordealDir, o.config(fs))
			if err == nil {
				_ = s.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), ordealDir) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("it was refused with %q, want %q", err, c.says)
			}
			if differ := c.files.diff(imageOf(t, fs)); len(differ) > 0 {
				t.Errorf("%q were touched", differ)
			}
		})
	}
}

// TestOpenForbidden opens directories that the system does not let us read, or write.
func TestOpenForbidden(t *testing.T) {
	t.Parallel()
	o, files, known := kill(t)
	for _, c := range []struct {
		name   string
		forbid func(errorfs.Op) bool
		why    syscall.Errno
	}{
		{"reading the directory", func(op errorfs.Op) bool { return op.Kind == errorfs.OpList }, syscall.EACCES},
		{"reading a file", func(op errorfs.Op) bool { return op.Kind == errorfs.OpOpen }, syscall.EACCES},
		{"reading a table", func(op errorfs.Op) bool { return op.Kind == errorfs.OpFileReadAt && kindOfFile(op.Path) == "sst" }, syscall.EIO},
		{"reading a log", func(op errorfs.Op) bool { return op.Kind == errorfs.OpOpen && isLog(op.Path) }, syscall.EACCES},
		{"locking", func(op errorfs.Op) bool { return op.Kind == errorfs.OpLock }, syscall.EACCES},
		{"writing", func(op errorfs.Op) bool {
			return op.Kind != errorfs.OpLock && op.Kind.ReadOrWrite() == errorfs.OpIsWrite
		}, syscall.EROFS},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			mem := files.restore(t)
			fs := meddle(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if c.forbid(op) {
					return &os.PathError{Op: "ordeal", Path: op.Path, Err: c.why}
				}
				return nil
			}))
			s, err := Open(ordealDir, o.config(fs))
			if err == nil {
				_ = s.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), c.why.Error()) || !errors.Is(err, c.why) || errors.Is(err, ErrDamaged) || errors.Is(err, ErrInUse) {
				t.Errorf("it was refused with %q, want %q", err, c.why)
			}
			if _, err := o.reopened(mem, known); err != nil {
				t.Errorf("opened again: %v", err)
			}
		})
	}
}

// holderVariable names the directory that a process of this test binary opens, see TestHolder.
const holderVariable = "DEPUTY_STORE_HOLDER"

// TestHolder is the other process of TestInUse: it opens a store, writes, says so and waits.
func TestHolder(t *testing.T) {
	dir := os.Getenv(holderVariable)
	if dir == "" {
		return
	}
	s, err := Open(dir, Config{})
	if err != nil {
		t.Fatal(err)
	}
	d := &deed{name: "held", touch: []tuple.Relationship{tuple.MustParse("mark:held#made@user:held")}}
	at, err := s.ReadWriteTx(t.Context(), d.run)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(os.Stdout, "holds %v\n", at)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	t.Fatal("it should have been killed")
}

// TestInUse opens a directory that another Store has open, in this process and in another one, which is
// then killed.
func TestInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := Open(dir, Config{})
	if err != nil {
		t.Fatal(err)
	}
	refused := func() {
		t.Helper()
		if second, err := Open(dir, Config{}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
			t.Errorf("it was opened twice: %v, %v", second, err)
		}
	}
	refused()
	refused()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	holder := exec.CommandContext(t.Context(), self, "-test.run=^TestHolder$")
	holder.Env = append(os.Environ(), holderVariable+"="+dir)
	stdout, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	text, found := strings.CutPrefix(strings.TrimSpace(line), "holds ")
	if !found {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	refused()
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	if s, err = Open(dir, Config{}); err != nil {
		t.Fatalf("after the other process was killed: %v", err)
	}
	defer func() { _ = s.Close() }()
	at, err := parseRevision(text)
	if err != nil {
		t.Fatal(err)
	}
	found = false
	reader := s.SnapshotReader(at)
	rows, err := reader.QueryRelationships(context.Background(), datastore.RelationshipsFilter{OptionalResourceType: "mark"})
	if err != nil {
		t.Fatal(err)
	}
	for rel, err := range rows {
		found = err == nil && rel.Resource.ObjectID == "held"
	}
	if !found {
		t.Errorf("what the killed process acknowledged is not there")
	}
}

// TestRefusedTwice opens a damaged store again and again: it does not keep the lock.
func TestRefusedTwice(t *testing.T) {
	t.Parallel()
	o, files, known := kill(t)
	fs := files.with(formatFile, []byte("deputy store\nformat 1\n")).restore(t)
	for range 3 {
		if _, err := Open(ordealDir, o.config(fs)); !errors.Is(err, ErrDamaged) {
			t.Fatalf("it was opened: %v", err)
		}
	}
	// Mended, it is as it was.
	f, err := fs.Create(fs.PathJoin(ordealDir, formatFile), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(bytes.Clone(files[formatFile])); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if _, err := o.reopened(fs, known); err != nil {
		t.Error(err)
	}
}
