package cluster

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

// compareOnce has x fetch from y what it lacks, through the bytes of the messages, and returns how many items and messages that took.
func compareOnce(t *testing.T, x, y *index, n int) (fetched, messages int) {
	t.Helper()
	var d, got digest
	y.digest(&d)
	if err := parseDigest(appendDigest(nil, nonce{}, &d), &got); err != nil || got != d {
		t.Fatal("a digest does not come through")
	}
	set, differs := x.differing(&got)
	for from := (channel.ID{}); differs; {
		h := have{name: "x", buckets: set, from: from, known: x.full()}
		x.list(&h)
		var asked have
		if err := asked.parse(h.append(nil)); err != nil {
			t.Fatal(err)
		}
		out := y.answer(&asked).append(nil)
		var m items
		if err := m.parse(out); err != nil || len(out) > maxMessage || !answers(&h, &m, len(out)) {
			t.Fatalf("round %d: %v, %d bytes", n, err, len(out))
		}
		for _, e := range m.items {
			fetched++
			if _, err := x.store.Put(e.item); err != nil {
				x.refuse(e.id, e.seq)
			}
		}
		messages++
		if m.through == highest {
			break
		}
		from = next(m.through)
	}
	return fetched, messages
}

// Whatever two hold, after each has asked the other once they hold the same, the newest of each, and have nothing more to ask.
func TestTwoConverge(t *testing.T) {
	now := time.Unix(0, 0)
	clock := func() time.Time { return now }
	for round := range 20 {
		r := rand.New(rand.NewPCG(5, uint64(round)))
		a, b := newStore(), newStore()
		a.trust, b.trust = true, true
		x, y := newIndex(a, clock), newIndex(b, clock)
		want := map[channel.ID]int64{}
		ids := make([]channel.ID, 1+r.IntN(1+round*60))
		for i := range ids {
			for k := range ids[i] {
				ids[i][k] = byte(r.Uint32())
			}
			if round%3 == 0 { // all in one part
				ids[i][0], ids[i][1] = 7, byte(r.UintN(64))
			}
		}
		ids[0] = highest
		for range 2 * len(ids) {
			id, seq, s := ids[r.IntN(len(ids))], r.Int64N(5), a
			if r.IntN(2) == 0 {
				s = b
			}
			_, _ = s.Put(unsignedOf(id, seq, r.IntN(900)))
			if known, ok := want[id]; !ok || seq > known {
				want[id] = seq
			}
			if r.IntN(20) == 0 {
				var d digest
				x.digest(&d) // reads what is there so far
			}
		}
		compareOnce(t, x, y, round)
		compareOnce(t, y, x, round)
		if !maps.Equal(a.seqs(), want) || !maps.Equal(b.seqs(), want) {
			t.Fatalf("round %d: %d and %d, want %d", round, a.len(), b.len(), len(want))
		}
		var d, e digest
		x.digest(&d)
		y.digest(&e)
		if d != e {
			t.Fatalf("round %d: they still differ", round)
		}
	}
}

// A joiner with nothing gets all, in messages of 1 MiB; who has more asks for nothing.
func TestChunks(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 7))
	full, empty := newStore(), newStore()
	full.trust, empty.trust = true, true
	for range 10_000 {
		_, _ = full.Put(unsigned(r, 1, 450))
	}
	x, y := newIndex(empty, time.Now), newIndex(full, time.Now)
	if n, m := compareOnce(t, y, x, 0); n+m != 0 {
		t.Errorf("%d items in %d messages from who has nothing", n, m)
	}
	if n, m := compareOnce(t, x, y, 0); n != 10_000 || m > 7 {
		t.Errorf("%d items in %d messages", n, m)
	}
	// Both have them all and differ by one: little is listed.
	item := unsigned(r, 1, 10)
	_, _ = full.Put(item)
	if n, m := compareOnce(t, x, y, 0); n != 1 || m != 1 {
		t.Errorf("%d items in %d messages", n, m)
	}
	// More entries than one message lists.
	y.mu.Lock()
	for i := range maxEntries {
		y.add(entry{id: channel.ID{byte(i), byte(i >> 8), 1}, seq: 1})
	}
	y.mu.Unlock()
	h := have{buckets: bucketSet(bytes.Repeat([]byte{0xff}, len(bucketSet{})))}
	y.list(&h)
	if len(h.entries) != maxEntries || h.to != h.entries[maxEntries-1].id || len(h.append(nil)) > maxMessage {
		t.Errorf("%d entries", len(h.entries))
	}
}

// What a store refuses is fetched once, and again after an hour; what it removes is not named any more.
func TestRefused(t *testing.T) {
	now := time.Unix(0, 0)
	clock := func() time.Time { return now }
	r := rand.New(rand.NewPCG(8, 9))
	a, b := newStore(), newStore()
	a.trust, b.trust, b.max = true, true, 10
	for range 100 {
		_, _ = a.Put(unsigned(r, 1, 10))
	}
	x, y := newIndex(b, clock), newIndex(a, clock)
	if n, _ := compareOnce(t, x, y, 0); n != 100 || b.len() != 10 {
		t.Fatalf("%d fetched, %d kept", n, b.len())
	}
	if n, m := compareOnce(t, x, y, 0); n+m != 0 {
		t.Errorf("%d fetched again in %d messages", n, m)
	}
	now = now.Add(rereadEvery)
	if n, m := compareOnce(t, x, y, 0); n+m != 0 {
		t.Errorf("%d fetched again in %d messages", n, m)
	}
	now = now.Add(refusedTime)
	if n, _ := compareOnce(t, x, y, 0); n != 90 {
		t.Errorf("%d fetched after an hour", n)
	}
	// One that is gone from the store is offered no more, once it has been read anew.
	for id := range b.seqs() {
		b.remove(id)
	}
	now = now.Add(rereadEvery)
	if n, _ := compareOnce(t, y, x, 0); n != 0 {
		t.Errorf("%d that are gone were given", n)
	}
	// With no more room for refusals only what is newer is fetched.
	x.mu.Lock()
	x.refused = maxRefused
	x.mu.Unlock()
	ids := slices.Collect(maps.Keys(a.seqs()))
	b.max = 0
	_, _ = b.Put(unsignedOf(ids[0], 1, 10))
	_, _ = a.Put(unsignedOf(ids[0], 3, 10))
	_, _ = a.Put(unsigned(r, 1, 10))
	if n, _ := compareOnce(t, x, y, 0); n != 1 {
		t.Errorf("%d fetched, want the newer one", n)
	}
}

// A version that the store refused does not hide the older one that it has.
func TestRefusedVersion(t *testing.T) {
	a, b := newStore(), newStore()
	a.trust, b.trust = true, true
	x, y := newIndex(a, time.Now), newIndex(b, time.Now)
	id := channel.ID{1, 2, 3}
	_, _ = a.Put(unsignedOf(id, 5, 10))
	x.refuse(id, 9)
	x.refuse(id, 5) // known: nothing
	if n, _ := compareOnce(t, y, x, 0); n != 1 || b.seqs()[id] != 5 || x.refused != 1 {
		t.Errorf("%d fetched, %v", n, b.seqs())
	}
}

func TestNext(t *testing.T) {
	for _, x := range [][2]channel.ID{{{}, {31: 1}}, {{31: 0xff}, {30: 1}}, {{5: 1, 30: 0xff, 31: 0xff}, {5: 1, 29: 1}}} {
		if next(x[0]) != x[1] {
			t.Errorf("%x: %x", x[0], next(x[0]))
		}
	}
}

func TestPeek(t *testing.T) {
	item := signed(t, 1, 1<<62, "x")
	d, err := channel.ParseDescriptor(item)
	if id, seq, ok := channel.PeekItem(item); err != nil || !ok || id != d.ID || seq != d.Seq {
		t.Errorf("%v %d %v", id, seq, ok)
	}
	for _, b := range []string{"", "d1:k32:", "d1:k32:" + string(make([]byte, 32)) + "3:seqie", "d1:k32:" + string(make([]byte, 32)) + "3:seqi-1e",
		"d1:k32:" + string(make([]byte, 32)) + "3:seqi99999999999999999999e", string(make([]byte, channel.MaxItem+1))} {
		if _, _, ok := channel.PeekItem([]byte(b)); ok {
			t.Errorf("%q", b)
		}
	}
}

// Nothing that anybody sends is taken for something that encodes otherwise, or makes trouble.
func FuzzMessage(f *testing.F) {
	n := newNonce()
	h := have{nonce: n, name: "a", known: true, to: highest, entries: []entry{{id: channel.ID{1}, seq: 4}, {id: channel.ID{2}, seq: 0}}}
	h.buckets.add(5)
	item := unsignedOf(channel.ID{9}, 3, 5)
	id, seq, _ := channel.PeekItem(item)
	f.Add(appendAsk(nil, n, "name"))
	f.Add(appendNews(nil, "name"))
	f.Add(appendDigest(nil, n, new(digest)))
	f.Add(h.append(nil))
	f.Add((&items{n, highest, []entry{{id, seq, item}}}).append(nil))
	f.Add(append([]byte{kindItem}, item...))
	s := newStore()
	x := newIndex(s, time.Now)
	_, _ = s.Put(signed(f, 1, 1, ""))
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(out []byte) {
			if !bytes.Equal(out, b) {
				t.Errorf("%x becomes %x", b, out)
			}
		}
		if n, name, err := parseAsk(b); err == nil {
			same(appendAsk(nil, n, name))
		}
		if name, err := parseNews(b); err == nil {
			same(appendNews(nil, name))
		}
		var d digest
		if parseDigest(b, &d) == nil {
			same(appendDigest(nil, nonce(b[1:]), &d))
			x.differing(&d)
		}
		var h have
		if h.parse(b) == nil {
			if a := x.answer(&h); !answers(&h, a, len(a.append(nil))) {
				t.Errorf("a wrong answer to %+v", h)
			}
		}
		var m items
		if m.parse(b) == nil {
			same(m.append(nil))
			answers(&have{to: highest}, &m, len(b))
		}
		channel.PeekItem(b)
	})
}

// A packet and the beginning of a stream are judged without reading past them, and more bytes do not change a judgement.
func FuzzGate(f *testing.F) {
	head := append([]byte{mlLabel, byte(len(label))}, label...)
	f.Add(append(head[:len(head):len(head)], "\x06\x83\xa4Join\xc3\xa5Nodes\x01\xacUserStateLen\x00"...), true, false)
	f.Add(append(head[:len(head):len(head)], "\x08\x81\xaaUserMsgLen\xd2\x00\x01\x00\x00"...), true, false)
	f.Add([]byte("\x0a\x00\x00\x01\x00"), false, true)
	f.Add(append(head[:len(head):len(head)], mlChecksum, 0, 0, 0, 0, mlCompound, 1, 0, 2, mlUser, 0), true, false)
	f.Fuzz(func(t *testing.T, b []byte, inbound, secret bool) {
		tr := &transport{secret: secret}
		tr.packetOK(b)
		c := &conn{t: tr, inbound: inbound}
		for n := range b {
			done, ok := c.judge(b[:n])
			if fullDone, fullOK := c.judge(b); done && (!fullDone || ok != fullOK) {
				t.Errorf("%q: %v at %d, then %v %v", b, ok, n, fullDone, fullOK)
			}
			if n > 128 {
				break
			}
		}
	})
}

// An answer may hold what was asked for, and nothing else.
func TestAnswers(t *testing.T) {
	h := have{from: channel.ID{1}, to: channel.ID{9}, entries: []entry{{id: channel.ID{2}, seq: 5}}}
	for i := range buckets {
		if i != bucketOf(&channel.ID{4}) {
			h.buckets.add(i)
		}
	}
	for what, x := range map[string]struct {
		through channel.ID
		ids     []byte
		seq     int64
		size    int
		known   bool
		want    bool
	}{
		"nothing":                {channel.ID{9}, nil, 0, 0, false, true},
		"newer, and unknown":     {channel.ID{9}, []byte{2, 3, 9}, 6, 0, false, true},
		"part, but much":         {channel.ID{3}, []byte{2, 3}, 6, maxMessage, false, true},
		"newer, no more room":    {channel.ID{9}, []byte{2}, 6, 0, true, true},
		"unknown, no more room":  {channel.ID{9}, []byte{3}, 6, 0, true, false},
		"part, and little":       {channel.ID{3}, []byte{2, 3}, 6, 1000, false, false},
		"known":                  {channel.ID{9}, []byte{2}, 5, 0, false, false},
		"stale":                  {channel.ID{9}, []byte{2}, 4, 0, false, false},
		"before what was asked":  {channel.ID{9}, []byte{0}, 6, 0, false, false},
		"after what was asked":   {channel.ID{9}, []byte{10}, 6, 0, false, false},
		"after what it says":     {channel.ID{3}, []byte{5}, 6, maxMessage, false, false},
		"a part that was not":    {channel.ID{9}, []byte{4}, 6, 0, false, false},
		"it leads back":          {channel.ID{}, nil, 0, maxMessage, false, false},
		"it leads too far ahead": {highest, nil, 0, 0, false, false},
	} {
		h.known = x.known
		m := items{through: x.through}
		for _, b := range x.ids {
			m.items = append(m.items, entry{id: channel.ID{b}, seq: x.seq})
		}
		if got := answers(&h, &m, x.size); got != x.want {
			t.Errorf("%s: %v", what, got)
		}
	}
	a, b := unsignedOf(channel.ID{1}, 1, 5), unsignedOf(channel.ID{2}, 1, 5)
	for what, all := range map[string][]entry{
		"out of order": {{item: b}, {item: a}}, "twice": {{item: a}, {item: a}}, "no item": {{item: []byte("x")}}, "too long": {{item: make([]byte, 0xffff)}},
	} {
		if out := (&items{items: all}).append(nil); new(items).parse(out) == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if out := (&items{items: []entry{{item: a}}}).append(nil); new(items).parse(out[:len(out)-1]) == nil {
		t.Error("cut short: taken")
	}
}
