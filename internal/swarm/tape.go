package swarm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sixcast/sixcast/internal/testcard"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/ts"
)

const (
	// groupPackets are written together, as a UDP source would bring them.
	groupPackets = 7
	// rapEvery is the time from one random access point to the next.
	rapEvery = 2 * time.Second
)

// A tape is what was put on air: every packet, when it was there to be read, and which packets ingest made a block of.
type tape struct {
	rate  ts.BitRate
	begun time.Time

	// Written by the camera only, up to groups: what is published does not change and needs no lock.
	packets []byte
	sent    []time.Duration // of each group, after begun
	groups  atomic.Uint64

	mu     sync.Mutex
	blocks []Block
	err    error
}

// A Block is what ingest made of some packets.
type Block struct {
	Number   block.Number
	Created  time.Duration // when it was cut, on the tape's clock
	Duration time.Duration // of the stream in it
	First    uint64        // packet
	Packets  int
	RAP      bool
}

func newTape(rate ts.BitRate, longest time.Duration) *tape {
	groups := int(longest/testcard.Due(rate, groupPackets)) + 1
	return &tape{rate: rate, begun: time.Now(), packets: make([]byte, groups*groupPackets*ts.PacketSize), sent: make([]time.Duration, groups)}
}

// now is the time on the tape's clock.
func (t *tape) now() time.Duration { return time.Since(t.begun) }

// film writes the stream to w at its own pace until ctx or the tape ends.
func (t *tape) film(ctx context.Context, w io.Writer) error {
	card := testcard.New(t.rate, rapEvery)
	const size = groupPackets * ts.PacketSize
	start := t.now()
	tick := time.NewTimer(0)
	defer tick.Stop()
	for k := range t.sent {
		due := start + testcard.Due(t.rate, card.Number()+groupPackets) // a packet is there when its last bit is
		card.Append(t.packets[k*size:k*size], groupPackets)
		if wait := due - t.now(); wait > 0 {
			tick.Reset(wait)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
		} else if ctx.Err() != nil {
			return nil
		}
		t.sent[k] = t.now()
		t.groups.Store(uint64(k + 1))
		if _, err := w.Write(t.packets[k*size : (k+1)*size]); err != nil {
			return fmt.Errorf("the pipe to ingest: %w", err)
		}
	}
	return errors.New("the tape is full: make Config.Longest longer")
}

// packet returns a packet that has been put on air.
func (t *tape) packet(n uint64) ([]byte, bool) {
	if n >= t.groups.Load()*groupPackets {
		return nil, false
	}
	return t.packets[n*ts.PacketSize : (n+1)*ts.PacketSize], true
}

// sentAt is when a packet was written to ingest.
func (t *tape) sentAt(n uint64) time.Duration { return t.sent[n/groupPackets] }

// pass takes the block stream from ingest to relay and notes the blocks, each before relay has all of it.
func (t *tape) pass(from io.Reader, to io.Writer) error {
	r := block.NewReader(from)
	var out []byte
	var last block.Manifest
	for {
		datagram, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the block stream: %w", err)
		}
		switch datagram[0] {
		case block.TypeManifest:
			m, err := block.DecodeManifest(datagram)
			if err != nil {
				return fmt.Errorf("the block stream: %w", err)
			}
			last = m
			t.mu.Lock()
			if want := uint64(0); len(t.blocks) > 0 {
				b := t.blocks[len(t.blocks)-1]
				if want = b.First + uint64(b.Packets); m.Packets != want || m.Number != b.Number+1 {
					t.err = errors.Join(t.err, fmt.Errorf("block %d begins at packet %d, want block %d at %d", m.Number, m.Packets, b.Number+1, want))
				}
			}
			t.blocks = append(t.blocks, Block{m.Number, m.Created.Sub(t.begun), m.Duration, m.Packets, m.PacketCount(), m.Flags&block.RAP != 0})
			t.mu.Unlock()
		case block.TypeShard:
			s, err := block.DecodeShard(datagram)
			if err != nil {
				return fmt.Errorf("the block stream: %w", err)
			}
			if s.Index == 0 && s.Name == last.Name {
				t.check(last, s.Payload)
			}
		}
		out = block.AppendRecord(out, datagram)
		if r.Buffered() == 0 || len(out) > 1<<16 {
			if _, err := to.Write(out); err != nil {
				return fmt.Errorf("the pipe to relay: %w", err)
			}
			out = out[:0]
		}
	}
}

// check holds the beginning of a block against the packets it should hold.
func (t *tape) check(m block.Manifest, shard []byte) {
	if len(shard) < m.Preamble+ts.PacketSize {
		return
	}
	want, ok := t.packet(m.Packets)
	if !ok || !bytes.Equal(want, shard[m.Preamble:m.Preamble+ts.PacketSize]) {
		t.mu.Lock()
		t.err = errors.Join(t.err, fmt.Errorf("ingest's block %d does not begin with packet %d of its input", m.Number, m.Packets))
		t.mu.Unlock()
	}
}

// block returns block i of the tape, counted from 0 as ingest does.
func (t *tape) block(i int) (Block, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i >= len(t.blocks) {
		return Block{}, false
	}
	return t.blocks[i], true
}

// cut returns the blocks that were created from one time on and before another.
func (t *tape) cut(from, to time.Duration) (blocks []Block) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range t.blocks {
		if b.Created >= from && b.Created < to {
			blocks = append(blocks, b)
		}
	}
	return blocks
}

// failed returns what is wrong with the source itself.
func (t *tape) failed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}
