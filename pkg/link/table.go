package link

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	"net/netip"
	"time"

	"github.com/flynn/noise"

	"github.com/sixcast/sixcast/pkg/wire"
)

// Table holds all links of one node and the handshakes that others have begun
// with it.
type Table struct {
	cfg      Config
	owner    Owner
	random   io.Reader
	agree    agreement
	suite    noise.CipherSuite
	static   noise.DHKey
	secret   [32]byte // of cookies and moves
	tags     map[wire.Tag]target
	peers    map[PublicKey]*Link
	halves   map[helloKey]*halfOpen
	accepted map[helloKey]*Link // whose HELLO may still come again
	prefixes map[netip.Addr]perPrefix
	links    int
	bans     bans
	timers   timers
	hellos   perSecond // that came
	turn     Time      // of the last HELLO to be sent, with Config.HelloGap
	begun    allowance // handshakes answered
	stats    Stats
	out      [wire.MaxDatagram]byte // of one outgoing datagram
	plain    [wire.MaxDatagram]byte // of one handshake payload
}

// target is what a tag of ours stands for: the control tag of a link or of a
// half-open handshake, or a channel's.
type target struct {
	link    *Link
	half    *halfOpen
	channel bool
	value   any
}

type perPrefix struct{ links, halves int }

// Stats counts what a table did since the start, and what it holds.
type Stats struct {
	PublicKeyOps uint64 `json:"public_key_ops"`
	Hellos       uint64 `json:"hellos"`
	Answers      uint64 `json:"answers"` // sent, repetitions included
	Cookies      uint64 `json:"cookies"` // sent
	Established  uint64 `json:"established"`
	Challenges   uint64 `json:"challenges"` // sent
	Moves        uint64 `json:"moves"`
	Dropped      [dropReasons]uint64
	Links        int `json:"links"` // dialled ones included
	HalfOpen     int `json:"half_open"`
	Bans         int `json:"bans"`
}

// Drops is how many datagrams were dropped for a reason.
func (s *Stats) Drops(r DropReason) uint64 { return s.Dropped[r] }

// SetHelloGap changes Config.HelloGap.
func (t *Table) SetHelloGap(d time.Duration) { t.cfg.HelloGap = d }

// NewTable makes a table without links.
func NewTable(cfg Config, owner Owner) *Table {
	cfg.defaults()
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	t := &Table{
		cfg:      cfg,
		owner:    owner,
		random:   cfg.Random,
		agree:    agreement{DHFunc: noise.DH25519},
		tags:     make(map[wire.Tag]target),
		peers:    make(map[PublicKey]*Link),
		halves:   make(map[helloKey]*halfOpen),
		accepted: make(map[helloKey]*Link),
		turn:     -1 << 50, // long ago
		prefixes: make(map[netip.Addr]perPrefix),
		bans:     make(bans),
		begun:    allowance{credit: allowanceBurst},
	}
	var ciphers noise.CipherFunc = chachaPoly{}
	if cfg.Null {
		t.agree.DHFunc, ciphers = nullAgreement{}, nullCiphers{}
	}
	t.suite = noise.NewCipherSuite(&t.agree, ciphers, noise.HashSHA256)
	t.fill(t.secret[:])
	k := cfg.Static
	switch {
	case k == Key{}:
		kp, err := t.agree.GenerateKeypair(t.random)
		if err != nil {
			panic("link: the source of randomness failed: " + err.Error())
		}
		t.static = kp
	case cfg.Null:
		t.static = noise.DHKey{Private: k.Public[:], Public: k.Public[:]}
	default:
		t.static = noise.DHKey{Private: k.Private[:], Public: k.Public[:]}
	}
	return t
}

// Key is the node's own static public key.
func (t *Table) Key() PublicKey { return PublicKey(t.static.Public) }

// Stats takes a reading.
func (t *Table) Stats() Stats {
	s := t.stats
	s.PublicKeyOps = t.agree.ops
	s.Links, s.HalfOpen, s.Bans = t.links, len(t.halves), len(t.bans)
	return s
}

// ByPeer is the link to the node with this static key, nil if there is none.
func (t *Table) ByPeer(k PublicKey) *Link { return t.peers[k] }

// Result is what a datagram was, when it is something for the owner. Its
// slices alias the datagram (Messages may alias the table) and are good until
// the next call of Receive.
type Result struct {
	// Link it came on; nil if there is nothing for the owner.
	Link *Link
	// Messages are the control messages of a sealed datagram or of FINISH,
	// for wire.Next, not empty. Those of the link itself (type below 0x10)
	// have been dealt with and are to be skipped.
	Messages []byte
	// Bare is a shard, manifest or descriptor datagram that came behind the
	// channel tag made with Value.
	Bare  []byte
	Value any
}

// Receive takes one datagram from the unicast socket. It may change b.
func (t *Table) Receive(now Time, from netip.AddrPort, b []byte) Result {
	if len(b) < finishHead || len(b) > wire.MaxDatagram {
		return t.drop(DropSize)
	}
	if b[0]&0x80 != 0 {
		return t.tagged(now, from, b)
	}
	switch b[0] {
	case wire.TypeHello, wire.TypeCookie, wire.TypeAnswer:
		if b[1] != wire.Version {
			return t.drop(DropVersion)
		}
	default:
		return t.drop(DropType)
	}
	switch b[0] {
	case wire.TypeHello:
		return t.hello(now, from, b)
	case wire.TypeCookie:
		return t.cookieCame(now, b)
	}
	return t.answer(now, b)
}

// tagged takes what is behind a link tag.
func (t *Table) tagged(now Time, from netip.AddrPort, b []byte) Result {
	to, ok := t.tags[wire.Tag(binary.BigEndian.Uint64(b))]
	if !ok {
		return t.drop(DropTag)
	}
	switch b[wire.TagSize] {
	case wire.TypeShard, wire.TypeManifest, wire.TypeDescriptor:
		if !to.channel {
			return t.drop(DropTag)
		}
		to.link.heard = now
		to.link.stats.Bare++
		return Result{Link: to.link, Bare: b[wire.TagSize:], Value: to.value}
	case wire.TypeFinish:
		switch {
		case to.half != nil:
			return t.finish(now, from, b, to.half)
		case to.link != nil && !to.channel && !to.link.initiator:
			// The initiator has not heard of us yet.
			if now-to.link.sent >= burst {
				to.link.pingBy(now)
			}
			return t.drop(DropRepeated)
		}
		return t.drop(DropTag)
	case wire.TypeSealed:
		if to.link == nil || to.channel || to.link.state != open {
			return t.drop(DropTag)
		}
		return to.link.unseal(now, from, b)
	}
	return t.drop(DropType)
}

func (t *Table) drop(r DropReason) Result {
	t.stats.Dropped[r]++
	return Result{}
}

// NewTag makes a channel tag on a link: bare datagrams behind it are handed
// over with value. It lives until DropTag or the link's end; on a link that
// has ended nothing ever comes behind it. A link may be given tags before it
// is established, to be told in FINISH. How many is up to the owner.
func (t *Table) NewTag(l *Link, value any) wire.Tag {
	tag := t.freshTag()
	if l.state != closed {
		t.tags[tag] = target{link: l, channel: true, value: value}
		l.channels = append(l.channels, tag)
	}
	return tag
}

// DropTag forgets a channel tag of l.
func (t *Table) DropTag(l *Link, tag wire.Tag) {
	for i, c := range l.channels {
		if c == tag {
			l.channels = append(l.channels[:i], l.channels[i+1:]...)
			delete(t.tags, tag)
			return
		}
	}
}

// freshTag is a random tag that is not in use.
func (t *Table) freshTag() wire.Tag {
	for {
		var b [wire.TagSize]byte
		t.fill(b[:])
		tag := wire.Tag(binary.BigEndian.Uint64(b[:])) | wire.TagBit
		if _, used := t.tags[tag]; !used {
			return tag
		}
	}
}

func (t *Table) fill(b []byte) {
	if _, err := io.ReadFull(t.random, b); err != nil {
		panic("link: the source of randomness failed: " + err.Error())
	}
}

// NextDeadline is when Tick wants to be called, Never if nothing is under way.
func (t *Table) NextDeadline() Time { return t.timers.next() }

// Tick does what is due: repeats HELLO, sends PING, ends what has been silent
// for too long.
func (t *Table) Tick(now Time) {
	for len(t.timers) > 0 && t.timers[0].at <= now {
		due := t.timers[0]
		if due.half != nil {
			t.forgetHalf(due.half)
			continue
		}
		l := due.link
		if l.deadline() <= now {
			l.due(now)
		}
		if l.state != closed {
			t.timers.set(due, max(l.deadline(), now+1))
		}
	}
}

// Close ends a link: its peer is told by a BYE that may get lost and then
// finds out by the silence. Closed is not called. A link that has ended
// already is left alone.
func (t *Table) Close(now Time, l *Link, reason wire.ByeReason, text string) {
	if l.state == closed {
		return
	}
	if l.state == open {
		l.bye(now, reason, text)
	}
	t.forget(l)
}

// end closes a link and tells the owner.
func (t *Table) end(l *Link, reason wire.ByeReason, text string) {
	if l.state == closed {
		return
	}
	t.forget(l)
	t.owner.Closed(l, reason, text)
}

// forget takes a link out of the table.
func (t *Table) forget(l *Link) {
	if l.state != closed && l.counted {
		t.links--
		t.count(l.addr.Addr(), -1, 0)
	}
	l.state = closed
	delete(t.tags, l.tag)
	for _, tag := range l.channels {
		delete(t.tags, tag)
	}
	l.channels = nil
	if t.peers[l.peer] == l {
		delete(t.peers, l.peer)
	}
	if t.accepted[l.hello] == l {
		delete(t.accepted, l.hello)
	}
	t.timers.remove(&l.timer)
	l.send, l.recv, l.finishSent, l.handshake, l.finish = nil, nil, nil, nil, nil
}

// count changes how many links and half-open handshakes a /64 has.
func (t *Table) count(a netip.Addr, links, halves int) {
	p := Prefix64(a)
	c := t.prefixes[p]
	c.links += links
	c.halves += halves
	if c == (perPrefix{}) {
		delete(t.prefixes, p)
		return
	}
	t.prefixes[p] = c
}
