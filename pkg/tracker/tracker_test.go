package tracker

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/announce"
	"github.com/sixcast/sixcast/pkg/find"
	"github.com/sixcast/sixcast/pkg/udp"
)

var loopback = netip.MustParseAddr("::1")

func start(t *testing.T, cfg Config) *Tracker {
	t.Helper()
	if !cfg.Listen.IsValid() {
		cfg.Listen = netip.AddrPortFrom(loopback, 0)
	}
	tr, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

// meet is a finder that collects whom trackers name.
type meet struct {
	mu   sync.Mutex
	seen map[netip.AddrPort]bool
	f    *find.Trackers
}

func join(t *testing.T, id announce.SwarmID, port uint16, trackers ...string) *meet {
	t.Helper()
	m := &meet{seen: map[netip.AddrPort]bool{}}
	var err error
	m.f, err = find.StartTrackers(find.TrackersConfig{Swarm: id, Listen: loopback, Port: port, Names: trackers, OnPeers: func(peers []netip.AddrPort) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, p := range peers {
			m.seen[p] = true
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.f.Close() })
	return m
}

func (m *meet) met(port uint16) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[netip.AddrPortFrom(loopback, port)]
}

func wait(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("in vain: " + what)
		}
	}
}

func TestPeersFindEachOther(t *testing.T) {
	a, b := start(t, Config{}), start(t, Config{})
	// One of the trackers answers nobody, one name does not exist.
	dead, err := udp.Listen(udp.Config{Listen: netip.AddrPortFrom(loopback, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	id := announce.SwarmID{1}
	first := join(t, id, 7001, dead.LocalAddr().String(), a.Addr().String())
	wait(t, "the first is listed", func() bool { return a.Stats().Peers == 1 })
	second := join(t, id, 7002, "no-such-host.invalid:6969", b.Addr().String(), "udp://"+a.Addr().String())
	wait(t, "the second is told of the first", func() bool { return second.met(7001) })
	first.f.Soon()
	wait(t, "the first is told of the second", func() bool { return first.met(7002) })
	if second.met(7002) {
		t.Error("it is told of itself")
	}
	other := join(t, announce.SwarmID{2}, 7003, a.Addr().String())
	wait(t, "the third is listed", func() bool { return a.Stats().Swarms == 2 })
	if other.met(7001) || other.met(7002) {
		t.Error("it is told of peers of another swarm")
	}
	second.f.Close()
	wait(t, "the second is taken off both lists", func() bool { return a.Stats().Peers == 2 && b.Stats().Peers == 0 })
}

func TestOnlyKnownChannels(t *testing.T) {
	known := announce.SwarmID{1}
	tr := start(t, Config{Known: func(id *announce.SwarmID) bool { return *id == known }})
	join(t, announce.SwarmID{2}, 7001, tr.Addr().String())
	wait(t, "it is refused", func() bool { return tr.Stats().Unknown > 0 })
	join(t, known, 7002, tr.Addr().String())
	wait(t, "it is listed", func() bool { return tr.Stats().Peers == 1 })
}

func TestPortInUse(t *testing.T) {
	tr := start(t, Config{Sockets: 1})
	if _, err := Start(Config{Listen: tr.Addr(), Sockets: 1}); !errors.Is(err, udp.ErrPortInUse) {
		t.Errorf("%v", err)
	}
}

// What a tracker answers a second, beside a loop that sends datagrams of the same sizes back.
func BenchmarkServe(b *testing.B) {
	const flight = 512
	bench := func(b *testing.B, to netip.AddrPort, request []byte) {
		c, err := udp.Listen(udp.Config{Listen: netip.AddrPortFrom(loopback, 0)})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		var q udp.SendQueue
		batch := new(udp.Batch)
		sent, got := 0, 0
		b.ResetTimer()
		for got < b.N {
			for sent < b.N && sent-got < flight {
				q.Add(to, nil, request)
				sent++
			}
			_, _ = c.Flush(&q)
			k, err := c.ReadBatch(batch)
			if err != nil {
				b.Fatal(err)
			}
			got += k
		}
	}
	b.Run("announce", func(b *testing.B) {
		tr, err := Start(Config{Listen: netip.AddrPortFrom(loopback, 0), Sockets: 1})
		if err != nil {
			b.Fatal(err)
		}
		defer tr.Close()
		key := tr.cfg.Key
		s := announce.NewServer(announce.ServerConfig{Key: key, Store: tr.store}, &tr.stats)
		var r announce.Reply
		_ = r.Decode(s.Handle(time.Now().Unix(), 0, netip.AddrPortFrom(loopback, 1), announce.AppendConnect(nil, 1), nil))
		a := announce.Announce{Connection: r.Connection, Port: 80, Want: -1}
		bench(b, tr.Addr(), a.Append(nil))
	})
	b.Run("echo", func(b *testing.B) {
		c, err := udp.Listen(udp.Config{Listen: netip.AddrPortFrom(loopback, 0), NoOffload: true})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		go func() {
			batch := new(udp.Batch)
			var q udp.SendQueue
			for {
				k, err := c.ReadBatch(batch)
				if err != nil {
					return
				}
				for _, d := range batch.Datagrams[:k] {
					q.Add(d.Addr, nil, d.Data[:20])
				}
				_, _ = c.Flush(&q)
			}
		}()
		a := announce.Announce{Port: 80}
		bench(b, c.LocalAddr(), a.Append(nil))
	})
}
