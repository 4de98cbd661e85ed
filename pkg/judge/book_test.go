package judge

import (
	"context"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// notebook is a snapshot of one session that keeps notes.
type notebook struct {
	authz.Snapshot
	rels []authz.Relationship
	note authz.Note
}

func (n *notebook) ReadNoted(context.Context, authz.Filter) ([]authz.Relationship, *authz.Note, error) {
	return n.rels, &n.note, nil
}

// TestNotedFacts: what was read before is not read again, and is never taken for what holds after an expiration, or
// before it.
func TestNotedFacts(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	object := authz.SessionID("s1").Object()
	n := &notebook{rels: []authz.Relationship{
		{Resource: object, Relation: "active", Subject: authz.Subject{Object: object}, ExpiresAt: begin.Add(time.Hour)},
		{Resource: object, Relation: "agent", Subject: authz.Subject{Object: authz.AgentID("bot").Object()}, Caveat: "issued"},
		{Resource: object, Relation: "unfrozen", Subject: authz.Subject{Object: object}},
	}}
	live := func(after time.Duration) bool {
		t.Helper()
		s, err := newBook(n, begin.Add(after)).session(t.Context(), "s1")
		if err != nil {
			t.Fatal(err)
		}
		return s.Live()
	}
	for _, step := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {time.Hour - 1, true}, {time.Hour, false}, {2 * time.Hour, false}, {time.Minute, true}, {time.Hour, false}} {
		if got := live(step.after); got != step.want {
			t.Errorf("after %v the session is live: %v, want %v", step.after, got, step.want)
		}
	}
	live(0)
	noted := n.note.Load()
	live(time.Minute)
	if n.note.Load() != noted {
		t.Error("what was noted is read again")
	}
}
