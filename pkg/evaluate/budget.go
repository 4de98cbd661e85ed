package evaluate

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
	"github.com/deputyauth/deputy/pkg/turns"
)

// The memory of one call, and of all calls together, is bounded whatever the graph looks like. A walk counts what it holds while it walks, in
// units: an object, a row that was read, and all that is known of a member of an object are one each, of some 200 bytes.
//
//   - Up to smallWalk units it holds without asking, as nearly every walk does.
//   - Beyond that it needs a turn, of which there are few, and beyond mediumWalk one of even fewer. It waits for a turn until its call ends or
//     turnTime has passed; the second ends it with an error. The turn ends with the call. Turns are shared between callers (pkg/turns).
//   - At largeWalk it lets go of everything that it has read and found out, and goes on. It reads again whatever it needs again.
//   - It cannot let go of conditions, because they may be the answer. Beyond maxConditions there is no answer.
//   - For one question it reads at most maxRead rows, each read counted as one more. Beyond that there is no answer.
//
// No answer is an error, never a no: a part that takes away would make a yes of that.

const (
	smallWalk, mediumWalk, largeWalk = 1 << 10, 1 << 14, 1 << 16
	// maxRead is how many reads and rows one question takes: as many rows as a call to SpiceDB may read.
	maxRead = 2_000_000
	// maxConditions is how many conditions one round gathers.
	maxConditions = largeWalk / 2
	// turnTime is how long a walk waits for its turn, unless its call ends sooner. It is less than a caller without a deadline waits.
	turnTime = 10 * time.Second
	// maxKept is how much all walks together keep between two calls, besides those that are small.
	maxKept = 1 << 19
)

// kept is how much all walks keep between two calls.
var kept atomic.Int64

// tier is what large walks take turns of.
type tier struct {
	turns *turns.Set
	// most is how much a walk that has taken one may hold.
	most int
}

// tiers are what a walk takes turns of, one after the other, as it grows. A walk that has a turn of the second tier never waits for one of the first.
var tiers = [...]tier{
	{turns.New("checks that need much memory", int64(16*runtime.GOMAXPROCS(0))), mediumWalk},
	{turns.New("checks that need very much memory", int64(2*runtime.GOMAXPROCS(0)+2)), largeWalk},
}

// budget is what a walk holds and has used.
type budget struct {
	// held counts units that the walk can let go of, pages rows that it is going through, and conditions those of its answers.
	held, pages, conditions int
	// most is how much the walk may hold before it has to grow, and read is how much the question has read.
	most, read int
	// turns is how many tiers the walk has a turn of, and taken are those that are its own. It works for another walk, which has turns of lent
	// tiers; 0 if there is none.
	turns, lent int
	taken       [len(tiers)]*turns.Turn
	// kept is the part of the walk's units that is counted in the variable kept.
	kept int
}

// hold counts units that the walk holds from now on. To make room for them it may let go of all others.
func (w *Walk) hold(units int) {
	if w.held += units; w.held+w.pages+w.conditions > w.most || w.read > maxRead {
		w.grow()
	}
}

// holdRead counts rows that one read has returned, and that the walk holds from now on.
func (w *Walk) holdRead(rows int) {
	w.read += 1 + rows
	w.hold(rows)
}

// beginPage counts a page of rows that are gone through one by one, and endPage ends it.
func (w *Walk) beginPage(rows int) {
	w.pages += rows
	w.read += 1 + rows
	w.hold(0)
}

func (w *Walk) endPage(rows int) { w.pages -= rows }

// gather counts the conditions of a value that was made.
func (w *Walk) gather(v *value) {
	if n := len(v.conditions); n > 0 {
		w.conditions += n
		w.hold(0)
	}
}

// behind returns what a value is behind a row.
func (w *Walk) behind(row *Row, v *value) value {
	e := leaf(row)
	if e != nil {
		w.conditions += 1 + bits.OnesCount64(uint64(v.yes))
	}
	w.gather(v)
	return v.under(e)
}

// grow finds room for what the walk holds, or ends it.
func (w *Walk) grow() {
	for w.err == nil {
		switch {
		case w.read > maxRead:
			w.err = errReadTooMuch
		case w.conditions > maxConditions:
			w.err = errTooManyConditions
		case w.held+w.pages+w.conditions <= w.most:
			return
		case w.turns < len(tiers):
			w.takeTurn()
		default:
			w.letGo()
			return
		}
	}
}

// takeTurn waits for a turn of the next tier.
func (w *Walk) takeTurn() {
	if w.turns >= w.lent {
		var err error
		if w.taken[w.turns], err = tiers[w.turns].turns.Take(w.ctx, 1, turnTime); err != nil {
			w.err = statuses.Raised(err)
			return
		}
	}
	w.most = tiers[w.turns].most
	w.turns++
}

// letGo forgets everything that was read and found out, except for the pages that the walk is going through.
func (w *Walk) letGo() {
	w.objects = map[objectKey]*object{}
	w.learned = nil
	w.knowns, w.unread = nil, nil
	w.held = 0
}

// giveBack ends the turns of a call.
func (w *Walk) giveBack() {
	for i, one := range w.taken {
		one.Give()
		w.taken[i] = nil
	}
	w.turns, w.lent = 0, 0
}

// keep decides whether a walk keeps what it holds until its next call.
func (w *Walk) keep() bool {
	switch {
	case w.err != nil || w.held > mediumWalk:
		return false
	case w.held <= smallWalk:
		return true
	case kept.Add(int64(w.held)) > maxKept:
		kept.Add(-int64(w.held))
		return false
	}
	w.kept = w.held
	return true
}

// unkeep takes the walk's units out of those that all walks keep.
func (w *Walk) unkeep() {
	if w.kept > 0 {
		kept.Add(-int64(w.kept))
		w.kept = 0
	}
}

// The errors of a walk that needs more than it may have.
var (
	errReadTooMuch = refused(authz.ReasonTooLarge, fmt.Sprintf(
		"the check takes more than %d reads and relationships: look for relationships that lead in a circle, and for objects with very many of them", maxRead))
	errTooManyConditions = refused(authz.ReasonTooLarge, fmt.Sprintf(
		"the check meets more than %d conditions: give fewer relationships a caveat", maxConditions))
)

func refused(reason, message string) error {
	return statuses.New(codes.ResourceExhausted, reason, "", message).Err()
}

// tooMuch reports whether an error is that one question takes more than it may.
func tooMuch(err error) bool {
	return errors.Is(err, errReadTooMuch) || errors.Is(err, errTooManyConditions)
}
