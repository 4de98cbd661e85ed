package engine

import (
	"os"
	"strings"
	"testing"
)

// TestSpiceDBVersion: the version that callers are told is the one in go.mod.
func TestSpiceDBVersion(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mod), "\tgithub.com/authzed/spicedb "+SpiceDBVersion+"\n") {
		t.Errorf("go.mod requires another SpiceDB than %s: change SpiceDBVersion", SpiceDBVersion)
	}
}
