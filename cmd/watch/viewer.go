package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/sixcast/sixcast/cmd/internal/cli"
	"github.com/sixcast/sixcast/pkg/node"
	"github.com/sixcast/sixcast/pkg/play"
)

// viewer is one run of watch, and what is known of it.
type viewer struct {
	app     *cli.App
	signals context.Context // done at SIGINT and SIGTERM
	once    bool
	name    string // from the URI
	tuner   *play.Tuner
	reader  *play.Reader
	cancel  context.CancelCauseFunc

	mu        sync.Mutex
	firstByte time.Time
	lastByte  time.Time
	bytes     uint64 // written, preambles included
	blocks    uint64
	gaps      uint64
	lost      play.Gap
	rejoined  uint64
	backlog   uint64        // blocks that were made before we started
	delays    play.Delays   // from the creation of a block to its write, the backlog left out
	oldest    play.Delays   // the same from the block's oldest byte
	recent    time.Duration // sum of delays since the last snapshot, the same from the oldest bytes, and their number
	recentOld time.Duration
	recentN   int
}

// written is told of every block that was written, or could not be.
func (v *viewer) written(u play.Unit, n int) {
	now := time.Now()
	b := u.Block
	v.mu.Lock()
	first := v.firstByte.IsZero() && n > 0
	if first {
		v.firstByte = now
	}
	v.lastByte = now
	v.bytes += uint64(n)
	v.blocks++
	delay := now.Sub(b.Created)
	v.recent += delay
	v.recentOld += delay + b.Duration
	v.recentN++
	if b.Created.Before(began) {
		v.backlog++
	} else {
		v.delays.Add(delay)
		v.oldest.Add(delay + b.Duration)
	}
	if u.Gap.Blocks > 0 {
		v.gaps++
		v.lost.Blocks += u.Gap.Blocks
		v.lost.Packets += u.Gap.Packets
		v.lost.Duration += u.Gap.Duration
	}
	if u.Entry == play.Rejoins {
		v.rejoined++
	}
	v.mu.Unlock()

	log := v.app.Log
	switch {
	case first:
		log.Info(fmt.Sprintf("playing %safter %v", v.title(), now.Sub(began).Round(time.Millisecond)))
	case u.Entry == play.NewRun:
		log.Info("the source started anew; going on with its new run")
	case u.Entry == play.Rejoins:
		log.Warn("the reader is too slow: went on at the newest random access point")
	}
	if u.Blind {
		log.Warn("the stream marks no random access point: began somewhere")
	}
	if g := u.Gap; g.Blocks > 0 {
		log.Warn(fmt.Sprintf("lost %v (%d blocks, %d packets)", g.Duration.Round(time.Millisecond), g.Blocks, g.Packets))
	}
	if v.once && b.End {
		v.cancel(errOnce)
	}
}

// title is the channel's name and a space, or nothing.
func (v *viewer) title() string {
	name := v.tuner.Name()
	if name == "" {
		name = v.name
	}
	if name == "" {
		return ""
	}
	return name + " "
}

func (v *viewer) summary() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.firstByte.IsZero() {
		return
	}
	text := fmt.Sprintf("played %v, %.1f MB", v.lastByte.Sub(v.firstByte).Round(time.Second), float64(v.bytes)/1e6)
	if v.gaps == 0 {
		text += ", without a gap"
	} else {
		text += fmt.Sprintf("; gaps: %d, lost %v (%d blocks, %d packets)", v.gaps, v.lost.Duration.Round(time.Millisecond), v.lost.Blocks, v.lost.Packets)
	}
	v.app.Log.Info(text)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// snapshot is one line of statistics.
func (v *viewer) snapshot() any {
	c, r := v.tuner.Counters(), v.reader.Stats()
	s := struct {
		State       play.State `json:"state"`
		Name        string     `json:"name,omitempty"`
		Run         string     `json:"run,omitempty"`
		Bytes       uint64     `json:"bytes"`        // written
		Blocks      uint64     `json:"blocks"`       // written
		Gaps        uint64     `json:"gaps"`         //
		LostBlocks  uint64     `json:"lost_blocks"`  //
		LostPackets uint64     `json:"lost_packets"` //
		LostMS      float64    `json:"lost_ms"`
		Late        uint64     `json:"late_blocks"`     // came when their turn was over
		Latency     float64    `json:"latency_ms"`      // creation to write, mean since the line before
		ByteLatency float64    `json:"byte_latency_ms"` // the same from the blocks' oldest bytes
		LeastDelay  float64    `json:"least_delay_ms"`  // creation to arrival, least of the last minutes
		Held        int        `json:"held_blocks"`     // behind a gap
		HeldBytes   int        `json:"held_bytes"`
		Queued      int        `json:"queued_bytes"` // for a reader that does not keep up
		QueuedMS    float64    `json:"queued_ms"`
		Overflows   uint64     `json:"overflows"`
		Dropped     uint64     `json:"dropped_blocks"`
		Net         node.Stats `json:"net"`
	}{
		State: v.tuner.State(), Name: v.tuner.Name(), Late: c.Late, LeastDelay: milliseconds(c.LeastDelay), Held: c.Held, HeldBytes: c.HeldBytes,
		Queued: r.HeldBytes, QueuedMS: milliseconds(r.Age), Overflows: r.Overflows, Dropped: r.Dropped, Net: v.tuner.Node().Stats(),
	}
	if c.Run != 0 {
		s.Run = c.Run.String()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s.Bytes, s.Blocks, s.Gaps, s.LostBlocks, s.LostPackets, s.LostMS = v.bytes, v.blocks, v.gaps, v.lost.Blocks, v.lost.Packets, milliseconds(v.lost.Duration)
	if v.recentN > 0 {
		s.Latency = milliseconds(v.recent / time.Duration(v.recentN))
		s.ByteLatency = milliseconds(v.recentOld / time.Duration(v.recentN))
	}
	v.recent, v.recentOld, v.recentN = 0, 0, 0
	return s
}

// quantiles of delays, in milliseconds.
type quantiles struct {
	Count uint64  `json:"count"`
	Min   float64 `json:"min"`
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func quantilesOf(d *play.Delays) quantiles {
	return quantiles{
		Count: d.Count(), Min: milliseconds(d.Min()), P50: milliseconds(d.Quantile(0.5)),
		P95: milliseconds(d.Quantile(0.95)), P99: milliseconds(d.Quantile(0.99)), Max: milliseconds(d.Max()),
	}
}

// writeReport writes what the tests read: the whole run in one object.
func (v *viewer) writeReport(path string, end error) error {
	c, r := v.tuner.Counters(), v.reader.Stats()
	v.mu.Lock()
	defer v.mu.Unlock()
	report := struct {
		Began       time.Time  `json:"began"`
		FirstByte   *time.Time `json:"first_byte"` // null: nothing was written
		Startup     *float64   `json:"startup_ms"` // from began to first_byte
		LastByte    *time.Time `json:"last_byte"`
		Bytes       uint64     `json:"bytes"`
		Blocks      uint64     `json:"blocks"`
		Backlog     uint64     `json:"backlog_blocks"` // of them, made before we began
		Runs        uint64     `json:"runs"`
		Gaps        uint64     `json:"gaps"`
		LostBlocks  uint64     `json:"lost_blocks"`
		LostPackets uint64     `json:"lost_packets"`
		LostMS      float64    `json:"lost_ms"`
		Late        uint64     `json:"late_blocks"`
		Rejoined    uint64     `json:"rejoined"`
		Dropped     uint64     `json:"dropped_blocks"`
		Delay       quantiles  `json:"delay_ms"`      // creation of a block (its last byte) to its write
		ByteDelay   quantiles  `json:"byte_delay_ms"` // its oldest byte to its write
		LeastDelay  float64    `json:"least_delay_ms"`
		Error       string     `json:"error,omitempty"`
		Net         node.Stats `json:"net"`
	}{
		Began: began, Bytes: v.bytes, Blocks: v.blocks, Backlog: v.backlog, Runs: c.Runs,
		Gaps: v.gaps, LostBlocks: v.lost.Blocks, LostPackets: v.lost.Packets, LostMS: milliseconds(v.lost.Duration),
		Late: c.Late, Rejoined: v.rejoined, Dropped: r.Dropped, Delay: quantilesOf(&v.delays), ByteDelay: quantilesOf(&v.oldest),
		LeastDelay: milliseconds(c.LeastDelay), Net: v.tuner.Node().Stats(),
	}
	if !v.firstByte.IsZero() {
		startup := milliseconds(v.firstByte.Sub(began))
		report.FirstByte, report.LastByte, report.Startup = &v.firstByte, &v.lastByte, &startup
	}
	if end != nil {
		report.Error = end.Error()
	}
	b, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	return nil
}
