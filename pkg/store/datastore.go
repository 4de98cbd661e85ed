package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
)

var (
	_ datastore.Datastore                   = (*Store)(nil)
	_ datastore.GarbageCollectableDatastore = (*Store)(nil)
	_ datastore.EngineIdentifiable          = (*Store)(nil)
)

// EngineName is datastore.EngineIdentifiable's.
func (s *Store) EngineName() string { return "embedded" }

// MetricsID is datastore.ReadOnlyDatastore's.
func (s *Store) MetricsID() (string, error) { return "embedded", nil }

// UniqueID returns the store's id, a UUID: it stays with the directory, and a restored store has another.
func (s *Store) UniqueID(context.Context) (string, error) { return s.id, nil }

// Head is HeadRevision without the schema's hash.
func (s *Store) Head() (Revision, error) {
	if s.isClosed() {
		return 0, ErrClosed
	}
	return s.head.Load().at, nil
}

// HeadRevision returns the newest revision: everything that was acknowledged is in it.
func (s *Store) HeadRevision(context.Context) (datastore.RevisionWithSchemaHash, error) {
	if s.isClosed() {
		return datastore.RevisionWithSchemaHash{}, ErrClosed
	}
	h := s.head.Load()
	return datastore.RevisionWithSchemaHash{Revision: h.at, SchemaHash: h.hash}, nil
}

// OptimizedRevision returns the revision at the beginning of the current interval of quantization, or the
// head where nothing was written since.
func (s *Store) OptimizedRevision(ctx context.Context) (datastore.RevisionWithSchemaHash, error) {
	if s.isClosed() {
		return datastore.RevisionWithSchemaHash{}, ErrClosed
	}
	h := s.head.Load()
	at := h.at
	if q := s.config.Quantization; q > 0 {
		at = min(at, revisionAt(s.config.Now().Truncate(q)))
	}
	if at != h.at && s.CheckRevision(ctx, at) != nil {
		at = h.at
	}
	hash := h.hash
	if at < h.hashFrom {
		var err error
		if hash, err = s.reader(at).schemaHash(); err != nil {
			return datastore.RevisionWithSchemaHash{}, err
		}
	}
	return datastore.RevisionWithSchemaHash{Revision: at, SchemaHash: hash}, nil
}

// schemaHash returns the hash of the stored schema, or "".
func (r *reader) schemaHash() (string, error) {
	if r.err != nil {
		return "", r.err
	}
	return r.view.schemaHash()
}

// CheckRevision is datastore.ReadOnlyDatastore's. A revision after the head, or of another datastore, is
// invalid; one that was made before the retention window is stale, unless it is the head.
func (s *Store) CheckRevision(_ context.Context, revision datastore.Revision) error {
	if s.isClosed() {
		return ErrClosed
	}
	at, ok := revision.(Revision)
	if !ok {
		return datastore.NewInvalidRevisionErr(revision, datastore.CouldNotDetermineRevision)
	}
	return s.checkRevision(at, 0)
}

// checkRevision is CheckRevision with a window that is longer by grace.
func (s *Store) checkRevision(at Revision, grace time.Duration) error {
	h := s.head.Load().at
	switch {
	case at > h || at == 0:
		return datastore.NewInvalidRevisionErr(at, datastore.CouldNotDetermineRevision)
	case at != h && at < s.oldest(s.config.Retention+grace), at < s.leases.lowest():
		return datastore.NewInvalidRevisionErr(at, datastore.RevisionStale)
	default:
		return nil
	}
}

// oldest returns the first revision inside a window that ends now. Where the clock lies behind the head,
// because it was set back, now is the head.
func (s *Store) oldest(window time.Duration) Revision {
	now := max(revisionAt(s.config.Now()), s.head.Load().at)
	return now - min(now, Revision(window)) //nolint:gosec // windows are positive
}

// readGrace is how long after a revision has left the window a reader for it can still be had: checks of
// one decision ask for several.
func (s *Store) readGrace() time.Duration { return min(s.config.Retention/20, time.Minute) }

// SnapshotReader is datastore.ReadOnlyDatastore's. The reader is refused, by each of its calls, what
// CheckRevision refuses, but for a short grace. What it can see is kept for readerKept, and as long as its revision
// lies in the window; after that its calls are refused as those for a stale revision are.
func (s *Store) SnapshotReader(revision datastore.Revision) datastore.Reader {
	at, ok := revision.(Revision)
	if !ok {
		return &reader{err: datastore.NewInvalidRevisionErr(revision, datastore.CouldNotDetermineRevision)}
	}
	return s.reader(at)
}

// reader is SnapshotReader for our own revisions.
func (s *Store) reader(at Revision) *reader {
	if s.isClosed() {
		return &reader{err: ErrClosed}
	}
	if err := s.checkRevision(at, s.readGrace()); err != nil {
		return &reader{err: err}
	}
	now := s.config.Now()
	p := pin{at, now.Unix()}
	if !s.leases.grace(p) {
		return &reader{err: datastore.NewInvalidRevisionErr(at, datastore.RevisionStale)}
	}
	return &reader{view: view{store: s, at: at, now: now}}
}

// RevisionFromString is datastore.ReadOnlyDatastore's.
func (s *Store) RevisionFromString(serialized string) (datastore.Revision, error) {
	return parseRevision(serialized)
}

// probe is a try to write to the disk.
type probe struct {
	done chan struct{}
	err  error
}

// probeFile is written to see whether the disk answers.
const probeFile = "probe.tmp"

// ReadyState tries whether the disk answers, within ctx: a store whose reads come from its cache would
// seem well without. A disk that is full answers.
func (s *Store) ReadyState(ctx context.Context) (datastore.ReadyState, error) {
	if s.isClosed() {
		return datastore.ReadyState{}, ErrClosed
	}
	select {
	case <-s.failure.happened:
		return datastore.ReadyState{Message: "the store takes no writes: " + s.failure.cause.Error()}, nil
	default:
	}
	p := s.probing.Load()
	if p == nil {
		fresh := &probe{done: make(chan struct{})}
		if s.probing.CompareAndSwap(nil, fresh) {
			p = fresh
			go func() {
				defer close(fresh.done)
				defer s.probing.Store(nil)
				defer s.shield("trying the disk", &fresh.err)
				if fresh.err = s.enter(); fresh.err == nil {
					defer s.leave()
					fresh.err = writeFile(s.config.FS, s.config.FS.PathJoin(s.dir, probeFile), "")
				}
			}()
		} else if p = s.probing.Load(); p == nil {
			return datastore.ReadyState{IsReady: true}, nil // another one's has just come back
		}
	}
	select {
	case <-p.done:
		if p.err != nil && !isDiskFull(p.err) {
			return datastore.ReadyState{}, fmt.Errorf("store: the disk does not take a file: %w", p.err)
		}
		return datastore.ReadyState{IsReady: true}, nil
	case <-ctx.Done():
		return datastore.ReadyState{}, fmt.Errorf("store: the disk does not answer: %w", ctx.Err())
	}
}

// OfflineFeatures is datastore.ReadOnlyDatastore's.
func (s *Store) OfflineFeatures() (*datastore.Features, error) {
	return &datastore.Features{
		Watch:                   datastore.Feature{Status: datastore.FeatureSupported},
		IntegrityData:           datastore.Feature{Status: datastore.FeatureSupported},
		ContinuousCheckpointing: datastore.Feature{Status: datastore.FeatureUnsupported},
		WatchEmitsImmediately:   datastore.Feature{Status: datastore.FeatureUnsupported},
	}, nil
}

// Features is datastore.ReadOnlyDatastore's.
func (s *Store) Features(context.Context) (*datastore.Features, error) { return s.OfflineFeatures() }

// Statistics is datastore.ReadOnlyDatastore's. The count of relationships includes those that have expired
// and are not collected.
func (s *Store) Statistics(ctx context.Context) (datastore.Stats, error) {
	h, err := s.HeadRevision(ctx)
	if err != nil {
		return datastore.Stats{}, err
	}
	types, err := s.SnapshotReader(h.Revision).LegacyListAllNamespaces(ctx)
	if err != nil {
		return datastore.Stats{}, err
	}
	return datastore.Stats{
		UniqueID:                   s.id,
		EstimatedRelationshipCount: s.rows.Load(),
		ObjectTypeStatistics:       datastore.ComputeObjectTypeStats(types),
	}, nil
}

// errNoCollector says that a collector is used after it was closed.
var errNoCollector = errors.New("store: the collector is closed")
