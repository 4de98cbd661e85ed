package store

import (
	"context"
	"errors"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2"
)

// Watch is datastore.ReadOnlyDatastore's: all changes after a revision, in order, each revision once, from
// the changelog on the disk, so also after a restart. A watcher that reads too slowly, and lets WatchPatience go
// by with the buffer full, is disconnected; no writer ever waits for a watcher. A checkpoint says that
// everything up to its revision was sent.
func (s *Store) Watch(ctx context.Context, after datastore.Revision, options datastore.WatchOptions) (<-chan datastore.RevisionChanges, <-chan error) {
	buffer, patience := options.WatchBufferLength, options.WatchBufferWriteTimeout
	if buffer == 0 {
		buffer = s.config.WatchBuffer
	}
	if patience == 0 {
		patience = s.config.WatchPatience
	}
	changes, failed := make(chan datastore.RevisionChanges, buffer), make(chan error, 1)
	from, ok := after.(Revision)
	var refusal error
	switch {
	case options.EmissionStrategy == datastore.EmitImmediatelyStrategy:
		refusal = errors.New("store: emit immediately strategy is unsupported")
	case s.isClosed():
		refusal = ErrClosed
	case !ok:
		refusal = datastore.NewInvalidRevisionErr(after, datastore.CouldNotDetermineRevision)
	default:
		refusal = s.checkRevision(from, 0)
	}
	if refusal != nil {
		close(changes)
		failed <- refusal
		close(failed)
		return changes, failed
	}
	w := &watcher{store: s, options: options, patience: patience, changes: changes, sent: from}
	go func() {
		defer close(failed)
		defer close(changes)
		failed <- w.run(ctx)
	}()
	return changes, failed
}

// watcher sends changes to one caller that watches.
type watcher struct {
	store    *Store
	options  datastore.WatchOptions
	patience time.Duration
	changes  chan<- datastore.RevisionChanges
	// sent is the revision up to which everything was sent.
	sent Revision
}

// run sends until something ends it, and says what.
func (w *watcher) run(ctx context.Context) (err error) {
	defer w.store.shield("watching", &err)
	for {
		moved := w.store.moved.wait()
		head := w.store.head.Load().at
		if head > w.sent {
			if err := w.send(ctx, head); err != nil {
				return err
			}
			continue
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return datastore.NewWatchCanceledErr()
		case <-w.store.closing:
			return ErrClosed
		}
	}
}

// watchPage is how many revisions are read from the disk before they are sent: nothing is held open while
// a watcher is waited for.
const watchPage = 256

// send sends the changes up to the head, and then a checkpoint.
func (w *watcher) send(ctx context.Context, head Revision) error {
	for w.sent < head {
		page, upTo, err := w.store.changesBetween(w.sent, head, w.options)
		if err != nil {
			return err
		}
		for _, c := range page {
			if err := w.deliver(ctx, c); err != nil {
				return err
			}
		}
		w.sent = upTo
	}
	if w.options.Content&datastore.WatchCheckpoints != 0 {
		return w.deliver(ctx, datastore.RevisionChanges{Revision: head, IsCheckpoint: true})
	}
	return nil
}

// deliver hands one change over, within patience.
func (w *watcher) deliver(ctx context.Context, c datastore.RevisionChanges) error {
	select {
	case w.changes <- c:
		return nil
	default:
	}
	timer := time.NewTimer(w.patience)
	defer timer.Stop()
	select {
	case w.changes <- c:
		return nil
	case <-timer.C:
		return datastore.NewWatchDisconnectedErr()
	case <-ctx.Done():
		return datastore.NewWatchCanceledErr()
	case <-w.store.closing:
		return ErrClosed
	}
}

// changesBetween reads changes after a revision, up to another one, and says how far it got.
func (s *Store) changesBetween(after, upTo Revision, options datastore.WatchOptions) (page []datastore.RevisionChanges, got Revision, err error) {
	if err := s.enter(); err != nil {
		return nil, 0, err
	}
	defer s.leave()
	if after < s.leases.lowest() {
		return nil, 0, datastore.NewInvalidRevisionErr(after, datastore.RevisionStale)
	}
	iter, err := s.db.NewIter(&pebble.IterOptions{LowerBound: changelogKey(after+1, 0), UpperBound: changelogKey(upTo+1, 0)})
	if err != nil {
		return nil, 0, s.readFailure(err)
	}
	defer func() {
		if closed := iter.Close(); err == nil && closed != nil {
			err = s.readFailure(closed)
		}
	}()
	collect := &changeCollector{options: options}
	got, last, revisions := upTo, after, 0
	for valid := iter.First(); valid; valid = iter.Next() {
		at, chunk, err := parseChangelogKey(iter.Key())
		if err != nil {
			return nil, 0, err
		}
		if chunk == 0 {
			if revisions++; revisions > watchPage {
				got = last
				break
			}
			collect.begin(at)
			last = at
		}
		value, err := iter.ValueAndErr()
		if err != nil {
			return nil, 0, s.readFailure(err)
		}
		if err := collect.add(chunk, value); err != nil {
			return nil, 0, err
		}
	}
	if err := iter.Error(); err != nil {
		return nil, 0, s.readFailure(err)
	}
	// What was collected while this was read may be missing from it.
	if after < s.leases.lowest() {
		return nil, 0, datastore.NewInvalidRevisionErr(after, datastore.RevisionStale)
	}
	collect.flush()
	return collect.done, got, nil
}

// changeCollector makes SpiceDB's changes of a changelog.
type changeCollector struct {
	options datastore.WatchOptions
	done    []datastore.RevisionChanges
	current datastore.RevisionChanges
	size    uint64
}

func (c *changeCollector) begin(at Revision) {
	c.flush()
	c.current = datastore.RevisionChanges{Revision: at}
	c.size = 0
}

// flush ends a revision. One without any change that is asked for is left out.
func (c *changeCollector) flush() {
	if len(c.current.RelationshipChanges)+len(c.current.ChangedDefinitions)+len(c.current.DeletedNamespaces)+len(c.current.DeletedCaveats) > 0 {
		c.done = append(c.done, c.current)
	}
	c.current.RelationshipChanges, c.current.ChangedDefinitions = nil, nil
	c.current.DeletedNamespaces, c.current.DeletedCaveats = nil, nil
}

// add reads a chunk.
func (c *changeCollector) add(chunk uint32, value []byte) error {
	if chunk == 0 {
		h, rest, err := readHead(value)
		if err != nil {
			return err
		}
		if h.metadata != nil {
			c.current.Metadatas = append(c.current.Metadatas, h.metadata)
		}
		value = rest
	}
	if c.size += uint64(len(value)); c.options.MaximumBufferedChangesByteSize > 0 && c.size > c.options.MaximumBufferedChangesByteSize {
		return datastore.NewMaximumChangesSizeExceededError(c.options.MaximumBufferedChangesByteSize)
	}
	return readChanges(value, c.change)
}

func (c *changeCollector) change(ch change) error {
	relationships, schema := c.options.Content&datastore.WatchRelationships != 0, c.options.Content&datastore.WatchSchema != 0
	if len(ch.key) == 0 {
		return damaged("a change of nothing")
	}
	switch ch.key[0] {
	case kindForward:
		if !relationships {
			return nil
		}
		return c.relationship(ch)
	case kindNamespace:
		if !schema {
			return nil
		}
		if isGone(ch.value) {
			c.current.DeletedNamespaces = append(c.current.DeletedNamespaces, recordName(ch.key))
			return nil
		}
		d, err := decodeRecord[core.NamespaceDefinition](ch.value)
		c.current.ChangedDefinitions = append(c.current.ChangedDefinitions, d)
		return err
	case kindCaveat:
		if !schema {
			return nil
		}
		if isGone(ch.value) {
			c.current.DeletedCaveats = append(c.current.DeletedCaveats, recordName(ch.key))
			return nil
		}
		d, err := decodeRecord[core.CaveatDefinition](ch.value)
		c.current.ChangedDefinitions = append(c.current.ChangedDefinitions, d)
		return err
	default:
		return nil
	}
}

func (c *changeCollector) relationship(ch change) error {
	r, err := parseRow(ch.key)
	if err != nil {
		return err
	}
	rel := tuple.Relationship{RelationshipReference: r.reference()}
	if isGone(ch.value) {
		c.current.RelationshipChanges = append(c.current.RelationshipChanges, tuple.Delete(rel))
		return nil
	}
	err = readValue(ch.value, &rel)
	c.current.RelationshipChanges = append(c.current.RelationshipChanges, tuple.Touch(rel))
	return err
}
