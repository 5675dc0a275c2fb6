package world

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/link"
	"github.com/sixcast/sixcast/pkg/mesh"
	"github.com/sixcast/sixcast/pkg/wire"
)

type state uint8

const (
	unborn state = iota
	alive
	asleep
	gone
)

// event is a datagram on its way, by reference: the body is memory of the
// vault, or of a worker's slab, and does not change.
type event struct {
	at       Time // it comes to the receiver's downlink
	from, to uint32
	seq      uint32 // of the sender
	fromGen  uint8  // which of the sender's addresses it was sent from
	toGen    uint8
	headLen  uint8
	head     [wire.TagSize]byte
	body     []byte
}

func (e *event) size() int { return int(e.headLen) + len(e.body) + wire.IPOverhead }

// node is one peer of a run: an engine, its access link, and what is measured
// of it. Only its worker touches it.
type node struct {
	w      *World
	worker *worker
	peer   *peer
	id     uint32
	state  state
	nature Nature
	gen    uint8 // of its address
	seq    uint32

	engine *mesh.Node
	ch     *mesh.Channel
	due    Time // the engine's deadline
	plan   Time // the next thing that the plan has for it
	second int  // the next second to be measured
	feed   int  // the source: the next block to be made

	dice     dice
	up, down access
	cross    cross
	stalls   stalls
	burst    burst
	inbox    []event // on the downlink at the end of a window

	first   block.Number // of decoded[0]
	decoded []uint16     // delay of each block in units of delayUnit, 0 not decoded
	started Time         // when it had the first block that a picture can begin at; Never
	counted mesh.Counters
	sent    [sorts]uint64 // bytes at the IP layer
	events  [16]uint32    // of each mesh.EventKind
}

const (
	delayUnit = 100 * time.Microsecond
	// maxDelay is the longest delay that is told from never.
	maxDelay = 6 * time.Second
	// askOn is how much longer than it is in time a block is asked for.
	askOn = 200 * time.Millisecond
	// viewerFirst and sourceFirst are what is believed of an uplink at first, in
	// bit/s: the defaults of watch and relay.
	viewerFirst, sourceFirst = 1e6, 4e6
	// backlog is how long before it joined a viewer's blocks may be from.
	backlog = 10 * time.Second
)

// clock is the engine's time: since the node's start.
func (n *node) clock(t Time) mesh.Time { return t - n.peer.join }

// birth makes the engine.
func (n *node) birth(now Time) {
	w := n.w
	q := n.peer
	random := dice(mix(w.Seed ^ mix(uint64(n.id)+1)))
	n.dice = dice(mix(w.Seed ^ mix(uint64(n.id)+1)<<1))
	n.up, n.down = newAccess(q.uplink), newAccess(q.downlink)
	if q.cross {
		n.cross = cross{dice: dice(n.dice.next()), at: now, until: now}
	}
	n.stalls = stalls{dice: dice(mix(uint64(n.dice)))}
	n.stalls.next(now, &w.Options)
	if n.id == 0 && w.Freeze > 0 {
		n.stalls.span = span{w.steady + 5*time.Second, w.steady + 5*time.Second + w.Freeze}
	}
	upload := int64(-1)
	switch {
	case n.nature == Liar || n.nature == Mute:
		upload = int64(claim * w.Rate)
	case w.Told && n.id != 0 && q.class == 0:
		upload = 0
	case w.Told:
		upload = int64(0.95 * q.uplink)
	}
	first := int64(0)
	if upload < 0 { // as relay and watch believe
		if first = viewerFirst; n.id == 0 {
			first = sourceFirst
		}
	}
	cfg := mesh.Config{
		Uplink: first,
		// Clocks are wrong by up to a second.
		Start:  epoch.Add(now + Time((n.dice.float()-0.5)*float64(2*time.Second))),
		Random: &random,
		Seed:   n.dice.next(),
		Upload: upload,
		Link:   link.Config{Null: true},
		Vault:  w.vault,
		// As watch has it.
		Patience: w.Latency + askOn,
	}
	n.state = alive
	n.engine = mesh.New(cfg, n)
	ch, err := n.engine.Open(w.station.key.ID())
	if err != nil {
		panic("world: " + err.Error()) // one channel always fits
	}
	n.ch = ch
	if n.id != 0 {
		from := max(0, now-backlog)
		for int(n.first) < len(w.made) && w.made[n.first] < from {
			n.first++
		}
		n.decoded = make([]uint16, len(w.made)-int(n.first))
	}
	n.second = int(now/time.Second) + 1
	n.engine.Tick(n.clock(now))
	for _, to := range q.dial {
		// Where it is now.
		n.engine.Dial(n.clock(now), n.ch, w.address(to, w.generation(to, now)))
	}
}

// generation is that of a peer's address at a time, as the plan has it.
func (w *World) generation(id uint32, at Time) uint8 {
	if at >= w.peers[id].move {
		return 1
	}
	return 0
}

// planned is when the plan has something next for a node that is alive.
func (n *node) planned() Time {
	q := n.peer
	t := min(q.leave, Time(n.second)*time.Second)
	if n.gen == 0 {
		t = min(t, q.move)
	}
	switch {
	case q.sleep.to == 0:
	case n.state == asleep:
		t = min(t, q.sleep.to)
	case q.sleep.from > n.worker.now:
		t = min(t, q.sleep.from)
	}
	if n.id == 0 && n.feed < len(n.w.made) {
		t = min(t, n.w.made[n.feed])
	}
	return t
}

// act does what the plan has for now.
func (n *node) act(now Time) {
	q := n.peer
	for n.second <= int(now/time.Second) {
		n.measure(n.second - 1)
		n.second++
	}
	switch {
	case now >= q.leave:
		if n.state == alive && q.polite {
			n.engine.Close(n.clock(now))
		}
		n.end()
		return
	case n.gen == 0 && now >= q.move:
		n.gen++
	}
	if q.sleep.to != 0 {
		switch {
		case n.state == alive && q.sleep.has(now):
			n.state = asleep
		case n.state == asleep && now >= q.sleep.to:
			n.state = alive
		}
	}
	for n.id == 0 && n.feed < len(n.w.made) && n.w.made[n.feed] <= now {
		for _, d := range n.w.station.next(n.feed, n.w.made[n.feed]) {
			n.ch.Feed(n.clock(now), d)
		}
		n.feed++
		n.engine.Flush(n.clock(now))
	}
}

// end takes the engine away, for its memory.
func (n *node) end() {
	n.counted = n.engine.Stats().Counters
	n.state, n.engine, n.ch, n.inbox = gone, nil, nil, nil
	n.due, n.plan = Never, Never
}

// run does all that happens to the node before end. The datagrams that came
// to it are in the worker's scratch, in order.
func (n *node) run(end Time) {
	k := n.worker
	w := n.w
	if n.state == unborn {
		if n.peer.join >= end {
			return
		}
		k.now = max(n.peer.join, k.now)
		n.birth(k.now)
		n.schedule()
	}
	// What comes to the downlink gets a time of arrival there.
	in := append(k.inbox[:0], n.inbox...)
	for _, e := range k.arrivals {
		if e.toGen != n.gen {
			k.sum.lost++
			continue
		}
		if w.Burst && w.Loss > 0 && n.burst.loses(&n.dice, e.at, w.Loss) {
			k.sum.lost++
			continue
		}
		_, at, ok := n.down.send(e.at, e.size(), w.Queue)
		if !ok {
			k.sum.downDropped++
			continue
		}
		in = append(in, *e)
		in[len(in)-1].at = w.coarse(at)
	}
	next := 0
	for n.state != gone {
		at := min(n.due, n.plan)
		if next < len(in) {
			at = min(at, in[next].at)
		}
		if at < n.peer.leave && at >= n.stalls.from {
			at = w.coarse(n.stalls.over(at, &w.Options))
		}
		if at >= end {
			break
		}
		k.now = max(at, k.now)
		if n.plan <= k.now {
			n.act(k.now)
			if n.state == gone {
				break
			}
		}
		flush := false
		for ; next < len(in) && in[next].at <= k.now; next++ {
			if n.state == alive {
				n.receive(&in[next])
				flush = true
			}
		}
		switch {
		case n.state == asleep:
		case n.due <= k.now:
			n.engine.Tick(n.clock(k.now))
		case flush:
			n.engine.Flush(n.clock(k.now))
		}
		n.schedule()
	}
	if n.state != gone {
		old := len(n.inbox)
		n.inbox = append(n.inbox[:0], in[next:]...)
		clear(n.inbox[len(n.inbox):max(old, len(n.inbox))]) // what was there holds slabs
	}
	clear(in)
	k.inbox = in[:0]
}

// schedule finds out when the node has something to do next.
func (n *node) schedule() {
	now := n.worker.now
	n.plan = n.planned()
	if n.state == asleep {
		n.due = Never
		return
	}
	d := n.engine.Deadline()
	if d >= mesh.Never-n.peer.join {
		n.due = Never
		return
	}
	n.due = max(n.w.coarse(d+n.peer.join), now+n.w.Grain)
}

// coarse is the next time at which a node looks at what there is.
func (w *World) coarse(t Time) Time {
	if r := t % w.Grain; r != 0 {
		return t + w.Grain - r
	}
	return t
}

// receive gives the engine a datagram.
func (n *node) receive(e *event) {
	k := n.worker
	b := append(append(k.datagram[:0], e.head[:e.headLen]...), e.body...)
	s := sortOf(b)
	k.sum.events++
	if n.viewing(k.now) {
		k.sec.received[s] += uint64(len(b) + wire.IPOverhead)
	}
	from := n.w.address(e.from, e.fromGen)
	if k.trace != nil && n.id == n.w.traced {
		k.trace.datagram(n, k.now, "from", e.from, b)
	}
	n.engine.Receive(n.clock(k.now), from, b)
}

// Send puts a datagram on the uplink.
func (n *node) Send(to netip.AddrPort, head, body []byte) {
	k, w := n.worker, n.w
	id, gen, ok := w.locate(to)
	if !ok {
		return
	}
	e := event{from: n.id, to: id, fromGen: n.gen, toGen: gen}
	switch {
	case n.nature != Honest:
		b := append(append(k.slab(len(head)+len(body)), head...), body...)
		if e.body = n.bend(b); e.body == nil {
			return
		}
	case w.vault != nil && len(head) == wire.TagSize && len(body) > 0 && (body[0] == block.TypeShard || body[0] == block.TypeManifest):
		// The vault's: see mesh.Config.Vault.
		e.headLen = wire.TagSize
		copy(e.head[:], head)
		e.body = body
	default:
		e.body = append(append(k.slab(len(head)+len(body)), head...), body...)
	}
	if k.trace != nil && n.id == w.traced {
		k.trace.datagram(n, k.now, "to", id, slices.Concat(e.head[:e.headLen], e.body))
	}
	size := e.size()
	if n.peer.cross {
		n.cross.advance(&n.up, k.now, w.Queue)
	}
	wait, out, ok := n.up.send(k.now, size, w.Queue)
	if !ok {
		k.sum.upDropped++
		k.sec.dropped++
		return
	}
	k.sec.waited += wait
	k.sec.datagrams++
	k.sec.longest = max(k.sec.longest, wait)
	s := sortOf(e.body)
	if e.headLen != 0 {
		if s = manifests; e.body[0] == block.TypeShard {
			s = shards
		}
	}
	n.sent[s] += uint64(size)
	if n.id == 0 {
		k.sec.source += uint64(size)
	}
	if w.Loss > 0 && !w.Burst && n.dice.float() < w.Loss {
		k.sum.lost++
		return
	}
	if at := out + w.delay(n.id, id, out); at < w.until {
		e.at, e.seq = at, n.seq
		n.seq++
		k.post(&e)
	}
}

// SendGroup does nothing: there is no multicast here.
func (n *node) SendGroup(channel.ID, []byte) {}

// Block notes when a block could be decoded.
func (n *node) Block(b *block.Block) {
	if n.id == 0 {
		return
	}
	m := b.Manifest()
	i := int(m.Number) - int(n.first)
	now := n.worker.now
	if int(m.Number) >= len(n.w.made) || !n.genuine(b) {
		n.worker.sum.wrong++
		return
	}
	if i < 0 {
		return // older than anybody wants
	}
	n.decoded[i] = uint16(min(max(0, now-n.w.made[m.Number]), maxDelay)/delayUnit) + 1
	if m.SinceRAP == 0 {
		n.started = min(n.started, now)
	}
}

// genuine reports whether a block is what the station made. In a large world
// not all are looked at.
func (n *node) genuine(b *block.Block) bool {
	m := b.Manifest()
	if len(n.w.nodes) > 500 && (uint32(m.Number)+n.id)%16 != 0 {
		return true
	}
	k := n.worker
	k.payload = b.AppendPackets(k.payload[:0])
	return bytes.Equal(k.payload, n.w.station.payloads[m.Number])
}

// Event counts.
func (n *node) Event(e mesh.Event) {
	if int(e.Kind) < len(n.events) {
		n.events[e.Kind]++
	}
	if k := n.worker; k.trace != nil && n.id == n.w.traced {
		k.trace.event(k.now, e)
	}
}

// viewing reports whether the node counts in what is measured at a time:
// viewers that are older than 3 s and mean well.
func (n *node) viewing(t Time) bool {
	q := n.peer
	return n.id != 0 && n.nature == Honest && t >= q.join+warmUp && t < q.leave &&
		(q.sleep.to == 0 || t < q.sleep.from || t >= q.sleep.to+warmUp)
}

// warmUp is how long after it joined a viewer does not count yet.
const warmUp = 3 * time.Second
