package swarm

import (
	"encoding/binary"
	"sync"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

// Kinds are the packets of one direction of a host by what is in them, their bytes at the IP layer. A datagram is in one of
// them (docs/protocol.md section 4).
type Kinds struct {
	Shards     netem.Count // that had not come before
	Duplicates netem.Count // shards that had
	Manifests  netem.Count // that had not come before
	Copies     netem.Count // manifests that had
	Control    netem.Count // sealed messages and handshakes
	Other      netem.Count // descriptors, ICMPv6, TCP
}

// All is the sum.
func (k Kinds) All() (c netem.Count) {
	for _, x := range []netem.Count{k.Shards, k.Duplicates, k.Manifests, k.Copies, k.Control, k.Other} {
		c.Packets += x.Packets
		c.Bytes += x.Bytes
	}
	return c
}

// ours is what programs of ours made of it.
func (k Kinds) ours() netem.Count {
	all := k.All()
	return netem.Count{Packets: all.Packets - k.Other.Packets, Bytes: all.Bytes - k.Other.Bytes}
}

// Minus is what was counted since an earlier look.
func (k Kinds) Minus(e Kinds) Kinds {
	return Kinds{k.Shards.Minus(e.Shards), k.Duplicates.Minus(e.Duplicates), k.Manifests.Minus(e.Manifests), k.Copies.Minus(e.Copies), k.Control.Minus(e.Control), k.Other.Minus(e.Other)}
}

// A meter counts what a host sends and gets. Its watch runs in the emulator's loop.
type meter struct {
	mu       sync.Mutex
	sent     Kinds
	received Kinds
	seen     [seenBlocks]seenBlock
}

// seenBlocks is how many blocks a meter remembers; a minute has about 520.
const seenBlocks = 1024

type seenBlock struct {
	number   uint32
	manifest bool
	shards   uint64
}

const (
	ipv6Header = 40
	udpHeader  = 8
	udp        = 17
)

// datagram is the UDP payload of an IPv6 packet, nil if there is none.
func datagram(ip []byte) []byte {
	if ip[6] != udp || len(ip) < ipv6Header+udpHeader {
		return nil
	}
	return ip[ipv6Header+udpHeader:]
}

// tagged returns the bare datagram behind a link tag and its type; nil for anything else.
func tagged(d []byte) []byte {
	if len(d) > wire.TagSize && d[0]&0x80 != 0 {
		return d[wire.TagSize:]
	}
	return nil
}

func (m *meter) watch(ip []byte, sent bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := &m.received
	if sent {
		k = &m.sent
	}
	c := m.class(k, ip, sent)
	c.Packets++
	c.Bytes += uint64(len(ip))
}

func (m *meter) class(k *Kinds, ip []byte, sent bool) *netem.Count {
	d := datagram(ip)
	if len(d) == 0 {
		return &k.Other
	}
	bare := tagged(d)
	if bare == nil {
		return &k.Control // a handshake
	}
	switch bare[0] {
	case wire.TypeShard, wire.TypeManifest:
	case wire.TypeDescriptor:
		return &k.Other
	default:
		return &k.Control
	}
	manifest := bare[0] == wire.TypeManifest
	if sent || len(bare) < block.ShardHeader { // what is sent goes to several: nothing of it is a duplicate
		if manifest {
			return &k.Manifests
		}
		return &k.Shards
	}
	number := binary.BigEndian.Uint32(bare[16:])
	s := &m.seen[number%seenBlocks]
	if s.number != number {
		*s = seenBlock{number: number}
	}
	if manifest {
		if s.manifest {
			return &k.Copies
		}
		s.manifest = true
		return &k.Manifests
	}
	bit := uint64(1) << (bare[1] & 63)
	if s.shards&bit != 0 {
		return &k.Duplicates
	}
	s.shards |= bit
	return &k.Shards
}

// counted returns what was counted so far.
func (m *meter) counted() (sent, received Kinds) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sent, m.received
}

// Hostility is what becomes of a viewer's shards on their way out of its host: the viewer itself is an honest one, but nobody can
// tell.
type Hostility int

const (
	// Honest viewers send what they have.
	Honest Hostility = iota
	// Garbage is sent by those whose shards are all damaged.
	Garbage
	// Silence comes from those who promise shards, and whose shards and manifests vanish. Their control messages pass.
	Silence
)

// rewrite is what the emulator does with what such a host sends; hit is called for each datagram that it is done to.
func (h Hostility) rewrite(hit func()) func(ip []byte) bool {
	switch h {
	case Garbage:
		return func(ip []byte) bool {
			if bare := tagged(datagram(ip)); len(bare) > block.ShardHeader && bare[0] == wire.TypeShard {
				hit()
				for i := block.ShardHeader; i < len(bare); i += 97 {
					bare[i] ^= 0x55
				}
			}
			return true
		}
	case Silence:
		return func(ip []byte) bool {
			bare := tagged(datagram(ip))
			if len(bare) > 0 && (bare[0] == wire.TypeShard || bare[0] == wire.TypeManifest) {
				hit()
				return false
			}
			return true
		}
	default:
		return nil
	}
}
