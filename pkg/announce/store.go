package announce

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"sync"
)

// parts is how many locks a Store has.
const parts = 64

type part struct {
	mu     sync.Mutex
	swarms map[SwarmID]*swarm
	list   []*swarm
	peers  int // in all of them

	// Where it is looked for the expired.
	swept int // the swarm
	round int // how many peers there were when it began with the first, or more that came
	due   int // how many are to be looked at

	touched byte     // what swarm.touch has read, or it would be optimised away
	_       [64]byte // a cache line of its own
}

// Store keeps who is in which swarm. Its methods may be called concurrently. Of a million peers in swarms of ten each takes some
// 50 bytes.
type Store struct {
	seed  uint64
	life  uint32 // seconds
	most  int    // swarms a part
	parts [parts]part
}

// NewStore makes a store that forgets peers that have not announced themselves for so many seconds, and takes up to so many
// swarms. seed should be random and secret: it keeps others from choosing networks that fall into one bucket.
func NewStore(seed uint64, life uint32, swarms int) *Store {
	s := &Store{seed: seed, life: life, most: swarms/parts + 1}
	for i := range s.parts {
		s.parts[i].swarms = make(map[SwarmID]*swarm)
	}
	return s
}

// part is that of a swarm. Ids are hashes, but anybody may make one up: seed mixes them.
func (s *Store) part(id *SwarmID) *part {
	h, _ := bits.Mul64(binary.LittleEndian.Uint64(id[:])^s.seed, 0x9e3779b97f4a7c15)
	return &s.parts[h%parts]
}

// spread is the hash of a network.
func (s *Store) spread(network uint64) uint32 {
	hi, lo := bits.Mul64(network^s.seed, 0xd6e8feb86659fd93)
	hi, lo = bits.Mul64(hi^lo^s.seed>>7, 0xa0761d6478bd642f)
	return uint32(hi ^ lo)
}

// Announce lists from in a swarm, or takes it off with EventStopped, and appends up to want others to dst, 18 bytes each. now is in
// seconds. ok is false where the store has no room for another swarm.
func (s *Store) Announce(now uint32, id *SwarmID, from netip.AddrPort, event Event, seeder bool, want int, random uint32, dst []byte) (_ []byte, c Counts, ok bool) {
	p := s.part(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.swarms[*id]
	if w == nil {
		switch {
		case event == EventStopped:
			return dst, c, true
		case len(p.list) >= s.most:
			return dst, c, false
		}
		w = newSwarm(id, int32(len(p.list)))
		p.swarms[*id] = w
		p.list = append(p.list, w)
	}
	var a endpoint
	ip := from.Addr().As16()
	copy(a[:], ip[:])
	binary.BigEndian.PutUint16(a[16:], from.Port())
	h := s.spread(network(a[:]))
	before := w.count
	if event == EventStopped {
		w.remove(s, h, &a)
		want = 0
	} else {
		p.touched += w.touch(h, random, want)
		w.put(s, h, &a, newSeen(now, seeder))
	}
	p.peers += int(w.count) - int(before)
	if want > 0 {
		dst = w.some(s, h, &a, want, random, dst)
	}
	c = Counts{Seeders: w.seeders, Leechers: w.count - w.seeders}
	if w.count == 0 {
		p.drop(w)
	}
	return dst, c, true
}

// Scrape counts a swarm.
func (s *Store) Scrape(id *SwarmID) (c Counts) {
	p := s.part(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.swarms[*id]; w != nil {
		c = Counts{Seeders: w.seeders, Leechers: w.count - w.seeders}
	}
	return c
}

// Len counts swarms and peers.
func (s *Store) Len() (swarms, peers int) {
	for i := range s.parts {
		p := &s.parts[i]
		p.mu.Lock()
		swarms += len(p.list)
		peers += p.peers
		p.mu.Unlock()
	}
	return swarms, peers
}

// Sweep forgets expired peers in a part of the store, and goes on from there the next time: so many calls look through all, and one more.
// Until then they are named. It reports how many it forgot.
func (s *Store) Sweep(now uint32, calls int) (forgotten int) {
	for i := range s.parts {
		p := &s.parts[i]
		p.mu.Lock()
		p.round = max(p.round, p.peers)
		p.due = min(p.due+p.round/calls, p.round) + 1
		forgotten += p.sweep(s, now)
		p.mu.Unlock()
	}
	return forgotten
}

// sweep looks at as many peers as are due, or a few more.
func (p *part) sweep(s *Store, now uint32) (forgotten int) {
	for p.due > 0 && len(p.list) > 0 {
		if p.swept >= len(p.list) {
			p.swept, p.round = 0, p.peers
		}
		w := p.list[p.swept]
		before := w.count
		looked, round := w.sweep(s, now)
		p.due -= looked
		forgotten += int(before - w.count)
		p.peers -= int(before - w.count)
		switch {
		case w.count == 0:
			p.drop(w) // another one takes its place
		case round:
			p.swept++
		}
	}
	return forgotten
}

// drop forgets an empty swarm.
func (p *part) drop(w *swarm) {
	delete(p.swarms, w.id)
	last := len(p.list) - 1
	p.list[w.place] = p.list[last]
	p.list[w.place].place = w.place
	p.list[last] = nil
	p.list = p.list[:last]
}
