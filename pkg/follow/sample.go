package follow

import (
	"context"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
)

// DefaultSample is how many relationships a second are compared if nothing else is said.
const DefaultSample = 500

const (
	// samplePause is the time between two steps of the sampler, and maxSamplePage the most relationships that one compares; a
	// higher rate has more steps.
	samplePause, maxSamplePage = 2 * time.Second, 1000
	// samplePageBytes is about how many bytes of the copy one step compares at most.
	samplePageBytes = 8 << 20
	// leastSamplePause is the shortest time between two steps.
	leastSamplePause = 10 * time.Millisecond
	// definitionsEvery is how often definitions are compared.
	definitionsEvery = time.Minute
)

// Sampled is how far the sampler is.
type Sampled struct {
	// Relationships is how many were compared since the start, Rounds how often all of them were.
	Relationships, Rounds uint64
	// Round is when the round under way began. Ended is when the last one that was completed ended, and Took how long it took; zero if there was none.
	Round, Ended time.Time
	Took         time.Duration
}

// sampler compares a copy with its authority bit by bit, all the time. A round is two walks. One goes through the authority's relationships in the
// order of its primary key and finds what the copy lacks, or has otherwise. The other one goes through the copy's in the order of its keys and
// finds what the copy has and the authority does not: a right that was revoked. Each step looks a page of one side up in the other one, by keys on
// both sides, so it reads no more than it compares, and does not care that the two orders are not alike. The two walks take turns.
//
// Buckets of digests would be one walk, but the authority would have to read and digest the whole table for each bucket, or keep an index for it.
type sampler struct {
	graph *Graph
	page  int
	// of is the copy that the round is about.
	of   *opened
	done Sampled
	// definitions is when those were compared.
	definitions time.Time
	// theirs and ours are the walks, and turn says whose turn it is.
	theirs struct {
		next string
		over bool
	}
	ours struct {
		after *tuple.RelationshipReference
		over  bool
	}
	turn bool
}

// sample compares a share of the copy with the authority, again and again, until ctx ends.
func (g *Graph) sample(ctx context.Context) {
	rate := g.config.Sample
	if rate < 0 {
		return
	}
	s := &sampler{graph: g, page: min(max(int(float64(rate)*samplePause.Seconds()), 1), maxSamplePage)}
	tick := time.NewTicker(max(time.Duration(float64(s.page)/float64(rate)*float64(time.Second)), leastSamplePause))
	defer tick.Stop()
	g.checks.sampled.Store(&Sampled{})
	var failures failures
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !g.Serves() || g.loading.Load() {
			continue
		}
		err := authz.Safely("follow.sample", func() error { return s.step(ctx) })
		if ctx.Err() == nil && failures.note(err, time.Now()) {
			g.config.Log.Warn("a share of the copy could not be compared with the primary; it is tried again", zap.Error(err))
		}
	}
}

// step compares a page. Where it fails the next step compares the same.
func (s *sampler) step(ctx context.Context) error {
	g := s.graph
	ctx, cancel := context.WithTimeout(ctx, pullTime)
	defer cancel()
	at, err := g.stand(ctx)
	if err != nil {
		return err
	}
	if s.of != at.copy {
		*s = sampler{graph: g, page: s.page, of: at.copy, done: s.done}
		s.done.Round = time.Now()
	}
	c := g.comparison(at, MaxDifferences)
	now := time.Now()
	definitions := now.Sub(s.definitions) >= definitionsEvery
	if definitions {
		if err := c.definitions(ctx); err != nil {
			return err
		}
	}
	s.turn = !s.turn
	walk := s.walkOurs
	if s.ours.over || s.turn && !s.theirs.over {
		walk = s.walkTheirs
	}
	move, err := walk(ctx, c)
	if err != nil {
		return err
	}
	if len(c.found) > 0 {
		found, err := g.sure(ctx, at, c.found)
		if err != nil {
			return err
		}
		g.distrust(at, found)
		return nil
	}
	if definitions {
		s.definitions = now
	}
	move()
	s.done.Relationships += c.counted
	g.figures.sampled.Add(float64(c.counted))
	if s.theirs.over && s.ours.over {
		s.round()
	}
	done := s.done
	g.checks.sampled.Store(&done)
	return nil
}

// walkTheirs compares the authority's next page.
func (s *sampler) walkTheirs(ctx context.Context, c *comparison) (move func(), err error) {
	page, err := c.authority.Page(ctx, s.theirs.next, s.page)
	if err != nil {
		return nil, err
	}
	ours, err := c.store.RowsOf(ctx, c.at, refsOf(page.Relationships))
	if err != nil {
		return nil, err
	}
	c.rows(page.Relationships, ours)
	c.counted = uint64(len(page.Relationships))
	return func() { s.theirs.next, s.theirs.over = page.Next, page.Next == "" }, nil
}

// walkOurs compares the copy's next page.
func (s *sampler) walkOurs(ctx context.Context, c *comparison) (move func(), err error) {
	ours, err := c.store.RowsAfter(ctx, c.at, s.ours.after, s.page, samplePageBytes)
	if err != nil {
		return nil, err
	}
	if len(ours) == 0 {
		return func() { s.ours.after, s.ours.over = nil, true }, nil
	}
	refs := refsOf(ours)
	theirs, err := c.authority.Of(ctx, refs)
	if err != nil {
		return nil, err
	}
	c.rows(theirs, ours)
	c.counted = uint64(len(ours))
	return func() { s.ours.after = &refs[len(refs)-1] }, nil
}

// round ends a round and begins the next one.
func (s *sampler) round() {
	now := time.Now()
	s.done.Rounds++
	s.done.Ended, s.done.Took, s.done.Round = now, now.Sub(s.done.Round), now
	s.theirs.next, s.theirs.over = "", false
	s.ours.after, s.ours.over = nil, false
	s.graph.figures.rounds.Inc()
}

func refsOf(all []tuple.Relationship) []tuple.RelationshipReference {
	refs := make([]tuple.RelationshipReference, len(all))
	for i := range all {
		refs[i] = all[i].RelationshipReference
	}
	return refs
}
