package judge

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
)

// Filtered is the answer for one object of a filter. The zero Filtered refuses.
type Filtered struct {
	Permissionship authz.Permissionship
	// RefusedBy is the side of a refusal.
	RefusedBy authz.Side
	// Missing names the caveat context that is missing, sorted and each once, where the answer is conditional.
	Missing []string
	// Err is set where there is no answer: a check of this object alone is an error too.
	Err error
}

// filterPage is how many candidates a filter decides at a time.
const filterPage = 500

// Filtering is how a filter ended.
type Filtering struct {
	// Found has an answer for each of the ids, in their order.
	Found []Filtered
	// At is the revision of all answers, and FreshAt a moment at which it was the newest; see authz.Decision.FreshAt.
	At      authz.Revision
	FreshAt time.Time
}

// Filter answers c for each of the objects of c.Resource.Type with the ids, whatever c.Resource.ID is: as many answers as ids, in order, all at one
// revision. Each is the answer of Decide to the same case with that object. An error that does not depend on the object ends the call, and so does an
// engine that does not answer. Filter records nothing.
//
// The facts behind the decision are read once, and conditions that depend on no object are judged once.
func (j *Judge) Filter(
	ctx context.Context, within *authz.Bounds, c authz.Case, ids []string, f authz.Freshness,
) (Filtering, error) {
	call, err := j.open(ctx, within, f)
	if err != nil {
		return Filtering{}, err
	}
	if h, ok := call.source.snap.(holder); ok {
		h.Hold()
		defer h.Release()
	}
	c.Resource.ID = ""
	actors, err := call.candidates(ctx, c)
	if err != nil {
		return Filtering{}, ofType(err)
	}
	if err := call.askOfActors(ctx, actors); err != nil {
		return Filtering{}, err
	}
	out := make([]Filtered, 0, len(ids))
	verdicts := make([]decide.Verdict, len(actors))
	p := &pairs{call: call, actors: actors}
	for page := range slices.Chunk(ids, max(1, filterPage/max(1, len(actors)))) {
		candidates := p.with(page)
		if err := call.ask(ctx, candidates); err != nil {
			return Filtering{}, err
		}
		for range page {
			for i := range verdicts {
				verdicts[i] = decide.Combine(candidates[i].conditions)
			}
			candidates = candidates[len(verdicts):]
			_, v := decide.Choose(verdicts)
			out = append(out, Filtered{v.Permissionship, v.RefusedBy, v.Missing, v.Err})
		}
	}
	return Filtering{out, call.source.snap.Revision(), freshAt(call.source.snap)}, nil
}

// askOfActors settles the conditions of candidates that depend on no object.
func (c *call) askOfActors(ctx context.Context, actors []*candidate) error {
	for _, t := range actors {
		t.hidden = true // there is no object yet to ask about
	}
	return c.ask(ctx, actors)
}

// pairs makes candidates: each of a few actors with each of a page of objects. It uses the same memory for one page after another, because a filter
// or a lookup would otherwise allocate little else.
type pairs struct {
	call       *call
	actors     []*candidate
	pairs      []candidate
	candidates []*candidate
	conditions []decide.Condition
	queries    []authz.Query
}

// grow makes room for pairs with so many objects, in place of those that there are. It has to come before them, because candidates point into that
// room.
func (p *pairs) grow(objects int) {
	conditions, queries := 0, 0
	for _, actor := range p.actors {
		conditions += len(actor.conditions)
		for i := range actor.conditions {
			if ofObject(&actor.conditions[i]) {
				queries++
			}
		}
	}
	p.pairs = slices.Grow(p.pairs[:0], objects*len(p.actors))
	p.candidates = slices.Grow(p.candidates[:0], objects*len(p.actors))
	p.conditions = slices.Grow(p.conditions[:0], objects*conditions)
	p.queries = slices.Grow(p.queries[:0], objects*queries)
}

// ofObject reports whether a condition asks something of the object.
func ofObject(c *decide.Condition) bool { return c.Query != nil && c.Side == authz.SideObject }

// with returns a candidate for each actor with each object, by object. Conditions that depend on no object are settled as they are for the actor. The
// candidates last until the next page.
func (p *pairs) with(ids []string) []*candidate {
	p.grow(len(ids))
	for _, id := range ids {
		for _, actor := range p.actors {
			p.pairs = append(p.pairs, *actor)
			t := &p.pairs[len(p.pairs)-1]
			t.c.Resource.ID = id
			t.hidden = p.call.hides(t.c.Resource)
			first := len(p.conditions)
			p.conditions = append(p.conditions, actor.conditions...)
			t.conditions = p.conditions[first:]
			for i := range t.conditions {
				if one := &t.conditions[i]; ofObject(one) {
					p.queries = append(p.queries, *one.Query)
					one.Query = &p.queries[len(p.queries)-1]
					one.Query.Resource.ID = id
				}
			}
			p.candidates = append(p.candidates, t)
		}
	}
	return p.candidates
}

// ofType names the type's field in an error as requests have it that name no object.
func ofType(err error) error {
	if e, ok := errors.AsType[*authz.Error](err); ok && e.Field == "resource.object_type" {
		e.Field = "resource_object_type"
	}
	return err
}
