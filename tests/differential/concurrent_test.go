package differential

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// TestConcurrent asks one evaluator from several goroutines about several revisions at once, while others are
// written: whatever it keeps between calls has to be right for all of them.
func TestConcurrent(t *testing.T) {
	d := openDesk(t, false)
	now := time.Now()
	type known struct {
		e         *edition
		questions []question
		wants     []Verdict
	}
	worlds, later, rounds := 8, 4, 120
	if raceDetector {
		worlds, later, rounds = 4, 2, 40
	}
	var all []known
	seed := uint64(1)
	// draw publishes worlds, one after the other, over the same names.
	draw := func(count int, keep func(known)) {
		for ; count > 0; count-- {
			w := drawWorld(seed, now)
			seed++
			editions, err := w.editions(d, now)
			if err != nil {
				continue // a schema that SpiceDB refuses
			}
			for _, e := range editions {
				k := known{e: e, questions: w.questions(e, 600)}
				for _, q := range k.questions {
					k.wants = append(k.wants, e.reference.Check(q.resource, q.subject, q.context))
				}
				keep(k)
			}
		}
	}
	draw(worlds, func(k known) { all = append(all, k) })
	var group errgroup.Group
	for worker := range 6 {
		group.Go(func() error {
			r := rand.New(rand.NewPCG(uint64(worker), 1))
			for range rounds {
				k := all[r.IntN(len(all))]
				from := r.IntN(len(k.questions))
				to := min(len(k.questions), from+1+r.IntN(30))
				answers, err := d.asked(k.e, k.questions[from:to])
				if err != nil {
					return err
				}
				for i, got := range answers {
					if want := k.wants[from+i]; fits(want, got) != same {
						return fmt.Errorf("%s", difference{who: "native", q: k.questions[from+i], want: want, got: got, edition: k.e})
					}
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		draw(later, func(known) {})
		return nil
	})
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}
