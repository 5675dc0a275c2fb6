//go:build !linux

package main

import "syscall"

func children() *syscall.SysProcAttr { return nil }
