package main

import (
	"fmt"
	"io"

	"github.com/sixcast/sixcast/internal/sim/world"
)

// table prints a line about one run, or the head of the table for nil.
func table(w io.Writer, o *outcome) {
	if o == nil {
		fmt.Fprintln(w, "                     in time %          %≥99  settled  delay ms     start-up s   source ×     beyond the stream %                          cost")
		fmt.Fprintln(w, "series x      seed   D        1s        %      s        p50   p99    p50   p95    mean  peak   all  shards dup.  manif. contr.  hash              s     MB    kB/node")
		return
	}
	r := o.Result
	settled := "never"
	if r.Settled != nil {
		settled = fmt.Sprintf("%+.0f", *r.Settled)
	}
	memory, _ := r.Cost["memory_peak"].(uint64)
	took, _ := r.Cost["seconds"].(float64)
	each, _ := r.Cost["bytes_a_node"].(uint64)
	fmt.Fprintf(w, "%s %-6g %-4d   %-8.3f %-8.3f  %-5.1f  %-7s  %-5.0f %-5.0f  %-5.2f %-5.2f   %-5.2f %-5.2f  %-5.1f %-5.1f %-5.1f %-5.1f %-5.1f  %s  %-5.0f %-5.0f %-5.0f",
		o.Series, o.X, r.Options.Seed, r.InTime*100, r.InTime1s*100, r.Served*100, settled, r.DelayP50*1000, r.DelayP99*1000, r.StartUpP50, min(999, r.StartUpP95),
		r.Source, r.SourcePeak, r.Beyond*100, r.BeyondShards*100, r.BeyondDuplicates*100, r.BeyondManifests*100, r.BeyondControl*100, r.Hash, took, float64(memory)/1e6, float64(each)/1e3)
	if r.LostMax > 0 {
		fmt.Fprintf(w, "  lost mean %.2f s, p95 %.2f, most %.2f", r.LostMean, r.LostP95, r.LostMax)
	}
	if o := r.Options; o.Vanish+o.Polluters+o.Liars+o.Mutes > 0 {
		fmt.Fprintf(w, "  usable %.1f ×", r.Usable)
	}
	if r.LateP95 > 0 {
		fmt.Fprintf(w, "  late start-up %.2f s, p95 %.2f", r.LateP50, min(999, r.LateP95))
	}
	if r.NeverUp > 0 {
		fmt.Fprintf(w, "  %d never started", r.NeverUp)
	}
	if r.Wrong > 0 {
		fmt.Fprintf(w, "  %d WRONG BLOCKS", r.Wrong)
	}
	fmt.Fprintln(w)
}

// seconds prints the time series of a run, and who had the least.
func seconds(w io.Writer, r *world.Result) {
	fmt.Fprintln(w, "     s  viewers  in time %  delay p50  p99 ms  source  beyond %  control %  uplink wait ms  most  dropped")
	for _, s := range r.Seconds {
		fmt.Fprintf(w, "%6d  %-7.0f  %-9.3f  %-9.0f  %-6.0f  %-6.2f  %-8.1f  %-9.2f  %-14.1f  %-4.0f  %d\n", s.At, s.Viewers, s.InTime*100, s.DelayP50*1000, s.DelayP99*1000,
			s.Source, s.Beyond*100, s.Control*100, s.Wait*1000, s.WaitMost*1000, s.Dropped)
	}
	for _, c := range r.Classes {
		fmt.Fprintf(w, "uplink %g: %d viewers, in time %.3f %%, with 99 %%: %.1f %%, start-up %.2f s\n", c.Uplink, c.Viewers, c.InTime*100, c.Served*100, c.StartUp)
	}
	for _, v := range r.Worst {
		fmt.Fprintf(w, "node %d: uplink %.2f, joined at %.1f s, in time %.2f %%\n", v.Node, v.Uplink, v.Joined, v.InTime*100)
	}
	fmt.Fprintf(w, "counters %+v\nevents %v\nnetwork %v\n", r.Counters, r.Events, r.Network)
}
