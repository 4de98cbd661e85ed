package facts_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// TestSpan: wherever a span holds, what is read is what was read at its moment; and it holds until something expires.
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
		span := facts.SpanOf(delegation, now.Add(a))
		if !span.Holds(now.Add(a)) {
			t.Errorf("the span around %v does not hold there", a)
		}
		for _, b := range moments {
			same := reflect.DeepEqual(read(now.Add(a)), read(now.Add(b)))
			if span.Holds(now.Add(b)) {
				within++
				if !same {
					t.Errorf("the span around %v holds at %v, where something else is read", a, b)
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
	if span := facts.SpanOf([]authz.Relationship{{}}, now); !span.Holds(now.AddDate(200, 0, 0)) || !span.Holds(time.Time{}) {
		t.Error("without an expiration a span ends")
	}
}

// TestSpanAnd: both spans hold exactly where each does, whichever begins or ends first.
func TestSpanAnd(t *testing.T) {
	t.Parallel()
	around := func(expirations ...time.Duration) facts.Span {
		var all []authz.Relationship
		for _, e := range expirations {
			all = append(all, authz.Relationship{ExpiresAt: now.Add(e)})
		}
		return facts.SpanOf(all, now)
	}
	spans := []facts.Span{{}, around(), around(time.Minute), around(-time.Minute), around(-time.Hour, time.Hour), around(-time.Second, time.Minute)}
	for i, a := range spans {
		for j, b := range spans {
			both := a.And(b)
			for _, m := range []time.Duration{-2 * time.Hour, -time.Hour, -2 * time.Minute, -time.Minute, -time.Second, 0, time.Minute - 1, time.Minute, time.Hour, 2 * time.Hour} {
				if at := now.Add(m); both.Holds(at) != (a.Holds(at) && b.Holds(at)) {
					t.Errorf("spans %d and %d: at %v %v", i, j, m, both.Holds(at))
				}
			}
		}
	}
}
