// Package judge runs one decision from end to end: it pins a revision, reads the facts there, has
// pkg/decide plan the conditions, asks the engine those that facts do not decide, and combines them.
// It works through the ports of pkg/authz, over any engine.
package judge

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
	"github.com/deputyauth/deputy/pkg/journal"
)

// parallel is how many cases of a bulk call read their facts at once.
const parallel = 8

// Judge decides. It is safe for concurrent use.
type Judge struct {
	graph  authz.Graph
	now    func() time.Time
	global map[string]bool
	cache  *cache
	// lookupWork is how many candidates one call of a lookup decides, and lookupTime how long it goes on with that.
	lookupWork int
	lookupTime time.Duration
	// journal records decisions before they are answered; nil records none.
	journal *journal.Journal
	digests digests
}

// By is the call that decisions are asked for by. The zero By is nobody's: nothing exists for it.
type By struct {
	// Within is what part of the graph exists for the caller; nil is nothing.
	Within *authz.Bounds
	// Account is where the decisions are recorded. It is required where the judge has a journal.
	Account *journal.Account
	// Trace has explanations come with SpiceDB's check traces.
	Trace bool
}

// Recorded has the judge record what it decides. It is called before the first decision.
func (j *Judge) Recorded(in *journal.Journal) { j.journal = in }

// New returns a judge over the graph. Objects of the global types belong to no tenant. now is the
// clock that expirations are compared with.
func New(graph authz.Graph, globalTypes []string, now func() time.Time) *Judge {
	j := &Judge{graph: graph, now: now, global: map[string]bool{}, cache: newCache(), lookupWork: lookupWork, lookupTime: lookupTime}
	for _, t := range globalTypes {
		j.global[t] = true
	}
	return j
}

// Question is one case to be decided. With Err it is none, for a reason that its answer repeats: a case that could not be read.
type Question struct {
	authz.Case
	Err error
}

// Questions are cases that could be read.
func Questions(cases ...authz.Case) []Question {
	out := make([]Question, len(cases))
	for i, c := range cases {
		out[i].Case = c
	}
	return out
}

// Result is the answer to one case: a decision, or why there is none.
type Result struct {
	Decision authz.Decision
	Err      error
	// frozen says that a frozen session was among what was weighed, so that revisions of the past were read too.
	frozen bool
}

// Decide answers every question at one revision, and records the answers before it returns: as many results as questions, in order. An error is
// the failure of the whole call, also where the journal does not take the records; what is wrong with one case is its own result. What lies outside
// the bounds is answered as what does not exist.
//
// With an exact revision, what does not depend on an object (session, delegation, registration,
// suspension) has to hold at the head revision too. With explain set, conditions are judged even where
// others refuse already, and checks come with explanations.
func (j *Judge) Decide(ctx context.Context, by By, asked []Question, f authz.Freshness, explain bool) ([]Result, authz.Revision, error) {
	if j.journal != nil && by.Account == nil {
		return nil, authz.Revision{}, authz.Errorf(authz.Internal, "INTERNAL", "a decision is asked for that nobody would record")
	}
	call, err := j.open(ctx, by.Within, f)
	if err != nil {
		return nil, authz.Revision{}, err
	}
	call.explain, call.trace = explain, by.Trace
	results, err := call.decide(ctx, asked)
	if err != nil {
		return nil, authz.Revision{}, err
	}
	if j.journal != nil {
		if err := call.record(ctx, by.Account, asked, results); err != nil {
			return nil, authz.Revision{}, err
		}
	}
	return results, call.source.snap.Revision(), nil
}

// decide answers every question.
func (c *call) decide(ctx context.Context, asked []Question) ([]Result, error) {
	if h, ok := c.source.snap.(holder); ok {
		h.Hold()
		defer h.Release()
	}
	results := make([]Result, len(asked))
	candidates := make([][]*candidate, len(asked))
	if err := atOnce(ctx, len(asked), func(ctx context.Context, i int) error {
		if results[i].Err = asked[i].Err; results[i].Err != nil {
			return nil //nolint:nilerr // it is the question's
		}
		candidates[i], results[i].Err = c.candidates(ctx, asked[i].Case)
		return fatal(results[i].Err)
	}); err != nil {
		return nil, err
	}
	if err := c.ask(ctx, slices.Concat(candidates...)); err != nil {
		return nil, err
	}
	for i := range results {
		if results[i].Err == nil {
			results[i] = c.conclude(candidates[i])
		}
		if !c.explain || results[i].Err != nil {
			continue
		}
		if len(candidates[i]) == 0 {
			results[i].Decision.Reasons, results[i].Err = c.source.reader().reasons(ctx, c.within, asked[i].Case)
			continue
		}
		if err := c.trim(ctx, &results[i].Decision, candidates[i]); err != nil {
			return nil, err
		}
		c.translate(&results[i].Decision)
	}
	return results, nil
}

// holder is a Snapshot that reads faster while it is held: what it opens to read is then kept open, and the revision with
// it, until it is released. It is safe for concurrent use.
type holder interface {
	Hold()
	Release()
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

// call is one call: whose bounds it has, the snapshot and the moment, in source, and what is looked at besides.
type call struct {
	*Judge
	within *authz.Bounds
	source *source
	schema *authz.Schema
	// explain says that decisions are to be explained, and trace that SpiceDB's traces go with that.
	explain, trace bool
	// head is set where the snapshot is an exact one that has to stand at the head revision too.
	head *source
	// past says that a decision of the past is judged again.
	past   bool
	memory batchMemory
}

// open pins the call's revision and refuses while the core schema is not Deputy's.
func (j *Judge) open(ctx context.Context, within *authz.Bounds, f authz.Freshness) (*call, error) {
	if within == nil {
		within = &authz.Bounds{}
	}
	now := j.now()
	snap, err := j.graph.Snapshot(ctx, f)
	if err != nil {
		return nil, err
	}
	c := &call{Judge: j, within: within, source: j.source(snap, now)}
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
		c.head = j.source(head, now)
	}
	return c, nil
}

func coreSchema(ctx context.Context, snap authz.Snapshot) (*authz.Schema, error) {
	schema, err := snap.Schema(ctx)
	if err != nil {
		return nil, err
	}
	if schema.CoreDifference != "" {
		return nil, authz.Errorf(authz.Precondition, authz.ReasonCoreSchema, "%s", schema.WrongCore())
	}
	return schema, nil
}

// candidates returns what a case may be decided by, planned.
func (c *call) candidates(ctx context.Context, one authz.Case) ([]*candidate, error) {
	if err := c.validate(one); err != nil {
		return nil, err
	}
	all, err := c.source.candidates(ctx, c.within, one)
	if err != nil {
		return nil, err
	}
	candidates := make([]*candidate, len(all))
	for i, f := range all {
		if candidates[i], err = c.plan(ctx, one, f); err != nil {
			return nil, err
		}
	}
	return candidates, nil
}

// conclude combines the candidates of one case.
func (c *call) conclude(candidates []*candidate) Result {
	verdicts := make([]decide.Verdict, len(candidates))
	for i, t := range candidates {
		verdicts[i] = decide.Combine(t.conditions)
	}
	best, v := decide.Choose(verdicts)
	if v.Err != nil {
		return Result{Err: v.Err}
	}
	d := authz.Decision{
		Permissionship: v.Permissionship, RefusedBy: v.RefusedBy, Gate: v.Gate,
		Missing: v.Missing, CheckedAt: c.source.snap.Revision(), Elsewhere: elsewhere(c.source.snap), FreshAt: freshAt(c.source.snap),
	}
	for i, t := range candidates {
		report := c.report(t, verdicts[i])
		if i == best {
			d.ValidUntil = report.ValidUntil
			d.Candidates = append([]authz.Candidate{report}, d.Candidates...)
			continue
		}
		d.Candidates = append(d.Candidates, report)
	}
	if c.journal == nil { // else it is the record's
		d.ID = newID()
	}
	frozen := slices.ContainsFunc(candidates, func(t *candidate) bool { return len(t.baselines) > 0 })
	return Result{Decision: d, frozen: frozen}
}

// newID returns 128 random bits in hexadecimal.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

// elsewhere reports whether a snapshot is answered by another evaluator than its graph's.
func elsewhere(snap authz.Snapshot) bool {
	s, ok := snap.(authz.Elsewhere)
	return ok && s.Elsewhere()
}

// freshAt is a moment at which a snapshot's revision was the newest, where it says so.
func freshAt(snap authz.Snapshot) time.Time {
	if s, ok := snap.(authz.Dated); ok {
		return s.FreshAt()
	}
	return time.Time{}
}
