// Package udp sends and receives datagrams over IPv6: the one package with sockets of the mesh.
//
// It is made for one buffer that goes to many receivers. A [SendQueue] gathers small heads (link tags) and shared bodies
// (shards) without copying a body; [Conn.Flush] hands the whole queue to the kernel in a few calls, in which consecutive
// datagrams to one address are one UDP_SEGMENT send (GSO). [Conn.ReadBatch] returns many datagrams a call and splits what the
// kernel coalesced (GRO), so that callers only ever see single datagrams. Neither allocates, locks or logs a datagram.
//
// Linux and Android take the fast path; elsewhere, and where the kernel refuses sendmmsg, datagrams go one by one.
//
// Nothing is ever fragmented: a datagram that does not fit the path is dropped and counted, here or by the kernel.
//
// The socket takes one reader goroutine for each [Batch] and one writer at a time; reading, writing, Stats and Close may
// happen at once.
package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv6"
)

const (
	// DefaultBuffer is what [Config] asks of the kernel for each direction, in bytes: a quarter of a second at 100 Mbit/s, with
	// room for what the kernel counts besides payload.
	DefaultBuffer = 4 << 20

	// DefaultMaxDatagram is the longest payload that ReadBatch passes on, in bytes. The protocol's longest is 1232
	// (docs/protocol.md); what is longer than this is noise.
	DefaultMaxDatagram = 2048

	// maxPayload is the longest UDP payload: 65535 less the UDP header (RFC 8200 section 3, no jumbograms).
	maxPayload = 65535 - 8

	// defaultSendWait bounds how long one Flush waits for room in the socket's send buffer. An engine that paces its sends never fills
	// 4 MiB; one that stalls longer than this is late for its timers.
	defaultSendWait = 5 * time.Millisecond
)

// Config says how to open a socket. The zero value listens on a free port of every address.
type Config struct {
	// Listen is the local address; an invalid one means [::] and a free port. Link-local addresses need their zone.
	Listen netip.AddrPort
	// ReceiveBuffer and SendBuffer are asked of the kernel, in bytes; 0 is DefaultBuffer. Info says what it gave.
	ReceiveBuffer, SendBuffer int
	// MaxDatagram is the longest payload that is received, in bytes; 0 is DefaultMaxDatagram.
	MaxDatagram int
	// NoOffload turns GSO and GRO off.
	NoOffload bool
	// Shared lets several sockets of one process, or of several, have the port (SO_REUSEPORT): the kernel gives each a share of the
	// senders, so that one a core can be read at once. Linux only; elsewhere Listen fails with ErrNotShared.
	Shared bool
	// MulticastInterface is where datagrams to multicast groups leave; "" leaves it to the routing table. They are looped back
	// to listeners on this host.
	MulticastInterface string
	// Hops is the hop limit of multicast datagrams; 0 leaves the system's default, which is 1: this link only (RFC 3493 section 5.2).
	Hops int
}

// Info tells what a socket really got.
type Info struct {
	Local netip.AddrPort // as [Conn.LocalAddr]
	// Group, Source and Interface are set on a group's listener; Source is invalid in an any-source group.
	Group  netip.Addr
	Source netip.Addr
	// Interface is the one a group was joined on, or the one multicast leaves by where Config names it.
	Interface string
	// ReceiveBuffer and SendBuffer are the actual sizes in bytes, in the terms of Config (Linux keeps twice as much).
	ReceiveBuffer, SendBuffer int
	GSO, GRO                  bool // whether the kernel takes and gives super-packets
}

// Conn is an IPv6 UDP socket.
type Conn struct {
	pc   *net.UDPConn
	raw  syscall.RawConn
	info Info

	maxDatagram int
	batched     bool // sendmmsg and recvmmsg work
	sendWait    time.Duration

	txMu sync.Mutex
	tx   sender // guarded by txMu

	sources  sources
	counters counters
}

// Listen opens a unicast socket, from which multicast groups can be sent to as well.
//
// A socket that listens on [::] answers a peer from the address of this host that the peer last wrote to, within 5 s of that (Linux).
//
// Errors match [ErrPortInUse], [ErrNoIPv6], [ErrAddressNotHere], [ErrPrivilegedPort] or [ErrInterface] where one of those is the
// reason, and say what to do next.
func Listen(cfg Config) (*Conn, error) {
	local := cfg.Listen
	if !local.Addr().IsValid() {
		local = netip.AddrPortFrom(netip.IPv6Unspecified(), local.Port())
	}
	if local.Addr().IsMulticast() {
		return nil, fmt.Errorf("listen on [%s]:%d: this is a multicast group: join it on an interface (ListenGroup)", local.Addr(), local.Port())
	}
	if err := onlyIPv6(local.Addr()); err != nil {
		return nil, err
	}
	var out *net.Interface
	if cfg.MulticastInterface != "" {
		var err error
		if out, err = Interface(cfg.MulticastInterface); err != nil {
			return nil, err
		}
	}
	// A zone that names no interface would fail as an address that is not here: say which interfaces there are instead.
	if zone := local.Addr().Zone(); zone != "" {
		if _, err := interfaceByZone(zone); err != nil {
			return nil, err
		}
	}
	var lc net.ListenConfig
	if cfg.Shared {
		lc.Control = setShared
	}
	p6, err := lc.ListenPacket(context.Background(), "udp6", local.String())
	if err != nil {
		return nil, explainListen(local, err)
	}
	pc := p6.(*net.UDPConn)
	c, err := newConn(pc, cfg)
	if err != nil {
		return nil, errors.Join(err, pc.Close())
	}
	p := ipv6.NewPacketConn(pc)
	if out != nil {
		if err := p.SetMulticastInterface(out); err != nil {
			return nil, errors.Join(fmt.Errorf("send multicast out of %s: %w", out.Name, err), pc.Close())
		}
		c.info.Interface = out.Name
	}
	if cfg.Hops != 0 {
		if err := p.SetMulticastHopLimit(cfg.Hops); err != nil {
			return nil, errors.Join(fmt.Errorf("multicast hop limit %d (0 to 255): %w", cfg.Hops, err), pc.Close())
		}
	}
	if err := p.SetMulticastLoopback(true); err != nil && out != nil {
		return nil, errors.Join(fmt.Errorf("loop multicast back to this host: %w", err), pc.Close())
	}
	return c, nil
}

// Adopt takes over a socket that somebody else has bound, as systemd does. Of cfg the sizes count. The socket is closed with the Conn, or
// here where that fails.
func Adopt(pc *net.UDPConn, cfg Config) (*Conn, error) {
	local := pc.LocalAddr().(*net.UDPAddr).AddrPort()
	err := onlyIPv6(local.Addr())
	if err == nil {
		var c *Conn
		if c, err = newConn(pc, cfg); err == nil {
			return c, nil
		}
	}
	return nil, errors.Join(err, pc.Close())
}

// ListenGroup joins a multicast group and listens to it. Several sockets and processes of one host may listen to one group.
//
// With a valid source the join is source-specific (RFC 4607): the kernel passes on what that address sends and nothing else, or
// ListenGroup fails. The interface is the one named by iface, else by the group's zone, else the one the routing table
// gives; Info tells which. cfg.Listen, MulticastInterface and Hops are not used.
//
// On Linux the socket is bound to the group and the interface, so that neither unicast to the port nor another group or
// interface gets through. Elsewhere it is bound to the port alone.
func ListenGroup(group netip.AddrPort, iface string, source netip.Addr, cfg Config) (*Conn, error) {
	addr := group.Addr()
	if err := onlyIPv6(addr); err != nil {
		return nil, err
	}
	switch {
	case !addr.IsMulticast():
		return nil, fmt.Errorf("join %s: not a multicast group: those begin with ff", addr)
	case source.IsValid() && (!source.Is6() || source.Is4In6() || source.IsMulticast() || source.IsUnspecified()):
		return nil, fmt.Errorf("join %s: source %s is not the IPv6 unicast address of a sender", addr, source)
	case iface == "":
		iface = addr.Zone()
	case addr.Zone() != "" && addr.Zone() != iface:
		return nil, fmt.Errorf("join %s: the zone and the interface %s disagree: name one", addr, iface)
	}
	addr = addr.WithZone("")
	var on *net.Interface
	var err error
	if iface == "" {
		on, err = RouteInterface(addr)
	} else {
		on, err = Interface(iface)
	}
	if err != nil {
		return nil, err
	}
	pc, err := listenGroup(netip.AddrPortFrom(addr, group.Port()), on)
	if err != nil {
		return nil, explainListen(netip.AddrPortFrom(addr.WithZone(on.Name), group.Port()), err)
	}
	if err := join(pc, addr, on, source); err != nil {
		return nil, errors.Join(err, pc.Close())
	}
	c, err := newConn(pc, cfg)
	if err != nil {
		return nil, errors.Join(err, pc.Close())
	}
	c.info.Group, c.info.Source, c.info.Interface = addr, source, on.Name
	return c, nil
}

func join(pc *net.UDPConn, group netip.Addr, on *net.Interface, source netip.Addr) error {
	p := ipv6.NewPacketConn(pc)
	g := &net.UDPAddr{IP: group.AsSlice()}
	if !source.IsValid() {
		if err := p.JoinGroup(on, g); err != nil {
			return fmt.Errorf("join %s on %s: %w", group, on.Name, err)
		}
		return nil
	}
	if err := p.JoinSourceSpecificGroup(on, g, &net.UDPAddr{IP: source.WithZone("").AsSlice()}); err != nil {
		return fmt.Errorf("join %s from source %s on %s: %w", group, source, on.Name, err)
	}
	return nil
}

// newConn sets the options that every socket has. It does not close pc on failure.
func newConn(pc *net.UDPConn, cfg Config) (*Conn, error) {
	raw, err := pc.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &Conn{pc: pc, raw: raw, maxDatagram: cfg.MaxDatagram, sendWait: defaultSendWait}
	c.info.Local = pc.LocalAddr().(*net.UDPAddr).AddrPort()
	if c.maxDatagram <= 0 {
		c.maxDatagram = DefaultMaxDatagram
	}
	c.maxDatagram = min(c.maxDatagram, maxPayload)
	if cfg.ReceiveBuffer <= 0 {
		cfg.ReceiveBuffer = DefaultBuffer
	}
	if cfg.SendBuffer <= 0 {
		cfg.SendBuffer = DefaultBuffer
	}
	askBuffer(pc.SetReadBuffer, cfg.ReceiveBuffer)
	askBuffer(pc.SetWriteBuffer, cfg.SendBuffer)
	err = raw.Control(func(fd uintptr) {
		c.info.ReceiveBuffer, c.info.SendBuffer = buffers(fd, cfg)
		setDontFragment(fd)
		c.batched = canBatch(fd)
		if c.batched && !cfg.NoOffload {
			c.info.GSO, c.info.GRO = setOffload(fd)
		}
		c.rememberSources(fd)
	})
	if err != nil {
		return nil, err
	}
	c.tx.init(c)
	return c, nil
}

// askBuffer asks for a buffer of n bytes, or what can be had: Linux gives the most it can, others refuse. To get less than was
// asked for is not an error: Info tells.
func askBuffer(set func(int) error, n int) {
	const least = 64 << 10
	for set(n) != nil && n/2 >= least {
		n /= 2
	}
}

func onlyIPv6(a netip.Addr) error {
	if !a.Is6() || a.Is4In6() {
		return fmt.Errorf("%s: not an IPv6 address: sixcast runs over IPv6 only", a)
	}
	return nil
}

// LocalAddr is the actual local address, with the port that was chosen where 0 was asked for.
func (c *Conn) LocalAddr() netip.AddrPort { return c.info.Local }

// Info tells what the socket really got.
func (c *Conn) Info() Info { return c.info }

// SetReadDeadline makes ReadBatch, also one that blocks now, fail with [os.ErrDeadlineExceeded] from t on. The zero time is never.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.pc.SetReadDeadline(t) }

// Close closes the socket, leaves its group and unblocks ReadBatch, which returns [net.ErrClosed].
func (c *Conn) Close() error { return c.pc.Close() }
