package input

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sixcast/sixcast/pkg/ts"
)

// clip is n packets of PID 0x100 at a rate, with a PCR every tenth packet that begins at start.
func clip(n int, rate ts.BitRate, start time.Duration) []byte {
	return clipOf(0x100, n, 10, rate, start)
}

func clipOf(pid uint16, n, every int, rate ts.BitRate, start time.Duration) []byte {
	out := make([]byte, n*ts.PacketSize)
	for i := range n {
		p := out[i*ts.PacketSize:]
		p[0], p[1], p[2], p[3] = ts.SyncByte, byte(pid>>8), byte(pid), 0x10|byte(i)&15
		if every > 0 && i%every == 0 {
			t := start + rate.Duration(int64(i)*ts.PacketSize)
			ticks := uint64(t) * 27 / 1000 % ts.PCRModulus
			p[3] |= 0x20
			p[4], p[5] = 7, 0x10
			binary.BigEndian.PutUint32(p[6:], uint32(ticks/300>>1))
			p[10], p[11] = byte(ticks/300<<7)|0x7e, byte(ticks%300)
		}
	}
	return out
}

// memory is a source in memory: chunks with the time before each.
type memory struct {
	chunks []memoryChunk
	loops  int
	all    []memoryChunk
}

type memoryChunk struct {
	after time.Duration
	data  []byte
	jump  bool
}

func (m *memory) read(ctx context.Context, deadline time.Time) (chunk, error) {
	if len(m.chunks) == 0 {
		return chunk{}, io.EOF
	}
	c := &m.chunks[0]
	if c.after > 0 {
		begun := time.Now()
		err := sleep(ctx, begun.Add(c.after), deadline)
		c.after -= time.Since(begun)
		if err != nil {
			return chunk{}, err
		}
	}
	m.chunks = m.chunks[1:]
	return chunk{data: c.data, jump: c.jump}, nil
}

func (m *memory) stats() Stats { return Stats{} }
func (m *memory) close() error { return nil }

func (m *memory) rewind() error {
	if m.loops--; m.loops < 0 {
		return io.ErrUnexpectedEOF
	}
	m.chunks = append([]memoryChunk(nil), m.all...)
	return nil
}

func newStream(mode paceMode, chunks ...memoryChunk) *Stream {
	s := &Stream{name: "test", src: &memory{chunks: chunks, all: append([]memoryChunk(nil), chunks...)}, log: slog.New(slog.DiscardHandler)}
	s.live, s.sized = mode != paceClock, mode != paceNone
	s.pace = newPacer(mode, DefaultRate, s.log)
	s.stats.State = Waiting
	return s
}

// pieces cuts b into chunks of n bytes, each after a wait.
func pieces(b []byte, n int, after time.Duration) (out []memoryChunk) {
	for len(b) > 0 {
		m := min(n, len(b))
		out = append(out, memoryChunk{after: after, data: b[:m]})
		b = b[m:]
	}
	return out
}

// played is what a stream gave, and when.
type played struct {
	bytes   []byte
	at      []time.Duration // of each packet
	batches int
	err     error
}

func play(t *testing.T, s *Stream) (r played) {
	t.Helper()
	begun := time.Now()
	for {
		b, err := s.Read(t.Context(), time.Now().Add(400*time.Millisecond))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			r.err = err
			return r
		}
		r.batches++
		r.bytes = append(r.bytes, b.Packets...)
		for range len(b.Packets) / ts.PacketSize {
			r.at = append(r.at, time.Since(begun))
		}
	}
}

func (r *played) check(t *testing.T, want []byte) {
	t.Helper()
	if !errors.Is(r.err, io.EOF) {
		t.Errorf("ended with %v", r.err)
	}
	if string(r.bytes) != string(want) {
		t.Errorf("%d bytes came out of %d, or others", len(r.bytes), len(want))
	}
}

// maxAhead is how far packets came before, and after, the time that they have at rate.
func (r *played) ahead(rate ts.BitRate) (early, late time.Duration) {
	for i, at := range r.at {
		due := rate.Duration(int64(i) * ts.PacketSize)
		early, late = max(early, due-at), max(late, at-due)
	}
	return early, late
}

func TestFileIsPlayedByItsClock(t *testing.T) {
	for _, c := range []struct {
		name string
		rate ts.BitRate
		clip []byte
	}{
		{"1 Mbit/s", 1e6, clip(10*665, 1e6, 0)},
		{"50 Mbit/s", 50e6, clip(10*3000, 50e6, 0)},
		{"the clock wraps", 2e6, clip(10*665, 2e6, 26*time.Hour+30*time.Minute+43*time.Second)},
		{"two programmes, the first vanishes", 2e6, append(clip(4000, 2e6, 0), clipOf(0x200, 4000, 10, 2e6, time.Hour)...)},
		{"the clock jumps", 2e6, append(clip(4000, 2e6, time.Hour), clip(4000, 2e6, 0)...)},
		{"one PCR a second", 2e6, clipOf(0x100, 6650, 1330, 2e6, 0)},
		{"no clock", DefaultRate, clipOf(0x100, 8000, 0, 1, 0)},
		{"a single PCR", DefaultRate, clipOf(0x100, 8000, 1e6, 1, 0)},
		{"no clock for long", DefaultRate, append(clipOf(0x100, 60000, 0, 1, 0), clip(4000, DefaultRate, 0)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := play(t, newStream(paceClock, pieces(c.clip, fileBuffer, 0)...))
				r.check(t, c.clip)
				if early, late := r.ahead(c.rate); early > 15*time.Millisecond || late > 150*time.Millisecond {
					t.Errorf("packets come up to %v early and %v late", early, late)
				}
				if length := c.rate.Duration(int64(len(c.clip))); r.batches < int(length/(2*quantum))/2 {
					t.Errorf("%d batches in %v", r.batches, length)
				}
			})
		})
	}
}

func TestFileIsNotMadeGoodByABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := clip(6650, 1e6, 0) // 10 s
		s := newStream(paceClock, pieces(in, fileBuffer, 0)...)
		begun := time.Now()
		total := 0
		for stalled := false; ; {
			b, err := s.Read(t.Context(), time.Time{})
			if err != nil {
				break
			}
			total += len(b.Packets)
			if !stalled && time.Since(begun) > 3*time.Second {
				stalled = true
				time.Sleep(5 * time.Second) // whoever writes the blocks was held
			}
		}
		if d := time.Since(begun); total != len(in) || d < 14*time.Second || d > 16*time.Second {
			t.Errorf("10 s with a stall of 5 s took %v", d)
		}
	})
}

func TestLoopGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := clip(665, 1e6, 0) // 1 s
		s := newStream(paceClock, pieces(in, 10_000, 0)...)
		m := s.src.(*memory)
		m.loops = 4
		s.loop, s.rew = ts.NewLoop(), m.rewind
		r := play(t, s)
		if len(r.bytes) < 4*len(in) {
			t.Fatalf("%d of %d bytes", len(r.bytes), 5*len(in))
		}
		if early, late := r.ahead(1e6); early > 20*time.Millisecond || late > 150*time.Millisecond {
			t.Errorf("packets come up to %v early and %v late", early, late)
		}
		c := ts.NewContinuity()
		c.Observe(r.bytes)
		if n := c.Total(); n.Errors != 0 {
			t.Errorf("%+v", n)
		}
		if j := s.pace.clock.Jumps(); j != 0 {
			t.Errorf("%d clock jumps", j)
		}
	})
}

func TestPipe(t *testing.T) {
	const rate ts.BitRate = 2e6
	in := clip(10*1330, rate, 0) // 10 s
	packet := rate.Duration(ts.PacketSize)
	for _, c := range []struct {
		name        string
		chunks      []memoryChunk
		early, late time.Duration
	}{
		{"live", pieces(in, 7*ts.PacketSize, 7*packet), 0, 20 * time.Millisecond},
		{"faster than live by 100 ppm", pieces(in, 70*ts.PacketSize, 70*packet-7*packet/1000), 20 * time.Millisecond, 150 * time.Millisecond},
		{"all at once", pieces(in, fileBuffer, 0), PipeLead + 50*time.Millisecond, 0},
		{"twice as fast", pieces(in, 7*ts.PacketSize, 7*packet/2), PipeLead + 50*time.Millisecond, 20 * time.Millisecond},
		{"odd pieces", pieces(in, 1000, rate.Duration(1000)), 0, 20 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := play(t, newStream(paceAhead, c.chunks...))
				r.check(t, in)
				if early, late := r.ahead(rate); early > c.early || late > c.late {
					t.Errorf("packets come up to %v early and %v late", early, late)
				}
			})
		})
	}
	t.Run("no clock", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			in := clipOf(0x100, 5000, 0, 1, 0)
			begun := time.Now()
			r := play(t, newStream(paceAhead, pieces(in, fileBuffer, time.Millisecond)...))
			r.check(t, in)
			if d := time.Since(begun); d > 50*time.Millisecond {
				t.Errorf("held for %v", d)
			}
		})
	})
	t.Run("a stall is not made good", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			chunks := pieces(in, fileBuffer, 0)
			chunks[len(chunks)/2].after = time.Minute
			begun := time.Now()
			r := play(t, newStream(paceAhead, chunks...))
			r.check(t, in)
			if d := time.Since(begun); d < 66*time.Second {
				t.Errorf("10 s with a stall of a minute took %v", d)
			}
		})
	})
}

func TestPipeClockThatIsTooFastNeverBacksUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, ppm = 2e5, 100
		in := clipOf(0x100, 133*600, 10, rate, 0) // ten minutes
		real := rate * (1 + ppm/1e6)
		var chunks []memoryChunk
		for _, c := range pieces(in, 13300, 0) {
			c.after = ts.BitRate(real).Duration(int64(len(c.data)))
			chunks = append(chunks, c)
		}
		r := play(t, newStream(paceAhead, chunks...))
		r.check(t, in)
		if _, late := r.ahead(ts.BitRate(real)); late > time.Second {
			t.Errorf("%v behind after ten minutes", late)
		}
	})
}

func TestStallAndReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := clip(14, 1e6, 0)
		s := newStream(paceNone, memoryChunk{data: in[:7*188]}, memoryChunk{after: 5 * time.Second, data: in[7*188:]})
		read := func() error {
			_, err := s.Read(t.Context(), time.Now().Add(time.Second))
			return err
		}
		if got := s.Stats().State; got != Waiting {
			t.Errorf("before: %s", got)
		}
		if err := read(); err != nil || s.Stats().State != Running {
			t.Errorf("first: %v, %s", err, s.Stats().State)
		}
		for range 3 {
			if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		}
		if st := s.Stats(); st.State != Stalled || st.Stalls != 1 {
			t.Errorf("silent: %+v", st)
		}
		for read() != nil {
		}
		if st := s.Stats(); st.State != Running || st.Bytes != uint64(len(in)) {
			t.Errorf("returned: %+v", st)
		}
		if err := read(); !errors.Is(err, io.EOF) || s.Stats().State != Ended {
			t.Errorf("end: %v, %s", err, s.Stats().State)
		}
	})
}

func TestJumpIsToldWithTheBatchThatJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := clip(14, 1e6, 0), clip(7, 1e6, time.Hour)
		s := newStream(paceAhead, memoryChunk{data: a}, memoryChunk{data: b, jump: true})
		before := 0
		for {
			batch, err := s.Read(t.Context(), time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			if batch.Jump {
				break
			}
			before += len(batch.Packets)
		}
		if before != len(a) {
			t.Errorf("%d bytes before the jump, want %d", before, len(a))
		}
	})
}

func TestContextEndsAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s := newStream(paceClock, memoryChunk{data: clip(6650, 1e6, 0)})
		for {
			if _, err := s.Read(ctx, time.Time{}); err != nil {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				return
			}
		}
	})
}

func TestWhatIsNoStreamIsDescribed(t *testing.T) {
	for head, want := range map[string]string{
		"":                                 "it is empty",
		"\n <!DOCTYPE html><html>":         "it is a web page",
		"#EXTM3U\n#EXT-X-VERSION:3":        "it is a playlist",
		"\x00\x00\x00\x18ftypmp42":         "it is an MP4 file",
		"\x1a\x45\xdf\xa3....":             "it is a Matroska",
		"\xf6\x36\x63\x42\x00\x10\xff\xef": "it is a block stream",
		"just some words":                  "it is text",
		"\x00\x01\x02\x03\x04":             "no packet was found",
		string(clip(1, 1e6, 0)[:100]):      "no packet was found",
		"\x1f\x8b\x08":                     "it is compressed",
	} {
		s := newStream(paceAhead, memoryChunk{data: []byte(head)})
		if _, err := s.Read(t.Context(), time.Time{}); !errors.Is(err, ErrNotStream) || !contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", head, err, want)
		}
	}
}
