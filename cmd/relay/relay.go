package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sixcast/sixcast/cmd/internal/cli"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/lan"
	"github.com/sixcast/sixcast/pkg/mesh"
	"github.com/sixcast/sixcast/pkg/node"
	"github.com/sixcast/sixcast/pkg/source"
)

type options struct {
	source    string
	peers     []string
	ways      cli.Ways
	noPEX     bool
	listen    string
	upload    cli.Upload
	multicast cli.Multicast
	stdout    bool
	timeout   cli.Duration
	linger    cli.Duration
	keep      cli.Size
	stats     cli.Stats
}

func newCommand(app *cli.App) *cobra.Command {
	o := options{upload: cli.RelayUpload(), linger: cli.Duration(5 * time.Second), keep: 24 << 20}
	cmd := &cobra.Command{
		Use:   "relay [CHANNEL]",
		Short: "Spread a channel over IPv6: to peers by unicast, to a network by multicast",
		Long: `relay without CHANNEL is a source: it reads the block stream of ingest from
stdin, or from --source, and serves whoever connects. With CHANNEL (a
sixcast: URI, or @FILE that holds one, or a name) it joins the channel and
passes it on. It needs no key and cannot forge. Either way it tells this
network (--no-lan: not) and the trackers that are named of itself, and a source
what the channel says of itself.

The address it really listens on, and the URI under which viewers reach it,
are printed on stderr.` + "\n" + cli.ExitStatus("Exit status is 1 too if another source of the channel started later: the newer one wins."),
		Example: `  ingest --key ch1.key talk.ts | relay                   # a source
  relay --source /run/ch1.fifo --listen '[::]:6400'      # one that outlives ingest
  relay 'sixcast:KEY?peer=[2001:db8::1]:6400' --upload 20M
  relay @ch1.uri --multicast eth0                        # one copy in, one for the whole LAN
  relay < recorded.blocks                                # a recording, at the speed it was made`,
		Args: cli.OptionalArg("CHANNEL"),
		RunE: app.RunE(func(ctx context.Context, args []string) error { return o.run(ctx, app, args) }),
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func (o *options) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.source, "source", "", "read the block stream from `PATH`: a FIFO (made if missing), a Unix socket, a file,\nor unix:PATH to listen on a Unix socket; FIFOs and sockets outlive ingest")
	f.StringArrayVar(&o.peers, "peer", nil, "connect to `[ADDR]:PORT` (repeatable)")
	o.ways.AddFlags(f)
	cli.NoPEX(f, &o.noPEX)
	f.StringVar(&o.listen, "listen", "[::]:0", "listen on `[ADDR]:PORT`; port 0 takes a free one")
	o.upload.AddFlags(f)
	o.multicast.AddFlags(f, "feed the channel's multicast group out of `IFACE`")
	f.BoolVar(&o.stdout, "stdout", false, "pass the block stream on to stdout")
	f.Var(&o.timeout, "timeout", "give up with exit status 3 when no block has come for `TIME` (default: never)")
	f.Lookup("timeout").DefValue = ""
	f.Var(&o.linger, "linger", "serve on for `TIME` after the end of stdin")
	f.Var(&o.keep, "memory", "keep at most `SIZE` of blocks")
	o.stats.AddFlags(f)
}

// relay is one run.
type relay struct {
	*options
	app    *cli.App
	node   *node.Node
	source *source.Reader // nil where the channel is joined
	cancel context.CancelCauseFunc
	target cli.Target // zero at the source
	// multicastConfig is nil where no group is fed.
	multicastConfig *node.Multicast
	// isSource says that the channel is fed, not joined.
	isSource bool

	mu          sync.Mutex
	announced   bool
	stopFinding func()
	lastBlock   time.Time
	blocks      uint64
	waits       waiting
	company     node.Company
	out         *tee
}

func (o *options) run(ctx context.Context, app *cli.App, args []string) error {
	if o.stdout {
		if err := app.RefuseTerminal("`relay --stdout … | …`"); err != nil {
			return err
		}
	}
	listen, err := cli.ParseListen("--listen", o.listen)
	if err != nil {
		return err
	}
	cfg := node.Config{Listen: listen, Upload: int64(o.upload.BitRate), Uplink: int64(o.upload.First), KeepBytes: int(o.keep), NoExchange: o.noPEX, Logger: app.Log}
	if err := o.ways.Open(app); err != nil {
		return err
	}
	defer o.ways.Close()
	begun := time.Now()
	var target cli.Target
	if len(args) == 1 {
		if o.source != "" {
			return cli.Usagef("a CHANNEL is joined, --source feeds one: give one of them")
		}
		if target, err = o.ways.Resolve(ctx, args[0], o.timeout); err != nil {
			return err
		}
		cfg.Channel = target.URI.ID
	} else if o.source == "" && cli.IsTerminal(app.Stdin) {
		return cli.Usagef("stdin is a terminal: pipe a block stream in (ingest … | relay), or name a CHANNEL to join")
	}
	if cfg.Peers, err = app.Peers(ctx, append(o.peers, target.URI.Peers...), o.timeout.Left(begun)); err != nil {
		return err
	}
	if len(args) == 1 && len(cfg.Peers) == 0 && !o.ways.Any(target) {
		return cli.NoWay()
	}
	if cfg.Multicast, err = o.multicast.Config(true); err != nil {
		return err
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &relay{options: o, app: app, target: target, multicastConfig: cfg.Multicast, cancel: cancel, isSource: len(args) == 0, lastBlock: begun, waits: waiting{peers: cfg.Peers}}
	if r.isSource {
		r.source = &source.Reader{Feed: r.feed}
	}
	cfg.OnEvent = r.event
	if o.stdout {
		r.out = newTee(app.Out, func(err error) { cancel(err) })
		defer r.out.close()
	}
	cfg.OnBlock = r.block
	if r.node, err = node.Start(cfg); err != nil {
		return err
	}
	defer r.node.Close()
	defer r.forsake()
	app.Log.Info("listening on " + r.node.Addr().String())
	o.upload.Say(app.Log)
	if s := r.node.Socket(); s.ReceiveBuffer < 1<<20 {
		app.Log.Warn(fmt.Sprintf("the system grants a receive buffer of %d kB only: bursts may be lost (sysctl net.core.rmem_max)", s.ReceiveBuffer>>10))
	}
	if len(args) == 1 {
		r.announce(target.URI.ID, target.URI.Name)
	}
	stop, err := o.stats.Start(app, r.snapshot)
	if err != nil {
		return err
	}
	err = r.serve(ctx)
	return errors.Join(err, stop())
}

// serve feeds or waits until there is a reason to end.
func (r *relay) serve(ctx context.Context) error {
	input := ""
	if r.isSource {
		if input = r.options.source; input == "" {
			input = "stdin"
		}
	}
	if t := time.Duration(r.timeout); t > 0 {
		go r.watchdog(ctx, t, input)
	}
	telling, stopTelling := context.WithCancel(ctx)
	defer stopTelling()
	go r.tell(telling, input)
	if !r.isSource {
		<-ctx.Done()
		return r.why(ctx)
	}
	ended := make(chan error, 1) // a read of stdin cannot be broken off
	go func() {
		if r.options.source != "" {
			ended <- r.source.Path(ctx, r.options.source)
			return
		}
		if info, err := r.app.Stdin.Stat(); err == nil && info.Mode().IsRegular() {
			r.source.Paced = true
		}
		ended <- r.source.Stream(ctx, &stdin{File: r.app.Stdin})
	}()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	stopTelling()
	switch {
	case ctx.Err() != nil:
		return r.why(ctx)
	case errors.Is(err, source.ErrEmpty):
		return cli.NoInputf("no block stream on the input: pipe ingest into relay (ingest … | relay)")
	case errors.Is(err, errTransportStream):
		return cli.NoInputf("%w", errTransportStream)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, source.ErrKind):
		return cli.NoInputf("%w", err)
	case err != nil:
		return err
	}
	if r.linger > 0 {
		r.app.Log.Info(fmt.Sprintf("the block stream has ended; serving on for %v", r.linger))
		select {
		case <-ctx.Done():
			return r.why(ctx)
		case <-time.After(time.Duration(r.linger)):
		}
	}
	return nil
}

// why is the reason that ctx ended for.
func (r *relay) why(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (r *relay) watchdog(ctx context.Context, t time.Duration, input string) {
	tick := time.NewTicker(min(t/4+time.Millisecond, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.mu.Lock()
			silent := time.Since(r.lastBlock)
			text := r.waits.text(input)
			r.mu.Unlock()
			if silent > t {
				r.cancel(cli.NoInputf("no block came for %v: %s", t, text))
				return
			}
		}
	}
}

func (r *relay) feed(datagrams ...[]byte) error {
	if err := r.node.Feed(datagrams...); err != nil {
		return err
	}
	if id := r.node.Channel(); !id.IsZero() {
		r.mu.Lock()
		first := !r.announced
		r.announced = true
		r.mu.Unlock()
		if first {
			name := ""
			if d, ok := r.node.Descriptor(); ok {
				name = d.Values.Name
			}
			r.announce(id, name)
		}
	}
	return nil
}

// announce says where viewers reach the channel.
func (r *relay) announce(id channel.ID, name string) {
	r.mu.Lock()
	r.announced = true
	r.mu.Unlock()
	stop, err := r.ways.Find(cli.Find{Node: r.node, Channel: id, Target: r.target, Source: r.isSource, Group: r.group()})
	if err != nil {
		r.cancel(err)
		return
	}
	r.mu.Lock()
	r.stopFinding = stop
	r.mu.Unlock()
	u := channel.URI{ID: id, Name: name, Trackers: r.ways.URLs(r.target)}
	for _, a := range reachable(r.node.Addr()) {
		u.Peers = append(u.Peers, a.String())
	}
	r.app.Log.Info("watch '" + u.String() + "'")
	if g, info, ok := r.node.Group(); ok && r.multicast.Enabled() {
		text := fmt.Sprintf("multicast to %v on %s", g, info.Interface)
		if info.Interface == "" {
			text = fmt.Sprintf("multicast to %v", g)
		}
		r.app.Log.Info(text)
	}
}

// group is the multicast group that the node feeds, if it is one of the channel's own.
func (r *relay) group() (g lan.Group) {
	if m := r.multicastConfig; m != nil && !m.Group.IsValid() {
		g = lan.Group{Scope: m.Scope, Port: node.Port, Source: m.Source}
		if g.Scope == 0 {
			g.Scope = channel.ScopeSite
		}
	}
	return g
}

// forsake takes the node off its trackers' lists.
func (r *relay) forsake() {
	r.mu.Lock()
	stop := r.stopFinding
	r.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// reachable is the addresses under which others reach a listener: its own, or
// the global and unique local ones of this host where it listens on all.
func reachable(a netip.AddrPort) []netip.AddrPort {
	if !a.Addr().IsUnspecified() {
		return []netip.AddrPort{a}
	}
	var out []netip.AddrPort
	addrs, _ := net.InterfaceAddrs()
	for _, x := range addrs {
		n, ok := x.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if ok && ip.Is6() && !ip.Is4In6() && ip.IsGlobalUnicast() && len(out) < 4 {
			out = append(out, netip.AddrPortFrom(ip, a.Port()))
		}
	}
	if len(out) == 0 {
		out = append(out, netip.AddrPortFrom(netip.IPv6Loopback(), a.Port()))
	}
	return out
}

// block is called under the node's lock.
func (r *relay) block(at time.Time, b *block.Block) {
	r.mu.Lock()
	r.lastBlock = at
	r.blocks++
	r.waits.ended = b.Manifest().Flags&block.End != 0
	r.mu.Unlock()
	if r.out != nil {
		r.out.block(b)
	}
}

// event is called under the node's lock.
func (r *relay) event(e node.Event) {
	r.note(e)
	log := r.app.Log
	switch e.Kind {
	case mesh.EventSuperseded:
		r.cancel(fmt.Errorf("superseded: %s; this one stops", e.Text))
	case mesh.EventDescriptor:
		if r.out != nil {
			r.out.describe(e.Descriptor)
		}
	case mesh.EventConnected:
		log.Debug("connected", "peer", e.Peer)
	case mesh.EventClosed:
		log.Debug("link closed", "peer", e.Peer, "why", e.Text)
	case mesh.EventParent:
		r.mu.Lock()
		many := r.company.Many()
		r.mu.Unlock()
		if e.Peer.IsValid() && !many {
			log.Info("blocks come from " + e.Peer.String())
		}
	case mesh.EventNewRun:
		log.Info("a new run of the channel began")
	case mesh.EventMisbehaved:
		log.Warn("dropped a neighbour: it sent "+e.Text, "peer", e.Peer)
	case mesh.EventForked, mesh.EventClock:
		log.Warn(e.Text)
	}
}

// note keeps what tell has to tell.
func (r *relay) note(e node.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e.Kind {
	case mesh.EventConnected:
		r.waits.connect(e.Peer)
	case mesh.EventClosed:
		r.waits.disconnect(e.Peer)
	case mesh.EventUnknown:
		r.waits.complaint = fmt.Sprintf("%v does not know the channel (yet): is it on air there?", e.Peer)
	case mesh.EventFull:
		r.waits.complaint = fmt.Sprintf("%v has no room for us: give another --peer, or wait", e.Peer)
	case mesh.EventWaiting:
		r.waits.complaint = e.Text
	case mesh.EventParent:
		r.waits.complaint = ""
	}
}

// snapshot is one line of statistics.
func (r *relay) snapshot() any {
	s := struct {
		State   string        `json:"state"`
		Channel string        `json:"channel,omitempty"`
		Listen  string        `json:"listen"`
		Input   *source.Stats `json:"input,omitempty"`
		node.Stats
		Dropped uint64 `json:"stdout_dropped,omitempty"`
	}{State: "waiting", Listen: r.node.Addr().String(), Stats: r.node.Stats()}
	if id := r.node.Channel(); !id.IsZero() {
		s.Channel = id.String()
	}
	r.mu.Lock()
	if s.Blocks > 0 {
		s.State = "live"
		if s.Recorded {
			s.State = "recorded"
		}
		if time.Since(r.lastBlock) > 3*time.Second {
			s.State = "stalled"
		}
	}
	r.mu.Unlock()
	if r.source != nil {
		in := r.source.Stats()
		s.Input = &in
	}
	if r.out != nil {
		s.Dropped = r.out.dropped()
	}
	return s
}
