//go:build !unix

package daemon

// maxDescriptors returns 0: systems other than Unix have no such limit.
func maxDescriptors() uint64 { return 0 }
