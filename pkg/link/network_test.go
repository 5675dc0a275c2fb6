package link

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/wire"
)

// network is a seeded virtual network between tables: one queue of datagrams
// in the order of their arrival.
type network struct {
	t       testing.TB
	now     Time
	random  *rand.Rand
	hosts   map[netip.AddrPort]*host
	all     []*host
	flying  []flying
	delay   time.Duration
	jitter  time.Duration
	loss    float64
	double  float64
	watch   func(from, to netip.AddrPort, b []byte) bool // false: lost
	sent    int
	arrived int
}

type flying struct {
	at       Time
	from, to netip.AddrPort
	b        []byte
}

// host is one node: a table, and what it was told.
type host struct {
	*Table
	net         *network
	name        string
	addr        netip.AddrPort
	cfg         Config
	established []*Link
	closed      map[*Link]wire.ByeReason
	texts       map[*Link]string
	moved       []netip.AddrPort
	got         []string // "type:body" of the control messages
	bare        []string
	lastBare    any
	onClosed    func(*Link, wire.ByeReason)
	onUp        func(*Link)
	down        bool
}

func newNetwork(t testing.TB, seed uint64) *network {
	return &network{t: t, random: rand.New(rand.NewPCG(seed, 1)), hosts: map[netip.AddrPort]*host{}, delay: 25 * time.Millisecond}
}

// seeded is a reader of pseudo-random bytes.
func seeded(seed uint64) *rand.ChaCha8 {
	var s [32]byte
	s[0], s[1], s[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	return rand.NewChaCha8(s)
}

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// add puts a node into the network, in a /64 of its own.
func (n *network) add(name string, cfg Config) *host {
	a := fmt.Sprintf("[2001:db8:%x::1]:6466", len(n.all)+1)
	if cfg.Random == nil {
		cfg.Random = seeded(n.random.Uint64())
	}
	h := &host{net: n, name: name, addr: addr(a), cfg: cfg}
	h.start()
	n.hosts[h.addr] = h
	n.all = append(n.all, h)
	return h
}

// start makes the host's table anew, as after a crash.
func (h *host) start() {
	h.Table = NewTable(h.cfg, h)
	h.closed, h.texts = map[*Link]wire.ByeReason{}, map[*Link]string{}
	h.established, h.got, h.bare = nil, nil, nil
}

// moveTo gives the host another address.
func (n *network) moveTo(h *host, a string) {
	delete(n.hosts, h.addr)
	h.addr = addr(a)
	n.hosts[h.addr] = h
}

func (h *host) Send(to netip.AddrPort, b []byte) { h.net.send(h.addr, to, b) }

func (h *host) Established(l *Link) {
	h.established = append(h.established, l)
	if h.onUp != nil {
		h.onUp(l)
	}
}

func (h *host) Closed(l *Link, r wire.ByeReason, text string) {
	if _, twice := h.closed[l]; twice {
		h.net.t.Errorf("%s: a link was closed twice", h.name)
	}
	h.closed[l], h.texts[l] = r, text
	if h.onClosed != nil {
		h.onClosed(l, r)
	}
}

func (h *host) Moved(_ *Link, from netip.AddrPort) { h.moved = append(h.moved, from) }

func (n *network) send(from, to netip.AddrPort, b []byte) {
	n.sent++
	if n.watch != nil && !n.watch(from, to, b) {
		return
	}
	if n.random.Float64() < n.loss {
		return
	}
	copies := 1
	if n.random.Float64() < n.double {
		copies = 2
	}
	for range copies {
		at := n.now + n.delay
		if n.jitter > 0 {
			at += time.Duration(n.random.Int64N(int64(n.jitter)))
		}
		i, _ := slices.BinarySearchFunc(n.flying, at+1, func(f flying, at Time) int { return int(f.at - at) })
		n.flying = slices.Insert(n.flying, i, flying{at, from, to, slices.Clone(b)})
	}
}

// run lets time pass until stop or until done says so.
func (n *network) run(stop Time, done func() bool) bool {
	for steps := 0; ; steps++ {
		if steps > 2_000_000 {
			n.t.Fatal("the network does not come to rest")
		}
		if done != nil && done() {
			return true
		}
		next := stop
		for _, h := range n.all {
			if !h.down {
				next = min(next, h.NextDeadline())
			}
		}
		if len(n.flying) > 0 {
			next = min(next, n.flying[0].at)
		}
		n.now = max(n.now, next)
		for _, h := range n.all {
			if !h.down && h.NextDeadline() <= n.now {
				h.Tick(n.now)
				if d := h.NextDeadline(); d <= n.now {
					n.t.Fatalf("%s: after Tick at %v the next deadline is %v", h.name, n.now, d)
				}
			}
		}
		for len(n.flying) > 0 && n.flying[0].at <= n.now {
			f := n.flying[0]
			n.flying = n.flying[1:]
			if h := n.hosts[f.to]; h != nil && !h.down {
				n.arrived++
				h.take(h.Receive(n.now, f.from, f.b))
			}
		}
		if n.now >= stop {
			return done != nil && done()
		}
	}
}

func (h *host) take(r Result) {
	if r.Link == nil {
		return
	}
	if r.Bare != nil {
		h.bare = append(h.bare, string(r.Bare))
		h.lastBare = r.Value
		return
	}
	for b := r.Messages; ; {
		typ, body, rest, ok := wire.Next(b)
		if !ok {
			return
		}
		if typ >= 0x10 {
			h.got = append(h.got, fmt.Sprintf("%02x:%s", typ, body))
		}
		b = rest
	}
}

// message is a control message of a type that the link does not know.
func message(text string) []byte { return wire.AppendMessage(nil, wire.MsgState, []byte(text)) }

// up is the one link of a host that is established and not closed.
func (h *host) up() *Link {
	var up *Link
	for _, l := range h.established {
		if l.Established() {
			if up != nil {
				return nil
			}
			up = l
		}
	}
	return up
}

// connect joins two hosts over an undisturbed network.
func (n *network) connect(a, b *host) (*Link, *Link) {
	n.t.Helper()
	la := a.Dial(n.now, b.addr, nil)
	n.run(n.now+time.Second, nil)
	lb := b.ByPeer(a.Key())
	if !la.Established() || lb == nil || a.ByPeer(b.Key()) != la {
		n.t.Fatalf("no link: %v", b.Stats())
	}
	return la, lb
}

func pair(t testing.TB, seed uint64) (n *network, a, b *host) {
	n = newNetwork(t, seed)
	return n, n.add("a", Config{}), n.add("b", Config{})
}
