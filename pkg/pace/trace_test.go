package pace

import (
	"os"
	"testing"
	"time"
)

// trace logs what happens, for those who tune: PACE_TRACE=1.
func (w *world) trace(every time.Duration) {
	if os.Getenv("PACE_TRACE") == "" {
		return
	}
	var last float64
	var lastTCP int
	w.t.Log("    t   rate promise pace    use  sent   met  best   tcp  | seen  real queue  loss on")
	var say func()
	say = func() {
		s := w.node
		n := 0
		for _, c := range s.children {
			if c.on {
				n++
			}
		}
		tcp := 0.0
		if w.tcp != nil {
			tcp = float64(w.tcp.acked-lastTCP) * 1428 * 8 / every.Seconds()
			lastTCP = w.tcp.acked
		}
		m := func(r Rate) float64 { return float64(r) * 8 / 1e6 }
		w.t.Logf("%6.2f %5.2f %5.2f %5.2f  %5.2f %5.2f %5.2f %5.2f %5.2f | %6v %6v  %.3f/%.3f %v %v dropped %d", w.now.Seconds(), m(s.up.rate), m(s.up.promise), m(s.up.pacer.rate), m(s.up.use),
			(s.sent-last)*8/every.Seconds()/1e6, m(s.up.met), m(s.up.best), tcp/1e6,
			s.up.queue.Round(time.Millisecond), w.queue[len(w.queue)-1].Round(time.Millisecond), s.up.loss.usual, s.up.loss.excess, n, s.up.starting, s.dropped)
		last = s.sent
		w.at(w.now+every, say)
	}
	w.at(w.now+every, say)
}

var _ = testing.Short
