package store

import (
	"context"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
)

// The commit.
//
// One goroutine, the committer, takes the proposals that wait and handles them as a group:
//
//	for each: does it conflict with what was committed since it read? then it is answered so;
//	          else it gets the next revision, is noted for those that come after, and goes to Pebble,
//	          unsynced: into the log's buffer and the memtable, where no reader looks yet
//	then:     one sync for the group
//	then:     the head moves to the group's last revision, watchers are woken, all are answered
//
// While a group is synced the next one gathers, so the number of syncs adapts to the load. Revisions are
// in the log in their order, so what a crash leaves is all commits up to some revision. Parallel commits
// would make more use of the cores, and would leave gaps, which everything after them had to know about.
//
// If Pebble cannot write its log or its manifest nothing can be committed any more, and whether the group
// under way survives is open. The store then fails: it answers reads at the head, which does not move, and
// refuses every write until it is opened again.

// maxGroup is how many proposals are committed with one sync at most.
const maxGroup = 1024

// submission is a proposal on its way.
type submission struct {
	proposal *proposal
	reads    *readSet
	// own has read what it writes.
	own    *writes
	readAt Revision
	lease  *lease
	answer chan committed // has room for the one answer
}

type committed struct {
	at  Revision
	err error
}

// commit hands a proposal to the committer and waits for its answer.
func (s *Store) commit(ctx context.Context, tx *transaction, p *proposal) (Revision, error) {
	sub := &submission{
		proposal: p, reads: &tx.reads, own: &tx.own, readAt: tx.view.at, lease: tx.lease, answer: make(chan committed, 1),
	}
	select {
	case <-s.impasse.reached():
		tx.lease.release()
		return 0, s.impasse.refusal(false)
	default:
	}
	select {
	case s.submissions <- sub:
	case <-s.impasse.reached():
		tx.lease.release()
		return 0, s.impasse.refusal(false)
	case <-ctx.Done():
		tx.lease.release()
		return 0, ctx.Err()
	case <-s.closing:
		tx.lease.release()
		return 0, ErrClosed
	case <-s.failure.happened:
		tx.lease.release()
		return 0, s.failure.refusal()
	}
	select {
	case c := <-sub.answer:
		return c.at, c.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-s.failure.happened:
		// It may have been answered before the failure.
		select {
		case c := <-sub.answer:
			return c.at, c.err
		default:
			return 0, s.failure.refusal()
		}
	case <-s.impasse.reached():
		select {
		case c := <-sub.answer:
			return c.at, c.err
		default:
			return 0, s.impasse.refusal(true)
		}
	case <-s.committerDone:
		// The store was closed. It may have been answered before, else it was not looked at.
		select {
		case c := <-sub.answer:
			return c.at, c.err
		case <-s.failure.happened:
			return 0, s.failure.refusal()
		default:
			return 0, ErrClosed
		}
	}
}

// runCommitter commits until the store closes. What is still waiting then is not committed.
func (s *Store) runCommitter() {
	defer close(s.committerDone)
	defer func() {
		if met := recover(); met != nil {
			s.fail("committing", s.panicked("committing", met))
		}
	}()
	var group []*submission
	for {
		group = group[:0]
		select {
		case first := <-s.submissions:
			group = append(group, first)
		case <-s.stopCommitter:
			return
		}
	gather:
		for len(group) < maxGroup {
			select {
			case next := <-s.submissions:
				group = append(group, next)
			default:
				break gather
			}
		}
		if s.hasFailed() {
			return // the callers that wait know, see commit
		}
		s.commitGroup(group)
	}
}

// commitGroup commits what it can of a group, and answers all of it.
func (s *Store) commitGroup(group []*submission) {
	room := s.room(group)
	last := s.head.Load().at
	rows, hash := s.rows.Load(), s.head.Load().hash
	hashFrom := s.head.Load().hashFrom
	answers := make([]committed, len(group))
	wrote := false
	for i, sub := range group {
		refused := room.refuse(sub.proposal)
		if late := s.checkOpen(sub.lease); late != nil {
			refused = late // what it conflicts with may be forgotten
		}
		switch {
		case refused != nil:
			answers[i].err = refused
			continue
		case s.recent.conflict(sub.readAt, sub.reads, sub.own):
			s.metrics.conflicts.Inc()
			answers[i].err = ErrConflict
			continue
		}
		if room.full != nil && !sub.proposal.changes {
			answers[i].at = last // which shows all that it would
			continue
		}
		at := max(last+1, revisionAt(s.config.Now()))
		rows += uint64(sub.proposal.rows) //nolint:gosec // wraps around to what is meant
		sub.proposal.stamp(at, rows, last)
		s.history.applied.Store(uint64(at))
		if err := s.apply(sub.proposal); err != nil {
			// Nothing of it is in the log.
			rows -= uint64(sub.proposal.rows) //nolint:gosec // as above
			answers[i].err = err
			continue
		}
		s.recent.note(at, sub.proposal.keys)
		s.voids.write(at, sub.proposal.keys)
		for _, key := range sub.proposal.keys {
			s.forgetBuf = s.objects.forget(key, at, s.forgetBuf)
		}
		if sub.proposal.schema {
			s.schemas.add(at)
		}
		if sub.proposal.hash != nil {
			hash, hashFrom = *sub.proposal.hash, at
		}
		last, wrote = at, true
		answers[i].at = at
	}
	if wrote && !s.config.Unsynced {
		if err := s.db.LogData(nil, pebble.Sync); err != nil {
			s.fail("syncing the log", err)
			return
		}
	}
	if wrote {
		s.rows.Store(rows)
		s.moveHead(head{at: last, hash: hash, hashFrom: hashFrom})
	}
	for _, sub := range group {
		sub.lease.release()
	}
	s.recent.forget(s.leases.oldestOr(last))
	s.metrics.groups.Inc()
	for i, sub := range group {
		if answers[i].err == nil {
			s.metrics.commits.Inc()
		}
		sub.answer <- answers[i]
	}
}

// apply gives a stamped proposal to Pebble, without waiting for the disk.
func (s *Store) apply(p *proposal) error {
	batch := s.db.NewBatch()
	defer func() { _ = batch.Close() }()
	if err := batch.SetRepr(p.batch); err != nil {
		return err
	}
	return s.db.Apply(batch, pebble.NoSync)
}

// failure is how a store stops writing for good.
type failure struct {
	happened chan struct{}
	cause    error
}

// fail stops all writing, once.
func (s *Store) fail(doing string, cause error) {
	s.failOnce.Do(func() {
		s.failure.cause = cause
		s.config.Log.Error("the store cannot write any more; open it again once the cause is mended",
			zap.String("while", doing), zap.String("directory", s.dir), zap.Error(cause))
		close(s.failure.happened)
	})
}

// Sync waits until all that was committed is on the disk; see Config.Unsynced.
func (s *Store) Sync() error { return s.db.LogData(nil, pebble.Sync) }

// Failed returns why the store takes no writes until it is opened again; nil while it takes them.
func (s *Store) Failed() error {
	if s.hasFailed() {
		return s.failure.cause
	}
	return nil
}

// hasFailed reports whether the store has stopped writing.
func (s *Store) hasFailed() bool {
	select {
	case <-s.failure.happened:
		return true
	default:
		return false
	}
}

// refusal is what a write gets from a store that has failed.
func (f *failure) refusal() error {
	return &refused{
		code:    codes.Unavailable,
		reason:  authz.ReasonEngineUnavailable,
		message: "the store could not write to its disk and takes no writes until it is opened again; whether a write under way was made is not known",
		cause:   f.cause,
	}
}
