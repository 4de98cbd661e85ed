package client

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

const (
	// watchBeat is how often a server says that a watched permission holds, and watchSilence how long it may say nothing.
	watchBeat, watchSilence = 5 * time.Second, 10 * time.Second
	// watchGrace is for how long a watch that broke off may be begun anew before the permission counts as ended.
	watchGrace = 2 * time.Second
	// watchAgain is after what time that is tried again.
	watchAgain = 100 * time.Millisecond
)

// WatchPermission asks a question, and waits until the permission ends. It always returns an error: a *Refused once the answer is not yes any
// more, or was not in the first place; ctx's; or what keeps the server from saying that the permission holds. Whichever it is, do not act any
// more.
//
// begun is called once, with the first answer, if that allows; nil calls nothing.
//
// A server tells the end within about a second of what caused it. Where a stream breaks off, because the server stops or for any such reason,
// the question is asked anew. If nobody says yes within 2 s, the permission counts as ended. A connection that is dead without a word is noticed
// after 10 s.
func (c *Client) WatchPermission(ctx context.Context, q Question, begun func(Decision)) error {
	request, err := q.request()
	if err != nil {
		return err
	}
	return c.watch(ctx, &deputyv1.WatchPermissionRequest{Check: request, Heartbeat: durationpb.New(watchBeat)}, begun)
}

// WhilePermitted asks a question and returns a context for the work that the answer permits: it ends when the permission does, or when nobody
// can say any more that it holds. context.Cause says why, see WatchPermission. stop ends the watch and the context, and has to be called. With an error,
// that of Guard, nothing is permitted and there is no context.
//
//	work, stop, err := session.WhilePermitted(ctx, question)
//	if err != nil {
//		return err
//	}
//	defer stop()
//	return index(work, documents)
func (c *Client) WhilePermitted(ctx context.Context, q Question) (permitted context.Context, stop context.CancelFunc, err error) {
	return while(ctx, func(ctx context.Context, begun func(Decision)) error { return c.WatchPermission(ctx, q, begun) })
}

// WatchPermission is Client.WatchPermission in the session's name.
func (s *Session) WatchPermission(ctx context.Context, q Question, begun func(Decision)) error {
	q, err := s.own(q)
	if err != nil {
		return err
	}
	return s.client.WatchPermission(ctx, q, begun)
}

// WhilePermitted is Client.WhilePermitted in the session's name.
func (s *Session) WhilePermitted(ctx context.Context, q Question) (permitted context.Context, stop context.CancelFunc, err error) {
	return while(ctx, func(ctx context.Context, begun func(Decision)) error { return s.WatchPermission(ctx, q, begun) })
}

// while makes a context that ends with a watch.
func while(ctx context.Context, watch func(ctx context.Context, begun func(Decision)) error) (context.Context, context.CancelFunc, error) {
	permitted, end := context.WithCancelCause(ctx)
	begun, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		var err error
		defer func() { end(err) }()
		defer authz.Recover("client.WhilePermitted", &err)
		err = watch(permitted, func(Decision) { close(begun) })
	}()
	select {
	case <-begun:
		return permitted, func() {
			end(context.Canceled)
			<-ended
		}, nil
	case <-ended:
		return nil, nil, context.Cause(permitted)
	}
}

// watch watches, over several streams if need be.
func (c *Client) watch(ctx context.Context, request *deputyv1.WatchPermissionRequest, begun func(Decision)) error {
	var (
		held  time.Time // when a server last said that the permission holds
		limit time.Time // until when one has to say so again, after a stream broke off
		broke error     // how that broke off
	)
	for {
		before := held
		err := c.watchOnce(ctx, request, limit, func(first Decision) {
			if held.IsZero() && begun != nil && first.Allowed() {
				begun(first)
			}
			held = time.Now()
		})
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case held.IsZero() || !mayBeAskedAnew(err):
			return err
		case held.After(before):
			limit, broke = time.Now().Add(watchGrace), err
		}
		wait := time.NewTimer(min(watchAgain, time.Until(limit)))
		select {
		case <-ctx.Done():
			wait.Stop()
			return context.Cause(ctx)
		case <-wait.C:
		}
		if !time.Now().Before(limit) {
			return broke
		}
	}
}

// errSilent is that a server which watches a permission has said nothing for too long.
var errSilent = status.Error(codes.Unavailable, "client: the server does not say any more that the permission holds")

// watchOnce watches over one stream, until a moment at first unless that is zero. holds is called for the first answer, and whenever the server
// says that the permission holds, then with the zero Decision.
func (c *Client) watchOnce(ctx context.Context, request *deputyv1.WatchPermissionRequest, limit time.Time, holds func(Decision)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := watchSilence
	if !limit.IsZero() {
		patience = time.Until(limit)
	}
	silence := time.AfterFunc(patience, func() { cancel(errSilent) })
	defer silence.Stop()
	told := func(err error) error {
		if errors.Is(context.Cause(ctx), errSilent) {
			return errSilent
		}
		if errors.Is(err, io.EOF) {
			return ErrCutOff
		}
		return err
	}
	stream, err := c.Permissions.WatchPermission(ctx, request)
	if err != nil {
		return told(err)
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return told(err)
		}
		switch said := message.GetResult().(type) {
		case *deputyv1.WatchPermissionResponse_Decision:
			first := Decision{said.Decision}
			if !first.Allowed() {
				return &Refused{first}
			}
			holds(first)
		case *deputyv1.WatchPermissionResponse_Ended:
			return &Refused{Decision{said.Ended}}
		case *deputyv1.WatchPermissionResponse_Holds:
			holds(Decision{})
		default:
			continue // of a later version: it does not say that the permission holds
		}
		silence.Reset(watchSilence)
	}
}

// mayBeAskedAnew reports whether another stream may say that a permission holds whose watch ended with an error.
func mayBeAskedAnew(err error) bool {
	if errors.Is(err, ErrCutOff) {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Aborted, codes.Canceled:
		return true
	default: // also a Refused, which is no status
		return false
	}
}
