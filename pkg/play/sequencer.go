package play

import (
	"slices"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
)

// Defaults and limits of a Sequencer.
const (
	DefaultLatency  = time.Second
	DefaultMaxBytes = 32 << 20

	// maxBlocks bounds the blocks held of a run, since empty ones have no bytes.
	maxBlocks = 16384

	// runWait is how long the old run may still deliver once a newer one can be played.
	runWait = 300 * time.Millisecond

	// blindWait is how long a run without any random access point is waited
	// for before it is played from anywhere; blindWaitGOP the same where
	// manifests say that there was one, which is longer than the usual
	// longest distance of them (x264: 250 frames, 10 s).
	blindWait    = 5 * time.Second
	blindWaitGOP = 12 * time.Second

	// gapGrace is the least time a gap is waited for after it was noticed (if
	// the latency is not shorter): after an outage blocks come late but out
	// of order, and none of them should be given up at sight.
	gapGrace = 100 * time.Millisecond

	// silence is how long nothing must come for the next block to be treated
	// as a new beginning: gaps are waited for from then on.
	silence = time.Second

	// delayWindow is the time after which the least delay is forgotten; two
	// windows are kept. It bounds what clocks that drift apart can do.
	delayWindow = time.Minute
)

const never = time.Duration(1<<63 - 1)

// Config sets up a Sequencer.
type Config struct {
	// Latency is how long a gap is waited for, counted from the creation of
	// the first block after it plus the least time from creation to arrival
	// that was seen. No clocks are compared. Negative means DefaultLatency.
	Latency time.Duration

	// MaxBytes bounds the payload held behind a gap; when it is reached the
	// gap is given up. 0 means DefaultMaxBytes.
	MaxBytes int
}

// Counters of a Sequencer. They only grow, but for the last group.
type Counters struct {
	Received uint64 // blocks put
	Blocks   uint64 // blocks given out
	Bytes    uint64 // of payload given out, preambles not counted
	Runs     uint64 // runs begun
	Late     uint64 // blocks that came when their turn was over
	Old      uint64 // blocks of runs older than the newest
	Repeated uint64 // blocks that were there already
	Gaps     uint64
	Lost     Gap // all gaps together

	Run        block.Run
	Next       block.Number  // the next block in turn
	Held       int           // blocks that wait for their turn
	HeldBytes  int           // and their payload
	LeastDelay time.Duration // least arrival − created in the run's last minutes; of two clocks, so only differences mean something
	Started    bool          // a block of the current run was given out
	Ended      bool          // the last block of the current run was given out
	Created    time.Time     // of the newest block that came
}

// Sequencer puts the blocks of a channel in order (docs/protocol.md, section
// 2). It is sans-I/O: time comes in as an argument and must come from one
// clock; it is not safe for concurrent use. After every Put, and at Deadline,
// Next is called until it has nothing more.
type Sequencer struct {
	latency  time.Duration
	maxBytes int

	base  time.Time     // the clock's origin, set by the first call
	now   time.Duration // never goes back
	heard time.Duration // last Put
	floor time.Duration // gaps are waited for since then at the least

	cur, pending *run
	readyAt      time.Duration // when pending could be played first
	ready        bool
	began        bool // something was given out, of whatever run
	flushing     bool

	n Counters
}

// run is what is held of one run.
type run struct {
	id      block.Run
	held    []*Block // sorted by number
	bytes   int
	firstAt time.Duration
	heard   time.Duration
	delay   leastDelay
	target  block.Number // where to start
	aimed   bool         // target is set
	marked  bool         // a manifest names a random access point
	started bool
	ended   bool
	last    *Block // given out last
	next    block.Number
}

// NewSequencer with nothing in it.
func NewSequencer(c Config) *Sequencer {
	if c.Latency < 0 {
		c.Latency = DefaultLatency
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = DefaultMaxBytes
	}
	return &Sequencer{latency: c.Latency, maxBytes: c.MaxBytes}
}

// tick moves the clock. A clock that is set while we run does no harm, since
// times that carry a monotonic reading are compared by it.
func (s *Sequencer) tick(now time.Time) {
	if s.base.IsZero() {
		s.base = now
	}
	if d := now.Sub(s.base); d > s.now {
		s.now = d
	}
}

// at puts a time of creation on the Sequencer's clock. Absurd times are cut
// down to ones that can be added up.
func (s *Sequencer) at(created time.Time) time.Duration {
	const absurd = 1 << 61 // 73 years
	return min(max(created.Sub(s.base.Round(0)), -absurd), absurd)
}

// Put takes a block that arrived at now. The Sequencer owns b from here on.
// Blocks may come in any order and more than once.
func (s *Sequencer) Put(now time.Time, b *Block) {
	s.tick(now)
	s.n.Received++
	if s.n.Received == 1 || s.now-s.heard > silence {
		s.floor = s.now
	}
	s.heard = s.now

	r := s.cur
	switch {
	case r == nil:
		r = &run{id: b.Run, firstAt: s.now}
		s.cur = r
	case b.Run < r.id || s.pending != nil && b.Run != r.id && b.Run < s.pending.id:
		s.n.Old++
		return
	case b.Run > r.id && (s.pending == nil || b.Run > s.pending.id):
		s.pending = &run{id: b.Run, firstAt: s.now}
		s.ready = false
		r = s.pending
	case b.Run > r.id:
		r = s.pending
	}
	b.arrived = s.now
	r.heard = s.now
	if b.Created.After(s.n.Created) {
		s.n.Created = b.Created
	}
	r.delay.add(s.now, s.now-s.at(b.Created))
	s.insert(r, b)
}

func (s *Sequencer) insert(r *run, b *Block) {
	if r.started && b.Number < r.next || r.ended {
		s.n.Late++
		return
	}
	r.marked = r.marked || b.SinceRAP != block.NoRAP
	if start, ok := block.Start(b.Number, b.SinceRAP, b.Duration); ok && !r.started && !r.aimed {
		r.aimed = true
		r.target = start
		for len(r.held) > 0 && r.held[0].Number < r.target {
			r.drop()
		}
	}
	if !r.started && r.aimed && b.Number < r.target {
		s.n.Late++
		return
	}
	i, found := slices.BinarySearchFunc(r.held, b.Number, func(h *Block, n block.Number) int {
		return int(int64(h.Number) - int64(n))
	})
	if found {
		s.n.Repeated++
		return
	}
	r.held = slices.Insert(r.held, i, b)
	r.bytes += b.Size()
	// A run that is played gives up its gap instead, and one that can be
	// played is changed to, both in Next.
	for !r.started && s.full(r) && len(r.held) > 1 {
		if i, _, _ := s.start(r); i == 0 {
			break
		}
		r.drop()
	}
}

func (s *Sequencer) full(r *run) bool { return r.bytes > s.maxBytes || len(r.held) > maxBlocks }

// drop forgets the first block held.
func (r *run) drop() {
	r.bytes -= r.held[0].Size()
	r.held[0] = nil
	r.held = r.held[1:]
}

// start finds the block to begin r with. It returns the index in r.held, −1
// if there is none yet, and when that may change without another block.
func (s *Sequencer) start(r *run) (i int, blind bool, again time.Duration) {
	if len(r.held) == 0 {
		return -1, false, never
	}
	if r.aimed && r.held[0].Number == r.target && r.held[0].RandomAccess() {
		return 0, false, 0
	}
	again = never
	if j := slices.IndexFunc(r.held, (*Block).RandomAccess); j >= 0 && r.aimed && r.held[0].Number == r.target && r.held[j].Number == r.target+block.Number(j) {
		return j, false, 0 // nothing is missing between the aim and this first one
	}
	if j := slices.IndexFunc(r.held, (*Block).RandomAccess); j >= 0 {
		again = r.firstAt + s.latency
		if s.now >= again || s.flushing {
			return j, false, 0
		}
	}
	wait := blindWait
	if r.marked {
		wait = blindWaitGOP
	}
	if b := r.firstAt + max(wait, s.latency); b < again {
		again = b
	}
	if s.now >= again || s.flushing {
		return 0, true, 0
	}
	return -1, false, again
}

// gapDeadline is when the gap before the first block held is given up.
func (s *Sequencer) gapDeadline(r *run) time.Duration {
	b := r.held[0]
	d := max(s.at(b.Created)+r.delay.least(), s.floor) + s.latency
	return max(d, b.arrived+min(s.latency, gapGrace))
}

// Next gives the unit whose turn it is at now, or false if there is none yet.
func (s *Sequencer) Next(now time.Time) (Unit, bool) {
	s.tick(now)
	for {
		r := s.cur
		if r == nil {
			return Unit{}, false
		}
		if !r.started {
			if s.pending != nil {
				s.change()
				continue
			}
			i, blind, _ := s.start(r)
			if i < 0 {
				return Unit{}, false
			}
			for range i {
				r.drop()
			}
			u := Unit{Block: r.held[0], Entry: Starts, Blind: blind}
			if s.began {
				u.Entry = NewRun
			}
			r.started, s.began = true, true
			s.n.Runs++
			return s.give(r, u), true
		}
		if len(r.held) > 0 && r.held[0].Number == r.next {
			return s.give(r, Unit{Block: r.held[0]}), true
		}
		if len(r.held) > 0 && (s.flushing || s.full(r) || s.switching() || s.now >= s.gapDeadline(r)) {
			return s.give(r, Unit{Block: r.held[0], Gap: GapBetween(r.last, r.held[0])}), true
		}
		if len(r.held) == 0 && s.pending != nil && (s.flushing || s.switching()) {
			s.change()
			continue
		}
		return Unit{}, false
	}
}

// give hands out the first block held.
func (s *Sequencer) give(r *run, u Unit) Unit {
	b := u.Block
	r.drop()
	r.last = b
	r.next = b.Number + 1
	s.n.Blocks++
	s.n.Bytes += uint64(len(b.Packets))
	if u.Gap.Blocks > 0 {
		s.n.Gaps++
		s.n.Lost.Blocks += u.Gap.Blocks
		s.n.Lost.Packets += u.Gap.Packets
		s.n.Lost.Duration += u.Gap.Duration
	}
	if b.End {
		r.ended = true
		r.held, r.bytes = nil, 0
	}
	return u
}

// switching reports whether the pending run's turn has come: it can be played,
// and the current one is over or does not go on.
func (s *Sequencer) switching() bool {
	if s.pending == nil {
		return false
	}
	if i, _, _ := s.start(s.pending); i < 0 {
		s.ready = false
		return false
	}
	if !s.ready {
		s.ready, s.readyAt = true, s.now
	}
	return s.now >= s.switchAt() || s.full(s.pending)
}

func (s *Sequencer) switchAt() time.Duration {
	if s.cur.ended {
		return s.readyAt
	}
	return max(s.readyAt, min(s.cur.heard, s.readyAt)+runWait)
}

func (s *Sequencer) change() {
	s.cur, s.pending, s.ready = s.pending, nil, false
}

// Deadline is when Next may give something even if no block comes; false if
// that will not be.
func (s *Sequencer) Deadline() (time.Time, bool) {
	r := s.cur
	if r == nil {
		return time.Time{}, false
	}
	d := never
	switch {
	case !r.started:
		_, _, d = s.start(r)
	default:
		if len(r.held) > 0 {
			d = s.gapDeadline(r)
		}
		if s.pending != nil {
			i, _, p := s.start(s.pending)
			if i >= 0 {
				p = s.switchAt()
			}
			d = min(d, p)
		}
	}
	if d == never {
		return time.Time{}, false
	}
	return s.base.Add(d), true
}

// Flush makes Next give everything that is held, without waiting for gaps. It
// is the end: call it when nothing more will be put.
func (s *Sequencer) Flush() { s.flushing = true }

// Counters as they are now.
func (s *Sequencer) Counters() Counters {
	n := s.n
	for _, r := range []*run{s.cur, s.pending} {
		if r != nil {
			n.Held += len(r.held)
			n.HeldBytes += r.bytes
		}
	}
	if s.cur != nil {
		n.Run, n.Next, n.Started, n.Ended = s.cur.id, s.cur.next, s.cur.started, s.cur.ended
		n.LeastDelay = s.cur.delay.least()
	}
	return n
}

// leastDelay is the least of the samples of the last one to two windows.
type leastDelay struct {
	since      time.Duration
	cur, prev  time.Duration
	some, both bool
}

func (l *leastDelay) add(now, d time.Duration) {
	switch {
	case !l.some:
		l.since, l.cur, l.some = now, d, true
	case now-l.since > delayWindow:
		l.prev, l.both = l.cur, true
		l.since, l.cur = now, d
	default:
		l.cur = min(l.cur, d)
	}
}

func (l *leastDelay) least() time.Duration {
	if l.both {
		return min(l.cur, l.prev)
	}
	return l.cur
}
