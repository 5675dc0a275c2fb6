package ts

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestLeadingProgramme(t *testing.T) {
	m := newMux()
	w := NewWalker()
	lead := func(want uint16) {
		t.Helper()
		walk(w, m.out)
		m.out = nil
		if n, _ := w.Leading(); n != want {
			t.Errorf("programme %d leads, want %d", n, want)
		}
	}
	m.table(PIDPAT, pat(0, patEntry{1, 0x100}, patEntry{2, 0x200}, patEntry{3, 0x300}, patEntry{4, 0x400}))
	lead(0)
	m.table(0x100, pmt(1, 0, 0x1fff, es{0x0b, 0x101, nil}))
	lead(0) // data only
	m.table(0x200, pmt(2, 0, 0x201, es{0x03, 0x201, nil}))
	lead(2) // audio
	m.table(0x400, pmt(4, 0, 0x401, es{0x0f, 0x402, nil}, es{0x1b, 0x401, nil}))
	lead(4) // video
	m.table(0x300, pmt(3, 0, 0x301, es{0x02, 0x301, nil}))
	lead(3) // video, before the other in the PAT
	if pid, ok := w.PCRPID(); !ok || pid != 0x301 {
		t.Errorf("clock %#x %v, want 0x301", pid, ok)
	}
}

func TestRadio(t *testing.T) {
	m := newMux()
	w := tuned(m, 0x03)
	for range 3 {
		m.pes(0x101, 0, bytes.Repeat([]byte{0x55}, 300), 184)
	}
	if raps := rapsOf(walk(w, m.out)); !slices.Equal(raps, []int{0, 2, 4}) {
		t.Errorf("random access points %v, want every PES packet", raps)
	}
}

func TestStreamsWithoutRandomAccess(t *testing.T) {
	t.Run("no tables", func(t *testing.T) {
		m := newMux()
		m.pes(0x101, 0x40, cat(h264SPS, h264IDR), 184)
		w := NewWalker()
		if notes := walk(w, m.out); notes[0] != 0 || len(w.AppendPreamble(nil)) != 0 {
			t.Errorf("notes %v", notes)
		}
	})
	t.Run("no video or audio", func(t *testing.T) {
		m := newMux()
		w := tuned(m, 0x0b)
		m.pes(0x101, 0x40, cat(h264SPS, h264IDR), 184)
		if notes := walk(w, m.out); notes[0] != 0 || len(w.AppendPreamble(nil)) != 0 {
			t.Errorf("notes %v", notes)
		}
	})
}

func TestClockOfAStreamWithoutPMT(t *testing.T) {
	m := newMux()
	w := NewWalker()
	m.pes(0x33, 0, h264IDR, 100)
	walk(w, m.out)
	if _, ok := w.PCRPID(); ok {
		t.Error("a clock where no PCR was")
	}
	m.out = nil
	p := m.packet(0x44, false, 0x10, make([]byte, 100))
	if w.Walk(p); w.anyPCR != 0x44 {
		t.Errorf("clock %#x, want 0x44", w.anyPCR)
	}
}

// The random access points of every programme are counted, those of the
// leading one told.
func TestEveryProgrammeIsCounted(t *testing.T) {
	m := newMux()
	w := NewWalker()
	m.table(PIDPAT, pat(0, patEntry{1, 0x100}, patEntry{2, 0x200}))
	m.table(0x100, pmt(1, 0, 0x101, es{0x1b, 0x101, nil}))
	m.table(0x200, pmt(2, 0, 0x201, es{0x24, 0x201, nil}))
	m.pes(0x201, 0, hevcSlice(21), 184)
	m.pes(0x101, 0, cat(h264SPS, h264IDR), 184)
	m.pes(0x201, 0, hevcSlice(1), 184)
	m.pes(0x201, 0, hevcSlice(19), 184)
	if raps := rapsOf(walk(w, m.out)); !slices.Equal(raps, []int{4}) {
		t.Errorf("told %v, want 4", raps)
	}
	ps := w.Programs()
	if ps[0].RAPs != 1 || ps[0].LastRAP != 4 || ps[1].RAPs != 2 || ps[1].LastRAP != 6 {
		t.Errorf("counted %+v", ps)
	}
}

// A preamble is the tables as they stood before the candidate, and the next
// table in the stream goes on from it.
func TestPreambleIsOfTheCandidate(t *testing.T) {
	m := newMux()
	w := tuned(m, 0x1b)
	for range 5 {
		m.table(PIDPAT, pat(0, patEntry{1, 0x100}))
		m.table(0x100, pmt(1, 0, 0x101, es{0x1b, 0x101, nil}))
	}
	tables := slices.Clone(m.out[len(m.out)-2*PacketSize:])
	m.pes(0x101, 0, cat(h264AUD, h264SPS, h264IDR), 24) // its IDR is in the second packet
	first, second := m.out[len(m.out)-2*PacketSize:len(m.out)-PacketSize], m.out[len(m.out)-PacketSize:]
	walk(w, m.out[:len(m.out)-2*PacketSize])
	if len(w.AppendPreamble(nil)) != 0 {
		t.Error("a preamble before the first candidate")
	}
	if n := w.Walk(first); n != NoteCandidate {
		t.Fatalf("note %v", n)
	}
	m.out = nil
	m.table(PIDPAT, pat(0, patEntry{1, 0x100}))
	walk(w, m.out)
	if n := w.Walk(second); n != NoteConfirmed {
		t.Fatalf("note %v", n)
	}
	if got := w.AppendPreamble([]byte("x"))[1:]; !bytes.Equal(got, tables) {
		t.Errorf("preamble\n%x, want\n%x", got, tables)
	}
}

// Other sections between the tables take counters; the preamble ends where the
// stream goes on.
func TestPreambleLeadsOn(t *testing.T) {
	m := newMux()
	w := tuned(m, 0x1b)
	m.table(0x100, section(0xc0, 1, 0, 1, 2, 3))
	m.table(0x100, section(0xc0, 1, 0, 1, 2, 3))
	m.pes(0x101, 0, cat(h264SPS, h264IDR), 184)
	walk(w, m.out)
	pre := w.AppendPreamble(nil)
	if len(pre) != 2*PacketSize {
		t.Fatalf("preamble of %d bytes", len(pre))
	}
	if got, want := Packet(pre[PacketSize:]).Continuity()+1, m.cc[0x100]; got != want {
		t.Errorf("the next PMT packet should have counter %d, has %d", got, want)
	}
}

func TestPreambleOfManyProgrammes(t *testing.T) {
	m := newMux()
	w := NewWalker()
	var entries []patEntry
	for i := range PID(40) {
		entries = append(entries, patEntry{uint16(i + 1), 0x100 + i})
	}
	m.table(PIDPAT, pat(0, entries...))
	for i, e := range entries {
		kind := uint8(0x03)
		if i == 30 {
			kind = 0x1b
		}
		m.table(e.pid, pmt(e.number, 0, 0x200+PID(i), es{kind, 0x200 + PID(i), nil}))
	}
	m.pes(0x200+30, 0, cat(h264SPS, h264IDR), 184)
	walk(w, m.out)
	pre := w.AppendPreamble(nil)
	if len(pre) != maxPreamblePackets*PacketSize {
		t.Fatalf("preamble of %d packets, want %d", len(pre)/PacketSize, maxPreamblePackets)
	}
	if p := Packet(pre[PacketSize:]); p.PID() != 0x100+30 {
		t.Errorf("PID %#x behind the PAT, want the leading programme's PMT", p.PID())
	}
	if pids := PIDsOfPreamble(pre); len(pids) != 1+2*23 || pids[0] != PIDPAT || !slices.Contains(pids, 0x200+30) {
		t.Errorf("PIDs %x", pids)
	}
}

func TestPIDsOfPreamble(t *testing.T) {
	m := newMux()
	m.table(PIDPAT, pat(0, patEntry{0, 0x10}, patEntry{1, 0x100}))
	m.table(0x100, pmt(1, 0, 0x1f0, es{0x1b, 0x101, nil}, es{0x0f, 0x102, nil}))
	if got, want := PIDsOfPreamble(m.out), []PID{PIDPAT, 0x100, 0x1f0, 0x101, 0x102}; !slices.Equal(got, want) {
		t.Errorf("PIDs %x, want %x", got, want)
	}
	if got := PIDsOfPreamble(m.out[:100]); got != nil {
		t.Errorf("PIDs %x of less than a packet", got)
	}
}

func TestDiscontinuityKeepsTheCounters(t *testing.T) {
	m := newMux()
	m.cc[0x101], m.cc[0x102] = 9, 0
	m.pes(0x101, 0, h264IDR, 184)
	m.packet(0x103, false, 0, nil) // no payload, the counter stays
	m.pes(0x102, 0, h264IDR, 184)
	out := AppendDiscontinuity([]byte{1, 2}, m.out, 0x101, 0x102, 0x103, 0x1abc)[2:]
	for i, want := range []struct {
		pid PID
		cc  uint8
	}{{0x101, 8}, {0x102, 15}, {0x103, 0}, {0x1abc, 0}} {
		p := Packet(out[i*PacketSize : (i+1)*PacketSize])
		if p[0] != SyncByte || p.PID() != want.pid || p.Continuity() != want.cc || p.HasPayload() || p.PayloadStart() ||
			!p.Discontinuity() || len(p.Adaptation()) != 183 {
			t.Errorf("packet %x, want PID %#x counter %d", []byte(p), want.pid, want.cc)
		}
	}
	if len(out) != 4*PacketSize {
		t.Errorf("%d bytes", len(out))
	}
}

func TestWalkDoesNotAllocate(t *testing.T) {
	for _, name := range []string{"h264_open_gop", "hevc_open_gop", "mpeg2"} {
		b := readClip(t, name)
		w := NewWalker()
		walk(w, b)
		if n := testing.AllocsPerRun(10, func() {
			for i := 0; i+PacketSize <= len(b); i += PacketSize {
				w.Walk(b[i : i+PacketSize])
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// hostile walks packets and fails where a note or a preamble breaks its promise.
func hostile(t *testing.T, b []byte) {
	t.Helper()
	w := NewWalker()
	w.Walk(b[:min(len(b), 100)])
	candidate, since := false, 0
	for i := 0; i+PacketSize <= len(b); i += PacketSize {
		p := Packet(b[i : i+PacketSize])
		n := w.Walk(p)
		if w.lead != nil && p.PID() == w.tracks[w.slot-1].pid {
			since++
		}
		if n&NoteCandidate != 0 {
			candidate, since = true, 1
		}
		verdict := n & (NoteConfirmed | NoteRefuted)
		if verdict == NoteConfirmed|NoteRefuted || n&NoteCandidate != 0 && n&NoteRefuted != 0 {
			t.Fatalf("packet %d: note %v", i/PacketSize, n)
		}
		if verdict != 0 {
			if !candidate {
				t.Fatalf("packet %d: verdict %v without a candidate", i/PacketSize, n)
			}
			candidate = false
		}
		if candidate && since >= verdictPackets {
			t.Fatalf("packet %d: undecided after %d packets of its PID", i/PacketSize, since)
		}
		pre := w.AppendPreamble(nil)
		if n&NoteCandidate != 0 && len(pre) == 0 || len(pre)%PacketSize != 0 || len(pre) > maxPreamblePackets*PacketSize {
			t.Fatalf("packet %d: preamble of %d bytes", i/PacketSize, len(pre))
		}
		if n&NotePrograms != 0 {
			w.Programs()
			PIDsOfPreamble(pre)
		}
	}
	w.PCRPID()
}

// seal gives the sections that begin and end in a packet their checksums,
// without which changed ones get nowhere.
func seal(b []byte) {
	for i := 0; i+PacketSize <= len(b); i += PacketSize {
		p := Packet(b[i : i+PacketSize])
		p[0] = SyncByte
		if s := p.Payload(); p.PayloadStart() && len(s) > 4 && s[0] == 0 && s[1] <= tableSDT {
			if n := int(s[2]&0x0f)<<8 | int(s[3]); n >= 9 && n+4 <= len(s) {
				sealSection(s[1 : n : n+4])
			}
		}
	}
}

// damaged is a stream with bits, bytes and packets changed by chance.
func damaged(r *rand.Rand, in []byte) []byte {
	b := slices.Clone(in)
	packets := len(b) / PacketSize
	packet := func() []byte { i := r.IntN(packets); return b[i*PacketSize : (i+1)*PacketSize] }
	for range 1 + r.IntN(20) {
		switch p := packet(); r.IntN(6) {
		case 0:
			p[r.IntN(PacketSize)] ^= 1 << r.IntN(8)
		case 1: // where headers, lengths and tables are
			p[1+r.IntN(24)] = byte(r.Uint32())
		case 2:
			copy(p, packet())
		case 3:
			p[3] = byte(r.Uint32())
		case 4:
			p[4] = byte(r.Uint32())
		case 5:
			n := r.IntN(packets)
			b = append(b[:n*PacketSize:n*PacketSize], b[min(n+1+r.IntN(8), packets)*PacketSize:]...)
			if packets = len(b) / PacketSize; packets == 0 {
				return b
			}
		}
	}
	seal(b)
	return b
}

func TestDamage(t *testing.T) {
	m := newMux()
	multiplex(m)
	for _, au := range accessUnits {
		m.pes(0x101, 0, au.es, 50)
		m.pes(0x201, 0, au.es, 20)
	}
	multiplex(m)
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		b := damaged(r, m.out)
		hostile(t, b)
		hostileFilter(t, 2, b)
	}
}

func FuzzWalker(f *testing.F) {
	m := newMux()
	m.table(PIDPAT, pat(0, patEntry{1, 0x100}))
	m.table(0x100, pmt(1, 0, 0x101, es{0x1b, 0x101, nil}))
	m.pes(0x101, 0, cat(h264AUD, h264SPS, h264Recovery, h264PSlice), 20)
	f.Add(m.out)
	f.Fuzz(func(t *testing.T, b []byte) {
		seal(b)
		hostile(t, b)
	})
}

func BenchmarkWalk(b *testing.B) {
	for _, name := range []string{"h264_open_gop", "hevc_open_gop", "mpeg2"} {
		b.Run(name, func(b *testing.B) {
			in := readClip(b, name)
			w := NewWalker()
			walk(w, in)
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				for i := 0; i+PacketSize <= len(in); i += PacketSize {
					w.Walk(in[i : i+PacketSize])
				}
			}
		})
	}
	// What most packets cost: the middle of a video PES packet, one of a PID
	// that nobody asks for.
	for _, pid := range []PID{0x101, 0x500} {
		b.Run(map[PID]string{0x101: "video", 0x500: "other"}[pid], func(b *testing.B) {
			m := newMux()
			w := tuned(m, 0x1b)
			m.packet(0x101, false, 0x10, make([]byte, 100))
			p := m.packet(pid, false, 0, make([]byte, 184))
			walk(w, m.out)
			b.SetBytes(PacketSize)
			b.ReportAllocs()
			for b.Loop() {
				w.Walk(p)
			}
		})
	}
}
