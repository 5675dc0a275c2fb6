package mesh

import (
	"math/bits"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

const (
	// reorderSlack is how long after a parent went on to a later block its
	// shards of the one before may still be under way.
	reorderSlack = 10 * time.Millisecond
	// quiet is how much later than usual a feed may bring a block before it
	// is asked about, where nothing later has come.
	quiet = 80 * time.Millisecond
	// backlogQuiet is how long a backlog may stand still.
	backlogQuiet = 300 * time.Millisecond
	// maxWait bounds how far requests for one block grow apart.
	maxWait = 500 * time.Millisecond
	// requestsAtOnce bounds how many blocks are asked for in one go, and
	// maxServers of how many neighbours one is.
	requestsAtOnce = 64
	maxServers     = 3
	// askAgain after a round trip a request counts as lost.
	// It is so long where feeds are lacking.
	askAgain      = 40 * time.Millisecond
	askAgainShort = 60 * time.Millisecond
	// lullTime is how long after a lull of the source what is missing is late.
	lullTime = time.Second
	// askGather is how long after a request no other is made for the block.
	askGather = 20 * time.Millisecond
	// askTimes the stream's own shards may be requested, askTimesJoining
	// until the live edge is reached, askTimesHungry with too few feeds.
	askTimes        = 0.5
	askTimesJoining = 1.5
	askTimesHungry  = 0.1
	// awaitedTime is how long the block that a newcomer's picture begins at is
	// asked for at least, awaitedTries how often without ever longer waits.
	awaitedTime  = 3 * time.Second
	awaitedTries = 12
	// busyTime is the mean time for which who is too busy for a request is asked
	// nothing; it doubles up to busyTwice times while nothing comes, and
	// busyForgotten after the last of them it begins again.
	busyTime      = 225 * time.Millisecond
	busyTwice     = 3
	busyForgotten = 5 * time.Second
	// distrustTime is how long a parent that failed is the last choice; it
	// doubles.
	distrustTime = 10 * time.Second
	// forgetAfter is how long after that it is as good as any.
	forgetAfter = time.Minute
	// lagTime behind what others have, and a feed is given up.
	lagTime = time.Second
	// silentLink is how long a peer that we dialled may say nothing at all
	// (STATE is due every 500 ms) before it is dialled anew beside the old
	// link: it may have been started again.
	silentLink = 1200 * time.Millisecond
)

// expected reports whether feed i is to bring the block with this number.
func (f *feed) expected(number block.Number) bool {
	return f.from != nil && f.first <= number
}

// overdue is when feed i will bring nothing more of s: a little after its
// parent went on to the next block, or after the usual time; well after that
// where a mistake costs a request.
func (c *Channel) overdue(f *feed, s *slot, patient bool) Time {
	if !f.granted {
		return max(f.from.askedAt, f.since) + f.from.rtt() + quiet
	}
	if s.number < f.joint {
		if f.back > s.number {
			return f.backAt + reorderSlack
		}
		if c.awaited(s) {
			return max(f.backAt, s.first) + quiet
		}
		return max(f.backAt, s.first) + backlogQuiet
	}
	if f.latest > s.number {
		return max(f.passed, s.first) + reorderSlack
	}
	usual, spread := c.blockTime(), c.blockTime()/4
	if f.offset > 0 {
		usual = time.Duration(f.offset * float64(time.Second))
		spread = time.Duration(f.spread * float64(time.Second))
	}
	t := s.first + usual + 2*spread + reorderSlack
	if patient {
		t += 2*spread + quiet - reorderSlack
	}
	if f.latest < s.number {
		t = max(t, f.last+max(quiet, c.blockTime())) // still busy with earlier blocks
	}
	return t
}

// pending is the set of feeds that may still bring something of s, and when
// the first of them is overdue.
func (c *Channel) pending(s *slot) (m wire.FeedMask, next Time) {
	now := c.node.now
	patient, awaited := !s.decoded, c.awaited(s)
	next = Never
	if g := &c.group; g.receiving(now) {
		t := max(s.last, s.first, g.heardAt) + quiet
		if g.latest > s.number {
			t = min(t, max(g.latestAt, s.first, s.last)+reorderSlack)
		}
		if t > now {
			return wire.FeedMask(groupStripes) | wire.Manifest, t
		}
		return 0, Never
	}
	for i := range c.feeds {
		f := &c.feeds[i]
		if s.gone.Has(i) || !f.expected(s.number) || awaited && !f.granted {
			continue
		}
		t := c.overdue(f, s, patient)
		if t <= now {
			s.gone |= 1 << i
			continue
		}
		m |= 1 << i
		next = min(next, t)
	}
	return m, next
}

// awaited reports whether s is the block that a newcomer's picture begins at.
func (c *Channel) awaited(s *slot) bool {
	return !c.pictured && !c.source && s.b != nil && s.b.Manifest().SinceRAP == 0
}

// parentsFirst reports whether s is asked of those only who were to push it, of
// each what it was to bring.
func (c *Channel) parentsFirst(s *slot) bool {
	return (s.tries == 0 || s.tries == 1 && c.outstanding(s) != 0) && !c.awaited(s)
}

// patience is how long s is asked for. Without the block that a picture begins
// at nothing can be played at all: the next such block is seconds away.
func (c *Channel) patience(s *slot) time.Duration {
	if c.awaited(s) {
		return max(c.node.cfg.Patience, awaitedTime)
	}
	return c.node.cfg.Patience
}

// coming is the set of shards that feeds bring of a block: of the one that is
// spare perhaps the first row only.
func (c *Channel) coming(feeds wire.FeedMask, m *block.Manifest) uint64 {
	w := shards(feeds, m)
	if c.half && m.Rows > 1 {
		if top := highest(c.taken()); top >= 0 && feeds.Has(top) && c.feeds[top].from.askedHalf {
			w &^= block.StripeMask(1<<top) &^ (1<<block.Stripes - 1)
		}
	}
	return w
}

// due is when to look at a block that cannot be decoded: now, if what may
// still come, asked for or not, will not do.
func (c *Channel) due(s *slot) Time {
	if s.askAt > c.node.now {
		return s.askAt
	}
	m, next := c.pending(s)
	if s.b == nil {
		if m&(wire.Manifest|wire.Second) == 0 {
			return max(s.askAt, s.first+reorderSlack)
		}
		return next
	}
	f := s.b.Manifest()
	will := s.b.Have() | c.coming(m, f)
	if out := c.outstanding(s) &^ will; out != 0 {
		will |= out
		next = min(next, s.outUntil)
	}
	if bits.OnesCount64(will) >= f.DataShards() {
		return next
	}
	return s.askAt
}

// short reports whether what is missing is no loss: feeds are lacking, or a
// moment ago all of them were late. Haste makes that worse.
func (c *Channel) short() bool {
	return onesCount(c.live().Stripes()) < c.data() || c.lulled()
}

// answerWait is how long a request to nb is waited for.
func (c *Channel) answerWait(nb *neighbour) (wait time.Duration) {
	short := c.short()
	if short {
		wait = nb.rtt() + askAgainShort
	}
	if !short || c.lulled() {
		wait = max(wait, nb.answers())
	}
	return wait
}

// lulled reports whether the source stood still a moment ago.
func (c *Channel) lulled() bool { return c.node.now-c.silentSince < lullTime }

// outstanding is the set of shards of s that were requested and may still come.
func (c *Channel) outstanding(s *slot) uint64 {
	if c.node.now >= s.outUntil {
		s.out = 0
	}
	return s.out
}

// repair asks for what is missing and due, and gives up what is too old.
func (c *Channel) repair() {
	n := c.node
	c.repairAt = Never
	if !c.begun {
		return
	}
	if n.now < c.waitUntil && c.waits > 0 {
		c.giveUp()
		return
	}
	c.regenerate()
	asked := 0
	for k := c.low; k < c.next; k++ {
		s := c.slot(k)
		if s == nil || s.decoded || s.dead {
			continue
		}
		if n.now-s.first > c.patience(s) {
			s.dead = true
			n.stats.BlocksLost++
			c.advanceLow()
			continue
		}
		at := c.due(s)
		c.notice(s)
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

// notice asks the source at once for what it has pushed and what has not come,
// where the block cannot be decoded yet: all that hangs on us misses it too.
func (c *Channel) notice(s *slot) {
	if s.b == nil || c.hungers() {
		return
	}
	m := s.b.Manifest()
	var root *neighbour
	var want uint64
	for i := range block.Stripes {
		f := &c.feeds[i]
		if f.from == nil || !f.granted || s.number < f.joint || f.from.hopOn(i) != 0 || root != nil && root != f.from {
			continue
		}
		all := c.coming(1<<i, m)
		switch {
		case s.gone.Has(i) && f.latest > s.number:
		case f.latest == s.number && f.last+reorderSlack <= c.node.now:
			// It sends the rows in their order.
			all &= under(s.pushed & all)
		default:
			continue
		}
		root = f.from
		want |= all
	}
	want &^= s.b.Have() | s.asked
	if want == 0 || c.node.now < root.busyUntil {
		return
	}
	want = first(want, want, c.asking(bits.OnesCount64(want)))
	if want == 0 {
		return
	}
	c.request(root, s, want, false)
}

// request asks a neighbour for shards of a block. A repetition is paid for
// only by who hungers.
func (c *Channel) request(nb *neighbour, s *slot, shards uint64, manifest bool) {
	paid := shards
	if !c.hungers() {
		paid &^= s.asked
	}
	c.asks.credit -= float64(bits.OnesCount64(paid))
	s.asked |= shards
	c.node.stats.Requests++
	m := wire.Request{Channel: c.tag, Name: block.Name{Run: c.run, Number: s.number}, Manifest: manifest, Shards: shards}
	nb.peer.tell(m.Append)
}

// regenerate passes on the shards that children want and that a feed was
// expected to bring but did not.
func (c *Channel) regenerate() {
	kept := c.late[:0]
	for _, s := range c.late {
		if s.b == nil || c.slot(s.number) != s {
			continue
		}
		m, next := c.pending(s)
		still := c.coming(m, s.b.Manifest())
		if over := s.held &^ still; over != 0 {
			s.held &= still
			c.offer(s, over)
		}
		want := c.childrenWant(s.b) &^ still &^ s.b.Have()
		if made, err := s.b.ReconstructSome(want); err == nil && made != 0 {
			c.node.stats.Rebuilt += uint64(bits.OnesCount64(made))
			s.made |= made
			c.offer(s, made)
		}
		if still&^(s.b.Have()&^s.held) != 0 {
			c.repairAt = min(c.repairAt, next)
			kept = append(kept, s)
		}
	}
	clear(c.late[len(kept):])
	c.late = kept
	c.spread()
}

// ask requests what a block needs to be decoded: at first of those who were
// to push it, later of whoever has it.
func (c *Channel) ask(s *slot) bool {
	n := c.node
	if s.tries == 0 && c.group.receiving(n.now) && c.taken() == 0 && s.wait == 0 {
		// RFC 5740 §5.3: wait at random, somebody else's repair may come.
		s.wait = 1
		s.askAt = n.now + time.Duration(n.random.Int64N(int64(groupBackoff)))
		return false
	}
	pending, _ := c.pending(s)
	var missing, data uint64
	need := block.Stripes
	if s.b == nil {
		// Nothing is known of it: all that could be needed.
		missing = block.StripeMask(uint16(lowest(wire.AllStripes, c.data()+1))) &^ c.orphaned(s.number)
		if c.taken() != 0 {
			missing &^= shardsOf(pending)
		}
		data = missing
		need = block.MaxShards
	} else {
		f := s.b.Manifest()
		will := c.coming(pending, f) | c.outstanding(s)
		missing = f.AllMask() &^ s.b.Have() &^ will
		data = missing & f.DataMask()
		need = s.b.Missing() - bits.OnesCount64(will&^s.b.Have())
		need += (need + 7) / 8
	}
	more := c.outstanding(s) != 0
	servers := c.serversOf(s)
	if len(servers) == 0 {
		s.askAt = n.now + 50*time.Millisecond
		return false
	}
	wait := time.Duration(0)
	budget := c.asking(need)
	awaited, parents := c.awaited(s), c.parentsFirst(s)
	if awaited {
		budget = need
	}
	if budget == 0 && s.b != nil {
		s.askAt = n.now + 30*time.Millisecond
		return false
	}
	need = min(need, max(budget, 1))
	for k, sv := range servers {
		// What its own feeds were to bring, then a part of the rest.
		take := missing
		if parents && len(servers) > 1 {
			take &= shardsOf(c.feedsOf(sv))
			if k == len(servers)-1 && need > 0 && bits.OnesCount64(take) < need {
				take = missing
			}
		}
		most := need
		if !parents || s.b == nil {
			most = (need + len(servers) - k - 1) / (len(servers) - k)
		}
		want := first(take&data, take, most)
		if want == 0 && s.b != nil {
			continue
		}
		missing &^= want
		data &^= want
		need -= bits.OnesCount64(want)
		c.request(sv, s, want, s.b == nil && (k == 0 || s.tries > 1))
		sv.unanswered = min(sv.unanswered, 254) + 1
		sv.turn.asked(n.now)
		sv.requested = n.now
		s.out |= want
		sv.last = lastAsk{s.number, want}
		wait = max(wait, c.answerWait(sv))
		if need <= 0 && s.b != nil {
			break
		}
	}
	if wait == 0 {
		wait = 50 * time.Millisecond
	}
	if s.tries < 255 && !more {
		s.tries++
	}
	if (s.tries > 4 || c.hungers()) && !(awaited && s.tries < awaitedTries) {
		wait = max(wait, s.wait+s.wait/2)
	}
	s.wait = min(wait, maxWait)
	s.outUntil = n.now + s.wait
	s.askAt = s.outUntil
	if s.b != nil && s.tries <= 4 && !c.short() {
		s.askAt = min(s.outUntil, n.now+askGather)
	}
	return true
}

// hungers reports whether so few feeds are live that requests cannot replace
// the others.
func (c *Channel) hungers() bool { return 3*onesCount(c.live().Stripes()) < 2*c.data() }

// asking is how many shards may be requested now: half of what the stream
// has, more while there is nothing to play yet.
func (c *Channel) asking(need int) int {
	a := &c.asks
	times := askTimes
	switch {
	case c.hungers():
		times = askTimesHungry // requests cannot replace feeds
	case !c.caughtUp:
		times = askTimesJoining
	}
	a.rate = max(20, times*c.rate/block.MaxShard)
	a.depth = max(block.MaxShards, 0.75*c.rate/block.MaxShard)
	if a.last == 0 && c.rate > 0 {
		a.credit = a.depth
	}
	a.takeSome(c.node.now, 0)
	return max(0, min(need, int(a.credit)))
}

// shardsOf is every shard of the stripes in m, whatever the rows.
func shardsOf(m wire.FeedMask) uint64 { return block.StripeMask(uint16(m)) }

// first takes up to k shards, those of a first.
func first(a, b uint64, k int) (m uint64) {
	for _, part := range [2]uint64{a, b &^ a} {
		for ; part != 0 && k > 0; part &= part - 1 {
			m |= part & -part
			k--
		}
	}
	return m
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

// serversOf picks whom to ask for a block: at first all parents of what is
// missing, then at most maxServers, others among them that say that they have
// it.
func (c *Channel) serversOf(s *slot) []*neighbour {
	n := c.node
	list := c.cands[:0]
	usable := func(nb *neighbour) bool {
		return nb != nil && nb.joined && nb.denied == 0 && nb.peer.link.Established()
	}
	if c.taken() == 0 && usable(c.group.repairer) {
		return append(list, c.group.repairer)
	}
	holds := func(nb *neighbour) bool {
		t := nb.theirs
		return t.Run == c.run && t.Newest != wire.NoNumber && t.Oldest <= s.number && s.number <= t.Newest
	}
	start, parentsFirst := 0, c.parentsFirst(s)
	if k := len(c.neighbours); k > 0 {
		start = n.random.IntN(k)
	}
	for _, parents := range [2]bool{s.tries%4 < 2, s.tries%4 >= 2} {
		for j := range c.neighbours {
			nb := c.neighbours[(start+j)%len(c.neighbours)]
			if !usable(nb) || len(list) >= 4*maxServers {
				continue
			}
			parent := nb.asked&^(wire.Manifest|wire.Second) != 0 && nb.acked
			// A child has of a block what we have, if nobody else feeds it.
			if parent != parents || !parent && (!holds(nb) || n.now < nb.busyUntil || !nb.serves || nb.empty > 0 || nb.push.mask != 0 || nb.suspect() ||
				nb.unanswered >= unanswered && n.now-nb.requested < unansweredTime) {
				continue
			}
			list = append(list, nb)
		}
		if len(list) > 0 && parentsFirst {
			break
		}
	}
	if !parentsFirst || s.b == nil {
		list = list[:min(len(list), maxServers)]
	}
	c.cands = list
	return list
}

func (nb *neighbour) onRefuse(m *wire.Refuse) {
	n, c := nb.ch.node, nb.ch
	nb.unanswered = 0
	if m.Name.Run != c.run {
		return
	}
	if m.Reason == wire.RefuseBusy {
		switch {
		case n.now < nb.busyUntil:
			return // to what was asked at the same time
		case n.now-nb.busyUntil > busyForgotten:
			nb.busy = 0
		}
		rest := busyTime << nb.busy
		nb.busyUntil = n.now + rest/2 + time.Duration(n.random.Int64N(int64(rest)))
		nb.busy = min(nb.busy+1, busyTwice)
		if s := c.slot(m.Name.Number); s != nil && nb.last.number == s.number {
			s.out &^= nb.last.shards
			c.repairAt = min(c.repairAt, max(n.now, s.askAt))
		}
		return
	}
	if m.Reason != wire.RefuseGone || c.feedsOf(nb) == 0 && nb != c.group.repairer {
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

// askManifest sees to it that the manifest of an orphan shard is asked for,
// if it does not come by itself.
func (c *Channel) askManifest(from *neighbour, name block.Name) {
	n := c.node
	if name.Run == c.run && c.begun && name.Number < c.next {
		if s := c.slot(name.Number); s != nil && s.b == nil && s.tries == 0 {
			c.repairAt = min(c.repairAt, c.due(s))
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
	if f := &c.feeds[wire.FeedManifest]; c.begun && name.Run == c.run && f.from != nil && f.granted && (f.from != from || n.now-f.last < manifestWait) {
		if c.missed.at == 0 {
			c.missed = askOnce{name, n.now + manifestWait}
		}
		return
	}
	from.askFor(name)
}

// manifestWait is how long after a shard its manifest may come on another way.
const manifestWait = 30 * time.Millisecond

// askMissed asks the senders of orphan shards for their manifests.
func (c *Channel) askMissed() {
	n := c.node
	if c.missed.at == 0 || n.now < c.missed.at {
		return
	}
	c.missed = askOnce{}
	for i := range c.orphans {
		o := &c.orphans[i]
		if o.from == nil || o.name.Run != c.run || o.name.Number < c.next {
			continue
		}
		if left := o.at + manifestWait - n.now; left > 0 {
			c.missed = askOnce{o.name, n.now + left}
			return
		}
		if !c.asksFor(o.name) {
			o.from.askFor(o.name)
		}
	}
}

// asksFor reports whether somebody was asked for a manifest a moment ago.
func (c *Channel) asksFor(name block.Name) bool {
	for _, nb := range c.neighbours {
		if nb.query.name == name && c.node.now-nb.query.at < nb.rtt()+20*time.Millisecond {
			return true
		}
	}
	return false
}

// sample counts how much of a block's push came, once a block.
func (c *Channel) sample(s *slot) {
	if s.sampled || s.b == nil {
		return
	}
	s.sampled = true
	expected, got := 0, 0
	m := s.b.Manifest()
	live := c.live()
	for i := range block.Stripes {
		f := &c.feeds[i]
		if !f.expected(s.number) || !live.Has(i) || s.first < f.since || s.number < f.joint+recent {
			continue
		}
		mask := c.coming(1<<i, m)
		e, g := bits.OnesCount64(mask), bits.OnesCount64(s.pushed&mask)
		expected += e
		got += g
		f.from.due += float64(e)
		f.from.got += float64(g)
	}
	if expected == 0 {
		return
	}
	x := 1 - min(1, float64(got)/float64(expected))
	c.loss += (x - c.loss) / 32
}

// loss is the share of a neighbour's pushes that did not come, of late.
func (nb *neighbour) loss() float64 {
	if nb.due < 1 {
		return 0
	}
	l := 1 - min(1, nb.got/nb.due)
	nb.due *= 0.9
	nb.got *= 0.9
	return l
}

// setMargin decides how many stripes to ask for (section 6).
func (c *Channel) setMargin() {
	spare, loss := 1, c.loss
	if c.node.exchanges() {
		loss = min(loss, c.node.pathLoss()) // the rest had to be left out
	}
	switch {
	case loss > 0.08:
		spare = 3
	case loss > 0.02:
		spare = 2
	}
	c.wanted = min(block.Stripes, c.data()+spare)
	c.second = c.loss > 0.005 || c.betrayed()
	if half := loss < 0.003; half != c.half {
		c.half, c.changed = half, true
	}
}

// settleFeeds is the end of every call: feeds without a parent get one, what
// was assigned is asked for, and a change of what we hold is told.
func (c *Channel) settleFeeds() {
	if c.reassign {
		c.reassign = false
		c.assign()
	}
	c.resubscribe()
	if c.liveChanged {
		c.liveChanged = false
		c.sayChange()
	}
}

// sayChange tells those whom it concerns that feeds have come to life or died:
// who lacks the one, and who depends on the other.
func (c *Channel) sayChange() {
	n := c.node
	live := c.live()
	if live == c.saidLive {
		return
	}
	all := true
	for _, nb := range c.neighbours {
		born, died := live&^nb.saidLive, nb.saidLive&^live
		if !nb.joined || !nb.peer.link.Established() || born&^nb.held.Live&^nb.push.mask == 0 && died&nb.push.mask == 0 {
			continue
		}
		// Feeds come to life one after another: a moment makes one message of it.
		if n.now-nb.saidState >= stateGather && nb.saying.take(n.now) {
			nb.sayState()
			nb.sayAgain = n.now + stateAgain
		} else {
			all = false // housekeep tries again
		}
	}
	if all {
		c.saidLive = live
	}
}

// sayState tells nb what we hold.
func (nb *neighbour) sayState() {
	c := nb.ch
	h := c.holdings()
	nb.saidState, nb.saidLive = c.node.now, h.Live
	nb.peer.tell((&wire.State{Channel: c.tag, Progress: c.Progress(), Holdings: h}).Append)
}

// housekeep is done every 50 ms.
func (c *Channel) housekeep() {
	n := c.node
	for k := max(c.oldest, c.next-min(c.next, 16)); k < c.next; k++ {
		// Late enough for what others had to make anew.
		if s := c.slot(k); s != nil && !s.sampled && (beyond(c.next, k, 8) || n.now-s.first > time.Second) {
			c.sample(s)
		}
	}
	c.caughtUp = c.begun && (c.caughtUp || c.low == c.next)
	c.expireOrphans()
	c.askMissed()
	c.setMargin()
	c.watch()
	c.yield()
	c.settleTrials()
	c.audit()
	c.prove()
	c.forgetSilent()
	c.handOvers()
	c.expect()
	c.shed()
	if n.now >= c.clockAt {
		c.clockAt = n.now + 500*time.Millisecond
		c.readClock()
	}
	if live := c.live(); live != c.saidLive {
		c.liveChanged = true
	}
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
	c.assign()
	for _, nb := range c.neighbours {
		if !nb.peer.link.Established() {
			continue
		}
		nb.probe()
		switch {
		case nb.dialled && !nb.joined && n.now-nb.joinAt >= max(200*time.Millisecond, nb.rtt()+100*time.Millisecond, nb.deniedFor()):
			nb.peer.tell(nb.appendJoin)
		case nb.dialled && nb.joined && nb.denied > 0 && n.now-nb.joinAt > 2*time.Second:
			nb.denied = 0
		case nb.joined && nb.backfill && !nb.acked && n.now-nb.askedAt >= nb.rtt()+100*time.Millisecond:
			nb.peer.tell(nb.appendSubscribe)
		}
		if !nb.joined {
			continue
		}
		if nb.push.mask != 0 && n.now-nb.described > refreshEvery {
			nb.describe() // the first one may have been lost
		}
		if nb.sayAgain != 0 && n.now >= nb.sayAgain {
			nb.sayAgain = 0
			if nb.held.Live.Stripes() == 0 && nb.push.mask == 0 && c.live() != 0 {
				nb.sayState() // it has nothing and does not ask: the first one was lost
			}
		}
		every := stateEvery
		if nb.push.mask == 0 && nb.asked == 0 {
			every = stateApart
		}
		report := nb.arrivals.Due(n.now)
		switch {
		case nb.asked != 0 && nb.hopOn(wire.FeedManifest) == 0:
			every = stateRoot
		case nb.push.mask == 0 && n.now-nb.arrivals.Reported() < stateEvery:
			every = stateApart // it takes nothing from us, and a REPORT is a sign of life too
		}
		// Both in one datagram where it can be.
		if since := n.now - nb.saidState; since >= every || report && since >= every*2/3 ||
			nb.push.mask != 0 && nb.push.pending == 0 && n.now-max(nb.push.last, nb.saidState) >= stateIdle {
			nb.sayState()
			report = report || nb.arrivals.Fresh()
		}
		if report {
			m := wire.Report{Channel: c.tag, Loss: uint16(min(65535, nb.loss()*65536))}
			nb.arrivals.Report(n.now, &m)
			nb.peer.tell(m.Append)
		}
	}
	c.mingle()
	c.group.housekeep(c)
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
	silent := min(nb.silence(), n.now-p.link.Since()) > silentLink
	if silent && !p.probed && nb.dialled && !nb.lead && !p.beacon && p.addr.IsValid() {
		n.dialAnew(nb.ch, p.addr)
	}
	p.probed = silent
}
