package world

import (
	"encoding/binary"

	"github.com/sixcast/sixcast/pkg/wire"
)

// claim is what liars say their uplink is, as a multiple of the stream.
const claim = 25

// bend changes what an adversary's engine sends: b is the whole datagram, of
// which bend may change every byte but not the length. It reports whether
// anything is sent at all. The engine itself is nobody's accomplice: it has
// good shards, and an Upload as great as the claim.
func (n *node) bend(b []byte) bool {
	switch sortOf(b) {
	case shards:
		switch n.nature {
		case Polluter, Liar:
			for i := wire.TagSize + 20; i < len(b); i += 97 {
				b[i] ^= 0x5a
			}
		case Mute:
			return false
		}
	case manifests:
		return n.nature != Mute
	case control:
		if n.nature == Liar || n.nature == Mute {
			messages(b, n.lie)
		}
	}
	return true
}

// messages calls f for each control message of a datagram that is sealed by
// the null cipher, which hides nothing and signs nothing: f may change the
// body.
func messages(b []byte, f func(typ uint8, body []byte)) {
	const (
		head   = wire.TagSize + 1
		sealed = head + 4
		static = 32 + 16 // a static key and its authenticator, before FINISH's payload
		tail   = 16
	)
	if len(b) <= head || b[0]&0x80 == 0 {
		return
	}
	switch b[wire.TagSize] {
	case wire.TypeSealed:
		b = b[min(sealed, len(b)):]
	case wire.TypeFinish:
		b = b[min(head+static, len(b)):]
	default:
		return
	}
	b = b[:max(0, len(b)-tail)]
	for {
		typ, body, rest, ok := wire.Next(b)
		if !ok {
			return
		}
		f(typ, body)
		b = rest
	}
}

// lie makes a message say that its sender has a great uplink and is close to
// the source.
func (n *node) lie(typ uint8, body []byte) {
	uplink := uint32(claim * n.w.Rate / 1000)
	switch {
	case typ == wire.MsgJoin && len(body) >= 45:
		binary.BigEndian.PutUint32(body[41:], uplink)
	case typ == wire.MsgSubscribe && len(body) >= 26:
		binary.BigEndian.PutUint32(body[10:], uplink)
	case typ == wire.MsgSubscribed && len(body) >= 10:
		body[8] = 1 // hop
	}
}
