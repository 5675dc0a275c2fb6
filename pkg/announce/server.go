package announce

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
)

const (
	// connectionEpoch is for how many seconds a connection id is made; it is good for as long again, since BEP 15 promises two
	// minutes. Clocks of a cluster may differ by as much.
	connectionEpoch = 120

	// defaultWant is how many peers who does not say gets.
	defaultWant = 50
)

// ConnectAgain is the error for an id that is not good, or no longer.
const ConnectAgain = "connect again"

// Key makes connection ids. All trackers of a cluster that share it take each other's.
type Key [16]byte

// NewKey draws a key.
func NewKey() (k Key) {
	_, _ = rand.Read(k[:]) // never fails
	return k
}

// Stats counts what a server did with datagrams.
type Stats struct {
	Connects  atomic.Uint64
	Announces atomic.Uint64
	Scrapes   atomic.Uint64
	Unknown   atomic.Uint64 // announces to swarms that are not served
	Full      atomic.Uint64 // announces that found no room
	Strangers atomic.Uint64 // ids that were not made for this address, or too long ago
	Published atomic.Uint64 // items taken
	Refused   atomic.Uint64 // items not taken
	Malformed atomic.Uint64
}

// ServerConfig says how a Server answers.
type ServerConfig struct {
	Key   Key
	Store *Store
	// Known says which swarms are served; nil: all. It may be called concurrently.
	Known func(*SwarmID) bool
	// Interval is how many seconds later clients are asked to come again.
	Interval uint32
	// Publish takes an item from an address, checks it and lists it; what it says is wrong goes to the sender. It may be called
	// concurrently, and must not keep the item, which is read where it lies. nil: nothing is listed.
	Publish func(from netip.Addr, item []byte) error
	// Refresh is how many seconds later an item is to be published again.
	Refresh uint32
}

// Server answers requests. It keeps nothing but the Store: a connection id is proof that its bearer gets what is sent to its
// address, made of that address, the time and the key. Nobody is sent more than he sent before he has shown one.
type Server struct {
	cfg   ServerConfig
	block cipher.Block
	mac   [16]byte
	stats *Stats
}

// NewServer makes one for one goroutine; several may share a Store and Stats.
func NewServer(cfg ServerConfig, stats *Stats) *Server {
	b, err := aes.NewCipher(cfg.Key[:])
	if err != nil {
		panic(err) // of a key of another length only
	}
	return &Server{cfg: cfg, block: b, stats: stats}
}

// connection is the id of an address in an epoch: a MAC of both (CBC-MAC of two blocks, which is one for messages of one length),
// with the epoch's last two bits.
func (s *Server) connection(a netip.Addr, epoch int64) uint64 {
	b := s.mac[:]
	s.mac = a.As16()
	s.block.Encrypt(b, b)
	binary.BigEndian.PutUint64(b, binary.BigEndian.Uint64(b)^uint64(epoch))
	s.block.Encrypt(b, b)
	return binary.BigEndian.Uint64(b)&^3 | uint64(epoch)&3
}

// mayBe reports whether id was made for an address in this epoch, the one before, or, by a tracker whose clock is ahead, the next.
func (s *Server) mayBe(id uint64, a netip.Addr, now int64) bool {
	epoch := now / connectionEpoch
	for e := epoch - 1; e <= epoch+1; e++ {
		if uint64(e)&3 == id&3 {
			return s.connection(a, e) == id
		}
	}
	return false
}

// Handle answers one datagram: it appends the reply to dst, nothing if there is none. now is in Unix seconds, random any number.
func (s *Server) Handle(now int64, random uint32, from netip.AddrPort, b, dst []byte) []byte {
	if len(b) < connectSize || !Usable(from) {
		s.stats.Malformed.Add(1)
		return dst
	}
	id, action, transaction := binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:]), b[12:16]
	if action == ActionConnect {
		if id != magic {
			s.stats.Malformed.Add(1)
			return dst
		}
		s.stats.Connects.Add(1)
		dst = append(binary.BigEndian.AppendUint32(dst, ActionConnect), transaction...)
		return binary.BigEndian.AppendUint64(dst, s.connection(from.Addr(), now/connectionEpoch))
	}
	if action != ActionAnnounce && action != ActionScrape && (action != ActionPublish || s.cfg.Publish == nil) {
		s.stats.Malformed.Add(1)
		return dst
	}
	if !s.mayBe(id, from.Addr(), now) {
		s.stats.Strangers.Add(1)
		return fail(dst, transaction, b, ConnectAgain)
	}
	switch action {
	case ActionScrape:
		return s.scrape(b, dst)
	case ActionPublish:
		return s.publish(from.Addr(), b, dst)
	}
	a, ok := view(b)
	if !ok || a.port() == 0 {
		s.stats.Malformed.Add(1)
		return fail(dst, transaction, b, "malformed announce")
	}
	if s.cfg.Known != nil && !s.cfg.Known(a.swarm()) {
		s.stats.Unknown.Add(1)
		return fail(dst, transaction, b, "this tracker does not know that channel")
	}
	want := defaultWant
	if w := a.want(); w >= 0 {
		want = int(min(w, MaxPeers))
	}
	start := len(dst)
	dst = append(binary.BigEndian.AppendUint32(dst, ActionAnnounce), transaction...)
	dst = binary.BigEndian.AppendUint32(dst, s.cfg.Interval)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	// Its own port, which may differ from the one that it asks from.
	me := netip.AddrPortFrom(from.Addr(), a.port())
	dst, c, ok := s.cfg.Store.Announce(uint32(now), a.swarm(), me, a.event(), a.left() == 0, want, random, dst)
	if !ok {
		s.stats.Full.Add(1)
		return fail(dst[:start], transaction, b, "this tracker is full")
	}
	s.stats.Announces.Add(1)
	binary.BigEndian.PutUint32(dst[start+12:], c.Leechers)
	binary.BigEndian.PutUint32(dst[start+16:], c.Seeders)
	return dst
}

func (s *Server) scrape(b, dst []byte) []byte {
	ids := b[scrapeHead:]
	if len(ids) < swarmSize {
		s.stats.Malformed.Add(1)
		return fail(dst, b[12:16], b, "malformed scrape")
	}
	s.stats.Scrapes.Add(1)
	dst = append(binary.BigEndian.AppendUint32(dst, ActionScrape), b[12:16]...)
	for n := 0; len(ids) >= swarmSize && n < MaxScrape; n++ {
		id := SwarmID(ids)
		ids = ids[swarmSize:]
		var c Counts
		if s.cfg.Known == nil || s.cfg.Known(&id) {
			c = s.cfg.Store.Scrape(&id)
		}
		dst = binary.BigEndian.AppendUint32(dst, c.Seeders)
		dst = binary.BigEndian.AppendUint32(dst, c.Completed)
		dst = binary.BigEndian.AppendUint32(dst, c.Leechers)
	}
	return dst
}

func (s *Server) publish(from netip.Addr, b, dst []byte) []byte {
	item := b[publishHead:]
	if len(item) == 0 || len(item) > MaxItem {
		s.stats.Malformed.Add(1)
		return fail(dst, b[12:16], b, "malformed publish")
	}
	if err := s.cfg.Publish(from, item); err != nil {
		s.stats.Refused.Add(1)
		return fail(dst, b[12:16], b, err.Error())
	}
	s.stats.Published.Add(1)
	dst = append(binary.BigEndian.AppendUint32(dst, ActionPublish), b[12:16]...)
	return binary.BigEndian.AppendUint32(dst, s.cfg.Refresh)
}

// fail answers with an error, no longer than the request.
func fail(dst, transaction, request []byte, reason string) []byte {
	dst = append(binary.BigEndian.AppendUint32(dst, ActionError), transaction...)
	return append(dst, reason[:min(len(reason), maxReason, len(request)-8)]...)
}
