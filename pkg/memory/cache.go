package memory

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

const (
	// MaxChannels and MaxPeers of each are remembered, for MaxAge.
	MaxChannels = 1000
	MaxPeers    = 32
	MaxAge      = 30 * 24 * time.Hour

	// slack is how far a book may outgrow MaxChannels before it is trimmed.
	slack = 128
	// born is the beginning of 2026: a clock that says less is not set.
	born stamp = 1767225600
)

// stamp is a time in Unix seconds, good until 2106.
type stamp uint32

func stampOf(t time.Time) stamp { return stamp(min(max(t.Unix(), 0), math.MaxUint32)) }

// clamp takes a time in the future for now, where now is known.
func (s stamp) clamp(now stamp) stamp {
	if now < born {
		return s
	}
	return min(s, now)
}

func (s stamp) old(now stamp) bool {
	return now >= born && now > s && time.Duration(now-s)*time.Second > MaxAge
}

// Peer is a peer of a channel as it was met.
type Peer struct {
	Addr netip.AddrPort
	Seen time.Time // when; zero is now
	Fed  bool      // it fed us then
}

// peer is what is remembered of one.
type peer struct {
	addr      netip.AddrPort
	seen, fed stamp // fed: 0 if it never did
}

// entry is what is remembered of a channel, or to be added to it. The item's bytes never change.
type entry struct {
	item  []byte // nil: none
	name  uint64 // nameHash of the descriptor's name
	used  stamp
	peers []peer
	// What the item says once it has been verified; nil until somebody asks.
	verified *channel.Descriptor
}

// verify drops an item that is not id's.
func (e *entry) verify(id channel.ID) {
	if e.verified == nil && len(e.item) > 0 {
		if d, err := channel.ParseDescriptor(e.item); err == nil && d.ID == id {
			e.verified = &d
		} else {
			e.item, e.name = nil, 0
		}
	}
}

// adopt takes over what has been verified of the same item.
func (e *entry) adopt(old *entry) {
	if e.verified == nil && old.verified != nil && bytes.Equal(e.item, old.item) {
		e.item, e.verified = old.item, old.verified
	}
}

// fed tells whether anybody fed us the channel.
func (e *entry) fed() bool {
	return slices.ContainsFunc(e.peers, func(p peer) bool { return p.fed > 0 })
}

// merge adds what o says of the same channel: the newer descriptor, the latest times.
func (e *entry) merge(id channel.ID, o *entry) {
	e.used = max(e.used, o.used)
	e.adopt(o)
	if len(o.item) > 0 && !bytes.Equal(e.item, o.item) {
		o := entry{item: o.item, name: o.name, verified: o.verified}
		if len(e.item) > 0 { // which is newer can be believed of verified ones only
			e.verify(id)
			o.verify(id)
		}
		if len(e.item) == 0 || o.verified != nil && o.verified.Seq > e.verified.Seq {
			e.item, e.name, e.verified = o.item, o.name, o.verified
		}
	}
	for _, p := range o.peers {
		i := slices.IndexFunc(e.peers, func(q peer) bool { return q.addr == p.addr })
		if i < 0 {
			if e.peers = append(e.peers, p); len(e.peers) >= 2*MaxPeers {
				e.peers = best(e.peers)
			}
			continue
		}
		q := &e.peers[i]
		q.seen, q.fed = max(q.seen, p.seen), max(q.fed, p.fed)
	}
	if len(e.peers) > MaxPeers {
		e.peers = best(e.peers)
	}
}

// best puts peers in the order they are to be tried in, in place, and keeps MaxPeers: first who fed us, the last one first, but every
// network (/48) once before any is named twice; then all others likewise.
func best(peers []peer) []peer {
	slices.SortFunc(peers, func(a, b peer) int {
		return cmp.Or(cmp.Compare(b.fed, a.fed), cmp.Compare(b.seen, a.seen), a.addr.Compare(b.addr))
	})
	type place struct {
		peer
		turn int
	}
	type network struct {
		prefix [6]byte
		fed    bool
	}
	places := make([]place, len(peers))
	turns := make(map[network]int, len(peers))
	for i, p := range peers {
		a := p.addr.Addr().As16()
		n := network{[6]byte(a[:6]), p.fed > 0}
		places[i] = place{p, turns[n]}
		turns[n]++
	}
	slices.SortStableFunc(places, func(a, b place) int {
		if (a.fed > 0) != (b.fed > 0) {
			return cmp.Compare(b.fed, a.fed)
		}
		return cmp.Compare(a.turn, b.turn)
	})
	peers = peers[:min(len(places), MaxPeers)]
	for i := range peers {
		peers[i] = places[i].peer
	}
	return peers
}

// usable tells whether a may be kept and tried: an address that is the same host's wherever we are, and no IPv4 in disguise.
// Link-local addresses are not, even with a zone: interfaces change their names, and the link finds those peers by itself.
func usable(a netip.AddrPort, loopback bool) bool {
	ip := a.Addr()
	if !ip.Is6() || ip.Zone() != "" || a.Port() == 0 {
		return false
	}
	if ip.IsLoopback() {
		return loopback
	}
	b := ip.As16()
	// 0::/8 holds ::, the mapped, compatible and translated IPv4 addresses; fec0::/10 was site-local.
	return ip.IsGlobalUnicast() && b[0] != 0 && (b[0] != 0xfe || b[1]&0xc0 != 0xc0)
}

// book holds channels.
type book map[channel.ID]*entry

// add merges e in, which is not kept but for its item.
func (b book) add(id channel.ID, e *entry) {
	mine := b[id]
	if mine == nil {
		mine = &entry{}
		b[id] = mine
	}
	mine.merge(id, e)
	if len(b) > MaxChannels+slack {
		b.limit()
	}
}

// latest are the channels, the last used first.
func (b book) latest() []channel.ID {
	ids := make([]channel.ID, 0, len(b))
	for id := range b {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(x, y channel.ID) int {
		return cmp.Or(cmp.Compare(b[y].used, b[x].used), bytes.Compare(x[:], y[:]))
	})
	return ids
}

// limit keeps MaxChannels: those that were only heard of go first, then those not used for longest.
func (b book) limit() {
	if len(b) <= MaxChannels {
		return
	}
	ids := b.latest()
	var order []channel.ID
	for _, fed := range []bool{true, false} {
		for _, id := range ids {
			if b[id].fed() == fed {
				order = append(order, id)
			}
		}
	}
	for _, id := range order[MaxChannels:] {
		delete(b, id)
	}
}

// trim drops what is too old or too much.
func (b book) trim(now stamp) {
	for id, e := range b {
		e.peers = slices.DeleteFunc(e.peers, func(p peer) bool { return p.seen.old(now) })
		if e.used.old(now) || len(e.item) == 0 && len(e.peers) == 0 {
			delete(b, id)
		}
	}
	b.limit()
}

// RememberChannel keeps a descriptor, a BEP 44 item, if it is newer than what is known of its channel; either way the channel counts as
// used now. The item is copied. Errors are those of channel.ParseDescriptor.
func (m *Memory) RememberChannel(item []byte) error {
	d, err := channel.ParseDescriptor(bytes.Clone(item))
	if err != nil {
		return err
	}
	m.remember(d.ID, &entry{item: d.Item, name: nameHash(d.Values.Name), used: m.now(), verified: &d})
	return nil
}

// RememberPeers keeps peers of a channel. Those whose address means nothing elsewhere or later are left out, silently: all but
// global and unique local unicast addresses (and loopback, see Options). So is what was seen longer than MaxAge ago.
func (m *Memory) RememberPeers(id channel.ID, peers []Peer) {
	now := m.now()
	e := &entry{used: now}
	for _, p := range peers {
		seen := now
		if !p.Seen.IsZero() {
			seen = stampOf(p.Seen).clamp(now)
		}
		if !usable(p.Addr, m.opts.Loopback) || seen.old(now) {
			continue
		}
		add := peer{addr: p.Addr, seen: seen}
		if p.Fed {
			add.fed = seen
		}
		e.peers = append(e.peers, add)
	}
	if len(e.peers) > 0 && !id.IsZero() {
		m.remember(id, e)
	}
}

// Channels are all descriptors, of the channel that was last used first. They share memory: do not change them. The first call verifies
// all signatures, for some 50 µs each.
func (m *Memory) Channels() []channel.Descriptor {
	return m.descriptors(func(channel.ID, *entry) bool { return true })
}

// Channel is the descriptor of a channel, if it is remembered. It is shared: do not change it.
func (m *Memory) Channel(id channel.ID) (channel.Descriptor, bool) {
	found := m.descriptors(func(i channel.ID, _ *entry) bool { return i == id })
	if len(found) == 0 {
		return channel.Descriptor{}, false
	}
	return found[0], true
}

// Named are the descriptors with a name, compared as Check compares names, the last used first. Anybody can give a channel
// any name: see Check.
func (m *Memory) Named(name string) []channel.Descriptor {
	hash, folded := nameHash(name), channel.FoldName(name)
	found := m.descriptors(func(_ channel.ID, e *entry) bool { return hash != 0 && e.name == hash })
	return slices.DeleteFunc(found, func(d channel.Descriptor) bool { return channel.FoldName(d.Values.Name) != folded })
}

func (m *Memory) descriptors(want func(channel.ID, *entry) bool) (out []channel.Descriptor) {
	now := m.now()
	// Signatures are verified without the lock: a thousand take a while.
	m.mu.Lock()
	held := book{}
	for id, e := range m.channels {
		if len(e.item) > 0 && !e.used.old(now) && want(id, e) {
			held[id] = &entry{item: e.item, name: e.name, used: e.used, verified: e.verified}
		}
	}
	m.mu.Unlock()
	ids := held.latest()
	for _, id := range ids {
		held[id].verify(id)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		h, e := held[id], m.channels[id]
		switch {
		case h.verified != nil:
			out = append(out, *h.verified)
			if e != nil {
				e.adopt(h)
			}
		case e != nil && e.verified == nil:
			e.verify(id) // which drops it
		}
	}
	return out
}

// Peers are the addresses of a channel's peers in the order they are to be tried in: those that fed us before others, the latest first, and
// every network (/48) once before any comes twice. At most MaxPeers.
func (m *Memory) Peers(id channel.ID) []netip.AddrPort {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.channels[id]
	if e == nil {
		return nil
	}
	peers := best(slices.DeleteFunc(slices.Clone(e.peers), func(p peer) bool { return p.seen.old(now) }))
	out := make([]netip.AddrPort, len(peers))
	for i, p := range peers {
		out[i] = p.addr
	}
	return out
}

// The cache file, as the package comment has it.
const (
	magic     = "\xf6S6\x01"
	frameSize = len(magic) + 2 + 4
	fixedSize = channel.IDSize + 4 + 8 + 2 + 1
	peerSize  = 16 + 2 + 4 + 4
	maxBody   = fixedSize + channel.MaxItem + MaxPeers*peerSize
	// maxCache is how many bytes are read: twice what MaxChannels take.
	maxCache = 4 << 20
	// maxDamage is how many records may be damaged before the rest is given up: finding where the next begins is work.
	maxDamage = 4 * MaxChannels
)

// encode writes the last used first, so that a file that is cut off loses the least.
func (b book) encode() []byte {
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	out := []byte{}
	for _, id := range b.latest() {
		e := b[id]
		start := len(out)
		out = append(out, magic...)
		out = append(out, make([]byte, frameSize-len(magic))...)
		out = append(out, id[:]...)
		out = binary.BigEndian.AppendUint32(out, uint32(e.used))
		out = binary.BigEndian.AppendUint64(out, e.name)
		out = binary.BigEndian.AppendUint16(out, uint16(len(e.item)))
		out = append(out, e.item...)
		out = append(out, byte(len(e.peers)))
		for _, p := range e.peers {
			a := p.addr.Addr().As16()
			out = append(out, a[:]...)
			out = binary.BigEndian.AppendUint16(out, p.addr.Port())
			out = binary.BigEndian.AppendUint32(out, uint32(p.seen))
			out = binary.BigEndian.AppendUint32(out, uint32(p.fed))
		}
		body := out[start+frameSize:]
		binary.BigEndian.PutUint16(out[start+len(magic):], uint16(len(body)))
		binary.BigEndian.PutUint32(out[start+len(magic)+2:], crc32.Checksum(body, castagnoli))
	}
	return out
}

// decode reads what it can of a file, and says how many bytes it could not. Times in the future are now. Items alias b and are
// not verified yet.
func decode(b []byte, now stamp, loopback bool) (all book, damaged int) {
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	all = book{}
	if len(b) > maxCache {
		damaged = len(b) - maxCache
		b = b[:maxCache]
	}
	for bad := 0; len(b) > 0; {
		if bytes.HasPrefix(b, []byte(magic)) && len(b) >= frameSize {
			n := int(binary.BigEndian.Uint16(b[len(magic):]))
			sum := binary.BigEndian.Uint32(b[len(magic)+2:])
			if n <= min(maxBody, len(b)-frameSize) && crc32.Checksum(b[frameSize:frameSize+n], castagnoli) == sum {
				if id, e, ok := decodeBody(b[frameSize:frameSize+n], now, loopback); ok {
					if all[id] == nil { // we write none twice
						all[id] = e
					}
					b = b[frameSize+n:]
					continue
				}
			}
		}
		next := bytes.Index(b[1:], []byte(magic)) + 1
		if bad++; next == 0 || bad > maxDamage {
			return all, damaged + len(b)
		}
		damaged += next
		b = b[next:]
	}
	return all, damaged
}

func decodeBody(b []byte, now stamp, loopback bool) (id channel.ID, e *entry, ok bool) {
	if len(b) < fixedSize {
		return id, nil, false
	}
	id = channel.ID(b)
	b = b[channel.IDSize:]
	e = &entry{used: stamp(binary.BigEndian.Uint32(b)).clamp(now), name: binary.BigEndian.Uint64(b[4:])}
	n := int(binary.BigEndian.Uint16(b[12:]))
	b = b[14:]
	if n > channel.MaxItem || n >= len(b) || id.IsZero() {
		return id, nil, false
	}
	if n > 0 {
		e.item = b[:n:n]
	}
	count := int(b[n])
	b = b[n+1:]
	if count > MaxPeers || len(b) != count*peerSize {
		return id, nil, false
	}
	e.peers = make([]peer, 0, count)
	for ; len(b) > 0; b = b[peerSize:] {
		p := peer{
			addr: netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)), binary.BigEndian.Uint16(b[16:])),
			seen: stamp(binary.BigEndian.Uint32(b[18:])).clamp(now),
			fed:  stamp(binary.BigEndian.Uint32(b[22:])).clamp(now),
		}
		if usable(p.addr, loopback) {
			e.peers = append(e.peers, p)
		}
	}
	return id, e, true
}
