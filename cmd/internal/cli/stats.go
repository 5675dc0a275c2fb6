package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/pflag"
)

// Stats writes statistics: JSON, one object a line, by time, to stderr or a file. The zero value writes none.
type Stats struct {
	every Duration
	file  string
}

// AddFlags adds --stats and --stats-file.
func (s *Stats) AddFlags(fs *pflag.FlagSet) {
	fs.Var(&s.every, "stats", "write statistics every `TIME` (1s), as JSON lines to stderr")
	stats := fs.Lookup("stats")
	stats.NoOptDefVal, stats.DefValue = "1s", ""
	fs.StringVar(&s.file, "stats-file", "", "write the statistics to `FILE` (and write some: --stats)")
}

// Enabled tells whether statistics are wanted.
func (s *Stats) Enabled() bool { return s.every > 0 || s.file != "" }

const (
	defaultStats = time.Second
	minStats     = 10 * time.Millisecond
)

// Start writes what snapshot returns now and then, and once more at stop. snapshot is called from one goroutine, or from
// stop, and returns a value that marshals to a JSON object; "time" and "tool" are put in front. It must count itself what
// happened since it was last called. stop waits for the writer and returns its first error. Errors at the start are usage errors.
func (s *Stats) Start(app *App, snapshot func() any) (stop func() error, err error) {
	if !s.Enabled() {
		return func() error { return nil }, nil
	}
	every := time.Duration(s.every)
	if every == 0 {
		every = defaultStats
	}
	out := io.WriteCloser(nopCloser{app.Stderr})
	if s.file != "" {
		if out, err = os.Create(s.file); err != nil {
			return nil, Usagef("--stats-file: %w", err)
		}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	var failed error
	write := func() {
		if failed == nil {
			failed = writeStats(out, app.Name, time.Now(), snapshot())
		}
	}
	go func() {
		defer close(ended)
		tick := time.NewTicker(max(every, minStats))
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				write()
			case <-end:
				write()
				return
			}
		}
	}()
	return func() error {
		close(end)
		<-ended
		if err := out.Close(); failed == nil {
			failed = err
		}
		if failed != nil {
			return fmt.Errorf("statistics: %w", failed)
		}
		return nil
	}, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// writeStats writes one line in one write, so that lines of several writers do not mix.
func writeStats(w io.Writer, tool string, now time.Time, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var line bytes.Buffer
	fmt.Fprintf(&line, `{"time":%q,"tool":%q`, now.UTC().Format("2006-01-02T15:04:05.000Z"), tool)
	if len(body) > 2 {
		line.WriteByte(',')
	}
	line.Write(body[1:])
	line.WriteByte('\n')
	_, err = w.Write(line.Bytes())
	return err
}
