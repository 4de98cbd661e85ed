package journal

import (
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestReopen goes on with a journal where it was left, several times, with segments that are full and ones without a record.
func TestReopen(t *testing.T) {
	t.Parallel()
	fs, origin, n := vfs.NewMem(), "", 0
	for round := range 5 {
		j := open(t, testConfig(fs))
		if round > 0 && j.Origin() != origin {
			t.Fatalf("the journal is named %s and was %s", j.Origin(), origin)
		}
		origin = j.Origin()
		if got := j.Written(); got != uint64(n) {
			t.Fatalf("round %d: there are %d records, want %d", round, got, n)
		}
		for range round * 20 {
			if got := add(t, j, Refuse, numbered(n)); got != uint64(n) {
				t.Fatalf("record %d is numbered %d", n, got)
			}
			n++
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	records, err := readAll(fs)
	if err != nil || len(records) != n {
		t.Fatalf("%d of %d records are read, %v", len(records), n, err)
	}
	for i, r := range records {
		if r.GetPermission() != numbered(i).GetPermission() {
			t.Errorf("record %d is %q", i, r.GetPermission())
		}
	}
	if !strings.HasPrefix(origin, "deputy/store/journal/") {
		t.Errorf("the journal is named %q", origin)
	}
}

// TestOneProcess opens a directory twice.
func TestOneProcess(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	j := open(t, testConfig(fs))
	if _, err := Open(testConfig(fs)); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("opened twice: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, testConfig(fs))
}
