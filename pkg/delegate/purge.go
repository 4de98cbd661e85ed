package delegate

import (
	"context"
	"slices"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// What is over stays as long as somebody may ask about it, and is purged then: all of it goes but a tombstone. A walk goes through all
// sessions, and then through all delegations. It is pinned to one revision, where it can be continued. That is harmless, because what it
// writes stands on preconditions: what was over then, and is not over any more, stays.
//
// A session goes with its leaves. A delegation is over by itself, or because one above it is, or the session of one above it: nothing makes
// that live again. What stands on a delegation that was purged is over, too, and goes by itself.

// Purging asks for a part of a walk.
type Purging struct {
	// OlderThan is for how long what is purged has to have been over.
	OlderThan time.Duration
	// DryRun asks what would be purged, and writes nothing.
	DryRun bool
}

// Purged counts what a part of a walk did, or would do.
type Purged struct {
	// Sessions and Delegations are those that were purged. Leaves count as delegations.
	Sessions, Delegations int
	// Relationships are those that were deleted.
	Relationships int
	// Seen are those that were found to be over of which the graph does not say since when. It says so now.
	Seen int
	// At is the walk's revision.
	At authz.Revision
}

const (
	// walkPage is how many sessions or delegations a walk reads at a time.
	walkPage = 200
	// writeMust is about how many preconditions a write of a walk has at most.
	writeMust = 100
)

// unit is what a walk writes together, or not at all.
type unit struct {
	updates []authz.Update
	must    []authz.MustHold
	// done is called once it is written.
	done func()
}

// Purge goes on with a walk from a place, and returns where the next call goes on, nil at its end. Errors: Denied for a caller with bounds,
// OutOfRange where the walk's revision is gone: then it has to begin anew, which loses nothing.
func (d *Delegate) Purge(ctx context.Context, p Purging, from Place) (Purged, *Place, error) {
	if err := d.wholly(); err != nil {
		return Purged{}, nil, err
	}
	var out Purged
	stages := []authz.Filter{facts.Named(authz.TypeSession), facts.Named(authz.TypeDelegation)}
	v, next, err := d.walk(ctx, from, p.DryRun, stages, func(v *view, stage int, ids []string, lists [][]authz.Relationship) ([]unit, error) {
		var units []unit
		for i, id := range ids {
			o, err := v.ended(ctx, stages[stage].Resource.Type, id, lists[i])
			if err != nil {
				return nil, err
			}
			if o == nil {
				continue
			}
			switch {
			case o.since.IsZero() && p.OlderThan > 0:
				units = append(units, unit{[]authz.Update{facts.See(o.self, v.now)}, o.must, func() { out.Seen++ }})
			case o.since.IsZero() || !o.since.Add(p.OlderThan).After(v.now):
				some, err := v.purge(ctx, o, &out)
				if err != nil {
					return nil, err
				}
				units = append(units, some...)
			}
		}
		return units, nil
	})
	if v != nil {
		out.At = v.snap.Revision()
	}
	return out, next, err
}

// Index lists what is live and is not listed, and reports whether all that is live is listed now, or was before; see facts.Indexed. What was
// written past the services a moment ago may not be there yet: then it does nothing, and is to be called again. Errors: Denied for a caller
// with bounds.
func (d *Delegate) Index(ctx context.Context) (bool, error) {
	if err := d.wholly(); err != nil {
		return false, err
	}
	v, err := d.look(ctx)
	if err != nil {
		return false, err
	}
	before, err := v.read(ctx, facts.IndexFilter())
	if err != nil || facts.Indexed(before) {
		return err == nil, err
	}
	done, ready := facts.MakeIndexed(before, v.now)
	if !ready {
		return false, nil
	}
	stages := []authz.Filter{facts.Marked(authz.TypeSession), facts.Marked(authz.TypeDelegation)}
	list := func(v *view, stage int, ids []string, lists [][]authz.Relationship) ([]unit, error) {
		var units []unit
		for i, id := range ids {
			o := authz.Object{Type: stages[stage].Resource.Type, ID: id}
			if updates := unlisted(o, lists[i], v.now); len(updates) > 0 {
				units = append(units, unit{updates, facts.MustBeActive(o), func() {}})
			}
		}
		return units, nil
	}
	for place := (&Place{Revision: v.snap.Revision()}); place != nil; {
		if _, place, err = d.walk(ctx, *place, false, stages, list); err != nil {
			return false, err
		}
	}
	_, err = d.apply(ctx, done, nil)
	return err == nil, err
}

// unlisted is the write that lists a session or a delegation, if it is live and not listed.
func unlisted(o authz.Object, rels []authz.Relationship, now time.Time) []authz.Update {
	if o.Type == authz.TypeSession {
		s := facts.ReadSession(authz.SessionID(o.ID), rels, now)
		if !s.Live() {
			return nil
		}
		return s.List(rels)
	}
	d := facts.ReadDelegation(authz.DelegationID(o.ID), rels, now)
	if !d.Live() {
		return nil
	}
	return d.List(rels)
}

// NotIndexed notes that facts are written past the services.
func (d *Delegate) NotIndexed(ctx context.Context) error {
	if _, err := d.look(ctx); err != nil {
		if reason(err) == authz.ReasonCoreSchema {
			return nil // nothing is listed by a core schema that is not Deputy's
		}
		return err
	}
	_, err := d.apply(ctx, facts.NotIndexed(d.now()), nil)
	return err
}

// walk pages through what the stages select, reads it, and writes what examine makes of it. It stops at its budget.
func (d *Delegate) walk(
	ctx context.Context, from Place, dry bool, stages []authz.Filter,
	examine func(v *view, stage int, ids []string, lists [][]authz.Relationship) ([]unit, error),
) (*view, *Place, error) {
	v, err := d.at(ctx, from)
	if err != nil {
		return nil, nil, err
	}
	place := Place{Revision: v.snap.Revision(), Engine: from.Engine, Stage: from.Stage}
	for until := authz.Until(ctx, listTime); place.Stage < len(stages); {
		if v.reads > 0 && (v.reads >= d.listReads || !time.Now().Before(until)) {
			return v, &place, nil
		}
		rels, next, err := v.snap.Page(ctx, stages[place.Stage], walkPage, place.Engine)
		if err != nil {
			return v, nil, err
		}
		var ids []string
		var filters []authz.Filter
		for _, rel := range rels {
			if len(ids) == 0 || ids[len(ids)-1] != rel.Resource.ID {
				ids, filters = append(ids, rel.Resource.ID), append(filters, facts.Object(rel.Resource))
			}
		}
		v.reads += 1 + len(ids)
		if len(ids) > 0 {
			lists, err := v.snap.Read(ctx, filters...)
			if err != nil {
				return v, nil, err
			}
			units, err := examine(v, place.Stage, ids, lists)
			if err != nil {
				return v, nil, err
			}
			if err := d.writeUnits(ctx, units, dry); err != nil {
				return v, nil, err
			}
		}
		if place.Engine = next; next == "" {
			place.Stage++
		}
	}
	return v, nil, nil
}

// writeUnits writes units, several at a time.
func (d *Delegate) writeUnits(ctx context.Context, units []unit, dry bool) error {
	for len(units) > 0 {
		n, updates, must := 0, 0, 0
		for ; n < len(units); n++ {
			updates, must = updates+len(units[n].updates), must+len(units[n].must)
			if n > 0 && (updates > MaxUpdates || must > writeMust) {
				break
			}
		}
		if err := d.writeTogether(ctx, units[:n], dry); err != nil {
			return err
		}
		units = units[n:]
	}
	return nil
}

// writeTogether writes units in one write; where that is refused, each by itself, and leaves out those that are refused: what they stand on
// is not so any more.
func (d *Delegate) writeTogether(ctx context.Context, units []unit, dry bool) error {
	var updates []authz.Update
	var must []authz.MustHold
	for _, u := range units {
		updates, must = append(updates, u.updates...), append(must, u.must...)
	}
	if !dry {
		_, err := d.apply(ctx, updates, must)
		switch {
		case raced(err) && len(units) == 1:
			return nil
		case raced(err):
			for i := range units {
				if err := d.writeTogether(ctx, units[i:i+1], false); err != nil {
					return err
				}
			}
			return nil
		case err != nil:
			return err
		}
	}
	for _, u := range units {
		u.done()
	}
	return nil
}

// finished is a session or a delegation that is over.
type finished struct {
	self authz.Object
	rels []authz.Relationship
	// since is since when it has been over; zero where that is not known.
	since time.Time
	// must holds while it is over.
	must []authz.MustHold
	// session is set where it is one.
	session *facts.Session
}

// ended reads a session or a delegation that is over and can be purged; nil for any other.
func (v *view) ended(ctx context.Context, objectType, id string, rels []authz.Relationship) (*finished, error) {
	o := &finished{self: authz.Object{Type: objectType, ID: id}, rels: rels}
	if objectType == authz.TypeSession {
		s := facts.ReadSession(authz.SessionID(id), rels, v.now)
		if !s.Over(s.Issued, v.now) {
			return nil, nil //nolint:nilnil // it is not over
		}
		o.since, o.must, o.session = s.Since(s.Issued, v.now), []authz.MustHold{s.MustBeOver(o.self)}, &s
		return o.resumed(s.Purged), nil
	}
	d := facts.ReadDelegation(authz.DelegationID(id), rels, v.now)
	if d.Session != "" {
		// It goes with its session. What is left of it afterwards, because that was interrupted, goes now.
		rels, err := v.read(ctx, facts.Object(d.Session.Object()))
		s := facts.ReadSession(d.Session, rels, v.now)
		if err != nil || !s.Purged {
			return nil, err
		}
		o.must = []authz.MustHold{s.MustBeOver(d.Session.Object())}
		return o.resumed(true), nil
	}
	over, err := v.over(ctx, d)
	if err != nil || over == nil {
		return nil, err
	}
	o.since, o.must = d.Since(d.Issued, v.now), []authz.MustHold{*over}
	return o.resumed(d.Purged), nil
}

// resumed makes what was begun to be purged be purged now.
func (o *finished) resumed(purged bool) *finished {
	if purged {
		o.since = time.Unix(0, 0)
	}
	return o
}

// over returns what holds while a delegation is over, by itself or by what it stands on; nil where it is not over. One that stands on what is
// not there is not over: perhaps it is being imported.
func (v *view) over(ctx context.Context, d facts.Delegation) (*authz.MustHold, error) {
	for depth := 0; depth <= facts.MaxDepth; depth++ {
		if d.Over(d.Issued, v.now) {
			must := d.MustBeOver(d.ID.Object())
			return &must, nil
		}
		if d.Session != "" {
			rels, err := v.read(ctx, facts.Object(d.Session.Object()))
			if err != nil {
				return nil, err
			}
			if s := facts.ReadSession(d.Session, rels, v.now); s.Over(s.Issued, v.now) {
				must := s.MustBeOver(d.Session.Object())
				return &must, nil
			}
		}
		if d.Parent == "" {
			break
		}
		var err error
		if d, err = v.link(ctx, d.Parent); err != nil {
			return nil, err
		}
	}
	return nil, nil //nolint:nilnil // it is not over
}

// purge lays out the writes that purge what is over, and counts what they do.
func (v *view) purge(ctx context.Context, o *finished, count *Purged) ([]unit, error) {
	rels, err := v.withScope(ctx, o.self, o.rels)
	if err != nil {
		return nil, err
	}
	own := facts.Purge(o.self, rels)
	if o.session == nil {
		return o.units(own, func() { count.Delegations++ }, count), nil
	}
	leaves, err := v.leaves(ctx, o.session.Leaves)
	if err != nil {
		return nil, err
	}
	var all []authz.Update
	minted := 0
	for i := range leaves {
		leaf := leaves[i].ID.Object()
		if leaves[i].Session != o.session.ID {
			continue // it is another's, or was purged
		}
		rels, err := v.read(ctx, facts.Object(leaf))
		if err != nil {
			return nil, err
		}
		if rels, err = v.withScope(ctx, leaf, rels); err != nil {
			return nil, err
		}
		all = append(all, facts.Purge(leaf, rels)...)
		minted++
	}
	// The session's tombstone comes first, and what the walk finds it by comes last.
	all = slices.Concat(own[:1], all, own[1:])
	return o.units(all, func() { count.Sessions, count.Delegations = count.Sessions+1, count.Delegations+minted }, count), nil
}

// units splits updates, the first of which is the tombstone, into what one write takes.
func (o *finished) units(updates []authz.Update, done func(), count *Purged) []unit {
	var units []unit
	must := o.must
	for part := range slices.Chunk(updates, MaxUpdates) {
		deleted := 0
		for _, u := range part {
			if u.Operation == authz.Delete {
				deleted++
			}
		}
		units = append(units, unit{part, must, func() { count.Relationships += deleted }})
		purged := facts.Life{Purged: true}
		must = []authz.MustHold{purged.MustBeOver(o.self)} // nobody takes that away
	}
	last := &units[len(units)-1]
	counted := last.done
	last.done = func() { counted(); done() }
	return units
}

// withScope adds to the relationships of a delegation those on domain objects whose subject it is.
func (v *view) withScope(ctx context.Context, o authz.Object, rels []authz.Relationship) ([]authz.Relationship, error) {
	if o.Type != authz.TypeDelegation {
		return rels, nil
	}
	naming, err := v.read(ctx, authz.Filter{SubjectType: o.Type, SubjectID: o.ID})
	if err != nil {
		return nil, err
	}
	out := slices.Clone(rels)
	for _, rel := range naming {
		if !authz.IsCore(rel.Resource.Type) {
			out = append(out, rel)
		}
	}
	return out, nil
}
