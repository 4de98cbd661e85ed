//go:build unix

package daemon

import "syscall"

// maxDescriptors returns how many files this process may have open; 0 if that is not known. Go has raised what it
// may to what it could be raised to.
func maxDescriptors() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return uint64(limit.Cur) //nolint:unconvert // signed on some systems
}
