package lan

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

const (
	// A node announces itself every minGap, and less often where many do: one announcement (a datagram in each scope) a second is what
	// all on a link send together, whatever their number up to maxAnnouncers.
	minGap        = 30 * time.Second
	pace          = time.Second
	maxAnnouncers = 1024
	// Multicast is not repeated when it gets lost (on a wireless link every tenth is), so the first announcement is, where few are.
	againAfter = time.Second
	few        = 8
	// updateGap is between an announcement and one that says something new.
	updateGap = time.Second
	// describeGap is for how long a descriptor that was on the link is not repeated, but for who asks.
	describeGap = 10 * time.Second

	// answerWait bounds the random wait before an answer; shortWait where so few are there that all may answer. It is longer for who asks
	// for all channels, where many are known.
	answerWait    = 100 * time.Millisecond
	shortWait     = 20 * time.Millisecond
	allWait       = 10 * time.Millisecond // a channel
	longestWait   = time.Second
	enough        = 4  // answers for a channel, whoever gives them
	enoughOfAll   = 1  // of each channel, for who wants to know what channels there are
	feederPatient = 2  // who feeds a channel keeps silent only after so many times as many
	maxSaid       = 32 // datagrams a second about a channel, above which nobody answers but who feeds it
	maxAsked      = 32 // questions remembered, so as to know their copies

	// A question is repeated where nothing came of it; peers that are heard within lookFor of it are told again.
	maxQuestions = 16
	lookFor      = 2 * time.Second

	sweepGap = 5 * time.Second
	never    = time.Duration(math.MaxInt64)

	// linkHops is the hop limit of what is sent; in link scope nothing that has less was sent on this link (RFC 5082).
	linkHops    = 255
	hopsUnknown = -1
)

// The paces that a node keeps.
var (
	answers   = limit{4, 8} // on a link
	questions = limit{4, 8}
)

// askAgain are the waits before a question is repeated.
var askAgain = [...]time.Duration{300 * time.Millisecond, time.Second, 2 * time.Second}

// again are those of this one: what concerns everybody is not repeated so soon.
func (q *question) again() []time.Duration {
	if q.kind == askAll {
		return askAgain[1:]
	}
	return askAgain[:]
}

// scopes in which everything is said. Site comes first: its datagrams come from an address that is good for others too.
var scopes = [...]channel.Scope{channel.ScopeSite, channel.ScopeLink}

// arrival says how a datagram came.
type arrival struct {
	link  int // index of the interface
	scope channel.Scope
	from  netip.Addr
	hops  int // limit that was left, hopsUnknown where the system does not tell
}

// datagram is one to be sent.
type datagram struct {
	link  int
	scope channel.Scope
	body  []byte
}

// port is an interface that is there.
type port struct {
	index    int
	name     string
	loopback bool
}

// link is what is known of the nodes on an interface.
type link struct {
	port
	up         bool
	announcers map[uint64]announcer // by sender

	announced time.Duration // when this node last was
	times     int
	jitter    float64
	urgent    bool
	described time.Duration // when the descriptor of this node's channel was last on the link
	spoken    bool          // it was at all

	pending answer
	bucket  bucket
	asked   [maxAsked]asked
	askedAt int
	said    int // announcements of this node's channel since saidAt, by all
	saidAt  time.Duration
}

type announcer struct {
	heard time.Duration
	mine  bool // takes part in this node's channel
}

// asked is a question that was heard.
type asked struct {
	sender uint64
	number uint32
}

// answer is one that this node may give.
type answer struct {
	open      bool
	at        time.Duration
	scopes    [len(scopes)]bool
	enough    int
	heard     []uint64 // who has said it meanwhile
	described bool     // and the descriptor
}

// question is one of this node.
type question struct {
	query
	asked time.Duration // when last
	at    time.Duration // when again
	tries int
}

// stats count what was dropped.
type stats struct {
	flood, greedy, far, malformed, forged, full uint64
	checks                                      uint64 // signatures that were checked
}

// engine is the whole protocol without sockets and clocks: time is since a start, all randomness is random's. Give it what comes,
// call poll at deadline or later, and send what is in out. It is not safe for concurrent use.
type engine struct {
	random   *rand.Rand
	sender   uint64
	self     *Announcement
	item     []byte // of this node's channel, the newest known
	seq      int64
	name     [nameHashSize]byte
	named    bool
	links    []*link
	channels map[channel.ID]*entry
	sources  map[netip.Addr]*source
	wanted   []channel.ID
	untold   []*entry

	questions []*question
	asking    bucket
	all       bucket
	checks    bucket
	sweepAt   time.Duration
	out       []datagram
	stats     stats
}

func newEngine(random *rand.Rand) *engine {
	return &engine{random: random, sender: random.Uint64(), channels: make(map[channel.ID]*entry), sources: make(map[netip.Addr]*source)}
}

// gap is the time between two announcements of one node. It counts nodes, not their addresses.
func (l *link) gap() time.Duration { return max(minGap, time.Duration(len(l.announcers)+1)*pace) }

// life is for how long who was heard is believed to be there.
func (l *link) life() time.Duration { return l.gap() * 5 / 2 }

// due is when this node is to be announced. It is reckoned anew each time, as others come and go (RFC 3550 section 6.3.6).
func (l *link) due() time.Duration {
	gap := l.gap()
	switch {
	case l.times == 0:
		return 0
	case l.urgent:
		return l.announced + updateGap
	case l.times == 1 && len(l.announcers) < few:
		gap = againAfter
	}
	return l.announced + time.Duration(float64(gap)*l.jitter)
}

func (e *engine) linkOf(index int) *link {
	for _, l := range e.links {
		if l.index == index {
			return l
		}
	}
	return nil
}

// setLinks says which interfaces there are. On a new one the node is announced, and asks what it still wants to know.
func (e *engine) setLinks(now time.Duration, ports []port) {
	e.links = slices.DeleteFunc(e.links, func(l *link) bool {
		l.up = slices.Contains(ports, l.port)
		return !l.up
	})
	for _, p := range ports {
		if !slices.ContainsFunc(e.links, func(l *link) bool { return l.port == p }) {
			e.links = append(e.links, &link{port: p, up: true, announcers: make(map[uint64]announcer), jitter: e.jitter()})
			for _, q := range e.questions {
				q.at = now
			}
		}
	}
	e.sweep(now)
}

func (e *engine) jitter() float64 { return 0.75 + e.random.Float64()/2 }

// update changes what this node says of itself; nil: nothing any more. Others hear of it at once, but for a descriptor that is not of who
// feeds the channel: there may be hundreds who have it at the same time.
func (e *engine) update(now time.Duration, a *Announcement, d channel.Descriptor) {
	old := e.self
	if old != nil && (a == nil || a.Channel != old.Channel || a.Port != old.Port) {
		e.goodbye()
	}
	if old == nil || a == nil || a.Channel != old.Channel {
		e.item, e.seq, e.named = nil, 0, false
		for _, l := range e.links {
			l.pending, l.spoken, l.times, l.said = answer{}, false, 0, 0
			for s, x := range l.announcers {
				x.mine = false
				l.announcers[s] = x
			}
		}
	}
	e.self = a
	if a == nil {
		return
	}
	if old == nil || old.Port != a.Port || old.Source != a.Source || old.Group != a.Group || a.Source && string(old.Item) != string(a.Item) {
		for _, l := range e.links {
			l.urgent = true
		}
	}
	e.describe(d)
	if c := e.channels[a.Channel]; c != nil {
		e.describe(c.descriptor)
	}
}

// describe takes a verified descriptor of this node's channel if it is newer.
func (e *engine) describe(d channel.Descriptor) {
	if len(d.Item) == 0 || len(e.item) > 0 && d.Seq <= e.seq {
		return
	}
	e.item, e.seq, e.name, e.named = d.Item, d.Seq, hashName(d.Values.Name), d.Values.Name != ""
	for _, l := range e.links {
		l.spoken = false
	}
}

// goodbye says that this node no longer takes part.
func (e *engine) goodbye() {
	if e.self == nil {
		return
	}
	g := gone{e.self.Channel, e.self.Port}
	body := g.append(appendHead(nil, e.sender))
	for _, l := range e.links {
		if l.times > 0 {
			e.say(l, body)
		}
	}
}

// say sends a datagram in all scopes.
func (e *engine) say(l *link, body []byte) {
	for _, s := range scopes {
		e.out = append(e.out, datagram{l.index, s, body})
	}
}

// ask has a question sent, and repeated while nothing comes of it.
func (e *engine) ask(now time.Duration, q query) {
	if q.kind == askChannel {
		e.want(q.id)
	}
	for _, o := range e.questions {
		if o.asks(&q) {
			o.at, o.tries = min(o.at, max(now, o.asked+answerWait)), 0
			return
		}
	}
	if len(e.questions) == maxQuestions {
		e.questions = slices.Delete(e.questions, 0, 1)
	}
	q.number = e.random.Uint32()
	e.questions = append(e.questions, &question{query: q, asked: now, at: now})
}

// looking reports whether this node has just asked for a channel.
func (e *engine) looking(now time.Duration, id channel.ID) bool {
	return slices.ContainsFunc(e.questions, func(q *question) bool {
		return q.tries > 0 && now-q.asked <= lookFor && (q.kind == askAll || q.kind == askChannel && q.id == id)
	})
}

// answered reports whether a question needs no repetition.
func (e *engine) answered(q *question) bool {
	switch q.kind {
	case askChannel:
		c := e.channels[q.id]
		return c != nil && len(c.peers) > 0
	case askName:
		for _, c := range e.channels {
			if len(c.descriptor.Item) > 0 && hashName(c.descriptor.Values.Name) == q.name {
				return true
			}
		}
	}
	return false
}

// deadline is when poll wants to be called.
func (e *engine) deadline() time.Duration {
	at := e.sweepAt
	for _, l := range e.links {
		if e.self != nil {
			at = min(at, l.due())
		}
		if l.pending.open {
			at = min(at, l.pending.at)
		}
	}
	for _, q := range e.questions {
		at = min(at, q.at)
	}
	return at
}

// poll does what is due.
func (e *engine) poll(now time.Duration) {
	if now >= e.sweepAt {
		e.sweep(now)
		e.sweepAt = now + sweepGap
	}
	// Who starts asks in the same datagram that announces it.
	due := e.dueQuestions(now)
	for _, l := range e.links {
		var body []byte
		for _, q := range due {
			body = q.append(body)
		}
		if e.self != nil && now >= l.due() {
			a := e.announcement(!l.spoken || now-l.described >= describeGap || l.pending.open && !l.pending.described)
			if len(body)+messageHead+announceSize+len(a.item) > maxDatagram-headSize {
				e.say(l, append(appendHead(nil, e.sender), body...))
				body = nil
			}
			body = a.append(body)
			e.noteSaid(now, l, len(a.item) > 0)
			l.announced, l.urgent, l.jitter = now, false, e.jitter()
			l.times++
			l.pending = answer{}
		}
		if len(body) > 0 {
			e.say(l, append(appendHead(nil, e.sender), body...))
		}
		if l.pending.open && now >= l.pending.at {
			e.answer(now, l)
		}
	}
}

// dueQuestions are those to be sent now.
func (e *engine) dueQuestions(now time.Duration) (due []*question) {
	e.questions = slices.DeleteFunc(e.questions, func(q *question) bool {
		if now < q.at {
			return false
		}
		waits := q.again()
		if q.tries > len(waits) || q.tries > 0 && e.answered(q) {
			return true
		}
		if len(due) == maxMessages-1 || !e.asking.take(now, questions) {
			q.at = now + answerWait
			return false
		}
		q.asked, q.at = now, now+lookFor
		if q.tries < len(waits) {
			q.at = now + time.Duration(float64(waits[q.tries])*e.jitter())
		}
		q.tries++
		q.number = e.random.Uint32()
		due = append(due, q)
		return false
	})
	return due
}

// announcement is what this node says of itself.
func (e *engine) announcement(describe bool) announcement {
	a := announcement{id: e.self.Channel, port: e.self.Port, source: e.self.Source, group: e.self.Group}
	if describe {
		a.item = e.item
	}
	return a
}

// noteSaid counts what is said of this node's channel on a link.
func (e *engine) noteSaid(now time.Duration, l *link, described bool) {
	if now-l.saidAt >= time.Second {
		l.said, l.saidAt = 0, now
	}
	l.said++
	if described {
		l.spoken, l.described = true, now
	}
}

// answer gives the answer that is due, unless enough others have.
func (e *engine) answer(now time.Duration, l *link) {
	p := l.pending
	l.pending = answer{heard: p.heard[:0]}
	crowded := now-l.saidAt < time.Second && l.said >= maxSaid && !e.self.Source
	if len(p.heard) >= p.enough || crowded || !l.bucket.take(now, answers) {
		return
	}
	a := e.announcement(!p.described)
	body := a.append(appendHead(nil, e.sender))
	for i, s := range scopes {
		if p.scopes[i] {
			e.out = append(e.out, datagram{l.index, s, body})
		}
	}
	e.noteSaid(now, l, len(a.item) > 0)
}

// receive takes a datagram. It reports false where so many come that it would be better to rest for a moment.
//
// Nothing is ever sent to an address: answers go to the group that was asked in. So a false source has nobody flooded, and a false
// announcement names nobody but the address that it came from.
func (e *engine) receive(now time.Duration, a arrival, b []byte) bool {
	if !e.all.take(now, allDatagrams) {
		e.stats.flood++
		return false
	}
	sender, m, err := parse(b)
	if err != nil {
		e.stats.malformed++
		return true
	}
	l := e.linkOf(a.link)
	if sender == e.sender || l == nil {
		return true
	}
	from := a.from.WithZone("")
	if a.scope == channel.ScopeLink && a.hops != hopsUnknown && a.hops != linkHops || !unicast(from) || from.IsLoopback() && !l.loopback {
		e.stats.far++
		return true
	}
	if from.IsLinkLocalUnicast() {
		from = from.WithZone(l.name)
	}
	s := e.sourceOf(now, from)
	if !s.datagrams.take(now, oneDatagrams) {
		e.stats.greedy++
		return true
	}
	for len(m) > 0 {
		var kind uint8
		var body []byte
		kind, body, m = m.next()
		switch kind {
		case typeAnnounce:
			var x announcement
			if err = x.decode(body); err == nil {
				e.onAnnounce(now, l, s, sender, netip.AddrPortFrom(from, x.port), &x)
			}
		case typeQuery:
			var q query
			if err = q.decode(body); err == nil {
				e.onQuery(now, l, a.scope, sender, &q)
			}
		case typeGone:
			var g gone
			if err = g.decode(body); err == nil {
				e.onGone(l, sender, netip.AddrPortFrom(from, g.port), &g)
			}
		}
		if err != nil {
			e.stats.malformed++
			return true
		}
	}
	return true
}

// onAnnounce takes in that somebody takes part in a channel. A descriptor is checked once; who comes with one that is forged is not heard
// at all.
func (e *engine) onAnnounce(now time.Duration, l *link, s *source, sender uint64, addr netip.AddrPort, x *announcement) {
	var d channel.Descriptor
	known := e.channels[x.id]
	news := len(x.item) > 0 && (known == nil || string(known.descriptor.Item) != string(x.item))
	if news && s.checks.take(now, oneChecks) && e.checks.take(now, allChecks) {
		var err error
		e.stats.checks++
		d, err = channel.ParseDescriptor(slices.Clone(x.item))
		if err != nil || d.ID != x.id {
			e.stats.forged++
			return
		}
	}
	mine := e.self != nil && e.self.Channel == x.id
	if old, ok := l.announcers[sender]; ok || len(l.announcers) < maxAnnouncers {
		// Who feeds several channels from one place has a sender for each.
		l.announcers[sender] = announcer{now, mine || ok && old.mine}
	}
	c := e.channelOf(now, s, x.id)
	if c == nil {
		return
	}
	c.heard = now
	if len(d.Item) > 0 && (len(c.descriptor.Item) == 0 || d.Seq > c.descriptor.Seq) {
		c.descriptor, c.described = d, true
		e.tell(c)
	}
	e.put(now, c, peer{addr, sender, l, now, x.source})
	if x.group.Scope != 0 {
		e.join(now, c, l, x.group, addr)
	}
	if !mine {
		return
	}
	e.describe(c.descriptor)
	described := len(x.item) > 0 && string(x.item) == string(e.item)
	e.noteSaid(now, l, described)
	if p := &l.pending; p.open {
		p.described = p.described || described
		if !slices.Contains(p.heard, sender) && len(p.heard) < p.enough {
			p.heard = append(p.heard, sender)
		}
	}
}

// onQuery has this node answer if it is asked, after a wait that is drawn by lot.
func (e *engine) onQuery(now time.Duration, l *link, scope channel.Scope, sender uint64, q *query) {
	if e.self == nil {
		return
	}
	wait, n := answerWait, enough
	switch q.kind {
	case askAll:
		wait, n = min(max(answerWait, time.Duration(len(e.channels))*allWait), longestWait), enoughOfAll
	case askChannel:
		if q.id != e.self.Channel {
			return
		}
	case askName:
		if !e.named || q.name != e.name {
			return
		}
	default:
		return
	}
	if this := (asked{sender, q.number}); slices.Contains(l.asked[:], this) {
		return // its copy in another scope
	} else {
		l.asked[l.askedAt%maxAsked] = this
		l.askedAt++
	}
	all := 1
	for _, a := range l.announcers {
		if a.mine {
			all++
		}
	}
	if e.self.Source {
		n *= feederPatient
	}
	if all <= n {
		wait = min(wait, shortWait)
	}
	p := &l.pending
	if !p.open {
		*p = answer{open: true, at: now + e.backoff(wait, float64(all)/float64(n)), heard: p.heard}
	}
	// What was said before is not known to who asks now.
	p.enough, p.heard, p.described = max(p.enough, n), p.heard[:0], false
	p.scopes[slices.Index(scopes[:], scope)] = true
}

// backoff draws the wait of one of size nodes: late mostly, and the later the more there are, so that few have drawn early ones (RFC 5401
// section 6, RandomBackoff).
func (e *engine) backoff(longest time.Duration, size float64) time.Duration {
	lambda := math.Log(max(size, 1)) + 1
	u := e.random.Float64()
	return time.Duration(float64(longest) / lambda * math.Log(u*(math.Exp(lambda)-1)+1))
}

// onGone forgets who says so.
func (e *engine) onGone(l *link, sender uint64, addr netip.AddrPort, g *gone) {
	delete(l.announcers, sender)
	if c := e.channels[g.id]; c != nil {
		c.leave(addr)
	}
}

// event is what the callbacks are told.
type event struct {
	id      channel.ID
	fresh   bool // the channel is new, or has a newer descriptor
	channel Channel
	heard   time.Duration
	peers   []netip.AddrPort
	groups  []Group
}

// take returns what the callbacks have not been told.
func (e *engine) take() (events []event) {
	for _, c := range e.untold {
		c.untold = false
		ev := event{id: c.id, peers: c.news, groups: c.newGroups}
		if c.described {
			ev.fresh, ev.channel, ev.heard = true, c.channel(), c.heard
		}
		if ev.fresh || len(ev.peers) > 0 || len(ev.groups) > 0 {
			events = append(events, ev)
		}
		c.described, c.news, c.newGroups = false, nil, nil
	}
	e.untold = nil
	return events
}

// channel is the entry as callers see it.
func (c *entry) channel() Channel {
	ch := Channel{ID: c.id, Descriptor: c.descriptor, Peers: c.addrs()}
	for _, g := range c.groups {
		ch.Groups = append(ch.Groups, g.Group)
	}
	ch.Source = slices.ContainsFunc(c.peers, func(p peer) bool { return p.source })
	return ch
}
