package evaluate

import (
	"context"
	"strings"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
)

// ResourceCandidates returns the objects of a type on which every holder may have its permission. There has to be at least one holder. Errors are
// those of Resolve.
func (p *Program) ResourceCandidates(resourceType string, holders ...Holder) (*Candidates, error) {
	found := &Candidates{}
	for _, h := range holders {
		target, sub, err := p.resolve(&Check{
			Resource: tuple.ObjectAndRelation{ObjectType: resourceType, ObjectID: "any", Relation: h.Permission}, Subject: h.Subject,
		})
		if err != nil {
			return nil, err
		}
		to := p.waysTo(target)
		set := &candidates{spread: &spreadObjects{ways: to, target: target, subject: sub, seen: map[memberKey]struct{}{}}}
		if to.tooMany {
			set.state = unbounded
		}
		found.sets = append(found.sets, set)
	}
	return found, nil
}

// Reach is ResourceCandidates in the words of authz.
func (p *Program) Reach(r authz.Reachable) (*Candidates, error) {
	holders := make([]Holder, len(r.Holders))
	for i, h := range r.Holders {
		holders[i] = Holder{h.Permission, CheckOf(authz.Query{Subject: h.Subject}).Subject}
	}
	return p.ResourceCandidates(r.ResourceType, holders...)
}

// placed is how the cursors of Page begin, so that a cursor of another engine is not taken for a place.
const placed = "at "

// PlaceOf returns the place of a cursor of Page.
func PlaceOf(cursor string) string { return strings.TrimPrefix(cursor, placed) }

// Page is Next in the words of authz.Snapshot. It goes on at a cursor, which is "" or one that Page returned, and must not go back.
func (c *Candidates) Page(ctx context.Context, rows Rows, limit int, cursor string) (found []authz.Resource, next string, err error) {
	place, ok := strings.CutPrefix(cursor, placed)
	if !ok && cursor != "" {
		return nil, "", authz.ForeignCursor()
	}
	c.From(place)
	ids, more, err := c.Next(ctx, rows, limit)
	if err != nil {
		return nil, "", err
	}
	found = make([]authz.Resource, len(ids))
	for i, id := range ids {
		found[i] = authz.Resource{ID: id, After: placed + id + afterID}
	}
	if more {
		next = placed + c.Place()
	}
	return found, next, nil
}

// Holder is a subject, as for Check, and the permission or relation that it has.
type Holder struct {
	Permission string
	Subject    tuple.ObjectAndRelation
}

// Found is an object, or a subject, that a lookup found, with the answer of its check: yes, conditional or failed.
type Found struct {
	ID string
	Answer
}

const (
	// firstBatch is how many candidates are checked first, so that the first result comes soon. Each further batch is twice as large, up
	// to maxBatch.
	firstBatch, maxBatch = 8, 512
)

// LookupResources calls yield, in order, with each object of a type on which the subject has the permission, conditionally or not, and with each
// whose check fails. It begins behind an id; "" is before all. An error of yield ends it. It leaves out an object to which nothing leads from the
// subject, even if a check of that object would be an error.
func (w *Walk) LookupResources(ctx context.Context, resourceType string, h Holder, given map[string]any, after string, yield func(Found) error) error {
	c, err := w.program.ResourceCandidates(resourceType, h)
	if err != nil {
		return err
	}
	if after != "" {
		c.After(after)
	}
	return w.ResourcesAmong(ctx, c, func(id string) Check {
		return Check{
			Resource: tuple.ObjectAndRelation{ObjectType: resourceType, ObjectID: id, Relation: h.Permission}, Subject: h.Subject, Context: given,
		}
	}, yield)
}

// decide calls yield with each candidate and the answer of its check.
func (w *Walk) decide(ctx context.Context, c *Candidates, check func(id string) Check, yield func(Found) error) error {
	checks := make([]Check, 0, maxBatch)
	for more, batch := true, firstBatch; more; batch = min(2*batch, maxBatch) {
		var ids []string
		var err error
		if ids, more, err = c.Next(ctx, w.rows, batch); err != nil {
			return err
		}
		checks = checks[:0]
		for _, id := range ids {
			checks = append(checks, check(id))
		}
		answers, err := w.checkAll(ctx, checks)
		if err != nil {
			return err
		}
		for i, a := range answers {
			if err := yield(Found{ids[i], a}); err != nil {
				return err
			}
		}
	}
	return nil
}
