package mesh

import (
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

const blockTime = 115 * time.Millisecond // a full block of two rows at 2 Mbit/s

func wan() netem.Params { return netem.Params{Delay: 12500 * time.Microsecond} }

func lossy(p float64) netem.Params {
	q := wan()
	q.Loss = p / 2
	return q
}

func newDefaultStation(t testing.TB) *station {
	return newStation(t, 1, block.NewRun(epoch, 1), blockTime, 152, 17)
}

func TestLateJoinerGetsTheLastRandomAccessPoint(t *testing.T) {
	w := newWorld(t, 1)
	s := newDefaultStation(t)
	source := w.host("source", s.key.ID(), wan(), Config{})
	relay := w.host("relay", s.key.ID(), wan(), Config{})
	relay.dial(source)
	s.feed(source, 0, 200)
	v := w.host("viewer", s.key.ID(), wan(), Config{})
	joined := 11700 * time.Millisecond // block 100 is the newest, its GOP began at 85
	w.at(joined, func() { v.dial(relay) })
	w.run(30 * time.Second)

	first := wire.NoNumber
	var at Time
	for n, when := range v.blocks {
		if n < first {
			first, at = n, when
		}
	}
	if first != 85 {
		t.Errorf("first block is %d, want the random access point 85", first)
	}
	if d := at - joined; d > 200*time.Millisecond {
		t.Errorf("first block after %v, want two round trips of 50 ms and a little", d)
	}
	s.whole(t, v, first)
	caught := v.blocks[100] - joined
	t.Logf("first block after %v, a whole GOP after %v", at-joined, caught)
}

// TestYoungRunIsJoinedFromItsBeginning: who comes a moment late, after a lost
// join perhaps, misses nothing, though there have been later random access
// points.
func TestYoungRunIsJoinedFromItsBeginning(t *testing.T) {
	w := newWorld(t, 15)
	s := newStation(t, 1, block.NewRun(epoch, 1), blockTime, 152, 3)
	id := s.key.ID()
	source := w.host("source", id, lossy(0.05), Config{})
	relay := w.host("relay", id, lossy(0.05), Config{})
	v := w.host("viewer", id, lossy(0.05), Config{})
	s.feed(source, 0, 60)
	w.at(600*time.Millisecond, func() { relay.dial(source) })
	w.at(1200*time.Millisecond, func() { v.dial(relay) })
	w.run(12 * time.Second)
	s.whole(t, relay, 0)
	s.whole(t, v, 0)
}

func TestNewRunReplacesTheOld(t *testing.T) {
	w := newWorld(t, 2)
	s := newDefaultStation(t)
	s2 := newStation(t, 1, block.NewRun(epoch.Add(8*time.Second), 1), blockTime, 152, 17)
	source := w.host("source", s.key.ID(), lossy(0.02), Config{})
	relay := w.host("relay", s.key.ID(), lossy(0.02), Config{})
	v := w.host("viewer", s.key.ID(), lossy(0.02), Config{})
	relay.dial(source)
	v.dial(relay)
	s.feed(source, 0, 60) // 6.9 s
	s2.feed(source, 8*time.Second, 60)
	w.run(20 * time.Second)
	s2.whole(t, v, 0)
	if len(v.runs) != 2 || v.saw(EventNewRun) != 1 {
		t.Errorf("runs %v, %d events", v.runs, v.saw(EventNewRun))
	}
	if n := v.saw(EventClosed); n != 0 {
		t.Errorf("%d links were closed: a new run must not disturb them", n)
	}
}

func TestReplayedOldRunNeverWins(t *testing.T) {
	w := newWorld(t, 3)
	s := newDefaultStation(t)
	old := newStation(t, 1, block.NewRun(epoch.Add(-24*time.Hour), 9), blockTime, 152, 17)
	source := w.host("source", s.key.ID(), wan(), Config{})
	replayer := w.host("replayer", s.key.ID(), wan(), Config{})
	v := w.host("viewer", s.key.ID(), wan(), Config{})
	v.dial(replayer) // the first to answer becomes the parent
	w.at(3*time.Second, func() { v.dial(source) })
	old.feed(replayer, 0, 100)
	s.feed(source, 0, 100)
	w.run(14 * time.Second)
	if v.run != s.enc.Next().Run {
		t.Errorf("the viewer holds run %v, want the newer %v", v.run, s.enc.Next().Run)
	}
	// The last block is there: the viewer lives on the newer source.
	if _, ok := v.blocks[99]; !ok {
		t.Error("the newest block of the newer run did not come")
	}
}

func TestOlderSourceLearnsThatItIsSuperseded(t *testing.T) {
	w := newWorld(t, 4)
	s1 := newDefaultStation(t)
	s2 := newStation(t, 1, block.NewRun(epoch.Add(5*time.Second), 1), blockTime, 152, 17)
	id := s1.key.ID()
	a := w.host("a", id, wan(), Config{})
	b := w.host("b", id, wan(), Config{})
	v := w.host("viewer", id, wan(), Config{})
	v.dial(a)
	v.dial(b)
	s1.feed(a, 0, 150)
	s2.feed(b, 5*time.Second, 80)
	w.run(15 * time.Second)
	if a.saw(EventSuperseded) == 0 {
		t.Error("the older source was not told")
	}
	if b.saw(EventSuperseded) != 0 {
		t.Error("the newer source was told to stop")
	}
	s2.whole(t, v, 0)
}

func TestMulticastFiveReceivers(t *testing.T) {
	for _, rate := range []struct {
		name    string
		packets int
		every   time.Duration
	}{{"1 Mbit/s", 76, 114 * time.Millisecond}, {"8 Mbit/s", 306, 57 * time.Millisecond}} {
		t.Run(rate.name, func(t *testing.T) {
			w := newWorld(t, 5)
			s := newStation(t, 1, block.NewRun(epoch, 1), rate.every, rate.packets, 17)
			id := s.key.ID()
			source := w.host("source", id, netem.Params{Delay: 200 * time.Microsecond}, Config{})
			source.ch.SendToGroup(source.addr)
			var vs []*host
			for _, name := range []string{"a", "b", "c", "d", "e"} {
				v := w.host(name, id, netem.Params{Delay: 200 * time.Microsecond, Loss: 0.05}, Config{})
				v.up.SetParams(netem.Params{Delay: 200 * time.Microsecond})
				v.group = true
				v.ch.ListenToGroup()
				vs = append(vs, v)
			}
			const blocks = 200
			s.feed(source, time.Second, blocks)
			w.run(time.Second + blocks*rate.every + 5*time.Second)
			stream := float64(blocks * rate.packets * 188)
			for _, v := range vs {
				s.whole(t, v, 0)
				st := v.node.Stats()
				d := v.inOrder()
				t.Logf("%s: p50 %v p99 %v max %v requests %d repaired %d rebuilt %d received %.3f", v.name, percentile(d, .5), percentile(d, .99), percentile(d, 1),
					st.Requests, st.Repaired, st.Rebuilt, float64(v.received)/stream)
			}
			wire := float64(source.sent) / stream
			t.Logf("on the wire: %.3f of the stream; %d repairs to the group, mask %016b", wire, source.node.Stats().GroupRepairs, source.ch.group.push.mask)
			if wire > 1.5 {
				t.Errorf("the wire carries %.3f of the stream, want at most 1.5", wire)
			}
		})
	}
}

func TestMulticastSenderCutFor2Seconds(t *testing.T) {
	w := newWorld(t, 6)
	s := newDefaultStation(t)
	id := s.key.ID()
	p := netem.Params{Delay: 200 * time.Microsecond, Loss: 0.02}
	source := w.host("source", id, p, Config{Patience: time.Second})
	source.ch.SendToGroup(source.addr)
	v := w.host("v", id, p, Config{Patience: time.Second})
	v.group = true
	v.ch.ListenToGroup()
	s.feed(source, 0, 150)
	cut := 8 * time.Second
	w.at(cut, func() {
		source.up.CutUntil(cut + 2*time.Second)
		source.down.CutUntil(cut + 2*time.Second)
	})
	w.run(25 * time.Second)
	lost := 0
	for n := range s.sums {
		if _, ok := v.blocks[n]; !ok {
			lost++
			made := time.Duration(n+1) * blockTime
			if made < cut-100*time.Millisecond || made > cut+2*time.Second+100*time.Millisecond {
				t.Errorf("block %d, made at %v, is missing: it was not under way during the cut", n, made)
			}
		}
	}
	t.Logf("%d blocks lost", lost)
}

func TestMulticastFallsBackToUnicast(t *testing.T) {
	w := newWorld(t, 7)
	s := newDefaultStation(t)
	id := s.key.ID()
	p := netem.Params{Delay: 200 * time.Microsecond}
	source := w.host("source", id, p, Config{})
	source.ch.SendToGroup(source.addr)
	v := w.host("v", id, p, Config{})
	v.group = true
	v.ch.ListenToGroup()
	s.feed(source, 0, 200)
	w.at(8*time.Second, func() { v.group = false }) // the switch forgets the group
	w.at(15*time.Second, func() { v.group = true })
	w.run(25 * time.Second)
	s.whole(t, v, 0)
	if v.ch.taken() != 0 {
		t.Error("still on unicast though the group is back")
	}
}

func TestUploadCapHolds(t *testing.T) {
	w := newWorld(t, 8)
	s := newDefaultStation(t)
	id := s.key.ID()
	source := w.host("source", id, wan(), Config{Upload: 6_000_000})
	var vs []*host
	for i := range 5 {
		v := w.host(string(rune('a'+i)), id, wan(), Config{})
		vs = append(vs, v)
		w.at(time.Duration(i)*time.Second, func() { v.dial(source) })
	}
	s.feed(source, 0, 200)
	last, worst := 0, 0.0
	for now := time.Second; now < 23*time.Second; now += time.Second {
		w.run(now)
		rate := float64(source.sent-last) * 8
		last = source.sent
		worst = max(worst, rate)
	}
	if worst > 6_000_000*1.03 {
		t.Errorf("sent %.2f Mbit/s in one second, the cap is 6", worst/1e6)
	}
	full := 0
	for _, v := range vs {
		if len(v.blocks) > 150 {
			full++
		}
		t.Logf("%s: %d blocks, %d refusals", v.name, len(v.blocks), v.saw(EventFull))
	}
	if full != 2 {
		t.Errorf("%d viewers are served whole, want 2: those who came first", full)
	}
}

func TestParentThatWithholdsIsReplaced(t *testing.T) {
	w := newWorld(t, 9)
	s := newDefaultStation(t)
	id := s.key.ID()
	source := w.host("source", id, wan(), Config{})
	bad := w.host("bad", id, wan(), Config{})
	good := w.host("good", id, wan(), Config{})
	v := w.host("viewer", id, wan(), Config{})
	bad.dial(source)
	good.dial(source)
	v.dial(bad)
	w.at(2*time.Second, func() { v.dial(good) })
	w.tamper = func(from, to *host, b []byte) []byte {
		// From 6 s on the bad one answers everything and sends no media.
		if from == bad && to == v && w.now > 6*time.Second && b[0] >= 0x80 && (b[8] == wire.TypeShard || b[8] == wire.TypeManifest) {
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
}

// TestRelayStartedAgain: a relay dies without a word and is started again,
// with a new key, at its old address. Whoever lives on it is back soon after,
// long before the old link is declared dead.
func TestRelayStartedAgain(t *testing.T) {
	w := newWorld(t, 14)
	s := newDefaultStation(t)
	id := s.key.ID()
	source := w.host("source", id, wan(), Config{})
	relay := w.host("relay", id, wan(), Config{})
	v := w.host("viewer", id, wan(), Config{})
	relay.dial(source)
	v.dial(relay)
	s.feed(source, 0, 200)
	w.at(6*time.Second, func() { relay.dead = true })
	back := 8 * time.Second
	w.at(back, func() {
		again := w.host("relay again", id, wan(), Config{})
		delete(w.hosts, again.addr)
		again.addr = relay.addr
		w.hosts[relay.addr] = again
		again.dial(source)
	})
	w.run(30 * time.Second)
	first := Never
	for _, at := range v.blocks {
		if at > back {
			first = min(first, at)
		}
	}
	if first-back > time.Second {
		t.Errorf("blocks come again %v after the relay was started again", first-back)
	}
	t.Logf("blocks come again after %v; %d of %d blocks came", first-back, len(v.blocks), len(s.sums))
	if _, ok := v.blocks[199]; !ok {
		t.Error("the last block did not come")
	}
}

// TestChainAroundARelayStartedAgain: who has but one parent, and children whose
// words still come, misses the parent as soon as who has none.
func TestChainAroundARelayStartedAgain(t *testing.T) {
	for k := range 8 {
		w := newWorld(t, uint64(14+k))
		s := newDefaultStation(t)
		id := s.key.ID()
		p := netem.Params{Delay: 5 * time.Millisecond}
		source := w.host("source", id, netem.Params{}, Config{})
		dies, behind := w.host("relay", id, p, Config{}), w.host("relay behind", id, p, Config{})
		viewers := []*host{w.host("viewer", id, p, Config{}), w.host("other viewer", id, p, Config{})}
		dies.dial(source)
		behind.dial(dies)
		for _, v := range viewers {
			v.dial(behind)
		}
		s.feed(source, 0, 100)
		at := 3*time.Second + time.Duration(k)*29*time.Millisecond
		back := at + time.Second
		w.at(at, func() { dies.dead = true })
		w.at(back, func() {
			again := w.host("relay again", id, p, Config{})
			delete(w.hosts, again.addr)
			again.addr = dies.addr
			w.hosts[again.addr] = again
			again.dial(source)
		})
		w.run(back + time.Second)
		for _, v := range viewers {
			first := Never
			for _, at := range v.blocks {
				if at > back {
					first = min(first, at)
				}
			}
			if first == Never {
				t.Errorf("the relay dies at %v: a second after it is back nothing has come to the %s", at, v.name)
			}
		}
	}
}

func TestParentDiesAndComesBack(t *testing.T) {
	w := newWorld(t, 10)
	s := newDefaultStation(t)
	id := s.key.ID()
	source := w.host("source", id, wan(), Config{})
	v := w.host("viewer", id, wan(), Config{})
	v.dial(source)
	s.feed(source, 0, 400)
	w.at(8*time.Second, func() { source.up.CutUntil(20 * time.Second); source.down.CutUntil(20 * time.Second) })
	w.run(50 * time.Second)
	lateOnes := 0
	for n := range s.sums {
		if _, ok := v.blocks[n]; !ok {
			lateOnes++
			if made := time.Duration(n+1) * blockTime; made > 22*time.Second || made < 7900*time.Millisecond {
				t.Errorf("block %d, made at %v, is missing", n, made)
			}
		}
	}
	t.Logf("%d blocks lost in a cut of 12 s", lateOnes)
}
