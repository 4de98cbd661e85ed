package judge

import (
	"context"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/journal"
)

// Permit is a decision that allowed, and that is decided again and again until it does not. Whether it still holds is never concluded from
// anything but the rule: Renew asks exactly what Decide asks, at the head.
//
// Where nothing that was read for the decision can have changed, it is not decided again. That is so while the head is the revision that it was
// decided at, and none of the relationships that were read for it has expired. It is known of decisions that name a session or a delegation, by
// an engine that says when what it has read expires. A frozen session reads revisions that are collected at some time, so its decisions are
// always decided again.
//
// A Permit belongs to one goroutine at a time.
type Permit struct {
	by    By
	asked Question
	// first is the id of the decision that the permit began with.
	first string
	// decision is the newest one, and err why there is none.
	decision authz.Decision
	err      error
	// over says that the permit does not hold any more, and ended makes the record of the decision by which it ended.
	over  bool
	ended func(context.Context) *journal.Record
	// unsure is why it was not found out last whether the permit holds.
	unsure error
	// until is the moment up to which the decision is the same while the head is its revision; zero where that is not known.
	until time.Time
}

// decideAgainAfter is the time after which a permit is decided again although nothing that it rests on seems to have changed. No promise depends on it: it
// bounds how long a permit could outlive a cause that Renew does not know, such as an answer of SpiceDB's that is found to be stricter.
const decideAgainAfter = 30 * time.Second

// Permit decides a case at the head and records the decision, as Decide does. It is a Permit also where the decision refuses; see Holds.
// Errors: those of Decide, and of the case.
func (j *Judge) Permit(ctx context.Context, by By, one authz.Case, f authz.Freshness) (*Permit, error) {
	results, _, err := j.Decide(ctx, by, Questions(one), f, false)
	if err != nil {
		return nil, err
	}
	if results[0].Err != nil {
		return nil, results[0].Err
	}
	p := &Permit{by: by, asked: Question{Case: one}, first: results[0].Decision.ID, decision: results[0].Decision}
	p.over = p.decision.Permissionship != authz.HasPermission
	return p, nil
}

// Holds reports whether the permit held when it was decided last.
func (p *Permit) Holds() bool { return !p.over }

// Decision is the newest decision of a permit that holds, or the one that it began with.
func (p *Permit) Decision() authz.Decision { return p.decision }

// Unsure is why Renew did not find out last whether the permit holds: the engine does not answer for now. nil where it did.
func (p *Permit) Unsure() error { return p.unsure }

// stands reports whether nothing can have changed.
func (p *Permit) stands(head authz.Revision, now time.Time) bool {
	return !p.until.IsZero() && p.decision.CheckedAt == head && now.Before(p.until)
}

// Renew finds out which permits still hold, at the head, and notes that in each; see Holds, End and Unsure. It returns how many it had to decide
// again.
func (j *Judge) Renew(ctx context.Context, permits []*Permit) (decided int) {
	now := j.now()
	head, err := j.graph.Snapshot(ctx, authz.Freshness{})
	if err != nil {
		for _, p := range permits {
			p.unsure = err
		}
		return 0
	}
	due := map[*authz.Bounds][]*Permit{}
	for _, p := range permits {
		if p.unsure = nil; !p.stands(head.Revision(), now) {
			due[p.by.Within] = append(due[p.by.Within], p)
		}
	}
	if len(due) == 0 {
		return 0
	}
	schema, failed := coreSchema(ctx, head)
	for within, part := range due {
		decided += len(part)
		c := &call{Judge: j, within: within, source: j.source(head, now), schema: schema}
		if within == nil {
			c.within = &authz.Bounds{}
		}
		err := failed
		if err == nil {
			err = c.renew(ctx, part)
		}
		if err != nil {
			c.fail(part, err)
		}
	}
	return decided
}

// untilKnower is a Snapshot that knows up to which moment it would answer what it has answered so far. It is safe for concurrent use.
type untilKnower interface {
	Until() (until time.Time, known bool)
}

// renew decides permits again.
func (c *call) renew(ctx context.Context, permits []*Permit) error {
	asked := make([]Question, len(permits))
	for i, p := range permits {
		asked[i] = p.asked
	}
	results, err := c.decide(ctx, asked)
	if err != nil {
		return err
	}
	until := c.until()
	for i, p := range permits {
		d := &results[i].Decision
		switch err := results[i].Err; {
		case err != nil:
			c.fail(permits[i:i+1], err)
		case d.Permissionship == authz.HasPermission:
			p.decision, p.until = *d, until
			if named := p.asked.Session != "" || p.asked.Delegation != ""; !named || results[i].frozen {
				p.until = time.Time{}
			}
		default:
			p.over, p.decision = true, *d
			p.ended = func(ctx context.Context) *journal.Record { return c.records(ctx, asked[i:i+1], results[i:i+1])[0] }
		}
	}
	return nil
}

// fail notes that permits could not be decided again: for now, or never more for any caller.
func (c *call) fail(permits []*Permit, err error) {
	for _, p := range permits {
		if passing(err) {
			p.unsure = err
			continue
		}
		p.over, p.err = true, err
		p.ended = func(ctx context.Context) *journal.Record {
			return c.journal.Answered(ctx, &p.asked.Case, &authz.Decision{}, err, false)
		}
	}
}

// until is the moment up to which what was decided stays as it is while the head is the same; zero where that is not known.
func (c *call) until() time.Time {
	snap, ok := c.source.snap.(untilKnower)
	if !ok {
		return time.Time{}
	}
	until, known := snap.Until()
	if !known {
		return time.Time{}
	}
	c.source.mu.Lock()
	defer c.source.mu.Unlock()
	return earliest(earliest(until, c.source.until), c.source.now.Add(decideAgainAfter))
}

// passing reports whether an error says nothing about a permit, because deciding it has failed for now.
func passing(err error) bool {
	return engineFailed(err) || authz.KindOf(err) == authz.Aborted
}

// End records the decision by which a permit ended, and returns it. Errors: why there was no decision, and that the journal does not take the
// record. A client that is told either may not act any more.
func (p *Permit) End(ctx context.Context) (authz.Decision, error) {
	if account := p.by.Account.Again(); account != nil {
		record := p.ended(ctx)
		record.AboutDecision = p.first
		ids, err := account.Record(ctx, journal.Refuse, record)
		if err != nil {
			return authz.Decision{}, err
		}
		p.decision.ID = ids[0]
	}
	if p.err != nil {
		return authz.Decision{}, p.err
	}
	return p.decision, nil
}
