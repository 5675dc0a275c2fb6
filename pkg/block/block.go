package block

import (
	"bytes"
	"crypto/sha256"
	"math/bits"
	"slices"
)

// Block is one block being put together from its shards. It is reusable by
// Reset and must not be copied once it was. The shards lie in one buffer, each
// behind its header, so that a shard goes on to other peers as it lies. A block
// made by a Vault refers to the vault's memory where that has its manifest.
type Block struct {
	man      Manifest
	datagram []byte // man aliases it
	buf      []byte // 16·j datagrams, ShardHeader + L bytes each, and a lane to read past the end
	stride   int
	have     uint64 // verified shards
	forged   bool

	vault *Vault // nil: all memory is its own
	kept  *kept  // what the vault has of this block; nil: buf
	made  uint64 // with kept: shards that are flagged regenerated here
}

// Reset makes b the empty block that the manifest datagram describes; it copies
// manifest. The signature must have been verified by the caller. What b held
// is gone, also where Reset fails. Errors are those of DecodeManifest.
func (b *Block) Reset(manifest []byte) error {
	b.have, b.forged, b.kept, b.made = 0, false, nil, 0
	m, err := DecodeManifest(manifest)
	if err != nil {
		b.man, b.buf, b.stride = Manifest{}, b.buf[:0], 0
		return err
	}
	b.stride = ShardHeader + m.ShardLen
	if b.kept = b.vault.find(&m); b.kept != nil {
		b.man = b.kept.man
		return nil
	}
	b.datagram = append(slices.Grow(b.datagram[:0], MaxManifest), manifest...)
	b.man, _ = DecodeManifest(b.datagram)
	b.buf = slices.Grow(b.buf[:0], b.bytes())[:b.bytes()]
	return nil
}

// bytes is how long the buffer of all shards is.
func (b *Block) bytes() int { return b.man.Shards()*b.stride + lane }

// Manifest of the block; it lives until Reset.
func (b *Block) Manifest() *Manifest { return &b.man }

// ManifestDatagram as it came; it lives until Reset.
func (b *Block) ManifestDatagram() []byte { return b.man.raw }

// Size is the bytes of memory that the block's buffer takes, or would if it
// were not the vault's.
func (b *Block) Size() int {
	if b.kept != nil {
		return b.bytes()
	}
	return cap(b.buf)
}

// Add verifies a shard and copies it. flags are those of the shard datagram.
// Errors are ErrIndex, ErrHave, ErrLength, ErrHash or, once a reconstruction
// has shown that the manifest is inconsistent, ErrForged; after any of them
// the block is as it was.
func (b *Block) Add(index int, flags byte, payload []byte) error {
	switch {
	case b.forged:
		return ErrForged
	case index < 0 || index >= b.man.Shards():
		return ErrIndex
	case b.have>>index&1 == 1:
		return ErrHave
	case len(payload) != b.man.ShardLen:
		return ErrLength
	case b.kept != nil:
		if !b.kept.add(index, payload) {
			return ErrHash
		}
		b.have |= 1 << index
		b.made |= uint64(flags&Regenerated) << index
		return nil
	case !b.matches(index, payload):
		return ErrHash
	}
	d := b.slot(index)
	putShardHeader(d, b.man.Name, b.man.Tag, index, flags&Regenerated)
	copy(d[ShardHeader:], payload)
	b.have |= 1 << index
	return nil
}

// Confirm compares a shard that came with the one that is held, and reports
// whether they are the same. One that was made from others is from then on as
// if it had come by itself, if flags say that this one has.
func (b *Block) Confirm(index int, flags byte, payload []byte) bool {
	if b.forged || index < 0 || b.have>>index&1 == 0 {
		return false
	}
	d := b.slot(index)
	if !bytes.Equal(d[ShardHeader:], payload) {
		return false
	}
	if b.kept != nil {
		b.made &^= uint64(^flags&Regenerated) << index // the datagram is not ours to change
		return true
	}
	d[3] &= flags | ^byte(Regenerated)
	return true
}

func (b *Block) matches(index int, payload []byte) bool {
	h := sha256.Sum256(payload)
	return [HashSize]byte(h[:HashSize]) == [HashSize]byte(b.man.Hash(index))
}

// slot is the memory of a shard datagram, whether there or not.
func (b *Block) slot(index int) []byte {
	buf := b.buf
	if b.kept != nil {
		buf = b.kept.buf[b.made>>index&1]
	}
	o := index * b.stride
	return buf[o : o+b.stride : o+b.stride]
}

// Have is the mask of verified shards, bit i for shard i.
func (b *Block) Have() uint64 { return b.have }

// Missing is how many shards more it takes to make the block decodable.
func (b *Block) Missing() int {
	return max(0, b.man.DataShards()-bits.OnesCount64(b.have))
}

// Decodable tells whether the payload can be had, if need be by Reconstruct.
// It is false for good once Reconstruct has returned ErrForged.
func (b *Block) Decodable() bool { return b.man.raw != nil && !b.forged && b.Missing() == 0 }

// Complete tells whether the data shards are there, so that AppendPackets works.
func (b *Block) Complete() bool {
	return b.Decodable() && b.have&b.man.DataMask() == b.man.DataMask()
}

// Forged tells whether a reconstruction has failed the manifest's hashes.
func (b *Block) Forged() bool { return b.forged }

// Reconstruct makes every missing shard; see ReconstructSome.
func (b *Block) Reconstruct() (made uint64, err error) { return b.ReconstructSome(b.man.AllMask()) }

// ReconstructData makes the missing data shards, which is all that playing needs; see ReconstructSome.
func (b *Block) ReconstructData() (made uint64, err error) {
	return b.ReconstructSome(b.man.DataMask())
}

// ReconstructSome makes the missing ones of the wanted shards, and all missing
// data shards if it has anything to make. Every shard made is flagged
// regenerated and checked against the manifest; made is the mask of those that
// are new. Errors are ErrTooFew, and ErrForged where a shard made is not what
// the source signed: then the block is dead, makes nothing and gives nothing out.
func (b *Block) ReconstructSome(want uint64) (made uint64, err error) {
	if b.forged {
		return 0, ErrForged
	}
	if want&b.man.AllMask()&^b.have == 0 {
		return 0, nil
	}
	if !b.Decodable() {
		return 0, ErrTooFew
	}
	if b.kept != nil {
		return b.reconstructKept(want)
	}
	w := fecPool.Get().(*fecWork)
	defer w.free()
	before, l := b.have, b.man.ShardLen
	c := codeOf(b.man.Data, b.man.Rows)
	if lost := b.man.DataMask() &^ before; lost != 0 {
		c.decode(w, b.codeOrder(before), l, b.padded)
		for i := range c.data {
			b.accept(lost, b.indexOf(i), w.shards[i][:l])
		}
	}
	if lost := want & b.man.AllMask() &^ b.man.DataMask() &^ before; lost != 0 && !b.forged {
		for i := range c.data {
			w.shards[i] = b.padded(i)
		}
		c.encode(w, l)
		for i := c.data; i < c.data+c.parity; i++ {
			b.accept(lost, b.indexOf(i), w.shards[i][:l])
		}
	}
	if b.forged {
		b.have = before
		return 0, ErrForged
	}
	return b.have &^ before, nil
}

// padded is the memory of the shard at position i in the code's order, and a little of what follows.
func (b *Block) padded(i int) []byte {
	o := b.indexOf(i)*b.stride + ShardHeader
	return b.buf[o : o+padded(b.man.ShardLen)]
}

// accept takes a shard that was made, if it is in the mask and as signed.
func (b *Block) accept(mask uint64, index int, payload []byte) {
	if b.forged || mask>>index&1 == 0 {
		return
	}
	if !b.matches(index, payload) {
		b.forged = true
		return
	}
	d := b.slot(index)
	putShardHeader(d, b.man.Name, b.man.Tag, index, Regenerated)
	copy(d[ShardHeader:], payload)
	b.have |= 1 << index
}

// indexOf is the shard index of position i in the code's order: data shards in
// payload order, then parity shards.
func (b *Block) indexOf(i int) int { return indexOf(b.man.Data, b.man.Rows, i) }

func indexOf(d, j, i int) int {
	if i < d*j {
		return i/d*Stripes + i%d
	}
	i -= d * j
	p := Stripes - d
	return i/p*Stripes + d + i%p
}

// codeOrder is a shard mask put in the code's order.
func (b *Block) codeOrder(mask uint64) (m uint64) {
	for i := range b.man.Shards() {
		m |= mask >> b.indexOf(i) & 1 << i
	}
	return m
}

// Datagram is shard i, header and all, as it goes to other peers; nil if it is
// absent or the block is forged. It does not change and lives until Reset.
func (b *Block) Datagram(i int) []byte {
	if b.forged || i < 0 || b.have>>i&1 == 0 {
		return nil
	}
	return b.slot(i)
}

// AppendPreamble appends the preamble, which a receiver writes that begins at
// this block. It appends nothing unless the block is Complete.
func (b *Block) AppendPreamble(dst []byte) []byte {
	return b.appendPayload(dst, 0, b.man.Preamble)
}

// AppendPackets appends the payload after the preamble: whole packets of the
// transport stream. It appends nothing unless the block is Complete.
func (b *Block) AppendPackets(dst []byte) []byte {
	return b.appendPayload(dst, b.man.Preamble, b.man.Payload)
}

func (b *Block) appendPayload(dst []byte, from, to int) []byte {
	if from == to || !b.Complete() {
		return dst
	}
	dst = slices.Grow(dst, to-from)
	for l := b.man.ShardLen; from < to; {
		d := b.slot(b.indexOf(from / l))[ShardHeader+from%l:]
		n := min(len(d), to-from)
		dst = append(dst, d[:n]...)
		from += n
	}
	return dst
}

// AppendRecords appends the block as it goes down a pipe (docs/protocol.md
// section 3): the manifest and the shards that are there, data before parity.
func (b *Block) AppendRecords(dst []byte) []byte {
	if b.man.raw == nil || b.forged {
		return dst
	}
	dst = slices.Grow(dst, RecordHeader+len(b.man.raw)+bits.OnesCount64(b.have)*(RecordHeader+b.stride))
	dst = AppendRecord(dst, b.man.raw)
	for i := range b.man.Shards() {
		if d := b.Datagram(b.indexOf(i)); d != nil {
			dst = AppendRecord(dst, d)
		}
	}
	return dst
}
