package mesh

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/link"
	"github.com/sixcast/sixcast/pkg/wire"
)

// bareOf returns the bare datagram behind a link tag, nil if there is none.
func bareOf(b []byte) []byte {
	if len(b) > wire.TagSize && b[0] >= 0x80 && (b[8] == wire.TypeShard || b[8] == wire.TypeManifest || b[8] == wire.TypeDescriptor) {
		return b[wire.TagSize:]
	}
	return nil
}

// TestHostileParent puts a relay between source and viewer that has completed
// the handshake, uses right tags and valid headers, and only then misbehaves.
// The viewer knows an honest relay too. No wrong byte may come out, the
// hostile one is dropped where it can be proved wrong, and the stream goes on.
func TestHostileParent(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var old [][]byte
	for _, c := range []struct {
		name   string
		caught bool // it can be proved to have lied
		tamper func(n int, b []byte) []byte
	}{
		{"alters shards", true, func(n int, b []byte) []byte {
			if d := bareOf(b); d != nil && d[0] == wire.TypeShard && n%7 == 0 {
				d[20+random.IntN(len(d)-20)] ^= 1 << random.IntN(8)
			}
			return b
		}},
		{"swaps the indexes of shards", true, func(n int, b []byte) []byte {
			if d := bareOf(b); d != nil && d[0] == wire.TypeShard && n%7 == 0 {
				d[1] ^= 1
			}
			return b
		}},
		{"invents manifests", true, func(n int, b []byte) []byte {
			if d := bareOf(b); d != nil && d[0] == wire.TypeManifest && n%3 == 0 {
				d[100+random.IntN(32)] ^= 0x10
			}
			return b
		}},
		{"invents a newer run", true, func(n int, b []byte) []byte {
			if d := bareOf(b); d != nil && d[0] == wire.TypeManifest && n > 100 {
				binary.BigEndian.PutUint64(d[8:], uint64(block.NewRun(epoch.Add(time.Hour), 5)))
			}
			return b
		}},
		{"names the far future in shards", false, func(n int, b []byte) []byte {
			if d := bareOf(b); d != nil && d[0] == wire.TypeShard && n%2 == 0 {
				binary.BigEndian.PutUint32(d[16:], 1<<30+uint32(n))
			}
			return b
		}},
		{"names unknown runs in shards", false, func(n int, b []byte) []byte {
			if d := bareOf(b); d != nil && d[0] == wire.TypeShard && n%2 == 0 {
				binary.BigEndian.PutUint64(d[8:], uint64(block.NewRun(epoch.Add(time.Hour), uint16(n))))
			}
			return b
		}},
		{"replays what it sent before", false, func(n int, b []byte) []byte {
			if d := bareOf(b); d != nil {
				old = append(old, slices.Clone(b))
				if n%2 == 0 {
					return slices.Clone(old[random.IntN(len(old))])
				}
			}
			return b
		}},
		{"withholds most shards", false, func(n int, b []byte) []byte {
			if d := bareOf(b); d != nil && d[0] == wire.TypeShard && n%5 != 0 {
				return nil
			}
			return b
		}},
		{"withholds manifests", false, func(n int, b []byte) []byte {
			if d := bareOf(b); d != nil && d[0] == wire.TypeManifest {
				return nil
			}
			return b
		}},
		{"cuts datagrams short", true, func(n int, b []byte) []byte {
			if d := bareOf(b); d != nil && n%3 == 0 {
				return b[:wire.TagSize+1+random.IntN(len(d)-1)]
			}
			return b
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old = nil
			w := newWorld(t, 11)
			s := newDefaultStation(t)
			id := s.key.ID()
			source := w.host("source", id, wan(), Config{})
			bad := w.host("bad", id, wan(), Config{})
			good := w.host("good", id, wan(), Config{})
			v := w.host("viewer", id, wan(), Config{})
			bad.dial(source)
			good.dial(source)
			v.dial(bad)
			w.at(time.Second, func() { v.dial(good) })
			n := 0
			w.tamper = func(from, to *host, b []byte) []byte {
				if from == bad && to == v && w.now > 4*time.Second {
					n++
					return c.tamper(n, b)
				}
				return b
			}
			s.feed(source, 0, 200)
			w.run(30 * time.Second)
			s.whole(t, v, 0) // which also compares every byte
			if got := v.saw(EventMisbehaved) > 0; got != c.caught {
				t.Errorf("dropped as misbehaving: %v, want %v", got, c.caught)
			}
			if held := len(v.ch.orphans); held > maxOrphans {
				t.Errorf("%d orphans are held", held)
			}
			st := v.node.Stats()
			t.Logf("forged %d refused %d orphans %d requests %d", st.Forged, st.Refused, st.Orphans, st.Requests)
		})
	}
}

// TestSpoofedAndFloodedViewerLosesNothing throws noise, well-formed shards
// behind guessed tags and handshakes from thousands of addresses at a viewer
// and at its relay.
func TestSpoofedAndFloodedViewerLosesNothing(t *testing.T) {
	w := newWorld(t, 12)
	s := newDefaultStation(t)
	id := s.key.ID()
	source := w.host("source", id, wan(), Config{})
	relay := w.host("relay", id, wan(), Config{})
	v := w.host("viewer", id, wan(), Config{})
	relay.dial(source)
	v.dial(relay)
	s.feed(source, 0, 150)
	random := rand.New(rand.NewPCG(3, 4))
	sent, answered := 0, 0
	flood := func(target *host, b []byte) {
		var a [16]byte
		a[0], a[1] = 0x20, 1
		binary.BigEndian.PutUint64(a[2:], random.Uint64())
		before := target.sent
		target.node.Receive(w.now, netip.AddrPortFrom(netip.AddrFrom16(a), 4000), b)
		target.node.Flush(w.now)
		sent += len(b)
		answered += target.sent - before
	}
	for i := range 15_000 {
		w.at(3*time.Second+time.Duration(i)*time.Millisecond, func() {
			for _, target := range []*host{relay, v} {
				noise := make([]byte, random.IntN(1300))
				for k := range noise {
					noise[k] = byte(random.Uint32())
				}
				flood(target, noise)
				hello := make([]byte, link.HelloSize)
				hello[0], hello[1], hello[2] = wire.TypeHello, wire.Version, 0x80
				for k := 3; k < 58; k++ {
					hello[k] = byte(random.Uint32())
				}
				clear(hello[10:26])
				flood(target, hello)
				shard := make([]byte, 8+20+1191)
				binary.BigEndian.PutUint64(shard, random.Uint64()|1<<63)
				shard[8] = wire.TypeShard
				binary.BigEndian.PutUint32(shard[12:], id.Tag())
				binary.BigEndian.PutUint64(shard[16:], uint64(v.run))
				flood(target, shard)
			}
		})
	}
	w.run(25 * time.Second)
	s.whole(t, v, 0)
	for _, h := range []*host{relay, v} {
		ls := h.node.links.Stats()
		if ls.PublicKeyOps > 15*4*300 {
			t.Errorf("%s: %d public-key operations in 15 s of flood", h.name, ls.PublicKeyOps)
		}
		t.Logf("%s: %+v", h.name, ls)
		if len(h.node.order) > 2 {
			t.Errorf("%s: %d links", h.name, len(h.node.order))
		}
	}
	if answered > 3*sent {
		t.Errorf("answered %d bytes to %d", answered, sent)
	}
}

// TestUnservedByNobody: a node with no upload serves nobody, and says so.
func TestUploadZeroServesNobody(t *testing.T) {
	w := newWorld(t, 13)
	s := newDefaultStation(t)
	id := s.key.ID()
	source := w.host("source", id, wan(), Config{})
	leech := w.host("leech", id, wan(), Config{})
	leech.node.cfg.Upload = 0
	leech.node.bucket.init(0, 0)
	v := w.host("viewer", id, wan(), Config{})
	leech.dial(source)
	v.dial(leech)
	s.feed(source, 0, 100)
	w.run(12 * time.Second)
	s.whole(t, leech, 0)
	if len(v.blocks) != 0 || v.saw(EventFull) == 0 {
		t.Errorf("%d blocks, %d refusals", len(v.blocks), v.saw(EventFull))
	}
}

// FuzzReceive throws anything at a node that has a live link and a channel.
func FuzzReceive(f *testing.F) {
	s := newStation(f, 1, block.NewRun(epoch, 1), blockTime, 152, 17)
	for _, d := range s.next(f, epoch, false)[:3] {
		f.Add(byte(0), d)
		f.Add(byte(1), d)
		f.Add(byte(2), d)
	}
	f.Add(byte(3), (&wire.Subscribe{Channel: s.key.ID().Tag(), Serial: 9, Feeds: wire.AllFeeds, First: 0}).Append(nil))
	f.Add(byte(3), (&wire.Request{Channel: s.key.ID().Tag(), Name: block.Name{Run: 1, Number: 5}, Shards: ^uint64(0)}).Append(nil))
	f.Add(byte(3), (&wire.State{Channel: s.key.ID().Tag(), Progress: wire.Progress{Run: ^block.Run(0), Newest: 1 << 31}}).Append(nil))
	f.Fuzz(func(t *testing.T, how byte, b []byte) {
		w := newWorld(t, 1)
		s := newStation(t, 1, block.NewRun(epoch, 1), blockTime, 20, 17)
		source := w.host("source", s.key.ID(), wan(), Config{})
		v := w.host("viewer", s.key.ID(), wan(), Config{})
		v.group = true
		v.ch.ListenToGroup()
		v.dial(source)
		s.feed(source, 0, 6)
		w.run(600 * time.Millisecond)
		switch how % 4 {
		case 0:
			v.node.Receive(w.now, source.addr, b)
		case 1:
			if nbs := v.ch.neighbours; len(nbs) > 0 && len(b) > 0 && len(b) <= wire.MaxDatagram {
				v.ch.bare(nbs[0], b)
			}
		case 2:
			v.node.ReceiveGroup(w.now, v.ch, source.addr, b)
		case 3:
			for _, p := range source.node.order {
				source.node.control(p, b)
			}
		}
		source.node.Flush(w.now)
		v.node.Flush(w.now)
		w.run(w.now + 400*time.Millisecond)
		for n, sum := range v.bytes {
			if want, ok := s.sums[n]; ok && sum != want {
				t.Errorf("block %d differs from what was sent", n)
			}
		}
	})
}
