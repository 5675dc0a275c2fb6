package link

import "math"

// replayWindow is how far behind the newest counter a datagram may be and
// still be told from a replay (docs/protocol.md section 5).
const replayWindow = 1024

// replays remembers which of the last replayWindow counters came.
type replays struct {
	next uint64 // one more than the greatest counter that came
	seen [replayWindow / 64]uint64
}

// fresh reports whether n has neither come nor fallen out of the window.
func (r *replays) fresh(n uint32) bool {
	c := uint64(n)
	if c >= r.next {
		return true
	}
	if r.next-c > replayWindow {
		return false
	}
	return r.seen[c%replayWindow/64]&(1<<(c%64)) == 0
}

// mark notes that n came, and returns how many more are missing now than
// before: those that n overtook, or -1 if n itself had been missing. Only what
// has been authenticated is marked.
func (r *replays) mark(n uint32) (missing int) {
	c := uint64(n)
	missing = -1
	if c >= r.next {
		missing = int(min(c-r.next, math.MaxInt32))
		if c-r.next >= replayWindow {
			clear(r.seen[:])
		} else {
			for i := r.next; i < c; i++ {
				r.seen[i%replayWindow/64] &^= 1 << (i % 64)
			}
		}
		r.next = c + 1
	}
	r.seen[c%replayWindow/64] |= 1 << (c % 64)
	return missing
}

// lossGap is how many datagrams in a row may be missing for it to be loss:
// more is an outage.
const lossGap = 64

// way counts the sealed datagrams that were sent to us on a link, as their
// counters say, and those of them that came.
type way struct{ due, came, open int }

// count notes one that came, and how many more are missing than before.
func (w *way) count(missing int) {
	switch {
	case missing >= lossGap:
	case missing >= 0:
		w.due += missing + 1
		w.open += missing
		w.came++
	case w.open > 0: // it was counted as missing
		w.open--
		w.came++
	}
}

// Sealed returns how many sealed datagrams were sent to us on this link since
// it was called before, as their counters say, and how many of them came: what
// the path loses, whatever the peer had to leave out. It is the peer's word:
// most bounds what it counts for.
func (l *Link) Sealed(most int) (due, came float64) {
	w := &l.way
	due, came = float64(w.due), float64(w.came)
	if w.due > most {
		due, came = float64(most), came*float64(most)/due
	}
	w.due, w.came = 0, 0
	return due, came
}
