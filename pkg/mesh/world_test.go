package mesh

import (
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/wire"
)

// world is a network of engines in virtual time: every host has an uplink and
// a downlink of package netem, all of one seed.
type world struct {
	t      testing.TB
	now    Time
	seq    uint64
	events events
	hosts  map[netip.AddrPort]*host
	list   []*host
	seed   uint64
	// mesh lets the hosts tell each other of others.
	mesh bool
	// tamper, if set, may change or drop (nil) a datagram on its way.
	tamper func(from, to *host, b []byte) []byte
}

type host struct {
	w        *world
	name     string
	addr     netip.AddrPort
	node     *Node
	ch       *Channel
	up, down *netem.Link
	wakeAt   Time
	blocks   map[block.Number]Time // of the run last seen
	run      block.Run
	runs     []block.Run
	bytes    map[block.Number][32]byte
	born     map[block.Number]time.Time
	events   []Event
	group    bool
	dead     bool
	sent     int // bytes at the IP layer
	received int
	stray    func(to netip.AddrPort, b []byte) // takes what goes where nobody is
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

var epoch = time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)

func newWorld(t testing.TB, seed uint64) *world {
	if testing.Short() {
		// scripts/test runs all of these; only its pass for races is short.
		t.Skip("a world has one goroutine: there is nothing to race")
	}
	return &world{t: t, seed: seed, hosts: make(map[netip.AddrPort]*host)}
}

type chacha struct{ r *rand.ChaCha8 }

func (c chacha) Read(b []byte) (int, error) { return c.r.Read(b) }

func (w *world) random(name string) io.Reader {
	var s [32]byte
	binary.BigEndian.PutUint64(s[:], w.seed)
	copy(s[8:], name)
	return chacha{rand.NewChaCha8(s)}
}

func (w *world) at(t Time, do func()) {
	w.seq++
	heap.Push(&w.events, event{t, w.seq, do})
}

func (w *world) host(name string, id channel.ID, p netem.Params, cfg Config) *host {
	w.t.Helper()
	h := &host{w: w, name: name, blocks: map[block.Number]Time{}, bytes: map[block.Number][32]byte{}, born: map[block.Number]time.Time{}}
	h.addr = netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd00:6:%x::1", len(w.list)+1)), 6466)
	var err error
	if h.up, err = netem.NewLink(w.seed, name+" up", p); err != nil {
		w.t.Fatal(err)
	}
	if h.down, err = netem.NewLink(w.seed, name+" down", p); err != nil {
		w.t.Fatal(err)
	}
	cfg.Start, cfg.Random, cfg.Seed = epoch, w.random(name), w.seed+uint64(len(w.list))
	if cfg.Upload == 0 {
		cfg.Upload = -1
	}
	if cfg.Uplink == 0 {
		cfg.Uplink = 1e9 // tests of the uplink say what is believed of it
	}
	cfg.NoExchange = !w.mesh
	h.node = New(cfg, h)
	if !id.IsZero() {
		if h.ch, err = h.node.Open(id); err != nil {
			w.t.Fatal(err)
		}
	}
	w.hosts[h.addr] = h
	w.list = append(w.list, h)
	h.wake()
	return h
}

func (h *host) wake() {
	d := max(h.node.Deadline(), h.w.now)
	if h.wakeAt != 0 && h.wakeAt <= d && h.wakeAt >= h.w.now {
		return
	}
	h.wakeAt = d
	h.w.at(d, func() {
		if h.dead || h.wakeAt != h.w.now {
			return
		}
		h.wakeAt = 0
		h.node.Tick(h.w.now)
		h.wake()
	})
}

// dial joins the channel through another host.
func (h *host) dial(to *host) {
	h.node.Dial(h.w.now, h.ch, to.addr)
	h.wake()
}

func (h *host) Send(to netip.AddrPort, head, body []byte) {
	b := append(append(make([]byte, 0, len(head)+len(body)), head...), body...)
	h.deliver(to, b)
}

func (h *host) SendGroup(_ channel.ID, body []byte) {
	h.sent += len(body) + wire.IPOverhead
	d := h.up.Submit(h.w.now, len(body)+wire.IPOverhead+14)
	for _, at := range d.At[:d.Copies] {
		b := slices.Clone(body)
		h.w.at(at, func() {
			for _, o := range h.w.list {
				if o != h && o.group {
					o.arrive(h, b, true)
				}
			}
		})
	}
}

func (h *host) deliver(to netip.AddrPort, b []byte) {
	o := h.w.hosts[to]
	h.sent += len(b) + wire.IPOverhead
	if o == nil {
		if h.stray != nil {
			h.stray(to, b)
		}
		return
	}
	d := h.up.Submit(h.w.now, len(b)+wire.IPOverhead+14)
	for _, at := range d.At[:d.Copies] {
		b := slices.Clone(b)
		h.w.at(at, func() { o.arrive(h, b, false) })
	}
}

func (h *host) arrive(from *host, b []byte, group bool) {
	if h.w.tamper != nil {
		if b = h.w.tamper(from, h, slices.Clone(b)); b == nil {
			return
		}
	}
	d := h.down.Submit(h.w.now, len(b)+wire.IPOverhead+14)
	for _, at := range d.At[:d.Copies] {
		h.w.at(at, func() {
			if h.dead {
				return
			}
			h.received += len(b) + wire.IPOverhead
			if group {
				h.node.ReceiveGroup(h.w.now, h.ch, from.addr, b)
			} else {
				h.node.Receive(h.w.now, from.addr, b)
			}
			h.node.Flush(h.w.now)
			h.wake()
		})
	}
}

func (h *host) Block(b *block.Block) {
	m := b.Manifest()
	if m.Run != h.run {
		h.run = m.Run
		h.runs = append(h.runs, m.Run)
		clear(h.blocks)
		clear(h.bytes)
		clear(h.born)
	}
	if _, twice := h.blocks[m.Number]; twice {
		h.w.t.Errorf("%s: block %d handed over twice", h.name, m.Number)
	}
	h.blocks[m.Number] = h.w.now
	h.bytes[m.Number] = sha256.Sum256(b.AppendPackets(nil))
	h.born[m.Number] = m.Created
}

func (h *host) Event(e Event) { h.events = append(h.events, e) }

func (h *host) saw(k EventKind) (n int) {
	for _, e := range h.events {
		if e.Kind == k {
			n++
		}
	}
	return n
}

func (w *world) run(until Time) {
	for len(w.events) > 0 && w.events[0].at <= until {
		e := heap.Pop(&w.events).(event)
		w.now = max(w.now, e.at)
		e.do()
	}
	w.now = until
}

// station makes the block stream of a channel, in memory.
type station struct {
	key     channel.Key
	enc     *block.Encoder
	number  int
	every   time.Duration
	gop     int
	random  *rand.Rand
	sums    map[block.Number][32]byte
	packets int
}

func newStation(t testing.TB, seed byte, run block.Run, every time.Duration, packets, gop int) *station {
	t.Helper()
	key := channel.KeyFromSeed([32]byte{seed})
	enc, err := block.NewEncoder(block.EncoderConfig{Key: key, Run: run})
	if err != nil {
		t.Fatal(err)
	}
	return &station{key: key, enc: enc, every: every, packets: packets, gop: gop,
		random: rand.New(rand.NewPCG(uint64(seed), 1)), sums: map[block.Number][32]byte{}}
}

// next makes the next block as datagrams.
func (s *station) next(t testing.TB, created time.Time, end bool) [][]byte {
	payload := make([]byte, s.packets*188)
	for i := range payload {
		payload[i] = byte(s.random.Uint32())
	}
	f := block.Fields{Created: created, Duration: s.every}
	if s.number%s.gop == 0 {
		f.Flags |= block.RAP
	}
	if end {
		f.Flags |= block.End
	}
	s.sums[block.Number(s.number)] = sha256.Sum256(payload)
	s.number++
	recs, err := s.enc.Encode(nil, payload, f)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for len(recs) > 0 {
		n := int(binary.BigEndian.Uint16(recs[4:]))
		out = append(out, recs[8:8+n])
		recs = recs[8+n:]
	}
	return out
}

// feed makes h the source from start on, for n blocks.
func (s *station) feed(h *host, start Time, n int) {
	for i := range n {
		h.w.at(start+time.Duration(i+1)*s.every, func() {
			if !h.dead {
				s.block(h, i == n-1)
			}
		})
	}
}

// block has h, the source, make the next block.
func (s *station) block(h *host, end bool) {
	for _, d := range s.next(h.w.t, epoch.Add(h.w.now), end) {
		h.ch.Feed(h.w.now, d)
	}
	h.node.Flush(h.w.now)
	h.wake()
}

// inOrder are the delays until each block could be written in order.
func (h *host) inOrder() []time.Duration {
	var ns []block.Number
	for n := range h.blocks {
		ns = append(ns, n)
	}
	slices.Sort(ns)
	var d []time.Duration
	var last Time
	for _, n := range ns {
		last = max(last, h.blocks[n])
		d = append(d, epoch.Add(last).Sub(h.born[n]))
	}
	slices.Sort(d)
	return d
}

func percentile(d []time.Duration, p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	return d[min(len(d)-1, int(float64(len(d))*p))]
}

// whole fails unless h has every block of the station from first on.
func (s *station) whole(t testing.TB, h *host, first block.Number) {
	t.Helper()
	missing := 0
	for n, sum := range s.sums {
		if n < first {
			continue
		}
		got, ok := h.bytes[n]
		switch {
		case !ok:
			missing++
		case got != sum:
			t.Errorf("%s: block %d differs from what was sent", h.name, n)
		}
	}
	if missing > 0 {
		t.Errorf("%s: %d of %d blocks missing", h.name, missing, len(s.sums)-int(first))
	}
}

func TestChainOfThreeRelays(t *testing.T) {
	for _, loss := range []float64{0, 0.05, 0.1} {
		t.Run(fmt.Sprintf("loss %v", loss), func(t *testing.T) {
			w := newWorld(t, 7)
			s := newStation(t, 1, block.NewRun(epoch, 1), 115*time.Millisecond, 152, 17)
			id := s.key.ID()
			// A link is crossed by an uplink and a downlink: half of the
			// delay and about half of the loss each.
			p := netem.Params{Loss: loss / 2, Delay: 12500 * time.Microsecond}
			source := w.host("source", id, p, Config{})
			r1 := w.host("r1", id, p, Config{})
			r2 := w.host("r2", id, p, Config{})
			r3 := w.host("r3", id, p, Config{})
			v := w.host("viewer", id, p, Config{})
			r1.dial(source)
			r2.dial(r1)
			r3.dial(r2)
			v.dial(r3)
			s.feed(source, time.Second, 400)
			w.run(60 * time.Second)
			for _, h := range []*host{r1, r2, r3, v} {
				s.whole(t, h, 0)
				d := h.inOrder()
				st := h.node.Stats()
				t.Logf("%s: p50 %v p99 %v max %v; requests %d repaired %d rebuilt %d dup %d loss %.3f parents %d; received/stream %.3f control %.4f", h.name,
					percentile(d, .5), percentile(d, .99), percentile(d, 1), st.Requests, st.Repaired, st.Rebuilt, st.Duplicates, h.ch.Loss(), h.ch.Parents(),
					float64(h.received)/float64(400*152*188), float64(st.ControlIn)/float64(400*152*188))
			}
		})
	}
}
