package journal

import (
	"errors"
	"math"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/journal/index"
)

// indexRetry is how long an index that cannot be written is left alone.
const indexRetry = 10 * time.Second

// indexer keeps the index of a journal in step with its bundles: it is told of each, and reads by itself those that the index lacks. Nothing
// depends on it but how fast queries are, so its errors are logged, and what they are about is tried again.
type indexer struct {
	index  *index.Index
	reader *Reader
	log    *zap.Logger
	wake   chan struct{}
	stop   chan struct{}
	done   chan struct{}
}

// Reader returns what reads the journal while it is written, and has it keep an index of its bundles until Close; it is called once. persons may be nil, and
// what is sealed stays so then.
func (j *Journal) Reader(persons Persons) (*Reader, error) {
	opened, err := index.Open(j.fs, j.fs.PathJoin(j.cfg.Dir, indexDir), sealedTerms(persons))
	if err != nil {
		return nil, err
	}
	x := &indexer{
		index: opened, log: j.cfg.Log, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		reader: &Reader{
			fs: j.fs, dir: j.cfg.Dir, origin: j.origin, tag: Tag(j.origin), live: j, ids: j.ids, macs: j.macs, index: opened, persons: persons,
			arguments: j.arguments,
		},
	}
	if err := x.reader.survey(); err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	go x.run()
	j.indexer.Store(x)
	return x.reader, nil
}

// bundled is told of each bundle that was saved.
func (j *Journal) bundled(n uint64, records [][]byte) {
	if x := j.indexer.Load(); x != nil {
		x.bundle(n, records)
	}
}

// pruned is told that bundles were removed.
func (j *Journal) pruned() {
	if x := j.indexer.Load(); x != nil {
		x.pruned()
	}
}

// closeIndexer stops what keeps the index.
func (j *Journal) closeIndexer() error {
	if x := j.indexer.Swap(nil); x != nil {
		return x.close()
	}
	return nil
}

// sealedTerms is what the index asks for a record of which some is sealed.
func sealedTerms(persons Persons) index.Sealed {
	if persons == nil {
		return nil
	}
	return func(record []byte, terms []index.Term) []index.Term {
		r := &Record{}
		if proto.Unmarshal(record, r) != nil {
			return terms // it was seen to be a record
		}
		return persons.Terms(r, terms)
	}
}

// bundle adds a bundle that was just saved.
func (x *indexer) bundle(n uint64, records [][]byte) {
	if err := x.index.Add(n, records); err != nil {
		x.log.Warn("the journal's index cannot be written; queries read more meanwhile", zap.Error(err))
		return // run tries again
	}
	if _, behind := x.index.Missing(n + 1); behind {
		x.poke()
	}
}

// pruned forgets what was removed of the journal.
func (x *indexer) pruned() {
	if err := x.reader.survey(); err != nil {
		x.log.Warn("the journal's bundles cannot be listed", zap.Error(err))
	}
	x.poke()
}

func (x *indexer) poke() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// run adds what the index lacks whenever it is woken, and looks now and then by itself.
func (x *indexer) run() {
	defer close(x.done)
	look := time.NewTicker(indexRetry)
	defer look.Stop()
	for {
		if err := authz.Safely("journal.index", x.catchUp); err != nil {
			x.log.Warn("the journal's index cannot be built; queries read more meanwhile", zap.Error(err))
		}
		select {
		case <-x.stop:
			return
		case <-look.C:
		case <-x.wake:
		}
	}
}

// catchUp adds what the index lacks.
func (x *indexer) catchUp() error {
	w := x.reader.walk()
	for {
		first, bundles := x.reader.saved()
		if err := x.index.Prune(first); err != nil {
			return err
		}
		n, some := x.index.Missing(bundles)
		if !some {
			return nil
		}
		records, err := w.chunk(n, math.MaxUint64)
		if err == nil {
			err = x.index.Add(n, records)
		}
		if err != nil && !errors.Is(err, ErrNoRecord) {
			return err
		}
		select {
		case <-x.stop:
			return nil
		default:
		}
	}
}

// close stops it.
func (x *indexer) close() error {
	close(x.stop)
	<-x.done
	return x.index.Close()
}
