package lan

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

// attacker sends what he likes to everybody.
func (w *world) attack(from netip.Addr, body []byte) { w.send(nil, channel.ScopeSite, from, body) }

func address(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x66, 12: byte(n >> 24), 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})
}

func channelNumber(n int) (id channel.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(n)+1)
	return id
}

// bounded checks what a node remembers.
func (n *node) bounded() {
	n.w.t.Helper()
	if len(n.engine.channels) > maxChannels || len(n.sources) > maxSources || len(n.questions) > maxQuestions || len(n.wanted) > maxWanted {
		n.w.t.Errorf("%d channels, %d sources, %d questions", len(n.engine.channels), len(n.sources), len(n.questions))
	}
	for _, c := range n.engine.channels {
		if len(c.peers) > maxPeers || len(c.groups) > maxGroups || len(c.news) > maxPeers {
			n.w.t.Errorf("a channel with %d peers, %d groups", len(c.peers), len(c.groups))
		}
	}
	for _, l := range n.links {
		if len(l.announcers) > maxAnnouncers {
			n.w.t.Errorf("%d announcers", len(l.announcers))
		}
	}
}

// One who floods does not keep others from being heard.
func TestFloodOfOne(t *testing.T) {
	w, d := crowd(t, 1, 3)
	victim := w.nodes[2]
	greedy := victim.stats.greedy
	for i := range 900 {
		w.attack(address(1), (&announcement{id: channelNumber(i), port: uint16(i + 1)}).append(appendHead(nil, uint64(i))))
		w.run(time.Millisecond)
	}
	begin := w.now
	j := w.add(&Announcement{Channel: d.ID, Port: 1})
	for i := range 300 {
		w.attack(address(1), (&announcement{id: channelNumber(i), port: uint16(i + 1)}).append(appendHead(nil, uint64(i))))
		w.run(time.Millisecond)
	}
	if first := j.firstPeer(); first == never || len(victim.peers) < 3 {
		t.Errorf("first peer %v; the victim knows %d", first-begin, len(victim.peers))
	}
	if n := len(victim.engine.channels); n > 80 {
		t.Errorf("%d channels by one address", n)
	}
	if victim.stats.greedy == greedy {
		t.Error("nothing was dropped")
	}
	victim.bounded()
}

// Many who flood, or one with many addresses, cost a bounded amount; what is asked for still finds room.
func TestFloodOfMany(t *testing.T) {
	w := newWorld(t, 1)
	victim := w.add(&Announcement{Channel: key(9).ID(), Port: 1})
	for i := range 6000 {
		d := channel.Descriptor{}
		if i%4 == 0 {
			d = describe(t, byte(i/4), int64(i), "spam")
		} else {
			d.ID = channelNumber(i)
		}
		b := (&announcement{id: d.ID, port: 1, item: d.Item, group: Group{Scope: 5, Port: uint16(i + 1)}}).append(appendHead(nil, uint64(i)))
		w.attack(address(i), b)
		w.run(500 * time.Microsecond)
	}
	victim.bounded()
	if victim.stats.flood == 0 || victim.stats.full == 0 {
		t.Errorf("nothing was dropped: %+v", victim.stats)
	}
	if n := victim.stats.checks; n > 700 {
		t.Errorf("%d signatures checked in 3 s", n)
	}
	wanted := key(77).ID()
	victim.ask(w.now, query{kind: askChannel, id: wanted})
	w.run(3 * time.Second)
	w.attack(address(1), (&announcement{id: wanted, port: 1}).append(appendHead(nil, 1)))
	w.run(100 * time.Millisecond)
	if victim.engine.channels[wanted] == nil {
		t.Error("no room for what was asked for")
	}
	w.run(time.Hour)
	if len(victim.engine.channels)+len(victim.sources) > 0 {
		t.Errorf("%d channels an hour later", len(victim.engine.channels))
	}
}

func TestForgedDescriptor(t *testing.T) {
	w := newWorld(t, 1)
	j := w.add(nil)
	d, other := describe(t, 1, 1, "one"), describe(t, 2, 1, "two")
	flipped := append([]byte(nil), d.Item...)
	flipped[len(flipped)-3] ^= 1
	for name, a := range map[string]announcement{
		"a flipped bit":      {id: d.ID, port: 1, item: flipped},
		"of another channel": {id: d.ID, port: 1, item: other.Item},
		"no descriptor":      {id: d.ID, port: 1, item: []byte("nonsense")},
	} {
		w.attack(address(1), a.append(appendHead(nil, 1)))
		w.run(10 * time.Millisecond)
		if len(j.engine.channels) > 0 {
			t.Errorf("%s: taken", name)
		}
	}
	if j.stats.forged != 3 {
		t.Errorf("%+v", j.stats)
	}
	w.attack(address(1), (&announcement{id: d.ID, port: 1, item: d.Item}).append(appendHead(nil, 1)))
	w.run(10 * time.Millisecond)
	if j.engine.channels[d.ID] == nil {
		t.Error("the good one was not taken after that")
	}
}

func TestSpoofedPorts(t *testing.T) {
	w := newWorld(t, 1)
	j := w.add(nil)
	id := key(1).ID()
	for i := range 100 {
		w.attack(address(1), (&announcement{id: id, port: uint16(i + 1)}).append(appendHead(nil, uint64(i))))
		w.run(100 * time.Millisecond)
	}
	if n := len(j.engine.channels[id].peers); n != maxPorts {
		t.Errorf("%d peers at one address", n)
	}
	for i := range 200 {
		w.attack(address(i), (&announcement{id: id, port: 1}).append(appendHead(nil, uint64(i))))
		w.run(100 * time.Millisecond)
	}
	if n := len(j.engine.channels[id].peers); n != maxPeers {
		t.Errorf("%d peers", n)
	}
	// Who keeps quiet makes room.
	w.run(2 * j.links[0].gap())
	w.attack(address(1000), (&announcement{id: id, port: 1}).append(appendHead(nil, 1000)))
	w.run(10 * time.Millisecond)
	if _, ok := j.peers[netip.AddrPortFrom(address(1000), 1)]; !ok {
		t.Error("no room for somebody new")
	}
}

func TestWhatIsNotFromHereIsDropped(t *testing.T) {
	id := key(1).ID()
	b := (&announcement{id: id, port: 1}).append(appendHead(nil, 1))
	here := netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		a  arrival
		ok bool
	}{
		{arrival{1, channel.ScopeLink, here, 255}, true},
		{arrival{1, channel.ScopeLink, here, 254}, false},
		{arrival{1, channel.ScopeLink, here, 0}, false},
		{arrival{1, channel.ScopeLink, here, hopsUnknown}, true},
		{arrival{1, channel.ScopeSite, here, 250}, true}, // over routers of this site
		{arrival{9, channel.ScopeSite, here, 255}, false},
		{arrival{1, channel.ScopeSite, netip.IPv6Loopback(), 255}, false},
		{arrival{2, channel.ScopeSite, netip.IPv6Loopback(), 255}, true}, // on the loopback interface
		{arrival{1, channel.ScopeSite, netip.IPv6Unspecified(), 255}, false},
		{arrival{1, channel.ScopeSite, netip.MustParseAddr("ff02::1"), 255}, false},
		{arrival{1, channel.ScopeSite, netip.MustParseAddr("::ffff:192.0.2.1"), 255}, false},
		{arrival{1, channel.ScopeSite, netip.MustParseAddr("192.0.2.1"), 255}, false},
	} {
		n := newWorld(t, 1).add(nil)
		n.setLinks(0, []port{eth0, {2, "lo", true}})
		n.receive(0, tt.a, b)
		if _, ok := n.engine.channels[id]; ok != tt.ok {
			t.Errorf("%+v: taken %v", tt.a, ok)
		}
	}
}

// Questions have nobody send more than a little, whoever asks and how often.
func TestFloodOfQuestions(t *testing.T) {
	for _, n := range []int{1, 50} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w, d := crowd(t, 1, n)
			begin := w.now
			for i := range 2000 {
				q := query{number: uint32(i), kind: uint8(i % 2), id: d.ID}
				w.attack(address(i%200), q.append(appendHead(nil, uint64(i))))
				w.run(5 * time.Millisecond)
			}
			r := w.rate(begin)
			t.Logf("%d nodes: %.1f datagrams a second in answer to 200 questions a second", n, r)
			if r > 60 {
				t.Errorf("%.1f datagrams a second", r)
			}
			for _, node := range w.nodes {
				node.bounded()
			}
		})
	}
}

// Somebody who talks for others cannot silence who feeds the channel with less than twice the usual number of voices.
func TestFeederIsNotSilencedByFew(t *testing.T) {
	w, d := crowd(t, 1, 10)
	feeder := netip.AddrPortFrom(w.nodes[0].addr, w.nodes[0].self.Port)
	j := w.add(&Announcement{Channel: d.ID, Port: 1})
	for i := range 5 {
		w.attack(address(i), (&announcement{id: d.ID, port: 1}).append(appendHead(nil, uint64(i))))
	}
	w.run(300 * time.Millisecond)
	if _, ok := j.peers[feeder]; !ok {
		t.Errorf("the feeder was not heard: %v", j.peers)
	}
}

// Whatever comes, nothing panics and all stays bounded.
func FuzzEngine(f *testing.F) {
	d := describe(f, 1, 1, "one")
	f.Add((&query{kind: askAll}).append((&announcement{id: d.ID, port: 1, item: d.Item}).append(appendHead(nil, 1))), uint8(255))
	f.Add((&gone{d.ID, 1}).append((&query{kind: askName}).append(appendHead(nil, 1))), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, hops uint8) {
		w := newWorld(t, 1)
		n := w.add(&Announcement{Channel: d.ID, Port: 1, Item: d.Item, Source: true})
		w.add(&Announcement{Channel: d.ID, Port: 2})
		for i := range 3 {
			n.receive(w.now, arrival{1, scopes[i%2], address(i), int(hops)}, b)
			n.step()
			w.run(50 * time.Millisecond)
		}
		w.run(time.Minute)
		n.bounded()
	})
}
