//go:build linux

package acceptance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/dht"
)

// Sixty nodes of the DHT with an address each, in the tests' own network, of which each was told of one other: what one puts and announces,
// all others find at once, over several hops, also when a fifth of them has just been killed.
func TestSixtyNodes(t *testing.T) {
	t.Parallel()
	const nodes = 60
	at := func(i int) netip.AddrPort { return netip.MustParseAddrPort(fmt.Sprintf("[fd00:6:d:%x::1]:6881", i+1)) }
	batch := "link set lo up\n"
	for i := range nodes {
		batch += fmt.Sprintf("addr add %v/128 dev lo nodad\n", at(i).Addr())
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip: %v: %s", err, out)
	}
	random := rand.New(rand.NewPCG(1, 2))
	var all []*dht.Node
	end := func(nodes []*dht.Node) { // each waits for answers that were under way
		var work sync.WaitGroup
		for _, n := range nodes {
			work.Go(func() { n.Close() })
		}
		work.Wait()
	}
	defer func() { end(all) }()
	for i := range nodes {
		cfg := dht.Config{Listen: at(i)}
		if i > 0 {
			cfg.Bootstrap = []string{at(random.IntN(i)).String()}
		}
		n, err := dht.Start(cfg)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
		time.Sleep(20 * time.Millisecond)
	}
	key := channel.KeyFromSeed([32]byte{1})
	d, err := channel.SignDescriptor(key, time.Now().Unix(), channel.Values{Name: "ch1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := all[17].Put(d); err != nil {
		t.Fatal(err)
	}
	if err := all[17].Announce(d.ID, 6400); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "eight nodes hold both", func() bool {
		announced, put := all[17].Holders(d.ID)
		return announced >= 8 && put >= 8
	})
	look := func(who []*dht.Node) {
		t.Helper()
		var mu sync.Mutex
		var took []time.Duration
		descriptors, peers := 0, 0
		var work sync.WaitGroup
		for _, n := range who {
			work.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				begin := time.Now()
				got, err := n.Get(ctx, d.ID)
				d1 := time.Since(begin)
				found := false
				_ = n.Peers(ctx, d.ID, func(list []netip.AddrPort) {
					for _, p := range list {
						found = found || p == netip.AddrPortFrom(at(17).Addr(), 6400)
					}
				})
				mu.Lock()
				defer mu.Unlock()
				took = append(took, d1)
				if err == nil && got.Values.Name == "ch1" {
					descriptors++
				}
				if found {
					peers++
				}
			})
		}
		work.Wait()
		t.Logf("of %d, %d find the descriptor and %d the peer; a descriptor takes %v in the median, %v at most", len(who), descriptors, peers,
			quantile(took, 0.5).Round(time.Millisecond), quantile(took, 1).Round(time.Millisecond))
		if descriptors < len(who) || peers < len(who) {
			t.Errorf("of %d, %d found the descriptor and %d the peer", len(who), descriptors, peers)
		}
	}
	look(all)
	var left, gone []*dht.Node
	for i, n := range all {
		if i%5 == 4 {
			gone = append(gone, n) // 17 is not among them
		} else {
			left = append(left, n)
		}
	}
	end(gone)
	look(left)
}
