package catalog

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sixcast/sixcast/internal/testchannel"
	"github.com/sixcast/sixcast/pkg/channel"
)

func names(entries []Entry) (out []string) {
	for _, e := range entries {
		out = append(out, e.Descriptor.Values.Name)
	}
	return out
}

func TestListOrderAndPages(t *testing.T) {
	cl := newClock()
	c := New(Config{Now: cl.now})
	for i, name := range []string{"Zeta", "", "éclair", "Écho", "alpha 10", "Alpha", "alpha", "!"} {
		put(t, c, i, start, channel.Values{Name: name})
		cl.add(time.Second)
	}
	want := []string{"Alpha", "alpha", "alpha 10", "Écho", "éclair", "Zeta", "", "!"}
	got, total := c.List(Query{})
	if diff := cmp.Diff(want, names(got)); diff != "" || total != len(want) {
		t.Errorf("%d: %s", total, diff)
	}
	for limit := 1; limit < 10; limit++ {
		for offset := range 10 {
			got, total := c.List(Query{Offset: offset, Limit: limit})
			from := min(offset, len(want))
			if diff := cmp.Diff(slices.Clone(want[from:min(from+limit, len(want))]), append([]string{}, names(got)...)); diff != "" || total != len(want) {
				t.Errorf("page of %d from %d: %s", limit, offset, diff)
			}
		}
	}
	if got, total := c.List(Query{Offset: -1, Limit: 1 << 40}); len(got) != len(want) || total != len(want) {
		t.Error("a limit without bounds")
	}
	if got, total := c.List(Query{Text: "!"}); got != nil || total != 0 {
		t.Error("a text without words finds something")
	}
	if _, total := c.List(Query{Text: " "}); total != len(want) {
		t.Error("an empty text finds not all")
	}
}

func TestSearch(t *testing.T) {
	cl := newClock()
	c := New(Config{Now: cl.now})
	for i, v := range []channel.Values{
		{Name: "Café Central", Description: "News all day", Language: "de-AT", Country: "AT", Category: "General News"},
		{Name: "Newsroom", Language: "en", Country: "us"},
		{Name: "Cafe", Description: "coffee", Language: "de", Country: "DE", Category: "food"},
		{Name: "Local", Description: "l'été à la télé, Łódź", Now: "Tagesschau", Next: "Café Krem", Language: "DE"},
		{Name: "The Cafe", Category: "Food"},
		{Name: "Документальный канал", Now: "Документалистика", Language: "ru"},
		{Name: "東京テレビ放送局", Description: "今日の天気", Language: "ja"},
		{Name: "한국방송", Description: "Straße ﬁlm Ⅷ"},
	} {
		put(t, c, i, start, v)
		cl.add(time.Second)
	}
	for _, tc := range []struct {
		q    Query
		want string
	}{
		{Query{Text: "cafe"}, "Cafe,Café Central,The Cafe,Local"},
		{Query{Text: "CAFÉ"}, "Cafe,Café Central,The Cafe,Local"},
		{Query{Text: "caf"}, "Cafe,Café Central,The Cafe,Local"},
		{Query{Text: "cafe cen"}, "Café Central"},
		{Query{Text: "central, cafe!"}, "Café Central"},
		{Query{Text: "cafe news"}, "Café Central"},
		{Query{Text: "news"}, "Newsroom,Café Central"},
		{Query{Text: "ews"}, ""},
		{Query{Text: "ete tele"}, "Local"},
		{Query{Text: "lodz"}, "Local"},
		{Query{Text: "tagess"}, "Local"},
		{Query{Text: "Документальный"}, "Документальный канал"},
		{Query{Text: "документал"}, "Документальный канал"},
		{Query{Text: "документальная"}, ""},
		{Query{Text: "東京"}, "東京テレビ放送局"},
		{Query{Text: "テレビ"}, "東京テレビ放送局"},
		{Query{Text: "東京テレビ放送局"}, "東京テレビ放送局"},
		{Query{Text: "東京テレビ局"}, "東京テレビ放送局"}, // the parts of a long one are looked for each
		{Query{Text: "大阪"}, ""},
		{Query{Text: "天気"}, "東京テレビ放送局"},
		{Query{Text: "한국"}, "한국방송"},
		{Query{Text: "strasse film viii"}, "한국방송"},
		{Query{Language: "de"}, "Cafe,Café Central,Local"},
		{Query{Language: "de-at"}, "Café Central"},
		{Query{Country: "US"}, "Newsroom"},
		{Query{Category: "FOOD"}, "Cafe,The Cafe"},
		{Query{Category: "news"}, ""},
		{Query{Text: "cafe", Language: "de", Category: "food"}, "Cafe"},
		{Query{Text: "cafe", Offset: 1, Limit: 2}, "Café Central,The Cafe"},
		{Query{Text: "cafe", Offset: 3}, "Local"},
		{Query{Text: "cafe", Offset: 9}, ""},
		{Query{Language: "fr"}, ""},
	} {
		got, total := c.List(tc.q)
		if s := strings.Join(names(got), ","); s != tc.want {
			t.Errorf("%+v: %s, want %s", tc.q, s, tc.want)
		}
		if tc.q.Offset == 0 && total != len(got) {
			t.Errorf("%+v: total %d", tc.q, total)
		}
	}
	c.Remove(testchannel.Key(2).ID())
	put(t, c, 4, cl.now(), channel.Values{Name: "The Bar"})
	if got, _ := c.List(Query{Text: "cafe"}); strings.Join(names(got), ",") != "Café Central,Local" {
		t.Errorf("after changes: %q", names(got))
	}
	check(t, c)
}

// compare searches as slowly and simply as can be.
func compare(t testing.TB, c *Catalog, text string, got []Entry) {
	t.Helper()
	if strings.TrimSpace(text) == "" {
		return
	}
	spans := queryWords(foldWords(cut(text, maxText)))
	want := make(map[channel.ID]bool)
	for id, slot := range c.byID {
		words := entryWords(&c.slots[slot].d.Values)
		all := len(spans) > 0
		for _, s := range spans {
			all = all && slices.ContainsFunc(words, func(w element) bool { return w.key.compare(s.from) >= 0 && w.key.compare(s.to) <= 0 })
		}
		if all {
			want[id] = true
		}
	}
	for _, e := range got {
		if !want[e.Descriptor.ID] {
			t.Fatalf("%q finds %q", text, e.Descriptor.Values.Name)
		}
		delete(want, e.Descriptor.ID)
	}
	if len(want) > 0 {
		t.Fatalf("%q does not find %d", text, len(want))
	}
}

func TestSearchFindsWhatAScanFinds(t *testing.T) {
	cl := newClock()
	c := New(Config{Now: cl.now})
	const n = 120
	r := rand.New(rand.NewPCG(1, 1))
	for i := range n {
		put(t, c, i, start, station(i))
	}
	for round := range 3 {
		for i := range 30 {
			v := station(i * 4)
			text := strings.Fields(v.Name + " " + v.Description + " " + v.Now)
			query := ""
			for range 1 + r.IntN(3) {
				w := []rune(text[r.IntN(len(text))])
				query += string(w[:1+r.IntN(len(w))]) + " "
			}
			got, total := c.List(Query{Text: query, Limit: n})
			if total != len(got) {
				t.Fatalf("%d of %d", len(got), total)
			}
			compare(t, c, query, got)
		}
		cl.add(time.Minute)
		for i := range n / 3 {
			if k := r.IntN(n); i%2 == 0 {
				c.Remove(testchannel.Key(k).ID())
			} else if _, err := c.Put(sign(t, k, cl.now(), station(k+1000*round))); err != nil {
				continue // twice in this round
			}
		}
		check(t, c)
	}
}

func TestHostileTextsAreBounded(t *testing.T) {
	c := New(Config{Now: newClock().now})
	for i, s := range []string{
		strings.Repeat("ﷺ", 320),       // each becomes 18 characters
		strings.Repeat("a\u0301", 320), // marks on everything
		"e" + strings.Repeat("\u0301", 480),
		strings.Repeat("漢", 320),
		strings.Repeat("a b ", 240),
		strings.Repeat("\xff", 960),
		strings.Repeat("x", 960),
	} {
		put(t, c, 2*i, start, channel.Values{Name: s})
		put(t, c, 2*i+1, start, channel.Values{Name: "n", Description: s[:len(s)-8]})
		for _, e := range []string{s, s[:20], s + s} {
			c.List(Query{Text: e, Category: e, Language: e, Country: e})
			c.Named(e)
		}
	}
	for _, e := range c.slots {
		if words := entryWords(&e.d.Values); len(words) > maxWords || len(e.name) > maxFolded {
			t.Errorf("%d words, a name of %d bytes", len(words), len(e.name))
		}
	}
	check(t, c)
}

func checkIndex(t testing.TB, x *index) {
	t.Helper()
	n := 0
	var last *element
	for i, run := range x.runs {
		if len(run) == 0 || len(run) > runMax || x.lows[i] != run[0] {
			t.Fatalf("run %d has %d elements, the first %v, noted %v", i, len(run), run[0], x.lows[i])
		}
		for k := range run {
			if last != nil && x.cmp(*last, run[k]) >= 0 {
				t.Fatalf("%v before %v", *last, run[k])
			}
			last = &run[k]
		}
		n += len(run)
	}
	if n != x.n || len(x.lows) != len(x.runs) {
		t.Fatalf("%d elements, noted %d; %d runs, %d noted", n, x.n, len(x.runs), len(x.lows))
	}
}

func TestIndexIsASortedSet(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	x := index{cmp: element.compare}
	model := make(map[element]bool)
	random := func(n int) element { return element{key{uint64(r.IntN(n)), uint64(r.IntN(4))}, uint32(r.IntN(2))} }
	for step := range 60_000 {
		e := random(3000)
		if grow := step%30_000 < 20_000; grow == (r.IntN(5) > 0) {
			x.insert(e)
			model[e] = true
		} else {
			x.remove(e)
			delete(model, e)
		}
		if step%5000 != 4999 {
			continue
		}
		checkIndex(t, &x)
		want := make([]element, 0, len(model))
		for e := range model {
			want = append(want, e)
		}
		slices.SortFunc(want, element.compare)
		from := random(3000)
		reached := func(e element) bool { return e.compare(from) >= 0 }
		place := slices.IndexFunc(want, reached)
		if place < 0 {
			place = len(want)
		}
		var all, some, end []element
		x.at(0, func(e element) bool { all = append(all, e); return true })
		x.from(reached, func(e element) bool { some = append(some, e); return true })
		x.at(len(want)/2, func(e element) bool { end = append(end, e); return true })
		if !slices.Equal(all, want) || !slices.Equal(some, want[place:]) || !slices.Equal(end, want[len(want)/2:]) || x.rank(reached) != place {
			t.Fatalf("step %d: %d elements, want %d", step, len(all), len(want))
		}
	}
}

func TestIndexThatGrowsAtItsEndIsFull(t *testing.T) {
	x := index{cmp: element.compare}
	for i := range uint64(10 * runMax) {
		x.insert(element{key: key{hi: i}})
	}
	checkIndex(t, &x)
	if len(x.runs) != 10 {
		t.Errorf("%d runs", len(x.runs))
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte{1, 2, 3, 130, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		x := index{cmp: element.compare}
		n := 0
		for i, op := range ops {
			for k := range uint64(op & 127) { // many at once, so that runs split and join
				e := element{key: key{hi: k * 7 % 128, lo: uint64(i) % 16}}
				if op < 128 {
					x.insert(e)
				} else {
					x.remove(e)
				}
			}
			n += int(op & 127)
		}
		checkIndex(t, &x)
	})
}
