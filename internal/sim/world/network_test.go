package world

import (
	"bytes"
	"math"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/wire"
)

func plain(t *testing.T, o Options) *World {
	t.Helper()
	w, err := New(o, 1, Debug{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestMap(t *testing.T) {
	w := plain(t, Options{Seed: 3, Viewers: 1000})
	least, most, sum, n := time.Hour, time.Duration(0), time.Duration(0), 0
	for a := range uint32(300) {
		for b := range uint32(300) {
			if a != b {
				d := w.delay(a, b, time.Second)
				least, most, sum = min(least, d), max(most, d), sum+d
				n++
			}
		}
	}
	mean := sum / time.Duration(n)
	if least < w.window || most > 155*time.Millisecond || mean < 55*time.Millisecond || mean > 70*time.Millisecond {
		t.Errorf("one way %v to %v, mean %v", least, most, mean)
	}
	// A datagram never overtakes another of the same path.
	var last Time
	for at := Time(0); at < time.Second; at += 100 * time.Microsecond {
		come := at + w.delay(1, 2, at)
		if come <= last {
			t.Fatalf("sent at %v, comes at %v, the one before at %v", at, come, last)
		}
		last = come
	}
}

func TestAddresses(t *testing.T) {
	w := plain(t, Options{Seed: 3, Viewers: 300})
	for _, id := range []uint32{0, 1, 255, 256, 300} {
		for gen := range uint8(3) {
			if i, g, ok := w.locate(w.address(id, gen)); i != id || g != gen || !ok {
				t.Errorf("%d.%d is found as %d.%d, %v", id, gen, i, g, ok)
			}
		}
	}
	if _, _, ok := w.locate(w.address(1, 0)); !ok {
		t.Error("not found")
	}
}

func TestUplinks(t *testing.T) {
	for _, n := range []int{10, 200, 333} {
		p, err := newPlan(Options{Seed: 5, Viewers: n, Mean: 1.5})
		if err != nil {
			t.Fatal(err)
		}
		sum, none := 0.0, 0
		for _, q := range p.peers[1:] {
			if q.class == 0 {
				none++
				if q.uplink != zeroUplink*2e6 {
					t.Errorf("no uplink is %v bit/s", q.uplink)
				}
			} else {
				sum += q.uplink
			}
		}
		if mean := sum / float64(n) / 2e6; math.Abs(mean-1.5) > 1e-9 {
			t.Errorf("%d viewers: mean uplink %v", n, mean)
		}
		if share := float64(none) / float64(n); n > 100 && math.Abs(share-0.2) > 0.02 {
			t.Errorf("%d viewers: %v without uplink", n, share)
		}
	}
}

func TestAccessLink(t *testing.T) {
	a := newAccess(1e6) // 8 µs a byte
	if _, out, ok := a.send(time.Second, 1250, time.Second); !ok || out != 1010*time.Millisecond {
		t.Errorf("first out at %v", out)
	}
	if wait, out, ok := a.send(time.Second, 1250, time.Second); !ok || wait != 10*time.Millisecond || out != 1020*time.Millisecond {
		t.Errorf("second waits %v, out at %v", wait, out)
	}
	for range 100 {
		a.send(time.Second, 1250, 200*time.Millisecond)
	}
	if wait := a.busy - time.Second; wait < 200*time.Millisecond || wait > 210*time.Millisecond {
		t.Errorf("a full queue is %v long", wait)
	}
}

// Others on the uplink take their share of the time, and no more.
func TestCrossTraffic(t *testing.T) {
	a := newAccess(1e6)
	c := cross{dice: 1}
	sent, now := 0, Time(0)
	for end := 3000 * time.Second; now < end; now += time.Millisecond {
		c.advance(&a, now, 200*time.Millisecond)
		if wait, _, ok := a.send(now, 1250, 20*time.Millisecond); ok {
			sent += 1250
			if wait < 0 {
				t.Fatal("time goes back")
			}
		}
	}
	// A third of the time 60 % are theirs in the mean.
	if share := float64(sent) * 8 / 1e6 / now.Seconds(); share < 0.72 || share > 0.88 {
		t.Errorf("%.3f of the uplink was left", share)
	}
}

func TestBursts(t *testing.T) {
	var b burst
	d := dice(3)
	lost, pairs, last := 0, 0, false
	const all = 2_000_000
	for i := range all {
		l := b.loses(&d, Time(i)*time.Millisecond, 0.05)
		if l {
			lost++
			if last {
				pairs++
			}
		}
		last = l
	}
	if share := float64(lost) / all; math.Abs(share-0.05) > 0.003 {
		t.Errorf("%.4f lost", share)
	}
	// In a burst of 30 ms the next of a millisecond later is lost too.
	if after := float64(pairs) / float64(lost); after < 0.9 {
		t.Errorf("after a loss %.3f lost", after)
	}
}

func TestLiesAreInTheirPlaces(t *testing.T) {
	w := plain(t, Options{Seed: 3, Viewers: 2})
	n := &w.nodes[1]
	n.nature = Liar
	seal := func(m []byte) []byte {
		b := append([]byte{0x80, 0, 0, 0, 0, 0, 0, 1, wire.TypeSealed, 0, 0, 0, 0}, m...)
		return append(b, make([]byte, 16)...)
	}
	join := wire.Join{Tag: wire.TagBit, Uplink: 100}
	sub := wire.Subscribe{Uplink: 100, First: 77}
	pong := wire.AppendMessage(nil, wire.MsgPong, []byte{1, 2, 3, 4})
	b := n.bend(seal(sub.Append(join.Append(bytes.Clone(pong)))))
	from, to := messagesOf(b)
	if m, ok := bytes.CutPrefix(b[from:to], pong); !ok || m[0] != wire.MsgJoin {
		t.Fatalf("%x", b)
	}
	_, body, rest, _ := wire.Next(b[from+len(pong) : to])
	if err := join.Decode(body); err != nil || join.Uplink != 50_000 || !join.Serves {
		t.Errorf("JOIN says %+v, %v", join, err)
	}
	if _, body, rest, _ = wire.Next(rest); sub.Decode(body) != nil || sub.Uplink != 50_000 || sub.First != 77 || len(rest) != 0 {
		t.Errorf("SUBSCRIBE says %+v", sub)
	}
	shard := append([]byte{0x80, 0, 0, 0, 0, 0, 0, 1, wire.TypeShard}, make([]byte, 1200)...)
	if b := n.bend(shard); b == nil || b[8+20] == 0 {
		t.Error("a liar's shard is good")
	}
	if n.nature = Mute; n.bend(shard) != nil {
		t.Error("a mute sends a shard")
	}
}
