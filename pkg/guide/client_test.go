package guide

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/testchannel"
	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
)

func newClient(t *testing.T, base string) *Client {
	c := &Client{Base: base}
	t.Cleanup(c.Close)
	return c
}

// hostile is a server that does as h does.
func hostile(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func() { _ = s.Serve(l); close(ended) }()
	t.Cleanup(func() { _ = s.Close(); <-ended })
	return newClient(t, "http://"+l.Addr().String())
}

// forwarding is a proxy's way to ask: who asks on the same machine for himself is not limited.
type forwarding struct{ http.RoundTripper }

func (f forwarding) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Via", "1.1 proxy")
	return f.RoundTripper.RoundTrip(r)
}

func TestClient(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{Trackers: []string{"tracker.example:1"}, Swarm: func(channel.ID) (int, int) { return 3, 4 }, Puts: Rate{1, 10}})
	c, ctx := newClient(t, s.serve(t)), t.Context()
	first := testchannel.Sign(t, 1, epoch, channel.Values{Name: "Alpha", Language: "de", Now: "news"})
	for i, want := range []bool{true, false} {
		if fresh, err := c.Put(ctx, first.Item); err != nil || fresh != want {
			t.Fatalf("%d: %t, %v", i, fresh, err)
		}
	}
	if fresh, err := c.Put(ctx, testchannel.Sign(t, 1, epoch+1, channel.Values{Name: "Alpha"}).Item); err != nil || !fresh {
		t.Errorf("newer: %t, %v", fresh, err)
	}
	if _, err := c.Put(ctx, first.Item); !errors.Is(err, catalog.ErrStale) {
		t.Errorf("older: %v", err)
	}
	if _, err := c.Put(ctx, forged(first)); !errors.Is(err, channel.ErrSignature) {
		t.Errorf("forged: %v", err)
	}
	if _, err := c.Put(ctx, testchannel.Sign(t, 1, epoch+1e6, channel.Values{}).Item); !errors.Is(err, catalog.ErrFuture) {
		t.Errorf("of the future: %v", err)
	}
	for n, name := range []string{"Beta", "alpha"} {
		if _, err := c.Put(ctx, testchannel.Sign(t, n+2, epoch, channel.Values{Name: name}).Item); err != nil {
			t.Fatal(err)
		}
	}
	p, err := c.List(ctx, catalog.Query{Text: "alpha"})
	if err != nil || len(p.Channels) != 2 || p.Total != 2 || p.Next != 2 || p.Version != s.catalog.Version() || p.Refused != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	one, err := c.Get(ctx, testchannel.Key(1).ID())
	if err != nil || one.Descriptor.Seq != epoch+1 || one.Seeders != 3 || one.Leechers != 4 || one.Seen.Unix() != epoch || !slices.Equal(one.LookAlikes, []channel.ID{testchannel.Key(3).ID()}) ||
		one.URI.String() != "sixcast:"+testchannel.Key(1).ID().String()+"?name=Alpha&tracker=udp://tracker.example:1" {
		t.Errorf("%+v, %v", one, err)
	}
	if _, err := c.Get(ctx, testchannel.Key(9).ID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	if named, err := c.Named(ctx, "ALPHA"); err != nil || len(named) != 2 {
		t.Errorf("named: %d, %v", len(named), err)
	}
	ch, err := c.Changes(ctx, 0, "")
	if err != nil || len(ch.Items) != 3 || ch.Instance != s.Instance() || !ch.More {
		t.Fatalf("%+v, %v", ch, err)
	}
	if ch, err = c.Changes(ctx, ch.Next, ch.Instance); err != nil || len(ch.Items) != 0 || ch.More {
		t.Errorf("%+v, %v", ch, err)
	}
	c = &Client{Base: c.Base, HTTP: &http.Client{Transport: forwarding{&http.Transport{DisableKeepAlives: true}}}}
	for range 11 {
		_, err = c.Put(ctx, first.Item)
	}
	if busy := (*BusyError)(nil); !errors.As(err, &busy) || busy.After != time.Second {
		t.Errorf("too often: %v", err)
	}
}

func TestAll(t *testing.T) {
	s := newStation(t, catalog.Config{}, Config{Gets: Rate{1e6, 1e6}})
	for i := range 250 {
		s.addOne(t, i+1, channel.Values{Name: fmt.Sprint(i)})
	}
	c := newClient(t, s.serve(t))
	for _, x := range []struct {
		q    catalog.Query
		want int
	}{{catalog.Query{}, 250}, {catalog.Query{Limit: 100}, 250}, {catalog.Query{Limit: 100, Offset: 30}, 220}, {catalog.Query{Offset: 900}, 0}} {
		n := 0
		for one, err := range c.All(t.Context(), x.q) {
			if err != nil || one.Descriptor.ID.IsZero() {
				t.Fatal(err)
			}
			n++
		}
		if n != x.want {
			t.Errorf("%+v: %d, want %d", x.q, n, x.want)
		}
	}
	for range c.All(t.Context(), catalog.Query{}) {
		break
	}
}

// entryOf is what a tracker would say of d.
func entryOf(d channel.Descriptor) Entry {
	return Entry{ID: d.ID.String(), URI: "sixcast:" + d.ID.String(), Item: base64.StdEncoding.EncodeToString(d.Item)}
}

// Nothing that a tracker says of a channel stands against what the channel has signed.
func TestOnlyItemsAreBelieved(t *testing.T) {
	d := testchannel.Sign(t, 1, epoch, channel.Values{Name: "Real"})
	lie := entryOf(d)
	lie.ID, lie.Name, lie.Seq = testchannel.Key(2).ID().String(), "Another", 1
	lie.URI = "sixcast:" + d.ID.String() + "?name=Another&peer=[2001:db8::666]:1&tracker=udp://t.example:1&tracker=http://x.example/&tracker=udp://192.0.2.1:1#secret"
	lie.Seeders, lie.Leechers, lie.Seen, lie.LookAlikes = -5, 1<<40, "never", make([]channel.ID, 100)
	other := entryOf(testchannel.Sign(t, 2, epoch, channel.Values{Name: "Other"}))
	other.URI = lie.URI // another's
	bad := entryOf(d)
	bad.Item = base64.StdEncoding.EncodeToString(forged(d))
	none, long, wrong := entryOf(d), entryOf(d), entryOf(d)
	none.Item, long.Item, wrong.Item = "", strings.Repeat("AAAA", 1000), "*"
	b, _ := json.Marshal(map[string]any{"channels": []Entry{bad, none, long, wrong, lie, entryOf(d), other}, "total": -7})
	p, err := decodePage(b, 10, 100)
	if err != nil || len(p.Channels) != 2 || p.Refused != 5 || p.Total != 0 || p.Next != 17 {
		t.Fatalf("%+v, %v", p, err)
	}
	c := p.Channels[0]
	if c.Descriptor.ID != d.ID || c.Descriptor.Values.Name != "Real" || c.Descriptor.Seq != epoch || c.Seeders != 0 || c.Leechers != maxCount || !c.Seen.IsZero() || len(c.LookAlikes) != catalog.MaxLookAlikes ||
		c.URI.String() != "sixcast:"+d.ID.String()+"?name=Real&tracker=udp://t.example:1" {
		t.Errorf("%+v\n%s", c, c.URI)
	}
	if c := p.Channels[1]; c.URI.String() != "sixcast:"+testchannel.Key(2).ID().String()+"?name=Other" {
		t.Errorf("%s", c.URI)
	}
	if p, err := decodePage(b, 0, 6); err != nil || p.Next != 6 || p.Refused != 6 || len(p.Channels) != 1 {
		t.Errorf("more than were asked for: %+v, %v", p, err)
	}
}

func TestHostileServer(t *testing.T) {
	d := testchannel.Sign(t, 1, epoch, channel.Values{Name: "Real"})
	page, _ := json.Marshal(map[string]any{"channels": []Entry{entryOf(d)}, "total": 1 << 40})
	say := func(status int, body string, head ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(head); i += 2 {
				w.Header().Set(head[i], head[i+1])
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	var bomb bytes.Buffer
	z, _ := gzip.NewWriterLevel(&bomb, gzip.BestSpeed)
	for range 8 {
		_, _ = z.Write(make([]byte, 1<<20))
	}
	_ = z.Close()
	list := func(c *Client) error { _, err := c.List(t.Context(), catalog.Query{}); return err }
	get := func(c *Client) error { _, err := c.Get(t.Context(), testchannel.Key(2).ID()); return err }
	put := func(c *Client) error { _, err := c.Put(t.Context(), d.Item); return err }
	pull := func(c *Client) error { _, err := c.Changes(t.Context(), 100, "i"); return err }
	all := func(c *Client) (err error) {
		for _, err = range c.All(t.Context(), catalog.Query{}) {
			if err != nil {
				return err
			}
		}
		return err
	}
	for _, x := range []struct {
		what string
		h    http.HandlerFunc
		do   func(*Client) error
		want error // nil: any
	}{
		{"no JSON", say(200, "<html>"), list, ErrAnswer},
		{"JSON of another kind", say(200, `[1]`), list, ErrAnswer},
		{"deep JSON", say(200, `{"channels":`+strings.Repeat("[", 1<<20)), list, ErrAnswer},
		{"a number that is none", say(200, `{"channels":[],"total":1e999}`), list, ErrAnswer},
		{"a bomb", say(200, bomb.String(), "Content-Encoding", "gzip"), list, ErrLarge},
		{"no end", func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, list, ErrLarge},
		{"cut", say(200, "{", "Content-Length", "100"), list, nil},
		{"no page", say(404, "nothing here"), list, ErrAnswer},
		{"a redirect", say(302, "", "Location", "http://[::1]:1/"), list, nil},
		{"an error that plays tricks", say(500, `{"error":"\u001b[2J\u202e"}`), list, nil},
		{"the same page for ever", say(200, string(page)), all, ErrAnswer},
		{"another channel", func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(entryOf(d)) }, get, ErrAnswer},
		{"no item", say(200, "{}"), get, ErrAnswer},
		{"refused", say(403, `{"error":"no"}`), put, catalog.ErrRefused},
		{"full", say(507, ""), put, catalog.ErrFull},
		{"stale", say(409, ""), put, catalog.ErrStale},
		{"changes that lead back", say(200, `{"items":[],"next":99,"instance":"i"}`), pull, ErrAnswer},
		{"changes that lead nowhere", say(200, `{"items":["AA"],"next":100,"instance":"i"}`), pull, ErrAnswer},
		{"changes of nobody", say(200, `{"items":[],"next":100}`), pull, ErrAnswer},
		{"too many changes", say(200, `{"items":[`+strings.Repeat(`"",`, 1000)+`""],"next":101,"instance":"i"}`), pull, ErrAnswer},
	} {
		err := x.do(hostile(t, x.h))
		if err == nil || x.want != nil && !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", x.what, err, x.want)
		}
		if err != nil && (len(err.Error()) > 1000 || catalog.Plain(err.Error()) != err.Error()) {
			t.Errorf("%s: an error that cannot be printed: %q", x.what, err)
		}
	}
	for after, want := range map[string]time.Duration{"": time.Second, "7": 7 * time.Second, "0": time.Second, "99999999": time.Second, "Mon": time.Second} {
		busy := (*BusyError)(nil)
		if err := list(hostile(t, say(503, "", "Retry-After", after))); !errors.As(err, &busy) || busy.After != want {
			t.Errorf("%q: %v", after, err)
		}
	}
	// A channel of another name, and the same twice, are no answer to a name.
	twice, _ := json.Marshal(map[string]any{"channels": []Entry{entryOf(d), entryOf(d), entryOf(testchannel.Sign(t, 2, epoch, channel.Values{Name: "Rea1"}))}, "total": 3})
	if named, err := hostile(t, say(200, string(twice))).Named(t.Context(), "real"); err != nil || len(named) != 1 || named[0].Descriptor.ID != d.ID {
		t.Errorf("%+v, %v", named, err)
	}
	// What leads to another instance begins again.
	if ch, err := decodeChanges([]byte(`{"items":["AA"],"next":1,"instance":"j"}`), 100, "i"); err != nil || ch.Refused != 1 || ch.Next != 1 {
		t.Errorf("%+v, %v", ch, err)
	}
}

func TestClientGivesUp(t *testing.T) {
	wait := make(chan struct{})
	c := hostile(t, func(http.ResponseWriter, *http.Request) { <-wait })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.List(ctx, catalog.Query{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	close(wait)
	busy := hostile(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for _, err := range busy.All(ctx, catalog.Query{}) {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
	for _, base := range []string{"", "tracker.example:6969", "udp://x:1", "http://", "http://[::1]:x", "http://x/?q", "http://x/#f"} {
		if _, err := (&Client{Base: base}).List(t.Context(), catalog.Query{}); err == nil {
			t.Errorf("%q is asked", base)
		}
	}
	if _, err := newClient(t, "http://127.0.0.1:1").List(t.Context(), catalog.Query{}); err == nil {
		t.Error("IPv4 is asked")
	}
}

func FuzzPage(f *testing.F) {
	d, err := channel.SignDescriptor(testchannel.Key(1), epoch, channel.Values{Name: "Real"})
	if err != nil {
		f.Fatal(err)
	}
	b, _ := json.Marshal(map[string]any{"channels": []Entry{entryOf(d)}, "total": 1, "version": 7})
	f.Add(b)
	f.Add([]byte(`{"channels":[{"uri":"sixcast:x","look_alikes":["a"],"seen":"2027-01-15T08:00:00Z","item":"ZDE6"}],"total":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePage(b, 5, 10)
		if err != nil {
			return
		}
		if len(p.Channels) > 10 || p.Next < 5 || p.Next > 15 || p.Total < 0 || p.Refused < 0 {
			t.Errorf("%+v", p)
		}
		for _, c := range p.Channels {
			d, err := channel.ParseDescriptor(c.Descriptor.Item)
			if err != nil || d.ID != c.Descriptor.ID || d.ID != c.URI.ID || d.Values.Name != c.Descriptor.Values.Name || len(c.URI.Peers) > 0 {
				t.Errorf("%+v, %v", c, err)
			}
			if _, err := channel.ParseURI(c.URI.String()); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzChanges(f *testing.F) {
	f.Add([]byte(`{"items":["ZDE6","x"],"next":8,"instance":"i"}`), uint64(7))
	f.Fuzz(func(t *testing.T, b []byte, since uint64) {
		c, err := decodeChanges(b, since, "i")
		if err != nil {
			return
		}
		if c.Instance == "i" && c.Next < since || len(c.Items)+c.Refused > maxChanges {
			t.Errorf("%+v", c)
		}
		for _, item := range c.Items {
			if _, err := channel.ParseDescriptor(item); err != nil {
				t.Error(err)
			}
		}
	})
}
