package link

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/sixcast/sixcast/pkg/wire"
)

// quiet is an owner that counts.
type quiet struct {
	sent int
	last []byte
}

func (q *quiet) Send(_ netip.AddrPort, b []byte) { q.sent++; q.last = append(q.last[:0], b...) }
func (*quiet) Established(*Link)                 {}
func (*quiet) Closed(*Link, wire.ByeReason, string) {
}
func (*quiet) Moved(*Link, netip.AddrPort) {}

// bench joins two tables without a network.
func bench(null bool) (a, b *Table, la, lb *Link, qa, qb *quiet, addrA, addrB netip.AddrPort) {
	addrA, addrB = addr("[2001:db8:1::1]:1"), addr("[2001:db8:2::1]:1")
	qa, qb = &quiet{}, &quiet{}
	a = NewTable(Config{Random: seeded(1), Null: null}, qa)
	b = NewTable(Config{Random: seeded(2), Null: null}, qb)
	la = a.Dial(0, addrB, nil)
	b.Receive(0, addrA, slices.Clone(qa.last))
	a.Receive(0, addrB, slices.Clone(qb.last))
	b.Receive(0, addrA, slices.Clone(qa.last))
	a.Receive(0, addrB, slices.Clone(qb.last))
	lb = b.ByPeer(a.Key())
	return
}

func TestDatagramsAllocateNothing(t *testing.T) {
	a, b, la, lb, qa, _, addrA, addrB := bench(false)
	value := &struct{ x int }{1}
	tag := a.NewTag(la, value)
	shard := append(tagBytes(tag), wire.TypeShard)
	shard = append(shard, make([]byte, 1200)...)
	text := message("a state that is long enough to be one")
	buf := make([]byte, 0, wire.MaxDatagram)
	noise := forgedHello(seededRand())
	noise[0] = 0xff
	now := Time(0)
	for _, c := range []struct {
		name string
		f    func()
	}{
		{"a bare datagram", func() {
			if r := a.Receive(now, addrB, shard); r.Value != value {
				t.Fatal("lost")
			}
		}},
		{"an unknown tag", func() { a.Receive(now, addrB, noise) }},
		{"sealing and opening", func() {
			now += ms
			if err := la.SendControl(now, text); err != nil {
				t.Fatal(err)
			}
			buf = append(buf[:0], qa.last...)
			if r := b.Receive(now, addrA, buf); r.Link != lb || r.Messages == nil {
				t.Fatal("lost")
			}
		}},
		{"a tick with nothing to do", func() { a.Tick(now) }},
	} {
		if allocs := testing.AllocsPerRun(200, c.f); allocs != 0 {
			t.Errorf("%s: %v allocations", c.name, allocs)
		}
	}
}

func BenchmarkBareDatagram(b *testing.B) {
	x, _, lx, _, _, _, _, from := bench(false)
	for i := range 100 {
		x.NewTag(lx, i)
	}
	shard := append(tagBytes(x.NewTag(lx, 0)), make([]byte, 1220)...)
	shard[8] = wire.TypeShard
	b.ReportAllocs()
	for b.Loop() {
		x.Receive(0, from, shard)
	}
}

func BenchmarkSealAndOpen(b *testing.B) {
	_, y, lx, _, q, _, from, _ := bench(false)
	text := message("a report of thirty bytes or so")
	buf := make([]byte, 0, wire.MaxDatagram)
	b.ReportAllocs()
	for b.Loop() {
		_ = lx.SendControl(0, text)
		buf = append(buf[:0], q.last...)
		y.Receive(0, from, buf)
	}
}

func benchmarkHandshake(b *testing.B, null bool) {
	b.ReportAllocs()
	for b.Loop() {
		if _, _, _, lb, _, _, _, _ := bench(null); lb == nil {
			b.Fatal("no link")
		}
	}
}

func BenchmarkHandshakeBothSides(b *testing.B)     { benchmarkHandshake(b, false) }
func BenchmarkNullHandshakeBothSides(b *testing.B) { benchmarkHandshake(b, true) }

// BenchmarkHelloUnderLoad is what one forged HELLO costs a node that asks for
// cookies.
func BenchmarkHelloUnderLoad(b *testing.B) {
	random := seededRand()
	x := NewTable(Config{Random: seeded(1)}, &quiet{})
	for range 300 {
		x.Receive(0, randomAddr(random), forgedHello(random))
	}
	hello, from := forgedHello(random), randomAddr(random)
	b.ReportAllocs()
	for b.Loop() {
		x.Receive(0, from, hello)
	}
}
