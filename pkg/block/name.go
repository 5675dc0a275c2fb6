// Package block cuts a transport stream into blocks, signs them, and puts them
// together again (docs/protocol.md sections 2 and 3).
//
// A block is 1 to 400 ms of the stream. Its payload is split into D·j data
// shards, to which (16−D)·j Reed-Solomon parity shards are added; shard i lies
// in stripe i mod 16, and any D stripes are the block. One signed manifest
// datagram lists the truncated hashes of all shards, so that every shard is
// verified alone, whoever sent it:
//
//	         stripe 0      …  D−1        D        …  15
//	row 0    data 0        …  data D−1   parity 0 …  parity 15−D
//	row 1    data D        …             parity 16−D …
//	…
//	row j−1                …  data Dj−1           …  parity (16−D)j−1
//
// The source's side is a Cutter, which decides where blocks begin, and an
// Encoder, which writes the block stream that relay reads from a pipe. The
// receiver's side is a Reader of that stream, and a Block for each block that
// is being put together. Nothing here starts a goroutine or reads a clock, and
// nothing is safe for concurrent use unless its comment says so.
package block

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/sixcast/sixcast/pkg/ts"
)

// The constants of docs/protocol.md, in bytes where they are lengths.
const (
	// Stripes of a block: a stripe mask is a uint16.
	Stripes = 16
	// MaxRows is the greatest j: 16·4 = 64 shards, so that a shard mask is a uint64.
	MaxRows = 4
	// MaxShards of a block.
	MaxShards = Stripes * MaxRows
	// MaxShard is the longest shard without its header: with link tag and
	// header it makes 1228 bytes.
	MaxShard = 1200
	// MinData and MaxData bound D, the number of stripes that hold data.
	MinData = 4
	MaxData = Stripes - 1
	// DefaultData is the D that a source uses unless told otherwise.
	DefaultData = 12
	// HashSize is the length of a shard hash: SHA-256, truncated.
	HashSize = 16
	// ShardHeader comes before the shard bytes of a shard datagram.
	ShardHeader = 20
	// MaxDatagram is the longest UDP payload that fits any IPv6 path:
	// 1280 (minimum MTU) − 40 (IPv6) − 8 (UDP).
	MaxDatagram = 1232
	// MaxPayload of any block; a block of D and j holds up to D·j·MaxShard.
	MaxPayload = MaxData * MaxRows * MaxShard
	packetSize = ts.PacketSize
	// MaxPreamble is the longest preamble: 24 packets.
	MaxPreamble = 24 * packetSize
)

// The first byte of a bare datagram (docs/protocol.md section 4).
const (
	TypeShard      = 0x10
	TypeManifest   = 0x11
	TypeBeacon     = 0x12 // multicast groups only, see pkg/wire
	TypeDescriptor = 0x13
)

// version is that of manifest and descriptor datagrams.
const version = 1

// Kind says what a block carries. Kinds that a receiver does not know are skipped.
type Kind uint8

// Media is the transport stream.
const Media Kind = 0

// Run is one run of a source: UTC milliseconds since 1970 at its start, shifted
// left by 16, and 16 random bits. A greater run is newer. Zero is no run.
type Run uint64

// NewRun is the run that starts at t.
func NewRun(t time.Time, random uint16) Run {
	return Run(uint64(t.UnixMilli())<<16 | uint64(random))
}

// Time is when the run started by the source's clock, to the millisecond.
func (r Run) Time() time.Time { return time.UnixMilli(int64(r >> 16)).UTC() }

// MaxAhead is how far past the receiver's clock a run may be dated.
const MaxAhead = 24 * time.Hour

// TooFarAhead tells whether the run is dated more than MaxAhead after now, the
// receiver's clock: its manifests are refused (docs/protocol.md section 2.2).
func (r Run) TooFarAhead(now time.Time) bool { return r.Time().Sub(now) > MaxAhead }

// String is the run in hexadecimal, 16 digits.
func (r Run) String() string { return fmt.Sprintf("%016x", uint64(r)) }

// Number counts the blocks of a run from 0.
type Number uint32

// MaxNumber is the last number a run may have; the two after it mean other
// things in SUBSCRIBE and STATE.
const MaxNumber Number = 0xfffffffd

// Name names a block. It is comparable.
type Name struct {
	Kind   Kind
	Run    Run
	Number Number
}

// Compare orders names by kind, run and number: −1, 0 or 1.
func (n Name) Compare(o Name) int {
	return cmp.Or(cmp.Compare(n.Kind, o.Kind), cmp.Compare(n.Run, o.Run), cmp.Compare(n.Number, o.Number))
}

// String is run/number, with the kind in front where it is not Media.
func (n Name) String() string {
	if n.Kind != Media {
		return fmt.Sprintf("%d:%016x/%d", n.Kind, uint64(n.Run), n.Number)
	}
	return fmt.Sprintf("%016x/%d", uint64(n.Run), n.Number)
}

// The errors of this package. Decoders return one of the first three, wrapped
// with what was wrong; the rest is returned bare, since Add is on the hot path.
var (
	// ErrShort is a datagram that ends before its time, or is longer than its fields say.
	ErrShort = errors.New("block: datagram of the wrong length")
	// ErrType is a datagram that is something else, or of a version, encoding or matrix that this package does not know.
	ErrType = errors.New("block: unknown type or version")
	// ErrInvalid is a datagram whose fields contradict each other.
	ErrInvalid = errors.New("block: fields disagree")

	// ErrHash is a shard that is not what the manifest says.
	ErrHash = errors.New("block: shard fails its hash")
	// ErrHave is a shard that the block has already.
	ErrHave = errors.New("block: shard is there already")
	// ErrIndex is a shard index that the block has not.
	ErrIndex = errors.New("block: no such shard")
	// ErrLength is a shard of another length than the manifest says.
	ErrLength = errors.New("block: shard has the wrong length")
	// ErrTooFew is a block that cannot be decoded yet.
	ErrTooFew = errors.New("block: too few shards")
	// ErrForged is a block whose source signed hashes that are no code word:
	// what was made from its shards fails the manifest's hashes. Nothing is let out of it.
	ErrForged = errors.New("block: signed hashes contradict each other; the source is broken or dishonest")
	// ErrEnded is returned by an Encoder whose run has ended.
	ErrEnded = errors.New("block: the run has ended; start a new one")
)
