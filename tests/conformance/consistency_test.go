package conformance

import (
	"testing"

	consistency "github.com/authzed/spicedb/pkg/consistency/test"
)

// TestConsistency runs SpiceDB's system-wide suite: all of its APIs, over all of its example files, agree
// with one another on this datastore. The race detector is not for it: SpiceDB's own dispatcher is what it
// mostly runs.
func TestConsistency(t *testing.T) {
	consistency.AllConsistency(t, tester{})
}
