package main

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/sixcast/sixcast/pkg/ts"
)

// maxPreamble is how many packets a viewer may be given in front of the first block (docs/protocol.md, section 2.2).
const maxPreamble = 24

// errDifferent is wrapped where what arrived is not what was sent.
var errDifferent = errors.New("what arrived differs from what was sent")

// compare finds what arrived in what was sent, byte for byte. A viewer begins at a random access point, with a preamble
// of tables (PAT and PMT) in front; after it every byte must be the one that was sent. It returns where in sent that
// part begins and how long it is, in bytes.
func compare(sent, got []byte) (start, length int, err error) {
	tables := tablesIn(sent)
	best := 0 // the longest run of equal bytes behind a preamble
	for preamble := 0; preamble <= maxPreamble && len(got) >= ts.PacketSize; preamble++ {
		for start := 0; start < len(sent); start += ts.PacketSize {
			n := equal(sent[start:], got)
			if n == len(got) {
				return start, n, nil
			}
			best = max(best, n)
		}
		if !tables[table(ts.Packet(got[:ts.PacketSize]))] {
			break // this packet is of the stream, not of the preamble
		}
		got = got[ts.PacketSize:]
	}
	if best == 0 {
		return 0, 0, fmt.Errorf("%w: nothing of it arrived", errDifferent)
	}
	return 0, 0, fmt.Errorf("%w after %s equal bytes", errDifferent, thousands(best))
}

// equal is how many bytes a and b have in common at their beginnings.
func equal(a, b []byte) (n int) {
	for n < len(a) && n < len(b) {
		end := min(n+ts.PacketSize, len(a), len(b))
		if bytes.Equal(a[n:end], b[n:end]) {
			n = end
			continue
		}
		for a[n] == b[n] {
			n++
		}
		return n
	}
	return n
}

// table is a packet of a PAT or PMT without its continuity counter, which a preamble may change.
func table(p ts.Packet) [ts.PacketSize]byte {
	t := [ts.PacketSize]byte(p)
	t[3] &= 0xf0
	return t
}

// tablesIn is the set of such packets in a stream.
func tablesIn(stream []byte) map[[ts.PacketSize]byte]bool {
	w := ts.NewWalker()
	for b := stream; len(b) >= ts.PacketSize; b = b[ts.PacketSize:] {
		w.Walk(ts.Packet(b[:ts.PacketSize]))
	}
	pids := map[ts.PID]bool{ts.PIDPAT: true}
	for _, p := range w.Programs() {
		pids[p.PMTPID] = true
	}
	set := make(map[[ts.PacketSize]byte]bool)
	for b := stream; len(b) >= ts.PacketSize; b = b[ts.PacketSize:] {
		if p := ts.Packet(b[:ts.PacketSize]); pids[p.PID()] {
			set[table(p)] = true
		}
	}
	return set
}
