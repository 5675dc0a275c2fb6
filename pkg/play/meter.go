package play

import (
	"math"
	"time"
)

// Delays is a histogram of delays in whole milliseconds: exact up to 20 s,
// of constant size. The zero value is empty.
type Delays struct {
	bins  [20001]uint32 // the last is "20 s and more"
	n     uint64
	most  time.Duration
	least time.Duration
}

// Add counts d; what is below zero, as with clocks that differ, counts as zero
// but in Min.
func (h *Delays) Add(d time.Duration) {
	if h.n == 0 || d < h.least {
		h.least = d
	}
	h.most = max(h.most, d)
	i := min(max(d.Round(time.Millisecond).Milliseconds(), 0), int64(len(h.bins)-1))
	h.bins[i]++
	h.n++
}

// Count is the number of delays added.
func (h *Delays) Count() uint64 { return h.n }

// Max and Min of what was added; zero if nothing was.
func (h *Delays) Max() time.Duration { return h.most }

// Min is the least, which may be below zero.
func (h *Delays) Min() time.Duration { return h.least }

// Quantile is the least delay that a share q (0…1) of all does not exceed, to
// the millisecond.
func (h *Delays) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(q*float64(h.n))), 1)
	var sum uint64
	for i, c := range h.bins {
		if sum += uint64(c); sum >= rank {
			if i == len(h.bins)-1 {
				return h.most
			}
			return time.Duration(i) * time.Millisecond
		}
	}
	return h.most
}
