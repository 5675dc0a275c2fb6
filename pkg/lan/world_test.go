package lan

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

// world is a link with nodes, in virtual time: each datagram reaches everybody else 0.2 to 2 ms later.
type world struct {
	t      testing.TB
	now    time.Duration
	random *rand.Rand
	nodes  []*node
	air    inAir
	alarms alarms
	loss   float64

	sent  []sent
	bytes int
}

type sent struct {
	at   time.Duration
	by   *node
	body []byte
}

// node is one, with what its callbacks would have been told.
type node struct {
	*engine
	w     *world
	addr  netip.Addr
	next  time.Duration
	on    bool
	ports []port

	channels  map[channel.ID]time.Duration // when the callbacks were told
	described map[channel.ID]time.Duration
	peers     map[netip.AddrPort]time.Duration
	groups    []Group
}

type flight struct {
	at      time.Duration
	serial  int
	to      *node
	arrival arrival
	body    []byte
}

// alarms are when nodes want to be called: those that no longer hold are left in.
type alarms []alarm

type alarm struct {
	at time.Duration
	n  *node
}

func (a alarms) Len() int           { return len(a) }
func (a alarms) Less(i, j int) bool { return a[i].at < a[j].at }
func (a alarms) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *alarms) Push(x any)        { *a = append(*a, x.(alarm)) }
func (a *alarms) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

type inAir struct {
	list   []flight
	serial int
}

func (a *inAir) Len() int { return len(a.list) }
func (a *inAir) Less(i, j int) bool {
	return a.list[i].at < a.list[j].at || a.list[i].at == a.list[j].at && a.list[i].serial < a.list[j].serial
}
func (a *inAir) Swap(i, j int) { a.list[i], a.list[j] = a.list[j], a.list[i] }
func (a *inAir) Push(x any)    { a.list = append(a.list, x.(flight)) }
func (a *inAir) Pop() any {
	last := a.list[len(a.list)-1]
	a.list = a.list[:len(a.list)-1]
	return last
}

func newWorld(t testing.TB, seed uint64) *world {
	return &world{t: t, random: rand.New(rand.NewPCG(seed, 0))}
}

// the only link of most tests.
var eth0 = port{1, "eth0", false}

// add makes a node; self nil only listens.
func (w *world) add(self *Announcement) *node {
	n := &node{
		engine: newEngine(rand.New(rand.NewPCG(w.random.Uint64(), 0))), w: w, ports: []port{eth0}, on: true,
		addr:     netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(len(w.nodes) >> 8), 15: byte(len(w.nodes) + 1)}),
		channels: make(map[channel.ID]time.Duration), described: make(map[channel.ID]time.Duration), peers: make(map[netip.AddrPort]time.Duration),
	}
	w.nodes = append(w.nodes, n)
	n.setLinks(w.now, n.ports)
	if self != nil {
		n.announce(self)
		n.ask(w.now, query{kind: askChannel, id: self.Channel})
	}
	n.step()
	return n
}

func (n *node) announce(self *Announcement) {
	var d channel.Descriptor
	if self != nil && len(self.Item) > 0 {
		var err error
		if d, err = channel.ParseDescriptor(self.Item); err != nil {
			n.w.t.Fatal(err)
		}
	}
	n.update(n.w.now, self, d)
}

// step does what is due at a node, and sends it to all others.
func (n *node) step() {
	w := n.w
	n.poll(w.now)
	n.flush()
	for _, e := range n.take() {
		if e.fresh {
			n.channels[e.id] = w.now
			if len(e.channel.Descriptor.Item) > 0 {
				n.described[e.id] = w.now
			}
		}
		for _, p := range e.peers {
			if _, ok := n.peers[p]; !ok {
				n.peers[p] = w.now
			}
		}
		n.groups = append(n.groups, e.groups...)
	}
	if next := n.deadline(); next != n.next {
		n.next = next
		heap.Push(&w.alarms, alarm{next, n})
	}
	if n.next <= w.now {
		w.t.Fatalf("at %v a node wants to be called at %v", w.now, n.next)
	}
}

func (n *node) flush() {
	w := n.w
	for _, d := range n.out {
		if len(d.body) > maxDatagram {
			w.t.Fatalf("a datagram of %d bytes", len(d.body))
		}
		w.sent = append(w.sent, sent{w.now, n, d.body})
		w.bytes += len(d.body)
		w.send(n, d.scope, n.addr, d.body)
	}
	n.out = nil
}

// send is what a node, or somebody who is none, sends.
func (w *world) send(by *node, scope channel.Scope, from netip.Addr, body []byte) {
	for _, to := range w.nodes {
		if to == by || !to.on || w.random.Float64() < w.loss {
			continue
		}
		w.air.serial++
		delay := 200*time.Microsecond + time.Duration(w.random.Int64N(int64(1800*time.Microsecond)))
		heap.Push(&w.air, flight{w.now + delay, w.air.serial, to, arrival{eth0.index, scope, from, linkHops}, body})
	}
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	until := w.now + d
	for {
		at := until
		var who *node
		for len(w.alarms) > 0 && w.alarms[0].at < until {
			if a := w.alarms[0]; a.n.on && a.n.next == a.at {
				at, who = a.at, a.n
				break
			}
			heap.Pop(&w.alarms)
		}
		if len(w.air.list) > 0 && w.air.list[0].at <= at {
			f := heap.Pop(&w.air).(flight)
			w.now = f.at
			if f.to.on {
				f.to.receive(w.now, f.arrival, f.body)
				f.to.step()
			}
			continue
		}
		w.now = at
		if who == nil {
			return
		}
		who.step()
	}
}

// rate is how many datagrams a second were sent since a time.
func (w *world) rate(since time.Duration) float64 {
	n := 0
	for _, s := range w.sent {
		if s.at >= since {
			n++
		}
	}
	return float64(n) / (w.now - since).Seconds()
}

// firstPeer is when a node was first told of a peer.
func (n *node) firstPeer() time.Duration {
	first := never
	for _, at := range n.peers {
		first = min(first, at)
	}
	return first
}

// announcers are those who have said something of a channel since a time.
func (w *world) announcers(id channel.ID, since time.Duration) (nodes []*node) {
	for _, s := range w.sent {
		_, m, err := parse(s.body)
		if err != nil {
			w.t.Fatal(err)
		}
		for len(m) > 0 && s.at >= since {
			var kind uint8
			var body []byte
			var a announcement
			if kind, body, m = m.next(); kind == typeAnnounce && a.decode(body) == nil && a.id == id && !slices.Contains(nodes, s.by) {
				nodes = append(nodes, s.by)
			}
		}
	}
	return nodes
}
