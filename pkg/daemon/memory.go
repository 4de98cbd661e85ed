package daemon

import (
	"math"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// The store's files are read in blocks. Of ten million relationships, 256 MiB hold fewer blocks than decisions read, so the cache of
// blocks has a share of the memory. It takes memory only as blocks are read: over a small graph a large cache costs nothing.

// minCache is the smallest cache that the server chooses by itself, in bytes. The store takes the room of its memtables out of
// the cache, 64 MiB each, so that a smaller one would have no room for blocks while there are writes.
const minCache = 128 << 20

// goLimit is the limit of Go's memory as the environment sets it (GOMEMLIMIT), before KeepHeadroom lowers it.
var goLimit = debug.SetMemoryLimit(-1)

// cacheFor returns the size of the cache, in bytes, for a process that may have so much memory; 0, which is the store's own
// default, if nothing is known of the memory.
func cacheFor(memory uint64) int64 {
	if memory == 0 {
		return 0
	}
	return int64(min(max(memory/cacheShare, minCache), math.MaxInt64))
}

// What the store keeps of objects has a share of the memory too. Both are in Go's heap, which may grow to twice what is in use before
// it is collected.
const (
	keptShare, packedShare = 8, 32
	maxKept, minPacked     = 192 << 20, 16 << 20
)

// keptFor returns how many bytes of objects the store keeps as they were read, in a process that may have so much memory, 0 being the
// store's default. There need not be more: what has no room is packed.
func keptFor(memory uint64) int64 { return int64(min(memory/keptShare, maxKept)) }

// packedFor returns how many bytes of packed objects the store keeps, as keptFor.
func packedFor(memory uint64) int64 {
	if memory == 0 {
		return 0
	}
	return int64(min(max(memory/packedShare, minPacked), math.MaxInt64))
}

// memory returns how much memory this process may have, in bytes: what the machine has, or the limit of its cgroup, or GOMEMLIMIT,
// whichever is the least. 0 if none of them is known.
//
// Cgroups and the machine are read by automemlimit, which SpiceDB uses for the same: it knows both versions of cgroups, limits
// that are set further up, and other systems than Linux.
func memory() uint64 {
	least := uint64(math.MaxUint64)
	for _, provider := range []memlimit.Provider{memlimit.FromCgroup, memlimit.FromSystem} {
		if bytes, err := provider(); err == nil && bytes > 0 { // an error: there is no such limit here, or it cannot be read
			least = min(least, bytes)
		}
	}
	if goLimit < math.MaxInt64 {
		least = min(least, uint64(max(goLimit, 0)))
	}
	if least == math.MaxUint64 {
		return 0
	}
	return least
}
