package netem

import "encoding/binary"

// Count is packets and their bytes at the IP layer: IPv6 header included, Ethernet's left out.
type Count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

func (c *Count) add(size int) {
	c.Packets++
	c.Bytes += uint64(size)
}

// Minus is what was counted since an earlier look.
func (c Count) Minus(earlier Count) Count {
	return Count{c.Packets - earlier.Packets, c.Bytes - earlier.Bytes}
}

// Classes are the packets of one direction, each in one class.
type Classes struct {
	Unicast   Count `json:"unicast"`   // IPv6 to one host
	Multicast Count `json:"multicast"` // IPv6 to a group
	Control   Count `json:"control"`   // ICMPv6 to whomever: neighbour discovery, multicast listener reports, errors, echoes
	Other     Count `json:"other"`     // not IPv6
}

// Minus is what was counted since an earlier look.
func (c Classes) Minus(earlier Classes) Classes {
	return Classes{c.Unicast.Minus(earlier.Unicast), c.Multicast.Minus(earlier.Multicast), c.Control.Minus(earlier.Control), c.Other.Minus(earlier.Other)}
}

// Traffic is what passed between a host and its link, as the host's own interface would count it: Sent before its
// uplink lost anything, Received after its downlink did.
type Traffic struct {
	Sent     Classes `json:"sent"`
	Received Classes `json:"received"`
	// Overruns are frames that the emulator itself lost, since it could not keep up: a measurement with many is void.
	Overruns uint64 `json:"overruns"`
	// Supers are GSO super-packets, which would have been lost or delayed as one. They are dropped; with an interface
	// whose gso_max_segs is 1 there are none.
	Supers uint64 `json:"supers"`
}

// Minus is what was counted since an earlier look.
func (t Traffic) Minus(earlier Traffic) Traffic {
	return Traffic{t.Sent.Minus(earlier.Sent), t.Received.Minus(earlier.Received), t.Overruns - earlier.Overruns, t.Supers - earlier.Supers}
}

const (
	etherHeader   = 14
	etherTypeIPv6 = 0x86dd
	ipv6Header    = 40
	hopByHop      = 0 // in practice: a multicast listener report
	icmpv6        = 58
)

// add counts an Ethernet frame and returns its size at the IP layer.
func (c *Classes) add(ether []byte) int {
	size := max(len(ether)-etherHeader, 0)
	if size < ipv6Header || binary.BigEndian.Uint16(ether[12:]) != etherTypeIPv6 {
		c.Other.add(size)
		return size
	}
	ip := ether[etherHeader:]
	switch next, to := ip[6], ip[24]; {
	case next == icmpv6 || next == hopByHop:
		c.Control.add(size)
	case to == 0xff:
		c.Multicast.add(size)
	default:
		c.Unicast.add(size)
	}
	return size
}
