package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

// operators are stores that pull from each other by name.
type operators struct {
	mu     sync.Mutex
	stores map[string]*store
	down   map[string]bool
	again  map[string]int // instances
	sent   int            // items
	asked  map[string]int
	page   int
}

func newOperators(names ...string) *operators {
	o := &operators{stores: map[string]*store{}, down: map[string]bool{}, again: map[string]int{}, asked: map[string]int{}, page: 100}
	for _, n := range names {
		o.stores[n] = newStore()
	}
	return o
}

var errDown = errors.New("down")

func (o *operators) fetch(_ context.Context, base string, since uint64, instance string) ([][]byte, uint64, string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked[base]++
	if o.down[base] {
		return nil, 0, "", errDown
	}
	mine := fmt.Sprint(base, o.again[base])
	if mine != instance {
		since = 0
	}
	items, next := o.stores[base].Since(since, o.page)
	o.sent += len(items)
	return items, next, mine, nil
}

func (o *operators) set(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
}

// pull has to pull from sources until the test ends.
func (o *operators) pull(t *testing.T, ctx context.Context, work *sync.WaitGroup, to string, from ...string) *Puller {
	t.Helper()
	p, err := NewPuller(PullConfig{Sources: from, Fetch: o.fetch, Store: o.stores[to]})
	if err != nil {
		t.Fatal(err)
	}
	work.Go(func() { p.Run(ctx) })
	return p
}

// bubble runs f in virtual time with a context and a group that end after it.
func bubble(t *testing.T, f func(t *testing.T, ctx context.Context, work *sync.WaitGroup)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		f(t, ctx, &work)
		cancel()
		work.Wait()
	})
}

// A channel that one knows is known to all that pull, along a chain and round a circle, and then it is quiet.
func TestPullChain(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, work *sync.WaitGroup) {
		o := newOperators("a", "b", "c", "d")
		o.pull(t, ctx, work, "b", "a", "c")
		o.pull(t, ctx, work, "c", "b")
		d := o.pull(t, ctx, work, "d", "c")
		o.pull(t, ctx, work, "a", "d", "b") // a circle
		for i := range uint64(50) {
			_, _ = o.stores["a"].Put(signed(t, i, 1, ""))
		}
		_, _ = o.stores["c"].Put(signed(t, 7, 2, "newer"))
		_, _ = o.stores["d"].Put(signed(t, 99, 1, "at the end"))
		time.Sleep(5 * time.Minute)
		want := o.stores["a"].seqs()
		for n, s := range o.stores {
			if got := s.seqs(); len(got) != 51 || !maps.Equal(got, want) {
				t.Errorf("%s has %d", n, s.len())
			}
		}
		if id, _, _ := channel.PeekItem(signed(t, 7, 1, "")); want[id] != 2 {
			t.Error("the older one won")
		}
		o.mu.Lock()
		sent := o.sent
		o.mu.Unlock()
		if sent > 6*60 { // each arrow carries each once
			t.Errorf("%d items were sent", sent)
		}
		time.Sleep(time.Hour)
		o.mu.Lock()
		if o.sent != sent {
			t.Errorf("%d more later", o.sent-sent)
		}
		if n := o.asked["c"]; n < 120 || n > 145 { // by b and d, every minute
			t.Errorf("asked %d times", n)
		}
		o.mu.Unlock()
		if st := d.Stats()[0]; st.Fresh != 50 || st.Forged != 0 || st.Failures != 0 || st.Pulls < 60 {
			t.Errorf("%+v", st)
		}
	})
}

func TestPullErrorsAndInstances(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, work *sync.WaitGroup) {
		o := newOperators("a", "b")
		_, _ = o.stores["a"].Put(signed(t, 1, 1, ""))
		o.down["a"] = true
		p := o.pull(t, ctx, work, "b", "a")
		time.Sleep(3 * time.Hour)
		o.mu.Lock()
		n := o.asked["a"]
		o.down["a"] = false
		o.mu.Unlock()
		if n < 12 || n > 20 {
			t.Errorf("asked %d times in 3 h", n)
		}
		if st := p.Stats()[0]; st.Failures != uint64(n) || st.LastErr != errDown.Error() || st.Next.IsZero() {
			t.Errorf("%+v", st)
		}
		time.Sleep(20 * time.Minute)
		if o.stores["b"].len() != 1 {
			t.Error("it did not recover")
		}
		// Another instance, whose versions begin anew: what it has comes, though it is behind.
		fresh := newStore()
		_, _ = fresh.Put(signed(t, 2, 1, ""))
		o.set(func() { o.stores["a"], o.again["a"] = fresh, 1 })
		time.Sleep(2 * time.Minute)
		if o.stores["b"].len() != 2 {
			t.Error("another instance was not read from its beginning")
		}
		// What was refused once is welcome a day later.
		id, _, _ := channel.PeekItem(signed(t, 1, 1, ""))
		o.stores["b"].remove(id)
		_, _ = fresh.Put(signed(t, 1, 1, ""))
		time.Sleep(25 * time.Hour)
		if o.stores["b"].len() != 2 {
			t.Error("not read anew after a day")
		}
	})
}

// A source of forged items costs little and is left alone; an honest one goes on beside it.
func TestPullForged(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, work *sync.WaitGroup) {
		o := newOperators("liar", "honest", "me")
		o.page = 1 << 20
		liar := o.stores["liar"]
		liar.trust = true
		for i := range uint64(1000) {
			item := signed(t, i%100, int64(i), "")
			item[len(item)-4] ^= 1
			_, _ = liar.Put(append(item, strings.Repeat(" ", int(i%2)*channel.MaxItem)...))
		}
		_, _ = o.stores["honest"].Put(signed(t, 1, 1, ""))
		p := o.pull(t, ctx, work, "me", "liar", "honest")
		time.Sleep(50 * time.Minute)
		me := o.stores["me"]
		if me.len() != 1 || me.putCount() > 200 {
			t.Errorf("%d items, %d puts", me.len(), me.putCount())
		}
		st := p.Stats()
		if st[0].Forged == 0 || st[0].Pulls != 1 || st[0].LastErr == "" || st[1].Pulls < 45 || st[1].Fresh != 1 {
			t.Errorf("%+v", st)
		}
		// It comes to reason.
		o.set(func() { o.stores["liar"] = newStore() })
		_, _ = o.stores["liar"].Put(signed(t, 2, 1, ""))
		time.Sleep(30 * time.Minute)
		if me.len() != 2 {
			t.Error("it is not asked again")
		}
	})
}

// Much is taken page by page, and no more at once than is allowed.
func TestPullMuch(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, work *sync.WaitGroup) {
		o := newOperators("a", "b")
		for _, s := range o.stores {
			s.trust = true
		}
		for i := range 2*maxPull + 500 {
			_, _ = o.stores["a"].Put(unsignedOf(channel.ID{byte(i), byte(i >> 8), byte(i >> 16)}, 1, 10))
		}
		o.page = 1000
		p := o.pull(t, ctx, work, "b", "a")
		time.Sleep(30 * time.Second)
		if n := o.stores["b"].len(); n != maxPull {
			t.Errorf("%d at first", n)
		}
		time.Sleep(3 * time.Minute)
		if n := o.stores["b"].len(); n != 2*maxPull+500 || p.Stats()[0].Since != uint64(n) {
			t.Errorf("%d in the end, %+v", n, p.Stats())
		}
		// An answer that is too large is cut.
		o.set(func() { o.again["a"], o.page = 1, 1<<20 })
		time.Sleep(2 * time.Minute)
		if st := p.Stats()[0]; st.Excess != maxPull+500 {
			t.Errorf("%+v", st)
		}
	})
}

func TestPullConfig(t *testing.T) {
	many := make([]string, MaxSources+1)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	for _, sources := range [][]string{nil, {"a", "a"}, many} {
		if _, err := NewPuller(PullConfig{Sources: slices.Clone(sources)}); !errors.Is(err, ErrSources) {
			t.Errorf("%d sources: %v", len(sources), err)
		}
	}
}
