// Package announce is the BitTorrent UDP tracker protocol (BEP 15) over IPv6, where peers have 18 bytes (BEP 7): its
// messages, the store of who is in which swarm, and the engines of both sides. It is sans-I/O: time and datagrams are
// arguments.
//
//	client                                tracker
//	connect  (16 bytes)  ───────────────▶  Server.Handle: an id that only this address gets
//	         ◀───────────────────────────  (16 bytes)
//	announce (98 bytes)  ───────────────▶  Store.Announce
//	         ◀───────────────────────────  interval, how many there are, some of them
//	publish  (16 + item) ───────────────▶  ServerConfig.Publish: a signed description, ours alone
//	         ◀───────────────────────────  (12 bytes) when to come again
//
// Integers are in network order. What follows the fields of a request (BEP 41's options) is ignored.
package announce

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
)

// Actions. Numbers of our own stay clear of those of BEP 15 and of 4, which others have taken: they begin with "6c".
const (
	ActionConnect  uint32 = 0
	ActionAnnounce uint32 = 1
	ActionScrape   uint32 = 2
	ActionError    uint32 = 3
	ActionPublish  uint32 = 0x36630001
)

// Sizes in bytes.
const (
	connectSize       = 16
	announceSize      = 98
	scrapeHead        = 16
	announceReplyHead = 20
	scrapeEntry       = 12
	peerSize          = 18
	swarmSize         = 20
	publishHead       = 16
	publishReply      = 12

	// MaxItem is the longest item that can be published.
	MaxItem = 1200 - publishHead
	// MaxPeers is the most peers of one answer: with IPv6 and UDP headers it fits 1280 bytes.
	MaxPeers = 60
	// MaxScrape is the most swarms of one scrape (BEP 15 names about 74).
	MaxScrape = 60
	// MaxMessage is the longest datagram that either side sends.
	MaxMessage = scrapeHead + MaxScrape*swarmSize // 1216
	maxReason  = 64
)

// magic begins a connect request.
const magic uint64 = 0x41727101980

// ErrMessage is returned for what is no message of this protocol.
var ErrMessage = errors.New("announce: malformed message")

// SwarmID names a swarm: of a channel the SHA-1 of its key (BEP 44's target).
type SwarmID [swarmSize]byte

// Event of an announce.
type Event uint32

// The events of BEP 15.
const (
	EventNone Event = iota
	EventCompleted
	EventStarted
	EventStopped
)

// Announce is a request to be listed in a swarm, or to be taken off it, and for peers of it.
type Announce struct {
	Connection  uint64
	Transaction uint32
	Swarm       SwarmID
	Peer        [20]byte
	Downloaded  uint64 // bytes
	Left        uint64 // bytes; 0 from who has everything, for us: who feeds the channel
	Uploaded    uint64 // bytes
	Event       Event
	Key         uint32
	Want        int32 // peers; negative: as many as the tracker likes
	Port        uint16
}

// Append appends the request.
func (a *Announce) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, a.Connection)
	dst = binary.BigEndian.AppendUint32(dst, ActionAnnounce)
	dst = binary.BigEndian.AppendUint32(dst, a.Transaction)
	dst = append(dst, a.Swarm[:]...)
	dst = append(dst, a.Peer[:]...)
	dst = binary.BigEndian.AppendUint64(dst, a.Downloaded)
	dst = binary.BigEndian.AppendUint64(dst, a.Left)
	dst = binary.BigEndian.AppendUint64(dst, a.Uploaded)
	dst = binary.BigEndian.AppendUint32(dst, uint32(a.Event))
	dst = binary.BigEndian.AppendUint32(dst, 0) // an IPv4 address: the source's is taken
	dst = binary.BigEndian.AppendUint32(dst, a.Key)
	dst = binary.BigEndian.AppendUint32(dst, uint32(a.Want))
	return binary.BigEndian.AppendUint16(dst, a.Port)
}

// Decode reads a request.
func (a *Announce) Decode(b []byte) error {
	v, ok := view(b)
	if !ok {
		return ErrMessage
	}
	*a = Announce{
		Connection: binary.BigEndian.Uint64(b), Transaction: binary.BigEndian.Uint32(b[12:]), Swarm: *v.swarm(), Peer: [20]byte(b[36:]),
		Downloaded: binary.BigEndian.Uint64(b[56:]), Left: v.left(), Uploaded: binary.BigEndian.Uint64(b[72:]), Event: v.event(),
		Key: binary.BigEndian.Uint32(b[88:]), Want: v.want(), Port: v.port(),
	}
	return nil
}

// announceView reads an announce where it lies.
type announceView []byte

// view reports whether b is one.
func view(b []byte) (announceView, bool) {
	if len(b) < announceSize || binary.BigEndian.Uint32(b[8:]) != ActionAnnounce || binary.BigEndian.Uint32(b[80:]) > uint32(EventStopped) {
		return nil, false
	}
	return announceView(b[:announceSize]), true
}

func (v announceView) swarm() *SwarmID { return (*SwarmID)(v[16:36]) }
func (v announceView) left() uint64    { return binary.BigEndian.Uint64(v[64:]) }
func (v announceView) event() Event    { return Event(binary.BigEndian.Uint32(v[80:])) }
func (v announceView) want() int32     { return int32(binary.BigEndian.Uint32(v[92:])) }
func (v announceView) port() uint16    { return binary.BigEndian.Uint16(v[96:]) }

// AppendConnect appends a connect request.
func AppendConnect(dst []byte, transaction uint32) []byte {
	dst = binary.BigEndian.AppendUint64(dst, magic)
	dst = binary.BigEndian.AppendUint32(dst, ActionConnect)
	return binary.BigEndian.AppendUint32(dst, transaction)
}

// AppendScrape appends a scrape request for up to MaxScrape swarms.
func AppendScrape(dst []byte, connection uint64, transaction uint32, swarms ...SwarmID) []byte {
	dst = binary.BigEndian.AppendUint64(dst, connection)
	dst = binary.BigEndian.AppendUint32(dst, ActionScrape)
	dst = binary.BigEndian.AppendUint32(dst, transaction)
	for i := range swarms {
		dst = append(dst, swarms[i][:]...)
	}
	return dst
}

// AppendPublish appends a request to list a signed item, which is at most MaxItem bytes.
func AppendPublish(dst []byte, connection uint64, transaction uint32, item []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, connection)
	dst = binary.BigEndian.AppendUint32(dst, ActionPublish)
	dst = binary.BigEndian.AppendUint32(dst, transaction)
	return append(dst, item...)
}

// Counts of a swarm.
type Counts struct {
	Seeders, Leechers uint32
	Completed         uint32 // how often somebody said so; 0, we do not count it
}

// Reply is what a tracker answers.
type Reply struct {
	Action      uint32
	Transaction uint32
	Connection  uint64           // of a connect
	Interval    uint32           // of an announce or a publish: seconds until the next
	Counts      Counts           // of an announce
	Peers       []netip.AddrPort // of an announce
	Swarms      []Counts         // of a scrape, in the order of the request
	Reason      string           // of an error, printable
}

// Decode reads a reply of a tracker that was asked over IPv6. Peers that nobody could be (no port, no unicast address, IPv4 in
// disguise) are left out; r's slices are used again.
func (r *Reply) Decode(b []byte) error {
	if len(b) < 8 || len(b) > math.MaxUint16 {
		return ErrMessage
	}
	*r = Reply{Action: binary.BigEndian.Uint32(b), Transaction: binary.BigEndian.Uint32(b[4:]), Peers: r.Peers[:0], Swarms: r.Swarms[:0]}
	switch r.Action {
	case ActionConnect:
		if len(b) < connectSize {
			return ErrMessage
		}
		r.Connection = binary.BigEndian.Uint64(b[8:])
	case ActionAnnounce:
		if len(b) < announceReplyHead {
			return ErrMessage
		}
		r.Interval = binary.BigEndian.Uint32(b[8:])
		r.Counts = Counts{Leechers: binary.BigEndian.Uint32(b[12:]), Seeders: binary.BigEndian.Uint32(b[16:])}
		for rest := b[announceReplyHead:]; len(rest) >= peerSize; rest = rest[peerSize:] {
			p := netip.AddrPortFrom(netip.AddrFrom16([16]byte(rest)), binary.BigEndian.Uint16(rest[16:]))
			if Usable(p) {
				r.Peers = append(r.Peers, p)
			}
		}
	case ActionScrape:
		for rest := b[8:]; len(rest) >= scrapeEntry; rest = rest[scrapeEntry:] {
			r.Swarms = append(r.Swarms, Counts{
				Seeders: binary.BigEndian.Uint32(rest), Completed: binary.BigEndian.Uint32(rest[4:]), Leechers: binary.BigEndian.Uint32(rest[8:]),
			})
		}
	case ActionPublish:
		if len(b) < publishReply {
			return ErrMessage
		}
		r.Interval = binary.BigEndian.Uint32(b[8:])
	case ActionError:
		reason := b[8:min(len(b), 8+maxReason)]
		for _, x := range reason {
			if x < ' ' || x > '~' {
				x = '.'
			}
			r.Reason += string(rune(x))
		}
	default:
		return ErrMessage
	}
	return nil
}

// Usable reports whether somebody can be at this address, for people on other networks too.
func Usable(p netip.AddrPort) bool {
	a := p.Addr()
	return p.Port() != 0 && a.Is6() && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
}
