package mesh

import (
	"fmt"
	"github.com/sixcast/sixcast/internal/netem"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
)

// bench is a network without delay in which one node, the relay, is measured: what its calls take and allocate, and nothing
// of what the others do.
type bench struct {
	t       testing.TB
	now     Time
	ends    map[netip.AddrPort]*end
	order   []*end
	relay   *end
	meter   func(*end, func()) // runs the relay's calls
	in, out int                // datagrams of the relay
}

// end is one node and what has been sent to it.
type end struct {
	b     *bench
	addr  netip.AddrPort
	node  *Node
	ch    *Channel
	from  []netip.AddrPort
	bytes []int // where each datagram ends
	data  []byte
	count int // blocks decoded
}

func newBench(t testing.TB) *bench {
	return &bench{t: t, ends: map[netip.AddrPort]*end{}, meter: func(_ *end, f func()) { f() }}
}

func (b *bench) add(id channel.ID) *end {
	e := &end{b: b, addr: netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd00:6:%x::1", len(b.order)+1)), 6466)}
	w := &world{seed: uint64(len(b.order))}
	e.node = New(Config{Start: epoch, Random: w.random("bench"), Seed: w.seed, Upload: -1, Uplink: 1e10, KeepBytes: 2 << 20, Keep: time.Second, NoExchange: true}, e)
	var err error
	if e.ch, err = e.node.Open(id); err != nil {
		b.t.Fatal(err)
	}
	b.ends[e.addr] = e
	b.order = append(b.order, e)
	return e
}

func (e *end) Send(to netip.AddrPort, head, body []byte) {
	o := e.b.ends[to]
	if e == e.b.relay {
		e.b.out++
	}
	o.from = append(o.from, e.addr)
	o.data = append(append(o.data, head...), body...)
	o.bytes = append(o.bytes, len(o.data))
}

func (e *end) SendGroup(channel.ID, []byte) {}
func (e *end) Block(*block.Block)           { e.count++ }
func (e *end) Event(Event)                  {}

// take gives the node what has been sent to it, as one batch.
func (e *end) take() {
	at := 0
	for i, to := range e.bytes {
		e.node.Receive(e.b.now, e.from[i], e.data[at:to])
		at = to
	}
	e.node.Flush(e.b.now)
}

// run lets everything happen until a time.
func (b *bench) run(until Time) {
	for {
		for again := true; again; {
			again = false
			for _, e := range b.order {
				if len(e.bytes) == 0 {
					continue
				}
				again = true
				if e == b.relay {
					b.in += len(e.bytes)
					b.meter(e, e.take)
				} else {
					e.take()
				}
				e.from, e.bytes, e.data = e.from[:0], e.bytes[:0], e.data[:0]
			}
		}
		next := until
		for _, e := range b.order {
			next = min(next, e.node.Deadline())
		}
		if next >= until {
			b.now = until
			return
		}
		b.now = max(b.now, next)
		for _, e := range b.order {
			if e.node.Deadline() > b.now {
				continue
			}
			if e == b.relay {
				b.meter(e, func() { e.node.Tick(b.now) })
			} else {
				e.node.Tick(b.now)
			}
		}
	}
}

// broadcast sets up a source, a relay and its children, and returns what sends one block more through them: 52 shards and a
// manifest to each child.
func (b *bench) broadcast(children int) (next func()) {
	const every = 57_600 * time.Microsecond
	s := newStation(b.t, 1, block.NewRun(epoch, 1), every, 306, 17) // 306 packets are 64 shards
	source := b.add(s.key.ID())
	b.relay = b.add(s.key.ID())
	b.relay.node.Dial(b.now, b.relay.ch, source.addr)
	for range children {
		c := b.add(s.key.ID())
		c.node.Dial(b.now, c.ch, b.relay.addr)
	}
	next = func() {
		for _, d := range s.next(b.t, epoch.Add(b.now), false) {
			source.ch.Feed(b.now, d)
		}
		source.node.Flush(b.now)
		b.run(b.now + every)
	}
	for range 50 { // until buffers have grown and blocks are used again
		next()
	}
	return next
}

// TestForwardAllocations holds the path from a datagram that comes to those that go on to no allocation a datagram. A block
// may cost a few: its slot, and what the Reed-Solomon library takes when the shards of the stripes not subscribed are made.
func TestForwardAllocations(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector's own allocations would be counted")
	}
	const children, blocks, aBlock = 10, 100, 12
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	b := newBench(t)
	next := b.broadcast(children)
	var before, after runtime.MemStats
	var mallocs uint64
	b.meter = func(_ *end, f func()) {
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		mallocs += after.Mallocs - before.Mallocs
	}
	b.in, b.out = 0, 0
	for range blocks {
		next()
	}
	for _, e := range b.order[1:] {
		if e.count < blocks {
			t.Fatalf("%v decoded %d blocks", e.addr, e.count)
		}
	}
	t.Logf("%d allocations for %d blocks: %d datagrams in, %d out", mallocs, blocks, b.in, b.out)
	if mallocs > blocks*aBlock {
		t.Errorf("%.1f allocations a block, want at most %d", float64(mallocs)/blocks, aBlock)
	}
}

// BenchmarkForward is the relay's own work for 50 children, without system calls: the metric, for a datagram sent. An operation
// is a block through the whole network, children included.
func BenchmarkForward(b *testing.B) {
	n := newBench(b)
	next := n.broadcast(50)
	var took time.Duration
	n.meter = func(_ *end, f func()) {
		begin := time.Now()
		f()
		took += time.Since(begin)
	}
	n.in, n.out = 0, 0
	for b.Loop() {
		next()
	}
	b.ReportMetric(float64(took)/float64(n.out), "relay-ns/datagram")
	b.ReportMetric(float64(n.out)/float64(n.in), "out/in")
}

// TestColdChainPlaysAtOnce: everybody waits already when the source begins. A
// relay tells what has come to life in one message or two, and sends a
// newcomer the manifests before their shards, though it had asked for them.
func TestColdChainPlaysAtOnce(t *testing.T) {
	w := newWorld(t, 7)
	s := newDefaultStation(t)
	id := s.key.ID()
	last := w.host("source", id, wan(), Config{})
	source := last
	var chain []*host
	for _, name := range []string{"r1", "r2", "r3", "viewer"} {
		h := w.host(name, id, wan(), Config{})
		h.dial(last)
		chain, last = append(chain, h), h
	}
	s.feed(source, time.Second, 60)
	w.run(12 * time.Second)
	for hop, h := range chain {
		s.whole(t, h, 0)
		d := h.inOrder()
		// A round trip and a half of 50 ms for each hop to be told, to ask and
		// to be sent, what that lasts at 8 times the clock, and the source's
		// turn to speak.
		if most, want := percentile(d, 1), 150*time.Millisecond+time.Duration(hop+1)*90*time.Millisecond; most > want {
			t.Errorf("%s: a block came after %v, want %v", h.name, most, want)
		}
		t.Logf("%s: delays p50 %v, max %v; %d requests", h.name, percentile(d, .5), percentile(d, 1), h.node.Stats().Requests)
	}
}

// TestNewcomersAtTheCapLoseNothing: two viewers come one after the other to a
// relay whose uplink is all but used by them. What came out of turn would make
// them give up on what is before it.
func TestNewcomersAtTheCapLoseNothing(t *testing.T) {
	for _, join := range []Time{3 * time.Second, 3300 * time.Millisecond, 4 * time.Second} {
		w := newWorld(t, 1)
		s := newStation(t, 1, block.NewRun(epoch, 1), 153*time.Millisecond, 153, 13)
		id := s.key.ID()
		p := netem.Params{Delay: 5 * time.Millisecond}
		source := w.host("source", id, p, Config{})
		relay := w.host("relay", id, p, Config{Upload: 5_000_000})
		relay.dial(source)
		first := w.host("first", id, p, Config{})
		second := w.host("second", id, p, Config{})
		s.feed(source, 0, 84)
		w.at(join, func() { first.dial(relay) })
		w.at(join+80*time.Millisecond, func() { second.dial(relay) })
		w.run(20 * time.Second)
		for _, v := range []*host{first, second} {
			s.whole(t, v, 13)
			begins := v.blocks[13] - join
			if begins > 300*time.Millisecond {
				t.Errorf("%s: the picture begins %v after the first came", v.name, begins)
			}
			// In order: no gap is ever waited for.
			for k := block.Number(14); k < 40; k++ {
				if v.blocks[k] < v.blocks[k-1] {
					t.Errorf("%s: block %d came before block %d", v.name, k, k-1)
				}
			}
			t.Logf("%s: the picture begins after %v, the last block is %v old", v.name, begins, epoch.Add(v.blocks[83]).Sub(v.born[83]))
		}
	}
}

// TestGreatChannelAtOnce: a channel of more than an uplink is believed to take
// at first is served all the same, and from its first block on.
func TestGreatChannelAtOnce(t *testing.T) {
	w := newWorld(t, 3)
	s := newStation(t, 1, block.NewRun(epoch, 1), 19*time.Millisecond, 303, 26)
	id := s.key.ID()
	p := netem.Params{Delay: 5 * time.Millisecond}
	cfg := Config{Uplink: 4_000_000}
	source, relay, v := w.host("source", id, p, cfg), w.host("relay", id, p, cfg), w.host("viewer", id, p, cfg)
	relay.dial(source)
	v.dial(relay)
	s.feed(source, time.Second, 200)
	w.run(8 * time.Second)
	for _, h := range []*host{relay, v} {
		s.whole(t, h, 0)
		d := h.inOrder()
		t.Logf("%s: delays p50 %v, max %v", h.name, percentile(d, .5), percentile(d, 1))
		if m := percentile(d, 1); m > 600*time.Millisecond {
			t.Errorf("%s: a block came after %v", h.name, m)
		}
	}
}
