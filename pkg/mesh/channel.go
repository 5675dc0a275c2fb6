package mesh

import (
	"bytes"
	"math/bits"
	"net/netip"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/wire"
)

const (
	// window is how many block numbers a channel can hold at once: 10 s of
	// the shortest blocks (8 ms) and more.
	window = 4096
	// ahead is how far past the newest manifest an unverified shard may be.
	ahead = 64
	// maxOrphans bounds the shards that wait for their manifest, in a channel
	// and from one neighbour.
	maxOrphans         = 512
	maxNeighbourOrphan = 128
	// orphanLife is how long a shard waits for its manifest.
	orphanLife = 2 * time.Second
	// recordedAge makes a stream recorded instead of live (section 2.3).
	recordedAge = 30 * time.Second
)

// Channel is a node's part in one channel.
type Channel struct {
	ID  channel.ID
	tag uint32

	node        *Node
	neighbours  []*neighbour
	feeds       [wire.Feeds]feed // where each comes from
	cands       []*neighbour     // while parents are chosen
	children    wire.FeedMask    // feeds that somebody takes from us
	waiting     float64          // share of the time that what is promised has to wait, of late
	orders      []order          // audits that we have ordered
	hoarders    offences         // roots that passed nothing on
	liars       offences         // who promised and did not deliver
	trials      []trial          // audits that we carry out
	auditAt     Time
	proveAt     Time
	heldBack    float64          // of the uplink for repairs and control, bytes a second
	holdAt      Time             // when to look at that again
	vacated     [wire.Feeds]Time // when somebody last gave a feed back that nobody else has
	overSince   Time             // since when more is promised than we can send
	askedFor    [wire.Feeds]Time // when somebody last wanted it of us
	lastHop     [wire.Feeds]int  // our last known distance on each feed
	heirs       [wire.Feeds]heir // who has each from where we had it
	handovers   []handover       // what children are to lose to others
	told        *neighbour       // of whom EventParent was said
	book        []contact        // peers that are known and not neighbours
	redirects   allowance        // dials because of what others say
	voids       [16]void         // a ring
	voidAt      int
	reassign    bool          // a feed has no parent
	changed     bool          // some neighbour is to be asked for something else
	takers      []*neighbour  // children: those with a mask
	debtors     []*pusher     // children that are owed something
	cutOff      bool          // nothing comes to us, but to others
	liveChanged bool          // a feed has come to life, or died
	saidLive    wire.FeedMask // what all whom it concerns have been told
	switchAt    Time
	mingleAt    Time
	seekAt      Time
	idleAt      Time
	clockAt     Time
	silentSince Time          // nobody is blamed for what he did not bring before
	soundedAt   Time          // when all were asked for a sign of life
	cameAt      Time          // when something last came of a feed
	clockBase   time.Duration // what our clock is ahead of the source's, as the feeds show
	waitUntil   Time          // no feeds are asked for before: there is no room
	tryBy       Time          // they are asked for then, room or no room
	hungry      time.Duration // for how long too few feeds have been live, of late
	looked      Time          // when that was last counted
	waits       int           // times in a row that we gave up
	redials     []redial
	source      bool // fed by a pipe: this node is where the channel comes from
	superseded  bool
	clockTold   bool
	toldFork    block.Run // whose fork has been reported

	run    block.Run
	slots  [window]*slot
	oldest block.Number // numbers in [oldest, next) may have a slot
	next   block.Number // newest manifest + 1
	low    block.Number // below it nothing is missing, or it was given up
	begun  bool         // the run has a first block
	rap    block.Number // newest RAP block with a manifest; wire.NoNumber
	prior  block.Number // the RAP before it
	bytes  int          // held in slots
	spare  []*block.Block

	orphans     []orphan
	asks        allowance // shards that we may request
	begunAt     Time      // when the first manifest came
	caughtUp    bool      // the live edge has been reached
	pictured    bool      // there has been a block that a picture can begin at
	missed      askOnce   // an orphan whose manifest is to be asked for, and when
	rate        float64   // stream, bytes a second
	meanTime    float64   // of a block, seconds; recent ones weigh more
	meanPayload float64   // likewise, bytes
	descriptor  []byte    // whole datagram
	descSeq     int64

	wanted   int     // stripes that we want
	half     bool    // and of the last one only the first row
	second   bool    // and a second copy of the manifest
	loss     float64 // measured on what is pushed to us
	dirty    []*slot // slots with shards not yet offered to children
	late     []*slot // decoded ones with shards that feeds may still bring
	repairAt Time
	advanced Time // when the newest block last changed

	group
}

// slot is what is known of one block.
type slot struct {
	number   block.Number
	b        *block.Block  // nil until the manifest has come
	first    Time          // when the block was first heard of
	last     Time          // when the last shard of it came
	gone     wire.FeedMask // feeds that have brought all of it that they will
	made     uint64        // shards made from others that have not come by themselves
	held     uint64        // shards made for ourselves that a feed may still bring
	fresh    uint64        // shards not yet offered to children
	asked    uint64        // shards that were requested
	out      uint64        // of those, the ones that may come until outUntil
	pushed   uint64        // shards that came without being asked for
	askAt    Time          // when to ask next; 0 not decided
	outUntil Time
	wait     time.Duration
	tries    uint8
	decoded  bool
	dead     bool // given up
	sampled  bool // its loss has been counted
	forked   bool // another manifest of its name is about
}

type orphan struct {
	from *neighbour
	name block.Name
	at   Time
	raw  []byte
}

type redial struct {
	at     Time
	to     netip.AddrPort
	beacon bool // because a beacon named it
}

func newChannel(n *Node, id channel.ID) *Channel {
	c := &Channel{
		ID:        id,
		tag:       id.Tag(),
		node:      n,
		rap:       wire.NoNumber,
		prior:     wire.NoNumber,
		repairAt:  Never,
		loss:      initialLoss,
		redirects: fullAllowance(dialRate, dialBurst),
	}
	for i := range c.lastHop {
		c.lastHop[i] = wire.NoHop
	}
	c.group.init()
	c.asks.credit = block.MaxShards
	c.setMargin()
	return c
}

// Run is the run that the node holds, 0 before the first manifest.
func (c *Channel) Run() block.Run { return c.run }

// Progress is what the node holds of the channel.
func (c *Channel) Progress() wire.Progress {
	p := wire.Progress{Run: c.run, Newest: wire.NoNumber, RAP: wire.NoNumber, Oldest: wire.NoNumber}
	if c.begun {
		p.Newest, p.Oldest = c.next-1, c.holdsFrom()
		if c.rap != wire.NoNumber && c.rap >= c.oldest {
			p.RAP = c.rap
		}
	}
	return p
}

// holdsFrom is the oldest block that others can have of us: a newcomer lacks
// those that it has begun with.
func (c *Channel) holdsFrom() block.Number {
	for k := c.oldest; k < c.next; k++ {
		if s := c.slot(k); s != nil && s.decoded {
			return k
		}
	}
	return c.oldest
}

// Rate is the channel's bit rate as its manifests say, in bit/s; 0 unknown.
func (c *Channel) Rate() float64 { return c.rate * 8 }

// Loss is the share of what parents push that did not come, as measured; 0
// where nobody pushes.
func (c *Channel) Loss() float64 {
	if c.taken() == 0 {
		return 0
	}
	return c.loss
}

// Parent is the address of the peer that most feeds come from, invalid if
// there is none or it is the group.
func (c *Channel) Parent() netip.AddrPort {
	var best *neighbour
	most := 0
	for _, nb := range c.neighbours {
		if k := (c.feedsOf(nb) & c.granted()).Count(); k > most {
			best, most = nb, k
		}
	}
	if best == nil {
		return netip.AddrPort{}
	}
	return best.peer.link.Addr()
}

// Parents is how many peers push something to us.
func (c *Channel) Parents() (k int) {
	for _, nb := range c.neighbours {
		if c.feedsOf(nb)&c.granted() != 0 {
			k++
		}
	}
	return k
}

// ParentAddrs are their addresses.
func (c *Channel) ParentAddrs() (addrs []netip.AddrPort) {
	for _, nb := range c.neighbours {
		if c.feedsOf(nb)&c.granted() != 0 {
			addrs = append(addrs, nb.peer.link.Addr())
		}
	}
	return addrs
}

// Descriptor is the channel's signed descriptor, as a datagram; nil if unknown.
func (c *Channel) Descriptor() []byte { return c.descriptor }

// Recorded reports whether the newest block was made so long ago that the
// channel must not be called live.
func (c *Channel) Recorded() bool {
	if !c.begun {
		return false
	}
	s := c.slot(c.next - 1)
	return s != nil && s.b != nil && c.node.UTC(c.node.now).Sub(s.b.Manifest().Created) > recordedAge
}

// far reports whether a block is so far past our newest that ours are late.
func (c *Channel) far(number block.Number) bool {
	return beyond(number, c.next, uint64(c.blocksIn(lagTime))+2)
}

// beyond reports whether number is at least by greater than base. Numbers go
// up to block.MaxNumber: adding to one must not wrap.
func beyond(number, base block.Number, by uint64) bool {
	return uint64(number) >= uint64(base)+by
}

func (c *Channel) slot(number block.Number) *slot {
	if !c.begun || number < c.oldest || beyond(number, c.next, ahead) {
		return nil
	}
	s := c.slots[number%window]
	if s == nil || s.number != number {
		return nil
	}
	return s
}

// Feed takes one datagram of a block stream (section 3): this node is a source.
func (c *Channel) Feed(now Time, b []byte) {
	c.node.at(now)
	c.source = true
	c.bare(nil, b)
}

// bare takes a bare datagram. from is nil for a pipe and for a group.
func (c *Channel) bare(from *neighbour, b []byte) {
	switch b[0] {
	case wire.TypeShard:
		c.shard(from, b)
	case wire.TypeManifest:
		c.manifest(from, b)
	case wire.TypeDescriptor:
		c.describe(from, b)
	default:
		c.node.stats.Refused++
	}
}

func (c *Channel) describe(from *neighbour, b []byte) {
	if bytes.Equal(b, c.descriptor) {
		return
	}
	if from != nil && !from.verify.take(c.node.now) {
		c.node.stats.Refused++
		return
	}
	item, err := channel.ParseDatagram(b)
	if err != nil {
		c.node.stats.Refused++
		return
	}
	d, err := channel.ParseDescriptor(item)
	if err != nil || d.ID != c.ID {
		c.node.wrong(from, wire.NoNumber, "a descriptor that the channel's key did not sign")
		return
	}
	if c.descriptor != nil && d.Seq <= c.descSeq {
		return
	}
	c.descriptor, c.descSeq = append([]byte(nil), b...), d.Seq
	c.node.out.Event(Event{Kind: EventDescriptor, Channel: c.ID, Descriptor: c.descriptor})
	for _, nb := range c.neighbours {
		nb.describe()
	}
}

func (c *Channel) shard(from *neighbour, raw []byte) {
	n := c.node
	sh, err := block.DecodeShard(raw)
	if err != nil || sh.Tag != c.tag || sh.Name.Kind != block.Media {
		n.stats.Refused++
		return
	}
	if sh.Name.Run < c.run {
		return // of a run that has been replaced
	}
	if from != nil {
		from.heard(sh.Name)
		from.unanswered, from.busy = 0, 0
		from.arrivals.Shard(n.now, sh.Name.Number, uint8(sh.Index))
	}
	if sh.Name.Run == c.run && c.begun {
		if sh.Name.Number < c.oldest {
			return
		}
		if beyond(sh.Name.Number, c.next, ahead) {
			n.stats.Refused++
			return
		}
		if s := c.slot(sh.Name.Number); s != nil && s.b != nil {
			c.add(from, s, sh.Index, raw[3], sh.Payload)
			return
		}
	}
	c.keepOrphan(from, sh.Name, raw)
}

// add puts a shard into its block.
func (c *Channel) add(from *neighbour, s *slot, index int, flags byte, payload []byte) {
	n := c.node
	stripe := index % block.Stripes
	bit := uint64(1) << (index % block.MaxShards)
	pushed := from != nil && s.asked&bit == 0
	if !pushed && from != nil {
		// It stands for no feed that lives.
		flags |= block.Regenerated
	}
	err := s.b.Add(index, flags, payload)
	if !pushed && from != nil && (err == nil || err == block.ErrHave) {
		from.turn.answered(n.now)
	}
	switch err {
	case nil:
	case block.ErrHave:
		// It may have been made here a moment ago, or come from the parent
		// before: the feed lives all the same.
		if s.made&bit == 0 {
			n.stats.Duplicates++
		}
		s.made &^= bit
		if !pushed {
			return
		}
		if f := &c.feeds[stripe]; s.held&bit == 0 && f.from != from && f.next != from {
			if c.tried(from).Has(stripe) && flags&block.Regenerated == 0 && s.b.Confirm(index, flags, payload) {
				c.endTrial(from, stripe, true, true)
			} else if f.from != nil { // as long as nobody else brings it, any is welcome
				c.stray(from)
			}
			return
		}
		if !s.b.Confirm(index, flags, payload) {
			n.wrong(from, s.number, "a shard that is not what the channel signed")
			return
		}
		s.pushed |= bit
		c.came(from, stripe, s, flags&block.Regenerated == 0)
		if s.held&bit != 0 {
			s.held &^= bit
			n.stats.ShardsIn++
			c.offer(s, bit)
		}
		return
	case block.ErrForged:
		return
	default:
		n.wrong(from, s.number, "a shard that is not what the channel signed")
		return
	}
	n.stats.ShardsIn++
	if pushed && from != nil && from.shady != 0 && flags&block.Regenerated == 0 && (c.wantOf(from).Has(stripe) || n.now-from.leftAt < leaveGrace) {
		from.honest() // late, but it delivers
	}
	if !pushed && from != nil {
		n.stats.Repaired++
	}
	if pushed || from == c.feeds[stripe].from {
		s.pushed |= bit // it would have been pushed, too
	}
	s.last = n.now
	if pushed && len(c.trials) > 0 && flags&block.Regenerated == 0 {
		c.endTrial(from, stripe, true, true)
	}
	if pushed {
		c.came(from, stripe, s, flags&block.Regenerated == 0)
		if f := &c.feeds[stripe]; f.from != from && f.next != from && f.from != nil {
			c.stray(from)
		}
	}
	c.offer(s, bit)
	if !s.decoded && s.b.Decodable() {
		c.decode(s)
	}
}

// offer marks shards as new to children.
func (c *Channel) offer(s *slot, shards uint64) {
	if s.fresh == 0 {
		c.dirty = append(c.dirty, s)
	}
	s.fresh |= shards
}

func (c *Channel) decode(s *slot) {
	n := c.node
	// What children want and no feed will bring is made now; what may still
	// come by itself is passed on when it comes, or when it is overdue.
	s.decoded = true
	pending, next := c.pending(s)
	coming := c.coming(pending, s.b.Manifest()) &^ s.b.Have()
	want := s.b.Manifest().DataMask()
	if !c.source { // to which the rest comes by the pipe
		want |= c.childrenWant(s.b) &^ coming
	}
	made, err := s.b.ReconstructSome(want &^ s.b.Have())
	if coming != 0 {
		s.held = made & coming
		c.late = append(c.late, s)
		c.repairAt = min(c.repairAt, next)
	}
	if err != nil {
		// The channel's own key signed hashes that its shards do not fit:
		// nobody can use this block.
		n.stats.Forged++
		s.dead, s.decoded = true, false
		c.advanceLow()
		return
	}
	s.made |= made
	n.stats.Blocks++
	n.stats.Rebuilt += uint64(bits.OnesCount64(made))
	if made &^= s.held; made != 0 {
		c.offer(s, made)
	}
	if m := s.b.Manifest(); m.SinceRAP == 0 {
		c.pictured = true
	}
	if !s.dead {
		n.out.Block(s.b)
	}
	s.dead = false
	c.advanceLow()
}

func (c *Channel) advanceLow() {
	for c.low < c.next {
		if s := c.slot(c.low); s != nil && !s.decoded && !s.dead {
			return
		}
		c.low++
	}
}

func (c *Channel) manifest(from *neighbour, raw []byte) {
	n := c.node
	m, err := block.DecodeManifest(raw)
	if err != nil || m.Tag != c.tag || m.Name.Kind != block.Media {
		n.stats.Refused++
		return
	}
	if from != nil {
		from.heard(m.Name)
	}
	switch {
	case m.Name.Run < c.run:
		if from != nil {
			from.tellNewer()
		}
		return
	case m.Name.Run == c.run && c.begun:
		if m.Name.Number < c.oldest {
			return
		}
		if s := c.slot(m.Name.Number); s != nil && s.b != nil {
			if !bytes.Equal(s.b.ManifestDatagram(), raw) {
				c.forked(from, s, &m)
			} else if from != nil {
				c.cameManifest(from, s)
			}
			return
		}
	}
	if !c.mayVerify(from) {
		n.stats.Refused++
		return
	}
	if !n.cfg.Vault.Verify(&m, c.ID) {
		n.wrong(from, wire.NoNumber, "a manifest that the channel's key did not sign")
		return
	}
	if (m.Name.Run != c.run || !c.begun) && m.Run.TooFarAhead(n.UTC(n.now)) {
		n.stats.Refused++
		if !c.clockTold {
			c.clockTold = true
			n.out.Event(Event{Kind: EventClock, Channel: c.ID, Run: m.Run, Text: "the channel says that it is " +
				m.Run.Time().Format(time.DateTime) + " UTC, more than a day after this machine's clock: is that right?"})
		}
		return
	}
	n.stats.ManifestsIn++
	if m.Name.Run > c.run || !c.begun {
		if c.source && from != nil && c.run != 0 {
			if !c.superseded {
				c.superseded = true
				n.out.Event(Event{Kind: EventSuperseded, Channel: c.ID, Peer: from.peer.link.Addr(), Run: m.Name.Run,
					Text: "another source of this channel started later, at " + m.Run.Time().Format(time.RFC3339)})
			}
		}
		c.startRun(from, &m)
	} else if beyond(m.Name.Number, c.next, window/2) {
		// We were away for long: begin again where the stream is now.
		c.startRun(from, &m)
	}
	c.place(&m, raw)
	if from != nil {
		if c.told != from && c.feedsOf(from) != 0 && (c.told == nil || c.feedsOf(c.told) == 0) {
			c.told = from
			n.out.Event(Event{Kind: EventParent, Channel: c.ID, Peer: from.peer.link.Addr()})
		}
		if s := c.slot(m.Name.Number); s != nil {
			c.cameManifest(from, s)
		}
	}
}

// cameManifest notes the manifest of s as what nb was to push.
func (c *Channel) cameManifest(nb *neighbour, s *slot) {
	first, second := &c.feeds[wire.FeedManifest], &c.feeds[wire.FeedSecond]
	switch {
	case second.from == nb && first.from == nb && first.latest == s.number && first.passed != 0:
		c.came(nb, wire.FeedSecond, s, true)
	case first.from == nb || first.next == nb:
		c.came(nb, wire.FeedManifest, s, true)
	case second.from == nb || second.next == nb:
		c.came(nb, wire.FeedSecond, s, true)
	case nb.query.name.Number != s.number:
		c.stray(nb)
	}
}

func (c *Channel) mayVerify(from *neighbour) bool {
	if from == nil {
		return c.groupVerify.take(c.node.now) || c.source
	}
	return from.verify.take(c.node.now)
}

// mayBeForked reports whether nb may hold another manifest of this name: then
// the source is to blame for a shard that does not fit. It is asked, and has
// two round trips to show it, once in a while.
func (nb *neighbour) mayBeForked(name block.Name) bool {
	now := nb.ch.node.now
	if nb.forkedRun == nb.ch.run {
		return true
	}
	if nb.doubted == 0 || now-nb.doubted > wrongMemory {
		nb.doubted = now
	}
	nb.askFor(name)
	return now-nb.doubted < 2*nb.rtt()+100*time.Millisecond
}

// forked handles a second manifest for a name that has one. Whoever holds
// that is not to blame for shards that fit his and not ours.
func (c *Channel) forked(from *neighbour, s *slot, m *block.Manifest) {
	n := c.node
	if s.forked && (from == nil || from.forkedRun == c.run) || !c.mayVerify(from) {
		return
	}
	if !n.cfg.Vault.Verify(m, c.ID) {
		n.wrong(from, wire.NoNumber, "a manifest that the channel's key did not sign")
		return
	}
	if from != nil {
		from.forkedRun = c.run
	}
	if s.forked {
		return
	}
	s.forked = true
	n.stats.ManifestsForked++
	if c.toldFork == c.run {
		return
	}
	c.toldFork = c.run
	n.out.Event(Event{Kind: EventForked, Channel: c.ID, Run: m.Name.Run, Text: "the channel's key signed two manifests for one block: the first stands"})
}

// startRun drops what was held and begins at m's run.
func (c *Channel) startRun(from *neighbour, m *block.Manifest) {
	n := c.node
	had := c.run
	for i, s := range c.slots {
		if s != nil {
			c.release(s)
			c.slots[i] = nil
		}
	}
	c.dirty, c.late = c.dirty[:0], c.late[:0]
	if m.Name.Run != c.run {
		for _, nb := range c.neighbours {
			if nb.theirs.Run < m.Name.Run && c.begun && c.feedsOf(nb) != 0 && nb != from {
				c.leave(nb) // it brings what is over, until it says otherwise
			}
		}
		for i := range c.lastHop {
			c.lastHop[i] = wire.NoHop
		}
	}
	c.run = m.Name.Run
	if !c.begun {
		c.begunAt = n.now
	}
	c.begun = true
	c.rap, c.prior = wire.NoNumber, wire.NoNumber
	// What the run needs to be played by those who join now.
	start := m.Name.Number
	begin, ok := m.Start()
	if newest := c.newestOf(m.Name.Run); newest > m.Name.Number {
		// What is young by its own number need not be so by what there is.
		if _, young := block.Start(newest, block.NoRAP, m.Duration); !young {
			begin, ok = m.RAPNumber()
		}
	}
	switch {
	case ok && start-begin < window/2:
		start = begin
	case !ok && start <= ahead:
		start = 0
	}
	if c.source {
		start = m.Name.Number
	}
	c.oldest, c.low, c.next = start, start, start
	c.bytes = 0
	for _, nb := range c.neighbours {
		nb.push.restart(start)
		nb.latest = start
	}
	for i := range c.feeds {
		f := &c.feeds[i]
		f.first, f.latest, f.passed, f.delay = start, start, 0, 0
	}
	c.group.push.restart(start)
	if had != 0 && had != c.run && !c.superseded {
		n.out.Event(Event{Kind: EventNewRun, Channel: c.ID, Run: c.run})
	}
}

// newestOf is the newest block of a run that a neighbour says it has.
func (c *Channel) newestOf(run block.Run) (newest block.Number) {
	for _, nb := range c.neighbours {
		if t := nb.theirs; t.Run == run && t.Newest != wire.NoNumber {
			newest = max(newest, t.Newest)
		}
	}
	return newest
}

func (c *Channel) release(s *slot) {
	if s.b != nil {
		c.bytes -= s.b.Size()
		if len(c.spare) < 4 {
			c.spare = append(c.spare, s.b)
		}
		s.b = nil
	}
}

// place makes a slot for a verified manifest of the current run.
func (c *Channel) place(m *block.Manifest, raw []byte) {
	n := c.node
	number := m.Name.Number
	for beyond(number, c.oldest, window) {
		c.dropOldest()
	}
	for c.next <= number {
		// Numbers in between have been heard of but not seen.
		c.slots[c.next%window] = &slot{number: c.next, first: n.now, last: n.now}
		c.next++
		c.advanced = n.now
		c.repairAt = min(c.repairAt, n.now+reorderSlack)
	}
	s := c.slot(number)
	if s == nil {
		return
	}
	var b *block.Block
	if k := len(c.spare); k > 0 {
		b, c.spare = c.spare[k-1], c.spare[:k-1]
	} else {
		b = n.cfg.Vault.NewBlock()
	}
	if err := b.Reset(raw); err != nil {
		n.stats.Refused++
		return
	}
	s.b = b
	s.last = n.now
	c.bytes += b.Size()
	if m.Duration > 0 && m.Payload > 0 {
		// Of sums, so that one block of a millisecond is not a burst of
		// everything; no block is shorter than that (section 2).
		d := max(m.Duration, time.Millisecond).Seconds()
		if c.meanTime == 0 {
			c.meanTime, c.meanPayload = d, float64(m.Payload)
		}
		c.meanTime += (d - c.meanTime) / 16
		c.meanPayload += (float64(m.Payload) - c.meanPayload) / 16
		first := c.rate == 0
		c.rate = c.meanPayload / c.meanTime
		if first {
			c.expect()
		}
	}
	if m.SinceRAP == 0 && (c.rap == wire.NoNumber || number > c.rap) {
		c.prior, c.rap = c.rap, number
	}
	if s.fresh == 0 {
		c.dirty = append(c.dirty, s) // children get the manifest at once
	}
	c.adopt(s)
	if s.b.Decodable() && !s.decoded {
		c.decode(s) // an empty block
	}
	if !s.decoded {
		c.repairAt = min(c.repairAt, c.due(s))
	}
	c.trim()
}

// adopt gives a block the shards that came before its manifest.
func (c *Channel) adopt(s *slot) {
	kept := c.orphans[:0]
	var mine []orphan
	for _, o := range c.orphans {
		if o.name.Run == c.run && o.name.Number == s.number {
			mine = append(mine, o)
			continue
		}
		if o.name.Run >= c.run {
			kept = append(kept, o)
		} else if o.from != nil {
			o.from.orphans--
		}
	}
	clear(c.orphans[len(kept):])
	c.orphans = kept
	for _, o := range mine {
		if o.from != nil {
			o.from.orphans--
		}
	}
	for _, o := range mine {
		if sh, err := block.DecodeShard(o.raw); err == nil && s.b != nil {
			c.add(o.from, s, sh.Index, o.raw[3], sh.Payload)
		}
	}
}

// keepOrphan holds a shard until its manifest comes, and asks for that.
func (c *Channel) keepOrphan(from *neighbour, name block.Name, raw []byte) {
	n := c.node
	if len(c.orphans) >= maxOrphans || from != nil && from.orphans >= maxNeighbourOrphan {
		n.stats.Refused++
		c.askManifest(from, name)
		return
	}
	for i := range c.orphans {
		if o := &c.orphans[i]; o.name == name && o.raw[1] == raw[1] {
			return
		}
	}
	n.stats.Orphans++
	if from != nil {
		from.orphans++
	}
	c.orphans = append(c.orphans, orphan{from, name, n.now, append([]byte(nil), raw...)})
	c.askManifest(from, name)
}

// expireOrphans drops the shards whose manifest has not come in time.
func (c *Channel) expireOrphans() {
	old := 0
	for old < len(c.orphans) && c.node.now-c.orphans[old].at > orphanLife {
		if from := c.orphans[old].from; from != nil {
			from.orphans--
		}
		old++
	}
	if old > 0 {
		k := copy(c.orphans, c.orphans[old:])
		clear(c.orphans[k:])
		c.orphans = c.orphans[:k]
	}
}

// trim forgets blocks that are older than what is kept: all since the last
// but one random access point and at least Keep, within KeepBytes.
func (c *Channel) trim() {
	n := c.node
	for c.oldest+1 < c.next {
		s := c.slot(c.oldest)
		if s != nil && c.bytes <= n.cfg.KeepBytes && c.next-c.oldest < window*3/4 {
			young := n.now-s.first < n.cfg.Keep
			needed := c.prior != wire.NoNumber && c.oldest >= c.prior
			if c.prior == wire.NoNumber {
				needed = c.next-c.oldest < window/2
			}
			if young || needed {
				return
			}
		}
		c.dropOldest()
	}
}

func (c *Channel) dropOldest() {
	s := c.slot(c.oldest)
	if s != nil {
		if !s.decoded && !s.dead {
			c.node.stats.BlocksLost++
		}
		for i, d := range c.dirty {
			if d == s {
				c.dirty = append(c.dirty[:i], c.dirty[i+1:]...)
				break
			}
		}
		c.release(s)
		c.slots[c.oldest%window] = nil
	}
	c.oldest++
	c.low = max(c.low, c.oldest)
	c.next = max(c.next, c.oldest)
}
