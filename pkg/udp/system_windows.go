package udp

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// The errors of Winsock have numbers of their own.
const (
	errnoInUse    = windows.WSAEADDRINUSE
	errnoNotAvail = windows.WSAEADDRNOTAVAIL
	errnoNoFamily = windows.WSAEAFNOSUPPORT
	errnoInvalid  = windows.WSAEINVAL
	errnoAccess   = windows.WSAEACCES
)

func errnoReason(errno syscall.Errno) reason {
	switch errno {
	case windows.WSAENETUNREACH, windows.WSAEHOSTUNREACH, windows.WSAENETDOWN, windows.WSAEADDRNOTAVAIL, windows.WSAEHOSTDOWN:
		return unreachable
	case windows.WSAECONNREFUSED, windows.WSAECONNRESET:
		return refused
	case windows.WSAEACCES:
		return forbidden
	case windows.WSAEMSGSIZE:
		return tooBig
	case windows.WSAEWOULDBLOCK, windows.WSAENOBUFS:
		return busy
	}
	return failed
}

// truncated reports whether a read failed because the datagram is longer than the buffer.
func truncated(err error) bool { return errors.Is(err, windows.WSAEMSGSIZE) }

func setReuse(fd uintptr) error {
	err := windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_REUSEADDR, 1)
	return os.NewSyscallError("setsockopt", err)
}

// buffers returns the actual sizes, in bytes.
func buffers(fd uintptr, _ Config) (receive, send int) {
	receive, _ = windows.GetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_RCVBUF)
	send, _ = windows.GetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_SNDBUF)
	return receive, send
}

func setDontFragment(fd uintptr) {
	const dontFragment = 14 // IPV6_DONTFRAG of ws2ipdef.h
	_ = windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IPV6, dontFragment, 1)
}
