package dht

import (
	"encoding/binary"
	"net/netip"
)

const (
	addressSize = 18               // an address and a port: BEP 7, BEP 32
	nodeSize    = 20 + addressSize // with the node's id before it
)

// usable reports whether a host can be there to talk with. IPv4 in disguise, groups, and what is only good on one link are not.
func usable(a netip.AddrPort) bool {
	ip := a.Addr()
	return a.Port() != 0 && ip.Is6() && !ip.Is4In6() && !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLinkLocalUnicast()
}

// reach orders addresses by where they mean anything.
func reach(ip netip.Addr) int {
	switch {
	case ip.IsLoopback():
		return 0
	case ip.IsPrivate():
		return 1
	}
	return 2
}

// tellable reports whether one host may speak of the other. Who has a global address has no business with loopback or private ones:
// strangers are not to make a node send into its own network.
func tellable(from, of netip.AddrPort) bool {
	return usable(of) && reach(of.Addr()) >= reach(from.Addr())
}

// network is the /64 that an address is in, for limits: one host can have all of it.
func network(ip netip.Addr) uint64 {
	a := ip.As16()
	return binary.BigEndian.Uint64(a[:])
}

func appendAddress(dst []byte, a netip.AddrPort) []byte {
	ip := a.Addr().As16()
	return binary.BigEndian.AppendUint16(append(dst, ip[:]...), a.Port())
}

// parseAddress reads addressSize bytes.
func parseAddress(b []byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)), binary.BigEndian.Uint16(b[16:]))
}
