package rpc

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/rpc/admission"
	"github.com/deputyauth/deputy/pkg/rpc/wire"
)

// call is the context of a call from when the gate knows whose it is. A call is judged when it begins, so that nothing is received of a
// stranger, and by what is in force when its message has come, which its client alone decides: a key that is revoked by then does nothing.
type call struct {
	caller.Held

	method string
	// began is when the call began.
	began time.Time
	// basis is what the call was judged by last. It belongs to the goroutine that receives.
	basis caller.Basis
	// recording is how the call is recorded; nil where it is not.
	recording *Recording
	// proof is what the token of its agent proved, and items those of a bulk check's items. acting says whose tokens are needed.
	proof  proof
	items  []proof
	acting caller.Acting
	// acts is whose agent a stream acts for, and by which token; nil where that is not judged again.
	acts atomic.Pointer[acts]
	// ticket is its admission; the zero ticket where it takes none.
	ticket admission.Ticket
}

type callKey struct{}

// Value is context.Context's.
func (c *call) Value(key any) any {
	if key == (callKey{}) {
		return c
	}
	return c.Held.Value(key)
}

// identify returns the context of a call that begins, with its caller, who may call the method.
func (g *Gate) identify(ctx context.Context, method string) (*call, error) {
	c := &call{method: method, began: time.Now(), basis: g.callers.Basis(ctx)}
	c.Context = ctx
	return c, g.judge(c) //nolint:contextcheck // it is the call's context
}

// Whose returns whose a call of a method is that begins over another door, and counts those of nobody known as its own. Whether that caller may call
// the method is for the call itself to find out. Errors: those of caller.Callers.Identify.
func (g *Gate) Whose(ctx context.Context, method string) (*caller.Caller, error) {
	c := &call{method: method}
	c.Context = ctx
	is, err := g.callers.Identify(c) //nolint:contextcheck // it is the call's context
	if err != nil {
		g.tellStranger(method, err)
		g.counts(c, err) //nolint:contextcheck // c is the context
	}
	return is, err
}

// judge finds out whose a call is, and whether that caller may call the method, by what is in force now.
func (g *Gate) judge(c *call) error {
	m := caller.MethodOf(c.method)
	is, err := g.who(c)
	if err != nil {
		g.tellStranger(c.method, err)
		if m != nil && m.Open {
			return nil // whatever the proof is worth
		}
		g.counts(c, err)
		return err
	}
	c.Hold(is)
	switch {
	case !is.Known():
		g.counts(c, nil)
	case c.recording == nil:
		c.recording = g.recording(c, is)
	default:
		c.recording.account.By(is.Name)
	}
	if m == nil && is.Known() {
		return unserved(c.method)
	}
	return is.May(m)
}

// came judges a call again whose message has come, unless what it was judged by last still holds, so that most calls are judged once. The call
// goes on as what its caller is by now. One whose client sends more messages has acted on those before, and goes on as what it began as, or not
// at all.
func (g *Gate) came(ctx context.Context, method *wire.Method) error {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return authz.Errorf(authz.Internal, "INTERNAL", "a message is received past the gate")
	}
	now := g.callers.Basis(c) //nolint:contextcheck // it is the call's context
	if c.basis.Holds(now, rejudgeEvery) {
		return nil
	}
	judge := g.judge
	if method.Streams {
		judge = g.goesOn
	}
	if err := judge(c); err != nil {
		return err
	}
	c.basis = now
	return nil
}
