//go:build linux

package testnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// netlink is a route netlink socket of the namespace of the thread that opened it: just enough to make veth pairs,
// addresses and routes without iproute2.
type netlink struct {
	fd  int
	seq uint32
}

func openNetlink() (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	return &netlink{fd: fd}, nil
}

func (n *netlink) close() { unix.Close(n.fd) }

// request sends one message and waits for its acknowledgement.
func (n *netlink) request(kind, flags uint16, body []byte) error {
	n.seq++
	m := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	e := binary.NativeEndian
	e.PutUint32(m[0:], uint32(unix.SizeofNlMsghdr+len(body)))
	e.PutUint16(m[4:], kind)
	e.PutUint16(m[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	e.PutUint32(m[8:], n.seq)
	m = append(m, body...)
	if err := unix.Sendto(n.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 1<<14)
	for {
		size, _, err := unix.Recvfrom(n.fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if size < unix.SizeofNlMsghdr+4 || e.Uint32(buf[8:]) != n.seq {
			continue
		}
		if e.Uint16(buf[4:]) != unix.NLMSG_ERROR {
			return errors.New("netlink answered with something else than an acknowledgement")
		}
		if code := int32(e.Uint32(buf[unix.SizeofNlMsghdr:])); code != 0 {
			return unix.Errno(-code)
		}
		return nil
	}
}

// attr appends a netlink attribute whose value is appended by the functions.
func attr(b []byte, kind uint16, value ...func([]byte) []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	for _, f := range value {
		b = f(b)
	}
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	binary.NativeEndian.PutUint16(b[start+2:], kind)
	for len(b)%unix.NLA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func raw(v []byte) func([]byte) []byte { return func(b []byte) []byte { return append(b, v...) } }
func text(v string) func([]byte) []byte {
	return func(b []byte) []byte { return append(append(b, v...), 0) }
}
func u32(v uint32) func([]byte) []byte {
	return func(b []byte) []byte { return binary.NativeEndian.AppendUint32(b, v) }
}

// link is struct ifinfomsg.
func link(index int, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// addVeth makes a pair: name with an index here, peer in the namespace of a file descriptor. Neither end takes GSO
// super-packets, so that the emulator sees single datagrams: the kernel splits what a program sends in one call.
// The index must differ from the peer's: the kernel takes up to a second to notice the carrier of a veth whose ends
// are numbered alike.
func (n *netlink) addVeth(name string, index int, peer string, namespace int, mac [6]byte, mtu int) error {
	single := func(b []byte) []byte { return attr(b, unix.IFLA_GSO_MAX_SEGS, u32(1)) }
	size := func(b []byte) []byte { return attr(b, unix.IFLA_MTU, u32(uint32(mtu))) }
	b := link(index, 0, 0)
	b = attr(b, unix.IFLA_IFNAME, text(name))
	b = size(single(b))
	const vethInfoPeer = 1
	b = attr(b, unix.IFLA_LINKINFO|unix.NLA_F_NESTED, func(b []byte) []byte {
		b = attr(b, unix.IFLA_INFO_KIND, text("veth"))
		return attr(b, unix.IFLA_INFO_DATA|unix.NLA_F_NESTED, func(b []byte) []byte {
			return attr(b, vethInfoPeer|unix.NLA_F_NESTED, raw(link(0, 0, 0)), func(b []byte) []byte {
				b = attr(b, unix.IFLA_IFNAME, text(peer))
				b = attr(b, unix.IFLA_ADDRESS, raw(mac[:]))
				b = attr(b, unix.IFLA_NET_NS_FD, u32(uint32(namespace)))
				return size(single(b))
			})
		})
	})
	if err := n.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, b); err != nil {
		return fmt.Errorf("making the veth pair %s: %w", name, err)
	}
	return nil
}

// up brings an interface up. It gets no address of the kernel's own making: those would come with duplicate address
// detection, a second late.
func (n *netlink) up(index int) error {
	const addrGenMode, addrGenModeNone = 8, 1 // IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE
	b := attr(link(index, 0, 0), unix.IFLA_AF_SPEC|unix.NLA_F_NESTED, func(b []byte) []byte {
		return attr(b, unix.AF_INET6|unix.NLA_F_NESTED, func(b []byte) []byte {
			return attr(b, addrGenMode, raw([]byte{addrGenModeNone}))
		})
	})
	if err := n.request(unix.RTM_NEWLINK, 0, b); err != nil {
		return fmt.Errorf("is IPv6 switched off in this kernel? address generation: %w", err)
	}
	if err := n.request(unix.RTM_NEWLINK, 0, link(index, unix.IFF_UP, unix.IFF_UP)); err != nil {
		return fmt.Errorf("bringing an interface up: %w", err)
	}
	return nil
}

// addAddress adds an address that is usable at once (no duplicate address detection).
func (n *netlink) addAddress(index int, p netip.Prefix) error {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1], b[2] = unix.AF_INET6, byte(p.Bits()), unix.IFA_F_NODAD
	if p.Addr().IsLinkLocalUnicast() {
		b[3] = unix.RT_SCOPE_LINK
	}
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	b = attr(b, unix.IFA_ADDRESS, raw(p.Addr().AsSlice()))
	b = attr(b, unix.IFA_LOCAL, raw(p.Addr().AsSlice()))
	if err := n.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, b); err != nil {
		return fmt.Errorf("adding the address %v: %w", p, err)
	}
	return nil
}

// addNeighbour says once and for all where a host of the link is.
func (n *netlink) addNeighbour(index int, a netip.Addr, mac [6]byte) error {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = unix.AF_INET6
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint16(b[8:], unix.NUD_PERMANENT)
	b = attr(b, unix.NDA_DST, raw(a.AsSlice()))
	b = attr(b, unix.NDA_LLADDR, raw(mac[:]))
	if err := n.request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b); err != nil {
		return fmt.Errorf("adding the neighbour %v: %w", a, err)
	}
	return nil
}

// addDefaultRoute says that every address is to be found on the interface's own link: all hosts share one switch,
// whatever their prefixes.
func (n *netlink) addDefaultRoute(index int) error {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[4], b[5], b[6], b[7] = unix.AF_INET6, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	b = attr(b, unix.RTA_OIF, u32(uint32(index)))
	if err := n.request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, b); err != nil {
		return fmt.Errorf("adding the default route: %w", err)
	}
	return nil
}
