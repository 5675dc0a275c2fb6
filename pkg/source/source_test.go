package source

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// blocks is a block stream of n blocks made 100 ms apart, the first at begin.
func blocks(t *testing.T, n int, begin time.Time) []byte {
	t.Helper()
	enc, err := block.NewEncoder(block.EncoderConfig{Key: channel.KeyFromSeed([32]byte{1}), Run: block.NewRun(begin, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for i := range n {
		payload := bytes.Repeat([]byte{0x47, 0, 0, byte(i)}, 47*10)
		if out, err = enc.Encode(out, payload, block.Fields{Created: begin.Add(time.Duration(i) * 100 * time.Millisecond), Duration: 100 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// sink notes what it is fed and when.
type sink struct {
	mu        sync.Mutex
	datagrams int
	manifests []block.Number
	at        []time.Time
	fed       chan struct{}
}

func (s *sink) feed(datagrams ...[]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range datagrams {
		s.datagrams++
		if d[0] == block.TypeManifest {
			s.manifests = append(s.manifests, block.Number(binary.BigEndian.Uint32(d[16:])))
			s.at = append(s.at, time.Now())
			if s.fed != nil {
				s.fed <- struct{}{}
			}
		}
	}
	return nil
}

func TestLiveStreamIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sink
		r := &Reader{Feed: s.feed}
		begin := time.Now()
		if err := r.Stream(t.Context(), bytes.NewReader(blocks(t, 5, begin))); err != nil {
			t.Fatal(err)
		}
		if len(s.manifests) != 5 || s.datagrams != 5*17 || time.Since(begin) != 0 {
			t.Errorf("%d blocks, %d datagrams after %v", len(s.manifests), s.datagrams, time.Since(begin))
		}
		if got := r.Stats(); got.Blocks != 5 || got.Skipped != 0 {
			t.Errorf("%+v", got)
		}
	})
}

func TestRecordingIsPacedByItsManifests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sink
		r := &Reader{Feed: s.feed}
		begin := time.Now()
		in := blocks(t, 5, begin.Add(-time.Hour))
		// A second recording of another day follows: the step is not waited for.
		in = append(in, blocks(t, 2, begin.Add(-48*time.Hour))...)
		if err := r.Stream(t.Context(), bytes.NewReader(in)); err != nil {
			t.Fatal(err)
		}
		for i, want := range []time.Duration{0, 100, 200, 300, 400, 400, 500} {
			if got := s.at[i].Sub(begin); got != want*time.Millisecond {
				t.Errorf("block %d after %v, want %v", i, got, want*time.Millisecond)
			}
		}
	})
}

func TestEmptyAndForeignInput(t *testing.T) {
	for _, in := range []string{"", "no block stream at all", "\xf6\x36\x63\x42"} {
		r := &Reader{Feed: new(sink).feed}
		if err := r.Stream(t.Context(), bytes.NewReader([]byte(in))); !errors.Is(err, ErrEmpty) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestFeedsErrorEndsTheStream(t *testing.T) {
	want := errors.New("enough")
	r := &Reader{Feed: func(...[]byte) error { return want }}
	if err := r.Stream(t.Context(), bytes.NewReader(blocks(t, 2, time.Now()))); !errors.Is(err, want) {
		t.Errorf("%v", err)
	}
}

func TestFIFOOutlivesItsWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	s := sink{fed: make(chan struct{}, 16)}
	r := &Reader{Feed: s.feed}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Path(ctx, path) }() // makes the FIFO
	for i := range 2 {
		write(t, path, blocks(t, 3, time.Now().Add(time.Duration(i)*time.Second)))
		for range 3 {
			<-s.fed
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// write opens a FIFO that is being made by another, and writes.
func write(t *testing.T, path string, b []byte) {
	t.Helper()
	for range 1000 {
		if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
}

func TestUnixSocketTakesOneStreamAfterTheOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	s := sink{fed: make(chan struct{}, 16)}
	r := &Reader{Feed: s.feed}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Path(ctx, "unix:"+path) }()
	for range 2 {
		var c net.Conn
		var err error
		for range 1000 {
			if c, err = net.Dial("unix", path); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(c, bytes.NewReader(blocks(t, 2, time.Now()))); err != nil {
			t.Fatal(err)
		}
		c.Close()
		<-s.fed
		<-s.fed
	}
	if err := (&Reader{Feed: s.feed}).Path(ctx, "unix:"+path); err == nil {
		t.Error("two listen on one socket")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
