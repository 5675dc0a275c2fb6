package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sixcast/sixcast/cmd/internal/cli"
	"github.com/sixcast/sixcast/pkg/node"
	"github.com/sixcast/sixcast/pkg/play"
)

type options struct {
	peers     []string
	ways      cli.Ways
	list      bool
	search    string
	json      bool
	noPEX     bool
	listen    string
	upload    cli.Upload
	multicast cli.Multicast
	latency   cli.Duration
	player    string
	output    string
	once      bool
	timeout   cli.Duration
	report    string
	stats     cli.Stats
}

func newCommand(app *cli.App) *cobra.Command {
	o := options{upload: cli.ViewerUpload(), latency: cli.Duration(play.DefaultLatency)}
	cmd := &cobra.Command{
		Use:   "watch CHANNEL",
		Short: "Play a channel: the transport stream on stdout, or in a player",
		Long: `watch joins CHANNEL and writes its transport stream as it is on air: to stdout,
to a file, or into a player, from a random access point on. It passes on what
it gets to whoever connects, within --upload.

CHANNEL is a name, a sixcast: URI, or @FILE that holds one. A name is looked
for on this network, at the trackers, and in what was watched before; from its
first picture on it means the same channel here, whatever others say. Peers are
found on this network, at the trackers, by those already met, in the DHT
(--dht), and among those of last time.

It retries for ever and keeps its output open while nothing comes, since
players quit at the end of a file; --once and --timeout are for scripts.
It never reads stdin.` + "\n" + cli.ExitStatus("Exit status is 0 too when the player or the reader of the pipe has ended, and at the end of the run with --once."),
		Example: `  watch ch1 --player mpv                        # a channel of this network, or one watched before
  watch --tracker vps.example:6969 ch1 | mpv -
  watch --tracker vps.example:6969 --list       # what is there
  watch 'sixcast:KEY?peer=[2001:db8::1]:6400' | mpv -
  watch @ch1.uri --player mpv                   # starts sooner: the player is told what comes
  watch @ch1.uri --player 'ffmpeg -i - -c copy out.mkv'
  watch @ch1.uri --multicast eth0 -o - | ffprobe -
  watch @ch1.uri --once --timeout 30s -o show.ts`,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.listing() {
				return cobra.NoArgs(cmd, args)
			}
			return cli.OneArg("CHANNEL", cli.ChannelHint)(cmd, args)
		},
		RunE: app.RunE(func(ctx context.Context, args []string) error {
			if o.listing() {
				return o.ways.List(ctx, app, o.search, o.json)
			}
			if o.json {
				return cli.Usagef("--json goes with --list or --search")
			}
			return o.run(ctx, app, args[0])
		}),
	}
	o.addFlags(cmd.Flags())
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return fmt.Errorf("%w%s", err, theOther(""))
	})
	return cmd
}

// theOther tells who meant the watch of procps where it is, if arg is empty or a command.
func theOther(arg string) string {
	const procps = "/usr/bin/watch"
	if self, err := os.Executable(); err != nil || self == procps {
		return ""
	}
	if _, err := os.Stat(procps); err != nil {
		return ""
	}
	if _, err := exec.LookPath(arg); arg != "" && err != nil {
		return ""
	}
	return "; the watch that repeats a command is " + procps
}

// listing reports whether channels are to be listed, not played.
func (o *options) listing() bool { return o.list || o.search != "" }

func (o *options) addFlags(f *pflag.FlagSet) {
	f.BoolVar(&o.list, "list", false, "print the channels that are known: to this network, to the trackers, from before")
	f.StringVar(&o.search, "search", "", "print those with all words of `TEXT`, or words that begin with them, in what they say of themselves")
	f.BoolVar(&o.json, "json", false, "print them as lines of JSON")
	f.StringArrayVar(&o.peers, "peer", nil, "connect to `[ADDR]:PORT`, besides the URI's peers (repeatable)")
	o.ways.AddFlags(f)
	cli.NoPEX(f, &o.noPEX)
	f.StringVar(&o.listen, "listen", "[::]:0", "listen on `[ADDR]:PORT`; port 0 takes a free one")
	o.upload.AddFlags(f)
	o.multicast.AddFlags(f, "take the channel from its multicast group on `IFACE`; peers repair what is lost")
	f.Var(&o.latency, "latency", "wait `TIME` for what is missing, counted from when it should have come")
	f.StringVar(&o.player, "player", "", "play with `COMMAND`: mpv, vlc, ffplay, or a shell command that reads stdin")
	f.StringVarP(&o.output, "output", "o", "", "write to `FILE`; - is stdout, even if that is a terminal")
	f.BoolVar(&o.once, "once", false, "end at the end of the run instead of waiting for the next one")
	f.Var(&o.timeout, "timeout", "give up with exit status 3 when no block has come for `TIME` (default: never)")
	f.Lookup("timeout").DefValue = ""
	f.StringVar(&o.report, "report", "", "write a summary as JSON to `FILE` at the end")
	f.MarkHidden("report")
	o.stats.AddFlags(f)
}

func (o *options) run(ctx context.Context, app *cli.App, arg string) error {
	if o.player != "" && o.output != "" {
		return cli.Usagef("--player and --output: give one of them")
	}
	var player []string
	if o.player != "" {
		var err error
		if player, err = play.PlayerCommand(o.player); err != nil {
			return err
		}
	}
	if o.player == "" && o.output == "" {
		if err := app.RefuseTerminal("`watch … --player mpv` or `watch … | mpv -`, or `-o -` if it is meant so"); err != nil {
			return err
		}
	}
	if err := o.ways.Open(app); err != nil {
		return err
	}
	defer o.ways.Close()
	begun := time.Now()
	target, cfg, err := o.node(ctx, app, arg, begun)
	if err != nil {
		return err
	}

	signals := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	v := &viewer{app: app, signals: signals, once: o.once, name: target.URI.Name, cancel: cancel}
	v.tuner, err = play.Tune(play.TunerConfig{Node: cfg, Sequencer: play.Config{Latency: time.Duration(o.latency)}},
		func(s *play.Stream) { v.reader = s.NewReader(play.Limits{}) })
	if err != nil {
		return err
	}
	defer v.tuner.Close()
	found, err := o.ways.Find(cli.Find{Node: v.tuner.Node(), Channel: target.URI.ID, Target: target, Join: cfg.Multicast == nil})
	if err != nil {
		return err
	}
	defer found()
	o.upload.Say(app.Log)
	stop, err := o.stats.Start(app, v.snapshot)
	if err != nil {
		return err
	}

	var running sync.WaitGroup
	running.Go(func() {
		patience := play.Patience{Start: time.Duration(o.timeout), Later: time.Duration(o.timeout), Begun: begun}
		if err := v.tuner.Supervise(ctx, patience); err != nil {
			cancel(cli.NoInputf("%w", err))
		}
	})
	switch {
	case player != nil:
		err = v.play(ctx, player)
	case o.output != "" && o.output != "-":
		err = v.toFile(ctx, o.output)
	default:
		running.Go(func() { watchReader(ctx, app.Stdout, cancel) })
		err = v.write(ctx, app.Out)
	}
	cancel(err)
	running.Wait()
	err = errors.Join(err, stop())
	v.summary()
	if o.report != "" {
		err = errors.Join(err, v.writeReport(o.report, err))
	}
	return err
}

// askOn is how long a missing block is asked for beyond the latency: it counts
// from the first sign of the block, which may come early.
const askOn = 200 * time.Millisecond

// node is the setting of the peer. Errors are mostly usage errors.
func (o *options) node(ctx context.Context, app *cli.App, arg string, begun time.Time) (target cli.Target, cfg node.Config, err error) {
	o.ways.Hint = theOther(arg)
	if target, err = o.ways.Resolve(ctx, arg, o.timeout); err != nil {
		return target, cfg, fmt.Errorf("%w%s", err, theOther(arg))
	}
	cfg = node.Config{Channel: target.URI.ID, Upload: int64(o.upload.BitRate), Uplink: int64(o.upload.First), Patience: time.Duration(o.latency) + askOn, NoExchange: o.noPEX, Logger: app.Log}
	if cfg.Listen, err = cli.ParseListen("--listen", o.listen); err != nil {
		return target, cfg, err
	}
	if cfg.Multicast, err = o.multicast.Config(false); err != nil {
		return target, cfg, err
	}
	if cfg.Peers, err = app.Peers(ctx, append(o.peers, target.URI.Peers...), o.timeout.Left(begun)); err != nil {
		return target, cfg, err
	}
	if len(cfg.Peers) == 0 && cfg.Multicast == nil && !o.ways.Any(target) {
		return target, cfg, cli.NoWay()
	}
	return target, cfg, nil
}

var (
	errOnce        = errors.New("the run has ended")
	errPlayerEnded = errors.New("the player has ended")
)

// writeGrace is how long a writer that nobody reads from may hold up the end.
const writeGrace = 200 * time.Millisecond

// write writes the stream to w until there is a reason to end, and returns it: nil for the ordinary ones.
func (v *viewer) write(ctx context.Context, w io.Writer) error {
	done := make(chan error, 1) // a write to a pipe cannot be broken off
	go func() { done <- play.Write(ctx, w, v.reader, v.written) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done:
		case <-time.After(writeGrace):
		}
	}
	if errors.Is(err, play.ErrWrite) {
		return err
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, errOnce) && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (v *viewer) toFile(ctx context.Context, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return cli.Usagef("--output: %w", err)
	}
	err = v.write(ctx, f)
	return errors.Join(err, f.Close())
}

// play writes the stream into a player, which is started with the first block.
func (v *viewer) play(ctx context.Context, args []string) error {
	life, kill := context.WithCancel(v.signals)
	defer kill()
	defer context.AfterFunc(ctx, func() {
		// After the end of the run it plays what it has.
		if why := context.Cause(ctx); !errors.Is(why, errOnce) && !errors.Is(why, errPlayerEnded) {
			kill()
		}
	})()
	p := &lazyPlayer{ctx: life, args: args, app: v.app, cancel: v.cancel}
	err := v.write(ctx, p)
	if p.Player != nil {
		p.CloseInput()
		if end := p.Wait(); end != nil && life.Err() == nil {
			v.app.Log.Warn(fmt.Sprintf("the player ended with %v", end))
		}
		if p.gone(err) {
			err = nil
		}
	}
	return err
}

type lazyPlayer struct {
	*play.Player
	ctx    context.Context
	args   []string
	app    *cli.App
	cancel context.CancelCauseFunc
}

func (p *lazyPlayer) Write(b []byte) (int, error) {
	if p.Player == nil {
		var err error
		if p.Player, err = play.StartPlayer(p.ctx, p.args, p.app.Stdout, p.app.Stderr); err != nil {
			return 0, err
		}
		go func() {
			<-p.Done()
			p.cancel(errPlayerEnded)
		}()
	}
	return p.Player.Write(b)
}

// gone tells whether err only says that the player has ended.
func (p *lazyPlayer) gone(err error) bool {
	if errors.Is(err, errPlayerEnded) {
		return true
	}
	select {
	case <-p.Done():
		return errors.Is(err, play.ErrWrite)
	default:
		return false
	}
}
