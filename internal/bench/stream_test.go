//go:build linux

package main

import (
	"testing"

	"github.com/sixcast/sixcast/internal/testcard"
	"github.com/sixcast/sixcast/pkg/ts"
)

func TestCollectorCountsWhatIsMissing(t *testing.T) {
	b := &bench{ctx: t.Context()}
	f := b.feed(streamRate, 0)
	f.ended.Wait()
	c := newCollector()
	c.window(f, 100, 400)
	packets := testcard.New(streamRate, streamEvery).Append(nil, 500)
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
