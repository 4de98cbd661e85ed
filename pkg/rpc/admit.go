package rpc

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/rpc/admission"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// deletes is what of authzed.api.v1 only takes away.
const deletes = "/authzed.api.v1.PermissionsService/DeleteRelationships"

// classes are what an admission has to know of each method. Methods that anybody may call are not there: health has bounds of its own.
var classes = sync.OnceValue(func() map[string]admission.Class {
	all := map[string]admission.Class{}
	for full, m := range caller.Methods() {
		if m.Open {
			continue
		}
		all[full] = admission.Class{
			Narrows: m.Effect == deputyv1.Effect_EFFECT_NARROWS || full == deletes,
			Streams: !isUnary(full),
			Begins:  full == watchPermission,
			Long:    unhurried[full],
		}
	}
	return all
})

// enter admits a call whose caller is known. leave has to follow, once it ends. Errors: Exhausted.
func (g *Gate) enter(c *call) (leave func(), err error) {
	class, found := classes()[c.method]
	if !found {
		return func() {}, nil
	}
	if err := g.admission.Enter(&c.ticket, caller.Of(c), class); err != nil {
		return nil, err
	}
	return c.ticket.Leave, nil
}

// messageBytes is how long a message of a call may be, as far as its caller goes; 0 is as long as its method says.
func messageBytes(ctx context.Context) int {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c.ticket.MessageBytes()
	}
	return 0
}

// takeTurn waits for a call's turn, once its message has come.
func takeTurn(ctx context.Context, items int) error {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c.ticket.Take(ctx, items)
	}
	return nil
}

// rest gives back the turn of a call that goes on without one.
func rest(ctx context.Context) {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		c.ticket.Rest()
	}
}

// delivered charges a stream for objects that it has delivered.
func delivered(ctx context.Context, objects int, waits bool) error {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c.ticket.Delivered(ctx, objects, waits)
	}
	return nil
}

// shed reports whether a call was refused because of how much its caller, or all, ask. Such refusals are recorded together, once a second for
// each caller: they come in storms, and one record for each would fill the journal with what was not looked at.
func (g *Gate) shed(ctx context.Context, recording *Recording, method string, err error) bool {
	e, ok := errors.AsType[*authz.Error](err)
	if !ok || e.Kind != authz.Exhausted || e.RetryAfter == 0 || recording == nil || recording.account.Begun() {
		return false
	}
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return false
	}
	if shed, due := c.ticket.Shed(caller.Of(ctx).Name, method, e.Reason); due {
		g.recordShed(context.WithoutCancel(ctx), shed)
	}
	return true
}

// recordShed records refused calls.
func (g *Gate) recordShed(ctx context.Context, shed admission.Shed) {
	if g.journal == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := g.journal.Account(shed.Caller, strings.TrimPrefix(shed.Method, "/")).Record(ctx, journal.Refuse, &journal.Record{
		Kind: deputyv1.RecordKind_RECORD_KIND_REFUSED, Code: int32(codes.ResourceExhausted), Reason: shed.Reason, Failed: shed.Calls,
	})
	if err != nil {
		g.log.Warn("calls were refused, and that cannot be recorded", zap.String("caller", shed.Caller), zap.String("reason", shed.Reason),
			zap.Uint64("calls", shed.Calls), zap.Error(err))
	}
}

// pushbackKey is the trailer by which gRPC's clients learn when to call again, in milliseconds; less than 0 has them not do it.
const pushbackKey = "grpc-retry-pushback-ms"

// pushBack tells gRPC's clients when to make a call again that was refused for want of something. Where the status does not say so they are not
// to do it at all, because it would be refused again, nor where the call's own time is over by then.
func (*Gate) pushBack(ctx context.Context, err error) {
	if err == nil {
		return
	}
	st := status.Convert(err)
	if st.Code() != codes.ResourceExhausted {
		return
	}
	wait := "-1"
	if after := statuses.RetryAfter(st); after > 0 {
		deadline, ok := ctx.Deadline()
		if !ok || time.Until(deadline) > after {
			wait = strconv.FormatInt((after + time.Millisecond - 1).Milliseconds(), 10)
		}
	}
	_ = grpc.SetTrailer(ctx, metadata.Pairs(pushbackKey, wait)) // where there is no stream any more, nobody waits for it
}
