package journal

import (
	"context"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// TestAccountUnrecorded answers several items while the journal fails, as the operator said: their ids are different, and no record has
// them. What ends afterwards does not say that it belongs to the beginning, which has no record.
func TestAccountUnrecorded(t *testing.T) {
	t.Parallel()
	mem, broken := vfs.NewMem(), atomic.Bool{}
	cfg := testConfig(failing(mem, func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.EIO
		}
		return nil
	}))
	cfg.AnswerUnrecorded = true
	j := open(t, cfg)
	add(t, j, Refuse, numbered(0))
	broken.Store(true)
	a := j.Account("one", "Service/Method")
	if err := a.Begin(t.Context(), Refuse, &Record{}); err != nil {
		t.Fatal(err)
	}
	ids, err := a.Record(t.Context(), Refuse, &Record{}, &Record{}, &Record{})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for sequence := range uint64(10) {
		known[j.ID(sequence)] = true
	}
	for _, id := range ids {
		if known[id] {
			t.Errorf("%s is the id of another record", id)
		}
		known[id] = true
	}
	broken.Store(false)
	if _, err := a.Record(t.Context(), Refuse, &Record{}); err != nil {
		t.Fatal(err)
	}
	found, err := readAll(mem)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range found {
		if r.GetCaller() == "one" && (r.Begun != nil || r.GetStage() != deputyv1.RecordStage_RECORD_STAGE_WHOLE) {
			t.Errorf("the record of the end is %v", r)
		}
	}
}

// TestBegunIsTold records calls that begin with the first record of all, and with one that is written late: the record of the end says which it
// is, and where nobody knows, it says nothing.
func TestBegunIsTold(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	j := open(t, testConfig(mem))
	ends := func(name string, begin func(a *Account) error) *Record {
		t.Helper()
		a := j.Account(name, "Service/Method")
		if err := begin(a); err != nil {
			t.Fatal(err)
		}
		if !a.Begun() {
			t.Errorf("%s has not begun", name)
		}
		if _, err := a.Record(t.Context(), Reserve, &Record{}); err != nil {
			t.Fatal(err)
		}
		found, err := readAll(mem)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range slices.Backward(found) { // what is written late may be written behind the end
			if r.GetCaller() == name && r.GetStage() == deputyv1.RecordStage_RECORD_STAGE_ENDED {
				return r
			}
		}
		t.Fatalf("%s has no end in %v", name, found)
		return nil
	}
	first := ends("first", func(a *Account) error { return a.Begin(t.Context(), Refuse, &Record{}) })
	if first.Begun == nil || first.GetBegun() != 0 {
		t.Errorf("the end of what record 0 began is %v", first)
	}
	late := ends("late", func(a *Account) error {
		j.writing <- struct{}{}
		defer func() { <-j.writing }()
		over, cancel := context.WithCancel(t.Context())
		cancel()
		return a.Begin(over, Keep, &Record{})
	})
	if late.Begun != nil {
		t.Errorf("the end of what is written late is %v", late)
	}
}
