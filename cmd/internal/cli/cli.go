// Package cli is what the commands share: signals, exit codes, environment and configuration file, logging, statistics, and
// flags in human units. Only the commands may import it.
//
// A command's main is one call:
//
//	func main() { cli.Main("relay", newCommand) }
//
//	func newCommand(app *cli.App) *cobra.Command {
//		var o options
//		cmd := &cobra.Command{Use: "relay [CHANNEL]", Args: cobra.MaximumNArgs(1), RunE: app.RunE(
//			func(ctx context.Context, args []string) error { return o.run(ctx, app, args) })}
//		o.addFlags(cmd.Flags())
//		return cmd
//	}
package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// patience is how long after the first signal further ones are not taken for another.
const patience = time.Second

// Version is set by the linker in releases.
var Version = ""

// App is one run of a command.
type App struct {
	root *cobra.Command // of this process; nil in tests
	// Name of the command: ingest, relay, watch, record.
	Name string
	// Log goes to stderr as "relay: …". It is set up when the function given to RunE is called.
	Log *slog.Logger
	// Stdin, Stdout and Stderr are the process's own. Write to Out, not to Stdout, but where a file is needed.
	Stdin, Stdout, Stderr *os.File
	// Out is Stdout; its error is ErrStdoutClosed once the reader is gone.
	Out io.Writer

	quiet   bool
	verbose bool
	config  string
	started bool // the arguments were in order
}

// Main runs the command and exits the process. root makes the command; it adds its flags and may add subcommands.
//
// SIGINT and SIGTERM end the context given to the function in RunE; another one, a second later, kills. A closed stdout is an error from
// Out, not a signal.
func Main(name string, root func(*App) *cobra.Command) { os.Exit(run(name, root, os.Args[1:])) }

func run(name string, root func(*App) *cobra.Command, args []string) int {
	app := &App{Name: name, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Out: pipeWriter{os.Stdout}}
	app.Log = app.logger()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// timeout(1) sends its signal twice, to the process and to its group; only a later one is a person's who has lost patience.
	context.AfterFunc(ctx, func() { time.AfterFunc(patience, stop) })
	// Caught, not ignored: ignoring would be handed on to the players and hooks that a command starts.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	cmd := root(app)
	app.root = cmd
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.Version = version()
	cmd.SetArgs(args)
	cmd.SetOut(os.Stdout)
	cmd.SetErr(os.Stderr)
	cmd.SetVersionTemplate("{{.DisplayName}} (sixcast) {{.Version}}\n")
	cmd.AddCommand(manCommand(app))
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true}) // --help does, and "help" may be a channel's name
	flags := cmd.PersistentFlags()
	flags.BoolVarP(&app.quiet, "quiet", "q", false, "say nothing but errors")
	flags.BoolVarP(&app.verbose, "verbose", "v", false, "say more")
	flags.StringVar(&app.config, "config", "", "read settings from `FILE` (default ~/.config/sixcast/config.toml)")

	called, err := cmd.ExecuteContextC(ctx)
	if err != nil && !app.started {
		err = Usagef("%w (try `%s --help`)", err, called.CommandPath())
	}
	code := ExitCode(ctx, err)
	if code != ExitOK {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	}
	return code
}

// RunE makes a cobra RunE of f: it fills the flags that were not given from the environment (SIXCAST_<FLAG>) and the
// configuration file, in this order, and sets up logging. Errors before f are usage errors.
func (app *App) RunE(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := app.settings(cmd.Flags()); err != nil {
			return err
		}
		app.Log = app.logger()
		app.started = true
		return f(cmd.Context(), args)
	}
}

// OneCore has the Go code of this process run on one core at a time, unless GOMAXPROCS says otherwise. What a peer does, it does
// under the engine's one lock: all that a second core could do is to be woken for each datagram, which was a fifth of the cost.
func OneCore() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

func version() string {
	if Version != "" {
		return Version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := strings.Trim(info.Main.Version, "()")
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && v == "devel" {
			v += " " + s.Value[:min(12, len(s.Value))]
		}
	}
	return v
}
