package lan

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

// crowd is a world with n nodes of a channel, the first of which feeds it, that have started one after the other within 10 s and a minute ago,
// and asked nobody.
func crowd(t testing.TB, seed uint64, n int) (*world, channel.Descriptor) {
	w := newWorld(t, seed)
	d := describe(t, 1, 1, "one")
	for i := range n {
		a := &Announcement{Channel: d.ID, Port: uint16(1000 + i)}
		if i == 0 {
			a.Source, a.Item = true, d.Item
		}
		w.add(nil).announce(a)
		w.nodes[i].step()
		w.run(10 * time.Second / time.Duration(n))
	}
	w.run(time.Minute)
	return w, d
}

// However many there are: all together send two datagrams a second at most, and who joins hears some of them at once.
func TestCrowds(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 50, 500} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			worst, most, rate, seeds := time.Duration(0), 0, 0.0, 10
			if n > 100 {
				seeds = 1
			}
			for seed := range seeds {
				w, d := crowd(t, uint64(seed), n)
				begin := w.now
				w.run(time.Minute)
				rate = max(rate, w.rate(begin))
				begin = w.now
				j := w.add(&Announcement{Channel: d.ID, Port: 1})
				w.run(300 * time.Millisecond)
				if j.firstPeer() == never {
					t.Fatalf("seed %d: nobody was heard within 300 ms", seed)
				}
				worst = max(worst, j.firstPeer()-begin)
				if at, ok := j.described[d.ID]; !ok || at-begin > 300*time.Millisecond {
					t.Errorf("seed %d: the descriptor came after %v, %v", seed, at-begin, ok)
				}
				most = max(most, len(w.announcers(d.ID, begin))-1) // one is the joiner
				if len(j.peers) < min(n, 3) {
					t.Errorf("seed %d: only %d peers", seed, len(j.peers))
				}
			}
			t.Logf("%d nodes: %.2f datagrams a second at most; to who joins, the first peer after %v at most, %d answers at most", n, rate, worst.Round(time.Millisecond), most)
			if most > 12 {
				t.Errorf("%d nodes answered", most)
			}
			// At most three times in a minute from each node, whose intervals are drawn by lot, in two scopes.
			if limit := min(2.5, float64(n)*0.11); rate > limit {
				t.Errorf("%.2f datagrams a second, want at most %.2f", rate, limit)
			}
		})
	}
}

func TestQuestionIsRepeated(t *testing.T) {
	w := newWorld(t, 1)
	id := key(1).ID()
	j := w.add(nil)
	j.ask(w.now, query{kind: askChannel, id: id})
	j.step()
	w.run(time.Minute)
	if len(w.sent) != 4*len(scopes) {
		t.Errorf("%d datagrams, want 4 in each scope", len(w.sent))
	}
	if len(j.engine.channels) > 0 || len(j.questions) > 0 {
		t.Errorf("left: %v, %v", j.engine.channels, j.questions)
	}
}

// Of what gets lost in the air enough is left.
func TestJoinerHearsPeersThroughLoss(t *testing.T) {
	worst := time.Duration(0)
	for seed := range uint64(20) {
		w, d := crowd(t, seed, 2)
		w.loss = 0.3
		begin := w.now
		j := w.add(&Announcement{Channel: d.ID, Port: 1})
		w.run(4 * time.Second)
		if first := j.firstPeer(); first == never {
			t.Errorf("seed %d: nobody", seed)
		} else {
			worst = max(worst, first-begin)
		}
	}
	t.Logf("30 %% lost: the first peer of two after %v at most", worst.Round(time.Millisecond))
}

// After a power cut everybody starts in the same second.
func TestManyStartTogether(t *testing.T) {
	w := newWorld(t, 1)
	d := describe(t, 1, 1, "one")
	const n = 300
	for range n {
		w.add(&Announcement{Channel: d.ID, Port: 1, Item: d.Item})
		w.run(time.Second / n)
	}
	w.run(9 * time.Second)
	t.Logf("%d datagrams, %d bytes in 10 s by %d nodes", len(w.sent), w.bytes, n)
	if len(w.sent) > n*len(scopes)*3 {
		t.Errorf("%d datagrams, want an announcement and a repeated question of each at most, and some answers", len(w.sent))
	}
	for i, node := range w.nodes {
		if len(node.peers) < 3 {
			t.Errorf("node %d knows %d peers", i, len(node.peers))
		}
	}
	// The second ones do not come all at once either, nor when those of the start would be forgotten.
	for range 12 {
		begin := w.now
		w.run(10 * time.Second)
		if r := w.rate(begin); r > 4 {
			t.Errorf("%.1f datagrams a second at %v", r, begin)
		}
	}
}

func TestAllChannelsAreFound(t *testing.T) {
	w := newWorld(t, 1)
	for c := range 20 {
		d := describe(t, byte(c), 1, fmt.Sprint("channel ", c))
		for range 4 {
			w.add(&Announcement{Channel: d.ID, Port: 1, Item: d.Item, Source: c%2 == 0})
		}
		w.run(time.Second)
	}
	w.run(time.Minute)
	begin, before := w.now, len(w.sent)
	picker := w.add(nil)
	picker.ask(w.now, query{kind: askAll})
	picker.step()
	w.run(700 * time.Millisecond)
	last := time.Duration(0)
	for _, at := range picker.described {
		last = max(last, at-begin)
	}
	t.Logf("%d of 20 channels within %v, %d datagrams", len(picker.described), last.Round(time.Millisecond), len(w.sent)-before)
	if len(picker.described) != 20 {
		t.Errorf("%d channels", len(picker.described))
	}
	if n := len(w.sent) - before; n > 70 {
		t.Errorf("%d datagrams", n)
	}
}

func TestNameIsFound(t *testing.T) {
	w := newWorld(t, 1)
	for c := range 5 {
		d := describe(t, byte(c), 1, fmt.Sprint("Canale ", c))
		w.add(&Announcement{Channel: d.ID, Port: 1, Item: d.Item})
	}
	w.run(time.Minute)
	j := w.add(nil)
	j.ask(w.now, query{kind: askName, name: hashName("cAnale 3")})
	j.step()
	w.run(200 * time.Millisecond)
	if _, ok := j.described[key(3).ID()]; !ok || len(j.channels) != 1 {
		t.Errorf("found %v", j.channels)
	}
}

func TestNewestDescriptorWins(t *testing.T) {
	w := newWorld(t, 1)
	first, second := describe(t, 1, 10, "first"), describe(t, 1, 20, "second")
	feeder := w.add(&Announcement{Channel: first.ID, Port: 1, Source: true, Item: first.Item})
	viewer := w.add(&Announcement{Channel: first.ID, Port: 2})
	old := w.add(&Announcement{Channel: first.ID, Port: 3, Item: first.Item})
	picker := w.add(nil)
	w.run(10 * time.Second)
	feeder.announce(&Announcement{Channel: first.ID, Port: 1, Source: true, Item: second.Item})
	feeder.step()
	w.run(2 * time.Second)
	for i, n := range w.nodes[1:] {
		if got := n.engine.channels[first.ID].descriptor.Values.Name; got != "second" {
			t.Errorf("node %d has %q 2 s later", i+1, got)
		}
	}
	w.run(3 * time.Minute) // who had the first does not bring it back
	if got := picker.engine.channels[first.ID].descriptor.Seq; got != 20 {
		t.Errorf("seq %d", got)
	}
	if string(viewer.item) != string(second.Item) || string(old.item) != string(second.Item) {
		t.Error("others do not pass the newest on")
	}
	for i, n := range w.nodes[1:] {
		if n.stats.checks > 2 {
			t.Errorf("node %d checked %d signatures of two descriptors", i+1, n.stats.checks)
		}
	}
	if at := picker.described[first.ID]; at < 10*time.Second {
		t.Error("the callback was not told of the newer one")
	}
}

func TestGroupIsTold(t *testing.T) {
	w := newWorld(t, 1)
	id := key(1).ID()
	any, specific := Group{Scope: channel.ScopeSite, Port: 6466}, Group{Scope: channel.ScopeLink, Port: 6466, Source: netip.MustParseAddr("fd00::1")}
	feeder := w.add(&Announcement{Channel: id, Port: 1, Group: any})
	j := w.add(nil)
	w.run(time.Minute)
	feeder.announce(&Announcement{Channel: id, Port: 1, Group: specific})
	feeder.step()
	w.run(2 * time.Second)
	any.Interface, specific.Interface = "eth0", "eth0"
	if !slices.Equal(j.groups, []Group{any, specific}) {
		t.Errorf("told of %v", j.groups)
	}
	if a := any.Of(id); a != netip.AddrPortFrom(id.Group(channel.ScopeSite), 6466) {
		t.Errorf("its address is %s", a)
	}
	if a := specific.Of(id); a != netip.AddrPortFrom(id.GroupSSM(channel.ScopeLink), 6466) {
		t.Errorf("its address is %s", a)
	}
	w.run(2 * time.Minute)
	if c := j.engine.channels[id].channel(); !slices.Equal(c.Groups, []Group{specific}) {
		t.Errorf("minutes later: %v", c.Groups)
	}
}

func TestWhoLeavesIsForgotten(t *testing.T) {
	for _, tt := range []struct {
		name   string
		leave  func(*node)
		within time.Duration
	}{
		{"says so", func(n *node) { n.goodbye(); n.flush(); n.on = false }, 5 * time.Millisecond},
		{"withdraws", func(n *node) { n.announce(nil); n.step() }, 5 * time.Millisecond},
		{"falls silent", func(n *node) { n.on = false }, 85 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 1)
			id := key(1).ID()
			a, j := w.add(&Announcement{Channel: id, Port: 1}), w.add(nil)
			w.run(10 * time.Minute)
			if c := j.engine.channels[id].channel(); len(c.Peers) != 1 {
				t.Fatalf("peers: %v", c.Peers)
			}
			tt.leave(a)
			w.run(tt.within)
			if c := j.engine.channels[id]; c != nil && len(c.peers) > 0 {
				t.Errorf("still there: %v", c.peers)
			}
			w.run(2 * time.Minute)
			if len(j.engine.channels) > 0 || len(j.engine.sources) > 0 || len(j.links[0].announcers) > 0 {
				t.Errorf("left after minutes: %v, %v", j.engine.channels, j.engine.sources)
			}
		})
	}
}

func TestPeersAreToldAgainToWhoAsks(t *testing.T) {
	w := newWorld(t, 1)
	id := key(1).ID()
	w.add(&Announcement{Channel: id, Port: 1})
	j := w.add(nil)
	w.run(5 * time.Minute)
	j.peers = make(map[netip.AddrPort]time.Duration)
	w.run(5 * time.Minute)
	if len(j.peers) > 0 {
		t.Error("told again without a question")
	}
	j.ask(w.now, query{kind: askChannel, id: id})
	j.step()
	w.run(200 * time.Millisecond)
	if len(j.peers) != 1 {
		t.Error("not told again")
	}
}

// A node whose routable address is known is not named by its link-local one as well, and the latter has its zone.
func TestRoutableAddressIsPreferred(t *testing.T) {
	w := newWorld(t, 1)
	j := w.add(nil)
	id := key(1).ID()
	local, routable := netip.MustParseAddr("fe80::9"), netip.MustParseAddr("fd00::9")
	say := func(sender uint64, scope channel.Scope, from netip.Addr, port uint16) {
		j.receive(w.now, arrival{1, scope, from.WithZone("elsewhere"), linkHops}, (&announcement{id: id, port: port}).append(appendHead(nil, sender)))
		j.step()
	}
	say(7, channel.ScopeSite, routable, 1)
	say(7, channel.ScopeLink, local, 1)
	say(8, channel.ScopeSite, local, 2)
	want := []netip.AddrPort{netip.AddrPortFrom(local.WithZone("eth0"), 2), netip.AddrPortFrom(routable, 1)}
	got := j.engine.channels[id].channel().Peers
	slices.SortFunc(got, netip.AddrPort.Compare)
	slices.SortFunc(want, netip.AddrPort.Compare)
	if !slices.Equal(got, want) || len(j.peers) != 2 {
		t.Errorf("peers %v, told of %v; want %v", got, j.peers, want)
	}
}

func TestInterfacesComeAndGo(t *testing.T) {
	w := newWorld(t, 1)
	d := describe(t, 1, 1, "one")
	n := w.add(&Announcement{Channel: d.ID, Port: 1, Item: d.Item})
	w.run(time.Minute)
	wlan := port{2, "wlan0", false}
	n.setLinks(w.now, []port{eth0, wlan})
	n.poll(w.now)
	if len(n.out) != len(scopes) || n.out[0].link != wlan.index {
		t.Errorf("%d datagrams on a new interface, %v", len(n.out), n.out)
	}
	n.out = nil
	n.receive(w.now, arrival{wlan.index, channel.ScopeSite, netip.MustParseAddr("fd00::9"), linkHops}, (&announcement{id: d.ID, port: 1}).append(appendHead(nil, 7)))
	if len(n.engine.channels[d.ID].peers) != 1 {
		t.Error("not heard on the new interface")
	}
	n.setLinks(w.now, []port{eth0})
	if len(n.engine.channels[d.ID].peers) != 0 {
		t.Error("who was heard on an interface that is gone is still there")
	}
	n.receive(w.now, arrival{wlan.index, channel.ScopeSite, netip.MustParseAddr("fd00::9"), linkHops}, (&announcement{id: d.ID, port: 1}).append(appendHead(nil, 7)))
	if len(n.engine.channels[d.ID].peers) != 0 {
		t.Error("heard on an interface that is gone")
	}
	// Nothing at all, as in a train.
	n.setLinks(w.now, nil)
	n.step()
	w.run(time.Minute)
}

func TestAnotherDescriptorOfAViewerIsNoNews(t *testing.T) {
	w, d := crowd(t, 1, 20)
	newer := describe(t, 1, 9, "newer")
	begin := w.now
	for _, n := range w.nodes {
		if !n.self.Source {
			n.announce(&Announcement{Channel: d.ID, Port: n.self.Port, Item: newer.Item})
			n.step()
		}
	}
	w.run(3 * time.Second)
	if n := len(w.announcers(d.ID, begin)); n > 5 {
		t.Errorf("%d announced themselves", n)
	}
}
