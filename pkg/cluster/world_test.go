package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sixcast/sixcast/internal/testchannel"
	"github.com/sixcast/sixcast/pkg/channel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errStale, errFull = errors.New("stale"), errors.New("full")

// store is the simplest Store.
type store struct {
	max     int          // 0: no bound
	trust   bool         // signatures are not looked at
	publish func([]byte) // called with what is fresh, within Put

	mu      sync.Mutex
	version uint64
	items   map[channel.ID]stored
	order   []channel.ID // by version; an id may be there more than once
	puts    int
	at      map[string]time.Time // when an item came
}

type stored struct {
	item    []byte
	seq     int64
	version uint64
}

func newStore() *store { return &store{items: map[channel.ID]stored{}, at: map[string]time.Time{}} }

func (s *store) Put(item []byte) (bool, error) {
	s.mu.Lock()
	s.puts++
	s.mu.Unlock()
	id, seq, ok := channel.PeekItem(item)
	if !s.trust || !ok {
		d, err := channel.ParseDescriptor(item)
		if err != nil {
			return false, err
		}
		id, seq = d.ID, d.Seq
	}
	s.mu.Lock()
	old, known := s.items[id]
	switch {
	case known && bytes.Equal(old.item, item):
		s.mu.Unlock()
		return false, nil
	case known && old.seq >= seq:
		s.mu.Unlock()
		return false, errStale
	case !known && s.max > 0 && len(s.items) >= s.max:
		s.mu.Unlock()
		return false, errFull
	}
	s.version++
	s.items[id] = stored{slices.Clone(item), seq, s.version}
	s.order = append(s.order, id)
	s.at[string(item)] = time.Now()
	publish := s.publish
	s.mu.Unlock()
	if publish != nil {
		publish(item)
	}
	return true, nil
}

func (s *store) Since(version uint64, max int) (items [][]byte, next uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; version < s.version && len(items) < max; version++ {
		if e, ok := s.items[s.order[version]]; ok && e.version == version+1 {
			items = append(items, e.item)
		}
	}
	return items, version
}

// remove is what a store does on its own.
func (s *store) remove(id channel.ID) {
	s.mu.Lock()
	delete(s.items, id)
	s.mu.Unlock()
}

func (s *store) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.items)
}

func (s *store) seqs() map[channel.ID]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[channel.ID]int64{}
	for id, e := range s.items {
		m[id] = e.seq
	}
	return m
}

func (s *store) came(item []byte) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.at[string(item)]
	return t, ok
}

func (s *store) putCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.puts
}

// signed is a real item of channel n.
func signed(t testing.TB, n uint64, seq int64, description string) []byte {
	t.Helper()
	return testchannel.Sign(t, int(n), seq, channel.Values{Name: fmt.Sprint("Channel ", n), Description: description}).Item
}

// unsigned is an item with any signature, of a random channel.
func unsigned(r *rand.Rand, seq int64, size int) []byte {
	var id channel.ID
	for i := range id {
		id[i] = byte(r.Uint32())
	}
	return unsignedOf(id, seq, size)
}

func unsignedOf(id channel.ID, seq int64, size int) []byte {
	b := append([]byte("d1:k32:"), id[:]...)
	b = fmt.Appendf(b, "3:seqi%de3:sig64:", seq)
	b = append(b, make([]byte, 64)...)
	b = append(b, "1:vd1:d"...)
	b = fmt.Appendf(b, "%d:", size)
	b = append(b, bytes.Repeat([]byte("x"), size)...)
	return append(b, "ee"...)
}

func fast() tuning {
	return tuning{
		probeEvery: 100 * time.Millisecond, syncEvery: 500 * time.Millisecond, joinWait: 100 * time.Millisecond, joinMost: 500 * time.Millisecond,
		deadTime: 500 * time.Millisecond, leaveTime: 150 * time.Millisecond,
	}
}

var loopback = netip.AddrPortFrom(netip.IPv6Loopback(), 0)

// member starts one on loopback that publishes what is put into its store.
func startMember(t testing.TB, name string, s *store, tune tuning, change func(*Config)) *Cluster {
	t.Helper()
	cfg := Config{Name: name, Bind: loopback, Store: s, Logger: logger(t)}
	if change != nil {
		change(&cfg)
	}
	c, err := start(cfg, tune)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.publish = c.Publish
	s.mu.Unlock()
	t.Cleanup(func() { c.Close() })
	return c
}

func logger(t testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// group starts n members that know the first.
func group(t testing.TB, n int, tune tuning) (members []*Cluster, stores []*store) {
	t.Helper()
	for i := range n {
		s := newStore()
		c := startMember(t, fmt.Sprint("t", i), s, tune, func(cfg *Config) {
			if i > 0 {
				cfg.Join = []string{members[0].Addr().String()}
			}
		})
		members, stores = append(members, c), append(stores, s)
	}
	t.Cleanup(func() { // all at once
		var work sync.WaitGroup
		for _, c := range members {
			work.Go(func() { c.Close() })
		}
		work.Wait()
	})
	eventually(t, 5*time.Second, "all are members", func() bool {
		return !slices.ContainsFunc(members, func(c *Cluster) bool { return len(c.Members()) != n })
	})
	return members, stores
}

func eventually(t testing.TB, within time.Duration, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// spread puts items into members in turn, one at a time, and returns how long each took to be on all.
func spreadTimes(t testing.TB, stores []*store, puts int) (all []time.Duration) {
	t.Helper()
	for i := range puts {
		item := signed(t, uint64(1000+i), 1, "spread")
		begun := time.Now()
		if _, err := stores[i%len(stores)].Put(item); err != nil {
			t.Fatal(err)
		}
		last := begun
		for j, s := range stores {
			eventually(t, 10*time.Second, fmt.Sprintf("item %d is on %d", i, j), func() bool {
				at, ok := s.came(item)
				if ok && at.After(last) {
					last = at
				}
				return ok
			})
		}
		all = append(all, last.Sub(begun))
		time.Sleep(rand.N(50 * time.Millisecond)) // not in step with the gossip
	}
	slices.Sort(all)
	return all
}
