package http

import (
	"context"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// call serves a call of any method, also of one that there is not.
func (d *Door) call(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
	out, ok := ctx.Value(answerKey{}).(*answer)
	info, known := connect.CallInfoForServerContext(ctx)
	if !ok || !known {
		return connect.NewError(connect.CodeInternal, "internal error")
	}
	method := out.request.URL.Path
	c := &carried{
		stream: stream, out: out, json: strings.HasPrefix(info.Codec, connect.CodecNameJSON), streams: spec.StreamType != connect.StreamTypeUnary,
		packed: info.RequestEncoding != connect.CompressionNameIdentity && info.RequestEncoding != "", limit: d.cfg.Calls.Limit(method),
	}
	// Who calls is all that services learn of a request's headers.
	ctx = metadata.NewIncomingContext(peer.NewContext(ctx, d.cfg.Peer(out.request)), metadata.MD{"authorization": out.request.Header.Values("Authorization")})
	trailer, err := d.cfg.Calls.Serve(ctx, method, c)
	if info.Protocol != connect.ProtocolNameConnect {
		for name, values := range trailer {
			for _, value := range values {
				info.ResponseTrailer().Add(name, value)
			}
		}
	}
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	if info.Protocol == connect.ProtocolNameConnect && !c.streams {
		c.advise(st)
	}
	return failure(st)
}

// advise says in the headers of HTTP what its clients do about a refusal.
func (c *carried) advise(st *status.Status) {
	if after := statuses.RetryAfter(st); after > 0 {
		c.out.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
	}
	if connect.Code(st.Code()) == connect.CodeUnauthenticated {
		c.out.Header().Set("WWW-Authenticate", "Bearer")
	}
}

// failure is a status as connect-go sends it, with all its details.
func failure(st *status.Status) error {
	err := connect.NewError(connect.Code(st.Code()), st.Message())
	for _, detail := range st.Proto().GetDetails() {
		_, kind, _ := strings.Cut(detail.GetTypeUrl(), "/")
		err = err.WithDetail(&connect.ErrorDetail{Type: kind, Value: detail.GetValue()})
	}
	return err
}

// carried is a call, as rpc.Carried has it.
type carried struct {
	stream connect.ServerStream
	out    *answer
	// json says how messages are written, streams that there can be more than one answer, and packed that the request is compressed.
	json, streams, packed bool
	limit                 int
}

// JSON is rpc.Carrier's.
func (c *carried) JSON() bool { return c.json }

// Receive is rpc.Carrier's.
func (c *carried) Receive(room func(bytes int) error) ([]byte, error) {
	if err := c.out.body.open(c.limit, c.packed, room); err != nil {
		return nil, err
	}
	var m message
	if err := c.stream.Receive(&m); err != nil {
		return nil, unreceived(err, c.limit)
	}
	return m.bytes, nil
}

func tooLarge(limit int) error {
	return authz.Errorf(authz.Exhausted, authz.ReasonTooLarge, "the message has more than the %d bytes that may be sent here", limit)
}

// unreceived is why there is no message, as the server's callers are told.
func unreceived(err error, limit int) error {
	if ours, ok := errors.AsType[*authz.Error](err); ok {
		return ours
	}
	theirs, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return err // io.EOF, behind the one message
	}
	invalid := func(says string) error { return authz.Errorf(authz.Invalid, authz.ReasonInvalidField, "%s", says) }
	switch theirs.Code() {
	case connect.CodeResourceExhausted:
		return tooLarge(limit)
	case connect.CodeUnimplemented:
		return invalid("the call brings no message, or more than one")
	case connect.CodeInvalidArgument:
		return invalid("the message cannot be decompressed")
	case connect.CodeInternal:
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return invalid("the call ends in the middle of a message")
		}
		return invalid("the frame of the message is malformed")
	default:
		return authz.Errorf(authz.Canceled, "", "the call broke off")
	}
}

// Send is rpc.Carrier's.
func (c *carried) Send(m any) error {
	if c.streams {
		// In between nobody waits for the client.
		c.out.writeWithin(takeTime)
		defer c.out.writeWithin(0)
	}
	return c.stream.Send(m)
}

// StopReceiving is rpc.Carrier's.
func (c *carried) StopReceiving() { c.out.readWithin(-time.Second) }

// StopSending is rpc.Carrier's.
func (c *carried) StopSending() { c.out.writeWithin(-time.Second) }
