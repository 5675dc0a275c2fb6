package ts

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Sections as real multiplexers send them: those of ffmpeg, and one each of
// what EN 300 468 and SCTE 35 add.
func TestProgramsOfTables(t *testing.T) {
	m := newMux()
	w := NewWalker()
	m.table(PIDPAT, pat(3, patEntry{0, 0x10}, patEntry{7, 0x100}, patEntry{9, 0x200}))
	m.table(0x100, pmt(7, 1, 0x101,
		es{0x1b, 0x101, []byte{0x28, 4, 0x64, 0, 0x28, 0xbf}},
		es{0x0f, 0x102, []byte{0x0a, 4, 'd', 'e', 'u', 0}},
		es{0x06, 0x103, []byte{0x6a, 1, 0}},
		es{0x06, 0x104, []byte{0x0a, 4, 'f', 'r', 'a', 0, 0x7a, 1, 0}},
		es{0x06, 0x105, []byte{0x56, 5, 'i', 't', 'a', 0x09, 0}},
		es{0x06, 0x106, []byte{0x59, 8, 'e', 'n', 'g', 0x10, 0, 1, 0, 1}},
		es{0x06, 0x107, []byte{0x05, 4, 'O', 'p', 'u', 's'}},
		es{0x06, 0x108, []byte{0x7f, 2, 0x15, 0}},
		es{0x06, 0x109, nil},
		es{0x86, 0x10a, []byte{0x09, 4, 0x06, 0x04, 0xe5, 0x55}},
		es{0x0b, 0x10b, []byte{0x09, 0}},
	))
	m.table(PIDSDT, sdt(0, map[uint16]string{7: "T\xc2el\xc2e", 9: "Radio"}))
	walk(w, m.out)
	want := []Program{
		{Number: 7, Name: "Télé", PMTPID: 0x100, PCRPID: 0x101, Known: true, Streams: []Stream{
			{PID: 0x101, Type: 0x1b, Kind: KindVideo, Codec: "h264"},
			{PID: 0x102, Type: 0x0f, Kind: KindAudio, Codec: "aac", Language: "deu"},
			{PID: 0x103, Type: 0x06, Kind: KindAudio, Codec: "ac3"},
			{PID: 0x104, Type: 0x06, Kind: KindAudio, Codec: "eac3", Language: "fra"},
			{PID: 0x105, Type: 0x06, Kind: KindTeletext, Codec: "dvb_teletext", Language: "ita"},
			{PID: 0x106, Type: 0x06, Kind: KindSubtitle, Codec: "dvb_subtitle", Language: "eng"},
			{PID: 0x107, Type: 0x06, Kind: KindAudio, Codec: "opus"},
			{PID: 0x108, Type: 0x06, Kind: KindAudio, Codec: "ac4"},
			{PID: 0x109, Type: 0x06, Kind: KindData},
			{PID: 0x10a, Type: 0x86, Kind: KindSCTE35, CA: []PID{0x555}},
			{PID: 0x10b, Type: 0x0b, Kind: KindData},
		}},
		{Number: 9, Name: "Radio", PMTPID: 0x200, PCRPID: PIDNull},
	}
	if d := cmp.Diff(want, w.Programs()); d != "" {
		t.Error(d)
	}
	if n, ok := w.Leading(); n != 7 || !ok {
		t.Errorf("leading programme %d %v, want 7", n, ok)
	}
	if e := w.PSIErrors(); e != (PSIErrors{}) {
		t.Errorf("errors %+v", e)
	}
}

// The PAT of ffmpeg 5.1, checksum included.
func TestChecksumAgainstARealSection(t *testing.T) {
	sec, _ := hex.DecodeString("00b00d0001c100000001f0002ab104b2")
	if crc := crc32MPEG(sec); crc != 0 {
		t.Errorf("checksum over a whole section %#x, want 0", crc)
	}
	if got := pat(0, patEntry{1, 0x1000}); !bytes.Equal(got, sec) {
		t.Errorf("section %x, want %x", got, sec)
	}
}

func TestSectionsThatAreNotUsed(t *testing.T) {
	m := newMux()
	w := NewWalker()
	broken := pat(0, patEntry{1, 0x100})
	broken[9] ^= 1
	m.table(PIDPAT, broken)
	next := pat(0, patEntry{2, 0x100})
	next = next[:len(next)-4]
	next[5] &^= 1
	m.table(PIDPAT, sealSection(next))
	short := sealSection(pat(0)[:7])
	m.table(PIDPAT, short)
	long := section(tablePAT, 1, 0, bytes.Repeat([]byte{0, 1, 0xe1, 0}, 254)...)
	m.table(PIDPAT, long)
	ragged := section(tablePAT, 1, 0, 0, 1)
	m.table(PIDPAT, ragged)
	walk(w, m.out)
	if e := w.PSIErrors(); e != (PSIErrors{CRC: 1, Malformed: 3, NotCurrent: 1}) {
		t.Errorf("errors %+v", e)
	}
	if len(w.Programs()) != 0 {
		t.Errorf("programmes %v", w.Programs())
	}
}

func TestTablesChange(t *testing.T) {
	m := newMux()
	w := tuned(m, 0x1b)
	step := func(what string, wantNote Note, numbers ...uint16) {
		t.Helper()
		var got []uint16
		notes := walk(w, m.out)
		m.out = nil
		for _, p := range w.Programs() {
			got = append(got, p.Number)
		}
		if notes[len(notes)-1] != wantNote || !slices.Equal(got, numbers) {
			t.Errorf("%s: notes %v, programmes %v, want %v", what, notes, got, numbers)
		}
	}
	m.table(PIDPAT, pat(0, patEntry{1, 0x100}))
	step("the same PAT", 0, 1)
	m.table(0x100, pmt(1, 0, 0x101, es{0x1b, 0x101, nil}))
	step("the same PMT", 0, 1)
	m.table(PIDPAT, pat(1, patEntry{2, 0x200}, patEntry{1, 0x100}))
	step("a programme more", NotePrograms, 2, 1)
	if n, _ := w.Leading(); n != 1 {
		t.Errorf("leads %d before the PMT of 2 has come, want 1", n)
	}
	if p := w.Programs()[1]; !p.Known || len(p.Streams) != 1 {
		t.Errorf("what was known of programme 1 is lost: %+v", p)
	}
	m.table(0x200, pmt(2, 0, 0x201, es{0x02, 0x201, nil}))
	step("its PMT", NotePrograms, 2, 1)
	if n, _ := w.Leading(); n != 2 {
		t.Errorf("leads %d, want 2", n)
	}
	m.table(PIDPAT, pat(1, patEntry{1, 0x300}))
	step("another PAT under the same version", NotePrograms, 1)
	if p := w.Programs()[0]; p.Known {
		t.Errorf("a PMT is kept that was on another PID: %+v", p)
	}
	m.table(0x300, pmt(1, 0, 0x101, es{0x1b, 0x101, nil}))
	step("its PMT", NotePrograms, 1)
	m.table(0x300, pmt(1, 1, 0x101, es{0x24, 0x101, nil}))
	step("another codec", NotePrograms, 1)
	if c := w.Programs()[0].Streams[0].Codec; c != "hevc" {
		t.Errorf("codec %q, want hevc", c)
	}
}

func TestPATInTwoSections(t *testing.T) {
	two := func(number byte, e ...patEntry) []byte {
		sec := pat(0, e...)
		sec = sec[:len(sec)-4]
		sec[6], sec[7] = number, 1
		return sealSection(sec)
	}
	m := newMux()
	w := NewWalker()
	m.table(PIDPAT, two(1, patEntry{2, 0x200}))
	m.table(PIDPAT, two(1, patEntry{2, 0x200}))
	walk(w, m.out)
	if len(w.Programs()) != 0 {
		t.Errorf("half a PAT gives %v", w.Programs())
	}
	m.out = nil
	m.table(PIDPAT, two(0, patEntry{1, 0x100}))
	walk(w, m.out)
	if ps := w.Programs(); len(ps) != 2 || ps[0].Number != 1 || ps[1].Number != 2 {
		t.Errorf("programmes %v", ps)
	}
}

// Tables that begin behind others in a packet, or lie across packets.
func TestSectionsAcrossPackets(t *testing.T) {
	a := pmt(1, 0, 0x101, es{0x1b, 0x101, bytes.Repeat([]byte{0xc0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}, 12)})
	b := pmt(2, 0, 0x102, es{0x02, 0x102, nil})
	payload := append(slices.Clone(a), b...)
	m := newMux()
	w := NewWalker()
	m.table(PIDPAT, pat(0, patEntry{1, 0x100}, patEntry{2, 0x100}))
	const first = 150
	m.packet(0x100, true, 0, append([]byte{0}, payload[:first]...))
	second := append([]byte{byte(len(a) - first)}, payload[first:]...)
	m.packet(0x100, true, 0, append(second, bytes.Repeat([]byte{0xff}, 184-len(second))...))
	m.pes(0x101, 0, h264IDR, 184)
	walk(w, m.out)
	for _, p := range w.Programs() {
		if !p.Known {
			t.Errorf("programme %d is not known", p.Number)
		}
	}
	if e := w.PSIErrors(); e != (PSIErrors{}) {
		t.Errorf("errors %+v", e)
	}
	if pre := w.AppendPreamble(nil); !bytes.Equal(pre, m.out[:3*PacketSize]) {
		t.Errorf("the preamble is not the three packets that came:\n%x", pre)
	}

	t.Run("with a packet lost", func(t *testing.T) {
		w := NewWalker()
		walk(w, slices.Concat(m.out[:PacketSize], m.out[2*PacketSize:]))
		if ps := w.Programs(); ps[0].Known || !ps[1].Known {
			t.Errorf("%+v %+v", ps, w.PSIErrors())
		}
	})
	t.Run("with a packet sent twice", func(t *testing.T) {
		w := NewWalker()
		walk(w, slices.Concat(m.out[:2*PacketSize], m.out[PacketSize:]))
		if ps := w.Programs(); !ps[0].Known || !ps[1].Known {
			t.Errorf("%+v", ps)
		}
	})
}

// A descriptor that astits cannot read does not take the programme off the air.
func TestDescriptorThatCannotBeRead(t *testing.T) {
	for _, desc := range [][]byte{
		{0x56, 3, 'd', 'e', 'u'},             // half a teletext item
		{0x7a, 1, 0xff},                      // seven fields announced, none there
		{0x7f, 0},                            // an extension without its tag
		{0x7f, 2, 0x06, 0x01},                // supplementary audio without its language
		{0x0a, 200, 'd'},                     // longer than the section
		{0x45, 2, 1, 200},                    // VBI data likewise
		{0x05, 2, 'A', 'C'},                  // half a registration
		{0x0a, 1, 0},                         // a language without letters
		{0x50, 1, 0},                         // component
		{0x59, 3, 'd', 'e', 'u'},             // half a subtitling item
		{0x28, 1, 0}, {0x6a, 1, 0xff}, {255}, // more of them
	} {
		m := newMux()
		w := NewWalker()
		m.table(PIDPAT, pat(0, patEntry{1, 0x100}))
		m.table(0x100, pmt(1, 0, 0x101, es{0x06, 0x102, desc}, es{0x1b, 0x101, nil}))
		walk(w, m.out)
		if n, ok := w.Leading(); !ok || n != 1 {
			t.Errorf("descriptor %x: no leading programme, errors %+v", desc, w.PSIErrors())
		}
	}
}

func TestBoundsOfTables(t *testing.T) {
	w := NewWalker()
	m := newMux()
	// A section of 4 kB in payloads of one byte never ends in the bound.
	m.packet(PIDSDT, true, 0, []byte{0, 0x46, 0xff, 0xff})
	for range 5000 {
		m.packet(PIDSDT, false, 0, []byte{0})
	}
	walk(w, m.out)
	if a := w.tables.asm[PIDSDT]; cap(a.raw) > 2*maxTablePackets*PacketSize || len(a.buf) != 0 {
		t.Errorf("%d bytes of packets kept", cap(a.raw))
	}
	var names = map[uint16]string{}
	for i := range uint16(60) {
		names[i] = "x"
	}
	for i := range 20 {
		m.out = nil
		clear(names)
		for j := range 60 {
			names[uint16(60*i+j)] = "x"
		}
		m.table(PIDSDT, sdt(uint8(i), names))
		walk(w, m.out)
	}
	if n := len(w.tables.names); n != maxNames {
		t.Errorf("%d names kept, want %d", n, maxNames)
	}
}

func FuzzParseSection(f *testing.F) {
	f.Add(pat(0, patEntry{1, 0x100})[3:])
	f.Add(pmt(1, 0, 0x101, es{0x06, 0x101, []byte{0x56, 5, 'i', 't', 'a', 0x09, 0}})[3:])
	f.Add(sdt(0, map[uint16]string{1: "one"})[3:])
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > maxSection-7 {
			return
		}
		for _, table := range []byte{tablePAT, tablePMT, tableSDT} {
			sec := sealSection(append([]byte{table, 0xb0, 0}, body...))
			d := parseSection(sec)
			if d != nil && d.PMT != nil {
				for _, e := range d.PMT.ElementaryStreams {
					describe(e, false)
				}
			}
			if s, _ := withoutDescriptors(sec); s != nil && crc32MPEG(s) != 0 {
				t.Errorf("checksum of %x", s)
			}
		}
	})
}

func TestKindsHaveNames(t *testing.T) {
	var names []string
	for k := KindData; k <= KindSCTE35+1; k++ {
		names = append(names, k.String())
	}
	if got := strings.Join(names, " "); got != "data video audio teletext subtitle scte35 scte35" {
		t.Error(got)
	}
}
