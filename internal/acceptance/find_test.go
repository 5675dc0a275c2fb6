//go:build linux

package acceptance

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

// named is a viewer who knows a name, or whatever else is given as the channel.
func (s *station) named(h *testnet.Host, env []string, args ...string) *viewer {
	s.t.Helper()
	report := filepath.Join(s.t.TempDir(), "report.json")
	p := run(s.t, h, streams{env: env}, append([]string{"watch", "--once", "--timeout", "20s", "--report", report}, args...)...)
	return &viewer{process: p, reportFile: report}
}

// starts lets viewers come one after the other and go again, and returns how long each took to its first byte.
func starts(t *testing.T, n int, watch func() *viewer) (took []time.Duration) {
	t.Helper()
	for range n {
		v := watch()
		v.writes(1, patience)
		took = append(took, v.out.first().Sub(v.born))
		time.Sleep(200 * time.Millisecond)
		v.stop()
	}
	t.Logf("start of watch to the first byte: median %v of %v", quantile(took, 0.5).Round(time.Millisecond), took)
	return took
}

// within fails if the median is above what a machine with much else to do may take; alone it is 0.7 s.
func within(t *testing.T, took []time.Duration) {
	t.Helper()
	if m := quantile(took, 0.5); m > 2*time.Second {
		t.Errorf("the median of %d starts is %v", len(took), m)
	}
}

// home are the variables of somebody's own memory.
func home(t *testing.T) []string {
	d := t.TempDir()
	return []string{"XDG_CACHE_HOME=" + d, "XDG_STATE_HOME=" + d}
}

// A tracker, a source and viewers, of which each knows the tracker, and the viewers a name.
func TestByName(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	h := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(3, netem.Params{}, netem.Params{Delay: 10 * time.Millisecond})}).Hosts()
	at := fmt.Sprintf("[%v]:6969", h[1].Addr())
	tr := run(t, h[1], streams{}, "tracker")
	tr.says("listening on")
	src := s.source(h[0], "--tracker", at)
	src.air(clipH264.path(t), "--loop")
	tr.prints(`"channel-added".*"name":"ch1"`)
	within(t, starts(t, 5, func() *viewer { return s.named(h[2], nil, "--tracker", at, "ch1") }))
	list := run(t, h[2], streams{}, "watch", "--list", "--tracker", at)
	list.ends(0, patience)
	if out := list.out.String(); !strings.Contains(out, "ch1") {
		t.Errorf("the list is %q", out)
	}
	none := s.named(h[2], nil, "--tracker", at, "--timeout", "1s", "ch2")
	none.ends(3, patience)
	none.says("ch2: no channel of that name was found")
}

// On one network nothing has to be known or configured.
func TestOnOneNetwork(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	h := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(3, netem.Params{}, netem.Params{Delay: time.Millisecond})}).Hosts()
	src := s.source(h[0], "--no-lan=false")
	src.air(clipH264.path(t), "--loop")
	time.Sleep(time.Second)
	within(t, starts(t, 5, func() *viewer { return s.named(h[2], nil, "--no-lan=false", "ch1") }))
	list := run(t, h[1], streams{}, "watch", "--list", "--no-lan=false")
	list.ends(0, patience)
	if out := list.out.String(); !strings.Contains(out, "ch1") {
		t.Errorf("the list is %q", out)
	}
}

// The multicast group that somebody on this network sends to is used by itself.
func TestGroupIsUsedByItself(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	h := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(2, netem.Params{}, netem.Params{Delay: time.Millisecond})}).Hosts()
	src := s.source(h[0], "--no-lan=false", "--multicast", testnet.Interface)
	src.air(clip1M.path(t), "--loop")
	time.Sleep(time.Second)
	v := s.named(h[1], nil, "--no-lan=false", "ch1")
	v.says("listening to it")
	v.says("blocks come from the multicast group")
	src.ingest.signal(2)
	v.ends(0, patience)
	exactFrom(t, v, src)
}

// Three trackers of one operator. What is published at one is known to all; two are killed, and newcomers still come in; all are killed,
// and who watches loses nothing, while newcomers come in by what they remember, by this network, by a URI that has a peer, and by the DHT.
func TestAllTrackersGone(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	h := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(6, netem.Params{}, netem.Params{Delay: 10 * time.Millisecond})}).Hosts()
	at := func(i int) string { return fmt.Sprintf("[%v]:6969", h[i].Addr()) }
	cluster := func(i int) string { return fmt.Sprintf("[%v]:7946", h[i].Addr()) }
	trackers := []*process{
		run(t, h[1], streams{}, "tracker", "--cluster", cluster(1)),
		run(t, h[2], streams{}, "tracker", "--cluster", cluster(2), "--join", cluster(1)),
		run(t, h[3], streams{}, "tracker", "--cluster", cluster(3), "--join", cluster(1)),
	}
	for i, p := range trackers {
		p.says("listening on")
		if i > 0 {
			p.prints("member-joined")
		}
	}
	src := s.source(h[0], "--no-lan=false", "--tracker", at(1), "--dht-bootstrap", "none", "--dht-listen", "[::]:6881")
	src.air(clipH264.path(t), "--loop")
	const added = `"channel-added".*"name":"ch1"`
	published := trackers[0].prints(added)
	for i, p := range trackers[1:] {
		d := p.prints(added).Sub(published)
		t.Logf("tracker %d knows the channel %v after the first", i+2, d.Round(time.Millisecond))
		if d > 2*time.Second {
			t.Errorf("tracker %d knows it after %v only", i+2, d)
		}
	}
	all := []string{"--tracker", at(1), "--tracker", at(2), "--tracker", at(3)}
	me := home(t)
	table := []string{"--dht-bootstrap", fmt.Sprintf("[%v]:6881", h[0].Addr())}
	stays := s.named(h[4], nil, slices.Concat(all, table, []string{"ch1"})...)
	stays.writes(500*packet, patience)
	before := s.named(h[5], me, append(all, "--no-history=false", "ch1")...)
	before.writes(500*packet, patience)
	before.stop()
	stays2 := s.named(h[5], nil, slices.Concat(all, table, []string{"ch1"})...) // for the two that live on to be told of somebody
	stays2.writes(500*packet, patience)
	trackers[0].kill()
	trackers[1].kill()
	within(t, starts(t, 3, func() *viewer { return s.named(h[5], nil, append(all, "ch1")...) }))
	trackers[2].kill()
	time.Sleep(2 * time.Second)
	for _, way := range []struct {
		name string
		env  []string
		args []string
	}{
		{"memory", me, append(all, "--no-history=false", "ch1")},
		{"this network", nil, append(all, "--no-lan=false", "ch1")},
		{"a URI with a peer", nil, []string{s.uri + "&peer=" + peer(h[0])}},
		{"the DHT", nil, slices.Concat(all, table, []string{s.uri})},
	} {
		v := s.named(h[5], way.env, way.args...)
		v.writes(1, patience)
		t.Logf("by %s: %v", way.name, v.out.first().Sub(v.born).Round(time.Millisecond))
		v.stop()
	}
	src.ingest.signal(2)
	for _, v := range []*viewer{stays, stays2} {
		v.ends(0, patience)
		exactFrom(t, v, src)
	}
}
