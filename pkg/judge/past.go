package judge

import (
	"context"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/journal"
)

// Past is a decision of the past, as its record has it.
type Past struct {
	// ID is the id of its record.
	ID string
	// Then is the case with what decided it named, and Today the case as it was asked.
	Then, Today authz.Case
	// Revision is the one that it was made at, and Head the one at which the actor was judged besides; zero unless it was asked at an exact
	// snapshot.
	Revision, Head authz.Revision
	// From and Until are between which moments it was made.
	From, Until time.Time
	// Schema is the digest of the schema in force.
	Schema []byte
	// Same reports whether an answer is the recorded one.
	Same func(Result) bool
}

// Again is a decision of the past, judged again, with its reasons.
type Again struct {
	// Then is the answer at its revision and moment, and Today the one at the head revision now.
	Then, Today Result
	// OtherSchema says that the schema is another today.
	OtherSchema bool
	// ByClock says that the engine judges by its own clock which relationships have expired, so that Then lacks those that expired since.
	ByClock bool
}

// Retention is how far back decisions can be judged again.
func (j *Judge) Retention() time.Duration { return j.graph.Retention() }

// Explain judges a decision of the past again, where it was made and now, within the bounds of the caller, and records both explanations before it
// returns. Neither is an answer to act on. Errors: OutOfRange where a revision is not readable any more.
func (j *Judge) Explain(ctx context.Context, by By, p Past) (*Again, error) {
	if j.journal == nil || by.Account == nil {
		return nil, authz.Errorf(authz.Internal, "INTERNAL", "an explanation is asked for that nobody would record")
	}
	then, err := j.openPast(ctx, by.Within, p, p.From)
	if err != nil {
		return nil, err
	}
	then.trace = by.Trace
	_, momentary := then.source.snap.(authz.Momentary)
	again := &Again{ByClock: !momentary}
	if again.Then, err = then.explainOne(ctx, p.Then); err != nil {
		return nil, err
	}
	// Between the beginning of the call and its record something may have expired.
	if !p.Same(again.Then) && p.Until.After(p.From) {
		later, err := j.openPast(ctx, by.Within, p, p.Until)
		if err != nil {
			return nil, err
		}
		later.trace = by.Trace
		result, err := later.explainOne(ctx, p.Then)
		if err != nil {
			return nil, err
		}
		if p.Same(result) {
			then, again.Then = later, result
		}
	}
	today, err := j.open(ctx, by.Within, authz.Freshness{})
	if err != nil {
		return nil, err
	}
	today.explain, today.trace = true, by.Trace
	if again.Today, err = today.explainOne(ctx, p.Today); err != nil {
		return nil, err
	}
	again.OtherSchema = string(j.digests.of(today.schema)) != string(p.Schema)
	return again, j.recordAgain(ctx, by.Account, p, then, today, again)
}

// openPast opens the revision of a decision at a moment.
func (j *Judge) openPast(ctx context.Context, within *authz.Bounds, p Past, moment time.Time) (*call, error) {
	if within == nil {
		within = &authz.Bounds{}
	}
	c := &call{Judge: j, within: within, explain: true, past: true}
	snap, err := j.graph.Snapshot(ctx, authz.Freshness{Exactly: p.Revision, Moment: moment})
	if err != nil {
		return nil, err
	}
	c.source = j.source(snap, moment)
	if c.schema, err = coreSchema(ctx, snap); err != nil {
		return nil, err
	}
	if !p.Head.IsZero() {
		head, err := j.graph.Snapshot(ctx, authz.Freshness{Exactly: p.Head, Moment: moment})
		if err != nil {
			return nil, err
		}
		c.head = j.source(head, moment)
	}
	return c, nil
}

// explainOne decides one case.
func (c *call) explainOne(ctx context.Context, one authz.Case) (Result, error) {
	results, err := c.decide(ctx, Questions(one))
	if err != nil {
		return Result{}, err
	}
	return results[0], nil
}

// recordAgain records both explanations, and gives them the ids of their records.
func (j *Judge) recordAgain(ctx context.Context, account *journal.Account, p Past, then, today *call, again *Again) error {
	records := append(
		then.records(ctx, Questions(p.Then), []Result{again.Then}),
		today.records(ctx, Questions(p.Today), []Result{again.Today})...,
	)
	for _, r := range records {
		r.AboutDecision = p.ID
	}
	ids, err := account.Record(ctx, journal.Refuse, records...)
	if err != nil {
		return err
	}
	again.Then.Decision.ID, again.Today.Decision.ID = ids[0], ids[1]
	return nil
}
