package main

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
)

// maxClients bounds the flows of a lossy link: the demo has two.
const maxClients = 16

// inFlight bounds the datagrams that a direction of a flow holds back; more are dropped.
const inFlight = 4096

// lossyLink stands between a peer and the one it calls: datagrams that are sent to Addr reach upstream, and the answers
// come back, but for those that the link loses, by seed.
//
//	client ──▶ Addr ──netem.Link──▶ socket of its own ──▶ upstream
//	client ◀── Addr ◀─netem.Link──  socket of its own ◀── upstream
type lossyLink struct {
	conn     *net.UDPConn
	upstream netip.AddrPort
	params   netem.Params
	seed     uint64
	name     string
	begun    time.Time
	running  sync.WaitGroup

	mu    sync.Mutex
	flows map[netip.AddrPort]*flow
	lost  uint64
	total uint64
}

// flow is one client's two directions.
type flow struct {
	conn     *net.UDPConn
	up, down chan held
}

// held is a datagram on its way.
type held struct {
	due     time.Duration
	payload []byte
}

// newLossyLink listens on [::1]. Links of one demo have different names, which with the seed decide their luck.
func newLossyLink(name string, upstream netip.AddrPort, seed uint64, params netem.Params) (*lossyLink, error) {
	conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		return nil, fmt.Errorf("the lossy link: %w", err)
	}
	conn.SetReadBuffer(1 << 20)
	l := &lossyLink{
		conn: conn, upstream: upstream, params: params, seed: seed, name: name, begun: time.Now(),
		flows: make(map[netip.AddrPort]*flow),
	}
	l.running.Go(l.serve)
	return l, nil
}

// Addr is what the client connects to.
func (l *lossyLink) Addr() netip.AddrPort { return l.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// Counts tells how many datagrams entered the link, in both directions, and how many of them it lost.
func (l *lossyLink) Counts() (total, lost uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total, l.lost
}

// Close ends the link. What is on its way is lost.
func (l *lossyLink) Close() {
	l.conn.Close()
	l.running.Wait()
}

// serve is the direction from the clients.
func (l *lossyLink) serve() {
	links := make(map[netip.AddrPort]*netem.Link)
	defer func() {
		for _, f := range l.flows {
			f.conn.Close()
			close(f.up)
		}
	}()
	buf := make([]byte, 65536)
	for {
		n, client, err := l.conn.ReadFromUDPAddrPort(buf)
		if isClosed(err) {
			return
		}
		if err != nil {
			continue // ICMP errors of clients that are gone
		}
		f := l.flows[client]
		if f == nil {
			if len(l.flows) == maxClients {
				continue
			}
			link, err := netem.NewLink(l.seed, fmt.Sprintf("%s %d up", l.name, len(l.flows)), l.params)
			if err != nil {
				continue
			}
			if f, err = l.open(client); err != nil {
				continue
			}
			links[client] = link
		}
		l.submit(links[client], buf[:n], f.up)
	}
}

// open makes a client's socket and the goroutines of its two directions.
func (l *lossyLink) open(client netip.AddrPort) (*flow, error) {
	conn, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(l.upstream))
	if err != nil {
		return nil, err
	}
	conn.SetReadBuffer(1 << 20)
	link, err := netem.NewLink(l.seed, fmt.Sprintf("%s %d down", l.name, len(l.flows)), l.params)
	if err != nil {
		conn.Close()
		return nil, err
	}
	f := &flow{conn: conn, up: make(chan held, inFlight), down: make(chan held, inFlight)}
	l.flows[client] = f
	l.running.Go(func() {
		l.deliver(f.up, func(b []byte) { conn.Write(b) })
	})
	l.running.Go(func() {
		l.deliver(f.down, func(b []byte) { l.conn.WriteToUDPAddrPort(b, client) })
	})
	l.running.Go(func() {
		defer close(f.down)
		buf := make([]byte, 65536)
		for {
			n, err := conn.Read(buf)
			if isClosed(err) {
				return
			}
			if err == nil {
				l.submit(link, buf[:n], f.down)
			}
		}
	})
	return f, nil
}

// ipAndUDP is the size of the headers that a link counts, in bytes.
const ipAndUDP = 48

// submit lets a datagram enter a link, and what comes out of it wait for its time.
func (l *lossyLink) submit(link *netem.Link, b []byte, out chan<- held) {
	d := link.Submit(time.Since(l.begun), len(b)+ipAndUDP)
	dropped := d.Copies == 0
	for _, at := range d.At[:d.Copies] {
		select {
		case out <- held{at, append([]byte(nil), b...)}:
		default:
			dropped = true
		}
	}
	l.mu.Lock()
	l.total++
	if dropped {
		l.lost++
	}
	l.mu.Unlock()
}

// deliver sends datagrams at their times; without jitter these are in order.
func (l *lossyLink) deliver(in <-chan held, send func([]byte)) {
	for h := range in {
		time.Sleep(h.due - time.Since(l.begun))
		send(h.payload)
	}
}
