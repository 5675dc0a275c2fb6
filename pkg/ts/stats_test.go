package ts

import (
	"encoding/json"
	"testing"
	"time"
)

func TestMeter(t *testing.T) {
	start := time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)
	file := clip{start: 1000, pictures: 100, offsets: []uint64{0, 500_000}, nulls: 2}.make()
	m := NewMeter(start)
	for b := range chunks(file, 7*PacketSize) {
		m.Observe(b)
	}
	// The file lasts 4 s and was read in 2.
	s := m.Snapshot(start.Add(2 * time.Second))
	if s.PCRPID != clipPID(0, false) || s.Packets != uint64(len(file)/PacketSize) || s.Errors != 0 || s.PCRJumps != 0 {
		t.Errorf("%+v", s)
	}
	if want := BitRate(len(file) * 8 / 2); s.BitRate != want {
		t.Errorf("bit rate %v, want %v", s.BitRate, want)
	}
	if want := BitRate(len(file) * 8 / 4); s.StreamBitRate < want*99/100 || s.StreamBitRate > want*101/100 {
		t.Errorf("bit rate by the stream's clock %v, want %v", s.StreamBitRate, want)
	}
	near(t, "stream time", s.StreamTime, 99*40*time.Millisecond)
	if len(s.PIDs) != 5 {
		t.Fatalf("%d PIDs", len(s.PIDs))
	}
	video := s.PIDs[0]
	if video.PID != clipPID(0, false) || video.Packets != 400 || video.BitRate != 400*PacketSize*8/2 {
		t.Errorf("%+v", video)
	}
	if s.PIDs[4].PID != PIDNull {
		t.Error("not in ascending order")
	}

	// Idle: zeros, the counters stand.
	s = m.Snapshot(start.Add(3 * time.Second))
	if s.BitRate != 0 || s.StreamBitRate != 0 || s.Packets == 0 || s.PIDs[0].BitRate != 0 || s.Interval != time.Second {
		t.Errorf("idle: %+v", s)
	}

	// One object, flat.
	js, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var o struct {
		Interval int64 `json:"interval_ns"`
		Errors   *int  `json:"continuity_errors"`
		PIDs     []struct {
			PID     int
			Packets int `json:"packets"`
		} `json:"pids"`
	}
	if err := json.Unmarshal(js, &o); err != nil || o.Errors == nil || o.Interval != 1e9 || o.PIDs[0].PID != 0x100 || o.PIDs[0].Packets != 400 {
		t.Errorf("%v: %s", err, js)
	}
}

func TestMeterChoosesItsClock(t *testing.T) {
	two := clip{start: 1000, pictures: 20, offsets: []uint64{0, 500_000}}.make()
	one := clip{start: 1000, pictures: 200, offsets: []uint64{0}}.make()
	for i := 0; i < len(one); i += PacketSize {
		one[i+2] += 0x10 // the second programme's PIDs
	}
	m := NewMeter(time.Time{})
	if s := m.Snapshot(time.Time{}); s.PCRPID != PIDNull || s.BitRate != 0 || s.PIDs == nil {
		t.Errorf("before anything came: %+v", s)
	}
	m.Observe(two)
	if s := m.Snapshot(time.Time{}); s.PCRPID != clipPID(0, false) {
		t.Errorf("follows %#x", s.PCRPID)
	}
	m.Observe(one)
	if s := m.Snapshot(time.Time{}); s.PCRPID != clipPID(1, false) {
		t.Errorf("follows %#x although that has ended", s.PCRPID)
	}
	m.Follow(clipPID(0, false))
	m.Observe(one)
	if s := m.Snapshot(time.Time{}); s.PCRPID != clipPID(0, false) || s.StreamBitRate != 0 {
		t.Errorf("follows %#x although another was chosen", s.PCRPID)
	}
	m.Observe(two)
	if s := m.Snapshot(time.Time{}); s.StreamBitRate == 0 {
		t.Error("no rate from the clock that was chosen")
	}
}

func TestMeterDoesNotAllocate(t *testing.T) {
	file := clip{start: 1000, pictures: 100, offsets: []uint64{0}}.make()
	m := NewMeter(time.Time{})
	if n := testing.AllocsPerRun(10, func() { m.Observe(file) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkMeter(b *testing.B) {
	in := mixed(960)
	m := NewMeter(time.Time{})
	b.ReportAllocs()
	for b.Loop() {
		m.Observe(in)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/960, "ns/packet")
}
