// Package guide is the programme list of a tracker by HTTP: JSON for programs, an extended M3U for players, one page for
// people, PUT for descriptors, and what changed for other operators. Client is the other side of it.
//
//	GET  /                   the page: ?q= and the filters, without JavaScript
//	GET  /channels.m3u       the same list for players; ?base= is where they find a channel: base with its key behind it
//	GET  /v1/channels        ?q= &language= &country= &category= or ?name= (exact), &offset= &limit=
//	GET  /v1/channels/KEY    one channel; Accept: application/x-bencode or ?format=bencode: the signed item itself
//	PUT  /v1/channels/KEY    an item: 201 new, 200 newer, 204 known; 400 no item of KEY, 403 refused or forged, 409 older than what is
//	                         known, 413 too large, 422 signed in the future, 429 too often, 507 full
//	GET  /v1/changes         ?since= &instance= &max=: items that came or changed, and where to go on from; what is gone is not named
//
// HEAD goes where GET goes. Errors are JSON, {"error":"…"}, but for paths and methods that there are not.
//
// Nothing here is to be believed: every entry has the signed item in it, which Client verifies and reads instead of the words beside it.
//
// Limits go by the /64 that a connection comes from. X-Forwarded-For and its like are not believed, since anybody can write them: behind a
// reverse proxy all clients share one allowance, and the proxy has to limit them (and Config.Puts and Config.Gets be raised).
package guide

import (
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"html/template"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
)

const (
	// DefaultLimit and MaxLimit are how many channels an answer has if nothing is said, and at most.
	DefaultLimit = 100
	MaxLimit     = 1000
	// maxPlaylist is MaxLimit for players, who ask for no second page, and what they get.
	maxPlaylist = 10_000
	pageLimit   = 50

	// maxAnswer is the most an answer has in bytes before compression, but for the entry that crosses it: a page then has fewer
	// channels than were asked for, and who wants more goes on behind them. Clients take maxRead.
	maxAnswer = 2 << 20
	// maxChanges is the most that /v1/changes tells at once. fewChanges items of the greatest size are less than maxChangesBytes.
	maxChanges      = 1000
	maxChangesBytes = 1 << 20
	fewChanges      = 680

	// Answers larger than smallAnswer count against maxWriting while they are being written, so that slow readers do not fill the memory.
	smallAnswer = 256 << 10
	maxWriting  = 128 << 20
	// An answer is made by one of slotsPerCore for each core, or refused after slotWait.
	slotsPerCore = 2
	slotWait     = 2 * time.Second
	// perToken is how many channels an answer may have for one token of Config.Gets; long lists cost more.
	perToken = 250
	// maxBuckets is how many networks the limits remember.
	maxBuckets = 1 << 14
	// maxTrackers is how many trackers a URI names, of which the channel's own descriptor may add some.
	maxTrackers = 8
)

// Config of a Guide.
type Config struct {
	// Catalog is what is shown, and where PUT puts.
	Catalog *catalog.Catalog
	// Swarm tells how many feed and how many watch a channel; nil if that is not known. It is called for every entry that is shown.
	Swarm func(id channel.ID) (seeders, leechers int)
	// Trackers are this tracker's own names for URIs, "host:port" or "udp://host:port".
	Trackers []string
	// Name is the heading of the page; "Channels" if empty.
	Name string
	// Puts and Gets are what each /64 may do; 1/s with 30 at once and 20/s with 200 at once if zero. Long answers count more than once: one
	// more for every 250 channels.
	Puts, Gets Rate
	// Signatures is how many descriptors are verified for all together; 2000/s with as many at once if zero.
	Signatures Rate
	// Connections is how many are open at once in Serve, and ConnectionsPer64 how many from one /64; 1024 and 32 if 0.
	Connections, ConnectionsPer64 int
	Logger                        *slog.Logger
	Now                           func() time.Time
}

// Stats are counted since New.
type Stats struct {
	Lists, Pages, Playlists, Changes atomic.Uint64 // answered, unchanged ones included
	Unchanged                        atomic.Uint64 // 304
	Puts                             atomic.Uint64 // all
	Fresh                            atomic.Uint64 // of these, news
	Refused                          atomic.Uint64 // of these, those answered with 4xx and 507, but for:
	Limited                          atomic.Uint64 // requests of any kind answered with 429
	Busy                             atomic.Uint64 // requests answered with 503
	Connections                      atomic.Uint64 // closed at once since their network had too many
}

// Guide answers requests. It is safe for concurrent use and holds nothing that has to be closed.
type Guide struct {
	cfg      Config
	mux      *http.ServeMux
	page     *template.Template
	policy   string // Content-Security-Policy of the page
	instance string
	seed     maphash.Seed
	trackers []string // as URIs name them

	puts, gets, signatures *limiter
	slots                  chan struct{}
	writing                atomic.Int64 // bytes of large answers
	buffers, zippers       sync.Pool

	Stats Stats
}

// New makes a guide. Its errors are about the configuration.
func New(cfg Config) (*Guide, error) {
	if cfg.Catalog == nil {
		return nil, errors.New("guide: no catalogue")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Name == "" {
		cfg.Name = "Channels"
	}
	if cfg.Connections == 0 {
		cfg.Connections = 1024
	}
	if cfg.ConnectionsPer64 == 0 {
		cfg.ConnectionsPer64 = 32
	}
	if len(cfg.Trackers) > maxTrackers {
		return nil, fmt.Errorf("guide: %d trackers, at most %d", len(cfg.Trackers), maxTrackers)
	}
	g := &Guide{
		cfg:        cfg,
		mux:        http.NewServeMux(),
		seed:       maphash.MakeSeed(),
		puts:       newLimiter(cfg.Puts.or(Rate{1, 30}), maxBuckets),
		gets:       newLimiter(cfg.Gets.or(Rate{20, 200}), maxBuckets),
		signatures: newLimiter(cfg.Signatures.or(Rate{2000, 2000}), 1),
		slots:      make(chan struct{}, slotsPerCore*runtime.GOMAXPROCS(0)),
	}
	for _, t := range cfg.Trackers {
		u, ok := trackerURL(t)
		if !ok {
			return nil, fmt.Errorf("guide: tracker %q: want host:port", t)
		}
		g.trackers = append(g.trackers, u)
	}
	var random [8]byte
	_, _ = crand.Read(random[:])
	g.instance = hex.EncodeToString(random[:])
	if err := g.parsePage(); err != nil {
		return nil, fmt.Errorf("guide: %w", err)
	}
	g.mux.HandleFunc("GET /{$}", g.read(g.servePage))
	g.mux.HandleFunc("GET /channels.m3u", g.read(g.servePlaylist))
	g.mux.HandleFunc("GET /v1/channels", g.read(g.serveList))
	g.mux.HandleFunc("GET /v1/channels/{id}", g.read(g.serveOne))
	g.mux.HandleFunc("PUT /v1/channels/{id}", g.put)
	g.mux.HandleFunc("GET /v1/changes", g.read(g.serveChanges))
	return g, nil
}

// Handle adds h for a pattern of http.ServeMux, say "GET /metrics". The guide's own paths are "/", "/channels.m3u" and all below "/v1/".
// What is added gets the guide's security headers and none of its limits. Call it before Handler or Serve.
func (g *Guide) Handle(pattern string, h http.Handler) { g.mux.Handle(pattern, h) }

// Handler answers for "/" and all below it: what nobody has is 404, what nobody does is 405.
func (g *Guide) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		g.mux.ServeHTTP(w, r)
	})
}

// Instance is a random name of this Guide: versions of /v1/changes mean nothing to another.
func (g *Guide) Instance() string { return g.instance }

// read is what all GETs have in common: the limit of their network, and a slot to be answered in.
func (g *Guide) read(serve func(http.ResponseWriter, *http.Request) *answer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		from := network(r)
		if wait := g.gets.take(from, g.cfg.Now()); wait > 0 {
			g.limited(w, wait)
			return
		}
		timer := time.NewTimer(slotWait)
		defer timer.Stop()
		select {
		case g.slots <- struct{}{}:
		case <-r.Context().Done():
			return
		case <-timer.C:
			g.busy(w)
			return
		}
		a := g.make(w, r, serve)
		if a != nil {
			g.gets.charge(from, a.channels/perToken)
			g.write(w, r, a)
		}
	}
}

// make runs serve in the slot that its caller has taken, and gives it back.
func (g *Guide) make(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter, *http.Request) *answer) *answer {
	defer func() { <-g.slots }()
	a := serve(w, r)
	if a != nil {
		g.compress(a)
	}
	return a
}

func (g *Guide) limited(w http.ResponseWriter, wait time.Duration) {
	g.Stats.Limited.Add(1)
	retryAfter(w, wait)
	fail(w, http.StatusTooManyRequests, "too many requests from your network")
}

func (g *Guide) busy(w http.ResponseWriter) {
	g.Stats.Busy.Add(1)
	retryAfter(w, slotWait)
	fail(w, http.StatusServiceUnavailable, "too much to do")
}

// network is what limits go by: the /64 of who asks, or all of the address where neighbours share one (link-local, IPv4).
func network(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return networkOf(a.Addr())
}

func networkOf(a netip.Addr) netip.Addr {
	if a.Is4() || a.Is4In6() || a.IsLinkLocalUnicast() {
		return a.Unmap()
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr()
}

// udpScheme begins a tracker in a URI.
const udpScheme = "udp://"

// trackerURL is a tracker as URIs name it. Only what a viewer can ask is taken: "host:port" or "udp://host:port", with no IPv4.
func trackerURL(s string) (string, bool) {
	host := strings.TrimPrefix(s, udpScheme)
	u := udpScheme + host
	if channel.CheckPeer(host) != nil { // the same form: a host or [address], and a port
		return "", false
	}
	if _, err := channel.ParseURI((channel.URI{ID: channel.ID{1}, Trackers: []string{u}}).String()); err != nil {
		return "", false
	}
	return u, true
}
