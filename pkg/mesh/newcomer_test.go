package mesh

import (
	"fmt"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

// TestNewcomersBeginWhereTheStreamIs: who comes when a run is three seconds
// old begins at the random access point and not at block 0, which the number
// of that block alone would have said.
func TestNewcomersBeginWhereTheStreamIs(t *testing.T) {
	w := newWorld(t, 1)
	w.mesh = true
	s := newStation(t, 1, block.NewRun(epoch, 1), 153*time.Millisecond, 153, 13)
	id := s.key.ID()
	p := netem.Params{Delay: 5 * time.Millisecond}
	source := w.host("source", id, p, Config{})
	relay := w.host("relay", id, p, Config{Upload: 5_000_000})
	relay.dial(source)
	s.feed(source, 0, 100)
	var vs []*host
	for i, at := range []Time{3 * time.Second, 3080 * time.Millisecond, 3700 * time.Millisecond} {
		v := w.host(fmt.Sprint("viewer ", i), id, p, Config{Upload: 50_000_000})
		w.at(at, func() { v.dial(relay) })
		vs = append(vs, v)
	}
	w.run(20 * time.Second)
	for _, v := range vs {
		first := wire.NoNumber
		for k := range v.blocks {
			first = min(first, k)
		}
		if first != 13 {
			t.Errorf("%s begins at block %d, want 13", v.name, first)
		}
		s.whole(t, v, 13)
	}
}
