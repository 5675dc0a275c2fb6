// Package input is where a transport stream comes from: standard input, a file, UDP or RTP datagrams, HTTP. It gives out whole
// packets at the pace at which they are to go on:
//
//	UDP, RTP     as they arrive
//	pipes, HTTP  as they arrive, but held where they run more than [PipeLead] ahead of their own clock (PCR)
//	files        by their clock; where they have none, at a constant rate
//
// unless [Options] say Unpaced.
//
// A [Stream] belongs to one goroutine, except Stats.
package input

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/ts"
)

// Errors of Open and Read, beside io.EOF, os.ErrDeadlineExceeded and those of the system.
var (
	// ErrNotStream is wrapped when what came is no transport stream; the message says what it looks like instead.
	ErrNotStream = errors.New("not a transport stream")
	// ErrUnavailable is wrapped when there is nothing at the address and waiting will not help.
	ErrUnavailable = errors.New("input not available")
)

const (
	// DefaultRate paces files that have no clock.
	DefaultRate ts.BitRate = 4_000_000
	// StallAfter is the silence after which a Stream that may go on is called stalled.
	StallAfter = 2 * time.Second

	// poll is how long a read waits before it looks at its context.
	poll = 100 * time.Millisecond
	// headSize is how much of the beginning is kept, for saying what it is if it is no transport stream.
	headSize = 512
	// maxHunt is how many bytes a pipe or file may have before the first packet.
	maxHunt = 4 << 20
)

// Options say how to read an input. The zero value is fine.
type Options struct {
	Stdin *os.File   // what "-" is; nil means os.Stdin
	Loop  bool       // play a file again and again with clocks that go on
	Rate  ts.BitRate // of files without a clock; 0 is DefaultRate
	Once  bool       // end where the input ends: do not connect again
	// Unpaced gives out packets as fast as they can be read, whatever their clock says.
	Unpaced bool
	Log     *slog.Logger // warnings; nil discards them
}

// Batch is some packets of the stream.
type Batch struct {
	Packets []byte    // whole packets of 188 bytes; they live until the next Read and may be changed
	At      time.Time // when they came or were due
	// Jump says that the stream does not go on from the batch before: another connection or another sender.
	Jump bool
}

// A source gives bytes. read waits until deadline (zero means for ever) and returns os.ErrDeadlineExceeded then, io.EOF at
// the end, or the context's error. The chunk lives until the next read. Close waits for the source's goroutines.
type source interface {
	read(ctx context.Context, deadline time.Time) (chunk, error)
	stats() Stats
	close() error
}

type chunk struct {
	data []byte
	jump bool // does not go on from the chunk before
}

// State of a Stream.
type State string

// The states.
const (
	Waiting State = "waiting" // nothing has come yet
	Running State = "running"
	Stalled State = "stalled" // nothing for StallAfter
	Ended   State = "ended"
)

// Stats of a Stream since it was opened.
type Stats struct {
	State      State        `json:"state"`
	Bytes      uint64       `json:"bytes"` // before packets were looked for
	Sync       ts.SyncStats `json:"sync"`
	ClockJumps uint64       `json:"clock_jumps"`
	Stalls     uint64       `json:"stalls"`
	Reconnects uint64       `json:"reconnects"`        // HTTP
	Datagrams  uint64       `json:"datagrams"`         // UDP
	Dropped    uint64       `json:"dropped_by_kernel"` // UDP: the receive buffer was full
	Foreign    uint64       `json:"of_another_source"` // UDP: not of the source that was asked for, dropped
	RTP        *RTPStats    `json:"rtp,omitempty"`     // nil where the input is no RTP
}

// Stream is an open input.
type Stream struct {
	name  string
	src   source
	log   *slog.Logger
	sync  ts.Sync
	pace  pacer
	loop  *ts.Loop // nil unless looping
	rew   func() error
	live  bool
	sized bool // ends, so that what is no transport stream shows
	ended bool
	jump  bool  // the next batch does not go on from the one before
	held  chunk // what follows a jump, while the packets before it go out
	head  []byte

	bytes     uint64
	lastAt    time.Time // when bytes last came
	published time.Time // when stats were brought up to date

	mu    sync.Mutex
	stats Stats // written by Read's goroutine under mu
}

// Open opens the input. It waits for as long as ctx allows where opening takes time (a FIFO without a writer); HTTP
// connects in the background, for ever unless o.Once. Errors of spec's kind wrap ErrUnavailable, ErrAddress or are the system's.
func Open(ctx context.Context, spec Spec, o Options) (*Stream, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rate <= 0 {
		o.Rate = DefaultRate
	}
	s := &Stream{name: spec.String(), log: o.Log, live: true}
	var mode paceMode
	switch spec.Kind {
	case Stdin, File:
		f, err := openFile(ctx, spec, o)
		if err != nil {
			return nil, err
		}
		s.src, mode, s.sized = f, paceAhead, true
		if f.regular {
			s.live, mode, s.rew = false, paceClock, f.rewind
		}
	case UDP:
		u, err := openUDP(ctx, spec, o.Log)
		if err != nil {
			return nil, err
		}
		s.src, s.name = u, u.name
	case HTTP:
		s.src, mode = openHTTP(ctx, spec.URL, o), paceAhead
	}
	if o.Loop {
		if s.rew == nil {
			s.src.close()
			return nil, fmt.Errorf("%w: %s is no file that could be played in a loop", ErrAddress, s.name)
		}
		s.loop = ts.NewLoop()
	}
	if o.Unpaced {
		mode = paceNone
	}
	s.pace = newPacer(mode, o.Rate, o.Log)
	s.stats.State = Waiting
	return s, nil
}

// Name of the input as a person reads it, with the interface that a group was joined on.
func (s *Stream) Name() string { return s.name }

// Live tells whether the stream comes by itself (datagrams, a pipe, HTTP), so that nothing for a while means a stall.
func (s *Stream) Live() bool { return s.live }

// Close closes the input. Standard input stays open.
func (s *Stream) Close() error { return s.src.close() }

// Stats may be called at any time.
func (s *Stream) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Read returns the next packets, at least one, once they have come and are due. It waits until deadline, or for ever if that
// is zero, and returns os.ErrDeadlineExceeded then: nothing is lost by that. At the end it returns io.EOF. Where what
// came is no transport stream it returns ErrNotStream, also for an input with no packet at all.
func (s *Stream) Read(ctx context.Context, deadline time.Time) (Batch, error) {
	for {
		packets, err := s.pace.take(ctx, deadline)
		if len(packets) > 0 {
			b := Batch{Packets: packets, At: time.Now(), Jump: s.jump}
			s.jump = false
			return b, nil
		}
		if err != nil {
			return Batch{}, err
		}
		if s.ended {
			return Batch{}, io.EOF
		}
		if err := s.fill(ctx, deadline); err != nil {
			return Batch{}, err
		}
	}
}

// fill reads one chunk and hands its packets to the pacer.
func (s *Stream) fill(ctx context.Context, deadline time.Time) error {
	c := s.held
	s.held = chunk{}
	if c.data == nil {
		var err error
		switch c, err = s.src.read(ctx, deadline); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.note(0, time.Now())
			return err
		case errors.Is(err, io.EOF):
			return s.end()
		case err != nil:
			return err
		}
		if len(s.head) < headSize {
			s.head = append(s.head, c.data[:min(len(c.data), headSize-len(s.head))]...)
		}
		if c.jump {
			s.put(s.sync.Flush(s.pace.room()))
			s.held = c
			return nil
		}
	}
	s.jump = s.jump || c.jump
	buf := s.sync.Append(s.pace.room(), c.data)
	if !s.sized && wholePackets(c.data) {
		buf = s.sync.Flush(buf) // datagrams: the last packet need not wait for the next one
	}
	s.put(buf)
	s.note(len(c.data), time.Now())
	if n := s.sync.Stats(); s.sized && n.Packets == 0 && n.Skipped > maxHunt {
		return s.notStream()
	}
	return nil
}

func (s *Stream) notStream() error {
	return fmt.Errorf("%s: %w: %s", s.name, ErrNotStream, describe(s.head))
}

// put gives the pacer its buffer back, with new packets at the end.
func (s *Stream) put(buf []byte) {
	if s.loop != nil {
		s.loop.Rewrite(buf[len(s.pace.buf):])
	}
	s.pace.put(buf)
}

// end handles the end of the source: the beginning again, or the end.
func (s *Stream) end() error {
	s.put(s.sync.Flush(s.pace.room()))
	if s.sync.Stats().Packets == 0 {
		return s.notStream()
	}
	if s.loop != nil {
		s.loop.Rewind()
		return s.rew()
	}
	s.pace.finish()
	s.ended = true
	s.publish(time.Now(), Ended)
	return nil
}

// note keeps the statistics, once a chunk of n bytes; 0 says that nothing came.
func (s *Stream) note(n int, now time.Time) {
	s.bytes += uint64(n)
	state := s.stats.State // written by this goroutine only
	switch {
	case n > 0:
		if state == Stalled {
			s.log.Info("input is back", "input", s.name, "after", now.Sub(s.lastAt).Round(100*time.Millisecond))
		}
		state, s.lastAt = Running, now
	case s.live && state == Running && now.Sub(s.lastAt) >= StallAfter:
		state = Stalled
		s.log.Warn("input has stalled, waiting", "input", s.name)
	}
	if state != s.stats.State || now.Sub(s.published) >= poll {
		s.publish(now, state)
	}
}

func (s *Stream) publish(now time.Time, state State) {
	st := s.src.stats()
	st.State, st.Bytes, st.Sync, st.ClockJumps = state, s.bytes, s.sync.Stats(), s.pace.clock.Jumps()
	s.published = now
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Stalls = s.stats.Stalls
	if state == Stalled && s.stats.State != Stalled {
		st.Stalls++
	}
	s.stats = st
}
