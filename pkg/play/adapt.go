package play

import "github.com/sixcast/sixcast/pkg/block"

// FromBlock copies what is needed of a decoded block (its data shards are
// there), so that b may be reused as soon as FromBlock returns.
func FromBlock(b *block.Block) *Block {
	m := b.Manifest()
	buf := make([]byte, 0, m.Payload)
	buf = b.AppendPreamble(buf)
	preamble := len(buf)
	buf = b.AppendPackets(buf)
	return &Block{
		Run:         m.Run,
		Number:      m.Number,
		SinceRAP:    m.SinceRAP,
		End:         m.Flags&block.End != 0,
		Created:     m.Created,
		Duration:    m.Duration,
		FirstPacket: m.Packets,
		Preamble:    buf[:preamble:preamble],
		Packets:     buf[preamble:],
	}
}
