package link

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
		missing = int(c - r.next)
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
