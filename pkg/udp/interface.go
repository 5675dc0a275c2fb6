package udp

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// MulticastInterfaces lists the interfaces that are up, can do multicast and have an IPv6 address. The loopback interface is
// among them only where its multicast flag is set.
func MulticastInterfaces() ([]net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var out []net.Interface
	for _, ifi := range all {
		if multicastProblem(&ifi) == "" {
			out = append(out, ifi)
		}
	}
	return out, nil
}

// Interface finds a multicast-capable interface by its name. The error matches [ErrInterface] and lists the names that would do.
func Interface(name string) (*net.Interface, error) {
	ifi, err := interfaceByZone(name)
	if err != nil {
		return nil, err
	}
	if problem := multicastProblem(ifi); problem != "" {
		return nil, fmt.Errorf("%w: %s %s: %s", ErrInterface, ifi.Name, problem, candidates())
	}
	return ifi, nil
}

// RouteInterface finds the interface by which datagrams to addr, unicast or multicast, leave this host.
func RouteInterface(addr netip.Addr) (*net.Interface, error) {
	if addr.Zone() != "" {
		return interfaceByZone(addr.Zone())
	}
	// Connecting a UDP socket sends nothing; it has the kernel choose a source address, which tells the interface.
	c, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 9)))
	if err != nil {
		return nil, fmt.Errorf("%w: no route says where %s is: %s", ErrInterface, addr, candidates())
	}
	defer c.Close()
	local := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	if local.Zone() != "" {
		return interfaceByZone(local.Zone())
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	for i := range all {
		for _, a := range addresses(&all[i]) {
			if a == local {
				return &all[i], nil
			}
		}
	}
	return nil, fmt.Errorf("%w: no interface has %s, from which %s is reached: %s", ErrInterface, local, addr, candidates())
}

// interfaceByZone finds an interface by its name or index (RFC 4007 section 11.2).
func interfaceByZone(zone string) (*net.Interface, error) {
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return ifi, nil
	}
	if index, err := strconv.Atoi(zone); err == nil && index > 0 {
		if ifi, err := net.InterfaceByIndex(index); err == nil {
			return ifi, nil
		}
	}
	return nil, fmt.Errorf("%w: there is none called %q: %s", ErrInterface, zone, candidates())
}

// multicastProblem says why ifi cannot do IPv6 multicast, "" if it can.
func multicastProblem(ifi *net.Interface) string {
	switch {
	case ifi.Flags&net.FlagUp == 0:
		return "is down"
	case ifi.Flags&net.FlagMulticast == 0:
		return "cannot do multicast"
	case len(addresses(ifi)) == 0:
		return "has no IPv6 address"
	}
	return ""
}

// addresses lists the IPv6 addresses of ifi, without zones.
func addresses(ifi *net.Interface) []netip.Addr {
	list, err := ifi.Addrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range list {
		if p, ok := a.(*net.IPNet); ok && p.IP.To4() == nil {
			if addr, ok := netip.AddrFromSlice(p.IP); ok {
				out = append(out, addr)
			}
		}
	}
	return out
}

// candidates ends an error message about an interface.
func candidates() string {
	list, err := MulticastInterfaces()
	if err != nil || len(list) == 0 {
		return "no interface of this host can do IPv6 multicast now"
	}
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].Name
	}
	return "these can do multicast: " + strings.Join(names, ", ")
}
