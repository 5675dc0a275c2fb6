// Package catalog keeps the signed descriptors of channels (channel.Descriptor, docs/protocol.md section 1.1) that a tracker or a
// viewer knows: the newest of each, no more than it was told to, found by id, by name and by the words of their texts. It tells which
// names look alike, what has changed since a version, and writes itself to a file.
//
// It trusts nobody: what it keeps has been verified, here, when it came in, from a network or from a file.
package catalog

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

const (
	// DefaultMax is how many channels a catalog knows where Config says nothing, MaxMax the most it can be told.
	DefaultMax = 100_000
	MaxMax     = 1_000_000
	// DefaultKeep is how long a channel stays that nobody publishes any more.
	DefaultKeep = 48 * time.Hour
	// MaxAhead is how far a seq, which is Unix seconds by convention, may be ahead of the clock. The newest seq wins, so one that was
	// set by mistake (milliseconds, a clock in 2099) could never be replaced by a right one and would lock its channel for ever. An
	// hour is what clocks on both sides may be wrong by; twice that is refused.
	MaxAhead = 2 * time.Hour
	// MaxLookAlikes is how many others an Entry names.
	MaxLookAlikes = 8
	// MaxNamed is how many entries Named returns.
	MaxNamed = 1000
	// MaxTrackers and MaxUnknown are how many trackers and unknown keys a descriptor may have here. A few bytes each in the item, they
	// are several times that when parsed.
	MaxTrackers = 32
	MaxUnknown  = 16

	// expireBatch is how many entries are dropped under one lock: some 30 µs each.
	expireBatch = 32
)

// What Put, Merge and Load say, beside the errors of channel.ParseDescriptor.
var (
	ErrStale   = errors.New("a newer descriptor of the channel is known")
	ErrFuture  = fmt.Errorf("the descriptor's seq is more than %d hours ahead of the clock", MaxAhead/time.Hour)
	ErrExpired = errors.New("the descriptor was signed too long ago")
	ErrFull    = errors.New("the catalog is full")
	ErrRefused = errors.New("the channel is not accepted here")
)

// Config of a Catalog. The zero Config is good.
type Config struct {
	// Max is how many channels are kept: DefaultMax if zero, at most MaxMax.
	Max int
	// Keep is how long a channel stays that is not published any more: DefaultKeep if zero.
	Keep time.Duration
	// Now is time.Now if nil.
	Now func() time.Time
	// Accept says whether a channel may be kept; nil accepts all. What it says of a channel that is known already does not remove it.
	Accept func(channel.ID) bool
	// OnChange gets every change in order, one at a time, before the method that made it returns. It may read from the catalog, but must
	// not call what changes it. Refreshing an entry is no change.
	OnChange func(Change)
}

// Entry is a channel as the catalog knows it. What it points to is shared: do not change it.
type Entry struct {
	Descriptor channel.Descriptor
	// Version is that of the catalog when the descriptor came in.
	Version uint64
	// First is when the channel was first heard of, Seen when it was last published, in whole seconds.
	First, Seen time.Time
	// LookAlikes are other channels whose names look the same as this one's, or are the same: at most MaxLookAlikes, those that were
	// known first come first.
	LookAlikes []channel.ID
}

// Kind of a Change.
type Kind uint8

// The kinds of change: a channel came, has a newer descriptor, or is gone.
const (
	Added Kind = iota + 1
	Changed
	Removed
)

// String is the kind's name in lower case.
func (k Kind) String() string {
	switch k {
	case Added:
		return "added"
	case Changed:
		return "changed"
	case Removed:
		return "removed"
	}
	return "kind " + strconv.Itoa(int(k))
}

// Change is what happened to an entry: as it is now, or was before it was removed.
type Change struct {
	Kind  Kind
	Entry Entry
}

// Catalog is a set of descriptors. Its methods may be called concurrently.
type Catalog struct {
	cfg  Config
	keep int64 // seconds
	seed maphash.Seed

	delivery sync.Mutex // held while OnChange runs, and so while it reads; locked before mu
	saving   sync.Mutex // one SaveFile at a time
	scratch  sync.Pool  // of *scratch

	mu      sync.RWMutex
	version uint64
	byID    map[channel.ID]uint32
	slots   []*entry     // by slot; nil where it is free
	attrs   []attributes // by slot
	free    []uint32
	changes []Change // not yet delivered

	byName     index // 16 bytes of entry.name; slot. Then the whole name, and first: the order of lists
	byExact    index // exact, first; slot
	bySkeleton index // one of skeletons, first; slot
	byVersion  index // version; slot
	bySeen     index // seen; slot
	words      index // 16 bytes of a word; see posting
}

// entry is what the catalog holds of a channel. All but seen stays as it is once it is in the catalog.
type entry struct {
	d           channel.Descriptor
	version     uint64
	first, seen int64 // Unix seconds
	slot        uint32
	name        string    // as lists are ordered and searched by
	exact       uint64    // hash of the name as Named compares it; 0 without one
	skeletons   [2]uint64 // hashes of what look-alikes have one of; 0 is none
}

// orders of entries, that of words not among them.
func (c *Catalog) orders(e *entry, do func(x *index, el element)) {
	do(&c.byName, element{pack(e.name, 0), e.slot})
	if e.exact != 0 {
		do(&c.byExact, element{key{e.exact, uint64(e.first)}, e.slot})
	}
	for _, s := range e.skeletons {
		if s != 0 {
			do(&c.bySkeleton, element{key{s, uint64(e.first)}, e.slot})
		}
	}
	do(&c.byVersion, element{key{hi: e.version}, e.slot})
	do(&c.bySeen, element{key{hi: uint64(e.seen)}, e.slot})
}

// attributes are hashes of what lists are filtered by. They lie together, since whole lists are walked by them.
type attributes struct{ language, primary, country, category uint64 }

// New makes an empty catalog.
func New(cfg Config) *Catalog {
	if cfg.Max <= 0 {
		cfg.Max = DefaultMax
	}
	cfg.Max = min(cfg.Max, MaxMax)
	if cfg.Keep <= 0 {
		cfg.Keep = DefaultKeep
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Catalog{cfg: cfg, keep: int64(cfg.Keep / time.Second), seed: maphash.MakeSeed(), byID: make(map[channel.ID]uint32)}
	// Versions begin with the clock, in microseconds, and so are greater than those before a restart: who pulls from where he was gets
	// everything again, instead of nothing.
	c.version = uint64(max(cfg.Now().UnixMicro(), 0))
	c.scratch.New = func() any { return new(scratch) }
	for _, x := range []*index{&c.byExact, &c.bySkeleton, &c.byVersion, &c.bySeen, &c.words} {
		x.cmp = element.compare
	}
	c.byName.cmp = func(a, b element) int {
		if order := a.key.compare(b.key); order != 0 {
			return order
		}
		x, y := c.slots[a.ref], c.slots[b.ref]
		return cmp.Or(strings.Compare(x.name, y.name), cmp.Compare(x.first, y.first), cmp.Compare(a.ref, b.ref))
	}
	return c
}

// oldest is the entry that was not seen for longest; there must be one.
func (c *Catalog) oldest() *entry { return c.slots[c.bySeen.lows[0].ref] }

// origin is where an item comes from, and so what it shows of its publisher.
type origin uint8

const (
	published origin = iota // who sent it is, or speaks for, its publisher, who is there now
	merged                  // from somebody else who knows it
	loaded                  // from our own file
)

// Put takes an item that was published: a BEP 44 mutable item, bencoded, as in channel.Descriptor.Item. It verifies it, and keeps it if
// it is newer than what is known of the channel; fresh says that it did. The item that is known already refreshes the entry, which costs
// no signature check, and neither do items that are refused as old. The argument is copied.
//
// Errors are ErrStale (a newer one is known, or another of the same seq), ErrFuture, ErrFull, ErrRefused, and those of
// channel.ParseDescriptor.
func (c *Catalog) Put(item []byte) (fresh bool, err error) { return c.put(item, published, 0, 0) }

// Merge takes an item that another catalog knows, as Put does, but for this: that somebody knows an item does not show that it is still
// published, so it refreshes nothing, and an entry counts as seen when its descriptor was signed (its seq). Else catalogs that tell each
// other all they know would keep what nobody publishes any more for ever. ErrExpired: it was signed longer ago than Config.Keep.
func (c *Catalog) Merge(item []byte) (fresh bool, err error) { return c.put(item, merged, 0, 0) }

// put does both, and loads: then first and seen count.
func (c *Catalog) put(item []byte, from origin, first, seen int64) (fresh bool, err error) {
	id, seq, ok := channel.PeekItem(item)
	if !ok {
		if _, err := channel.ParseDescriptor(item); err != nil {
			return false, err
		}
		return false, channel.ErrDescriptor
	}
	now := c.cfg.Now().Unix()
	switch from {
	case published:
		first, seen = now, now
	case merged:
		first, seen = now, min(seq, now)
	case loaded:
		first, seen = min(first, now), min(seen, now) // they may have been written with a wrong clock
	}
	if c.cfg.Accept != nil && !c.cfg.Accept(id) {
		return false, ErrRefused
	}
	c.mu.Lock()
	known, err := c.admit(id, seq, item, from, now, seen)
	c.mu.Unlock()
	if known || err != nil {
		return false, err
	}

	// What takes long is done without the lock.
	d, err := channel.ParseDescriptor(bytes.Clone(item))
	switch {
	case err != nil:
		return false, err
	case d.ID != id || d.Seq != seq:
		return false, channel.ErrDescriptor
	case len(d.Values.Trackers) > MaxTrackers:
		return false, fmt.Errorf("%w: more than %d trackers", channel.ErrDescriptor, MaxTrackers)
	case len(d.Values.Unknown) > MaxUnknown:
		return false, fmt.Errorf("%w: more than %d unknown keys", channel.ErrDescriptor, MaxUnknown)
	}
	d.Values.Trackers = slices.Clone(d.Values.Trackers) // without what append keeps in store
	d.Values.Unknown = slices.Clone(d.Values.Unknown)
	e := &entry{d: d, first: first, seen: seen, name: orderName(d.Values.Name), exact: c.hash(exactName(d.Values.Name))}
	for i, s := range skeletons(d.Values.Name) {
		e.skeletons[i] = c.hash(s)
	}
	words := entryWords(&d.Values)
	attrs := c.attributes(d.Values.Language, d.Values.Country, d.Values.Category)

	c.mu.Lock()
	known, err = c.admit(id, seq, item, from, now, seen) // it may have changed meanwhile, and so may what is accepted
	if !known && err == nil && c.cfg.Accept != nil && !c.cfg.Accept(id) {
		err = ErrRefused
	}
	if known || err != nil {
		c.mu.Unlock()
		return false, err
	}
	if slot, ok := c.byID[id]; ok {
		c.replace(c.slots[slot], e, words)
		c.attrs[slot] = attrs
		c.changed(Changed, e)
	} else {
		if len(c.byID) >= c.cfg.Max {
			c.remove(c.oldest())
		}
		c.add(e, words)
		c.attrs[e.slot] = attrs
		c.changed(Added, e)
	}
	c.mu.Unlock()
	c.deliver()
	return true, nil
}

// admit says what there is to say of an item without looking at its signature. known: it is the very item that the catalog has.
func (c *Catalog) admit(id channel.ID, seq int64, item []byte, from origin, now, seen int64) (known bool, err error) {
	slot, ok := c.byID[id]
	var e *entry
	if ok {
		e = c.slots[slot]
	}
	switch {
	case ok && bytes.Equal(e.d.Item, item):
		if from != merged {
			c.refresh(e, seen)
		}
		return true, nil
	case seq > now+int64(MaxAhead/time.Second):
		return false, ErrFuture
	case ok && seq <= e.d.Seq:
		return false, ErrStale
	case now-seen > c.keep:
		return false, ErrExpired
	case !ok && len(c.byID) >= c.cfg.Max && now-c.oldest().seen <= c.keep:
		return false, ErrFull
	}
	return false, nil
}

func (c *Catalog) refresh(e *entry, seen int64) {
	if seen <= e.seen {
		return
	}
	c.bySeen.remove(element{key{hi: uint64(e.seen)}, e.slot})
	e.seen = seen
	c.bySeen.insert(element{key{hi: uint64(e.seen)}, e.slot})
}

// add puts an entry whose channel is not known into a slot and all orders.
func (c *Catalog) add(e *entry, words []element) {
	if n := len(c.free); n > 0 {
		e.slot = c.free[n-1]
		c.free = c.free[:n-1]
	} else {
		e.slot = uint32(len(c.slots))
		c.slots = append(c.slots, nil)
		c.attrs = append(c.attrs, attributes{})
	}
	c.slots[e.slot] = e
	c.byID[e.d.ID] = e.slot
	c.version++
	e.version = c.version
	c.orders(e, (*index).insert)
	for _, p := range words {
		c.words.insert(p.in(e.slot))
	}
}

// replace puts an entry where the one was that it is newer than.
func (c *Catalog) replace(old, e *entry, words []element) {
	e.slot, e.first, e.seen = old.slot, old.first, max(old.seen, e.seen)
	c.version++
	e.version = c.version
	c.orders(old, (*index).remove)
	c.slots[e.slot] = e
	c.orders(e, (*index).insert)

	// Most often only the titles are new.
	before := entryWords(&old.d.Values)
	for len(before) > 0 || len(words) > 0 {
		order := 0
		switch {
		case len(before) == 0:
			order = 1
		case len(words) == 0:
			order = -1
		default:
			order = before[0].compare(words[0])
		}
		if order < 0 {
			c.words.remove(before[0].in(e.slot))
		}
		if order > 0 {
			c.words.insert(words[0].in(e.slot))
		}
		if order <= 0 {
			before = before[1:]
		}
		if order >= 0 {
			words = words[1:]
		}
	}
}

// remove takes an entry out, and says so.
func (c *Catalog) remove(e *entry) {
	c.changed(Removed, e)
	c.orders(e, (*index).remove)
	for _, p := range entryWords(&e.d.Values) {
		c.words.remove(p.in(e.slot))
	}
	delete(c.byID, e.d.ID)
	c.slots[e.slot] = nil
	c.attrs[e.slot] = attributes{}
	c.free = append(c.free, e.slot)
}

// changed notes a change that is to be told. Called with the lock held.
func (c *Catalog) changed(kind Kind, e *entry) {
	if c.cfg.OnChange != nil {
		c.changes = append(c.changes, Change{kind, c.entry(e)})
	}
}

// deliver tells what has changed. Called without the lock.
func (c *Catalog) deliver() {
	if c.cfg.OnChange == nil {
		return
	}
	c.delivery.Lock()
	defer c.delivery.Unlock()
	c.mu.Lock()
	changes := c.changes
	c.changes = nil
	c.mu.Unlock()
	for _, ch := range changes {
		c.cfg.OnChange(ch)
	}
}

// entry is how others see e. Called with the lock held.
func (c *Catalog) entry(e *entry) Entry {
	return Entry{Descriptor: e.d, Version: e.version, First: time.Unix(e.first, 0), Seen: time.Unix(e.seen, 0), LookAlikes: c.lookAlikes(e)}
}

func (c *Catalog) lookAlikes(e *entry) (ids []channel.ID) {
	var found []element // by first
	for _, s := range e.skeletons {
		if s == 0 {
			continue
		}
		n := 0
		c.bySkeleton.from(func(el element) bool { return el.hi >= s }, func(el element) bool {
			if n == MaxLookAlikes || el.hi != s {
				return false
			}
			if el.ref != e.slot {
				found = append(found, element{key{hi: el.lo}, el.ref})
				n++
			}
			return true
		})
	}
	slices.SortFunc(found, element.compare)
	for _, el := range slices.Compact(found) {
		if len(ids) < MaxLookAlikes {
			ids = append(ids, c.slots[el.ref].d.ID)
		}
	}
	return ids
}

// Get is the entry of a channel.
func (c *Catalog) Get(id channel.ID) (Entry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	slot, ok := c.byID[id]
	if !ok {
		return Entry{}, false
	}
	return c.entry(c.slots[slot]), true
}

// Named are the channels of a name, by case-folded NFC and of at most 128 bytes; those that were known first come first. Anybody may
// claim any name: at most MaxNamed are returned.
func (c *Catalog) Named(name string) (entries []Entry) {
	exact := c.hash(exactName(name))
	if exact == 0 {
		return nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	c.byExact.from(func(el element) bool { return el.hi >= exact }, func(el element) bool {
		if el.hi != exact || len(entries) == MaxNamed {
			return false
		}
		entries = append(entries, c.entry(c.slots[el.ref]))
		return true
	})
	return entries
}

// Since returns the items that came or changed after a version, oldest first, at most limit, and the version to go on from. Version 0 is
// before everything, and so is one that the catalog has not come to: it is another catalog's. What was removed is not named. The items
// are shared: do not change them.
func (c *Catalog) Since(version uint64, limit int) (items [][]byte, next uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if version > c.version {
		version = 0
	}
	if limit <= 0 {
		return nil, version
	}
	next = c.version
	c.byVersion.from(func(el element) bool { return el.hi > version }, func(el element) bool {
		e := c.slots[el.ref]
		items = append(items, e.d.Item)
		if len(items) == limit {
			next = e.version
			return false
		}
		return true
	})
	return items, next
}

// Version is the catalog's: it grows with every item that comes or changes.
func (c *Catalog) Version() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.version
}

// Len counts the channels.
func (c *Catalog) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.byID)
}

// Remove forgets a channel, and reports whether it was known. If it is still published it comes back: see Config.Accept.
func (c *Catalog) Remove(id channel.ID) bool {
	c.mu.Lock()
	slot, ok := c.byID[id]
	if ok {
		c.remove(c.slots[slot])
	}
	c.mu.Unlock()
	c.deliver()
	return ok
}

// Expire forgets what was not published for longer than Config.Keep, and reports how many that were. It holds others up for some
// milliseconds at most, however many there are. Call it every few minutes.
func (c *Catalog) Expire(now time.Time) (expired int) {
	for {
		n := c.expireSome(now.Unix())
		c.deliver()
		expired += n
		if n < expireBatch {
			return expired
		}
	}
}

func (c *Catalog) expireSome(now int64) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; n < expireBatch && len(c.byID) > 0; n++ {
		e := c.oldest()
		if now-e.seen <= c.keep {
			break
		}
		c.remove(e)
	}
	return n
}
