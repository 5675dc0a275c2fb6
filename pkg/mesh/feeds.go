package mesh

import (
	"slices"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

// What we take from others: a parent for every feed, chosen, watched and
// replaced one by one (docs/protocol.md section 6.1).

const (
	// maxHop ends a chain that no sensible swarm has.
	maxHop = 30
	// spreadOver is how many parents the feeds are shared among where there
	// are enough to choose from, which is from wellKnown on.
	spreadOver = 8
	wellKnown  = 16
	// liveFor and two blocks without a fresh shard, and a stripe is dead.
	liveFor = 350 * time.Millisecond
	// deadParent is how long a parent may be silent on all its feeds while
	// others deliver, besides two blocks; starved the same for one feed.
	deadParent = 250 * time.Millisecond
	starved    = 600 * time.Millisecond
	// hush and a block is how long a parent may say nothing at all, data and
	// STATE, while others deliver.
	hush = 80 * time.Millisecond
	// dryHold after we have said that a feed is dry all know who had it from us,
	// and who says that he has it may be our parent. dryWait after a parent has
	// said so another is asked: until then the parent may have found one.
	dryHold = 100 * time.Millisecond
	dryWait = 300 * time.Millisecond
	// massGone parents that pause within massTime, and all are asked for a sign
	// of life; who gives none within a round trip and soundTime is gone.
	massGone  = 2
	massTime  = time.Second
	soundTime = 80 * time.Millisecond
	pingGap   = 60 * time.Millisecond
	// goneAsked is how long somebody who was asked may say nothing at all.
	goneAsked = 250 * time.Millisecond
	// outrunBy others who say so for outrunTime, and what does not come to us does
	// come to them.
	outrunBy   = 2
	outrunTime = 100 * time.Millisecond
	// grace: when nobody has delivered for so long, it is the source.
	grace = 400 * time.Millisecond
	// lullLeast and a block, and it is a lull of the source, for up to lullMost
	// or lullLong.
	lullLeast = 60 * time.Millisecond
	lullMost  = 600 * time.Millisecond
	lullLong  = 30 * time.Second
	// mute is how long a parent may say nothing at all, STATE included,
	// where there is another to take its place.
	mute = 800 * time.Millisecond
	// tooMuchLoss of what a parent should have pushed, enough shards, and it
	// is left for another.
	tooMuchLoss = 0.4
	enough      = 64
	// switchEvery is how often one feed may go to a better parent, and
	// switchHold how long it keeps one at least.
	switchEvery = 700 * time.Millisecond
	switchHold  = 5 * time.Second
	// perFeed is what each further feed from one parent weighs against
	// nearness; jitter keeps a crowd from choosing alike.
	perFeed = 10 * time.Millisecond
	// full is what it weighs that a parent has no room: it may make some.
	full = 500 * time.Millisecond
	// overShare is what each feed beyond a parent's share weighs, overMost all
	// of them at most where there are few to choose from.
	overShare = 100 * time.Millisecond
	overMost  = 400 * time.Millisecond
	// unproven is what it weighs that nothing has come from a parent yet.
	unproven = 50 * time.Millisecond
	jitter   = 20 * time.Millisecond
	// dialTime is how long a feed waits for a peer that is being dialled, and
	// dialShort until somebody else is asked as well.
	dialTime  = time.Second
	dialShort = 200 * time.Millisecond
	// joinTime is how long a newcomer tries to get all since the last random
	// access point, and resumeTime how far back a new parent is asked to begin
	// by who is no newcomer.
	joinTime   = 2500 * time.Millisecond
	resumeTime = 400 * time.Millisecond
	// refusedFor is the mean time for which a full parent is not asked again.
	refusedFor = 500 * time.Millisecond
	// emptyGrants in a row, and a parent is asked no more.
	emptyGrants = 3
)

// feed is where one feed comes from.
type feed struct {
	from    *neighbour   // nil: nobody
	next    *neighbour   // asked to take over; from goes on until it delivers
	nextAt  Time         // when it was chosen
	after   block.Number // from which block on next was asked to begin
	granted bool         // from has promised it
	since   Time         // when from was chosen
	first   block.Number
	heard   Time // when it last brought something fresh
	dry     Time // since when nothing can come of it, as its parent says or is silent; 0: it may
	latest  block.Number
	passed  Time         // when it came to latest
	last    Time         // when it last brought anything
	joint   block.Number // what is older comes as a backlog, apart from what is new
	back    block.Number // newest of the backlog that it has brought something of
	backAt  Time         // when it last did
	delay   float64      // seconds from a block's creation to its arrival, on our clock; smoothed
	offset  float64      // seconds from the first of a block to the last on this feed; smoothed
	spread  float64      // deviation of that
}

// feedsOf is what nb pushes to us or was asked to.
func (c *Channel) feedsOf(nb *neighbour) (m wire.FeedMask) {
	for i := range c.feeds {
		if f := &c.feeds[i]; f.from == nb || f.next == nb {
			m |= 1 << i
		}
	}
	return m
}

// wantOf is that and what nb is on trial for.
func (c *Channel) wantOf(nb *neighbour) wire.FeedMask { return c.feedsOf(nb) | c.tried(nb) }

// taken is the set of feeds that have a parent.
func (c *Channel) taken() (m wire.FeedMask) {
	for i := range c.feeds {
		if c.feeds[i].from != nil {
			m |= 1 << i
		}
	}
	return m
}

// granted is the set of feeds that a parent has promised.
func (c *Channel) granted() (m wire.FeedMask) {
	for i := range c.feeds {
		if f := &c.feeds[i]; f.from != nil && f.granted {
			m |= 1 << i
		}
	}
	return m
}

// needy is the set of feeds whose parent has paused and that nobody was
// asked to take over.
func (c *Channel) needy() (m wire.FeedMask) {
	for i := range c.feeds {
		f := &c.feeds[i]
		if f.from != nil && f.next == nil && (f.from.paused != 0 || f.dry != 0 && c.node.now-f.dry > dryWait) {
			m |= 1 << i
		}
	}
	return m
}

// fresh is how long a feed counts as live after something fresh came.
func (c *Channel) fresh() time.Duration { return max(liveFor, 2*c.blockTime()) }

// live is the set of feeds that we can pass on.
func (c *Channel) live() (m wire.FeedMask) {
	if c.source {
		if c.begun {
			m = wire.AllFeeds &^ wire.Second
		}
		return m
	}
	if c.group.receiving(c.node.now) {
		return wire.FeedMask(groupStripes) | wire.Manifest
	}
	now, limit := c.streamTime(), c.fresh()
	for i := range wire.FeedManifest + 1 {
		if f := &c.feeds[i]; f.from != nil && f.dry == 0 && f.heard != 0 && now-f.heard < limit && c.hop(i) <= maxHop {
			m |= 1 << i
		}
	}
	if f := &c.feeds[wire.FeedSecond]; f.from != nil && f.dry == 0 && f.heard != 0 && now-f.heard < limit {
		m |= wire.Manifest
	}
	return m
}

// streamTime is the clock by which feeds age. It stands still while nobody
// brings anything, since then it is the source that stands still and no parent,
// but no longer than lullMost, or lullLong while parents give signs of life.
func (c *Channel) streamTime() Time {
	now := c.node.now
	if c.cutOff {
		return now
	}
	still := max(0, now-c.cameAt-c.lull())
	if still > lullMost && !c.attended() {
		still = lullMost
	}
	return now - min(still, lullLong)
}

// attended reports whether at least half of the parents give signs of life, and
// nobody says that the channel goes on.
func (c *Channel) attended() bool {
	all, heard := 0, 0
	for _, nb := range c.neighbours {
		t := nb.theirs
		if t.Run > c.run || t.Run == c.run && t.Newest != wire.NoNumber && beyond(t.Newest, c.next, recent) {
			return false
		}
		if nb.asked != 0 {
			all++
			if t.Run == c.run && nb.silence() < mute {
				heard++
			}
		}
	}
	return heard > 0 && 2*heard >= all
}

// lull is how long nobody brings anything where all is well.
func (c *Channel) lull() time.Duration { return lullLeast + c.blockTime() }

// wakes notes that something came of a feed, whatever feed. After a lull nobody
// is blamed for what it did not bring in it.
func (c *Channel) wakes() {
	now := c.node.now
	if over := now - c.streamTime(); over > 0 {
		c.excuse(over)
	}
	c.cameAt, c.cutOff = now, false
}

// outrun reports whether nothing came of what should have, as others say: it is
// not the source that stands still, but all of our parents are gone or have lost
// theirs.
func (c *Channel) outrun() bool {
	length := c.blockTime()
	since := c.node.now - max(c.cameAt, c.begunAt)
	var latest block.Number
	for i := range c.feeds {
		latest = max(latest, c.feeds[i].latest)
	}
	say, all := 0, 0
	for _, nb := range c.neighbours {
		t := nb.theirs
		if t.Run != c.run || t.Newest == wire.NoNumber || nb.suspect() {
			continue
		}
		all++
		if t.Newest > latest && since > time.Duration(min(t.Newest-latest, window))*length+outrunTime {
			say++
		}
	}
	return say >= min(outrunBy, all) && say > 0
}

// overslept keeps a pause of our own, which ends now, from counting as one of
// others.
func (c *Channel) overslept(pause time.Duration) {
	c.excuse(pause)
	if c.cameAt != 0 {
		c.cameAt += pause
	}
	for i := range c.feeds {
		if f := &c.feeds[i]; f.dry != 0 {
			f.dry += pause
		}
	}
}

// excuse makes all feeds as young as they were before a pause that ends now.
func (c *Channel) excuse(pause time.Duration) {
	c.silentSince = c.node.now
	for i := range c.feeds {
		if f := &c.feeds[i]; f.heard != 0 {
			f.heard += pause
		}
	}
}

// hop is our distance from the source on a feed.
func (c *Channel) hop(i int) int {
	if c.source {
		return 0
	}
	if c.group.receiving(c.node.now) {
		return 1
	}
	if i < wire.FeedManifest {
		return c.hopVia(i)
	}
	h := wire.NoHop
	for k := wire.FeedManifest; k <= wire.FeedSecond; k++ {
		if c.feeds[k].dry == 0 {
			h = min(h, c.hopVia(k))
		}
	}
	return h
}

func (c *Channel) hopVia(i int) int {
	nb := c.feeds[i].from
	if nb == nil {
		return wire.NoHop
	}
	if h := nb.hopOn(i); h < maxHop {
		return h + 1
	}
	return wire.NoHop
}

// heldAs is under which feed i stands in what peers say that they hold: there
// is one manifest, of which both copies are.
func heldAs(i int) int { return min(i, wire.FeedManifest) }

// hopOn is how far nb is from the source on a feed, as it says.
func (nb *neighbour) hopOn(i int) int { return int(nb.held.Hop[heldAs(i)]) }

// lag is how old a feed is when it comes to us: what the parents say and
// half a round trip in the middle of all feeds, and for each feed how much
// earlier or later than that it comes by our own clock.
func (c *Channel) lag(i int) time.Duration {
	f := &c.feeds[i]
	if c.source || f.from == nil {
		return 0
	}
	if f.delay == 0 {
		return f.from.lagVia(i)
	}
	return max(0, time.Duration(f.delay*float64(time.Second))-c.clockBase)
}

// lagVia is how old a feed would be here if nb pushed it.
func (nb *neighbour) lagVia(i int) time.Duration {
	return time.Duration(nb.held.Lag[heldAs(i)])*wire.LagUnit + nb.half() + max(0, nb.later)
}

// half is half a round trip.
func (nb *neighbour) half() time.Duration {
	s, _ := nb.peer.link.RTT()
	if s == 0 {
		s = 50 * time.Millisecond
	}
	return s / 2
}

// readClock finds how far the source's clock seems to be from ours: the
// median over the feeds of what we see and what the parents say.
func (c *Channel) readClock() {
	var d [wire.Feeds]time.Duration
	n := 0
	for i := range c.feeds {
		if f := &c.feeds[i]; f.from != nil && f.delay != 0 {
			d[n] = c.ahead(i)
			n++
		}
	}
	if n == 0 {
		return
	}
	slices.Sort(d[:n])
	c.clockBase = d[n/2]
	// What comes later than was said is held against who said it.
	for i := range c.feeds {
		if f := &c.feeds[i]; f.from != nil && f.delay != 0 {
			f.from.later += (c.ahead(i) - c.clockBase - f.from.later) / 8
		}
	}
}

// ahead is how much later feed i comes by our clock than its parent says.
func (c *Channel) ahead(i int) time.Duration {
	f := &c.feeds[i]
	return time.Duration(f.delay*float64(time.Second)) - f.from.lagVia(i) + max(0, f.from.later)
}

// holdings is what STATE says of us.
func (c *Channel) holdings() (h wire.Holdings) {
	h.Live = c.live()
	h.Slots = uint8(min(255, c.node.slots(c)))
	for i := range wire.FeedManifest + 1 {
		if h.Live.Has(i) {
			h.Hop[i] = uint8(c.hop(i))
			h.Lag[i] = uint8(min(255, c.lag(i)/wire.LagUnit))
		}
	}
	return h
}

// parentable reports whether nb could push anything to us.
func (nb *neighbour) parentable() bool {
	now := nb.ch.node.now
	return nb.joined && nb.serves && nb.denied == 0 && nb.paused == 0 && nb.peer.link.Established() &&
		now >= nb.notBefore && (nb.empty < emptyGrants || now >= nb.distrust) && nb.silence() < mute && !nb.unanswering()
}

// offers reports whether nb can push feed i to us: it is live there, and not
// by way of us.
func (nb *neighbour) offers(i int) bool {
	c := nb.ch
	if nb.theirs.Run == 0 || nb.theirs.Run != c.run && c.run != 0 {
		return false
	}
	if !nb.held.Live.Has(heldAs(i)) || nb.push.mask.Has(i) || nb.hopOn(i) >= maxHop {
		return false
	}
	if i >= wire.FeedManifest && nb.push.mask&(wire.Manifest|wire.Second) != 0 {
		return false
	}
	return nb.hopOn(i) < c.below(i, nb)
}

// below is the hop that nb must have less than to be our parent on a feed.
func (c *Channel) below(i int, nb *neighbour) int {
	k := c.constraint(i)
	if h := &c.heirs[i]; h.nb == nb && k < wire.NoHop && c.node.now < h.until {
		k++
	}
	return k
}

// constraint is the hop that a parent of ours must stay below on a feed:
// our own where somebody depends on us, so that no loop can close.
func (c *Channel) constraint(i int) int {
	if i == wire.FeedSecond && c.feeds[wire.FeedManifest].from != nil {
		// From nobody who has it by way of us.
		return c.hopVia(wire.FeedManifest) + 1
	}
	if !c.passesOn(i) {
		return wire.NoHop
	}
	f := &c.feeds[i]
	free := f.dry != 0 && c.node.now-f.dry > dryHold // and so has been told
	if f.from == nil || c.streamTime()-f.heard > c.fresh()+starved-liveFor {
		// An orphan: what hangs on us has dried out by now.
		free = free || c.streamTime()-f.heard > c.fresh()+100*time.Millisecond
	}
	switch {
	case free && i >= wire.FeedManifest && c.live().Has(wire.FeedManifest):
		return c.hop(i) // the other copy comes, and is passed on
	case free:
		return wire.NoHop
	}
	return c.lastHop[heldAs(i)]
}

// passesOn reports whether somebody takes a feed from us.
func (c *Channel) passesOn(i int) bool {
	m := wire.FeedMask(1) << i
	if i >= wire.FeedManifest {
		m = wire.Manifest | wire.Second
	}
	return c.children&m != 0
}

// share is how many feeds one parent may be given among n candidates.
func share(want, n int) int {
	k := (want + spreadOver - 1) / spreadOver
	if n < wellKnown {
		k *= 2
	}
	return max(k, (want+n-1)/max(n, 1))
}

// assign finds parents for the feeds that we want and nobody pushes.
func (c *Channel) assign() {
	n := c.node
	if c.source || c.group.receiving(n.now) || len(c.neighbours) == 0 || n.now < c.waitUntil {
		return
	}
	taken := c.taken()
	needy := c.needy()
	have := onesCount(taken.Stripes())
	if have == c.wanted && taken.Has(wire.FeedManifest) && taken.Has(wire.FeedSecond) == c.second && needy == 0 && n.now < c.switchAt {
		return
	}
	cands := c.cands[:0]
	for _, nb := range c.neighbours {
		nb.gives = 0
		if nb.held.Live != 0 && nb.parentable() {
			cands = append(cands, nb)
		}
	}
	c.cands = cands
	if len(cands) == 0 {
		return
	}
	for i := range c.feeds {
		f := &c.feeds[i]
		if f.from != nil {
			f.from.gives++
		}
		if f.next != nil && f.next != f.from {
			f.next.gives++
		}
	}
	most := share(c.wanted+1, len(cands))
	// More of one than its share only where nobody else has it.
	for _, most := range [2]int{most, wire.Feeds} {
		for i := range block.Stripes {
			lacks := c.feeds[i].from == nil && have < c.wanted
			if !lacks && !needy.Has(i) {
				continue
			}
			if nb := c.best(cands, i, most); nb != nil {
				c.take(i, nb)
				needy &^= 1 << i
				if lacks {
					have++
				}
			}
		}
	}
	if !taken.Has(wire.FeedManifest) || needy.Has(wire.FeedManifest) {
		if nb := c.best(cands, wire.FeedManifest, wire.Feeds); nb != nil {
			c.take(wire.FeedManifest, nb)
		}
	}
	switch {
	case c.second && (!taken.Has(wire.FeedSecond) || needy.Has(wire.FeedSecond)):
		if nb := c.best(cands, wire.FeedSecond, wire.Feeds); nb != nil {
			c.take(wire.FeedSecond, nb)
		}
	case !c.second && taken.Has(wire.FeedSecond):
		c.drop(wire.FeedSecond)
	}
	// What is more than we want is given back, the highest first.
	for i := block.Stripes - 1; i >= 0 && have > c.wanted; i-- {
		// What others have from us only as long as all is well otherwise.
		f := &c.feeds[i]
		if f.from != nil && n.now-f.since > time.Second && (!c.passesOn(i) || f.from.hopOn(i) > 0 && have > c.wanted+1) {
			c.drop(i)
			have--
		}
	}
	c.improve(cands, most)
}

// best is the candidate to take feed i from, nil if there is none.
func (c *Channel) best(cands []*neighbour, i, most int) *neighbour {
	n := c.node
	var best *neighbour
	var least time.Duration
	well, few := c.playing(), len(cands) < wellKnown
	for _, nb := range cands {
		limit := most
		if !nb.delivered && well {
			limit = 1 // until it has shown that it delivers
		}
		over := nb.gives - limit + 1
		if !nb.offers(i) || over > 0 && nb.held.Slots == 0 || nb == c.feeds[i].from && c.feeds[i].dry != 0 {
			continue
		}
		if over > 0 && !nb.delivered && limit == 1 || over > most && !(few && nb.delivered) {
			continue
		}
		score := nb.lagVia(i) + time.Duration(nb.gives)*perFeed + time.Duration(n.random.Int64N(int64(jitter)))
		if nb.held.Slots == 0 {
			score += full
		}
		if over > 0 {
			// Better than to be refused, however much it is where there are few.
			beyond := overShare * time.Duration(over)
			if few {
				beyond = min(beyond, overMost)
			}
			score += beyond
		}
		if !nb.delivered {
			score += unproven
			if i >= wire.FeedManifest && well {
				score += time.Second // all depends on it
			}
		}
		if i >= wire.FeedManifest && (c.feeds[wire.FeedManifest].from == nb || c.feeds[wire.FeedSecond].from == nb) {
			score += time.Second // the copies come on different ways where they can
		}
		if n.now < nb.distrust {
			score += 2 * time.Second
		}
		if best == nil || score < least {
			best, least = nb, score
		}
	}
	return best
}

// playing reports whether enough feeds are live to decode blocks.
func (c *Channel) playing() bool {
	return onesCount(c.live().Stripes()) >= c.data()
}

// take asks nb for feed i: to take over, if there is a parent.
func (c *Channel) take(i int, nb *neighbour) {
	if f := &c.feeds[i]; f.from != nil {
		if f.next != nil {
			f.next.change()
		}
		f.next, f.nextAt = nb, c.node.now
	} else {
		c.begin(f, nb)
	}
	nb.gives++
	nb.change()
}

// begin makes nb the parent of a feed; nil: nobody.
func (c *Channel) begin(f *feed, nb *neighbour) {
	heard := f.heard
	if f.dry != 0 && heard != 0 {
		// Those who had it from us know that it was dead, and so it stays.
		heard = max(1, min(heard, c.streamTime()-(c.node.now-f.dry)-c.fresh()))
	}
	*f = feed{heard: heard}
	if nb != nil {
		first := c.resume()
		f.from, f.since, f.first, f.latest = nb, c.node.now, first, first
	}
}

// part ends what nb is to feed i: who was to take over does so at once.
func (c *Channel) part(i int, nb *neighbour) {
	f := &c.feeds[i]
	if f.next == nb {
		f.next = nil
		c.reassign = true
	}
	if f.from == nb {
		next, after := f.next, f.after
		c.begin(f, next)
		if next != nil && next.acked && next.asked.Has(i) {
			f.promised(next, after)
		}
		c.reassign = true
	}
}

// promised notes that the parent of a feed, nb, has granted it from a block on.
func (f *feed) promised(nb *neighbour, first block.Number) {
	c := nb.ch
	f.granted, f.since, f.first = true, c.node.now, first
	f.joint, f.back, f.backAt = c.next, 0, c.node.now
	if t := nb.theirs; t.Newest != wire.NoNumber && (t.Run == c.run || !c.begun) {
		f.joint = max(f.joint, t.Newest+1)
	}
	f.joint -= min(f.joint, recent)
}

// drop gives feed i back.
func (c *Channel) drop(i int) {
	f := &c.feeds[i]
	for _, nb := range [2]*neighbour{f.from, f.next} {
		if nb != nil {
			nb.change()
			nb.leftAt = c.node.now
		}
	}
	c.begin(f, nil)
	c.reassign = true
}

// leave takes every feed away from nb.
func (c *Channel) leave(nb *neighbour) {
	for i := range c.feeds {
		c.part(i, nb)
	}
	nb.change()
	nb.leftAt = c.node.now
}

// improve moves one feed to a better parent now and then: one of a parent
// that has too many, or the latest of all where it would come clearly earlier.
func (c *Channel) improve(cands []*neighbour, most int) {
	n := c.node
	if n.now < c.switchAt {
		return
	}
	c.switchAt = n.now + switchEvery
	worst, crowded := -1, false
	for i := range c.feeds {
		f := &c.feeds[i]
		if f.from == nil || f.next != nil || !f.granted || f.from.paused != 0 {
			continue
		}
		if f.from.gives > most && n.now-f.since > time.Second {
			worst, crowded = i, true
			break
		}
		if f.from.hopOn(i) == 0 && f.from.delivered {
			continue // nothing is better than what comes from the source
		}
		if n.now-f.since > switchHold && (worst < 0 || c.lag(i) > c.lag(worst)) {
			worst = i
		}
	}
	if worst < 0 {
		return
	}
	nb := c.best(cands, worst, most)
	if nb == nil || nb == c.feeds[worst].from || nb.held.Slots == 0 {
		return
	}
	via := nb.lagVia(worst) + time.Duration(nb.gives)*perFeed
	if crowded && (nb.gives+1 < c.feeds[worst].from.gives) || via+20*time.Millisecond+via/5 < c.lag(worst) {
		c.take(worst, nb)
	}
}

// change notes that nb is to be asked for something else than before.
func (nb *neighbour) change() { nb.changed, nb.ch.changed = true, true }

// resubscribe tells every neighbour whose feeds have changed.
func (c *Channel) resubscribe() {
	if !c.changed {
		return
	}
	c.changed = false
	for _, nb := range c.neighbours {
		if !nb.changed && (nb.asked == 0 || nb.askedHalf == c.halfOf(nb.asked)) {
			continue
		}
		if !nb.joined || !nb.peer.link.Established() {
			continue // JOIN carries it, or it waits for JOINED
		}
		nb.changed = false
		m := c.wantOf(nb)
		if m == nb.asked && nb.askedHalf == c.halfOf(m) {
			continue
		}
		if m == 0 {
			nb.peer.tell((&wire.Unsubscribe{Channel: c.tag, Serial: nb.serial, Feeds: wire.AllFeeds}).Append)
			nb.asked, nb.acked = 0, true
			continue
		}
		nb.peer.tell(nb.appendSubscribe)
	}
}

// resume is from which block on a feed is wanted: all that is missing for
// who has just joined; later only what a new parent can bring in time.
func (c *Channel) resume() block.Number {
	if !c.begun || !c.caughtUp && c.node.now-c.begunAt < joinTime {
		return c.low
	}
	return max(c.low, c.back(resumeTime))
}

// back is the block that was the next one so long ago and a block more.
func (c *Channel) back(d time.Duration) block.Number {
	return c.next - min(c.next, c.blocksIn(d)+1)
}

// blocksIn is how many whole blocks last so long.
func (c *Channel) blocksIn(d time.Duration) block.Number {
	return block.Number(d / max(c.blockTime(), 8*time.Millisecond))
}

// halfOf reports whether of the highest stripe in m only the first row is
// wanted: it is the spare one, and a shard of slack is enough.
func (c *Channel) halfOf(m wire.FeedMask) bool {
	if !c.half {
		return false
	}
	top := wire.FeedMask(c.taken().Stripes())
	return m.Stripes() != 0 && top.Count() >= c.wanted && highest(m) == highest(top)
}

// appendSubscribe asks nb for the feeds that were assigned to it.
func (nb *neighbour) appendSubscribe(dst []byte) []byte {
	n, c := nb.ch.node, nb.ch
	nb.serial++
	feeds := c.wantOf(nb)
	var has wire.FeedMask
	if nb.acked {
		has = nb.asked
	}
	if nb.acked || nb.openAt == 0 {
		nb.openAt = n.now
	}
	nb.asked, nb.acked, nb.changed = feeds, false, false
	nb.askedHalf = c.halfOf(feeds)
	nb.askedAt = n.now
	nb.asks++
	m := wire.Subscribe{
		Channel: c.tag, Serial: nb.serial, Feeds: feeds, Half: nb.askedHalf, BackfillOnly: nb.backfill,
		Uplink: n.uplink(), Run: c.run, First: wire.FromRAP,
	}
	if c.begun {
		m.First = c.next
		for i := range c.feeds {
			switch f := &c.feeds[i]; {
			case f.from == nb && !f.granted:
				m.First = c.resume()
				f.first = m.First
			case f.next == nb && !has.Has(i):
				if f.after = c.next; f.from.paused != 0 {
					f.after = c.resume()
					m.First = f.after
				}
			}
		}
	}
	if nb.backfill {
		nb.filling = n.now + joinTime
		m.Feeds = wire.AllFeeds &^ wire.Second
		m.First = wire.FromRAP
	}
	for i := range wire.Feeds {
		m.Hop[i] = uint8(min(wire.NoHop, c.below(i, nb)))
	}
	return m.Append(dst)
}

func (nb *neighbour) onSubscribed(m *wire.Subscribed) {
	n, c := nb.ch.node, nb.ch
	if m.Serial != nb.serial {
		nb.asks = min(nb.asks, 1) // it answers; we have asked for something else since
		return
	}
	if nb.backfill {
		nb.acked, nb.backfill = true, false
		nb.asked = 0
		if c.wantOf(nb) != 0 {
			nb.change()
		}
		return
	}
	refused := nb.asked &^ m.Feeds
	lost := refused & c.granted() & c.feedsOf(nb)
	nb.acked, nb.asks = true, 0
	nb.asked &= m.Feeds
	if m.Feeds != 0 && nb.grantedAt == 0 {
		nb.grantedAt = n.now
	}
	c.trialsAnswered(nb, m.Feeds, refused)
	for i := range c.feeds {
		f := &c.feeds[i]
		if m.Feeds.Has(i) {
			if i != wire.FeedSecond || !m.Feeds.Has(wire.FeedManifest) {
				nb.held.Hop[heldAs(i)] = m.Hop[i]
			}
			if f.from == nb && !f.granted {
				f.promised(nb, f.first)
			}
			continue
		}
		if refused.Has(i) {
			c.part(i, nb)
		}
	}
	switch {
	case refused == 0:
	case m.Reason == wire.GrantNotLive:
		nb.held.Live &^= refused
		nb.notBefore = n.now + 100*time.Millisecond
	default:
		if m.Feeds == 0 && !nb.tellFull && c.granted() == 0 {
			nb.tellFull = true
			n.out.Event(Event{Kind: EventFull, Channel: c.ID, Peer: nb.peer.link.Addr()})
		}
		rest := refusedFor
		if c.caughtUp && !c.playing() {
			rest /= 4
		}
		nb.notBefore = n.now + rest/2 + time.Duration(n.random.Int64N(int64(rest)))
		nb.held.Slots = 0
	}
	if refused&nb.offered != 0 {
		nb.offeredNot = n.now + refusedFor
	}
	nb.offered = 0
	for _, r := range m.Redirects[:m.Redirect] {
		c.follow(nb, r.Addr, r.Feeds, refused, lost)
	}
}

// watch gives up parents that are silent while others deliver, and feeds
// that starve.
func (c *Channel) watch() {
	n := c.node
	if c.source {
		return
	}
	last := Time(0)
	for _, nb := range c.neighbours {
		if nb.asked != 0 && nb.acked {
			last = max(last, nb.lastGood)
		}
	}
	if n.now-c.advanced > lullLeast {
		last = max(last, c.advanced) // it goes on, by what is known of its blocks
	}
	if c.cutOff = c.begun && c.outrun(); c.cutOff {
		last = n.now
	}
	block := c.blockTime()
	if n.now-last > grace+block && c.advanced <= last+block {
		c.silentSince = n.now // it is the source: nobody is blamed
	}
	for _, nb := range c.neighbours {
		m := c.feedsOf(nb)
		c.goesOn(nb, m)
		if m == 0 {
			continue
		}
		switch {
		case !nb.peer.link.Established() || !nb.joined:
			for i := range c.feeds {
				if f := &c.feeds[i]; f.from == nb && n.now-f.since > dialTime {
					c.leave(nb)
					break
				} else if (f.from == nb && n.now-f.since > dialShort || f.next == nb && n.now-f.nextAt > dialShort) && nb.paused == 0 && c.others(nb) {
					c.pause(nb)
				}
			}
		case nb.paused == 0 && (nb.unsound() || !nb.acked && nb.unheard()) && c.others(nb):
			c.pause(nb)
		case !nb.acked:
			if n.now-nb.askedAt < nb.rtt()+100*time.Millisecond {
				break
			}
			if nb.asks >= 3 && c.others(nb) {
				nb.notBefore = n.now + 400*time.Millisecond*time.Duration(nb.asks)
				nb.fail()
				c.leave(nb)
			} else {
				nb.peer.tell(nb.appendSubscribe)
			}
		case nb.due >= enough && nb.got < nb.due*(1-tooMuchLoss) && c.others(nb):
			nb.due, nb.got = 0, 0
			nb.fail()
			nb.notBefore = n.now + time.Second
			c.leave(nb)
		case nb.silence() > mute && c.others(nb):
			c.leave(nb)
		case nb.paused == 0 && c.hushed(nb, last):
			c.pause(nb)
		case nb.paused == 0 && c.silent(nb, last):
			if !c.others(nb) {
				// It may have forgotten us, or stand still for a moment.
				nb.peer.tell(nb.appendSubscribe)
				break
			}
			if c.cutOff {
				c.pause(nb) // by the word of others, who may lie
				break
			}
			still := nb.silence() > deadParent
			if (nb.lastGood < nb.grantedAt || nb.lastGood == 0) && nb.forkedRun != c.run {
				nb.empty++ // who holds another's manifests is not to blame
				if m&nb.held.Live != 0 && !still {
					nb.lied()
				}
			}
			if still || m&nb.held.Live == 0 {
				if nb.empty >= emptyGrants {
					nb.fail() // that is no accident
				}
				c.pause(nb)
				break
			}
			nb.fail()
			nb.notBefore = n.now + time.Second
			c.leave(nb)
		}
	}
	for i := range c.feeds {
		f := &c.feeds[i]
		if f.from == nil || !f.granted || !c.begun {
			continue
		}
		// The second copy may be all that comes of it.
		if c.streamTime()-max(f.heard, f.since, f.backAt, c.silentSince) > starved+2*block+f.from.lagVia(i)/4 {
			f.from.notBefore = max(f.from.notBefore, n.now+500*time.Millisecond)
			if f.from.starvedAt != 0 && n.now-f.from.starvedAt < distrustTime && !c.excused(f, i) {
				f.from.fail() // not the first time
			}
			f.from.starvedAt = n.now
			f.from.held.Live &^= 1 << i
			c.drop(i)
		} else if beyond(c.next, max(f.latest, f.joint), uint64(c.blocksIn(lagTime))+2) && n.now-f.since > lagTime+block && c.others(f.from) {
			// It brings what everybody else had long ago.
			if !c.mostly(f.from) {
				f.from.fail()
			}
			f.from.notBefore = max(f.from.notBefore, n.now+2*time.Second)
			c.drop(i)
		}
	}
}

// pause has others asked for what comes from nb, which stands still or has lost
// its own parents. Nothing is held against it: whoever delivers first, it or
// they, is the parent then.
func (c *Channel) pause(nb *neighbour) {
	n := c.node
	nb.paused = max(n.now, 1)
	c.reassign = true
	c.dries(nb, wire.AllFeeds)
	for i := range c.feeds {
		if f := &c.feeds[i]; f.next == nb {
			f.next = nil
			nb.change()
		}
	}
	gone := 0
	for _, o := range c.neighbours {
		if o.paused != 0 && n.now-o.paused < massTime {
			gone++
		}
	}
	if gone < massGone || c.soundedAt != 0 && n.now-c.soundedAt < massTime {
		return
	}
	// Many at once: others that we might ask may be gone as well, and children,
	// which keep room from those who are not.
	c.soundedAt = n.now
	for _, o := range c.neighbours {
		if o.silence() > pingGap {
			o.peer.link.Ping(n.now)
		}
	}
}

// dries notes that nothing can come of those of the feeds that nb pushes to us.
// Who takes them from us is told at once, and tells others: who still says that
// he has them then does not have them by way of us.
func (c *Channel) dries(nb *neighbour, feeds wire.FeedMask) {
	for i := range c.feeds {
		if f := &c.feeds[i]; f.from == nb && f.granted && f.dry == 0 && feeds.Has(heldAs(i)) {
			f.dry = max(c.node.now, 1)
			c.liveChanged = true
		}
	}
}

// goesOn ends the pause of a neighbour that delivers again, or is heard and has
// nothing to deliver; m is what it is to push.
func (c *Channel) goesOn(nb *neighbour, m wire.FeedMask) {
	if nb.paused == 0 || nb.lastGood <= nb.paused && (m != 0 || nb.peer.link.Heard() <= nb.paused) {
		return
	}
	nb.paused = 0
	c.reassign = true
	for i := range c.feeds {
		if f := &c.feeds[i]; f.from == nb && f.next != nil {
			f.next.change()
			f.next.leftAt = c.node.now
			f.next = nil
		}
	}
}

// unheard reports whether nothing at all has come of nb since it was asked: it
// may be gone.
func (nb *neighbour) unheard() bool {
	now := nb.ch.node.now
	return nb.peer.link.Heard() < nb.openAt && now-nb.openAt > nb.rtt()+soundTime && nb.silence() > goneAsked
}

// hushed reports whether nb, who pushes to us, says nothing at all any more
// while others go on: to ask them early costs little.
func (c *Channel) hushed(nb *neighbour, last Time) bool {
	limit := hush + c.blockTime() + nb.half()
	return nb.lastGood != 0 && nb.lastGood >= nb.grantedAt && nb.silence() > limit && last-nb.lastGood > limit && c.others(nb)
}

// silence is how long nb has said nothing at all while we listened, and heard
// others.
func (nb *neighbour) silence() time.Duration {
	n := nb.ch.node
	return max(0, n.now-n.ear.deaf(n.now)-max(nb.peer.link.Heard(), n.woke))
}

// silent reports whether nb has brought nothing for so long that it is left:
// sooner where there is too little to play, and others went on in that time, the
// last of them at last.
func (c *Channel) silent(nb *neighbour, last Time) bool {
	block := c.blockTime()
	since := max(nb.lastGood, nb.grantedAt, c.silentSince, nb.askedAt)
	if !c.playing() && last-since > max(deadParent, 2*block)+nb.half() {
		return true
	}
	return c.streamTime()-since > deadParent+2*block+nb.half()
}

// others reports whether somebody else could push something of what nb does.
func (c *Channel) others(nb *neighbour) bool {
	m := c.feedsOf(nb)
	for _, o := range c.neighbours {
		if o == nb || !o.parentable() {
			continue
		}
		for i := range wire.Feeds {
			if m.Has(i) && o.offers(i) {
				return true
			}
		}
	}
	return false
}

// mostly reports whether nb brings most of what it was asked for: where a feed
// has dried out it is the first to lack it, and not to blame.
func (c *Channel) mostly(nb *neighbour) bool {
	comes, all := 0, 0
	for i := range c.feeds {
		if f := &c.feeds[i]; f.from == nb && f.granted {
			if all++; f.heard != 0 && c.streamTime()-f.heard < c.fresh() {
				comes++
			}
		}
	}
	return 2*comes > all
}

// excused reports whether the parent of a feed that starves is not to blame: it
// says that it lacks it itself, and brings the others; or we go by what others
// say.
func (c *Channel) excused(f *feed, i int) bool {
	return c.cutOff || (f.dry != 0 || !f.from.held.Live.Has(heldAs(i))) && c.mostly(f.from)
}

// fail makes nb the last choice for a while that doubles.
func (nb *neighbour) fail() {
	now := nb.ch.node.now
	if now-nb.distrust > forgetAfter {
		nb.distrusted = 0
	}
	nb.distrust = now + distrustTime<<min(nb.distrusted, 6)
	nb.distrusted++
	nb.grantedAt = 0
}

// came notes something that nb pushed of a feed: a verified shard or
// manifest of s.
func (c *Channel) came(nb *neighbour, i int, s *slot, fresh bool) {
	n := c.node
	f := &c.feeds[i]
	switch {
	case nb == f.from:
	case nb == f.next:
		// The new parent delivers: the old one is left.
		f.from.change()
		f.from.leftAt = n.now
		if f.dry != 0 {
			c.liveChanged = true
		}
		*f = feed{from: nb, heard: f.heard, after: f.after}
		f.promised(nb, min(f.after, s.number))
		f.latest = f.first
	default:
		return
	}
	c.wakes()
	// Manifests alone are no stripes.
	switch {
	case i < wire.FeedManifest:
		if nb.shady != 0 {
			nb.honest()
		}
		nb.delivered, nb.empty, nb.lastGood = true, 0, n.now
	case nb.asked.Stripes() == 0:
		nb.lastGood = n.now
	}
	f.last = n.now
	if s.number < f.joint {
		f.back, f.backAt = max(f.back, s.number), n.now
		return
	}
	if s.number >= f.latest {
		if s.number > f.latest || f.passed == 0 {
			f.latest, f.passed = s.number, n.now
		}
	}
	if !fresh {
		return
	}
	if n.now-f.heard > c.fresh() || f.heard == 0 {
		c.liveChanged = true
	}
	if f.dry != 0 {
		f.dry = 0
		c.liveChanged = true
		if f.next != nil && nb.paused == 0 {
			f.next.change()
			f.next.leftAt = n.now
			f.next = nil
		}
	}
	f.heard = n.now
	if h := c.hop(i); h != wire.NoHop {
		c.lastHop[heldAs(i)] = h
	}
	if s.b == nil || s.number+2 < c.next || !f.granted || s.first < f.since {
		return // late: a backlog, or a repair
	}
	if d := n.UTC(n.now).Sub(s.b.Manifest().Created).Seconds(); f.delay == 0 {
		f.delay = d
	} else {
		f.delay += (d - f.delay) / 16
	}
	x := max(n.now-s.first, time.Microsecond).Seconds() // 0 is not known
	if f.offset == 0 {
		f.offset, f.spread = x, x/2
		return
	}
	d := x - f.offset
	f.offset += d / 8
	f.spread += (max(d, -d) - f.spread) / 4
}

// stray answers a push from somebody who is not the feed's parent: an
// UNSUBSCRIBE was lost.
func (c *Channel) stray(nb *neighbour) {
	n := c.node
	if n.now < nb.filling || n.now-max(nb.leftAt, nb.strayAt, nb.askedAt) < nb.rtt()+200*time.Millisecond {
		return
	}
	nb.strayAt = n.now
	nb.peer.tell((&wire.Unsubscribe{Channel: c.tag, Serial: nb.serial, Feeds: wire.AllFeeds &^ c.wantOf(nb)}).Append)
}
