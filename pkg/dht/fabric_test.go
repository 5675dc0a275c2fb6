package dht

import (
	"context"
	crand "crypto/rand"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

// virtual runs f in virtual time, on one thread: the race detector fails where two touch the timers of such a run (golang/go#78156).
func virtual(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, f)
}

// fabric is a network in memory, for virtual time: every host is as far from every other.
type fabric struct {
	delay time.Duration
	cut   atomic.Bool // nothing arrives

	mu    sync.Mutex
	hosts map[netip.AddrPort]*host
	lost  func(from, to netip.AddrPort) bool // nil: nothing
}

// host is a UDP socket.
type host struct {
	on     *fabric
	addr   netip.AddrPort
	in     chan packet
	closed chan struct{}
	once   sync.Once
}

type packet struct {
	from netip.AddrPort
	data []byte
	due  time.Time
}

func newFabric(delay time.Duration) *fabric {
	return &fabric{delay: delay, hosts: map[netip.AddrPort]*host{}}
}

func (f *fabric) listen(a netip.AddrPort) *host {
	h := &host{on: f, addr: a, in: make(chan packet, 1000), closed: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hosts[a] = h
	return h
}

func (h *host) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-h.in:
		time.Sleep(time.Until(p.due)) // all take as long, so they come in order
		return copy(b, p.data), net.UDPAddrFromAddrPort(p.from), nil
	case <-h.closed:
		return 0, nil, net.ErrClosed
	}
}

func (h *host) WriteTo(b []byte, to net.Addr) (int, error) {
	h.on.mu.Lock()
	there := h.on.hosts[to.(*net.UDPAddr).AddrPort()]
	if h.on.lost != nil && h.on.lost(h.addr, to.(*net.UDPAddr).AddrPort()) {
		there = nil
	}
	h.on.mu.Unlock()
	if there != nil && !h.on.cut.Load() {
		select {
		case there.in <- packet{h.addr, append([]byte(nil), b...), time.Now().Add(h.on.delay)}:
		default:
		}
	}
	return len(b), nil
}

func (h *host) Close() error {
	h.once.Do(func() {
		h.on.mu.Lock()
		delete(h.on.hosts, h.addr)
		h.on.mu.Unlock()
		close(h.closed)
	})
	return nil
}

func (h *host) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(h.addr) }
func (h *host) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (h *host) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (h *host) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// home is the address of host number i: each has a /64 of its own.
func home(i int) netip.AddrPort {
	return netip.MustParseAddrPort(fmt.Sprintf("[2001:db8:%x::1]:6881", i))
}

// join starts nodes 0 to count-1, each of which knows one of those before it.
func join(t *testing.T, f *fabric, count int) (nodes []*Node) {
	t.Helper()
	for i := range count {
		cfg := Config{Listen: home(i)}
		if i > 0 {
			cfg.Bootstrap = []string{home(rand.IntN(i)).String()}
		}
		nodes = append(nodes, startOn(t, f, cfg))
		time.Sleep(time.Second)
	}
	return nodes
}

// onAir joins nodes, of which number 2 has published a descriptor and announced itself.
func onAir(t *testing.T, f *fabric, count int) (nodes []*Node, d channel.Descriptor) {
	t.Helper()
	nodes = join(t, f, count)
	d = sign(t, newKey(t), 5, "One")
	_ = nodes[2].Put(d)
	_ = nodes[2].Announce(d.ID, 7000)
	time.Sleep(10 * time.Second)
	return nodes, d
}

func startOn(t *testing.T, f *fabric, cfg Config) *Node {
	t.Helper()
	n, err := start(cfg, f.listen(cfg.Listen))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func closeAll(nodes []*Node) {
	for _, n := range nodes {
		_ = n.Close()
	}
}

func newKey(t *testing.T) channel.Key {
	t.Helper()
	k, err := channel.GenerateKey(crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t *testing.T, key channel.Key, seq int64, name string) channel.Descriptor {
	t.Helper()
	d, err := channel.SignDescriptor(key, seq, channel.Values{Name: name, Description: "A channel of the test.", Trackers: []string{"udp://tracker.example:6969"}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// figures are what lookups took.
type figures struct {
	asked, found        int
	questions, hops     int
	mostQuestions, most int
	time, longest       time.Duration
}

func (s *figures) add(l *lookup, took time.Duration, found bool) {
	s.asked++
	if found {
		s.found++
	}
	s.time += took
	s.longest = max(s.longest, took)
	if l == nil {
		return
	}
	hops := 0
	for _, c := range l.nearest() {
		hops = max(hops, c.hops)
	}
	s.questions += l.sent
	s.hops += hops
	s.mostQuestions, s.most = max(s.mostQuestions, l.sent), max(s.most, hops)
}

func (s *figures) String() string {
	n := float64(max(s.asked, 1))
	return fmt.Sprintf("%d of %d found; questions %.1f (at most %d), hops %.1f (at most %d), time %v (at most %v)", s.found, s.asked,
		float64(s.questions)/n, s.mostQuestions, float64(s.hops)/n, s.most, (s.time / time.Duration(max(s.asked, 1))).Round(time.Millisecond), s.longest.Round(time.Millisecond))
}

// getAll has each node look for a channel.
func getAll(nodes []*Node, want channel.Descriptor) (s figures) {
	for _, n := range nodes {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		begun := time.Now()
		d, l, err := n.get(ctx, want.ID)
		cancel()
		s.add(l, time.Since(begun), err == nil && string(d.Item) == string(want.Item))
	}
	return s
}

// peersAll has each node look for a channel's peers; found means that it got at least least of want.
func peersAll(t *testing.T, nodes []*Node, id channel.ID, want map[netip.AddrPort]bool, least int) (s figures) {
	t.Helper()
	for _, n := range nodes {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		begun, got := time.Now(), 0
		l, _ := n.getPeers(ctx, id, func(batch []netip.AddrPort) {
			for _, p := range batch {
				if want[p] {
					got++
				} else {
					t.Errorf("%v was never announced", p)
				}
			}
		})
		cancel()
		s.add(l, time.Since(begun), got >= least)
	}
	return s
}
