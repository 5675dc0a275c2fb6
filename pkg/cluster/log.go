package cluster

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	// At most logLines of memberlist's lines are passed on in logTime, for strangers cause some; each is cut after maxLine bytes.
	logLines = 10
	logTime  = 10 * time.Second
	maxLine  = 300
)

// logWriter passes memberlist's lines on to a slog.Logger.
type logWriter struct {
	to  *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	closed  bool
	since   time.Time
	lines   int
	dropped int
}

// logger is what memberlist logs to.
func (w *logWriter) logger() *log.Logger { return log.New(w, "", 0) }

// close has no more lines passed on: memberlist does not wait for its goroutines.
func (w *logWriter) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
}

// Write takes one line: "[WARN] memberlist: words". What memberlist calls an error is one of another node or the network, and so a warning.
func (w *logWriter) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b[:min(len(b), maxLine)]))
	level := slog.LevelWarn
	if rest, ok := strings.CutPrefix(line, "["); ok {
		name, rest, ok := strings.Cut(rest, "] ")
		if ok {
			line = rest
		}
		switch name {
		case "DEBUG":
			return len(b), nil
		case "INFO":
			level = slog.LevelDebug
		}
	}
	if !w.to.Enabled(context.Background(), level) {
		return len(b), nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return len(b), nil
	}
	now := w.now()
	if now.Sub(w.since) >= logTime {
		if w.dropped > 0 {
			w.to.Warn(fmt.Sprintf("cluster: %d more lines of memberlist were left out", w.dropped))
		}
		w.since, w.lines, w.dropped = now, 0, 0
	}
	if w.lines++; w.lines > logLines {
		w.dropped++
		return len(b), nil
	}
	line = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.TrimPrefix(line, "memberlist: "))
	w.to.Log(context.Background(), level, "cluster: "+line)
	return len(b), nil
}
