//go:build !unix

package mcp

import (
	"os"
	"syscall"
)

// attributes are none: systems other than Unix have no groups of processes.
func attributes() *syscall.SysProcAttr { return nil }

// interruptGroup asks a process to end.
func interruptGroup(p *os.Process) error { return p.Signal(os.Interrupt) }

// killGroup kills a process.
func killGroup(p *os.Process) {
	_ = p.Kill() // it may have ended
}
