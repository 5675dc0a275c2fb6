package catalog

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/testchannel"
	"github.com/sixcast/sixcast/pkg/channel"
)

// start is what the clocks of these tests begin with.
var start = time.Date(2026, 11, 20, 20, 0, 0, 0, time.UTC)

// clock is one that a test sets.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newClock() *clock { return &clock{t: start} }

// sign makes the item of channel n; seq is when.
func sign(t testing.TB, n int, at time.Time, v channel.Values) []byte {
	t.Helper()
	return testchannel.Sign(t, n, at.Unix(), v).Item
}

// put puts a channel with a name, and wants it to be news.
func put(t testing.TB, c *Catalog, n int, at time.Time, v channel.Values) []byte {
	t.Helper()
	item := sign(t, n, at, v)
	if fresh, err := c.Put(item); err != nil || !fresh {
		t.Fatalf("putting %q: fresh %v, %v", v.Name, fresh, err)
	}
	return item
}

// country is one of those that the made-up stations come from.
type country struct {
	code, language      string
	cities, kinds, text []string
}

var countries = []country{
	{"IT", "it", strings.Fields("Roma Milano Napoli Torino Palermo Genova Bologna Firenze Bari Catania Venezia Verona Messina Padova Trieste Forlì"),
		strings.Fields("Rete Canale TeleRadio Televisione Antenna Onda Città Notizie"),
		strings.Fields("la il di che è un per con del notizie calcio cinema serata città musica programma oggi domani più attualità regione dibattito perché meteo cultura")},
	{"DE", "de", strings.Fields("Berlin München Köln Hamburg Düsseldorf Leipzig Nürnberg Göttingen Tübingen Osnabrück Fürth"),
		strings.Fields("Fernsehen Kanal Stadtfunk Bürgerrundfunk Regional Sender Nachrichten"),
		strings.Fields("der die das und für über heute morgen Nachrichten Wetter Fußball Gespräch Straße Verkehr Dokumentation Spielfilm Jahrhundert Geschichte täglich wöchentlich")},
	{"FR", "fr", strings.Fields("Paris Lyon Marseille Nîmes Orléans Besançon Saint-Étienne Angoulême Châlons"),
		strings.Fields("Télé Chaîne Canal Info Locale Première"),
		strings.Fields("le la les des émission café soirée été journal météo région débat cinéma théâtre aujourd'hui élections près déjà")},
	{"RU", "ru", strings.Fields("Москва Казань Самара Омск Томск Пермь Воронеж"),
		strings.Fields("Телеканал Новости Первый Городской Вести"),
		strings.Fields("новости сегодня погода документальный фильм музыка вечер город передача история культура спорт")},
	{"JP", "ja", strings.Fields("東京 大阪 京都 名古屋 札幌 福岡"),
		strings.Fields("テレビ 放送 チャンネル 総合 ニュース"),
		strings.Fields("今日の天気 ニュース番組 映画 音楽 地域の話題 ドキュメンタリー スポーツ中継")},
	{"US", "en-US", strings.Fields("Boston Chicago Denver Seattle Houston Phoenix Portland Nashville Albuquerque Sacramento"),
		strings.Fields("Public Access Community Channel Network Television News Local"),
		strings.Fields("the of and to local news weather sports council meeting documentary classic movies history every night live from downtown community interviews education")},
}

var categories = strings.Fields("general news sports movies music kids documentary culture religion regional")

// station makes up what channel n says of itself: some 330 bytes, 100,000 of them with mostly different names.
func station(n int) channel.Values {
	r := rand.New(rand.NewPCG(7, uint64(n)))
	pick := func(from []string) string { return from[int(float64(len(from))*r.Float64()*r.Float64())] } // some are more frequent
	c := countries[r.IntN(len(countries))]
	words := func(n int) string {
		out := make([]string, n)
		for i := range out {
			if out[i] = pick(c.text); r.IntN(8) == 0 { // a word of its own: people, places, titles
				out[i] = made(r)
			}
		}
		return strings.Join(out, " ")
	}
	return channel.Values{
		Name:        fmt.Sprintf("%s %s %s %d", pick(c.kinds), pick(c.cities), made(r), 1+r.IntN(99)),
		Description: words(12 + r.IntN(12)),
		Language:    c.language, Country: c.code, Category: pick(categories),
		BitRate: 5_000_000,
		Now:     words(3), Next: words(3),
		Trackers: []string{"udp://tracker.example:6969"},
	}
}

// made is a word of some 20,000.
func made(r *rand.Rand) string {
	syllables := strings.Fields("ba be ca co da di fa fe ga go la le li ma me mi na ne no pa po ra re ri sa se si ta te to va vi zo tri pla ster land burg heim")
	out := ""
	for range 2 + r.IntN(2) {
		out += syllables[r.IntN(len(syllables))]
	}
	return strings.ToUpper(out[:1]) + out[1:]
}

// stations signs n made-up stations, on all cores.
func stations(t testing.TB, n int, at time.Time) [][]byte {
	t.Helper()
	items := make([][]byte, n)
	var work sync.WaitGroup
	const workers = 4
	for w := range workers {
		work.Go(func() {
			for i := w; i < n; i += workers {
				d, err := channel.SignDescriptor(testchannel.Key(i), at.Unix(), station(i))
				if err != nil {
					t.Error(err)
					return
				}
				items[i] = d.Item
			}
		})
	}
	work.Wait()
	return items
}
