package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// OneArg wants exactly one argument. name is what help calls it, and hint how to give it.
func OneArg(name, hint string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("which %s? give %s", name, hint)
		}
		return tooMany(name, args)
	}
}

// OptionalArg wants at most one argument.
func OptionalArg(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error { return tooMany(name, args) }
}

func tooMany(name string, args []string) error {
	if len(args) > 1 {
		return fmt.Errorf("one %s at a time: %q is too many (is something not in quotes?)", name, args[1])
	}
	return nil
}

// ChannelHint is how a CHANNEL is given.
const ChannelHint = "its name, 'sixcast:KEY?peer=[addr]:port' in quotes, or @FILE that holds that"
