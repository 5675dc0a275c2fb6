package pace

import (
	"slices"

	"github.com/sixcast/sixcast/pkg/wire"
)

// Train measures an uplink before it is used: datagrams of one size are sent
// at once, and the narrowest link on their way spreads them (packet train
// dispersion). On a way to somebody else that is nearly always our own uplink.
type Train struct {
	bytes   float64 // of a datagram at the IP layer
	came    uint32  // which have
	arrival [wire.MaxTrain]uint32
}

// Begin begins a train of datagrams of so many bytes at the IP layer.
func (t *Train) Begin(bytes int) { *t = Train{bytes: float64(bytes)} }

// Came notes when a datagram came, in µs on whatever clock.
func (t *Train) Came(index uint8, arrival uint32) {
	if int(index) < len(t.arrival) {
		t.came |= 1 << index
		t.arrival[index] = arrival
	}
}

// has reports whether a datagram came.
func (t *Train) has(index uint8) bool { return t.came>>index&1 != 0 }

// Rate is what the narrowest link takes: the median over all pairs that came,
// so that a receiver that stood still for a moment does not decide. Unlimited
// where they were not spread at all; false if there are no two.
func (t *Train) Rate() (Rate, bool) {
	var gaps [wire.MaxTrain * (wire.MaxTrain - 1) / 2]float64 // µs a datagram
	k := 0
	for j := range t.arrival {
		for i := range j {
			if t.has(uint8(i)) && t.has(uint8(j)) {
				gaps[k] = float64(int32(t.arrival[j]-t.arrival[i])) / float64(j-i)
				k++
			}
		}
	}
	if k == 0 {
		return 0, false
	}
	slices.Sort(gaps[:k])
	gap := gaps[k/2]
	if gap <= 0 {
		return Unlimited, true
	}
	return Rate(t.bytes / gap * 1e6), true
}
