package guide

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/ts"
)

// Bounds of what is asked, in bytes.
const (
	maxText   = 256
	maxFilter = 64
	maxOffset = 1 << 31
)

// Entry is a channel in JSON, as the list has it and as commands print it. Item alone proves anything.
type Entry struct {
	URI         string       `json:"uri"`
	ID          string       `json:"id"`
	Name        string       `json:"name"`
	Description string       `json:"description,omitempty"`
	Language    string       `json:"language,omitempty"`
	Country     string       `json:"country,omitempty"`
	Category    string       `json:"category,omitempty"`
	BitRate     ts.BitRate   `json:"bitrate_bps,omitempty"`
	Now         string       `json:"now,omitempty"`
	Next        string       `json:"next,omitempty"`
	Seq         int64        `json:"seq"`
	Seen        string       `json:"seen,omitempty"` // RFC 3339
	Seeders     int          `json:"seeders"`
	Leechers    int          `json:"leechers"`
	LookAlikes  []channel.ID `json:"look_alikes,omitempty"`
	Item        string       `json:"item"` // base64 of the signed item
}

// list is the answer of /v1/channels; the channels come before it.
type listEnd struct {
	Total   int    `json:"total"`
	Offset  int    `json:"offset"`
	Version uint64 `json:"version"`
}

// shown is what an entry is at the moment it is answered with.
type shown struct {
	*channel.Descriptor
	seen              int64 // Unix seconds
	seeders, leechers int
	lookAlikes        []channel.ID
}

func (g *Guide) show(e *catalog.Entry) shown {
	s := shown{Descriptor: &e.Descriptor, seen: e.Seen.Unix(), lookAlikes: e.LookAlikes}
	if g.cfg.Swarm != nil {
		s.seeders, s.leechers = g.cfg.Swarm(e.Descriptor.ID)
	}
	return s
}

// uri is what people pass on: the name if a URI may have it, our trackers, and those that the channel names itself.
func (g *Guide) uri(d *channel.Descriptor) channel.URI {
	u := channel.URI{ID: d.ID, Trackers: slices.Clone(g.trackers)}
	if name := catalog.Plain(d.Values.Name); channel.CheckName(name) == nil {
		u.Name = name
	}
	for _, t := range d.Values.Trackers {
		if len(u.Trackers) == maxTrackers {
			break
		}
		if t, ok := trackerURL(t); ok && !slices.Contains(u.Trackers, t) {
			u.Trackers = append(u.Trackers, t)
		}
	}
	return u
}

// entry is a channel in words, without its item.
func (g *Guide) entry(s *shown) Entry {
	v := &s.Values
	return Entry{
		URI: g.uri(s.Descriptor).String(), ID: s.ID.String(), Name: catalog.Plain(v.Name), Description: catalog.Plain(v.Description),
		Language: catalog.Plain(v.Language), Country: catalog.Plain(v.Country), Category: catalog.Plain(v.Category),
		BitRate: v.BitRate, Now: catalog.Plain(v.Now), Next: catalog.Plain(v.Next), Seq: s.Seq,
		Seen:    time.Unix(s.seen, 0).UTC().Format(time.RFC3339),
		Seeders: s.seeders, Leechers: s.leechers, LookAlikes: s.lookAlikes,
	}
}

// parseQuery reads the filters of a list, and its exact name. Its errors are for who asked.
func parseQuery(raw string, limit, most int) (q catalog.Query, name string, rest url.Values, err error) {
	rest, err = url.ParseQuery(raw)
	if err != nil {
		return q, "", nil, errors.New("malformed query")
	}
	text := func(key string, most int) string {
		s := strings.TrimSpace(rest.Get(key))
		switch {
		case err != nil:
		case len(s) > most:
			err = fmt.Errorf("%s: at most %d bytes", key, most)
		case !utf8.ValidString(s):
			err = fmt.Errorf("%s: want UTF-8", key)
		}
		return s
	}
	number := func(key string, missing, least, most int) int {
		s := rest.Get(key)
		if s == "" || err != nil {
			return missing
		}
		n, bad := strconv.ParseUint(s, 10, 64)
		if bad != nil && !errors.Is(bad, strconv.ErrRange) || n < uint64(least) {
			err = fmt.Errorf("%s: want a number from %d", key, least)
			return missing
		}
		return int(min(n, uint64(most)))
	}
	q.Text, name = text("q", maxText), text("name", maxText)
	q.Language, q.Country, q.Category = text("language", maxFilter), text("country", maxFilter), text("category", maxFilter)
	q.Offset, q.Limit = number("offset", 0, 0, maxOffset), number("limit", limit, 1, most)
	if err == nil && name != "" && q.Text+q.Language+q.Country+q.Category != "" {
		err = errors.New("name: it is exact, and goes with no other filter")
	}
	if err != nil {
		return catalog.Query{}, "", nil, err
	}
	return q, name, rest, nil
}

// find is what the catalogue has for a query.
func (g *Guide) find(q catalog.Query, name string) (found []shown, total int) {
	var entries []catalog.Entry
	if name == "" {
		entries, total = g.cfg.Catalog.List(q)
	} else {
		entries = g.cfg.Catalog.Named(name)
		total = len(entries)
		entries = entries[min(q.Offset, total):]
		entries = entries[:min(q.Limit, len(entries))]
	}
	found = make([]shown, len(entries))
	for i := range entries {
		found[i] = g.show(&entries[i])
	}
	return found, total
}

func (g *Guide) serveList(w http.ResponseWriter, r *http.Request) *answer {
	q, name, _, err := parseQuery(r.URL.RawQuery, DefaultLimit, MaxLimit)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return nil
	}
	g.Stats.Lists.Add(1)
	version := g.cfg.Catalog.Version() // before the list, so that who goes on from it misses nothing
	found, total := g.find(q, name)
	tag := g.etagger("list")
	tag.query(q, name)
	tag.number(version)
	tag.number(uint64(total))
	for i := range found {
		tag.entry(&found[i])
	}
	a := g.begin(r, typeJSON, "public, max-age=5", tag.sum())
	a.channels = len(found)
	if a.unchanged {
		return a
	}
	b := a.body
	b.WriteString(`{"channels":[`)
	for i := range found {
		if b.Len() > maxAnswer {
			break
		}
		if i > 0 {
			b.WriteByte(',')
		}
		encodeEntry(b, g.entry(&found[i]), found[i].Item)
	}
	b.WriteString(`],`)
	end, _ := json.Marshal(listEnd{total, q.Offset, version})
	b.Write(end[1:])
	b.WriteByte('\n')
	return a
}

// encode appends v, which holds nothing that does not fit JSON.
func encode(b *bytes.Buffer, v any) {
	if err := json.NewEncoder(b).Encode(v); err == nil {
		b.Truncate(b.Len() - 1) // its newline
	}
}

// encodeEntry appends an entry with its item.
func encodeEntry(b *bytes.Buffer, e Entry, item []byte) {
	e.Item = base64.StdEncoding.EncodeToString(item)
	encode(b, e)
}

func (g *Guide) serveOne(w http.ResponseWriter, r *http.Request) *answer {
	id, err := channel.ParseID(r.PathValue("id"))
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return nil
	}
	e, ok := g.cfg.Catalog.Get(id)
	if !ok {
		fail(w, http.StatusNotFound, "this tracker does not know that channel")
		return nil
	}
	g.Stats.Lists.Add(1)
	s := g.show(&e)
	const cache = "public, max-age=5"
	if r.URL.Query().Get("format") == "bencode" || strings.Contains(r.Header.Get("Accept"), typeItem) {
		tag := g.etagger("item")
		tag.text(string(s.Item))
		a := g.begin(r, typeItem, cache, tag.sum())
		if !a.unchanged {
			a.body.Write(s.Item)
		}
		return a
	}
	tag := g.etagger("one")
	tag.entry(&s)
	a := g.begin(r, typeJSON, cache, tag.sum())
	if !a.unchanged {
		encodeEntry(a.body, g.entry(&s), s.Item)
		a.body.WriteByte('\n')
	}
	return a
}

// putWait is how long who puts has to wait. Nobody on this machine itself has to, so that an operator can load a list at once; a proxy here
// says for whom it asks, and waits as others do.
func (g *Guide) putWait(r *http.Request, now time.Time) time.Duration {
	from := network(r)
	if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && a.Addr().IsLoopback() && r.Header.Get("Via")+r.Header.Get("Forwarded")+r.Header.Get("X-Forwarded-For") == "" {
		return 0
	}
	return g.puts.take(from, now)
}

// put takes a descriptor.
func (g *Guide) put(w http.ResponseWriter, r *http.Request) {
	g.Stats.Puts.Add(1)
	now := g.cfg.Now()
	if wait := g.putWait(r, now); wait > 0 {
		g.limited(w, wait)
		return
	}
	refuse := func(status int, why string) {
		g.Stats.Refused.Add(1)
		fail(w, status, why)
	}
	id, err := channel.ParseID(r.PathValue("id"))
	if err != nil {
		refuse(http.StatusBadRequest, err.Error())
		return
	}
	item, err := io.ReadAll(http.MaxBytesReader(w, r.Body, channel.MaxItem))
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("an item has at most %d bytes", channel.MaxItem))
		return
	} else if err != nil {
		refuse(http.StatusBadRequest, "the item did not come whole")
		return
	}
	// Whose it is stands at its beginning: nothing is verified for an item that is none, or another's.
	if whose, _, ok := channel.PeekItem(item); !ok || whose != id {
		refuse(http.StatusBadRequest, "this is no descriptor of "+id.String())
		return
	}
	known, wait := g.verifyWait(id, item, now)
	if wait > 0 {
		g.limited(w, wait)
		return
	}
	fresh, err := g.cfg.Catalog.Put(item)
	switch {
	case err == nil && !fresh:
		w.WriteHeader(http.StatusNoContent)
	case err == nil:
		g.Stats.Fresh.Add(1)
		g.cfg.Logger.Debug("descriptor by HTTP", "channel", id, "known", known, "from", r.RemoteAddr)
		status := http.StatusCreated
		if known {
			status = http.StatusOK
		}
		w.Header().Set("Content-Type", typeJSON)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "{\"id\":\""+id.String()+"\"}\n")
	case errors.Is(err, channel.ErrSignature), errors.Is(err, catalog.ErrRefused):
		refuse(http.StatusForbidden, catalog.Plain(err.Error()))
	case errors.Is(err, catalog.ErrStale):
		refuse(http.StatusConflict, catalog.Plain(err.Error()))
	case errors.Is(err, catalog.ErrFuture):
		refuse(http.StatusUnprocessableEntity, catalog.Plain(err.Error()))
	case errors.Is(err, catalog.ErrFull):
		refuse(http.StatusInsufficientStorage, catalog.Plain(err.Error()))
	default:
		refuse(http.StatusBadRequest, catalog.Plain(err.Error()))
	}
}

func (g *Guide) serveChanges(w http.ResponseWriter, r *http.Request) *answer {
	q, err := url.ParseQuery(r.URL.RawQuery)
	bad := func(why string) *answer {
		fail(w, http.StatusBadRequest, why)
		return nil
	}
	if err != nil {
		return bad("malformed query")
	}
	since, most := uint64(0), maxChanges
	if s := q.Get("since"); s != "" {
		if since, err = strconv.ParseUint(s, 10, 64); err != nil {
			return bad("since: want a version")
		}
	}
	if s := q.Get("max"); s != "" {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || n == 0 {
			return bad("max: want a number from 1")
		}
		most = int(min(n, maxChanges))
	}
	// Versions are ours: of another instance, or greater than any there was, they mean nothing.
	if q.Get("instance") != g.instance || since > g.cfg.Catalog.Version() {
		since = 0
	}
	g.Stats.Changes.Add(1)
	items, next := g.cfg.Catalog.Since(since, most)
	size := 0
	for _, item := range items {
		size += base64.StdEncoding.EncodedLen(len(item)) + len(`"",`)
	}
	if size > maxChangesBytes-1024 && most > fewChanges {
		items, next = g.cfg.Catalog.Since(since, fewChanges)
	}
	a := g.begin(r, typeJSON, "no-store", "")
	a.channels = len(items)
	encoded := make([]string, len(items))
	for i, item := range items {
		encoded[i] = base64.StdEncoding.EncodeToString(item)
	}
	encode(a.body, changes{Items: encoded, Next: next, Instance: g.instance})
	a.body.WriteByte('\n')
	return a
}

// changes is the answer of /v1/changes.
type changes struct {
	Items    []string `json:"items"`
	Next     uint64   `json:"next"`
	Instance string   `json:"instance"`
}
