package pace

import (
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
)

const mbit = 1e6

var far = netem.Params{Delay: 20 * time.Millisecond}

// An uplink of 10 Mbit/s is found, used, and not filled: less than 50 ms of
// queue, whatever the FIFO would take.
func TestFindsTheUplink(t *testing.T) {
	for _, fifo := range []time.Duration{50, 200, 1000} {
		fifo *= time.Millisecond
		t.Run(fifo.String(), func(t *testing.T) {
			w := newWorld(t, 1, 10*mbit, fifo)
			s := w.sender(NoCap)
			for range 5 {
				s.add(1, far)
			}
			s.bulk()
			w.trace(500 * time.Millisecond)
			w.run(60 * time.Second)
			t.Logf("sent %.2f Mbit/s; queue p50 %v p95 %v p99 %v; from 0 s %v", s.rate(20*time.Second, 60*time.Second)/mbit,
				w.queued(20*time.Second, 60*time.Second, .5), w.queued(20*time.Second, 60*time.Second, .95), w.queued(20*time.Second, 60*time.Second, .99), w.queued(0, 20*time.Second, 1))
		})
	}
}
