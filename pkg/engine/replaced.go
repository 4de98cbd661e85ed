package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"

	"github.com/deputyauth/deputy/pkg/authz"
)

// replaceable is a datastore that another one of the same database can take the place of. SpiceDB keeps the pools of its connections to itself, so they
// are renewed by opening a datastore anew.
type replaceable struct {
	mu sync.RWMutex
	ds datastore.Datastore
}

var _ datastore.Datastore = (*replaceable)(nil)

// inner is the datastore that answers now.
func (r *replaceable) inner() datastore.Datastore {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.ds
}

// replace has another datastore answer, and returns the one that did.
func (r *replaceable) replace(by datastore.Datastore) (before datastore.Datastore) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, r.ds = r.ds, by
	return before
}

// MetricsID is datastore.Datastore's, as are all methods from here on.
func (r *replaceable) MetricsID() (string, error) { return r.inner().MetricsID() }

func (r *replaceable) UniqueID(ctx context.Context) (string, error) { return r.inner().UniqueID(ctx) }

func (r *replaceable) SnapshotReader(at datastore.Revision) datastore.Reader {
	return r.inner().SnapshotReader(at)
}

func (r *replaceable) OptimizedRevision(ctx context.Context) (datastore.RevisionWithSchemaHash, error) {
	return r.inner().OptimizedRevision(ctx)
}

func (r *replaceable) HeadRevision(ctx context.Context) (datastore.RevisionWithSchemaHash, error) {
	return r.inner().HeadRevision(ctx)
}

func (r *replaceable) CheckRevision(ctx context.Context, at datastore.Revision) error {
	return r.inner().CheckRevision(ctx, at)
}

func (r *replaceable) RevisionFromString(text string) (datastore.Revision, error) {
	return r.inner().RevisionFromString(text)
}

func (r *replaceable) Watch(ctx context.Context, after datastore.Revision, o datastore.WatchOptions) (<-chan datastore.RevisionChanges, <-chan error) {
	return r.inner().Watch(ctx, after, o)
}

func (r *replaceable) ReadyState(ctx context.Context) (datastore.ReadyState, error) {
	return r.inner().ReadyState(ctx)
}

func (r *replaceable) Features(ctx context.Context) (*datastore.Features, error) {
	return r.inner().Features(ctx)
}

func (r *replaceable) OfflineFeatures() (*datastore.Features, error) {
	return r.inner().OfflineFeatures()
}

func (r *replaceable) Statistics(ctx context.Context) (datastore.Stats, error) {
	return r.inner().Statistics(ctx)
}

func (r *replaceable) ReadWriteTx(
	ctx context.Context, fn datastore.TxUserFunc, opts ...options.RWTOptionsOption,
) (datastore.Revision, error) {
	return r.inner().ReadWriteTx(ctx, fn, opts...)
}

func (r *replaceable) Close() error { return r.inner().Close() }

// reopenPause is how long after it could not be opened a datastore is opened again, and reopenWait how long calls wait for it.
const reopenPause, reopenWait = time.Second, 5 * time.Second

// errReopening says that the connections are made anew.
var errReopening = errors.New("the database has another history than before, and connections to it are made anew")

// reopened waits while the datastore is opened anew. The error is Unavailable where that takes long.
func (p *primary) reopened(ctx context.Context) error {
	p.mu.Lock()
	reopening := p.reopening
	p.mu.Unlock()
	if reopening == nil {
		return nil
	}
	limit := time.NewTimer(reopenWait)
	defer limit.Stop()
	select {
	case <-reopening:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return unfit(errReopening)
	}
}

// reopens opens the datastore anew each time that a history has begun, until life ends, and waits then for those that were replaced to be closed.
func (p *primary) reopens(life context.Context) {
	var closing sync.WaitGroup
	defer closing.Wait()
	for {
		select {
		case <-life.Done():
			return
		case <-p.began:
		}
		p.mu.Lock()
		epoch := p.epoch
		p.mu.Unlock()
		fresh := p.reopen(life)
		if fresh == nil {
			return
		}
		before := p.replace(fresh)
		p.mu.Lock()
		p.redial = true
		if p.epoch == epoch && p.reopening != nil {
			close(p.reopening)
			p.reopening = nil
		}
		p.mu.Unlock()
		// It takes some seconds to end its heartbeat, and waits for what is still read.
		closing.Go(func() { _ = authz.Safely("engine.reopens", before.Close) })
	}
}

// reopen opens the datastore anew, as often as it takes; nil where life has ended.
func (p *primary) reopen(life context.Context) datastore.Datastore {
	for {
		if fresh := p.openOnce(life); fresh != nil {
			return fresh
		}
		pause := time.NewTimer(reopenPause)
		select {
		case <-life.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
	}
}

// openOnce opens the datastore anew, and returns nil where it cannot. SpiceDB goes on without a bound where the database does not answer, so what comes
// late is closed.
func (p *primary) openOnce(life context.Context) datastore.Datastore {
	ctx, cancel := context.WithTimeout(life, connectTimeout)
	defer cancel()
	opened := make(chan datastore.Datastore)
	go func() {
		_ = authz.Safely("engine.openOnce", func() error {
			fresh, err := p.open(ctx)
			if err != nil {
				return err
			}
			select {
			case opened <- fresh:
				return nil
			case <-ctx.Done():
				return fresh.Close()
			}
		})
		close(opened)
	}()
	select {
	case fresh := <-opened:
		return fresh
	case <-ctx.Done():
		return nil
	}
}
