package pace

import (
	"math/bits"
	"slices"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

const (
	// markRing is how many sendings a path remembers, for reports to name.
	markRing = 128
	// markTime is how long shards of one block share a mark.
	markTime = 3 * time.Millisecond
	// unknown is a delay that is not, µs.
	unknown = 1 << 40
	// sampleRing is how many arrivals are remembered.
	sampleRing = 16

	// standingTime is how long a queue must not have been empty to be one: a
	// burst makes a short one, and a block comes about every 115 ms.
	standingTime = 150 * time.Millisecond
	// serviceTime is the least time over which delivery is measured, and
	// serviceMost the most.
	serviceTime = 200 * time.Millisecond
	serviceMost = 800 * time.Millisecond

	// baseWindow and baseWindows: the base delay is the least of the last two
	// minutes (RFC 6817 section 3.4.2 keeps some minutes too), which bounds
	// what a change of route or of a clock can do.
	baseWindow  = 20 * time.Second
	baseWindows = 6
	// drift is how far two clocks are let go apart, in µs a second.
	drift = 50

	// lossTime and lossCount are what a measurement of loss takes at least.
	lossTime  = time.Second
	lossCount = 48

	// leastSlots seconds of least delays are kept to see it rise: the last two
	// or three, leastNow, are compared with those before.
	leastSlots = 13
	leastNow   = 3

	// A path that begins in a queue is assumed to have that in its delays, up
	// to assumedMost, less by assumedFalls µs a second: what was known of the
	// queue was known a moment later.
	assumedMost  = 200 * time.Millisecond
	assumedFalls = 50_000

	// pathTarget is the standing queue on a path, beyond our uplink's, above
	// which the path's rate comes down.
	pathTarget = 50 * time.Millisecond
	// pathDrain is the time in which such a queue would be drained.
	pathDrain = 500 * time.Millisecond
	// pathGrowth a second is how fast the rate comes back.
	pathGrowth = 0.25
	// needTimes is how much faster than it needs a live child is sent to at
	// the least, so that what was held up catches up.
	needTimes = 1.25
	// deaf is how long a path that is sent to may say nothing.
	deaf = 2 * time.Second
	// stale is how long what a path said is taken for its state.
	stale = 1200 * time.Millisecond
)

// Path is the way to one child. The zero value with Init is ready.
type Path struct {
	up     *Uplink
	listed bool

	datagrams uint32  // sent
	bytes     float64 // sent
	marks     []mark  // a ring; nil until the first shard
	marked    int
	unheard   Time // when the first datagram since the last report was sent; 0 none

	reported bool
	heard    Time
	blind    Time   // reports tell nothing before
	got      uint32 // as the last report counted
	gotMark  uint32 // datagrams sent when that was
	ref      uint32
	known    bool // ref and base are set
	base     [baseWindows]int64
	baseAt   Time
	guessed  bool // the path began in a queue: assumed is taken for its base delay, µs
	assumed  float64
	lookedAt Time
	recent   [sampleRing]sample
	samples  int

	least  [leastSlots]int64 // least delays, µs: of this second, of the one before, …
	second int64             // which that is
	began  int64             // the first such second
	frozen int64             // what they are compared with while the uplink is busy

	queue    time.Duration // standing, the uplink's part included
	service  Rate          // what the whole node delivered while this path was looked at
	own      Rate          // what this path did
	through  float64       // the same over what was sent, smoothed
	measured Time          // when service was

	lossSent, lossGot int
	lossAt            Time
	loss              float64
	lossKnown         bool
	lossOf            int     // datagrams of the last whole measurement, 0 once they are looked at
	lossFrom          Time    // when that began
	prevSent, prevGot int     // in the report before
	passed            float64 // of what was sent, over the last two reports

	rate  Rate // 0 is without limit
	short bool // it was shown not to carry what it should
	grown Time
}

// mark remembers when shards of a block were sent, and what had been sent
// before them.
type mark struct {
	block  block.Number
	count  uint32
	shards uint64
	at     Time
	sent   float64 // by the node
	own    float64 // on the path
}

// sample is a mark whose arrival is known.
type sample struct {
	at        Time  // sent
	owd       int64 // µs, from an unknown base
	sent, own float64
}

// arrived is the arrival in µs on a clock of the path's own.
func (s *sample) arrived() int64 { return int64(s.at/time.Microsecond) + s.owd }

// Init makes p a path of u.
func (p *Path) Init(u *Uplink) { p.up, p.passed = u, 1 }

// Close takes the path out of the uplink's reckoning; it may be used again.
func (p *Path) Close() {
	if p.listed {
		p.up.remove(p)
	}
	*p = Path{up: p.up, marks: p.marks, passed: 1}
}

// Sent counts a datagram to the child behind its channel tag. bytes is its
// size at the IP layer, IPv6 and UDP headers included.
func (p *Path) Sent(now Time, bytes int) {
	p.datagrams++
	p.bytes += float64(bytes)
	if p.unheard == 0 {
		p.unheard = now
	}
	p.up.Spend(now, bytes)
}

// Shard says that the datagram just counted was this shard, sent for the
// first time: an arrival of a shard that was sent twice tells nothing.
func (p *Path) Shard(now Time, number block.Number, index uint8) {
	if p.marked > 0 {
		k := &p.marks[(p.marked-1)%markRing]
		// Together as long as they go out one after the other, in the order
		// of their indexes: so the count of each is known.
		if k.block == number && now-k.at < markTime && k.shards>>index == 0 && p.datagrams == k.count+uint32(bits.OnesCount64(k.shards)) {
			k.shards |= 1 << index
			return
		}
	}
	if p.marks == nil {
		p.marks = make([]mark, markRing)
	}
	if !p.listed {
		p.up.add(p)
	}
	p.marks[p.marked%markRing] = mark{block: number, count: p.datagrams, shards: 1 << index, at: now, sent: p.up.sent, own: p.bytes}
	p.marked++
}

// Forget forgets what was sent: numbers begin anew.
func (p *Path) Forget() { p.marked = 0 }

// Again says that shards of a block are about to be sent once more: their
// arrivals tell nothing from now on.
func (p *Path) Again(number block.Number, shards uint64) {
	for i := range p.marks {
		if p.marks[i].block == number {
			p.marks[i].shards &^= shards
		}
	}
}

// find is the mark of a shard.
func (p *Path) find(number block.Number, index uint8) *mark {
	if index >= 64 {
		return nil
	}
	for i := p.marked - 1; i >= max(0, p.marked-markRing); i-- {
		if k := &p.marks[i%markRing]; k.block == number && k.shards>>index&1 != 0 {
			return k
		}
	}
	return nil
}

// A child that has said nothing for stood has stood still, as a busy machine
// does: what it reads all at once then was in its own queue. For blindTime its
// delays tell nothing of the path.
const (
	stood     = 650 * time.Millisecond
	blindTime = 300 * time.Millisecond
)

// Report takes what the child says. The report is believed as far as one
// child's word goes: it slows this path at most to what the child needs, and
// the uplink only if most others say the same.
func (p *Path) Report(now Time, m *wire.Report) {
	if p.marked == 0 {
		return
	}
	if p.heard != 0 && now-p.heard > stood {
		p.blind = now + blindTime
	}
	p.heard, p.unheard = now, 0
	if now < p.blind {
		return
	}
	fresh := false
	for i := int(min(m.Earliers, wire.MaxEarlier)) - 1; i >= 0; i-- {
		e := &m.Earlier[i]
		before := uint32(time.Duration(e.Before) * wire.EarlierUnit / time.Microsecond)
		if k := p.find(m.Number-block.Number(e.Back), e.Index); k != nil && p.sample(now, k, m.Arrival-before) {
			fresh = true
		}
	}
	if k := p.find(m.Number, m.Index); k != nil {
		fresh = p.sample(now, k, m.Arrival) || fresh
		p.count(now, m.Datagrams, k.count+uint32(bits.OnesCount64(k.shards&(1<<m.Index-1))))
	}
	if fresh {
		p.measure(now)
	}
	p.up.judge(now)
	p.follow(now)
}

// sample takes one arrival; false if it tells nothing new.
func (p *Path) sample(now Time, k *mark, arrival uint32) bool {
	owd := arrival - uint32(k.at/time.Microsecond)
	if !p.known {
		p.known, p.ref = true, owd
		for i := range p.base {
			p.base[i] = unknown
		}
		p.baseAt = now
		// What stands already is in this first delay.
		p.assumed = -float64(min(p.up.queue, assumedMost) / time.Microsecond)
		p.guessed, p.lookedAt = p.assumed < 0, now
		for i := range p.least {
			p.least[i] = unknown
		}
		p.second, p.frozen = int64(k.at/time.Second), unknown
		p.began = p.second
	}
	s := sample{k.at, int64(int32(owd - p.ref)), k.sent, k.own}
	if p.samples > 0 {
		last := &p.recent[(p.samples-1)%sampleRing]
		if s.at <= last.at || s.arrived() < last.arrived() {
			return false
		}
	}
	for now-p.baseAt >= baseWindow {
		copy(p.base[1:], p.base[:])
		p.base[0] = unknown
		if p.baseAt += baseWindow; now-p.baseAt > baseWindows*baseWindow {
			p.baseAt = now
		}
		for i := range p.base {
			p.base[i] += int64(drift * baseWindow / time.Second)
		}
	}
	p.base[0] = min(p.base[0], s.owd)
	for second := int64(s.at / time.Second); p.second < second; p.second++ {
		if second-p.second > leastSlots {
			p.second = second - leastSlots
		}
		copy(p.least[1:], p.least[:])
		p.least[0] = unknown
	}
	p.least[0] = min(p.least[0], s.owd)
	p.recent[p.samples%sampleRing] = s
	p.samples++
	return true
}

// measure reads the standing queue and delivery off the latest arrivals.
func (p *Path) measure(now Time) {
	base := slices.Min(p.base[:])
	if p.guessed {
		p.assumed += (now - p.lookedAt).Seconds() * assumedFalls
		p.lookedAt = now
		if p.guessed = int64(p.assumed) < base; p.guessed {
			base = int64(p.assumed)
		}
	}
	last := &p.recent[(p.samples-1)%sampleRing]
	least := last.owd
	enough := false
	var from *sample
	for i := p.samples - 2; i >= max(0, p.samples-sampleRing); i-- {
		s := &p.recent[i%sampleRing]
		span := last.at - s.at
		if span > serviceMost {
			break
		}
		if !enough {
			least = min(least, s.owd)
			enough = span >= standingTime
		}
		if arrived := last.arrived() - s.arrived(); span >= serviceTime && arrived >= int64(serviceTime/time.Microsecond) {
			from = s
			break
		}
	}
	if enough {
		p.queue = time.Duration(max(0, least-base)) * time.Microsecond
	} else if q := time.Duration(max(0, least-base)) * time.Microsecond; q < p.queue {
		p.queue = q
	}
	if from == nil {
		return
	}
	took := float64(last.arrived()-from.arrived()) / 1e6
	p.service = Rate((last.sent - from.sent) / took)
	p.own = Rate((last.own - from.own) / took)
	through := (last.at - from.at).Seconds() / took
	if p.measured == 0 {
		p.through = 1
	}
	p.through += (through - p.through) * min(1, (now-p.measured).Seconds())
	p.measured = now
}

// risen says by how much the least delay of the last seconds is above what it
// usually was in the ten before, in seconds; negative if that is not known.
func (p *Path) risen() float64 { return p.risenOver(leastNow) }

// usually is the least delay in those ten seconds, unknown if it changed by
// more in them than the rise that is looked for: with much jitter nothing can
// be told.
func (p *Path) usually() int64 {
	least, most := int64(unknown), int64(-unknown)
	for i := leastNow; i+leastNow <= leastSlots; i++ {
		if v := slices.Min(p.least[i : i+leastNow]); v != unknown {
			least, most = min(least, v), max(most, v)
		}
	}
	if p.second-p.began < leastSlots || float64(most-least) > p.up.packet()*1e6/2 {
		return unknown
	}
	return least
}

// risenLately is the same for the last second or two.
func (p *Path) risenLately() float64 { return p.risenOver(leastNow - 1) }

func (p *Path) risenOver(slots int) float64 {
	now := slices.Min(p.least[:slots])
	then := p.frozen
	if !p.up.busy() {
		then = p.usually()
	}
	if now == unknown || then == unknown {
		return -1
	}
	return max(0, float64(now-then)/1e6)
}

// count takes the child's count of datagrams as of one that was the sent-th.
func (p *Path) count(now Time, got, sent uint32) {
	dGot, dSent := got-p.got, sent-p.gotMark
	known := p.reported
	p.got, p.gotMark, p.reported = got, sent, true
	if !known || dSent > 1<<20 || dGot > 1<<20 {
		p.lossSent, p.lossGot, p.lossAt = 0, 0, now
		return
	}
	dGot = min(dGot, dSent+64) // no more than a burst out of order
	if n := p.prevSent + int(dSent); n > 0 {
		p.passed = min(1, float64(p.prevGot+int(dGot))/float64(n))
	}
	p.prevSent, p.prevGot = int(dSent), int(dGot)
	if p.up.met != 0 && now-p.up.metAt < lossTime {
		// What overflows from a queue does not count: the queue has told.
		p.lossSent, p.lossGot, p.lossAt, p.lossKnown = 0, 0, now, false
		return
	}
	p.lossSent += int(dSent)
	p.lossGot += int(dGot)
	if now-p.lossAt >= lossTime && p.lossSent >= lossCount {
		p.loss = max(0, 1-float64(p.lossGot)/float64(p.lossSent))
		p.lossKnown, p.lossOf, p.lossFrom = true, p.lossSent, p.lossAt
		p.lossSent, p.lossGot, p.lossAt = 0, 0, now
	}
}

// excess is the part of the queue that is not our uplink's.
func (p *Path) excess() time.Duration {
	if len(p.up.paths) < 2 || p.guessed {
		return 0
	}
	// What others said is a little older or newer.
	return max(0, p.queue-p.up.queue-p.up.queue/4)
}

// follow lets the path's own rate follow what its child's downlink takes.
func (p *Path) follow(now Time) {
	if p.measured == 0 {
		return
	}
	switch q := p.excess(); {
	case q > pathTarget:
		if r := p.own * backOff; p.rate == 0 || r < p.rate {
			p.rate = r
		}
		if p.through*(1-p.loss) < 0.85 {
			p.short = true
		}
	case q < pathTarget/2 && p.rate != 0:
		p.rate *= 1 + pathGrowth*Rate(min(1, (now-p.grown).Seconds()))
		if p.rate > 16*p.own {
			p.rate = 0
		}
	}
	p.grown = now
}

// Rate is how fast the child may be sent to, at most want. need is what its
// live subscription takes on the wire: a queue in its own downlink does not
// slow it below that (it is for the child to leave), but a path that proves
// unable to carry it, or from which nothing is heard, does.
func (p *Path) Rate(now Time, want, need Rate) Rate {
	r, floor := want, need*needTimes
	if p.rate != 0 {
		r = min(r, p.rate)
	}
	if p.short {
		if p.short = r < floor; p.short {
			floor = need / 4
		}
	}
	if q := p.excess(); q > pathTarget/2 && p.measured != 0 {
		r *= Rate(max(0.5, 1-float64(q-pathTarget/2)/float64(pathDrain)))
	}
	if p.unheard != 0 && now-p.unheard > deaf && p.marked > 0 {
		r, floor = min(r, need/4), need/4
	}
	return min(want, max(r, floor, datagram*4))
}

// Queue is the delay that stands on the path beyond the least seen of late,
// the uplink's part included.
func (p *Path) Queue() time.Duration { return p.queue }

// Loss is the share of datagrams that did not arrive, over the last second or
// so.
func (p *Path) Loss() float64 { return p.loss }

// standing is the queue in seconds on a path whose base delay is known.
func (p *Path) standing() float64 {
	if p.guessed {
		return -1
	}
	return p.queue.Seconds()
}

func (p *Path) knownLoss() float64 {
	if !p.lossKnown {
		return -1
	}
	return p.loss
}

// Delivered is what the child was measured to receive, 0 if not known.
func (p *Path) Delivered() Rate { return p.own }
