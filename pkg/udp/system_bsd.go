//go:build unix && !linux

package udp

import (
	"os"

	"golang.org/x/sys/unix"
)

// setReuse lets several listeners share a port: BSD wants SO_REUSEPORT for that.
func setReuse(fd uintptr) error {
	for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}

// buffers returns the actual sizes, in bytes.
func buffers(fd uintptr, _ Config) (receive, send int) {
	receive, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
	send, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
	return receive, send
}

func setDontFragment(fd uintptr) {
	const dontFragment = 62 // IPV6_DONTFRAG of netinet6/in6.h (RFC 3542 section 11.2), the same on all of them
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, dontFragment, 1)
}
