//go:build linux

package acceptance

import (
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

// relay --upload 5M never sends more than 5 Mbit/s, headers and all, in any second. Two viewers of a stream of 1.5 Mbit/s are served
// without a gap; a third is told that there is no room where nobody names others to it, and otherwise finds them and has every byte too.
func TestUploadCap(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		room bool
	}{{"no peers are exchanged", []string{"--no-pex"}, false}, {"peers are exchanged", nil, true}} {
		t.Run(c.name, func(t *testing.T) { uploadCap(t, c.args, c.room) })
	}
}

func uploadCap(t *testing.T, args []string, room bool) {
	s := newStation(t)
	h := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(5, netem.Params{}, netem.Params{Delay: 10 * time.Millisecond})}).Hosts()
	src := s.source(h[0])
	s.join(h[1], h[0], append([]string{"--upload", "5M"}, args...)...)
	src.air(clipGOP2.path(t))

	// Samples of what the relay's link carried.
	type sample struct {
		at    time.Time
		bytes uint64
	}
	var samples []sample
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
			}
			sent := h[1].Traffic().Sent
			samples = append(samples, sample{time.Now(), sent.Unicast.Bytes + sent.Multicast.Bytes + sent.Control.Bytes})
		}
	}()
	time.Sleep(3 * time.Second) // there is a backlog to send to those who come
	a := s.watch(h[2], h[1])
	a.writes(1, patience)
	b := s.watch(h[3], h[1])
	b.writes(1, patience)
	time.Sleep(500 * time.Millisecond)
	third := s.watch(h[4], h[1])
	if room {
		third.writes(1, patience)
	} else {
		third.says("no room")
	}
	src.ingest.ends(0, time.Minute)
	a.ends(0, patience)
	b.ends(0, patience)
	if n := third.out.len(); n > 0 && !room {
		t.Errorf("the viewer without room got %d bytes", n)
	}
	close(stop)
	<-stopped
	// Where everybody may have a share, three who come at once to a relay that has room for two and a half may miss a block
	// or two while they catch up; never later.
	whole := exactFrom
	if room {
		whole = exactOnceIn
	}
	whole(t, a, src)
	whole(t, b, src)
	if room {
		third.ends(0, patience)
		whole(t, third, src)
		r := third.report()
		t.Logf("the third viewer: first byte after %.0f ms; delay p50 %.0f ms, p99 %.0f ms", *r.Startup, r.Delay.P50, r.Delay.P99)
	}
	most, first := 0.0, 0
	for i := range samples {
		for samples[i].at.Sub(samples[first].at) > time.Second {
			first++
		}
		if d := samples[i].at.Sub(samples[first].at).Seconds(); d > 0.95 {
			most = max(most, float64(samples[i].bytes-samples[first].bytes)*8/d)
		}
	}
	t.Logf("the busiest second carried %.2f Mbit/s", most/1e6)
	if most > 5.25e6 {
		t.Errorf("a second carried %.2f Mbit/s, want at most 5 (5.25 with the error of measurement)", most/1e6)
	}
	if most < 2e6 {
		t.Errorf("the busiest second carried %.2f Mbit/s only: this measured nothing", most/1e6)
	}
}

// exactOnceIn is exactFrom, but for the first blocks.
func exactOnceIn(t testing.TB, v *viewer, src *source) {
	t.Helper()
	pieces := src.truth.all(t)
	p, err := match(pieces, v.out.bytes(), false)
	if err != nil || p.last < lastFull(pieces) || len(p.missing) > 0 && (len(p.missing) > 4 || p.missing[len(p.missing)-1] > p.first+10) {
		t.Errorf("%s: %+v of %d, %v", v.name, p, len(pieces), err)
	}
}
