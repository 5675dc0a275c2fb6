package lan

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// shared lets every process of this host have the port, each of which gets what is sent to the groups: SO_REUSEPORT would want all of
// them to be one user's.
func shared(_, _ string, c syscall.RawConn) (err error) {
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		// Only what this socket joined, not what others on this host did: Linux 4.20; arrival looks at it anyway.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0)
	}); e != nil {
		return e
	}
	return os.NewSyscallError("setsockopt", err)
}
