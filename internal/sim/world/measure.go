package world

import (
	"encoding/binary"
	"fmt"
	"hash"
	"hash/fnv"
	"math"
	"reflect"
	"slices"
	"time"
	"unsafe"

	"github.com/sixcast/sixcast/pkg/mesh"
	"github.com/sixcast/sixcast/pkg/wire"
)

// totals count over a whole run.
type totals struct {
	events      uint64 // datagrams that arrived
	lost        uint64 // on their way, or sent to an address that was left
	upDropped   uint64 // found an uplink's queue full
	downDropped uint64
	wrong       uint64 // blocks that the source did not make
}

func (a *totals) add(b *totals) {
	a.events += b.events
	a.lost += b.lost
	a.upDropped += b.upDropped
	a.downDropped += b.downDropped
	a.wrong += b.wrong
}

// second is what happened in one second.
type second struct {
	received   [sorts]uint64 // bytes at the IP layer, by viewers that count
	viewing    uint64        // of those, in milliseconds
	duplicates uint64        // shards, of those
	source     uint64        // bytes it sent
	waited     time.Duration // in uplinks' queues
	longest    time.Duration
	datagrams  uint64 // that were put there
	dropped    uint64 // that found no place
}

func (a *second) add(b *second) {
	for i := range a.received {
		a.received[i] += b.received[i]
	}
	a.viewing += b.viewing
	a.duplicates += b.duplicates
	a.source += b.source
	a.waited += b.waited
	a.longest = max(a.longest, b.longest)
	a.datagrams += b.datagrams
	a.dropped += b.dropped
}

// measure looks at the engine at the end of a second.
func (n *node) measure(sec int) {
	before := n.counted.Duplicates
	n.counted = n.engine.Stats().Counters
	s := &n.worker.seconds[sec]
	if from := Time(sec) * time.Second; n.viewing(from) && n.viewing(from+time.Second-1) {
		s.duplicates += n.counted.Duplicates - before
		s.viewing += 1000
	} else if n.viewing(from + time.Second - 1) {
		s.viewing += uint64((from + time.Second - n.peer.join - warmUp) / time.Millisecond)
	}
}

// counters adds up what engines counted. All fields of mesh.Counters are
// uint64.
func (n *node) counters(sum *mesh.Counters) {
	c := n.counted
	if n.engine != nil {
		c = n.engine.Stats().Counters
	}
	const words = unsafe.Sizeof(mesh.Counters{}) / 8
	to, from := (*[words]uint64)(unsafe.Pointer(sum)), (*[words]uint64)(unsafe.Pointer(&c))
	for i := range to {
		to[i] += from[i]
	}
}

func init() {
	t := reflect.TypeFor[mesh.Counters]()
	for i := range t.NumField() {
		if t.Field(i).Type.Kind() != reflect.Uint64 {
			panic("world: mesh.Counters has a field that is no uint64: " + t.Field(i).Name)
		}
	}
}

// Result is what a run showed. Shares are 0 to 1, times seconds, and what is
// sent and received multiples of the stream; bytes are those of the IP layer.
type Result struct {
	Options  Options `json:"options"`
	Hash     string  `json:"hash"` // the same for the same options
	Peers    int     `json:"peers"`
	LastJoin float64 `json:"last_join"`
	Steady   float64 `json:"steady"`
	Until    float64 `json:"until"`

	// InTime is the share of blocks decoded within Latency of their creation
	// in the steady part, by viewers older than 3 s; the others are for other
	// latencies, and All is from the first join on.
	InTime      float64 `json:"in_time"`
	InTime500ms float64 `json:"in_time_500ms"`
	InTime1s    float64 `json:"in_time_1s"`
	InTime2s    float64 `json:"in_time_2s"`
	InTimeAll   float64 `json:"in_time_all"`
	// Served is the share of the viewers that had 99 % of their blocks in time
	// in the steady part.
	Served float64 `json:"served"`
	// Settled is when, after the last join, the seconds begin of which each
	// has 99 % in time; nil if the last one has not.
	Settled *float64 `json:"settled"`
	// Delay is from a block's creation until it could be written in order, in
	// the steady part.
	DelayP50 float64 `json:"delay_p50"`
	DelayP99 float64 `json:"delay_p99"`
	// StartUp is from a viewer's start to its first block that a picture can
	// begin at; NeverUp viewers had none within Latency of the end.
	StartUpP50 float64 `json:"start_up_p50"`
	StartUpP95 float64 `json:"start_up_p95"`
	StartUpMax float64 `json:"start_up_max"`
	// Late is the same for those who came after the others had settled.
	LateP50 float64 `json:"late_p50,omitempty"`
	LateP95 float64 `json:"late_p95,omitempty"`
	NeverUp int     `json:"never_up"`
	// Source is what the source sent, in the mean and in its busiest second.
	Source     float64 `json:"source"`
	SourcePeak float64 `json:"source_peak"`
	// Beyond is what viewers received in the steady part beyond the stream:
	// of it, repeated shards (part of BeyondShards), manifests, control.
	Beyond           float64 `json:"beyond"`
	BeyondShards     float64 `json:"beyond_shards"`
	BeyondDuplicates float64 `json:"beyond_duplicates"`
	BeyondManifests  float64 `json:"beyond_manifests"`
	BeyondControl    float64 `json:"beyond_control"`
	// Lost is what those missed who stayed when others vanished, in seconds of
	// the stream: in the mean, the 95th percentile, the worst.
	LostMean float64 `json:"lost_mean,omitempty"`
	LostP95  float64 `json:"lost_p95,omitempty"`
	LostMax  float64 `json:"lost_max,omitempty"`
	// Usable is the mean uplink, × the stream, of those who are there at the
	// end: what the hostile have counts for nothing.
	Usable float64 `json:"usable"`
	// Wrong blocks were handed over that the source did not make.
	Wrong uint64 `json:"wrong"`

	Classes  []Class         `json:"classes"`
	Seconds  []Second        `json:"seconds"`
	Counters mesh.Counters   `json:"counters"`
	Events   map[string]int  `json:"events"`
	Network  map[string]int  `json:"network"`
	Cost     map[string]any  `json:"cost,omitempty"` // of the simulation itself; not part of the hash
	Worst    []Viewer        `json:"worst"`          // those with the most misses in the steady part
	lost     []time.Duration // each who stayed
}

// Class is what viewers of one kind of uplink had.
type Class struct {
	Uplink  float64 `json:"uplink"` // as drawn, before scaling to the mean
	Viewers int     `json:"viewers"`
	InTime  float64 `json:"in_time"`
	Served  float64 `json:"served"`
	StartUp float64 `json:"start_up"` // median
}

// Viewer is one of the worst.
type Viewer struct {
	Node   int     `json:"node"`
	Uplink float64 `json:"uplink"` // multiple of the stream
	Joined float64 `json:"joined"`
	InTime float64 `json:"in_time"`
}

// Second is a point of the time series: blocks created in this second.
type Second struct {
	At        int     `json:"at"`
	Viewers   float64 `json:"viewers"` // that count, in the mean
	InTime    float64 `json:"in_time"`
	DelayP50  float64 `json:"delay_p50"`
	DelayP99  float64 `json:"delay_p99"`
	Source    float64 `json:"source"`
	Beyond    float64 `json:"beyond"`
	Control   float64 `json:"control"`
	Wait      float64 `json:"wait"` // in an uplink's queue, in the mean
	WaitMost  float64 `json:"wait_most"`
	Dropped   uint64  `json:"dropped"` // by full uplinks
	Datagrams uint64  `json:"datagrams"`
}

// delays is a histogram of delays in milliseconds.
type delays struct {
	count [int(maxDelay/time.Millisecond) + 2]uint32
	n     uint64
}

func (d *delays) add(t time.Duration) {
	d.count[min(max(0, int(t/time.Millisecond)), len(d.count)-1)]++
	d.n++
}

// quantile is in seconds; 0 for none.
func (d *delays) quantile(q float64) float64 {
	rank := uint64(math.Ceil(q * float64(d.n)))
	var sum uint64
	for ms, c := range d.count {
		if sum += uint64(c); sum >= rank && sum > 0 {
			return float64(ms) / 1000
		}
	}
	return 0
}

// tally counts blocks.
type tally struct{ good, all uint64 }

func (t *tally) add(good bool) {
	t.all++
	if good {
		t.good++
	}
}

func (t *tally) share() float64 {
	if t.all == 0 {
		return 0
	}
	return float64(t.good) / float64(t.all)
}

// result reads everything off the nodes.
func (w *World) result() *Result {
	r := &Result{
		Options: w.Options, Peers: len(w.peers),
		LastJoin: w.lastJoin.Seconds(), Steady: w.steady.Seconds(), Until: w.until.Seconds(),
		Events: map[string]int{}, Network: map[string]int{},
	}
	last := w.until - w.Latency // blocks made later cannot be judged
	seconds := int(last / time.Second)
	perSecond := make([]tally, seconds+1)
	perDelay := make([]delays, seconds+1)
	var steady, half, one, two, all tally
	var delay delays
	var starts, late []time.Duration
	begins := map[float64][]time.Duration{}
	classes := map[float64]*classTally{}
	sum := fnv.New64a()
	served := tally{}

	for i := range w.nodes {
		n := &w.nodes[i]
		n.digest(sum)
		n.counters(&r.Counters)
		for kind, c := range n.events {
			if c > 0 {
				r.Events[mesh.EventKind(kind).String()] += int(c)
			}
		}
		if i == 0 || n.nature != Honest {
			continue
		}
		if stay := min(n.peer.leave, last) - n.peer.join; n.started < Never {
			starts = append(starts, n.started-n.peer.join)
		} else if stay > warmUp {
			r.NeverUp++
			starts = append(starts, Never)
		}
		if k := len(starts); k > 0 {
			begins[n.peer.class] = append(begins[n.peer.class], starts[k-1])
			if w.Late > 0 && n.peer.join > w.lastJoin {
				late = append(late, starts[k-1])
			}
		}
		own := tally{}
		var written Time // in order
		var missed time.Duration
		for k := range n.decoded {
			made := w.made[int(n.first)+k]
			if made > last || made+w.Latency > n.peer.leave || !n.viewing(made) || n.peer.sleep.to != 0 && made < n.peer.sleep.to && made+w.Latency >= n.peer.sleep.from {
				continue
			}
			d := maxDelay + time.Second
			if v := n.decoded[k]; v != 0 {
				d = time.Duration(v-1) * delayUnit
			}
			good := d <= w.Latency
			sec := int(made / time.Second)
			perSecond[sec].add(good)
			all.add(good)
			// A gap is waited for no longer than Latency.
			written = max(written, made+min(d, w.Latency))
			if good {
				perDelay[sec].add(written - made)
			}
			if made >= w.vanish-w.Latency && !good {
				missed += w.every
			}
			if made < w.steady {
				continue
			}
			if good {
				delay.add(written - made)
			}
			own.add(good)
			steady.add(good)
			half.add(d <= 500*time.Millisecond)
			one.add(d <= time.Second)
			two.add(d <= 2*time.Second)
		}
		if w.vanish < Never && n.peer.leave == Never && n.peer.join < w.vanish {
			r.lost = append(r.lost, missed)
		}
		if own.all > 0 {
			c := classes[n.peer.class]
			if c == nil {
				c = new(classTally)
				classes[n.peer.class] = c
			}
			c.blocks.good += own.good
			c.blocks.all += own.all
			c.served.add(own.share() >= 0.99)
			served.add(own.share() >= 0.99)
			if own.good < own.all {
				r.Worst = append(r.Worst, Viewer{i, n.peer.uplink / float64(w.Rate), n.peer.join.Seconds(), own.share()})
			}
		}
	}
	slices.SortStableFunc(r.Worst, func(a, b Viewer) int { return int(math.Copysign(1, a.InTime-b.InTime)) })
	r.Worst = slices.Clone(r.Worst[:min(10, len(r.Worst))])
	r.InTime, r.InTimeAll = steady.share(), all.share()
	r.InTime500ms, r.InTime1s, r.InTime2s = half.share(), one.share(), two.share()
	r.Served = served.share()
	r.DelayP50, r.DelayP99 = delay.quantile(0.5), delay.quantile(0.99)
	r.StartUpP50, r.StartUpP95, r.StartUpMax = quantile(starts, 0.5), quantile(starts, 0.95), quantile(starts, 1)
	if len(late) > 0 {
		r.LateP50, r.LateP95 = quantile(late, 0.5), quantile(late, 0.95)
	}
	if len(r.lost) > 0 {
		total := time.Duration(0)
		for _, d := range r.lost {
			total += d
		}
		r.LostMean = total.Seconds() / float64(len(r.lost))
		r.LostP95, r.LostMax = quantile(r.lost, 0.95), quantile(r.lost, 1)
	}
	for _, class := range []float64{0, 1, 2, 5, 25} {
		if c := classes[class]; c != nil {
			r.Classes = append(r.Classes, Class{class, int(c.served.all), c.blocks.share(), c.served.share(), quantile(begins[class], 0.5)})
		}
	}
	w.traffic(r, perSecond, perDelay)
	r.Usable = w.usable()
	r.Hash = fmt.Sprintf("%016x", sum.Sum64())
	return r
}

type classTally struct{ blocks, served tally }

// traffic fills in what was sent and received, and the time series.
func (w *World) traffic(r *Result, perSecond []tally, perDelay []delays) {
	var sum totals
	for _, k := range w.workers {
		sum.add(&k.sum)
	}
	r.Wrong = sum.wrong
	r.Network["datagrams"] = int(sum.events)
	r.Network["lost"] = int(sum.lost)
	r.Network["dropped_by_uplinks"] = int(sum.upDropped)
	r.Network["dropped_by_downlinks"] = int(sum.downDropped)

	stream := float64(w.Rate) / 8 // bytes a second
	// A duplicate is taken for a full shard of the stream's usual length.
	shard := float64((w.packets*188+12*w.rows()-1)/(12*w.rows()) + wire.TagSize + 20 + wire.IPOverhead)
	var got [sorts]float64
	var viewing, duplicates, sent, sentFor float64
	bad := -1
	for i := range perSecond {
		var s second
		for _, k := range w.workers {
			s.add(&k.seconds[i])
		}
		p := Second{
			At: i, InTime: perSecond[i].share(), DelayP50: perDelay[i].quantile(0.5), DelayP99: perDelay[i].quantile(0.99),
			Viewers: float64(s.viewing) / 1000, Source: float64(s.source) / stream, WaitMost: s.longest.Seconds(),
			Dropped: s.dropped, Datagrams: s.datagrams,
		}
		if s.datagrams > 0 {
			p.Wait = s.waited.Seconds() / float64(s.datagrams)
		}
		if v := float64(s.viewing) / 1000 * stream; v > 0 {
			p.Beyond = (float64(s.received[shards])+float64(s.received[manifests])+float64(s.received[control]))/v - 1
			p.Control = float64(s.received[control]) / v
		}
		r.Seconds = append(r.Seconds, p)
		if perSecond[i].all > 0 && p.InTime < 0.99 {
			bad = i
		}
		at := Time(i) * time.Second
		if at >= feedFrom+time.Second && at+time.Second <= w.until {
			sent += float64(s.source)
			sentFor++
			r.SourcePeak = max(r.SourcePeak, p.Source)
		}
		if at >= w.steady && !w.silent(at) {
			for j := range got {
				got[j] += float64(s.received[j])
			}
			viewing += float64(s.viewing) / 1000
			duplicates += float64(s.duplicates)
		}
	}
	if bad < len(perSecond)-2 {
		settled := float64(bad+1) - w.lastJoin.Seconds()
		r.Settled = &settled
	}
	if sentFor > 0 {
		r.Source = sent / sentFor / stream
	}
	if viewing > 0 {
		v := viewing * stream
		r.BeyondShards = got[shards]/v - 1
		r.BeyondManifests = got[manifests] / v
		r.BeyondControl = got[control] / v
		r.BeyondDuplicates = duplicates * shard / v
		r.Beyond = r.BeyondShards + r.BeyondManifests + r.BeyondControl
	}
}

// silent reports whether the source says nothing in the second from at on.
func (w *World) silent(at Time) bool {
	from := w.steady + 5*time.Second
	return w.Silence > 0 && at+time.Second > from && at < from+w.Silence+time.Second
}

// rows is the j of the usual block.
func (p *plan) rows() int { return (p.packets*188 + 12*1200 - 1) / (12 * 1200) }

// digest puts all that the node has seen and done into a sum.
func (n *node) digest(sum hash.Hash64) {
	var b []byte
	for _, d := range n.decoded {
		b = binary.LittleEndian.AppendUint16(b, d)
	}
	for _, s := range n.sent {
		b = binary.LittleEndian.AppendUint64(b, s)
	}
	b = binary.LittleEndian.AppendUint32(b, n.seq)
	b = binary.LittleEndian.AppendUint64(b, uint64(n.started))
	sum.Write(b)
}

// quantile is in seconds; it sorts d. Never is an hour.
func quantile(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	i := max(0, int(math.Ceil(q*float64(len(d))))-1)
	return min(d[i], time.Hour).Seconds()
}

// usable is the mean uplink, × the stream, that those have for each other who
// are there at the end.
func (w *World) usable() float64 {
	var sum, all float64
	for _, n := range w.nodes[1:] {
		if n.peer.leave < w.until {
			continue
		}
		if all++; n.nature == Honest {
			sum += n.peer.uplink
		}
	}
	return sum / max(all, 1) / float64(w.Rate)
}
