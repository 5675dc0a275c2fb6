package ts

import (
	"fmt"
	"math"
	"time"
)

const (
	// ClockHz is the frequency of the system clock that PCRs count (13818-1 §2.4.2.1).
	ClockHz = 27_000_000

	// TimestampHz is the frequency in which PTS and DTS count.
	TimestampHz = 90_000

	// PCRModulus is where PCRs wrap, in ticks of 27 MHz: 26.5 hours.
	PCRModulus = 300 << 33

	ticksPerTimestamp = ClockHz / TimestampHz
)

// BitRate is in bits a second.
type BitRate int64

// BitRateOf is the rate at which n bytes pass in d; 0 if d is not positive.
func BitRateOf(n int64, d time.Duration) BitRate {
	if d <= 0 {
		return 0
	}
	return BitRate(math.Round(float64(n) * 8 / d.Seconds()))
}

// Duration is how long n bytes last at this rate; 0 if the rate is not positive.
func (r BitRate) Duration(n int64) time.Duration {
	if r <= 0 {
		return 0
	}
	return time.Duration(float64(n) * 8 * float64(time.Second) / float64(r))
}

// String gives the rate with three digits or more, as "8.25 Mbit/s".
func (r BitRate) String() string {
	for _, u := range [...]struct {
		unit BitRate
		name string
	}{{1e9, "Gbit/s"}, {1e6, "Mbit/s"}, {1e3, "kbit/s"}} {
		if r >= u.unit || r <= -u.unit {
			v := float64(r) / float64(u.unit)
			digits := 2
			if a := math.Abs(v); a >= 99.95 {
				digits = 0
			} else if a >= 9.995 {
				digits = 1
			}
			return fmt.Sprintf("%.*f %s", digits, v, u.name)
		}
	}
	return fmt.Sprintf("%d bit/s", int64(r))
}

const (
	// clockJump is how far a PCR may be off before it is taken for another
	// time base (TR 101 290 allows gaps of 100 ms; 1 s apart is seen in the wild).
	clockJump = ClockHz

	// clockFirst replaces it while the rate is not known.
	clockFirst = 5 * ClockHz

	// rateWindow is the time over which Rate averages, once it has passed.
	rateWindow = ClockHz

	// rateSamples in rateWindow are enough; PCRs in between are not kept.
	rateSamples = 32
)

// Clock follows the PCRs of one PID, which the caller chooses, and says what
// time it is in the stream at any byte of it. Media time begins at 0 with
// the first PCR and only goes forward: where the PCR wraps, it goes on; where
// it jumps (backwards, or more than a second further than it and the bytes
// since say, or with the discontinuity_indicator set), time goes on by the
// bytes at the rate known before. If the PCRs vanish, time goes on likewise;
// a caller that moves to another PID, or to another input, calls Reset.
//
// The zero Clock is ready for use. It is not safe for concurrent use.
type Clock struct {
	seen  bool
	first instant // the first PCR
	pcr   uint64  // the last PCR as it came
	last  instant // where and when it came
	prev  instant // the one before; the first at first
	rate  float64 // bytes a tick; 0 = not known
	jumps uint64

	ring       [rateSamples]instant
	head, size int // oldest sample, samples
}

// instant ties a byte of the stream to its media time in ticks of 27 MHz.
type instant struct{ pos, media int64 }

// Reset forgets everything: the next PCR is time 0.
func (c *Clock) Reset() { *c = Clock{} }

// Observe takes the PCR (ticks of 27 MHz) of the packet at byte bytePos, which
// counts the bytes of the whole stream and must not go backwards, and its
// discontinuity_indicator.
func (c *Clock) Observe(pcr uint64, discontinuity bool, bytePos int64) {
	pcr %= PCRModulus
	if !c.seen {
		c.first = instant{pos: bytePos}
		c.seen, c.pcr, c.prev, c.last = true, pcr, c.first, c.first
		c.push(c.last)
		return
	}
	n := max(bytePos-c.last.pos, 0)
	step := ticksBetween(c.pcr, pcr)
	jump := discontinuity || step < 0
	if step > clockJump {
		if c.rate > 0 {
			jump = jump || float64(step-clockJump) > float64(n)/c.rate
		} else {
			jump = jump || step > clockFirst
		}
	}
	if step == 0 && !jump {
		return // a duplicate packet, or a clock that stands: bytes carry time on
	}
	if jump {
		c.jumps++
		step = 0
		if c.rate > 0 {
			step = int64(float64(n) / c.rate)
		}
		c.size = 0
	}
	c.prev = c.last
	c.pcr, c.last = pcr, instant{pos: bytePos, media: c.last.media + step}
	c.push(c.last)
}

// ticksBetween is b−a around the wrap, negative if b is the earlier one.
func ticksBetween(a, b uint64) int64 {
	d := int64(b) - int64(a)
	switch {
	case d > PCRModulus/2:
		d -= PCRModulus
	case d < -PCRModulus/2:
		d += PCRModulus
	}
	return d
}

// push keeps a sample and renews the rate.
func (c *Clock) push(at instant) {
	for c.size > 1 && at.media-c.ring[(c.head+1)%rateSamples].media >= rateWindow {
		c.head = (c.head + 1) % rateSamples
		c.size--
	}
	if c.size > 0 {
		oldest := c.ring[c.head]
		t, n := at.media-oldest.media, at.pos-oldest.pos
		// After a jump the old rate stands until there is a better one.
		if t > 0 && n > 0 && (c.rate == 0 || t >= rateWindow/10) {
			c.rate = float64(n) / float64(t)
		}
		newest := c.ring[(c.head+c.size-1)%rateSamples]
		if at.media-newest.media < rateWindow/(rateSamples-2) {
			return
		}
	}
	if c.size == rateSamples {
		c.head = (c.head + 1) % rateSamples
		c.size--
	}
	c.ring[(c.head+c.size)%rateSamples] = at
	c.size++
}

// Running reports whether At can tell the time: the rate is known, which takes two PCRs.
func (c *Clock) Running() bool { return c.rate > 0 }

// Elapsed is the media time of the last PCR.
func (c *Clock) Elapsed() time.Duration { return ticksDuration(c.last.media) }

// At is the media time at byte bytePos: between the last two PCRs on the line
// through both, after them at Rate. Further back it is on the line through the first PCR
// and the last but one, and before the first PCR negative. It is 0 while the
// clock is not Running.
func (c *Clock) At(bytePos int64) time.Duration {
	if c.rate == 0 {
		return 0
	}
	switch {
	case bytePos >= c.last.pos:
		return c.beyond(c.last, bytePos)
	case bytePos >= c.prev.pos:
		return between(c.prev, c.last, bytePos)
	case bytePos >= c.first.pos:
		return between(c.first, c.prev, bytePos)
	default:
		return c.beyond(c.first, bytePos)
	}
}

func (c *Clock) beyond(i instant, pos int64) time.Duration {
	return ticksDuration(i.media + int64(float64(pos-i.pos)/c.rate))
}

// between interpolates at pos, a.pos ≤ pos < b.pos.
func between(a, b instant, pos int64) time.Duration {
	part := float64(pos-a.pos) / float64(b.pos-a.pos)
	return ticksDuration(a.media + int64(part*float64(b.media-a.media)))
}

// Rate is the bit rate of the stream by its own clock, over about the last second; 0 if not yet known.
func (c *Clock) Rate() BitRate { return BitRate(math.Round(c.rate * 8 * ClockHz)) }

// Jumps counts the discontinuities that were bridged.
func (c *Clock) Jumps() uint64 { return c.jumps }

func ticksDuration(ticks int64) time.Duration {
	const nsPerMHz = 1000
	return time.Duration(ticks * nsPerMHz / (ClockHz / 1e6))
}
