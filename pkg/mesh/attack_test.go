package mesh

import (
	"strings"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/wire"
)

// The attackers here have what every peer can have: a key, a link, a joined
// channel. What they say is valid on its own; it is the amount, or the lie in
// it, that hurts.

// say sends control messages on every link of h.
func (h *host) say(messages ...message) {
	for _, p := range h.node.order {
		if !p.link.Established() {
			continue
		}
		for _, m := range messages {
			p.tell(m.Append)
		}
	}
	h.node.Flush(h.w.now)
	h.wake()
}

type message interface{ Append([]byte) []byte }

// raw is a message of the link's own.
type raw struct {
	typ  uint8
	body string
}

func (r raw) Append(dst []byte) []byte { return wire.AppendMessage(dst, r.typ, []byte(r.body)) }

func times(n int, m message) (out []message) {
	for range n {
		out = append(out, m)
	}
	return out
}

// every repeats do from start to end.
func (w *world) every(start, end, step Time, do func()) {
	for at := start; at < end; at += step {
		w.at(at, do)
	}
}

// toll counts what travels between two hosts, bytes at the IP layer.
func (w *world) toll(a, b *host) (there, back *int) {
	there, back = new(int), new(int)
	next := w.tamper
	w.tamper = func(from, to *host, d []byte) []byte {
		switch {
		case from == a && to == b:
			*there += len(d) + wire.IPOverhead
		case from == b && to == a:
			*back += len(d) + wire.IPOverhead
		}
		if next != nil {
			return next(from, to, d)
		}
		return d
	}
	return there, back
}

// near is a link that lets an attacker say a lot.
func near() netem.Params { return netem.Params{Delay: 5 * time.Millisecond} }

func describe(t testing.TB, h *host, key channel.Key) {
	t.Helper()
	d, err := channel.SignDescriptor(key, 1, channel.Values{Name: "one", Description: strings.Repeat("long ", 180)})
	if err != nil {
		t.Fatal(err)
	}
	h.ch.Feed(h.w.now, channel.AppendDatagram(nil, d.Item))
}

func TestRepeatedJoinsAreNoAmplifier(t *testing.T) {
	w := newWorld(t, 21)
	s := newDefaultStation(t)
	id := s.key.ID()
	source := w.host("source", id, near(), Config{})
	bad := w.host("bad", id, near(), Config{})
	describe(t, source, s.key)
	bad.dial(source)
	w.run(time.Second)
	there, back := w.toll(bad, source)
	join := &wire.Join{Key: id, Tag: wire.TagBit | 7}
	w.every(time.Second, 11*time.Second, 10*time.Millisecond, func() { bad.say(times(20, join)...) })
	w.run(11 * time.Second)
	t.Logf("sent %d, answered with %d", *there, *back)
	if *back > *there {
		t.Errorf("%d bytes of JOIN were answered with %d", *there, *back)
	}
}

// A child has its backlog once; then the stream, and what it asks for again
// is bounded by what the stream takes.
func TestBacklogAgainAndAgain(t *testing.T) {
	for _, c := range []struct {
		name     string
		messages func(s *station, serial int, newest block.Number) []message
	}{
		{"nothing", func(*station, int, block.Number) []message { return nil }},
		{"subscribing", func(s *station, serial int, _ block.Number) (out []message) {
			for k := range 10 {
				out = append(out, &wire.Subscribe{Channel: s.key.ID().Tag(), Serial: uint16(serial*10 + k), Mask: wire.AllStripes, Manifest: true, SecondManifest: true, Run: s.enc.Next().Run, First: 0})
			}
			return out
		}},
		{"subscribing for the backlog only", func(s *station, serial int, _ block.Number) (out []message) {
			for k := range 10 {
				out = append(out, &wire.Subscribe{Channel: s.key.ID().Tag(), Serial: uint16(serial*10 + k), Mask: wire.AllStripes, Manifest: true, BackfillOnly: true, Run: s.enc.Next().Run, First: 0})
			}
			return out
		}},
		{"requesting shards", func(s *station, _ int, newest block.Number) (out []message) {
			for k := range block.Number(20) {
				out = append(out, &wire.Request{Channel: s.key.ID().Tag(), Name: block.Name{Run: s.enc.Next().Run, Number: newest - k}, Shards: ^uint64(0)})
			}
			return out
		}},
		{"requesting manifests", func(s *station, _ int, newest block.Number) (out []message) {
			for k := range block.Number(40) {
				out = append(out, &wire.Request{Channel: s.key.ID().Tag(), Name: block.Name{Run: s.enc.Next().Run, Number: newest - k}, Manifest: true})
			}
			return out
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 22)
			// Short blocks: 250 of them are kept, far more than are remembered
			// to have been sent.
			s := newStation(t, 1, block.NewRun(epoch, 1), 20*time.Millisecond, 38, 100)
			id := s.key.ID()
			source := w.host("source", id, near(), Config{})
			bad := w.host("bad", id, near(), Config{})
			bad.dial(source)
			s.feed(source, 0, 1250)
			w.run(10 * time.Second)
			_, back := w.toll(bad, source)
			serial := 10
			w.every(10*time.Second, 25*time.Second, 10*time.Millisecond, func() {
				serial++
				bad.say(c.messages(s, serial, source.ch.next-1)...)
			})
			w.run(25 * time.Second)
			stream := 15 * source.ch.Rate() / 8
			t.Logf("%.1f times the stream", float64(*back)/stream)
			if float64(*back) > 4.5*stream {
				t.Errorf("one child drew %.1f times the stream", float64(*back)/stream)
			}
		})
	}
}

// What one child asks for, over and over, must not take the place of what the
// others were promised.
func TestGreedyChildDoesNotStarveTheOthers(t *testing.T) {
	for _, c := range []struct {
		name     string
		messages func(s *station, newest block.Number) []message
	}{
		{"nothing", func(*station, block.Number) []message { return nil }},
		{"requests", func(s *station, newest block.Number) (out []message) {
			for k := range block.Number(20) {
				out = append(out, &wire.Request{Channel: s.key.ID().Tag(), Name: block.Name{Run: s.enc.Next().Run, Number: newest - k}, Manifest: true, Shards: ^uint64(0)})
			}
			return out
		}},
		{"pings", func(*station, block.Number) []message {
			return []message{raw{wire.MsgPing, "1234"}}
		}},
		{"joins", func(s *station, _ block.Number) []message {
			return times(20, &wire.Join{Key: s.key.ID(), Tag: wire.TagBit | 7})
		}},
		{"states", func(s *station, newest block.Number) (out []message) {
			for k := range block.Number(30) {
				out = append(out, &wire.State{Channel: s.key.ID().Tag(), Progress: wire.Progress{Run: s.enc.Next().Run + 1, Newest: newest + k}})
			}
			return out
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 23)
			s := newDefaultStation(t)
			id := s.key.ID()
			source := w.host("source", id, near(), Config{Upload: 6_000_000})
			describe(t, source, s.key)
			a := w.host("a", id, wan(), Config{})
			b := w.host("b", id, wan(), Config{})
			bad := w.host("bad", id, near(), Config{})
			a.dial(source)
			b.dial(source)
			w.at(2*time.Second, func() {
				bad.dial(source)
			})
			w.at(2500*time.Millisecond, func() {
				// One stripe is what there is still room for.
				bad.say(&wire.Subscribe{Channel: id.Tag(), Serial: 1000, Mask: 1, Manifest: true, Run: s.enc.Next().Run, First: wire.FromNext})
			})
			s.feed(source, 0, 200)
			w.every(3*time.Second, 20*time.Second, 2*time.Millisecond, func() { bad.say(c.messages(s, source.ch.next-1)...) })
			w.run(26 * time.Second)
			for _, h := range []*host{a, b} {
				s.whole(t, h, 0)
				d := h.inOrder()
				t.Logf("%s: p50 %v p99 %v max %v", h.name, percentile(d, .5), percentile(d, .99), percentile(d, 1))
				if p := percentile(d, .99); p > 500*time.Millisecond {
					t.Errorf("%s: p99 of the delay is %v", h.name, p)
				}
			}
			t.Logf("source sent %.2f Mbit/s, control in %d out %d", float64(source.sent)*8/26e6, source.node.stats.ControlIn, source.node.stats.ControlOut)
		})
	}
}

// Liars say that they have a newer run or blocks far ahead, and send nothing.
func TestLiarsDoNotKeepAViewerFromTheStream(t *testing.T) {
	for _, c := range []struct {
		name string
		lie  func(s *station) wire.Progress
	}{
		{"a run far ahead", func(*station) wire.Progress { return wire.Progress{Run: ^block.Run(0), Newest: 5, RAP: 5} }},
		{"a newer run", func(s *station) wire.Progress { return wire.Progress{Run: s.enc.Next().Run + 1, Newest: 5, RAP: 5} }},
		{"newer blocks", func(s *station) wire.Progress {
			return wire.Progress{Run: s.enc.Next().Run, Newest: block.MaxNumber, RAP: block.MaxNumber}
		}},
		{"somewhat newer blocks", func(s *station) wire.Progress {
			n := s.enc.Next().Number + 30
			return wire.Progress{Run: s.enc.Next().Run, Newest: n, RAP: n}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 24)
			s := newDefaultStation(t)
			id := s.key.ID()
			source := w.host("source", id, wan(), Config{})
			good := w.host("good", id, wan(), Config{})
			good.dial(source)
			v := w.host("viewer", id, wan(), Config{})
			var bad []*host
			for _, name := range []string{"bad1", "bad2", "bad3"} {
				b := w.host(name, id, near(), Config{})
				bad = append(bad, b)
				v.dial(b)
			}
			v.dial(good)
			for _, b := range bad {
				b.node.cfg.Patience = time.Millisecond
				w.every(0, 30*time.Second, 100*time.Millisecond, func() {
					b.say(&wire.State{Channel: id.Tag(), Progress: c.lie(s)})
				})
			}
			s.feed(source, 0, 200)
			w.run(30 * time.Second)
			first := wire.NoNumber
			for n := range v.blocks {
				first = min(first, n)
			}
			if first == wire.NoNumber || first > 40 {
				t.Fatalf("the first block is %d", first)
			}
			s.whole(t, v, first)
			t.Logf("first block %d at %v, requests %d", first, v.blocks[first], v.node.stats.Requests)
		})
	}
}

// A source that signs two manifests for one name makes honest relays differ.
// They are not to blame for it.
func TestForkedSourceDoesNotPartHonestRelays(t *testing.T) {
	w := newWorld(t, 25)
	s := newDefaultStation(t)
	twin := newStation(t, 1, s.enc.Next().Run, blockTime, 152, 17)
	twin.random.Uint64() // other bytes under the same names
	id := s.key.ID()
	a := w.host("a", id, wan(), Config{})
	b := w.host("b", id, wan(), Config{})
	v := w.host("viewer", id, lossy(0.1), Config{})
	v.dial(a)
	w.at(2*time.Second, func() { v.dial(b) })
	s.feed(a, 0, 100)
	twin.feed(b, 20*time.Millisecond, 100)
	w.at(6*time.Second, func() { a.dead = true })
	w.run(14 * time.Second)
	if v.saw(EventMisbehaved) != 0 {
		t.Error("an honest relay was dropped as misbehaving")
	}
	if v.saw(EventForked) == 0 {
		t.Error("the fork was not reported")
	}
	t.Logf("%d blocks, %d forks, %d events", len(v.blocks), v.node.stats.ManifestsForked, v.saw(EventForked))
	if _, ok := v.blocks[99]; !ok {
		t.Error("the stream stopped")
	}
}
