package judge

import (
	"context"
	"errors"
	"slices"

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

// Filter answers c for each of the objects of c.Resource.Type with the ids, whatever c.Resource.ID is: as many answers as ids, in order, all at one
// revision, and each what Decide answers to the same case with that object. What is wrong with the case, whatever the object, is the error of the
// call, and so is an engine that does not answer. It records nothing.
//
// The facts behind the decision are read once, and what depends on no object is judged once.
func (j *Judge) Filter(
	ctx context.Context, within *authz.Bounds, c authz.Case, ids []string, f authz.Freshness,
) ([]Filtered, authz.Revision, error) {
	call, err := j.open(ctx, within, f)
	if err != nil {
		return nil, authz.Revision{}, err
	}
	if h, ok := call.source.snap.(holder); ok {
		h.Hold()
		defer h.Release()
	}
	c.Resource.ID = ""
	actors, err := call.candidates(ctx, c)
	if err != nil {
		return nil, authz.Revision{}, ofType(err)
	}
	if err := call.askOfActors(ctx, actors); err != nil {
		return nil, authz.Revision{}, err
	}
	out := make([]Filtered, 0, len(ids))
	for page := range slices.Chunk(ids, max(1, filterPage/max(1, len(actors)))) {
		candidates := make([]*candidate, 0, len(page)*len(actors))
		for _, id := range page {
			for _, actor := range actors {
				candidates = append(candidates, call.on(actor, id))
			}
		}
		if err := call.ask(ctx, candidates); err != nil {
			return nil, authz.Revision{}, err
		}
		verdicts := make([]decide.Verdict, len(actors))
		for i := range page {
			for k := range actors {
				verdicts[k] = decide.Combine(candidates[i*len(actors)+k].conditions)
			}
			_, v := decide.Choose(verdicts)
			out = append(out, Filtered{v.Permissionship, v.RefusedBy, v.Missing, v.Err})
		}
	}
	return out, call.source.snap.Revision(), nil
}

// askOfActors settles the conditions of candidates that depend on no object.
func (c *call) askOfActors(ctx context.Context, actors []*candidate) error {
	for _, t := range actors {
		t.hidden = true // there is no object yet to ask anything of
	}
	return c.ask(ctx, actors)
}

// on returns a candidate for an object: an actor's conditions, of which those that depend on no object are settled.
func (c *call) on(actor *candidate, id string) *candidate {
	t := *actor
	t.c.Resource.ID = id
	t.hidden = c.hides(t.c.Resource)
	t.conditions = slices.Clone(actor.conditions)
	queries := make([]authz.Query, 0, len(t.conditions)) // one place in memory for all of them
	for i := range t.conditions {
		if one := &t.conditions[i]; one.Query != nil && one.Side == authz.SideObject {
			queries = append(queries, *one.Query)
			one.Query = &queries[len(queries)-1]
			one.Query.Resource.ID = id
		}
	}
	return &t
}

// ofType names the type's field in an error as requests have it that name no object.
func ofType(err error) error {
	if e, ok := errors.AsType[*authz.Error](err); ok && e.Field == "resource.object_type" {
		e.Field = "resource_object_type"
	}
	return err
}
