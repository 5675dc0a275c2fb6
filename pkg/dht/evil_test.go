package dht

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

// poison are messages that make the library, or a careless decoder, panic or allocate without bound.
var poison = []string{
	"d2:ip1:x1:t1:a1:y1:re",
	"d1:rd2:id20:aaaaaaaaaaaaaaaaaaaa6:valuesl1:xee1:t1:a1:y1:re",
	"d1:rd2:id20:aaaaaaaaaaaaaaaaaaaa1:v99999999:ee1:t1:a1:y1:re",
	"d1:t134217726:a1:y1:re",
	"d1:q13:announce_peer1:t1:a1:y1:qe",
	"d1:q3:put1:t1:a1:y1:qe",
	"d1:q3:get1:t1:a1:y1:qe",
	"d1:ade1:q9:get_peers1:t1:a1:y1:qe",
	"d1:eli1ee1:t1:a1:y1:ee",
	"d1:elee1:t1:a1:y1:ee",
	"d1:t1:a1:y1:re",
	"d1:t1:ae", "de", "d", "", "i1e", "le", "d1:y1:re", "d1:y",
}

// liar is a node that answers pings as it should, and everything else with garbage.
type liar struct {
	*host
	id  [20]byte
	key channel.ID // whose descriptor it forges
}

func (l *liar) run() {
	b := make([]byte, 1<<16)
	for n := 0; ; n++ {
		size, from, err := l.ReadFrom(b)
		if err != nil {
			return
		}
		var q query
		if kind(b[:size]) != 'q' || !q.parse(b[:size]) {
			continue
		}
		_, _ = l.WriteTo(l.answer(from.(*net.UDPAddr).AddrPort(), &q, n), from)
	}
}

func (l *liar) answer(from netip.AddrPort, q *query, n int) []byte {
	a := reply{token: []byte("token")}
	if q.method != methodPing {
		switch n % 5 {
		case 0:
			return append(q.refuse(nil, errServer), poison[rand.IntN(len(poison))]...)
		case 1:
			junk := make([]byte, rand.IntN(300))
			for i := range junk {
				junk[i] = byte(rand.Uint32())
			}
			return junk
		case 2: // the transaction is right, so the library would look at it
			return appendString([]byte("d2:ip1:x1:rd2:id20:aaaaaaaaaaaaaaaaaaaae1:t"), append(q.transaction, "1:y1:re"...)...)
		}
		// Nobody is at these addresses, and what ids: right beside the target.
		for i := range k {
			near := q.target
			near[18], near[19] = byte(rand.Uint32()), byte(rand.Uint32())
			a.nodes = append(a.nodes, node{near, home(0xf000 + n%200*k + i)})
		}
		a.peers = []netip.AddrPort{netip.MustParseAddrPort("[::ffff:192.0.2.1]:80"), netip.MustParseAddrPort("[ff02::1]:80"),
			netip.MustParseAddrPort("[::1]:80"), netip.MustParseAddrPort("[fd00::1]:80"), netip.MustParseAddrPort("[fe80::1]:80"), netip.MustParseAddrPort("[2001:db8::7]:0")}
		a.item = &item{key: l.key[:], sig: make([]byte, 64), seq: 1 << 40, value: []byte("d1:n6:Forgede")}
		a.seq, a.item0 = true, 1<<40
	}
	return a.append(nil, l.id, from, q.transaction)
}

// A fifth of the nodes lies about all that it can lie about.
func TestLiars(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric(25 * time.Millisecond)
		nodes := join(t, f, 32)
		defer func() { closeAll(nodes) }()
		key := newKey(t)
		for i := range 8 {
			l := &liar{host: f.listen(home(100 + i)), key: key.ID()}
			for j := range l.id {
				l.id[j] = byte(rand.Uint32())
			}
			if i < 4 { // these have made sure to be among the nearest
				l.id = key.ID().SwarmID()
				l.id[3] ^= byte(i + 1)
			}
			go l.run()
			defer l.Close()
			for _, n := range rand.Perm(32)[:15] { // they make themselves known
				q := appendString([]byte("d1:ad2:id"), l.id[:]...)
				q = appendString(append(q, "6:target"...), l.id[:]...)
				_, _ = l.WriteTo(append(q, "e1:q9:find_node1:t1:x1:y1:qe"...), net.UDPAddrFromAddrPort(home(n)))
			}
		}
		time.Sleep(2 * time.Minute)
		d := sign(t, key, 5, "One")
		if err := nodes[17].Put(d); err != nil {
			t.Fatal(err)
		}
		want := map[netip.AddrPort]bool{}
		for i := range 20 {
			_ = nodes[i].Announce(d.ID, 7000)
			want[netip.AddrPortFrom(home(i).Addr(), 7000)] = true
		}
		time.Sleep(time.Minute)
		announced, put := nodes[17].Holders(d.ID)
		t.Logf("%d nodes took the announcement, %d the descriptor", announced, put)
		got := getAll(nodes, d)
		t.Logf("get: %v", &got)
		if got.found < 30 {
			t.Errorf("get: %v", &got)
		}
		got = peersAll(t, nodes, d.ID, want, 15)
		t.Logf("get_peers: %v", &got)
		if got.found < 30 {
			t.Errorf("get_peers: %v", &got)
		}
	})
}

// Whatever comes, from whomever: no panic, and the node goes on.
func TestPoison(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric(time.Millisecond)
		nodes := join(t, f, 3)
		defer closeAll(nodes)
		h := f.listen(home(50))
		defer h.Close()
		for _, s := range poison {
			_, _ = h.WriteTo([]byte(s), net.UDPAddrFromAddrPort(home(0)))
		}
		for i := range 300 {
			_, _ = h.WriteTo(make([]byte, i*20), net.UDPAddrFromAddrPort(home(0)))
		}
		time.Sleep(5 * time.Second)
		d := sign(t, newKey(t), 1, "x")
		_ = nodes[1].Put(d)
		time.Sleep(10 * time.Second)
		if got := getAll(nodes, d); got.found != 3 {
			t.Error(&got)
		}
		if n := nodes[0].Stats().Dropped; n < 300 {
			t.Errorf("%d dropped", n)
		}
	})
}

func TestGuardTakesOnlyWhatCanBe(t *testing.T) {
	good := "d1:rd2:id20:aaaaaaaaaaaaaaaaaaaae1:t1:a1:y1:re"
	for _, x := range []struct {
		from, data string
		loopback   bool
		want       bool
	}{
		{"[2001:db8::1]:1", good, false, true},
		{"[2001:db8::1]:1", good + "\x00\x00", false, true},
		{"[::1]:1", good, true, true},
		{"[::1]:1", good, false, false},
		{"[fe80::1%eth0]:1", good, false, false},
		{"[::ffff:192.0.2.1]:1", good, false, false},
		{"[ff02::1]:1", good, false, false},
		{"[::]:1", good, false, false},
		{"[2001:db8::1]:0", good, false, false},
	} {
		g := newGuard(nil, x.loopback)
		if got := g.take(netip.MustParseAddrPort(x.from), []byte(x.data)); got != x.want {
			t.Errorf("%q from %s: %v", x.data, x.from, got)
		}
	}
	g := newGuard(nil, false)
	for _, s := range poison {
		if g.take(home(1), []byte(s)) && s != "d1:t1:a1:y1:re" && s != "d1:y1:re" {
			t.Errorf("%q", s)
		}
	}
	// A flood is dropped before anything is decoded.
	for range 2 * maxArrivals {
		g.take(home(1), []byte(good))
	}
	if n := g.dropped.Load(); n < maxArrivals/2 {
		t.Errorf("%d dropped", n)
	}
}
