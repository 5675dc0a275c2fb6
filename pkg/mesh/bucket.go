package mesh

import "time"

// bucket caps what a node sends: a token bucket that may go into debt, so
// that control messages are never held back but are paid for all the same.
type bucket struct {
	rate   float64 // bytes a second; negative: no cap
	credit float64
	last   Time
}

const (
	// bucketDepth is how much of the cap may leave in one go.
	bucketDepth = 20 * time.Millisecond
	// bucketDebt is how long control messages beyond the cap are paid for:
	// who makes us say much must not silence us for longer.
	bucketDebt = time.Second
)

func (b *bucket) init(bits int64) { b.rate = float64(bits) / 8 }

func (b *bucket) refill(now Time) {
	if b.rate < 0 {
		return
	}
	b.credit = min(b.credit+b.rate*(now-b.last).Seconds(), max(b.rate*bucketDepth.Seconds(), 4*1280))
	b.last = now
}

// spend takes bytes, into debt if need be.
func (b *bucket) spend(now Time, bytes int) {
	if b.rate < 0 {
		return
	}
	b.refill(now)
	b.credit = max(b.credit-float64(bytes), -b.rate*bucketDebt.Seconds())
}

// open reports whether something may be sent now.
func (b *bucket) open() bool { return b.rate < 0 || b.credit > 0 }

// wait is how long it takes until something may be sent.
func (b *bucket) wait() time.Duration {
	if b.open() {
		return 0
	}
	if b.rate == 0 {
		return time.Hour
	}
	return time.Duration((1 - b.credit) / b.rate * float64(time.Second))
}
