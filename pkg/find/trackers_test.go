package find

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/announce"
	"github.com/sixcast/sixcast/pkg/tracker"
)

// Swarms are spread evenly over the addresses of a name, and when one goes, only those that it listed move.
func TestOrder(t *testing.T) {
	var addrs []netip.AddrPort
	for i := range 5 {
		addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)}), 6969))
	}
	const swarms = 2000
	listed := make(map[netip.AddrPort]int)
	moved := 0
	for i := range swarms {
		id := announce.SwarmID{byte(i), byte(i >> 8)}
		all := order(id, addrs)
		if !slices.Equal(all, order(id, []netip.AddrPort{addrs[3], addrs[1], addrs[4], addrs[0], addrs[2], addrs[1]})) {
			t.Fatalf("swarm %d: another order of the same addresses makes a difference", i)
		}
		for _, a := range all[:listedBy] {
			listed[a]++
		}
		rest := order(id, addrs[1:])
		for _, a := range all[:listedBy] {
			if a != addrs[0] && !slices.Contains(rest[:listedBy], a) {
				moved++
			}
		}
	}
	for a, n := range listed {
		if want := swarms * listedBy / 5; n < want*9/10 || n > want*11/10 {
			t.Errorf("%v lists %d swarms, want about %d", a, n, want)
		}
	}
	if moved > 0 {
		t.Errorf("%d places moved though their address stayed", moved)
	}
}

// Two of three trackers of one name list a swarm. When these two are gone the third does, and who comes then finds who was there before.
func TestTwoOfThreeAreGone(t *testing.T) {
	var trackers []*tracker.Tracker
	var addrs []netip.AddrPort
	for range 3 {
		tr, err := tracker.Start(tracker.Config{Listen: netip.MustParseAddrPort("[::1]:0"), Interval: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		trackers, addrs = append(trackers, tr), append(addrs, tr.Addr())
	}
	swarm := announce.SwarmID{7}
	// All have one address here; they differ in their ports.
	name := func(context.Context, string) ([]netip.AddrPort, error) { return addrs, nil }
	start := func(port uint16, found func([]netip.AddrPort)) *Trackers {
		ts, err := StartTrackers(TrackersConfig{Swarm: swarm, Listen: netip.MustParseAddr("::1"), Port: port, Names: []string{"vps.example:6969"}, OnPeers: found, lookUp: name})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ts.Close() })
		return ts
	}
	lists := func(tr *tracker.Tracker) bool { return tr.Stats().Peers > 0 }
	start(1001, func([]netip.AddrPort) {})
	count := func() (n int) {
		for _, tr := range trackers {
			if lists(tr) {
				n++
			}
		}
		return n
	}
	eventually(t, "two list it", func() bool { return count() == 2 })
	var last *tracker.Tracker
	for _, tr := range trackers {
		if lists(tr) {
			tr.Close()
		} else {
			last = tr
		}
	}
	defer last.Close()
	var mu sync.Mutex
	var found []netip.AddrPort
	begin := time.Now()
	start(1002, func(peers []netip.AddrPort) {
		mu.Lock()
		defer mu.Unlock()
		found = append(found, peers...)
	})
	start(1003, func([]netip.AddrPort) {})
	eventually(t, "the newcomer finds somebody", func() bool { mu.Lock(); defer mu.Unlock(); return len(found) > 0 })
	if d := time.Since(begin); d > 4*time.Second {
		t.Errorf("that took %v", d)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so after ten seconds: %s", what)
		}
	}
}
