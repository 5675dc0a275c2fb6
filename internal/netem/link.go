// Package netem emulates network links: loss, delay, jitter, reordering, duplication, rate with a bounded queue,
// and cuts, all decided by a seed, so that a test that fails fails again.
//
//	frame ─▶ cut? ─▶ queue (rate, bounded) ─▶ loss ─▶ delay + jitter ─▶ reordering ─▶ duplication ─▶ 0, 1 or 2 deliveries
//
// [Link] is the model of one direction of one link. It holds no frames, no clock and no goroutine: it is told when a
// frame of a certain size enters and answers when it comes out. [Switch] (Linux) applies two Links a port to real
// Ethernet frames between network interfaces.
package netem

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// BitRate is in bits a second, counted at the IP layer. 0 means without limit.
type BitRate int64

// Params says what a link does to the frames that pass in one direction. The zero value is a perfect link.
type Params struct {
	// Delay is added to every frame.
	Delay time.Duration
	// Jitter is the upper bound of a further delay, uniform from 0. It never reorders: a frame waits for the one before it.
	Jitter time.Duration
	// Loss is the share of frames that are lost, 0 to 1, in the long run.
	Loss float64
	// Burst is the mean number of frames lost in a row (Gilbert-Elliott: a bad state that loses everything, a good one
	// that loses nothing). 0 or 1 makes losses independent of each other.
	Burst float64
	// BurstTime, if not 0, makes the bad state last by time instead: exponential with this mean, whatever the traffic is.
	// Burst is ignored then.
	BurstTime time.Duration
	// Reorder is the share of frames that are held back by ReorderBy (0: DefaultReorderBy), so that later ones overtake them.
	Reorder   float64
	ReorderBy time.Duration
	// Duplicate is the share of frames that arrive twice.
	Duplicate float64
	// Rate is the serialisation rate. Frames that find more than Queue bytes waiting are dropped at the tail.
	Rate BitRate
	// Queue is in bytes. 0 means what Rate sends in DefaultQueueTime, and not less than two full frames.
	Queue int
	// Cut drops everything.
	Cut bool
}

const (
	// DefaultReorderBy is how long a reordered frame is held back: at 2 Mbit/s a datagram or two overtake it.
	DefaultReorderBy = 10 * time.Millisecond
	// DefaultQueueTime is the depth of a rate-limited link's queue: what a home router has on a good day.
	DefaultQueueTime = 100 * time.Millisecond

	minQueue = 2 * 1514
)

// ErrParams is wrapped by the errors of [Params.Validate].
var ErrParams = errors.New("impossible link parameter")

// Validate tells which parameter is out of range.
func (p Params) Validate() error {
	for _, share := range []struct {
		name  string
		value float64
	}{{"loss", p.Loss}, {"reorder", p.Reorder}, {"duplicate", p.Duplicate}} {
		if !(share.value >= 0 && share.value <= 1) {
			return fmt.Errorf("%w: %s is %v, and must be from 0 to 1", ErrParams, share.name, share.value)
		}
	}
	if p.Burst != 0 && !(p.Burst >= 1 && p.Burst < 1e9) {
		return fmt.Errorf("%w: burst is %v, and must be a mean number of frames of 1 or more", ErrParams, p.Burst)
	}
	if p.Burst > 1 && p.Loss < 1 && p.Loss > p.Burst*(1-p.Loss) {
		return fmt.Errorf("%w: bursts of %v frames cannot lose %v of all: the mean burst must be at least %.3g", ErrParams, p.Burst, p.Loss, p.Loss/(1-p.Loss))
	}
	if p.Delay < 0 || p.Jitter < 0 || p.BurstTime < 0 || p.ReorderBy < 0 {
		return fmt.Errorf("%w: a time is negative", ErrParams)
	}
	if p.Rate < 0 || p.Queue < 0 {
		return fmt.Errorf("%w: rate or queue is negative", ErrParams)
	}
	return nil
}

func (p *Params) queue() int {
	if p.Queue > 0 {
		return p.Queue
	}
	return max(minQueue, int(float64(p.Rate)/8*DefaultQueueTime.Seconds()))
}

// Stats counts what a link did since it was made.
type Stats struct {
	Frames     uint64 `json:"frames"` // submitted
	Bytes      uint64 `json:"bytes"`
	Lost       uint64 `json:"lost"`       // by Loss
	Overflowed uint64 `json:"overflowed"` // found the queue full
	Cut        uint64 `json:"cut"`        // met a cut
	Reordered  uint64 `json:"reordered"`
	Duplicated uint64 `json:"duplicated"`
	// Waited is how long all frames together stood in the queue behind others, MaxWaited the longest that one did.
	Waited    time.Duration `json:"waited_ns"`
	MaxWaited time.Duration `json:"max_waited_ns"`
}

// Delivered is the number of frames that came out, duplicates counted once.
func (s Stats) Delivered() uint64 { return s.Frames - s.Lost - s.Overflowed - s.Cut }

// Link models one direction of one link. It is not safe for concurrent use.
type Link struct {
	params Params
	stats  Stats

	frames *rand.Rand // four draws a frame whatever the parameters: frame n meets the same luck in every run
	bursts *rand.Rand // draws of the burst clock

	bad      bool          // Gilbert-Elliott state
	badUntil time.Duration // BurstTime: when the state changes
	busy     time.Duration // the last bit of the queue leaves
	latest   time.Duration // the latest delivery in order
	cutUntil time.Duration
}

// NewLink makes a link. Links of one network take the same seed and different names.
func NewLink(seed uint64, name string, p Params) (*Link, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	l := &Link{
		frames: rand.New(rand.NewPCG(seed, h.Sum64())),
		bursts: rand.New(rand.NewPCG(seed, ^h.Sum64())),
		params: p,
	}
	return l, nil
}

// Params returns what is in force.
func (l *Link) Params() Params { return l.params }

// SetParams changes what happens to later frames. Frames on their way keep their times.
func (l *Link) SetParams(p Params) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if p.Loss != l.params.Loss || p.Burst != l.params.Burst || p.BurstTime != l.params.BurstTime {
		l.bad, l.badUntil = false, 0
	}
	l.params = p
	return nil
}

// CutUntil drops every frame submitted before t. An earlier t than before shortens the cut.
func (l *Link) CutUntil(t time.Duration) { l.cutUntil = t }

// Stats returns the counters.
func (l *Link) Stats() Stats { return l.stats }

// Backlog is how long a frame that enters at now stands in the queue before its first bit leaves.
func (l *Link) Backlog(now time.Duration) time.Duration { return max(0, l.busy-now) }

// Deliveries is when the copies of a frame leave the link. At[:Copies] is in order; Copies is 0 for a frame that is lost.
type Deliveries struct {
	At     [2]time.Duration
	Copies int
}

// Submit enters a frame of size bytes (of IP) at now, a time on any clock that the caller keeps to and that does not go back.
func (l *Link) Submit(now time.Duration, size int) Deliveries {
	lose, jitter, reorder, duplicate := l.frames.Float64(), l.frames.Float64(), l.frames.Float64(), l.frames.Float64()
	p := &l.params
	l.stats.Frames++
	l.stats.Bytes += uint64(size)
	lost := l.loses(now, lose)

	if p.Cut || now < l.cutUntil {
		l.stats.Cut++
		return Deliveries{}
	}
	at := now
	if p.Rate > 0 {
		start := max(now, l.busy)
		backlog := (start - now).Seconds() * float64(p.Rate) / 8
		if backlog > 0 && backlog+float64(size) > float64(p.queue()) {
			l.stats.Overflowed++
			return Deliveries{}
		}
		at = start + time.Duration(float64(size)*8/float64(p.Rate)*float64(time.Second))
		l.busy = at
		l.stats.Waited += start - now
		l.stats.MaxWaited = max(l.stats.MaxWaited, start-now)
	}
	if lost {
		l.stats.Lost++
		return Deliveries{}
	}
	slowest := at + p.Delay + p.Jitter
	at += p.Delay + time.Duration(jitter*float64(p.Jitter))
	if reorder < p.Reorder {
		by := p.ReorderBy
		if by == 0 {
			by = DefaultReorderBy
		}
		l.stats.Reordered++
		at = max(at, l.latest) + by
	} else if p.Jitter > 0 {
		// Only jitter makes frames wait for each other: a delay that was made smaller acts at once.
		at = max(at, min(l.latest, slowest))
		l.latest = at
	} else {
		l.latest = at
	}
	d := Deliveries{At: [2]time.Duration{at, at}, Copies: 1}
	if duplicate < p.Duplicate {
		l.stats.Duplicated++
		d.Copies = 2
	}
	return d
}

// loses moves the loss model on by one frame; u is uniform in [0, 1).
func (l *Link) loses(now time.Duration, u float64) bool {
	p := &l.params
	switch {
	case p.Loss == 0:
		return false
	case p.Loss == 1:
		return true
	case p.BurstTime > 0:
		// A good state lasts so long in the mean that the bad one holds for a share p.Loss of the time.
		good := float64(p.BurstTime) * (1 - p.Loss) / p.Loss
		if l.badUntil == 0 || float64(now-l.badUntil) > 1000*(good+float64(p.BurstTime)) { // begin in the long run's state
			l.bad = l.bursts.Float64() >= p.Loss // turned over below
			l.badUntil = now
		}
		for l.badUntil <= now {
			l.bad = !l.bad
			mean := good
			if l.bad {
				mean = float64(p.BurstTime)
			}
			l.badUntil += 1 + time.Duration(l.bursts.ExpFloat64()*mean)
		}
		return l.bad
	case p.Burst > 1:
		if l.bad {
			l.bad = u >= 1/p.Burst
		} else {
			l.bad = u < p.Loss/(p.Burst*(1-p.Loss))
		}
		return l.bad
	default:
		return u < p.Loss
	}
}
