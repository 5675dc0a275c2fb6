//go:build linux

package acceptance

import (
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

// relay --upload 5M never sends more than 5 Mbit/s, headers and all, in any second: two viewers of a stream of 1.5 Mbit/s are
// served without a gap, and a third is told that there is no room.
func TestUploadCap(t *testing.T) {
	s := newStation(t)
	h := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(5, netem.Params{}, netem.Params{Delay: 10 * time.Millisecond})}).Hosts()
	src := s.source(h[0])
	s.join(h[1], h[0], "--upload", "5M")
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
	third.says("no room")
	src.ingest.ends(0, time.Minute)
	a.ends(0, patience)
	b.ends(0, patience)
	if n := third.out.len(); n > 0 {
		t.Errorf("the viewer without room got %d bytes", n)
	}
	close(stop)
	<-stopped
	exactFrom(t, a, src)
	exactFrom(t, b, src)
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
