package rpc

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/judge"
)

// watchPermission is the one method that decides and goes on.
const watchPermission = deputyv1.PermissionsService_WatchPermission_FullMethodName

// A watch is a permit (see pkg/judge) that is decided again when its interval is over, and at the moment at which it expires. What follows from a
// change is told no later than an interval, lookEvery and the time of a decision after the change.
//
// The watches of one caller go round together, in one goroutine and in decisions about many of them. So the watches of a caller wait for that
// caller's alone, whatever the others have, and for no turn: the end of a permit is not to stand behind calls that are served in time.
const (
	defaultInterval, leastInterval, mostInterval = time.Second, 250 * time.Millisecond, time.Minute
	leastHeartbeat, mostHeartbeat                = time.Second, time.Hour
	// lookEvery is how often a round looks for watches whose interval is over.
	lookEvery = 50 * time.Millisecond
	// together is how many watches are renewed at once, in one decision about all of them, and besides is how many such decisions of one round are
	// made at a time. While the server has more to do than it can, that is the rounds' part of it.
	together, besides = 64, 4
	// renewTime is how long one such decision may take.
	renewTime = 2 * time.Second
	// unsureTime is for how long beyond its interval a watch goes on although nobody can tell whether the permit holds. Then it ends.
	unsureTime = 2 * time.Second
	// retryEvery is after what time that is tried again.
	retryEvery = 250 * time.Millisecond
)

// watches are the watches of one server. It is safe for concurrent use.
type watches struct {
	judge   *judge.Judge
	figures *Figures

	mu sync.Mutex
	// rounds are those of callers with a watch, by name.
	rounds map[string]*round
}

func newWatches(by *judge.Judge, figures *Figures) *watches {
	return &watches{judge: by, figures: figures, rounds: map[string]*round{}}
}

// round are the watches of one caller. It is guarded by the mutex of watches.
type round struct{ all []*watch }

// watch is one permit that is watched.
type watch struct {
	interval time.Duration
	// over has one value once the watch has ended: nil where the permit has, and else why nobody can tell. The permit belongs to the round until
	// then, and to the stream afterwards.
	over   chan error
	permit *judge.Permit
	// decided charges the caller for decisions of its round.
	decided func(n int)
	// affirmed is when the permit was last known to hold, and expires when it ends by itself; 0 where it does not. Both are in nanoseconds since 1970.
	affirmed, expires atomic.Int64
	// retry is before when nothing is tried again.
	retry time.Time
	// at is where in its round it stands; less than 0 where it is not there any more.
	at int
}

// WatchPermission decides one case, and tells when the permission ends.
func (p *permissions) WatchPermission(r *deputyv1.WatchPermissionRequest, stream grpc.ServerStreamingServer[deputyv1.WatchPermissionResponse]) error {
	ctx := stream.Context()
	c, heartbeat, w, err := watchOf(r)
	if err != nil {
		return err
	}
	f, stamp, err := p.freshness(nil, r.GetCheck().GetSessionToken())
	if err != nil {
		return err
	}
	proven := provenBy(ctx)
	c.ActorToken = proven.evidence()
	began := time.Now()
	if w.permit, err = p.permit(ctx, c, f); err != nil {
		return err
	}
	rest(ctx)
	d := w.permit.Decision()
	p.Figures.decided(&d, nil)
	first := &deputyv1.WatchPermissionResponse_Decision{Decision: p.decision(&d, p.Sealer.token(d.CheckedAt, stamp), proven)}
	if !w.permit.Holds() {
		return stream.Send(&deputyv1.WatchPermissionResponse{Result: first})
	}
	w.decided = func(n int) { _ = delivered(ctx, n, false) }
	// It goes round before the client has taken the first message, which may take long.
	leave := p.watches.add(caller.Of(ctx).Name, w, began)
	defer leave()
	if err := stream.Send(&deputyv1.WatchPermissionResponse{Result: first}); err != nil {
		return err
	}
	var beat <-chan time.Time
	if heartbeat > 0 {
		ticker := time.NewTicker(heartbeat)
		defer ticker.Stop()
		beat = ticker.C
	}
	var tokenEnds <-chan time.Time
	if proven.actor != nil {
		timer := time.NewTimer(time.Until(proven.actor.Ends))
		defer timer.Stop()
		tokenEnds = timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tokenEnds:
			// The agent has to prove again that it runs.
			return proven.lasts(proven.actor.Ends)
		case err := <-w.over:
			if err != nil {
				return err
			}
			return p.ended(stream, w.permit, proven)
		case <-beat:
			holds, err := w.holds(proven)
			if err != nil {
				return err
			}
			if err := stream.Send(&deputyv1.WatchPermissionResponse{Result: holds}); err != nil {
				return err
			}
		}
	}
}

// watchOf reads a request.
func watchOf(r *deputyv1.WatchPermissionRequest) (c authz.Case, heartbeat time.Duration, w *watch, err error) {
	if r.GetCheck() == nil {
		return c, 0, nil, authz.FieldErrorf("check", "is required: the question whose answer is watched")
	}
	if c, err = caseOf(r.GetCheck()); err != nil {
		return c, 0, nil, err
	}
	if r.GetCheck().GetConsistency() != nil {
		return c, 0, nil, authz.FieldErrorf("check.consistency", "must be left out: a watch is decided at the head revision")
	}
	w = &watch{over: make(chan error, 1)}
	if w.interval, err = between("interval", r.GetInterval(), leastInterval, mostInterval); err != nil {
		return c, 0, nil, err
	}
	if r.GetInterval() == nil {
		w.interval = defaultInterval
	}
	heartbeat, err = between("heartbeat", r.GetHeartbeat(), leastHeartbeat, mostHeartbeat)
	return c, heartbeat, w, err
}

// between reads a duration that has bounds; 0 is one that is left out.
func between(field string, d *durationpb.Duration, least, most time.Duration) (time.Duration, error) {
	given, err := ttl(field, d)
	if err == nil && given != 0 && (given < least || given > most) {
		err = authz.FieldErrorf(field, "must be %s to %s, not %s", least, most, given)
	}
	return given, err
}

// permit makes the first decision.
func (p *permissions) permit(ctx context.Context, c authz.Case, f authz.Freshness) (*judge.Permit, error) {
	until := waiting(ctx)
	defer until.end()
	return p.Judge.Permit(until, by(ctx), c, f) //nolint:contextcheck // bounded embeds the call's
}

// ended records the decision by which a permit ended, and then tells it.
func (p *permissions) ended(stream grpc.ServerStreamingServer[deputyv1.WatchPermissionResponse], permit *judge.Permit, proven proof) error {
	until := waiting(stream.Context())
	defer until.end()
	asked := p.Now()
	d, err := permit.End(until)
	if err != nil {
		return err
	}
	p.Figures.decided(&d, nil)
	return stream.Send(&deputyv1.WatchPermissionResponse{
		Result: &deputyv1.WatchPermissionResponse_Ended{Ended: p.decision(&d, p.Sealer.token(d.CheckedAt, asked), proven)},
	})
}

// holds is the message that says so. It is an error once nobody has found out for longer than a watch may go on.
func (w *watch) holds(proven proof) (*deputyv1.WatchPermissionResponse_Holds, error) {
	if since := time.Since(time.Unix(0, w.affirmed.Load())); since > w.interval+unsureTime+renewTime {
		return nil, authz.Errorf(authz.Unavailable, authz.ReasonEngineUnavailable,
			"whether the permission holds has not been found out for %s; ask anew", since.Round(time.Second))
	}
	var until time.Time
	if at := w.expires.Load(); at != 0 {
		until = time.Unix(0, at)
	}
	out := &deputyv1.PermissionHolds{}
	if until = proven.until(until); !until.IsZero() {
		out.ValidUntil = timeProto(until)
	}
	return &deputyv1.WatchPermissionResponse_Holds{Holds: out}, nil
}

// affirm notes that the permit held at a moment.
func (w *watch) affirm(at time.Time) {
	w.affirmed.Store(at.UnixNano())
	d := w.permit.Decision()
	if d.ValidUntil.IsZero() {
		w.expires.Store(0)
		return
	}
	w.expires.Store(d.ValidUntil.UnixNano())
}

// add adds the watch of a caller, whose permit began to hold at a moment. leave takes it back.
func (w *watches) add(caller string, one *watch, began time.Time) (leave func()) {
	one.affirm(began)
	w.figures.watched(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.rounds[caller]
	if of == nil {
		of = &round{}
		w.rounds[caller] = of
		go w.goRound(caller, of)
	}
	one.at = len(of.all)
	of.all = append(of.all, one)
	return func() {
		w.figures.watched(-1)
		w.mu.Lock()
		defer w.mu.Unlock()
		of.remove(one)
	}
}

// remove takes a watch out of its round, if it is there.
func (of *round) remove(one *watch) {
	if one.at < 0 {
		return
	}
	last := len(of.all) - 1
	of.all[one.at] = of.all[last]
	of.all[one.at].at = one.at
	of.all[last] = nil
	of.all, one.at = of.all[:last], -1
}

// goRound renews the permits of a caller's watches, as long as there are any.
func (w *watches) goRound(caller string, of *round) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		<-next.C
		due, wait, more := w.due(caller, of, time.Now())
		if !more {
			return
		}
		var renewed sync.WaitGroup
		free := make(chan struct{}, besides)
		for part := range slices.Chunk(due, together) {
			free <- struct{}{}
			renewed.Go(func() {
				defer func() { <-free }()
				w.renew(caller, of, part)
			})
		}
		renewed.Wait()
		next.Reset(wait)
	}
}

// due returns the watches that are to be renewed, and when to look again; more is false once there are none, and the round is over.
func (w *watches) due(caller string, of *round, now time.Time) (due []*watch, wait time.Duration, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(of.all) == 0 {
		delete(w.rounds, caller)
		return nil, 0, false
	}
	wait = lookEvery
	for _, one := range of.all {
		expires := one.expires.Load()
		left := time.Duration(expires - now.UnixNano())
		switch {
		case now.Before(one.retry):
		case now.UnixNano() >= one.affirmed.Load()+int64(one.interval), expires != 0 && left <= 0:
			due = append(due, one)
		case expires != 0:
			wait = min(wait, max(left, time.Millisecond))
		}
	}
	return due, wait, true
}

// renew finds out which permits of a caller still hold, and ends the watches of those that do not.
func (w *watches) renew(caller string, of *round, due []*watch) {
	ctx, cancel := context.WithTimeout(authz.WithCaller(context.Background(), caller), renewTime)
	defer cancel()
	permits := make([]*judge.Permit, len(due))
	for i, one := range due {
		permits[i] = one.permit
	}
	began := time.Now()
	failed := authz.Safely("rpc.watches", func() error {
		n := w.judge.Renew(ctx, permits)
		w.figures.renewed(n)
		due[0].decided(n)
		return nil
	})
	var over []*watch
	for _, one := range due {
		unsure := failed
		if unsure == nil {
			unsure = one.permit.Unsure()
		}
		switch {
		case failed == nil && !one.permit.Holds():
			one.over <- nil
		case unsure == nil:
			one.affirm(began)
			continue
		case began.UnixNano() < one.affirmed.Load()+int64(one.interval+unsureTime):
			one.retry = began.Add(retryEvery)
			continue
		default:
			one.over <- unsure
		}
		over = append(over, one)
	}
	if len(over) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range over {
		of.remove(one)
	}
}
