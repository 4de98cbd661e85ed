package rpc

import (
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// TestStamped: no token is stamped later than a moment at which its revision was the newest.
func TestStamped(t *testing.T) {
	began := time.Unix(1_000, 0)
	before, after := began.Add(-time.Second), began.Add(time.Second)
	exactly := authz.Freshness{Exactly: authz.Revision{Token: "r"}}
	for name, c := range map[string]struct {
		fresh   authz.Freshness
		freshAt time.Time
		want    time.Time
	}{
		"the head":                                {authz.Freshness{}, time.Time{}, began},
		"the head, proven during the call":        {authz.Freshness{}, after, began},
		"what was the head before":                {authz.Freshness{Stale: true}, before, before},
		"what is the head by chance":              {authz.Freshness{Stale: true}, after, began},
		"what does not tell since when it is old": {authz.Freshness{Stale: true}, time.Time{}, began.Add(-5 * time.Second)},
		"a snapshot":                              {exactly, time.Time{}, began},
		"a snapshot that tells an older moment":   {exactly, before, began},
	} {
		b := border{Config{Staleness: 5 * time.Second}}
		if got := b.stamped(began, c.fresh, c.freshAt); !got.Equal(c.want) {
			t.Errorf("%s is stamped %s after the call's begin, want %s", name, got.Sub(began), c.want.Sub(began))
		}
	}
}
