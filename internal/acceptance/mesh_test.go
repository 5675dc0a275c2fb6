//go:build linux

package acceptance

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/swarm"
)

// A small mesh under everything at once: uplinks of homes with a mean of 2×, a source with 2×, links that lose 2 %, a viewer in six
// whose shards are garbage, two that are killed and two that come. The whole scenario, with 50 viewers and one evil at a
// time, is in the benchmark (scripts/bench mesh).
func TestMesh(t *testing.T) {
	const viewers = 12
	c := swarm.Config{Bin: filepath.Dir(command(t, "watch")), Viewers: viewers, Spare: 2, Seed: 1, Loss: 0.02, Told: true}
	s, err := swarm.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx := t.Context()
	hostile := map[int]swarm.Hostility{}
	if err := s.Fill(ctx, 2*time.Second, hostile); err != nil {
		t.Fatal(err)
	}
	sleep := func(d time.Duration) {
		if err := swarm.Sleep(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	sleep(20 * time.Second) // until the first trees stand
	w := s.Begin()
	for _, victim := range []int{0, 6} {
		sleep(3 * time.Second)
		s.Kill(s.Viewers[victim])
		if _, err := s.Join(swarm.Honest); err != nil {
			t.Fatal(err)
		}
	}
	sleep(6 * time.Second)
	w.End()
	if err := w.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Err(); err != nil {
		t.Error(err)
	}
	r := w.InTime()
	sent, kinds := w.SourceSends()
	t.Logf("in time %v; worst %v; seconds below 99 %%: %v", r, r.Worst, r.Dips)
	t.Logf("the source sends %.2f × (%s); received beyond the stream %v; %v", sent, kinds, w.Beyond(), w.Load)
	for _, wrong := range r.Wrong {
		t.Errorf("wrong bytes: %s", wrong)
	}
	// The benchmark wants 99.95 % and 1.7 ×. This machine may be busy with other tests.
	if r.Share() < 0.99 {
		t.Errorf("%.2f %% of the blocks came in time, want 99 %%", 100*r.Share())
	}
	if sent > 2.05 {
		t.Errorf("the source sent %.2f × the stream, its uplink has 2", sent)
	}
	if took, none := swarm.Startups(s.Viewers[viewers:]); none > 0 || took[len(took)-1] > 3*time.Second {
		t.Errorf("those who came late saw a picture after %v, %d never", took, none)
	}
	if t.Failed() {
		for _, line := range w.Each() {
			t.Log(line)
		}
	}
}
