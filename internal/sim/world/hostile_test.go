package world

import (
	"testing"
	"time"
)

// A fifth of the peers is hostile, with what is told of as little to spare as in the study: twice the stream. Runs like these stood
// still for seconds once, each by another seed: who promises and does not deliver was asked again and again, and fed in full
// (0.880 of the blocks came in time); the source's only child on a stripe gave it back as one too many, and a mute took it (0.804);
// full roots were condemned by slander alone (0.824); who starved asked for everything (0.253).
func TestHostilePeers(t *testing.T) {
	if testing.Short() {
		t.Skip("runs for some seconds")
	}
	const seeds = 3
	for name, set := range map[string]func(*Options){
		"polluters": func(o *Options) { o.Polluters = 0.2 },
		"liars":     func(o *Options) { o.Liars = 0.2 },
		"mutes":     func(o *Options) { o.Mutes = 0.2 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sum := 0.0
			for seed := range uint64(seeds) {
				o := Options{Seed: seed + 1, Viewers: 50, Latency: time.Second, Short: true, Told: true, Settle: 15 * time.Second, Hold: 10 * time.Second}
				set(&o)
				r := run(t, o, 1)
				t.Logf("seed %d: in time %.4f, lies %d", seed+1, r.InTime, r.Counters.Lies)
				sum += r.InTime
				// One seed of twenty or so still takes longer than 15 s to settle.
				if r.InTime < 0.9 || r.Wrong > 0 {
					t.Errorf("seed %d: %.4f in time, %d wrong blocks", seed+1, r.InTime, r.Wrong)
				}
			}
			if mean := sum / seeds; mean < 0.98 {
				t.Errorf("%.4f in time in the mean, not 0.98", mean)
			}
		})
	}
}
