package differential

import (
	"os"
	"runtime/debug"
	"testing"
)

// TestMain lets the collector run less often: the servers make much garbage and keep little.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}
