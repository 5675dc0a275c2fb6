package guide

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
)

const (
	// maxRead is the most that a client reads of an answer, decompressed.
	maxRead = 4 << 20
	// maxAll is how many entries All goes through, and so what a tracker that makes them up can make it hold.
	maxAll = 1 << 20
	// requestTimeout is for a context with no deadline.
	requestTimeout = 30 * time.Second
	// All waits as often as this where it is told to come later, and at most so long.
	busyTries = 5
	busyWait  = 10 * time.Second
	maxCount  = 1 << 30 // of what a tracker claims
	maxReason = 512     // bytes of what a tracker gives for a reason
)

// Errors of a Client, beside those of package catalog and channel that Put explains.
var (
	ErrAnswer   = errors.New("this is no programme list")
	ErrLarge    = fmt.Errorf("the answer has more than %d bytes", maxRead)
	ErrNotFound = errors.New("the tracker does not know that channel")
)

// BusyError says that a tracker wants to be asked again After so long.
type BusyError struct{ After time.Duration }

// Error says how long.
func (e *BusyError) Error() string {
	return fmt.Sprintf("the tracker is busy: come again in %v", e.After)
}

// Base is where the list of a tracker is: the name and port by which URIs and --tracker know it, by HTTP.
func Base(tracker string) string { return "http://" + strings.TrimPrefix(tracker, udpScheme) }

// Client asks one tracker. It is safe for concurrent use, and must not be copied after its first request.
type Client struct {
	// Base is "http://[host]:port".
	Base string
	// HTTP makes the requests; if nil, one that speaks IPv6 only and follows no redirect.
	HTTP *http.Client

	once sync.Once
	own  *http.Client
}

// Channel is an entry of a list. All of Descriptor is verified, and URI has its key and name. The rest is the tracker's word.
type Channel struct {
	Descriptor channel.Descriptor
	URI        channel.URI // its trackers are the tracker's word too, and no peers are taken from there
	Seen       time.Time
	Seeders    int
	Leechers   int
	LookAlikes []channel.ID
}

// Entry is the channel for scripts, in its own words.
func (c *Channel) Entry() Entry {
	v := &c.Descriptor.Values
	return Entry{
		URI: c.URI.String(), ID: c.Descriptor.ID.String(), Name: v.Name, Description: v.Description, Language: v.Language, Country: v.Country,
		Category: v.Category, BitRate: v.BitRate, Now: v.Now, Next: v.Next, Seq: c.Descriptor.Seq, Seeders: c.Seeders, Leechers: c.Leechers,
		LookAlikes: c.LookAlikes, Item: base64.StdEncoding.EncodeToString(c.Descriptor.Item),
	}
}

// Page is a part of a list.
type Page struct {
	Channels []Channel
	Refused  int // entries that are left out: no item that verifies, a channel a second time, more than were asked for
	Total    int // what the tracker says that there are
	Next     int // offset of the page behind this one
	Version  uint64
}

// List asks for the channels that q describes. A page may have fewer of them than q.Limit (DefaultLimit if 0) and not be the last.
func (c *Client) List(ctx context.Context, q catalog.Query) (Page, error) {
	return c.list(ctx, q, "")
}

// Named asks for the channels with exactly that name, as catalog.Catalog.Named has it; several keys may claim one.
func (c *Client) Named(ctx context.Context, name string) ([]Channel, error) {
	p, err := c.list(ctx, catalog.Query{Limit: MaxLimit}, name)
	if err != nil {
		return nil, err
	}
	return named(p.Channels, name), nil
}

// Get asks for one channel.
func (c *Client) Get(ctx context.Context, id channel.ID) (Channel, error) {
	b, err := c.do(ctx, http.MethodGet, "/v1/channels/"+id.String(), nil, nil)
	if err != nil {
		return Channel{}, err
	}
	var in Entry
	if err := json.Unmarshal(b, &in); err != nil {
		return Channel{}, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	found, err := in.verify()
	switch {
	case err != nil:
		return Channel{}, fmt.Errorf("%w: %w", ErrAnswer, err)
	case found.Descriptor.ID != id:
		return Channel{}, fmt.Errorf("%w: it has another channel", ErrAnswer)
	}
	return found, nil
}

// All goes through all channels that q describes, from q.Offset on, by pages of q.Limit (MaxLimit if 0). A channel comes once, even if the list
// changes meanwhile; one that was moved across a page may be missed. It waits where the tracker wants that. An error ends it.
func (c *Client) All(ctx context.Context, q catalog.Query) iter.Seq2[Channel, error] {
	return func(yield func(Channel, error) bool) {
		if q.Limit == 0 {
			q.Limit = MaxLimit
		}
		seen := map[channel.ID]bool{}
		for end := q.Offset + maxAll; q.Offset < end; {
			p, err := c.patient(ctx, q)
			if err != nil {
				yield(Channel{}, err)
				return
			}
			fresh := 0
			for _, one := range p.Channels {
				if seen[one.Descriptor.ID] {
					continue
				}
				seen[one.Descriptor.ID] = true
				fresh++
				if !yield(one, nil) {
					return
				}
			}
			if p.Next >= p.Total || p.Next == q.Offset {
				return
			}
			if fresh == 0 {
				yield(Channel{}, fmt.Errorf("%w: its pages bring nothing new", ErrAnswer))
				return
			}
			q.Offset = p.Next
		}
	}
}

// patient is List that waits when it is told to.
func (c *Client) patient(ctx context.Context, q catalog.Query) (Page, error) {
	for try := 1; ; try++ {
		p, err := c.List(ctx, q)
		busy := (*BusyError)(nil)
		if !errors.As(err, &busy) || try == busyTries {
			return p, err
		}
		timer := time.NewTimer(min(busy.After, busyWait))
		select {
		case <-ctx.Done():
			timer.Stop()
			return Page{}, ctx.Err()
		case <-timer.C:
		}
	}
}

func (c *Client) list(ctx context.Context, q catalog.Query, name string) (Page, error) {
	v := url.Values{}
	add := func(key, value string) {
		if value != "" {
			v.Set(key, value)
		}
	}
	add("q", q.Text)
	add("language", q.Language)
	add("country", q.Country)
	add("category", q.Category)
	add("name", name)
	if q.Offset > 0 {
		v.Set("offset", strconv.Itoa(q.Offset))
	}
	if q.Limit <= 0 {
		q.Limit = DefaultLimit
	}
	q.Limit = min(q.Limit, MaxLimit)
	v.Set("limit", strconv.Itoa(q.Limit))
	b, err := c.do(ctx, http.MethodGet, "/v1/channels", v, nil)
	if err != nil {
		return Page{}, err
	}
	return decodePage(b, max(q.Offset, 0), q.Limit)
}

// named keeps those that have a name by their own word, compared as a catalogue compares it.
func named(found []Channel, name string) []Channel {
	newest := int64(0)
	for i := range found {
		newest = max(newest, found[i].Descriptor.Seq)
	}
	own := catalog.New(catalog.Config{Now: func() time.Time { return time.Unix(newest, 0) }}) // our own clock may be wrong
	for i := range found {
		_, _ = own.Put(found[i].Descriptor.Item) // what it refuses is not named
	}
	have := map[channel.ID]bool{}
	for _, e := range own.Named(name) {
		have[e.Descriptor.ID] = true
	}
	return slices.DeleteFunc(found, func(c Channel) bool { return !have[c.Descriptor.ID] })
}

// decodePage reads the answer to a list of at most limit channels.
func decodePage(b []byte, offset, limit int) (Page, error) {
	var in struct {
		Channels []Entry `json:"channels"`
		listEnd
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return Page{}, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	p := Page{Total: min(max(in.Total, 0), maxCount), Next: offset + len(in.Channels), Version: in.Version}
	if n := len(in.Channels); n > limit {
		in.Channels, p.Refused, p.Next = in.Channels[:limit], n-limit, offset+limit
	}
	seen := map[channel.ID]bool{}
	for i := range in.Channels {
		one, err := in.Channels[i].verify()
		if err != nil || seen[one.Descriptor.ID] {
			p.Refused++
			continue
		}
		seen[one.Descriptor.ID] = true
		p.Channels = append(p.Channels, one)
	}
	return p, nil
}

// verify makes a channel of the signed item alone, and of the words beside it what nobody can prove.
func (e *Entry) verify() (Channel, error) {
	item, err := decodeItem(e.Item)
	if err != nil {
		return Channel{}, err
	}
	d, err := channel.ParseDescriptor(item)
	if err != nil {
		return Channel{}, err
	}
	c := Channel{Descriptor: d, URI: channel.URI{ID: d.ID}, Seeders: min(max(e.Seeders, 0), maxCount), Leechers: min(max(e.Leechers, 0), maxCount)}
	if name := catalog.Plain(d.Values.Name); channel.CheckName(name) == nil {
		c.URI.Name = name
	}
	if u, err := channel.ParseURI(e.URI); err == nil && u.ID == d.ID {
		for _, t := range u.Trackers {
			if t, ok := trackerURL(t); ok && len(c.URI.Trackers) < maxTrackers {
				c.URI.Trackers = append(c.URI.Trackers, t)
			}
		}
	}
	if t, err := time.Parse(time.RFC3339, e.Seen); err == nil {
		c.Seen = t
	}
	c.LookAlikes = e.LookAlikes[:min(len(e.LookAlikes), catalog.MaxLookAlikes)]
	return c, nil
}

func decodeItem(s string) ([]byte, error) {
	if len(s) > base64.StdEncoding.EncodedLen(channel.MaxItem) {
		return nil, channel.ErrDescriptor
	}
	item, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", channel.ErrDescriptor, err)
	}
	return item, nil
}

// Put gives the tracker an item. fresh: it was news there. Errors are those of channel.ParseDescriptor, which is asked first, catalog.ErrStale,
// ErrFuture, ErrRefused and ErrFull if the tracker says so, and BusyError.
func (c *Client) Put(ctx context.Context, item []byte) (fresh bool, err error) {
	d, err := channel.ParseDescriptor(item)
	if err != nil {
		return false, err
	}
	// An answer with no body has told that all is known.
	b, err := c.do(ctx, http.MethodPut, "/v1/channels/"+d.ID.String(), nil, item)
	return err == nil && len(b) > 0, err
}

// Changes is what has changed at a tracker.
type Changes struct {
	Items    [][]byte // verified, oldest first
	Refused  int      // that did not verify
	Next     uint64   // since what version to ask again
	Instance string   // to be given with it; another one means that the tracker told everything from its beginning
	More     bool     // there may be more: ask again at once
}

// Changes asks what has changed since a version of an instance of the tracker; 0 and "" at first.
func (c *Client) Changes(ctx context.Context, since uint64, instance string) (Changes, error) {
	v := url.Values{"since": {strconv.FormatUint(since, 10)}, "instance": {instance}}
	b, err := c.do(ctx, http.MethodGet, "/v1/changes", v, nil)
	if err != nil {
		return Changes{}, err
	}
	return decodeChanges(b, since, instance)
}

func decodeChanges(b []byte, since uint64, instance string) (Changes, error) {
	var in changes
	if err := json.Unmarshal(b, &in); err != nil {
		return Changes{}, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	switch {
	case in.Instance == "" || len(in.Instance) > maxFilter:
		return Changes{}, fmt.Errorf("%w: no instance", ErrAnswer)
	case len(in.Items) > maxChanges:
		return Changes{}, fmt.Errorf("%w: %d changes at once", ErrAnswer, len(in.Items))
	}
	if in.Instance != instance {
		since = 0
	}
	// Who asks again and again gets somewhere.
	if in.Next < since || in.Next == since && len(in.Items) > 0 {
		return Changes{}, fmt.Errorf("%w: it leads back", ErrAnswer)
	}
	out := Changes{Next: in.Next, Instance: in.Instance, More: len(in.Items) > 0}
	for _, s := range in.Items {
		item, err := decodeItem(s)
		if err == nil {
			_, err = channel.ParseDescriptor(item)
		}
		if err != nil {
			out.Refused++
			continue
		}
		out.Items = append(out.Items, item)
	}
	return out, nil
}

// Close closes connections that wait for a next request. The client may be used again.
func (c *Client) Close() { c.http().CloseIdleConnections() }

func (c *Client) http() *http.Client {
	if c.HTTP != nil {
		return c.HTTP
	}
	c.once.Do(func() {
		dialer := &net.Dialer{Timeout: 10 * time.Second}
		c.own = &http.Client{
			Transport: &http.Transport{
				DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
					return dialer.DialContext(ctx, "tcp6", addr)
				},
				MaxIdleConns:           2,
				IdleConnTimeout:        10 * time.Second,
				TLSHandshakeTimeout:    10 * time.Second,
				MaxResponseHeaderBytes: 32 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	})
	return c.own
}

// do makes a request, and its answer's body or error.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body []byte) ([]byte, error) {
	base, err := url.Parse(c.Base)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("programme list at %q: want http://[host]:port", c.Base)
	}
	u := base.JoinPath(path)
	u.RawQuery = query.Encode()
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("programme list: %w", err)
	}
	if body != nil {
		r.Header.Set("Content-Type", typeItem)
	}
	answer, err := c.http().Do(r)
	if err != nil {
		return nil, fmt.Errorf("programme list: %w", err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxRead+1))
	switch {
	case len(b) > maxRead:
		return nil, fmt.Errorf("%s: %w", base.Host, ErrLarge)
	case err != nil:
		return nil, fmt.Errorf("programme list: %w", err)
	}
	if err := refusal(answer, b); err != nil {
		return nil, fmt.Errorf("%s: %w", base.Host, err)
	}
	return b, nil
}

// refusal is the error that a status says.
func refusal(answer *http.Response, body []byte) error {
	var in struct {
		Error string `json:"error"`
	}
	why := answer.Status
	if len(body) <= maxReason && json.Unmarshal(body, &in) == nil && in.Error != "" {
		why = in.Error
	}
	said := fmt.Errorf("the tracker says %q", catalog.Plain(why[:min(len(why), maxReason)]))
	switch s := answer.StatusCode; s {
	case http.StatusOK, http.StatusCreated, http.StatusNoContent:
		return nil
	case http.StatusNotFound:
		if in.Error == "" {
			return fmt.Errorf("%w: %w", ErrAnswer, said)
		}
		return ErrNotFound
	case http.StatusForbidden:
		return fmt.Errorf("%w: %w", catalog.ErrRefused, said)
	case http.StatusConflict:
		return fmt.Errorf("%w: %w", catalog.ErrStale, said)
	case http.StatusUnprocessableEntity:
		return fmt.Errorf("%w: %w", catalog.ErrFuture, said)
	case http.StatusInsufficientStorage:
		return fmt.Errorf("%w: %w", catalog.ErrFull, said)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		after, err := strconv.ParseUint(answer.Header.Get("Retry-After"), 10, 16)
		if err != nil {
			after = 1
		}
		return &BusyError{time.Duration(max(after, 1)) * time.Second}
	default:
		return said
	}
}
