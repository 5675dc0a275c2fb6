package block

import "time"

// streamClock tells how far a stream has come, and at what rate: by its PCR
// while it has one, else by arrival.
type streamClock struct {
	bytes uint64 // of whole packets before the one being looked at

	// The PCR seen last, and where the stream was then.
	ticks   uint64
	at      time.Duration
	step    time.Duration // from the one before
	atBytes uint64
	seen    time.Time // arrival; zero if there was none

	start, now time.Time // arrival of the first packet and the latest
	byPCR      meter
	byArrival  meter
}

const (
	pcrPerSecond = 27_000_000
	pcrModulus   = 300 << 33
	// pcrJump is the greatest step from one PCR to the next that is taken for
	// the passing of time: the standard allows 100 ms, some streams need a second.
	pcrJump = 5 * time.Second
)

// arrived comes before each packet.
func (c *streamClock) arrived(now time.Time) {
	if c.start.IsZero() {
		c.start = now
	}
	c.now = now
	c.byArrival.add(now.Sub(c.start), c.bytes)
}

// pcr takes the PCR of the packet that begins at c.bytes.
func (c *streamClock) pcr(ticks uint64, now time.Time) {
	step := time.Duration((ticks+pcrModulus-c.ticks)%pcrModulus) * 1000 / (pcrPerSecond / 1_000_000)
	switch {
	case c.seen.IsZero():
		c.at = c.now.Sub(c.start)
	case step > pcrJump:
		c.at = c.pos()
		c.byPCR = meter{latest: c.byPCR.latest}
	default:
		c.at += step
		c.step = step
	}
	c.ticks, c.atBytes, c.seen = ticks, c.bytes, now
	c.byPCR.add(c.at, c.bytes)
}

// live tells whether the stream still has a PCR.
func (c *streamClock) live() bool { return !c.seen.IsZero() && c.now.Sub(c.seen) < pcrJump }

// rate in bytes a second; 0 if unknown.
func (c *streamClock) rate() float64 {
	if c.live() && c.byPCR.latest > 0 {
		return c.byPCR.latest
	}
	return c.byArrival.latest
}

// pos is how far the stream had come before the packet at c.bytes.
func (c *streamClock) pos() time.Duration {
	switch {
	case !c.live():
		return c.now.Sub(c.start)
	case c.byPCR.latest == 0:
		return c.at
	}
	ahead := time.Duration(float64(c.bytes-c.atBytes) / c.byPCR.latest * float64(time.Second))
	if c.now.Sub(c.seen) < 2*c.step+minSpan {
		// Not past the next PCR: a stream of variable rate would seem to go back there.
		ahead = min(ahead, c.step)
	}
	return c.at + ahead
}

// meter measures a rate over about the last second.
type meter struct {
	ring   [64]sample
	first  int // oldest
	count  int
	latest float64 // bytes a second
}

type sample struct {
	t     time.Duration
	bytes uint64
}

const (
	meterSpan  = time.Second
	meterStep  = 20 * time.Millisecond  // samples that follow each other faster are left out
	meterLeast = 200 * time.Millisecond // less is too short to tell a rate
)

func (m *meter) add(t time.Duration, bytes uint64) {
	if m.count > 0 && t-m.at(m.count-1).t < meterStep {
		return
	}
	if m.count == len(m.ring) {
		m.first, m.count = m.first+1, m.count-1
	}
	m.ring[(m.first+m.count)%len(m.ring)] = sample{t, bytes}
	m.count++
	for m.count > 2 && t-m.at(1).t >= meterSpan {
		m.first, m.count = m.first+1, m.count-1
	}
	if old := m.at(0); t-old.t >= meterLeast && bytes > old.bytes {
		m.latest = float64(bytes-old.bytes) / (t - old.t).Seconds()
	}
}

func (m *meter) at(i int) sample { return m.ring[(m.first+i)%len(m.ring)] }
