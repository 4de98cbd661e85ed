package authz

import (
	"sync"
	"time"
)

// seldomPause is how long after one message the next one is let through.
const seldomPause = 10 * time.Second

// Seldom lets one message through in ten seconds, for a log that must not fill while something goes wrong at every call. The
// zero value is ready, and lets the first one through. It is safe for concurrent use.
type Seldom struct {
	mu   sync.Mutex
	last time.Time
	kept int
}

// Next reports whether a message is let through, and how many were not since the last one.
func (s *Seldom) Next() (kept int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !s.last.IsZero() && now.Sub(s.last) < seldomPause {
		s.kept++
		return 0, false
	}
	kept, s.last, s.kept = s.kept, now, 0
	return kept, true
}
