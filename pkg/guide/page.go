package guide

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"strconv"

	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
)

//go:embed page.html
var pageText string

// pageLookAlikes is how many look-alikes the page names.
const pageLookAlikes = 3

// pageData is what the template page shows. All its text is plain; the template escapes it.
type pageData struct {
	Title, Text         string
	MaxText             int
	Filters             []pageFilter
	First, Last, Total  int
	Pages, Counted      bool
	Previous, Following string
	Playlist, JSON      string
	Channels            []pageChannel
}

type pageFilter struct{ Key, Value, Without string }

type pageChannel struct {
	ID, Key, Name, Description, Now, Next, Language, Country, Category, Rate string
	Seeders, Leechers                                                        int
	URI                                                                      string
	Link                                                                     template.URL // URI: html/template knows no scheme but the web's
	LookAlikes                                                               []pageAlike
	MoreAlike                                                                int
}

type pageAlike struct{ Name, Key string }

// parsePage reads the page, and lets browsers use its style and nothing else.
func (g *Guide) parsePage() error {
	var err error
	if g.page, err = template.New("").Parse(pageText); err != nil {
		return err
	}
	// The style is hashed as it comes out, which html/template may have changed.
	var b bytes.Buffer
	if err = g.page.ExecuteTemplate(&b, "page", pageData{}); err != nil {
		return err
	}
	_, style, _ := bytes.Cut(b.Bytes(), []byte("<style>"))
	style, _, _ = bytes.Cut(style, []byte("</style>"))
	sum := sha256.Sum256(style)
	g.policy = "default-src 'none'; img-src data:; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	return nil
}

func (g *Guide) servePage(w http.ResponseWriter, r *http.Request) *answer {
	q, name, _, err := parseQuery(r.URL.RawQuery, pageLimit, DefaultLimit)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return nil
	}
	g.Stats.Pages.Add(1)
	version := g.cfg.Catalog.Version() // the names of look-alikes are in no entry
	found, total := g.find(q, name)
	tag := g.etagger("page")
	tag.query(q, name)
	tag.number(version)
	tag.number(uint64(total))
	for i := range found {
		tag.entry(&found[i])
	}
	w.Header().Set("Content-Security-Policy", g.policy)
	a := g.begin(r, typePage, "public, max-age=5", tag.sum())
	if a.unchanged {
		return a
	}
	d := g.pageData(q, name, found, total)
	if err := g.page.ExecuteTemplate(a.body, "page", d); err != nil {
		g.cfg.Logger.Error("programme page", "err", err)
		g.release(a.body)
		fail(w, http.StatusInternalServerError, "the page cannot be shown")
		return nil
	}
	return a
}

func (g *Guide) pageData(q catalog.Query, name string, found []shown, total int) pageData {
	d := pageData{
		Title: g.cfg.Name, Text: catalog.Plain(q.Text), MaxText: maxText, Total: total, Counted: g.cfg.Swarm != nil,
		First: q.Offset + 1, Last: q.Offset + len(found), Pages: q.Offset > 0 || q.Offset+len(found) < total,
	}
	// where is the address of this list with other filters or from another offset on.
	where := func(path, without string, offset int) string {
		v := url.Values{}
		for _, f := range []pageFilter{{Key: "q", Value: q.Text}, {Key: "name", Value: name}, {Key: "language", Value: q.Language},
			{Key: "country", Value: q.Country}, {Key: "category", Value: q.Category}} {
			if f.Value != "" && f.Key != without {
				v.Set(f.Key, f.Value)
			}
		}
		if offset > 0 {
			v.Set("offset", strconv.Itoa(offset))
		}
		if q.Limit != pageLimit && path == "/" {
			v.Set("limit", strconv.Itoa(q.Limit))
		}
		if len(v) == 0 {
			return path
		}
		return path + "?" + v.Encode()
	}
	for _, f := range []pageFilter{{Key: "name", Value: name}, {Key: "language", Value: q.Language}, {Key: "country", Value: q.Country}, {Key: "category", Value: q.Category}} {
		if f.Value != "" {
			d.Filters = append(d.Filters, pageFilter{f.Key, f.Value, where("/", f.Key, 0)})
		}
	}
	if q.Offset > 0 {
		d.Previous = where("/", "", max(min(q.Offset, total)-q.Limit, 0))
	}
	if q.Offset+len(found) < total && len(found) > 0 {
		d.Following = where("/", "", q.Offset+len(found))
	}
	d.Playlist, d.JSON = where("/channels.m3u", "", 0), where("/v1/channels", "", 0)
	for i := range found {
		d.Channels = append(d.Channels, g.pageChannel(&found[i]))
	}
	return d
}

func (g *Guide) pageChannel(s *shown) pageChannel {
	e := g.entry(s)
	c := pageChannel{
		ID: e.ID, Key: shortKey(s.ID), Name: e.Name, Description: e.Description, Now: e.Now, Next: e.Next,
		Language: e.Language, Country: e.Country, Category: e.Category, Seeders: e.Seeders, Leechers: e.Leechers,
		URI: e.URI, Link: template.URL(e.URI), // percent-encoded by channel.URI, and begins with its scheme
	}
	if e.BitRate > 0 {
		c.Rate = e.BitRate.String()
	}
	for i, id := range s.lookAlikes {
		if i == pageLookAlikes {
			c.MoreAlike = len(s.lookAlikes) - i
			break
		}
		other := pageAlike{Key: shortKey(id)}
		if known, ok := g.cfg.Catalog.Get(id); ok {
			other.Name = catalog.Plain(known.Descriptor.Values.Name)
		}
		c.LookAlikes = append(c.LookAlikes, other)
	}
	return c
}

// shortKey is enough of a key to tell two apart that nobody made alike on purpose.
func shortKey(id channel.ID) string {
	s := id.String()
	return s[:8] + "…" + s[len(s)-8:]
}
