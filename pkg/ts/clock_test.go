package ts

import (
	"testing"
	"time"
)

// near fails unless got is want up to rounding.
func near(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if d := got - want; d < -2*time.Microsecond || d > 2*time.Microsecond {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

const (
	ms         = ClockHz / 1000
	bytesPerMs = 500 // 4 Mbit/s
)

// tick lets a clock see PCRs every 40 ms at 4 Mbit/s from start on, and returns the next PCR and position.
func tick(c *Clock, start uint64, pos int64, n int) (uint64, int64) {
	for range n {
		c.Observe(start, false, pos)
		start = (start + 40*ms) % PCRModulus
		pos += 40 * bytesPerMs
	}
	return start, pos
}

func TestClockRunsOnAcrossTheWrap(t *testing.T) {
	var c Clock
	tick(&c, PCRModulus-1000*ms, 1000, 101)
	near(t, "elapsed", c.Elapsed(), 4*time.Second)
	if c.Rate() != 4_000_000 || c.Jumps() != 0 {
		t.Errorf("rate %v, %d jumps", c.Rate(), c.Jumps())
	}
	last := int64(1000 + 4000*bytesPerMs)
	near(t, "the start of the input", c.At(0), -2*time.Millisecond)
	near(t, "the first PCR", c.At(1000), 0)
	near(t, "early on", c.At(1000+1000*bytesPerMs), time.Second)
	near(t, "between the last two", c.At(last-10*bytesPerMs), 3990*time.Millisecond)
	near(t, "past the last", c.At(last+10*bytesPerMs), 4010*time.Millisecond)
}

func TestClockBeforeItRuns(t *testing.T) {
	var c Clock
	if c.At(1000) != 0 || c.Running() || c.Rate() != 0 {
		t.Error("a clock without PCR tells the time")
	}
	c.Observe(5, false, 0)
	if c.At(1000) != 0 || c.Running() {
		t.Error("a clock with one PCR tells the time")
	}
	c.Observe(5+40*ms, false, 40*bytesPerMs)
	if !c.Running() || c.Rate() != 4_000_000 {
		t.Errorf("rate %v after two PCRs", c.Rate())
	}
	c.Reset()
	if c.Running() || c.Elapsed() != 0 {
		t.Error("Reset left something")
	}
}

func TestClockBridgesJumps(t *testing.T) {
	for _, c := range []struct {
		name  string
		by    int64 // ticks off what was expected
		di    bool
		jumps uint64
	}{
		{"no jump", 0, false, 0},
		{"forward", 3 * ClockHz, false, 1},
		{"far forward", 20 * 3600 * ClockHz, false, 1},
		{"backward", -3 * ClockHz, false, 1},
		{"a little backward", -50 * ms, false, 1},
		{"flagged", 500 * ms, true, 1},
		{"flagged where there is none", 0, true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var k Clock
			pcr, pos := tick(&k, 10*ClockHz, 0, 50)
			pcr = uint64(int64(pcr)+c.by+PCRModulus) % PCRModulus
			k.Observe(pcr, c.di, pos)
			near(t, "at the jump", k.Elapsed(), 50*40*time.Millisecond)
			if k.Rate() != 4_000_000 {
				t.Errorf("rate %v at the jump", k.Rate())
			}
			tick(&k, (pcr+40*ms)%PCRModulus, pos+40*bytesPerMs, 50)
			near(t, "after it", k.Elapsed(), 100*40*time.Millisecond)
			if k.Rate() != 4_000_000 || k.Jumps() != c.jumps {
				t.Errorf("rate %v, %d jumps, want %d", k.Rate(), k.Jumps(), c.jumps)
			}
		})
	}
}

func TestClockKeepsPCRsThatAreOnlySparse(t *testing.T) {
	var c Clock
	for i := range 10 { // 1.2 s apart, the bytes varying widely
		c.Observe(uint64(i)*1200*ms, false, int64(i*i)*10_000)
	}
	near(t, "elapsed", c.Elapsed(), 9*1200*time.Millisecond)
	// With the bytes of 10 s missing, a gap of 10 s is a jump.
	c.Observe(uint64(9*1200+10_000)*ms, false, 81*10_000+188)
	if c.Jumps() != 1 {
		t.Errorf("%d jumps", c.Jumps())
	}
}

func TestClockGoesOnWithoutPCRs(t *testing.T) {
	var c Clock
	_, pos := tick(&c, 0, 0, 50)
	near(t, "a minute later", c.At(pos+60_000*bytesPerMs), 62*time.Second)
	// The same PCR again and again (a duplicate, a stuck clock) is no news.
	c.Observe(49*40*ms, false, pos)
	near(t, "with a stuck PCR", c.At(pos), 2*time.Second)
}

func TestClockRateFollowsTheStream(t *testing.T) {
	var c Clock
	pcr, pos := tick(&c, 0, 0, 100)
	for range 30 { // 1.2 s at three times the rate
		c.Observe(pcr, false, pos)
		pcr += 40 * ms
		pos += 3 * 40 * bytesPerMs
	}
	if c.Rate() != 12_000_000 {
		t.Errorf("rate %v", c.Rate())
	}
	// PCRs in every packet do not shorten the time Rate averages over.
	for i := range 2000 {
		c.Observe(pcr, false, pos)
		pcr += ms
		if i%40 == 39 {
			pos += 40 * bytesPerMs // and the bytes come in lumps
		}
	}
	if r := c.Rate(); r < 3_800_000 || r > 4_200_000 {
		t.Errorf("rate %v", r)
	}
}

func TestBitRate(t *testing.T) {
	for r, want := range map[BitRate]string{
		0: "0 bit/s", 999: "999 bit/s", 1000: "1.00 kbit/s", 99_950: "100 kbit/s", 640_000: "640 kbit/s",
		3_250_000: "3.25 Mbit/s", 22_394_117: "22.4 Mbit/s", 1_200_000_000: "1.20 Gbit/s", -8_000_000: "-8.00 Mbit/s",
	} {
		if r.String() != want {
			t.Errorf("%d: %q, want %q", int64(r), r, want)
		}
	}
	if r := BitRateOf(1_000_000, 2*time.Second); r != 4_000_000 || r.Duration(500) != time.Millisecond {
		t.Errorf("%v, %v", r, r.Duration(500))
	}
	if BitRateOf(1, 0) != 0 || BitRateOf(1, -1) != 0 || BitRate(0).Duration(1) != 0 {
		t.Error("what has no answer is not 0")
	}
}

func FuzzClock(f *testing.F) {
	f.Add(uint64(0), uint64(40*ms), uint64(80*ms), int64(0), int64(20_000), false)
	f.Add(uint64(PCRModulus-1), uint64(0), uint64(PCRModulus/2), int64(-5), int64(188), true)
	f.Fuzz(func(t *testing.T, a, b, d uint64, pos, step int64, di bool) {
		pos, step = pos%(1<<40), step%(1<<40)
		var c Clock
		before := time.Duration(0)
		for i, pcr := range []uint64{a, b, d, a, d, b} {
			c.Observe(pcr, di && i == 2, pos+int64(i)*step)
			if c.Elapsed() < before {
				t.Fatalf("time went from %v to %v", before, c.Elapsed())
			}
			before = c.Elapsed()
			if c.Rate() < 0 {
				t.Fatalf("rate %v", c.Rate())
			}
			c.At(pos + int64(i)*step - 1)
		}
	})
}

func BenchmarkClock(b *testing.B) {
	var c Clock
	pcr, pos := uint64(0), int64(0)
	b.ReportAllocs()
	for b.Loop() {
		c.Observe(pcr, false, pos)
		pcr = (pcr + 40*ms) % PCRModulus
		pos += 40 * bytesPerMs
	}
}
