//go:build unix && !linux

package pgtest

import "syscall"

// attributes runs a child as the given user (nil: as ours). Only Linux can also tie its life to ours.
func attributes(as *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: as}
}
