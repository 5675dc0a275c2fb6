package announce

import (
	"bytes"
	"encoding/binary"
	"slices"
)

const (
	// bucketLoad is how many peers a bucket has in the mean.
	bucketLoad = 256
	// MaxPer64 is how many peers of one /64 a swarm lists: that many people may sit behind one home's router, and whoever has a
	// whole /64 to himself cannot fill the list.
	MaxPer64 = 8
)

// swarm is who takes part in a channel. Its peers lie in buckets by the hash of the /64 of their address. This is linear hashing: one bucket
// is split at a time, so that growing never takes long.
type swarm struct {
	id      SwarmID
	place   int32 // in its part's list
	count   uint32
	seeders uint32
	split   uint32
	level   uint8 // there are 1<<level buckets, and split more
	swept   int   // the bucket that is looked through for the expired
	buckets []bucket
	first   [1]bucket // all that most swarms need
}

// bucket is peers in the order of their hash. One is found near where its hash would be if all hashes were as far from each other, which
// takes one look into memory; and answers name one after the other: memory is slow, but not in a row.
type bucket struct {
	peers []byte // addresses as messages have them, peerSize bytes each
	seen  []seen
}

// endpoint is a peer as messages have it.
type endpoint [peerSize]byte

// network is the /64 of an address.
func network(a []byte) uint64 { return binary.LittleEndian.Uint64(a) }

// seen is when somebody announced himself, in seconds of the store's clock, which may wrap, and 1 in its last bit for a seeder.
type seen uint32

func newSeen(now uint32, seeder bool) seen {
	if seeder {
		return seen(now<<1 | 1)
	}
	return seen(now << 1)
}

func (n seen) seeder() uint32 { return uint32(n & 1) }

// age is for how many seconds he has not.
func (n seen) age(now uint32) uint32 { return (now<<1 - uint32(n&^1)) >> 1 }

func (b *bucket) peer(k int) []byte { return b.peers[k*peerSize : (k+1)*peerSize] }

func (b *bucket) hash(s *Store, k int) uint32 { return s.spread(network(b.peers[k*peerSize:])) }

// guess is about where hash h is.
func (b *bucket) guess(h uint32) int { return int(uint64(h) * uint64(len(b.seen)) >> 32) }

// search finds the first place of a hash, or where it would be.
func (b *bucket) search(s *Store, h uint32) int {
	k := b.guess(h)
	for k > 0 && b.hash(s, k-1) >= h {
		k--
	}
	for k < len(b.seen) && b.hash(s, k) < h {
		k++
	}
	return k
}

// find returns a peer's place, or -1.
func (b *bucket) find(s *Store, h uint32, a *endpoint) int {
	for k := b.search(s, h); k < len(b.seen) && b.hash(s, k) == h; k++ {
		if bytes.Equal(b.peer(k), a[:]) {
			return k
		}
	}
	return -1
}

func (b *bucket) insert(k int, a *endpoint, at seen) {
	if len(b.seen) == cap(b.seen) {
		b.resize()
	}
	b.peers = slices.Insert(b.peers, k*peerSize, a[:]...)
	b.seen = slices.Insert(b.seen, k, at)
}

// resize makes room for a few more than there are, and gives back what is beyond.
func (b *bucket) resize() {
	n := len(b.seen)
	n += max(4, n/16)
	b.seen = append(slices.Grow([]seen(nil), n), b.seen...)
	b.peers = append(slices.Grow([]byte(nil), cap(b.seen)*peerSize), b.peers...)
}

// name appends the peers from one place up to another to dst, at most want, and returns how many are still wanted.
func (b *bucket) name(dst []byte, from, to, want int) ([]byte, int) {
	n := min(want, to-from)
	return append(dst, b.peers[from*peerSize:(from+n)*peerSize]...), want - n
}

// keep leaves those in the bucket that stay, and calls gone with the others.
func (b *bucket) keep(stays func(k int) bool, gone func(k int)) {
	n := 0
	for k := range b.seen {
		if !stays(k) {
			gone(k)
			continue
		}
		if n != k {
			copy(b.peer(n), b.peer(k))
			b.seen[n] = b.seen[k]
		}
		n++
	}
	b.peers, b.seen = b.peers[:n*peerSize], b.seen[:n]
	if cap(b.seen) > n+n/4+8 {
		b.resize()
	}
}

func newSwarm(id *SwarmID, place int32) *swarm {
	w := &swarm{id: *id, place: place}
	w.buckets = w.first[:]
	return w
}

// bucket is which one a hash falls into.
func (w *swarm) bucket(h uint32) int {
	i := h & (1<<w.level - 1)
	if i < w.split {
		i = h & (1<<(w.level+1) - 1)
	}
	return int(i)
}

// put lists a peer of hash h. Where its /64 has MaxPer64 already, the one that was not heard of for longest makes room.
func (w *swarm) put(s *Store, h uint32, a *endpoint, at seen) {
	b := &w.buckets[w.bucket(h)]
	first := b.search(s, h)
	alike, oldest, place := 0, -1, -1
	for k := first; k < len(b.seen) && b.hash(s, k) == h; k++ {
		p := b.peer(k)
		if network(p) != network(a[:]) {
			continue
		}
		if bytes.Equal(p, a[:]) {
			place = k
			break
		}
		alike++
		if now := uint32(at >> 1); oldest < 0 || b.seen[k].age(now) > b.seen[oldest].age(now) {
			oldest = k
		}
	}
	if place < 0 && alike >= MaxPer64 {
		place = oldest
	}
	if place >= 0 {
		w.seeders += at.seeder() - b.seen[place].seeder()
		copy(b.peer(place), a[:])
		b.seen[place] = at
		return
	}
	b.insert(first, a, at)
	w.count++
	w.seeders += at.seeder()
	if int(w.count) > bucketLoad*len(w.buckets) {
		w.grow(s)
	}
}

// remove takes a peer off the list.
func (w *swarm) remove(s *Store, h uint32, a *endpoint) {
	b := &w.buckets[w.bucket(h)]
	if place := b.find(s, h, a); place >= 0 {
		b.keep(func(k int) bool { return k != place }, w.uncount(b))
	}
}

// uncount is what becomes of those that leave a bucket for good.
func (w *swarm) uncount(b *bucket) func(k int) {
	return func(k int) {
		w.count--
		w.seeders -= b.seen[k].seeder()
	}
}

// grow splits the next bucket in two.
func (w *swarm) grow(s *Store) {
	b := &w.buckets[w.split]
	var moved bucket
	b.keep(
		func(k int) bool { return b.hash(s, k)>>w.level&1 == 0 },
		func(k int) {
			moved.peers, moved.seen = append(moved.peers, b.peer(k)...), append(moved.seen, b.seen[k])
		},
	)
	moved.resize()
	w.buckets = append(w.buckets, moved)
	if w.split++; w.split == 1<<w.level {
		w.level, w.split = w.level+1, 0
	}
}

// shrink undoes the last split.
func (w *swarm) shrink(s *Store) {
	if w.split == 0 {
		w.level--
		w.split = 1 << w.level
	}
	w.split--
	last := len(w.buckets) - 1
	from, to := &w.buckets[last], &w.buckets[w.split]
	for k := range from.seen {
		to.insert(to.search(s, from.hash(s, k)), (*endpoint)(from.peer(k)), from.seen[k])
	}
	*from = bucket{}
	w.buckets = w.buckets[:last]
}

// start is where an answer begins, as random has it: a bucket, and a place in it.
func (w *swarm) start(random uint32) (first, skip int) {
	first = int(uint64(random) * uint64(len(w.buckets)) >> 32)
	return first, w.buckets[first].guess(random * 0x9e3779b1)
}

// touch reads a byte of each line of memory that is needed to list a peer of hash h and to answer him, so that all are waited for at once.
func (w *swarm) touch(h, random uint32, want int) (sum byte) {
	first, skip := w.start(random)
	b := &w.buckets[first]
	for k := skip * peerSize; k < min((skip+want)*peerSize, len(b.peers)); k += 64 {
		sum += b.peers[k]
	}
	b = &w.buckets[w.bucket(h)]
	if k := b.guess(h); k < len(b.seen) {
		sum += byte(b.seen[k])
		sum += b.peers[k*peerSize]
	}
	return sum
}

// some appends up to want peers but a, whose hash is h, beginning at start(random).
func (w *swarm) some(s *Store, h uint32, a *endpoint, want int, random uint32, dst []byte) []byte {
	first, skip := w.start(random)
	mine := w.bucket(h)
	// Round all buckets, and back to what was skipped of the first.
	for i := 0; i <= len(w.buckets) && want > 0; i++ {
		at := (first + i) % len(w.buckets)
		b := &w.buckets[at]
		from, to := 0, len(b.seen)
		switch i {
		case 0:
			from = skip
		case len(w.buckets):
			to = skip
		}
		if at == mine {
			if k := b.find(s, h, a); from <= k && k < to {
				dst, want = b.name(dst, from, k, want)
				from = k + 1
			}
		}
		dst, want = b.name(dst, from, to, want)
	}
	return dst
}

// sweep forgets the expired of the next bucket. It reports how many peers it looked at, and whether that was the last bucket.
func (w *swarm) sweep(s *Store, now uint32) (looked int, round bool) {
	if w.swept >= len(w.buckets) {
		w.swept = 0
	}
	looked = len(w.buckets[w.swept].seen)
	w.expire(s, w.swept, now)
	if last := len(w.buckets) - 1; last > 0 && int(w.count) < bucketLoad*last/2 {
		w.expire(s, last, now) // where they go may have been looked through
		w.shrink(s)
	}
	w.swept++
	return looked, w.swept >= len(w.buckets)
}

// expire forgets the expired of a bucket.
func (w *swarm) expire(s *Store, i int, now uint32) {
	b := &w.buckets[i]
	b.keep(func(k int) bool { return b.seen[k].age(now) <= s.life }, w.uncount(b))
}
