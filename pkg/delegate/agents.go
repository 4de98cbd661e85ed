package delegate

import (
	"context"
	"errors"
	"slices"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// Registered is an agent that was registered.
type Registered struct {
	facts.Agent
	// Unnamed are the owners that no relationship named before.
	Unnamed []authz.Object
}

// Register makes an agent known. Errors: Exists where the id left any trace in the graph.
func (d *Delegate) Register(ctx context.Context, id authz.AgentID, owners []authz.Object, key string) (Registered, authz.Revision, error) {
	return d.register(ctx, id, owners, key, false)
}

// AdoptAgent is Register for an id that relationships may name already. Errors: Exists where it is registered, Precondition
// where it is suspended, or has an owner that is not among the owners.
func (d *Delegate) AdoptAgent(ctx context.Context, id authz.AgentID, owners []authz.Object, key string) (Registered, authz.Revision, error) {
	return d.register(ctx, id, owners, key, true)
}

func (d *Delegate) register(
	ctx context.Context, id authz.AgentID, owners []authz.Object, key string, adopt bool,
) (Registered, authz.Revision, error) {
	none := func(err error) (Registered, authz.Revision, error) { return Registered{}, authz.Revision{}, err }
	if err := checkKey(key); err != nil {
		return none(err)
	}
	if d.within.Confined() || !d.within.HasAgent(id) {
		return none(outOfBounds("%s lies outside the bounds of the caller %s, which cannot register it", authz.Show(id.Object()), d.caller))
	}
	owners, err := checkOwners("owner_ids", owners)
	if err != nil {
		return none(err)
	}
	v, err := d.look(ctx)
	if err != nil {
		return none(err)
	}
	out := Registered{Agent: facts.Agent{
		ID: id, Owners: owners, Issued: facts.Issued{At: v.now, KeyDigest: d.keyDigest(key, registration(owners))},
		Life: facts.Life{Known: true, Active: true},
	}}
	if out.Unnamed, err = v.unnamed(ctx, owners); err != nil {
		return none(err)
	}
	updates, must := facts.Register(id, owners, out.Issued), facts.NoTrace(id.Object())
	if adopt {
		updates, must = facts.Adopt(id.Object(), owners, out.Issued)
		if before, err := v.agent(ctx, id); err != nil && authz.KindOf(err) != authz.NotFound {
			return none(err)
		} else if !before.Active {
			if err := adoptable(before, owners); err != nil {
				return none(err)
			}
		}
	}
	rev, err := d.write(ctx, v, updates, must)
	switch {
	case err == nil:
		return out, rev, nil
	case authz.KindOf(err) == authz.Aborted, authz.KindOf(err) != authz.Exists && reason(err) != authz.ReasonConflict:
		return Registered{}, rev, err // two writes met; whether the id is taken is not known
	}
	// It was there before: by an earlier try of the same call, or it is taken.
	if v, err = d.look(ctx); err != nil {
		return none(err)
	}
	before, err := v.agent(ctx, id)
	switch {
	case err != nil && authz.KindOf(err) != authz.NotFound:
		return none(err)
	case key == "" || before.Issued.KeyDigest != out.Issued.KeyDigest:
		return none(taken(before))
	}
	return Registered{Agent: before}, v.snap.Revision(), nil
}

// checkOwners returns an agent's owners in order, each once.
func checkOwners(field string, owners []authz.Object) ([]authz.Object, error) {
	slices.SortFunc(owners, byID)
	owners = slices.Compact(owners)
	if len(owners) == 0 || len(owners) > MaxOwners {
		return nil, authz.FieldErrorf(field, "must name 1 to %d users", MaxOwners)
	}
	return owners, nil
}

// taken says why an id cannot be registered.
func taken(a facts.Agent) error {
	name := authz.Show(a.ID.Object())
	switch {
	case a.Stopped:
		return authz.Errorf(authz.Exists, authz.ReasonAlreadyExists,
			"%s is suspended: an id that was used is not given to another agent; deputy agent resume lifts the suspension", name)
	case a.Active:
		return authz.Errorf(authz.Exists, authz.ReasonAlreadyExists, "%s is registered already", name)
	default:
		return authz.Errorf(authz.Exists, authz.ReasonAlreadyExists,
			"%[1]s is not registered, but relationships name it, and it would hold what they grant: "+
				"deputy adopt %[1]s shows that, and deputy agent register --adopt takes the id as it is", name)
	}
}

// adoptable refuses what must not be made active, and owners that leave out a user whom the graph names: it would answer for the
// agent without anybody having said so.
func adoptable(a facts.Agent, owners []authz.Object) error {
	name := authz.Show(a.ID.Object())
	switch {
	case a.Stopped:
		return notActive(name + " is suspended, and an adoption never lifts a suspension: deputy agent resume does")
	case a.Malformed != "":
		return notActive(name + " cannot be adopted: " + a.Malformed)
	}
	for _, o := range a.Owners {
		if !slices.Contains(owners, o) {
			return authz.Errorf(authz.Precondition, authz.ReasonNotEntitled,
				"the graph names %s as an owner of %s: name every owner that there is, or delete that relationship first", authz.Show(o), name)
		}
	}
	return nil
}

// unnamed returns those of the objects that no relationship names.
func (v *view) unnamed(ctx context.Context, objects []authz.Object) ([]authz.Object, error) {
	var out []authz.Object
	for _, o := range objects {
		if named, err := v.named(ctx, o); err != nil {
			return nil, err
		} else if !named {
			out = append(out, o)
		}
	}
	return out, nil
}

// named reports whether any relationship names an object.
func (v *view) named(ctx context.Context, o authz.Object) (bool, error) {
	for _, f := range facts.Naming(o) {
		rels, _, err := v.snap.Page(ctx, f, 1, "")
		if err != nil || len(rels) > 0 {
			return true, err
		}
	}
	return false, nil
}

// Agent reads one agent.
func (d *Delegate) Agent(ctx context.Context, id authz.AgentID) (facts.Agent, authz.Revision, error) {
	v, err := d.look(ctx)
	if err != nil {
		return facts.Agent{}, authz.Revision{}, err
	}
	a, err := v.agent(ctx, id)
	if err == nil {
		a, err = v.shownAgent(ctx, a)
	}
	return a, v.snap.Revision(), err
}

// Stood is how an agent, a user, a service or a tenant stood before it was suspended or resumed, and after.
type Stood struct {
	// Named tells that a relationship named it before.
	Named bool
	// Active tells that it is active now.
	Active bool
}

// Resume lets agents act for a user or a service, or in a tenant, or lifts an agent's suspension. One that was registered is then
// active; one that was not can be registered, or adopted. Errors: NotFound for an agent that the graph knows nothing of, and
// those of Suspend.
func (d *Delegate) Resume(ctx context.Context, o authz.Object) (Stood, authz.Revision, error) {
	none := func(err error) (Stood, authz.Revision, error) { return Stood{}, authz.Revision{}, err }
	v, err := d.look(ctx)
	if err != nil {
		return none(err)
	}
	if err := v.whole(ctx, o); err != nil {
		return none(err)
	}
	was, updates := Stood{Named: true, Active: true}, facts.Resume(o, facts.Issued{})
	if o.Type != authz.TypeAgent {
		if was.Named, err = v.named(ctx, o); err != nil {
			return none(err)
		}
	} else if updates, was.Active, err = v.resumeAgent(ctx, authz.AgentID(o.ID)); err != nil {
		return none(err)
	}
	rev, err := d.write(ctx, v, updates, nil)
	return was, rev, err
}

// resumeAgent returns what to write, and whether the agent is active then.
func (v *view) resumeAgent(ctx context.Context, id authz.AgentID) ([]authz.Update, bool, error) {
	a, err := v.agent(ctx, id)
	switch {
	case err != nil:
		return nil, false, err
	case len(a.Owners) == 0, a.Unregistered, !a.Active && !a.Stopped:
		return facts.Lift(id.Object()), false, nil
	case a.Issued.At.IsZero():
		a.Issued.At = v.now
	}
	return facts.Resume(id.Object(), a.Issued), true, nil
}

// reason returns the reason of the first Error in the chain, or "".
func reason(err error) string {
	if e, ok := errors.AsType[*authz.Error](err); ok {
		return e.Reason
	}
	return ""
}

func byID(a, b authz.Object) int {
	switch {
	case a.ID < b.ID:
		return -1
	case a.ID > b.ID:
		return 1
	default:
		return 0
	}
}
