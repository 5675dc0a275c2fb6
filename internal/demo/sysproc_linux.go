package main

import "syscall"

// children are in groups of their own, so that Ctrl-C is ours to pass on, and end with us however we end.
func children() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
