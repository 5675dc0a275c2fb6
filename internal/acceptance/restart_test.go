//go:build linux

package acceptance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/ts"
)

// A source whose ingest is killed and started again, behind a FIFO, goes on within a second: the relay and the viewer are the
// same processes on the same link, and the output says that the stream does not go on.
func TestIngestKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	n := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(3, netem.Params{}, netem.Params{Delay: 10 * time.Millisecond})})
	h := n.Hosts()
	src := s.fifo(h[0])
	s.join(h[1], h[0], "--no-pex")
	v := s.watch(h[2], h[1])
	ready()
	var pieces []piece
	var took []time.Duration
	for round := range 3 {
		src.air(clipH264.path(t))
		had := v.out.len()
		v.writes(had+1, patience)
		if round > 0 {
			// From the new ingest's start to the first byte of its run.
			for _, st := range v.out.stamps() {
				if st.end > had && st.at.After(src.ingest.born) {
					took = append(took, st.at.Sub(src.ingest.born))
					break
				}
			}
		}
		if round == 2 {
			src.ingest.ends(0, time.Minute)
		} else {
			time.Sleep(2300 * time.Millisecond)
			src.ingest.kill()
		}
		pieces = append(pieces, src.truth.all(t)...)
		if round < 2 {
			time.Sleep(300 * time.Millisecond) // what was on its way arrives
		}
	}
	v.ends(0, patience)
	if !src.relay.running() {
		t.Error("the relay did not survive")
	}
	p, err := match(pieces, v.out.bytes(), false)
	if err != nil {
		t.Fatal(err)
	}
	r := v.report()
	t.Logf("first byte of the new run %v after its ingest was started; %d runs, %d discontinuity packets, %d preambles, %d blocks missing", took, r.Runs, p.discontinuities, p.preambles, len(p.missing))
	for _, d := range took {
		if d > time.Second {
			t.Errorf("the viewer went on %v after ingest was started again, want at most 1 s", d)
		}
	}
	if p.preambles != 3 || p.discontinuities < 2*2 || r.Runs != 3 {
		t.Errorf("%d preambles, %d discontinuity packets, %d runs: want 3, some for each of 2 new runs, 3", p.preambles, p.discontinuities, r.Runs)
	}
	if len(p.missing) > 0 || p.last < lastFull(pieces) {
		t.Errorf("blocks %v are missing, the last is %d of %d", p.missing, p.last, lastFull(pieces))
	}
	if got := strings.Count(v.words.String(), "blocks come from"); got != 1 {
		t.Errorf("the viewer changed its parent: it says so %d times", got)
	}
}

// Of two sources with one key the newer wins, whoever learns of it first; the older relay says why it stops, and its ingest
// ends quietly.
func TestTwoSourcesOfOneChannel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		middle bool // a relay knows both, the viewer only that relay
	}{{"a viewer knows both", false}, {"a relay knows both", true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStation(t)
			h := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(4, netem.Params{}, netem.Params{Delay: 5 * time.Millisecond})}).Hosts()
			older, newer := s.source(h[0]), s.source(h[1])
			older.air(clipH264.path(t), "--loop")
			var v *viewer
			if c.middle {
				s.join(h[2], h[0], "--peer", peer(h[1]), "--no-pex")
				v = s.watch(h[3], h[2])
			} else {
				v = s.watch(h[3], h[0], "--peer", peer(h[1]))
			}
			v.writes(100*packet, patience)
			time.Sleep(time.Second)
			newer.air(clipMPG2.path(t))
			older.relay.ends(1, 5*time.Second)
			t.Logf("the older relay ended %v after the newer ingest was started", time.Since(newer.ingest.born).Round(time.Millisecond))
			older.relay.says(`superseded: another source of this channel started later`)
			older.ingest.ends(0, 5*time.Second)
			if w := older.ingest.words.String(); strings.Contains(w, "broken pipe") || strings.Contains(w, "ingest: writing") {
				t.Errorf("the older ingest complains: %s", w)
			}
			newer.ingest.ends(0, time.Minute)
			v.ends(0, patience)
			pieces := append(older.truth.all(t), newer.truth.all(t)...)
			p, err := match(pieces, v.out.bytes(), false)
			if err != nil {
				t.Fatal(err)
			}
			if r := v.report(); r.Runs != 2 || p.preambles != 2 || p.last < lastFull(pieces) {
				t.Errorf("%+v in %d runs, want all of the newer run's %d blocks", p, r.Runs, len(newer.truth.all(t)))
			}
		})
	}
}

// recording makes a block stream as ingest would have at a time.
func recording(t testing.TB, s *station, c clip, at time.Time) (file string, pieces []piece) {
	t.Helper()
	kf, err := channel.ReadKeyFile(s.key)
	if err != nil {
		t.Fatal(err)
	}
	enc, err := block.NewEncoder(block.EncoderConfig{Key: kf.Key, Run: block.NewRun(at, 1)})
	if err != nil {
		t.Fatal(err)
	}
	d, err := channel.SignDescriptor(kf.Key, at.Unix(), channel.Values{Name: "ch1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := enc.SetDescriptor(d.Item); err != nil {
		t.Fatal(err)
	}
	var out []byte
	walker := ts.NewWalker()
	cutter, err := block.NewCutter(block.CutterConfig{Tables: walker, Emit: func(payload []byte, f block.Fields) (err error) {
		out, err = enc.Encode(out, payload, f)
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	packets := c.packets(t)
	const rate = 1.2e6 / 8
	now := at
	for i := 0; i < len(packets); i += packet {
		now = at.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		p := ts.Packet(packets[i : i+packet])
		if err := cutter.Push(p, walker.Walk(p), now); err != nil {
			t.Fatal(err)
		}
	}
	if err := cutter.End(now); err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "yesterday.blocks", out), readTruth(s.id, strings.NewReader(string(out))).all(t)
}

// replay is `relay < FILE`.
func replay(t testing.TB, h *testnet.Host, file string, args ...string) *process {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, h, streams{stdin: f}, append(append([]string{"relay"}, listen()...), args...)...)
}

// A recorded block stream is shown as recorded where it is alone, and never replaces what is live.
func TestReplayOfYesterday(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	h := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(3, netem.Params{}, netem.Params{Delay: 5 * time.Millisecond})}).Hosts()
	file, old := recording(t, s, clipH264, time.Now().Add(-24*time.Hour))
	live := s.source(h[0])
	stats := filepath.Join(s.dir, "stats")
	v := s.watch(h[2], h[1], "--peer", peer(h[0]), "--stats=100ms", "--stats-file", stats)
	first := replay(t, h[1], file)
	v.writes(100*packet, patience)
	eventually(t, 5*time.Second, "the viewer calls it recorded", func() bool {
		var st struct{ State string }
		return lastStats(stats, &st) == nil && st.State == "recorded"
	})
	time.Sleep(time.Second)
	var st struct{ State string }
	if err := lastStats(stats, &st); err != nil || st.State != "recorded" {
		t.Errorf("a replay of yesterday is called %q, %v", st.State, err)
	}
	// What is live takes over.
	live.air(clipMPG2.path(t))
	first.ends(1, 5*time.Second)
	first.says("superseded")
	had := v.out.len()
	v.writes(had+1, patience)
	time.Sleep(700 * time.Millisecond)
	if err := lastStats(stats, &st); err != nil || st.State != "playing" {
		t.Errorf("the live stream is called %q, %v", st.State, err)
	}
	// A replay that comes later is not shown.
	second := replay(t, h[1], file)
	live.ingest.ends(0, time.Minute)
	v.ends(0, patience)
	if second.running() {
		second.signal(2)
	}
	t.Logf("the second replay ended with %d and said: %s", second.wait(10*time.Second), tail(strings.TrimSpace(second.words.String()), 300))
	pieces := append(old, live.truth.all(t)...)
	p, err := match(pieces, v.out.bytes(), false)
	if err != nil {
		t.Fatal(err)
	}
	if r := v.report(); p.preambles != 2 || r.Runs != 2 || p.last < lastFull(pieces) {
		t.Errorf("%+v in %d runs: the viewer was shown something else than yesterday's beginning and all that was live", p, r.Runs)
	}
	// The states never went back.
	b, _ := os.ReadFile(stats)
	seen := ""
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		var st struct{ State string }
		json.Unmarshal([]byte(line), &st)
		if st.State == "recorded" && strings.HasSuffix(seen, "playing ") {
			t.Error("after the live stream the viewer said recorded again")
		}
		if !strings.HasSuffix(seen, st.State+" ") {
			seen += st.State + " "
		}
	}
	t.Log("states: " + seen)
}
