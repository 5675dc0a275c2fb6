//go:build unix

package udp

import "syscall"

const (
	errnoInUse    = syscall.EADDRINUSE
	errnoNotAvail = syscall.EADDRNOTAVAIL
	errnoNoFamily = syscall.EAFNOSUPPORT
	errnoInvalid  = syscall.EINVAL
	errnoAccess   = syscall.EACCES
)

func errnoReason(errno syscall.Errno) reason {
	switch errno {
	case syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.ENODEV, syscall.ENXIO, syscall.EADDRNOTAVAIL:
		return unreachable
	case syscall.ECONNREFUSED:
		return refused
	case syscall.EPERM, syscall.EACCES:
		return forbidden
	case syscall.EMSGSIZE:
		return tooBig
	case syscall.EAGAIN, syscall.ENOBUFS:
		return busy
	}
	return failed
}

// truncated is for systems where reading a datagram longer than the buffer is an error.
func truncated(error) bool { return false }
