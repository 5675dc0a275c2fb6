package mesh

import (
	"encoding/binary"
	"fmt"
	"net/netip"
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
				out = append(out, subscribe(wire.Subscribe{Channel: s.key.ID().Tag(), Serial: uint16(serial*10 + k), Feeds: wire.AllFeeds, Run: s.enc.Next().Run, First: 0}))
			}
			return out
		}},
		{"subscribing for the backlog only", func(s *station, serial int, _ block.Number) (out []message) {
			for k := range 10 {
				out = append(out, subscribe(wire.Subscribe{Channel: s.key.ID().Tag(), Serial: uint16(serial*10 + k), Feeds: wire.AllFeeds &^ wire.Second, BackfillOnly: true, Run: s.enc.Next().Run, First: 0}))
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
				bad.say(subscribe(wire.Subscribe{Channel: id.Tag(), Serial: 1000, Feeds: 1 | wire.Manifest, Run: s.enc.Next().Run, First: wire.FromNext}))
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
			// The source pauses, as when an encoder is restarted.
			for i := range 200 {
				at := time.Duration(i+1) * s.every
				if i >= 100 {
					at += 4 * time.Second
				}
				w.at(at, func() {
					for _, d := range s.next(t, epoch.Add(w.now), i == 199) {
						source.ch.Feed(w.now, d)
					}
					source.node.Flush(w.now)
					source.wake()
				})
			}
			w.run(30 * time.Second)
			first := wire.NoNumber
			for n := range v.blocks {
				first = min(first, n)
			}
			if first == wire.NoNumber || first > 40 {
				t.Fatalf("the first block is %d", first)
			}
			s.whole(t, v, first)
			d := v.inOrder()
			if p := percentile(d, .99); p > time.Second {
				t.Errorf("p99 of the delay is %v", p)
			}
			t.Logf("first block %d at %v, requests %d; p50 %v p99 %v; parent %v, good is %v", first, v.blocks[first], v.node.stats.Requests, percentile(d, .5), percentile(d, .99), v.ch.Parent(), good.addr)
		})
	}
}

// subscribe is m from somebody on whom nobody depends.
func subscribe(m wire.Subscribe) *wire.Subscribe {
	for i := range m.Hop {
		m.Hop[i] = wire.NoHop
	}
	return &m
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

// resign changes the manifest of a block, as a broken source would sign it,
// and renumbers its shards.
func (s *station) resign(t testing.TB, datagrams [][]byte, change func(*block.Manifest)) [][]byte {
	t.Helper()
	var number block.Number
	for i, d := range datagrams {
		if d[0] == wire.TypeManifest {
			m, err := block.DecodeManifest(d)
			if err != nil {
				t.Fatal(err)
			}
			var hashes []byte
			for k := range m.Shards() {
				hashes = append(hashes, m.Hash(k)...)
			}
			change(&m)
			number = m.Number
			datagrams[i] = block.AppendManifest(nil, &m, hashes, s.key)
			continue
		}
		binary.BigEndian.PutUint32(d[16:], uint32(number))
	}
	return datagrams
}

// broken feeds n blocks as a broken source signs them.
func (s *station) broken(h *host, n int, change func(i int, m *block.Manifest)) {
	for i := range n {
		h.w.at(time.Duration(i+1)*s.every, func() {
			for _, d := range s.resign(h.w.t, s.next(h.w.t, epoch.Add(h.w.now), i == n-1), func(m *block.Manifest) { change(i, m) }) {
				h.ch.Feed(h.w.now, d)
			}
			h.node.Flush(h.w.now)
			h.wake()
		})
	}
}

func TestTheLastBlockNumbersOfARun(t *testing.T) {
	w := newWorld(t, 26)
	s := newDefaultStation(t)
	id := s.key.ID()
	const n = 60
	first := block.MaxNumber - n + 1
	source := w.host("source", id, wan(), Config{})
	relay := w.host("relay", id, lossy(0.05), Config{})
	v := w.host("viewer", id, lossy(0.05), Config{})
	relay.dial(source)
	v.dial(relay)
	s.broken(source, n, func(i int, m *block.Manifest) { m.Number = first + block.Number(i) })
	start := time.Now()
	w.run(12 * time.Second)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("12 s of the stream took %v to compute", took)
	}
	for _, h := range []*host{relay, v} {
		for k := range block.Number(n) {
			if _, ok := h.blocks[first+k]; !ok {
				t.Errorf("%s: block %#x is missing", h.name, first+k)
			}
		}
	}
}

// What a source signs about time is its own affair: no value of it may stop
// others, or make a relay's pacing useless.
func TestAbsurdTimesInManifests(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(i int, m *block.Manifest)
	}{
		{"no duration", func(_ int, m *block.Manifest) { m.Duration = 0 }},
		{"half of them a microsecond", func(i int, m *block.Manifest) {
			if i%2 == 0 {
				m.Duration = time.Microsecond
			}
		}},
		{"an hour", func(_ int, m *block.Manifest) { m.Duration = time.Hour }},
		{"one block of a microsecond in ten", func(i int, m *block.Manifest) {
			if i%10 == 0 {
				m.Duration = time.Microsecond
			}
		}},
		{"made in 1970", func(_ int, m *block.Manifest) { m.Created = time.Unix(0, 0) }},
		{"made in the year 294000", func(_ int, m *block.Manifest) { m.Created = time.UnixMicro(1<<63 - 1) }},
		{"packets before", func(_ int, m *block.Manifest) { m.Packets = 1<<64 - 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 27)
			s := newDefaultStation(t)
			id := s.key.ID()
			source := w.host("source", id, wan(), Config{Upload: 12_000_000})
			a := w.host("a", id, lossy(0.02), Config{})
			b := w.host("b", id, wan(), Config{})
			a.dial(source)
			w.at(3*time.Second, func() { b.dial(source) })
			s.broken(source, 100, c.change)
			most, last := 0, 0
			w.every(0, 16*time.Second, 100*time.Millisecond, func() { most, last = max(most, source.sent-last), source.sent })
			w.run(16 * time.Second)
			s.whole(t, a, 0)
			s.whole(t, b, 34)
			t.Logf("most in 100 ms: %d bytes; rate %.0f bit/s", most, source.ch.Rate())
		})
	}
}

// Strangers who join and push shards without a manifest fill what is kept of
// such shards. The parent's are more worth.
func TestOrphansOfStrangersDoNotCrowdOutTheParents(t *testing.T) {
	w := newWorld(t, 28)
	s := newDefaultStation(t)
	id := s.key.ID()
	source := w.host("source", id, lossy(0.05), Config{})
	v := w.host("viewer", id, lossy(0.05), Config{})
	v.dial(source)
	var bad []*host
	for _, name := range []string{"b1", "b2", "b3", "b4", "b5", "b6"} {
		b := w.host(name, id, near(), Config{})
		b.dial(v)
		bad = append(bad, b)
	}
	s.feed(source, 0, 200)
	k := byte(0)
	w.every(time.Second, 23*time.Second, 10*time.Millisecond, func() {
		for _, b := range bad {
			for _, nb := range b.ch.neighbours {
				for range 8 {
					k++
					sh := block.Shard{Name: block.Name{Run: s.enc.Next().Run, Number: s.enc.Next().Number + 2 + block.Number(k/32)}, Tag: id.Tag(), Index: int(k % 64), Payload: make([]byte, 1191)}
					nb.push.send(block.AppendShard(nil, &sh))
				}
			}
			b.node.Flush(w.now)
		}
	})
	w.run(30 * time.Second)
	s.whole(t, v, 0)
	d := v.inOrder()
	st := v.node.Stats()
	t.Logf("p50 %v p99 %v max %v; requests %d orphans %d refused %d control out %d, %d left", percentile(d, .5), percentile(d, .99), percentile(d, 1), st.Requests, st.Orphans, st.Refused, st.ControlOut, len(v.ch.orphans))
}

// Requests of one receiver are answered to it alone, however often they come.
func TestOneReceiverDoesNotMakeTheGroupRepeat(t *testing.T) {
	w := newWorld(t, 29)
	s := newDefaultStation(t)
	id := s.key.ID()
	lan := netem.Params{Delay: 200 * time.Microsecond}
	source := w.host("source", id, lan, Config{})
	source.ch.SendToGroup(source.addr)
	bad := w.host("bad", id, lan, Config{})
	bad.group = true
	bad.ch.ListenToGroup()
	s.feed(source, 0, 100)
	w.every(3*time.Second, 10*time.Second, 20*time.Millisecond, func() {
		var ms []message
		for k := range block.Number(4) {
			r := &wire.Request{Channel: id.Tag(), Name: block.Name{Run: s.enc.Next().Run, Number: source.ch.next - 1 - k}, Manifest: true, Shards: 0xffff}
			ms = append(ms, r, r)
		}
		bad.say(ms...)
	})
	w.run(12 * time.Second)
	st := source.node.Stats()
	t.Logf("%d shards sent, %d requests", st.ShardsOut, st.RequestsIn)
	if st.GroupRepairs != 0 {
		t.Errorf("%d shards went to the group again for one receiver", st.GroupRepairs)
	}
}

// A beacon is not signed: whoever sends into the group first may name an
// address where nobody, or somebody useless, is.
func TestFalseBeaconsDoNotEndRepairs(t *testing.T) {
	for _, c := range []struct {
		name   string
		repair func(i int, bad *host) netip.AddrPort
	}{
		{"an address where nobody is", func(int, *host) netip.AddrPort { return netip.MustParseAddrPort("[fd00:dead::1]:1") }},
		{"many such addresses", func(i int, _ *host) netip.AddrPort {
			return netip.AddrPortFrom(netip.MustParseAddr("fd00:dead::1"), uint16(i+1))
		}},
		{"somebody who knows nothing", func(_ int, bad *host) netip.AddrPort { return bad.addr }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 30)
			s := newDefaultStation(t)
			id := s.key.ID()
			lan := netem.Params{Delay: 200 * time.Microsecond}
			source := w.host("source", id, lan, Config{})
			source.ch.SendToGroup(source.addr)
			bad := w.host("bad", channel.ID{}, lan, Config{})
			v := w.host("viewer", id, netem.Params{Delay: 200 * time.Microsecond, Loss: 0.05}, Config{})
			v.up.SetParams(lan)
			v.group = true
			v.ch.ListenToGroup()
			i := 0
			w.every(0, 20*time.Second, 50*time.Millisecond, func() {
				i++
				b := wire.Beacon{Stripes: groupStripes, Channel: id.Tag(), Newest: wire.NoNumber, RAP: wire.NoNumber, Repair: c.repair(i, bad)}
				v.node.ReceiveGroup(w.now, v.ch, bad.addr, b.Append(nil))
				v.node.Flush(w.now)
				v.wake()
			})
			s.feed(source, time.Second, 200)
			w.run(30 * time.Second)
			missing := 0
			for n := range s.sums {
				if _, ok := v.blocks[n]; !ok && n > 80 {
					missing++
				}
			}
			t.Logf("%d links, %d redials, %d blocks missing, %d requests", len(v.node.order), len(v.ch.redials), missing, v.node.stats.Requests)
			if missing > 0 {
				t.Errorf("%d blocks missing of those after 10 s", missing)
			}
			if n := len(v.node.order) + len(v.ch.redials); n > 4 {
				t.Errorf("%d links and redials", n)
			}
		})
	}
}

// A clock that starts in 1970 refuses the channel until it is set, and then
// plays it; one that is set back does no harm to what is under way.
func TestClockThatIsSet(t *testing.T) {
	w := newWorld(t, 31)
	s := newDefaultStation(t)
	id := s.key.ID()
	source := w.host("source", id, wan(), Config{})
	a := w.host("a", id, wan(), Config{})
	b := w.host("b", id, wan(), Config{})
	a.node.SetUTC(0, time.Unix(0, 0))
	a.dial(source)
	b.dial(source)
	s.feed(source, 0, 200)
	w.at(5*time.Second, func() {
		if len(a.blocks) != 0 {
			t.Error("a run dated 56 years ahead was taken")
		}
		a.node.SetUTC(w.now, epoch.Add(w.now))
		b.node.SetUTC(w.now, time.Unix(0, 0))
	})
	w.at(10*time.Second, func() { b.node.SetUTC(w.now, epoch.Add(10*365*24*time.Hour)) })
	w.run(30 * time.Second)
	s.whole(t, a, 60)
	s.whole(t, b, 0)
}

// A parent that sends nothing unless it is asked falls behind the stream
// without ever failing a request. Who else is known takes its place, and is
// not slowed down by what the first one lost.
func TestParentThatFallsBehindIsReplaced(t *testing.T) {
	w := newWorld(t, 32)
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
	sent := map[string]bool{}
	w.tamper = func(from, to *host, b []byte) []byte {
		d := bareOf(b)
		if from != bad || to != v || d == nil || d[0] != wire.TypeShard {
			return b
		}
		name := string(d[1:2]) + string(d[16:20])
		if !sent[name] {
			sent[name] = true
			return nil
		}
		return b
	}
	s.feed(source, 0, 200)
	w.run(30 * time.Second)
	s.whole(t, v, 0)
	if v.ch.Parent() != good.addr {
		t.Errorf("the parent is %v", v.ch.Parent())
	}
	late := 0
	for n, at := range v.blocks {
		if n > 60 && epoch.Add(at).Sub(v.born[n]) > 500*time.Millisecond {
			late++
		}
	}
	if late > 0 {
		t.Errorf("%d blocks are late after 7 s", late)
	}
}

// A neighbour that names addresses of somebody else's network, again and
// again, does not make us knock there for long: nor do many such.
func TestNobodyIsMadeAVictim(t *testing.T) {
	w := newWorld(t, 25)
	w.mesh = true
	s := newDefaultStation(t)
	id := s.key.ID()
	source := w.host("source", id, near(), Config{})
	s.feed(source, 0, 700)
	v := w.host("viewer", id, near(), Config{})
	v.dial(source)
	knocks := map[netip.AddrPort]int{}
	total := 0
	v.stray = func(to netip.AddrPort, b []byte) {
		if b[0] == wire.TypeHello {
			knocks[to]++
			total++
		}
	}
	var bad []*host
	for i := range 4 {
		b := w.host(fmt.Sprint("bad ", i), id, near(), Config{})
		bad = append(bad, b)
		v.dial(b)
	}
	k := 0
	for _, b := range bad {
		w.every(time.Second, 60*time.Second, 500*time.Millisecond, func() {
			m := wire.Peers{Channel: id.Tag(), N: wire.MaxPeers}
			for j := range m.Peers {
				k++
				m.Peers[j] = wire.Peer{Addr: netip.MustParseAddrPort(fmt.Sprintf("[2001:db8:1:%x::%x]:443", k%3, k)), Free: true, Good: true}
			}
			b.say(&m)
		})
	}
	w.run(60 * time.Second)
	// Three networks, of each three that do not answer in 30 s, and who are
	// dialled before that is known; some HELLOs each.
	if total == 0 || total > 150 {
		t.Errorf("%d HELLOs to %d addresses in a minute", total, len(knocks))
	}
	t.Logf("%d HELLOs to %d addresses in a minute", total, len(knocks))
	s.whole(t, v, 60)
}
