package find

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/dht"
	"github.com/sixcast/sixcast/pkg/guide"
	"github.com/sixcast/sixcast/pkg/lan"
	"github.com/sixcast/sixcast/pkg/memory"
)

const (
	// A name is looked for, for lookUpTime; when somebody knows it, others have graceTime to know it of another channel.
	lookUpTime = 5 * time.Second
	graceTime  = 100 * time.Millisecond
	// lanTime is how long this network has to say what is on it, for a list; nameTime where a name is, which is asked for again meanwhile.
	lanTime  = 400 * time.Millisecond
	nameTime = 1500 * time.Millisecond
	// listTime is how long a list may take, maxListed how many channels one tracker may fill it with.
	listTime  = 5 * time.Second
	maxListed = 10_000
	// maxClaims is how many channels of one name are named.
	maxClaims = 8
)

// ErrUnknown is returned for a name that nobody knows.
var ErrUnknown = errors.New("no channel of that name was found")

// Options of Ways.
type Options struct {
	// Trackers as CheckTracker wants them.
	Trackers []string
	// LAN has this network asked, on Interfaces or, if there are none, on all.
	LAN        bool
	Interfaces []string
	// Memory is what this user's commands remember; nil: nothing. Who opened it closes it, after the Ways.
	Memory *memory.Memory
	// DHT is asked for peers and descriptors; nil: none. Likewise.
	DHT    *dht.Node
	Logger *slog.Logger
}

// Ways are all that there is to find channels and their peers by. Any may be missing.
type Ways struct {
	opts   Options
	lan    *lan.Announcer // nil without one
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu        sync.Mutex
	contested []string      // names, folded
	finder    *Finder       // who is told what the network says; nil: nobody
	heard     chan struct{} // closed, and made anew, when this network has told of a channel
}

// Open begins to listen to this network. That it cannot is no error: the other ways are there.
func Open(opts Options) *Ways {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Ways{opts: opts, heard: make(chan struct{})}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	if opts.LAN {
		var err error
		w.lan, err = lan.Start(lan.Config{Interfaces: opts.Interfaces, OnChannel: w.onChannel, OnPeers: w.onPeers, OnGroup: w.onGroup, Logger: opts.Logger})
		if err != nil {
			opts.Logger.Warn("this network cannot be asked for channels", "err", err)
		}
	}
	return w
}

// Close ends listening.
func (w *Ways) Close() {
	w.cancel()
	w.work.Wait()
	if w.lan != nil {
		_ = w.lan.Close()
	}
}

func (w *Ways) onChannel(lan.Channel) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.heard)
	w.heard = make(chan struct{})
}

func (w *Ways) onPeers(id channel.ID, peers []netip.AddrPort) {
	if f := w.finderOf(id); f != nil {
		f.found(peers)
	}
}

func (w *Ways) onGroup(id channel.ID, g lan.Group) {
	if f := w.finderOf(id); f != nil && f.cfg.OnGroup != nil {
		f.cfg.OnGroup(g)
	}
}

func (w *Ways) finderOf(id channel.ID) *Finder {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.finder != nil && w.finder.cfg.Channel == id {
		return w.finder
	}
	return nil
}

// Found is a channel that has the name that was looked for.
type Found struct {
	Descriptor channel.Descriptor // its ID is always there, the rest may be missing
	Trackers   []string           // that list it, besides those of Options
	Where      string             // who said so, for people
	New        bool               // the name was not known here before
}

// AmbiguousError says that several channels claim a name that was never used here.
type AmbiguousError struct {
	Name   string
	Claims []Found
}

// Error lists them.
func (e *AmbiguousError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "several channels are called %s: give the URI of the one that you mean", catalog.Plain(e.Name))
	for _, c := range e.Claims[:min(len(e.Claims), maxClaims)] {
		fmt.Fprintf(&b, "\n  %v  (%s)", channel.URI{ID: c.Descriptor.ID, Name: e.Name}, c.Where)
		if d := c.Descriptor.Values.Description; d != "" {
			fmt.Fprintf(&b, " %s", catalog.Plain(d))
		}
	}
	return b.String()
}

// LookUp finds the channel of a name: the one that it meant the last time, else the one that this network, the trackers or, if they say
// nothing, the memory knows, of which the first good answer wins. Errors are ErrUnknown, *AmbiguousError, and those of ctx.
func (w *Ways) LookUp(ctx context.Context, name string) (Found, error) {
	if m := w.opts.Memory; m != nil {
		if p, ok := m.Meaning(name); ok {
			f := Found{Descriptor: channel.Descriptor{ID: p.ID}, Where: "as before"}
			if d, ok := m.Channel(p.ID); ok {
				f.Descriptor, f.Trackers = d, Usable(d.Values.Trackers)
			}
			w.work.Go(func() { w.refuse(name, p.ID) })
			return f, nil
		}
	}
	q := w.inquire(name)
	q.wait(ctx, graceTime)
	f, err := w.decide(ctx, name, q)
	if err != nil {
		q.cancel()
		return f, err
	}
	w.work.Go(func() { w.contest(name, f.Descriptor.ID, q) })
	return f, nil
}

// contest goes on listening, since the first answer need not be the right one, and notes if another channel claims the name.
func (w *Ways) contest(name string, id channel.ID, q *inquiry) {
	for _, c := range q.rivals(w.ctx, id) {
		w.mu.Lock()
		w.contested = append(w.contested, channel.FoldName(name))
		w.mu.Unlock()
		w.opts.Logger.Warn(fmt.Sprintf("%s: another channel has this name, %v, says %s. The first one plays; give the URI of the one that you mean, for the name is not kept",
			catalog.Plain(name), channel.URI{ID: c.Descriptor.ID}, c.Where))
		return
	}
}

// Contested reports whether several channels have claimed a name since it was looked for: then it is not to be kept.
func (w *Ways) Contested(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.contested, channel.FoldName(name))
}

// refuse tells of channels that claim a name which means another one here.
func (w *Ways) refuse(name string, pinned channel.ID) {
	for _, c := range w.inquire(name).rivals(w.ctx, pinned) {
		_, err := w.opts.Memory.Check(name, c.Descriptor.ID)
		w.opts.Logger.Warn(fmt.Sprintf("refused, from %s: %v", c.Where, err))
	}
}

// inquiry is a name that all who can be asked are asked for, until lookUpTime is over, all have said what they know, or it is cancelled. It
// belongs to one goroutine at a time.
type inquiry struct {
	cancel  context.CancelFunc
	over    <-chan struct{}
	answers chan Found
	done    chan error // of each who is asked
	asking  int        // who is still to say something

	claims []Found
	failed error // of those who could not be asked
}

// inquire begins one.
func (w *Ways) inquire(name string) *inquiry {
	ctx, cancel := context.WithTimeout(w.ctx, lookUpTime)
	q := &inquiry{cancel: cancel, over: ctx.Done(), answers: make(chan Found, 64), done: make(chan error)}
	ask := func(way func(context.Context, string, chan<- Found) error) {
		q.asking++
		w.work.Go(func() {
			err := way(ctx, name, q.answers)
			select {
			case q.done <- err:
			case <-ctx.Done():
			}
		})
	}
	for _, t := range w.opts.Trackers {
		ask(func(ctx context.Context, name string, to chan<- Found) error { return askTracker(ctx, t, name, to) })
	}
	if w.lan != nil {
		ask(w.askLAN)
	}
	return q
}

// wait collects claims until all have said what they know, the inquiry or ctx is over, or somebody has answered and others have had their time.
func (q *inquiry) wait(ctx context.Context, others time.Duration) {
	var grace <-chan time.Time
	for waiting := true; waiting && q.asking > 0; {
		select {
		case f := <-q.answers:
			q.claims = claim(q.claims, f)
			if grace == nil {
				grace = time.After(others)
			}
		case err := <-q.done:
			q.asking--
			q.failed = also(q.failed, err)
		case <-grace:
			waiting = false
		case <-q.over:
			waiting = false
		case <-ctx.Done():
			waiting = false
		}
	}
	for len(q.answers) > 0 { // nobody else takes them
		q.claims = claim(q.claims, <-q.answers)
	}
}

// rivals waits for the end of the inquiry, and returns the channels that have claimed the name, but for one.
func (q *inquiry) rivals(ctx context.Context, id channel.ID) []Found {
	defer q.cancel()
	q.wait(ctx, lookUpTime)
	return slices.DeleteFunc(q.claims, func(f Found) bool { return f.Descriptor.ID == id })
}

// decide makes one of what was said.
func (w *Ways) decide(ctx context.Context, name string, q *inquiry) (Found, error) {
	claims := slices.Clone(q.claims)
	if err := ctx.Err(); len(claims) == 0 && err != nil {
		return Found{}, err
	}
	if w.opts.Memory != nil {
		for _, d := range w.opts.Memory.Named(name) {
			claims = claim(claims, Found{Descriptor: d, Trackers: Usable(d.Values.Trackers), Where: "from memory"})
		}
	}
	switch len(claims) {
	case 0:
		if q.failed != nil {
			return Found{}, fmt.Errorf("%w: %w", ErrUnknown, q.failed)
		}
		return Found{}, ErrUnknown
	case 1:
		claims[0].New = true
		return claims[0], nil
	}
	return Found{}, &AmbiguousError{name, claims}
}

// claim adds a channel to those that were named, or what is newer of it.
func claim(claims []Found, f Found) []Found {
	for i := range claims {
		if c := &claims[i]; c.Descriptor.ID == f.Descriptor.ID {
			if f.Descriptor.Seq > c.Descriptor.Seq {
				c.Descriptor = f.Descriptor
			}
			c.Trackers = appendNew(c.Trackers, f.Trackers, MaxTrackers)
			return claims
		}
	}
	return append(claims, f)
}

// appendNew appends what is not there yet, as long as there are fewer than most.
func appendNew[T comparable](all, more []T, most int) []T {
	for _, x := range more {
		if len(all) < most && !slices.Contains(all, x) {
			all = append(all, x)
		}
	}
	return all
}

// Usable are the trackers of a descriptor or URI that can be asked.
func Usable(urls []string) (names []string) {
	for _, u := range urls {
		if CheckTracker(u) == nil && len(names) < MaxTrackers {
			names = append(names, strings.TrimPrefix(u, scheme))
		}
	}
	return names
}

// also joins errors in one line.
func also(err, next error) error {
	if err == nil || next == nil {
		return cmp.Or(err, next)
	}
	return fmt.Errorf("%w; %w", err, next)
}

// reason is what went wrong in the end, without what was tried.
func reason(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

func askTracker(ctx context.Context, tracker, name string, to chan<- Found) error {
	c := guide.Client{Base: guide.Base(tracker)}
	defer c.Close()
	named, err := c.Named(ctx, name)
	if err != nil {
		return fmt.Errorf("tracker %s: %w", tracker, reason(err))
	}
	for _, ch := range named {
		f := Found{Descriptor: ch.Descriptor, Trackers: append([]string{strings.TrimPrefix(tracker, scheme)}, Usable(ch.URI.Trackers)...), Where: "tracker " + tracker}
		select {
		case to <- f:
		case <-ctx.Done():
		}
	}
	return nil
}

// askLAN asks this network.
func (w *Ways) askLAN(ctx context.Context, name string, to chan<- Found) error {
	ctx, cancel := context.WithTimeout(ctx, nameTime)
	defer cancel()
	w.lan.QueryName(name)
	for {
		w.mu.Lock()
		heard := w.heard
		w.mu.Unlock()
		for _, c := range w.lan.Channels() {
			if c.Descriptor.Item != nil && channel.FoldName(c.Descriptor.Values.Name) == channel.FoldName(name) {
				select {
				case to <- Found{Descriptor: c.Descriptor, Trackers: Usable(c.Descriptor.Values.Trackers), Where: "this network"}:
				case <-ctx.Done():
				}
			}
		}
		select {
		case <-heard:
		case <-ctx.Done():
			return nil
		}
	}
}

// List is what all ways know of: trackers, this network, the memory. Errors are those of the ways that failed; what the others know is there.
func (w *Ways) List(ctx context.Context, q catalog.Query) (all []guide.Channel, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	var mu sync.Mutex
	var work sync.WaitGroup
	at := make(map[channel.ID]int)
	add := func(c guide.Channel) {
		mu.Lock()
		defer mu.Unlock()
		if i, known := at[c.Descriptor.ID]; known {
			merge(&all[i], c)
			return
		}
		at[c.Descriptor.ID] = len(all)
		all = append(all, c)
	}
	for _, t := range w.opts.Trackers {
		work.Go(func() {
			c := guide.Client{Base: guide.Base(t)}
			defer c.Close()
			n := 0
			for ch, failed := range c.All(ctx, q) {
				if failed != nil {
					mu.Lock()
					err = also(err, fmt.Errorf("tracker %s: %w", t, reason(failed)))
					mu.Unlock()
					return
				}
				add(ch)
				if n++; n == maxListed {
					return
				}
			}
		})
	}
	// What is known of here is put through the same search as trackers do.
	local := catalog.New(catalog.Config{})
	if m := w.opts.Memory; m != nil {
		for _, d := range m.Channels() {
			_, _ = local.Put(d.Item)
		}
	}
	if w.lan != nil {
		w.lan.Query(channel.ID{})
		select {
		case <-time.After(lanTime):
		case <-ctx.Done():
		}
		for _, c := range w.lan.Channels() {
			if c.Descriptor.Item != nil {
				_, _ = local.Put(c.Descriptor.Item)
			}
		}
	}
	q.Limit = catalog.MaxLimit
	mine, _ := local.List(q)
	for _, e := range mine {
		u := channel.URI{ID: e.Descriptor.ID}
		if channel.CheckName(e.Descriptor.Values.Name) == nil {
			u.Name = e.Descriptor.Values.Name
		}
		for _, t := range Usable(e.Descriptor.Values.Trackers) {
			u.Trackers = append(u.Trackers, URL(t))
		}
		add(guide.Channel{Descriptor: e.Descriptor, URI: u, Seen: e.Seen, LookAlikes: e.LookAlikes})
	}
	work.Wait()
	if q.Text == "" { // what is searched for is in the order of those who found it
		slices.SortStableFunc(all, func(a, b guide.Channel) int {
			return strings.Compare(strings.ToLower(a.Descriptor.Values.Name), strings.ToLower(b.Descriptor.Values.Name))
		})
	}
	return all, err
}

// merge adds to o what another way knows of the same channel.
func merge(o *guide.Channel, c guide.Channel) {
	if c.Descriptor.Seq > o.Descriptor.Seq {
		o.Descriptor = c.Descriptor
	}
	o.Seeders, o.Leechers = max(o.Seeders, c.Seeders), max(o.Leechers, c.Leechers)
	o.URI.Trackers = appendNew(o.URI.Trackers, c.URI.Trackers, MaxTrackers)
	o.LookAlikes = appendNew(o.LookAlikes, c.LookAlikes, maxClaims)
}
