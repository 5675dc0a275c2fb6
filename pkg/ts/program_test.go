package ts

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// filter runs packets through f one datagram at a time.
func filter(t *testing.T, f *ProgramFilter, packets []byte) []byte {
	t.Helper()
	var out []byte
	packets = slices.Clone(packets)
	for len(packets) > 0 {
		n := min(7*PacketSize, len(packets))
		got, err := f.Filter(packets[:n])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, got...)
		packets = packets[n:]
	}
	return out
}

func pidsOf(packets []byte) (pids []PID) {
	for ; len(packets) >= PacketSize; packets = packets[PacketSize:] {
		pids = append(pids, Packet(packets[:PacketSize]).PID())
	}
	return pids
}

// multiplex is two programmes, a CAT, SI and null packets.
func multiplex(m *mux) {
	m.table(PIDPAT, pat(5, patEntry{0, 0x10}, patEntry{1, 0x100}, patEntry{2, 0x200}))
	m.table(PIDCAT, section(tableCAT, 0xffff, 0, 0x09, 4, 0x06, 0x04, 0xe5, 0x01, 0x09, 5, 0x0b, 0, 0xe5, 0x02, 9))
	ca := []byte{0x09, 4, 0x06, 0x04, 0xe5, 0x03}
	m.table(0x100, pmt(1, 0, 0x101, es{0x1b, 0x101, nil}, es{0x0f, 0x102, nil}))
	m.table(0x200, pmt(2, 0, 0x20f, es{0x1b, 0x201, ca}, es{0x0f, 0x202, nil},
		es{0x06, 0x203, []byte{0x56, 5, 'i', 't', 'a', 0x09, 0}},
		es{0x06, 0x204, []byte{0x59, 8, 'e', 'n', 'g', 0x10, 0, 1, 0, 1}},
		es{0x86, 0x205, nil}, es{0x0b, 0x206, nil}, es{0x05, 0x207, nil}, es{0x06, 0x208, nil}))
}

func TestOneProgrammeOfMany(t *testing.T) {
	m := newMux()
	m.pes(0x201, 0, h264IDR, 184) // before the tables
	multiplex(m)
	for _, pid := range []PID{0x101, 0x102, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x20f,
		0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x501, 0x502, 0x503, 0x504, 0x1fff} {
		m.packet(pid, false, 0, make([]byte, 184))
	}
	multiplex(m)
	out := filter(t, NewProgramFilter(2), m.out)
	want := []PID{PIDPAT, 0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x208, 0x20f,
		0x10, 0x11, 0x12, 0x13, 0x14, 0x501, 0x502, 0x503, PIDPAT, PIDCAT, 0x200}
	if got := pidsOf(out); !slices.Equal(got, want) {
		t.Errorf("passed %x\n  want %x", got, want)
	}
	for i, pid := range pidsOf(out) {
		p := Packet(out[i*PacketSize : (i+1)*PacketSize])
		if pid != PIDPAT && !bytes.Contains(m.out, p) {
			t.Errorf("a packet of PID %#x is not as it came", pid)
		}
	}
	first := Packet(out[:PacketSize])
	sec := pat(5, patEntry{0, 0x10}, patEntry{2, 0x200})
	if !bytes.Equal(first.Payload()[:1+len(sec)], append([]byte{0}, sec...)) || first.Continuity() != 0 {
		t.Errorf("PAT %x, want %x", []byte(first), sec)
	}
	last := Packet(out[len(out)-3*PacketSize:])
	if last.Continuity() != 1 {
		t.Errorf("counter of the second PAT %d, want 1", last.Continuity())
	}
	w := NewWalker()
	walk(w, out)
	if ps := w.Programs(); len(ps) != 1 || ps[0].Number != 2 || !ps[0].Known || w.PSIErrors() != (PSIErrors{}) {
		t.Errorf("a receiver sees %+v, errors %+v", ps, w.PSIErrors())
	}
}

func TestProgrammeThatIsNotThere(t *testing.T) {
	m := newMux()
	multiplex(m)
	m.table(PIDSDT, sdt(0, map[uint16]string{1: "Eins", 2: "Zwei"}))
	f := NewProgramFilter(3)
	out, err := f.Filter(slices.Clone(m.out))
	if !errors.Is(err, ErrNoProgram) || len(out) != 0 {
		t.Fatalf("%d bytes, error %v", len(out), err)
	}
	if s := err.Error(); s != "programme 3: no such programme in the stream; it has 1, 2" {
		t.Errorf("error %q", s)
	}
	if out, err := f.Filter(slices.Clone(m.out)); len(out) != 0 || err != nil {
		t.Errorf("the same PAT again: %d bytes, error %v", len(out), err)
	}
	m.out = nil
	m.table(PIDPAT, pat(6, patEntry{1, 0x100}))
	if _, err := f.Filter(m.out); err == nil || !strings.Contains(err.Error(), "it has 1 (Eins)") {
		t.Errorf("error %v, want names", err)
	}
	m.out = nil
	m.table(PIDPAT, pat(7, patEntry{3, 0x300}))
	m.table(0x300, pmt(3, 0, 0x301, es{0x1b, 0x301, nil}))
	m.pes(0x301, 0, h264IDR, 184)
	if got := pidsOf(filter(t, f, m.out)); !slices.Equal(got, []PID{PIDPAT, 0x300, 0x301}) {
		t.Errorf("passed %x once it is there", got)
	}
}

func TestLongListInAnError(t *testing.T) {
	var ps []*program
	for i := range 30 {
		ps = append(ps, &program{Program: Program{Number: uint16(i)}})
	}
	if s := list(ps); !strings.HasSuffix(s, "19, and 10 more") {
		t.Errorf("list %q", s)
	}
	if s := list(nil); s != "none" {
		t.Errorf("list %q", s)
	}
}

func TestFilterFollowsTheTables(t *testing.T) {
	m := newMux()
	multiplex(m)
	f := NewProgramFilter(2)
	filter(t, f, m.out)
	pass := func(what string, want ...PID) {
		t.Helper()
		if got := pidsOf(filter(t, f, m.out)); !slices.Equal(got, want) {
			t.Errorf("%s: passed %x, want %x", what, got, want)
		}
		m.out = nil
	}
	m.out = nil
	m.table(0x200, pmt(2, 1, 0x211, es{0x24, 0x211, nil}))
	m.pes(0x201, 0, h264IDR, 184)
	m.pes(0x211, 0, h264IDR, 184)
	pass("another PMT", 0x200, 0x211)
	m.table(PIDPAT, pat(6, patEntry{1, 0x100}, patEntry{2, 0x300}))
	m.pes(0x211, 0, h264IDR, 184)
	m.table(0x200, pmt(2, 1, 0x211, es{0x24, 0x211, nil}))
	m.table(0x300, pmt(2, 2, 0x311, es{0x24, 0x311, nil}))
	m.pes(0x311, 0, h264IDR, 184)
	pass("another PMT PID", PIDPAT, 0x300, 0x311)
}

// A PAT of several packets becomes as many, so that the counters go on.
func TestPATOfSeveralPackets(t *testing.T) {
	var entries []patEntry
	for i := range uint16(100) {
		entries = append(entries, patEntry{i + 1, 0x100 + PID(i)})
	}
	m := newMux()
	for range 3 {
		m.table(PIDPAT, pat(0, entries...))
	}
	out := filter(t, NewProgramFilter(50), m.out)
	n := len(out) / PacketSize
	if n != 7 { // the last of the first PAT, all three of the others
		t.Fatalf("%d packets", n)
	}
	for i := 1; i < n; i++ {
		a, b := Packet(out[(i-1)*PacketSize:]), Packet(out[i*PacketSize:])
		if b.Continuity() != (a.Continuity()+1)&0x0f {
			t.Errorf("packet %d: counter %d behind %d", i, b.Continuity(), a.Continuity())
		}
	}
	w := NewWalker()
	walk(w, out)
	if ps := w.Programs(); len(ps) != 1 || ps[0].Number != 50 || w.PSIErrors() != (PSIErrors{}) {
		t.Errorf("a receiver sees %+v, errors %+v", ps, w.PSIErrors())
	}
}

// The adaptation field of a PAT packet stays if there is room for it.
func TestPATWithAnAdaptationField(t *testing.T) {
	sec := pat(0, patEntry{1, 0x100})
	for _, room := range []int{1 + len(sec), 60, 182} {
		m := newMux()
		m.packet(PIDPAT, true, 0x80, append(append([]byte{0}, sec...), bytes.Repeat([]byte{0xff}, room-1-len(sec))...))
		out := filter(t, NewProgramFilter(1), m.out)
		if !bytes.Equal(out, m.out) {
			t.Errorf("room %d:\n%x, want\n%x", room, out, m.out)
		}
	}
}

func TestFilterDropsAPartialPacket(t *testing.T) {
	m := newMux()
	multiplex(m)
	out, err := NewProgramFilter(1).Filter(m.out[:len(m.out)-1])
	if err != nil || len(out)%PacketSize != 0 {
		t.Errorf("%d bytes, error %v", len(out), err)
	}
}

func TestFilterDoesNotAllocate(t *testing.T) {
	in := readClip(t, "mpeg2")
	f := NewProgramFilter(1)
	buf := make([]byte, len(in))
	run := func() {
		copy(buf, in)
		if out, err := f.Filter(buf); err != nil || len(out) == 0 {
			t.Fatal(len(out), err)
		}
	}
	run()
	if n := testing.AllocsPerRun(10, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// hostileFilter filters packets in place and fails where the output breaks a promise.
func hostileFilter(t *testing.T, number uint16, b []byte) {
	t.Helper()
	size := len(b)
	out, err := NewProgramFilter(number).Filter(b)
	if len(out)%PacketSize != 0 || len(out) > size {
		t.Fatalf("%d bytes of %d", len(out), size)
	}
	if err != nil && !errors.Is(err, ErrNoProgram) {
		t.Fatalf("error %v", err)
	}
	w := NewWalker()
	walk(w, out)
	if ps := w.Programs(); len(ps) > 1 {
		t.Fatalf("programmes %v", ps)
	}
}

func FuzzProgramFilter(f *testing.F) {
	m := newMux()
	m.table(PIDPAT, pat(5, patEntry{0, 0x10}, patEntry{1, 0x100}, patEntry{2, 0x200}))
	m.table(0x200, pmt(2, 0, 0x20f, es{0x1b, 0x201, nil}))
	m.packet(PIDPAT, true, 0, []byte{0, 0, 0xb0})
	m.packet(PIDPAT, false, 0, nil)
	f.Add(uint16(2), m.out)
	f.Fuzz(func(t *testing.T, number uint16, b []byte) {
		seal(b)
		hostileFilter(t, number, b)
	})
}

func BenchmarkProgramFilter(b *testing.B) {
	in := readClip(b, "mpeg2")
	for _, c := range []struct {
		name   string
		number uint16
	}{{"keep", 1}, {"drop", 2}} {
		b.Run(c.name, func(b *testing.B) {
			f := NewProgramFilter(c.number)
			buf := slices.Clone(in)
			_, _ = f.Filter(buf)
			copy(buf, in)
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = f.Filter(buf)
			}
		})
	}
}
