package play

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/ts"
)

const blockLen = 100 * time.Millisecond

var epoch = time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)

// source makes the blocks of a run: 100 ms each, two packets, a random access
// point every gop blocks.
type source struct {
	run   block.Run
	begin time.Time
	gop   uint32 // 0: none
	last  block.Number
}

func (s source) created(n block.Number) time.Time {
	return s.begin.Add(time.Duration(n+1) * blockLen)
}

func (s source) block(n block.Number) *Block {
	b := &Block{
		Run: s.run, Number: n, SinceRAP: block.NoRAP,
		Created: s.created(n), Duration: blockLen, FirstPacket: uint64(n) * 2,
		Packets: make([]byte, 2*ts.PacketSize),
		End:     s.last != 0 && n == s.last,
	}
	for i := range 2 {
		p := b.Packets[i*ts.PacketSize:]
		p[0] = ts.SyncByte
		binary.BigEndian.PutUint64(p[4:], uint64(s.run))
		binary.BigEndian.PutUint32(p[12:], uint32(n))
		p[16] = byte(i)
	}
	if s.gop != 0 {
		b.SinceRAP = uint32(n) % s.gop
		if b.SinceRAP == 0 {
			b.Preamble = make([]byte, ts.PacketSize)
			b.Preamble[0] = ts.SyncByte
			b.Preamble[187] = byte(n)
		}
	}
	return b
}

// rig runs a Sequencer in virtual time and keeps what it gives.
type rig struct {
	t   *testing.T
	seq *Sequencer
	now time.Time
	out []Unit
	at  []time.Time
}

func newRig(t *testing.T, c Config) *rig {
	return &rig{t: t, seq: NewSequencer(c), now: epoch}
}

func (r *rig) drain() {
	for {
		u, ok := r.seq.Next(r.now)
		if !ok {
			return
		}
		r.out = append(r.out, u)
		r.at = append(r.at, r.now)
	}
}

// to lets time pass until t, with every deadline on the way.
func (r *rig) to(t time.Time) {
	r.t.Helper()
	for i := 0; ; i++ {
		d, ok := r.seq.Deadline()
		if !ok || d.After(t) {
			break
		}
		if i > 1000 {
			r.t.Fatal("deadlines do not move")
		}
		if d.After(r.now) {
			r.now = d
		}
		n := len(r.out)
		r.drain()
		if d2, ok := r.seq.Deadline(); ok && !d2.After(d) && len(r.out) == n {
			r.t.Fatalf("deadline %v passed and nothing came of it: %+v, pending %+v, %+v", d.Sub(epoch), *r.seq.cur, r.seq.pending, r.seq.Counters())
		}
	}
	if t.After(r.now) {
		r.now = t
	}
	r.drain()
}

func (r *rig) put(t time.Time, b *Block) {
	r.t.Helper()
	r.to(t)
	r.seq.Put(r.now, b)
	r.drain()
}

func (r *rig) numbers() []block.Number {
	var n []block.Number
	for _, u := range r.out {
		n = append(n, u.Block.Number)
	}
	return n
}

func (r *rig) want(numbers ...block.Number) {
	r.t.Helper()
	got := r.numbers()
	if len(got) != len(numbers) {
		r.t.Fatalf("given out: %v, want %v", got, numbers)
	}
	for i := range got {
		if got[i] != numbers[i] {
			r.t.Fatalf("given out: %v, want %v", got, numbers)
		}
	}
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func TestBlocksInOrderAreGivenAtOnce(t *testing.T) {
	s := source{run: 1, begin: epoch, gop: 10}
	r := newRig(t, Config{Latency: time.Second})
	for n := range block.Number(25) {
		r.put(s.created(n).Add(ms(20)), s.block(n))
		if len(r.out) != int(n)+1 {
			t.Fatalf("block %d was not given at once", n)
		}
	}
	if r.out[0].Entry != Starts || r.out[10].Entry != Continues {
		t.Error("only the first unit starts the stream")
	}
	if c := r.seq.Counters(); c.LeastDelay != ms(20) || c.Blocks != 25 || c.Gaps != 0 || c.Held != 0 {
		t.Errorf("counters %+v", c)
	}
}

func TestStartWaitsForTheRandomAccessPointOfTheGOPFirstSeen(t *testing.T) {
	s := source{run: 1, begin: epoch.Add(-10 * time.Second), gop: 10}
	r := newRig(t, Config{Latency: time.Second})
	r.put(epoch, s.block(34))
	r.put(epoch.Add(ms(10)), s.block(29)) // of the GOP before
	r.put(epoch.Add(ms(20)), s.block(31))
	r.want()
	r.put(epoch.Add(ms(30)), s.block(30))
	r.want(30, 31)
	// The backlog is older than the latency: its gaps are waited for all the same.
	r.to(epoch.Add(ms(990)))
	r.want(30, 31)
	r.put(epoch.Add(ms(995)), s.block(32))
	r.put(epoch.Add(ms(996)), s.block(33))
	r.want(30, 31, 32, 33, 34)
}

func TestStartTakesTheNextRandomAccessPointWhenTheFirstDoesNotCome(t *testing.T) {
	s := source{run: 1, begin: epoch.Add(-s34), gop: 10}
	r := newRig(t, Config{Latency: time.Second})
	r.put(epoch, s.block(34))
	for n := block.Number(35); n < 42; n++ {
		r.put(s.created(n), s.block(n))
	}
	r.want() // 30 may still come
	r.to(epoch.Add(ms(1000)))
	r.want(40, 41)
	if r.out[0].Blind || len(r.out[0].Block.Preamble) == 0 {
		t.Error("should start at a random access point with its preamble")
	}
}

const s34 = 3500 * time.Millisecond

func TestStartWithoutAnyRandomAccessPoint(t *testing.T) {
	s := source{run: 1, begin: epoch}
	r := newRig(t, Config{Latency: time.Second})
	for n := range block.Number(60) {
		r.put(s.created(n), s.block(n))
	}
	if !r.out[0].Blind || r.out[0].Block.Number != 0 {
		t.Fatalf("first unit %+v", r.out[0])
	}
	if d := r.at[0].Sub(s.created(0)); d != blindWait {
		t.Errorf("played blindly after %v, want %v", d, blindWait)
	}
	if len(r.out) != 60 {
		t.Errorf("%d units", len(r.out))
	}
}

func TestStartBlindWhenTheOnlyRandomAccessPointIsLongGone(t *testing.T) {
	s := source{run: 1, begin: epoch.Add(-time.Hour), gop: 1 << 30}
	r := newRig(t, Config{Latency: time.Second})
	for n := block.Number(35999); n < 36200; n++ {
		r.put(s.created(n), s.block(n))
	}
	if len(r.out) == 0 || !r.out[0].Blind || r.at[0].Sub(epoch) != blindWaitGOP {
		t.Fatalf("%d units", len(r.out))
	}
}

func TestGapIsWaitedForByTheLeastDelayAndTheLatency(t *testing.T) {
	s := source{run: 1, begin: epoch, gop: 10}
	r := newRig(t, Config{Latency: time.Second})
	for n := range block.Number(5) {
		r.put(s.created(n).Add(ms(50)), s.block(n))
	}
	for n := block.Number(7); n < 30; n++ { // 5 and 6 are lost; 7 is late itself
		late := ms(50)
		if n == 7 {
			late = ms(70)
		}
		r.put(s.created(n).Add(late), s.block(n))
	}
	if got, want := r.at[5], s.created(7).Add(ms(50)+time.Second); !got.Equal(want) {
		t.Errorf("gave up after %v, want %v", got.Sub(s.created(7)), want.Sub(s.created(7)))
	}
	u := r.out[5]
	if u.Block.Number != 7 || u.Entry != Continues || u.Gap != (Gap{Blocks: 2, Packets: 4, Duration: 2 * blockLen}) {
		t.Errorf("unit after the gap: %d %v %+v", u.Block.Number, u.Entry, u.Gap)
	}
	// A block of the gap that comes now is late.
	r.put(r.now, s.block(6))
	if c := r.seq.Counters(); c.Late != 1 || c.Gaps != 1 || c.Lost.Blocks != 2 {
		t.Errorf("counters %+v", c)
	}
}

func TestGapThatIsFilledInTimeIsNone(t *testing.T) {
	s := source{run: 1, begin: epoch, gop: 10}
	r := newRig(t, Config{Latency: time.Second})
	r.put(s.created(0), s.block(0))
	for n := block.Number(2); n < 12; n++ {
		r.put(s.created(n), s.block(n))
	}
	r.want(0)
	r.put(s.created(2).Add(ms(999)), s.block(1))
	if len(r.out) != 12 || r.seq.Counters().Gaps != 0 {
		t.Fatalf("%v", r.numbers())
	}
}

func TestNoLatencyGivesUpAtOnce(t *testing.T) {
	s := source{run: 1, begin: epoch, gop: 10}
	r := newRig(t, Config{Latency: 0})
	r.put(s.created(0), s.block(0))
	r.put(s.created(2), s.block(2))
	r.want(0, 2)
}

func TestNegativeLatencyIsTheDefault(t *testing.T) {
	if s := NewSequencer(Config{Latency: -1}); s.latency != DefaultLatency {
		t.Error(s.latency)
	}
}

func TestAfterAnOutageTheBacklogIsWaitedForAgain(t *testing.T) {
	s := source{run: 1, begin: epoch, gop: 10}
	r := newRig(t, Config{Latency: time.Second})
	for n := range block.Number(10) {
		r.put(s.created(n), s.block(n))
	}
	back := s.created(60)
	for i, n := range []block.Number{40, 20, 59, 10} {
		r.put(back.Add(ms(i)), s.block(n))
	}
	r.to(back.Add(ms(900)))
	for n := block.Number(11); n < 60; n++ {
		r.put(back.Add(ms(950)), s.block(n))
	}
	if c := r.seq.Counters(); c.Gaps != 0 || c.Blocks != 60 {
		t.Errorf("counters %+v", c)
	}
}

func TestABlockThatComesLateOpensItsGapWithGrace(t *testing.T) {
	s := source{run: 1, begin: epoch, gop: 10}
	r := newRig(t, Config{Latency: ms(300)})
	r.put(s.created(0), s.block(0))
	late := s.created(4).Add(ms(500)) // a stall, shorter than a silence
	r.put(late, s.block(4))
	r.to(late.Add(ms(90)))
	r.want(0)
	for n := block.Number(1); n < 4; n++ {
		r.put(late.Add(ms(95)), s.block(n))
	}
	r.want(0, 1, 2, 3, 4)
}

func TestClockOfTheSourceDoesNotMatter(t *testing.T) {
	for _, offset := range []time.Duration{-time.Hour, time.Hour, 1 << 60, -1 << 60} {
		s := source{run: 1, begin: epoch, gop: 10}
		r := newRig(t, Config{Latency: time.Second})
		b := func(n block.Number) *Block {
			b := s.block(n)
			b.Created = b.Created.Add(offset)
			return b
		}
		r.put(s.created(0), b(0))
		r.put(s.created(2), b(2))
		r.to(s.created(2).Add(ms(999)))
		r.want(0)
		r.to(s.created(2).Add(ms(1000)))
		r.want(0, 2)
	}
}

func TestLeastDelayForgets(t *testing.T) {
	var l leastDelay
	l.add(0, 10)
	for m := range 10 {
		l.add(time.Duration(m)*delayWindow/2, 20+time.Duration(m))
	}
	if l.least() < 20 {
		t.Error("a delay of minutes ago still counts")
	}
}

func TestNewRunAfterTheOldOneEnded(t *testing.T) {
	a := source{run: 1, begin: epoch, gop: 10, last: 7}
	b := source{run: 2, begin: epoch.Add(time.Second), gop: 10}
	r := newRig(t, Config{Latency: time.Second})
	for n := range block.Number(8) {
		r.put(a.created(n), a.block(n))
	}
	if !r.seq.Counters().Ended {
		t.Error("the end of the run was not noticed")
	}
	r.put(b.created(1), b.block(1))
	r.put(b.created(2), b.block(0))
	r.want(0, 1, 2, 3, 4, 5, 6, 7, 0, 1)
	if u := r.out[8]; u.Entry != NewRun || u.Block.Run != 2 || u.Gap != (Gap{}) {
		t.Errorf("%+v", u)
	}
}

func TestNewRunWhileTheOldOneIsSilent(t *testing.T) {
	a := source{run: 1, begin: epoch, gop: 10}
	b := source{run: 2, begin: epoch.Add(2 * time.Second), gop: 10}
	r := newRig(t, Config{Latency: time.Second})
	for n := range block.Number(8) {
		r.put(a.created(n), a.block(n))
	}
	r.put(b.created(0), b.block(0))
	r.want(0, 1, 2, 3, 4, 5, 6, 7, 0)
}

func TestNewRunWaitsForTheOldOneButNotLong(t *testing.T) {
	a := source{run: 1, begin: epoch, gop: 10}
	b := source{run: 2, begin: epoch, gop: 10}
	r := newRig(t, Config{Latency: time.Second})
	r.put(a.created(0), a.block(0))
	r.put(a.created(2), a.block(2)) // 1 is missing
	at := a.created(2).Add(ms(10))
	r.put(at, b.block(0))
	r.want(0)
	r.put(at.Add(ms(100)), a.block(1))
	r.want(0, 1, 2)
	r.put(at.Add(ms(200)), a.block(4)) // 3 is missing
	r.to(at.Add(ms(299)))
	r.want(0, 1, 2)
	r.to(at.Add(ms(300)))
	r.want(0, 1, 2, 4, 0) // what was held is not thrown away
	if c := r.seq.Counters(); c.Gaps != 1 || c.Runs != 2 || c.Run != 2 {
		t.Errorf("counters %+v", c)
	}
	r.put(at.Add(ms(400)), a.block(3))
	r.put(at.Add(ms(400)), a.block(5))
	if c := r.seq.Counters(); c.Old != 2 || len(r.out) != 5 {
		t.Error("an old run came back")
	}
}

func TestNewRunWithoutItsRandomAccessPointLetsTheOldOneGoOn(t *testing.T) {
	a := source{run: 1, begin: epoch, gop: 10}
	b := source{run: 2, begin: epoch, gop: 10}
	r := newRig(t, Config{Latency: time.Second})
	r.put(a.created(0), a.block(0))
	r.put(a.created(0), b.block(3))
	for n := block.Number(1); n < 6; n++ {
		r.put(a.created(n), a.block(n))
	}
	r.want(0, 1, 2, 3, 4, 5)
}

func TestNewestOfThreeRunsWins(t *testing.T) {
	r := newRig(t, Config{Latency: time.Second})
	a := source{run: 1, begin: epoch, gop: 10, last: 1}
	b := source{run: 2, begin: epoch, gop: 10}
	c := source{run: 3, begin: epoch, gop: 10}
	r.put(epoch, a.block(0))
	r.put(epoch, b.block(1))
	r.put(epoch, c.block(1))
	r.put(epoch, b.block(0))
	r.put(epoch, a.block(1))
	r.put(epoch, c.block(0))
	r.want(0, 1, 0, 1)
	if r.out[2].Block.Run != 3 || r.seq.Counters().Old != 1 {
		t.Errorf("%+v", r.seq.Counters())
	}
}

func TestRunThatNeverStartedIsReplaced(t *testing.T) {
	r := newRig(t, Config{Latency: time.Second})
	r.put(epoch, source{run: 1, begin: epoch, gop: 10}.block(5))
	r.put(epoch, source{run: 2, begin: epoch, gop: 10}.block(0))
	r.want(0)
	if r.out[0].Entry != Starts {
		t.Error("nothing was written before: there is nothing to break with")
	}
}

func TestHeldBytesAreBounded(t *testing.T) {
	s := source{run: 1, begin: epoch, gop: 1000}
	const limit = 100 * 2 * ts.PacketSize
	r := newRig(t, Config{Latency: time.Hour, MaxBytes: limit})
	r.put(epoch, s.block(0))
	for n := block.Number(2); n < 500; n++ {
		r.put(epoch, s.block(n))
		if c := r.seq.Counters(); c.HeldBytes > limit+2*ts.PacketSize {
			t.Fatalf("%d bytes held", c.HeldBytes)
		}
	}
	if c := r.seq.Counters(); c.Gaps != 1 || c.Blocks != 499 {
		t.Errorf("%+v", c)
	}
	// The same before a start is found.
	r = newRig(t, Config{Latency: time.Hour, MaxBytes: limit})
	for n := block.Number(1); n < 900; n++ {
		r.put(epoch, s.block(n))
		if c := r.seq.Counters(); c.HeldBytes > limit {
			t.Fatalf("%d bytes held", c.HeldBytes)
		}
	}
}

func TestFlushGivesWhatIsHeld(t *testing.T) {
	a := source{run: 1, begin: epoch, gop: 10}
	b := source{run: 2, begin: epoch, gop: 10}
	r := newRig(t, Config{Latency: time.Hour})
	for _, n := range []block.Number{0, 2, 5} {
		r.put(epoch, a.block(n))
	}
	r.put(epoch, b.block(4))
	r.seq.Flush()
	r.drain()
	r.want(0, 2, 5, 4)
	if !r.out[3].Blind {
		t.Error("the new run has no random access point")
	}
}

// TestAnyOrder: whatever order blocks come in, whatever is lost or comes
// twice, what is given out is in order, once, and within the latency.
func TestAnyOrder(t *testing.T) {
	for seed := range uint64(300) {
		shuffle(t, rand.New(rand.NewPCG(seed, 0)))
	}
}

func FuzzSequencer(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) { shuffle(t, rand.New(rand.NewPCG(a, b))) })
}

func shuffle(t *testing.T, rnd *rand.Rand) {
	type arrival struct {
		at time.Time
		b  *Block
	}
	var all []arrival
	latency := time.Duration(rnd.IntN(2000)) * time.Millisecond
	loss, twice := rnd.Float64()*0.3, rnd.Float64()*0.2
	jitter := 1 + rnd.Int64N(int64(2*latency+ms(10)))
	gop := []uint32{0, 1, 5, 10, 37}[rnd.IntN(5)]
	begin := epoch
	for run := range 1 + rnd.IntN(3) {
		s := source{run: block.Run(run + 1), begin: begin, gop: gop, last: block.Number(20 + rnd.IntN(60))}
		for n := range s.last + 1 {
			for rnd.Float64() > loss {
				all = append(all, arrival{s.created(n).Add(time.Duration(rnd.Int64N(jitter))), s.block(n)})
				if rnd.Float64() > twice {
					break
				}
			}
		}
		begin = s.created(s.last).Add(time.Duration(rnd.Int64N(int64(2*time.Second))) - time.Second)
	}
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	sortBy(all, func(a arrival) time.Time { return a.at })

	r := newRig(t, Config{Latency: latency, MaxBytes: 1 << (10 + rnd.IntN(14))})
	for _, a := range all {
		r.put(a.at, a.b)
	}
	r.to(r.now.Add(time.Minute))
	c := r.seq.Counters()
	r.seq.Flush()
	r.drain()

	var lost uint64
	for i, u := range r.out {
		b := u.Block
		if binary.BigEndian.Uint64(b.Packets[4:]) != uint64(b.Run) || binary.BigEndian.Uint32(b.Packets[12:]) != uint32(b.Number) {
			t.Fatal("wrong bytes")
		}
		if i == 0 {
			if u.Entry != Starts {
				t.Fatal("first unit does not start")
			}
			continue
		}
		p := r.out[i-1].Block
		switch {
		case b.Run < p.Run, b.Run == p.Run && b.Number <= p.Number:
			t.Fatalf("%d/%d after %d/%d", b.Run, b.Number, p.Run, p.Number)
		case b.Run > p.Run && u.Entry != NewRun, b.Run == p.Run && u.Entry != Continues:
			t.Fatalf("entry %d of %d/%d", u.Entry, b.Run, b.Number)
		case b.Run == p.Run && u.Gap.Blocks != uint64(b.Number-p.Number-1):
			t.Fatalf("gap %+v between %d and %d", u.Gap, p.Number, b.Number)
		}
		if u.Entry != Continues && !u.Blind && !b.RandomAccess() {
			t.Fatal("starts nowhere")
		}
		lost += u.Gap.Blocks
	}
	if c.Lost.Blocks != lost || c.Lost.Packets != 2*lost {
		t.Fatalf("lost %d, counted %+v", lost, c.Lost)
	}
	if c.Held != 0 && c.Started {
		t.Fatalf("%d blocks were never given out", c.Held)
	}
}

func sortBy[T any](s []T, key func(T) time.Time) {
	for i := 1; i < len(s); i++ {
		for j := i; j > 0 && key(s[j]).Before(key(s[j-1])); j-- {
			s[j], s[j-1] = s[j-1], s[j]
		}
	}
}
