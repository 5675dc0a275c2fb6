package mesh

import (
	"math/bits"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

const (
	// reorderSlack is how long after the parent went on to a later block the
	// shards of the one before may still be under way.
	reorderSlack = 10 * time.Millisecond
	// quiet is how long a block may be silent before it is asked about, where
	// nothing later has come.
	quiet = 40 * time.Millisecond
	// maxWait bounds how far requests for one block grow apart.
	maxWait = 500 * time.Millisecond
	// requestsAtOnce bounds how many blocks are asked for in one go.
	requestsAtOnce = 64
	// tooManyFailures in a few seconds, and a parent is given up for another;
	// for distrustTime, doubling, it is not chosen again.
	tooManyFailures = 3
	distrustTime    = 10 * time.Second
	// silentParent makes a parent whose channel does not advance suspicious,
	// besides a round trip and a block.
	silentParent = 500 * time.Millisecond
	// lagTime behind what somebody else has, and a parent is suspicious too.
	lagTime = time.Second
	// silentLink is how long a peer that we dialled may say nothing at all
	// (STATE is due every 500 ms) before it is dialled anew beside the old
	// link: it may have been started again.
	silentLink = 1200 * time.Millisecond
)

// schedule decides when a block that cannot be decoded is looked at next.
func (c *Channel) schedule(s *slot) {
	c.repairAt = min(c.repairAt, c.due(s))
}

// latest is the newest block of which those who push to us have sent
// anything, when they began it, and when they last sent anything at all.
func (c *Channel) latest() (number block.Number, begun, last Time) {
	if c.parent != nil {
		return c.parent.latest, c.parent.latestAt, c.parent.lastData
	}
	return c.group.latest, c.group.latestAt, c.group.heardAt
}

// due is when a block is to be asked for.
func (c *Channel) due(s *slot) Time {
	if s.askAt != 0 {
		return s.askAt
	}
	latest, at, last := c.latest()
	if latest > s.number && s.passed == 0 {
		s.passed = max(at, s.first)
	}
	// A parent that still sends has not come to this block yet, or has not
	// finished with it.
	t := max(s.last, s.first, last) + quiet
	if s.passed != 0 {
		t = min(t, max(s.passed, s.last)+reorderSlack)
	}
	return t
}

// repair asks for what is missing and due, and gives up what is too old.
func (c *Channel) repair() {
	n := c.node
	c.repairAt = Never
	if !c.begun {
		return
	}
	c.regenerate()
	asked := 0
	for k := c.low; k < c.next; k++ {
		s := c.slot(k)
		if s == nil || s.decoded || s.dead {
			continue
		}
		if n.now-s.first > n.cfg.Patience {
			s.dead = true
			n.stats.BlocksLost++
			c.advanceLow()
			continue
		}
		at := c.due(s)
		if at > n.now {
			c.repairAt = min(c.repairAt, at)
			continue
		}
		if asked >= requestsAtOnce {
			c.repairAt = min(c.repairAt, n.now+quantum)
			break
		}
		if c.ask(s) {
			asked++
		}
		c.repairAt = min(c.repairAt, s.askAt)
	}
}

// regenerate makes the shards that children want and that the parent was
// expected to push but did not.
func (c *Channel) regenerate() {
	kept := c.late[:0]
	for _, s := range c.late {
		if s.b == nil || c.slot(s.number) != s {
			continue
		}
		if at := c.due(s); at > c.node.now {
			c.repairAt = min(c.repairAt, at)
			kept = append(kept, s)
			continue
		}
		if made, err := s.b.ReconstructSome(c.childrenWant(s.b)); err == nil && made != 0 {
			c.node.stats.Rebuilt += uint64(bits.OnesCount64(made))
			c.offer(s, made)
		}
	}
	clear(c.late[len(kept):])
	c.late = kept
	c.spread()
}

// expected is the set of a block's shards that somebody pushes to us.
func (c *Channel) expected(b *block.Block) uint64 {
	switch {
	case c.parent != nil:
		return shards(c.parent.subMask, b.Manifest())
	case c.group.receiving(c.node.now):
		return shards(groupStripes, b.Manifest())
	}
	return 0
}

// ask requests what a block needs to be decoded.
func (c *Channel) ask(s *slot) bool {
	n := c.node
	c.sample(s)
	server := c.server(s)
	if server == nil {
		s.askAt = n.now + 50*time.Millisecond
		return false
	}
	if s.tries == 0 && c.group.receiving(n.now) && c.parent == nil && s.wait == 0 {
		// RFC 5740 §5.3: wait at random, somebody else's repair may come.
		s.wait = 1
		s.askAt = n.now + time.Duration(n.random.Int64N(int64(groupBackoff)))
		return false
	}
	m := wire.Request{Channel: c.tag, Name: block.Name{Run: c.run, Number: s.number}, Manifest: s.b == nil}
	if s.b == nil {
		// Nothing is known of it: all that we subscribe to, which cannot be
		// fewer than what is needed.
		m.Shards = block.StripeMask(uint16(c.subMask)) &^ c.orphaned(s.number)
	} else {
		f := s.b.Manifest()
		need := s.b.Missing()
		need += (need + 7) / 8
		missing := f.AllMask() &^ s.b.Have()
		// Data first, so that less has to be computed.
		for _, part := range [2]uint64{missing & f.DataMask(), missing &^ f.DataMask()} {
			for ; part != 0 && need > 0; part &= part - 1 {
				m.Shards |= part & -part
				need--
			}
		}
		s.asked |= m.Shards
	}
	n.stats.Requests++
	server.peer.tell(m.Append)
	s.tries++
	if s.tries == 3 && c.parent != nil {
		c.parent.fail(n.now)
	}
	wait := server.rtt() + 20*time.Millisecond
	if s.tries > 4 {
		wait = max(wait, s.wait+s.wait/2)
	}
	s.wait = min(wait, maxWait)
	s.askAt = n.now + s.wait
	return true
}

// orphaned is the set of shards of a block that wait for its manifest.
func (c *Channel) orphaned(number block.Number) uint64 {
	var have uint64
	for i := range c.orphans {
		if o := &c.orphans[i]; o.name.Run == c.run && o.name.Number == number && o.raw[1] < 64 {
			have |= 1 << o.raw[1]
		}
	}
	return have
}

// server picks whom to ask: the parent first, whoever else says that it has
// the block when the parent does not deliver.
func (c *Channel) server(s *slot) *neighbour {
	var others []*neighbour
	usable := func(nb *neighbour) bool {
		return nb != nil && nb.joined && nb.peer.link.Established()
	}
	if c.parent == nil && usable(c.group.repairer) {
		return c.group.repairer
	}
	if usable(c.parent) && s.tries%4 < 2 {
		return c.parent
	}
	for _, nb := range c.neighbours {
		if nb != c.parent && usable(nb) && nb.denied == 0 && nb.theirs.Run == c.run && nb.theirs.Newest != wire.NoNumber &&
			nb.theirs.Oldest <= s.number && s.number <= nb.theirs.Newest {
			others = append(others, nb)
		}
	}
	if len(others) > 0 {
		return others[int(s.tries)%len(others)]
	}
	if usable(c.parent) {
		return c.parent
	}
	return nil
}

func (nb *neighbour) onRefuse(m *wire.Refuse) {
	c := nb.ch
	if m.Name.Run != c.run || m.Reason != wire.RefuseGone || nb != c.parent && nb != c.group.repairer {
		return
	}
	s := c.slot(m.Name.Number)
	if s == nil || s.decoded || s.dead {
		return
	}
	for _, o := range c.neighbours {
		if o != nb && o.joined && o.theirs.Run == c.run && o.theirs.Oldest <= s.number {
			return // somebody else may have it
		}
	}
	s.dead = true
	c.node.stats.BlocksLost++
	c.advanceLow()
}

// askManifest asks for the manifest of an orphan shard.
func (c *Channel) askManifest(from *neighbour, name block.Name) {
	n := c.node
	if name.Run == c.run && c.begun && name.Number < c.next {
		if s := c.slot(name.Number); s != nil && s.b == nil && s.tries == 0 && c.parent != nil {
			// Known as a gap already: now there is something to gain.
			s.askAt = n.now
			c.repairAt = n.now
		}
		return
	}
	if from == nil {
		// The second copy may still come, and others lack it too.
		if c.group.wanted.at == 0 {
			c.group.wanted = askOnce{name, n.now + quiet + time.Duration(n.random.Int64N(int64(groupBackoff)))}
		}
		return
	}
	from.askFor(name)
}

// sample counts how much of a block's push came, once a block.
func (c *Channel) sample(s *slot) {
	if s.sampled || s.b == nil && c.parent == nil {
		return
	}
	s.sampled = true
	nb := c.parent
	if nb == nil || !nb.acked || nb.subMask == 0 || s.first < nb.chosen {
		return
	}
	expected, got := 16, 0
	if s.b != nil {
		expected = bits.OnesCount64(shards(nb.subMask, s.b.Manifest()))
		got = bits.OnesCount64(s.pushed)
	} else {
		expected, got = 1, 0
	}
	if expected == 0 {
		return
	}
	x := 1 - min(1, float64(got)/float64(expected))
	c.loss += (x - c.loss) / 32
}

// setMargin decides how many stripes to ask for (section 6).
func (c *Channel) setMargin() {
	spare := 1
	switch {
	case c.loss > 0.08:
		spare = 3
	case c.loss > 0.02:
		spare = 2
	}
	c.subMask = lowest(wire.AllStripes, min(block.Stripes, c.data()+spare))
	c.second = c.loss > 0.005
}

// housekeep is done every 50 ms.
func (c *Channel) housekeep() {
	n := c.node
	// Blocks that came whole count for the loss too.
	for k := max(c.oldest, c.next-min(c.next, 8)); k < c.next; k++ {
		if s := c.slot(k); s != nil && !s.sampled && s.decoded {
			if latest, at, _ := c.latest(); latest > k && n.now-at > reorderSlack || n.now-s.last > 2*quiet {
				c.sample(s)
			}
		}
	}
	c.expireOrphans()
	c.setMargin()
	c.watchParent()
	for i := 0; i < len(c.redials); i++ {
		if r := c.redials[i]; n.now >= r.at {
			c.redials = append(c.redials[:i], c.redials[i+1:]...)
			i--
			if !r.beacon {
				n.dial(c, r.to)
			} else if r.to == c.group.repairAddr {
				c.dialRepair(r.to)
			}
		}
	}
	for _, nb := range c.neighbours {
		if !nb.peer.link.Established() {
			continue
		}
		nb.probe()
		switch {
		case nb.dialled && !nb.joined && n.now-nb.joinAt >= max(200*time.Millisecond, nb.rtt()+100*time.Millisecond):
			nb.peer.tell(nb.appendJoin)
		case nb.dialled && nb.joined && nb.denied > 0 && n.now-nb.joinAt > 2*time.Second:
			nb.denied = 0
			if c.parent == nil {
				c.chooseParent()
			}
		case nb.joined && (nb == c.parent || nb.backfill) && nb.subscribed && !nb.acked && n.now-nb.subAt >= nb.rtt()+100*time.Millisecond,
			nb.joined && nb == c.parent && !nb.subscribed,
			nb.joined && nb == c.parent && nb.acked && (nb.subMask != c.subMask || nb.subSecond != c.second) && n.now-nb.subAt > 2*time.Second:
			nb.peer.tell(nb.appendSubscribe)
		}
		if !nb.joined {
			continue
		}
		if nb.push.mask != 0 && n.now-nb.described > refreshEvery {
			nb.describe() // the first one may have been lost
		}
		if n.now-nb.saidState >= stateEvery || nb.push.pending == 0 && n.now-max(nb.push.last, nb.saidState) >= stateIdle {
			nb.saidState = n.now
			nb.peer.tell((&wire.State{Channel: c.tag, Progress: c.Progress()}).Append)
		}
		if nb.arrivals.Due(n.now) {
			m := wire.Report{Channel: c.tag, Loss: uint16(min(65535, c.loss*65536))}
			nb.arrivals.Report(n.now, &m)
			nb.peer.tell(m.Append)
		}
	}
	c.group.housekeep(c)
}

// fail counts a block for which the parent was asked again and again.
func (nb *neighbour) fail(now Time) {
	nb.failures = max(0, nb.failures-(now-nb.failedAt).Seconds()) + 1
	nb.failedAt = now
}

// blockTime is how long a block lasts, as the newest manifest says.
func (c *Channel) blockTime() time.Duration {
	if s := c.slot(c.next - 1); s != nil && s.b != nil {
		return min(s.b.Manifest().Duration, block.MaxAge)
	}
	return block.MaxAge
}

// probe dials a silent peer anew, once in a silence.
func (nb *neighbour) probe() {
	n, p := nb.ch.node, nb.peer
	silent := n.now-max(p.link.Heard(), p.link.Since()) > silentLink
	if silent && !p.probed && nb.dialled && !p.beacon && p.addr.IsValid() {
		n.dialAnew(nb.ch, p.addr)
	}
	p.probed = silent
}

// distrustFor keeps nb from being chosen again for a while that doubles.
func (nb *neighbour) distrustFor(now Time) {
	nb.distrust = now + distrustTime<<min(nb.distrusted, 6)
	nb.distrusted++
}

// watchParent replaces a parent that does not deliver while another could.
func (c *Channel) watchParent() {
	n := c.node
	if c.source {
		return
	}
	p := c.parent
	if p != nil && p.failures >= tooManyFailures {
		var best *neighbour
		for _, nb := range c.neighbours {
			if nb != p && nb.candidate() && n.now >= nb.distrust && nb.theirs.Run >= c.run && (best == nil || better(nb, best)) {
				best = nb
			}
		}
		if best != nil {
			c.replaceParent(best)
			return
		}
	}
	if p == nil {
		if !c.group.receiving(n.now) {
			c.chooseParent()
		}
		return
	}
	wait := silentParent + p.rtt() + c.blockTime()
	if n.now-p.chosen < wait || n.now-p.proved < wait && c.next-c.low < 32 && !c.lagging() {
		return
	}
	var best *neighbour
	for _, nb := range c.neighbours {
		if nb == p || !nb.candidate() || n.now-nb.stated > 2*stateEvery || nb.theirs.Newest == wire.NoNumber {
			continue
		}
		switch t := nb.theirs; {
		case t.Run < c.run || t.Run == c.run && !beyond(t.Newest, c.low, 2):
			continue // not ahead of us
		case (t.Run > c.run || t.Newest >= c.next) && n.now-nb.proved > wait:
			// Anybody can say so: a manifest is the proof.
			nb.askFor(block.Name{Run: t.Run, Number: t.Newest})
			continue
		}
		if best == nil || better(nb, best) {
			best = nb
		}
	}
	if best != nil {
		c.replaceParent(best)
	}
}

// lagging reports whether somebody says that he is more than lagTime ahead of
// what the parent brings.
func (c *Channel) lagging() bool {
	blocks := uint64(lagTime/max(c.blockTime(), 8*time.Millisecond)) + 2
	for _, nb := range c.neighbours {
		if nb != c.parent && nb.candidate() && c.node.now >= nb.distrust && c.node.now-nb.stated <= 2*stateEvery &&
			nb.theirs.Run == c.run && nb.theirs.Newest != wire.NoNumber && beyond(nb.theirs.Newest, c.next, blocks) {
			return true
		}
	}
	return false
}

// replaceParent goes over to another parent. One that failed, or has brought
// nothing new since it was chosen, is not the next one's successor.
func (c *Channel) replaceParent(nb *neighbour) {
	if p := c.parent; p.failures >= tooManyFailures || p.proved <= p.chosen {
		p.distrustFor(c.node.now)
	}
	c.adoptParent(nb)
	nb.peer.tell(nb.appendSubscribe)
}
