package daemon_test

import (
	"strings"
	"testing"

	"go.uber.org/zap/zaptest"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
)

// TestSharedEnginesNeedATokenKey: two servers that each made up a key would make two delegations of what one
// idempotency key asks for, and refuse each other's tokens. So no server starts that another one could join.
func TestSharedEnginesNeedATokenKey(t *testing.T) {
	shared := 0
	for _, kind := range engine.Kinds {
		if !engine.Shared(kind) {
			continue
		}
		shared++
		cfg := engine.Config{Kind: kind, URI: "postgres://db.invalid/deputy"}
		if kind == engine.Remote {
			cfg = engine.Config{Kind: kind, Endpoint: "spicedb.invalid:50051", PresharedKey: "key"}
		}
		d, err := daemon.Open(t.Context(), daemon.Config{PresharedKeys: []string{"key-of-the-service"}, Engine: cfg}, zaptest.NewLogger(t))
		if err == nil {
			_ = d.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "--token-key-file") {
			t.Errorf("%s: %v, want an error that names --token-key-file", kind, err)
		}
	}
	if shared != len(engine.Kinds)-2 {
		t.Errorf("%d engines can be shared, want all but embedded and memory", shared)
	}
	d, err := daemon.Open(t.Context(), daemon.Config{PresharedKeys: []string{"key-of-the-service"}, Engine: engine.Config{Kind: engine.Memory}}, zaptest.NewLogger(t))
	if err != nil {
		t.Fatalf("memory is no other server's: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
