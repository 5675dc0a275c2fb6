//go:build linux

package acceptance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
)

// A piece is one block of the truth.
type piece struct {
	block.Manifest
	preamble, packets []byte
}

// truth is what a source put on air: the blocks of one block stream or several, in order. It grows while it is read.
type truth struct {
	id channel.ID

	mu     sync.Mutex
	pieces []piece
	err    error
	done   chan struct{}
}

// readTruth reads a block stream, checking it as a receiver does, until it ends.
func readTruth(id channel.ID, r io.Reader) *truth {
	tr := &truth{id: id, done: make(chan struct{})}
	go func() {
		defer close(tr.done)
		err := tr.read(r)
		io.Copy(io.Discard, r) // never hold up the pipe
		tr.mu.Lock()
		tr.err = err
		tr.mu.Unlock()
	}()
	return tr
}

func (tr *truth) read(r io.Reader) error {
	in := block.NewReader(r)
	var b *block.Block
	for {
		rec, err := in.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
			if in.Skipped() > 0 {
				return fmt.Errorf("the block stream has %d bytes that are no record", in.Skipped())
			}
			return nil
		}
		if err != nil {
			return err
		}
		switch rec[0] {
		case block.TypeManifest:
			m, err := block.DecodeManifest(rec)
			if err != nil {
				return err
			}
			if !m.Verify(tr.id) {
				return fmt.Errorf("block %d: bad signature", m.Number)
			}
			b = new(block.Block)
			if err := b.Reset(rec); err != nil {
				return err
			}
		case block.TypeShard:
			s, err := block.DecodeShard(rec)
			if err != nil {
				return err
			}
			if err := b.Add(s.Index, 0, s.Payload); err != nil {
				return fmt.Errorf("block %d, shard %d: %w", s.Name.Number, s.Index, err)
			}
		default:
			continue
		}
		if b.Complete() && (b.Manifest().Rows == 0 || rec[0] == block.TypeShard && b.Have() == b.Manifest().DataMask()) {
			tr.mu.Lock()
			tr.pieces = append(tr.pieces, piece{*b.Manifest(), b.AppendPreamble(nil), b.AppendPackets(nil)})
			tr.mu.Unlock()
		}
	}
}

// all waits for the end of the block stream and returns its blocks.
func (tr *truth) all(t testing.TB) []piece {
	t.Helper()
	select {
	case <-tr.done:
	case <-time.After(10 * time.Second):
		t.Error("the block stream does not end")
	}
	p, err := tr.now()
	if err != nil {
		t.Errorf("the block stream of ingest: %v", err)
	}
	return p
}

// now returns the blocks so far.
func (tr *truth) now() ([]piece, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.pieces, tr.err
}

// payload is every packet of the blocks, as ingest accepted them.
func payload(pieces []piece) (b []byte) {
	for _, p := range pieces {
		b = append(b, p.packets...)
	}
	return b
}

// firstRAP is the index of the first block that starts at a random access point.
func firstRAP(t testing.TB, pieces []piece) int {
	t.Helper()
	for i, p := range pieces {
		if p.Flags&block.RAP != 0 {
			return i
		}
	}
	t.Fatalf("no random access point in %d blocks", len(pieces))
	return 0
}

// played is how an output relates to the truth.
type played struct {
	first, last     int   // blocks
	missing         []int // between them
	preambles       int   // written, one at the start
	discontinuities int   // packets that watch put in
}

// match holds an output against the truth: it must be whole blocks in order, a preamble before the first and wherever it begins
// anew. A last block may be cut short only where cut is allowed.
func match(pieces []piece, out []byte, cut bool) (played, error) {
	var p played
	next, pos := 0, 0
	fresh := true // the output begins here, or anew
	for pos < len(out) {
		if inserted(out[pos:]) && !fits(pieces, next, out[pos:]) {
			p.discontinuities++
			pos += packet
			fresh = true
			continue
		}
		found := -1
		for i := next; i < len(pieces); i++ {
			rest := out[pos:]
			if fresh {
				if len(pieces[i].preamble) == 0 || !bytes.HasPrefix(rest, pieces[i].preamble) {
					continue
				}
				rest = rest[len(pieces[i].preamble):]
			}
			if len(pieces[i].packets) > 0 && (bytes.HasPrefix(rest, pieces[i].packets) || cut && i >= next && bytes.HasPrefix(pieces[i].packets, rest)) {
				found = i
				break
			}
		}
		if found < 0 {
			return p, fmt.Errorf("packet %d of the output (byte %d of %d) is not what was on air after block %d: %s", pos/packet, pos, len(out), next-1, describe(out[pos:]))
		}
		if fresh {
			pos += len(pieces[found].preamble)
			p.preambles++
		}
		if p.preambles == 1 && p.last == 0 && pos <= len(pieces[found].preamble) {
			p.first = found
		} else {
			// A new run begins at its first random access point: what comes before is not missing.
			begun := pieces[found].Run == pieces[p.last].Run
			for i := next; i < found; i++ {
				old := pieces[i].Run == pieces[p.last].Run
				begun = begun || pieces[i].Flags&block.RAP != 0
				if len(pieces[i].packets) > 0 && (old || begun) {
					p.missing = append(p.missing, i)
				}
			}
		}
		pos += len(pieces[found].packets)
		p.last, next, fresh = found, found+1, false
	}
	return p, nil
}

// inserted tells whether b starts with a packet such as watch puts in where the stream does not go on: nothing but an
// adaptation field with discontinuity_indicator.
func inserted(b []byte) bool {
	return len(b) >= packet && b[0] == 0x47 && b[3]&0x30 == 0x20 && b[4] == packet-5 && b[5] == 0x80
}

// fits tells whether out goes on with a block from next on: then it is no packet that was put in.
func fits(pieces []piece, next int, out []byte) bool {
	return next < len(pieces) && len(pieces[next].packets) > 0 && bytes.HasPrefix(out, pieces[next].packets)
}

func describe(b []byte) string {
	if len(b) < packet {
		return fmt.Sprintf("%d bytes, less than a packet", len(b))
	}
	return fmt.Sprintf("% x…", b[:16])
}

// exact fails unless the output is every byte on air from a random access point on, to the last: from the first one, or one
// that came at most late after it.
func exact(t testing.TB, who string, pieces []piece, out []byte, late time.Duration) {
	t.Helper()
	first := firstRAP(t, pieces)
	for i := first; i < len(pieces) && pieces[i].Created.Sub(pieces[first].Created) <= late; i++ {
		if pieces[i].Flags&block.RAP == 0 {
			continue
		}
		want := append(bytes.Clone(pieces[i].preamble), payload(pieces[i:])...)
		if bytes.Equal(out, want) {
			if i > first {
				t.Logf("%s began %v after the first random access point", who, pieces[i].Created.Sub(pieces[first].Created).Round(time.Millisecond))
			}
			return
		}
	}
	p, err := match(pieces, out, false)
	if err != nil {
		t.Errorf("%s: %v", who, err)
		return
	}
	t.Errorf("%s is not exact: %d packets, blocks %d to %d of %d to %d, without %v; %d preambles",
		who, len(out)/packet, p.first, p.last, first, len(pieces)-1, p.missing, p.preambles)
}
