package netem

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustLink(t *testing.T, seed uint64, p Params) *Link {
	t.Helper()
	l, err := NewLink(seed, t.Name(), p)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// submit sends n frames of 1300 bytes, one every gap, and returns the deliveries.
func submit(l *Link, n int, gap time.Duration) []Deliveries {
	out := make([]Deliveries, n)
	for i := range out {
		out[i] = l.Submit(time.Duration(i)*gap, 1300)
	}
	return out
}

// meanRun is the mean number of frames lost in a row.
func meanRun(ds []Deliveries) float64 {
	lost, runs := 0, 0
	for i, d := range ds {
		if d.Copies == 0 {
			lost++
			if i == 0 || ds[i-1].Copies > 0 {
				runs++
			}
		}
	}
	return float64(lost) / float64(runs)
}

func TestLossRateAndRunLength(t *testing.T) {
	const n = 200_000
	for _, tt := range []struct {
		name    string
		p       Params
		wantRun float64
	}{
		{"independent", Params{Loss: 0.05}, 1 / 0.95},
		{"bursts by frames", Params{Loss: 0.05, Burst: 8}, 8},
		{"bursts by time", Params{Loss: 0.05, BurstTime: 10 * time.Millisecond}, 10.5},
		{"heavy bursts", Params{Loss: 0.5, Burst: 20}, 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := mustLink(t, 1, tt.p)
			ds := submit(l, n, time.Millisecond)
			s := l.Stats()
			if got := float64(s.Lost) / n; math.Abs(got-tt.p.Loss) > 0.1*tt.p.Loss {
				t.Errorf("lost %.4f of all frames, want %.2f", got, tt.p.Loss)
			}
			if got := meanRun(ds); math.Abs(got-tt.wantRun) > 0.1*tt.wantRun {
				t.Errorf("mean run of losses is %.2f, want %.2f", got, tt.wantRun)
			}
		})
	}
}

func TestBurstClockSurvivesALongSilence(t *testing.T) {
	l := mustLink(t, 1, Params{Loss: 0.5, BurstTime: time.Microsecond})
	l.Submit(0, 1300)
	l.Submit(1000*time.Hour, 1300) // returns at once
}

func TestSameSeedSameResult(t *testing.T) {
	p := Params{Loss: 0.05, Burst: 3, Delay: 20 * time.Millisecond, Jitter: 9 * time.Millisecond, Reorder: 0.02, Duplicate: 0.01, Rate: 20e6}
	a := submit(mustLink(t, 7, p), 5000, 300*time.Microsecond)
	b := submit(mustLink(t, 7, p), 5000, 300*time.Microsecond)
	if d := cmp.Diff(a, b); d != "" {
		t.Errorf("the same seed gave two results:\n%s", d)
	}
	if c := submit(mustLink(t, 8, p), 5000, 300*time.Microsecond); cmp.Equal(a, c) {
		t.Error("two seeds gave one result")
	}
	other, _ := NewLink(7, "another link", p)
	if c := submit(other, 5000, 300*time.Microsecond); cmp.Equal(a, c) {
		t.Error("two links of one seed have the same luck")
	}
}

// Frame n meets the same luck whatever was asked for before: switching jitter on does not move the losses.
func TestParametersDoNotShiftTheLuck(t *testing.T) {
	lost := func(p Params) (at []int) {
		for i, d := range submit(mustLink(t, 3, p), 2000, time.Millisecond) {
			if d.Copies == 0 {
				at = append(at, i)
			}
		}
		return at
	}
	plain := lost(Params{Loss: 0.03})
	if d := cmp.Diff(plain, lost(Params{Loss: 0.03, Jitter: time.Millisecond, Duplicate: 0.5, Reorder: 0.1})); d != "" {
		t.Error(d)
	}
}

func TestDelayJitterKeepOrder(t *testing.T) {
	p := Params{Delay: 25 * time.Millisecond, Jitter: 10 * time.Millisecond, Rate: 50e6}
	last := time.Duration(0)
	for i, d := range submit(mustLink(t, 1, p), 10_000, 200*time.Microsecond) {
		sent := time.Duration(i) * 200 * time.Microsecond
		serial := 208 * time.Microsecond
		if d.Copies != 1 {
			if i < 1000 {
				t.Fatalf("frame %d was dropped", i)
			}
			continue
		}
		if d.At[0] < last {
			t.Fatalf("frame %d leaves before the one ahead of it", i)
		}
		last = d.At[0]
		if early := sent + p.Delay + serial; d.At[0] < early {
			t.Fatalf("frame %d leaves %v early", i, early-d.At[0])
		}
	}
}

func TestReorderOvertakes(t *testing.T) {
	l := mustLink(t, 1, Params{Delay: 5 * time.Millisecond, Reorder: 0.02})
	overtaken := 0
	ds := submit(l, 10_000, time.Millisecond)
	for i := 1; i < len(ds); i++ {
		if ds[i].At[0] < ds[i-1].At[0] {
			overtaken++
		}
	}
	if got := int(l.Stats().Reordered); got < 150 || got > 250 || overtaken < got*9/10 {
		t.Errorf("%d frames held back, %d overtaken, want about 200", got, overtaken)
	}
}

func TestDuplicates(t *testing.T) {
	l := mustLink(t, 1, Params{Duplicate: 0.1})
	two := 0
	for _, d := range submit(l, 10_000, time.Millisecond) {
		if d.Copies == 2 {
			two++
		}
	}
	if two < 900 || two > 1100 || uint64(two) != l.Stats().Duplicated {
		t.Errorf("%d duplicates, %d counted, want about 1000", two, l.Stats().Duplicated)
	}
}

func TestRateSerialisesAndDropsAtTheTail(t *testing.T) {
	// 8 Mbit/s: a frame of 1000 bytes takes 1 ms. The queue holds ten.
	l := mustLink(t, 1, Params{Rate: 8e6, Queue: 10_000, Delay: 3 * time.Millisecond})
	for i := range 15 {
		d := l.Submit(0, 1000)
		if want := time.Duration(i+1)*time.Millisecond + 3*time.Millisecond; i < 10 && (d.Copies != 1 || d.At[0] != want) {
			t.Fatalf("frame %d leaves at %v (%d copies), want %v", i, d.At[0], d.Copies, want)
		}
		if i >= 10 && d.Copies != 0 {
			t.Fatalf("frame %d found room in a full queue", i)
		}
	}
	if got := l.Stats().Overflowed; got != 5 {
		t.Errorf("%d overflowed, want 5", got)
	}
	if d := l.Submit(5*time.Millisecond, 1000); d.Copies != 1 || d.At[0] != 14*time.Millisecond {
		t.Errorf("after the queue has drained by half a frame leaves at %v, want 14ms", d.At[0])
	}
	// Twice the rate for a second: half of it passes, and the queue's worth more.
	l = mustLink(t, 1, Params{Rate: 8e6})
	passed := 0
	for _, d := range submit(l, 1538, 650*time.Microsecond) {
		passed += d.Copies * 1300
	}
	if got := float64(passed) * 8; math.Abs(got-8.8e6) > 0.1e6 {
		t.Errorf("%.0f bits passed in one second at 8 Mbit/s with a queue of 100 ms", got)
	}
}

func TestCuts(t *testing.T) {
	l := mustLink(t, 1, Params{Delay: time.Millisecond})
	l.CutUntil(50 * time.Millisecond)
	passed := 0
	for _, d := range submit(l, 100, time.Millisecond) {
		passed += d.Copies
	}
	if passed != 50 || l.Stats().Cut != 50 {
		t.Errorf("%d frames passed a cut of half the time, %d counted", passed, l.Stats().Cut)
	}
	if err := l.SetParams(Params{Cut: true}); err != nil {
		t.Fatal(err)
	}
	if d := l.Submit(time.Second, 1300); d.Copies != 0 {
		t.Error("a frame passed a link that is cut")
	}
}

func TestSetParamsActsAtOnce(t *testing.T) {
	l := mustLink(t, 1, Params{Delay: time.Second})
	l.Submit(0, 1300)
	if err := l.SetParams(Params{Delay: time.Millisecond, Jitter: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if d := l.Submit(10*time.Millisecond, 1300); d.At[0] > 12*time.Millisecond {
		t.Errorf("a frame sent after the delay was cut to 1 ms arrives at %v", d.At[0])
	}
}

func TestImpossibleParams(t *testing.T) {
	for _, p := range []Params{{Loss: -0.1}, {Loss: 1.1}, {Loss: math.NaN()}, {Reorder: 2}, {Duplicate: -1}, {Burst: 0.5}, {Delay: -1}, {Rate: -1}, {Loss: 0.9, Burst: 2}} {
		if _, err := NewLink(1, "", p); !errors.Is(err, ErrParams) {
			t.Errorf("%+v: %v, want ErrParams", p, err)
		}
	}
}

func TestParamsFromWords(t *testing.T) {
	var p Params
	if err := p.Set("loss=5%", "burst=40ms,delay=25ms jitter=5ms", "rate=8M", "queue=64000", "reorder=0.01", "reorder-by=3ms", "duplicate=2%", "cut"); err != nil {
		t.Fatal(err)
	}
	want := Params{Loss: 0.05, BurstTime: 40 * time.Millisecond, Delay: 25 * time.Millisecond, Jitter: 5 * time.Millisecond, Rate: 8e6,
		Queue: 64000, Reorder: 0.01, ReorderBy: 3 * time.Millisecond, Duplicate: 0.02, Cut: true}
	if d := cmp.Diff(want, p); d != "" {
		t.Fatal(d)
	}
	var again Params
	if err := again.Set(p.String()); err != nil || again != p {
		t.Errorf("%q does not read back: %+v, %v", p, again, err)
	}
	if err := p.Set("burst=8", "cut=off"); err != nil || p.Burst != 8 || p.BurstTime != 0 || p.Cut {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"loss", "loss=5", "rate=fast", "speed=1M", "delay=25", "cut=maybe", "queue=1.5"} {
		before := p
		if err := p.Set(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
		if p != before {
			t.Errorf("%q changed the parameters", bad)
		}
	}
}

func TestSubmitDoesNotAllocate(t *testing.T) {
	l := mustLink(t, 1, Params{Loss: 0.05, BurstTime: time.Millisecond, Jitter: time.Millisecond, Rate: 1e9})
	now := time.Duration(0)
	if n := testing.AllocsPerRun(1000, func() { now += time.Microsecond; l.Submit(now, 1300) }); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

func TestEventsComeOutInOrderOfTimeAndEntry(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var q eventQueue
	for i := range 1000 {
		q.push(event{at: time.Duration(r.IntN(50)), port: i})
		if r.IntN(3) == 0 {
			q.pop()
		}
	}
	last := q.pop()
	for len(q.heap) > 0 {
		e := q.pop()
		if e.at < last.at || e.at == last.at && e.port < last.port {
			t.Fatalf("%v/%d came out after %v/%d", e.at, e.port, last.at, last.port)
		}
		last = e
	}
}

func BenchmarkSubmit(b *testing.B) {
	l, err := NewLink(1, "bench", Params{Loss: 0.05, Delay: 25 * time.Millisecond, Jitter: time.Millisecond, Rate: 50e6})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	now := time.Duration(0)
	for b.Loop() {
		now += 200 * time.Microsecond
		l.Submit(now, 1300)
	}
}

func TestBacklog(t *testing.T) {
	l := mustLink(t, 1, Params{Rate: 8e6, Queue: 100_000})
	for range 10 {
		l.Submit(0, 1000)
	}
	if got := l.Backlog(4 * time.Millisecond); got != 6*time.Millisecond {
		t.Errorf("10 ms after 4 ms leave a backlog of %v", got)
	}
	if s := l.Stats(); s.MaxWaited != 9*time.Millisecond || s.Waited != 45*time.Millisecond {
		t.Errorf("waited %v, at most %v", s.Waited, s.MaxWaited)
	}
}
