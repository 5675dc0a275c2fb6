package mesh

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
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
	// recent blocks are no backlog to a new child: with them it can pass on
	// at once what it is granted.
	recent = 2
	// inOrderBelow streams of free uplink, a child that takes all of the
	// channel from us is sent it in order until it has caught up. It would
	// count what is late against what came first, and give up on it.
	inOrderBelow = pushSpeed
	// edge is how old what is new may be at a source that is overtaxed.
	edge = 250 * time.Millisecond
	// maxQueue bounds how many blocks a child may lag behind.
	maxQueue = window / 2
	// shareTimes is how much more than the stripes it was granted a child may
	// take, for manifests and repairs, before others come first; shareDepth is
	// how much of that it can save up.
	shareTimes = 1.5
	shareDepth = time.Second
	// leaveGrace is how long what was promised and taken back is still pushed.
	leaveGrace = 700 * time.Millisecond
	// serveWithin is how long the cap may hold up what is promised before
	// requests are refused.
	serveWithin = 30 * time.Millisecond
	serveSource = 80 * time.Millisecond
	// askedLife is how long what was requested may wait: by then it has been
	// requested of somebody else.
	askedLife = 200 * time.Millisecond
)

// pusher is what one child (or the group) is owed: for each block from base
// on, which shards it wants and which it has been sent.
type pusher struct {
	owner     *neighbour // nil for the group
	head      [wire.TagSize]byte
	mask      wire.FeedMask
	leaving   wire.FeedMask // no longer promised, but pushed until leaveAt, so that the child finds another parent first
	leaveAt   Time
	half      wire.FeedMask // the stripe of which only the first row is wanted, if any
	since     Time          // when the mask last grew
	backlog   block.Number
	offered   block.Number // one past the newest block that was ever owed by subscription
	base      block.Number
	oldest    block.Number // no current block before it is owed
	owed      []debt       // owed[i] is for block base+i
	pending   int          // debts that are not empty
	manifests int          // manifests of current blocks that have not gone out

	start    block.Number // what its picture begins at, and it has asked for
	starting bool
	behind   bool // still catches up
	inOrder  bool // and gets nothing new before
	asked    bool // is owed what it requested
	listed   bool // among the channel's debtors
	first    bool // has not had more than its share
	rest     Time // it has had its quantum, and the next goes then
	credit   float64
	share    float64 // what it may still be sent before others that had less
	shared   Time
	last     Time
	path     pace.Path
}

// debt is what a child is owed of one block.
type debt struct {
	want, sent uint64
	again      uint64 // sent once more on request: says nothing about delay
	asked      uint64 // owed because they were requested: they come last
	manifest   uint8
	askedAt    Time
}

const (
	manifestWanted uint8 = 1 << iota
	secondWanted
	manifestSent
	secondSent
	manifestAsked // wanted because it was requested
)

func (p *pusher) setTag(t wire.Tag) { binary.BigEndian.PutUint64(p.head[:], uint64(t)) }

func (p *pusher) clear() {
	p.owed = p.owed[:0]
	p.pending, p.manifests = 0, 0
}

// restart begins at a block of a new run.
func (p *pusher) restart(base block.Number) {
	p.clear()
	p.base = base
	p.backlog, p.offered, p.oldest = base, base, base
	p.path.Forget()
}

// setMask changes what is pushed; what is owed already stays owed only as far
// as it is still wanted.
func (p *pusher) setMask(m wire.FeedMask, now Time) {
	if m&^p.mask != 0 {
		p.since = now
	}
	if less := p.mask &^ m; less != 0 {
		keep := block.StripeMask(uint16(m | p.leaving))
		for i := range p.owed {
			if d := &p.owed[i]; !d.empty() {
				d.want &= keep | d.asked
				if !(m | p.leaving).Has(wire.FeedManifest) && d.manifest&manifestAsked == 0 {
					d.manifest &^= manifestWanted
				}
				if d.empty() {
					p.pending--
				}
			}
		}
	}
	p.mask = m
	if m|p.leaving == 0 {
		p.clear()
	}
}

// withdraw takes promises back, and goes on with them for a moment.
func (p *pusher) withdraw(feeds wire.FeedMask, now Time) {
	p.leaving |= feeds & p.mask
	p.leaveAt = now + leaveGrace
	p.mask &^= feeds
}

// leave ends what was withdrawn.
func (p *pusher) leave(feeds wire.FeedMask, now Time) {
	m := p.mask
	p.mask |= p.leaving & feeds
	p.leaving &^= feeds
	p.setMask(m, now)
}

// all is what is pushed, promised or not.
func (p *pusher) all() wire.FeedMask { return p.mask | p.leaving }

// wanted are the shards of a block that the child wants.
func (p *pusher) wanted(b *block.Manifest) uint64 {
	w := shards(p.all(), b)
	if half := p.half & p.mask; half != 0 && b.Rows > 1 {
		w &^= block.StripeMask(uint16(half)) &^ (1<<block.Stripes - 1)
	}
	return w
}

// debt returns what is owed of a block, for more to be owed; nil if that is out
// of range.
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
	p.oldest = min(p.oldest, number)
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
		p.list()
	}
	d.want |= shards
}

// list puts a child among the debtors.
func (p *pusher) list() {
	if p.owner != nil && !p.listed {
		p.listed = true
		p.owner.ch.debtors = append(p.owner.ch.debtors, p)
	}
}

func (p *pusher) oweManifest(d *debt, flag uint8) {
	if d.empty() {
		p.pending++
		p.list()
	}
	p.manifests++ // a hint: pumpManifests looks
	d.manifest |= flag
}

// shards turns stripes into the shard mask of a block.
func shards(m wire.FeedMask, b *block.Manifest) uint64 {
	return block.StripeMask(uint16(m)) & b.AllMask()
}

// subscribe applies a SUBSCRIBE of which feeds were granted: those that are
// new are pushed from the block on that it names.
func (p *pusher) subscribe(m *wire.Subscribe, feeds wire.FeedMask) {
	c := p.owner.ch
	p.leaving &^= feeds
	added := feeds &^ p.mask
	p.setMask(feeds, c.node.now)
	p.half = 0
	if m.Half && m.Feeds.Stripes() != 0 {
		p.half = 1 << highest(m.Feeds) // granted or not
	}
	if feeds == 0 || !c.begun {
		return
	}
	if m.BackfillOnly {
		added = feeds
	}
	from, begin := m.First, c.rap
	switch {
	case added == 0 || m.First == wire.FromNext:
		return
	case m.First == wire.FromRAP || m.Run != c.run:
		from = c.oldest
		if c.rap != wire.NoNumber {
			from = max(from, c.rap)
		}
		if s := c.slot(from); s == nil || !s.decoded {
			from = c.next - min(c.next, recent) // there is no beginning here
		}
		if s := c.slot(c.next - 1); s != nil && s.b != nil {
			if start, ok := s.b.Manifest().Start(); ok && start < from {
				from, begin = start, start // a young run, from its beginning
			}
		}
	}
	p.backlog, p.behind = c.next-min(c.next, recent), true
	p.inOrder = feeds.Count() > c.data() && c.node.left(p.owner) < inOrderBelow*c.rate
	for k := max(from, c.oldest); k < c.next; k++ {
		s := c.slot(k)
		if s == nil || s.b == nil {
			continue
		}
		if k < p.offered {
			// Again: as if it had been requested.
			if again := bits.OnesCount64(s.b.Have() & shards(added, s.b.Manifest())); !p.owner.mayRepair(again) {
				continue
			}
		}
		p.enlist(s, s.b.Have()&^s.held&(shards(added, s.b.Manifest())), added)
	}
	if c.rap != wire.NoNumber && from <= c.rap && c.node.exchanges() {
		p.start, p.starting = begin, true
	}
}

// enlist owes a child what it has subscribed of the given shards, and of the
// copies of the manifest in feeds.
func (p *pusher) enlist(s *slot, have uint64, feeds wire.FeedMask) {
	d := p.debt(s.number)
	if d == nil {
		return
	}
	if feeds.Has(wire.FeedManifest) && p.all().Has(wire.FeedManifest) && d.manifest&manifestSent == 0 {
		p.oweManifest(d, manifestWanted)
		d.manifest &^= manifestAsked // requested before: now it comes in its turn
	}
	if feeds.Has(wire.FeedSecond) && p.all().Has(wire.FeedSecond) && !p.all().Has(wire.FeedManifest) && d.manifest&secondSent == 0 {
		p.oweManifest(d, secondWanted)
	}
	have &= p.wanted(s.b.Manifest()) &^ d.sent
	d.asked &^= have
	p.owe(d, have)
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
		for _, nb := range c.takers {
			if nb.push.all() != 0 {
				nb.push.enlist(s, fresh, wire.AllFeeds)
			}
		}
		if c.group.sending {
			c.group.push.enlist(s, fresh, wire.AllFeeds)
		}
		s.fresh = 0
	}
	clear(c.dirty)
	c.dirty = c.dirty[:0]
}

// childrenWant is the set of shards that some child subscribes to.
func (c *Channel) childrenWant(b *block.Block) uint64 {
	return shards(c.children, b.Manifest())
}

// pump sends what is owed, as far as pacing and the cap allow.
func (n *Node) pump() {
	n.pumpAt = Never
	n.bucket.refill(n.now)
	if n.bucket.open() {
		n.heldUp = false // until it proves otherwise
	}
	for _, c := range n.channels {
		if c.group.sending && c.group.push.pending > 0 {
			for _, what := range [3]debtClass{current, backlog, requested} {
				c.pump(&c.group.push, what)
			}
		}
		c.pumpChildren()
	}
	if !n.heldUp {
		n.keptSince = n.now
	}
}

// pumpChildren sends what children are owed. Manifests come before all:
// without them shards are worth nothing. Then what is new, to those first who
// have not had more than their share; then what newcomers have to catch up
// with, then what was requested: neither must hold up a picture.
func (c *Channel) pumpChildren() {
	n := c.node
	k := 0
	for _, p := range c.debtors {
		if p.listed = p.pending > 0; p.listed {
			c.debtors[k] = p
			k++
		}
	}
	clear(c.debtors[k:])
	c.debtors = c.debtors[:k]
	if k == 0 || !n.bucket.open() {
		if k > 0 {
			n.pumpAt = min(n.pumpAt, n.now+max(n.bucket.wait(), time.Millisecond))
		}
		return
	}
	behind, asked := false, false
	for _, p := range c.debtors {
		if p.inOrder && n.exchanges() && len(c.neighbours) > 1 {
			// Others wait for what it can pass on: that is what is new.
			p.inOrder = false
		}
		if p.manifests > 0 && !p.inOrder {
			c.pumpManifests(p)
		}
		p.first = p.modest(n.now)
		behind = behind || p.behind
		asked = asked || p.asked
	}
	// Who waits for the oldest block comes before the others: after a pause
	// all get on alike, however much each of them takes. Among those who wait
	// for the same one, each is the first in turn.
	turn := c.debtors[0]
	c.debtors[copy(c.debtors, c.debtors[1:])] = turn
	slices.SortStableFunc(c.debtors, func(a, b *pusher) int {
		switch {
		case a.first && !b.first:
			return -1
		case b.first && !a.first:
			return 1
		}
		return cmp.Compare(a.oldest, b.oldest)
	})
	if c.source && asked {
		// Nobody else has what its roots lack, and all wait for it.
		for _, p := range c.debtors {
			if p.asked {
				c.pump(p, repeated)
			}
		}
	}
	for _, p := range c.debtors {
		c.pump(p, current)
	}
	for _, p := range c.debtors {
		if asked && p.asked {
			c.pump(p, requested)
		}
	}
	for _, p := range c.debtors {
		if behind && p.behind {
			c.pump(p, backlog)
		}
	}
}

// debtClass is in which order what is owed goes out.
type debtClass uint8

const (
	current   debtClass = iota // blocks since the child subscribed
	backlog                    // blocks before that
	requested                  // shards that it asked for
	repeated                   // of those, what it had been sent before
)

// modest reports whether the child has not had more than its share.
func (p *pusher) modest(now Time) bool {
	rate := shareTimes * p.owner.ch.stripeRate() * float64(p.mask.Count())
	p.share = min(p.share+rate*(now-p.shared).Seconds(), rate*shareDepth.Seconds())
	p.shared = now
	return p.share >= 0
}

// speed is the rate at which a child is sent, bytes a second: fast, as far as
// the path to it lets us.
func (p *pusher) speed(c *Channel) float64 {
	times := float64(pushSpeed)
	if p.behind {
		times = backlogSpeed
	}
	want := max(c.rate*times, pushFloor)
	if p.owner == nil {
		return want
	}
	need := c.rate
	if p.mask != 0 {
		need = c.cost(p.mask)
	}
	return float64(p.path.Rate(c.node.now, pace.Rate(want), pace.Rate(need)))
}

// pump sends what one child is owed of one class.
func (c *Channel) pump(p *pusher, what debtClass) {
	n := c.node
	if n.now < p.rest {
		n.pumpAt = min(n.pumpAt, p.rest)
		return
	}
	speed := p.speed(c)
	burst := max(speed*quantum.Seconds(), quantumFloor)
	p.credit = min(p.credit+speed*(n.now-p.last).Seconds(), burst)
	p.last = n.now
	from, to := 0, len(p.owed)
	if p.owner != nil && c.overtaxed() {
		if first := c.back(edge); p.backlog < first {
			p.backlog, p.behind = first, true
		}
	}
	split := 0
	if p.backlog > p.base {
		split = int(min(p.backlog-p.base, block.Number(to)))
	}
	switch what {
	case current:
		from = max(split, int(max(p.oldest, p.base)-p.base))
		if p.inOrder {
			from = to
		}
	case backlog:
		if !p.inOrder {
			to = split
		}
		p.behind = false
	case requested:
		p.asked = false
	}
	if what == current && p.starting {
		c.pumpStart(p)
	}
	for i := from; i < to; i++ {
		if p.credit <= 0 || !n.open(p) {
			n.heldUp = n.heldUp || what == current && p.credit > 0
			p.behind = p.behind || what == backlog
			p.asked = p.asked || what == requested
			break
		}
		d := &p.owed[i]
		if d.empty() {
			continue
		}
		if s := c.slot(p.base + block.Number(i)); s == nil || s.b == nil {
			p.forgive(d)
		} else if c.pumpBlock(p, s, d, what); d.empty() {
			p.pending--
		} else if what == backlog {
			p.behind = true
		} else if d.asked != 0 || d.manifest&manifestAsked != 0 {
			p.asked = true
		}
	}
	if what == current && !p.inOrder {
		p.oldest = p.base + block.Number(max(from, to))
		for i := from; i < to; i++ {
			if d := &p.owed[i]; d.want&^d.asked != 0 || d.manifest&(manifestWanted|manifestAsked) == manifestWanted {
				p.oldest = p.base + block.Number(i)
				break
			}
		}
	}
	if what == backlog && p.inOrder && !p.behind {
		p.inOrder, p.backlog = false, c.next-min(c.next, recent) // of which more may come yet
	}
	p.shrink(c)
	if p.pending > 0 {
		wait := time.Duration((burst*quantumFill - p.credit) / speed * float64(time.Second))
		if p.credit <= 0 {
			p.rest = n.now + min(wait, quantum) // no longer: the pace may change
		}
		n.pumpAt = min(n.pumpAt, n.now+max(wait, n.wait(p), time.Millisecond))
	}
}

// overtaxed reports whether the source has to let what is due wait for most of
// the time. What is old comes last there: in its order it would keep all that
// hangs on the source as late as it is itself.
func (c *Channel) overtaxed() bool {
	return c.source && c.waiting > holdSome && c.node.exchanges()
}

// pumpStart sends the block that a newcomer's picture begins at before what is
// new: it is nothing to it without.
func (c *Channel) pumpStart(p *pusher) {
	i := int(p.start - p.base)
	if s := c.slot(p.start); p.start >= p.base && i < len(p.owed) && s != nil && s.b != nil && !p.owed[i].empty() {
		if c.pumpBlock(p, s, &p.owed[i], current); !p.owed[i].empty() {
			return
		}
		p.pending--
	}
	p.starting = false
}

// pumpManifests sends the manifests of current blocks.
func (c *Channel) pumpManifests(p *pusher) {
	n := c.node
	p.manifests = 0
	for i := len(p.owed) - 1; i >= 0 && p.base+block.Number(i) >= p.backlog; i-- {
		d := &p.owed[i]
		if d.manifest&(manifestWanted|manifestAsked) != manifestWanted {
			if beyond(c.next, p.base+block.Number(i), 8) {
				break
			}
			continue
		}
		if !n.open(p) {
			p.manifests++
			return
		}
		if s := c.slot(p.base + block.Number(i)); s != nil && s.b != nil {
			c.sendOne(p, s.b.ManifestDatagram())
			d.manifest = d.manifest&^manifestWanted | manifestSent
			if d.empty() {
				p.pending--
			}
		}
	}
}

// pumpBlock sends what is owed of one block as far as the allowance goes.
func (c *Channel) pumpBlock(p *pusher, s *slot, d *debt, what debtClass) {
	n := c.node
	if d.manifest&manifestWanted != 0 && what != repeated && (what == requested || d.manifest&manifestAsked == 0) {
		c.sendOne(p, s.b.ManifestDatagram())
		d.manifest = d.manifest&^(manifestWanted|manifestAsked) | manifestSent
	}
	m := s.b.Manifest()
	data := m.DataMask()
	half := bits.OnesCount64(p.wanted(m)) / 2
	want := d.want
	switch {
	case what == repeated:
		want &= d.asked & d.again
	case what != requested:
		want &^= d.asked
	case d.asked != 0 && n.now-d.askedAt > askedLife:
		d.want &^= d.asked
		d.asked = 0
		want = d.want
	}
	for _, part := range [2]uint64{data, ^data} {
		for w := want & part; w != 0; w &= w - 1 {
			if p.credit <= 0 || !n.open(p) {
				return
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
			d.asked &^= 1 << i
		}
	}
	if p.mask.Has(wire.FeedSecond) && d.manifest&secondSent == 0 && (d.manifest&secondWanted != 0 || d.manifest&manifestSent != 0) && bits.OnesCount64(d.sent) >= half {
		// The second copy comes apart from the first, so that one burst of
		// loss does not take both.
		c.sendOne(p, s.b.ManifestDatagram())
		d.manifest |= secondSent
	}
	d.manifest &^= secondWanted
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
	d.want, d.asked = 0, 0
	d.manifest &^= manifestWanted | secondWanted | manifestAsked
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
	if m.Manifest && nb.push.mask != 0 {
		// All that we push of this block is worth nothing without: it comes
		// before all else, but not over and over.
		d := nb.push.debt(s.number)
		if d != nil && d.manifest&manifestWanted == 0 && nb.firsts.take(n.now) {
			nb.push.oweManifest(d, manifestWanted)
		}
		m.Manifest = d != nil && d.manifest&manifestWanted == 0
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
	case nb.starts(s, want, m.Manifest):
		return
	case nb.push.mask != 0 && !n.late():
	case c.group.sending && nb.push.mask == 0:
		c.group.ask(nb, s, want, m.Manifest, n.now)
		return
	case n.late(), nb.push.mask == 0 && !n.exchanges() && n.left(nb) < float64(c.data())*c.stripeRate():
		// Those who were promised the channel come first.
		nb.peer.tell((&wire.Refuse{Channel: c.tag, Name: m.Name, Reason: wire.RefuseBusy}).Append)
		return
	}
	nb.resend(s, want, m.Manifest)
}

// starts owes a newcomer what it asks for of the block that its picture begins
// at, as if it had been subscribed; false for anything else, and where it has
// been sent that before.
func (nb *neighbour) starts(s *slot, want uint64, manifest bool) bool {
	c := nb.ch
	if want == 0 || s.number != c.rap || !s.decoded || nb.push.mask == 0 && (c.group.sending || !c.node.exchanges()) {
		return false
	}
	d := nb.push.debt(s.number)
	if d == nil || d.sent&want != 0 || manifest && !nb.firsts.take(c.node.now) {
		return false
	}
	if manifest && d.manifest&manifestWanted == 0 {
		nb.push.oweManifest(d, manifestWanted)
	}
	d.asked &^= want
	nb.push.owe(d, want&s.b.Have())
	nb.push.start, nb.push.starting = s.number, true
	return true
}

// resend owes a child shards that it asked for, sent before or not.
func (nb *neighbour) resend(s *slot, want uint64, manifest bool) {
	d := nb.push.debt(s.number)
	if d == nil {
		return
	}
	if manifest && d.manifest&manifestWanted == 0 {
		nb.push.oweManifest(d, manifestWanted|manifestAsked)
	}
	have := want & s.b.Have()
	d.again |= d.sent & have
	d.asked |= have &^ d.want
	nb.push.asked = true
	d.askedAt = nb.ch.node.now
	d.sent &^= have
	nb.push.path.Again(s.number, have)
	nb.push.owe(d, have)
	// What we lack may still come: then it goes out like any push.
}

// late reports whether what is to be sent has waited for the cap for so long
// that others are better asked for repairs.
func (n *Node) late() bool {
	within := serveWithin
	for _, c := range n.channels {
		if c.source {
			within = serveSource // it gets whole blocks at once
		}
	}
	return n.now-n.keptSince > within
}
