package store

import (
	"context"
	"fmt"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
)

// Figures describe a store as it is now.
type Figures struct {
	// ID is the store's own id.
	ID string
	// Head is the newest revision, Horizon the oldest one that can be read (0 before the first collection).
	Head, Horizon Revision
	// Retention is how long a revision can be read.
	Retention time.Duration
	// Relationships is about how many there are at the head, with those that have expired and are not
	// collected.
	Relationships uint64
	// DiskBytes is what the files take, LogBytes what of it is the write-ahead log, MemTableBytes what was
	// written and is not sorted into files, CacheBytes what the block cache holds.
	DiskBytes, LogBytes, MemTableBytes, CacheBytes uint64
	// CompactionDebtBytes is about how much is to be compacted.
	CompactionDebtBytes uint64
	// ReadAmplification is how many sorted runs a read may have to look into.
	ReadAmplification int
	// Levels are the levels of the tree that hold anything.
	Levels []Level
	// Writing is false once the store takes no writes until it is opened again.
	Writing bool
}

// Level is one level of the tree.
type Level struct {
	Number int
	Files  int64
	Bytes  int64
}

// Figures returns the store's figures. Errors: ErrClosed.
func (s *Store) Figures() (Figures, error) {
	if err := s.enter(); err != nil {
		return Figures{}, err
	}
	defer s.leave()
	m := s.db.Metrics()
	f := Figures{
		ID: s.id, Head: s.head.Load().at, Horizon: s.leases.lowest(), Retention: s.config.Retention,
		Relationships: s.rows.Load(), DiskBytes: m.DiskSpaceUsage(), LogBytes: m.WAL.PhysicalSize,
		MemTableBytes: m.MemTable.Size, CacheBytes: uint64(max(m.BlockCache.Size, 0)),
		CompactionDebtBytes: m.Compact.EstimatedDebt, ReadAmplification: m.ReadAmp(), Writing: true,
	}
	select {
	case <-s.failure.happened:
		f.Writing = false
	default:
	}
	for i := range m.Levels {
		if m.Levels[i].TablesCount > 0 {
			f.Levels = append(f.Levels, Level{Number: i, Files: m.Levels[i].TablesCount, Bytes: m.Levels[i].TablesSize})
		}
	}
	return f, nil
}

// Compact deletes what cannot be read any more and rewrites all files, so that they take as little room as
// they can. The store goes on meanwhile, slower.
func (s *Store) Compact(ctx context.Context) error {
	if err := datastore.RunGarbageCollection(ctx, s, s.config.Retention+s.readGrace()); err != nil {
		return fmt.Errorf("store: compact: %w", err)
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	err := s.guarded(func() error {
		if err := s.db.Flush(); err != nil {
			return err
		}
		return s.db.Compact(ctx, []byte{0}, []byte{0xff}, true)
	})
	if err != nil {
		return fmt.Errorf("store: compact: %w", err)
	}
	return nil
}
