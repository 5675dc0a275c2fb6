package mesh

import (
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/wire"
)

// at is what h knows of another host, nil if they have no link.
func (h *host) at(of *host) *neighbour {
	for _, nb := range h.ch.neighbours {
		if nb.peer.link.Addr() == of.addr {
			return nb
		}
	}
	return nil
}

// threeHosts are a source, a relay that has it from there, and a viewer that has
// most from the relay.
func threeHosts(t *testing.T, seed uint64) (w *world, source, relay, v *host) {
	w = newWorld(t, seed)
	w.mesh = true
	s := newDefaultStation(t)
	id := s.key.ID()
	source = w.host("source", id, near(), Config{})
	relay = w.host("relay", id, near(), Config{})
	v = w.host("viewer", id, near(), Config{})
	relay.dial(source)
	w.at(time.Second, func() { v.dial(relay) })
	w.at(2*time.Second, func() { v.dial(source) })
	w.at(2500*time.Millisecond, func() {
		for i := range 3 {
			v.ch.take(i, v.at(source))
		}
		v.node.Flush(w.now)
		v.wake()
	})
	s.feed(source, 0, 70)
	w.run(6 * time.Second)
	t.Logf("from the source %018b, from the relay %018b", v.ch.feedsOf(v.at(source)), v.ch.feedsOf(v.at(relay)))
	return
}

// tells hands v an answer to its last SUBSCRIBE: what is granted of it, and
// which feeds the other wants to be asked for.
func tells(nb *neighbour, granted, askMe wire.FeedMask) {
	m := wire.Subscribed{Channel: nb.ch.tag, Serial: nb.serial, Feeds: granted, Reason: wire.GrantFull}
	if granted == nb.asked {
		m.Reason = wire.Granted
	}
	if askMe != 0 {
		m.Redirects[0], m.Redirect = wire.Redirect{Feeds: askMe}, 1
	}
	nb.onSubscribed(&m)
}

// What the source says unasked, that stripes have fallen free, was not read
// where it refused nothing with the same message.
func TestOfferWithoutARefusalIsRead(t *testing.T) {
	_, source, relay, v := threeHosts(t, 5)
	nb, r := v.at(source), v.at(relay)
	for i := range v.ch.feeds[:wire.FeedManifest] {
		f := &v.ch.feeds[i]
		if f.from != r || f.next != nil {
			continue
		}
		r.paused = v.node.now // it is gone
		tells(nb, nb.asked, 1<<i)
		if f.next != nb {
			t.Errorf("stripe %d: the source's offer was not taken", i)
		}
		return
	}
	t.Fatal("the relay pushes nothing to the viewer")
}

// Somebody who claims to be beside the source refuses everything and says "ask
// me" for it: feeds that fell free were his at once, again and again, and the
// viewer saw nothing any more.
func TestWhoRefusesIsNotAskedAgain(t *testing.T) {
	_, source, _, v := threeHosts(t, 6)
	nb := v.at(source)
	had := v.ch.feedsOf(nb).Stripes()
	if onesCount(had) < 2 {
		t.Fatal("the source pushes next to nothing to the viewer")
	}
	tells(nb, 0, wire.AllFeeds)
	if again := v.ch.feedsOf(nb).Stripes() & had; again != 0 {
		t.Errorf("what it refused it is asked for at once: %016b", again)
	}
	// Two feeds in turn: he refuses the one and offers the other.
	one := wire.FeedMask(lowest(had, 1))
	other := wire.FeedMask(had) &^ one
	asked := 0
	for range 10 {
		nb.asked = one
		tells(nb, 0, other)
		if v.ch.feedsOf(nb)&other != 0 {
			asked++
		}
		for i := range v.ch.feeds {
			v.ch.part(i, nb)
		}
		one, other = other, one
	}
	if asked > 2 {
		t.Errorf("%d of 10 times what he offers is asked for, though he refuses what he offered", asked)
	}
}

// A parent whose STATE says for a moment that a feed is dead, and then that it
// lives, was asked to take that feed over from itself, and nobody else was.
func TestDryFeedIsNotTakenOverByItsOwnParent(t *testing.T) {
	_, _, relay, v := threeHosts(t, 5)
	c, r := v.ch, v.at(relay)
	for i := range c.feeds[:wire.FeedManifest] {
		f := &c.feeds[i]
		if f.from != r || f.next != nil {
			continue
		}
		alive := r.held
		dead := alive
		dead.Live &^= 1 << i
		r.onState(r.theirs, &dead)
		if f.dry == 0 || c.live().Has(i) {
			t.Fatalf("stripe %d is dead at its parent: dry since %v, live %v", i, f.dry, c.live().Has(i))
		}
		f.dry -= dryWait + time.Millisecond
		r.onState(r.theirs, &alive)
		c.assign()
		if f.next == r {
			t.Error("the parent of a dry feed is asked to take over from itself")
		}
		// Those below know that it is dead: a new parent that has brought
		// nothing does not make it live.
		f.next, f.dry = nil, v.node.now
		c.part(i, r)
		if c.begin(f, r); c.live().Has(i) {
			t.Error("a dry feed lives again before its new parent has brought anything")
		}
		return
	}
	t.Fatal("the relay pushes nothing to the viewer")
}

// One copy of the manifests dries out, the other comes. a, who passes them on,
// took the first from d, who has it from b, who has it from a, and did so until
// the parent of the second was gone as well.
func TestManifestsDoNotGoRound(t *testing.T) {
	w := newWorld(t, 1)
	s := newDefaultStation(t)
	id := s.key.ID()
	p := netem.Params{Delay: 2 * time.Millisecond}
	hosts := map[string]*host{}
	for _, name := range []string{"source", "p1", "x", "p2", "a", "b", "d"} {
		hosts[name] = w.host(name, id, p, Config{})
	}
	a, d := hosts["a"], hosts["d"]
	s.feed(hosts["source"], 0, 250)
	for i, x := range [][2]string{{"p1", "source"}, {"x", "source"}, {"p2", "x"}, {"a", "p1"}, {"b", "a"}, {"d", "b"}, {"a", "p2"}, {"a", "d"}} {
		w.at(time.Duration(i)*500*time.Millisecond, func() { hosts[x[0]].dial(hosts[x[1]]) })
	}
	for at := Time(0); at < 20*time.Second; at += 100 * time.Millisecond {
		w.at(at, func() { a.ch.liars = offences{{at: w.now}} }) // it does not try others of its own accord
	}
	w.run(8 * time.Second)
	first := &a.ch.feeds[wire.FeedManifest]
	if first.from == nil || first.from == a.at(d) {
		t.Fatal("a has the manifests from nobody or from d")
	}
	w.hosts[first.from.peer.link.Addr()].dead = true
	for w.now < 20*time.Second {
		w.run(w.now + 100*time.Millisecond)
		if w.now > 12*time.Second && first.from == a.at(d) {
			t.Fatalf("after %v the manifests go round", w.now)
		}
	}
}

// Two neighbours claim during a lull of the source that the channel goes on.
// The others, who have nothing to bring, were distrusted for it.
func TestWordOfOthersInALullBlamesNobody(t *testing.T) {
	w := newWorld(t, 10)
	s := newDefaultStation(t)
	id := s.key.ID()
	source := w.host("source", id, near(), Config{})
	v := w.host("viewer", id, near(), Config{})
	var relays []*host
	for i := range 6 {
		r := w.host("relay"+string(rune('0'+i)), id, near(), Config{})
		r.dial(source)
		v.dial(r)
		relays = append(relays, r)
	}
	const lull = 8 * time.Second
	for at := s.every; at < lull; at += s.every {
		w.at(at, func() { s.block(source, false) })
	}
	for at := lull + 500*time.Millisecond; at < lull+3*time.Second; at += 50 * time.Millisecond {
		w.at(at, func() {
			for _, liar := range relays[:2] {
				if nb := v.at(liar); nb != nil {
					nb.theirs.Newest = v.ch.next + 3
				}
			}
		})
	}
	w.run(lull + 3*time.Second)
	for _, r := range relays[2:] {
		if nb := v.at(r); nb == nil || nb.distrust > 0 || nb.suspect() {
			t.Errorf("%s is blamed for the source's lull", r.name)
		}
	}
}

// Who brings most of what he granted is not to blame for what has dried out
// above him; but who withholds a feed that he calls live is.
func TestExcusedIsWhoSaysWhatHeLacks(t *testing.T) {
	_, _, relay, v := threeHosts(t, 5)
	c, r := v.ch, v.at(relay)
	for i := range c.feeds[:wire.FeedManifest] {
		f := &c.feeds[i]
		if f.from != r {
			continue
		}
		if !c.mostly(r) || c.excused(f, i) {
			t.Errorf("stripe %d, which its parent calls live: mostly %v, excused %v", i, c.mostly(r), c.excused(f, i))
		}
		r.held.Live &^= 1 << i
		if !c.excused(f, i) {
			t.Errorf("stripe %d, which its parent says it lacks, is held against it", i)
		}
		return
	}
	t.Fatal("the relay pushes nothing to the viewer")
}
