package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"
)

// Collection deletes what no readable revision shows. The horizon is the lowest revision that can be
// read. It is raised first, on the disk too, and then, for every change up to it:
//
//	revision      3      5      8  │horizon 9│      12
//	a row         a      b      c                d        a and b go; c is what 9 shows
//	another       a            gone                       all of it goes
//
// The changelog names the changes, so nothing else is looked at; up to the horizon, but for the newest
// revision, it goes too. A row that has expired is not seen at any revision, because expiration is by the
// clock; it stays for the length of the window, and is found through the expiration keys.
//
// Everything is deleted idempotently and in the order of the changelog. A collection that is cut short
// is done again.

// collector is the state of collection.
type collector struct {
	// running is held by a collection.
	running sync.Mutex
	// collected is up to where the changelog was worked off.
	collected Revision
	// completed is set once a collection has run.
	completed atomic.Bool
}

// maintain keeps the store in order until ctx ends: it collects, and makes a new revision where the head
// has grown so old that a decision which begins at it could lose it.
func (s *Store) maintain(ctx context.Context) {
	tick := time.NewTicker(s.config.CollectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.shielded("maintenance", func() { s.maintainOnce(ctx) })
	}
}

func (s *Store) maintainOnce(ctx context.Context) {
	s.refreshHead(ctx)
	s.iterators.drop(s.head.Load().at)
	if err := datastore.RunGarbageCollection(ctx, s, s.config.Retention+s.readGrace()); err != nil && ctx.Err() == nil {
		s.config.Log.Warn("collection failed; it is tried again", zap.String("directory", s.dir), zap.Error(err))
	}
	s.attest()
}

// refreshHead makes an empty revision if the head was made before the last quarter of the window. The
// head can always be read; but once something is written it is not the head any more, and a caller that took
// it a moment before must not find that it has left the window.
func (s *Store) refreshHead(ctx context.Context) {
	if s.head.Load().at >= s.oldest(s.config.Retention/4) {
		return
	}
	tx, err := s.begin()
	if err != nil {
		return
	}
	tx.finish()
	p, err := tx.own.propose(nil, nil)
	if err == nil {
		_, err = s.commit(ctx, tx, p)
	}
	if err != nil && ctx.Err() == nil {
		s.config.Log.Warn("an old head could not be refreshed", zap.String("directory", s.dir), zap.Error(err))
	}
}

// BuildGarbageCollector is datastore.GarbageCollectableDatastore's.
func (s *Store) BuildGarbageCollector(context.Context) (datastore.GarbageCollector, error) {
	if s.isClosed() {
		return nil, ErrClosed
	}
	return &collection{store: s}, nil
}

// HasGCRun is datastore.GarbageCollectableDatastore's.
func (s *Store) HasGCRun() bool { return s.collector.completed.Load() }

// MarkGCCompleted is datastore.GarbageCollectableDatastore's.
func (s *Store) MarkGCCompleted() { s.collector.completed.Store(true) }

// ResetGCCompleted is datastore.GarbageCollectableDatastore's.
func (s *Store) ResetGCCompleted() { s.collector.completed.Store(false) }

// collection is one run. It implements datastore.GarbageCollector.
type collection struct {
	store  *Store
	locked bool
	closed bool
}

// LockForGCRun takes the one place for a run.
func (c *collection) LockForGCRun(context.Context) (bool, error) {
	if c.closed {
		return false, errNoCollector
	}
	c.locked = c.store.collector.running.TryLock()
	return c.locked, nil
}

// UnlockAfterGCRun gives it back.
func (c *collection) UnlockAfterGCRun() error {
	if c.locked {
		c.locked = false
		c.store.collector.running.Unlock()
	}
	return nil
}

// Now is the time that windows end at.
func (c *collection) Now(context.Context) (time.Time, error) {
	return max(revisionAt(c.store.config.Now()), c.store.head.Load().at).Time(), nil
}

// TxIDBefore returns the newest revision that is not after a time.
func (c *collection) TxIDBefore(_ context.Context, t time.Time) (datastore.Revision, error) {
	return min(revisionAt(t), c.store.head.Load().at), nil
}

// DeleteBeforeTx raises the horizon towards a revision, as far as nobody reads below it, and deletes what
// no revision from there on shows.
func (c *collection) DeleteBeforeTx(ctx context.Context, revision datastore.Revision) (datastore.DeletionCounts, error) {
	to, ok := revision.(Revision)
	if !ok {
		return datastore.DeletionCounts{}, datastore.NewInvalidRevisionErr(revision, datastore.CouldNotDetermineRevision)
	}
	var counts datastore.DeletionCounts
	err := c.store.guarded(func() (err error) {
		counts, err = c.store.collect(ctx, min(to, c.store.head.Load().at))
		return err
	})
	return counts, err
}

// DeleteExpiredRels deletes rows that expired before the window and are not written again since.
func (c *collection) DeleteExpiredRels(ctx context.Context) (int64, error) {
	var n int64
	err := c.store.guarded(func() (err error) {
		n, err = c.store.collectExpired(ctx)
		return err
	})
	return n, err
}

// Close ends the run.
func (c *collection) Close() { c.closed = true }

// collectBatch is how large a batch of deletions grows, in bytes.
const collectBatch = 1 << 20

// collect works off the changelog up to a new horizon.
func (s *Store) collect(ctx context.Context, to Revision) (counts datastore.DeletionCounts, err error) {
	if err := s.enter(); err != nil {
		return counts, err
	}
	defer s.leave()
	horizon := s.leases.raise(to, s.config.Now(), s.maxOpen())
	if horizon <= s.collector.collected {
		return counts, nil
	}
	if err := s.db.Set(metaKey(metaHorizon), binary.BigEndian.AppendUint64(nil, uint64(horizon)), pebble.Sync); err != nil {
		return counts, err
	}
	d, err := s.newDeletion()
	if err != nil {
		return counts, err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	log, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: changelogKey(s.collector.collected+1, 0), UpperBound: changelogKey(horizon+1, 0),
	})
	if err != nil {
		return counts, s.readFailure(err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	newest := Revision(0)
	for valid := log.First(); valid; valid = log.Next() {
		if s.isClosed() {
			return counts, ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return counts, err
		}
		at, chunk, err := parseChangelogKey(log.Key())
		if err != nil {
			return counts, err
		}
		value, err := log.ValueAndErr()
		if err != nil {
			return counts, s.readFailure(err)
		}
		if chunk == 0 {
			newest = at
			counts.Transactions++
			if _, value, err = readHead(value); err != nil {
				return counts, err
			}
		}
		if err := readChanges(value, func(ch change) error { return d.below(ch.key, newest, horizon, &counts) }); err != nil {
			return counts, err
		}
	}
	if err := log.Error(); err != nil {
		return counts, s.readFailure(err)
	}
	// The newest entry stays: it is where the head is found if nothing is written any more.
	if err := d.batch.DeleteRange(changelogKey(0, 0), changelogKey(newest, 0), nil); err != nil {
		return counts, err
	}
	if err := d.batch.Set(metaKey(metaCollected), binary.BigEndian.AppendUint64(nil, uint64(horizon)), nil); err != nil {
		return counts, err
	}
	if err := d.flush(); err != nil {
		return counts, err
	}
	s.collector.collected = horizon
	s.metrics.collected.Add(float64(counts.Relationships))
	return counts, nil
}

// collectExpired works off the expiration keys up to the window.
func (s *Store) collectExpired(ctx context.Context) (n int64, err error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	horizon := s.leases.lowest()
	// A read that began before a row expired goes on to see it.
	until := min(s.config.Now().Add(-s.config.Retention-s.readGrace()).Unix(), s.leases.earliest(s.config.Now(), s.maxOpen()))
	if until <= 0 || horizon == 0 {
		return 0, nil
	}
	d, err := s.newDeletion()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	iter, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: []byte{kindExpiration}, UpperBound: appendExpirationSeconds(nil, until),
	})
	if err != nil {
		return 0, s.readFailure(err)
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	for valid := iter.First(); valid; valid = iter.Next() {
		if s.isClosed() {
			return n, ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return n, err
		}
		_, from, forward, err := parseExpiration(iter.Key())
		if err != nil {
			return n, err
		}
		if from > horizon {
			continue // revisions before it can be read, and may show what it replaced
		}
		deleted, isNewest, err := d.expired(forward, from, horizon)
		if err != nil {
			return n, err
		}
		if deleted {
			n++
			if isNewest {
				s.rows.Add(^uint64(0))
			}
		}
		if err := d.batch.Delete(iter.Key(), nil); err != nil {
			return n, err
		}
		if err := d.flushIfLarge(); err != nil {
			return n, err
		}
	}
	if err := iter.Error(); err != nil {
		return n, s.readFailure(err)
	}
	return n, d.flush()
}

// deletion gathers what is deleted.
type deletion struct {
	store *Store
	iter  *pebble.Iterator
	batch *pebble.Batch
}

func (s *Store) newDeletion() (*deletion, error) {
	iter, err := s.db.NewIter(nil)
	if err != nil {
		return nil, s.readFailure(err)
	}
	return &deletion{store: s, iter: iter, batch: s.db.NewBatch()}, nil
}

// below deletes the versions of a row or record that no revision from the horizon on shows. The changelog mentions
// it at a revision; it is looked through at its last mention up to the horizon alone, so that each version is deleted
// once, however often the row was written.
func (d *deletion) below(key []byte, at, horizon Revision, counts *datastore.DeletionCounts) error {
	valid := d.iter.SeekGE(appendVersion(bytes.Clone(key), horizon))
	if valid && bytes.HasPrefix(d.iter.Key(), key) {
		newest, ok := versionOf(d.iter.Key(), len(key))
		if !ok {
			return damaged("a key without its version: %q", d.iter.Key())
		}
		if newest > at {
			return nil // a later mention is its last
		}
	}
	// The first one is what the horizon shows. If that is nothing it goes too, and last: a batch is not all that is
	// deleted of a row, and without it the one before would come back.
	var shown, was []byte
	for first := true; valid && bytes.HasPrefix(d.iter.Key(), key); valid = d.iter.Next() {
		value, err := d.iter.ValueAndErr()
		if err != nil {
			return d.store.readFailure(err)
		}
		switch {
		case !first:
			if err := d.version(d.iter.Key(), len(key), value, counts); err != nil {
				return err
			}
		case isGone(value):
			shown, was = bytes.Clone(d.iter.Key()), bytes.Clone(value)
		}
		first = false
	}
	if err := d.iter.Error(); err != nil {
		return d.store.readFailure(err)
	}
	if shown == nil {
		return nil
	}
	return d.version(shown, len(key), was, counts)
}

// version deletes one version, and counts it.
func (d *deletion) version(key []byte, prefixLen int, value []byte, counts *datastore.DeletionCounts) error {
	if err := d.delete(key, prefixLen, value); err != nil {
		return err
	}
	switch key[0] {
	case kindForward:
		counts.Relationships++
	case kindNamespace:
		counts.Namespaces++
	}
	return d.flushIfLarge()
}

// expired deletes a row that has expired, and all that it replaced, if it is what the horizon shows.
// isNewest reports whether it was not replaced after the horizon either.
func (d *deletion) expired(forward []byte, from, horizon Revision) (deleted, isNewest bool, err error) {
	valid := d.iter.SeekGE(appendVersion(bytes.Clone(forward), horizon))
	if !valid || !bytes.Equal(d.iter.Key(), appendVersion(bytes.Clone(forward), from)) {
		return false, false, d.iter.Error()
	}
	// All in one batch: what it replaced was deleted by the collection before, or is not much.
	for ; valid && bytes.HasPrefix(d.iter.Key(), forward); valid = d.iter.Next() {
		value, err := d.iter.ValueAndErr()
		if err != nil {
			return false, false, d.store.readFailure(err)
		}
		if err := d.delete(d.iter.Key(), len(forward), value); err != nil {
			return false, false, err
		}
	}
	if err := d.iter.Error(); err != nil {
		return false, false, d.store.readFailure(err)
	}
	valid = d.iter.SeekGE(forward)
	isNewest = !valid || !bytes.HasPrefix(d.iter.Key(), forward) || bytes.Equal(d.iter.Key(), appendVersion(bytes.Clone(forward), from))
	return true, isNewest, d.iter.Error()
}

// delete deletes a version of a row or record, and of a row its reverse key and what finds it by its
// expiration.
func (d *deletion) delete(key []byte, prefixLen int, value []byte) error {
	if err := d.batch.Delete(key, nil); err != nil {
		return err
	}
	if key[0] != kindForward {
		return nil
	}
	r, err := parseRow(key[:prefixLen])
	if err != nil {
		return err
	}
	if err := d.batch.Delete(append(r.appendReverse(nil), key[prefixLen:]...), nil); err != nil {
		return err
	}
	at, expires, err := expirationOf(value)
	if err != nil || !expires {
		return err
	}
	from, _ := versionOf(key, prefixLen)
	return d.batch.Delete(appendExpiration(nil, at.Unix(), from, key[:prefixLen]), nil)
}

func (d *deletion) flushIfLarge() error {
	if d.batch.Len() < collectBatch {
		return nil
	}
	return d.flush()
}

// flush applies what was gathered. It is not synced: what a crash undoes is done again.
func (d *deletion) flush() error {
	if err := d.store.db.Apply(d.batch, pebble.NoSync); err != nil {
		return err
	}
	if err := d.batch.Close(); err != nil {
		return err
	}
	d.batch = d.store.db.NewBatch()
	return nil
}

func (d *deletion) close() error { return errors.Join(d.iter.Close(), d.batch.Close()) }
