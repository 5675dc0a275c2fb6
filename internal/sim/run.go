package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/sixcast/sixcast/internal/sim/world"
)

var errUsage = errors.New("usage")

// command is what the flags say.
type command struct {
	scenario scenario
	options  world.Options
	seeds    int
	threads  int
	json     string
	svg      string
	with     string
	trace    int
	dump     string
	profile  string
	heap     string
	quiet    bool
	series   bool
	out, err io.Writer
}

func usage(w io.Writer, flags *flag.FlagSet) {
	fmt.Fprintln(w, "Runs thousands of the mesh's own engines in one process, in virtual time.\n\n  sim SCENARIO [flags]\n\nScenarios:")
	for _, s := range scenarios {
		fmt.Fprintf(w, "  %-10s %s\n", s.name, s.what)
	}
	fmt.Fprintln(w, "\nFlags:")
	flags.SetOutput(w)
	flags.PrintDefaults()
}

// parse reads the command line. A scenario sets defaults, which flags change.
func parse(args []string, out, errs io.Writer) (*command, error) {
	c := &command{out: out, err: errs, trace: -1}
	name := "steady"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	c.scenario = scenarioNamed(name)
	o := &c.options
	o.Viewers, o.Told, o.Seed = 200, true, 1
	if c.scenario.set != nil {
		c.scenario.set(o)
	}
	f := flag.NewFlagSet("sim", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.IntVar(&o.Viewers, "n", o.Viewers, "viewers")
	f.Uint64Var(&o.Seed, "seed", o.Seed, "the first seed")
	f.IntVar(&c.seeds, "seeds", 1, "how many seeds, one after the other")
	f.Func("rate", "bit rate of the stream (default 2M)", func(s string) (err error) { o.Rate, err = parseRate(s); return err })
	f.DurationVar(&o.Latency, "latency", o.Latency, "a block is in time so long after its creation (default 2s)")
	f.Float64Var(&o.Mean, "mean", o.Mean, "mean uplink of the viewers, × the stream (default 2)")
	f.Float64Var(&o.Source, "source", o.Source, "uplink of the source, × the stream (default 2)")
	f.BoolVar(&o.Told, "told", o.Told, "nodes are told 0.95 of their uplink; with --told=false they have to learn it")
	f.BoolVar(&o.Short, "short", o.Short, "round trips of 20 ms everywhere instead of a map with a mean of 120 ms")
	f.DurationVar(&o.Jitter, "jitter", o.Jitter, "by how much the delay of a path wanders (default 5ms)")
	share(f, &o.Loss, "loss", "loss on every link")
	f.BoolVar(&o.Burst, "burst", o.Burst, "loss comes in bursts of 30 ms")
	share(f, &o.Cross, "cross", "share of the viewers whose uplink others use too, now and then")
	f.Float64Var(&o.Down, "down", o.Down, "downlink, × the stream (default 10)")
	f.DurationVar(&o.Queue, "queue", o.Queue, "what the queue of an access link holds (default 200ms)")
	f.DurationVar(&o.Ramp, "ramp", o.Ramp, "how long the joining takes (default 10s)")
	share(f, &o.Growth, "growth", "so many more viewers every second instead")
	f.DurationVar(&o.Settle, "settle", o.Settle, "from the last join to the steady part (default 10s)")
	f.DurationVar(&o.Hold, "hold", o.Hold, "how long the steady part lasts (default 30s)")
	share(f, &o.Churn, "churn", "share of the viewers that is replaced each minute")
	share(f, &o.Polite, "polite", "share of those who leave that say so")
	share(f, &o.Late, "late", "share of the viewers that comes on top when the others have settled")
	share(f, &o.Vanish, "vanish", "share that vanishes at once")
	share(f, &o.Polluters, "polluters", "share that sends garbage")
	share(f, &o.Liars, "liars", "share that claims a great uplink and sends garbage")
	share(f, &o.Mutes, "mutes", "share that claims a great uplink and sends nothing")
	share(f, &o.Movers, "movers", "share whose address changes")
	share(f, &o.Sleepers, "sleepers", "share that is frozen for 30 s")
	f.Float64Var(&o.Stalls, "stalls", o.Stalls, "how often in a second every node stands still")
	f.DurationVar(&o.Stall, "stall", o.Stall, "for how long, in the mean (default 50ms)")
	f.DurationVar(&o.Freeze, "freeze", o.Freeze, "for how long the source stands still, once")
	f.DurationVar(&o.Silence, "silence", o.Silence, "how long the source says nothing")
	f.DurationVar(&o.Grain, "grain", o.Grain, "how exact timers and arrivals are (default 500µs)")
	f.IntVar(&c.threads, "threads", runtime.GOMAXPROCS(0), "threads")
	f.StringVar(&c.json, "json", "", "write results as JSON to this file, - for stdout")
	f.StringVar(&c.svg, "svg", "", "write plots into this directory")
	f.StringVar(&c.with, "with", "", "show the runs in these JSON files too, a.json,b.json")
	f.IntVar(&c.trace, "trace", -1, "tell all that one node sends and gets: 0 is the source, others by their joins")
	f.StringVar(&c.dump, "dump", "", "at these times, 12s,20s, write what every engine tells of itself")
	f.StringVar(&c.profile, "cpuprofile", "", "write a CPU profile to this file")
	f.StringVar(&c.heap, "memprofile", "", "write a profile of the memory at the end of a run to this file")
	f.BoolVar(&c.series, "series", false, "print a line for every second")
	f.BoolVar(&c.quiet, "q", false, "no progress on stderr")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			usage(out, f)
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w; --help lists the flags", errUsage, err)
	}
	switch {
	case c.scenario.name == "":
		return nil, fmt.Errorf("%w: there is no scenario %q; --help lists them", errUsage, name)
	case f.NArg() > 0:
		return nil, fmt.Errorf("%w: what is %q for?", errUsage, f.Arg(0))
	case c.seeds < 1 || c.threads < 1:
		return nil, fmt.Errorf("%w: at least one seed and one thread", errUsage)
	}
	if c.scenario.name == "crowd" && o.Ramp == 0 {
		o.Ramp = crowdRamp(o.Viewers)
	}
	return c, nil
}

// shareValue is a share, as 0.05 or 5%.
type shareValue struct{ v *float64 }

func (s shareValue) String() string {
	if s.v == nil || *s.v == 0 {
		return ""
	}
	return strconv.FormatFloat(*s.v*100, 'g', -1, 64) + "%"
}

func (s shareValue) Set(text string) error {
	n, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(n, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 10) {
		return errors.New("want a share such as 5% or 0.05")
	}
	*s.v = v
	return nil
}

func share(f *flag.FlagSet, v *float64, name, what string) { f.Var(shareValue{v}, name, what) }

func parseRate(s string) (int, error) {
	scale := 1.0
	if n, ok := strings.CutSuffix(s, "M"); ok {
		s, scale = n, 1e6
	} else if n, ok := strings.CutSuffix(s, "k"); ok {
		s, scale = n, 1e3
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !(v > 0 && v*scale < 1e9) {
		return 0, errors.New("want a bit rate such as 800k or 2M")
	}
	return int(v * scale), nil
}

// outcome is one run and where it belongs in the plots.
type outcome struct {
	Series string        `json:"series,omitempty"`
	X      float64       `json:"x"`
	Result *world.Result `json:"result"`
}

func run(ctx context.Context, args []string, out, errs io.Writer) error {
	c, err := parse(args, out, errs)
	if err != nil {
		return err
	}
	if c.heap != "" {
		runtime.MemProfileRate = 64 << 10
	}
	if c.profile != "" {
		f, err := os.Create(c.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	// Most of the memory lives as long as the run: collect seldom.
	debug.SetGCPercent(300)
	debug.SetMemoryLimit(18 << 30)

	variants := []variant{{x: float64(c.options.Viewers), options: c.options}}
	if c.scenario.vary != nil {
		variants = c.scenario.vary(c.options)
	}
	had, first, err := earlier(c.with)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if c.scenario.name == plotOnly {
		c.scenario, variants = scenarioNamed(first), nil
	}
	var all []outcome
	table(c.out, nil)
	for _, v := range variants {
		for i := range c.seeds {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			o := v.options
			o.Seed += uint64(i)
			r, err := c.once(ctx, o)
			if err != nil {
				return err
			}
			all = append(all, outcome{v.series, v.x, r})
			table(c.out, &all[len(all)-1])
			if c.series {
				seconds(c.out, r)
			}
		}
	}
	for i := range had {
		table(c.out, &had[i])
	}
	if c.json != "" {
		b, err := json.MarshalIndent(map[string]any{"scenario": c.scenario.name, "runs": all}, "", "\t")
		if err != nil {
			return err
		}
		b = append(b, '\n')
		if c.json == "-" {
			if _, err := c.out.Write(b); err != nil {
				return err
			}
		} else if err := os.WriteFile(c.json, b, 0o666); err != nil {
			return err
		}
	}
	if all = append(all, had...); c.svg != "" && len(all) > 0 {
		return c.plots(all)
	}
	return nil
}

// earlier reads what --json has written, and which scenario the first file is
// of. A run of a scenario that varies nothing is a point of the line of its name.
func earlier(files string) (all []outcome, first string, err error) {
	for _, file := range strings.FieldsFunc(files, func(r rune) bool { return r == ',' }) {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, "", err
		}
		var had struct {
			Scenario string
			Runs     []outcome
		}
		if err := json.Unmarshal(b, &had); err != nil {
			return nil, "", fmt.Errorf("%s: %w", file, err)
		}
		if first == "" {
			first = had.Scenario
		}
		for _, o := range had.Runs {
			if o.Result == nil {
				return nil, "", fmt.Errorf("%s: a run without a result", file)
			}
			if o.Series == "" && scenarioNamed(had.Scenario).vary == nil {
				o.Series = had.Scenario
			}
			all = append(all, o)
		}
	}
	return all, first, nil
}

// once runs one world.
func (c *command) once(ctx context.Context, o world.Options) (*world.Result, error) {
	var d world.Debug
	if c.trace >= 0 {
		d.Trace, d.Node = c.err, c.trace
	}
	if c.dump != "" {
		for _, s := range strings.Split(c.dump, ",") {
			at, err := time.ParseDuration(s)
			if err != nil {
				return nil, err
			}
			d.DumpAt = append(d.DumpAt, at)
		}
		d.Dump = c.tell
	}
	var peak uint64
	begin := time.Now()
	d.Progress = func(now, until time.Duration) {
		var m runtime.MemStats
		if now%(5*time.Second) == 0 {
			runtime.ReadMemStats(&m)
			peak = max(peak, m.Sys-m.HeapReleased)
		}
		if !c.quiet {
			fmt.Fprintf(c.err, "\r%s seed %d: %v of %v, %.0f s", c.scenario.name, o.Seed, now.Truncate(time.Second), until.Truncate(time.Second), time.Since(begin).Seconds())
		}
	}
	w, err := world.New(o, c.threads, d)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	r := w.Run(d)
	if !c.quiet {
		fmt.Fprint(c.err, "\r\x1b[K")
	}
	took := time.Since(begin).Seconds()
	// What is left when all garbage is gone is the nodes.
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r.Cost = map[string]any{
		"seconds": took, "seconds_a_minute": took * 60 / r.Until, "threads": c.threads,
		"datagrams_a_second": float64(r.Network["datagrams"]) / took, "memory_peak": peak, "bytes_a_node": m.HeapAlloc / uint64(r.Peers),
	}
	if c.heap != "" {
		f, err := os.Create(c.heap)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if err := pprof.WriteHeapProfile(f); err != nil {
			return nil, err
		}
	}
	runtime.KeepAlive(w)
	return r, ctx.Err()
}

// tell writes what an engine tells of itself, if it has something for
// debuggers.
func (c *command) tell(now time.Duration, node int, e world.Engine) {
	s := e.Node.Stats()
	fmt.Fprintf(c.err, "%8.3f node %d: uplink %.2f, children %d, links %d", now.Seconds(), node, e.Uplink/1e6, s.Children, s.Links)
	if t, ok := any(e.Channel).(interface{ AppendDebug([]byte) []byte }); ok {
		fmt.Fprintf(c.err, " %s", t.AppendDebug(nil))
	}
	fmt.Fprintln(c.err)
}
