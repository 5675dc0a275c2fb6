package dht

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha1"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// What a node keeps for others. Full stores refuse: whoever comes later finds other nodes.
const (
	peerLife = 30 * time.Minute // BEP 5 names none; others use 15 to 45 minutes
	itemLife = 2 * time.Hour    // BEP 44

	maxSwarms       = 10_000
	maxPeers        = 30_000 // of all swarms; some 3 MB
	maxPeersOfSwarm = 200
	maxPeersPer64   = 8    // of one swarm
	maxPer64        = 500  // peers of all swarms, or items
	maxItems        = 4000 // some 5 MB
	maxItemValue    = 1000 // BEP 44
	maxSalt         = 64   // BEP 44
)

// tally counts what each /64 has in a store.
type tally map[uint64]int

func (t tally) drop(network uint64) {
	if t[network]--; t[network] <= 0 {
		delete(t, network)
	}
}

// peerStore holds announced peers.
type peerStore struct {
	mu     sync.Mutex
	swarms map[[20]byte][]storedPeer
	peers  int
	of64   tally
}

type storedPeer struct {
	addr netip.AddrPort
	seen time.Time
}

func newPeerStore() *peerStore {
	return &peerStore{swarms: map[[20]byte][]storedPeer{}, of64: tally{}}
}

// add returns false if there is no room.
func (s *peerStore) add(now time.Time, swarm [20]byte, peer netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now, swarm)
	all := s.swarms[swarm]
	net := network(peer.Addr())
	oldest, same := -1, 0 // of the same /64: its new peer takes the place of its oldest
	for i := range all {
		if all[i].addr == peer {
			all[i].seen = now
			return true
		}
		if network(all[i].addr.Addr()) == net {
			if same++; oldest < 0 || all[i].seen.Before(all[oldest].seen) {
				oldest = i
			}
		}
	}
	if same >= maxPeersPer64 {
		all[oldest] = storedPeer{peer, now}
		return true
	}
	if len(all) >= maxPeersOfSwarm || s.peers >= maxPeers || s.of64[net] >= maxPer64 || all == nil && len(s.swarms) >= maxSwarms {
		return false
	}
	s.swarms[swarm] = append(all, storedPeer{peer, now})
	s.peers++
	s.of64[net]++
	return true
}

// expire drops what is too old in one swarm. Called with the lock held.
func (s *peerStore) expire(now time.Time, swarm [20]byte) {
	all := s.swarms[swarm]
	kept := all[:0]
	for _, p := range all {
		if now.Sub(p.seen) < peerLife {
			kept = append(kept, p)
			continue
		}
		s.peers--
		s.of64.drop(network(p.addr.Addr()))
	}
	if len(kept) == 0 {
		delete(s.swarms, swarm)
		return
	}
	s.swarms[swarm] = kept
}

// sweep drops everything that is too old.
func (s *peerStore) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for swarm := range s.swarms {
		s.expire(now, swarm)
	}
}

// some lists at most n peers of a swarm that may be named to from, by chance.
func (s *peerStore) some(now time.Time, swarm [20]byte, from netip.AddrPort, n int) (peers []netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now, swarm)
	all := s.swarms[swarm]
	if len(all) == 0 {
		return nil
	}
	start := rand.IntN(len(all))
	for i := 0; i < len(all) && len(peers) < n; i++ {
		if p := all[(start+i)%len(all)].addr; tellable(from, p) {
			peers = append(peers, p)
		}
	}
	return peers
}

func (s *peerStore) len() (swarms, peers int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.swarms), s.peers
}

// item is a BEP 44 item, mutable if key is not nil.
type item struct {
	key, salt, sig []byte
	seq            int64
	value          []byte // bencoded
}

// target is where an item lies.
func (i *item) target() [20]byte {
	if i.key == nil {
		return sha1.Sum(i.value)
	}
	return sha1.Sum(append(bytes.Clone(i.key), i.salt...))
}

// signed is what BEP 44 has signed.
func (i *item) signed() (b []byte) {
	if len(i.salt) > 0 {
		b = appendString(append(b, "4:salt"...), i.salt...)
	}
	b = appendInt(append(b, "3:seq"...), i.seq)
	return append(append(b, "1:v"...), i.value...)
}

// Errors of BEP 5 and BEP 44 as they go over the wire.
type refusal struct {
	code int64
	text string
}

var (
	errServer    = &refusal{202, "full"}
	errProtocol  = &refusal{203, "malformed query"}
	errToken     = &refusal{203, "bad token"}
	errMethod    = &refusal{204, "method unknown"}
	errTooBig    = &refusal{205, "v is larger than 1000 bytes"}
	errSignature = &refusal{206, "signature does not match"}
	errSalt      = &refusal{207, "salt is larger than 64 bytes"}
	errCAS       = &refusal{301, "cas does not match"}
	errSeq       = &refusal{302, "a newer seq is known"}
)

// check tells what is wrong with an item on its own.
func (i *item) check() *refusal {
	switch {
	case len(i.value) == 0:
		return errProtocol
	case len(i.value) > maxItemValue:
		return errTooBig
	case i.key == nil:
		return nil
	case len(i.salt) > maxSalt:
		return errSalt
	case len(i.key) != ed25519.PublicKeySize:
		return errProtocol
	case len(i.sig) != ed25519.SignatureSize || !ed25519.Verify(i.key, i.signed(), i.sig):
		return errSignature
	}
	return nil
}

// itemStore holds items.
type itemStore struct {
	mu    sync.Mutex
	items map[[20]byte]*storedItem
	of64  tally
}

type storedItem struct {
	item
	from uint64 // the /64 that it came from
	seen time.Time
}

func newItemStore() *itemStore {
	return &itemStore{items: map[[20]byte]*storedItem{}, of64: tally{}}
}

// put takes an item that check has passed, and owns it. cas is the seq that the sender thinks is stored, nil if he does not say.
func (s *itemStore) put(now time.Time, i item, cas *int64, from netip.Addr) *refusal {
	target, net := i.target(), network(from)
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.items[target]
	if old != nil && now.Sub(old.seen) >= itemLife {
		s.drop(target)
		old = nil
	}
	if old != nil {
		switch {
		case cas != nil && *cas != old.seq:
			return errCAS
		case i.seq < old.seq, i.seq == old.seq && !bytes.Equal(i.value, old.value):
			return errSeq
		}
		old.item, old.seen = i, now
		return nil
	}
	if len(s.items) >= maxItems || s.of64[net] >= maxPer64 {
		return errServer
	}
	s.items[target] = &storedItem{i, net, now}
	s.of64[net]++
	return nil
}

// get returns an item that must not be changed.
func (s *itemStore) get(now time.Time, target [20]byte) (item, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.items[target]
	if i == nil || now.Sub(i.seen) >= itemLife {
		return item{}, false
	}
	return i.item, true
}

// drop is called with the lock held.
func (s *itemStore) drop(target [20]byte) {
	s.of64.drop(s.items[target].from)
	delete(s.items, target)
}

func (s *itemStore) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for target, i := range s.items {
		if now.Sub(i.seen) >= itemLife {
			s.drop(target)
		}
	}
}

func (s *itemStore) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.items)
}
