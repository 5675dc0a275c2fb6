package udp

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

const (
	// sourceSlots is how many peers a socket remembers its own address for: about the links of a node (docs/protocol.md section 8).
	sourceSlots = 1024

	// A peer that has not been heard for sourceLife may be reached from any address of this host: what it knows may have gone.
	sourceLife = 5 * time.Second
)

// sources remembers to which address of this host each peer sends, so that the answer has that source address. A host has
// several (stable, temporary, of several providers: RFC 8981, RFC 6724), of which the kernel would choose by its own rules; and
// the peer's firewall lets through only what comes from the address that was written to.
//
// It is a direct-mapped table: a flood of spoofed senders can displace entries, which costs their peers this courtesy until they
// are heard again.
type sources struct {
	mu    sync.Mutex // held once a batch
	start time.Time
	seed  uint64
	table []source // nil: the socket has one address
}

type source struct {
	peer  netip.AddrPort
	local [16]byte
	heard time.Duration // since start
}

func (s *sources) init() {
	s.start, s.seed, s.table = time.Now(), rand.Uint64(), make([]source, sourceSlots)
}

func (s *sources) slot(peer netip.AddrPort) *source {
	a := peer.Addr().As16()
	h := (binary.LittleEndian.Uint64(a[:]) ^ s.seed) * 0x9e3779b97f4a7c15
	h = (h ^ h>>32 ^ binary.LittleEndian.Uint64(a[8:]) ^ uint64(peer.Port())) * 0xd6e8feb86659fd93
	return &s.table[h>>32%sourceSlots]
}

// heard notes that peer sent to local. Link-local addresses and loopback go without: their scope leaves no choice.
func (s *sources) heard(peer netip.AddrPort, local *[16]byte, now time.Duration) {
	a := netip.AddrFrom16(*local)
	if a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsLoopback() || peer.Addr().Zone() != "" {
		return
	}
	*s.slot(peer) = source{peer, *local, now}
}

// local returns the address to send to peer from, nil if the kernel is to choose.
func (s *sources) local(peer netip.AddrPort, now time.Duration) *[16]byte {
	e := s.slot(peer)
	if e.peer != peer || now-e.heard > sourceLife {
		return nil
	}
	return &e.local
}

func (s *sources) forget(peer netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.slot(peer); e.peer == peer {
		*e = source{}
	}
}
