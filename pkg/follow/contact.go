package follow

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
)

// Contact says whether an authority answers.
type Contact struct {
	// Answers says that the last question has got an answer, less than contactAge ago.
	Answers bool
	// Answered is when the authority last gave an answer that can be used; zero if it has not since the start.
	Answered time.Time
	// Failure is why the last question has got none, in one line; empty if it has, and while it is still waited for. It may name addresses, and holds no
	// password and no key.
	Failure string
}

// contactAge is how long after its last answer an authority is said to answer. A failure is followed by the next question sooner than that, and one question
// may be waited for longer (maxPullTime).
const contactAge = maxFailurePause

// contact keeps what became of the newest question to an authority. The zero value knows of none. It is safe for concurrent use.
type contact struct {
	mu              sync.Mutex
	asked, answered time.Time
	failure         string
}

// note takes in what became of a question that was asked at a time. An outcome that comes after that of a newer question says nothing any more, and
// neither does the end of a call whose caller has left.
func (c *contact) note(asked time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case errors.Is(err, context.Canceled), asked.Before(c.asked):
	case err == nil, errors.Is(err, ErrMissed), errors.Is(err, ErrOther), errors.Is(err, ErrTooMany): // these are answers too
		c.asked, c.answered, c.failure = asked, time.Now(), ""
	case errors.Is(err, context.DeadlineExceeded):
		c.asked, c.failure = asked, "it did not answer in time"
	default:
		// Some errors have several lines: one for each address that was tried.
		c.asked, c.failure = asked, strings.Join(strings.Fields(err.Error()), " ")
	}
}

// now says how the contact is.
func (c *contact) now() Contact {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Contact{
		Answers:  c.failure == "" && !c.answered.IsZero() && time.Since(c.answered) < contactAge,
		Answered: c.answered, Failure: c.failure,
	}
}

// head asks the authority for its head.
func (f *Follower) head(ctx context.Context) (Position, error) {
	asked := time.Now()
	head, err := f.authority.Head(ctx)
	f.contact.note(asked, err)
	return head, err
}

// changesSince asks the authority for its head, and for what has changed since a position.
func (f *Follower) changesSince(ctx context.Context, from Position) (Changes, error) {
	asked := time.Now()
	changes, err := f.authority.ChangesSince(ctx, from, f.config.MaxChanges)
	f.contact.note(asked, err)
	return changes, err
}

// changesInParts is Parted's. A failure of take says nothing about the authority.
func (f *Follower) changesInParts(
	ctx context.Context, of Parted, from Position, size int, take func(deleted, written []tuple.Relationship) error,
) (Changes, error) {
	asked := time.Now()
	var taking error
	rest, err := of.ChangesInParts(ctx, from, size, func(deleted, written []tuple.Relationship) error {
		asked = time.Now() // a part has come: it answers now, and is asked for the next one
		f.contact.note(asked, nil)
		taking = take(deleted, written)
		return taking
	})
	if taking == nil {
		f.contact.note(asked, err)
	}
	return rest, err
}
