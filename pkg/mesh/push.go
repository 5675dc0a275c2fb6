package mesh

import (
	"encoding/binary"
	"math/bits"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/pace"
	"github.com/sixcast/sixcast/pkg/wire"
)

const (
	// pushSpeed is how many times the stream's own rate a child is sent at
	// while there is something to send: a block leaves in a quarter of its
	// time, a backlog is caught up at three times the clock.
	pushSpeed = 4
	// backlogSpeed is the same while a new child catches up.
	backlogSpeed = 8
	// pushFloor is the least such rate, bytes a second.
	pushFloor = 800_000
	// quantum is how much of that rate leaves in one go: it bounds bursts on
	// the child's access link and fills GSO sends.
	quantum      = 5 * time.Millisecond
	quantumFloor = 8 * 1280
	// quantumFill is how much of a quantum must have gathered before the next
	// goes: the fuller, the more datagrams share one GSO send, which is most
	// of what a relay costs; the rest allows for a timer that is late.
	quantumFill = 0.9
	// maxQueue bounds how many blocks a child may lag behind.
	maxQueue = window / 2
	// shareTimes is how much more than the stripes it was granted a child may
	// take, for manifests and repairs, before others come first; shareDepth is
	// how much of that it can save up.
	shareTimes = 1.5
	shareDepth = time.Second
)

// pusher is what one child (or the group) is owed: for each block from base
// on, which shards it wants and which it has been sent.
type pusher struct {
	owner   *neighbour // nil for the group
	head    [wire.TagSize]byte
	mask    wire.StripeMask
	first   bool // manifests wanted
	second  bool // and a second copy
	backlog block.Number
	offered block.Number // one past the newest block that was ever owed by subscription
	base    block.Number
	owed    []debt // owed[i] is for block base+i
	pending int    // debts that are not empty

	credit float64
	share  float64 // what it may still be sent before others that had less
	shared Time
	last   Time
	path   pace.Path
}

// debt is what a child is owed of one block.
type debt struct {
	want, sent uint64
	again      uint64 // sent once more on request: says nothing about delay
	manifest   uint8
}

const (
	manifestWanted uint8 = 1 << iota
	secondWanted
	manifestSent
	secondSent
)

func (p *pusher) setTag(t wire.Tag) { binary.BigEndian.PutUint64(p.head[:], uint64(t)) }

func (p *pusher) clear() {
	p.owed = p.owed[:0]
	p.pending = 0
}

// restart begins at a block of a new run.
func (p *pusher) restart(base block.Number) {
	p.clear()
	p.base = base
	p.backlog, p.offered = base, base
	p.path.Forget()
}

// debt returns what is owed of a block, nil if that is out of range.
func (p *pusher) debt(number block.Number) *debt {
	if len(p.owed) == 0 {
		p.base = number
	}
	if number < p.base {
		grow := int(p.base - number)
		if grow+len(p.owed) > maxQueue {
			return nil
		}
		p.owed = append(p.owed, make([]debt, grow)...)
		copy(p.owed[grow:], p.owed)
		clear(p.owed[:grow])
		p.base = number
	}
	i := int(number - p.base)
	if i >= window {
		return nil
	}
	for len(p.owed) <= i {
		p.owed = append(p.owed, debt{})
	}
	return &p.owed[i]
}

func (d *debt) empty() bool {
	return d.want == 0 && d.manifest&(manifestWanted|secondWanted) == 0
}

// owe adds shards to what is owed of a block.
func (p *pusher) owe(d *debt, shards uint64) {
	if was := d.empty(); shards != 0 && was {
		p.pending++
	}
	d.want |= shards
}

func (p *pusher) oweManifest(d *debt, flag uint8) {
	if d.empty() {
		p.pending++
	}
	d.manifest |= flag
}

// shards turns a stripe mask into the shard mask of a block.
func shards(m wire.StripeMask, b *block.Manifest) uint64 {
	return block.StripeMask(uint16(m)) & b.AllMask()
}

// subscribe applies a SUBSCRIBE of which mask was granted.
func (p *pusher) subscribe(m *wire.Subscribe, mask wire.StripeMask) {
	c := p.owner.ch
	was := p.mask
	p.mask, p.first, p.second = mask, m.Manifest, m.SecondManifest
	if mask == 0 {
		p.clear()
		return
	}
	if !c.begun {
		return
	}
	from := m.First
	switch {
	case m.First == wire.FromNext && was != 0 && !m.BackfillOnly:
		return // goes on as it was, on other stripes
	case m.First == wire.FromNext:
		from = c.next
	case m.First == wire.FromRAP || m.Run != c.run:
		from = c.oldest
		if c.rap != wire.NoNumber {
			from = max(from, c.rap)
		}
		if s := c.slot(c.next - 1); s != nil && s.b != nil {
			if start, ok := s.b.Manifest().Start(); ok && start < from {
				from = start // a young run, from its beginning
			}
		}
	}
	p.backlog = c.next
	for k := max(from, c.oldest); k < c.next; k++ {
		s := c.slot(k)
		if s == nil || s.b == nil {
			continue
		}
		if k < p.offered {
			// Again: as if it had been requested.
			if again := bits.OnesCount64(s.b.Have() & shards(mask, s.b.Manifest())); !p.owner.mayRepair(again) {
				continue
			}
		}
		p.enlist(s, s.b.Have())
	}
}

// enlist owes a child what it has subscribed of the given shards.
func (p *pusher) enlist(s *slot, have uint64) {
	d := p.debt(s.number)
	if d == nil {
		return
	}
	if p.first && d.manifest&manifestSent == 0 {
		p.oweManifest(d, manifestWanted)
	}
	p.owe(d, have&shards(p.mask, s.b.Manifest())&^d.sent)
	p.offered = max(p.offered, s.number+1)
}

// spread offers what has come since the last call to every child.
func (c *Channel) spread() {
	if len(c.dirty) == 0 {
		return
	}
	for _, s := range c.dirty {
		if s.b == nil {
			continue
		}
		fresh := s.b.Have() & s.fresh
		for _, nb := range c.neighbours {
			if nb.push.mask != 0 {
				nb.push.enlist(s, fresh)
			}
		}
		if c.group.sending {
			c.group.push.enlist(s, fresh)
		}
		s.fresh = 0
	}
	clear(c.dirty)
	c.dirty = c.dirty[:0]
}

// childrenWant is the set of shards that some child subscribes to.
func (c *Channel) childrenWant(b *block.Block) uint64 {
	var m wire.StripeMask
	for _, nb := range c.neighbours {
		m |= nb.push.mask
	}
	if c.group.sending {
		m |= c.group.push.mask
	}
	return shards(m, b.Manifest())
}

// pump sends what is owed, as far as pacing and the cap allow.
func (n *Node) pump() {
	n.pumpAt = Never
	n.bucket.refill(n.now)
	for _, c := range n.channels {
		k := len(c.neighbours)
		if c.group.sending && c.group.push.pending > 0 {
			c.pump(&c.group.push)
		}
		// Those come first who are at the live edge and have not had more
		// than their share: what a newcomer still has to catch up with, and
		// what somebody asks for over and over, must not hold up a picture.
		for _, live := range [2]bool{true, false} {
			for i := range k {
				nb := c.neighbours[(i+n.rotate)%k]
				if nb.push.pending > 0 && nb.push.live(n.now) == live {
					c.pump(&nb.push)
				}
			}
		}
	}
	n.rotate++
}

// live reports whether the child is sent to before those who are not.
func (p *pusher) live(now Time) bool {
	rate := shareTimes * p.owner.ch.stripeRate() * float64(onesCount(p.mask))
	p.share = min(p.share+rate*(now-p.shared).Seconds(), rate*shareDepth.Seconds())
	p.shared = now
	return p.share >= 0 && !p.behind()
}

// behind reports whether the child still catches up.
func (p *pusher) behind() bool { return p.base < p.backlog }

// speed is the rate at which a child is sent, bytes a second: fast, as far as
// the path to it lets us.
func (p *pusher) speed(c *Channel) float64 {
	times := float64(pushSpeed)
	if p.behind() {
		times = backlogSpeed
	}
	want := max(c.rate*times, pushFloor)
	if p.owner == nil {
		return want
	}
	need := c.rate
	if p.mask != 0 {
		need = c.stripeRate() * float64(onesCount(p.mask))
	}
	return float64(p.path.Rate(c.node.now, pace.Rate(want), pace.Rate(need)))
}

func (c *Channel) pump(p *pusher) {
	n := c.node
	speed := p.speed(c)
	burst := max(speed*quantum.Seconds(), quantumFloor)
	p.credit = min(p.credit+speed*(n.now-p.last).Seconds(), burst)
	p.last = n.now
	for i := 0; i < len(p.owed) && p.credit > 0 && n.open(p); i++ {
		d := &p.owed[i]
		if d.empty() {
			continue
		}
		s := c.slot(p.base + block.Number(i))
		if s == nil || s.b == nil {
			p.forgive(d)
			continue
		}
		if !c.pumpBlock(p, s, d) {
			break
		}
		p.pending--
	}
	p.shrink(c)
	if p.pending > 0 {
		wait := time.Duration((burst*quantumFill - p.credit) / speed * float64(time.Second))
		n.pumpAt = min(n.pumpAt, n.now+max(wait, n.wait(p), time.Millisecond))
	}
}

// pumpBlock sends what is owed of one block; false if the allowance ended
// before the debt did.
func (c *Channel) pumpBlock(p *pusher, s *slot, d *debt) bool {
	n := c.node
	if d.manifest&manifestWanted != 0 {
		c.sendOne(p, s.b.ManifestDatagram())
		d.manifest = d.manifest&^manifestWanted | manifestSent
	}
	m := s.b.Manifest()
	data := m.DataMask()
	half := bits.OnesCount64(shards(p.mask, m)) / 2
	for _, part := range [2]uint64{data, ^data} {
		for w := d.want & part; w != 0; w &= w - 1 {
			if p.credit <= 0 || !n.open(p) {
				return d.empty()
			}
			i := bits.TrailingZeros64(w)
			if dg := s.b.Datagram(i); dg != nil {
				c.sendOne(p, dg)
				n.stats.ShardsOut++
				if p.owner != nil && d.again>>i&1 == 0 {
					p.path.Shard(n.now, s.number, uint8(i))
				}
				d.sent |= 1 << i
			}
			d.want &^= 1 << i
		}
	}
	if p.second && d.manifest&(manifestSent|secondSent) == manifestSent && bits.OnesCount64(d.sent) >= half {
		// The second copy comes apart from the first, so that one burst of
		// loss does not take both.
		c.sendOne(p, s.b.ManifestDatagram())
		d.manifest |= secondSent
	}
	return d.empty()
}

// sendOne sends a bare datagram to a child and pays for it.
func (c *Channel) sendOne(p *pusher, b []byte) {
	n := c.node
	size := len(b) + wire.IPOverhead
	if p.owner == nil {
		n.out.SendGroup(c.ID, b)
		n.bucket.SpendGroup(n.now, size)
	} else {
		size += wire.TagSize
		n.out.Send(p.owner.peer.link.Addr(), p.head[:], b)
		p.path.Sent(n.now, size)
	}
	n.stats.BytesOut += uint64(size - wire.IPOverhead)
	p.credit -= float64(size)
	p.share -= float64(size)
}

// send sends one bare datagram out of turn.
func (p *pusher) send(b []byte) { p.owner.ch.sendOne(p, b) }

func (p *pusher) forgive(d *debt) {
	d.want = 0
	d.manifest &^= manifestWanted | secondWanted
	p.pending--
}

// shrink forgets paid debts at the front that nobody will ask about: those of
// blocks that are not kept, and of all but the last blocks.
func (p *pusher) shrink(c *Channel) {
	k := 0
	for k < len(p.owed) {
		number := p.base + block.Number(k)
		d := &p.owed[k]
		if number < c.oldest {
			if !d.empty() {
				c.node.stats.QueueDropped += uint64(bits.OnesCount64(d.want))
				p.forgive(d)
			}
		} else if !d.empty() || !beyond(c.next, number, 65) {
			break
		}
		k++
	}
	if k > 0 {
		p.base += block.Number(k)
		p.owed = p.owed[:copy(p.owed, p.owed[k:])]
	}
}

// onRequest serves single shards.
func (nb *neighbour) onRequest(m *wire.Request) {
	n, c := nb.ch.node, nb.ch
	n.stats.RequestsIn++
	if !nb.joined || m.Name.Kind != block.Media || !n.serves() && !c.source {
		return
	}
	if m.Name.Run != c.run {
		if m.Name.Run < c.run {
			nb.tellNewer()
		}
		return
	}
	if !c.begun || m.Name.Number >= c.next {
		return
	}
	s := c.slot(m.Name.Number)
	if s == nil {
		if m.Name.Number < c.oldest {
			nb.peer.tell((&wire.Refuse{Channel: c.tag, Name: m.Name, Reason: wire.RefuseGone}).Append)
		}
		return
	}
	if s.b == nil {
		if s.dead {
			nb.peer.tell((&wire.Refuse{Channel: c.tag, Name: m.Name, Reason: wire.RefuseGone}).Append)
		}
		return
	}
	want := m.Shards & s.b.Manifest().AllMask()
	if m.Manifest && !nb.mayRepair(1) {
		m.Manifest = false
	}
	for w := want; w != 0; w &= w - 1 {
		if !nb.mayRepair(1) {
			want &^= w
			break
		}
	}
	if want == 0 && !m.Manifest {
		return
	}
	if missing := want &^ s.b.Have(); missing != 0 && s.decoded {
		if _, err := s.b.ReconstructSome(missing); err != nil {
			return
		}
	}
	switch {
	case nb.push.mask != 0:
	case c.group.sending:
		c.group.ask(nb, s, want, m.Manifest, n.now)
		return
	case n.room(nb) < block.Stripes:
		// Those who were promised the channel come first.
		nb.peer.tell((&wire.Refuse{Channel: c.tag, Name: m.Name, Reason: wire.RefuseBusy}).Append)
		return
	}
	nb.resend(s, want, m.Manifest)
}

// resend owes a child shards that it asked for, sent before or not.
func (nb *neighbour) resend(s *slot, want uint64, manifest bool) {
	d := nb.push.debt(s.number)
	if d == nil {
		return
	}
	if manifest {
		nb.push.oweManifest(d, manifestWanted)
	}
	have := want & s.b.Have()
	d.again |= d.sent & have
	d.sent &^= have
	nb.push.path.Again(s.number, have)
	nb.push.owe(d, have)
	// What we lack may still come: then it goes out like any push.
}
