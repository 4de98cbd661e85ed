package rpc

import (
	"context"
	"errors"
	"testing"

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
	for name, test := range map[string]struct {
		finds int
		send  func(c *compares) error
		got   int
		want  func(c *compares, err error) bool
	}{
		"who reads":                          {100, func(*compares) error { return nil }, 100, func(c *compares, err error) bool { return err == nil && c.err == nil }},
		"who reads nothing until it is over": {100, func(c *compares) error { <-c.ended; return nil }, 100, func(c *compares, err error) bool { return err == nil && c.err == nil }},
		"who reads nothing of very much": {100_000, func(c *compares) error { <-c.ended; return nil }, maxUnsent + 1, func(c *compares, err error) bool {
			return status.Code(err) == codes.DeadlineExceeded && c.err != nil
		}},
		"who goes": {0, func(*compares) error { return gone }, 0, func(c *compares, err error) bool { return errors.Is(err, gone) && errors.Is(c.err, context.Canceled) }},
	} {
		t.Run(name, func(t *testing.T) {
			c := &compares{finds: test.finds, ended: make(chan struct{})}
			stream := &reader{ctx: t.Context(), send: func() error { return test.send(c) }}
			err := (&copies{border: border{Config{Copies: c}}}).VerifyCopy(&deputyv1.VerifyCopyRequest{}, stream)
			if stream.got != test.got && stream.got != test.got-1 || !test.want(c, err) { // the one that is being sent counts or not
				t.Errorf("%d messages were sent of %d found, %v; the comparison ended with %v", stream.got, test.finds, err, c.err)
			}
		})
	}
}
