package guide

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
)

// Of 100,000 channels: what an answer takes, from request to last byte.
func BenchmarkHandler(b *testing.B) {
	make100k := sync.OnceValue(func() *station {
		s := newStation(b, catalog.Config{Max: 100_000}, Config{Gets: Rate{1e9, 1e9}, Trackers: []string{"tracker.example:6969"}, Swarm: func(channel.ID) (int, int) { return 1, 10 }})
		towns := []string{"Esbjerg", "Porto", "Gdańsk", "Tromsø", "Κέρκυρα", "Brest", "Odesa", "Galway", "Trieste", "Visby"}
		kinds := []string{"News", "Sport", "Music", "Science", "Local", "Culture", "Kids"}
		for i := range 100_000 {
			s.addOne(b, i+1, channel.Values{Name: fmt.Sprintf("%s %s %05d", towns[i%10], kinds[i%7], i), Category: kinds[i%7], Language: []string{"da", "pt", "pl", "no", "el"}[i%5], Country: "DK",
				Description: "What happens in " + towns[i%10] + " and around it, every day and every night, seen by those who live there.", Now: fmt.Sprintf("Programme %d", i%500), Next: "Weather", BitRate: 4e6})
		}
		return s
	})
	for _, x := range []struct{ name, path, accept string }{
		{"list", "/v1/channels", "gzip"},
		{"list-plain", "/v1/channels", ""},
		{"list-1000", "/v1/channels?limit=1000&offset=50000", "gzip"},
		{"search-rare", "/v1/channels?q=porto+00421", "gzip"},
		{"search-common", "/v1/channels?q=every+day", "gzip"},
		{"filter", "/v1/channels?language=pl&category=music", "gzip"},
		{"name", "/v1/channels?name=Porto+News+00021", "gzip"},
		{"page", "/", "gzip"},
		{"page-search", "/?q=galway", "gzip"},
		{"m3u-10000", "/channels.m3u?base=http://localhost:8080/", "gzip"},
		{"changes", "/v1/changes", "gzip"},
	} {
		b.Run(x.name, func(b *testing.B) {
			s := make100k()
			var took []time.Duration
			bytes := 0
			b.ReportAllocs()
			for b.Loop() {
				begun := time.Now()
				w := s.ask("GET", x.path, nil, "Accept-Encoding", x.accept)
				took = append(took, time.Since(begun))
				if bytes = w.Body.Len(); w.Code != 200 {
					b.Fatal(w.Code)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(bytes), "bytes")
		})
	}
}
