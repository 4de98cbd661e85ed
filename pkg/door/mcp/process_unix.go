//go:build unix

package mcp

import (
	"os"
	"syscall"
)

// interruptGroup asks a process that Start started, and those that it started itself, to end.
func interruptGroup(p *os.Process) error { return syscall.Kill(-p.Pid, syscall.SIGINT) }

// killGroup kills them. It may be called when the process has ended: Linux and others give a number again only after all others.
func killGroup(p *os.Process) {
	_ = syscall.Kill(-p.Pid, syscall.SIGKILL) // there may be none left
}
