package pace

import (
	"fmt"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

const mbit = 1e6

// some is what a child of a channel of 2 Mbit/s is sent that has four of its
// stripes from us.
const some Rate = 0.7 * mbit / 8

var far = netem.Params{Delay: 20 * time.Millisecond}

func lossy(loss float64) netem.Params {
	p := far
	if loss > 0 {
		p.Loss, p.Jitter = loss, 10*time.Millisecond
	}
	return p
}

func seeds(t *testing.T, f func(t *testing.T, seed uint64)) {
	for seed := uint64(1); seed <= 3; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { f(t, seed) })
	}
}

// want checks a figure.
func want(t *testing.T, what string, got, least, most float64) {
	t.Helper()
	if got < least || got > most {
		t.Errorf("%s is %.2f, want %.2f to %.2f", what, got, least, most)
	}
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

func (w *world) bulk(seed uint64, cap Rate, children int, down netem.Params) *sender {
	s := w.sender(cap)
	for range children {
		s.add(seed, down)
	}
	s.bulk()
	return s
}

func (w *world) live(seed uint64, cap Rate, children int, down netem.Params) *sender {
	s := w.sender(cap)
	for range children {
		s.add(seed, down).on = false
	}
	s.admit, s.most = true, children
	if w.upRate < 3*mbit {
		s.live(some / 4)
	} else {
		s.live(some)
	}
	return s
}

// An uplink of 10 Mbit/s is found, used, and not filled: less than 50 ms of
// queue, whatever the FIFO would take, and whatever is lost on the way.
func TestFindsTheUplink(t *testing.T) {
	for _, fifo := range []time.Duration{50, 200, 1000} {
		for _, loss := range []float64{0, 0.05, 0.1} {
			for _, children := range []int{1, 5} {
				fifo := fifo * time.Millisecond
				t.Run(fmt.Sprint(fifo, " loss ", loss, " children ", children), func(t *testing.T) {
					seeds(t, func(t *testing.T, seed uint64) {
						w := newWorld(t, seed, 10*mbit, fifo)
						s := w.bulk(seed, NoCap, children, lossy(loss))
						w.trace(500 * time.Millisecond)
						w.run(60 * time.Second)
						from, to := 20*time.Second, 60*time.Second
						t.Logf("sent %.2f Mbit/s; queue p50 %v p95 %v p99 %v; at first %v", s.rate(from, to)/mbit,
							w.queued(from, to, .5), w.queued(from, to, .95), w.queued(from, to, .99), w.queued(0, from, 1))
						want(t, "what is sent", s.rate(from, to)/mbit, 9.2, 10)
						want(t, "the queue's p99, ms", ms(w.queued(from, to, .99)), 0, 50)
						want(t, "the queue at first, ms", ms(w.queued(0, from, 1)), 0, 250)
					})
				})
			}
		}
	}
}

// Loss that comes in bursts, on the uplink itself, is nothing to slow down for.
func TestBurstsOfLoss(t *testing.T) {
	for _, loss := range []float64{0.05, 0.1} {
		for _, live := range []bool{false, true} {
			t.Run(fmt.Sprint(loss, " live ", live), func(t *testing.T) {
				seeds(t, func(t *testing.T, seed uint64) {
					w := newWorld(t, seed, 10*mbit, 300*time.Millisecond)
					p := w.up.Params()
					p.Loss, p.Burst = loss, 8
					if err := w.up.SetParams(p); err != nil {
						t.Fatal(err)
					}
					var s *sender
					if live {
						s = w.live(seed, NoCap, 24, far)
					} else {
						s = w.bulk(seed, NoCap, 5, far)
					}
					w.trace(time.Second)
					w.run(120 * time.Second)
					from, to := 20*time.Second, 120*time.Second
					t.Logf("sent %.2f Mbit/s, shed %d", s.rate(from, to)/mbit, s.shed)
					want(t, "what is sent", s.rate(from, to)/mbit, 7.5, 10)
				})
			})
		}
	}
}

// Children are promised what the uplink takes, and need not be sent away.
func TestLiveChildren(t *testing.T) {
	for _, loss := range []float64{0, 0.05, 0.1} {
		t.Run(fmt.Sprint(loss), func(t *testing.T) {
			seeds(t, func(t *testing.T, seed uint64) {
				w := newWorld(t, seed, 10*mbit, 300*time.Millisecond)
				s := w.live(seed, NoCap, 24, lossy(loss))
				w.trace(time.Second)
				w.run(120 * time.Second)
				from, to := 20*time.Second, 120*time.Second
				t.Logf("sent %.2f Mbit/s; queue p50 %v p95 %v p99 %v; at first %v, shed %d, dropped %d", s.rate(from, to)/mbit,
					w.queued(from, to, .5), w.queued(from, to, .95), w.queued(from, to, .99), w.queued(0, from, 1), s.shed, s.dropped)
				want(t, "what is sent", s.rate(from, to)/mbit, 8, 10)
				want(t, "the queue's p95, ms", ms(w.queued(from, to, .95)), 0, 45)
				want(t, "the queue's p99, ms", ms(w.queued(from, to, .99)), 0, 60)
				want(t, "how many children were sent away", float64(s.shed), 0, 16)
			})
		})
	}
}

// A TCP beside us gets its half and more, and we still some; when it is gone
// we have all again.
func TestTCPBeside(t *testing.T) {
	for _, fifo := range []time.Duration{50, 200, 1000} {
		for _, cap := range []Rate{NoCap, 9 * mbit / 8, 3 * mbit / 8} {
			fifo := fifo * time.Millisecond
			for _, live := range []bool{false, true} {
				t.Run(fmt.Sprint(fifo, " cap ", cap*8/mbit, " live ", live), func(t *testing.T) {
					w := newWorld(t, 1, 10*mbit, fifo)
					var s *sender
					if live {
						s = w.live(1, cap, 24, far)
					} else {
						s = w.bulk(1, cap, 5, far)
					}
					w.at(20*time.Second, func() { w.startTCP() })
					w.at(80*time.Second, func() { w.tcp.off = true })
					w.trace(time.Second)
					w.run(100 * time.Second)
					from, to := 20*time.Second, 80*time.Second
					tcp, ours, after := w.tcp.rate(from, to)/mbit, s.rate(from, to)/mbit, s.rate(90*time.Second, 100*time.Second)/mbit
					t.Logf("TCP %.2f, ours %.2f Mbit/s (from 40 s: %.2f, %.2f), after %.2f; shed %d", tcp, ours,
						w.tcp.rate(40*time.Second, to)/mbit, s.rate(40*time.Second, to)/mbit, after, s.shed)
					most := 9.0
					if cap == 3*mbit/8 {
						most = 3
						want(t, "TCP", tcp, 6.5, 10)
						want(t, "ours", ours, 0.7, 3)
					} else {
						want(t, "TCP", tcp, 5, 10)
						want(t, "ours", ours, 1.8, 5)
					}
					want(t, "ours afterwards", after, most*0.6, 10)
				})
			}
		}
	}
}

// A TCP of the same host leaves no queue to speak of, and gets its half too
// (unless jitter hides it).
func TestPoliteTCPBeside(t *testing.T) {
	for _, cap := range []Rate{NoCap, 9 * mbit / 8, 3 * mbit / 8} {
		for _, live := range []bool{false, true} {
			for _, loss := range []float64{0, 0.02} {
				t.Run(fmt.Sprint("cap ", cap*8/mbit, " live ", live, " loss ", loss), func(t *testing.T) {
					w := newWorld(t, 1, 10*mbit, 300*time.Millisecond)
					var s *sender
					if live {
						s = w.live(1, cap, 10, netem.Params{Delay: far.Delay, Loss: loss})
					} else {
						s = w.bulk(1, cap, 5, netem.Params{Delay: far.Delay, Loss: loss})
					}
					var p *polite
					sent := 0
					w.at(20*time.Second, func() { p = w.startPolite() })
					w.at(60*time.Second, func() { sent, p.off = p.sent, true })
					w.trace(time.Second)
					w.run(90 * time.Second)
					tcp, ours := float64(sent)*1428*8/40/mbit, s.rate(20*time.Second, 60*time.Second)/mbit
					after := s.rate(80*time.Second, 90*time.Second) / mbit
					t.Logf("TCP %.2f, ours %.2f Mbit/s, afterwards %.2f; shed %d", tcp, ours, after, s.shed)
					want(t, "TCP", tcp, 5, 10)
					want(t, "ours", ours, 0.9, 5)
					if cap == 3*mbit/8 {
						want(t, "TCP", tcp, 6.5, 10)
						want(t, "ours afterwards", after, 2, 3.1)
					} else {
						want(t, "ours afterwards", after, 5, 10)
					}
				})
			}
		}
	}
}

// The bottleneck changes and nobody says so.
func TestBottleneckChanges(t *testing.T) {
	for _, live := range []bool{false, true} {
		t.Run(fmt.Sprint("live ", live), func(t *testing.T) {
			seeds(t, func(t *testing.T, seed uint64) {
				w := newWorld(t, seed, 10*mbit, 300*time.Millisecond)
				var s *sender
				if live {
					s = w.live(seed, NoCap, 24, lossy(0.02))
				} else {
					s = w.bulk(seed, NoCap, 5, lossy(0.02))
				}
				w.at(30*time.Second, func() { w.setUp(3*mbit, 300*time.Millisecond) })
				w.at(60*time.Second, func() { w.setUp(10*mbit, 300*time.Millisecond) })
				w.trace(500 * time.Millisecond)
				w.run(90 * time.Second)
				t.Logf("sent before %.2f, after 2 s at 3 Mbit/s %.2f, queue %v, then p95 %v; 10 s after it came back %.2f, in the end %.2f; shed %d",
					s.rate(20*time.Second, 30*time.Second)/mbit, s.rate(32*time.Second, 60*time.Second)/mbit,
					w.queued(32*time.Second, 34*time.Second, .5), w.queued(34*time.Second, 60*time.Second, .95), s.rate(68*time.Second, 72*time.Second)/mbit, s.rate(80*time.Second, 90*time.Second)/mbit, s.shed)
				want(t, "what is sent before", s.rate(20*time.Second, 30*time.Second)/mbit, 8, 10)
				want(t, "what is sent after", s.rate(32*time.Second, 60*time.Second)/mbit, 2.2, 3)
				want(t, "the queue after 2 s, ms", ms(w.queued(32*time.Second, 34*time.Second, .5)), 0, 50)
				want(t, "the queue's p95 after, ms", ms(w.queued(34*time.Second, 60*time.Second, .95)), 0, 100)
				want(t, "what is sent in the end", s.rate(80*time.Second, 90*time.Second)/mbit, 7.5, 10)
			})
		})
	}
}

// One child's downlink is slow: it is sent less, the others are not.
func TestSlowChild(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, 10*mbit, 300*time.Millisecond)
		s := w.sender(NoCap)
		for i := range 12 {
			p := lossy(0.01)
			if i == 5 {
				p.Rate, p.Queue = 0.4*mbit, 50_000
			}
			s.add(seed, p)
		}
		s.live(some)
		w.trace(time.Second)
		w.run(60 * time.Second)
		for i, c := range s.children {
			t.Logf("%d: got %.2f Mbit/s, queue %v, loss %.2f, rate %.2f", i, c.got*8/60/mbit, c.path.Queue(), c.path.Loss(), c.path.Rate(w.now, 100_000, some)*8/mbit)
			if i != 5 {
				want(t, "what a child got", c.got*8/60/mbit, 0.65, 0.75)
			}
		}
		slow := s.children[5]
		want(t, "what the slow one got", slow.got*8/60/mbit, 0.33, 0.4)
		want(t, "its loss", slow.path.Loss(), 0, 0.2)
		want(t, "the uplink's queue, ms", ms(s.up.Queue()), 0, 20)
		want(t, "the capacity", float64(s.up.Capacity())*8/mbit, 8, 15)
	})
}

// A bottleneck with next to no buffer shows no queue, only loss.
func TestShortBuffer(t *testing.T) {
	for _, loss := range []float64{0, 0.05} {
		t.Run(fmt.Sprint(loss), func(t *testing.T) {
			seeds(t, func(t *testing.T, seed uint64) {
				w := newWorld(t, seed, 10*mbit, 8*time.Millisecond)
				s := w.bulk(seed, NoCap, 5, lossy(loss))
				w.trace(time.Second)
				w.run(100 * time.Second)
				from, to := 20*time.Second, 100*time.Second
				got := 0.0
				for _, c := range s.children {
					got += c.got * 8 / 100 / mbit
				}
				st := w.up.Stats()
				lost := float64(st.Overflowed) / float64(st.Frames)
				t.Logf("sent %.2f Mbit/s, got %.2f, overflowed %.3f", s.rate(from, to)/mbit, got, lost)
				want(t, "what is sent", s.rate(from, to)/mbit, 6, 11)
				want(t, "what overflows", lost, 0, 0.09) // what looks like it is looked at twice
			})
		})
	}
}

// An uplink that rests is believed to be what it was.
func TestIdleUplinkKeepsItsCapacity(t *testing.T) {
	w := newWorld(t, 1, 10*mbit, 300*time.Millisecond)
	s := w.live(1, NoCap, 24, far)
	w.at(40*time.Second, func() {
		s.most = 1
		s.admit = false
		for _, c := range s.children[1:] {
			c.on = false
			c.debt = nil
		}
	})
	w.run(40 * time.Second)
	was := s.up.Capacity()
	w.run(400 * time.Second)
	is := s.up.Capacity()
	t.Logf("%.2f, then %.2f Mbit/s", was*8/mbit, is*8/mbit)
	want(t, "the capacity after rest", float64(is/was), 0.95, 1.5)
}

// Clocks of children run 100 ppm apart and wrap.
func TestDriftingClocks(t *testing.T) {
	w := newWorld(t, 1, 10*mbit, 300*time.Millisecond)
	s := w.bulk(1, NoCap, 6, lossy(0.01))
	for i, c := range s.children {
		c.drift = float64(i-3) * 40e-6
		c.skew = 1<<32*time.Microsecond - 30*time.Second
	}
	w.trace(5 * time.Second)
	w.run(400 * time.Second)
	from, to := 20*time.Second, 400*time.Second
	t.Logf("sent %.2f Mbit/s; queue p50 %v p95 %v", s.rate(from, to)/mbit, w.queued(from, to, .5), w.queued(from, to, .95))
	want(t, "what is sent", s.rate(from, to)/mbit, 9, 10)
	want(t, "the queue's p95, ms", ms(w.queued(from, to, .95)), 0, 60)
}

// A weak uplink is not drowned for long, a strong one is soon found.
func TestWeakAndStrongUplinks(t *testing.T) {
	for _, x := range []struct {
		rate     float64
		fifo     time.Duration
		children int
		least    float64
		by       time.Duration
	}{{0.5, time.Second, 8, 0.3, 8 * time.Second}, {1, time.Second, 16, 0.75, 6 * time.Second}, {2, 300 * time.Millisecond, 20, 1.6, 5 * time.Second},
		{50, 100 * time.Millisecond, 90, 35, 6 * time.Second}, {200, 50 * time.Millisecond, 340, 150, 10 * time.Second}} {
		for _, live := range []bool{false, true} {
			t.Run(fmt.Sprint(x.rate, " Mbit/s live ", live), func(t *testing.T) {
				w := newWorld(t, 1, netem.BitRate(x.rate*mbit), x.fifo)
				var s *sender
				if live {
					s = w.live(1, NoCap, x.children, far)
				} else {
					s = w.bulk(1, NoCap, min(x.children, 20), far)
				}
				w.trace(250 * time.Millisecond)
				w.run(x.by + 2*time.Second)
				t.Logf("sent %.2f Mbit/s after %v; queue at most %v, then p95 %v; shed %d", s.rate(x.by, x.by+2*time.Second)/mbit, x.by,
					w.queued(0, x.by, 1), w.queued(x.by, x.by+2*time.Second, .95), s.shed)
				want(t, "what is sent", s.rate(x.by, x.by+2*time.Second)/mbit, x.least, x.rate*1.02)
				want(t, "the queue's p95, ms", ms(w.queued(x.by, x.by+2*time.Second, .95)), 0, 100+4*1290*8/x.rate/1000)
			})
		}
	}
}

// What one child says does not matter to the others: neither a queue that is
// not there, nor that there is none.
func TestLyingChildren(t *testing.T) {
	for name, lie := range map[string]func(n int, m *wire.Report){
		"a queue":      func(n int, m *wire.Report) { m.Arrival += uint32(n * 5000 % 900_000) },
		"no queue":     func(n int, m *wire.Report) { m.Arrival -= uint32(n * 50); m.Datagrams += uint32(n * 100) },
		"all lost":     func(_ int, m *wire.Report) { m.Datagrams, m.Loss = 0, 65535 },
		"noise":        func(n int, m *wire.Report) { m.Arrival *= 2654435761; m.Number ^= 5; m.Earlier[0].Before *= 40503 },
		"many earlier": func(n int, m *wire.Report) { m.Earliers = 255 },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, 10*mbit, 300*time.Millisecond)
			s := w.bulk(1, NoCap, 5, far)
			n := 0
			s.children[2].lie = func(m *wire.Report) { n++; lie(n, m) }
			w.trace(time.Second)
			w.run(60 * time.Second)
			from, to := 20*time.Second, 60*time.Second
			t.Logf("sent %.2f Mbit/s; queue p95 %v", s.rate(from, to)/mbit, w.queued(from, to, .95))
			want(t, "what is sent", s.rate(from, to)/mbit, 9, 10)
			want(t, "the queue's p95, ms", ms(w.queued(from, to, .95)), 0, 60)
		})
	}
}

// A child that comes while a TCP has filled the queue takes that for the path
// that it is, and hides it from nobody.
func TestChildrenComeWhileTheQueueStands(t *testing.T) {
	w := newWorld(t, 1, 10*mbit, 300*time.Millisecond)
	s := w.bulk(1, NoCap, 3, far)
	w.startTCP()
	for i := range 6 {
		w.at(time.Duration(20+3*i)*time.Second, func() { s.add(uint64(i), far) })
		w.at(time.Duration(25+3*i)*time.Second, func() {
			if i < 3 {
				s.children[i].on = false
				s.children[i].path.Close()
				s.children[i].debt = nil
			}
		})
	}
	w.trace(time.Second)
	w.run(100 * time.Second)
	tcp, ours := w.tcp.rate(60*time.Second, 100*time.Second)/mbit, s.rate(60*time.Second, 100*time.Second)/mbit
	t.Logf("TCP %.2f, ours %.2f Mbit/s", tcp, ours)
	want(t, "TCP", tcp, 5, 9)
}

// Children that come while a queue goes cannot tell how much of it is in their
// first delays. With the queue as it had been a moment before for that, a third
// of all paths saw 50 ms that were none, and a source sent a third of what its
// uplink takes for as long as two minutes.
func TestChildrenComeWhileTheQueueGoes(t *testing.T) {
	seeds(t, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, 4*mbit, 200*time.Millisecond)
		s := w.bulk(seed, NoCap, 2, far)
		var others func()
		others = func() {
			w.up.Submit(w.now, 1514)
			if w.now < 10800*time.Millisecond {
				w.at(w.now+3*time.Millisecond, others)
			}
		}
		w.at(10*time.Second, others)
		for i := range 8 {
			w.at(10500*time.Millisecond+time.Duration(i)*70*time.Millisecond, func() { s.add(seed+uint64(i), far) })
		}
		w.trace(time.Second)
		w.run(30 * time.Second)
		before, after := s.rate(5*time.Second, 10*time.Second)/mbit, s.rate(16*time.Second, 30*time.Second)/mbit
		t.Logf("%.2f Mbit/s before, %.2f after, queue %v", before, after, s.up.Queue())
		want(t, "what is sent then, to what was before,", after/before, 0.9, 1.2)
		want(t, "the queue that is seen, ms", ms(s.up.Queue()), 0, 10)
	})
}

// A longer way is no queue: after some minutes at the latest.
func TestLongerWay(t *testing.T) {
	w := newWorld(t, 1, 10*mbit, 300*time.Millisecond)
	s := w.bulk(1, NoCap, 5, far)
	w.at(30*time.Second, func() {
		for _, c := range s.children {
			p := c.down.Params()
			p.Delay += 60 * time.Millisecond
			c.down.SetParams(p)
		}
	})
	w.trace(5 * time.Second)
	w.run(220 * time.Second)
	t.Logf("sent %.2f Mbit/s at first, in the end %.2f", s.rate(35*time.Second, 60*time.Second)/mbit, s.rate(190*time.Second, 220*time.Second)/mbit)
	want(t, "what is sent in the end", s.rate(190*time.Second, 220*time.Second)/mbit, 8, 10)
}

// Nothing above the cap leaves, and control messages are paid for.
func TestCap(t *testing.T) {
	w := newWorld(t, 1, 100*mbit, 300*time.Millisecond)
	s := w.bulk(1, 5*mbit/8, 5, far)
	control := 0
	var tell func()
	tell = func() {
		s.up.Spend(w.now, 300)
		s.sent += 300
		control += 300
		w.at(w.now+5*time.Millisecond, tell)
	}
	w.at(10*time.Second, tell)
	w.run(30 * time.Second)
	most := 0.0
	for at := time.Second; at < 29*time.Second; at += 10 * time.Millisecond {
		most = max(most, s.rate(at, at+time.Second)/mbit)
	}
	t.Logf("the busiest second carried %.3f Mbit/s, the mean is %.3f", most, s.rate(10*time.Second, 30*time.Second)/mbit)
	want(t, "the busiest second", most, 4.5, 5.1)
	want(t, "the mean", s.rate(10*time.Second, 30*time.Second)/mbit, 4.7, 5.01)
	var u Uplink
	u.Init(0)
	u.Refill(time.Hour)
	if u.Open() || u.Promisable() != 0 {
		t.Error("a cap of nothing lets something through")
	}
}

func TestNothingIsAllocated(t *testing.T) {
	var u Uplink
	u.Init(NoCap)
	var p [4]Path
	var a [4]Arrivals
	for i := range p {
		p[i].Init(&u)
	}
	now, n := time.Second, block.Number(0)
	if got := testing.AllocsPerRun(2000, func() {
		n++
		for i := range p {
			for k := range uint8(24) {
				now += 100 * time.Microsecond
				p[i].Sent(now, 1276)
				p[i].Shard(now, n, k)
				a[i].Datagram(1228)
				a[i].Shard(now+30*time.Millisecond, n, k)
			}
			u.Refill(now)
			if at := now + 40*time.Millisecond; a[i].Due(at) {
				var m wire.Report
				a[i].Report(at, &m)
				p[i].Report(at, &m)
			}
			p[i].Rate(now, 1e6, 3e5)
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
	if u.Used() == 0 || p[0].Delivered() == 0 {
		t.Error("nothing was learnt")
	}
}

// BenchmarkSent is what a datagram costs that is pushed.
func BenchmarkSent(b *testing.B) {
	var u Uplink
	u.Init(1e6)
	var p Path
	p.Init(&u)
	b.ReportAllocs()
	now := time.Second
	for i := 0; b.Loop(); i++ {
		now += 500 * time.Microsecond
		p.Sent(now, 1276)
		p.Shard(now, block.Number(i/24), uint8(i%24))
	}
}

// BenchmarkReport is what a report costs, of 20 children.
func BenchmarkReport(b *testing.B) {
	var u Uplink
	u.Init(NoCap)
	var p [20]Path
	for i := range p {
		p[i].Init(&u)
	}
	b.ReportAllocs()
	now := time.Second
	for i := 0; b.Loop(); i++ {
		now += 20 * time.Millisecond
		q := &p[i%len(p)]
		for k := range uint8(8) {
			q.Sent(now, 1276)
			q.Shard(now+time.Duration(k)*4*time.Millisecond, block.Number(i), k)
		}
		m := wire.Report{Number: block.Number(i), Index: 7, Arrival: uint32(now / time.Microsecond), Datagrams: uint32(i/len(p)+1) * 8, Earliers: 8}
		for k := range m.Earlier {
			m.Earlier[k] = wire.Earlier{Back: uint8(20 * k), Index: 3, Before: uint16(k * 12000)}
		}
		q.Report(now+30*time.Millisecond, &m)
	}
}

// FuzzReport: whatever a child says, rates stay rates.
func FuzzReport(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 1, 0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		var u Uplink
		u.Init(NoCap)
		var p [3]Path
		var a [3]Arrivals
		now := time.Second
		for i := range p {
			p[i].Init(&u)
		}
		for n := block.Number(0); n < 200; n++ {
			now += 50 * time.Millisecond
			u.Refill(now)
			for i := range p {
				p[i].Sent(now, 1276)
				p[i].Shard(now, n, uint8(n%60))
				a[i].Datagram(1228)
				a[i].Shard(now+30*time.Millisecond, n, uint8(n%60))
				var m wire.Report
				if i > 0 && len(b) >= 24 {
					m.Decode(b)
					m.Number = n - block.Number(b[0]%8)
					m.Index = uint8(m.Number % 60)
					m.Arrival += uint32(now/time.Microsecond) * uint32(b[1]%3)
					m.Datagrams += uint32(n) * uint32(b[2])
					b = b[1:]
				} else {
					a[i].Report(now+30*time.Millisecond, &m)
				}
				p[i].Report(now+40*time.Millisecond, &m)
				for _, r := range []Rate{p[i].Rate(now, 1e6, 1e5), u.Capacity(), u.Promisable(), u.Pace(), u.Used()} {
					if !(r >= 0 && r < Unlimited) {
						t.Fatalf("a rate of %v", r)
					}
				}
				if u.Capacity() < 1000 || u.Queue() < 0 || p[i].Queue() < 0 {
					t.Fatalf("capacity %v, queue %v %v", u.Capacity(), u.Queue(), p[i].Queue())
				}
			}
		}
	})
}
