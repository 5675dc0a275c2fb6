package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sixcast/sixcast/cmd/internal/cli"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/input"
	"github.com/sixcast/sixcast/pkg/ts"
)

const (
	// idleWait is the longest wait for input between two looks at the clock.
	idleWait = time.Second
	// complainAfter is how long a stream may go without tables or random access points before that is said.
	complainAfter = 10 * time.Second
	// lastWrite is how long a reader of stdout that has stopped reading may hold up the end.
	lastWrite = 2 * time.Second

	// The descriptor is signed again when the bit rate is known, and when it has changed by rateChange, but not more often than this.
	describeAfter = 2 * time.Second
	describeAgain = time.Minute
	rateChange    = 0.25
	// signAgain is when it is signed again in any case: who knows it from others takes a descriptor for what is on air no longer than some days.
	signAgain = time.Hour
)

// A pipeline leads the packets of an input through the cutter and the encoder to a writer. It belongs to one goroutine, except
// snapshot.
type pipeline struct {
	log     *slog.Logger
	in      *input.Stream
	out     io.Writer
	timeout time.Duration

	filter  *ts.ProgramFilter // nil: all programmes
	walker  *ts.Walker
	cutter  *block.Cutter
	encoder *block.Encoder
	records []byte // of the block being written

	key         channel.Key
	values      channel.Values
	describedAt time.Time
	signedAt    time.Time
	seq         int64

	begun      time.Time
	lastPacket time.Time
	noProgram  error // what the filter said last
	complained bool

	mu    sync.Mutex
	meter *ts.Meter   // guarded by mu
	stats outputStats // guarded by mu
}

// outputStats count what was written.
type outputStats struct {
	Run          block.Run `json:"-"`
	Blocks       uint64    `json:"blocks"`
	RAPs         uint64    `json:"random_access_points"`
	Packets      uint64    `json:"packets"`
	PayloadBytes uint64    `json:"payload_bytes"`
	Bytes        uint64    `json:"bytes"`
}

func newPipeline(o *options, log *slog.Logger, key channel.Key, run block.Run, in *input.Stream, out io.Writer) (*pipeline, error) {
	now := time.Now()
	p := &pipeline{
		log: log, in: in, out: out, timeout: time.Duration(o.timeout),
		walker: ts.NewWalker(), meter: ts.NewMeter(now),
		key: key, values: o.values,
		begun: now, lastPacket: now, stats: outputStats{Run: run},
	}
	if o.program != 0 {
		p.filter = ts.NewProgramFilter(o.program)
	}
	var err error
	if p.encoder, err = block.NewEncoder(block.EncoderConfig{Key: key, Run: run, Data: o.data}); err != nil {
		return nil, err
	}
	if p.cutter, err = block.NewCutter(block.CutterConfig{Data: o.data, Tables: p.walker, Emit: p.emit}); err != nil {
		return nil, err
	}
	return p, p.sign(now)
}

// runUntilWritten is run, but does not wait for a reader that has stopped reading once ctx has ended.
func (p *pipeline) runUntilWritten(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- p.run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(lastWrite):
		p.log.Warn("nobody reads the output: the end of the run was not written")
		return nil
	}
}

// run goes on until the input ends or ctx does, and ends the run of blocks.
func (p *pipeline) run(ctx context.Context) error {
	err := p.copy(ctx)
	if errors.Is(err, io.EOF) {
		err = nil
		if p.stats.Packets == 0 && p.noProgram != nil {
			err = cli.NoInputf("%w", p.noProgram)
		}
	}
	if p.stats.Packets > 0 && !errors.Is(err, cli.ErrStdoutClosed) {
		p.complain(true)
		if e := p.cutter.End(time.Now()); err == nil || ctx.Err() != nil {
			err = e
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (p *pipeline) copy(ctx context.Context) error {
	for {
		now := time.Now()
		wait := now.Add(idleWait)
		if d, ok := p.cutter.Deadline(); ok && d.Before(wait) {
			wait = d
		}
		if p.timeout > 0 {
			end := p.lastPacket.Add(p.timeout)
			if !now.Before(end) {
				return cli.NoInputf("%s: no packet came for %v", p.in.Name(), p.timeout)
			}
			if end.Before(wait) {
				wait = end
			}
		}
		b, err := p.in.Read(ctx, wait)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = p.cutter.Tick(time.Now())
		case err == nil:
			err = p.take(b)
		}
		if err != nil {
			return err
		}
	}
}

func (p *pipeline) take(b input.Batch) error {
	if b.Jump {
		p.log.Info("the stream begins anew", "input", p.in.Name())
		if err := p.cutter.Discontinuity(b.At); err != nil {
			return err
		}
	}
	packets := b.Packets
	if p.filter != nil {
		var err error
		if packets, err = p.filter.Filter(packets); err != nil {
			p.log.Warn(err.Error())
			p.noProgram = err
		}
	}
	if len(packets) == 0 {
		return nil
	}
	p.lastPacket = b.At
	p.mu.Lock()
	if pid, ok := p.walker.PCRPID(); ok {
		p.meter.Follow(pid)
	}
	p.meter.Observe(packets)
	p.stats.Packets += uint64(len(packets) / ts.PacketSize)
	p.mu.Unlock()

	for ; len(packets) > 0; packets = packets[ts.PacketSize:] {
		pkt := ts.Packet(packets[:ts.PacketSize])
		note := p.walker.Walk(pkt)
		if note&ts.NotePrograms != 0 {
			p.programs()
		}
		if err := p.cutter.Push(pkt, note, b.At); err != nil {
			return err
		}
	}
	p.complain(false)
	return p.describe(b.At)
}

// emit writes a block, in one write.
func (p *pipeline) emit(payload []byte, f block.Fields) (err error) {
	if p.records, err = p.encoder.Encode(p.records[:0], payload, f); err != nil {
		return err
	}
	if _, err := p.out.Write(p.records); err != nil {
		return fmt.Errorf("writing blocks: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Blocks++
	p.stats.PayloadBytes += uint64(len(payload))
	p.stats.Bytes += uint64(len(p.records))
	if f.Flags&block.RAP != 0 {
		p.stats.RAPs++
	}
	return nil
}

// sign makes the channel's descriptor for the blocks to come.
func (p *pipeline) sign(now time.Time) error {
	p.seq = max(now.Unix(), p.seq+1)
	d, err := channel.SignDescriptor(p.key, p.seq, p.values)
	if errors.Is(err, channel.ErrDescriptorLarge) {
		return cli.Usagef("%w", err)
	}
	if err != nil {
		return err
	}
	p.describedAt, p.signedAt = now, now
	return p.encoder.SetDescriptor(d.Item)
}

// describe signs a new descriptor if there is something new to tell.
func (p *pipeline) describe(now time.Time) error {
	wait := describeAgain
	if p.values.BitRate == 0 {
		wait = describeAfter
	}
	if now.Sub(p.describedAt) < wait {
		return nil
	}
	p.describedAt = now
	rate, name := ts.BitRate(p.cutter.Rate()), p.values.Name
	if name == "" {
		name = p.serviceName()
	}
	off := float64(rate - p.values.BitRate)
	if name == p.values.Name && max(off, -off) <= rateChange*float64(p.values.BitRate) && now.Sub(p.signedAt) < signAgain {
		return nil
	}
	p.values.BitRate, p.values.Name = rate, name
	return p.sign(now)
}

// serviceName is what the stream calls its leading programme.
func (p *pipeline) serviceName() string {
	number, ok := p.walker.Leading()
	if !ok {
		return ""
	}
	for _, prog := range p.walker.Programs() {
		if prog.Number == number && channel.CheckName(prog.Name) == nil {
			return prog.Name
		}
	}
	return ""
}

// programs tells what is in the stream.
func (p *pipeline) programs() {
	for _, prog := range p.walker.Programs() {
		if !prog.Known {
			continue
		}
		var streams []string
		for _, s := range prog.Streams {
			what := s.Kind.String()
			if s.Codec != "" {
				what = string(s.Codec)
			}
			if s.Language != "" {
				what += " (" + s.Language + ")"
			}
			streams = append(streams, what)
		}
		p.log.Debug(fmt.Sprintf("programme %d %q: %s", prog.Number, prog.Name, strings.Join(streams, ", ")))
	}
}

// complain says once what viewers will miss.
func (p *pipeline) complain(atEnd bool) {
	if p.complained || !atEnd && time.Since(p.begun) < complainAfter {
		return
	}
	p.complained = true
	p.mu.Lock()
	raps, total, null := p.stats.RAPs, p.stats.Packets, uint64(0)
	for pid, c := range p.meter.Continuity().All() {
		if pid == ts.PIDNull {
			null = c.Packets
		}
	}
	p.mu.Unlock()
	_, leading := p.walker.Leading()
	switch {
	case null == total:
		p.log.Warn("the stream has only null packets; they pass")
	case !leading:
		p.log.Warn("the stream has no programme with video or audio (PAT, PMT); it passes, but nobody will know where to begin")
	case raps == 0:
		p.log.Warn("the stream has had no random access point; it passes, but viewers cannot begin")
	}
}

// snapshot is a line of statistics.
func (p *pipeline) snapshot() any {
	p.mu.Lock()
	defer p.mu.Unlock()
	return struct {
		Run string `json:"run"`
		outputStats
		Input  input.Stats `json:"input"`
		Stream ts.Snapshot `json:"stream"`
	}{p.stats.Run.String(), p.stats, p.in.Stats(), p.meter.Snapshot(time.Now())}
}
