package world

import (
	"testing"
	"time"
)

// A fifth of the peers is hostile, with what is told of as little to spare as in the study: twice the stream. Each of these seeds stood still for seconds once
// (in brackets: what was in time before).
func TestHostilePeers(t *testing.T) {
	if testing.Short() {
		t.Skip("runs for some seconds")
	}
	for _, c := range []struct {
		name  string
		seed  uint64
		set   func(*Options)
		least float64
	}{
		// Who promises and does not deliver was asked again and again, and fed in full (0.880).
		{"mutes, their promises", 2, func(o *Options) { o.Mutes = 0.2 }, 0.99},
		// The source's only child on a stripe gave it back as one too many, a mute took it (0.804).
		{"mutes, a vacant root", 4, func(o *Options) { o.Mutes = 0.2 }, 0.97},
		// Full roots were condemned by slander alone (0.824).
		{"polluters, slander", 3, func(o *Options) { o.Polluters = 0.2 }, 0.995},
		// (0.893)
		{"liars", 2, func(o *Options) { o.Liars = 0.2 }, 0.99},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := Options{Seed: c.seed, Viewers: 50, Latency: time.Second, Short: true, Told: true, Settle: 15 * time.Second, Hold: 10 * time.Second}
			c.set(&o)
			r := run(t, o, 1)
			t.Logf("in time %.4f, lies %d", r.InTime, r.Counters.Lies)
			if r.InTime < c.least {
				t.Errorf("%.4f in time, not %v", r.InTime, c.least)
			}
		})
	}
}
