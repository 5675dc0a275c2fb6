package block

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/ts"
)

const (
	testPCRPID = ts.PID(0x100)
	none       = ts.Note(0)
	both       = ts.NoteCandidate | ts.NoteConfirmed
)

type fakeTables struct {
	preamble []byte
	noPCR    bool
}

func (f *fakeTables) AppendPreamble(dst []byte) []byte { return append(dst, f.preamble...) }
func (f *fakeTables) PCRPID() (ts.PID, bool)           { return testPCRPID, !f.noPCR }

// A source feeds a Cutter with numbered packets and keeps what comes out.
type source struct {
	t      testing.TB
	c      *Cutter
	tables *fakeTables
	now    time.Time
	sent   []byte
	blocks []cutBlock
}

type cutBlock struct {
	Fields
	payload []byte
}

func (b cutBlock) packets() []byte { return b.payload[b.Preamble:] }

func newSource(t testing.TB, d int) *source {
	t.Helper()
	s := &source{t: t, now: testNow, tables: &fakeTables{preamble: bytes.Repeat([]byte("p"), 2*packetSize)}}
	var err error
	s.c, err = NewCutter(CutterConfig{Data: d, Tables: s.tables, Emit: func(payload []byte, f Fields) error {
		s.blocks = append(s.blocks, cutBlock{f, bytes.Clone(payload)})
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// packet is the next one, with a PCR if pcr is not negative.
func (s *source) packet(pcr time.Duration) ts.Packet {
	p := make(ts.Packet, packetSize)
	p[0], p[1], p[2], p[3] = ts.SyncByte, byte(testPCRPID>>8), byte(testPCRPID&0xff), 0x10
	if pcr >= 0 {
		p[3] = 0x30
		base := uint64(pcr) * 90 / 1e6 % (1 << 33)
		p[4], p[5] = 7, 0x10
		binary.BigEndian.PutUint32(p[6:], uint32(base>>1))
		p[10] = byte(base<<7) | 0x7e
	}
	binary.BigEndian.PutUint32(p[packetSize-4:], uint32(len(s.sent)/packetSize))
	return p
}

func (s *source) push(note ts.Note, pcr time.Duration) {
	s.t.Helper()
	p := s.packet(pcr)
	s.sent = append(s.sent, p...)
	if err := s.c.Push(p, note, s.now); err != nil {
		s.t.Fatal(err)
	}
}

// run pushes n packets that come every gap.
func (s *source) run(n int, gap time.Duration) {
	s.t.Helper()
	for range n {
		s.push(none, -1)
		s.now = s.now.Add(gap)
	}
}

// check ends the run and holds what came out against what went in.
func (s *source) check() {
	s.t.Helper()
	if err := s.c.End(s.now); err != nil {
		s.t.Fatal(err)
	}
	var got []byte
	for i, b := range s.blocks {
		last := i == len(s.blocks)-1
		if len(b.payload) > s.c.cap*MaxRows {
			s.t.Errorf("block %d has %d bytes", i, len(b.payload))
		}
		if (b.Flags&End != 0) != last || len(b.payload) == 0 && !last {
			s.t.Errorf("block %d of %d: %d bytes, flags %x", i, len(s.blocks), len(b.payload), b.Flags)
		}
		if b.Preamble > 0 && (b.Flags&RAP == 0 || !bytes.Equal(b.payload[:b.Preamble], s.tables.preamble)) {
			s.t.Errorf("block %d: flags %x, preamble %x", i, b.Flags, b.payload[:b.Preamble])
		}
		if b.Duration < 0 || b.Duration > maxDuration {
			s.t.Errorf("block %d lasts %v", i, b.Duration)
		}
		got = append(got, b.packets()...)
	}
	if !bytes.Equal(got, s.sent) {
		s.t.Error("the packets that came out are not those that went in")
	}
}

// starts lists the number of the first packet of each block, RAP blocks as negative.
func (s *source) starts() (at []int) {
	n := 0
	for _, b := range s.blocks {
		if b.Flags&RAP != 0 {
			at = append(at, -n)
		} else {
			at = append(at, n)
		}
		n += len(b.packets()) / packetSize
	}
	return at
}

func (s *source) wantStarts(want ...int) {
	s.t.Helper()
	got := s.starts()
	if len(got) != len(want) {
		s.t.Fatalf("blocks start at %v, want %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			s.t.Fatalf("blocks start at %v, want %v", got, want)
		}
	}
}

func TestBlockBeginsAtTheCandidateThatIsConfirmedLater(t *testing.T) {
	s := newSource(t, 12)
	s.run(10, time.Millisecond)
	s.push(ts.NoteCandidate, -1)
	s.run(5, time.Millisecond)
	s.push(ts.NoteRefuted, -1)
	s.run(5, time.Millisecond)
	s.push(ts.NoteCandidate, -1) // packet 22
	s.run(5, time.Millisecond)
	if len(s.blocks) != 0 {
		t.Fatal("a block was let out before the candidate was decided")
	}
	s.push(ts.NoteConfirmed, -1)
	s.run(5, time.Millisecond)
	s.check()
	s.wantStarts(0, -22)
	if s.blocks[0].Flags != Discontinuity || s.blocks[1].Flags != RAP|End || s.blocks[1].Preamble != 2*packetSize {
		t.Errorf("flags %x, %x; preamble %d", s.blocks[0].Flags, s.blocks[1].Flags, s.blocks[1].Preamble)
	}
}

func TestCandidateAtOnceConfirmed(t *testing.T) {
	s := newSource(t, 12)
	s.push(both, -1)
	s.run(150, time.Millisecond)
	s.push(both, -1)
	s.check()
	s.wantStarts(0, -151) // −0 is 0
	if s.blocks[0].Flags != RAP|Discontinuity {
		t.Errorf("flags %x", s.blocks[0].Flags)
	}
}

func TestNewCandidateReplacesAnUndecidedOne(t *testing.T) {
	s := newSource(t, 12)
	s.run(5, time.Millisecond)
	s.push(ts.NoteCandidate, -1)
	s.run(5, time.Millisecond)
	s.push(ts.NoteCandidate, -1)
	s.run(5, time.Millisecond)
	s.push(ts.NoteConfirmed, -1)
	s.check()
	s.wantStarts(0, -11)
}

// Where every frame is a random access point, not each begins a block.
func TestRandomAccessPointsCloseTogether(t *testing.T) {
	s := newSource(t, 12)
	for range 40 { // every 24 ms, as audio frames are
		s.push(both, -1)
		s.run(3, 8*time.Millisecond)
	}
	s.check()
	for i, b := range s.blocks[:len(s.blocks)-1] {
		if b.Flags&RAP == 0 || b.Duration < minSpan || b.Duration > 2*minSpan {
			t.Errorf("block %d: flags %x, %v", i, b.Flags, b.Duration)
		}
	}
}

func TestAgeLimit(t *testing.T) {
	s := newSource(t, 12)
	s.run(100, 10*time.Millisecond)
	if len(s.blocks) != 2 {
		t.Fatalf("%d blocks in a second", len(s.blocks))
	}
	at, ok := s.c.Deadline()
	if want := testNow.Add(1200 * time.Millisecond); !ok || !at.Equal(want) {
		t.Fatalf("deadline %v, want %v", at, want)
	}
	if err := s.c.Tick(at.Add(-1)); err != nil || len(s.blocks) != 2 {
		t.Fatal("cut before the deadline")
	}
	if err := s.c.Tick(at); err != nil || len(s.blocks) != 3 {
		t.Fatal("not cut at the deadline")
	}
	if _, ok := s.c.Deadline(); ok {
		t.Fatal("a deadline, though nothing waits")
	}
	s.now = at
	s.check()
	s.wantStarts(0, 40, 80, 100) // the last is empty
}

// A stalled input with a candidate undecided: what comes before it goes out, and later it.
func TestAgeLimitCutsBeforeTheCandidate(t *testing.T) {
	s := newSource(t, 12)
	s.run(10, 10*time.Millisecond)
	s.push(ts.NoteCandidate, -1)
	s.run(5, 0)
	if err := s.c.Tick(testNow.Add(MaxAge)); err != nil {
		t.Fatal(err)
	}
	s.now = testNow.Add(MaxAge + 50*time.Millisecond)
	s.push(ts.NoteConfirmed, -1)
	s.check()
	s.wantStarts(0, -10)

	s = newSource(t, 12)
	s.run(10, 10*time.Millisecond)
	s.push(ts.NoteCandidate, -1)
	s.now = testNow.Add(time.Second)
	if err := s.c.Tick(s.now); err != nil {
		t.Fatal(err)
	}
	s.push(ts.NoteConfirmed, -1) // too late: its packet is gone
	s.check()
	s.wantStarts(0, 10, 11)
}

func TestSizeFollowsTheRate(t *testing.T) {
	for _, tt := range []struct {
		kbit int
		rows int
	}{{900, 1}, {1100, 1}, {1300, 2}, {2400, 3}, {3400, 3}, {5000, 4}, {50000, 4}} {
		for _, pcr := range []bool{true, false} {
			s := newSource(t, 12)
			s.tables.noPCR = !pcr
			gap := time.Duration(packetSize * 8 * 1e6 / tt.kbit)
			arrival := gap
			if pcr {
				arrival = gap / 50 // as fast as a file may come
			}
			for i := range 3 * time.Second / gap {
				at := time.Duration(-1)
				if i%7 == 0 && pcr {
					at = i * gap
				}
				s.push(none, at)
				s.now = s.now.Add(arrival)
			}
			s.check()
			got := len(s.blocks[len(s.blocks)-2].payload)
			want := s.c.cap * tt.rows / packetSize * packetSize
			if span := time.Duration(want/packetSize) * gap; !pcr && span > MaxAge {
				t.Fatal("the test asks too much")
			}
			if got != want {
				t.Errorf("%d kbit/s, PCR %v: blocks of %d bytes, want %d", tt.kbit, pcr, got, want)
			}
			if rate := s.c.Rate() / 1000; rate < 0.99*float64(tt.kbit) || rate > 1.01*float64(tt.kbit) {
				t.Errorf("%d kbit/s, PCR %v: measured %.0f", tt.kbit, pcr, rate)
			}
			span := s.blocks[len(s.blocks)-2].Duration
			if d := span - time.Duration(want/packetSize)*gap; d.Abs() > 5*time.Millisecond {
				t.Errorf("%d kbit/s, PCR %v: block of %v, off by %v", tt.kbit, pcr, span, d)
			}
		}
	}
}

// PCR jumps, wraps and ends: the rate stays, durations stay sane.
func TestClockJumps(t *testing.T) {
	s := newSource(t, 12)
	const gap = time.Millisecond // 1.5 Mbit/s
	const wrap = (1 << 33) * time.Second / 90000
	for i := range 6000 {
		pcr := time.Duration(-1)
		switch at := time.Duration(i) * gap; {
		case i%20 != 0 || i >= 4000:
		case i < 1000:
			pcr = wrap - time.Second/2 + at
		case i < 2000:
			pcr = at + time.Hour
		default:
			pcr = at
		}
		s.push(none, pcr)
		s.now = s.now.Add(gap)
		if i > 300 && (s.c.Rate() < 1.4e6 || s.c.Rate() > 1.6e6) {
			t.Fatalf("packet %d: rate %.0f", i, s.c.Rate())
		}
	}
	s.check()
	for i, b := range s.blocks[1 : len(s.blocks)-1] {
		if b.Duration < 100*time.Millisecond || b.Duration > 200*time.Millisecond {
			t.Errorf("block %d lasts %v", i+1, b.Duration)
		}
	}
}

func TestDiscontinuityFlag(t *testing.T) {
	s := newSource(t, 12)
	s.run(5, time.Millisecond)
	if err := s.c.Discontinuity(s.now); err != nil {
		t.Fatal(err)
	}
	s.run(5, time.Millisecond)
	s.check()
	s.wantStarts(0, 5)
	if s.blocks[0].Flags != Discontinuity || s.blocks[1].Flags != Discontinuity|End {
		t.Errorf("flags %x, %x", s.blocks[0].Flags, s.blocks[1].Flags)
	}
}

func TestEndOfAnEmptyRun(t *testing.T) {
	s := newSource(t, 12)
	s.check()
	if len(s.blocks) != 1 || s.blocks[0].Flags != End|Discontinuity {
		t.Fatalf("%+v", s.blocks)
	}
}

func TestEmitErrorComesBack(t *testing.T) {
	full := errors.New("pipe is gone")
	c, err := NewCutter(CutterConfig{Tables: &fakeTables{}, Emit: func([]byte, Fields) error { return full }})
	if err != nil {
		t.Fatal(err)
	}
	p := make(ts.Packet, packetSize)
	for range 1000 {
		if err = c.Push(p, none, testNow); err != nil {
			break
		}
	}
	if !errors.Is(err, full) {
		t.Fatal(err)
	}
}

// Whatever the walk notes and however time and clocks run, no packet is lost,
// doubled or moved, and every block fits.
func FuzzCutter(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 8 {
		b := make([]byte, 400)
		for i := range b {
			b[i] = byte(rng.Uint32())
			if rng.IntN(4) > 0 {
				b[i] = 0x20
			}
		}
		f.Add(b, uint8(rng.IntN(12)), uint8(rng.IntN(30)))
	}
	f.Fuzz(func(t *testing.T, script []byte, d, preamble uint8) {
		s := newSource(t, MinData+int(d)%(MaxData-MinData+1))
		s.tables.preamble = bytes.Repeat([]byte("p"), min(int(preamble), 24)*packetSize)
		pcr := time.Duration(0)
		for _, op := range script {
			s.now = s.now.Add(time.Duration(op>>5) * 300 * time.Microsecond)
			at := time.Duration(-1)
			if op&0x10 != 0 {
				pcr += time.Duration(op) * time.Millisecond
				at = pcr
			}
			switch op & 0x0f {
			case 0x08:
				s.now = s.now.Add(100 * time.Millisecond)
			case 0x09:
				if err := s.c.Tick(s.now); err != nil {
					t.Fatal(err)
				}
			case 0x0a:
				if err := s.c.Discontinuity(s.now); err != nil {
					t.Fatal(err)
				}
			case 0x0b:
				pcr += time.Hour
			}
			s.push(ts.Note(op&7), at)
		}
		s.check()
		for i, b := range s.blocks { // what the Encoder would refuse
			m := Manifest{Name: Name{Run: 1}, Flags: b.Flags, SinceRAP: NoRAP, Payload: len(b.payload), Preamble: b.Preamble, Data: s.c.cfg.Data}
			m.Rows = (len(b.payload) + s.c.cap - 1) / s.c.cap
			m.ShardLen = shardLen(m.Payload, m.Data, m.Rows)
			if m.Flags&RAP != 0 {
				m.SinceRAP = 0
			}
			if err := m.check(MinManifest + m.Shards()*HashSize); err != nil {
				t.Errorf("block %d: %v", i, err)
			}
		}
	})
}
