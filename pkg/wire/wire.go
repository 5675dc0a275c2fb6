// Package wire lays out what peers say to each other: the first bytes of a
// datagram (docs/protocol.md section 4), the control messages that travel in
// sealed datagrams (section 6) and the multicast beacon (section 7).
//
// A sealed datagram's plaintext holds messages back to back:
//
//	+------+--------+----------------+
//	| type | length | body           |
//	| u8   | u16    | length bytes   |
//	+------+--------+----------------+
//
// Integers are big-endian. Decoders alias their input, never panic and never
// allocate; encoders append. A body longer than this version knows is read as
// far as known, an unknown type is skipped: that is how the protocol grows.
package wire

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"net/netip"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
)

// The first byte of a datagram, or the byte behind its link tag.
const (
	TypeHello      = 0x01
	TypeCookie     = 0x02
	TypeAnswer     = 0x03
	TypeFinish     = 0x04 // behind a control tag
	TypeShard      = 0x10
	TypeManifest   = 0x11
	TypeBeacon     = 0x12
	TypeDescriptor = 0x13
	TypeSealed     = 0x20 // behind a control tag
)

// Version of the protocol, in HELLO, COOKIE, ANSWER, manifests and beacons.
const Version = 1

const (
	// TagSize is the length of a link tag in bytes.
	TagSize = 8
	// MaxDatagram is the longest UDP payload that fits every IPv6 path:
	// 1280 (RFC 8200 §5) − 40 (IPv6) − 8 (UDP).
	MaxDatagram = 1232
	// SealedOverhead is what sealing adds to control messages: tag, type,
	// counter, authenticator.
	SealedOverhead = TagSize + 1 + 4 + 16
	// MaxControl is the most control message bytes one sealed datagram carries.
	MaxControl = MaxDatagram - SealedOverhead
	// IPOverhead is what IPv6 and UDP add to a datagram.
	IPOverhead = 48
)

// Tag is chosen by the receiver of what follows it; its highest bit is set,
// which tells it from every datagram type.
type Tag uint64

// TagBit is set in every tag.
const TagBit Tag = 1 << 63

// Message types (docs/protocol.md section 6).
const (
	MsgPing        = 0x01
	MsgPong        = 0x02
	MsgBye         = 0x03
	MsgChallenge   = 0x04
	MsgEcho        = 0x05
	MsgJoin        = 0x10
	MsgJoined      = 0x11
	MsgLeave       = 0x12
	MsgSubscribe   = 0x13
	MsgSubscribed  = 0x14
	MsgUnsubscribe = 0x15
	MsgState       = 0x16
	MsgRequest     = 0x17
	MsgRefuse      = 0x18
	MsgReport      = 0x19
	MsgPeers       = 0x1a
	MsgIntroduce   = 0x1b // reserved
	MsgHave        = 0x1c // reserved: catch-up
	MsgAudit       = 0x1d
	MsgVerdict     = 0x1e
	MsgTrain       = 0x1f
	MsgArrived     = 0x20
)

var (
	// ErrShort is returned for a message or datagram that ends before its last
	// known field.
	ErrShort = errors.New("wire: message too short")
	// ErrFeed is returned for a message about a feed that this version does
	// not know.
	ErrFeed = errors.New("wire: a feed that this version does not know")
)

// ByeReason says why a link ends.
type ByeReason uint8

// The reasons of BYE.
const (
	ByeLeaving ByeReason = iota
	ByeFull
	ByeMisbehaviour
	ByeIdle
	ByeRefused
)

func (r ByeReason) String() string {
	switch r {
	case ByeLeaving:
		return "leaving"
	case ByeFull:
		return "full"
	case ByeMisbehaviour:
		return "misbehaviour"
	case ByeIdle:
		return "idle"
	case ByeRefused:
		return "refused"
	}
	return "unknown reason"
}

// AppendMessage appends one message with a body of its own.
func AppendMessage(dst []byte, typ uint8, body []byte) []byte {
	dst = append(dst, typ, byte(len(body)>>8), byte(len(body)))
	return append(dst, body...)
}

// Next takes the first message off b. ok is false at the end of b and where a
// length reaches past it.
func Next(b []byte) (typ uint8, body, rest []byte, ok bool) {
	if len(b) < 3 {
		return 0, nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	if 3+n > len(b) {
		return 0, nil, nil, false
	}
	return b[0], b[3 : 3+n], b[3+n:], true
}

// Special values of State and Subscribe fields.
const (
	// NoNumber stands for "no such block".
	NoNumber block.Number = 0xffffffff
	// FromRAP asks for everything from the newest random access point on.
	FromRAP block.Number = 0xffffffff
	// FromNext asks for what comes after the newest block.
	FromNext block.Number = 0xfffffffe
)

// Bye ends a link.
type Bye struct {
	Reason ByeReason
	Text   []byte // UTF-8, at most MaxByeText bytes
}

// MaxByeText bounds the text of a BYE in bytes.
const MaxByeText = 200

// Append appends m as a message.
func (m *Bye) Append(dst []byte) []byte {
	t := m.Text
	if len(t) > MaxByeText {
		t = t[:MaxByeText]
	}
	dst = append(dst, MsgBye, 0, byte(1+len(t)), byte(m.Reason))
	return append(dst, t...)
}

// Decode reads the body of a BYE.
func (m *Bye) Decode(b []byte) error {
	if len(b) < 1 {
		return ErrShort
	}
	m.Reason, m.Text = ByeReason(b[0]), b[1:min(len(b), 1+MaxByeText)]
	return nil
}

// Join asks to receive (and offers to serve) a channel on a link.
type Join struct {
	Key    [32]byte // the channel
	Tag    Tag      // to put before what is sent to me
	Serves bool     // I pass on to others
	Uplink uint32   // kbit/s, 0 = none
}

// Append appends m as a message.
func (m *Join) Append(dst []byte) []byte {
	dst = append(dst, MsgJoin, 0, 45)
	dst = append(dst, m.Key[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Tag))
	dst = append(dst, bit(m.Serves, 0))
	return binary.BigEndian.AppendUint32(dst, m.Uplink)
}

// Decode reads the body of a JOIN.
func (m *Join) Decode(b []byte) error {
	if len(b) < 45 {
		return ErrShort
	}
	copy(m.Key[:], b)
	m.Tag = Tag(binary.BigEndian.Uint64(b[32:]))
	m.Serves = b[40]&1 != 0
	m.Uplink = binary.BigEndian.Uint32(b[41:])
	return nil
}

// JoinStatus answers a JOIN.
type JoinStatus uint8

// The answers to a JOIN.
const (
	JoinOK JoinStatus = iota
	JoinUnknown
	JoinFull
)

// Progress says what a node holds of a channel: the newest run and the
// numbers of its newest block, newest random access point and oldest block.
// Run 0 means nothing yet.
type Progress struct {
	Run    block.Run
	Newest block.Number
	RAP    block.Number // NoNumber if none is kept
	Oldest block.Number
}

func (p *Progress) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(p.Run))
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.Newest))
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.RAP))
	return binary.BigEndian.AppendUint32(dst, uint32(p.Oldest))
}

func (p *Progress) decode(b []byte) {
	p.Run = block.Run(binary.BigEndian.Uint64(b))
	p.Newest = block.Number(binary.BigEndian.Uint32(b[8:]))
	p.RAP = block.Number(binary.BigEndian.Uint32(b[12:]))
	p.Oldest = block.Number(binary.BigEndian.Uint32(b[16:]))
}

const progressSize = 20

// Joined answers a JOIN.
type Joined struct {
	Channel  uint32 // channel tag
	Status   JoinStatus
	Tag      Tag // to put before what is sent to me
	Progress Progress
	Holdings Holdings
}

// Append appends m as a message.
func (m *Joined) Append(dst []byte) []byte {
	dst = append(dst, MsgJoined, 0, byte(13+progressSize+m.Holdings.size()))
	dst = binary.BigEndian.AppendUint32(dst, m.Channel)
	dst = append(dst, byte(m.Status))
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Tag))
	dst = m.Progress.append(dst)
	return m.Holdings.append(dst)
}

// Decode reads the body of a JOINED.
func (m *Joined) Decode(b []byte) error {
	if len(b) < 13+progressSize {
		return ErrShort
	}
	m.Channel = binary.BigEndian.Uint32(b)
	m.Status = JoinStatus(b[4])
	m.Tag = Tag(binary.BigEndian.Uint64(b[5:]))
	m.Progress.decode(b[13:])
	return m.Holdings.decode(b[13+progressSize:])
}

// Leave takes a joined channel off a link.
type Leave struct{ Channel uint32 }

// Append appends m as a message.
func (m *Leave) Append(dst []byte) []byte {
	return binary.BigEndian.AppendUint32(append(dst, MsgLeave, 0, 4), m.Channel)
}

// Decode reads the body of a LEAVE.
func (m *Leave) Decode(b []byte) error {
	if len(b) < 4 {
		return ErrShort
	}
	m.Channel = binary.BigEndian.Uint32(b)
	return nil
}

// StripeMask has bit s set for stripe s.
type StripeMask uint16

// AllStripes is every stripe of a block.
const AllStripes StripeMask = 0xffff

// A feed is what a neighbour can be asked to push: stripe 0…15 of every
// block, or a copy of its manifest.
const (
	FeedManifest = 16 // the manifest
	FeedSecond   = 17 // a second copy, sent apart from the first
	Feeds        = 18
)

// FeedMask has bit i set for feed i. Bits from Feeds on are a later version's:
// encoders send them as zero, decoders clear them, but where something follows
// for every bit of a mask it follows for these too.
type FeedMask uint32

// Masks of feeds.
const (
	Manifest FeedMask = 1 << FeedManifest
	Second   FeedMask = 1 << FeedSecond
	AllFeeds FeedMask = 1<<Feeds - 1
)

// Stripes are the stripes of m.
func (m FeedMask) Stripes() StripeMask { return StripeMask(m) }

// Has reports whether feed i is in m.
func (m FeedMask) Has(i int) bool { return m>>i&1 != 0 }

// Count is the number of feeds in m.
func (m FeedMask) Count() int { return bits.OnesCount32(uint32(m)) }

// Holdings say which feeds a node could push to others: those that come to
// it fresh, how far it is from the source on each and how old they are.
type Holdings struct {
	Live  FeedMask     // bits 0…16: who pushes the manifest can push it twice
	Slots uint8        // feeds that it has room for, 255 = as many or more
	Hop   [Feeds]uint8 // 0 the source; NoHop of what is not live
	Lag   [Feeds]uint8 // since the block was made, in units of LagUnit, 255 = as much or more, or not live
}

// LagUnit is the unit of lags.
const LagUnit = 8 * time.Millisecond

// holdable are the feeds of Holdings.
const holdable = AllFeeds &^ Second

func (h *Holdings) size() int { return 5 + 2*(h.Live&holdable).Count() }

func (h *Holdings) append(dst []byte) []byte {
	live := h.Live & holdable
	dst = binary.BigEndian.AppendUint32(dst, uint32(live))
	dst = append(dst, h.Slots)
	for i := range Feeds {
		if live.Has(i) {
			dst = append(dst, h.Hop[i], h.Lag[i])
		}
	}
	return dst
}

func (h *Holdings) decode(b []byte) error {
	if len(b) < 5 {
		return ErrShort
	}
	live := FeedMask(binary.BigEndian.Uint32(b))
	if len(b) < 5+2*live.Count() {
		return ErrShort
	}
	h.Live, h.Slots = live&holdable, b[4]
	b = b[5:]
	for i := range Feeds {
		h.Hop[i], h.Lag[i] = NoHop, 255
		if h.Live.Has(i) {
			h.Hop[i], h.Lag[i] = b[0], b[1]
			b = b[2:]
		}
	}
	return nil
}

// NoHop is the hop of who does not pass a feed on, and so may take it from
// anybody.
const NoHop = 255

// Subscribe says which feeds its sender wants pushed, replacing what the
// same link had asked for before if Serial is newer.
type Subscribe struct {
	Channel      uint32
	Serial       uint16 // RFC 1982
	Feeds        FeedMask
	Half         bool // of the highest stripe only the first row
	BackfillOnly bool // stop at the newest block
	Uplink       uint32
	Run          block.Run
	First        block.Number // of Run; or FromRAP, FromNext
	Hop          [Feeds]uint8 // of the sender on each of Feeds, NoHop if nobody depends on it
}

// Append appends m as a message.
func (m *Subscribe) Append(dst []byte) []byte {
	feeds := m.Feeds & AllFeeds
	dst = append(dst, MsgSubscribe, 0, byte(subscribeSize+feeds.Count()))
	dst = binary.BigEndian.AppendUint32(dst, m.Channel)
	dst = binary.BigEndian.AppendUint16(dst, m.Serial)
	dst = binary.BigEndian.AppendUint32(dst, uint32(feeds))
	dst = append(dst, bit(m.Half, 0)|bit(m.BackfillOnly, 1))
	dst = binary.BigEndian.AppendUint32(dst, m.Uplink)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Run))
	dst = binary.BigEndian.AppendUint32(dst, uint32(m.First))
	return appendHops(dst, feeds, &m.Hop)
}

// Decode reads the body of a SUBSCRIBE.
func (m *Subscribe) Decode(b []byte) error {
	if len(b) < subscribeSize {
		return ErrShort
	}
	m.Channel = binary.BigEndian.Uint32(b)
	m.Serial = binary.BigEndian.Uint16(b[4:])
	feeds := FeedMask(binary.BigEndian.Uint32(b[6:]))
	m.Feeds = feeds & AllFeeds
	m.Half, m.BackfillOnly = b[10]&1 != 0, b[10]&2 != 0
	m.Uplink = binary.BigEndian.Uint32(b[11:])
	m.Run = block.Run(binary.BigEndian.Uint64(b[15:]))
	m.First = block.Number(binary.BigEndian.Uint32(b[23:]))
	_, err := decodeHops(b[subscribeSize:], feeds, &m.Hop)
	return err
}

func appendHops(dst []byte, feeds FeedMask, hop *[Feeds]uint8) []byte {
	for i := range Feeds {
		if feeds.Has(i) {
			dst = append(dst, hop[i])
		}
	}
	return dst
}

// decodeHops reads a hop for every bit of feeds, known or not, and sets those
// of the other feeds to NoHop.
func decodeHops(b []byte, feeds FeedMask, hop *[Feeds]uint8) (rest []byte, err error) {
	n := feeds.Count()
	if len(b) < n {
		return nil, ErrShort
	}
	rest = b[n:]
	for i := range Feeds {
		hop[i] = NoHop
		if feeds.Has(i) {
			hop[i], b = b[0], b[1:]
		}
	}
	return rest, nil
}

// GrantReason says why a SUBSCRIBED grants no more than it does.
type GrantReason uint8

// The reasons of SUBSCRIBED.
const (
	Granted GrantReason = iota
	GrantFull
	GrantNotLive
	GrantNotServed
)

// Redirect names somebody who may push feeds that were refused.
type Redirect struct {
	Feeds FeedMask
	Addr  netip.AddrPort // invalid, and [::]:0 once decoded: who says it
}

// MaxRedirects bounds the redirects of a SUBSCRIBED.
const MaxRedirects = 4

// Subscribed answers a SUBSCRIBE, or takes back what was granted before.
type Subscribed struct {
	Channel   uint32
	Serial    uint16
	Feeds     FeedMask // what is granted
	Reason    GrantReason
	Hop       [Feeds]uint8 // of the parent on each of Feeds
	Redirects [MaxRedirects]Redirect
	Redirect  int // how many of them there are
}

const (
	addrSize       = 18
	subscribeSize  = 27 // less the hops
	subscribedSize = 12 // less hops and redirects
	redirectSize   = 4 + addrSize
	peerSize       = addrSize + 1
)

// The longest messages: their length fits the byte that the encoders write.
const (
	_ = uint8(13 + progressSize + 5 + 2*Feeds)
	_ = uint8(subscribeSize + Feeds)
	_ = uint8(subscribedSize + Feeds + MaxRedirects*redirectSize)
	_ = uint8(5 + MaxPeers*peerSize)
)

// appendAddr writes an address as 16 bytes, an IPv4 one as its mapped form
// (RFC 4291 §2.5.5.2), the zone left out, and the port; an invalid one as zeros.
func appendAddr(dst []byte, a netip.AddrPort) []byte {
	ip := netip.IPv6Unspecified().As16()
	if a.IsValid() {
		ip = a.Addr().As16()
	}
	dst = append(dst, ip[:]...)
	return binary.BigEndian.AppendUint16(dst, a.Port())
}

func decodeAddr(b []byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)), binary.BigEndian.Uint16(b[16:]))
}

// Append appends m as a message.
func (m *Subscribed) Append(dst []byte) []byte {
	feeds := m.Feeds & AllFeeds
	dst = append(dst, MsgSubscribed, 0, byte(subscribedSize+feeds.Count()+m.Redirect*redirectSize))
	dst = binary.BigEndian.AppendUint32(dst, m.Channel)
	dst = binary.BigEndian.AppendUint16(dst, m.Serial)
	dst = binary.BigEndian.AppendUint32(dst, uint32(feeds))
	dst = append(dst, byte(m.Reason), byte(m.Redirect))
	dst = appendHops(dst, feeds, &m.Hop)
	for _, r := range m.Redirects[:m.Redirect] {
		dst = binary.BigEndian.AppendUint32(dst, uint32(r.Feeds&AllFeeds))
		dst = appendAddr(dst, r.Addr)
	}
	return dst
}

// Decode reads the body of a SUBSCRIBED.
func (m *Subscribed) Decode(b []byte) error {
	if len(b) < subscribedSize {
		return ErrShort
	}
	m.Channel = binary.BigEndian.Uint32(b)
	m.Serial = binary.BigEndian.Uint16(b[4:])
	feeds := FeedMask(binary.BigEndian.Uint32(b[6:]))
	m.Feeds = feeds & AllFeeds
	m.Reason = GrantReason(b[10])
	n := int(b[11])
	b, err := decodeHops(b[subscribedSize:], feeds, &m.Hop)
	if err != nil || len(b) < n*redirectSize {
		return ErrShort
	}
	m.Redirect = min(n, MaxRedirects)
	for i := range m.Redirects {
		m.Redirects[i] = Redirect{}
		if i < m.Redirect {
			m.Redirects[i] = Redirect{FeedMask(binary.BigEndian.Uint32(b)) & AllFeeds, decodeAddr(b[4:])}
			b = b[redirectSize:]
		}
	}
	return nil
}

// Unsubscribe gives feeds back. It means nothing to who has seen a SUBSCRIBE
// with a newer Serial on the same link.
type Unsubscribe struct {
	Channel uint32
	Serial  uint16 // of the last SUBSCRIBE, RFC 1982
	Feeds   FeedMask
}

// Append appends m as a message.
func (m *Unsubscribe) Append(dst []byte) []byte {
	dst = append(dst, MsgUnsubscribe, 0, 10)
	dst = binary.BigEndian.AppendUint32(dst, m.Channel)
	dst = binary.BigEndian.AppendUint16(dst, m.Serial)
	return binary.BigEndian.AppendUint32(dst, uint32(m.Feeds&AllFeeds))
}

// Decode reads the body of an UNSUBSCRIBE.
func (m *Unsubscribe) Decode(b []byte) error {
	if len(b) < 10 {
		return ErrShort
	}
	m.Channel = binary.BigEndian.Uint32(b)
	m.Serial = binary.BigEndian.Uint16(b[4:])
	m.Feeds = FeedMask(binary.BigEndian.Uint32(b[6:])) & AllFeeds
	return nil
}

// State tells a neighbour what its sender holds.
type State struct {
	Channel  uint32
	Progress Progress
	Holdings Holdings
}

// Append appends m as a message.
func (m *State) Append(dst []byte) []byte {
	dst = append(dst, MsgState, 0, byte(4+progressSize+m.Holdings.size()))
	dst = binary.BigEndian.AppendUint32(dst, m.Channel)
	dst = m.Progress.append(dst)
	return m.Holdings.append(dst)
}

// Decode reads the body of a STATE.
func (m *State) Decode(b []byte) error {
	if len(b) < 4+progressSize {
		return ErrShort
	}
	m.Channel = binary.BigEndian.Uint32(b)
	m.Progress.decode(b[4:])
	return m.Holdings.decode(b[4+progressSize:])
}

// Peer is somebody who takes part in a channel.
type Peer struct {
	Addr netip.AddrPort
	Free bool // has room for children, as he said
	Good bool // has delivered to who names him
}

// MaxPeers bounds the entries of one PEERS.
const MaxPeers = 8

// Peers names others who take part in a channel.
type Peers struct {
	Channel uint32
	Peers   [MaxPeers]Peer
	N       int // how many of them there are
}

// Append appends m as a message.
func (m *Peers) Append(dst []byte) []byte {
	dst = append(dst, MsgPeers, 0, byte(5+m.N*peerSize))
	dst = binary.BigEndian.AppendUint32(dst, m.Channel)
	dst = append(dst, byte(m.N))
	for _, p := range m.Peers[:m.N] {
		dst = appendAddr(dst, p.Addr)
		dst = append(dst, bit(p.Free, 0)|bit(p.Good, 1))
	}
	return dst
}

// Decode reads the body of a PEERS.
func (m *Peers) Decode(b []byte) error {
	if len(b) < 5 || len(b) < 5+int(b[4])*peerSize {
		return ErrShort
	}
	m.Channel = binary.BigEndian.Uint32(b)
	m.N = min(int(b[4]), MaxPeers)
	b = b[5:]
	for i := range m.Peers {
		m.Peers[i] = Peer{}
		if i < m.N {
			f := b[addrSize]
			m.Peers[i] = Peer{decodeAddr(b), f&1 != 0, f&2 != 0}
			b = b[peerSize:]
		}
	}
	return nil
}

// Audit asks a neighbour to try whether somebody passes a feed on.
type Audit struct {
	Channel uint32
	Feed    uint8 // below Feeds
	Addr    netip.AddrPort
}

// Append appends m as a message.
func (m *Audit) Append(dst []byte) []byte {
	dst = append(dst, MsgAudit, 0, 5+addrSize)
	dst = binary.BigEndian.AppendUint32(dst, m.Channel)
	dst = append(dst, m.Feed)
	return appendAddr(dst, m.Addr)
}

// Decode reads the body of an AUDIT.
func (m *Audit) Decode(b []byte) error {
	if len(b) < 5+addrSize {
		return ErrShort
	}
	if b[4] >= Feeds {
		return ErrFeed
	}
	m.Channel, m.Feed, m.Addr = binary.BigEndian.Uint32(b), b[4], decodeAddr(b[5:])
	return nil
}

// Verdict answers an AUDIT: whether fresh shards came within its time.
type Verdict struct {
	Channel uint32
	Feed    uint8 // below Feeds
	Passes  bool
	Addr    netip.AddrPort
}

// Append appends m as a message.
func (m *Verdict) Append(dst []byte) []byte {
	dst = append(dst, MsgVerdict, 0, 6+addrSize)
	dst = binary.BigEndian.AppendUint32(dst, m.Channel)
	dst = append(dst, m.Feed, bit(m.Passes, 0))
	return appendAddr(dst, m.Addr)
}

// Decode reads the body of a VERDICT.
func (m *Verdict) Decode(b []byte) error {
	if len(b) < 6+addrSize {
		return ErrShort
	}
	if b[4] >= Feeds {
		return ErrFeed
	}
	m.Channel, m.Feed, m.Passes, m.Addr = binary.BigEndian.Uint32(b), b[4], b[5]&1 != 0, decodeAddr(b[6:])
	return nil
}

// MaxTrain is how many datagrams a train has at most.
const MaxTrain = 16

// Train is one datagram of a train: a few of one size, sent at once, to learn
// from how the narrowest link on their way spreads them what it takes.
type Train struct {
	Train uint8 // which one, of those on this link
	Index uint8 // of the datagram, below MaxTrain
}

// Append appends m as a message of size bytes, 5 to MaxControl.
func (m *Train) Append(dst []byte, size int) []byte {
	dst = append(dst, MsgTrain, byte((size-3)>>8), byte(size-3), m.Train, m.Index)
	return append(dst, make([]byte, size-5)...)
}

// Decode reads the body of a TRAIN.
func (m *Train) Decode(b []byte) error {
	if len(b) < 2 {
		return ErrShort
	}
	m.Train, m.Index = b[0], b[1]
	return nil
}

// Arrived answers each TRAIN.
type Arrived struct {
	Train, Index uint8
	Arrival      uint32 // µs, on the clock of who answers
}

// Append appends m as a message.
func (m *Arrived) Append(dst []byte) []byte {
	dst = append(dst, MsgArrived, 0, 6, m.Train, m.Index)
	return binary.BigEndian.AppendUint32(dst, m.Arrival)
}

// Decode reads the body of an ARRIVED.
func (m *Arrived) Decode(b []byte) error {
	if len(b) < 6 {
		return ErrShort
	}
	m.Train, m.Index, m.Arrival = b[0], b[1], binary.BigEndian.Uint32(b[2:])
	return nil
}

// Request asks for single shards of one block.
type Request struct {
	Channel  uint32
	Name     block.Name
	Manifest bool   // the manifest too
	Shards   uint64 // bit i = shard i
}

// Append appends m as a message.
func (m *Request) Append(dst []byte) []byte {
	dst = append(dst, MsgRequest, 0, 26)
	dst = binary.BigEndian.AppendUint32(dst, m.Channel)
	dst = appendName(dst, m.Name)
	dst = append(dst, bit(m.Manifest, 0))
	return binary.BigEndian.AppendUint64(dst, m.Shards)
}

// Decode reads the body of a REQUEST.
func (m *Request) Decode(b []byte) error {
	if len(b) < 26 {
		return ErrShort
	}
	m.Channel = binary.BigEndian.Uint32(b)
	m.Name = decodeName(b[4:])
	m.Manifest = b[17]&1 != 0
	m.Shards = binary.BigEndian.Uint64(b[18:])
	return nil
}

// RefuseReason says why a REQUEST is not served.
type RefuseReason uint8

// The reasons of REFUSE.
const (
	RefuseGone RefuseReason = 1 + iota
	RefuseNotYet
	RefuseBusy
)

// Refuse answers a REQUEST that is not served.
type Refuse struct {
	Channel uint32
	Name    block.Name
	Reason  RefuseReason
}

// Append appends m as a message.
func (m *Refuse) Append(dst []byte) []byte {
	dst = append(dst, MsgRefuse, 0, 18)
	dst = binary.BigEndian.AppendUint32(dst, m.Channel)
	dst = appendName(dst, m.Name)
	return append(dst, byte(m.Reason))
}

// Decode reads the body of a REFUSE.
func (m *Refuse) Decode(b []byte) error {
	if len(b) < 18 {
		return ErrShort
	}
	m.Channel = binary.BigEndian.Uint32(b)
	m.Name = decodeName(b[4:])
	m.Reason = RefuseReason(b[17])
	return nil
}

// Report tells a parent how its pushes arrive.
type Report struct {
	Channel   uint32
	Datagrams uint32 // behind the channel tag since JOIN, mod 2^32
	Kilobytes uint32 // likewise, UDP payload
	Number    block.Number
	Index     uint8  // Number and Index name the latest shard
	Arrival   uint32 // its arrival, µs on the receiver's clock, mod 2^32
	Loss      uint16 // as the receiver measured it, in 1/65536
	// Earlier[:Earliers] are shards that came before that one, the latest
	// first, some time apart.
	Earlier  [MaxEarlier]Earlier
	Earliers uint8
}

// Earlier is a shard that came before the latest one of a Report.
type Earlier struct {
	Back   uint8  // of how many blocks before that one's
	Index  uint8  // which shard
	Before uint16 // how long before that one it came, in EarlierUnit
}

const (
	// MaxEarlier bounds the earlier shards of a Report.
	MaxEarlier = 8
	// EarlierUnit is the unit of Earlier.Before.
	EarlierUnit = 32 * time.Microsecond
)

// Append appends m as a message.
func (m *Report) Append(dst []byte) []byte {
	earlier := m.Earlier[:min(m.Earliers, MaxEarlier)]
	dst = append(dst, MsgReport, 0, byte(24+4*len(earlier)))
	dst = binary.BigEndian.AppendUint32(dst, m.Channel)
	dst = binary.BigEndian.AppendUint32(dst, m.Datagrams)
	dst = binary.BigEndian.AppendUint32(dst, m.Kilobytes)
	dst = binary.BigEndian.AppendUint32(dst, uint32(m.Number))
	dst = append(dst, m.Index)
	dst = binary.BigEndian.AppendUint32(dst, m.Arrival)
	dst = binary.BigEndian.AppendUint16(dst, m.Loss)
	dst = append(dst, byte(len(earlier)))
	for _, e := range earlier {
		dst = append(dst, e.Back, e.Index, byte(e.Before>>8), byte(e.Before))
	}
	return dst
}

// Decode reads the body of a REPORT.
func (m *Report) Decode(b []byte) error {
	if len(b) < 24 {
		return ErrShort
	}
	m.Channel = binary.BigEndian.Uint32(b)
	m.Datagrams = binary.BigEndian.Uint32(b[4:])
	m.Kilobytes = binary.BigEndian.Uint32(b[8:])
	m.Number = block.Number(binary.BigEndian.Uint32(b[12:]))
	m.Index = b[16]
	m.Arrival = binary.BigEndian.Uint32(b[17:])
	m.Loss = binary.BigEndian.Uint16(b[21:])
	if len(b) < 24+4*int(b[23]) {
		return ErrShort
	}
	m.Earliers = min(b[23], MaxEarlier)
	m.Earlier = [MaxEarlier]Earlier{}
	for i := range m.Earlier[:m.Earliers] {
		e := b[24+4*i:]
		m.Earlier[i] = Earlier{Back: e[0], Index: e[1], Before: binary.BigEndian.Uint16(e[2:])}
	}
	return nil
}

// BeaconSize is the length of a beacon datagram in bytes.
const BeaconSize = 42

// Beacon is said into a multicast group by whoever feeds it (section 7).
type Beacon struct {
	Stripes StripeMask
	Channel uint32
	Run     block.Run
	Newest  block.Number
	RAP     block.Number
	Repair  netip.AddrPort // zero address or port: those of the datagram's source
}

// Append appends m as a bare datagram.
func (m *Beacon) Append(dst []byte) []byte {
	dst = append(dst, TypeBeacon, Version)
	dst = binary.BigEndian.AppendUint16(dst, uint16(m.Stripes))
	dst = binary.BigEndian.AppendUint32(dst, m.Channel)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Run))
	dst = binary.BigEndian.AppendUint32(dst, uint32(m.Newest))
	dst = binary.BigEndian.AppendUint32(dst, uint32(m.RAP))
	return appendAddr(dst, m.Repair)
}

// Decode reads a beacon datagram.
func (m *Beacon) Decode(b []byte) error {
	if len(b) < BeaconSize || b[0] != TypeBeacon || b[1] != Version {
		return ErrShort
	}
	m.Stripes = StripeMask(binary.BigEndian.Uint16(b[2:]))
	m.Channel = binary.BigEndian.Uint32(b[4:])
	m.Run = block.Run(binary.BigEndian.Uint64(b[8:]))
	m.Newest = block.Number(binary.BigEndian.Uint32(b[16:]))
	m.RAP = block.Number(binary.BigEndian.Uint32(b[20:]))
	m.Repair = decodeAddr(b[24:])
	return nil
}

func appendName(dst []byte, n block.Name) []byte {
	dst = append(dst, byte(n.Kind))
	dst = binary.BigEndian.AppendUint64(dst, uint64(n.Run))
	return binary.BigEndian.AppendUint32(dst, uint32(n.Number))
}

func decodeName(b []byte) block.Name {
	return block.Name{
		Kind:   block.Kind(b[0]),
		Run:    block.Run(binary.BigEndian.Uint64(b[1:])),
		Number: block.Number(binary.BigEndian.Uint32(b[9:])),
	}
}

func bit(on bool, n uint) byte {
	if on {
		return 1 << n
	}
	return 0
}
