package play

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/ts"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStreamWritesWhatCameInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := source{run: 1, begin: time.Now(), gop: 10}
		st := NewStream(Config{Latency: time.Second}, nil)
		r := st.NewReader(Limits{})
		var got bytes.Buffer
		done := make(chan error)
		go func() { done <- Write(t.Context(), &got, r, nil) }()

		var want []byte
		want = append(want, s.block(0).Preamble...)
		for _, n := range []block.Number{0, 1, 2, 4, 5} {
			want = append(want, s.block(n).Packets...)
		}
		for _, n := range []block.Number{1, 0, 5, 4, 2} {
			st.Put(time.Now(), s.block(n))
		}
		time.Sleep(10 * time.Second) // block 3 does not come: its timer runs
		synctest.Wait()
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%d bytes, want %d", got.Len(), len(want))
		}
		if c := st.Counters(); c.Gaps != 1 || c.Lost.Blocks != 1 {
			t.Errorf("%+v", c)
		}
		st.Put(time.Now(), s.block(9)) // 6 to 8 are missing
		st.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want = append(want, s.block(9).Packets...)
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("at the end: %d bytes, want %d", got.Len(), len(want))
		}
		st.Put(time.Now(), s.block(10)) // after the end: nothing happens
		if _, err := st.NewReader(Limits{}).Next(t.Context()); err != io.EOF {
			t.Error(err)
		}
	})
}

func TestWriteTellsBlocksAndErrors(t *testing.T) {
	s := source{run: 1, begin: epoch, gop: 10}
	st := NewStream(Config{}, nil)
	r := st.NewReader(Limits{})
	st.Put(epoch, s.block(0))
	st.Put(epoch, s.block(1))
	defer st.Close()
	var told []int
	err := Write(context.Background(), &failAfter{n: 1, err: syscall.ENOSPC}, r, func(_ Unit, n int) { told = append(told, n) })
	if !errors.Is(err, ErrWrite) || !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	if len(told) != 2 || told[0] != 3*ts.PacketSize || told[1] != 0 {
		t.Error(told)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Write(ctx, io.Discard, r, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

type failAfter struct {
	n   int
	err error
}

func (f *failAfter) Write(b []byte) (int, error) {
	if f.n--; f.n < 0 {
		return 0, f.err
	}
	return len(b), nil
}

// reading takes all that r holds.
func reading(t *testing.T, r *Reader) (units []Unit) {
	t.Helper()
	for r.Stats().Held > 0 {
		u, err := r.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		units = append(units, u)
	}
	return units
}

func TestReaderThatStopsGoesOnAtTheNewestRandomAccessPoint(t *testing.T) {
	s := source{run: 1, begin: epoch, gop: 10}
	now := epoch
	r := newReader(Limits{Age: 2 * time.Second}, func() time.Time { return now }, func(*Reader) {})
	r.put(Unit{Block: s.block(0), Entry: Starts})
	u, _ := r.Next(context.Background())
	if u.Entry != Starts {
		t.Error(u.Entry)
	}
	for n := block.Number(1); n < 36; n++ {
		now = s.created(n)
		r.put(Unit{Block: s.block(n)})
	}
	units := reading(t, r)
	if b := units[0].Block; b.Number != 20 || units[0].Entry != Rejoins {
		t.Errorf("goes on at %d, entry %d", b.Number, units[0].Entry)
	}
	for i, u := range units[1:] {
		if u.Block.Number != block.Number(21+i) || u.Entry != Continues {
			t.Fatalf("unit %d: %d", i, u.Block.Number)
		}
	}
	if st := r.Stats(); st.Overflows != 1 || st.Dropped != 19 {
		t.Errorf("%+v", st)
	}
}

func TestReaderIsBoundedWithoutRandomAccessPoints(t *testing.T) {
	s := source{run: 1, begin: epoch, gop: 1000}
	now := epoch
	const limit = 50 * 2 * ts.PacketSize
	r := newReader(Limits{Bytes: limit}, func() time.Time { return now }, func(*Reader) {})
	for n := range block.Number(1500) {
		now = s.created(n)
		u := Unit{Block: s.block(n)}
		if n == 0 {
			u.Entry = Starts
		}
		r.put(u)
		if st := r.Stats(); st.HeldBytes > limit {
			t.Fatalf("%d bytes held", st.HeldBytes)
		}
		if n == 999 && r.Stats().Held != 0 {
			t.Error("the middle of a group of pictures is no place to go on")
		}
		if n == 1010 {
			units := reading(t, r)
			if len(units) != 11 || units[0].Entry != Rejoins || units[0].Block.Number != 1000 {
				t.Errorf("%d units", len(units))
			}
		}
	}
}

func TestReaderAddedLaterStartsAtARandomAccessPoint(t *testing.T) {
	s := source{run: 1, begin: epoch, gop: 10}
	st := NewStream(Config{}, nil)
	defer st.Close()
	for n := range block.Number(5) {
		st.Put(s.created(n), s.block(n))
	}
	r := st.NewReader(Limits{})
	for n := block.Number(5); n < 15; n++ {
		st.Put(s.created(n), s.block(n))
	}
	if u := reading(t, r); len(u) != 5 || u[0].Block.Number != 10 || u[0].Entry != Starts {
		t.Errorf("%d units", len(u))
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.Next(context.Background()); err != io.EOF {
		t.Error(err)
	}
	if len(st.readers) != 0 {
		t.Error("a closed reader is still fed")
	}
}

func TestRejoinAnnouncesTheDiscontinuity(t *testing.T) {
	b := source{run: 1, begin: epoch, gop: 10}.block(0)
	for entry, want := range map[Entry]int{Continues: 2, Starts: 3} {
		if got := len(Unit{Block: b, Entry: entry}.Append(nil)) / ts.PacketSize; got != want {
			t.Errorf("entry %d: %d packets, want %d", entry, got, want)
		}
	}
	b.Preamble = preamble()
	out := Unit{Block: b, Entry: Rejoins}.Append(nil)
	if len(out)%ts.PacketSize != 0 || len(out) < len(b.Preamble)+len(b.Packets)+2*ts.PacketSize {
		t.Fatalf("%d bytes", len(out))
	}
	if p := ts.Packet(out[:ts.PacketSize]); !p.Discontinuity() || p.HasPayload() {
		t.Error("the first packet announces no discontinuity")
	}
	if !bytes.HasSuffix(out, append(bytes.Clone(b.Preamble), b.Packets...)) {
		t.Error("preamble and packets must follow as they are")
	}
}

// preamble is a PAT with programme 1, PMT on 0x100, and its PMT: video on
// 0x101, which has the clock.
func preamble() []byte {
	pat := []byte{0x00, 0xb0, 0x0d, 0, 1, 0xc1, 0, 0, 0, 1, 0xe1, 0x00}
	pmt := []byte{0x02, 0xb0, 0x12, 0, 1, 0xc1, 0, 0, 0xe1, 0x01, 0xf0, 0, 0x1b, 0xe1, 0x01, 0xf0, 0}
	return append(psiPacket(0, pat), psiPacket(0x100, pmt)...)
}

func psiPacket(pid ts.PID, section []byte) []byte {
	crc := uint32(0xffffffff)
	for _, b := range section {
		crc ^= uint32(b) << 24
		for range 8 {
			if crc&0x80000000 != 0 {
				crc = crc<<1 ^ 0x04c11db7
			} else {
				crc <<= 1
			}
		}
	}
	p := []byte{ts.SyncByte, 0x40 | byte(pid>>8), byte(pid), 0x10, 0}
	p = append(p, section...)
	p = append(p, byte(crc>>24), byte(crc>>16), byte(crc>>8), byte(crc))
	for len(p) < ts.PacketSize {
		p = append(p, 0xff)
	}
	return p
}

func TestPlayerReadsTheStream(t *testing.T) {
	out := t.TempDir() + "/out"
	args, err := PlayerCommand("cat > '" + out + "'")
	if err != nil {
		t.Fatal(err)
	}
	p, err := StartPlayer(context.Background(), args, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(p, "stream")
	p.CloseInput()
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(out); string(b) != "stream" {
		t.Errorf("%q", b)
	}
}

func TestPlayerThatEndsClosesThePipe(t *testing.T) {
	args, err := PlayerCommand("exit 3")
	if err != nil {
		t.Fatal(err)
	}
	p, err := StartPlayer(context.Background(), args, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Error(err)
	}
	if _, err := p.Write(make([]byte, 1<<20)); err == nil {
		t.Error("nobody reads that")
	}
	ctx, cancel := context.WithCancel(context.Background())
	if p, err = StartPlayer(ctx, []string{"sleep", "60"}, nil, nil); err != nil {
		t.Fatal(err)
	}
	cancel()
	if p.Wait() == nil {
		t.Error("the player was not terminated")
	}
}

func TestPlayerThatIsNotThere(t *testing.T) {
	for _, command := range []string{"vlc", "no-such-player --fullscreen -"} {
		t.Setenv("PATH", t.TempDir())
		_, err := PlayerCommand(command)
		if !errors.Is(err, ErrNoPlayer) || !strings.Contains(err.Error(), "nor is mpv, vlc, ffplay") {
			t.Error(err)
		}
	}
	if _, err := PlayerCommand(" "); err == nil {
		t.Error("an empty command is none")
	}
}

func TestDelays(t *testing.T) {
	var h Delays
	if h.Quantile(0.5) != 0 {
		t.Error("empty")
	}
	for i := range 100 {
		h.Add(time.Duration(i+1) * time.Millisecond)
	}
	h.Add(time.Minute)
	h.Add(-time.Second)
	if h.Quantile(0.5) != 50*time.Millisecond || h.Quantile(1) != time.Minute || h.Max() != time.Minute || h.Min() != -time.Second || h.Count() != 102 {
		t.Error(h.Quantile(0.5), h.Quantile(1), h.Max(), h.Min(), h.Count())
	}
}

func BenchmarkStream(b *testing.B) {
	s := source{run: 1, begin: time.Now(), gop: 10}
	blocks := make([]*Block, b.N)
	for n := range blocks {
		blocks[n] = s.block(block.Number(n))
	}
	st := NewStream(Config{}, nil)
	defer st.Close()
	r := st.NewReader(Limits{})
	b.ReportAllocs()
	b.ResetTimer()
	for _, k := range blocks {
		st.Put(time.Now(), k)
		r.Next(context.Background())
	}
}
