// Package mesh is the peer engine: it joins channels inside links, subscribes
// to stripes, checks every shard against its signed manifest, passes it on,
// asks for what is missing and answers those who ask (docs/protocol.md
// sections 2.3, 6 and 7).
//
// The engine is sans-I/O. It holds no socket, no clock and no goroutine: time
// comes in as an argument, randomness as a reader, datagrams through Receive,
// ReceiveGroup and Feed; what is to be sent, and the blocks that can be
// decoded, go out through the Output given at construction. The same code
// runs on sockets (package node), under a fuzzer, and many times in one
// process. A Node is not safe for concurrent use.
//
//	pipe, group, links            links, group
//	       │                           ▲
//	       ▼                           │ Send, SendGroup
//	accept (verify) ─▶ slots ─▶ push (paced, capped)
//	       │             │
//	       ▼             ▼
//	repair (ask)      Block (decoded)
package mesh

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/link"
	"github.com/sixcast/sixcast/pkg/pace"
	"github.com/sixcast/sixcast/pkg/wire"
)

// Time is the time since the node's start.
type Time = time.Duration

// Never is a deadline that does not come.
const Never Time = 1<<63 - 1

// Output is where the engine's results go. Its methods are called from inside
// the engine's own and must not call back into it.
type Output interface {
	// Send sends head followed by body to one address. head is at most 16
	// bytes and reused at once; body stays unchanged until the call of the
	// engine that sent it has returned and what was queued is flushed.
	Send(to netip.AddrPort, head, body []byte)
	// SendGroup sends a bare datagram into the multicast group of a channel;
	// body as in Send.
	SendGroup(ch channel.ID, body []byte)
	// Block hands over a block that can be decoded, its data shards
	// complete: once for each block, in any order. Valid during the call.
	Block(b *block.Block)
	// Event tells what a person or a log may want to know.
	Event(e Event)
}

// Config of a Node. The zero value of a field means its default.
type Config struct {
	// Start is the UTC time at Time 0.
	Start time.Time
	// Random is the source of keys, tags and nonces (crypto/rand), and Seed
	// of every other random choice.
	Random io.Reader
	Seed   uint64
	// Upload caps everything that is sent, IPv6 and UDP headers included, in
	// bit/s. Negative: no cap. Zero: nobody is served.
	Upload int64
	// Uplink is what the uplink is believed to take, in bit/s, before it is
	// known; 0 for a cautious guess.
	Uplink int64
	// Patience is how long a missing block is asked for (default 3 s).
	Patience time.Duration
	// Keep is how long a block is kept at least (default 5 s), and KeepBytes
	// how much at most (default 32 MiB).
	Keep      time.Duration
	KeepBytes int
	// NoExchange keeps the node to the peers that it was told to dial, and to
	// those that dial it: it names nobody and goes nowhere by others' word.
	NoExchange bool
	// Link tunes the links.
	Link link.Config
	// Vault, if not nil, is memory of blocks that this node shares with
	// others in the process. Shards and manifests that are then handed to
	// Output.Send never change, and verifying what another node has verified
	// costs a comparison.
	Vault *block.Vault
	// Logger gets debug lines about links, never one a datagram.
	Logger *slog.Logger
}

// EventKind names what happened.
type EventKind uint8

// The events.
const (
	EventConnected  EventKind = iota // a link is up
	EventClosed                      // a link is gone
	EventParent                      // blocks now come from this peer (or the group, with no address)
	EventNewRun                      // a newer run replaced the one before
	EventSuperseded                  // this source has been replaced by a newer run of the same key
	EventDescriptor                  // the channel's descriptor was learnt or renewed
	EventMisbehaved                  // a neighbour sent what cannot be true and was dropped
	EventForked                      // two signed manifests for one name
	EventUnknown                     // a peer does not know the channel
	EventFull                        // a peer has no room
	EventWaiting                     // there is no room in the swarm: we try again later
	EventClock                       // the channel is dated more than a day after our clock
)

var eventNames = [...]string{"connected", "closed", "parent", "new run", "superseded", "descriptor", "misbehaved", "forked", "unknown channel", "full", "waiting", "clock"}

func (k EventKind) String() string {
	if int(k) < len(eventNames) {
		return eventNames[k]
	}
	return "unknown"
}

// Event is something that happened.
type Event struct {
	Kind    EventKind
	Channel channel.ID
	Peer    netip.AddrPort
	Run     block.Run
	Text    string
	// Descriptor is the datagram of EventDescriptor; it does not change.
	Descriptor []byte
}

// Node is one peer.
type Node struct {
	cfg       Config
	out       Output
	links     *link.Table
	peers     map[*link.Link]*peer
	order     []*peer // in the order they came: iteration must not depend on a map
	talk      []*peer // that have messages to be sealed at the end of this call
	channels  []*Channel
	random    *mrand.Rand
	bucket    bucket // upload cap
	gauge     gauge
	poor      bool // has too little of an uplink to serve anybody
	keptSince Time // when it last held up nothing that is due: neither a backlog nor what was requested is
	heldUp    bool // it does
	now       Time
	woke      Time // when we last went on after having stood still, or heard nobody
	ear       ear
	pumpAt    Time
	houseAt   Time
	// Sealed datagrams that were sent to us of late, and that came.
	sealedDue, sealedIn float64
	sealedAt            Time // when they are counted next
	stats               Counters
}

// peer is a link and the channels joined inside it.
type peer struct {
	node    *Node
	link    *link.Link
	addr    netip.AddrPort // as dialled, invalid if they dialled us
	joined  []*neighbour
	beacon  bool      // dialled because a beacon said so
	probed  bool      // silent, and dialled anew beside this link
	joins   allowance // JOINs that are answered
	trains  allowance // TRAIN that is
	control []byte    // messages to be sealed at the end of this call
}

// newPeer is a peer with no link yet; addr is invalid where they dialled us.
func (n *Node) newPeer(addr netip.AddrPort) *peer {
	return &peer{node: n, addr: addr, joins: fullAllowance(joinRate, joinBurst), trains: fullAllowance(arrivedRate, arrivedBurst)}
}

// Counters count since the start.
type Counters struct {
	ShardsIn        uint64 `json:"shards_in"`         // verified, new
	Duplicates      uint64 `json:"duplicates"`        // verified before
	Orphans         uint64 `json:"orphans"`           // came before their manifest
	ManifestsIn     uint64 `json:"manifests_in"`      // verified, new
	ShardsOut       uint64 `json:"shards_out"`        //
	BytesOut        uint64 `json:"bytes_out"`         // UDP payload
	BytesIn         uint64 `json:"bytes_in"`          // UDP payload
	ControlOut      uint64 `json:"control_bytes_out"` // of it, control
	ControlIn       uint64 `json:"control_bytes_in"`
	Requests        uint64 `json:"requests"`        // sent
	RequestsIn      uint64 `json:"requests_in"`     //
	Repaired        uint64 `json:"repaired_shards"` // shards that came because they were asked for
	Rebuilt         uint64 `json:"rebuilt_shards"`  // shards made from parity
	Blocks          uint64 `json:"blocks"`          // decoded
	BlocksLost      uint64 `json:"blocks_given_up"` // never decodable in time
	Forged          uint64 `json:"forged"`          // failed a hash or signature
	Lies            uint64 `json:"lies"`            // promises of parents that brought nothing
	Refused         uint64 `json:"refused"`         // outside every bound: far future, foreign run, malformed
	QueueDropped    uint64 `json:"queue_dropped"`   // shards not sent to a child that was too far behind
	GroupRepairs    uint64 `json:"group_repairs"`   // shards sent again to the group
	ManifestsForked uint64 `json:"manifests_forked"`
	Evictions       uint64 `json:"evictions"`  // feeds taken from a child for another
	Shed            uint64 `json:"shed_feeds"` // feeds taken from a child for lack of uplink
	Condemned       uint64 `json:"condemned"`  // children that passed on nothing of what they got from us, the source
	Waits           uint64 `json:"waits"`      // times that we gave up for a while for lack of room
}

const (
	houseEvery = 50 * time.Millisecond
	// overslept is how late that may be before we have stood still.
	overslept = houseEvery + 50*time.Millisecond
	// helloGap is kept between HELLOs, helloGapSlow where there is no uplink
	// to speak of, helloGapFirst where that is not known yet.
	helloGap      = 8 * time.Millisecond
	helloGapFirst = 16 * time.Millisecond
	helloGapSlow  = 40 * time.Millisecond
	stateEvery    = 500 * time.Millisecond
	stateRoot     = 120 * time.Millisecond // to the source that pushes to us
	stateGather   = 20 * time.Millisecond  // changes that are told together
	stateAgain    = 200 * time.Millisecond // and once more to who has nothing and does not ask
	stateRate     = 6                      // changes told to one neighbour a second
	stateBurst    = 4
	stateApart    = 2 * time.Second // to who neither gives nor takes
	stateIdle     = 250 * time.Millisecond
	beaconEvery   = 250 * time.Millisecond
	describeEvery = time.Second      // into a group
	refreshEvery  = 10 * time.Second // the descriptor, to a child

	// maxWrongs things that cannot be true within wrongMemory, and a
	// neighbour is dropped (section 8).
	maxWrongs   = 3
	wrongMemory = time.Minute
)

// New makes a node. It sends nothing before its first Tick, Dial or Receive.
func New(cfg Config, out Output) *Node {
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	if cfg.Patience == 0 {
		cfg.Patience = 3 * time.Second
	}
	if cfg.Keep == 0 {
		cfg.Keep = 5 * time.Second
	}
	if cfg.KeepBytes == 0 {
		cfg.KeepBytes = 32 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	n := &Node{
		cfg:    cfg,
		out:    out,
		peers:  make(map[*link.Link]*peer),
		random: mrand.New(mrand.NewPCG(cfg.Seed, 0x51c0)),
		pumpAt: Never,
	}
	n.bucket.init(cfg.Upload, cfg.Uplink)
	lc := cfg.Link
	lc.Random = cfg.Random
	if lc.HelloGap == 0 {
		switch {
		case cfg.Upload == 0:
			lc.HelloGap = helloGapSlow
		case n.learns():
			lc.HelloGap = helloGapFirst
		default:
			lc.HelloGap = helloGap
		}
	}
	n.links = link.NewTable(lc, (*linkSide)(n))
	return n
}

// UTC is the wall clock at now.
func (n *Node) UTC(now Time) time.Time { return n.cfg.Start.Add(now) }

// SetUTC corrects the wall clock: it is utc at now.
func (n *Node) SetUTC(now Time, utc time.Time) { n.cfg.Start = utc.Add(-now) }

// ErrChannels is returned when a node holds as many channels as it may.
var ErrChannels = errors.New("mesh: too many channels in one node")

const maxChannels = 64

// Open makes the node take part in a channel.
func (n *Node) Open(id channel.ID) (*Channel, error) {
	if c := n.channel(id.Tag()); c != nil {
		if c.ID == id {
			return c, nil
		}
		return nil, errors.New("mesh: two channels with one tag in one node")
	}
	if len(n.channels) >= maxChannels {
		return nil, ErrChannels
	}
	c := newChannel(n, id)
	n.channels = append(n.channels, c)
	return c, nil
}

func (n *Node) channel(tag uint32) *Channel {
	for _, c := range n.channels {
		if c.tag == tag {
			return c
		}
	}
	return nil
}

// at sets the clock. Who has stood still heard nobody meanwhile: that is no
// silence of others.
func (n *Node) at(now Time) {
	pause := now - n.now
	n.now = now
	if pause > overslept && n.houseAt != 0 {
		n.woke = now
		for _, c := range n.channels {
			c.overslept(pause)
		}
	}
}

// Dial connects to a peer for a channel and keeps trying.
func (n *Node) Dial(now Time, c *Channel, to netip.AddrPort) {
	n.at(now)
	n.dial(c, to)
	n.finish()
}

// dial begins a link to an address for a channel, or finds the one that is
// there.
func (n *Node) dial(c *Channel, to netip.AddrPort) *neighbour {
	for _, p := range n.order {
		if p.addr == to || p.link.Addr() == to {
			return n.join(p, c)
		}
	}
	return n.dialAnew(c, to)
}

// dialAnew begins a link whether there is one to that address or not.
func (n *Node) dialAnew(c *Channel, to netip.AddrPort) *neighbour {
	p := n.newPeer(to)
	nb := n.neighbour(p, c)
	nb.dialled = true
	p.link = n.links.Dial(n.now, to, func(dst []byte) []byte {
		// The handshake's last message carries JOIN and SUBSCRIBE.
		for _, nb := range p.joined {
			dst = nb.appendJoin(dst)
		}
		return dst
	})
	n.peers[p.link] = p
	n.order = append(n.order, p)
	return nb
}

// Receive takes one datagram that came to the unicast socket. b is read
// during the call only.
func (n *Node) Receive(now Time, from netip.AddrPort, b []byte) {
	n.at(now)
	n.stats.BytesIn += uint64(len(b))
	r := n.links.Receive(now, from, b)
	if r.Link == nil {
		return
	}
	if n.ear.hear(now) {
		n.woke = now
	}
	if nb, ok := r.Value.(*neighbour); ok && len(r.Bare) > 0 {
		nb.arrivals.Datagram(len(b))
		nb.lastData = now
		nb.ch.bare(nb, r.Bare)
		return
	}
	if p := n.peers[r.Link]; p != nil && r.Messages != nil {
		n.stats.ControlIn += uint64(len(b))
		n.control(p, r.Messages)
	}
}

// ear knows when we heard anybody at all. A burst of loss on our own link, a
// modem that syncs anew: all fall silent at once, and nobody is to blame. Who
// then hears as much as before was deaf. Who hears a word now and then has lost
// the one who brought nearly everything.
type ear struct {
	last Time
	gap  float64 // between datagrams, in the mean, ns
	run  int     // datagrams since the last silence
}

const (
	deafLeast = 50 * time.Millisecond  // nothing from anybody in this time, and in deafGaps mean gaps
	deafMost  = 500 * time.Millisecond // then we are not deaf but alone
	deafGaps  = 10
	deafRun   = 10 // datagrams from one silence to the next, if that is to be deafness too
)

// hear notes that something came, and reports whether we were deaf until now.
func (e *ear) hear(now Time) bool {
	deaf := e.deaf(now) > 0
	if e.run++; e.silent(now) {
		e.run = 0
	}
	if e.last != 0 && !deaf {
		e.gap += (float64(now-e.last) - e.gap) / 64
	}
	e.last = now
	return deaf
}

// silent reports whether nobody has said anything for unusually long.
func (e *ear) silent(now Time) bool {
	d := now - e.last
	return e.last != 0 && d > deafLeast && d > time.Duration(deafGaps*e.gap)
}

// deaf is for how long we have heard nobody, 0 where that means nothing.
func (e *ear) deaf(now Time) time.Duration {
	if d := now - e.last; e.run >= deafRun && d < deafMost && e.silent(now) {
		return d
	}
	return 0
}

// ReceiveGroup takes one datagram that came from the multicast group of a
// channel.
func (n *Node) ReceiveGroup(now Time, c *Channel, from netip.AddrPort, b []byte) {
	n.at(now)
	n.stats.BytesIn += uint64(len(b))
	c.fromGroup(from, b)
}

// Flush ends a batch of Receive, ReceiveGroup and Feed calls: what they made
// known is pushed on, what they found missing is asked for.
func (n *Node) Flush(now Time) {
	n.at(now)
	n.finish()
}

// Tick does what is due. Call it at Deadline or later.
func (n *Node) Tick(now Time) {
	n.at(now)
	if now >= n.links.NextDeadline() {
		n.links.Tick(now)
	}
	if now >= n.houseAt {
		n.houseAt = now + houseEvery
		if now >= n.sealedAt {
			n.countSealed()
		}
		for _, c := range n.channels {
			c.housekeep()
		}
	}
	n.finish()
}

// countSealed adds what sealed datagrams came to what pathLoss says, about
// which the last fifteen seconds count; no link for more than 24 a second.
func (n *Node) countSealed() {
	const every, memory, most = 250 * time.Millisecond, 15 * time.Second, 6
	n.sealedAt = n.now + every
	const keep = 1 - float64(every)/float64(memory)
	n.sealedDue *= keep
	n.sealedIn *= keep
	for _, p := range n.order {
		due, came := p.link.Sealed(most)
		n.sealedDue += due
		n.sealedIn += came
	}
}

// pathLoss is the share of what is sent to us that gets lost on its way, 1 if
// too little came to say.
func (n *Node) pathLoss() float64 {
	const enough = 100
	if n.sealedDue < enough {
		return 1
	}
	return max(0, 1-n.sealedIn/n.sealedDue)
}

// Deadline is when Tick wants to be called next.
func (n *Node) Deadline() Time {
	d := min(n.links.NextDeadline(), n.houseAt, n.pumpAt)
	for _, c := range n.channels {
		d = min(d, c.repairAt, c.groupDue)
		if c.missed.at != 0 {
			d = min(d, c.missed.at)
		}
	}
	return d
}

// Close says goodbye on every link.
func (n *Node) Close(now Time) {
	n.at(now)
	n.finish()
	for _, p := range n.order {
		n.links.Close(now, p.link, wire.ByeLeaving, "")
	}
	n.order = nil
	clear(n.peers)
}

// finish is the end of every call: repairs are asked for, shards pushed,
// control messages sealed.
func (n *Node) finish() {
	for _, c := range n.channels {
		c.spread()
		c.settleFeeds()
		if n.now >= c.repairAt {
			c.repair()
		}
		c.askMissed()
		if n.now >= c.groupDue {
			c.settleGroupRepairs()
		}
	}
	// What is said of a push goes before it.
	for i := 0; i < len(n.talk); i++ {
		n.sendControl(n.talk[i])
	}
	clear(n.talk)
	n.talk = n.talk[:0]
	n.measureUplink()
	n.pump()
}

func (n *Node) sendControl(p *peer) {
	b := p.control
	for len(b) > 0 {
		// Whole messages only, as many as one datagram holds.
		size := 0
		for size < len(b) {
			m := 3 + int(binary.BigEndian.Uint16(b[size+1:]))
			if size+m > wire.MaxControl {
				break
			}
			size += m
		}
		if size == 0 {
			break // cannot happen: no message of ours is that long
		}
		p.link.SendControl(n.now, b[:size])
		b = b[size:]
	}
	p.control = p.control[:0]
}

// tell queues a message for a peer; it leaves at the end of this call.
func (p *peer) tell(add func([]byte) []byte) {
	if len(p.control) == 0 {
		p.node.talk = append(p.node.talk, p)
	}
	p.control = add(p.control)
}

// linkSide is what the link table sees of the node.
type linkSide Node

// Send passes a link's own datagram on.
func (s *linkSide) Send(to netip.AddrPort, datagram []byte) {
	n := (*Node)(s)
	n.stats.ControlOut += uint64(len(datagram))
	n.stats.BytesOut += uint64(len(datagram))
	n.bucket.spend(n.now, len(datagram)+wire.IPOverhead)
	n.out.Send(to, nil, append([]byte(nil), datagram...))
}

// Established is called when a handshake is done.
func (s *linkSide) Established(l *link.Link) {
	n := (*Node)(s)
	p := n.peers[l]
	if p == nil {
		p = n.newPeer(netip.AddrPort{})
		p.link = l
		n.peers[l] = p
		n.order = append(n.order, p)
	}
	n.out.Event(Event{Kind: EventConnected, Peer: l.Addr()})
}

// Closed is called when a link has ended.
func (s *linkSide) Closed(l *link.Link, reason wire.ByeReason, text string) {
	n := (*Node)(s)
	p := n.peers[l]
	if p == nil {
		return
	}
	n.forget(p)
	switch reason {
	case link.Self:
		n.out.Event(Event{Kind: EventClosed, Peer: p.addr, Text: "this is our own address"})
		return
	case link.Replaced, link.Duplicate:
		// The peer is still there, on another link.
		if q := n.peers[n.links.ByPeer(l.Peer())]; q != nil {
			if !q.addr.IsValid() {
				q.addr = p.addr
			}
			for _, nb := range p.joined {
				if nb.dialled {
					o := n.neighbour(q, nb.ch)
					o.lead = nb.lead && (!o.dialled || o.lead)
					n.join(q, nb.ch)
				}
			}
			return
		}
	}
	n.out.Event(Event{Kind: EventClosed, Peer: l.Addr(), Text: strings.TrimSpace(reason.String() + " " + text)})
	if p.addr.IsValid() {
		// A peer that was asked for is tried again for ever, the one of a
		// beacon as long as no beacon names another.
		for _, nb := range p.joined {
			if !nb.lead {
				nb.ch.redialAt(n.now+redialAfter(reason), p)
			}
		}
	}
}

// Moved is called when a link goes on at another address.
func (s *linkSide) Moved(*link.Link, netip.AddrPort) {}

func redialAfter(r wire.ByeReason) time.Duration {
	switch r {
	case wire.ByeMisbehaviour, wire.ByeRefused:
		return 10 * time.Second
	case wire.ByeFull:
		return 2 * time.Second
	case wire.ByeIdle:
		return 20 * time.Second
	}
	return 300 * time.Millisecond
}

func (n *Node) forget(p *peer) {
	if n.gauge.with == p {
		n.gauge.with, n.gauge.sent = nil, 0
	}
	delete(n.peers, p.link)
	for i, q := range n.order {
		if q == p {
			n.order = append(n.order[:i], n.order[i+1:]...)
			break
		}
	}
	for _, nb := range p.joined {
		nb.ch.lose(nb)
	}
}

// wrong counts what cannot be true: shards of the block with this number, or
// with wire.NoNumber what is wrong by itself. A flipped
// bit that the UDP checksum missed is no lie: a neighbour is dropped for the
// third within a minute (the shards of a block are one), and not at all where
// the source has signed two manifests for one name and it holds the other.
func (n *Node) wrong(nb *neighbour, number block.Number, what string) {
	n.stats.Forged++
	if nb == nil || number != wire.NoNumber && nb.mayBeForked(block.Name{Run: nb.ch.run, Number: number}) {
		return
	}
	if n.now-nb.wrongAt > wrongMemory {
		nb.wrongs = 0
	}
	if nb.wrongs == 0 || nb.wrongBlock != number || number == wire.NoNumber {
		nb.wrongs++
	}
	nb.wrongBlock, nb.wrongAt = number, n.now
	if nb.wrongs >= maxWrongs {
		n.misbehaved(nb, what)
	}
}

// misbehaved drops a neighbour that sent what cannot be true and remembers it.
func (n *Node) misbehaved(nb *neighbour, what string) {
	p := nb.peer
	if n.peers[p.link] != p {
		return // dropped already
	}
	n.out.Event(Event{Kind: EventMisbehaved, Channel: nb.ch.ID, Peer: p.link.Addr(), Text: what})
	n.links.Ban(n.now, p.link)
	n.links.Close(n.now, p.link, wire.ByeMisbehaviour, what)
	n.forget(p)
	if p.addr.IsValid() && !nb.lead {
		nb.ch.redialAt(n.now+redialAfter(wire.ByeMisbehaviour), p)
	}
}

// Stats are the node's counters and what holds now.
type Stats struct {
	Counters
	Links      int        `json:"links"`
	Neighbours int        `json:"neighbours"` // peers that take part in a channel of ours
	Children   int        `json:"children"`
	Uplink     pace.Stats `json:"uplink"`
}

// Stats takes a reading.
func (n *Node) Stats() Stats {
	s := Stats{Counters: n.stats, Links: len(n.order), Uplink: n.bucket.Stats()}
	for _, p := range n.order {
		for _, nb := range p.joined {
			if nb.joined && p.link.Established() {
				s.Neighbours++
			}
			if nb.push.mask != 0 {
				s.Children++
			}
		}
	}
	return s
}
