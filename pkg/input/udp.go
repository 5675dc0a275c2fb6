package input

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/sixcast/sixcast/pkg/udp"
)

const (
	maxDatagram   = 9216    // bytes: jumbo frames; transport stream datagrams have 1316
	receiveBuffer = 4 << 20 // bytes, asked of the kernel
	udpBatch      = 32      // datagrams read at once
)

// udpSource is a socket that receives a transport stream.
type udpSource struct {
	name   string
	conn   receiver
	source netip.Addr // the only sender taken; invalid for any
	dep    depacketizer
	buf    []byte

	datagrams, foreign uint64
}

// receiver is a socket that is read in batches.
type receiver interface {
	// receive waits until deadline and calls f with what came.
	receive(deadline time.Time, f func(from netip.Addr, b []byte)) error
	dropped() uint64
	Close() error
}

func openUDP(ctx context.Context, spec Spec, log *slog.Logger) (*udpSource, error) {
	if spec.Buffer == 0 {
		spec.Buffer = receiveBuffer
	}
	iface, err := interfaceName(spec.Interface)
	if err != nil {
		return nil, err
	}
	s := &udpSource{name: spec.String(), source: spec.Source}
	cfg := udp.Config{ReceiveBuffer: spec.Buffer, MaxDatagram: maxDatagram}
	at := netip.AddrPortFrom(spec.Host, spec.Port)
	switch {
	case spec.Host.Is6() && spec.Host.IsMulticast():
		c, err := udp.ListenGroup(at, iface, spec.Source, cfg)
		if err != nil {
			return nil, err
		}
		s.conn = &groupReceiver{Conn: c}
		s.name += " on " + c.Info().Interface
		warnBuffer(log, spec.Buffer, c.Info().ReceiveBuffer)
	case spec.Host.Is6() && !spec.Host.IsUnspecified():
		cfg.Listen = at
		c, err := udp.Listen(cfg)
		if err != nil {
			return nil, err
		}
		s.conn = &groupReceiver{Conn: c}
		warnBuffer(log, spec.Buffer, c.Info().ReceiveBuffer)
	default:
		c, on, err := listenPlain(ctx, spec, iface)
		if err != nil {
			return nil, err
		}
		s.conn = c
		if on != "" {
			s.name += " on " + on
		}
	}
	return s, nil
}

func warnBuffer(log *slog.Logger, asked, got int) {
	if got < asked/2 {
		log.Warn("the kernel gives a small receive buffer: bursts may be lost", "asked", asked, "got", got, "remedy", "sysctl -w net.core.rmem_max="+strconv.Itoa(asked))
	}
}

// interfaceName is s, or the name of the interface that has the address s.
func interfaceName(s string) (string, error) {
	a, err := netip.ParseAddr(s)
	if s == "" || err != nil {
		return s, nil
	}
	all, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	for _, ifi := range all {
		addrs, err := ifi.Addrs()
		if err != nil {
			continue
		}
		for _, p := range addrs {
			if n, ok := p.(*net.IPNet); ok {
				if b, ok := netip.AddrFromSlice(n.IP); ok && b.Unmap() == a.WithZone("").Unmap() {
					return ifi.Name, nil
				}
			}
		}
	}
	return "", fmt.Errorf("%w: no interface has %s", udp.ErrInterface, s)
}

func (s *udpSource) read(ctx context.Context, deadline time.Time) (chunk, error) {
	s.buf = s.buf[:0]
	jump := false
	for {
		if err := ctx.Err(); err != nil {
			return chunk{}, err
		}
		wait := time.Now().Add(poll)
		if !deadline.IsZero() && deadline.Before(wait) {
			wait = deadline
		}
		if w := s.dep.wake(); !w.IsZero() && w.Before(wait) {
			wait = w
		}
		err := s.conn.receive(wait, func(from netip.Addr, b []byte) {
			if s.source.IsValid() && from.WithZone("") != s.source.WithZone("") {
				s.foreign++
				return
			}
			s.datagrams++
			var j bool
			s.buf, j = s.dep.add(s.buf, b, time.Now())
			jump = jump || j
		})
		now := time.Now()
		s.buf = s.dep.expire(s.buf, now)
		switch {
		case len(s.buf) > 0:
			return chunk{data: s.buf, jump: jump}, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !deadline.IsZero() && !now.Before(deadline) {
				return chunk{}, os.ErrDeadlineExceeded
			}
		case err != nil && !transient(err):
			return chunk{}, err
		}
	}
}

func (s *udpSource) stats() Stats {
	st := Stats{Datagrams: s.datagrams, Dropped: s.conn.dropped(), Foreign: s.foreign}
	if s.dep.stats.Packets > 0 {
		rtp := s.dep.stats
		st.RTP = &rtp
	}
	return st
}

func (s *udpSource) close() error { return s.conn.Close() }

// groupReceiver is a socket of pkg/udp.
type groupReceiver struct {
	*udp.Conn
	batch udp.Batch
}

func (r *groupReceiver) receive(deadline time.Time, f func(netip.Addr, []byte)) error {
	if err := r.SetReadDeadline(deadline); err != nil {
		return err
	}
	n, err := r.ReadBatch(&r.batch)
	for _, d := range r.batch.Datagrams[:n] {
		f(d.Addr.Addr(), d.Data)
	}
	return err
}

func (r *groupReceiver) dropped() uint64 { return r.Stats().KernelDrops }

// plainReceiver is a socket of package net: IPv4, or both families at once, which pkg/udp has not.
type plainReceiver struct {
	*net.UDPConn
	batch interface {
		ReadBatch([]ipv6.Message, int) (int, error)
	} // recvmmsg; the two packages share the type
	messages []ipv6.Message
}

// listenPlain listens on an IPv4 address or group, or on every address of both families. on is the interface of a group.
func listenPlain(ctx context.Context, spec Spec, iface string) (_ *plainReceiver, on string, err error) {
	network, host := "udp", ""
	if spec.Host.IsValid() && !(spec.Host.Is6() && spec.Host.IsUnspecified()) {
		network, host = "udp4", spec.Host.String()
	}
	lc := net.ListenConfig{Control: controlPlain}
	pc, err := lc.ListenPacket(ctx, network, net.JoinHostPort(host, strconv.Itoa(int(spec.Port))))
	if err != nil {
		return nil, "", err
	}
	c := pc.(*net.UDPConn)
	r := &plainReceiver{UDPConn: c, messages: make([]ipv6.Message, udpBatch)}
	for i := range r.messages {
		r.messages[i].Buffers = [][]byte{make([]byte, maxDatagram)}
	}
	_ = c.SetReadBuffer(spec.Buffer) // the kernel gives what it gives
	if network == "udp" {
		r.batch = ipv6.NewPacketConn(c)
		return r, "", nil
	}
	p := ipv4.NewPacketConn(c)
	r.batch = p
	if spec.Host.IsMulticast() {
		if on, err = join4(p, spec, iface); err != nil {
			c.Close()
			return nil, "", err
		}
	}
	return r, on, nil
}

// join4 joins an IPv4 group, on the interface that the routing table gives where none is named.
func join4(p *ipv4.PacketConn, spec Spec, name string) (on string, err error) {
	if name == "" {
		if name, err = route4(spec.Host); err != nil {
			return "", err
		}
	}
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", udp.ErrInterface, name, err)
	}
	group := &net.UDPAddr{IP: spec.Host.AsSlice()}
	if spec.Source.IsValid() {
		err = p.JoinSourceSpecificGroup(ifi, group, &net.UDPAddr{IP: spec.Source.AsSlice()})
	} else {
		err = p.JoinGroup(ifi, group)
	}
	if err != nil {
		return "", fmt.Errorf("join %s on %s: %w", spec.Host, name, err)
	}
	return name, nil
}

// route4 is the interface by which datagrams to a group leave.
func route4(group netip.Addr) (string, error) {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(group, 9)))
	if err != nil {
		return "", fmt.Errorf("%w: no route says where %s is: name one, as in udp://%s:5004?iface=eth0", udp.ErrInterface, group, group)
	}
	defer c.Close()
	return interfaceName(c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().String())
}

func (r *plainReceiver) receive(deadline time.Time, f func(netip.Addr, []byte)) error {
	if err := r.SetReadDeadline(deadline); err != nil {
		return err
	}
	n, err := r.batch.ReadBatch(r.messages, 0)
	if err != nil {
		return err
	}
	for i := range n {
		m := &r.messages[i]
		if from, ok := m.Addr.(*net.UDPAddr); ok && m.N > 0 {
			f(from.AddrPort().Addr().Unmap(), m.Buffers[0][:m.N])
		}
	}
	return nil
}

func (r *plainReceiver) dropped() uint64 { return 0 } // not known
