package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/sixcast/sixcast/cmd/internal/cli"
	"github.com/sixcast/sixcast/pkg/channel"
)

type keygenOptions struct {
	output string
	name   string
}

func newKeygen(app *cli.App) *cobra.Command {
	var o keygenOptions
	cmd := &cobra.Command{
		Use:   "keygen -o FILE",
		Short: "Make the key of a new channel and print the channel's URI",
		Long: `keygen makes the key of a new channel in FILE, which must not exist yet, and
prints the channel's public URI on stdout. Whoever has FILE can broadcast as the
channel; whoever has the URI can watch it. A lost key cannot be had back.` + "\n" + cli.ExitStatus(),
		Example: `  ingest keygen -o ch1.key --name ch1
  ingest keygen -o ch1.key > ch1.uri && relay @ch1.uri`,
		Args: cobra.NoArgs,
		RunE: app.RunE(func(context.Context, []string) error { return o.run(app) }),
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "write the key to `FILE` (mode 0600, never overwritten)")
	cmd.Flags().StringVar(&o.name, "name", "", "`NAME` of the channel, for the URI")
	return cmd
}

func (o *keygenOptions) run(app *cli.App) error {
	if o.output == "" {
		return cli.Usagef("where to? give -o FILE")
	}
	if o.name != "" {
		if err := channel.CheckName(o.name); err != nil {
			return cli.Usagef("--name: %w", err)
		}
	}
	key, err := channel.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if err := channel.WriteKeyFile(o.output, key, o.name, time.Now()); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return cli.Usagef("%w", err)
		}
		return err
	}
	app.Log.Info("key written, keep it secret and keep a copy", "file", o.output)
	_, err = fmt.Fprintln(app.Out, channel.URI{ID: key.ID(), Name: o.name})
	return err
}
