package store

import (
	"context"
	"hash/maphash"
	"time"

	"go.uber.org/zap"
)

// After a start nothing is in memory, and each decision over a large graph would wait for a few reads of the disk. So a server reads
// its relationships once, in the order of their keys, which is much faster: into the block cache, and what few rows say of an object
// into what is packed. It stops where both are full.

const (
	// aheadSlice is for how long it reads at a time. Then it rests for as long, so that calls find a processor and the disk, and no
	// revision is held for long.
	aheadSlice = 5 * time.Millisecond
	// aheadRows is how many rows of an object are few. Evaluation asks for all rows of an object with a limit like this one.
	aheadRows = 32
)

// aheadState is how far the reading after a start is.
type aheadState struct {
	key  []byte
	rows uint64
	// bytes are those of what was read, about as they are in the block cache.
	bytes int64
}

// readAhead reads the store's relationships until ctx ends.
func (s *Store) readAhead(ctx context.Context) {
	begin := time.Now()
	state := aheadState{key: []byte{kindForward}}
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
		}
		slice := time.Now()
		done, err := s.readSlice(&state)
		if err != nil {
			if ctx.Err() == nil {
				s.config.Log.Warn("reading the store ahead ended early; decisions read what they need themselves",
					zap.String("directory", s.dir), zap.Error(err))
			}
			return
		}
		if done {
			s.config.Log.Debug("the store was read ahead", zap.String("directory", s.dir), zap.Uint64("relationships", state.rows),
				zap.Duration("in", time.Since(begin)))
			return
		}
		rest.Reset(time.Since(slice))
	}
}

// readSlice reads on for a moment, and reports whether there is no more to be read, or no room.
func (s *Store) readSlice(state *aheadState) (done bool, err error) {
	defer s.shield("reading ahead", &err)
	sn, err := s.Snapshot(s.head.Load().at)
	if err != nil {
		return false, err
	}
	defer sn.Close()
	it, err := sn.open(&sn.scans)
	if err != nil {
		return false, err
	}
	valid := it.SeekGE(state.key)
	for n, begin := 0, time.Now(); n%16 != 0 || time.Since(begin) < aheadSlice; n++ {
		if !valid {
			return true, it.Error()
		}
		if it.Key()[0] != kindForward {
			return true, nil
		}
		c, _, ok := cutComponents(it.Key())
		if !ok {
			return false, damaged("a key that is no row: %q", it.Key())
		}
		sn.key = append(sn.key[:0], it.Key()[:c.object]...)
		more, err := sn.scan(c.object, c.object, selection{limit: aheadRows})
		if err != nil {
			return false, err
		}
		state.rows += uint64(len(sn.found))
		state.bytes += int64(len(sn.found)*len(sn.key) + len(sn.text))
		full := true
		if !more {
			full = s.objects.putAhead(sn.key, kept{rows: sn.found, from: sn.at})
		}
		if full && state.bytes > s.config.CacheBytes {
			return true, nil
		}
		if more {
			valid = it.SeekGE(end(sn.key))
		} else {
			valid = it.Valid()
		}
	}
	if valid {
		state.key = append(state.key[:0], it.Key()...)
	}
	return !valid, it.Error()
}

// putAhead packs what was read of an object, and reports whether there was no room for it.
func (o *objects) putAhead(key []byte, k kept) (full bool) {
	s := o.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.packed.full() {
		return true
	}
	if _, ok := s.entries[string(key)]; ok || k.from < s.written {
		return false
	}
	k.expires = anyExpires(k.rows)
	s.packed.add(key, maphash.Bytes(o.seed, key), &k, &o.names)
	return false
}
