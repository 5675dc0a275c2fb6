package link

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/flynn/noise"

	"github.com/sixcast/sixcast/pkg/wire"
)

// helloKey names a handshake at its responder: the initiator's address and
// control tag.
type helloKey struct {
	from netip.AddrPort
	tag  wire.Tag
}

// halfOpen is a handshake that somebody else has begun and not finished.
type halfOpen struct {
	key       helloKey
	ephemeral [32]byte // of the initiator
	tag       wire.Tag // ours
	handshake *noise.HandshakeState
	answer    [AnswerSize]byte
	begun     Time
	repeated  bool // the answer went out more than once
	timer     timer
}

func (t *Table) newHandshake(initiator bool, prologue []byte) *noise.HandshakeState {
	hs, err := noise.NewHandshakeState(noise.Config{
		CipherSuite:   t.suite,
		Random:        t.random,
		Pattern:       noise.HandshakeXX,
		Initiator:     initiator,
		Prologue:      append([]byte("sixcast 1"), prologue...),
		StaticKeypair: t.static,
	})
	if err != nil {
		panic("link: " + err.Error()) // XX with a static key is always possible
	}
	return hs
}

// readNoise reads a handshake message. After a failure hs is as it was, for
// the true peer's message; broken says that it cannot be, since the keys in
// the message were no keys at all.
//
// flynn/noise restores the chaining key and the hash itself, inside the
// arrays that a copy of the struct shares, but not the cipher key.
func (t *Table) readNoise(hs *noise.HandshakeState, dst, msg []byte) (payload []byte, c [2]noise.Cipher, broken, ok bool) {
	before := *hs
	t.agree.weak = false
	payload, first, second, err := hs.ReadMessage(dst, msg)
	if err != nil {
		*hs = before
		return nil, c, false, false
	}
	if t.agree.weak {
		return nil, c, true, false
	}
	if first != nil {
		c = [2]noise.Cipher{first.Cipher(), second.Cipher()}
	}
	return payload, c, false, true
}

// Dial begins a link to an address and goes on trying until it is established
// or closed. finish appends, to what it is given, the control messages that go
// into FINISH (at most MaxFinish bytes; whole messages beyond that are left
// out); it is called when the peer is known, just before Established, and may
// be nil. Past MaxLinks nothing is sent and the link is closed at the next
// Tick, as full.
func (t *Table) Dial(now Time, to netip.AddrPort, finish func(dst []byte) []byte) *Link {
	l := &Link{table: t, state: dialling, initiator: true, addr: to, finish: finish}
	l.timer = timer{index: -1, link: l}
	if t.links >= t.cfg.MaxLinks {
		l.state = stillborn
		t.timers.set(&l.timer, now)
		return l
	}
	t.admit(l)
	l.begin()
	l.sendHello(now)
	t.timers.set(&l.timer, l.deadline())
	return l
}

// admit counts a link.
func (t *Table) admit(l *Link) {
	l.counted = true
	t.links++
	t.count(l.addr.Addr(), 1, 0)
}

// begin draws a new tag and ephemeral key for a handshake.
func (l *Link) begin() {
	t := l.table
	delete(t.tags, l.tag)
	l.tag = t.freshTag()
	t.tags[l.tag] = target{link: l}
	l.cookie = [cookieSize]byte{}
	head := l.helloHead()
	l.handshake = t.newHandshake(true, head[:])
	msg, _, _, err := l.handshake.WriteMessage(nil, nil)
	if err != nil {
		panic("link: the source of randomness failed: " + err.Error())
	}
	l.ephemeral = [32]byte(msg)
}

func (l *Link) helloHead() (h [helloPrologue]byte) {
	h[0], h[1] = wire.TypeHello, wire.Version
	binary.BigEndian.PutUint64(h[2:], uint64(l.tag))
	return h
}

// helloBurst is how many HELLOs may leave at once where there is a gap to be
// kept between them.
const helloBurst = 1

// sendHello sends HELLO and sets the time of the next, unless the address is
// refused: then it waits for the end of that; or others have just been sent:
// then it waits for its turn.
func (l *Link) sendHello(now Time) {
	t := l.table
	if until := t.bans.until(now, byAddr(l.addr)); until > 0 {
		l.helloAt = until
		return
	}
	if gap := t.cfg.HelloGap; gap > 0 && !l.inTurn {
		t.turn = max(t.turn, now-helloBurst*gap) + gap
		if t.turn > now {
			l.helloAt, l.inTurn = t.turn, true
			return
		}
	}
	l.inTurn = false
	l.helloAt = now + min(helloFirst<<min(l.tries, 8), helloMost)
	l.tries++
	l.tried++
	l.asked = now
	b := t.out[:HelloSize]
	clear(b)
	head := l.helloHead()
	copy(b, head[:])
	copy(b[helloPrologue:], l.cookie[:])
	copy(b[helloNoise:], l.ephemeral[:])
	t.owner.Send(l.addr, b)
}

// hello answers a HELLO.
func (t *Table) hello(now Time, from netip.AddrPort, b []byte) Result {
	if len(b) != HelloSize {
		return t.drop(DropSize)
	}
	tag := wire.Tag(binary.BigEndian.Uint64(b[2:]))
	if tag&wire.TagBit == 0 {
		return t.drop(DropTag)
	}
	if t.Refused(now, from) > 0 {
		return t.drop(DropRefused)
	}
	t.stats.Hellos++
	t.hellos.add(now)
	key := helloKey{from, tag}
	if h := t.halves[key]; h != nil {
		if h.ephemeral != [32]byte(b[helloNoise:]) {
			return t.drop(DropRepeated)
		}
		h.repeated = true
		t.sendAnswer(h)
		return Result{}
	}
	if t.accepted[key] != nil {
		return t.drop(DropRepeated)
	}
	if t.underLoad() && !t.goodCookie(now, b[helloPrologue:helloNoise], tag, from) {
		c := t.cookie(now, 0, tag, from)
		out := append(t.out[:0], wire.TypeCookie, wire.Version)
		out = binary.BigEndian.AppendUint64(out, uint64(tag))
		t.stats.Cookies++
		t.owner.Send(from, append(out, c[:]...))
		return Result{}
	}
	if !t.room(from.Addr()) {
		return t.drop(DropFull)
	}
	if !t.begun.take(now, t.cfg.MaxHandshakes) {
		return t.drop(DropRate)
	}
	t.makeRoom()
	h := &halfOpen{key: key, ephemeral: [32]byte(b[helloNoise:]), tag: t.freshTag(), begun: now}
	h.handshake = t.newHandshake(false, b[:helloPrologue])
	if _, _, _, ok := t.readNoise(h.handshake, nil, h.ephemeral[:]); !ok {
		return t.drop(DropAuth)
	}
	var payload [answerPayload]byte
	binary.BigEndian.PutUint64(payload[:], uint64(h.tag))
	a := from.Addr().As16()
	copy(payload[wire.TagSize:], a[:])
	binary.BigEndian.PutUint16(payload[wire.TagSize+16:], from.Port())
	out := append(h.answer[:0], wire.TypeAnswer, wire.Version)
	out = binary.BigEndian.AppendUint64(out, uint64(tag))
	t.agree.weak = false
	out, _, _, err := h.handshake.WriteMessage(out, payload[:])
	if err != nil || t.agree.weak || len(out) != AnswerSize {
		return t.drop(DropAuth) // its ephemeral key is no key
	}
	h.timer = timer{index: -1, half: h}
	t.halves[key] = h
	t.tags[h.tag] = target{half: h}
	t.count(from.Addr(), 0, 1)
	t.timers.set(&h.timer, now+halfOpenLife)
	t.sendAnswer(h)
	return Result{}
}

func (t *Table) sendAnswer(h *halfOpen) {
	t.stats.Answers++
	t.owner.Send(h.key.from, h.answer[:])
}

// room reports whether one more handshake from an address may begin.
func (t *Table) room(a netip.Addr) bool {
	if t.links >= t.cfg.MaxLinks {
		return false
	}
	// Nobody outside can send from a loopback address: many nodes on one
	// machine are no attack.
	if a.IsLoopback() {
		return true
	}
	p := t.prefixes[Prefix64(a)]
	return p.halves < t.cfg.MaxHalfOpenPer64 && p.links+p.halves < t.cfg.MaxLinksPer64
}

// makeRoom lets the oldest half-open handshake give way when no more fit. At
// MaxHandshakes a second it had a second, in which a true peer has finished.
func (t *Table) makeRoom() {
	if len(t.halves) < t.cfg.MaxHalfOpen {
		return
	}
	var oldest *halfOpen
	for _, h := range t.halves {
		if oldest == nil || h.begun < oldest.begun || h.begun == oldest.begun && h.tag < oldest.tag {
			oldest = h
		}
	}
	t.forgetHalf(oldest)
}

func (t *Table) forgetHalf(h *halfOpen) {
	delete(t.halves, h.key)
	delete(t.tags, h.tag)
	t.timers.remove(&h.timer)
	t.count(h.key.from.Addr(), 0, -1)
}

// cookieCame repeats a HELLO with the cookie that was asked for.
func (t *Table) cookieCame(now Time, b []byte) Result {
	if len(b) != CookieSize {
		return t.drop(DropSize)
	}
	l := t.tags[wire.Tag(binary.BigEndian.Uint64(b[2:]))].link
	if l == nil || l.state != dialling {
		return t.drop(DropTag)
	}
	c := [cookieSize]byte(b[helloPrologue:])
	if c == l.cookie {
		return t.drop(DropRepeated)
	}
	if l.tries == 1 {
		l.rtt.Sample(now - l.asked)
	}
	l.cookie = c
	l.tries = 0
	l.sendHello(now)
	t.timers.sooner(&l.timer, l.deadline())
	return Result{}
}

// answer finishes a handshake that was dialled.
func (t *Table) answer(now Time, b []byte) Result {
	if len(b) < AnswerSize {
		return t.drop(DropSize)
	}
	to := t.tags[wire.Tag(binary.BigEndian.Uint64(b[2:]))]
	l := to.link
	if l == nil || to.channel || !l.initiator {
		return t.drop(DropTag)
	}
	msg := b[2+wire.TagSize:]
	if l.state == open {
		if l.finishSent != nil && l.answered == [32]byte(msg) && now-l.finishAt >= burst {
			l.sendFinish(now)
		}
		return t.drop(DropRepeated)
	}
	payload, _, broken, ok := t.readNoise(l.handshake, t.plain[:0], msg)
	if ok && (len(payload) < answerPayload || payload[0]&0x80 == 0) {
		broken, ok = true, false
	}
	if !ok {
		if broken {
			l.begin() // at the next try
		}
		return t.drop(DropAuth)
	}
	if l.tries == 1 {
		l.rtt.Sample(now - l.asked)
	}
	l.peerTag = wire.Tag(binary.BigEndian.Uint64(payload))
	l.seen = netip.AddrPortFrom(netip.AddrFrom16([16]byte(payload[wire.TagSize:])), binary.BigEndian.Uint16(payload[wire.TagSize+16:]))
	l.peer = PublicKey(l.handshake.PeerStatic())
	old := t.peers[l.peer]
	switch {
	case l.peer == t.Key():
		t.end(l, Self, "the address is this node's own")
		return Result{}
	case t.Banned(now, l.peer) > 0:
		wait := t.Banned(now, l.peer).Round(time.Second)
		t.end(l, wire.ByeRefused, "this peer misbehaved and is refused for another "+wait.String())
		return Result{}
	case old != nil && now-old.heard < stale:
		t.end(l, Duplicate, "another address of a peer that is linked already")
		return Result{}
	}
	l.answered = [32]byte(msg)
	messages := t.plain[:0]
	if l.finish != nil {
		messages = wholeMessages(l.finish(messages), MaxFinish)
	}
	if l.state != dialling {
		return Result{} // the owner thought better of it
	}
	messages = l.appendPing(now, messages)
	out := binary.BigEndian.AppendUint64(make([]byte, 0, minFinish+len(messages)), uint64(l.peerTag))
	out = append(out, wire.TypeFinish)
	t.agree.weak = false
	out, first, second, err := l.handshake.WriteMessage(out, messages)
	if err != nil || t.agree.weak {
		l.begin()
		return t.drop(DropAuth)
	}
	l.send, l.recv = first.Cipher(), second.Cipher()
	l.finishSent = out
	l.handshake, l.finish = nil, nil
	l.sendFinish(now)
	t.establish(now, l, old)
	return Result{}
}

// establish opens a link, in place of old if that is set.
func (t *Table) establish(now Time, l *Link, old *Link) {
	l.state = open
	l.since, l.heard = now, now
	l.replies = allowance{credit: allowanceBurst, last: now}
	l.resetPing(now)
	t.peers[l.peer] = l
	t.stats.Established++
	t.timers.set(&l.timer, l.deadline())
	t.owner.Established(l)
	if old != nil {
		t.end(old, Replaced, "another link to the same peer took its place")
	}
}

// sendFinish sends FINISH, or sends it again.
func (l *Link) sendFinish(now Time) {
	l.finishes++
	l.finishAt = now
	l.table.owner.Send(l.addr, l.finishSent)
}

// finish ends a handshake that somebody else began.
func (t *Table) finish(now Time, from netip.AddrPort, b []byte, h *halfOpen) Result {
	if len(b) < minFinish {
		return t.drop(DropSize)
	}
	if from != h.key.from {
		return t.drop(DropTag) // only who got ANSWER there may finish
	}
	payload, c, broken, ok := t.readNoise(h.handshake, t.plain[:0], b[finishHead:])
	if !ok {
		if broken {
			t.forgetHalf(h)
		}
		return t.drop(DropAuth)
	}
	l := &Link{table: t, state: open, addr: from, hello: h.key, tag: h.tag, peerTag: h.key.tag, recv: c[0], send: c[1]}
	l.timer = timer{index: -1, link: l}
	l.peer = PublicKey(h.handshake.PeerStatic())
	t.forgetHalf(h)
	if l.peer == t.Key() {
		return t.drop(DropRefused)
	}
	if left := t.Banned(now, l.peer); left > 0 {
		t.bans.put(byAddr(from), t.bans[byKey(l.peer)]) // not worth another handshake
		l.bye(now, wire.ByeRefused, "refused for another "+left.Round(time.Second).String())
		return t.drop(DropRefused)
	}
	old := t.peers[l.peer]
	if old != nil && old.initiator && now-old.since < simultaneous && compare(t.Key(), l.peer) < 0 {
		// Both began at once, and ours stays: the peer, which has our FINISH
		// or will have it, decides likewise.
		return t.drop(DropRepeated)
	}
	if old == nil && t.links >= t.cfg.MaxLinks {
		l.bye(now, wire.ByeFull, "")
		return t.drop(DropFull)
	}
	if !h.repeated {
		l.rtt.Sample(now - h.begun)
	}
	t.admit(l)
	t.tags[l.tag] = target{link: l}
	t.accepted[l.hello] = l
	t.establish(now, l, old)
	if l.state != open {
		return Result{}
	}
	sent := l.counter
	r := l.control(now, from, payload)
	if l.state == open && l.counter == sent {
		l.pingBy(now) // the initiator waits for a sealed datagram
	}
	return r
}

// compare orders keys as numbers, most significant byte first.
func compare(a, b PublicKey) int {
	for i := range a {
		if a[i] != b[i] {
			return int(a[i]) - int(b[i])
		}
	}
	return 0
}

// wholeMessages is as much of b as fits, cut between messages.
func wholeMessages(b []byte, most int) []byte {
	if len(b) <= most {
		return b
	}
	fit := 0
	for {
		_, _, rest, ok := wire.Next(b[fit:])
		if !ok || len(b)-len(rest) > most {
			return b[:fit]
		}
		fit = len(b) - len(rest)
	}
}
