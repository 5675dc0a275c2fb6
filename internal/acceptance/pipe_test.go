//go:build linux

package acceptance

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

// twoHosts is a sender and a viewer with nothing in between.
func twoHosts(t testing.TB) (sender, viewer *testnet.Host) {
	n := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(2, netem.Params{}, netem.Params{})})
	return n.Hosts()[0], n.Hosts()[1]
}

// truthOf reads a file of blocks.
func truthOf(t testing.TB, s *station, file string) []piece {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return readTruth(s.id, f).all(t)
}

// What a person types in a shell is a channel: ingest into a file, through tee, and a relay into another relay.
func TestPipelines(t *testing.T) {
	t.Parallel()
	clip := clipH264
	for _, c := range []struct {
		name   string
		script string // run by a shell on the sender, with $KEY, $CLIP, $BLOCKS, $URI
		file   bool   // the channel is made beforehand, in $BLOCKS
		port   int    // where the viewer connects
	}{
		{"ingest | tee | relay", `ingest "$CLIP" --key "$KEY" | tee "$BLOCKS" | relay --listen '[::]:6400'`, false, 6400},
		{"relay < file", `relay --listen '[::]:6400' < "$BLOCKS"`, true, 6400},
		{"cat file | relay", `cat "$BLOCKS" | relay --listen '[::]:6400' --linger 9s`, true, 6400},
		{"relay --stdout | relay", `ingest "$CLIP" --key "$KEY" -o - | tee "$BLOCKS" | relay --listen '[::]:6400' & relay "$URI" --peer '[::1]:6400' --listen '[::]:6401' --stdout --timeout 2s | relay --listen '[::]:6402' --linger 2s`, false, 6402},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStation(t)
			sender, other := twoHosts(t)
			blocks := filepath.Join(s.dir, "blocks")
			if c.file {
				// A pipe out of ingest plays at the clip's speed. What is old is paced by relay, out of a pipe too.
				made, _ := recording(t, s, clip, time.Now().Add(-time.Hour))
				if err := os.Rename(made, blocks); err != nil {
					t.Fatal(err)
				}
			}
			v := s.watch(other, nil, "--peer", fmt.Sprintf("[%v]:%d", sender.Addr(), c.port))
			ready()
			sh := run(t, sender, streams{}, "sh", "-c", "KEY='"+s.key+"' CLIP='"+clip.path(t)+"' BLOCKS='"+blocks+"' URI='"+s.uri+"'; "+c.script)
			v.ends(0, time.Minute)
			out := v.out.stamps()
			if len(out) == 0 {
				t.Fatal("nothing came")
			}
			took := out[len(out)-1].at.Sub(out[0].at)
			t.Logf("played in %v", took.Round(10*time.Millisecond))
			if took < 5500*time.Millisecond || took > 10*time.Second {
				t.Errorf("a clip of 7 s was played in %v", took)
			}
			sh.ends(0, patience) // the shell's exit code is that of the last command
			exact(t, "watch", truthOf(t, s, blocks), v.out.bytes(), time.Second)
		})
	}
}

// `ingest > file` twice into one file, and a relay reads both runs.
func TestBlockStreamsInOneFile(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	sender, other := twoHosts(t)
	first, a := recording(t, s, clipH264, time.Now().Add(-2*time.Hour))
	second, b := recording(t, s, clipH264, time.Now().Add(-time.Hour))
	x, _ := os.ReadFile(first)
	y, _ := os.ReadFile(second)
	// The first was cut off in the middle of a record, as by a full disk.
	x = x[:len(x)/4-100]
	v := s.watch(other, sender)
	ready()
	replay(t, sender, writeFile(t, "both.blocks", append(x, y...)))
	v.ends(0, time.Minute)
	p, err := match(append(a, b...), v.out.bytes(), false)
	if err != nil {
		t.Fatal(err)
	}
	if p.preambles != 2 || p.last < lastFull(append(a, b...)) {
		t.Errorf("%+v, want two runs to the end", p)
	}
}

// A block stream that was damaged gives whole blocks and counted gaps, never a wrong byte.
func TestDamagedBlockStream(t *testing.T) {
	t.Parallel()
	damage := map[string]func([]byte) []byte{
		"cut in the middle": func(b []byte) []byte { return b[:len(b)/2] },
		"a bit flipped every 40 kB": func(b []byte) []byte {
			r := rand.New(rand.NewPCG(1, 2))
			for i := 40_000; i < len(b)-100_000; i += 1 + r.IntN(80_000) {
				b[i] ^= 1 << r.IntN(8)
			}
			return b
		},
		"100 bytes lost every 100 kB": func(b []byte) (out []byte) {
			for len(b) > 100_000 {
				out, b = append(out, b[:100_000-100]...), b[100_000:]
			}
			return append(out, b...)
		},
		"noise between": func(b []byte) (out []byte) {
			r := rand.New(rand.NewPCG(3, 4))
			for len(b) > 60_000 {
				out, b = append(out, b[:60_000]...), b[60_000:]
				for range 3000 {
					out = append(out, byte(r.Uint32()))
				}
			}
			return append(out, b...)
		},
		"30 kB zeroed": func(b []byte) []byte {
			clear(b[len(b)/2:][:30_000])
			return b
		},
	}
	for name, spoil := range damage {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStation(t)
			sender, other := twoHosts(t)
			file, pieces := recording(t, s, clipH264, time.Now().Add(-time.Hour))
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			v := s.watch(other, sender, "--timeout", "3s")
			stats := filepath.Join(s.dir, "stats")
			ready()
			relay := replay(t, sender, writeFile(t, "damaged.blocks", spoil(bytes.Clone(b))), "--stats=100ms", "--stats-file", stats)
			whole := name != "cut in the middle"
			if whole {
				v.ends(0, time.Minute) // at the end of the run
			} else {
				v.ends(3, time.Minute) // silence
			}
			relay.ends(0, patience)
			p, err := match(pieces, v.out.bytes(), false)
			if err != nil {
				t.Fatal(err)
			}
			r := v.report()
			var in struct {
				Input struct {
					Blocks  int
					Skipped int `json:"skipped_bytes"`
				}
			}
			if err := lastStats(stats, &in); err != nil {
				t.Error(err)
			}
			t.Logf("%d of %d blocks missing, %d reported; the relay skipped %d bytes", len(p.missing), len(pieces), r.LostBlocks, in.Input.Skipped)
			if int(r.LostBlocks) != len(p.missing) {
				t.Errorf("watch counts %d lost blocks, %d are missing", r.LostBlocks, len(p.missing))
			}
			switch {
			case !whole && (p.last < len(pieces)/2-2 || len(p.missing) > 0):
				t.Errorf("half of the stream gave blocks %d to %d of %d without %v", p.first, p.last, len(pieces), p.missing)
			case whole && (p.last < lastFull(pieces) || len(p.missing) > len(pieces)/4):
				t.Errorf("the last block is %d of %d, missing %v", p.last, len(pieces), p.missing)
			}
			if (name == "noise between" || name == "30 kB zeroed") && in.Input.Skipped == 0 {
				t.Error("the relay counts no byte that it skipped")
			}
		})
	}
}

// A pipe whose reader goes is a quiet end, for every command.
func TestClosedPipes(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	sender, other := twoHosts(t)
	src := s.source(sender)
	src.air(clipH264.path(t), "--loop")
	src.relay.says("watch 'sixcast:")
	var readers []*os.File
	pipe := func() *os.File {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		readers = append(readers, r)
		return w
	}
	all := []*process{
		run(t, other, streams{stdout: pipe()}, "watch", s.uri, "--peer", peer(sender)),
		run(t, other, streams{stdout: pipe()}, "relay", s.uri, "--peer", peer(sender), "--stdout"),
		run(t, other, streams{stdout: pipe()}, "ingest", clipH264.path(t), "--loop", "--key", s.key),
	}
	for i, r := range readers {
		r.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(r, make([]byte, 50_000)); err != nil {
			t.Fatalf("%s: %v", all[i].name, err)
		}
		r.Close()
		all[i].ends(0, 5*time.Second)
		if w := all[i].words.String(); strings.Contains(w, "pipe") || strings.Contains(w, "closed") {
			t.Errorf("%s complains: %s", all[i].name, w)
		}
	}
}

// A reader that stops does not stop the viewer: after 5 s it misses nothing; after longer than the viewer keeps, it goes on at the
// newest random access point, and what it missed is counted. The memory is bounded meanwhile.
func TestReaderThatStops(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		stops time.Duration
		miss  bool
	}{{"for 5 s", 5 * time.Second, false}, {"for 18 s", 18 * time.Second, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStation(t)
			sender, other := twoHosts(t)
			src := s.source(sender)
			src.air(clip8M.path(t), "--loop")
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			stats := filepath.Join(s.dir, "stats")
			report := filepath.Join(s.dir, "report")
			v := &viewer{run(t, other, streams{stdout: w}, "watch", s.uri, "--peer", peer(sender), "--once", "--report", report, "--stats=100ms", "--stats-file", stats), report}
			out := newBuffer()
			stop := make(chan struct{})
			copied := make(chan struct{})
			go func() {
				defer close(copied)
				buf := make([]byte, 64<<10)
				for {
					if out.len() > 1_000_000 {
						<-stop
					}
					n, err := r.Read(buf)
					out.Write(buf[:n])
					if err != nil {
						return
					}
				}
			}()
			if !out.wait(patience, func(b []byte) bool { return len(b) > 1_000_000 }) {
				t.Fatal("nothing comes")
			}
			time.Sleep(c.stops)
			var st struct {
				Queued int `json:"queued_bytes"`
			}
			if err := lastStats(stats, &st); err != nil || st.Queued == 0 || st.Queued > 64<<20 {
				t.Errorf("%d bytes are queued for a reader that stopped, %v", st.Queued, err)
			}
			t.Logf("%.1f MB queued", float64(st.Queued)/1e6)
			close(stop)
			time.Sleep(2 * time.Second)
			src.ingest.signal(2)
			v.ends(0, patience)
			<-copied
			pieces := src.truth.all(t)
			p, err := match(pieces, out.bytes(), false)
			if err != nil {
				t.Fatal(err)
			}
			rep := v.report()
			t.Logf("%d blocks missing, %d dropped and %d lost by the report, %d preambles", len(p.missing), rep.Dropped, rep.LostBlocks, p.preambles)
			if p.last < lastFull(pieces) {
				t.Errorf("the last block is %d of %d", p.last, len(pieces))
			}
			if !c.miss && (len(p.missing) > 0 || p.preambles != 1 || rep.Dropped > 0) {
				t.Errorf("something was missed: %+v", p)
			}
			if c.miss && (p.preambles < 2 || int(rep.Dropped+rep.LostBlocks) != len(p.missing) || rep.Rejoined == 0) {
				t.Errorf("%d blocks are missing, %d are counted; %d preambles, rejoined %d times", len(p.missing), rep.Dropped+rep.LostBlocks, p.preambles, rep.Rejoined)
			}
		})
	}
}
