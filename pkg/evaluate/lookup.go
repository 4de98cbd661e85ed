package evaluate

import (
	"context"
	"strings"

	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Resources returns the objects of a type on which all holders may have their permissions, of which there is one at least. Errors
// are those of Resolve.
func (p *Program) Resources(resourceType string, holders ...Holder) (*Candidates, error) {
	found := &Candidates{}
	for _, h := range holders {
		target, sub, err := p.resolve(&Check{
			Resource: tuple.ObjectAndRelation{ObjectType: resourceType, ObjectID: "any", Relation: h.Permission}, Subject: h.Subject,
		})
		if err != nil {
			return nil, err
		}
		found.sets = append(found.sets, &candidates{spread: &spreadObjects{
			ways: p.waysTo(target), target: target, subject: sub, seen: map[memberKey]struct{}{},
		}})
	}
	return found, nil
}

// Reach is Resources in the words of authz.
func (p *Program) Reach(r authz.Reachable) (*Candidates, error) {
	holders := make([]Holder, len(r.Holders))
	for i, h := range r.Holders {
		holders[i] = Holder{h.Permission, CheckOf(authz.Query{Subject: h.Subject}).Subject}
	}
	return p.Resources(r.ResourceType, holders...)
}

// placed begins the cursors of Page, so that one of another engine is not taken for a place.
const placed = "at "

// PlaceOf returns the place of a cursor of Page.
func PlaceOf(cursor string) string { return strings.TrimPrefix(cursor, placed) }

// Page is Next in the words of authz.Snapshot, from a cursor on, which is "" or one that Page returned. It must not go back.
func (c *Candidates) Page(ctx context.Context, rows Rows, limit int, cursor string) (found []authz.Resource, next string, err error) {
	place, ok := strings.CutPrefix(cursor, placed)
	if !ok && cursor != "" {
		return nil, "", authz.FieldErrorf("cursor", "is none of a lookup by this engine: start it again")
	}
	c.From(place)
	ids, more, err := c.Next(ctx, rows, limit)
	if err != nil {
		return nil, "", err
	}
	found = make([]authz.Resource, len(ids))
	for i, id := range ids {
		found[i] = authz.Resource{ID: id, After: placed + after(id)}
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

// Found is an object, or a subject, that a lookup found: one that has the permission, conditionally or not, or of which that cannot be
// said.
type Found struct {
	ID string
	Answer
}

const (
	// firstBatch is how many candidates are checked first, so that the first result comes soon; maxBatch is how many are checked at
	// once in the end.
	firstBatch, maxBatch = 8, 512
)

// Lookup calls yield with each object of a type on which the subject has the permission, or of which that cannot be said, after an id ("" is
// before all), in order. It ends with an error of yield. An object to which nothing leads from the subject is left out, also where
// its check would be an error.
func (w *Walk) Lookup(ctx context.Context, resourceType string, h Holder, given map[string]any, after string, yield func(Found) error) error {
	c, err := w.program.Resources(resourceType, h)
	if err != nil {
		return err
	}
	if after != "" {
		c.After(after)
	}
	return w.Among(ctx, c, func(id string) Check {
		return Check{
			Resource: tuple.ObjectAndRelation{ObjectType: resourceType, ObjectID: id, Relation: h.Permission}, Subject: h.Subject, Context: given,
		}
	}, yield)
}

// decide calls yield with each candidate, and what its check comes to.
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
