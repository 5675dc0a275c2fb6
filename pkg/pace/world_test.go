package pace

import (
	"container/heap"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

// world is a home in virtual time: a node with children, and perhaps a TCP
// beside it, behind one uplink; every child has a downlink of its own.
//
//	node ─┐                    ┌─ down 0 ─ child 0
//	      ├─ up (rate, FIFO) ──┼─ down 1 ─ child 1      reports come back after half a round trip
//	TCP ──┘                    └─ ─────── server
type world struct {
	t      *testing.T
	now    Time
	seq    uint64
	events events
	up     *netem.Link
	upRate netem.BitRate
	back   time.Duration // the way back

	node  *sender
	tcp   *cubic
	queue []time.Duration // of the uplink, each 10 ms
}

type event struct {
	at  Time
	seq uint64
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any     { x := (*e)[len(*e)-1]; *e = (*e)[:len(*e)-1]; return x }

func (w *world) at(t Time, do func()) {
	w.seq++
	heap.Push(&w.events, event{max(t, w.now), w.seq, do})
}

func (w *world) run(until Time) {
	for len(w.events) > 0 && w.events[0].at <= until {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = until
}

func link(t *testing.T, seed uint64, name string, p netem.Params) *netem.Link {
	t.Helper()
	l, err := netem.NewLink(seed, name, p)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// newWorld has an uplink of rate bit/s with a drop-tail FIFO as deep as
// fifo lasts, and a round trip of 40 ms.
func newWorld(t *testing.T, seed uint64, rate netem.BitRate, fifo time.Duration) *world {
	w := &world{t: t, back: 20 * time.Millisecond}
	w.up = link(t, seed, "up", netem.Params{})
	w.setUp(rate, fifo)
	var watch func()
	busyNow := func() time.Duration {
		// A frame of no size tells when the queue would be gone.
		probe := w.up.Submit(w.now, 0)
		if probe.Copies == 0 {
			return fifo
		}
		return probe.At[0] - w.now - w.up.Params().Delay
	}
	watch = func() {
		w.queue = append(w.queue, busyNow())
		w.at(w.now+10*time.Millisecond, watch)
	}
	w.at(0, watch)
	return w
}

func (w *world) setUp(rate netem.BitRate, fifo time.Duration) {
	p := w.up.Params()
	p.Rate, p.Queue = rate, int(float64(rate)/8*fifo.Seconds())
	p.Delay = time.Millisecond
	if err := w.up.SetParams(p); err != nil {
		w.t.Fatal(err)
	}
	w.upRate = rate
}

// queued is the p-quantile of the uplink's queue between two times.
func (w *world) queued(from, to Time, p float64) time.Duration {
	v := slices.Clone(w.queue[from/(10*time.Millisecond) : to/(10*time.Millisecond)])
	slices.Sort(v)
	return v[int(float64(len(v)-1)*p)]
}

// sender is the node: its engine in small.
type sender struct {
	w        *world
	up       Uplink
	children []*child
	stream   Rate // of one child; 0: there is always more to send
	most     int  // children at most
	admit    bool // as many children as the capacity has room for
	number   block.Number
	turn     int
	waking   bool
	dropped  int
	shed     int // children sent away
	sent     float64
	history  []float64 // sent by each 10 ms
}

type child struct {
	s        *sender
	path     Path
	arrivals Arrivals
	down     *netem.Link
	lie      func(*wire.Report)
	skew     time.Duration // its clock
	drift    float64
	debt     []packet
	on       bool
	credit   float64
	last     Time
	got      float64 // bytes
}

type packet struct {
	number block.Number
	index  uint8
	made   Time
}

const wireSize = 1228 + wire.IPOverhead

func (w *world) sender(cap Rate) *sender {
	s := &sender{w: w}
	s.up.Init(cap)
	w.node = s
	var count func()
	count = func() {
		s.history = append(s.history, s.sent)
		w.at(w.now+10*time.Millisecond, count)
	}
	w.at(0, count)
	return s
}

// rate is what the node sent in the mean, bit/s at the IP layer.
func (s *sender) rate(from, to Time) float64 {
	i, j := from/(10*time.Millisecond), to/(10*time.Millisecond)
	return (s.history[j] - s.history[i]) * 8 / (to - from).Seconds()
}

func (s *sender) add(seed uint64, down netem.Params) *child {
	i := len(s.children)
	c := &child{s: s, down: link(s.w.t, seed, fmt.Sprintf("down %d", i), down), skew: time.Duration(i*7919) * time.Second, on: true}
	c.path.Init(&s.up)
	s.children = append(s.children, c)
	var report func()
	report = func() {
		if c.arrivals.Due(c.clock()) {
			var m wire.Report
			c.arrivals.Report(c.clock(), &m)
			if c.lie != nil {
				c.lie(&m)
			}
			s.w.at(s.w.now+s.w.back, func() {
				if c.on {
					c.path.Report(s.w.now, &m)
					s.pump()
				}
			})
		}
		s.w.at(s.w.now+50*time.Millisecond, report)
	}
	s.w.at(s.w.now+time.Duration(i%5)*10*time.Millisecond, report)
	return c
}

func (c *child) clock() Time {
	n := c.s.w.now
	return n + c.skew + time.Duration(float64(n)*c.drift)
}

// live sends each child four of 16 stripes, two shards each, of blocks that
// take what rate says: 115 ms each at 0.7 Mbit/s.
func (s *sender) live(rate Rate) {
	s.stream = rate
	shards := 8
	if rate < some {
		shards = 2
	}
	every := rate.over(float64(shards) * wireSize)
	var cut func()
	cut = func() {
		s.admission()
		for _, c := range s.children {
			if !c.on {
				continue
			}
			for i := range shards {
				c.debt = append(c.debt, packet{s.number, uint8(i), s.w.now})
			}
		}
		s.number++
		s.pump()
		s.w.at(s.w.now+every, cut)
	}
	s.w.at(s.w.now, cut)
}

// bulk gives every child more than can be sent.
func (s *sender) bulk() {
	var next func()
	next = func() {
		for _, c := range s.children {
			for i := 0; c.on && len(c.debt) < 200; i++ {
				c.debt = append(c.debt, packet{s.number, uint8(i % 60), s.w.now})
				if i%60 == 59 {
					s.number++
				}
			}
		}
		s.number++
		s.pump()
		s.w.at(s.w.now+10*time.Millisecond, next)
	}
	s.w.at(s.w.now, next)
}

// admission takes as many children as there is room for.
func (s *sender) admission() {
	if !s.admit {
		return
	}
	room, most := int(s.up.Promisable()/s.stream), int(s.up.Capacity()/s.stream)
	on := 0
	for _, c := range s.children {
		switch {
		case c.on && on >= most:
			c.on, c.debt = false, nil
			c.path.Close()
			s.shed++
		case !c.on && on < room && on < s.most:
			c.on = true
			c.arrivals = Arrivals{}
		}
		if c.on {
			on++
		}
	}
}

func (s *sender) pump() {
	w := s.w
	s.up.Refill(w.now)
	pending := false
	n := len(s.children)
	for i := range n {
		c := s.children[(i+s.turn)%n]
		need := s.stream
		want := max(4*need, 800_000)
		if need == 0 {
			want, need = Unlimited, 0
		}
		r := c.path.Rate(w.now, want, need)
		depth := max(r.in(5*time.Millisecond), 8*1280)
		c.credit = min(c.credit+r.in(w.now-c.last), depth)
		c.last = w.now
		k := 0
		for k < len(c.debt) && c.credit > 0 && s.up.Open() {
			p := c.debt[k]
			k++
			if s.stream != 0 && w.now-p.made > 3*time.Second {
				s.dropped++
				continue
			}
			c.send(p)
			if s.stream == 0 && k%8 == 0 {
				break // turns
			}
		}
		c.debt = c.debt[:copy(c.debt, c.debt[k:])]
		pending = pending || len(c.debt) > 0
	}
	s.turn++
	if pending && !s.waking {
		s.waking = true
		w.at(w.now+max(s.up.Wait(), time.Millisecond), func() {
			s.waking = false
			s.pump()
		})
	}
}

func (c *child) send(p packet) {
	s, w := c.s, c.s.w
	c.credit -= wireSize
	c.path.Sent(w.now, wireSize)
	c.path.Shard(w.now, p.number, p.index)
	s.sent += wireSize
	d := w.up.Submit(w.now, wireSize+14)
	if d.Copies == 0 {
		return
	}
	w.at(d.At[0], func() {
		d := c.down.Submit(w.now, wireSize)
		if d.Copies == 0 {
			return
		}
		w.at(d.At[0], func() {
			c.got += wireSize
			c.arrivals.Datagram(wireSize - wire.IPOverhead)
			c.arrivals.Shard(c.clock(), p.number, p.index)
		})
	})
}

// cubic is a bulk TCP (RFC 9438) in small: slow start, cubic growth, fast
// recovery by halving once a round trip; no timeouts but a restart.
type cubic struct {
	w          *world
	cwnd, ssth float64 // segments
	wmax       float64
	epoch      Time
	flying     map[int]Time
	next       int
	acked      int // segments, in all
	recover    int
	rtt, least time.Duration
	lastAck    Time
	off        bool
	history    []int
}

const segment = 1500

func (w *world) startTCP() *cubic {
	c := &cubic{w: w, cwnd: 10, ssth: math.Inf(1), flying: map[int]Time{}, rtt: w.back * 2, least: time.Second}
	w.tcp = c
	var tick func()
	tick = func() {
		if w.now-c.lastAck > 2*c.rtt+200*time.Millisecond && len(c.flying) > 0 {
			clear(c.flying)
			c.wmax, c.ssth, c.cwnd, c.epoch = c.cwnd, max(c.cwnd/2, 2), 1, 0
			c.lastAck = w.now
		}
		c.push()
		for int(w.now/(10*time.Millisecond)) >= len(c.history) {
			c.history = append(c.history, c.acked)
		}
		w.at(w.now+10*time.Millisecond, tick)
	}
	w.at(w.now, tick)
	return c
}

func (c *cubic) push() {
	for !c.off && float64(len(c.flying)) < c.cwnd {
		n := c.next
		c.next++
		c.flying[n] = c.w.now
		d := c.w.up.Submit(c.w.now, segment+14)
		if d.Copies == 0 {
			continue // later acknowledgements tell
		}
		c.w.at(d.At[0]+c.w.back*2, func() { c.ack(n) })
	}
}

func (c *cubic) ack(n int) {
	w := c.w
	sent, ok := c.flying[n]
	if !ok {
		return
	}
	delete(c.flying, n)
	c.lastAck = w.now
	c.acked++
	c.rtt = w.now - sent
	c.least = min(c.least, c.rtt)
	lost := false
	for k := range c.flying {
		if k < n-3 {
			delete(c.flying, k)
			lost = lost || k >= c.recover
		}
	}
	switch {
	case lost:
		c.wmax = c.cwnd
		c.cwnd = max(2, c.cwnd*0.7)
		c.ssth, c.epoch, c.recover = c.cwnd, w.now, c.next
	case c.cwnd < c.ssth:
		c.cwnd++
	default:
		if c.epoch == 0 {
			c.epoch, c.wmax = w.now, c.cwnd
		}
		k := math.Cbrt(c.wmax * 0.3 / 0.4)
		t := (w.now - c.epoch + c.rtt).Seconds() - k
		target := 0.4*t*t*t + c.wmax
		c.cwnd += max(0.01, min(target-c.cwnd, c.cwnd/2)) / c.cwnd
	}
	c.push()
}

// rate is the goodput between two times in bit/s: what iperf3 would say.
func (c *cubic) rate(from, to Time) float64 {
	i, j := from/(10*time.Millisecond), to/(10*time.Millisecond)
	return float64(c.history[j]-c.history[i]) * 1428 * 8 / (to - from).Seconds()
}

// polite is a TCP of the node's own host: its stack keeps two segments in the
// queue, and sends the next when one has left (TCP small queues).
type polite struct {
	w    *world
	sent int
	off  bool
}

func (w *world) startPolite() *polite {
	p := &polite{w: w}
	p.send()
	p.send()
	return p
}

func (p *polite) send() {
	if p.off {
		return
	}
	if d := p.w.up.Submit(p.w.now, segment+14); d.Copies > 0 {
		p.sent++
		p.w.at(d.At[0]-p.w.up.Params().Delay, p.send)
	}
}
