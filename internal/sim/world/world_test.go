package world

import (
	"testing"
	"time"
)

func run(t *testing.T, o Options, threads int) *Result {
	t.Helper()
	w, err := New(o, threads, Debug{})
	if err != nil {
		t.Fatal(err)
	}
	r := w.Run(Debug{})
	if r.Wrong != 0 {
		t.Errorf("%d blocks were handed over that the source did not make", r.Wrong)
	}
	return r
}

// The same options give the same run, whatever the number of threads, and another seed another one.
func TestRepeatable(t *testing.T) {
	o := Options{Seed: 1, Viewers: 30, Ramp: 2 * time.Second, Settle: time.Second, Hold: 3 * time.Second, Told: true, Loss: 0.02, Churn: 2, Cross: 0.3, Polluters: 0.1}
	one := run(t, o, 1)
	for range 2 {
		if two := run(t, o, 2); two.Hash != one.Hash {
			t.Errorf("hash %s with two threads, %s with one", two.Hash, one.Hash)
		}
	}
	t.Logf("in time %.4f, delay %.3f %.3f, source %.2f, beyond %.3f, network %v", one.InTime, one.DelayP50, one.DelayP99, one.Source, one.Beyond, one.Network)
	o.Seed = 2
	if other := run(t, o, 2); other.Hash == one.Hash {
		t.Error("another seed gives the same run")
	}
}
