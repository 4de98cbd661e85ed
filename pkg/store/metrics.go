package store

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
)

// metrics counts what the store does.
type metrics struct {
	commits, groups, conflicts, collected prometheus.Counter
}

const namespace = "deputy_store"

func newMetrics() metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	}
	return metrics{
		commits:   counter("commits_total", "Transactions that were committed."),
		groups:    counter("commit_groups_total", "Groups that they were synced in."),
		conflicts: counter("conflicts_total", "Times that a transaction was tried again because of another one."),
		collected: counter("collected_rows_total", "Versions of relationships that were collected."),
	}
}

// Pebble's own figures, read when they are asked for.
var (
	descRelationships = desc("relationships", "Relationships at the head, about.")
	descHead          = desc("head_revision_seconds", "When the head revision was made, in seconds since 1970.")
	descHorizon       = desc("horizon_revision_seconds", "The oldest revision that can be read, in seconds since 1970; 0 before the first collection.")
	descDisk          = desc("disk_bytes", "What the store's files take on the disk.")
	descWAL           = desc("wal_bytes", "What of that is the write-ahead log.")
	descMemTable      = desc("memtable_bytes", "What was written and is not sorted into files.")
	descCache         = desc("block_cache_bytes", "What the block cache holds.")
	descCacheLimit    = desc("block_cache_limit_bytes", "What the block cache may hold, together with the memtables.")
	descCacheHits     = desc("block_cache_hits_total", "Blocks that were found in the cache.")
	descCacheMisses   = desc("block_cache_misses_total", "Blocks that were read from files.")
	descKept          = desc("kept_bytes", "What objects that are read again and again take, about.")
	descPacked        = desc("packed_bytes", "What other objects take that were read, packed.")
	descReads         = desc("object_reads_total", "Times that an object was not found in memory, and was read from the database.")
	descAhead         = desc("read_ahead_over", "1 if the reading of the store after its start is over.")
	descCompactions   = desc("compactions_total", "Compactions.")
	descDebt          = desc("compaction_debt_bytes", "What is to be compacted, about.")
	descFlushes       = desc("flushes_total", "Memtables that were sorted into files.")
	descReadAmp       = desc("read_amplification", "Sorted runs that a read may have to look into.")
	descLevel         = prometheus.NewDesc(namespace+"_level_bytes", "Size of a level of the tree.", []string{"level"}, nil)
	descSync          = desc("wal_sync_seconds", "How long a sync of the write-ahead log takes.")
	descFailed        = desc("failed", "1 if the store takes no writes until it is opened again.")
)

func desc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, nil, nil)
}

// collectorOf is a prometheus.Collector of a store's figures.
type collectorOf struct{ s *Store }

// Collector returns what Prometheus reads the store's figures from: commits, collection, and Pebble's
// cache, compactions, levels and the latency of its log's syncs. It is not registered anywhere.
func (s *Store) Collector() prometheus.Collector { return collectorOf{s} }

// Describe is prometheus.Collector's: the figures are not described beforehand.
func (c collectorOf) Describe(chan<- *prometheus.Desc) {}

// Collect is prometheus.Collector's. A closed store has no figures.
func (c collectorOf) Collect(ch chan<- prometheus.Metric) {
	s := c.s
	if s.enter() != nil {
		return
	}
	defer s.leave()
	for _, m := range []prometheus.Metric{s.metrics.commits, s.metrics.groups, s.metrics.conflicts, s.metrics.collected} {
		ch <- m
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v)
	}
	m := s.db.Metrics()
	gauge(descRelationships, float64(s.rows.Load()))
	gauge(descHead, float64(s.head.Load().at)/1e9)
	gauge(descHorizon, float64(s.leases.lowest())/1e9)
	gauge(descDisk, float64(m.DiskSpaceUsage()))
	gauge(descWAL, float64(m.WAL.PhysicalSize))
	gauge(descMemTable, float64(m.MemTable.Size))
	gauge(descCache, float64(m.BlockCache.Size))
	gauge(descCacheLimit, float64(s.config.CacheBytes))
	counter(descCacheHits, float64(m.BlockCache.Hits))
	counter(descCacheMisses, float64(m.BlockCache.Misses))
	keptBytes, packedBytes, reads := s.objects.figures()
	gauge(descKept, float64(keptBytes))
	gauge(descPacked, float64(packedBytes))
	counter(descReads, float64(reads))
	if s.config.ReadAhead {
		over := 0.0
		if s.aheadOver.Load() {
			over = 1
		}
		gauge(descAhead, over)
	}
	counter(descCompactions, float64(m.Compact.Count))
	gauge(descDebt, float64(m.Compact.EstimatedDebt))
	counter(descFlushes, float64(m.Flush.Count))
	gauge(descReadAmp, float64(m.ReadAmp()))
	for i := range m.Levels {
		gauge(descLevel, float64(m.Levels[i].TablesSize), string(rune('0'+i)))
	}
	failed := 0.0
	select {
	case <-s.failure.happened:
		failed = 1
	default:
	}
	gauge(descFailed, failed)
	if sync, ok := syncLatency(m.LogWriter.FsyncLatency); ok {
		ch <- sync
	}
}

// syncLatency makes of Pebble's histogram, which has no name and counts nanoseconds, one in seconds.
func syncLatency(h prometheus.Histogram) (prometheus.Metric, bool) {
	var read dto.Metric
	if h == nil || h.Write(&read) != nil {
		return nil, false
	}
	buckets := map[float64]uint64{}
	for _, b := range read.GetHistogram().GetBucket() {
		buckets[b.GetUpperBound()/1e9] = b.GetCumulativeCount()
	}
	m, err := prometheus.NewConstHistogram(descSync, read.GetHistogram().GetSampleCount(), read.GetHistogram().GetSampleSum()/1e9, buckets)
	return m, err == nil
}

// listener tells the log what an operator has to know of Pebble's work.
func (s *Store) listener() *pebble.EventListener {
	return &pebble.EventListener{
		// The caller that reads it is told, with ErrDamaged. Without a listener Pebble takes it for fatal.
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			s.config.Log.Error("the store is damaged", zap.String("directory", s.dir), zap.String("file", info.Path), zap.Error(info.Details))
		},
		BackgroundError: func(err error) {
			if errors.Is(err, errEnding) {
				return
			}
			if kept, ok := s.files.repeated.Next(); ok {
				s.config.Log.Warn("work in the background failed; it is tried again", zap.String("directory", s.dir),
					zap.Int("messages left out before", kept), zap.Error(err))
			}
		},
		FlushEnd: s.noteFlush,
		CompactionEnd: func(info pebble.CompactionInfo) {
			if info.Err == nil {
				s.files.tables.over()
			}
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			s.config.Log.Warn("writes wait for the disk", zap.String("because", info.Reason))
		},
	}
}

// isDiskFull reports whether an error says that there is no room.
func isDiskFull(err error) bool { return vfs.IsNoSpaceError(err) }
