//go:build linux

package acceptance

import (
	"fmt"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

// A source, two trackers, and viewers who know the key and the trackers: each has its picture soon, one of the trackers may die, and
// those who watch lose nothing when the other dies too.
func TestTrackers(t *testing.T) {
	t.Parallel()
	const joins = 5
	s := newStation(t)
	h := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(5, netem.Params{}, netem.Params{Delay: 10 * time.Millisecond})}).Hosts()
	at := func(i int) string { return fmt.Sprintf("[%v]:6969", h[i].Addr()) }
	trackers := []*process{run(t, h[1], streams{}, "tracker", s.uri), run(t, h[2], streams{}, "tracker", "--open", "--interval", "10s")}
	for _, p := range trackers {
		p.says("listening on")
	}
	src := s.source(h[0], "--tracker", at(1), "--tracker", at(2))
	src.air(clipH264.path(t), "--loop")
	src.relay.says(`tracker (\S+): 1 in the swarm`)
	stays := s.watch(h[3], nil, "--tracker", at(1), "--tracker", at(2))
	stays.writes(500*packet, patience)

	var took []time.Duration
	for i := range joins {
		if i == joins-2 {
			trackers[0].kill() // the other one is enough
		}
		v := s.watch(h[4], nil, "--tracker", at(1), "--tracker", at(2))
		v.writes(1, patience)
		took = append(took, v.out.first().Sub(v.born))
		time.Sleep(300 * time.Millisecond)
		v.stop()
	}
	t.Logf("start of watch to the first byte, %d joins: median %v, all %v", joins, quantile(took, 0.5).Round(time.Millisecond), took)
	if m := quantile(took, 0.5); m > 1500*time.Millisecond { // 0.7 s on a machine with nothing else to do
		t.Errorf("the median of %d joins is %v", joins, m)
	}
	trackers[1].kill()
	time.Sleep(3 * time.Second)
	src.ingest.signal(2)
	stays.ends(0, patience)
	exactFrom(t, stays, src)

	// Who is told nothing says so, and gives up when it is told to.
	lost := s.watch(h[4], nil, "--tracker", at(1), "--timeout", "2s")
	lost.ends(3, patience)
}
