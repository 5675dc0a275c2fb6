package ts

import (
	"bytes"
	"slices"
	"testing"
	"time"
)

// A clip is a file made for these tests: per programme a picture every 40 ms in a
// PES packet with PCR, PTS and DTS, and sound every 96 ms in one with PTS.
type clip struct {
	start    uint64 // first PCR, ticks of 90 kHz
	pictures int
	offsets  []uint64 // one programme each: what its clock is ahead of start
	nulls    int      // null packets behind each picture
}

const (
	pictureTime = 40 * TimestampHz / 1000
	soundTime   = 96 * TimestampHz / 1000
	decodeDelay = TimestampHz / 2
)

func clipPID(programme int, sound bool) PID {
	pid := PID(0x100 + 0x10*programme)
	if sound {
		pid++
	}
	return pid
}

func (c clip) make() []byte {
	var b []byte
	cc := map[PID]byte{}
	for i := range c.pictures {
		now := uint64(i) * pictureTime
		for prog, ahead := range c.offsets {
			at := c.start + ahead + now
			dts := at + decodeDelay
			pts := dts + pictureTime*[...]uint64{1, 3, 0, 0}[i%4] // I P b b, as it were
			b = append(b, pesPacket(clipPID(prog, false), &cc, 0xe0, &at, pts, &dts)...)
			for range 3 {
				b = append(b, pesPacket(clipPID(prog, false), &cc, 0, nil, 0, nil)...)
			}
			if n := now / soundTime; n*soundTime+pictureTime > now {
				b = append(b, pesPacket(clipPID(prog, true), &cc, 0xc0, nil, c.start+ahead+n*soundTime+decodeDelay, nil)...)
			}
		}
		for range c.nulls {
			b = append(b, ccPacket("pn", 0, 0xff)...)
		}
	}
	return b
}

// pesPacket makes a packet in which a PES packet begins, or goes on if id is 0.
func pesPacket(pid PID, cc *map[PID]byte, id byte, pcr *uint64, pts uint64, dts *uint64) []byte {
	p := make([]byte, PacketSize)
	p[0], p[1], p[2], p[3] = SyncByte, byte(pid>>8), byte(pid), 0x10|(*cc)[pid]&15
	(*cc)[pid]++
	b := p[4:]
	if pcr != nil {
		p[3] |= 0x20
		p[4], p[5] = 13, 0x18 // PCR and OPCR
		v := *pcr & timestampMask
		for _, f := range [][]byte{p[6:12], p[12:18]} {
			f[0], f[1], f[2], f[3] = byte(v>>25), byte(v>>17), byte(v>>9), byte(v>>1)
			f[4], f[5] = byte(v<<7)|0x7e|1, 0x2b // extension 256 + 43
		}
		b = p[18:]
	}
	if id == 0 {
		return p
	}
	p[1] |= 0x40
	copy(b, []byte{0, 0, 1, id, 0, 0, 0x80, 0x80, 5})
	copy(b[9:], []byte{0x21, 0, 1, 0, 1})
	putTimestamp(b[9:14], pts)
	if dts != nil {
		b[7], b[8], b[9] = 0xc0, 10, b[9]|0x10
		copy(b[14:], []byte{0x11, 0, 1, 0, 1})
		putTimestamp(b[14:19], *dts)
	}
	return p
}

// times collects per PID, unwrapped against the first, PCRs (in 27 MHz) and decoding times (in 90 kHz).
type times struct{ pcr, dts map[PID][]int64 }

func readTimes(packets []byte) times {
	t := times{map[PID][]int64{}, map[PID][]int64{}}
	first := map[PID]uint64{}
	firstDTS := map[PID]uint64{}
	for b := range chunks(packets, PacketSize) {
		p := Packet(b)
		pid := p.PID()
		if pcr, ok := p.PCR(); ok {
			if _, seen := first[pid]; !seen {
				first[pid] = pcr
			}
			t.pcr[pid] = append(t.pcr[pid], ticksBetween(first[pid], pcr))
		}
		if !p.PayloadStart() {
			continue
		}
		pts, dts := pesTimestamps(p.Payload())
		if dts == nil {
			dts = pts
		}
		if dts != nil {
			v := timestamp(dts)
			if _, seen := firstDTS[pid]; !seen {
				firstDTS[pid] = v
			}
			t.dts[pid] = append(t.dts[pid], timestampsBetween(firstDTS[pid], v))
		}
	}
	return t
}

// steps lists the different distances between neighbours, in ascending order.
func steps(v []int64) []int64 {
	var d []int64
	for i := 1; i < len(v); i++ {
		d = append(d, v[i]-v[i-1])
	}
	slices.Sort(d)
	return slices.Compact(d)
}

// looped plays file n times, in batches of 7 packets.
func looped(file []byte, n int) ([]byte, *Loop) {
	l := NewLoop()
	var out []byte
	for range n {
		pass := bytes.Clone(file)
		for b := range chunks(pass, 7*PacketSize) {
			l.Rewrite(b)
		}
		out = append(out, pass...)
		l.Rewind()
	}
	return out, l
}

func TestLoopIsOneStream(t *testing.T) {
	for _, c := range []struct {
		name string
		clip clip
	}{
		{"of varying rate", clip{start: 1000, pictures: 48, offsets: []uint64{0}}},
		{"of constant rate", clip{start: 1000, pictures: 48, offsets: []uint64{0}, nulls: 20}},
		{"two programmes", clip{start: 1000, pictures: 48, offsets: []uint64{0, 12345678}}},
		{"the clock wraps in the first pass", clip{start: timestampMask - TimestampHz, pictures: 48, offsets: []uint64{0}}},
		{"the clock wraps at the seam", clip{start: timestampMask + 1 - 48*pictureTime, pictures: 48, offsets: []uint64{0}}},
		{"the clock wraps in the second pass", clip{start: timestampMask - 3*TimestampHz, pictures: 48, offsets: []uint64{0, 77}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := c.clip.make()
			out, l := looped(file, 3)
			if !bytes.Equal(out[:len(file)], file) {
				t.Error("the first pass was changed")
			}
			duration := 48 * 40 * time.Millisecond
			near(t, "step", l.Step(), duration)
			k := NewContinuity()
			k.Observe(out)
			if n := k.Total(); n.Errors+n.Duplicates+n.Discontinuities != 0 {
				t.Errorf("%+v", n)
			}
			got := readTimes(out)
			for prog := range c.clip.offsets {
				video, sound := clipPID(prog, false), clipPID(prog, true)
				if s := steps(got.pcr[video]); len(s) != 1 || s[0] != pictureTime*ticksPerTimestamp {
					t.Errorf("PCRs are %v apart", s)
				}
				if s := steps(got.dts[video]); len(s) != 1 || s[0] != pictureTime {
					t.Errorf("pictures are %v apart", s)
				}
				if s := steps(got.dts[sound]); len(s) != 1 || s[0] != soundTime {
					t.Errorf("sound is %v apart", s)
				}
			}
			m := NewMeter(time.Time{})
			m.Observe(out)
			if m.Clock().Jumps() != 0 {
				t.Errorf("%d jumps", m.Clock().Jumps())
			}
			// OPCR moves with PCR, and the extension stays.
			for b := range chunks(out, PacketSize) {
				if b[3]&0x20 != 0 && (!bytes.Equal(b[6:12], b[12:18]) || b[11] != 0x2b || b[10]&0x7f != 0x7f) {
					t.Fatalf("PCR % x, OPCR % x", b[6:12], b[12:18])
				}
			}
		})
	}
}

func TestLoopWithoutClock(t *testing.T) {
	// Sound alone, no PCR.
	var file []byte
	cc := map[PID]byte{}
	for i := range uint64(10) {
		file = append(file, pesPacket(0x44, &cc, 0xc0, nil, 900+i*soundTime, nil)...)
	}
	out, l := looped(file, 3)
	near(t, "step", l.Step(), 960*time.Millisecond)
	if s := steps(readTimes(out).dts[0x44]); len(s) != 1 || s[0] != soundTime {
		t.Errorf("sound is %v apart", s)
	}
	// Neither.
	out, l = looped(ccPacket("p", 3, 0), 40)
	k := NewContinuity()
	k.Observe(out)
	if n := k.Total(); n.Errors+n.Duplicates != 0 || l.Step() != 0 {
		t.Errorf("%+v, step %v", n, l.Step())
	}
	// Nothing.
	l = NewLoop()
	l.Rewind()
	if l.Step() != 0 {
		t.Errorf("step %v of an empty file", l.Step())
	}
}

func TestLoopDropsADiscontinuityAtTheSeamOnly(t *testing.T) {
	file := slices.Concat(ccPacket("pd", 3, 0), ccPacket("p", 4, 0), ccPacket("pd", 9, 0), ccPacket("p", 10, 0))
	out, _ := looped(file, 2)
	k := NewContinuity()
	k.Observe(out)
	if n := k.Total(); n.Errors != 0 || n.Discontinuities != 3 {
		t.Errorf("%+v", n)
	}
}

func TestLoopLeavesWhatItCannotRead(t *testing.T) {
	file := clip{start: 1000, pictures: 12, offsets: []uint64{0}}.make()
	null, damaged := ccPacket("pn", 5, 9), ccPacket("pt", 5, 9)
	scrambled := bytes.Clone(file[:PacketSize])
	scrambled[3] |= 0x80
	scrambled[2] = 0x77
	file = slices.Concat(file, null, damaged, scrambled)
	out, _ := looped(file, 2)
	tail := out[len(out)-3*PacketSize:]
	if !bytes.Equal(tail[:2*PacketSize], append(null, damaged...)) {
		t.Error("a null packet or one with a transport error was changed")
	}
	s := tail[2*PacketSize:]
	if !bytes.Equal(s[18:], scrambled[18:]) || bytes.Equal(s[6:12], scrambled[6:12]) {
		t.Error("of a scrambled packet the clock is to be moved, the payload not")
	}
}

func TestLoopDoesNotAllocate(t *testing.T) {
	file := clip{start: 1000, pictures: 48, offsets: []uint64{0, 5}}.make()
	l := NewLoop()
	if n := testing.AllocsPerRun(10, func() { l.Rewrite(file); l.Rewind() }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestTimestamps(t *testing.T) {
	for _, c := range []struct {
		hex  [5]byte
		want uint64
	}{
		{[5]byte{0x21, 0x00, 0x01, 0x00, 0x01}, 0},
		{[5]byte{0x2f, 0xff, 0xff, 0xff, 0xff}, timestampMask},
		{[5]byte{0x31, 0x00, 0x07, 0xd8, 0x61}, 126_000}, // 1.4 s
		{[5]byte{0x19, 0x00, 0x01, 0x00, 0x01}, 1 << 32},
	} {
		if got := timestamp(c.hex[:]); got != c.want {
			t.Errorf("% x: %d, want %d", c.hex, got, c.want)
		}
		b := c.hex
		putTimestamp(b[:], 0x155555555)
		putTimestamp(b[:], c.want+1<<33)
		if b != c.hex {
			t.Errorf("% x written back as % x", c.hex, b)
		}
	}
}

func FuzzLoop(f *testing.F) {
	f.Add(clip{start: 1000, pictures: 5, offsets: []uint64{0, 5}}.make())
	f.Add(ccPacket("pdr", 1, 0xff))
	f.Add(ccPacket("a", 1, 0xff))
	f.Fuzz(func(t *testing.T, file []byte) {
		out, _ := looped(file, 3)
		if !bytes.Equal(out[:len(file)], file) {
			t.Fatal("the first pass was changed")
		}
		second := out[len(file):]
		for i := 0; i+PacketSize <= len(file); i += PacketSize {
			p, q := Packet(file[i:i+PacketSize]), Packet(second[i:i+PacketSize])
			if p.PID() != q.PID() || p[0] != q[0] || p[1] != q[1] || (p[3]^q[3])&0xf0 != 0 {
				t.Fatal("a header was changed")
			}
		}
	})
}

func BenchmarkLoop(b *testing.B) {
	file := clip{start: 1000, pictures: 200, offsets: []uint64{0}}.make()
	l := NewLoop()
	b.SetBytes(int64(len(file)))
	b.ReportAllocs()
	for b.Loop() {
		l.Rewrite(file)
		l.Rewind()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(file)/PacketSize), "ns/packet")
}
