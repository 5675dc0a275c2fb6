package swarm

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/sixcast/sixcast/internal/testcard"
	"github.com/sixcast/sixcast/pkg/ts"
)

// A judge reads what a viewer writes and holds every byte against the tape. A viewer may begin anywhere, and may leave out
// whole blocks; everything else is wrong: a packet that was not on air, one out of order, a part of a block.
type judge struct {
	tape *tape

	mu       sync.Mutex
	rest     []byte          // of a packet that has not come whole
	next     uint64          // the packet that comes next, where the output goes on
	fresh    bool            // it begins here, or anew
	pending  []byte          // tables since then: a preamble, or the beginning of a block
	from     uint64          // the first packet of those in a row
	at       int             // index of the block that next is in
	first    time.Duration   // when the first picture could be decoded; 0: not yet
	headless bool            // the output does not begin with PAT, PMT and a random access point
	written  []time.Duration // by number: when the block's last packet came; 0: never
	bytes    uint64
	wrong    []string // what was wrong, the first few
	errors   int
}

func newJudge(t *tape) *judge { return &judge{tape: t, fresh: true} }

const maxWrong = 4

// read takes a piece of the output that came at a time of the tape's clock.
func (j *judge) read(b []byte, at time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.bytes += uint64(len(b))
	if len(j.rest) > 0 {
		n := min(ts.PacketSize-len(j.rest), len(b))
		j.rest = append(j.rest, b[:n]...)
		b = b[n:]
		if len(j.rest) == ts.PacketSize {
			j.packet(ts.Packet(j.rest), at)
			j.rest = j.rest[:0]
		}
	}
	for ; len(b) >= ts.PacketSize; b = b[ts.PacketSize:] {
		j.packet(ts.Packet(b[:ts.PacketSize]), at)
	}
	j.rest = append(j.rest, b...)
}

func (j *judge) fail(format string, args ...any) {
	j.errors++
	if len(j.wrong) < maxWrong {
		j.wrong = append(j.wrong, fmt.Sprintf(format, args...))
	}
}

func (j *judge) packet(p ts.Packet, at time.Duration) {
	if !j.fresh {
		if want, ok := j.tape.packet(j.next); ok && bytes.Equal(p, want) {
			j.accept(j.next, at)
			return
		}
		j.fresh = true
	}
	n, numbered := testcard.NumberOf(p)
	switch {
	case inserted(p):
		if len(j.pending) > 0 {
			j.fail("a discontinuity within tables, after packet %d", j.next)
		}
		return
	case !numbered && (p.PID() == ts.PIDPAT || p.PID() == testcard.TablePID) && len(j.pending) < 8*ts.PacketSize:
		j.pending = append(j.pending, p...)
		return
	case !numbered:
		j.fail("after packet %d: a packet of PID %#x that was never on air", j.next, uint16(p.PID()))
		return
	}
	want, ok := j.tape.packet(n)
	if !ok || !bytes.Equal(p, want) {
		j.fail("after packet %d: one that says it is %d, and is not", j.next, n)
		j.pending = j.pending[:0]
		return
	}
	// The tables just before are the stream's own as far as they are what comes before this packet; the others are a preamble.
	own := uint64(0)
	for rest := j.pending; len(rest) > 0; rest = rest[:len(rest)-ts.PacketSize] {
		want, ok := j.tape.packet(n - own - 1)
		if n-own <= j.next || !ok || !bytes.Equal(rest[len(rest)-ts.PacketSize:], want) {
			for ; len(rest) > 0; rest = rest[ts.PacketSize:] {
				j.table(ts.Packet(rest[:ts.PacketSize]))
			}
			break
		}
		own++
	}
	begins := j.begin(n - own)
	switch {
	case n-own < j.next:
		j.fail("packet %d after packet %d: out of order", n-own, j.next)
	case begins > n:
		j.fail("packet %d after packet %d: within a block", n-own, j.next)
	}
	if j.first == 0 {
		j.first = max(at, 1)
		j.headless = len(j.pending) < 2*ts.PacketSize || !p.RandomAccess()
	}
	j.pending = j.pending[:0]
	j.fresh, j.from = false, n-own
	for k := n - own; k <= n; k++ {
		j.accept(k, at)
	}
}

// begin finds the block that holds packet n and returns the first packet, from n on, at which a block begins.
func (j *judge) begin(n uint64) uint64 {
	if b, ok := j.tape.block(j.at); ok && b.First > n {
		j.at = 0
	}
	for {
		b, ok := j.tape.block(j.at)
		switch {
		case !ok:
			return ^uint64(0)
		case b.First >= n:
			return b.First
		case b.First+uint64(b.Packets) > n: // the next one, but at still tells where n is
			return b.First + uint64(b.Packets)
		}
		j.at++
	}
}

// accept notes that packet n came as it should.
func (j *judge) accept(n uint64, at time.Duration) {
	j.next = n + 1
	b, ok := j.tape.block(j.at)
	for ok && b.First+uint64(b.Packets) <= n {
		j.at++
		b, ok = j.tape.block(j.at)
	}
	if !ok {
		j.fail("packet %d was written before ingest had made a block of it", n)
		return
	}
	if n == b.First+uint64(b.Packets)-1 && j.from <= b.First {
		for len(j.written) <= int(b.Number) {
			j.written = append(j.written, 0)
		}
		j.written[b.Number] = max(at, 1)
	}
}

// table holds a packet of a preamble against the tables of the stream.
func (j *judge) table(p ts.Packet) {
	for i := range uint64(2) {
		want, ok := j.tape.packet(i)
		if ok && bytes.Equal(p[:3], want[:3]) && bytes.Equal(p[4:], want[4:]) { // all but the continuity counter
			return
		}
	}
	j.fail("after packet %d: a table that was never on air", j.next)
}

// inserted tells whether p is what watch writes where the stream does not go on: an adaptation field with
// discontinuity_indicator, and nothing else.
func inserted(p ts.Packet) bool {
	return p[0] == ts.SyncByte && p[3]&0x30 == 0x20 && p[4] == ts.PacketSize-5 && p[5] == 0x80
}

// when tells when a block had been written; 0: not (yet).
func (j *judge) when(b Block) time.Duration {
	if int(b.Number) >= len(j.written) {
		return 0
	}
	return j.written[b.Number]
}
