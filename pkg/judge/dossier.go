package judge

import (
	"context"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/decide"
	"github.com/deputyauth/deputy/pkg/facts"
)

// dossier is all facts of a candidate, kept with the delegation that acts, for as long as all that they were read from
// stands: what an agent asks for next, in its session, is another object.
type dossier struct {
	session authz.SessionID
	agent   authz.AgentID
	leaf    leaf
	facts   decide.Facts
	// notes are those on what the facts were read from, and in is when they hold.
	notes []*authz.Note
	in    facts.Span
	// bytes is about what it takes, with the facts: they may be thrown away where they were read from.
	bytes int
}

// dossierBytes is about what a dossier takes without its facts.
const dossierBytes = 1024

// candidate returns all facts for the delegation, acting for the principal in the tenant. They are shared, and must not
// be changed.
func (b *book) candidate(ctx context.Context, c authz.Case, leaf leaf) (decide.Facts, error) {
	if b.notes == nil {
		return b.gather(ctx, c, leaf)
	}
	r, err := b.readDelegation(ctx, leaf.id)
	if err != nil {
		return decide.Facts{}, err
	}
	if d := r.dossier.Load(); d != nil && d.session == c.Session && d.agent == c.Agent && d.leaf == leaf && b.stands(d) {
		f := d.facts
		f.Now = b.now
		return f, nil
	}
	f, err := b.gather(ctx, c, leaf)
	if err != nil {
		return f, err
	}
	if d, ok := b.dossier(ctx, c, leaf, f); ok {
		r.keep(d)
	}
	return f, nil
}

// keep keeps a dossier with a reading, if it is not too large.
func (r *reading[T]) keep(d *dossier) {
	grown := d.bytes
	if old := r.dossier.Load(); old != nil {
		grown -= old.bytes
	}
	if r.note.Grow(grown) {
		r.dossier.Store(d)
	}
}

// stands reports whether the facts of a dossier are those of this snapshot, at this moment.
func (b *book) stands(d *dossier) bool {
	if !d.in.Holds(b.now) {
		return false
	}
	for _, n := range d.notes {
		if !b.notes.Stands(n) {
			return false
		}
	}
	return true
}

// dossier makes a dossier of facts that were gathered; ok is false if something of them has no note.
func (b *book) dossier(ctx context.Context, c authz.Case, leaf leaf, f decide.Facts) (d *dossier, ok bool) {
	filters := []authz.Filter{facts.StandingFilter(f.Principal.Object), facts.StandingFilter(f.Tenant.Object())}
	if c.Session != "" {
		filters = append(filters, facts.Object(c.Session.Object()))
	}
	for _, del := range f.Chain {
		filters = append(filters, facts.Object(del.ID.Object()))
	}
	for id := range f.Sessions {
		filters = append(filters, facts.Object(id.Object()))
	}
	for id := range f.Standing.Agents {
		filters = append(filters, facts.Object(id.Object()))
	}
	if len(f.Chain) > 0 {
		if filter, needed := entitlement(f.Chain[0]); needed {
			filters = append(filters, filter)
		}
	}
	d = &dossier{session: c.Session, agent: c.Agent, leaf: leaf, facts: f, in: facts.SpanOf(nil, b.now), bytes: dossierBytes}
	for _, filter := range filters {
		// All of them were read.
		p, err := b.one(ctx, filter)
		if err != nil || p.note.Of == nil {
			return nil, false
		}
		d.notes = append(d.notes, p.note)
		d.bytes += 2 * factBytes * (1 + len(p.rels))
		d.in = d.in.And(facts.SpanOf(p.rels, b.now))
	}
	return d, true
}
