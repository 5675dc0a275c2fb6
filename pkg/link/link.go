package link

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/flynn/noise"

	"github.com/sixcast/sixcast/pkg/wire"
)

// Errors of SendControl.
var (
	ErrClosed         = errors.New("link: closed")
	ErrNotEstablished = errors.New("link: not established yet; put first messages into Dial's finish")
	ErrTooLong        = errors.New("link: more control messages than one datagram holds (wire.MaxControl)")
)

type state uint8

const (
	dialling  state = iota // HELLO is out
	open                   // keys agreed
	closed                 //
	stillborn              // dialled beyond MaxLinks
)

// Link is one secured link to one peer.
type Link struct {
	table     *Table
	state     state
	initiator bool
	counted   bool
	confirmed bool // the initiator has heard a sealed datagram
	addr      netip.AddrPort
	seen      netip.AddrPort
	peer      PublicKey
	tag       wire.Tag // ours: what the peer puts in front
	peerTag   wire.Tag
	channels  []wire.Tag
	timer     timer
	stats     LinkStats

	// Sealing.
	send, recv noise.Cipher
	counter    uint32
	window     replays
	way        way

	// Dialling.
	handshake *noise.HandshakeState
	finish    func([]byte) []byte
	ephemeral [32]byte
	cookie    [cookieSize]byte
	inTurn    bool // has waited for its turn to send HELLO
	tries     int  // HELLOs since the first or since the cookie
	tried     int  // HELLOs in all
	asked     Time
	helloAt   Time

	// Between FINISH and the first sealed datagram from the responder.
	answered   [32]byte // ephemeral key of the ANSWER that was taken
	finishSent []byte
	finishes   int
	finishAt   Time

	hello helloKey // at the responder

	// Keep-alive and round-trip time.
	since  Time // established
	heard  Time // the last authenticated datagram
	sent   Time // the last sealed datagram
	pingAt Time
	probe  time.Duration // the wait between PINGs until confirmed
	pings  [4]ping
	pinged int // PINGs sent
	pingOn Time
	rtt    Estimate

	replies      allowance // PONG and ECHO
	challenged   netip.AddrPort
	challengedAt Time
}

type ping struct {
	token   uint32
	at      Time
	waiting bool
}

// LinkStats counts what a link carried since it was made.
type LinkStats struct {
	SealedIn  uint64 `json:"sealed_in"`  // datagrams
	SealedOut uint64 `json:"sealed_out"` //
	Bare      uint64 `json:"bare_in"`    // behind channel tags
	Forged    uint64 `json:"forged"`     // did not decrypt
	Replayed  uint64 `json:"replayed"`
}

// Addr is where the peer is sent to.
func (l *Link) Addr() netip.AddrPort { return l.addr }

// Observed is this node's address as the peer saw it at the handshake; only
// the initiator learns it.
func (l *Link) Observed() netip.AddrPort { return l.seen }

// Peer is the peer's static key, zero until the link is established.
func (l *Link) Peer() PublicKey { return l.peer }

// Initiator reports whether this node began the link.
func (l *Link) Initiator() bool { return l.initiator }

// Established reports whether control messages can be sent.
func (l *Link) Established() bool { return l.state == open }

// Since is when the link was established.
func (l *Link) Since() Time { return l.since }

// Heard is when something authentic last came.
func (l *Link) Heard() Time { return l.heard }

// Tries is how many HELLOs have been sent.
func (l *Link) Tries() int { return l.tried }

// RTT is the smoothed round-trip time and its mean deviation (RFC 6298),
// zero until one has been measured.
func (l *Link) RTT() (smoothed, variance time.Duration) { return l.rtt.Smoothed, l.rtt.Deviation }

// Stats takes a reading.
func (l *Link) Stats() LinkStats { return l.stats }

// Estimate is a time that is measured over and over, smoothed, and its mean
// deviation (RFC 6298 section 2); zero until it has been measured.
type Estimate struct{ Smoothed, Deviation time.Duration }

// Sample takes one measured time.
func (e *Estimate) Sample(r time.Duration) {
	r = max(r, 1)
	if e.Smoothed == 0 {
		e.Smoothed, e.Deviation = r, r/2
		return
	}
	e.Deviation += ((e.Smoothed - r).Abs() - e.Deviation) / 4
	e.Smoothed += (r - e.Smoothed) / 8
}

// SendControl seals control messages, at most wire.MaxControl bytes, and
// sends them. What does not get there is not repeated.
func (l *Link) SendControl(now Time, messages []byte) error {
	switch {
	case l.state == closed || l.state == stillborn:
		return ErrClosed
	case l.state != open:
		return ErrNotEstablished
	case len(messages) > wire.MaxControl:
		return ErrTooLong
	}
	if l.exhausted(now) {
		return ErrClosed
	}
	l.sendMessages(now, messages, l.probeDue(now))
	return nil
}

// Ping asks for a sign of life: what comes of it sets Heard. A PING that is on
// its way already will do.
func (l *Link) Ping(now Time) {
	if !l.Established() || now-l.pingOn < pingGap && l.pinged > 0 || l.exhausted(now) {
		return
	}
	l.sendMessages(now, nil, true)
}

// sendMessages seals messages, with a PING if wanted and if there is room.
func (l *Link) sendMessages(now Time, messages []byte, withPing bool) {
	if l.finishSent != nil && now-l.finishAt >= burst {
		l.sendFinish(now)
	}
	plain := append(l.table.out[sealedHead:sealedHead], messages...)
	if withPing && len(plain)+pingSize <= wire.MaxControl {
		plain = l.appendPing(now, plain)
	}
	l.seal(now, l.addr, plain)
}

// exhausted ends a link whose last counter is left, which is for the BYE.
func (l *Link) exhausted(now Time) bool {
	if l.counter < math.MaxUint32 {
		return false
	}
	l.bye(now, wire.ByeLeaving, "the link's counter is used up")
	l.table.end(l, Exhausted, "its counter is used up")
	return true
}

// probeDue reports whether the round-trip time should be measured again.
func (l *Link) probeDue(now Time) bool {
	after := probeAfter
	if l.pinged < probesFirst {
		after = probeFirst
	}
	return l.pinged == 0 || now-l.pingOn >= after
}

// seal sends plain, which lies in the table's outgoing datagram behind the
// place of the header.
func (l *Link) seal(now Time, to netip.AddrPort, plain []byte) {
	b := binary.BigEndian.AppendUint64(l.table.out[:0], uint64(l.peerTag))
	b = append(b, wire.TypeSealed)
	b = binary.BigEndian.AppendUint32(b, l.counter)
	b = l.send.Encrypt(b, uint64(l.counter), b, plain)
	if l.counter < math.MaxUint32 {
		l.counter++
	}
	l.stats.SealedOut++
	if to == l.addr {
		l.sent = now
		l.resetPing(now)
	}
	l.table.owner.Send(to, b)
}

// bye sends BYE.
func (l *Link) bye(now Time, reason wire.ByeReason, text string) {
	if l.finishSent != nil {
		l.sendFinish(now)
	}
	m := wire.Bye{Reason: reason, Text: []byte(strings.ToValidUTF8(text[:min(len(text), wire.MaxByeText)], ""))}
	l.seal(now, l.addr, m.Append(l.table.out[sealedHead:sealedHead]))
}

// unseal opens a sealed datagram in place.
func (l *Link) unseal(now Time, from netip.AddrPort, b []byte) Result {
	t := l.table
	if len(b) < wire.SealedOverhead {
		return t.drop(DropSize)
	}
	n := binary.BigEndian.Uint32(b[finishHead:])
	if !l.window.fresh(n) {
		l.stats.Replayed++
		return t.drop(DropReplay)
	}
	plain, err := l.recv.Decrypt(b[sealedHead:sealedHead], uint64(n), b[:sealedHead], b[sealedHead:])
	if err != nil {
		l.stats.Forged++
		return t.drop(DropAuth)
	}
	l.way.count(l.window.mark(n))
	l.stats.SealedIn++
	l.heard = now
	l.confirmed = true
	l.finishSent = nil
	return l.control(now, from, plain)
}

// control deals with the link's own messages among those that came, and hands
// the rest on. Replies go where the datagram came from and are shorter than
// three times it: an address that has proved nothing gets no more.
func (l *Link) control(now Time, from netip.AddrPort, messages []byte) Result {
	t := l.table
	var (
		pong, echo []byte
		others     bool
		typ        uint8
		body       []byte
	)
	for rest, ok := messages, true; ; {
		typ, body, rest, ok = wire.Next(rest)
		if !ok {
			break
		}
		switch typ {
		case wire.MsgPing:
			if len(body) >= 4 {
				pong = body[:4]
			}
		case wire.MsgPong:
			if len(body) >= 4 {
				l.pongCame(now, binary.BigEndian.Uint32(body))
			}
		case wire.MsgChallenge:
			if len(body) >= 8 {
				echo = body[:8]
			}
		case wire.MsgEcho:
			if len(body) >= 8 && from != l.addr {
				l.echoCame(now, from, binary.BigEndian.Uint64(body))
			}
		case wire.MsgBye:
			var m wire.Bye
			if m.Decode(body) == nil {
				if m.Reason >= Silent {
					m.Reason = wire.ByeLeaving // ours are not for the wire
				}
				t.end(l, m.Reason, strings.ToValidUTF8(string(m.Text), "\ufffd"))
				return Result{}
			}
		default:
			others = true
		}
	}
	if l.state != open {
		return Result{} // Moved closed it
	}
	if (pong != nil || echo != nil) && !l.replies.take(now, maxReplies) {
		pong, echo = nil, nil
	}
	challenge := from != l.addr && (from != l.challenged || now-l.challengedAt >= burst)
	if (pong != nil || echo != nil || challenge) && l.counter < math.MaxUint32 {
		plain := t.out[sealedHead:sealedHead]
		if pong != nil {
			plain = wire.AppendMessage(plain, wire.MsgPong, pong)
		}
		if echo != nil {
			plain = wire.AppendMessage(plain, wire.MsgEcho, echo)
		}
		if challenge {
			l.challenged, l.challengedAt = from, now
			t.stats.Challenges++
			var token [8]byte
			binary.BigEndian.PutUint64(token[:], t.moveToken(now, 0, l, from))
			plain = wire.AppendMessage(plain, wire.MsgChallenge, token[:])
		} else if from == l.addr && l.probeDue(now) {
			plain = l.appendPing(now, plain)
		}
		l.seal(now, from, plain)
	}
	if !others {
		return Result{}
	}
	return Result{Link: l, Messages: messages}
}

// echoCame moves the link if the token is the one for that address.
func (l *Link) echoCame(now Time, from netip.AddrPort, token uint64) {
	t := l.table
	if token != t.moveToken(now, 0, l, from) && token != t.moveToken(now, 1, l, from) {
		return
	}
	old := l.addr
	t.count(old.Addr(), -1, 0)
	l.addr = from
	t.count(from.Addr(), 1, 0)
	t.stats.Moves++
	l.pingBy(now) // the way there has another length
	t.owner.Moved(l, old)
}

// appendPing appends a PING.
func (l *Link) appendPing(now Time, dst []byte) []byte {
	var b [4]byte
	l.table.fill(b[:])
	l.pings[l.pinged%len(l.pings)] = ping{binary.BigEndian.Uint32(b[:]), now, true}
	l.pinged++
	l.pingOn = now
	return wire.AppendMessage(dst, wire.MsgPing, b[:])
}

// pongCame measures the round trip. The PING inside a FINISH that was sent
// more than once measures nothing: which copy arrived is not known.
func (l *Link) pongCame(now Time, token uint32) {
	for i := range l.pings {
		p := &l.pings[i]
		if p.waiting && p.token == token {
			p.waiting = false
			first := l.initiator && i == 0 && l.pinged <= len(l.pings)
			if !first || l.finishes <= 1 {
				l.rtt.Sample(now - p.at)
			}
			return
		}
	}
}

// resetPing puts PING off after something was sealed. Until the responder is
// heard, PINGs come sooner, since each takes FINISH along.
func (l *Link) resetPing(now Time) {
	wait := pingAfter
	if !l.initiator {
		wait = pongAfter
	}
	if l.initiator && !l.confirmed {
		if l.probe == 0 {
			l.probe = l.rtt.Smoothed + max(4*l.rtt.Deviation, 100*time.Millisecond)
			if l.rtt.Smoothed == 0 {
				l.probe = 300 * time.Millisecond
			}
		}
		wait = min(l.probe, pingAfter)
	}
	l.pingAt = now + wait
	l.table.timers.sooner(&l.timer, l.pingAt)
}

// pingBy asks for a PING at now unless something else is sealed before the
// next Tick.
func (l *Link) pingBy(now Time) {
	l.pingAt = now
	l.table.timers.sooner(&l.timer, now)
}

// deadline is when due has something to do.
func (l *Link) deadline() Time {
	switch l.state {
	case dialling:
		return l.helloAt
	case open:
		return min(l.pingAt, l.heard+deadAfter)
	}
	return 0
}

// due does what the time asks for.
func (l *Link) due(now Time) {
	t := l.table
	switch {
	case l.state == stillborn:
		t.end(l, wire.ByeFull, "this node has as many links as it may")
	case l.state == dialling:
		l.sendHello(now)
	case now >= l.heard+deadAfter:
		t.end(l, Silent, "nothing came for "+deadAfter.String())
	case now >= l.pingAt:
		if l.probe > 0 {
			l.probe = min(2*l.probe, pingAfter)
		}
		if !l.exhausted(now) {
			l.sendMessages(now, nil, true)
		}
	}
}
