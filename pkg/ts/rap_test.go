package ts

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"testing"
)

// Start of streams in hex, by what the standards say, not by what an encoder made.
var (
	h264AUD      = []byte{0, 0, 0, 1, 0x09, 0xf0}
	h264SPS      = []byte{0, 0, 0, 1, 0x67, 0x42, 0x00, 0x1e, 0xab}
	h264PPS      = []byte{0, 0, 0, 1, 0x68, 0xce, 0x3c, 0x80}
	h264IDR      = []byte{0, 0, 1, 0x65, 0x88, 0x84, 0x00, 0x10}
	h264ISlice   = []byte{0, 0, 1, 0x41, 0b1_0001000, 0x84, 0x21} // first_mb 0, slice_type 7
	h264I2Slice  = []byte{0, 0, 1, 0x01, 0b1_011_0000, 0x84, 0x21}
	h264PSlice   = []byte{0, 0, 1, 0x41, 0b1_00110_00, 0x84, 0x21}       // slice_type 5
	h264BSlice   = []byte{0, 0, 1, 0x01, 0b1_00111_00, 0x84, 0x21}       // slice_type 6
	h264LateI    = []byte{0, 0, 1, 0x41, 0b0001000_0, 0b001000_11, 0x84} // first_mb 7, slice_type 7
	h264Recovery = []byte{0, 0, 1, 0x06, 0x06, 0x01, 0xc4, 0x80}
	// Buffering period of 3 bytes with an emulation prevention byte among
	// them, user data of 300, then the recovery point.
	h264LongSEI = slices.Concat([]byte{0, 0, 1, 0x06, 0x00, 0x03, 0x00, 0x00, 0x03, 0x01, 0x05, 0xff, 45},
		bytes.Repeat([]byte{0xb5}, 300), []byte{0x06, 0x01, 0xc4, 0x80})
	h264OtherSEI = []byte{0, 0, 1, 0x06, 0x05, 0x02, 0x06, 0x06, 0x80} // a 6 that is no type

	hevcVPS = []byte{0, 0, 0, 1, 0x40, 0x01, 0x0c}

	mpeg2Sequence = []byte{0, 0, 1, 0xb3, 0x2d, 0x02, 0x40, 0x33}
	mpeg2GOP      = []byte{0, 0, 1, 0xb8, 0x00, 0x08, 0x00, 0x40}
	mpeg2I        = []byte{0, 0, 1, 0x00, 0x00, 0x0f, 0xff, 0xf8}
	mpeg2P        = []byte{0, 0, 1, 0x00, 0x00, 0x57, 0xff, 0xf8}
	mpeg2B        = []byte{0, 0, 1, 0x00, 0x00, 0x9f, 0xff, 0xf8}
)

func hevcSlice(kind byte) []byte { return []byte{0, 0, 1, kind << 1, 0x01, 0xaf} }

func cat(parts ...[]byte) []byte { return slices.Concat(parts...) }

var accessUnits = []struct {
	name string
	kind uint8
	es   []byte
	want bool
}{
	{"h264 IDR", 0x1b, cat(h264AUD, h264SPS, h264PPS, h264IDR), true},
	{"h264 IDR alone", 0x1b, cat(h264AUD, h264IDR), true},
	{"h264 I slices with SPS", 0x1b, cat(h264AUD, h264SPS, h264PPS, h264ISlice), true},
	{"h264 first slice I with SPS", 0x1b, cat(h264AUD, h264SPS, h264PPS, h264I2Slice), true},
	{"h264 I slice that is not the first, with SPS", 0x1b, cat(h264AUD, h264SPS, h264PPS, h264LateI), true},
	{"h264 I slice without SPS", 0x1b, cat(h264AUD, h264ISlice), false},
	{"h264 recovery point with SPS", 0x1b, cat(h264AUD, h264SPS, h264PPS, h264Recovery, h264PSlice), true},
	{"h264 recovery point without SPS", 0x1b, cat(h264AUD, h264Recovery, h264ISlice), false},
	{"h264 recovery point behind long SEI", 0x1b, cat(h264AUD, h264SPS, h264PPS, h264LongSEI, h264PSlice), true},
	{"h264 other SEI with SPS", 0x1b, cat(h264AUD, h264SPS, h264PPS, h264OtherSEI, h264PSlice), false},
	{"h264 P with SPS", 0x1b, cat(h264AUD, h264SPS, h264PPS, h264PSlice), false},
	{"h264 B", 0x1b, cat(h264AUD, h264BSlice), false},
	{"hevc IDR", 0x24, cat(hevcVPS, hevcSlice(19)), true},
	{"hevc CRA without parameter sets", 0x24, hevcSlice(21), true},
	{"hevc BLA", 0x24, hevcSlice(16), true},
	{"hevc trailing", 0x24, hevcSlice(1), false},
	{"hevc RASL", 0x24, hevcSlice(9), false},
	{"hevc reserved IRAP", 0x24, hevcSlice(22), false},
	{"mpeg2 I", 0x02, cat(mpeg2Sequence, mpeg2GOP, mpeg2I), true},
	{"mpeg1 I", 0x01, cat(mpeg2Sequence, mpeg2GOP, mpeg2I), true},
	{"mpeg2 I without sequence header", 0x02, cat(mpeg2GOP, mpeg2I), false},
	{"mpeg2 P with sequence header", 0x02, cat(mpeg2Sequence, mpeg2P), false},
	{"mpeg2 B", 0x02, mpeg2B, false},
	{"audio", 0x0f, []byte{0xff, 0xf1, 0x4c}, true},
	{"unknown video without the flag", 0xea, h264IDR, false},
}

// Whatever the payloads are cut into, the verdict is the same: NAL units, start
// codes and PES headers may lie across packets.
func TestAccessUnits(t *testing.T) {
	for _, c := range accessUnits {
		t.Run(c.name, func(t *testing.T) {
			for room := 1; room <= 184; room++ {
				if len(c.es)/room >= verdictPackets-16 {
					continue
				}
				m := newMux()
				w := tuned(m, c.kind)
				m.pes(0x101, 0, c.es, room)
				m.pes(0x101, 0, []byte{0xff}, 184) // the next start decides at the latest
				notes := walk(w, m.out)
				if got := slices.Contains(rapsOf(notes), 0); got != c.want {
					t.Fatalf("payloads of %d bytes: random access point %v, want %v (%v)", room, got, c.want, notes)
				}
				if p := w.Programs()[0]; c.want && (p.RAPs == 0 || c.kind != 0x0f && p.LastRAP != 2) {
					t.Fatalf("payloads of %d bytes: programme counts %d, last in packet %d", room, p.RAPs, p.LastRAP)
				}
			}
		})
	}
}

func TestTheFlagIsBelievedOnlyWhereTheStreamCannotBeRead(t *testing.T) {
	const flag = 0x40
	p := cat(h264AUD, h264SPS, h264PSlice)
	idr := cat(h264AUD, h264SPS, h264IDR)
	for _, c := range []struct {
		name      string
		kind      uint8
		flags     byte
		es        []byte
		scrambled byte // of the packet
		pes       byte // PES_scrambling_control
		want      bool
	}{
		{"a flag that lies", 0x1b, flag, p, 0, 0, false},
		{"a flag that is missing", 0x1b, 0, idr, 0, 0, true},
		{"scrambled with flag", 0x1b, flag, p, 0x80, 0, true},
		{"scrambled without flag", 0x1b, 0, idr, 0x80, 0, false},
		{"scrambled PES with flag", 0x1b, flag, p, 0, 0x20, true},
		{"scrambled PES without flag", 0x1b, 0, idr, 0, 0x20, false},
		{"VC-1 with flag", 0xea, flag, p, 0, 0, true},
		{"scrambled audio", 0x0f, 0, p, 0xc0, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMux()
			w := tuned(m, c.kind)
			m.pes(0x101, c.flags, c.es, 100)
			pk := Packet(m.out)
			pk[3] |= c.scrambled
			pk[len(pk.Adaptation())+5+6] |= c.pes
			if got := len(rapsOf(walk(w, m.out))) == 1; got != c.want {
				t.Errorf("random access point %v, want %v", got, c.want)
			}
		})
	}
}

// The rest of a candidate may be scrambled although its first packet is clear.
func TestScrambledInTheMiddle(t *testing.T) {
	for _, flags := range []byte{0, 0x40} {
		m := newMux()
		w := tuned(m, 0x1b)
		m.pes(0x101, flags, cat(h264AUD, h264SPS, h264IDR), 20)
		m.out[PacketSize+3] |= 0x80
		want := NoteRefuted
		if flags != 0 {
			want = NoteConfirmed
		}
		if notes := walk(w, m.out); notes[0] != NoteCandidate || notes[1] != want {
			t.Errorf("flag %#x: %v", flags, notes)
		}
	}
}

func TestEveryCandidateIsDecided(t *testing.T) {
	filler := cat(h264AUD, []byte{0, 0, 1, 0x0c}, bytes.Repeat([]byte{0xff}, 100*184))

	t.Run("after 64 packets", func(t *testing.T) {
		m := newMux()
		w := tuned(m, 0x1b)
		m.pes(0x101, 0, filler, 184)
		notes := walk(w, m.out)
		if at := slices.Index(notes, NoteRefuted); notes[0] != NoteCandidate || at != verdictPackets-1 {
			t.Errorf("refuted at packet %d, want %d", at, verdictPackets-1)
		}
	})
	t.Run("after 64 packets without a payload", func(t *testing.T) {
		m := newMux()
		w := tuned(m, 0x1b)
		m.pes(0x101, 0, h264AUD, 184)
		for range 100 {
			m.packet(0x101, false, 0, nil)
		}
		notes := walk(w, m.out)
		if at := slices.Index(notes, NoteRefuted); notes[0] != NoteCandidate || at != verdictPackets-1 {
			t.Errorf("refuted at packet %d, want %d", at, verdictPackets-1)
		}
	})
	t.Run("at the next candidate", func(t *testing.T) {
		m := newMux()
		w := tuned(m, 0x1b)
		m.pes(0x101, 0, h264AUD, 184)
		m.pes(0x101, 0, cat(h264AUD, h264IDR), 184)
		if notes := walk(w, m.out); !slices.Equal(notes, []Note{NoteCandidate, NoteCandidate | NoteConfirmed}) {
			t.Errorf("notes %v", notes)
		}
	})
	t.Run("at the next start that is none", func(t *testing.T) {
		m := newMux()
		w := tuned(m, 0x1b)
		m.pes(0x101, 0, h264AUD, 184)
		m.pes(0x101, 0, cat(h264AUD, h264PSlice), 184)
		if notes := walk(w, m.out); !slices.Equal(notes, []Note{NoteCandidate, NoteRefuted}) {
			t.Errorf("notes %v", notes)
		}
	})
	t.Run("when its stream goes away", func(t *testing.T) {
		m := newMux()
		w := tuned(m, 0x1b)
		m.pes(0x101, 0, h264AUD, 184)
		m.table(0x100, pmt(1, 1, 0x102, es{0x1b, 0x102, nil}))
		if notes := walk(w, m.out); !slices.Equal(notes, []Note{NoteCandidate, NotePrograms | NoteRefuted}) {
			t.Errorf("notes %v", notes)
		}
	})
}

// A packet may be sent twice (13818-1 §2.4.3.3).
func TestPacketSentTwice(t *testing.T) {
	m := newMux()
	w := tuned(m, 0x1b)
	m.pes(0x101, 0, cat(h264AUD, h264SPS, h264PPS, h264IDR), 24)
	var twice []byte
	for i := 0; i < len(m.out); i += PacketSize {
		p := m.out[i : i+PacketSize]
		twice = append(append(twice, p...), p...)
	}
	if raps := rapsOf(walk(w, twice)); !slices.Equal(raps, []int{0}) {
		t.Errorf("random access points %v, want one at 0", raps)
	}
	if n := w.Programs()[0].RAPs; n != 1 {
		t.Errorf("%d counted, want 1", n)
	}
}

// What ffmpeg 5.1 encodes, with ffprobe's key frames:
//
//	-f lavfi -i testsrc2=s=128x72:r=25 -f lavfi -i sine=f=440:r=48000 -t 2 -bitexact
//	h264_open_gop: libx264 keyint=12:open-gop=1:bframes=2:repeat-headers=1, 60 kbit/s, mp2
//	hevc_open_gop: libx265 keyint=12:open-gop=1:repeat-headers=1, 60 kbit/s, aac
//	mpeg2: mpeg2video -g 12 -bf 2, 80 kbit/s, mp2
func TestClips(t *testing.T) {
	for _, c := range []struct {
		name string
		raps []int
	}{
		{"h264_open_gop", []int{3, 45, 84, 132, 176}},
		{"hevc_open_gop", []int{3, 44, 114, 175, 239}},
		{"mpeg2", []int{3, 155, 266, 331, 396}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := NewWalker()
			if got := rapsOf(walk(w, readClip(t, c.name))); !slices.Equal(got, c.raps) {
				t.Errorf("random access points at %v, want %v", got, c.raps)
			}
		})
	}
}

func readClip(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("testdata/%s.ts", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
