//go:build linux

package acceptance

import (
	"os"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
)

// Hours in short: a chain of three relays where every link loses 5 %, reorders 1 %, doubles 1 % and jitters gives every byte for
// minutes. SIXCAST_SOAK may say for how long (10m); otherwise it is 3 minutes.
func TestSoak(t *testing.T) {
	if !soak {
		t.Skip("takes minutes: set SIXCAST_SOAK=1")
	}
	t.Parallel()
	long := 3 * time.Minute
	if d, err := time.ParseDuration(os.Getenv("SIXCAST_SOAK")); err == nil {
		long = d
	}
	c := newChain(t, 3, netem.Params{Loss: 0.05, Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond, Reorder: 0.01, Duplicate: 0.01}, 42)
	v := c.watch(c.end(), c.last())
	c.src.air(clipH264.path(t), "--loop")
	v.writes(1, patience)
	time.Sleep(long)
	c.src.ingest.signal(2)
	c.src.ingest.ends(0, patience)
	v.ends(0, patience)
	exactFrom(t, v, c.src)
	r := v.report()
	t.Logf("%d blocks; delay of a byte p50 %.0f ms, p99 %.0f ms, max %.0f ms; %d shards rebuilt, %d repaired", r.Blocks, r.ByteDelay.P50, r.ByteDelay.P99, r.ByteDelay.Max, r.Net.Rebuilt, r.Net.Repaired)
}
