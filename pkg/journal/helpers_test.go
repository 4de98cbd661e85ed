package journal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// testDir is where the journals of tests lie.
const testDir = "data/journal"

// testConfig is a journal in memory with small segments, that is tried again at once, and not by itself.
func testConfig(fs vfs.FS) Config {
	return Config{
		Dir: testDir, FS: fs, Store: "store", Secret: make([]byte, MinSecret), SegmentBytes: 1 << 10, ReserveBytes: 4 << 10,
		retryEvery: time.Hour, retryPause: time.Nanosecond,
	}
}

// open opens a journal that is closed with the test.
func open(t testing.TB, cfg Config) *Journal {
	t.Helper()
	j, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

// numbered is a record that says which one it is.
func numbered(i int) *Record {
	return &Record{
		Kind: deputyv1.RecordKind_RECORD_KIND_DECISION, Time: int64(i), Caller: fmt.Sprintf("caller %d", i%3), Permission: fmt.Sprintf("view %d", i),
	}
}

// add appends one record.
func add(t testing.TB, j *Journal, duty Duty, r *Record) uint64 {
	t.Helper()
	sequence, err := j.Append(t.Context(), duty, r)
	if err != nil {
		t.Fatal(err)
	}
	return sequence
}

// readAll reads all records that testDir has.
func readAll(fs vfs.FS) ([]*Record, error) {
	reader := NewSegmentReader(fs, testDir)
	first, _, err := reader.First()
	if err != nil {
		return nil, err
	}
	var records []*Record
	next, err := reader.Read(first, math.MaxUint64, func(sequence uint64, record []byte) error {
		r := &Record{}
		if err := proto.Unmarshal(record, r); err != nil {
			return err
		}
		if r.GetSequence() != sequence || sequence != first+uint64(len(records)) {
			return fmt.Errorf("record %d is read as %d, behind %d others", r.GetSequence(), sequence, len(records))
		}
		records = append(records, r)
		return nil
	})
	if err == nil && next != first+uint64(len(records)) {
		err = errors.New("it came elsewhere than it says")
	}
	return records, err
}

// testContext is for calls that have all the time they need.
var testContext = context.Background()

// counter counts operations.
type counter struct{ n atomic.Int64 }

func newCounter() *counter { return &counter{} }

// next returns how many there were before.
func (c *counter) next() int64 { return c.n.Add(1) - 1 }

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
