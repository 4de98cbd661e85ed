//go:build unix

package mcp

import (
	"context"
	"os"
	"os/exec"
	"syscall"
)

// interruptGroup asks a process that Start started, and those that it started itself, to end.
func interruptGroup(p *os.Process) error { return syscall.Kill(-p.Pid, syscall.SIGINT) }

// killGroup kills them. It may be called when the process has ended: Linux and others give a number again only after all others.
func killGroup(p *os.Process) {
	_ = syscall.Kill(-p.Pid, syscall.SIGKILL) // there may be none left
}

// watchGroup has a shell in the group of a process kill the group when this process ends, however that is: the shell reads from a pipe whose other end
// nobody else has. A server that was started by a launcher, such as npx, would outlive this process else. The watch is over once the group is killed, and
// release is called then. Where there is no shell, nobody watches.
func watchGroup(p *os.Process) (release func()) {
	nobody := func() {}
	read, write, err := os.Pipe()
	if err != nil {
		return nobody
	}
	watch := exec.CommandContext(context.Background(), "/bin/sh", "-c", "trap '' HUP INT QUIT TERM USR1 USR2 PIPE ALRM; read line <&3; kill -9 0")
	watch.Env = []string{} // none of Deputy's variables, among which are keys
	watch.ExtraFiles = []*os.File{read}
	watch.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: p.Pid}
	err = watch.Start()
	_ = read.Close()
	if err != nil {
		_ = write.Close()
		return nobody
	}
	return func() {
		_ = write.Close()
		_ = watch.Wait() // it was killed
	}
}
