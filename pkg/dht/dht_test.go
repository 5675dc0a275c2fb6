package dht

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anacrolix/dht/v2"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Sixty nodes, each of which is told of one other, find what one of them puts, and peers; and do so when a fifth of them is gone.
func TestLookupsConverge(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric(25 * time.Millisecond)
		nodes := join(t, f, 60)
		defer func() { closeAll(nodes) }()
		time.Sleep(2 * time.Minute)
		least := 1000
		for _, n := range nodes {
			least = min(least, n.Stats().Nodes)
		}
		t.Logf("the smallest table has %d nodes", least)
		idle(t, nodes, 5*time.Minute)
		d := sign(t, newKey(t), 5, "One")
		if err := nodes[17].Put(d); err != nil {
			t.Fatal(err)
		}
		want := map[netip.AddrPort]bool{}
		for i := range 20 {
			if err := nodes[i].Announce(d.ID, uint16(7000+i)); err != nil {
				t.Fatal(err)
			}
			want[netip.AddrPortFrom(home(i).Addr(), uint16(7000+i))] = true
		}
		time.Sleep(20 * time.Second)
		if _, n := nodes[17].Holders(d.ID); n != k {
			t.Errorf("%d nodes took the descriptor", n)
		}
		got := getAll(nodes, d)
		t.Logf("get: %v", &got)
		if got.found < 60 {
			t.Errorf("get: %v", &got)
		}
		got = peersAll(t, nodes, d.ID, want, 20)
		t.Logf("get_peers: %v", &got)
		if got.found < 60 {
			t.Errorf("get_peers: %v", &got)
		}
		// Every fifth dies, and nobody has noticed yet.
		var alive, dead []*Node
		for i, n := range nodes {
			if i%5 == 3 {
				dead = append(dead, n)
			} else {
				alive = append(alive, n)
			}
		}
		closeAll(dead)
		nodes = alive
		got = getAll(nodes, d)
		t.Logf("get, a fifth dead: %v", &got)
		if got.found < len(nodes) {
			t.Errorf("get, a fifth dead: %v", &got)
		}
		got = peersAll(t, nodes, d.ID, want, 20)
		t.Logf("get_peers, a fifth dead: %v", &got)
		if got.found < len(nodes) {
			t.Errorf("get_peers, a fifth dead: %v", &got)
		}
	})
}

// idle measures what nodes cost that nobody asks for anything.
func idle(t *testing.T, nodes []*Node, span time.Duration) {
	t.Helper()
	sum := func() (bytes, datagrams float64) {
		for _, n := range nodes {
			s := n.Stats()
			bytes += float64(s.BytesOut)
			datagrams += float64(s.DatagramsOut)
		}
		return bytes, datagrams
	}
	bytes, datagrams := sum()
	time.Sleep(span)
	b, d := sum()
	each := span.Seconds() * float64(len(nodes))
	out := (b - bytes) / each
	t.Logf("idle: %.0f bytes and %.2f datagrams a second, each way", out, (d-datagrams)/each)
	if out > 250 {
		t.Errorf("an idle node sends %.0f bytes a second", out)
	}
}

// What is published stays, an hour and more, for those who come later; what is newer takes its place; what is withdrawn goes.
func TestPublishedAgain(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric(25 * time.Millisecond)
		nodes := join(t, f, 6)
		defer func() { closeAll(nodes) }()
		key := newKey(t)
		first, second := sign(t, key, 5, "One"), sign(t, key, 6, "Two")
		if err := nodes[3].Put(first); err != nil {
			t.Fatal(err)
		}
		if err := nodes[3].Announce(key.ID(), 7000); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Minute)
		if err := nodes[3].Put(second); err != nil {
			t.Fatal(err)
		}
		if err := nodes[3].Put(first); !errors.Is(err, ErrStale) {
			t.Errorf("an older one: %v", err)
		}
		peer := map[netip.AddrPort]bool{netip.AddrPortFrom(home(3).Addr(), 7000): true}
		for range 3 {
			time.Sleep(50 * time.Minute)
			if got := getAll(nodes, second); got.found != len(nodes) {
				t.Errorf("get: %v", &got)
			}
			if got := peersAll(t, nodes, key.ID(), peer, 1); got.found != len(nodes) {
				t.Errorf("get_peers: %v", &got)
			}
		}
		nodes[3].Withdraw(key.ID())
		time.Sleep(31 * time.Minute)
		if got := peersAll(t, nodes, key.ID(), peer, 1); got.found != 0 {
			t.Errorf("half an hour after it was withdrawn: get_peers: %v", &got)
		}
		time.Sleep(90 * time.Minute)
		if _, err := nodes[5].Get(t.Context(), key.ID()); !errors.Is(err, ErrNotFound) {
			t.Errorf("two hours after it was withdrawn: %v", err)
		}
	})
}

// A node that starts again knows its neighbours; a network that was away for an hour is found again.
func TestComesBack(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric(25 * time.Millisecond)
		nodes := join(t, f, 12)
		defer func() { closeAll(nodes) }()
		time.Sleep(time.Minute)
		d := sign(t, newKey(t), 5, "One")
		_ = nodes[3].Put(d)
		time.Sleep(10 * time.Second)
		state, id := nodes[11].State(), nodes[11].ID()
		_ = nodes[11].Close()
		if err := nodes[11].Put(d); !errors.Is(err, ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		nodes[11] = startOn(t, f, Config{Listen: home(11), State: state})
		if nodes[11].ID() != id {
			t.Error("it has another id")
		}
		if _, err := nodes[11].Get(t.Context(), d.ID); err != nil {
			t.Error(err)
		}
		f.cut.Store(true)
		time.Sleep(time.Hour)
		f.cut.Store(false)
		time.Sleep(3 * time.Minute)
		if got := getAll(nodes, d); got.found != len(nodes) {
			t.Errorf("after the network was away: %v", &got)
		}
	})
}

func TestAlone(t *testing.T) {
	virtual(t, func(t *testing.T) {
		n := startOn(t, newFabric(time.Millisecond), Config{Listen: home(1), Bootstrap: []string{home(2).String()}, State: []byte("nonsense")})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := n.Get(ctx, newKey(t).ID()); !errors.Is(err, ErrAlone) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		got := make(chan error)
		go func() { got <- n.Peers(t.Context(), newKey(t).ID(), nil) }()
		synctest.Wait()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if err := <-got; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if out := n.Stats().DatagramsOut; out > 10 {
			t.Errorf("%d datagrams to nobody in a minute", out)
		}
	})
}

// However many ask, the answers are bounded, and one network does not take them all.
func TestRate(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric(time.Millisecond)
		nodes := join(t, f, 2)
		defer closeAll(nodes)
		time.Sleep(time.Minute)
		flood := func(from int) uint64 {
			before := nodes[0].Stats().DatagramsOut
			for range 10 {
				for i := range 200 {
					h := f.listen(home(50 + i%from))
					_, _ = h.WriteTo([]byte("d1:ad2:id20:abcdefghijklmnopqrst9:info_hash20:abcdefghijklmnopqrste1:q9:get_peers1:t1:a1:y1:qe"), net.UDPAddrFromAddrPort(home(0)))
				}
				time.Sleep(time.Second)
			}
			return nodes[0].Stats().DatagramsOut - before
		}
		const half = DefaultRate / 2
		if n := flood(1); n < 50 || n > 10*half/4+30 {
			t.Errorf("%d datagrams in ten seconds of a flood from one network", n)
		}
		if n := flood(100); n < 200 || n > 11*half+30 {
			t.Errorf("%d datagrams in ten seconds of a flood from everywhere", n)
		}
	})
}

// Who knows nobody but a visitor, since the one that it was told of has not answered yet, still finds what the others have.
func TestVisitorsAreNoNetwork(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric(20 * time.Millisecond)
		nodes, d := onAir(t, f, 10)
		defer func() { closeAll(nodes) }()
		late, visitor, begun := home(50), home(51), time.Now()
		f.mu.Lock()
		f.lost = func(from, to netip.AddrPort) bool {
			return from == home(0) && to == late && time.Since(begun) < 2500*time.Millisecond
		}
		f.mu.Unlock()
		n := startOn(t, f, Config{Listen: late, Bootstrap: []string{home(0).String()}})
		nodes = append(nodes, n, startOn(t, f, Config{Listen: visitor, Bootstrap: []string{late.String()}}))
		if err := n.ready(t.Context()); err != nil || time.Since(begun) > 2*time.Second {
			t.Fatalf("joined after %v, %v", time.Since(begun), err)
		}
		if got, err := n.Get(t.Context(), d.ID); err != nil || string(got.Item) != string(d.Item) {
			t.Errorf("%+v, %v", got, err)
		}
		t.Logf("found after %v", time.Since(begun))
	})
}

// Those who hold a descriptor are asked by many at once, and answer so many a second: who was not answered asks again.
func TestBusyHolders(t *testing.T) {
	virtual(t, func(t *testing.T) {
		f := newFabric(20 * time.Millisecond)
		nodes, d := onAir(t, f, 20)
		defer func() { closeAll(nodes) }()
		n, begun := nodes[7], time.Now()
		f.mu.Lock()
		f.lost = func(from, to netip.AddrPort) bool {
			for i := range 20 { // of all that hold it
				if from == home(i) && nodes[i].Stats().Descriptors == 0 {
					return false
				}
			}
			return to == home(7) && time.Since(begun) < time.Second
		}
		f.mu.Unlock()
		if got, err := n.Get(t.Context(), d.ID); err != nil || string(got.Item) != string(d.Item) {
			t.Errorf("%+v, %v", got, err)
		}
		begun = time.Now()
		err := n.Peers(t.Context(), d.ID, func(all []netip.AddrPort) { t.Logf("%v after %v", all, time.Since(begun)) })
		if err != nil || time.Since(begun) > 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		// What nobody has is said to be nowhere within seconds, too.
		begun = time.Now()
		if _, err := n.Get(t.Context(), sign(t, newKey(t), 5, "None").ID); !errors.Is(err, ErrNotFound) || time.Since(begun) > 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

// The same with real sockets.
func TestSockets(t *testing.T) {
	var nodes []*Node
	defer func() { closeAll(nodes) }()
	for i := range 8 {
		cfg := Config{Listen: netip.MustParseAddrPort("[::1]:0"), Rate: 1000}
		if i > 0 {
			cfg.Bootstrap = []string{nodes[i-1].Addr().String()}
		}
		n, err := Start(cfg)
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Skip("no IPv6 here: ", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	d := sign(t, newKey(t), 5, "One")
	_ = nodes[2].Put(d)
	_ = nodes[2].Announce(d.ID, 7000)
	for {
		if a, p := nodes[2].Holders(d.ID); a > 0 && p > 0 {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal("nobody took it")
		case <-time.After(20 * time.Millisecond):
		}
	}
	if got, err := nodes[7].Get(ctx, d.ID); err != nil || string(got.Item) != string(d.Item) {
		t.Errorf("%+v, %v", got, err)
	}
	found := 0
	err := nodes[6].Peers(ctx, d.ID, func(batch []netip.AddrPort) {
		for _, p := range batch {
			if p == netip.MustParseAddrPort("[::1]:7000") {
				found++
			}
		}
	})
	if err != nil || found != 1 {
		t.Errorf("%d, %v", found, err)
	}
	if len(nodes[0].State()) <= len(stateMark)+20 {
		t.Error("it has no state to save")
	}
}

func TestConfig(t *testing.T) {
	for _, x := range []struct{ s, want string }{
		{PublicBootstrap, ""}, {"router.example:6881", ""}, {"[2001:db8::1]:6881", ""},
		{"router.example", "host:port"}, {"192.0.2.1:6881", "IPv6 only"}, {"[::ffff:192.0.2.1]:6881", "IPv6 only"}, {"router.example:0", "port"}, {":6881", "host:port"},
	} {
		if err := CheckBootstrap(x.s); (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%q: %v", x.s, err)
		}
	}
	if _, err := Start(Config{Listen: netip.MustParseAddrPort("127.0.0.1:0")}); err == nil {
		t.Error("it listens on IPv4")
	}
}

// An id follows from its address (BEP 42), and is kept as long as the address is.
func TestID(t *testing.T) {
	ip, moved := netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:7777::1")
	id := newID([20]byte{}, ip)
	if !dht.NodeIdSecure(id, ip.AsSlice()) {
		t.Errorf("%x is none of %v", id, ip)
	}
	if newID(id, ip) != id {
		t.Error("it is not kept")
	}
	if got := newID(id, moved); got == id || !dht.NodeIdSecure(got, moved.AsSlice()) {
		t.Errorf("at another address: %x", got)
	}
	if newID(id, netip.Addr{}) != id {
		t.Error("it is not kept where the address is not known")
	}
}

// An answer that comes at the very end holds nothing up: the library used to leave with it, and Close waited for ever.
func TestCloseWhileAnswersCome(t *testing.T) {
	answer := []byte("d1:rd2:id20:abcdefghij0123456789e1:t1:x1:y1:re")
	for range 200 {
		n, err := Start(Config{Listen: netip.MustParseAddrPort("[::1]:0")})
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Skip("no IPv6 here: ", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("udp6", n.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		var flood sync.WaitGroup
		flood.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					_, _ = c.Write(answer)
				}
			}
		})
		for n.Stats().DatagramsIn < 50 {
			time.Sleep(100 * time.Microsecond)
		}
		closed := make(chan struct{})
		go func() { n.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(5 * time.Second):
			t.Error("it does not end")
			return
		}
		close(over)
		flood.Wait()
		c.Close()
	}
}
