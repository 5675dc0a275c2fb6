//go:build !linux

package input

import "syscall"

func controlPlain(string, string, syscall.RawConn) error { return nil }

func transient(error) bool { return false }
