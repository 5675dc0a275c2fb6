package announce

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"
)

func address(net, host uint64, port uint16) netip.AddrPort {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:], 0x2001_0db8_0000_0000|net)
	binary.BigEndian.PutUint64(a[8:], host)
	return netip.AddrPortFrom(netip.AddrFrom16(a), port)
}

// list asks a store for what it names somebody who is not in the swarm.
func list(s *Store, id SwarmID, want int, random uint32) (peers []netip.AddrPort) {
	p := s.part(&id)
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.swarms[id]
	if w == nil {
		return nil
	}
	b := w.some(s, 0, new(endpoint), want, random, nil)
	for ; len(b) > 0; b = b[peerSize:] {
		peers = append(peers, netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)), binary.BigEndian.Uint16(b[16:])))
	}
	return peers
}

// The store against the simplest one that does the same.
func TestStore(t *testing.T) {
	const life = 50
	r := rand.New(rand.NewPCG(1, 2))
	s := NewStore(r.Uint64(), life, 1000)
	type entry struct {
		seen   uint32
		seeder bool
	}
	type model struct {
		peers   map[netip.AddrPort]entry
		seeders uint32
	}
	models := map[SwarmID]*model{{1}: {}, {2}: {}, {3}: {}}
	for _, m := range models {
		m.peers = map[netip.AddrPort]entry{}
	}
	forget := func(m *model, a netip.AddrPort) {
		if m.peers[a].seeder {
			m.seeders--
		}
		delete(m.peers, a)
	}
	ids := []SwarmID{{1}, {2}, {3}}
	most := 0
	for now := uint32(1); now < 2200; now++ {
		// It grows for a while, then shrinks.
		growing := now%1000 < 600
		for range 100 {
			id := ids[min(r.IntN(10), 2)] // two small ones and a large one
			m := models[id]
			from := address(r.Uint64N(2000)<<3, r.Uint64N(3), uint16(1+r.IntN(2)))
			event, seeder := EventNone, r.IntN(4) == 0
			if r.IntN(4) == 0 != growing && r.IntN(2) == 0 {
				event = EventStopped
			}
			_, c, ok := s.Announce(now, &id, from, event, seeder, 3, r.Uint32(), nil)
			if !ok {
				t.Fatal("full")
			}
			forget(m, from)
			if event != EventStopped {
				m.peers[from] = entry{now, seeder}
				if seeder {
					m.seeders++
				}
			}
			if c.Seeders != m.seeders || c.Leechers != uint32(len(m.peers))-m.seeders {
				t.Fatalf("at %d: %+v, want %d seeders of %d", now, c, m.seeders, len(m.peers))
			}
		}
		if now%20 > 0 {
			continue
		}
		s.Sweep(now, 1)
		s.Sweep(now, 1)
		checkOrder(t, s)
		for id, m := range models {
			var want []netip.AddrPort
			for a, e := range m.peers {
				if now-e.seen > life {
					forget(m, a)
				} else {
					want = append(want, a)
				}
			}
			got := list(s, id, 1<<20, r.Uint32())
			slices.SortFunc(got, netip.AddrPort.Compare)
			slices.SortFunc(want, netip.AddrPort.Compare)
			if !slices.Equal(got, want) {
				t.Fatalf("at %d it names %d, want %d", now, len(got), len(want))
			}
			if w := s.part(&id).swarms[id]; w != nil {
				most = max(most, len(w.buckets))
			}
		}
	}
	if most < 5 {
		t.Errorf("a swarm had at most %d buckets", most)
	}
	s.Sweep(3000, 1)
	s.Sweep(3000, 1)
	if swarms, peers := s.Len(); swarms != 0 || peers != 0 {
		t.Errorf("in the end there are %d swarms and %d peers", swarms, peers)
	}
}

// checkOrder looks whether all peers are where they can be found, and counted.
func checkOrder(t *testing.T, s *Store) {
	t.Helper()
	for i := range s.parts {
		p, all := &s.parts[i], 0
		for _, w := range p.list {
			count, seeders := 0, uint32(0)
			for i := range w.buckets {
				b := &w.buckets[i]
				if len(b.peers) != len(b.seen)*peerSize {
					t.Fatalf("%d bytes of %d peers", len(b.peers), len(b.seen))
				}
				for k := range b.seen {
					seeders += b.seen[k].seeder()
					h := b.hash(s, k)
					if w.bucket(h) != i || k > 0 && b.hash(s, k-1) > h || b.find(s, h, (*endpoint)(b.peer(k))) != k {
						t.Fatalf("peer %d of %d in bucket %d of %d is in the wrong place", k, len(b.seen), i, len(w.buckets))
					}
				}
				count += len(b.seen)
			}
			if count != int(w.count) || seeders != w.seeders {
				t.Fatalf("%d peers and %d seeders, it counts %d and %d", count, seeders, w.count, w.seeders)
			}
			all += count
		}
		if all != p.peers {
			t.Fatalf("%d peers, it counts %d", all, p.peers)
		}
	}
}

func TestEverybodyIsNamedAlike(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	s := NewStore(r.Uint64(), 100, 10)
	id := SwarmID{7}
	const peers, rounds, want = 300, 30000, 10
	for i := range uint64(peers) {
		s.Announce(1, &id, address(i<<4, 1, 80), EventNone, false, 0, 0, nil)
	}
	named := map[netip.AddrPort]int{}
	for range rounds {
		l := list(s, id, want, r.Uint32())
		if len(l) != want {
			t.Fatalf("%d named, want %d", len(l), want)
		}
		seen := map[netip.AddrPort]bool{}
		for _, p := range l {
			if seen[p] {
				t.Fatalf("%v is named twice", p)
			}
			seen[p] = true
			named[p]++
		}
	}
	mean := rounds * want / peers
	for p, n := range named {
		if n < mean/3 || n > mean*3 {
			t.Errorf("%v is named %d times, the mean is %d", p, n, mean)
		}
	}
	if len(named) != peers {
		t.Errorf("%d of %d are ever named", len(named), peers)
	}
}

// A whole /64 that announces itself a million times takes the place of eight.
func TestOneNetworkDoesNotFillASwarm(t *testing.T) {
	s := NewStore(5, 1000, 10)
	id := SwarmID{9}
	s.Announce(1, &id, address(1<<16, 1, 80), EventNone, true, 0, 0, nil)
	for i := range uint64(1_000_000) {
		s.Announce(2+uint32(i/1e5), &id, address(0, i, 80), EventNone, i%2 == 0, 0, 0, nil)
	}
	if c := s.Scrape(&id); c.Seeders+c.Leechers != 1+MaxPer64 {
		t.Errorf("%+v, want %d in all", c, 1+MaxPer64)
	}
	if l := list(s, id, 100, 0); !slices.Contains(l, address(1<<16, 1, 80)) {
		t.Error("the other one is gone")
	}
}

func TestFullStore(t *testing.T) {
	s := NewStore(5, 1000, parts)
	full := 0
	for i := range 10_000 {
		id := SwarmID{byte(i), byte(i >> 8), 1}
		if _, _, ok := s.Announce(1, &id, address(1, 1, 80), EventNone, true, 0, 0, nil); !ok {
			full++
		}
	}
	if swarms, _ := s.Len(); swarms > 2*parts || full+swarms != 10_000 {
		t.Errorf("%d swarms, %d refused", swarms, full)
	}
}

// Expiry goes on in the background of the answers: a million that expire at once hold nothing up.
func TestSweepIsQuick(t *testing.T) {
	s := NewStore(5, 10, 200_000)
	for i := range uint64(1_000_000) {
		id := SwarmID{byte(i), byte(i >> 8), byte(i >> 16 & 1)}
		s.Announce(1, &id, address(i<<4, 1, 80), EventNone, false, 0, 0, nil)
	}
	longest := time.Duration(0)
	calls := 0
	for {
		begun := time.Now()
		s.Sweep(100, 600)
		longest = max(longest, time.Since(begun))
		if calls++; calls > 10_000 {
			t.Fatal("it never ends")
		}
		if _, n := s.Len(); n == 0 {
			break
		}
	}
	t.Logf("%d calls, the longest took %v", calls, longest)
	if longest > 50*time.Millisecond { // 5 ms is what make bench wants; tests may share their machine
		t.Errorf("a call took %v", longest)
	}
}

// A million peers in swarms of ten: at most 64 bytes each, whatever holds them included.
func TestMemory(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const peers, swarms = 1_000_000, 100_000
	before := heap()
	s := NewStore(5, 1000, 2*swarms)
	for i := range uint64(peers) {
		var id SwarmID
		binary.LittleEndian.PutUint64(id[:], i%swarms*0x9e3779b97f4a7c15)
		s.Announce(1, &id, address(i<<4, i, 80), EventNone, false, 0, 0, nil)
	}
	each := float64(heap()-before) / peers
	t.Logf("%.1f bytes a peer", each)
	if n, k := s.Len(); n != swarms || k != peers || each > 64 {
		t.Errorf("%d swarms, %d peers, %.1f bytes each", n, k, each)
	}
}

func newServer(key byte, s *Store) (*Server, *Stats) {
	st := new(Stats)
	return NewServer(ServerConfig{Key: Key{key}, Store: s, Interval: 120}, st), st
}

func connect(t *testing.T, s *Server, now int64, from netip.AddrPort) uint64 {
	t.Helper()
	var r Reply
	if err := r.Decode(s.Handle(now, 0, from, AppendConnect(nil, 7), nil)); err != nil || r.Action != ActionConnect || r.Transaction != 7 {
		t.Fatalf("connect: %+v, %v", r, err)
	}
	return r.Connection
}

func TestConnectionIDs(t *testing.T) {
	const now = 1_800_000_000
	s, stats := newServer(1, NewStore(1, 100, 100))
	me, other := address(1, 1, 1000), address(1, 2, 1000)
	id := connect(t, s, now, me)
	ask := func(s *Server, at int64, from netip.AddrPort) uint32 {
		t.Helper()
		a := Announce{Connection: id, Transaction: 9, Port: 80, Want: -1}
		request := a.Append(nil)
		b := s.Handle(at, 0, from, request, nil)
		var r Reply
		if err := r.Decode(b); err != nil || r.Transaction != 9 {
			t.Fatalf("%+v, %v", r, err)
		}
		if r.Action == ActionError && len(b) > len(request) {
			t.Errorf("an error of %d bytes to who sent %d", len(b), len(request))
		}
		return r.Action
	}
	sister, _ := newServer(1, NewStore(2, 100, 100)) // another of the cluster
	stranger, _ := newServer(2, NewStore(3, 100, 100))
	for _, x := range []struct {
		what string
		s    *Server
		at   int64
		from netip.AddrPort
		want uint32
	}{
		{"its own", s, now + 1, me, ActionAnnounce},
		{"from another port", s, now + 1, netip.AddrPortFrom(me.Addr(), 2), ActionAnnounce},
		{"after two minutes", s, now + 120, me, ActionAnnounce},
		{"to another of the cluster, whose clock is 100 s behind", sister, now - 100, me, ActionAnnounce},
		{"from another address", s, now + 1, other, ActionError},
		{"replayed after four minutes", s, now + 241, me, ActionError},
		{"replayed after eight minutes", s, now + 480, me, ActionError},
		{"of another tracker", stranger, now + 1, me, ActionError},
	} {
		if got := ask(x.s, x.at, x.from); got != x.want {
			t.Errorf("%s: action %d, want %d", x.what, got, x.want)
		}
	}
	if n := stats.Strangers.Load(); n != 3 {
		t.Errorf("%d strangers counted, want 3", n)
	}
}

func TestServerRefuses(t *testing.T) {
	const now = 1_800_000_000
	store := NewStore(1, 100, 1)
	stats := new(Stats)
	known := SwarmID{1}
	s := NewServer(ServerConfig{Store: store, Interval: 60, Known: func(id *SwarmID) bool { return *id == known }}, stats)
	me := address(1, 1, 1000)
	id := connect(t, s, now, me)
	good := Announce{Connection: id, Swarm: known, Port: 80, Want: -1}
	with := func(f func(*Announce)) []byte { a := good; f(&a); return a.Append(nil) }
	for _, x := range []struct {
		what   string
		from   netip.AddrPort
		b      []byte
		reason string // "-": no answer
	}{
		{"nothing", me, nil, "-"},
		{"a connect without its magic", me, make([]byte, 16), "-"},
		{"an action of others", me, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, id), 4), "-"},
		{"a cut announce", me, good.Append(nil)[:97], "malformed announce"},
		{"no port", me, with(func(a *Announce) { a.Port = 0 }), "malformed announce"},
		{"an event that is none", me, with(func(a *Announce) { a.Event = 9 }), "malformed announce"},
		{"an unknown channel", me, with(func(a *Announce) { a.Swarm = SwarmID{2} }), "this tracker does not know that channel"},
		{"IPv4 in disguise", netip.MustParseAddrPort("[::ffff:192.0.2.1]:80"), AppendConnect(nil, 1), "-"},
		{"from a group", netip.MustParseAddrPort("[ff15::1]:80"), AppendConnect(nil, 1), "-"},
		{"from no port", netip.AddrPortFrom(me.Addr(), 0), AppendConnect(nil, 1), "-"},
		{"an empty scrape", me, AppendScrape(nil, id, 1), "malformed scrape"[:8]},
	} {
		out := s.Handle(now, 0, x.from, x.b, nil)
		var r Reply
		err := r.Decode(out)
		if x.reason == "-" {
			if len(out) > 0 {
				t.Errorf("%s: answered with %d bytes", x.what, len(out))
			}
		} else if err != nil || r.Action != ActionError || r.Reason != x.reason {
			t.Errorf("%s: %+v, %v, want %q", x.what, r, err, x.reason)
		}
		if len(out) > len(x.b) {
			t.Errorf("%s: %d bytes for %d", x.what, len(out), len(x.b))
		}
	}
	if swarms, _ := store.Len(); swarms != 0 {
		t.Errorf("%d swarms came of it", swarms)
	}
}

// loop is a client and its server, with a way between them that may lose.
type loop struct {
	server *Server
	client *Client
	from   netip.AddrPort
	now    time.Duration
	epoch  int64
	lose   func() bool
	peers  []netip.AddrPort
	sent   int
}

func (l *loop) run(until time.Duration) {
	for {
		d := l.client.Deadline()
		if d > until {
			l.now = until
			return
		}
		l.now = max(l.now, d)
		b := l.client.Poll(l.now, nil)
		if len(b) == 0 {
			continue
		}
		if l.sent++; l.server == nil || l.lose() {
			continue
		}
		b = l.server.Handle(l.epoch+int64(l.now/time.Second), 1, l.from, b, nil)
		var r Reply
		if len(b) == 0 || l.lose() || r.Decode(b) != nil {
			continue
		}
		l.now += 20 * time.Millisecond
		l.peers = append(l.peers, l.client.Receive(l.now, &r)...)
	}
}

func TestClient(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 9))
	store := NewStore(1, 30_000, 100)
	s, stats := newServer(1, store)
	id := SwarmID{5}
	other := address(3, 1, 7000)
	store.Announce(1_800_000_000, &id, other, EventNone, true, 0, 0, nil)
	l := &loop{server: s, from: address(1, 1, 1234), epoch: 1_800_000_000, lose: func() bool { return false }}
	l.client = NewClient(ClientConfig{Swarm: id, Port: 6000, Want: -1}, random)
	l.run(time.Second)
	if l.sent != 2 || !slices.Equal(l.peers, []netip.AddrPort{other}) || l.client.Counts.Seeders != 1 || l.client.Counts.Leechers != 1 {
		t.Errorf("after %d datagrams: %v, %+v", l.sent, l.peers, l.client.Counts)
	}
	// It comes again as often as it is asked to, with a new id each time.
	l.run(10 * time.Minute)
	if n := stats.Announces.Load(); n < 5 || n > 7 {
		t.Errorf("%d announces in ten minutes, want one every 108 to 120 s", n)
	}
	// It takes half of the datagrams getting lost, and a tracker that starts again with another key.
	l.lose = func() bool { return random.IntN(2) == 0 }
	l.server, stats = newServer(2, store)
	l.run(20 * time.Minute)
	if n := stats.Announces.Load(); n < 4 {
		t.Errorf("%d announces in ten minutes of losses", n)
	}
	// Nobody there: it is patient.
	before := l.sent
	l.server = nil
	l.run(80 * time.Minute)
	if n := l.sent - before; n > 75 || n < 45 {
		t.Errorf("%d datagrams to nobody in an hour", n)
	}
	l.lose = func() bool { return false }
	l.server, _ = newServer(3, store)
	l.run(83 * time.Minute)
	if l.client.Answered == 0 || l.now-l.client.Answered > 2*time.Minute {
		t.Error("it did not come back")
	}
	l.client.Stop(l.now)
	l.run(84 * time.Minute)
	if c := store.Scrape(&id); c.Leechers != 0 {
		t.Errorf("after it has stopped: %+v", c)
	}
	if l.client.Poll(l.now+time.Hour, nil) != nil {
		t.Error("it goes on")
	}
}

// Alone in a swarm one asks again soon: others come.
func TestWhoIsAloneAsksSoonAgain(t *testing.T) {
	store := NewStore(1, 300, 100)
	s, stats := newServer(1, store)
	l := &loop{server: s, from: address(1, 1, 1234), epoch: 1_800_000_000, lose: func() bool { return false }}
	l.client = NewClient(ClientConfig{Swarm: SwarmID{5}, Port: 6000, Want: -1}, rand.New(rand.NewPCG(1, 9)))
	l.run(30 * time.Second)
	if n := stats.Announces.Load(); n < 5 || n > 6 {
		t.Errorf("%d announces in half a minute", n)
	}
}

// What is published is listed before the announce, which a tracker that knows no other channel would refuse; it is published again in time,
// when there is a newer one, and by a tracker that has forgotten it.
func TestPublish(t *testing.T) {
	var listed []string
	refuse := errors.New("not here")
	random := rand.New(rand.NewPCG(1, 9))
	tracker := func(seed byte) (*Server, *Stats) {
		stats := new(Stats)
		return NewServer(ServerConfig{
			Key: Key{seed}, Store: NewStore(1, 300, 100), Interval: 120, Refresh: 3600,
			Known: func(*SwarmID) bool { return len(listed) > 0 },
			Publish: func(_ netip.Addr, item []byte) error {
				if string(item) == "bad" {
					return refuse
				}
				listed = append(listed, string(item))
				return nil
			},
		}, stats), stats
	}
	l := &loop{from: address(1, 1, 1234), epoch: 1_800_000_000, lose: func() bool { return false }}
	var stats *Stats
	l.server, stats = tracker(1)
	l.client = NewClient(ClientConfig{Swarm: SwarmID{5}, Port: 6000, Want: -1, Seeder: true}, random)
	l.client.Publish(0, []byte("one"))
	l.run(time.Second)
	if !slices.Equal(listed, []string{"one"}) || stats.Announces.Load() != 1 || stats.Unknown.Load() != 0 || l.sent != 3 || !l.client.Published {
		t.Fatalf("listed %q, %d announces, %d datagrams, published %v", listed, stats.Announces.Load(), l.sent, l.client.Published)
	}
	l.run(5*time.Hour + 10*time.Minute)
	if n := len(listed); n < 5 || n > 6 {
		t.Errorf("published %d times in five hours", n)
	}
	if n := stats.Announces.Load(); n < 150 || n > 180 {
		t.Errorf("%d announces in five hours", n)
	}
	listed = nil
	l.client.Publish(l.now, []byte("two"))
	l.run(l.now + 3*time.Second)
	if !slices.Equal(listed, []string{"two"}) {
		t.Errorf("listed %q", listed)
	}
	l.client.Publish(l.now, []byte("bad"))
	l.run(l.now + 3*time.Second)
	if l.client.Refusal != "not here" || l.client.Published {
		t.Errorf("refusal %q, published %v", l.client.Refusal, l.client.Published)
	}
	// With losses, and a tracker that has forgotten all.
	l.client.Publish(l.now, []byte("three"))
	listed = nil
	l.lose = func() bool { return random.IntN(2) == 0 }
	l.server, stats = tracker(2)
	l.run(l.now + 30*time.Minute)
	if len(listed) == 0 || listed[0] != "three" || stats.Announces.Load() == 0 {
		t.Errorf("listed %q, %d announces", listed, stats.Announces.Load())
	}
	l.client.Stop(l.now)
	n := len(listed)
	l.run(l.now + 3*time.Hour)
	if len(listed) != n {
		t.Error("it publishes on after its goodbye")
	}
}

// A publish is answered with less than it has, and none without a good id.
func TestPublishIsRefused(t *testing.T) {
	stats := new(Stats)
	s := NewServer(ServerConfig{Store: NewStore(1, 100, 1), Publish: func(netip.Addr, []byte) error { return nil }}, stats)
	me := address(1, 1, 1000)
	id := connect(t, s, 1_800_000_000, me)
	for _, x := range []struct {
		what   string
		b      []byte
		action uint32
	}{
		{"an item", AppendPublish(nil, id, 1, []byte("item")), ActionPublish},
		{"the longest", AppendPublish(nil, id, 1, make([]byte, MaxItem)), ActionPublish},
		{"too long a one", AppendPublish(nil, id, 1, make([]byte, MaxItem+1)), ActionError},
		{"no item", AppendPublish(nil, id, 1, nil), ActionError},
		{"a foreign id", AppendPublish(nil, id+4, 1, []byte("item")), ActionError},
	} {
		var r Reply
		out := s.Handle(1_800_000_000, 0, me, x.b, nil)
		if err := r.Decode(out); err != nil || r.Action != x.action || len(out) > len(x.b) {
			t.Errorf("%s: %+v, %v, %d bytes for %d", x.what, r, err, len(out), len(x.b))
		}
	}
}

func TestClientBelievesOnlyAnswers(t *testing.T) {
	c := NewClient(ClientConfig{Swarm: SwarmID{5}, Port: 6000, Want: -1}, rand.New(rand.NewPCG(1, 9)))
	b := c.Poll(0, nil)
	tx := binary.BigEndian.Uint32(b[12:])
	peers := []netip.AddrPort{address(1, 1, 1)}
	for _, r := range []Reply{
		{Action: ActionConnect, Transaction: tx + 1, Connection: 1},
		{Action: ActionAnnounce, Transaction: tx, Peers: peers},
		{Action: ActionScrape, Transaction: tx},
	} {
		if got := c.Receive(time.Millisecond, &r); got != nil || !c.open {
			t.Errorf("it took %+v", r)
		}
	}
	if c.Receive(time.Millisecond, &Reply{Action: ActionConnect, Transaction: tx, Connection: 1}); c.connection != 1 {
		t.Error("it did not take the answer")
	}
	if c.Receive(2*time.Millisecond, &Reply{Action: ActionAnnounce, Transaction: tx, Peers: peers}) != nil {
		t.Error("it took an answer to what it had not asked")
	}
}

func TestReplyIsBounded(t *testing.T) {
	b := make([]byte, announceReplyHead)
	binary.BigEndian.PutUint32(b, ActionAnnounce)
	for _, p := range []string{"[2001:db8::1]:80", "[::ffff:192.0.2.1]:80", "[ff02::1]:80", "[::]:80", "[2001:db8::2]:0", "[fe80::1]:9"} {
		a := netip.MustParseAddrPort(p)
		x := a.Addr().As16()
		b = binary.BigEndian.AppendUint16(append(b, x[:]...), a.Port())
	}
	var r Reply
	if err := r.Decode(append(b, 1, 2, 3)); err != nil || len(r.Peers) != 1 {
		t.Errorf("%v, %v", r.Peers, err)
	}
	if err := r.Decode(append([]byte{0, 0, 0, 3, 0, 0, 0, 0}, "\x1b[2Jno"...)); err != nil || r.Reason != ".[2Jno" {
		t.Errorf("%q, %v", r.Reason, err)
	}
	if err := r.Decode(b[:7]); !errors.Is(err, ErrMessage) {
		t.Error(err)
	}
}

func FuzzServer(f *testing.F) {
	const now = 1_800_000_000
	me := address(1, 1, 1000)
	s, _ := newServer(1, NewStore(1, 100, 1000))
	var r Reply
	_ = r.Decode(s.Handle(now, 0, me, AppendConnect(nil, 7), nil))
	a := Announce{Connection: r.Connection, Port: 1, Want: -1}
	f.Add(AppendConnect(nil, 1))
	f.Add(a.Append(nil))
	f.Add(AppendScrape(nil, r.Connection, 3, SwarmID{1}, SwarmID{2}))
	f.Fuzz(func(t *testing.T, b []byte) {
		out := s.Handle(now, 5, me, b, nil)
		if len(out) > MaxMessage {
			t.Errorf("%d bytes", len(out))
		}
		// Whoever has no id made for him is never sent more than he sent.
		if out := s.Handle(now, 5, address(9, 9, 9), b, nil); len(out) > len(b) {
			t.Errorf("%d bytes for %d", len(out), len(b))
		}
		if len(out) > 0 {
			var r Reply
			if err := r.Decode(out); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 1, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Reply
		if r.Decode(b) != nil {
			return
		}
		for _, p := range r.Peers {
			if !Usable(p) {
				t.Errorf("%v", p)
			}
		}
	})
}

func FuzzAnnounce(f *testing.F) {
	a := Announce{Port: 1}
	f.Add(a.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a Announce
		if a.Decode(b) != nil {
			return
		}
		again := a.Append(nil)
		copy(again[84:88], b[84:88]) // the address that is not taken
		if !bytes.Equal(again, b[:announceSize]) {
			t.Error("not the same")
		}
	})
}

// What an announce costs, a million peers in so many swarms.
func BenchmarkAnnounce(b *testing.B) {
	for _, swarms := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprint(swarms), func(b *testing.B) {
			store := NewStore(1, 1000, 200_000)
			s, _ := newServer(1, store)
			id := func(i int) (id SwarmID) {
				binary.LittleEndian.PutUint64(id[:], uint64(i%swarms)*0x9e3779b97f4a7c15)
				return id
			}
			const peers = 1_000_000
			for i := range peers {
				x := id(i)
				store.Announce(1, &x, address(uint64(i)<<2, 1, 80), EventNone, false, 0, 0, nil)
			}
			// In an order that defeats caches.
			requests := make([][]byte, 1<<16)
			from := make([]netip.AddrPort, len(requests))
			for k := range requests {
				i := k * 7919 * 17 % peers
				from[k] = address(uint64(i)<<2, 1, 80)
				a := Announce{Connection: s.connection(from[k].Addr(), 0), Swarm: id(i), Port: 80, Want: -1, Left: 1}
				requests[k] = a.Append(nil)
			}
			dst := make([]byte, 0, MaxMessage)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				k := i % len(requests)
				dst = s.Handle(1, uint32(i)*2654435761, from[k], requests[k], dst[:0])
			}
			if len(dst) < announceReplyHead+peerSize {
				b.Fatalf("%d bytes", len(dst))
			}
		})
	}
}

// However few swarms the peers are in, all that have expired are forgotten within a round of calls or two.
func TestSweepReachesAll(t *testing.T) {
	for _, swarms := range []int{1, 100, 10_000} {
		s := NewStore(1, 100, swarms)
		for i := range uint64(50_000) {
			id := SwarmID{byte(i % uint64(swarms)), byte(i % uint64(swarms) >> 8)}
			s.Announce(1, &id, address(i<<4, 1, 80), EventNone, false, 0, 0, nil)
		}
		const round = 200
		calls := 0
		for n := 1; n > 0 && calls < 3*round; calls++ {
			s.Sweep(1000, round)
			_, n = s.Len()
		}
		if t.Logf("%d swarms: %d calls", swarms, calls); calls > 2*round {
			t.Errorf("%d swarms: after %d calls of %d there are peers left", swarms, calls, round)
		}
	}
}
