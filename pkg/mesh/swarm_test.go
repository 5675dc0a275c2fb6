package mesh

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

// uplinks of a swarm, in streams: a fifth hardly any, many one or two, few many.
func uplinks(n int, mean float64, r *rand.Rand) []float64 {
	var out []float64
	sum := 0.0
	for i := range n {
		x := float64(i) / float64(n)
		u := 25.0
		switch {
		case x < 0.2:
			u = 0.15
		case x < 0.5:
			u = 1
		case x < 0.8:
			u = 2
		case x < 0.95:
			u = 5
		}
		out = append(out, u)
		sum += u
	}
	for i := range out {
		out[i] *= mean * float64(n) / sum
	}
	r.Shuffle(n, func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

const streamRate = 152 * 188 * 8 / 0.115

func TestSwarm(t *testing.T) {
	for _, loss := range []float64{0, 0.05} {
		t.Run(fmt.Sprint("loss ", loss), func(t *testing.T) { swarm(t, 1, 50, loss) })
	}
}

func swarm(t *testing.T, seed uint64, n int, loss float64) {
	w := newWorld(t, seed)
	w.mesh = true
	s := newStation(t, 1, block.NewRun(epoch, 1), 115*time.Millisecond, 152, 17)
	id := s.key.ID()
	r := rand.New(rand.NewPCG(seed, 1))
	ups := uplinks(n, 2, r)
	p := netem.Params{Loss: loss / 2, Delay: 5 * time.Millisecond}
	cap := func(u float64) (netem.Params, Config) {
		q := p
		return q, Config{Upload: int64(u * streamRate)}
	}
	q, c := cap(2)
	source := w.host("source", id, q, c)
	var vs []*host
	joined := map[*host]Time{}
	for i := range n {
		at := 2*time.Second + time.Duration(i)*100*time.Millisecond
		w.at(at, func() {
			q, c := cap(ups[i])
			v := w.host(fmt.Sprint("v", i), id, q, c)
			joined[v] = at
			v.dial(source)
			for range min(i, 4) {
				v.dial(vs[r.IntN(len(vs))])
			}
			vs = append(vs, v)
		})
	}
	const blocks = 250
	s.feed(source, time.Second, blocks)
	lastSent := 0.0
	for now := time.Second; now < time.Second+blocks*blockTime; now += time.Second {
		if dbgTick != nil {
			for x := now - time.Second; x < now; x += 50 * time.Millisecond {
				w.run(x)
				dbgTick(w, source, vs)
			}
		}
		w.run(now)
		if !testing.Verbose() {
			continue
		}
		var live [18]int
		play, reqs := 0, uint64(0)
		for _, v := range vs {
			l := v.ch.live()
			for i := range live {
				live[i] += int(l >> i & 1)
			}
			if v.ch.playing() {
				play++
			}
			reqs += v.node.stats.Requests
		}
		used, capacity, sent := 0.0, 0.0, 0
		for _, v := range vs {
			used += v.node.used(nil)
			capacity += v.node.capacity()
			sent += v.sent
		}
		stream1 := streamRate / 8
		t.Logf("used %.1f of %.1f streams, sent %.1f", used/stream1, capacity/stream1, (float64(sent)-lastSent)/stream1)
		lastSent = float64(sent)
		var held [18]int
		for i := range held {
			held[i] = source.ch.childrenOn(i)
		}
		t.Logf("%v: %d viewers, %d playing, live %v, roots %v, requests %d, source sent %d", now, len(vs), play, live, held, reqs, source.sent)
	}
	w.run(time.Second + blocks*blockTime)
	sum, late := 0, 0
	from := block.Number(90)
	var starts, delays []time.Duration
	var shards, dups, control, total uint64
	for i, v := range vs {
		first := Never
		for k, at := range v.blocks {
			first = min(first, at)
			if k >= from && k < blocks-10 {
				delays = append(delays, epoch.Add(at).Sub(v.born[k]))
			}
		}
		starts = append(starts, first-joined[v])
		mine := 0
		for k := from; k < blocks-10; k++ {
			sum++
			at, ok := v.blocks[k]
			if !ok || epoch.Add(at).Sub(v.born[k]) > time.Second {
				late++
				mine++
			}
		}
		st := v.node.Stats()
		shards += st.ShardsIn
		dups += st.Duplicates
		control += st.ControlIn
		total += uint64(v.received)
		if mine > 0 {
			t.Logf("v%d: uplink %.2f late %d of %d; parents %d live %018b requests %d in %d", i, ups[i], mine, blocks-10-int(from), v.ch.Parents(), v.ch.live(), st.Requests, st.RequestsIn)
		}
	}
	slices.Sort(starts)
	slices.Sort(delays)
	stream := float64(blocks*152*188) * float64(n)
	t.Logf("in time %.3f %%; start p50 %v p95 %v; delay p50 %v p99 %v; source %.2f; received %.3f; dup %.4f control %.4f", 100-100*float64(late)/float64(sum),
		percentile(starts, .5), percentile(starts, .95), percentile(delays, .5), percentile(delays, .99),
		float64(source.sent)/float64(blocks*152*188), float64(total)/stream, float64(dups)/float64(shards), float64(control)/float64(total))
	if dbgSwarm != nil {
		dbgSwarm(w, source, vs)
	}
	hops := map[int]int{}
	for _, v := range vs {
		hops[v.ch.hop(0)]++
	}
	t.Logf("hops on stripe 0: %v", hops)
}

var dbgSwarm func(w *world, source *host, vs []*host)

var dbgTick func(w *world, source *host, vs []*host)

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
