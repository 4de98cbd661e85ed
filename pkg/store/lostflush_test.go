package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestTablesCannotBeWritten: the log takes writes, and no table can be made of them. Writes are refused before
// long, and do not wait for room that never comes; reads go on, and nothing that was acknowledged is lost.
func TestTablesCannotBeWritten(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	var broken atomic.Bool
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && filepath.Ext(op.Path) == ".sst" {
			return syscall.EIO
		}
		return nil
	}))
	s := must(Open("store", small(Config{FS: fs})))(t)
	broken.Store(true)
	written := 0
	done := make(chan struct{})
	var refusal error
	go func() {
		defer close(done)
		for ; refusal == nil && written < 100_000; written++ {
			_, refusal = s.ReadWriteTx(t.Context(), writing(tuple.Touch(tuple.MustParse(
				fmt.Sprintf("document:%d%s#reader@user:alice", written, strings.Repeat("x", 900))))))
		}
		written-- // the one that was refused
	}()
	within(t, "a write that is refused", done)
	if status.Code(refusal) != codes.Unavailable {
		t.Errorf("write %d got %v", written, refusal)
	}
	if found := len(atHead(t, s)); found != written {
		t.Errorf("%d relationships can be read of %d", found, written)
	}
	// It is tried for some time, and not more often than makes sense; then the store has failed.
	within(t, "the store to fail", s.failure.happened)
	if err := s.Close(); err == nil || errors.Is(err, ErrClosed) {
		t.Errorf("closing a store that failed: %v", err)
	}
	broken.Store(false)
	again := must(Open("store", small(Config{FS: mem})))(t)
	if found := len(atHead(t, again)); found < written {
		t.Errorf("%d relationships are there of %d", found, written)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
