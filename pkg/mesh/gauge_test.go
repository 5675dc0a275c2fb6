package mesh

import (
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

// home is a viewer whose uplink takes so many bit/s and who was not told.
func (w *world) home(s *station, name string, up netem.BitRate) *host {
	h := w.host(name, s.key.ID(), near(), Config{Uplink: 1_000_000})
	if err := h.up.SetParams(netem.Params{Delay: 5 * time.Millisecond, Rate: up, Queue: 25_000}); err != nil {
		w.t.Fatal(err)
	}
	return h
}

// gaugeWorld is a world with a source that sends so many blocks.
func gaugeWorld(t *testing.T, c Config, blocks int) (w *world, s *station, source *host) {
	t.Helper()
	w = newWorld(t, 1)
	w.mesh = true
	s = newStation(t, 1, block.NewRun(epoch, 1), 115*time.Millisecond, 153, 17)
	source = w.host("source", s.key.ID(), near(), c)
	s.feed(source, 0, blocks)
	return w, s, source
}

// What an uplink takes is known a tenth of a second after the first link is
// up, before anything was promised on it, and nothing is learnt of liars but
// what they cost.
func TestUplinkIsMeasured(t *testing.T) {
	w, s, source := gaugeWorld(t, Config{}, 60)
	for _, c := range []struct {
		name        string
		up          netem.BitRate
		least, most float64 // Mbit/s
		serves      bool
	}{
		{"weak", 0.3e6, 0.2, 0.31, false},
		{"usual", 3e6, 2.5, 3, true},
		{"strong", 15e6, 12, 15, true},
		{"very strong", 200e6, 15, 22, true}, // no more than eight times what the channel takes
	} {
		h := w.home(s, c.name, c.up)
		w.at(2*time.Second, func() { h.dial(source) })
		w.at(2200*time.Millisecond, func() {
			if got := h.node.capacity() * 8 / 1e6; got < c.least || got > c.most || h.node.serves() != c.serves {
				t.Errorf("%s: %.2f Mbit/s of %.2f, serves %v", c.name, got, float64(c.up)/1e6, h.node.serves())
			}
		})
	}
	w.run(3 * time.Second)
}

// Who is poor looks again, and is not poor for ever.
func TestPoorLookAgain(t *testing.T) {
	w, s, source := gaugeWorld(t, Config{}, 800)
	h := w.home(s, "h", 0.3e6)
	h.dial(source)
	w.at(30*time.Second, func() {
		if h.node.serves() {
			t.Error("a weak uplink serves")
		}
		if err := h.up.SetParams(netem.Params{Delay: 5 * time.Millisecond, Rate: 5e6, Queue: 25_000}); err != nil {
			t.Error(err)
		}
	})
	w.run(75 * time.Second)
	if got := h.node.capacity() * 8 / 1e6; !h.node.serves() || got < 4 {
		t.Errorf("serves %v, %.2f Mbit/s, after it has become a strong one", h.node.serves(), got)
	}
}

// Who is told that he is poor asks somebody else.
func TestALieMakesNobodyPoor(t *testing.T) {
	w, s, source := gaugeWorld(t, Config{}, 60)
	other := w.host("other", s.key.ID(), near(), Config{})
	other.dial(source)
	h := w.home(s, "h", 3e6)
	h.dial(source)
	w.at(500*time.Millisecond, func() {
		h.dial(other)
		// As if the source had said so.
		h.node.gauge.rate, h.node.gauge.taken = 1000, false
		h.ch.expect()
		if h.node.serves() {
			t.Error("the lie did not matter")
		}
	})
	w.run(4 * time.Second)
	if got := h.node.capacity() * 8 / 1e6; !h.node.serves() || got < 2 {
		t.Errorf("serves %v, %.2f Mbit/s", h.node.serves(), got)
	}
}

// Nobody answers: what was believed stays.
func TestTrainsToTheDeaf(t *testing.T) {
	w, s, source := gaugeWorld(t, Config{}, 60)
	h := w.home(s, "h", 3e6)
	h.dial(source)
	w.tamper = func(_, _ *host, b []byte) []byte {
		if len(b) == gaugeShort-wire.IPOverhead {
			return nil
		}
		return b
	}
	w.run(5 * time.Second)
	if g := h.node.gauge; g.known || g.tries != gaugeTries || !h.node.serves() {
		t.Errorf("known %v after %d tries, serves %v", g.known, g.tries, h.node.serves())
	}
}

// A flood of trains is answered as far as one node's measurements go.
func TestTrainsAreAnsweredSparingly(t *testing.T) {
	w, s, source := gaugeWorld(t, Config{Upload: 10_000_000}, 60)
	h := w.host("h", s.key.ID(), near(), Config{Upload: 100_000_000})
	h.dial(source)
	w.run(time.Second)
	p := source.node.order[0]
	before := p.trains.credit
	answers := 0
	for range 1000 {
		m := wire.Train{Train: 1}
		had := len(p.control)
		p.onTrain(&m)
		if len(p.control) > had {
			answers++
		}
	}
	if before != arrivedBurst || answers != arrivedBurst {
		t.Errorf("%d of 1000 were answered, allowed %v", answers, before)
	}
}
