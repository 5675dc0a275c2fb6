package world

import (
	"testing"
	"time"
)

func run(t *testing.T, o Options, threads int) *Result {
	t.Helper()
	w, err := New(o, threads, Debug{})
	if err != nil {
		t.Fatal(err)
	}
	r := w.Run(Debug{})
	if r.Wrong != 0 {
		t.Errorf("%d blocks were handed over that the source did not make", r.Wrong)
	}
	return r
}

// The same options give the same run, whatever the number of threads, and another seed another one.
func TestRepeatable(t *testing.T) {
	o := Options{Seed: 1, Viewers: 30, Ramp: 2 * time.Second, Settle: time.Second, Hold: 3 * time.Second, Told: true, Loss: 0.02, Churn: 2, Cross: 0.3, Polluters: 0.1}
	one := run(t, o, 1)
	for range 2 {
		if two := run(t, o, 2); two.Hash != one.Hash {
			t.Errorf("hash %s with two threads, %s with one", two.Hash, one.Hash)
		}
	}
	t.Logf("in time %.4f, delay %.3f %.3f, source %.2f, beyond %.3f, network %v", one.InTime, one.DelayP50, one.DelayP99, one.Source, one.Beyond, one.Network)
	o.Seed = 2
	if other := run(t, o, 2); other.Hash == one.Hash {
		t.Error("another seed gives the same run")
	}
}

// Memory that the engines share changes nothing but the cost: without it the run is the same.
func TestVaultIsOnlyMemory(t *testing.T) {
	o := Options{Seed: 4, Viewers: 20, Ramp: time.Second, Settle: time.Second, Hold: 2 * time.Second, Told: true, Mean: 3, Source: 4, Loss: 0.05, Burst: true, Polluters: 0.2}
	shared := run(t, o, 2)
	w, err := New(o, 2, Debug{})
	if err != nil {
		t.Fatal(err)
	}
	w.vault = nil
	if own := w.Run(Debug{}); own.Hash != shared.Hash || own.Counters != shared.Counters {
		t.Errorf("hash %s, and with a vault %s", own.Hash, shared.Hash)
	}
	if shared.Counters.Forged == 0 {
		t.Error("nobody noticed the garbage")
	}
}

// What happens to single viewers happens: the frozen hear nothing and go on, the moved are followed.
func TestEventsOfViewers(t *testing.T) {
	base := Options{Seed: 6, Viewers: 12, Ramp: time.Second, Settle: time.Second, Hold: 8 * time.Second, Told: true, Mean: 6, Source: 10}
	for name, set := range map[string]func(*Options){
		"moved":   func(o *Options) { o.Movers = 1 },
		"silent":  func(o *Options) { o.Silence = time.Second },
		"vanish":  func(o *Options) { o.Vanish = 0.5 },
		"replace": func(o *Options) { o.Churn, o.Polite = 5, 0.5 },
	} {
		t.Run(name, func(t *testing.T) {
			o := base
			set(&o)
			r := run(t, o, 1)
			t.Logf("in time %.4f, lost %.2f, network %v, events %v", r.InTime, r.LostMean, r.Network, r.Events)
			if r.Counters.Blocks == 0 || r.InTime == 0 {
				t.Error("nobody saw anything")
			}
		})
	}
}

// A crowd on a cold channel: promises to roots that are replaced, newcomers'
// backlogs that kept everybody from serving repairs, and roots that had spent
// their uplink on other feeds, made this seed settle after 4 s and start after
// 2.6 s (median) and 5 s.
func TestColdCrowdSettles(t *testing.T) {
	r := run(t, Options{Seed: 2, Viewers: 50, Ramp: 5 * time.Second, Settle: 4 * time.Second, Hold: 4 * time.Second, Latency: time.Second, Told: true, Short: true}, 2)
	t.Logf("in time %.4f, start-up %.2f %.2f", r.InTime, r.StartUpP50, r.StartUpP95)
	if r.InTime < 0.999 || r.StartUpP50 > 0.7 || r.StartUpP95 > 2 {
		t.Errorf("in time %.4f, start-up %.2f s, p95 %.2f", r.InTime, r.StartUpP50, r.StartUpP95)
	}
}

// The same where nobody has been told what its uplink takes: with half of the
// stream believed of all, and the block that a picture begins at waiting its
// turn, the median was 4.7 s.
func TestColdCrowdThatLearns(t *testing.T) {
	const seeds = 4
	var in, p50, p95 float64
	for seed := range uint64(seeds) {
		r := run(t, Options{Seed: seed + 2, Viewers: 50, Ramp: 5 * time.Second, Settle: 5 * time.Second, Hold: 4 * time.Second, Latency: time.Second, Short: true}, 2)
		t.Logf("in time %.4f, start-up %.2f %.2f", r.InTime, r.StartUpP50, r.StartUpP95)
		in, p50, p95 = in+r.InTime/seeds, p50+r.StartUpP50/seeds, p95+r.StartUpP95/seeds
	}
	if in < 0.999 || p50 > 0.6 || p95 > 2 {
		t.Errorf("in time %.4f, start-up %.2f s, p95 %.2f", in, p50, p95)
	}
}

// A crowd that has hardly the uplink it needs: what its members had to leave
// out was taken for loss, for which everybody asked for a stripe more, which
// others had to leave out (97.2 and 96.7 % with seeds 1 and 4). One seed in ten
// still needs twice the time for its last five viewers, who have next to no
// uplink: four are judged together.
func TestTightCrowd(t *testing.T) {
	const seeds = 4
	in := 0.0
	for seed := uint64(1); seed <= seeds; seed++ {
		r := run(t, Options{Seed: seed, Viewers: 100, Mean: 1.5, Ramp: 10 * time.Second, Settle: 10 * time.Second, Hold: 8 * time.Second, Told: true}, 2)
		t.Logf("in time %.4f", r.InTime)
		in += r.InTime / seeds
	}
	if in < 0.99 {
		t.Errorf("%.4f in time", in)
	}
}

// Half of all are gone at once: the source used to keep its promises to the
// dead for 1.6 s, and refused those who lived.
func TestRoomOfTheDeadIsGivenAway(t *testing.T) {
	const seeds = 4
	lost := 0.0
	for seed := range uint64(seeds) {
		r := run(t, Options{Seed: seed + 1, Viewers: 50, Ramp: 5 * time.Second, Settle: 8 * time.Second, Hold: 6 * time.Second, Vanish: 0.5, Told: true, Short: true}, 2)
		t.Logf("seed %d: lost %.2f, at most %.2f", seed+1, r.LostMean, r.LostMax)
		lost += r.LostMean / seeds
	}
	if lost > 0.5 {
		t.Errorf("%.2f s were lost", lost)
	}
}

// A small mesh that nobody told its uplinks, with one that sends garbage and one
// that sends nothing. A parent of which a feed had dried out was distrusted for
// it, and so was the first to be sent away as a child: who had most of the uplink
// lost one feed after the other, and all with him (91.3, 94.3, 96.9 and 73.4 %).
// And a mute was proven to pass stripes on by what somebody else had brought
// before him: four stripes hung on him (75.4 % with seed 250).
func TestDriedOutIsNotToBlame(t *testing.T) {
	for _, seed := range []uint64{9, 39, 191, 197, 250} {
		r := run(t, Options{Seed: seed, Viewers: 14, Loss: 0.02, Polluters: 0.07, Mutes: 0.07, Latency: time.Second, Ramp: 2 * time.Second, Settle: 13 * time.Second, Hold: 8 * time.Second, Short: true}, 2)
		t.Logf("seed %d: in time %.4f, served %.2f", seed, r.InTime, r.Served)
		if r.InTime < 0.99 {
			t.Errorf("seed %d: in time %.4f", seed, r.InTime)
		}
	}
}

// One of them is gone without a word, on whom four stripes hung and a third of
// all feeds. Those who had lost him waited until all below had noticed before
// they asked those beside them, and some for good for others who were gone (89.0
// to 97.5 %).
func TestOneRootIsGone(t *testing.T) {
	seeds := []uint64{48, 104, 181, 225}
	in := 0.0
	for _, seed := range seeds {
		r := run(t, Options{Seed: seed, Viewers: 14, Loss: 0.02, Polluters: 0.07, Mutes: 0.07, Vanish: 0.08, Latency: time.Second, Ramp: 2 * time.Second, Settle: 15 * time.Second, Hold: 8 * time.Second, Short: true}, 2)
		t.Logf("seed %d: in time %.4f, lost %.2f, at most %.2f", seed, r.InTime, r.LostMean, r.LostMax)
		if in += r.InTime / float64(len(seeds)); r.InTime < 0.97 {
			t.Errorf("seed %d: in time %.4f, lost %.2f", seed, r.InTime, r.LostMean)
		}
	}
	if in < 0.99 {
		t.Errorf("%.4f in time", in)
	}
}

// Who comes late into a swarm that has settled finds room at once.
func TestLateJoiners(t *testing.T) {
	r := run(t, Options{Seed: 1, Viewers: 40, Ramp: 3 * time.Second, Settle: 5 * time.Second, Hold: 6 * time.Second, Late: 0.3, Told: true, Short: true}, 2)
	t.Logf("start-up %.2f %.2f", r.LateP50, r.LateP95)
	if r.LateP50 > 0.7 || r.LateP95 > 2 {
		t.Errorf("start-up %.2f s, p95 %.2f", r.LateP50, r.LateP95)
	}
}

// Links that lose nothing, and such that lose 5 %: the targets of the mesh.
func TestLinksThatLose(t *testing.T) {
	for _, c := range []struct{ loss, inTime, beyond float64 }{{0, 1, 0.20}, {0.05, 0.9995, 0.32}} {
		r := run(t, Options{Seed: 1, Viewers: 50, Loss: c.loss, Latency: time.Second, Hold: 10 * time.Second, Told: true, Short: true}, 2)
		t.Logf("loss %v: in time %.5f, source %.2f, beyond %.3f, delay %.2f %.2f", c.loss, r.InTime, r.Source, r.Beyond, r.DelayP50, r.DelayP99)
		if r.InTime < c.inTime || r.Beyond > c.beyond || r.Source > 1.75 || r.DelayP50 > 0.4 || r.DelayP99 > 0.8 {
			t.Errorf("loss %v: in time %.5f, source %.2f, beyond %.3f, delay %.2f s, p99 %.2f", c.loss, r.InTime, r.Source, r.Beyond, r.DelayP50, r.DelayP99)
		}
	}
}

// Loss in bursts on the link of each viewer: nothing at all comes for 30 ms in
// the mean. Roots that had missed three shards and one whose word had got lost
// made whole blocks missing everywhere; a second request waited for half a
// second; a source that heard nobody for a moment gave up its roots (99.47,
// 99.42 and 99.62 % in time).
func TestBurstsOfLoss(t *testing.T) {
	var all float64
	seeds := []uint64{1, 3, 7}
	for _, seed := range seeds {
		r := run(t, Options{Seed: seed, Viewers: 50, Loss: 0.05, Burst: true, Latency: time.Second, Settle: 20 * time.Second, Hold: 30 * time.Second, Short: true}, 2)
		t.Logf("seed %d: in time %.5f, source %.2f, delay %.2f %.2f", seed, r.InTime, r.Source, r.DelayP50, r.DelayP99)
		if all += r.InTime; r.InTime < 0.995 || r.DelayP99 > 0.9 {
			t.Errorf("seed %d: in time %.5f, p99 %.2f s", seed, r.InTime, r.DelayP99)
		}
	}
	if all /= float64(len(seeds)); all < 0.998 {
		t.Errorf("in the mean %.5f in time", all)
	}
}

// One burst made a tenth of what the source had sent since its rate changed: it
// slowed down for three seconds to see whether the rate was to blame, and as no
// other burst came, that was proof. It went on with two thirds of its uplink, and
// its roots starved (49.6, 97.6, 76.8 and 83.1 % in time).
func TestBurstIsNotBlamedOnTheRate(t *testing.T) {
	for _, seed := range []uint64{13, 26, 30, 32} {
		r := run(t, Options{Seed: seed, Viewers: 50, Loss: 0.05, Burst: true, Latency: time.Second, Ramp: 5 * time.Second, Settle: 10 * time.Second, Hold: 8 * time.Second, Short: true}, 2)
		t.Logf("seed %d: in time %.5f, source %.2f", seed, r.InTime, r.Source)
		if r.InTime < 0.99 {
			t.Errorf("seed %d: in time %.5f", seed, r.InTime)
		}
	}
}

// Ten viewers, and most of all uplink in one hand: he must have everything
// first, and be asked for more than his share (96, 50, 94 and 100 % in time).
func TestMostOfTheUplinkInOneHand(t *testing.T) {
	for seed := range uint64(4) {
		r := run(t, Options{Seed: seed + 1, Viewers: 10, Mean: 1.5, Told: true}, 2)
		t.Logf("seed %d: in time %.5f, served %.2f", seed+1, r.InTime, r.Served)
		if r.InTime < 0.999 {
			t.Errorf("seed %d: in time %.5f, served %.2f", seed+1, r.InTime, r.Served)
		}
	}
}

// The source stands still for 0.4 s: nobody is to blame, and nothing else may
// come of it (6 % of the blocks of that second came in time, and it took three
// more to mend).
func TestSourceStandsStill(t *testing.T) {
	const seeds = 8
	in := 0.0
	for seed := range uint64(seeds) {
		r := run(t, Options{Seed: seed + 2, Viewers: 12, Freeze: 400 * time.Millisecond, Latency: time.Second, Hold: 12 * time.Second, Told: true, Short: true}, 2)
		t.Logf("seed %d: in time %.4f", seed+2, r.InTime)
		in += r.InTime / seeds
		if r.InTime < 0.97 {
			t.Errorf("seed %d: %.4f in time", seed+2, r.InTime)
		}
	}
	if in < 0.995 {
		t.Errorf("%.4f in time", in)
	}
}

// Everybody stands still twice a second, as on a machine with other things to
// do (0.967 in time before).
func TestEverybodyStandsStill(t *testing.T) {
	const seeds = 4
	in := 0.0
	for seed := range uint64(seeds) {
		r := run(t, Options{Seed: seed + 1, Viewers: 50, Stalls: 2, Loss: 0.02, Latency: time.Second, Hold: 10 * time.Second, Told: true, Short: true}, 2)
		t.Logf("in time %.4f, delay %.2f %.2f", r.InTime, r.DelayP50, r.DelayP99)
		in += r.InTime / seeds
		if r.InTime < 0.985 {
			t.Errorf("seed %d: %.4f in time", seed+1, r.InTime)
		}
	}
	if in < 0.997 {
		t.Errorf("%.4f in time", in)
	}
}

// Not enough for all: some are served, whole, and the others wait instead of
// starving everybody (nobody was served before).
func TestBelowCapacity(t *testing.T) {
	r := run(t, Options{Seed: 1, Viewers: 60, Mean: 1, Settle: 40 * time.Second, Hold: 20 * time.Second, Told: true, Short: true}, 2)
	t.Logf("served %.3f, in time %.3f", r.Served, r.InTime)
	if r.Served < 0.4 {
		t.Errorf("%.3f of the viewers were served", r.Served)
	}
	if len(r.Classes) == 5 && (r.Classes[4].Served < 1 || r.Classes[3].Served < 0.9) {
		t.Errorf("who gives most is not served: %+v", r.Classes)
	}
}
