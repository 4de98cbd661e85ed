package evaluate

import (
	"container/heap"
	"context"
	"runtime"
	"slices"
	"sync/atomic"
)

// The candidates of a lookup come from many lists of ids, each in order: the objects with a row that names the subject, or a group that it
// is in, or a folder that it may view. The lists are merged as they are read, a little of each at a time. So their length makes no
// difference to memory, and the order of the candidates depends on nothing but ids.

const (
	// maxReached is how many members of objects a lookup notes on its way, and maxLists how many lists it merges. If there are more,
	// it takes all ids of the type instead: for those it need not note anything.
	maxReached = 1 << 16
	maxLists   = 1 << 16
	// readAhead is about how many ids of all lists together are held. listMin and listMax are the fewest and the most that are read of
	// one list at once.
	readAhead        = 1 << 14
	listMin, listMax = 4, 512
	// smallNoted is how much a lookup notes in any case, and maxNoted how much all that note more do together: members of objects, lists, and ids
	// that are read ahead. Where there is no room for more, a lookup takes all ids instead, or reads few ahead.
	smallNoted, maxNoted = 1 << 11, 1 << 20
)

// noted is how much lookups note, but for those that note little.
var noted atomic.Int64

// list names a list of ids that rows can read, in order.
type list struct {
	of listKind
	// rowsOf, kind and id say which list of that kind it is, see read.
	rowsOf *member
	kind   subjectKind
	id     string
}

// listKind says which method of IDs reads a list.
type listKind uint8

const (
	// written is a list that is held already: nothing reads it.
	written listKind = iota
	// resourceIDs are the objects on which the relation has a subject of the kind with the id.
	resourceIDs
	// subjectIDs are the subjects of the kind in the relation of the object with the id.
	subjectIDs
	// objectIDs are all objects of the kind's type, and namedIDs all subjects of the kind.
	objectIDs
	namedIDs
)

// read reads ids, from the first that is not before from.
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

// afterID makes the place right behind an id of it: no id has so small a character.
const afterID = "\x01"

// after returns the place right behind an id.
func after(id string) string { return id + afterID }

// cursor is a place in a list.
type cursor struct {
	list
	// ids were read and not passed yet; the first of them is where the cursor is. from is where to read on, if there is more.
	ids  []string
	from string
	more bool
	// once is how many ids were asked for the last time.
	once int
}

// fill reads on if no id is left, and reports whether there is one. It reads more each time, up to a limit.
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

// skip moves on to the first id that is not before to. If no such id was read yet, the cursor reads on from there.
func (c *cursor) skip(to string) {
	n, _ := slices.BinarySearch(c.ids, to)
	c.ids = c.ids[n:]
	c.from = max(c.from, to)
}

// merged merges lists. The zero value has none.
type merged struct {
	// front has a cursor for each list. Once begun is true it is a heap of those that have an id, the smallest first.
	front cursors
	begun bool
	limit int
	// sparing says to read few ids ahead.
	sparing bool
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

// next returns the first id that is not before from; ok is false where there is none. from must not be before that of the last call.
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
	if m.sparing {
		m.limit = listMin
	}
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

// candidates are the ids of all objects, or subjects, that a lookup may find. A spread finds the lists that have them, and then the lists are
// merged.
type candidates struct {
	spread
	merged
	state candidatesState
	// noted is what is counted of it among what all lookups note; nil as long as that is little.
	noted *int64
}

// note counts what the lookup notes by now, and reports whether there is room for it. A lookup has no end, and some are left alone: so what was
// counted is taken back with its memory.
func (c *candidates) note(n int) bool {
	if c.noted == nil {
		if n <= smallNoted {
			return true
		}
		c.noted = new(int64)
		runtime.AddCleanup(c, func(n *int64) { noted.Add(-*n) }, c.noted)
	}
	more := int64(n) - *c.noted
	if all := noted.Add(more); more > 0 && all > maxNoted {
		noted.Add(-more)
		return false
	}
	*c.noted = int64(n)
	return true
}

// giveUp forgets what was noted, because it is too much.
func (c *candidates) giveUp() {
	c.state, c.merged = unbounded, merged{}
	c.forget()
	c.note(0)
}

// spread finds the lists that have candidates.
type spread interface {
	// step does a part of the work and adds the lists that it finds to m. work is how much it did, in rows that were read and lists that
	// were found; done says that it was the last part.
	step(rows Rows, m *merged) (work int, done bool, err error)
	// all returns the lists of all ids that there are, whether anything leads to them or not, and as own the ids that these may lack.
	all() (lists []list, own []string)
	// reached is how many members of objects were noted, or how many lists are open that lead on, whichever are more.
	reached() int
	// forget drops what was noted; nothing but all is asked afterwards.
	forget()
}

type candidatesState uint8

const (
	spreading candidatesState = iota
	// bounded says that all lists are known, and unbounded that there were too many to note.
	bounded
	unbounded
)

// advance spreads until that is done, or until it has taken so much work.
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
			if ahead := min(len(c.front)*listMax, readAhead); !c.note(len(c.front) + ahead) {
				c.sparing = true
				c.note(len(c.front))
			}
		case c.reached() > maxReached || len(c.front) > maxLists || !c.note(c.reached()+len(c.front)):
			c.giveUp()
		}
		work -= max(n, 1)
	}
	return nil
}

// takeAll makes all ids that there are candidates.
func (c *candidates) takeAll() {
	lists, own := c.all()
	c.merged, c.spread = merged{}, nil
	for _, l := range lists {
		c.add(l)
	}
	c.addWritten(own)
}

// Candidates are the ids of the objects of a type on which each of several subjects may have its permission, or of the subjects that may
// have one on an object. They are in order, and a superset of those that a check confirms. They are found as they are asked for, in bounded
// memory. They are not safe for concurrent use.
type Candidates struct {
	// A candidate is in all of sets. waiting has further ones, which are spread as more candidates are asked for.
	sets, waiting []*candidates
	// from is where to go on.
	from string
	// settled says that at least one of sets is spread, or that all ids are taken. drawn counts candidates, and wildcard says that one of them
	// was the wildcard.
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

// TakeAll makes all objects of the type candidates, so that their checks alone decide. It must be called before anything is asked.
func (c *Candidates) TakeAll() {
	c.sets, c.settled = c.sets[:1], true
	c.sets[0].takeAll()
}

// settle spreads the sets in turns until one is done, which bounds the candidates. So it costs little if any of them costs little.
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

// join spreads the waiting sets a little, and lets those that are done bound the candidates too. It leaves out those that are too large to
// be noted: the checks of the candidates make up for them.
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

// Next returns the next candidates, at most limit. more reports whether others may follow: a call looks at a bounded number of ids, so it may
// find none and still not be at the end. The rows must be of the same revision in each call. Errors are those of the rows and of ctx; after
// one nothing may be asked.
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
			// Rows name the wildcard too, and it is no subject.
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

// maxWork is how often one call of Next looks for an id in a set, and maxRound how often it does so before it looks at ctx again.
const maxWork, maxRound = 1 << 16, 1 << 8

// agreed returns the first id, from where to go on, that all sets have, or "" where there is none; n is how often it looked for an id in a
// set. found is false if it stopped because that was too often; then id is where to go on.
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
