package mesh

import (
	"slices"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/link"
	"github.com/sixcast/sixcast/pkg/pace"
	"github.com/sixcast/sixcast/pkg/wire"
)

// neighbour is a peer's part in one channel, and ours towards it.
type neighbour struct {
	peer    *peer
	ch      *Channel
	dialled bool // we asked for it
	since   Time // when it became one

	rxTag   wire.Tag // before what they send us
	txTag   wire.Tag // before what we send them; 0 not known yet
	joined  bool     // both sides know each other's tag
	joinAt  Time     // when JOIN was last sent
	denied  uint8    // JOINs answered with "unknown" or "full"
	unknown bool     // the last one with "unknown"
	theirs  wire.Progress

	serves bool          // it passes on to others
	held   wire.Holdings // what it can push, as it says
	lead   bool          // dialled because others named it

	namedBy    *neighbour // who did; nil once that is gone
	misnamed   uint8      // of those that it named, how many did not answer of late
	misnamedAt Time

	// They as our parent.
	serial     uint16
	asked      wire.FeedMask // of the last SUBSCRIBE, less what was refused
	askedHalf  bool
	askedAt    Time
	openAt     Time          // since when something asked for is unanswered
	offered    wire.FeedMask // what it told us to ask it for, and we did
	offeredNot Time          // until then that is not read: it refused what it had offered
	asks       int           // SUBSCRIBEs without an answer
	acked      bool
	changed    bool // what was assigned to it is not what it was asked for
	backfill   bool // only the backlog
	filling    Time // until then it may push a backlog that was asked for
	gives      int  // feeds assigned to it, while parents are chosen
	delivered  bool // has pushed something verified
	empty      int  // times that it granted and delivered nothing
	grantedAt  Time
	leftAt     Time // when a feed was last taken away from it
	busyUntil  Time // refuses requests
	busy       int  // times in a row that it did
	strayAt    Time // when it was last told that it pushes what we do not want
	notBefore  Time // not asked for feeds before
	distrust   Time // the last choice until then
	distrusted uint8
	paused     Time  // since when nothing comes of it, and others are asked to take over; 0: it does
	triedAt    Time  // when we last tried whether it passes on what it gets
	excuses    uint8 // trials refused in spite of what it says that it has
	shady      Time  // it promised what it did not deliver; served last until then
	unanswered uint8 // requests in a row that brought nothing
	turn       turnaround
	last       lastAsk
	requested  Time          // when the last of them went out
	lastGood   Time          // when something verified last came of a feed of it
	starvedAt  Time          // when a feed of it last starved
	later      time.Duration // that it brings things than it says; smoothed
	tellFull   bool          // the event has been said
	latest     block.Number  // newest block that anything came of
	lastData   Time
	arrivals   pace.Arrivals
	due, got   float64 // shards expected of its pushes and come, of late
	orphans    int
	verify     allowance
	query      askOnce
	asking     allowance // manifests we ask them for because of what they say
	naming     allowance // PEERS that are looked at
	wrongBlock block.Number
	wrongs     int // blocks of which something false came, of late
	wrongAt    Time
	doubted    Time      // when it was asked whether it holds other manifests
	forkedRun  block.Run // holds other manifests of this run than we do

	// They as our child.
	push       pusher
	losing     wire.FeedMask // of what is pushed: what it is to lose in a moment
	haveSerial bool
	subSerial  uint16
	reason     wire.GrantReason // of the last answer
	uplink     uint32           // as it says, kbit/s
	proof      proof            // that it passes on what it gets
	auditing   allowance        // AUDITs of theirs that are carried out
	promised   int              // others sent to it since it said what room it has
	repairs    allowance        // what they may request, and be sent of a backlog again
	changes    allowance        // SUBSCRIBE and STATE that are looked at
	saidState  Time
	saidLive   wire.FeedMask // what the last STATE said
	saying     allowance     // STATE because of changes
	firsts     allowance     // manifests asked for that go before all else
	sayAgain   Time          // when it is told once more; 0 never
	saidNewer  Time
	described  Time // when the descriptor was last sent
	sounded    Time // when it was asked for a sign of life
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
	firstRate   = 4 // manifests asked for a second that go before all else
	firstBurst  = 16
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
	// deniedFirst after a JOIN was denied another is sent; where there was no
	// room it doubles up to deniedMost.
	deniedFirst = 500 * time.Millisecond
	deniedMost  = 30 * time.Second
	// initialLoss is taken for the loss before any is known.
	initialLoss = 0.01
)

func (n *Node) neighbour(p *peer, c *Channel) *neighbour {
	for _, nb := range p.joined {
		if nb.ch == c {
			return nb
		}
	}
	nb := &neighbour{
		peer:     p,
		ch:       c,
		since:    n.now,
		verify:   fullAllowance(verifyRate, verifyBurst),
		repairs:  fullAllowance(0, block.MaxShards*maxQueue), // cut to what the stream takes at the first use
		asking:   fullAllowance(askRate, askRate),
		changes:  fullAllowance(changeRate, changeBurst),
		naming:   fullAllowance(1, 4),
		auditing: fullAllowance(4, 8),
		saying:   fullAllowance(stateRate, stateBurst),
		firsts:   fullAllowance(firstRate, firstBurst),
	}
	nb.push.owner = nb
	for i := range nb.held.Hop {
		nb.held.Hop[i] = wire.NoHop // not the source: nothing is known yet
	}
	nb.push.path.Init(&n.bucket.Uplink)
	p.joined = append(p.joined, nb)
	c.neighbours = append(c.neighbours, nb)
	return nb
}

// join asks a linked peer for a channel.
func (n *Node) join(p *peer, c *Channel) *neighbour {
	nb := n.neighbour(p, c)
	nb.dialled = true
	if p.link.Established() && !nb.joined {
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
	for i := range c.book {
		if c.book[i].from == nb {
			c.book[i].from = nil
		}
	}
	for _, o := range c.neighbours {
		if o.namedBy == nb {
			o.namedBy = nil
		}
	}
	c.forgetTrials(nb)
	c.forgetHandovers(nb)
	for i := range c.heirs {
		if c.heirs[i].nb == nb {
			c.heirs[i] = heir{}
		}
	}
	c.leave(nb)
	nb.push.setMask(0, c.node.now)
	c.countChildren()
	if c.told == nb {
		c.told = nil
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

// appendJoin appends JOIN, and SUBSCRIBE for the feeds that are to come from
// this neighbour.
func (nb *neighbour) appendJoin(dst []byte) []byte {
	n, c := nb.ch.node, nb.ch
	if nb.rxTag == 0 {
		nb.rxTag = n.links.NewTag(nb.peer.link, nb)
	}
	nb.joinAt = n.now
	m := wire.Join{Key: c.ID, Tag: nb.rxTag, Serves: n.serves(), Uplink: n.uplink()}
	dst = m.Append(dst)
	if !c.source && !c.group.receiving(n.now) && n.now >= c.waitUntil {
		if c.begun && c.taken() == 0 && n.now-c.advanced > time.Second {
			// After a loss of everything one is a newcomer again.
			c.begunAt, c.caughtUp = n.now, false
		}
		c.guess(nb)
	}
	switch {
	case c.wantOf(nb) != 0:
		dst = nb.appendSubscribe(dst)
	case nb.backfill || c.lacksBacklog(nb):
		nb.backfill = true
		dst = nb.appendSubscribe(dst)
	}
	return dst
}

// lacksBacklog reports whether nb is to send the backlog since the last random
// access point, for a quick start: the group brings only what is new.
func (c *Channel) lacksBacklog(nb *neighbour) bool {
	if c.caughtUp || c.taken() != 0 || nb != c.group.repairer && !c.group.receiving(c.node.now) {
		return false
	}
	return !slices.ContainsFunc(c.neighbours, func(o *neighbour) bool { return c.node.now < o.filling })
}

// guess assigns feeds to a peer of which nothing is known yet, as nothing is
// known of others either: what it does not have it refuses.
func (c *Channel) guess(nb *neighbour) {
	taken := c.taken()
	have := wire.FeedMask(taken.Stripes()).Count()
	if c.group.repairer == nb || have >= c.wanted && taken.Has(wire.FeedManifest) || nb.joined {
		return
	}
	dialled := 0
	for _, o := range c.neighbours {
		if o.dialled && o.denied == 0 {
			dialled++
		}
	}
	most := share(c.wanted, dialled) - c.feedsOf(nb).Count()
	if !taken.Has(wire.FeedManifest) {
		c.take(wire.FeedManifest, nb)
	} else if c.second && !taken.Has(wire.FeedSecond) && (c.feeds[wire.FeedManifest].from != nb || dialled == 1) {
		c.take(wire.FeedSecond, nb)
	}
	// Not everybody the same of the same.
	start := c.node.random.IntN(c.wanted)
	for k := 0; k < c.wanted && have < c.wanted && most > 0; k++ {
		if i := (start + k) % c.wanted; !taken.Has(i) {
			c.take(i, nb)
			have++
			most--
		}
	}
}

func (n *Node) serves() bool { return n.cfg.Upload != 0 && !n.poor }

func (n *Node) uplink() uint32 {
	return uint32(min(n.bucket.Capacity()*8/1000, 0xffffffff))
}

// heard notes that something of a block came.
func (nb *neighbour) heard(name block.Name) {
	if name.Run == nb.ch.run && name.Number > nb.latest && !beyond(name.Number, nb.ch.next, ahead) {
		nb.latest = name.Number
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
			nb.push.leave(wire.AllFeeds, n.now)
			nb.push.setMask(0, n.now)
			nb.ch.countChildren()
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
			nb.onUnsubscribe(&m)
		}
	case wire.MsgState:
		var m wire.State
		if err := m.Decode(body); err != nil {
			return err
		}
		if nb := p.joinedAs(m.Channel); nb != nil && nb.changes.take(n.now) {
			nb.onState(m.Progress, &m.Holdings)
		}
	case wire.MsgPeers:
		var m wire.Peers
		if err := m.Decode(body); err != nil {
			return err
		}
		if nb := p.joinedAs(m.Channel); nb != nil {
			nb.onPeers(&m)
		}
	case wire.MsgAudit:
		var m wire.Audit
		if err := m.Decode(body); err != nil {
			return err
		}
		if nb := p.joinedAs(m.Channel); nb != nil {
			nb.onAudit(&m)
		}
	case wire.MsgVerdict:
		var m wire.Verdict
		if err := m.Decode(body); err != nil {
			return err
		}
		if nb := p.joinedAs(m.Channel); nb != nil {
			nb.onVerdict(&m)
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
	case wire.MsgTrain:
		var m wire.Train
		if err := m.Decode(body); err != nil {
			return err
		}
		p.onTrain(&m)
	case wire.MsgArrived:
		var m wire.Arrived
		if err := m.Decode(body); err != nil {
			return err
		}
		p.onArrived(&m)
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
	nb.recall()
	c.changed = c.changed || nb.changed
	nb.serves, nb.uplink = m.Serves, m.Uplink
	nb.push.setTag(m.Tag)
	if nb.rxTag == 0 {
		nb.rxTag = n.links.NewTag(p.link, nb)
	}
	answer.Status, answer.Tag, answer.Progress, answer.Holdings = wire.JoinOK, nb.rxTag, c.Progress(), c.holdings()
	nb.saidLive = answer.Holdings.Live
	p.tell(answer.Append)
	c.namePeers(nb, wire.MaxPeers)
	if nb.described == 0 || n.now-nb.described >= describeAgain {
		nb.describe()
	}
}

// deniedFor is how long who had no room for us, or did not know the channel, is
// left in peace: the one for longer and longer, the other may learn of it any
// moment.
func (nb *neighbour) deniedFor() time.Duration {
	switch {
	case nb.denied == 0:
		return 0
	case nb.unknown:
		return deniedFirst
	}
	return min(deniedFirst<<min(nb.denied-1, 8), deniedMost)
}

func (nb *neighbour) onJoined(m *wire.Joined) {
	n, c := nb.ch.node, nb.ch
	if m.Status != wire.JoinOK || m.Tag&wire.TagBit == 0 {
		kind := EventUnknown
		if nb.unknown = m.Status != wire.JoinFull; !nb.unknown {
			kind = EventFull
		}
		if nb.denied == 0 {
			n.out.Event(Event{Kind: kind, Channel: c.ID, Peer: nb.peer.link.Addr()})
		}
		if nb.denied < 255 {
			nb.denied++
		}
		nb.joinAt = n.now // again later
		c.leave(nb)
		return
	}
	nb.txTag, nb.joined, nb.denied, nb.serves = m.Tag, true, 0, true
	nb.recall()
	c.changed = c.changed || nb.changed
	nb.push.setTag(m.Tag)
	nb.onState(m.Progress, &m.Holdings)
	if c.live() != 0 {
		nb.sayState()
	}
	c.reassign = true
}

// onState learns what a neighbour holds and can push.
func (nb *neighbour) onState(p wire.Progress, h *wire.Holdings) {
	n, c := nb.ch.node, nb.ch
	if p.Run.TooFarAhead(n.UTC(n.now)) {
		p.Run = 0 // nothing that we could take
	}
	if h.Live&^nb.held.Live != 0 {
		c.reassign = true
		if n.now < nb.notBefore && nb.held.Live == 0 && !nb.suspect() {
			nb.notBefore = n.now // it had nothing, now it has
		}
	}
	for i := range h.Hop {
		if !h.Live.Has(i) {
			h.Hop[i] = nb.held.Hop[i] // what comes in spite of that has come as far as before
		}
	}
	if gone := nb.held.Live &^ h.Live; gone != 0 {
		c.dries(nb, gone)
	}
	nb.held, nb.promised = *h, 0
	nb.theirs = p
	if p.Run == 0 || p.Newest == wire.NoNumber {
		return
	}
	switch {
	case p.Run > c.run:
		// A claim, until a manifest proves it.
		nb.askFor(block.Name{Run: p.Run, Number: p.Newest})
	case p.Run == c.run && c.begun && p.Newest >= c.next && !beyond(p.Newest, c.next, window/2):
		// A tail that was lost: nothing that came after it told us; or all
		// that comes to us is late.
		if nb.asked != 0 && n.now-nb.lastData > 40*time.Millisecond && n.now-c.advanced > 40*time.Millisecond ||
			n.now-c.advanced > grace/2+c.blockTime() || c.far(p.Newest) {
			nb.askFor(block.Name{Run: p.Run, Number: p.Newest})
		}
	}
}

// askFor requests a manifest, once in a round trip.
func (nb *neighbour) askFor(name block.Name) {
	n := nb.ch.node
	if !nb.joined || nb.query.name == name && n.now-nb.query.at < nb.rtt()+20*time.Millisecond {
		return
	}
	weight := 1.0
	if !nb.dialled {
		weight = askStranger
	}
	if !nb.asking.takeSome(n.now, weight) {
		return
	}
	nb.query = askOnce{name, n.now}
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

// answers is how long a request to nb may take to be answered before others
// are asked.
func (nb *neighbour) answers() time.Duration {
	s, v := nb.peer.link.RTT()
	if s == 0 {
		s = 100 * time.Millisecond
	}
	t := s + min(4*v, 60*time.Millisecond)
	if e := nb.turn.Estimate; e.Smoothed > 0 {
		t = e.Smoothed + e.Deviation
	}
	return min(t, max(s, nb.ch.node.cfg.Patience/8)) + askAgain
}

// turnaround is how long a neighbour takes to answer requests, its own queue
// included. A request that was followed by another before anything came
// measures nothing (Karn).
type turnaround struct {
	link.Estimate
	at    Time // of the request that is being timed; 0 none
	until Time // requests before this may still be answered
}

// asked notes a request.
func (t *turnaround) asked(now Time) {
	t.at = now
	if now < t.until {
		t.at = 0
	}
	t.until = now + time.Second
}

// answered notes that something came that had been requested.
func (t *turnaround) answered(now Time) {
	if t.at != 0 {
		t.Sample(now - t.at)
	}
	t.at, t.until = 0, 0
}

// lastAsk is what a neighbour was last asked for.
type lastAsk struct {
	number block.Number
	shards uint64
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
