//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sixcast/sixcast/pkg/announce"
)

const (
	callBatch    = 128 // datagrams a system call
	callFlight   = 512 // requests that wait for their reply
	callPatience = 200 * time.Millisecond
	callBuffer   = 32 << 20
	callSize     = 98 // of an announce, bytes
)

// A crowd is many peers in some swarms, who announce themselves in an order that no cache likes.
type crowd struct {
	peers       int
	swarms      []announce.SwarmID
	connections []uint64 // of each address
	v4          bool
	next        uint64
}

const (
	crowdPeers = 1_000_000
	crowdStep  = 611_953 // has no divisor in common with crowdPeers
	// Of IPv4 there are so many addresses; peers of one address have other ports.
	crowdHosts4 = 16
)

// source of peer i: of IPv6 everybody has a /64, since a swarm lists few of one.
func (c *crowd) source(i int) netip.Addr {
	if c.v4 {
		return netip.AddrFrom4([4]byte{127, 1, byte(i % crowdHosts4), 1})
	}
	a := [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}
	binary.BigEndian.PutUint32(a[4:], uint32(i))
	return netip.AddrFrom16(a)
}

// fill makes the next peer's announce; b is one already but for what differs.
func (c *crowd) fill(b []byte, tag uint32) (from netip.Addr) {
	i := int(c.next * crowdStep % uint64(c.peers))
	c.next++
	connection, port := uint64(0), uint16(80)
	if c.v4 {
		connection, port = c.connections[i%crowdHosts4], uint16(1+i/crowdHosts4)
	} else {
		connection = c.connections[i]
	}
	binary.BigEndian.PutUint64(b, connection)
	binary.BigEndian.PutUint32(b[12:], tag)
	copy(b[16:36], c.swarms[i%len(c.swarms)][:])
	binary.BigEndian.PutUint16(b[96:], port)
	return c.source(i)
}

// crowd6 knows the tracker's key, and so needs not ask it for a million connection ids.
func crowd6(key announce.Key, swarms []announce.SwarmID) *crowd {
	c := &crowd{peers: crowdPeers, swarms: swarms, connections: make([]uint64, crowdPeers)}
	s := announce.NewServer(announce.ServerConfig{Key: key}, new(announce.Stats))
	ask, now := announce.AppendConnect(nil, 0), time.Now().Unix()
	var reply []byte
	for i := range c.connections {
		reply = s.Handle(now, 0, netip.AddrPortFrom(c.source(i), 80), ask, reply[:0])
		c.connections[i] = binary.BigEndian.Uint64(reply[8:])
	}
	return c
}

// crowd4 asks.
func crowd4(to netip.AddrPort, swarms []announce.SwarmID) (*crowd, error) {
	c := &crowd{peers: crowdPeers, swarms: swarms, v4: true}
	for i := range crowdHosts4 {
		conn, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.source(i), 0)), net.UDPAddrFromAddrPort(to))
		if err != nil {
			return nil, err
		}
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = conn.Write(announce.AppendConnect(nil, 1))
		var b [64]byte
		n, err := conn.Read(b[:])
		_ = conn.Close()
		if err != nil || n < 16 {
			return nil, fmt.Errorf("connecting to %v: %d bytes, %w", to, n, err)
		}
		c.connections = append(c.connections, binary.BigEndian.Uint64(b[8:]))
	}
	return c, nil
}

// A caller sends a crowd's announces to one address and takes the replies, from one goroutine. Its arrays are too large to be copied.
type caller struct {
	to   netip.AddrPort
	conn *net.UDPConn
	raw  syscall.RawConn

	out, in   [callBatch]mmsghdr
	outVec    [callBatch]unix.Iovec
	inVec     [callBatch]unix.Iovec
	control   [callBatch][40]byte
	requests  [callBatch][callSize]byte
	replies   [callBatch][2048]byte
	name6     unix.RawSockaddrInet6
	name4     unix.RawSockaddrInet4
	sent, got int
	bytes     int // of what it got
	errors    int // replies that refuse
	answered  func(reply []byte)
}

func newCaller(to netip.AddrPort) (*caller, error) {
	c := &caller{to: to}
	network := "udp6"
	if to.Addr().Is4() {
		network = "udp4"
	}
	conn, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil, err
	}
	c.conn = conn
	if c.raw, err = conn.SyscallConn(); err != nil {
		return nil, err
	}
	var failed error
	err = c.raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, callBuffer) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, callBuffer)
		}
		if network == "udp6" {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		_ = conn.Close()
		return nil, err
	}
	swap := func(port uint16) uint16 { return port>>8 | port<<8 }
	c.name6 = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.Addr().As16(), Port: swap(to.Port())}
	if to.Addr().Is4() {
		c.name4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr().As4(), Port: swap(to.Port())}
	}
	a := announce.Announce{Want: -1, Left: 1}
	for k := range c.out {
		a.Append(c.requests[k][:0])
		c.outVec[k].Base = &c.requests[k][0]
		c.outVec[k].SetLen(callSize)
		h := &c.out[k].hdr
		h.Iov = &c.outVec[k]
		h.SetIovlen(1)
		h.Control = &c.control[k][0]
		cm := (*unix.Cmsghdr)(unsafe.Pointer(&c.control[k]))
		if to.Addr().Is4() {
			h.Name, h.Namelen = (*byte)(unsafe.Pointer(&c.name4)), unix.SizeofSockaddrInet4
			cm.Level, cm.Type = unix.SOL_IP, unix.IP_PKTINFO
			cm.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
			h.SetControllen(unix.CmsgSpace(unix.SizeofInet4Pktinfo))
		} else {
			h.Name, h.Namelen = (*byte)(unsafe.Pointer(&c.name6)), unix.SizeofSockaddrInet6
			cm.Level, cm.Type = unix.SOL_IPV6, unix.IPV6_PKTINFO
			cm.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
			h.SetControllen(unix.CmsgSpace(unix.SizeofInet6Pktinfo))
		}
		c.inVec[k].Base = &c.replies[k][0]
		c.inVec[k].SetLen(len(c.replies[k]))
		c.in[k].hdr.Iov = &c.inVec[k]
		c.in[k].hdr.SetIovlen(1)
	}
	return c, nil
}

func (c *caller) close() { _ = c.conn.Close() }

// send sends the announces of the next n of a crowd.
func (c *caller) send(who *crowd, n int) error {
	for n > 0 {
		k := min(n, callBatch)
		for i := range k {
			from := who.fill(c.requests[i][:], uint32(c.sent+i))
			at := c.control[i][unix.CmsgLen(0):]
			if who.v4 {
				a := from.As4()
				copy(at[4:8], a[:])
			} else {
				a := from.As16()
				copy(at[:16], a[:])
			}
		}
		left := c.out[:k]
		var failed error
		err := c.raw.Write(func(fd uintptr) bool {
			for len(left) > 0 {
				m, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&left[0])), uintptr(len(left)), unix.MSG_DONTWAIT, 0, 0)
				if errno == unix.EAGAIN {
					return false
				}
				if errno != 0 {
					failed = os.NewSyscallError("sendmmsg", errno)
					return true
				}
				left = left[m:]
			}
			return true
		})
		if err = errors.Join(err, failed); err != nil {
			return err
		}
		c.sent += k
		n -= k
	}
	return nil
}

// receive takes what there is, and waits for it if it is to; 0 after callPatience.
func (c *caller) receive(wait bool) (n int, err error) {
	if wait {
		_ = c.conn.SetReadDeadline(time.Now().Add(callPatience))
	}
	var failed error
	err = c.raw.Read(func(fd uintptr) bool {
		m, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&c.in[0])), callBatch, unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EAGAIN:
			return !wait
		case errno != 0:
			failed = os.NewSyscallError("recvmmsg", errno)
		default:
			n = int(m)
		}
		return true
	})
	for i := range n {
		b := c.replies[i][:c.in[i].len]
		c.bytes += len(b)
		if len(b) < 8 || binary.BigEndian.Uint32(b) == announce.ActionError {
			c.errors++
		}
		if c.answered != nil {
			c.answered(b)
		}
	}
	c.got += n
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n, errors.Join(err, failed)
}

// call has n announces sent, callFlight of them waiting at most, or as many as go in some time if n is 0. It returns how many were answered.
func (c *caller) call(who *crowd, n int, long time.Duration) (answered int, err error) {
	begun, got, waiting := time.Now(), c.got, 0
	for todo := n; ; {
		more := 0
		switch {
		case n == 0 && time.Since(begun) < long:
			more = callFlight - waiting
		case n > 0:
			more = min(todo, callFlight-waiting)
		}
		if more < callBatch && (n == 0 || more < todo) {
			more = 0 // in full batches: how many answers we happened to find is not what the other side should depend on
		}
		if err := c.send(who, more); err != nil {
			return 0, err
		}
		todo -= more
		waiting += more
		if waiting == 0 {
			return c.got - got, nil
		}
		k, err := c.receive(true)
		if err != nil {
			return 0, err
		}
		if waiting -= k; k == 0 || waiting < 0 {
			waiting = 0 // what has not come is lost
		}
	}
}

// pace sends so many a second for some time, whatever comes of it, and reports how many had no reply.
func (c *caller) pace(who *crowd, rate float64, long time.Duration) (sent, lost int, err error) {
	begun, sent0, got0 := time.Now(), c.sent, c.got
	for {
		since := time.Since(begun)
		if since >= long {
			break
		}
		if err := c.send(who, min(int(rate*since.Seconds())-(c.sent-sent0), 2*callBatch)); err != nil {
			return 0, 0, err
		}
		n, err := c.receive(false)
		if err != nil {
			return 0, 0, err
		}
		if n == 0 {
			time.Sleep(100 * time.Microsecond)
		}
	}
	sent = c.sent - sent0
	for c.got-got0 < sent {
		n, err := c.receive(true)
		if err != nil {
			return 0, 0, err
		}
		if n == 0 {
			break
		}
	}
	return sent, sent - (c.got - got0), nil
}
