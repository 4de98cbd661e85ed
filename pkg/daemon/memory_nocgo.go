//go:build !cgo

package daemon

// cacheShare is which part of the memory the cache of blocks may take: a sixteenth. Built without cgo, the blocks are in Go's
// heap, which may grow to twice what is in use before it is collected; see heap.go.
const cacheShare = 16
