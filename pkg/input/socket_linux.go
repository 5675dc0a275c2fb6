package input

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// controlPlain keeps datagrams of groups that others on this host joined from an IPv4 socket.
func controlPlain(network, _ string, c syscall.RawConn) error {
	if network != "udp4" {
		return nil
	}
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0)
	})
}

// transient tells whether a receive may go on after err: an ICMP error that somebody sent us is none of a receiver's.
func transient(err error) bool {
	for _, e := range []error{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EINTR, unix.ENOBUFS, unix.ENETDOWN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
