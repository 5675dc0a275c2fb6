//go:build linux

package main

import (
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/ts"
)

// The stream that everything is measured with is one: tables, a clock that runs at its rate, a random access point a second.
func TestStream(t *testing.T) {
	const seconds = 5
	packets := newSynth(streamRate).append(nil, int(streamRate)/8*seconds/ts.PacketSize)
	w, m := ts.NewWalker(), ts.NewMeter(time.Now())
	m.Follow(videoPID)
	m.Observe(packets)
	raps := 0
	for p := packets; len(p) > 0; p = p[ts.PacketSize:] {
		if w.Walk(ts.Packet(p[:ts.PacketSize]))&ts.NoteConfirmed != 0 {
			raps++
		}
	}
	if n := m.Continuity().Total().Errors; n != 0 {
		t.Errorf("%d continuity errors", n)
	}
	if raps != seconds {
		t.Errorf("%d random access points in %d s", raps, seconds)
	}
	if r := m.Clock().Rate(); r < streamRate*99/100 || r > streamRate*101/100 {
		t.Errorf("its clock says %v", r)
	}
	if pid, ok := w.PCRPID(); !ok || pid != videoPID {
		t.Errorf("PCR on %v, %v", pid, ok)
	}
}

func TestCollectorCountsWhatIsMissing(t *testing.T) {
	b := &bench{ctx: t.Context()}
	f := b.feed(streamRate, 0)
	f.ended.Wait()
	c := newCollector()
	c.window(f, 100, 400)
	packets := newSynth(streamRate).append(nil, 500)
	c.Write(packets)
	if v := c.verdict(); v.errors != 0 || v.lost != 0 {
		t.Errorf("of a whole stream: %+v", v)
	}
	c.window(f, 100, 400)
	c.Write(packets[:150*ts.PacketSize])
	c.Write(packets[157*ts.PacketSize:])
	if v := c.verdict(); v.errors != 1 || v.lost != 7 {
		t.Errorf("7 packets are missing: %+v", v)
	}
}

func TestSpread(t *testing.T) {
	if got := spread("%.0f", []float64{3, 1, 2}); got != "2 [1 3]" {
		t.Error(got)
	}
	if got := spread("%.0f", []float64{2, 2}); got != "2" {
		t.Error(got)
	}
}
