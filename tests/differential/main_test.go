package differential

import (
	"runtime/debug"
	"testing"

	"github.com/deputyauth/deputy/tests/pgtest"
)

// TestMain lets the collector run less often: the servers make much garbage and keep little.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	pgtest.Main(m)
}
