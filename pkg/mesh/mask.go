package mesh

import (
	"math/bits"

	"github.com/sixcast/sixcast/pkg/wire"
)

// highest is the number of the highest stripe in m.
func highest(m wire.FeedMask) int { return bits.Len16(uint16(m)) - 1 }

// under is the set of all shards before the highest in m.
func under(m uint64) uint64 { return 1<<max(0, bits.Len64(m)-1) - 1 }

func onesCount(m wire.StripeMask) int { return bits.OnesCount16(uint16(m)) }

// lowest keeps the k lowest stripes of m.
func lowest(m wire.StripeMask, k int) wire.StripeMask {
	var out wire.StripeMask
	for ; m != 0 && k > 0; k-- {
		out |= m & -m
		m &= m - 1
	}
	return out
}
