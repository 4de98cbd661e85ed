package differential

import (
	"slices"

	"github.com/authzed/spicedb/pkg/tuple"
)

// shrink makes a world smaller as long as a question is still answered wrongly: first its relationships,
// then its schema. wrong publishes a world and asks.
func shrink(s *schema, rows []tuple.Relationship, wrong func(*schema, []tuple.Relationship) bool) (*schema, []tuple.Relationship) {
	for {
		before := len(s.String()) + len(rows)
		rows = smallerRows(s, rows, wrong)
		s = smallerSchema(s, rows, wrong)
		if len(s.String())+len(rows) == before {
			return s, rows
		}
	}
}

func smallerRows(s *schema, rows []tuple.Relationship, wrong func(*schema, []tuple.Relationship) bool) []tuple.Relationship {
	for size := max(len(rows)/2, 1); size >= 1; size /= 2 {
		for i := 0; i+size <= len(rows); {
			fewer := slices.Concat(rows[:i], rows[i+size:])
			if wrong(s, fewer) {
				rows = fewer
			} else {
				i += size
			}
		}
	}
	for i := range rows {
		plainer := slices.Clone(rows)
		plainer[i].OptionalExpiration = nil
		if rows[i].OptionalExpiration != nil && wrong(s, plainer) {
			rows = plainer
		}
		plainer = slices.Clone(rows)
		plainer[i].OptionalCaveat = nil
		if rows[i].OptionalCaveat != nil && wrong(s, plainer) {
			rows = plainer
		}
	}
	return rows
}

// smallerSchema tries every schema that has a little less.
func smallerSchema(s *schema, rows []tuple.Relationship, wrong func(*schema, []tuple.Relationship) bool) *schema {
	for again := true; again; {
		again = false
		for _, less := range s.less() {
			if len(less.String()) < len(s.String()) && wrong(less, rows) {
				s, again = less, true
				break
			}
		}
	}
	return s
}

// clone copies a schema deeply enough to be changed.
func (s *schema) clone() *schema {
	c := &schema{}
	for _, d := range s.types {
		e := &definition{name: d.name}
		for _, r := range d.relations {
			e.relations = append(e.relations, &relation{r.name, slices.Clone(r.allowed)})
		}
		for _, p := range d.permissions {
			e.permissions = append(e.permissions, &permission{p.name, p.expr})
		}
		c.types = append(c.types, e)
	}
	return c
}

// less returns the schemas that lack one thing each.
func (s *schema) less() []*schema {
	var all []*schema
	without := func(change func(*schema)) {
		c := s.clone()
		change(c)
		all = append(all, c)
	}
	for i, d := range s.types {
		without(func(c *schema) { c.types = slices.Delete(c.types, i, i+1) })
		for j, r := range d.relations {
			without(func(c *schema) { c.types[i].relations = slices.Delete(c.types[i].relations, j, j+1) })
			for k, n := range r.allowed {
				if len(r.allowed) > 1 {
					without(func(c *schema) {
						c.types[i].relations[j].allowed = slices.Delete(c.types[i].relations[j].allowed, k, k+1)
					})
				}
				n.caveat, n.expiring = "", false
				if n != r.allowed[k] {
					without(func(c *schema) { c.types[i].relations[j].allowed[k] = n })
				}
			}
		}
		for j, p := range d.permissions {
			without(func(c *schema) { c.types[i].permissions = slices.Delete(c.types[i].permissions, j, j+1) })
			for _, e := range p.expr.less() {
				without(func(c *schema) { c.types[i].permissions[j].expr = e })
			}
		}
	}
	return all
}

// less returns the expressions that lack one operand each.
func (e *expr) less() []*expr {
	var all []*expr
	for i, part := range e.parts {
		all = append(all, part)
		if len(e.parts) > 2 {
			all = append(all, &expr{op: e.op, parts: slices.Delete(slices.Clone(e.parts), i, i+1)})
		}
		for _, smaller := range part.less() {
			parts := slices.Clone(e.parts)
			parts[i] = smaller
			all = append(all, &expr{op: e.op, parts: parts})
		}
	}
	return all
}

// minimise shrinks the world of a difference, in a store of its own, and asks everybody again.
func minimise(found difference) difference {
	d, shut, err := newDesk(found.who == "spicedb's server")
	if err != nil {
		return found
	}
	defer shut()
	smallest := found
	wrong := func(s *schema, rows []tuple.Relationship) bool {
		e, err := d.publish(s.String(), rows)
		if err != nil {
			return false
		}
		want := e.reference.Check(found.q.resource, found.q.subject, found.q.context)
		again := difference{who: found.who, q: found.q, want: want, edition: e, seed: found.seed}
		affordable := e.reference.affordable(found.q, want) && !want.Stalls
		switch found.who {
		case "spicedb":
			if !affordable {
				return false
			}
			again.got = e.ask(d.local, found.q)
			if d.judge(e, found.q, want, again.got) != differs {
				return false
			}
		case "spicedb's server":
			if !affordable {
				return false
			}
			var c class
			if c, again.got = d.judgeServer(e, found.q, want); c != differs {
				return false
			}
		default:
			answers, err := d.asked(e, []question{found.q})
			if err != nil {
				return false
			}
			again.got = answers[0]
			if fits(want, again.got) == same || (again.got.Code == slow) != (found.got.Code == slow) {
				return false
			}
		}
		if affordable {
			again.spicedb = e.ask(d.local, found.q).String()
		}
		smallest = again
		return true
	}
	if s := found.edition.schema; s != nil && wrong(s, found.edition.rows) {
		shrink(s, found.edition.rows, wrong)
	}
	return smallest
}
