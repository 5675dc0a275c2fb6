package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/dht"
	"github.com/sixcast/sixcast/pkg/durable"
	"github.com/sixcast/sixcast/pkg/find"
	"github.com/sixcast/sixcast/pkg/lan"
	"github.com/sixcast/sixcast/pkg/memory"
	"github.com/sixcast/sixcast/pkg/node"
)

// Ways are the flags that say how channels and peers are found: --tracker, --no-lan, --no-history, --dht.
type Ways struct {
	trackers  []string
	noLAN     bool
	noHistory bool
	dht       bool
	bootstrap []string
	dhtListen string

	// Hint is added to what is said of a name that nobody knows.
	Hint string

	app    *App
	ways   *find.Ways
	memory *memory.Memory
	node   *dht.Node
	state  string // of the DHT; a file
}

// AddFlags adds them.
func (w *Ways) AddFlags(f *pflag.FlagSet) {
	f.StringArrayVar(&w.trackers, "tracker", nil, "find the channel and its peers, and be found, at the tracker `HOST:PORT` (repeatable)")
	f.BoolVar(&w.noLAN, "no-lan", false, "ask and tell this network nothing")
	f.BoolVar(&w.noHistory, "no-history", false, "neither use nor keep what is remembered: channels, peers, and what names mean")
	f.BoolVar(&w.dht, "dht", false, "find peers, and be found, in the Mainline DHT")
	f.StringArrayVar(&w.bootstrap, "dht-bootstrap", nil, "begin there at `HOST:PORT` (repeatable; none: wait to be asked) instead of the public nodes; implies --dht")
	f.StringVar(&w.dhtListen, "dht-listen", "[::]:0", "listen for it on `[ADDR]:PORT`; port 0 takes a free one")
}

// Any reports whether there is any way to a channel besides peers that are named. Call it after Open.
func (w *Ways) Any(t Target) bool {
	return len(w.trackers) > 0 || len(t.Trackers) > 0 || !w.noLAN || w.node != nil || w.memory != nil && len(w.memory.Peers(t.URI.ID)) > 0
}

// Open checks the flags, whose errors are usage errors, and opens what they allow. What cannot be opened is a warning. Close comes after it.
func (w *Ways) Open(app *App) error {
	w.app = app
	for _, t := range w.trackers {
		if err := find.CheckTracker(t); err != nil {
			return Usagef("--tracker: %w", err)
		}
	}
	if len(w.trackers) > find.MaxTrackers {
		return Usagef("--tracker: %d are too many: at most %d", len(w.trackers), find.MaxTrackers)
	}
	bootstrap := w.bootstrap
	if len(bootstrap) == 1 && bootstrap[0] == "none" {
		bootstrap = nil
	}
	for _, b := range bootstrap {
		if err := dht.CheckBootstrap(b); err != nil {
			return Usagef("--dht-bootstrap: %w", err)
		}
	}
	listen, err := ParseListen("--dht-listen", w.dhtListen)
	if err != nil {
		return err
	}
	cache := ""
	if !w.noHistory {
		var state string
		home, _ := os.UserHomeDir()
		if cache, state, err = memory.Dirs(os.Getenv, home, runtime.GOOS); err != nil {
			app.Log.Debug("nothing is remembered", "err", err)
		}
		w.memory, err = memory.Open(memory.Options{Cache: cache, State: state, Logger: app.Log})
		if err != nil {
			app.Log.Warn("not all is remembered (--no-history says nothing of it)", "err", err)
		}
	}
	if w.dht || len(w.bootstrap) > 0 {
		cfg := dht.Config{Listen: listen, Bootstrap: bootstrap, Logger: app.Log}
		if len(w.bootstrap) == 0 {
			cfg.Bootstrap = []string{dht.PublicBootstrap}
		}
		if cache != "" {
			w.state = filepath.Join(cache, "dht")
			cfg.State, _ = os.ReadFile(w.state)
		}
		if w.node, err = dht.Start(cfg); err != nil {
			app.Log.Warn("the DHT is not there", "err", err)
		}
	}
	w.ways = find.Open(find.Options{Trackers: w.trackers, LAN: !w.noLAN, Memory: w.memory, DHT: w.node, Logger: app.Log})
	return nil
}

// Close ends it all.
func (w *Ways) Close() {
	if w.ways != nil {
		w.ways.Close()
	}
	if w.node != nil {
		state := w.node.State()
		_ = w.node.Close()
		if w.state != "" && len(state) > 0 {
			_ = os.MkdirAll(filepath.Dir(w.state), 0o700)
			_ = durable.WriteFile(w.state, state)
		}
	}
	if w.memory != nil {
		w.memory.Close()
	}
}

// Target is a channel that was named on the command line.
type Target struct {
	URI channel.URI
	// Trackers that list it, besides those of --tracker.
	Trackers []string
	name     string // that was looked for, and means it from its first blocks on
}

// Resolve takes a sixcast: URI, @FILE, a bare key, or a name, which is looked for until limit is over, or for ever if that is 0. Errors about
// what was given are usage errors, a name that nobody knows is no input.
func (w *Ways) Resolve(ctx context.Context, arg string, limit Duration) (t Target, err error) {
	if id, err := channel.ParseID(arg); err == nil {
		return Target{URI: channel.URI{ID: id}}, nil
	}
	if strings.HasPrefix(arg, "@") || strings.HasPrefix(strings.ToLower(arg), "sixcast:") {
		if t.URI, err = channel.ParseArg(arg); err != nil {
			return t, Usagef("%w", err)
		}
		t.Trackers = find.Usable(t.URI.Trackers)
		w.checkName(t.URI.Name, t.URI.ID)
		return t, nil
	}
	if err := channel.CheckName(arg); err != nil || arg == "" {
		return t, Usagef("%q is no channel: want a name, a sixcast: URI, or @FILE that holds one", arg)
	}
	if _, err := channel.ParseArg("@" + arg); err == nil {
		return t, Usagef("%s is a file with a URI in it: write @%s", arg, arg)
	}
	f, err := w.lookUp(ctx, arg, time.Duration(limit))
	if err != nil {
		return t, err
	}
	t = Target{URI: channel.URI{ID: f.Descriptor.ID, Name: arg}, Trackers: f.Trackers}
	if f.New {
		w.app.Log.Info(arg + " is " + f.Descriptor.ID.String() + ", says " + f.Where)
		w.checkName(arg, f.Descriptor.ID)
		t.name = arg
	}
	return t, nil
}

// lookUp looks for a name again and again.
func (w *Ways) lookUp(ctx context.Context, name string, limit time.Duration) (f find.Found, err error) {
	begun := time.Now()
	for warned := false; ; warned = true {
		f, err = w.lookOnce(ctx, name, limit)
		if !errors.Is(err, find.ErrUnknown) {
			return f, err
		}
		hint := ""
		if len(w.trackers) == 0 {
			if hint = " (--tracker HOST:PORT asks one)"; w.noLAN {
				return f, Usagef("%s: %w%s", name, err, hint)
			}
		}
		if limit > 0 && time.Since(begun)+lookAgain > limit {
			return f, NoInputf("%s: %w%s", name, err, hint)
		}
		if !warned {
			w.app.Log.Warn(name + ": " + err.Error() + hint + "; looking on" + w.Hint)
		}
		select {
		case <-ctx.Done():
			return f, ctx.Err()
		case <-time.After(lookAgain):
		}
	}
}

// lookOnce looks for a name for no longer than limit, if there is one.
func (w *Ways) lookOnce(ctx context.Context, name string, limit time.Duration) (f find.Found, err error) {
	if limit > 0 {
		short, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		if f, err = w.ways.LookUp(short, name); err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = find.ErrUnknown
		}
		return f, err
	}
	return w.ways.LookUp(ctx, name)
}

// checkName warns of a name that means another channel here, or is easily taken for one that does. The key was given, or nobody says otherwise.
func (w *Ways) checkName(name string, id channel.ID) {
	if w.memory == nil || name == "" {
		return
	}
	if _, err := w.memory.Check(name, id); err != nil && !errors.Is(err, memory.ErrName) {
		w.app.Log.Warn(err.Error())
	}
}

// pin is called when blocks of a target have come: from now on the name that it was given by means it, as far as nobody else has claimed that.
func (w *Ways) pin(t Target, called string) {
	name := t.name
	if name == "" && channel.FoldName(t.URI.Name) == channel.FoldName(called) {
		name = t.URI.Name // of a URI, which the channel itself confirms
	}
	if w.memory == nil || name == "" || w.ways.Contested(name) {
		return
	}
	if _, err := w.memory.Pin(name, t.URI.ID); err != nil && t.name != "" {
		w.app.Log.Warn(err.Error())
	}
}

// URLs is how a URI names the trackers, those of a target included.
func (w *Ways) URLs(t Target) (urls []string) {
	for _, n := range slices.Concat(w.trackers, t.Trackers) {
		if u := find.URL(n); !slices.Contains(urls, u) && len(urls) < find.MaxTrackers {
			urls = append(urls, u)
		}
	}
	return urls
}

// Find is what a node needs to find peers by.
type Find struct {
	Node    *node.Node
	Channel channel.ID
	Target  Target // as it was resolved; zero at the source
	Source  bool
	Group   lan.Group // that it feeds
	// Join has it listen to a multicast group that others feed.
	Join bool
}

const (
	// lookAgain is how long after a name was not found it is looked for again.
	lookAgain  = 2 * time.Second
	lookEvery  = 500 * time.Millisecond
	rememberIn = 30 * time.Second
	// lonelyAfter a node without parents has everything asked again, and each time twice as late, up to lonelyMost.
	lonelyAfter = 5 * time.Second
	lonelyMost  = time.Minute
)

// Find has a node look for peers of its channel, and be found, until stop is called. Errors are those of find.StartTrackers.
func (w *Ways) Find(c Find) (stop func(), err error) {
	cfg := find.Config{
		Channel: c.Channel, Listen: c.Node.Addr().Addr(), Port: c.Node.Addr().Port(), Source: c.Source, Group: c.Group, Trackers: c.Target.Trackers, OnPeers: c.Node.Hint,
	}
	if c.Join {
		cfg.OnGroup = func(g lan.Group) { w.join(c.Node, g) }
	}
	f, err := w.ways.Find(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { w.keep(ctx, c, f) })
	return func() {
		cancel()
		work.Wait()
		f.Close()
	}, nil
}

func (w *Ways) join(n *node.Node, g lan.Group) {
	if g.Port != node.Port {
		return
	}
	joined, err := n.JoinGroup(node.Multicast{Interface: g.Interface, Source: g.Source, Scope: g.Scope})
	switch {
	case err != nil:
		w.app.Log.Warn("somebody sends the channel to a multicast group of this network, which cannot be joined", "err", err)
	case joined:
		w.app.Log.Info("somebody sends the channel to a multicast group on " + g.Interface + ": listening to it")
	}
}

// keep tells the finder what the node learns.
func (w *Ways) keep(ctx context.Context, c Find, f *find.Finder) {
	begun := time.Now()
	lonely, wait, remembered, pinned := begun, lonelyAfter, begun, c.Source
	look := func() {
		if d, ok := c.Node.Descriptor(); ok {
			f.Describe(d)
			if !pinned && c.Node.Stats().Blocks > 0 {
				pinned = true
				w.pin(c.Target, d.Values.Name)
			}
		}
	}
	for tick := time.NewTicker(lookEvery); ; {
		look()
		select {
		case <-ctx.Done():
			tick.Stop()
			look()
			f.Fed(c.Node.Parents())
			return
		case <-tick.C:
		}
		if c.Source {
			continue
		}
		parents := c.Node.Parents()
		now := time.Now()
		switch {
		case len(parents) > 0:
			lonely, wait = now, lonelyAfter
			if now.Sub(remembered) > rememberIn || remembered == begun {
				remembered = now
				f.Fed(parents)
			}
		case now.Sub(lonely) > wait:
			f.Soon()
			lonely, wait = now, min(2*wait, lonelyMost)
		}
	}
}

// List prints the channels that all ways know, with all words of text if it is not empty: a table, or lines of JSON.
func (w *Ways) List(ctx context.Context, app *App, text string, lines bool) error {
	if err := w.Open(app); err != nil {
		return err
	}
	defer w.Close()
	all, failed := w.ways.List(ctx, catalog.Query{Text: text})
	if failed != nil && len(all) > 0 {
		app.Log.Warn(failed.Error())
	}
	if len(all) == 0 && failed != nil {
		return failed
	}
	if lines {
		return PrintChannelLines(app.Out, all)
	}
	if len(all) == 0 {
		if text != "" {
			return NoInputf("no channel has all of these words: %s", text)
		}
		return NoInputf("no channel is known here: --tracker HOST:PORT asks a tracker")
	}
	return PrintChannels(app.Out, all)
}
