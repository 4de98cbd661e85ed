package rpc

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// A stream is judged when it begins, and may then last for a day. So while it is open it is judged again, by the proof that it began with,
// whenever another book of callers is in force, and every rejudgeEvery besides: a credential expires, and an issuer withdraws a key, without
// another book.
//
//	a new call with this proof …                           the stream
//	is refused                                             ends with the status that the new call gets
//	is another caller's, or its caller may do less         ends with UNAVAILABLE, and its client calls again
//	may do as much, or more                                goes on, with what it began with
//
// The agent of a stream that lets one act is judged again likewise, by the token that the stream began with.
const (
	rejudgeEvery = time.Second
	// rejudgeTime is how long it may take to find out whose one stream is: a token's issuer may have to be asked.
	rejudgeTime = time.Second
	// rejudging is how many are found out at once.
	rejudging = 16
)

// openStreams are the streams with a caller, which the admission bounds. The zero value is ready for use. It is safe for concurrent use.
type openStreams struct {
	mu  sync.Mutex
	all map[*identified]struct{}
}

// add adds a stream until remove is called. What anybody may call, health, is nobody's to end.
func (o *openStreams) add(s *identified) (remove func()) {
	if m := caller.MethodOf(s.call.method); m == nil || m.Open {
		return func() {}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = map[*identified]struct{}{}
	}
	o.all[s] = struct{}{}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.all, s)
	}
}

// list returns those that are open now.
func (o *openStreams) list() []*identified {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Keys(o.all))
}

// OpenStreams returns the methods of the streams with a caller that are open now, in no order.
func (g *Gate) OpenStreams() []string {
	var methods []string
	for _, s := range g.open.list() {
		methods = append(methods, s.call.method)
	}
	return methods
}

// RejudgeStreams ends the open streams whose callers may not go on with them, until ctx ends. It is called once, for as long as the server
// serves.
func (g *Gate) RejudgeStreams(ctx context.Context) {
	tick := time.NewTicker(rejudgeEvery)
	defer tick.Stop()
	for {
		replaced := g.callers.Replaced()
		var judged sync.WaitGroup
		free := make(chan struct{}, rejudging)
		for _, s := range g.open.list() {
			free <- struct{}{}
			judged.Go(func() { //nolint:contextcheck // every stream has its own
				defer func() { <-free }()
				g.rejudge(s)
			})
		}
		judged.Wait()
		select {
		case <-ctx.Done():
			return
		case <-replaced:
		case <-tick.C:
		}
	}
}

// rejudge ends a stream whose caller may not go on with it.
func (g *Gate) rejudge(s *identified) {
	err := authz.Safely("rpc.rejudge", func() error { return g.goesOn(s.call) })
	if err == nil || s.call.Err() != nil {
		return
	}
	select {
	case s.barred <- err:
	default: // it ends already
	}
}

// goesOn returns nil where the caller of an open stream may go on with it, and else the stream's end. What anybody may call goes on.
func (g *Gate) goesOn(c *call) error {
	m := caller.MethodOf(c.method)
	if m != nil && m.Open {
		return nil
	}
	ctx, cancel := context.WithTimeout(c, rejudgeTime)
	defer cancel()
	was := caller.Of(c)
	is, err := g.who(ctx)
	if err != nil {
		return err
	}
	if err := is.May(m); err != nil {
		return err
	}
	if !is.Covers(was) {
		return authz.Errorf(authz.Unavailable, authz.ReasonCallerChanged, "what the caller %s may do has changed; call again", was.Name)
	}
	if a := c.acts.Load(); a != nil {
		return a.goOn(&prover{ctx: ctx, by: is, acting: g.acting()})
	}
	return nil
}
