//go:build cgo

package daemon

// cacheShare is which part of the memory the cache of blocks may take: an eighth. Built with cgo, the blocks are outside of Go's
// heap, and take what they take.
const cacheShare = 8
