package lan

import (
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// shared lets every process of this host have the port, each of which gets what is sent to the groups.
func shared(_, _ string, c syscall.RawConn) (err error) {
	if e := c.Control(func(fd uintptr) {
		err = windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_REUSEADDR, 1)
	}); e != nil {
		return e
	}
	return os.NewSyscallError("setsockopt", err)
}
