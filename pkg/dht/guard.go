package dht

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anacrolix/dht/v2/krpc"
	"github.com/anacrolix/torrent/bencode"
	"golang.org/x/time/rate"
)

const (
	// maxDatagram is the longest message taken: an item of 1000 bytes with all that may come with it.
	maxDatagram = 2048
	// maxArrivals is how many datagrams a second are looked at: several times what may come in answer to what is sent.
	maxArrivals = 1000
	// maxWaiting is how many queries wait for their answers.
	maxWaiting = 64
	readPause  = 100 * time.Millisecond
)

// arrival is a query that came.
type arrival struct {
	from netip.AddrPort
	data []byte
}

// guard is the socket as the library sees it: it is given the replies that it can digest, and nothing else. A message of 22 bytes whose
// compact address is a byte long makes the library panic, and a length of nine digits has it allocate as many bytes; what it cannot
// decode it writes to standard error. Queries are not its business: see Node.
type guard struct {
	net.PacketConn
	loopback bool // hosts on loopback are real
	arrivals *rate.Limiter
	queries  chan arrival
	closing  chan struct{}
	close    sync.Once
	ended    chan struct{} // the library is given no more, and waits
	end      sync.Once
	leave    chan struct{} // until then

	datagramsIn, bytesIn, datagramsOut, bytesOut, dropped atomic.Uint64
}

func newGuard(conn net.PacketConn, loopback bool) *guard {
	return &guard{
		PacketConn: conn, loopback: loopback, arrivals: rate.NewLimiter(maxArrivals, maxArrivals),
		queries: make(chan arrival, maxWaiting), closing: make(chan struct{}), ended: make(chan struct{}), leave: make(chan struct{}),
	}
}

// welcome reports whether there is talk with an address.
func (g *guard) welcome(a netip.AddrPort) bool {
	return usable(a) && (g.loopback || !a.Addr().IsLoopback())
}

// ReadFrom gives the library its next reply. It returns an error only when the guard is closed, and not before leave, for the library panics at
// others.
func (g *guard) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, addr, err := g.PacketConn.ReadFrom(b)
		select {
		case <-g.closing:
			g.end.Do(func() { close(g.ended) })
			<-g.leave
			return 0, nil, net.ErrClosed
		default:
		}
		if err != nil { // an ICMP error, or no memory
			select {
			case <-g.closing:
			case <-time.After(readPause):
			}
			continue
		}
		g.datagramsIn.Add(1)
		g.bytesIn.Add(uint64(n))
		udp, ok := addr.(*net.UDPAddr)
		if !ok || !g.take(udp.AddrPort(), b[:n]) {
			continue
		}
		return n, addr, nil
	}
}

// take queues a query, and reports whether data is a reply for the library.
func (g *guard) take(from netip.AddrPort, data []byte) bool {
	if len(data) > maxDatagram || !g.welcome(from) || !g.arrivals.Allow() {
		g.dropped.Add(1)
		return false
	}
	switch kind(data) {
	case 'q':
		select {
		case g.queries <- arrival{from, append([]byte(nil), data...)}:
		default:
			g.dropped.Add(1)
		}
		return false
	case 'r', 'e':
		if digestible(data) {
			return true
		}
	}
	g.dropped.Add(1)
	return false
}

// digestible reports whether the library decodes a message without panic or complaint.
func digestible(data []byte) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	var m krpc.Msg
	err := bencode.Unmarshal(data, &m)
	return err == nil || errors.As(err, new(bencode.ErrUnusedTrailingBytes))
}

// WriteTo sends a datagram; all that the node sends passes here.
func (g *guard) WriteTo(b []byte, to net.Addr) (int, error) {
	n, err := g.PacketConn.WriteTo(b, to)
	if err == nil {
		g.datagramsOut.Add(1)
		g.bytesOut.Add(uint64(n))
	}
	return n, err
}

// Close has the library wait in ReadFrom. It may be called twice.
func (g *guard) Close() (err error) {
	g.close.Do(func() {
		close(g.closing)
		err = g.PacketConn.Close()
	})
	return err
}
