package kept

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/engine"
)

// silent is a real engine that can be made to not answer at an exact revision, as SpiceDB is asked a second time.
type silent struct {
	*engine.Engine
	now atomic.Bool
}

func (s *silent) Snapshot(ctx context.Context, f authz.Freshness) (authz.Snapshot, error) {
	if s.now.Load() && !f.Exactly.IsZero() {
		return nil, authz.Errorf(authz.Unavailable, "", "SpiceDB does not answer")
	}
	return s.Engine.Snapshot(ctx, f)
}

// TestADistrustedAnswerWaitsForSpiceDB: while SpiceDB does not answer, there is no answer about a permission that is distrusted, neither to a check nor as a
// list: the evaluator's alone is the one that was found to be wrong.
func TestADistrustedAnswerWaitsForSpiceDB(t *testing.T) {
	t.Parallel()
	w := newWorld(t, documents, "document:plan#viewer@user:alice document:plan#viewer@user:mallory document:plan#banned@user:mallory")
	e, err := engine.Over(t.Context(), engine.Config{Kind: engine.Embedded}, w.Store)
	if err != nil {
		t.Fatal(err)
	}
	spicedb := &silent{Engine: e}
	g := Open(Config{Engine: spicedb, Store: w.Store, Failure: engine.Failure, VerifySample: 1, Log: zap.NewNop()})
	t.Cleanup(func() {
		g.Close()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if got := g.view(t, "bob"); got.Outcome != authz.No {
		t.Fatalf("bob: %+v", got)
	}
	counted(t, g.verifier.verified)
	g.mistake(t, strings.Replace(documents, "view = viewer - banned", "view = viewer", 1))
	if got := g.view(t, "mallory"); got.Outcome != authz.Yes {
		t.Fatalf("mallory before: %+v", got)
	}
	counted(t, g.verifier.differences)
	list := func() ([]authz.SubjectAnswer, error) {
		snap, err := g.Snapshot(t.Context(), authz.Freshness{})
		if err != nil {
			t.Fatal(err)
		}
		return snap.Subjects(t.Context(), authz.Object{Type: "document", ID: "plan"}, "view", "user", nil, 100)
	}
	spicedb.now.Store(true)
	for _, user := range []string{"mallory", "alice", "bob"} {
		if got := g.view(t, user); got.Outcome != authz.Failed || got.Err == nil {
			t.Errorf("%s, while SpiceDB does not answer: %+v, want no answer", user, got)
		}
	}
	if got, err := list(); authz.KindOf(err) != authz.Unavailable {
		t.Errorf("while SpiceDB does not answer, those are listed: %v, %v", got, err)
	}
	spicedb.now.Store(false)
	for user, want := range map[string]authz.Outcome{"mallory": authz.No, "alice": authz.Yes, "bob": authz.No} {
		if got := g.view(t, user); got.Outcome != want {
			t.Errorf("%s, once SpiceDB answers again: %+v, want %v", user, got, want)
		}
	}
}
