// Package judge runs one decision from end to end: it pins a revision, reads the facts there, has
// pkg/decide plan the conditions, asks the engine those that facts do not decide, and combines them.
// It works through the ports of pkg/authz, over any engine.
package judge

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
)

// parallel is how many cases of a bulk call read their facts at once.
const parallel = 8

// Judge decides. It is safe for concurrent use.
type Judge struct {
	graph  authz.Graph
	now    func() time.Time
	global map[string]bool
	// lookupWork is how many candidates one call of a lookup decides.
	lookupWork int
}

// New returns a judge over the graph. Objects of the global types belong to no tenant. now is the
// clock that expirations are compared with.
func New(graph authz.Graph, globalTypes []string, now func() time.Time) *Judge {
	j := &Judge{graph: graph, now: now, global: map[string]bool{}, lookupWork: lookupWork}
	for _, t := range globalTypes {
		j.global[t] = true
	}
	return j
}

// Result is the answer to one case: a decision, or why there is none.
type Result struct {
	Decision authz.Decision
	Err      error
}

// Decide answers every case at one revision: as many results as cases, in order. An error is the
// failure of the whole call; what is wrong with one case is its own result.
//
// With an exact revision, what does not depend on an object (session, delegation, registration,
// suspension) has to hold at the head revision too. With explain set, conditions are judged even where
// others refuse already, and come with the engine's traces.
func (j *Judge) Decide(ctx context.Context, cases []authz.Case, f authz.Freshness, explain bool) ([]Result, authz.Revision, error) {
	court, err := j.open(ctx, f)
	if err != nil {
		return nil, authz.Revision{}, err
	}
	court.explain = explain
	defer authz.Hold(court.book.snap)()
	results := make([]Result, len(cases))
	trials := make([][]*trial, len(cases))
	if err := atOnce(ctx, len(cases), func(ctx context.Context, i int) error {
		trials[i], results[i].Err = court.prepare(ctx, cases[i])
		return fatal(results[i].Err)
	}); err != nil {
		return nil, authz.Revision{}, err
	}
	var all []*trial
	for _, t := range trials {
		all = append(all, t...)
	}
	if err := court.hear(ctx, all); err != nil {
		return nil, authz.Revision{}, err
	}
	for i := range results {
		if results[i].Err == nil {
			results[i] = court.conclude(trials[i])
		}
		if explain {
			continue // what is explained goes out
		}
		for _, t := range trials[i] {
			t.done()
		}
	}
	at := court.book.snap.Revision()
	court.book.done()
	return results, at, nil
}

// atOnce does something n times, several at a time, until one fails.
func atOnce(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	if n == 1 {
		return do(ctx, 0)
	}
	// Few goroutines do many things each: a decision walks deep, and a new goroutine has to grow its stack.
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(parallel, n) {
		group.Go(func() error {
			return authz.Safely("judge.Decide", func() error {
				for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
					if err := do(ctx, i); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	return group.Wait()
}

// fatal returns the errors that end a whole call, whichever case met them: the engine's, not the case's.
func fatal(err error) error {
	if engineFailed(err) || err != nil && authz.KindOf(err) == authz.Internal {
		return err
	}
	return nil
}

// court is one call: the snapshot, the moment, and the revisions that it looks at besides.
type court struct {
	*Judge
	book    *book
	schema  *authz.Schema
	explain bool
	// head is set where the snapshot is an exact one that has to stand at the head revision too.
	head *book
}

// open pins the call's revision and refuses while the core schema is not Deputy's.
func (j *Judge) open(ctx context.Context, f authz.Freshness) (*court, error) {
	now := j.now()
	snap, err := j.graph.Snapshot(ctx, f)
	if err != nil {
		return nil, err
	}
	c := &court{Judge: j, book: newBook(snap, now)}
	if c.schema, err = coreSchema(ctx, snap); err != nil {
		return nil, err
	}
	if !f.Exactly.IsZero() {
		head, err := j.graph.Snapshot(ctx, authz.Freshness{})
		if err != nil {
			return nil, err
		}
		if _, err := coreSchema(ctx, head); err != nil {
			return nil, err
		}
		c.head = newBook(head, now)
	}
	return c, nil
}

func coreSchema(ctx context.Context, snap authz.Snapshot) (*authz.Schema, error) {
	schema, err := snap.Schema(ctx)
	if err != nil {
		return nil, err
	}
	if schema.CoreDifference != "" {
		return nil, authz.Errorf(authz.Precondition, authz.ReasonCoreSchema,
			"the core definitions of the schema are not Deputy's: %s", schema.CoreDifference)
	}
	return schema, nil
}

// prepare resolves a case to its candidates, reads their facts and plans them.
func (c *court) prepare(ctx context.Context, one authz.Case) ([]*trial, error) {
	if err := c.validate(c.schema, one); err != nil {
		return nil, err
	}
	leaves, err := c.book.candidates(ctx, one)
	if err != nil {
		return nil, err
	}
	trials := make([]*trial, len(leaves))
	for i, l := range leaves {
		if trials[i], err = c.try(ctx, one, l); err != nil {
			return nil, err
		}
	}
	return trials, nil
}

// try reads one candidate's facts and plans its conditions.
func (c *court) try(ctx context.Context, one authz.Case, l leaf) (*trial, error) {
	f, err := c.book.candidate(ctx, one, l)
	if err != nil {
		return nil, err
	}
	f.Global, f.Brief = c.global[one.Resource.Type], !c.explain
	t, _ := trials.Get().(*trial)
	t.c, t.facts, t.at = one, f, c.book.snap
	if c.head != nil {
		now, err := c.head.candidate(ctx, one, l)
		if err != nil {
			return nil, err
		}
		t.head, t.atHead = &now, c.head.snap
	}
	if len(decide.Frozen(f)) > 0 && (c.explain || !decide.Refused(decide.Standalone(one, f))) {
		if err := c.baselines(ctx, t); err != nil {
			return nil, err
		}
	}
	t.plan()
	return t, nil
}

// baselines reads what stood where frozen sessions started. One whose revision is gone stays zero, and
// refuses.
func (c *court) baselines(ctx context.Context, t *trial) error {
	t.facts.Baselines = map[authz.Revision]decide.Standing{}
	frozen := decide.Frozen(t.facts)
	t.baselines = append(t.baselines[:0], make([]authz.Snapshot, len(frozen))...)
	for i, b := range frozen {
		if b.Revision.IsZero() {
			continue
		}
		snap, err := c.graph.Snapshot(ctx, authz.Freshness{Exactly: b.Revision})
		if authz.KindOf(err) == authz.OutOfRange {
			continue
		}
		if err != nil {
			return err
		}
		then := newBook(snap, c.book.now)
		standing, err := then.standing(ctx, t.c, t.facts)
		if err != nil {
			return err
		}
		t.facts.Baselines[b.Revision] = standing
		t.baselines[i] = snap
	}
	return nil
}

// conclude combines the candidates of one case.
func (c *court) conclude(trials []*trial) Result {
	verdicts := make([]decide.Verdict, len(trials))
	for i, t := range trials {
		verdicts[i] = decide.Combine(t.conditions)
	}
	best, v := decide.Choose(verdicts)
	if v.Err != nil {
		return Result{Err: v.Err}
	}
	d := authz.Decision{
		ID: newID(), Permissionship: v.Permissionship, RefusedBy: v.RefusedBy,
		Missing: v.Missing, CheckedAt: c.book.snap.Revision(),
	}
	for i, t := range trials {
		candidate := t.candidate(verdicts[i], c.explain)
		if i == best {
			d.ValidUntil = candidate.ValidUntil
			d.Candidates = append([]authz.Candidate{candidate}, d.Candidates...)
			continue
		}
		d.Candidates = append(d.Candidates, candidate)
	}
	return Result{Decision: d}
}

// newID returns 128 random bits in hexadecimal.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}
