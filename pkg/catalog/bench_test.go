package catalog

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/testchannel"
	"github.com/sixcast/sixcast/pkg/channel"
)

const full = 100_000

var fullItems = sync.OnceValue(func() [][]byte { return stations(new(testing.B), full, start) })

// fullCatalog is one of 100,000 stations.
func fullCatalog(b *testing.B) *Catalog {
	b.Helper()
	c := New(Config{Now: newClock().now})
	for _, item := range fullItems() {
		if _, err := c.Put(item); err != nil {
			b.Fatal(err)
		}
	}
	return c
}

// queries are what people look for: a word, its beginning, one letter, several words, what nobody has.
func queries() []Query {
	r := rand.New(rand.NewPCG(1, 2))
	var out []Query
	for range 400 {
		v := station(r.IntN(full))
		name := strings.Fields(v.Name)
		text := strings.Fields(v.Description)
		word := text[r.IntN(len(text))]
		out = append(out,
			Query{Text: v.Name},
			Query{Text: name[r.IntN(len(name)-1)]},
			Query{Text: name[0] + " " + name[1]},
			Query{Text: word},
			Query{Text: name[1] + " " + word, Country: v.Country},
			Query{Text: string([]rune(word)[:1])},
			Query{Text: string([]rune(name[2])[:1]), Offset: 5000, Limit: 100},
			Query{Text: string([]rune(word)[:min(3, len([]rune(word)))]), Category: v.Category},
			Query{Text: "nobody has this"},
		)
	}
	return out
}

// pages are lists without a text.
func pages() []Query {
	r := rand.New(rand.NewPCG(3, 4))
	var out []Query
	for range 400 {
		v := station(r.IntN(full))
		out = append(out,
			Query{Limit: 100},
			Query{Offset: r.IntN(full), Limit: 100},
			Query{Country: v.Country, Limit: 100},
			Query{Language: v.Language, Category: v.Category, Offset: 200, Limit: 100},
		)
	}
	return out
}

func benchmarkList(b *testing.B, queries []Query) {
	c := fullCatalog(b)
	var took []time.Duration
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		from := time.Now()
		c.List(queries[i%len(queries)])
		took = append(took, time.Since(from))
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "p99-ms")
	b.ReportMetric(took[len(took)-1].Seconds()*1e3, "max-ms")
}

func BenchmarkSearch(b *testing.B) { benchmarkList(b, queries()) }

func BenchmarkListPage(b *testing.B) { benchmarkList(b, pages()) }

// Searches while descriptors come in as fast as one core verifies them.
func BenchmarkSearchWhilePutting(b *testing.B) {
	c := fullCatalog(b)
	newer := make([][]byte, 2000)
	for i := range newer {
		v := station(i)
		v.Now, v.Next = v.Next, v.Now
		newer[i] = sign(b, i, start.Add(time.Second), v)
	}
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if i%len(newer) == 0 {
				for j := range newer {
					c.Remove(testchannel.Key(j).ID())
				}
			}
			_, _ = c.Put(newer[i%len(newer)])
		}
	})
	defer work.Wait()
	defer close(stop)
	qs := queries()
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		from := time.Now()
		c.List(qs[i%len(qs)])
		took = append(took, time.Since(from))
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "p99-ms")
}

// A new channel into a catalog of 100,000.
func BenchmarkPutNew(b *testing.B) {
	c := fullCatalog(b)
	items := fullItems()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%1000 == 0 {
			b.StopTimer()
			for j := range 1000 {
				c.Remove(testchannel.Key(j).ID())
			}
			b.StartTimer()
		}
		if fresh, err := c.Put(items[i%1000]); err != nil || !fresh {
			b.Fatal(fresh, err)
		}
	}
}

// A newer descriptor with other titles.
func BenchmarkPutNewer(b *testing.B) {
	c := fullCatalog(b)
	at := start
	var items [][]byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%1000 == 0 {
			b.StopTimer()
			items = items[:0]
			at = at.Add(time.Second)
			for j := range 1000 {
				v := station(j)
				v.Now = at.Format(time.TimeOnly)
				items = append(items, sign(b, j, at, v))
			}
			b.StartTimer()
		}
		if fresh, err := c.Put(items[i%1000]); err != nil || !fresh {
			b.Fatal(fresh, err)
		}
	}
}

func BenchmarkPutKnown(b *testing.B) {
	cl := newClock()
	c := New(Config{Now: cl.now})
	items := fullItems()
	for _, item := range items {
		if _, err := c.Put(item); err != nil {
			b.Fatal(err)
		}
	}
	cl.add(time.Hour)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%full == 0 {
			cl.add(time.Second)
		}
		if fresh, err := c.Put(items[i%full]); err != nil || fresh {
			b.Fatal(fresh, err)
		}
	}
}

func BenchmarkRemove(b *testing.B) {
	c := fullCatalog(b)
	items := fullItems()
	for i := 0; b.Loop(); i++ {
		if i > 0 && i%1000 == 0 {
			b.StopTimer()
			for j := range 1000 {
				if _, err := c.Put(items[j]); err != nil {
					b.Fatal(err)
				}
			}
			b.StartTimer()
		}
		c.Remove(testchannel.Key(i % 1000).ID())
	}
}

// What others wait for at most while everything expires.
func BenchmarkExpirePause(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		c := fullCatalog(b)
		b.StartTimer()
		var most time.Duration
		now := start.Add(3 * DefaultKeep).Unix()
		for {
			from := time.Now()
			n := c.expireSome(now)
			most = max(most, time.Since(from))
			if n < expireBatch {
				break
			}
		}
		b.ReportMetric(most.Seconds()*1e3, "longest-ms")
	}
}

func BenchmarkSave(b *testing.B) {
	c := fullCatalog(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Save(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSaveFile(b *testing.B) {
	c := fullCatalog(b)
	path := b.TempDir() + "/catalog"
	for b.Loop() {
		if err := c.SaveFile(path); err != nil {
			b.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(info.Size())/1e6, "MB")
}

func BenchmarkLoad(b *testing.B) {
	c := fullCatalog(b)
	var buf bytes.Buffer
	if err := c.Save(&buf); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if n, err := New(Config{Now: newClock().now}).Load(bytes.NewReader(buf.Bytes())); err != nil || n != full {
			b.Fatal(n, err)
		}
	}
}

// heap is what lives on it.
func heap() uint64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkMemory(b *testing.B) { benchmarkMemory(b, fullItems()) }

// What takes most room for its size: words, trackers and unknown keys of a few bytes each.
func BenchmarkMemoryHostile(b *testing.B) {
	items := make([][]byte, full)
	r := rand.New(rand.NewPCG(8, 9))
	for i := range items {
		v := channel.Values{Trackers: make([]string, MaxTrackers)}
		for k := range MaxUnknown {
			v.Unknown = append(v.Unknown, channel.Entry{Key: fmt.Sprintf("x%02d", k), Value: []byte("0:")})
		}
		for len(v.Description) < 630 {
			v.Description += fmt.Sprintf("%08x ", r.Uint32())
		}
		v.Name, v.Description = v.Description[:maxName-1], v.Description[maxName:]
		items[i] = sign(b, i, start, v)
	}
	benchmarkMemory(b, items)
}

func benchmarkMemory(b *testing.B, items [][]byte) {
	for b.Loop() {
		before := heap()
		c := New(Config{Now: newClock().now})
		for _, item := range items {
			if _, err := c.Put(item); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
		b.ReportMetric(float64(c.words.n)/full, "words/entry")
		runtime.KeepAlive(c)
	}
}
