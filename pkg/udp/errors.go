package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Why a socket could not be opened.
var (
	// ErrPortInUse: another program has the port.
	ErrPortInUse = errors.New("port in use")
	// ErrNoIPv6: this host has no IPv6.
	ErrNoIPv6 = errors.New("this host has no IPv6")
	// ErrAddressNotHere: no interface of this host has the address.
	ErrAddressNotHere = errors.New("not an address of this host")
	// ErrPrivilegedPort: the port is reserved for the superuser.
	ErrPrivilegedPort = errors.New("privileged port")
	// ErrInterface: the network interface does not exist or cannot do what is asked of it.
	ErrInterface = errors.New("network interface")
	// ErrNotShared: this system does not spread senders among the sockets of a port.
	ErrNotShared = errors.New("sockets cannot share a port here")
)

// explained is an error that a person can act on; it matches its kind and its cause.
type explained struct {
	text        string
	kind, cause error
}

func (e *explained) Error() string   { return e.text }
func (e *explained) Unwrap() []error { return []error{e.kind, e.cause} }

// explainListen says what to do about err, which kept a socket from listening on addr.
func explainListen(addr netip.AddrPort, err error) error {
	explain := func(kind error, format string, args ...any) error {
		return &explained{fmt.Sprintf("listen on udp %s: %v: ", addr, kind) + fmt.Sprintf(format, args...), kind, err}
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return fmt.Errorf("listen on udp %s: %w", addr, err)
	}
	switch {
	case errno == errnoInUse:
		return explain(ErrPortInUse, "choose another port, or port 0 for a free one%s", whoHasPort(addr.Port()))
	case errno == errnoNoFamily, errno == errnoNotAvail && !hasIPv6():
		return explain(ErrNoIPv6, "ask your network for it, or on Linux see `sysctl net.ipv6.conf.all.disable_ipv6` and the kernel option ipv6.disable")
	case errno == errnoNotAvail:
		if addr.Addr().IsLinkLocalUnicast() && addr.Addr().Zone() == "" {
			return explain(ErrAddressNotHere, "a link-local address needs its interface: [%s%%eth0]:%d", addr.Addr(), addr.Port())
		}
		return explain(ErrAddressNotHere, "listen on one that is (`ip -6 address` lists them), or on [::] for all")
	case errno == errnoInvalid && addr.Addr().IsLinkLocalUnicast() && addr.Addr().Zone() == "":
		return explain(ErrAddressNotHere, "a link-local address needs its interface: [%s%%eth0]:%d", addr.Addr(), addr.Port())
	case errno == errnoAccess && addr.Port() < 1024:
		return explain(ErrPrivilegedPort, "choose one from 1024 up, or port 0 for a free one")
	}
	return fmt.Errorf("listen on udp %s: %w", addr, err)
}

// hasIPv6 reports whether any interface has an IPv6 address.
func hasIPv6() bool {
	all, err := net.Interfaces()
	if err != nil {
		return true // cannot tell
	}
	for i := range all {
		if len(addresses(&all[i])) > 0 {
			return true
		}
	}
	return false
}
