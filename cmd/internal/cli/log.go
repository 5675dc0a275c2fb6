package cli

import (
	"log/slog"
	"os"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// logger writes "relay: words key=value" to stderr, with colour on a terminal (NO_COLOR is heeded). It has no time: who
// wants one has journald, or ts(1).
func (app *App) logger() *slog.Logger {
	level := slog.LevelInfo
	switch {
	case app.quiet:
		level = slog.LevelError
	case app.verbose:
		level = slog.LevelDebug
	}
	return slog.New(tint.NewTextHandler(app.Stderr, &tint.Options{
		Level:   level,
		NoColor: !IsTerminal(app.Stderr) || os.Getenv("NO_COLOR") != "",
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) > 0 {
				return a
			}
			switch a.Key {
			case slog.TimeKey:
				return slog.Attr{}
			case slog.LevelKey:
				return app.levelAttr(a)
			}
			return a
		},
	}))
}

// levelAttr makes the level the beginning of the line.
func (app *App) levelAttr(a slog.Attr) slog.Attr {
	const red, yellow, grey = 9, 11, 8
	switch level, _ := a.Value.Any().(slog.Level); {
	case level >= slog.LevelError:
		return tint.Attr(red, slog.String(a.Key, app.Name+": error:"))
	case level >= slog.LevelWarn:
		return tint.Attr(yellow, slog.String(a.Key, app.Name+": warning:"))
	case level < slog.LevelInfo:
		return tint.Attr(grey, slog.String(a.Key, app.Name+":"))
	}
	return slog.String(a.Key, app.Name+":")
}

// IsTerminal tells whether f is a terminal.
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// RefuseTerminal is a usage error if stdout is a terminal, which binary data would garble. instead is what to type, such as
// "`ingest … | relay`".
func (app *App) RefuseTerminal(instead string) error {
	if !IsTerminal(app.Stdout) {
		return nil
	}
	return Usagef("the output is binary and stdout is a terminal: try %s", instead)
}
