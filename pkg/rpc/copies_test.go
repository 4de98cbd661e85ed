package rpc

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// compares is a Copier whose comparison finds so many things.
type compares struct {
	Copier

	finds int
	// ended is closed once it has ended, with err.
	ended chan struct{}
	err   error
}

func (c *compares) VerifyCopy(ctx context.Context, _ int, send func(*deputyv1.VerifyCopyResponse) error) error {
	defer close(c.ended)
	for range c.finds {
		if c.err = send(&deputyv1.VerifyCopyResponse{}); c.err != nil {
			return c.err
		}
	}
	if c.finds == 0 { // it goes on until nobody wants to know
		if c.err = send(&deputyv1.VerifyCopyResponse{}); c.err == nil {
			<-ctx.Done()
			c.err = ctx.Err()
		}
	}
	return c.err
}

// reader is a caller's stream.
type reader struct {
	grpc.ServerStream

	ctx  context.Context //nolint:containedctx // a stream has its context
	send func() error
	got  int
}

func (r *reader) Context() context.Context { return r.ctx }

func (r *reader) Send(*deputyv1.VerifyCopyResponse) error {
	err := r.send()
	if err == nil {
		r.got++
	}
	return err
}

// TestVerifyCopyDoesNotWait: a comparison, which holds the copy and the database at one state, does not wait for a caller who does not read, keeps no more
// for it than so much, and ends where the caller has gone.
func TestVerifyCopyDoesNotWait(t *testing.T) {
	gone := errors.New("the caller has gone")
	late := func(over <-chan struct{}) error {
		select {
		case <-over:
			return nil
		case <-time.After(10 * time.Second):
			return errors.New("the comparison waits for the caller")
		}
	}
	ended := func(c *compares, err error) bool { return err == nil && c.err == nil }
	for name, test := range map[string]struct {
		finds int
		send  func(over <-chan struct{}) error
		// least and most are how many messages the caller gets.
		least, most int
		want        func(c *compares, err error) bool
	}{
		"a caller that reads":                          {100, func(<-chan struct{}) error { return nil }, 100, 100, ended},
		"a caller that reads nothing until it is over": {100, late, 100, 100, ended},
		"a caller that reads nothing of very much": {100_000, late, maxUnsent, maxUnsent + 1, func(c *compares, err error) bool {
			return status.Code(err) == codes.DeadlineExceeded && c.err != nil
		}},
		"a caller that goes": {0, func(<-chan struct{}) error { return gone }, 0, 0, func(c *compares, err error) bool {
			return errors.Is(err, gone) && errors.Is(c.err, context.Canceled)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := &compares{finds: test.finds, ended: make(chan struct{})}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // a comparison that nothing ended
			defer cancel()
			stream := &reader{ctx: ctx, send: func() error { return test.send(c.ended) }}
			err := (&copies{border: border{Config{Copies: c}}}).VerifyCopy(&deputyv1.VerifyCopyRequest{}, stream)
			if stream.got < test.least || stream.got > test.most || !test.want(c, err) {
				t.Errorf("%d messages were sent of %d found, %v; the comparison ended with %v", stream.got, test.finds, err, c.err)
			}
		})
	}
}
