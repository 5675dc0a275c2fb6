package block

import (
	"encoding/binary"
	"fmt"
)

// Regenerated is the bit in a shard's flags of one that was made from others.
const Regenerated = 1

// Shard is a decoded shard datagram (docs/protocol.md section 2.1).
type Shard struct {
	Name        Name
	Tag         uint32 // channel tag
	Index       int    // 0 … 63: row Index/16, stripe Index%16
	Regenerated bool   // made by a relay from other shards
	Payload     []byte // the shard bytes, 1 … MaxShard, aliased
}

// Flags is the flags byte of the shard, as Block.Add takes it.
func (s Shard) Flags() byte {
	if s.Regenerated {
		return Regenerated
	}
	return 0
}

// DecodeShard reads a shard datagram, link tag taken off. The result aliases b.
// Whether index and length suit the block, and the hash, is for Block.Add to
// say. Errors wrap ErrShort, ErrType or ErrInvalid.
func DecodeShard(b []byte) (Shard, error) {
	if len(b) <= ShardHeader || len(b) > ShardHeader+MaxShard {
		return Shard{}, errShardLength
	}
	if b[0] != TypeShard {
		return Shard{}, errShardType
	}
	if b[1] >= MaxShards {
		return Shard{}, errShardIndex
	}
	be := binary.BigEndian
	return Shard{
		Name:        Name{Kind(b[2]), Run(be.Uint64(b[8:])), Number(be.Uint32(b[16:]))},
		Tag:         be.Uint32(b[4:]),
		Index:       int(b[1]),
		Regenerated: b[3]&Regenerated != 0,
		Payload:     b[ShardHeader:],
	}, nil
}

// Made once: DecodeShard must not allocate, whatever a neighbour sends.
var (
	errShardLength = fmt.Errorf("%w: a shard has %d to %d bytes", ErrShort, ShardHeader+1, ShardHeader+MaxShard)
	errShardType   = fmt.Errorf("%w: not a shard", ErrType)
	errShardIndex  = fmt.Errorf("%w: shard index above 63", ErrInvalid)
)

// AppendShard appends a shard datagram.
func AppendShard(dst []byte, s *Shard) []byte {
	var h [ShardHeader]byte
	putShardHeader(h[:], s.Name, s.Tag, s.Index, s.Flags())
	return append(append(dst, h[:]...), s.Payload...)
}

func putShardHeader(b []byte, n Name, tag uint32, index int, flags byte) {
	_ = b[ShardHeader-1]
	be := binary.BigEndian
	b[0], b[1], b[2], b[3] = TypeShard, byte(index), byte(n.Kind), flags
	be.PutUint32(b[4:], tag)
	be.PutUint64(b[8:], uint64(n.Run))
	be.PutUint32(b[16:], uint32(n.Number))
}
