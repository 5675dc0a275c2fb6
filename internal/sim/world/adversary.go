package world

import (
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

// claim is what liars say their uplink is, as a multiple of the stream.
const claim = 25

// Where the control messages of a datagram lie that the null cipher has sealed.
const (
	sealedHead = wire.TagSize + 1 + 4
	finishHead = wire.TagSize + 1 + 32 + 16 // a static key and its authenticator come before them
	sealedTail = 16
)

// bend changes what an adversary's engine sends. b is the whole datagram and
// bend's to change; it returns what is sent in its place, nil for nothing. The
// engine itself is nobody's accomplice: it has good shards, and an Upload as
// great as the claim.
func (n *node) bend(b []byte) []byte {
	switch sortOf(b) {
	case shards:
		switch n.nature {
		case Polluter, Liar:
			for i := wire.TagSize + block.ShardHeader; i < len(b); i += 97 {
				b[i] ^= 0x5a
			}
		case Mute:
			return nil
		}
	case manifests:
		if n.nature == Mute {
			return nil
		}
	case control:
		if n.nature == Liar || n.nature == Mute {
			return n.rewrite(b)
		}
	}
	return b
}

// messagesOf is where the control messages of a datagram begin and end; the
// null cipher hides and signs nothing. Both are 0 where there are none.
func messagesOf(b []byte) (from, to int) {
	if len(b) <= wire.TagSize || b[0]&0x80 == 0 {
		return 0, 0
	}
	switch b[wire.TagSize] {
	case wire.TypeSealed:
		from = sealedHead
	case wire.TypeFinish:
		from = finishHead
	}
	if to = len(b) - sealedTail; from == 0 || to < from {
		return 0, 0
	}
	return from, to
}

// rewrite puts lies in place of the messages of a datagram, which may get
// longer by it.
func (n *node) rewrite(b []byte) []byte {
	from, to := messagesOf(b)
	if to == 0 {
		return b
	}
	out := append(n.worker.slab(wire.MaxDatagram), b[:from]...)
	for rest := b[from:to]; ; {
		typ, body, next, ok := wire.Next(rest)
		if !ok {
			break
		}
		whole := rest[:len(rest)-len(next)]
		if rest = next; len(out)+len(whole)+100 < wire.MaxDatagram {
			out = n.lie(out, typ, body, whole)
		} else {
			out = append(out, whole...)
		}
	}
	if len(out)+sealedTail > wire.MaxDatagram {
		return b // no room for so many lies
	}
	return append(out, b[to:]...)
}

// lie appends a message in place of whole, which says that its sender has a
// great uplink and is close to the source.
func (n *node) lie(out []byte, typ uint8, body, whole []byte) []byte {
	uplink := uint32(claim * n.w.Rate / 1000)
	switch typ {
	case wire.MsgJoin:
		var m wire.Join
		if m.Decode(body) == nil {
			m.Serves, m.Uplink = true, uplink
			return m.Append(out)
		}
	case wire.MsgSubscribe:
		var m wire.Subscribe
		if m.Decode(body) == nil {
			m.Uplink = uplink
			return m.Append(out)
		}
	case wire.MsgJoined:
		var m wire.Joined
		if m.Decode(body) == nil {
			boast(&m.Holdings)
			return m.Append(out)
		}
	case wire.MsgState:
		var m wire.State
		if m.Decode(body) == nil {
			boast(&m.Holdings)
			return m.Append(out)
		}
	case wire.MsgSubscribed:
		var m wire.Subscribed
		if m.Decode(body) == nil {
			for i := range m.Hop {
				m.Hop[i] = 1
			}
			return m.Append(out)
		}
	case wire.MsgVerdict:
		var m wire.Verdict
		if m.Decode(body) == nil {
			m.Passes = false // slander
			return m.Append(out)
		}
	}
	return append(out, whole...)
}

// boast makes everything live, near and free.
func boast(h *wire.Holdings) {
	h.Live, h.Slots = wire.AllFeeds, 255
	for i := range h.Hop {
		h.Hop[i] = 1
		h.Lag[i] = uint8(50 * time.Millisecond / wire.LagUnit)
	}
}
