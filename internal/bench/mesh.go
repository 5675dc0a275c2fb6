//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sixcast/sixcast/internal/swarm"
)

// The mesh is measured as the capability says: 50 viewers of 2 Mbit/s, uplinks of homes with a mean of 2×, a source with 2×,
// round trips of 20 ms, default settings.
const (
	meshCold   = 5 * time.Second  // all viewers join within
	meshSettle = 20 * time.Second // before what is measured in a steady state
	meshJoins  = 20               // into a warm swarm
)

// fact prints one line of the mesh's table.
func (b *bench) fact(what, target, format string, args ...any) {
	b.out.note("%s | %s | %s", what, target, fmt.Sprintf(format, args...))
}

// mesh opens a swarm and lets f measure it.
func (b *bench) mesh(name string, c swarm.Config, f func(*swarm.Swarm) error) (err error) {
	c.Bin = b.bin
	if c.Viewers == 0 {
		c.Viewers = b.viewers
	}
	c.Seed, c.Mean, c.Told = b.seed, b.meanUplink, b.told
	if c.Source == 0 {
		c.Source = b.sourceUplink
	}
	s, err := swarm.Open(c)
	if err != nil {
		return err
	}
	defer func() {
		if b.logs != "" {
			err = errors.Join(err, s.SaveLogs(filepath.Join(b.logs, name)))
		}
		err = errors.Join(err, s.Close())
	}()
	return errors.Join(f(s), s.Err())
}

// fill has all viewers join within 5 s and waits until the swarm should have settled.
func (b *bench) fill(s *swarm.Swarm, hostile map[int]swarm.Hostility, args ...string) error {
	if err := s.Fill(b.ctx, meshCold, hostile, args...); err != nil {
		return err
	}
	return swarm.Sleep(b.ctx, meshSettle)
}

// measure measures for a while; meanwhile, if not nil, happens in it.
func (b *bench) measure(s *swarm.Swarm, long time.Duration, meanwhile func(context.Context) error) (w *swarm.Window, err error) {
	w = s.Begin()
	ctx, cancel := context.WithTimeout(b.ctx, long)
	defer cancel()
	if meanwhile != nil {
		err = meanwhile(ctx)
	}
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		err = swarm.Sleep(ctx, long)
	}
	if errors.Is(err, context.DeadlineExceeded) && b.ctx.Err() == nil {
		err = nil
	}
	w.End()
	if err = errors.Join(err, w.Drain(b.ctx)); err == nil && b.each {
		for _, line := range w.Each() {
			b.out.note("      %s", line)
		}
	}
	return w, err
}

// inTime prints a row of blocks in time, and beneath it what helps to understand it.
func (b *bench) inTime(what, target string, r swarm.InTime, load swarm.Load) {
	b.fact(what, target, "%v", r)
	if len(r.Worst) > 0 {
		b.out.note("    worst: %s", strings.Join(r.Worst, "; "))
	}
	if len(r.Dips) > 0 {
		b.out.note("    seconds below 99 %%: %s", strings.Join(r.Dips[:min(12, len(r.Dips))], "; "))
	}
	b.load(load)
}

func (b *bench) load(l swarm.Load) {
	b.out.note("    %v", l)
	if l.Wake > 10*time.Millisecond || float64(l.Late.Above) > 0.02*float64(l.Late.Frames) {
		b.out.note("    THE MACHINE WAS TOO SLOW: these figures are worth little")
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func (b *bench) startups(what, target string, viewers []*swarm.Viewer) {
	took, none := swarm.Startups(viewers)
	b.fact(what, target, "median %s, p95 %s, greatest %s (%d joins, %d without a picture)",
		seconds(quantile(took, 0.5)), seconds(quantile(took, 0.95)), seconds(quantile(took, 1)), len(took)+none, none)
}

// meshSteady is the swarm with nothing wrong: most rows come of it.
func (b *bench) meshSteady() error {
	return b.mesh("steady", swarm.Config{Spare: meshJoins}, func(s *swarm.Swarm) error {
		if err := b.fill(s, nil); err != nil {
			return err
		}
		b.startups(fmt.Sprintf("start-up, %d joining a cold channel within 5 s", s.Config.Viewers), "median ≤ 0.6 s, p95 ≤ 2 s", s.Viewers)
		w, err := b.measure(s, b.span, nil)
		if err != nil {
			return err
		}
		b.inTime("blocks in time, no loss", "100 %", w.InTime(), w.Load)
		sent, kinds := w.SourceSends()
		b.fact("source sends", "≤ 1.7 × the stream", "%.3f × (%s)", sent, kinds)
		d := w.Delays()
		b.fact("delay, ingest reading → watch writing in order", "p50 ≤ 0.4 s, p99 ≤ 0.8 s", "p50 %s, p99 %s, greatest %s", seconds(quantile(d, 0.5)), seconds(quantile(d, 0.99)), seconds(quantile(d, 1)))
		b.fact("received beyond the stream at the IP layer, no loss", "≤ 20 % (control and duplicates ≤ 3 %)", "%v", w.Beyond())
		b.costs(w)
		late := len(s.Viewers)
		for range s.Config.Spare {
			if _, err := s.Join(swarm.Honest); err != nil {
				return err
			}
			if err := swarm.Sleep(b.ctx, 1130*time.Millisecond); err != nil { // every phase of the 2 s between random access points
				return err
			}
		}
		if err := swarm.Sleep(b.ctx, 3*time.Second); err != nil {
			return err
		}
		b.startups("start-up, joining a warm swarm", "median ≤ 0.3 s, p95 ≤ 1 s", s.Viewers[late:])
		return nil
	})
}

// costs prints what viewers take that pass on about twice the stream.
func (b *bench) costs(w *swarm.Window) {
	costs := w.Costs()
	all := each(costs, func(c swarm.Cost) float64 { return 100 * c.CPU })
	two := slices.DeleteFunc(slices.Clone(costs), func(c swarm.Cost) bool { return c.Sent < 1.6 || c.Sent > 2.6 })
	memory := each(costs, func(c swarm.Cost) float64 { return float64(c.Peak) / (1 << 20) })
	const what, target = "CPU and memory of a viewer that passes on 2 × of 2 Mbit/s", "≤ 2 % of a core, ≤ 40 MiB"
	if len(two) == 0 {
		b.fact(what, target, "none passes on so much; all %d viewers: %.2f %% of a core, greatest %.2f %%; %.0f MiB", len(all), median(all), quantile(all, 1), quantile(memory, 1))
		return
	}
	b.fact(what, target, "%d of them pass on %.2f × (median): %.2f %% of a core, greatest %.2f %%; %.0f MiB at most; all %d viewers: %.2f %%, greatest %.2f %%, %.0f MiB",
		len(two), median(each(two, func(c swarm.Cost) float64 { return c.Sent })), median(each(two, func(c swarm.Cost) float64 { return 100 * c.CPU })),
		quantile(each(two, func(c swarm.Cost) float64 { return 100 * c.CPU }), 1), quantile(each(two, func(c swarm.Cost) float64 { return float64(c.Peak) / (1 << 20) }), 1),
		len(all), median(all), quantile(all, 1), quantile(memory, 1))
}

func (b *bench) meshLoss() error {
	return b.mesh("loss", swarm.Config{Loss: 0.05}, func(s *swarm.Swarm) error {
		return b.lossy(s, "5 % random loss on every link", "≥ 99.99 %", "≤ 32 %")
	})
}

func (b *bench) meshBursts() error {
	return b.mesh("bursts", swarm.Config{Loss: 0.05, BurstTime: 30 * time.Millisecond}, func(s *swarm.Swarm) error {
		return b.lossy(s, "5 % loss in bursts of 30 ms on every link", "≥ 99.9 %", "")
	})
}

func (b *bench) lossy(s *swarm.Swarm, what, target, beyond string) error {
	if err := b.fill(s, nil); err != nil {
		return err
	}
	w, err := b.measure(s, b.span, nil)
	if err != nil {
		return err
	}
	b.inTime("blocks in time, "+what, target, w.InTime(), w.Load)
	b.fact("received beyond the stream at the IP layer, "+what, beyond, "%v", w.Beyond())
	d := w.Delays()
	b.fact("delay, "+what, "", "p50 %s, p99 %s", seconds(quantile(d, 0.5)), seconds(quantile(d, 0.99)))
	sent, kinds := w.SourceSends()
	b.fact("source sends, "+what, "", "%.3f × (%s)", sent, kinds)
	return nil
}

// meshChurn kills a tenth of the viewers each minute, and has as many others join.
func (b *bench) meshChurn() error {
	return b.mesh("churn", swarm.Config{Spare: max(2, b.viewers/5)}, func(s *swarm.Swarm) error {
		if err := b.fill(s, nil); err != nil {
			return err
		}
		every := 10 * time.Minute / time.Duration(s.Config.Viewers) // one goes, another comes half of that later
		victims := swarm.Stratified(s.Config.Uplinks[:s.Config.Viewers], 1, s.Config.Seed)
		first := slices.Clone(s.Viewers)
		w, err := b.measure(s, 2*b.span, func(ctx context.Context) error {
			for k := 0; ; k++ {
				if err := swarm.Sleep(ctx, every/2); err != nil {
					return err
				}
				s.Kill(first[victims[(k*7)%len(victims)]])
				if err := swarm.Sleep(ctx, every/2); err != nil {
					return err
				}
				if _, err := s.Join(swarm.Honest); err != nil {
					return err
				}
			}
		})
		if err != nil {
			return err
		}
		b.inTime("blocks in time, 10 % of the viewers killed each minute, others joining", "≥ 99.95 %", w.InTime(), w.Load)
		return nil
	})
}

func (b *bench) meshGarbage() error {
	return b.hostile("garbage", "20 % of the peers send garbage", "≥ 99.95 %", swarm.Garbage, false)
}

func (b *bench) meshLiars() error {
	return b.hostile("liars", "20 % claim a great uplink and send garbage", "≥ 99.9 %", swarm.Garbage, true)
}

func (b *bench) meshSilent() error {
	return b.hostile("silent", "20 % claim a great uplink and send nothing", "≥ 99 %", swarm.Silence, true)
}

// hostile makes a fifth of the viewers hostile. Those who claim a great uplink say so, and their own link is as good.
func (b *bench) hostile(name, what, target string, h swarm.Hostility, claim bool) error {
	c := swarm.Config{Uplinks: swarm.Uplinks(b.viewers, b.meanUplink, b.seed)}
	hostile := map[int]swarm.Hostility{}
	for _, i := range swarm.Stratified(c.Uplinks, 0.2, b.seed) {
		hostile[i] = h
		if claim {
			c.Uplinks[i] = 50
		}
	}
	var args []string
	if claim {
		args = []string{"--upload", "100M"}
	}
	return b.mesh(name, c, func(s *swarm.Swarm) error {
		if err := b.fill(s, hostile, args...); err != nil {
			return err
		}
		w, err := b.measure(s, b.span, nil)
		if err != nil {
			return err
		}
		b.inTime("blocks in time, "+what, target, w.InTime(), w.Load)
		hits := uint64(0)
		for _, v := range s.Viewers {
			hits += v.Hits()
		}
		b.out.note("    %d of %d viewers were hostile; %d of their shards were damaged or vanished", len(hostile), len(s.Viewers), hits)
		honest := slices.DeleteFunc(slices.Clone(s.Viewers), func(v *swarm.Viewer) bool { return v.Hostility != swarm.Honest })
		b.startups("start-up, "+what, "", honest)
		return nil
	})
}

func (b *bench) meshHalf() error { return b.half("half", 0, "≤ 0.6 s") }

func (b *bench) meshHalf2() error { return b.half("half2", 2*time.Second, "≤ 0.2 s") }

// half kills half of all viewers, as many of the rich as of the poor, within a second.
func (b *bench) half(name string, latency time.Duration, target string) error {
	return b.mesh(name, swarm.Config{Latency: latency}, func(s *swarm.Swarm) error {
		if err := b.fill(s, nil); err != nil {
			return err
		}
		victims := swarm.Stratified(s.Config.Uplinks[:s.Config.Viewers], 0.5, s.Config.Seed)
		w, err := b.measure(s, 15*time.Second, func(ctx context.Context) error {
			for _, i := range victims {
				s.Kill(s.Viewers[i])
				if err := swarm.Sleep(ctx, time.Second/time.Duration(len(victims))); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		stay := map[int]bool{}
		for i := range s.Viewers {
			stay[i] = !slices.Contains(victims, i)
		}
		r := w.InTimeOf(func(v *swarm.Viewer) bool { return stay[v.Number-1] })
		sum := 0.0
		for _, x := range r.Seconds {
			sum += x
		}
		what := "half of all viewers killed in one second: missed by those who stay"
		if latency > 0 {
			what += ", --latency " + latency.String()
		}
		wrong := ""
		if len(r.Wrong) > 0 {
			wrong = "; WRONG BYTES: " + strings.Join(r.Wrong, "; ")
		}
		b.fact(what, target, "mean %.2f s, median %.2f s, greatest %.2f s (%d viewers, within 15 s)%s", sum/float64(max(1, len(r.Seconds))), median(r.Seconds), quantile(r.Seconds, 1), len(r.Seconds), wrong)
		if len(r.Dips) > 0 {
			b.out.note("    seconds below 99 %%: %s", strings.Join(r.Dips, "; "))
		}
		b.load(w.Load)
		return nil
	})
}
