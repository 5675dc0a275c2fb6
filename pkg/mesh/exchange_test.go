package mesh

import (
	"fmt"
	"math/bits"
	"net/netip"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

// crowd is a source with room for two streams and viewers that know it alone,
// for so many seconds of a channel of theirs.
func crowd(t *testing.T, viewers int, oneWay time.Duration, seconds int) (w *world, source *host, vs []*host) {
	t.Helper()
	w = newWorld(t, 3)
	w.mesh = true
	s := newStation(t, 1, block.NewRun(epoch, 1), 115*time.Millisecond, 152, 17)
	p := netem.Params{Delay: oneWay / 2} // an uplink and a downlink
	source = w.host("source", s.key.ID(), p, Config{Upload: 8_000_000})
	s.feed(source, time.Second, seconds*1000/115)
	for i := range viewers {
		v := w.host(fmt.Sprint("viewer ", i), s.key.ID(), p, Config{Upload: 8_000_000})
		vs = append(vs, v)
		w.at(2*time.Second+time.Duration(i)*500*time.Millisecond, func() { v.dial(source) })
	}
	return w, source, vs
}

func TestThoseWhoAreNamedAreDialledHoweverFarTheyAre(t *testing.T) {
	for _, oneWay := range []time.Duration{5 * time.Millisecond, 100 * time.Millisecond} {
		w, _, vs := crowd(t, 4, oneWay, 15)
		w.run(15 * time.Second)
		for i, v := range vs {
			for j, o := range vs {
				if i != j && !v.node.linked(o.addr) {
					t.Errorf("%v one way: viewer %d has not met viewer %d", oneWay, i, j)
				}
			}
		}
	}
}

func TestAParentThatMissedAnUnsubscribeIsToldAgain(t *testing.T) {
	w, source, vs := crowd(t, 2, 10*time.Millisecond, 20)
	far, v := vs[0], vs[1]
	w.run(10 * time.Second)
	by := func(h, o *host) *neighbour {
		nb := h.at(o)
		if nb == nil {
			t.Fatal("not linked")
		}
		return nb
	}
	// It pushes all, though what it pushes comes from the source earlier, and
	// then v thinks that it has been told to stop.
	p := &by(far, v).push
	p.setMask(wire.AllFeeds, w.now)
	far.ch.countChildren()
	v.ch.leave(by(v, far))
	by(v, far).asked, by(v, far).changed = 0, false
	by(v, far).notBefore = w.now + time.Minute
	dup := v.node.stats.Duplicates
	w.run(15 * time.Second)
	if p.mask != 0 {
		t.Errorf("after 5 s it still pushes %018b, %d shards for nothing", p.mask, v.node.stats.Duplicates-dup)
	}
	if by(source, v).push.mask == 0 {
		t.Error("the source should push")
	}
}

func TestDeadAddressesAreForgotten(t *testing.T) {
	w, _, vs := crowd(t, 1, 10*time.Millisecond, 1)
	v := vs[0]
	w.run(5 * time.Second)
	for i := range uint16(maxFromOne) {
		v.ch.know(netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), 1000+i), v.ch.neighbours[0], true)
	}
	w.run(90 * time.Second)
	if n := len(v.ch.book); n > 0 {
		t.Errorf("%d of %d are still tried", n, maxFromOne)
	}
}

// What a neighbour no longer calls live has not come from the source itself.
func TestWhatIsNotLiveHasNoNewHop(t *testing.T) {
	w, source, vs := crowd(t, 1, 10*time.Millisecond, 5)
	w.run(4 * time.Second)
	c := vs[0].ch
	nb := c.neighbours[0]
	if nb.peer.link.Addr() != source.addr || c.hop(0) != 1 {
		t.Fatalf("hop %d", c.hop(0))
	}
	state := func(live wire.FeedMask, hop uint8) {
		s := wire.State{Channel: c.tag, Progress: nb.theirs, Holdings: wire.Holdings{Live: live}}
		for i := range s.Holdings.Hop {
			s.Holdings.Hop[i] = hop
		}
		var m wire.State
		if _, b, _, _ := wire.Next(s.Append(nil)); m.Decode(b) != nil {
			t.Fatal("not read back")
		}
		nb.onState(m.Progress, &m.Holdings)
	}
	for _, x := range []struct {
		live wire.FeedMask
		say  uint8
		want int
	}{{1, 4, 5}, {0, 0, 5}, {1, 6, 7}} {
		if state(x.live, x.say); c.hop(0) != x.want {
			t.Errorf("live %b at hop %d: we are at hop %d, want %d", x.live, x.say, c.hop(0), x.want)
		}
	}
}

// idle is a source and one viewer that asks for no feeds, after 4 s; nb is the
// viewer as the source knows it.
func idle(t *testing.T) (w *world, source, v *host, nb *neighbour) {
	t.Helper()
	w, source, vs := crowd(t, 1, 10*time.Millisecond, 10)
	vs[0].ch.waitUntil = Never
	w.run(4 * time.Second)
	return w, source, vs[0], source.ch.neighbours[0]
}

// subscribe gives nb the SUBSCRIBE of a child that has nothing itself.
func (nb *neighbour) subscribe(m wire.Subscribe) {
	m.Channel, m.Run = nb.ch.tag, nb.ch.run
	for i := range m.Hop {
		m.Hop[i] = wire.NoHop
	}
	nb.onSubscribe(&m)
}

func TestABacklogIsSentToWhoWantsNothingElse(t *testing.T) {
	w, source, v, nb := idle(t)
	w.run(10 * time.Second)
	nb.subscribe(wire.Subscribe{Serial: 1, Feeds: wire.AllFeeds &^ wire.Second, BackfillOnly: true, First: wire.FromRAP})
	v.ch.neighbours[0].filling = Never // as if it had asked
	rap := source.ch.rap
	source.node.Flush(w.now)
	source.wake()
	w.run(12 * time.Second)
	if _, ok := v.blocks[rap]; !ok || nb.push.mask != 0 {
		t.Errorf("of the backlog since block %d %d blocks have come; it is pushed %b", rap, len(v.blocks), nb.push.mask)
	}
}

// Datagrams overtake each other: what a child gave back before it asked for
// something else is not taken from it, and what it asked for before it gave
// all back is not pushed.
func TestAnUnsubscribeThatIsOvertaken(t *testing.T) {
	_, source, _, nb := idle(t)
	c := source.ch
	subscribe := func(serial uint16, feeds wire.FeedMask) {
		nb.subscribe(wire.Subscribe{Serial: serial, Feeds: feeds, First: wire.FromNext})
	}
	for k, x := range []struct {
		subscribed, unsubscribed uint16
		feeds, want              wire.FeedMask
	}{
		{10, 9, wire.AllFeeds, 3},  // the SUBSCRIBE came first
		{11, 11, 1, 2},             // what was pushed unasked
		{12, 12, wire.AllFeeds, 0}, // in order
		{12, 12, 0, 0},             // the SUBSCRIBE again, late
	} {
		subscribe(x.subscribed, 3)
		nb.onUnsubscribe(&wire.Unsubscribe{Channel: c.tag, Serial: x.unsubscribed, Feeds: x.feeds})
		if nb.push.mask != x.want {
			t.Errorf("case %d: %b is pushed, want %b", k, nb.push.mask, x.want)
		}
	}
	nb.onUnsubscribe(&wire.Unsubscribe{Channel: c.tag, Serial: 13, Feeds: wire.AllFeeds})
	for serial := range uint16(3) {
		if subscribe(13-serial, 3); nb.push.mask != 0 {
			t.Errorf("%b is pushed to who has given all back", nb.push.mask)
		}
	}
	nb.subSerial = 65535
	subscribe(0, 3)
	nb.onUnsubscribe(&wire.Unsubscribe{Channel: c.tag, Serial: 65535, Feeds: 1})
	if nb.push.mask != 3 {
		t.Errorf("%b is pushed behind the wrap", nb.push.mask)
	}
}

// A child cannot have manifests sent before all else over and over, not by
// giving back what it has and asking for it again either.
func TestManifestsThatAreAskedForAgainWaitTheirTurn(t *testing.T) {
	_, source, _, nb := idle(t)
	c := source.ch
	first := 0
	for k := range uint16(20) {
		nb.subscribe(wire.Subscribe{Serial: k + 1, Feeds: 1, First: c.next - 10})
		for b := c.next - 8; b < c.next-4; b++ {
			nb.onRequest(&wire.Request{Channel: c.tag, Name: block.Name{Run: c.run, Number: b}, Manifest: true})
			if d := nb.push.debt(b); d != nil && d.manifest&(manifestWanted|manifestAsked) == manifestWanted {
				first++
			}
		}
		nb.onUnsubscribe(&wire.Unsubscribe{Channel: c.tag, Serial: k + 1, Feeds: wire.AllFeeds})
	}
	if first == 0 || first > firstBurst {
		t.Errorf("%d manifests go before all else, want up to %d", first, firstBurst)
	}
}

// Many requests that are refused at once are one refusal; the next makes the
// pause longer, and a shard or some seconds make it short again.
func TestWhoIsBusyIsLeftAloneLongerEachTime(t *testing.T) {
	w, _, vs := crowd(t, 1, 10*time.Millisecond, 5)
	w.run(4 * time.Second)
	v := vs[0]
	nb, n := v.ch.neighbours[0], v.node
	refuse := func() time.Duration {
		for k := range block.Number(5) {
			nb.onRefuse(&wire.Refuse{Channel: v.ch.tag, Name: block.Name{Run: v.ch.run, Number: v.ch.next - k}, Reason: wire.RefuseBusy})
		}
		return nb.busyUntil - n.now
	}
	for k := range 6 {
		mean := busyTime << min(k, busyTwice)
		if d := refuse(); d < mean/2 || d > mean*3/2 {
			t.Errorf("refusal %d: it is asked nothing for %v, want %v in the mean", k, d, mean)
		}
		n.now = nb.busyUntil
	}
	n.now += busyForgotten + 1
	if d := refuse(); d > busyTime*3/2 {
		t.Errorf("after %v it is asked nothing for %v", busyForgotten, d)
	}
}

// The stripe that its child wants half of may be refused: no other is halved.
func TestOnlyTheStripeThatWasNamedIsHalved(t *testing.T) {
	w, source, _ := crowd(t, 1, 10*time.Millisecond, 5)
	w.run(4 * time.Second)
	p := &source.ch.neighbours[0].push
	s := source.ch.slot(source.ch.next - 1)
	for _, x := range []struct {
		granted wire.FeedMask
		want    int
	}{{1<<3 | 1<<12, 3}, {1 << 3, 2}, {1 << 12, 1}} {
		p.subscribe(&wire.Subscribe{Feeds: 1<<3 | 1<<12, Half: true, First: wire.FromNext}, x.granted)
		if got := bits.OnesCount64(p.wanted(s.b.Manifest())); got != x.want {
			t.Errorf("%b: %d shards a block, want %d", x.granted, got, x.want)
		}
	}
}

func TestWhatIsDialledBecauseOthersSaySo(t *testing.T) {
	for _, x := range []struct {
		addr, by string
		want     bool
	}{
		{"[2001:db8::1]:6466", "[2001:db8::2]:6466", true},
		{"[fd00::1]:6466", "[2001:db8::2]:6466", true},
		{"[::1]:6466", "[::1]:6467", true},
		{"[::1]:6466", "[2001:db8::2]:6466", false},
		{"[2001:db8::1]:0", "[2001:db8::2]:6466", false},
		{"[fe80::1]:6466", "[fe80::2]:6466", false},
		{"[ff02::1]:6466", "[2001:db8::2]:6466", false},
		{"[::]:6466", "[2001:db8::2]:6466", false},
		{"[::ffff:192.0.2.1]:6466", "[2001:db8::2]:6466", false},
		{"192.0.2.1:6466", "[2001:db8::2]:6466", false},
	} {
		if got := dialable(netip.MustParseAddrPort(x.addr), netip.MustParseAddrPort(x.by)); got != x.want {
			t.Errorf("%s, named by %s: %v", x.addr, x.by, got)
		}
	}
}

// Only those whom a person named are dialled for ever.
func TestWhoWasNamedByOthersIsNotKept(t *testing.T) {
	w, source, vs := crowd(t, 6, 30*time.Millisecond, 15)
	for _, v := range vs[1:] { // told at once of each other, they dial at once
		w.at(7*time.Second, func() {
			for _, o := range vs {
				if o != v {
					v.node.dialNamed(v.ch, o.addr, nil)
				}
			}
			v.node.dialNamed(v.ch, source.addr, nil)
			v.wake()
		})
	}
	w.run(15 * time.Second)
	for i, v := range vs {
		for _, nb := range v.ch.neighbours {
			named := nb.peer.link.Addr() != source.addr
			if nb.dialled && nb.lead != named {
				t.Errorf("viewer %d: %v dialled %v, lead %v", i, nb.peer.link.Addr(), nb.dialled, nb.lead)
			}
		}
	}
}

// A link of our own that loses everything for a moment makes nobody silent,
// but one neighbour that says nothing while others do is.
func TestWhoHearsNobodyBlamesNobody(t *testing.T) {
	var e ear
	now := Time(0)
	for range 200 {
		now += 4 * time.Millisecond
		if e.hear(now) {
			t.Fatalf("deaf after 4 ms at %v", now)
		}
	}
	for _, x := range []struct {
		after time.Duration
		deaf  bool
	}{{30 * time.Millisecond, false}, {120 * time.Millisecond, true}, {600 * time.Millisecond, false}} {
		if deaf := e.deaf(now+x.after) > 0; deaf != x.deaf {
			t.Errorf("nothing from anybody for %v: deaf %v", x.after, deaf)
		}
	}
	if !e.hear(now+120*time.Millisecond) || e.hear(now+124*time.Millisecond) {
		t.Error("the first datagram afterwards ends it")
	}
	// What then comes is a word now and then: the one who brought the rest is gone.
	if now += 324 * time.Millisecond; e.deaf(now) > 0 || e.hear(now) || e.deaf(now+200*time.Millisecond) > 0 {
		t.Error("deaf again, though only a few had come in between")
	}
	// Where little comes at all, a pause says nothing.
	e, now = ear{}, 0
	for range 200 {
		now += 40 * time.Millisecond
		e.hear(now)
	}
	if e.deaf(now+200*time.Millisecond) > 0 {
		t.Error("deaf after five of the usual gaps")
	}

	w, _, vs := crowd(t, 3, 10*time.Millisecond, 8)
	w.run(7 * time.Second)
	nb := vs[0].ch.neighbours[0]
	n := vs[0].node
	n.now = n.ear.last + 120*time.Millisecond
	if s := nb.silence(); s > 60*time.Millisecond {
		t.Errorf("while we are deaf it counts as silent for %v", s)
	}
	n.ear.last = n.now
	if s := nb.silence(); s < 120*time.Millisecond {
		t.Errorf("while others speak it counts as silent for %v", s)
	}
}

// What a neighbour takes to answer is measured by requests that nothing else
// can have answered.
func TestTurnaround(t *testing.T) {
	var a turnaround
	a.asked(time.Millisecond)
	a.answered(81 * time.Millisecond)
	if a.Smoothed != 80*time.Millisecond || a.Deviation != 40*time.Millisecond {
		t.Errorf("after one answer: %v ± %v", a.Smoothed, a.Deviation)
	}
	a.asked(time.Second)
	a.asked(1100 * time.Millisecond) // which of the two is answered is not known
	a.answered(1120 * time.Millisecond)
	if a.Smoothed != 80*time.Millisecond {
		t.Errorf("an answer to either of two: %v", a.Smoothed)
	}
	for k := range 40 {
		at := Time(2+k) * time.Second
		a.asked(at)
		a.answered(at + 20*time.Millisecond)
		a.answered(at + 500*time.Millisecond) // the rest of the same answer
	}
	if a.Smoothed > 25*time.Millisecond || a.Deviation > 5*time.Millisecond {
		t.Errorf("after forty answers in 20 ms: %v ± %v", a.Smoothed, a.Deviation)
	}
}

// What a request is to bring is not requested again before its time, and what
// becomes overdue meanwhile is requested at once.
func TestRequestsUnderWay(t *testing.T) {
	w, _, vs := crowd(t, 2, 10*time.Millisecond, 8)
	w.run(7 * time.Second)
	c := vs[1].ch
	n := c.node
	s := c.slot(c.next - 1)
	if s == nil || s.b == nil {
		t.Fatal("no block")
	}
	s.out, s.outUntil = 1<<3|1<<7, n.now+100*time.Millisecond
	if got := c.outstanding(s); got != 1<<3|1<<7 {
		t.Errorf("outstanding %b", got)
	}
	nb := c.neighbours[0]
	nb.last = lastAsk{s.number, 1 << 7}
	nb.onRefuse(&wire.Refuse{Channel: c.tag, Name: block.Name{Run: c.run, Number: s.number}, Reason: wire.RefuseBusy})
	if got := c.outstanding(s); got != 1<<3 {
		t.Errorf("after a refusal outstanding %b", got)
	}
	n.now = s.outUntil
	if got := c.outstanding(s); got != 0 {
		t.Errorf("after its time outstanding %b", got)
	}
}
