package client

import (
	"context"
	"errors"
	"iter"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// SignalsThatWait returns the signals that wait for a person at this server, the oldest first. It takes a responder or an auditor. The first
// error ends it.
func (c *Client) SignalsThatWait(ctx context.Context) iter.Seq2[*deputyv1.Signal, error] {
	return func(yield func(*deputyv1.Signal, error) bool) {
		request := &deputyv1.ListSignalsRequest{Limit: maxPage}
		for {
			answer, err := c.Signals.ListSignals(ctx, request)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, one := range answer.GetSignals() {
				if !yield(one, nil) {
					return
				}
			}
			if answer.GetComplete() {
				return
			}
			if answer.GetNext().GetToken() == "" {
				yield(nil, errors.New("client: the server did not say where the list goes on"))
				return
			}
			request.Cursor = answer.GetNext()
		}
	}
}

// ApplySignal does what a signal that waits asks for. It takes a responder, and a reason, of 1 to 512 bytes of printable text, which the journal
// keeps. It calls the server again until everything is done, and returns what all the calls came to.
//
// Where an answer comes with an error, not everything has ended, and the signal waits: the same call, made again, goes on.
func (c *Client) ApplySignal(ctx context.Context, id, reason string) (*deputyv1.ApplySignalResponse, error) {
	request := &deputyv1.ApplySignalRequest{SignalId: id, Reason: reason}
	all, err := c.Signals.ApplySignal(ctx, request)
	if err != nil {
		return nil, err
	}
	for !all.GetComplete() {
		if all.GetNext().GetToken() == "" {
			return all, errors.New("client: the server did not say where the signal goes on")
		}
		request.Cursor = all.GetNext()
		more, err := c.Signals.ApplySignal(ctx, request)
		if err != nil {
			return all, err
		}
		all.SessionsEnded += more.GetSessionsEnded()
		all.DelegationsRevoked += more.GetDelegationsRevoked()
		all.Signal, all.Complete, all.Next = more.GetSignal(), more.GetComplete(), more.GetNext()
	}
	return all, nil
}
