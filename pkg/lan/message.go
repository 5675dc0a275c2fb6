package lan

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/sixcast/sixcast/pkg/channel"
)

// Port is the UDP port of announcements.
const Port = 6467

// Every datagram is 0x14, version 1, two reserved bytes, the sender (u64, drawn at each start), then messages: type u8, a reserved
// byte, u16 length of the body, the body. Messages of unknown type are skipped, and so is what follows the known fields of a body.
const (
	datagramType    = 0x14
	datagramVersion = 1

	headSize     = 12
	messageHead  = 4
	announceSize = 56 // without the item
	querySize    = 8  // without what is asked for
	goneSize     = 34
	nameHashSize = 16

	// maxDatagram is the protocol's longest (docs/protocol.md). An announcement with the largest item takes 1215 bytes.
	maxDatagram = 1232
	// maxMessages bounds what one datagram makes a receiver do. A start has two.
	maxMessages = 8
)

// Types of messages.
const (
	typeAnnounce = 1
	typeQuery    = 2
	typeGone     = 3
)

// Flags of ANNOUNCE.
const (
	flagSource = 1 << iota // it feeds the channel
	flagGroup              // it sends to the channel's multicast group
	flagSSM                // which is source-specific
)

// What a QUERY asks for.
const (
	askAll = iota
	askChannel
	askName
)

var errMessage = errors.New("lan: malformed message")

// Group is the multicast group of a channel that somebody sends to. It is one of the channel's own: no announcement can have others
// join the group of something else.
type Group struct {
	Scope channel.Scope // 0: there is none
	Port  uint16
	// Source makes the group source-specific: the address that sends. Invalid: any source.
	Source netip.Addr
	// Interface is the one on which it was announced; not used in what a node announces of itself.
	Interface string
}

// Of is the address of the group of a channel.
func (g Group) Of(id channel.ID) netip.AddrPort {
	if g.Source.IsValid() {
		return netip.AddrPortFrom(id.GroupSSM(g.Scope), g.Port)
	}
	return netip.AddrPortFrom(id.Group(g.Scope), g.Port)
}

// possible reports whether a node can join it.
func (g Group) possible() bool {
	scope := g.Scope == channel.ScopeLink || g.Scope == channel.ScopeSite || g.Scope == channel.ScopeOrganisation
	return scope && g.Port != 0 && (!g.Source.IsValid() || unicast(g.Source) && g.Source.Zone() == "" && !g.Source.IsLoopback())
}

// unicast reports whether a is an IPv6 address of a single host.
func unicast(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast()
}

// announcement is an ANNOUNCE: "I take part in this channel". Its address is the source of the datagram.
type announcement struct {
	id     channel.ID
	port   uint16
	source bool
	group  Group
	item   []byte // the signed descriptor, aliasing the datagram; empty if left out
}

// query is a QUERY: "who is there?" Its number tells its copies in two scopes from another question.
type query struct {
	number uint32
	kind   uint8
	id     channel.ID         // askChannel
	name   [nameHashSize]byte // askName
}

// gone is a GONE: "I no longer do".
type gone struct {
	id   channel.ID
	port uint16
}

func appendHead(dst []byte, sender uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, datagramType, datagramVersion, 0, 0), sender)
}

func appendMessage(dst []byte, kind uint8, size int) []byte {
	return binary.BigEndian.AppendUint16(append(dst, kind, 0), uint16(size))
}

func (a *announcement) append(dst []byte) []byte {
	dst = appendMessage(dst, typeAnnounce, announceSize+len(a.item))
	dst = append(dst, a.id[:]...)
	dst = binary.BigEndian.AppendUint16(dst, a.port)
	var flags uint8
	var source [16]byte
	if a.source {
		flags |= flagSource
	}
	if a.group.Scope != 0 {
		flags |= flagGroup
		if a.group.Source.IsValid() {
			flags, source = flags|flagSSM, a.group.Source.As16()
		}
	}
	dst = append(dst, flags, uint8(a.group.Scope))
	dst = binary.BigEndian.AppendUint16(dst, a.group.Port)
	dst = append(dst, source[:]...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(a.item)))
	return append(dst, a.item...)
}

func (a *announcement) decode(b []byte) error {
	if len(b) < announceSize {
		return errMessage
	}
	*a = announcement{id: channel.ID(b), port: binary.BigEndian.Uint16(b[32:]), source: b[34]&flagSource != 0}
	n := int(binary.BigEndian.Uint16(b[54:]))
	if a.id.IsZero() || a.port == 0 || n > channel.MaxItem || n > len(b)-announceSize {
		return errMessage
	}
	a.item = b[announceSize : announceSize+n : announceSize+n]
	if b[34]&flagGroup != 0 {
		g := Group{Scope: channel.Scope(b[35]), Port: binary.BigEndian.Uint16(b[36:])}
		if b[34]&flagSSM != 0 {
			g.Source = netip.AddrFrom16([16]byte(b[38:]))
		}
		if g.possible() {
			a.group = g
		}
	}
	return nil
}

func (q *query) append(dst []byte) []byte {
	var what []byte
	switch q.kind {
	case askChannel:
		what = q.id[:]
	case askName:
		what = q.name[:]
	}
	dst = appendMessage(dst, typeQuery, querySize+len(what))
	dst = binary.BigEndian.AppendUint32(dst, q.number)
	dst = append(dst, q.kind, 0, 0, 0)
	return append(dst, what...)
}

func (q *query) decode(b []byte) error {
	if len(b) < querySize {
		return errMessage
	}
	*q = query{number: binary.BigEndian.Uint32(b), kind: b[4]}
	switch rest := b[querySize:]; {
	case q.kind == askChannel && len(rest) >= channel.IDSize:
		q.id = channel.ID(rest)
	case q.kind == askName && len(rest) >= nameHashSize:
		q.name = [nameHashSize]byte(rest)
	case q.kind == askChannel || q.kind == askName:
		return errMessage
	}
	return nil
}

// asks reports whether both ask for the same.
func (q *query) asks(o *query) bool { return q.kind == o.kind && q.id == o.id && q.name == o.name }

func (g *gone) append(dst []byte) []byte {
	dst = appendMessage(dst, typeGone, goneSize)
	return binary.BigEndian.AppendUint16(append(dst, g.id[:]...), g.port)
}

func (g *gone) decode(b []byte) error {
	if len(b) < goneSize {
		return errMessage
	}
	*g = gone{channel.ID(b), binary.BigEndian.Uint16(b[32:])}
	return nil
}

// messages are what follows the head of a datagram.
type messages []byte

// parse checks that b is a datagram of whole messages, and not too many. Their bodies are not looked at; they alias b.
func parse(b []byte) (sender uint64, m messages, err error) {
	if len(b) < headSize || len(b) > maxDatagram || b[0] != datagramType || b[1] != datagramVersion {
		return 0, nil, errMessage
	}
	m = b[headSize:]
	n := 0
	for rest := m; len(rest) > 0; n++ {
		if _, _, rest = rest.next(); rest == nil || n == maxMessages {
			return 0, nil, errMessage
		}
	}
	return binary.BigEndian.Uint64(b[4:]), m, nil
}

// next is the first message, and those after it: nil, not empty, if the first is cut short.
func (m messages) next() (kind uint8, body []byte, rest messages) {
	if len(m) < messageHead {
		return 0, nil, nil
	}
	n := messageHead + int(binary.BigEndian.Uint16(m[2:]))
	if n > len(m) {
		return 0, nil, nil
	}
	return m[0], m[messageHead:n:n], m[n:]
}

// groupOf is the group of announcements in a scope.
func groupOf(s channel.Scope) netip.Addr {
	h := sha256.Sum256([]byte("sixcast announcements v1"))
	a := [16]byte{0: 0xff, 1: 0x10 | byte(s)&0x0f}
	copy(a[2:], h[:14])
	return netip.AddrFrom16(a)
}

// hashName is what a query asks for instead of a name: names that count as the same have one hash.
func hashName(name string) [nameHashSize]byte {
	h := sha256.Sum256(append([]byte("sixcast name"), channel.FoldName(name)...))
	return [nameHashSize]byte(h[:])
}
