package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sixcast/sixcast/cmd/internal/cli"
	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/find"
	"github.com/sixcast/sixcast/pkg/guide"
)

// maxLine of a dump, in bytes.
const maxLine = 64 << 10

// query is what list, search, dump and load have in common: the tracker that they ask.
type query struct {
	app      *cli.App
	trackers []string
	tracker  string // the first of them
	json     bool
	q        catalog.Query
}

func (o *query) command(use, short, long, example string, args cobra.PositionalArgs, run func(ctx context.Context, c *guide.Client, args []string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long + "\n" + cli.ExitStatus(), Example: example, Args: args,
		RunE: o.app.RunE(func(ctx context.Context, args []string) error {
			o.tracker = o.trackers[0]
			if err := find.CheckTracker(o.tracker); err != nil {
				return cli.Usagef("--tracker: %w", err)
			}
			return run(ctx, &guide.Client{Base: guide.Base(o.tracker)}, args)
		}),
	}
	cmd.Flags().StringArrayVar(&o.trackers, "tracker", []string{"[::1]:6969"}, "the tracker to ask, `HOST:PORT`; of several the first")
	return cmd
}

func (o *query) filters(cmd *cobra.Command) *cobra.Command {
	f := cmd.Flags()
	f.BoolVar(&o.json, "json", false, "a line of JSON for each channel")
	f.StringVar(&o.q.Language, "language", "", "only those in this `LANGUAGE` (BCP 47: de, pt-BR)")
	f.StringVar(&o.q.Country, "country", "", "only those of this `COUNTRY` (ISO 3166: DE)")
	f.StringVar(&o.q.Category, "category", "", "only those of this `CATEGORY`")
	return cmd
}

func listCommand(app *cli.App) *cobra.Command {
	o := query{app: app}
	return o.filters(o.command("list", "The channels that a tracker knows", `list prints the channels that a running tracker knows, by name. What it prints
has been verified against the keys of the channels.`,
		`  tracker list --tracker vps.example:6969
  tracker list --json | jq -r 'select(.language == "de") | .uri'`, cobra.NoArgs,
		func(ctx context.Context, c *guide.Client, _ []string) error { return o.list(ctx, c) }))
}

func searchCommand(app *cli.App) *cobra.Command {
	o := query{app: app}
	return o.filters(o.command("search WORD...", "Search the channels that a tracker knows", `search prints the channels of which the name, the description, the category or
what is on has all the WORDs, or words that begin with them: the best first.`,
		`  tracker search cafe                 # finds Café, too
  tracker search --category news berlin`, cobra.MinimumNArgs(1),
		func(ctx context.Context, c *guide.Client, args []string) error {
			o.q.Text = strings.Join(args, " ")
			return o.list(ctx, c)
		}))
}

func (o *query) list(ctx context.Context, c *guide.Client) error {
	var all []guide.Channel
	for ch, err := range c.All(ctx, o.q) {
		if err != nil {
			return o.failed(err)
		}
		if o.json {
			if err := cli.PrintChannelLines(o.app.Out, []guide.Channel{ch}); err != nil {
				return err
			}
			continue
		}
		all = append(all, ch)
	}
	if !o.json && len(all) == 0 {
		o.app.Log.Info("tracker " + o.tracker + ": no such channel")
	}
	return cli.PrintChannels(o.app.Out, all)
}

func (o *query) failed(err error) error { return fmt.Errorf("tracker %s: %w", o.tracker, err) }

func dumpCommand(app *cli.App) *cobra.Command {
	o := query{app: app}
	return o.command("dump", "Write all channels that a tracker knows, for load", `dump writes a line of JSON for each channel that a running tracker knows, with
the signed descriptor in it, which load takes.`,
		`  tracker dump > channels.jsonl
  tracker dump --tracker old.example:6969 | tracker load --tracker new.example:6969`, cobra.NoArgs,
		func(ctx context.Context, c *guide.Client, _ []string) error {
			o.json = true
			return o.list(ctx, c)
		})
}

func loadCommand(app *cli.App) *cobra.Command {
	o := query{app: app}
	return o.command("load [FILE]", "Put channels into a tracker", `load puts the descriptors of a dump (FILE, or stdin) into a running tracker, which
verifies them. One that it does not want is named, and the others go on; then
the exit status is 1.`,
		`  tracker load channels.jsonl`, cobra.MaximumNArgs(1),
		func(ctx context.Context, c *guide.Client, args []string) error {
			in := io.Reader(app.Stdin)
			if len(args) == 1 && args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			return o.load(ctx, c, in)
		})
}

func (o *query) load(ctx context.Context, c *guide.Client, in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	loaded, bad := 0, 0
	for n := 1; lines.Scan(); n++ {
		var l guide.Entry
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		item, err := base64.StdEncoding.DecodeString(l.Item)
		if err == nil {
			err = put(ctx, c, item)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			loaded++
		case ofItem(err):
			bad++
			o.app.Log.Warn(fmt.Sprintf("line %d: %s: %v", n, catalog.Plain(l.Name), err))
		default:
			return o.failed(err) // the others would fare no better
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	o.app.Log.Info(fmt.Sprintf("%d channels put into %s", loaded, o.tracker))
	if bad > 0 {
		return fmt.Errorf("%d of %d channels were not taken", bad, bad+loaded)
	}
	return nil
}

// put puts one item, as soon as the tracker has time for it.
func put(ctx context.Context, c *guide.Client, item []byte) error {
	for {
		_, err := c.Put(ctx, item)
		busy := (*guide.BusyError)(nil)
		if !errors.As(err, &busy) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(busy.After, time.Minute)):
		}
	}
}

// ofItem reports whether an error is about one item alone.
func ofItem(err error) bool {
	for _, e := range []error{channel.ErrDescriptor, channel.ErrSignature, channel.ErrDescriptorLarge, catalog.ErrStale, catalog.ErrFuture, catalog.ErrRefused} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.As(err, new(base64.CorruptInputError))
}
