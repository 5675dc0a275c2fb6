package block

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

// Fields is what the Cutter knows of a block beside its payload.
type Fields struct {
	Flags    Flags
	Created  time.Time     // when the block was cut
	Duration time.Duration // of the stream in it, at most 71 minutes
	Preamble int           // bytes at the start of the payload
}

// EncoderConfig says what an Encoder signs, and how.
type EncoderConfig struct {
	Key  channel.Key
	Run  Run
	Data int // D; zero is DefaultData
}

// Encoder makes the block stream of one run: numbers the blocks, cuts them into
// shards, adds parity, hashes, chains and signs.
type Encoder struct {
	key        channel.Key
	next       Manifest // Number, SinceRAP, Prev and Packets are those of the next block
	ended      bool
	descriptor []byte    // a record, or empty
	described  time.Time // when it was last written, by Fields.Created
	hashes     [MaxShards * HashSize]byte
}

// descriptorInterval is how often a descriptor record is repeated at the most.
const descriptorInterval = time.Second

// ErrItem is a descriptor item that does not fit a datagram.
var ErrItem = errors.New("block: channel descriptor too long")

// NewEncoder starts a run.
func NewEncoder(c EncoderConfig) (*Encoder, error) {
	if c.Data == 0 {
		c.Data = DefaultData
	}
	switch {
	case c.Key.IsZero():
		return nil, errors.New("block: an encoder needs the channel's key")
	case c.Run == 0:
		return nil, errors.New("block: an encoder needs a run: NewRun")
	case c.Data < MinData || c.Data > MaxData:
		return nil, fmt.Errorf("block: %d data stripes: must be %d to %d", c.Data, MinData, MaxData)
	}
	return &Encoder{key: c.Key, next: Manifest{
		Name:     Name{Media, c.Run, 0},
		Tag:      c.Key.ID().Tag(),
		SinceRAP: NoRAP,
		Data:     c.Data,
	}}, nil
}

// Next is the name of the next block.
func (e *Encoder) Next() Name { return e.next.Name }

// SetDescriptor sets the signed channel descriptor (copied, not checked) that
// Encode writes before the next block, and again before RAP blocks, at most
// once a second. An empty item is none. It wraps ErrItem if item is too long.
func (e *Encoder) SetDescriptor(item []byte) error {
	e.described = time.Time{}
	e.descriptor = e.descriptor[:0]
	if len(item) == 0 {
		return nil
	}
	if len(item) > channel.MaxItem {
		return fmt.Errorf("%w: %d bytes", ErrItem, len(item))
	}
	e.descriptor = AppendRecord(e.descriptor, channel.AppendDatagram(nil, item))
	return nil
}

// Encode appends the records of one block: a descriptor if one is due, the
// manifest, the data shards in payload order, the parity shards. payload, whole
// packets and preamble first, is only read. j is the least that holds it, so a
// block may be shorter than the Cutter's limit allows and has no needless
// shards. An empty payload makes a block of only a manifest. After a block with
// flag End every call returns ErrEnded.
func (e *Encoder) Encode(dst, payload []byte, f Fields) ([]byte, error) {
	if e.ended {
		return dst, ErrEnded
	}
	m := e.next
	m.Flags, m.Created, m.Duration = f.Flags, f.Created, f.Duration
	m.Payload, m.Preamble = len(payload), f.Preamble
	m.Rows = (len(payload) + m.Data*MaxShard - 1) / (m.Data * MaxShard)
	m.ShardLen = shardLen(m.Payload, m.Data, m.Rows)
	if f.Flags&RAP != 0 {
		m.SinceRAP = 0
	}
	if err := m.check(MinManifest + m.Shards()*HashSize); err != nil {
		return dst, err
	}

	if len(e.descriptor) > 0 && (e.described.IsZero() ||
		f.Flags&RAP != 0 && m.Created.Sub(e.described) >= descriptorInterval) {
		dst = append(dst, e.descriptor...)
		e.described = m.Created
	}

	manifest := MinManifest + m.Shards()*HashSize
	stride := RecordHeader + ShardHeader + m.ShardLen
	size := RecordHeader + manifest + m.Shards()*stride
	dst = slices.Grow(dst, size+lane)
	out := dst[len(dst)+RecordHeader+manifest : len(dst)+size+lane]
	w := fecPool.Get().(*fecWork)
	defer w.free()
	for i := range m.DataShards() {
		s := out[i*stride+RecordHeader+ShardHeader:][:padded(m.ShardLen)]
		n := copy(s[:m.ShardLen], payload)
		clear(s[n:m.ShardLen])
		payload = payload[n:]
		w.shards[i] = s
	}
	if m.Rows > 0 {
		codeOf(m.Data, m.Rows).encode(w, m.ShardLen)
	}
	for i := range m.Shards() {
		rec := out[i*stride : (i+1)*stride]
		s := rec[RecordHeader+ShardHeader:]
		if i >= m.DataShards() {
			copy(s, w.shards[i])
		}
		index := indexOf(m.Data, m.Rows, i)
		h := HashShard(s)
		copy(e.hashes[index*HashSize:], h[:])
		appendRecordHeader(rec[:0], ShardHeader+m.ShardLen)
		putShardHeader(rec[RecordHeader:], m.Name, m.Tag, index, 0)
	}
	dst = appendRecordHeader(dst, manifest)
	start := len(dst)
	dst = AppendManifest(dst, &m, e.hashes[:m.Shards()*HashSize], e.key)

	e.next.Prev = DigestOf(dst[start:])
	e.next.Packets += uint64(m.PacketCount())
	if m.SinceRAP != NoRAP {
		e.next.SinceRAP = m.SinceRAP + 1
	}
	e.next.Number++
	e.ended = f.Flags&End != 0 || m.Number == MaxNumber
	return dst[:len(dst)+m.Shards()*stride], nil
}
