package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sixcast/sixcast/cmd/internal/cli"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/input"
	"github.com/sixcast/sixcast/pkg/ts"
)

type options struct {
	key      string
	values   channel.Values // of the descriptor
	data     int
	program  uint16
	loop     bool
	rate     cli.BitRate
	timeout  cli.Duration
	once     bool
	pace     string
	output   string
	runValue uint64
	stats    cli.Stats
}

func newCommand(app *cli.App) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "ingest [INPUT]",
		Short: "Turn a transport stream into the signed block stream of a channel",
		Long: `ingest reads an MPEG transport stream from INPUT, cuts it into blocks, adds
error correction, signs them with the channel's key, and writes the block
stream to stdout, for relay. The stream itself passes as it came.

INPUT is one of

    -                                        stdin (the default)
    FILE                                     a file (played at its own speed), FIFO or device
    udp://[ff15::1%eth0]:5004                a group to join, or an address to listen on
    udp://[ff35::1]:5004?source=2001:db8::1  a source-specific group; also iface=, rcvbuf=
    2001:db8::1@[ff35::1%eth0]:5004          the same in short; @:5004 listens on all addresses
    rtp://…                                  as udp://, both take raw and RTP datagrams
    http://…, https://…                      connected again when it breaks off

A stream that falls silent is waited for, for ever unless --timeout is given.` + "\n" +
			cli.ExitStatus(),
		Example: `  ffmpeg -i /dev/video0 … -f mpegts - | ingest --key ch1.key | relay
  ingest --key ch1.key --loop talk.ts | relay
  ingest --key ch1.key '@[ff15::1%eth0]:5004' | relay --multicast eth1
  ingest keygen -o ch1.key --name ch1`,
		Args: cli.OptionalArg("INPUT"),
		RunE: app.RunE(func(ctx context.Context, args []string) error { return o.run(ctx, app, args) }),
	}
	o.addFlags(cmd.Flags())
	cmd.AddCommand(newKeygen(app))
	return cmd
}

func (o *options) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.key, "key", "", "sign with the channel key in `FILE` (see ingest keygen; default: a new channel that ends with this run)")
	f.StringVar(&o.values.Name, "name", "", "`NAME` of the channel (default: the one given to keygen, or the service name in the stream)")
	f.StringVar(&o.values.Description, "description", "", "describe the channel in a line of `TEXT`")
	f.StringVar(&o.values.Language, "language", "", "`LANG` of the channel, such as en or pt-BR")
	f.StringVar(&o.values.Country, "country", "", "`COUNTRY` of the channel, such as DE")
	f.StringVar(&o.values.Category, "category", "", "`CATEGORY` of the channel, such as news")
	f.StringArrayVar(&o.values.Trackers, "tracker", nil, "`URL` of a tracker that knows the channel (repeatable)")
	f.IntVar(&o.data, "fec", block.DefaultData, "let any `D` of 16 stripes be enough, 4 to 15: fewer stand more loss and take more bandwidth")
	f.Uint16Var(&o.program, "program", 0, "take programme `N` out of a multiplex (default: all)")
	f.BoolVar(&o.loop, "loop", false, "play a file for ever, with clocks that go on")
	f.Var(&o.rate, "rate", "play a file that has no clock (PCR) at `RATE`")
	o.rate = cli.BitRate(input.DefaultRate)
	f.Lookup("rate").DefValue = o.rate.String()
	f.Var(&o.timeout, "timeout", "give up with exit status 3 when no packet has come for `TIME` (default: never)")
	f.Lookup("timeout").DefValue = ""
	f.BoolVar(&o.once, "once", false, "end when the input does, do not connect again")
	f.StringVar(&o.pace, "pace", paceOn, "`MODE`: on, or off to read as fast as the machine can (for measuring: all blocks seem to be made at once)")
	f.StringVarP(&o.output, "output", "o", "", "write to `FILE` (default: -, stdout)")
	f.Uint64Var(&o.runValue, "run", 0, "name of the run")
	_ = f.MarkHidden("run")
	o.stats.AddFlags(f)
}

// Values of --pace.
const (
	paceOn  = "on"
	paceOff = "off"
)

func (o *options) run(ctx context.Context, app *cli.App, args []string) error {
	spec := input.Spec{Kind: input.Stdin}
	if len(args) == 1 {
		var err error
		if spec, err = input.ParseSpec(args[0]); err != nil {
			return cli.Usagef("%w", err)
		}
	}
	if spec.Kind == input.Stdin && cli.IsTerminal(app.Stdin) {
		return cli.Usagef("stdin is a terminal: name an INPUT, or pipe a transport stream in (ffmpeg … -f mpegts - | ingest)")
	}
	if o.output == "" {
		if err := app.RefuseTerminal("`ingest … | relay`, or `-o -` if it is meant so"); err != nil {
			return err
		}
	}
	if o.data < block.MinData || o.data > block.MaxData {
		return cli.Usagef("--fec %d: it is %d to %d of %d stripes", o.data, block.MinData, block.MaxData, block.Stripes)
	}
	if o.pace != paceOn && o.pace != paceOff {
		return cli.Usagef("--pace %s: it is %s or %s", o.pace, paceOn, paceOff)
	}
	key, err := o.channelKey(app)
	if err != nil {
		return err
	}
	run, err := o.newRun(time.Now())
	if err != nil {
		return err
	}
	in, err := input.Open(ctx, spec, input.Options{
		Stdin: app.Stdin, Loop: o.loop, Rate: ts.BitRate(o.rate), Once: o.once, Unpaced: o.pace == paceOff, Log: app.Log,
	})
	if err != nil {
		return inputError(err)
	}
	defer in.Close()
	out, closeOut, err := o.open(app)
	if err != nil {
		return err
	}
	p, err := newPipeline(o, app.Log, key, run, in, out)
	if err != nil {
		return errors.Join(err, closeOut())
	}
	app.Log.Info("reading " + in.Name())
	app.Log.Info("channel " + channel.URI{ID: key.ID(), Name: o.values.Name, Trackers: o.values.Trackers}.String())

	stop, err := o.stats.Start(app, p.snapshot)
	if err != nil {
		return errors.Join(err, closeOut())
	}
	err = p.runUntilWritten(ctx)
	if e := closeOut(); err == nil {
		err = e
	}
	if e := stop(); err == nil {
		err = e
	}
	return inputError(err)
}

// channelKey reads the key, or makes one for this run, and completes the channel's values.
func (o *options) channelKey(app *cli.App) (channel.Key, error) {
	if o.values.Name != "" {
		if err := channel.CheckName(o.values.Name); err != nil {
			return channel.Key{}, cli.Usagef("--name: %w", err)
		}
	}
	if o.key == "" {
		app.Log.Warn("no --key: the channel will be gone with this run (ingest keygen makes one that lasts)")
		return channel.GenerateKey(rand.Reader)
	}
	kf, err := channel.ReadKeyFile(o.key)
	if err != nil {
		return channel.Key{}, cli.Usagef("--key: %w", err)
	}
	if kf.Warning != nil {
		app.Log.Warn(kf.Warning.Error())
	}
	if o.values.Name == "" {
		o.values.Name = kf.Public.Name
	}
	return kf.Key, nil
}

func (o *options) newRun(now time.Time) (block.Run, error) {
	if o.runValue != 0 {
		return block.Run(o.runValue), nil
	}
	var random [2]byte
	if _, err := rand.Read(random[:]); err != nil {
		return 0, err
	}
	return block.NewRun(now, uint16(random[0])<<8|uint16(random[1])), nil
}

func (o *options) open(app *cli.App) (io.Writer, func() error, error) {
	if o.output == "" || o.output == "-" {
		return app.Out, func() error { return nil }, nil
	}
	f, err := os.Create(o.output)
	if err != nil {
		return nil, nil, fmt.Errorf("--output: %w", err)
	}
	return f, f.Close, nil
}

// inputError gives an error of the input its exit code.
func inputError(err error) error {
	switch {
	case errors.Is(err, input.ErrNotStream), errors.Is(err, input.ErrUnavailable):
		return cli.NoInputf("%w", err)
	case errors.Is(err, input.ErrAddress):
		return cli.Usagef("%w", err)
	}
	return err
}
