//go:build linux

package swarm

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/ts"
)

// youth is how long a viewer is not judged after its start, as the capability says.
const youth = 3 * time.Second

// A Window is a time that is measured.
type Window struct {
	From, To time.Duration
	Load     Load

	s      *Swarm
	begun  clock
	ended  clock
	waker  *waker
	before map[*Peer]counts
	after  map[*Peer]counts
}

type counts struct {
	sent, received Kinds
	traffic        netem.Traffic
	up             netem.Stats
	peak           int64
	stats          Stats
}

// Stats are what we read of a program's own statistics; docs/statistics.md explains them. They only split what the emulator has
// counted.
type Stats struct {
	State string `json:"state"`
	Gaps  uint64 `json:"gaps"`
	Lost  uint64 `json:"lost_blocks"`
	Net   struct {
		Duplicates uint64  `json:"duplicates"`
		Repaired   uint64  `json:"repaired_shards"`
		Rebuilt    uint64  `json:"rebuilt_shards"`
		GivenUp    uint64  `json:"blocks_given_up"`
		Requests   uint64  `json:"requests"`
		Forged     uint64  `json:"forged"`
		Links      int     `json:"links"`
		Children   int     `json:"children"`
		Loss       float64 `json:"loss"`
	} `json:"net"`
}

// lastStats reads the last whole line of a program's statistics.
func (p *Peer) lastStats() (s Stats) {
	b, _ := os.ReadFile(p.stats)
	end := strings.LastIndexByte(string(b), '\n')
	if end < 0 {
		return s
	}
	begin := strings.LastIndexByte(string(b[:end]), '\n') + 1
	_ = json.Unmarshal(b[begin:end], &s)
	return s
}

func (s *Swarm) counts() map[*Peer]counts {
	all := map[*Peer]counts{}
	add := func(p *Peer) {
		c := counts{traffic: p.Host.Traffic(), peak: p.peak(), stats: p.lastStats()}
		c.up, _ = p.Host.Stats()
		c.sent, c.received = p.meter.counted()
		all[p] = c
	}
	add(s.Source)
	for _, v := range s.Live() {
		add(&v.Peer)
	}
	return all
}

// Begin begins a window.
func (s *Swarm) Begin() *Window {
	w := &Window{s: s, From: s.Now(), begun: s.clocks(), before: s.counts(), waker: startWaker()}
	return w
}

// End ends it.
func (w *Window) End() {
	w.To = w.s.Now()
	w.ended, w.after = w.s.clocks(), w.s.counts()
	w.Load = between(w.begun, w.ended)
	w.Load.Wake = w.waker.stop()
}

// Drain waits until what was created in the window has been written or is too late, with some time for a viewer that misses
// something to say so.
func (w *Window) Drain(ctx context.Context) error {
	return Sleep(ctx, w.To+w.s.Config.latency()+time.Second-w.s.Now())
}

// InTime is what became of a window's blocks at the honest viewers.
type InTime struct {
	Viewers int
	Blocks  int // that these should have written
	Late    int // were written, but late
	Missed  int // were not written, or late
	Strict  int // were not written within the latency after they were cut
	// Seconds of the stream that a viewer missed, for each of them.
	Seconds []float64
	// Worst are the viewers that missed most.
	Worst []string
	// Dips are seconds in which less than 99 % came in time, by second of the window.
	Dips []string
	// Wrong says what was written and never was on air, or out of order. Any of it is a failure.
	Wrong []string
}

// Share of blocks that were written in time.
func (r InTime) Share() float64 {
	if r.Blocks == 0 {
		return 0
	}
	return 1 - float64(r.Missed)/float64(r.Blocks)
}

func (r InTime) String() string {
	s := fmt.Sprintf("%.3f %% (%d of %d missed, %d of these late; %d viewers; within the latency of being cut %.3f %%)",
		100*r.Share(), r.Missed, r.Blocks, r.Late, r.Viewers, 100-100*float64(r.Strict)/float64(max(1, r.Blocks)))
	if len(r.Wrong) > 0 {
		s += "; WRONG BYTES: " + strings.Join(r.Wrong, "; ")
	}
	return s
}

// InTime judges the blocks that were cut in the window. A block is in time at a viewer that wrote all of it, in its place, no
// later than --latency says: counted from the least delay of this viewer in the window, as watch counts it. Viewers count from
// 3 s after their start until they are killed; those who are hostile do not count.
func (w *Window) InTime() InTime { return w.InTimeOf(func(*Viewer) bool { return true }) }

// InTimeOf judges as InTime does, some viewers only.
func (w *Window) InTimeOf(some func(*Viewer) bool) (r InTime) {
	s, from, to := w.s, w.From, w.To
	blocks := s.tape.cut(from, to)
	latency := s.Config.latency()
	type miss struct {
		v   *Viewer
		n   int
		all int
	}
	var misses []miss
	seconds := int((to-from)/time.Second) + 1
	due, came := make([]int, seconds), make([]int, seconds)
	for _, v := range s.Viewers {
		if v.Hostility != Honest || !some(v) {
			continue
		}
		v.judge.mu.Lock()
		if v.judge.errors > 0 {
			r.Wrong = append(r.Wrong, fmt.Sprintf("%s (%d times): %s", v.Host.Name(), v.judge.errors, strings.Join(v.judge.wrong, ", ")))
		}
		least := time.Hour
		for _, b := range blocks {
			if at := v.judge.when(b); at > 0 {
				least = min(least, at-b.Created)
			}
		}
		m := miss{v: v}
		missed := 0.0
		if least == time.Hour { // it wrote nothing
			least = 0
		}
		for _, b := range blocks {
			if b.Created < v.Born+youth || v.Gone > 0 && b.Created+latency+least+50*time.Millisecond > v.Gone {
				continue
			}
			k := int((b.Created - from) / time.Second)
			m.all++
			due[k]++
			at := v.judge.when(b)
			if at == 0 || at-b.Created > latency {
				r.Strict++
			}
			if at > 0 && at-b.Created <= latency+least {
				came[k]++
				continue
			}
			if at > 0 {
				r.Late++
			}
			m.n++
			missed += b.Duration.Seconds()
		}
		v.judge.mu.Unlock()
		if m.all > 0 {
			r.Viewers++
			r.Blocks += m.all
			r.Missed += m.n
			r.Seconds = append(r.Seconds, missed)
			misses = append(misses, m)
		}
	}
	slices.SortStableFunc(misses, func(a, b miss) int { return b.n - a.n })
	for _, m := range misses[:min(5, len(misses))] {
		if m.n > 0 {
			r.Worst = append(r.Worst, fmt.Sprintf("%s (uplink %.2f×) %d of %d", m.v.Host.Name(), m.v.Uplink, m.n, m.all))
		}
	}
	for k := range due {
		if share := float64(came[k]) / float64(max(1, due[k])); due[k] > 0 && share < 0.99 {
			r.Dips = append(r.Dips, fmt.Sprintf("%d s: %.0f %%", k, 100*share))
		}
	}
	return r
}

// Delays are, for every packet of the window at every honest viewer that was no longer young, the time from its being there for
// ingest to read to its being written in order; sorted.
func (w *Window) Delays() (all []time.Duration) {
	for _, v := range w.s.Viewers {
		if v.Hostility != Honest {
			continue
		}
		v.judge.mu.Lock()
		for _, b := range w.s.tape.cut(w.From, w.To) {
			at := v.judge.when(b)
			if at == 0 || b.Created < v.Born+youth {
				continue
			}
			for n := b.First / groupPackets * groupPackets; n < b.First+uint64(b.Packets); n += groupPackets {
				all = append(all, at-w.s.tape.sentAt(n))
			}
		}
		v.judge.mu.Unlock()
	}
	slices.Sort(all)
	return all
}

// stream is how many bytes of transport stream were put on air in the window.
func (w *Window) stream() float64 {
	sum := 0
	for _, b := range w.s.tape.cut(w.From, w.To) {
		sum += b.Packets * ts.PacketSize
	}
	return float64(sum)
}

// SourceSends is what left the source's host, at the IP layer, in multiples of the stream: as the uplink took it, and with what
// the uplink dropped.
func (w *Window) SourceSends() (sent float64, kinds string) {
	before, after := w.before[w.s.Source], w.after[w.s.Source]
	k := after.sent.Minus(before.sent)
	stream := w.stream()
	part := func(c netem.Count) string { return fmt.Sprintf("%.3f", float64(c.Bytes)/stream) }
	over := after.up.Overflowed - before.up.Overflowed
	return float64(k.All().Bytes) / stream, fmt.Sprintf("shards %s, manifests %s, control %s, other %s; %d packets met a full queue", part(k.Shards), part(k.Manifests), part(k.Control), part(k.Other), over)
}

// Sends is what a peer put on its uplink, in bit/s at the IP layer.
func (w *Window) Sends(p *Peer) float64 {
	return 8 * float64(w.after[p].sent.Minus(w.before[p].sent).ours().Bytes) / (w.To - w.From).Seconds()
}

// Beyond is what a viewer received at the IP layer beyond the stream, as shares of it, the mean of all honest viewers that were
// there for the whole window.
type Beyond struct {
	All        float64
	Shards     float64 // fresh ones, less the stream itself: headers, spare stripes
	Manifests  float64 // fresh ones
	Duplicates float64 // shards and manifests that had come before
	Control    float64
	Other      float64
	Repaired   float64 // shards that came because they were asked for, of all shards; by the viewers' own count
}

func (b Beyond) String() string {
	p := func(v float64) float64 { return 100 * v }
	return fmt.Sprintf("%.1f %% (shards' headers and spare %.1f, manifests %.1f, duplicates %.1f, control %.1f, other %.1f; repairs asked for %.2f %% of shards)",
		p(b.All), p(b.Shards), p(b.Manifests), p(b.Duplicates), p(b.Control), p(b.Other), p(b.Repaired))
}

// Beyond tells it.
func (w *Window) Beyond() (b Beyond) {
	stream := w.stream()
	n, shards, repaired := 0.0, 0.0, 0.0
	for _, v := range w.s.Viewers {
		before, ok := w.before[&v.Peer]
		after, still := w.after[&v.Peer]
		if !ok || !still || v.Hostility != Honest || v.Born+youth > w.From {
			continue
		}
		n++
		k := after.received.Minus(before.received)
		add := func(to *float64, c ...netem.Count) {
			for _, c := range c {
				*to += float64(c.Bytes) / stream
			}
		}
		add(&b.All, k.All())
		add(&b.Shards, k.Shards)
		add(&b.Manifests, k.Manifests)
		add(&b.Duplicates, k.Duplicates, k.Copies)
		add(&b.Control, k.Control)
		add(&b.Other, k.Other)
		shards += float64(k.Shards.Packets + k.Duplicates.Packets)
		repaired += float64(after.stats.Net.Repaired - before.stats.Net.Repaired)
	}
	for _, f := range []*float64{&b.All, &b.Shards, &b.Manifests, &b.Duplicates, &b.Control, &b.Other} {
		*f /= max(1, n)
	}
	b.All--
	b.Shards--
	b.Repaired = repaired / max(1, shards)
	return b
}

// Cost is what a viewer took that passed on so much.
type Cost struct {
	Viewer *Viewer
	Sent   float64 // multiples of the stream, at the IP layer
	CPU    float64 // cores
	Peak   int64   // bytes of memory
}

// Costs of all honest viewers that were there for the whole window.
func (w *Window) Costs() (all []Cost) {
	stream, wall := w.stream(), w.ended.at.Sub(w.begun.at).Seconds()
	for _, v := range w.s.Viewers {
		before, ok := w.before[&v.Peer]
		after, still := w.after[&v.Peer]
		if !ok || !still || v.Hostility != Honest {
			continue
		}
		all = append(all, Cost{v, float64(after.sent.Minus(before.sent).All().Bytes) / stream,
			(w.ended.processors[&v.Peer] - w.begun.processors[&v.Peer]).Seconds() / wall, after.peak})
	}
	return all
}

// Startups are the times from the start of each viewer to the first byte of a picture that can be decoded, sorted; none is how
// many had none yet.
func Startups(viewers []*Viewer) (took []time.Duration, none int) {
	for _, v := range viewers {
		v.judge.mu.Lock()
		switch {
		case v.judge.first == 0 || v.judge.headless:
			none++
		default:
			took = append(took, v.judge.first-v.Born)
		}
		v.judge.mu.Unlock()
	}
	slices.Sort(took)
	return took, none
}

// Each describes what every viewer did that was there for the whole window, a line each, those with the greatest uplink first:
// for whoever looks for a reason.
func (w *Window) Each() (lines []string) {
	stream, wall := w.stream(), w.ended.at.Sub(w.begun.at).Seconds()
	viewers := slices.Clone(w.s.Viewers)
	slices.SortStableFunc(viewers, func(a, b *Viewer) int { return cmp.Compare(b.Uplink, a.Uplink) })
	for _, v := range viewers {
		before, ok := w.before[&v.Peer]
		after, still := w.after[&v.Peer]
		if !ok || !still {
			continue
		}
		r := w.InTimeOf(func(x *Viewer) bool { return x == v })
		sent, got := after.sent.Minus(before.sent), after.received.Minus(before.received)
		what := ""
		if v.Hostility != Honest {
			what = fmt.Sprintf(" HOSTILE (%d datagrams)", v.Hits())
		}
		st, was := after.stats.Net, before.stats.Net
		lines = append(lines, fmt.Sprintf("%-4s uplink %5.2f sends %5.2f (control %.3f) gets %.3f missed %d/%d queue full %d | links %d children %d repaired %d requests %d rebuilt %d forged %d loss %.3f | cpu %.2f %%%s",
			v.Host.Name(), v.Uplink, float64(sent.All().Bytes)/stream, float64(sent.Control.Bytes)/stream, float64(got.All().Bytes)/stream, r.Missed, r.Blocks,
			after.up.Overflowed-before.up.Overflowed, st.Links, st.Children, st.Repaired-was.Repaired, st.Requests-was.Requests, st.Rebuilt-was.Rebuilt, st.Forged-was.Forged, st.Loss,
			100*(w.ended.processors[&v.Peer]-w.begun.processors[&v.Peer]).Seconds()/wall, what))
	}
	return lines
}
