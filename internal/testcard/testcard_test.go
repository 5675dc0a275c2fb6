package testcard

import (
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/ts"
)

// The stream that everything is measured with is one: tables, a clock that runs at its rate, a random access point every two seconds.
func TestStream(t *testing.T) {
	const seconds = 8
	const rate ts.BitRate = 8_000_000
	packets := New(rate, 2*time.Second).Append(nil, int(rate)/8*seconds/ts.PacketSize)
	w, m := ts.NewWalker(), ts.NewMeter(time.Now())
	m.Follow(VideoPID)
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
	if raps != seconds/2 {
		t.Errorf("%d random access points in %d s", raps, seconds)
	}
	if r := m.Clock().Rate(); r < rate*99/100 || r > rate*101/100 {
		t.Errorf("its clock says %v", r)
	}
	if pid, ok := w.PCRPID(); !ok || pid != VideoPID {
		t.Errorf("PCR on %v, %v", pid, ok)
	}
}
