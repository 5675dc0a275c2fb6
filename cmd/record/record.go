package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sixcast/sixcast/cmd/internal/cli"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/node"
	"github.com/sixcast/sixcast/pkg/play"
	"github.com/sixcast/sixcast/pkg/record"
)

// maxHeld bounds the blocks held behind a gap, in bytes: 30 s at 25 Mbit/s.
const maxHeld = 96 << 20

const defaultPatience = 30 * time.Second

type options struct {
	peers     []string
	ways      cli.Ways
	noPEX     bool
	listen    string
	upload    cli.Upload
	multicast cli.Multicast
	output    string
	dir       string
	length    cli.Duration
	patience  cli.Duration
	once      bool
	timeout   cli.Duration
	stats     cli.Stats
}

func newCommand(app *cli.App) *cobra.Command {
	o := options{upload: cli.ViewerUpload(), patience: cli.Duration(defaultPatience)}
	cmd := &cobra.Command{
		Use:   "record CHANNEL",
		Short: "Write a channel to a file, patiently",
		Long: `record joins CHANNEL (a name, a sixcast: URI, or @FILE that holds one, as for
watch) and writes its transport stream as it is on air, from a random access
point on. It is watching with patience: what is missing is asked for much longer.

The stream goes to FILE.part, which is synced and renamed to FILE at the end: by
--for, by SIGINT or SIGTERM, or at the end of the run with --once. Nothing is
overwritten: -1, -2, … is put before the extension. If something is missing,
FILE.json says what. It waits for ever for a channel that is not on air; give
--timeout in a crontab. It never reads stdin.` + "\n" + cli.ExitStatus("Exit status is 4 if the recording is complete but for gaps."),
		Example: `  record ch1 --tracker vps.example:6969 --for 90m
  record 'sixcast:KEY?peer=[2001:db8::1]:6400' -o film.ts --for 90m
  record @ch1.uri --dir /srv/tv                 # CHANNEL_2026-11-22_20-00-00.ts, until Ctrl-C
  0 20 * * * record @/etc/ch1.uri --dir /srv/tv --for 1h --timeout 10m`,
		Args: cli.OneArg("CHANNEL", cli.ChannelHint),
		RunE: app.RunE(func(ctx context.Context, args []string) error { return o.run(ctx, app, args[0]) }),
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func (o *options) addFlags(f *pflag.FlagSet) {
	f.StringVarP(&o.output, "output", "o", "", "record to `FILE` (default: CHANNEL_DATE_TIME.ts)")
	f.StringVar(&o.dir, "dir", ".", "put a recording that is not named by -o into `DIR`")
	f.Var(&o.length, "for", "record until `TIME` after the start of the command (default: until stopped)")
	f.Lookup("for").DefValue = ""
	f.Var(&o.patience, "patience", "wait `TIME` for what is missing")
	f.BoolVar(&o.once, "once", false, "end at the end of the run instead of waiting for the next one")
	f.Var(&o.timeout, "timeout", "give up with exit status 3 when nothing has come for `TIME` at first (default: never)")
	f.Lookup("timeout").DefValue = ""
	f.StringArrayVar(&o.peers, "peer", nil, "connect to `[ADDR]:PORT`, besides the URI's peers (repeatable)")
	o.ways.AddFlags(f)
	cli.NoPEX(f, &o.noPEX)
	f.StringVar(&o.listen, "listen", "[::]:0", "listen on `[ADDR]:PORT`; port 0 takes a free one")
	o.upload.AddFlags(f)
	o.multicast.AddFlags(f, "take the channel from its multicast group on `IFACE`; peers repair what is lost")
	o.stats.AddFlags(f)
}

func (o *options) run(ctx context.Context, app *cli.App, arg string) error {
	begin := time.Now()
	if err := o.ways.Open(app); err != nil {
		return err
	}
	defer o.ways.Close()
	limit := o.timeout
	if o.length > 0 && (limit == 0 || limit > o.length) {
		limit = o.length // a crontab's recordings do not pile up
	}
	target, err := o.ways.Resolve(ctx, arg, limit)
	if err != nil {
		return err
	}
	uri := target.URI
	cfg, err := o.node(ctx, app, target, begin)
	if err != nil {
		return err
	}
	file, err := o.create(app, uri, begin)
	if err != nil {
		return err
	}
	r := &recording{options: o, app: app, begin: begin, rec: record.NewRecorder(file, uri.ID.String(), uri.Name)}
	r.rec.Written = r.written
	r.tuner, err = play.Tune(play.TunerConfig{
		Node:      cfg,
		Sequencer: play.Config{Latency: time.Duration(o.patience), MaxBytes: maxHeld},
	}, func(s *play.Stream) { r.reader = s.NewReader(play.Limits{Age: -1}) })
	if err != nil {
		_, e := file.Finish() // which removes it
		return errors.Join(err, ignoreEmpty(e))
	}
	found, err := o.ways.Find(cli.Find{Node: r.tuner.Node(), Channel: uri.ID, Target: target, Join: cfg.Multicast == nil})
	if err != nil {
		r.tuner.Close()
		_, e := file.Finish()
		return errors.Join(err, ignoreEmpty(e))
	}
	defer found()
	app.Log.Info("recording to " + file.Part())
	o.upload.Say(app.Log)
	stop, err := o.stats.Start(app, r.snapshot)
	if err != nil {
		r.tuner.Close()
		file.Finish()
		return err
	}
	err = r.run(ctx)
	return errors.Join(err, stop())
}

func (o *options) node(ctx context.Context, app *cli.App, target cli.Target, begin time.Time) (cfg node.Config, err error) {
	uri := target.URI
	cfg = node.Config{
		Channel: uri.ID, Upload: int64(o.upload.BitRate), Uplink: int64(o.upload.First), NoExchange: o.noPEX, Logger: app.Log,
		Patience: time.Duration(o.patience), KeepBytes: maxHeld,
	}
	if cfg.Listen, err = cli.ParseListen("--listen", o.listen); err != nil {
		return cfg, err
	}
	if cfg.Multicast, err = o.multicast.Config(false); err != nil {
		return cfg, err
	}
	if cfg.Peers, err = app.Peers(ctx, append(o.peers, uri.Peers...), o.timeout.Left(begin)); err != nil {
		return cfg, err
	}
	if len(cfg.Peers) == 0 && cfg.Multicast == nil && !o.ways.Any(target) {
		return cfg, cli.NoWay()
	}
	return cfg, nil
}

// create begins the file, and names what a crash has left of others.
func (o *options) create(app *cli.App, uri channel.URI, at time.Time) (*record.File, error) {
	name := uri.Name
	if name == "" {
		name = uri.ID.String()[:12]
	}
	path, pattern := o.output, o.output
	info, err := os.Stat(path)
	switch {
	case path == "-":
		return nil, cli.Usagef("record writes files: for a pipe there is `watch … -o -`")
	case path == "" || err == nil && info.IsDir() || strings.HasSuffix(path, "/"):
		dir := o.dir
		if path != "" {
			dir = path
		}
		path = filepath.Join(dir, record.DefaultName(name, at))
		pattern = filepath.Join(dir, record.DefaultName(name, time.Time{}))
	case err == nil && !info.Mode().IsRegular():
		return nil, cli.Usagef("%s is no regular file: for pipes and devices there is `watch … -o %s`", path, path)
	}
	for _, part := range record.Leftovers(pattern) {
		app.Log.Warn("a recording that was broken off lies in " + part + ": it can be played; rename it to keep it")
	}
	return record.Create(path)
}

func ignoreEmpty(err error) error {
	if errors.Is(err, record.ErrEmpty) {
		return nil
	}
	return err
}

// recording is one run.
type recording struct {
	*options
	app    *cli.App
	begin  time.Time
	tuner  *play.Tuner
	reader *play.Reader
	rec    *record.Recorder
	over   chan struct{} // closed by written at the end of the run, with --once

	mu     sync.Mutex
	report record.Report // a copy, as of the last block
	ended  bool
}

// run records until there is a reason to end, and finishes the file.
func (r *recording) run(ctx context.Context) error {
	r.over = make(chan struct{})
	watching, stopWatching := context.WithCancel(context.Background())
	silent := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.tuner.Supervise(watching, play.Patience{Start: time.Duration(r.timeout), Begun: r.begin}); err != nil {
			silent <- err
		}
	})
	done := make(chan error, 1)
	go func() { done <- r.rec.Run(context.Background(), r.reader) }()

	var end <-chan time.Time
	if r.length > 0 {
		end = time.After(time.Until(r.begin.Add(time.Duration(r.length))))
	}
	var why, disk error
	stopped := false // by a signal
	select {
	case why = <-silent:
	case <-ctx.Done():
		stopped = true
	case <-end:
		stopped = r.settle(ctx)
	case <-r.over:
	case disk = <-done:
	}
	stopWatching()
	running.Wait()
	delay := r.tuner.Counters().LeastDelay
	r.tuner.Close()
	if disk == nil {
		disk = <-done
	}
	if r.length > 0 && !r.isEnded() {
		until := r.begin.Add(time.Duration(r.length))
		if stopped {
			until = time.Now()
		}
		r.rec.Covers(r.begin, until, delay)
	}
	report, err := r.rec.Finish()
	if disk != nil && (err == nil || errors.Is(err, record.ErrEmpty)) {
		err = disk // otherwise err is what stopped the writer, and where the recording lies
	}
	return r.outcome(report, err, why, stopped)
}

// settle waits, when the time is over, for blocks that are held behind a gap:
// what is missing of the time recorded may still come. It reports whether a
// signal broke it off.
func (r *recording) settle(ctx context.Context) (stopped bool) {
	limit := time.After(time.Duration(r.patience))
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for said := false; r.tuner.Counters().Held > 0; {
		if !said {
			r.app.Log.Info("the time is over; waiting for what is still missing")
			said = true
		}
		select {
		case <-tick.C:
		case <-limit:
			return false
		case <-ctx.Done():
			return true
		}
	}
	return false
}

// outcome is the error, and with it the exit code, of the whole run.
func (r *recording) outcome(report record.Report, err, why error, stopped bool) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("the disk is full: %w", err)
	case errors.Is(err, record.ErrEmpty) && why != nil:
		return cli.NoInputf("%w", why)
	case errors.Is(err, record.ErrEmpty) && stopped:
		r.app.Log.Info("nothing came, nothing was recorded")
		return nil
	case errors.Is(err, record.ErrEmpty):
		return cli.NoInputf("nothing was recorded: %s", r.wants())
	case err != nil:
		return err
	}
	text := fmt.Sprintf("recorded %s: %v, %.1f MB", report.File, report.To.Sub(report.From).Round(time.Second), float64(report.Bytes)/1e6)
	r.app.Log.Info(text)
	if !report.Complete {
		missing := time.Duration(report.MissingMS * float64(time.Millisecond)).Round(time.Millisecond)
		return cli.Gapsf("%s lacks %v in %d pieces (%d blocks); see %s.json", report.File, missing, report.MissingPieces, report.MissingBlocks, report.File)
	}
	return nil
}

func (r *recording) wants() string {
	if w := r.tuner.Wants(); w != "" {
		return w
	}
	return "no block came"
}

func (r *recording) isEnded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

// written is called by the goroutine that writes.
func (r *recording) written(u play.Unit) {
	report := r.rec.Report()
	r.mu.Lock()
	first := r.report.Blocks == 0
	gaps := report.MissingPieces - r.report.MissingPieces
	r.report, r.ended = report, u.Block.End
	r.mu.Unlock()
	log := r.app.Log
	if first {
		log.Info(fmt.Sprintf("recording begins after %v", time.Since(r.begin).Round(time.Millisecond)))
	}
	if gaps > 0 && len(report.Missing) == report.MissingPieces {
		m := report.Missing[len(report.Missing)-1]
		log.Warn(fmt.Sprintf("missing: %v (%s)", time.Duration(m.MS*float64(time.Millisecond)).Round(time.Millisecond), m.Why))
	}
	if u.Blind {
		log.Warn("the stream marks no random access point: began somewhere")
	}
	if u.Block.End && r.once {
		select {
		case <-r.over:
		default:
			close(r.over)
		}
	}
}

// snapshot is one line of statistics.
func (r *recording) snapshot() any {
	c, q := r.tuner.Counters(), r.reader.Stats()
	s := struct {
		State          play.State `json:"state"`
		File           string     `json:"file"`
		Bytes          int64      `json:"bytes"`
		Blocks         uint64     `json:"blocks"`
		MissingPieces  int        `json:"missing_pieces"`
		MissingBlocks  uint64     `json:"missing_blocks"`
		MissingPackets uint64     `json:"missing_packets"`
		MissingMS      float64    `json:"missing_ms"`
		Held           int        `json:"held_blocks"` // behind a gap
		HeldBytes      int        `json:"held_bytes"`
		Queued         int        `json:"queued_bytes"` // for a disk that does not keep up
		Dropped        uint64     `json:"dropped_blocks"`
		Net            node.Stats `json:"net"`
	}{
		State: r.tuner.State(), Held: c.Held, HeldBytes: c.HeldBytes, Queued: q.HeldBytes, Dropped: q.Dropped, Net: r.tuner.Node().Stats(),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.report
	s.File, s.Bytes, s.Blocks = p.File, p.Bytes, p.Blocks
	s.MissingPieces, s.MissingBlocks, s.MissingPackets, s.MissingMS = p.MissingPieces, p.MissingBlocks, p.MissingPackets, p.MissingMS
	return s
}
