package facts

import (
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Span is a stretch of time in which the same relationships read the same: none of them expires in it. The zero Span
// holds at no moment.
type Span struct{ since, until time.Time }

// never is after every expiration.
var never = time.Unix(1<<40, 0)

// SpanOf returns the span around a moment.
func SpanOf(rels []authz.Relationship, now time.Time) Span {
	s := Span{until: never}
	for i := range rels {
		switch at := rels[i].ExpiresAt; {
		case at.IsZero():
		case at.After(now):
			if at.Before(s.until) {
				s.until = at
			}
		case at.After(s.since):
			s.since = at
		}
	}
	return s
}

// Holds reports whether a moment is in the span.
func (s Span) Holds(now time.Time) bool { return !now.Before(s.since) && now.Before(s.until) }

// And returns the moments that are in both.
func (s Span) And(o Span) Span {
	if o.since.After(s.since) {
		s.since = o.since
	}
	if o.until.Before(s.until) {
		s.until = o.until
	}
	return s
}
