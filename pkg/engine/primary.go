package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// lookEvery is how often a running server looks at its PostgreSQL server.
const lookEvery = 5 * time.Second

// headAge is how long after it was read a head revision becomes a bound. A crash can take back ids that
// transactions took which then failed, as long as they are not on the disk: PostgreSQL writes them there within
// three times wal_writer_delay, 600 ms.
const headAge = 2 * time.Second

// primary is a PostgreSQL datastore that answers only as long as its server is what it was when it was opened: a
// primary, whose history goes on. Each new connection is examined (see Config.connection), which is enough as long
// as a connection leads to one server for its whole life. It does not where a pooler lies between, or another cluster
// takes over the address. So beside it:
//
//   - No head lies behind a revision that this server has acknowledged a write with, nor behind a head that it
//     has read a while ago (headAge). A standby that lags, or an older copy of the cluster, shows such heads.
//   - Every few seconds the server is asked, over a connection of its own, whether it has become a standby
//     and whether its counter has fallen below what the database holds.
//
// Where either finds something, every call is UNAVAILABLE until it does not any more.
//
// A server that was replaced may run on, and connections that were made to it stay there. So once the server's history is known to be another one, the
// datastore is opened anew: see begin. Every call waits for that.
type primary struct {
	replaceable

	// open opens the datastore anew; nil where it cannot be. began has one value once a history has begun.
	open  func(context.Context) (datastore.Datastore, error)
	began chan struct{}

	mu sync.Mutex
	// epoch counts the histories that the server was seen to begin; see begin.
	epoch uint64
	// floor is the newest revision that heads may not lie behind, and candidate what becomes it once it is old enough.
	floor     datastore.Revision
	candidate datastore.Revision
	read      time.Time
	// unfit is what the last look that was answered found.
	unfit error
	// reopening is closed once the datastore has been opened anew; nil where it is not. redial says that the next look is to be made over a new connection.
	reopening chan struct{}
	redial    bool

	uri  string
	mark int32
	end  context.CancelFunc
	// done waits for what goes on beside calls.
	done sync.WaitGroup
}

var _ datastore.UnwrappableDatastore = (*primary)(nil)

// guardPrimary takes the datastore and the connection over; both are closed with it. open opens the datastore anew.
func guardPrimary(
	ds datastore.Datastore, open func(context.Context) (datastore.Datastore, error), uri string, conn *pgx.Conn, mark int32,
) *primary {
	life, end := context.WithCancel(context.Background())
	p := &primary{replaceable: replaceable{ds: ds}, open: open, began: make(chan struct{}, 1), uri: uri, mark: mark, end: end}
	p.done.Go(func() { p.watch(life, conn) })
	p.done.Go(func() { p.reopens(life) })
	return p
}

// Unwrap returns the datastore itself, for those who look for what it can do besides.
func (p *primary) Unwrap() datastore.Datastore { return p.inner() }

// watch looks at the server until life ends. A look that is not answered changes nothing: the connections that
// decisions are made with may well be, and where they are not their calls fail by themselves.
func (p *primary) watch(life context.Context, conn *pgx.Conn) {
	defer func() {
		if conn != nil {
			hangUp(life, conn)
		}
	}()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-life.Done():
			return
		case <-tick.C:
		}
		conn = p.lookOver(life, conn)
	}
}

// lookOver looks once, over the connection or, without one, a new one, and returns the one for the next look, or nil.
func (p *primary) lookOver(ctx context.Context, conn *pgx.Conn) *pgx.Conn {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	p.mu.Lock()
	redial := p.redial
	p.redial = false
	p.mu.Unlock()
	if redial && conn != nil {
		hangUp(ctx, conn)
		conn = nil
	}
	if conn == nil {
		var err error
		if conn, err = connectPrimary(ctx, p.uri); err != nil {
			return nil
		}
		// A server that starts with another key sees this one again. That one did meanwhile is for that server to mend:
		// both would stop otherwise.
		if err := holdMark(ctx, conn, p.mark); err != nil && !errors.Is(err, errOtherKey) {
			hangUp(ctx, conn)
			return nil
		}
	}
	found, err := inspect(ctx, conn)
	if err != nil {
		hangUp(ctx, conn)
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unfit = found.unfit()
	return conn
}

// bound is the revision that a head which is read from now on may not lie behind, nil if there is none yet, in a history.
type bound struct {
	floor datastore.Revision
	epoch uint64
}

// fit returns the bound for what is read from now on.
func (p *primary) fit() (bound, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unfit != nil {
		return bound{}, unfit(p.unfit)
	}
	return bound{p.floor, p.epoch}, nil
}

// begin forgets what was read and acknowledged: the server's history is another one, in which that compares with nothing. Connections that were made
// before may lead to a server that was replaced and runs on, so the datastore is opened anew, and what begins meanwhile waits for it.
func (p *primary) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch++
	p.floor, p.candidate = nil, nil
	if p.open == nil {
		return
	}
	if p.reopening == nil {
		p.reopening = make(chan struct{})
	}
	select {
	case p.began <- struct{}{}:
	default: // it is to be opened anew already
	}
}

// unfit is what calls come to on a server that is not fit.
func unfit(err error) error {
	return statusError{cause: err, status: statuses.New(codes.Unavailable, authz.ReasonEngineUnavailable, "",
		"the database is not one to decide by: it is a standby, an older copy of the cluster, or was restored and not repaired; "+
			"the server's operator finds more in its log")}
}

// errWentBack is for revisions that lie behind what was seen.
var errWentBack = errors.New("the database has gone back behind what this server has read or written: it is a standby that lags, or an " +
	"older copy of the cluster, or a failover has lost writes. Should the loss be final, start the server again")

// behind reports whether a revision does not have all that another one has.
func behind(revision, floor datastore.Revision) bool {
	return floor != nil && !revision.GreaterThan(floor) && !revision.Equal(floor)
}

// acknowledged notes a revision that a write was made at, which is durable, in a history.
func (p *primary) acknowledged(revision datastore.Revision, epoch uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if epoch == p.epoch {
		p.raiseLocked(revision)
	}
}

// saw notes a head that was read in a history.
func (p *primary) saw(head datastore.Revision, epoch uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if epoch != p.epoch {
		return
	}
	if p.candidate != nil && time.Since(p.read) < headAge {
		return
	}
	if p.candidate != nil {
		p.raiseLocked(p.candidate)
	}
	p.candidate, p.read = head, time.Now()
}

func (p *primary) raiseLocked(revision datastore.Revision) {
	if p.floor == nil || revision.GreaterThan(p.floor) {
		p.floor = revision
	}
}

// HeadRevision is the datastore's, unless the server is not fit for decisions.
func (p *primary) HeadRevision(ctx context.Context) (head datastore.RevisionWithSchemaHash, err error) {
	if err := p.reopened(ctx); err != nil {
		return datastore.RevisionWithSchemaHash{}, err
	}
	err = p.head(func() (datastore.Revision, error) {
		head, err = p.inner().HeadRevision(ctx)
		return head.Revision, err
	})
	if err != nil {
		return datastore.RevisionWithSchemaHash{}, err
	}
	return head, nil
}

// head refuses the head that take takes unless the server is fit for decisions.
func (p *primary) head(take func() (datastore.Revision, error)) error {
	bound, err := p.fit()
	if err != nil {
		return err
	}
	head, err := take()
	if err != nil {
		return err
	}
	if behind(head, bound.floor) {
		return unfit(errWentBack)
	}
	p.saw(head, bound.epoch)
	return nil
}

// OptimizedRevision is the datastore's, unless the server is not fit for decisions.
func (p *primary) OptimizedRevision(ctx context.Context) (datastore.RevisionWithSchemaHash, error) {
	if err := p.reopened(ctx); err != nil {
		return datastore.RevisionWithSchemaHash{}, err
	}
	if _, err := p.fit(); err != nil {
		return datastore.RevisionWithSchemaHash{}, err
	}
	return p.inner().OptimizedRevision(ctx)
}

// CheckRevision is the datastore's, unless the server is not fit for decisions.
func (p *primary) CheckRevision(ctx context.Context, revision datastore.Revision) error {
	if err := p.reopened(ctx); err != nil {
		return err
	}
	if _, err := p.fit(); err != nil {
		return err
	}
	return p.inner().CheckRevision(ctx, revision)
}

// ReadWriteTx is the datastore's. It does not acknowledge a write that an older copy of the cluster took: no
// decision would see it.
func (p *primary) ReadWriteTx(ctx context.Context, fn datastore.TxUserFunc, opts ...options.RWTOptionsOption) (datastore.Revision, error) {
	if err := p.reopened(ctx); err != nil {
		return datastore.NoRevision, err
	}
	bound, err := p.fit()
	if err != nil {
		return datastore.NoRevision, err
	}
	revision, err := p.inner().ReadWriteTx(ctx, fn, opts...)
	if err != nil {
		return revision, err
	}
	if behind(revision, bound.floor) {
		return datastore.NoRevision, unfit(errWentBack)
	}
	p.acknowledged(revision, bound.epoch)
	return revision, nil
}

// Close ends the watch and closes the datastore.
func (p *primary) Close() error {
	p.end()
	p.done.Wait()
	return p.inner().Close()
}

// pooled is a datastore that is ready when the connections that it decides with are. SpiceDB's drivers over pgx open a
// new connection each time, which fails where other clients have used up the database's slots.
type pooled struct {
	datastore.Datastore

	mu     sync.Mutex
	asking *asked
}

// askTime is how long one question for the head revision takes at most.
const askTime = 30 * time.Second

// asked is one question for the head revision. err is set before done is closed.
type asked struct {
	done chan struct{}
	err  error
}

var _ datastore.UnwrappableDatastore = (*pooled)(nil)

// Unwrap returns the datastore itself, for those who look for what it can do besides.
func (p *pooled) Unwrap() datastore.Datastore { return p.Datastore }

// ReadyState asks for the head revision and waits no longer than ctx. SpiceDB goes on asking without a bound where the
// database does not answer, so one question at a time is under way, which all callers wait for.
func (p *pooled) ReadyState(ctx context.Context) (datastore.ReadyState, error) {
	p.mu.Lock()
	a := p.asking
	if a == nil {
		a = &asked{done: make(chan struct{})}
		p.asking = a
		go p.ask(context.WithoutCancel(ctx), a)
	}
	p.mu.Unlock()
	select {
	case <-ctx.Done():
		return datastore.ReadyState{}, fmt.Errorf("the database does not answer: %w", ctx.Err())
	case <-a.done:
	}
	return datastore.ReadyState{IsReady: a.err == nil}, a.err
}

func (p *pooled) ask(ctx context.Context, a *asked) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	a.err = authz.Safely("engine.ReadyState", func() error {
		_, err := p.HeadRevision(ctx)
		return err
	})
	p.mu.Lock()
	p.asking = nil
	p.mu.Unlock()
	close(a.done)
}
