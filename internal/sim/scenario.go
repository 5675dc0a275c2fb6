package main

import (
	"time"

	"github.com/sixcast/sixcast/internal/sim/world"
)

// scenario is a set of defaults, and what is varied where there is more than
// one run to it.
type scenario struct {
	name, what string
	set        func(*world.Options)
	// vary, if not nil, lists what the runs of the scenario are, each from the
	// options as the flags have them.
	vary func(world.Options) []variant
	// axis names what is varied, on the x-axis of the plots; log says how.
	axis string
	log  bool
}

// variant is one run of a scenario: x is where it stands on the axis, series
// to which line it belongs.
type variant struct {
	series  string
	x       float64
	options world.Options
}

var scenarios = []scenario{
	{name: "steady", what: "N viewers that come within 10 s and stay", set: func(o *world.Options) {}},
	{name: "crowd", what: "a flash crowd: 1,000 within 10 s, more within 60 s", set: func(o *world.Options) { o.Ramp = 0 }},
	{name: "grow", what: "from a twenty-fifth of N on, 5 % more every second", set: func(o *world.Options) { o.Growth = 0.05 }},
	{name: "late", what: "as many as a fifth more come when the others have settled", set: func(o *world.Options) { o.Late = 0.2 }},
	{name: "churn", what: "10 % of the viewers leave each minute without a word, others take their places", set: func(o *world.Options) { o.Churn, o.Hold = 0.1, 60*time.Second }},
	{name: "sessions", what: "exponential sessions, 5 minutes in the mean; half of those who leave say so", set: func(o *world.Options) { o.Churn, o.Polite, o.Hold = 0.2, 0.5, 60*time.Second }},
	{name: "vanish", what: "half of all viewers vanish at once", set: func(o *world.Options) { o.Vanish = 0.5 }},
	{name: "polluters", what: "20 % of the peers send garbage", set: func(o *world.Options) { o.Polluters = 0.2 }},
	{name: "liars", what: "20 % claim a great uplink close to the source, and send garbage", set: func(o *world.Options) { o.Liars = 0.2 }},
	{name: "mutes", what: "20 % claim the same, and send nothing", set: func(o *world.Options) { o.Mutes = 0.2 }},
	{name: "move", what: "the address of every third viewer changes in mid-stream", set: func(o *world.Options) { o.Movers = 0.33 }},
	{name: "sleep", what: "every tenth viewer is frozen for 30 s", set: func(o *world.Options) { o.Sleepers, o.Hold = 0.1, 60*time.Second }},
	{name: "stalls", what: "every node stands still twice a second, for 50 ms in the mean, as on a machine that is busy with other things", set: func(o *world.Options) { o.Stalls = 2 }},
	{name: "freeze", what: "the source stands still for 0.4 s", set: func(o *world.Options) { o.Freeze = 400 * time.Millisecond }},
	{name: "silence", what: "the source says nothing for 5 s", set: func(o *world.Options) { o.Silence = 5 * time.Second }},
	{name: "cross", what: "half of the viewers share their uplink with other traffic, now and then", set: func(o *world.Options) { o.Cross, o.Hold = 0.5, 60*time.Second }},
	{name: "sizes", what: "10, 100, 1,000 … up to N peers, as a crowd and growing, with a mean uplink of 2 and 1.5", axis: "peers", log: true, set: func(o *world.Options) { o.Viewers = 10_000 }, vary: sizes},
	{name: "uplinks", what: "a sweep of the mean uplink from 2 × the stream to 0.8 ×", axis: "mean uplink, × the stream", set: func(o *world.Options) {}, vary: uplinks},
	{name: "losses", what: "no loss to 10 %, random and in bursts of 30 ms", axis: "loss, %", set: func(o *world.Options) {}, vary: losses},
	{name: plotOnly, what: "nothing: draws what --with names"},
}

// scenarioNamed is that of a name, without one itself if there is none.
func scenarioNamed(name string) scenario {
	for _, s := range scenarios {
		if s.name == name {
			return s
		}
	}
	return scenario{}
}

// plotOnly is a scenario in which nothing happens: what --with names is drawn.
const plotOnly = "plot"

// crowdRamp is how long a flash crowd of n takes to join.
func crowdRamp(n int) time.Duration {
	if n <= 1000 {
		return 10 * time.Second
	}
	return min(60*time.Second, time.Duration(n)*10*time.Millisecond)
}

func sizes(o world.Options) (all []variant) {
	for _, mean := range []float64{2, 1.5} {
		for _, grow := range []bool{false, true} {
			for n := 10; n <= o.Viewers; n *= 10 {
				v := o
				v.Viewers, v.Mean = n, mean
				series := "crowd"
				v.Ramp, v.Growth = crowdRamp(n), 0
				if grow {
					series, v.Growth = "5 %/s", 0.05
				}
				if mean != 2 {
					series += ", mean 1.5 ×"
				}
				all = append(all, variant{series, float64(n), v})
			}
		}
	}
	return all
}

func uplinks(o world.Options) (all []variant) {
	for _, mean := range []float64{2, 1.75, 1.5, 1.3, 1.2, 1.1, 1, 0.9, 0.8} {
		v := o
		v.Mean = mean
		all = append(all, variant{"", mean, v})
	}
	return all
}

func losses(o world.Options) (all []variant) {
	for _, burst := range []bool{false, true} {
		for _, loss := range []float64{0, 0.01, 0.02, 0.05, 0.1} {
			v := o
			v.Loss, v.Burst = loss, burst
			series := "random"
			if burst {
				series = "bursts of 30 ms"
			}
			all = append(all, variant{series, loss * 100, v})
		}
	}
	return all
}
