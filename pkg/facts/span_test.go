package facts_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// TestSpan: wherever a span holds, what is read is what was read at its beginning; it ends when the first of the
// relationships expires, and not before.
func TestSpan(t *testing.T) {
	t.Parallel()
	lines := append(wellFormed(), "delegation:d1#allow_direct@user:alice[30m]")
	delegation := rels(t, lines)
	for _, lasts := range []time.Duration{-time.Minute, 0, time.Minute} {
		// What Deputy would not have written, as long as it lasts.
		extra := rel(t, "delegation:d1#agent@agent:other")
		extra.ExpiresAt = now.Add(lasts)
		delegation = append(delegation, extra)
	}
	moments := []time.Duration{-2 * time.Minute, -time.Minute, -time.Nanosecond, 0, 1, time.Minute - 1, time.Minute, 30*time.Minute - 1, 30 * time.Minute, time.Hour, 2 * time.Hour}
	read := func(at time.Time) facts.Delegation { return facts.ReadDelegation("d1", delegation, at) }
	within, changes := 0, 0
	for _, a := range moments {
		span := facts.SpanFrom(now.Add(a)).Until(delegation)
		if !span.Holds(now.Add(a)) {
			t.Errorf("the span from %v does not hold there", a)
		}
		for _, b := range moments {
			same := reflect.DeepEqual(read(now.Add(a)), read(now.Add(b)))
			if span.Holds(now.Add(b)) {
				within++
				if !same {
					t.Errorf("the span from %v holds at %v, where something else is read", a, b)
				}
			} else if !same {
				changes++
			}
		}
	}
	if within <= len(moments) || changes == 0 {
		t.Errorf("%d moments are in spans, and %d read otherwise", within, changes)
	}
	if (facts.Span{}).Holds(now) || (facts.Span{}).Holds(time.Time{}) {
		t.Error("the zero span holds")
	}
	if span := facts.SpanFrom(now).Until([]authz.Relationship{{}}); !span.Holds(now.AddDate(200, 0, 0)) || span.Holds(now.Add(-1)) {
		t.Error("without an expiration a span ends, or holds before its beginning")
	}
	for _, of := range []struct{ first, second, ends time.Duration }{
		{time.Minute, time.Hour, time.Minute}, {time.Hour, time.Minute, time.Minute}, {-time.Minute, time.Hour, time.Hour}, {0, time.Hour, time.Hour},
	} {
		until := func(d time.Duration) []authz.Relationship { return []authz.Relationship{{ExpiresAt: now.Add(d)}} }
		span := facts.SpanFrom(now).Until(until(of.first)).Until(until(of.second))
		if !span.Holds(now.Add(of.ends-1)) || span.Holds(now.Add(of.ends)) {
			t.Errorf("of what expires after %v and after %v, the span does not end after %v", of.first, of.second, of.ends)
		}
	}
}
