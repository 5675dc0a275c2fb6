package mesh

import (
	"net/netip"
	"slices"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/pace"
	"github.com/sixcast/sixcast/pkg/wire"
)

// What we promise to others: feeds that are live here, within what we can
// send, and where to go with what we cannot (docs/protocol.md section 6.2).

const (
	// promise is how much of the uplink is promised, sourcePromise the same
	// where everything else depends on what we can repair.
	promise       = 0.9
	sourcePromise = 0.85
	// oneMore is how many stripes a child takes of one parent.
	oneMore = 2
	// evictHold is how long a child keeps a feed before one with evictTimes
	// its uplink may take its place.
	evictHold  = 2 * time.Second
	evictTimes = 2
	// believed bounds the uplink that a child is believed, in streams.
	believed = 5
	// rootChildren is how many children a node that has a feed from the
	// source itself keeps on it, at the cost of other feeds.
	rootChildren = 3
	// rootHold is how long the others have those at least.
	rootHold   = 300 * time.Millisecond
	rootDemand = time.Second
	// maxRoot is how many stripes one child gets from a source that is short,
	// and smallSwarm how many neighbours are no reason to be strict.
	maxRoot    = 4
	smallSwarm = 4
	// secondRoot stripes of a source's uplink stay free when a feed has a second
	// root: more roots than that cost it more than the swarm gains.
	secondRoot = 3
	// demandLife is how long a source remembers that a feed was asked for.
	demandLife = 10 * time.Second
	// Where what is promised has to wait for the uplink for more than shedSome
	// of the time and is more by shedSlack stripes than the uplink takes, for
	// longer than shedAfter, up to shedAtOnce feeds are taken back at a time.
	// Waiting alone says nothing: a child may stand still.
	shedSome   = 0.25
	shedSlack  = 0.5
	shedAfter  = 500 * time.Millisecond
	shedAtOnce = 4
	// Who has to let things wait for more than holdSome of the time, though he
	// has promised no more than he may, holds back a stripe more of his uplink
	// every holdEvery, up to holdMost of it: requests and control need it. It
	// goes back by holdBack of a stripe in that time where less than holdLess
	// waits.
	holdSome  = 0.75
	holdLess  = 0.2
	holdEvery = time.Second
	holdMost  = 0.12
	holdBack  = 0.05
	// vacancy is for how long a feed of the source that nobody has any more
	// is kept for those who have proved that they pass things on.
	vacancy = 2 * time.Second
	// goneChild is how long a child may say nothing before it is pushed to
	// no more: REPORT and STATE are due every half second.
	goneChild = 1600 * time.Millisecond
	// silentChild is the same while somebody is refused what it has.
	silentChild = 650 * time.Millisecond
	// silentRoot is the same at the source: its children say more often that
	// they are there (stateRoot). One that has not been heard for soundRoot is
	// asked; where more than lossyWays is lost on the ways to them it is given a
	// round trip and soundRootTime to answer: one word alone may be lost, too.
	silentRoot    = 280 * time.Millisecond
	soundRoot     = 200 * time.Millisecond
	soundRootTime = 30 * time.Millisecond
	lossyWays     = 0.01
)

// onUnsubscribe takes feeds back that a child gives back, unless it was
// overtaken by what the child asked for since.
func (nb *neighbour) onUnsubscribe(m *wire.Unsubscribe) {
	n := nb.ch.node
	if nb.haveSerial && int16(m.Serial-nb.subSerial) < 0 {
		return
	}
	if m.Feeds == wire.AllFeeds {
		nb.haveSerial, nb.subSerial = true, m.Serial // the SUBSCRIBE may come later
	}
	if nb.push.all()&m.Feeds == 0 {
		return
	}
	nb.push.leave(m.Feeds, n.now)
	nb.push.setMask(nb.push.mask&^m.Feeds, n.now)
	nb.ch.countChildren()
}

func (nb *neighbour) onSubscribe(m *wire.Subscribe) {
	n := nb.ch.node
	if !nb.joined {
		return
	}
	if nb.haveSerial && int16(m.Serial-nb.subSerial) <= 0 {
		if m.Serial == nb.subSerial { // the answer was lost
			nb.answer(nb.push.mask, nb.reason, 0)
		}
		return
	}
	nb.haveSerial, nb.subSerial = true, m.Serial
	for i := range wire.Feeds {
		if m.Feeds.Has(i) {
			nb.ch.askedFor[i] = n.now
		}
	}
	nb.uplink = m.Uplink
	feeds, reason := wire.FeedMask(0), wire.GrantNotServed
	if n.serves() {
		feeds, reason = nb.grant(m)
	}
	refused := m.Feeds &^ feeds
	nb.push.subscribe(m, feeds)
	nb.reason = reason
	if m.BackfillOnly {
		nb.push.mask = 0 // and what is owed stays owed
	}
	nb.ch.countChildren()
	nb.answer(feeds, reason, refused)
}

// grant decides which feeds of m a child gets.
func (nb *neighbour) grant(m *wire.Subscribe) (feeds wire.FeedMask, reason wire.GrantReason) {
	n, c := nb.ch.node, nb.ch
	live := c.live()
	if live.Has(wire.FeedManifest) {
		live |= wire.Second
	}
	var may wire.FeedMask // be promised anew
	for i := range wire.Feeds {
		switch {
		case !m.Feeds.Has(i):
		case m.BackfillOnly:
			feeds |= 1 << i
		case c.feeds[i].from == nb || c.feeds[i].next == nb:
			reason = max(reason, wire.GrantNotLive) // no loop of two
		case i >= wire.FeedManifest && c.source && nb.rests():
			reason = max(reason, wire.GrantFull)
		case nb.push.mask.Has(i) && c.hop(i) < int(m.Hop[i]):
			feeds |= 1 << i // goes on
		case !live.Has(i) || c.hop(i) >= int(m.Hop[i]):
			reason = max(reason, wire.GrantNotLive)
		default:
			may |= 1 << i
		}
	}
	left := n.left(nb)
	if c.source && nb.rests() || nb.suspect() && !c.source {
		left = 0
	}
	left -= c.cost(feeds)
	held := onesCount(feeds.Stripes())
	quota := nb.quota()
	if !n.exchanges() && left < c.cost(m.Feeds&^feeds) {
		// Whoever asks here goes nowhere else: whole or not at all.
		return feeds, wire.GrantFull
	}
	for i := range wire.Feeds {
		if !may.Has(i) {
			continue
		}
		if !nb.mayBeRoot(i) || i >= wire.FeedManifest && !nb.mayKeepManifests() {
			reason = wire.GrantFull
			continue
		}
		cost := c.feedCost(i)
		if left-cost < nb.reserve(i, held, quota) {
			left += c.forgetDead(nb)
		}
		if left-cost < nb.reserve(i, held, quota) && !c.makeRoom(nb, i, held, quota, &left) {
			reason = wire.GrantFull
			continue
		}
		feeds |= 1 << i
		left -= cost
		if i < block.Stripes {
			held++
		}
	}
	if feeds == m.Feeds {
		reason = wire.Granted
	}
	return feeds, reason
}

// mayBeRoot reports whether the source lets nb have feed i: one that is free
// goes to those at first who have proved themselves.
func (nb *neighbour) mayBeRoot(i int) bool {
	c := nb.ch
	if !c.source || !c.node.exchanges() || nb.proof.proven || c.children.Has(i) || c.vacated[i] == 0 || c.node.now-c.vacated[i] > vacancy {
		return true
	}
	return c.proven() <= verdicts
}

// mayKeepManifests reports whether the source lets nb have a copy of the
// manifests: where some have proved that they pass things on, those come first,
// as without manifests nobody can do anything.
func (nb *neighbour) mayKeepManifests() bool {
	c := nb.ch
	if !c.source || !c.node.exchanges() || nb.proof.proven || c.servers() <= smallSwarm {
		return true
	}
	if nb.rests() {
		return false
	}
	proven, kept := 0, 0
	for _, o := range c.neighbours {
		if o.proof.proven && o.push.mask != 0 {
			proven++
			if o.push.mask&(wire.Manifest|wire.Second) != 0 {
				kept++
			}
		}
	}
	return proven < rootChildren || kept >= 2
}

// quota is how many stripes a child can pass on to enough others, as far as
// it is believed.
func (nb *neighbour) quota() int {
	c := nb.ch
	if c.rate == 0 || !nb.serves {
		return 0
	}
	most := maxRoot
	if c.source && c.node.exchanges() {
		if nb.rests() {
			return 0
		}
		switch {
		case nb.proof.proven:
			most = max(most, c.shareOf(nb))
		case c.servers() > smallSwarm:
			most = 1
		}
	}
	return min(most, int(promise*nb.believe()*125/c.stripeRate()/rootChildren))
}

// shareOf is nb's part of the stripes by its uplink among those who serve:
// where one has most of what there is, the others cannot feed it first.
func (c *Channel) shareOf(nb *neighbour) int {
	sum := 0.0
	for _, o := range c.neighbours {
		if o.joined && o.serves {
			sum += o.believe()
		}
	}
	return int(float64(c.data()) * nb.believe() / max(sum, 1))
}

// reserve is what must be left after feed i was granted. A source keeps room
// for the feeds that nobody takes from it yet, so that each has one root
// before any has two; and some for those who can do more with it, from whom
// already has its share.
func (nb *neighbour) reserve(i, held, quota int) float64 {
	c := nb.ch
	r := 0.0
	if !c.source && i < block.Stripes && c.node.exchanges() && c.servers() > smallSwarm {
		if c.hop(i) == 1 && c.childrenOn(i) < rootChildren {
			return 0
		}
		for k := range block.Stripes {
			if c.hop(k) == 1 && c.node.now-c.askedFor[k] < rootDemand {
				r += float64(max(0, rootChildren-c.childrenOn(k))) * c.stripeRate()
			}
		}
		return r
	}
	if !c.source || !c.node.exchanges() {
		return 0
	}
	if c.children.Has(i) {
		r += c.cost(c.demand() &^ c.children)
	}
	if c.children.Has(i) && !(nb.proof.proven && c.doubtful(i)) {
		r += secondRoot * c.stripeRate()
	}
	if held >= quota && c.servers() > smallSwarm {
		r += 2 * c.stripeRate()
	}
	return r
}

// demand is the set of feeds that a source keeps room for: the data and a
// spare stripe, and what was asked for of late.
func (c *Channel) demand() wire.FeedMask {
	m := wire.FeedMask(lowest(wire.AllStripes, min(block.Stripes, c.data()+1))) | wire.Manifest
	for i := range block.Stripes {
		if at := c.askedFor[i]; at != 0 && c.node.now-at < demandLife {
			m |= 1 << i
		}
	}
	return m
}

// makeRoom takes a feed from a child for one that can do more with it.
func (c *Channel) makeRoom(nb *neighbour, i, held, quota int, left *float64) bool {
	n := c.node
	if !n.exchanges() {
		return false
	}
	if nb.suspect() || c.source && nb.rests() {
		return false
	}
	up := nb.believe()
	var victim *neighbour
	what, least := i, 0.0
	for _, o := range c.neighbours {
		if o == nb || !o.kept().Has(i) {
			continue
		}
		// Who can do less with it, and at the source who has more than it can
		// pass on.
		over := 0
		if c.source && i < block.Stripes {
			over = onesCount(o.push.mask.Stripes()) - o.quota()
		}
		weak := o.believe()*evictTimes <= up || o.suspect()
		if c.source && i >= wire.FeedManifest {
			weak = nb.proof.proven && !o.proof.proven
		}
		if c.source && i < block.Stripes {
			weak = weak && held < quota || over > 0 && held < quota
		}
		hold := evictHold
		if over > 0 {
			hold = evictHold / 4
		}
		if !weak || n.now-o.push.since < hold || c.source && o.proof.proven && over <= 0 {
			continue
		}
		if score := o.believe() - float64(over)*1000; victim == nil || score < least {
			victim, least = o, score
		}
	}
	if victim == nil && c.source && !c.children.Has(i) {
		// One root for every feed before any has two.
		for k := range block.Stripes {
			if k == i || c.childrenOn(k) < 2 {
				continue
			}
			for _, o := range c.neighbours {
				if o != nb && o.kept().Has(k) && (victim == nil || o.believe() < least) {
					victim, what, least = o, k, o.believe()
				}
			}
		}
	}
	if victim == nil && !c.source && i < block.Stripes && c.hop(i) == 1 && c.childrenOn(i) < rootChildren {
		// Nobody else gets this feed from where we have it.
		for k := range block.Stripes {
			if k == i || c.hop(k) == 1 {
				continue
			}
			for _, o := range c.neighbours {
				if o != nb && o.kept().Has(k) && n.now-o.push.since >= rootHold && (victim == nil || o.uplink < victim.uplink) {
					victim, what = o, k
				}
			}
		}
	}
	if victim == nil {
		return false
	}
	n.stats.Evictions++
	*left += c.feedCost(what)
	victim.losing |= 1 << what
	if what == i {
		c.handovers = append(c.handovers, handover{victim, nb, what, n.now + handoverTime + nb.rtt()})
		return true
	}
	c.handOver(handover{from: victim, feed: what})
	return true
}

// handover is a feed that goes from one child to another: the one is pushed
// to until the other can have passed something on, and is led there. All that
// hangs on it would dry out else.
type handover struct {
	from, to *neighbour
	feed     int
	at       Time
}

// handoverTime and a round trip after a feed was promised to one child it is
// taken from the other.
const handoverTime = 100 * time.Millisecond

// handOver takes the feed from the child that had it.
func (c *Channel) handOver(h handover) {
	h.from.losing &^= 1 << h.feed
	if !h.from.push.mask.Has(h.feed) {
		return
	}
	h.from.push.withdraw(1<<h.feed, c.node.now)
	c.countChildren()
	h.from.evicted(1<<h.feed, h.to)
}

// handOvers does what is due.
func (c *Channel) handOvers() {
	c.handovers = slices.DeleteFunc(c.handovers, func(h handover) bool {
		due := c.node.now >= h.at
		if due {
			c.handOver(h)
		}
		return due
	})
}

// forgetHandovers ends the handovers that nb has part in: it is gone.
func (c *Channel) forgetHandovers(nb *neighbour) {
	c.handovers = slices.DeleteFunc(c.handovers, func(h handover) bool {
		ends := h.from == nb || h.to == nb
		if ends {
			h.from.losing &^= 1 << h.feed
		}
		return ends
	})
}

// kept is what a child is pushed and not to lose in a moment.
func (nb *neighbour) kept() wire.FeedMask { return nb.push.mask &^ nb.losing }

// heir is who has taken our place with a former parent of a feed: its hop is
// what ours was, so nothing of it comes by way of us.
type heir struct {
	nb    *neighbour
	until Time
}

// heirTime is how long it may be taken for a parent because of that.
const heirTime = time.Second

// expectTimes the channel is what our uplink is believed to take before
// anything is known: who has less finds out soon, and who believes less serves
// nobody where the channel is a large one.
const (
	expectTimes = 0.5
	// expectAlone is the same at the source, on which all depends, and where
	// there are few to share the work after aloneTime.
	expectAlone = 2
	aloneTime   = 2 * time.Second
	// expectTold is the same for who was told what he may send, up to that, and
	// without peer exchange, where whoever asks goes nowhere else; and the most
	// for who was told what to believe.
	expectTold = 8
)

// expect tells the uplink what will be asked of it.
func (c *Channel) expect() {
	n := c.node
	whole := c.cost(wire.FeedMask(lowest(wire.AllStripes, c.wanted)) | wire.Manifest | wire.Second)
	if n.exchanges() {
		n.bucket.Step(pace.Rate(oneMore * c.stripeRate()))
	} else {
		n.bucket.Step(pace.Rate(whole)) // whoever asks wants all
	}
	if n.gauge.known {
		if c.rate > 0 {
			n.useGauge(whole)
		}
		return
	}
	first, times := expectTold*whole, expectTimes
	if c.source || c.servers() <= 1 || n.now-c.begunAt > aloneTime && c.servers() <= smallSwarm {
		times = expectAlone
	}
	if n.learns() {
		first = max(times*whole, min(first, float64(n.cfg.Uplink)/8)) // the cap says nothing
	}
	n.bucket.Expect(pace.Rate(first))
}

// shed takes feeds back when more was promised than the uplink turns out to
// take: from those first who can pass on least, and of what others have too.
func (c *Channel) shed() {
	n := c.node
	over := n.used(nil) - n.promisable(c)
	// What counts is whether things have to wait.
	x := 0.0
	if n.late() {
		x = 1
	}
	c.waiting += (x - c.waiting) / 16
	c.holdRepairs()
	switch {
	case c.rate == 0 || n.now-c.advanced > time.Second || c.waiting < shedSome || over < shedSlack*c.stripeRate() || !n.exchanges():
		c.overSince = 0
		return
	case c.overSince == 0:
		c.overSince = n.now
	}
	if n.now-c.overSince < shedAfter {
		return
	}
	c.overSince = n.now
	for range shedAtOnce {
		var victim *neighbour
		what, least := 0, 0.0
		for _, o := range c.neighbours {
			for i := block.Stripes - 1; i >= 0; i-- {
				if !o.push.mask.Has(i) {
					continue
				}
				score := o.believe() - float64(c.childrenOn(i))
				if c.source && c.childrenOn(i) == 1 {
					score += 1e9 // the only root
				}
				if victim == nil || score < least {
					victim, what, least = o, i, score
				}
			}
		}
		if victim == nil {
			return
		}
		n.stats.Shed++
		victim.push.setMask(victim.push.mask&^(1<<what), n.now)
		c.countChildren()
		victim.evicted(1<<what, nil)
		if over -= c.feedCost(what); over <= 0 {
			return
		}
	}
}

// holdRepairs finds how much of the uplink is needed for what nobody was
// promised.
func (c *Channel) holdRepairs() {
	n := c.node
	if !n.exchanges() || c.rate == 0 || n.now < c.holdAt || n.now-c.advanced > time.Second {
		return
	}
	c.holdAt = n.now + holdEvery
	switch {
	case c.waiting > holdSome:
		c.heldBack = min(c.heldBack+c.stripeRate(), holdMost*n.capacity())
	case c.waiting < holdLess:
		c.heldBack = max(0, c.heldBack-holdBack*c.stripeRate())
	}
}

// evicted tells a child that it has lost feeds, and to whom: to others who have
// them from us.
func (nb *neighbour) evicted(feeds wire.FeedMask, to *neighbour) {
	m := nb.subscribed(nb.push.mask, wire.GrantFull)
	if to != nil && to.peer.link.Established() {
		m.Redirects[0] = wire.Redirect{Feeds: feeds, Addr: to.peer.link.Addr()}
		m.Redirect = 1
	} else {
		nb.ch.redirect(nb, feeds, &m, true)
	}
	nb.reason = wire.GrantFull
	nb.peer.tell(m.Append)
}

// dismiss takes all from a child.
func (nb *neighbour) dismiss(to *neighbour) {
	m := nb.push.mask
	nb.push.setMask(0, nb.ch.node.now)
	nb.evicted(m, to)
}

// believe is the uplink of a child as far as it counts, kbit/s: hardly at all
// where it has granted feeds of late of which nothing came.
func (nb *neighbour) believe() float64 {
	rate := nb.ch.rate * 8 / 1000
	if nb.suspect() {
		return 0
	}
	if nb.empty > 0 {
		return min(float64(nb.uplink), rate/10)
	}
	if !nb.ch.source && !nb.delivered {
		return min(float64(nb.uplink), rate)
	}
	return min(float64(nb.uplink), believed*rate)
}

func (nb *neighbour) subscribed(feeds wire.FeedMask, reason wire.GrantReason) wire.Subscribed {
	c := nb.ch
	m := wire.Subscribed{Channel: c.tag, Serial: nb.subSerial, Feeds: feeds, Reason: reason}
	for i := range wire.Feeds {
		m.Hop[i] = uint8(min(wire.NoHop, c.hop(i)))
	}
	return m
}

func (nb *neighbour) answer(feeds wire.FeedMask, reason wire.GrantReason, refused wire.FeedMask) {
	m := nb.subscribed(feeds, reason)
	if refused != 0 {
		nb.ch.redirect(nb, refused, &m, false)
		nb.ch.offerRoots(nb, feeds|refused, &m)
	}
	nb.peer.tell(m.Append)
}

// doubtful reports whether nobody has feed i of the source who has proved that
// it passes it on.
func (c *Channel) doubtful(i int) bool {
	if c.servers() <= smallSwarm {
		return false
	}
	for _, o := range c.neighbours {
		if o.push.mask.Has(i) && o.proof.proven {
			return false
		}
	}
	return true
}

// hoarded reports whether feed i is with a child that has more than it can
// pass on.
func (c *Channel) hoarded(i int) bool {
	for _, o := range c.neighbours {
		if o.push.mask.Has(i) && onesCount(o.push.mask.Stripes()) > o.quota() && c.node.now-o.push.since >= evictHold/4 {
			return true
		}
	}
	return false
}

// offerRoots names stripes that a child of the source should ask it for: those
// that nobody has, and those of children that have more than they can pass on.
func (c *Channel) offerRoots(nb *neighbour, asked wire.FeedMask, m *wire.Subscribed) {
	most := nb.quota() - onesCount(nb.push.mask.Stripes())
	if !c.source || most <= 0 || m.Redirect == wire.MaxRedirects {
		return
	}
	var offer wire.FeedMask
	start := c.node.random.IntN(block.Stripes)
	wanted := c.demand()
	for _, unclaimed := range [2]bool{true, false} {
		for k := 0; k < block.Stripes && most > 0; k++ {
			i := (start + k) % block.Stripes
			if asked.Has(i) || nb.push.mask.Has(i) || offer.Has(i) || !nb.mayBeRoot(i) {
				continue
			}
			if unclaimed && (c.children.Has(i) || !wanted.Has(i)) || !unclaimed && !c.hoarded(i) && !(nb.proof.proven && c.doubtful(i)) {
				continue
			}
			offer |= 1 << i
			most--
		}
	}
	if offer != 0 {
		m.Redirects[m.Redirect] = wire.Redirect{Feeds: offer} // no address: us
		m.Redirect++
	}
}

// redirect names children of ours, or others, who have what nb was refused.
func (c *Channel) redirect(nb *neighbour, refused wire.FeedMask, m *wire.Subscribed, children bool) {
	n := c.node
	if !n.exchanges() {
		return
	}
	for i := range wire.Feeds {
		if !refused.Has(i) || i == wire.FeedSecond {
			continue
		}
		var best *neighbour
		var most int
		for _, o := range c.neighbours {
			if o == nb || !o.joined || !o.serves || o.room() == 0 || o.suspect() || !o.peer.link.Established() || o.silence() > mute {
				continue
			}
			weight := min(o.room(), 8) + n.random.IntN(4)
			if o.delivered {
				weight += 100
			}
			switch {
			case o.kept().Has(i):
				weight += 1000
			case children || !o.held.Live.Has(i):
				continue
			}
			if best == nil || weight > most {
				best, most = o, weight
			}
		}
		if best == nil {
			continue
		}
		best.promised++
		addr := best.peer.link.Addr()
		k := 0
		for k < m.Redirect && m.Redirects[k].Addr != addr {
			k++
		}
		if k == wire.MaxRedirects {
			continue
		}
		if k == m.Redirect {
			m.Redirect++
			m.Redirects[k] = wire.Redirect{Addr: addr}
		}
		m.Redirects[k].Feeds |= 1 << i
	}
}

// room is how many feeds a neighbour has free, less those to whom we sent
// others since it said so.
func (nb *neighbour) room() int { return max(0, int(nb.held.Slots)-nb.promised) }

// feedCost is what one feed takes on the wire, bytes a second.
func (c *Channel) feedCost(i int) float64 {
	if i < block.Stripes {
		return c.stripeRate()
	}
	return c.manifestRate()
}

// cost is what a set of feeds takes.
func (c *Channel) cost(m wire.FeedMask) float64 {
	return priced(m, c.stripeRate(), c.manifestRate())
}

// priced is that at a rate for each stripe and for each copy of the manifests.
func priced(m wire.FeedMask, stripe, manifest float64) float64 {
	k := onesCount(m.Stripes())
	return float64(k)*stripe + float64(m.Count()-k)*manifest
}

// used is what the node has promised to everybody but nb, bytes a second.
func (n *Node) used(nb *neighbour) float64 {
	used := 0.0
	for _, c := range n.channels {
		stripe, manifest := c.stripeRate(), c.manifestRate()
		for _, o := range c.takers {
			if o != nb {
				used += priced(o.kept(), stripe, manifest)
			}
		}
		if c.group.sending {
			used += float64(onesCount(c.group.push.mask.Stripes()))*c.stripeRate() + 2*c.manifestRate()
		}
	}
	return used
}

// left is how much more may be promised to nb, what it has included, bytes a
// second.
func (n *Node) left(nb *neighbour) float64 {
	if nb.ch.rate == 0 {
		return 1e12
	}
	return n.promisable(nb.ch) - n.used(nb)
}

// capacity is what the node can send, bytes a second, as far as it is known.
func (n *Node) capacity() float64 { return float64(n.bucket.Capacity()) }

// promisable is how much of that may be promised.
func (n *Node) promisable(c *Channel) float64 {
	p := float64(n.bucket.Promisable())
	if c.source {
		p *= sourcePromise / promise
	}
	return p - c.heldBack
}

// slots is how many more stripes of c may be promised.
func (n *Node) slots(c *Channel) int {
	switch {
	case !n.serves():
		return 0
	case c.rate == 0:
		return 255
	}
	return max(0, int(min(255, (n.promisable(c)-n.used(nil))/c.stripeRate())))
}

// stripeRate is what one stripe takes on the wire, bytes a second, headers
// included.
func (c *Channel) stripeRate() float64 { return c.rate / float64(c.data()) * 1.075 }

// manifestRate is the same for one copy of the manifests.
func (c *Channel) manifestRate() float64 {
	if c.meanTime == 0 {
		return 0
	}
	return float64(block.MinManifest+256*c.rows()+wire.TagSize+wire.IPOverhead) / c.meanTime
}

// data is how many stripes hold data, as the newest manifest says.
func (c *Channel) data() int {
	if s := c.slot(c.next - 1); s != nil && s.b != nil && s.b.Manifest().Data > 0 {
		return s.b.Manifest().Data
	}
	return block.DefaultData
}

func (c *Channel) rows() int {
	if s := c.slot(c.next - 1); s != nil && s.b != nil {
		return s.b.Manifest().Rows
	}
	return 2
}

// countChildren finds who takes which feeds from us.
func (c *Channel) countChildren() {
	var m wire.FeedMask
	c.takers = c.takers[:0]
	for _, nb := range c.neighbours {
		if nb.push.all() != 0 {
			m |= nb.push.all()
			c.takers = append(c.takers, nb)
		}
	}
	if c.group.sending {
		m |= c.group.push.mask
	}
	for i := range c.vacated {
		if (c.children &^ m).Has(i) {
			c.vacated[i] = c.node.now
		}
	}
	c.children = m
}

func (c *Channel) childrenOn(i int) (k int) {
	for _, nb := range c.takers {
		if nb.kept().Has(i) {
			k++
		}
	}
	return k
}

// forgetSilent stops pushing to children that say nothing any more.
func (c *Channel) forgetSilent() {
	n := c.node
	for _, nb := range c.neighbours {
		if nb.push.leaving != 0 && n.now >= nb.push.leaveAt {
			nb.push.leave(wire.AllFeeds, n.now)
			c.countChildren()
		}
		silent := min(nb.silence(), n.now-nb.push.since)
		if c.source && nb.push.mask != 0 && silent > soundRoot+nb.half() && nb.sounded <= nb.peer.link.Heard() {
			nb.sounded = n.now
			nb.peer.link.Ping(n.now)
		}
		if nb.push.mask != 0 && silent > goneChild {
			nb.push.setMask(0, n.now)
			nb.haveSerial = false // so that it may come back with any
			c.countChildren()
		}
	}
}

// forgetDead stops pushing to children that seem to be gone, since others need
// the room: who is not comes back. It tells how much that is, bytes a second.
func (c *Channel) forgetDead(but *neighbour) (room float64) {
	n := c.node
	for _, nb := range c.neighbours {
		silent := silentChild
		if c.source && (n.bucket.Loss() < lossyWays || nb.sounded > nb.peer.link.Heard() && n.now-nb.sounded > nb.rtt()+soundRootTime) {
			silent = silentRoot
		}
		if nb == but || nb.push.mask == 0 || min(nb.silence(), n.now-nb.push.since) <= silent+nb.half() && !nb.unsound() {
			continue
		}
		room += c.cost(nb.kept())
		c.forgetHandovers(nb)
		nb.dismiss(but)
	}
	if room > 0 {
		c.countChildren()
		c.offerVacant(but)
	}
	return room
}

// unsound reports whether nb has given no sign of life when it was asked, and
// had the time to.
func (nb *neighbour) unsound() bool {
	return nb.unanswering() && nb.ch.node.now-nb.ch.soundedAt > nb.rtt()+soundTime
}

// unanswering reports whether nb has given no sign of life since all were asked
// for one.
func (nb *neighbour) unanswering() bool {
	c := nb.ch
	at := c.soundedAt
	return at != 0 && c.node.now-at < massTime && max(nb.peer.link.Heard(), nb.push.since, c.node.woke) < at-pingGap
}

// offerVacant tells the children of a source, but one, of stripes that nobody
// has any more, each of others: what hangs on them waits for it.
func (c *Channel) offerVacant(but *neighbour) {
	if !c.source || !c.node.exchanges() {
		return
	}
	var offered wire.FeedMask
	for _, nb := range c.neighbours {
		if nb == but || nb.push.mask == 0 || nb.rests() || nb.silence() > silentRoot {
			continue
		}
		m := nb.subscribed(nb.push.mask, nb.reason)
		c.offerRoots(nb, offered, &m)
		if m.Redirect > 0 {
			offered |= m.Redirects[0].Feeds
			nb.peer.tell(m.Append)
		}
	}
}

// follow goes where a redirect of by points, who has just refused some feeds;
// lost are those that it pushed to us until now.
func (c *Channel) follow(by *neighbour, to netip.AddrPort, feeds, refused, lost wire.FeedMask) {
	n := c.node
	ours := !to.IsValid() || to.Addr().IsUnspecified()
	if ours {
		// Nobody offers what he refuses in the same breath, or did before.
		if feeds &^= refused; n.now < by.offeredNot {
			return
		}
	}
	for i := range c.feeds {
		// What the source offers itself is better than whoever was asked.
		f := &c.feeds[i]
		better := ours && by.hopOn(i) == 0 && f.next != by
		still := f.from != nil && f.from != by && (f.from.paused != 0 || f.dry != 0 || better && n.now-f.heard > c.lull())
		if f.from != nil && !(still && (f.next == nil || better)) {
			feeds &^= 1 << i
		}
	}
	if feeds != 0 && ours {
		for i := range block.Stripes {
			if feeds.Has(i) && by.offers(i) {
				by.offered |= 1 << i
				c.take(i, by)
			}
		}
		return
	}
	if feeds == 0 || !n.exchanges() || !dialable(to, by.peer.link.Addr()) || !c.redirects.take(n.now) {
		return
	}
	nb := n.dialNamed(c, to, by)
	if nb == nil || nb.paused != 0 || nb.denied > 0 || nb.empty >= emptyGrants || n.now < nb.notBefore {
		return
	}
	// Who was named by others is no better than anybody else.
	most := share(c.wanted, c.servers()) - c.feedsOf(nb).Count()
	if !nb.delivered && c.playing() {
		most = 1 - c.feedsOf(nb).Count()
	}
	for i := 0; i < wire.Feeds && most > 0; i++ {
		if feeds.Has(i) && !nb.push.mask.Has(i) && c.feeds[i].from != nb {
			if lost.Has(i) {
				c.heirs[i] = heir{nb, n.now + heirTime}
			}
			c.take(i, nb)
			most--
		}
	}
}
