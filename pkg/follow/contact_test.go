package follow

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// TestContact: what counts is the outcome of the newest question. A call whose caller has left says nothing, an answer that a copy cannot use is one, and
// several lines of a failure become one.
func TestContact(t *testing.T) {
	var c contact
	if now := c.now(); now.Answers || now.Failure != "" || !now.Answered.IsZero() {
		t.Errorf("before the first question: %+v", now)
	}
	began := time.Now()
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	broken := errors.New("failed to connect:\n\t127.0.0.1:1: refused")
	for _, step := range []struct {
		asked   int
		err     error
		answers bool
		failure string
	}{
		{1, context.Canceled, false, ""},
		{1, nil, true, ""},
		{2, fmt.Errorf("follow: %w", ErrMissed), true, ""},
		{3, broken, false, "failed to connect: 127.0.0.1:1: refused"},
		{2, nil, false, "failed to connect: 127.0.0.1:1: refused"},
		{4, context.Canceled, false, "failed to connect: 127.0.0.1:1: refused"},
		{5, fmt.Errorf("a pull: %w", context.DeadlineExceeded), false, "it did not answer in time"},
		{6, ErrTooMany, true, ""},
		{5, broken, true, ""},
		{7, ErrStandby, false, ErrStandby.Error()},
	} {
		c.note(at(step.asked), step.err)
		if now := c.now(); now.Answers != step.answers || now.Failure != step.failure {
			t.Errorf("after %v, asked at %d: %+v, want answers %t, failure %q", step.err, step.asked, now, step.answers, step.failure)
		}
	}
	c.note(at(8), nil)
	if now := c.now(); now.Answered.Before(began) {
		t.Errorf("it answered last at %s, and the test began at %s", now.Answered, began)
	}
	c.answered = c.answered.Add(-contactAge)
	if now := c.now(); now.Answers {
		t.Errorf("%s after the last answer: %+v", contactAge, now)
	}
}
