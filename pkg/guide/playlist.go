package guide

import (
	"bytes"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/sixcast/sixcast/pkg/catalog"
)

const (
	maxBase = 256 // bytes
	// maxWord is how much of a name or category a player gets, in characters.
	maxWord = 100
)

func (g *Guide) servePlaylist(w http.ResponseWriter, r *http.Request) *answer {
	q, name, rest, err := parseQuery(r.URL.RawQuery, maxPlaylist, maxPlaylist)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return nil
	}
	base := rest.Get("base")
	if err := checkBase(base); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return nil
	}
	g.Stats.Playlists.Add(1)
	found := g.findAll(q, name)
	tag := g.etagger("m3u")
	tag.text(base)
	for i := range found {
		tag.entry(&found[i])
	}
	a := g.begin(r, typePlaylist, "public, max-age=5", tag.sum())
	a.channels = len(found)
	if a.unchanged {
		return a
	}
	a.body.WriteString("#EXTM3U\n")
	for i := range found {
		if a.body.Len() > maxAnswer {
			break
		}
		g.appendPlaylist(a.body, &found[i], base)
	}
	return a
}

// findAll is find beyond what the catalogue lists at once. What changes meanwhile may be missed.
func (g *Guide) findAll(q catalog.Query, name string) (all []shown) {
	for most := q.Limit; ; {
		q.Limit = min(most-len(all), MaxLimit)
		found, total := g.find(q, name)
		all = append(all, found...)
		q.Offset += len(found)
		if len(found) == 0 || len(all) == most || q.Offset >= total {
			return all
		}
	}
}

// appendPlaylist adds two lines, whatever the channel says of itself.
func (g *Guide) appendPlaylist(b *bytes.Buffer, s *shown, base string) {
	id, name := s.ID.String(), word(s.Values.Name)
	if name == "" {
		name = id
	}
	attribute := func(key, value string) {
		if value != "" {
			value = strings.ReplaceAll(strings.ReplaceAll(value, ",", ";"), `\`, "/") // players cut at commas
			b.WriteString(" " + key + `="` + value + `"`)
		}
	}
	b.WriteString("#EXTINF:-1")
	attribute("tvg-id", id)
	attribute("tvg-name", name)
	attribute("tvg-language", word(s.Values.Language))
	attribute("tvg-country", word(s.Values.Country))
	attribute("group-title", word(s.Values.Category))
	b.WriteString("," + name + "\n")
	if base != "" {
		b.WriteString(base + id + "\n")
	} else {
		b.WriteString(g.uri(s.Descriptor).String() + "\n")
	}
}

// word is s on one line, of bounded length, and without what begins an attribute: players look for tvg-logo="http://…" anywhere in the line,
// and would tell a stranger that they are there.
func word(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range catalog.Plain(s) {
		if n++; n > maxWord {
			b.WriteRune('…')
			break
		}
		switch {
		case !unicode.IsPrint(r):
			r = ' '
		case r == '"':
			r = '\''
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}

// checkBase wants what a player can open when a key is put behind it.
func checkBase(s string) error {
	if s == "" {
		return nil
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '<' || c == '>' {
			return errors.New("base: want a URL, escaped")
		}
	}
	u, err := url.Parse(s)
	if err != nil || len(s) > maxBase || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return errors.New("base: want a URL such as http://localhost:8080/")
	}
	return nil
}
