package world

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Time is simulated time since the start of a run.
type Time = time.Duration

// Never is a time that does not come.
const Never Time = 1<<63 - 1

const (
	// feedFrom is when the source's first block is made, and firstJoin when
	// the first viewer comes.
	feedFrom  = time.Second
	firstJoin = 2 * time.Second
	// zeroUplink is what a peer with no uplink to speak of still has for
	// control messages and requests, as a multiple of the stream.
	zeroUplink = 0.15
	// contacts is how many live peers a joiner is told of.
	contacts = 8
)

// Nature is how a peer behaves.
type Nature uint8

// The natures. All but the first run the same engine; what it sends is bent on
// its way out (adversary.go).
const (
	Honest   Nature = iota
	Polluter        // sends garbage in place of every shard
	Liar            // the same, and claims a great uplink close to the source
	Mute            // claims the same, and sends no shard at all
)

// Options say what is simulated. The zero value of a field means its default,
// where one is named.
type Options struct {
	Seed uint64 `json:"seed"`
	// Viewers that watch in the end, at least 1.
	Viewers int `json:"viewers"`
	// Rate of the stream in bit/s (2,000,000).
	Rate int `json:"rate"`
	// Latency D: a block is in time if it is decoded so long after its
	// creation (2 s).
	Latency time.Duration `json:"latency"`

	// Ramp is how long the joining takes. With Growth not 0 the viewers come
	// instead by this share of those present every second, after the first
	// twenty-fifth of them.
	Ramp   time.Duration `json:"ramp"`
	Growth float64       `json:"growth"`
	// Settle is how long after the last join the steady part begins (10 s),
	// and Hold how long that lasts (30 s).
	Settle time.Duration `json:"settle"`
	Hold   time.Duration `json:"hold"`

	// Mean uplink of the viewers and uplink of the source, as multiples of the
	// stream (2, 2).
	Mean   float64 `json:"mean"`
	Source float64 `json:"source"`
	// Told nodes know 0.95 of their uplink; the others have to learn it.
	Told bool `json:"told"`

	// Short makes every round trip 20 ms; else they come from a map, mean
	// 120 ms.
	Short bool `json:"short"`
	// Jitter is the most by which a path's delay wanders (5 ms).
	Jitter time.Duration `json:"jitter"`
	// Loss on every way, and whether it comes in bursts of 30 ms in the mean
	// instead, in which nothing at all reaches a node.
	Loss  float64 `json:"loss"`
	Burst bool    `json:"burst"`
	// Cross is the share of viewers whose uplink others use too, now and then.
	Cross float64 `json:"cross"`
	// Down is the downlink as a multiple of the stream (10).
	Down float64 `json:"down"`
	// Queue is how much an uplink's or a downlink's queue holds (200 ms).
	Queue time.Duration `json:"queue"`

	// Churn is the share of the viewers that leaves each minute once all have
	// joined, others taking their places. They leave without a word, but for
	// the share Polite.
	Churn  float64 `json:"churn"`
	Polite float64 `json:"polite"`
	// Late is how many more come into the swarm that has settled, in the first
	// third of the steady part, as a share of Viewers. Each is told of three to
	// eight.
	Late float64 `json:"late,omitempty"`
	// Vanish is the share that vanishes at once at the start of the steady
	// part.
	Vanish float64 `json:"vanish"`
	// Polluters, Liars and Mutes are shares of the viewers.
	Polluters float64 `json:"polluters"`
	Liars     float64 `json:"liars"`
	Mutes     float64 `json:"mutes"`
	// Movers is the share whose address changes in the steady part, Sleepers
	// the share that is frozen for 30 s in it.
	Movers   float64 `json:"movers"`
	Sleepers float64 `json:"sleepers"`
	// Stalls is how often in a second a node stands still, as a process does on
	// a machine with other things to do, the source like any other: what comes
	// to it waits. Stall is for how long, in the mean (50 ms).
	Stalls float64       `json:"stalls,omitempty"`
	Stall  time.Duration `json:"stall,omitempty"`
	// Freeze is how long the source stands still like that, once, 5 s into the
	// steady part.
	Freeze time.Duration `json:"freeze,omitempty"`
	// Silence is how long the source says nothing, from 5 s into the steady
	// part on.
	Silence time.Duration `json:"silence"`

	// Grain is how exact a node's timers and arrivals are: what comes within
	// it is one batch (500 µs).
	Grain time.Duration `json:"grain"`
}

func (o *Options) defaults() error {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{
		{&o.Latency, 2 * time.Second}, {&o.Ramp, 10 * time.Second}, {&o.Settle, 10 * time.Second}, {&o.Hold, 30 * time.Second},
		{&o.Jitter, 5 * time.Millisecond}, {&o.Queue, 200 * time.Millisecond}, {&o.Grain, 500 * time.Microsecond},
		{&o.Stall, 50 * time.Millisecond},
	} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	for _, d := range []struct{ v, d *float64 }{{&o.Mean, ptr(2)}, {&o.Source, ptr(2)}, {&o.Down, ptr(10)}} {
		if *d.v == 0 {
			*d.v = *d.d
		}
	}
	if o.Rate == 0 {
		o.Rate = 2_000_000
	}
	switch {
	case o.Viewers < 1 || o.Viewers > 100_000:
		return errors.New("the number of viewers must be 1 to 100,000")
	case o.Rate < 50_000 || o.Rate > 50_000_000:
		return errors.New("the rate must be 50 kbit/s to 50 Mbit/s")
	case o.Grain < 0 || o.Grain > 2*time.Millisecond:
		return errors.New("the grain must be at most 2 ms")
	case o.Latency < 0 || o.Latency > maxDelay:
		return fmt.Errorf("the latency must be at most %v", maxDelay)
	case o.Mean < 0 || o.Source < 0.5 || o.Down < 1 || o.Loss < 0 || o.Loss > 0.9 || o.Growth < 0 || o.Churn < 0 || o.Late < 0 ||
		o.Queue < 20*time.Millisecond || o.Queue > time.Second || o.Jitter < 0 || o.Jitter > 50*time.Millisecond || o.Stalls < 0 || o.Stall < 0 || o.Stall > time.Second || o.Freeze < 0 || o.Freeze > 10*time.Second:
		return errors.New("an option is out of range")
	case o.Vanish+o.Polluters+o.Liars+o.Mutes > 1:
		return errors.New("more vanish or misbehave than there are")
	}
	return nil
}

func ptr(f float64) *float64 { return &f }

// span is a time from one moment to another.
type span struct{ from, to Time }

func (s span) has(t Time) bool { return t >= s.from && t < s.to }

// peer is what is decided about one node before the run begins: nothing that
// happens in the run changes it, so that two engines meet the same world.
type peer struct {
	join, leave Time // leave: Never for who stays
	polite      bool // says goodbye
	nature      Nature
	class       float64 // drawn: 0, 1, 2, 5 or 25
	uplink      float64 // bit/s
	downlink    float64
	cross       bool
	x, y        float32 // on the map, 0 to 1
	sleep       span
	move        Time // when its address changes; Never
	dial        []uint32
}

// plan is a whole scenario. peers[0] is the source, the others are in the
// order of their joins.
type plan struct {
	Options
	peers    []peer
	made     []Time        // when each block is
	packets  int           // of a block
	every    time.Duration // a block lasts
	lastJoin Time
	steady   Time
	until    Time
	vanish   Time // Never
}

// block sizes the channel's blocks as ingest does: full shards, j the least
// for which they last 100 ms.
func (p *plan) block() {
	const row = 12 * 1200
	j := 1
	for j < 4 && float64(row*j*8)/float64(p.Rate) < 0.1 {
		j++
	}
	p.packets = row * j / 188
	if float64(p.packets*188*8)/float64(p.Rate) > 0.4 {
		p.packets = max(1, p.Rate/20/188)
	}
	p.every = time.Duration(float64(p.packets*188*8) / float64(p.Rate) * float64(time.Second)).Truncate(time.Microsecond)
}

// newPlan draws everything that chance decides before the run.
func newPlan(o Options) (*plan, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	p := &plan{Options: o, vanish: Never}
	p.block()
	d := dice(mix(o.Seed))
	joins := p.joins(&d)
	p.lastJoin = joins[len(joins)-1]
	p.steady = p.lastJoin + o.Settle
	p.until = p.steady + o.Hold
	if o.Vanish > 0 {
		p.vanish = p.steady
	}
	p.populate(&d, joins)
	p.natures(&d)
	p.uplinks(&d)
	p.events(&d)

	quiet := span{p.steady + 5*time.Second, p.steady + 5*time.Second + o.Silence}
	for t := feedFrom; t < p.until; t += p.every {
		if o.Silence > 0 && quiet.has(t) {
			t = quiet.to
		}
		p.made = append(p.made, t)
	}
	return p, nil
}

// joins are the times at which the first Viewers join, in order.
func (p *plan) joins(d *dice) []Time {
	at := make([]Time, p.Viewers)
	first := p.Viewers
	ramp := p.Ramp
	if p.Growth > 0 {
		first = min(p.Viewers, max(2, (p.Viewers+24)/25))
		ramp = min(p.Ramp, 5*time.Second)
	}
	for i := range first {
		at[i] = firstJoin + Time(d.float()*float64(ramp))
	}
	slices.Sort(at[:first])
	for i := first; i < p.Viewers; i++ {
		// By growth e^(g·t) from first on.
		t := math.Log(float64(i+1)/float64(first)) / p.Growth
		at[i] = firstJoin + ramp + time.Duration(t*float64(time.Second))
	}
	return at
}

// populate makes the peers, with those that leave and come in the steady part.
func (p *plan) populate(d *dice, joins []Time) {
	p.peers = append(p.peers, peer{join: 0, leave: Never, move: Never})
	live := []uint32{0}
	add := func(at Time, told int) {
		q := peer{join: at, leave: Never, move: Never}
		// A few of those present, the source among them like anybody.
		k := min(told, len(live))
		for i := range k {
			j := i + int(d.next()%uint64(len(live)-i))
			live[i], live[j] = live[j], live[i]
		}
		q.dial = slices.Clone(live[:k])
		live = append(live, uint32(len(p.peers)))
		p.peers = append(p.peers, q)
	}
	for _, at := range joins {
		add(at, contacts)
	}
	late := make([]Time, int(math.Round(p.Late*float64(p.Viewers))))
	for i := range late {
		late[i] = p.steady + Time(d.float()*float64(p.Hold)/3)
	}
	slices.Sort(late)
	for _, at := range late {
		add(at, 3+int(d.next()%6))
	}
	leave := func(at Time, polite float64) {
		for {
			i := int(d.next() % uint64(len(live)))
			v := live[i]
			if v == 0 {
				continue
			}
			live[i] = live[len(live)-1]
			live = live[:len(live)-1]
			p.peers[v].leave = at
			p.peers[v].polite = d.float() < polite
			return
		}
	}
	gone := false
	at := p.lastJoin
	for {
		if p.Churn == 0 {
			at = Never
		} else {
			at += time.Duration(d.exp() * 60 / (p.Churn * float64(p.Viewers)) * float64(time.Second))
		}
		if !gone && at >= p.vanish && p.vanish < Never {
			gone = true
			for range int(p.Vanish * float64(len(live)-1)) {
				leave(p.vanish, 0)
			}
		}
		if at >= p.until {
			break
		}
		if len(live) > 1 {
			leave(at, p.Polite)
		}
		add(at, contacts)
	}
}

// natures makes some of the viewers adversaries.
func (p *plan) natures(d *dice) {
	order := d.perm(len(p.peers) - 1)
	for _, n := range []struct {
		nature Nature
		share  float64
	}{{Polluter, p.Polluters}, {Liar, p.Liars}, {Mute, p.Mutes}} {
		k := int(math.Round(n.share * float64(len(p.peers)-1)))
		for _, i := range order[:k] {
			p.peers[i+1].nature = n.nature
		}
		order = order[k:]
	}
}

// deck is the distribution of uplinks, a card a twentieth.
var deck = [20]float64{0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 5, 5, 5, 25}

// uplinks draws them: every twenty that join one after the other have one of
// each card, and all are scaled to the mean.
func (p *plan) uplinks(d *dice) {
	sum := 0.0
	var order []int
	for i := range p.peers[1:] {
		if i%len(deck) == 0 {
			order = d.perm(len(deck))
		}
		q := &p.peers[i+1]
		q.class = deck[order[i%len(deck)]]
		sum += q.class
	}
	scale := 0.0
	if sum > 0 {
		scale = p.Mean * float64(len(p.peers)-1) / sum
	}
	for i := range p.peers {
		q := &p.peers[i]
		q.uplink = q.class * scale * float64(p.Rate)
		q.downlink = p.Down * float64(p.Rate)
		if q.class == 0 {
			q.uplink = zeroUplink * float64(p.Rate)
		}
		if i == 0 {
			q.uplink = p.Source * float64(p.Rate)
		}
		q.downlink = max(q.downlink, q.uplink)
		q.x, q.y = float32(d.float()), float32(d.float())
	}
}

// events are what happens to single viewers in the steady part.
func (p *plan) events(d *dice) {
	for i := range p.peers[1:] {
		q := &p.peers[i+1]
		q.cross = d.float() < p.Cross
		move, sleep, when := d.float() < p.Movers, d.float() < p.Sleepers, d.float()
		at := p.steady + time.Duration(when*float64(p.Hold)/2)
		if move && q.join < p.steady {
			q.move = at
		}
		if sleep && q.join < p.steady {
			q.sleep = span{at, at + 30*time.Second}
		}
	}
}

// dice is a source of randomness of one word (splitmix64).
type dice uint64

func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

func (d *dice) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	return mix(uint64(*d))
}

// float is uniform in [0, 1).
func (d *dice) float() float64 { return float64(d.next()>>11) / (1 << 53) }

// exp is exponential with mean 1.
func (d *dice) exp() float64 { return -math.Log1p(-d.float()) }

func (d *dice) perm(n int) []int {
	p := make([]int, n)
	for i := range p {
		j := int(d.next() % uint64(i+1))
		p[i] = p[j]
		p[j] = i
	}
	return p
}

// Read fills b, for keys and tags that need to protect nothing.
func (d *dice) Read(b []byte) (int, error) {
	for i := 0; i < len(b); i += 8 {
		x := d.next()
		for j := i; j < min(i+8, len(b)); j++ {
			b[j] = byte(x)
			x >>= 8
		}
	}
	return len(b), nil
}

func compareEvents(a, b *event) int {
	return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.from, b.from), cmp.Compare(a.seq, b.seq))
}
