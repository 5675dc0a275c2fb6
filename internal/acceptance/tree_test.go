//go:build linux

package acceptance

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

// A source, two relays behind it, two viewers behind each, and one behind a viewer, which passes on what it gets: all have
// every byte.
func TestTree(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	h := testnet.New(t, testnet.Config{Seed: 3, Acquainted: true, Hosts: testnet.Hosts(8, netem.Params{}, netem.Params{Delay: 10 * time.Millisecond, Loss: 0.01})}).Hosts()
	src := s.source(h[0])
	s.join(h[1], h[0])
	s.join(h[2], h[0])
	viewers := []*viewer{
		s.watch(h[3], h[1]), s.watch(h[4], h[1], listen()...),
		s.watch(h[5], h[2]), s.watch(h[6], h[2]),
		s.watch(h[7], h[4]),
	}
	ready()
	src.air(clipH264.path(t))
	for _, v := range viewers {
		v.ends(0, time.Minute)
	}
	pieces := src.truth.all(t)
	for _, v := range viewers {
		exact(t, v.name, pieces, v.out.bytes(), 3*time.Second)
		r := v.report()
		t.Logf("%s: delay of a byte p50 %.0f ms, p99 %.0f ms; %s", v.name, r.ByteDelay.P50, r.ByteDelay.P99, worst(t, pieces, v.out))
	}
}

// When a relay in a chain is killed and started again, those behind it come back by themselves.
func TestRelayKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	c := newChain(t, 3, netem.Params{Delay: 10 * time.Millisecond}, 1)
	a, b := c.watch(c.end(), c.last()), c.watch(c.end(), c.last())
	c.src.air(clipH264.path(t), "--loop")
	for _, v := range []*viewer{a, b} {
		v.writes(500*packet, patience)
	}
	c.relays[0].kill() // the middle one: the last relay has to come back too
	time.Sleep(time.Second)
	again := time.Now()
	c.join(c.host(1), c.host(0))
	for _, v := range []*viewer{a, b} {
		// What was on its way when the relay was killed has long been written.
		had := v.out.len()
		v.writes(had+1, patience)
		back := time.Since(again)
		for _, s := range v.out.stamps() {
			if s.end > had {
				back = s.at.Sub(again)
				break
			}
		}
		t.Logf("%s wrote again %v after the relay was started again", v.name, back.Round(time.Millisecond))
		if back > 3*time.Second {
			t.Errorf("%s needed %v, want at most 3 s: a silent peer is dialled anew after 1.2 s", v.name, back)
		}
	}
	time.Sleep(2 * time.Second)
	c.src.ingest.signal(2)
	c.src.ingest.ends(0, 5*time.Second)
	pieces := c.src.truth.all(t)
	for _, v := range []*viewer{a, b} {
		v.ends(0, patience)
		p, err := match(pieces, v.out.bytes(), false)
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		r := v.report()
		t.Logf("%s lost %d blocks (it says %d, %.0f ms)", v.name, len(p.missing), r.LostBlocks, r.LostMS)
		if int(r.LostBlocks) != len(p.missing) || p.last < lastFull(pieces) {
			t.Errorf("%s: %d blocks are missing, it reports %d; the last is %d of %d", v.name, len(p.missing), r.LostBlocks, p.last, lastFull(pieces))
		}
	}
}

// Who leaves says so: nothing more is sent to them.
func TestLeave(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	h := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(3, netem.Params{}, netem.Params{Delay: 10 * time.Millisecond})}).Hosts()
	stats := filepath.Join(s.dir, "stats")
	src := s.source(h[0], "--stats=50ms", "--stats-file", stats)
	src.air(clipH264.path(t), "--loop")
	stays, leaves := s.watch(h[1], h[0]), s.watch(h[2], h[0])
	stays.writes(500*packet, patience)
	leaves.writes(500*packet, patience)
	var st struct{ Links, Children int }
	eventually(t, 5*time.Second, "two children are counted", func() bool { return lastStats(stats, &st) == nil && st.Children == 2 })
	begin := time.Now()
	leaves.stop()
	eventually(t, time.Second, "one child is left", func() bool { return lastStats(stats, &st) == nil && st.Children == 1 && st.Links == 1 })
	t.Logf("the relay knew %v after the signal", time.Since(begin).Round(10*time.Millisecond))
	before := h[2].Traffic().Received.Unicast.Packets
	time.Sleep(time.Second)
	if more := h[2].Traffic().Received.Unicast.Packets - before; more > 0 {
		t.Errorf("%d datagrams came for a viewer that had left", more)
	}
	src.ingest.signal(2)
	stays.ends(0, patience)
	exactFrom(t, stays, src)
}

// exactFrom fails unless the output of a viewer that came at any time lacks nothing from its first block to the last on air.
func exactFrom(t testing.TB, v *viewer, src *source) {
	t.Helper()
	pieces := src.truth.all(t)
	p, err := match(pieces, v.out.bytes(), false)
	if err != nil || len(p.missing) > 0 || p.preambles != 1 || p.last < lastFull(pieces) {
		t.Errorf("%s: %+v of %d, %v", v.name, p, len(pieces), err)
	}
}

// A viewer that knows two relays loses nothing when the one that feeds it is killed: that is noticed within a second, and the other
// takes over.
func TestParentKilled(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	h := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(4, netem.Params{}, netem.Params{Delay: 10 * time.Millisecond})}).Hosts()
	src := s.source(h[0])
	relays := map[string]*process{peer(h[1]): s.join(h[1], h[0]), peer(h[2]): s.join(h[2], h[0])}
	src.air(clipH264.path(t), "--loop")
	for _, r := range relays {
		r.says("blocks come from")
	}
	v := s.watch(h[3], h[1], "--peer", peer(h[2]))
	parent := v.says(`blocks come from (\S+)`)
	v.writes(500*packet, patience)
	time.Sleep(time.Second)
	killed := time.Now()
	relays[parent].kill()
	time.Sleep(4 * time.Second)
	src.ingest.signal(2)
	v.ends(0, patience)
	var last time.Time
	var pause time.Duration
	for _, st := range v.out.stamps() {
		if st.at.After(killed) && !last.IsZero() {
			pause = max(pause, st.at.Sub(last))
		}
		last = st.at
	}
	r := v.report()
	t.Logf("the longest pause in what was written was %v; %d blocks lost", pause.Round(time.Millisecond), r.LostBlocks)
	// A second until it is noticed, a block's own time, and room for a round trip and a busy machine.
	if pause > 1500*time.Millisecond {
		t.Errorf("the viewer wrote nothing for %v when its parent was killed, want at most 1.5 s", pause.Round(time.Millisecond))
	}
	exactFrom(t, v, src)
}

// A relay that stands still for a while, as on a busy machine, costs a delay that is soon made up for: nothing is lost, and 2 s later
// blocks come as early as before.
func TestRelayStandsStill(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"source", "middle", "last"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			c := newChain(t, 3, netem.Params{Delay: 10 * time.Millisecond}, 1)
			c.src.air(clipH264.path(t), "--loop")
			v := c.watch(c.end(), c.last())
			v.writes(500*packet, patience)
			time.Sleep(2 * time.Second)
			p := map[string]*process{"source": c.src.relay, "middle": c.relays[0], "last": c.relays[1]}[which]
			const still = 900 * time.Millisecond // less than a viewer waits
			stopped := time.Now()
			p.signal(19)
			time.Sleep(still)
			p.signal(18)
			time.Sleep(6 * time.Second)
			c.src.ingest.signal(2)
			c.src.ingest.ends(0, patience)
			v.ends(0, patience)
			exactFrom(t, v, c.src)
			worst := map[string]time.Duration{}
			for _, d := range delays(t, c.src.truth.all(t), v.out) {
				switch at := d.written.Sub(stopped); {
				case at < 0:
					worst["before"] = max(worst["before"], d.delay)
				case at > still+2*time.Second:
					worst["after"] = max(worst["after"], d.delay)
				default:
					worst["meanwhile"] = max(worst["meanwhile"], d.delay)
				}
			}
			t.Logf("worst delays from creation to write: %v before, %v at the stop, %v from 2 s after it on",
				worst["before"].Round(time.Millisecond), worst["meanwhile"].Round(time.Millisecond), worst["after"].Round(time.Millisecond))
			if worst["after"] > worst["before"]+300*time.Millisecond {
				t.Errorf("2 s after the stop blocks still come %v late", worst["after"].Round(time.Millisecond))
			}
		})
	}
}

// written is when a block was written, and how long after its creation.
type written struct {
	written time.Time
	delay   time.Duration
}

// delays of all blocks of an output that lacks none.
func delays(t testing.TB, pieces []piece, out *buffer) (all []written) {
	t.Helper()
	p, err := match(pieces, out.bytes(), false)
	if err != nil {
		t.Fatal(err)
	}
	pos := len(pieces[p.first].preamble)
	stamps := out.stamps()
	if len(stamps) == 0 {
		return nil
	}
	for i := p.first; i <= p.last; i++ {
		if pos += len(pieces[i].packets); len(pieces[i].packets) == 0 {
			continue
		}
		for len(stamps) > 1 && stamps[0].end < pos {
			stamps = stamps[1:]
		}
		all = append(all, written{stamps[0].at, stamps[0].at.Sub(pieces[i].Created)})
	}
	return all
}

// worst says which block was written latest after its creation.
func worst(t testing.TB, pieces []piece, out *buffer) string {
	t.Helper()
	at, most, late := 0, time.Duration(0), 0
	all := delays(t, pieces, out)
	for i, d := range all {
		if d.delay > most {
			at, most = i, d.delay
		}
		if d.delay > 500*time.Millisecond {
			late++
		}
	}
	return fmt.Sprintf("the worst of %d blocks was no. %d, written %v after its creation; %d took over 500 ms", len(all), at, most.Round(time.Millisecond), late)
}
