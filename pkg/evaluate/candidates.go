package evaluate

import (
	"container/heap"
	"context"
	"slices"
)

// What a lookup may find comes from many lists of ids, each in order: objects with a row that names the subject, or a group that it is
// in, or a folder that it may view. They are merged as they are read, a little of each at a time, so that it makes no difference how
// long they are, and their order depends on nothing but ids.

const (
	// maxReached is how many members of objects a lookup notes on its way, and maxLists how many lists it merges. Where there are more
	// it takes all ids of the type instead, for which it need not note anything.
	maxReached = 1 << 16
	maxLists   = 1 << 16
	// readAhead is about how many ids are held of all lists together. listMin and listMax are how many are read of one list at once.
	readAhead        = 1 << 14
	listMin, listMax = 4, 512
)

// list names a list of ids in order, as it is read from rows.
type list struct {
	of listKind
	// rowsOf, kind and id are what it is about, see read.
	rowsOf *member
	kind   subjectKind
	id     string
}

// listKind is a method of IDs.
type listKind uint8

const (
	// written has been read already.
	written listKind = iota
	// resourceIDs are the objects on which the relation has a subject of the kind with the id.
	resourceIDs
	// subjectIDs are the subjects of the kind in the relation of the object with the id.
	subjectIDs
	// objectIDs are all objects of the kind's type, and namedIDs all subjects of the kind.
	objectIDs
	namedIDs
)

// read reads ids from one on.
func (l *list) read(rows IDs, from string, limit int) (ids []string, more bool, err error) {
	switch k := l.kind; l.of {
	case resourceIDs:
		return rows.ResourceIDs(k.objectType, k.relation, l.id, l.rowsOf.of.name, l.rowsOf.name, from, limit)
	case subjectIDs:
		return rows.SubjectIDs(l.rowsOf.of.name, l.id, l.rowsOf.name, k.objectType, k.relation, from, limit)
	case objectIDs:
		return rows.ObjectIDs(k.objectType, from, limit)
	case namedIDs:
		return rows.NamedIDs(k.objectType, k.relation, from, limit)
	case written:
	}
	return nil, false, nil
}

// after returns where ids go on behind one: no id has so small a character.
func after(id string) string { return id + "\x01" }

// cursor is a place in a list.
type cursor struct {
	list
	// ids are read, the first of them is the cursor's; from is where to read on, if there is more.
	ids  []string
	from string
	more bool
	// once is how many were read at once, the last time.
	once int
}

// fill reads on if nothing is left of what was read, and reports whether there is anything. It reads more each time, up to a limit.
func (c *cursor) fill(rows IDs, limit int) (ok bool, err error) {
	for len(c.ids) == 0 && c.more {
		c.once = min(max(2*c.once, listMin), limit)
		if c.ids, c.more, err = c.read(rows, c.from, c.once); err != nil {
			return false, err
		}
		if n := len(c.ids); n > 0 {
			c.from = after(c.ids[n-1])
		}
	}
	return len(c.ids) > 0, nil
}

// skip moves on to the first id from one on, as far as it was read; else that is where it reads on.
func (c *cursor) skip(to string) {
	n, _ := slices.BinarySearch(c.ids, to)
	c.ids = c.ids[n:]
	c.from = max(c.from, to)
}

// merged are lists that are merged. Its zero value is empty.
type merged struct {
	// front has the cursors that have an id, the smallest first. It is a heap once begun says so; until then it has all of them.
	front cursors
	begun bool
	limit int
}

// cursors implement heap.Interface.
type cursors []*cursor //nolint:recvcheck // heap.Push and heap.Pop change the slice, the others do not

func (c cursors) Len() int           { return len(c) }
func (c cursors) Less(i, j int) bool { return c[i].ids[0] < c[j].ids[0] }
func (c cursors) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c *cursors) Push(x any)        { *c = append(*c, x.(*cursor)) } //nolint:forcetypeassert,errcheck // nothing else is pushed
func (c *cursors) Pop() any {
	n := len(*c) - 1
	last := (*c)[n]
	(*c)[n] = nil
	*c = (*c)[:n]
	return last
}

// add adds a list that is to be read.
func (m *merged) add(l list) { m.front = append(m.front, &cursor{list: l, more: true}) }

// addWritten adds ids, in any order.
func (m *merged) addWritten(ids []string) {
	if len(ids) > 0 {
		slices.Sort(ids)
		m.front = append(m.front, &cursor{ids: slices.Compact(ids)})
	}
}

// next returns the first id from one on; ok is false where there is none. One call must not go back behind the one before.
func (m *merged) next(ctx context.Context, rows IDs, from string) (id string, ok bool, err error) {
	if !m.begun {
		return m.begin(ctx, rows, from)
	}
	for len(m.front) > 0 && m.front[0].ids[0] < from {
		c := m.front[0]
		c.skip(from)
		switch ok, err := c.fill(rows, m.limit); {
		case err != nil:
			return "", false, err
		case ok:
			heap.Fix(&m.front, 0)
		default:
			heap.Pop(&m.front)
		}
	}
	return m.first()
}

// begin reads the beginning of each list.
func (m *merged) begin(ctx context.Context, rows IDs, from string) (id string, ok bool, err error) {
	m.begun, m.limit = true, min(max(readAhead/max(len(m.front), 1), listMin), listMax)
	all := m.front
	m.front = m.front[:0]
	for i, c := range all {
		if i%64 == 0 && ctx.Err() != nil {
			return "", false, ctx.Err()
		}
		c.skip(from)
		ok, err := c.fill(rows, m.limit)
		if err != nil {
			return "", false, err
		}
		if ok {
			m.front = append(m.front, c)
		}
	}
	clear(all[len(m.front):])
	heap.Init(&m.front)
	return m.first()
}

func (m *merged) first() (id string, ok bool, err error) {
	if len(m.front) == 0 {
		return "", false, nil
	}
	return m.front[0].ids[0], true, nil
}

// candidates are the ids of all objects, or subjects, that a lookup may find: found by spreading from what is known, and then merged.
type candidates struct {
	spread
	merged
	state candidatesState
}

// spread finds out what leads to candidates.
type spread interface {
	// step does a part of the work, and returns how much, in rows that were read; done says that it was the last part. It adds
	// lists to m.
	step(rows Rows, m *merged) (work int, done bool, err error)
	// all are the lists that have all that there can be, and own are ids that they may lack.
	all() (lists []list, own []string)
	// reached is how many members of objects were noted.
	reached() int
}

type candidatesState uint8

const (
	spreading candidatesState = iota
	// bounded is where all lists are known, and unbounded where there were too many.
	bounded
	unbounded
)

// advance spreads until it is done, or has done so much work.
func (c *candidates) advance(ctx context.Context, rows Rows, work int) error {
	for c.state == spreading && work > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, done, err := c.step(rows, &c.merged)
		switch {
		case err != nil:
			return err
		case done:
			c.state = bounded
		case c.reached() > maxReached || len(c.front) > maxLists:
			c.state = unbounded
		}
		work -= max(n, 1)
	}
	return nil
}

// takeAll makes candidates of all that there is.
func (c *candidates) takeAll() {
	lists, own := c.all()
	c.merged, c.spread = merged{}, nil
	for _, l := range lists {
		c.add(l)
	}
	c.addWritten(own)
}

// Candidates are the ids of the objects of a type on which all of several subjects may have a permission each, or of the subjects that may
// have one on an object: a superset, in order. They are found as they are asked for, in bounded memory. They are not safe for
// concurrent use.
type Candidates struct {
	// sets are looked at; waiting are others, which are spread as more and more candidates are asked for.
	sets, waiting []*candidates
	// from is where to go on.
	from string
	// settled says that it is known which sets are looked at, drawn counts candidates, and wildcard says that one has come by.
	settled  bool
	drawn    int
	wildcard bool
}

// Place is where it goes on, for From.
func (c *Candidates) Place() string { return c.from }

// From goes on at a place, or from an id on. It must not go back.
func (c *Candidates) From(place string) { c.from = place }

// After goes on behind an id. It must not go back.
func (c *Candidates) After(id string) { c.from = after(id) }

const (
	// firstWork is how much each of several sets is spread in the first round, in rows; the next ones take moreWork times as much.
	firstWork, moreWork = 128, 4
	// joinAfter is how many candidates come from the first set alone.
	joinAfter = 64
)

// TakeAll makes candidates of everything of the type that there is, so that their checks alone count. Nothing may have been asked
// before.
func (c *Candidates) TakeAll() {
	c.sets, c.settled = c.sets[:1], true
	c.sets[0].takeAll()
}

// settle spreads the sets in turns until one is done, which bounds the candidates. So it costs little where any of them does.
func (c *Candidates) settle(ctx context.Context, rows Rows) error {
	for work := firstWork; ; work *= moreWork {
		open := false
		for i, s := range c.sets {
			if err := s.advance(ctx, rows, work); err != nil {
				return err
			}
			if s.state == bounded {
				c.waiting = slices.Delete(slices.Clone(c.sets), i, i+1)
				c.sets = []*candidates{s}
				return nil
			}
			open = open || s.state == spreading
		}
		if !open {
			c.TakeAll()
			return nil
		}
	}
}

// join spreads the other sets a little, and has those that are done bound the candidates too. Those of which there is too much to be
// noted are left out: checks find out about them.
func (c *Candidates) join(ctx context.Context, rows Rows, work int) error {
	waiting := c.waiting[:0]
	for _, s := range c.waiting {
		if err := s.advance(ctx, rows, work); err != nil {
			return err
		}
		switch s.state {
		case bounded:
			c.sets = append(c.sets, s)
		case spreading:
			waiting = append(waiting, s)
		case unbounded:
		}
	}
	clear(c.waiting[len(waiting):])
	c.waiting = waiting
	return nil
}

// Next returns the next candidates, at most limit. more reports whether others may follow, also where there are none among those
// that one call looks at. The rows are of the same revision in each call. Errors are those of the rows and of ctx; afterwards
// nothing may be asked.
func (c *Candidates) Next(ctx context.Context, rows Rows, limit int) (ids []string, more bool, err error) {
	if !c.settled {
		if err := c.settle(ctx, rows); err != nil {
			return nil, false, err
		}
		c.settled = true
	}
	if c.drawn >= joinAfter && len(c.waiting) > 0 {
		if err := c.join(ctx, rows, 2*limit); err != nil {
			return nil, false, err
		}
	}
	for work := 0; len(ids) < limit && work < maxWork; {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		id, found, n, err := c.agreed(ctx, rows)
		switch {
		case err != nil || id == "":
			return ids, false, err
		case found:
			// The wildcard is among what rows name, and no subject.
			if id != wildcard {
				ids = append(ids, id)
			} else {
				c.wildcard = true
			}
			c.After(id)
			c.drawn++
		default:
			c.From(id)
		}
		work += n
	}
	return ids, true, nil
}

// maxWork is how often one call of Next looks for an id in a set, and maxRound how often it does that without regard to ctx.
const maxWork, maxRound = 1 << 16, 1 << 8

// agreed returns the first id from where to go on that all sets have, and how often it looked for one; "" where there is none. found is
// false if that was too often; then the id is where to go on.
func (c *Candidates) agreed(ctx context.Context, rows Rows) (id string, found bool, n int, err error) {
	id = c.from
	for agree := 0; agree < len(c.sets); n++ {
		if n == maxRound {
			return id, false, n, nil
		}
		first, ok, err := c.sets[n%len(c.sets)].next(ctx, rows, id)
		if err != nil || !ok {
			return "", false, n, err
		}
		if first != id {
			id, agree = first, 0
		}
		agree++
	}
	return id, true, n, nil
}
