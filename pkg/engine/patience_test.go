package engine

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
)

// TestReadThatIsCutShortIsAnError: a read whose call ends while a row is looked at ends with an error, every time. Read as
// whole it would miss rows, and under an exclusion a row that is missed lets somebody in.
func TestReadThatIsCutShortIsAnError(t *testing.T) {
	t.Parallel()
	open := func(context.Context) (datastore.RelationshipIterator, error) {
		return func(yield func(tuple.Relationship, error) bool) {
			for range 10 * batchRows {
				if !yield(tuple.Relationship{}, nil) {
					return
				}
			}
		}, nil
	}
	p := newPatience(time.Minute, 4)
	for n := range 300 {
		ctx, cancel := context.WithCancel(t.Context())
		var last error
		rows := 0
		for _, err := range p.steps(ctx, open) {
			rows, last = rows+1, err
			cancel()
			runtime.Gosched() // the goroutine that reads ahead notices
		}
		cancel()
		if last == nil && rows < 10*batchRows {
			t.Fatalf("run %d: %d rows of %d and no error", n, rows, 10*batchRows)
		}
	}
}
