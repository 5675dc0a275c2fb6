package ts

import (
	"maps"
	"slices"
	"testing"
)

// ccPacket makes a packet of PID 0x100. Flags: p payload, a adaptation field,
// d discontinuity_indicator, r PCR, t transport error, s scrambled, n null.
func ccPacket(flags string, cc, content byte) []byte {
	b := make([]byte, PacketSize)
	b[0], b[1], b[3] = SyncByte, 0x01, cc&15
	for i := 4; i < PacketSize; i++ {
		b[i] = content
	}
	for _, f := range flags {
		switch f {
		case 'p':
			b[3] |= 0x10
		case 'a', 'd', 'r':
			if b[3]&0x20 == 0 {
				b[3] |= 0x20
				b[4], b[5] = 7, 0
			}
			if f == 'd' {
				b[5] |= 0x80
			}
			if f == 'r' {
				b[5] |= 0x10
			}
		case 't':
			b[1] |= 0x80
		case 's':
			b[3] |= 0x80
		case 'n':
			b[1], b[2] = 0x1f, 0xff
		}
	}
	return b
}

func TestContinuity(t *testing.T) {
	type pkt struct {
		flags       string
		cc, content byte
	}
	for _, c := range []struct {
		name string
		in   []pkt
		want Counters
	}{
		{"in order, around the wrap", []pkt{{"p", 14, 0}, {"p", 15, 1}, {"p", 0, 2}, {"p", 1, 3}}, Counters{}},
		{"any first value", []pkt{{"p", 9, 0}}, Counters{}},
		{"one lost", []pkt{{"p", 1, 0}, {"p", 3, 1}, {"p", 4, 2}}, Counters{Errors: 1}},
		{"no increment without payload", []pkt{{"p", 1, 0}, {"a", 1, 1}, {"a", 1, 2}, {"p", 2, 3}}, Counters{}},
		{"increment without payload", []pkt{{"p", 1, 0}, {"a", 2, 1}, {"p", 3, 3}}, Counters{Errors: 1}},
		{"a payload whose counter stands", []pkt{{"p", 1, 0}, {"p", 1, 1}}, Counters{Errors: 1}},
		{"sent twice", []pkt{{"p", 1, 0}, {"p", 1, 0}, {"p", 2, 1}}, Counters{Duplicates: 1}},
		{"sent four times", []pkt{{"p", 1, 0}, {"p", 1, 0}, {"p", 1, 0}, {"p", 1, 0}, {"p", 2, 1}}, Counters{Duplicates: 3, Repeats: 2}},
		{"two pairs", []pkt{{"p", 1, 0}, {"p", 1, 0}, {"p", 2, 1}, {"p", 2, 1}}, Counters{Duplicates: 2}},
		{"a duplicate after another packet", []pkt{{"p", 1, 0}, {"p", 2, 0}, {"p", 1, 0}}, Counters{Errors: 1}},
		{"discontinuity", []pkt{{"p", 1, 0}, {"pd", 9, 1}, {"p", 10, 2}}, Counters{Discontinuities: 1}},
		{"discontinuity without payload", []pkt{{"p", 1, 0}, {"d", 9, 1}, {"p", 10, 2}}, Counters{Discontinuities: 1}},
		{"discontinuity where the counter stands", []pkt{{"p", 1, 0}, {"pd", 1, 1}, {"p", 2, 2}}, Counters{Discontinuities: 1}},
		{"null packets", []pkt{{"pn", 1, 0}, {"pn", 1, 0}, {"pn", 7, 0}}, Counters{}},
		{"a transport error is a loss", []pkt{{"p", 1, 0}, {"pt", 2, 0}, {"p", 3, 1}}, Counters{Errors: 1, TransportErrors: 1}},
		{"scrambled", []pkt{{"ps", 1, 0}, {"ps", 2, 1}, {"ps", 4, 1}}, Counters{Errors: 1, Scrambled: 3}},
		{"one after the wrong one", []pkt{{"p", 1, 0}, {"p", 0, 1}, {"p", 1, 2}}, Counters{Errors: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var in []byte
			for _, p := range c.in {
				in = append(in, ccPacket(p.flags, p.cc, p.content)...)
			}
			want := c.want
			want.Packets = uint64(len(c.in))
			for _, batch := range []int{1, 2, 100} {
				k := NewContinuity()
				for b := range chunks(in, batch*PacketSize) {
					k.Observe(b)
				}
				if got := k.Total(); got != want {
					t.Errorf("batches of %d: %+v, want %+v", batch, got, want)
				}
			}
		})
	}
}

func TestDuplicatesMayDifferInTheirPCR(t *testing.T) {
	a := ccPacket("pr", 1, 7)
	for at, want := range map[int]Counters{
		6:  {Packets: 2, Duplicates: 1}, // the PCR
		11: {Packets: 2, Duplicates: 1}, // its last byte
		5:  {Packets: 2, Errors: 1},     // another flag
		12: {Packets: 2, Errors: 1},     // what follows
	} {
		k := NewContinuity()
		k.Observe(a)
		k.Observe(poke(a, at, a[at]^1))
		if got := k.Total(); got != want {
			t.Errorf("byte %d: %+v, want %+v", at, got, want)
		}
	}
}

func TestContinuityByPID(t *testing.T) {
	k := NewContinuity()
	var in []byte
	for i := range 10 {
		p := ccPacket("p", byte(i), byte(i))
		q := ccPacket("p", byte(2*i), byte(i))
		q[1] = 0x1f // the highest PID but one
		q[2] = 0xfe
		in = append(in, append(q, p...)...)
	}
	k.Observe(append(in, 1, 2, 3)) // a piece of a packet is left alone
	all := maps.Collect(k.All())
	if len(all) != 2 || all[0x100] != (Counters{Packets: 10}) || all[0x1ffe] != (Counters{Packets: 10, Errors: 9}) {
		t.Errorf("%+v", all)
	}
	if k.PID(0x1ffe) != all[0x1ffe] || k.PID(0x1ffe).Bytes() != 10*PacketSize || k.PID(5) != (Counters{}) {
		t.Error("PID and All differ")
	}
	for pid := range k.All() {
		if pid != 0x1ffe {
			t.Error("not in order of appearance")
		}
		break
	}
}

func TestContinuityBatchCounterWraps(t *testing.T) {
	k := NewContinuity()
	p := ccPacket("p", 1, 0)
	k.Observe(p)
	k.batch = 1<<32 - 1
	k.Observe(p)
	k.Observe(p)
	if got := k.Total(); got != (Counters{Packets: 3, Duplicates: 2, Repeats: 1}) {
		t.Errorf("%+v", got)
	}
}

func FuzzContinuity(f *testing.F) {
	f.Add(slices.Concat(ccPacket("p", 1, 0), ccPacket("pd", 1, 0), ccPacket("pr", 1, 0), ccPacket("pr", 1, 0)))
	f.Fuzz(func(t *testing.T, in []byte) {
		whole, single := NewContinuity(), NewContinuity()
		whole.Observe(in)
		for p := range chunks(in[:len(in)-len(in)%PacketSize], PacketSize) {
			single.Observe(p)
		}
		if whole.Total() != single.Total() || whole.Total().Packets != uint64(len(in)/PacketSize) {
			t.Fatalf("%+v in one batch, %+v packet by packet", whole.Total(), single.Total())
		}
	})
}

// mixed makes n packets of five PIDs, one in twelve with a PCR.
func mixed(n int) []byte {
	var b []byte
	var cc [5]byte
	for i := range n {
		k := [...]int{0, 0, 0, 1, 0, 0, 2, 0, 0, 3, 0, 4}[i%12]
		flags := "p"
		if i%12 == 0 {
			flags = "pr"
		}
		p := ccPacket(flags, cc[k], byte(i))
		p[2] = byte(k)
		cc[k]++
		b = append(b, p...)
	}
	return b
}

func BenchmarkContinuity(b *testing.B) {
	in := mixed(960)
	for name, batch := range map[string]int{"960": 960, "7": 7} {
		b.Run("batch="+name, func(b *testing.B) {
			k := NewContinuity()
			b.ReportAllocs()
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				for c := range chunks(in, batch*PacketSize) {
					k.Observe(c)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/960, "ns/packet")
		})
	}
}

func TestContinuityDoesNotAllocate(t *testing.T) {
	in := mixed(96)
	k := NewContinuity()
	if n := testing.AllocsPerRun(10, func() { k.Observe(in) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
