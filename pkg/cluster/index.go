package cluster

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

const (
	// buckets is how many parts the ids are in, by their first ten bits.
	buckets = 1 << bucketBits

	bucketBits = 10
	// maxRefused is how many items are remembered that the store did not want, so that they are not fetched again and again.
	maxRefused = 1 << 17
	// The store is read anew every rereadEvery, for it may have forgotten some; what it refused is offered again after refusedTime, after fullTime
	// if no more could be remembered. Until then only newer versions of what is known are fetched.
	rereadEvery = 5 * time.Minute
	refusedTime = time.Hour
	fullTime    = 10 * time.Minute
	// sincePage is how many items are asked of the store at once.
	sincePage = 4096
)

// highest is the last of all ids.
var highest = channel.ID(bytes.Repeat([]byte{0xff}, channel.IDSize))

// entry is a channel's descriptor, seq its newest version that needs no fetching: the item's, or one that the store refused.
type entry struct {
	id   channel.ID
	seq  int64
	item []byte // the store's own; nil: it has none
}

// bucket has its entries in order, one an id, unless dirty.
type bucket struct {
	entries []entry
	dirty   bool
	sum     uint64
}

// index is what the store holds, and what it refused, in the order of the ids. Two nodes with equal sums need nothing of each other.
type index struct {
	store Store
	now   func() time.Time

	mu      sync.Mutex
	version uint64
	reread  time.Time
	retry   time.Time // when what was refused is forgotten
	refused int
	buckets [buckets]bucket
}

func newIndex(store Store, now func() time.Time) *index {
	return &index{store: store, now: now, reread: now().Add(rereadEvery), retry: now().Add(refusedTime)}
}

func bucketOf(id *channel.ID) int { return int(binary.BigEndian.Uint16(id[:]) >> (16 - bucketBits)) }

// next is the id after id, which is not the highest.
func next(id channel.ID) channel.ID {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i]++; id[i] != 0 {
			break
		}
	}
	return id
}

// catchUp reads what is new in the store. Called with the lock held.
func (x *index) catchUp() {
	now := x.now()
	if !now.Before(x.reread) {
		again := !now.Before(x.retry)
		x.reread, x.version, x.refused = now.Add(rereadEvery), 0, 0
		for i := range x.buckets {
			b := &x.buckets[i]
			b.entries = slices.DeleteFunc(b.entries, func(e entry) bool { return again || e.item != nil })
			b.dirty = true
			x.refused += len(b.entries)
		}
		if again {
			x.retry = now.Add(refusedTime)
		}
	}
	for {
		items, version := x.store.Since(x.version, sincePage)
		for _, item := range items {
			if id, seq, ok := channel.PeekItem(item); ok {
				x.add(entry{id, seq, item})
			}
		}
		if len(items) == 0 || version <= x.version {
			return
		}
		x.version = version
	}
}

func (x *index) add(e entry) {
	b := &x.buckets[bucketOf(&e.id)]
	b.entries, b.dirty = append(b.entries, e), true
}

// refuse remembers that the store does not want a version.
func (x *index) refuse(id channel.ID, seq int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.catchUp()
	known := false
	set := bucketSet{}
	set.add(bucketOf(&id))
	x.walk(&set, &id, &id, func(e *entry) bool { known = e.seq >= seq; return false })
	if known || x.refused == maxRefused {
		return
	}
	x.add(entry{id: id, seq: seq})
	if x.refused++; x.refused == maxRefused {
		if soon := x.now().Add(fullTime); soon.Before(x.retry) {
			x.retry = soon
		}
	}
}

// full tells that no more can be remembered as refused.
func (x *index) full() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.refused >= maxRefused
}

// tidy is a bucket in order. Called with the lock held.
func (x *index) tidy(i int) *bucket {
	b := &x.buckets[i]
	if !b.dirty {
		return b
	}
	slices.SortFunc(b.entries, func(a, b entry) int {
		// The newest first, and of one version the item before the refusal.
		return cmp.Or(bytes.Compare(a.id[:], b.id[:]), cmp.Compare(b.seq, a.seq), cmp.Compare(len(b.item), len(a.item)))
	})
	kept := b.entries[:0]
	for _, e := range b.entries {
		if last := len(kept) - 1; last < 0 || kept[last].id != e.id {
			kept = append(kept, e)
		} else if kept[last].item == nil {
			kept[last].item = e.item // an older version than was refused, for those who have none
		}
	}
	clear(b.entries[len(kept):])
	b.entries, b.dirty, b.sum = kept, false, 0
	if len(b.entries) > 0 {
		h := sha256.New()
		var line [entrySize]byte
		for i := range b.entries {
			copy(line[:], b.entries[i].id[:])
			binary.BigEndian.PutUint64(line[channel.IDSize:], uint64(b.entries[i].seq))
			h.Write(line[:])
		}
		b.sum = max(binary.BigEndian.Uint64(h.Sum(nil)), 1)
	}
	return b
}

func (x *index) digest(d *digest) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.catchUp()
	for i := range d {
		d[i] = x.tidy(i).sum
	}
}

// walk calls f with the entries from…to of some buckets, in order, until it says false.
func (x *index) walk(set *bucketSet, from, to *channel.ID, f func(*entry) bool) {
	for i := bucketOf(from); i <= bucketOf(to); i++ {
		if !set.has(i) {
			continue
		}
		entries := x.tidy(i).entries
		at, _ := slices.BinarySearchFunc(entries, from, func(e entry, id *channel.ID) int { return bytes.Compare(e.id[:], id[:]) })
		for ; at < len(entries); at++ {
			if e := &entries[at]; bytes.Compare(e.id[:], to[:]) > 0 || !f(e) {
				return
			}
		}
	}
}

// list fills in h.entries and h.to: as much as fits of h.buckets from h.from on.
func (x *index) list(h *have) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.catchUp()
	h.entries, h.to = nil, highest
	x.walk(&h.buckets, &h.from, &highest, func(e *entry) bool {
		if len(h.entries) == maxEntries {
			h.to = h.entries[maxEntries-1].id
			return false
		}
		h.entries = append(h.entries, entry{id: e.id, seq: e.seq})
		return true
	})
}

// answer is what h lacks, as much as fits into a message.
func (x *index) answer(h *have) *items {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.catchUp()
	m := &items{nonce: h.nonce, through: h.to}
	size, listed, last := itemsHead, h.entries, h.from
	x.walk(&h.buckets, &h.from, &h.to, func(e *entry) bool {
		for len(listed) > 0 && bytes.Compare(listed[0].id[:], e.id[:]) < 0 {
			listed = listed[1:]
		}
		known := len(listed) > 0 && listed[0].id == e.id
		_, seq, has := channel.PeekItem(e.item)
		if has && (known && seq > listed[0].seq || !known && !h.known) {
			if size += 2 + len(e.item); size > maxMessage {
				m.through = last
				return false
			}
			m.items = append(m.items, *e)
		}
		last = e.id
		return true
	})
	return m
}

// differing are the buckets in which who made d may have something for us.
func (x *index) differing(d *digest) (set bucketSet, any bool) {
	var mine digest
	x.digest(&mine)
	for i := range d {
		if d[i] != mine[i] && d[i] != 0 {
			set.add(i)
			any = true
		}
	}
	return set, any
}
