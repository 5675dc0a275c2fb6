package ts

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// numbered makes n packets of one PID with random payload, of which no byte looks like a sync byte.
func numbered(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, 0, n*PacketSize)
	for i := range n {
		b = append(b, SyncByte, 0x01, 0x00, 0x10|byte(i&15))
		for range PacketSize - 4 {
			c := byte(r.Uint32())
			if c == SyncByte {
				c = 0
			}
			b = append(b, c)
		}
	}
	return b
}

// framed puts front in front of each packet and back behind it.
func framed(packets []byte, front, back int) []byte {
	var b []byte
	for p := range chunks(packets, PacketSize) {
		b = append(b, bytes.Repeat([]byte{0x5a}, front)...)
		b = append(b, p...)
		b = append(b, bytes.Repeat([]byte{0xa5}, back)...)
	}
	return b
}

func chunks(b []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			c := b[:min(n, len(b))]
			b = b[len(c):]
			if !yield(c) {
				return
			}
		}
	}
}

// synced runs in through a Sync in chunks of size n.
func synced(in []byte, n int) ([]byte, SyncStats) {
	var s Sync
	var out []byte
	for c := range chunks(in, n) {
		out = s.Append(out, c)
	}
	out = s.Flush(out)
	return out, s.Stats()
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// without returns packets with those at the given places left out.
func without(packets []byte, places ...int) []byte {
	out := bytes.Clone(packets)
	for i := len(places) - 1; i >= 0; i-- {
		at := places[i] * PacketSize
		out = append(out[:at], out[at+PacketSize:]...)
	}
	return out
}

func poke(b []byte, at int, v byte) []byte {
	b = bytes.Clone(b)
	b[at] = v
	return b
}

var errorPage = []byte("<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n" +
	strings.Repeat("<p>GGGG Gateway timeout, GET again. G\u00fcltig: G</p>\n", 60) + "</body></html>\n")

func TestSync(t *testing.T) {
	const pkt = PacketSize
	p := numbered(40)
	garbage := bytes.Repeat([]byte{0x00, 0x11, 0xfe}, 100)
	// Every payload has the same 0x47 with a header behind it that could be one.
	decoy := bytes.Clone(p)
	for i := 0; i < len(decoy); i += pkt {
		copy(decoy[i+50:], []byte{SyncByte, 0x01, 0x01, 0x10})
	}
	tei := bytes.Clone(p)
	for i := 0; i < len(tei); i += pkt {
		tei[i+1] |= 0x80
	}
	reserved := poke(p, 7*pkt+3, 0x00) // adaptation_field_control 00

	for _, c := range []struct {
		name string
		in   []byte
		want []byte
		st   SyncStats
	}{
		{"188 bytes", p, p, SyncStats{188, 40, 0, 0, 0}},
		{"192 bytes", framed(p, 4, 0), p, SyncStats{192, 40, 0, 0, 0}},
		{"204 bytes", framed(p, 0, 16), p, SyncStats{204, 40, 0, 0, 0}},
		{"192 bytes, begun in the middle", framed(p, 4, 0)[99:], p[pkt:], SyncStats{192, 39, 192 - 99, 0, 0}},
		{"begun in the middle", p[77:], p[pkt:], SyncStats{188, 39, pkt - 77, 0, 0}},
		{"begun in the middle, with a decoy", decoy[20:], decoy[pkt:], SyncStats{188, 39, pkt - 20, 0, 0}},
		{"cut tail", p[:len(p)-5], p[:39*pkt], SyncStats{188, 39, 0, 0, pkt - 5}},
		{"garbage before", join(garbage, p), p, SyncStats{188, 40, 300, 0, 0}},
		{"garbage between: the packet before it is not confirmed", join(p[:10*pkt], garbage, p[10*pkt:]),
			without(p, 9), SyncStats{188, 39, 300 + pkt, 1, 0}},
		{"one byte between", join(p[:10*pkt], []byte{0}, p[10*pkt:]), without(p, 9), SyncStats{188, 39, 1 + pkt, 1, 0}},
		{"bytes lost inside a packet", join(p[:10*pkt+30], p[10*pkt+90:]), without(p, 10), SyncStats{188, 39, pkt - 60, 1, 0}},
		{"bytes lost across two packets", join(p[:10*pkt+150], p[11*pkt+50:]), without(p, 10, 11), SyncStats{188, 38, 150 + 138, 1, 0}},
		{"whole packets lost", without(p, 10, 11), without(p, 10, 11), SyncStats{188, 38, 0, 0, 0}},
		{"a damaged sync byte", poke(p, 20*pkt, 0), without(p, 20), SyncStats{188, 39, pkt, 0, 0}},
		{"two damaged sync bytes", poke(poke(p, 20*pkt, 0), 22*pkt, 0), without(p, 20, 22), SyncStats{188, 38, 2 * pkt, 0, 0}},
		{"the last sync byte damaged", poke(p, 39*pkt, 0), p[:39*pkt], SyncStats{188, 39, pkt, 0, 0}},
		{"the last but one damaged", poke(p, 38*pkt, 0), without(p, 38), SyncStats{188, 39, pkt, 0, 0}},
		{"garbage at the end", join(p, garbage[:100]), p[:39*pkt], SyncStats{188, 39, pkt + 100, 0, 0}},
		{"transport errors", tei, tei, SyncStats{188, 40, 0, 0, 0}},
		{"a reserved header", reserved, reserved, SyncStats{188, 40, 0, 0, 0}},
		{"one packet", p[:pkt], p[:pkt], SyncStats{188, 1, 0, 0, 0}},
		{"one packet and a cut one", p[:pkt+50], p[:pkt], SyncStats{188, 1, 0, 0, 50}},
		{"four packets", p[:4*pkt], p[:4*pkt], SyncStats{188, 4, 0, 0, 0}},
		{"seven packets", p[:7*pkt], p[:7*pkt], SyncStats{188, 7, 0, 0, 0}},
		{"one packet of 192", framed(p[:pkt], 4, 0), p[:pkt], SyncStats{192, 1, 0, 0, 0}},
		{"three packets of 204", framed(p[:3*pkt], 0, 16), p[:3*pkt], SyncStats{204, 3, 0, 0, 0}},
		{"three packets, begun in the middle", p[100 : 4*pkt], p[pkt : 4*pkt], SyncStats{188, 3, 88, 0, 0}},
		{"three packets after garbage in lock", join(p[:10*pkt], garbage, p[10*pkt:13*pkt]), without(p[:13*pkt], 9), SyncStats{188, 12, 300 + pkt, 1, 0}},
		{"one sync byte in garbage", join(garbage, []byte{SyncByte}, garbage), nil, SyncStats{Skipped: 601}},
		{"less than a packet", p[:100], nil, SyncStats{Skipped: 100}},
		{"a packet with something else behind", join(p[:pkt], garbage), nil, SyncStats{Skipped: pkt + 300}},
		{"an error page", errorPage, nil, SyncStats{Skipped: uint64(len(errorPage))}},
		{"a letter", bytes.Repeat([]byte("G"), 5000), nil, SyncStats{Skipped: 5000}},
		{"a line of 188 letters", []byte("G" + strings.Repeat("P", 187)), nil, SyncStats{Skipped: 188}},
		{"an error page, then the stream", join(errorPage, p), p, SyncStats{188, 40, uint64(len(errorPage)), 0, 0}},
		{"nothing", nil, nil, SyncStats{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, n := range []int{1, 3, 50, 187, 188, 189, 1316, 1 << 20} {
				got, st := synced(c.in, n)
				if !bytes.Equal(got, c.want) {
					t.Fatalf("chunks of %d: %d packets out, want %d (%+v)", n, len(got)/pkt, len(c.want)/pkt, st)
				}
				if st != c.st {
					t.Fatalf("chunks of %d: %+v, want %+v", n, st, c.st)
				}
			}
		})
	}
}

// TestSyncUnderDamage cuts, damages and pollutes a stream at random places and
// asks for what must hold whatever happens.
func TestSyncUnderDamage(t *testing.T) {
	p := numbered(150)
	isPacket := map[string]int{}
	for i := range 150 {
		isPacket[string(p[i*PacketSize:][:PacketSize])] = i
	}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		unit := [...][2]int{{0, 0}, {4, 0}, {0, 16}}[seed%3]
		stream := framed(p, unit[0], unit[1])
		size := unit[0] + PacketSize + unit[1]
		due := 150
		for range r.IntN(3) {
			stream[r.IntN(150)*size+unit[0]] = 0
			due -= lockSyncs + 2 // what one accident may cost, wherever it strikes
		}
		for range r.IntN(3) {
			at := r.IntN(len(stream))
			due -= lockSyncs + 2
			if r.IntN(2) == 0 { // bytes lost: any number that shows
				n := min(r.IntN(3*size), len(stream)-at)
				if n%size == 0 {
					continue
				}
				stream = append(stream[:at], stream[at+n:]...)
				due -= n/size + 1
			} else { // bytes inserted, none of which happens to be where a sync byte is due
				g := bytes.Repeat([]byte{0xaa}, r.IntN(1000))
				stream = slices.Insert(stream, at, g...)
			}
		}
		out, st := synced(stream, len(stream))
		parts, st2 := synced(stream, 1+r.IntN(500))
		if !bytes.Equal(out, parts) || st != st2 {
			t.Fatalf("seed %d: chunks change the result: %+v, %+v", seed, st, st2)
		}
		if len(out)/PacketSize < due {
			t.Errorf("seed %d: only %d packets out, %d are due", seed, len(out)/PacketSize, due)
		}
		last := -1
		for b := range chunks(out, PacketSize) {
			i, ok := isPacket[string(b)]
			if !ok {
				t.Errorf("seed %d: after packet %d came one that never went in", seed, last)
				break
			}
			if i <= last {
				t.Errorf("seed %d: packet %d after %d", seed, i, last)
			}
			last = i
		}
	}
}

func TestSyncGivesEachDatagramAtOnce(t *testing.T) {
	p := poke(numbered(22), 8*PacketSize+3, 0x00) // one with a reserved header, alone
	var s Sync
	var out []byte
	for d := range chunks(p, 7*PacketSize) {
		before := len(out)
		out = s.Flush(s.Append(out, d))
		if len(out)-before != len(d) {
			t.Fatalf("%d of %d bytes out", len(out)-before, len(d))
		}
	}
	if !bytes.Equal(out, p) || s.Stats() != (SyncStats{188, 22, 0, 0, 0}) {
		t.Fatalf("%+v", s.Stats())
	}
	if out := s.Flush(s.Append(nil, errorPage)); len(out) != 0 {
		t.Fatalf("an error page became %d packets", len(out)/PacketSize)
	}
	text := []byte("G" + strings.Repeat("P", 187))
	if out := s.Flush(s.Append(s.Flush(s.Append(nil, p))[:0], text)); len(out) != 0 {
		t.Fatal("text became a packet in lock")
	}
}

func TestSyncDoesNotAllocate(t *testing.T) {
	p := numbered(100)
	in := join(p, []byte("garbage"), p[55:])
	var s Sync
	dst := make([]byte, 0, 2*len(in))
	if n := testing.AllocsPerRun(10, func() {
		for c := range chunks(in, 1000) {
			dst = s.Append(dst[:0], c)
		}
		dst = s.Flush(dst[:0])
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func FuzzSync(f *testing.F) {
	p := numbered(12)
	f.Add(p, uint16(100))
	f.Add(join(p[:700], p[800:]), uint16(1))
	f.Add(join(p[:5*PacketSize], []byte("GET / HTTP/1.1"), p), uint16(7))
	f.Add(framed(p, 4, 0), uint16(192))
	f.Add(framed(p, 0, 16)[100:], uint16(188))
	f.Add(poke(poke(p, 4*PacketSize, 0), 6*PacketSize, 0), uint16(188))
	f.Add(errorPage[:1000], uint16(300))
	f.Fuzz(func(t *testing.T, in []byte, chunk uint16) {
		whole, st := synced(in, max(len(in), 1))
		if len(whole)%PacketSize != 0 || uint64(len(whole)/PacketSize) != st.Packets {
			t.Fatalf("%d bytes out, %+v", len(whole), st)
		}
		if uint64(len(whole))+st.Skipped+st.Tail > uint64(len(in)) {
			t.Fatalf("%d bytes in, %+v", len(in), st)
		}
		rest := in
		for pkt := range chunks(whole, PacketSize) {
			if pkt[0] != SyncByte {
				t.Fatal("a packet without sync byte")
			}
			i := bytes.Index(rest, pkt)
			if i < 0 {
				t.Fatal("a packet that was not in the input, or in another order")
			}
			rest = rest[i+PacketSize:]
		}
		parts, st2 := synced(in, int(chunk)+1)
		if !bytes.Equal(parts, whole) || st != st2 {
			t.Fatalf("in chunks of %d: %+v, in one: %+v", chunk+1, st2, st)
		}
	})
}

func BenchmarkSync(b *testing.B) {
	p := numbered(1024)
	for _, c := range []struct {
		name  string
		in    []byte
		chunk int
	}{
		{"188/64k", p, 64 << 10},
		{"188/whole", p, len(p)},
		{"188/1316", p, 1316},
		{"192/64k", framed(p, 4, 0), 64 << 10},
		{"204/64k", framed(p, 0, 16), 64 << 10},
		{"garbage", bytes.Repeat([]byte("GIF89a and text "), 12<<10), 64 << 10},
	} {
		b.Run(c.name, func(b *testing.B) {
			var s Sync
			dst := make([]byte, 0, len(c.in)+4096)
			b.SetBytes(int64(len(c.in)))
			b.ReportAllocs()
			for b.Loop() {
				for in := c.in; len(in) > 0; {
					n := min(c.chunk, len(in))
					dst = s.Append(dst[:0], in[:n])
					in = in[n:]
				}
			}
		})
	}
}

func ExampleSync() {
	var s Sync
	packets := s.Append(nil, []byte("not a transport stream"))
	packets = s.Flush(packets)
	fmt.Println(len(packets), s.Stats().Skipped)
	// Output: 0 22
}
