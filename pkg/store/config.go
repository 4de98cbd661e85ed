package store

import (
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

// Config is how a store is opened. The zero value, with defaults for everything, is what a server wants.
type Config struct {
	// Retention is how long a revision can be read after it was made; 0 means 24 h.
	Retention time.Duration
	// CollectEvery is how often what cannot be read any more is deleted; 0 means a tenth of Retention, at
	// most 10 min.
	CollectEvery time.Duration
	// Quantization is how long OptimizedRevision gives out the same revision; 0 means that it gives out
	// the head.
	Quantization time.Duration
	// CacheBytes is the size of the cache for blocks of the database; 0 means 256 MiB.
	CacheBytes int64
	// KeptBytes is about how much memory what is read again and again may take, as it was read; 0 means 192 MiB.
	KeptBytes int64
	// PackedBytes is about how much memory what was read may take, packed, beside what is kept as it was read; 0 means 64 MiB.
	PackedBytes int64
	// ReadAhead has the store's relationships read once after it was opened, in the background, as far as there is room for them in
	// memory.
	ReadAhead bool
	// OpenFiles is how many of the database's files are kept open; 0 means 4096.
	OpenFiles int
	// MemTableBytes is how much is written before it is sorted into files; 0 means 64 MiB.
	MemTableBytes uint64
	// TransactionBytes is about how much memory a transaction that writes may take, and a quarter of what all of them
	// may take at once; 0 means 256 MiB, some 300,000 relationships.
	TransactionBytes uint64
	// DiskReserve is how many bytes of the disk are left free: while there are fewer, writes are refused that do more
	// than take access away, and below a quarter of it all are. 0 means 256 MiB.
	DiskReserve uint64
	// Unsynced has a commit not wait until it is on the disk. A process or a machine that dies loses the newest commits by it, each of them whole, and none
	// that is older than one that it kept. It is for what can be had anew from elsewhere. Sync waits.
	Unsynced bool
	// Narrows reports whether writing a relationship can only take access away, as a tombstone does; nil means that none
	// can. It is called by many goroutines at once.
	Narrows func(resourceType, relation string) bool
	// WatchBuffer is how many changes wait for a slow watcher; 0 means 1,024.
	WatchBuffer uint16
	// WatchPatience is how long a change waits for room in a watcher's buffer before the watcher is
	// disconnected; 0 means 1 s.
	WatchPatience time.Duration
	// Log is told what an operator has to know; nil means nobody.
	Log *zap.Logger
	// FS is where the files are; nil means the operating system's, where others than their owner cannot read them.
	FS vfs.FS
	// Now is the clock; nil means the system's.
	Now func() time.Time

	// patience and firstPause are trouble.go's; 0 means 30 s and 5 ms. Tests have less.
	patience, firstPause time.Duration
	// longVoid is how many rows a void takes; 0 means longVoid.
	longVoid int
}

// complete fills in the defaults.
func (c Config) complete() Config {
	set(&c.Retention, 24*time.Hour)
	set(&c.CollectEvery, min(c.Retention/10, 10*time.Minute))
	set(&c.CacheBytes, 256<<20)
	set(&c.PackedBytes, 64<<20)
	set(&c.OpenFiles, 4096)
	set(&c.MemTableBytes, 64<<20)
	set(&c.TransactionBytes, 256<<20)
	set(&c.DiskReserve, 256<<20)
	set(&c.WatchBuffer, 1024)
	set(&c.WatchPatience, time.Second)
	set(&c.KeptBytes, keptBytes)
	set(&c.longVoid, longVoid)
	set(&c.patience, defaultPatience)
	set(&c.firstPause, defaultFirstPause)
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.FS == nil {
		c.FS = private{vfs.Default}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func set[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}
