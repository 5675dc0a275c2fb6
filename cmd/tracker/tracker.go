package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sixcast/sixcast/cmd/internal/cli"
	"github.com/sixcast/sixcast/pkg/announce"
	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/cluster"
	"github.com/sixcast/sixcast/pkg/find"
	"github.com/sixcast/sixcast/pkg/guide"
	"github.com/sixcast/sixcast/pkg/tracker"
)

type options struct {
	listen   string
	noHTTP   bool
	name     string
	public   []string
	open     bool
	allow    string
	deny     string
	channels int
	interval cli.Duration
	key      string
	state    string
	join     []string
	cluster  string
	secret   string
	pull     []string
	hook     string
	metrics  string
	stats    cli.Stats
}

func newCommand(app *cli.App) *cobra.Command {
	o := options{interval: cli.Duration(tracker.DefaultInterval)}
	cmd := &cobra.Command{
		Use:   "tracker [CHANNEL...]",
		Short: "List channels, and tell the peers of each of each other",
		Long: `tracker is where a viewer who knows nobody begins: it lists channels, and names
peers of them to whoever asks. Channels come from those who broadcast (relay
--tracker), signed by their keys; the list is a page for people and JSON for
programs, by HTTP. Peers are named by the BitTorrent UDP tracker protocol over
IPv6 (BEP 15). Both are on one port.

Without CHANNELs it serves all that are published here; with them (sixcast:
URIs, or @FILE that holds one) only these.

It sees the addresses of those who ask, and which channel they ask for. It
carries no video, cannot forge any, and nobody who has found his peers needs
it any more: run several, and name them all.

What happens is told on stdout, a line of JSON for each event.` + "\n" + cli.ExitStatus(),
		Example: `  tracker                                         # of all that come
  relay --tracker vps.example:6969                # … and so on the source's machine
  watch --tracker vps.example:6969 ch1 | mpv -
  tracker --state /var/lib/tracker/state --key /var/lib/tracker/key --allow mine.txt
  tracker --join one.example:7946 --cluster-key secret     # a second one of the same people
  tracker list --tracker vps.example:6969`,
		Args: cobra.ArbitraryArgs,
		RunE: app.RunE(func(ctx context.Context, args []string) error { return o.run(ctx, app, args) }),
	}
	o.addFlags(cmd.Flags())
	cmd.AddCommand(listCommand(app), searchCommand(app), dumpCommand(app), loadCommand(app))
	return cmd
}

func (o *options) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.listen, "listen", "[::]:6969", "listen on `[ADDR]:PORT`: UDP for peers, TCP for the list; port 0 takes a free one")
	f.BoolVar(&o.noHTTP, "no-http", false, "serve no list of channels")
	f.StringVar(&o.name, "name", "", "the heading of the list's page is `TEXT`")
	f.StringArrayVar(&o.public, "public", nil, "others reach this tracker as `HOST:PORT`, which is put into the URIs of the list (repeatable)")
	f.BoolVar(&o.open, "open", false, "name peers of any channel, also of those that are not published here")
	f.StringVar(&o.allow, "allow", "", "serve the channels in `FILE` only: a key or URI a line, # begins a comment; read again at SIGHUP")
	f.StringVar(&o.deny, "deny", "", "serve none of the channels in `FILE`; read again at SIGHUP")
	f.IntVar(&o.channels, "channels", catalog.DefaultMax, "list at most `N` channels")
	f.Var(&o.interval, "interval", "ask peers to come back every `TIME`; who has not after two and a half is forgotten")
	f.StringVar(&o.key, "key", "", "the secret that trackers of one name share: `FILE` with 32 hexadecimal digits,\nmade if missing (default: a new one at each start)")
	f.StringVar(&o.state, "state", "", "keep the list in `FILE` while the tracker does not run")
	f.StringArrayVar(&o.join, "join", nil, "share the list with the trackers of the same people, of which one is at `HOST:PORT` (repeatable)")
	f.StringVar(&o.cluster, "cluster", "", "listen for those on `[ADDR]:PORT`, UDP and TCP (default [::]:7946 if there are any)")
	f.StringVar(&o.secret, "cluster-key", "", "only those who have the same `FILE` may join")
	f.StringArrayVar(&o.pull, "pull", nil, "take over the list of the tracker at `HOST:PORT`, of other people, every minute (repeatable)")
	f.StringVar(&o.hook, "on-event", "", "run `CMD` for each event, with its JSON on stdin")
	f.StringVar(&o.metrics, "metrics", "", "serve metrics for Prometheus on `[ADDR]:PORT`, TCP")
	o.stats.AddFlags(f)
}

const (
	leastInterval = 10 * time.Second
	mostInterval  = time.Hour
	clusterPort   = "[::]:7946"
	maxSecret     = 4096
)

// listenMetrics opens the socket of --metrics; nil: there is none.
func (o *options) listenMetrics() (net.Listener, error) {
	if o.metrics == "" {
		return nil, nil
	}
	at, err := cli.ParseListen("--metrics", o.metrics)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp6", at.String())
	if err != nil {
		return nil, fmt.Errorf("--metrics: %w", err)
	}
	return l, nil
}

// config makes what the flags and arguments say. Errors are usage errors.
func (o *options) config(app *cli.App, args []string) (cfg tracker.ServiceConfig, err error) {
	cfg = tracker.ServiceConfig{
		UDP: tracker.Config{Interval: time.Duration(o.interval)}, Guide: guide.Config{Name: o.name, Trackers: o.public},
		NoHTTP: o.noHTTP, Open: o.open, Channels: o.channels, State: o.state, Logger: app.Log,
	}
	if cfg.UDP.Listen, err = cli.ParseListen("--listen", o.listen); err != nil {
		return cfg, err
	}
	if cfg.UDP.Interval < leastInterval || cfg.UDP.Interval > mostInterval {
		return cfg, cli.Usagef("--interval %v: want %v to %v", cfg.UDP.Interval, leastInterval, mostInterval)
	}
	if o.open && (len(args) > 0 || o.allow != "") {
		return cfg, cli.Usagef("--open serves all channels: name none, or leave it out")
	}
	if o.channels < 1 || o.channels > catalog.MaxMax {
		return cfg, cli.Usagef("--channels %d: want 1 to %d", o.channels, catalog.MaxMax)
	}
	for _, p := range o.public {
		if err := find.CheckTracker(p); err != nil {
			return cfg, cli.Usagef("--public: %w", err)
		}
	}
	if cfg.Lists, err = o.lists(args); err != nil {
		return cfg, cli.Usagef("%w", err)
	}
	if o.key != "" {
		if cfg.UDP.Key, err = loadKey(o.key); err != nil {
			return cfg, cli.Usagef("--key: %w", err)
		}
	}
	for _, p := range o.pull {
		if err := find.CheckTracker(p); err != nil {
			return cfg, cli.Usagef("--pull: %w", err)
		}
		cfg.Pull = append(cfg.Pull, guide.Base(p))
	}
	cfg.Cluster, err = o.clusterConfig()
	return cfg, err
}

// clusterConfig is nil if the tracker is to be alone.
func (o *options) clusterConfig() (*cluster.Config, error) {
	if len(o.join) == 0 && o.cluster == "" && o.secret == "" {
		return nil, nil
	}
	at := o.cluster
	if at == "" {
		at = clusterPort
	}
	bind, err := cli.ParseListen("--cluster", at)
	if err != nil {
		return nil, err
	}
	for _, j := range o.join {
		if err := find.CheckTracker(j); err != nil {
			return nil, cli.Usagef("--join: %w", err)
		}
	}
	c := &cluster.Config{Bind: bind, Join: o.join}
	if o.secret != "" {
		if c.Secret, err = os.ReadFile(o.secret); err != nil {
			return nil, cli.Usagef("--cluster-key: %w", err)
		}
		if c.Secret = []byte(strings.TrimSpace(string(c.Secret))); len(c.Secret) == 0 || len(c.Secret) > maxSecret {
			return nil, cli.Usagef("--cluster-key: %s holds %d bytes: want 1 to %d", o.secret, len(c.Secret), maxSecret)
		}
	}
	return c, nil
}

// lists reads the lists anew.
func (o *options) lists(args []string) (l tracker.Lists, err error) {
	if l.Deny, err = readList("--deny", o.deny); err != nil {
		return l, err
	}
	if l.Allow, err = readList("--allow", o.allow); err != nil {
		return l, err
	}
	for _, a := range args {
		uri, err := channel.ParseArg(a)
		if err != nil {
			return l, err
		}
		if l.Allow == nil {
			l.Allow = tracker.NewList()
		}
		l.Allow.Add(uri.ID)
	}
	return l, nil
}

func readList(flag, path string) (*tracker.List, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	defer f.Close()
	l, err := tracker.ParseList(f)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", flag, path, err)
	}
	return l, nil
}

func (o *options) run(ctx context.Context, app *cli.App, args []string) (err error) {
	cfg, err := o.config(app, args)
	if err != nil {
		return err
	}
	if err := activated(&cfg); err != nil {
		return err
	}
	metrics, err := o.listenMetrics()
	if err != nil {
		return err
	}
	events := teller{app: app, hook: o.hook}
	cfg.OnEvent = func(e tracker.Event) { events.tell(ctx, e) }
	s, err := tracker.StartService(cfg)
	if err != nil {
		if metrics != nil {
			metrics.Close()
		}
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	app.Log.Info("listening on " + s.Addr().String())
	if metrics != nil {
		app.Log.Info(fmt.Sprintf("metrics on http://%s/metrics", metrics.Addr()))
		go func() {
			if err := serveMetrics(ctx, metrics, s); err != nil {
				app.Log.Error("metrics are served no more", "err", err)
			}
		}()
	}
	stop, err := o.stats.Start(app, func() any { return s.Stats() })
	if err != nil {
		return err
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			l, err := o.lists(args)
			if err != nil {
				app.Log.Error("the lists stay as they are", "err", err)
				continue
			}
			s.SetLists(l)
			app.Log.Info("the lists are read anew")
		case <-ctx.Done():
			return stop()
		}
	}
}

// loadKey reads a key, or makes one where there is none.
func loadKey(path string) (key announce.Key, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = announce.NewKey()
		return key, os.WriteFile(path, []byte(hex.EncodeToString(key[:])+"\n"), 0o600)
	}
	if err != nil {
		return key, err
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != len(key) {
		return key, fmt.Errorf("%s holds no key: want %d hexadecimal digits", path, 2*len(key))
	}
	return announce.Key(raw), nil
}
