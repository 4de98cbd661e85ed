package facts

import (
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Span is the time for which what was read of relationships holds: from the moment at which they were read until the first of
// them expires. Before that moment it does not hold, because an engine leaves out what has expired. The zero Span holds at no
// moment.
type Span struct{ since, until time.Time }

// never is after every expiration.
var never = time.Unix(1<<40, 0)

// SpanFrom returns the span from a moment on that has no end, for Until.
func SpanFrom(now time.Time) Span { return Span{now, never} }

// Until returns the span with the end that relationships give it which were read at its beginning.
func (s Span) Until(rels []authz.Relationship) Span {
	for i := range rels {
		if at := rels[i].ExpiresAt; at.After(s.since) && at.Before(s.until) {
			s.until = at
		}
	}
	return s
}

// Holds reports whether a moment is in the span.
func (s Span) Holds(now time.Time) bool { return !now.Before(s.since) && now.Before(s.until) }

// End returns the moment at which the span ends; zero where it has no end.
func (s Span) End() time.Time {
	if s.until.Equal(never) {
		return time.Time{}
	}
	return s.until
}
