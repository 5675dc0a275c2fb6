package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/sixcast/sixcast/internal/sim/plot"
	"github.com/sixcast/sixcast/internal/sim/world"
)

// plots writes the pictures of a scenario: of what is varied in it, or of one
// run through time.
func (c *command) plots(all []outcome) error {
	if err := os.MkdirAll(c.svg, 0o777); err != nil {
		return err
	}
	charts := c.overTime(all)
	if c.scenario.vary != nil {
		charts = c.overAxis(all)
	}
	for name, chart := range charts {
		file := filepath.Join(c.svg, c.scenario.name+"-"+name+".svg")
		if err := os.WriteFile(file, chart.SVG(), 0o666); err != nil {
			return err
		}
	}
	return nil
}

// lines are one series for each that the outcomes name, of the mean over the
// seeds, with the range from the worst to the best.
func lines(all []outcome, suffix string, dashed bool, value func(*world.Result) float64) (out []plot.Series) {
	for _, o := range all {
		name := o.Series + suffix
		i := slices.IndexFunc(out, func(s plot.Series) bool { return s.Name == name })
		if i < 0 {
			i = len(out)
			out = append(out, plot.Series{Name: name, Dashed: dashed})
		}
		s := &out[i]
		if slices.Contains(s.X, o.X) {
			continue
		}
		sum, n, low, high := 0.0, 0.0, math.Inf(1), math.Inf(-1)
		for _, p := range all {
			if p.Series == o.Series && p.X == o.X {
				v := value(p.Result)
				sum, n, low, high = sum+v, n+1, min(low, v), max(high, v)
			}
		}
		s.X, s.Y = append(s.X, o.X), append(s.Y, sum/n)
		s.Low, s.High = append(s.Low, low), append(s.High, high)
	}
	for i := range out {
		if slices.Equal(out[i].Low, out[i].High) {
			out[i].Low, out[i].High = nil, nil
		}
	}
	return out
}

// suffix puts a comma between a series and what is shown of it, where both have
// names.
func suffix(all []outcome, s string) string {
	if len(all) > 0 && all[0].Series != "" {
		return ", " + s
	}
	return s
}

func (c *command) overAxis(all []outcome) map[string]*plot.Chart {
	x, log := c.scenario.axis, c.scenario.log
	d := all[0].Result.Options.Latency
	least := 100.0
	for _, o := range all {
		least = min(least, o.Result.InTime*100)
	}
	charts := map[string]*plot.Chart{
		"in-time": {Title: fmt.Sprintf("Blocks in time (within %v)", d), Y: "% of blocks", Least: floor(least), Most: 100, Target: 99.9, TargetName: "99.9 %",
			Series: lines(all, "", false, func(r *world.Result) float64 { return r.InTime * 100 })},
		"served": {Title: "Viewers with at least 99 % of their blocks in time", Y: "% of viewers", Least: 0, Most: 100,
			Series: lines(all, "", false, func(r *world.Result) float64 { return r.Served * 100 })},
		"delay": {Title: "Delay from creation to written in order", Y: "ms", Series: append(
			lines(all, suffix(all, "median"), false, func(r *world.Result) float64 { return r.DelayP50 * 1000 }),
			lines(all, suffix(all, "99th percentile"), true, func(r *world.Result) float64 { return r.DelayP99 * 1000 })...)},
		"source": {Title: "What the source sends", Y: "× the stream, IP layer", Target: 2, TargetName: "2 ×", Series: append(
			lines(all, suffix(all, "mean"), false, func(r *world.Result) float64 { return r.Source }),
			lines(all, suffix(all, "busiest second"), true, func(r *world.Result) float64 { return r.SourcePeak })...)},
		"overhead": {Title: "Received beyond the stream", Y: "% of the stream, IP layer", Series: append(
			lines(all, suffix(all, "all"), false, func(r *world.Result) float64 { return r.Beyond * 100 }),
			lines(all, suffix(all, "control and duplicates"), true, func(r *world.Result) float64 { return (r.BeyondControl + r.BeyondDuplicates) * 100 })...)},
		"start": {Title: "Start-up: the first block that a picture can begin at", Y: "s", Series: append(
			lines(all, suffix(all, "median"), false, func(r *world.Result) float64 { return r.StartUpP50 }),
			lines(all, suffix(all, "95th percentile"), true, func(r *world.Result) float64 { return min(r.StartUpP95, 30) })...)},
		"settled": {Title: "Settled: every second ≥ 99 % in time from then on", Y: "s after the last join (60 = never)", Target: 10, TargetName: "10 s",
			Series: lines(all, "", false, func(r *world.Result) float64 {
				if r.Settled == nil {
					return 60
				}
				return *r.Settled
			})},
	}
	for _, chart := range charts {
		chart.X, chart.LogX = x, log
	}
	return charts
}

// floor is where an axis of percents begins so that the worst is on it.
func floor(least float64) float64 {
	for _, f := range []float64{99.9, 99.5, 99, 98, 95, 90, 80, 50} {
		if least >= f {
			return f
		}
	}
	return 0
}

// overTime shows each run second by second.
func (c *command) overTime(all []outcome) map[string]*plot.Chart {
	o := all[0].Result.Options
	what := fmt.Sprintf("%s, %d viewers", c.scenario.name, o.Viewers)
	charts := map[string]*plot.Chart{
		"in-time":  {Title: fmt.Sprintf("Blocks in time (within %v): %s", o.Latency, what), Y: "% of blocks", Most: 100},
		"delay":    {Title: "Delay in order, median and 99th percentile: " + what, Y: "ms"},
		"source":   {Title: "What the source sends: " + what, Y: "× the stream, IP layer"},
		"overhead": {Title: "Received beyond the stream: " + what, Y: "% of the stream, IP layer"},
	}
	least := 100.0
	for i, o := range all {
		if i == 6 {
			break // more lines than there are colours
		}
		r := o.Result
		name := fmt.Sprintf("seed %d", r.Options.Seed)
		var at, inTime, p50, p99, source, beyond []float64
		for _, s := range r.Seconds {
			at = append(at, float64(s.At))
			v := nothing
			if s.Viewers > 0 && s.DelayP99 > 0 {
				v = s.InTime * 100
				least = min(least, v)
			}
			inTime = append(inTime, v)
			p50, p99 = append(p50, gap(s.DelayP50*1000)), append(p99, gap(s.DelayP99*1000))
			source = append(source, s.Source)
			if s.Viewers == 0 {
				beyond = append(beyond, nothing)
			} else {
				beyond = append(beyond, s.Beyond*100)
			}
		}
		add := func(chart, name string, y []float64, dashed bool) {
			charts[chart].Series = append(charts[chart].Series, plot.Series{Name: name, X: at, Y: y, Dashed: dashed})
		}
		add("in-time", name, inTime, false)
		add("source", name, source, false)
		add("overhead", name, beyond, false)
		if i == 0 {
			add("delay", "median, "+name, p50, false)
			add("delay", "99th percentile", p99, true)
		}
	}
	charts["in-time"].Least = floor(least)
	for _, chart := range charts {
		chart.X = "s"
	}
	return charts
}

var nothing = math.NaN()

// gap is where there is nothing to show.
func gap(v float64) float64 {
	if v == 0 {
		return nothing
	}
	return v
}
