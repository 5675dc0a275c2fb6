package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sixcast/sixcast/internal/testchannel"
	"github.com/sixcast/sixcast/pkg/channel"
)

// check compares what the catalog's orders have with what its entries say.
func check(t testing.TB, c *Catalog) {
	t.Helper()
	c.mu.RLock()
	defer c.mu.RUnlock()
	want := make(map[*index]int)
	for id, slot := range c.byID {
		e := c.slots[slot]
		if e == nil || e.d.ID != id || e.slot != slot {
			t.Fatalf("slot %d does not hold %v", slot, id)
		}
		find := func(x *index, el element) {
			want[x]++
			if _, _, found := x.place(el); !found {
				t.Fatalf("%v %q is missing in an order", id, e.d.Values.Name)
			}
		}
		c.orders(e, find)
		for _, p := range entryWords(&e.d.Values) {
			find(&c.words, p.in(slot))
		}
		if got, want := c.attrs[slot], c.attributes(e.d.Values.Language, e.d.Values.Country, e.d.Values.Category); got != want {
			t.Fatalf("attributes of %v are not its own", id)
		}
	}
	for _, x := range []*index{&c.byName, &c.byExact, &c.bySkeleton, &c.byVersion, &c.bySeen, &c.words} {
		checkIndex(t, x)
		if x.n != want[x] {
			t.Fatalf("an order has %d elements, want %d", x.n, want[x])
		}
	}
	if len(c.byID)+len(c.free) != len(c.slots) {
		t.Fatalf("%d channels and %d free of %d slots", len(c.byID), len(c.free), len(c.slots))
	}
}

func TestNewestDescriptorWins(t *testing.T) {
	cl := newClock()
	c := New(Config{Now: cl.now})
	v := channel.Values{Name: "Rete 4", Now: "News"}
	old := put(t, c, 1, start.Add(-time.Minute), v)
	first, _ := c.Get(testchannel.Key(1).ID())
	cl.add(time.Minute)

	if fresh, err := c.Put(old); fresh || err != nil {
		t.Errorf("what is known: fresh %v, %v", fresh, err)
	}
	again, ok := c.Get(testchannel.Key(1).ID())
	if want := start.Add(time.Minute); !ok || !again.Seen.Equal(want) || !again.First.Equal(start) || again.Version != first.Version {
		t.Errorf("refreshed: %+v", again)
	}
	v.Now = "Film"
	if _, err := c.Put(sign(t, 1, start.Add(-time.Minute), v)); !errors.Is(err, ErrStale) {
		t.Errorf("the same seq with other bytes: %v", err)
	}
	newer := put(t, c, 1, start, v)
	if _, err := c.Put(old); !errors.Is(err, ErrStale) {
		t.Errorf("an older one: %v", err)
	}
	e, _ := c.Get(testchannel.Key(1).ID())
	if e.Descriptor.Values.Now != "Film" || !bytes.Equal(e.Descriptor.Item, newer) || e.Version <= first.Version || !e.First.Equal(start) || c.Len() != 1 {
		t.Errorf("the newer one: %+v", e)
	}
	check(t, c)
}

func TestItemBelongsToTheCatalog(t *testing.T) {
	c := New(Config{Now: newClock().now})
	item := sign(t, 1, start, channel.Values{Name: "a", Unknown: []channel.Entry{{Key: "x", Value: []byte("i1e")}}})
	mine := bytes.Clone(item)
	if _, err := c.Put(mine); err != nil {
		t.Fatal(err)
	}
	clear(mine)
	e, _ := c.Get(testchannel.Key(1).ID())
	if !bytes.Equal(e.Descriptor.Item, item) || string(e.Descriptor.Values.Unknown[0].Value) != "i1e" {
		t.Error("the caller's buffer is used")
	}
}

func TestForgeriesAreRefused(t *testing.T) {
	c := New(Config{Now: newClock().now})
	good := put(t, c, 1, start, channel.Values{Name: "Rete 4"})
	newer := sign(t, 1, start.Add(time.Second), channel.Values{Name: "Rete 4", Now: "x"})
	for i := range newer {
		bad := bytes.Clone(newer)
		bad[i] ^= 1
		fresh, err := c.Put(bad)
		if fresh || err == nil {
			t.Fatalf("byte %d changed: accepted", i)
		}
	}
	many := channel.Values{Name: "a"}
	for range MaxTrackers + 1 {
		many.Trackers = append(many.Trackers, "u")
	}
	unknown := channel.Values{Name: "a"}
	for i := range MaxUnknown + 1 {
		unknown.Unknown = append(unknown.Unknown, channel.Entry{Key: fmt.Sprintf("x%02d", i), Value: []byte("0:")})
	}
	for _, v := range []channel.Values{many, unknown} {
		if _, err := c.Put(sign(t, 2, start, v)); !errors.Is(err, channel.ErrDescriptor) {
			t.Errorf("%d trackers, %d unknown keys: %v", len(v.Trackers), len(v.Unknown), err)
		}
	}
	if e, _ := c.Get(testchannel.Key(1).ID()); !bytes.Equal(e.Descriptor.Item, good) || c.Len() != 1 {
		t.Error("a forgery changed something")
	}
}

// What an attacker can have for nothing costs no signature check: a hundred times less than one.
func TestReplaysAreCheap(t *testing.T) {
	cl := newClock()
	c := New(Config{Now: cl.now, Max: 1})
	old := sign(t, 1, start, channel.Values{Name: "a"})
	known := put(t, c, 1, start.Add(time.Second), channel.Values{Name: "a"})
	other := sign(t, 2, start, channel.Values{Name: "b"})
	future := sign(t, 1, start.Add(MaxAhead+time.Second), channel.Values{Name: "a"})
	for _, item := range [][]byte{old, known, other, future} {
		// One with a signature that is wrong is refused for the same reason, so the signature was not looked at.
		_, want := c.Put(item)
		forged := bytes.Clone(item)
		forged[bytes.Index(forged, []byte("3:sig64:"))+10] ^= 1
		if bytes.Equal(item, known) {
			want = ErrStale // it is another of the same seq
		}
		if _, err := c.Put(forged); err == nil || !errors.Is(err, want) {
			t.Errorf("forged: %v, else %v", err, want)
		}
		if n := testing.AllocsPerRun(10, func() { _, _ = c.Put(item) }); n > 1 {
			t.Errorf("%v: %v allocations", want, n)
		}
	}
}

func TestFutureSeq(t *testing.T) {
	c := New(Config{Now: newClock().now})
	put(t, c, 1, start.Add(time.Hour), channel.Values{Name: "a clock an hour ahead"})
	put(t, c, 2, start.Add(MaxAhead), channel.Values{Name: "b"})
	for _, at := range []time.Time{start.Add(MaxAhead + time.Second), time.Unix(start.UnixMilli(), 0), time.Unix(1<<62, 0)} {
		if _, err := c.Put(sign(t, 1, at, channel.Values{Name: "a"})); !errors.Is(err, ErrFuture) {
			t.Errorf("seq %d: %v", at.Unix(), err)
		}
	}
	put(t, c, 3, time.Unix(0, 0), channel.Values{Name: "seq 0 is published none the less"})
	check(t, c)
}

func TestFullCatalog(t *testing.T) {
	cl := newClock()
	c := New(Config{Now: cl.now, Max: 3, Keep: time.Hour})
	items := make([][]byte, 4)
	for i := range items {
		items[i] = sign(t, i, start, station(i))
	}
	for _, item := range items[:3] {
		if _, err := c.Put(item); err != nil {
			t.Fatal(err)
		}
		cl.add(time.Minute)
	}
	if _, err := c.Put(items[3]); !errors.Is(err, ErrFull) {
		t.Fatalf("full: %v", err)
	}
	put(t, c, 0, start.Add(time.Second), station(9)) // what is known may change, and is refreshed by it
	cl.add(59*time.Minute + time.Second)
	if fresh, err := c.Put(items[3]); !fresh || err != nil {
		t.Fatalf("full, one has expired: %v", err)
	}
	if _, ok := c.Get(testchannel.Key(1).ID()); ok || c.Len() != 3 {
		t.Error("the wrong one made room")
	}
	check(t, c)
}

func TestExpire(t *testing.T) {
	cl := newClock()
	gone := 0
	c := New(Config{Now: cl.now, OnChange: func(ch Change) {
		if ch.Kind == Removed {
			gone++
		}
	}})
	const n = 3*expireBatch + 5
	items := stations(t, n, start)
	for _, item := range items {
		if _, err := c.Put(item); err != nil {
			t.Fatal(err)
		}
	}
	cl.add(DefaultKeep)
	for _, item := range items[:10] {
		if _, err := c.Put(item); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.Expire(cl.now()); got != 0 {
		t.Errorf("%d expired too soon", got)
	}
	cl.add(time.Second)
	if got := c.Expire(cl.now()); got != n-10 || gone != n-10 || c.Len() != 10 {
		t.Errorf("%d expired, %d were told, %d are left", got, gone, c.Len())
	}
	check(t, c)
	cl.add(2 * DefaultKeep)
	if got := c.Expire(cl.now()); got != 10 {
		t.Errorf("%d expired", got)
	}
	check(t, c)
}

// Catalogs that tell each other all they know, over and over, lose what is not published any more.
func TestMergeKeepsNothingAlive(t *testing.T) {
	cl := newClock()
	a, b := New(Config{Now: cl.now}), New(Config{Now: cl.now})
	item := put(t, a, 1, start, channel.Values{Name: "a"})
	for range 60 {
		for _, pair := range [][2]*Catalog{{a, b}, {b, a}} {
			items, _ := pair[0].Since(0, 10)
			for _, it := range items {
				if _, err := pair[1].Merge(it); err != nil {
					t.Fatal(err)
				}
			}
		}
		if e, ok := b.Get(testchannel.Key(1).ID()); ok && !e.Seen.Equal(start) {
			t.Fatalf("seen %v", e.Seen)
		}
		cl.add(time.Hour)
		a.Expire(cl.now())
		b.Expire(cl.now())
	}
	if a.Len()+b.Len() != 0 {
		t.Error("still there after 60 h")
	}
	if _, err := b.Merge(item); !errors.Is(err, ErrExpired) {
		t.Errorf("merged again: %v", err)
	}
	if _, err := b.Put(item); err != nil {
		t.Errorf("published again: %v", err)
	}
	// A newer descriptor that is merged shows that its publisher was there.
	newer := sign(t, 1, cl.now().Add(-time.Minute), channel.Values{Name: "a", Now: "x"})
	cl.add(time.Hour)
	if fresh, err := b.Merge(newer); !fresh || err != nil {
		t.Fatal(fresh, err)
	}
	check(t, b)
}

func TestAccept(t *testing.T) {
	c := New(Config{Now: newClock().now, Accept: func(id channel.ID) bool { return id == testchannel.Key(1).ID() }})
	put(t, c, 1, start, channel.Values{Name: "a"})
	if _, err := c.Put(sign(t, 2, start, channel.Values{Name: "b"})); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	c := New(Config{Now: newClock().now})
	item := put(t, c, 1, start, channel.Values{Name: "a"})
	if !c.Remove(testchannel.Key(1).ID()) || c.Remove(testchannel.Key(1).ID()) || c.Len() != 0 {
		t.Error("not removed once")
	}
	check(t, c)
	if fresh, err := c.Put(item); !fresh || err != nil {
		t.Errorf("it does not come back: %v", err)
	}
	check(t, c)
}

func TestChangesAreToldInOrder(t *testing.T) {
	cl := newClock()
	var c *Catalog
	var told []string
	c = New(Config{Now: cl.now, Max: 2, OnChange: func(ch Change) {
		_, known := c.Get(ch.Entry.Descriptor.ID) // the lock is not held
		told = append(told, fmt.Sprint(ch.Kind, " ", ch.Entry.Descriptor.Values.Name, " ", known))
	}})
	item := put(t, c, 1, start, channel.Values{Name: "a"})
	_, _ = c.Put(item)
	put(t, c, 2, start, channel.Values{Name: "b"})
	put(t, c, 1, start.Add(1*time.Second), channel.Values{Name: "aa"})
	c.Remove(testchannel.Key(2).ID())
	put(t, c, 3, start, channel.Values{Name: "c"})
	cl.add(DefaultKeep + time.Second)
	put(t, c, 1, start.Add(2*time.Second), channel.Values{Name: "aaa"})
	put(t, c, 4, start, channel.Values{Name: "d"})
	want := []string{"added a true", "added b true", "changed aa true", "removed b false", "added c true", "changed aaa true", "removed c false", "added d true"}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
}

func TestSince(t *testing.T) {
	c := New(Config{Now: newClock().now})
	items := stations(t, 10, start)
	for _, item := range items {
		if _, err := c.Put(item); err != nil {
			t.Fatal(err)
		}
	}
	changed := put(t, c, 3, start.Add(time.Second), station(3))
	c.Remove(testchannel.Key(5).ID())
	want := slices.Concat(items[:3], items[4:5], items[6:], [][]byte{changed})
	for _, limit := range []int{1, 3, 9, 100} {
		var got [][]byte
		version := uint64(0)
		for {
			some, next := c.Since(version, limit)
			if next < version || len(some) > limit {
				t.Fatalf("%d items, version %d after %d", len(some), next, version)
			}
			got = append(got, some...)
			if version = next; len(some) == 0 {
				break
			}
		}
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("limit %d: %d items, want %d in the order they came", limit, len(got), len(want))
		}
		if version != c.Version() {
			t.Errorf("version %d, want %d", version, c.Version())
		}
	}
	if some, next := c.Since(c.Version()+1, 100); len(some) != 9 || next != c.Version() {
		t.Errorf("a version of another catalog: %d items", len(some))
	}
	if some, next := c.Since(7, 0); len(some) != 0 || next != 7 {
		t.Error("no items are wanted")
	}
	cl := newClock()
	cl.add(time.Minute)
	if later := New(Config{Now: cl.now}); later.Version() <= c.Version() {
		t.Error("a restarted catalog has versions that were there before")
	}
}

func TestNamed(t *testing.T) {
	cl := newClock()
	c := New(Config{Now: cl.now})
	for i, name := range []string{"Café Münster", "CAFÉ MÜNSTER", "Cafe\u0301 Mu\u0308nster", "Cafe Munster", "Café Münster 2", "STRASSE", "Straße", ""} {
		put(t, c, 8-i, start, channel.Values{Name: name})
		cl.add(time.Second)
	}
	names := func(name string) (out []string) {
		for _, e := range c.Named(name) {
			out = append(out, e.Descriptor.Values.Name)
		}
		return out
	}
	for name, want := range map[string][]string{
		"café münster": {"Café Münster", "CAFÉ MÜNSTER", "Cafe\u0301 Mu\u0308nster"},
		"cafe munster": {"Cafe Munster"},
		"straße":       {"STRASSE", "Straße"},
		"Café":         nil,
		"":             nil,
	} {
		if diff := cmp.Diff(want, names(name)); diff != "" {
			t.Errorf("%q: %s", name, diff)
		}
	}
	// Who was first stays first when he changes what he says.
	put(t, c, 8, cl.now(), channel.Values{Name: "Café Münster", Now: "x"})
	if got := c.Named("café münster"); got[0].Descriptor.ID != testchannel.Key(8).ID() {
		t.Error("a change made the first one last")
	}
	check(t, c)
}

func TestLookAlikes(t *testing.T) {
	for _, group := range [][]string{
		{"Rai 1", "RAI 1", "Rai1", "RAl l", "ra\u200bi 1", "Rai-1", "Rаi 1" /* Cyrillic а */},
		{"BBC", "ВВС" /* Cyrillic */, "bbc", "B\u202eBC", "ＢＢＣ", "B B C"},
		{"paypal", "раураl" /* Cyrillic */, "PAYPAL", "paypa1"},
		{"morning", "rnorning"},
		{"Channel 0", "Channel O", "Сhannel 0" /* Cyrillic С */},
	} {
		cl := newClock()
		c := New(Config{Now: cl.now})
		put(t, c, 100, start, channel.Values{Name: "something else"})
		for i, name := range group {
			put(t, c, i, start, channel.Values{Name: name})
			cl.add(time.Second)
		}
		for i, name := range group {
			var want []channel.ID
			for j := range group {
				if j != i {
					want = append(want, testchannel.Key(j).ID())
				}
			}
			e, _ := c.Get(testchannel.Key(i).ID())
			if diff := cmp.Diff(want, e.LookAlikes); diff != "" {
				t.Errorf("%q does not look like all others of %q: %s", name, group[0], diff)
			}
		}
		if e, _ := c.Get(testchannel.Key(100).ID()); e.LookAlikes != nil {
			t.Errorf("%q looks like %v", e.Descriptor.Values.Name, e.LookAlikes)
		}
		check(t, c)
	}
	for _, pair := range [][2]string{{"Canal", "Canal+"}, {"Rete 4", "Rete 5"}, {"Rete 4", "Rete 4 HD"}, {"", ""}, {"...", "!!!"}} {
		c := New(Config{Now: newClock().now})
		put(t, c, 1, start, channel.Values{Name: pair[0]})
		put(t, c, 2, start, channel.Values{Name: pair[1]})
		if e, _ := c.Get(testchannel.Key(1).ID()); e.LookAlikes != nil {
			t.Errorf("%q looks like %q", pair[0], pair[1])
		}
	}
}

func TestLookAlikesAreFewAndOldFirst(t *testing.T) {
	cl := newClock()
	c := New(Config{Now: cl.now})
	for i := range 20 {
		put(t, c, i, start, channel.Values{Name: "Rete 4"})
		cl.add(time.Second)
	}
	e, _ := c.Get(testchannel.Key(15).ID())
	if len(e.LookAlikes) != MaxLookAlikes || e.LookAlikes[0] != testchannel.Key(0).ID() || e.LookAlikes[7] != testchannel.Key(7).ID() {
		t.Errorf("look-alikes %v", e.LookAlikes)
	}
	c.Remove(testchannel.Key(0).ID())
	if e, _ = c.Get(testchannel.Key(1).ID()); e.LookAlikes[0] != testchannel.Key(2).ID() {
		t.Error("one that is gone is named")
	}
}

func TestConcurrentUse(t *testing.T) {
	cl := newClock()
	last := make(map[channel.ID]int64) // OnChange is called one at a time
	c := New(Config{Now: cl.now, Max: 60, OnChange: func(ch Change) {
		id := ch.Entry.Descriptor.ID
		if ch.Kind == Changed && ch.Entry.Descriptor.Seq <= last[id] {
			t.Errorf("seq %d is told after %d", ch.Entry.Descriptor.Seq, last[id])
		}
		last[id] = ch.Entry.Descriptor.Seq
		if ch.Kind == Removed {
			delete(last, id)
		}
	}})
	items := make([][]byte, 0, 300)
	for i := range 300 {
		items = append(items, sign(t, i%50, start.Add(time.Duration(i)*time.Second), station(i)))
	}
	var work sync.WaitGroup
	for w := range 4 {
		work.Go(func() {
			for i := range items {
				switch _, err := c.Put(items[(i*7+w*31)%len(items)]); {
				case err != nil && !errors.Is(err, ErrStale):
					t.Error(err)
				case i%50 == 0:
					c.Remove(testchannel.Key(i % 13).ID())
				}
				if i%10 == 0 {
					c.List(Query{Text: "a", Limit: 5})
					c.Named("x")
					c.Since(0, 10)
				}
			}
			c.Expire(cl.now())
		})
	}
	work.Wait()
	check(t, c)
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"Rete 4 +1 é":                     "Rete 4 +1 é",
		"東京テレビ":                           "東京テレビ",
		"العربية":                         "العربية",
		"a\x1b[31mb":                      `a\x1b[31mb`,
		"a\nb\tc\r\x00\x7f":               `a\nb\tc\r\x00\x7f`,
		"a\u202eb\u2066":                  `a\u202eb\u2066`,
		"a\u200bb\u00ad\ufeff":            `a\u200bb\u00ad\ufeff`,
		"a\u00a0b\u3000c":                 "a b c",
		"a\u2028b":                        `a\u2028b`,
		"a\u3164b\u115f":                  `a\u3164b\u115f`,
		"a\xffb\xc3":                      `a\xffb\xc3`,
		"\ufffd":                          "\ufffd",
		"\U000e0041":                      `\U000e0041`,
		"می\u200cخواهم":                   "می\u200cخواهم",
		"a\u200cb":                        `a\u200cb`,
		"❤\ufe0f a\ufe0f":                 "❤\ufe0f a\\ufe0f",
		"e" + strings.Repeat("\u0301", 6): "e" + strings.Repeat("\u0301", 4) + `\u0301\u0301`,
		"a\u0085b\u009b":                  `a\u0085b\u009b`,
	} {
		if got := Plain(in); got != want {
			t.Errorf("Plain(%+q) = %+q, want %+q", in, got, want)
		}
	}
}

func FuzzPlain(f *testing.F) {
	f.Add("a\x1b[31m\u202e\u200c\xff é\ufe0f")
	f.Fuzz(func(t *testing.T, s string) {
		plain := Plain(s)
		if strings.ContainsFunc(plain, func(r rune) bool {
			return r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
		}) {
			t.Fatalf("%+q is %+q", s, plain)
		}
		if again := Plain(plain); again != plain {
			t.Fatalf("%+q is %+q, and that %+q", s, plain, again)
		}
	})
}

// What is read of an item before its signature is what the signed descriptor says.
func FuzzPeek(f *testing.F) {
	f.Add(sign(f, 1, start, channel.Values{Name: "n"}))
	f.Add([]byte("d1:k32:"))
	f.Fuzz(func(t *testing.T, item []byte) {
		c := New(Config{Now: func() time.Time { return time.Unix(1<<40, 0) }})
		fresh, err := c.Put(item)
		if fresh != (err == nil) || fresh != (c.Len() == 1) {
			t.Fatalf("fresh %v, %v, %d channels", fresh, err, c.Len())
		}
		if d, err := channel.ParseDescriptor(item); err == nil {
			if id, seq, ok := channel.PeekItem(item); !ok || id != d.ID || seq != d.Seq {
				t.Fatalf("peeked %v %d %v", id, seq, ok)
			}
		}
	})
}

// Catalogs of what anybody may sign keep their orders right.
func FuzzCatalog(f *testing.F) {
	f.Add("Café\x1e Rete 4\x1eРЕТЕ\x1e東京テレビ\x1e\xff\x1e", []byte{0, 1, 2, 3, 130, 4, 5, 0x40, 0x41, 1, 2})
	f.Fuzz(func(t *testing.T, text string, ops []byte) {
		texts := strings.Split(cut(text, 700), "\x1e")
		cl := newClock()
		c := New(Config{Now: cl.now, Max: 8})
		for i, op := range ops[:min(len(ops), 24)] {
			cl.add(time.Second)
			n := int(op & 15)
			pick := func(k int) string { return texts[(n*k+i)%len(texts)] }
			switch op >> 6 {
			case 0, 1:
				d, err := channel.SignDescriptor(testchannel.Key(n), cl.now().Unix(), channel.Values{Name: pick(1), Description: pick(3), Category: pick(2), Now: pick(5)})
				if err != nil {
					continue
				}
				if _, err := c.Put(d.Item); err != nil && !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
			case 2:
				c.Remove(testchannel.Key(n).ID())
			case 3:
				cl.add(time.Duration(n) * time.Hour)
				c.Expire(cl.now())
			}
		}
		check(t, c)
		for _, s := range texts {
			if got := c.Named(s); len(got) > 0 && exactName(s) != exactName(got[0].Descriptor.Values.Name) {
				t.Fatalf("%q is found as %q", s, got[0].Descriptor.Values.Name)
			}
			list, total := c.List(Query{Text: s, Limit: 100})
			if len(list) != total {
				t.Fatalf("%d of %d", len(list), total)
			}
			compare(t, c, s, list)
		}
	})
}
