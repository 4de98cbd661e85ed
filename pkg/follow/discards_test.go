package follow

import (
	"testing"
	"time"
)

// TestDiscards: the first copy that is discarded is followed by a load at once, and each further one by a longer pause, so that a difference which every
// copy has does not have the database be read again and again.
func TestDiscards(t *testing.T) {
	var d discards
	now := time.Now()
	if !d.mayLoad(now, time.Minute) {
		t.Fatal("nothing was discarded, and nothing may be loaded")
	}
	d.note(now)
	if !d.mayLoad(now, time.Minute) {
		t.Error("the first copy was discarded, and no other one may be loaded at once")
	}
	for _, pause := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, time.Hour, time.Hour} {
		d.note(now)
		if d.mayLoad(now.Add(pause-time.Second), time.Minute) {
			t.Errorf("a copy may be loaded sooner than after %s", pause)
		}
		if now = now.Add(pause); !d.mayLoad(now, time.Minute) {
			t.Errorf("no copy may be loaded after %s", pause)
		}
	}
	if d.note(now.Add(7 * time.Hour)); !d.mayLoad(now.Add(7*time.Hour), time.Minute) {
		t.Error("a copy that is discarded after a long time is not followed by a load at once")
	}
}
