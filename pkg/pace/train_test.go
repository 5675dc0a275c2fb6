package pace

import (
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/wire"
)

// A train finds what an uplink takes, whatever is lost and whoever stands still
// for a moment on the other side.
func TestTrain(t *testing.T) {
	for _, rate := range []netem.BitRate{0.2 * mbit, 1.5 * mbit, 8 * mbit, 40 * mbit} {
		for _, loss := range []float64{0, 0.2} {
			up := link(t, 7, "up", netem.Params{Rate: rate, Delay: 10 * time.Millisecond, Loss: loss, Queue: 1 << 20})
			var train Train
			train.Begin(1280)
			came := 0
			for i := range uint8(10) {
				d := up.Submit(time.Second, 1280)
				if d.Copies == 0 {
					continue
				}
				came++
				arrival := uint32(d.At[0]/time.Microsecond) + 0xffff0000 // wraps
				if i == 4 {
					arrival += 3000 // it stood still
				}
				train.Came(i, arrival)
			}
			got, ok := train.Rate()
			if !ok {
				t.Fatalf("%d of ten came, and nothing is known", came)
			}
			want(t, "the uplink", float64(got)*8/float64(rate), 0.9, 1.1)
		}
	}
}

// What does not come from a train is no reason to believe anything.
func TestTrainOfNothing(t *testing.T) {
	var train Train
	train.Begin(1280)
	if _, ok := train.Rate(); ok {
		t.Error("nothing came and a rate is known")
	}
	train.Came(3, 17)
	train.Came(wire.MaxTrain, 99)
	train.Came(255, 99)
	if _, ok := train.Rate(); ok {
		t.Error("one came and a rate is known")
	}
	train.Came(5, 17)
	if r, ok := train.Rate(); !ok || r != Unlimited {
		t.Errorf("two came at once: %v, %v", r, ok)
	}
	train.Came(5, 10) // out of order
	if r, ok := train.Rate(); !ok || r != Unlimited {
		t.Errorf("the second came first: %v, %v", r, ok)
	}
}
