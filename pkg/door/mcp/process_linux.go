package mcp

import "syscall"

// attributes make a child the first process of a group of its own, which is killed together, and have the kernel kill the child when the thread ends that
// started it: a guard that is killed leaves no server.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
