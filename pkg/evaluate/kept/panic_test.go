package kept

import (
	"context"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
)

// brittle is a real engine that panics when it is asked at an exact revision, as verification asks.
type brittle struct{ *engine.Engine }

func (b brittle) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	if !f.Exactly.IsZero() {
		panic("the engine is broken")
	}
	return b.Engine.Snapshot(ctx, f)
}

// A panic while an answer is verified in the background is a line in the log and an answer that is not verified.
func TestPanicWhileVerifying(t *testing.T) {
	t.Parallel()
	w := newWorld(t, documents, "document:plan#viewer@user:alice")
	e, err := engine.Over(t.Context(), engine.Config{Kind: engine.Embedded}, w.Store)
	if err != nil {
		t.Fatal(err)
	}
	core, logged := observer.New(zap.ErrorLevel)
	g := Open(Config{Engine: brittle{e}, Store: w.Store, Failure: engine.Failure, VerifySample: 1, Log: zap.New(core)})
	t.Cleanup(func() {
		g.Close()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	for range 2 { // the second one shows that verification goes on
		if got := g.view(t, "alice"); got.Outcome != authz.Yes {
			t.Fatalf("%+v", got)
		}
	}
	counted(t, g.verifier.skipped)
	if lines := logged.All(); len(lines) == 0 || !strings.Contains(lines[0].ContextMap()["error"].(string), "panic_test.go") {
		t.Errorf("the log has %v, want the panic with its stack", lines)
	}
	if g.Degraded() {
		t.Error("a panic is taken for a difference")
	}
}
