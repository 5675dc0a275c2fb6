// Package link keeps the secured links of one node: the Noise XX handshake,
// sealed control messages, link tags, keep-alive and moves to a new address
// (docs/protocol.md sections 4 and 5, and PING, PONG, BYE, CHALLENGE and ECHO
// of section 6).
//
//	initiator                                responder
//	    │  HELLO  1200 bytes: tag, e             │
//	    │ ─────────────────────────────────────▶ │  half-open; nothing public-key
//	    │  [COOKIE 26 bytes, under load] ◀────── │  under load before a good cookie
//	    │  ANSWER 132 bytes: e, s, tag, address  │
//	    │ ◀───────────────────────────────────── │
//	    │  FINISH: s, control messages           │
//	    │ ─────────────────────────────────────▶ │  Established
//	    │  sealed control messages               │
//	    │ ◀────────────────────────────────────▶ │
//
// A Table is sans-I/O: time comes in as an argument, randomness as a reader,
// datagrams through Receive; what is to be sent and what happened go out
// through its Owner. It holds no socket, clock or goroutine, is the same under
// the same seed, and is not safe for concurrent use.
//
// Everything that strangers can make it remember is bounded, and what they can
// make it compute is bounded by the second (Config). Opening and sealing a
// control datagram and finding the channel of a bare one allocate nothing.
package link

import (
	"io"
	"net/netip"
	"time"

	"github.com/sixcast/sixcast/pkg/wire"
)

// Time is the time since the node's start.
type Time = time.Duration

// Never is a deadline that does not come.
const Never Time = 1<<63 - 1

// The lengths of handshake datagrams in bytes (docs/protocol.md section 5).
const (
	// HelloSize leaves an address that has proved nothing no use as an
	// amplifier: whatever it is answered is shorter.
	HelloSize  = 1200
	CookieSize = 2 + wire.TagSize + cookieSize
	// AnswerSize is what this version sends; a longer ANSWER is read as far
	// as known.
	AnswerSize = 2 + wire.TagSize + 32 + 48 + answerPayload + 16

	cookieSize    = 16
	answerPayload = wire.TagSize + 16 + 2
	helloNoise    = 2 + wire.TagSize + cookieSize // where Noise message 1 starts
	helloPrologue = 2 + wire.TagSize              // what of HELLO goes into the prologue
	finishHead    = wire.TagSize + 1
	minFinish     = finishHead + 48 + 16
	sealedHead    = wire.TagSize + 1 + 4

	// MaxFinish is how many bytes of control messages FINISH carries for the
	// owner. The protocol allows 1000; the rest is a PING of the link's own.
	MaxFinish = 1000 - pingSize
	pingSize  = 3 + 4
)

// The times of section 5.
const (
	helloFirst   = 150 * time.Millisecond // first wait for an ANSWER, doubling
	helloMost    = 5 * time.Second        // up to this
	halfOpenLife = 5 * time.Second
	pingAfter    = time.Second             // the initiator sent nothing sealed for so long: PING
	pongAfter    = 1100 * time.Millisecond // the responder: as a rule its PONG has come first
	pingGap      = 50 * time.Millisecond
	deadAfter    = 5 * time.Second // heard nothing for so long: dead
	probeAfter   = 5 * time.Second // a round-trip time this old rides along with the next datagram
	probeFirst   = 2 * time.Second // or this old, for the first probesFirst
	probesFirst  = 8

	// maxReplies is how many PONGs and ECHOs a second a peer can make us
	// send: each costs upload that others were promised.
	maxReplies = 50

	// burst is how long the answers to repetitions wait: a FINISH or a
	// CHALLENGE that was sent less than this ago is not sent again.
	burst = 20 * time.Millisecond
	// simultaneous is how long after a link is up a FINISH in the other
	// direction counts as a simultaneous open, not as a peer that restarted.
	// Longer than any round trip that could carry a stream.
	simultaneous = 3 * time.Second
	// stale is how long a link may have been silent (its peer sends at least
	// every pingAfter) and still win against a new one to the same peer.
	stale = 2 * time.Second
)

// Why a link ended, beside the reasons that a BYE can carry. These never
// travel: they are what the table itself found out.
const (
	// Silent: nothing came for 5 s.
	Silent wire.ByeReason = 0x80 + iota
	// Replaced: the peer began anew, or opened at the same time and won; the
	// link that stays is Table.ByPeer of the same key.
	Replaced
	// Duplicate: the address that was dialled is one more of a peer to which
	// there is a link; that one stays, and is Table.ByPeer of the same key.
	Duplicate
	// Self: the address that was dialled is this node's own.
	Self
	// Exhausted: the counter of sealed datagrams came to its end.
	Exhausted
)

// Owner is what a Table sees of the engine above it. Established, Closed and
// Moved are called from inside the table's methods and may call back into it
// (SendControl, NewTag, Dial, Close); Send must not.
type Owner interface {
	// Send sends one datagram; the bytes are reused when it returns.
	Send(to netip.AddrPort, datagram []byte)
	// Established is called once for a link whose peer has proved its key:
	// at ANSWER for a link that was dialled, at FINISH otherwise (the messages
	// that came in FINISH are then the result of that Receive).
	Established(l *Link)
	// Closed is called once for a link that Dial returned or Established
	// named, when it ends other than by Table.Close. The reason is that of
	// the peer's BYE or one of this package; text is for people. When a link
	// replaces another, Established of the new one comes first.
	Closed(l *Link, reason wire.ByeReason, text string)
	// Moved is called when the peer has proved that it now receives at
	// l.Addr(); from is where it was before.
	Moved(l *Link, from netip.AddrPort)
}

// Config of a Table. The zero value of a field means its default.
type Config struct {
	// Static is the node's long-term key; by default a fresh one.
	Static Key
	// Random gives keys and tags (default crypto/rand). It must not fail; the
	// table panics if it does, as crypto/rand would.
	Random io.Reader
	// HelloGap is kept between HELLOs (0: none).
	// They are of 1248 bytes on the wire: on a slow uplink those of a crowd that
	// is dialled at once would hold up the JOIN to who answers first.
	HelloGap time.Duration
	// MaxLinks bounds the links of the node, dialled ones included (1024);
	// MaxLinksPer64 those accepted from one /64 (16), which is also how many
	// of a /64's identities have to be banned before it is refused as a whole.
	MaxLinks      int
	MaxLinksPer64 int
	// MaxHalfOpen bounds the handshakes that others have begun and not
	// finished (256), MaxHalfOpenPer64 those from one /64 (16).
	MaxHalfOpen      int
	MaxHalfOpenPer64 int
	// MaxHandshakes bounds how many HELLOs a second are worth the public-key
	// operations of an ANSWER (256, about a tenth of a core).
	MaxHandshakes int
	// Null replaces key agreement and cipher by ones of the same sizes that
	// protect nothing, for simulations of thousands of nodes in one process.
	// Such a node never agrees with a real one.
	Null bool
}

func (c *Config) defaults() {
	for _, d := range []struct {
		v *int
		d int
	}{
		{&c.MaxLinks, 1024}, {&c.MaxLinksPer64, 16},
		{&c.MaxHalfOpen, 256}, {&c.MaxHalfOpenPer64, 16},
		{&c.MaxHandshakes, 256},
	} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
}

// DropReason says why Receive dropped a datagram.
type DropReason uint8

// The reasons to drop a datagram.
const (
	DropSize     DropReason = iota // no datagram of that type has this length
	DropVersion                    // another version of the protocol
	DropType                       // no such type, or not on unicast
	DropTag                        // behind no tag of ours, or not of that kind
	DropAuth                       // does not decrypt
	DropReplay                     // seen before, or too old to tell
	DropRepeated                   // a handshake datagram that was answered before
	DropRefused                    // from a banned address or key
	DropFull                       // no room for another link or handshake
	DropRate                       // more handshakes a second than are worth the work
	dropReasons
)

var dropNames = [dropReasons]string{"size", "version", "type", "tag", "auth", "replay", "repeated", "refused", "full", "rate"}

func (r DropReason) String() string {
	if r < dropReasons {
		return dropNames[r]
	}
	return "unknown"
}
