package guide

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"hash/maphash"
	"net/http"
	"strconv"
	"strings"

	"github.com/sixcast/sixcast/pkg/catalog"
)

const (
	typeJSON     = "application/json"
	typeItem     = "application/x-bencode"
	typePlaylist = "audio/x-mpegurl; charset=utf-8"
	typePage     = "text/html; charset=utf-8"

	// maxPooled is the largest buffer that is kept for the next answer.
	maxPooled = 1 << 20
)

// An answer is what a GET brings.
type answer struct {
	contentType string
	cache       string // Cache-Control
	etag        string // without quotes; empty: none
	unchanged   bool   // it is what the client has
	channels    int    // that it took to make it
	body        *bytes.Buffer
	gzip        bool
}

// begin makes an answer, with a body to write unless the client has it already. etag must be another for other bytes.
func (g *Guide) begin(r *http.Request, contentType, cache, etag string) *answer {
	a := &answer{contentType: contentType, cache: cache, etag: etag, gzip: acceptsGzip(r.Header)}
	if etag != "" && matches(r.Header, etag) {
		a.unchanged = true
		return a
	}
	a.body = g.buffer()
	return a
}

func (g *Guide) buffer() *bytes.Buffer {
	if b, ok := g.buffers.Get().(*bytes.Buffer); ok {
		b.Reset()
		return b
	}
	return new(bytes.Buffer)
}

func (g *Guide) release(b *bytes.Buffer) {
	if b.Cap() <= maxPooled {
		g.buffers.Put(b)
	}
}

// compress is for clients that take gzip.
func (g *Guide) compress(a *answer) {
	if a.unchanged || !a.gzip {
		return
	}
	z, ok := g.zippers.Get().(*gzip.Writer)
	if !ok {
		z, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed)
	}
	b := g.buffer()
	z.Reset(b)
	_, _ = z.Write(a.body.Bytes()) // a buffer takes everything
	_ = z.Close()
	g.zippers.Put(z)
	g.release(a.body)
	a.body = b
}

// write sends an answer and takes its body back.
func (g *Guide) write(w http.ResponseWriter, r *http.Request, a *answer) {
	h := w.Header()
	h.Set("Cache-Control", a.cache)
	h.Set("Vary", "Accept, Accept-Encoding")
	if a.etag != "" {
		h.Set("ETag", quoted(a.etag, a.gzip))
	}
	if a.unchanged {
		g.Stats.Unchanged.Add(1)
		w.WriteHeader(http.StatusNotModified)
		return
	}
	defer g.release(a.body)
	if n := int64(a.body.Len()); n > smallAnswer {
		if g.writing.Add(n) > maxWriting {
			g.writing.Add(-n)
			h.Del("ETag")
			h.Del("Cache-Control")
			g.busy(w)
			return
		}
		defer g.writing.Add(-n)
	}
	h.Set("Content-Type", a.contentType)
	h.Set("Content-Length", strconv.Itoa(a.body.Len()))
	if a.gzip {
		h.Set("Content-Encoding", "gzip")
	}
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body.Bytes()) // who has gone away does not miss it
	}
}

// quoted is an entity tag: bytes that are compressed are others, and have another.
func quoted(etag string, compressed bool) string {
	if compressed {
		etag += "-gzip"
	}
	return `"` + etag + `"`
}

// matches tells whether If-None-Match names etag, compressed or not (RFC 9110 section 13.1.2).
func matches(h http.Header, etag string) bool {
	for _, line := range h.Values("If-None-Match") {
		for part := range strings.SplitSeq(line, ",") {
			part = strings.TrimPrefix(strings.TrimSpace(part), "W/")
			if part == "*" || part == quoted(etag, false) || part == quoted(etag, true) {
				return true
			}
		}
	}
	return false
}

// acceptsGzip reads Accept-Encoding.
func acceptsGzip(h http.Header) bool {
	for _, line := range h.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(line, ",") {
			coding, weight, _ := strings.Cut(part, ";")
			if coding = strings.TrimSpace(coding); !strings.EqualFold(coding, "gzip") && coding != "*" {
				continue
			}
			q, has := strings.CutPrefix(strings.ReplaceAll(weight, " ", ""), "q=")
			f, err := strconv.ParseFloat(q, 64)
			return !has || err != nil || f > 0
		}
	}
	return false
}

// fail says what is wrong, in words that a program can find.
func fail(w http.ResponseWriter, status int, why string) {
	b, _ := json.Marshal(struct { // strings do not fail
		Error string `json:"error"`
	}{why})
	w.Header().Set("Content-Type", typeJSON)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// An etagger makes entity tags of all that an answer shows: two answers with one tag have the same bytes.
type etagger struct{ h maphash.Hash }

func (g *Guide) etagger(kind string) *etagger {
	e := new(etagger)
	e.h.SetSeed(g.seed)
	e.text(kind)
	return e
}

func (e *etagger) text(s string) {
	e.number(uint64(len(s)))
	_, _ = e.h.WriteString(s)
}

func (e *etagger) number(n uint64) { maphash.WriteComparable(&e.h, n) }

// entry takes in a channel, and who is in its swarm.
func (e *etagger) entry(s *shown) {
	_, _ = e.h.Write(s.ID[:])
	e.number(uint64(s.Seq))
	e.number(uint64(s.seen))
	e.number(uint64(s.seeders))
	e.number(uint64(s.leechers))
	e.number(uint64(len(s.lookAlikes)))
	for i := range s.lookAlikes {
		_, _ = e.h.Write(s.lookAlikes[i][:])
	}
}

func (e *etagger) sum() string { return strconv.FormatUint(e.h.Sum64(), 36) }

// query takes in what was asked for.
func (e *etagger) query(q catalog.Query, name string) {
	for _, s := range []string{q.Text, q.Language, q.Country, q.Category, name} {
		e.text(s)
	}
	e.number(uint64(q.Offset))
	e.number(uint64(q.Limit))
}
