package cli

import (
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manDate stands in the man pages: fixed, so that the same help makes the same page.
var manDate = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// manCommand is `relay man DIR`, which writes the man pages. scripts/docs calls it.
func manCommand(app *App) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages into DIR",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			app.started = true
			root := cmd.Root()
			root.InitDefaultHelpCmd()
			root.DisableAutoGenTag = true
			return doc.GenManTree(root, &doc.GenManHeader{
				Title: strings.ToUpper(app.Name), Section: "1", Date: &manDate, Source: "sixcast", Manual: "sixcast manual",
			}, args[0])
		},
	}
}
