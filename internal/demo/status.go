package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/term"
)

// netStats is what relay and watch count of their neighbours; see docs/watch.md.
type netStats struct {
	Repaired uint64  `json:"repaired_shards"`
	Rebuilt  uint64  `json:"rebuilt_shards"`
	Rate     float64 `json:"stream_bps"`
}

// viewerStats is a line of watch --stats.
type viewerStats struct {
	Bytes   uint64   `json:"bytes"`
	Blocks  uint64   `json:"blocks"`
	Lost    uint64   `json:"lost_blocks"`
	Latency float64  `json:"byte_latency_ms"`
	Held    int      `json:"held_bytes"`
	Queued  int      `json:"queued_bytes"`
	Net     netStats `json:"net"`
}

// screen is stdout: what the commands say, and below it one line that is written again and again. Where stdout is no
// terminal the line is written every few seconds instead.
type screen struct {
	mu       sync.Mutex
	terminal bool
	shown    bool // the status line is on the screen
	latest   viewerStats
	relay    netStats
	begun    time.Time // first byte
	printed  time.Time
}

// plainEvery is how often the status is written where it cannot be rewritten.
const plainEvery = 5 * time.Second

func newScreen() *screen {
	return &screen{terminal: term.IsTerminal(int(os.Stdout.Fd()))}
}

// say writes a line above the status line.
func (s *screen) say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	fmt.Println(text)
}

// command shows a command before it is run.
func (s *screen) command(text string) {
	if s.terminal {
		text = "\x1b[1m$ " + text + "\x1b[0m"
	} else {
		text = "$ " + text
	}
	s.say(text)
}

// words is for what a command says.
func (s *screen) words(text string) { s.say("  " + text) }

func (s *screen) clear() {
	if s.shown {
		fmt.Print("\r\x1b[K")
		s.shown = false
	}
}

// viewer takes a line of watch's statistics and shows it.
func (s *screen) viewer(line []byte) {
	var v viewerStats
	if json.Unmarshal(line, &v) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = v
	now := time.Now()
	if v.Bytes == 0 {
		return
	}
	if s.begun.IsZero() {
		s.begun = now
	}
	text := s.status(now)
	if s.terminal {
		if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && len(text) >= width {
			text = text[:max(width-1, 0)]
		}
		fmt.Print("\r\x1b[K" + text)
		s.shown = true
	} else if now.Sub(s.printed) >= plainEvery {
		s.printed = now
		fmt.Println(text)
	}
}

func (s *screen) status(now time.Time) string {
	v := s.latest
	buffer := 0.0
	if v.Net.Rate > 0 {
		buffer = float64(v.Held+v.Queued) * 8 / v.Net.Rate
	}
	return fmt.Sprintf("  %4.1f s  %.2f Mbit/s  buffer %.2f s  %d blocks  %d shards repaired  latency %.0f ms",
		now.Sub(s.begun).Seconds(), v.Net.Rate/1e6, buffer, v.Blocks, s.repairs(), v.Latency)
}

// relayed takes a line of the second relay's statistics.
func (s *screen) relayed(line []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	json.Unmarshal(line, &s.relay)
}

// repairs is how many shards the second relay and the viewer asked for again or made from parity.
func (s *screen) repairs() uint64 {
	return s.latest.Net.Repaired + s.latest.Net.Rebuilt + s.relay.Repaired + s.relay.Rebuilt
}

// thousands writes 1234567 as 1,234,567.
func thousands[N int | uint64](n N) string {
	text := strconv.FormatUint(uint64(n), 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
