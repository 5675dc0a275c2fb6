package block

import (
	"errors"
	"fmt"
	"time"

	"github.com/sixcast/sixcast/pkg/ts"
)

const (
	// MaxAge is how long a packet waits for its block to be cut, by the clock of arrival.
	MaxAge = 400 * time.Millisecond
	// minSpan is how long the room of a block should last at the current rate.
	// It is also how far apart blocks are kept that random access points begin:
	// where every picture, or every audio frame, is one, not each has a block.
	minSpan = 100 * time.Millisecond
)

// Tables is what a Cutter asks of the walk over the packets; *ts.Walker is one.
type Tables interface {
	// AppendPreamble appends PAT and PMT as they were at the last candidate, in whole packets.
	AppendPreamble(dst []byte) []byte
	// PCRPID is where the programme's clock is, if it has one.
	PCRPID() (ts.PID, bool)
}

// CutterConfig says how to cut.
type CutterConfig struct {
	Data   int // D; zero is DefaultData. The same as the Encoder's
	Tables Tables
	// Emit takes a block, empty only at the end of a run. payload is valid
	// during the call. An error ends the Push or Tick that led to it and comes
	// back from there; the block is gone.
	Emit func(payload []byte, f Fields) error
}

// Cutter cuts the packets of one run into blocks (docs/protocol.md section 2,
// "How ingest cuts"): a block ends when the next packet would not fit, when it
// is 400 ms old, and before a random access point. Since that may show only
// some packets after the one it began with, no block reaches past a candidate
// that is still undecided, unless it began with it.
//
// Times are arrival times on one clock, which does not go back.
type Cutter struct {
	cfg CutterConfig
	cap int // bytes of one row

	// buf[MaxPreamble:][:n] are the packets of the block; the preamble lies before them.
	buf   []byte
	n     int
	flags Flags // of the block: RAP, Discontinuity
	pre   int   // bytes of preamble
	began mark

	// The undecided candidate.
	cand    int // offset of its packet among the block's; −1 if there is none
	candAt  mark
	candPre []byte

	clock streamClock
}

// mark is a moment in the stream.
type mark struct {
	arrival time.Time
	pos     time.Duration // on the stream's clock
}

func (c *Cutter) mark(now time.Time) mark { return mark{now, c.clock.pos()} }

// NewCutter starts a run: its first block is flagged Discontinuity.
func NewCutter(c CutterConfig) (*Cutter, error) {
	if c.Data == 0 {
		c.Data = DefaultData
	}
	if c.Data < MinData || c.Data > MaxData {
		return nil, fmt.Errorf("block: %d data stripes: must be %d to %d", c.Data, MinData, MaxData)
	}
	if c.Tables == nil || c.Emit == nil {
		return nil, errors.New("block: a cutter needs tables and somewhere to put its blocks")
	}
	row := c.Data * MaxShard
	return &Cutter{
		cfg:   c,
		cap:   row,
		buf:   make([]byte, MaxPreamble+row*MaxRows),
		flags: Discontinuity,
		cand:  -1,
	}, nil
}

// Push takes one packet (copied), what the walk noted at it, and when it came.
// It may emit up to three blocks.
func (c *Cutter) Push(p ts.Packet, note ts.Note, now time.Time) error {
	if now != c.clock.now { // packets come in batches
		if err := c.Tick(now); err != nil {
			return err
		}
		c.clock.arrived(now)
	}
	for c.n > 0 && c.full(now) {
		if err := c.cutLimit(c.mark(now)); err != nil {
			return err
		}
	}
	if note&ts.NoteCandidate != 0 {
		// One that was still undecided is none.
		c.cand = -1
		at := c.mark(now)
		if c.flags&RAP == 0 || c.n == 0 || at.pos-c.began.pos >= minSpan {
			c.cand, c.candAt = c.n, at
			if c.candPre = c.cfg.Tables.AppendPreamble(c.candPre[:0]); len(c.candPre) > MaxPreamble {
				c.candPre = c.candPre[:0]
			}
		}
	}
	if c.n == 0 {
		c.began = c.mark(now)
	}
	c.n += copy(c.buf[MaxPreamble+c.n:], p[:ts.PacketSize])
	if pcr, ok := p.PCR(); ok {
		if pid, ok := c.cfg.Tables.PCRPID(); ok && pid == p.PID() {
			c.clock.pcr(pcr, now)
		}
	}
	c.clock.bytes += ts.PacketSize

	switch {
	case note&ts.NoteConfirmed != 0 && c.cand >= 0:
		return c.confirm(now)
	case note&ts.NoteRefuted != 0:
		c.cand = -1
	}
	return nil
}

// full tells whether one packet more is too much, for the block or for the one
// that begins at the candidate if that is confirmed.
func (c *Cutter) full(now time.Time) bool {
	if max(c.pre, len(c.candPre))+c.n+ts.PacketSize <= c.cap {
		return false // one row is always allowed
	}
	limit := c.limit(now)
	return c.pre+c.n+ts.PacketSize > limit ||
		c.cand >= 0 && len(c.candPre)+c.n-c.cand+ts.PacketSize > limit
}

// limit is the room of the block: the least number of rows that lasts minSpan
// at the current rate or, while that is unknown, at the block's own.
func (c *Cutter) limit(now time.Time) int {
	rate := c.clock.rate()
	if rate == 0 {
		rate = float64(c.n) / now.Sub(c.began.arrival).Seconds() // +Inf at first
	}
	for j := 1; j < MaxRows; j++ {
		if float64(c.cap*j) >= rate*minSpan.Seconds() {
			return c.cap * j
		}
	}
	return c.cap * MaxRows
}

// cutLimit ends the block because of its size or age: before the undecided
// candidate if there is one, else before what comes at next.
func (c *Cutter) cutLimit(next mark) error {
	if c.cand > 0 {
		return c.cut(c.cand, 0, c.candAt, next.arrival)
	}
	c.cand = -1
	return c.cut(c.n, 0, next, next.arrival)
}

// confirm makes the candidate the start of a RAP block.
func (c *Cutter) confirm(now time.Time) error {
	var err error
	if c.cand > 0 {
		err = c.cut(c.cand, 0, c.candAt, now)
	}
	c.cand = -1
	c.flags |= RAP
	c.pre = len(c.candPre)
	copy(c.buf[MaxPreamble-c.pre:], c.candPre)
	return err
}

// cut emits the first n bytes of packets and keeps the rest, which begin at
// next. A candidate in the rest stays.
func (c *Cutter) cut(n int, add Flags, next mark, now time.Time) error {
	f := Fields{
		Flags:    c.flags | add,
		Created:  now,
		Duration: min(max(next.pos-c.began.pos, 0), maxDuration),
		Preamble: c.pre,
	}
	payload := c.buf[MaxPreamble-c.pre : MaxPreamble+n]
	err := c.cfg.Emit(payload, f)
	c.n = copy(c.buf[MaxPreamble:], c.buf[MaxPreamble+n:MaxPreamble+c.n])
	c.flags, c.pre, c.began = 0, 0, next
	if c.cand >= 0 {
		c.cand -= n
	}
	return err
}

// maxDuration bounds what a stray clock makes of a block: a PCR may be trusted to be that far off.
const maxDuration = 10 * time.Second

// Deadline is when the block must be cut though nothing more comes; call Tick
// then. False if nothing is waiting.
func (c *Cutter) Deadline() (time.Time, bool) {
	return c.began.arrival.Add(MaxAge), c.n > 0
}

// Tick emits what is 400 ms old.
func (c *Cutter) Tick(now time.Time) error {
	for c.n > 0 && now.Sub(c.began.arrival) >= MaxAge {
		if err := c.cutLimit(c.mark(now)); err != nil {
			return err
		}
	}
	return nil
}

// Discontinuity says that what comes next does not go on from what came: the
// source was switched, or lost its place. What is waiting is emitted, and the next
// block flagged.
func (c *Cutter) Discontinuity(now time.Time) error {
	var err error
	c.cand = -1
	if c.n > 0 {
		err = c.cut(c.n, 0, c.mark(now), now)
	}
	c.flags |= Discontinuity
	c.clock = streamClock{}
	return err
}

// End emits what is waiting, or an empty block, as the last of the run. The
// Cutter must not be used after.
func (c *Cutter) End(now time.Time) error {
	c.cand = -1
	return c.cut(c.n, End, c.mark(now), now)
}

// Rate is the current bit rate of the stream in bit/s, over about the last
// second; 0 while it is unknown.
func (c *Cutter) Rate() float64 { return c.clock.rate() * 8 }
