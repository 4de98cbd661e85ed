package pgtest

import "syscall"

// attributes runs a child as the given user (nil: as ours), and has the kernel kill it when the thread
// that started it ends: a test binary that is killed, by a timeout for example, leaves no server.
func attributes(as *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGQUIT}
}
