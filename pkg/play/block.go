package play

import (
	"slices"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/ts"
)

// Block is a decoded block: the facts of its manifest that matter here, and
// its payload. It is immutable once given to a Sequencer or Stream.
type Block struct {
	Run         block.Run
	Number      block.Number
	SinceRAP    uint32 // blocks since the last random access point; 0: this block starts at one; block.NoRAP: none so far
	End         bool   // the last block of the run
	Created     time.Time
	Duration    time.Duration
	FirstPacket uint64 // packets of the run before this block's first
	Preamble    []byte // PAT and PMT packets; empty unless SinceRAP is 0
	Packets     []byte // whole 188-byte packets

	arrived time.Duration // on the Sequencer's clock
}

// RandomAccess reports whether a player can begin at this block.
func (b *Block) RandomAccess() bool { return b.SinceRAP == 0 }

// Size is the number of payload bytes held.
func (b *Block) Size() int { return len(b.Preamble) + len(b.Packets) }

// packets is the number of transport stream packets, the preamble not counted.
func (b *Block) packets() uint64 { return uint64(len(b.Packets) / ts.PacketSize) }

// Gap is what is missing between two blocks of one run.
type Gap struct {
	Blocks   uint64
	Packets  uint64        // by the manifests' packet counters
	Duration time.Duration // of stream time, by the manifests' times of creation
}

// GapBetween tells what is missing between two blocks of one run that are
// written one after the other. It is zero when b goes on from a, and for
// blocks of different runs.
func GapBetween(a, b *Block) Gap {
	if a.Run != b.Run || b.Number <= a.Number+1 {
		return Gap{}
	}
	g := Gap{Blocks: uint64(b.Number - a.Number - 1)}
	if next := a.FirstPacket + a.packets(); b.FirstPacket > next {
		g.Packets = b.FirstPacket - next
	}
	if d := b.Created.Add(-b.Duration).Sub(a.Created); d > 0 {
		g.Duration = d
	}
	return g
}

// Entry tells how a Unit joins what was written before it.
type Entry uint8

const (
	// Continues: goes on from the block before, or after a Gap; nothing is
	// written in front of it.
	Continues Entry = iota
	// Starts: the first block written; its preamble goes before it.
	Starts
	// NewRun: the first block of a newer run; discontinuity packets and the preamble go before it.
	NewRun
	// Rejoins: this reader was too slow and missed what went before; written as NewRun is.
	Rejoins
)

// Unit is one block in its turn, and how it joins what was written before.
type Unit struct {
	Block *Block
	Entry Entry
	Gap   Gap // missing before it; zero unless Entry is Continues

	// Blind is set on the first unit where no random access point came in
	// time, so that a player has to find its own way in.
	Blind bool
}

// Append appends the unit as it is written: discontinuity packets and preamble
// where Entry asks for them, and the packets of its block.
func (u Unit) Append(dst []byte) []byte {
	b := u.Block
	if u.Entry == Continues {
		return append(dst, b.Packets...)
	}
	if u.Entry != Starts {
		following := slices.Concat(b.Preamble, b.Packets)
		dst = ts.AppendDiscontinuity(dst, following, ts.PIDsOfPreamble(b.Preamble)...)
	}
	return append(append(dst, b.Preamble...), b.Packets...)
}
