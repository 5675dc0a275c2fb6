package guide

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"go.uber.org/goleak"

	"github.com/sixcast/sixcast/internal/testchannel"
	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is one that tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

const epoch = 1_800_000_000

// forged is d with a signature of somebody else.
func forged(d channel.Descriptor) []byte {
	item := bytes.Clone(d.Item)
	item[bytes.Index(item, []byte("3:sig64:"))+20] ^= 1
	return item
}

// station is a guide whose clock and catalogue tests hold.
type station struct {
	*Guide
	catalog *catalog.Catalog
	clock   *clock
	h       http.Handler
}

func newStation(t testing.TB, cc catalog.Config, gc Config) *station {
	t.Helper()
	s := &station{clock: &clock{now: time.Unix(epoch, 0)}}
	cc.Now = s.clock.Now
	s.catalog = catalog.New(cc)
	gc.Catalog, gc.Now = s.catalog, s.clock.Now
	var err error
	if s.Guide, err = New(gc); err != nil {
		t.Fatal(err)
	}
	s.h = s.Handler()
	return s
}

// add has the catalogue take channels 1, 2, 3 …
func (s *station) add(t testing.TB, all ...channel.Values) {
	t.Helper()
	for i, v := range all {
		if _, err := s.catalog.Put(testchannel.Sign(t, i+1, epoch, v).Item); err != nil {
			t.Fatal(err)
		}
	}
}

// ask makes a request from 2001:db8::1; head is alternately names and values.
func (s *station) ask(method, target string, body []byte, head ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, bytes.NewReader(body))
	r.RemoteAddr = "[2001:db8::1]:5000"
	for ; len(head) > 0; head = head[2:] {
		if head[0] == "from" {
			r.RemoteAddr = head[1]
		} else {
			r.Header.Add(head[0], head[1])
		}
	}
	w := httptest.NewRecorder()
	s.h.ServeHTTP(w, r)
	return w
}

type listed struct {
	Channels []Entry `json:"channels"`
	listEnd
}

func (s *station) list(t testing.TB, target string) listed {
	t.Helper()
	w := s.ask("GET", target, nil)
	var l listed
	if err := json.Unmarshal(w.Body.Bytes(), &l); w.Code != 200 || err != nil {
		t.Fatalf("%s: %d, %v: %s", target, w.Code, err, w.Body)
	}
	return l
}

func names(l listed) (out []string) {
	for _, e := range l.Channels {
		out = append(out, e.Name)
	}
	return out
}

func TestList(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{Trackers: []string{"tracker.example:6969"}, Swarm: func(channel.ID) (int, int) { return 2, 40 }})
	s.add(t,
		channel.Values{Name: "Alpha", Description: "news of the coast", Language: "de-AT", Country: "AT", Category: "News", BitRate: 4e6, Now: "Tagesblick", Next: "Wetter",
			Trackers: []string{"udp://other.example:7000", "udp://192.0.2.1:1", "http://x.example/", "tracker.example:6969"}},
		channel.Values{Name: "Beta", Language: "en", Category: "News"},
		channel.Values{Name: "Gamma", Language: "en", Country: "GB"},
	)
	l := s.list(t, "/v1/channels")
	if l.Total != 3 || l.Offset != 0 || l.Version != s.catalog.Version() || !slices.Equal(names(l), []string{"Alpha", "Beta", "Gamma"}) {
		t.Errorf("%+v", l)
	}
	a := l.Channels[0]
	want := "sixcast:" + testchannel.Key(1).ID().String() + "?name=Alpha&tracker=udp://tracker.example:6969&tracker=udp://other.example:7000"
	item, err := base64.StdEncoding.DecodeString(a.Item)
	if d, perr := channel.ParseDescriptor(item); err != nil || perr != nil || d.ID != testchannel.Key(1).ID() {
		t.Errorf("the item: %v, %v", err, perr)
	}
	if a.URI != want || a.ID != testchannel.Key(1).ID().String() || a.Seeders != 2 || a.Leechers != 40 || a.Seq != epoch || a.Seen != "2027-01-15T08:00:00Z" || a.BitRate != 4e6 ||
		a.Now != "Tagesblick" || a.Next != "Wetter" || a.Description != "news of the coast" {
		t.Errorf("%+v", a)
	}
	for target, want := range map[string][]string{
		"/v1/channels?q=coast":                   {"Alpha"},
		"/v1/channels?language=de":               {"Alpha"},
		"/v1/channels?language=en&category=news": {"Beta"},
		"/v1/channels?country=gb":                {"Gamma"},
		"/v1/channels?name=bETA":                 {"Beta"},
		"/v1/channels?name=bet":                  nil,
		"/v1/channels?name=beta&offset=1":        nil,
		"/v1/channels?limit=1&offset=1":          {"Beta"},
		"/v1/channels?offset=99999999999999999":  nil,
		"/v1/channels?limit=99999999999999999":   {"Alpha", "Beta", "Gamma"},
		"/v1/channels?q=nothing&strange=1":       nil,
	} {
		if got := names(s.list(t, target)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
	for _, target := range []string{"?limit=0", "?limit=-1", "?offset=-1", "?offset=x", "?q=%ff", "?q=%zz", "?q=" + strings.Repeat("x", 300), "?category=" + strings.Repeat("x", 65), "?name=a&q=b"} {
		for _, path := range []string{"/", "/v1/channels", "/channels.m3u"} {
			if w := s.ask("GET", path+target, nil); w.Code != 400 || !strings.HasPrefix(w.Body.String(), `{"error":"`) {
				t.Errorf("%s%s: %d %s", path, target, w.Code, w.Body)
			}
		}
	}
}

func TestOne(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{})
	s.add(t, channel.Values{Name: "Alpha"}, channel.Values{Name: "AIpha"})
	d := testchannel.Sign(t, 1, epoch, channel.Values{Name: "Alpha"})
	path := "/v1/channels/" + d.ID.String()
	var e Entry
	if w := s.ask("GET", path, nil); json.Unmarshal(w.Body.Bytes(), &e) != nil || w.Code != 200 || e.Name != "Alpha" || !slices.Equal(e.LookAlikes, []channel.ID{testchannel.Key(2).ID()}) {
		t.Errorf("%d %+v", w.Code, e)
	}
	for _, w := range []*httptest.ResponseRecorder{s.ask("GET", path+"?format=bencode", nil), s.ask("GET", path, nil, "Accept", "application/x-bencode")} {
		if w.Code != 200 || w.Header().Get("Content-Type") != typeItem || !bytes.Equal(w.Body.Bytes(), d.Item) {
			t.Errorf("%d %v %q", w.Code, w.Header(), w.Body)
		}
	}
	if w := s.ask("GET", "/v1/channels/"+testchannel.Key(9).ID().String(), nil); w.Code != 404 {
		t.Errorf("unknown: %d", w.Code)
	}
	if w := s.ask("GET", "/v1/channels/nokey", nil); w.Code != 400 {
		t.Errorf("no key: %d", w.Code)
	}
}

func TestPut(t *testing.T) {
	refused := testchannel.Key(3).ID()
	s := newStation(t, catalog.Config{Max: 1, Accept: func(id channel.ID) bool { return id != refused }}, Config{})
	at := func(n int) string { return "/v1/channels/" + testchannel.Key(n).ID().String() }
	old, first, second := testchannel.Sign(t, 1, epoch-1, channel.Values{Name: "A"}), testchannel.Sign(t, 1, epoch, channel.Values{Name: "A"}), testchannel.Sign(t, 1, epoch+1, channel.Values{Name: "A"})
	other := testchannel.Sign(t, 2, epoch, channel.Values{Name: "B"})
	for _, x := range []struct {
		what, path string
		body       []byte
		want       int
	}{
		{"nothing", at(1), nil, 400},
		{"no item", at(1), []byte("d1:k32:"), 400},
		{"no key in the path", "/v1/channels/x", first.Item, 400},
		{"another channel's", at(1), other.Item, 400},
		{"cut", at(1), first.Item[:len(first.Item)-1], 400},
		{"forged", at(1), forged(first), 403},
		{"too large", at(1), make([]byte, channel.MaxItem+1), 413},
		{"refused", at(3), testchannel.Sign(t, 3, epoch, channel.Values{}).Item, 403},
		{"signed tomorrow", at(1), testchannel.Sign(t, 1, epoch+86400, channel.Values{}).Item, 422},
		{"new", at(1), first.Item, 201},
		{"the same", at(1), first.Item, 204},
		{"older", at(1), old.Item, 409},
		{"another of that seq", at(1), testchannel.Sign(t, 1, epoch, channel.Values{Name: "C"}).Item, 409},
		{"forged again", at(1), forged(second), 403},
		{"newer", at(1), second.Item, 200},
		{"one too many", at(2), other.Item, 507},
	} {
		if w := s.ask("PUT", x.path, x.body); w.Code != x.want {
			t.Errorf("%s: %d, want %d: %s", x.what, w.Code, x.want, w.Body)
		}
		s.clock.pass(time.Second)
	}
	if e, ok := s.catalog.Get(testchannel.Key(1).ID()); !ok || e.Descriptor.Seq != epoch+1 {
		t.Errorf("%+v", e.Descriptor)
	}
	if n := s.Stats.Fresh.Load(); n != 2 {
		t.Errorf("%d were news", n)
	}
}

func TestMethodsAndPaths(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{})
	s.Handle("GET /metrics", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "of the command") }))
	one := "/v1/channels/" + testchannel.Key(1).ID().String()
	for _, x := range []struct {
		method, path string
		want         int
	}{
		{"POST", "/", 405}, {"OPTIONS", "/v1/channels", 405}, {"DELETE", one, 405}, {"PUT", "/v1/channels", 405}, {"PUT", "/v1/changes", 405}, {"TRACE", "/channels.m3u", 405},
		{"GET", "/v2", 404}, {"GET", "/index.html", 404}, {"GET", "/v1/channels/a/b", 404}, {"GET", "/metrics", 200}, {"HEAD", "/", 200}, {"HEAD", "/v1/changes", 200},
	} {
		w := s.ask(x.method, x.path, nil)
		if w.Code != x.want || w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Content-Security-Policy") == "" {
			t.Errorf("%s %s: %d, want %d: %v", x.method, x.path, w.Code, x.want, w.Header())
		}
		if x.method == "HEAD" && w.Body.Len() > 0 {
			t.Errorf("HEAD %s has a body", x.path)
		}
	}
}

// What has not changed is not sent again, compressed or not; what has, is.
func TestETag(t *testing.T) {
	seeders := 1
	s := newStation(t, catalog.Config{}, Config{Swarm: func(channel.ID) (int, int) { return seeders, 0 }})
	s.add(t, channel.Values{Name: "Alpha"})
	one := "/v1/channels/" + testchannel.Key(1).ID().String()
	for _, path := range []string{"/", "/?q=alpha", "/v1/channels", "/channels.m3u", one, one + "?format=bencode"} {
		w := s.ask("GET", path, nil)
		tag := w.Header().Get("ETag")
		z := s.ask("GET", path, nil, "Accept-Encoding", "br, gzip;q=0.5")
		if tag == "" || z.Header().Get("ETag") == tag || z.Header().Get("Content-Encoding") != "gzip" || !strings.Contains(w.Header().Get("Cache-Control"), "max-age") {
			t.Errorf("%s: %v, %v", path, w.Header(), z.Header())
		}
		r, err := gzip.NewReader(z.Body)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, w.Body.Bytes()) {
			t.Errorf("%s: compressed it is another, %v", path, err)
		}
		for _, have := range []string{tag, "W/" + tag, `"x", ` + tag, "*", z.Header().Get("ETag")} {
			if w := s.ask("GET", path, nil, "If-None-Match", have); w.Code != 304 || w.Body.Len() > 0 || w.Header().Get("ETag") != tag {
				t.Errorf("%s with %s: %d, %v", path, have, w.Code, w.Header())
			}
		}
		if w := s.ask("GET", path, nil, "If-None-Match", `"x"`); w.Code != 200 {
			t.Errorf("%s with another: %d", path, w.Code)
		}
		if path == one+"?format=bencode" {
			continue // the item is the same
		}
		seeders++
		if w := s.ask("GET", path, nil, "If-None-Match", tag); w.Code != 200 {
			t.Errorf("%s with other viewers: %d", path, w.Code)
		}
	}
	tag := s.ask("GET", "/v1/channels", nil).Header().Get("ETag")
	if other := s.ask("GET", "/v1/channels?limit=1", nil).Header().Get("ETag"); other == tag {
		t.Error("two queries have one tag")
	}
	if _, err := s.catalog.Put(testchannel.Sign(t, 2, epoch, channel.Values{Name: "Beta"}).Item); err != nil {
		t.Fatal(err)
	}
	if w := s.ask("GET", "/v1/channels?limit=1", nil, "If-None-Match", tag); w.Code != 200 {
		t.Errorf("after a change: %d", w.Code)
	}
	for accept, want := range map[string]string{"gzip;q=0": "", "deflate": "", "*": "gzip", "GZIP": "gzip", "gzip; q=0.0": ""} {
		if got := s.ask("GET", "/v1/channels", nil, "Accept-Encoding", accept).Header().Get("Content-Encoding"); got != want {
			t.Errorf("%q: %q", accept, got)
		}
	}
}

// nasty is what a channel may call itself.
const nasty = "A\"\r\n#EXTVLCOPT:x\nhttp://evil/\u2028\u0085\x00</a></style><script>alert(1)</script>\x1b[2J\u202e{{.}}\xff', group-title=\"x"

func TestInjection(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{Name: "A <tracker>"})
	s.add(t, channel.Values{Name: nasty[:60], Description: nasty, Language: nasty[:40], Country: nasty[:20], Category: nasty, Now: nasty, Trackers: []string{"udp://x:1\n", nasty}},
		channel.Values{Name: nasty}, channel.Values{Name: nasty[:60]})
	for _, path := range []string{"/", "/channels.m3u", "/channels.m3u?base=http://localhost:8080/", "/v1/channels", "/?q=" + url.QueryEscape("<script>\x1b\"'"), "/?category=" + url.QueryEscape(`"><script>`)} {
		w := s.ask("GET", path, nil)
		text := w.Body.String()
		if w.Code != 200 || !strings.Contains(path, "m3u") && (strings.Contains(text, "<script") || strings.Contains(text, "</a></style>")) {
			t.Errorf("%s: %d\n%s", path, w.Code, text)
		}
		for _, r := range text {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Errorf("%s holds %U", path, r)
			}
		}
		if strings.Contains(path, "m3u") {
			checkPlaylist(t, text, 3)
		}
	}
}

// checkPlaylist wants n channels of two lines each, and nothing that they say of themselves at the beginning of one.
func checkPlaylist(t testing.TB, text string, n int) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != 1+2*n || lines[0] != "#EXTM3U" {
		t.Fatalf("%d lines:\n%s", len(lines), text)
	}
	entry := regexp.MustCompile(`^#EXTINF:-1( [a-z-]+="[^",]*")+,[^"]+$`)
	for i := 1; i < len(lines); i += 2 {
		if !entry.MatchString(lines[i]) {
			t.Errorf("line %q", lines[i])
		}
		u := lines[i+1]
		if id, ok := strings.CutPrefix(u, "http://localhost:8080/"); ok {
			if _, err := channel.ParseID(id); err != nil {
				t.Errorf("line %q: %v", u, err)
			}
		} else if _, err := channel.ParseURI(u); err != nil {
			t.Errorf("line %q: %v", u, err)
		}
	}
}

func TestPlaylist(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{Trackers: []string{"[2001:db8::7]:6969"}})
	s.add(t, channel.Values{Name: `News, "local"`, Category: "News, weather", Language: "de"}, channel.Values{})
	id := testchannel.Key(1).ID().String()
	want := "#EXTM3U\n#EXTINF:-1 tvg-id=\"" + id + "\" tvg-name=\"News; 'local'\" tvg-language=\"de\" group-title=\"News; weather\",News, 'local'\n" +
		"http://localhost:8080/" + id + "\n"
	w := s.ask("GET", "/channels.m3u?language=de&base=http://localhost:8080/", nil)
	if w.Body.String() != want || !strings.HasPrefix(w.Header().Get("Content-Type"), "audio/x-mpegurl") {
		t.Errorf("%v\n%s, want\n%s", w.Header(), w.Body, want)
	}
	text := s.ask("GET", "/channels.m3u", nil).Body.String()
	if checkPlaylist(t, text, 2); !strings.Contains(text, "tracker=udp://[2001:db8::7]:6969\n") {
		t.Error(text)
	}
	for _, base := range []string{"javascript:alert(1)//", "http://", "http://x/%0a%0dhttp://y", "http://a@x/", "file:///etc/", "http://x/\"", "http://x/%20", strings.Repeat("http://x/", 40)} {
		if w := s.ask("GET", "/channels.m3u?base="+url.QueryEscape(base), nil); w.Code != 400 && base != "http://x/%20" && base != "http://x/%0a%0dhttp://y" {
			t.Errorf("%q: %d", base, w.Code)
		} else if w.Code == 200 && strings.Count(w.Body.String(), "\n") != 5 {
			t.Errorf("%q: %s", base, w.Body)
		}
	}
	if w := s.ask("GET", "/channels.m3u?base="+url.QueryEscape("http://x/\nhttp://y/"), nil); w.Code != 400 {
		t.Errorf("a base of two lines: %d", w.Code)
	}
}

// Players get more than a list has.
func TestLongLists(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{})
	for i := range 1050 {
		s.addOne(t, i+1, channel.Values{Name: fmt.Sprintf("Channel %04d", i)})
	}
	checkPlaylist(t, s.ask("GET", "/channels.m3u", nil).Body.String(), 1050)
	checkPlaylist(t, s.ask("GET", "/channels.m3u?limit=1020&offset=10&q=channel", nil).Body.String(), 1020)
	if l := s.list(t, "/v1/channels"); len(l.Channels) != DefaultLimit || l.Total != 1050 {
		t.Errorf("%d of %d", len(l.Channels), l.Total)
	}
	if l := s.list(t, "/v1/channels?limit=9999&offset=600"); len(l.Channels) != 450 || l.Offset != 600 {
		t.Errorf("%d from %d", len(l.Channels), l.Offset)
	}
}

func (s *station) addOne(t testing.TB, n int, v channel.Values) {
	t.Helper()
	if _, err := s.catalog.Put(testchannel.Sign(t, n, epoch, v).Item); err != nil {
		t.Fatal(err)
	}
}

// However large the items are, an answer is one that a client takes.
func TestLargeAnswers(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{})
	for i := range 720 {
		s.addOne(t, i+1, channel.Values{Name: fmt.Sprintf("%04d", i), Description: strings.Repeat("\x01", 950)})
	}
	l := s.list(t, "/v1/channels?limit=1000")
	if n := len(l.Channels); n < 100 || n >= 720 || l.Total != 720 {
		t.Errorf("%d of %d", n, l.Total)
	}
	if n := s.ask("GET", "/v1/channels?limit=1000", nil).Body.Len(); n > maxAnswer+16<<10 {
		t.Errorf("%d bytes", n)
	}
	var c changes
	total, since := 0, uint64(0)
	for range 3 {
		w := s.ask("GET", fmt.Sprintf("/v1/changes?instance=%s&since=%d", s.Instance(), since), nil)
		if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil || w.Body.Len() > maxChangesBytes {
			t.Fatalf("%d bytes, %v", w.Body.Len(), err)
		}
		total += len(c.Items)
		since = c.Next
	}
	if total != 720 || len(c.Items) != 0 {
		t.Errorf("%d items", total)
	}
}

func TestChanges(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{})
	get := func(query string) (c changes) {
		t.Helper()
		w := s.ask("GET", "/v1/changes"+query, nil)
		if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil || w.Code != 200 || c.Instance != s.Instance() {
			t.Fatalf("%s: %d %s", query, w.Code, w.Body)
		}
		return c
	}
	if c := get(""); len(c.Items) != 0 {
		t.Errorf("%+v", c)
	}
	s.add(t, channel.Values{Name: "A"}, channel.Values{Name: "B"}, channel.Values{Name: "C"})
	c := get("?max=2")
	if len(c.Items) != 2 {
		t.Fatalf("%+v", c)
	}
	mine := "&instance=" + s.Instance()
	rest := get(fmt.Sprintf("?since=%d", c.Next) + mine)
	if len(rest.Items) != 1 {
		t.Errorf("%+v", rest)
	}
	if end := get(fmt.Sprintf("?since=%d", rest.Next) + mine); len(end.Items) != 0 || end.Next != rest.Next {
		t.Errorf("%+v", end)
	}
	for _, query := range []string{fmt.Sprintf("?since=%d&instance=other", rest.Next), fmt.Sprintf("?since=%d", rest.Next), "?since=18446744073709551615" + mine, "?max=4000000000"} {
		if c := get(query); len(c.Items) != 3 {
			t.Errorf("%s: %d items, want all", query, len(c.Items))
		}
	}
	for _, query := range []string{"?since=-1", "?since=x", "?max=0", "?max=x", "?since=%zz"} {
		if w := s.ask("GET", "/v1/changes"+query, nil); w.Code != 400 {
			t.Errorf("%s: %d", query, w.Code)
		}
	}
}

func TestPage(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{Swarm: func(channel.ID) (int, int) { return 1, 321 }})
	if text := s.ask("GET", "/", nil).Body.String(); !strings.Contains(text, "No channel has made itself known here yet") {
		t.Error(text)
	}
	for i := range 120 {
		s.addOne(t, i+1, channel.Values{Name: fmt.Sprintf("Channel %03d", i), Now: "Something", Category: "Sport & fun"})
	}
	s.addOne(t, 999, channel.Values{Name: "ChanneI OO1"})
	w := s.ask("GET", "/?category=sport+%26+fun&offset=50", nil)
	text := html.UnescapeString(w.Body.String())
	for _, want := range []string{"51 to 100 of 120 channels", "Channel 050", "<b>321</b> watching", "Something", `href="sixcast:` + testchannel.Key(51).ID().String(), `<input type="hidden" name="category" value="sport & fun">`,
		`rel="prev" href="/?category=sport+%26+fun"`, `rel="next" href="/?category=sport+%26+fun&offset=100"`, `href="/channels.m3u?category=sport+%26+fun"`} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(text, "ZgotmplZ") {
		t.Error("the template has refused something")
	}
	if text := s.ask("GET", "/?name=Channel+001", nil).Body.String(); !strings.Contains(text, "May be mistaken for another channel") || !strings.Contains(text, "ChanneI OO1") {
		t.Error("no warning of a look-alike")
	}
	policy := w.Header().Get("Content-Security-Policy")
	if strings.Contains(policy, "unsafe") || !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "style-src 'sha256-") {
		t.Error(policy)
	}
}

func TestPutIsLimited(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{})
	d := testchannel.Sign(t, 1, epoch, channel.Values{})
	path := "/v1/channels/" + d.ID.String()
	put := func(from string) int {
		w := s.ask("PUT", path, d.Item, "from", from)
		if w.Code == 429 && w.Header().Get("Retry-After") != "1" {
			t.Errorf("come again after %q", w.Header().Get("Retry-After"))
		}
		return w.Code
	}
	for i := range 30 {
		if c := put(fmt.Sprintf("[2001:db8::%x]:1", i+1)); c != 201 && c != 204 {
			t.Fatalf("%d: %d", i, c)
		}
	}
	if c := put("[2001:db8::ffff]:1"); c != 429 {
		t.Errorf("the 31st of a /64: %d", c)
	}
	w := s.ask("PUT", path, d.Item, "X-Forwarded-For", "2001:db8:1::1", "Forwarded", "for=\"[2001:db8:1::1]\"")
	if w.Code != 429 {
		t.Errorf("with a header that says it is another: %d", w.Code)
	}
	if c := put("[2001:db8:0:1::1]:1"); c != 204 {
		t.Errorf("another /64: %d", c)
	}
	s.clock.pass(1500 * time.Millisecond)
	if a, b := put("[2001:db8::1]:1"), put("[2001:db8::1]:1"); a != 204 || b != 429 {
		t.Errorf("a second and a half later: %d, %d", a, b)
	}
	// Neighbours on a link share a /64, and are still somebody each.
	for i := range 40 {
		if c := put(fmt.Sprintf("[fe80::%x%%eth0]:1", i+1)); c != 204 {
			t.Errorf("neighbour %d: %d", i, c)
		}
	}
	if n := s.Stats.Limited.Load(); n != 3 {
		t.Errorf("%d counted", n)
	}
}

func TestGetIsLimited(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{Gets: Rate{1, 2}})
	for i, want := range []int{200, 200, 429} {
		if w := s.ask("GET", "/v1/channels", nil); w.Code != want {
			t.Errorf("%d: %d", i, w.Code)
		}
	}
}

// Long answers count for more, afterwards: a player that asks for everything gets it, and has to wait for more.
func TestLongAnswersCost(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{Gets: Rate{1, 4}})
	for i := range 500 {
		s.addOne(t, i+1, channel.Values{})
	}
	for i, want := range []int{200, 200, 429} {
		if w := s.ask("GET", "/channels.m3u", nil); w.Code != want || want == 429 && w.Header().Get("Retry-After") != "3" {
			t.Errorf("%d: %d, %v", i, w.Code, w.Header())
		}
	}
}

// Whoever has many networks has the signatures of all of them checked at the rate for all; what is known costs none.
func TestSignaturesAreLimited(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{Signatures: Rate{10, 5}})
	known := testchannel.Sign(t, 1, epoch, channel.Values{})
	put := func(i int, d channel.Descriptor) int {
		return s.ask("PUT", "/v1/channels/"+d.ID.String(), d.Item, "from", fmt.Sprintf("[2001:db8:%x::1]:1", i)).Code
	}
	for i := range 5 {
		if c := put(i, testchannel.Sign(t, i+1, epoch, channel.Values{})); c != 201 {
			t.Fatalf("%d: %d", i, c)
		}
	}
	if c := put(6, testchannel.Sign(t, 6, epoch, channel.Values{})); c != 429 {
		t.Errorf("the sixth: %d", c)
	}
	if c := put(7, known); c != 204 {
		t.Errorf("what is known: %d", c)
	}
	if c := put(8, channel.Descriptor{ID: testchannel.Key(8).ID(), Item: known.Item}); c != 400 {
		t.Errorf("what is none: %d", c)
	}
	s.clock.pass(100 * time.Millisecond)
	if c := put(9, testchannel.Sign(t, 6, epoch, channel.Values{})); c != 201 {
		t.Errorf("a tenth of a second later: %d", c)
	}
}

func TestPublish(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{})
	from := netip.MustParseAddr("2001:db8::1")
	d := testchannel.Sign(t, 1, epoch, channel.Values{Name: "A"})
	for i := range 30 {
		if err := s.Publish(from, d.Item); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if err := s.Publish(from, d.Item); !errors.Is(err, ErrLimited) {
		t.Errorf("the 31st: %v", err)
	}
	if c := s.ask("PUT", "/v1/channels/"+d.ID.String(), d.Item).Code; c != 429 {
		t.Errorf("by HTTP, too: %d", c)
	}
	if err := s.Publish(netip.MustParseAddr("2001:db8:1::1"), forged(testchannel.Sign(t, 1, epoch+1, channel.Values{}))); !errors.Is(err, channel.ErrSignature) {
		t.Errorf("forged: %v", err)
	}
}

func TestLimiterForgets(t *testing.T) {
	l := newLimiter(Rate{1, 2}, 100)
	now := time.Unix(epoch, 0)
	net := func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0x20, 1, byte(i >> 8), byte(i)}) }
	for i := range 5000 {
		if l.take(net(i), now) > 0 {
			t.Fatalf("network %d is refused", i)
		}
		if len(l.full) > 100 {
			t.Fatalf("%d networks are remembered", len(l.full))
		}
		if i%10 == 0 {
			now = now.Add(time.Millisecond)
		}
	}
	now = now.Add(time.Hour)
	if wait := l.take(net(0), now); wait > 0 || len(l.full) != 1 {
		t.Errorf("an hour later %d are remembered", len(l.full))
	}
	l.take(net(0), now)
	if wait := l.take(net(0), now); wait != time.Second {
		t.Errorf("wait %v", wait)
	}
	if wait := l.take(net(0), now.Add(-time.Hour)); wait <= 0 || wait > 2*time.Hour {
		t.Errorf("after the clock was set back: %v", wait)
	}
}

// Who comes when everything is taken waits a moment, and is told to come again.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, catalog.Config{}, Config{})
		for range cap(s.slots) {
			s.slots <- struct{}{}
		}
		go func() { time.Sleep(slotWait / 2); <-s.slots }()
		if w := s.ask("GET", "/", nil); w.Code != 200 {
			t.Errorf("with a slot after a while: %d", w.Code)
		}
		s.slots <- struct{}{}
		if w := s.ask("GET", "/", nil); w.Code != 503 || w.Header().Get("Retry-After") != "2" {
			t.Errorf("with none: %d, %v", w.Code, w.Header())
		}
	})
	s := newStation(t, catalog.Config{}, Config{})
	for i := range 400 {
		s.addOne(t, i+1, channel.Values{Description: strings.Repeat("x", 700)})
	}
	s.writing.Store(maxWriting)
	if w := s.ask("GET", "/v1/channels?limit=1000", nil); w.Code != 503 || w.Header().Get("ETag") != "" {
		t.Errorf("a large answer beside many that are being written: %d, %v", w.Code, w.Header())
	}
	if w := s.ask("GET", "/v1/channels?limit=10", nil); w.Code != 200 || s.writing.Load() != maxWriting {
		t.Errorf("a small one: %d", w.Code)
	}
}

func TestConfigIsChecked(t *testing.T) {
	c := catalog.New(catalog.Config{})
	for _, cfg := range []Config{{}, {Catalog: c, Trackers: []string{"x"}}, {Catalog: c, Trackers: []string{"192.0.2.1:1"}}, {Catalog: c, Trackers: make([]string, 20)}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// serve serves on loopback until the test ends.
func (s *station) serve(t *testing.T) (base string) {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

func TestConnectionsAreBounded(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{ConnectionsPer64: 2})
	addr := strings.TrimPrefix(s.serve(t), "http://")
	dial := func() net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		return c
	}
	works := func(c net.Conn) bool {
		_, _ = io.WriteString(c, "HEAD /v1/changes HTTP/1.1\r\nHost: x\r\n\r\n")
		b := make([]byte, 12)
		_, err := io.ReadFull(c, b)
		return err == nil && string(b) == "HTTP/1.1 200"
	}
	a, b := dial(), dial()
	defer b.Close()
	if !works(a) || !works(b) {
		t.Error("two do not work")
	}
	c := dial()
	if works(c) {
		t.Error("a third works")
	}
	_ = c.Close()
	_ = a.Close()
	for end := time.Now().Add(5 * time.Second); ; {
		c := dial()
		ok := works(c)
		_ = c.Close()
		if ok {
			break
		}
		if time.Now().After(end) {
			t.Fatal("there is no room again")
		}
	}
	if s.Stats.Connections.Load() == 0 {
		t.Error("nothing is counted")
	}
}

func TestServeFails(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{})
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := s.Serve(t.Context(), l); err == nil {
		t.Error("it serves on a closed socket")
	}
}

func TestConcurrent(t *testing.T) {
	s := newStation(t, catalog.Config{Max: 50}, Config{Gets: Rate{1e6, 1e6}, Puts: Rate{1e6, 1e6}, Swarm: func(channel.ID) (int, int) { return 1, 1 }})
	items := make([][]channel.Descriptor, 4)
	for w := range items {
		for i := range 40 {
			items[w] = append(items[w], testchannel.Sign(t, 1+i%20, epoch+int64(i*4+w), channel.Values{Name: fmt.Sprintf("Channel %d", i%5), Category: "x"}))
		}
	}
	var work sync.WaitGroup
	for w := range items {
		work.Go(func() {
			for _, d := range items[w] {
				if c := s.ask("PUT", "/v1/channels/"+d.ID.String(), d.Item).Code; c != 200 && c != 201 && c != 409 {
					t.Errorf("PUT: %d", c)
				}
			}
		})
		work.Go(func() {
			for i, path := range slices.Repeat([]string{"/", "/v1/channels?q=chan", "/channels.m3u", "/v1/changes", "/?name=channel+1"}, 8) {
				if c := s.ask("GET", path, nil, "Accept-Encoding", []string{"gzip", ""}[i%2]).Code; c != 200 {
					t.Errorf("%s: %d", path, c)
				}
			}
		})
	}
	work.Wait()
}

func FuzzQuery(f *testing.F) {
	for _, s := range []string{"", "q=a&language=de&country=DE&category=x&offset=1&limit=2", "name=x", "q=%ff", "limit=99999999999999999999", "offset=-1", "q=a;b", "base=http://x/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, name, _, err := parseQuery(raw, DefaultLimit, MaxLimit)
		if err != nil {
			return
		}
		if q.Limit < 1 || q.Limit > MaxLimit || q.Offset < 0 || q.Offset > maxOffset || len(q.Text) > maxText || len(q.Category) > maxFilter || len(name) > maxText {
			t.Errorf("%q: %+v, %q", raw, q, name)
		}
	})
}

func FuzzPlaylist(f *testing.F) {
	f.Add("Name", "category", "de", "http://localhost:8080/")
	f.Add(nasty, nasty, "x\n", "http://x/\n")
	f.Fuzz(func(t *testing.T, name, category, language, base string) {
		d, err := channel.SignDescriptor(testchannel.Key(1), 1, channel.Values{Name: name, Category: category, Language: language})
		if err != nil || checkBase(base) != nil {
			return
		}
		var b bytes.Buffer
		new(Guide).appendPlaylist(&b, &shown{Descriptor: &d}, base)
		if n := strings.Count(b.String(), "\n"); n != 2 {
			t.Errorf("%d lines: %q", n, b.String())
		}
		if base == "" {
			checkPlaylist(t, "#EXTM3U\n"+b.String(), 1)
		}
	})
}

// Who loads a list on the tracker's own machine is not kept waiting, unless he asks for others.
func TestThisMachineMayPutAtOnce(t *testing.T) {
	g, err := New(Config{Catalog: catalog.New(catalog.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		from, header string
		waits        bool
	}{{"[::1]:1000", "", false}, {"[::1]:1000", "Via", true}, {"[2001:db8::1]:1000", "", true}} {
		waited := false
		for range 100 {
			r := httptest.NewRequest(http.MethodPut, "/v1/channels/x", nil)
			r.RemoteAddr = x.from
			if x.header != "" {
				r.Header.Set(x.header, "1.1 proxy")
			}
			waited = waited || g.putWait(r, time.Now()) > 0
		}
		if waited != x.waits {
			t.Errorf("from %s with header %q: waits %v", x.from, x.header, waited)
		}
	}
}
