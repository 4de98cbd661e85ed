package evaluate

import "strings"

// spreadObjects finds the objects of a type on which a subject may have a member.
type spreadObjects struct {
	ways    *ways
	target  *member
	subject subject
	begun   bool

	seen map[memberKey]struct{}
	// own has the ids of those objects of the target's type that were noted.
	own []string
	// open has the lists that are not read to their end yet. The objects on them lead on.
	open []leading
}

// leading is a list of objects on which the subject may have the member to.
type leading struct {
	cursor
	to *member
}

func (s *spreadObjects) reached() int { return max(len(s.seen), len(s.open)) }

func (s *spreadObjects) forget() { s.seen, s.own, s.open = nil, nil, nil }

// all implements spread. Of the objects without rows only the subject itself can be reached.
func (s *spreadObjects) all() (lists []list, own []string) {
	if s.subject.of == s.target.of {
		own = []string{s.subject.id}
	}
	return []list{{of: objectIDs, kind: subjectKind{objectType: s.target.of.name}}}, own
}

// step implements spread: it reads a page of a list whose objects lead on.
func (s *spreadObjects) step(rows Rows, m *merged) (work int, done bool, err error) {
	before := len(m.front)
	if !s.begun {
		s.begun = true
		s.begin(m)
	}
	n := len(s.open)
	if n == 0 {
		m.addWritten(s.own)
		s.seen, s.own = nil, nil
		return len(m.front) - before, true, nil
	}
	l := &s.open[n-1]
	ids, more, err := l.read(rows, l.from, listMax)
	if err != nil {
		return 0, false, err
	}
	to := l.to
	if l.more = more; more {
		l.from = after(ids[len(ids)-1])
	} else {
		s.open = s.open[:n-1]
	}
	for _, id := range ids {
		s.note(to, id, m)
	}
	return len(ids) + len(m.front) - before, false, nil
}

// begin starts from the subject.
func (s *spreadObjects) begin(m *merged) {
	for _, w := range s.ways.everybody[s.subject.of.name] {
		s.follow(w, wildcard, m)
	}
	if s.subject.relation != "" {
		s.note(s.subject.of.members[s.subject.relation], s.subject.id, m)
		return
	}
	for _, w := range s.ways.objects[s.subject.of.name] {
		s.follow(w, s.subject.id, m)
	}
	for _, self := range s.ways.selves {
		if self.of == s.subject.of {
			s.note(self, s.subject.id, m)
		}
	}
}

// note notes that the subject may have a member of an object, and follows all ways from there.
func (s *spreadObjects) note(of *member, id string, m *merged) {
	key := memberKey{of, strings.Clone(id)}
	if _, known := s.seen[key]; known {
		return
	}
	s.seen[key] = struct{}{}
	if s.ways.reached[of] {
		s.own = append(s.own, key.id)
	}
	for _, w := range s.ways.onward[of] {
		s.follow(w, key.id, m)
	}
}

// follow follows a way from a subject. If nothing leads on from the way's objects, they are candidates, and need not be noted.
func (s *spreadObjects) follow(w way, id string, m *merged) {
	l := list{of: resourceIDs, rowsOf: w.rowsOf, kind: w.kind, id: id}
	if len(s.ways.onward[w.to]) == 0 {
		m.add(l)
		return
	}
	s.open = append(s.open, leading{cursor{list: l, more: true}, w.to})
}
