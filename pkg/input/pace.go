package input

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/sixcast/sixcast/pkg/ts"
)

const (
	// PipeLead is how far a pipe or HTTP may run ahead of its own clock before it is held.
	PipeLead = time.Second

	// creep makes the schedule of a pipe faster than its clock, in parts of a million: crystals are off by up to 100, and a source
	// a little too fast must not back up for ever.
	creep = 500

	// lateAfter is how far a stream may fall behind its schedule before the schedule moves: what was late is then not
	// made good by a burst.
	lateAfter = 2 * time.Second

	// quantum is how long a file rests between two batches.
	quantum = 10 * time.Millisecond

	// Files are read ahead to their next PCR, so that the packets between two are spread evenly; but no further than this.
	lookFirst = 8 << 20   // bytes, for the first two PCRs
	lookAhead = 256 << 10 // bytes, or a second
	lookMost  = 64 << 20

	// maxRate is what no file is played faster than, whatever its clock says.
	maxRate ts.BitRate = 4e9
)

type paceMode uint8

const (
	paceNone  paceMode = iota // as it comes
	paceAhead                 // held where it runs ahead
	paceClock                 // by the clock
)

// A pacer lets packets go when they are due. Positions are bytes since the beginning.
type pacer struct {
	mode paceMode
	rate ts.BitRate // without a clock
	log  *slog.Logger

	// What has not gone out: buf[off:], of which buf[:seen] has been looked at for PCRs. pos is the position of buf[0].
	buf       []byte
	off, seen int
	pos       int64
	ended     bool

	clock    ts.Clock
	pid      ts.PID // whose PCRs clock follows
	found    bool
	lastPCR  int64
	base     time.Duration // stream time when the clock began
	anchor   time.Time     // when stream time 0 was due
	anchored bool

	gate time.Time // paceAhead: buf[seen:] goes out at this time

	// paceClock: buf[off:end] goes out from stream time t0 at position p0 to t1 at position p1.
	end    int
	p0, p1 int64
	t0, t1 time.Duration
	warned bool
}

func newPacer(mode paceMode, rate ts.BitRate, log *slog.Logger) pacer {
	return pacer{mode: mode, rate: rate, log: log}
}

// room is the buffer to append packets to, for put. It ends the life of what take returned.
func (p *pacer) room() []byte {
	n := copy(p.buf, p.buf[p.off:])
	p.buf = p.buf[:n]
	p.pos += int64(p.off)
	p.seen -= min(p.off, p.seen)
	p.end -= min(p.off, p.end)
	p.off = 0
	return p.buf
}

// put takes the buffer back.
func (p *pacer) put(buf []byte) { p.buf = buf }

// finish says that nothing follows.
func (p *pacer) finish() { p.ended = true }

// take returns the packets that are due, and waits for them until deadline if there are any; nil if there are none to wait for.
func (p *pacer) take(ctx context.Context, deadline time.Time) ([]byte, error) {
	switch p.mode {
	case paceAhead:
		return p.takeAhead(ctx, deadline)
	case paceClock:
		return p.takeClock(ctx, deadline)
	}
	return p.out(len(p.buf)), nil
}

func (p *pacer) out(to int) []byte {
	b := p.buf[p.off:to]
	p.off = to
	return b
}

// takeAhead returns packets up to a PCR that runs ahead.
func (p *pacer) takeAhead(ctx context.Context, deadline time.Time) ([]byte, error) {
	for p.off < len(p.buf) {
		for p.seen < len(p.buf) && p.gate.IsZero() {
			if at, ok := p.observe(p.seen); ok {
				now := time.Now()
				due := p.due(now, at-at/(1e6/creep)).Add(-PipeLead)
				if due.After(now) {
					p.gate = due
					break
				}
			}
			p.seen += ts.PacketSize
		}
		if p.seen > p.off {
			return p.out(p.seen), nil
		}
		if err := sleep(ctx, p.gate, deadline); err != nil {
			return nil, err
		}
		p.gate = time.Time{}
		p.seen += ts.PacketSize
	}
	return nil, nil
}

// due is when stream time at is due. It moves the schedule if that has long passed.
func (p *pacer) due(now time.Time, at time.Duration) time.Time {
	if due := p.anchor.Add(at); p.anchored && now.Sub(due) < lateAfter {
		return due
	}
	p.anchored, p.anchor = true, now.Add(-at)
	return now
}

// observe tells the clock of the packet at buf[i:], and returns its stream time if it has a PCR that counts.
func (p *pacer) observe(i int) (at time.Duration, ok bool) {
	pkt := ts.Packet(p.buf[i : i+ts.PacketSize])
	pcr, ok := pkt.PCR()
	if !ok || pkt.TransportError() {
		return 0, false
	}
	pos := p.pos + int64(i)
	switch pid := pkt.PID(); {
	case !p.found:
		p.found, p.pid = true, pid
		if p.t1 > 0 { // the file has been playing without
			p.base = p.t1 + p.rate.Duration(pos-p.pos-int64(p.end))
		}
	case pid == p.pid:
	case pos-p.lastPCR < max(lookAhead, int64(p.clock.Rate())/8):
		return 0, false
	default: // the one that was followed has gone
		p.base += max(0, p.clock.At(pos))
		p.clock.Reset()
		p.pid = pid
	}
	p.lastPCR = pos
	p.clock.Observe(pcr, pkt.Discontinuity(), pos)
	return p.base + p.clock.Elapsed(), true
}

// takeClock returns what is due of a file.
func (p *pacer) takeClock(ctx context.Context, deadline time.Time) ([]byte, error) {
	for {
		if p.off == p.end && !p.schedule() {
			return nil, nil
		}
		now := time.Now()
		p.due(now, p.timeAt(p.off))
		n := p.off + p.dueBytes(now.Sub(p.anchor))
		if n > p.off {
			return p.out(n), nil
		}
		rest := min(p.end-p.off, max(ts.PacketSize, p.bytesIn(quantum)))
		if err := sleep(ctx, p.anchor.Add(p.timeAt(p.off+rest)), deadline); err != nil {
			return nil, err
		}
	}
}

// timeAt is the stream time of buf[i], on the line from (p0, t0) to (p1, t1).
func (p *pacer) timeAt(i int) time.Duration {
	if p.p1 == p.p0 {
		return p.t1
	}
	x := float64(p.pos+int64(i)-p.p0) / float64(p.p1-p.p0)
	return p.t0 + time.Duration(x*float64(p.t1-p.t0))
}

// dueBytes is how many bytes of buf[off:end] are due at stream time t: whole packets.
func (p *pacer) dueBytes(t time.Duration) int {
	if t >= p.t1 {
		return p.end - p.off
	}
	x := float64(t-p.t0) / float64(p.t1-p.t0)
	n := int64(x*float64(p.p1-p.p0)) - (p.pos + int64(p.off) - p.p0)
	return int(max(0, n-n%ts.PacketSize))
}

func (p *pacer) bytesIn(d time.Duration) int {
	if p.t1 <= p.t0 {
		return p.end - p.off
	}
	n := int(float64(p.p1-p.p0) * float64(d) / float64(p.t1-p.t0))
	return n - n%ts.PacketSize
}

// schedule gives the packets up to the next PCR their times. It reports false if more has to be read for that.
func (p *pacer) schedule() bool {
	for ; p.seen < len(p.buf); p.seen += ts.PacketSize {
		at, ok := p.observe(p.seen)
		if !ok || p.seen == p.end {
			continue // the packets before the first PCR go out with those after it, if these ever come
		}
		if !p.clock.Running() {
			continue
		}
		p.line(p.seen, at)
		p.seen += ts.PacketSize
		return true
	}
	pending := len(p.buf) - p.end
	rate := p.clock.Rate()
	look := lookFirst
	if p.clock.Running() {
		look = min(max(lookAhead, int(rate/8)), lookMost)
	} else if p.warned {
		look = lookAhead
	}
	if pending == 0 || pending < look && !p.ended {
		return false
	}
	if rate <= 0 {
		rate = p.rate
		if !p.warned {
			p.warned = true
			p.log.Warn("the file has no clock (PCR): played at a constant rate", "rate", rate.String())
		}
	}
	p.line(len(p.buf), p.t1+rate.Duration(int64(pending)))
	return true
}

// line spreads buf[end:to] from where the last line ended to stream time at.
func (p *pacer) line(to int, at time.Duration) {
	n := int64(to - p.end)
	p.p0, p.t0 = p.pos+int64(p.end), p.t1
	p.p1, p.t1 = p.p0+n, max(at, p.t1+maxRate.Duration(n))
	p.end = to
}

// sleep waits until t. It returns os.ErrDeadlineExceeded if deadline (unless zero) comes first.
func sleep(ctx context.Context, t, deadline time.Time) error {
	late := !deadline.IsZero() && deadline.Before(t)
	if late {
		t = deadline
	}
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	if late {
		return os.ErrDeadlineExceeded
	}
	return nil
}
