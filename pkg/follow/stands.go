package follow

import "github.com/deputyauth/deputy/pkg/authz"

// maxStands is how many stands of each kind are remembered.
const maxStands = 16 << 10

// stands remembers where a copy has stood: the newest stands, and the newest of those that somebody came back to, because
// a frozen session, which reads at its baseline once, reads there again. The zero value is empty.
type stands struct {
	recent, asked ring
}

// note remembers a stand.
func (s *stands) note(at *stand) { s.recent.put(at) }

// at returns the stand at a revision, or nil.
func (s *stands) at(r authz.Revision) *stand {
	if found := s.asked.byRevision[r]; found != nil {
		return found
	}
	found := s.recent.byRevision[r]
	if found != nil {
		s.asked.put(found)
	}
	return found
}

// ring holds the newest stands by their revisions.
type ring struct {
	byRevision map[authz.Revision]*stand
	order      []authz.Revision
	// next is where the next one goes in order, once that is full.
	next int
}

func (r *ring) put(at *stand) {
	if r.byRevision == nil {
		r.byRevision = map[authz.Revision]*stand{}
	}
	if r.byRevision[at.revision] != nil {
		r.byRevision[at.revision] = at
		return
	}
	if len(r.order) < maxStands {
		r.order = append(r.order, at.revision)
	} else {
		delete(r.byRevision, r.order[r.next])
		r.order[r.next] = at.revision
		r.next = (r.next + 1) % maxStands
	}
	r.byRevision[at.revision] = at
}
