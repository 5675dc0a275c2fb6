package mesh

import (
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/pace"
	"github.com/sixcast/sixcast/pkg/wire"
)

// neighbour is a peer's part in one channel, and ours towards it.
type neighbour struct {
	peer    *peer
	ch      *Channel
	dialled bool // we asked for it

	rxTag  wire.Tag // before what they send us
	txTag  wire.Tag // before what we send them; 0 not known yet
	joined bool     // both sides know each other's tag
	joinAt Time     // when JOIN was last sent
	denied uint8    // JOINs answered with "unknown" or "full"
	theirs wire.Progress
	stated Time // when theirs came

	// They as our parent.
	serial     uint16
	subscribed bool // SUBSCRIBE has been sent
	acked      bool
	settled    bool    // has granted once since it was chosen
	failures   float64 // of late: blocks asked for again and again
	failedAt   Time
	distrust   Time // not chosen before, unless there is nobody else
	distrusted uint8
	subAt      Time
	subMask    wire.StripeMask // what was asked for
	subSecond  bool
	backfill   bool // only the backlog
	hop        uint8
	latest     block.Number // newest block that anything came of
	latestAt   Time
	proved     Time // when a new manifest last came from it
	told       bool // that blocks come from it
	chosen     Time // when it became the parent
	lastData   Time
	arrivals   pace.Arrivals
	orphans    int
	verify     allowance
	asks       askOnce
	asking     allowance // manifests we ask them for because of what they say
	wrongBlock block.Number
	wrongs     int // blocks of which something false came, of late
	wrongAt    Time
	forkedRun  block.Run // holds other manifests of this run than we do

	// They as our child.
	push       pusher
	haveSerial bool
	subSerial  uint16
	repairs    allowance // what they may request, and be sent of a backlog again
	changes    allowance // SUBSCRIBE and STATE that are looked at
	saidState  Time
	saidNewer  Time
	described  Time // when the descriptor was last sent
}

// allowance is a token bucket in whole things a second.
type allowance struct {
	rate, depth float64
	credit      float64
	last        Time
}

func (a *allowance) take(now Time) bool { return a.takeSome(now, 1) }

// takeSome takes n things, all or none.
func (a *allowance) takeSome(now Time, n float64) bool {
	a.credit = min(a.depth, a.credit+a.rate*(now-a.last).Seconds())
	a.last = now
	if a.credit < n {
		return false
	}
	a.credit -= n
	return true
}

func fullAllowance(rate, depth float64) allowance {
	return allowance{rate: rate, depth: depth, credit: depth}
}

// Bounds on what one neighbour makes us do (section 8).
const (
	verifyRate  = 1000 // manifest signatures a second
	verifyBurst = 2000
	// repairTimes the stream's own shards a second may be requested, but at
	// least repairRate, and after a pause as many as repairSeconds of the
	// stream have.
	repairTimes   = 2
	repairRate    = 250
	repairSeconds = 4
	changeRate    = 20 // SUBSCRIBE and STATE a second
	changeBurst   = 40
	joinRate      = 20 // JOIN a second, on a link
	joinBurst     = 2 * maxChannels
	// askRate is how many manifests a second we ask a neighbour for on its
	// own word. What somebody says whom we did not ask for weighs askStranger
	// times: nothing of ours depends on it.
	askRate     = 100
	askStranger = 20
	// describeAgain is how soon a JOIN brings the descriptor once more.
	describeAgain = time.Second
)

// mayRepair takes n requested shards from nb's allowance.
func (nb *neighbour) mayRepair(n int) bool {
	c := nb.ch
	shards := c.rate / block.MaxShard * block.Stripes / block.DefaultData
	nb.repairs.rate = max(repairRate, repairTimes*shards)
	nb.repairs.depth = max(2*repairRate, repairSeconds*shards)
	return nb.repairs.takeSome(c.node.now, float64(n))
}

// askOnce remembers the manifests that were asked for a moment ago.
type askOnce struct {
	name block.Name
	at   Time
}

const (
	// initialLoss is taken for the loss before any is known.
	initialLoss = 0.01
	// unknownLoss is the most that is taken over from one parent to the next:
	// it brings all the spare stripes (setMargin).
	unknownLoss = 0.1
)

func (n *Node) neighbour(p *peer, c *Channel) *neighbour {
	for _, nb := range p.joined {
		if nb.ch == c {
			return nb
		}
	}
	nb := &neighbour{
		peer:    p,
		ch:      c,
		hop:     255,
		verify:  fullAllowance(verifyRate, verifyBurst),
		repairs: fullAllowance(0, block.MaxShards*maxQueue), // cut to what the stream takes at the first use
		asking:  fullAllowance(askRate, askRate),
		changes: fullAllowance(changeRate, changeBurst),
	}
	nb.push.owner = nb
	nb.push.path.Init(&n.bucket.Uplink)
	p.joined = append(p.joined, nb)
	c.neighbours = append(c.neighbours, nb)
	return nb
}

// join asks a linked peer for a channel.
func (n *Node) join(p *peer, c *Channel) *neighbour {
	nb := n.neighbour(p, c)
	nb.dialled = true
	if p.link.Established() {
		p.tell(nb.appendJoin)
	}
	return nb
}

// lose takes a neighbour that is gone out of the channel.
func (c *Channel) lose(nb *neighbour) {
	nb.push.path.Close()
	for i, o := range c.neighbours {
		if o == nb {
			c.neighbours = append(c.neighbours[:i], c.neighbours[i+1:]...)
			break
		}
	}
	for i := range c.orphans {
		if c.orphans[i].from == nb {
			c.orphans[i].from = nil
		}
	}
	if nb == c.group.repairer {
		c.group.repairer = nil
	}
	if nb == c.parent {
		c.parent = nil
		c.chooseParent()
	}
}

func (c *Channel) redialAt(at Time, p *peer) {
	for i := range c.redials {
		if c.redials[i].to == p.addr {
			c.redials[i].at = at
			return
		}
	}
	c.redials = append(c.redials, redial{at, p.addr, p.beacon})
}

// appendJoin appends JOIN, and SUBSCRIBE where this neighbour is to be the
// parent.
func (nb *neighbour) appendJoin(dst []byte) []byte {
	n, c := nb.ch.node, nb.ch
	if nb.rxTag == 0 {
		nb.rxTag = n.links.NewTag(nb.peer.link, nb)
	}
	nb.joinAt = n.now
	m := wire.Join{Key: c.ID, Tag: nb.rxTag, Serves: n.serves(), Uplink: n.uplink()}
	dst = m.Append(dst)
	if c.parent == nil && !c.source && !c.group.receiving(n.now) {
		c.adoptParent(nb)
	}
	switch {
	case c.parent == nb:
		dst = nb.appendSubscribe(dst)
	case c.group.repairer == nb && !c.begun:
		// The backlog since the last random access point, for a quick start.
		nb.backfill = true
		dst = nb.appendSubscribe(dst)
	}
	return dst
}

func (n *Node) serves() bool { return n.cfg.Upload != 0 }

func (n *Node) uplink() uint32 {
	return uint32(min(n.bucket.Capacity()*8/1000, 0xffffffff))
}

// adoptParent makes nb the one whose pushes we live on.
func (c *Channel) adoptParent(nb *neighbour) {
	n := c.node
	if old := c.parent; old != nil && old != nb {
		old.peer.tell((&wire.Unsubscribe{Channel: c.tag, Mask: wire.AllStripes}).Append)
		old.subscribed = false
	}
	c.parent = nb
	// What another parent's pushes lost must not slow down this one's.
	c.loss = min(c.loss, unknownLoss)
	nb.backfill = false
	nb.subscribed, nb.acked, nb.settled = false, false, false
	nb.failures, nb.told = 0, false
	nb.chosen, nb.proved = n.now, n.now
}

// appendSubscribe asks nb for what we want of it.
func (nb *neighbour) appendSubscribe(dst []byte) []byte {
	c := nb.ch
	nb.serial++
	nb.subscribed, nb.acked = true, false
	nb.subAt = c.node.now
	nb.subMask, nb.subSecond = c.subMask, c.second
	m := wire.Subscribe{
		Channel: c.tag, Serial: nb.serial, Mask: nb.subMask,
		Manifest: true, SecondManifest: nb.subSecond, BackfillOnly: nb.backfill,
		Hop: 255, Uplink: c.node.uplink(), Run: c.run, First: wire.FromRAP,
	}
	if c.begun && c.low >= c.oldest {
		m.First = c.low
	}
	if nb.settled && nb == c.parent {
		m.First = wire.FromNext // a change of mask, nothing more
	}
	return m.Append(dst)
}

// heard notes that something of a block came.
func (nb *neighbour) heard(name block.Name, now Time) {
	if name.Run == nb.ch.run && name.Number > nb.latest && !beyond(name.Number, nb.ch.next, ahead) {
		nb.latest, nb.latestAt = name.Number, now
	}
}

// control takes the messages of one sealed datagram.
func (n *Node) control(p *peer, b []byte) {
	for {
		typ, body, rest, ok := wire.Next(b)
		if !ok {
			return
		}
		b = rest
		if err := n.message(p, typ, body); err != nil {
			n.stats.Refused++
		}
		if n.peers[p.link] != p {
			return // the message ended the link
		}
	}
}

// joinedAs finds the neighbour that a channel tag names on a link.
func (p *peer) joinedAs(tag uint32) *neighbour {
	for _, nb := range p.joined {
		if nb.ch.tag == tag {
			return nb
		}
	}
	return nil
}

func (n *Node) message(p *peer, typ uint8, body []byte) error {
	switch typ {
	case wire.MsgJoin:
		var m wire.Join
		if err := m.Decode(body); err != nil {
			return err
		}
		if p.joins.take(n.now) {
			n.onJoin(p, &m)
		}
	case wire.MsgJoined:
		var m wire.Joined
		if err := m.Decode(body); err != nil {
			return err
		}
		if nb := p.joinedAs(m.Channel); nb != nil {
			nb.onJoined(&m)
		}
	case wire.MsgLeave:
		var m wire.Leave
		if err := m.Decode(body); err != nil {
			return err
		}
		if nb := p.joinedAs(m.Channel); nb != nil {
			nb.push.mask, nb.push.second = 0, false
			nb.push.clear()
		}
	case wire.MsgSubscribe:
		var m wire.Subscribe
		if err := m.Decode(body); err != nil {
			return err
		}
		if nb := p.joinedAs(m.Channel); nb != nil && nb.changes.take(n.now) {
			nb.onSubscribe(&m)
		}
	case wire.MsgSubscribed:
		var m wire.Subscribed
		if err := m.Decode(body); err != nil {
			return err
		}
		if nb := p.joinedAs(m.Channel); nb != nil {
			nb.onSubscribed(&m)
		}
	case wire.MsgUnsubscribe:
		var m wire.Unsubscribe
		if err := m.Decode(body); err != nil {
			return err
		}
		if nb := p.joinedAs(m.Channel); nb != nil {
			nb.push.mask &^= m.Mask
			if nb.push.mask == 0 {
				nb.push.clear()
			}
		}
	case wire.MsgState:
		var m wire.State
		if err := m.Decode(body); err != nil {
			return err
		}
		if nb := p.joinedAs(m.Channel); nb != nil && nb.changes.take(n.now) {
			nb.onProgress(m.Progress)
		}
	case wire.MsgRequest:
		var m wire.Request
		if err := m.Decode(body); err != nil {
			return err
		}
		if nb := p.joinedAs(m.Channel); nb != nil {
			nb.onRequest(&m)
		}
	case wire.MsgRefuse:
		var m wire.Refuse
		if err := m.Decode(body); err != nil {
			return err
		}
		if nb := p.joinedAs(m.Channel); nb != nil {
			nb.onRefuse(&m)
		}
	case wire.MsgReport:
		var m wire.Report
		if err := m.Decode(body); err != nil {
			return err
		}
		if nb := p.joinedAs(m.Channel); nb != nil {
			nb.push.path.Report(n.now, &m)
		}
	}
	return nil
}

func (n *Node) onJoin(p *peer, m *wire.Join) {
	answer := wire.Joined{Status: wire.JoinUnknown, Progress: wire.Progress{Newest: wire.NoNumber, RAP: wire.NoNumber, Oldest: wire.NoNumber}}
	var c *Channel
	for _, have := range n.channels {
		if have.ID == m.Key {
			c = have
		}
	}
	if c == nil || m.Tag&wire.TagBit == 0 {
		answer.Channel = channel.ID(m.Key).Tag()
		p.tell(answer.Append)
		return
	}
	answer.Channel = c.tag
	if !n.serves() && p.joinedAs(c.tag) == nil {
		answer.Status = wire.JoinFull
		p.tell(answer.Append)
		return
	}
	nb := n.neighbour(p, c)
	nb.txTag, nb.joined = m.Tag, true
	nb.push.setTag(m.Tag)
	if nb.rxTag == 0 {
		nb.rxTag = n.links.NewTag(p.link, nb)
	}
	answer.Status, answer.Tag, answer.Progress = wire.JoinOK, nb.rxTag, c.Progress()
	p.tell(answer.Append)
	if nb.described == 0 || n.now-nb.described >= describeAgain {
		nb.describe()
	}
}

func (nb *neighbour) onJoined(m *wire.Joined) {
	n, c := nb.ch.node, nb.ch
	if m.Status != wire.JoinOK || m.Tag&wire.TagBit == 0 {
		kind := EventUnknown
		if m.Status == wire.JoinFull {
			kind = EventFull
		}
		if nb.denied == 0 {
			n.out.Event(Event{Kind: kind, Channel: c.ID, Peer: nb.peer.link.Addr()})
		}
		if nb.denied < 255 {
			nb.denied++
		}
		nb.joinAt = n.now // again later
		if c.parent == nb {
			c.parent = nil
			c.chooseParent()
		}
		return
	}
	nb.txTag, nb.joined, nb.denied = m.Tag, true, 0
	nb.push.setTag(m.Tag)
	nb.onProgress(m.Progress)
	if c.parent == nil {
		c.chooseParent()
	}
}

// onProgress learns what a neighbour holds.
func (nb *neighbour) onProgress(p wire.Progress) {
	n, c := nb.ch.node, nb.ch
	if p.Run.TooFarAhead(n.UTC(n.now)) {
		p.Run = 0 // nothing that we could take
	}
	nb.theirs, nb.stated = p, n.now
	if p.Run == 0 || p.Newest == wire.NoNumber {
		return
	}
	switch {
	case p.Run > c.run:
		// A claim, until a manifest proves it.
		nb.askFor(block.Name{Run: p.Run, Number: p.Newest})
	case p.Run == c.run && c.begun && nb == c.parent && p.Newest >= c.next && !beyond(p.Newest, c.next, window/2):
		// A tail that was lost: nothing that came after it told us.
		if n.now-nb.lastData > 40*time.Millisecond {
			nb.askFor(block.Name{Run: p.Run, Number: p.Newest})
		}
	}
}

// askFor requests a manifest, once in a round trip.
func (nb *neighbour) askFor(name block.Name) {
	n := nb.ch.node
	if !nb.joined || nb.asks.name == name && n.now-nb.asks.at < nb.rtt()+20*time.Millisecond {
		return
	}
	weight := 1.0
	if !nb.dialled {
		weight = askStranger
	}
	if !nb.asking.takeSome(n.now, weight) {
		return
	}
	nb.asks = askOnce{name, n.now}
	n.stats.Requests++
	nb.peer.tell((&wire.Request{Channel: nb.ch.tag, Name: name, Manifest: true}).Append)
}

// rtt is the link's smoothed round trip and four times its variation.
func (nb *neighbour) rtt() time.Duration {
	s, v := nb.peer.link.RTT()
	if s == 0 {
		return 100 * time.Millisecond
	}
	return s + 4*v
}

// tellNewer answers a push of a run that has been replaced with a manifest of
// the newer one, at most once a second.
func (nb *neighbour) tellNewer() {
	n, c := nb.ch.node, nb.ch
	if !nb.joined || n.now-nb.saidNewer < time.Second && nb.saidNewer != 0 {
		return
	}
	if s := c.slot(c.next - 1); s != nil && s.b != nil {
		nb.saidNewer = n.now
		nb.push.send(s.b.ManifestDatagram())
	}
}

// describe sends the channel's descriptor.
func (nb *neighbour) describe() {
	if nb.joined && nb.ch.descriptor != nil {
		nb.described = nb.ch.node.now
		nb.push.send(nb.ch.descriptor)
	}
}

func (nb *neighbour) onSubscribe(m *wire.Subscribe) {
	n, c := nb.ch.node, nb.ch
	if !nb.joined {
		return
	}
	if nb.haveSerial && int16(m.Serial-nb.subSerial) <= 0 {
		if m.Serial == nb.subSerial { // the answer was lost
			nb.grant(m, nb.push.mask, wire.Granted)
		}
		return
	}
	nb.haveSerial, nb.subSerial = true, m.Serial
	mask, reason := m.Mask, wire.Granted
	switch {
	case !n.serves():
		mask, reason = 0, wire.GrantNotServed
	case c.parent == nb:
		mask, reason = 0, wire.GrantNotLive // no loop of two
	default:
		if n.room(nb) < onesCount(mask) {
			// Whole or not at all: half of a block is of no use to anybody.
			mask, reason = 0, wire.GrantFull
		}
	}
	nb.push.subscribe(m, mask)
	if m.BackfillOnly {
		nb.push.mask = 0
	}
	nb.grant(m, mask, reason)
}

func (nb *neighbour) grant(m *wire.Subscribe, mask wire.StripeMask, reason wire.GrantReason) {
	hop := uint8(0)
	if c := nb.ch; !c.source {
		hop = 255
		if c.parent != nil && c.parent.hop < 254 {
			hop = c.parent.hop + 1
		}
	}
	nb.peer.tell((&wire.Subscribed{Channel: nb.ch.tag, Serial: m.Serial, Mask: mask, Hop: hop, Reason: reason}).Append)
}

// room is how many more stripes may be promised to nb within the cap.
func (n *Node) room(nb *neighbour) int {
	if nb.ch.rate == 0 {
		return block.Stripes
	}
	used := 0.0
	for _, c := range n.channels {
		for _, o := range c.neighbours {
			if o != nb {
				used += float64(onesCount(o.push.mask)) * c.stripeRate()
			}
		}
		if c.group.sending {
			used += float64(onesCount(c.group.push.mask)) * c.stripeRate()
		}
	}
	left := float64(n.bucket.Promisable()) - used
	return max(0, int(left/nb.ch.stripeRate()+0.2))
}

// stripeRate is what one stripe takes on the wire, bytes a second.
func (c *Channel) stripeRate() float64 {
	return c.rate / float64(c.data()) * 1.09
}

// data is how many stripes hold data, as the newest manifest says.
func (c *Channel) data() int {
	if s := c.slot(c.next - 1); s != nil && s.b != nil && s.b.Manifest().Data > 0 {
		return s.b.Manifest().Data
	}
	return block.DefaultData
}

func (nb *neighbour) onSubscribed(m *wire.Subscribed) {
	c := nb.ch
	if m.Serial != nb.serial {
		return
	}
	nb.acked, nb.settled = true, true
	nb.hop = m.Hop
	if nb == c.parent && onesCount(m.Mask) < c.data() && m.Reason != wire.Granted {
		c.node.out.Event(Event{Kind: EventFull, Channel: c.ID, Peer: nb.peer.link.Addr()})
		nb.denied = max(nb.denied, 1)
		nb.subscribed = false
		nb.joinAt = c.node.now
		if m.Mask != 0 {
			nb.peer.tell((&wire.Unsubscribe{Channel: c.tag, Mask: m.Mask}).Append)
		}
		c.parent = nil
		c.chooseParent()
	}
}

// candidate reports whether nb could be the parent.
func (nb *neighbour) candidate() bool {
	return nb.dialled && nb.joined && nb.denied == 0 && nb.peer.link.Established()
}

// chooseParent picks the parent anew: the candidate with the newest run, of
// those the one that is furthest, of those the nearest.
func (c *Channel) chooseParent() {
	n := c.node
	if c.source || c.group.receiving(n.now) {
		return
	}
	var best *neighbour
	for _, nb := range c.neighbours {
		if nb == c.parent || !nb.candidate() {
			continue
		}
		if best == nil || better(nb, best) {
			best = nb
		}
	}
	if best != nil {
		c.adoptParent(best)
		best.peer.tell(best.appendSubscribe)
	}
}

func better(a, b *neighbour) bool {
	if now := a.ch.node.now; (now < a.distrust) != (now < b.distrust) {
		return now < b.distrust
	}
	if a.theirs.Run != b.theirs.Run {
		return a.theirs.Run > b.theirs.Run
	}
	if d := int64(a.theirs.Newest) - int64(b.theirs.Newest); d > 8 || d < -8 {
		return d > 0
	}
	return a.rtt() < b.rtt()
}
