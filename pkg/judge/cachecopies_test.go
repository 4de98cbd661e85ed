package judge

import (
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
)

// TestNewerCopyIsKept: facts that were read in a later copy of the graph take the place of those of an earlier one, whatever both count as revisions,
// and not the other way round.
func TestNewerCopyIsKept(t *testing.T) {
	c, who := newCache(), actor{agent: "bot", delegation: "d"}
	kept := func() authz.Stamp {
		s := c.shard(who)
		s.mu.RLock()
		defer s.mu.RUnlock()
		return s.entries[who].stamp
	}
	for _, step := range []struct {
		of, at         uint64
		wantOf, wantAt uint64
	}{{1, 100, 1, 100}, {1, 90, 1, 100}, {2, 5, 2, 5}, {1, 200, 2, 5}, {2, 6, 2, 6}} {
		c.put(who, &entry{stamp: authz.Stamp{Of: step.of, At: step.at}})
		if got := kept(); got.Of != step.wantOf || got.At != step.wantAt {
			t.Errorf("after revision %d of copy %d: %d of %d is kept, want %d of %d", step.at, step.of, got.At, got.Of, step.wantAt, step.wantOf)
		}
	}
}
