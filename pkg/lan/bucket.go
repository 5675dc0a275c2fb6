package lan

import "time"

// bucket lets a number of things a second pass, and bursts. The zero value is full.
type bucket struct {
	spent float64
	at    time.Duration
}

// limit is what a bucket lets pass.
type limit struct{ rate, burst float64 }

// take reports whether one more may pass now.
func (b *bucket) take(now time.Duration, l limit) bool {
	b.spent = max(0, b.spent-l.rate*(now-b.at).Seconds())
	b.at = now
	if b.spent+1 > l.burst {
		return false
	}
	b.spent++
	return true
}
