//go:build unix && !linux

package lan

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// shared lets every process of this host have the port, each of which gets what is sent to the groups.
func shared(_, _ string, c syscall.RawConn) (err error) {
	if e := c.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	}); e != nil {
		return e
	}
	return os.NewSyscallError("setsockopt", err)
}
