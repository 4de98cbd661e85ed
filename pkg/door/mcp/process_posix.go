//go:build unix && !linux

package mcp

import "syscall"

// attributes make a child the first process of a group of its own, which is killed together.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
